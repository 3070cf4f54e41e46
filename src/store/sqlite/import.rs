//! Stores what another server has stored.
//!
//! The observer's own messages are numbered from 1. Imported ones have negative numbers, made of
//! their times: so each has its place among the others, whatever order they come in, and all are
//! before the observer's own.

use rusqlite::{Row, params};

use super::connection::statements;
use super::{SqliteStore, StoreError, millis, unix};
use crate::protocol::json::parse_object;
use crate::protocol::mongo_export::{
    END_OF_TIME, ImportedConversation, ImportedGroup, ImportedMessage,
};
use crate::protocol::time::UnixMillis;
use crate::store::{Administration, Imported, Landing, Store};

/// Numbers for the messages of one millisecond. What has no room goes to the next one.
const PER_MILLI: i64 = 1 << 11;
/// The first number. JavaScript's numbers hold them all: clients get them as cursors.
const FIRST: i64 = -(1 << 53);
const _: () = assert!(
    END_OF_TIME as i64 * PER_MILLI == -FIRST,
    "the numbers of all times fit"
);

statements! {
    // SQLite goes on behind the greatest number. This row, which is no message, has it go on at 1.
    // Time never falls in the log, so it is as young as the youngest message that is imported.
    BEGIN_OWN_NUMBERS = "INSERT INTO message
        (seq, message_id, app, sender, recipient, layout, stored_at, body)
        SELECT 0, '', '', '', '', '', 0, '{}'
        WHERE coalesce((SELECT max(seq) FROM message), -1) < 0";
    MOVE_OWN_NUMBERS = "UPDATE message SET stored_at = max(stored_at, ?)
        WHERE seq = 0 AND (SELECT max(seq) FROM message) = 0";
    FIND_IMPORTED = "SELECT seq, body FROM message WHERE message_id = ? AND app = ? AND seq < 0";
    LAST_BETWEEN = "SELECT max(seq) FROM message WHERE seq >= ? AND seq < ?";
    IMPORT_MESSAGE = "INSERT INTO message
        (seq, message_id, app, sender, recipient, layout, stored_at, body)
        VALUES (?, ?, ?, ?, ?, '', ?, ?)";
    // A status only rises.
    IMPORT_COPY = "INSERT INTO timeline (app, inbox_of, seq, convers_with, status)
        VALUES (?, ?, ?, ?, ?)
        ON CONFLICT DO UPDATE SET status = excluded.status WHERE excluded.status > status";
    HAS_COPY = "SELECT 1 FROM timeline
        WHERE app = ? AND inbox_of = ? AND seq = ? AND convers_with = ?";
    // A row that shows a message of the observer's own is newer. One that shows the same message
    // may have been opened or archived here since. A patch behind a number of the observer's own
    // was made here.
    IMPORT_CONVERSATION = "INSERT INTO conversation
        (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?4)
        ON CONFLICT DO UPDATE SET
            is_new = CASE WHEN seq = ?4 THEN min(is_new, ?5) ELSE ?5 END,
            archived = CASE WHEN seq = ?4 THEN max(archived, ?6) ELSE ?6 END,
            patch = CASE WHEN patch_seq < 0 OR seq = 0 THEN ?7 ELSE patch END,
            patch_seq = CASE WHEN patch_seq < 0 OR seq = 0 THEN ?4 ELSE patch_seq END,
            seq = ?4
        WHERE seq = 0 OR seq < ?4 OR (seq = ?4 AND (?5 < is_new OR ?6 > archived
            OR (patch_seq < 0 AND patch IS NOT ?7)))";
}

impl SqliteStore {
    /// One transaction.
    pub(super) fn import_batch(&mut self, batch: &[Imported]) -> Result<Vec<Landing>, StoreError> {
        self.begin()?;
        let landed = self.import_all(batch).and_then(|landed| {
            self.commit()?;
            Ok(landed)
        });
        if landed.is_err() {
            self.rollback();
        }
        landed
    }

