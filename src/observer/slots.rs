//! One process that serves some of the slots of a store, as many as are its share.
//!
//! Each slot has an observer of its own, which knows nothing of the others in the process: a
//! session, publishers, a place in the delivery log. Owns taking slots and giving them up, and what
//! the process has once: health, metrics, the console and the HTTP API. Leaves the leases to the
//! store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use crate::auth::secret::random_id;
use crate::connections::settings::LinkSettings;
use crate::http::api::handover::{Handover, Unserved};
use crate::observer::absentees;
use crate::observer::event_loop::EVENTS_AT_A_TIME;
use crate::observer::reach::Reach;
use crate::observer::serving::{Addresses, Instruments, bind_api, bind_console, endpoints};
use crate::observer::setup::{ObserverError, Ready, Setup, Stopped};
use crate::observer::sharing::{Sharing, owner};
use crate::observer::standby::Turn;
use crate::observer::start::run_slot;
use crate::protocol::exchange::share_prefix;
use crate::protocol::topic_map::TopicMap;
use crate::store::postgres::{Candidate, Lease, Shared, Slot, Taken, Target};
use crate::store::{StoreError, StoreLocation};
use crate::telemetry::Metrics;
use crate::telemetry::clock::{Clock, Now};
use crate::telemetry::feed::Feed;
use crate::telemetry::health::Health;
use crate::telemetry::systemd::Service;

/// How often a process looks which slots are to be had.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The pause before slots are taken again after one has failed: others may take its place.
const PAUSE: Duration = Duration::from_millis(500);

/// For how long the end of a process waits for the database.
const LEAVE_TIME: Duration = Duration::from_secs(2);
const NOT_TOLD: &str = "the store was not told that this process is gone";

/// A slot is ready.
#[derive(Clone, Debug)]
pub struct SlotReady {
    /// The slot.
    pub slot: Slot,
    /// What the broker granted to it.
    pub ready: Ready,
}

/// Makes the settings of a slot's links of its number and the secret of the store.
pub type MakeLinks<'a> = &'a (dyn Fn(u16, &str) -> LinkSettings + Sync);

/// Serves this process's share of the slots until `stop` is cancelled.
///
/// # Errors
/// [`ObserverError`]: an address is taken, a slot cannot be served, or the store cannot be used at
/// the start.
pub async fn run(
    setup: Setup,
    links: MakeLinks<'_>,
    stop: CancellationToken,
    ready: mpsc::Sender<SlotReady>,
) -> Result<(), ObserverError> {
    let location = setup.store.as_ref().map(|settings| &settings.location);
    let Some(StoreLocation::Postgres(target)) = location else {
        let told = "only a PostgreSQL database has slots";
        return Err(ObserverError::Store(StoreError::Permanent(told.into())));
    };
    let target = target.clone();
    let mut process = Process::new(setup, target, ready);
    process.serve_http(&stop).await?;
    let served = process.serve(links, &stop).await;
    process.stop_all();
    if process.was_there {
        process.leave().await;
    }
    let ended = process.end().await;
    served.and(ended)
}

/// How the observer of a slot has ended.
enum Ended {
    /// It was told to.
    Stopped(Stopped),
    /// The lease has.
    Lost,
    Failed(ObserverError),
}

/// A slot that this process serves.
struct Held {
    stop: CancellationToken,
    turn: Turn,
    metrics: Metrics,
    health: Health,
}

/// What the observer of a slot is run with.
struct SlotRun {
    slot: Slot,
    setup: Setup,
    instruments: Instruments,
    handovers: (mpsc::Sender<Handover>, mpsc::Receiver<Handover>),
    turn: Turn,
    stop: CancellationToken,
    /// Where the process serves.
    addresses: Addresses,
    ready: mpsc::Sender<SlotReady>,
}

