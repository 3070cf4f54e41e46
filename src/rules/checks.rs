//! The checks that every request passes, in the order they apply.
//!
//! Owns [`read_request`], which is that order. Three checks stand elsewhere: the sender's rate is
//! charged before, in [`rate_limit`](crate::rules::rate_limit); facts of the store are checked
//! after, by the plan of each kind of request; whether the broker can carry what is published is
//! checked last, in [`router`](crate::rules::router).

use crate::protocol::address::{Address, ParseError};
use crate::protocol::amqp::BrokerKind;
use crate::protocol::group::Users;
use crate::protocol::id::UserId;
use crate::protocol::layout::PayloadMode;
use crate::protocol::message::Received;
use crate::protocol::refusal::Refusal;
use crate::protocol::request::Request;
use crate::protocol::topic_map::TopicMap;
use crate::rules::facts::FactSource;
use crate::rules::policy::{Policy, Rules};

/// Reads topic and payload, and applies every check that needs no fact. The cheap checks come
/// first.
///
/// # Errors
/// The reason for which the request is refused.
pub(super) fn read_request<'a>(
    layouts: &'a TopicMap,
    policy: &Policy,
    received: &'a Received,
) -> Result<Request<'a>, Refusal> {
    let address = parse_topic(layouts, received)?;
    let rules = policy.rules(address.app());
    check_retain(&address, received)?;
    check_size(rules, received)?;
    check_shape(rules, &address, received)?;
    check_configured_ban(rules, &address)?;
    let request = Request::parse(address, received)?;
    if let Request::GroupUpdate { update, .. } = &request {
        // Its members are told on topics that name it.
        if policy.broker_kind.carries(&update.id).is_err() {
            return Err(Refusal::Unroutable);
        }
        check_recipients(policy.broker_kind, &update.members, rules.max_recipients)?;
        check_recipients(policy.broker_kind, &update.notify, rules.max_recipients)?;
    }
    Ok(request)
}

/// Reads what has passed before, as it was stored: no check applies a second time. What was added
/// to it may have made it larger than a message may be.
///
/// # Errors
/// The reason for which the request is refused.
pub(super) fn read_stored<'a>(
    layouts: &'a TopicMap,
    received: &'a Received,
) -> Result<Request<'a>, Refusal> {
    Request::parse(parse_topic(layouts, received)?, received)
}

/// What the topic says, if it fits a layout and its identifiers are sound.
pub(super) fn parse_topic<'a>(
    layouts: &'a TopicMap,
    received: &'a Received,
) -> Result<Address<'a>, Refusal> {
    let topic = str::from_utf8(&received.topic).map_err(|_| Refusal::MalformedTopic)?;
    layouts.parse(topic).map_err(|error| Refusal::from(&error))
}

/// A retained message would come again with every connection. Only the will of a client may be
/// retained: it says what is true now.
fn check_retain(address: &Address<'_>, received: &Received) -> Result<(), Refusal> {
    if received.retain && !matches!(address, Address::Presence { .. }) {
        return Err(Refusal::Retained);
    }
    Ok(())
}

fn check_size(rules: &Rules, received: &Received) -> Result<(), Refusal> {
    // A payload was cut because it was over the limit, even if the limit has been raised since.
    let cut = received.payload.len() < received.payload_bytes;
    if cut || received.payload_bytes > rules.max_payload_bytes {
        return Err(Refusal::TooLarge);
    }
    Ok(())
}

/// Refuses JSON that is nested too deep or holds too many values.
fn check_shape(rules: &Rules, address: &Address<'_>, received: &Received) -> Result<(), Refusal> {
    let is_verbatim = address
        .outgoing()
        .is_some_and(|outgoing| outgoing.layout.payload() == PayloadMode::Verbatim);
    if is_verbatim || rules.fits(&received.payload) {
        return Ok(());
    }
    Err(Refusal::TooLarge)
}

/// The users that the configuration bans. Those that an operator bans in the store are checked by
/// [`is_banned`].
fn check_configured_ban(rules: &Rules, address: &Address<'_>) -> Result<(), Refusal> {
    if rules.banned.is_empty() {
        return Ok(());
    }
    match subject_to_bans(address) {
        Some(user) if rules.banned.contains(user.as_str()) => Err(Refusal::Banned),
        Some(_) | None => Ok(()),
    }
}

