//! Between a message's arrival and its publishes: decode, look up, plan, write down. A batch at a time: what came while the store was
//! busy with the batch before shares one transaction, and nothing of it is published before that is committed.
//!
//! With a store it runs in the store's thread ([`spawn`]), without one in the daemon's task. It does not know the broker: the daemon
//! hands jobs in and takes decisions out.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, mpsc as thread_mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::delivery::ledger::EntryId;
use crate::delivery::pending::PendingMessage;
use crate::protocol::layout::PayloadMode;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::time::UnixMillis;
use crate::rules::facts::NoStore;
use crate::rules::fan_out::{FanOut, STEP, Step};
use crate::rules::plan::{Acknowledgement, Arrival, Plan};
use crate::rules::policy::Policy;
use crate::rules::router::Router;
use crate::rules::webhook_event::Event as WebhookEvent;
use crate::rules::write::Write;
use crate::store::{
    Committed, Origin, Outbox, OutboxReply, OutboxRequest, Probe, Retention, Store, StoreError,
    UPKEEP_DUE, Written,
};
use crate::telemetry::Metrics;

/// How long to wait before a store that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// The least time between two commits of messages: each costs the same, however much is in it, and what comes meanwhile goes into the next. Nothing
/// waits while little goes on.
const SPACING: Duration = Duration::from_millis(3);
/// So many messages are worth a commit at once.
const ENOUGH: usize = 32;
/// While nothing is written, how often it is tried whether the store would take something: readiness must not wait for a message.
const PROBE: Duration = Duration::from_millis(400);
/// Every how manyth time something is written for it: whether somebody else holds the lock is seen without.
const PROBES_PER_WRITE: u64 = 3;
/// How often retention looks whether there is something to do, and how long it leaves the store alone between two steps.
const RETENTION: (Duration, Duration) = (Duration::from_secs(60), Duration::from_millis(20));

/// What came together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Messages, in the order they came.
    pub jobs: Vec<PendingMessage>,
    /// How many copies for many may be made.
    pub room_for_many: usize,
    /// The last message whose acknowledgement has surely arrived.
    pub acknowledged: Option<MessageId>,
    /// The last message of which all is confirmed, and of all before it.
    pub finished: Option<MessageId>,
    /// The checks to go by.
    pub policy: Arc<Policy>,
    /// What is wanted of the outbox.
    pub outbox_request: OutboxRequest,
    /// The time.
    pub now: UnixMillis,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Processed {
    /// What its messages lead to.
    pub decided: Vec<Decided>,
    /// What endpoints of webhooks are to be told now, and what waits for them.
    pub given: OutboxReply,
    /// Events that have given way to others, for each endpoint.
    pub dropped: Vec<u64>,
}

/// What a message leads to: all of it, or one step more.
#[derive(Debug)]
pub struct Decided {
    /// Which message.
    pub entry: EntryId,
    /// Whether this is the first that is said of it.
    pub first: bool,
    /// What is to be published.
    pub publishes: Vec<Publish>,
    /// What is to be published to many.
    pub for_many: Vec<Publish>,
    /// What is said of a refusal.
    pub answers: Vec<Publish>,
    /// The reason, if it is refused.
    pub refusal: Option<Refusal>,
    /// Whether that is all.
    pub done: bool,
}

/// Fan-outs of one group, oldest first: each member gets them in that order. Others stand alone.
#[derive(Clone, Debug)]
struct Queue {
    group: Option<(Box<str>, Box<str>)>,
    waiting: VecDeque<(EntryId, Origin, FanOut)>,
}

/// What is written down, and where.
#[derive(Debug, Default)]
struct Persistence {
    store: Option<Box<dyn Store>>,
    /// Without a store: what webhooks are to be told of, in memory.
    outbox: Option<Box<dyn Outbox>>,
    /// Events of this batch that have given way to others, for each endpoint of webhooks.
    dropped: Vec<u64>,
}

/// Decides, and writes down.
#[derive(Debug)]
pub struct Processor {
    router: Router,
    persistence: Persistence,
    metrics: Metrics,
    /// What goes to many and is not finished, each group in turn.
    fan_outs: VecDeque<Queue>,
    /// What has been written down since the last checkpoint was asked for.
    written: usize,
}

