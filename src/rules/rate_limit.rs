//! How much a sender may write, and how often they are told about a refusal.
//!
//! Owns where a sender's rate is charged: [`SenderLimits::charge`], before a request is read any
//! further than its topic. Leaves the arithmetic to [`token_bucket`](crate::rules::token_bucket).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::protocol::address::Address;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::topic_map::BadRecipient;
use crate::rules::policy::Policy;
use crate::rules::token_bucket::{Limiter, Rate};

/// How many senders' buckets are remembered, which takes about 10 MB.
const SENDERS: usize = 100_000;
/// Fetches of one user that are under way or wait. More at a time are refused: whatever a user asks
/// for, others do not wait for it.
const FETCHES: u32 = 10;
/// How often one sender is told about refusals, by notices and the dead letters with them.
const ANSWERS: Rate = Rate {
    burst: NonZeroU32::new(100).expect("not zero"),
    per_minute: NonZeroU32::new(60).expect("not zero"),
};
/// The tokens that a request costs.
const ONE: NonZeroU32 = NonZeroU32::MIN;
/// The tokens that a fetch costs: it may bring a thousand messages.
const FETCH: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Members of a group that cost another token.
const MEMBERS: usize = 100;
/// Bytes of a message that cost another token.
const BYTES: usize = 64 << 10;
/// How many times more a sender may send of what clients send by themselves: receipts, presence and
/// changes of conversations.
const AUTOMATIC: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Who is charged and told.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    app: AppId<'a>,
    /// `None` for a service.
    user: Option<UserId<'a>>,
}

impl<'a> From<&Address<'a>> for Sender<'a> {
    fn from(address: &Address<'a>) -> Self {
        Self {
            app: address.app(),
            user: address.sender(),
        }
    }
}

impl<'a> From<&BadRecipient<'a>> for Sender<'a> {
    fn from(bad: &BadRecipient<'a>) -> Self {
        Self {
            app: bad.app,
            user: Some(bad.sender),
        }
    }
}

impl Sender<'_> {
    /// The rate; `None` for privileged senders and services, and if there is no limit.
    fn rate(self, policy: &Policy) -> Option<Rate> {
        let (rules, user) = (policy.rules(self.app), self.user?);
        let is_privileged = rules.privileged_senders.contains(user.as_str());
        rules.rate.filter(|_| !is_privileged)
    }

    /// The key of the buckets: an identifier never holds a slash.
    fn key(self) -> String {
        let user = self.user.map_or("", |user| user.as_str());
        [self.app.as_str(), "/", user].concat()
    }
}

/// What each sender has written lately, and how often they have been told about a refusal.
#[derive(Debug)]
pub struct SenderLimits {
    messages: Limiter,
    automatic: Limiter,
    answers: Limiter,
    /// How many fetches of each user are not finished, those that are refused among them.
    fetches: HashMap<String, u32>,
}

impl Default for SenderLimits {
    fn default() -> Self {
        Self {
            messages: Limiter::new(SENDERS),
            automatic: Limiter::new(SENDERS),
            answers: Limiter::new(SENDERS),
            fetches: HashMap::new(),
        }
    }
}

impl SenderLimits {
    /// Charges a request to its sender's rate. Privileged senders and services are not charged.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`], and when the sender may try again.
    pub fn charge(
        &mut self,
        address: &Address<'_>,
        policy: &Policy,
        now: Instant,
    ) -> Result<(), Refused> {
        let sender = Sender::from(address);
        let Some(rate) = sender.rate(policy) else {
            return Ok(());
        };
        let key = sender.key();
        let taken = match address {
            Address::Outgoing(_) => self.messages.take(&key, ONE, rate, now),
            Address::Fetch { .. } | Address::ConversationsFetch { .. } => {
                self.messages.take(&key, FETCH, rate, now)
            }
            Address::Receipt(..)
            | Address::Conversation(_)
            | Address::Archive(_)
            | Address::Presence { .. }
            | Address::Block(_)
            | Address::Inject(_)
            | Address::Groups { .. } => self.automatic.take(&key, ONE, rate.times(AUTOMATIC), now),
        };
        taken.map_err(too_many)
    }

    /// Charges a message whose recipient is no identifier: it costs what any other costs.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`], and when the sender may try again.
    pub fn charge_bad_recipient(
        &mut self,
        sender: Sender<'_>,
        bytes: usize,
        policy: &Policy,
        now: Instant,
    ) -> Result<(), Refused> {
        let Some(rate) = sender.rate(policy) else {
            return Ok(());
        };
        let key = sender.key();
        self.messages.take(&key, ONE, rate, now).map_err(too_many)?;
        if let Some(cost) = NonZeroU32::new(u32::try_from(bytes / BYTES).unwrap_or(u32::MAX)) {
            self.messages.spend(&key, cost, rate, now);
        }
        Ok(())
    }

