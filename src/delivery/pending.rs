//! A message that is admitted and waits to be decided on.
//!
//! Owns what travels with it from admission to its plan.

use crate::delivery::ledger::EntryId;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::Refused;

/// A message between its admission and the decision on it.
#[derive(Clone, Debug)]
pub struct PendingMessage {
    /// Its entry in the ledger, to which its publishes will belong.
    pub entry: EntryId,
    /// Topic and payload. The decision service may have replaced the payload.
    pub received: Received,
    /// The id it was given.
    pub id: MessageId,
    /// What a redelivery of it is recognised by; `None` at QoS 0, where nothing is delivered again.
    pub fingerprint: Option<u64>,
    /// Whether it has come before, under the same id.
    pub repeated: bool,
    /// Why it is to be refused, unless it turns out that it has passed before.
    pub refused: Option<PendingRefusal>,
}

/// A refusal that is certain before the facts are known.
#[derive(Clone, Debug)]
pub struct PendingRefusal {
    /// The reason, and what else its sender is told.
    pub refused: Refused,
    /// Whether the sender may be told, if that is known already.
    pub may_answer: Option<bool>,
}
