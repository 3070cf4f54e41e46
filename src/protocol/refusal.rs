//! The closed list of reasons for a refusal.
//!
//! A refusal is an answer, not an error: the message is acknowledged, counted, its sender told (`protocol.md`, section 5).

use std::fmt;
use std::time::Duration;

use crate::protocol::id::IdError;
use crate::protocol::message::EnvelopeError;

/// Why a message is not forwarded (`protocol.md`, section 5): the same word in logs, notices, metrics and `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The topic has the form of no layout, is not UTF-8, or one of its identifiers is none.
    MalformedTopic,
    /// An identifier is a word the topic tree uses itself.
    ReservedIdentifier,
    /// The broker stored this message (RETAIN flag): it would come again with every reconnect.
    Retained,
    /// The payload is over the limit, nested too deep, or of too many values.
    TooLarge,
    /// The sender writes more than he may.
    RateLimited,
    /// The sender may not write at all: the operator has banned him.
    Banned,
    /// The recipient does not want to hear the sender, who is not told.
    Blocked,
    /// The payload of an envelope layout is not JSON.
    NotJson,
    /// The payload of an envelope layout is JSON, but not an object.
    NotAnObject,
    /// A message for a group that is none, or a group object that says of no group.
    NotAGroup,
    /// The sender is no member of the group he writes to.
    NotAMember,
    /// The message would go to more users than are allowed.
    TooManyRecipients,
    /// The payload of a control topic does not say what that topic is for, or says it of a message that is not there.
    BadStatus,
    /// An identifier the broker cannot carry.
    Unroutable,
    /// The broker refused the forward, or the operator's decision service did.
    Unauthorized,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::MalformedTopic,
        Self::ReservedIdentifier,
        Self::Retained,
        Self::TooLarge,
        Self::RateLimited,
        Self::Banned,
        Self::Blocked,
        Self::NotJson,
        Self::NotAnObject,
        Self::NotAGroup,
        Self::NotAMember,
        Self::TooManyRecipients,
        Self::BadStatus,
        Self::Unroutable,
        Self::Unauthorized,
    ];

    /// The reason as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedTopic => "malformed-topic",
            Self::ReservedIdentifier => "reserved-identifier",
            Self::Retained => "retained",
            Self::TooLarge => "too-large",
            Self::RateLimited => "rate-limited",
            Self::Banned => "banned",
            Self::Blocked => "blocked",
            Self::NotJson => "not-json",
            Self::NotAnObject => "not-an-object",
            Self::NotAGroup => "not-a-group",
            Self::NotAMember => "not-a-member",
            Self::TooManyRecipients => "too-many-recipients",
            Self::BadStatus => "bad-status",
            Self::Unroutable => "unroutable",
            Self::Unauthorized => "unauthorized",
        }
    }
}

/// A refusal, and what else its sender is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Refusal,
    /// When the same may be tried again.
    pub retry_after: Option<Duration>,
    /// The words of whoever decided so.
    pub detail: Option<Box<str>>,
}

impl From<Refusal> for Refused {
    fn from(reason: Refusal) -> Self {
        Self {
            reason,
            retry_after: None,
            detail: None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<IdError> for Refusal {
    fn from(error: IdError) -> Self {
        match error {
            IdError::Reserved => Self::ReservedIdentifier,
            IdError::Empty | IdError::TooLong | IdError::Forbidden(_) | IdError::OuterSpace => {
                Self::MalformedTopic
            }
        }
    }
}

impl From<EnvelopeError> for Refusal {
    fn from(error: EnvelopeError) -> Self {
        match error {
            EnvelopeError::NotJson => Self::NotJson,
            EnvelopeError::NotAnObject => Self::NotAnObject,
        }
    }
}
