//! The connection to SQLite, and the form of a statement.
//!
//! The connection itself is private here, and takes nothing but a [`Statement`] or the name of a
//! pragma. Statements are made by [`statements!`], which lists them for the test of query plans: so
//! that test sees every statement of the store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rusqlite::types::FromSql;
use rusqlite::{CachedStatement, OpenFlags, OptionalExtension, Params, Result, Row};

use crate::store::reader::GiveUp;

/// How long the observer waits for another process that is writing, a command for example.
const BUSY: Duration = Duration::from_secs(1);
/// How long a command waits: longer, so that it is the command that waits for the observer.
const SHARED_BUSY: Duration = Duration::from_secs(5);
/// Pages in the write-ahead log (64 MiB) beyond which a commit moves them into the database.
/// Messages wait for that, so it happens only where upkeep does not keep up.
const WAL_PAGES: u32 = 16_000;
/// Statements that stay prepared: more than the store has for messages.
const PREPARED: usize = 64;
/// Steps of SQLite's virtual machine after which a read looks whether it is given up: less than a
/// tenth of a millisecond.
const STEPS: i32 = 1_000;

/// A statement of SQL.
#[derive(Debug)]
pub(super) struct Statement {
    /// Its name in the source.
    #[cfg(test)]
    pub(super) name: &'static str,
    /// Its text.
    pub(super) sql: &'static str,
    /// Why it may scan a table; empty if it must not.
    #[cfg(test)]
    pub(super) may_scan: &'static [&'static str],
}

/// Declares the statements of a file: `NAME = "SQL";`, or `NAME may scan "reason" = "SQL";`.
macro_rules! statements {
    ($($name:ident $(may scan $reason:literal)? = $sql:expr;)+) => {
        $(
            const $name: $crate::store::sqlite::connection::Statement =
                $crate::store::sqlite::connection::Statement {
                    #[cfg(test)]
                    name: stringify!($name),
                    sql: $sql,
                    #[cfg(test)]
                    may_scan: &[$($reason)?],
                };
        )+

        /// The statements of this file.
        #[cfg(test)]
        pub(in crate::store::sqlite) const STATEMENTS:
            &[$crate::store::sqlite::connection::Statement] = &[$($name),+];
    };
}
pub(super) use statements;

/// A connection to the database.
#[derive(Debug)]
pub(super) struct Connection {
    sqlite: rusqlite::Connection,
    /// Whether the read that is going on is to end. For connections that only read.
    is_given_up: Arc<AtomicBool>,
}

