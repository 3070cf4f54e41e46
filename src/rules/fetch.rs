//! A user asks for stored messages.
//!
//! Owns which part of the log a fetch covers (`protocol.md`, section 4, *Inbox fetch*). Leaves
//! publishing the messages to [`history`](crate::rules::history).

use std::time::Duration;

use crate::protocol::control_payload::Fetch;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::facts::FactSource;
use crate::rules::fan_out::FanOut;
use crate::rules::history::{Range, settled};
use crate::rules::plan::{Context, Plan};

/// What the plan of a fetch depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The part of the log: from the time asked for to the last message there is now. What comes
    /// later is delivered as it comes.
    pub(super) range: Range,
    /// When that last message was stored.
    pub(super) newest: UnixMillis,
    /// [`FactSource::unsettled`].
    pub(super) unsettled: Duration,
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
        let newest = source.newest_time()?;
        Ok(Self {
            range,
            newest,
            unsettled: source.unsettled(),
        })
    }
}

/// The messages are published again, in steps.
pub(super) fn plan(
    app: AppId<'_>,
    user: UserId<'_>,
    fetch: &Fetch,
    facts: Facts,
    context: &Context<'_>,
) -> Plan<'static> {
    let settled = settled(facts.newest, context.now(), facts.unsettled);
    Plan {
        fan_out: Some(FanOut::fetch(app, user, facts.range, settled, fetch)),
        ..Plan::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::fan_out::Query;
    use crate::rules::test_support::{plan_with, received, router};

    #[test]
    fn a_fetch_covers_the_log_from_the_time_asked_for_to_its_end() {
        let log: Vec<_> = [10, 20, 20, 30].map(UnixMillis::new).into();
        for (since, wanted) in [(0, (0, 4)), (20, (3, 4)), (30, (4, 4))] {
            let payload = format!(r#"{{"since":{since},"limit":7,"convers_with":"alice"}}"#);
            let received = received(b"apps/a/users/bob/inbox/fetch", payload.as_bytes());
            let source = InMemory {
                log: log.clone(),
                ..InMemory::default()
            };
            let plan = plan_with(router(), &received, source);
            let query = plan.fan_out.as_ref().unwrap().query();
            let Some(Query::Messages(_, user, query)) = query else {
                panic!("{query:?}")
            };
            assert_eq!((query.after, query.last), wanted, "{since}");
            assert_eq!(
                (user.as_str(), query.convers_with.as_deref(), query.limit),
                ("bob", Some("alice"), 7)
            );
        }
    }
}
