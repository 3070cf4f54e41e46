//! What the observer says of itself: the log, the metrics, and one function for each thing that happens, which counts it and writes
//! its line. Where metrics are served is `http.rs`'s business, what goes out over MQTT `status.rs`'s.

pub mod clock;
pub mod health;
pub mod status;
pub mod systemd;

use std::fmt;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use tracing::{debug, error, info, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

use crate::delivery::publish_queue::Purpose;
use crate::mqtt::Cause;
use crate::protocol::id::MessageId;
use crate::protocol::layout::Kind;
use crate::protocol::message::Received;
use crate::protocol::refusal::Refusal;

/// Seconds in which a message is forwarded: a broker takes one or two milliseconds, a group of ten thousand seconds.
const FORWARD_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];
/// Seconds of a commit: a disk takes a tenth of a millisecond to ten.
const COMMIT_BUCKETS: [f64; 11] = [
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0,
];
/// Messages in one commit.
const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Seconds in which an endpoint answers.
const WEBHOOK_BUCKETS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0];

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

impl LogLevel {
    /// From now on this level, or filter.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn set(&self, level: &str) -> Result<(), String> {
        self.0
            .reload(filter(level)?)
            .map_err(|error| error.to_string())
    }
}

/// A level by the names that chat21-server and others of its family have for them, in any case; any other text is left as it is.
fn own_name(level: &str) -> &str {
    match level.to_ascii_lowercase().as_str() {
        "error" | "fatal" => "error",
        "warn" | "warning" => "warn",
        "info" | "log" => "info",
        "debug" | "verbose" => "debug",
        "trace" | "silly" => "trace",
        "off" | "none" => "off",
        _ => level,
    }
}

/// What `level` lets through: a level by name, or a tracing filter.
///
/// The embedded broker and the client crate are silenced, unless the filter names them: they write whole packets, payloads too.
///
/// # Errors
/// The rule it breaks.
pub fn filter(level: &str) -> Result<EnvFilter, String> {
    let level = own_name(level);
    let quiet = ["rumqttc", "rumqttd", "hyper", "tungstenite", "rustls"]
        .into_iter()
        .filter(|name| !level.contains(name));
    let text: String = std::iter::once(level.to_owned())
        .chain(quiet.map(|name| format!(",{name}=off")))
        .collect();
    // A word alone is taken for a module by the library, and nothing at all would be logged.
    let is_word = level.chars().all(char::is_alphanumeric);
    let is_level = level.parse::<tracing_subscriber::filter::LevelFilter>();
    match EnvFilter::try_new(text) {
        Ok(filter) if !is_word || is_level.is_ok() => Ok(filter),
        Ok(_) => Err(format!(
            "{level:?} is not a level (error, warn, info, debug, trace, off)"
        )),
        Err(error) => Err(format!(
            "{level:?} is not a level (error, warn, info, debug, trace, off) or filter: {error}"
        )),
    }
}

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// Sets the log up, on standard error. `level` is what [`filter`] takes; a second call changes nothing, and returns nothing.
pub fn init(format: LogFormat, level: &str) -> Option<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(level).unwrap_or_default());
    let terminal = std::io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter);
    let set = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(terminal)).try_init()
    };
    // An error means that a log is there already, in a test say.
    set.is_ok().then_some(LogLevel(handle))
}

/// What happened to the messages of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages for which forwards were begun, repetitions included.
    pub forwarded: u64,
    /// Messages refused, by reason, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Redeliveries of messages that were still under way, or done but not acknowledged.
    pub resumed: u64,
    /// Messages forwarded again under the id they had.
    pub repeated: u64,
    /// Refusals of which nobody was told, because their sender had been told too much already.
    pub unanswered: u64,
}

impl Stats {
    /// How many messages were refused for `reason`.
    pub fn refused_for(&self, reason: Refusal) -> u64 {
        self.refused[index(reason)]
    }

    /// Messages refused.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// The reasons there were, and how often.
    pub fn reasons(&self) -> impl Iterator<Item = (Refusal, u64)> {
        let counted = Refusal::ALL.iter().copied().zip(self.refused);
        counted.filter(|(_, count)| *count > 0)
    }

