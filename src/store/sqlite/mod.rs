//! The store: SQLite, one connection that writes. Its schema is in `store/1.sql`; no SQL stands anywhere else.
//!
//! It is asked for the facts a plan needs and told what to write; many plans share a transaction, so each sees what those before it
//! wrote. What operators do with it from outside is in `store/inspect.rs`, the thread that drives it in `processor.rs`.

mod facts;
mod history;
mod inspect;
mod outbox;
mod presence;
mod retention;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

pub use self::inspect::{Blocked, Found, Stats, StoredGroup};
pub use self::outbox::{
    Delivery, DeliveryResult, Demand, Disposition, OutboxReply, OutboxRequest, Selection, Waiting,
    WebhookRow,
};
pub use self::retention::Retention;
use crate::protocol::address::Timeline;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::group::Group;
use crate::protocol::id::AppId;
use crate::protocol::json::parse_object;
use crate::protocol::message_id::MessageId;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Patched;
use crate::rules::write::{Listing, NewMessage, TimelineCopy, Write};

/// The migrations, in order; never changed once released. The number of those applied is the database's `user_version`.
const MIGRATIONS: [&str; 3] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
];
/// Marks the file as ours (`PRAGMA application_id`): "c21o".
const APPLICATION_ID: i32 = 0x6332_316f;
/// How long to wait for another process that is writing, a command say, before the store counts as locked.
const BUSY: Duration = Duration::from_secs(1);
/// The same for a command: the observer is done sooner.
const SHARED_BUSY: Duration = Duration::from_secs(5);
/// Pages of the write-ahead log from which on whoever commits moves them into the database: 64 MiB.
const WAL_PAGES: u32 = 16_000;
/// Groups remembered, known and unknown ones, and their members in all; beyond that all are forgotten and read anew.
const REMEMBERED_GROUPS: usize = 10_000;
const REMEMBERED_MEMBERS: usize = 1_000_000;
/// Stands for a message id in `absence.redelivered_by` where nothing will be acknowledged.
const REDELIVERED: &str = "done";
/// Bytes of bodies in one page, give or take one message.
const PAGE_BYTES: usize = 2 << 20;
/// Timeline rows looked at for one page: one conversation's messages may stand far apart.
const ROWS_PER_PAGE: usize = 2_000;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: rusqlite::Error,
    },
    /// The file, its directory or its lock cannot be made.
    #[error("cannot make {path}")]
    Make {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// There is no such file.
    #[error("there is no store at {0}")]
    Missing(PathBuf),
    /// Another observer works with it.
    #[error("{0} is used by another observer that runs")]
    InUse(PathBuf),
    /// It is some other program's database.
    #[error("{0} is not a store of chat21-observer")]
    Foreign(PathBuf),
    /// It was made by a later version.
    #[error("{path} has schema {found}, made by a later version: this one knows {} at most", MIGRATIONS.len())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its schema.
        found: i64,
    },
    /// SQLite has failed: the disk is full, say, or the file locked.
    #[error(transparent)]
    Sql(#[from] rusqlite::Error),
}

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// In a file.
    File(PathBuf),
    /// Nowhere: gone with the process.
    Memory,
}

/// How messages are kept.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Where.
    pub place: StoreLocation,
    /// For how long.
    pub retention: Retention,
    /// Whether users get what they missed when they come back.
    pub redeliver: bool,
}

/// The store, opened for writing.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    groups: Groups,
    /// Whether anybody is banned, if that is known.
    bans: Option<bool>,
    /// Changes when another process has written (`PRAGMA data_version`).
    seen_version: i64,
    newest: UnixMillis,
    /// The message written last: its copies come next.
    last_written: Option<(Box<str>, i64)>,
    /// Whether users get what they missed when they come back.
    redeliver: bool,
    outbox: outbox::Outbox,
    /// Rows changed on this connection when it committed last.
    changes: u64,
    acknowledged: Option<MessageId>,
    /// The same, in the transaction that is open.
    acknowledging: Option<MessageId>,
    /// The last message of which all is confirmed, as far as this process knows.
    finished: Option<MessageId>,
    /// How far the sweep of retention has come, in the order of inboxes.
    swept: (String, String),
    /// The first message that was there when the sweep last came round.
    swept_below: i64,
    _lock: Option<File>,
}

