//! The ledger of messages under way: which message waits for which confirmations, and when its ack may go.
//!
//! The rules it keeps, whatever order confirmations, losses and time-outs come in:
//! - a message is acknowledged only after every publish made of it is confirmed, in the order the messages came (MQTT 3.1.1, 4.6),
//!   and only on the connection it came on: RabbitMQ numbers packets anew on each, an old ack would settle another message;
//! - a publish stays until it is confirmed, and goes out again, oldest first, on each new connection;
//! - a publish that keeps costing the connection is set aside: after a loss fewer go out at a time, until the one at fault
//!   stands alone (RabbitMQ closes on a refused publish and names none);
//! - a message that comes again after a lost session, or a killed process, is recognised, and keeps its id;
//! - what goes to many has a lane of its own, and is taken from whoever makes it as that lane empties, so that a group of ten
//!   thousand neither fills the memory nor stands in the way of direct messages.
//!
//! It does no I/O and reads no clock. `daemon.rs` feeds it and carries out what it asks for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::protocol::id::MessageId;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::rules::fan_out::STEP;

/// What a publish may cost while it is the only one under way, before it is set aside: three closed connections, or ten
/// time-outs. A broker under an alarm confirms nothing for a while, and nobody is to blame.
const PATIENCE: u8 = 30;

/// Publishes kept per message of the window, before no more messages are taken: a direct message has two, QoS 0 has no window.
const QUEUED_PER_MESSAGE: usize = 4;

/// Copies for many that wait in their lane, before no more are asked for: a few steps, so that it does not run dry.
const MANY_QUEUED: usize = 4 * STEP;

/// Payload bytes of those, each payload once, before no more are asked for.
const MANY_BYTES: usize = 8 << 20;

/// Copies for many under way at a time: they have a connection of their own, but the broker's attention is shared.
const MANY_IN_FLIGHT: usize = 32;

/// Payload bytes of messages under way and their copies, before no more are taken.
const BYTES_UNDER_WAY: usize = 64 << 20;

/// Payload bytes one lane has under way at a time: on a slow line a longer queue would be taken for an overdue confirmation.
const BYTES_IN_FLIGHT: usize = 4 << 20;

/// Acknowledged messages remembered in case the broker has not seen the acks: as many as can have a packet identifier.
const REMEMBERED: usize = 65_535;

/// How a publishing connection ended, as far as its publishes may be to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEnd {
    /// The broker closed it: what RabbitMQ does on a publish it refuses.
    Closed,
    /// A confirmation did not come in time.
    TimedOut,
    /// Anything that has nothing to do with what was published.
    Unrelated,
}

impl LaneEnd {
    /// What it counts for, of [`PATIENCE`].
    fn cost(self) -> u8 {
        match self {
            Self::Closed => 10,
            Self::TimedOut => 3,
            Self::Unrelated => 0,
        }
    }
}

/// The right and the duty to acknowledge one message, on the connection it came on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which connection of the session.
    pub connection: u64,
    /// The packet identifier it had there.
    pub packet_id: u16,
}

/// A publish in one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId {
    /// The publishing connection it belongs to.
    pub lane: usize,
    /// Its place among that lane's publishes, which never repeats.
    pub sequence: u64,
}

/// A message that came in, with what it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// As it came.
    pub received: Received,
    /// The id it was given.
    pub id: MessageId,
    /// Stands for its topic and payload.
    pub fingerprint: u64,
    /// When it was read.
    pub since: Instant,
}

/// A message of which all is done but the acknowledgement, which may have to wait for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The message.
    pub message: Message,
    /// Whether copies were made of it, and the broker has taken them all.
    pub forwarded: bool,
}

/// A message in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(usize);

impl EntryId {
    /// One that no ledger has given out.
    #[cfg(test)]
    pub(crate) fn for_tests(number: usize) -> Self {
        Self(number)
    }
}

/// What publishes are to the message they were made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// Copies of it, or what somebody is told because of it.
    Copies,
    /// The same, for many: they go in the lane for that.
    ForMany,
    /// Notice and dead letter of one that is refused.
    Answer,
}

