//! The metric families: their names, help texts, labels and buckets.
//!
//! Owns what `/metrics` shows. Labels come from closed lists and from the settings, never from what
//! users send, so the number of series does not depend on the number of users.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

use super::labels::{Decision, WebhookOutcome};
use crate::mqtt::Cause;
use crate::protocol::address::Kind;
use crate::protocol::refusal::Refusal;

/// Seconds to forward a message: a broker takes one or two milliseconds, a group of ten thousand
/// takes seconds.
const FORWARD_BUCKETS: [f64; 15] = [
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
];
/// Seconds of a commit: a disk takes 0.1 to 10 ms.
const COMMIT_BUCKETS: [f64; 11] = [
    0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0,
];
/// Messages in one commit.
const BATCH_BUCKETS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];
/// Seconds in which an operator's HTTP service answers.
const SERVICE_BUCKETS: [f64; 10] = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 10.0];

/// The route of a request to none.
pub(super) const NO_ROUTE: &str = "none";

const LINKS: [&str; 2] = ["session", "publisher"];

/// Every family, with the handle of each series.
pub(super) struct Families {
    pub(super) registry: Registry,
    pub(super) messages: MessageFamilies,
    pub(super) connections: ConnectionFamilies,
    pub(super) load: LoadFamilies,
    pub(super) store: StoreFamilies,
    pub(super) decisions: DecisionFamilies,
    /// One for each endpoint, in the order of the settings.
    pub(super) endpoints: Vec<EndpointFamilies>,
    pub(super) api: ApiFamilies,
    pub(super) traces_dropped: IntCounter,
}

/// Requests to the HTTP API.
pub(super) struct ApiFamilies {
    /// By route, method and class of status.
    pub(super) requests: IntCounterVec,
    /// By route.
    pub(super) seconds: HistogramVec,
    pub(super) in_flight: IntGauge,
}

/// What becomes of messages and of their publishes.
pub(super) struct MessageFamilies {
    /// By [`Kind`], then by QoS 0 and 1.
    pub(super) received: Vec<[IntCounter; 2]>,
    pub(super) forwarded: IntCounter,
    /// By [`Refusal`].
    pub(super) refused: Vec<IntCounter>,
    pub(super) resumed: IntCounter,
    pub(super) repeated: IntCounter,
    pub(super) unanswered: IntCounter,
    pub(super) qos_0_dropped: IntCounter,
    pub(super) forward_seconds: Histogram,
    pub(super) confirmed: IntCounter,
    pub(super) not_confirmed: IntCounter,
}

/// Connections to the broker: arrays by link, the session first, then the publishers.
pub(super) struct ConnectionFamilies {
    /// By link, then by [`Cause`].
    pub(super) reconnects: [Vec<IntCounter>; 2],
    pub(super) connected: [IntGauge; 2],
    pub(super) session_present: IntGauge,
    pub(super) ready: IntGauge,
    pub(super) standby: IntGauge,
}

/// How much is under way.
pub(super) struct LoadFamilies {
    pub(super) inflight_messages: IntGauge,
    pub(super) inflight_publishes: IntGauge,
    pub(super) oldest_seconds: Gauge,
    pub(super) backlog_bytes: IntGauge,
    /// Read ahead, to be decided, with the decision service, fan-outs, publishes in quarantine.
    pub(super) queues: [IntGauge; 5],
}

/// Commits to the store.
pub(super) struct StoreFamilies {
    pub(super) commit_seconds: Histogram,
    pub(super) commit_messages: Histogram,
    pub(super) failures: IntCounter,
}

/// Questions to the decision service.
pub(super) struct DecisionFamilies {
    /// By [`Decision`].
    pub(super) decisions: Box<[IntCounter]>,
    pub(super) seconds: Histogram,
}

/// One endpoint of webhooks.
pub(super) struct EndpointFamilies {
    /// By [`WebhookOutcome`].
    pub(super) deliveries: Box<[IntCounter]>,
    pub(super) seconds: Histogram,
    pub(super) queue_events: IntGauge,
    pub(super) queue_bytes: IntGauge,
}

