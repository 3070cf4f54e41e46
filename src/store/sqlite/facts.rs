//! Answers the questions that the rules ask about stored facts.
//!
//! Owns the SQL of each answer. Which request needs which facts, and what follows from them, is
//! decided in [`rules`](crate::rules).

use std::sync::Arc;

use rusqlite::{Row as SqlRow, params};

use super::connection::{Statement, statements};
use super::presence::REDELIVERED;
use super::write::names;
use super::{SqliteStore, StoreError, status, unix};
use crate::protocol::address::Timeline;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::facts::{
    Absence, ConnectedClient, FactSource, GroupLookup, OfflineDelivery, Redelivery, StoredCopy,
};

statements! {
    ANY_BAN may scan "stops at the first row" = "SELECT 1 FROM ban LIMIT 1";
    IS_BANNED = "SELECT 1 FROM ban WHERE app = ? AND user = ?";
    FIND_GROUP = "SELECT body FROM chat_group WHERE app = ? AND group_id = ?";
    HAS_TIMELINE may scan "stops at the first row" =
        "SELECT 1 FROM timeline WHERE app = ? AND inbox_of = ? LIMIT 1";
    BLOCKED_USERS = "SELECT other FROM block INDEXED BY block_by_owner
        WHERE app = ? AND inbox_of = ?";
    BEFORE_NEWEST = "SELECT seq FROM timeline INDEXED BY timeline_by_peer
        WHERE app = ? AND inbox_of = ? AND convers_with = ? ORDER BY seq DESC LIMIT 1 OFFSET ?";
    IS_BLOCKED = "SELECT 1 FROM block WHERE app = ? AND other = ? AND inbox_of = ?";
    BLOCKED_BY = "SELECT inbox_of FROM block WHERE app = ? AND other = ?";
    COUNT_BLOCKED = "SELECT count(*) FROM
        (SELECT 1 FROM block WHERE app = ? AND inbox_of = ? LIMIT ?)";
    // The condition of the index, word for word.
    COUNT_GROUPS = "SELECT count(*) FROM (SELECT 1 FROM chat_group INDEXED BY chat_group_by_owner
        WHERE app = ? AND CASE WHEN json_valid(body) THEN json_extract(body, '$.owner') END = ?
        LIMIT ?)";
    // CROSS JOIN fixes the order: SQLite would read the whole inbox instead.
    FIND_COPY = "SELECT m.sender, t.status FROM message m CROSS JOIN timeline t
        ON t.app = m.app AND t.inbox_of = ?2 AND t.seq = m.seq AND t.convers_with = ?3
        WHERE m.message_id = ?4 AND m.app = ?1";
    // Receipts are for messages that have just come: the search ends somewhere, and does not look
    // into large bodies. CASE, because somebody may have edited a body by hand.
    FIND_BY_TEMP_UID may scan "stops after 100 rows" = "SELECT m.message_id, m.sender, t.status FROM
        (SELECT seq, status FROM timeline INDEXED BY timeline_by_peer
            WHERE app = ?1 AND inbox_of = ?2 AND convers_with = ?3 ORDER BY seq DESC LIMIT 100) t
        JOIN message m ON m.seq = t.seq
        WHERE CASE WHEN octet_length(m.body) < 16384 AND instr(m.body, ?4) > 0
            AND json_valid(m.body) THEN json_extract(m.body, '$.attributes.tempUID') END = ?4
        ORDER BY t.seq DESC LIMIT 1";
    FIND_CONVERSATION = "SELECT m.body, t.status, c.is_new, c.archived, c.patch,
        c.patch_seq < c.seq
        FROM conversation c
        LEFT JOIN timeline t ON t.app = c.app AND t.inbox_of = c.inbox_of AND t.seq = c.seq
        LEFT JOIN message m ON m.seq = c.seq
        WHERE c.app = ? AND c.inbox_of = ? AND c.convers_with = ?";
    CLIENTS = "SELECT client_id, since FROM presence WHERE app = ? AND user = ?";
    FIND_ABSENCE = "SELECT seq, redelivered_by FROM absence WHERE app = ? AND user = ?";
    LAST_POSITION = "SELECT max(seq) FROM message";
    MESSAGE_UP_TO = "SELECT seq, stored_at FROM message WHERE seq <= ? ORDER BY seq DESC LIMIT 1";
}