    /// The end of a run.
    pub fn log(&self, left_unacknowledged: usize, left_unconfirmed: usize) {
        let words: Vec<String> = self
            .reasons()
            .map(|(reason, count)| format!("{reason}={count}"))
            .collect();
        info!(
            forwarded = self.forwarded,
            refused = self.refused_in_all(),
            reasons = words.join(" "),
            unanswered = self.unanswered,
            resumed = self.resumed,
            repeated = self.repeated,
            left_unacknowledged,
            left_unconfirmed,
            "stopped"
        );
        if left_unacknowledged > 0 {
            warn!(
                left_unacknowledged,
                "messages not finished in time: the broker keeps them and delivers them again"
            );
        }
    }
}

/// Which connection of the observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// The one that receives and acknowledges.
    Session,
    /// One that publishes.
    Publisher,
}

/// What became of one attempt to tell an endpoint of an event, or of the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// It said yes.
    Delivered,
    /// It gave no answer, or one that asks for patience: to be tried again.
    Retried,
    /// It said no: 3xx and 4xx are final, but for 429.
    Refused,
    /// It was not told in time.
    Expired,
    /// More waited for it than may: the oldest was given up.
    Dropped,
}

impl WebhookOutcome {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Delivered, "delivered"),
        (Self::Retried, "retried"),
        (Self::Refused, "refused"),
        (Self::Expired, "expired"),
        (Self::Dropped, "dropped"),
    ];
}

/// What is counted and measured. Labels come from closed lists and from the settings, never from what users send: how many series
/// there are does not depend on how many users.
#[derive(Clone)]
pub struct Metrics(Arc<Families>);

struct Families {
    registry: Registry,
    received: Vec<[IntCounter; 2]>,
    forwarded: IntCounter,
    refused: Vec<IntCounter>,
    resumed: IntCounter,
    repeated: IntCounter,
    unanswered: IntCounter,
    qos_0_dropped: IntCounter,
    forward_seconds: Histogram,
    confirmed: IntCounter,
    not_confirmed: IntCounter,
    reconnects: [Vec<IntCounter>; 2],
    connected: [IntGauge; 2],
    session_present: IntGauge,
    ready: IntGauge,
    inflight_messages: IntGauge,
    inflight_publishes: IntGauge,
    oldest_seconds: Gauge,
    queues: [IntGauge; 4],
    commit_seconds: Histogram,
    commit_messages: Histogram,
    commit_failures: IntCounter,
    webhooks: Vec<[IntCounter; WebhookOutcome::ALL.len()]>,
    webhook_seconds: Vec<Histogram>,
    webhook_queue: Vec<[IntGauge; 2]>,
    traces_dropped: IntCounter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// How full the observer is, as it is now and then told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Messages received and not acknowledged.
    pub messages: usize,
    /// Publishes not confirmed.
    pub publishes: usize,
    /// For how long the oldest of those messages has been here.
    pub oldest: Duration,
    /// Read from the broker, and not taken yet.
    pub read_ahead: usize,
    /// To be decided on.
    pub waiting: usize,
    /// Waiting for the decision service.
    pub asked: usize,
    /// Fan-outs that are not finished.
    pub fan_outs: usize,
}

/// Makes the families of one registry.
struct MetricsBuilder(Registry);

impl MetricsBuilder {
    fn add<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> C {
        let made = made.expect("names and labels are constants");
        let registered = self.0.register(Box::new(made.clone()));
        registered.expect("each family is made once");
        made
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(options))
    }
}

