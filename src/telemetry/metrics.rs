//! Metrics, with one function for each thing that happens: it counts it and writes its log line.
//!
//! Owns the counting. The families stand in `families.rs`; HTTP serves the text.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use prometheus::core::Metric;
use prometheus::{IntGauge, TextEncoder};
use tracing::{debug, error, warn};

use super::families::{Families, NO_ROUTE};
use super::labels::{Decision, LinkRole, WebhookOutcome};
use super::stats::{Latencies, Load, Stats};
use crate::mqtt::Cause;
use crate::protocol::address::Kind;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::Refusal;
use crate::rules::plan::Purpose;

/// What is counted and measured. Clones share the counts.
#[derive(Clone)]
pub struct Metrics {
    families: Arc<Families>,
    /// What is counted here.
    own: Arc<Share>,
    /// The same of every slot of the process.
    shares: Arc<Mutex<Vec<Weak<Share>>>>,
}

/// What one slot of the process adds to the gauges. They show the sum, or what is worst.
#[derive(Default)]
struct Share {
    load: Mutex<Load>,
    connected: [AtomicI64; 2],
    session: Mutex<Option<bool>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// All at zero. `endpoints` are the names of the webhooks' endpoints.
    pub fn new(endpoints: &[String]) -> Self {
        Self::with_share(Arc::new(Families::new(endpoints)), Arc::default())
    }

    fn with_share(families: Arc<Families>, shares: Arc<Mutex<Vec<Weak<Share>>>>) -> Self {
        let share = Arc::<Share>::default();
        let mut known = shares.lock().expect("nobody panics holding it");
        known.retain(|share| share.strong_count() > 0);
        known.push(Arc::downgrade(&share));
        drop(known);
        Self {
            families,
            own: share,
            shares,
        }
    }

    /// The parts of all slots of the process.
    fn shares(&self) -> Vec<Arc<Share>> {
        let known = self.shares.lock().expect("nobody panics holding it");
        known.iter().filter_map(Weak::upgrade).collect()
    }

    /// The same for one slot of the process, whose part goes when it does: see
    /// [`Metrics::slot_ended`].
    #[must_use]
    pub fn of_slot(&self) -> Self {
        Self::with_share(self.families.clone(), self.shares.clone())
    }

    /// A slot is served no longer: what it had open is not there any more.
    pub fn slot_ended(&self) {
        self.load(&Load::default());
        self.set_session(None);
        for (gauge, own) in self
            .families
            .connections
            .connected
            .iter()
            .zip(&self.own.connected)
        {
            gauge.sub(own.swap(0, Ordering::Relaxed));
        }
    }

    /// Whether this process stands by while others serve.
    pub fn standby(&self, stands_by: bool) {
        self.families.connections.standby.set(stands_by.into());
    }

    pub(super) fn families(&self) -> &Families {
        &self.families
    }

    /// All metrics in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let families = self.families.registry.gather();
        let text = TextEncoder::new().encode_to_string(&families);
        text.expect("what was registered can be written")
    }

    /// What has happened to messages so far.
    pub fn stats(&self) -> Stats {
        let messages = &self.families.messages;
        let mut refused = [0; Refusal::ALL.len()];
        for (count, counter) in refused.iter_mut().zip(&messages.refused) {
            *count = counter.get();
        }
        Stats {
            forwarded: messages.forwarded.get(),
            refused,
            resumed: messages.resumed.get(),
            repeated: messages.repeated.get(),
            unanswered: messages.unanswered.get(),
        }
    }

    /// How long forwarding took, so far.
    pub fn latencies(&self) -> Latencies {
        let metric = self.families.messages.forward_seconds.metric();
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Latencies {
            buckets: buckets
                .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                .collect(),
            count: histogram.get_sample_count(),
        }
    }
}

/// Messages.
impl Metrics {
    /// A message came, at QoS 1 (`at_least_once`) or QoS 0.
    pub fn received(&self, kind: Kind, at_least_once: bool) {
        self.families.messages.received[kind as usize][usize::from(at_least_once)].inc();
    }

    /// A message was handed to the ledger, with the publishes made of it so far.
    pub fn forwarded(&self, received: &Received, id: MessageId, publishes: usize) {
        self.families.messages.forwarded.inc();
        debug!(topic = %lossy(received), message_id = %id, publishes, outcome = "forwarded");
    }

    /// Every copy of a message is confirmed, `took` after the message was read.
    pub fn finished(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        self.families.messages.forward_seconds.observe(seconds);
    }

    /// A message was refused.
    pub fn refused(&self, received: &Received, reason: Refusal) {
        self.families.messages.refused[reason as usize].inc();
        let payload_bytes = received.payload_bytes;
        debug!(topic = %lossy(received), %reason, payload_bytes, outcome = "refused");
    }

    /// A message came again that is still in the ledger.
    pub fn resumed(&self, received: &Received) {
        self.families.messages.resumed.inc();
        debug!(topic = %lossy(received), outcome = "resumed");
    }

