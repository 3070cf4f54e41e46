//! How much a sender may say, and be told: token buckets, and a bound on how many are remembered.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::protocol::layout::Address;
use crate::protocol::refusal::{Refusal, Refused};
use crate::rules::checks::Policy;

/// The size of a bucket, and how fast it fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// So many at once.
    pub burst: NonZeroU32,
    /// So many a minute in the long run.
    pub per_minute: NonZeroU32,
}

impl Rate {
    /// The same bucket, `factor` times as large and as fast.
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
}

/// One bucket a key. What is kept of a bucket is the time at which it will be full: one that is full is as good as none.
///
/// Two generations of `bound / 2` keys each: when the younger is full, the older is forgotten. So a sender who was among the last
/// `bound / 2` is remembered, and one who was not may take a whole bucket again.
#[derive(Debug)]
pub struct Limiter {
    younger: HashMap<Box<str>, Instant>,
    older: HashMap<Box<str>, Instant>,
    generation: usize,
}

impl Limiter {
    /// Remembers `bound` keys at most.
    pub fn new(bound: usize) -> Self {
        Self {
            younger: HashMap::new(),
            older: HashMap::new(),
            generation: (bound / 2).max(1),
        }
    }

    /// Takes `cost` tokens from the bucket of `key`; never more than a full one holds.
    ///
    /// # Errors
    /// The time until there is one, if there is none now.
    pub fn take(
        &mut self,
        key: &str,
        cost: NonZeroU32,
        rate: Rate,
        now: Instant,
    ) -> Result<(), Duration> {
        let interval = rate.interval();
        if !self.younger.contains_key(key) {
            let full_at = self.older.remove(key).unwrap_or(now);
            if self.younger.len() >= self.generation {
                self.older = std::mem::take(&mut self.younger);
            }
            self.younger.insert(key.into(), full_at);
        }
        let full_at = self
            .younger
            .get_mut(key)
            .expect("it has just been put there");
        let size = interval * rate.burst.get();
        // Never more than empty: the rate may have been another when it was last taken from.
        *full_at = (*full_at).clamp(now, now + size);
        let next = *full_at + interval * cost.get().min(rate.burst.get());
        match next.duration_since(now).checked_sub(size) {
            None | Some(Duration::ZERO) => {
                *full_at = next;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

/// How many senders' buckets are remembered: 10 MB or so.
const SENDERS: usize = 100_000;
/// How much he may be told of what is refused: notices, and dead letters with them.
const ANSWERS: Rate = Rate {
    burst: NonZeroU32::new(100).expect("not zero"),
    per_minute: NonZeroU32::new(60).expect("not zero"),
};
const ONE: NonZeroU32 = NonZeroU32::MIN;
/// A fetch counts as so many messages: it may bring a thousand.
const FETCH: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// He may say so many times more of what a client sends by itself: receipts, presence, changes to conversations.
const BY_THEMSELVES: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// How much each sender has said, and been told.
#[derive(Debug)]
pub struct SenderLimits {
    messages: Limiter,
    others: Limiter,
    answers: Limiter,
}

impl Default for SenderLimits {
    fn default() -> Self {
        let [messages, others, answers] = [(); 3].map(|()| Limiter::new(SENDERS));
        Self {
            messages,
            others,
            answers,
        }
    }
}

impl SenderLimits {
    /// Counts a message that has come.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`], if its sender has said too much already, and when he may go on.
    pub fn count(
        &mut self,
        address: &Address<'_>,
        policy: &Policy,
        now: Instant,
    ) -> Result<(), Refused> {
        let (rules, sender) = (policy.rules(address.app()), address.sender());
        let (Some(rate), Some(sender)) = (rules.rate, sender) else {
            return Ok(());
        };
        if rules.privileged_senders.contains(sender.as_str()) {
            return Ok(());
        }
        let key = key(address);
        let taken = match address {
            Address::Outgoing(_) => self.messages.take(&key, ONE, rate, now),
            Address::Fetch { .. } => self.messages.take(&key, FETCH, rate, now),
            Address::Receipt(..)
            | Address::Conversation(_)
            | Address::Archive(_)
            | Address::Presence { .. }
            | Address::Block(_)
            | Address::Inject(_)
            | Address::Groups { .. } => self.others.take(&key, ONE, rate.times(BY_THEMSELVES), now),
        };
        taken.map_err(|wait| Refused {
            retry_after: Some(wait),
            ..Refusal::RateLimited.into()
        })
    }

    /// Whether one more answer may be given. What comes from nobody that is known counts as from one; what its sender is not to know
    /// of counts by itself, or he could tell it by the answers he gets to something else.
    pub fn may_answer(
        &mut self,
        address: Option<&Address<'_>>,
        reason: Refusal,
        now: Instant,
    ) -> bool {
        let mut key = address.map(key).unwrap_or_default();
        if reason == Refusal::Blocked {
            key.push('/');
        }
        self.answers.take(&key, ONE, ANSWERS, now).is_ok()
    }
}

fn key(address: &Address<'_>) -> String {
    // No identifier holds a slash.
    let sender = address.sender().map_or("", |sender| sender.as_str());
    [address.app().as_str(), "/", sender].concat()
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some time to start from"
)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(limiter.take("a", FETCH, small, start), Ok(()));
        assert_eq!(
            limiter.take("a", ONE, small, start),
            Err(Duration::from_secs(1))
        );
        assert_eq!(limiter.take("b", ONE, rate(20, 60), start), Ok(()));
        assert_eq!(limiter.take("b", FETCH, rate(20, 60), start), Ok(()));
        assert_eq!(
            limiter.take("b", FETCH, rate(20, 60), start),
            Err(Duration::from_secs(1))
        );
    }

    proptest! {
        /// As many as a bucket that is filled in steps of a millisecond gives, for any arrivals.
        #[test]
        fn it_is_a_token_bucket(burst in 1_u32..5, gaps in prop::collection::vec(0_u64..3_000, 1..60)) {
            // One token a second: 1,000 parts of it.
            let (mut limiter, start) = (Limiter::new(2), Instant::now());
            let full = u64::from(burst) * 1_000;
            let (mut at, mut parts) = (0, full);
            for gap in gaps {
                at += gap;
                parts = (parts + gap).min(full);
                let taken = limiter.take("a", ONE, rate(burst, 60), start + Duration::from_millis(at));
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
