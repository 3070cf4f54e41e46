//! A message from one user to another: the plan of a verbatim and of an enveloped one.
//!
//! Owns who gets a copy (`protocol.md`, section 3, *Direct*) and what a block changes. Leaves
//! messages to groups to [`group_message`](crate::rules::group_message).

use bytes::Bytes;

use crate::protocol::address::{Outgoing, Timeline};
use crate::protocol::envelope::Envelope;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::status::Status;
use crate::protocol::topic::TopicName;
use crate::rules::copies::{self, PlannedCopy};
use crate::rules::facts::FactSource;
use crate::rules::plan::{Context, Plan};

/// What the plan of a direct message depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// Whether the recipient blocks the sender.
    pub(super) sender_is_blocked: bool,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        outgoing: &Outgoing<'_>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (sender, recipient) = (outgoing.sender, outgoing.recipient);
        let sender_is_blocked =
            sender != recipient && source.blocks(outgoing.app, recipient, sender)?;
        Ok(Self { sender_is_blocked })
    }
}

/// The two sides of a direct message that get a copy, each with the other side and the status of
/// its copy: the sender's own timeline, if the layout has one, and the recipient's, unless they
/// block the sender. A message to oneself gives one copy.
fn sides<'a>(
    outgoing: &Outgoing<'a>,
    facts: Facts,
) -> impl Iterator<Item = (Timeline<'a>, Status)> + use<'a> {
    let Outgoing {
        layout,
        app,
        sender,
        recipient,
    } = *outgoing;
    let has_own = layout.sender_copy() && sender != recipient;
    let own = Timeline {
        app,
        inbox_of: sender,
        convers_with: recipient,
    };
    let other = Timeline {
        app,
        inbox_of: recipient,
        convers_with: sender,
    };
    let own = has_own.then_some((own, Status::Sent));
    let other = (!facts.sender_is_blocked).then_some((other, Status::Delivered));
    own.into_iter().chain(other)
}

fn topic(outgoing: &Outgoing<'_>, timeline: &Timeline<'_>) -> TopicName {
    outgoing
        .layout
        .inbox_topic(timeline.app, timeline.inbox_of, timeline.convers_with)
}

/// A plan without anything in it yet. A blocked sender is refused, but gets what every sender gets:
/// they are not to know.
fn begin<'a>(facts: Facts) -> Plan<'a> {
    Plan {
        publishes: Vec::with_capacity(2),
        refusal: facts.sender_is_blocked.then_some(Refusal::Blocked),
        ..Plan::default()
    }
}

/// A message whose payload is not read: the same bytes go to each side, and nothing is stored.
pub(super) fn plan_verbatim(
    outgoing: &Outgoing<'_>,
    payload: &Bytes,
    facts: Facts,
) -> Plan<'static> {
    let mut plan = begin(facts);
    let publishes = sides(outgoing, facts)
        .map(|(timeline, _)| Publish::new(topic(outgoing, &timeline), payload.clone()));
    plan.publishes.extend(publishes);
    plan
}

