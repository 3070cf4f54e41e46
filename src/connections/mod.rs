//! Connections to the broker that come back by themselves: one session, and the publishers.
//! Beside them short-lived ones, to ask the broker something.
//!
//! Owns reconnecting, subscribing, token renewal, and what brokers do differently. Leaves packets
//! to [`mqtt`](crate::mqtt), and what a message means to [`observer`](crate::observer).

mod connector;
pub mod dot_probe;
mod link;
pub mod links;
pub mod opener;
mod other_protocol;
pub mod probe_client;
pub mod publisher;
mod retry;
pub mod session;
pub mod settings;
mod version;
mod words;
