//! The delay before the next attempt to reach a broker or an endpoint.
//!
//! Owns the growth of delays and their jitter. Leaves the random numbers and the waiting to the
//! caller.

use std::time::Duration;

/// Exponential back-off with jitter: each delay lies between half of the current step and the whole
/// of it.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    step: Duration,
}

impl Backoff {
    /// Doubles from `first` to `longest`. A `longest` below `first` counts as `first`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest: longest.max(first),
            step: first,
        }
    }

    /// The next delay; `jitter` is a fresh random number.
    pub fn next(&mut self, jitter: u64) -> Duration {
        let step = self.step;
        self.step = (step * 2).min(self.longest);
        jittered(step, jitter)
    }

    /// Starts again from the shortest delay. To be called once an attempt has proved good.
    pub fn reset(&mut self) {
        self.step = self.first;
    }
}

/// A delay between half of `longest` and the whole of it; `jitter` is a fresh random number.
pub(crate) fn jittered(longest: Duration, jitter: u64) -> Duration {
    let half = longest / 2;
    let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX - 1);
    half + Duration::from_micros(jitter % (spread + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(350));
        let steps = [100, 200, 350, 350].map(Duration::from_millis);
        for (jitter, step) in [0, 7_777_777, u64::MAX, 3].into_iter().zip(steps) {
            let delay = backoff.next(jitter);
            assert!(
                delay >= step / 2 && delay <= step,
                "{delay:?} for a step of {step:?}"
            );
        }
        backoff.reset();
        assert!(backoff.next(u64::MAX) <= steps[0]);
    }
}
