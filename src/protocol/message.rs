//! A message as the broker delivered it: topic, payload, RETAIN flag, nothing of it read yet.

use bytes::Bytes;

/// A message as the broker delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic name, as bytes: RabbitMQ delivers topic names that are not UTF-8.
    pub topic: Bytes,
    /// The payload, or nothing if it was over the limit.
    pub payload: Bytes,
    /// The length of the payload as it came, in bytes.
    pub payload_bytes: usize,
    /// Whether the broker had stored the message (RETAIN flag).
    pub retain: bool,
}

impl Received {
    /// A message with its whole payload.
    pub fn new(topic: Bytes, payload: Bytes, retain: bool) -> Self {
        Self {
            topic,
            payload_bytes: payload.len(),
            payload,
            retain,
        }
    }

    /// Drops a payload over the limit. Such a message will be refused, and must not hold memory
    /// until then.
    pub fn cut_to(&mut self, max_payload_bytes: usize) {
        if self.payload_bytes > max_payload_bytes {
            self.payload = Bytes::new();
        }
    }
}
