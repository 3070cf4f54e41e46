//! Reads pages for clients of the HTTP API.
//!
//! Owns the SQL of each page. All of it goes by an index, so that a page costs the same in a large
//! store.

use rusqlite::{Params, Row as SqlRow, params};

use super::connection::{Statement, statements};
use super::conversations::{conversation_columns, conversation_row, is_last_copy};
use super::encoding::{account, body_accounts, body_columns, read_body};
use super::write::names;
use super::{SqliteStore, StoreError, millis, status, unix};
use crate::protocol::address::Timeline;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::facts::FactSource;
use crate::rules::listing::{ListedConversation, ListedMessage, Slice, Window};
use crate::store::paging::{self, SliceRow, Start};
use crate::store::reader::{GiveUp, KnownClient, Reader};

/// The columns of a listed conversation: a page `c` of a list, with the copies and messages that
/// show there. LEFT JOIN, because a message may be pruned.
macro_rules! listed {
    ($page:expr, $order:literal) => {
        concat!(
            "SELECT ",
            conversation_columns!(),
            ", p.name, c.last FROM (",
            $page,
            " LIMIT ?4) c
            CROSS JOIN copy t ON t.inbox = c.inbox AND t.peer = c.peer AND t.seq = c.last
            LEFT JOIN message_data m ON m.seq = c.last ",
            body_accounts!(),
            " LEFT JOIN account p ON p.id = c.peer ORDER BY c.last ",
            $order
        )
    };
}

/// A page of all rows of a list.
macro_rules! of_all {
    ($rows:literal, $edge:literal) => {
        concat!(
            "SELECT c.*, t.seq AS last FROM conversation_state c ",
            $rows,
            " CROSS JOIN copy t ON ",
            is_last_copy!(),
            " WHERE c.inbox = ",
            account!("?1", "?2"),
            " AND t.seq ",
            $edge
        )
    };
}

/// A page of the conversations of a thousand copies that follow each other. CROSS JOIN fixes the
/// order.
macro_rules! of_nearest {
    ($edge:literal, $order:literal) => {
        concat!(
            "SELECT c.*, t.seq AS last FROM (SELECT inbox, peer, seq
                FROM copy INDEXED BY copy_in_order WHERE inbox = ",
            account!("?1", "?2"),
            " AND seq ",
            $edge,
            " ORDER BY seq ",
            $order,
            " LIMIT 1000) t
            CROSS JOIN conversation_state c ON NOT c.archived AND c.inbox = t.inbox
                AND c.peer = t.peer AND ",
            is_last_copy!(),
            " ORDER BY t.seq ",
            $order
        )
    };
}

