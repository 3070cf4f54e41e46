//! Answers the questions that the rules ask about stored facts.
//!
//! Owns the SQL of each answer. Which request needs which facts, and what follows from them, is
//! decided in [`rules`](crate::rules).

use std::sync::Arc;

use rusqlite::{OptionalExtension, Row as SqlRow, params};

use super::{Groups, REDELIVERED, Store, StoreError, names, status, unix};
use crate::protocol::address::Timeline;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::facts::{
    Absence, ConnectedClient, FactSource, GroupLookup, OfflineDelivery, Redelivery, StoredCopy,
};

impl FactSource for Store {
    type Error = StoreError;

    fn is_banned(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
        let any = match self.bans {
            Some(any) => any,
            None => self
                .connection
                .prepare_cached("SELECT 1 FROM ban LIMIT 1")?
                .exists([])?,
        };
        self.bans = Some(any);
        if !any {
            return Ok(false);
        }
        let mut banned = self
            .connection
            .prepare_cached("SELECT 1 FROM ban WHERE app = ? AND user = ?")?;
        Ok(banned.exists([app.as_str(), user.as_str()])?)
    }

    fn group(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<GroupLookup, StoreError> {
        let lookup = |group| match group {
            Some(group) => GroupLookup::Stored(group),
            None => GroupLookup::NotStored,
        };
        let key = Groups::key(app.as_str(), id.as_str());
        if let Some(known) = self.groups.known.get(key.as_str()) {
            return Ok(lookup(known.clone()));
        }
        let body: Option<String> = self
            .connection
            .prepare_cached("SELECT body FROM chat_group WHERE app = ? AND group_id = ?")?
            .query_row([app.as_str(), id.as_str()], |row| row.get(0))
            .optional()?;
        // The body was checked when it was stored.
        let group = body.and_then(|body| Group::parse(&body).ok()).map(Arc::new);
        self.groups.insert(key, group.clone());
        Ok(lookup(group))
    }

    fn blocks(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        other: UserId<'_>,
    ) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM block WHERE app = ? AND other = ? AND inbox_of = ?")?;
        Ok(statement.exists([app.as_str(), other.as_str(), user.as_str()])?)
    }

    fn blocked_by(
        &mut self,
        app: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT inbox_of FROM block WHERE app = ? AND other = ?")?;
        let users = statement.query_map([app.as_str(), sender.as_str()], |row| row.get(0))?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    fn count_blocked(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let count: i64 = self
            .connection
            .prepare_cached(
                "SELECT count(*) FROM
                 (SELECT 1 FROM block WHERE app = ? AND inbox_of = ? LIMIT ?)",
            )?
            .query_row(params![app.as_str(), user.as_str(), limit], |row| {
                row.get(0)
            })?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    fn copy(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<StoredCopy>, StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        let copy = self
            .connection
            .prepare_cached(
                // CROSS JOIN fixes the order: SQLite would scan the whole inbox instead.
                "SELECT m.sender, t.status FROM message m CROSS JOIN timeline t
                 ON t.app = m.app AND t.inbox_of = ?2 AND t.seq = m.seq AND t.convers_with = ?3
                 WHERE m.message_id = ?4 AND m.app = ?1",
            )?
            .query_row(params![app, inbox_of, convers_with, message_id], |row| {
                Ok(StoredCopy {
                    sender: row.get(0)?,
                    status: status(row.get(1)?),
                })
            })
            .optional()?;
        Ok(copy)
    }

    fn conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT m.body, t.status, c.is_new, c.archived, c.patch, c.patch_seq < c.seq
             FROM conversation c
             LEFT JOIN timeline t ON t.app = c.app AND t.inbox_of = c.inbox_of AND t.seq = c.seq
             LEFT JOIN message m ON m.seq = c.seq
             WHERE c.app = ? AND c.inbox_of = ? AND c.convers_with = ?",
        )?;
        let row = |row: &SqlRow<'_>| {
            let last: (Option<Box<str>>, Option<i64>) = (row.get(0)?, row.get(1)?);
            Ok(Row {
                last: last.0.zip(last.1.map(status)),
                is_new: row.get(2)?,
                archived: row.get(3)?,
                patch: row.get(4)?,
                patch_is_older: row.get::<_, Option<bool>>(5)?.unwrap_or(false),
            })
        };
        Ok(statement.query_row(names(timeline), row).optional()?)
    }

    fn clients(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<ConnectedClient>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT client_id, since FROM presence WHERE app = ? AND user = ?")?;
        let clients = statement.query_map([app.as_str(), user.as_str()], |row| {
            Ok(ConnectedClient {
                id: row.get(0)?,
                since: unix(row.get(1)?),
            })
        })?;
        Ok(clients.collect::<Result<_, _>>()?)
    }

    fn absence(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<Option<Absence>, StoreError> {
        let absence = self
            .connection
            .prepare_cached("SELECT seq, redelivered_by FROM absence WHERE app = ? AND user = ?")?
            .query_row([app.as_str(), user.as_str()], |row| {
                let redelivered_by: Option<String> = row.get(1)?;
                Ok(Absence {
                    since: row.get(0)?,
                    redelivery: redelivery(redelivered_by.as_deref()),
                })
            })
            .optional()?;
        Ok(absence)
    }

    fn finished_up_to(&mut self) -> Result<Option<MessageId>, StoreError> {
        Ok(self.acknowledged.max(self.finished))
    }

    fn last_position(&mut self) -> Result<i64, StoreError> {
        let last: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(seq) FROM message")?
            .query_row([], |row| row.get(0))?;
        Ok(last.unwrap_or(0))
    }

    /// Found by halving the log: times rise with positions.
    fn position_at(&mut self, time: UnixMillis) -> Result<i64, StoreError> {
        let (mut known, mut unknown) = (0, self.last_position()?);
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, stored_at FROM message WHERE seq <= ? ORDER BY seq DESC LIMIT 1",
        )?;
        while known < unknown {
            let middle = known + (unknown - known + 1) / 2;
            let found: Option<(i64, i64)> = statement
                .query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            match found {
                Some((seq, at)) if unix(at) > time => unknown = seq - 1,
                Some(_) | None => known = middle,
            }
        }
        Ok(known)
    }

    fn offline_delivery(&self) -> OfflineDelivery {
        if self.redeliver {
            OfflineDelivery::Redeliver
        } else {
            OfflineDelivery::Broker
        }
    }
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
