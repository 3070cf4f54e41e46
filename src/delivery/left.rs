//! Publishes that only the delivery log holds, because what goes to their topic is not confirmed.
//!
//! Owns which those are, topic by topic, and how much they take. Leaves to `publish_queues.rs` when
//! a topic's publishes are left to the log, and when there is room to read them.
//!
//! So a topic of which the broker confirms nothing takes some memory, and no more of it the more is
//! written to it.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;

/// What is left of one topic.
#[derive(Debug)]
struct LeftOf {
    /// Of this topic everything that is logged with a higher id is in the log alone, and nothing
    /// with a lower one.
    after: MessageId,
    publishes: usize,
    bytes: u64,
    /// What else is known of it, if it goes to quarantine when it is read.
    record: Option<Record>,
}

/// What quarantine knows of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// Tries that have failed since the broker last confirmed a publish to this topic.
    pub failed: u8,
    /// The broker may close the connection on it, or serve nothing behind it there.
    pub alone: bool,
    /// Until when it is not tried again.
    pub rests: Option<Instant>,
}

/// What is to be read from the delivery log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftRead {
    /// The topic whose publishes are read.
    pub topic: String,
    /// The message behind which the reading begins: those with higher ids are read.
    pub after: MessageId,
}

/// All publishes that are left to the log.
#[derive(Debug)]
pub(super) struct Left {
    /// In an order: what is simulated can be repeated.
    topics: BTreeMap<String, LeftOf>,
    bytes: u64,
    max_bytes: u64,
}

impl Default for Left {
    fn default() -> Self {
        Self {
            topics: BTreeMap::new(),
            bytes: 0,
            max_bytes: u64::MAX,
        }
    }
}

impl Left {
    /// With at most about so many bytes.
    pub(super) fn limit(&mut self, max_bytes: u64) {
        self.max_bytes = max_bytes;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// Whether the log holds as much as it may.
    pub(super) fn is_full(&self) -> bool {
        self.bytes >= self.max_bytes
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The id above which a topic's publishes are left; `None` if they are not.
    pub(super) fn after(&self, topic: &str) -> Option<MessageId> {
        self.topics.get(topic).map(|left| left.after)
    }

    /// How many publishes of a topic are left.
    pub(super) fn publishes(&self, topic: &str) -> usize {
        self.topics.get(topic).map_or(0, |left| left.publishes)
    }

    /// A publish of the message `id` is left to the log. If it is the first of its topic, all with
    /// a higher id are, too, from now on.
    pub(super) fn add(&mut self, publish: &Publish, id: MessageId) {
        let bytes = publish.log_bytes();
        let topic = publish.topic.as_str();
        let left = match self.topics.get_mut(topic) {
            Some(left) => left,
            None => self.topics.entry(topic.to_owned()).or_insert(LeftOf {
                after: id.just_before(),
                publishes: 0,
                bytes: 0,
                record: None,
            }),
        };
        left.publishes += 1;
        left.bytes += bytes;
        self.bytes += bytes;
    }

    /// All that waited in quarantine for one topic is left to the log: these publishes of these
    /// messages, the first of which has the lowest id.
    pub(super) fn add_apart<'a>(
        &mut self,
        publishes: impl Iterator<Item = (&'a Publish, MessageId)>,
        record: Record,
    ) {
        let mut first = None;
        for (publish, id) in publishes {
            self.add(publish, id);
            let (topic, lowest) = first.get_or_insert((publish.topic.as_str(), id));
            if let Some(left) = self.topics.get_mut(*topic) {
                left.after = left.after.min(lowest.just_before());
                left.record = Some(record);
            }
        }
    }

    /// What is known of a topic that goes to quarantine when it is read.
    pub(super) fn record(&self, topic: &str) -> Option<Record> {
        self.topics.get(topic)?.record
    }

    /// The same. Now it is known there.
    pub(super) fn take_record(&mut self, topic: &str) -> Option<Record> {
        self.topics.get_mut(topic)?.record.take()
    }

    /// The fewest tries that have failed, of all topics that go to quarantine when they are read.
    pub(super) fn fewest_failed(&self) -> Option<u8> {
        let records = self.topics.values().filter_map(|left| left.record);
        records.map(|record| record.failed).min()
    }

    /// What may be read: of the topics for which `has_room` holds, the one with the fewest failed
    /// tries, and of those the one that has waited longest.
    pub(super) fn next(
        &self,
        mut has_room: impl FnMut(&str, usize, Option<Record>) -> bool,
    ) -> Option<LeftRead> {
        let topics = self.topics.iter();
        let ready = topics.filter(|(topic, left)| has_room(topic, left.publishes, left.record));
        let failed = |left: &LeftOf| left.record.map_or(0, |record| record.failed);
        let (topic, left) = ready.min_by_key(|(_, left)| (failed(left), left.after))?;
        Some(LeftRead {
            topic: topic.clone(),
            after: left.after,
        })
    }

    /// A publish is in memory now, or will never be.
    pub(super) fn handle_read(&mut self, publish: &Publish) {
        let Some(left) = self.topics.get_mut(publish.topic.as_str()) else {
            return;
        };
        let bytes = publish.log_bytes().min(left.bytes);
        left.publishes = left.publishes.saturating_sub(1);
        left.bytes -= bytes;
        self.bytes -= bytes;
    }

    /// The log was read up to `up_to`: what it held of this topic is in memory. `is_last`: it holds
    /// nothing above that.
    pub(super) fn handle_read_up_to(
        &mut self,
        topic: &str,
        up_to: Option<MessageId>,
        is_last: bool,
    ) {
        let Some(left) = self.topics.get_mut(topic) else {
            return;
        };
        left.after = up_to.map_or(left.after, |id| id.max(left.after));
        if (is_last || left.publishes == 0)
            && let Some(left) = self.topics.remove(topic)
        {
            // What has been deleted meanwhile.
            self.bytes -= left.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::delivery::ledger::tests::publish;
    use crate::protocol::message_id::MessageIds;
    use crate::protocol::time::UnixMillis;

    #[test]
    fn it_is_full_at_its_bound_and_empty_when_all_is_read() {
        let mut ids = MessageIds::new(RandomState::new());
        let [first, second] = [(); 2].map(|()| ids.next(UnixMillis::new(1)));
        let one = publish("one");
        let mut left = Left::default();
        left.limit(2 * one.log_bytes());
        left.add(&one, first);
        assert_eq!(left.after("to"), Some(first.just_before()));
        assert!(!left.is_full());
        left.add(&one, second);
        assert!(left.is_full());
        assert_eq!(left.next(|_, publishes, _| publishes > 2), None);
        let read = left.next(|topic, _, _| topic == "to").unwrap();
        assert_eq!(read.after, first.just_before());
        left.handle_read(&one);
        left.handle_read_up_to("to", Some(first), false);
        assert_eq!(left.after("to"), Some(first));
        left.handle_read(&one);
        left.handle_read_up_to("to", Some(second), false);
        assert!(left.is_empty());
        assert_eq!(left.bytes(), 0);
    }
}
