//! The values of labels that belong to metrics alone.
//!
//! Owns three closed lists. Labels that mean something elsewhere stand where they belong.

use strum::{IntoStaticStr, VariantArray};

/// A connection of the observer to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// The connection that receives messages and acknowledges them.
    Session,
    /// A connection that publishes.
    Publisher,
}

/// What came of a question to the decision service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Decision {
    /// The message passes as it came.
    Allowed,
    /// It passes with other contents.
    Replaced,
    /// It is refused.
    Refused,
    /// There was no answer, or one that says nothing: the setting for failures holds.
    NoAnswer,
}

impl Decision {
    /// Every decision.
    pub(super) const ALL: &'static [Self] = Self::VARIANTS;

    /// The label's value.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What became of one attempt to deliver an event to an endpoint, or of the event itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum WebhookOutcome {
    /// The endpoint answered 2xx.
    Delivered,
    /// The endpoint gave no answer, or 429 or 5xx: the event is tried again.
    Retried,
    /// The endpoint gave a final answer: 3xx, or 4xx other than 429.
    Refused,
    /// The event became too old.
    Expired,
    /// The queue was full: the oldest event was given up.
    Dropped,
}

impl WebhookOutcome {
    /// Every outcome.
    pub(super) const ALL: &'static [Self] = Self::VARIANTS;

    /// The label's value.
    pub(super) fn as_str(self) -> &'static str {
        self.into()
    }
}