    /// A message came again, and is forwarded again under its id.
    pub fn repeated(&self, received: &Received, id: MessageId) {
        self.families.messages.repeated.inc();
        debug!(topic = %lossy(received), message_id = %id, outcome = "repeated");
    }

    /// Nobody is told of a refusal, because its sender was told of too many.
    pub fn unanswered(&self) {
        self.families.messages.unanswered.inc();
    }

    /// A QoS 0 message was dropped, because too many wait.
    pub fn qos_0_dropped(&self) {
        let counter = &self.families.messages.qos_0_dropped;
        counter.inc();
        let dropped = counter.get();
        // Users can cause this at will: one line each time the number doubles.
        if dropped.is_power_of_two() {
            warn!(
                dropped,
                "more QoS 0 messages than can be forwarded: some are dropped; \
                 what is sent at QoS 1 is not"
            );
        }
    }

    /// The broker confirmed a publish.
    pub fn confirmed(&self) {
        self.families.messages.confirmed.inc();
    }

    /// The broker refused a publish, for this reason.
    pub fn not_confirmed(&self, reason: &str) {
        self.families.messages.not_confirmed.inc();
        debug!(%reason, "a publish was refused");
    }

    /// The broker does not take a publish made of a message.
    pub fn publish_refused(&self, received: &Received, reason: Refusal, purpose: Purpose) {
        match (purpose, reason) {
            // Any user can cause what is too large; what is not permitted the operator has to mend.
            (Purpose::Notice, Refusal::TooLarge) => {
                debug!("a dead letter is larger than the broker takes: it is lost")
            }
            (Purpose::Notice, _) => {
                error!(%reason, "{NOTICE_REFUSED}");
            }
            (Purpose::Copy | Purpose::BulkCopy, _) => {
                if reason == Refusal::Unauthorized {
                    error!("{COPY_REFUSED}");
                }
                self.refused(received, reason);
            }
        }
    }
}

const NOTICE_REFUSED: &str = "the broker does not take a notice, a dead letter, the status or a \
    message to ourselves: may this user publish everywhere?";
const COPY_REFUSED: &str = "the broker does not take a message that was forwarded: may this user \
    publish into every inbox?";

/// Connections, and how much is under way.
impl Metrics {
    /// A connection is up.
    pub fn connected(&self, link: LinkRole) {
        self.families.connections.connected[link as usize].inc();
        self.own.connected[link as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that was up has ended.
    pub fn disconnected(&self, link: LinkRole) {
        self.families.connections.connected[link as usize].dec();
        self.own.connected[link as usize].fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the broker had kept the session when the observer connected.
    pub fn session_present(&self, present: bool) {
        self.set_session(Some(present));
    }

    fn set_session(&self, present: Option<bool>) {
        *self.own.session.lock().expect("nobody panics holding it") = present;
        let sessions = self.shares().into_iter().filter_map(|share| {
            let session = share.session.lock().expect("nobody panics holding it");
            *session
        });
        // One that is lost counts, whatever the others are.
        if let Some(all) = sessions.reduce(|one, other| one && other) {
            self.families.connections.session_present.set(all.into());
        }
    }

    /// A connection has ended or could not be made, and another is made.
    pub fn reconnects(&self, link: LinkRole, cause: Cause) {
        let at = Cause::ALL.iter().position(|listed| *listed == cause);
        let at = at.expect("the list is complete");
        self.families.connections.reconnects[link as usize][at].inc();
    }

    /// Whether messages pass.
    pub fn ready(&self, ready: bool) {
        self.families.connections.ready.set(ready.into());
    }

    /// How much is under way.
    pub fn load(&self, load: &Load) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let before = {
            let mut last = self.own.load.lock().expect("nobody panics holding it");
            std::mem::replace(&mut *last, *load)
        };
        let families = &self.families.load;
        let change = |gauge: &IntGauge, now: usize, before: usize| {
            gauge.add(number(now) - number(before));
        };
        change(&families.inflight_messages, load.messages, before.messages);
        change(
            &families.inflight_publishes,
            load.publishes,
            before.publishes,
        );
        let oldest = self.shares().into_iter().map(|share| {
            let load = share.load.lock().expect("nobody panics holding it");
            load.oldest
        });
        let oldest = oldest.max().unwrap_or_default();
        families.oldest_seconds.set(oldest.as_secs_f64());
        let backlog = |load: &Load| i64::try_from(load.backlog_bytes).unwrap_or(i64::MAX);
        families.backlog_bytes.add(backlog(load) - backlog(&before));
        let depths = |load: &Load| {
            [
                load.read_ahead,
                load.waiting,
                load.asked,
                load.fan_outs,
                load.quarantined,
            ]
        };
        let depths = depths(load).into_iter().zip(depths(&before));
        for (gauge, (now, before)) in families.queues.iter().zip(depths) {
            change(gauge, now, before);
        }
    }

    /// A line of trace was not published.
    pub fn trace_dropped(&self) {
        self.families.traces_dropped.inc();
    }
}

/// The store.
impl Metrics {
    /// The store has committed a batch of so many messages.
    pub fn committed(&self, took: Duration, messages: usize) {
        self.families
            .store
            .commit_seconds
            .observe(took.as_secs_f64());
        if messages > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
            self.families.store.commit_messages.observe(messages as f64);
        }
    }

    /// A transaction of the store has failed.
    pub fn store_failed(&self) {
        self.families.store.failures.inc();
    }
}

/// The decision service.
impl Metrics {
    /// What came of the question about a message, and how long after it was asked first, if it
    /// was: not while the service rests.
    pub fn decided(&self, decision: Decision, took: Option<Duration>) {
        let families = &self.families.decisions;
        families.decisions[decision as usize].inc();
        if let Some(took) = took {
            families.seconds.observe(took.as_secs_f64());
        }
    }
}

/// The HTTP API. `route` is a template, never a path, and `None` for what is no route.
impl Metrics {
    /// A request has come.
    pub fn api_began(&self) {
        self.families.api.in_flight.inc();
    }

