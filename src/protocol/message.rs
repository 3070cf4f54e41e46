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
            // It may be a part of the same memory.
            self.topic = Bytes::copy_from_slice(&self.topic);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_over_the_limit_holds_no_memory_of_its_packet() {
        let packet = Bytes::from(b"a/b0123456789".to_vec());
        let mut message = Received::new(packet.slice(..3), packet.slice(3..), false);
        message.cut_to(10);
        assert_eq!(message.payload_bytes, message.payload.len());
        message.cut_to(9);
        assert_eq!(&message.topic[..], b"a/b");
        assert_eq!((message.payload.len(), message.payload_bytes), (0, 10));
        assert!(packet.is_unique());
    }
}
