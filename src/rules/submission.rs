//! What a client of the HTTP API hands in. It takes the way of a message.
//!
//! Owns what travels with it: on whose word it is done, and which messages belong together. Leaves
//! what is decided to the files of each kind of request.

use crate::protocol::group_change::GroupChange;
use crate::protocol::message::Received;
use crate::protocol::request::Erased;
use crate::protocol::time::UnixMillis;

/// On whose word something is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authority {
    /// The sender's own: what the topic says, by the broker's permissions or a user's token.
    #[default]
    Sender,
    /// An administrator's, who may write as anybody, into any group and at any rate.
    Admin,
}

/// What is handed in: decided on in one transaction.
#[derive(Clone, Debug)]
pub struct Submission {
    /// On whose word.
    pub authority: Authority,
    /// To how many users all of it goes, besides what its first message costs.
    pub recipients: usize,
    /// The messages, in order: at least one. The first decides whether the others follow.
    pub messages: Vec<Submitted>,
}

/// One message of a submission.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// Topic and payload, as if a client had published them.
    pub received: Received,
    /// What is to be done with it.
    pub task: Task,
}

/// What is to be done with a message that is handed in.
#[derive(Clone, Debug)]
pub enum Task {
    /// What its topic and payload say.
    Message,
    /// The group that its topic names is changed by its sender.
    Change(GroupChange),
    /// The sender wants to be notified on this device or browser.
    Register {
        /// What the client calls itself.
        instance: Box<str>,
        /// What it says of itself: a JSON object.
        body: Box<str>,
    },
    /// What everybody has with the recipient is erased.
    Erase(Erased),
    /// Whoever the change before has made a member gets what the group said before.
    History,
    /// The client that its topic names is gone, unless it has said later that it is there.
    Gone {
        /// When it was known to have said so last.
        last_seen: UnixMillis,
    },
    /// The same as a message, if the change before was made; for one member, only if the change
    /// has made them one.
    Announcement(Option<Box<str>>),
}

impl Task {
    /// Whether it is what topic and payload say, and nothing else.
    pub fn is_message(&self) -> bool {
        matches!(self, Self::Message)
    }
}
