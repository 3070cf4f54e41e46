//! Connections to the broker that come back by themselves: one session, and the publishers.
//!
//! Owns reconnecting, subscribing, token renewal, and what brokers do differently. Leaves packets
//! to [`mqtt`](crate::mqtt), and what a message means to [`observer`](crate::observer).

mod connector;
pub mod dot_probe;
pub mod link;
pub mod probe_client;
pub mod publisher;
mod retry;
pub mod session;
mod version;
mod watchdog;