/// The groups asked for lately, unknown ones too.
#[derive(Debug, Default)]
struct Groups {
    known: HashMap<Box<str>, Option<Arc<Group>>>,
    members: usize,
}

impl Groups {
    fn key(app: &str, group: &str) -> String {
        // No identifier holds a slash.
        [app, "/", group].concat()
    }

    fn remove(&mut self, key: &str) {
        let group = self.known.remove(key).flatten();
        self.members -= group.map_or(0, |group| group.members.len());
    }

    fn insert(&mut self, key: String, group: Option<Arc<Group>>) {
        let members = group.as_ref().map_or(0, |group| group.members.len());
        if self.known.len() >= REMEMBERED_GROUPS || self.members + members > REMEMBERED_MEMBERS {
            *self = Self::default();
        }
        self.members += members;
        self.known.insert(key.into(), group);
    }
}

/// Moves what is committed from the write-ahead log into the database, beside the one who writes: it takes milliseconds, for which
/// no message is to wait.
#[derive(Debug)]
pub struct Checkpointer(Connection);

impl Checkpointer {
    /// Writes after which it is worth while: about as many pages as SQLite itself would wait for.
    pub const DUE: usize = 1_000;

    /// Moves what can be moved without waiting for anybody.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn run(&self) -> Result<(), StoreError> {
        Ok(self
            .0
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))?)
    }
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It says something new, as far as that can be told.
    New,
    /// It is a copy that was there already.
    Known,
}

/// What the writes of one plan have in common.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The id that the message that came in was given.
    pub id: MessageId,
    /// What a redelivery of it is known by, if there can be one.
    pub fingerprint: Option<u64>,
    /// Whether it has come before.
    pub repeated: bool,
    /// The time.
    pub now: UnixMillis,
}

fn unix(millis: i64) -> UnixMillis {
    UnixMillis::new(u64::try_from(millis).unwrap_or(0))
}

fn millis(time: UnixMillis) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// SQLite's integers are signed; the bits are what counts.
fn bits(fingerprint: u64) -> i64 {
    i64::from_ne_bytes(fingerprint.to_ne_bytes())
}

fn status(code: i64) -> Status {
    Status::from_code(code).unwrap_or(Status::Delivered)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    // A commit is on the disk when it returns: what is acknowledged to the broker survives a power cut, too.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Only if the checkpointer does not keep up: it takes milliseconds, and messages would wait for it.
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "foreign_keys", "ON")
}

