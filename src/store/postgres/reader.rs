//! Reads pages for clients of the HTTP API.
//!
//! Owns the SQL of each page. All of it goes by an index, so that a page costs the same in a large
//! store.

use tokio_postgres::Row as SqlRow;

use super::connection::{Param, params};
use super::facts::{conversation_row, pair};
use super::write::key;
use super::{PostgresStore, StoreError, millis, status, unix};
use crate::protocol::address::Timeline;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::facts::FactSource;
use crate::rules::listing::{ListedConversation, ListedMessage, Slice, Window};
use crate::store::paging::{self, SliceRow, Start};
use crate::store::reader::{GiveUp, KnownClient, Reader, SLICE_BYTES};

/// Rows of a page, of which only those have their body that the page has room for: $6 bytes, and
/// one row. The sizes of the others are told without reading them.
macro_rules! sized {
    ($columns:literal, $rows:expr, $order:literal) => {
        concat!(
            "SELECT CASE WHEN total - size <= $6::bigint THEN body END, ",
            $columns,
            ", seq, size FROM (SELECT p.*, sum(size) OVER (ORDER BY ",
            $order,
            " ROWS UNBOUNDED PRECEDING) AS total FROM (",
            $rows,
            ") p) p ORDER BY ",
            $order
        )
    };
}

/// A part of a list of conversations, which stand in `page`. LEFT JOIN, because a message may be
/// pruned.
macro_rules! listed {
    ($page:expr, $order:literal) => {
        sized!(
            "status, is_new, archived, patch, is_older, convers_with",
            concat!(
                "SELECT c.*, c.patch_seq < c.seq AS is_older, t.status, m.body,
                    coalesce(octet_length(m.body), 0)::bigint
                        + coalesce(octet_length(c.patch), 0) AS size
                    FROM (",
                $page,
                " LIMIT $5) c
                LEFT JOIN timeline t ON t.app = c.app AND t.inbox_of = c.inbox_of
                    AND t.seq = c.seq AND t.convers_with = c.convers_with
                LEFT JOIN message m ON m.seq = c.seq"
            ),
            $order
        )
    };
}

// An index by position would cost each message more than it saves: rows of a list are small.
const CONVERSATIONS_BEFORE: &str = listed!(
    "SELECT * FROM conversation WHERE app = $1 AND inbox_of = $2 AND archived = $3
        AND seq <> 0 AND seq < $4 ORDER BY seq DESC",
    "seq DESC, convers_with"
);
const CONVERSATIONS_SINCE: &str = listed!(
    "SELECT * FROM conversation WHERE app = $1 AND inbox_of = $2 AND archived = $3
        AND seq <> 0 AND seq > $4 ORDER BY seq",
    "seq, convers_with"
);
// A long list begins with the conversations of the newest messages: few are read until a page is
// full, where people write to many.
const CONVERSATIONS_OF_NEWEST: &str = listed!(
    "SELECT c.* FROM (SELECT seq, convers_with FROM timeline
        WHERE app = $1 AND inbox_of = $2 AND seq < $4 ORDER BY seq DESC LIMIT 1000) n
    JOIN conversation c ON c.app = $1 AND c.inbox_of = $2
        AND c.convers_with = n.convers_with AND c.seq = n.seq AND c.archived = $3
    ORDER BY n.seq DESC",
    "seq DESC, convers_with"
);
const HAS_LONG_LIST: &str = "SELECT 1 FROM conversation
    WHERE app = $1 AND inbox_of = $2 ORDER BY convers_with LIMIT 1 OFFSET 1000";
const CLIENTS_SINCE: &str = "SELECT app, user_id, client_id, since FROM presence
    WHERE since > $1 AND since < $2 ORDER BY since LIMIT $3";
const INSTANCES: &str = "SELECT instance_id, body FROM instance
    WHERE app = $1 AND user_id = $2 ORDER BY since DESC";
/// A part of a timeline.
macro_rules! messages {
    ($where:literal, $order:literal) => {
        sized!(
            "status",
            concat!(
                "SELECT m.body, t.status, t.seq,
                    coalesce(octet_length(m.body), 0)::bigint AS size
                    FROM timeline t LEFT JOIN message m ON m.seq = t.seq
                    WHERE t.app = $1 AND t.inbox_of = $2 AND t.convers_with = $3 AND t.",
                $where,
                " LIMIT $5"
            ),
            $order
        )
    };
}

