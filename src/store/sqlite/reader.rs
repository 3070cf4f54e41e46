//! Reads pages for clients of the HTTP API.
//!
//! Owns the SQL of each page. All of it goes by an index, so that a page costs the same in a large
//! store.

use rusqlite::{Params, Row as SqlRow, params};

use super::connection::{Statement, statements};
use super::facts::conversation_row;
use super::write::names;
use super::{SqliteStore, StoreError, status};
use crate::protocol::address::Timeline;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::facts::FactSource;
use crate::rules::listing::{From, ListedConversation, ListedMessage, Place, Slice, Window};
use crate::store::reader::{Reader, SLICE_BYTES};

/// The columns of a listed conversation, and the tables they stand in: `page` is a part of a list.
/// LEFT JOIN, because a message may be pruned.
macro_rules! listed {
    ($page:literal, $order:literal) => {
        concat!(
            "SELECT m.body, t.status, c.is_new, c.archived, c.patch, c.patch_seq < c.seq,
                c.convers_with, c.seq FROM (SELECT * FROM conversation
                WHERE app = ?1 AND inbox_of = ?2 AND archived = ?3 AND ",
            $page,
            " LIMIT ?5) c
            LEFT JOIN timeline t ON t.app = c.app AND t.inbox_of = c.inbox_of
                AND t.seq = c.seq AND t.convers_with = c.convers_with
            LEFT JOIN message m ON m.seq = c.seq ORDER BY c.seq ",
            $order
        )
    };
}

statements! {
    // An index by position would cost each message more than it saves: rows of a list are small.
    CONVERSATIONS_BEFORE may scan "one user's list" =
        listed!("seq <> 0 AND seq < ?4 ORDER BY seq DESC", "DESC");
    CONVERSATIONS_SINCE may scan "one user's list" =
        listed!("seq <> 0 AND seq > ?4 ORDER BY seq", "ASC");
    // A long list begins with the conversations of the newest messages: few are read until a page
    // is full, where people write to many. CROSS JOIN fixes the order.
    CONVERSATIONS_OF_NEWEST may scan "stops after 1000 rows" = "SELECT
            m.body, n.status, c.is_new, c.archived, c.patch, c.patch_seq < c.seq,
            c.convers_with, c.seq
        FROM (SELECT seq, convers_with, status FROM timeline
            WHERE app = ?1 AND inbox_of = ?2 AND seq < ?4 ORDER BY seq DESC LIMIT 1000) n
        CROSS JOIN conversation c ON c.app = ?1 AND c.inbox_of = ?2
            AND c.convers_with = n.convers_with AND c.seq = n.seq AND c.archived = ?3
        LEFT JOIN message m ON m.seq = c.seq
        ORDER BY n.seq DESC LIMIT ?5";
    HAS_LONG_LIST may scan "stops after 1000 rows" = "SELECT 1 FROM conversation
        WHERE app = ? AND inbox_of = ? LIMIT 1 OFFSET 1000";
    INSTANCES = "SELECT instance_id, body FROM instance INDEXED BY instance_by_user
        WHERE app = ? AND user = ? ORDER BY since DESC";
    MESSAGES_BEFORE = "SELECT m.body, t.status, t.seq
        FROM timeline t INDEXED BY timeline_by_peer LEFT JOIN message m ON m.seq = t.seq
        WHERE t.app = ? AND t.inbox_of = ? AND t.convers_with = ? AND t.seq < ?
        ORDER BY t.seq DESC LIMIT ?";
    MESSAGES_SINCE = "SELECT m.body, t.status, t.seq
        FROM timeline t INDEXED BY timeline_by_peer LEFT JOIN message m ON m.seq = t.seq
        WHERE t.app = ? AND t.inbox_of = ? AND t.convers_with = ? AND t.seq > ?
        ORDER BY t.seq LIMIT ?";
}

impl Reader for SqliteStore {
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
        let (statement, edge, limit) = self.resolve(window, [&MESSAGES_BEFORE, &MESSAGES_SINCE])?;
        let [app, inbox_of, convers_with] = names(timeline);
        let params = params![app, inbox_of, convers_with, edge, limit];
        self.slice(statement, params, window.limit, |row| {
            let body: Option<Box<str>> = row.get(0)?;
            let status = row.get(1).map(status)?;
            let bytes = body.as_ref().map_or(0, |body| body.len());
            let message = body.map(|body| ListedMessage { body, status });
            Ok((row.get(2)?, bytes, message))
        })
    }

    fn instances(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let key = [app.as_str(), user.as_str()];
        let read = |row: &SqlRow<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(self.connection.rows(&INSTANCES, key, read)?)
    }

    fn group_body(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<Option<String>, StoreError> {
        self.group_object(app, id)
    }
}

impl SqliteStore {
    /// A part of a user's conversations.
    pub(super) fn list(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        archived: bool,
        window: Window,
    ) -> Result<Slice<ListedConversation>, StoreError> {
        let statements = [&CONVERSATIONS_BEFORE, &CONVERSATIONS_SINCE];
        let (statement, edge, limit) = self.resolve(window, statements)?;
        let params = params![app.as_str(), user.as_str(), archived, edge, limit];
        let read = |row: &SqlRow<'_>| {
            let listed = ListedConversation {
                convers_with: row.get(6)?,
                row: conversation_row(row)?,
            };
            let last = listed.row.last.as_ref();
            let patch = listed.row.patch.as_ref().map_or(0, |patch| patch.len());
            let bytes = patch + last.map_or(0, |(body, _)| body.len());
            Ok((row.get(7)?, bytes, last.is_some().then_some(listed)))
        };
        let key = [app.as_str(), user.as_str()];
        let is_newest_first = !matches!(window.from, From::Since(_));
        if is_newest_first && self.connection.exists(&HAS_LONG_LIST, key)? {
            let newest = self.slice(&CONVERSATIONS_OF_NEWEST, params, window.limit, read)?;
            // Otherwise there may be more behind those messages.
            if newest.next.is_some() {
                return Ok(newest);
            }
        }
        self.slice(statement, params, window.limit, read)
    }

    /// The statement for a part of a list, of those for newest and for oldest first; the position
    /// it does not include; and how many rows it returns: one more than asked for tells whether
    /// there is more.
    fn resolve<'s>(
        &self,
        window: Window,
        [before, since]: [&'s Statement; 2],
    ) -> Result<(&'s Statement, i64, i64), StoreError> {
        let (statement, edge) = match window.from {
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
        Ok((statement, edge, limit.saturating_add(1)))
    }

    /// Reads a part of a list. `read` returns the position of a row, how many bytes it holds, and
    /// its entry: none for a message that is pruned.
    fn slice<T>(
        &self,
        statement: &Statement,
        params: impl Params,
        limit: usize,
        read: impl Fn(&SqlRow<'_>) -> rusqlite::Result<(i64, usize, Option<T>)>,
    ) -> Result<Slice<T>, StoreError> {
        let mut statement = self.connection.prepare(statement)?;
        let mut rows = statement.query(params)?;
        let mut slice = Slice {
            entries: vec![],
            next: None,
        };
        let (mut rows_read, mut bytes, mut last) = (0, 0, None);
        while let Some(row) = rows.next()? {
            let (position, size, entry) = read(row)?;
            if rows_read == limit || (rows_read > 0 && bytes + size > SLICE_BYTES) {
                slice.next = last;
                break;
            }
            slice.entries.extend(entry);
            (rows_read, bytes, last) = (rows_read + 1, bytes + size, Some(position));
        }
        Ok(slice)
    }
}
