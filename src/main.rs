//! `chat21-observer`: starts the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    chat21_observer::commands::main()
}
