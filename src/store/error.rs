//! Why a store cannot be used.
//!
//! Speaks in terms of the domain. What the database itself says is the source, of no named type.

use std::io;
use std::path::PathBuf;

/// What the database behind a store says.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be opened.
    #[error("cannot open {path}")]
    Open {
        /// The file of the database.
        path: PathBuf,
        /// What the database says.
        #[source]
        source: Cause,
    },
    /// There is no connection to the database.
    #[error("cannot connect to {target}: {cause}; {remedy}")]
    Connect {
        /// The address of the database.
        target: String,
        /// What the database or the system says. It stands in the text, so it is no source.
        cause: Cause,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A file or directory cannot be made.
    #[error("cannot make {path}")]
    Make {
        /// The file of the database, its directory, or its lock.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// There is no such file.
    #[error("there is no store at {0}")]
    Missing(PathBuf),
    /// Another observer works with it.
    #[error("{0} is used by another observer that runs")]
    InUse(PathBuf),
    /// Another observer, or a command, has the lease on it.
    #[error("{place} is used by {holder}: if that was killed, it is free in a few seconds")]
    Held {
        /// The address of the database.
        place: PathBuf,
        /// What it says of itself.
        holder: String,
    },
    /// The file is empty: it was cut, say, or the observer that made it has not made its tables.
    #[error("{0} is empty: start the observer, which makes a store of it, or restore a back-up")]
    Empty(PathBuf),
    /// It is being filled from another store.
    #[error("{0} is a copy that is not finished: run store copy again, until it is")]
    Unfinished(PathBuf),
    /// The file is the database of some other program.
    #[error("{0} is not a store of chat21-observer")]
    Foreign(PathBuf),
    /// A later version has made or upgraded it.
    #[error("{path} has schema {found}, made by a later version: this one knows {known} at most")]
    Newer {
        /// The file of the database.
        path: PathBuf,
        /// The version of its schema.
        found: i64,
        /// The latest version that this program knows.
        known: i64,
    },
    /// An earlier version has made it, and may be running.
    #[error(
        "{path} has schema {found}, made by an earlier version: start the observer of this version \
         once, which brings it up to {known}"
    )]
    Older {
        /// The file of the database.
        path: PathBuf,
        /// The version of its schema.
        found: i64,
        /// The version that this program needs.
        known: i64,
    },
    /// Another process may serve now: nothing is written.
    #[error("the lease on the store has ended: nothing is written, and another process may serve")]
    Fenced,
    /// Another transaction was in the way: the same works now.
    #[error(transparent)]
    Conflict(Cause),
    /// The same may work later: the disk is full, say, or another process holds the lock.
    #[error(transparent)]
    Transient(Cause),
    /// A row holds what cannot be read: somebody has edited it, say. Others are sound.
    #[error("a row of the store cannot be read: {0}")]
    Row(Cause),
    /// The same fails again: the file is damaged, say, or somebody has edited a row.
    #[error(transparent)]
    Permanent(Cause),
}

/// Why a timeline cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A line cannot be written.
    #[error("cannot write")]
    Output(#[from] io::Error),
}
