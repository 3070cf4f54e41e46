//! The deliveries of one endpoint, and when a failing endpoint is left alone.
//!
//! Owns order and rests. Posting is the dispatcher's part. It does no I/O and reads no clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::endpoint::Endpoint;
use super::post::Failure;
use crate::delivery::backoff::Backoff;
use crate::store::{Delivery, FailureScope, Waiting};

/// How long a failing endpoint is left alone: the first rest, and the longest.
pub(super) const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Events that fail one after another, each with an answer, before their endpoint counts as
/// failing.
const FAILURES: u32 = 3;
/// Distance from one event that a failing endpoint is tried with to the next: a prime, so that
/// every event gets its turn.
const PROBE_STEP: usize = 13;

/// What is to be told to one endpoint, and the state of the endpoint.
#[derive(Debug)]
pub(super) struct EndpointQueue {
    pub(super) endpoint: Endpoint,
    /// Deliveries that are due and not under way, oldest first.
    pub(super) ready: VecDeque<Delivery>,
    /// Places in the outbox of everything in `ready` and everything under way.
    pub(super) in_hand: Vec<i64>,
    /// Bytes of their bodies.
    pub(super) bytes: usize,
    /// Deliveries under way.
    pub(super) in_flight: usize,
    /// What waits in the outbox, including everything in hand.
    pub(super) waiting: Waiting,
    /// The outbox may hold more that is due.
    pub(super) more: bool,
    /// The outbox is not asked before this time, unless something has changed.
    pub(super) look_at: Instant,
    /// Events that failed one after another.
    pub(super) failures: u32,
    /// Place in the outbox of the event that failed last.
    last_failed: i64,
    /// Nothing is posted before this time.
    rests_until: Option<Instant>,
    backoff: Backoff,
    /// Chooses the event that a failing endpoint is tried with.
    probes: usize,
    /// Events that the endpoint refused.
    given_up: u64,
}

impl EndpointQueue {
    /// Nothing is in hand. An earlier process may have left events in the outbox.
    pub(super) fn new(endpoint: Endpoint, now: Instant) -> Self {
        Self {
            endpoint,
            ready: VecDeque::new(),
            in_hand: vec![],
            bytes: 0,
            in_flight: 0,
            waiting: Waiting::default(),
            more: true,
            look_at: now,
            failures: 0,
            last_failed: 0,
            rests_until: None,
            backoff: Backoff::new(REST.0, REST.1),
            probes: 0,
            given_up: 0,
        }
    }

    /// Takes a delivery from the outbox into hand.
    pub(super) fn add(&mut self, delivery: Delivery) {
        self.in_hand.push(delivery.seq);
        self.bytes += delivery.body.len();
        self.ready.push_back(delivery);
        self.more = true;
    }

    /// Drops the deliveries at these places, as far as they are not under way.
    pub(super) fn drop_gone(&mut self, gone: &[i64]) {
        let is_gone = |delivery: &Delivery| gone.contains(&delivery.seq);
        for delivery in self.ready.iter().filter(|delivery| is_gone(delivery)) {
            self.in_hand.retain(|seq| *seq != delivery.seq);
            self.bytes -= delivery.body.len();
        }
        self.ready.retain(|delivery| !is_gone(delivery));
    }

    /// Puts what is ready in order: a failed event that got its place back comes first.
    pub(super) fn sort(&mut self) {
        let ready = self.ready.make_contiguous();
        ready.sort_unstable_by_key(|delivery| delivery.seq);
    }

    /// A delivery is no longer under way.
    pub(super) fn settle(&mut self, delivery: &Delivery) {
        self.in_flight -= 1;
        self.in_hand.retain(|seq| *seq != delivery.seq);
        self.bytes -= delivery.body.len();
    }

    /// Whether the endpoint fails. Then it is tried with one event at a time.
    pub(super) fn fails(&self) -> bool {
        self.failures >= FAILURES
    }

    pub(super) fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    pub(super) fn rest(&mut self, until: Instant) {
        self.rests_until = self.rests_until.max(Some(until));
    }

    /// The next delivery to post: the oldest. A failing endpoint is tried with another one each
    /// time, because the oldest events may be the ones that bring it down.
    pub(super) fn next(&mut self) -> Option<Delivery> {
        if !self.fails() || self.ready.is_empty() {
            return self.ready.pop_front();
        }
        self.probes = self.probes.wrapping_add(PROBE_STEP);
        self.ready.remove(self.probes % self.ready.len())
    }

    /// The endpoint has answered. Returns whether it failed before.
    pub(super) fn answered(&mut self) -> bool {
        let failed = self.fails();
        if failed {
            info!(
                endpoint = self.endpoint.name,
                "a webhook endpoint answers again"
            );
        }
        self.failures = 0;
        self.backoff.reset();
        failed
    }

    /// The endpoint has refused an event for good.
    pub(super) fn refused(&mut self, error: &str) {
        self.given_up += 1;
        if self.given_up.is_power_of_two() {
            warn!(
                endpoint = self.endpoint.name,
                error,
                given_up = self.given_up,
                "events that a webhook endpoint does not want are not told again (webhook list)"
            );
        }
    }

    /// An attempt has failed. One event that fails, however often, does not make its endpoint fail.
    pub(super) fn failed(&mut self, event: i64, failure: &Failure, now: Instant, jitter: u64) {
        let failed_before = self.fails();
        let of_endpoint = failure.scope == FailureScope::Endpoint;
        if of_endpoint {
            self.failures = self.failures.max(FAILURES);
        } else if self.last_failed != event || self.failures == 0 {
            self.failures = self.failures.saturating_add(1);
        }
        self.last_failed = event;
        if !self.fails() {
            return;
        }
        // Deliveries that were under way together fail for one reason: it counts once.
        if !self.rests(now) {
            // An endpoint that answers is reachable: its rests do not grow.
            let rest = if of_endpoint {
                self.backoff.next(jitter)
            } else {
                REST.0
            };
            self.rest(now + rest);
        }
        if !failed_before {
            warn!(
                endpoint = self.endpoint.name,
                error = failure.error,
                waiting = self.waiting.events,
                "a webhook endpoint fails: its events are queued"
            );
        }
    }
}
