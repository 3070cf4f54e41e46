//! Answers the questions that the rules ask about stored facts.
//!
//! Owns the SQL of each answer. Which request needs which facts, and what follows from them, is
//! decided in [`rules`](crate::rules).

use std::sync::Arc;

use rusqlite::{Row, params};

use super::connection::{Statement, statements};
use super::conversations::{conversation_columns, conversation_row, is_last_copy};
use super::encoding::{IdText, StoredId, account, body_accounts, body_columns, read_body};
use super::write::names;
use super::{Cache, SqliteStore, StoreError, status, unix};
use crate::protocol::address::Timeline;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row as ConversationRow;
use crate::rules::facts::{
    Absence, ConnectedClient, FactSource, GroupLookup, OfflineDelivery, StoredCopy,
};
use crate::store::delivery_log::DeliveryLog;
use crate::store::{columns, paging};

statements! {
    ANY_BAN may scan "stops at the first row" = "SELECT 1 FROM ban LIMIT 1";
    ANY_BLOCK may scan "stops at the first row" = "SELECT 1 FROM block LIMIT 1";
    ANY_GROUP may scan "stops at the first row" = "SELECT 1 FROM chat_group LIMIT 1";
    IS_BANNED = "SELECT 1 FROM ban WHERE app = ? AND user = ?";
    FIND_GROUP = "SELECT body FROM chat_group WHERE app = ? AND group_id = ?";
    HAS_TIMELINE may scan "stops at the first row" = concat!("SELECT 1 FROM copy WHERE inbox = ",
        account!("?", "?"), " LIMIT 1");
    BLOCKED_USERS = "SELECT other FROM block INDEXED BY block_by_owner
        WHERE app = ? AND inbox_of = ?";
    BEFORE_NEWEST = concat!("SELECT seq FROM copy WHERE inbox = ", account!("?1", "?2"),
        " AND peer = ", account!("?1", "?3"), " ORDER BY seq DESC LIMIT 1 OFFSET ?4");
    IS_BLOCKED = "SELECT 1 FROM block WHERE app = ? AND other = ? AND inbox_of = ?";
    BLOCKED_BY = "SELECT inbox_of FROM block WHERE app = ? AND other = ?";
    COUNT_BLOCKED = "SELECT count(*) FROM
        (SELECT 1 FROM block WHERE app = ? AND inbox_of = ? LIMIT ?)";
    // The condition of the index, word for word.
    COUNT_GROUPS = "SELECT count(*) FROM (SELECT 1 FROM chat_group INDEXED BY chat_group_by_owner
        WHERE app = ? AND CASE WHEN json_valid(body) THEN json_extract(body, '$.owner') END = ?
        LIMIT ?)";
    COUNT_CONVERSATIONS may scan "stops after ?3 rows" = concat!("SELECT count(*) FROM
        (SELECT 1 FROM conversation_state WHERE inbox = ", account!("?", "?"), " LIMIT ?)");
    // CROSS JOIN fixes the order: SQLite would read the whole inbox instead.
    FIND_COPY = concat!("SELECT s.name, t.status FROM message_data m CROSS JOIN copy t
        ON t.inbox = ", account!("?1", "?2"), " AND t.peer = ", account!("?1", "?3"),
        " AND t.seq = m.seq LEFT JOIN account s ON s.id = m.sender WHERE m.id = ?4");
    // Receipts are for messages that have just come: the search ends somewhere, and does not look
    // into large bodies. Somebody may have edited a body by hand.
    FIND_BY_TEMP_UID may scan "stops after 100 rows" = concat!("SELECT ", body_columns!(),
        ", t.status FROM (SELECT seq, status FROM copy WHERE inbox = ", account!("?1", "?2"),
        " AND peer = ", account!("?1", "?3"), " ORDER BY seq DESC LIMIT 100) t
        CROSS JOIN message_data m ON m.seq = t.seq ", body_accounts!(),
        " WHERE octet_length(m.body) < 16384 AND instr(m.body, ?4) > 0 ORDER BY t.seq DESC");
    FIND_CONVERSATION = concat!("SELECT ", conversation_columns!(), " FROM conversation_state c
        LEFT JOIN copy t ON ", is_last_copy!(), " LEFT JOIN message_data m ON m.seq = t.seq ",
        body_accounts!(), " WHERE c.inbox = ", account!("?1", "?2"),
        " AND c.peer = ", account!("?1", "?3"));
    CLIENTS = "SELECT client_id, since FROM presence WHERE app = ? AND user = ?";
    FIND_ABSENCE = "SELECT seq, redelivered_by FROM absence WHERE app = ? AND user = ?";
    LAST_POSITION = "SELECT max(seq) FROM message_data";
    MESSAGE_UP_TO = "SELECT seq, stored_at FROM message_data WHERE seq <= ?
        ORDER BY seq DESC LIMIT 1";
}

