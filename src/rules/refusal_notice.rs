//! What is published about a refusal: the notice to the sender, and the dead letter.
//!
//! Owns both payloads (`protocol.md`, section 5). Leaves how often a sender is told to
//! [`rate_limit`](crate::rules::rate_limit).

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;

use crate::protocol::address::Address;
use crate::protocol::client_reference::ClientReference;
use crate::protocol::id::MAX_LEVEL_BYTES;
use crate::protocol::json;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::protocol::topic_map::TopicMap;
use crate::rules::plan;

/// The longest user property of a dead letter, in bytes. MQTT allows 65,535; nobody reads that far.
const MAX_PROPERTY_BYTES: usize = 1_024;

/// The longest refused payload that is read again, to say what is wrong with it. In bytes.
const MAX_READ_AGAIN: usize = 64 << 10;

#[derive(Serialize)]
struct Notice<'a> {
    reason: &'a str,
    recipient: &'a str,
    received_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(flatten)]
    reference: ClientReference,
}

#[derive(Serialize)]
struct DeadLetter<'a> {
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    topic: &'a str,
    received_at: u64,
    payload_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// The refusal with what is wrong with the payload, if that is why.
pub(super) fn with_detail(refused: &Refused, received: &Received) -> Refused {
    let is_about_payload = matches!(refused.reason, Refusal::NotJson | Refusal::NotAnObject);
    let mut refused = refused.clone();
    if refused.detail.is_none() && is_about_payload && is_read_again(received) {
        refused.detail = json::fault(&received.payload).map(String::into_boxed_str);
    }
    refused
}

/// Whether a refused payload is worth reading a second time: it is whole, and short enough that
/// somebody who floods with such payloads gains nothing.
fn is_read_again(received: &Received) -> bool {
    received.payload_bytes <= MAX_READ_AGAIN && received.payload.len() == received.payload_bytes
}

