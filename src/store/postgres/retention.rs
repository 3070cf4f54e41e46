//! Deletes what is too old or too much, a few rows at a time, so that no message waits for it.
//!
//! Messages are deleted first, oldest first. A sweep through all inboxes then deletes what referred
//! to them; until then a reader skips a copy whose message is gone.

use super::batch::{COPY_BYTES, MESSAGE_BYTES};
use super::connection::params;
use super::{PostgresStore, StoreError, id_text, millis};
use crate::protocol::time::UnixMillis;
use crate::store::{Pruned, Retention};

/// Rows that one step deletes, at most, of each kind.
const ROWS_PER_STEP: i64 = 200;
/// Inboxes that one step looks at.
const INBOXES_PER_STEP: i32 = 50;

// The last message stays: a reader goes by its time.
// A message that the broker may redeliver stays: it must be recognized then. So does one that may
// not be published yet: the delivery log makes its copies from it.
const DELETE_OLDEST_MESSAGES: &str = "DELETE FROM message
    WHERE seq < coalesce(
        (SELECT seq FROM message ORDER BY seq LIMIT 1 OFFSET $1),
        (SELECT max(seq) FROM message))
    AND (stored_at < $2 OR $3)
    AND (fingerprint IS NULL OR message_id <= CASE WHEN $5::bigint / 16 = 1 THEN $4
        ELSE (SELECT acknowledged FROM observer WHERE n = (message.seq & 15) % ($5 / 16)) END)
    AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.message_id = message.message_id)
    RETURNING octet_length(body)::bigint";
const OLDEST_WEBHOOKS: &str = "SELECT seq FROM
    (SELECT seq, created_at FROM webhook ORDER BY seq LIMIT $1) oldest WHERE created_at < $2";
const FIRST_SEQ: &str = "SELECT min(seq) FROM message";
const BYTES: &str = "SELECT sum(bytes)::bigint FROM observer";
// Each inbox is found by the one before it: an inbox of a million rows is passed in one step.
const NEXT_INBOXES: &str = "WITH RECURSIVE inboxes (app, inbox_of, n) AS (
        SELECT $1::text COLLATE \"C\", $2::text COLLATE \"C\", 0
        UNION ALL SELECT next.app, next.inbox_of, n + 1 FROM inboxes i, LATERAL (
            SELECT app, inbox_of FROM (
                (SELECT app, inbox_of FROM conversation
                    WHERE (app, inbox_of) > (i.app, i.inbox_of) ORDER BY app, inbox_of LIMIT 1)
                UNION ALL (SELECT app, inbox_of FROM timeline
                    WHERE (app, inbox_of) > (i.app, i.inbox_of) ORDER BY app, inbox_of LIMIT 1)
            ) found ORDER BY app, inbox_of LIMIT 1
        ) next WHERE n < $3
    ) SELECT app, inbox_of FROM inboxes WHERE n > 0 ORDER BY n";
const DELETE_COPIES: &str = "DELETE FROM timeline WHERE (app, inbox_of, seq, convers_with) IN (
        SELECT old.app, old.inbox_of, old.seq, old.convers_with
        FROM unnest($1::text[], $2::text[]) AS u (app, inbox_of), LATERAL (
            SELECT app, inbox_of, seq, convers_with FROM timeline t
            WHERE t.app = u.app AND t.inbox_of = u.inbox_of AND t.seq < $3
            ORDER BY seq LIMIT $4
        ) old LIMIT $4)";
// A row tells who has messages, whether it shows in a list or not.
const DELETE_CONVERSATIONS: &str = "DELETE FROM conversation c
    USING unnest($1::text[], $2::text[]) AS u (app, inbox_of)
    WHERE c.app = u.app AND c.inbox_of = u.inbox_of AND greatest(c.seq, c.patch_seq) < $3
        AND NOT EXISTS (SELECT 1 FROM timeline t WHERE t.app = c.app AND t.inbox_of = c.inbox_of
            AND t.convers_with = c.convers_with)";

/// How far the sweep through the inboxes got.
#[derive(Clone, Debug, Default)]
pub(super) struct Sweep {
    /// The inbox that was swept last; the default between two rounds.
    at: (String, String),
    /// The first message there was when this round began.
    began_with: i64,
    /// The first message there was when the last round of this process began: nothing refers to one
    /// before it.
    clean_before: Option<i64>,
}

