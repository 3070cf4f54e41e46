//! One queue of publishes for each publishing connection.
//!
//! Owns which queue a publish goes to, how much waits in each, and how long the broker may take to
//! confirm one while it confirms others. Leaves each queue to `publish_queue.rs`, and what is never
//! confirmed to `quarantine.rs`.

mod crowd;
mod served;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use crate::delivery::canary::Canaries;
use crate::delivery::left::{Left, LeftRead};
use crate::delivery::publish_queue::{
    Completed, PublishId, PublishQueue, PublisherEnd, QueuedPublish,
};
use crate::delivery::quarantine::{MOST_WAITING, Quarantine, Suspicion};
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::rules::fan_out::STEP;
use crate::rules::plan::Purpose;

/// How long at least a publish may be unconfirmed although a later one on its connection is
/// confirmed. Brokers confirm nearly in order.
const OVERTAKEN_FOR: Duration = Duration::from_secs(2);

/// How many times as long as the slowest confirmation lately: on a busy RabbitMQ the queues of some
/// users are seconds behind those of others, and a publish that is moved too early arrives twice.
const SLOWER_THAN_OTHERS: u32 = 4;

/// The broker confirms publishes at present if it confirmed one in this time: two ticks.
const PROGRESS: Duration = Duration::from_secs(1);

/// If it has confirmed nothing for longer, that was a pause.
const PAUSE: Duration = Duration::from_secs(3);

/// How long the broker must have done so without a pause, before publishes are given up because too
/// many bytes wait in quarantine: what came together there in the pause may pass.
pub(super) const STEADY: Duration = Duration::from_secs(10);

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

/// Publishes to one topic that wait in memory before what follows is left to the delivery log, if
/// the topic is in quarantine; and publishes to a topic of which something is left there, before
/// more is read.
const IN_MEMORY: usize = if cfg!(test) { 4 } else { 64 };

/// One queue for each publisher.
#[derive(Debug)]
pub(super) struct PublishQueues {
    /// The last one is for bulk copies.
    queues: Vec<PublishQueue>,
    quarantine: Quarantine,
    canaries: Canaries,
    /// What the delivery log alone holds.
    left: Left,
    /// Topics with more than their share in flight, none of which is confirmed: what waits behind
    /// is left to the log.
    greedy: HashSet<String>,
    /// The highest id of all publishes so far.
    newest: Option<MessageId>,
    /// When the broker last confirmed or refused a publish, to the tick.
    progress: Option<Instant>,
    /// Whether it has since the last tick.
    has_progressed: bool,
    /// When it did so for the first time after a pause.
    resumed: Option<Instant>,
    last_tick: Option<Instant>,
    /// Since when it has done so all the time, but for times in which nothing waited.
    steady_since: Option<Instant>,
    /// Since when quarantine holds more publishes than it may.
    crowded_since: Option<Instant>,
    /// How long the slowest of the broker's answers took lately: it falls by a tenth at each tick.
    slowest: Duration,
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
            canaries: Canaries::new(publishers + 2),
            left: Left::default(),
            greedy: HashSet::new(),
            newest: None,
            progress: None,
            has_progressed: false,
            resumed: None,
            last_tick: None,
            steady_since: None,
            crowded_since: None,
            slowest: Duration::ZERO,
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

    /// A connection is up: so many publishes may be in flight there, beside a canary.
    pub(super) fn handle_up(&mut self, publisher: usize, limit: usize) {
        self.canaries.handle_up(publisher, limit);
        match self.queues.get_mut(publisher) {
            Some(queue) => queue.handle_up(limit),
            None => self.quarantine.handle_up(limit),
        }
    }

    /// A connection is gone. Returns a publish to give up, if there is one.
    pub(super) fn handle_down(&mut self, publisher: usize, end: PublisherEnd) -> Option<PublishId> {
        let has_canary = self.canaries.is_in_flight(publisher);
        self.canaries.handle_down(publisher);
        let Some(queue) = self.queues.get_mut(publisher) else {
            let given_up = self.quarantine.handle_down(end, has_canary);
            return given_up.map(|sequence| self.in_quarantine(sequence));
        };
        let suspects = queue.handle_down(end);
        self.greedy.clear();
        self.quarantine(&suspects, Suspicion::Connection);
        None
    }

