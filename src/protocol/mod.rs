//! What travels on the wire: identifiers, topics, layouts, payloads, refusals.
//!
//! Owns the rules of `protocol.md` for reading and writing topics and payloads. Leaves what becomes
//! of a message to [`rules`](crate::rules). Pure: no I/O, no clock, no SQL, no MQTT client.

pub mod control_payload;
pub mod envelope;
pub mod group;
pub mod id;
pub mod publish;
pub mod refusal;
pub(crate) mod template;
pub mod time;
pub mod topic;
pub mod topic_map;

pub use control_payload as control;
pub use envelope as message;
pub use topic_map as layout;
