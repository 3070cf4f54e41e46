//! The operator's view of the outbox: lists events, has them tried again, drops them.

use std::collections::BTreeSet;

use rusqlite::Row;

use super::connection::statements;
use super::{SqliteStore, StoreError, millis};
use crate::protocol::time::UnixMillis;
use crate::store::{Selection, WebhookQueue, WebhookRow};

/// The query of a [`WebhookRow`] for each selected event.
macro_rules! list_where {
    ($condition:literal) => {
        concat!(
            "SELECT w.delivery_id, w.endpoint, w.event_type, w.created_at, w.attempts, w.due,
                w.error, length(CAST(w.head AS BLOB)) + length(CAST(d.data AS BLOB)), w.seq
             FROM webhook w CROSS JOIN webhook_data d ON d.id = w.data
             WHERE ",
            $condition,
            " ORDER BY w.seq"
        )
    };
}

/// The change that makes the selected events due at time ?1.
macro_rules! retry_where {
    ($condition:literal) => {
        concat!(
            "UPDATE webhook SET due = ?1, since = ?1, attempts = 0 WHERE ",
            $condition
        )
    };
}

statements! {
    LIST_ID = list_where!("w.delivery_id = ?");
    LIST_GIVEN_UP may scan "a command that lists them all" = list_where!("w.due IS NULL");
    LIST_ALL may scan "a command that lists them all" = list_where!("1");
    RETRY_ID = retry_where!("delivery_id = ?2");
    RETRY_GIVEN_UP may scan "a command that changes them all" = retry_where!("due IS NULL");
    RETRY_ALL may scan "a command that changes them all" = retry_where!("1");
    DROP_ID = "DELETE FROM webhook WHERE delivery_id = ?";
    DROP_GIVEN_UP may scan "a command that deletes them all" =
        "DELETE FROM webhook WHERE due IS NULL";
    DROP_ALL may scan "a command that deletes them all" = "DELETE FROM webhook";
}

impl WebhookQueue for SqliteStore {
    fn webhooks(&self, selection: &Selection) -> Result<Vec<WebhookRow>, StoreError> {
        let mut rows = match selection {
            Selection::Ids(ids) => {
                let mut rows = vec![];
                for id in ids {
                    rows.extend(self.connection.rows(&LIST_ID, [id], numbered_row)?);
                }
                rows
            }
            Selection::GivenUp => self.connection.rows(&LIST_GIVEN_UP, [], numbered_row)?,
            Selection::All => self.connection.rows(&LIST_ALL, [], numbered_row)?,
        };
        rows.sort_by_key(|(seq, _)| *seq);
        rows.dedup_by_key(|(seq, _)| *seq);
        Ok(rows.into_iter().map(|(_, row)| row).collect())
    }

    fn retry_webhooks(
        &mut self,
        selection: &Selection,
        now: UnixMillis,
    ) -> Result<usize, StoreError> {
        let now = millis(now);
        let changed = match selection {
            Selection::Ids(ids) => self.change_each(ids, |store, id| {
                store.connection.execute(&RETRY_ID, (now, id))
            })?,
            Selection::GivenUp => self.connection.execute(&RETRY_GIVEN_UP, [now])?,
            Selection::All => self.connection.execute(&RETRY_ALL, [now])?,
        };
        Ok(changed)
    }

    fn drop_webhooks(&mut self, selection: &Selection) -> Result<usize, StoreError> {
        let dropped = match selection {
            Selection::Ids(ids) => {
                self.change_each(ids, |store, id| store.connection.execute(&DROP_ID, [id]))?
            }
            Selection::GivenUp => self.connection.execute(&DROP_GIVEN_UP, [])?,
            Selection::All => self.connection.execute(&DROP_ALL, [])?,
        };
        Ok(dropped)
    }
}

impl SqliteStore {
    /// Changes the events with these ids, in one transaction. Returns how many were changed.
    fn change_each(
        &mut self,
        ids: &[String],
        change: impl Fn(&Self, &str) -> rusqlite::Result<usize>,
    ) -> Result<usize, StoreError> {
        let distinct: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        self.in_transaction(|store| {
            let changed: rusqlite::Result<usize> =
                distinct.into_iter().map(|id| change(store, id)).sum();
            Ok(changed?)
        })
    }
}

/// A row of the list, and the event's number.
fn numbered_row(row: &Row<'_>) -> rusqlite::Result<(i64, WebhookRow)> {
    let listed = WebhookRow {
        id: row.get(0)?,
        endpoint: row.get(1)?,
        event_type: row.get(2)?,
        created_at: row.get(3)?,
        attempts: row.get(4)?,
        due: row.get(5)?,
        error: row.get(6)?,
        bytes: row.get(7)?,
    };
    Ok((row.get(8)?, listed))
}