/// What a message that came in is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not seen before.
    New,
    /// Forwarded before, but the acknowledgement may not have arrived: to be forwarded again under the same id.
    Repeated(MessageId),
    /// Still in the ledger: its publishes are under way or done, and the new acknowledgement now belongs to it.
    Resumed,
}

/// A publish the broker will not take, to be answered with [`Ledger::resolve`].
#[derive(Debug)]
pub struct Failed {
    entry: usize,
    /// Why.
    pub refusal: Refusal,
    /// The id of the message it was made of.
    pub id: MessageId,
    /// The message itself.
    pub received: Received,
    /// What it was.
    pub what: FailedWhat,
}

/// What a refused publish was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedWhat {
    /// The first copy of a message that is refused: its sender is to be told.
    Copy,
    /// Another copy of the same message: he has been told.
    FurtherCopy,
    /// A notice or a dead letter: there is nothing more to tell anybody.
    Answer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// In `arrived`: acknowledged when complete and first.
    Arrived(Ack),
    /// In `expected`: its connection is gone, the broker will deliver it again.
    Expected,
    /// Nobody waits for it: QoS 0, or a session the broker has forgotten.
    Detached,
}

#[derive(Debug)]
struct Entry {
    received: Received,
    id: MessageId,
    fingerprint: u64,
    since: Instant,
    outstanding: usize,
    standing: Standing,
    /// Copies have been made of it.
    copied: bool,
    /// A copy of it was refused.
    failed: bool,
}

#[derive(Debug)]
struct Slot {
    entry: usize,
    publish: Publish,
    /// What it counts for, of [`BYTES_UNDER_WAY`].
    bytes: usize,
    sent: Option<Instant>,
    losses: u8,
    /// What losses it has cost while it was the only one under way.
    cost: u8,
    done: bool,
    /// A notice or a dead letter, not a copy of a message.
    is_answer: bool,
}

/// The publishes of one publishing connection, oldest first.
#[derive(Debug, Default)]
struct Lane {
    slots: VecDeque<Slot>,
    /// The sequence number of the first slot.
    first: u64,
    /// How many slots from the first have been handed out on this connection.
    handed_out: usize,
    in_flight: usize,
    in_flight_bytes: usize,
    /// How many may be in flight; 0 while there is no connection.
    limit: usize,
}

/// A message that may come again, by what it looked like.
#[derive(Debug)]
struct Expected {
    fingerprint: u64,
    what: ExpectedWhat,
}

#[derive(Debug)]
enum ExpectedWhat {
    Acknowledged(MessageId),
    Entry(usize),
}

/// All messages under way.
#[derive(Debug)]
pub struct Ledger {
    entries: Slab<Entry>,
    /// Entries of the current connection, in the order they came.
    arrived: VecDeque<usize>,
    /// Acknowledged on the current connection: the broker may not have seen those acks when the connection ends.
    acknowledged: VecDeque<(u64, MessageId)>,
    /// What the broker may deliver again, from earlier connections, in the order it was delivered before. Redeliveries come
    /// before anything else, so the first message that is none of these ends it.
    expected: VecDeque<Expected>,
    /// Payload bytes of all entries and of what is made of them.
    bytes: usize,
    acks: VecDeque<Ack>,
    failed: VecDeque<Failed>,
    finished: VecDeque<Finished>,
    /// The last message whose ack was handed out; a later one has a higher id.
    last_acknowledged: Option<MessageId>,
    /// One for each publishing connection; the last is the one for many.
    lanes: Vec<Lane>,
    window: usize,
    ack_timeout: Duration,
}

impl Ledger {
    /// For `lanes` publishing connections, one more for what goes to many, and at most `window` messages under way; a publish that
    /// is not confirmed within `ack_timeout` costs its connection.
    pub fn new(lanes: usize, window: usize, ack_timeout: Duration) -> Self {
        Self {
            entries: Slab::with_capacity(window),
            arrived: VecDeque::with_capacity(window),
            acknowledged: VecDeque::with_capacity(window),
            expected: VecDeque::new(),
            bytes: 0,
            acks: VecDeque::new(),
            failed: VecDeque::new(),
            finished: VecDeque::new(),
            last_acknowledged: None,
            lanes: (0..=lanes).map(|_| Lane::default()).collect(),
            window,
            ack_timeout,
        }
    }