impl SlotRun {
    /// Runs until it is stopped or the lease has ended: then all that runs is dropped as it is, as
    /// at a crash.
    async fn run(self) -> (u16, Ended) {
        let (slot, Addresses { http, api }) = (self.slot, self.addresses);
        let (submissions, submitted) = self.handovers;
        // One slot looks for all.
        let store = self.setup.store.as_ref().filter(|_| slot.number() == 0);
        let layouts = &self.setup.router.layouts;
        let looking = absentees::look_out(store, layouts, submissions);
        let looking = async move {
            match looking {
                Some(looking) => looking.await,
                None => std::future::pending().await,
            }
        };
        let (ready_tx, ready_rx) = oneshot::channel();
        let tell = async {
            if let Ok(ready) = ready_rx.await {
                let ready = Ready { http, api, ..ready };
                let _ = self.ready.send(SlotReady { slot, ready }).await;
            }
            std::future::pending().await
        };
        let ended = tokio::select! {
            ended = run_slot(self.setup, self.instruments, submitted, self.stop, ready_tx) => {
                match ended {
                    Ok(stopped) => Ended::Stopped(stopped),
                    Err(error) => Ended::Failed(error),
                }
            }
            never = tell => never,
            never = looking => match never {},
            () = self.turn.lost() => Ended::Lost,
        };
        (slot.number(), ended)
    }
}

/// Where submissions go, by slot.
type Routes = Arc<Mutex<BTreeMap<u16, mpsc::Sender<Handover>>>>;

/// What the process has once, and its slots.
struct Process {
    id: String,
    setup: Setup,
    target: Box<Target>,
    ready: mpsc::Sender<SlotReady>,
    began: Now,
    instruments: Instruments,
    service: Service,
    slots: BTreeMap<u16, Held>,
    observers: JoinSet<(u16, Ended)>,
    /// The connection to the database, unless somebody looks.
    candidate: Option<Candidate>,
    looking: Option<Looking>,
    routes: Routes,
    reach: Reach,
    /// How many processes share the slots, as far as this one is there.
    processes: Option<u16>,
    servers: JoinSet<()>,
    addresses: Addresses,
    fault: Option<String>,
    /// Whether the store has let this process look: others may know of it.
    was_there: bool,
}

/// A look at the store that is under way.
type Looking = JoinHandle<Result<Looked, StoreError>>;

/// What a look at the store has come to.
struct Looked {
    candidate: Candidate,
    secret: String,
    shared: Shared,
    is_there: bool,
    taken: Vec<(Arc<Lease>, String)>,
}

impl Process {
    fn new(setup: Setup, target: Box<Target>, ready: mpsc::Sender<SlotReady>) -> Self {
        let began = Clock.now();
        let health = Health::default();
        health.set_sharing(Some("some are served by nobody".to_owned()));
        let id = random_id();
        let instruments = Instruments {
            health,
            metrics: Metrics::new(&endpoints(&setup)),
            feed: Feed::default(),
        };
        Self {
            reach: Reach::new(&setup.links, &id, Metrics::new(&[]), began.instant),
            processes: None,
            id,
            instruments,
            service: Service::new(setup.reporting.supervised, began.instant),
            setup,
            target,
            ready,
            began,
            slots: BTreeMap::new(),
            observers: JoinSet::new(),
            candidate: None,
            looking: None,
            routes: Routes::default(),
            servers: JoinSet::new(),
            addresses: Addresses::default(),
            fault: None,
            was_there: false,
        }
    }