    /// The next publish for a connection, and its sequence number.
    pub(super) fn poll(&mut self, publisher: usize, now: Instant) -> Option<(u64, &Publish)> {
        if self.canaries.waits(publisher) {
            return self.canaries.poll(publisher, now);
        }
        match self.queues.get_mut(publisher) {
            Some(queue) => queue.poll(now),
            None => {
                let has_canary = self.canaries.is_in_flight(publisher);
                self.quarantine.poll(has_canary, now)
            }
        }
    }

    /// The broker has answered a publish, or it is given up. `None` if it is unknown.
    pub(super) fn complete(&mut self, id: PublishId) -> Option<Completed> {
        if let Some((canary, sent)) = self.canaries.complete(id.publisher, id.sequence) {
            if id.publisher == self.quarantine_number() {
                self.quarantine.handle_served(sent);
            }
            return Some(canary);
        }
        let Some(queue) = self.queues.get_mut(id.publisher) else {
            return self.quarantine.complete(id.sequence);
        };
        if !self.greedy.is_empty()
            && let Some(topic) = queue.topic_of(id.sequence)
        {
            self.greedy.remove(topic);
        }
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
        self.note_answer(id.publisher);
        match self.queues.get(id.publisher) {
            Some(queue) => {
                if let Some(moved) = queue.moved_to(id.sequence) {
                    self.quarantine.handle_confirmed(moved);
                }
            }
            None => self.quarantine.handle_confirmed(id.sequence),
        }
        let completed = self.complete(id);
        // The broker takes them again.
        for queued in self.quarantine.take_released() {
            self.push_kept(queued);
        }
        completed
    }

    /// Takes a publish that goes to sessions of others, whatever they are: it holds up nothing but
    /// what is in quarantine.
    pub(super) fn push_apart(&mut self, queued: QueuedPublish) {
        self.quarantine.push(queued, Suspicion::Connection);
    }

    /// Takes a publish. Returns whether it is left to the delivery log: then it is not here.
    #[must_use]
    pub(super) fn push(&mut self, mut queued: QueuedPublish) -> bool {
        queued.is_newest = queued.logged_as >= self.newest;
        self.newest = self.newest.max(queued.logged_as);
        let left = self.is_to_be_left(&queued);
        match left {
            Some(id) => self.left.add(&queued.publish, id),
            None => self.push_kept(queued),
        }
        left.is_some()
    }

    /// The id of the message of a publish that is to be left to the log.
    fn is_to_be_left(&self, queued: &QueuedPublish) -> Option<MessageId> {
        let id = queued.logged_as?;
        if self.left.is_empty() && self.greedy.is_empty() && self.quarantine.is_empty() {
            return None;
        }
        let topic = queued.publish.topic.as_str();
        let is_left = match self.left.after(topic) {
            Some(after) => id > after,
            // What has a lower id than another cannot be found in the log after that.
            None => {
                let most = if self.quarantine.is_full() {
                    1
                } else {
                    IN_MEMORY
                };
                queued.is_newest
                    && !self.left.is_full()
                    && (self.greedy.contains(topic) || self.quarantine.waiting_for(topic) >= most)
            }
        };
        is_left.then_some(id)
    }

    /// Leaves to the log what waits to go to a topic that takes more than its share. Returns the
    /// messages, as the ledger numbers them, and what they counted for in bytes.
    pub(super) fn leave_greedy(&mut self, publisher: usize, now: Instant) -> Vec<Completed> {
        // Bulk copies are few at a time.
        if publisher + 1 >= self.queues.len() || self.left.is_full() {
            return vec![];
        }
        let queue = &mut self.queues[publisher];
        let Some(topic) = queue
            .greedy(now)
            .filter(|topic| !self.greedy.contains(topic))
        else {
            return vec![];
        };
        let taken = match self.left.after(&topic) {
            None => queue.take_waiting(&topic),
            Some(_) => vec![],
        };
        self.greedy.insert(topic);
        for queued in &taken {
            if let Some(id) = queued.logged_as {
                self.left.add(&queued.publish, id);
            }
        }
        taken.iter().map(QueuedPublish::completed).collect()
    }

