//! Panics on one message, rows that it needs and that cannot be read, and what is left out of a
//! batch because of them.
//!
//! Owns what the processor is doing, so that a panic is put down to it. Leaves catching it, and
//! what becomes of a message that is left out, to the processor.

use tracing::error;

use crate::protocol::message_id::MessageId;
use crate::rules::fan_out::FanOut;
use crate::store::Cause;

const OF_MESSAGE: &str = "a fault of the observer: the message is refused as internal";
const OF_ROW: &str = "a row of the store that this message needs cannot be read (store check): the \
    message is refused as internal";
const OF_MEMBER: &str = "a row of the store that a member's copy needs cannot be read (store \
    check): this member does not get the message";
const OF_PREFETCH: &str = "a fault of the observer: the batch is tried without looking up ahead";

/// What the processor is doing.
#[derive(Clone, Copy, Debug, Default)]
enum Doing {
    /// What belongs to no message.
    #[default]
    Rest,
    /// It looks up what all messages will ask.
    Prefetch,
    /// It decides on a message, or takes a step of its fan-out.
    Message(MessageId),
}

/// What has panicked in the present batch.
#[derive(Debug, Default)]
pub(super) struct Panics {
    doing: Doing,
    /// For whom the copy was that failed, if one did.
    member: Option<Box<str>>,
    messages: Vec<MessageId>,
    /// Members who do not get a message.
    members: Vec<(MessageId, Box<str>)>,
    prefetch: bool,
}

impl Panics {
    /// Another message, or a step of its fan-out, has its turn.
    pub(super) fn begin_message(&mut self, id: MessageId) {
        self.doing = Doing::Message(id);
        self.member = None;
    }

    /// In a step of the message's fan-out a copy failed, if it is known whose.
    pub(super) fn copy_failed(&mut self, member: Option<Box<str>>) {
        self.member = member;
    }

    /// Takes the members out of a message's fan-out who do not get it.
    pub(super) fn leave_out_of(&self, id: MessageId, fan_out: &mut FanOut) {
        for (_, member) in self.members.iter().filter(|(of, _)| *of == id) {
            fan_out.leave_out(member);
        }
    }

    /// Returns whether to look up ahead.
    pub(super) fn begin_prefetch(&mut self) -> bool {
        self.doing = Doing::Prefetch;
        !self.prefetch
    }

    /// What follows belongs to no message.
    pub(super) fn begin_rest(&mut self) {
        self.doing = Doing::Rest;
    }

    /// Whether a message is to be left out.
    pub(super) fn has(&self, id: MessageId) -> bool {
        self.messages.contains(&id)
    }

    /// A row cannot be read. Returns the same.
    pub(super) fn add_row(&mut self, fault: &Cause) -> bool {
        let Doing::Message(id) = self.doing else {
            return false;
        };
        if self.has(id) {
            return false;
        }
        self.doing = Doing::Rest;
        let member = self.member.take().map(|member| (id, member));
        match member.filter(|member| !self.members.contains(member)) {
            Some(member) => {
                error!(message_id = %id, member = %member.1, error = %fault, "{OF_MEMBER}");
                self.members.push(member);
            }
            None => {
                error!(message_id = %id, error = %fault, "{OF_ROW}");
                self.messages.push(id);
            }
        }
        true
    }

    /// A panic was caught. Returns whether the batch can be tried again, without what was being
    /// done: not if that was left out already, or belongs to no message.
    pub(super) fn add(&mut self) -> bool {
        match std::mem::take(&mut self.doing) {
            Doing::Message(id) if !self.has(id) => {
                error!(message_id = %id, "{OF_MESSAGE}");
                self.messages.push(id);
                true
            }
            Doing::Prefetch if !self.prefetch => {
                error!("{OF_PREFETCH}");
                self.prefetch = true;
                true
            }
            Doing::Rest | Doing::Prefetch | Doing::Message(_) => false,
        }
    }
}
