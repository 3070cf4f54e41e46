//! The publishes of the publishing connections: what goes out next, and what is in flight.
//!
//! Owns the queues, their windows, and the search for a publish that costs its connection. Leaves
//! to the [`ledger`](crate::delivery::ledger) which message a publish belongs to.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::protocol::publish::Publish;
use crate::rules::fan_out::STEP;
use crate::rules::plan::Purpose;

/// The cost at which a publish is given up: three closed connections, or ten time-outs, each while
/// it was the only publish in flight. A time-out weighs less because a broker under a resource
/// alarm confirms nothing for a while, through no fault of the publish.
const PATIENCE: u8 = 30;

/// Bulk copies that may wait in their queue before no more are made: a few steps, so that the queue
/// does not run dry.
const BULK_QUEUED: usize = 4 * STEP;

/// Bulk copies that can be made and not be confirmed: with room for one more, a whole step is
/// made.
pub const BULK_UNCONFIRMED: usize = BULK_QUEUED + STEP;

/// The same bound in bytes; copies that share one payload count it once.
const BULK_BYTES: usize = 8 << 20;

/// Bulk copies in flight at a time. They have their own connection, but they share the broker.
const BULK_IN_FLIGHT: usize = 32;

/// Payload bytes one publisher has in flight at a time. On a slow line more would wait so long that
/// the confirmation counts as overdue.
const BYTES_IN_FLIGHT: usize = 4 << 20;

/// Identifies one publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId {
    /// The number of its publisher: from 0; the last one is for bulk copies.
    pub publisher: usize,
    /// Its number among all publishes of that publisher; never used twice.
    pub sequence: u64,
}

/// How a publishing connection ended, as far as its publishes may have caused that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublisherEnd {
    /// The broker closed it. RabbitMQ does that on a publish it refuses.
    Closed,
    /// A confirmation did not come in time.
    TimedOut,
    /// The cause has nothing to do with what was published.
    Unrelated,
}

impl PublisherEnd {
    /// What it adds to the cost of a publish that was alone in flight; see [`PATIENCE`].
    fn cost(self) -> u8 {
        match self {
            Self::Closed => 10,
            Self::TimedOut => 3,
            Self::Unrelated => 0,
        }
    }
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
#[derive(Debug)]
pub(super) struct QueuedPublish {
    /// The message it was made of, as the ledger numbers it.
    pub entry: usize,
    pub publish: Publish,
    pub purpose: Purpose,
    /// What it counts for in the bound on bytes: 0 if an earlier publish shares its payload.
    pub bytes: usize,
}

#[derive(Debug)]
struct Slot {
    queued: QueuedPublish,
    /// When it was handed out on the present connection.
    sent: Option<Instant>,
    /// Connections lost while it was in flight.
    losses: u8,
    /// Sum of [`PublisherEnd::cost`] over the connections lost while it was alone in flight; see
    /// [`PATIENCE`].
    cost: u8,
    done: bool,
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
            limit: 0,
            max_in_flight,
        }
    }

    pub(super) fn push(&mut self, queued: QueuedPublish) {
        self.slots.push_back(Slot {
            queued,
            sent: None,
            losses: 0,
            cost: 0,
            done: false,
        });
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
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
    /// Returns the sequence number of a publish to give up, if there is one.
    pub(super) fn handle_down(&mut self, end: PublisherEnd) -> Option<u64> {
        let cost = if self.in_flight == 1 { end.cost() } else { 0 };
        let loss = u8::from(end != PublisherEnd::Unrelated);
        let mut given_up = None;
        let handed_out = self.slots.iter_mut().take(self.handed_out);
        for (sequence, slot) in (self.first..).zip(handed_out) {
            if slot.done {
                continue;
            }
            slot.sent = None;
            slot.losses = slot.losses.saturating_add(loss);
            slot.cost = slot.cost.saturating_add(cost);
            if slot.cost >= PATIENCE {
                given_up = Some(sequence);
            }
        }
        self.in_flight = 0;
        self.in_flight_bytes = 0;
        self.handed_out = 0;
        self.limit = 0;
        given_up
    }

    /// The next publish for the connection, and its sequence number.
    pub(super) fn poll(&mut self, now: Instant) -> Option<(u64, &Publish)> {
        while self
            .slots
            .get(self.handed_out)
            .is_some_and(|slot| slot.done)
        {
            self.handed_out += 1;
        }
        // The first slot is the oldest in flight, so no other has been lost more often.
        let losses = self.slots.front()?.losses;
        if self.in_flight >= allowed(self.limit, losses) || self.in_flight_bytes >= BYTES_IN_FLIGHT
        {
            return None;
        }
        let sequence = self.first + self.handed_out as u64;
        let slot = self.slots.get_mut(self.handed_out)?;
        slot.sent = Some(now);
        self.handed_out += 1;
        self.in_flight += 1;
        self.in_flight_bytes += slot.queued.publish.payload.len();
        Some((sequence, &slot.queued.publish))
    }

    /// Marks a publish as done, and drops everything done from the front. `None` if the number is
    /// unknown or the publish was done before.
    pub(super) fn complete(&mut self, sequence: u64) -> Option<Completed> {
        let offset = usize::try_from(sequence.checked_sub(self.first)?).ok()?;
        let slot = self.slots.get_mut(offset).filter(|slot| !slot.done)?;
        slot.done = true;
        let completed = Completed {
            entry: slot.queued.entry,
            purpose: slot.queued.purpose,
            bytes: slot.queued.bytes,
        };
        if slot.sent.is_some() {
            self.in_flight -= 1;
            self.in_flight_bytes -= slot.queued.publish.payload.len();
        }
        while self.slots.front().is_some_and(|slot| slot.done) {
            self.slots.pop_front();
            self.first += 1;
            self.handed_out = self.handed_out.saturating_sub(1);
        }
        Some(completed)
    }

    /// Whether the oldest publish in flight has waited for `timeout` or longer.
    fn is_overdue(&self, timeout: Duration, now: Instant) -> bool {
        let oldest = self.slots.front().and_then(|slot| slot.sent);
        oldest.is_some_and(|sent| now >= sent + timeout)
    }
}