    /// Whether another message may come in.
    pub fn has_room(&self) -> bool {
        let queued: usize = self.own_lanes().iter().map(|lane| lane.slots.len()).sum();
        self.arrived.len() < self.window
            && self.entries.len() < self.window * QUEUED_PER_MESSAGE
            && queued < self.window * QUEUED_PER_MESSAGE
            && self.bytes < BYTES_UNDER_WAY
    }

    fn own_lanes(&self) -> &[Lane] {
        &self.lanes[..self.lanes.len() - 1]
    }

    /// How many more copies for many may be made.
    pub fn room_for_many(&self) -> usize {
        let many = &self.lanes[self.lanes.len() - 1];
        let bytes: usize = many.slots.iter().map(|slot| slot.bytes).sum();
        if bytes >= MANY_BYTES {
            return 0;
        }
        MANY_QUEUED.saturating_sub(many.slots.len())
    }

    /// What an earlier process has received and may not have acknowledged, in the order it came.
    pub fn expect(&mut self, unacknowledged: Vec<(u64, MessageId)>) {
        let from = unacknowledged.len().saturating_sub(REMEMBERED);
        self.expected = unacknowledged[from..]
            .iter()
            .map(|&(fingerprint, id)| Expected {
                fingerprint,
                what: ExpectedWhat::Acknowledged(id),
            })
            .collect();
    }

    /// The last message whose ack was handed out, if none before it is waited for: after a restart what comes again has lower ids than
    /// what came in between and is stored nowhere.
    pub fn settled_up_to(&self) -> Option<MessageId> {
        let last = self.last_acknowledged?;
        let arrived = self.arrived.iter().map(|key| self.entries[*key].id);
        let expected = self.expected.iter().map(|expected| match expected.what {
            ExpectedWhat::Acknowledged(id) => id,
            ExpectedWhat::Entry(key) => self.entries[key].id,
        });
        let open = arrived.chain(expected).min();
        (open.is_none() || open > Some(last)).then_some(last)
    }

    /// Messages received and not acknowledged: the broker still has them.
    pub fn unacknowledged(&self) -> usize {
        let kept = self
            .expected
            .iter()
            .filter(|expected| matches!(expected.what, ExpectedWhat::Entry(_)))
            .count();
        self.arrived.len() + kept
    }

    /// Publishes not confirmed yet.
    pub fn unconfirmed(&self) -> usize {
        self.lanes
            .iter()
            .flat_map(|lane| &lane.slots)
            .filter(|slot| !slot.done)
            .count()
    }

    /// Whether nothing is under way.
    pub fn is_empty(&self) -> bool {
        let undecided = |entry: &Entry| entry.standing == Standing::Detached;
        self.arrived.is_empty()
            && !self.entries.iter().any(|(_, entry)| undecided(entry))
            && self.lanes.iter().all(|lane| lane.slots.is_empty())
    }

    /// A message came at QoS 1. `fingerprint` stands for its topic and payload, `dup` is its DUP flag: a hint only, some brokers
    /// never set it, and RabbitMQ sets it on messages it never delivered.
    pub fn admit(&mut self, ack: Ack, fingerprint: u64, dup: bool) -> Admission {
        if self.expected.is_empty() {
            return Admission::New;
        }
        // What was not acknowledged comes first: it surely comes again, so each such entry finds its message among equal ones.
        let equal = |wanted: fn(&ExpectedWhat) -> bool| {
            self.expected
                .iter()
                .position(|e| e.fingerprint == fingerprint && wanted(&e.what))
        };
        let entry = equal(|what| matches!(what, ExpectedWhat::Entry(_)));
        let found = entry.or_else(|| equal(|what| matches!(what, ExpectedWhat::Acknowledged(_))));
        let Some(at) = found else {
            // What is stored nowhere (a receipt, a refused message) cannot be expected after a restart, but stands between what is.
            if !dup {
                self.expect_nothing();
            }
            return Admission::New;
        };
        // What was acknowledged may come again, but only DUP tells it from an equal text that is meant to be a second message.
        if entry.is_none() && !dup {
            return Admission::New;
        }
        match self.expected.remove(at).map(|expected| expected.what) {
            None => Admission::New,
            Some(ExpectedWhat::Acknowledged(id)) => Admission::Repeated(id),
            Some(ExpectedWhat::Entry(key)) => {
                self.entries[key].standing = Standing::Arrived(ack);
                self.arrived.push_back(key);
                self.release();
                Admission::Resumed
            }
        }
    }

