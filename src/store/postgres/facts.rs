//! Answers the questions that the rules ask about stored facts: from what was looked up with the
//! batch, or by a query of their own.
//!
//! Which request needs which facts, and what follows from them, is decided in
//! [`rules`](crate::rules).

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Row as SqlRow;

use super::connection::{params, text};
use super::slot::Slot;
use super::write::{UNSURE, key};
use super::{PostgresStore, StoreError, status, unix};
use crate::protocol::address::Timeline;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;
use crate::rules::facts::{
    Absence, ConnectedClient, FactSource, GroupLookup, OfflineDelivery, StoredCopy,
};
use crate::store::delivery_log::DeliveryLog;
use crate::store::{columns, paging};

const IS_BANNED: &str = "SELECT 1 FROM ban WHERE app = $1 AND user_id = $2";
pub(super) const FIND_GROUP: &str = "SELECT body FROM chat_group WHERE app = $1 AND group_id = $2";
// Whoever changes a group reads it first: of two slots, the second waits and sees the change.
const LOCK_GROUP: &str = "SELECT body FROM chat_group WHERE app = $1 AND group_id = $2 FOR UPDATE";
const LAST_POSITION: &str = "SELECT coalesce(max(seq), 0) FROM message";
// In the order of an index, here and where rows are counted up to a limit: else the planner takes
// it that some will come soon anyhow, and reads the table from its beginning.
const HAS_TIMELINE: &str = "SELECT 1 FROM timeline WHERE app = $1 AND inbox_of = $2
    ORDER BY seq LIMIT 1";
const BLOCKED_USERS: &str = "SELECT other FROM block WHERE app = $1 AND inbox_of = $2
    ORDER BY other";
const BEFORE_NEWEST: &str = "SELECT seq FROM timeline
    WHERE app = $1 AND inbox_of = $2 AND convers_with = $3 ORDER BY seq DESC LIMIT 1 OFFSET $4";
const IS_BLOCKED: &str = "SELECT 1 FROM block WHERE app = $1 AND other = $2 AND inbox_of = $3";
const BLOCKED_BY: &str = "SELECT inbox_of FROM block WHERE app = $1 AND other = $2
    ORDER BY inbox_of";
const COUNT_BLOCKED: &str = "SELECT count(*) FROM
    (SELECT 1 FROM block WHERE app = $1 AND inbox_of = $2 LIMIT $3) found";
const COUNT_GROUPS: &str = "SELECT count(*) FROM
    (SELECT 1 FROM chat_group WHERE app = $1 AND owner = $2 LIMIT $3) found";
const COUNT_CONVERSATIONS: &str = "SELECT count(*) FROM
    (SELECT 1 FROM conversation WHERE app = $1 AND inbox_of = $2
        ORDER BY convers_with LIMIT $3) found";
const FIND_COPY: &str = "SELECT m.sender, t.status FROM message m JOIN timeline t
    ON t.app = m.app AND t.inbox_of = $2 AND t.seq = m.seq AND t.convers_with = $3
    WHERE m.message_id = $4 AND m.app = $1";
// Receipts are for messages that have just come: the search ends somewhere, and does not look into
// large bodies.
const NEWEST_WITH_TEXT: &str = "SELECT m.message_id, m.sender, t.status, m.body FROM
    (SELECT seq, status FROM timeline
        WHERE app = $1 AND inbox_of = $2 AND convers_with = $3 ORDER BY seq DESC LIMIT 100) t
    JOIN message m ON m.seq = t.seq
    WHERE octet_length(m.body) < 16384 AND position($4 IN m.body) > 0 ORDER BY t.seq DESC";
const FIND_CONVERSATION: &str = "SELECT m.body, t.status, c.is_new, c.archived, c.patch,
    c.patch_seq < c.seq
    FROM conversation c
    LEFT JOIN timeline t ON t.app = c.app AND t.inbox_of = c.inbox_of AND t.seq = c.seq
        AND t.convers_with = c.convers_with
    LEFT JOIN message m ON m.seq = c.seq
    WHERE c.app = $1 AND c.inbox_of = $2 AND c.convers_with = $3";
const CLIENTS: &str = "SELECT client_id, since FROM presence WHERE app = $1 AND user_id = $2
    ORDER BY client_id";
const FIND_ABSENCE: &str = "SELECT seq, redelivered_by FROM absence
    WHERE app = $1 AND user_id = $2";
const MESSAGE_UP_TO: &str = "SELECT seq, stored_at FROM message WHERE seq <= $1
    ORDER BY seq DESC LIMIT 1";