impl Processor {
    /// With a store, or as a pure forwarder.
    pub fn new(router: Router, store: Option<Box<dyn Store>>) -> Self {
        Self {
            router,
            persistence: Persistence {
                store,
                ..Persistence::default()
            },
            metrics: Metrics::new(&[]),
            fan_outs: VecDeque::new(),
            written: 0,
        }
    }

    /// The same with an outbox in memory, for want of a store.
    #[must_use]
    pub fn with_outbox(mut self, outbox: Option<Box<dyn Outbox>>) -> Self {
        self.persistence.outbox = outbox;
        self
    }

    /// The same, and what it does is counted there.
    #[must_use]
    pub fn measured_by(self, metrics: Metrics) -> Self {
        Self { metrics, ..self }
    }

    #[cfg(test)]
    pub(crate) fn store_mut(&mut self) -> Option<&mut dyn Store> {
        Some(self.persistence.store.as_mut()?.as_mut())
    }

    /// Decides on a batch. With a store, what is returned is written down.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the batch has happened, and it can be tried again.
    pub fn process(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        self.router.policy = batch.policy.clone();
        self.persistence.dropped.clear();
        if self.persistence.store.is_none() {
            return self.process_all(batch);
        }
        let before = self.fan_outs.clone();
        let processed = self.in_transaction(batch);
        if processed.is_err() {
            self.metrics.store_failed();
            self.fan_outs = before;
            if let Some(store) = &mut self.persistence.store {
                store.rollback();
            }
        }
        processed
    }

    fn in_transaction(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        if let Some(store) = &mut self.persistence.store {
            store.begin()?;
            if let Some(id) = batch.acknowledged {
                store.acknowledge(id)?;
            }
            store.note_finished(batch.finished);
        }
        let processed = self.process_all(batch)?;
        if let Some(store) = &mut self.persistence.store {
            let since = clock().0;
            // What only looks is not worth measuring.
            if store.commit()? == Committed::Changed {
                self.metrics.committed(since.elapsed(), batch.jobs.len());
            }
        }
        Ok(processed)
    }

    /// Tries whether the store would take something.
    ///
    /// # Errors
    /// [`StoreError`]: it would not.
    pub fn probe(&mut self, probe: Probe) -> Result<(), StoreError> {
        let Some(store) = &mut self.persistence.store else {
            return Ok(());
        };
        let tried = store.probe(probe);
        self.written += usize::from(probe == Probe::Write);
        if tried.is_err() {
            self.metrics.store_failed();
            store.rollback();
        }
        tried
    }

    fn process_all(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        let decided = self.decide_all(batch)?;
        let Some(outbox) = self.persistence.outbox() else {
            return Ok(Processed {
                decided,
                ..Processed::default()
            });
        };
        // Behind the messages: what they have brought about is handed out at once.
        let given = outbox.serve_outbox(&batch.outbox_request, batch.now)?;
        Ok(Processed {
            decided,
            dropped: std::mem::take(&mut self.persistence.dropped),
            given,
        })
    }

    fn decide_all(&mut self, batch: &Batch) -> Result<Vec<Decided>, StoreError> {
        let mut all = Vec::with_capacity(batch.jobs.len() + 1);
        let mut room = batch.room_for_many;
        for job in &batch.jobs {
            let (mut decided, origin, fan_out) = self.decide(job, batch.now)?;
            if let Some(fan_out) = fan_out {
                let queue = self.queue_of(&fan_out);
                let waits = self.fan_outs.get(queue).is_some();
                let rest = if room > 0 && !waits {
                    let (publishes, rest) = self.take_step(&fan_out, &origin)?;
                    room = room.saturating_sub(publishes.len().max(1));
                    decided.for_many = publishes;
                    rest
                } else {
                    Some(fan_out)
                };
                decided.done = rest.is_none();
                if let Some(rest) = rest {
                    self.enqueue(job.entry, origin, rest);
                }
            }
            all.push(decided);
        }
        while room > 0 {
            let Some(mut queue) = self.fan_outs.pop_front() else {
                break;
            };
            let Some((entry, origin, fan_out)) = queue.waiting.pop_front() else {
                continue;
            };
            let (publishes, rest) = self.take_step(&fan_out, &origin)?;
            room = room.saturating_sub(publishes.len().max(STEP));
            all.push(Decided {
                entry,
                first: false,
                publishes: vec![],
                for_many: publishes,
                answers: vec![],
                refusal: None,
                done: rest.is_none(),
            });
            if let Some(rest) = rest {
                queue.waiting.push_front((entry, origin, rest));
            }
            if !queue.waiting.is_empty() {
                self.fan_outs.push_back(queue);
            }
        }
        Ok(all)
    }

