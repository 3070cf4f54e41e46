//! What operators ask of the store from outside, while an observer may be running on it. Reading holds nobody up; an export that is
//! left standing keeps the write-ahead log from being emptied.

use std::path::Path;

use rusqlite::{OptionalExtension, params};
use serde::Serialize;

use super::{Retention, Store, StoreError};
use crate::protocol::envelope::Body;
use crate::protocol::group::Group;
use crate::protocol::json::parse_object;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;

/// Between two steps of pruning.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(5);

/// How much there is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Messages, each once.
    pub messages: i64,
    /// Copies of them in timelines.
    pub copies: i64,
    /// Rows in lists of conversations.
    pub conversations: i64,
    /// Users and groups with a timeline.
    pub inboxes: i64,
    /// Stored groups.
    pub groups: i64,
    /// Pairs of whom one does not want to hear the other.
    pub blocks: i64,
    /// Users who may not write.
    pub bans: i64,
    /// Clients that are there.
    pub clients: i64,
    /// When the oldest message was stored, in milliseconds since 1970.
    pub oldest: Option<i64>,
    /// When the newest message was stored, in milliseconds since 1970.
    pub newest: Option<i64>,
    /// Bytes that hold something.
    pub used_bytes: u64,
    /// Bytes of the file and its write-ahead log.
    pub file_bytes: u64,
}

/// A group as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StoredGroup {
    /// The tenant.
    pub app: String,
    /// Its identifier.
    pub id: String,
    /// How many belong to it.
    pub members: usize,
}

/// A block or a ban as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Blocked {
    /// The tenant.
    pub app: String,
    /// Who does not want to hear him; `None`: he is banned from the app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Who is not heard.
    pub user: String,
}

/// What a check of the database has found.
pub type Found = Vec<String>;

