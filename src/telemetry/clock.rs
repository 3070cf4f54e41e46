//! The one place that reads a clock.
//!
//! Owns both clocks of the process. The pure layers are handed the time; the edges hold a
//! [`Clock`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::warn;

use crate::protocol::time::UnixMillis;

/// How far the wall clock may be from where the monotonic clock says it is.
const TOLERANCE: Duration = Duration::from_secs(60);
/// How long it must have been further away before it is believed: whoever sets a clock wrong by
/// mistake sets it right again.
const BELIEVED_AFTER: Duration = Duration::from_secs(300);

/// The wall clock of this process.
static WALL: Mutex<SteadyWall> = Mutex::new(SteadyWall { last: None });

/// One moment, on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// On the monotonic clock: for time-outs and durations.
    pub instant: Instant,
    /// On the wall clock: for what is written down or sent. A jump of more than a minute is
    /// followed when it has lasted for five: a clock that is wrong for a moment must delete
    /// nothing, give nothing up, and leave no message in the future.
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
        #[cfg(test)]
        if let Some(now) = virtual_time::get() {
            return now;
        }
        let instant = Instant::now();
        let mut wall = WALL.lock().unwrap_or_else(PoisonError::into_inner);
        let (wall, jump) = wall.read(instant, self.wall_as_set());
        match jump {
            None => {}
            Some(Jump::Begun) => warn!(
                "the system's clock has jumped by more than a minute: messages get the time that \
                 it would be without the jump, for five minutes at most"
            ),
            Some(Jump::Over) => warn!("the system's clock is back where it should be"),
            Some(Jump::Followed) => warn!("the time of the system's clock is taken for right now"),
        }
        Now { instant, wall }
    }

    /// The wall clock as it is set: for what others judge by their own clocks, such as tokens.
    #[expect(
        clippy::disallowed_methods,
        reason = "every other place is handed the time, or this clock"
    )]
    pub fn wall_as_set(self) -> UnixMillis {
        UnixMillis::from(SystemTime::now())
    }
}

/// Time as a test wants it, in the test's own thread.
#[cfg(test)]
pub(crate) mod virtual_time {
    use std::cell::Cell;

    use super::Now;

    thread_local! {
        static NOW: Cell<Option<Now>> = const { Cell::new(None) };
    }

    pub(super) fn get() -> Option<Now> {
        NOW.get()
    }

    /// It is `now`, until something else is said.
    pub(crate) fn set(now: Option<Now>) {
        NOW.set(now);
    }
}

/// What became of a jump of the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Jump {
    Begun,
    Over,
    Followed,
}

/// A wall clock that does not follow a jump at once.
#[derive(Debug)]
struct SteadyWall {
    last: Option<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    instant: Instant,
    wall: UnixMillis,
    /// Since when the clock is elsewhere.
    elsewhere: Option<Instant>,
}

impl SteadyWall {
    /// The time at `instant`, when the clock says `set`.
    fn read(&mut self, instant: Instant, set: UnixMillis) -> (UnixMillis, Option<Jump>) {
        let right = Reading {
            instant,
            wall: set,
            elsewhere: None,
        };
        let last = *self.last.get_or_insert(right);
        let passed = instant.saturating_duration_since(last.instant).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let expected = UnixMillis::new(last.wall.as_millis().saturating_add(passed));
        let off = set.as_millis().abs_diff(expected.as_millis());
        if u128::from(off) <= TOLERANCE.as_millis() {
            self.last = Some(right);
            return (set, last.elsewhere.map(|_| Jump::Over));
        }
        let since = last.elsewhere.unwrap_or(instant);
        if instant >= since + BELIEVED_AFTER {
            self.last = Some(right);
            return (set, Some(Jump::Followed));
        }
        self.last = Some(Reading {
            elsewhere: Some(since),
            ..last
        });
        (expected, last.elsewhere.is_none().then_some(Jump::Begun))
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some time to start from"
)]
mod tests {
    use super::*;

    const START: u64 = 1_800_000_000_000;
    const TEN_YEARS: i64 = 10 * 365 * 24 * 3_600_000;

    /// Reads a clock that is off by so many milliseconds, `seconds` after the start: what is made
    /// of it, as milliseconds since the start.
    struct Bench(SteadyWall, Instant);

    impl Bench {
        fn new() -> Self {
            let mut bench = Self(SteadyWall { last: None }, Instant::now());
            assert_eq!(bench.read(0, 0), (0, None));
            bench
        }

        fn read(&mut self, seconds: u64, off: i64) -> (i64, Option<Jump>) {
            let set = (START + seconds * 1_000).saturating_add_signed(off);
            let instant = self.1 + Duration::from_secs(seconds);
            let (wall, jump) = self.0.read(instant, UnixMillis::new(set));
            let wall = i64::try_from(wall.as_millis()).unwrap() - i64::try_from(START).unwrap();
            (wall, jump)
        }
    }

    #[test]
    fn a_clock_that_is_wrong_for_a_while_is_not_followed() {
        for off in [TEN_YEARS, -TEN_YEARS, 61_000, -61_000] {
            let mut bench = Bench::new();
            assert_eq!(bench.read(10, off), (10_000, Some(Jump::Begun)));
            assert_eq!(bench.read(11, off), (11_000, None));
            assert_eq!(bench.read(200, off), (200_000, None));
            assert_eq!(bench.read(201, 5), (201_005, Some(Jump::Over)));
            assert_eq!(bench.read(202, off), (202_005, Some(Jump::Begun)), "anew");
        }
    }

    #[test]
    fn a_clock_that_stays_where_it_was_set_is_followed() {
        let mut bench = Bench::new();
        assert_eq!(bench.read(10, TEN_YEARS), (10_000, Some(Jump::Begun)));
        assert_eq!(bench.read(309, TEN_YEARS), (309_000, None));
        let followed = (310_000 + TEN_YEARS, Some(Jump::Followed));
        assert_eq!(bench.read(310, TEN_YEARS), followed);
        assert_eq!(bench.read(311, TEN_YEARS), (311_000 + TEN_YEARS, None));
    }

    #[test]
    fn a_clock_that_runs_fast_or_is_corrected_a_little_is_followed_at_once() {
        let mut bench = Bench::new();
        for n in 1..1_000_i64 {
            let seconds = u64::try_from(n).unwrap() * 60;
            let off = n * 30_000;
            assert_eq!(bench.read(seconds, off), (n * 90_000, None));
        }
    }
}
