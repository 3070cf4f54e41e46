//! What an operator tells a running observer: messages on `observer/{name}/control/…`.
//!
//! Owns their topics and payloads. `observer/operator.rs` carries them out. The chapter
//! *contributing* lists what a new one touches.

use std::time::Duration;

use strum::{EnumString, IntoStaticStr, VariantArray};

use crate::telemetry::log::LogLevelError;

/// The longest time that tracing can be switched on for. Whoever wants more asks again.
const LONGEST_TRACE: Duration = Duration::from_secs(24 * 3600);

/// The last level of a command's topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum CommandTopic {
    /// Switches tracing.
    Trace,
    /// Sets the log level.
    LogLevel,
}

impl CommandTopic {
    /// Every topic.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The level.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// Every name, for people.
    fn names() -> String {
        let names: Vec<_> = Self::ALL.iter().map(|topic| topic.as_str()).collect();
        names.join(", ")
    }
}

/// A command with its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperatorCommand {
    /// Switch tracing.
    Trace(Switch),
    /// Log at this level, or by this `tracing` filter.
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

/// Why a command is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The payload is not UTF-8.
    #[error("is not UTF-8")]
    NotUtf8,
    /// The payload of `control/trace` is neither a switch nor a time.
    #[error("is neither on, off nor a time such as 10m")]
    NoSwitch,
    /// There is no such topic.
    #[error("is not a command: the commands are {}", CommandTopic::names())]
    UnknownTopic,
    /// The payload of `control/log-level` is neither a level nor a filter.
    #[error(transparent)]
    LogLevel(#[from] LogLevelError),
    /// The log belongs to another program, which embeds the observer.
    #[error("the log is not the observer's")]
    NoLog,
}

impl OperatorCommand {
    /// Reads the payload of a command whose topic ends in `last_level`.
    ///
    /// # Errors
    /// [`CommandError`] says what it could be instead.
    pub fn parse(last_level: &str, payload: &[u8]) -> Result<Self, CommandError> {
        let topic = last_level.parse().map_err(|_| CommandError::UnknownTopic)?;
        let text = str::from_utf8(payload).map_err(|_| CommandError::NotUtf8)?;
        let text = text.trim();
        match topic {
            CommandTopic::Trace => Switch::parse(text).map(Self::Trace),
            CommandTopic::LogLevel => Ok(Self::LogLevel(text.to_owned())),
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
        let parse = |what, payload: &str| OperatorCommand::parse(what, payload.as_bytes());
        assert_eq!(
            parse("trace", "on\n"),
            Ok(OperatorCommand::Trace(Switch::On))
        );
        assert_eq!(
            parse("trace", "10m"),
            Ok(OperatorCommand::Trace(Switch::For(Duration::from_secs(
                600
            ))))
        );
        assert_eq!(
            parse("trace", "9years"),
            Ok(OperatorCommand::Trace(Switch::For(LONGEST_TRACE)))
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
                .contains("trace, log-level")
        );
        assert!(OperatorCommand::parse("trace", b"\xff").is_err());
    }
}
