//! The observer at work: what a message goes through from the session to its acknowledgement.
//!
//! Owns the task that ties the other layers together; it never waits for a connection or for the
//! store. Leaves settings to `config` and `commands`: an observer takes a [`Setup`].

mod announce;
mod event_loop;
mod inbound;
mod journal;
mod processing;
pub mod processor;
mod publishers;
mod session;
mod setup;
mod shutdown;
mod start;
mod webhooks;

pub use self::setup::{ObserverError, Ready, Reporting, Setup, Stopped};
pub use self::start::run;
