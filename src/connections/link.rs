//! Links: each keeps one connection to the broker up, in a task of its own.
//!
//! Owns what every link has in common: the pause between connections, token renewal.
//! Leaves what travels on a connection to `session.rs` and `publisher.rs`, and which messages are
//! under way to the ledger. A link remembers nothing about messages from one connection to the
//! next.

use std::ops::ControlFlow;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::connector::{Connector, LiveConnection};
use super::retry::{Outlook, Retry};
use crate::mqtt::{Cause, LinkError};
use crate::protocol::time::UnixMillis;
use crate::telemetry::clock::Clock;
use crate::telemetry::health::Health;
use crate::telemetry::{LinkRole, Metrics};

/// Why a connection was given up for another, although nothing is wrong.
const RENEWED: &str = "connecting again as planned: with a new token before the old one ends, or \
    because too much on the old connection was never confirmed";
const TAKEN_OVER: &str = "the session is taken over again and again, \
    or the broker closes it at once: is another observer running with this client identifier?";

/// What one link consists of, whatever its role.
pub(super) struct Link {
    pub(super) connector: Connector,
    pub(super) role: LinkRole,
    pub(super) retry: Retry,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) stop: CancellationToken,
}

impl Link {
    /// Connects. There is no result if the link is to stop.
    pub(super) async fn attempt(&self) -> Option<Result<LiveConnection, LinkError>> {
        tokio::select! {
            attempt = self.connector.connect() => Some(attempt),
            () = self.stop.cancelled() => None,
        }
    }

    /// Waits before the next attempt; `lived` is how long the connection lasted, if there was one.
    /// Breaks if the link is to stop instead.
    pub(super) async fn pause(
        &mut self,
        error: &LinkError,
        lived: Option<Duration>,
    ) -> ControlFlow<()> {
        if self.stop.is_cancelled() {
            return ControlFlow::Break(());
        }
        self.metrics.reconnects(self.role, error.cause);
        if error.cause == Cause::Renewed {
            info!("{RENEWED}");
            return ControlFlow::Continue(());
        }
        let outlook = self.outlook(error);
        let pause = self.retry.next(error, outlook, lived, fastrand::u64(..));
        if pause.is_contested {
            error!(%error, "{TAKEN_OVER}");
        }
        let retry_in = humantime::format_duration(whole_millis(pause.delay));
        // What an operator is told is the observer's part: one line for an outage, not for each
        // attempt.
        debug!(%error, %retry_in, "not connected");
        tokio::select! {
            () = tokio::time::sleep(pause.delay) => ControlFlow::Continue(()),
            () = self.stop.cancelled() => ControlFlow::Break(()),
        }
    }

    fn outlook(&self, error: &LinkError) -> Outlook {
        let credentials = &self.connector.settings.credentials;
        // A refused token that was replaced meanwhile is worth trying at once.
        let is_replaced = error.cause == Cause::Expired
            && credentials.token_expired(Clock.wall_as_set()).is_none();
        if error.is_permanent() && !is_replaced {
            Outlook::NeedsOperator
        } else {
            Outlook::Transient
        }
    }

    /// Waits until the token in use nears its end, and one that is good for longer can be had: for
    /// ever, if that will never be. Safe to cancel.
    pub(super) async fn wait_for_new_token(&self, token_ends: Option<UnixMillis>) {
        let credentials = &self.connector.settings.credentials;
        let Some(ends) = token_ends.filter(|_| credentials.can_renew()) else {
            return std::future::pending().await;
        };
        let now = Clock.wall_as_set().as_millis();
        let left = Duration::from_millis(ends.as_millis().saturating_sub(now));
        tokio::time::sleep(left / 5 * 4).await;
        while !credentials.is_renewed(ends) {
            tokio::time::sleep((left / 50).max(Duration::from_secs(1))).await;
        }
    }
}

/// Our DISCONNECT ended the connection, to connect again with a new token.
pub(super) fn renewed() -> LinkError {
    LinkError::new(Cause::Renewed, RENEWED)
}

/// Whoever takes the events is gone.
pub(super) fn observer_ended() -> LinkError {
    LinkError::new(Cause::Other, "the observer has ended")
}

fn whole_millis(delay: Duration) -> Duration {
    Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}
