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

    /// It does not wait any more, and is not published: the delivery log keeps it.
    pub(super) fn leave(&mut self, id: MessageId) {
        if let Entry::Occupied(mut waiting) = self.waiting.entry(id) {
            waiting.get_mut().entries -= 1;
            if waiting.get().entries == 0 {
                waiting.remove();
            }
        }
    }

    /// The highest id of all so far.
    pub(super) fn newest(&self) -> Option<MessageId> {
        self.newest
    }

    /// It waits for nothing any more.
    pub(super) fn finish(&mut self, id: MessageId) {
        if let Entry::Occupied(mut waiting) = self.waiting.entry(id) {
            waiting.get_mut().entries -= 1;
            if waiting.get().entries == 0 && waiting.remove().logged {
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

    /// An id up to which nothing waits.
    pub(super) fn published_up_to(&self) -> Option<MessageId> {
        match self.waiting.first_key_value() {
            Some((oldest, _)) => Some(oldest.just_before()),
            None => self.newest,
        }
    }
}
