//! What webhooks are told: events, and the bodies that are posted (`protocol.md`, section 6).
//!
//! Owns their form and their ids. Leaves which endpoint gets an event, and when, to `http` and the
//! store's outbox.

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::Serialize;
use strum::{IntoStaticStr, VariantArray};

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::PresenceChange;
use crate::protocol::id::AppId;
use crate::protocol::time::UnixMillis;

/// A kind of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum EventKind {
    /// The sender's timeline has its copy of a message, or the group's own timeline has.
    MessageSent,
    /// A recipient's timeline has its copy of a message.
    MessageDelivered,
    /// A recipient's client has received a message.
    MessageReceived,
    /// The sender of a message is told that it was received or seen.
    MessageReturnReceipt,
    /// A conversation has been archived.
    ConversationArchived,
    /// A user's first client has connected, or their last one has gone.
    PresenceChange,
}

impl EventKind {
    /// Every kind.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The word for it in `event_type`.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventKinds(u8);

impl EventKinds {
    /// Whether `kind` is in the set.
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
    /// The kind of event.
    pub kind: EventKind,
    /// An id in the form of a UUID. The same event has the same id, however often it is posted.
    pub id: String,
    /// The owner of the copy that this event reports, if it reports one. The event is dropped if
    /// that copy was stored before.
    pub copy_of: Option<Box<str>>,
    /// The body without its member `data`: a JSON object. The events of a group message's copies
    /// differ in this alone.
    pub head: String,
    /// The value of the member `data`: JSON.
    pub data: Bytes,
    /// A key that events with the same `data` share, if there are such events.
    pub shared: Option<String>,
}

/// The body to post: `head` with the member `data`.
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

/// What tells an event from every other: its id is made of this, so that a message that is
/// delivered again raises the same event.
struct EventKey<'a> {
    kind: EventKind,
    app: AppId<'a>,
    user: &'a str,
    /// Tells apart events of the same kind about the same user: the id of the message that caused
    /// the event, say.
    basis: &'a str,
}

impl EventKey<'_> {
    fn id(&self) -> String {
        let mut digest = digest::Context::new(&digest::SHA256);
        for part in [self.kind.as_str(), self.app.as_str(), self.user, self.basis] {
            digest.update(part.as_bytes());
            // An identifier never holds this byte: "bo" with "b1" differs from "bob" with "1".
            digest.update(b"\0");
        }
        let mut id = [0; 16];
        id.copy_from_slice(&digest.finish().as_ref()[..16]);
        uuid::Builder::from_custom_bytes(id).into_uuid().to_string()
    }
}

/// A copy of a message, as an event reports it.
#[derive(Clone, Copy, Debug)]
pub struct Copied<'a> {
    /// The timeline that holds it.
    pub timeline: Timeline<'a>,
    /// The message's id.
    pub message_id: &'a str,
    /// The user or group that the message was written to.
    pub recipient: &'a str,
    /// The topic that the copy was published on.
    pub topic: &'a str,
    /// The copy: a JSON object.
    pub payload: &'a Bytes,
    /// Whether the message has many copies with the same payload.
    pub one_of_many: bool,
}

impl Event {
    fn new(key: &EventKey<'_>, head: &impl Serialize, data: Bytes) -> Self {
        Self {
            kind: key.kind,
            id: key.id(),
            copy_of: None,
            head: serde_json::to_string(head).expect("plain fields serialise"),
            data,
            shared: None,
        }
    }

