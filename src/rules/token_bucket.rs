//! Token buckets, one for each key, and a bound on how many are remembered.
//!
//! Owns the arithmetic of a rate. Leaves who is charged and how much to
//! [`rate_limit`](crate::rules::rate_limit).

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The size of a bucket, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many tokens a full bucket holds: so many messages may come at once.
    pub burst: NonZeroU32,
    /// How many tokens come in a minute.
    pub per_minute: NonZeroU32,
}

impl Rate {
    /// A bucket that is `factor` times as large and fills `factor` times as fast.
    pub fn times(self, factor: NonZeroU32) -> Self {
        Self {
            burst: self.burst.saturating_mul(factor),
            per_minute: self.per_minute.saturating_mul(factor),
        }
    }

    /// The time in which one token comes in.
    fn interval(self) -> Duration {
        Duration::from_secs(60) / self.per_minute.get()
    }

    /// The time in which an empty bucket becomes full.
    fn time_to_fill(self) -> Duration {
        self.interval() * self.burst.get()
    }
}

/// A bucket for each key.
///
/// The keys are held in two generations of `bound / 2` each. When the younger one is full, the
/// older one is dropped. So the last `bound / 2` keys are always remembered, and any other key may
/// start with a full bucket.
#[derive(Debug)]
pub struct Limiter {
    younger: HashMap<Box<str>, Bucket>,
    older: HashMap<Box<str>, Bucket>,
    generation: usize,
}

/// What is known of a bucket. A full one that owes nothing needs no entry.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it will be full.
    full_at: Instant,
    /// Tokens that were spent although they were not there.
    owed: u32,
}

impl Limiter {
    /// Remembers at most `bound` keys.
    pub fn new(bound: usize) -> Self {
        Self {
            younger: HashMap::new(),
            older: HashMap::new(),
            generation: (bound / 2).max(1),
        }
    }

