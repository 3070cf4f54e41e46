//! The other end of a client that has no socket: tests play the broker.
//!
//! Owns nothing: it takes what the client wants written, and gives it the broker's answers.

use bytes::Bytes;

use super::client::Client;
use super::event::Connected;
use super::outbox::{Outgoing, PingFor, SharedOutbox};

/// A packet of the client.
#[derive(Clone, Debug)]
pub(crate) enum Packet {
    /// At QoS 1.
    Publish {
        packet_id: u16,
        topic: String,
        payload: Bytes,
    },
    Ack(u16),
    Ping,
    Disconnect,
}

/// What a broker has of a connection.
#[derive(Debug)]
pub(crate) struct FarEnd(SharedOutbox);

impl FarEnd {
    /// A client, and the other end of its connection.
    pub(crate) fn new(connected: &Connected) -> (Client, Self) {
        let outbox = SharedOutbox::new(connected.receive_maximum);
        (Client::new(outbox.clone(), connected), Self(outbox))
    }

    /// The next packet. Those of no consequence for messages at QoS 1 are left out.
    pub(crate) fn next(&self) -> Option<Packet> {
        loop {
            return Some(match self.0.lock().pop()? {
                Outgoing::Publish { packet_id: 0, .. }
                | Outgoing::Subscribe { .. }
                | Outgoing::Unsubscribe { .. } => continue,
                Outgoing::Publish { packet_id, message } => Packet::Publish {
                    packet_id,
                    topic: message.topic,
                    payload: message.payload,
                },
                Outgoing::Ack(packet_id) => Packet::Ack(packet_id),
                Outgoing::Ping => Packet::Ping,
                Outgoing::Disconnect => Packet::Disconnect,
            });
        }
    }

    /// PUBACK. Returns the token of the publish, if there is such a one.
    pub(crate) fn confirmed(&self, packet_id: u16) -> Option<u64> {
        self.0.lock().confirmed(packet_id)
    }

    /// The client's keep alive is due.
    pub(crate) fn ping(&self) {
        self.0.lock().ping(PingFor::KeepAlive);
    }

    /// PINGRESP.
    pub(crate) fn ping_answered(&self) {
        self.0.lock().ping_answered();
    }

    /// The connection is gone.
    pub(crate) fn end(&self) {
        self.0.lock().end();
    }
}
