//! Two processes on one store: one serves, the others stand by.
//!
//! Owns waiting for one's turn, and what is said of oneself meanwhile: in the log, to the service
//! manager, at `/readyz` and in the console. Nothing else runs then: no connection to the broker,
//! no API. Leaves the lease to the store.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::connections::settings::LinkSettings;
use crate::http::console::{self, Console};
use crate::http::{server, webhook};
use crate::observer::setup::{ObserverError, Setup};
use crate::store::postgres::{Candidate, Lease, Taken, Target};
use crate::store::{StoreError, StoreLocation, StoreSettings};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;
use crate::telemetry::feed::Feed;
use crate::telemetry::health::Health;
use crate::telemetry::systemd::Service;

/// How often a process that stands by looks whether its turn has come.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For how long a process stands by before it says so again. The pauses double.
const SAY_AGAIN: Duration = Duration::from_secs(600);

/// Whether this process may ask again where the database does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It has just started: a mistake in the settings is told at once.
    First,
    /// It has served before: what is wrong passes.
    Again,
}

/// The right to serve, as long as it lasts. It is given back when it is dropped.
#[derive(Clone, Debug)]
pub struct Turn {
    /// `None` where nobody else can have the store.
    held: Option<(Arc<Lease>, String)>,
}

impl Turn {
    /// The right to serve as long as this lease lasts. The processes share the `suffix`.
    pub(super) fn new(lease: Arc<Lease>, suffix: String) -> Self {
        let held = Some((lease, suffix));
        Self { held }
    }

    /// The random part of the client identifiers, if processes share them.
    pub fn suffix(&self) -> Option<&str> {
        self.held.as_ref().map(|(_, suffix)| &**suffix)
    }

    /// The same observer, with what this turn brings.
    pub fn setup(&self, setup: &Setup, links: LinkSettings) -> Setup {
        let mut setup = Setup {
            links,
            ..setup.clone()
        };
        if let (Some((lease, _)), Some(StoreSettings { location, .. })) =
            (&self.held, &mut setup.store)
            && let StoreLocation::Postgres(target) = location
        {
            *location = StoreLocation::Postgres(Box::new(target.clone().holding(lease.clone())));
        }
        setup
    }

    /// Whether a store that fails while it is opened is a reason to stand by again: another process
    /// may serve meanwhile, and what is wrong passes.
    pub fn may_come_again(&self, fault: &StoreError) -> bool {
        let passes = matches!(
            fault,
            StoreError::Connect { .. }
                | StoreError::Transient(_)
                | StoreError::Conflict(_)
                | StoreError::Fenced
        );
        self.held.is_some() && passes
    }

    /// Waits until another process may serve. Safe to cancel.
    pub async fn lost(&self) {
        match &self.held {
            Some((lease, _)) => lease.lost().await,
            None => std::future::pending().await,
        }
    }
}

/// Waits until this process may serve; `None` if it is stopped before.
///
/// # Errors
/// [`ObserverError`]: the address for health is taken, or with [`Attempt::First`] the store cannot
/// be used.
pub async fn wait(
    setup: &Setup,
    attempt: Attempt,
    stop: &CancellationToken,
) -> Result<Option<Turn>, ObserverError> {
    let location = setup.store.as_ref().map(|settings| &settings.location);
    let Some(StoreLocation::Postgres(target)) = location else {
        return Ok(Some(Turn { held: None }));
    };
    let mut standby = Standby::new(setup, stop);
    let mut candidate = None;
    loop {
        let asked = tokio::select! {
            asked = ask(target.clone(), candidate.take()) => asked,
            // The database may hang.
            () = stop.cancelled() => return Ok(None),
        };
        match asked
            .map_err(|error| StoreError::Permanent(error.into()))
            .flatten()
        {
            Ok((
                _,
                Asked::Ours {
                    lease,
                    from,
                    suffix,
                },
            )) => {
                let held = Some((lease, suffix));
                standby.say_taken(&from);
                standby.end().await;
                return Ok(Some(Turn { held }));
            }
            Ok((same, Asked::Theirs(holder))) => {
                candidate = Some(same);
                standby.say(Reason::OtherServes, format!("stands by: {holder} serves"));
            }
            Err(error) if attempt == Attempt::First && !standby.has_spoken() => {
                return Err(ObserverError::Store(error));
            }
            Err(error) => standby.say(Reason::Fault, format!("stands by: {error}")),
        }
        match standby.serve(setup).await {
            // What this process has served there before is about to end.
            Err(ObserverError::Listen { error, .. })
                if attempt == Attempt::Again && error.kind() == ErrorKind::AddrInUse => {}
            served => served?,
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => standby.tick(),
            () = stop.cancelled() => return Ok(None),
        }
    }
}

