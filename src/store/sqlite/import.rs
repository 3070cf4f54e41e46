//! Stores what another server has stored.

use rusqlite::{Row, params};

use super::connection::statements;
use super::conversations::Pair;
use super::encoding::{StoredId, body_accounts, body_columns, read_body};
use super::{SqliteStore, StoreError};
use crate::protocol::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};
use crate::protocol::time::UnixMillis;
use crate::store::import::{
    FROM_A_ROW, is_newer, landing, number_for, time, time_between, youngest,
};
use crate::store::{Administration, Imported, Landing};

statements! {
    // SQLite goes on behind the greatest number. This row, which is no message, has it go on at 1.
    // Time never falls in the log, so it is as young as the youngest message that is imported.
    BEGIN_OWN_NUMBERS = "INSERT INTO message_data
        (seq, id, sender, recipient, layout, stored_at, body)
        SELECT 0, '', 0, 0, 0, ?, '{}'
        WHERE coalesce((SELECT max(seq) FROM message_data), -1) < 0";
    MOVE_OWN_NUMBERS = "UPDATE message_data SET stored_at = max(stored_at, min(?1, coalesce(
        (SELECT stored_at FROM message_data WHERE seq > 0 ORDER BY seq LIMIT 1), ?1)))
        WHERE seq = 0";
    // Services may have used an id twice.
    FIND_IMPORTED = concat!("SELECT ", body_columns!(), ", l.name, m.seq FROM message_data m ",
        body_accounts!(), " LEFT JOIN layout l ON l.id = m.layout
        WHERE m.id = ? AND r.app = ? AND s.name = ? AND r.name = ? AND m.seq < 0");
    SET_BODY = "UPDATE message_data SET body = ?, written = NULL, layout = ? WHERE seq = ?";
    TIME_BEFORE = "SELECT stored_at FROM message_data WHERE seq < ? ORDER BY seq DESC LIMIT 1";
    TIME_BEHIND = "SELECT stored_at FROM message_data WHERE seq > ? ORDER BY seq LIMIT 1";
    LAST_BETWEEN = "SELECT max(seq) FROM message_data WHERE seq >= ? AND seq < ?";
    IMPORT_MESSAGE = "INSERT INTO message_data
        (seq, id, sender, recipient, layout, stored_at, body) VALUES (?, ?, ?, ?, ?, ?, ?)";
    // A status only rises.
    IMPORT_COPY = "INSERT INTO copy (inbox, peer, seq, status) VALUES (?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET status = excluded.status WHERE excluded.status > status";
    HAS_COPY = "SELECT 1 FROM copy WHERE inbox = ? AND peer = ? AND seq = ?";
    // What has copies has a row, which shows none of these.
    KEEP_STATE = "INSERT OR IGNORE INTO conversation_state
        (inbox, peer, since, seq, is_new, archived) VALUES (?, ?, 0, 0, 0, 0)";
    // A row that shows a message of the observer's own is newer. One that shows the same message
    // may have been opened or archived here since. A patch behind a number of the observer's own
    // was made here: it stays, and is older than a message that comes from the source.
    IMPORT_CONVERSATION = "INSERT INTO conversation_state
        (inbox, peer, since, seq, is_new, archived, patch, patch_seq)
        VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?3)
        ON CONFLICT DO UPDATE SET
            is_new = CASE WHEN seq = ?3 OR (seq = 0 AND patch_seq IS NOT NULL)
                THEN min(is_new, ?4) ELSE ?4 END,
            archived = CASE WHEN seq = ?3 OR (seq = 0 AND patch_seq IS NOT NULL)
                THEN max(archived, ?5) ELSE ?5 END,
            patch = CASE WHEN patch_seq >= 0 THEN patch ELSE ?6 END,
            patch_seq = CASE WHEN patch_seq IS NULL OR patch_seq < 0 THEN ?3
                WHEN seq = 0 OR seq = ?3 THEN patch_seq ELSE ?3 - 1 END,
            seq = ?3
        WHERE seq = 0 OR seq < ?3 OR (seq = ?3 AND (?4 < is_new OR ?5 > archived
            OR (patch_seq < 0 AND patch IS NOT ?6)))";
}

impl SqliteStore {
    /// One transaction.
    pub(super) fn import_batch(
        &mut self,
        batch: &[Imported],
        now: UnixMillis,
    ) -> Result<Vec<Landing>, StoreError> {
        self.in_transaction(|store| store.import_all(batch, now))
    }

