//! What webhooks are told of: events and their bodies (`protocol.md`, section 6). Who is told, and when, is `webhook.rs`'s business.

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Serialize;

use crate::protocol::id::AppId;
use crate::protocol::layout::Timeline;
use crate::protocol::time::UnixMillis;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A message stands in its sender's timeline, or in its group's own.
    MessageSent,
    /// A message stands in a recipient's timeline.
    MessageDelivered,
    /// A recipient's client has a message.
    MessageReceived,
    /// The sender of a message is told how far it got.
    MessageReturnReceipt,
    /// A conversation has been archived.
    ConversationArchived,
    /// A user's first client has come, or his last has gone.
    PresenceChange,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::MessageSent,
        Self::MessageDelivered,
        Self::MessageReceived,
        Self::MessageReturnReceipt,
        Self::ConversationArchived,
        Self::PresenceChange,
    ];

    /// As it stands in `event_type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MessageSent => "message-sent",
            Self::MessageDelivered => "message-delivered",
            Self::MessageReceived => "message-received",
            Self::MessageReturnReceipt => "message-return-receipt",
            Self::ConversationArchived => "conversation-archived",
            Self::PresenceChange => "presence-change",
        }
    }
}

/// Some of the kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u8);

impl EventKinds {
    /// Whether `kind` is one of them.
    pub fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

impl FromIterator<EventKind> for EventKinds {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |all, kind| all | 1 << kind as u8))
    }
}

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The same for the same event, however often it is told: in the form of a UUID.
    pub id: String,
    /// The timeline whose copy it is about, if it is about a copy: it has happened if that copy is new.
    pub copy_of: Option<Box<str>>,
    /// What is posted, a JSON object, but for its member `data`: the copies of a message to a group differ in this alone.
    pub head: String,
    /// That member: JSON.
    pub data: Bytes,
    /// What others with the same data know it by, if there are any.
    pub shared: Option<String>,
}

/// What is posted: `head` with the member `data`.
pub fn body(head: &str, data: &str) -> Bytes {
    let head = head.strip_suffix('}').unwrap_or(head);
    let comma = if head == "{" { "" } else { "," };
    [head, comma, "\"data\":", data, "}"].concat().into()
}

#[derive(Serialize)]
struct Extras<'a> {
    topic: &'a str,
}

#[derive(Serialize)]
struct AboutMessage<'a> {
    event_type: &'static str,
    #[serde(rename = "createdAt")]
    created_at: u64,
    recipient_id: &'a str,
    app_id: &'a str,
    message_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    extras: Option<Extras<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_to: Option<&'a str>,
}

#[derive(Serialize)]
struct AboutConversation<'a> {
    event_type: &'static str,
    #[serde(rename = "createdAt")]
    created_at: u64,
    app_id: &'a str,
    user_id: &'a str,
    recipient_id: &'a str,
    convers_with: &'a str,
    extras: Extras<'a>,
}

#[derive(Serialize)]
struct AboutUser<'a> {
    event_type: &'static str,
    presence: &'static str,
    #[serde(rename = "createdAt")]
    created_at: u64,
    app_id: &'a str,
    user_id: &'a str,
}

/// A message's copy, as an event has it.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a> {
    /// Which timeline it is in.
    pub timeline: Timeline<'a>,
    /// The message's id.
    pub message_id: &'a str,
    /// Whom the message was written to, a user or a group.
    pub recipient: &'a str,
    /// Where the copy was published.
    pub topic: &'a str,
    /// The copy itself: a JSON object.
    pub payload: &'a Bytes,
    /// Whether it is one of many that are alike.
    pub one_of_many: bool,
}

