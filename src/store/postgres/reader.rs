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
use crate::rules::listing::{From, ListedConversation, ListedMessage, Place, Slice, Window};
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
    WHERE app = $1 AND inbox_of = $2 LIMIT 1 OFFSET 1000";
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
        let (sql, edge, limit) = self.resolve(window, [MESSAGES_BEFORE, MESSAGES_SINCE])?;
        let [app, inbox_of, peer] = key(timeline);
        let params = params![app, inbox_of, peer, edge, limit, most_bytes()];
        self.slice(sql, params, window.limit, |row| {
            let body: Option<String> = row.get(0);
            let status = status(row.get(1));
            let message = body.map(|body| ListedMessage {
                body: body.into(),
                status,
            });
            (row.get(2), row.get(3), message)
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
        let (sql, edge, limit) =
            self.resolve(window, [CONVERSATIONS_BEFORE, CONVERSATIONS_SINCE])?;
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
            (row.get(7), row.get(8), is_there.then_some(listed))
        };
        let is_newest_first = !matches!(window.from, From::Since(_));
        let key = params![app.clone(), user.clone()];
        if is_newest_first && self.exists(HAS_LONG_LIST, key)? {
            let newest = self.slice(CONVERSATIONS_OF_NEWEST, params(), window.limit, read)?;
            // Otherwise there may be more behind those messages.
            if newest.next.is_some() {
                return Ok(newest);
            }
        }
        self.slice(sql, params(), window.limit, read)
    }

    /// The statement for a part of a list, of those for newest and for oldest first; the position
    /// it does not include; and how many rows it returns: one more than asked for tells whether
    /// there is more.
    fn resolve(
        &self,
        window: Window,
        [before, since]: [&'static str; 2],
    ) -> Result<(&'static str, i64, i64), StoreError> {
        let (sql, edge) = match window.from {
            From::Newest => (before, i64::MAX),
            From::Before(Place::Position(position)) => (before, position),
            From::Since(Place::Position(position)) => (since, position),
            From::Before(Place::Time(time)) => {
                let earlier = UnixMillis::new(time.as_millis().saturating_sub(1));
                (before, self.position_by(earlier)? + 1)
            }
            From::Since(Place::Time(time)) => (since, self.position_by(time)?),
        };
        let limit = i64::try_from(window.limit).unwrap_or(i64::MAX);
        Ok((sql, edge, limit.saturating_add(1)))
    }

    /// Reads a part of a list. `read` returns the position of a row, how many bytes it holds, and
    /// its entry: none for a message that is pruned.
    fn slice<T>(
        &self,
        sql: &'static str,
        params: Vec<Param>,
        limit: usize,
        read: impl FnMut(&SqlRow) -> (i64, i64, Option<T>),
    ) -> Result<Slice<T>, StoreError> {
        let mut slice = Slice {
            entries: vec![],
            next: None,
        };
        let (mut rows_read, mut bytes, mut last) = (0, 0, None);
        for (position, size, entry) in self.rows(sql, params, read)? {
            if rows_read == limit || (rows_read > 0 && bytes + size > most_bytes()) {
                slice.next = last;
                break;
            }
            slice.entries.extend(entry);
            (rows_read, bytes, last) = (rows_read + 1, bytes + size, Some(position));
        }
        Ok(slice)
    }
}

/// Bytes that a part of a list has room for.
fn most_bytes() -> i64 {
    i64::try_from(SLICE_BYTES).unwrap_or(i64::MAX)
}
