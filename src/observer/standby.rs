//! Two processes on one store: one serves, the others stand by.
//!
//! Owns waiting for one's turn, what is said of oneself meanwhile (in the log, to the service
//! manager, at `/readyz` and in the console), and giving the turn up where another process can
//! reach the broker and this one cannot. Nothing else runs while it waits: no session, no API.
//! Leaves the lease to the store.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::auth::secret::random_id;
use crate::connections::settings::LinkSettings;
use crate::observer::reach::{Reach, patience};
use crate::observer::serving::{Instruments, bind_console, endpoints};
use crate::observer::setup::{ObserverError, Ready, Setup};
use crate::observer::start::run_with;
use crate::store::postgres::{Candidate, Lease, Taken, Target, count_standbys};
use crate::store::{StoreError, StoreLocation, StoreSettings};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;
use crate::telemetry::feed::Feed;
use crate::telemetry::health::Health;
use crate::telemetry::systemd::Service;

/// How often a process that stands by looks whether its turn has come.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// For how long the end of a process waits for the database.
const LEAVE_TIME: Duration = Duration::from_secs(2);

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

/// How it ended that this process served.
#[derive(Debug)]
pub enum Served {
    /// It was stopped, or something failed.
    Stopped(Result<(), ObserverError>),
    /// The lease has ended.
    Lost,
    /// It had no session at the broker for a while, and another process can have one.
    OutOfReach,
}

/// The right to serve, as long as it lasts. It is given back when it is dropped.
#[derive(Clone, Debug)]
pub struct Turn {
    /// `None` where nobody else can have the store.
    held: Option<(Arc<Lease>, String)>,
    /// Whether others have served since this process started, or it has itself: what waits in the
    /// session is not to be discarded.
    is_later: bool,
}

impl Turn {
    /// The right to serve as long as this lease lasts. The processes share the `suffix`.
    pub(super) fn new(lease: Arc<Lease>, suffix: String) -> Self {
        let held = Some((lease, suffix));
        Self {
            held,
            is_later: false,
        }
    }

    /// The random part of the client identifiers, if processes share them.
    pub fn suffix(&self) -> Option<&str> {
        self.held.as_ref().map(|(_, suffix)| &**suffix)
    }

