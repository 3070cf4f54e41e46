//! How a store is opened, and what it keeps.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::postgres::Target;

pub use crate::rules::facts::OfflineDelivery;

/// Where a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreLocation {
    /// In this file.
    File(PathBuf),
    /// In memory: it is gone with the process.
    Memory,
    /// In a database that several processes share, of whom one serves.
    Postgres(Box<Target>),
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory => f.write_str("in memory"),
            Self::Postgres(target) => target.fmt(f),
        }
    }
}

/// Who else may use the store meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For the observer that runs. No other observer may; commands may.
    Exclusive,
    /// For a command, beside the observer that may be running. The store must exist.
    Shared,
}

/// How messages are stored.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// Where the store is.
    pub location: StoreLocation,
    /// How long messages are kept.
    pub retention: Retention,
    /// What users get who come back after they were away.
    pub offline: OfflineDelivery,
    /// After how long without a word that it is there a client counts as gone; `None`: never.
    pub presence_ttl: Option<Duration>,
    /// About how many bytes may wait in the delivery log alone, before nothing more is accepted.
    pub max_backlog: u64,
}

/// How long messages are kept, and in how much space. The default keeps everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Older messages are deleted.
    pub age: Option<Duration>,
    /// The oldest messages are deleted while the store holds more bytes than this, the outbox
    /// apart.
    pub bytes: Option<u64>,
}
