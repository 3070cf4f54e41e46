//! `chat21-observer`: reads the command line, runs the command, and turns its error into an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat21_observer::commands::cli::main()
}
