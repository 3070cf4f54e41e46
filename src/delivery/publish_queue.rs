//! The publishes of the publishing connections: what goes out next, and what is in flight.
//!
//! Owns the queues, their windows, and which publishes are suspected to end their connection or
//! never to be confirmed. Leaves those to `quarantine.rs`, and to the
//! [`ledger`](crate::delivery::ledger) which message a publish belongs to.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::delivery::quarantine::{Quarantine, Suspicion, is_overdue};
use crate::protocol::publish::Publish;
use crate::rules::fan_out::STEP;
use crate::rules::plan::Purpose;

/// Connections that the broker closed while the same publish was in flight, before it goes to
/// quarantine. Once may be the broker's own trouble.
const CLOSED: u8 = 2;

/// How long a publish may be unconfirmed although a later one on its connection is confirmed.
/// Brokers confirm nearly in order.
const OVERTAKEN_FOR: Duration = Duration::from_secs(2);

/// Publishes handed out after one that is in quarantine now, for each that may be in flight, before
/// its connection is to be replaced: the client crate stops at a packet identifier that is still in
/// use, and has sixteen for each.
const PUBLISHES_PER_ROUND: usize = 8;

/// Bulk copies that may wait in their queue before no more are made: a few steps, so that the queue
/// does not run dry.
const BULK_QUEUED: usize = 4 * STEP;

/// Bulk copies that can be made and not be confirmed: with room for one more, a whole step is
/// made.
pub const BULK_UNCONFIRMED: usize = BULK_QUEUED + STEP;

/// The same bound in bytes; copies that share one payload count it once.
const BULK_BYTES: usize = 8 << 20;

/// Bulk copies in flight at a time. They have their own connection, but they share the broker: with
/// 32, others' messages took forty times as long on RabbitMQ 3.10 meanwhile (99th percentile; with
/// 8 less than twice). A broker a millisecond away takes some thousands a second like this.
const BULK_IN_FLIGHT: usize = 8;

/// Payload bytes one publisher has in flight at a time. On a slow line more would wait so long that
/// the confirmation counts as overdue.
const BYTES_IN_FLIGHT: usize = 4 << 20;

/// Identifies one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId {
    /// The number of its publisher: from 0; the last two are for bulk copies and for publishes in
    /// quarantine.
    pub publisher: usize,
    /// Its number among all publishes of that publisher; never used twice.
    pub sequence: u64,
}

/// How a publishing connection ended, as far as its publishes may have caused that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublisherEnd {
    /// The broker closed it. RabbitMQ does that on a publish it refuses.
    Closed,
    /// The cause has nothing to do with what was published.
    Unrelated,
}

/// A publish that the broker has taken or refused.
#[derive(Debug)]
pub(super) struct Completed {
    /// The message it was made of, as the ledger numbers it.
    pub entry: usize,
    pub purpose: Purpose,
    /// What it counted for in the bound on bytes.
    pub bytes: usize,
}

/// A publish that waits for its turn or for its confirmation.
#[derive(Clone, Debug)]
pub(super) struct QueuedPublish {
    /// The message it was made of, as the ledger numbers it.
    pub entry: usize,
    pub publish: Publish,
    pub purpose: Purpose,
    /// What it counts for in the bound on bytes: 0 if an earlier publish shares its payload.
    pub bytes: usize,
}

impl QueuedPublish {
    pub(super) fn completed(&self) -> Completed {
        Completed {
            entry: self.entry,
            purpose: self.purpose,
            bytes: self.bytes,
        }
    }
}

/// Where a publish stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    /// Handed out on the present connection.
    InFlight(Instant),
    /// The broker has taken or refused it.
    Done,
    /// It is in quarantine.
    Moved,
}

impl State {
    /// Whether the queue has nothing more to do with it.
    fn is_over(self) -> bool {
        match self {
            Self::Waiting | Self::InFlight(_) => false,
            Self::Done | Self::Moved => true,
        }
    }
}

