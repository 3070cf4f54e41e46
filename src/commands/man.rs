//! `man`: prints a manual page in roff, of the program or of one command.

use std::process::ExitCode;

use anyhow::Context;

use super::cli::{self, ManArgs};
use super::output::Output;

pub(super) fn run(args: &ManArgs, out: Output) -> anyhow::Result<ExitCode> {
    let mut command = cli::command();
    // Names every command by its whole path.
    command.build();
    for name in &args.command {
        let found = command.find_subcommand(name).cloned();
        command = found.with_context(|| format!("there is no command {name:?}"))?;
    }
    let mut page = vec![];
    clap_mangen::Man::new(command)
        .render(&mut page)
        .context("cannot make the page")?;
    out.bytes(&page)?;
    Ok(ExitCode::SUCCESS)
}
