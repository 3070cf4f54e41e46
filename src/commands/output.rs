//! Where commands print: results to standard output, messages to the operator to standard error.
//!
//! Owns every write to the two, and what happens when their reader has gone. Rust ignores SIGPIPE,
//! so a reader that has gone (`| head -1`) shows as a failed write, on which `println!` panics.
//! Here the write returns [`OutputError::Closed`]: the command stops, and the process ends with
//! exit code 0, because its reader has had all it wanted. (Not with SIGPIPE's 141: it would turn
//! `chat21-observer store export … | head` into a failure under the shell's `pipefail`.)

use std::fmt::Display;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::process::ExitCode;

use serde::Serialize;

/// Why a result could not be printed.
#[derive(Debug, thiserror::Error)]
pub(super) enum OutputError {
    /// The reader has gone. It ends the command, and is no failure.
    #[error("the reader of standard output has gone")]
    Closed,
    /// The disk is full, and the like.
    #[error("cannot write to standard output")]
    Failed(#[source] io::Error),
    /// The result has no form in JSON.
    #[error("cannot print as JSON")]
    Json(#[from] serde_json::Error),
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe {
            Self::Closed
        } else {
            Self::Failed(error)
        }
    }
}

/// Standard output.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Output;

impl Output {
    /// Prints text as it is.
    pub(super) fn text(self, text: &str) -> Result<(), OutputError> {
        self.bytes(text.as_bytes())
    }

    /// Prints bytes as they are.
    pub(super) fn bytes(self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        Ok(out.flush()?)
    }

    /// Prints a line.
    pub(super) fn line(self, text: impl Display) -> Result<(), OutputError> {
        self.text(&format!("{text}\n"))
    }

    /// Prints a line, without its colours unless standard output is a terminal.
    pub(super) fn coloured_line(self, text: &str) -> Result<(), OutputError> {
        let mut out = anstream::stdout().lock();
        writeln!(out, "{text}")?;
        Ok(out.flush()?)
    }

    /// Prints a value as indented JSON.
    pub(super) fn json(self, value: &impl Serialize) -> Result<(), OutputError> {
        self.line(serde_json::to_string_pretty(value)?)
    }

    /// Prints what a verdict rests on, and returns the verdict. It holds even if nobody reads on.
    pub(super) fn verdict(self, text: &str, code: ExitCode) -> Result<ExitCode, OutputError> {
        match self.text(text) {
            Ok(()) | Err(OutputError::Closed) => Ok(code),
            Err(error) => Err(error),
        }
    }

    /// A writer for many lines. Flush it: dropping it hides errors.
    pub(super) fn buffered(self) -> BufWriter<Stdout> {
        BufWriter::new(io::stdout())
    }

    /// Writes to standard error as it is, for a line that is written over.
    pub(super) fn over(self, text: &str) {
        let mut out = io::stderr().lock();
        let _ = out.write_all(text.as_bytes());
        let _ = out.flush();
    }

    /// Prints a line for the operator to standard error. Nothing depends on its being read.
    pub(super) fn message(self, text: impl Display) {
        let line = format!("{text}\n");
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_broken_pipe_is_a_reader_that_has_gone() {
        let of = |kind: ErrorKind| OutputError::from(io::Error::from(kind));
        assert!(matches!(of(ErrorKind::BrokenPipe), OutputError::Closed));
        assert!(matches!(of(ErrorKind::StorageFull), OutputError::Failed(_)));
    }
}
