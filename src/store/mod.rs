//! Owns what the observer remembers: messages, inboxes, groups, presence, and the outbox.
//! Leaves what becomes of a message to `rules`, and when a batch is committed to `observer`.
//! The interface is here, in terms of the domain; the implementations are in `sqlite`, in the
//! process, and in `postgres`, for more than one machine.
//!
//! An implementation is done when the tests in `store/contract` pass for it: they take a maker of
//! stores.

mod administration;
mod columns;
mod delivery_log;
mod error;
mod import;
mod outbox;
mod paging;
pub mod postgres;
pub mod reader;
mod settings;
mod sqlite;
pub mod thread;
pub mod transfer;

#[cfg(test)]
mod contract;
#[cfg(test)]
pub(crate) use self::sqlite::faults;

use std::fmt::Debug;
use std::path::Path;

pub use self::administration::{
    Administration, BanChange, Blocked, Selection, Stats, StoredGroup, WebhookQueue, WebhookRow,
};
pub use self::delivery_log::{
    DeliveryLog, LogPage, LogSize, LoggedFanOut, LoggedMessage, LoggedPublishes, LoggedQuestion,
    fan_out_bytes,
};
pub use self::error::{Cause, ExportError, StoreError};
pub use self::import::{Imported, Landing};
pub use self::outbox::{
    Delivery, DeliveryResult, Demand, Disposition, Endpoints, FailureScope, Outbox, OutboxReply,
    OutboxRequest, Waiting,
};
use self::postgres::PostgresStore;
use self::reader::Reader;
pub use self::settings::{Access, OfflineDelivery, Retention, StoreLocation, StoreSettings};
use self::sqlite::SqliteStore;
use crate::protocol::address::Address;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::facts::FactSource;
use crate::rules::fan_out::{Found, Query};
use crate::rules::history::{Page, PageQuery};
use crate::rules::listing::{ListedConversation, Slice, Window};
use crate::rules::write::Write;

/// Opens the store of an observer. With [`Access::Exclusive`] it is made if it does not exist.
///
/// # Errors
/// [`StoreError`], if that is not possible, or another observer has it.
pub fn open(
    location: &StoreLocation,
    access: Access,
    offline: OfflineDelivery,
) -> Result<Box<dyn Store>, StoreError> {
    Ok(match location {
        StoreLocation::Postgres(target) => Box::new(PostgresStore::open(target, access, offline)?),
        StoreLocation::File(_) | StoreLocation::Memory => {
            Box::new(SqliteStore::open(location, access, offline)?)
        }
    })
}

/// Opens a store for a command of the operator, beside the observer that may be running.
///
/// # Errors
/// [`StoreError`], if that is not possible.
pub fn administer(location: &StoreLocation) -> Result<Box<dyn Administration>, StoreError> {
    let offline = OfflineDelivery::Broker;
    Ok(match location {
        StoreLocation::Postgres(target) => {
            Box::new(PostgresStore::open(target, Access::Shared, offline)?)
        }
        StoreLocation::File(_) | StoreLocation::Memory => {
            Box::new(SqliteStore::open(location, Access::Shared, offline)?)
        }
    })
}

/// Copies a store in a file into a new file, as it is at one moment, also beside the observer that
/// may be running. Only the owner may read the new file.
///
/// # Errors
/// [`StoreError`]: there is such a file, or it cannot be made; there is no store; or it is not in a
/// file.
pub fn back_up(location: &StoreLocation, file: &Path) -> Result<(), StoreError> {
    match location {
        StoreLocation::File(_) => {
            let offline = OfflineDelivery::Broker;
            SqliteStore::open(location, Access::Shared, offline)?.back_up(file)
        }
        StoreLocation::Postgres(_) | StoreLocation::Memory => Err(StoreError::Permanent(
            format!("{location} is in no file: back up a database with its own tools (pg_dump)")
                .into(),
        )),
    }
}