    /// Takes `cost` tokens from the bucket of `key`, and those that it owes, but never more than a
    /// full bucket holds.
    ///
    /// # Errors
    /// The time until there are enough tokens, if there are too few now; none are taken then.
    pub fn take(
        &mut self,
        key: &str,
        cost: NonZeroU32,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        let bucket = self.bucket(key, rate, now);
        let due = cost.get().saturating_add(bucket.owed).min(rate.burst.get());
        let next = bucket.full_at + rate.interval() * due;
        match next.duration_since(now).checked_sub(rate.time_to_fill()) {
            None | Some(Duration::ZERO) => {
                *bucket = Bucket {
                    full_at: next,
                    owed: 0,
                };
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }

    /// Takes `cost` tokens, whether they are there or not. A bucket owes no more than it holds when
    /// it is full.
    pub fn spend(&mut self, key: &str, cost: NonZeroU32, rate: Rate, now: Instant) {
        if self.take(key, cost, rate, now).is_err() {
            let bucket = self.bucket(key, rate, now);
            bucket.owed = bucket.owed.saturating_add(cost.get()).min(rate.burst.get());
        }
    }

    /// The bucket of `key`, by the rate there is now.
    fn bucket(&mut self, key: &str, rate: Rate, now: Instant) -> &mut Bucket {
        if !self.younger.contains_key(key) {
            let full = Bucket {
                full_at: now,
                owed: 0,
            };
            let bucket = self.older.remove(key).unwrap_or(full);
            if self.younger.len() >= self.generation {
                self.older = std::mem::take(&mut self.younger);
            }
            self.younger.insert(key.into(), bucket);
        }
        let bucket = self
            .younger
            .get_mut(key)
            .expect("the key has just been inserted");
        // Not emptier than empty: the rate may have changed since tokens were taken last.
        let empty = now + rate.time_to_fill();
        bucket.full_at = bucket.full_at.clamp(now, empty);
        bucket
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some time to start from"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: NonZeroU32 = NonZeroU32::MIN;
    const TEN: NonZeroU32 = NonZeroU32::new(10).unwrap();

    fn rate(burst: u32, per_minute: u32) -> Rate {
        Rate {
            burst: NonZeroU32::new(burst).unwrap(),
            per_minute: NonZeroU32::new(per_minute).unwrap(),
        }
    }

    #[test]
    fn a_bucket_gives_what_is_in_it_and_then_one_at_a_time() {
        let (mut limiter, start) = (Limiter::new(100), Instant::now());
        let slow = rate(3, 60);
        for _ in 0..3 {
            assert_eq!(limiter.take("a", ONE, slow, start), Ok(()));
        }
        assert_eq!(
            limiter.take("a", ONE, slow, start),
            Err(Duration::from_secs(1))
        );
        assert_eq!(
            limiter.take("b", ONE, slow, start),
            Ok(()),
            "another's bucket"
        );
        let later = start + Duration::from_millis(400);
        assert_eq!(
            limiter.take("a", ONE, slow, later),
            Err(Duration::from_millis(600))
        );
        let later = start + Duration::from_secs(1);
        assert_eq!(limiter.take("a", ONE, slow, later), Ok(()));
        assert!(limiter.take("a", ONE, slow, later).is_err());
    }

    #[test]
    fn what_is_owed_is_paid_before_more_is_given() {
        let (mut limiter, start) = (Limiter::new(100), Instant::now());
        let slow = rate(20, 60);
        limiter.spend("a", TEN, slow, start);
        limiter.spend("a", TEN, slow, start);
        let wait = limiter.take("a", ONE, slow, start);
        assert_eq!(wait, Err(Duration::from_secs(1)), "all was there");
        limiter.spend("a", TEN, slow, start);
        let wait = limiter.take("a", ONE, slow, start);
        assert_eq!(wait, Err(Duration::from_secs(11)));
        let later = start + Duration::from_secs(11);
        assert_eq!(limiter.take("a", ONE, slow, later), Ok(()));
        for _ in 0..100 {
            limiter.spend("a", TEN, slow, later);
        }
        let wait = limiter.take("a", ONE, slow, later);
        assert_eq!(wait, Err(Duration::from_secs(20)), "no more is owed");
    }

    #[test]
    fn who_was_seen_lately_is_remembered_and_memory_is_bounded() {
        let (mut limiter, start) = (Limiter::new(20), Instant::now());
        let once = rate(1, 1);
        assert_eq!(limiter.take("abuser", ONE, once, start), Ok(()));
        for other in 0..1_000 {
            assert_eq!(limiter.take(&other.to_string(), ONE, once, start), Ok(()));
            assert!(limiter.take("abuser", ONE, once, start).is_err(), "{other}");
            assert!(limiter.younger.len() + limiter.older.len() <= 20);
        }
    }

    #[test]
    fn a_bucket_goes_by_the_rate_there_is_now() {
        let (mut limiter, start) = (Limiter::new(2), Instant::now());
        for _ in 0..100 {
            assert_eq!(limiter.take("a", ONE, rate(100, 1), start), Ok(()));
        }
        let slow = limiter.take("a", ONE, rate(100, 1), start);
        assert_eq!(slow, Err(Duration::from_secs(60)));
        let relaxed = limiter.take("a", ONE, rate(30, 120), start);
        assert_eq!(relaxed, Err(Duration::from_millis(500)));
        let later = start + Duration::from_millis(500);
        assert_eq!(limiter.take("a", ONE, rate(30, 120), later), Ok(()));
    }

    #[test]
    fn what_costs_more_than_the_bucket_holds_takes_all_of_it() {
        let (mut limiter, start) = (Limiter::new(2), Instant::now());
        let small = rate(3, 60);
        assert_eq!(limiter.take("a", TEN, small, start), Ok(()));
        assert_eq!(
            limiter.take("a", ONE, small, start),
            Err(Duration::from_secs(1))
        );
        assert_eq!(limiter.take("b", ONE, rate(20, 60), start), Ok(()));
        assert_eq!(limiter.take("b", TEN, rate(20, 60), start), Ok(()));
        assert_eq!(
            limiter.take("b", TEN, rate(20, 60), start),
            Err(Duration::from_secs(1))
        );
    }

    proptest! {
        /// As many as a bucket that is filled in steps of a millisecond gives, for any arrivals.
        #[test]
        fn it_is_a_token_bucket(
            burst in 1_u32..5,
            gaps in prop::collection::vec(0_u64..3_000, 1..60),
        ) {
            // One token a second: 1,000 parts of it.
            let (mut limiter, start) = (Limiter::new(2), Instant::now());
            let full = u64::from(burst) * 1_000;
            let (mut at, mut parts) = (0, full);
            for gap in gaps {
                at += gap;
                parts = (parts + gap).min(full);
                let now = start + Duration::from_millis(at);
                let taken = limiter.take("a", ONE, rate(burst, 60), now);
                if parts >= 1_000 {
                    parts -= 1_000;
                    prop_assert_eq!(taken, Ok(()));
                } else {
                    prop_assert_eq!(taken, Err(Duration::from_millis(1_000 - parts)));
                }
            }
        }
    }
}
