//! Which message waits for what, and when it may be acknowledged.
//!
//! The ledger keeps these rules, in whatever order confirmations, losses and time-outs come:
//! - A message is acknowledged when the delivery log of the store holds what it leads to; without
//!   a log, when every publish made of it is confirmed. Acks go out in the order the messages
//!   arrived (MQTT 3.1.1, section 4.6).
//! - It is acknowledged only on the connection it arrived on. RabbitMQ numbers packets anew on each
//!   connection, so an old ack would settle a different message.
//! - A publish stays in its queue until it is confirmed. On each new connection it goes out again,
//!   oldest first.
//! - A publish that may have ended two connections, or is not confirmed while others are, goes to
//!   quarantine with whatever goes to the same topic, so that it holds up nobody else. There it is
//!   tried alone until it is clear that it is at fault, and then given up. RabbitMQ closes the
//!   connection on a publish it refuses, and does not say which one it was.
//! - A message that the broker delivers again after a lost session or a killed process is
//!   recognised and keeps its id.
//! - Bulk copies have a queue and a connection of their own, and are made only as that queue
//!   empties. So a group of ten thousand neither fills the memory nor delays direct messages.
//!
//! It does no I/O and reads no clock: the observer feeds it and carries out what it asks for. The
//! queues are in `publish_queue.rs`, the recognition of redeliveries in `redelivery.rs`.

mod apart;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slab::Slab;

pub use crate::delivery::entry::{Ack, Admission, EntryId, Failed, Finished, Message, Quarantined};
use crate::delivery::publish_queue::{Completed, PublishId, PublisherEnd, QueuedPublish};
use crate::delivery::publish_queues::PublishQueues;
use crate::delivery::quarantine::MOST_WAITING;
use crate::delivery::redelivery::{Earlier, Recognised, Redeliveries};
use crate::delivery::unpublished::Unpublished;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::rules::plan::Purpose;

/// Entries, those that are acknowledged and not published among them, and publishes in the direct
/// queues, for each message of the window, before no more messages are taken. A direct message
/// leads to two publishes; QoS 0 has no window of its own.
const QUEUED_PER_MESSAGE: usize = 4;

/// Bytes of topics and payloads of messages under way and of their copies, before no more messages
/// are taken.
const BYTES_UNDER_WAY: usize = 64 << 20;

/// Where an entry's acknowledgement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is in `arrived`: acknowledged when it is logged or complete, and first.
    Arrived,
    /// Its connection is gone, and the broker will deliver it again.
    Expected,
    /// Nobody waits for its ack: it has gone out; or QoS 0; or a session that the broker has
    /// forgotten.
    Detached,
}

#[derive(Debug)]
struct Entry {
    received: Received,
    id: MessageId,
    fingerprint: u64,
    since: Instant,
    /// What it counts for in the bound on bytes, without its publishes.
    bytes: usize,
    /// What it still waits for: the decision, publishes, and answers to publishes that failed.
    outstanding: usize,
    standing: Standing,
    /// The delivery log holds all that it leads to.
    logged: bool,
    /// It is logged itself, and what it leads to is still to be decided on.
    question: bool,
    /// Copies have been made of it.
    copied: bool,
    /// A copy of it was refused.
    failed: bool,
    /// Publishes of it that the delivery log alone holds.
    left: usize,
    /// Publishes of it that it alone held.
    read: usize,
    /// A canary, or something that the observer says to others.
    own: bool,
}

/// All messages under way.
#[derive(Debug)]
pub struct Ledger {
    entries: Slab<Entry>,
    /// Entries of the present connection and their acks, in the order they arrived.
    arrived: VecDeque<(usize, Ack)>,
    redeliveries: Redeliveries,
    unpublished: Unpublished,
    queues: PublishQueues,
    /// Bytes of topics and payloads of all entries and of what is made of them.
    bytes: usize,
    /// Entries that wait for the decision service while the delivery log holds them: they take no
    /// room here.
    questions: usize,
    acks: VecDeque<Ack>,
    failed: VecDeque<Failed>,
    finished: VecDeque<Finished>,
    /// The highest id whose ack was handed out.
    last_acknowledged: Option<MessageId>,
    window: usize,
    ack_timeout: Duration,
}

