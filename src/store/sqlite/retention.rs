//! Deletes what is too old or too much, a few rows at a time, so that no message waits for it.
//!
//! Messages are deleted first, oldest first, and the copies that sender and recipient have of them.
//! Where others may have copies, a sweep through all inboxes then deletes what referred to them;
//! until then a reader skips a copy whose message is gone.

use rusqlite::params;

use super::accounts::{Accounts, SLACK};
use super::connection::statements;
use super::conversations::Pair;
use super::{SqliteStore, StoreError, millis};
use crate::protocol::time::UnixMillis;
use crate::store::{Pruned, Retention};

/// Rows that one step deletes, at most, of each kind.
const ROWS_PER_STEP: u32 = 200;
/// Free pages kept for what is stored next. The others are given back to the file system.
const FREE_PAGES: u32 = 1_000;

statements! {
    // The last message stays: its number would be given a second time.
    // A message that the broker may redeliver stays: it must be recognized then. So does one that
    // may not be published yet: the delivery log makes its copies from it.
    OLDEST_MESSAGES may scan "the subquery reads ?1 rows" = "SELECT seq, sender, recipient,
            seq < 0 OR NOT EXISTS (SELECT 1 FROM layout l WHERE l.id = m.layout AND l.name <> '')
        FROM message_data m WHERE seq < coalesce(
            (SELECT seq FROM message_data ORDER BY seq LIMIT 1 OFFSET ?1),
            (SELECT max(seq) FROM message_data))
        AND (stored_at < ?2 OR ?3) AND (fingerprint IS NULL OR id <= ?4)
        AND NOT EXISTS (SELECT 1 FROM delivery WHERE delivery.id = m.id)";
    DELETE_MESSAGE = "DELETE FROM message_data WHERE seq = ?";
    DELETE_COPY = "DELETE FROM copy WHERE inbox = ? AND peer = ? AND seq = ?";
    DELETE_CONVERSATION = "DELETE FROM conversation_state WHERE inbox = ?1 AND peer = ?2
        AND max(seq, coalesce(patch_seq, seq)) <= ?3 AND NOT EXISTS
            (SELECT 1 FROM copy WHERE inbox = ?1 AND peer = ?2)";
    DELETE_OLDEST_WEBHOOKS may scan "the subquery reads ?1 rows" = "DELETE FROM webhook
        WHERE seq < coalesce(
            (SELECT seq FROM webhook ORDER BY seq LIMIT 1 OFFSET ?1),
            (SELECT max(seq) + 1 FROM webhook))
        AND created_at < ?2";
    FIRST_SEQ = "SELECT min(seq) FROM message_data";
    NEXT_ACCOUNT = "SELECT id FROM account WHERE id > ? ORDER BY id LIMIT 1";
    DELETE_COPIES = "DELETE FROM copy WHERE inbox = ?1 AND (peer, seq) IN
        (SELECT peer, seq FROM copy INDEXED BY copy_in_order
         WHERE inbox = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3)";
    DELETE_CONVERSATIONS may scan "a sweep visits each conversation of an inbox" =
        "DELETE FROM conversation_state WHERE inbox = ?1 AND max(seq, coalesce(patch_seq, seq)) < ?2
        AND NOT EXISTS (SELECT 1 FROM copy t
            WHERE t.inbox = conversation_state.inbox AND t.peer = conversation_state.peer)";
    DELETE_ACCOUNT may scan "stops at the first row" =
        "DELETE FROM account WHERE id = ?1 AND used < ?2
        AND NOT EXISTS (SELECT 1 FROM conversation_state WHERE inbox = ?1)
        AND NOT EXISTS (SELECT 1 FROM conversation_state WHERE peer = ?1)
        AND NOT EXISTS (SELECT 1 FROM copy WHERE inbox = ?1)";
}

/// How far the sweep through the inboxes got.
#[derive(Clone, Debug, Default)]
pub(super) struct Sweep {
    /// The account whose inbox was swept last; 0 between two rounds.
    at: i64,
    /// The first message there was when the last round of this process ended.
    clean_before: Option<i64>,
    /// Whether messages were deleted since a round began that others may have copies of.
    is_due: bool,
}

