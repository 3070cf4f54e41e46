//! What was published and what arrived.
//!
//! Owns which of several equal messages a copy is one of: the first identifier that comes with a
//! text belongs to the first message of that text. Leaves the judgement to
//! [`audit`](crate::delivery::audit).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash};
use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;

use crate::delivery::audit::{Audit, MessageNumber, User, Verdict};
use crate::protocol::message::Received;

/// The members of groups are numbered from here on.
const MEMBERS: User = 100;
/// Users whose inboxes the broker does not take publishes for, at times.
pub(super) const BAD: [&str; 2] = ["b0", "b1"];

/// What a copy says of its message.
#[derive(Deserialize)]
struct Copy<'a> {
    message_id: &'a str,
    sender: &'a str,
    recipient: &'a str,
    text: &'a str,
}

/// Messages that cannot be told apart when they are published.
#[derive(Debug, Default)]
struct Equal {
    numbers: Vec<MessageNumber>,
    /// How many of them have an identifier.
    named: usize,
}

/// What a run came to, so that it tests it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reached {
    /// Everything is left to the delivery log.
    pub(super) backlog: bool,
    pub(super) quarantine: bool,
    /// What goes to one topic is left to the delivery log.
    pub(super) left: bool,
    /// What quarantine has no room for is left to the delivery log.
    pub(super) crowd: bool,
    /// One that takes more than one step.
    pub(super) fan_out: bool,
    /// No more messages are taken.
    pub(super) no_room: bool,
    /// A process is killed, and another asks again what it has asked.
    pub(super) asked_again: bool,
}

impl Reached {
    pub(super) const ALL: Self = Self {
        backlog: true,
        quarantine: true,
        left: true,
        crowd: true,
        fan_out: true,
        no_room: true,
        asked_again: true,
    };

    pub(super) fn and(self, other: Self) -> Self {
        Self {
            backlog: self.backlog | other.backlog,
            quarantine: self.quarantine | other.quarantine,
            left: self.left | other.left,
            crowd: self.crowd | other.crowd,
            fan_out: self.fan_out | other.fan_out,
            no_room: self.no_room | other.no_room,
            asked_again: self.asked_again | other.asked_again,
        }
    }
}

/// All messages and all copies.
#[derive(Debug, Default)]
pub(super) struct Account {
    audit: Audit,
    /// By sender, other side and text.
    equal: HashMap<(String, String, String), Equal>,
    named: HashMap<String, MessageNumber>,
    pub(super) confirmed: usize,
    pub(super) reached: Reached,
    /// Of all that happens, but for identifiers.
    pub(super) trace: DefaultHasher,
    /// Identifiers for which there is no message.
    pub(super) surplus: Vec<String>,
}

impl Account {
    /// A user writes to another, or to a group with so many members. Returns the message.
    pub(super) fn publish(
        &mut self,
        (from, to): (&str, &str),
        text: &str,
        members: usize,
    ) -> (Received, MessageNumber) {
        let topic = format!("apps/a/users/{from}/messages/{to}/outgoing");
        let (payload, recipients) = if members > 0 {
            let names: Vec<_> = (0..members).map(|n| format!(r#""m{n}":1"#)).collect();
            let names = names.join(",");
            let payload = format!(r#"{{"text":"{text}","group":{{"members":{{{names}}}}}}}"#);
            let members = User::try_from(members).unwrap();
            let members = MEMBERS..MEMBERS + members;
            // The sender and the group have the message, too.
            let recipients = [user(from), user(to)].into_iter();
            (payload, recipients.chain(members).collect())
        } else {
            let good = [from, to].into_iter().filter(|user| !BAD.contains(user));
            let mut recipients: Vec<User> = good.map(user).collect();
            recipients.sort_unstable();
            recipients.dedup();
            (format!(r#"{{"text":"{text}"}}"#), recipients)
        };
        // Order is promised for each conversation.
        let conversation = 1_000 * user(from) + user(to);
        let number = self.audit.published(conversation, Arc::from(recipients));
        let key = (from.to_owned(), to.to_owned(), text.to_owned());
        self.equal.entry(key).or_default().numbers.push(number);
        let received = Received::new(topic.into(), payload.into(), false);
        (received, number)
    }

    /// The observer has acknowledged a message: from now on it must not be lost.
    pub(super) fn acknowledged(&mut self, number: MessageNumber) {
        self.confirmed += 1;
        self.audit.confirmed(number);
    }

    /// The broker has taken a publish.
    pub(super) fn arrived(&mut self, topic: &str, payload: &Bytes) {
        if !topic.ends_with("/clientadded") {
            return;
        }
        let owner = topic.split('/').nth(3).unwrap();
        if BAD.contains(&owner) {
            return;
        }
        let copy: Copy<'_> = serde_json::from_slice(payload).unwrap();
        let number = match self.named.get(copy.message_id) {
            Some(number) => *number,
            None => self.name(&copy),
        };
        (topic, copy.sender, copy.recipient, copy.text).hash(&mut self.trace);
        let id = copy.message_id.as_bytes();
        self.audit.received(number, user(owner), id);
    }

    fn name(&mut self, copy: &Copy<'_>) -> MessageNumber {
        let words = [copy.sender, copy.recipient, copy.text];
        let [from, to, text] = words.map(ToOwned::to_owned);
        let equal = self.equal.get_mut(&(from, to, text)).unwrap();
        let number = equal.numbers.get(equal.named).copied();
        equal.named += 1;
        let number = number.unwrap_or_else(|| {
            self.surplus.push(format!("{} {words:?}", copy.message_id));
            *equal.numbers.last().unwrap()
        });
        self.named.insert(copy.message_id.to_owned(), number);
        number
    }

    pub(super) fn verdict(&self) -> Verdict {
        self.audit.verdict()
    }
}

fn user(name: &str) -> User {
    let number = |rest: &str| rest.parse::<User>().unwrap();
    match name.split_at(1) {
        ("u", rest) => number(rest),
        ("b", rest) => 50 + number(rest),
        ("m", rest) => MEMBERS + number(rest),
        _ => 60 + number(name.strip_prefix("group-").unwrap()),
    }
}
