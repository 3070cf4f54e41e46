//! More topics than quarantine holds: what goes to some of them is left to the delivery log.
//!
//! Owns which these are. All take turns: those that were tried least are here first.

use std::cmp::Reverse;

use super::{IN_FLIGHT, MOST_BYTES, Quarantine, Suspect, Suspicion, Topic};
use crate::delivery::left::Record;
use crate::delivery::publish_queue::QueuedPublish;
use crate::protocol::message_id::MessageId;
use crate::rules::plan::Purpose;

impl Topic {
    /// Whether the delivery log can keep all that waits, and nothing of it is in flight.
    fn can_be_left(&self) -> bool {
        // The log is read from the first one on: nothing behind that may be over.
        let first = self.waiting.front().map(|first| first.queued.logged_as);
        let is_logged = |suspect: &Suspect| {
            let queued = &suspect.queued;
            queued.logged_as.is_some() && queued.is_newest
        };
        self.sent.is_none()
            && first.is_some_and(|first| first > self.over)
            && self.waiting.iter().all(is_logged)
    }

    /// Whether no log holds what waits. Bulk copies do not count: they are made only as there is
    /// room for them.
    pub(super) fn is_nowhere_else(&self) -> bool {
        let is_here_only = |suspect: &Suspect| {
            let queued = &suspect.queued;
            queued.logged_as.is_none() && queued.purpose != Purpose::BulkCopy
        };
        self.waiting.iter().all(is_here_only)
    }
}

impl Quarantine {
    /// At most so many publishes may wait here.
    #[cfg(test)]
    pub(in crate::delivery) fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// Whether more waits than may.
    pub(in crate::delivery) fn is_crowded(&self) -> bool {
        self.len() > self.most
    }

    /// Takes out topics that the delivery log can keep, if more waits here than may, or a topic is
    /// to be read from the log of which fewer tries have failed (`fewest`). Returns what waited for
    /// each.
    pub(in crate::delivery) fn take_crowd(
        &mut self,
        fewest: Option<u8>,
    ) -> Vec<(Vec<QueuedPublish>, Record)> {
        let most = self.most;
        let is_too_much = |publishes, bytes| publishes > most || bytes > MOST_BYTES;
        // So that some can be read.
        let with_room = most.saturating_sub(IN_FLIGHT);
        let is_passed = |failed| fewest.is_some_and(|fewest| failed > fewest);
        let gives_way = fewest.is_some() && self.is_full();
        if !gives_way && !is_too_much(self.len(), self.payload_bytes) {
            return vec![];
        }
        let topics = self.topics.iter();
        let mut topics: Vec<_> = topics
            .filter(|(_, topic)| topic.can_be_left())
            .map(|(name, topic)| (topic.failed, topic.waiting[0].sequence, name.clone()))
            .collect();
        topics.sort_unstable_by_key(|(failed, sequence, _)| Reverse((*failed, *sequence)));
        let mut taken = vec![];
        for (failed, _, name) in topics {
            let makes_room = is_passed(failed)
                && (self.len() > with_room || self.payload_bytes > MOST_BYTES / 4);
            if !makes_room && !is_too_much(self.len(), self.payload_bytes) {
                break;
            }
            let topic = self.take_topic(&name);
            let record = Record {
                failed: topic.failed,
                alone: topic.alone,
                rests: topic.rests,
            };
            let waiting = topic.waiting.into_iter();
            taken.push((waiting.map(|suspect| suspect.queued).collect(), record));
        }
        taken
    }

    /// Takes the first publish to a topic that was left to the log.
    pub(in crate::delivery) fn push_again(&mut self, queued: QueuedPublish, record: Record) {
        let name = queued.publish.topic.as_str().to_owned();
        let suspicion = match record.alone {
            true => Suspicion::Connection,
            false => Suspicion::Unconfirmed,
        };
        self.push(queued, suspicion);
        if let Some(topic) = self.topics.get_mut(&name) {
            topic.failed = topic.failed.max(record.failed);
            topic.rests = topic.rests.max(record.rests);
        }
    }

    /// A publish of this message to a topic is over.
    pub(in crate::delivery) fn note_over(&mut self, topic: &str, id: MessageId) {
        if let Some(topic) = self.topics.get_mut(topic) {
            topic.over = topic.over.max(Some(id));
        }
    }

    /// Takes out a topic of which nothing is in flight.
    pub(super) fn take_topic(&mut self, name: &str) -> Topic {
        let topic = self.topics.remove(name).unwrap_or_default();
        for suspect in &topic.waiting {
            self.topic_of.remove(&suspect.sequence);
            self.payload_bytes -= suspect.payload_bytes();
        }
        topic
    }
}
