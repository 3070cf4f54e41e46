//! The observer at work: takes messages from the session's link, keeps the ledger, hands publishes to the publishing links and
//! acknowledgements back. One task owns all of that state; it never waits for a link.

mod announce;
pub mod processor;

use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::announce::StatusReporter;
use crate::connections::link::{LinkSettings, Links};
use crate::connections::publisher::PublisherEvent;
use crate::connections::session::{SESSION_EVENTS, SessionEvent, log_connected};
use crate::delivery::ledger::{Ack, Admission, EntryId, Failed, Ledger, Message};
use crate::delivery::pending::PendingMessage;
use crate::delivery::publish_queue::{PublishId, PublisherEnd, Purpose};
use crate::delivery::watermark::AcknowledgedWatermark;
use crate::http::decision_service::{self, DecisionService, Verdict};
use crate::http::server;
use crate::http::webhook::{self, Answered, WebhookDispatcher};
use crate::mqtt::{Cause, Client, Connected, Delivery, LinkError, SubmitError};
use crate::observer::processor::{Batch, Decided, Processed, Processor};
use crate::protocol::address::{Address, Kind};
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageIds;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::request::Request;
use crate::protocol::time::UnixMillis;
use crate::rules::fan_out::STEP;
use crate::rules::policy::Policy;
use crate::rules::rate_limit::SenderLimits;
use crate::rules::router::Router;
use crate::store::{self, Access, Endpoints, OutboxRequest, StoreError, StoreSettings};
use crate::telemetry::health::Health;
use crate::telemetry::service_topics::{ServiceTopic, ServiceTopics};
use crate::telemetry::status::Status;
use crate::telemetry::systemd::Service;
use crate::telemetry::trace::Tracer;
use crate::telemetry::{LinkRole, LogLevel, Metrics, Stats};

/// Events handled before the ledger is asked what to do: enough to share the cost of a wake-up, few enough to stay prompt.
const BATCH: usize = 64;
/// Messages decided on together: they share a commit, and the first waits for the last.
const BATCH_JOBS: usize = 256;
/// How often overdue confirmations are looked for.
const TICK: Duration = Duration::from_millis(500);
/// Limit for getting the DISCONNECTs out.
const GOODBYE: Duration = Duration::from_secs(3);
/// How long after a connection was replaced its will may still be published.
const LATE_WILL: Duration = Duration::from_secs(5);
/// How long the session may be silent before the observer sends itself a message, to hear whether it still delivers.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How long that message may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Publishes under way for each message under way: a direct message has two copies.
const PUBLISHES_PER_MESSAGE: usize = 2;

/// What an observer is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The public name: the observer sends messages to itself on `observer/{name}/probe/…`.
    pub name: String,
    /// How its connections are made.
    pub links: LinkSettings,
    /// What it does with messages.
    pub router: Router,
    /// The checks, when they change.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// The service that is asked about each message, if there is one.
    pub consult: Option<decision_service::Settings>,
    /// Where it keeps them; `None`: a pure forwarder.
    pub store: Option<StoreSettings>,
    /// Connections to publish over; what goes to many has one more.
    pub publishers: usize,
    /// Limit for the confirmation of a publish.
    pub ack_timeout: Duration,
    /// Limit for finishing what is under way on a stop.
    pub drain_timeout: Duration,
    /// Whether to discard what the broker holds for us.
    pub reset_session: bool,
    /// Where health and metrics are served.
    pub http_listen: Option<SocketAddr>,
    /// Who is told of what happens, if anybody.
    pub webhooks: Option<webhook::Settings>,
    /// What it says of itself.
    pub reporting: Reporting,
}

/// What an observer says of itself over MQTT.
#[derive(Clone, Debug, Default)]
pub struct Reporting {
    /// Whether the broker keeps its status: not that of one which is only tried.
    pub status: bool,
    /// Whether there may be a service manager that wants to know.
    pub supervised: bool,
    /// Whether each message leaves a line of trace.
    pub trace: bool,
    /// How often stats are published; `None`: not at all.
    pub stats_interval: Option<Duration>,
    /// What is logged, and what changes it; nothing, where the log is somebody else's.
    pub log_level: Option<(String, LogLevel)>,
}

/// The observer has connected and subscribed for the first time.
#[derive(Clone, Debug)]
pub struct Ready {
    /// What the broker said to the session's connection.
    pub connected: Connected,
    /// Filters subscribed to.
    pub filters: usize,
    /// Where health is served.
    pub http: Option<SocketAddr>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// What it did.
    pub stats: Stats,
    /// Messages it had received and not acknowledged: the broker keeps them.
    pub left_unacknowledged: usize,
}

