//! Retention: what is too old or too much goes, a few rows at a time, so that no message waits for it.
//!
//! Messages go first, oldest first; a sweep through all inboxes then deletes what referred to them. Who reads passes over a copy
//! whose message is gone.

use std::time::Duration;

use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, millis};
use crate::protocol::time::UnixMillis;

/// Rows that one step deletes.
const PRUNED_PER_STEP: u32 = 200;
/// Free pages kept for what comes next; those beyond are given back to the file system.
const FREE_PAGES: u32 = 1_000;

/// How long messages are kept, and in how much space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Older ones go.
    pub age: Option<Duration>,
    /// The oldest go, while the database holds more than this.
    pub bytes: Option<u64>,
}

impl Store {
    /// One small step of retention, in a transaction of its own: the oldest messages first, then the copies and rows that referred to
    /// them. Returns whether there is more to do.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn prune_step(&mut self, limits: &Retention, now: UnixMillis) -> Result<bool, StoreError> {
        self.begin()?;
        let before = (self.swept.clone(), self.swept_below);
        let done = self.prune(limits, now).and_then(|more| {
            self.commit()?;
            Ok(more)
        });
        if done.is_err() {
            (self.swept, self.swept_below) = before;
            self.rollback();
        }
        done
    }

    fn prune(&mut self, limits: &Retention, now: UnixMillis) -> Result<bool, StoreError> {
        let keep_from = limits.age.map_or(0, |age| {
            let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            millis(UnixMillis::new(now.as_millis().saturating_sub(age)))
        });
        // Copies take more room than messages: those of what has gone go first.
        let swept_all = self.sweep()?;
        let too_large = match limits.bytes {
            // What webhooks wait for has a bound of its own.
            Some(bytes) => {
                swept_all && self.used_bytes()?.saturating_sub(self.outbox_bytes()?) > bytes
            }
            None => false,
        };
        // What may come again must be known then.
        let known = self
            .acknowledged
            .map(|id| id.to_string())
            .unwrap_or_default();
        let deleted = self
            .connection
            .prepare_cached(
                "DELETE FROM message WHERE seq IN (SELECT seq FROM message ORDER BY seq LIMIT ?1)
                 AND seq < (SELECT max(seq) FROM message) AND (stored_at < ?2 OR ?3) AND (fingerprint IS NULL OR message_id <= ?4)",
            )?
            .execute(params![PRUNED_PER_STEP, keep_from, too_large, known])?;
        if deleted > 0 {
            self.last_written = None;
        }
        // They hold what messages hold.
        let told = self
            .connection
            .prepare_cached(
                "DELETE FROM webhook WHERE seq IN (SELECT seq FROM webhook ORDER BY seq LIMIT ?) AND created_at < ?",
            )?
            .execute(params![PRUNED_PER_STEP, keep_from])?;
        let free: u32 = self.pragma("freelist_count")?;
        if free > FREE_PAGES {
            // A row for each page: it works only as far as it is asked for them.
            let text = format!("PRAGMA incremental_vacuum({PRUNED_PER_STEP})");
            let mut statement = self.connection.prepare_cached(&text)?;
            let mut pages = statement.query([])?;
            while pages.next()?.is_some() {}
        }
        Ok(deleted > 0 || told > 0 || !swept_all || free > FREE_PAGES)
    }

    fn first(&self) -> Result<i64, StoreError> {
        let first: Option<i64> = self
            .connection
            .prepare_cached("SELECT min(seq) FROM message")?
            .query_row([], |row| row.get(0))?;
        Ok(first.unwrap_or(0))
    }

    /// Whether nothing refers to a message that is gone.
    fn is_swept(&self) -> Result<bool, StoreError> {
        Ok(self.swept == Default::default() && self.first()? == self.swept_below)
    }

    /// Deletes what refers to messages that are gone, in some inboxes, beginning where it stopped. Returns whether it has come round.
    fn sweep(&mut self) -> Result<bool, StoreError> {
        if self.is_swept()? {
            return Ok(true);
        }
        let first = self.first()?;
        let most = usize::try_from(PRUNED_PER_STEP).expect("a small number");
        let mut rows = 0;
        while rows < most {
            let next: Option<(String, String)> = self
                .connection
                .prepare_cached(
                    "SELECT app, inbox_of FROM conversation WHERE (app, inbox_of) > (?, ?)
                     UNION ALL SELECT app, inbox_of FROM timeline WHERE (app, inbox_of) > (?1, ?2) ORDER BY app, inbox_of LIMIT 1",
                )?
                .query_row([&self.swept.0, &self.swept.1], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })
                .optional()?;
            let Some((app, inbox_of)) = next else {
                self.swept = Default::default();
                self.swept_below = first;
                return Ok(true);
            };
            let copies = self
                .connection
                .prepare_cached(
                    "DELETE FROM timeline WHERE app = ?1 AND inbox_of = ?2 AND seq IN
                     (SELECT seq FROM timeline WHERE app = ?1 AND inbox_of = ?2 AND seq < ?3 ORDER BY seq LIMIT ?4)",
                )?
                .execute(params![app, inbox_of, first, PRUNED_PER_STEP])?;
            let listed = self
                .connection
                .prepare_cached(
                    "DELETE FROM conversation WHERE app = ? AND inbox_of = ? AND max(seq, coalesce(patch_seq, 0)) < ?",
                )?
                .execute(params![app, inbox_of, first])?;
            rows += 1 + copies + listed;
            if copies < most {
                self.swept = (app, inbox_of);
            }
        }
        Ok(false)
    }
}