impl Store {
    /// Opens the store for the observer that runs, and makes it if it is not there. `redeliver`: whether users get what they missed
    /// when they come back.
    ///
    /// # Errors
    /// [`StoreError`], if that is not possible, or another observer has it.
    pub fn open(place: &StoreLocation, redeliver: bool) -> Result<Self, StoreError> {
        let lock = match place {
            StoreLocation::File(path) => {
                if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                    std::fs::create_dir_all(dir).map_err(|error| StoreError::Make {
                        path: dir.to_owned(),
                        error,
                    })?;
                }
                Some(lock(path)?)
            }
            StoreLocation::Memory => None,
        };
        let mut store = Self::connect(place, redeliver)?;
        store._lock = lock;
        Ok(store)
    }

    /// The same beside an observer that runs: for commands.
    ///
    /// # Errors
    /// [`StoreError`], if that is not possible.
    pub fn open_shared(path: &Path) -> Result<Self, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing(path.to_owned()));
        }
        let store = Self::connect(&StoreLocation::File(path.to_owned()), false)?;
        store.connection.busy_timeout(SHARED_BUSY)?;
        Ok(store)
    }

    fn connect(place: &StoreLocation, redeliver: bool) -> Result<Self, StoreError> {
        let path = match place {
            StoreLocation::File(path) => path.clone(),
            StoreLocation::Memory => PathBuf::from(":memory:"),
        };
        let open = |error| StoreError::Open {
            path: path.clone(),
            error,
        };
        let mut connection = match place {
            StoreLocation::File(path) => {
                make_private(path)?;
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                Connection::open_with_flags(path, flags).map_err(open)?
            }
            StoreLocation::Memory => Connection::open_in_memory().map_err(open)?,
        };
        configure(&connection).map_err(open)?;
        migrate(&mut connection, &path)?;
        let newest = connection
            .query_row(
                "SELECT stored_at FROM message ORDER BY seq DESC LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()?
            .unwrap_or(0);
        let acknowledged: String = connection.query_row(
            "SELECT value FROM state WHERE name = 'acknowledged'",
            [],
            |row| row.get(0),
        )?;
        Ok(Self {
            connection,
            groups: Groups::default(),
            bans: None,
            seen_version: -1,
            newest: unix(newest),
            last_written: None,
            redeliver,
            outbox: outbox::Outbox::default(),
            changes: 0,
            acknowledged: MessageId::parse(&acknowledged),
            acknowledging: None,
            finished: None,
            swept: Default::default(),
            swept_below: 0,
            _lock: None,
        })
    }

    /// The checkpointer of this store; none for one in memory.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn checkpointer(&self) -> Result<Option<Checkpointer>, StoreError> {
        let Some(path) = self.connection.path().filter(|path| !path.is_empty()) else {
            return Ok(None);
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)?;
        configure(&connection)?;
        Ok(Some(Checkpointer(connection)))
    }

    /// The same store, for somebody who wants to know what users would be given again.
    #[must_use]
    pub fn redelivering(mut self, redeliver: bool) -> Self {
        self.redeliver = redeliver;
        self
    }

    /// What an observer on this store has received and may not have acknowledged, in the order it came; what a redelivery is known
    /// by, and the id it was given.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn unacknowledged(&self) -> Result<Vec<(u64, MessageId)>, StoreError> {
        let after = self
            .acknowledged
            .map(|id| id.to_string())
            .unwrap_or_default();
        let mut statement = self.connection.prepare(
            "SELECT fingerprint, message_id FROM message INDEXED BY message_by_id
             WHERE message_id > ? AND fingerprint IS NOT NULL ORDER BY seq",
        )?;
        let rows = statement.query_map([after], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
        })?;
        let mut found = vec![];
        for row in rows {
            let (fingerprint, id) = row?;
            if let Some(id) = MessageId::parse(&id) {
                found.push((u64::from_ne_bytes(fingerprint.to_ne_bytes()), id));
            }
        }
        Ok(found)
    }

    /// The last id that an observer on this store has given, as far as it is known.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn last_id(&self) -> Result<Option<MessageId>, StoreError> {
        // Only ids of ours have a fingerprint; at QoS 0 there is none, so it may be a while ago.
        let found: Option<String> = self
            .connection
            .query_row(
                "SELECT message_id FROM (SELECT message_id, fingerprint FROM message ORDER BY seq DESC LIMIT 1000)
                 WHERE fingerprint IS NOT NULL LIMIT 1",
                [],
                |row| row.get(0),
            )
            .optional()?;
        Ok(found
            .and_then(|id| MessageId::parse(&id))
            .max(self.acknowledged))
    }

    /// The body of a message, if it is stored.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn body(&self, id: MessageId) -> Result<Option<String>, StoreError> {
        Ok(self
            .connection
            .prepare_cached("SELECT body FROM message WHERE message_id = ?")?
            .query_row([id.to_string()], |row| row.get(0))
            .optional()?)
    }

    /// How long to wait for another process that is writing.
    #[cfg(test)]
    pub(crate) fn wait_for_others(&self, limit: Duration) -> Result<(), StoreError> {
        Ok(self.connection.busy_timeout(limit)?)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`StoreError::Sql`]; nothing has begun then.
    pub fn begin(&mut self) -> Result<(), StoreError> {
        self.connection
            .prepare_cached("BEGIN IMMEDIATE")?
            .execute([])?;
        let version = self
            .connection
            .prepare_cached("PRAGMA data_version")?
            .query_row([], |row| row.get(0))?;
        if version != self.seen_version {
            self.forget();
            self.seen_version = version;
        }
        Ok(())
    }

    /// Makes what was written since [`Store::begin`] last. Returns whether anything was.
    ///
    /// # Errors
    /// [`StoreError::Sql`]: it has not become so. [`Store::rollback`] is to follow.
    pub fn commit(&mut self) -> Result<bool, StoreError> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        self.acknowledged = self.acknowledged.max(self.acknowledging.take());
        let changes = self.connection.total_changes();
        Ok(std::mem::replace(&mut self.changes, changes) != changes)
    }

    /// Takes the right to write, and if it `writes`, writes something of no consequence: one page of the log. It need not survive a power
    /// cut, so the disk is not waited for.
    ///
    /// # Errors
    /// [`StoreError::Sql`]: the store takes nothing. [`Store::rollback`] is to follow.
    pub fn probe(&mut self, writes: bool) -> Result<(), StoreError> {
        self.connection
            .pragma_update(None, "synchronous", "NORMAL")?;
        let written = self.begin().and_then(|()| {
            if writes {
                self.connection
                    .prepare_cached(
                        "INSERT INTO state VALUES ('probed', '1') ON CONFLICT DO UPDATE SET value = 1 - value",
                    )?
                    .execute([])?;
            }
            self.commit().map(drop)
        });
        // A transaction that is still open keeps it from being set back.
        if written.is_err() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        self.connection.pragma_update(None, "synchronous", "FULL")?;
        written
    }

    /// Takes back what was written since [`Store::begin`].
    pub fn rollback(&mut self) {
        // Some errors have rolled back already.
        let _ = self.connection.execute_batch("ROLLBACK");
        self.acknowledging = None;
        self.forget();
    }

    /// What is remembered of the database may no longer be so.
    fn forget(&mut self) {
        self.groups = Groups::default();
        self.bans = None;
        self.last_written = None;
    }

    /// Notes which message was acknowledged last.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn acknowledge(&mut self, id: MessageId) -> Result<(), StoreError> {
        if self.acknowledged.max(self.acknowledging) < Some(id) {
            self.connection
                .prepare_cached("UPDATE state SET value = ? WHERE name = 'acknowledged'")?
                .execute([id.to_string()])?;
            self.acknowledging = Some(id);
        }
        Ok(())
    }

    /// Notes up to which message everything is confirmed: what follows sees it, no other process does.
    pub fn note_finished(&mut self, id: Option<MessageId>) {
        self.finished = self.finished.max(id);
    }

    /// Writes something down. Writing the same again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn apply(&mut self, write: &Write<'_>, origin: &Origin) -> Result<Written, StoreError> {
        let written = match write {
            Write::Message(message) => self.write_message(message, origin),
            Write::Copy(copy) => return self.write_copy(copy),
            Write::Raise {
                timeline,
                message_id,
                status,
            } => {
                self.connection
                    .prepare_cached(
                        "UPDATE timeline SET status = ?5 WHERE app = ?1 AND inbox_of = ?2 AND convers_with = ?3 AND status < ?5
                         AND seq IN (SELECT seq FROM message WHERE message_id = ?4 AND app = ?1)",
                    )?
                    .execute(params![
                        timeline.app.as_str(),
                        timeline.inbox_of.as_str(),
                        timeline.convers_with.as_str(),
                        message_id,
                        status.code()
                    ])?;
                Ok(())
            }
            Write::Patch(timeline, patched) => self.write_patch(timeline, patched),
            Write::Archive(timeline) => {
                self.connection
                    .prepare_cached(
                        "INSERT INTO conversation (app, inbox_of, convers_with, seq, is_new, archived, patch_seq)
                         VALUES (?, ?, ?, 0, 0, 1, (SELECT coalesce(max(seq), 0) FROM message))
                         ON CONFLICT DO UPDATE SET archived = 1",
                    )?
                    .execute(names(timeline))?;
                Ok(())
            }
            Write::ClientConnected(client) => self.write_client_connected(client, origin.now),
            Write::ClientGone(client) => self.write_client_gone(client),
            Write::Absence { app, user, absence } => self.write_absence(*app, *user, *absence),
            Write::Redelivered { app, user } => self.write_redelivered(*app, *user),
            Write::Block(timeline, change) => {
                let [app, other, inbox_of] = [
                    timeline.app.as_str(),
                    timeline.convers_with.as_str(),
                    timeline.inbox_of.as_str(),
                ];
                let blocked = *change == BlockChange::Block;
                self.write_block(app, other, inbox_of, blocked).map(drop)
            }
            Write::Group { app, id, body } => self.write_group(app.as_str(), id, body),
        };
        written.map(|()| Written::New)
    }

    fn write_message(
        &mut self,
        message: &NewMessage<'_>,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let own = MessageId::parse(&message.id) == Some(origin.id);
        // A message that is new cannot be there: services inject others' again, and what was not acknowledged comes again.
        if (origin.repeated || !own)
            && let Some(seq) = self.find_message(message, own)?
        {
            self.last_written = Some((message.id.as_ref().into(), seq));
            return Ok(());
        }
        // Never back, and never at a stand for long: pages end where a millisecond does.
        self.newest = if origin.now < self.newest {
            UnixMillis::new(self.newest.as_millis() + 1)
        } else {
            origin.now
        };
        self.connection
            .prepare_cached(
                "INSERT INTO message (message_id, app, sender, recipient, layout, stored_at, fingerprint, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                message.id,
                message.app.as_str(),
                message.sender,
                message.recipient,
                message.layout,
                millis(self.newest),
                origin.fingerprint.filter(|_| own).map(bits),
                message.body.as_str()
            ])?;
        let seq = self.connection.last_insert_rowid();
        self.last_written = Some((message.id.as_ref().into(), seq));
        Ok(())
    }

    /// The place of a message that is stored already: under the same id, and if it is not one of ours with the same members.
    fn find_message(&self, message: &NewMessage<'_>, own: bool) -> Result<Option<i64>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, body FROM message WHERE message_id = ? AND app = ? ORDER BY seq DESC",
        )?;
        let mut rows = statement.query(params![message.id, message.app.as_str()])?;
        while let Some(row) = rows.next()? {
            let body: String = row.get(1)?;
            if own || same_object(&body, message.body.as_str()) {
                return Ok(Some(row.get(0)?));
            }
        }
        Ok(None)
    }

    fn place_of_message(&mut self, app: AppId<'_>, id: &str) -> Result<Option<i64>, StoreError> {
        if let Some((known, seq)) = &self.last_written
            && **known == *id
        {
            return Ok(Some(*seq));
        }
        let found = self
            .connection
            .prepare_cached("SELECT max(seq) FROM message WHERE message_id = ? AND app = ?")?
            .query_row([id, app.as_str()], |row| row.get(0))?;
        if let Some(seq) = found {
            self.last_written = Some((id.into(), seq));
        }
        Ok(found)
    }

    fn write_copy(&mut self, copy: &TimelineCopy<'_>) -> Result<Written, StoreError> {
        let timeline = &copy.timeline;
        // Pruned while its group's copies were still under way: there is nothing to refer to.
        let Some(seq) = self.place_of_message(timeline.app, &copy.message_id)? else {
            return Ok(Written::New);
        };
        let [app, inbox_of, convers_with] = names(timeline);
        let added = self
            .connection
            .prepare_cached(
                "INSERT OR IGNORE INTO timeline (app, inbox_of, seq, convers_with, status) VALUES (?, ?, ?, ?, ?)",
            )?
            .execute(params![app, inbox_of, seq, convers_with, copy.status.code()])?;
        if copy.listing == Listing::Listed {
            // What came again is followed again by what was said of it since, in the same order.
            self.connection
                .prepare_cached(
                    "INSERT INTO conversation (app, inbox_of, convers_with, seq, is_new, archived) VALUES (?, ?, ?, ?, 1, 0)
                     ON CONFLICT DO UPDATE SET seq = excluded.seq, is_new = 1, archived = 0 WHERE excluded.seq >= seq",
                )?
                .execute(params![app, inbox_of, convers_with, seq])?;
        }
        Ok(if added > 0 {
            Written::New
        } else {
            Written::Known
        })
    }

    fn write_patch(&self, timeline: &Timeline<'_>, patched: &Patched) -> Result<(), StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        self.connection
            .prepare_cached(
                "INSERT INTO conversation (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)
                 VALUES (?1, ?2, ?3, 0, coalesce(?4, 0), coalesce(?5, 0), ?6, (SELECT coalesce(max(seq), 0) FROM message))
                 ON CONFLICT DO UPDATE SET is_new = coalesce(?4, is_new), archived = coalesce(?5, archived), patch = ?6,
                 patch_seq = excluded.patch_seq",
            )?
            .execute(params![
                app,
                inbox_of,
                convers_with,
                patched.is_new,
                patched.archived,
                patched.patch
            ])?;
        Ok(())
    }

    fn write_block(
        &self,
        app: &str,
        other: &str,
        inbox_of: &str,
        blocked: bool,
    ) -> Result<usize, StoreError> {
        let text = if blocked {
            "INSERT OR IGNORE INTO block (app, other, inbox_of) VALUES (?, ?, ?)"
        } else {
            "DELETE FROM block WHERE app = ? AND other = ? AND inbox_of = ?"
        };
        let mut statement = self.connection.prepare_cached(text)?;
        Ok(statement.execute([app, other, inbox_of])?)
    }

    fn write_group(&mut self, app: &str, id: &str, body: &str) -> Result<(), StoreError> {
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO chat_group (app, group_id, body) VALUES (?, ?, ?)",
            )?
            .execute([app, id, body])?;
        self.groups.remove(&Groups::key(app, id));
        Ok(())
    }

    /// Bytes of the file that hold something.
    fn used_bytes(&self) -> Result<u64, StoreError> {
        let pages: u32 = self.pragma("page_count")?;
        let free: u32 = self.pragma("freelist_count")?;
        let size: u32 = self.pragma("page_size")?;
        Ok(u64::from(pages - free) * u64::from(size))
    }

    fn pragma(&self, name: &str) -> Result<u32, StoreError> {
        Ok(self
            .connection
            .prepare_cached(&format!("PRAGMA {name}"))?
            .query_row([], |row| row.get(0))?)
    }
}