/// How many publishes may be in flight if the oldest has been lost `losses` times: all, a
/// sixteenth, then one.
fn allowed(limit: usize, losses: u8) -> usize {
    match losses {
        0 => limit,
        1 => (limit / 16).max(limit.min(1)),
        2.. => limit.min(1),
    }
}

/// One queue for each publisher.
#[derive(Debug)]
pub(super) struct PublishQueues {
    direct: Vec<PublishQueue>,
    bulk: PublishQueue,
}

impl PublishQueues {
    /// Queues for `publishers` connections, and for one more that carries bulk copies.
    pub(super) fn new(publishers: usize) -> Self {
        Self {
            direct: (0..publishers)
                .map(|_| PublishQueue::new(usize::MAX))
                .collect(),
            bulk: PublishQueue::new(BULK_IN_FLIGHT),
        }
    }

    /// The queue of a publisher; the number after the last direct one means the bulk queue.
    pub(super) fn get_mut(&mut self, publisher: usize) -> &mut PublishQueue {
        debug_assert!(publisher <= self.direct.len(), "no publisher {publisher}");
        self.direct.get_mut(publisher).unwrap_or(&mut self.bulk)
    }

    pub(super) fn get(&self, publisher: usize) -> &PublishQueue {
        debug_assert!(publisher <= self.direct.len(), "no publisher {publisher}");
        self.direct.get(publisher).unwrap_or(&self.bulk)
    }

    pub(super) fn push(&mut self, queued: QueuedPublish) {
        let queue = match queued.purpose {
            Purpose::BulkCopy => &mut self.bulk,
            Purpose::Copy | Purpose::Notice => {
                let publisher = self.publisher_of(queued.publish.topic.as_str());
                &mut self.direct[publisher]
            }
        };
        queue.push(queued);
    }

    /// Chosen by topic, so that what goes to one timeline keeps its order.
    pub(super) fn publisher_of(&self, topic: &str) -> usize {
        if self.direct.len() == 1 {
            return 0;
        }
        // FNV-1a: the same publisher in every process. Predicting it is of no use to anybody.
        let hash = topic.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let publishers = self.direct.len() as u64;
        usize::try_from(hash % publishers).expect("less than the number of publishers")
    }

    /// Publishes in the queues of direct publishers.
    pub(super) fn direct_len(&self) -> usize {
        self.direct.iter().map(|queue| queue.slots.len()).sum()
    }

    /// How many more bulk copies may be made.
    pub(super) fn room_for_bulk(&self) -> usize {
        let bytes = |slot: &Slot| slot.queued.bytes;
        if self.bulk.slots.iter().map(bytes).sum::<usize>() >= BULK_BYTES {
            return 0;
        }
        BULK_QUEUED.saturating_sub(self.bulk.slots.len())
    }

    /// Publishes without a confirmation.
    pub(super) fn unconfirmed(&self) -> usize {
        let slots = self.all().flat_map(|queue| &queue.slots);
        slots.filter(|slot| !slot.done).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().all(|queue| queue.slots.is_empty())
    }

    /// The first publisher whose oldest publish has waited for `timeout` or longer.
    pub(super) fn overdue(&self, timeout: Duration, now: Instant) -> Option<usize> {
        self.all().position(|queue| queue.is_overdue(timeout, now))
    }

    fn all(&self) -> impl Iterator<Item = &PublishQueue> {
        self.direct.iter().chain([&self.bulk])
    }
}

#[cfg(test)]
mod tests;
