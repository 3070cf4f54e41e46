//! Parsers of single values: numbers, durations, sizes.
//!
//! Owns the rule that a value must meet and the text that names it. Where the value comes from is
//! the business of `reader.rs`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Why a value is not valid. Each text repeats the value, so none of these is for secrets.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum ValueError {
    #[error("{0:?} is neither true nor false")]
    Switch(String),
    #[error("{text:?} is none of {words}")]
    Choice { text: String, words: String },
    #[error("{text:?} is not a whole number from {least} to {most}")]
    Number { text: String, least: u32, most: u32 },
    #[error("{text:?} is neither a whole number from {least} to {most} nor none")]
    NumberOrNone { text: String, least: u32, most: u32 },
    #[error("{text:?} is not a time such as {example}: {error}")]
    Duration {
        text: String,
        example: &'static str,
        error: humantime::DurationError,
    },
    #[error("{0:?} is neither a time such as 1m nor none")]
    DurationOrNone(String),
    #[error(
        "{text:?} is not between {} and {}",
        humantime::format_duration(*.least),
        humantime::format_duration(*.most)
    )]
    DurationRange {
        text: String,
        least: Duration,
        most: Duration,
    },
    #[error("{text:?} is less than {least}")]
    TooSmall { text: String, least: &'static str },
    #[error("{0:?} is not a size such as 64KiB or 1MiB")]
    Size(String),
    #[error("{0:?} is not a size of at least 1 byte")]
    NoSize(String),
    #[error("{0:?} is not a size between 1 byte and 240MiB, which is what MQTT can carry")]
    PayloadSize(String),
}

/// A setting that is true or false and takes a value all the same, as the variables of other
/// programs do. The first word is the default of [`Reader::choice`](super::reader::Reader::choice).
pub(super) const BOOL: &[(&str, bool)] = &[
    ("true", true),
    ("TRUE", true),
    ("True", true),
    ("1", true),
    ("false", false),
    ("FALSE", false),
    ("False", false),
    ("0", false),
];

/// The largest payload that fits into an MQTT packet beside a topic, in bytes.
const MAX_PAYLOAD_BYTES: usize = 240 << 20;

pub(super) fn parse_switch(text: &str) -> Result<bool, ValueError> {
    match text {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(ValueError::Switch(text.to_owned())),
    }
}

/// The value that belongs to a word.
pub(super) fn parse_choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, ValueError> {
    match choices.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            Err(ValueError::Choice {
                text: text.to_owned(),
                words: words.join(", "),
            })
        }
    }
}

pub(super) fn parse_number<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, ValueError>
where
    T: Copy + std::str::FromStr + PartialOrd + Into<u32>,
{
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(ValueError::Number {
            text: text.to_owned(),
            least: (*range.start()).into(),
            most: (*range.end()).into(),
        }),
    }
}

/// A duration such as `30s` or `5m`.
pub(super) fn parse_duration(
    text: &str,
    range: &RangeInclusive<Duration>,
) -> Result<Duration, ValueError> {
    match humantime::parse_duration(text) {
        Ok(duration) if range.contains(&duration) => Ok(duration),
        Ok(_) => Err(ValueError::DurationRange {
            text: text.to_owned(),
            least: *range.start(),
            most: *range.end(),
        }),
        Err(error) => Err(ValueError::Duration {
            text: text.to_owned(),
            example: "30s or 5m",
            error,
        }),
    }
}

/// A size in bytes: `1MiB`, `256KiB`, `64kB`, `1000`.
pub(super) fn parse_size(text: &str) -> Result<u64, ValueError> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(ValueError::Size(text.to_owned())),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| ValueError::NoSize(text.to_owned()))
}

/// The size of an MQTT payload in bytes.
pub(super) fn parse_payload_size(text: &str) -> Result<usize, ValueError> {
    match usize::try_from(parse_size(text)?) {
        Ok(bytes @ 1..=MAX_PAYLOAD_BYTES) => Ok(bytes),
        Ok(_) | Err(_) => Err(ValueError::PayloadSize(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("1", 1),
            ("64KiB", 65_536),
            ("1 MiB", 1 << 20),
            ("2MB", 2_000_000),
            ("3kB", 3_000),
        ] {
            assert_eq!(parse_payload_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "x", "1GiB", "-1", "250MiB", "99999999999999999999"] {
            assert!(parse_payload_size(text).is_err(), "{text}");
        }
    }
}