impl Ledger {
    /// For `publishers` connections, one more for bulk copies and one for publishes in quarantine,
    /// and at most `window` messages under way. A publish that is not confirmed within
    /// `ack_timeout`, while others are, goes to quarantine.
    pub fn new(publishers: usize, window: usize, ack_timeout: Duration) -> Self {
        Self {
            entries: Slab::with_capacity(window),
            arrived: VecDeque::with_capacity(window),
            redeliveries: Redeliveries::new(window),
            unpublished: Unpublished::default(),
            queues: PublishQueues::new(publishers),
            bytes: 0,
            questions: 0,
            acks: VecDeque::new(),
            failed: VecDeque::new(),
            finished: VecDeque::new(),
            last_acknowledged: None,
            window,
            ack_timeout,
        }
    }

    /// Whether another message may come in.
    pub fn has_room(&self) -> bool {
        let most = self.window * QUEUED_PER_MESSAGE;
        self.arrived.len() < self.window
            && self.under_way() < most + self.room_of_quarantine()
            && self.queues.direct_len() < most
            && self.bytes < BYTES_UNDER_WAY
            && !self.queues.left().is_full()
    }

    /// Entries that do not count, because they wait in quarantine: so that it takes no room of
    /// others, and grows no further than it may.
    fn room_of_quarantine(&self) -> usize {
        self.queues.quarantined().min(MOST_WAITING)
    }

    /// Whether another message may come in of which only the delivery log keeps what it leads to.
    pub fn has_room_for_logged(&self) -> bool {
        let most = 2 * self.window * QUEUED_PER_MESSAGE;
        self.arrived.len() < self.window
            && self.under_way() < most + self.room_of_quarantine()
            && self.bytes < 2 * BYTES_UNDER_WAY
            && !self.queues.left().is_full()
    }

    /// How many direct publishes the broker has confirmed or refused so far.
    pub fn confirmed(&self) -> u64 {
        self.queues.confirmed()
    }

    /// Direct publishes that are not confirmed.
    pub fn direct_len(&self) -> usize {
        self.queues.direct_len()
    }

    /// The highest id of all messages so far.
    pub fn newest(&self) -> Option<MessageId> {
        self.unpublished.newest()
    }

    /// How many more bulk copies may be made.
    pub fn room_for_bulk(&self) -> usize {
        self.queues.room_for_bulk()
    }

    /// Messages received and not acknowledged: the broker still has them.
    pub fn unacknowledged(&self) -> usize {
        let expected = self.redeliveries.expected();
        let open = |earlier: &Earlier| matches!(earlier, Earlier::Open(_));
        self.arrived.len() + expected.filter(open).count()
    }

    /// Publishes not confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.queues.unconfirmed()
    }

    /// Publishes that are handed to a publisher's connection and not confirmed, but for those in
    /// quarantine.
    pub fn in_flight(&self, publisher: usize) -> usize {
        self.queues.in_flight(publisher)
    }

    /// Whether a publisher's connection is to be replaced when nothing is in flight there: too much
    /// of what it carries is in quarantine.
    pub fn is_worn(&self, publisher: usize) -> bool {
        self.queues.is_worn(publisher)
    }

    /// Whether nothing is under way. What only waits to be delivered again, or logged for the
    /// decision service, does not count.
    pub fn is_empty(&self) -> bool {
        let under_way = |entry: &Entry| entry.is_under_way();
        self.arrived.is_empty()
            && !self.entries.iter().any(|(_, entry)| under_way(entry))
            && self.queues.is_empty()
    }

    /// When the oldest message was read that is received and not acknowledged, or whose publishes
    /// are not confirmed.
    pub fn oldest(&self) -> Option<Instant> {
        let waits = |entry: &Entry| entry.standing != Standing::Detached || entry.logged;
        let waiting = self.entries.iter().filter(|(_, entry)| waits(entry));
        waiting.map(|(_, entry)| entry.since).min()
    }

    /// The logged messages whose publishes have all been confirmed since the last call: the
    /// delivery log may forget them.
    pub fn take_published(&mut self) -> Vec<MessageId> {
        self.unpublished.take_published()
    }

    /// Whether the delivery log may forget something.
    pub fn has_published(&self) -> bool {
        self.unpublished.has_published()
    }

    /// Highest id up to which every message is acknowledged; `None` while an older one is open.
    /// Ids are not in arrival order after a redelivery, so the maximum alone is not enough.
    pub fn settled_up_to(&self) -> Option<MessageId> {
        let last = self.last_acknowledged?;
        let arrived = self.arrived.iter().map(|(key, _)| self.entries[*key].id);
        let expected = self.redeliveries.expected().map(|earlier| match earlier {
            Earlier::Acknowledged(id) | Earlier::Stored(id) => id,
            Earlier::Open(key) => self.entries[key].id,
        });
        let open = arrived.chain(expected).min();
        (open.is_none() || open > Some(last)).then_some(last)
    }
}

