//! What travels in a bench: names, topics and payloads, and how a copy is recognised.
//!
//! Pure. A message says which one it is in `attributes.tempUID`, which comes back in each copy and
//! in a refusal.

use serde_json::json;

use crate::delivery::audit::{MessageNumber, User};
use crate::protocol::topic::{TopicFilter, TopicName};

/// What every payload begins with. A forwarder that keeps the order of members keeps it there.
const BEGIN: &str = r#"{"attributes":{"tempUID":""#;
const MARK: &[u8] = br#""tempUID":""#;
const MESSAGE_ID: &[u8] = br#""message_id":""#;

/// The names and topics of one measurement. Each has users of its own, so that no limit and no
/// inbox of an earlier one counts.
#[derive(Clone, Debug)]
pub(super) struct Names {
    root: &'static str,
    app: String,
    /// Part of every name.
    run: String,
}

/// A message that has come to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived<'a> {
    /// A copy, with its identifier (empty if it bears none).
    Copy(MessageNumber, User, &'a [u8]),
    /// The sender is told that it is refused.
    Refusal(MessageNumber),
    /// Something else.
    Other,
}

impl Names {
    pub(super) fn new(root: &'static str, app: &str, run: &str) -> Self {
        Self {
            root,
            app: app.to_owned(),
            run: run.to_owned(),
        }
    }

    pub(super) fn user(&self, user: User) -> String {
        format!("bench-{}-{user}", self.run)
    }

    pub(super) fn group(&self) -> String {
        format!("group-bench-{}", self.run)
    }

    /// Where a user writes to `recipient`.
    pub(super) fn outgoing(&self, sender: User, recipient: &str) -> TopicName {
        let (root, app, sender) = (self.root, &self.app, self.user(sender));
        topic(&format!(
            "{root}/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing"
        ))
    }

    /// Everything that users write.
    pub(super) fn all_outgoing(&self) -> TopicFilter {
        let (root, app) = (self.root, &self.app);
        filter(&format!(
            "{root}/{app}/outgoing/users/+/messages/+/outgoing"
        ))
    }

    /// Everything that comes to a user.
    pub(super) fn inbox(&self, user: User) -> TopicFilter {
        let (root, app, user) = (self.root, &self.app, self.user(user));
        filter(&format!("{root}/{app}/users/{user}/#"))
    }

    /// Where a copy goes.
    pub(super) fn copy(&self, inbox_of: &str, convers_with: &str) -> TopicName {
        let (root, app) = (self.root, &self.app);
        topic(&format!(
            "{root}/{app}/users/{inbox_of}/messages/{convers_with}/clientadded"
        ))
    }

    /// Where a group is handed to the observer.
    pub(super) fn group_update(&self) -> TopicName {
        topic(&format!("apps/observer/{}/groups/update", self.app))
    }

    /// The group, with these members.
    pub(super) fn group_payload(&self, members: impl Iterator<Item = User>) -> String {
        let members: serde_json::Map<_, _> = members
            .map(|member| (self.user(member), json!(1)))
            .collect();
        let group = json!({
            "uid": self.group(),
            "name": "bench",
            "owner": self.user(0),
            "members": members,
        });
        json!({"group": group, "notify_to": {}}).to_string()
    }

    /// The payload of a message; `tail` is what [`Names::tail`] has made.
    pub(super) fn payload(&self, number: MessageNumber, tail: &[u8]) -> Vec<u8> {
        let begin = format!("{BEGIN}{}-{:08}", self.run, number.get());
        [begin.as_bytes(), tail].concat()
    }

