//! The checks every message passes, in the order they apply.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::protocol::control::{self, Fetch, Receipt};
use crate::protocol::group::{GroupUpdate, Users};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::{Address, ParseError, PayloadMode};
use crate::protocol::message::{Envelope, Injected, Received, Status};
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::BrokerKind;
use crate::rules::conversation::Patch;
use crate::rules::rate_limit::Rate;

impl From<&ParseError<'_>> for Refusal {
    fn from(error: &ParseError<'_>) -> Self {
        match error {
            ParseError::BadId { error, .. } => Self::from(*error),
            ParseError::SplitId => Self::Unroutable,
            ParseError::NoLayout | ParseError::OtherApp(_) => Self::MalformedTopic,
        }
    }
}

/// What the checks go by: rules for every app, and others for some.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What the broker does to topics.
    pub broker_kind: BrokerKind,
    /// What holds in every app that has no rules of its own.
    pub rules: Rules,
    /// The apps that have.
    pub apps: BTreeMap<Box<str>, Rules>,
}

/// The rules of an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The largest payload served, in bytes.
    pub max_payload_bytes: usize,
    /// How deep arrays and objects of a JSON payload may be nested.
    pub max_depth: usize,
    /// How many values a JSON payload may hold, give or take one.
    pub max_values: usize,
    /// The most members a message may go to.
    pub max_recipients: usize,
    /// Who may write to a group without being a member.
    pub group_senders: GroupSenders,
    /// Who may write to every group, and at any rate.
    pub privileged_senders: BTreeSet<Box<str>>,
    /// Who may not write at all.
    pub banned: BTreeSet<Box<str>>,
    /// How much a sender may write; `None`: as much as he likes.
    pub rate: Option<Rate>,
    /// How far a client's `timestamp` may lie in the past and in the future, and still be believed.
    pub believed: (Duration, Duration),
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1 << 20,
            max_depth: 64,
            max_values: 100_000,
            max_recipients: 10_000,
            group_senders: GroupSenders::Members,
            privileged_senders: BTreeSet::new(),
            banned: BTreeSet::new(),
            rate: None,
            // A phone that was offline for a week; clocks that are not set well.
            believed: (Duration::from_secs(7 * 24 * 3600), Duration::from_secs(300)),
        }
    }
}

/// Who may write to a known group (`protocol.md`, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSenders {
    /// Its members, and privileged senders.
    Members,
    /// Everybody.
    Anybody,
}

/// What a payload says, once every check that needs no look into the store is passed.
#[derive(Clone, Debug)]
pub enum Content<'p> {
    /// Whatever it is: the same bytes are forwarded.
    Verbatim,
    /// A message: the client's object, with the observer's fields to be set.
    Envelope(Envelope<'p>),
    /// A receipt.
    Receipt(Receipt),
    /// A patch of a conversation.
    Patch(Patch),
    /// Nothing that matters: the topic says it all.
    Ignored,
    /// A client is there, or not.
    Presence(bool),
    /// Another user is blocked, or not.
    Block(bool),
    /// Which stored messages are asked for.
    Fetch(Fetch),
    /// A message as a service made it.
    Injected(Injected),
    /// A group as a service made it.
    Group(GroupUpdate),
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
        match self.apps.is_empty() {
            true => &self.rules,
            false => self.apps.get(app.as_str()).unwrap_or(&self.rules),
        }
    }

    /// Whether any sender's rate is limited.
    pub fn limits_rates(&self) -> bool {
        let mut all = std::iter::once(&self.rules).chain(self.apps.values());
        all.any(|rules| rules.rate.is_some())
    }

    /// The checks, in the order they apply; the cheap ones first. Two come before: the topic has been parsed (identifiers), and the
    /// sender's rate counted (`rate.rs`). What needs the store comes after: his ban ([`Facts::Banned`](crate::rules::router::Facts)), blocks,
    /// [`Rules::check_group`], [`Policy::check_recipients`]. Whether the broker can carry what is published is asked of the topics
    /// themselves, last (`routing.rs`).
    ///
    /// # Errors
    /// The reason for which the message is refused.
    pub fn check<'p>(
        &self,
        address: &Address<'_>,
        received: &'p Received,
    ) -> Result<Content<'p>, Refusal> {
        let rules = self.rules(address.app());
        // A will is kept by the broker, and says the truth; anything else would come again with every connection.
        if received.retain && !matches!(address, Address::Presence { .. }) {
            return Err(Refusal::Retained);
        }
        // One that was cut is over the limit, whatever the rules have become since.
        if received.payload_bytes > rules.max_payload_bytes
            || received.payload.len() < received.payload_bytes
        {
            return Err(Refusal::TooLarge);
        }
        let payload = &received.payload;
        let verbatim = address
            .outgoing()
            .is_some_and(|outgoing| outgoing.layout.payload() == PayloadMode::Verbatim);
        if !verbatim && !rules.fits(payload) {
            return Err(Refusal::TooLarge);
        }
        if !rules.banned.is_empty()
            && !address.is_for_the_banned()
            && address
                .sender()
                .is_some_and(|sender| rules.banned.contains(sender.as_str()))
        {
            return Err(Refusal::Banned);
        }
        Ok(match address {
            Address::Outgoing(_) if verbatim => Content::Verbatim,
            Address::Outgoing(_) => Content::Envelope(Envelope::parse(payload)?),
            Address::Receipt(..) => Content::Receipt(Receipt::parse(payload)?),
            Address::Conversation(_) => Content::Patch(Patch::parse(payload)?),
            Address::Archive(_) => Content::Ignored,
            Address::Presence { .. } => Content::Presence(control::parse_presence(payload)?),
            Address::Block(_) => Content::Block(control::parse_block(payload)?),
            Address::Fetch { .. } => Content::Fetch(Fetch::parse(payload)?),
            Address::Inject(_) => {
                let injected = Injected::parse(payload)?;
                if injected.status != Some(Status::Delivered) {
                    return Err(Refusal::BadStatus);
                }
                Content::Injected(injected)
            }
            Address::Groups { app } => {
                let update = GroupUpdate::parse(payload)?;
                self.check_recipients(*app, &update.members)?;
                self.check_recipients(*app, &update.notify)?;
                Content::Group(update)
            }
        })
    }

    /// Whether a message may go to so many, and the broker can carry it to each.
    ///
    /// # Errors
    /// [`Refusal::TooManyRecipients`] or [`Refusal::Unroutable`].
    pub fn check_recipients(&self, app: AppId<'_>, users: &Users) -> Result<(), Refusal> {
        if users.len() > self.rules(app).max_recipients {
            return Err(Refusal::TooManyRecipients);
        }
        let carried = |user: &str| self.broker_kind.carries(user).is_ok();
        if users.as_slice().iter().all(|user| carried(user)) {
            Ok(())
        } else {
            Err(Refusal::Unroutable)
        }
    }
}