/// Tells the sender. `None` where the sender is a service or has no topic to be told on.
pub(super) fn notice(
    layouts: &TopicMap,
    (address, received): (&Address<'_>, &Received),
    refused: &Refused,
    now: UnixMillis,
) -> Option<Publish> {
    let topic = layouts.rejected_topic(address)?;
    // What a client sends on its other topics is about something that has a name there.
    let reference = match address.outgoing() {
        Some(_) if is_read_again(received) => ClientReference::read(&received.payload),
        Some(_) | None => ClientReference::default(),
    };
    let notice = Notice {
        reason: refused.reason.as_str(),
        recipient: address.other_side(),
        received_at: now.as_millis(),
        retry_after_ms: refused.retry_after.map(millis_rounded_up),
        detail: refused.detail.as_deref(),
        reference,
    };
    Some(publish(topic, &notice))
}

/// Tells a sender whose recipient is no identifier: on a topic that does not name it.
pub(super) fn of_bad_recipient(
    layouts: &TopicMap,
    received: &Received,
    refused: &Refused,
    now: UnixMillis,
) -> Option<Publish> {
    let bad = layouts.bad_recipient(str::from_utf8(&received.topic).ok()?)?;
    let reference = match is_read_again(received) {
        true => ClientReference::read(&received.payload),
        false => ClientReference::default(),
    };
    let shown = bad.recipient.floor_char_boundary(MAX_LEVEL_BYTES);
    let is_about_the_recipient = refused.reason != Refusal::RateLimited;
    let detail = is_about_the_recipient.then(|| format!("the recipient {}", bad.error));
    let notice = Notice {
        reason: refused.reason.as_str(),
        recipient: &bad.recipient[..shown],
        received_at: now.as_millis(),
        retry_after_ms: refused.retry_after.map(millis_rounded_up),
        detail: detail.as_deref(),
        reference,
    };
    Some(publish(bad.told_on, &notice))
}

fn publish(topic: TopicName, notice: &Notice<'_>) -> Publish {
    Publish {
        topic,
        payload: plan::json(notice),
        user_properties: vec![("reason".to_owned(), notice.reason.to_owned())],
        retain: false,
        copy_status: None,
    }
}

/// A sender who tries again after this time must not be too early.
fn millis_rounded_up(wait: Duration) -> u64 {
    let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
    millis.saturating_add(1)
}

/// Keeps the refused message for the operator. A payload over the limit is left out: the dead
/// letter must not break the limits of the broker.
pub(super) fn dead_letter(
    topic: &TopicName,
    received: &Received,
    refused: &Refused,
    now: UnixMillis,
) -> Publish {
    let reason = refused.reason.as_str();
    let text = str::from_utf8(&received.payload);
    let is_whole = received.payload.len() == received.payload_bytes;
    let received_on = String::from_utf8_lossy(&received.topic);
    let letter = DeadLetter {
        reason,
        detail: refused.detail.as_deref(),
        topic: &received_on,
        received_at: now.as_millis(),
        payload_bytes: received.payload_bytes,
        payload: text.ok().filter(|_| is_whole),
        payload_base64: (is_whole && text.is_err())
            .then(|| BASE64_STANDARD.encode(&received.payload)),
    };
    Publish {
        topic: topic.clone(),
        payload: plan::json(&letter),
        user_properties: vec![
            ("reason".to_owned(), reason.to_owned()),
            ("topic".to_owned(), as_property(&received_on)),
        ],
        retain: false,
        copy_status: None,
    }
}

/// A text that may stand in a user property. MQTT has no control characters in its strings (MQTT 5,
/// 1.5.4): a broker closes the connection over one.
fn as_property(text: &str) -> String {
    let mut property: String = text
        .chars()
        .take(MAX_PROPERTY_BYTES)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    property.truncate(property.floor_char_boundary(MAX_PROPERTY_BYTES));
    property
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{NOW, body, plan, received, router};
    use serde_json::json;

    #[test]
    fn a_dead_letter_holds_text_as_text_bytes_as_base64_and_nothing_over_the_limit() {
        let letter =
            |payload: &[u8]| body(plan(&received(b"\xff/x", payload)).answers.last().unwrap());
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
        let (key, value) = &plan.answers[1].user_properties[1];
        assert!(key == "topic" && value.len() <= MAX_PROPERTY_BYTES && !value.contains('\u{1}'));
    }

    #[test]
    fn a_sender_is_told_on_their_own_inbox_topic() {
        let plan = plan(&received(
            b"/apps/a/users/alice/bob/messages/outgoing",
            &[b'x'; 101],
        ));
        assert_eq!(
            plan.answers[0].topic.as_str(),
            "/apps/a/users/alice/bob/messages/clientrejected"
        );
        assert_eq!(
            body(&plan.answers[0]),
            json!({"reason": "too-large", "recipient": "bob", "received_at": NOW.as_millis()})
        );
        let refused = Refused {
            retry_after: Some(Duration::from_micros(1_500_500)),
            detail: Some("too quick".into()),
            ..Refusal::RateLimited.into()
        };
        let payload = br#"{"message_id":"m1","attributes":{"tempUID":"t1"}}"#;
        let message = received(b"apps/a/users/alice/messages/bob/outgoing", payload);
        let notice = &router().refuse(&message, &refused, NOW).answers[0];
        assert_eq!(
            body(notice),
            json!({
                "reason": "rate-limited", "recipient": "bob", "received_at": NOW.as_millis(),
                "retry_after_ms": 1_501, "detail": "too quick",
                "message_id": "m1", "attributes": {"tempUID": "t1"}
            })
        );
        assert_eq!(
            notice.user_properties,
            [("reason".to_owned(), "rate-limited".to_owned())]
        );
    }

    #[test]
    fn a_sender_is_told_of_a_recipient_that_can_stand_in_no_topic() {
        let long = "é".repeat(150);
        for (recipient, reason, shown, detail) in [
            (
                "groups",
                "reserved-identifier",
                "groups",
                "is a reserved word",
            ),
            (
                "+",
                "malformed-topic",
                "+",
                "holds '+', which no identifier may hold",
            ),
            ("", "malformed-topic", "", "is empty"),
            (
                &*long,
                "malformed-topic",
                &long[..254],
                "is longer than 255 bytes",
            ),
        ] {
            for (before, after, told_on) in [
                (
                    "apps/a/outgoing/users/alice/messages/",
                    "/outgoing",
                    "apps/a/users/alice/clientrejected",
                ),
                (
                    "/apps/a/users/alice/",
                    "/messages/outgoing",
                    "/apps/a/users/alice/clientrejected",
                ),
            ] {
                let topic = format!("{before}{recipient}{after}");
                let payload = br#"{"attributes":{"tempUID":"t1"}}"#;
                let plan = plan(&received(topic.as_bytes(), payload));
                assert_eq!(plan.answers[0].topic.as_str(), told_on, "{topic}");
                assert_eq!(
                    body(&plan.answers[0]),
                    json!({
                        "reason": reason, "recipient": shown, "received_at": NOW.as_millis(),
                        "detail": format!("the recipient {detail}"),
                        "attributes": {"tempUID": "t1"},
                    })
                );
            }
        }
        // Whose inbox it would be is not known.
        let plan = plan(&received(
            b"apps/a/outgoing/users/+/messages/bob/outgoing",
            b"{}",
        ));
        assert_eq!(plan.answers.len(), 1, "the dead letter");
    }

    #[test]
    fn a_payload_that_is_no_json_is_told_where_and_for_which_message() {
        let topic = b"apps/a/users/alice/messages/bob/outgoing";
        let text = br#"{"attributes":{"tempUID":"t1"},"text":"hi" "a":1}"#;
        let plan = plan(&received(topic, text));
        assert_eq!(
            body(&plan.answers[0]),
            json!({
                "reason": "not-json", "recipient": "bob", "received_at": NOW.as_millis(),
                "detail": "line 1, column 44: expected , or }", "attributes": {"tempUID": "t1"}
            })
        );
        assert_eq!(
            body(&plan.answers[1])["detail"],
            json!("line 1, column 44: expected , or }")
        );
    }
}
