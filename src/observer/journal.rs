//! What is said of each message: counters, log lines and lines of trace.
//!
//! Owns the trace of messages under way. Leaves the publishing of its lines to the event loop.

use std::collections::VecDeque;
use std::time::Instant;

use crate::delivery::ledger::{Failed, Finished};
use crate::protocol::address::{Address, Kind};
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::telemetry::Metrics;
use crate::telemetry::clock::Now;
use crate::telemetry::operator_command::Switch;
use crate::telemetry::trace::{Line, Outcome, Tracer};

/// Counts what becomes of messages, and traces it.
pub(super) struct Journal {
    pub(super) metrics: Metrics,
    tracer: Tracer,
    /// Lines of trace to be published.
    lines: VecDeque<Line>,
}

impl Journal {
    pub(super) fn new(metrics: Metrics, tracer: Tracer) -> Self {
        Self {
            metrics,
            tracer,
            lines: VecDeque::new(),
        }
    }

    /// Whether anybody wants to know what becomes of each message.
    pub(super) fn collects_lines(&self) -> bool {
        self.tracer.collects()
    }

    /// Whether lines of trace are published.
    pub(super) fn traces(&self) -> bool {
        self.tracer.is_on()
    }

    pub(super) fn switch_trace(&mut self, switch: Switch, now: Instant) {
        self.tracer.switch(switch, now);
    }

    /// Ends tracing whose time is over.
    pub(super) fn tick(&mut self, now: Instant) {
        self.tracer.tick(now);
    }

    /// The next line of trace to publish.
    pub(super) fn poll_line(&mut self) -> Option<Line> {
        self.lines.pop_front()
    }

    /// A message came in. `at_least_once`: at QoS 1.
    pub(super) fn received(&self, address: Option<&Address<'_>>, at_least_once: bool) {
        let kind = address.map_or(Kind::Unknown, Address::kind);
        self.metrics.received(kind, at_least_once);
    }

    /// A message came in that is still in the ledger from before.
    pub(super) fn resumed(&mut self, received: &Received, address: Option<&Address<'_>>, now: Now) {
        self.metrics.resumed(received);
        let line = self.tracer.resumed(received, address, now.wall);
        self.lines
            .extend(line.and_then(|line| self.tracer.hand_out(line)));
    }

    /// A message is admitted that was forwarded before, and may now be forwarded again.
    pub(super) fn repeated(&mut self, received: &Received, id: MessageId) {
        self.metrics.repeated(received, id);
        self.tracer.begin(id, Outcome::Repeated);
    }

    /// A new message is admitted.
    pub(super) fn admitted(&mut self, id: MessageId) {
        self.tracer.begin(id, Outcome::Forwarded);
    }

    /// A message is decided on.
    pub(super) fn decided(
        &mut self,
        (received, id): (&Received, MessageId),
        refusal: Option<Refusal>,
        publishes: &[Publish],
    ) {
        self.tracer.decided(id, refusal, publishes);
        match refusal {
            Some(reason) => self.metrics.refused(received, reason),
            None => self.metrics.forwarded(received, id, publishes.len()),
        }
    }

    /// A step of a message's fan-out is made.
    pub(super) fn fanned_out(&mut self, id: MessageId, bulk: &[Publish]) {
        self.tracer.decided(id, None, bulk);
    }

    /// What is left of a message's fan-out is not made.
    pub(super) fn dropped(&mut self, (received, id): (&Received, MessageId), reason: Refusal) {
        self.tracer.decided(id, Some(reason), &[]);
        self.metrics.refused(received, reason);
    }

    /// The broker does not take a publish.
    pub(super) fn failed(&mut self, failed: &Failed) {
        self.tracer.decided(failed.id, Some(failed.refusal), &[]);
        if !failed.told_before {
            self.metrics
                .publish_refused(&failed.received, failed.refusal, failed.purpose);
        }
    }

    /// Everything about a message is done.
    pub(super) fn finished(
        &mut self,
        finished: &Finished,
        address: Option<&Address<'_>>,
        now: Now,
    ) {
        if finished.forwarded {
            let since = finished.message.since;
            let took = now.instant.saturating_duration_since(since);
            self.metrics.finished(took);
        }
        let line = self
            .tracer
            .finished(finished, address, now.instant, now.wall);
        self.lines
            .extend(line.and_then(|line| self.tracer.hand_out(line)));
    }
}
