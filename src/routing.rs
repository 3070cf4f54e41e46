//! One message in, one plan out: what is to be published where, or for which reason nothing is.
//!
//! A pure function of the topic, the payload, the id given and the time. How the plan is carried out, and when the message is
//! acknowledged, is `forward.rs`'s business.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::id::{MessageId, UserId};
use crate::layout::{Inbound, Layouts};
use crate::message::{Envelope, Owned, Received, Status};
use crate::policy::{Accepted, Policy, Refusal};
use crate::time::UnixMillis;
use crate::topic::TopicName;

/// The longest user property of a dead letter, in bytes. MQTT has two bytes for its length; nobody reads that far.
const MAX_PROPERTY_BYTES: usize = 1_024;

/// One message to publish, at QoS 1, not retained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// MQTT 5 user properties; MQTT 3.1.1 has no place for them.
    pub user_properties: Vec<(String, String)>,
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is published; the message is acknowledged when all of it is confirmed.
    pub publishes: Vec<Publish>,
    /// The reason, if it is refused.
    pub refusal: Option<Refusal>,
}

/// What the observer knows that every plan needs.
#[derive(Clone, Debug)]
pub struct Router {
    /// Where messages come in and go.
    pub layouts: Layouts,
    /// The checks.
    pub policy: Policy,
    /// Where refused messages are kept, if anywhere.
    pub dead_letter_topic: Option<TopicName>,
}

#[derive(Serialize)]
struct Notice<'a> {
    reason: &'a str,
    recipient: &'a str,
    received_at: u64,
}