/// What comes in from the session.
impl Ledger {
    /// Expects what an earlier process received and may not have acknowledged, in the order it
    /// came: fingerprints and ids.
    pub fn expect(&mut self, unacknowledged: &[(u64, MessageId)]) {
        self.redeliveries.expect(unacknowledged);
    }

    /// A message came at QoS 1. `fingerprint` stands for its topic and payload, `dup` is its DUP
    /// flag: a hint only, some brokers never set it.
    pub fn admit(&mut self, ack: Ack, fingerprint: u64, dup: bool) -> Admission {
        match self.redeliveries.recognise(fingerprint, dup) {
            Recognised::New => Admission::New,
            Recognised::FirstNew(open) => {
                self.detach(open);
                Admission::New
            }
            Recognised::Again(Earlier::Acknowledged(id) | Earlier::Stored(id)) => {
                Admission::Repeated(id)
            }
            Recognised::Again(Earlier::Open(key)) => {
                self.entries[key].standing = Standing::Arrived;
                self.arrived.push_back((key, ack));
                self.release();
                Admission::Resumed
            }
        }
    }

    /// Takes a message over: it waits to be decided on. Without `ack` (QoS 0) it is forgotten once
    /// everything is done.
    pub fn insert(&mut self, message: Message, ack: Option<Ack>) -> EntryId {
        let Message {
            received,
            id,
            fingerprint,
            since,
        } = message;
        // A topic may have 65,535 bytes.
        let bytes = received.topic.len() + received.payload.len();
        self.bytes += bytes;
        self.unpublished.insert(id);
        let key = self.entries.insert(Entry {
            bytes,
            received,
            id,
            fingerprint,
            since,
            // The decision.
            outstanding: 1,
            standing: match ack {
                Some(_) => Standing::Arrived,
                None => Standing::Detached,
            },
            logged: false,
            question: false,
            copied: false,
            failed: false,
            left: 0,
            read: 0,
            own: false,
        });
        self.arrived.extend(ack.map(|ack| (key, ack)));
        EntryId(key)
    }

    /// A message that is being decided on, and its id.
    pub fn message(&self, entry: EntryId) -> (&Received, MessageId) {
        let entry = &self.entries[entry.0];
        (&entry.received, entry.id)
    }

    /// Adds publishes made of a message that is being decided on. If the delivery log holds them
    /// ([`Ledger::logged`]), those to a topic of which the broker confirms nothing are left to it.
    pub fn add(&mut self, entry: EntryId, publishes: Vec<Publish>, purpose: Purpose) {
        let of = &self.entries[entry.0];
        // Of a fan-out the log holds a position.
        let is_logged = of.logged && purpose != Purpose::BulkCopy;
        let logged_as = is_logged.then_some(of.id);
        self.add_as(entry.0, publishes, purpose, logged_as);
    }

