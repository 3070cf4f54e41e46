//! Counts of one run, and how much is under way at one moment.
//!
//! Owns the two snapshots that the status over MQTT, the log and the metrics share.

use std::time::Duration;

use tracing::{info, warn};

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