    fn import_all(
        &mut self,
        batch: &[Imported],
        now: UnixMillis,
    ) -> Result<Vec<Landing>, StoreError> {
        if let Some(youngest) = youngest(batch, now) {
            self.connection.execute(&BEGIN_OWN_NUMBERS, [youngest])?;
            self.connection.execute(&MOVE_OWN_NUMBERS, [youngest])?;
        }
        batch
            .iter()
            .map(|document| match document {
                Imported::Message(message) => self.import_message(message, now),
                Imported::Conversation(row) => self.import_conversation(row, now),
                Imported::Group(group) => self.import_group(group),
            })
            .collect()
    }

    fn import_message(
        &mut self,
        message: &ImportedMessage,
        now: UnixMillis,
    ) -> Result<Landing, StoreError> {
        let read = |row: &Row<'_>| {
            let layout: Option<String> = row.get(7)?;
            Ok((row.get(8)?, layout.as_deref() == Some(FROM_A_ROW)))
        };
        let seq = match self.find_imported(message, read)? {
            Some((seq, false)) => seq,
            Some((seq, true)) => {
                let params = params![message.body, self.layout("")?, seq];
                self.connection.execute(&SET_BODY, params)?;
                seq
            }
            None => self.number_message(message, "", now)?,
        };
        let pair = self.imported_pair(message)?;
        let params = params![pair.inbox, pair.peer, seq, message.status.code()];
        Ok(landing(self.connection.execute(&IMPORT_COPY, params)? > 0))
    }

    /// The accounts of a copy. They have a row, as all that have copies.
    fn imported_pair(&mut self, message: &ImportedMessage) -> Result<Pair, StoreError> {
        let [app, inbox_of, convers_with] = message.timeline.each_ref().map(String::as_str);
        let pair = Pair {
            inbox: self.account(app, inbox_of)?,
            peer: self.account(app, convers_with)?,
        };
        let params = [pair.inbox, pair.peer];
        self.connection.execute(&KEEP_STATE, params)?;
        Ok(pair)
    }

    /// Reads the row of a message that was imported before.
    fn find_imported<T>(
        &self,
        message: &ImportedMessage,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let key = params![
            StoredId::of(&message.id),
            message.timeline[0],
            message.sender,
            message.recipient,
        ];
        Ok(self.connection.find(&FIND_IMPORTED, key, read)?)
    }

    fn number_message(
        &mut self,
        message: &ImportedMessage,
        layout: &str,
        now: UnixMillis,
    ) -> Result<i64, StoreError> {
        let time = time(message, now);
        let seq = number_for(time, |first, end| {
            let last = self
                .connection
                .row(&LAST_BETWEEN, [first, end], |row| row.get(0));
            Ok(last?)
        })?;
        let neighbour = |statement| self.connection.find(statement, [seq], |row| row.get(0));
        let (before, behind): (Option<i64>, Option<i64>) =
            (neighbour(&TIME_BEFORE)?, neighbour(&TIME_BEHIND)?);
        let app = &message.timeline[0];
        let params = params![
            seq,
            StoredId::of(&message.id),
            self.account(app, &message.sender)?,
            self.account(app, &message.recipient)?,
            self.layout(layout)?,
            time_between(time, before, behind),
            message.body
        ];
        self.connection.execute(&IMPORT_MESSAGE, params)?;
        Ok(seq)
    }

    fn import_conversation(
        &mut self,
        row: &ImportedConversation,
        now: UnixMillis,
    ) -> Result<Landing, StoreError> {
        let last = &row.last;
        let read = |row: &Row<'_>| Ok((row.get(8)?, read_body(row)?.unwrap_or_default()));
        let (seq, body) = match self.find_imported(last, read)? {
            Some(found) => found,
            None => {
                let seq = self.number_message(last, FROM_A_ROW, now)?;
                (seq, last.body.clone())
            }
        };
        let pair = self.imported_pair(last)?;
        // The row is all there is of a message that the source has no copy of.
        let key = [pair.inbox, pair.peer, seq];
        if !self.connection.exists(&HAS_COPY, key)? {
            let params = params![pair.inbox, pair.peer, seq, last.status.code()];
            self.connection.execute(&IMPORT_COPY, params)?;
        }
        self.settle(pair)?;
        let params = params![
            pair.inbox,
            pair.peer,
            seq,
            row.is_new,
            row.archived,
            row.patch_over(&body)
        ];
        Ok(landing(
            self.connection.execute(&IMPORT_CONVERSATION, params)? > 0,
        ))
    }

    fn import_group(&mut self, group: &ImportedGroup) -> Result<Landing, StoreError> {
        let stored = Administration::group_body(self, &group.app, &group.id)?;
        if stored.is_some_and(|stored| !is_newer(group, &stored)) {
            return Ok(Landing::Known);
        }
        self.write_group(&group.app, &group.id, &group.body)?;
        Ok(Landing::New)
    }
}