impl FactSource for SqliteStore {
    type Error = StoreError;

    fn is_banned(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
        let any = match self.cache.any_ban {
            Some(any) => any,
            None => self.connection.exists(&ANY_BAN, [])?,
        };
        self.cache.any_ban = Some(any);
        Ok(any
            && self
                .connection
                .exists(&IS_BANNED, [app.as_str(), user.as_str()])?)
    }

    fn group(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<GroupLookup, StoreError> {
        let lookup = |group| match group {
            Some(group) => GroupLookup::Stored(group),
            None => GroupLookup::NotStored,
        };
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
        Ok(self.connection.exists(&IS_BLOCKED, params)?)
    }

    fn blocked_by(
        &mut self,
        app: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
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

    fn copy(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<StoredCopy>, StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        let params = [app, inbox_of, convers_with, message_id];
        let copy = self.connection.find(&FIND_COPY, params, |row| {
            Ok(StoredCopy {
                sender: row.get(0)?,
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
        let found = self.connection.find(&FIND_BY_TEMP_UID, params, |row| {
            let copy = StoredCopy {
                sender: row.get(1)?,
                status: status(row.get(2)?),
            };
            Ok((row.get(0)?, copy))
        });
        Ok(found?)
    }

    fn conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, StoreError> {
        let key = names(timeline);
        Ok(self
            .connection
            .find(&FIND_CONVERSATION, key, conversation_row)?)
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
                redelivery: redelivery(redelivered_by.as_deref()),
            })
        });
        Ok(absence?)
    }

    fn finished_up_to(&mut self) -> Result<Option<MessageId>, StoreError> {
        Ok(self.progress.acknowledged.max(self.progress.finished))
    }

    fn last_position(&mut self) -> Result<i64, StoreError> {
        self.newest_position()
    }

    fn position_at(&mut self, time: UnixMillis) -> Result<i64, StoreError> {
        self.position_by(time)
    }

    fn offline_delivery(&self) -> OfflineDelivery {
        self.offline
    }
}

impl SqliteStore {
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

    /// Found by halving the log: times never fall.
    pub(super) fn position_by(&self, time: UnixMillis) -> Result<i64, StoreError> {
        // Imported messages have numbers below 1.
        let before_all = self.first_seq()?.unwrap_or(1) - 1;
        let (mut known, mut unknown) = (before_all, self.newest_position()?);
        while known < unknown {
            let middle = known + (unknown - known + 1) / 2;
            let found: Option<(i64, i64)> =
                self.connection.find(&MESSAGE_UP_TO, [middle], |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?;
            match found {
                Some((seq, at)) if unix(at) > time => unknown = seq - 1,
                Some(_) | None => known = middle,
            }
        }
        Ok(known)
    }
}

/// A conversation from the columns body, status, is_new, archived, patch and whether the patch is
/// older than the last message, in that order.
pub(super) fn conversation_row(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let last: (Option<Box<str>>, Option<i64>) = (row.get(0)?, row.get(1)?);
    Ok(Row {
        last: last.0.zip(last.1.map(status)),
        is_new: row.get(2)?,
        archived: row.get(3)?,
        patch: row.get(4)?,
        patch_is_older: row.get::<_, Option<bool>>(5)?.unwrap_or(false),
    })
}

/// What the column `absence.redelivered_by` says.
fn redelivery(redelivered_by: Option<&str>) -> Redelivery {
    match redelivered_by {
        None => Redelivery::Due,
        Some(REDELIVERED) => Redelivery::Done,
        // Somebody may have edited it.
        Some(id) => MessageId::parse(id).map_or(Redelivery::Due, Redelivery::With),
    }
}
