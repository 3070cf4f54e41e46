//! Owns the store in PostgreSQL, or what speaks its protocol: one connection that writes. The only
//! folder that names it.
//!
//! Writes of a batch are kept in memory until its commit, and go out together ([`batch`]); whatever
//! is read in between is preceded by them. What most requests ask is looked up together when the
//! batch begins ([`prefetch`]). So a batch costs two ways to the database and back.
//!
//! The SQL is what the databases of this family have in common: no advisory locks, no LISTEN, no
//! sequences, no triggers. Leaves the interface to `store`.

mod batch;
mod candidate;
mod connection;
mod delivery_log;
mod facts;
mod history;
mod import;
mod inspect;
mod lease;
mod outbox;
mod prefetch;
mod reader;
mod retention;
mod schema;
mod slot;
mod target;
mod tls;
mod transfer;
mod webhook_queue;
mod write;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row;

use self::batch::Batch;
pub use self::candidate::{Candidate, Shared, Taken, count_standbys};
use self::connection::{Connection, Param, params};
pub use self::lease::{Came, Lease};
pub use self::slot::{MAX_SLOTS, Slot};
pub use self::target::{SharedBy, Target, TargetError};
use super::columns::{millis, status, unix};
use super::transfer::Transfer;
use super::{
    Access, Committed, Endpoints, OfflineDelivery, Origin, Probe, Pruned, Retention, Store,
    StoreError, Upkeep, Written,
};
use crate::protocol::address::Address;
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::write::Write;

/// The pause before a database is tried again that has not said whether it has committed.
const PAUSE: Duration = Duration::from_millis(200);

/// Attempts of a command that another transaction may be in the way of.
const CONFLICTS: u32 = 10;
const CONFLICT_PAUSE: Duration = Duration::from_millis(20);

const STATE: &str = "SELECT batch, last_seq, last_event, acknowledged FROM observer WHERE n = $1";
const NEWEST: &str = "SELECT stored_at FROM message ORDER BY seq DESC LIMIT 1";
// It waits for a transaction of ours whose answer was lost, and that has not ended.
const BATCH: &str = "UPDATE observer SET batch = batch WHERE n = $1 RETURNING token, batch";
// Divides by zero if somebody else has the lease: the transaction ends.
const FENCE: &str = "WITH held AS (UPDATE observer SET batch = $2, last_seq = $3, last_event = $4,
    acknowledged = $5, bytes = bytes + $6 WHERE n = $7 AND token = $1 RETURNING 1)
    SELECT 1 / count(*) FROM held";
const COUNT_BYTES: &str = "UPDATE observer SET bytes = bytes + $1 WHERE n = 0";

/// Makes the store if there is none.
///
/// # Errors
/// [`StoreError`].
pub fn make(target: &Target) -> Result<(), StoreError> {
    schema::migrate(&Connection::open(target)?, Access::Exclusive).map(drop)
}

/// Whether an observer with these settings would be let in. Changes nothing.
///
/// # Errors
/// [`StoreError`], if the store keeps others: the number of slots, how they share the messages, or
/// the name of the observer.
pub(super) fn check_settings(target: &Target) -> Result<(), StoreError> {
    schema::check_settings(&Connection::open(target)?, target)
}

/// A store in PostgreSQL.
#[derive(Debug)]
pub(super) struct PostgresStore {
    connection: Connection,
    /// `None` for a command beside the observer.
    lease: Option<Arc<Lease>>,
    /// Those of the other slots, while the whole store is copied.
    other_leases: Vec<Arc<Lease>>,
    /// Whose numbers it gives. A command gives none.
    slot: Slot,
    batch: RefCell<Batch>,
    counters: Counters,
    /// The counters when the batch began.
    before: Counters,
    /// The messages that were written last, by app and id: their positions. Copies follow.
    recent: RefCell<HashMap<Box<str>, i64>>,
    offline: OfflineDelivery,
    endpoints: Endpoints,
    /// Events that were dropped to make room for others and are not told yet, for each endpoint.
    dropped: RefCell<Vec<u64>>,
    sweep: retention::Sweep,
}

/// What rises with each batch.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    /// The number of the last transaction.
    batch: i64,
    /// The last position of the log that was taken.
    last_seq: i64,
    /// The last number in the outbox that was given.
    last_event: i64,
    /// When the newest message was stored: times never fall.
    newest: UnixMillis,
    /// The last message that is acknowledged to the broker.
    acknowledged: Option<MessageId>,
}

/// Messages remembered with their positions.
const MAX_RECENT: usize = 10_000;

impl PostgresStore {
    /// Opens the store. An observer's is made if it does not exist, and needs the lease.
    pub(super) fn open(
        target: &Target,
        access: Access,
        offline: OfflineDelivery,
    ) -> Result<Self, StoreError> {
        let store = Self::open_whole(target, access, offline)?;
        match Transfer::progress(&store)? {
            Some(_) => Err(StoreError::Unfinished(target.path())),
            None => Ok(store),
        }
    }

