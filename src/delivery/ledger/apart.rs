//! What does not wait in a direct queue: what is in quarantine, what is left to the delivery log,
//! and what the log holds for the decision service.
//!
//! Owns how the ledger's entries follow their publishes there and back.

use std::time::Instant;

use super::{
    BYTES_UNDER_WAY, Completed, Entry, EntryId, Ledger, Message, Purpose, QUEUED_PER_MESSAGE,
    Quarantined, QueuedPublish, Standing,
};
use crate::delivery::left::LeftRead;
use crate::delivery::publish_queue::PublishId;
use crate::delivery::publish_queues::SetApart;
use crate::delivery::redelivery::Earlier;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;

impl Entry {
    /// Whether it is neither waited for at the broker, nor logged for the decision service.
    pub(super) fn is_under_way(&self) -> bool {
        self.standing == Standing::Detached && !self.question
    }
}

impl Ledger {
    /// The broker has answered a publish of a publisher, if only to refuse it.
    pub fn note_answer(&mut self, publisher: usize) {
        self.queues.note_answer(publisher);
    }

    /// The broker does not take a publish now, and may later: it goes to quarantine, where it is
    /// tried again. Unknown ids are ignored.
    pub fn handle_turned_down(&mut self, id: PublishId, now: Instant) {
        let rest = self.ack_timeout;
        if let Some(given_up) = self.queues.turn_down(id, rest, now) {
            self.handle_refused(given_up, Refusal::Unauthorized);
        }
    }

    /// At most so many publishes wait in quarantine.
    #[cfg(test)]
    pub fn limit_quarantine(&mut self, most: usize) {
        self.queues.limit_quarantine(most);
    }

    /// Whether something is left to the log that quarantine had no room for.
    #[cfg(test)]
    pub fn has_left_crowd(&self) -> bool {
        self.queues.left().fewest_failed().is_some()
    }

    /// Publishes in quarantine.
    pub fn quarantined(&self) -> usize {
        self.queues.quarantined()
    }

    /// The messages with bulk copies in quarantine.
    pub fn quarantined_bulk(&self) -> Vec<EntryId> {
        self.queues.quarantined_bulk().map(EntryId).collect()
    }

    /// Adds a publish of the observer's own that shows which connections the broker serves: it goes
    /// out on each where none is under way, whatever else is in flight.
    pub fn add_canaries(&mut self, entry: EntryId, publish: Publish) {
        let canary = QueuedPublish::own(entry.0, publish);
        let pushed = self.queues.push_canaries(&canary);
        let entry = &mut self.entries[entry.0];
        entry.outstanding += pushed;
        entry.own = true;
    }

    /// Adds a publish of the observer's own to which others have subscribed, with queues that the
    /// broker may be unable to write to: it holds up nobody.
    pub fn add_apart(&mut self, entry: EntryId, publish: Publish) {
        self.queues.push_apart(QueuedPublish::own(entry.0, publish));
        let entry = &mut self.entries[entry.0];
        entry.outstanding += 1;
        entry.own = true;
    }

    /// Whether nothing is under way but canaries, and what was added to go apart.
    pub fn is_idle(&self) -> bool {
        let of_others = |entry: &Entry| entry.is_under_way() && !entry.own;
        self.arrived.is_empty()
            && !self.entries.iter().any(|(_, entry)| of_others(entry))
            && self.queues.is_idle()
    }

    /// Whether the delivery log holds all that is under way, or the broker does.
    pub fn is_kept(&self) -> bool {
        let is_kept = |entry: &Entry| match entry.standing {
            Standing::Arrived | Standing::Expected => true,
            Standing::Detached => entry.logged || entry.own,
        };
        self.entries.iter().all(|(_, entry)| is_kept(entry))
    }

    /// Whether the broker waits for no ack of a message with this id, nor of one before it.
    pub fn is_acknowledged_up_to(&self, id: MessageId) -> bool {
        let arrived = self.arrived.iter().map(|(key, _)| *key);
        let expected = self.redeliveries.expected();
        let open = expected.filter_map(|earlier| match earlier {
            Earlier::Open(key) => Some(key),
            Earlier::Acknowledged(_) | Earlier::Stored(_) => None,
        });
        arrived.chain(open).all(|key| self.entries[key].id > id)
    }

    /// Waits no longer for canaries, and for what was added to go apart.
    pub fn forget_own(&mut self) {
        for own in self.queues.take_own() {
            self.finish_part(own.entry);
        }
    }

    /// Moves publishes that the broker seems never to confirm to quarantine, with whatever goes to
    /// their topics, and gives up those that have had their tries there. To be called at intervals
    /// of half a second or so.
    pub fn set_apart(&mut self, now: Instant) -> Quarantined {
        let SetApart {
            moved,
            over,
            given_up,
            left,
            replace,
            wants_canaries,
        } = self.queues.set_apart(self.ack_timeout, now);
        for canary in over {
            self.finish_part(canary.entry);
        }
        for id in given_up {
            self.handle_refused(id, Refusal::Unauthorized);
        }
        self.handle_left(&left);
        Quarantined {
            moved,
            replace,
            wants_canaries,
        }
    }
}

