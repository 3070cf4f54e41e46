//! Reads for clients of the HTTP API: beside the one who writes, and never in its way.
//!
//! Owns the questions and the form of pages. Leaves documents and access to the API.

use crate::protocol::address::Timeline;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::listing::{ListedConversation, ListedMessage, Slice, Window};
use crate::store::StoreError;

/// Bytes of bodies in a part of a list, unless one is larger: what a request may cost in memory.
/// Stock clients ask for no second page: 200 messages of ten kilobytes have to fit.
pub const SLICE_BYTES: usize = 2 << 20;

/// A client that counts as connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownClient {
    /// The app.
    pub app: String,
    /// Its user.
    pub user: String,
    /// Its client identifier.
    pub client: String,
    /// When it has said last that it is there.
    pub since: UnixMillis,
}

/// Ends a read, from any thread: it fails then. It neither blocks nor waits.
pub type GiveUp = Box<dyn Fn() + Send>;

/// One connection that reads what is committed.
pub trait Reader: Send {
    /// A read begins. What is returned ends it, and must not be used once the next one has begun.
    ///
    /// # Errors
    /// [`StoreError`].
    fn begin_read(&mut self) -> Result<GiveUp, StoreError>;

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

    /// The devices and browsers that a user wants to be notified on: their identifiers, and what
    /// each says of itself (JSON).
    ///
    /// # Errors
    /// [`StoreError`].
    fn instances(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<(String, String)>, StoreError>;

    /// Clients that have said last between `after` and `before` that they are there, by that time.
    ///
    /// # Errors
    /// [`StoreError`].
    fn clients_since(
        &mut self,
        after: UnixMillis,
        before: UnixMillis,
        limit: usize,
    ) -> Result<Vec<KnownClient>, StoreError>;

    /// The object of a group, as it is stored: JSON.
    ///
    /// # Errors
    /// [`StoreError`].
    fn group_body(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<Option<String>, StoreError>;
}