impl FactSource for SqliteStore {
    type Error = StoreError;

    fn is_banned(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
        Ok(self.any(&ANY_BAN, |cache| &mut cache.any_ban)?
            && self
                .connection
                .exists(&IS_BANNED, [app.as_str(), user.as_str()])?)
    }

    fn group(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<GroupLookup, StoreError> {
        let lookup = |group| match group {
            Some(group) => GroupLookup::Stored(group),
            None => GroupLookup::NotStored,
        };
        if !self.any(&ANY_GROUP, |cache| &mut cache.any_group)? {
            return Ok(GroupLookup::NotStored);
        }
        let (app, id) = (app.as_str(), id.as_str());
        if let Some(known) = self.cache.groups.get(app, id) {
            return Ok(lookup(known));
        }
        let body: Option<String> = self
            .connection
            .find(&FIND_GROUP, [app, id], |row| row.get(0))?;
        // The body was checked when it was stored.
        let group = body.and_then(|body| Group::parse(&body).ok()).map(Arc::new);
        self.cache.groups.insert(app, id, group.clone());
        Ok(lookup(group))
    }

    fn group_object(
        &mut self,
        app: AppId<'_>,
        id: UserId<'_>,
    ) -> Result<Option<String>, StoreError> {
        let key = [app.as_str(), id.as_str()];
        Ok(self.connection.find(&FIND_GROUP, key, |row| row.get(0))?)
    }

    fn has_timeline(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
        let key = [app.as_str(), user.as_str()];
        Ok(self.connection.exists(&HAS_TIMELINE, key)?)
    }

    fn blocked_users(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
        let key = [app.as_str(), user.as_str()];
        Ok(self
            .connection
            .rows(&BLOCKED_USERS, key, |row| row.get(0))?)
    }

    fn position_before_newest(
        &mut self,
        timeline: &Timeline<'_>,
        count: usize,
    ) -> Result<i64, StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let params = params![app, inbox_of, convers_with, count];
        let found = self
            .connection
            .find(&BEFORE_NEWEST, params, |row| row.get(0))?;
        Ok(found.unwrap_or(i64::MIN))
    }

    fn blocks(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        other: UserId<'_>,
    ) -> Result<bool, StoreError> {
        let params = [app.as_str(), other.as_str(), user.as_str()];
        Ok(self.any(&ANY_BLOCK, |cache| &mut cache.any_block)?
            && self.connection.exists(&IS_BLOCKED, params)?)
    }

    fn blocked_by(
        &mut self,
        app: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
        if !self.any(&ANY_BLOCK, |cache| &mut cache.any_block)? {
            return Ok(vec![]);
        }
        let params = [app.as_str(), sender.as_str()];
        let users = self.connection.rows(&BLOCKED_BY, params, |row| row.get(0));
        Ok(users?)
    }

    fn count_blocked(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.count_up_to(&COUNT_BLOCKED, app, user, limit)
    }

    fn count_groups(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.count_up_to(&COUNT_GROUPS, app, user, limit)
    }

    fn count_conversations(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.count_up_to(&COUNT_CONVERSATIONS, app, user, limit)
    }

    fn copy(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<StoredCopy>, StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        let id = StoredId::of(message_id);
        let params = params![app, inbox_of, convers_with, id];
        let copy = self.connection.find(&FIND_COPY, params, |row| {
            Ok(StoredCopy {
                sender: row.get::<_, Option<_>>(0)?.unwrap_or_default(),
                status: status(row.get(1)?),
            })
        });
        Ok(copy?)
    }

