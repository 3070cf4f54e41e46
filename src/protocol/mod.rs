//! What travels on the wire: identifiers, topics, layouts, payloads, refusals.
//!
//! Owns the rules of `protocol.md` for reading and writing topics and payloads. Leaves what becomes
//! of a message to [`rules`](crate::rules). Pure: no I/O, no clock, no SQL, no MQTT client.

pub mod control;
pub mod group;
pub mod id;
pub mod layout;
pub mod message;
pub mod patch;
pub mod publish;
pub mod refusal;
pub mod request;
pub(crate) mod template;
pub mod time;
pub mod topic;
