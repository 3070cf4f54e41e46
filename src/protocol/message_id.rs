//! Message ids: what they look like, and the source that gives them out.
//!
//! Owns their order. The clock and the key of the source are handed in.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use crate::protocol::time::UnixMillis;

/// The id of one message: a UUID of version 7, so ids sort by the time at which they were given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(uuid::Uuid);

impl MessageId {
    /// Reads an id that an observer has given; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let id = uuid::Uuid::parse_str(text).ok()?;
        (id.get_version_num() == 7).then_some(Self(id))
    }

    /// Reads the 16 bytes of an id; `None` for any others.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let id = uuid::Uuid::from_slice(bytes).ok()?;
        (id.get_version_num() == 7).then_some(Self(id))
    }

    /// The id in 16 bytes. They sort as its text does.
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Greater than every id that was given before this one, and less than this one.
    #[must_use]
    pub fn just_before(self) -> Self {
        Self(uuid::Uuid::from_u128(self.0.as_u128() - 1))
    }

    /// When the id was given. The message came at this time or before.
    pub fn time(self) -> UnixMillis {
        let bytes = self.0.as_bytes()[..6].iter();
        UnixMillis::new(bytes.fold(0, |millis, byte| millis << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Gives out message ids. Each is greater than the one before, even if the clock stands still or
/// goes back.
///
/// The 62 random bits of an id are a keyed hash of its place in the sequence. Nobody can predict
/// them without the key, and no message asks the system for randomness.
#[derive(Debug)]
pub struct MessageIds {
    key: RandomState,
    last_millis: u64,
    counter: u16,
}

impl MessageIds {
    /// Ids in one millisecond before the time part is moved ahead: 12 bits, those of `rand_a`
    /// (RFC 9562, section 6.2).
    const PER_MILLI: u16 = 1 << 12;

    /// A source with its own key.
    pub fn new(key: RandomState) -> Self {
        Self {
            key,
            last_millis: 0,
            counter: 0,
        }
    }

    /// Continues after `last`, which an earlier process has given, so that the ids in one store
    /// rise over a restart even if the clock went back.
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
        assert_eq!(MessageId::from_bytes(last.as_bytes()), Some(last));
        assert_eq!(MessageId::from_bytes(b"too short"), None);
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
