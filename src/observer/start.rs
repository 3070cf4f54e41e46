//! From a [`Setup`] to an observer that runs.
//!
//! Owns the order in which its parts come up: the store first, so that no message is taken that
//! could not be stored; the connections last. Leaves the rest of its life to the event loop.

use std::hash::RandomState;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span, info, warn};

use crate::connections::links::Links;
use crate::connections::publisher::PublisherEvent;
use crate::connections::session::SESSION_EVENTS;
use crate::connections::settings::LinkSettings;
use crate::delivery::backlog::Backlog;
use crate::delivery::ledger::Ledger;
use crate::http::api::handover::Handover;
use crate::http::decision_service::{Bounds, DecisionService};
use crate::http::webhook::WebhookDispatcher;
use crate::observer::absentees;
use crate::observer::dots::DotGate;
use crate::observer::event_loop::{EVENTS_AT_A_TIME, Inputs, Observer, ReadySignal};
use crate::observer::exchange::Exchange;
use crate::observer::inbound::{Inbound, fingerprint};
use crate::observer::journal::Journal;
use crate::observer::neighbours::Neighbours;
use crate::observer::outage::Outages;
use crate::observer::processing::{Processing, ProcessorHandle};
use crate::observer::processor::{Persistence, Processor};
use crate::observer::publishers::{PUBLISHES_PER_MESSAGE, Publishers, names};
use crate::observer::reporter::StatusReporter;
use crate::observer::serving::{Addresses, Instruments, bind_api, bind_console, endpoints};
use crate::observer::session::Session;
use crate::observer::setup::{Neighbourhood, ObserverError, Ready, Setup, Stopped};
use crate::observer::sharing::{Held, Sharing};
use crate::observer::shutdown::Patience;
use crate::observer::submissions::Submissions;
use crate::observer::webhooks::{EventsKept, Webhooks};
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageIds;
use crate::rules::router::Router;
use crate::store::{
    self, Access, Endpoints, LogSize, LoggedQuestion, Outbox, Store, StoreLocation, thread,
};
use crate::telemetry::clock::{Clock, Now};
use crate::telemetry::feed::Feed;
use crate::telemetry::health::Health;
use crate::telemetry::hello::Hello;
use crate::telemetry::service_topics::ServiceTopics;
use crate::telemetry::status::Status;
use crate::telemetry::trace::Tracer;
use crate::telemetry::{Metrics, Stats};

/// How long a stop waits for what the delivery log holds, where another observer may wait for the
/// lease.
const HAND_OVER: Duration = Duration::from_millis(500);

