//! The command line: one file a command.
//!
//! Owns arguments, output and exit codes. Leaves the work to the layers below.
//!
//! `cli` defines the commands, this file runs them, and each command prints through `output`.

#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "they panic when the reader has gone: print through `output`"
)]

mod acl;
mod bench;
mod block;
mod check;
mod cli;
mod completions;
mod config;
mod copy;
#[cfg(feature = "demo")]
mod demo;
mod explain;
mod group;
mod guide;
mod health;
mod import;
mod inbox;
mod input;
mod man;
mod output;
mod run;
mod scope;
mod send;
mod service;
mod settings;
mod signals;
mod slots;
mod store;
mod text;
mod token;
mod trial;
mod user;
mod watch;
mod webhook;

use std::process::ExitCode;
use std::time::Duration;

use self::cli::Command;
use self::output::{Output, OutputError};
use crate::config::{Config, ConfigErrors};
use crate::delivery::backoff::Backoff;
use crate::mqtt::LinkError;
use crate::telemetry;
use anyhow::Context;

/// The exit code of mistakes in the arguments (clap's) and in the settings.
const USAGE: u8 = 2;

/// Runs the command that the process was started with.
///
/// Exit codes: 0 done, 1 failed (or the verdict is "no"), 2 a mistake in arguments or settings.
pub fn main() -> ExitCode {
    let out = Output;
    execute(&cli::parse().command, out).unwrap_or_else(|error| report(&error, out))
}

fn execute(command: &Command, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(settings) => in_runtime(run::run(settings)),
        Command::Explain(args) => explain::run(args, out),
        Command::Check(args) => in_runtime(check::run(args, out)),
        Command::Store(command) => store::run(command, out),
        Command::Slots(command) => slots::run(command, out),
        Command::Group(command) => group::run(command, out),
        Command::Block(command) => block::run(command, out),
        Command::Webhook(command) => webhook::run(command, out),
        Command::Send(args) => in_runtime(send::run(args, out)),
        Command::Inbox(args) => in_runtime(inbox::run(args, out)),
        Command::Bench(args) => in_runtime(bench::run(args, out)),
        Command::Watch(args) => in_runtime(watch::run(args, out)),
        Command::Config(command) => config::run(command, out),
        Command::Token(command) => token::run(command, out),
        Command::Acl(args) => acl::run(args, out),
        Command::Health(settings) => in_runtime(health::run(settings, out)),
        Command::Guide(args) => guide::run(args, out),
        Command::Man(args) => man::run(args, out),
        Command::Completions(args) => completions::run(args, out),
        #[cfg(feature = "demo")]
        Command::Demo(args) => in_runtime(demo::run(args, out)),
    }
}

/// Tells the operator what went wrong, and returns the exit code for it.
fn report(error: &anyhow::Error, out: Output) -> ExitCode {
    if matches!(error.downcast_ref(), Some(OutputError::Closed)) {
        return ExitCode::SUCCESS;
    }
    if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
        let count = errors.0.len();
        let plural = if count == 1 { "" } else { "s" };
        out.message(format!(
            "error: {count} mistake{plural} in the settings\n{errors}"
        ));
        return ExitCode::from(USAGE);
    }
    out.message(format!("error: {error:#}"));
    ExitCode::FAILURE
}

/// One thread carries a message all the way: with two connections and a few microseconds of work a
/// message, passing messages between threads costs more than it gains.
fn in_runtime<F: Future<Output = anyhow::Result<ExitCode>>>(body: F) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(body);
    // A name that is being looked up would hold up the end of the process.
    runtime.shutdown_background();
    ended
}

/// Logs errors only, unless the settings ask for more: the result is what the command prints.
fn init_quiet_log(config: &Config) {
    let level = if config.reporting.log_level == "info" {
        "error"
    } else {
        &config.reporting.log_level
    };
    telemetry::init(config.reporting.log_format, level);
}

/// Says why there is no connection, and waits before the next attempt.
async fn rest(backoff: &mut Backoff, error: &LinkError, out: Output) {
    let wait = backoff.next(fastrand::u64(..));
    // Whole milliseconds, to be printed.
    let wait = Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(1_000));
    out.message(format_args!(
        "not connected: {error} (again in {}; Ctrl-C ends it)",
        humantime::format_duration(wait)
    ));
    tokio::time::sleep(wait).await;
}
