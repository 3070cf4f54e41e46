//! The lease: which process serves a slot.
//!
//! Owns renewing it, and what is known of the slots' sessions. It is taken (`candidate.rs`) when it
//! has expired by the clock of the database, and counts for its holder as long as it would by their
//! own clock from before it was asked for: a holder that was stopped, or cut off, finds it at an
//! end no later than others can take it. Each change of the holder raises a number, the token, and
//! every transaction asks for it: what an earlier holder writes is refused.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, warn};

use super::connection::{Connection, params};
use super::slot::{MAX_SLOTS, Slot};
use super::target::Target;
use crate::store::StoreError;

/// How often the holder renews its lease while it lasts.
pub(super) const RENEWALS: u32 = 3;
/// How often the lease is looked at by its holder's own clock.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the sessions of the other slots are looked for while one is missing.
const LOOK_FOR_SESSIONS: Duration = Duration::from_millis(300);
/// How much later than its time says a moment may have been.
const UNSURE: Duration = Duration::from_millis(100);
/// How long giving the lease back may take.
const GIVE_BACK: Duration = Duration::from_secs(2);

const RENEW: &str = "UPDATE observer SET
    expires = clock_timestamp() + $2 * interval '1 millisecond',
    session_at = CASE WHEN $4 THEN clock_timestamp() ELSE session_at END,
    session_since = CASE WHEN $5 OR ($4 AND session_at IS NULL) THEN clock_timestamp()
        ELSE session_since END,
    session_cleared = coalesce(to_timestamp($6::float8), session_cleared)
    WHERE n = $3 AND token = $1";
pub(super) const RELEASE: &str = "UPDATE observer SET expires = clock_timestamp(),
    session_at = CASE WHEN $3 THEN clock_timestamp() ELSE session_at END,
    session_since = CASE WHEN $4 OR ($3 AND session_at IS NULL) THEN clock_timestamp()
        ELSE session_since END
    WHERE n = $2 AND token = $1";
/// Of each slot's session, when it was known to be at the broker, and was made, and when its holder
/// held nothing for others; with the time now.
const SESSIONS: &str = "SELECT n, extract(epoch FROM session_at)::float8,
    extract(epoch FROM session_since)::float8, extract(epoch FROM session_cleared)::float8,
    extract(epoch FROM clock_timestamp())::float8 FROM observer";

/// The right to serve, renewed in a thread of its own. It is given back when it is dropped.
pub struct Lease {
    slot: Slot,
    token: i64,
    sessions: Arc<Sessions>,
    is_lost: watch::Sender<bool>,
    /// Whether there is something to give back.
    is_fenced: AtomicBool,
    stop: Option<SyncSender<()>>,
    /// Ends when the lease is given back.
    given_back: Mutex<Receiver<()>>,
}

/// What is known of the sessions at the broker: of our own from ourselves, of the others' from the
/// store.
#[derive(Debug, Default)]
struct Sessions {
    /// Whether our own is connected and subscribed.
    is_up: AtomicBool,
    /// Whether it was made anew, and the store is not told yet.
    is_new: AtomicBool,
    /// Whether nothing is held for other slots.
    is_clear: AtomicBool,
    /// Whether the store is to be told, and asked, ahead of time.
    is_changed: AtomicBool,
    known: Mutex<Known>,
    /// For how long, in milliseconds, the broker keeps a session at least.
    kept: AtomicU64,
}

/// A moment by the clock of the database, in seconds.
type DatabaseTime = f64;

/// What the store has said of sessions.
#[derive(Debug, Default)]
struct Known {
    /// Those at the broker, by slot.
    there: BTreeMap<u16, Gathers>,
    /// What was said of sessions at this moment or before does not count.
    distrusted: Option<Instant>,
    /// When the holder of our slot, we or an earlier one, last held nothing for others; `None` if
    /// none has.
    cleared: Option<DatabaseTime>,
    /// The same before the present connection of our session.
    left: Option<DatabaseTime>,
    /// When the store was asked last.
    looked: Option<DatabaseTime>,
}

/// Since when a session at the broker gathers messages.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gathers {
    /// Since before anybody asked.
    Always,
    /// Since this moment at the latest, by our own clock and by that of the database.
    Since(Instant, DatabaseTime),
}