const FIRST_BEHIND: &str = "SELECT stored_at FROM message WHERE seq > $1 ORDER BY seq LIMIT 1";
const FIRST_AND_LAST: &str = "SELECT min(seq), max(seq) FROM message";

impl FactSource for PostgresStore {
    type Error = StoreError;

    fn is_banned(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
        let key = pair(app.as_str(), user.as_str());
        if let Some(known) = self.batch.borrow().known.bans.get(&key) {
            return Ok(*known);
        }
        let [app, user] = key;
        self.exists(IS_BANNED, params![app, user])
    }

    fn group(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<GroupLookup, StoreError> {
        let key = pair(app.as_str(), id.as_str());
        let known = self.batch.borrow().known.groups.get(&key).cloned();
        let group = match known {
            Some(group) => group,
            None => {
                let [app, id] = key.clone();
                let body: Option<String> =
                    self.find(FIND_GROUP, params![app, id], |row| row.get(0))?;
                let group = body.and_then(|body| parse_group(&body));
                let mut batch = self.batch.borrow_mut();
                if batch.is_open() {
                    batch.known.groups.insert(key, group.clone());
                }
                group
            }
        };
        Ok(group.map_or(GroupLookup::NotStored, GroupLookup::Stored))
    }

    fn group_object(
        &mut self,
        app: AppId<'_>,
        id: UserId<'_>,
    ) -> Result<Option<String>, StoreError> {
        let key @ [app, id] = &pair(app.as_str(), id.as_str());
        let is_for_change = self.slot.is_one_of_several() && self.batch.borrow().is_open();
        if is_for_change {
            self.open_transaction()?;
        }
        let sql = if is_for_change {
            LOCK_GROUP
        } else {
            FIND_GROUP
        };
        let params = params![app.clone(), id.clone()];
        let found: Option<String> = self.find(sql, params, |row| row.get(0))?;
        if is_for_change && found.is_none() {
            // There is no row to lock.
            let known = &mut self.batch.borrow_mut().known;
            known.no_groups.insert(key.clone());
        }
        Ok(found)
    }

    fn has_timeline(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
        let [app, user] = pair(app.as_str(), user.as_str());
        self.exists(HAS_TIMELINE, params![app, user])
    }

    fn blocked_users(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
        let [app, user] = pair(app.as_str(), user.as_str());
        self.rows(BLOCKED_USERS, params![app, user], |row| {
            row.get::<_, String>(0).into()
        })
    }

    fn position_before_newest(
        &mut self,
        timeline: &Timeline<'_>,
        count: usize,
    ) -> Result<i64, StoreError> {
        let [app, inbox_of, peer] = key(timeline);
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let params = params![app, inbox_of, peer, count];
        let found = self.find(BEFORE_NEWEST, params, |row| row.get(0))?;
        Ok(found.unwrap_or(i64::MIN))
    }

    fn blocks(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        other: UserId<'_>,
    ) -> Result<bool, StoreError> {
        let key = [app.as_str(), other.as_str(), user.as_str()].map(str::to_owned);
        if let Some(known) = self.batch.borrow().known.blocks.get(&key) {
            return Ok(*known);
        }
        let [app, other, user] = key;
        self.exists(IS_BLOCKED, params![app, other, user])
    }

    fn blocked_by(
        &mut self,
        app: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
        let key = pair(app.as_str(), sender.as_str());
        if let Some(known) = self.batch.borrow().known.blocked_by.get(&key) {
            return Ok(known.clone());
        }
        let [app, sender] = key;
        self.rows(BLOCKED_BY, params![app, sender], |row| {
            row.get::<_, String>(0).into()
        })
    }

    fn count_blocked(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.count_up_to(COUNT_BLOCKED, app, user, limit)
    }

    fn count_groups(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.count_up_to(COUNT_GROUPS, app, user, limit)
    }

    fn count_conversations(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        self.count_up_to(COUNT_CONVERSATIONS, app, user, limit)
    }

    fn copy(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<StoredCopy>, StoreError> {
        let key = (key(timeline), text(message_id));
        if let Some(known) = self.batch.borrow().known.copies.get(&key) {
            return Ok(known.clone());
        }
        let ([app, inbox_of, peer], id) = key;
        self.find(FIND_COPY, params![app, inbox_of, peer, id], |row| {
            StoredCopy {
                sender: row.get::<_, String>(0).into(),
                status: status(row.get(1)),
            }
        })
    }

    fn copy_by_temp_uid(
        &mut self,
        timeline: &Timeline<'_>,
        temp_uid: &str,
    ) -> Result<Option<(String, StoredCopy)>, StoreError> {
        let [app, inbox_of, peer] = key(timeline);
        let params = params![app, inbox_of, peer, text(temp_uid)];
        let found = self.rows(NEWEST_WITH_TEXT, params, |row| {
            let copy = StoredCopy {
                sender: row.get::<_, String>(1).into(),
                status: status(row.get(2)),
            };
            (row.get::<_, String>(3), (row.get(0), copy))
        })?;
        let mut named = found
            .into_iter()
            .filter(|(body, _)| columns::temp_uid(body).as_deref() == Some(temp_uid));
        Ok(named.next().map(|(_, found)| found))
    }

    fn conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, StoreError> {
        let [app, inbox_of, peer] = key(timeline);
        self.find(
            FIND_CONVERSATION,
            params![app, inbox_of, peer],
            conversation_row,
        )
    }

    fn clients(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<ConnectedClient>, StoreError> {
        let [app, user] = pair(app.as_str(), user.as_str());
        self.rows(CLIENTS, params![app, user], |row| ConnectedClient {
            id: row.get::<_, String>(0).into(),
            since: unix(row.get(1)),
        })
    }

    fn absence(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<Option<Absence>, StoreError> {
        let [app, user] = pair(app.as_str(), user.as_str());
        self.find(FIND_ABSENCE, params![app, user], |row| Absence {
            since: row.get(0),
            redelivery: columns::redelivery(row.get(1)),
        })
    }

    fn is_under_way(&mut self, id: MessageId) -> Result<bool, StoreError> {
        DeliveryLog::log_holds(self, id)
    }

    fn last_position(&mut self) -> Result<i64, StoreError> {
        if self.slot.is_one_of_several() {
            return self.row(LAST_POSITION, params![], |row| row.get(0));
        }
        Ok(self.counters.last_seq)
    }

    fn newest_time(&mut self) -> Result<UnixMillis, StoreError> {
        if self.slot.is_one_of_several() {
            return Ok(Slot::time_of(self.last_position()?));
        }
        Ok(self.counters.newest)
    }

    fn unsettled(&self) -> Duration {
        match self.slot.is_one_of_several() {
            true => UNSURE,
            false => Duration::ZERO,
        }
    }

    fn position_at(&mut self, time: UnixMillis) -> Result<i64, StoreError> {
        self.position_by(time)
    }

    fn offline_delivery(&self) -> OfflineDelivery {
        self.offline
    }
}

impl PostgresStore {
    /// Counts what a user has in an app, to a limit.
    fn count_up_to(
        &self,
        sql: &'static str,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, StoreError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let [app, user] = pair(app.as_str(), user.as_str());
        let count: i64 = self.row(sql, params![app, user, limit], |row| row.get(0))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The last position whose message was stored at a time or before.
    pub(super) fn position_by(&self, time: UnixMillis) -> Result<i64, StoreError> {
        let ends: (Option<i64>, Option<i64>) =
            self.row(FIRST_AND_LAST, params![], |row| (row.get(0), row.get(1)))?;
        let (Some(first), Some(last)) = ends else {
            return Ok(0);
        };
        let up_to = |position: i64| {
            self.find(MESSAGE_UP_TO, params![position], |row| {
                (row.get(0), unix(row.get(1)))
            })
        };
        // Imported messages have numbers below 1.
        let mut before = first - 1;
        // With several slots positions are made of the time. A store that was copied holds small
        // positions, too: halving between both kinds takes about 50 questions.
        let guess = Slot::last_of(time).min(last);
        let mut last = last;
        if guess >= first
            && let Some((seq, at)) = up_to(guess)?
        {
            if at > time {
                last = seq - 1;
            } else {
                before = seq;
                let behind = self.find(FIRST_BEHIND, params![seq], |row| unix(row.get(0)))?;
                if behind.is_none_or(|behind| behind > time) {
                    return Ok(seq);
                }
            }
        }
        paging::position_by(time, (before, last), up_to)
    }
}

pub(super) fn pair(one: &str, other: &str) -> [String; 2] {
    [one, other].map(str::to_owned)
}

/// The body was checked when it was stored.
pub(super) fn parse_group(body: &str) -> Option<Arc<Group>> {
    Group::parse(body).ok().map(Arc::new)
}

/// A conversation from the columns body, status, is_new, archived, patch and whether the patch is
/// older than the last message, in that order.
pub(super) fn conversation_row(row: &SqlRow) -> Row {
    let body: Option<String> = row.get(0);
    let code: Option<i64> = row.get(1);
    Row {
        last: body.map(Box::from).zip(code.map(status)),
        is_new: row.get(2),
        archived: row.get(3),
        patch: row.get::<_, Option<String>>(4).map(Box::from),
        patch_is_older: row.get::<_, Option<bool>>(5).unwrap_or(false),
    }
}
