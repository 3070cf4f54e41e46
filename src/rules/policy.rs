//! The settings that the checks go by: the rules of each app.
//!
//! Owns what an operator can allow or limit. Leaves applying it to
//! [`checks`](crate::rules::checks), [`group_message`](crate::rules::group_message) and
//! [`rate_limit`](crate::rules::rate_limit).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::protocol::amqp::BrokerKind;
use crate::protocol::id::AppId;
use crate::rules::token_bucket::Rate;

/// One set of rules for every app, and other sets for some apps.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What the broker does to topics.
    pub broker_kind: BrokerKind,
    /// The rules of every app that has none of its own.
    pub rules: Rules,
    /// The rules of the other apps, by app.
    pub apps: BTreeMap<Box<str>, Rules>,
}

/// The rules of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The largest payload accepted, in bytes.
    pub max_payload_bytes: usize,
    /// How deep arrays and objects of a JSON payload may be nested.
    pub max_depth: usize,
    /// How many values a JSON payload may hold; the count may be one too low.
    pub max_values: usize,
    /// The largest number of members that one message may go to.
    pub max_recipients: usize,
    /// The same for members that the message names itself.
    pub max_inline_recipients: usize,
    /// How many groups a user may have made that are still there.
    pub max_groups: usize,
    /// How many devices and browsers a user may have registered. The oldest go first.
    pub max_instances: usize,
    /// Who may write to a stored group without being a member.
    pub group_senders: GroupSenders,
    /// Users who may write to every group, without a limit of their rate, and to as many members
    /// that a message names itself as to a stored group.
    pub privileged_senders: BTreeSet<Box<str>>,
    /// Users who may not write at all. An operator can ban more of them in the store.
    pub banned: BTreeSet<Box<str>>,
    /// How many messages a sender may write; `None`: no limit.
    pub rate: Option<Rate>,
    /// How far a client's `timestamp` may lie in the past and in the future and still be kept.
    pub believed: (Duration, Duration),
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_depth: 64,
            max_values: 100_000,
            max_recipients: 10_000,
            max_inline_recipients: 500,
            max_groups: 10_000,
            max_instances: 64,
            group_senders: GroupSenders::Members,
            privileged_senders: BTreeSet::new(),
            banned: BTreeSet::new(),
            rate: None,
            // The past: a phone that was offline for a week. The future: clocks that run ahead.
            believed: (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(300)),
        }
    }
}

/// Who may write to a stored group (`protocol.md`, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSenders {
    /// Its members and privileged senders.
    Members,
    /// Everybody.
    Anybody,
}

impl Policy {
    /// The same rules for every app.
    pub fn new(broker_kind: BrokerKind, rules: Rules) -> Self {
        Self {
            broker_kind,
            rules,
            apps: BTreeMap::new(),
        }
    }

    /// The rules of an app.
    pub fn rules(&self, app: AppId<'_>) -> &Rules {
        if self.apps.is_empty() {
            return &self.rules;
        }
        self.apps.get(app.as_str()).unwrap_or(&self.rules)
    }

    /// Whether the rate of any sender is limited.
    pub fn limits_rates(&self) -> bool {
        let mut all = std::iter::once(&self.rules).chain(self.apps.values());
        all.any(|rules| rules.rate.is_some())
    }
}
