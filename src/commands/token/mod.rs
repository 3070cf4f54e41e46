//! `token`: mints tokens for RabbitMQ, and shows what is in one.

mod inspect;
mod mint;

use std::process::ExitCode;

use super::cli::TokenCommand;
use super::output::Output;

pub(super) fn run(command: &TokenCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        TokenCommand::Mint(command) => mint::run(command, out),
        TokenCommand::Inspect {
            file,
            format,
            settings,
        } => inspect::run(file, format, &settings.load()?, out),
    }
}