/// When a message of another slot came to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// At this moment, or later.
    At(Instant),
    /// Since our slot had held nothing for others, before the present connection.
    SinceLeft,
}

impl Known {
    /// Whether the session of a slot has a message; `None`: nobody knows.
    fn has(&self, slot: u16, came: Came) -> Option<bool> {
        let gathers = self.there.get(&slot)?;
        Some(match (gathers, came) {
            (Gathers::Always, _) => true,
            (Gathers::Since(since, _), Came::At(at)) => {
                at.checked_sub(UNSURE).is_some_and(|at| at >= *since)
            }
            (Gathers::Since(_, since), Came::SinceLeft) => is_behind(self.left, *since),
        })
    }

    /// Whether all sessions are at the broker, and the store knows that our slot held nothing for
    /// others after they were made: whoever has the lease next finds that they have what is left.
    fn is_settled(&self, slot: Slot) -> bool {
        (0..slot.of()).all(|other| match self.there.get(&other) {
            None => false,
            Some(Gathers::Since(_, since)) if other != slot.number() => {
                is_behind(self.cleared, *since)
            }
            Some(_) => true,
        })
    }
}

/// Whether whatever a holder has not acknowledged, who held nothing at `cleared`, came after
/// `since`.
fn is_behind(cleared: Option<DatabaseTime>, since: DatabaseTime) -> bool {
    cleared.is_some_and(|cleared| cleared - UNSURE.as_secs_f64() >= since)
}