fn names<'a>(timeline: &Timeline<'a>) -> [&'a str; 3] {
    [
        timeline.app.as_str(),
        timeline.inbox_of.as_str(),
        timeline.convers_with.as_str(),
    ]
}

fn same_object(one: &str, other: &str) -> bool {
    match (parse_object(one.as_bytes()), parse_object(other.as_bytes())) {
        (Ok(one), Ok(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(&other)
                    .all(|((a, x), (b, y))| a == b && x.get() == y.get())
        }
        _ => false,
    }
}

/// Made before SQLite does: messages are nobody else's business.
fn make_private(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    made.map(drop).map_err(|error| StoreError::Make {
        path: path.to_owned(),
        error,
    })
}

/// One observer at a time: two would not know what the other has acknowledged.
fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    make_private(&name)?;
    let make = |error| StoreError::Make {
        path: name.clone(),
        error,
    };
    let file = OpenOptions::new().append(true).open(&name).map_err(make)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(error)) => Err(make(error)),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let number = |connection: &Connection, name: &str| -> rusqlite::Result<i64> {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
    };
    let known = i64::try_from(MIGRATIONS.len()).expect("a small number");
    let found = number(connection, "user_version")?;
    if found > known {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 && number(connection, "application_id")? != i64::from(APPLICATION_ID) {
        return Err(StoreError::Foreign(path.to_owned()));
    }
    if tables == 0 {
        // Before the first table is made: it cannot be changed later.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    }
    connection.pragma_update(None, "journal_mode", "WAL")?;
    if found == known {
        return Ok(());
    }
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    // Another process may have done it meanwhile.
    let found = usize::try_from(number(&transaction, "user_version")?).unwrap_or(0);
    for script in &MIGRATIONS[found.min(MIGRATIONS.len())..] {
        transaction.execute_batch(script)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests;