impl Families {
    /// All at zero. `endpoints` are the names of the webhooks' endpoints.
    pub(super) fn new(endpoints: &[String]) -> Self {
        let registry = Registry::new();
        let builder = MetricsBuilder(registry.clone());
        // Without /proc there is nothing to tell about the process.
        let _ = registry.register(Box::new(ProcessCollector::for_self()));
        builder.build_info();
        Self {
            messages: builder.messages(),
            connections: builder.connections(),
            load: builder.load(),
            store: builder.store(),
            decisions: builder.decisions(),
            endpoints: builder.endpoints(endpoints),
            api: builder.api(),
            traces_dropped: builder.counter(
                "observer_traces_dropped_total",
                "Lines of trace that were not published: the connection was behind, or not there.",
            ),
            registry,
        }
    }
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

    fn histograms(&self, name: &str, help: &str, buckets: &[f64], labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    fn build_info(&self) {
        let build = self.gauges(
            "observer_build_info",
            "Always 1; the version and the commit it was built of.",
            &["version", "commit"],
        );
        let commit = env!("OBSERVER_BUILT_COMMIT");
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), commit])
            .set(1);
    }

    fn messages(&self) -> MessageFamilies {
        let received = self.counters(
            "observer_messages_received_total",
            "Messages that came from the broker, redeliveries included.",
            &["kind", "qos"],
        );
        let refused = self.counters(
            "observer_messages_refused_total",
            "Messages refused, by reason; rate-limited is one of them.",
            &["reason"],
        );
        let redelivered = self.counters(
            "observer_messages_redelivered_total",
            "Messages that came again: resumed were still under way, \
             repeated are forwarded again under the id they had.",
            &["as"],
        );
        let confirmations = self.counters(
            "observer_publish_confirmations_total",
            "Publishes that the broker has taken (confirmed), or not (refused).",
            &["outcome"],
        );
        let by_qos =
            |kind: &Kind| ["0", "1"].map(|qos| received.with_label_values(&[kind.as_str(), qos]));
        let by_reason = |reason: &Refusal| refused.with_label_values(&[reason.as_str()]);
        MessageFamilies {
            received: Kind::ALL.iter().map(by_qos).collect(),
            forwarded: self.counter(
                "observer_messages_forwarded_total",
                "Messages acted on, repetitions included.",
            ),
            refused: Refusal::ALL.iter().map(by_reason).collect(),
            resumed: redelivered.with_label_values(&["resumed"]),
            repeated: redelivered.with_label_values(&["repeated"]),
            unanswered: self.counter(
                "observer_refusals_unanswered_total",
                "Refusals of which nobody was told, \
                 because their sender had been told too much already.",
            ),
            qos_0_dropped: self.counter(
                "observer_qos0_dropped_total",
                "QoS 0 messages dropped, because too many waited.",
            ),
            forward_seconds: self.histogram(
                "observer_forward_seconds",
                "From reading a message to the broker's confirmation of its last copy.",
                &FORWARD_BUCKETS,
            ),
            confirmed: confirmations.with_label_values(&["confirmed"]),
            not_confirmed: confirmations.with_label_values(&["refused"]),
        }
    }

    fn connections(&self) -> ConnectionFamilies {
        let reconnects = self.counters(
            "observer_reconnects_total",
            "Connections that ended, or did not come off, and are made anew, by cause.",
            &["link", "cause"],
        );
        let connected = self.gauges(
            "observer_broker_connected",
            "Connections that are up: one session, and two publishers more than configured.",
            &["link"],
        );
        ConnectionFamilies {
            reconnects: LINKS.map(|link| {
                let each = |cause: &Cause| reconnects.with_label_values(&[link, cause.as_str()]);
                Cause::ALL.iter().map(each).collect()
            }),
            connected: LINKS.map(|link| connected.with_label_values(&[link])),
            session_present: self.gauge(
                "observer_session_present",
                "Whether the broker had kept the session when the observer connected last.",
            ),
            ready: self.gauge(
                "observer_ready",
                "Whether messages pass: what /readyz says.",
            ),
            standby: self.gauge(
                "observer_standby",
                "Whether this process stands by, because others serve all there is.",
            ),
        }
    }

    fn load(&self) -> LoadFamilies {
        let queues = self.gauges(
            "observer_queue_messages",
            "Messages that wait: read-ahead for the observer, decide for the store, \
             consult for the decision service, fan-out for their copies; and quarantine: \
             publishes that the broker does not confirm, and those behind them.",
            &["queue"],
        );
        LoadFamilies {
            inflight_messages: self.gauge(
                "observer_inflight_messages",
                "Messages received and not acknowledged.",
            ),
            inflight_publishes: self.gauge(
                "observer_inflight_publishes",
                "Publishes not confirmed yet.",
            ),
            oldest_seconds: self.add(Gauge::new(
                "observer_oldest_unacknowledged_seconds",
                "For how long the oldest message that is not acknowledged has been under way.",
            )),
            backlog_bytes: self.gauge(
                "observer_backlog_bytes",
                "What is accepted and kept in the store alone, because the broker takes no \
                 publishes (see --max-backlog).",
            ),
            queues: ["read-ahead", "decide", "consult", "fan-out", "quarantine"]
                .map(|queue| queues.with_label_values(&[queue])),
        }
    }

    fn store(&self) -> StoreFamilies {
        StoreFamilies {
            commit_seconds: self.histogram(
                "observer_store_commit_seconds",
                "How long commits to the store took.",
                &COMMIT_BUCKETS,
            ),
            commit_messages: self.histogram(
                "observer_store_commit_messages",
                "Messages in one commit.",
                &BATCH_BUCKETS,
            ),
            failures: self.counter(
                "observer_store_failures_total",
                "Transactions of the store that failed, and were tried again.",
            ),
        }
    }

    fn decisions(&self) -> DecisionFamilies {
        let decisions = self.counters(
            "observer_decisions_total",
            "Messages that the decision service decides on (--policy-url), by what came of it; \
             no-answer: --policy-failure holds.",
            &["decision"],
        );
        DecisionFamilies {
            decisions: Decision::ALL
                .iter()
                .map(|decision| decisions.with_label_values(&[decision.as_str()]))
                .collect(),
            seconds: self.histogram(
                "observer_decision_seconds",
                "How long messages waited for the decision service from when it was asked, \
                 answered or not.",
                &SERVICE_BUCKETS,
            ),
        }
    }

    fn api(&self) -> ApiFamilies {
        let requests = self.counters(
            "observer_api_requests_total",
            "Requests to the HTTP API, by route, method and class of status.",
            &["route", "method", "status"],
        );
        let seconds = self.histograms(
            "observer_api_seconds",
            "How long requests to the HTTP API took.",
            &FORWARD_BUCKETS,
            &["route"],
        );
        // A family without series would not show before the first request.
        requests.with_label_values(&[NO_ROUTE, "GET", "4xx"]);
        seconds.with_label_values(&[NO_ROUTE]);
        ApiFamilies {
            requests,
            seconds,
            in_flight: self.gauge(
                "observer_api_in_flight",
                "Requests to the HTTP API that are being answered.",
            ),
        }
    }

    fn endpoints(&self, endpoints: &[String]) -> Vec<EndpointFamilies> {
        let deliveries = self.counters(
            "observer_webhook_deliveries_total",
            "What became of events for webhooks: delivered, retried (each time), \
             refused by the endpoint, expired, dropped.",
            &["endpoint", "outcome"],
        );
        let seconds = self.histograms(
            "observer_webhook_seconds",
            "How long endpoints took to answer.",
            &SERVICE_BUCKETS,
            &["endpoint"],
        );
        let events = self.gauges(
            "observer_webhook_queue_events",
            "Events that wait for an endpoint.",
            &["endpoint"],
        );
        let bytes = self.gauges(
            "observer_webhook_queue_bytes",
            "Bytes of the events that wait for an endpoint.",
            &["endpoint"],
        );
        let families = endpoints.iter().map(|endpoint| EndpointFamilies {
            deliveries: WebhookOutcome::ALL
                .iter()
                .map(|outcome| deliveries.with_label_values(&[endpoint, outcome.as_str()]))
                .collect(),
            seconds: seconds.with_label_values(&[endpoint]),
            queue_events: events.with_label_values(&[endpoint]),
            queue_bytes: bytes.with_label_values(&[endpoint]),
        });
        families.collect()
    }
}