/// Whether an operator has banned the sender in the store.
pub(super) fn is_banned<S: FactSource + ?Sized>(
    request: &Request<'_>,
    source: &mut S,
) -> Result<bool, S::Error> {
    let address = request.address();
    match subject_to_bans(&address) {
        Some(user) => source.is_banned(address.app(), user),
        None => Ok(false),
    }
}

/// The user whom a ban would refuse this. Presence is accepted from banned users: it comes from the
/// client's will, not from the user.
fn subject_to_bans<'a>(address: &Address<'a>) -> Option<UserId<'a>> {
    match address {
        Address::Presence { .. } => None,
        Address::Outgoing(_)
        | Address::Receipt(..)
        | Address::Conversation(_)
        | Address::Archive(_)
        | Address::Block(_)
        | Address::Fetch { .. }
        | Address::ConversationsFetch { .. }
        | Address::Inject(_)
        | Address::Groups { .. } => address.sender(),
    }
}

/// Whether a message may go to so many users, at `most` so many, and the broker can carry it to
/// each of them.
///
/// # Errors
/// [`Refusal::TooManyRecipients`] or [`Refusal::Unroutable`].
pub(crate) fn check_recipients(
    broker_kind: BrokerKind,
    users: &Users,
    most: usize,
) -> Result<(), Refusal> {
    if users.len() > most {
        return Err(Refusal::TooManyRecipients);
    }
    let mut all = users.as_slice().iter();
    if all.all(|user| broker_kind.carries(user).is_ok()) {
        Ok(())
    } else {
        Err(Refusal::Unroutable)
    }
}

impl From<&ParseError<'_>> for Refusal {
    fn from(error: &ParseError<'_>) -> Self {
        match error {
            ParseError::BadId { error, .. } => Self::from(*error),
            ParseError::SplitId => Self::Unroutable,
            ParseError::NoLayout | ParseError::OtherApp(_) => Self::MalformedTopic,
        }
    }
}

impl Rules {
    /// Whether a payload, if it is JSON, is nested no deeper and holds no more values than allowed.
    /// One pass over the bytes, before anything parses them.
    fn fits(&self, payload: &[u8]) -> bool {
        let count = |wanted: [u8; 2]| {
            let found = payload.iter().filter(|byte| wanted.contains(byte));
            found.count()
        };
        // The quick count includes what stands inside texts: it can only be too high, and nearly
        // every payload passes it.
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
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::test_support::{received, router};
    use proptest::prelude::*;
    use serde_json::{Value, json};

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

    #[test]
    fn bans_of_an_operator_are_looked_up_for_whatever_a_user_sends_but_presence() {
        let router = router();
        let is_banned = |topic: &str, payload: &str| {
            let mut source = InMemory {
                banned: vec!["alice"],
                ..InMemory::default()
            };
            let received = received(topic.as_bytes(), payload.as_bytes());
            let request = router.read(&received).unwrap();
            (
                is_banned(&request, &mut source).unwrap(),
                source.asked.get(),
            )
        };
        let write = "apps/a/users/alice/messages/bob/outgoing";
        assert_eq!(is_banned(write, "{}"), (true, 1));
        let other = "apps/a/users/bob/messages/alice/outgoing";
        assert_eq!(is_banned(other, "{}"), (false, 1));
        assert_eq!(is_banned("apps/a/users/alice/inbox/fetch", ""), (true, 1));
        assert_eq!(is_banned("apps/a/users/alice/presence/c", ""), (false, 0));
        let inject = "apps/observer/a/users/alice/messages/bob/delivered";
        assert_eq!(is_banned(inject, r#"{"status":150}"#), (false, 0));
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
        fn exactly_what_is_nested_too_deep_does_not_fit(
            value in any_json(),
            max_depth in 0_usize..8,
        ) {
            let rules = Rules { max_depth, ..Rules::default() };
            prop_assert_eq!(rules.fits(value.to_string().as_bytes()), depth(&value) <= max_depth);
        }
    }
}