    /// What is to be read from the delivery log next, of messages up to `up_to`.
    pub(super) fn next_left(&self, up_to: Option<MessageId>) -> Option<LeftRead> {
        if self.left.is_empty() {
            return None;
        }
        let next = self.left.next(|topic, left, record| {
            if self.greedy.contains(topic) {
                return false;
            }
            if let Some(record) = record {
                return !self.quarantine.is_full() || record.failed > 0 && left > MOST_WAITING;
            }
            match self.quarantine.holds(topic) {
                true => {
                    let most = if self.quarantine.is_full() {
                        1
                    } else {
                        IN_MEMORY / 2
                    };
                    self.quarantine.waiting_for(topic) < most
                        || self.quarantine.has_failed(topic) && left > MOST_WAITING
                }
                false => self.direct_to(topic).waiting_for(topic) < IN_MEMORY,
            }
        });
        next.filter(|next| up_to.is_none_or(|up_to| next.after < up_to))
    }

    fn direct_to(&self, topic: &str) -> &PublishQueue {
        &self.queues[self.publisher_of(topic)]
    }

    /// A publish that was left to the log is in memory now.
    pub(super) fn push_read(&mut self, queued: QueuedPublish) {
        self.left.handle_read(&queued.publish);
        match self.left.take_record(queued.publish.topic.as_str()) {
            Some(record) => self.quarantine.push_again(queued, record),
            None => self.push_kept(queued),
        }
    }

    /// See [`Left::handle_read_up_to`]. Returns the publishes to give up, because too many wait for
    /// a topic where a try has failed: the oldest, but for the one that is tried.
    pub(super) fn handle_read_up_to(
        &mut self,
        topic: &str,
        up_to: Option<MessageId>,
        is_last: bool,
    ) -> Vec<PublishId> {
        self.left.handle_read_up_to(topic, up_to, is_last);
        let left = self.left.publishes(topic);
        let surplus = self.quarantine.surplus_of(topic, left);
        let surplus = surplus.into_iter();
        surplus
            .map(|sequence| self.in_quarantine(sequence))
            .collect()
    }

    /// What the delivery log alone holds.
    pub(super) fn left(&self) -> &Left {
        &self.left
    }

    /// At most about so many bytes are left to the delivery log.
    pub(super) fn limit_left(&mut self, max_bytes: u64) {
        self.left.limit(max_bytes);
    }

    fn push_kept(&mut self, queued: QueuedPublish) {
        let topic = queued.publish.topic.as_str();
        if self.quarantine.holds(topic) || self.left.record(topic).is_some() {
            self.quarantine.push(queued, Suspicion::Unconfirmed);
            return;
        }
        let publisher = match queued.purpose {
            Purpose::BulkCopy => self.queues.len() - 1,
            Purpose::Copy | Purpose::Notice => self.publisher_of(topic),
        };
        self.queues[publisher].push(queued);
    }

    /// Moves whatever goes to these topics to quarantine, from whichever queue it waits in: what
    /// goes to one topic later will go there, too.
    fn quarantine(&mut self, topics: &HashSet<String>, suspicion: Suspicion) {
        if topics.is_empty() {
            return;
        }
        self.greedy.retain(|topic| !topics.contains(topic));
        if suspicion == Suspicion::Connection {
            self.quarantine.begin_occasion();
        }
        for queue in &mut self.queues {
            let done = queue.done(topics);
            let done: Vec<_> = done.map(|(topic, id)| (topic.to_owned(), id)).collect();
            for (in_flight, queued) in queue.take_out(topics) {
                self.moved += 1;
                let there = self.quarantine.push(queued, suspicion);
                if let Some(here) = in_flight {
                    queue.note_moved(here, there);
                }
            }
            for (topic, id) in done {
                self.quarantine.note_over(&topic, id);
            }
        }
    }

    fn note_progress(&mut self, now: Instant) {
        // The process may have been stopped: what was confirmed meanwhile is not read yet.
        let last_tick = self.last_tick.replace(now);
        let is_late = last_tick.is_some_and(|at| now >= at + PAUSE);
        if std::mem::take(&mut self.has_progressed) {
            if is_late || self.progress.is_none_or(|at| now >= at + PAUSE) {
                self.resumed = Some(now);
            }
            self.progress = Some(now);
            self.steady_since.get_or_insert(now);
        } else if !self.is_empty() && !self.progresses(now) {
            self.steady_since = None;
        }
    }

    /// Whether the broker confirms publishes at present.
    fn progresses(&self, now: Instant) -> bool {
        self.progress.is_some_and(|at| now <= at + PROGRESS)
    }

