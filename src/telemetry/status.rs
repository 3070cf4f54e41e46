//! The retained status and the stats over MQTT, for people who have nothing but MQTT
//! (`protocol.md`, section 8).
//!
//! Owns their payloads. The observer publishes them.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::telemetry::{Load, Stats};

/// The retained status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the observer runs and is connected.
    pub online: bool,
    /// Whether messages pass.
    pub ready: bool,
    /// Why messages do not pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// The version of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// When the observer was started, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// Whether each message is traced.
    #[serde(default)]
    pub trace: bool,
    /// The log level, or filter, in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

impl Status {
    /// The status of an observer that is gone: its will.
    pub fn offline() -> Self {
        Self {
            online: false,
            ready: false,
            faults: vec![],
            version: None,
            started_at: None,
            trace: false,
            log_level: None,
        }
    }

    /// The retained message at `topic`.
    pub fn publish(&self, topic: &TopicName) -> Publish {
        Publish {
            retain: true,
            copy_status: None,
            ..Publish::new(topic.clone(), json(self))
        }
    }
}

#[derive(Serialize)]
struct StatsMessage {
    at: u64,
    uptime_seconds: u64,
    forwarded: u64,
    refused: HashMap<&'static str, u64>,
    resumed: u64,
    repeated: u64,
    unanswered: u64,
    inflight_messages: usize,
    inflight_publishes: usize,
    oldest_unacknowledged_ms: u128,
    webhooks_waiting: i64,
}

/// The stats message: counts since the start, and what is under way.
pub fn stats(
    topic: &TopicName,
    stats: &Stats,
    load: &Load,
    uptime: Duration,
    now: UnixMillis,
) -> Publish {
    let reasons = stats.reasons();
    let message = StatsMessage {
        at: now.as_millis(),
        uptime_seconds: uptime.as_secs(),
        forwarded: stats.forwarded,
        refused: reasons
            .map(|(reason, count)| (reason.as_str(), count))
            .collect(),
        resumed: stats.resumed,
        repeated: stats.repeated,
        unanswered: stats.unanswered,
        inflight_messages: load.messages,
        inflight_publishes: load.publishes,
        oldest_unacknowledged_ms: load.oldest.as_millis(),
        webhooks_waiting: load.webhooks,
    };
    Publish::new(topic.clone(), json(&message))
}

pub(super) fn json<T: Serialize>(value: &T) -> Bytes {
    let text = serde_json::to_vec(value);
    text.expect("plain fields serialise").into()
}