impl Event {
    /// `basis` stands for what brought it about: the id of a message.
    fn new(
        kind: EventKind,
        app: AppId<'_>,
        who: &str,
        basis: &str,
        head: &impl Serialize,
        data: Bytes,
    ) -> Self {
        let mut digest = digest::Context::new(&digest::SHA256);
        for part in [kind.as_str(), app.as_str(), who, basis] {
            digest.update(part.as_bytes());
            // No identifier holds it.
            digest.update(b"\0");
        }
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finish().as_ref()[..16]);
        Self {
            kind,
            id: uuid::Builder::from_custom_bytes(id).into_uuid().to_string(),
            copy_of: None,
            head: serde_json::to_string(head).expect("plain fields serialise"),
            data,
            shared: None,
        }
    }

    /// A copy of a message stands in a timeline: [`EventKind::MessageSent`] or [`EventKind::MessageDelivered`].
    pub fn of_copy(kind: EventKind, copied: Copied<'_>, now: UnixMillis) -> Self {
        let Timeline { app, inbox_of, .. } = copied.timeline;
        let head = AboutMessage {
            event_type: kind.as_str(),
            created_at: now.as_millis(),
            recipient_id: copied.recipient,
            app_id: app.as_str(),
            message_id: copied.message_id,
            extras: Some(Extras {
                topic: &dotted(copied.topic),
            }),
            delivered_to: Some(inbox_of.as_str()),
        };
        let (who, basis) = (inbox_of.as_str(), copied.message_id);
        Self {
            copy_of: Some(who.into()),
            shared: copied
                .one_of_many
                .then(|| format!("{app}/{basis}/{}", kind.as_str())),
            ..Self::new(kind, app, who, basis, &head, copied.payload.clone())
        }
    }

    /// A message got further: [`EventKind::MessageReceived`], or [`EventKind::MessageReturnReceipt`] with what its sender is told.
    /// `recipient` is whose receipt it is, `patch` a JSON object.
    pub fn of_receipt(
        kind: EventKind,
        timeline: Timeline<'_>,
        recipient: &str,
        message_id: &str,
        patch: Bytes,
        now: UnixMillis,
    ) -> Self {
        let app = timeline.app;
        let head = AboutMessage {
            event_type: kind.as_str(),
            created_at: now.as_millis(),
            recipient_id: recipient,
            app_id: app.as_str(),
            message_id,
            extras: None,
            delivered_to: None,
        };
        // Received and seen are two events.
        let basis = format!("{message_id} {}", String::from_utf8_lossy(&patch));
        Self::new(kind, app, recipient, &basis, &head, patch)
    }

    /// A conversation has been archived. `row` is a JSON object, `topic` where its owner asked for it, `basis` the id of his wish.
    pub fn of_archive(
        timeline: Timeline<'_>,
        row: Bytes,
        topic: &str,
        basis: &str,
        now: UnixMillis,
    ) -> Self {
        let kind = EventKind::ConversationArchived;
        let convers_with = timeline.convers_with.as_str();
        let head = AboutConversation {
            event_type: kind.as_str(),
            created_at: now.as_millis(),
            app_id: timeline.app.as_str(),
            user_id: timeline.inbox_of.as_str(),
            recipient_id: convers_with,
            convers_with,
            extras: Extras {
                topic: &dotted(topic),
            },
        };
        let who = timeline.inbox_of.as_str();
        Self::new(kind, timeline.app, who, basis, &head, row)
    }

    /// A user is there, or is not any more. `basis` is the id of what his client, or its will, said.
    pub fn of_presence(
        app: AppId<'_>,
        user: &str,
        online: bool,
        basis: &str,
        now: UnixMillis,
    ) -> Self {
        let kind = EventKind::PresenceChange;
        let head = AboutUser {
            event_type: kind.as_str(),
            presence: if online { "online" } else { "offline" },
            created_at: now.as_millis(),
            app_id: app.as_str(),
            user_id: user,
        };
        Self::new(kind, app, user, basis, &head, Bytes::from_static(b"true"))
    }
}

/// A topic as AMQP has it: its receivers split it by dots.
fn dotted(topic: &str) -> String {
    topic.replace('/', ".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::UserId;
    use serde_json::{Value, json};

    fn timeline() -> Timeline<'static> {
        Timeline {
            app: AppId::parse("tilechat").unwrap(),
            inbox_of: UserId::parse("bob").unwrap(),
            convers_with: UserId::parse("alice").unwrap(),
        }
    }

    fn body(event: &Event) -> Value {
        let data = str::from_utf8(&event.data).unwrap();
        serde_json::from_slice(&super::body(&event.head, data)).unwrap()
    }

    #[test]
    fn bodies_have_the_fields_of_the_protocol() {
        let now = UnixMillis::new(5);
        let copied = Copied {
            timeline: timeline(),
            message_id: "m1",
            recipient: "bob",
            topic: "apps/tilechat/users/bob/messages/alice/clientadded",
            payload: &Bytes::from_static(br#"{"text":"hi","status":150}"#),
            one_of_many: true,
        };
        let event = Event::of_copy(EventKind::MessageDelivered, copied, now);
        assert_eq!(
            event.shared.as_deref(),
            Some("tilechat/m1/message-delivered")
        );
        assert_eq!(event.copy_of.as_deref(), Some("bob"));
        assert_eq!(
            body(&event),
            json!({"event_type": "message-delivered", "createdAt": 5, "recipient_id": "bob", "app_id": "tilechat", "message_id": "m1",
                   "data": {"text": "hi", "status": 150},
                   "extras": {"topic": "apps.tilechat.users.bob.messages.alice.clientadded"}, "delivered_to": "bob"})
        );
        let patch = Bytes::from_static(br#"{"status":250}"#);
        let kind = EventKind::MessageReturnReceipt;
        let event = Event::of_receipt(kind, timeline(), "bob", "m1", patch, now);
        assert_eq!(
            body(&event),
            json!({"event_type": "message-return-receipt", "createdAt": 5, "recipient_id": "bob", "app_id": "tilechat", "message_id": "m1",
                   "data": {"status": 250}})
        );
        let topic = "apps/tilechat/users/bob/conversations/alice/archive";
        let row = Bytes::from_static(b"{\"archived\":true}");
        let event = Event::of_archive(timeline(), row, topic, "w1", now);
        assert_eq!(
            body(&event),
            json!({"event_type": "conversation-archived", "createdAt": 5, "app_id": "tilechat", "user_id": "bob", "recipient_id": "alice",
                   "convers_with": "alice", "data": {"archived": true},
                   "extras": {"topic": "apps.tilechat.users.bob.conversations.alice.archive"}})
        );
        let event = Event::of_presence(timeline().app, "bob", false, "w1", now);
        assert_eq!(
            body(&event),
            json!({"event_type": "presence-change", "presence": "offline", "createdAt": 5, "app_id": "tilechat", "user_id": "bob", "data": true})
        );
    }

    #[test]
    fn ids_tell_events_apart_and_stay_the_same() {
        let event = |user: &str, online, basis: &str, now| {
            Event::of_presence(timeline().app, user, online, basis, UnixMillis::new(now)).id
        };
        assert_eq!(event("bob", true, "1", 1), event("bob", true, "1", 2));
        assert_ne!(event("bob", true, "1", 1), event("bob", true, "2", 1));
        assert_ne!(event("bob", true, "1", 1), event("bo", true, "b1", 1));
    }
}