    /// Takes slots and gives them up, until the process is to stop.
    async fn serve(
        &mut self,
        links: MakeLinks<'_>,
        stop: &CancellationToken,
    ) -> Result<(), ObserverError> {
        let (mut is_first, mut look_at) = (true, Clock.now().instant);
        let mut ticks = interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let now = Clock.now().instant;
                    self.service.tick(&self.instruments.health.faults(), self.slots.len(), now);
                    self.tick_reach(now);
                    if self.looking.is_none() && now >= look_at {
                        // Others are to see this process before it takes what there is.
                        self.look(self.processes.map(|_| self.slots.len()));
                    }
                }
                // The database may hang: nothing waits for it.
                looked = next_look(&mut self.looking) => {
                    self.looking = None;
                    match looked {
                        Ok(looked) => {
                            if is_first {
                                self.serve_api().await?;
                            }
                            is_first = false;
                            self.was_there = true;
                            self.handle_looked(looked, links);
                        }
                        Err(error) if is_first => return Err(ObserverError::Store(error)),
                        Err(error) => self.say_fault(error.to_string()),
                    }
                }
                Some(ended) = self.observers.join_next() => {
                    self.handle_ended(ended).await?;
                    look_at = Clock.now().instant + PAUSE;
                }
                () = stop.cancelled() => return Ok(()),
            }
        }
    }

    /// Begins to look which slots are to be had. `held`: so many are held; `None`: none is taken.
    fn look(&mut self, held: Option<usize>) {
        let (target, process) = (self.target.clone(), self.id.clone());
        let candidate = self.candidate.take();
        let is_there = self.reach.is_proved();
        let held = held.filter(|_| is_there);
        let look = move || look(&target, candidate, (&process, is_there), held);
        self.looking = Some(tokio::task::spawn_blocking(look));
    }

    /// Tells the others that this process is gone: they take what it gives up.
    async fn leave(&mut self) {
        let mut taken = vec![];
        // Whoever looks says that they are there.
        if let Some(looking) = self.looking.take()
            && let Ok(Ok(Ok(looked))) = timeout(LEAVE_TIME, looking).await
        {
            (self.candidate, taken) = (Some(looked.candidate), looked.taken);
        }
        let (target, id, candidate) = (self.target.clone(), self.id.clone(), self.candidate.take());
        let leave = tokio::task::spawn_blocking(move || {
            // They are given back, which waits for the database.
            drop(taken);
            let candidate = match candidate {
                Some(candidate) => candidate,
                None => Candidate::open(&target)?,
            };
            candidate.leave(&id)
        });
        match timeout(LEAVE_TIME, leave).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => info!(%error, "{NOT_TOLD}"),
            Ok(Err(_)) | Err(_) => info!("{NOT_TOLD}"),
        }
    }

    /// Serves what was taken, and gives up what is more than this process's share.
    fn handle_looked(&mut self, looked: Looked, links: MakeLinks<'_>) {
        let Looked {
            candidate,
            secret,
            shared,
            is_there,
            taken,
        } = looked;
        self.processes = is_there.then_some(shared.processes);
        self.candidate = Some(candidate);
        if self.fault.take().is_some() {
            info!("the store works again");
        }
        self.instruments.health.set_store(None);
        let mut free = shared.free.iter();
        let is_served = free.all(|slot| {
            taken
                .iter()
                .any(|(lease, _)| lease.slot().number() == *slot)
        });
        let share = usize::from(self.target.slots().div_ceil(shared.processes));
        for (lease, from) in taken {
            self.start(lease, &from, &secret, links);
        }
        let going = self.slots.values().filter(|held| held.stop.is_cancelled());
        let staying = self.slots.len() - going.count();
        let held = self.slots.iter().rev();
        let surplus = held.filter(|(_, held)| !held.stop.is_cancelled());
        for (slot, held) in surplus.take(staying.saturating_sub(share)) {
            let processes = shared.processes;
            info!("gives slot {slot} up: {processes} processes share the slots");
            held.stop.cancel();
            remove(&self.routes, *slot);
        }
        self.instruments.metrics.standby(self.slots.is_empty());
        if is_served {
            // From here on a slot that nobody serves is somebody's who has failed.
            self.instruments.health.set_sharing(None);
        }
    }

    /// Starts the observer of a slot.
    fn start(&mut self, lease: Arc<Lease>, from: &str, secret: &str, links: MakeLinks<'_>) {
        let (slot, sharing) = (lease.slot(), self.target.sharing());
        let (number, of) = (slot.number(), slot.of());
        match from {
            "" => info!("serves slot {number} of {of}"),
            from => info!("serves slot {number} of {of}, which {from} has had"),
        }
        let turn = Turn::new(lease.clone(), secret.to_owned());
        let read = self.setup.router.layouts.topics_read();
        let share = share_prefix(&self.setup.name, &read, of);
        let setup = Setup {
            name: format!("{}-{number}", self.setup.name),
            http_listen: None,
            api: None,
            sharing: Some(Sharing::new(lease, secret, (sharing, share))),
            ..turn.setup(&self.setup, links(number, secret))
        };
        let mut setup = setup;
        setup.reporting.supervised = false;
        let instruments = Instruments {
            metrics: self.instruments.metrics.of_slot(),
            feed: self.instruments.feed.clone(),
            ..Instruments::new(&setup)
        };
        instruments
            .health
            .set_sharing(Some("not looked at yet".to_owned()));
        self.instruments
            .health
            .set_slot(number, Some(instruments.health.clone()));
        let (submissions, submitted) = mpsc::channel(EVENTS_AT_A_TIME);
        let routes = self.routes.lock();
        routes
            .expect("nobody panics holding it")
            .insert(number, submissions.clone());
        let run = SlotRun {
            slot,
            setup,
            instruments,
            handovers: (submissions, submitted),
            turn: turn.clone(),
            stop: CancellationToken::new(),
            addresses: self.addresses,
            ready: self.ready.clone(),
        };
        let held = Held {
            stop: run.stop.clone(),
            turn,
            metrics: run.instruments.metrics.clone(),
            health: run.instruments.health.clone(),
        };
        self.slots.insert(number, held);
        let span = info_span!("slot", number);
        self.observers.spawn(run.run().instrument(span));
    }

    /// The observer of a slot has ended.
    async fn handle_ended(
        &mut self,
        ended: Result<(u16, Ended), JoinError>,
    ) -> Result<(), ObserverError> {
        let (slot, ended) = ended.map_err(|error| ObserverError::TaskEnded(error.to_string()))?;
        self.instruments.health.set_slot(slot, None);
        remove(&self.routes, slot);
        let Some(held) = self.slots.remove(&slot) else {
            return Ok(());
        };
        held.metrics.slot_ended();
        let failed = match ended {
            Ended::Stopped(stopped) => {
                let left = stopped.left_unacknowledged;
                info!(left, "slot {slot} is given up");
                Ok(())
            }
            Ended::Lost | Ended::Failed(ObserverError::Store(StoreError::Fenced)) => {
                warn!("the lease on slot {slot} has ended: this process serves it no longer");
                Ok(())
            }
            Ended::Failed(ObserverError::Store(fault)) if held.turn.may_come_again(&fault) => {
                warn!(error = %fault, "the store fails: this process does not serve slot {slot}");
                Ok(())
            }
            Ended::Failed(error) => Err(error),
        };
        // It is given back, which waits for the database.
        let _ = tokio::task::spawn_blocking(move || drop(held)).await;
        failed
    }

    fn say_fault(&mut self, fault: String) {
        self.instruments.health.set_store(Some(fault.clone()));
        if self.fault.as_ref() != Some(&fault) {
            warn!("cannot look which slots are to be had: {fault}");
            self.fault = Some(fault);
        }
    }

    /// Gives all slots up that others can serve if this process cannot reach the broker.
    fn tick_reach(&mut self, now: Instant) {
        let mut slots = self.slots.values();
        let is_up = (slots.len() > 0).then(|| slots.any(|held| held.health.is_reached()));
        let is_out_of_reach = self.reach.tick(is_up, &self.instruments.health, now);
        if is_out_of_reach && self.processes > Some(1) {
            info!("gives its slots up: it cannot reach the broker");
            self.processes = None;
            self.reach.give_up(now);
            self.stop_all();
        }
    }

    fn stop_all(&self) {
        for (slot, held) in &self.slots {
            held.stop.cancel();
            remove(&self.routes, *slot);
        }
    }

    /// Waits until all slots have stopped in order.
    async fn end(mut self) -> Result<(), ObserverError> {
        let mut result = Ok(());
        while let Some(ended) = self.observers.join_next().await {
            let ended = self.handle_ended(ended).await;
            result = result.and(ended);
        }
        self.servers.abort_all();
        while self.servers.join_next().await.is_some() {}
        result
    }

    /// Serves health, metrics and the console.
    async fn serve_http(&mut self, stop: &CancellationToken) -> Result<(), ObserverError> {
        let Some(address) = self.setup.http_listen else {
            return Ok(());
        };
        let (setup, instruments) = (&self.setup, &self.instruments);
        let bound = bind_console(address, setup, instruments, self.began, stop).await;
        let (local, serving) = bound?;
        self.addresses.http = Some(local);
        self.servers.spawn(serving);
        Ok(())
    }

    /// Serves the HTTP API. What clients write, any slot of the process takes.
    async fn serve_api(&mut self) -> Result<(), ObserverError> {
        let Some(settings) = self.setup.api.clone() else {
            return Ok(());
        };
        let (handovers, handed_in) = mpsc::channel(EVENTS_AT_A_TIME);
        let bound = bind_api(settings, handovers, &self.instruments.metrics).await;
        let (local, serving) = bound?;
        self.addresses.api = Some(local);
        self.servers.spawn(serving);
        let (routes, slots) = (self.routes.clone(), self.target.slots());
        let layouts = self.setup.router.layouts.clone();
        self.servers.spawn(route(handed_in, routes, layouts, slots));
        Ok(())
    }
}

