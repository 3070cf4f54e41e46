//! The publishes of the publishing connections: what goes out next, and what is in flight.
//!
//! Owns the queues, their windows, and which publishes are suspected to end their connection or
//! never to be confirmed. Leaves those to `quarantine.rs`, and to the
//! [`ledger`](crate::delivery::ledger) which message a publish belongs to.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::delivery::quarantine::is_overdue;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::rules::plan::Purpose;

/// Connections that the broker closed while the same publish was in flight, before it goes to
/// quarantine. Once may be the broker's own trouble.
const CLOSED: u8 = 2;

/// Payload bytes one publisher has in flight at a time. On a slow line more would wait so long that
/// the confirmation counts as overdue.
pub(super) const BYTES_IN_FLIGHT: usize = 4 << 20;

/// What part of the publishes that may be in flight one topic may have there, while the broker
/// confirms others and none of its own.
const SHARE: usize = 8;

/// For so long.
const GREEDY_FOR: Duration = Duration::from_millis(100);

/// How often that is looked for at most: it is a look at all that is in flight.
const LOOKED_EVERY: Duration = Duration::from_millis(20);

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
    /// What it counts for in the bound on bytes: only its topic if an earlier publish shares its
    /// payload.
    pub bytes: usize,
    /// The message's id, if the delivery log holds the publish.
    pub logged_as: Option<MessageId>,
    /// Whether that id is not below that of any publish to its topic queued before.
    pub is_newest: bool,
}

impl QueuedPublish {
    /// Something of the observer's own that counts for nothing.
    pub(super) fn own(entry: usize, publish: Publish) -> Self {
        Self {
            entry,
            publish,
            purpose: Purpose::Notice,
            bytes: 0,
            logged_as: None,
            is_newest: false,
        }
    }

    /// Whether it is that.
    pub(super) fn is_own(&self) -> bool {
        self.bytes == 0
    }

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

impl Slot {
    /// Takes it out of the queue. Its payload goes with it: the slot may stay for long, behind one
    /// that is not confirmed.
    fn take(&mut self) -> QueuedPublish {
        self.state = State::Moved;
        let payload = std::mem::take(&mut self.queued.publish.payload);
        let mut taken = self.queued.clone();
        taken.publish.payload = payload;
        taken
    }
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
    /// Slots that are not over.
    open: usize,
    /// When the oldest publish was sent of those that the broker has answered since the last tick.
    oldest_answered: Option<Instant>,
    /// What was in flight and is in quarantine by now: its sequence numbers here and there. It may
    /// still be confirmed here, and counts for what the broker takes at a time, for nothing else.
    moved: BTreeMap<u64, u64>,
    /// How many publishes may be in flight; 0 while there is no connection.
    limit: usize,
    /// Upper bound for `limit`, however many the broker takes.
    max_in_flight: usize,
    /// When it was looked for topics that take more than their share.
    looked: Option<Instant>,
}

impl PublishQueue {
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self {
            slots: VecDeque::new(),
            first: 0,
            handed_out: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            open: 0,
            oldest_answered: None,
            moved: BTreeMap::new(),
            limit: 0,
            max_in_flight,
            looked: None,
        }
    }

    pub(super) fn push(&mut self, queued: QueuedPublish) {
        self.open += 1;
        self.slots.push_back(Slot {
            queued,
            state: State::Waiting,
            closed: 0,
        });
    }

    /// Publishes that are neither confirmed nor elsewhere.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// The same, with those that are confirmed and stand behind one that is not.
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// What its publishes count for in the bound on bytes.
    pub(super) fn bytes(&self) -> usize {
        let open = self.slots.iter().filter(|slot| !slot.state.is_over());
        open.map(|slot| slot.queued.bytes).sum()
    }

    /// Whether nothing more may go out until something is confirmed.
    pub(super) fn is_full(&self) -> bool {
        self.in_flight > 0
            && (self.in_flight + self.moved.len() >= self.limit
                || self.in_flight_bytes >= BYTES_IN_FLIGHT)
    }

    /// When the publish was sent that is in flight for the longest time.
    pub(super) fn oldest_in_flight(&self) -> Option<Instant> {
        match self.slots.front()?.state {
            State::InFlight(sent) => Some(sent),
            State::Waiting | State::Done | State::Moved => None,
        }
    }

