//! What the service manager is told (`sd_notify(3)`): that the observer is ready, how it is, that it is alive, that it stops. Without one
//! (`NOTIFY_SOCKET` is not set) nothing happens.

use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::debug;

/// An observer that cannot get ready for so long has started all the same: it is up, tries on, and its status says why. A broker that is
/// away must not keep the machine from booting, nor have the observer killed for it.
const STARTED: Duration = Duration::from_secs(30);
/// Signs of life in one interval of the watchdog.
const SIGNS: u32 = 3;

/// The service manager's view of this process.
#[derive(Debug)]
pub struct Service {
    supervised: bool,
    began: Instant,
    started: bool,
    stopping: bool,
    status: String,
    /// How often a sign of life is due, and when the last was given.
    watchdog: Option<Duration>,
    alive: Instant,
}

impl Service {
    /// `supervised`: whether there may be a service manager, which is asked for nothing.
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

    /// To be called often: gives signs of life, and says what has changed, until the observer stops. Ready, if there are no `faults`.
    pub fn tick(&mut self, faults: &[String], under_way: usize, now: Instant) {
        if !self.supervised {
            return;
        }
        if let Some(interval) = self.watchdog
            && now >= self.alive + interval
        {
            self.alive = now;
            tell(&[NotifyState::Watchdog]);
        }
        if self.stopping {
            return;
        }
        let status = if faults.is_empty() {
            format!("ready, {under_way} messages under way")
        } else {
            format!("not ready: {}", faults.join("; "))
        };
        if status != self.status {
            tell(&[NotifyState::Status(&status)]);
            self.status = status;
        }
        if !self.started && (faults.is_empty() || now >= self.began + STARTED) {
            self.started = true;
            tell(&[NotifyState::Ready]);
        }
    }

    /// The observer stops.
    pub fn stopping(&mut self, under_way: usize) {
        self.stopping = true;
        if self.supervised {
            let status = format!("stopping, {under_way} messages under way");
            tell(&[NotifyState::Stopping, NotifyState::Status(&status)]);
        }
    }
}

fn tell(what: &[NotifyState<'_>]) {
    // Nothing depends on it.
    if let Err(error) = sd_notify::notify(what) {
        debug!(%error, "the service manager is not told");
    }
}