    fn import_all(&mut self, batch: &[Imported]) -> Result<Vec<Landing>, StoreError> {
        self.connection.execute(&BEGIN_OWN_NUMBERS, [])?;
        let landed: Result<Vec<_>, _> = batch
            .iter()
            .map(|document| match document {
                Imported::Message(message) => self.import_message(message),
                Imported::Conversation(row) => self.import_conversation(row),
                Imported::Group(group) => self.import_group(group),
            })
            .collect();
        let times = batch.iter().filter_map(|document| match document {
            Imported::Message(message) => Some(message.time),
            Imported::Conversation(row) => Some(row.last.time),
            Imported::Group(_) => None,
        });
        // A millisecond may lend its numbers to the one before.
        if let Some(youngest) = times.max() {
            let youngest = UnixMillis::new(youngest.as_millis() + 1);
            self.connection
                .execute(&MOVE_OWN_NUMBERS, [millis(youngest)])?;
        }
        landed
    }

    fn import_message(&self, message: &ImportedMessage) -> Result<Landing, StoreError> {
        let [app, inbox_of, convers_with] = message.timeline.each_ref().map(String::as_str);
        let seq = match self.find_imported(message, |row| row.get(0))? {
            Some(seq) => seq,
            None => self.number_message(message)?,
        };
        let params = params![app, inbox_of, seq, convers_with, message.status.code()];
        Ok(landing(self.connection.execute(&IMPORT_COPY, params)?))
    }

    /// Reads the row of a message that was imported before.
    fn find_imported<T>(
        &self,
        message: &ImportedMessage,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let key = [&message.id, &message.timeline[0]];
        Ok(self.connection.find(&FIND_IMPORTED, key, read)?)
    }

    fn number_message(&self, message: &ImportedMessage) -> Result<i64, StoreError> {
        let mut first = FIRST + millis(message.time) * PER_MILLI;
        let seq = loop {
            let end = first + PER_MILLI;
            let last: Option<i64> = self
                .connection
                .row(&LAST_BETWEEN, [first, end], |row| row.get(0))?;
            match last.map_or(first, |last| last + 1) {
                next if next < end => break next,
                _ => first = end,
            }
        };
        let params = params![
            seq,
            message.id,
            message.timeline[0],
            message.sender,
            message.recipient,
            millis(unix((seq - FIRST) / PER_MILLI)),
            message.body
        ];
        self.connection.execute(&IMPORT_MESSAGE, params)?;
        Ok(seq)
    }

    fn import_conversation(&self, row: &ImportedConversation) -> Result<Landing, StoreError> {
        let last = &row.last;
        let (seq, body) = match self.find_imported(last, |row| Ok((row.get(0)?, row.get(1)?)))? {
            Some(found) => found,
            None => (self.number_message(last)?, last.body.clone()),
        };
        let [app, inbox_of, convers_with] = last.timeline.each_ref().map(String::as_str);
        // The row is all there is of a message that the source has no copy of.
        let key = params![app, inbox_of, seq, convers_with];
        if !self.connection.exists(&HAS_COPY, key)? {
            let params = params![app, inbox_of, seq, convers_with, last.status.code()];
            self.connection.execute(&IMPORT_COPY, params)?;
        }
        let params = params![
            app,
            inbox_of,
            convers_with,
            seq,
            row.is_new,
            row.archived,
            row.patch_over(&body)
        ];
        Ok(landing(
            self.connection.execute(&IMPORT_CONVERSATION, params)?,
        ))
    }

    fn import_group(&mut self, group: &ImportedGroup) -> Result<Landing, StoreError> {
        let stored = Administration::group_body(self, &group.app, &group.id)?;
        if stored.is_some_and(|stored| updated_on(&stored) >= updated_on(&group.body)) {
            return Ok(Landing::Known);
        }
        self.write_group(&group.app, &group.id, &group.body)?;
        Ok(Landing::New)
    }
}

fn landing(changed: usize) -> Landing {
    if changed > 0 {
        Landing::New
    } else {
        Landing::Known
    }
}

/// When a group was changed last, in milliseconds since 1970; 0 if its object does not say.
fn updated_on(body: &str) -> i64 {
    let members = parse_object(body.as_bytes()).unwrap_or_default();
    let time = members.get("updatedOn").map(|time| time.get().parse().ok());
    time.flatten().unwrap_or(0)
}
