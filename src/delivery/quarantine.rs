//! Publishes that the broker seems never to confirm, or to close connections on, and what goes to
//! the same topics behind them.
//!
//! Owns their order, their tries, and when one is given up. They have a connection of their own, so
//! that they hold up nobody else. Leaves to `publish_queue.rs` which publish is a suspect.
//!
//! Over MQTT 3.1.1 RabbitMQ has no way to refuse a publish that it could not put into a queue: one
//! that is full and has `overflow: reject-publish`, or whose node is away. 4.0.5 gives no PUBACK,
//! 3.10.8 closes the connection, as it does on a publish that is not permitted (seen on both). And
//! on the first publish to a quorum queue without a majority 4.0.5 does not serve the connection
//! for 65 seconds (seen over 3.1.1 and 5): all that is behind it there waits.

mod crowd;

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::delivery::publish_queue::{Completed, PublisherEnd, QueuedPublish};
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::rules::plan::Purpose;

/// Tries in a row that a topic's publishes are worth: then the first is given up, and after that
/// each one whose only try fails, until the broker confirms one.
const TRIES: u8 = 10;
/// What one connection counts for that the broker closed while nothing else was in flight there:
/// three are worth them all. A time-out weighs less, because it may be the broker's own trouble.
const TRIES_PER_CLOSED: u8 = 4;
/// Publishes that may wait here: of more, the oldest are given up to the topic with the most, of
/// those where a try has failed.
pub(super) const MOST_WAITING: usize = 1_000;
/// Payload bytes that may wait here, a part of what may be under way at all: so that nobody fills
/// that with what goes to one topic.
const MOST_BYTES: usize = 8 << 20;
/// Payload bytes to one topic, from which on they can be too many before a try has failed: no
/// ordinary recipient has as much on its way.
const VERY_MUCH: usize = 1 << 20;
/// How long a topic is remembered after its last publish was given up.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Topics that are remembered, with those of publishes that wait.
const MOST_TOPICS: usize = 2_000;
/// Confirmations in a row after which a topic is like any other again, whatever waits for it.
const RELEASED_AFTER: u8 = 32;
/// How long what may end or stop connections waits for all else, after a try of its kind that has
/// failed: others have the connection for most of the time.
const LAST_FOR: Duration = Duration::from_secs(10);
/// Topics whose publish may be in flight at a time.
const IN_FLIGHT: usize = 32;

/// One publish.
#[derive(Debug)]
struct Suspect {
    sequence: u64,
    queued: QueuedPublish,
}

impl Suspect {
    fn payload_bytes(&self) -> usize {
        self.queued.publish.payload.len()
    }
}

/// What a publish is suspected of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// That it is never confirmed; or it waits behind one.
    Unconfirmed,
    /// That the broker closes the connection on it, or serves nothing behind it there.
    Connection,
}

/// What waits for one topic, oldest first. Only the first is in flight.
#[derive(Debug, Default)]
struct Topic {
    waiting: VecDeque<Suspect>,
    /// Since when nothing waits, and the last one was given up. It is remembered for a while, so
    /// that the next publish does not go to a connection that others share.
    given_up: Option<Instant>,
    /// When the first was handed out on the present connection.
    sent: Option<Instant>,
    /// Whether a canary that was sent there behind it is confirmed: it does not stop the
    /// connection.
    is_passed: bool,
    /// When the first was handed out for the first time since a try was counted, whatever
    /// connections were replaced meanwhile.
    since: Option<Instant>,
    /// When the first was handed out last, on any connection.
    tried: Option<Instant>,
    /// Until when it is not tried again.
    rests: Option<Instant>,
    /// Tries that have failed since the broker last confirmed a publish to this topic.
    failed: u8,
    /// Publishes confirmed since a try has failed.
    confirmed: u8,
    /// The highest id of a message whose publish to this topic is over, as far as the delivery log
    /// may still hold it.
    over: Option<MessageId>,
    /// The broker may close the connection on its first publish, or serve nothing behind it: that
    /// one goes alone.
    alone: bool,
    /// The number of the occasion on which that came to be suspected.
    suspected: u64,
}

impl Topic {
    /// Whether its first publish is to go out.
    fn is_ready(&self) -> bool {
        self.sent.is_none() && !self.waiting.is_empty()
    }

    /// Whether its first publish is in flight, and may end or stop the connection.
    fn is_open(&self) -> bool {
        self.sent.is_some() && !self.is_passed
    }

    fn has_bulk(&self) -> bool {
        let mut waiting = self.waiting.iter();
        waiting.any(|suspect| suspect.queued.purpose == Purpose::BulkCopy)
    }
}

