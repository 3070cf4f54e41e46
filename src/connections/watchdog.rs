//! Notices a connection on which nothing happens any more.
//!
//! Owns the count of events. Leaves ending the connection to whoever awaits it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mqtt::{Cause, LinkError};

/// Counts the events of a connection. A count needs no timer for each event.
#[derive(Debug, Default)]
pub(super) struct Watchdog(AtomicU64);

impl Watchdog {
    /// Something happened.
    pub(super) fn feed(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until there was no event for `limit`, or up to twice as long. Safe to cancel.
    pub(super) async fn wait_for_silence(&self, limit: Duration) -> LinkError {
        loop {
            let before = self.0.load(Ordering::Relaxed);
            tokio::time::sleep(limit).await;
            if self.0.load(Ordering::Relaxed) == before {
                return LinkError::new(
                    Cause::TimedOut,
                    "nothing came from the broker for three keep alives",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(90);

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_dead_only_when_nothing_comes() {
        let watchdog = Watchdog::default();
        let pings = async {
            for _ in 0..10 {
                sleep(LIMIT / 2).await;
                watchdog.feed();
            }
        };
        tokio::select! {
            error = watchdog.wait_for_silence(LIMIT) => panic!("{error}"),
            () = pings => {}
        }
        let silent = timeout(LIMIT * 2, watchdog.wait_for_silence(LIMIT)).await;
        assert_eq!(silent.unwrap().cause, Cause::TimedOut);
    }
}
