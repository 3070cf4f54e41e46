//! The observer's task: takes what comes in, and carries out what the ledger asks for.
//!
//! Owns the walk of a message from one owner of state to the next. Leaves connections, HTTP and the
//! store to tasks and threads of their own: it never waits for any of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::connections::publisher::PublisherEvent;
use crate::connections::session::SessionEvent;
use crate::delivery::ledger::Ledger;
use crate::http::api::handover::{Handover, Unserved};
use crate::mqtt::{Cause, LinkError};
use crate::observer::dots::{DotGate, GateEvent};
use crate::observer::exchange::Exchange;
use crate::observer::inbound::Inbound;
use crate::observer::journal::Journal;
use crate::observer::neighbours::{GiveWay, Neighbours};
use crate::observer::outage::Outages;
use crate::observer::processing::{Processing, ProcessorEvent};
use crate::observer::processor::{Decided, Processed};
use crate::observer::publishers::Publishers;
use crate::observer::reporter::StatusReporter;
use crate::observer::session::{ProbeSession, Session};
use crate::observer::setup::{ObserverError, Ready, Stopped};
use crate::observer::sharing::{Held, Sharing};
use crate::observer::shutdown::Patience;
use crate::observer::submissions::Submissions;
use crate::observer::webhooks::Webhooks;
use crate::protocol::publish::Publish;
use crate::rules::plan::Purpose;
use crate::rules::policy::Policy;
use crate::store::thread;
use crate::telemetry::CrashPoint;
use crate::telemetry::clock::{Clock, Now};
use crate::telemetry::health::Health;

/// Events taken before the ledger is asked what to do: enough to share the cost of a wake-up, few
/// enough to stay prompt.
pub(super) const EVENTS_AT_A_TIME: usize = 64;
/// How often overdue confirmations are looked for, and how things stand is reported.
const TICK: Duration = Duration::from_millis(500);

/// The observer's state. Each field owns a part of it; the methods here are those that touch
/// several.
pub(crate) struct Observer {
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    pub(super) session: Session,
    pub(super) inbound: Inbound,
    pub(super) submissions: Submissions,
    pub(super) processing: Processing,
    pub(super) publishers: Publishers,
    pub(super) webhooks: Webhooks,
    pub(super) journal: Journal,
    pub(super) reporter: StatusReporter,
    /// `None`: nobody asks for other observers.
    pub(super) neighbours: Option<Neighbours>,
    /// The observer to which this one gives way.
    pub(super) gives_way_to: Option<GiveWay>,
    /// What the log says of outages.
    pub(super) outages: Outages,
    pub(super) health: Health,
    /// Its share of the messages, where it serves one slot of several.
    pub(super) sharing: Option<Sharing>,
    /// Messages of other slots that may not be acknowledged yet.
    pub(super) held: Held,
    /// Whether the broker's exchange gives it its share, where that is how they are shared.
    pub(super) exchange: Exchange,
}

/// Where everything comes in.
pub(super) struct Inputs {
    /// What the session reports, held back until it is known what becomes of a `.`.
    pub(super) session: DotGate,
    pub(super) publisher_rx: mpsc::Receiver<PublisherEvent>,
    /// Each change of the checks.
    pub(super) policy: watch::Receiver<Arc<Policy>>,
    /// Tasks that run as long as the observer.
    pub(super) tasks: JoinSet<&'static str>,
    /// Ends the connections.
    pub(super) links_stop: CancellationToken,
    /// Asks the observer to stop.
    pub(super) stop: CancellationToken,
}

/// Who is told, once, that the observer is ready.
pub(super) struct ReadySignal {
    pub(super) sender: oneshot::Sender<Ready>,
    pub(super) filters: usize,
    pub(super) http: Option<SocketAddr>,
    pub(super) api: Option<SocketAddr>,
}

