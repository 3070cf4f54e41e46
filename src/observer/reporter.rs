//! What the broker retains of the observer's status, and what is due to be reported.
//!
//! Owns the state behind the reports. Leaves publishing them to `announce.rs`.

use std::time::{Duration, Instant};

use tracing::info;

use crate::observer::setup::Reporting;
use crate::protocol::publish::Publish;
use crate::telemetry::LogLevel;
use crate::telemetry::clock::Now;
use crate::telemetry::operator_command::CommandError;
use crate::telemetry::service_topics::ServiceTopics;
use crate::telemetry::stats::Interval;
use crate::telemetry::status::Status;
use crate::telemetry::systemd::Service;

/// How long after a connection was replaced the broker may still publish its will.
const LATE_WILL: Duration = Duration::from_secs(5);

/// How long to wait before a status that somebody else has replaced is published again: so two that
/// cannot agree do not keep the broker busy.
const REPAIR: Duration = Duration::from_secs(1);

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
    pub(super) since: Now,
    retained: Retained,
    /// When the status is to be published once more, because a late will may have replaced it.
    again_at: Option<Instant>,
    stats_interval: Option<Duration>,
    stats_due: Instant,
    has_stats_to_publish: bool,
    /// What the log tells of each interval.
    pub(super) interval: Interval,
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
            has_stats_to_publish: false,
            interval: Interval::default(),
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

    /// Somebody published a status of this observer. A will, or the farewell of another observer of
    /// the same name, may have replaced its own.
    pub(super) fn handle_status(&mut self, payload: &[u8], now: Instant) {
        let status = serde_json::from_slice::<Status>(payload);
        let is_wrong = status.map_or(true, |status| !status.online);
        if is_wrong && self.retains() && self.again_at.is_none() {
            self.again_at = Some(now + REPAIR);
        }
    }

    fn forget_status(&mut self) {
        if self.retains() {
            self.retained = Retained::Unknown;
        }
    }

    /// The status to publish, if the broker does not retain it already.
    pub(super) fn poll_status(
        &mut self,
        faults: Vec<String>,
        traces: bool,
        now: Instant,
    ) -> Option<Publish> {
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

    /// Whether an interval is over.
    pub(super) fn stats_are_due(&mut self, now: Instant) -> bool {
        let Some(interval) = self.stats_interval.filter(|_| now >= self.stats_due) else {
            return false;
        };
        self.stats_due = now + interval;
        self.has_stats_to_publish = true;
        true
    }

    /// Whether stats are to be published, which waits for a connection.
    pub(super) fn take_stats_to_publish(&mut self) -> bool {
        std::mem::take(&mut self.has_stats_to_publish)
    }

    pub(super) fn set_log_level(&mut self, level: String) -> Result<(), CommandError> {
        let Some((present, log)) = &mut self.log_level else {
            return Err(CommandError::NoLog);
        };
        log.set(&level)?;
        info!(%level, "another log level (control/log-level)");
        *present = level;
        Ok(())
    }
}