impl Metrics {
    /// All at nought. `endpoints`: the names of the webhooks' endpoints.
    pub fn new(endpoints: &[String]) -> Self {
        let registry = Registry::new();
        let maker = MetricsBuilder(registry.clone());
        // Without /proc there is nothing to say of the process.
        let _ = registry.register(Box::new(ProcessCollector::for_self()));
        let build = maker.gauges(
            "observer_build_info",
            "Always 1; the version and the commit it was built of.",
            &["version", "commit"],
        );
        let commit = env!("OBSERVER_BUILT_COMMIT");
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), commit])
            .set(1);
        let received = maker.counters(
            "observer_messages_received_total",
            "Messages that came from the broker, redeliveries included.",
            &["kind", "qos"],
        );
        let refused = maker.counters(
            "observer_messages_refused_total",
            "Messages refused, by reason; rate-limited is one of them.",
            &["reason"],
        );
        let redelivered = maker.counters(
            "observer_messages_redelivered_total",
            "Messages that came again: resumed were still under way, repeated are forwarded again under the id they had.",
            &["as"],
        );
        let confirmations = maker.counters(
            "observer_publish_confirmations_total",
            "Publishes that the broker has taken (confirmed), or not (refused).",
            &["outcome"],
        );
        let reconnects = maker.counters(
            "observer_reconnects_total",
            "Connections that ended, or did not come off, and are made anew, by cause.",
            &["link", "cause"],
        );
        let connected = maker.gauges(
            "observer_broker_connected",
            "Connections that are up: one session, and as many publishers as configured and one.",
            &["link"],
        );
        let queues = maker.gauges(
            "observer_queue_messages",
            "Messages that wait: read-ahead for the observer, decide for the store, consult for the decision service, fan-out for their copies.",
            &["queue"],
        );
        let webhooks = maker.counters(
            "observer_webhook_deliveries_total",
            "What became of events for webhooks: delivered, retried (each time), refused by the endpoint, expired, dropped.",
            &["endpoint", "outcome"],
        );
        let webhook_seconds: HistogramVec = maker.add(HistogramVec::new(
            HistogramOpts::new(
                "observer_webhook_seconds",
                "How long endpoints took to answer.",
            )
            .buckets(WEBHOOK_BUCKETS.to_vec()),
            &["endpoint"],
        ));
        let webhook_events = maker.gauges(
            "observer_webhook_queue_events",
            "Events that wait for an endpoint.",
            &["endpoint"],
        );
        let webhook_bytes = maker.gauges(
            "observer_webhook_queue_bytes",
            "Bytes of the events that wait for an endpoint.",
            &["endpoint"],
        );
        let links = ["session", "publisher"];
        Self(Arc::new(Families {
            received: Kind::ALL
                .iter()
                .map(|kind| ["0", "1"].map(|qos| received.with_label_values(&[kind.as_str(), qos])))
                .collect(),
            forwarded: maker.counter(
                "observer_messages_forwarded_total",
                "Messages acted on, repetitions included.",
            ),
            refused: Refusal::ALL
                .iter()
                .map(|reason| refused.with_label_values(&[reason.as_str()]))
                .collect(),
            resumed: redelivered.with_label_values(&["resumed"]),
            repeated: redelivered.with_label_values(&["repeated"]),
            unanswered: maker.counter(
                "observer_refusals_unanswered_total",
                "Refusals of which nobody was told, because their sender had been told too much already.",
            ),
            qos_0_dropped: maker.counter(
                "observer_qos0_dropped_total",
                "QoS 0 messages dropped, because too many waited.",
            ),
            forward_seconds: maker.histogram(
                "observer_forward_seconds",
                "From reading a message to the broker's confirmation of its last copy.",
                &FORWARD_BUCKETS,
            ),
            confirmed: confirmations.with_label_values(&["confirmed"]),
            not_confirmed: confirmations.with_label_values(&["refused"]),
            reconnects: links.map(|link| {
                let each = |cause: &Cause| reconnects.with_label_values(&[link, cause.as_str()]);
                Cause::ALL.iter().map(each).collect()
            }),
            connected: links.map(|link| connected.with_label_values(&[link])),
            session_present: maker.gauge(
                "observer_session_present",
                "Whether the broker had kept the session when the observer connected last.",
            ),
            ready: maker.gauge("observer_ready", "Whether messages pass: what /readyz says."),
            inflight_messages: maker.gauge(
                "observer_inflight_messages",
                "Messages received and not acknowledged.",
            ),
            inflight_publishes: maker.gauge(
                "observer_inflight_publishes",
                "Publishes not confirmed yet.",
            ),
            oldest_seconds: maker.add(Gauge::new(
                "observer_oldest_unacknowledged_seconds",
                "For how long the oldest message that is not acknowledged has been under way.",
            )),
            queues: ["read-ahead", "decide", "consult", "fan-out"]
                .map(|queue| queues.with_label_values(&[queue])),
            commit_seconds: maker.histogram(
                "observer_store_commit_seconds",
                "How long commits to the store took.",
                &COMMIT_BUCKETS,
            ),
            commit_messages: maker.histogram(
                "observer_store_commit_messages",
                "Messages in one commit.",
                &BATCH_BUCKETS,
            ),
            commit_failures: maker.counter(
                "observer_store_failures_total",
                "Transactions of the store that failed, and were tried again.",
            ),
            webhooks: endpoints
                .iter()
                .map(|endpoint| {
                    WebhookOutcome::ALL
                        .map(|(_, word)| webhooks.with_label_values(&[endpoint.as_str(), word]))
                })
                .collect(),
            webhook_seconds: endpoints
                .iter()
                .map(|endpoint| webhook_seconds.with_label_values(&[endpoint]))
                .collect(),
            webhook_queue: endpoints
                .iter()
                .map(|endpoint| {
                    [&webhook_events, &webhook_bytes]
                        .map(|family| family.with_label_values(&[endpoint]))
                })
                .collect(),
            traces_dropped: maker.counter(
                "observer_traces_dropped_total",
                "Lines of trace that were not published: the connection was behind, or not there.",
            ),
            registry,
        }))
    }

    /// All of it in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let families = self.0.registry.gather();
        let text = TextEncoder::new().encode_to_string(&families);
        text.expect("what was registered can be written")
    }

    /// What happened to messages so far.
    pub fn stats(&self) -> Stats {
        let families = &self.0;
        let mut refused = [0; Refusal::ALL.len()];
        for (count, counter) in refused.iter_mut().zip(&families.refused) {
            *count = counter.get();
        }
        Stats {
            forwarded: families.forwarded.get(),
            refused,
            resumed: families.resumed.get(),
            repeated: families.repeated.get(),
            unanswered: families.unanswered.get(),
        }
    }

    /// A message came.
    pub fn received(&self, kind: Kind, at_least_once: bool) {
        self.0.received[kind as usize][usize::from(at_least_once)].inc();
    }

    /// A message was given to the ledger to be forwarded.
    pub fn forwarded(&self, received: &Received, id: MessageId, publishes: usize) {
        self.0.forwarded.inc();
        debug!(topic = %lossy(received), message_id = %id, publishes, outcome = "forwarded");
    }

    /// Every copy of a message is confirmed.
    pub fn finished(&self, took: Duration) {
        self.0.forward_seconds.observe(took.as_secs_f64());
    }

    /// A message was refused.
    pub fn refused(&self, received: &Received, reason: Refusal) {
        self.0.refused[index(reason)].inc();
        debug!(topic = %lossy(received), %reason, payload_bytes = received.payload_bytes, outcome = "refused");
    }

    /// A message came again, and was recognised as one that is still in the ledger.
    pub fn resumed(&self, received: &Received) {
        self.0.resumed.inc();
        debug!(topic = %lossy(received), outcome = "resumed");
    }

    /// A message came again, and is forwarded again under its id.
    pub fn repeated(&self, received: &Received, id: MessageId) {
        self.0.repeated.inc();
        debug!(topic = %lossy(received), message_id = %id, outcome = "repeated");
    }

    /// Nobody is told of a refusal.
    pub fn unanswered(&self) {
        self.0.unanswered.inc();
    }

    /// A QoS 0 message was dropped.
    pub fn qos_0_dropped(&self) {
        let dropped = {
            self.0.qos_0_dropped.inc();
            self.0.qos_0_dropped.get()
        };
        if dropped.is_power_of_two() {
            warn!(
                dropped,
                "more QoS 0 messages than can be forwarded: some are dropped; what is sent at QoS 1 is not"
            );
        }
    }

    /// The broker has taken a publish.
    pub fn confirmed(&self) {
        self.0.confirmed.inc();
    }

    /// The broker has refused a publish.
    pub fn not_confirmed(&self, reason: &str) {
        self.0.not_confirmed.inc();
        debug!(%reason, "a publish was refused");
    }

    /// The broker will not take a publish made of a message.
    pub fn publish_refused(&self, received: &Received, reason: Refusal, purpose: Purpose) {
        match (purpose, reason) {
            // What is too large any user can cause; what is not permitted the operator has to mend.
            (Purpose::Notice, Refusal::TooLarge) => {
                debug!("a dead letter is larger than the broker takes: it is lost")
            }
            (Purpose::Notice, _) => {
                error!(%reason, "the broker does not take a notice, a dead letter, the status or a message to ourselves: may this user publish everywhere?");
            }
            (Purpose::Copy | Purpose::BulkCopy, _) => {
                if reason == Refusal::Unauthorized {
                    error!(
                        "the broker does not take a message that was forwarded: may this user publish into every inbox?"
                    );
                }
                self.refused(received, reason);
            }
        }
    }

    /// A connection is up.
    pub fn connected(&self, link: LinkRole) {
        self.0.connected[link as usize].inc();
    }

    /// A connection that was up is not any more.
    pub fn disconnected(&self, link: LinkRole) {
        self.0.connected[link as usize].dec();
    }

    /// Whether the broker had kept the session.
    pub fn session_present(&self, present: bool) {
        self.0.session_present.set(present.into());
    }

    /// A connection has ended, or did not come off, and another is made.
    pub fn reconnects(&self, link: LinkRole, cause: Cause) {
        let at = Cause::ALL.iter().position(|listed| *listed == cause);
        self.0.reconnects[link as usize][at.expect("the list is complete")].inc();
    }

    /// Whether messages pass.
    pub fn ready(&self, ready: bool) {
        self.0.ready.set(ready.into());
    }

    /// How full the observer is.
    pub fn load(&self, load: &Load) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.inflight_messages.set(number(load.messages));
        self.0.inflight_publishes.set(number(load.publishes));
        self.0.oldest_seconds.set(load.oldest.as_secs_f64());
        let depths = [load.read_ahead, load.waiting, load.asked, load.fan_outs];
        for (gauge, depth) in self.0.queues.iter().zip(depths) {
            gauge.set(number(depth));
        }
    }

    /// The store has committed.
    pub fn committed(&self, took: Duration, messages: usize) {
        self.0.commit_seconds.observe(took.as_secs_f64());
        if messages > 0 {
            #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
            self.0.commit_messages.observe(messages as f64);
        }
    }

    /// The store has failed.
    pub fn store_failed(&self) {
        self.0.commit_failures.inc();
    }

    /// What became of an event, or of an attempt to tell of it. `endpoint` counts from nought.
    pub fn webhook(&self, endpoint: usize, outcome: WebhookOutcome) {
        if let Some(counters) = self.0.webhooks.get(endpoint) {
            counters[outcome as usize].inc();
        }
    }

    /// An endpoint will never be told of so many events: they were too old, or too many.
    pub fn webhooks_lost(&self, endpoint: usize, name: &str, outcome: WebhookOutcome, count: u64) {
        let Some(counters) = self.0.webhooks.get(endpoint).filter(|_| count > 0) else {
            return;
        };
        let counter = &counters[outcome as usize];
        let before = counter.get();
        counter.inc_by(count);
        // Each time there are twice as many.
        if (before + count).ilog2() > before.checked_ilog2().unwrap_or(0) || before == 0 {
            let why = if outcome == WebhookOutcome::Expired {
                "they are too old (--webhook-max-age)"
            } else {
                "too many wait (--webhook-queue)"
            };
            warn!(
                endpoint = name,
                lost = before + count,
                why,
                "a webhook endpoint will never be told of some events"
            );
        }
    }

    /// How long an endpoint took to answer.
    pub fn webhook_answered(&self, endpoint: usize, took: Duration) {
        if let Some(histogram) = self.0.webhook_seconds.get(endpoint) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// What waits for an endpoint.
    pub fn webhook_queue(&self, endpoint: usize, events: i64, bytes: i64) {
        if let Some([count, size]) = self.0.webhook_queue.get(endpoint) {
            count.set(events);
            size.set(bytes);
        }
    }

    /// A line of trace was not published.
    pub fn trace_dropped(&self) {
        self.0.traces_dropped.inc();
    }
}

fn index(reason: Refusal) -> usize {
    Refusal::ALL
        .iter()
        .position(|listed| *listed == reason)
        .expect("the list is complete")
}

fn lossy(received: &Received) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&received.topic)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_of_the_family() {
        for level in ["error", "WARN", "Info", "VERBOSE", "debug", "log", "silly"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("info,chat21_observer::connections=debug").is_ok());
        assert!(filter("loud").unwrap_err().contains("\"loud\""));
        assert!(filter("info,x=loud").is_err());
    }
}