/// A timer for the observer's ticks.
pub(super) fn ticks() -> Interval {
    let mut ticks = interval(TICK);
    // After a pause of the process two ticks at once would measure nothing.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Observer {
    /// Runs until it is asked to stop, then finishes what is under way, in so far as there is time.
    pub(super) async fn run(
        mut self,
        mut inputs: Inputs,
        ready: ReadySignal,
        patience: Patience,
    ) -> Result<Stopped, ObserverError> {
        self.apply_policy(&mut inputs);
        let mut ready = Some(ready);
        let mut ticks = ticks();
        // Every branch is safe to cancel: a channel keeps what was not received, and the rest has
        // no state.
        loop {
            tokio::select! {
                biased;
                // First, because the others may never come to an end.
                _ = ticks.tick() => {
                    self.note_waiting(inputs.session.len());
                    self.tick();
                    // Our own message would wait behind the one that is held.
                    if !inputs.session.holds_message() {
                        self.probe_session();
                    }
                    self.report(inputs.session.len());
                }
                Some(event) = inputs.publisher_rx.recv() => self.handle_publisher(event),
                event = self.processing.next() => self.handle_processor(event)?,
                (pending, verdict) = self.inbound.next_verdict() => {
                    let now = self.clock.now();
                    let (ledger, journal) = (&mut self.ledger, &mut self.journal);
                    self.inbound.handle_verdict(pending, verdict, ledger, journal, now);
                }
                handover = self.submissions.next(), if self.has_room() => self.submit(handover),
                answered = self.webhooks.next() => {
                    self.webhooks.handle_answer(answered, self.clock.now());
                }
                event = inputs.session.next(), if self.has_room() => match event {
                    GateEvent::Session(event) => self.take_session(event, &mut inputs),
                    GateEvent::Answer(answer) => {
                        inputs.session.handle_answer(answer);
                        self.apply_policy(&mut inputs);
                    }
                },
                Ok(()) = inputs.policy.changed() => self.apply_policy(&mut inputs),
                ended = inputs.tasks.join_next() => return Err(task_ended(ended)),
                () = inputs.stop.cancelled() => break,
            }
            self.take_more(&mut inputs);
            self.act();
            CrashPoint::Turned.pass();
            if let Some(GiveWay { other, takes_all }) = self.gives_way_to.take() {
                let discards_session = takes_all && self.session.is_new();
                Box::pin(self.stop(inputs, Patience::default())).await;
                return Err(ObserverError::OtherObserver {
                    other,
                    discards_session,
                });
            }
            self.signal_ready(&mut ready);
            self.look_whether_passing();
        }
        Ok(Box::pin(self.stop(inputs, patience)).await)
    }

    /// Takes what has come in meanwhile, to share the cost of acting on it.
    fn take_more(&mut self, inputs: &mut Inputs) {
        for _ in 0..EVENTS_AT_A_TIME {
            let Ok(event) = inputs.publisher_rx.try_recv() else {
                break;
            };
            self.handle_publisher(event);
        }
        for _ in 0..EVENTS_AT_A_TIME {
            if !self.has_room() {
                break;
            }
            let Some(event) = inputs.session.try_recv() else {
                break;
            };
            self.take_session(event, inputs);
        }
    }

    /// Takes what a client of the HTTP API hands in.
    fn submit(&mut self, mut handover: Handover) {
        let now = self.clock.now();
        let submission = handover.take_submission();
        let (ledger, journal) = (&mut self.ledger, &mut self.journal);
        match self.inbound.submit(submission, ledger, journal, now) {
            Ok(entry) => self.submissions.wait(entry, handover),
            Err(refused) => handover.turn_away(Unserved::Refused(refused)),
        }
    }

    /// Whether another message may be taken.
    pub(super) fn has_room(&self) -> bool {
        let waiting = self.inbound.waiting();
        self.processing.has_room(&self.ledger, waiting)
    }

    /// Takes what the session reports. A new session has the broker asked about dots.
    fn take_session(&mut self, event: SessionEvent, inputs: &mut Inputs) {
        if let SessionEvent::Up { connected, .. } = &event {
            let policy = inputs.policy.borrow();
            let gate = &mut inputs.session;
            gate.handle_session_up(&policy, connected.session_present);
        }
        self.handle_session(event);
    }

    /// Applies the current policy, with what is known of the broker in place of "any".
    fn apply_policy(&mut self, inputs: &mut Inputs) {
        let policy = inputs.policy.borrow_and_update().clone();
        self.inbound.set_policy(inputs.session.apply(policy));
    }

    fn signal_ready(&self, ready: &mut Option<ReadySignal>) {
        if !self.publishers.all_up() {
            return;
        }
        let Some(connected) = self.session.proved() else {
            return;
        };
        // What comes for a slot without a session is lost.
        if self.sharing_fault(self.clock.now().instant).is_some() {
            return;
        }
        if let Some(signal) = ready.take() {
            // It is all right if nobody listens.
            let _ = signal.sender.send(Ready {
                connected,
                filters: signal.filters,
                http: signal.http,
                api: signal.api,
            });
        }
    }

    /// What is to be done at intervals, also while stopping.
    pub(super) fn tick(&mut self) {
        let now = self.clock.now();
        if self.publishers.set_apart(&mut self.ledger, now.instant) {
            let (canary, ledger) = (self.probe(now), &mut self.ledger);
            self.inbound.publish_canaries(canary, ledger, now);
        }
        self.processing.tick_backlog(&self.ledger, now);
        if self.session.is_up() {
            self.session.acknowledge(&mut self.ledger);
            self.processing.tick(&self.ledger, &self.session);
        }
        if self.session.poll_pinged() {
            self.ledger.age_acknowledged();
        }
        if self.ledger.expects_redeliveries()
            && self.publishers.all_up()
            && self.session.poll_behind_redelivered(now)
        {
            self.publish_own(self.probe(now), now);
        }
        self.tick_sharing(now);
    }

    /// Takes what the session's connection reports.
    pub(super) fn handle_session(&mut self, event: SessionEvent) {
        match event {
            // From here on the ledger counts its bytes, so its share of the read-ahead ends.
            SessionEvent::Message {
                delivery, read_at, ..
            } => self.handle_message(delivery, read_at),
            SessionEvent::Up {
                connection,
                client,
                connected,
            } => {
                let now = self.clock.now();
                self.reporter.handle_session_up(now.instant);
                if let Some(neighbours) = &mut self.neighbours {
                    neighbours.handle_session_up();
                }
                let ledger = &mut self.ledger;
                let at = now.instant;
                self.session
                    .handle_up(connection, client, connected, ledger, at);
                self.note_session_up();
                self.tell_session();
            }
            SessionEvent::Subscribed { connection } => {
                self.session.handle_subscribed(connection);
                self.note_subscribed();
                self.probe_session();
                self.ask_for_neighbours();
            }
            SessionEvent::Renewing { connection } => {
                if self.session.handle_renewing(connection, &mut self.ledger) {
                    self.processing.handle_session_lost();
                    self.tell_session();
                }
            }
            SessionEvent::AcksArrived => self.ledger.handle_acks_arrived(),
            SessionEvent::Down(error) => {
                self.session.handle_lost(&mut self.ledger);
                self.tell_session();
                self.processing.handle_session_lost();
                self.session.set_fault(error.to_string());
                self.note_lost(&error);
            }
        }
    }

    /// Tells the log of a connection that is lost, unless it is to be had again with a new token.
    fn note_lost(&mut self, error: &LinkError) {
        if error.cause == Cause::Renewed {
            return;
        }
        let now = self.clock.now().instant;
        if let Some(line) = self.outages.handle_lost(error.is_permanent(), now) {
            line.log(&error.text);
        }
    }

    /// Asks who else runs, once on each connection.
    fn ask_for_neighbours(&mut self) {
        let now = self.clock.now();
        if self.publishers.all_up()
            && self.session.is_subscribed()
            && let Some(neighbours) = &mut self.neighbours
            && let Some(question) = neighbours.poll_question(now.instant)
        {
            self.inbound.publish_apart(question, &mut self.ledger, now);
        }
    }

    /// Sends the observer a message of its own, if the loopback test wants one.
    fn probe_session(&mut self) {
        let now = self.clock.now();
        let idle = self.publishers.all_up() && self.ledger.is_idle();
        if self.session.poll_probe(idle, now.instant) == ProbeSession::Due {
            self.publish_own(self.probe(now), now);
        }
    }

    /// A message of the observer to itself.
    pub(super) fn probe(&self, now: Now) -> Publish {
        let payload = Bytes::from(now.wall.as_millis().to_string());
        Publish::new(self.reporter.topics.probe.clone(), payload)
    }

    /// Has messages decided on, then does what the ledger asks for: publishes and acknowledges.
    pub(super) fn act(&mut self) {
        let now = self.clock.now();
        if self.session.proved().is_some() {
            self.inbound.handle_session_proved();
        }
        self.decide();
        loop {
            self.publishers.publish(&mut self.ledger, now.instant);
            let Some(failed) = self.ledger.poll_failed() else {
                break;
            };
            self.journal.failed(&failed);
            let answers = self.inbound.answers_to(&failed, now);
            self.ledger.resolve(failed, answers);
        }
        self.session.acknowledge(&mut self.ledger);
        while let Some(finished) = self.ledger.poll_finished() {
            let address = match self.journal.collects_lines() {
                true => self.inbound.address(&finished.message.received),
                false => None,
            };
            self.journal.finished(&finished, address.as_ref(), now);
            self.inbound.handle_finished(&finished.message.received);
        }
        self.publish_trace();
    }

    /// Begins the next batch. Without a store it goes on until nothing is left to do, because no
    /// event would bring it back here.
    fn decide(&mut self) {
        loop {
            let now = self.clock.now();
            let (inbound, webhooks) = (&mut self.inbound, &mut self.webhooks);
            match self
                .processing
                .begin(inbound, webhooks, &mut self.ledger, now)
            {
                Some(processed) => self.handle_processed(processed),
                None => break,
            }
        }
    }

    /// Takes what the store's thread reports.
    pub(super) fn handle_processor(
        &mut self,
        event: Option<ProcessorEvent>,
    ) -> Result<(), ObserverError> {
        match event {
            None => return Err(ObserverError::TaskEnded("store".to_owned())),
            Some(thread::Event::Processed(processed)) => self.handle_processed(processed),
            Some(thread::Event::Failing(fault)) => {
                self.submissions.set_store_fails(true);
                self.health.set_store(Some(fault));
            }
            Some(thread::Event::Recovered) => {
                self.submissions.set_store_fails(false);
                self.health.set_store(None);
            }
        }
        Ok(())
    }

    fn handle_processed(&mut self, processed: Processed) {
        let now = self.clock.now();
        let dropped = &processed.dropped;
        self.webhooks
            .handle_outbox_reply(processed.outbox_reply, dropped, now);
        for decided in processed.decided {
            self.handle_decided(decided, now);
        }
        let ledger = &mut self.ledger;
        self.processing.handle_read(processed.read, ledger, now);
        if let Some(left) = processed.left {
            self.processing.handle_left_read(left, ledger, now);
        }
        CrashPoint::Decided.pass();
    }

    /// Queues what a decision leads to. If nothing more follows, the message waits only for its
    /// confirmations.
    fn handle_decided(&mut self, decided: Decided, now: Now) {
        self.processing.handle_decided(&decided);
        let entry = decided.entry;
        if decided.first {
            self.inbound.handle_batched(&decided);
        }
        if decided.is_question {
            return self.ledger.question_logged(entry);
        }
        let (received, id) = self.ledger.message(entry);
        if decided.first {
            let publishes = &decided.publishes;
            self.journal
                .decided((received, id), decided.refusal, publishes);
            self.submissions.handle_decided(&decided, id);
            self.inbound.charge_members(received, decided.members, now);
        } else if let Some(reason) = decided.refusal {
            self.journal.dropped((received, id), reason);
        }
        if let Some(bytes) = decided.left_to_log {
            return self.leave_to_log(&decided, bytes, now);
        }
        self.journal.fanned_out(id, &decided.bulk);
        if decided.logged {
            self.ledger.logged(entry);
        }
        self.ledger.add(entry, decided.publishes, Purpose::Copy);
        self.ledger.add(entry, decided.bulk, Purpose::BulkCopy);
        if let Some(reason) = decided.refusal {
            let (answers, ledger) = (decided.answers, &mut self.ledger);
            let may_answer = decided.may_answer;
            self.inbound
                .answer(entry, reason, (answers, may_answer), ledger, now);
        }
        if decided.done {
            self.ledger.decided(entry);
        }
    }

    /// Leaves what a message leads to to the delivery log. If that is nothing but answers that its
    /// sender may not have, it is forgotten.
    fn leave_to_log(&mut self, decided: &Decided, bytes: u64, now: Now) {
        let (entry, ledger) = (decided.entry, &mut self.ledger);
        // Who is blocked, and must not know it, gets their own copy, and the dead letter with it.
        let answered = decided.refusal.filter(|_| decided.publishes.is_empty());
        let may_answer = answered.is_none_or(|reason| {
            self.inbound
                .may_answer(entry, reason, decided.may_answer, ledger, now)
        });
        if decided.is_known() {
            let (received, _) = ledger.message(entry);
            self.inbound.handle_finished(received);
        }
        if may_answer {
            ledger.leave_to_log(entry);
            self.processing.handle_left(bytes);
        } else {
            ledger.logged(entry);
            ledger.decided(entry);
        }
    }

    /// Takes what a publishing connection reports.
    pub(super) fn handle_publisher(&mut self, event: PublisherEvent) {
        let is_up = matches!(event, PublisherEvent::Up { .. });
        if let PublisherEvent::Refused { error } = &event {
            self.note_lost(error);
        }
        self.publishers.handle(event, &mut self.ledger);
        if is_up {
            self.probe_session();
            self.ask_for_neighbours();
        }
    }
}

fn task_ended(ended: Option<Result<&'static str, JoinError>>) -> ObserverError {
    ObserverError::TaskEnded(match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "last".to_owned(),
    })
}
