//! `completions`: prints the script that completes this program's commands and flags in a shell.

use std::process::ExitCode;

use super::cli::{self, CompletionsArgs};
use super::output::Output;

pub(super) fn run(args: &CompletionsArgs, out: Output) -> anyhow::Result<ExitCode> {
    let mut command = cli::command();
    let name = command.get_name().to_owned();
    // Into memory first: the generator panics where it cannot write.
    let mut script = vec![];
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    out.bytes(&script)?;
    Ok(ExitCode::SUCCESS)
}
