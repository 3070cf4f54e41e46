//! A service stores a group.
//!
//! Owns what is stored and who is told (`protocol.md`, section 4, *Group update*). It depends on no
//! facts.

use std::borrow::Cow;

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
            body: Cow::Borrowed(&update.body),
        }],
        fan_out: Some(FanOut::notify(app, update)),
        ..Plan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{for_many, plan, received};
    use serde_json::json;

    #[test]
    fn a_group_update_is_stored_and_told_to_those_named() {
        let payload = br#"{"group":{"uid":"g","members":{"a":1}},"notify_to":{"b":1,"c":1}}"#;
        let plan = plan(&received(b"apps/observer/a/groups/update", payload));
        let told = for_many(&plan);
        let topics: Vec<_> = told.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            topics,
            [
                "apps/a/users/b/groups/g/clientupdated",
                "apps/a/users/c/groups/g/clientupdated"
            ]
        );
        assert_eq!(told[0].1, json!({"uid": "g", "members": {"a": 1}}));
        assert!(matches!(plan.writes[..], [Write::Group { id: "g", .. }]));
    }
}