    fn add_as(
        &mut self,
        key: usize,
        publishes: Vec<Publish>,
        purpose: Purpose,
        logged_as: Option<MessageId>,
    ) {
        let entry = &mut self.entries[key];
        entry.copied |= purpose != Purpose::Notice && !publishes.is_empty();
        let mut before = None;
        for publish in publishes {
            // Copies of one payload share its memory.
            let payload = publish.payload.as_ptr();
            let is_shared = before == Some(payload);
            let of_payload = if is_shared { 0 } else { publish.payload.len() };
            let bytes = publish.topic.as_str().len() + of_payload;
            let queued = QueuedPublish {
                entry: key,
                publish,
                purpose,
                bytes,
                logged_as,
                is_newest: false,
            };
            if self.queues.push(queued) {
                entry.left += 1;
                self.unpublished.leave_part(entry.id);
                continue;
            }
            before = Some(payload);
            entry.outstanding += 1;
            self.bytes += bytes;
        }
    }

    /// Has a message count for more bytes: what is held of it beside its payload.
    pub fn charge(&mut self, entry: EntryId, bytes: usize) {
        self.entries[entry.0].bytes += bytes;
        self.bytes += bytes;
    }

    /// The delivery log holds all that a message leads to: it can be acknowledged, whatever becomes
    /// of its publishes.
    pub fn logged(&mut self, entry: EntryId) {
        let entry = &mut self.entries[entry.0];
        entry.logged = true;
        self.unpublished.logged(entry.id);
        self.release();
    }

    /// Everything that a message leads to has been added, and what is to be stored is stored.
    pub fn decided(&mut self, entry: EntryId) {
        self.finish_part(entry.0);
    }

    /// The session's connection is up. If the broker has kept the session (`session_present`), it
    /// delivers again what was not acknowledged.
    pub fn handle_session_up(&mut self, session_present: bool) {
        self.redeliveries.handle_session_up();
        if !session_present {
            self.end_redeliveries();
        }
    }

    /// Whether messages of earlier connections may still come again.
    pub fn expects_redeliveries(&self) -> bool {
        self.redeliveries.expected().next().is_some()
    }

    /// Messages of earlier connections cannot come again.
    pub fn end_redeliveries(&mut self) {
        let open = self.redeliveries.expect_nothing();
        self.detach(open);
    }

    /// To be called at intervals in each of which the broker has answered a ping: acks sent before
    /// the last call have arrived, so those messages cannot come again.
    pub fn age_acknowledged(&mut self) {
        self.redeliveries.age();
    }

    /// The broker has closed the session's connection after our DISCONNECT: it has every ack that
    /// was sent, so none of those messages comes again.
    pub fn handle_acks_arrived(&mut self) {
        self.redeliveries.forget_acknowledged();
    }

    /// The session's connection is gone: no ack of it may be sent any more, and what was not
    /// acknowledged will come again.
    pub fn handle_session_lost(&mut self) {
        self.acks.clear();
        let mut arrived = Vec::with_capacity(self.arrived.len());
        for (key, _) in self.arrived.drain(..) {
            let entry = &mut self.entries[key];
            entry.standing = Standing::Expected;
            arrived.push((entry.fingerprint, key));
        }
        let surplus = self.redeliveries.handle_session_lost(arrived);
        self.detach(surplus);
    }

    /// These entries' messages will not come again: nobody waits for their acks.
    fn detach(&mut self, entries: Vec<usize>) {
        for key in entries {
            self.entries[key].standing = Standing::Detached;
            self.settle(key);
        }
    }
}

/// What comes in from the publishers.
impl Ledger {
    /// A publisher is up: at most so many publishes may be in flight there, beside a canary.
    pub fn handle_publisher_up(&mut self, publisher: usize, limit: usize) {
        self.queues.handle_up(publisher, limit);
    }

    /// A publisher's connection is gone: what it had in flight goes out again on the next one.
    pub fn handle_publisher_down(&mut self, publisher: usize, end: PublisherEnd) {
        if let Some(given_up) = self.queues.handle_down(publisher, end) {
            self.handle_refused(given_up, Refusal::Unauthorized);
        }
    }

    /// The broker has taken a publish. Unknown ids are ignored.
    pub fn handle_confirmed(&mut self, id: PublishId) {
        if let Some(completed) = self.queues.confirm(id) {
            self.bytes -= completed.bytes;
            self.finish_part(completed.entry);
        }
    }