    /// The same observer, with what this turn brings.
    pub fn setup(&self, setup: &Setup, links: LinkSettings) -> Setup {
        let mut setup = Setup {
            links,
            reset_session: setup.reset_session && !self.is_later,
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

    /// Serves until it is stopped, or the turn is over: then all that runs is dropped as it is, as
    /// at a crash. Whatever was received and not stored is still the broker's. `ready` is told
    /// once.
    pub async fn serve(
        &self,
        setup: &Setup,
        links: LinkSettings,
        stop: &CancellationToken,
        ready: oneshot::Sender<Ready>,
    ) -> Served {
        let served = self.setup(setup, links);
        let instruments = Instruments::new(&served);
        let out_of_reach = self.out_of_reach(setup, instruments.health.clone());
        tokio::select! {
            stopped = run_with(served, instruments, stop.clone(), ready) => {
                Served::Stopped(stopped.map(drop))
            }
            () = self.lost() => Served::Lost,
            () = out_of_reach => Served::OutOfReach,
        }
    }

    /// Waits until there has been no session for a while, and another process is there that can
    /// have one. Safe to cancel.
    async fn out_of_reach(&self, setup: &Setup, health: Health) {
        let location = setup.store.as_ref().map(|settings| &settings.location);
        let Some((StoreLocation::Postgres(target), _)) = location.zip(self.held.as_ref()) else {
            return std::future::pending().await;
        };
        // Looks, and not time: opening the store may keep this one from looking.
        let mut looks_in_vain = 0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            looks_in_vain = match health.is_reached() {
                true => 0,
                false => looks_in_vain + 1,
            };
            if LOOK_EVERY * looks_in_vain < patience(&setup.links) {
                continue;
            }
            let target = target.clone();
            let count = move || count_standbys(&target);
            // The database may be away, too.
            if let Ok(Ok(1..)) = tokio::task::spawn_blocking(count).await {
                return;
            }
            looks_in_vain = 0;
        }
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
        return Ok(Some(Turn {
            held: None,
            is_later: false,
        }));
    };
    let mut standby = Standby::new(setup, stop);
    let mut candidate = None;
    let mut place = Place::new(setup);
    loop {
        place.tick();
        let asked = tokio::select! {
            asked = ask(target.clone(), candidate.take(), place.sign.clone()) => asked,
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
                let is_later = attempt == Attempt::Again || standby.has_seen_others;
                if is_later && setup.reset_session {
                    warn!("--reset-session is for the first observer on a store: not done again");
                }
                return Ok(Some(Turn { held, is_later }));
            }
            Ok((same, Asked::Theirs(holder))) => {
                candidate = Some(same);
                standby.say(Reason::OtherServes, format!("stands by: {holder} serves"));
            }
            Ok((same, Asked::OutOfReach)) => {
                candidate = Some(same);
                let why = "stands by: it cannot reach the broker, and another process can";
                standby.say(Reason::Fault, why.to_owned());
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
            () = stop.cancelled() => {
                leave(candidate, place.sign.process).await;
                return Ok(None);
            }
        }
    }
}

/// Says that a process stands by no longer, if the database answers.
async fn leave(candidate: Option<Candidate>, process: String) {
    let leave = move || candidate.map(|candidate| candidate.leave(&process));
    let _ = tokio::time::timeout(LEAVE_TIME, tokio::task::spawn_blocking(leave)).await;
}

enum Asked {
    Ours {
        lease: Arc<Lease>,
        from: String,
        suffix: String,
    },
    Theirs(String),
    /// Another process can reach the broker, and this one is not known to.
    OutOfReach,
}

/// What a process that stands by says of itself in the store.
#[derive(Clone, Debug)]
struct Sign {
    process: String,
    /// Whether it can reach the broker.
    is_in_reach: bool,
}

/// The place of this process among those that stand by.
struct Place {
    reach: Reach,
    sign: Sign,
}

impl Place {
    fn new(setup: &Setup) -> Self {
        let (process, now) = (random_id(), Clock.now().instant);
        Self {
            reach: Reach::new(&setup.links, &process, Metrics::new(&[]), now),
            sign: Sign {
                process,
                is_in_reach: false,
            },
        }
    }

    fn tick(&mut self) {
        // What is said of this process is that it stands by.
        self.reach
            .tick(None, &Health::default(), Clock.now().instant);
        self.sign.is_in_reach = self.reach.is_proved();
    }
}

/// Asks for the lease, where waiting for the database holds nobody up.
async fn ask(
    target: Box<Target>,
    candidate: Option<Candidate>,
    sign: Sign,
) -> Result<Result<(Candidate, Asked), StoreError>, JoinError> {
    let ask = move || {
        let candidate = match candidate {
            Some(candidate) => candidate,
            None => Candidate::open(&target)?,
        };
        let others = candidate.stand_by(&sign.process, sign.is_in_reach)?;
        if !sign.is_in_reach && others > 0 {
            let asked = candidate.holder()?.map_or(Asked::OutOfReach, Asked::Theirs);
            return Ok((candidate, asked));
        }
        let asked = match candidate.try_take()? {
            Taken::Ours { lease, from } => {
                candidate.leave(&sign.process)?;
                Asked::Ours {
                    lease,
                    from,
                    suffix: candidate.secret()?,
                }
            }
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
    /// Whether another process has served meanwhile.
    has_seen_others: bool,
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
            has_seen_others: false,
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
        self.has_seen_others |= matches!(reason, Reason::OtherServes);
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
        let instruments = Instruments {
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            feed: Feed::default(),
        };
        let (began, stop) = (Clock.now(), &self.stop);
        let (_, serving) = bind_console(address, setup, &instruments, began, stop).await?;
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

impl Drop for Standby {
    fn drop(&mut self) {
        if let Some(serving) = &self.serving {
            serving.abort();
        }
    }
}