/// Nothing more is handed to a slot.
fn remove(routes: &Routes, slot: u16) {
    let mut routes = routes.lock().expect("nobody panics holding it");
    routes.remove(&slot);
}

/// Hands each submission to a slot of this process: the one that has what its sender writes over
/// MQTT, or else any that takes it now. What is to be stored, every slot can store; one that is
/// slow delays no other.
async fn route(
    mut handed_in: mpsc::Receiver<Handover>,
    routes: Routes,
    layouts: TopicMap,
    slots: u16,
) {
    while let Some(handover) = handed_in.recv().await {
        let routes = routes.lock().expect("nobody panics holding it").clone();
        let topic = str::from_utf8(handover.topic()).unwrap_or_default();
        let address = layouts.parse(topic).ok();
        let wanted = owner(address.as_ref(), topic.as_bytes(), slots);
        let others = routes.iter().filter(|(slot, _)| **slot != wanted);
        let chosen = routes.get(&wanted).into_iter();
        let mut chosen = chosen.chain(others.map(|(_, route)| route));
        let refused = chosen.try_fold(handover, |handover, route| match route.try_send(handover) {
            Ok(()) => None,
            Err(refused) => Some(refused.into_inner()),
        });
        if let Some(refused) = refused {
            refused.turn_away(Unserved::Unavailable);
        }
    }
}

