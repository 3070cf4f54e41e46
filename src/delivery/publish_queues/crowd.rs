//! What becomes of publishes for which quarantine has no room.

use std::time::Instant;

use super::{Completed, PublishQueues, QueuedPublish, STEADY};
use crate::delivery::left::LeftRead;

impl PublishQueues {
    /// At most so many publishes may wait in quarantine.
    #[cfg(test)]
    pub(in crate::delivery) fn limit_quarantine(&mut self, most: usize) {
        self.quarantine.limit(most);
    }

    /// Leaves to the log what quarantine has no room for. Returns it.
    pub(super) fn leave_crowd(&mut self) -> Vec<Completed> {
        if self.quarantine.is_empty() || self.left.is_full() {
            return vec![];
        }
        let mut left = vec![];
        for (publishes, record) in self.quarantine.take_crowd(self.left.fewest_failed()) {
            let logged = publishes.iter();
            let logged = logged.filter_map(|queued| Some((&queued.publish, queued.logged_as?)));
            self.left.add_apart(logged, record);
            left.extend(publishes.iter().map(QueuedPublish::completed));
        }
        left
    }

    /// Whether too many publishes have been in quarantine for long: not only since an outage that
    /// has just begun.
    pub(super) fn note_crowd(&mut self, now: Instant) -> bool {
        match self.quarantine.is_crowded() {
            true => self.crowded_since = self.crowded_since.or(Some(now)),
            false => self.crowded_since = None,
        }
        self.crowded_since.is_some_and(|at| now >= at + STEADY)
    }

    /// Whether what was read for this still is what is to be read next of its topic.
    pub(in crate::delivery) fn is_to_be_read(&self, read: &LeftRead) -> bool {
        self.left.after(&read.topic) == Some(read.after)
    }
}
