//! Connections to the broker that come back by themselves: the session and the publishers.
//!
//! Owns reconnecting, subscribing, token renewal and the broker's quirks. Leaves packets to
//! [`mqtt`](crate::mqtt) and what a message means to [`observer`](crate::observer).

pub mod link;
pub mod probe_client;
pub mod publisher;
pub mod session;
