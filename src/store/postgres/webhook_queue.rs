//! The operator's view of the outbox: lists events, has them tried again, drops them.

use tokio_postgres::Row;

use super::connection::params;
use super::outbox::Changes;
use super::{PostgresStore, StoreError, millis};
use crate::protocol::time::UnixMillis;
use crate::store::{Selection, WebhookQueue, WebhookRow};

// $1 selects by id; without it, $2 by whether they were given up.
const LIST: &str =
    "SELECT w.delivery_id, w.endpoint, w.event_type, w.created_at, w.attempts, w.due,
        w.error, (octet_length(w.head) + coalesce(octet_length(d.data), 0))::bigint
    FROM webhook w LEFT JOIN webhook_data d ON d.id = w.data
    WHERE ($1::text[] IS NULL OR w.delivery_id = ANY ($1)) AND (NOT $2::boolean OR w.due IS NULL)
    ORDER BY w.seq";
const SELECTED: &str = "SELECT seq FROM webhook
    WHERE ($1::text[] IS NULL OR delivery_id = ANY ($1)) AND (NOT $2::boolean OR due IS NULL)
    ORDER BY seq";
// The rows as they were tell which of them count among the waiting now.
const RETRY: &str = "UPDATE webhook w SET due = $1, since = $1, attempts = 0
    FROM (SELECT seq, due IS NULL AS given_up FROM webhook WHERE seq = ANY ($2::bigint[])
        FOR UPDATE) was
    WHERE w.seq = was.seq RETURNING w.endpoint, was.given_up";

impl WebhookQueue for PostgresStore {
    fn webhooks(&self, selection: &Selection) -> Result<Vec<WebhookRow>, StoreError> {
        let (ids, given_up) = conditions(selection);
        self.rows(LIST, params![ids, given_up], webhook_row)
    }

    fn retry_webhooks(
        &mut self,
        selection: &Selection,
        now: UnixMillis,
    ) -> Result<usize, StoreError> {
        let (ids, given_up) = conditions(selection);
        self.atomically(|store| {
            let seqs = store.numbers(SELECTED, params![ids.clone(), given_up])?;
            store.open_transaction()?;
            let mut changes = Changes::default();
            let changed = store.rows(RETRY, params![millis(now), seqs], |row| {
                let was_given_up = i64::from(row.get::<_, bool>(1));
                let change = changes.of(row.get(0));
                change.events += was_given_up;
                change.given_up -= was_given_up;
            })?;
            store.count(changes);
            Ok(changed.len())
        })
    }

    fn drop_webhooks(&mut self, selection: &Selection) -> Result<usize, StoreError> {
        let (ids, given_up) = conditions(selection);
        self.atomically(|store| {
            let seqs = store.numbers(SELECTED, params![ids.clone(), given_up])?;
            store.delete_events(seqs)
        })
    }
}

/// The ids to select, if only some, and whether only what was given up.
fn conditions(selection: &Selection) -> (Option<Vec<String>>, bool) {
    match selection {
        Selection::Ids(ids) => (Some(ids.clone()), false),
        Selection::GivenUp => (None, true),
        Selection::All => (None, false),
    }
}

fn webhook_row(row: &Row) -> WebhookRow {
    WebhookRow {
        id: row.get(0),
        endpoint: row.get(1),
        event_type: row.get(2),
        created_at: row.get(3),
        attempts: u32::try_from(row.get::<_, i64>(4)).unwrap_or(u32::MAX),
        due: row.get(5),
        error: row.get(6),
        bytes: row.get(7),
    }
}
