//! The payloads of the control topics (`protocol.md`, section 2): receipts, presence, blocks,
//! fetches.
//!
//! Owns reading them. Group updates are read in `group`, injected messages in `injected`; what
//! becomes of any of them is decided in `rules`.

use serde::Deserialize;

use crate::protocol::id::UserId;
use crate::protocol::json::{Members, parse_object};
use crate::protocol::refusal::Refusal;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;

/// How many messages a fetch returns if it does not say.
const DEFAULT_FETCH_LIMIT: usize = 100;
/// How many messages a fetch returns at most.
const MAX_FETCH_LIMIT: usize = 1_000;

/// How far the owner of a timeline says a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// One of the owner's clients has it.
    Received,
    /// The owner has seen it.
    Seen,
}

impl Receipt {
    /// Reads a payload such as `{"status":200}`.
    ///
    /// # Errors
    /// The reason for a refusal; [`Refusal::BadStatus`] for a status other than 200 and 300.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let members = parse_object(payload)?;
        let status = members.get("status").map(|status| status.get());
        match status.and_then(|status| status.parse::<i64>().ok()) {
            Some(200) => Ok(Self::Received),
            Some(300) => Ok(Self::Seen),
            _ => Err(Refusal::BadStatus),
        }
    }

    /// The status that the owner's copy gets, unless it is higher already.
    pub fn own_status(self) -> Status {
        match self {
            Self::Received => Status::Received,
            Self::Seen => Status::Seen,
        }
    }

    /// The status that the sender's copy gets, unless it is higher already. The sender is told it.
    pub fn peer_status(self) -> Status {
        match self {
            Self::Received => Status::ReturnReceipt,
            Self::Seen => Status::Seen,
        }
    }
}

fn flag(members: &Members, name: &str) -> Option<bool> {
    match members.get(name)?.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// What happened to a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PresenceChange {
    /// The client is there.
    Connected,
    /// The client is gone: it said so, or the broker published its will.
    Disconnected,
}

impl PresenceChange {
    /// Reads a payload such as `{"connected":true}` or `{"disconnected":true}`.
    ///
    /// An empty payload clears a retained presence, and means that the client is gone.
    ///
    /// # Errors
    /// The reason for a refusal; [`Refusal::BadStatus`] if both members are there, or neither.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        if payload.is_empty() {
            return Ok(Self::Disconnected);
        }
        let members = parse_object(payload)?;
        match (flag(&members, "connected"), flag(&members, "disconnected")) {
            (Some(true), None) | (None, Some(false)) => Ok(Self::Connected),
            (Some(false), None) | (None, Some(true)) => Ok(Self::Disconnected),
            (Some(_), Some(_)) | (None, None) => Err(Refusal::BadStatus),
        }
    }
}

/// What a user wants of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockChange {
    /// The other user's messages are kept from this user.
    Block,
    /// They are delivered again.
    Unblock,
}

impl BlockChange {
    /// Reads `{"blocked":true}` or `{"blocked":false}`.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        match flag(&parse_object(payload)?, "blocked") {
            Some(true) => Ok(Self::Block),
            Some(false) => Ok(Self::Unblock),
            None => Err(Refusal::BadStatus),
        }
    }
}

/// Which stored messages a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Only messages that the observer stored after this time.
    pub since: UnixMillis,
    /// Only messages of the conversation with this user or group.
    pub convers_with: Option<Box<str>>,
    /// At most this many messages. The page may be longer, so that it does not end inside a
    /// millisecond.
    pub limit: usize,
}

impl Fetch {
    /// Reads a payload such as `{"since":1800000000000,"convers_with":"bob","limit":50}`.
    ///
    /// Every member is optional, and so is the object. A limit out of range is brought into it.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Fields {
            since: Option<u64>,
            convers_with: Option<Box<str>>,
            limit: Option<usize>,
        }
        let object: &[u8] = if payload.is_empty() { b"{}" } else { payload };
        // Only to tell what is not an object from an object with wrong members.
        parse_object(object)?;
        let fields: Fields = serde_json::from_slice(object).map_err(|_| Refusal::BadStatus)?;
        if let Some(peer) = &fields.convers_with {
            UserId::parse(peer)?;
        }
        let limit = fields.limit.unwrap_or(DEFAULT_FETCH_LIMIT);
        Ok(Self {
            since: UnixMillis::new(fields.since.unwrap_or(0)),
            convers_with: fields.convers_with,
            limit: limit.clamp(1, MAX_FETCH_LIMIT),
        })
    }
}

