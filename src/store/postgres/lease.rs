//! The lease: which process serves.
//!
//! Owns the row that says so. It is taken when it has expired by the clock of the database, and
//! counts for its holder as long as it would by their own clock from before it was asked for: a
//! holder that was stopped, or cut off, finds it at an end no later than others can take it. Each
//! change of the holder raises a number, the token, and every transaction asks for it: what an
//! earlier holder writes is refused.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::connection::{Connection, params};
use super::schema;
use super::target::Target;
use crate::store::{Access, StoreError};

/// How often the holder renews its lease while it lasts.
const RENEWALS: u32 = 3;
/// How often the lease is looked at by its holder's own clock.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long giving the lease back may take.
const GIVE_BACK: Duration = Duration::from_secs(2);

const TAKE: &str = "UPDATE observer SET token = token + 1, holder = $1,
    expires = clock_timestamp() + $2 * interval '1 millisecond'
    WHERE n = 0 AND expires <= clock_timestamp() RETURNING token";
const RENEW: &str = "UPDATE observer SET
    expires = clock_timestamp() + $2 * interval '1 millisecond' WHERE n = 0 AND token = $1";
const RELEASE: &str = "UPDATE observer SET expires = clock_timestamp() WHERE n = 0 AND token = $1";
const HOLDER: &str = "SELECT holder FROM observer WHERE n = 0";
const SECRET: &str = "SELECT secret FROM observer WHERE n = 0";

/// The right to serve, renewed in a thread of its own. It is given back when it is dropped.
pub struct Lease {
    token: i64,
    is_lost: watch::Sender<bool>,
    /// Whether there is something to give back.
    is_fenced: AtomicBool,
    stop: Option<SyncSender<()>>,
    /// Ends when the lease is given back.
    given_back: Mutex<Receiver<()>>,
}

/// What became of an attempt to take the lease.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Arc<Lease>),
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
}

impl Candidate {
    /// Connects, and makes the store if there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(target: &Target) -> Result<Self, StoreError> {
        let connection = Connection::open(target)?;
        schema::migrate(&connection, Access::Exclusive)?;
        Ok(Self { connection })
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

    /// Takes the lease if nobody has it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn try_take(&self) -> Result<Taken, StoreError> {
        self.connection.ensure()?;
        let target = self.connection.target();
        let began = now();
        let params = params![target.holder.clone(), millis(target.lease)];
        let taken = self.connection.query(TAKE, params)?;
        if let Some(row) = taken.first() {
            let lease = Lease::keep(row.get(0), target, began)?;
            return Ok(Taken::Ours(Arc::new(lease)));
        }
        let rows = self.connection.query(HOLDER, vec![])?;
        let row = rows.first().ok_or_else(no_row)?;
        Ok(Taken::Theirs { holder: row.get(0) })
    }
}

fn no_row() -> StoreError {
    StoreError::Permanent("the table observer has no row: somebody has edited the store".into())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[expect(
    clippy::disallowed_methods,
    reason = "a lease is about real time, and its thread must not wait for anybody to be told it"
)]
fn now() -> Instant {
    Instant::now()
}

impl Lease {
    /// Renews the lease that was taken at `began` or later.
    fn keep(token: i64, target: &Target, began: Instant) -> Result<Self, StoreError> {
        let (stop, stopped) = sync_channel(1);
        let (ended, given_back) = channel();
        let is_lost = watch::Sender::new(false);
        let (target, lost) = (target.clone(), is_lost.clone());
        let keeper = move || {
            let _ended: Sender<()> = ended;
            let ttl = target.lease;
            let (renewals_tx, renewals_rx) = channel();
            let asks = std::thread::Builder::new().name("lease".to_owned());
            // A connection that hangs must not keep the clock from being looked at.
            let (ask_tx, ask_rx) = sync_channel(1);
            let renew = move || renew(&target, token, &ask_rx, &renewals_tx);
            let Ok(renewer) = asks.spawn(renew) else {
                lost.send_replace(true);
                return;
            };
            let mut valid_until = began + ttl;
            let mut ask_at = began + ttl / RENEWALS;
            let pause = LOOK_EVERY.min(ttl / RENEWALS);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                while let Ok(renewed) = renewals_rx.try_recv() {
                    match renewed {
                        Renewed::From(asked) => valid_until = valid_until.max(asked + ttl),
                        Renewed::Never => valid_until = now(),
                    }
                }
                if now() >= valid_until {
                    lost.send_replace(true);
                    break;
                }
                if now() >= ask_at && ask_tx.try_send(()).is_ok() {
                    ask_at = now() + ttl / RENEWALS;
                }
            }
            drop(ask_tx);
            // It gives the lease back.
            let _ = renewer.join();
        };
        std::thread::Builder::new()
            .name("lease-clock".to_owned())
            .spawn(keeper)
            .map_err(|error| StoreError::Transient(error.into()))?;
        Ok(Self {
            token,
            is_lost,
            is_fenced: AtomicBool::new(false),
            stop: Some(stop),
            given_back: Mutex::new(given_back),
        })
    }

    /// What every transaction must ask for.
    pub(super) fn token(&self) -> i64 {
        self.token
    }

    /// Whether the lease still counts, by our own clock and as far as the database has said.
    pub fn is_valid(&self) -> bool {
        !*self.is_lost.borrow()
    }

    /// The database has refused a write: somebody else has the lease.
    pub(super) fn fenced(&self) {
        if !self.is_fenced.swap(true, Ordering::Relaxed) {
            warn!("a write was refused: another process serves now");
        }
        self.is_lost.send_replace(true);
    }

    /// Waits until the lease does not count any more. Safe to cancel.
    pub async fn lost(&self) {
        let mut lost = self.is_lost.subscribe();
        // The sender lives as long as the lease.
        let _ = lost.wait_for(|lost| *lost).await;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.stop = None;
        // A database that hangs must not keep the process from its end: the lease expires.
        if self.is_valid()
            && let Ok(given_back) = self.given_back.get_mut()
        {
            let _ = given_back.recv_timeout(GIVE_BACK);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.token)
    }
}

/// The answer to a request for renewal.
enum Renewed {
    /// It lasts from this moment, before the database was asked.
    From(Instant),
    /// Somebody else has it.
    Never,
}

/// Renews the lease when asked to, and gives it back at the end.
fn renew(target: &Target, token: i64, asked: &Receiver<()>, renewals: &Sender<Renewed>) {
    let mut connection = Connection::open(target).ok();
    while asked.recv().is_ok() {
        if connection.is_none() {
            connection = Connection::open(target).ok();
        }
        let Some(connection) = &connection else {
            continue;
        };
        let before = now();
        let params = params![token, millis(target.lease)];
        let renewed = connection
            .ensure()
            .and_then(|()| connection.execute(RENEW, params));
        let renewed = match renewed {
            Ok(0) => Renewed::Never,
            Ok(_) => Renewed::From(before),
            Err(error) => {
                debug!(%error, "the lease could not be renewed");
                continue;
            }
        };
        let _ = renewals.send(renewed);
    }
    if let Some(connection) = connection {
        let released = connection.ensure();
        let released = released.and_then(|()| connection.execute(RELEASE, params![token]));
        if let Err(error) = released {
            debug!(%error, "the lease could not be given back");
        }
    }
}
