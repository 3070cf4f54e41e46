//! Wall-clock time as it stands on the wire.
//!
//! Owns the unit. No clock is read here: the edge reads it and hands the time in.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970-01-01 UTC, the unit of every time in `protocol.md`.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct UnixMillis(u64);

impl UnixMillis {
    /// The time that many milliseconds after 1970-01-01 UTC.
    pub const fn new(millis: u64) -> Self {
        Self(millis)
    }

    /// The number of milliseconds since 1970-01-01 UTC.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time so long before this one, or 1970-01-01 UTC.
    #[must_use]
    pub fn before(self, span: Duration) -> Self {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(span))
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
