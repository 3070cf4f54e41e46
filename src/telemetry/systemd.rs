//! What the service manager is told (`sd_notify(3)`): ready, status, alive, stopping.
//!
//! Owns when to say what. Without a service manager (`NOTIFY_SOCKET` is not set) nothing happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::debug;

use super::health::Fault;

/// After this time the observer counts as started even if it is not ready: it runs and keeps
/// trying, and its status says why. A broker that is away must keep neither the machine from
/// booting nor the observer from running.
const STARTED: Duration = Duration::from_secs(30);
/// Watchdog messages in one interval of the watchdog.
const SIGNS: u32 = 3;

/// The service manager's view of this process.
#[derive(Debug)]
pub struct Service {
    supervised: bool,
    began: Instant,
    started: bool,
    stopping: bool,
    status: String,
    /// How often a watchdog message is due.
    watchdog: Option<Duration>,
    /// When the last one was sent.
    alive: Instant,
}

impl Service {
    /// `supervised` says whether this process may talk to a service manager.
    pub fn new(supervised: bool, now: Instant) -> Self {
        let watchdog = sd_notify::watchdog_enabled().filter(|_| supervised);
        Self {
            supervised: supervised && std::env::var_os("NOTIFY_SOCKET").is_some(),
            began: now,
            started: false,
            stopping: false,
            status: String::new(),
            watchdog: watchdog.map(|interval| interval / SIGNS),
            alive: now,
        }
    }

    /// Sends the watchdog message when it is due, and the status when it has changed. Call it
    /// often. The observer is ready if there are no `faults`.
    pub fn tick(&mut self, faults: &[Fault], under_way: usize, now: Instant) {
        if !self.supervised {
            return;
        }
        if let Some(interval) = self.watchdog
            && now >= self.alive + interval
        {
            self.alive = now;
            notify(&[NotifyState::Watchdog]);
        }
        if self.stopping {
            return;
        }
        let status = if faults.is_empty() {
            format!("ready, {under_way} messages under way")
        } else {
            let faults: Vec<_> = faults.iter().map(Fault::to_string).collect();
            format!("not ready: {}", faults.join("; "))
        };
        if status != self.status {
            notify(&[NotifyState::Status(&status)]);
            self.status = status;
        }
        if !self.started && (faults.is_empty() || now >= self.began + STARTED) {
            self.started = true;
            notify(&[NotifyState::Ready]);
        }
    }

    /// The observer is stopping.
    pub fn stopping(&mut self, under_way: usize) {
        self.stopping = true;
        if self.supervised {
            let status = format!("stopping, {under_way} messages under way");
            notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        }
    }
}

fn notify(what: &[NotifyState<'_>]) {
    // Nothing depends on the service manager.
    if let Err(error) = sd_notify::notify(what) {
        debug!(%error, "the service manager is not told");
    }
}