    /// The broker will not take a publish: [`Ledger::poll_failed`] hands it out, and the message
    /// waits for [`Ledger::resolve`]. Unknown ids are ignored.
    pub fn handle_refused(&mut self, id: PublishId, refusal: Refusal) {
        let Some(Completed {
            entry: key,
            purpose,
            bytes,
        }) = self.queues.complete(id)
        else {
            return;
        };
        self.bytes -= bytes;
        self.fail(key, purpose, refusal);
    }

    /// Something of a message that is being decided on cannot be published at all:
    /// [`Ledger::poll_failed`] hands it out.
    pub fn lose(&mut self, entry: EntryId) {
        self.entries[entry.0].outstanding += 1;
        self.fail(entry.0, Purpose::Copy, Refusal::Internal);
    }

    fn fail(&mut self, key: usize, purpose: Purpose, refusal: Refusal) {
        let entry = &mut self.entries[key];
        let is_copy = purpose != Purpose::Notice;
        self.failed.push_back(Failed {
            entry: key,
            refusal,
            id: entry.id,
            received: entry.received.clone(),
            purpose,
            told_before: is_copy && entry.failed,
        });
        entry.failed |= is_copy;
    }

    /// Answers what [`Ledger::poll_failed`] handed out: `notices` (a refusal notice and a dead
    /// letter) take the place of the publish that was refused.
    pub fn resolve(&mut self, failed: Failed, notices: Vec<Publish>) {
        // The log holds none of them.
        self.add_as(failed.entry, notices, Purpose::Notice, None);
        self.finish_part(failed.entry);
    }
}

/// What the observer is to do.
impl Ledger {
    /// The next publish to hand to a publisher's connection.
    pub fn poll_publish(
        &mut self,
        publisher: usize,
        now: Instant,
    ) -> Option<(PublishId, &Publish)> {
        self.leave_greedy(publisher, now);
        let (sequence, publish) = self.queues.poll(publisher, now)?;
        let id = PublishId {
            publisher,
            sequence,
        };
        Some((id, publish))
    }

    /// The next publish that was refused; its message waits for [`Ledger::resolve`].
    pub fn poll_failed(&mut self) -> Option<Failed> {
        self.failed.pop_front()
    }

    /// The next acknowledgement to send.
    pub fn poll_ack(&mut self) -> Option<Ack> {
        self.acks.pop_front()
    }

    /// The next message of which everything is done.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }
}

impl Ledger {
    #[cfg(test)]
    pub(super) fn has_forgotten_all(&self) -> bool {
        self.entries.is_empty()
    }

    /// One of the things that a message waits for is done.
    fn finish_part(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        entry.outstanding -= 1;
        if entry.outstanding == 0 && entry.left > 0 {
            // The rest is another entry when it is read.
            self.unpublished.leave(entry.id);
        } else if entry.outstanding == 0 {
            self.unpublished.finish(entry.id, entry.read);
            self.finished.push_back(Finished {
                forwarded: entry.copied && !entry.failed,
                message: Message {
                    received: entry.received.clone(),
                    id: entry.id,
                    fingerprint: entry.fingerprint,
                    since: entry.since,
                },
            });
        }
        self.settle(key);
        self.release();
    }

    /// Forgets an entry that waits for nothing and for whose ack nobody waits.
    fn settle(&mut self, key: usize) {
        let entry = &self.entries[key];
        if entry.outstanding == 0 && entry.standing == Standing::Detached {
            self.remove(key);
        }
    }

    /// Hands out the acks of messages that are logged or complete: from the first that arrived, up
    /// to the first that is neither.
    fn release(&mut self) {
        while let Some(&(key, ack)) = self.arrived.front() {
            let entry = &mut self.entries[key];
            if entry.outstanding > 0 && !entry.logged {
                break;
            }
            entry.standing = Standing::Detached;
            self.redeliveries.remember(entry.fingerprint, entry.id);
            self.last_acknowledged = self.last_acknowledged.max(Some(entry.id));
            self.arrived.pop_front();
            self.acks.push_back(ack);
            self.settle(key);
        }
    }

    fn remove(&mut self, key: usize) -> Entry {
        let entry = self.entries.remove(key);
        self.bytes -= entry.bytes;
        entry
    }
}

#[cfg(test)]
pub(super) mod tests;