    /// When the oldest publish was sent of those that the broker has answered since the last call.
    pub(super) fn take_oldest_answered(&mut self) -> Option<Instant> {
        self.oldest_answered.take()
    }

    /// The sequence number in quarantine of a publish that was in flight here.
    pub(super) fn moved_to(&self, sequence: u64) -> Option<u64> {
        self.moved.get(&sequence).copied()
    }

    /// A publish that was in flight is in quarantine now, under the number `there`.
    pub(super) fn note_moved(&mut self, sequence: u64, there: u64) {
        self.moved.insert(sequence, there);
    }

    /// Payload bytes of the publishes in flight.
    pub(super) fn bytes_in_flight(&self) -> usize {
        self.in_flight_bytes
    }

    /// Publishes in flight whose confirmation is waited for.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether the connection is to be replaced, because too many publishes on it are in
    /// quarantine: they take the places of others.
    pub(super) fn is_worn(&self) -> bool {
        self.moved.len() >= self.limit.max(1).div_ceil(2)
    }

    /// The connection is up: at most so many publishes may be in flight there, beside a canary.
    pub(super) fn handle_up(&mut self, limit: usize) {
        debug_assert_eq!(
            (self.in_flight, self.handed_out),
            (0, 0),
            "a publisher comes up only after it went down"
        );
        self.limit = limit.clamp(1, self.max_in_flight);
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
        Some((sequence, &slot.queued.publish))
    }

    /// Marks a publish as done, and drops everything that is over from the front. `None` if the
    /// number is unknown or the publish was done before.
    pub(super) fn complete(&mut self, sequence: u64) -> Option<Completed> {
        let offset = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(offset)?;
        let payload_bytes = slot.queued.publish.payload.len();
        match slot.state {
            State::Done | State::Moved => return None,
            State::Waiting => {}
            State::InFlight(sent) => {
                let oldest = self.oldest_answered.get_or_insert(sent);
                *oldest = (*oldest).min(sent);
                self.has_left(payload_bytes);
            }
        }
        self.open -= 1;
        let slot = &mut self.slots[offset];
        slot.state = State::Done;
        // The slot may stay for long, behind one that is not confirmed.
        slot.queued.publish.payload = Bytes::new();
        let completed = slot.queued.completed();
        self.drop_over();
        Some(completed)
    }