    /// The queue a fan-out has to wait in, if there is one.
    fn queue_of(&self, fan_out: &FanOut) -> usize {
        let group = fan_out.group();
        let same = |queue: &Queue| {
            let of = queue.group.as_ref().map(|(app, group)| (&**app, &**group));
            of.is_some() && of == group
        };
        self.fan_outs
            .iter()
            .position(same)
            .unwrap_or(self.fan_outs.len())
    }

    fn enqueue(&mut self, entry: EntryId, origin: Origin, fan_out: FanOut) {
        let at = self.queue_of(&fan_out);
        if at == self.fan_outs.len() {
            let group = fan_out
                .group()
                .map(|(app, group)| (app.into(), group.into()));
            self.fan_outs.push_back(Queue {
                group,
                waiting: VecDeque::new(),
            });
        }
        self.fan_outs[at]
            .waiting
            .push_back((entry, origin, fan_out));
    }

    /// Decides on one message, writes down what its plan says, and returns what goes to many.
    fn decide(
        &mut self,
        job: &PendingMessage,
        now: UnixMillis,
    ) -> Result<(Decided, Origin, Option<FanOut>), StoreError> {
        let origin = Origin {
            id: job.id,
            fingerprint: job.fingerprint,
            repeated: job.repeated,
            now,
        };
        let received = self.as_stored(job)?;
        let refused = job
            .refused
            .as_ref()
            .filter(|_| matches!(received, Cow::Borrowed(_)));
        let request = match refused {
            Some(refused) => Err(refused.clone()),
            None => self.router.read(&received).map_err(Refused::from),
        };
        let arrival = Arrival {
            received: &received,
            id: job.id,
            acknowledgement: match job.fingerprint {
                Some(_) => Acknowledgement::Expected,
                None => Acknowledgement::None,
            },
        };
        let plan = match (&request, &mut self.persistence.store) {
            (Ok(request), Some(store)) => self.router.plan(request, &arrival, store.as_mut())?,
            (Ok(request), None) => {
                let Ok(plan) = self.router.plan(request, &arrival, &mut NoStore);
                plan
            }
            (Err(refused), _) => self.router.refuse(&received, refused, job.id.time()),
        };
        let Plan {
            publishes,
            answers,
            writes,
            fan_out,
            events,
            refusal,
        } = plan;
        self.written += writes.len();
        self.persistence.apply(&writes, events, &origin)?;
        let decided = Decided {
            entry: job.entry,
            first: true,
            publishes,
            for_many: vec![],
            answers,
            refusal,
            done: true,
        };
        Ok((decided, origin, fan_out))
    }

    /// A message that comes again, as it was stored when it came first: what the decision service put in its place stays there, and what
    /// has passed once passes. Anything else as it is.
    fn as_stored<'a>(&self, job: &'a PendingMessage) -> Result<Cow<'a, Received>, StoreError> {
        let as_it_is = Cow::Borrowed(&job.received);
        let Some(store) = self.persistence.store.as_ref().filter(|_| job.repeated) else {
            return Ok(as_it_is);
        };
        let is_envelope = self.router.address(&job.received).is_some_and(|address| {
            let outgoing = address.outgoing();
            outgoing.is_some_and(|outgoing| outgoing.layout.payload() == PayloadMode::Envelope)
        });
        if !is_envelope {
            return Ok(as_it_is);
        }
        Ok(match store.body(job.id)? {
            Some(body) => Cow::Owned(Received::new(
                job.received.topic.clone(),
                body.into(),
                job.received.retain,
            )),
            None => as_it_is,
        })
    }

    fn take_step(
        &mut self,
        fan_out: &FanOut,
        origin: &Origin,
    ) -> Result<(Vec<Publish>, Option<FanOut>), StoreError> {
        let page = match (fan_out.query(), &self.persistence.store) {
            (Some((app, user, query)), Some(store)) => Some(store.page(app, user, &query)?),
            _ => None,
        };
        let Step {
            publishes,
            writes,
            events,
            rest,
        } = fan_out.step(&self.router.layouts, page);
        self.written += writes.len();
        self.persistence.apply(&writes, events, origin)?;
        Ok((publishes, rest))
    }
}