    /// Charges a message that goes to so many `members`, beside what it was charged before. Who
    /// cannot pay goes on owing it.
    pub fn charge_members(
        &mut self,
        address: &Address<'_>,
        members: usize,
        policy: &Policy,
        now: Instant,
    ) {
        let cost = u32::try_from(members / MEMBERS).unwrap_or(u32::MAX);
        let sender = Sender::from(address);
        if let (Some(rate), Some(cost)) = (sender.rate(policy), NonZeroU32::new(cost)) {
            self.messages.spend(&sender.key(), cost, rate, now);
        }
    }

    /// Charges a message by its size, beside what it was charged before: what one sender may have
    /// stored in a time is bounded.
    pub fn charge_bytes(
        &mut self,
        address: &Address<'_>,
        bytes: usize,
        policy: &Policy,
        now: Instant,
    ) {
        let cost = u32::try_from(bytes / BYTES).unwrap_or(u32::MAX);
        let sender = Sender::from(address);
        if let (Address::Outgoing(_), Some(rate), Some(cost)) =
            (address, sender.rate(policy), NonZeroU32::new(cost))
        {
            self.messages.spend(&sender.key(), cost, rate, now);
        }
    }

    /// Counts a fetch, until [`SenderLimits::end_fetch`]. Other requests are not counted.
    ///
    /// # Errors
    /// [`Refusal::RateLimited`], if too many of this user's fetches are not finished.
    pub fn begin_fetch(&mut self, address: &Address<'_>) -> Result<(), Refused> {
        if !is_fetch(address) {
            return Ok(());
        }
        let count = self.fetches.entry(Sender::from(address).key()).or_default();
        *count += 1;
        if *count <= FETCHES {
            return Ok(());
        }
        Err(Refused {
            detail: Some("too many fetches of this user wait".into()),
            ..Refusal::RateLimited.into()
        })
    }

