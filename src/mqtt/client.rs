//! The sending half of a connection.
//!
//! Owns the checks before a packet is handed over. Leaves its turn to `outbox.rs`, and writing to
//! `connection.rs`.

use std::fmt;

use super::error::SubmitError;
use super::event::Connected;
use super::options::MAX_PACKET_BYTES;
use super::outbox::{PingFor, Pings, SharedOutbox};
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter};

/// The most bytes that come before the payload of a PUBLISH, besides the topic and the user
/// properties: fixed header 5, topic length 2, packet identifier 2, property length 4.
const PUBLISH_OVERHEAD: usize = 5 + 2 + 2 + 4;
/// Bytes that a user property takes besides its two texts: its identifier, and two lengths of 2.
const USER_PROPERTY_OVERHEAD: usize = 5;

/// The sending half of a connection. No method waits: [`Connection::next`](super::Connection::next)
/// writes what is handed over here.
pub struct Client {
    outbox: SharedOutbox,
    max_packet_bytes: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Keeps the broker's limits. A publish over them is refused here: the broker would end the
    /// connection.
    pub(super) fn new(outbox: SharedOutbox, connected: &Connected) -> Self {
        let limit = connected.max_packet_bytes.unwrap_or(MAX_PACKET_BYTES);
        Self {
            outbox,
            max_packet_bytes: limit.min(MAX_PACKET_BYTES),
        }
    }

    /// Asks for all of `filters` at QoS 1. [`Event::Subscribed`](super::Event::Subscribed) is the
    /// answer.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended.
    pub fn subscribe(&self, filters: &[Subscription]) -> Result<(), SubmitError> {
        self.outbox.lock().subscribe(filters)
    }

    /// Ends a subscription. No event answers; a filter without a subscription does no harm.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended.
    pub fn unsubscribe(&self, filter: &TopicFilter) -> Result<(), SubmitError> {
        self.outbox.lock().unsubscribe(filter)
    }

    /// Publishes at QoS 0. No event answers. Returns whether the publish was handed over: it is not
    /// if it is too large, or too many wait already.
    pub fn publish_unconfirmed(&self, publish: &Publish) -> bool {
        fits(publish, self.max_packet_bytes) && self.outbox.lock().publish_unconfirmed(publish)
    }

    /// Publishes at QoS 1. [`Event::Confirmed`](super::Event::Confirmed) with the same token is the
    /// answer.
    ///
    /// # Errors
    /// [`SubmitError`]; then nothing was handed over.
    pub fn publish(&self, token: u64, publish: &Publish) -> Result<(), SubmitError> {
        if !fits(publish, self.max_packet_bytes) {
            return Err(SubmitError::TooLarge);
        }
        self.outbox.lock().publish(token, publish)
    }

    /// Acknowledges the message that has this packet identifier on this connection.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended: the broker delivers the message again.
    pub fn acknowledge(&self, packet_id: u16) -> Result<(), SubmitError> {
        self.outbox.lock().acknowledge(packet_id)
    }

    /// The pings of the keep alive on this connection.
    pub fn pings(&self) -> Pings {
        self.outbox.lock().pings(PingFor::KeepAlive)
    }

    /// Has a PINGREQ follow what was handed over before, unless the connection is ending. Its
    /// answer shows in [`Client::ack_pings`].
    pub fn ping_behind_acks(&self) {
        self.outbox.lock().ping(PingFor::Acks);
    }

    /// The pings of [`Client::ping_behind_acks`] on this connection.
    pub fn ack_pings(&self) -> Pings {
        self.outbox.lock().pings(PingFor::Acks)
    }

    /// Ends the connection in order: DISCONNECT goes out after everything handed over before, and
    /// nothing is taken after it. [`Event::Disconnected`](super::Event::Disconnected) says that it
    /// is out.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended.
    pub fn disconnect(&self) -> Result<(), SubmitError> {
        self.outbox.lock().disconnect()
    }
}

/// Whether the broker takes a publish of this size, and the crate can encode it.
fn fits(publish: &Publish, max_packet_bytes: u32) -> bool {
    let topic = publish.topic.as_str();
    let properties = &publish.user_properties;
    let texts = properties.iter().flat_map(|(key, value)| [key, value]);
    // The crate cuts the length of a longer text to 16 bits, which garbles the stream.
    if texts
        .map(String::len)
        .chain([topic.len()])
        .any(|bytes| bytes > usize::from(u16::MAX))
    {
        return false;
    }
    let property_bytes: usize = properties
        .iter()
        .map(|(key, value)| key.len() + value.len() + USER_PROPERTY_OVERHEAD)
        .sum();
    let packet_bytes = topic.len() + publish.payload.len() + property_bytes + PUBLISH_OVERHEAD;
    packet_bytes <= max_packet_bytes as usize
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::protocol::topic::TopicName;

    fn publish(topic: &str, payload_bytes: usize) -> Publish {
        let topic = TopicName::parse(topic).unwrap();
        Publish::new(topic, Bytes::from(vec![b'x'; payload_bytes]))
    }

    #[test]
    fn a_publish_over_the_brokers_limit_does_not_fit() {
        let largest = 100 - PUBLISH_OVERHEAD - "a/b".len();
        assert!(fits(&publish("a/b", largest), 100));
        assert!(!fits(&publish("a/b", largest + 1), 100));
    }

    #[test]
    fn user_properties_count_and_may_not_be_longer_than_their_length_field() {
        let mut publish = publish("a/b", 0);
        publish.user_properties = vec![("key".to_owned(), "value".to_owned())];
        let bytes = PUBLISH_OVERHEAD + "a/b".len() + USER_PROPERTY_OVERHEAD + "keyvalue".len();
        let bytes = u32::try_from(bytes).unwrap();
        assert!(fits(&publish, bytes));
        assert!(!fits(&publish, bytes - 1));
        publish.user_properties[0].1 = "v".repeat(usize::from(u16::MAX));
        assert!(fits(&publish, MAX_PACKET_BYTES));
        publish.user_properties[0].1.push('v');
        assert!(!fits(&publish, MAX_PACKET_BYTES));
    }
}
