//! What an operator wants of a running observer: the payloads of `observer/{name}/control/…`.
//!
//! Owns reading them. Carrying them out is the observer's part.

use std::time::Duration;

use crate::telemetry::log::LogLevelError;

/// The longest time that tracing can be switched on for. Whoever wants more asks again.
const LONGEST_TRACE: Duration = Duration::from_secs(24 * 3600);

/// Something an operator wants of a running observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `control/trace`: switch tracing.
    Trace(Switch),
    /// `control/log-level`: a level, or a `tracing` filter.
    LogLevel(String),
}

/// On, off, or on for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On, until it is switched off.
    On,
    /// Off.
    Off,
    /// On for this time.
    For(Duration),
}

/// Why a control message is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The payload is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// The payload of `control/trace` is neither a switch nor a time.
    #[error("is neither on, off nor a time such as 10m")]
    NoSwitch,
    /// There is no such control topic.
    #[error("is neither control/trace nor control/log-level")]
    UnknownTopic,
    /// The payload of `control/log-level` is neither a level nor a filter.
    #[error(transparent)]
    LogLevel(#[from] LogLevelError),
    /// The log belongs to another program, which embeds the observer.
    #[error("the log is not the observer's")]
    NoLog,
}

impl Command {
    /// Reads the payload of a control topic whose last level is `what`.
    ///
    /// # Errors
    /// [`CommandError`] says what it could be instead.
    pub fn parse(what: &str, payload: &[u8]) -> Result<Self, CommandError> {
        let text = str::from_utf8(payload).map_err(|_| CommandError::NotUtf8)?;
        let text = text.trim();
        match what {
            "trace" => Switch::parse(text).map(Self::Trace),
            "log-level" => Ok(Self::LogLevel(text.to_owned())),
            _ => Err(CommandError::UnknownTopic),
        }
    }
}

impl Switch {
    fn parse(text: &str) -> Result<Self, CommandError> {
        match text {
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            time => humantime::parse_duration(time)
                .map(|time| Self::For(time.min(LONGEST_TRACE)))
                .map_err(|_| CommandError::NoSwitch),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_or_named() {
        let parse = |what, payload: &str| Command::parse(what, payload.as_bytes());
        assert_eq!(parse("trace", "on\n"), Ok(Command::Trace(Switch::On)));
        assert_eq!(
            parse("trace", "10m"),
            Ok(Command::Trace(Switch::For(Duration::from_secs(600))))
        );
        assert_eq!(
            parse("trace", "9years"),
            Ok(Command::Trace(Switch::For(LONGEST_TRACE)))
        );
        assert!(
            parse("trace", "perhaps")
                .unwrap_err()
                .to_string()
                .contains("10m")
        );
        assert!(
            parse("reboot", "")
                .unwrap_err()
                .to_string()
                .contains("log-level")
        );
        assert!(Command::parse("trace", b"\xff").is_err());
    }
}
