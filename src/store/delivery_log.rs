//! The delivery log: what messages that are acknowledged still have to be published.
//!
//! A message is acknowledged to the broker when the log holds all that it leads to, in the
//! transaction that stores it. After a crash everything that the log still holds is published
//! again, under the same ids.
//!
//! A message that the decision service is asked about is acknowledged before it is known what it
//! leads to: then the log holds the message itself, until it is decided on.

use bytes::Bytes;

use super::StoreError;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::{LOG_ROW_BYTES, Publish};
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

/// A message that is acknowledged, and that the decision service has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedQuestion {
    /// The id that it was given.
    pub id: MessageId,
    /// The topic that it came on.
    pub topic: Bytes,
    /// Its payload, as it came.
    pub payload: Bytes,
    /// Whether it cannot be read: then the payload is empty.
    pub is_damaged: bool,
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
    /// Whether something of it cannot be made any more, and is left out.
    pub is_damaged: bool,
}

/// Payload bytes after which a page of the log ends.
pub(super) const PAGE_BYTES: usize = 8 << 20;

/// Messages that the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogPage {
    /// The messages, oldest first.
    pub messages: Vec<LoggedMessage>,
    /// Whether the log holds no later ones.
    pub is_last: bool,
}

/// What the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogSize {
    /// The highest id of its messages.
    pub last: MessageId,
    /// How many messages.
    pub messages: u64,
    /// About how many bytes: each row and what it says.
    pub bytes: u64,
}

/// The column `purpose` of a message that is to be decided on. A version that does not know it
/// publishes the message on the topic that it came on, and takes it in again.
pub(super) const QUESTION: i64 = 3;

impl LoggedMessage {
    /// About how many bytes it takes in the log.
    pub fn log_bytes(&self) -> u64 {
        let publishes = self
            .publishes
            .iter()
            .map(|(_, publish)| publish.log_bytes());
        let fan_out = self
            .fan_out
            .as_ref()
            .map(|fan_out| fan_out_bytes(&fan_out.text));
        publishes.chain(fan_out).sum()
    }
}

/// About how many bytes a fan-out takes in the log.
pub fn fan_out_bytes(text: &str) -> u64 {
    LOG_ROW_BYTES + text.len() as u64
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

    /// Logs a message that is to be decided on. [`DeliveryLog::published`] has the log forget it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_question(&mut self, question: &LoggedQuestion) -> Result<(), StoreError>;

    /// The messages that are to be decided on, oldest first. No other method returns them, but for
    /// [`DeliveryLog::log_holds`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn questions(&self) -> Result<Vec<LoggedQuestion>, StoreError>;

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

    /// Whether the log holds anything of a message.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_holds(&self, id: MessageId) -> Result<bool, StoreError>;

    /// The next messages that the log holds, oldest first: those with a higher id than `after`, at
    /// most `most`, and not many more after [`PAGE_BYTES`].
    ///
    /// # Errors
    /// [`StoreError`].
    fn unpublished(&self, after: Option<MessageId>, most: usize) -> Result<LogPage, StoreError>;

    /// What the log holds; `None` if it is empty.
    ///
    /// # Errors
    /// [`StoreError`].
    fn log_size(&self) -> Result<Option<LogSize>, StoreError>;
}
