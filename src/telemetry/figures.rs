//! The figures of the console and of `/status`: a part of the metrics, in a form of its own.
//!
//! Owns that form, which stays as it is when a metric is renamed. Counters count from the start of
//! the process.

use std::collections::BTreeMap;

use prometheus::core::Metric;
use prometheus::{Histogram, IntCounter, IntGauge};
use serde::Serialize;

use super::labels::WebhookOutcome;
use super::metrics::Metrics;
use crate::mqtt::Cause;
use crate::protocol::refusal::Refusal;

/// How things stand, in numbers.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Messages acted on, repetitions included.
    pub forwarded: u64,
    /// Messages refused, by reason; reasons that have not occurred are left out.
    pub refused: BTreeMap<&'static str, u64>,
    /// Redeliveries of messages that were still under way.
    pub resumed: u64,
    /// Messages forwarded again under the id they had.
    pub repeated: u64,
    /// Messages received and not acknowledged.
    pub inflight_messages: i64,
    /// Publishes not confirmed.
    pub inflight_publishes: i64,
    /// Age of the oldest message that is not acknowledged.
    pub oldest_seconds: f64,
    /// What waits in the store alone, because the broker takes no publishes.
    pub backlog_bytes: i64,
    /// From reading a message to the confirmation of its last copy.
    pub latency: Times,
    /// Connections that ended, or could not be made, by cause; causes that have not occurred are
    /// left out.
    pub reconnects: BTreeMap<&'static str, u64>,
    /// Commits to the store.
    pub commits: Times,
    /// One for each webhook endpoint, in the order of the settings.
    pub webhooks: Vec<WebhookFigures>,
}

/// How long things took.
#[derive(Clone, Debug, Serialize)]
pub struct Times {
    /// How many there were.
    pub count: u64,
    /// What all of them took together.
    pub total_seconds: f64,
    /// Upper bounds in seconds, each with the number of those that took no longer.
    pub at_most: Vec<(f64, u64)>,
}

/// One webhook endpoint.
#[derive(Clone, Debug, Serialize)]
pub struct WebhookFigures {
    /// Its name: the URL without what is secret in it.
    pub endpoint: String,
    /// Events that wait for it.
    pub waiting: i64,
    /// Events that it has taken.
    pub delivered: u64,
    /// Events that it will never get: refused by it, too old, or too many.
    pub lost: u64,
}

impl Metrics {
    /// The figures of this moment. `endpoints` are the names that the metrics were made with.
    pub fn figures(&self, endpoints: &[String]) -> Figures {
        let families = self.families();
        let (messages, load) = (&families.messages, &families.load);
        let reasons = Refusal::ALL.iter().map(|reason| reason.as_str());
        let causes = Cause::ALL.iter().enumerate().map(|(at, cause)| {
            let links = families.connections.reconnects.iter();
            (cause.as_str(), links.map(|link| link[at].get()).sum())
        });
        let webhooks = endpoints.iter().zip(&families.endpoints);
        Figures {
            forwarded: messages.forwarded.get(),
            refused: occurred(reasons.zip(messages.refused.iter().map(IntCounter::get))),
            resumed: messages.resumed.get(),
            repeated: messages.repeated.get(),
            inflight_messages: load.inflight_messages.get(),
            inflight_publishes: load.inflight_publishes.get(),
            oldest_seconds: load.oldest_seconds.get(),
            backlog_bytes: load.backlog_bytes.get(),
            latency: Times::of(&messages.forward_seconds),
            reconnects: occurred(causes),
            commits: Times::of(&families.store.commit_seconds),
            webhooks: webhooks
                .map(|(name, families)| {
                    let count = |outcome| families.deliveries[outcome as usize].get();
                    WebhookFigures {
                        endpoint: name.clone(),
                        waiting: IntGauge::get(&families.queue_events),
                        delivered: count(WebhookOutcome::Delivered),
                        lost: count(WebhookOutcome::Refused)
                            + count(WebhookOutcome::Expired)
                            + count(WebhookOutcome::Dropped),
                    }
                })
                .collect(),
        }
    }
}

/// The counts that are not zero.
fn occurred(counts: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    counts.filter(|(_, count)| *count > 0).collect()
}

impl Times {
    fn of(histogram: &Histogram) -> Self {
        let metric = histogram.metric();
        let read = metric.get_histogram();
        let buckets = read.get_bucket().iter();
        Self {
            count: read.get_sample_count(),
            total_seconds: read.get_sample_sum(),
            at_most: buckets
                .map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn figures_say_what_has_occurred() {
        let names = ["http://a/".to_owned()];
        let metrics = Metrics::new(&names);
        metrics.finished(Duration::from_millis(3));
        metrics.webhook(0, WebhookOutcome::Delivered);
        metrics.webhooks_lost(0, "a", WebhookOutcome::Expired, 2);
        let figures = metrics.figures(&names);
        assert!(figures.refused.is_empty() && figures.reconnects.is_empty());
        assert_eq!(figures.latency.count, 1);
        let within = |bound| figures.latency.at_most.iter().find(|(at, _)| *at == bound);
        assert_eq!(within(0.002), Some(&(0.002, 0)));
        assert_eq!(within(0.005), Some(&(0.005, 1)));
        let [webhook] = &figures.webhooks[..] else {
            panic!("{figures:?}");
        };
        assert_eq!((webhook.delivered, webhook.lost), (1, 2));
    }
}
