//! A message that is admitted and waits to be decided on.
//!
//! Owns what travels with it from admission to its plan.

use crate::delivery::ledger::EntryId;
use crate::protocol::id::MessageId;
use crate::protocol::message::Received;
use crate::protocol::refusal::Refused;

/// A message to be decided on.
#[derive(Clone, Debug)]
pub struct PendingMessage {
    /// Where its publishes belong.
    pub entry: EntryId,
    /// The message.
    pub received: Received,
    /// The id it was given.
    pub id: MessageId,
    /// What a redelivery of it would be known by, if there can be one.
    pub fingerprint: Option<u64>,
    /// Whether it has come before, under the same id.
    pub repeated: bool,
    /// Why it is not to pass, unless it has before.
    pub refused: Option<Refused>,
}