enum Asked {
    Ours {
        lease: Arc<Lease>,
        from: String,
        suffix: String,
    },
    Theirs(String),
}

/// Asks for the lease, where waiting for the database holds nobody up.
async fn ask(
    target: Box<Target>,
    candidate: Option<Candidate>,
) -> Result<Result<(Candidate, Asked), StoreError>, JoinError> {
    let ask = move || {
        let candidate = match candidate {
            Some(candidate) => candidate,
            None => Candidate::open(&target)?,
        };
        let asked = match candidate.try_take()? {
            Taken::Ours { lease, from } => Asked::Ours {
                lease,
                from,
                suffix: candidate.secret()?,
            },
            Taken::Theirs { holder } => Asked::Theirs(holder),
        };
        Ok((candidate, asked))
    };
    tokio::task::spawn_blocking(ask).await
}

/// Why a process stands by.
#[derive(Clone, Copy)]
enum Reason {
    OtherServes,
    Fault,
}

/// What a process says that stands by.
struct Standby {
    health: Health,
    service: Service,
    said: String,
    /// Since when, and when it is said again.
    since: Instant,
    again_at: Instant,
    metrics: Metrics,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
}

impl Standby {
    fn new(setup: &Setup, stop: &CancellationToken) -> Self {
        let now = Clock.now().instant;
        Self {
            health: Health::new(vec![]),
            service: Service::new(setup.reporting.supervised, now),
            said: String::new(),
            since: now,
            again_at: now + SAY_AGAIN,
            metrics: Metrics::new(&endpoints(setup)),
            stop: stop.clone(),
            serving: None,
        }
    }

    fn has_spoken(&self) -> bool {
        !self.said.is_empty()
    }

    /// Says why this process does not serve, where it has changed.
    fn say(&mut self, reason: Reason, why: String) {
        if why == self.said {
            return;
        }
        match reason {
            Reason::OtherServes => info!("{why}; this process takes over when it ends"),
            Reason::Fault => warn!("{why}"),
        }
        self.metrics.standby(matches!(reason, Reason::OtherServes));
        self.health.set_session(Some(why.clone()));
        self.said = why;
        self.tick();
    }

    fn tick(&mut self) {
        let now = Clock.now().instant;
        self.service.tick(&self.health.faults(), 0, now);
        if now >= self.again_at && self.has_spoken() {
            let standing_by = now.saturating_duration_since(self.since);
            self.again_at = now + standing_by.max(SAY_AGAIN);
            let standing_by = Duration::from_secs(standing_by.as_secs());
            let standing_by = humantime::format_duration(standing_by);
            info!("still {}, for {standing_by} now", self.said);
        }
    }

    /// Says whose place this process takes, if it has waited for it.
    fn say_taken(&self, from: &str) {
        if self.has_spoken() {
            info!("takes over from {from}");
        }
    }

    /// Serves `/readyz` and the console.
    async fn serve(&mut self, setup: &Setup) -> Result<(), ObserverError> {
        let Some(address) = setup.http_listen.filter(|_| self.serving.is_none()) else {
            return Ok(());
        };
        let listen = |error| ObserverError::Listen { address, error };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local = listener.local_addr().map_err(listen)?;
        let console = console::Parts {
            settings: setup.console.clone(),
            name: &setup.name,
            metrics: self.metrics.clone(),
            endpoints: endpoints(setup),
            began: Clock.now(),
            health: self.health.clone(),
            feed: Feed::default(),
            stop: self.stop.clone(),
        };
        let serving = server::serve(listener, Console::new(console, local));
        self.serving = Some(tokio::spawn(serving));
        Ok(())
    }

    /// Ends serving: the address is free for who serves next.
    async fn end(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let _ = serving.await;
        }
    }
}

/// The names of the webhooks' endpoints.
pub(super) fn endpoints(setup: &Setup) -> Vec<String> {
    let webhooks = setup.webhooks.as_ref();
    webhooks.map(webhook::Settings::names).unwrap_or_default()
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}