    /// How long a publish may be unconfirmed although others overtake it; `None` while the broker
    /// confirms nothing: those that overtook it were confirmed before. To be called at each tick.
    fn patience(&mut self, now: Instant) -> Option<Duration> {
        let answered = self
            .queues
            .iter_mut()
            .filter_map(|queue| queue.take_oldest_answered());
        let slowest = answered
            .map(|sent| now.saturating_duration_since(sent))
            .max();
        let before = self.slowest - self.slowest / 10;
        self.slowest = slowest.unwrap_or_default().max(before);
        let patience = OVERTAKEN_FOR.max(self.slowest * SLOWER_THAN_OTHERS);
        self.progresses(now).then_some(patience)
    }

    /// Sets apart whatever seems never to be confirmed, and takes back what is overdue there. To be
    /// called at each tick.
    pub(super) fn set_apart(&mut self, timeout: Duration, now: Instant) -> SetApart {
        self.note_progress(now);
        let over = self.canaries.tick(now);
        let patience = self.patience(now);
        // A broker that is slow with all is not to be left because of that.
        let timeout = timeout.max(self.slowest * SLOWER_THAN_OTHERS / 2);
        // What was in flight during a pause has some time to be confirmed after it.
        let has_resumed = |at| now >= at + OVERTAKEN_FOR;
        let has_resumed = self.resumed.is_some_and(has_resumed);
        let progress = self.progress.filter(|_| has_resumed);
        let patience = patience.filter(|_| has_resumed);
        let (mut replace, mut given_up) = match patience {
            Some(patience) => self.leave_stopped(patience, (timeout, progress), now),
            None => (vec![], vec![]),
        };
        for number in 0..self.queues.len() {
            // While a canary is in flight, it is not known whether something has stopped the
            // connection.
            let canary = self.canaries.sent(number);
            let is_unsure = canary.is_some_and(|sent| now >= sent + OVERTAKEN_FOR);
            let suspicion = match is_unsure {
                true => Suspicion::Connection,
                false => Suspicion::Unconfirmed,
            };
            let passed = progress.filter(|_| canary.is_none());
            let queue = &self.queues[number];
            let suspects = queue.suspects(timeout, patience, (progress, passed), now);
            self.quarantine(&suspects, suspicion);
            if is_unsure && !suspects.is_empty() {
                self.canaries.handle_down(number);
                replace.push(number);
            }
        }
        self.quarantine.forget(now);
        // Before anything is chosen to be given up.
        let left = self.leave_crowd();
        if let Some(overdue) = self.quarantine.take_back_overdue(timeout, progress, now) {
            replace.push(self.quarantine_number());
            given_up.extend(overdue);
        }
        let is_steady = |since| now >= since + STEADY;
        let is_steady = self.steady_since.is_some_and(is_steady);
        let is_crowded = self.note_crowd(now);
        given_up.extend(self.quarantine.surplus(is_steady, is_crowded));
        let given_up = given_up
            .into_iter()
            .map(|sequence| self.in_quarantine(sequence))
            .collect();
        SetApart {
            over,
            wants_canaries: self.wants_canaries(timeout, now),
            moved: std::mem::take(&mut self.moved),
            given_up,
            left,
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
        self.direct().iter().map(PublishQueue::open).sum()
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
        let bulk = self.bulk();
        if bulk.bytes() >= BULK_BYTES {
            return 0;
        }
        BULK_QUEUED.saturating_sub(bulk.len())
    }

    /// Publishes without a confirmation.
    pub(super) fn unconfirmed(&self) -> usize {
        let open: usize = self.queues.iter().map(PublishQueue::open).sum();
        open + self.quarantine.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unconfirmed() == 0
    }
}

/// What setting apart has led to.
#[derive(Debug)]
pub(super) struct SetApart {
    /// Publishes that have been moved to quarantine.
    pub moved: usize,
    /// Whether to try which connections the broker serves: [`PublishQueues::push_canaries`].
    pub wants_canaries: bool,
    /// Canaries that are over.
    pub over: Vec<Completed>,
    /// Publishes to give up.
    pub given_up: Vec<PublishId>,
    /// Publishes that were in quarantine, and are left to the delivery log.
    pub left: Vec<Completed>,
    /// Publishers whose connections are to be replaced at once.
    pub replace: Vec<usize>,
}
