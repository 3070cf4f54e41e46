//! One connection to a broker, over MQTT 5 or 3.1.1.
//!
//! Owns the MQTT client crate, rumqttc: no other folder names it. Leaves reconnecting to
//! [`connections`](crate::connections), and which publish is under way to the ledger in
//! [`delivery`](crate::delivery).
//!
//! A [`Connection`] is good for one connection: after its first error it is dropped. The crate's
//! codecs read and write the packets; its event loop is not used. It flushes after each packet,
//! gives packet identifiers out that are in use, and replays publishes after a reconnect, which
//! loses some (rumqttc 0.25.1).

mod by_hand;
mod client;
mod codec;
mod connection;
mod error;
mod event;
#[cfg(test)]
pub(crate) mod far_end;
#[cfg(fuzzing)]
pub mod fuzzing;
mod keep_alive;
mod options;
mod outbox;
mod packet_ids;
mod pump;
mod socket;
mod transport;
mod v4;
mod v5;

pub use client::Client;
pub use connection::{Connection, Opened, open};
pub use error::{Cause, LinkError, SubmitError, Symptom};
pub use event::{Connected, Delivery, Event, ReasonCode};
pub use options::{ConnectOptions, Protocol, Proxy, Session, Transport, without_query};
pub use outbox::Pings;