/// Why an observer cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The health endpoint's address.
    #[error("cannot serve health on {address} (--http-listen)")]
    Listen {
        /// As configured.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// `--reset-session` did not succeed.
    #[error("cannot reset the session")]
    Reset(#[source] LinkError),
    /// The store cannot be opened.
    #[error("cannot use the store (--store; none runs without)")]
    Store(#[source] StoreError),
    /// The client of the webhooks cannot be set up.
    #[error("cannot tell webhooks (--webhook-endpoints)")]
    Webhook(#[source] reqwest::Error),
    /// The decision service's client cannot be set up.
    #[error("cannot ask the decision service (--policy-url)")]
    Consult(#[source] reqwest::Error),
    /// The system gives no thread.
    #[error("cannot start the store's thread")]
    Thread(#[source] processor::SpawnError),
    /// A task that should run as long as the observer has ended: a bug.
    #[error("the {0} task has ended unexpectedly")]
    TaskEnded(String),
}

/// The task's own state.
struct Observer {
    router: Router,
    meter: SenderLimits,
    consultant: Option<DecisionService>,
    ledger: Ledger,
    processor: ProcessorHandle,
    /// Messages that no batch has taken yet.
    waiting: Vec<PendingMessage>,
    /// Messages of which only a part of what they lead to has been made: fan-outs.
    unfinished: usize,
    /// Whether the batch the store has may take a step of them.
    stepped: bool,
    acknowledged: AcknowledgedWatermark,
    ids: MessageIds,
    session: Option<Session>,
    lanes: Vec<Option<Lane>>,
    publish_window: usize,
    asked: crate::mqtt::Session,
    health: Health,
    metrics: Metrics,
    dispatcher: Option<WebhookDispatcher>,
    /// Whether what webhooks wait for is gone with the process.
    forgets_events: bool,
    topics: ServiceTopics,
    tracer: Tracer,
    log_level: Option<(String, LogLevel)>,
    status_reporter: StatusReporter,
    service: Service,
}

/// Where messages are decided on.
enum ProcessorHandle {
    /// Here: there is nothing to wait for.
    Inline(Box<Processor>),
    /// In the store's thread.
    Threaded {
        handle: processor::Handle,
        /// It has a batch.
        busy: bool,
    },
}

impl ProcessorHandle {
    /// What the store's thread says; never, if there is none. Safe to cancel: a channel keeps what was not received.
    async fn event(&mut self) -> Option<processor::Event> {
        match self {
            Self::Inline(_) => std::future::pending().await,
            Self::Threaded { handle, .. } => handle.events.recv().await,
        }
    }
}

struct Session {
    connection: u64,
    client: Client,
    connected: Connected,
    subscribed: bool,
    loopback: Loopback,
}

/// Whether the session delivers. A granted SUBACK does not prove it: Mosquitto grants what a user may not read, and on RabbitMQ 3.10
/// topics that are not UTF-8 take up the session's window for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loopback {
    /// Nothing has come on this connection yet.
    Untested,
    /// A message to ourselves is on its way, since then.
    Probing(Instant),
    /// A message came then.
    Ok(Instant),
    /// A message to ourselves has not come back; the last try was then.
    Failed(Instant),
}

struct Lane {
    client: Client,
    recycle: CancellationToken,
    renewal: Renewal,
}

/// How far a publishing connection is from being replaced, because there is a new token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Renewal {
    /// It is not to be.
    Staying,
    /// It gets nothing more to publish, and is disconnected when all it has is confirmed.
    Leaving,
    /// Our DISCONNECT is on its way.
    Left,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one clock: the core is handed the time"
)]
fn clock() -> (Instant, UnixMillis) {
    (Instant::now(), UnixMillis::from(SystemTime::now()))
}

/// Runs an observer until `stop` is cancelled, then lets what is under way finish, and disconnects. `ready` is told once.
///
/// # Errors
/// [`DaemonError`]. A broker that cannot be reached is none: the observer tries on.
pub async fn run(
    setup: Setup,
    stop: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<Stopped, DaemonError> {
    let mut tasks: JoinSet<&'static str> = JoinSet::new();
    let lanes = setup.publishers + 1;
    let health = Health::new(lanes);
    let (webhooks, reporting) = (setup.webhooks, setup.reporting);
    let endpoints = webhooks.as_ref().map(webhook::Settings::names);
    let endpoints = endpoints.unwrap_or_default();
    let max_bytes = webhooks.as_ref().map_or(0, |settings| settings.max_bytes);
    let metrics = Metrics::new(&endpoints);
    let endpoints = Endpoints {
        names: endpoints,
        max_bytes,
    };
    let began = clock();
    // Before anything is read: what cannot be stored must not be taken.
    let store = match &setup.store {
        Some(settings) => {
            let store = store::open(&settings.location, Access::Exclusive, settings.offline);
            let mut store = store.map_err(DaemonError::Store)?;
            store.set_endpoints(endpoints.clone());
            let left_over = store.orphaned().map_err(DaemonError::Store)?;
            if left_over > 0 {
                warn!(
                    left_over,
                    "events wait for webhook endpoints that are not configured any more (webhook list, webhook drop)"
                );
            }
            Some((store, settings.retention))
        }
        None => None,
    };
    let outbox = match (&store, &webhooks) {
        (None, Some(_)) => {
            let mut outbox = store::outbox_in_memory().map_err(DaemonError::Store)?;
            outbox.set_endpoints(endpoints);
            Some(outbox)
        }
        (Some(_), _) | (None, None) => None,
    };
    let dispatcher =
        webhooks.map(|settings| WebhookDispatcher::new(settings, metrics.clone(), began.0));
    let dispatcher = dispatcher.transpose().map_err(DaemonError::Webhook)?;
    let window = usize::from(setup.links.window);
    let consultant = setup
        .consult
        .map(|settings| DecisionService::new(settings, window))
        .transpose();
    let consultant = consultant.map_err(DaemonError::Consult)?;
    let http = match setup.http_listen {
        Some(address) => {
            let listener = TcpListener::bind(address)
                .await
                .map_err(|error| DaemonError::Listen { address, error })?;
            let local = listener
                .local_addr()
                .map_err(|error| DaemonError::Listen { address, error })?;
            let serving = server::serve(listener, health.clone(), metrics.clone());
            tasks.spawn(async move {
                serving.await;
                "health"
            });
            Some(local)
        }
        None => None,
    };
    let publish_window = window * PUBLISHES_PER_MESSAGE;
    let topics = ServiceTopics::new(&setup.name, setup.links.client_id.expose_secret());
    let mut filters = setup.router.layouts.filters();
    filters.extend(topics.subscriptions());
    let asked = setup.links.session;
    let links_stop = CancellationToken::new();
    let links = LinkSettings {
        will: Some(Status::offline().publish(&topics.status)).filter(|_| reporting.status),
        ..setup.links
    };
    let links = Links::new(links, health.clone(), metrics.clone(), links_stop.clone());
    if setup.reset_session {
        tokio::select! {
            reset = links.reset_session() => reset.map_err(DaemonError::Reset)?,
            () = stop.cancelled() => return Ok(Stopped { stats: Stats::default(), left_unacknowledged: 0 }),
        }
        info!("the session is empty now, as asked (--reset-session)");
    }
    let (session_tx, session_rx) = mpsc::channel(SESSION_EVENTS);
    // A lane has as many confirmations as publishes under way.
    let (lane_tx, lane_rx) = mpsc::channel(publish_window.max(BATCH));
    let retired = setup.router.layouts.retired_filters();
    let session = links.session(filters.clone(), retired, session_tx);
    tasks.spawn(async move {
        session.await;
        "session"
    });
    for lane in 0..lanes {
        let name = if lane == setup.publishers {
            "many".to_owned()
        } else {
            lane.to_string()
        };
        let link = links.publisher(lane, &name, publish_window, lane_tx.clone());
        tasks.spawn(async move {
            link.await;
            "publisher"
        });
    }
    let mut ledger = Ledger::new(setup.publishers, window, setup.ack_timeout);
    let mut ids = MessageIds::new(RandomState::new());
    let store_stop = CancellationToken::new();
    let processor = match store {
        None => {
            let processor = Processor::new(setup.router.clone(), None)
                .with_outbox(outbox)
                .measured_by(metrics.clone());
            ProcessorHandle::Inline(Box::new(processor))
        }
        Some((store, retention)) => {
            ledger.expect(&store.unacknowledged().map_err(DaemonError::Store)?);
            if let Some(last) = store.last_id().map_err(DaemonError::Store)? {
                ids.resume_after(last);
            }
            let processor =
                Processor::new(setup.router.clone(), Some(store)).measured_by(metrics.clone());
            let handle = processor::spawn(processor, retention, store_stop.clone());
            ProcessorHandle::Threaded {
                handle: handle.map_err(DaemonError::Thread)?,
                busy: false,
            }
        }
    };
    let observer = Observer {
        router: setup.router,
        meter: SenderLimits::default(),
        consultant,
        ledger,
        processor,
        waiting: vec![],
        unfinished: 0,
        stepped: false,
        acknowledged: AcknowledgedWatermark::default(),
        ids,
        session: None,
        lanes: (0..lanes).map(|_| None).collect(),
        publish_window,
        asked,
        health,
        metrics,
        forgets_events: dispatcher.is_some() && setup.store.is_none(),
        dispatcher,
        topics,
        tracer: Tracer::new(reporting.trace),
        log_level: reporting.log_level,
        status_reporter: StatusReporter {
            since: began,
            status: reporting.status.then_some(None),
            again_at: None,
            stats_interval: reporting.stats_interval,
            stats_due: began.0 + reporting.stats_interval.unwrap_or_default(),
        },
        service: Service::new(reporting.supervised, began.0),
    };
    let ready = Some((
        ready,
        Ready {
            connected: NOT_YET,
            filters: filters.len(),
            http,
        },
    ));
    observer
        .run(
            Inputs {
                session_rx,
                lane_rx,
                tasks,
                links_stop,
                store_stop,
                stop,
                policy: setup.policy,
            },
            ready,
            setup.drain_timeout,
        )
        .await
}

/// Stands in [`Ready`] until the broker has said something.
const NOT_YET: Connected = Connected {
    protocol: crate::mqtt::Protocol::V5,
    session_present: false,
    receive_maximum: 0,
    max_packet_bytes: None,
    session_expiry: None,
    server_keep_alive: None,
};

struct Inputs {
    session_rx: mpsc::Receiver<SessionEvent>,
    lane_rx: mpsc::Receiver<PublisherEvent>,
    tasks: JoinSet<&'static str>,
    links_stop: CancellationToken,
    store_stop: CancellationToken,
    stop: CancellationToken,
    policy: watch::Receiver<Arc<Policy>>,
}

impl Observer {
    async fn run(
        mut self,
        mut inputs: Inputs,
        mut ready: Option<(oneshot::Sender<Ready>, Ready)>,
        drain: Duration,
    ) -> Result<Stopped, DaemonError> {
        let mut tick = interval(TICK);
        // After a pause of the process two at once would be none.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Every branch is safe to cancel: a channel keeps what was not received, the rest has no state.
        loop {
            tokio::select! {
                biased;
                // First, for the rest may never come to an end.
                _ = tick.tick() => {
                    self.recycle_overdue();
                    self.tick_acknowledged();
                    self.probe_session();
                    self.report(inputs.session_rx.len());
                }
                Some(event) = inputs.lane_rx.recv() => self.handle_lane(event),
                event = self.processor.event() => self.handle_processor(event)?,
                (job, verdict) = next_verdict(&mut self.consultant) => self.handle_verdict(job, verdict),
                answered = next_answer(&mut self.dispatcher) => self.handle_answer(answered),
                Some(event) = inputs.session_rx.recv(), if self.ledger.has_room() => self.handle_session(event),
                Ok(()) = inputs.policy.changed() => {
                    self.router.policy = inputs.policy.borrow_and_update().clone();
                }
                ended = inputs.tasks.join_next() => return Err(task_ended(ended)),
                () = inputs.stop.cancelled() => break,
            }
            for _ in 0..BATCH {
                let Ok(event) = inputs.lane_rx.try_recv() else {
                    break;
                };
                self.handle_lane(event);
            }
            for _ in 0..BATCH {
                if !self.ledger.has_room() {
                    break;
                }
                let Ok(event) = inputs.session_rx.try_recv() else {
                    break;
                };
                self.handle_session(event);
            }
            self.act();
            if let Some(session) = &self.session
                && matches!(session.loopback, Loopback::Ok(_))
                && self.lanes.iter().all(Option::is_some)
                && let Some((ready, said)) = ready.take()
            {
                // Nobody may be listening; that is all right.
                let _ = ready.send(Ready {
                    connected: session.connected,
                    ..said
                });
            }
        }
        Ok(self.stop(inputs, drain).await)
    }

    /// Finishes what is under way, as far as there is time, and disconnects. Messages that come meanwhile stay unacknowledged.
    async fn stop(mut self, mut inputs: Inputs, drain: Duration) -> Stopped {
        info!(
            under_way = self.ledger.unacknowledged(),
            "stopping: no new messages, waiting for those under way"
        );
        self.service.stopping(self.ledger.unacknowledged());
        if let Some(dispatcher) = self.dispatcher.as_mut().filter(|_| !self.forgets_events) {
            dispatcher.stop();
        }
        let mut discarded = 0;
        let deadline = tokio::time::Instant::now() + drain;
        let mut tick = interval(TICK);
        // After a pause of the process two at once would be none.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.act();
        while !self.ledger.is_empty() || self.has_webhooks_to_finish() {
            tokio::select! {
                biased;
                Some(event) = inputs.lane_rx.recv() => self.handle_lane(event),
                event = self.processor.event() => if self.handle_processor(event).is_err() { break },
                (job, verdict) = next_verdict(&mut self.consultant) => self.handle_verdict(job, verdict),
                answered = next_answer(&mut self.dispatcher) => self.handle_answer(answered),
                Some(event) = inputs.session_rx.recv() => discarded += self.discard(event),
                _ = tick.tick() => {
                    self.recycle_overdue();
                    self.tick_acknowledged();
                    self.report(0);
                }
                () = sleep_until(deadline) => break,
            }
            self.act();
        }
        discarded += self.say_goodbye(&mut inputs, deadline).await;
        for client in self
            .session
            .iter()
            .map(|session| &session.client)
            .chain(self.lanes.iter().flatten().map(|lane| &lane.client))
        {
            // One that is gone needs no goodbye.
            let _ = client.disconnect();
        }
        inputs.links_stop.cancel();
        let deadline = tokio::time::Instant::now() + GOODBYE;
        // The health endpoint answers to the last, and is dropped with the rest.
        let health = usize::from(inputs.tasks.len() > 1 + self.lanes.len());
        let mut heard = self.session.is_some();
        while inputs.tasks.len() > health {
            tokio::select! {
                _ = inputs.tasks.join_next() => {}
                Some(event) = inputs.lane_rx.recv() => {
                    // One that has just come up must go again.
                    if let PublisherEvent::Up { client, .. } = &event {
                        let _ = client.disconnect();
                    }
                    self.handle_lane(event);
                }
                Some(event) = inputs.session_rx.recv() => {
                    if let SessionEvent::Up { client, .. } = &event {
                        let _ = client.disconnect();
                    }
                    discarded += self.discard(event);
                }
                event = self.processor.event() => if self.handle_processor(event).is_err() { break },
                () = sleep_until(deadline) => {
                    warn!("the broker does not take our goodbye");
                    heard = false;
                    break;
                }
            }
        }
        inputs.store_stop.cancel();
        let (now, wall) = clock();
        let outbox_request = self
            .dispatcher
            .as_mut()
            .map_or_else(OutboxRequest::default, |c| c.take_outbox_request(now, wall));
        let lost = match &self.dispatcher {
            Some(dispatcher) if self.forgets_events => dispatcher.waiting(),
            Some(_) | None => 0,
        };
        if lost > 0 {
            warn!(
                lost,
                "events that webhooks have not been told of are gone: without a store they are kept in memory"
            );
        }
        if let ProcessorHandle::Threaded { handle, busy } = self.processor {
            // The broker has taken the DISCONNECT, so it has the acks before it.
            let last = self.ledger.settled_up_to().filter(|_| heard);
            if !busy {
                handle.process(Batch {
                    acknowledged: last,
                    outbox_request: OutboxRequest {
                        demands: vec![],
                        ..outbox_request
                    },
                    ..next_batch(&mut vec![], 0, &self.router.policy, wall)
                });
            }
            // It finishes the batch it has, in milliseconds, or gives it up.
            let _ = tokio::task::spawn_blocking(|| handle.join()).await;
        }
        let left_unacknowledged = self.ledger.unacknowledged() + discarded;
        let stats = self.metrics.stats();
        stats.log(left_unacknowledged, self.ledger.unconfirmed());
        Stopped {
            stats,
            left_unacknowledged,
        }
    }

    /// What comes while stopping. Returns how many messages were left to the broker.
    fn discard(&mut self, event: SessionEvent) -> usize {
        match event {
            SessionEvent::Message(delivery, _) => {
                let is_ours = self.topics.own(&delivery.received.topic).is_some();
                usize::from(delivery.packet_id.is_some() && !is_ours)
            }
            SessionEvent::Up { .. }
            | SessionEvent::Subscribed { .. }
            | SessionEvent::Renewing { .. }
            | SessionEvent::Down(_) => {
                self.handle_session(event);
                0
            }
        }
    }

    fn handle_session(&mut self, event: SessionEvent) {
        match event {
            // From here on the ledger counts its bytes.
            SessionEvent::Message(delivery, _) => self.handle_message(delivery),
            SessionEvent::Up {
                connection,
                client,
                connected,
            } => {
                log_connected(&connected, self.asked, connection);
                if !connected.session_present && connection > 1 {
                    warn!(
                        "the broker has not kept the session: what arrived while it was away, or was not acknowledged, may be lost"
                    );
                }
                self.ledger.handle_session_up(connected.session_present);
                self.metrics.connected(LinkRole::Session);
                self.metrics.session_present(connected.session_present);
                // The broker may have published the will.
                self.status_reporter.status = self.status_reporter.status.as_ref().map(|_| None);
                self.status_reporter.again_at = Some(clock().0 + LATE_WILL);
                self.session = Some(Session {
                    connection,
                    client,
                    connected,
                    subscribed: false,
                    loopback: Loopback::Untested,
                });
                self.health
                    .set_session(Some("waiting for SUBACK".to_owned()));
            }
            SessionEvent::Subscribed { connection } => {
                if let Some(session) = self
                    .session
                    .as_mut()
                    .filter(|session| session.connection == connection)
                {
                    session.subscribed = true;
                    self.health
                        .set_session(Some("waiting for a message to ourselves".to_owned()));
                    info!("subscribed");
                    self.probe_session();
                }
            }
            SessionEvent::Renewing { connection } => {
                self.acknowledge();
                let session = self.session.as_ref();
                if let Some(session) = session.filter(|session| session.connection == connection) {
                    // The acks before it arrive. What is not acknowledged by now comes again, and is known.
                    let _ = session.client.disconnect();
                    self.session_lost();
                }
            }
            SessionEvent::Down(error) => {
                self.session_lost();
                self.health.set_session(Some(error.to_string()));
            }
        }
    }

    fn session_lost(&mut self) {
        if self.session.take().is_some() {
            self.metrics.disconnected(LinkRole::Session);
        }
        self.ledger.handle_session_lost();
        self.acknowledged.handle_session_lost();
    }

    /// Sends a message to ourselves when nothing has come for a while, and judges whether it came back. Only while nothing else is
    /// under way: then it is the session that is silent, and not a publishing connection that is slow.
    fn probe_session(&mut self) {
        let (now, wall) = clock();
        let Some(session) = self.session.as_mut().filter(|session| session.subscribed) else {
            return;
        };
        if !self.lanes.iter().all(Option::is_some) || !self.ledger.is_empty() {
            if matches!(session.loopback, Loopback::Probing(_)) {
                // It counts from when the broker has it.
                session.loopback = Loopback::Probing(now);
            }
            return;
        }
        session.loopback = match session.loopback {
            Loopback::Untested => Loopback::Probing(now),
            Loopback::Ok(at) if now >= at + PROBE_EVERY => Loopback::Probing(now),
            Loopback::Failed(at) if now >= at + PROBE_EVERY => Loopback::Failed(now),
            Loopback::Probing(since) if now >= since + PROBE_TIMEOUT => {
                const DEAF: &str = "the session is subscribed, but what the observer sends to itself does not come back";
                error!(
                    "{DEAF}: may this user read and write everything, observer/# too? On RabbitMQ 3.10 topics that are not UTF-8 fill the session's window: delete its queue, or start once with --reset-session"
                );
                self.health.set_session(Some(DEAF.to_owned()));
                session.loopback = Loopback::Failed(now);
                return;
            }
            Loopback::Probing(_) | Loopback::Ok(_) | Loopback::Failed(_) => return,
        };
        let payload = Bytes::from(wall.as_millis().to_string());
        self.publish_own(Publish::new(self.topics.probe.clone(), payload), now, wall);
    }

    fn handle_answer(&mut self, answered: Answered) {
        let (now, wall) = clock();
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.handle_answer(answered, now, wall, fastrand::u64(..));
        }
    }

    /// On a stop: what is under way, and what would be gone with the process.
    fn has_webhooks_to_finish(&self) -> bool {
        let busy = matches!(self.processor, ProcessorHandle::Threaded { busy: true, .. });
        self.dispatcher.as_ref().is_some_and(|dispatcher| {
            let waits = self.forgets_events && dispatcher.waiting() > 0;
            dispatcher.under_way() > 0 || dispatcher.has_settled() || busy || waits
        })
    }

    fn handle_message(&mut self, delivery: Delivery) {
        let (now, wall) = clock();
        let connection = match self.session.as_mut() {
            Some(session) => {
                if !matches!(session.loopback, Loopback::Ok(_)) && session.subscribed {
                    self.health.set_session(None);
                }
                if session.subscribed {
                    session.loopback = Loopback::Ok(now);
                }
                session.connection
            }
            // A connection we have left, for one with a new token: what comes again will, what does not is taken now.
            None if delivery.packet_id.is_some() => return,
            None => 0,
        };
        let Delivery {
            received,
            packet_id,
            dup,
        } = delivery;
        let ack = packet_id.map(|packet_id| Ack {
            connection,
            packet_id,
        });
        // At QoS 0 nothing comes again.
        let fingerprint = ack.map_or(0, |_| fingerprint(&received));
        // What the broker has kept comes in answer to the subscription, in the midst of what it delivers again.
        let again = dup || received.retain;
        let admission = ack.map(|ack| self.ledger.admit(ack, fingerprint, again));
        if let Some(own) = self.topics.own(&received.topic) {
            if admission == Some(Admission::Resumed) {
                return;
            }
            // It is acknowledged in its turn, and nothing else is made of it.
            let message = Message {
                received: received.clone(),
                id: self.ids.next(wall),
                fingerprint,
                since: now,
            };
            let entry = self.ledger.insert(message, ack);
            self.ledger.decided(entry);
            let is_new = matches!(admission, Some(Admission::New) | None) && !received.retain;
            if let ServiceTopic::Control(what) = own
                && is_new
            {
                self.handle_control(what, &received);
            }
            return;
        }
        let address = self.router.address(&received);
        let kind = address.as_ref().map_or(Kind::Unknown, Address::kind);
        self.metrics.received(kind, ack.is_some());
        let (id, repeated) = match admission {
            Some(Admission::Resumed) => {
                self.metrics.resumed(&received);
                if let Some(line) = self.tracer.resumed(&received, address.as_ref(), wall) {
                    self.trace(&line);
                }
                return;
            }
            Some(Admission::Repeated(id)) => {
                self.metrics.repeated(&received, id);
                (id, true)
            }
            Some(Admission::New) | None => (self.ids.next(wall), false),
        };
        self.tracer.begin(id, repeated);
        let message = Message {
            received: received.clone(),
            id,
            fingerprint,
            since: now,
        };
        let entry = self.ledger.insert(message, ack);
        let counted = self.count(&received, now);
        let job = PendingMessage {
            entry,
            received,
            id,
            fingerprint: ack.map(|_| fingerprint),
            repeated,
            refused: None,
        };
        match counted {
            Ok(()) => self.consult(job),
            Err(refused) => self.refuse_job(job, refused),
        }
    }

    /// What comes again may have been forwarded before: whether it is refused is for whoever knows that.
    fn refuse_job(&mut self, mut job: PendingMessage, refused: Refused) {
        if job.repeated {
            job.refused = Some(refused);
            self.waiting.push(job);
        } else {
            self.refuse(job.entry, &refused);
        }
    }

    /// Asks the decision service about a message that nothing else is against; any other goes its way.
    fn consult(&mut self, job: PendingMessage) {
        let Some(consultant) = &mut self.consultant else {
            return self.waiting.push(job);
        };
        // Its memory is shared: what is asked about borrows from it.
        let received = job.received.clone();
        match self.router.read(&received) {
            Ok(Request::Verbatim { outgoing, .. } | Request::Message { outgoing, .. }) => {
                if let Some(job) = consultant.ask(&outgoing, job) {
                    let refused = Refused {
                        detail: Some("too many messages of this conversation wait".into()),
                        ..Refusal::RateLimited.into()
                    };
                    self.refuse_job(job, refused);
                }
            }
            Ok(_) | Err(_) => self.waiting.push(job),
        }
    }

    fn handle_verdict(&mut self, mut job: PendingMessage, verdict: Verdict) {
        match verdict {
            Verdict::Pass => self.waiting.push(job),
            Verdict::Replace(payload) => {
                job.received.payload_bytes = payload.len();
                job.received.payload = payload;
                self.waiting.push(job);
            }
            Verdict::Refuse(refused) => self.refuse_job(job, refused),
        }
    }

    /// Counts a message for its sender's rate.
    fn count(&mut self, received: &Received, now: Instant) -> Result<(), Refused> {
        if !self.router.policy.limits_rates() {
            return Ok(());
        }
        match self.router.address(received) {
            Some(address) => self.meter.charge(&address, &self.router.policy, now),
            None => Ok(()),
        }
    }

    /// Refuses a message before it gets to where messages are decided on.
    fn refuse(&mut self, entry: EntryId, refused: &Refused) {
        let (received, id) = self.ledger.message(entry);
        let answers = self.router.refuse(received, refused, id.time()).answers;
        self.note(entry, Some(refused.reason), &[]);
        self.answer(entry, Some(refused.reason), answers);
        self.ledger.decided(entry);
    }

    /// Says what is to be said of a refusal, unless that sender has been told too much already.
    fn answer(&mut self, entry: EntryId, refusal: Option<Refusal>, answers: Vec<Publish>) {
        let Some(reason) = refusal.filter(|_| !answers.is_empty()) else {
            return;
        };
        let (received, _) = self.ledger.message(entry);
        let address = self.router.address(received);
        if self.meter.may_answer(address.as_ref(), reason, clock().0) {
            self.ledger.add(entry, answers, Purpose::Notice);
        } else {
            self.metrics.unanswered();
        }
    }

    fn tick_acknowledged(&mut self) {
        if self.session.is_some() {
            self.acknowledged.tick(self.ledger.settled_up_to());
        }
    }

    /// Has what waits decided on: here, or by the store's thread as soon as that has finished the batch before.
    fn decide(&mut self) {
        // Here, until nothing is left to do: no event would bring us back.
        while self.decide_some() {}
    }

    fn decide_some(&mut self) -> bool {
        let (now, wall) = clock();
        let room_for_many = self.ledger.room_for_bulk();
        let more = self.unfinished > 0 && room_for_many >= STEP;
        let news = self.acknowledged.news();
        let finished = self.ledger.settled_up_to();
        let dispatcher = self.dispatcher.as_ref();
        let has_outbox_request =
            dispatcher.is_some_and(|dispatcher| dispatcher.has_outbox_request(now));
        let wanted = !self.waiting.is_empty() || more || has_outbox_request;
        let dispatcher = self.dispatcher.as_mut();
        let outbox_request =
            || dispatcher.map_or_else(OutboxRequest::default, |c| c.take_outbox_request(now, wall));
        match &mut self.processor {
            ProcessorHandle::Inline(processor) if wanted => {
                let batch = Batch {
                    outbox_request: outbox_request(),
                    ..next_batch(&mut self.waiting, room_for_many, &self.router.policy, wall)
                };
                let processed = processor.process(&batch);
                self.handle_processed(processed.expect("memory does not fail"));
                true
            }
            ProcessorHandle::Threaded { handle, busy } if !*busy && (wanted || news.is_some()) => {
                // Turn and turn about: no message waits for more than one step of what goes to many.
                let turn = self.waiting.is_empty() || !self.stepped;
                let step = self.unfinished == 0 || turn;
                let room_for_many = if step { room_for_many } else { 0 };
                self.stepped = step && self.unfinished > 0;
                handle.process(Batch {
                    acknowledged: news,
                    finished,
                    outbox_request: outbox_request(),
                    ..next_batch(&mut self.waiting, room_for_many, &self.router.policy, wall)
                });
                *busy = true;
                self.acknowledged.mark_stored(news);
                false
            }
            ProcessorHandle::Inline(_) | ProcessorHandle::Threaded { .. } => false,
        }
    }

    fn handle_processor(&mut self, event: Option<processor::Event>) -> Result<(), DaemonError> {
        match event {
            None => return Err(DaemonError::TaskEnded("store".to_owned())),
            Some(processor::Event::Decided(processed)) => {
                if let ProcessorHandle::Threaded { busy, .. } = &mut self.processor {
                    *busy = false;
                }
                self.handle_processed(processed);
            }
            Some(processor::Event::Failing(fault)) => self.health.set_store(Some(fault)),
            Some(processor::Event::Recovered) => self.health.set_store(None),
        }
        Ok(())
    }

    fn handle_processed(&mut self, processed: Processed) {
        let Processed {
            decided,
            given,
            dropped,
        } = processed;
        if let Some(dispatcher) = &mut self.dispatcher {
            let (now, wall) = clock();
            dispatcher.handle_given(given, &dropped, now, wall);
        }
        for Decided {
            entry,
            first,
            publishes,
            for_many,
            answers,
            refusal,
            done,
        } in decided
        {
            if first {
                self.note(entry, refusal, &publishes);
                self.unfinished += usize::from(!done);
            } else {
                self.unfinished -= usize::from(done);
            }
            if self.tracer.is_on() {
                let (_, id) = self.ledger.message(entry);
                self.tracer.decided(id, None, &for_many);
            }
            self.ledger.add(entry, publishes, Purpose::Copy);
            self.ledger.add(entry, for_many, Purpose::BulkCopy);
            self.answer(entry, refusal, answers);
            if done {
                self.ledger.decided(entry);
            }
        }
    }

    fn note(&mut self, entry: EntryId, refusal: Option<Refusal>, publishes: &[Publish]) {
        let (received, id) = self.ledger.message(entry);
        self.tracer.decided(id, refusal, publishes);
        match refusal {
            Some(reason) => self.metrics.refused(received, reason),
            None => self.metrics.forwarded(received, id, publishes.len()),
        }
    }

    fn handle_lane(&mut self, event: PublisherEvent) {
        match event {
            PublisherEvent::Confirmed {
                publisher: lane,
                token,
                outcome,
            } => {
                let id = PublishId {
                    publisher: lane,
                    sequence: token,
                };
                match outcome {
                    Ok(()) => {
                        self.metrics.confirmed();
                        self.ledger.handle_confirmed(id);
                    }
                    Err(reason) => {
                        self.metrics.not_confirmed(reason.as_str());
                        self.ledger.handle_refused(id, Refusal::Unauthorized);
                    }
                }
            }
            PublisherEvent::Up {
                publisher: lane,
                client,
                connected,
                recycle,
            } => {
                debug!(lane, "publisher connected");
                self.metrics.connected(LinkRole::Publisher);
                // One less than the broker takes: rumqttc stops reading our requests at its limit, a DISCONNECT among them.
                let takes = connected.receive_maximum.saturating_sub(1).max(1);
                self.ledger
                    .handle_publisher_up(lane, takes.min(self.publish_window));
                self.lanes[lane] = Some(Lane {
                    client,
                    recycle,
                    renewal: Renewal::Staying,
                });
                self.health.set_publisher(lane, None);
                self.probe_session();
            }
            PublisherEvent::Renewing { publisher: lane } => {
                if let Some(lane) = &mut self.lanes[lane] {
                    lane.renewal = Renewal::Leaving;
                }
            }
            PublisherEvent::Down {
                publisher: lane,
                error,
            } => {
                let end = match error.cause {
                    Cause::Closed | Cause::NotAuthorized | Cause::Other => PublisherEnd::Closed,
                    Cause::TimedOut => PublisherEnd::TimedOut,
                    Cause::ProtocolVersion
                    | Cause::BadCredentials
                    | Cause::BadClientId
                    | Cause::Unavailable
                    | Cause::TakenOver
                    | Cause::Expired
                    | Cause::Renewed
                    | Cause::ClosedOnSubscribe
                    | Cause::Undecodable
                    | Cause::Unreachable
                    | Cause::Tls => PublisherEnd::Unrelated,
                };
                self.ledger.handle_publisher_down(lane, end);
                if self.lanes[lane].take().is_some() {
                    self.metrics.disconnected(LinkRole::Publisher);
                }
                self.health.set_publisher(lane, Some(error.to_string()));
            }
        }
    }

    /// Ends connections that owe a confirmation for too long.
    fn recycle_overdue(&mut self) {
        let (now, _) = clock();
        if let Some(lane) = self
            .ledger
            .poll_overdue(now)
            .and_then(|lane| self.lanes[lane].as_ref())
        {
            lane.recycle.cancel();
        }
    }

    /// Does what the ledger asks for.
    fn act(&mut self) {
        let (now, wall) = clock();
        self.decide();
        loop {
            for (at, lane) in self.lanes.iter_mut().enumerate() {
                let Some(lane) = lane else { continue };
                if lane.renewal == Renewal::Leaving && self.ledger.in_flight(at) == 0 {
                    lane.renewal = Renewal::Left;
                    // If it is gone, its link knows.
                    let _ = lane.client.disconnect();
                }
                if lane.renewal != Renewal::Staying {
                    continue;
                }
                while let Some((id, publish)) = self.ledger.poll_publish(at, now) {
                    match lane.client.publish(id.sequence, publish) {
                        Ok(()) => {}
                        Err(SubmitError::TooLarge) => {
                            self.ledger.handle_refused(id, Refusal::TooLarge)
                        }
                        // The link will report that the connection is gone; the ledger still has the publish.
                        Err(SubmitError::Gone) => break,
                    }
                }
            }
            let Some(failed) = self.ledger.poll_failed() else {
                break;
            };
            self.tracer.decided(failed.id, Some(failed.refusal), &[]);
            let publishes = self.notices_of(&failed, now, wall);
            self.ledger.resolve(failed, publishes);
        }
        self.acknowledge();
        while let Some(finished) = self.ledger.poll_finished() {
            let message = &finished.message;
            if finished.forwarded {
                self.metrics
                    .finished(now.saturating_duration_since(message.since));
            }
            if self.tracer.is_on() {
                let address = self.router.address(&message.received);
                let line = self.tracer.finished(&finished, address.as_ref(), now, wall);
                if let Some(line) = line {
                    self.trace(&line);
                }
            }
        }
    }

    /// What its sender is told of a publish that the broker does not take.
    fn notices_of(&mut self, failed: &Failed, now: Instant, wall: UnixMillis) -> Vec<Publish> {
        if failed.told_before {
            return vec![];
        }
        self.metrics
            .publish_refused(&failed.received, failed.refusal, failed.purpose);
        if failed.purpose == Purpose::Notice {
            return vec![];
        }
        let address = self.router.address(&failed.received);
        if !self.meter.may_answer(address.as_ref(), failed.refusal, now) {
            self.metrics.unanswered();
            return vec![];
        }
        let refused = failed.refusal.into();
        self.router.refuse(&failed.received, &refused, wall).answers
    }

    fn acknowledge(&mut self) {
        while let Some(ack) = self.ledger.poll_ack() {
            if let Some(session) = self
                .session
                .as_ref()
                .filter(|session| session.connection == ack.connection)
            {
                // It fails only where the connection is gone: then the message is delivered again.
                let _ = session.client.acknowledge(ack.packet_id);
            }
        }
    }
}

/// Never, if there are no webhooks. Safe to cancel.
async fn next_answer(dispatcher: &mut Option<WebhookDispatcher>) -> Answered {
    match dispatcher {
        Some(dispatcher) => dispatcher.next().await,
        None => std::future::pending().await,
    }
}

/// Never, if there is no decision service. Safe to cancel.
async fn next_verdict(consultant: &mut Option<DecisionService>) -> (PendingMessage, Verdict) {
    match consultant {
        Some(consultant) => consultant.next().await,
        None => std::future::pending().await,
    }
}

fn next_batch(
    waiting: &mut Vec<PendingMessage>,
    room_for_many: usize,
    policy: &Arc<Policy>,
    now: UnixMillis,
) -> Batch {
    let most = waiting.len().min(BATCH_JOBS);
    Batch {
        jobs: waiting.drain(..most).collect(),
        room_for_many: room_for_many.min(STEP),
        acknowledged: None,
        finished: None,
        policy: policy.clone(),
        outbox_request: OutboxRequest::default(),
        now,
    }
}

/// Stands for a message's topic and payload, in every process alike: a redelivery after a kill is known by it. The head of a SHA-256,
/// so that nobody can make a message that passes for somebody else's.
fn fingerprint(received: &Received) -> u64 {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(&received.topic.len().to_be_bytes());
    digest.update(&received.topic);
    digest.update(&received.payload_bytes.to_be_bytes());
    digest.update(&received.payload);
    let mut head = [0; 8];
    head.copy_from_slice(&digest.finish().as_ref()[..8]);
    u64::from_be_bytes(head)
}

fn task_ended(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> DaemonError {
    DaemonError::TaskEnded(match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "last".to_owned(),
    })
}
