//! A request: what a user, their client's will or a service asks for, by topic and payload
//! together.
//!
//! Owns which payload belongs to which topic. What the topic alone says is an [`Address`]: that is
//! enough to count a request or to refuse it when its payload cannot be read. What becomes of a
//! request is decided in `rules`.

use bytes::Bytes;

use crate::protocol::address::{Address, Outgoing, Timeline};
use crate::protocol::control_payload::{
    BlockChange, ConversationsFetch, Fetch, PresenceChange, Receipt,
};
use crate::protocol::envelope::Envelope;
use crate::protocol::group::{GroupUpdate, Users};
use crate::protocol::group_change::GroupChange;
use crate::protocol::id::{AppId, ClientId, MessageKey, UserId};
use crate::protocol::injected::Injected;
use crate::protocol::layout::PayloadMode;
use crate::protocol::message::Received;
use crate::protocol::patch::Patch;
use crate::protocol::refusal::Refusal;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;

/// One variant for each row of `protocol.md`, section 2, two for messages (section 1), and those
/// that only the HTTP API makes.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    /// A message in a layout that forwards payloads unread.
    Verbatim {
        /// Sender and recipient.
        outgoing: Outgoing<'a>,
        /// The bytes to forward.
        payload: &'a Bytes,
    },
    /// A message in a layout whose payloads are JSON objects.
    Message {
        /// Sender and recipient, a user or a group.
        outgoing: Outgoing<'a>,
        /// The client's object.
        envelope: Envelope<'a>,
    },
    /// A user has received or seen a message.
    Receipt {
        /// The user's timeline that holds the message.
        timeline: Timeline<'a>,
        /// The message's id.
        message: MessageKey<'a>,
        /// Received or seen.
        receipt: Receipt,
    },
    /// A user changes one of their conversations.
    Patch {
        /// The conversation.
        timeline: Timeline<'a>,
        /// The fields to set.
        patch: Patch,
    },
    /// A user archives one of their conversations. The payload does not matter.
    Archive {
        /// The conversation.
        timeline: Timeline<'a>,
        /// The request's topic name, which webhooks are told.
        topic: &'a str,
    },
    /// A user's client has connected or disconnected.
    Presence {
        /// The app.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// The client.
        client: ClientId<'a>,
        /// Which of the two.
        change: PresenceChange,
        /// If it only seems so: when the client had said last that it is there. It stays, if it has
        /// said so since.
        last_seen: Option<UnixMillis>,
    },
    /// A user blocks another user, or stops blocking them.
    Block {
        /// The user who blocks (`inbox_of`) and the other one (`convers_with`).
        timeline: Timeline<'a>,
        /// Which of the two.
        change: BlockChange,
    },
    /// A user asks for stored messages.
    Fetch {
        /// The app.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// Which messages.
        fetch: Fetch,
    },
    /// A user asks for their conversations.
    ConversationsFetch {
        /// The app.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// Which conversations.
        fetch: ConversationsFetch,
    },
    /// A service puts a message into one timeline.
    Inject {
        /// The timeline.
        timeline: Timeline<'a>,
        /// The message.
        message: Injected,
        /// The message's bytes: they are published as they came.
        payload: &'a Bytes,
    },
    /// A service stores a group.
    GroupUpdate {
        /// The app.
        app: AppId<'a>,
        /// The group, and who is told about it.
        update: GroupUpdate,
    },
    /// A client of the HTTP API changes a group: the sender changes the recipient.
    GroupChange {
        /// Who changes which group.
        outgoing: Outgoing<'a>,
        /// What is to become of it.
        change: &'a GroupChange,
    },
    /// A client of the HTTP API wants to be notified: the sender's.
    Register {
        /// Whose client.
        outgoing: Outgoing<'a>,
        /// What the client calls itself.
        instance: &'a str,
        /// What it says of itself: JSON.
        body: &'a str,
    },
    /// An administrator erases what everybody has with the recipient.
    Erase {
        /// Who erases, and with whom.
        outgoing: Outgoing<'a>,
        /// What of it.
        what: Erased,
    },
    /// Users who have just become members of a group get what it said before.
    GroupHistory {
        /// Who has changed which group.
        outgoing: Outgoing<'a>,
        /// The new members.
        members: &'a Users,
    },
}

/// What is erased of what everybody has with a user or group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erased {
    /// The rows in the lists of conversations.
    Conversations,
    /// The messages in the timelines.
    Messages,
}

