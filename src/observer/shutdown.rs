//! How the observer stops.
//!
//! Owns the order: no new messages, what is under way is finished, the status says that the
//! observer is gone, DISCONNECT, a last commit. What was not acknowledged, the broker keeps;
//! what was acknowledged and not confirmed, the delivery log.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::connections::publisher::PublisherEvent;
use crate::connections::session::SessionEvent;
use crate::observer::event_loop::{Inputs, Observer, ticks};
use crate::observer::processor::Batch;
use crate::observer::setup::Stopped;
use crate::protocol::message_id::MessageId;
use crate::store::OutboxRequest;
use crate::telemetry::status::Status;

/// Limit for getting the DISCONNECTs out.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// The least time for the status that says that the observer is gone, however long the rest took.
const OFFLINE_STATUS_TIME: Duration = Duration::from_secs(1);

/// How long a stop waits for what is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Patience {
    /// At most.
    pub(super) drain: Duration,
    /// For what the delivery log holds, or the broker, if another observer may wait for this one's
    /// place: that one goes on with it.
    pub(super) hand_over: Option<Duration>,
}

const UNDECIDED: &str = "messages in the store still wait for the decision service: the next start \
    asks about them";

/// Whether the broker has everything that was sent to it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    /// It closed the session's connection after our DISCONNECT, so it has the acks before that.
    Taken,
    /// There was no session, its connection failed, or there was no answer in time.
    Unsure,
}

impl Goodbye {
    fn note(&mut self, event: &SessionEvent) {
        if let SessionEvent::AcksArrived = event {
            *self = Self::Taken;
        }
    }
}

impl Observer {
    /// Finishes what is under way, in so far as there is time for it, and disconnects. Messages
    /// that come meanwhile stay unacknowledged.
    pub(super) async fn stop(mut self, mut inputs: Inputs, patience: Patience) -> Stopped {
        let under_way = self.ledger.unacknowledged();
        info!(
            under_way,
            "stopping: no new messages, waiting for those under way"
        );
        self.reporter.service.stopping(under_way);
        self.webhooks.handle_stop();
        self.processing.handle_stop();
        self.inbound.handle_stop();
        self.note_stopping();
        self.ledger.forget_own();
        let began = Instant::now();
        let deadline = began + patience.drain;
        let hand_over = patience.hand_over.map(|time| began + time);
        let mut discarded = self.drain(&mut inputs, deadline, hand_over).await;
        let drained = hand_over.map_or(deadline, |_| Instant::now());
        discarded += self.publish_offline(&mut inputs, drained).await;
        let unacknowledged = self.ledger.unacknowledged();
        let (acknowledged, discarded_last) = self.disconnect(&mut inputs).await;
        let left_unacknowledged = unacknowledged + discarded + discarded_last;
        let stats_of = self.journal.metrics.clone();
        let unconfirmed = self.ledger.unconfirmed();
        let undecided = self.ledger.questions();
        if undecided > 0 {
            info!(undecided, "{UNDECIDED}");
        }
        self.commit_last(acknowledged).await;
        let stats = stats_of.stats();
        stats.log(left_unacknowledged, unconfirmed);
        Stopped {
            stats,
            left_unacknowledged,
        }
    }

    /// Waits until nothing is under way, or until `deadline`; from `hand_over` on only for what
    /// neither the delivery log holds nor the broker. Returns how many messages that came meanwhile
    /// were left to the broker.
    async fn drain(
        &mut self,
        inputs: &mut Inputs,
        deadline: Instant,
        hand_over: Option<Instant>,
    ) -> usize {
        let mut discarded = 0;
        let mut ticks = ticks();
        self.act();
        let mut is_handed_over = hand_over.is_none();
        while !self.ledger.is_empty() || self.webhooks.holds_up_stop(self.processing.is_busy()) {
            let may_hand_over = hand_over.is_some_and(|at| Instant::now() >= at);
            if may_hand_over && self.ledger.is_kept() {
                break;
            }
            tokio::select! {
                biased;
                () = sleep_until(deadline) => break,
                () = sleep_until(hand_over.unwrap_or(deadline)), if !is_handed_over => {
                    is_handed_over = true;
                }
                _ = ticks.tick() => {
                    self.tick();
                    self.report(0);
                }
                Some(event) = inputs.publisher_rx.recv() => self.handle_publisher(event),
                event = self.processing.next() => {
                    if self.handle_processor(event).is_err() {
                        break;
                    }
                }
                (pending, verdict) = self.inbound.next_verdict() => {
                    let now = self.clock.now();
                    let (ledger, journal) = (&mut self.ledger, &mut self.journal);
                    self.inbound.handle_verdict(pending, verdict, ledger, journal, now);
                }
                answered = self.webhooks.next() => {
                    self.webhooks.handle_answer(answered, self.clock.now());
                }
                Some(event) = inputs.session.recv_any() => discarded += self.discard(event),
            }
            self.act();
        }
        discarded
    }

