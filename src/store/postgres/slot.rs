//! Slots: the shares that several observers on one store have in its numbers.
//!
//! Owns how positions of the log and numbers of the outbox are dealt out, so that no two slots ever
//! give the same. A store with one slot counts by ones. One with several makes positions of the
//! time, behind those that the slots have stored before: so they sort by it whichever slot gave
//! them, and an answer comes after its question whatever the machines' clocks say.

use crate::protocol::time::UnixMillis;
use crate::rules::history::stored_at;

/// The most slots that a store can have.
pub const MAX_SLOTS: u16 = 16;

/// Numbers are dealt out in turns of so many, one for each slot that there may be.
const TURN: i64 = MAX_SLOTS as i64;
/// Positions of one millisecond. Clients get positions as cursors: JavaScript's numbers hold those
/// of all times until 2109.
const PER_MILLI: i64 = 1 << 11;

/// One slot of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    number: u16,
    of: u16,
}

impl Slot {
    /// The slot of a store that has one.
    pub const ONLY: Self = Self { number: 0, of: 1 };

    /// The slot `number`, counted from 0, of `of`.
    pub fn new(number: u16, of: u16) -> Self {
        debug_assert!(number < of && of <= MAX_SLOTS, "{number} of {of}");
        Self { number, of }
    }

    /// Its number, from 0.
    pub fn number(self) -> u16 {
        self.number
    }

    /// How many there are.
    pub fn of(self) -> u16 {
        self.of
    }

    /// Whether there are others.
    pub(super) fn is_one_of_several(self) -> bool {
        self.of > 1
    }

    /// Its row.
    pub(super) fn row(self) -> i64 {
        self.number.into()
    }

    /// Which numbers are its, for a statement: those with `(n & 15) % ($1 / 16) = $1 & 15`. That
    /// deals out numbers, too, that no slot has given: those of a store that had one slot, and was
    /// copied.
    pub(super) fn part(self) -> i64 {
        i64::from(self.of) * TURN + self.row()
    }

    /// The position behind `last` for a message that is stored at `now`, and its time. `newest` is
    /// the time of the message before: times never fall.
    pub(super) fn next_position(
        self,
        last: i64,
        newest: UnixMillis,
        now: UnixMillis,
    ) -> (i64, UnixMillis) {
        let at = stored_at(newest, now);
        if !self.is_one_of_several() {
            return (last + 1, at);
        }
        let first = super::millis(at) * PER_MILLI + self.row();
        // What was copied from another store may have any number.
        let position = first.max((last / TURN + 1) * TURN + self.row());
        (position, Self::time_of(position))
    }

    /// The number of an event behind `last`.
    pub(super) fn next_event(self, last: i64) -> i64 {
        match self.is_one_of_several() {
            true => (last / TURN + 1) * TURN + self.row(),
            false => last + 1,
        }
    }

    /// The time of a position that one of several slots has given.
    pub(super) fn time_of(position: i64) -> UnixMillis {
        super::unix(position / PER_MILLI)
    }

    /// The last position that one of several slots can give at a time.
    pub(super) fn last_of(time: UnixMillis) -> i64 {
        super::millis(time)
            .saturating_add(1)
            .saturating_mul(PER_MILLI)
            - 1
    }

    /// By how much positions rise in this time.
    pub(super) fn positions_in(time: std::time::Duration) -> i64 {
        i64::try_from(time.as_millis()).map_or(i64::MAX, |millis| millis * PER_MILLI)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As statements ask.
    fn is_of(slot: Slot, number: i64) -> bool {
        let part = slot.part();
        (number & 15) % (part / 16) == part & 15
    }

    #[test]
    fn no_two_slots_give_the_same_number_and_none_goes_back() {
        let slots: Vec<Slot> = (0..3).map(|n| Slot::new(n, 3)).collect();
        let mut given = std::collections::HashSet::new();
        let mut events = std::collections::HashSet::new();
        for slot in &slots {
            let (mut last, mut event, mut newest) = (0, 0, UnixMillis::new(0));
            for now in [5, 5, 7, 3].into_iter().chain([8; 1_000]).chain([9, 2_000]) {
                let now = UnixMillis::new(now);
                let (position, at) = slot.next_position(last, newest, now);
                assert!(position > last && at >= newest && at >= now.min(newest));
                assert_eq!(at, Slot::time_of(position));
                assert!(is_of(*slot, position));
                assert!(given.insert(position), "{position} was given twice");
                (last, newest) = (position, at);
                event = slot.next_event(event);
                assert!(is_of(*slot, event));
                assert!(events.insert(event), "{event} was given twice");
            }
            assert_eq!(newest, UnixMillis::new(2_000));
            let (position, _) = slot.next_position(last + 5, newest, UnixMillis::new(1));
            assert!(position > last + 5 && is_of(*slot, position));
        }
    }

    #[test]
    fn the_only_slot_counts_by_ones() {
        let now = UnixMillis::new(7);
        assert_eq!(
            Slot::ONLY.next_position(41, UnixMillis::new(9), now),
            (42, UnixMillis::new(10)),
            "times never fall"
        );
        assert_eq!(Slot::ONLY.next_event(41), 42);
    }

    #[test]
    fn every_number_is_one_slots() {
        for of in 1..=MAX_SLOTS {
            for number in -40..40 {
                let slots = (0..of).filter(|n| is_of(Slot::new(*n, of), number));
                assert_eq!(slots.count(), 1, "{number} of {of}");
            }
        }
    }
}
