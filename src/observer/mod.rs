//! The observer at work: what a message goes through from the session to its acknowledgement.
//!
//! Owns the task that ties the other layers together; it never waits for a connection or for the
//! store. Leaves settings to `config` and `commands`: an observer takes a [`Setup`].

mod absentees;
mod announce;
mod consultation;
mod dots;
pub(crate) mod event_loop;
mod exchange;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod inbound;
mod incoming;
mod journal;
mod neighbours;
mod operator;
mod outage;
pub(crate) mod processing;
pub mod processor;
pub(crate) mod publishers;
mod reach;
mod reporter;
mod serving;
pub(crate) mod session;
mod setup;
mod sharing;
mod shutdown;
#[cfg(test)]
mod simulation;
pub mod slots;
pub mod standby;
mod start;
pub(crate) mod submissions;
mod webhooks;

pub use self::setup::{Neighbourhood, ObserverError, Ready, Reporting, Setup, Stopped};
pub use self::start::run;
