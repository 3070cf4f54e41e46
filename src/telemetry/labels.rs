//! The values of labels that belong to metrics alone.
//!
//! Owns two closed lists. Labels that mean something elsewhere stand where they belong.

use strum::{IntoStaticStr, VariantArray};

/// A connection of the observer to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRole {
    /// The connection that receives messages and acknowledges them.
    Session,
    /// A connection that publishes.
    Publisher,
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