#[derive(Debug)]
struct Slot {
    queued: QueuedPublish,
    state: State,
    /// Connections that the broker closed while it was in flight.
    closed: u8,
}

/// The publishes of one publishing connection, oldest first.
#[derive(Debug)]
pub(super) struct PublishQueue {
    slots: VecDeque<Slot>,
    /// The sequence number of the first slot.
    first: u64,
    /// How many slots, counted from the first, have been handed out on this connection.
    handed_out: usize,
    in_flight: usize,
    in_flight_bytes: usize,
    /// What was in flight and is in quarantine by now: its sequence numbers here and there. It may
    /// still be confirmed here, and counts for what the broker takes at a time, for nothing else.
    moved: BTreeMap<u64, u64>,
    /// Publishes handed out on this connection since `moved` was empty.
    since_moved: usize,
    /// How many publishes may be in flight; 0 while there is no connection.
    limit: usize,
    /// Upper bound for `limit`, however many the broker takes.
    max_in_flight: usize,
}

impl PublishQueue {
    fn new(max_in_flight: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            handed_out: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            moved: BTreeMap::new(),
            since_moved: 0,
            limit: 0,
            max_in_flight,
        }
    }

    pub(super) fn push(&mut self, queued: QueuedPublish) {
        self.slots.push_back(Slot {
            queued,
            state: State::Waiting,
            closed: 0,
        });
    }

    /// Publishes in flight whose confirmation is waited for.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether the connection is to be replaced, because too many publishes on it are in
    /// quarantine, or for too long.
    pub(super) fn is_worn(&self) -> bool {
        let limit = self.limit.max(1);
        self.moved.len() >= limit.div_ceil(2)
            || self.since_moved >= limit.saturating_mul(PUBLISHES_PER_ROUND)
    }

    /// The connection is up; the broker takes at most `receive_maximum` publishes at a time.
    pub(super) fn handle_up(&mut self, receive_maximum: usize) {
        debug_assert_eq!(
            (self.in_flight, self.handed_out),
            (0, 0),
            "a publisher comes up only after it went down"
        );
        self.limit = receive_maximum.clamp(1, self.max_in_flight);
    }

    /// The connection is gone: everything that was in flight goes out again on the next one.
    /// Returns the topics of publishes that may have ended too many connections.
    pub(super) fn handle_down(&mut self, end: PublisherEnd) -> HashSet<String> {
        let mut suspects = HashSet::new();
        for slot in self.slots.iter_mut().take(self.handed_out) {
            if slot.state.is_over() {
                continue;
            }
            slot.state = State::Waiting;
            slot.closed += u8::from(end == PublisherEnd::Closed);
            if slot.closed >= CLOSED {
                suspects.insert(slot.queued.publish.topic.as_str().to_owned());
            }
        }
        self.in_flight = 0;
        self.in_flight_bytes = 0;
        self.moved.clear();
        self.since_moved = 0;
        self.handed_out = 0;
        self.limit = 0;
        suspects
    }

    /// The next publish for the connection, and its sequence number.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(u64, &Publish)> {
        let is_over = |slot: &Slot| slot.state.is_over();
        while self.slots.get(self.handed_out).is_some_and(is_over) {
            self.handed_out += 1;
        }
        // The first slot is the oldest in flight, so no other has ended more connections.
        let closed = self.slots.front()?.closed;
        if self.in_flight >= allowed(self.limit, closed)
            || self.in_flight + self.moved.len() >= self.limit
            || self.in_flight_bytes >= BYTES_IN_FLIGHT
        {
            return None;
        }
        let sequence = self.first + self.handed_out as u64;
        let slot = self.slots.get_mut(self.handed_out)?;
        slot.state = State::InFlight(now);
        self.handed_out += 1;
        self.in_flight += 1;
        self.in_flight_bytes += slot.queued.publish.payload.len();
        self.since_moved += usize::from(!self.moved.is_empty());
        Some((sequence, &slot.queued.publish))
    }

    /// Marks a publish as done, and drops everything that is over from the front. `None` if the
    /// number is unknown or the publish was done before.
    fn complete(&mut self, sequence: u64) -> Option<Completed> {
        let offset = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(offset)?;
        let payload_bytes = slot.queued.publish.payload.len();
        match slot.state {
            State::Done | State::Moved => return None,
            State::Waiting => {}
            State::InFlight(_) => self.has_left(payload_bytes),
        }
        let slot = &mut self.slots[offset];
        slot.state = State::Done;
        let completed = slot.queued.completed();
        self.drop_over();
        Some(completed)
    }

    /// A publish that is in quarantine is confirmed or refused here after all. Returns its sequence
    /// number there.
    fn complete_moved(&mut self, sequence: u64) -> Option<u64> {
        let moved = self.moved.remove(&sequence)?;
        if self.moved.is_empty() {
            self.since_moved = 0;
        }
        Some(moved)
    }

    fn has_left(&mut self, payload_bytes: usize) {
        self.in_flight -= 1;
        self.in_flight_bytes -= payload_bytes;
    }

    fn drop_over(&mut self) {
        while self.slots.front().is_some_and(|slot| slot.state.is_over()) {
            self.slots.pop_front();
            self.first += 1;
            self.handed_out = self.handed_out.saturating_sub(1);
        }
    }

    /// The topics of publishes in flight that a later one has overtaken for too long, or that are
    /// overdue.
    fn suspects(
        &self,
        timeout: Duration,
        progress: Option<Instant>,
        now: Instant,
    ) -> HashSet<String> {
        let mut is_overtaken = false;
        let mut topics = HashSet::new();
        for slot in self
            .slots
            .range(..self.handed_out.min(self.slots.len()))
            .rev()
        {
            match slot.state {
                State::Waiting | State::Moved => {}
                State::Done => is_overtaken = true,
                State::InFlight(sent) => {
                    let waits_long = now >= sent + OVERTAKEN_FOR.min(timeout);
                    if (is_overtaken && waits_long) || is_overdue(sent, timeout, progress, now) {
                        topics.insert(slot.queued.publish.topic.as_str().to_owned());
                    }
                }
            }
        }
        topics
    }

    /// Takes out whatever goes to these topics, in order, with its sequence number if it is in
    /// flight.
    fn take_out(&mut self, topics: &HashSet<String>) -> Vec<(Option<u64>, QueuedPublish)> {
        let (mut taken, mut count, mut bytes) = (vec![], 0, 0);
        for (sequence, slot) in (self.first..).zip(&mut self.slots) {
            if slot.state.is_over() || !topics.contains(slot.queued.publish.topic.as_str()) {
                continue;
            }
            let in_flight = (slot.state != State::Waiting).then_some(sequence);
            if in_flight.is_some() {
                count += 1;
                bytes += slot.queued.publish.payload.len();
            }
            slot.state = State::Moved;
            taken.push((in_flight, slot.queued.clone()));
        }
        self.in_flight -= count;
        self.in_flight_bytes -= bytes;
        self.drop_over();
        taken
    }
}

