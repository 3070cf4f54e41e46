//! What is accepted and waits in the delivery log alone, because memory has no room for it.
//!
//! Owns which messages those are, how much they take, and whether more may be accepted. Leaves
//! what is in memory to the [`ledger`](crate::delivery::ledger), and the log to the store.
//!
//! While the broker takes publishes and more comes in than goes out, what comes in waits at the
//! broker: it has more room than we have. When it takes none, because it blocks those who publish
//! or cannot be reached, messages go on being accepted, and the log keeps them. From then on, and
//! after a restart with something in the log, all of them are left to the log, until it is read to
//! its end: so they go out in the order of their ids.

use std::time::Instant;

use crate::protocol::message_id::MessageId;

/// Ticks in which the broker confirmed nothing, before it counts as taking no publishes.
const STALLED_TICKS: u32 = 2;

/// What the observer tells its backlog at each tick.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    /// How many direct publishes the broker has confirmed or refused so far.
    pub confirmed: u64,
    /// How many are not confirmed.
    pub unconfirmed: usize,
    /// Whether memory has room for more messages.
    pub has_room: bool,
    /// The highest id that a message was given so far.
    pub newest: Option<MessageId>,
    /// The time.
    pub now: Instant,
}

/// What has changed at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Messages are left to the log from now on.
    Begun,
    /// The log holds as much as it may.
    Full,
}

/// The messages that only the delivery log holds.
#[derive(Debug)]
pub struct Backlog {
    max_bytes: u64,
    waiting: Option<Waiting>,
    confirmed: u64,
    /// Ticks since the broker confirmed something.
    silent_ticks: u32,
}

#[derive(Debug)]
struct Waiting {
    /// Messages up to this one are in memory, or done; `None` before the first.
    after: Option<MessageId>,
    bytes: u64,
    since: Instant,
    /// Whether it was reported that the log is full.
    is_full: bool,
}

impl Backlog {
    /// Nothing waits, and at most about `max_bytes` may.
    pub fn new(max_bytes: u64) -> Self {
        Self {
            max_bytes,
            waiting: None,
            confirmed: 0,
            silent_ticks: 0,
        }
    }

    /// The log of an earlier process holds so many bytes, none of which is in memory.
    #[must_use]
    pub fn resumed(self, bytes: u64, now: Instant) -> Self {
        let waiting = Waiting {
            after: None,
            bytes,
            since: now,
            is_full: false,
        };
        Self {
            waiting: Some(waiting),
            ..self
        }
    }

    /// Called at intervals of half a second or so.
    pub fn tick(&mut self, pulse: &Pulse) -> Option<Change> {
        let is_silent = pulse.unconfirmed > 0 && pulse.confirmed == self.confirmed;
        self.silent_ticks = if is_silent { self.silent_ticks + 1 } else { 0 };
        self.confirmed = pulse.confirmed;
        let is_full = self.is_full();
        match &mut self.waiting {
            None if self.silent_ticks >= STALLED_TICKS && !pulse.has_room => {
                self.waiting = Some(Waiting {
                    after: pulse.newest,
                    bytes: 0,
                    since: pulse.now,
                    is_full: false,
                });
                Some(Change::Begun)
            }
            None => None,
            Some(waiting) => {
                let was_full = std::mem::replace(&mut waiting.is_full, is_full);
                (is_full && !was_full).then_some(Change::Full)
            }
        }
    }

    /// Messages with a higher id are left to the log: `Some(None)` means all. `None` if everything
    /// is in memory.
    pub fn after(&self) -> Option<Option<MessageId>> {
        self.waiting.as_ref().map(|waiting| waiting.after)
    }

    /// Whether the broker takes no publishes.
    pub fn is_stalled(&self) -> bool {
        self.silent_ticks >= STALLED_TICKS
    }

