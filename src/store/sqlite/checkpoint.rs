//! Upkeep of the database, on a connection and thread of its own.

use super::connection::Connection;
use crate::store::{StoreError, Upkeep};

/// Runs between two updates of the planner's statistics: about 250,000 writes.
pub(super) const RUNS_PER_OPTIMIZE: u32 = 256;

/// Moves committed pages from the write-ahead log into the database. That takes milliseconds, for
/// which no message should wait.
#[derive(Debug)]
pub(super) struct Checkpointer {
    connection: Connection,
    runs: u32,
}

impl Checkpointer {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection,
            runs: 0,
        }
    }
}

impl Upkeep for Checkpointer {
    fn run(&mut self) -> Result<(), StoreError> {
        let _busy: i64 = self.connection.pragma("wal_checkpoint(PASSIVE)")?;
        self.runs += 1;
        if self.runs.is_multiple_of(RUNS_PER_OPTIMIZE) {
            // The connection that writes reads the statistics when it is opened next; the
            // observer's start has the less to do then. Commands read them at once.
            self.connection.optimize()?;
        }
        Ok(())
    }
}