impl Persistence {
    /// What webhooks are to be told of, if there are any.
    fn outbox(&mut self) -> Option<&mut dyn Outbox> {
        match (&mut self.store, &mut self.outbox) {
            (Some(store), _) => Some(store.as_mut()),
            (None, Some(outbox)) => Some(outbox.as_mut()),
            (None, None) => None,
        }
    }

    /// Writes down what a plan says, and what webhooks are to be told of it. What has happened before, and has come again, they have
    /// been told of in the same transaction: a copy that was there already is no news, and of anything else the plan says whether it is.
    fn apply(
        &mut self,
        writes: &[Write<'_>],
        mut events: Vec<WebhookEvent>,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        match &mut self.store {
            Some(store) => {
                for write in writes {
                    let written = store.apply(write, origin)?;
                    if let (Write::Copy(copy), Written::Known) = (write, written) {
                        let inbox_of = copy.timeline.inbox_of.as_str();
                        events.retain(|event| event.copy_of.as_deref() != Some(inbox_of));
                    }
                }
            }
            None if origin.repeated => return Ok(()),
            None => {}
        }
        for event in &events {
            let Some(outbox) = self.outbox() else {
                return Ok(());
            };
            let dropped = outbox.enqueue(event, origin.now)?;
            self.dropped.resize(dropped.len(), 0);
            for (sum, dropped) in self.dropped.iter_mut().zip(dropped) {
                *sum += dropped;
            }
        }
        Ok(())
    }
}

/// What the store's thread says.
#[derive(Debug)]
pub enum Event {
    /// A batch is decided on and written down.
    Decided(Processed),
    /// The store fails; the batch is tried until it does no more.
    Failing(String),
    /// It does no more.
    Recovered,
}

/// Why the store's thread cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The system gives none.
    #[error("cannot start a thread")]
    Thread(#[from] std::io::Error),
    /// Its upkeep cannot open the store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The store's thread, and the channels to it.
#[derive(Debug)]
pub struct Handle {
    batches: thread_mpsc::SyncSender<Batch>,
    /// What it says.
    pub events: mpsc::Receiver<Event>,
    thread: JoinHandle<()>,
}

impl Handle {
    /// Hands a batch over. There may be one at a time: the next when this one is decided on.
    pub fn process(&self, batch: Batch) {
        // The thread ends early only if it panics; then its event channel closes, which the daemon notices.
        let _ = self.batches.try_send(batch);
    }

    /// Ends the thread: what it has begun is finished or taken back.
    pub fn join(self) {
        drop((self.batches, self.events));
        let _ = self.thread.join();
    }
}

/// Starts the store's thread, and one that checkpoints beside it. They end when the handle is joined, or soon after `stop` is
/// cancelled while the store fails.
///
/// # Errors
/// The system's, if there can be no thread, or the store's.
pub fn spawn(
    processor: Processor,
    retention: Retention,
    stop: CancellationToken,
) -> Result<Handle, SpawnError> {
    // One batch at a time, and an answer or a word about failing for each.
    let (batches_tx, batches_rx) = thread_mpsc::sync_channel(1);
    let (events_tx, events_rx) = mpsc::channel(4);
    // Asked for again while it runs, it runs once more.
    let (due_tx, due_rx) = thread_mpsc::sync_channel(1);
    let upkeep = match &processor.persistence.store {
        Some(store) => store.upkeep()?,
        None => None,
    };
    if let Some(mut upkeep) = upkeep {
        let run = move || {
            while due_rx.recv().is_ok() {
                // What it could not move the next one does, or in the end the store's thread.
                if let Err(fault) = upkeep.run() {
                    debug!(error = %fault, "checkpoint");
                }
            }
        };
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(run)?;
    }
    let thread = std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || {
            Worker {
                processor,
                retention,
                events: events_tx,
                checkpoint_due: due_tx,
                stop,
            }
            .run(&batches_rx);
        })?;
    Ok(Handle {
        batches: batches_tx,
        events: events_rx,
        thread,
    })
}

struct Worker {
    processor: Processor,
    retention: Retention,
    events: mpsc::Sender<Event>,
    checkpoint_due: thread_mpsc::SyncSender<()>,
    stop: CancellationToken,
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: retention goes by the clock, between two batches"
)]
fn clock() -> (Instant, UnixMillis) {
    (
        Instant::now(),
        UnixMillis::from(std::time::SystemTime::now()),
    )
}

