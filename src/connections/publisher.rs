//! The publishing connections.

use tokio_util::sync::CancellationToken;

use crate::mqtt::{Client, Connected, LinkError, ReasonCode};

/// What a publishing link reports.
#[derive(Debug)]
pub enum PublisherEvent {
    /// Connected.
    Up {
        /// Which publisher.
        publisher: usize,
        /// What publishes on it.
        client: Client,
        /// What the broker said.
        connected: Connected,
        /// Ends this connection, to be replaced by a new one.
        recycle: CancellationToken,
    },
    /// The broker has taken or refused a publish.
    Confirmed {
        /// Which publisher.
        publisher: usize,
        /// The publish.
        token: u64,
        /// The reason, if it was refused.
        outcome: Result<(), ReasonCode>,
    },
    /// Its token ends soon, and there is a new one: to be disconnected as soon as nothing is under way.
    Renewing {
        /// Which publisher.
        publisher: usize,
    },
    /// Disconnected, after having been connected.
    Down {
        /// Which publisher.
        publisher: usize,
        /// Why.
        error: LinkError,
    },
}
