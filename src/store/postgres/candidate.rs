//! A process that wants a lease: takes it where it is free, and says that it is there.
//!
//! Owns the statements by which leases are taken, and the table of the processes that stand by or
//! share the slots among them. Leaves a lease that is taken to `lease.rs`.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use super::connection::{Command, Connection, params};
use super::lease::{Lease, RELEASE, RENEWALS, millis, now};
use super::schema;
use super::slot::Slot;
use super::target::Target;
use crate::store::{Access, StoreError};

/// The token holds the time: a database that fails over to an earlier state, in which the last
/// holder is not known, hands out none a second time. A process that knows another version of the
/// schema takes none: a newer one may have migrated since it looked.
const TAKE: &str = "UPDATE observer SET served = true, holder = $1,
    token = greatest(token + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint),
    expires = clock_timestamp() + $2 * interval '1 millisecond'
    WHERE n = $3 AND expires <= clock_timestamp()
    AND (SELECT version FROM observer_schema WHERE n = 0) = $4 RETURNING token";
const HOLDER: &str = "SELECT holder FROM observer WHERE n = $1";
const SECRET: &str = "SELECT secret FROM observer WHERE n = 0";
const SLOTS: &str = "SELECT n, holder, expires <= clock_timestamp() FROM observer ORDER BY n";
const STAY: &str = "INSERT INTO observer_process (id, expires)
    VALUES ($1, clock_timestamp() + $2 * interval '1 millisecond')
    ON CONFLICT (id) DO UPDATE SET expires = excluded.expires";
const LEAVE: &str = "DELETE FROM observer_process WHERE id = $1 OR expires < clock_timestamp()";
const COUNT_OTHERS: &str = "SELECT count(*) FROM observer_process
    WHERE expires > clock_timestamp() AND id <> $1";
const HELD_BY: &str = "SELECT holder FROM observer WHERE n = 0 AND expires > clock_timestamp()";
const COUNT_PROCESSES: &str = "SELECT count(*) FROM observer_process
    WHERE expires > clock_timestamp()";

/// What a process sees that shares the slots with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shared {
    /// How many processes there are, this one among them if it is there.
    pub processes: u16,
    /// The slots that nobody holds.
    pub free: Vec<u16>,
    /// Who holds the others, for people.
    pub holders: Vec<String>,
}

/// What became of an attempt to take the lease.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours {
        /// It.
        lease: Arc<Lease>,
        /// Who had it before, for people; empty if nobody had.
        from: String,
    },
    /// Somebody else has it.
    Theirs {
        /// Who, for people.
        holder: String,
    },
}

/// A process that wants the lease.
#[derive(Debug)]
pub struct Candidate {
    connection: Connection,
    /// Whether the schema is ours. It is not changed under a process of an earlier version.
    is_migrated: Cell<bool>,
    /// Whether it has tried to take a slot: from then on somebody has served one.
    has_tried: Cell<bool>,
    /// When it last said that it stands by.
    stayed_at: Cell<Option<Instant>>,
}

impl Candidate {
    /// Connects, and makes the store if there is none.
    ///
    /// # Errors
    /// [`StoreError`]; also where the store was made for another number of slots.
    pub fn open(target: &Target) -> Result<Self, StoreError> {
        let candidate = Self {
            connection: Connection::open(&target.for_lease())?,
            is_migrated: Cell::new(false),
            has_tried: Cell::new(false),
            stayed_at: Cell::new(None),
        };
        candidate.migrate()?;
        Ok(candidate)
    }

    /// Brings the schema up to date. Returns who is in the way.
    fn migrate(&self) -> Result<Option<String>, StoreError> {
        if self.is_migrated.get() {
            return Ok(None);
        }
        let in_the_way = schema::migrate(&self.connection, Access::Exclusive)?;
        if in_the_way.is_none() {
            let target = self.connection.target();
            schema::keep_settings(&self.connection, target, || Ok(()))?;
            self.is_migrated.set(true);
        }
        Ok(in_the_way)
    }

