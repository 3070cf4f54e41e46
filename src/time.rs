//! Wall-clock time as the wire has it. Nothing here reads a clock: the edge does, and hands the time in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01 UTC, the unit of every time in `protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMillis(u64);

impl UnixMillis {
    /// How far a client's `timestamp` may lie in the past and still be believed: a phone that was offline for a week.
    pub const OLDEST_SANE: Duration = Duration::from_secs(7 * 24 * 3600);
    /// How far it may lie in the future: clocks that are not set well.
    pub const NEWEST_SANE: Duration = Duration::from_secs(5 * 60);

    /// From a number of milliseconds.
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    /// The number of milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whether a client may have meant `self` as the time of a message that arrives at `now`.
    pub fn is_sane_at(self, now: Self) -> bool {
        let past = u64::try_from(Self::OLDEST_SANE.as_millis()).unwrap_or(u64::MAX);
        let future = u64::try_from(Self::NEWEST_SANE.as_millis()).unwrap_or(u64::MAX);
        self.0 >= now.0.saturating_sub(past) && self.0 <= now.0.saturating_add(future)
    }
}

impl From<SystemTime> for UnixMillis {
    /// Times before 1970 become 0.
    fn from(time: SystemTime) -> Self {
        let millis = time
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_millis();
        Self(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_believed_within_a_week_back_and_five_minutes_ahead() {
        let now = UnixMillis::new(1_800_000_000_000);
        for (millis, sane) in [
            (1_800_000_000_000, true),
            (1_800_000_000_000 - 7 * 86_400_000, true),
            (1_800_000_000_000 - 7 * 86_400_000 - 1, false),
            (1_800_000_300_000, true),
            (1_800_000_300_001, false),
            (0, false),
            (u64::MAX, false),
        ] {
            assert_eq!(UnixMillis::new(millis).is_sane_at(now), sane, "{millis}");
        }
    }
}
