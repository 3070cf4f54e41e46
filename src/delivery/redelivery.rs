//! Which messages the broker may deliver again, and how they are recognised.
//!
//! Owns the list of messages that may come again after a lost session or a killed process. Leaves
//! to the [`ledger`](crate::delivery::ledger) what becomes of a message that is recognised.

use std::collections::VecDeque;

use crate::protocol::message_id::MessageId;

/// How many messages are remembered in case they come again, at least: a broker has no more than
/// its window unacknowledged, and its window is hardly larger than twice ours, or than this.
const REMEMBERED: usize = 1_024;

/// A message that may come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    /// Its ack was sent, but may not have reached the broker.
    Acknowledged(MessageId),
    /// An earlier process stored it, and may not have acknowledged it.
    Stored(MessageId),
    /// It is still in the ledger, under this number.
    Open(usize),
}

/// What a message that comes in turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Recognised {
    /// A new message.
    New,
    /// A new message, and redeliveries come before new messages: the messages of these entries
    /// will not come again.
    FirstNew(Vec<usize>),
    /// A redelivery.
    Again(Earlier),
}

#[derive(Debug)]
struct Expected {
    /// Stands for topic and payload.
    fingerprint: u64,
    earlier: Earlier,
}

/// The messages that may come again.
#[derive(Debug)]
pub(super) struct Redeliveries {
    /// The most messages that are remembered.
    most: usize,
    /// Acknowledged on the present connection, but for those whose acks have surely arrived. When
    /// the connection ends, the broker may not have seen the acks.
    acknowledged: VecDeque<(u64, MessageId)>,
    /// How many of them, the oldest, were acknowledged before the last call of
    /// [`Redeliveries::age`].
    old: usize,
    /// From earlier connections, in the order the broker delivered them before. A broker sends
    /// redeliveries before anything else, so the first message that is not in the list ends it, or
    /// a message to ourselves (see [`Redeliveries::expect_nothing`]).
    expected: VecDeque<Expected>,
    /// How many of them, the first, were acknowledged on the connection that has just ended. Acks
    /// of connections before that may be lost.
    last: usize,
}

impl Redeliveries {
    /// For a session with this window.
    pub(super) fn new(window: usize) -> Self {
        Self {
            most: REMEMBERED.max(2 * window),
            acknowledged: VecDeque::new(),
            old: 0,
            expected: VecDeque::new(),
            last: 0,
        }
    }

    /// There is a connection again.
    pub(super) fn handle_session_up(&mut self) {
        self.last = 0;
    }

    /// Forgets what was acknowledged before the last call: since then the broker has answered a
    /// ping on this connection, so it has those acks.
    pub(super) fn age(&mut self) {
        self.acknowledged.drain(..self.old);
        self.old = self.acknowledged.len();
    }

    /// The broker has every ack that was sent on this connection, or on the one that has just
    /// ended.
    pub(super) fn forget_acknowledged(&mut self) {
        self.acknowledged.clear();
        self.old = 0;
        self.expected.drain(..self.last);
        self.last = 0;
    }

    /// Expects what an earlier process received and may not have acknowledged, in the order it
    /// came.
    pub(super) fn expect(&mut self, unacknowledged: &[(u64, MessageId)]) {
        let from = unacknowledged.len().saturating_sub(self.most);
        let expected = unacknowledged[from..].iter().map(|&(fingerprint, id)| {
            let earlier = Earlier::Stored(id);
            Expected {
                fingerprint,
                earlier,
            }
        });
        self.expected = expected.collect();
    }

    /// Remembers a message whose ack is handed to the connection.
    pub(super) fn remember(&mut self, fingerprint: u64, id: MessageId) {
        if self.acknowledged.len() == self.most {
            self.acknowledged.pop_front();
            self.old = self.old.saturating_sub(1);
        }
        self.acknowledged.push_back((fingerprint, id));
    }

    /// The messages that may still come again.
    pub(super) fn expected(&self) -> impl Iterator<Item = Earlier> {
        self.expected.iter().map(|expected| expected.earlier)
    }

    /// Judges a message that came in. `dup` is its DUP flag: a hint only. Some brokers never set
    /// it, and RabbitMQ sets it on messages that it never delivered before.
    pub(super) fn recognise(&mut self, fingerprint: u64, dup: bool) -> Recognised {
        if self.expected.is_empty() {
            return Recognised::New;
        }
        // Open entries go before acknowledged ones with equal content: their messages surely come
        // again, and each entry must find its own.
        let open = self.position(fingerprint, |earlier| matches!(earlier, Earlier::Open(_)));
        let found = open.or_else(|| self.position(fingerprint, |_| true));
        let Some(at) = found else {
            // With DUP it may be a redelivery of something that is not stored, such as a receipt or
            // a refused message: after a restart it stands between messages that are expected.
            return if dup {
                Recognised::New
            } else {
                Recognised::FirstNew(self.expect_nothing())
            };
        };
        // An acknowledged message may come again, but only DUP tells that from an equal text that
        // is meant as a second message.
        if open.is_none() && !dup {
            return Recognised::New;
        }
        let expected = self
            .expected
            .remove(at)
            .expect("the position was just found");
        Recognised::Again(expected.earlier)
    }

    fn position(&self, fingerprint: u64, wanted: fn(Earlier) -> bool) -> Option<usize> {
        self.expected
            .iter()
            .position(|e| e.fingerprint == fingerprint && wanted(e.earlier))
    }

    /// Expects nothing any more. Returns the entries whose messages were expected.
    pub(super) fn expect_nothing(&mut self) -> Vec<usize> {
        self.last = 0;
        open_entries(self.expected.drain(..))
    }

    /// The connection is gone. What was acknowledged on it may come again, and `arrived`, with its
    /// fingerprints, surely does. Returns entries for which there is no room in the list.
    pub(super) fn handle_session_lost(&mut self, arrived: Vec<(u64, usize)>) -> Vec<usize> {
        self.old = 0;
        // What surely comes again has its place in the list.
        let room = self.most.saturating_sub(arrived.len());
        let too_many = self.acknowledged.len().saturating_sub(room);
        let acknowledged = self
            .acknowledged
            .drain(..)
            .skip(too_many)
            .map(|(fingerprint, id)| (fingerprint, Earlier::Acknowledged(id)));
        self.last = acknowledged.len();
        let arrived = arrived
            .into_iter()
            .map(|(fingerprint, entry)| (fingerprint, Earlier::Open(entry)));
        let mut expected: VecDeque<Expected> = acknowledged
            .chain(arrived)
            .map(|(fingerprint, earlier)| Expected {
                fingerprint,
                earlier,
            })
            .collect();
        // What an earlier loss left in the list comes behind: redelivery is in order.
        expected.append(&mut self.expected);
        // The bound matters if connections end again and again before redelivery is complete.
        let surplus = expected.split_off(expected.len().min(self.most));
        self.expected = expected;
        self.last = self.last.min(self.expected.len());
        open_entries(surplus)
    }
}

fn open_entries(expected: impl IntoIterator<Item = Expected>) -> Vec<usize> {
    let open = |expected: Expected| match expected.earlier {
        Earlier::Open(entry) => Some(entry),
        Earlier::Acknowledged(_) | Earlier::Stored(_) => None,
    };
    expected.into_iter().filter_map(open).collect()
}

#[cfg(test)]
mod tests;
