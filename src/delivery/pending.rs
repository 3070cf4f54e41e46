//! A message that is admitted and waits to be decided on.
//!
//! Owns what travels with it from admission to its plan.

use crate::delivery::ledger::EntryId;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::Refused;
use crate::rules::submission::{Authority, Task};

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
    /// Where it comes from.
    pub via: Via,
    /// Where the question about it stands.
    pub question: Question,
    /// Why it is to be refused, unless it turns out that it has passed before.
    pub refused: Option<PendingRefusal>,
}

/// Whether the delivery log is to hold a message while the decision service is asked about it. Then
/// it is acknowledged before that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Question {
    /// It is not.
    #[default]
    None,
    /// It is to be logged. Nothing else is done about it yet.
    Due,
    /// The log has held it, and it is decided on now.
    Logged,
}

/// Where a message comes from.
#[derive(Clone, Debug, Default)]
pub enum Via {
    /// The broker.
    #[default]
    Broker,
    /// The HTTP API.
    Api(Box<ApiPart>),
}

/// A part of what a client of the HTTP API has handed in.
#[derive(Clone, Debug)]
pub struct ApiPart {
    /// On whose word it is done.
    pub authority: Authority,
    /// What is to be done.
    pub task: Task,
    /// How many parts follow. They are decided on in the same batch.
    pub following: usize,
}

impl Via {
    /// The part of a submission, if it is one.
    pub fn part(&self) -> Option<&ApiPart> {
        match self {
            Self::Broker => None,
            Self::Api(part) => Some(part),
        }
    }
}

/// A refusal that is certain before the facts are known.
#[derive(Clone, Debug)]
pub struct PendingRefusal {
    /// The reason, and what else its sender is told.
    pub refused: Refused,
    /// Whether the sender may be told, if that is known already.
    pub may_answer: Option<bool>,
}
