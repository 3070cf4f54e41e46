//! What the session delivers: which messages are of users, and which are of the observer's own.
//!
//! Owns telling them apart. Leaves those of users to `inbound.rs`, and those of other slots to
//! `sharing.rs`.

use std::time::Instant;

use crate::delivery::ledger::Admission;
use crate::mqtt::Delivery;
use crate::observer::event_loop::Observer;
use crate::observer::inbound::Arrival;
use crate::observer::neighbours::Reaction;
use crate::protocol::message::Received;
use crate::protocol::time::UnixMillis;
use crate::telemetry::service_topics::ServiceTopic;

/// What a message is that came in, which decides who takes it.
enum Incoming {
    /// Of a user or a service, and ours to deliver.
    User,
    /// Of a user or a service, and this other slot's to deliver.
    OfSlot(u16),
    /// The answer of the broker's exchange to the question which slot gets this share.
    Share(String),
    /// On a topic of the observer's own.
    Own(ServiceTopic),
}

impl Incoming {
    /// Whether it stays out of the order and the limits of the messages of users.
    fn is_aside(&self) -> bool {
        match self {
            Self::Share(_) => true,
            Self::Own(own) => !matches!(own, ServiceTopic::Command(_)),
            Self::User | Self::OfSlot(_) => false,
        }
    }
}

impl Observer {
    /// The observer's message to itself is back.
    fn note_own_message(&mut self, received: &Received) {
        let text = str::from_utf8(&received.payload).ok();
        let sent = text.and_then(|millis| millis.parse().ok());
        let sent = UnixMillis::new(sent.unwrap_or_default());
        self.note_probe(sent);
        if self.session.is_behind_redelivered(sent) {
            self.ledger.end_redeliveries();
        }
        if let Some(line) = self.outages.handle_own_message(sent) {
            line.log("");
        }
    }

    /// Takes a message that came in and was read then.
    pub(super) fn handle_message(&mut self, delivery: Delivery, read_at: Instant) {
        let now = self.clock.now();
        self.held.note_taken(read_at, now.instant);
        let connection = match self.session.handle_message(now.instant) {
            Some(connection) => connection,
            // The session has left the connection it came on for one with a new token. At QoS 1 it
            // comes again; at QoS 0 it is taken now.
            None if delivery.packet_id.is_some() => return,
            None => 0,
        };
        let incoming = self.classify(&delivery.received);
        let arrival = Arrival::new(delivery, connection, incoming.is_aside(), now);
        let admission = arrival.admission(&mut self.ledger);
        match incoming {
            Incoming::User => {
                self.outages.handle_message();
                let (ledger, journal) = (&mut self.ledger, &mut self.journal);
                self.inbound.admit(arrival, admission, ledger, journal);
            }
            Incoming::OfSlot(owner) => self.take_of_slot(owner, arrival, admission, read_at),
            Incoming::Share(level) => {
                self.exchange.note(now.instant);
                self.inbound.admit_own(&arrival, &mut self.ledger);
                self.answer_share(&level);
            }
            Incoming::Own(_) if admission == Admission::Resumed => {}
            Incoming::Own(own) => {
                self.inbound.admit_own(&arrival, &mut self.ledger);
                let is_new = admission == Admission::New && !arrival.received.retain;
                self.take_own(own, is_new, &arrival.received);
            }
        }
    }

    fn classify(&self, received: &Received) -> Incoming {
        if let Some(own) = self.reporter.topics.own(&received.topic) {
            return Incoming::Own(own);
        }
        let Some(sharing) = &self.sharing else {
            return Incoming::User;
        };
        if let Some(level) = sharing.share_level(&received.topic) {
            return Incoming::Share(level.to_owned());
        }
        let address = self.inbound.address(received);
        match sharing.other_slot(address.as_ref(), &received.topic) {
            Some(owner) => Incoming::OfSlot(owner),
            None => Incoming::User,
        }
    }

    /// Takes a message on a topic of our own. `is_new`: it has come for the first time, and now.
    fn take_own(&mut self, own: ServiceTopic, is_new: bool, received: &Received) {
        match own {
            ServiceTopic::Command(level) if is_new => self.handle_command(&level, received),
            ServiceTopic::Hello if is_new => self.handle_hello(received),
            ServiceTopic::Status => {
                let now = self.clock.now().instant;
                self.reporter.handle_status(&received.payload, now);
            }
            ServiceTopic::Probe => self.note_own_message(received),
            ServiceTopic::Command(_) | ServiceTopic::Hello | ServiceTopic::Echo => {}
        }
    }

    /// Takes what an observer on this broker said, this one among them.
    fn handle_hello(&mut self, received: &Received) {
        let now = self.clock.now();
        let Some(neighbours) = &mut self.neighbours else {
            return;
        };
        let Reaction { says, gives_way_to } = neighbours.handle(&received.payload, now.instant);
        for said in says {
            self.inbound.publish_apart(said, &mut self.ledger, now);
        }
        self.gives_way_to = gives_way_to.or(self.gives_way_to.take());
    }
}