/// Runs an observer until `stop` is cancelled, then lets what is under way finish, and disconnects.
/// `ready` is told once.
///
/// # Errors
/// [`ObserverError`]. A broker that cannot be reached is none: the observer keeps trying.
pub async fn run(
    setup: Setup,
    stop: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<Stopped, ObserverError> {
    let instruments = Instruments::new(&setup);
    run_with(setup, instruments, stop, ready).await
}

/// The same, with what tells how it does.
pub(super) async fn run_with(
    setup: Setup,
    instruments: Instruments,
    stop: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<Stopped, ObserverError> {
    let parts = Parts::open(&setup, instruments.clone())?;
    let mut tasks = JoinSet::new();
    let mut addresses = Addresses::default();
    if let Some(address) = setup.http_listen {
        let (began, stop) = (parts.began, &stop);
        let (local, serving) = bind_console(address, &setup, &instruments, began, stop).await?;
        addresses.http = Some(local);
        tasks.spawn(async move {
            serving.await;
            "health"
        });
    }
    // As many as the broker may send at a time.
    let (handovers, submitted) = mpsc::channel(EVENTS_AT_A_TIME);
    if let Some(looking) = absentees::look_out(
        setup.store.as_ref(),
        &setup.router.layouts,
        handovers.clone(),
    ) {
        tasks.spawn(async move {
            looking.await;
            "presence"
        });
    }
    if let Some(settings) = setup.api.clone() {
        let (local, serving) = bind_api(settings, handovers, &instruments.metrics).await?;
        addresses.api = Some(local);
        tasks.spawn(async move {
            serving.await;
            "api"
        });
    }
    serve(parts, setup, submitted, tasks, stop, (ready, addresses)).await
}

/// Runs the observer of one slot. What the slots of a process have in common is handed in.
pub(super) async fn run_slot(
    setup: Setup,
    instruments: Instruments,
    submitted: mpsc::Receiver<Handover>,
    stop: CancellationToken,
    ready: oneshot::Sender<Ready>,
) -> Result<Stopped, ObserverError> {
    // The database may hang: the other slots of the process do not wait for it.
    let span = Span::current();
    let opening = tokio::task::spawn_blocking(move || {
        let _here = span.entered();
        (Parts::open(&setup, instruments), setup)
    });
    let (parts, setup) = tokio::select! {
        opened = opening => opened.map_err(task_ended)?,
        () = stop.cancelled() => return Ok(stopped_before()),
    };
    let (parts, told) = (parts?, (ready, Addresses::default()));
    serve(parts, setup, submitted, JoinSet::new(), stop, told).await
}

/// Nothing has been begun.
fn stopped_before() -> Stopped {
    Stopped {
        stats: Stats::default(),
        left_unacknowledged: 0,
    }
}

fn task_ended(error: JoinError) -> ObserverError {
    ObserverError::TaskEnded(error.to_string())
}

/// Who is told that the observer is ready, and where it serves HTTP.
type Told = (oneshot::Sender<Ready>, Addresses);

/// Connects, and runs until `stop` is cancelled.
async fn serve(
    parts: Parts,
    setup: Setup,
    submitted: mpsc::Receiver<Handover>,
    mut tasks: JoinSet<&'static str>,
    stop: CancellationToken,
    (ready, addresses): Told,
) -> Result<Stopped, ObserverError> {
    let links_stop = CancellationToken::new();
    let links = parts.links(&setup, links_stop.clone());
    if setup.reset_session {
        tokio::select! {
            reset = links.reset_session() => reset.map_err(ObserverError::Reset)?,
            () = stop.cancelled() => return Ok(stopped_before()),
        }
        info!("the session is empty now, as asked (--reset-session)");
    }
    let is_by_hash = setup.sharing.as_ref().is_some_and(Sharing::is_by_hash);
    let mut filters = match is_by_hash {
        true => vec![],
        false => setup.router.layouts.filters(),
    };
    filters.extend(parts.topics.subscriptions());
    let ready = ReadySignal {
        sender: ready,
        filters: filters.len(),
        http: addresses.http,
        api: addresses.api,
    };
    let retired = setup.router.layouts.retired_filters();
    let (session_tx, session_rx) = mpsc::channel(SESSION_EVENTS);
    let session = links.session(filters, retired, session_tx);
    let session = async move {
        session.await;
        "session"
    };
    tasks.spawn(session.in_current_span());
    let inputs = Inputs {
        session: DotGate::new(session_rx, setup.links.clone(), parts.topics.probe.clone()),
        publisher_rx: parts.spawn_publishers(&links, &mut tasks),
        policy: setup.policy.clone(),
        tasks,
        links_stop,
        stop,
    };
    let patience = Patience {
        drain: setup.drain_timeout,
        hand_over: holds_lease(&setup).then_some(HAND_OVER),
    };
    let span = Span::current();
    let resuming = tokio::task::spawn_blocking(move || {
        let _here = span.entered();
        parts.into_observer(setup, Submissions::new(submitted))
    });
    let observer = resuming.await.map_err(task_ended)??;
    let ended = Box::pin(observer.run(inputs, ready, patience)).await;
    if let Err(ObserverError::OtherObserver {
        discards_session: true,
        ..
    }) = &ended
    {
        // It would fill up for nobody. If it cannot be discarded, it expires.
        let _ = links.reset_session().await;
    }
    ended
}

/// Whether others may wait for the place of this observer.
fn holds_lease(setup: &Setup) -> bool {
    let location = setup.store.as_ref().map(|store| &store.location);
    matches!(location, Some(StoreLocation::Postgres(_)))
}

/// The parts that an observer is put together from.
struct Parts {
    clock: Clock,
    began: Now,
    store: Option<Box<dyn Store>>,
    /// Without a store: where events for webhooks wait, if there are any endpoints.
    outbox: Option<Box<dyn Outbox>>,
    dispatcher: Option<WebhookDispatcher>,
    decision_service: Option<DecisionService>,
    health: Health,
    metrics: Metrics,
    feed: Feed,
    topics: ServiceTopics,
    /// Messages under way at a time.
    window: usize,
    /// Publishes in flight at a time on one connection.
    publish_window: usize,
    /// The names of the publishing connections, with those for bulk copies and for publishes in
    /// quarantine.
    publishers: Vec<String>,
}

impl Parts {
    /// Opens everything but connections.
    fn open(setup: &Setup, instruments: Instruments) -> Result<Self, ObserverError> {
        let clock = Clock;
        let began = clock.now();
        let window = usize::from(setup.links.window);
        let publishers = names(setup.publishers);
        let webhooks = setup.webhooks.as_ref();
        let endpoints = endpoints(setup);
        let Instruments {
            health,
            metrics,
            feed,
        } = instruments;
        let store = open_store(setup, &endpoints)?;
        let outbox = match webhooks {
            Some(webhooks) if store.is_none() => {
                let outbox = store::outbox_in_memory();
                let mut outbox = outbox.map_err(ObserverError::Store)?;
                outbox.set_endpoints(Endpoints {
                    names: endpoints,
                    max_bytes: webhooks.max_bytes,
                });
                Some(outbox)
            }
            Some(_) | None => None,
        };
        let dispatcher = webhooks
            .cloned()
            .map(|settings| WebhookDispatcher::new(settings, metrics.clone(), began.instant));
        let bounds = match &setup.store {
            Some(settings) => Bounds::of_log(window, settings.max_backlog),
            None => Bounds::of_window(window),
        };
        let decision_service = setup.consult.clone();
        let decision_service = decision_service
            .map(|settings| DecisionService::new(settings, bounds, metrics.clone()));
        Ok(Self {
            clock,
            began,
            store,
            outbox,
            dispatcher: dispatcher.transpose().map_err(ObserverError::Webhook)?,
            decision_service: decision_service
                .transpose()
                .map_err(ObserverError::Consult)?,
            health,
            metrics,
            feed,
            topics: ServiceTopics::new(&setup.name, setup.links.client_id.expose_secret()),
            window,
            publish_window: window * PUBLISHES_PER_MESSAGE,
            publishers,
        })
    }

    fn links(&self, setup: &Setup, stop: CancellationToken) -> Links {
        let will = Status::offline().publish(&self.topics.status);
        let settings = LinkSettings {
            will: Some(will).filter(|_| setup.reporting.status),
            ..setup.links.clone()
        };
        Links::new(settings, self.health.clone(), self.metrics.clone(), stop)
    }

    /// Starts the publishing connections.
    fn spawn_publishers(
        &self,
        links: &Links,
        tasks: &mut JoinSet<&'static str>,
    ) -> mpsc::Receiver<PublisherEvent> {
        // A publisher has as many confirmations to report as publishes in flight.
        let capacity = self.publish_window.max(EVENTS_AT_A_TIME);
        let (publisher_tx, publisher_rx) = mpsc::channel(capacity);
        for (publisher, name) in self.publishers.iter().enumerate() {
            let events = publisher_tx.clone();
            let link = links.publisher(publisher, name, events);
            let publisher = async move {
                link.await;
                "publisher"
            };
            tasks.spawn(publisher.in_current_span());
        }
        publisher_rx
    }

    fn into_observer(
        self,
        setup: Setup,
        submissions: Submissions,
    ) -> Result<Observer, ObserverError> {
        let Self {
            clock,
            began,
            store,
            outbox,
            dispatcher,
            decision_service,
            health,
            metrics,
            feed,
            topics,
            window,
            publish_window,
            publishers,
        } = self;
        let mut ledger = Ledger::new(setup.publishers, window, setup.ack_timeout);
        let mut ids = MessageIds::new(RandomState::new());
        let router = setup.router;
        let question = ids.next(began.wall).to_string();
        let me = Hello::new(&setup.name, &topics.instance, &router.layouts, question);
        let me = me.of_group(setup.sharing.as_ref().map(Sharing::group));
        let neighbours = neighbours(me, setup.reporting.neighbours, &topics, began);
        let has_store = store.is_some();
        let kept = match &store {
            Some(_) => EventsKept::InStore,
            None => EventsKept::InMemory,
        };
        let max_backlog = setup.store.as_ref().map(|settings| settings.max_backlog);
        let mut backlog = Backlog::new(max_backlog.unwrap_or(u64::MAX));
        ledger.limit_left(max_backlog.unwrap_or(u64::MAX));
        let mut had_session = false;
        let (processor, questions) = match (store, outbox) {
            (Some(store), _) => {
                had_session = store.last_id().map_err(ObserverError::Store)?.is_some();
                let (left, questions) = resume(store.as_ref(), &mut ledger, &mut ids)?;
                if let Some(log) = left {
                    backlog = backlog.resumed(log.bytes, began.instant);
                }
                let retention = setup.store.map(|settings| settings.retention);
                let persistence = Persistence::store(store);
                let processor = Processor::new(router.clone(), persistence, metrics.clone());
                let processor = threaded(processor.with_retention(retention.unwrap_or_default()))?;
                (processor, questions)
            }
            (None, outbox) => {
                let persistence = outbox.map(Persistence::outbox_in_memory);
                let persistence = persistence.unwrap_or_default();
                (inline(&router, persistence, &metrics), vec![])
            }
        };
        let mut journal = Journal::new(metrics.clone(), Tracer::new(setup.reporting.trace, feed));
        let inbound = Inbound::new(router, decision_service, ids, metrics.clone());
        let mut inbound = inbound.with_log(has_store);
        inbound.resume(questions, &mut ledger, &mut journal, began);
        Ok(Observer {
            clock,
            ledger,
            session: Session::new(setup.links.session, health.clone(), metrics.clone())
                .expecting_session(had_session && !setup.reset_session),
            inbound,
            submissions,
            processing: Processing::new(processor, backlog),
            publishers: Publishers::new(publishers.len(), publish_window, health.clone(), metrics),
            webhooks: Webhooks::new(dispatcher, kept),
            journal,
            reporter: StatusReporter::new(topics, setup.reporting, began),
            neighbours,
            gives_way_to: None,
            outages: Outages::new(),
            health,
            sharing: setup.sharing,
            held: Held::default(),
            exchange: Exchange::default(),
        })
    }
}

fn open_store(
    setup: &Setup,
    endpoints: &[String],
) -> Result<Option<Box<dyn Store>>, ObserverError> {
    let Some(settings) = &setup.store else {
        return Ok(None);
    };
    let store = store::open(&settings.location, Access::Exclusive, settings.offline);
    let mut store = store.map_err(ObserverError::Store)?;
    let max_bytes = setup
        .webhooks
        .as_ref()
        .map_or(0, |webhooks| webhooks.max_bytes);
    store.set_endpoints(Endpoints {
        names: endpoints.to_vec(),
        max_bytes,
    });
    let left_over = store.orphaned().map_err(ObserverError::Store)?;
    if left_over > 0 {
        warn!(
            left_over,
            "events wait for webhook endpoints that are not configured any more (webhook list, \
             webhook drop)"
        );
    }
    Ok(Some(store))
}

/// Goes on where an earlier process ended: expects what it has not acknowledged, and gives out
/// higher ids. What it has acknowledged and not published is read from the delivery log later; what
/// it has acknowledged and not decided on is returned.
pub(super) fn resume(
    store: &dyn Store,
    ledger: &mut Ledger,
    ids: &mut MessageIds,
) -> Result<(Option<LogSize>, Vec<LoggedQuestion>), ObserverError> {
    let unpublished = store.log_size().map_err(ObserverError::Store)?;
    let mut unacknowledged = store.unacknowledged().map_err(ObserverError::Store)?;
    let questions = store.questions().map_err(ObserverError::Store)?;
    let last_id = store.last_id().map_err(ObserverError::Store)?;
    let last_logged = unpublished.map(|log| log.last);
    let last_asked = questions.last().map(|question| question.id);
    if let Some(last) = last_id.max(last_logged).max(last_asked) {
        ids.resume_after(last);
    }
    if let Some(LogSize { messages, .. }) = unpublished {
        info!(
            messages,
            "publishing what was accepted before the last stop and not yet published"
        );
    }
    if !questions.is_empty() {
        info!(
            messages = questions.len(),
            "deciding on what was accepted before the last stop and not yet decided on"
        );
        let acknowledged = store.acknowledged_up_to();
        let may_come = questions
            .iter()
            .filter(|question| Some(question.id) > acknowledged);
        unacknowledged.extend(may_come.map(|question| {
            let (topic, payload) = (question.topic.clone(), question.payload.clone());
            (
                fingerprint(&Received::new(topic, payload, false)),
                question.id,
            )
        }));
        // The order they came in. One that came again is stored, too.
        unacknowledged.sort_by_key(|(_, id)| *id);
        unacknowledged.dedup_by_key(|(_, id)| *id);
    }
    ledger.expect(&unacknowledged);
    Ok((unpublished, questions))
}

/// Looks for other observers, if anybody asks for them.
fn neighbours(
    me: Hello,
    neighbourhood: Neighbourhood,
    topics: &ServiceTopics,
    began: Now,
) -> Option<Neighbours> {
    let allowed = match neighbourhood {
        Neighbourhood::Ignored => return None,
        Neighbourhood::Allowed => true,
        Neighbourhood::Refused => false,
    };
    let topic = topics.hello.clone();
    Some(Neighbours::new(me, topic, allowed, began.instant))
}

/// A processor in the observer's own task.
fn inline(router: &Router, persistence: Persistence, metrics: &Metrics) -> ProcessorHandle {
    let processor = Processor::new(router.clone(), persistence, metrics.clone());
    ProcessorHandle::Inline(Box::new(processor))
}

/// A processor in the store's thread.
fn threaded(processor: Processor) -> Result<ProcessorHandle, ObserverError> {
    let upkeep = processor.upkeep().map_err(ObserverError::Store)?;
    let stop = CancellationToken::new();
    let handle = thread::spawn(processor, upkeep, stop.clone());
    let handle = handle.map_err(ObserverError::Thread)?;
    Ok(ProcessorHandle::Threaded(handle, stop))
}
