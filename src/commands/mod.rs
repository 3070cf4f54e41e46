//! The command line: one file a command.
//!
//! Owns arguments, output and exit codes. Leaves the work to the layers below.

#![expect(clippy::print_stdout, reason = "this is where results are printed")]

pub mod check;
pub mod cli;
#[cfg(feature = "demo")]
pub mod demo;
pub mod explain;
mod stored;
mod token;
pub mod watch;
mod webhooks;
