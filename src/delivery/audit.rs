//! Judges what became of messages: lost, repeated, out of order, refused.
//!
//! Owns the account of what senders published and what recipients got. Whoever makes the load
//! numbers the users, and tells messages apart. `bench` and the fault campaigns of the tests use
//! it; the observer itself does not.
//!
//! A publish that its broker never confirmed may have happened or not: either is right.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::sync::Arc;

/// A user, numbered by whoever makes the load.
pub type User = u32;

/// A message of this account, in the order of publishing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageNumber(u32);

impl MessageNumber {
    /// The number that the `n`th message of an account has, from 0 on.
    pub fn new(n: u32) -> Self {
        Self(n)
    }

    /// How many messages were published before it.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// What the sender knows of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Published, and nothing more: it may have happened.
    Unknown,
    /// The broker has confirmed it: it must arrive.
    Confirmed,
    /// The sender was told that it is refused: it must not arrive.
    Refused,
}

/// The identifier that a copy bears, as a number that two different ones do not share in practice.
type CopyId = NonZeroU64;

#[derive(Debug)]
struct Message {
    sender: User,
    /// Sorted.
    recipients: Arc<[User]>,
    /// Where its copies begin, in the list of all copies.
    first_copy: usize,
    fate: Fate,
    /// How often it was published: again after a lost connection, if it was not confirmed.
    times: u32,
    /// The identifier of the copy that arrived first.
    id: Option<CopyId>,
}

/// What an arrival was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// This recipient has it for the first time.
    First,
    /// They had it before.
    Again,
    /// It was not for them, or there is no such message.
    Stray,
}

/// The account of one load.
#[derive(Debug, Default)]
pub struct Audit {
    messages: Vec<Message>,
    /// The identifier that each copy bore when it arrived, once it has.
    copies: Vec<Option<CopyId>>,
    /// Further identifiers of a copy, by its place in `copies`.
    further: HashMap<usize, Vec<CopyId>>,
    /// Further identifiers of a message.
    further_of_message: HashMap<MessageNumber, Vec<CopyId>>,
    /// The latest message that arrived for the first time, by sender and recipient.
    latest: HashMap<(User, User), MessageNumber>,
    arrived: usize,
    repeated: usize,
    doubled: usize,
    out_of_order: usize,
    strays: usize,
}

impl Audit {
    /// Notes a message as published. The recipients have to be sorted; the sender is among them if
    /// a copy comes back to them.
    pub fn published(&mut self, sender: User, recipients: Arc<[User]>) -> MessageNumber {
        debug_assert!(recipients.is_sorted());
        let number = u32::try_from(self.messages.len()).expect("four thousand million messages");
        let first_copy = self.copies.len();
        self.copies.resize(first_copy + recipients.len(), None);
        self.messages.push(Message {
            sender,
            recipients,
            first_copy,
            fate: Fate::Unknown,
            times: 1,
            id: None,
        });
        MessageNumber(number)
    }

    /// Notes that a message was published once more, because nobody knows whether it was before.
    /// Each of the two may arrive, under its own identifier.
    pub fn published_again(&mut self, number: MessageNumber) {
        if let Some(message) = self.message_mut(number) {
            message.times += 1;
        }
    }

    /// Notes that the broker has confirmed a message to its sender.
    pub fn confirmed(&mut self, number: MessageNumber) {
        if let Some(message) = self.message_mut(number)
            && message.fate == Fate::Unknown
        {
            message.fate = Fate::Confirmed;
        }
    }

    /// Notes that the sender was told of a refusal.
    pub fn refused(&mut self, number: MessageNumber) {
        if let Some(message) = self.message_mut(number) {
            message.fate = Fate::Refused;
        }
    }

