//! What operators ask of the store. Reading holds nobody up, but the write-ahead log grows as long
//! as an export is left standing.

use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Row, params};

use super::connection::{Statement, statements};
use super::encoding::{account, body_accounts, body_columns, read_body};
use super::{SqliteStore, StoreError, millis, status};
use crate::protocol::control_payload::BlockChange;
use crate::protocol::envelope::Body;
use crate::protocol::group::Group;
use crate::protocol::json::parse_object;
use crate::protocol::time::UnixMillis;
use crate::store::{
    Administration, BanChange, Blocked, ExportError, Imported, Landing, Pruned, Retention, Stats,
    Store, StoredGroup,
};

/// The pause between two steps of pruning: others get their turn to write.
const PAUSE: Duration = Duration::from_millis(5);

statements! {
    COUNT_ALL may scan "a command that counts every row" = "SELECT
        (SELECT count(*) FROM message_data WHERE seq <> 0), (SELECT count(*) FROM copy),
        (SELECT count(*) FROM conversation_state c WHERE seq <> 0 OR patch_seq IS NOT NULL
            OR EXISTS (SELECT 1 FROM copy t
                WHERE t.inbox = c.inbox AND t.peer = c.peer AND t.seq > c.since)),
        (SELECT count(*) FROM (SELECT DISTINCT inbox FROM copy)),
        (SELECT count(*) FROM chat_group), (SELECT count(*) FROM block),
        (SELECT count(*) FROM ban), (SELECT count(*) FROM presence),
        (SELECT stored_at FROM message_data WHERE seq <> 0 ORDER BY seq LIMIT 1),
        (SELECT stored_at FROM message_data WHERE seq <> 0 ORDER BY seq DESC LIMIT 1)";
    COUNT_MESSAGES may scan "a command that counts every row" = "SELECT count(*) FROM message_data
        WHERE seq <> 0";
    EXPORT may scan "a command that exports an inbox" = concat!("SELECT ", body_columns!(),
        ", t.status FROM copy t CROSS JOIN message_data m ON m.seq = t.seq ", body_accounts!(),
        " WHERE t.inbox = ", account!("?1", "?2"), "
        AND (?3 IS NULL OR t.peer = ", account!("?1", "?3"), ") ORDER BY t.seq");
    COUNT_DUPLICATES may scan "a command that checks every row" = "SELECT count(*) FROM
        (SELECT 1 FROM copy t CROSS JOIN message_data m ON m.seq = t.seq
         GROUP BY t.inbox, t.peer, m.id HAVING count(*) > 1)";
    COUNT_UNKNOWN may scan "a command that checks every row" = "SELECT count(*) FROM copy
        WHERE seq > (SELECT coalesce(max(seq), 0) FROM message_data)";
    COUNT_NAMELESS may scan "a command that checks every row" = "SELECT
        (SELECT count(*) FROM copy t WHERE NOT EXISTS (SELECT 1 FROM account WHERE id = t.inbox)
            OR NOT EXISTS (SELECT 1 FROM conversation_state c
                WHERE c.inbox = t.inbox AND c.peer = t.peer))
        + (SELECT count(*) FROM conversation_state c
            WHERE NOT EXISTS (SELECT 1 FROM account WHERE id = c.peer))
        + (SELECT count(*) FROM message_data m WHERE seq <> 0
            AND (NOT EXISTS (SELECT 1 FROM account WHERE id = m.sender)
            OR NOT EXISTS (SELECT 1 FROM account WHERE id = m.recipient)))";
    ALL_BODIES may scan "a command that checks every row" = concat!("SELECT ", body_columns!(),
        ", m.seq FROM message_data m ", body_accounts!());
    TOUCH_STATE may scan "two rows" = "UPDATE state SET value = value";
    ALL_GROUPS may scan "a command that lists every row" =
        "SELECT app, group_id, body FROM chat_group ORDER BY app, group_id";
    GROUPS_OF_APP may scan "a command that lists the groups of an app" =
        "SELECT app, group_id, body FROM chat_group WHERE app = ? ORDER BY app, group_id";
    GROUP_BODY = "SELECT body FROM chat_group WHERE app = ? AND group_id = ?";
    DELETE_GROUP = "DELETE FROM chat_group WHERE app = ? AND group_id = ?";
    BANS_AND_BLOCKS may scan "a command that looks at every row" = "SELECT app, NULL, user
        FROM ban WHERE (?1 IS NULL OR app = ?1) AND (?2 IS NULL OR user = ?2)
        UNION ALL SELECT app, inbox_of, other FROM block
        WHERE (?1 IS NULL OR app = ?1) AND (?2 IS NULL OR inbox_of = ?2 OR other = ?2)
        ORDER BY 2 IS NOT NULL, 1, 2, 3";
    BAN = "INSERT OR IGNORE INTO ban (app, user, since) VALUES (?, ?, ?)";
    LIFT_BAN = "DELETE FROM ban WHERE app = ? AND user = ?";
}

impl Administration for SqliteStore {
    fn stats(&self) -> Result<Stats, StoreError> {
        let (used_bytes, file_bytes) = (self.used_bytes()?, self.file_bytes());
        let stats = self.connection.row(&COUNT_ALL, [], |row| {
            Ok(Stats {
                messages: row.get(0)?,
                copies: row.get(1)?,
                conversations: row.get(2)?,
                inboxes: row.get(3)?,
                groups: row.get(4)?,
                blocks: row.get(5)?,
                bans: row.get(6)?,
                clients: row.get(7)?,
                oldest: row.get(8)?,
                newest: row.get(9)?,
                used_bytes,
                file_bytes,
            })
        });
        Ok(stats?)
    }

    fn export(
        &self,
        app: &str,
        inbox_of: &str,
        convers_with: Option<&str>,
        line: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ExportError> {
        let mut statement = self.connection.prepare(&EXPORT).map_err(StoreError::from)?;
        let rows = statement.query_map(params![app, inbox_of, convers_with], |row| {
            let body = Body::from_stored(read_body(row)?.unwrap_or_default());
            Ok(body.with_status(status(row.get(7)?)))
        });
        for text in rows.map_err(StoreError::from)? {
            line(&text.map_err(StoreError::from)?)?;
        }
        Ok(())
    }

    fn import(&mut self, batch: &[Imported], now: UnixMillis) -> Result<Vec<Landing>, StoreError> {
        self.import_batch(batch, now)
    }

    fn prune_before(&mut self, before: UnixMillis) -> Result<i64, StoreError> {
        let had = self.count(&COUNT_MESSAGES)?;
        let everything = Retention {
            age: Some(Duration::ZERO),
            bytes: None,
        };
        while self.prune_step(&everything, before)? == Pruned::More {
            std::thread::sleep(PAUSE);
        }
        Ok(had - self.count(&COUNT_MESSAGES)?)
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        let mut faults = vec![];
        if let Err(error) = self.find_faults(&mut faults) {
            let is_damage = matches!(error, StoreError::Permanent(_) | StoreError::Row(_));
            if !is_damage && faults.is_empty() {
                return Err(error);
            }
            // What is behind it cannot be looked at.
            faults.push(format!("it cannot be read any further: {error}"));
        }
        Ok(faults)
    }

    fn try_write(&mut self) -> Result<(), StoreError> {
        self.begin()?;
        let written = self.connection.execute(&TOUCH_STATE, []);
        self.rollback();
        written?;
        Ok(())
    }

    fn groups(&self, app: Option<&str>) -> Result<Vec<StoredGroup>, StoreError> {
        let groups = match app {
            Some(app) => self.connection.rows(&GROUPS_OF_APP, [app], stored_group),
            None => self.connection.rows(&ALL_GROUPS, [], stored_group),
        };
        Ok(groups?)
    }

    fn group_body(&self, app: &str, id: &str) -> Result<Option<String>, StoreError> {
        let body = self
            .connection
            .find(&GROUP_BODY, [app, id], |row| row.get(0));
        Ok(body?)
    }

    fn set_group(&mut self, app: &str, id: &str, body: &str) -> Result<(), StoreError> {
        self.write_group(app, id, body)
    }

    fn remove_group(&mut self, app: &str, id: &str) -> Result<bool, StoreError> {
        self.cache.any_group = None;
        self.cache.groups.remove(app, id);
        Ok(self.connection.execute(&DELETE_GROUP, [app, id])? > 0)
    }

    fn blocked(&self, app: Option<&str>, user: Option<&str>) -> Result<Vec<Blocked>, StoreError> {
        let rows = self.connection.rows(&BANS_AND_BLOCKS, [app, user], |row| {
            Ok(Blocked {
                app: row.get(0)?,
                by: row.get(1)?,
                user: row.get(2)?,
            })
        });
        Ok(rows?)
    }

    fn set_block(
        &mut self,
        app: &str,
        by: &str,
        user: &str,
        change: BlockChange,
    ) -> Result<bool, StoreError> {
        self.write_block([app, by, user], change)
    }

    fn set_ban(
        &mut self,
        app: &str,
        user: &str,
        change: BanChange,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        self.cache.any_ban = None;
        let changed = match change {
            BanChange::Ban => self
                .connection
                .execute(&BAN, params![app, user, millis(now)]),
            BanChange::Unban => self.connection.execute(&LIFT_BAN, [app, user]),
        };
        Ok(changed? > 0)
    }
}

impl SqliteStore {
    /// Adds what is wrong, as far as the file can be read.
    fn find_faults(&self, faults: &mut Vec<String>) -> Result<(), StoreError> {
        faults.extend(
            self.connection
                .pragma_rows::<String>("integrity_check(20)")?,
        );
        faults.retain(|fault| fault != "ok");
        let duplicates = "messages stored twice under one id in one timeline";
        let unknown = "rows that refer to a message that is not there yet";
        let nameless = "rows that refer to a user, group or conversation that is not there";
        for (statement, what) in [
            (&COUNT_DUPLICATES, duplicates),
            (&COUNT_UNKNOWN, unknown),
            (&COUNT_NAMELESS, nameless),
        ] {
            let count = self.count(statement)?;
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        }
        let mut bodies = self.connection.prepare(&ALL_BODIES)?;
        let mut bodies = bodies.query([])?;
        while let Some(row) = bodies.next()? {
            let seq: i64 = row.get(7)?;
            let body = read_body(row).map(Option::unwrap_or_default);
            match body.map(|body| parse_object(body.as_bytes()).is_ok()) {
                Ok(true) => {}
                Ok(false) => faults.push(format!("the body of message {seq} is no JSON object")),
                Err(error) => faults.push(format!("message {seq} cannot be read: {error}")),
            }
        }
        Ok(())
    }

    fn count(&self, statement: &Statement) -> Result<i64, StoreError> {
        Ok(self.connection.row(statement, [], |row| row.get(0))?)
    }

    /// Bytes of the file and its write-ahead log; 0 in memory.
    fn file_bytes(&self) -> u64 {
        let Some(path) = self.connection.path() else {
            return 0;
        };
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let bytes = |path: &Path| std::fs::metadata(path).map_or(0, |file| file.len());
        bytes(path) + bytes(Path::new(&log))
    }
}

fn stored_group(row: &Row<'_>) -> rusqlite::Result<StoredGroup> {
    let body: String = row.get(2)?;
    Ok(StoredGroup {
        app: row.get(0)?,
        id: row.get(1)?,
        members: Group::parse(&body).map_or(0, |group| group.members.len()),
    })
}
