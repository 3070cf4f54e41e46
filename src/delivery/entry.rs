//! What goes into the [`ledger`](crate::delivery::ledger) and comes out of it.
//!
//! Owns these values. Leaves to the ledger what they lead to.

use std::time::Instant;

use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::Refusal;
use crate::rules::plan::Purpose;

/// The right and the duty to acknowledge one message, on the connection it arrived on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The session's connection; connections are counted from 1.
    pub connection: u64,
    /// The packet identifier the message had there.
    pub packet_id: u16,
}

/// A message that came in, with what it is known by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic and payload.
    pub received: Received,
    /// The id it was given.
    pub id: MessageId,
    /// A hash that stands for its topic and payload.
    pub fingerprint: u64,
    /// When it was read.
    pub since: Instant,
}

/// A message of which everything is done but the acknowledgement, which may have to wait for its
/// turn, or may have gone out before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The message.
    pub message: Message,
    /// Whether copies were made of it, and the broker has taken them all.
    pub forwarded: bool,
}

/// Identifies a message in the ledger. The number is used again after the message is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryId(pub(super) usize);

impl EntryId {
    /// An id that no ledger has given out.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn for_tests(number: usize) -> Self {
        Self(number)
    }
}

/// What a message that came in turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Not seen before.
    New,
    /// Forwarded before, but the ack may not have arrived: to be forwarded again, under this id.
    Repeated(MessageId),
    /// Still in the ledger, its publishes under way or done. The new ack now belongs to it.
    Resumed,
}

/// A publish the broker will not take, to be answered with [`Ledger::resolve`].
///
/// [`Ledger::resolve`]: crate::delivery::ledger::Ledger::resolve
#[derive(Debug)]
pub struct Failed {
    pub(super) entry: usize,
    /// Why the broker does not take it.
    pub refusal: Refusal,
    /// The id of the message it was made of.
    pub id: MessageId,
    /// The message it was made of.
    pub received: Received,
    /// What it was for.
    pub purpose: Purpose,
    /// Another copy of the same message was refused before: the sender has been told.
    pub told_before: bool,
}

/// What a look at publishes in flight has led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Publishes that are in quarantine now and were not before.
    pub moved: usize,
    /// Publishers whose connections are to be replaced at once.
    pub replace: Vec<usize>,
    /// Whether to find out which connections the broker serves:
    /// [`Ledger::add_canaries`](crate::delivery::ledger::Ledger::add_canaries).
    pub wants_canaries: bool,
}
