//! What happens on a connection.
//!
//! Owns the events, in one form for both versions of MQTT. Leaves making them to `v4.rs` and
//! `v5.rs`.

use std::time::Duration;

use super::options::Protocol;
use crate::protocol::message::Received;

/// What the broker said when it accepted the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The version of MQTT spoken.
    pub protocol: Protocol,
    /// Whether the broker had kept a session for this client identifier.
    pub session_present: bool,
    /// Publishes that the broker accepts at a time.
    pub receive_maximum: usize,
    /// The largest packet that the broker accepts, in bytes, if it says so (MQTT 5).
    pub max_packet_bytes: Option<u32>,
    /// How long the broker keeps the session, if it differs from what was asked (MQTT 5).
    pub session_expiry: Option<Duration>,
    /// The keep alive that the broker wants instead of ours, if any; zero for none at all (MQTT 5).
    pub server_keep_alive: Option<Duration>,
}

/// A message as it was delivered on one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub received: Received,
    /// What to acknowledge; `None` at QoS 0.
    pub packet_id: Option<u16>,
    /// The DUP flag: a hint that the message may have been delivered before.
    pub dup: bool,
}

/// Why a broker refused a filter or a publish: the name of its reason code, such as
/// `NotAuthorized`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}")]
pub struct ReasonCode {
    name: String,
    passes: bool,
}

impl ReasonCode {
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            passes: false,
        }
    }

    /// One that may not hold for long.
    pub(super) fn passing(name: impl Into<String>) -> Self {
        Self {
            passes: true,
            ..Self::new(name)
        }
    }

    /// The name of the reason code.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Whether the same may be accepted later: a queue was full, say, or something failed in the
    /// broker. It says nothing against who publishes, nor against the topic or the payload.
    pub fn passes(&self) -> bool {
        self.passes
    }
}

impl From<ReasonCode> for String {
    fn from(reason: ReasonCode) -> Self {
        reason.name
    }
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The answer to [`Client::subscribe`](super::Client::subscribe): for each filter the granted
    /// QoS, or why it was refused.
    Subscribed(Vec<Result<u8, ReasonCode>>),
    /// A message was delivered.
    Message(Delivery),
    /// The broker has answered a publish.
    Confirmed {
        /// The token given to [`Client::publish`](super::Client::publish).
        token: u64,
        /// Why the broker refused it, if it did (MQTT 5 only).
        outcome: Result<(), ReasonCode>,
    },
    /// Our DISCONNECT is on the wire: nothing more will come.
    Disconnected,
}
