//! What the observer reports of itself.
//!
//! Owns when the retained status, stats, traces and news for the service manager go out. Leaves the
//! topics and the form of what is published to [`telemetry::status`](crate::telemetry::status).

use std::time::{Duration, Instant};

use crate::observer::event_loop::Observer;
use crate::protocol::publish::Publish;
use crate::telemetry::Load;
use crate::telemetry::clock::Now;
use crate::telemetry::health::{Fault, Part};
use crate::telemetry::status;

impl Observer {
    /// Publishes something of the observer's own, until it is confirmed.
    pub(super) fn publish_own(&mut self, publish: Publish, now: Now) {
        self.inbound.publish_own(publish, &mut self.ledger, now);
    }

    /// Reports how things stand: to metrics, to the service manager, in the retained status, and in
    /// stats. `read_ahead`: messages read from the broker that the observer has not taken yet.
    pub(super) fn report(&mut self, read_ahead: usize) {
        let now = self.clock.now();
        self.journal.tick(now.instant);
        self.webhooks.tick(now);
        let load = self.load(read_ahead, now.instant);
        self.journal.metrics.load(&load);
        let faults = self.health.faults();
        self.journal.metrics.ready(faults.is_empty());
        self.reporter
            .service
            .tick(&faults, load.messages, now.instant);
        self.watch_outages(&faults, now);
        if self.reporter.stats_are_due(now.instant) {
            let metrics = &self.journal.metrics;
            let (stats, latencies) = (metrics.stats(), metrics.latencies());
            self.reporter.interval.log(stats, latencies);
        }
        if !self.session.is_subscribed() || !self.publishers.all_up() {
            return;
        }
        let traces = self.journal.traces();
        let faults = faults.iter().map(Fault::to_string).collect();
        if let Some(status) = self.reporter.poll_status(faults, traces, now.instant) {
            self.publish_own(status, now);
        }
        if self.reporter.take_stats_to_publish() {
            self.publish_stats(&load, now);
        }
    }

    /// Tells the log of an outage that begins, lasts or is over.
    fn watch_outages(&mut self, faults: &[Fault], now: Now) {
        // The store's thread has its own lines about the store, and so has the share of a slot.
        let is_ours = |fault: &&Fault| !matches!(fault.part, Part::Store | Part::Sharing);
        let mut faults = faults.iter().filter(is_ours);
        let fault = faults.next();
        if let Some(line) = self.outages.tick(fault.is_some(), now.instant) {
            let more = faults.count();
            let fault = fault.map(Fault::to_string).unwrap_or_default();
            match more {
                0 => line.log(&fault),
                _ => line.log(&format!("{fault} (and {more} more connections)")),
            }
        }
    }

    /// Looks whether messages pass again, if they did not. Then the observer sends itself a
    /// message, which comes behind those that have waited at the broker.
    pub(super) fn look_whether_passing(&mut self) {
        if self.outages.is_well() || self.session.proved().is_none() || !self.publishers.all_up() {
            return;
        }
        let now = self.clock.now();
        if self.outages.handle_passing(now) {
            let own = self.probe(now);
            self.publish_own(own, now);
        }
    }

    fn load(&self, read_ahead: usize, now: Instant) -> Load {
        let age = |since| now.saturating_duration_since(since);
        Load {
            messages: self.ledger.unacknowledged(),
            publishes: self.ledger.unconfirmed(),
            oldest: self
                .ledger
                .oldest()
                .into_iter()
                .chain(self.processing.backlog().since())
                .min()
                .map_or(Duration::ZERO, age),
            read_ahead,
            waiting: self.inbound.waiting(),
            asked: self.inbound.asked(),
            fan_outs: self.processing.fan_outs(),
            quarantined: self.ledger.quarantined(),
            backlog_bytes: self.processing.backlog().bytes() + self.ledger.left_bytes(),
            webhooks: self.webhooks.waiting(),
        }
    }

    fn publish_stats(&self, load: &Load, now: Now) {
        let since = self.reporter.since.instant;
        let stats = status::stats(
            &self.reporter.topics.stats,
            &self.journal.metrics.stats(),
            load,
            now.instant.saturating_duration_since(since),
            now.wall,
        );
        self.publishers.publish_unconfirmed(&stats);
    }

    /// Publishes the lines of trace that are ready. One for which there is no room is dropped.
    pub(super) fn publish_trace(&mut self) {
        while let Some(line) = self.journal.poll_line() {
            let publish = line.publish(&self.reporter.topics);
            if !self.publishers.publish_unconfirmed(&publish) {
                self.journal.metrics.trace_dropped();
            }
        }
    }
}
