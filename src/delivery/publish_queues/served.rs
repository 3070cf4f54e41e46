//! Which connections the broker serves, and what becomes of publishes on one that it does not.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{OVERTAKEN_FOR, PROGRESS, PublishQueues};
use crate::delivery::publish_queue::{BYTES_IN_FLIGHT, Completed, PublishId, QueuedPublish};
use crate::delivery::quarantine::Suspicion;

impl PublishQueues {
    /// The broker has answered a publish on a connection.
    pub(in crate::delivery) fn note_answer(&mut self, publisher: usize) {
        self.has_progressed = true;
        self.canaries.note_answer(publisher);
    }

    /// The broker has answered that it does not take a publish now. Whatever goes to its topic goes
    /// to quarantine, where the publish rests for a while after each try. Returns one to give up:
    /// it has had its tries. None counts while the broker takes nothing at all.
    pub(in crate::delivery) fn turn_down(
        &mut self,
        id: PublishId,
        rest: Duration,
        now: Instant,
    ) -> Option<PublishId> {
        self.canaries.note_answer(id.publisher);
        let Some(queue) = self.queues.get_mut(id.publisher) else {
            let taken = (self.progress, self.has_progressed);
            let given_up = self.quarantine.turn_down(id.sequence, (rest, taken), now);
            return given_up.map(|sequence| self.in_quarantine(sequence));
        };
        // In quarantine it has tries of its own.
        if queue.complete_moved(id.sequence).is_some() {
            return None;
        }
        let topic = queue.topic_of(id.sequence)?.to_owned();
        self.quarantine(&HashSet::from([topic]), Suspicion::Unconfirmed);
        self.queues[id.publisher].complete_moved(id.sequence);
        None
    }

    /// Whether it is to be found out on which connections the broker takes publishes.
    pub(super) fn wants_canaries(&self, timeout: Duration, now: Instant) -> bool {
        let times = (OVERTAKEN_FOR.min(timeout / 2), PROGRESS.min(timeout / 4));
        let oldest = |number: usize| match self.queues.get(number) {
            Some(queue) => queue.oldest_in_flight(),
            None => self.quarantine.oldest_open(),
        };
        // What is known not to stop its connection may be unconfirmed because the broker confirms
        // nothing.
        let oldest_apart = self.quarantine.oldest_in_flight();
        let is_late = oldest_apart.is_some_and(|sent| now >= sent + timeout / 2);
        let is_silent = self.progress.is_none_or(|at| now >= at + timeout / 4);
        is_late && is_silent && self.canaries.have_room()
            || self.canaries.are_wanted(oldest, self.progress, times, now)
    }

    fn oldest_in_flight(&self, publisher: usize) -> Option<Instant> {
        match self.queues.get(publisher) {
            Some(queue) => queue.oldest_in_flight(),
            None => self.quarantine.oldest_in_flight(),
        }
    }

    /// Publishes canaries: see `canary.rs`. Returns how many.
    pub(in crate::delivery) fn push_canaries(&mut self, queued: &QueuedPublish) -> usize {
        let count = self.queues.len() + 1;
        let idle: Vec<bool> = (0..count)
            .map(|number| self.oldest_in_flight(number).is_none())
            .collect();
        self.canaries.push(queued, |number| idle[number])
    }

    /// Whether nothing waits but canaries, and what was pushed apart.
    pub(in crate::delivery) fn is_idle(&self) -> bool {
        self.unconfirmed() == self.quarantine.own().len()
    }

    /// Takes out canaries, and what was pushed apart.
    pub(in crate::delivery) fn take_own(&mut self) -> Vec<Completed> {
        let said = self.quarantine.own();
        let mut own = self.canaries.take();
        own.extend(
            said.into_iter()
                .filter_map(|sequence| self.quarantine.complete(sequence)),
        );
        own
    }

    /// Sets apart what is in flight on connections that the broker does not serve, although it
    /// serves others: something there has stopped them. Returns these connections, and publishes
    /// to give up.
    pub(super) fn leave_stopped(
        &mut self,
        patience: Duration,
        (timeout, progress): (Duration, Option<Instant>),
        now: Instant,
    ) -> (Vec<usize>, Vec<u64>) {
        let patience_with = |number: usize| {
            let bytes = match self.queues.get(number) {
                Some(queue) => queue.bytes_in_flight(),
                None => self.quarantine.bytes_in_flight(),
            };
            // On a slow line the canary waits behind them.
            patience + timeout.mul_f64(bytes as f64 / BYTES_IN_FLIGHT as f64)
        };
        let stopped = self.canaries.stopped(patience_with, progress, now);
        let mut given_up = vec![];
        for number in &stopped {
            match self.queues.get(*number) {
                Some(queue) => {
                    let topics = queue.topics_in_flight();
                    self.quarantine(&topics, Suspicion::Connection);
                }
                None => given_up.extend(self.quarantine.handle_stopped(timeout, now)),
            }
            // It is not in flight any more.
            self.canaries.handle_down(*number);
        }
        (stopped, given_up)
    }
}