    /// A request has ended, answered or not: the counterpart of [`Metrics::api_began`].
    pub fn api_ended(&self) {
        self.families.api.in_flight.dec();
    }

    /// A request was answered.
    pub fn api_answered(
        &self,
        route: Option<&str>,
        method: &'static str,
        status: u16,
        took: Duration,
    ) {
        let class = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let class = class[usize::from(status / 100).clamp(1, 5) - 1];
        let api = &self.families.api;
        let route = route.unwrap_or(NO_ROUTE);
        api.requests
            .with_label_values(&[route, method, class])
            .inc();
        api.seconds
            .with_label_values(&[route])
            .observe(took.as_secs_f64());
        debug!(route, method, status, ?took, "a request to the API");
    }
}

/// Webhooks. `endpoint` counts from 0, in the order of the settings.
impl Metrics {
    /// What became of an event, or of an attempt to deliver it.
    pub fn webhook(&self, endpoint: usize, outcome: WebhookOutcome) {
        if let Some(families) = self.families.endpoints.get(endpoint) {
            families.deliveries[outcome as usize].inc();
        }
    }

    /// An endpoint will never get `count` events: they were too old, or too many.
    pub fn webhooks_lost(&self, endpoint: usize, name: &str, outcome: WebhookOutcome, count: u64) {
        let Some(families) = self.families.endpoints.get(endpoint).filter(|_| count > 0) else {
            return;
        };
        let counter = &families.deliveries[outcome as usize];
        let before = counter.get();
        counter.inc_by(count);
        let lost = before + count;
        // One line each time the number doubles.
        if before == 0 || lost.ilog2() > before.ilog2() {
            let why = match outcome {
                WebhookOutcome::Expired => "they are too old (--webhook-max-age)",
                WebhookOutcome::Delivered
                | WebhookOutcome::Retried
                | WebhookOutcome::Refused
                | WebhookOutcome::Dropped => "too many wait (--webhook-queue)",
            };
            warn!(
                endpoint = name,
                lost, why, "a webhook endpoint will never be told of some events"
            );
        }
    }

    /// How long an endpoint took to answer.
    pub fn webhook_answered(&self, endpoint: usize, took: Duration) {
        if let Some(families) = self.families.endpoints.get(endpoint) {
            families.seconds.observe(took.as_secs_f64());
        }
    }

    /// How much waits for an endpoint.
    pub fn webhook_queue(&self, endpoint: usize, events: i64, bytes: i64) {
        if let Some(families) = self.families.endpoints.get(endpoint) {
            families.queue_events.set(events);
            families.queue_bytes.set(bytes);
        }
    }
}

fn lossy(received: &Received) -> Cow<'_, str> {
    String::from_utf8_lossy(&received.topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_healthy_slot_does_not_hide_another_one_that_is_stuck_or_has_lost_its_session() {
        let metrics = Metrics::new(&[]);
        let (stuck, healthy) = (metrics.of_slot(), metrics.of_slot());
        let load = |seconds| Load {
            oldest: Duration::from_secs(seconds),
            messages: 1,
            ..Load::default()
        };
        stuck.load(&load(90));
        stuck.session_present(false);
        healthy.load(&load(0));
        healthy.session_present(true);
        let figures = metrics.text();
        assert!(
            figures.contains("observer_oldest_unacknowledged_seconds 90\n"),
            "{figures}"
        );
        assert!(
            figures.contains("observer_inflight_messages 2\n"),
            "{figures}"
        );
        assert!(
            figures.contains("observer_session_present 0\n"),
            "{figures}"
        );
        stuck.slot_ended();
        let figures = metrics.text();
        assert!(
            figures.contains("observer_oldest_unacknowledged_seconds 0\n"),
            "{figures}"
        );
        assert!(
            figures.contains("observer_session_present 1\n"),
            "{figures}"
        );
    }
}