/// All publishes that are set apart.
#[derive(Debug)]
pub(super) struct Quarantine {
    /// Publishes that may wait here.
    most: usize,
    /// In an order: what is simulated can be repeated.
    topics: BTreeMap<String, Topic>,
    /// The topic of each publish.
    topic_of: HashMap<u64, String>,
    payload_bytes: usize,
    next_sequence: u64,
    /// Occasions on which publishes came to be suspected of what ends or stops connections.
    occasions: u64,
    /// When a try of one that went alone failed last.
    failed_alone: Option<Instant>,
    in_flight: usize,
    /// A topic that is like any other again.
    released: Option<String>,
    /// How many may be in flight; 0 while there is no connection.
    limit: usize,
}

impl Default for Quarantine {
    fn default() -> Self {
        Self {
            most: MOST_WAITING,
            topics: BTreeMap::new(),
            topic_of: HashMap::new(),
            payload_bytes: 0,
            next_sequence: 0,
            occasions: 0,
            failed_alone: None,
            in_flight: 0,
            released: None,
            limit: 0,
        }
    }
}

impl Quarantine {
    /// Whether a publish to this topic must wait here, behind others.
    pub(super) fn holds(&self, topic: &str) -> bool {
        !self.topics.is_empty() && self.topics.contains_key(topic)
    }

    /// Whether no topic is set apart.
    pub(super) fn is_empty(&self) -> bool {
        self.topics.is_empty()
    }

    /// How many publishes to a topic wait here.
    pub(super) fn waiting_for(&self, topic: &str) -> usize {
        self.topics
            .get(topic)
            .map_or(0, |topic| topic.waiting.len())
    }

