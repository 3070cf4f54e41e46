//! What the observer reports of itself, and what operators tell it.
//!
//! Owns the retained status, stats, the service manager and the log level. Leaves the topics and
//! the form of what is published to [`telemetry::status`](crate::telemetry::status).

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::observer::event_loop::Observer;
use crate::observer::setup::Reporting;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::telemetry::clock::Now;
use crate::telemetry::control::{Command, CommandError, Switch};
use crate::telemetry::service_topics::ServiceTopics;
use crate::telemetry::status::{self, Status};
use crate::telemetry::systemd::Service;
use crate::telemetry::{Load, LogLevel};

/// How long after a connection was replaced the broker may still publish its will.
const LATE_WILL: Duration = Duration::from_secs(5);

/// The status that the broker retains.
enum Retained {
    /// The observer is not to have a status.
    Off,
    /// It may be anything: an earlier run's, or the will.
    Unknown,
    /// It is this one, once the publish is confirmed.
    Published(Status),
}

/// Keeps the status up to date, and knows what is due.
pub(super) struct StatusReporter {
    pub(super) topics: ServiceTopics,
    pub(super) service: Service,
    /// When the observer started.
    since: Now,
    retained: Retained,
    /// When the status is to be published once more, because a late will may have replaced it.
    again_at: Option<Instant>,
    stats_interval: Option<Duration>,
    stats_due: Instant,
    log_level: Option<(String, LogLevel)>,
}

impl StatusReporter {
    pub(super) fn new(topics: ServiceTopics, reporting: Reporting, since: Now) -> Self {
        Self {
            topics,
            service: Service::new(reporting.supervised, since.instant),
            since,
            retained: match reporting.status {
                true => Retained::Unknown,
                false => Retained::Off,
            },
            again_at: None,
            stats_interval: reporting.stats_interval,
            stats_due: since.instant + reporting.stats_interval.unwrap_or_default(),
            log_level: reporting.log_level,
        }
    }

    /// Whether the broker retains a status.
    pub(super) fn retains(&self) -> bool {
        !matches!(self.retained, Retained::Off)
    }

    /// The session has a new connection. The broker may have published the will of the old one, or
    /// may do so within a while.
    pub(super) fn handle_session_up(&mut self, now: Instant) {
        self.forget_status();
        self.again_at = Some(now + LATE_WILL);
    }

    fn forget_status(&mut self) {
        if self.retains() {
            self.retained = Retained::Unknown;
        }
    }

    /// The status to publish, if the broker does not retain it already.
    fn poll_status(&mut self, faults: Vec<String>, traces: bool, now: Instant) -> Option<Publish> {
        if self.again_at.take_if(|at| now >= *at).is_some() {
            self.forget_status();
        }
        let status = Status {
            online: true,
            ready: faults.is_empty(),
            faults,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            started_at: Some(self.since.wall.as_millis()),
            trace: traces,
            log_level: self.log_level.as_ref().map(|(level, _)| level.clone()),
        };
        match &self.retained {
            Retained::Off => return None,
            Retained::Published(published) if *published == status => return None,
            Retained::Published(_) | Retained::Unknown => {}
        }
        let publish = status.publish(&self.topics.status);
        self.retained = Retained::Published(status);
        Some(publish)
    }

    /// Whether stats are to be published now.
    fn stats_are_due(&mut self, now: Instant) -> bool {
        let Some(interval) = self.stats_interval.filter(|_| now >= self.stats_due) else {
            return false;
        };
        self.stats_due = now + interval;
        true
    }

    fn set_log_level(&mut self, level: String) -> Result<(), CommandError> {
        let Some((present, log)) = &mut self.log_level else {
            return Err(CommandError::NoLog);
        };
        log.set(&level)?;
        info!(%level, "another log level (control/log-level)");
        *present = level;
        Ok(())
    }
}

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
        if !self.session.is_subscribed() || !self.publishers.all_up() {
            return;
        }
        let traces = self.journal.traces();
        if let Some(status) = self.reporter.poll_status(faults, traces, now.instant) {
            self.publish_own(status, now);
        }
        if self.reporter.stats_are_due(now.instant) {
            self.publish_stats(&load, now);
        }
    }

    fn load(&self, read_ahead: usize, now: Instant) -> Load {
        let age = |since| now.saturating_duration_since(since);
        Load {
            messages: self.ledger.unacknowledged(),
            publishes: self.ledger.unconfirmed(),
            oldest: self.ledger.oldest().map_or(Duration::ZERO, age),
            read_ahead,
            waiting: self.inbound.waiting(),
            asked: self.inbound.asked(),
            fan_outs: self.processing.fan_outs(),
        }
    }

    fn publish_stats(&self, load: &Load, now: Now) {
        let since = self.reporter.since.instant;
        let stats = status::stats(
            &self.reporter.topics.stats,
            &self.journal.metrics.stats(),
            load,
            self.webhooks.waiting(),
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

    /// Takes what an operator published on `control/{what}`.
    pub(super) fn handle_control(&mut self, what: &str, received: &Received) {
        let done = match Command::parse(what, &received.payload) {
            Ok(Command::Trace(switch)) => {
                self.switch_trace(switch);
                Ok(())
            }
            Ok(Command::LogLevel(level)) => self.reporter.set_log_level(level),
            Err(fault) => Err(fault),
        };
        if let Err(fault) = done {
            warn!(%fault, what, "an operator's message on a control topic is not understood");
        }
    }

    fn switch_trace(&mut self, switch: Switch) {
        let before = self.journal.traces();
        self.journal.switch_trace(switch, self.clock.now().instant);
        if before != self.journal.traces() {
            info!(on = !before, "tracing (control/trace)");
        }
    }
}
