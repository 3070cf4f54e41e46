//! Refusals: the closed list of reasons why a message is not forwarded (`protocol.md`, section 5).
//!
//! Owns the reasons and their words. A refusal is an answer, not an error: the message is
//! acknowledged and counted, and its sender is told. `rules` decides when a message is refused.

use std::fmt;
use std::time::Duration;

use strum::{EnumString, IntoStaticStr, VariantArray};

use crate::protocol::id::IdError;
use crate::protocol::json::ObjectError;

/// Why a message is not forwarded. Logs, notices, metrics and `explain` use the same word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumString, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Refusal {
    /// The topic fits no layout, is not UTF-8, or holds a level that is not an identifier.
    MalformedTopic,
    /// An identifier is a word that the topic tree uses itself.
    ReservedIdentifier,
    /// The broker had stored the message (RETAIN flag) and would deliver it on each reconnect.
    Retained,
    /// The payload is over the limit, nested too deep, or has too many values, or the id of an
    /// injected message is over 255 bytes.
    TooLarge,
    /// The sender sends more than they may.
    RateLimited,
    /// The operator has banned the sender.
    Banned,
    /// The recipient blocks the sender. The sender is not told.
    Blocked,
    /// The payload of an envelope layout is not JSON.
    NotJson,
    /// The payload of an envelope layout is JSON, but not an object.
    NotAnObject,
    /// The recipient of a group message is not a group, or a group object is incomplete.
    NotAGroup,
    /// The sender is not a member of the group they write to.
    NotAMember,
    /// The message would go to more users than are allowed.
    TooManyRecipients,
    /// The payload lacks what its control topic is for, or is about a message that is not there.
    BadStatus,
    /// The broker cannot carry an identifier.
    Unroutable,
    /// The broker refused the forward, or the operator's decision service refused the message.
    Unauthorized,
    /// A fault of the observer: it panicked on the message.
    Internal,
}

impl Refusal {
    /// Every reason, in the order of declaration.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The reason as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// What the reason means and what helps, in one line for whoever wrote the client.
    pub fn hint(self) -> &'static str {
        match self {
            Self::MalformedTopic => "no layout has this topic, or a level is not an identifier",
            Self::ReservedIdentifier => {
                "an identifier is a word of the topic tree, such as \"messages\" or \"groups\""
            }
            Self::Retained => "publish without the RETAIN flag",
            Self::TooLarge => {
                "the payload or its id is too long, or it has too many levels or values"
            }
            Self::RateLimited => "too many messages at once: wait, then send it again",
            Self::Banned => "the operator has banned the sender",
            Self::Blocked => "the recipient blocks the sender, who is not told",
            Self::NotJson => "the payload must be a JSON object, such as {\"text\":\"hello\"}",
            Self::NotAnObject => {
                "the payload is JSON, but not an object: {\"text\":\"hello\"} is one"
            }
            Self::NotAGroup => "the recipient is not a group, or the group object is incomplete",
            Self::NotAMember => "only members may write to this group",
            Self::TooManyRecipients => "the group has more members than a message may go to",
            Self::BadStatus => {
                "the payload is not one this topic takes, or its message is not there"
            }
            Self::Unroutable => "the broker cannot carry one of the identifiers in a topic",
            Self::Unauthorized => "the broker or the decision service does not allow it",
            Self::Internal => "a fault of the observer: its log says more",
        }
    }
}

/// A refusal with what else its sender is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why the message is refused.
    pub reason: Refusal,
    /// How long to wait before the same message may succeed.
    pub retry_after: Option<Duration>,
    /// What is wrong, in words for the sender.
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

impl From<ObjectError> for Refusal {
    fn from(error: ObjectError) -> Self {
        match error {
            ObjectError::NotJson => Self::NotJson,
            ObjectError::NotAnObject => Self::NotAnObject,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_the_word_of_the_contract() {
        let words: Vec<&str> = Refusal::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(
            words,
            [
                "malformed-topic",
                "reserved-identifier",
                "retained",
                "too-large",
                "rate-limited",
                "banned",
                "blocked",
                "not-json",
                "not-an-object",
                "not-a-group",
                "not-a-member",
                "too-many-recipients",
                "bad-status",
                "unroutable",
                "unauthorized",
                "internal",
            ]
        );
        for reason in Refusal::ALL {
            assert_eq!(reason.as_str().parse(), Ok(*reason));
            assert!((20..80).contains(&reason.hint().len()), "{reason}");
        }
    }
}
