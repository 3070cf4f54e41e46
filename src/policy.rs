//! The checks every message passes, in the order they apply, and the closed list of reasons for a refusal.
//!
//! A refusal is an answer, not an error: the message is acknowledged, counted, its sender told (`protocol.md`, section 5).

use std::fmt;

use crate::id::IdError;
use crate::layout::{Inbound, ParseError, PayloadMode};
use crate::message::{Envelope, EnvelopeError, Received};
use crate::topic::BrokerKind;

/// Why a message is not forwarded (`protocol.md`, section 5): the same word in logs, notices, metrics and `explain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The topic has the form of no layout, is not UTF-8, or one of its identifiers is none.
    MalformedTopic,
    /// An identifier is a word the topic tree uses itself.
    ReservedIdentifier,
    /// The broker stored this message (RETAIN flag): it would come again with every reconnect.
    Retained,
    /// The payload is over the limit.
    TooLarge,
    /// The payload of an envelope layout is not JSON.
    NotJson,
    /// The payload of an envelope layout is JSON, but not an object.
    NotAnObject,
    /// A message for a group that is none.
    NotAGroup,
    /// An identifier the broker cannot carry.
    Unroutable,
    /// The broker refused the forward.
    Unauthorized,
}

impl Refusal {
    /// Every reason.
    pub const ALL: [Self; 9] = [
        Self::MalformedTopic,
        Self::ReservedIdentifier,
        Self::Retained,
        Self::TooLarge,
        Self::NotJson,
        Self::NotAnObject,
        Self::NotAGroup,
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
            Self::NotJson => "not-json",
            Self::NotAnObject => "not-an-object",
            Self::NotAGroup => "not-a-group",
            Self::Unroutable => "unroutable",
            Self::Unauthorized => "unauthorized",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<&ParseError<'_>> for Refusal {
    fn from(error: &ParseError<'_>) -> Self {
        match error {
            ParseError::BadId {
                error: IdError::Reserved,
                ..
            } => Self::ReservedIdentifier,
            ParseError::SplitId => Self::Unroutable,
            ParseError::NoLayout | ParseError::BadId { .. } | ParseError::OtherApp(_) => {
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

/// What the checks go by.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// The largest payload served, in bytes.
    pub max_payload_bytes: usize,
    /// What the broker does to topics.
    pub broker_kind: BrokerKind,
}

/// What is forwarded, once every check is passed.
#[derive(Clone, Debug)]
pub enum Accepted<'p> {
    /// The same bytes.
    Verbatim,
    /// The client's object, with the observer's fields to be set.
    Envelope(Envelope<'p>),
}

impl Policy {
    /// The checks, in the order they apply; the cheap ones first. The topic has been parsed by then; whether the broker can carry
    /// what is published is asked of the topics themselves (`routing.rs`).
    ///
    /// # Errors
    /// The reason for which the message is refused.
    pub fn check<'p>(
        &self,
        inbound: &Inbound<'_>,
        received: &'p Received,
    ) -> Result<Accepted<'p>, Refusal> {
        if received.retain {
            return Err(Refusal::Retained);
        }
        if received.payload_bytes > self.max_payload_bytes {
            return Err(Refusal::TooLarge);
        }
        match inbound.layout.payload() {
            PayloadMode::Verbatim => Ok(Accepted::Verbatim),
            PayloadMode::Envelope => {
                let envelope = Envelope::parse(&received.payload)?;
                // Without a store no group is known: such a message must not pass for a direct one.
                if envelope.says_group || inbound.recipient.is_group() {
                    return Err(Refusal::NotAGroup);
                }
                Ok(Accepted::Envelope(envelope))
            }
        }
    }
}
