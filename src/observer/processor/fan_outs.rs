//! Fan-outs that are not finished, and whose turn it is.
//!
//! Owns their order: the messages of one group go out one after another, so that every member gets
//! them in that order; so does what one user fetches; and all take turns. Leaves each step to the
//! processor.

use std::collections::VecDeque;

use crate::delivery::ledger::EntryId;
use crate::delivery::publish_queues::BULK_UNCONFIRMED;
use crate::rules::fan_out::{FanOut, QueueKey};
use crate::store::Origin;

/// A fan-out that is not finished.
#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    /// The message whose fan-out it is.
    pub entry: EntryId,
    /// What its writes have in common with the message's.
    pub origin: Origin,
    /// What the delivery log knows of it; `None` if it is not logged.
    pub logged: Option<Confirmed>,
    /// What is left to do.
    pub fan_out: FanOut,
}

/// How far a fan-out is surely confirmed: so far that more copies were made since than can be
/// unconfirmed.
#[derive(Clone, Debug, Default)]
pub(super) struct Confirmed {
    /// The positions before the last steps, and the copies that each of them made.
    steps: VecDeque<(usize, usize)>,
    /// The sum of those copies.
    copies: usize,
}

impl Confirmed {
    /// A step began at `position`, and made so many copies. Returns the position that is confirmed
    /// now, if it has moved.
    pub(super) fn step(&mut self, position: usize, copies: usize) -> Option<usize> {
        self.steps.push_back((position, copies));
        self.copies += copies;
        let before = self.steps.front().map(|(position, _)| *position);
        while let Some((_, oldest)) = self.steps.front()
            && self.copies - oldest >= BULK_UNCONFIRMED
        {
            self.copies -= oldest;
            self.steps.pop_front();
        }
        let confirmed = self.steps.front().map(|(position, _)| *position);
        confirmed.filter(|_| confirmed != before)
    }
}

/// Fan-outs that go out one after another, oldest first. It is never empty. A fan-out with no key
/// is a queue by itself.
#[derive(Clone, Debug)]
struct Queue(VecDeque<Unfinished>);

impl Queue {
    fn key(&self) -> Option<QueueKey<'_>> {
        self.0.front().and_then(|first| first.fan_out.queue())
    }
}

/// A queue whose turn it is, without its first fan-out.
pub(super) struct Turn(Queue);

/// All fan-outs that are not finished.
#[derive(Clone, Debug, Default)]
pub(super) struct FanOuts(VecDeque<Queue>);

impl FanOuts {
    /// Whether an earlier fan-out of the same queue is not finished.
    pub(super) fn must_wait(&self, fan_out: &FanOut) -> bool {
        self.queue_of(fan_out).is_some()
    }

    /// Puts a fan-out behind those of its queue.
    pub(super) fn push(&mut self, unfinished: Unfinished) {
        match self.queue_of(&unfinished.fan_out) {
            Some(at) => self.0[at].0.push_back(unfinished),
            None => self.0.push_back(Queue(VecDeque::from([unfinished]))),
        }
    }

    /// Takes out the next fan-out whose turn it is. [`FanOuts::put_back`] is to follow.
    pub(super) fn next(&mut self) -> Option<(Turn, Unfinished)> {
        let mut queue = self.0.pop_front()?;
        let first = queue.0.pop_front();
        let first = first.expect("a queue is kept only while something waits in it");
        Some((Turn(queue), first))
    }

    /// Ends a turn: the other queues come first now. `rest` is what is left of its fan-out.
    pub(super) fn put_back(&mut self, turn: Turn, rest: Option<Unfinished>) {
        let Turn(mut queue) = turn;
        if let Some(rest) = rest {
            queue.0.push_front(rest);
        }
        if !queue.0.is_empty() {
            self.0.push_back(queue);
        }
    }

    fn queue_of(&self, fan_out: &FanOut) -> Option<usize> {
        let key = fan_out.queue()?;
        self.0.iter().position(|queue| queue.key() == Some(key))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|queue| queue.0.len()).sum()
    }

    #[cfg(test)]
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever is unconfirmed is among the copies made last.
        #[test]
        fn no_position_is_confirmed_while_a_copy_before_it_may_not_be(
            steps in prop::collection::vec(0..=32_usize, 0..60)
        ) {
            let mut confirmed = Confirmed::default();
            let mut position = 0;
            for (n, copies) in steps.iter().enumerate() {
                if let Some(moved) = confirmed.step(n, *copies) {
                    prop_assert!(moved > position);
                    position = moved;
                }
                let made_since: usize = steps[position..=n].iter().sum();
                prop_assert!(position == 0 || made_since >= BULK_UNCONFIRMED);
            }
        }
    }
}
