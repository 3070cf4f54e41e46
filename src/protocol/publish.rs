//! A message on its way out: topic, payload, MQTT 5 user properties, retain flag.
//!
//! Who gets it is decided in `rules`; how it is sent and confirmed is `delivery`'s and `mqtt`'s part.

use bytes::Bytes;

use crate::protocol::topic::TopicName;

/// One message to publish, at QoS 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// Where to.
    pub topic: TopicName,
    /// What.
    pub payload: Bytes,
    /// MQTT 5 user properties; MQTT 3.1.1 has no place for them.
    pub user_properties: Vec<(String, String)>,
    /// Whether the broker is to keep it for those who subscribe later: only what the observer says of itself is.
    pub retain: bool,
}

impl Publish {
    /// Without user properties, and not retained.
    pub fn new(topic: TopicName, payload: Bytes) -> Self {
        Self {
            topic,
            payload,
            user_properties: vec![],
            retain: false,
        }
    }
}
