//! What the payloads of the control topics say (`protocol.md`, section 2): receipts, presence, blocks, fetches.

use serde::Deserialize;

use crate::protocol::id::UserId;
use crate::protocol::message::{Members, Status, parse_object};
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;

/// Messages a fetch gives when it does not say how many, and the most it gives.
const FETCH_LIMIT: (usize, usize) = (100, 1_000);

/// How far the owner of a timeline says a message got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// His client has it.
    Received,
    /// He has seen it.
    Seen,
}

impl Receipt {
    /// Reads a payload such as `{"status":200}`.
    ///
    /// # Errors
    /// The reason for which it is refused; [`Refusal::BadStatus`] for any other status.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        match raw_number(&parse_object(payload)?, "status") {
            Some(200) => Ok(Self::Received),
            Some(300) => Ok(Self::Seen),
            _ => Err(Refusal::BadStatus),
        }
    }

    /// What his own copy becomes, at least.
    pub fn own(self) -> Status {
        match self {
            Self::Received => Status::Received,
            Self::Seen => Status::Seen,
        }
    }

    /// What the sender's copy becomes, at least, and what the sender is told.
    pub fn peers(self) -> Status {
        match self {
            Self::Received => Status::ReturnReceipt,
            Self::Seen => Status::Seen,
        }
    }
}

fn raw_number(fields: &Members, name: &str) -> Option<i64> {
    fields.get(name)?.get().parse().ok()
}

fn flag(fields: &Members, name: &str) -> Option<bool> {
    match fields.get(name)?.get() {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Whether a client is there: `{"connected":true}` or `{"disconnected":true}`. Clearing a retained presence, with an empty payload,
/// says that it is gone.
///
/// # Errors
/// The reason for which it is refused.
pub fn parse_presence(payload: &[u8]) -> Result<bool, Refusal> {
    if payload.is_empty() {
        return Ok(false);
    }
    let fields = parse_object(payload)?;
    match (flag(&fields, "connected"), flag(&fields, "disconnected")) {
        (Some(connected), None) => Ok(connected),
        (None, Some(disconnected)) => Ok(!disconnected),
        // Both or neither: it does not say which.
        _ => Err(Refusal::BadStatus),
    }
}

/// Whether a user blocks another: `{"blocked":true}` or `false`.
///
/// # Errors
/// The reason for which it is refused.
pub fn parse_block(payload: &[u8]) -> Result<bool, Refusal> {
    flag(&parse_object(payload)?, "blocked").ok_or(Refusal::BadStatus)
}

/// Which stored messages a user asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// Only what came to the observer after this.
    pub since: UnixMillis,
    /// Only one conversation's.
    pub convers_with: Option<Box<str>>,
    /// At most as many, give or take those of the last millisecond.
    pub limit: usize,
}

impl Fetch {
    /// Reads a payload such as `{"since":1800000000000,"convers_with":"bob","limit":50}`; nothing of it need be there.
    ///
    /// # Errors
    /// The reason for which it is refused.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Fields {
            since: Option<u64>,
            convers_with: Option<Box<str>>,
            limit: Option<usize>,
        }
        let object: &[u8] = if payload.is_empty() { b"{}" } else { payload };
        parse_object(object)?;
        let fields: Fields = serde_json::from_slice(object).map_err(|_| Refusal::BadStatus)?;
        if let Some(peer) = &fields.convers_with {
            UserId::parse(peer)?;
        }
        let (usual, most) = FETCH_LIMIT;
        Ok(Self {
            since: UnixMillis::new(fields.since.unwrap_or(0)),
            convers_with: fields.convers_with,
            limit: fields.limit.unwrap_or(usual).clamp(1, most),
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
            (r#"{"connected":true}"#, Ok(true)),
            (r#"{"disconnected":true}"#, Ok(false)),
            ("", Ok(false)),
            (
                r#"{"connected":true,"disconnected":true}"#,
                Err(Refusal::BadStatus),
            ),
            ("{}", Err(Refusal::BadStatus)),
            ("x", Err(Refusal::NotJson)),
        ] {
            assert_eq!(parse_presence(payload.as_bytes()), want, "{payload}");
        }
        assert_eq!(
            (
                parse_block(br#"{"blocked":true}"#),
                parse_block(br#"{"blocked":1}"#)
            ),
            (Ok(true), Err(Refusal::BadStatus))
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