const MESSAGES_BEFORE: &str = messages!("seq < $4 ORDER BY t.seq DESC", "seq DESC");
const MESSAGES_SINCE: &str = messages!("seq > $4 ORDER BY t.seq", "seq");

impl Reader for PostgresStore {
    fn begin_read(&mut self) -> Result<GiveUp, StoreError> {
        self.connection.begin_read()
    }

    fn conversations(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        archived: bool,
        window: Window,
    ) -> Result<Slice<ListedConversation>, StoreError> {
        self.list(app, user, archived, window)
    }

    fn listed_conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, StoreError> {
        let row = self.conversation(timeline)?;
        Ok(row.filter(|row| row.last.is_some()))
    }

    fn messages(
        &mut self,
        timeline: &Timeline<'_>,
        window: Window,
    ) -> Result<Slice<ListedMessage>, StoreError> {
        let Start {
            newest_first,
            edge,
            limit,
        } = Start::of(window, |time| self.position_by(time))?;
        let sql = match newest_first {
            true => MESSAGES_BEFORE,
            false => MESSAGES_SINCE,
        };
        let [app, inbox_of, peer] = key(timeline);
        let params = params![app, inbox_of, peer, edge, limit, most_bytes()];
        self.slice(sql, params, window.limit, |row| {
            let body: Option<String> = row.get(0);
            let status = status(row.get(1));
            let message = body.map(|body| ListedMessage {
                body: body.into(),
                status,
            });
            slice_row((row.get(2), row.get(3)), message)
        })
    }

    fn instances(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let [app, user] = pair(app.as_str(), user.as_str());
        self.rows(INSTANCES, params![app, user], |row| {
            (row.get(0), row.get(1))
        })
    }

    fn clients_since(
        &mut self,
        after: UnixMillis,
        before: UnixMillis,
        limit: usize,
    ) -> Result<Vec<KnownClient>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params = params![millis(after), millis(before), limit];
        self.rows(CLIENTS_SINCE, params, |row| KnownClient {
            app: row.get(0),
            user: row.get(1),
            client: row.get(2),
            since: unix(row.get(3)),
        })
    }

    fn group_body(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<Option<String>, StoreError> {
        self.group_object(app, id)
    }
}

impl PostgresStore {
    /// A part of a user's conversations.
    pub(super) fn list(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        archived: bool,
        window: Window,
    ) -> Result<Slice<ListedConversation>, StoreError> {
        let Start {
            newest_first,
            edge,
            limit,
        } = Start::of(window, |time| self.position_by(time))?;
        let sql = match newest_first {
            true => CONVERSATIONS_BEFORE,
            false => CONVERSATIONS_SINCE,
        };
        let [app, user] = pair(app.as_str(), user.as_str());
        let params = || {
            let (app, user) = (app.clone(), user.clone());
            params![app, user, archived, edge, limit, most_bytes()]
        };
        let read = |row: &SqlRow| {
            let listed = ListedConversation {
                convers_with: row.get::<_, String>(6).into(),
                row: conversation_row(row),
            };
            let is_there = listed.row.last.is_some();
            slice_row((row.get(7), row.get(8)), is_there.then_some(listed))
        };
        let key = params![app.clone(), user.clone()];
        if newest_first && self.exists(HAS_LONG_LIST, key)? {
            let newest = self.slice(CONVERSATIONS_OF_NEWEST, params(), window.limit, read)?;
            // Otherwise there may be more behind those messages.
            if newest.next.is_some() {
                return Ok(newest);
            }
        }
        self.slice(sql, params(), window.limit, read)
    }

    fn slice<T>(
        &self,
        sql: &'static str,
        params: Vec<Param>,
        limit: usize,
        read: impl FnMut(&SqlRow) -> SliceRow<T>,
    ) -> Result<Slice<T>, StoreError> {
        paging::slice(self.rows(sql, params, read)?.into_iter().map(Ok), limit)
    }
}

/// A row whose size the database tells.
fn slice_row<T>((position, bytes): (i64, i64), entry: Option<T>) -> SliceRow<T> {
    SliceRow {
        position,
        bytes: usize::try_from(bytes).unwrap_or(0),
        entry,
    }
}

/// Bytes that a part of a list has room for.
fn most_bytes() -> i64 {
    i64::try_from(SLICE_BYTES).unwrap_or(i64::MAX)
}
