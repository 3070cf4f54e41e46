//! The one place that reads a clock.
//!
//! Owns both clocks of the process. The pure layers are handed the time; the edges hold a
//! [`Clock`].

use std::time::{Instant, SystemTime};

use crate::protocol::time::UnixMillis;

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On the monotonic clock: for time-outs and durations.
    pub instant: Instant,
    /// On the wall clock: for what is written down or sent. It may jump.
    pub wall: UnixMillis,
}

/// Reads the system's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// The present moment.
    #[expect(
        clippy::disallowed_methods,
        reason = "every other place is handed the time, or this clock"
    )]
    pub fn now(self) -> Now {
        Now {
            instant: Instant::now(),
            wall: UnixMillis::from(SystemTime::now()),
        }
    }
}