    /// A publish that is in quarantine is confirmed or refused here after all. Returns its sequence
    /// number there.
    pub(super) fn complete_moved(&mut self, sequence: u64) -> Option<u64> {
        self.moved.remove(&sequence)
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

    /// The topics of publishes in flight that later ones have overtaken for longer than `patience`,
    /// or that are overdue. `progress`: when the broker last confirmed something, as far as that is
    /// held against those; and against what nothing can overtake, because nothing more goes out.
    pub(super) fn suspects(
        &self,
        timeout: Duration,
        patience: Option<Duration>,
        (progress, passed): (Option<Instant>, Option<Instant>),
        now: Instant,
    ) -> HashSet<String> {
        let mut is_overtaken = false;
        let mut topics = HashSet::new();
        // What is confirmed elsewhere counts there.
        let is_passed = |sent| {
            let passed = patience.zip(passed);
            self.is_full() && passed.is_some_and(|(time, at)| at >= sent + time.min(timeout))
        };
        let handed_out = self.slots.range(..self.handed_out.min(self.slots.len()));
        for slot in handed_out.rev() {
            match slot.state {
                State::Waiting | State::Moved => {}
                State::Done => is_overtaken = true,
                State::InFlight(sent) => {
                    let waits_long = patience.is_some_and(|time| now >= sent + time.min(timeout));
                    let is_stuck = (is_overtaken && waits_long) || is_passed(sent);
                    if is_stuck || is_overdue(sent, timeout, progress, now) {
                        topics.insert(slot.queued.publish.topic.as_str().to_owned());
                    }
                }
            }
        }
        topics
    }

    /// The topics of publishes in flight.
    pub(super) fn topics_in_flight(&self) -> HashSet<String> {
        let handed_out = self.slots.iter().take(self.handed_out);
        let in_flight = handed_out.filter(|slot| matches!(slot.state, State::InFlight(_)));
        in_flight
            .map(|slot| slot.queued.publish.topic.as_str().to_owned())
            .collect()
    }

    /// The topic of a publish that is not over.
    pub(super) fn topic_of(&self, sequence: u64) -> Option<&str> {
        let offset = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let slot = self
            .slots
            .get(offset)
            .filter(|slot| !slot.state.is_over())?;
        Some(slot.queued.publish.topic.as_str())
    }

    /// How many publishes to a topic are not over.
    pub(super) fn waiting_for(&self, topic: &str) -> usize {
        let open = self.slots.iter().filter(|slot| !slot.state.is_over());
        open.filter(|slot| slot.queued.publish.topic.as_str() == topic)
            .count()
    }

    /// A topic that takes more than its share of what may be in flight, and of which the broker
    /// confirms nothing while it confirms what was handed out later.
    pub(super) fn greedy(&mut self, now: Instant) -> Option<String> {
        if self.in_flight * SHARE < self.limit
            || self.looked.is_some_and(|at| now < at + LOOKED_EVERY)
        {
            return None;
        }
        self.looked = Some(now);
        // For each topic: since when it is in flight, how much of it, and whether it was overtaken.
        let mut topics: BTreeMap<&str, (Instant, usize, bool)> = BTreeMap::new();
        let mut confirmed = HashSet::new();
        for slot in self
            .slots
            .range(..self.handed_out.min(self.slots.len()))
            .rev()
        {
            let topic = slot.queued.publish.topic.as_str();
            match slot.state {
                State::Waiting | State::Moved => {}
                State::Done => {
                    confirmed.insert(topic);
                }
                State::InFlight(sent) => {
                    let overtaken = !confirmed.is_empty() && !confirmed.contains(topic);
                    let (since, count, is_overtaken) =
                        topics.entry(topic).or_insert((sent, 0, false));
                    *since = sent;
                    *count += 1;
                    *is_overtaken = overtaken;
                }
            }
        }
        let is_greedy = |(since, count, is_overtaken): (Instant, usize, bool)| {
            is_overtaken && count * SHARE >= self.limit && now >= since + GREEDY_FOR
        };
        let mut topics = topics.into_iter();
        topics
            .find(|(_, of)| is_greedy(*of))
            .map(|(topic, _)| topic.to_owned())
    }

    /// Takes out what the delivery log holds and waits to go to a topic: from the first that was
    /// the newest of all, and has a higher id than what is in flight there.
    pub(super) fn take_waiting(&mut self, topic: &str) -> Vec<QueuedPublish> {
        let (mut in_flight, mut after, mut taken) = (None, None, vec![]);
        for slot in &mut self.slots {
            if slot.state.is_over() || slot.queued.publish.topic.as_str() != topic {
                continue;
            }
            let queued = &slot.queued;
            let id = queued.logged_as;
            if slot.state != State::Waiting {
                in_flight = in_flight.max(id);
                continue;
            }
            if after.is_none() && queued.is_newest && id > in_flight {
                after = id;
            }
            if after.is_some() && id >= after {
                taken.push(slot.take());
            } else if after.is_none() {
                in_flight = in_flight.max(id);
            }
        }
        self.open -= taken.len();
        self.drop_over();
        taken
    }

    /// What the delivery log holds and was confirmed to these topics, while something before it was
    /// not.
    pub(super) fn done<'a>(
        &'a self,
        topics: &'a HashSet<String>,
    ) -> impl Iterator<Item = (&'a str, MessageId)> {
        let done = self.slots.iter().filter(|slot| slot.state == State::Done);
        let done = done.map(|slot| (slot.queued.publish.topic.as_str(), slot.queued.logged_as));
        let of_topics = done.filter(|(topic, _)| topics.contains(*topic));
        of_topics.filter_map(|(topic, id)| Some((topic, id?)))
    }

    /// Takes out whatever goes to these topics, in order, with its sequence number if it is in
    /// flight.
    pub(super) fn take_out(
        &mut self,
        topics: &HashSet<String>,
    ) -> Vec<(Option<u64>, QueuedPublish)> {
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
            taken.push((in_flight, slot.take()));
        }
        self.open -= taken.len();
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

#[cfg(test)]
mod tests;