    /// Whatever was expected will not come any more.
    fn expect_nothing(&mut self) {
        for expected in std::mem::take(&mut self.expected) {
            self.forget(expected);
        }
    }

    /// Takes a message over: it waits to be decided on. Without `ack` (QoS 0) it is forgotten once all is done.
    pub fn insert(&mut self, message: Message, ack: Option<Ack>) -> EntryId {
        let Message {
            received,
            id,
            fingerprint,
            since,
        } = message;
        let standing = ack.map_or(Standing::Detached, Standing::Arrived);
        self.bytes += received.payload.len();
        let key = self.entries.insert(Entry {
            received,
            id,
            fingerprint,
            since,
            // The decision.
            outstanding: 1,
            standing,
            copied: false,
            failed: false,
        });
        if ack.is_some() {
            self.arrived.push_back(key);
        }
        EntryId(key)
    }

    /// A message that is being decided on, and its id.
    pub fn message(&self, entry: EntryId) -> (&Received, MessageId) {
        let entry = &self.entries[entry.0];
        (&entry.received, entry.id)
    }

    /// Publishes made of a message that is being decided on.
    pub fn add(&mut self, entry: EntryId, publishes: Vec<Publish>, made: Made) {
        let key = entry.0;
        self.entries[key].outstanding += publishes.len();
        self.entries[key].copied |= made != Made::Answer && !publishes.is_empty();
        let mut shared = None;
        for publish in publishes {
            let lane = match made {
                Made::ForMany => self.lanes.len() - 1,
                Made::Copies | Made::Answer => self.lane_of(publish.topic.as_str()),
            };
            // Copies of one payload share its memory.
            let payload = publish.payload.as_ptr();
            let bytes = if shared.replace(payload) == Some(payload) {
                0
            } else {
                publish.payload.len()
            };
            self.bytes += bytes;
            self.lanes[lane].slots.push_back(Slot {
                entry: key,
                publish,
                bytes,
                sent: None,
                losses: 0,
                cost: 0,
                done: false,
                is_answer: made == Made::Answer,
            });
        }
    }

    /// All that a message leads to has been added, and what was to be written down is.
    pub fn decided(&mut self, entry: EntryId) {
        self.finish_part(entry.0);
    }

    /// One of the things that a message waits for is done.
    fn finish_part(&mut self, key: usize) {
        let entry = &mut self.entries[key];
        entry.outstanding -= 1;
        if entry.outstanding == 0 {
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

    /// The next message of which all is done.
    pub fn poll_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// When the oldest message was read that is received and not acknowledged.
    pub fn oldest(&self) -> Option<Instant> {
        let waits = |entry: &Entry| entry.standing != Standing::Detached;
        let waiting = self.entries.iter().filter(|(_, entry)| waits(entry));
        waiting.map(|(_, entry)| entry.since).min()
    }

    fn remove(&mut self, key: usize) -> Entry {
        let entry = self.entries.remove(key);
        self.bytes -= entry.received.payload.len();
        entry
    }

    /// By topic, so that what goes to one timeline keeps its order.
    fn lane_of(&self, topic: &str) -> usize {
        match self.own_lanes().len() {
            1 => 0,
            lanes => {
                // FNV-1a: the same lane in every process, and nothing depends on who can predict it.
                let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
                });
                usize::try_from(hash % lanes as u64).expect("less than the number of lanes")
            }
        }
    }

