//! What becomes of a request: everything that is to be published and written down.
//!
//! Owns the form of a plan and of what every plan may look at. Each kind of request makes its plan
//! in its own file. Leaves carrying a plan out, and when to acknowledge, to `observer` and
//! `delivery`.

use bytes::Bytes;
use serde::Serialize;

use crate::protocol::address::Timeline;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Notification;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic_map::TopicMap;
use crate::rules::fan_out::FanOut;
use crate::rules::group_change::GroupOutcome;
use crate::rules::policy::Rules;
use crate::rules::submission::Authority;
use crate::rules::webhook_event::{Event, EventKind, EventKinds};
use crate::rules::write::Write;

/// What becomes of a request.
#[derive(Clone, Debug, Default)]
pub struct Plan<'a> {
    /// What is published. With a store, the request is acknowledged once all of it is in the
    /// delivery log; without one, once all of it is confirmed.
    pub publishes: Vec<Publish>,
    /// What is published about a refusal, to the sender and as a dead letter, unless there have
    /// been too many lately.
    pub answers: Vec<Publish>,
    /// What is written down before anything is published.
    pub writes: Vec<Write<'a>>,
    /// What goes to many, in steps.
    pub fan_out: Option<FanOut>,
    /// What webhooks are told.
    pub events: Vec<Event>,
    /// Why the request is refused, if it is. A sender who is blocked is refused, and yet gets their
    /// own copy.
    pub refusal: Option<Refusal>,
    /// What is wrong, in words for the sender.
    pub detail: Option<Box<str>>,
    /// What became of a change of a group.
    pub group: Option<GroupOutcome>,
}

/// What a publish is for. It decides which queue takes it, and what follows if the broker refuses
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A copy of a message, or a notification that the message causes.
    Copy,
    /// The same for many recipients: it goes through the bulk queue.
    BulkCopy,
    /// A refusal notice, a dead letter, or something the observer says of itself. If the broker
    /// refuses it, there is nobody left to tell.
    Notice,
}

/// The arrival of the request that a plan is made for.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The message that brought the request.
    pub received: &'a Received,
    /// The id it was given.
    pub id: MessageId,
    /// The time of the request: [`request_time`].
    pub time: UnixMillis,
    /// On whose word it is done.
    pub authority: Authority,
}

/// How far ahead of the clock the time of an id may be, in milliseconds, before it does not count:
/// ids rise by a millisecond after 4,096 of them, so a burst gets ahead, too.
const ID_AHEAD_MILLIS: u64 = 60_000;

/// The time of a request: that of its id, so that it comes out the same where it is planned again
/// after a crash. But ids never fall: where the clock was ahead once and is right again, `now`
/// counts.
pub fn request_time(id: MessageId, now: UnixMillis) -> UnixMillis {
    let of_id = id.time();
    match of_id.as_millis() > now.as_millis().saturating_add(ID_AHEAD_MILLIS) {
        true => now,
        false => of_id,
    }
}

/// What every plan may look at, besides its request and its facts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'c> {
    pub(super) layouts: &'c TopicMap,
    /// The rules of the request's app.
    pub(super) rules: &'c Rules,
    pub(super) broker_kind: BrokerKind,
    /// The kinds of event that any webhook wants.
    pub(super) events: EventKinds,
    pub(super) id: MessageId,
    pub(super) time: UnixMillis,
    pub(super) authority: Authority,
}

impl Context<'_> {
    /// The time of the request.
    pub(super) fn now(&self) -> UnixMillis {
        self.time
    }

    /// Tells a user's clients about something that concerns one of their timelines.
    pub(super) fn notify(
        &self,
        what: Notification,
        timeline: &Timeline<'_>,
        payload: Bytes,
    ) -> Publish {
        Publish::new(self.layouts.notification_topic(what, timeline, ""), payload)
    }

    /// The event that `make` makes, if a webhook wants that kind.
    pub(super) fn event(&self, kind: EventKind, make: impl FnOnce() -> Event) -> Option<Event> {
        self.events.contains(kind).then(make)
    }
}

/// A JSON payload of the observer's own.
pub(super) fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("plain fields serialise")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::id_at;

    #[test]
    fn a_request_has_the_time_of_its_id_unless_that_is_far_ahead_of_the_clock() {
        let at = |millis: u64| UnixMillis::new(1_800_000_000_000 + millis);
        for (id, now, wanted) in [(5, 9, 5), (9, 5, 9), (60_000, 0, 60_000), (60_001, 0, 0)] {
            assert_eq!(
                request_time(id_at(at(id)), at(now)),
                at(wanted),
                "{id} {now}"
            );
        }
    }
}