    /// The part of a payload that is the same in all, so that they have `bytes` bytes.
    pub(super) fn tail(&self, channel: &str, bytes: usize) -> Vec<u8> {
        let tail = format!(r#""}},"channel_type":"{channel}","type":"text","text":""#);
        let taken = BEGIN.len() + self.run.len() + "-00000000".len() + tail.len() + 2;
        let text = "x".repeat(bytes.saturating_sub(taken).max(1));
        format!("{tail}{text}\"}}").into_bytes()
    }

    /// What has come on `topic`.
    pub(super) fn read<'a>(&self, topic: &[u8], payload: &'a [u8]) -> Arrived<'a> {
        self.try_read(topic, payload).unwrap_or(Arrived::Other)
    }

    fn try_read<'a>(&self, topic: &[u8], payload: &'a [u8]) -> Option<Arrived<'a>> {
        let topic = std::str::from_utf8(topic).ok()?;
        let rest = topic.strip_prefix(self.root)?.strip_prefix('/')?;
        let rest = rest
            .strip_prefix(&self.app)?
            .strip_prefix("/users/bench-")?;
        let rest = rest.strip_prefix(&self.run)?.strip_prefix('-')?;
        let (user, rest) = rest.split_once('/')?;
        let user: User = user.parse().ok()?;
        let number = self.mark(payload)?;
        if rest.ends_with("/clientadded") {
            return Some(Arrived::Copy(number, user, message_id(payload)));
        }
        rest.ends_with("/clientrejected")
            .then_some(Arrived::Refusal(number))
    }

    /// The number of the message that a payload is about.
    fn mark(&self, payload: &[u8]) -> Option<MessageNumber> {
        let rest = match payload.strip_prefix(BEGIN.as_bytes()) {
            Some(rest) => rest,
            None => {
                let mut windows = payload.windows(MARK.len());
                let at = windows.position(|window| window == MARK)?;
                &payload[at + MARK.len()..]
            }
        };
        let rest = rest.strip_prefix(self.run.as_bytes())?.strip_prefix(b"-")?;
        let digits = std::str::from_utf8(rest.get(..rest.iter().position(|b| *b == b'"')?)?);
        digits.ok()?.parse().ok().map(MessageNumber::new)
    }
}

/// The identifier in a payload. The observer's own members stand at the end.
fn message_id(payload: &[u8]) -> &[u8] {
    let mut windows = payload.windows(MESSAGE_ID.len());
    let Some(at) = windows.rposition(|window| window == MESSAGE_ID) else {
        return &[];
    };
    let rest = &payload[at + MESSAGE_ID.len()..];
    let end = rest.iter().position(|byte| *byte == b'"');
    &rest[..end.unwrap_or_default()]
}

fn topic(text: &str) -> TopicName {
    TopicName::parse(text).expect("made of identifiers")
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).expect("made of identifiers")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("apps", "bench", "7f3a9c")
    }

    #[test]
    fn a_payload_has_the_size_asked_for_and_is_a_message() {
        let names = names();
        for bytes in [128, 300, 4_096] {
            let tail = names.tail("direct", bytes);
            let payload = names.payload(MessageNumber::new(12), &tail);
            assert_eq!(payload.len(), bytes);
            let body: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(body["attributes"]["tempUID"], "7f3a9c-00000012");
            assert_eq!(body["channel_type"], "direct");
        }
    }

    #[test]
    fn a_copy_is_recognised_wherever_its_mark_stands() {
        let names = names();
        let topic = names.copy(&names.user(7), &names.user(3));
        let topic = topic.as_str().as_bytes();
        let number = MessageNumber::new(12);
        let sent = names.payload(number, &names.tail("direct", 128));
        let stored = String::from_utf8(sent).unwrap();
        let stored = stored.replace("\"}", "\",\"message_id\":\"id-1\",\"status\":150}");
        let moved =
            r#"{"text":"x","attributes":{"tempUID":"7f3a9c-00000012"},"message_id":"id-1"}"#;
        for payload in [stored.as_str(), moved] {
            let arrived = names.read(topic, payload.as_bytes());
            assert_eq!(arrived, Arrived::Copy(number, 7, b"id-1"), "{payload}");
        }
        let rejected = "apps/bench/users/bench-7f3a9c-3/messages/bench-7f3a9c-7/clientrejected";
        let arrived = names.read(rejected.as_bytes(), moved.as_bytes());
        assert_eq!(arrived, Arrived::Refusal(number));
    }

    #[test]
    fn what_belongs_to_others_is_left_alone() {
        let names = names();
        let own = r#"{"attributes":{"tempUID":"7f3a9c-00000012"}}"#;
        let earlier = r#"{"attributes":{"tempUID":"aaaaaa-00000012"}}"#;
        let inbox = "apps/bench/users/bench-7f3a9c-3/messages/x/clientadded";
        for (topic, payload) in [
            ("apps/bench/users/bob/messages/x/clientadded", own),
            (
                "apps/other/users/bench-7f3a9c-3/messages/x/clientadded",
                own,
            ),
            (
                "apps/bench/users/bench-7f3a9c-3/conversations/x/update",
                own,
            ),
            (inbox, earlier),
            (inbox, "{}"),
            (inbox, ""),
        ] {
            let arrived = names.read(topic.as_bytes(), payload.as_bytes());
            assert_eq!(arrived, Arrived::Other, "{topic} {payload}");
        }
    }
}
