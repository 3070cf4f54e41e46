//! Moves what a store of version 6 holds into the tables of version 7.
//!
//! Every step is a transaction: it takes rows from the old tables and writes them into the new
//! ones. So an upgrade that is interrupted goes on where it was, and needs little room on the disk.

use std::collections::HashMap;

use rusqlite::{Result, Row, params};
use tracing::info;

use super::connection::{Connection, Statement, statements};
use super::encoding::{StoredId, Told};

/// Rows that one step moves.
const ROWS_PER_STEP: i64 = 20_000;
/// Steps between two lines of the log.
const STEPS_PER_LINE: u32 = 10;
/// Kibibytes of pages held meanwhile: an inbox's copies are written in no order of their peers.
const CACHE: i64 = -65_536;
/// SQLite's own figure.
const DEFAULT_CACHE: i64 = -2_000;

statements! {
    IS_UNFINISHED may scan "a few rows" =
        "SELECT 1 FROM sqlite_schema WHERE name = 'old_conversation' LIMIT 1";
    DROP_OLD_MESSAGES = "DROP TABLE old_message";
    DROP_OLD_TIMELINE = "DROP TABLE old_timeline";
    DROP_OLD_CONVERSATIONS = "DROP TABLE old_conversation";
    DROP_OLD_DELIVERIES = "DROP TABLE old_delivery";
    DROP_OLD_FAN_OUTS = "DROP TABLE old_fan_out";
    DROP_OLD_POSITIONS = "DROP TABLE old_fan_out_position";
    HAS_ACCOUNTS may scan "stops at the first row" =
        "SELECT 1 FROM account LIMIT 1";
    // In the order of the old tables: what follows is appended to the new ones.
    NAME_INBOXES may scan "once" =
        "INSERT INTO account (app, name, used)
        SELECT app, inbox_of, (SELECT coalesce(max(seq), 0) FROM old_message)
        FROM (SELECT DISTINCT app, inbox_of FROM old_timeline) ORDER BY app, inbox_of";
    LAST_OLD = "SELECT coalesce(max(seq), 0) FROM old_message";
    TO_MOVE = "SELECT coalesce(max(seq), 0)
        - coalesce((SELECT min(seq) FROM old_message WHERE seq > 0), 1) + 1 FROM old_message";
    FIND_ACCOUNT = "SELECT id FROM account WHERE app = ? AND name = ?";
    INSERT_ACCOUNT = "INSERT INTO account (app, name, used) VALUES (?, ?, ?)";
    FIND_LAYOUT = "SELECT id FROM layout WHERE name = ?";
    INSERT_LAYOUT = "INSERT INTO layout (name) VALUES (?)";
    OLD_MESSAGES may scan "stops after some rows" =
        "SELECT seq, message_id, app, sender, recipient, layout, stored_at, fingerprint,
        body FROM old_message ORDER BY seq LIMIT ?";
    MOVE_MESSAGE = "INSERT INTO message_data
        (seq, id, sender, recipient, layout, stored_at, fingerprint, written, body)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    FORGET_MESSAGES = "DELETE FROM old_message WHERE seq <= ?";
    OLD_COPIES may scan "stops after some rows" =
        "SELECT app, inbox_of, seq, convers_with, status FROM old_timeline
        ORDER BY app, inbox_of, seq, convers_with LIMIT ?";
    MOVE_COPY = "INSERT INTO copy (inbox, peer, seq, status) VALUES (?, ?, ?, ?)";
    FORGET_COPIES = "DELETE FROM old_timeline
        WHERE (app, inbox_of, seq, convers_with) <= (?, ?, ?, ?)";
    // What has copies has a row: one that shows none of them, until the old one is moved.
    KEEP_STATES may scan "once" =
        "INSERT INTO conversation_state (inbox, peer, since, seq, is_new, archived)
        SELECT inbox, peer, max(0, max(seq)), 0, 0, 0 FROM copy GROUP BY inbox, peer";
    HAS_STATES may scan "stops at the first row" =
        "SELECT 1 FROM conversation_state LIMIT 1";
    OLD_CONVERSATIONS may scan "stops after some rows" =
        "SELECT app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq
        FROM old_conversation ORDER BY app, inbox_of, convers_with LIMIT ?";
    MOVE_CONVERSATION = "INSERT INTO conversation_state
        (inbox, peer, since, seq, is_new, archived, patch, patch_seq)
        VALUES (?1, ?2, max(0, ?3), ?3, ?4, ?5, ?6, ?7)
        ON CONFLICT DO UPDATE SET since = max(since, ?3), seq = ?3, is_new = ?4, archived = ?5,
            patch = ?6, patch_seq = ?7";
    FORGET_CONVERSATIONS = "DELETE FROM old_conversation
        WHERE (app, inbox_of, convers_with) <= (?, ?, ?)";
    OLD_DELIVERIES may scan "stops after some rows" =
        "SELECT message_id, number, came_on, purpose, topic, status, payload, properties
        FROM old_delivery ORDER BY message_id, number LIMIT ?";
    MOVE_DELIVERY = "INSERT INTO delivery
        (id, number, count, came_on, purpose, topics, payload, properties)
        VALUES (?, ?, 1, ?, ?, ?, ?, ?)";
    FORGET_DELIVERIES = "DELETE FROM old_delivery WHERE (message_id, number) <= (?, ?)";
    OLD_FAN_OUTS may scan "stops after some rows" =
        "SELECT message_id, came_on, work FROM old_fan_out ORDER BY message_id LIMIT ?";
    MOVE_FAN_OUT = "INSERT INTO fan_out (id, came_on, work) VALUES (?, ?, ?)";
    FORGET_FAN_OUTS = "DELETE FROM old_fan_out WHERE message_id <= ?";
    OLD_POSITIONS may scan "stops after some rows" =
        "SELECT message_id, position FROM old_fan_out_position
        ORDER BY message_id LIMIT ?";
    MOVE_POSITION = "INSERT INTO fan_out_position (id, position) VALUES (?, ?)";
    FORGET_POSITIONS = "DELETE FROM old_fan_out_position WHERE message_id <= ?";
}

