//! What travels on the wire: identifiers, topics, layouts, payloads, refusals.
//!
//! Owns the rules of `protocol.md` for reading and writing topics and payloads. Leaves what becomes
//! of a message to [`rules`](crate::rules). Pure: no I/O, no clock, no SQL, no MQTT client.

pub mod address;
pub mod amqp;
pub mod client_reference;
pub mod control_payload;
pub mod control_topic;
pub mod envelope;
pub mod exchange;
pub mod group;
pub mod group_change;
pub mod id;
pub mod injected;
pub mod json;
pub mod layout;
pub mod message;
pub mod message_id;
pub mod mongo_export;
pub mod nearest;
pub mod patch;
pub mod permissions;
mod proof;
pub mod publish;
pub mod refusal;
pub mod request;
pub mod status;
pub(crate) mod template;
pub mod time;
pub mod topic;
pub mod topic_map;

#[cfg(test)]
mod foreign_bytes;
#[cfg(test)]
pub(crate) mod mangled;
#[cfg(test)]
mod testing;