/// How many publishes may be in flight if the oldest was in flight when the broker closed so many
/// connections: all, then a sixteenth.
fn allowed(limit: usize, closed: u8) -> usize {
    match closed {
        0 => limit,
        1.. => (limit / 16).max(limit.min(1)),
    }
}

/// One queue for each publisher.
#[derive(Debug)]
pub(super) struct PublishQueues {
    /// The last one is for bulk copies.
    queues: Vec<PublishQueue>,
    quarantine: Quarantine,
    /// When the broker last confirmed or refused a publish, to the tick.
    progress: Option<Instant>,
    /// Whether it has since the last tick.
    has_progressed: bool,
    /// Publishes that have been moved to quarantine since the last tick.
    moved: usize,
    /// Direct publishes that were answered so far.
    confirmed: u64,
}

impl PublishQueues {
    /// Queues for `publishers` connections, for one more that carries bulk copies, and for one with
    /// publishes in quarantine.
    pub(super) fn new(publishers: usize) -> Self {
        let direct = (0..publishers).map(|_| PublishQueue::new(usize::MAX));
        Self {
            queues: direct.chain([PublishQueue::new(BULK_IN_FLIGHT)]).collect(),
            quarantine: Quarantine::default(),
            progress: None,
            has_progressed: false,
            moved: 0,
            confirmed: 0,
        }
    }