/// Whether an upgrade was begun and not finished.
pub(super) fn is_unfinished(connection: &Connection) -> Result<bool> {
    connection.exists(&IS_UNFINISHED, [])
}

/// Finishes an upgrade.
pub(super) fn finish(connection: &Connection) -> Result<()> {
    let mut upgrade = Upgrade::new(connection)?;
    let total: i64 = connection.row(&TO_MOVE, [], |row| row.get(0))?;
    if total > ROWS_PER_STEP {
        info!(messages = total, "upgrading the store: this is done once");
    }
    connection.set_pragma("cache_size", CACHE)?;
    let mut steps = 0_u32;
    while upgrade.step(ROWS_PER_STEP)? {
        steps += 1;
        if steps.is_multiple_of(STEPS_PER_LINE) {
            let moved = &upgrade.moved;
            info!(
                messages = moved.messages,
                of = total,
                copies = moved.copies,
                conversations = moved.conversations,
                "upgrading the store"
            );
        }
    }
    if steps >= STEPS_PER_LINE {
        info!("the store is upgraded");
    }
    connection.set_pragma("cache_size", DEFAULT_CACHE)
}

/// An upgrade under way.
pub(super) struct Upgrade<'c> {
    connection: &'c Connection,
    part: Part,
    accounts: HashMap<(Box<str>, Box<str>), i64>,
    /// No old message is behind this position.
    last: i64,
    moved: Moved,
}

#[derive(Default)]
struct Moved {
    messages: usize,
    copies: usize,
    conversations: usize,
}

/// What is moved next. In this order: each part is found by the number of its table that is left.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Log,
    Copies,
    Messages,
    Conversations,
    Done,
}

/// How many accounts are remembered while rows are moved.
const ACCOUNTS: usize = 500_000;

impl<'c> Upgrade<'c> {
    pub(super) fn new(connection: &'c Connection) -> Result<Self> {
        Ok(Self {
            connection,
            part: Part::Log,
            accounts: HashMap::new(),
            last: connection.row(&LAST_OLD, [], |row| row.get(0))?,
            moved: Moved::default(),
        })
    }

    /// Moves some rows. Returns whether there may be more.
    pub(super) fn step(&mut self, rows: i64) -> Result<bool> {
        if self.part == Part::Done {
            return Ok(false);
        }
        self.connection.begin()?;
        let next = self.move_rows(rows).and_then(|next| {
            self.connection.commit()?;
            Ok(next)
        });
        if next.is_err() {
            self.connection.rollback();
            // What it made is not there any more.
            self.accounts.clear();
        }
        self.part = next?;
        Ok(self.part != Part::Done)
    }

