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

    /// It waits for nothing any more.
    pub(super) fn finish(&mut self, id: MessageId) {
        if self.remove(id).is_some_and(|waiting| waiting.logged) {
            self.published.push(id);
        }
    }

    /// It does not wait any more, and is not published: the delivery log keeps it.
    pub(super) fn leave(&mut self, id: MessageId) {
        self.remove(id);
    }

    /// Removes one that waits. Returns what is known of the id if it was the last.
    fn remove(&mut self, id: MessageId) -> Option<Waiting> {
        let Entry::Occupied(mut waiting) = self.waiting.entry(id) else {
            return None;
        };
        waiting.get_mut().entries -= 1;
        (waiting.get().entries == 0).then(|| waiting.remove())
    }

    /// The logged messages whose publishes have all been confirmed since the last call.
    pub(super) fn take_published(&mut self) -> Vec<MessageId> {
        std::mem::take(&mut self.published)
    }

    /// Whether [`Unpublished::take_published`] has something to return.
    pub(super) fn has_published(&self) -> bool {
        !self.published.is_empty()
    }

    /// An id up to which nothing waits.
    pub(super) fn published_up_to(&self) -> Option<MessageId> {
        match self.waiting.first_key_value() {
            Some((oldest, _)) => Some(oldest.just_before()),
            None => self.newest,
        }
    }
}