    /// A timeline has its copy of a message: [`EventKind::MessageSent`] or
    /// [`EventKind::MessageDelivered`].
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
        let key = EventKey {
            kind,
            app,
            user: inbox_of.as_str(),
            basis: copied.message_id,
        };
        let shared = || format!("{app}/{}/{}", key.basis, kind.as_str());
        Self {
            copy_of: Some(key.user.into()),
            shared: copied.one_of_many.then(shared),
            ..Self::new(&key, &head, copied.payload.clone())
        }
    }

    /// The owner of a timeline has received or seen a message in it. The kind is
    /// [`EventKind::MessageReceived`], or [`EventKind::MessageReturnReceipt`] for what its sender
    /// is told. `patch` is a JSON object.
    pub fn of_receipt(
        kind: EventKind,
        timeline: Timeline<'_>,
        message_id: &str,
        patch: Bytes,
        now: UnixMillis,
    ) -> Self {
        let (app, recipient) = (timeline.app, timeline.inbox_of.as_str());
        let head = AboutMessage {
            event_type: kind.as_str(),
            created_at: now.as_millis(),
            recipient_id: recipient,
            app_id: app.as_str(),
            message_id,
            extras: None,
            delivered_to: None,
        };
        // A message can be received and seen later: the patch tells the two events apart.
        let basis = format!("{message_id} {}", String::from_utf8_lossy(&patch));
        let key = EventKey {
            kind,
            app,
            user: recipient,
            basis: &basis,
        };
        Self::new(&key, &head, patch)
    }

    /// A conversation has been archived. `row` is a JSON object, `topic` the topic name of the
    /// request, `basis` the id of the request.
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
        let key = EventKey {
            kind,
            app: timeline.app,
            user: timeline.inbox_of.as_str(),
            basis,
        };
        Self::new(&key, &head, row)
    }

    /// A user's first client has connected, or their last one has gone. `basis` is the id of the
    /// presence event.
    pub fn of_presence(
        app: AppId<'_>,
        user: &str,
        change: PresenceChange,
        basis: &str,
        now: UnixMillis,
    ) -> Self {
        let kind = EventKind::PresenceChange;
        let head = AboutUser {
            event_type: kind.as_str(),
            presence: match change {
                PresenceChange::Connected => "online",
                PresenceChange::Disconnected => "offline",
            },
            created_at: now.as_millis(),
            app_id: app.as_str(),
            user_id: user,
        };
        let key = EventKey {
            kind,
            app,
            user,
            basis,
        };
        Self::new(&key, &head, Bytes::from_static(b"true"))
    }
}

/// A topic name in AMQP's form: receivers of these events split it at dots.
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
            json!({
                "event_type": "message-delivered", "createdAt": 5, "recipient_id": "bob",
                "app_id": "tilechat", "message_id": "m1",
                "data": {"text": "hi", "status": 150},
                "extras": {"topic": "apps.tilechat.users.bob.messages.alice.clientadded"},
                "delivered_to": "bob"
            })
        );
        let patch = Bytes::from_static(br#"{"status":250}"#);
        let kind = EventKind::MessageReturnReceipt;
        let event = Event::of_receipt(kind, timeline(), "m1", patch, now);
        assert_eq!(
            body(&event),
            json!({
                "event_type": "message-return-receipt", "createdAt": 5, "recipient_id": "bob",
                "app_id": "tilechat", "message_id": "m1", "data": {"status": 250}
            })
        );
        let topic = "apps/tilechat/users/bob/conversations/alice/archive";
        let row = Bytes::from_static(b"{\"archived\":true}");
        let event = Event::of_archive(timeline(), row, topic, "w1", now);
        assert_eq!(
            body(&event),
            json!({
                "event_type": "conversation-archived", "createdAt": 5, "app_id": "tilechat",
                "user_id": "bob", "recipient_id": "alice", "convers_with": "alice",
                "data": {"archived": true},
                "extras": {"topic": "apps.tilechat.users.bob.conversations.alice.archive"}
            })
        );
        let event = Event::of_presence(
            timeline().app,
            "bob",
            PresenceChange::Disconnected,
            "w1",
            now,
        );
        assert_eq!(
            body(&event),
            json!({
                "event_type": "presence-change", "presence": "offline", "createdAt": 5,
                "app_id": "tilechat", "user_id": "bob", "data": true
            })
        );
    }

    #[test]
    fn ids_tell_events_apart_and_stay_the_same() {
        let event = |user: &str, basis: &str, now| {
            let (app, change) = (timeline().app, PresenceChange::Connected);
            Event::of_presence(app, user, change, basis, UnixMillis::new(now)).id
        };
        assert_eq!(event("bob", "1", 1), event("bob", "1", 2));
        assert_ne!(event("bob", "1", 1), event("bob", "2", 1));
        assert_ne!(event("bob", "1", 1), event("bo", "b1", 1));
    }
}
