//! The command line: one file a command.
//!
//! Owns arguments, output and exit codes. Leaves the work to the layers below.

pub mod check;
pub mod cli;
#[cfg(feature = "demo")]
pub mod demo;
pub mod explain;
mod stored;
mod token;
pub mod watch;
mod webhooks;
