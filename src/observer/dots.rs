//! Whether identifiers with a `.` are safe at this broker, where the settings leave that open.
//!
//! Owns when the broker is asked, the message that waits for the answer, and what follows from it:
//! where a `.` does not survive, or nobody knows, the checks refuse identifiers with a `.` as
//! unroutable, wherever they come from. Leaves asking to
//! [`dot_probe`](crate::connections::dot_probe).

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::connections::dot_probe::{Dots, probe_dots};
use crate::connections::session::SessionEvent;
use crate::connections::settings::LinkSettings;
use crate::mqtt::LinkError;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::topic::TopicName;
use crate::rules::policy::Policy;

const SPLIT: &str = "this broker turns a \".\" in a topic into a level break, as RabbitMQ does: \
    identifiers with a \".\" are refused as unroutable";
const UNKNOWN: &str = "it cannot be found out whether a \".\" in a topic survives at this broker, \
    so identifiers with a \".\" are refused as unroutable: may this user open one more connection, \
    and publish and subscribe below observer/#?";

/// What passes the gate.
pub(super) enum GateEvent {
    /// An event of the session that may be taken.
    Session(SessionEvent),
    /// What becomes of a `.`: for [`DotGate::handle_answer`].
    Answer(Result<Dots, LinkError>),
}

/// The session's events, held back at the first message while the broker is being asked.
pub(super) struct DotGate {
    events: mpsc::Receiver<SessionEvent>,
    /// The first message that came while the broker was being asked.
    held: Option<SessionEvent>,
    /// What the broker is asked with.
    links: LinkSettings,
    topic: TopicName,
    /// Holds one task while the broker is being asked.
    asking: JoinSet<Result<Dots, LinkError>>,
    /// Whether the session's broker has answered.
    is_answered: bool,
    /// The kind of broker that stands in for [`BrokerKind::Any`].
    kind: BrokerKind,
}

impl DotGate {
    /// `topic` is one that the observer may publish and subscribe below.
    pub(super) fn new(
        events: mpsc::Receiver<SessionEvent>,
        links: LinkSettings,
        topic: TopicName,
    ) -> Self {
        Self {
            events,
            held: None,
            links,
            topic,
            asking: JoinSet::new(),
            is_answered: false,
            kind: BrokerKind::RefusesDots,
        }
    }

    /// Events that wait.
    pub(super) fn len(&self) -> usize {
        self.events.len() + usize::from(self.held.is_some())
    }

    /// Whether a message waits for the answer about dots.
    pub(super) fn holds_message(&self) -> bool {
        self.held.is_some()
    }

    /// The next event that may be taken, or the answer about dots. Waits for ever when the session
    /// has ended: its task reports that. Safe to cancel.
    pub(super) async fn next(&mut self) -> GateEvent {
        loop {
            if let Some(event) = self.release() {
                return GateEvent::Session(event);
            }
            tokio::select! {
                biased;
                Some(answered) = self.asking.join_next() => {
                    return GateEvent::Answer(answered.expect("asking does not panic"));
                }
                Some(event) = self.events.recv(), if self.held.is_none() => {
                    self.held = Some(event);
                }
                else => return std::future::pending().await,
            }
        }
    }

    /// The next event that may be taken, if there is one.
    pub(super) fn try_recv(&mut self) -> Option<SessionEvent> {
        if self.held.is_none() {
            self.held = self.events.try_recv().ok();
        }
        self.release()
    }

    /// The next event, whatever is known: for a stop, which decides on no message. Safe to cancel.
    pub(super) async fn recv_any(&mut self) -> Option<SessionEvent> {
        match self.held.take() {
            Some(event) => Some(event),
            None => self.events.recv().await,
        }
    }

    fn release(&mut self) -> Option<SessionEvent> {
        let is_message = matches!(self.held, Some(SessionEvent::Message { .. }));
        match is_message && !self.asking.is_empty() {
            true => None,
            false => self.held.take(),
        }
    }

    /// The session is up, so the broker accepts this user. Asks it what becomes of a `.`, if
    /// `policy` leaves that open and it has not answered. A broker that has lost the session may be
    /// another one.
    pub(super) fn handle_session_up(&mut self, policy: &Policy, session_present: bool) {
        let is_known = self.is_answered && session_present;
        if policy.broker_kind == BrokerKind::Any && !is_known && self.asking.is_empty() {
            let (links, topic) = (self.links.clone(), self.topic.clone());
            self.asking.spawn(probe_dots(links, topic));
        }
    }

    /// Takes the answer. The policy is to be applied anew.
    pub(super) fn handle_answer(&mut self, answer: Result<Dots, LinkError>) {
        let before = self.kind;
        self.is_answered = answer.is_ok();
        self.kind = match answer {
            Ok(Dots::Survive) => BrokerKind::Any,
            Ok(Dots::Split) | Err(_) => BrokerKind::RefusesDots,
        };
        match answer {
            Ok(Dots::Survive) => {}
            // A warning where they were served before: it is another broker.
            Ok(Dots::Split) if before == self.kind => info!("{SPLIT}"),
            Ok(Dots::Split) => warn!("{SPLIT}"),
            Err(error) => warn!(%error, "{UNKNOWN}"),
        }
    }

