//! The sending half of a connection.
//!
//! Owns the checks before a packet is handed over, and the order of publishes. Leaves encoding to
//! `v4.rs` and `v5.rs`, and confirmations to `connection.rs`.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::error::SubmitError;
use super::event::Connected;
use super::options::MAX_PACKET_BYTES;
use super::options::MAX_UNCONFIRMED;
use super::{v4, v5};
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter};

/// The most bytes that come before the payload of a PUBLISH, besides the topic and the user
/// properties: fixed header 5, topic length 2, packet identifier 2, property length 4.
const PUBLISH_OVERHEAD: usize = 5 + 2 + 2 + 4;
/// Bytes that a user property takes besides its two texts: its identifier, and two lengths of 2.
const USER_PROPERTY_OVERHEAD: usize = 5;

/// What the two halves of a connection know of publishes that are not written yet.
#[derive(Clone, Default)]
pub(super) struct Submitted {
    /// Tokens of QoS 1 publishes that have no packet identifier yet, in the order of the queue.
    tokens: Arc<Mutex<VecDeque<u64>>>,
    /// How many QoS 0 publishes wait.
    unconfirmed: Arc<AtomicUsize>,
}

impl Submitted {
    /// The token of the publish that gets a packet identifier now.
    pub(super) fn next_token(&self) -> Option<u64> {
        self.tokens().pop_front()
    }

    /// Counts a QoS 0 publish as written.
    pub(super) fn unconfirmed_written(&self) {
        self.unconfirmed.fetch_sub(1, Ordering::Relaxed);
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, VecDeque<u64>> {
        self.tokens.lock().expect("nobody panics holding it")
    }
}

/// The sending half, by version of MQTT.
pub(super) enum Sender {
    V4(v4::Sender),
    V5(v5::Sender),
}

/// The sending half of a connection. No method waits: [`Connection::next`](super::Connection::next)
/// writes what is handed over here.
pub struct Client {
    sender: Sender,
    submitted: Submitted,
    max_packet_bytes: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    pub(super) fn new(sender: Sender, submitted: Submitted) -> Self {
        Self {
            sender,
            submitted,
            max_packet_bytes: MAX_PACKET_BYTES,
        }
    }

    /// Keeps the broker's limits. A publish over them is refused here: the crate would try it again
    /// for ever.
    pub fn set_limits(&mut self, connected: &Connected) {
        let limit = connected.max_packet_bytes.unwrap_or(MAX_PACKET_BYTES);
        self.max_packet_bytes = limit.min(MAX_PACKET_BYTES);
    }

    /// Asks for all of `filters` at QoS 1. [`Event::Subscribed`](super::Event::Subscribed) is the
    /// answer.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended.
    pub fn subscribe(&self, filters: &[Subscription]) -> Result<(), SubmitError> {
        match &self.sender {
            Sender::V4(sender) => sender.subscribe(filters),
            Sender::V5(sender) => sender.subscribe(filters),
        }
    }

    /// Ends a subscription. No event answers; a filter without a subscription does no harm.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended.
    pub fn unsubscribe(&self, filter: &TopicFilter) -> Result<(), SubmitError> {
        match &self.sender {
            Sender::V4(sender) => sender.unsubscribe(filter),
            Sender::V5(sender) => sender.unsubscribe(filter),
        }
    }

    /// Publishes at QoS 0. No event answers. Returns whether the publish was handed over: it is not
    /// if it is too large, or too many wait already.
    pub fn publish_unconfirmed(&self, publish: &Publish) -> bool {
        let waiting = &self.submitted.unconfirmed;
        if !fits(publish, self.max_packet_bytes)
            || waiting.load(Ordering::Relaxed) >= MAX_UNCONFIRMED
        {
            return false;
        }
        let sent = match &self.sender {
            Sender::V4(sender) => sender.publish_unconfirmed(publish),
            Sender::V5(sender) => sender.publish_unconfirmed(publish),
        };
        if sent.is_ok() {
            waiting.fetch_add(1, Ordering::Relaxed);
        }
        sent.is_ok()
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
        // Held until the publish is in the queue, so that the tokens have the order of the queue.
        let mut tokens = self.submitted.tokens();
        match &self.sender {
            Sender::V4(sender) => sender.publish(publish)?,
            Sender::V5(sender) => sender.publish(publish)?,
        }
        tokens.push_back(token);
        Ok(())
    }

    /// Acknowledges the message that has this packet identifier on this connection.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended: the broker delivers the message again.
    pub fn acknowledge(&self, packet_id: u16) -> Result<(), SubmitError> {
        match &self.sender {
            Sender::V4(sender) => sender.acknowledge(packet_id),
            Sender::V5(sender) => sender.acknowledge(packet_id),
        }
    }

    /// Ends the connection in order: DISCONNECT goes out after everything handed over before.
    /// [`Event::Disconnected`](super::Event::Disconnected) says that it has.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if the connection has ended.
    pub fn disconnect(&self) -> Result<(), SubmitError> {
        match &self.sender {
            Sender::V4(sender) => sender.disconnect(),
            Sender::V5(sender) => sender.disconnect(),
        }
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
