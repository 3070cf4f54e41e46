//! What messages of all kinds have in common: the stored message and its copies in timelines.
//!
//! Owns what belongs to one copy: a publish, a write and a webhook event. Leaves which timelines
//! get a copy to `direct.rs`, `group_message.rs` and `inject.rs`.

use std::time::Duration;

use crate::protocol::address::{Outgoing, Timeline};
use crate::protocol::envelope::{Body, Envelope, Owned, SendOptions};
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::plan::{Context, Plan};
use crate::rules::policy::Rules;
use crate::rules::webhook_event::{Copied, Event, EventKind};
use crate::rules::write::{Listing, NewMessage, TimelineCopy, Write};

/// The message to forward: the client's fields, and those that the observer owns.
pub(super) fn body(
    outgoing: &Outgoing<'_>,
    envelope: &Envelope<'_>,
    context: &Context<'_>,
) -> Body {
    let now = context.now();
    envelope.write(&Owned {
        message_id: context.id,
        sender: outgoing.sender,
        recipient: outgoing.recipient,
        app: outgoing.app,
        timestamp: envelope
            .timestamp
            .filter(|given| context.rules.believes(*given, now))
            .unwrap_or(now),
    })
}

/// Stores a user's message.
pub(super) fn message<'a>(outgoing: &Outgoing<'a>, message_id: &str, body: Body) -> Write<'a> {
    Write::Message(NewMessage {
        app: outgoing.app,
        id: message_id.to_owned().into(),
        sender: outgoing.sender.as_str().into(),
        recipient: outgoing.recipient.as_str(),
        layout: outgoing.layout.name(),
        body,
    })
}

/// A copy that a plan gives to one timeline.
pub(super) struct PlannedCopy<'a, 'm> {
    pub(super) timeline: Timeline<'a>,
    pub(super) status: Status,
    pub(super) listing: Listing,
    pub(super) message_id: &'m str,
    /// The user or group that the message was written to.
    pub(super) recipient: &'m str,
    pub(super) publish: Publish,
}

/// Publishes a copy, stores it, and tells webhooks.
pub(super) fn add<'a>(plan: &mut Plan<'a>, copy: PlannedCopy<'a, '_>, context: &Context<'_>) {
    let kind = if copy.status == Status::Sent {
        EventKind::MessageSent
    } else {
        EventKind::MessageDelivered
    };
    let event = context.event(kind, || {
        let copied = Copied {
            timeline: copy.timeline,
            message_id: copy.message_id,
            recipient: copy.recipient,
            topic: copy.publish.topic.as_str(),
            payload: &copy.publish.payload,
            one_of_many: false,
        };
        Event::of_copy(kind, copied, context.now())
    });
    plan.events.extend(event);
    plan.publishes.push(copy.publish);
    plan.writes.push(Write::Copy(TimelineCopy {
        timeline: copy.timeline,
        message_id: copy.message_id.to_owned().into(),
        status: copy.status,
        listing: copy.listing,
    }));
}

/// What the sender asks for.
pub(super) fn listing(options: &SendOptions) -> Listing {
    if options.unlisted {
        Listing::Unlisted
    } else {
        Listing::Listed
    }
}

impl Rules {
    /// Whether a client may have meant `timestamp` as the time of a message that arrives at `now`.
    fn believes(&self, timestamp: UnixMillis, now: UnixMillis) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (past, future) = self.believed;
        let (timestamp, now) = (timestamp.as_millis(), now.as_millis());
        timestamp >= now.saturating_sub(millis(past))
            && timestamp <= now.saturating_add(millis(future))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_believed_within_a_week_back_and_five_minutes_ahead() {
        let now = UnixMillis::new(1_800_000_000_000);
        for (millis, believed) in [
            (1_800_000_000_000, true),
            (1_800_000_000_000 - 7 * 86_400_000, true),
            (1_800_000_000_000 - 7 * 86_400_000 - 1, false),
            (1_800_000_300_000, true),
            (1_800_000_300_001, false),
            (0, false),
            (u64::MAX, false),
        ] {
            let given = UnixMillis::new(millis);
            assert_eq!(Rules::default().believes(given, now), believed, "{millis}");
        }
    }
}
