//! A message on its way out: topic name, payload, MQTT 5 user properties, RETAIN flag.
//!
//! Who gets it is decided in `rules`; how it is sent and confirmed is the part of `delivery` and
//! `mqtt`.

use bytes::Bytes;

use crate::protocol::envelope::Body;
use crate::protocol::status::Status;
use crate::protocol::topic::TopicName;

/// What a row of the delivery log counts for in the bound on its size, beside its topic and its
/// payload, in bytes: keys, the stored text that it refers to, and what is lost in pages.
pub const LOG_ROW_BYTES: u64 = 512;

/// One message to publish, at QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// The topic to publish to.
    pub topic: TopicName,
    /// The payload.
    pub payload: Bytes,
    /// MQTT 5 user properties. They are dropped over MQTT 3.1.1, which has none.
    pub user_properties: Vec<(String, String)>,
    /// Whether the broker stores the message for later subscribers. Only the observer's own status
    /// is retained.
    pub retain: bool,
    /// Set where the payload is the stored message with this status. A log of publishes need not
    /// hold such a payload again.
    pub copy_status: Option<Status>,
}

impl Publish {
    /// A message without user properties that is not retained.
    pub fn new(topic: TopicName, payload: Bytes) -> Self {
        Self {
            topic,
            payload,
            user_properties: vec![],
            retain: false,
            copy_status: None,
        }
    }

    /// A copy of a stored message.
    pub fn copy(topic: TopicName, message: &Body, status: Status) -> Self {
        Self {
            copy_status: Some(status),
            ..Self::new(topic, message.with_status(status))
        }
    }

    /// About how many bytes it takes in the delivery log.
    pub fn log_bytes(&self) -> u64 {
        let payload = match self.copy_status {
            // It stands in the stored message.
            Some(_) => 0,
            None => self.payload.len(),
        };
        LOG_ROW_BYTES + (self.topic.as_str().len() + payload) as u64
    }
}