/// What waits for the decision service while the delivery log holds it.
impl Ledger {
    /// The log holds a message that is to be decided on later: it can be acknowledged, and takes no
    /// room until then.
    pub fn question_logged(&mut self, entry: EntryId) {
        let question = &mut self.entries[entry.0];
        question.question = true;
        self.bytes -= question.bytes;
        self.questions += 1;
        self.logged(entry);
    }

    /// It is decided on now.
    pub fn question_answered(&mut self, entry: EntryId) {
        let question = &mut self.entries[entry.0];
        question.question = false;
        self.bytes += question.bytes;
        self.questions -= 1;
    }

    /// How many messages wait so.
    pub fn questions(&self) -> usize {
        self.questions
    }

    /// Entries that take room.
    pub(super) fn under_way(&self) -> usize {
        self.entries.len() - self.questions
    }
}

/// What is left to the delivery log.
impl Ledger {
    /// At most about so many bytes are left to the log by topic; beyond that nothing more is taken.
    pub fn limit_left(&mut self, max_bytes: u64) {
        self.queues.limit_left(max_bytes);
    }

    /// About how many bytes are left to the log by topic.
    pub fn left_bytes(&self) -> u64 {
        self.queues.left().bytes()
    }

    /// How many messages may be read from the delivery log.
    pub fn room_for_read(&self) -> usize {
        let most = self.window * QUEUED_PER_MESSAGE + self.room_of_quarantine();
        match self.bytes < BYTES_UNDER_WAY / 2 {
            true => most.saturating_sub(self.under_way().max(self.queues.direct_len())),
            false => 0,
        }
    }

    /// The delivery log alone holds what a message leads to, and it is read from there later, as
    /// another entry.
    pub fn leave_to_log(&mut self, entry: EntryId) {
        let key = entry.0;
        let entry = &mut self.entries[key];
        debug_assert_eq!(entry.outstanding, 1, "nothing but the decision");
        entry.outstanding = 0;
        entry.logged = true;
        self.unpublished.leave(entry.id);
        self.settle(key);
        self.release();
    }

    /// What goes to a topic that takes more than its share of a publisher is left to the log, but
    /// for what is in flight.
    pub(super) fn leave_greedy(&mut self, publisher: usize, now: Instant) {
        let left = self.queues.leave_greedy(publisher, now);
        self.handle_left(&left);
    }

    /// The delivery log alone holds these publishes from now on.
    fn handle_left(&mut self, left: &[Completed]) {
        for left in left {
            let entry = &mut self.entries[left.entry];
            entry.left += 1;
            match entry.read {
                0 => self.unpublished.leave_part(entry.id),
                // It was left before.
                1.. => entry.read -= 1,
            }
            self.bytes -= left.bytes;
            self.finish_part(left.entry);
        }
    }

    /// Whether what was read from the log is to be taken: more of its topic may have been left to
    /// the log meanwhile. Then it is read again.
    pub fn is_to_be_read(&self, read: &LeftRead) -> bool {
        self.queues.is_to_be_read(read)
    }

    /// What is to be read from the log next, if there is room for it, of messages up to `up_to`.
    pub fn next_left(&self, up_to: Option<MessageId>) -> Option<LeftRead> {
        match self.bytes < BYTES_UNDER_WAY / 2 {
            true => self.queues.next_left(up_to),
            false => None,
        }
    }

    /// Whether the delivery log alone holds something of a message that it holds.
    pub fn is_left(&self, id: MessageId) -> bool {
        self.unpublished.is_left(id)
    }

    /// What was left of one message to one topic is read from the log.
    pub fn handle_read(&mut self, message: Message, publishes: Vec<(Purpose, Publish)>) {
        let EntryId(key) = self.insert(message, None);
        let entry = &mut self.entries[key];
        entry.logged = true;
        entry.read = publishes.len();
        entry.outstanding += publishes.len();
        self.unpublished.logged(entry.id);
        for (purpose, publish) in publishes {
            entry.copied |= purpose != Purpose::Notice;
            let bytes = publish.topic.as_str().len() + publish.payload.len();
            self.bytes += bytes;
            self.queues.push_read(QueuedPublish {
                entry: key,
                publish,
                purpose,
                bytes,
                logged_as: Some(entry.id),
                is_newest: true,
            });
        }
        self.finish_part(key);
    }

    /// All that was left to a topic is read, of messages up to `up_to`. `is_last`: the log holds no
    /// later ones.
    pub fn handle_read_up_to(&mut self, topic: &str, up_to: Option<MessageId>, is_last: bool) {
        for id in self.queues.handle_read_up_to(topic, up_to, is_last) {
            self.handle_refused(id, Refusal::Unauthorized);
        }
    }
}