impl Worker {
    fn run(mut self, batches: &thread_mpsc::Receiver<Batch>) {
        let mut due = clock().0;
        let mut last: Option<Instant> = None;
        let (mut tried, mut probes) = (clock().0, 0_u64);
        loop {
            let next = due.min(tried + PROBE);
            let wait = next.saturating_duration_since(clock().0);
            match batches.recv_timeout(wait) {
                Ok(batch) => {
                    let parts = batch.jobs.len() + batch.outbox_request.results.len();
                    if (1..ENOUGH).contains(&parts) {
                        let early = last.and_then(|last| SPACING.checked_sub(last.elapsed()));
                        std::thread::sleep(early.unwrap_or_default());
                    }
                    if parts > 0 {
                        last = Some(clock().0);
                    }
                    let Some(processed) = self.process(&batch) else {
                        return;
                    };
                    tried = clock().0;
                    if self
                        .events
                        .blocking_send(Event::Decided(processed))
                        .is_err()
                    {
                        return;
                    }
                }
                Err(thread_mpsc::RecvTimeoutError::Timeout) => {}
                Err(thread_mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if self.processor.written >= UPKEEP_DUE {
                self.processor.written = 0;
                // One that is asked for already will do.
                let _ = self.checkpoint_due.try_send(());
            }
            if clock().0 >= due {
                due = clock().0 + self.prune();
            }
            if clock().0 >= tried + PROBE {
                probes += 1;
                let probe = if probes.is_multiple_of(PROBES_PER_WRITE) {
                    Probe::Write
                } else {
                    Probe::Lock
                };
                if self.attempt(|processor| processor.probe(probe)).is_none() {
                    return;
                }
                tried = clock().0;
            }
        }
    }

    /// Tries until it succeeds: nothing is published or acknowledged meanwhile, so nothing is lost. `None`, if it is to stop instead.
    fn process(&mut self, batch: &Batch) -> Option<Processed> {
        self.attempt(|processor| processor.process(batch))
    }

    fn attempt<T>(&mut self, what: impl Fn(&mut Processor) -> Result<T, StoreError>) -> Option<T> {
        let mut failing = false;
        loop {
            match what(&mut self.processor) {
                Ok(done) => {
                    if failing {
                        info!("the store works again");
                        self.events.blocking_send(Event::Recovered).ok()?;
                    }
                    return Some(done);
                }
                Err(fault) => {
                    if !failing {
                        failing = true;
                        error!(
                            error = %fault,
                            "the store fails: nothing is forwarded until it works again, and the broker keeps what comes"
                        );
                        let event = Event::Failing(fault.to_string());
                        self.events.blocking_send(event).ok()?;
                    }
                    std::thread::sleep(RETRY);
                    if self.stop.is_cancelled() {
                        return None;
                    }
                }
            }
        }
    }

    /// One step of retention, if any is wanted. Returns when the next is due.
    fn prune(&mut self) -> Duration {
        let Some(store) = self
            .processor
            .persistence
            .store
            .as_mut()
            .filter(|_| self.retention != Retention::default())
        else {
            return RETENTION.0;
        };
        match store.prune_step(&self.retention, clock().1) {
            Ok(true) => RETENTION.1,
            Ok(false) => RETENTION.0,
            Err(fault) => {
                error!(error = %fault, "retention: old messages could not be deleted");
                RETENTION.0
            }
        }
    }
}

#[cfg(test)]
mod tests;
