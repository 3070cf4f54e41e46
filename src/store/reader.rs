//! Reads for clients of the HTTP API: beside the one who writes, and never in its way.
//!
//! Owns the questions and the form of pages. Leaves documents and access to the API.

use crate::protocol::address::Timeline;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::store::StoreError;

/// One connection that reads what is committed.
pub trait Reader: Send {
    /// A page of a user's conversations, by their last messages.
    ///
    /// # Errors
    /// [`StoreError`].
    fn conversations(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        archived: bool,
        window: Window,
    ) -> Result<Slice<ListedConversation>, StoreError>;

    /// A conversation, archived or not.
    ///
    /// # Errors
    /// [`StoreError`].
    fn listed_conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, StoreError>;

    /// A page of a timeline's messages.
    ///
    /// # Errors
    /// [`StoreError`].
    fn messages(
        &mut self,
        timeline: &Timeline<'_>,
        window: Window,
    ) -> Result<Slice<ListedMessage>, StoreError>;

    /// The object of a group, as it is stored: JSON.
    ///
    /// # Errors
    /// [`StoreError`].
    fn group_body(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<Option<String>, StoreError>;
}

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
