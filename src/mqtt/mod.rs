//! One connection to a broker, over MQTT 5 or 3.1.1.
//!
//! Owns the MQTT client crate, rumqttc: no other folder names it. Leaves reconnecting to
//! [`connections`](crate::connections), and which publish is under way to the ledger in
//! [`delivery`](crate::delivery).
//!
//! A [`Connection`] is good for one connection: after its first error it is dropped. The crate's
//! own reconnecting replays publishes under reused packet identifiers, which loses messages and
//! mixes them up (rumqttc 0.25.1).

mod client;
mod connection;
mod error;
mod event;
mod options;
mod v4;
mod v5;

pub use client::Client;
pub use connection::{Connection, open};
pub use error::{Cause, LinkError, SubmitError, Symptom, timed_out as no_answer};
pub use event::{Connected, Delivery, Event, ReasonCode};
pub use options::{ConnectOptions, Protocol, Proxy, Session, Transport, without_query};
