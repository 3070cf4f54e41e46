//! Owns the store in SQLite: one connection that writes, in a file or in memory. The only folder
//! that names SQLite.
//! Leaves the interface to `store`; reads no clock: times come in as arguments.

mod accounts;
mod checkpoint;
mod connection;
mod conversations;
mod delivery_log;
mod encoding;
mod facts;
mod file;
mod group_cache;
mod history;
mod import;
mod inspect;
mod outbox;
mod presence;
mod reader;
mod recent;
mod retention;
mod schema;
mod transfer;
mod upgrade;
mod webhook_queue;
mod write;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::accounts::Accounts;
use self::checkpoint::Checkpointer;
use self::connection::{Connection, statements};
use self::conversations::States;
pub(super) use self::file::{exists, is_empty, is_locked};
use self::group_cache::GroupCache;
use self::retention::Sweep;
use super::columns::{millis, status, unix};
use super::transfer::Transfer;
use super::{
    Access, Committed, Endpoints, OfflineDelivery, Origin, Probe, Pruned, Retention, Store,
    StoreError, StoreLocation, Upkeep, Written,
};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::write::Write;

statements! {
    NEWEST may scan "stops at the first row" =
        "SELECT seq, stored_at FROM message_data ORDER BY seq DESC LIMIT 1";
    ACKNOWLEDGED = "SELECT value FROM state WHERE name = 'acknowledged'";
    SET_ACKNOWLEDGED = "UPDATE state SET value = ? WHERE name = 'acknowledged'";
    PROBE_WRITE = "INSERT INTO state VALUES ('probed', '1')
        ON CONFLICT DO UPDATE SET value = 1 - value";
}

/// A store in SQLite.
#[derive(Debug)]
pub(super) struct SqliteStore {
    connection: Connection,
    cache: Cache,
    /// When the newest message was stored: times never fall.
    newest: UnixMillis,
    /// The position of the newest message, or one before it.
    position: i64,
    offline: OfflineDelivery,
    endpoints: Endpoints,
    /// Rows changed on this connection until the last commit.
    changes: u64,
    progress: Progress,
    sweep: Sweep,
    /// Held as long as the observer runs.
    lock: Option<File>,
}

/// What is remembered of the database. Another process may make it untrue.
#[derive(Debug)]
struct Cache {
    accounts: Accounts,
    conversations: States,
    groups: GroupCache,
    /// Whether anybody is banned; `None` if that is not known.
    any_ban: Option<bool>,
    /// Whether anybody blocks anybody; `None` if that is not known.
    any_block: Option<bool>,
    /// Whether there is any group; `None` if that is not known.
    any_group: Option<bool>,
    /// Whether the delivery log holds any fan-out; `None` if that is not known.
    any_fan_out: Option<bool>,
    /// The message written last: its copies come next.
    last_written: Option<LastWritten>,
    /// `PRAGMA data_version` when all this was read: it changes when another process has written.
    data_version: i64,
}

#[derive(Debug)]
struct LastWritten {
    message_id: Box<str>,
    seq: i64,
}

impl Cache {
    fn empty(data_version: i64) -> Self {
        Self {
            accounts: Accounts::default(),
            conversations: States::default(),
            groups: GroupCache::default(),
            any_ban: None,
            any_block: None,
            any_group: None,
            any_fan_out: None,
            last_written: None,
            data_version,
        }
    }

    fn forget(&mut self) {
        *self = Self::empty(self.data_version);
    }
}

/// How far the messages in the store got.
#[derive(Debug, Default)]
struct Progress {
    /// The last message that is acknowledged to the broker.
    acknowledged: Option<MessageId>,
    /// The same, written in the transaction that is open.
    acknowledging: Option<MessageId>,
}