impl<'a> Request<'a> {
    /// Reads the payload that belongs to `address`, which is what the topic of `received` says.
    ///
    /// # Errors
    /// The reason for which the payload is refused.
    pub fn parse(address: Address<'a>, received: &'a Received) -> Result<Self, Refusal> {
        let payload = &received.payload;
        Ok(match address {
            Address::Outgoing(outgoing) => match outgoing.layout.payload() {
                PayloadMode::Verbatim => Self::Verbatim { outgoing, payload },
                PayloadMode::Envelope => {
                    let envelope = Envelope::parse(payload)?;
                    Self::Message { outgoing, envelope }
                }
            },
            Address::Receipt(timeline, message) => Self::Receipt {
                timeline,
                message,
                receipt: Receipt::parse(payload)?,
            },
            Address::Conversation(timeline) => Self::Patch {
                timeline,
                patch: Patch::parse(payload)?,
            },
            Address::Archive(timeline) => Self::Archive {
                timeline,
                topic: str::from_utf8(&received.topic).map_err(|_| Refusal::MalformedTopic)?,
            },
            Address::Presence { app, user, client } => Self::Presence {
                app,
                user,
                client,
                change: PresenceChange::parse(payload)?,
                last_seen: None,
            },
            Address::Block(timeline) => Self::Block {
                timeline,
                change: BlockChange::parse(payload)?,
            },
            Address::Fetch { app, user } => Self::Fetch {
                app,
                user,
                fetch: Fetch::parse(payload)?,
            },
            Address::ConversationsFetch { app, user } => Self::ConversationsFetch {
                app,
                user,
                fetch: ConversationsFetch::parse(payload)?,
            },
            Address::Inject(timeline) => {
                let message = Injected::parse(payload)?;
                if message.status != Some(Status::Delivered) {
                    return Err(Refusal::BadStatus);
                }
                Self::Inject {
                    timeline,
                    message,
                    payload,
                }
            }
            Address::Groups { app } => Self::GroupUpdate {
                app,
                update: GroupUpdate::parse(payload)?,
            },
        })
    }

    /// What the request's topic says.
    pub fn address(&self) -> Address<'a> {
        match self {
            Self::Verbatim { outgoing, .. }
            | Self::Message { outgoing, .. }
            | Self::GroupChange { outgoing, .. }
            | Self::Register { outgoing, .. }
            | Self::Erase { outgoing, .. }
            | Self::GroupHistory { outgoing, .. } => Address::Outgoing(*outgoing),
            Self::Receipt {
                timeline, message, ..
            } => Address::Receipt(*timeline, *message),
            Self::Patch { timeline, .. } => Address::Conversation(*timeline),
            Self::Archive { timeline, .. } => Address::Archive(*timeline),
            Self::Presence {
                app, user, client, ..
            } => Address::Presence {
                app: *app,
                user: *user,
                client: *client,
            },
            Self::Block { timeline, .. } => Address::Block(*timeline),
            Self::Fetch { app, user, .. } => Address::Fetch {
                app: *app,
                user: *user,
            },
            Self::ConversationsFetch { app, user, .. } => Address::ConversationsFetch {
                app: *app,
                user: *user,
            },
            Self::Inject { timeline, .. } => Address::Inject(*timeline),
            Self::GroupUpdate { app, .. } => Address::Groups { app: *app },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::layout::Layout;
    use crate::protocol::testing::built_in;

    /// Each row of `protocol.md`, section 2, with a payload that belongs there.
    const REQUESTS: [(&str, &str); 12] = [
        ("/apps/a/users/alice/bob/messages/outgoing", "not JSON"),
        ("apps/a/users/alice/messages/bob/outgoing", "{}"),
        (
            "apps/a/users/alice/messages/bob/m1/update",
            r#"{"status":200}"#,
        ),
        (
            "apps/a/users/alice/conversations/bob/update",
            r#"{"is_new":false}"#,
        ),
        ("apps/a/users/alice/conversations/bob/archive", "whatever"),
        ("apps/a/users/alice/presence/phone", r#"{"connected":true}"#),
        ("apps/a/users/alice/presence/phone", ""),
        (
            "apps/a/users/alice/blocked/bob/update",
            r#"{"blocked":true}"#,
        ),
        ("apps/a/users/alice/inbox/fetch", ""),
        ("apps/a/users/alice/conversations/fetch", ""),
        (
            "apps/observer/a/users/alice/messages/bob/delivered",
            r#"{"status":150}"#,
        ),
        (
            "apps/observer/a/groups/update",
            r#"{"group":{"uid":"group-1"}}"#,
        ),
    ];

    #[test]
    fn a_request_keeps_what_its_topic_says() {
        let map = built_in(Layout::BUILT_IN);
        for (topic, payload) in REQUESTS {
            let received = Received::new(topic.into(), payload.into(), false);
            let address = map.parse(topic).unwrap();
            let request = Request::parse(address, &received).unwrap();
            assert_eq!(request.address(), address, "{topic}");
        }
    }

    #[test]
    fn what_a_service_injects_must_be_delivered() {
        let map = built_in(&["chat21"]);
        let topic = "apps/observer/a/users/alice/messages/bob/delivered";
        for payload in [r#"{"status":200}"#, "{}"] {
            let received = Received::new(topic.into(), payload.into(), false);
            let request = Request::parse(map.parse(topic).unwrap(), &received);
            assert_eq!(request.err(), Some(Refusal::BadStatus), "{payload}");
        }
    }
}