/// Which conversations a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConversationsFetch {
    /// Those in the archive, or those in the list.
    pub archived: bool,
    /// At most this many.
    pub limit: usize,
    /// Only those whose last message is before this position of the log: what the last page said
    /// is next.
    pub before: Option<i64>,
}

impl ConversationsFetch {
    /// Reads a payload such as `{"archived":true,"limit":50,"before":1234}`.
    ///
    /// Every member is optional, and so is the object. A limit out of range is brought into it.
    ///
    /// # Errors
    /// The reason for a refusal.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Fields {
            archived: Option<bool>,
            limit: Option<usize>,
            before: Option<i64>,
        }
        let object: &[u8] = if payload.is_empty() { b"{}" } else { payload };
        // Only to tell what is not an object from an object with wrong members.
        parse_object(object)?;
        let fields: Fields = serde_json::from_slice(object).map_err(|_| Refusal::BadStatus)?;
        let limit = fields.limit.unwrap_or(DEFAULT_FETCH_LIMIT);
        Ok(Self {
            archived: fields.archived.unwrap_or(false),
            limit: limit.clamp(1, MAX_FETCH_LIMIT),
            before: fields.before,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_read_or_refused_for_what_they_lack() {
        for (payload, want) in [
            (r#"{"status":200}"#, Ok(Receipt::Received)),
            (r#"{"status":300,"x":1}"#, Ok(Receipt::Seen)),
            (r#"{"status":150}"#, Err(Refusal::BadStatus)),
            (r#"{"status":"200"}"#, Err(Refusal::BadStatus)),
            ("{}", Err(Refusal::BadStatus)),
            ("7", Err(Refusal::NotAnObject)),
            ("", Err(Refusal::NotJson)),
        ] {
            assert_eq!(Receipt::parse(payload.as_bytes()), want, "{payload}");
        }
        for (payload, want) in [
            (r#"{"connected":true}"#, Ok(PresenceChange::Connected)),
            (r#"{"disconnected":true}"#, Ok(PresenceChange::Disconnected)),
            ("", Ok(PresenceChange::Disconnected)),
            (
                r#"{"connected":true,"disconnected":true}"#,
                Err(Refusal::BadStatus),
            ),
            ("{}", Err(Refusal::BadStatus)),
            ("x", Err(Refusal::NotJson)),
        ] {
            assert_eq!(PresenceChange::parse(payload.as_bytes()), want, "{payload}");
        }
        assert_eq!(
            (
                BlockChange::parse(br#"{"blocked":true}"#),
                BlockChange::parse(br#"{"blocked":1}"#)
            ),
            (Ok(BlockChange::Block), Err(Refusal::BadStatus))
        );
        let fetch = |since, peer: Option<&str>, limit| {
            Ok(Fetch {
                since: UnixMillis::new(since),
                convers_with: peer.map(Into::into),
                limit,
            })
        };
        for (payload, want) in [
            ("", fetch(0, None, 100)),
            ("{}", fetch(0, None, 100)),
            (
                r#"{"since":5,"convers_with":"bob","limit":7}"#,
                fetch(5, Some("bob"), 7),
            ),
            (r#"{"limit":1000000}"#, fetch(0, None, 1_000)),
            (r#"{"since":-1}"#, Err(Refusal::BadStatus)),
            (r#"{"convers_with":"a/b"}"#, Err(Refusal::MalformedTopic)),
            ("[]", Err(Refusal::NotAnObject)),
        ] {
            assert_eq!(Fetch::parse(payload.as_bytes()), want, "{payload}");
        }
    }
}
