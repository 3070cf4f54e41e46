//! What operators ask of the store.

use std::io;
use std::time::Duration;

use super::connection::{params, text};
use super::facts::{FIND_GROUP, pair};
use super::{PostgresStore, StoreError, millis, status};
use crate::protocol::control_payload::BlockChange;
use crate::protocol::envelope::Body;
use crate::protocol::group::Group;
use crate::protocol::json::parse_object;
use crate::protocol::time::UnixMillis;
use crate::store::{
    Administration, BanChange, Blocked, ExportError, Imported, Landing, Probe, Pruned, Retention,
    Stats, Store, StoredGroup,
};

/// The pause between two steps of pruning: others get their turn to write.
const PAUSE: Duration = Duration::from_millis(5);
/// Messages read at a time.
const AT_A_TIME: i64 = 1_000;
/// Bytes of bodies read at a time, give or take one message.
const BYTES_AT_A_TIME: i64 = 4 << 20;

const COUNT_ALL: &str = "SELECT
    (SELECT count(*) FROM message WHERE seq <> 0), (SELECT count(*) FROM timeline),
    (SELECT count(*) FROM conversation WHERE seq <> 0 OR patch_seq IS NOT NULL),
    (SELECT count(*) FROM (SELECT DISTINCT app, inbox_of FROM timeline) inboxes),
    (SELECT count(*) FROM chat_group), (SELECT count(*) FROM block),
    (SELECT count(*) FROM ban), (SELECT count(*) FROM presence),
    (SELECT stored_at FROM message WHERE seq <> 0 ORDER BY seq LIMIT 1),
    (SELECT stored_at FROM message WHERE seq <> 0 ORDER BY seq DESC LIMIT 1),
    (SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
        WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace)";
const COUNT_MESSAGES: &str = "SELECT count(*) FROM message WHERE seq <> 0";
const EXPORT: &str = "SELECT body, status, seq, convers_with
    FROM (SELECT p.*, sum(octet_length(body)) OVER
            (ORDER BY seq, convers_with ROWS UNBOUNDED PRECEDING) - octet_length(body) AS before
        FROM (SELECT m.body, t.status, t.seq, t.convers_with
            FROM timeline t JOIN message m ON m.seq = t.seq
            WHERE t.app = $1 AND t.inbox_of = $2 AND ($3::text IS NULL OR t.convers_with = $3)
                AND (t.seq, t.convers_with) > ($4, $5)
            ORDER BY t.seq, t.convers_with LIMIT $6) p) p
    WHERE before < $7::bigint ORDER BY seq, convers_with";
const COUNT_DUPLICATES: &str = "SELECT count(*) FROM
    (SELECT 1 FROM timeline t JOIN message m ON m.seq = t.seq
     GROUP BY t.app, t.inbox_of, t.convers_with, m.message_id HAVING count(*) > 1) twice";
const COUNT_UNKNOWN: &str = "SELECT count(*) FROM timeline
    WHERE seq > (SELECT coalesce(max(seq), 0) FROM message)";
const BODIES: &str = "SELECT seq, body
    FROM (SELECT p.*, sum(octet_length(body)) OVER
            (ORDER BY seq ROWS UNBOUNDED PRECEDING) - octet_length(body) AS before
        FROM (SELECT seq, body FROM message WHERE seq > $1 ORDER BY seq LIMIT $2) p) p
    WHERE before < $3::bigint ORDER BY seq";
const GROUPS: &str = "SELECT app, group_id, body FROM chat_group
    WHERE $1::text IS NULL OR app = $1 ORDER BY app, group_id";
const DELETE_GROUP: &str = "DELETE FROM chat_group WHERE app = $1 AND group_id = $2";
const BANS: &str = "SELECT app, user_id FROM ban
    WHERE ($1::text IS NULL OR app = $1) AND ($2::text IS NULL OR user_id = $2)
    ORDER BY app, user_id";
const BLOCKS: &str = "SELECT app, inbox_of, other FROM block
    WHERE ($1::text IS NULL OR app = $1) AND ($2::text IS NULL OR inbox_of = $2 OR other = $2)
    ORDER BY app, inbox_of, other";
const BAN: &str = "INSERT INTO ban (app, user_id, since) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING";
const LIFT_BAN: &str = "DELETE FROM ban WHERE app = $1 AND user_id = $2";

impl Administration for PostgresStore {
    fn stats(&self) -> Result<Stats, StoreError> {
        let used_bytes = self.used_bytes()?;
        self.row(COUNT_ALL, params![], |row| Stats {
            messages: row.get(0),
            copies: row.get(1),
            conversations: row.get(2),
            inboxes: row.get(3),
            groups: row.get(4),
            blocks: row.get(5),
            bans: row.get(6),
            clients: row.get(7),
            oldest: row.get(8),
            newest: row.get(9),
            used_bytes,
            file_bytes: row.get::<_, Option<i64>>(10).unwrap_or(0).unsigned_abs(),
        })
    }

