//! Fan-outs that are not finished, and whose turn it is.
//!
//! Owns their order: the messages of one group go out one after another, so that every member gets
//! them in that order, and the groups take turns. Leaves each step to the processor.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::delivery::ledger::EntryId;
use crate::rules::fan_out::FanOut;
use crate::store::Origin;

/// A fan-out that is not finished.
#[derive(Clone, Debug)]
pub(super) struct Unfinished {
    /// The message whose fan-out it is.
    pub entry: EntryId,
    /// What its writes have in common with the message's.
    pub origin: Origin,
    /// The topic that the message came on.
    pub came_on: Bytes,
    /// How many publishes of the message the delivery log holds; `None` if they are not logged.
    pub logged: Option<usize>,
    /// What is left to do.
    pub fan_out: FanOut,
}

/// Fan-outs of one group, oldest first. A fan-out that concerns no group is a queue by itself.
#[derive(Clone, Debug)]
struct Queue {
    group: Option<Group>,
    waiting: VecDeque<Unfinished>,
}

#[derive(Clone, Debug)]
struct Group {
    app: Box<str>,
    id: Box<str>,
}

/// A queue whose turn it is, without its first fan-out.
pub(super) struct Turn(Queue);

/// All fan-outs that are not finished.
#[derive(Clone, Debug, Default)]
pub(super) struct FanOuts(VecDeque<Queue>);

impl FanOuts {
    /// Whether an earlier fan-out of the same group is not finished.
    pub(super) fn must_wait(&self, fan_out: &FanOut) -> bool {
        self.queue_of(fan_out).is_some()
    }

    /// Puts a fan-out behind those of its group.
    pub(super) fn push(&mut self, unfinished: Unfinished) {
        if let Some(at) = self.queue_of(&unfinished.fan_out) {
            self.0[at].waiting.push_back(unfinished);
            return;
        }
        let group = unfinished.fan_out.group();
        let group = group.map(|(app, id)| Group {
            app: app.into(),
            id: id.into(),
        });
        self.0.push_back(Queue {
            group,
            waiting: VecDeque::from([unfinished]),
        });
    }

    /// Takes out the next fan-out whose turn it is. [`FanOuts::put_back`] is to follow.
    pub(super) fn next(&mut self) -> Option<(Turn, Unfinished)> {
        let mut queue = self.0.pop_front()?;
        let first = queue.waiting.pop_front();
        let first = first.expect("a queue is kept only while something waits in it");
        Some((Turn(queue), first))
    }

    /// Ends a turn: the other queues come first now. `rest` is what is left of its fan-out.
    pub(super) fn put_back(&mut self, turn: Turn, rest: Option<Unfinished>) {
        let Turn(mut queue) = turn;
        if let Some(rest) = rest {
            queue.waiting.push_front(rest);
        }
        if !queue.waiting.is_empty() {
            self.0.push_back(queue);
        }
    }

    fn queue_of(&self, fan_out: &FanOut) -> Option<usize> {
        let (app, id) = fan_out.group()?;
        let is_same = |group: &Group| (&*group.app, &*group.id) == (app, id);
        let queues = self.0.iter();
        let mut groups = queues.map(|queue| queue.group.as_ref());
        groups.position(|group| group.is_some_and(is_same))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(test)]
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
