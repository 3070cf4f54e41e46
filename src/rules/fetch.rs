//! A user asks for stored messages.
//!
//! Owns which part of the log a fetch covers (`protocol.md`, section 4, *Inbox fetch*). Leaves
//! publishing the messages to [`history`](crate::rules::history).

use crate::protocol::control::Fetch;
use crate::protocol::id::{AppId, UserId};
use crate::rules::facts::FactSource;
use crate::rules::fan_out::FanOut;
use crate::rules::history::Range;
use crate::rules::plan::Plan;

/// What the plan of a fetch depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The part of the log: from the time asked for to the last message there is now. What comes later
    /// is delivered as it comes.
    pub(super) range: Range,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        fetch: &Fetch,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let range = Range {
            after: source.position_at(fetch.since)?,
            last: source.last_position()?,
        };
        Ok(Self { range })
    }
}

/// The messages are published again, in steps.
pub(super) fn plan(app: AppId<'_>, user: UserId<'_>, fetch: &Fetch, facts: Facts) -> Plan<'static> {
    Plan {
        fan_out: Some(FanOut::fetch(app, user, facts.range, fetch)),
        ..Plan::default()
    }
}
