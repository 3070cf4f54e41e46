//! The delivery log: what messages that are acknowledged still have to be published.
//!
//! A message is acknowledged to the broker when the log holds all that it leads to, in the
//! transaction that stores it. After a crash everything that the log still holds is published
//! again, under the same ids.

use bytes::Bytes;

use super::StoreError;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::rules::plan::Purpose;

/// Publishes of one message, to be logged.
#[derive(Clone, Copy, Debug)]
pub struct LoggedPublishes<'a> {
    /// The id that the message was given.
    pub id: MessageId,
    /// The topic that it came on.
    pub came_on: &'a [u8],
    /// The number of the first of them, among all publishes of the message.
    pub first: usize,
    /// What they are for.
    pub purpose: Purpose,
    /// The publishes, in order.
    pub publishes: &'a [Publish],
}

/// What goes out in steps, as it is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedFanOut {
    /// The whole of it: [`FanOut::to_log`](crate::rules::fan_out::FanOut::to_log).
    pub text: String,
    /// The position up to which everything is confirmed.
    pub position: usize,
}

/// A message whose publishes may not all be confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedMessage {
    /// The id that it was given.
    pub id: MessageId,
    /// The topic that it came on.
    pub came_on: Bytes,
    /// Its publishes, in order, but for those of its fan-out.
    pub publishes: Vec<(Purpose, Publish)>,
    /// What goes out in steps.
    pub fan_out: Option<LoggedFanOut>,
}

/// Keeps what is accepted and not yet published.
pub trait DeliveryLog {
    /// Logs publishes, each number of a message once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log(&mut self, logged: &LoggedPublishes<'_>) -> Result<(), StoreError>;

    /// Logs what goes out in steps: one row, however many get it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_fan_out(&mut self, id: MessageId, came_on: &[u8], text: &str) -> Result<(), StoreError>;

    /// Records how far the fan-out of a message is confirmed.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_position(&mut self, id: MessageId, position: usize) -> Result<(), StoreError>;

    /// Records that all publishes of a message are confirmed: the log forgets it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn published(&mut self, id: MessageId) -> Result<(), StoreError>;

    /// The messages that the log holds, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn unpublished(&self) -> Result<Vec<LoggedMessage>, StoreError>;
}