    /// The number of the publisher for what is in quarantine.
    fn quarantine_number(&self) -> usize {
        self.queues.len()
    }

    fn in_quarantine(&self, sequence: u64) -> PublishId {
        PublishId {
            publisher: self.quarantine_number(),
            sequence,
        }
    }

    fn direct(&self) -> &[PublishQueue] {
        self.queues.split_last().map_or(&[], |(_, direct)| direct)
    }

    fn bulk(&self) -> &PublishQueue {
        self.queues
            .last()
            .expect("there is always one for bulk copies")
    }

    /// Publishes in flight on a connection whose confirmation is waited for.
    pub(super) fn in_flight(&self, publisher: usize) -> usize {
        let queue = self.queues.get(publisher);
        queue.map_or(0, PublishQueue::in_flight)
    }

    /// Whether a connection is to be replaced when nothing is in flight there.
    pub(super) fn is_worn(&self, publisher: usize) -> bool {
        self.queues
            .get(publisher)
            .is_some_and(PublishQueue::is_worn)
    }

    /// A connection is up.
    pub(super) fn handle_up(&mut self, publisher: usize, receive_maximum: usize) {
        match self.queues.get_mut(publisher) {
            Some(queue) => queue.handle_up(receive_maximum),
            None => self.quarantine.handle_up(receive_maximum),
        }
    }

    /// A connection is gone. Returns a publish to give up, if there is one.
    pub(super) fn handle_down(&mut self, publisher: usize, end: PublisherEnd) -> Option<PublishId> {
        let Some(queue) = self.queues.get_mut(publisher) else {
            let given_up = self.quarantine.handle_down(end);
            return given_up.map(|sequence| self.in_quarantine(sequence));
        };
        let suspects = queue.handle_down(end);
        self.quarantine(&suspects, Suspicion::Closes);
        None
    }

    /// The next publish for a connection, and its sequence number.
    pub(super) fn poll(&mut self, publisher: usize, now: Instant) -> Option<(u64, &Publish)> {
        match self.queues.get_mut(publisher) {
            Some(queue) => queue.poll(now),
            None => self.quarantine.poll(now),
        }
    }

    /// The broker has answered a publish, or it is given up. `None` if it is unknown.
    pub(super) fn complete(&mut self, id: PublishId) -> Option<Completed> {
        let Some(queue) = self.queues.get_mut(id.publisher) else {
            return self.quarantine.complete(id.sequence);
        };
        let completed = match queue.complete_moved(id.sequence) {
            Some(moved) => self.quarantine.complete(moved),
            None => queue.complete(id.sequence),
        };
        let is_direct = id.publisher + 1 < self.queues.len();
        self.confirmed += u64::from(is_direct && completed.is_some());
        completed
    }

    /// Direct publishes that were confirmed or refused so far.
    pub(super) fn confirmed(&self) -> u64 {
        self.confirmed
    }

    /// The broker has confirmed a publish. `None` if it is unknown.
    pub(super) fn confirm(&mut self, id: PublishId) -> Option<Completed> {
        self.has_progressed = true;
        match self.queues.get(id.publisher) {
            Some(queue) => {
                if let Some(moved) = queue.moved.get(&id.sequence) {
                    self.quarantine.handle_confirmed(*moved);
                }
            }
            None => self.quarantine.handle_confirmed(id.sequence),
        }
        self.complete(id)
    }

