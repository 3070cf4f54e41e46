//! Looks up the facts that a plan depends on.

use std::sync::Arc;

use rusqlite::{OptionalExtension, Row as SqlRow, params};

use super::{BLOCKS, Groups, REDELIVERED, Store, StoreError, names, status, unix};
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, MessageId, UserId};
use crate::protocol::layout::{Address, Timeline};
use crate::protocol::time::UnixMillis;
use crate::rules::checks::Content;
use crate::rules::conversation::Row;
use crate::rules::router::{Decoded, Facts, ReceiptTarget};

impl Store {
    /// What a plan for a message depends on.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn facts(&mut self, decoded: &Decoded<'_>) -> Result<Facts, StoreError> {
        if let Some(sender) = decoded.address.sender()
            && !decoded.address.is_for_the_banned()
            && self.bans(decoded.address.app(), sender)?
        {
            return Ok(Facts::Banned);
        }
        match &decoded.address {
            Address::Outgoing(outgoing) => {
                let (app, sender, recipient) = (outgoing.app, outgoing.sender, outgoing.recipient);
                if !matches!(decoded.content, Content::Verbatim) {
                    let group = self.group(app, recipient)?;
                    if group.is_some() || recipient.is_group() {
                        return Ok(Facts::Group {
                            group,
                            blocked_by: self.blocked_by(app, sender)?,
                            transient: true,
                        });
                    }
                }
                let blocked = sender != recipient && self.blocks(app, recipient, sender)?;
                Ok(Facts::Direct { blocked })
            }
            Address::Receipt(timeline, message) => {
                Ok(Facts::Receipt(self.receipted(timeline, message.as_str())?))
            }
            Address::Conversation(timeline) | Address::Archive(timeline) => {
                Ok(Facts::Conversation(self.conversation(timeline)?))
            }
            Address::Presence { app, user, client } => self.presence(*app, *user, client.as_str()),
            Address::Fetch { .. } => {
                let Content::Fetch(fetch) = &decoded.content else {
                    return Ok(Facts::Nothing);
                };
                let since = fetch.since;
                Ok(Facts::Fetch {
                    after: self.seq_at(since)?,
                    last: self.last()?,
                })
            }
            Address::Block(timeline) => {
                let full = self
                    .connection
                    .prepare_cached(
                        "SELECT 1 FROM block WHERE app = ? AND inbox_of = ? LIMIT 1 OFFSET ?",
                    )?
                    .exists(params![
                        timeline.app.as_str(),
                        timeline.inbox_of.as_str(),
                        BLOCKS - 1
                    ])?;
                Ok(Facts::Blocks { full })
            }
            Address::Inject(_) | Address::Groups { .. } => Ok(Facts::Nothing),
        }
    }

    pub(super) fn group(
        &mut self,
        app: AppId<'_>,
        id: UserId<'_>,
    ) -> Result<Option<Arc<Group>>, StoreError> {
        let key = Groups::key(app.as_str(), id.as_str());
        if let Some(known) = self.groups.known.get(key.as_str()) {
            return Ok(known.clone());
        }
        let body: Option<String> = self
            .connection
            .prepare_cached("SELECT body FROM chat_group WHERE app = ? AND group_id = ?")?
            .query_row([app.as_str(), id.as_str()], |row| row.get(0))
            .optional()?;
        // It was checked when it was stored.
        let group = body.and_then(|body| Group::parse(&body).ok()).map(Arc::new);
        self.groups.insert(key, group.clone());
        Ok(group)
    }

    pub(super) fn bans(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, StoreError> {
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

    pub(super) fn blocks(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        other: UserId<'_>,
    ) -> Result<bool, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT 1 FROM block WHERE app = ? AND other = ? AND inbox_of = ?")?;
        Ok(statement.exists([app.as_str(), other.as_str(), user.as_str()])?)
    }

    pub(super) fn blocked_by(
        &self,
        app: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT inbox_of FROM block WHERE app = ? AND other = ?")?;
        let users = statement.query_map([app.as_str(), sender.as_str()], |row| row.get(0))?;
        Ok(users.collect::<Result<_, _>>()?)
    }

    pub(super) fn receipted(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<ReceiptTarget>, StoreError> {
        let found = self
            .connection
            .prepare_cached(
                // CROSS JOIN fixes the order: SQLite would scan the whole inbox instead.
                "SELECT m.sender, t.status FROM message m CROSS JOIN timeline t
                 ON t.app = m.app AND t.inbox_of = ?2 AND t.seq = m.seq AND t.convers_with = ?3
                 WHERE m.message_id = ?4 AND m.app = ?1",
            )?
            .query_row(
                params![
                    timeline.app.as_str(),
                    timeline.inbox_of.as_str(),
                    timeline.convers_with.as_str(),
                    message_id
                ],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .optional()?;
        let Some((sender, mine)) = found else {
            return Ok(None);
        };
        let peer = timeline.convers_with;
        Ok(Some(ReceiptTarget {
            sender,
            mine: status(mine),
            in_group: peer.is_group() || self.group(timeline.app, peer)?.is_some(),
        }))
    }

    pub(super) fn conversation(&self, timeline: &Timeline<'_>) -> Result<Option<Row>, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT m.body, t.status, c.is_new, c.archived, c.patch, c.patch_seq < c.seq FROM conversation c
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

    pub(super) fn presence(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        client: &str,
    ) -> Result<Facts, StoreError> {
        let others: i64 = self
            .connection
            .prepare_cached(
                "SELECT count(*) FROM presence WHERE app = ? AND user = ? AND client_id <> ?",
            )?
            .query_row([app.as_str(), user.as_str(), client], |row| row.get(0))?;
        let known = self
            .connection
            .prepare_cached("SELECT 1 FROM presence WHERE app = ? AND user = ? AND client_id = ?")?
            .exists([app.as_str(), user.as_str(), client])?;
        let absence = self.absence(app, user)?;
        let missed_since = match absence {
            // Never seen before.
            None => Some(0),
            Some((seq, redelivered)) => (!redelivered).then_some(seq),
        };
        Ok(Facts::Presence {
            known,
            others: usize::try_from(others).unwrap_or(0),
            missed_since: missed_since.filter(|_| self.redeliver),
            last: self.last()?,
        })
    }

    /// Behind which place a user has missed messages, and whether he has been given them.
    pub(super) fn absence(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Option<(i64, bool)>, StoreError> {
        let found: Option<(i64, Option<String>)> = self
            .connection
            .prepare_cached("SELECT seq, redelivered_by FROM absence WHERE app = ? AND user = ?")?
            .query_row([app.as_str(), user.as_str()], |row| {
                Ok((row.get(0)?, row.get(1)?))
            })
            .optional()?;
        Ok(found.map(|(seq, by)| {
            let done = by.as_deref() == Some(REDELIVERED);
            let by = by.and_then(|by| MessageId::parse(&by));
            (
                seq,
                done || by.is_some() && by <= self.acknowledged.max(self.finished),
            )
        }))
    }

    /// The last place that is taken.
    pub(super) fn last(&self) -> Result<i64, StoreError> {
        let last: Option<i64> = self
            .connection
            .prepare_cached("SELECT max(seq) FROM message")?
            .query_row([], |row| row.get(0))?;
        Ok(last.unwrap_or(0))
    }

    /// The last place that was taken by `time`: found by halving, for times rise with places.
    pub(super) fn seq_at(&self, time: UnixMillis) -> Result<i64, StoreError> {
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, stored_at FROM message WHERE seq <= ? ORDER BY seq DESC LIMIT 1",
        )?;
        let (mut known, mut unknown) = (0, self.last()?);
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
}