impl Rules {
    /// Whether `sender` may write to a group with these `members`.
    ///
    /// # Errors
    /// [`Refusal::NotAMember`], if not.
    pub fn check_group(&self, sender: UserId<'_>, members: &Users) -> Result<(), Refusal> {
        let sender = sender.as_str();
        let permitted = match self.group_senders {
            GroupSenders::Anybody => true,
            GroupSenders::Members => {
                members.contains(sender) || self.privileged_senders.contains(sender)
            }
        };
        if permitted {
            Ok(())
        } else {
            Err(Refusal::NotAMember)
        }
    }

    /// Whether a client may have meant `timestamp` as the time of a message that arrives at `now`.
    pub fn believes(&self, timestamp: UnixMillis, now: UnixMillis) -> bool {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (past, future) = self.believed;
        let (timestamp, now) = (timestamp.as_millis(), now.as_millis());
        timestamp >= now.saturating_sub(millis(past))
            && timestamp <= now.saturating_add(millis(future))
    }

    /// Whether a payload, if it is JSON, is nested no deeper and holds no more values than allowed.
    fn fits(&self, payload: &[u8]) -> bool {
        let count = |wanted: [u8; 2]| {
            let found = payload.iter().filter(|byte| wanted.contains(byte));
            found.count()
        };
        // What counts too many counts text as well; nearly all have few enough even so.
        let (openers, commas) = (count(*b"{["), count(*b",:"));
        if openers <= self.max_depth && openers + commas <= self.max_values {
            return true;
        }
        let (mut depth, mut values) = (0_usize, 0_usize);
        let (mut in_text, mut escaped) = (false, false);
        for byte in payload {
            match (in_text, byte) {
                (true, _) if escaped => escaped = false,
                (true, b'\\') => escaped = true,
                (true, b'"') => in_text = false,
                (true, _) => {}
                (false, b'"') => in_text = true,
                (false, b'{' | b'[') => {
                    depth += 1;
                    values += 1;
                }
                (false, b'}' | b']') => depth = depth.saturating_sub(1),
                (false, b',') => values += 1,
                (false, _) => {}
            }
            if depth > self.max_depth || values > self.max_values {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn a_timestamp_is_believed_within_a_week_back_and_five_minutes_ahead() {
        let now = UnixMillis::new(1_800_000_000_000);
        for (millis, believed) in [
            (1_800_000_000_000, true),
            (1_800_000_000_000 - 7 * 86_400_000, true),
            (1_800_000_000_000 - 7 * 86_400_000 - 1, false),
            (1_800_000_300_000, true),
            (1_800_000_300_001, false),
            (0, false),
            (u64::MAX, false),
        ] {
            let given = UnixMillis::new(millis);
            assert_eq!(Rules::default().believes(given, now), believed, "{millis}");
        }
    }

    #[test]
    fn nesting_and_values_are_counted_outside_of_texts() {
        let rules = Rules {
            max_depth: 3,
            max_values: 5,
            ..Rules::default()
        };
        for (payload, fits) in [
            (r#"{"a":[{}]}"#, true),
            (r#"{"a":[{"b":[]}]}"#, false),
            (r#"{"a":"[[[[[[[[[["}"#, true),
            (r#"{"a":"\"[[[[[[[[[["}"#, true),
            (r#"{"a":"\\","b":[[[]]]}"#, false),
            ("[1,2,3,4,5]", true),
            ("[1,2,3,4,5,6]", false),
            (r#"{"a":",,,,,,,,,,,,,"}"#, true),
            ("[],[],[],[]", false),
        ] {
            assert_eq!(rules.fits(payload.as_bytes()), fits, "{payload}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(!Rules::default().fits(deep.as_bytes()));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(|number| json!(number)),
            "[a\\\\\"{}\\[\\],:]{0,12}".prop_map(|text| json!(text)),
        ];
        leaf.prop_recursive(6, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec(("[a-c\\[\"]{1,3}", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn depth(value: &Value) -> usize {
        let inner = match value {
            Value::Array(values) => values.iter().map(depth).max(),
            Value::Object(members) => members.values().map(depth).max(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
        };
        1 + inner.unwrap_or(0)
    }

    proptest! {
        #[test]
        fn exactly_what_is_nested_too_deep_does_not_fit(value in any_json(), max_depth in 0_usize..8) {
            let rules = Rules { max_depth, ..Rules::default() };
            prop_assert_eq!(rules.fits(value.to_string().as_bytes()), depth(&value) <= max_depth);
        }
    }
}