/// The end of a look; never, if there is none. Safe to cancel.
async fn next_look(looking: &mut Option<Looking>) -> Result<Looked, StoreError> {
    match looking {
        Some(looking) => match looking.await {
            Ok(looked) => looked,
            Err(error) => Err(StoreError::Permanent(error.into())),
        },
        None => std::future::pending().await,
    }
}

/// Looks at the store, and takes what is free until this process has its share. `held`: so many
/// slots it has; `None`: it takes nothing yet. Waits for the database.
fn look(
    target: &Target,
    candidate: Option<Candidate>,
    (process, is_there): (&str, bool),
    held: Option<usize>,
) -> Result<Looked, StoreError> {
    let candidate = match candidate {
        Some(candidate) => candidate,
        None => Candidate::open(target)?,
    };
    let shared = candidate.share(process, is_there)?;
    let share = usize::from(target.slots().div_ceil(shared.processes));
    let room = held.map_or(0, |held| share.saturating_sub(held));
    let mut taken = vec![];
    for slot in &shared.free {
        if taken.len() < room
            && let Taken::Ours { lease, from } = candidate.try_take_slot(*slot)?
        {
            taken.push((lease, from));
        }
    }
    Ok(Looked {
        secret: candidate.secret()?,
        candidate,
        shared,
        is_there,
        taken,
    })
}
