//! Identifiers: the single topic levels that name an app, a user, a client or a message.
//!
//! Owns the rules for them (`protocol.md`, section 1). An identifier is checked once, when a topic
//! name is read; after that its type is the proof. It borrows from the topic name, so refusing a
//! message costs no allocation. What a whole topic means is decided in `topic_map`.

use std::fmt;

/// The longest identifier, in bytes: as long as an AMQP routing key, in which RabbitMQ carries a
/// whole topic.
pub const MAX_LEVEL_BYTES: usize = 255;

/// The app that is never a tenant: `apps/observer/…` belongs to services.
pub const RESERVED_APP: &str = "observer";

/// Whether a level is never a user or a group, because the topic tree uses this word.
fn is_reserved_user(level: &str) -> bool {
    // A pattern compares lengths first, which a loop over a list does not.
    matches!(
        level,
        "messages"
            | "conversations"
            | "archived_conversations"
            | "groups"
            | "presence"
            | "inbox"
            | "blocked"
            | "outgoing"
    )
}

/// Why a topic level is not an identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The level has no characters.
    #[error("is empty")]
    Empty,
    /// The level is longer than [`MAX_LEVEL_BYTES`].
    #[error("is longer than {MAX_LEVEL_BYTES} bytes")]
    TooLong,
    /// `+`, `#`, `*`, `/`, or a control character (U+0000 among them).
    #[error("holds {0:?}, which no identifier may hold")]
    Forbidden(char),
    /// A space at either end: easily overlooked, and stripped by some clients.
    #[error("begins or ends with a space")]
    OuterSpace,
    /// A word the topic tree uses itself.
    #[error("is a reserved word")]
    Reserved,
}

/// Bytes that an identifier may hold in any place: printable ASCII without the space and the
/// characters that topics and routing keys use.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] = !matches!(byte, b'+' | b'#' | b'*' | b'/');
        byte += 1;
    }
    plain
};

/// A level of a topic name, not checked yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RawLevel<'a> {
    text: &'a str,
    /// Whether all bytes are in [`PLAIN`]. It is found in the same pass as the level's end.
    plain: bool,
}

impl<'a> RawLevel<'a> {
    /// Splits the first level off `topic`. The rest is empty or begins with a slash.
    pub(crate) fn head(topic: &'a str) -> (Self, &'a str) {
        let bytes = topic.as_bytes();
        let odd = bytes
            .iter()
            .position(|byte| !PLAIN[usize::from(*byte)])
            .unwrap_or(bytes.len());
        let slash = bytes[odd..]
            .iter()
            .position(|byte| *byte == b'/')
            .map_or(bytes.len(), |at| odd + at);
        let (text, behind) = topic.split_at(slash);
        (
            Self {
                text,
                plain: odd == slash,
            },
            behind,
        )
    }

    /// The level as it stands in the topic.
    pub(crate) fn as_str(self) -> &'a str {
        self.text
    }
}

/// Checks the form of every identifier. Reserved words are checked by the caller.
fn check_level(level: RawLevel<'_>) -> Result<(), IdError> {
    let RawLevel { text: level, plain } = level;
    if level.is_empty() {
        return Err(IdError::Empty);
    }
    if level.len() > MAX_LEVEL_BYTES {
        return Err(IdError::TooLong);
    }
    if plain {
        return Ok(());
    }
    if let Some(c) = level
        .chars()
        .find(|c| c.is_control() || matches!(c, '+' | '#' | '*' | '/'))
    {
        return Err(IdError::Forbidden(c));
    }
    if level.starts_with(char::is_whitespace) || level.ends_with(char::is_whitespace) {
        return Err(IdError::OuterSpace);
    }
    Ok(())
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident, reserved: $reserved:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name<'a>(&'a str);

        impl<'a> $name<'a> {
            /// Checks a topic level.
            ///
            /// # Errors
            /// [`IdError`] says which rule the level breaks.
            pub fn parse(level: &'a str) -> Result<Self, IdError> {
                let plain = level.bytes().all(|byte| PLAIN[usize::from(byte)]);
                Self::from_level(RawLevel { text: level, plain })
            }

            /// Checks a topic level that was found by [`RawLevel::head`].
            pub(crate) fn from_level(level: RawLevel<'a>) -> Result<Self, IdError> {
                check_level(level)?;
                let reserved: fn(&str) -> bool = $reserved;
                if reserved(level.text) { Err(IdError::Reserved) } else { Ok(Self(level.text)) }
            }

            /// The level as it stands in the topic.
            pub fn as_str(self) -> &'a str {
                self.0
            }
        }

        impl fmt::Display for $name<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }
        }
    };
}

identifier! {
    /// A tenant: all users, groups and topics under one `apps/{app}`.
    AppId, reserved: |level| level == RESERVED_APP
}

identifier! {
    /// A person or a group: whoever has an inbox. It stands at a topic's `{sender}`, `{recipient}`,
    /// `{user}` and so on.
    UserId, reserved: is_reserved_user
}

identifier! {
    /// One device or browser tab of a user. It stands at a presence topic's `{client_id}`.
    ClientId, reserved: |_| false
}

identifier! {
    /// A message id as it stands in a topic. Services inject messages with ids of their own, so it
    /// need not be a [`MessageId`](crate::protocol::message_id::MessageId).
    MessageKey, reserved: |_| false
}

impl UserId<'_> {
    /// Whether the identifier is a group's by its form: it contains `group-` (`protocol.md`,
    /// section 3).
    pub fn is_group(self) -> bool {
        self.0.contains("group-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_refused_for_the_rule_they_break() {
        for (level, want) in [
            ("alice", None),
            ("john.doe", None),
            ("group-1", None),
            ("çelik", None),
            ("a b", None),
            ("$x", None),
            ("", Some(IdError::Empty)),
            ("a+b", Some(IdError::Forbidden('+'))),
            ("#", Some(IdError::Forbidden('#'))),
            ("*", Some(IdError::Forbidden('*'))),
            ("a\0", Some(IdError::Forbidden('\0'))),
            ("a\u{85}b", Some(IdError::Forbidden('\u{85}'))),
            (" a", Some(IdError::OuterSpace)),
            ("a\u{a0}", Some(IdError::OuterSpace)),
            ("messages", Some(IdError::Reserved)),
            ("outgoing", Some(IdError::Reserved)),
            ("conversations", Some(IdError::Reserved)),
            ("archived_conversations", Some(IdError::Reserved)),
            ("groups", Some(IdError::Reserved)),
            ("presence", Some(IdError::Reserved)),
            ("inbox", Some(IdError::Reserved)),
            ("blocked", Some(IdError::Reserved)),
            ("Inbox", None),
        ] {
            assert_eq!(UserId::parse(level).err(), want, "{level:?}");
        }
        assert_eq!(UserId::parse(&"x".repeat(256)), Err(IdError::TooLong));
        assert!(UserId::parse(&"x".repeat(255)).is_ok());
        assert_eq!(AppId::parse("observer"), Err(IdError::Reserved));
        assert!(AppId::parse("messages").is_ok());
    }
}
