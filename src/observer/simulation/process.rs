//! One process of the observer: the real one, with the ends of its connections and of its store's
//! thread in the hands of the simulation.

use std::hash::RandomState;
use std::sync::mpsc as thread_mpsc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::delivery::backlog::Backlog;
use crate::delivery::ledger::Ledger;
use crate::http::decision_service::{Bounds, DecisionService, Verdict};
use crate::mqtt;
use crate::observer::event_loop::Observer;
use crate::observer::exchange::Exchange;
use crate::observer::inbound::Inbound;
use crate::observer::journal::Journal;
use crate::observer::outage::Outages;
use crate::observer::processing::{Processing, ProcessorHandle};
use crate::observer::processor::{Batch, Persistence, Processed, Processor};
use crate::observer::publishers::{Publishers, names};
use crate::observer::reporter::StatusReporter;
use crate::observer::session::Session;
use crate::observer::setup::Reporting;
use crate::observer::sharing::Held;
use crate::observer::start::resume;
use crate::observer::submissions::Submissions;
use crate::observer::webhooks::{EventsKept, Webhooks};
use crate::protocol::message_id::MessageIds;
use crate::rules::router::Router;
use crate::store::{Store, thread};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Clock;
use crate::telemetry::feed::Feed;
use crate::telemetry::health::Health;
use crate::telemetry::service_topics::ServiceTopics;
use crate::telemetry::trace::Tracer;

/// Connections that publish direct messages.
const DIRECT: usize = 2;
/// The same with those for bulk copies and for what is in quarantine.
pub(super) const PUBLISHERS: usize = DIRECT + 2;
/// Messages under way: few, so that all bounds are reached.
pub(super) const WINDOW: usize = 8;
/// Publishes in quarantine: fewer than users that the broker takes nothing for.
const QUARANTINE: usize = 2;
/// Nobody writes while so many messages wait for the decision service: the run is to reach what
/// comes after the decision, too.
const QUESTIONS: usize = 4 * WINDOW;
const QUESTIONS_AT_A_TIME: usize = 4;
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// An observer that runs.
pub(super) struct Process {
    pub(super) observer: Observer,
    processor: Processor,
    batches: thread_mpsc::Receiver<Batch>,
    events: mpsc::Sender<thread::Event<Processed>>,
    /// What the store's thread is to do.
    pub(super) batch: Option<Batch>,
}

impl Process {
    /// Starts with what earlier processes have stored.
    /// With a decision service, if one `decides`.
    pub(super) fn start(
        store: Box<dyn Store>,
        (router, metrics): (&Router, &Metrics),
        decides: bool,
    ) -> Self {
        let began = Clock.now();
        let mut ledger = Ledger::new(DIRECT, WINDOW, ACK_TIMEOUT);
        ledger.limit_quarantine(QUARANTINE);
        let mut ids = MessageIds::new(RandomState::new());
        let mut backlog = Backlog::new(u64::MAX);
        let (left, questions) = resume(store.as_ref(), &mut ledger, &mut ids).unwrap();
        if let Some(log) = left {
            backlog = backlog.resumed(log.bytes, began.instant);
        }
        let persistence = Persistence::store(store);
        let processor = Processor::new(router.clone(), persistence, metrics.clone());
        let (handle, thread::FarEnds { batches, events }) = thread::by_hand();
        let handle = ProcessorHandle::Threaded(handle, CancellationToken::new());
        let health = Health::new(names(DIRECT));
        let asked = mqtt::Session::Persistent(Duration::from_secs(3_600));
        let session = Session::new(asked, health.clone(), metrics.clone());
        let publishers = Publishers::new(PUBLISHERS, 2 * WINDOW, health.clone(), metrics.clone());
        let (_, handovers) = mpsc::channel(1);
        let bounds = Bounds::none();
        let service = decides.then(|| DecisionService::by_hand(bounds, QUESTIONS_AT_A_TIME));
        let mut journal = Journal::new(metrics.clone(), Tracer::new(false, Feed::default()));
        let inbound = Inbound::new(router.clone(), service, ids, metrics.clone());
        let mut inbound = inbound.with_log(true);
        inbound.resume(questions, &mut ledger, &mut journal, began);
        let observer = Observer {
            clock: Clock,
            ledger,
            session,
            inbound,
            submissions: Submissions::new(handovers),
            processing: Processing::new(handle, backlog),
            publishers,
            webhooks: Webhooks::new(None, EventsKept::InStore),
            journal,
            reporter: StatusReporter::new(topics(), Reporting::default(), began),
            neighbours: None,
            sharing: None,
            held: Held::default(),
            exchange: Exchange::default(),
            gives_way_to: None,
            outages: Outages::new(),
            health,
        };
        Self {
            observer,
            processor,
            batches,
            events,
            batch: None,
        }
    }

    /// Has the observer act on what it was told.
    pub(super) fn act(&mut self) {
        self.observer.act();
        self.batch = self.batch.take().or_else(|| self.batches.try_recv().ok());
    }

    /// Commits the batch that waits, if one does, and returns it with what it has come to.
    pub(super) fn commit(&mut self) -> Option<(Batch, Processed)> {
        let batch = self.batch.take()?;
        let processed = self.processor.process(&batch).unwrap();
        Some((batch, processed))
    }

    /// Tells the observer of a commit.
    pub(super) fn committed(&mut self, processed: Processed) {
        let event = thread::Event::Processed(processed);
        self.events.try_send(event).unwrap();
        let event = self.observer.processing.next().now_or_never().unwrap();
        self.observer.handle_processor(event).unwrap();
    }

    /// How many questions the decision service has not answered.
    pub(super) fn asked(&self) -> usize {
        let service = self.observer.inbound.decision_service.as_ref();
        service.map_or(0, DecisionService::asked)
    }

    /// It answers one of them.
    pub(super) fn answer(&mut self, at: usize, verdict: Verdict) {
        let now = self.observer.clock.now();
        let Observer {
            inbound,
            ledger,
            journal,
            ..
        } = &mut self.observer;
        if let Some(service) = &mut inbound.decision_service {
            let pending = service.answer(at);
            inbound.handle_verdict(pending, verdict, ledger, journal, now);
        }
    }

    /// Whether the observer may be given another message.
    pub(super) fn may_read(&self) -> bool {
        self.observer.has_room() && self.observer.inbound.asked() < QUESTIONS
    }

    /// Whether everything is done.
    pub(super) fn rests(&self) -> bool {
        let Observer {
            ledger, processing, ..
        } = &self.observer;
        self.batch.is_none()
            && !processing.is_busy()
            && ledger.is_empty()
            && ledger.questions() == 0
            && ledger.unacknowledged() == 0
            && ledger.left_bytes() == 0
            && processing.backlog().after().is_none()
            && processing.fan_outs() == 0
    }

    /// The process is killed. What was committed is left.
    pub(super) fn kill(self) -> Box<dyn Store> {
        self.processor.into_store().unwrap()
    }
}

/// The observer's own topics.
pub(super) fn topics() -> ServiceTopics {
    ServiceTopics::new("observer", "simulated")
}