    /// The same of a store that may be a copy which is not finished.
    fn open_whole(
        target: &Target,
        access: Access,
        offline: OfflineDelivery,
    ) -> Result<Self, StoreError> {
        let lease = match (access, &target.held) {
            (Access::Shared, _) => None,
            (Access::Exclusive, Some(held)) => Some(held.clone()),
            (Access::Exclusive, None) => match Candidate::open(target)?.try_take()? {
                Taken::Ours { lease, .. } => Some(lease),
                Taken::Theirs { holder } => {
                    let place = target.path();
                    return Err(StoreError::Held { place, holder });
                }
            },
        };
        let connection = Connection::open(target)?;
        if access == Access::Shared {
            schema::migrate(&connection, access)?;
        }
        Self::new(connection, lease, offline)
    }

    /// Opens a connection that only reads, beside the observer that has the store.
    pub(super) fn open_read_only(target: &Target) -> Result<Self, StoreError> {
        let connection = Connection::open(target)?;
        Self::new(connection, None, OfflineDelivery::Broker)
    }

    fn new(
        connection: Connection,
        lease: Option<Arc<Lease>>,
        offline: OfflineDelivery,
    ) -> Result<Self, StoreError> {
        let slot = lease.as_ref().map_or(Slot::ONLY, |lease| lease.slot());
        let rows = connection.query(STATE, params![slot.row()])?;
        let row = rows.first().ok_or_else(|| {
            StoreError::Permanent("the table observer has no row: somebody has edited it".into())
        })?;
        let last_seq = row.get(1);
        let newest = match slot.is_one_of_several() {
            // Others have stored newer ones.
            true => Slot::time_of(last_seq),
            false => {
                let newest = connection.query(NEWEST, vec![])?;
                unix(newest.first().map_or(0, |row| row.get(0)))
            }
        };
        let counters = Counters {
            batch: row.get(0),
            last_seq,
            last_event: row.get(2),
            newest,
            acknowledged: MessageId::parse(row.get(3)),
        };
        Ok(Self {
            connection,
            lease,
            slot,
            other_leases: vec![],
            batch: RefCell::default(),
            counters,
            before: counters,
            recent: RefCell::default(),
            offline,
            endpoints: Endpoints::default(),
            dropped: RefCell::default(),
            sweep: retention::Sweep::default(),
        })
    }

    /// The rows of a query. What the batch has written before goes out first.
    fn rows<T>(
        &self,
        sql: &'static str,
        params: Vec<Param>,
        read: impl FnMut(&Row) -> T,
    ) -> Result<Vec<T>, StoreError> {
        if self.batch.borrow().is_open() {
            self.flush()?;
        } else {
            self.connection.ensure()?;
        }
        Ok(self
            .connection
            .query(sql, params)?
            .iter()
            .map(read)
            .collect())
    }

    /// The first row of a query, if there is one.
    fn find<T>(
        &self,
        sql: &'static str,
        params: Vec<Param>,
        read: impl FnMut(&Row) -> T,
    ) -> Result<Option<T>, StoreError> {
        Ok(self.rows(sql, params, read)?.into_iter().next())
    }

    /// The one row of a query.
    fn row<T>(
        &self,
        sql: &'static str,
        params: Vec<Param>,
        read: impl FnMut(&Row) -> T,
    ) -> Result<T, StoreError> {
        let row = self.find(sql, params, read)?;
        row.ok_or_else(|| StoreError::Permanent("the database returns no row".into()))
    }

    fn exists(&self, sql: &'static str, params: Vec<Param>) -> Result<bool, StoreError> {
        Ok(self.find(sql, params, |_| ())?.is_some())
    }

    /// Changes something now. Returns the number of rows. For an observer only within a batch.
    fn execute(&self, sql: &'static str, params: Vec<Param>) -> Result<u64, StoreError> {
        if self.batch.borrow().is_open() {
            self.open_transaction()?;
            self.flush()?;
        } else {
            self.connection.ensure()?;
        }
        let changed = self.connection.execute(sql, params)?;
        self.batch.borrow_mut().note_change(changed > 0);
        Ok(changed)
    }