/// Whether an observer has the store, as far as this machine can tell: of a database it is taken to
/// be so.
pub fn is_served(location: &StoreLocation) -> bool {
    match location {
        StoreLocation::File(path) => sqlite::is_locked(path),
        StoreLocation::Postgres(_) | StoreLocation::Memory => true,
    }
}

/// Makes a store if there is none, for a command that fills it before the observer's first start.
/// Returns whether it has made a file.
///
/// # Errors
/// [`StoreError`], if that is not possible.
pub fn make(location: &StoreLocation) -> Result<bool, StoreError> {
    match location {
        StoreLocation::File(path) if !sqlite::exists(path)? || sqlite::is_empty(path) => {
            SqliteStore::open(location, Access::Exclusive, OfflineDelivery::Broker)?;
            return Ok(true);
        }
        StoreLocation::Postgres(target) => {
            postgres::make(target)?;
        }
        StoreLocation::File(_) | StoreLocation::Memory => {}
    }
    Ok(false)
}

/// Whether an observer with these settings may serve the store, which exists: what several must
/// agree on stays with it. Changes nothing.
///
/// # Errors
/// [`StoreError`], if it may not, or the store cannot be read.
pub fn check_settings(location: &StoreLocation) -> Result<(), StoreError> {
    match location {
        StoreLocation::Postgres(target) => postgres::check_settings(target),
        StoreLocation::File(_) | StoreLocation::Memory => Ok(()),
    }
}

/// Opens a connection that only reads, beside the observer that has the store. The store exists.
///
/// # Errors
/// [`StoreError`], if that is not possible.
pub fn read_only(location: &StoreLocation) -> Result<Box<dyn Reader>, StoreError> {
    Ok(match location {
        StoreLocation::File(path) => Box::new(SqliteStore::open_read_only(path)?),
        StoreLocation::Postgres(target) => Box::new(PostgresStore::open_read_only(target)?),
        StoreLocation::Memory => return Err(StoreError::Missing(":memory:".into())),
    })
}

/// Opens an outbox without a store around it: in memory.
///
/// # Errors
/// [`StoreError`], if that is not possible.
pub fn outbox_in_memory() -> Result<Box<dyn Outbox>, StoreError> {
    let location = StoreLocation::Memory;
    let store = SqliteStore::open(&location, Access::Exclusive, OfflineDelivery::Broker)?;
    Ok(Box::new(store))
}

