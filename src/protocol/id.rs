//! Identifiers: the single topic levels that name an app, a user or a group, and the id the observer gives a message.
//!
//! An identifier is checked once, when a topic is read; after that its type is the proof. It borrows from that topic, so
//! that refusing a message costs no allocation. What a whole topic means is `layout.rs`'s business.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::protocol::time::UnixMillis;

/// The longest identifier, in bytes. RabbitMQ carries a whole topic in a routing key of at most 255 bytes.
pub const MAX_LEVEL_BYTES: usize = 255;

/// Words that are never a user or a group, because the topic tree uses them (`protocol.md`, section 1).
fn is_reserved_user(level: &str) -> bool {
    // Written as a pattern, which is compared by length first.
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

/// The app that is never a tenant: `apps/observer/…` belongs to services (`protocol.md`, section 1).
pub const RESERVED_APP: &str = "observer";

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
    /// A space at either end, easily overlooked and stripped by some clients.
    #[error("begins or ends with a space")]
    OuterSpace,
    /// A word the topic tree uses itself.
    #[error("is a reserved word")]
    Reserved,
}

/// Bytes that are in order wherever they stand: printable ASCII, but for spaces and what topics use.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        plain[byte as usize] = !matches!(byte, b'+' | b'#' | b'*' | b'/');
        byte += 1;
    }
    plain
};

/// A level of a topic, and whether all of its bytes are plain: found in the one pass that looks for its end.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Level<'a> {
    text: &'a str,
    plain: bool,
}

impl<'a> Level<'a> {
    /// The level that `topic` begins with, and what is behind it: nothing, or a slash and more.
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

/// Checks the form every identifier has, reserved words aside.
fn check_level(level: Level<'_>) -> Result<(), IdError> {
    let Level { text: level, plain } = level;
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
                Self::from_level(Level { text: level, plain })
            }

            /// The same, for a level that has been looked through.
            pub(crate) fn from_level(level: Level<'a>) -> Result<Self, IdError> {
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
    /// Whoever has an inbox, a person or a group: what stands in a topic's `{sender}` or `{recipient}` level.
    UserId, reserved: is_reserved_user
}

identifier! {
    /// One device or browser tab of a user: what stands in a presence topic's `{client_id}` level.
    ClientId, reserved: |_| false
}

identifier! {
    /// A message id as it stands in a topic. The observer's own are [`MessageId`]s; services inject messages with others.
    MessageKey, reserved: |_| false
}

impl UserId<'_> {
    /// Whether the identifier names a group by its form (`protocol.md`, section 3: it contains `group-`).
    pub fn is_group(self) -> bool {
        self.0.contains("group-")
    }
}

/// The id of one message: a UUID of version 7, so ids sort by the time they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(uuid::Uuid);

impl MessageId {
    /// Reads an id that an observer has given.
    pub fn parse(text: &str) -> Option<Self> {
        let id = uuid::Uuid::parse_str(text).ok()?;
        (id.get_version_num() == 7).then_some(Self(id))
    }

    /// When it was given: not before the message came.
    pub fn time(self) -> UnixMillis {
        let bytes = self.0.as_bytes();
        UnixMillis::new(
            bytes[..6]
                .iter()
                .fold(0, |millis, byte| millis << 8 | u64::from(*byte)),
        )
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Gives out message ids, each greater than the one before, even when the clock stands still or goes back.
///
/// The 62 random bits of an id are a keyed hash of its place in the sequence: unpredictable to whoever does not know the
/// key, and without asking the system for randomness once a message.
#[derive(Debug)]
pub struct MessageIds {
    key: RandomState,
    last_millis: u64,
    counter: u16,
}

impl MessageIds {
    /// Ids per millisecond before the time part is moved ahead: the 12 bits of `rand_a` (RFC 9562, section 6.2).
    const PER_MILLI: u16 = 1 << 12;

    /// A source with its own key.
    pub fn new(key: RandomState) -> Self {
        Self {
            key,
            last_millis: 0,
            counter: 0,
        }
    }

    /// Goes on behind `last`, which an earlier process has given: ids of one store rise, whatever the clock has done meanwhile.
    pub fn resume_after(&mut self, last: MessageId) {
        if last.time().as_millis() >= self.last_millis {
            self.last_millis = last.time().as_millis();
            self.counter = Self::PER_MILLI - 1;
        }
    }

    /// The next id, for a message handled at `now`.
    pub fn next(&mut self, now: UnixMillis) -> MessageId {
        if now.as_millis() > self.last_millis {
            self.last_millis = now.as_millis();
            self.counter = 0;
        } else {
            self.counter += 1;
            if self.counter == Self::PER_MILLI {
                self.last_millis += 1;
                self.counter = 0;
            }
        }
        let random = self.key.hash_one((self.last_millis, self.counter));
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&self.counter.to_be_bytes());
        bytes[2..].copy_from_slice(&random.to_be_bytes());
        MessageId(uuid::Builder::from_unix_timestamp_millis(self.last_millis, &bytes).into_uuid())
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

    #[test]
    fn message_ids_rise_whatever_the_clock_does() {
        let mut ids = MessageIds::new(RandomState::new());
        let clock = [5, 5, 7, 3, 7]
            .into_iter()
            .chain(std::iter::repeat_n(7, 10_000))
            .chain([8, 1_000]);
        let given: Vec<_> = clock.map(|t| ids.next(UnixMillis::new(t))).collect();
        assert!(given.is_sorted_by(|a, b| a < b), "ids repeat or fall");
        assert!(
            given.is_sorted_by(|a, b| a.to_string() < b.to_string()),
            "their text does not sort the same way"
        );
        assert_eq!(given[0].0.get_version_num(), 7);
        let last = given[given.len() - 1];
        assert_eq!(
            (MessageId::parse(&last.to_string()), last.time()),
            (Some(last), UnixMillis::new(1_000))
        );
        assert_eq!(
            MessageId::parse("550e8400-e29b-41d4-a716-446655440000"),
            None
        );
        let mut next = MessageIds::new(RandomState::new());
        next.resume_after(last);
        assert!(
            next.next(UnixMillis::new(3)) > last,
            "ids rise over a restart, even if the clock went back"
        );
    }
}