    /// A publishing connection is up; the broker takes at most `receive_maximum` publishes at a time.
    pub fn handle_lane_up(&mut self, lane: usize, receive_maximum: usize) {
        let (at, lanes) = (lane, self.lanes.len());
        let lane = &mut self.lanes[at];
        debug_assert_eq!(
            (lane.in_flight, lane.handed_out),
            (0, 0),
            "a lane comes up only after it went down"
        );
        let most = if at + 1 == lanes {
            MANY_IN_FLIGHT
        } else {
            usize::MAX
        };
        lane.limit = receive_maximum.clamp(1, most);
    }

    /// A publishing connection is gone: what it had under way goes out again on the next.
    pub fn handle_lane_down(&mut self, lane: usize, end: LaneEnd) {
        let at = lane;
        let lane = &mut self.lanes[at];
        let cost = if lane.in_flight == 1 { end.cost() } else { 0 };
        let mut given_up = None;
        for (offset, slot) in lane
            .slots
            .iter_mut()
            .take(lane.handed_out)
            .enumerate()
            .filter(|(_, slot)| !slot.done)
        {
            slot.sent = None;
            slot.losses = slot
                .losses
                .saturating_add(u8::from(end != LaneEnd::Unrelated));
            slot.cost = slot.cost.saturating_add(cost);
            if slot.cost >= PATIENCE {
                given_up = Some(lane.first + offset as u64);
            }
        }
        lane.in_flight = 0;
        lane.in_flight_bytes = 0;
        lane.handed_out = 0;
        lane.limit = 0;
        if let Some(sequence) = given_up {
            self.handle_refused(PublishId { lane: at, sequence }, Refusal::Unauthorized);
        }
    }

    /// The next publish to hand to `lane`'s connection.
    pub fn poll_publish(&mut self, lane: usize, now: Instant) -> Option<(PublishId, &Publish)> {
        let at = lane;
        let lane = &mut self.lanes[at];
        while lane
            .slots
            .get(lane.handed_out)
            .is_some_and(|slot| slot.done)
        {
            lane.handed_out += 1;
        }
        // The first slot is the oldest under way, so none has been lost more often.
        let losses = lane.slots.front()?.losses;
        if lane.in_flight >= allowed(lane.limit, losses) || lane.in_flight_bytes >= BYTES_IN_FLIGHT
        {
            return None;
        }
        let sequence = lane.first + lane.handed_out as u64;
        let slot = lane.slots.get_mut(lane.handed_out)?;
        slot.sent = Some(now);
        lane.handed_out += 1;
        lane.in_flight += 1;
        lane.in_flight_bytes += slot.publish.payload.len();
        Some((PublishId { lane: at, sequence }, &slot.publish))
    }

    /// Publishes of a lane that are handed out and not confirmed.
    pub fn in_flight(&self, lane: usize) -> usize {
        self.lanes[lane].in_flight
    }

    /// The broker has taken a publish. Unknown ids are ignored.
    pub fn handle_confirmed(&mut self, id: PublishId) {
        if let Some((key, _)) = self.finish(id) {
            self.finish_part(key);
        }
    }

    /// The broker will not take a publish: [`Ledger::poll_failed`] hands it out, and the message waits for its answer.
    pub fn handle_refused(&mut self, id: PublishId, refusal: Refusal) {
        if let Some((entry, is_answer)) = self.finish(id) {
            let Entry {
                received,
                failed,
                id,
                ..
            } = &mut self.entries[entry];
            let what = match (is_answer, *failed) {
                (true, _) => FailedWhat::Answer,
                (false, true) => FailedWhat::FurtherCopy,
                (false, false) => FailedWhat::Copy,
            };
            *failed |= !is_answer;
            let (received, id) = (received.clone(), *id);
            self.failed.push_back(Failed {
                entry,
                refusal,
                id,
                received,
                what,
            });
        }
    }

    /// Marks a slot done and drops what is done from the front. Returns the entry it belonged to, and whether it
    /// was an answer.
    fn finish(&mut self, id: PublishId) -> Option<(usize, bool)> {
        let lane = &mut self.lanes[id.lane];
        let offset = usize::try_from(id.sequence.checked_sub(lane.first)?).ok()?;
        let slot = lane.slots.get_mut(offset).filter(|slot| !slot.done)?;
        slot.done = true;
        self.bytes -= slot.bytes;
        let found = (slot.entry, slot.is_answer);
        if slot.sent.is_some() {
            lane.in_flight -= 1;
            lane.in_flight_bytes -= slot.publish.payload.len();
        }
        while lane.slots.front().is_some_and(|slot| slot.done) {
            lane.slots.pop_front();
            lane.first += 1;
            lane.handed_out = lane.handed_out.saturating_sub(1);
        }
        Some(found)
    }

