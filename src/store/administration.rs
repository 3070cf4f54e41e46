//! What operators ask of a store, while an observer may be running on it.
//!
//! The commands that show the answers are in `commands`.

use std::fmt::Debug;
use std::io;

use serde::Serialize;

use super::import::{Imported, Landing};
use super::{ExportError, StoreError};
use crate::protocol::control_payload::BlockChange;
use crate::protocol::time::UnixMillis;

/// The operator's view of a store. An observer that runs sees a change with its next batch.
pub trait Administration: WebhookQueue + Debug {
    /// Counts everything.
    ///
    /// # Errors
    /// [`StoreError`].
    fn stats(&self) -> Result<Stats, StoreError>;

    /// Hands out a timeline, oldest message first, each as one line of JSON with its status.
    /// Without `convers_with` it hands out the whole inbox.
    ///
    /// # Errors
    /// [`ExportError::Store`], or [`ExportError::Output`] with what `line` returned.
    fn export(
        &self,
        app: &str,
        inbox_of: &str,
        convers_with: Option<&str>,
        line: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ExportError>;

    /// Stores what another server has stored, all of it or nothing. What is dated behind `now`
    /// counts as of now. Returns what became of each.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of it is stored then.
    fn import(&mut self, batch: &[Imported], now: UnixMillis) -> Result<Vec<Landing>, StoreError>;

    /// Deletes what was stored before a time, in small steps. Returns the number of messages
    /// deleted.
    ///
    /// # Errors
    /// [`StoreError`]; what was deleted until then stays deleted.
    fn prune_before(&mut self, before: UnixMillis) -> Result<i64, StoreError>;

    /// Checks whether the store is sound. Returns a line for each fault.
    ///
    /// # Errors
    /// [`StoreError`].
    fn check(&self) -> Result<Vec<String>, StoreError>;

    /// Tries whether the store can be written to now.
    ///
    /// # Errors
    /// [`StoreError`], if it cannot.
    fn try_write(&mut self) -> Result<(), StoreError>;

    /// Lists the stored groups of one app, or of all.
    ///
    /// # Errors
    /// [`StoreError`].
    fn groups(&self, app: Option<&str>) -> Result<Vec<StoredGroup>, StoreError>;

    /// The group object as it was stored.
    ///
    /// # Errors
    /// [`StoreError`].
    fn group_body(&self, app: &str, id: &str) -> Result<Option<String>, StoreError>;

    /// Stores a group, in place of the one there may be.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_group(&mut self, app: &str, id: &str, body: &str) -> Result<(), StoreError>;

    /// Deletes a group. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn remove_group(&mut self, app: &str, id: &str) -> Result<bool, StoreError>;

    /// Lists bans, then blocks: of one app or all, of one user (on either side) or all.
    ///
    /// # Errors
    /// [`StoreError`].
    fn blocked(&self, app: Option<&str>, user: Option<&str>) -> Result<Vec<Blocked>, StoreError>;

    /// Has `by` block `user`, or ends that. Returns whether it changed something.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_block(
        &mut self,
        app: &str,
        by: &str,
        user: &str,
        change: BlockChange,
    ) -> Result<bool, StoreError>;

    /// Bans a user from an app, or ends that. Returns whether it changed something.
    ///
    /// # Errors
    /// [`StoreError`].
    fn set_ban(
        &mut self,
        app: &str,
        user: &str,
        change: BanChange,
        now: UnixMillis,
    ) -> Result<bool, StoreError>;
}

/// The operator's view of the outbox.
pub trait WebhookQueue {
    /// Lists the selected deliveries, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn webhooks(&self, selection: &Selection) -> Result<Vec<WebhookRow>, StoreError>;

    /// Makes the selected deliveries due now, with as much time before them as new ones have.
    /// Returns how many there are.
    ///
    /// # Errors
    /// [`StoreError`].
    fn retry_webhooks(
        &mut self,
        selection: &Selection,
        now: UnixMillis,
    ) -> Result<usize, StoreError>;

    /// Deletes the selected deliveries. Returns how many there were.
    ///
    /// # Errors
    /// [`StoreError`].
    fn drop_webhooks(&mut self, selection: &Selection) -> Result<usize, StoreError>;
}

/// What an operator does about a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BanChange {
    /// The user may not write to the app.
    Ban,
    /// The user may write again.
    Unban,
}

/// How much a store holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Messages, each counted once.
    pub messages: i64,
    /// Copies of messages in timelines.
    pub copies: i64,
    /// Rows in the users' lists of conversations.
    pub conversations: i64,
    /// Users and groups that have a timeline.
    pub inboxes: i64,
    /// Stored groups.
    pub groups: i64,
    /// Pairs of users of whom one blocks the other.
    pub blocks: i64,
    /// Users who are banned.
    pub bans: i64,
    /// Clients that are connected.
    pub clients: i64,
    /// When the oldest message was stored, in milliseconds since 1970.
    pub oldest: Option<i64>,
    /// When the newest message was stored, in milliseconds since 1970.
    pub newest: Option<i64>,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes of the file and its write-ahead log.
    pub file_bytes: u64,
}

/// A stored group in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredGroup {
    /// The app.
    pub app: String,
    /// The group's identifier.
    pub id: String,
    /// Number of members.
    pub members: usize,
}

/// A block or a ban in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The app.
    pub app: String,
    /// Who blocks the user; `None` for a ban.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who is blocked or banned.
    pub user: String,
}

/// The deliveries an operator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those with these ids.
    Ids(Vec<String>),
    /// All that were given up.
    GivenUp,
    /// All.
    All,
}

/// A delivery in the list of `webhook list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WebhookRow {
    /// The delivery's id.
    pub id: String,
    /// The endpoint's URL, without user, password and query.
    pub endpoint: String,
    /// The type of the event.
    pub event_type: String,
    /// When the event was queued, in milliseconds since 1970.
    pub created_at: i64,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is tried next at the earliest, in milliseconds since 1970; `None` if it was given
    /// up.
    pub due: Option<i64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Bytes of its body, give or take a few.
    pub bytes: i64,
}