    /// Does something in the batch that is open, or else in one of its own. A command does it again
    /// where the observer, which writes all the time, was in the way: nobody else does that for it.
    fn atomically<T>(
        &mut self,
        mut act: impl FnMut(&mut Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if self.batch.borrow().is_open() {
            return act(self);
        }
        for attempt in 1..CONFLICTS {
            match self.in_batch(&mut act) {
                Err(StoreError::Conflict(_)) if self.lease.is_none() => {
                    std::thread::sleep(attempt * CONFLICT_PAUSE);
                }
                other => return other,
            }
        }
        self.in_batch(&mut act)
    }

    fn in_batch<T>(
        &mut self,
        act: &mut impl FnMut(&mut Self) -> Result<T, StoreError>,
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

    /// The check that we may still write, with what is to be remembered of the batch.
    fn fence(&self, bytes: i64) -> Option<connection::Command> {
        let Some(lease) = &self.lease else {
            let params = params![bytes];
            let sql = COUNT_BYTES;
            return (bytes != 0).then_some(connection::Command { sql, params });
        };
        let counters = &self.counters;
        Some(connection::Command {
            sql: FENCE,
            params: params![
                lease.token(),
                counters.batch,
                counters.last_seq,
                counters.last_event,
                id_text(counters.acknowledged),
                bytes,
                self.slot.row()
            ],
        })
    }

    /// Whether a transaction was committed whose answer was lost. Waits for the database as long as
    /// the lease lasts: without an answer nothing may be written, nor taken for lost.
    fn was_committed(&self, fault: StoreError) -> Result<(), StoreError> {
        let Some(lease) = &self.lease else {
            return Err(fault);
        };
        while lease.is_valid() {
            self.connection.close();
            let asked = self.connection.ensure();
            let asked = asked.and_then(|()| self.connection.query(BATCH, params![self.slot.row()]));
            match asked.as_deref() {
                Ok([row]) if row.get::<_, i64>(0) != lease.token() => break,
                Ok([row]) if row.get::<_, i64>(1) == self.counters.batch => return Ok(()),
                Ok(_) => return Err(fault),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
        Err(StoreError::Fenced)
    }

    fn note_fault(&self, fault: StoreError) -> StoreError {
        // One that has ended for want of an answer is told so already: nobody has refused anything.
        if let (StoreError::Fenced, Some(lease)) = (&fault, &self.lease)
            && lease.is_valid()
        {
            lease.fenced();
        }
        fault
    }
}

impl Store for PostgresStore {
    fn begin(&mut self) -> Result<(), StoreError> {
        // First of all: whoever cannot begin takes back, too, and must not take back what was
        // committed.
        self.before = self.counters;
        self.connection.ensure()?;
        self.batch.borrow_mut().begin();
        self.counters.batch += 1;
        Ok(())
    }

    fn prefetch(
        &mut self,
        addresses: &mut dyn Iterator<Item = Address<'_>>,
    ) -> Result<(), StoreError> {
        self.look_up_together(addresses)
    }

    fn prefetch_copies(&mut self, writes: &[Write<'_>]) -> Result<(), StoreError> {
        self.look_up_conversations(writes)
    }

    fn apply(&mut self, write: &Write<'_>, origin: &Origin) -> Result<Written, StoreError> {
        self.write(write, origin)
    }

    fn acknowledge(&mut self, id: MessageId) -> Result<(), StoreError> {
        if self.counters.acknowledged < Some(id) {
            self.counters.acknowledged = Some(id);
            self.batch.borrow_mut().note_change(true);
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<Committed, StoreError> {
        if !self.batch.borrow().has_work() {
            self.batch.borrow_mut().end();
            self.counters.batch = self.before.batch;
            return Ok(Committed::Unchanged);
        }
        self.queue_events()?;
        let committed = match self.send_commit() {
            // It may have committed, and its answer was lost.
            Err(fault @ StoreError::Transient(_)) => self.was_committed(fault),
            other => other,
        };
        committed.map_err(|fault| self.note_fault(fault))?;
        self.batch.borrow_mut().end();
        Ok(Committed::Changed)
    }

    fn rollback(&mut self) {
        if self.batch.borrow().is_in_transaction() && self.connection.batch("ROLLBACK").is_err() {
            self.connection.close();
        }
        self.batch.borrow_mut().end();
        self.recent.borrow_mut().clear();
        // A number that an attempt has used may have been committed, whatever we were told.
        self.counters = Counters {
            batch: self.counters.batch,
            ..self.before
        };
    }

    fn probe(&mut self, probe: Probe) -> Result<(), StoreError> {
        self.begin()?;
        if probe == Probe::Write {
            self.batch.borrow_mut().note_change(true);
        }
        self.open_transaction()?;
        self.commit().map(drop)
    }

    fn prune_step(&mut self, limits: &Retention, now: UnixMillis) -> Result<Pruned, StoreError> {
        self.take_prune_step(limits, now)
    }

    fn upkeep(&self) -> Result<Option<Box<dyn Upkeep>>, StoreError> {
        Ok(None)
    }
}

/// The text of an id; the empty text, which comes before every id, for none.
fn id_text(id: Option<MessageId>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod slot_tests;
#[cfg(test)]
mod tests;
