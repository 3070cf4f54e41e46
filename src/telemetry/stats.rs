//! Counts of one run, and how much is under way at one moment.
//!
//! Owns the snapshots that the status over MQTT, the log and the metrics share, and the line of the
//! log about an interval.

use std::fmt::Write as _;
use std::time::Duration;

use tracing::{info, warn};

use super::log::SENTENCE;
use crate::protocol::refusal::Refusal;

/// What happened to the messages of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages whose forwarding has begun, repetitions included.
    pub forwarded: u64,
    /// Messages refused, by reason, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Redeliveries of messages that were still under way, or done but not acknowledged.
    pub resumed: u64,
    /// Messages forwarded again under the id they had before.
    pub repeated: u64,
    /// Refusals that nobody was told of, because their sender had been told of too many.
    pub unanswered: u64,
}

impl Stats {
    /// The number of messages refused for any reason.
    pub fn refused_in_all(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Each reason that occurred, with its count.
    pub fn reasons(&self) -> impl Iterator<Item = (Refusal, u64)> {
        let counted = Refusal::ALL.iter().copied().zip(self.refused);
        counted.filter(|(_, count)| *count > 0)
    }

    /// Logs the end of a run.
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

/// How many messages took how long to be forwarded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Latencies {
    /// For each bound in seconds, how many took no longer.
    pub buckets: Vec<(f64, u64)>,
    /// How many there were.
    pub count: u64,
}

impl Latencies {
    /// The time in which 99 of 100 were forwarded since `before`, as Prometheus reckons it from the
    /// same buckets. `None` if there were none.
    #[expect(clippy::cast_precision_loss, reason = "a share of a count")]
    fn p99_since(&self, before: &Self) -> Option<Duration> {
        let count = self.count - before.count;
        if count == 0 {
            return None;
        }
        let wanted = count as f64 * 0.99;
        let (mut lower, mut below) = (0.0, 0.0);
        for (at, (bound, all)) in self.buckets.iter().enumerate() {
            let earlier = before.buckets.get(at).map_or(0, |(_, count)| *count);
            let within = (all - earlier) as f64;
            if within >= wanted {
                let share = (wanted - below) / (within - below);
                return Some(Duration::from_secs_f64(lower + (bound - lower) * share));
            }
            (lower, below) = (*bound, within);
        }
        // Longer than the last bound.
        Some(Duration::from_secs_f64(lower))
    }
}

/// What happened in one interval after the other.
#[derive(Debug, Default)]
pub struct Interval {
    stats: Stats,
    latencies: Latencies,
}

impl Interval {
    /// Logs what happened since the last call, if anything did.
    pub fn log(&mut self, stats: Stats, latencies: Latencies) {
        let before = std::mem::replace(self, Self { stats, latencies });
        let now = &self.stats;
        let forwarded = now.forwarded - before.stats.forwarded;
        let reasons: Vec<(Refusal, u64)> = Refusal::ALL
            .iter()
            .zip(now.refused.iter().zip(before.stats.refused))
            .map(|(reason, (now, before))| (*reason, now - before))
            .filter(|(_, count)| *count > 0)
            .collect();
        let refused: u64 = reasons.iter().map(|(_, count)| count).sum();
        if forwarded == 0 && refused == 0 {
            return;
        }
        let p99 = self.latencies.p99_since(&before.latencies);
        let p99_ms = p99.map(|p99| p99.as_secs_f64() * 1_000.0);
        let text = interval_text(forwarded, &reasons, p99);
        info!(target: SENTENCE, forwarded, refused, p99_ms, "{text}");
    }
}

fn interval_text(forwarded: u64, reasons: &[(Refusal, u64)], p99: Option<Duration>) -> String {
    let mut text = format!("{} forwarded", grouped(forwarded));
    if !reasons.is_empty() {
        let refused = reasons.iter().map(|(_, count)| count).sum();
        let counts: Vec<String> = reasons
            .iter()
            .map(|(reason, count)| format!("{reason} {}", grouped(*count)))
            .collect();
        let _ = write!(
            text,
            ", {} refused ({})",
            grouped(refused),
            counts.join(", ")
        );
    }
    if let Some(p99) = p99 {
        let millis = p99.as_secs_f64() * 1_000.0;
        let _ = match millis < 10.0 {
            true => write!(text, ", p99 {millis:.1} ms"),
            false => write!(
                text,
                ", p99 {} ms",
                grouped(p99.as_millis().try_into().unwrap_or(u64::MAX))
            ),
        };
    }
    text
}

/// A count with its thousands set apart.
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How much is under way at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Messages received and not acknowledged.
    pub messages: usize,
    /// Publishes not confirmed.
    pub publishes: usize,
    /// Age of the oldest message that is not acknowledged.
    pub oldest: Duration,
    /// Messages read from the broker that the observer has not taken yet.
    pub read_ahead: usize,
    /// Messages that wait to be decided on.
    pub waiting: usize,
    /// Messages that wait for the decision service.
    pub asked: usize,
    /// Fan-outs that are not finished.
    pub fan_outs: usize,
    /// Publishes in quarantine.
    pub quarantined: usize,
    /// About how many bytes wait in the delivery log alone.
    pub backlog_bytes: u64,
    /// Webhook events that wait for their endpoints.
    pub webhooks: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let texts = [0, 999, 1_000, 1_204_000].map(grouped);
        assert_eq!(texts, ["0", "999", "1,000", "1,204,000"]);
    }

    #[test]
    fn a_quantile_is_of_the_interval_alone() {
        let of = |counts: [u64; 2], count| Latencies {
            buckets: vec![(0.001, counts[0]), (0.005, counts[1])],
            count,
        };
        let before = of([0, 1_000], 1_000);
        let now = of([1_000, 2_000], 2_000);
        // All of the interval's took up to a millisecond.
        let p99 = now.p99_since(&before);
        assert_eq!(p99, Some(Duration::from_micros(990)));
        assert_eq!(now.p99_since(&now), None);
        // One of two took longer than the last bound.
        let slow = of([1_001, 2_001], 2_002);
        assert_eq!(slow.p99_since(&now), Some(Duration::from_millis(5)));
    }

    #[test]
    fn an_interval_is_told_in_a_line() {
        let reasons = [(Refusal::NotJson, 2), (Refusal::Banned, 1)];
        assert_eq!(
            interval_text(1_204, &reasons, Some(Duration::from_millis(14))),
            "1,204 forwarded, 3 refused (not-json 2, banned 1), p99 14 ms"
        );
        assert_eq!(
            interval_text(5, &[], Some(Duration::from_micros(1_830))),
            "5 forwarded, p99 1.8 ms"
        );
        assert_eq!(
            interval_text(0, &reasons[1..], None),
            "0 forwarded, 1 refused (banned 1)"
        );
    }
}
