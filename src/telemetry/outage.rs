//! The lines of the log about an outage: sentences for people, with their figures beside them for
//! programs.

use std::time::Duration;

use tracing::{error, info, warn};

use super::log::SENTENCE;
use super::stats::grouped;

/// What the log says of an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The session is lost, or it is found that this does not pass by itself.
    Lost {
        /// An operator has to change something first.
        needs_operator: bool,
    },
    /// Something else keeps messages from passing.
    Faulty,
    /// It lasts, so long already.
    Lasting {
        /// The time since it began.
        lasted: Duration,
    },
    /// Messages pass again.
    Over {
        /// How long they did not.
        lasted: Duration,
        /// Messages that came meanwhile, or had waited at the broker.
        waited: u64,
        /// Whether all of these have come.
        all: bool,
    },
}

impl Line {
    /// Writes the line. `fault` is what keeps messages from passing, now.
    pub fn log(self, fault: &str) {
        match self {
            Self::Lost {
                needs_operator: true,
            } => error!(target: SENTENCE, fault, "not connected: {fault}"),
            Self::Lost {
                needs_operator: false,
            } => warn!(target: SENTENCE, fault, "not connected: {fault}"),
            Self::Faulty => warn!(target: SENTENCE, fault, "not ready: {fault}"),
            Self::Lasting { lasted } => {
                let seconds = lasted.as_secs();
                let time = time(lasted);
                warn!(target: SENTENCE, fault, seconds, "not ready for {time}: {fault}");
            }
            Self::Over {
                lasted,
                waited,
                all,
            } => {
                let (seconds, text) = (lasted.as_secs_f64(), over(lasted, waited, all));
                info!(target: SENTENCE, seconds, waited, all, "{text}");
            }
        }
    }
}

fn over(lasted: Duration, waited: u64, all: bool) -> String {
    let time = time(lasted);
    let count = grouped(waited);
    let waited = match (waited, all) {
        (0, true) => ", no message had waited".to_owned(),
        (0, false) => String::new(),
        (1, true) => ", 1 message had waited".to_owned(),
        (_, true) => format!(", {count} messages had waited"),
        (_, false) => format!(", {count} messages or more had waited"),
    };
    format!("ready again after {time}{waited}")
}

/// A time for people: tenths of a second count in the first minute only.
fn time(time: Duration) -> String {
    if time < Duration::from_secs(60) {
        return format!("{:.1} s", time.as_secs_f64());
    }
    humantime::format_duration(Duration::from_secs(time.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_that_is_over_is_told_with_what_is_known() {
        let short = Duration::from_millis(4_630);
        assert_eq!(
            over(short, 1_204, true),
            "ready again after 4.6 s, 1,204 messages had waited"
        );
        assert_eq!(
            over(short, 1, true),
            "ready again after 4.6 s, 1 message had waited"
        );
        assert_eq!(
            over(short, 70_000, false),
            "ready again after 4.6 s, 70,000 messages or more had waited"
        );
        assert_eq!(over(short, 0, false), "ready again after 4.6 s");
        let long = Duration::from_millis(64_900);
        assert_eq!(
            over(long, 0, true),
            "ready again after 1m 4s, no message had waited"
        );
    }
}