/// A message whose payload is an object: each side gets it with the observer's fields, and a
/// status.
pub(super) fn plan_message<'a>(
    outgoing: &Outgoing<'a>,
    envelope: &Envelope<'_>,
    facts: Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    if envelope.says_group {
        return Err(Refusal::NotAGroup);
    }
    let body = copies::body(outgoing, envelope, context);
    let message_id = context.id.to_string();
    let mut plan = begin(facts);
    plan.writes.reserve_exact(3);
    for (timeline, status) in sides(outgoing, facts) {
        let copy = PlannedCopy {
            timeline,
            status,
            listing: copies::listing(&envelope.options),
            message_id: &message_id,
            recipient: outgoing.recipient.as_str(),
            publish: Publish::copy(topic(outgoing, &timeline), &body, status),
        };
        copies::add(&mut plan, copy, context);
    }
    let message = copies::message(outgoing, &message_id, body);
    plan.writes.insert(0, message);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::test_support::{NOW, body, plan, plan_with, received, router};
    use serde_json::json;

    #[test]
    fn the_inbox_layout_forwards_the_same_bytes_to_the_recipient_alone() {
        let plan = plan(&received(
            b"/apps/a/users/alice/bob/messages/outgoing",
            b"\xff not json",
        ));
        assert_eq!(plan.refusal, None);
        let [copy] = &plan.publishes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (copy.topic.as_str(), &copy.payload[..]),
            (
                "/apps/a/users/bob/alice/messages/clientadded",
                &b"\xff not json"[..]
            )
        );
    }

    #[test]
    fn a_direct_message_goes_to_both_timelines_as_sent_and_delivered() {
        let plan = plan(&received(
            b"apps/a/outgoing/users/alice/messages/bob/outgoing",
            br#"{"text":"hi","timestamp":1799999999999}"#,
        ));
        let [sent, delivered] = &plan.publishes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (sent.topic.as_str(), delivered.topic.as_str()),
            (
                "apps/a/users/alice/messages/bob/clientadded",
                "apps/a/users/bob/messages/alice/clientadded"
            )
        );
        assert_eq!(
            (&body(sent)["status"], &body(delivered)["status"]),
            (&json!(100), &json!(150))
        );
        for copy in [sent, delivered] {
            let body = body(copy);
            assert_eq!(
                (
                    &body["sender"],
                    &body["recipient"],
                    &body["app_id"],
                    &body["text"],
                    &body["timestamp"]
                ),
                (
                    &json!("alice"),
                    &json!("bob"),
                    &json!("a"),
                    &json!("hi"),
                    &json!(1_799_999_999_999_u64)
                )
            );
        }
        assert_eq!(body(sent)["message_id"], body(delivered)["message_id"]);
    }

    #[test]
    fn a_message_to_oneself_arrives_once_and_a_mad_timestamp_becomes_now() {
        let plan = plan(&received(
            b"apps/a/users/alice/messages/alice/outgoing",
            br#"{"timestamp":1}"#,
        ));
        let [only] = &plan.publishes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (&body(only)["status"], &body(only)["timestamp"]),
            (&json!(150), &json!(NOW.as_millis()))
        );
    }

    #[test]
    fn a_blocked_sender_sees_nothing_of_it() {
        let message = received(b"apps/a/users/alice/messages/bob/outgoing", b"{}");
        let plan = plan_with(
            router(),
            &message,
            InMemory::default().with_block("bob", "alice"),
        );
        let [own] = &plan.publishes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (own.topic.as_str(), &body(own)["status"], plan.refusal),
            (
                "apps/a/users/alice/messages/bob/clientadded",
                &json!(100),
                Some(Refusal::Blocked)
            )
        );
        let [letter] = &plan.answers[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            letter.topic.as_str(),
            "observer/dead",
            "the sender is not told"
        );
        let free = plan_with(router(), &message, InMemory::default());
        let same = |plan: &Plan<'_>| {
            (
                body(&plan.publishes[0])["status"].clone(),
                plan.publishes[0].topic.clone(),
            )
        };
        assert_eq!(same(&plan), same(&free), "what the sender sees");
        assert_eq!(plan.writes.len(), 2, "the message and the own copy");
        let verbatim = received(b"apps/a/users/alice/bob/messages/outgoing", b"{}");
        assert_eq!(
            plan_with(
                router(),
                &verbatim,
                InMemory::default().with_block("bob", "alice")
            )
            .publishes,
            []
        );
    }

    #[test]
    fn a_block_is_looked_up_only_between_two_users() {
        let to_oneself = received(b"apps/a/users/alice/messages/alice/outgoing", b"{}");
        let source = InMemory::default().with_block("alice", "alice");
        assert_eq!(plan_with(router(), &to_oneself, source).refusal, None);
        let the_other_way = received(b"apps/a/users/bob/messages/alice/outgoing", b"{}");
        let source = InMemory::default().with_block("bob", "alice");
        assert_eq!(plan_with(router(), &the_other_way, source).refusal, None);
    }
}