#[derive(Serialize)]
struct DeadLetter<'a> {
    reason: &'a str,
    topic: &'a str,
    received_at: u64,
    payload_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Router {
    /// What becomes of `received`, if it is given `id` at `now`.
    pub fn plan(&self, received: &Received, id: MessageId, now: UnixMillis) -> Plan {
        match self.forward(received, id, now) {
            Ok(publishes) => Plan {
                publishes,
                refusal: None,
            },
            Err(refusal) => self.refuse(received, refusal, now),
        }
    }

    fn forward(
        &self,
        received: &Received,
        id: MessageId,
        now: UnixMillis,
    ) -> Result<Vec<Publish>, Refusal> {
        let topic = std::str::from_utf8(&received.topic).map_err(|_| Refusal::MalformedTopic)?;
        let inbound = self
            .layouts
            .parse(topic)
            .map_err(|error| Refusal::from(&error))?;
        let publishes = match self.policy.check(&inbound, received)? {
            Accepted::Verbatim => verbatim(&inbound, &received.payload),
            Accepted::Envelope(envelope) => direct(&inbound, &envelope, id, now),
        };
        let carried = publishes.iter().all(|publish| {
            self.policy
                .broker_kind
                .carries(publish.topic.as_str())
                .is_ok()
        });
        if carried {
            Ok(publishes)
        } else {
            Err(Refusal::Unroutable)
        }
    }

    /// What becomes of a message that is refused: its sender is told, where that is possible, and a dead letter kept, where
    /// that is wanted (`protocol.md`, section 5).
    pub fn refuse(&self, received: &Received, refusal: Refusal, now: UnixMillis) -> Plan {
        let notice = self.notice(received, refusal, now);
        let letter = self
            .dead_letter_topic
            .as_ref()
            .map(|topic| self.dead_letter(topic, received, refusal, now));
        Plan {
            publishes: notice.into_iter().chain(letter).collect(),
            refusal: Some(refusal),
        }
    }

    fn notice(&self, received: &Received, refusal: Refusal, now: UnixMillis) -> Option<Publish> {
        let topic = std::str::from_utf8(&received.topic).ok()?;
        // A topic whose identifiers are not sound names nobody who could be told.
        let inbound = self.layouts.parse(topic).ok()?;
        let notice = Notice {
            reason: refusal.as_str(),
            recipient: inbound.recipient.as_str(),
            received_at: now.as_millis(),
        };
        Some(Publish {
            topic: inbound
                .layout
                .rejected_topic(inbound.app, inbound.sender, inbound.recipient),
            payload: json(&notice),
            user_properties: vec![],
        })
    }

    /// A payload over the limit is not repeated: a dead letter must not be what breaks the broker's limits.
    fn dead_letter(
        &self,
        to: &TopicName,
        received: &Received,
        refusal: Refusal,
        now: UnixMillis,
    ) -> Publish {
        let text = std::str::from_utf8(&received.payload);
        let kept = received.payload_bytes <= self.policy.max_payload_bytes;
        let topic = String::from_utf8_lossy(&received.topic);
        let letter = DeadLetter {
            reason: refusal.as_str(),
            topic: &topic,
            received_at: now.as_millis(),
            payload_bytes: received.payload_bytes,
            payload: text.ok().filter(|_| kept),
            payload_base64: (kept && text.is_err())
                .then(|| BASE64_STANDARD.encode(&received.payload)),
        };
        // MQTT has no control characters in its strings (MQTT 5, 1.5.4): a user property that held one would cost the connection.
        let mut readable: String = topic
            .chars()
            .take(MAX_PROPERTY_BYTES)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        readable.truncate(readable.floor_char_boundary(MAX_PROPERTY_BYTES));
        Publish {
            topic: to.clone(),
            payload: json(&letter),
            user_properties: vec![
                ("reason".to_owned(), refusal.as_str().to_owned()),
                ("topic".to_owned(), readable),
            ],
        }
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("plain fields serialise")
        .into()
}

/// The seed's layout: the same bytes into the recipient's inbox, and into the sender's own if the layout has him have a copy.
fn verbatim(inbound: &Inbound<'_>, payload: &Bytes) -> Vec<Publish> {
    let copy = |inbox_of, convers_with| publish(inbound, inbox_of, convers_with, payload.clone());
    let mut copies = Vec::with_capacity(2);
    if inbound.layout.sender_copy() && inbound.sender != inbound.recipient {
        copies.push(copy(inbound.sender, inbound.recipient));
    }
    copies.push(copy(inbound.recipient, inbound.sender));
    copies
}

/// A direct message: the sender's own timeline as sent, the recipient's as delivered; to oneself once.
fn direct(
    inbound: &Inbound<'_>,
    envelope: &Envelope<'_>,
    message_id: MessageId,
    now: UnixMillis,
) -> Vec<Publish> {
    let Inbound {
        layout,
        app,
        sender,
        recipient,
    } = *inbound;
    let timestamp = envelope
        .timestamp
        .filter(|given| given.is_sane_at(now))
        .unwrap_or(now);
    let owned = Owned {
        message_id,
        sender,
        recipient,
        app,
        timestamp,
    };
    let copy = |inbox_of, convers_with, status| {
        publish(
            inbound,
            inbox_of,
            convers_with,
            envelope.write(&owned, status).into(),
        )
    };
    let mut copies = Vec::with_capacity(2);
    if layout.sender_copy() && sender != recipient {
        copies.push(copy(sender, recipient, Status::Sent));
    }
    copies.push(copy(recipient, sender, Status::Delivered));
    copies
}

fn publish(
    inbound: &Inbound<'_>,
    inbox_of: UserId<'_>,
    convers_with: UserId<'_>,
    payload: Bytes,
) -> Publish {
    Publish {
        topic: inbound
            .layout
            .inbox_topic(inbound.app, inbox_of, convers_with),
        payload,
        user_properties: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::MessageIds;
    use crate::layout::Layout;
    use crate::topic::BrokerKind;
    use serde_json::{Value, json};
    use std::hash::RandomState;

    const NOW: UnixMillis = UnixMillis::new(1_800_000_000_000);

    fn router() -> Router {
        let layouts = Layout::BUILT_IN
            .iter()
            .flat_map(|name| Layout::built_in(name).unwrap())
            .collect();
        let dead = TopicName::parse("observer/dead").unwrap();
        Router {
            layouts: Layouts::new(layouts, vec![], std::slice::from_ref(&dead)).unwrap(),
            policy: Policy {
                max_payload_bytes: 100,
                broker_kind: BrokerKind::Any,
            },
            dead_letter_topic: Some(dead),
        }
    }

    fn received(topic: &[u8], payload: &[u8]) -> Received {
        let mut received = Received::new(
            Bytes::copy_from_slice(topic),
            Bytes::copy_from_slice(payload),
            false,
        );
        received.cut_to(100);
        received
    }

    fn plan(received: &Received) -> Plan {
        router().plan(received, MessageIds::new(RandomState::new()).next(NOW), NOW)
    }

    fn body(publish: &Publish) -> Value {
        serde_json::from_slice(&publish.payload).unwrap()
    }

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
    fn every_reason_has_a_message_that_causes_it() {
        let good = &b"apps/a/outgoing/users/alice/messages/bob/outgoing"[..];
        let retained = Received {
            retain: true,
            ..received(good, b"{}")
        };
        let on_rabbitmq = Router {
            policy: Policy {
                broker_kind: BrokerKind::RabbitMq,
                ..router().policy
            },
            ..router()
        };
        let dotted = received(
            b"apps/a/outgoing/users/john.doe/messages/bob/outgoing",
            b"{}",
        );
        let long = received(
            format!(
                "apps/a/outgoing/users/alice/messages/{}/outgoing",
                "x".repeat(240)
            )
            .as_bytes(),
            b"{}",
        );
        let id = MessageIds::new(RandomState::new()).next(NOW);
        let cases = [
            (
                plan(&received(
                    b"apps/a/outgoing/users/al+ice/messages/bob/outgoing",
                    b"{}",
                )),
                Refusal::MalformedTopic,
                false,
            ),
            (
                plan(&received(
                    b"apps/a/outgoing/users/\xff/messages/bob/outgoing",
                    b"{}",
                )),
                Refusal::MalformedTopic,
                false,
            ),
            (
                plan(&received(
                    b"apps/a/outgoing/users/groups/messages/bob/outgoing",
                    b"{}",
                )),
                Refusal::ReservedIdentifier,
                false,
            ),
            (plan(&retained), Refusal::Retained, true),
            (plan(&received(good, &[b' '; 101])), Refusal::TooLarge, true),
            (plan(&received(good, b"hello")), Refusal::NotJson, true),
            (plan(&received(good, b"[]")), Refusal::NotAnObject, true),
            (
                plan(&received(good, br#"{"channel_type":"group"}"#)),
                Refusal::NotAGroup,
                true,
            ),
            (
                plan(&received(
                    b"apps/a/outgoing/users/alice/messages/group-1/outgoing",
                    b"{}",
                )),
                Refusal::NotAGroup,
                true,
            ),
            (
                plan(&received(
                    b"apps/a/outgoing/users/alice/messages/john/doe/outgoing",
                    b"{}",
                )),
                Refusal::Unroutable,
                false,
            ),
            (
                on_rabbitmq.plan(&dotted, id, NOW),
                Refusal::Unroutable,
                true,
            ),
            (on_rabbitmq.plan(&long, id, NOW), Refusal::Unroutable, true),
            (
                router().refuse(&received(good, b"{}"), Refusal::Unauthorized, NOW),
                Refusal::Unauthorized,
                true,
            ),
        ];
        for (plan, want, told) in &cases {
            assert_eq!(plan.refusal, Some(*want));
            let (letter, notices) = plan.publishes.split_last().unwrap();
            assert_eq!(letter.topic.as_str(), "observer/dead");
            assert_eq!(body(letter)["reason"], json!(want.as_str()));
            assert_eq!(
                letter.user_properties[0],
                ("reason".into(), want.as_str().into())
            );
            assert_eq!(notices.len(), usize::from(*told), "{want}");
            for notice in notices {
                assert!(notice.topic.as_str().ends_with("/clientrejected"));
                assert_eq!(
                    (&body(notice)["reason"], &body(notice)["received_at"]),
                    (&json!(want.as_str()), &json!(NOW.as_millis()))
                );
            }
        }
        for reason in Refusal::ALL {
            assert!(
                cases.iter().any(|(_, caused, _)| *caused == reason),
                "nothing causes {reason}"
            );
        }
    }

    #[test]
    fn a_dead_letter_holds_text_as_text_bytes_as_base64_and_nothing_over_the_limit() {
        let letter = |payload: &[u8]| {
            body(
                plan(&received(b"\xff/x", payload))
                    .publishes
                    .last()
                    .unwrap(),
            )
        };
        assert_eq!(
            (&letter(b"hi")["payload"], &letter(b"hi")["topic"]),
            (&json!("hi"), &json!("\u{fffd}/x"))
        );
        assert_eq!(letter(b"\xff\xfe")["payload_base64"], json!("//4="));
        let large = letter(&[b'x'; 101]);
        assert_eq!(
            (
                large.get("payload"),
                large.get("payload_base64"),
                &large["payload_bytes"]
            ),
            (None, None, &json!(101))
        );
    }

    #[test]
    fn a_hostile_topic_makes_no_property_that_mqtt_cannot_encode() {
        let topic = [
            b"apps/a/outgoing/users/alice/messages/".as_slice(),
            &[1; 60_000],
            b"/outgoing",
        ]
        .concat();
        let plan = plan(&received(&topic, b"{}"));
        let (key, value) = &plan.publishes[0].user_properties[1];
        assert!(key == "topic" && value.len() <= MAX_PROPERTY_BYTES && !value.contains('\u{1}'));
    }

    #[test]
    fn a_sender_is_told_on_his_own_inbox_topic() {
        let plan = plan(&received(
            b"/apps/a/users/alice/bob/messages/outgoing",
            &[b'x'; 101],
        ));
        assert_eq!(
            plan.publishes[0].topic.as_str(),
            "/apps/a/users/alice/bob/messages/clientrejected"
        );
        assert_eq!(
            body(&plan.publishes[0]),
            json!({"reason": "too-large", "recipient": "bob", "received_at": NOW.as_millis()})
        );
    }
}