    /// The random part of the MQTT client identifiers, which all processes on the store share.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn secret(&self) -> Result<String, StoreError> {
        self.connection.ensure()?;
        let rows = self.connection.query(SECRET, vec![])?;
        let row = rows.first().ok_or_else(no_row)?;
        Ok(row.get(0))
    }

    /// Takes the lease of a store with one slot, if nobody has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn try_take(&self) -> Result<Taken, StoreError> {
        self.try_take_slot(0)
    }

    /// Takes the lease of a slot if nobody has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn try_take_slot(&self, number: u16) -> Result<Taken, StoreError> {
        self.connection.ensure()?;
        if let Some(holder) = self.migrate()? {
            return Ok(Taken::Theirs { holder });
        }
        let target = self.connection.target();
        let slot = Slot::new(number, target.slots);
        let take = || {
            let rows = self.connection.query(HOLDER, params![slot.row()])?;
            let holder = rows.first().ok_or_else(no_row)?.get(0);
            let began = now();
            let (holds, row) = (target.holder.clone(), slot.row());
            let params = params![holds, millis(target.lease), row, schema::known()];
            Ok((holder, began, self.connection.query(TAKE, params)?))
        };
        // Others may have opened the store with other settings before anybody served it.
        let (holder, began, taken) = match self.has_tried.get() {
            true => take()?,
            false => schema::keep_settings(&self.connection, target, take)?,
        };
        self.has_tried.set(true);
        let taken: Option<i64> = taken.first().map(|row| row.get(0));
        // The statement may have waited for the row until a migration was committed, and compared
        // the version before.
        if let Err(error) = schema::check_version(&self.connection) {
            if let Some(token) = taken {
                let params = params![token, slot.row(), false, false];
                self.connection.execute(RELEASE, params)?;
            }
            return Err(error);
        }
        Ok(match taken {
            Some(token) => Taken::Ours {
                lease: Arc::new(Lease::keep(slot, token, target, began)?),
                from: holder,
            },
            None => Taken::Theirs { holder },
        })
    }

    /// Says that this process, known as `process`, stands by, unless it could not serve: then it is
    /// as good as gone. Returns how many others stand by.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn stand_by(&self, process: &str, could_serve: bool) -> Result<u16, StoreError> {
        self.connection.ensure()?;
        if self.migrate()?.is_some() {
            return Ok(0);
        }
        let lease = self.connection.target().lease;
        let is_due = self
            .stayed_at
            .get()
            .is_none_or(|at| now() >= at + lease / RENEWALS);
        if could_serve && is_due {
            let params = params![process.to_owned(), millis(lease)];
            self.connection.execute(STAY, params)?;
            self.stayed_at.set(Some(now()));
        } else if !could_serve && self.stayed_at.take().is_some() {
            self.leave(process)?;
        }
        let rows = self
            .connection
            .query(COUNT_OTHERS, params![process.to_owned()])?;
        Ok(rows.first().map_or(0, |row| count(row.get(0))))
    }

    /// Who has the lease of a store with one slot, for people.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn holder(&self) -> Result<Option<String>, StoreError> {
        self.connection.ensure()?;
        let rows = self.connection.query(HELD_BY, vec![])?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// Says whether this process, known as `process`, is there to take slots. Returns who shares
    /// them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn share(&self, process: &str, is_there: bool) -> Result<Shared, StoreError> {
        self.connection.ensure()?;
        if let Some(holder) = self.migrate()? {
            return Ok(Shared {
                processes: 1,
                free: vec![],
                holders: vec![holder],
            });
        }
        let target = self.connection.target();
        let command = |sql, params| Command { sql, params };
        let says = match is_there {
            true => command(STAY, params![process.to_owned(), millis(target.lease)]),
            false => command(LEAVE, params![process.to_owned()]),
        };
        let answers = self.connection.pipeline(
            "",
            &[
                says,
                command(COUNT_PROCESSES, params![]),
                command(SLOTS, params![]),
            ],
            "",
        )?;
        let processes: i64 = answers[1].first().map_or(1, |row| row.get(0));
        let mut shared = Shared {
            processes: count(processes).max(1),
            free: vec![],
            holders: vec![],
        };
        for row in &answers[2] {
            match (u16::try_from(row.get::<_, i64>(0)), row.get(2)) {
                (Ok(slot), true) => shared.free.push(slot),
                (Ok(_), false) => shared.holders.push(row.get(1)),
                (Err(_), _) => return Err(no_row()),
            }
        }
        Ok(shared)
    }

    /// Says that this process is gone.
    ///
    /// # Errors
    /// [`StoreError`]. It is taken for gone when its time has ended.
    pub fn leave(&self, process: &str) -> Result<(), StoreError> {
        self.connection.ensure()?;
        let params = params![process.to_owned()];
        self.connection.execute(LEAVE, params).map(drop)
    }
}

/// How many processes stand by on a store with one slot, and could serve.
///
/// # Errors
/// [`StoreError`].
pub fn count_standbys(target: &Target) -> Result<u16, StoreError> {
    let rows = Connection::open(target)?.query(COUNT_PROCESSES, vec![])?;
    Ok(rows.first().map_or(0, |row| count(row.get(0))))
}

fn count(found: i64) -> u16 {
    u16::try_from(found).unwrap_or(u16::MAX)
}

fn no_row() -> StoreError {
    StoreError::Permanent(
        "the table observer has no such row: somebody has edited the store".into(),
    )
}