impl PostgresStore {
    pub(super) fn take_prune_step(
        &mut self,
        limits: &Retention,
        now: UnixMillis,
    ) -> Result<Pruned, StoreError> {
        let before = self.sweep.clone();
        // One slot deletes for all.
        if *limits == Retention::default() || self.slot.number() > 0 {
            return Ok(Pruned::All);
        }
        let done = self.atomically(|store| {
            store.sweep = before.clone();
            store.prune(limits, now)
        });
        if done.is_err() {
            self.sweep = before;
        }
        done
    }

    fn prune(&mut self, limits: &Retention, now: UnixMillis) -> Result<Pruned, StoreError> {
        let keep_from = limits.age.map_or(0, |age| millis(now.before(age)));
        // Copies take more room than messages. So the copies of deleted messages are deleted before
        // the size is looked at: otherwise more messages would go than must.
        let swept = self.sweep_step()?;
        let too_large = match limits.bytes {
            Some(bytes) if swept => self.used_bytes()? > bytes,
            Some(_) | None => false,
        };
        let mut deleted = 0;
        if limits.age.is_some() || too_large {
            let acknowledged = id_text(self.before.acknowledged);
            let part = self.slot.part();
            let params = params![ROWS_PER_STEP, keep_from, too_large, acknowledged, part];
            let sizes: Vec<i64> = self.rows_changed(DELETE_OLDEST_MESSAGES, params)?;
            deleted = sizes.len();
            let bytes: i64 = sizes.iter().map(|size| size + MESSAGE_BYTES).sum();
            self.batch.borrow_mut().count_bytes(-bytes);
        }
        if deleted > 0 {
            self.recent.borrow_mut().clear();
        }
        // Webhook events hold what messages hold.
        let mut events = 0;
        if limits.age.is_some() {
            let params = params![ROWS_PER_STEP, keep_from];
            let old: Vec<i64> = self.rows(OLDEST_WEBHOOKS, params, |row| row.get(0))?;
            events = old.len();
            self.delete_events(old)?;
        }
        let is_done = deleted == 0 && events == 0 && swept;
        Ok(if is_done { Pruned::All } else { Pruned::More })
    }

    /// Deletes rows. Returns the first column of what they were.
    fn rows_changed(
        &self,
        sql: &'static str,
        params: Vec<super::connection::Param>,
    ) -> Result<Vec<i64>, StoreError> {
        self.open_transaction()?;
        let changed = self.rows(sql, params, |row| row.get(0))?;
        self.batch.borrow_mut().note_change(!changed.is_empty());
        Ok(changed)
    }

    /// About how many bytes messages and their copies take.
    pub(super) fn used_bytes(&self) -> Result<u64, StoreError> {
        let bytes: i64 = self.row(BYTES, params![], |row| row.get(0))?;
        let bytes = bytes + self.batch.borrow().grown_by();
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// Sweeps some inboxes, beginning where the last step stopped. Returns whether nothing refers
    /// to a deleted message any more.
    fn sweep_step(&mut self) -> Result<bool, StoreError> {
        let first: Option<i64> = self.row(FIRST_SEQ, params![], |row| row.get(0))?;
        let first = first.unwrap_or(0);
        if self.sweep.at == Default::default() && self.sweep.clean_before == Some(first) {
            return Ok(true);
        }
        if self.sweep.at == Default::default() {
            self.sweep.began_with = first;
        }
        let (app, inbox_of) = self.sweep.at.clone();
        let params = params![app, inbox_of, INBOXES_PER_STEP];
        let inboxes: Vec<(String, String)> =
            self.rows(NEXT_INBOXES, params, |row| (row.get(0), row.get(1)))?;
        let Some(last) = inboxes.last().cloned() else {
            let began_with = self.sweep.began_with;
            self.sweep = Sweep {
                clean_before: Some(began_with),
                ..Sweep::default()
            };
            return Ok(began_with == first);
        };
        let (apps, owners): (Vec<String>, Vec<String>) = inboxes.into_iter().unzip();
        let params = params![apps.clone(), owners.clone(), first, ROWS_PER_STEP];
        let copies = i64::try_from(self.execute(DELETE_COPIES, params)?).unwrap_or(0);
        self.batch.borrow_mut().count_bytes(-COPY_BYTES * copies);
        self.execute(DELETE_CONVERSATIONS, params![apps, owners, first])?;
        if copies < ROWS_PER_STEP {
            self.sweep.at = last;
        }
        Ok(false)
    }
}