impl Store {
    /// Counts everything.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn stats(&self, path: &Path) -> Result<Stats, StoreError> {
        let count = |what: &str| -> Result<i64, StoreError> {
            Ok(self
                .connection
                .query_row(&format!("SELECT {what}"), [], |row| row.get(0))?)
        };
        let when = |what: &str| -> Result<Option<i64>, StoreError> {
            let text = format!("SELECT stored_at FROM message ORDER BY seq {what} LIMIT 1");
            Ok(self
                .connection
                .query_row(&text, [], |row| row.get(0))
                .optional()?)
        };
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        Ok(Stats {
            messages: count("count(*) FROM message")?,
            copies: count("count(*) FROM timeline")?,
            conversations: count("count(*) FROM conversation")?,
            inboxes: count("count(*) FROM (SELECT DISTINCT app, inbox_of FROM timeline)")?,
            groups: count("count(*) FROM chat_group")?,
            blocks: count("count(*) FROM block")?,
            bans: count("count(*) FROM ban")?,
            clients: count("count(*) FROM presence")?,
            oldest: when("ASC")?,
            newest: when("DESC")?,
            used_bytes: self.used_bytes()?,
            file_bytes: bytes(path) + bytes(Path::new(&wal)),
        })
    }

    /// Hands out a timeline, oldest message first, each as a line of JSON with its status; all of an inbox without `convers_with`.
    ///
    /// # Errors
    /// [`StoreError::Sql`], or what `line` returned.
    pub fn export(
        &self,
        app: &str,
        inbox_of: &str,
        convers_with: Option<&str>,
        mut line: impl FnMut(&[u8]) -> std::io::Result<()>,
    ) -> Result<std::io::Result<()>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT m.body, t.status FROM timeline t JOIN message m ON m.seq = t.seq
             WHERE t.app = ?1 AND t.inbox_of = ?2 AND (?3 IS NULL OR t.convers_with = ?3) ORDER BY t.seq",
        )?;
        let mut rows = statement.query(params![app, inbox_of, convers_with])?;
        while let Some(row) = rows.next()? {
            let body = Body::from_stored(row.get(0)?);
            let status = Status::from_code(row.get(1)?).unwrap_or(Status::Delivered);
            if let Err(error) = line(&body.with_status(status)) {
                return Ok(Err(error));
            }
        }
        Ok(Ok(()))
    }

    /// Deletes what is older than `before`, step by step. Returns how many messages went.
    ///
    /// # Errors
    /// [`StoreError::Sql`]; what went before it is gone.
    pub fn prune_before(&mut self, before: UnixMillis) -> Result<i64, StoreError> {
        let count = |store: &Self| -> Result<i64, StoreError> {
            Ok(store
                .connection
                .query_row("SELECT count(*) FROM message", [], |row| row.get(0))?)
        };
        let had = count(self)?;
        let limits = Retention {
            age: Some(std::time::Duration::ZERO),
            bytes: None,
        };
        while self.prune_step(&limits, before)? {
            // Whoever else wants to write gets his turn.
            std::thread::sleep(PAUSE);
        }
        Ok(had - count(self)?)
    }

    /// Whether the database is sound: nothing, if it is.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn check(&self) -> Result<Found, StoreError> {
        let mut statement = self.connection.prepare("PRAGMA integrity_check(20)")?;
        let said = statement.query_map([], |row| row.get::<_, String>(0))?;
        let mut found: Found = said.collect::<Result<_, _>>()?;
        found.retain(|said| said != "ok");
        for (what, text) in [
            (
                "messages stored twice under one id in one timeline",
                "SELECT count(*) FROM (SELECT 1 FROM timeline t JOIN message m ON m.seq = t.seq
                 GROUP BY t.app, t.inbox_of, t.convers_with, m.message_id HAVING count(*) > 1)",
            ),
            (
                "rows that refer to a message that is not there yet",
                "SELECT count(*) FROM timeline WHERE seq > (SELECT coalesce(max(seq), 0) FROM message)",
            ),
        ] {
            let count: i64 = self.connection.query_row(text, [], |row| row.get(0))?;
            if count > 0 {
                found.push(format!("{count} {what}"));
            }
        }
        let mut bodies = self.connection.prepare("SELECT seq, body FROM message")?;
        let mut bodies = bodies.query([])?;
        while let Some(row) = bodies.next()? {
            let (seq, body): (i64, String) = (row.get(0)?, row.get(1)?);
            if parse_object(body.as_bytes()).is_err() {
                found.push(format!("the body of message {seq} is no JSON object"));
            }
        }
        Ok(found)
    }

    /// Whether it can be written to now.
    ///
    /// # Errors
    /// [`StoreError::Sql`], if not.
    pub fn try_write(&mut self) -> Result<(), StoreError> {
        self.begin()?;
        let written = self
            .connection
            .execute("UPDATE state SET value = value", [])
            .map(drop);
        self.rollback();
        Ok(written?)
    }

    /// All stored groups, or one app's.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn groups(&self, app: Option<&str>) -> Result<Vec<StoredGroup>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT app, group_id, body FROM chat_group WHERE ?1 IS NULL OR app = ?1 ORDER BY app, group_id",
        )?;
        let group = |row: &rusqlite::Row<'_>| {
            let body: String = row.get(2)?;
            Ok(StoredGroup {
                app: row.get(0)?,
                id: row.get(1)?,
                members: Group::parse(&body).map_or(0, |group| group.members.len()),
            })
        };
        Ok(statement
            .query_map([app], group)?
            .collect::<Result<_, _>>()?)
    }

    /// A group object, as it was stored.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn group_body(&self, app: &str, id: &str) -> Result<Option<String>, StoreError> {
        Ok(self
            .connection
            .query_row(
                "SELECT body FROM chat_group WHERE app = ? AND group_id = ?",
                [app, id],
                |row| row.get(0),
            )
            .optional()?)
    }

    /// Stores a group.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn set_group(&mut self, app: &str, id: &str, body: &str) -> Result<(), StoreError> {
        self.write_group(app, id, body)
    }

    /// Forgets a group. Returns whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn remove_group(&mut self, app: &str, id: &str) -> Result<bool, StoreError> {
        let removed = self.connection.execute(
            "DELETE FROM chat_group WHERE app = ? AND group_id = ?",
            [app, id],
        )?;
        Ok(removed > 0)
    }

    /// All bans, then all blocks; or one app's; or those that concern one user, on either side.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn blocked(
        &self,
        app: Option<&str>,
        user: Option<&str>,
    ) -> Result<Vec<Blocked>, StoreError> {
        let mut statement = self.connection.prepare(
            "SELECT app, NULL, user FROM ban WHERE (?1 IS NULL OR app = ?1) AND (?2 IS NULL OR user = ?2)
             UNION ALL
             SELECT app, inbox_of, other FROM block
             WHERE (?1 IS NULL OR app = ?1) AND (?2 IS NULL OR inbox_of = ?2 OR other = ?2)
             ORDER BY 2 IS NOT NULL, 1, 2, 3",
        )?;
        let blocked = |row: &rusqlite::Row<'_>| {
            Ok(Blocked {
                app: row.get(0)?,
                by: row.get(1)?,
                user: row.get(2)?,
            })
        };
        Ok(statement
            .query_map([app, user], blocked)?
            .collect::<Result<_, _>>()?)
    }

    /// Has `by` block `user`, or no longer. Returns whether that changed something.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn set_block(
        &mut self,
        app: &str,
        by: &str,
        user: &str,
        blocked: bool,
    ) -> Result<bool, StoreError> {
        Ok(self.write_block(app, user, by, blocked)? > 0)
    }

    /// Bans a user from an app, or no longer. Returns whether that changed something.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn set_ban(
        &mut self,
        app: &str,
        user: &str,
        banned: bool,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let changed = if banned {
            let since = super::millis(now);
            self.connection.execute(
                "INSERT OR IGNORE INTO ban (app, user, since) VALUES (?, ?, ?)",
                params![app, user, since],
            )?
        } else {
            self.connection
                .execute("DELETE FROM ban WHERE app = ? AND user = ?", [app, user])?
        };
        Ok(changed > 0)
    }

    /// Everything that has a meaning, as text: for tests that compare.
    #[cfg(test)]
    pub(super) fn dump(&self) -> Result<Vec<String>, StoreError> {
        let mut all = vec![];
        for text in [
            "SELECT 'copy', t.app, t.inbox_of, t.convers_with, m.message_id, t.status FROM timeline t JOIN message m ON m.seq = t.seq ORDER BY 2, 3, 4, t.seq",
            "SELECT 'row', c.app, c.inbox_of, c.convers_with, coalesce(m.message_id, '-') || ' new=' || c.is_new || ' archived=' || c.archived, 0
             FROM conversation c LEFT JOIN message m ON m.seq = c.seq ORDER BY 2, 3, 4",
        ] {
            let mut statement = self.connection.prepare(text)?;
            let line = |row: &rusqlite::Row<'_>| {
                let columns: Vec<String> = (0..5)
                    .map(|at| row.get::<_, String>(at))
                    .collect::<Result<_, _>>()?;
                Ok(format!("{} {}", columns.join(" "), row.get::<_, i64>(5)?))
            };
            for line in statement.query_map([], line)? {
                all.push(line?);
            }
        }
        Ok(all)
    }
}