/// The store of an observer that runs: the one writer of messages.
///
/// A batch of messages is one transaction, from [`Store::begin`] to [`Store::commit`]. Facts and
/// pages include what the same transaction has written before.
pub trait Store:
    FactSource<Error = StoreError> + History + DeliveryLog + Outbox + Administration + Debug + Send
{
    /// Begins a transaction.
    ///
    /// # Errors
    /// [`StoreError`]; no transaction has begun then.
    fn begin(&mut self) -> Result<(), StoreError>;

    /// May look up together what requests at these addresses will ask in this transaction. They are
    /// not read by a store that answers at once.
    ///
    /// # Errors
    /// [`StoreError`].
    fn prefetch(
        &mut self,
        _addresses: &mut dyn Iterator<Item = Address<'_>>,
    ) -> Result<(), StoreError> {
        Ok(())
    }

    /// May look up together what these writes will need, which are applied next.
    ///
    /// # Errors
    /// [`StoreError`].
    fn prefetch_copies(&mut self, _writes: &[Write<'_>]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Applies one write. Applying the same write again changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    fn apply(&mut self, write: &Write<'_>, origin: &Origin) -> Result<Written, StoreError>;

    /// Records that a message and all before it are acknowledged to the broker.
    ///
    /// # Errors
    /// [`StoreError`].
    fn acknowledge(&mut self, id: MessageId) -> Result<(), StoreError>;

    /// Makes durable what was written since [`Store::begin`].
    ///
    /// # Errors
    /// [`StoreError`]: nothing of it is. [`Store::rollback`] must follow.
    fn commit(&mut self) -> Result<Committed, StoreError>;

    /// Takes back what was written since [`Store::begin`].
    fn rollback(&mut self);

    /// Tries whether the store would accept a batch now.
    ///
    /// # Errors
    /// [`StoreError`]: it would not. [`Store::rollback`] must follow.
    fn probe(&mut self, probe: Probe) -> Result<(), StoreError>;

    /// Takes one small step of retention, in a transaction of its own.
    ///
    /// # Errors
    /// [`StoreError`]: nothing is deleted.
    fn prune_step(&mut self, limits: &Retention, now: UnixMillis) -> Result<Pruned, StoreError>;

    /// The upkeep that a thread of its own can do; none for a store in memory.
    ///
    /// # Errors
    /// [`StoreError`].
    fn upkeep(&self) -> Result<Option<Box<dyn Upkeep>>, StoreError>;
}

/// Reads what was stored.
pub trait History {
    /// The next stored messages of a user, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn page(&self, app: AppId<'_>, user: UserId<'_>, query: &PageQuery)
    -> Result<Page, StoreError>;

    /// A part of a user's conversations, by their last messages.
    ///
    /// # Errors
    /// [`StoreError`].
    fn listed(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        archived: bool,
        window: Window,
    ) -> Result<Slice<ListedConversation>, StoreError>;

    /// What a step of a fan-out needs.
    ///
    /// # Errors
    /// [`StoreError`].
    fn find(&self, query: Option<Query<'_>>) -> Result<Found, StoreError> {
        Ok(match query {
            None => Found::Nothing,
            Some(Query::Messages(app, user, query)) => {
                Found::Messages(self.page(app, user, &query)?)
            }
            Some(Query::Conversations(app, user, archived, window)) => {
                Found::Conversations(self.listed(app, user, archived, window)?)
            }
        })
    }

    /// The body of a message, if it is stored.
    ///
    /// # Errors
    /// [`StoreError`].
    fn body(&self, id: MessageId) -> Result<Option<String>, StoreError>;

    /// The messages that may not be acknowledged to the broker, in the order they came: their
    /// fingerprints and ids.
    ///
    /// # Errors
    /// [`StoreError`].
    fn unacknowledged(&self) -> Result<Vec<(u64, MessageId)>, StoreError>;

    /// The id up to which everything is acknowledged to the broker, as far as the store knows.
    fn acknowledged_up_to(&self) -> Option<MessageId>;

    /// The last id that an observer on this store is known to have given.
    ///
    /// # Errors
    /// [`StoreError`].
    fn last_id(&self) -> Result<Option<MessageId>, StoreError>;
}

/// Upkeep beside the one who writes, so that no message waits for it.
pub trait Upkeep: Send {
    /// Does what can be done without waiting for anybody. It is worth while after
    /// [`UPKEEP_DUE`] writes.
    ///
    /// # Errors
    /// [`StoreError`]. What was not done now is done by the next run.
    fn run(&mut self) -> Result<(), StoreError>;
}

/// Writes after which [`Upkeep`] is worth while.
pub const UPKEEP_DUE: usize = 1_000;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It may have changed something.
    New,
    /// It is a copy that was not stored before, and that has brought its conversation back from
    /// the archive.
    Unarchived,
    /// It is a copy that was stored before.
    Known,
}

/// What a transaction came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It changed something.
    Changed,
    /// It changed nothing.
    Unchanged,
}

/// What is tried of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether it gives out its lock.
    Lock,
    /// Whether it takes a write, too. The write is of no consequence and not made durable.
    Write,
}

/// Whether retention has deleted everything it may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pruned {
    /// Another step is needed.
    More,
    /// Nothing is left to do for now.
    All,
}

/// What the writes of one plan have in common.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The id given to the message that came in.
    pub id: MessageId,
    /// Recognizes a redelivery of the message; `None` if there can be none (QoS 0).
    pub fingerprint: Option<u64>,
    /// Whether somebody was told, or will be, that it is not lost: what it leads to is logged.
    pub promised: bool,
    /// Whether the message is a redelivery.
    pub repeated: bool,
    /// The time.
    pub now: UnixMillis,
}