    /// A request is finished, or refused.
    pub fn end_fetch(&mut self, address: &Address<'_>) {
        if is_fetch(address)
            && let Entry::Occupied(mut count) = self.fetches.entry(Sender::from(address).key())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Whether any fetch is not finished.
    pub fn counts_fetches(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Whether a sender may be told about one more refusal. Requests whose topic names no sender
    /// share one budget.
    pub fn may_answer(
        &mut self,
        sender: Option<Sender<'_>>,
        reason: Refusal,
        now: Instant,
    ) -> bool {
        let mut key = sender.map(Sender::key).unwrap_or_default();
        if reason == Refusal::Blocked {
            // A budget of its own: otherwise a sender who is blocked, and must not know it, could
            // tell from the missing answers to other requests.
            key.push('/');
        }
        self.answers.take(&key, ONE, ANSWERS, now).is_ok()
    }
}

fn too_many(wait: Duration) -> Refused {
    Refused {
        retry_after: Some(wait),
        ..Refusal::RateLimited.into()
    }
}

fn is_fetch(address: &Address<'_>) -> bool {
    matches!(
        address,
        Address::Fetch { .. } | Address::ConversationsFetch { .. }
    )
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some time to start from"
)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::amqp::BrokerKind;
    use crate::protocol::control_topic::Controls;
    use crate::protocol::layout::Layout;
    use crate::protocol::topic_map::TopicMap;
    use crate::rules::policy::Rules;

    const MESSAGE: &str = "apps/a/users/alice/messages/bob/outgoing";
    const FETCH_TOPIC: &str = "apps/a/users/alice/inbox/fetch";
    const RECEIPT: &str = "apps/a/users/alice/messages/bob/m1/update";

    /// How many requests on `topic` pass at once where a bucket holds twenty tokens.
    fn passed(topic: &str) -> usize {
        let layouts = Layout::built_in("chat21-v1").unwrap();
        let layouts = TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap();
        let rules = Rules {
            rate: Some(Rate {
                burst: NonZeroU32::new(20).unwrap(),
                per_minute: NonZeroU32::new(60).unwrap(),
            }),
            privileged_senders: ["system".into()].into(),
            ..Rules::default()
        };
        let policy = Policy::new(BrokerKind::Any, rules);
        let (mut limits, now) = (SenderLimits::default(), Instant::now());
        let address = layouts.parse(topic).unwrap();
        let mut tries = 0..1_000;
        tries
            .position(|_| limits.charge(&address, &policy, now).is_err())
            .unwrap_or(1_000)
    }

    #[test]
    fn a_fetch_costs_ten_messages_and_receipts_cost_a_tenth() {
        assert_eq!(passed(MESSAGE), 20);
        assert_eq!(passed(FETCH_TOPIC), 2);
        assert_eq!(passed(RECEIPT), 200);
    }

    #[test]
    fn privileged_senders_and_services_are_not_charged() {
        assert_eq!(passed("apps/a/users/system/messages/bob/outgoing"), 1_000);
        assert_eq!(passed("apps/observer/a/groups/update"), 1_000);
    }

    #[test]
    fn a_message_to_many_costs_more_and_what_cannot_be_paid_is_owed() {
        let layouts = Layout::built_in("chat21-v1").unwrap();
        let layouts = TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap();
        let rate = Rate {
            burst: NonZeroU32::new(20).unwrap(),
            per_minute: NonZeroU32::new(60).unwrap(),
        };
        let rules = Rules {
            rate: Some(rate),
            ..Rules::default()
        };
        let policy = Policy::new(BrokerKind::Any, rules);
        let (mut limits, now) = (SenderLimits::default(), Instant::now());
        let address = layouts.parse(MESSAGE).unwrap();
        for members in [99, 1_000] {
            limits.charge(&address, &policy, now).unwrap();
            limits.charge_members(&address, members, &policy, now);
        }
        let passed = (0..).take_while(|_| limits.charge(&address, &policy, now).is_ok());
        assert_eq!(passed.count(), 8, "two messages and ten tokens are taken");
        limits.charge_members(&address, 1_000, &policy, now);
        let refused = limits.charge(&address, &policy, now).unwrap_err();
        assert_eq!(refused.retry_after, Some(Duration::from_secs(11)));
    }

    #[test]
    fn a_large_message_costs_more() {
        let layouts = Layout::built_in("chat21-v1").unwrap();
        let layouts = TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap();
        let rate = Rate {
            burst: NonZeroU32::new(20).unwrap(),
            per_minute: NonZeroU32::new(60).unwrap(),
        };
        let rules = Rules {
            rate: Some(rate),
            ..Rules::default()
        };
        let policy = Policy::new(BrokerKind::Any, rules);
        let (mut limits, now) = (SenderLimits::default(), Instant::now());
        let address = layouts.parse(MESSAGE).unwrap();
        for bytes in [BYTES - 1, 10 * BYTES] {
            limits.charge(&address, &policy, now).unwrap();
            limits.charge_bytes(&address, bytes, &policy, now);
        }
        let passed = (0..).take_while(|_| limits.charge(&address, &policy, now).is_ok());
        assert_eq!(passed.count(), 8);
    }

    #[test]
    fn answers_about_a_block_have_a_budget_of_their_own() {
        let layouts = Layout::built_in("chat21-v1").unwrap();
        let layouts = TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap();
        let address = layouts.parse(MESSAGE).unwrap();
        let (mut limits, now) = (SenderLimits::default(), Instant::now());
        let mut answered = |reason| {
            let may =
                |limits: &mut SenderLimits| limits.may_answer(Some((&address).into()), reason, now);
            (0..1_000).take_while(|_| may(&mut limits)).count()
        };
        assert_eq!(answered(Refusal::Blocked), 100);
        assert_eq!(answered(Refusal::NotJson), 100);
        assert_eq!(answered(Refusal::TooLarge), 0, "one budget for all others");
    }

    #[test]
    fn a_message_to_no_identifier_costs_what_any_other_costs() {
        let layouts = Layout::built_in("chat21-v1").unwrap();
        let layouts = TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap();
        let rate = Rate {
            burst: NonZeroU32::new(20).unwrap(),
            per_minute: NonZeroU32::new(60).unwrap(),
        };
        let rules = Rules {
            rate: Some(rate),
            ..Rules::default()
        };
        let policy = Policy::new(BrokerKind::Any, rules);
        let (mut limits, now) = (SenderLimits::default(), Instant::now());
        let address = layouts.parse(MESSAGE).unwrap();
        let sender = Sender::from(&address);
        for _ in 0..10 {
            limits
                .charge_bad_recipient(sender, 0, &policy, now)
                .unwrap();
        }
        limits
            .charge_bad_recipient(sender, 8 * BYTES, &policy, now)
            .unwrap();
        limits.charge(&address, &policy, now).unwrap();
        assert!(
            limits
                .charge_bad_recipient(sender, 0, &policy, now)
                .is_err()
        );
    }
}
