//! What becomes of a request: the checks, and one plan for each kind of request.
//!
//! Owns every decision about a message. Leaves reading the wire to [`protocol`](crate::protocol) and
//! looking up facts to [`store`](crate::store). Pure: no I/O, no clock, no SQL, no MQTT client.

pub mod checks;
pub mod conversation;
pub mod fan_out;
pub mod plan;
pub mod rate_limit;
pub mod router;
pub mod webhook_event;