    /// Notes a copy that has arrived, with its identifier. Without identifiers (`b""`) a repeated
    /// copy is one under the same identifier.
    pub fn received(&mut self, number: MessageNumber, recipient: User, id: &[u8]) -> Arrival {
        let Some(message) = self.messages.get_mut(number.0 as usize) else {
            self.strays += 1;
            return Arrival::Stray;
        };
        let Ok(at) = message.recipients.binary_search(&recipient) else {
            self.strays += 1;
            return Arrival::Stray;
        };
        let id = copy_id(id);
        let times = message.times as usize;
        let first_of_message = *message.id.get_or_insert(id);
        let copy = message.first_copy + at;
        let way = (message.sender, recipient);
        // The copies of one message are alike, to whomever they go.
        let is_foreign = first_of_message != id && {
            let further = self.further_of_message.entry(number).or_default();
            !further.contains(&id) && {
                further.push(id);
                further.len() >= times
            }
        };
        let Some(first) = self.copies[copy] else {
            self.copies[copy] = Some(id);
            self.arrived += 1;
            self.doubled += usize::from(is_foreign);
            let latest = self.latest.entry(way).or_insert(number);
            self.out_of_order += usize::from(number < *latest);
            *latest = number.max(*latest);
            return Arrival::First;
        };
        let further = self.further.get(&copy).map_or(&[][..], Vec::as_slice);
        if id == first || further.contains(&id) {
            self.repeated += 1;
            return Arrival::Again;
        }
        self.doubled += usize::from(further.len() + 1 >= times);
        self.further.entry(copy).or_default().push(id);
        Arrival::Again
    }

    /// How many copies have arrived at least once.
    pub fn arrived(&self) -> usize {
        self.arrived
    }

    /// Who wrote a message.
    pub fn sender(&self, number: MessageNumber) -> Option<User> {
        self.messages
            .get(number.0 as usize)
            .map(|message| message.sender)
    }

    /// What has become of all messages, by now.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = Verdict {
            messages: self.messages.len(),
            copies: self.copies.len(),
            arrived: self.arrived,
            repeated: self.repeated,
            doubled: self.doubled,
            out_of_order: self.out_of_order,
            strays: self.strays,
            ..Verdict::default()
        };
        for message in &self.messages {
            let end = message.first_copy + message.recipients.len();
            let copies = &self.copies[message.first_copy..end];
            let missing = copies.iter().filter(|copy| copy.is_none()).count();
            match message.fate {
                Fate::Confirmed => verdict.lost += missing,
                Fate::Unknown => {
                    verdict.unconfirmed += 1;
                    // Who has accepted a message delivers it to everybody.
                    match missing == copies.len() {
                        true => verdict.never_happened += 1,
                        false => verdict.lost += missing,
                    }
                }
                Fate::Refused => {
                    verdict.refused += 1;
                    verdict.refused_and_delivered += usize::from(missing < copies.len());
                }
            }
        }
        verdict
    }

    fn message_mut(&mut self, number: MessageNumber) -> Option<&mut Message> {
        self.messages.get_mut(number.0 as usize)
    }
}

fn copy_id(id: &[u8]) -> CopyId {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN)
}

/// What became of the messages of one load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Verdict {
    /// Messages published, each counted once.
    pub messages: usize,
    /// Copies that would arrive if none were lost or refused.
    pub copies: usize,
    /// Copies that arrived, each counted once.
    pub arrived: usize,
    /// Copies of accepted messages that did not arrive.
    pub lost: usize,
    /// Messages whose sender was told of a refusal.
    pub refused: usize,
    /// Messages that were never confirmed to their sender: they may have happened or not.
    pub unconfirmed: usize,
    /// Those of them of which no copy arrived.
    pub never_happened: usize,
    /// Arrivals of a copy that was there, under the same identifier: a client recognises them.
    pub repeated: usize,
    /// Arrivals under an identifier that the message had no reason to get.
    pub doubled: usize,
    /// Copies that arrived after a later message from the same sender to the same recipient.
    pub out_of_order: usize,
    /// Messages that were refused, and arrived all the same.
    pub refused_and_delivered: usize,
    /// Arrivals at somebody whom the message was not for.
    pub strays: usize,
}

impl Verdict {
    /// Whether every promise was kept. Refusals, and copies repeated under the same identifier,
    /// break none.
    pub fn is_sound(&self) -> bool {
        let broken = [
            self.lost,
            self.doubled,
            self.out_of_order,
            self.refused_and_delivered,
            self.strays,
        ];
        broken.iter().all(|count| *count == 0)
    }

    /// Two loads taken together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            messages: self.messages + other.messages,
            copies: self.copies + other.copies,
            arrived: self.arrived + other.arrived,
            lost: self.lost + other.lost,
            refused: self.refused + other.refused,
            unconfirmed: self.unconfirmed + other.unconfirmed,
            never_happened: self.never_happened + other.never_happened,
            repeated: self.repeated + other.repeated,
            doubled: self.doubled + other.doubled,
            out_of_order: self.out_of_order + other.out_of_order,
            refused_and_delivered: self.refused_and_delivered + other.refused_and_delivered,
            strays: self.strays + other.strays,
        }
    }
}

#[cfg(test)]
mod tests;
