//! What is decided on together, and what comes of it.
//!
//! Owns these values. Leaves the decisions to the processor.

use std::sync::Arc;

use crate::delivery::ledger::EntryId;
use crate::delivery::left::LeftRead;
use crate::delivery::pending::PendingMessage;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::rules::fan_out::FanOut;
use crate::rules::group_change::GroupOutcome;
use crate::rules::policy::Policy;
use crate::store::{LogPage, OutboxReply, OutboxRequest, fan_out_bytes};

/// What is decided on together.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Messages, in the order they were admitted.
    pub messages: Vec<PendingMessage>,
    /// How many bulk copies may be made.
    pub room_for_bulk: usize,
    /// The acknowledged watermark, if it has moved.
    pub acknowledged: Option<MessageId>,
    /// Messages whose publishes are all confirmed: the delivery log may forget them.
    pub published: Vec<MessageId>,
    /// Messages with bulk copies that may be unconfirmed for long.
    pub held: Vec<EntryId>,
    /// If messages wait in the delivery log alone: which, and how many are to be read.
    pub backlog: Option<BacklogRead>,
    /// What goes to one topic and is to be read from the delivery log, of so many messages. Such a
    /// batch has no messages, either.
    pub left: Option<(LeftRead, usize)>,
    /// Fan-outs that were read from the delivery log.
    pub resumed: Vec<Resumed>,
    /// The checks to apply.
    pub policy: Arc<Policy>,
    /// What the webhook dispatcher wants from the outbox.
    pub outbox_request: OutboxRequest,
    /// The time of the batch.
    pub now: UnixMillis,
}

/// What is to be done about messages that wait in the delivery log alone.
#[derive(Clone, Copy, Debug)]
pub struct BacklogRead {
    /// Messages with a higher id are left to the log; `None`: all.
    pub after: Option<MessageId>,
    /// How many of them are to be read. Then the batch has no messages: which answers to refused
    /// ones the log is to forget, it hears with the next batch.
    pub most: usize,
}

/// A fan-out that was read from the delivery log.
#[derive(Clone, Debug)]
pub struct Resumed {
    /// The entry that was made for its message.
    pub entry: EntryId,
    /// The message's id.
    pub id: MessageId,
    /// What is left to do.
    pub fan_out: FanOut,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Processed {
    /// What its messages lead to, in their order; then further steps of earlier fan-outs.
    pub decided: Vec<Decided>,
    /// What was read of [`Batch::backlog`].
    pub read: LogPage,
    /// What was read for [`Batch::left`].
    pub left: Option<(LeftRead, LogPage)>,
    /// The answer to [`Batch::outbox_request`].
    pub outbox_reply: OutboxReply,
    /// Webhook events that were dropped to make room for others, for each endpoint.
    pub dropped: Vec<u64>,
}

/// What a message leads to: all of it, or one step of its fan-out.
#[derive(Debug)]
pub struct Decided {
    /// The message.
    pub entry: EntryId,
    /// Whether this is the decision itself, and not a later step of its fan-out.
    pub first: bool,
    /// Copies and notifications to publish.
    pub publishes: Vec<Publish>,
    /// Those of its fan-out.
    pub bulk: Vec<Publish>,
    /// The members of a group to whom all of it goes, if it came for the first time.
    pub members: usize,
    /// The notice and the dead letter of a refusal.
    pub answers: Vec<Publish>,
    /// The reason, if it is refused, or what is left of its fan-out is dropped.
    pub refusal: Option<Refusal>,
    /// What is wrong with it, in words for a client of the HTTP API.
    pub detail: Option<Box<str>>,
    /// Whether its sender may be told of the refusal, if that is known already.
    pub may_answer: Option<bool>,
    /// Whether nothing is decided: the delivery log holds the message now, and the decision service
    /// is to be asked about it.
    pub is_question: bool,
    /// Whether the delivery log holds all that the message leads to. Said once, with the decision.
    pub logged: bool,
    /// About how many bytes the delivery log holds for it, if it alone is to keep what the message
    /// leads to.
    pub left_to_log: Option<u64>,
    /// What became of a change of a group.
    pub group: Option<GroupOutcome>,
    /// Whether nothing more follows.
    pub done: bool,
}

impl BacklogRead {
    /// Whether what a message leads to is left to the log.
    pub(super) fn leaves(&self, message: &PendingMessage) -> bool {
        Some(message.id) > self.after
    }
}

impl Decided {
    /// A message that came again, and that the delivery log holds since it came first.
    pub(super) fn known(entry: EntryId) -> Self {
        Self {
            logged: true,
            left_to_log: Some(0),
            ..Self::nothing(entry)
        }
    }

    /// A message that the delivery log holds, to be decided on.
    pub(super) fn question(entry: EntryId) -> Self {
        Self {
            is_question: true,
            logged: true,
            ..Self::nothing(entry)
        }
    }

    /// A message that leads to nothing.
    pub(super) fn nothing(entry: EntryId) -> Self {
        Self {
            entry,
            first: true,
            publishes: vec![],
            bulk: vec![],
            members: 0,
            answers: vec![],
            refusal: None,
            detail: None,
            may_answer: None,
            is_question: false,
            logged: false,
            left_to_log: None,
            group: None,
            done: true,
        }
    }

    /// Whether it is a message that came again, and that the delivery log holds.
    pub fn is_known(&self) -> bool {
        self.left_to_log == Some(0)
    }

    /// About how many bytes the delivery log holds for it; `None` for nothing.
    pub(super) fn log_bytes(&self, fan_out: Option<&str>) -> Option<u64> {
        let publishes = self.publishes.iter().chain(&self.answers);
        let publishes = publishes.map(Publish::log_bytes);
        let bytes = publishes.chain(fan_out.map(fan_out_bytes)).sum();
        (bytes > 0).then_some(bytes)
    }
}
