//! A service stores a group.
//!
//! Owns what is stored and who is told (`protocol.md`, section 4, *Group update*). It depends on no
//! facts.

use crate::protocol::group::GroupUpdate;
use crate::protocol::id::AppId;
use crate::rules::fan_out::FanOut;
use crate::rules::plan::Plan;
use crate::rules::write::Write;

/// The group is stored, and the users whom the service names are told, in steps.
pub(super) fn plan<'a>(app: AppId<'a>, update: &'a GroupUpdate) -> Plan<'a> {
    Plan {
        writes: vec![Write::Group {
            app,
            id: &update.id,
            body: &update.body,
        }],
        fan_out: Some(FanOut::notify(app, update)),
        ..Plan::default()
    }
}
