//! The session: the connection that subscribes, receives and acknowledges.

use tokio::sync::OwnedSemaphorePermit;
use tracing::{info, warn};

use crate::mqtt::{Client, Connected, Delivery, LinkError, Session};

/// What the session's link may report before the daemon takes it: a message for each packet identifier there is, and some words.
pub const SESSION_EVENTS: usize = 65_535 + 64 + SHED_QOS_0_AT;
/// Messages read and not yet taken by the daemon from which on QoS 0 is dropped: reading has to go on, for acks and pings.
pub(super) const SHED_QOS_0_AT: usize = 2_000;
/// What the session's link reports.
#[derive(Debug)]
pub enum SessionEvent {
    /// Connected; messages may come from now on.
    Up {
        /// Counts the connections of this session.
        connection: u64,
        /// What acknowledges on it.
        client: Client,
        /// What the broker said.
        connected: Connected,
    },
    /// Every filter is granted.
    Subscribed {
        /// On which connection.
        connection: u64,
    },
    /// Its token ends soon, and there is a new one: to be disconnected. What is acknowledged from then on would not arrive.
    Renewing {
        /// Which connection.
        connection: u64,
    },
    /// A message, and its share of what may be read ahead.
    Message(Delivery, OwnedSemaphorePermit),
    /// Disconnected, or not connected yet.
    Down(LinkError),
}

/// Says that the session is connected, and at first how long the broker will keep it.
pub fn log_connected(connected: &Connected, asked: Session, is_first: bool) {
    info!(protocol = %connected.protocol, session_present = connected.session_present, "connected");
    if let (Some(kept), Session::Persistent(asked)) = (connected.session_expiry, asked)
        && kept < asked
        && is_first
    {
        let (kept, asked) = (
            humantime::format_duration(kept).to_string(),
            humantime::format_duration(asked).to_string(),
        );
        warn!(
            kept,
            asked,
            "the broker keeps the session for a shorter time: what arrives while the observer is away for longer is lost"
        );
    }
}