    /// Takes what the session reports while stopping, but for messages. Returns how many messages
    /// were left to the broker.
    fn discard(&mut self, event: SessionEvent) -> usize {
        match event {
            SessionEvent::Message { delivery, .. } => {
                let is_own = self.reporter.topics.own(&delivery.received.topic).is_some();
                usize::from(delivery.packet_id.is_some() && !is_own)
            }
            SessionEvent::Up { .. }
            | SessionEvent::Subscribed { .. }
            | SessionEvent::Renewing { .. }
            | SessionEvent::AcksArrived
            | SessionEvent::Down(_) => {
                self.handle_session(event);
                0
            }
        }
    }

    /// Has the broker retain that the observer is gone. `drained`: until when what is under way may
    /// take. Returns how many messages that came meanwhile were left to the broker.
    async fn publish_offline(&mut self, inputs: &mut Inputs, drained: Instant) -> usize {
        let mut discarded = 0;
        if !self.reporter.retains() || !self.session.is_up() {
            return discarded;
        }
        let status = Status::offline().publish(&self.reporter.topics.status);
        self.publish_own(status.clone(), self.clock.now());
        let now = Instant::now();
        let deadline = drained.clamp(now + OFFLINE_STATUS_TIME, now + DISCONNECT_TIMEOUT);
        self.act();
        // What is left of the messages has had its time.
        let others = self.ledger.unconfirmed().saturating_sub(1);
        while self.ledger.unconfirmed() > others {
            tokio::select! {
                biased;
                () = sleep_until(deadline) => break,
                Some(event) = inputs.publisher_rx.recv() => self.handle_publisher(event),
                event = self.processing.next() => {
                    if self.handle_processor(event).is_err() {
                        break;
                    }
                }
                Some(event) = inputs.session.recv_any() => discarded += self.discard(event),
            }
            self.act();
        }
        if self.ledger.unconfirmed() > others {
            // Ahead of the DISCONNECT, which has the broker forget the will.
            self.session.publish_unconfirmed(&status);
        }
        discarded
    }

    /// Disconnects, and waits until the connections' tasks have ended. Returns up to which message
    /// the broker is known to have the acks, and how many that came meanwhile were left to it.
    async fn disconnect(&mut self, inputs: &mut Inputs) -> (Option<MessageId>, usize) {
        // No ack goes out after the DISCONNECT, whatever is committed meanwhile.
        let acknowledged = self.ledger.settled_up_to();
        self.session.disconnect();
        self.publishers.disconnect_all();
        inputs.links_stop.cancel();
        let deadline = Instant::now() + DISCONNECT_TIMEOUT;
        let mut discarded = 0;
        let mut goodbye = Goodbye::Unsure;
        // What serves HTTP answers to the last, and is dropped with the rest.
        let connections = self.publishers.len() + 1;
        let servers = inputs.tasks.len().saturating_sub(connections);
        while inputs.tasks.len() > servers {
            tokio::select! {
                _ = inputs.tasks.join_next() => {}
                Some(event) = inputs.publisher_rx.recv() => {
                    // A connection that has just come up must go again.
                    if let PublisherEvent::Up { client, .. } = &event {
                        let _ = client.disconnect();
                    }
                    self.handle_publisher(event);
                }
                Some(event) = inputs.session.recv_any() => {
                    if let SessionEvent::Up { client, .. } = &event {
                        let _ = client.disconnect();
                    }
                    goodbye.note(&event);
                    discarded += self.discard(event);
                }
                event = self.processing.next() => {
                    if self.handle_processor(event).is_err() {
                        break;
                    }
                }
                () = sleep_until(deadline) => {
                    warn!("the broker does not take our DISCONNECT");
                    break;
                }
            }
        }
        // The session's task may have ended before its last reports were taken.
        while let Some(Some(event)) = inputs.session.recv_any().now_or_never() {
            goodbye.note(&event);
            discarded += self.discard(event);
        }
        (
            acknowledged.filter(|_| goodbye == Goodbye::Taken),
            discarded,
        )
    }

    /// Writes the watermarks and what became of webhook events, and ends the store's thread.
    async fn commit_last(mut self, acknowledged: Option<MessageId>) {
        let now = self.clock.now();
        let outbox_request = OutboxRequest {
            // Nothing more is posted.
            demands: vec![],
            ..self.webhooks.take_outbox_request(now)
        };
        self.webhooks.log_lost();
        let batch = Batch {
            acknowledged,
            published: self.ledger.take_published(),
            outbox_request,
            ..self.inbound.empty_batch(now.wall)
        };
        self.processing.finish(batch).await;
    }
}