    /// Whether nothing more may be accepted.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.max_bytes
    }

    /// About how many bytes the log holds for messages that are not in memory.
    pub fn bytes(&self) -> u64 {
        self.waiting.as_ref().map_or(0, |waiting| waiting.bytes)
    }

    /// Since when something waits in the log alone.
    pub fn since(&self) -> Option<Instant> {
        self.waiting.as_ref().map(|waiting| waiting.since)
    }

    /// A message is left to the log.
    pub fn handle_left(&mut self, bytes: u64) {
        if let Some(waiting) = &mut self.waiting {
            waiting.bytes = waiting.bytes.saturating_add(bytes);
        }
    }

    /// A message is in memory now, and so is everything before it.
    pub fn handle_read(&mut self, id: MessageId, bytes: u64) {
        if let Some(waiting) = &mut self.waiting {
            waiting.after = waiting.after.max(Some(id));
            waiting.bytes = waiting.bytes.saturating_sub(bytes);
        }
    }

    /// Everything that the log holds is in memory.
    pub fn handle_all_read(&mut self) {
        self.waiting = None;
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some time to start from"
)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::protocol::message_id::MessageIds;
    use crate::protocol::time::UnixMillis;

    fn ids<const N: usize>() -> [MessageId; N] {
        let mut ids = MessageIds::new(RandomState::new());
        [(); N].map(|()| ids.next(UnixMillis::new(1)))
    }

    /// Nothing is confirmed any more.
    fn silence(newest: MessageId, has_room: bool) -> Pulse {
        Pulse {
            confirmed: 7,
            unconfirmed: 1,
            has_room,
            newest: Some(newest),
            now: Instant::now(),
        }
    }

    #[test]
    fn it_begins_when_memory_is_full_and_the_broker_takes_nothing() {
        let [newest] = ids();
        let mut backlog = Backlog::new(100);
        let pulses = [
            silence(newest, false),
            silence(newest, false),
            Pulse {
                confirmed: 8,
                ..silence(newest, false)
            },
            Pulse {
                confirmed: 8,
                ..silence(newest, false)
            },
        ];
        for pulse in pulses {
            assert_eq!(backlog.tick(&pulse), None);
        }
        let more = Pulse {
            confirmed: 8,
            ..silence(newest, true)
        };
        assert_eq!(backlog.tick(&more), None, "there is room");
        let more = Pulse {
            has_room: false,
            ..more
        };
        assert_eq!(backlog.tick(&more), Some(Change::Begun));
        assert_eq!(backlog.after(), Some(Some(newest)));
        assert!(backlog.is_stalled());
    }

    #[test]
    fn it_is_full_at_its_bound_and_takes_more_when_some_was_read() {
        let [newest, first, second] = ids();
        let mut backlog = Backlog::new(100);
        while backlog.tick(&silence(newest, false)).is_none() {}
        backlog.handle_left(60);
        assert_eq!(backlog.tick(&silence(newest, false)), None);
        assert!(!backlog.is_full());
        backlog.handle_left(60);
        assert_eq!(backlog.tick(&silence(newest, false)), Some(Change::Full));
        assert_eq!(backlog.tick(&silence(newest, false)), None, "said once");
        assert!(backlog.is_full());
        backlog.handle_read(first, 60);
        assert!(!backlog.is_full());
        assert_eq!(backlog.after(), Some(Some(first)));
        backlog.handle_read(second, 60);
        backlog.handle_all_read();
        assert_eq!((backlog.after(), backlog.bytes()), (None, 0));
    }

    #[test]
    fn what_an_earlier_process_left_comes_first() {
        let [first] = ids();
        let mut backlog = Backlog::new(100).resumed(50, Instant::now());
        assert_eq!(backlog.after(), Some(None));
        assert!(!backlog.is_stalled(), "the broker may take publishes");
        backlog.handle_read(first, 20);
        assert_eq!((backlog.after(), backlog.bytes()), (Some(Some(first)), 30));
    }
}