    /// Moves some rows of a part. Returns what is moved next.
    fn move_rows(&mut self, rows: i64) -> Result<Part> {
        let part = self.part;
        let moved = match part {
            Part::Log => self.move_log(rows)?,
            Part::Copies => {
                if !self.connection.exists(&HAS_ACCOUNTS, [])? {
                    self.connection.execute(&NAME_INBOXES, [])?;
                }
                let moved = self.move_copies(rows)?;
                self.moved.copies += moved;
                moved
            }
            Part::Messages => {
                let moved = self.move_messages(rows)?;
                self.moved.messages += moved;
                moved
            }
            Part::Conversations => {
                if !self.connection.exists(&HAS_STATES, [])? {
                    self.connection.execute(&KEEP_STATES, [])?;
                }
                let moved = self.move_conversations(rows)?;
                self.moved.conversations += moved;
                moved
            }
            Part::Done => 0,
        };
        Ok(match part {
            _ if moved > 0 => part,
            Part::Log => Part::Copies,
            Part::Copies => Part::Messages,
            Part::Messages => Part::Conversations,
            Part::Conversations | Part::Done => {
                for drop in [
                    &DROP_OLD_MESSAGES,
                    &DROP_OLD_TIMELINE,
                    &DROP_OLD_CONVERSATIONS,
                    &DROP_OLD_DELIVERIES,
                    &DROP_OLD_FAN_OUTS,
                    &DROP_OLD_POSITIONS,
                ] {
                    self.connection.execute(drop, [])?;
                }
                Part::Done
            }
        })
    }

    fn account(&mut self, app: &str, name: &str) -> Result<i64> {
        let key = (app.into(), name.into());
        if let Some(id) = self.accounts.get(&key) {
            return Ok(*id);
        }
        let connection = self.connection;
        let id = match connection.find(&FIND_ACCOUNT, [app, name], |row| row.get(0))? {
            Some(id) => id,
            None => connection.insert(&INSERT_ACCOUNT, params![app, name, self.last])?,
        };
        if self.accounts.len() >= ACCOUNTS {
            self.accounts.clear();
        }
        self.accounts.insert(key, id);
        Ok(id)
    }

    fn layout(&mut self, name: &str) -> Result<i64> {
        let find = |row: &Row<'_>| row.get(0);
        match self.connection.find(&FIND_LAYOUT, [name], find)? {
            Some(id) => Ok(id),
            None => self.connection.insert(&INSERT_LAYOUT, [name]),
        }
    }

    fn move_messages(&mut self, most: i64) -> Result<usize> {
        let mut old = self.connection.prepare(&OLD_MESSAGES)?;
        let mut new = self.connection.prepare(&MOVE_MESSAGE)?;
        let mut rows = old.query([most])?;
        let (mut moved, mut last) = (0, 0);
        while let Some(row) = rows.next()? {
            let text = |at: usize| -> Result<&str> { Ok(row.get_ref(at)?.as_str()?) };
            let (seq, stored_at): (i64, i64) = (row.get(0)?, row.get(6)?);
            let told = Told {
                id: text(1)?,
                app: text(2)?,
                sender: text(3)?,
                recipient: text(4)?,
                stored_at,
            };
            let body = text(8)?;
            let (body, written) = match told.shorten(body) {
                Some((beginning, written)) => (beginning, Some(written)),
                None => (body, None),
            };
            // The row that is no message has neither.
            let [sender, recipient, layout] = match seq {
                0 => [0; 3],
                _ => [
                    self.account(told.app, told.sender)?,
                    self.account(told.app, told.recipient)?,
                    self.layout(text(5)?)?,
                ],
            };
            new.execute(params![
                seq,
                StoredId::of(told.id),
                sender,
                recipient,
                layout,
                stored_at,
                row.get::<_, Option<i64>>(7)?,
                written,
                body
            ])?;
            (moved, last) = (moved + 1, seq);
        }
        drop(rows);
        if moved > 0 {
            self.connection.execute(&FORGET_MESSAGES, [last])?;
        }
        Ok(moved)
    }

