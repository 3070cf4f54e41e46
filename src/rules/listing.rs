//! Parts of lists: which are asked for, and what they hold.
//!
//! Owns the form of a question and of its answer. Leaves reading to the store, and how a part is
//! told to whoever asked.

use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Where it begins, and in which direction it goes.
    pub from: From,
    /// How many entries at most.
    pub limit: usize,
}

/// Where a part of a list begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// At the newest entry, newest first.
    Newest,
    /// Before a place, newest first.
    Before(Place),
    /// Behind a place, oldest first.
    Since(Place),
}

/// A place in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A position of the log.
    Position(i64),
    /// The end of a millisecond, by the time of storing. For [`From::Before`] its begin.
    Time(UnixMillis),
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice<T> {
    /// The entries, in the direction asked for.
    pub entries: Vec<T>,
    /// The position from which to go on in the same direction; `None` at the end.
    pub next: Option<i64>,
}

/// A conversation in a user's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedConversation {
    /// The other side.
    pub convers_with: Box<str>,
    /// What the list shows of it.
    pub row: Row,
}

/// A message of a timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMessage {
    /// The message without its status: JSON.
    pub body: Box<str>,
    /// How far this copy got.
    pub status: Status,
}

impl<T> Default for Slice<T> {
    fn default() -> Self {
        Self {
            entries: vec![],
            next: None,
        }
    }
}