    /// The next publish that was refused; its message waits for [`Ledger::resolve`].
    pub fn poll_failed(&mut self) -> Option<Failed> {
        self.failed.pop_front()
    }

    /// Ends the wait of [`Ledger::poll_failed`]: `publishes` (notice and dead letter) take the place of what was refused.
    pub fn resolve(&mut self, failed: Failed, publishes: Vec<Publish>) {
        let entry = EntryId(failed.entry);
        self.add(entry, publishes, Made::Answer);
        self.decided(entry);
    }

    /// A detached entry with nothing outstanding is done.
    fn settle(&mut self, key: usize) {
        let entry = &self.entries[key];
        if entry.outstanding == 0 && entry.standing == Standing::Detached {
            self.remove(key);
        }
    }

    /// Hands out the acks of complete messages, from the first that came to the first that is not complete.
    fn release(&mut self) {
        while let Some(&key) = self.arrived.front() {
            if self.entries[key].outstanding > 0 {
                break;
            }
            self.arrived.pop_front();
            let entry = self.remove(key);
            let Standing::Arrived(ack) = entry.standing else {
                unreachable!("only arrived entries are in that list")
            };
            if self.acknowledged.len() == REMEMBERED {
                self.acknowledged.pop_front();
            }
            self.acknowledged.push_back((entry.fingerprint, entry.id));
            self.last_acknowledged = self.last_acknowledged.max(Some(entry.id));
            self.acks.push_back(ack);
        }
    }

    /// The next acknowledgement to send.
    pub fn poll_ack(&mut self) -> Option<Ack> {
        self.acks.pop_front()
    }

    /// The session's connection is up.
    pub fn handle_session_up(&mut self, session_present: bool) {
        if !session_present {
            self.expect_nothing();
        }
    }

    /// The session's connection is gone: no ack of it may be sent any more, and what was not acknowledged will come again.
    pub fn handle_session_lost(&mut self) {
        self.acks.clear();
        let acknowledged = self
            .acknowledged
            .drain(..)
            .map(|(fingerprint, id)| Expected {
                fingerprint,
                what: ExpectedWhat::Acknowledged(id),
            });
        let mut expected: VecDeque<Expected> = acknowledged.collect();
        for key in self.arrived.drain(..) {
            let entry = &mut self.entries[key];
            entry.standing = Standing::Expected;
            expected.push_back(Expected {
                fingerprint: entry.fingerprint,
                what: ExpectedWhat::Entry(key),
            });
        }
        // What an earlier loss left, and the broker has not delivered since, comes behind: redelivery is in order.
        expected.append(&mut self.expected);
        // A bound, in case connections end again and again before what was expected came.
        for surplus in expected.split_off(expected.len().min(REMEMBERED)) {
            self.forget(surplus);
        }
        self.expected = expected;
    }

    fn forget(&mut self, expected: Expected) {
        if let ExpectedWhat::Entry(key) = expected.what {
            self.entries[key].standing = Standing::Detached;
            self.settle(key);
        }
    }

    /// A lane whose oldest publish has waited too long for its confirmation: its connection is to be replaced.
    pub fn poll_overdue(&self, now: Instant) -> Option<usize> {
        let overdue = |lane: &Lane| {
            lane.slots
                .front()
                .and_then(|slot| slot.sent)
                .is_some_and(|sent| now >= sent + self.ack_timeout)
        };
        self.lanes.iter().position(overdue)
    }
}

/// How many publishes may be under way, if the oldest has been lost `losses` times: all, a sixteenth, then one.
fn allowed(limit: usize, losses: u8) -> usize {
    match losses {
        0 => limit,
        1 => (limit / 16).max(limit.min(1)),
        2.. => limit.min(1),
    }
}

#[cfg(test)]
mod tests;
