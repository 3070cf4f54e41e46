//! The receiving half of a connection, which also does all the writing.
//!
//! Owns the way from a packet identifier back to the publish it was given to. Leaves reading and
//! writing packets to `v4.rs` and `v5.rs`, and what an event means to whoever awaits it.

use std::collections::VecDeque;
use std::time::Duration;

use super::client::{Client, Sender, Submitted};
use super::error::{Cause, LinkError};
use super::event::{Delivery, Event, NetworkEvent, ReasonCode};
use super::options::{ConnectOptions, Protocol};
use super::{v4, v5};

/// How long the broker may take to close after our DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

enum Network {
    V4(v4::Network),
    V5(v5::Network),
}

impl Network {
    /// The next thing the crate reports. Not cancel-safe.
    async fn poll(&mut self) -> Result<NetworkEvent, LinkError> {
        match self {
            Self::V4(network) => network.poll().await,
            Self::V5(network) => network.poll().await,
        }
    }

    /// What was read before an error, and not reported yet.
    fn drain(&mut self) -> Vec<NetworkEvent> {
        match self {
            Self::V4(network) => network.drain(),
            Self::V5(network) => network.drain(),
        }
    }
}

/// The receiving half of a connection.
pub struct Connection {
    network: Network,
    submitted: Submitted,
    /// The token of the publish that has a packet identifier, at the index of that identifier.
    tokens: Vec<Option<u64>>,
    /// A publish whose packet identifier is still in use by an older one. It is written when that
    /// one is confirmed.
    parked: Option<Parked>,
    /// Confirmations that were read before the connection failed.
    last_confirmations: VecDeque<Event>,
    /// Messages that were read together with the connection's end.
    last_messages: Vec<Delivery>,
    failure: Option<LinkError>,
}

struct Parked {
    packet_id: u16,
    token: u64,
}

/// Opens a connection. Nothing is sent before [`Connection::next`] is awaited.
pub fn open(options: &ConnectOptions) -> (Client, Connection) {
    let (sender, network) = match options.protocol {
        Protocol::V311 => {
            let (sender, network) = v4::open(options);
            (Sender::V4(sender), Network::V4(network))
        }
        Protocol::V5 => {
            let (sender, network) = v5::open(options);
            (Sender::V5(sender), Network::V5(network))
        }
    };
    let submitted = Submitted::default();
    let connection = Connection {
        network,
        submitted: submitted.clone(),
        tokens: vec![None; usize::from(options.packet_ids()) + 1],
        parked: None,
        last_confirmations: VecDeque::new(),
        last_messages: Vec::new(),
        failure: None,
    };
    (Client::new(sender, submitted), connection)
}

impl Connection {
    /// The next thing that happens. Must be awaited all the time, because it does all the reading
    /// and writing.
    ///
    /// Not cancel-safe: a future that is dropped before it is ready can lose a publish or an ack.
    /// Drop the connection with it.
    ///
    /// # Errors
    /// Why this connection has ended. Every confirmation that arrived before is returned first.
    pub async fn next(&mut self) -> Result<Event, LinkError> {
        loop {
            if let Some(confirmed) = self.last_confirmations.pop_front() {
                return Ok(confirmed);
            }
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            match self.network.poll().await {
                Ok(reported) => {
                    if let Some(event) = self.handle(reported) {
                        return Ok(event);
                    }
                }
                Err(failure) => self.fail(failure),
            }
        }
    }

    /// Reads on after our DISCONNECT until the broker closes, for a few seconds at most. Returns
    /// whether it has: then it has read everything that was sent.
    ///
    /// The system resets a socket that is closed with unread bytes, and then the broker loses what
    /// it has not read yet, acks among it (seen on Mosquitto under load).
    pub async fn close(self) -> bool {
        self.close_reading(|_| {}).await
    }

    /// The same, and hands out the messages that still come.
    pub async fn close_reading(mut self, mut message: impl FnMut(Delivery)) -> bool {
        let closing = async {
            loop {
                match self.next().await {
                    Ok(Event::Message(delivery)) => message(delivery),
                    Ok(_) => {}
                    Err(error) => {
                        self.last_messages.drain(..).for_each(&mut message);
                        return error.cause == Cause::Closed;
                    }
                }
            }
        };
        // A broker that does not close in time is left behind.
        let closed = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        closed.unwrap_or(false)
    }

    /// Takes what was read together with the failure. Confirmations count. Messages do not, except
    /// while the connection is closed: the broker delivers them again.
    fn fail(&mut self, failure: LinkError) {
        for reported in self.network.drain() {
            match self.handle(reported) {
                Some(event @ Event::Confirmed { .. }) => self.last_confirmations.push_back(event),
                Some(Event::Message(delivery)) => self.last_messages.push(delivery),
                _ => {}
            }
        }
        self.failure = Some(failure);
    }

    /// Keeps account of publishes, and returns the event to report, if there is one.
    fn handle(&mut self, reported: NetworkEvent) -> Option<Event> {
        match reported {
            NetworkEvent::Event(event) => Some(event),
            NetworkEvent::Written(packet_id) => {
                self.handle_written(packet_id);
                None
            }
            NetworkEvent::WrittenUnconfirmed => {
                self.submitted.unconfirmed_written();
                None
            }
            NetworkEvent::Parked(packet_id) => {
                let token = self.submitted.next_token();
                self.parked = token.map(|token| Parked { packet_id, token });
                None
            }
            NetworkEvent::Confirmed(packet_id, outcome) => {
                self.handle_confirmed(packet_id, outcome)
            }
        }
    }

    fn handle_written(&mut self, packet_id: u16) {
        let parked = self
            .parked
            .take_if(|parked| parked.packet_id == packet_id)
            .map(|parked| parked.token);
        let token = parked.or_else(|| self.submitted.next_token());
        if let Some(slot) = self.tokens.get_mut(usize::from(packet_id)) {
            *slot = token;
        }
    }

    fn handle_confirmed(
        &mut self,
        packet_id: u16,
        outcome: Result<(), ReasonCode>,
    ) -> Option<Event> {
        let slot = self.tokens.get_mut(usize::from(packet_id))?;
        let token = slot.take()?;
        let is_parked_behind = |parked: &Parked| parked.packet_id == packet_id;
        if outcome.is_err() && self.parked.as_ref().is_some_and(is_parked_behind) {
            // The crate never writes a publish that is parked behind a refused one (rumqttc 0.25.1,
            // MQTT 5): only a new connection does.
            self.failure = Some(LinkError::new(
                Cause::Other,
                "a publish is stuck behind a refused one",
            ));
        }
        Some(Event::Confirmed { token, outcome })
    }
}