impl Connection {
    /// Opens the file for an observer.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Self::configured(rusqlite::Connection::open_with_flags(path, flags)?)
    }

    /// Opens the file for a command, beside an observer.
    pub(super) fn open_shared(path: &Path) -> Result<Self> {
        let connection = Self::open(path)?;
        connection.sqlite.busy_timeout(SHARED_BUSY)?;
        Ok(connection)
    }

    /// Opens the file to read only.
    pub(super) fn open_read_only(path: &Path) -> Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut connection = rusqlite::Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        let is_given_up = Arc::new(AtomicBool::new(false));
        let asked = is_given_up.clone();
        let is_to_end = move || asked.load(Ordering::Relaxed);
        connection.progress_handler(STEPS, Some(is_to_end))?;
        Ok(Self {
            sqlite: connection,
            is_given_up,
        })
    }

    /// Opens a database in memory.
    pub(super) fn in_memory() -> Result<Self> {
        Self::configured(rusqlite::Connection::open_in_memory()?)
    }

    fn configured(connection: rusqlite::Connection) -> Result<Self> {
        connection.busy_timeout(BUSY)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        // A commit is on the disk when it returns: a message that is acknowledged to the broker
        // survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
        connection.pragma_update(None, "foreign_keys", "ON")?;
        Ok(Self {
            sqlite: connection,
            is_given_up: Arc::default(),
        })
    }

    /// A read begins. What is returned ends it.
    pub(super) fn begin_read(&self) -> GiveUp {
        self.is_given_up.store(false, Ordering::Relaxed);
        let is_given_up = self.is_given_up.clone();
        Box::new(move || is_given_up.store(true, Ordering::Relaxed))
    }

    /// The file of the database; `None` in memory.
    pub(super) fn path(&self) -> Option<&Path> {
        let path = self.sqlite.path().filter(|path| !path.is_empty());
        path.map(Path::new)
    }

    /// Prepares a statement, or takes it from the cache.
    pub(super) fn prepare(&self, statement: &Statement) -> Result<CachedStatement<'_>> {
        self.sqlite.prepare_cached(statement.sql)
    }

    /// Runs a statement that returns no row. Returns the number of rows it changed.
    pub(super) fn execute(&self, statement: &Statement, params: impl Params) -> Result<usize> {
        self.prepare(statement)?.execute(params)
    }

    /// Inserts a row. Returns its number.
    pub(super) fn insert(&self, statement: &Statement, params: impl Params) -> Result<i64> {
        self.prepare(statement)?.insert(params)
    }

    /// Whether a query returns a row.
    pub(super) fn exists(&self, statement: &Statement, params: impl Params) -> Result<bool> {
        self.prepare(statement)?.exists(params)
    }

    /// The one row of a query.
    pub(super) fn row<T>(
        &self,
        statement: &Statement,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.prepare(statement)?.query_row(params, read)
    }

    /// The first row of a query, if there is one.
    pub(super) fn find<T>(
        &self,
        statement: &Statement,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.row(statement, params, read).optional()
    }

    /// All rows of a query.
    pub(super) fn rows<T>(
        &self,
        statement: &Statement,
        params: impl Params,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        self.prepare(statement)?.query_map(params, read)?.collect()
    }

    /// Begins a transaction that writes: it holds the lock from here on.
    pub(super) fn begin(&self) -> Result<()> {
        self.sqlite.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(())
    }

    pub(super) fn commit(&self) -> Result<()> {
        self.sqlite.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    /// Ends a transaction, if one is open: after some errors SQLite has ended it already.
    pub(super) fn rollback(&self) {
        let _ = self.sqlite.execute_batch("ROLLBACK");
    }

    /// Runs a migration.
    pub(super) fn migrate(&self, script: &'static str) -> Result<()> {
        self.sqlite.execute_batch(script)
    }

    /// Rows changed on this connection since it was opened.
    pub(super) fn changes(&self) -> u64 {
        self.sqlite.total_changes()
    }

    /// The value of a pragma, which may have an argument: `name(3)`.
    pub(super) fn pragma<T: FromSql>(&self, name: &'static str) -> Result<T> {
        self.sqlite
            .prepare_cached(&format!("PRAGMA {name}"))?
            .query_row([], |row| row.get(0))
    }

    /// The values of a pragma that returns a row for each.
    pub(super) fn pragma_rows<T: FromSql>(&self, name: &'static str) -> Result<Vec<T>> {
        self.sqlite
            .prepare(&format!("PRAGMA {name}"))?
            .query_map([], |row| row.get(0))?
            .collect()
    }

    /// Sets a pragma.
    pub(super) fn set_pragma(&self, name: &'static str, value: impl rusqlite::ToSql) -> Result<()> {
        self.sqlite.pragma_update(None, name, value)
    }

    /// Copies the database into an empty file, as it is at one moment.
    pub(super) fn copy_into(&self, file: &Path) -> Result<()> {
        // Not UTF-8: SQLite takes paths as texts.
        let file = file
            .to_str()
            .ok_or(rusqlite::Error::InvalidPath(file.to_owned()))?;
        self.sqlite.execute("VACUUM INTO ?", [file]).map(drop)
    }

    /// Gives free pages back to the file system, at most so many.
    pub(super) fn give_back_pages(&self, most: u32) -> Result<()> {
        let mut statement = self
            .sqlite
            .prepare_cached(&format!("PRAGMA incremental_vacuum({most})"))?;
        // SQLite gives back a page for each row that is asked for.
        let mut pages = statement.query([])?;
        while pages.next()?.is_some() {}
        Ok(())
    }

    /// Brings the planner's statistics up to date where that is due.
    ///
    /// No statement here needs them: the test of query plans holds with and without. They keep
    /// the planner from judging by the state of a store that has grown since.
    pub(super) fn optimize(&self) -> Result<()> {
        // SQLite's advice for connections that live long. 0x10000 looks at all tables, not only at
        // those that this connection has queried; 0x02 runs ANALYZE where it is due; 0x10 limits
        // the rows that ANALYZE reads, so that it takes milliseconds however large the store is.
        self.sqlite.execute_batch("PRAGMA optimize = 0x10012")
    }

    /// For what only tests need.
    #[cfg(test)]
    pub(super) fn raw(&self) -> &rusqlite::Connection {
        &self.sqlite
    }
}