    fn copy_by_temp_uid(
        &mut self,
        timeline: &Timeline<'_>,
        temp_uid: &str,
    ) -> Result<Option<(String, StoredCopy)>, StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        let params = [app, inbox_of, convers_with, temp_uid];
        let mut statement = self.connection.prepare(&FIND_BY_TEMP_UID)?;
        let mut rows = statement.query(params)?;
        while let Some(row) = rows.next()? {
            let body = read_body(row)?.unwrap_or_default();
            if columns::temp_uid(&body).as_deref() != Some(temp_uid) {
                continue;
            }
            let copy = StoredCopy {
                sender: row.get::<_, Option<_>>(4)?.unwrap_or_default(),
                status: status(row.get(7)?),
            };
            return Ok(Some((row.get::<_, IdText>(3)?.0, copy)));
        }
        Ok(None)
    }

    fn conversation(
        &mut self,
        timeline: &Timeline<'_>,
    ) -> Result<Option<ConversationRow>, StoreError> {
        let key = names(timeline);
        let row = self
            .connection
            .find(&FIND_CONVERSATION, key, conversation_row)?;
        // A row that says nothing stands for copies that no list shows.
        Ok(row.filter(|row| *row != ConversationRow::default()))
    }

    fn clients(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<ConnectedClient>, StoreError> {
        let params = [app.as_str(), user.as_str()];
        let clients = self.connection.rows(&CLIENTS, params, |row| {
            Ok(ConnectedClient {
                id: row.get(0)?,
                since: unix(row.get(1)?),
            })
        });
        Ok(clients?)
    }

    fn absence(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<Option<Absence>, StoreError> {
        let params = [app.as_str(), user.as_str()];
        let absence = self.connection.find(&FIND_ABSENCE, params, |row| {
            let redelivered_by: Option<String> = row.get(1)?;
            Ok(Absence {
                since: row.get(0)?,
                redelivery: columns::redelivery(redelivered_by.as_deref()),
            })
        });
        Ok(absence?)
    }

    fn is_under_way(&mut self, id: MessageId) -> Result<bool, StoreError> {
        DeliveryLog::log_holds(self, id)
    }

    fn last_position(&mut self) -> Result<i64, StoreError> {
        self.newest_position()
    }

    fn newest_time(&mut self) -> Result<UnixMillis, StoreError> {
        Ok(self.newest)
    }

    fn position_at(&mut self, time: UnixMillis) -> Result<i64, StoreError> {
        self.position_by(time)
    }

    fn offline_delivery(&self) -> OfflineDelivery {
        self.offline
    }
}

impl SqliteStore {
    /// Whether there is anything of a kind, as is remembered or asked by the query.
    pub(super) fn any(
        &mut self,
        query: &Statement,
        remembered: impl Fn(&mut Cache) -> &mut Option<bool>,
    ) -> Result<bool, StoreError> {
        if let Some(any) = *remembered(&mut self.cache) {
            return Ok(any);
        }
        let any = self.connection.exists(query, [])?;
        *remembered(&mut self.cache) = Some(any);
        Ok(any)
    }

    /// Counts what a user has in an app, to a limit.
    fn count_up_to(
        &self,
        statement: &Statement,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let params = params![app.as_str(), user.as_str(), limit];
        let count: i64 = self.connection.row(statement, params, |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn newest_position(&self) -> Result<i64, StoreError> {
        let last: Option<i64> = self.connection.row(&LAST_POSITION, [], |row| row.get(0))?;
        Ok(last.unwrap_or(0))
    }

    /// The last position whose message was stored at a time or before.
    pub(super) fn position_by(&self, time: UnixMillis) -> Result<i64, StoreError> {
        // Imported messages have numbers below 1.
        let before_all = self.first_seq()?.unwrap_or(1) - 1;
        paging::position_by(time, (before_all, self.newest_position()?), |position| {
            let read = |row: &Row<'_>| Ok((row.get(0)?, unix(row.get(1)?)));
            Ok(self.connection.find(&MESSAGE_UP_TO, [position], read)?)
        })
    }
}
