//! The log: its format, its level, and changing the level while the process runs.
//!
//! Owns the set-up of `tracing`, and the look of a line of text (`log/text.rs`). What is logged
//! stands where it happens.

mod text;

use std::fmt;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, reload};

/// The target of events whose message says everything, for people. Their fields are for programs: a
/// line of text has none of them.
pub const SENTENCE: &str = "chat21_observer::sentence";

/// The variable in which systemd names the device and inode of the journal.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Changes what is logged while the process runs.
#[derive(Clone)]
pub struct LogLevel(reload::Handle<EnvFilter, tracing_subscriber::Registry>);

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogLevel")
    }
}

/// Why a text is not a log level or filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogLevelError {
    /// A single word that names no level.
    #[error("{0:?} is not a level (error, warn, info, debug, trace, off)")]
    NoLevel(String),
    /// Neither a level nor a filter that `tracing` understands.
    #[error("{text:?} is not a level (error, warn, info, debug, trace, off) or filter: {reason}")]
    NoFilter {
        /// The text as given.
        text: String,
        /// What the parser of filters says.
        reason: String,
    },
    /// The log cannot be changed any more.
    #[error("{0}")]
    NotChanged(String),
}

impl LogLevel {
    /// Logs at this level, or by this filter, from now on.
    ///
    /// # Errors
    /// [`LogLevelError`], if the text is neither.
    pub fn set(&self, level: &str) -> Result<(), LogLevelError> {
        let changed = self.0.reload(filter(level)?);
        changed.map_err(|error| LogLevelError::NotChanged(error.to_string()))
    }
}

/// The name that `tracing` has for a level of chat21-server (in any case). Other texts are returned
/// unchanged.
fn tracing_name(level: &str) -> &str {
    match level.to_ascii_lowercase().as_str() {
        "error" | "fatal" => "error",
        "warn" | "warning" => "warn",
        "info" | "log" => "info",
        "debug" | "verbose" => "debug",
        "trace" | "silly" => "trace",
        "off" | "none" => "off",
        _ => level,
    }
}

/// Libraries that log whole packets or statements, payloads included. They are silent unless a
/// filter names them.
const SILENT: [&str; 6] = [
    "rumqttc",
    "rumqttd",
    "hyper",
    "tungstenite",
    "rustls",
    "tokio_postgres",
];

/// The filter for a level by name, or for a `tracing` filter.
///
/// # Errors
/// [`LogLevelError`], if the text is neither.
pub fn filter(level: &str) -> Result<EnvFilter, LogLevelError> {
    let level = tracing_name(level);
    let silent = SILENT.into_iter().filter(|name| !level.contains(name));
    let text: String = std::iter::once(level.to_owned())
        .chain(silent.map(|name| format!(",{name}=off")))
        .collect();
    // The library takes a single unknown word for a module, and would log nothing at all.
    let is_word = level.chars().all(char::is_alphanumeric);
    let is_level = level.parse::<tracing_subscriber::filter::LevelFilter>();
    match EnvFilter::try_new(text) {
        Ok(filter) if !is_word || is_level.is_ok() => Ok(filter),
        Ok(_) => Err(LogLevelError::NoLevel(level.to_owned())),
        Err(error) => Err(LogLevelError::NoFilter {
            text: level.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal and in the journal, JSON otherwise.
    Auto,
    /// One line of text for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// Sets the log up, on standard error. `level` is what [`filter`] takes. Returns `None`, and
/// changes nothing, where a log is set up already.
pub fn init(format: LogFormat, level: &str) -> Option<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(level).unwrap_or_default());
    let terminal = std::io::stderr().is_terminal();
    let journal = is_journal();
    let json = match format {
        LogFormat::Auto => !terminal && !journal,
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // A line that cannot be written because its reader has gone is no reason to write another.
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    let registry = tracing_subscriber::registry().with(filter);
    let set = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        // The journal has its own time for each line.
        let text = text::Text { has_time: !journal };
        // https://no-color.org
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let lines = lines.with_ansi(terminal && !plain).event_format(text);
        registry.with(lines).try_init()
    };
    // It fails where a log is set up already, for example by a test.
    set.is_ok().then_some(LogLevel(handle))
}

/// Whether standard error is the journal. The variable alone does not tell: a command that writes
/// into a file inherits it.
fn is_journal() -> bool {
    let Ok(stream) = std::env::var(JOURNAL_STREAM) else {
        return false;
    };
    let stderr = std::io::stderr().as_fd().try_clone_to_owned();
    let opened = stderr.and_then(|stderr| File::from(stderr).metadata());
    opened.is_ok_and(|file| stream == format!("{}:{}", file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_the_names_of_chat21_server() {
        for level in ["error", "WARN", "Info", "VERBOSE", "debug", "log", "silly"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        assert!(filter("info,chat21_observer::connections=debug").is_ok());
        assert!(filter("loud").unwrap_err().to_string().contains("\"loud\""));
        assert!(filter("info,x=loud").is_err());
    }

    #[test]
    fn what_logs_whole_statements_is_silent_unless_it_is_named() {
        let silent = |level| {
            filter(level)
                .unwrap()
                .to_string()
                .contains("tokio_postgres=off")
        };
        assert!(silent("debug") && silent("trace"));
        assert!(!silent("info,tokio_postgres=debug"));
    }
}