impl Drop for SqliteStore {
    /// Whoever copies the file after a stop has everything in it: what has been written lately
    /// stands in the log beside it until then.
    fn drop(&mut self) {
        if self.lock.is_some() {
            // The upkeep, or a reader, may be in the way. The end waits for half a second at most.
            let _ = self.connection.set_pragma("busy_timeout", 0);
            for _ in 0..10 {
                let is_busy: rusqlite::Result<i64> =
                    self.connection.pragma("wal_checkpoint(TRUNCATE)");
                if !matches!(is_busy, Ok(1..)) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

impl SqliteStore {
    pub(super) fn open(
        location: &StoreLocation,
        access: Access,
        offline: OfflineDelivery,
    ) -> Result<Self, StoreError> {
        let store = Self::open_whole(location, access, offline)?;
        match Transfer::progress(&store)? {
            Some(_) => Err(StoreError::Unfinished(location.to_string().into())),
            None => Ok(store),
        }
    }

    /// Opens a store that may be a copy which is not finished.
    pub(super) fn open_whole(
        location: &StoreLocation,
        access: Access,
        offline: OfflineDelivery,
    ) -> Result<Self, StoreError> {
        let path = match location {
            StoreLocation::File(path) => path.clone(),
            StoreLocation::Memory => PathBuf::from(":memory:"),
            StoreLocation::Postgres(_) => {
                return Err(StoreError::Foreign(location.to_string().into()));
            }
        };
        let open = |source: rusqlite::Error| StoreError::Open {
            path: path.clone(),
            source: source.into(),
        };
        let mut lock = None;
        let connection = match (location, access) {
            (StoreLocation::Memory | StoreLocation::Postgres(_), _) => {
                Connection::in_memory().map_err(open)?
            }
            (StoreLocation::File(_), Access::Exclusive) => {
                file::make_directory(&path)?;
                file::make_private(&path)?;
                file::warn_if_readable(&path);
                lock = Some(file::lock(&path)?);
                Connection::open(&path).map_err(open)?
            }
            (StoreLocation::File(_), Access::Shared) if !file::exists(&path)? => {
                return Err(StoreError::Missing(path));
            }
            (StoreLocation::File(_), Access::Shared) => {
                Connection::open_shared(&path).map_err(|error| file::cannot_open(&path, error))?
            }
        };
        schema::migrate(&connection, &path, access)?;
        if access == Access::Exclusive {
            // Only speed depends on it, and whatever hinders it hinders the first batch, too.
            let _ = connection.optimize();
        }
        Self::new(connection, offline, lock)
    }

    /// Copies the database as it is now into a new file.
    pub(super) fn back_up(&self, file: &Path) -> Result<(), StoreError> {
        file::make_whole(file, |file| Ok(self.connection.copy_into(file)?))
    }

    /// Does something in a transaction of its own: all of it, or nothing.
    pub(super) fn in_transaction<T>(
        &mut self,
        act: impl FnOnce(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.begin()?;
        let done = act(self).and_then(|done| {
            self.commit()?;
            Ok(done)
        });
        if done.is_err() {
            self.rollback();
        }
        done
    }

    /// Opens a connection that only reads, beside the observer that has the store.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let open = |source: rusqlite::Error| StoreError::Open {
            path: path.to_owned(),
            source: source.into(),
        };
        let connection = Connection::open_read_only(path).map_err(open)?;
        Self::new(connection, OfflineDelivery::Broker, None)
    }

    fn new(
        connection: Connection,
        offline: OfflineDelivery,
        lock: Option<File>,
    ) -> Result<Self, StoreError> {
        let newest = connection.find(&NEWEST, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (position, newest) = newest.unwrap_or((0, 0));
        let acknowledged: String = connection.row(&ACKNOWLEDGED, [], |row| row.get(0))?;
        Ok(Self {
            connection,
            // No version is negative: the first transaction finds the cache out of date.
            cache: Cache::empty(-1),
            newest: unix(newest),
            position,
            offline,
            endpoints: Endpoints::default(),
            changes: 0,
            progress: Progress {
                acknowledged: MessageId::parse(&acknowledged),
                ..Progress::default()
            },
            sweep: Sweep::default(),
            lock,
        })
    }
}

impl Store for SqliteStore {
    fn begin(&mut self) -> Result<(), StoreError> {
        self.connection.begin()?;
        let version = self.connection.pragma("data_version")?;
        if version != self.cache.data_version {
            self.cache = Cache::empty(version);
        }
        Ok(())
    }

    fn apply(&mut self, write: &Write<'_>, origin: &Origin) -> Result<Written, StoreError> {
        self.write(write, origin)
    }

    fn acknowledge(&mut self, id: MessageId) -> Result<(), StoreError> {
        if self.progress.acknowledged.max(self.progress.acknowledging) < Some(id) {
            self.connection
                .execute(&SET_ACKNOWLEDGED, [id.to_string()])?;
            self.progress.acknowledging = Some(id);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<Committed, StoreError> {
        self.connection.commit()?;
        let progress = &mut self.progress;
        progress.acknowledged = progress.acknowledged.max(progress.acknowledging.take());
        let changes = self.connection.changes();
        let before = std::mem::replace(&mut self.changes, changes);
        Ok(if changes == before {
            Committed::Unchanged
        } else {
            Committed::Changed
        })
    }

    fn rollback(&mut self) {
        self.connection.rollback();
        self.progress.acknowledging = None;
        self.cache.forget();
    }

    fn probe(&mut self, probe: Probe) -> Result<(), StoreError> {
        // What it writes need not survive a power cut, so the disk is not waited for.
        self.connection.set_pragma("synchronous", "NORMAL")?;
        let written = self.begin().and_then(|()| {
            if probe == Probe::Write {
                self.connection.execute(&PROBE_WRITE, [])?;
            }
            self.commit().map(drop)
        });
        // SQLite keeps the setting while a transaction is open.
        if written.is_err() {
            self.connection.rollback();
        }
        self.connection.set_pragma("synchronous", "FULL")?;
        written
    }

    fn prune_step(&mut self, limits: &Retention, now: UnixMillis) -> Result<Pruned, StoreError> {
        self.take_prune_step(limits, now)
    }

    fn upkeep(&self) -> Result<Option<Box<dyn Upkeep>>, StoreError> {
        match self.connection.path() {
            Some(path) => {
                let connection = Connection::open(path)?;
                Ok(Some(Box::new(Checkpointer::new(connection))))
            }
            None => Ok(None),
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        let code = error.sqlite_error_code();
        let is_transient = code.is_some_and(|code| {
            matches!(
                code,
                ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::OutOfMemory
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::PermissionDenied
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::OperationAborted
                    | ErrorCode::SchemaChanged
            )
        });
        use rusqlite::Error;
        let is_of_row = matches!(
            error,
            Error::FromSqlConversionFailure(..)
                | Error::IntegralValueOutOfRange(..)
                | Error::InvalidColumnType(..)
                | Error::Utf8Error(..)
        );
        if is_of_row {
            Self::Row(error.into())
        } else if is_transient {
            Self::Transient(error.into())
        } else {
            Self::Permanent(error.into())
        }
    }
}

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
mod query_plans;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_tests;