    /// The policy in force: `policy`, with what is known of the broker in place of "any".
    pub(super) fn apply(&self, policy: Arc<Policy>) -> Arc<Policy> {
        match policy.broker_kind {
            BrokerKind::Any if self.kind != BrokerKind::Any => Arc::new(Policy {
                broker_kind: self.kind,
                ..(*policy).clone()
            }),
            BrokerKind::Any | BrokerKind::RefusesDots | BrokerKind::RabbitMq => policy,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::auth::credentials::Credentials;
    use crate::auth::secret::Secret;
    use crate::mqtt::{Cause, Delivery, Session, Transport};
    use crate::protocol::message::Received;
    use crate::rules::policy::Rules;
    use crate::telemetry::clock::Clock;

    fn gate(events: mpsc::Receiver<SessionEvent>) -> DotGate {
        let links = LinkSettings {
            transport: Transport::Tcp {
                host: "localhost".to_owned(),
                port: 1,
            },
            proxy: None,
            protocol: None,
            credentials: Credentials::default(),
            client_id: Secret::new("observer".to_owned()),
            keep_alive: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(1),
            session: Session::Clean,
            max_packet_bytes: None,
            window: 10,
            max_payload_bytes: 1,
            will: None,
        };
        let topic = TopicName::parse("observer/observer/probe/x").unwrap();
        DotGate::new(events, links, topic)
    }

    fn message() -> SessionEvent {
        let received = Received::new(Bytes::from_static(b"a/b"), Bytes::new(), false);
        let delivery = Delivery {
            received,
            packet_id: Some(1),
            dup: false,
        };
        let share = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        SessionEvent::Message {
            delivery,
            read_at: Clock.now().instant,
            share,
        }
    }

    fn down() -> SessionEvent {
        SessionEvent::Down(LinkError::new(Cause::Closed, "closed"))
    }

    fn policy(kind: BrokerKind) -> Arc<Policy> {
        Arc::new(Policy::new(kind, Rules::default()))
    }

    fn kind_in_force(gate: &DotGate, configured: BrokerKind) -> BrokerKind {
        gate.apply(policy(configured)).broker_kind
    }

    #[tokio::test]
    async fn only_the_first_message_waits_for_the_answer_and_then_all_go_on_in_order() {
        let (events_tx, events) = mpsc::channel(8);
        let mut gate = gate(events);
        let (answer_tx, answer_rx) = tokio::sync::oneshot::channel();
        gate.asking
            .spawn(async move { answer_rx.await.expect("the test answers") });
        for event in [down(), message(), down()] {
            events_tx.send(event).await.unwrap();
        }
        assert!(matches!(
            gate.next().await,
            GateEvent::Session(SessionEvent::Down(_))
        ));
        assert!(gate.try_recv().is_none(), "the message waits");
        let waiting = timeout(Duration::from_millis(20), gate.next());
        assert!(waiting.await.is_err(), "the message waits");
        assert_eq!(gate.len(), 2);
        answer_tx.send(Ok(Dots::Survive)).unwrap();
        let GateEvent::Answer(answer) = gate.next().await else {
            panic!("the answer comes before the message")
        };
        assert_eq!(
            kind_in_force(&gate, BrokerKind::Any),
            BrokerKind::RefusesDots
        );
        gate.handle_answer(answer);
        assert_eq!(kind_in_force(&gate, BrokerKind::Any), BrokerKind::Any);
        assert!(matches!(
            gate.try_recv(),
            Some(SessionEvent::Message { .. })
        ));
        assert!(matches!(gate.try_recv(), Some(SessionEvent::Down(_))));
    }

    #[tokio::test]
    async fn a_stop_takes_what_waits() {
        let (events_tx, events) = mpsc::channel(8);
        let mut gate = gate(events);
        gate.asking.spawn(std::future::pending());
        events_tx.send(message()).await.unwrap();
        assert!(gate.try_recv().is_none());
        assert!(matches!(
            gate.recv_any().await,
            Some(SessionEvent::Message { .. })
        ));
    }

    #[tokio::test]
    async fn the_broker_is_asked_until_it_answers_and_again_when_it_has_lost_the_session() {
        let (_events_tx, events) = mpsc::channel(8);
        let mut gate = gate(events);
        gate.handle_session_up(&policy(BrokerKind::RabbitMq), false);
        assert!(gate.asking.is_empty(), "the settings say what it does");
        let any = policy(BrokerKind::Any);
        let no_answer = LinkError::new(Cause::TimedOut, "no answer");
        for (answer, session_present, asked, kind) in [
            (Err(no_answer), true, true, BrokerKind::RefusesDots),
            (Ok(Dots::Survive), true, false, BrokerKind::Any),
            (Ok(Dots::Survive), false, true, BrokerKind::Any),
            (Ok(Dots::Split), true, false, BrokerKind::RefusesDots),
        ] {
            gate.handle_answer(answer);
            gate.asking.shutdown().await;
            gate.handle_session_up(&any, session_present);
            assert_eq!(!gate.asking.is_empty(), asked);
            assert_eq!(kind_in_force(&gate, BrokerKind::Any), kind);
            let rabbit = kind_in_force(&gate, BrokerKind::RabbitMq);
            assert_eq!(rabbit, BrokerKind::RabbitMq);
        }
    }
}
