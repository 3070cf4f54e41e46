//! The section of what the observer says about itself: status, statistics, trace, log.
//!
//! Owns reading these settings. Publishing and logging are the business of `telemetry` and
//! `observer`.

use std::time::Duration;

use super::reader::Reader;
use super::values::ValueError;
use crate::telemetry;
use crate::telemetry::LogFormat;

/// What the observer says about itself.
#[derive(Clone, Debug)]
pub struct ReportingSection {
    /// Whether the broker retains the observer's status.
    pub status: bool,
    /// Whether other observers on the broker may take the same messages.
    pub allow_other_observers: bool,
    /// Whether a line of trace is published for each message.
    pub trace: bool,
    /// How often statistics are published; `None`: never.
    pub stats_interval: Option<Duration>,
    /// The form of log lines.
    pub log_format: LogFormat,
    /// A level or a filter for `tracing`.
    pub log_level: String,
}

impl ReportingSection {
    pub(super) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let status = reader.boolean("status");
        let allow_other_observers = reader.switch("allow-other-observers");
        let trace = reader.switch("trace");
        let stats_interval = reader.parse("stats-interval", parse_interval);
        let log_format = reader.choice(
            "log-format",
            &[
                ("auto", LogFormat::Auto),
                ("text", LogFormat::Text),
                ("json", LogFormat::Json),
            ],
        );
        let log_level = reader.parse("log-level", |text| {
            telemetry::filter(text).map(|_| text.to_owned())
        });
        Some(Self {
            allow_other_observers,
            status,
            trace,
            stats_interval: stats_interval?,
            log_format,
            log_level: log_level?,
        })
    }
}

const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two statistics: a longer one could not be added to the clock's time.
const LONGEST_INTERVAL: Duration = Duration::from_secs(31_557_600);

/// A duration from a second to a year, or `none`.
fn parse_interval(text: &str) -> Result<Option<Duration>, ValueError> {
    match (text, humantime::parse_duration(text)) {
        ("none", _) => Ok(None),
        (_, Ok(interval)) if (SHORTEST_INTERVAL..=LONGEST_INTERVAL).contains(&interval) => {
            Ok(Some(interval))
        }
        (_, Ok(_)) => Err(ValueError::DurationRange {
            text: text.to_owned(),
            least: SHORTEST_INTERVAL,
            most: LONGEST_INTERVAL,
        }),
        (_, Err(_)) => Err(ValueError::DurationOrNone(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_is_a_second_or_longer_or_none() {
        assert_eq!(parse_interval("none"), Ok(None));
        assert_eq!(parse_interval("1s"), Ok(Some(Duration::from_secs(1))));
        for (text, want) in [
            ("0s", "\"0s\" is not between 1s and 1year"),
            (
                "1000000000000years",
                "\"1000000000000years\" is neither a time such as 1m nor none",
            ),
            (
                "1000000years",
                "\"1000000years\" is not between 1s and 1year",
            ),
            ("soon", "\"soon\" is neither a time such as 1m nor none"),
        ] {
            assert_eq!(parse_interval(text).unwrap_err().to_string(), want);
        }
    }
}