impl SqliteStore {
    pub(super) fn take_prune_step(
        &mut self,
        limits: &Retention,
        now: UnixMillis,
    ) -> Result<Pruned, StoreError> {
        let before = self.sweep.clone();
        let done = self.in_transaction(|store| store.prune(limits, now));
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
            // The outbox has a limit of its own.
            Some(bytes) if swept => self.used_bytes()?.saturating_sub(self.outbox_bytes()?) > bytes,
            Some(_) | None => false,
        };
        // Nothing comes before every id.
        let acknowledged = self.progress.acknowledged.map(|id| *id.as_bytes());
        let params = params![
            ROWS_PER_STEP,
            keep_from,
            too_large,
            acknowledged.as_ref().map_or(&[][..], |id| id)
        ];
        let oldest: Vec<(i64, i64, i64, bool)> =
            self.connection.rows(&OLDEST_MESSAGES, params, |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?;
        let deleted = oldest.len();
        for (seq, sender, recipient, is_elsewhere) in oldest {
            self.sweep.is_due |= is_elsewhere;
            self.delete_message(seq, sender, recipient)?;
        }
        if deleted > 0 {
            self.cache.last_written = None;
        }
        // Webhook events hold what messages hold.
        let params = params![ROWS_PER_STEP, keep_from];
        let events = self.connection.execute(&DELETE_OLDEST_WEBHOOKS, params)?;
        let free: u32 = self.connection.pragma("freelist_count")?;
        if free > FREE_PAGES {
            self.connection.give_back_pages(ROWS_PER_STEP)?;
        }
        let is_done = deleted == 0 && events == 0 && swept && free <= FREE_PAGES;
        Ok(if is_done { Pruned::All } else { Pruned::More })
    }

    /// Deletes a message and the copies that sender and recipient have of it.
    fn delete_message(&mut self, seq: i64, sender: i64, recipient: i64) -> Result<(), StoreError> {
        for (inbox, peer) in [
            (sender, recipient),
            (recipient, sender),
            (recipient, recipient),
        ] {
            let copies = self.connection.execute(&DELETE_COPY, [inbox, peer, seq])?;
            // A group has one of its own: so may its members.
            self.sweep.is_due |= copies > 0 && inbox == peer;
            let emptied = self
                .connection
                .execute(&DELETE_CONVERSATION, [inbox, peer, seq])?;
            if emptied > 0 {
                self.cache.conversations.forget(Pair { inbox, peer });
            }
        }
        self.connection.execute(&DELETE_MESSAGE, [seq])?;
        Ok(())
    }

    /// Bytes of the file that are in use.
    pub(super) fn used_bytes(&self) -> Result<u64, StoreError> {
        let pages: u64 = self.connection.pragma::<u32>("page_count")?.into();
        let free: u64 = self.connection.pragma::<u32>("freelist_count")?.into();
        let size: u64 = self.connection.pragma::<u32>("page_size")?.into();
        Ok((pages - free) * size)
    }

    /// The number of the oldest message.
    pub(super) fn first_seq(&self) -> Result<Option<i64>, StoreError> {
        Ok(self.connection.row(&FIRST_SEQ, [], |row| row.get(0))?)
    }

    /// Sweeps some inboxes, beginning where the last step stopped. Returns whether nothing refers
    /// to a deleted message any more, as far as this round knows.
    fn sweep_step(&mut self) -> Result<bool, StoreError> {
        let first = self.first_seq()?.unwrap_or(0);
        if self.sweep.at == 0 {
            // Now and then for the accounts that nothing refers to any more.
            let is_clean = |clean: i64| !self.sweep.is_due && first < clean.saturating_add(SLACK);
            if self.sweep.clean_before.is_some_and(is_clean) {
                return Ok(true);
            }
            self.sweep.is_due = false;
        }
        let most = usize::try_from(ROWS_PER_STEP).expect("a small number");
        let mut rows = 0;
        while rows < most {
            let next = self
                .connection
                .find(&NEXT_ACCOUNT, [self.sweep.at], |row| row.get(0))?;
            let Some(account) = next else {
                self.sweep = Sweep {
                    at: 0,
                    clean_before: Some(first),
                    ..self.sweep
                };
                return Ok(true);
            };
            let params = params![account, first, ROWS_PER_STEP];
            let copies = self.connection.execute(&DELETE_COPIES, params)?;
            rows += 1 + copies;
            if copies < most {
                rows += self.sweep_account(account, first)?;
                self.sweep.at = account;
            }
        }
        Ok(false)
    }

    /// Deletes the conversations of an account, and the account, if nothing refers to them any
    /// more. Returns how many rows that were.
    fn sweep_account(&mut self, account: i64, first: i64) -> Result<usize, StoreError> {
        let conversations = self
            .connection
            .execute(&DELETE_CONVERSATIONS, [account, first])?;
        if conversations > 0 {
            self.cache.conversations.clear();
        }
        let params = [account, first - SLACK];
        let accounts = self.connection.execute(&DELETE_ACCOUNT, params)?;
        if accounts > 0 {
            self.cache.accounts = Accounts::default();
        }
        Ok(conversations + accounts)
    }
}
