//! Which messages wait for something, by their ids, and which the delivery log may forget.
//!
//! Owns the count of what waits for each id. Leaves to the [`ledger`](crate::delivery::ledger) what
//! a message waits for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::protocol::message_id::MessageId;

/// What waits of one id. A message that is delivered again has the id of the first.
#[derive(Debug, Default)]
struct Waiting {
    entries: usize,
    /// Whether the delivery log holds that message.
    logged: bool,
    /// Whether its publishes were all confirmed once.
    published: bool,
    /// Publishes of it that the log alone holds.
    left: usize,
}

/// The ids of messages that wait for something.
#[derive(Debug, Default)]
pub(super) struct Unpublished {
    waiting: BTreeMap<MessageId, Waiting>,
    /// Logged messages whose publishes are all confirmed.
    published: Vec<MessageId>,
    /// The highest id of all so far.
    newest: Option<MessageId>,
}

impl Unpublished {
    /// A message waits from now on.
    pub(super) fn insert(&mut self, id: MessageId) {
        self.newest = self.newest.max(Some(id));
        self.waiting.entry(id).or_default().entries += 1;
    }

    /// The delivery log holds it.
    pub(super) fn logged(&mut self, id: MessageId) {
        self.waiting.entry(id).or_default().logged = true;
    }

    /// The highest id of all so far.
    pub(super) fn newest(&self) -> Option<MessageId> {
        self.newest
    }

    /// The log alone holds one publish of it: another entry will wait for that one.
    pub(super) fn leave_part(&mut self, id: MessageId) {
        self.waiting.entry(id).or_default().left += 1;
    }

    /// Whether the log alone holds something of a message that it holds.
    pub(super) fn is_left(&self, id: MessageId) -> bool {
        // The last that is left is not counted here: see `remove`.
        let waiting = self.waiting.get(&id);
        waiting.is_none_or(|waiting| waiting.left > 0)
    }

    /// It waits for nothing any more; nor do so many publishes that the log alone held.
    pub(super) fn finish(&mut self, id: MessageId, read: usize) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.published = true;
            waiting.left = waiting.left.saturating_sub(read);
        }
        self.remove(id);
    }

    /// It does not wait any more, and is not published: the delivery log keeps it, unless another
    /// of the same id was published meanwhile.
    pub(super) fn leave(&mut self, id: MessageId) {
        self.remove(id);
    }

    fn remove(&mut self, id: MessageId) {
        let Entry::Occupied(mut waiting) = self.waiting.entry(id) else {
            return;
        };
        waiting.get_mut().entries = waiting.get().entries.saturating_sub(1);
        // One that is left is the last to be published. With more of them it is to be known which.
        if waiting.get().entries == 0 && waiting.get().left < 2 {
            let last = waiting.remove();
            if last.logged && last.published && last.left == 0 {
                self.published.push(id);
            }
        }
    }

    /// The logged messages whose publishes have all been confirmed since the last call.
    pub(super) fn take_published(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.published)
    }

    /// Whether [`Unpublished::take_published`] has something to return.
    pub(super) fn has_published(&self) -> bool {
        !self.published.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::protocol::message_id::MessageIds;
    use crate::protocol::time::UnixMillis;

    #[test]
    fn one_that_came_again_and_is_left_to_the_log_keeps_nothing_in_it() {
        let id = MessageIds::new(RandomState::new()).next(UnixMillis::new(1));
        for finishes_first in [true, false] {
            let mut unpublished = Unpublished::default();
            unpublished.insert(id);
            unpublished.logged(id);
            unpublished.insert(id);
            if finishes_first {
                unpublished.finish(id, 0);
                unpublished.leave(id);
            } else {
                unpublished.leave(id);
                unpublished.finish(id, 0);
            }
            assert_eq!(unpublished.take_published(), [id]);
        }
        let mut unpublished = Unpublished::default();
        unpublished.insert(id);
        unpublished.logged(id);
        unpublished.leave(id);
        assert_eq!(unpublished.take_published(), [], "it is not published");
    }

    #[test]
    fn it_is_known_whether_the_log_alone_holds_something() {
        let id = MessageIds::new(RandomState::new()).next(UnixMillis::new(1));
        let mut unpublished = Unpublished::default();
        unpublished.insert(id);
        unpublished.logged(id);
        assert!(!unpublished.is_left(id));
        unpublished.leave_part(id);
        assert!(unpublished.is_left(id));
        unpublished.leave(id);
        assert!(unpublished.is_left(id));
    }

    #[test]
    fn the_log_forgets_a_message_when_all_that_was_left_of_it_is_published() {
        let id = MessageIds::new(RandomState::new()).next(UnixMillis::new(1));
        for left in 1..=3 {
            let mut unpublished = Unpublished::default();
            unpublished.insert(id);
            unpublished.logged(id);
            for _ in 0..left {
                unpublished.leave_part(id);
            }
            unpublished.leave(id);
            for _ in 0..left {
                assert_eq!(unpublished.take_published(), []);
                unpublished.insert(id);
                unpublished.logged(id);
                unpublished.finish(id, 1);
            }
            assert_eq!(unpublished.take_published(), [id]);
        }
    }
}