    fn export(
        &self,
        app: &str,
        inbox_of: &str,
        convers_with: Option<&str>,
        line: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ExportError> {
        let [app, inbox_of] = pair(app, inbox_of);
        let peer = convers_with.map(str::to_owned);
        let mut after = (i64::MIN, String::new());
        loop {
            let (seq, with) = after.clone();
            let (app, inbox_of) = (app.clone(), inbox_of.clone());
            let params = params![
                app,
                inbox_of,
                peer.clone(),
                seq,
                with,
                AT_A_TIME,
                BYTES_AT_A_TIME
            ];
            let lines = self.rows(EXPORT, params, |row| {
                let body = Body::from_stored(row.get(0));
                (body.with_status(status(row.get(1))), row.get(2), row.get(3))
            })?;
            if lines.is_empty() {
                return Ok(());
            }
            for (text, seq, with) in lines {
                line(&text)?;
                after = (seq, with);
            }
        }
    }

    fn import(&mut self, batch: &[Imported], now: UnixMillis) -> Result<Vec<Landing>, StoreError> {
        self.atomically(|store| store.import_all(batch, now))
    }

    fn prune_before(&mut self, before: UnixMillis) -> Result<i64, StoreError> {
        let had = self.count_rows(COUNT_MESSAGES)?;
        let everything = Retention {
            age: Some(Duration::ZERO),
            bytes: None,
        };
        while self.prune_step(&everything, before)? == Pruned::More {
            std::thread::sleep(PAUSE);
        }
        Ok(had - self.count_rows(COUNT_MESSAGES)?)
    }

    fn check(&self) -> Result<Vec<String>, StoreError> {
        let mut faults = vec![];
        let duplicates = "messages stored twice under one id in one timeline";
        let unknown = "rows that refer to a message that is not there yet";
        for (sql, what) in [(COUNT_DUPLICATES, duplicates), (COUNT_UNKNOWN, unknown)] {
            let count = self.count_rows(sql)?;
            if count > 0 {
                faults.push(format!("{count} {what}"));
            }
        }
        let mut last = i64::MIN;
        loop {
            let params = params![last, AT_A_TIME, BYTES_AT_A_TIME];
            let bodies: Vec<(i64, String)> =
                self.rows(BODIES, params, |row| (row.get(0), row.get(1)))?;
            let Some((end, _)) = bodies.last() else {
                return Ok(faults);
            };
            last = *end;
            let broken = bodies
                .iter()
                .filter(|(_, body)| parse_object(body.as_bytes()).is_err());
            let told = |seq| format!("the body of message {seq} is no JSON object");
            faults.extend(broken.map(|(seq, _)| told(seq)));
        }
    }

    fn try_write(&mut self) -> Result<(), StoreError> {
        if self.lease.is_some() {
            return self.probe(Probe::Write);
        }
        self.begin()?;
        let written = self.open_transaction();
        let written = written.and_then(|()| self.execute(LIFT_BAN, params!["", ""]));
        self.rollback();
        written.map(drop)
    }

    fn groups(&self, app: Option<&str>) -> Result<Vec<StoredGroup>, StoreError> {
        self.rows(GROUPS, params![app.map(str::to_owned)], |row| StoredGroup {
            app: row.get(0),
            id: row.get(1),
            members: Group::parse(row.get(2)).map_or(0, |group| group.members.len()),
        })
    }

    fn group_body(&self, app: &str, id: &str) -> Result<Option<String>, StoreError> {
        self.find(FIND_GROUP, params![app.to_owned(), text(id)], |row| {
            row.get(0)
        })
    }

    fn set_group(&mut self, app: &str, id: &str, body: &str) -> Result<(), StoreError> {
        self.atomically(|store| store.write_group(app, id, body))
    }

    fn remove_group(&mut self, app: &str, id: &str) -> Result<bool, StoreError> {
        let key = [app.to_owned(), text(id)];
        self.batch.borrow_mut().known.groups.remove(&key);
        let [app, id] = key;
        self.atomically(|store| {
            let params = params![app.clone(), id.clone()];
            Ok(store.execute(DELETE_GROUP, params)? > 0)
        })
    }

    fn blocked(&self, app: Option<&str>, user: Option<&str>) -> Result<Vec<Blocked>, StoreError> {
        let conditions = || params![app.map(str::to_owned), user.map(str::to_owned)];
        let mut rows = self.rows(BANS, conditions(), |row| Blocked {
            app: row.get(0),
            by: None,
            user: row.get(1),
        })?;
        rows.extend(self.rows(BLOCKS, conditions(), |row| Blocked {
            app: row.get(0),
            by: Some(row.get(1)),
            user: row.get(2),
        })?);
        Ok(rows)
    }

    fn set_block(
        &mut self,
        app: &str,
        by: &str,
        user: &str,
        change: BlockChange,
    ) -> Result<bool, StoreError> {
        let key = [app, by, user].map(str::to_owned);
        self.atomically(|store| {
            let (sql, params) = store.block(&key, change);
            Ok(store.execute(sql, params)? > 0)
        })
    }

    fn set_ban(
        &mut self,
        app: &str,
        user: &str,
        change: BanChange,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let [app, user] = pair(app, user);
        self.batch.borrow_mut().known.bans.clear();
        self.atomically(|store| {
            let (app, user) = (app.clone(), user.clone());
            let changed = match change {
                BanChange::Ban => store.execute(BAN, params![app, user, millis(now)]),
                BanChange::Unban => store.execute(LIFT_BAN, params![app, user]),
            };
            Ok(changed? > 0)
        })
    }
}

impl PostgresStore {
    fn count_rows(&self, sql: &'static str) -> Result<i64, StoreError> {
        self.row(sql, params![], |row| row.get(0))
    }
}