statements! {
    CLIENTS_SINCE may scan "now and then, and in nobody's way" = "SELECT app, user, client_id, since
        FROM presence WHERE since > ? AND since < ? ORDER BY since LIMIT ?";
    LISTED_BEFORE may scan "one user's list" =
        listed!(of_all!("", "< ?3 AND NOT c.archived ORDER BY t.seq DESC"), "DESC");
    LISTED_SINCE may scan "one user's list" =
        listed!(of_all!("", "> ?3 AND NOT c.archived ORDER BY t.seq"), "ASC");
    ARCHIVED_BEFORE may scan "one user's archive" =
        listed!(of_all!("INDEXED BY conversation_state_archived",
            "< ?3 AND c.archived ORDER BY t.seq DESC"), "DESC");
    ARCHIVED_SINCE may scan "one user's archive" =
        listed!(of_all!("INDEXED BY conversation_state_archived",
            "> ?3 AND c.archived ORDER BY t.seq"), "ASC");
    // A long list begins with the conversations of the nearest messages: few are read until a page
    // is full, where people write to many.
    NEAREST_BEFORE may scan "stops after 1000 rows" = listed!(of_nearest!("< ?3", "DESC"), "DESC");
    NEAREST_SINCE may scan "stops after 1000 rows" = listed!(of_nearest!("> ?3", "ASC"), "ASC");
    HAS_LONG_LIST may scan "stops after 200 rows" = concat!("SELECT 1 FROM conversation_state
        WHERE inbox = ", account!("?", "?"), " LIMIT 1 OFFSET 200");
    INSTANCES = "SELECT instance_id, body FROM instance INDEXED BY instance_by_user
        WHERE app = ? AND user = ? ORDER BY since DESC";
    MESSAGES_BEFORE = concat!("SELECT ", body_columns!(), ", t.status, t.seq
        FROM copy t LEFT JOIN message_data m ON m.seq = t.seq ", body_accounts!(),
        " WHERE t.inbox = ", account!("?1", "?2"), " AND t.peer = ", account!("?1", "?3"),
        " AND t.seq < ?4 ORDER BY t.seq DESC LIMIT ?5");
    MESSAGES_SINCE = concat!("SELECT ", body_columns!(), ", t.status, t.seq
        FROM copy t LEFT JOIN message_data m ON m.seq = t.seq ", body_accounts!(),
        " WHERE t.inbox = ", account!("?1", "?2"), " AND t.peer = ", account!("?1", "?3"),
        " AND t.seq > ?4 ORDER BY t.seq LIMIT ?5");
}

impl Reader for SqliteStore {
    fn begin_read(&mut self) -> Result<GiveUp, StoreError> {
        Ok(self.connection.begin_read())
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
        let start = Start::of(window, |time| self.position_by(time))?;
        let statement = match start.newest_first {
            true => &MESSAGES_BEFORE,
            false => &MESSAGES_SINCE,
        };
        let [app, inbox_of, convers_with] = names(timeline);
        let params = params![app, inbox_of, convers_with, start.edge, start.limit];
        self.slice(statement, params, window.limit, |row| {
            let body = read_body(row)?.map(String::into_boxed_str);
            let status = row.get(7).map(status)?;
            Ok(SliceRow {
                position: row.get(8)?,
                bytes: body.as_ref().map_or(0, |body| body.len()),
                entry: body.map(|body| ListedMessage { body, status }),
            })
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

    fn clients_since(
        &mut self,
        after: UnixMillis,
        before: UnixMillis,
        limit: usize,
    ) -> Result<Vec<KnownClient>, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = |row: &SqlRow<'_>| {
            Ok(KnownClient {
                app: row.get(0)?,
                user: row.get(1)?,
                client: row.get(2)?,
                since: unix(row.get(3)?),
            })
        };
        let params = params![millis(after), millis(before), limit];
        Ok(self.connection.rows(&CLIENTS_SINCE, params, read)?)
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
        let start = Start::of(window, |time| self.position_by(time))?;
        let (all, nearest) = match (archived, start.newest_first) {
            (true, true) => (&ARCHIVED_BEFORE, None),
            (true, false) => (&ARCHIVED_SINCE, None),
            (false, true) => (&LISTED_BEFORE, Some(&NEAREST_BEFORE)),
            (false, false) => (&LISTED_SINCE, Some(&NEAREST_SINCE)),
        };
        let params = params![app.as_str(), user.as_str(), start.edge, start.limit];
        let read = |row: &SqlRow<'_>| {
            let convers_with: Option<Box<str>> = row.get(12)?;
            let listed = ListedConversation {
                convers_with: convers_with.unwrap_or_default(),
                row: conversation_row(row)?,
            };
            let last = listed.row.last.as_ref();
            let patch = listed.row.patch.as_ref().map_or(0, |patch| patch.len());
            Ok(SliceRow {
                position: row.get(13)?,
                bytes: patch + last.map_or(0, |(body, _)| body.len()),
                entry: last.is_some().then_some(listed),
            })
        };
        let key = [app.as_str(), user.as_str()];
        if let Some(nearest) = nearest
            && self.connection.exists(&HAS_LONG_LIST, key)?
        {
            let found = self.slice(nearest, params, window.limit, read)?;
            // Otherwise there may be more behind those messages.
            if found.next.is_some() {
                return Ok(found);
            }
        }
        self.slice(all, params, window.limit, read)
    }

    fn slice<T>(
        &self,
        statement: &Statement,
        params: impl Params,
        limit: usize,
        read: impl Fn(&SqlRow<'_>) -> rusqlite::Result<SliceRow<T>>,
    ) -> Result<Slice<T>, StoreError> {
        let mut statement = self.connection.prepare(statement)?;
        let rows = statement.query_map(params, read)?;
        paging::slice(rows.map(|row| row.map_err(StoreError::from)), limit)
    }
}
