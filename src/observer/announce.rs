//! What the observer says of itself while it runs: metrics and the service manager are told how full it is, the broker keeps its status,
//! stats and lines of trace go out, an operator's wishes come in.

use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep_until;
use tracing::{info, warn};

use super::{GOODBYE, Inputs, Observer, Renewal, clock};
use crate::delivery::ledger::Message;
use crate::delivery::publish_queue::Purpose;
use crate::http::decision_service::DecisionService;
use crate::http::webhook::WebhookDispatcher;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::telemetry::Load;
use crate::telemetry::control::{Command, CommandError};
use crate::telemetry::status::{self, Status};
use crate::telemetry::trace::Line;

/// Time for the status that says that it is gone, however long the rest has taken.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What the observer has said of itself.
pub(super) struct StatusReporter {
    pub(super) since: (Instant, UnixMillis),
    /// The status that the broker keeps, as far as it is known; `None`, if it is to keep none.
    pub(super) status: Option<Option<Status>>,
    /// When it is to be said once more: a broker may publish the will of a connection that has been replaced a little late.
    pub(super) again_at: Option<Instant>,
    pub(super) stats_interval: Option<Duration>,
    pub(super) stats_due: Instant,
}

impl Observer {
    /// Publishes something of the observer's own, until it is confirmed. Refused, there is nobody to tell but the log.
    pub(super) fn publish_own(&mut self, publish: Publish, now: Instant, wall: UnixMillis) {
        let topic = Bytes::copy_from_slice(publish.topic.as_str().as_bytes());
        let message = Message {
            received: Received::new(topic, Bytes::new(), false),
            id: self.ids.next(wall),
            fingerprint: 0,
            since: now,
        };
        let entry = self.ledger.insert(message, None);
        self.ledger.add(entry, vec![publish], Purpose::Notice);
        self.ledger.decided(entry);
    }

    /// Says how things stand: to metrics, in the status that the broker keeps, and in stats.
    pub(super) fn report(&mut self, read_ahead: usize) {
        let (now, wall) = clock();
        self.tracer.tick(now);
        if let Some(dispatcher) = &mut self.dispatcher {
            // A rest ends by itself.
            dispatcher.post(now, wall);
        }
        let oldest = self.ledger.oldest();
        let load = Load {
            messages: self.ledger.unacknowledged(),
            publishes: self.ledger.unconfirmed(),
            oldest: oldest.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            read_ahead,
            waiting: self.waiting.len(),
            asked: self.consultant.as_ref().map_or(0, DecisionService::waiting),
            fan_outs: self.unfinished,
        };
        self.metrics.load(&load);
        let faults = self.health.faults();
        self.metrics.ready(faults.is_empty());
        self.service.tick(&faults, load.messages, now);
        let subscribed = self
            .session
            .as_ref()
            .is_some_and(|session| session.subscribed);
        if !subscribed || self.lanes.iter().any(Option::is_none) {
            return;
        }
        let status = Status {
            online: true,
            ready: faults.is_empty(),
            faults,
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            started_at: Some(self.status_reporter.since.1.as_millis()),
            trace: self.tracer.is_on(),
            log_level: self.log_level.as_ref().map(|(level, _)| level.clone()),
        };
        if self
            .status_reporter
            .again_at
            .take_if(|at| now >= *at)
            .is_some()
        {
            self.status_reporter.status = self.status_reporter.status.as_ref().map(|_| None);
        }
        if let Some(status_reporter) = &mut self.status_reporter.status
            && status_reporter.as_ref() != Some(&status)
        {
            let publish = status.publish(&self.topics.status);
            *status_reporter = Some(status);
            self.publish_own(publish, now, wall);
        }
        if let Some(interval) = self.status_reporter.stats_interval
            && now >= self.status_reporter.stats_due
        {
            self.status_reporter.stats_due = now + interval;
            let waiting = self
                .dispatcher
                .as_ref()
                .map_or(0, WebhookDispatcher::waiting);
            let uptime = now.saturating_duration_since(self.status_reporter.since.0);
            let stats = self.metrics.stats();
            let topic = &self.topics.stats;
            let publish = status::stats(topic, &stats, &load, waiting, uptime, wall);
            self.publish_unconfirmed(&publish);
        }
    }

    /// At QoS 0: what nobody hears is gone. Returns whether there was room for it.
    fn publish_unconfirmed(&self, publish: &Publish) -> bool {
        // The connection for many is the one whose delays nobody notices.
        let lane = self.lanes.last().and_then(Option::as_ref);
        lane.filter(|lane| lane.renewal == Renewal::Staying)
            .is_some_and(|lane| lane.client.publish_unconfirmed(publish))
    }

    pub(super) fn trace(&self, line: &Line) {
        if !self.publish_unconfirmed(&line.publish(&self.topics)) {
            self.metrics.trace_dropped();
        }
    }

    /// Does what an operator wants.
    pub(super) fn handle_control(&mut self, what: &str, received: &Received) {
        let done = Command::parse(what, &received.payload).and_then(|command| match command {
            Command::Trace(switch) => {
                let before = self.tracer.is_on();
                self.tracer.switch(switch, clock().0);
                if before != self.tracer.is_on() {
                    info!(on = !before, "tracing (control/trace)");
                }
                Ok(())
            }
            Command::LogLevel(level) => {
                let log = self.log_level.as_mut().ok_or(CommandError::NoLog)?;
                log.1.set(&level)?;
                info!(%level, "another log level (control/log-level)");
                log.0 = level;
                Ok(())
            }
        });
        if let Err(fault) = done {
            warn!(%fault, what, "an operator's message on a control topic is not understood");
        }
    }

    /// Has the broker keep that the observer is gone, and lets webhooks' last answers in. Returns how many messages were left to the
    /// broker meanwhile.
    pub(super) async fn say_goodbye(
        &mut self,
        inputs: &mut Inputs,
        drained: tokio::time::Instant,
    ) -> usize {
        let mut discarded = 0;
        if self.status_reporter.status.is_none() || self.session.is_none() {
            return discarded;
        }
        let (now, wall) = clock();
        self.publish_own(Status::offline().publish(&self.topics.status), now, wall);
        let now = tokio::time::Instant::now();
        let deadline = drained.clamp(now + LAST_WORD, now + GOODBYE);
        self.act();
        // What is left of the messages has had its time.
        let others = self.ledger.unconfirmed().saturating_sub(1);
        while self.ledger.unconfirmed() > others {
            tokio::select! {
                biased;
                Some(event) = inputs.lane_rx.recv() => self.handle_lane(event),
                event = self.processor.event() => if self.handle_processor(event).is_err() { break },
                Some(event) = inputs.session_rx.recv() => discarded += self.discard(event),
                () = sleep_until(deadline) => break,
            }
            self.act();
        }
        if self.ledger.unconfirmed() > others
            && let Some(session) = &self.session
        {
            // Ahead of the DISCONNECT, which has the broker forget the will.
            let status = Status::offline().publish(&self.topics.status);
            let _ = session.client.publish_unconfirmed(&status);
        }
        discarded
    }
}
