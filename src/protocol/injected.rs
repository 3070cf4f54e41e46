//! A message that a service injects into one timeline (`protocol.md`, sections 2 and 4).
//!
//! Owns reading its payload. Whether it is accepted is decided in `rules`.

use serde_json::value::RawValue;

use crate::protocol::envelope::{Body, SendOptions};
use crate::protocol::id::MAX_LEVEL_BYTES;
use crate::protocol::json::{Members, parse_object, raw};
use crate::protocol::refusal::Refusal;
use crate::protocol::status::Status;

/// A whole message, as the service wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The message without its status.
    pub body: Body,
    /// Its `message_id`, if that is a text.
    pub message_id: Option<Box<str>>,
    /// Its `sender`, if that is a text.
    pub sender: Option<Box<str>>,
    /// Its `recipient`, if that is a text.
    pub recipient: Option<Box<str>>,
    /// Its `status`, if there is such a status.
    pub status: Option<Status>,
    /// What its `attributes` ask for.
    pub options: SendOptions,
}

impl Injected {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`Refusal`] tells JSON that is not an object from what is not JSON, and an id that is too
    /// long.
    pub fn parse(payload: &[u8]) -> Result<Self, Refusal> {
        let mut members = parse_object(payload)?;
        let message_id = text(&members, "message_id");
        // Stores find messages by their ids: an index has no room for a long one.
        if message_id
            .as_ref()
            .is_some_and(|id| id.len() > MAX_LEVEL_BYTES)
        {
            return Err(Refusal::TooLarge);
        }
        let status = members.remove("status");
        let code = status.and_then(|status| status.get().parse().ok());
        let attributes = members.get("attributes");
        Ok(Self {
            message_id,
            sender: text(&members, "sender"),
            recipient: text(&members, "recipient"),
            status: code.and_then(Status::from_code),
            options: attributes.map_or_else(SendOptions::default, |value| SendOptions::read(value)),
            body: body(&members),
        })
    }

    /// The same message under an id given by the observer.
    pub fn with_id(self, id: &str) -> Self {
        let members = parse_object(self.body.as_str().as_bytes());
        let mut members = members.expect("a body is an object");
        members.insert("message_id".to_owned(), raw(id));
        Self {
            message_id: Some(id.into()),
            body: body(&members),
            ..self
        }
    }
}

fn text(members: &Members, name: &str) -> Option<Box<str>> {
    let value = members.get(name).map(|value| RawValue::get(value))?;
    serde_json::from_str(value).ok()
}

fn body(members: &Members) -> Body {
    Body::from_object(serde_json::to_string(members).expect("raw members serialise"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_injected_message_keeps_all_but_its_status() {
        let injected =
            Injected::parse(br#"{"message_id":"m","status":150,"text":"x","sender":"s"}"#).unwrap();
        assert_eq!(
            (injected.status, injected.message_id.as_deref()),
            (Some(Status::Delivered), Some("m"))
        );
        assert_eq!(
            injected.body.as_str(),
            r#"{"message_id":"m","sender":"s","text":"x"}"#
        );
        assert_eq!(
            &injected.body.as_history(Status::Seen)[..],
            br#"{"message_id":"m","sender":"s","text":"x","status":300,"__history":true}"#
        );
        let bare = Injected::parse(b"{\"status\":1}").unwrap();
        assert_eq!(
            (bare.status, &bare.body.with_status(Status::Sent)[..]),
            (None, &br#"{"status":100}"#[..])
        );
        assert_eq!(bare.with_id("i").body.as_str(), r#"{"message_id":"i"}"#);
        assert_eq!(Injected::parse(b"[]"), Err(Refusal::NotAnObject));
        let with_id = |bytes: usize| {
            let id = "x".repeat(bytes);
            Injected::parse(format!("{{\"message_id\":\"{id}\"}}").as_bytes())
        };
        assert!(with_id(255).is_ok());
        assert_eq!(with_id(256), Err(Refusal::TooLarge));
    }
}