    /// Whether a try of a topic's publishes has failed since one was confirmed.
    pub(super) fn has_failed(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|topic| topic.failed > 0)
    }

    /// The sequence numbers of publishes to give up, because so many more to their topic wait
    /// elsewhere that they are too many, and a try has failed. The first goes on being tried.
    pub(super) fn surplus_of(&self, topic: &str, elsewhere: usize) -> Vec<u64> {
        let Some(topic) = self.topics.get(topic).filter(|topic| topic.failed > 0) else {
            return vec![];
        };
        let surplus = (topic.waiting.len() + elsewhere).saturating_sub(MOST_WAITING);
        let behind_first = topic.waiting.iter().skip(1).take(surplus);
        behind_first.map(|suspect| suspect.sequence).collect()
    }

    /// What waits for a topic of which the broker has confirmed so much that it is like any other
    /// again.
    pub(super) fn take_released(&mut self) -> Vec<QueuedPublish> {
        let Some(name) = self.released.take() else {
            return vec![];
        };
        // A fan-out whose copy is queued again counts as past it: a kill would lose that copy.
        let stays = |topic: &Topic| topic.sent.is_some() || topic.has_bulk();
        if self.topics.get(&name).is_none_or(stays) {
            return vec![];
        }
        let waiting = self.take_topic(&name).waiting.into_iter();
        waiting.map(|suspect| suspect.queued).collect()
    }

    /// Publishes that wait here.
    pub(super) fn len(&self) -> usize {
        self.topic_of.len()
    }

    /// The sequence numbers of what the observer says to others.
    pub(super) fn own(&self) -> Vec<u64> {
        let waiting = self.topics.values().flat_map(|topic| &topic.waiting);
        let own = waiting.filter(|suspect| suspect.queued.is_own());
        own.map(|suspect| suspect.sequence).collect()
    }

    /// The messages that copies in bulk belong to, as the ledger numbers them.
    pub(super) fn bulk_entries(&self) -> impl Iterator<Item = usize> {
        let waiting = self.topics.values().flat_map(|topic| &topic.waiting);
        let bulk = waiting.filter(|suspect| suspect.queued.purpose == Purpose::BulkCopy);
        bulk.map(|suspect| suspect.queued.entry)
    }

    /// Takes a publish. Returns its sequence number.
    pub(super) fn push(&mut self, queued: QueuedPublish, suspicion: Suspicion) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let name = queued.publish.topic.as_str().to_owned();
        self.topic_of.insert(sequence, name.clone());
        self.payload_bytes += queued.publish.payload.len();
        let topic = self.topics.entry(name).or_default();
        topic.waiting.push_back(Suspect { sequence, queued });
        if suspicion == Suspicion::Connection && !topic.alone {
            topic.alone = true;
            topic.suspected = self.occasions;
        }
        sequence
    }

    /// What is suspected from here on of what ends or stops connections was not before.
    pub(super) fn begin_occasion(&mut self) {
        self.occasions += 1;
    }

    /// When the publish was sent that is in flight for the longest time.
    pub(super) fn oldest_in_flight(&self) -> Option<Instant> {
        self.topics.values().filter_map(|topic| topic.sent).min()
    }

    /// The same of those that may stop the connection.
    pub(super) fn oldest_open(&self) -> Option<Instant> {
        let open = self.topics.values().filter(|topic| topic.is_open());
        open.filter_map(|topic| topic.sent).min()
    }

    /// Whether so much waits that the delivery log is to keep what else it can.
    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.most || self.payload_bytes >= MOST_BYTES / 2
    }

    /// The sequence numbers of publishes to give up because too much waits: only to topics where a
    /// try has failed. If the broker is known to take publishes all the time (`is_steady`), also to
    /// those that very many bytes go to; and what no log holds, if they are too many bytes, or too
    /// many for long (`is_crowded`).
    pub(super) fn surplus(&self, is_steady: bool, is_crowded: bool) -> Vec<u64> {
        let mut publishes = self.len().saturating_sub(self.most);
        let mut bytes = self.payload_bytes.saturating_sub(MOST_BYTES);
        if publishes == 0 && bytes == 0 {
            return vec![];
        }
        let bytes_of = |topic: &Topic| topic.waiting.iter().map(Suspect::payload_bytes).sum();
        let weight = |topic: &&Topic| match bytes {
            0 => topic.waiting.len(),
            1.. => bytes_of(topic),
        };
        let is_urgent = is_steady && (is_crowded || bytes > 0);
        let has_to_go = |topic: &Topic| topic.failed > 0 || is_urgent && topic.is_nowhere_else();
        let is_large = |topic: &Topic| is_steady && bytes_of(topic) >= VERY_MUCH;
        let may_go = |topic: &&Topic| has_to_go(topic) || is_large(topic);
        let mut topics: Vec<&Topic> = self.topics.values().filter(may_go).collect();
        topics.sort_by_cached_key(|topic| Reverse(weight(topic)));
        let mut given_up = vec![];
        for topic in topics {
            // What is in flight may stop the connection: it is to show that.
            let in_flight = usize::from(topic.sent.is_some());
            for suspect in topic.waiting.iter().skip(in_flight) {
                if bytes == 0 && (publishes == 0 || !has_to_go(topic)) {
                    break;
                }
                publishes = publishes.saturating_sub(1);
                bytes = bytes.saturating_sub(suspect.payload_bytes());
                given_up.push(suspect.sequence);
            }
        }
        given_up
    }

    /// The connection is up: at most so many publishes may be in flight there, beside a canary.
    pub(super) fn handle_up(&mut self, limit: usize) {
        self.limit = limit.clamp(1, IN_FLIGHT);
    }

    /// The connection is gone. `has_canary`: a canary was in flight there, too, behind what went
    /// alone, and may have caused that. Returns the sequence number of a publish to give up, if
    /// there is one.
    pub(super) fn handle_down(&mut self, end: PublisherEnd, has_canary: bool) -> Option<u64> {
        let was_alone = self.open() == 1;
        let counts = if has_canary { 1 } else { TRIES_PER_CLOSED };
        let mut given_up = None;
        for topic in self.topics.values_mut() {
            if topic.sent.is_some() {
                topic.since = None;
            }
            let is_open = topic.is_open();
            topic.sent = None;
            if !is_open {
                continue;
            }
            match end {
                PublisherEnd::Unrelated => {}
                PublisherEnd::Closed if was_alone => {
                    topic.alone = true;
                    topic.confirmed = 0;
                    topic.failed = topic.failed.saturating_add(counts);
                    self.failed_alone = topic.tried;
                    if topic.failed >= TRIES {
                        given_up = Some(topic.waiting[0].sequence);
                    }
                }
                PublisherEnd::Closed => topic.alone = true,
            }
        }
        self.in_flight = 0;
        self.limit = 0;
        given_up
    }

    /// The broker serves others, and nothing on this connection, which is to be replaced. Returns
    /// the sequence number of a publish to give up, if there is one.
    ///
    /// What was in flight alone has caused that, and rests for `timeout`: the connection on which
    /// it was is of use to nobody for long. Of several, each goes alone from now on.
    pub(super) fn handle_stopped(&mut self, timeout: Duration, now: Instant) -> Option<u64> {
        let was_alone = self.open() == 1;
        let mut given_up = None;
        self.begin_occasion();
        let occasion = self.occasions;
        for topic in self.topics.values_mut().filter(|topic| topic.is_open()) {
            topic.confirmed = 0;
            if was_alone && topic.alone {
                topic.rests = Some(now + timeout);
                topic.since = None;
                self.failed_alone = Some(now);
                topic.failed = topic.failed.saturating_add(1);
                if topic.failed >= TRIES {
                    given_up = Some(topic.waiting[0].sequence);
                }
            }
            if !topic.alone {
                topic.alone = true;
                topic.suspected = occasion;
            }
        }
        self.take_back();
        given_up
    }

    /// The connection is to be replaced: what is in flight goes out again on the next one.
    fn take_back(&mut self) {
        for topic in self.topics.values_mut() {
            topic.sent = None;
        }
        self.in_flight = 0;
        self.limit = 0;
    }

    /// A canary is confirmed that was sent at this time: what was sent before does not stop the
    /// connection.
    pub(super) fn handle_served(&mut self, canary_sent: Instant) {
        let is_before = |topic: &&mut Topic| topic.sent.is_some_and(|sent| sent < canary_sent);
        for topic in self.topics.values_mut().filter(is_before) {
            (topic.alone, topic.is_passed) = (false, true);
        }
    }

    /// How many publishes are in flight that may end or stop the connection.
    fn open(&self) -> usize {
        self.topics.values().filter(|topic| topic.is_open()).count()
    }

    /// Payload bytes in flight, of which it is not known that they have arrived.
    pub(super) fn bytes_in_flight(&self) -> usize {
        let in_flight = self.topics.values().filter(|topic| topic.is_open());
        let first = in_flight.filter_map(|topic| topic.waiting.front());
        first.map(Suspect::payload_bytes).sum()
    }

    /// The next publish for the connection, and its sequence number. `has_canary`: a canary is in
    /// flight there, too.
    pub(super) fn poll(&mut self, has_canary: bool, now: Instant) -> Option<(u64, &Publish)> {
        let name = self.next(has_canary, now)?;
        let topic = self.topics.get_mut(&name)?;
        (topic.sent, topic.is_passed, topic.tried) = (Some(now), false, Some(now));
        topic.since.get_or_insert(now);
        self.in_flight += 1;
        let first = &topic.waiting[0];
        Some((first.sequence, &first.queued.publish))
    }

    /// The topic whose first publish is to go next: of those that may be in flight together the one
    /// that was tried least lately.
    ///
    /// What may have closed or stopped a connection goes alone, so that it shows which one did, and
    /// not behind a canary. Of those that were in flight together the last goes first: the broker
    /// takes what is on a connection in order, so what was there first is the likeliest to have
    /// held up the rest. What has shown that it does goes after these. If one has failed so, all of
    /// them wait until nothing else is left to do, or for [`LAST_FOR`].
    fn next(&self, has_canary: bool, now: Instant) -> Option<String> {
        let is_alone = |topic: &Topic| topic.alone && topic.is_open();
        if self.in_flight >= self.limit || self.topics.values().any(is_alone) {
            return None;
        }
        let rests = |topic: &Topic| topic.rests.is_some_and(|until| now < until);
        let (mut suspect, mut known, mut beside) = (None, None, None);
        for (name, topic) in &self.topics {
            if !topic.is_ready() || rests(topic) {
                continue;
            }
            let sequence = topic.waiting[0].sequence;
            let lately = (topic.tried, sequence, name);
            if !topic.alone {
                keep_least(&mut beside, lately);
            } else if topic.failed > 0 {
                keep_least(&mut known, lately);
            } else {
                let lately = (topic.tried, topic.suspected, Reverse(sequence), name);
                keep_least(&mut suspect, lately);
            }
        }
        let has_waited = self.failed_alone.is_none_or(|at| now >= at + LAST_FOR);
        let suspect = suspect.map(|(.., name)| name);
        let alone = suspect.or(known.map(|(.., name)| name));
        let alone = alone.filter(|_| beside.is_none() || has_waited);
        if alone.is_some() && (self.open() > 0 || has_canary) {
            return None;
        }
        alone.or(beside.map(|(.., name)| name)).cloned()
    }

    /// The broker has confirmed something to the topic of this publish.
    pub(super) fn handle_confirmed(&mut self, sequence: u64) {
        let name = self.topic_of.get(&sequence);
        if let Some(topic) = name.and_then(|name| self.topics.get_mut(name)) {
            topic.failed = 0;
            topic.alone = false;
            topic.rests = None;
            topic.confirmed = topic.confirmed.saturating_add(1);
        }
    }

    /// The broker has answered that it does not take a publish now: it rests for a while. `taken`:
    /// when the broker last took something, and whether it has since it was looked at. Returns the
    /// number if it is to be given up.
    pub(super) fn turn_down(
        &mut self,
        sequence: u64,
        (rest, taken): (Duration, (Option<Instant>, bool)),
        now: Instant,
    ) -> Option<u64> {
        let topic = self.topics.get_mut(self.topic_of.get(&sequence)?)?;
        let is_first = topic.waiting.front()?.sequence == sequence;
        let sent = topic.sent.take_if(|_| is_first)?;
        self.in_flight -= 1;
        (topic.alone, topic.since, topic.confirmed) = (false, None, 0);
        topic.rests = Some(now + rest);
        let (last, since) = taken;
        if since || last.is_some_and(|last| last >= sent) {
            topic.failed = topic.failed.saturating_add(1);
        }
        (topic.failed >= TRIES).then_some(sequence)
    }

    /// Takes a publish out. `None` if the number is unknown or the publish was taken out before.
    pub(super) fn complete(&mut self, sequence: u64) -> Option<Completed> {
        let name = self.topic_of.remove(&sequence)?;
        let topic = self.topics.get_mut(&name)?;
        let is_it = |suspect: &Suspect| suspect.sequence == sequence;
        let at = topic.waiting.iter().position(is_it)?;
        let suspect = topic.waiting.remove(at)?;
        topic.over = topic.over.max(suspect.queued.logged_as);
        self.payload_bytes -= suspect.payload_bytes();
        let was_in_flight = at == 0 && topic.sent.take().is_some();
        self.in_flight -= usize::from(was_in_flight);
        if at == 0 {
            topic.since = None;
        }
        if topic.waiting.is_empty() && topic.failed < TRIES {
            self.topics.remove(&name);
        } else if was_in_flight
            && !topic.waiting.is_empty()
            && topic.confirmed >= RELEASED_AFTER
            && !topic.alone
        {
            self.released = Some(name);
        }
        Some(suspect.queued.completed())
    }

    /// Forgets topics of which nothing waits and nothing was given up for a while.
    pub(super) fn forget(&mut self, now: Instant) {
        for topic in self.topics.values_mut() {
            if topic.waiting.is_empty() {
                topic.given_up.get_or_insert(now);
            } else {
                topic.given_up = None;
            }
        }
        let is_remembered = |since: Instant| now < since + REMEMBERED;
        self.topics
            .retain(|_, topic| topic.given_up.is_none_or(is_remembered));
        if self.topics.len() > MOST_TOPICS {
            self.topics.retain(|_, topic| topic.given_up.is_none());
        }
    }

    /// Takes back what is overdue (see [`is_overdue`]): `progress` is when the broker last
    /// confirmed something. Returns the sequence numbers of publishes to give up; `None` if there
    /// is nothing to take back. The connection is to be replaced: it cannot use their packet
    /// identifiers again.
    pub(super) fn take_back_overdue(
        &mut self,
        timeout: Duration,
        progress: Option<Instant>,
        now: Instant,
    ) -> Option<Vec<u64>> {
        let is_overdue = |topic: &Topic| {
            let is_late = |since| is_overdue(since, timeout, progress, now);
            topic.sent.is_some() && topic.since.is_some_and(is_late)
        };
        if !self.topics.values().any(is_overdue) {
            return None;
        }
        let mut given_up = vec![];
        for topic in self.topics.values_mut() {
            if is_overdue(topic) {
                topic.confirmed = 0;
                topic.since = None;
                if topic.alone {
                    self.failed_alone = Some(now);
                }
                topic.failed = topic.failed.saturating_add(1);
                if topic.failed >= TRIES {
                    given_up.push(topic.waiting[0].sequence);
                }
            }
        }
        self.take_back();
        Some(given_up)
    }
}

fn keep_least<T: Ord>(least: &mut Option<T>, one: T) {
    if least.as_ref().is_none_or(|least| one < *least) {
        *least = Some(one);
    }
}

/// Whether a publish has waited too long for its confirmation, although the broker confirmed
/// another in the second half of the time. A broker that confirms nothing for a while, as under a
/// resource alarm, is held against no publish. If nothing else is published, a canary is.
pub(super) fn is_overdue(
    sent: Instant,
    timeout: Duration,
    progress: Option<Instant>,
    now: Instant,
) -> bool {
    let has_progressed = progress.is_some_and(|progress| progress >= sent + timeout / 2);
    now >= sent + timeout && has_progressed
}

#[cfg(test)]
mod tests;