    fn move_copies(&mut self, most: i64) -> Result<usize> {
        let mut old = self.connection.prepare(&OLD_COPIES)?;
        let mut new = self.connection.prepare(&MOVE_COPY)?;
        let mut rows = old.query([most])?;
        let (mut moved, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let (app, inbox_of): (String, String) = (row.get(0)?, row.get(1)?);
            let (seq, peer): (i64, String) = (row.get(2)?, row.get(3)?);
            let inbox = self.account(&app, &inbox_of)?;
            let with = self.account(&app, &peer)?;
            new.execute(params![inbox, with, seq, row.get::<_, i64>(4)?])?;
            moved += 1;
            last = Some((app, inbox_of, seq, peer));
        }
        drop(rows);
        if let Some((app, inbox_of, seq, peer)) = last {
            let params = params![app, inbox_of, seq, peer];
            self.connection.execute(&FORGET_COPIES, params)?;
        }
        Ok(moved)
    }

    fn move_conversations(&mut self, most: i64) -> Result<usize> {
        let mut old = self.connection.prepare(&OLD_CONVERSATIONS)?;
        let mut new = self.connection.prepare(&MOVE_CONVERSATION)?;
        let mut rows = old.query([most])?;
        let (mut moved, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let (app, inbox_of): (String, String) = (row.get(0)?, row.get(1)?);
            let peer: String = row.get(2)?;
            new.execute(params![
                self.account(&app, &inbox_of)?,
                self.account(&app, &peer)?,
                row.get::<_, i64>(3)?,
                row.get::<_, i64>(4)?,
                row.get::<_, i64>(5)?,
                row.get::<_, Option<String>>(6)?,
                row.get::<_, Option<i64>>(7)?,
            ])?;
            moved += 1;
            last = Some([app, inbox_of, peer]);
        }
        drop(rows);
        if let Some(key) = last {
            self.connection.execute(&FORGET_CONVERSATIONS, key)?;
        }
        Ok(moved)
    }

    /// Moves some of the delivery log.
    fn move_log(&mut self, most: i64) -> Result<usize> {
        let mut old = self.connection.prepare(&OLD_DELIVERIES)?;
        let mut new = self.connection.prepare(&MOVE_DELIVERY)?;
        let mut rows = old.query([most])?;
        let (mut moved, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let (id, number): (String, i64) = (row.get(0)?, row.get(1)?);
            let topic: String = row.get(4)?;
            let payload: Option<Vec<u8>> = row.get(6)?;
            let topics = match (row.get::<_, Option<i64>>(5)?, &payload) {
                (Some(status), None) => format!("{status} {topic}\0"),
                (_, Some(_)) | (None, None) => topic,
            };
            new.execute(params![
                StoredId::of(&id),
                number,
                row.get::<_, Option<Vec<u8>>>(2)?,
                row.get::<_, i64>(3)?,
                topics.into_bytes(),
                payload,
                row.get::<_, Option<String>>(7)?,
            ])?;
            moved += 1;
            last = Some((id, number));
        }
        drop(rows);
        if let Some((id, number)) = last {
            self.connection
                .execute(&FORGET_DELIVERIES, params![id, number])?;
        }
        let fan_outs = self.move_by_id(most, &OLD_FAN_OUTS, &FORGET_FAN_OUTS, |id, row| {
            let params = params![id, row.get::<_, Vec<u8>>(1)?, row.get::<_, String>(2)?];
            self.connection.execute(&MOVE_FAN_OUT, params)
        })?;
        let positions = self.move_by_id(most, &OLD_POSITIONS, &FORGET_POSITIONS, |id, row| {
            let params = params![id, row.get::<_, i64>(1)?];
            self.connection.execute(&MOVE_POSITION, params)
        })?;
        Ok(moved + fan_outs + positions)
    }

    /// Moves rows whose key is the id of a message, their first column.
    fn move_by_id(
        &self,
        most: i64,
        old: &Statement,
        forget: &Statement,
        insert: impl Fn(StoredId<'_>, &Row<'_>) -> Result<usize>,
    ) -> Result<usize> {
        let mut old = self.connection.prepare(old)?;
        let mut rows = old.query([most])?;
        let (mut moved, mut last) = (0, None);
        while let Some(row) = rows.next()? {
            let id: String = row.get(0)?;
            insert(StoredId::of(&id), row)?;
            moved += 1;
            last = Some(id);
        }
        drop(rows);
        if let Some(id) = last {
            self.connection.execute(forget, [id])?;
        }
        Ok(moved)
    }
}
