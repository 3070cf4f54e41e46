//! When to connect again.
//!
//! Owns the pauses between the connections of one link, as a decision without clock or I/O. Leaves
//! waiting and logging to `link.rs`.

use std::time::Duration;

use crate::delivery::backoff::{Backoff, jittered};
use crate::mqtt::{Cause, LinkError};
use crate::telemetry::LinkRole;

/// The first pause after a connection is lost, and the longest while the broker is unreachable.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// The same, where trying again soon is pointless: the login is refused, or another client uses the
/// client identifier.
const SLOW_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// A connection that lasted this long has proved good: the pauses start from the shortest again.
const PROVED_GOOD: Duration = Duration::from_secs(10);
/// If the broker closes two connections in a row this soon and gives no reason, then another client
/// probably uses the same client identifier.
const SUSPICIOUSLY_SHORT: Duration = Duration::from_secs(3);
/// Short connections of a publisher, one after another, before the pauses grow. A publish that
/// makes the broker close is found by trying, and the other publishes should not wait for that.
const QUICK_RETRIES: u32 = 10;
/// The pause of a publisher when the broker has closed its connection for the first and the second
/// time: after that the publish at fault goes its own way.
const AT_ONCE: Duration = Duration::from_millis(20);
/// Whether a failure passes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// It may: try again soon.
    Transient,
    /// An operator has to change something first: try again slowly.
    NeedsOperator,
}

/// What to do before the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pause {
    /// How long to wait.
    pub(super) delay: Duration,
    /// Whether the failure passes by itself.
    pub(super) outlook: Outlook,
    /// Another client seems to use the session's client identifier.
    pub(super) is_contested: bool,
}

/// The history of one link, as far as it decides about the next attempt.
#[derive(Debug)]
pub(super) struct Retry {
    role: LinkRole,
    soon: Backoff,
    slow: Backoff,
    /// Connections in a row that the broker closed soon, without a reason.
    short_lives: u32,
    /// Connections that the broker closed on SUBSCRIBE, since the last one that proved good.
    closed_on_subscribe: u32,
}

impl Retry {
    pub(super) fn new(role: LinkRole) -> Self {
        Self {
            role,
            soon: Backoff::new(RETRY.0, RETRY.1),
            slow: Backoff::new(SLOW_RETRY.0, SLOW_RETRY.1),
            short_lives: 0,
            closed_on_subscribe: 0,
        }
    }

    /// Counts a connection that the broker closed on SUBSCRIBE. Returns how many there were.
    pub(super) fn handle_closed_on_subscribe(&mut self) -> u32 {
        self.closed_on_subscribe += 1;
        self.closed_on_subscribe
    }

    /// What to do after a connection that lasted for `lived`, or after an attempt without one.
    /// `jitter` is a fresh random number.
    pub(super) fn next(
        &mut self,
        error: &LinkError,
        outlook: Outlook,
        lived: Option<Duration>,
        jitter: u64,
    ) -> Pause {
        self.count(error.cause, lived);
        let is_contested = self.role == LinkRole::Session
            && (error.cause == Cause::TakenOver || self.short_lives >= 2);
        // That took its time. Where the broker is gone, the next attempt shows it.
        let has_timed_out = error.cause == Cause::TimedOut && lived.is_some();
        let delay = if is_contested || outlook == Outlook::NeedsOperator {
            self.slow.next(jitter)
        } else if self.role == LinkRole::Publisher
            && error.cause == Cause::Closed
            && lived.is_some()
            && self.short_lives <= 1
        {
            jittered(AT_ONCE, jitter)
        } else if self.role == LinkRole::Publisher
            && ((1..=QUICK_RETRIES).contains(&self.short_lives) || has_timed_out)
        {
            jittered(RETRY.0, jitter)
        } else {
            self.soon.next(jitter)
        };
        Pause {
            delay,
            outlook,
            is_contested,
        }
    }

    fn count(&mut self, cause: Cause, lived: Option<Duration>) {
        if lived.is_some_and(|lived| lived >= PROVED_GOOD) {
            *self = Self::new(self.role);
        }
        let is_short = lived.is_some_and(|lived| lived < SUSPICIOUSLY_SHORT);
        self.short_lives = if is_short && cause == Cause::Closed {
            self.short_lives + 1
        } else {
            0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<Duration> = Some(Duration::from_secs(1));
    const LONG: Option<Duration> = Some(PROVED_GOOD);

    fn next(retry: &mut Retry, cause: Cause, lived: Option<Duration>) -> Pause {
        let error = LinkError::new(cause, "a failure");
        let outlook = if error.is_permanent() {
            Outlook::NeedsOperator
        } else {
            Outlook::Transient
        };
        retry.next(&error, outlook, lived, 0)
    }

    #[test]
    fn pauses_grow_until_a_connection_proves_good() {
        let mut retry = Retry::new(LinkRole::Session);
        for _ in 0..20 {
            next(&mut retry, Cause::Unreachable, None);
        }
        let longest = next(&mut retry, Cause::Unreachable, None);
        assert_eq!(longest.delay, RETRY.1 / 2);
        let again = next(&mut retry, Cause::Closed, LONG);
        assert_eq!(again.delay, RETRY.0 / 2);
    }

    #[test]
    fn a_refused_login_is_tried_slowly() {
        let mut retry = Retry::new(LinkRole::Publisher);
        let pause = next(&mut retry, Cause::BadCredentials, None);
        assert_eq!(pause.outlook, Outlook::NeedsOperator);
        assert_eq!(pause.delay, SLOW_RETRY.0 / 2);
    }

    #[test]
    fn a_session_closed_soon_twice_is_contested_and_a_publisher_is_not() {
        let mut session = Retry::new(LinkRole::Session);
        assert!(!next(&mut session, Cause::Closed, SHORT).is_contested);
        let pause = next(&mut session, Cause::Closed, SHORT);
        assert!(pause.is_contested && pause.delay >= SLOW_RETRY.0 / 2);
        assert!(!next(&mut session, Cause::Unreachable, None).is_contested);
        let mut publisher = Retry::new(LinkRole::Publisher);
        let quick = std::iter::once(AT_ONCE).chain([RETRY.0; QUICK_RETRIES as usize - 1]);
        for delay in quick {
            let pause = next(&mut publisher, Cause::Closed, SHORT);
            assert_eq!((pause.is_contested, pause.delay), (false, delay / 2));
        }
        next(&mut publisher, Cause::Closed, SHORT);
        assert!(next(&mut publisher, Cause::Closed, SHORT).delay > RETRY.0 / 2);
    }
}