    pub(super) fn push(&mut self, queued: QueuedPublish) {
        if self.quarantine.holds(queued.publish.topic.as_str()) {
            self.quarantine.push(queued, Suspicion::Unconfirmed);
            return;
        }
        let publisher = match queued.purpose {
            Purpose::BulkCopy => self.queues.len() - 1,
            Purpose::Copy | Purpose::Notice => self.publisher_of(queued.publish.topic.as_str()),
        };
        self.queues[publisher].push(queued);
    }

    /// Moves whatever goes to these topics to quarantine, from whichever queue it waits in: what
    /// goes to one topic later will go there, too.
    fn quarantine(&mut self, topics: &HashSet<String>, suspicion: Suspicion) {
        if topics.is_empty() {
            return;
        }
        for queue in &mut self.queues {
            for (in_flight, queued) in queue.take_out(topics) {
                self.moved += 1;
                let there = self.quarantine.push(queued, suspicion);
                queue.moved.extend(in_flight.map(|here| (here, there)));
            }
        }
    }

    /// Sets apart whatever seems never to be confirmed, and takes back what is overdue there. To be
    /// called at each tick.
    pub(super) fn set_apart(&mut self, timeout: Duration, now: Instant) -> SetApart {
        if std::mem::take(&mut self.has_progressed) {
            self.progress = Some(now);
        }
        for number in 0..self.queues.len() {
            let suspects = self.queues[number].suspects(timeout, self.progress, now);
            self.quarantine(&suspects, Suspicion::Unconfirmed);
        }
        self.quarantine.forget(now);
        let progress = self.progress;
        let overdue = self.quarantine.take_back_overdue(timeout, progress, now);
        let replace = overdue.is_some().then(|| self.quarantine_number());
        let surplus = self.quarantine.surplus();
        let given_up = overdue.into_iter().flatten().chain(surplus);
        let given_up = given_up
            .map(|sequence| self.in_quarantine(sequence))
            .collect();
        SetApart {
            moved: std::mem::take(&mut self.moved),
            given_up,
            replace,
        }
    }

    /// Chosen by topic, so that what goes to one timeline keeps its order.
    pub(super) fn publisher_of(&self, topic: &str) -> usize {
        let publishers = self.direct().len() as u64;
        if publishers == 1 {
            return 0;
        }
        // FNV-1a: the same publisher in every process. Predicting it is of no use to anybody.
        let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        usize::try_from(hash % publishers).expect("less than the number of publishers")
    }

    /// Publishes in the queues of direct publishers.
    pub(super) fn direct_len(&self) -> usize {
        self.direct().iter().map(|queue| queue.slots.len()).sum()
    }

    /// Publishes in quarantine.
    pub(super) fn quarantined(&self) -> usize {
        self.quarantine.len()
    }

    /// The messages whose bulk copies are in quarantine, as the ledger numbers them.
    pub(super) fn quarantined_bulk(&self) -> impl Iterator<Item = usize> {
        self.quarantine.bulk_entries()
    }

    /// How many more bulk copies may be made.
    pub(super) fn room_for_bulk(&self) -> usize {
        let bytes = |slot: &Slot| slot.queued.bytes;
        let bulk = &self.bulk().slots;
        if bulk.iter().map(bytes).sum::<usize>() >= BULK_BYTES {
            return 0;
        }
        BULK_QUEUED.saturating_sub(bulk.len())
    }

    /// Publishes without a confirmation.
    pub(super) fn unconfirmed(&self) -> usize {
        let slots = self.queues.iter().flat_map(|queue| &queue.slots);
        slots.filter(|slot| !slot.state.is_over()).count() + self.quarantine.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().all(|queue| queue.slots.is_empty()) && self.quarantine.len() == 0
    }
}

/// What setting apart has led to.
#[derive(Debug)]
pub(super) struct SetApart {
    /// Publishes that have been moved to quarantine.
    pub moved: usize,
    /// Publishes to give up.
    pub given_up: Vec<PublishId>,
    /// A publisher whose connection is to be replaced at once.
    pub replace: Option<usize>,
}

#[cfg(test)]
mod tests;