impl Sessions {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics holding it")
    }

    fn are_settled(&self, slot: Slot) -> bool {
        !slot.is_one_of_several() || self.known().is_settled(slot)
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[expect(
    clippy::disallowed_methods,
    reason = "a lease is about real time, and its thread must not wait for anybody to be told it"
)]
pub(super) fn now() -> Instant {
    Instant::now()
}

impl Lease {
    /// Renews the lease that was taken at `began` or later.
    pub(super) fn keep(
        slot: Slot,
        token: i64,
        target: &Target,
        began: Instant,
    ) -> Result<Self, StoreError> {
        let (stop, stopped) = sync_channel(1);
        let (ended, given_back) = channel();
        let is_lost = watch::Sender::new(false);
        let sessions = Arc::new(Sessions::default());
        let lasts = u64::try_from(target.session_lasts.as_millis()).unwrap_or(u64::MAX);
        sessions.kept.store(lasts, Ordering::Relaxed);
        sessions
            .is_changed
            .store(slot.is_one_of_several(), Ordering::Relaxed);
        let (target, lost) = (target.clone(), is_lost.clone());
        let (known, changed) = (sessions.clone(), sessions.clone());
        let keeper = move || {
            let _ended: Sender<()> = ended;
            let ttl = target.lease;
            let (renewals_tx, renewals_rx) = channel();
            let asks = std::thread::Builder::new().name("lease".to_owned());
            // A connection that hangs must not keep the clock from being looked at.
            let (ask_tx, ask_rx) = sync_channel(1);
            let renew = move || renew(&target, (slot, token), &known, &ask_rx, &renewals_tx);
            let Ok(renewer) = asks.spawn(renew) else {
                lost.send_replace(true);
                return;
            };
            let mut valid_until = began + ttl;
            let (mut ask_at, mut looked) = (began + ttl / RENEWALS, began);
            let pause = LOOK_EVERY.min(ttl / RENEWALS);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                while let Ok(renewed) = renewals_rx.try_recv() {
                    match renewed {
                        Renewed::From(asked) => valid_until = valid_until.max(asked + ttl),
                        Renewed::Never => valid_until = now(),
                    }
                }
                if now() >= valid_until {
                    changed.is_clear.store(false, Ordering::SeqCst);
                    lost.send_replace(true);
                    break;
                }
                let is_due = now() >= ask_at
                    || changed.is_changed.load(Ordering::Relaxed)
                    || (!changed.are_settled(slot) && now() >= looked + LOOK_FOR_SESSIONS);
                if !is_due {
                    continue;
                }
                // Before it is asked: what changes from here on is told the next time.
                let had_changed = changed.is_changed.swap(false, Ordering::SeqCst);
                if ask_tx.try_send(()).is_ok() {
                    looked = now();
                    ask_at = now() + ttl / RENEWALS;
                } else if had_changed {
                    changed.is_changed.store(true, Ordering::SeqCst);
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
            slot,
            token,
            sessions,
            is_lost,
            is_fenced: AtomicBool::new(false),
            stop: Some(stop),
            given_back: Mutex::new(given_back),
        })
    }

    /// The slot it is for.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Notes whether nothing is held for other slots.
    pub fn set_clear(&self, is_clear: bool) {
        self.sessions.is_clear.store(is_clear, Ordering::SeqCst);
    }

    /// Tells the others whether our session is at the broker.
    pub fn set_session(&self, is_up: bool) {
        if !is_up {
            self.set_clear(false);
        }
        if self.sessions.is_up.swap(is_up, Ordering::SeqCst) != is_up {
            self.sessions.is_changed.store(true, Ordering::Relaxed);
        }
    }

    /// Our session is connected again. What is known of the others may be from before: the store is
    /// asked again.
    pub fn look_again(&self) {
        let mut known = self.sessions.known();
        known.left = known.cleared;
        known.there.clear();
        self.sessions.is_changed.store(true, Ordering::SeqCst);
    }

    /// Tells the others that the broker had no session of ours: it has one from now on.
    pub fn note_new_session(&self) {
        self.sessions.is_new.store(true, Ordering::SeqCst);
        self.sessions.is_changed.store(true, Ordering::Relaxed);
    }

    /// The broker has lost our session, and may have lost all: what was said of others before does
    /// not count.
    pub fn distrust_sessions(&self) {
        let mut known = self.sessions.known();
        known.distrusted = Some(now());
        known.there.clear();
    }

    /// The broker keeps sessions for no longer than this.
    pub fn note_kept(&self, kept: Duration) {
        // One that is half gone is not relied upon.
        let lasts = u64::try_from((kept / 2).as_millis()).unwrap_or(u64::MAX);
        self.sessions.kept.fetch_min(lasts, Ordering::Relaxed);
    }

    /// Whether the session of a slot has a message that came then; `None`: it is not known to be at
    /// the broker. What the store says of it is no older than the lease lasts.
    pub fn has(&self, slot: u16, came: Came) -> Option<bool> {
        self.sessions.known().has(slot, came)
    }

    /// The slots whose sessions are not known to be at the broker.
    pub fn without_session(&self) -> Vec<u16> {
        let known = self.sessions.known();
        let slots = 0..self.slot.of();
        slots
            .filter(|slot| !known.there.contains_key(slot))
            .collect()
    }

    /// Whether whoever has the lease next would find out which messages the sessions of others
    /// have.
    pub fn is_settled(&self) -> bool {
        self.sessions.are_settled(self.slot)
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
        // Nobody looks any more whether it still is.
        self.set_clear(false);
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
fn renew(
    target: &Target,
    (slot, token): (Slot, i64),
    sessions: &Sessions,
    asked: &Receiver<()>,
    renewals: &Sender<Renewed>,
) {
    let target = &target.for_lease();
    let mut connection = Connection::open(target).ok();
    while asked.recv().is_ok() {
        if connection.is_none() {
            connection = Connection::open(target).ok();
        }
        let Some(connection) = &connection else {
            continue;
        };
        let before = now();
        let is_up = sessions.is_up.load(Ordering::SeqCst);
        let is_new = sessions.is_new.swap(false, Ordering::SeqCst);
        // Nothing is held now, so whatever is not acknowledged came after the last look.
        let is_clear = is_up && sessions.is_clear.load(Ordering::SeqCst);
        let cleared = sessions.known().looked.filter(|_| is_clear);
        let row = slot.row();
        let params = params![token, millis(target.lease), row, is_up, is_new, cleared];
        let renewed = connection.ensure().and_then(|()| {
            let renewed = connection.execute(RENEW, params)?;
            if slot.is_one_of_several() {
                look_for_sessions(connection, slot, sessions)?;
            }
            Ok(renewed)
        });
        let renewed = match renewed {
            Ok(0) => Renewed::Never,
            Ok(_) => Renewed::From(before),
            Err(error) => {
                debug!(%error, "the lease could not be renewed");
                sessions.is_new.fetch_or(is_new, Ordering::SeqCst);
                continue;
            }
        };
        let _ = renewals.send(renewed);
    }
    if let Some(connection) = connection {
        let released = connection.ensure();
        let is_up = sessions.is_up.load(Ordering::Relaxed);
        let is_new = sessions.is_new.load(Ordering::SeqCst);
        let params = params![token, slot.row(), is_up, is_new];
        let released = released.and_then(|()| connection.execute(RELEASE, params));
        if let Err(error) = released {
            debug!(%error, "the lease could not be given back");
        }
    }
}

/// Notes whose sessions are at the broker, as far as the store knows.
fn look_for_sessions(
    connection: &Connection,
    ours: Slot,
    sessions: &Sessions,
) -> Result<(), StoreError> {
    let lasts = Duration::from_millis(sessions.kept.load(Ordering::Relaxed));
    let before = now();
    let rows = connection.query(SESSIONS, params![])?;
    let after = now();
    let mut known = sessions.known();
    let had = std::mem::take(&mut known.there);
    let is_first = known.looked.is_none();
    for row in &rows {
        let time = |at| row.get::<_, Option<DatabaseTime>>(at);
        let (Ok(slot @ ..MAX_SLOTS), [seen, since, cleared, Some(looked)]) =
            (u16::try_from(row.get::<_, i64>(0)), [1, 2, 3, 4].map(time))
        else {
            continue;
        };
        known.looked = Some(looked);
        if slot == ours.number() {
            known.cleared = cleared;
            if is_first {
                known.left = cleared;
            }
        }
        let ago = |then: DatabaseTime| seconds(looked - then);
        let Some(seen) = seen.map(ago) else {
            continue;
        };
        let seen_at = before.checked_sub(seen);
        let is_trusted = known.distrusted.is_none_or(|then| seen_at > Some(then));
        if seen < lasts && is_trusted {
            let gathers = since.map_or(Gathers::Always, |since| {
                let at = after.checked_sub(ago(since)).unwrap_or(after);
                match had.get(&slot) {
                    // However late this answer came.
                    Some(Gathers::Since(earlier, same)) if *same == since => {
                        Gathers::Since(at.min(*earlier), since)
                    }
                    _ => Gathers::Since(at, since),
                }
            });
            known.there.insert(slot, gathers);
        }
    }
    // Whoever has the lease next is to see that we knew of it.
    if known.there.keys().any(|slot| !had.contains_key(slot)) {
        sessions.is_changed.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of two slots, what slot 0 knows: when the session of slot 1 was made, and when slot 0 last
    /// held nothing.
    fn known(since: DatabaseTime, cleared: Option<DatabaseTime>, at: Instant) -> Known {
        let gathers = [(0, Gathers::Always), (1, Gathers::Since(at, since))];
        Known {
            there: gathers.into(),
            cleared,
            left: cleared,
            ..Known::default()
        }
    }

    #[test]
    fn a_session_has_what_came_after_it_was_made() {
        let made = now();
        let at = |millis| Came::At(made + Duration::from_millis(millis));
        let known = known(1_000.0, None, made);
        assert_eq!(
            known.has(1, at(99)),
            Some(false),
            "it may have been read before"
        );
        assert_eq!(known.has(1, at(101)), Some(true));
        assert_eq!(known.has(0, at(0)), Some(true));
        assert_eq!(known.has(2, at(200)), None);
    }

    /// However long the database takes to answer, only its own clock counts.
    #[test]
    fn a_session_has_what_a_holder_left_who_held_nothing_after_it_was_made() {
        let slot = Slot::new(0, 2);
        let late = now() + Duration::from_secs(10);
        for (cleared, has) in [
            (None, false),
            (Some(999.0), false),
            (Some(1_000.05), false),
            (Some(1_000.2), true),
        ] {
            let known = known(1_000.0, cleared, late);
            assert_eq!(known.has(1, Came::SinceLeft), Some(has), "{cleared:?}");
            assert_eq!(known.is_settled(slot), has, "{cleared:?}");
        }
        let mut known = known(1_000.0, Some(2_000.0), late);
        known.there.remove(&1);
        assert_eq!(known.has(1, Came::SinceLeft), None);
        assert!(
            !known.is_settled(slot),
            "nobody knows of the other's session"
        );
    }
}
