//! Stores what another server has stored.

use tokio_postgres::Row;

use super::batch::{COPY_BYTES, MESSAGE_BYTES};
use super::connection::{Param, params, text};
use super::{PostgresStore, StoreError};
use crate::protocol::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};
use crate::protocol::time::UnixMillis;
use crate::store::import::{
    FROM_A_ROW, is_newer, landing, number_for, time, time_between, youngest,
};
use crate::store::{Administration, Imported, Landing};

// Time never falls in the log. This row, which is no message, is as young as the youngest message
// that is imported, and the observer's own go on from there.
const BEGIN_OWN_NUMBERS: &str = "INSERT INTO message
    (seq, message_id, app, sender, recipient, layout, stored_at, body)
    SELECT 0, '', '', '', '', '', $1::bigint, '{}'
    WHERE coalesce((SELECT max(seq) FROM message), -1) < 0";
const MOVE_OWN_NUMBERS: &str = "UPDATE message SET stored_at = greatest(stored_at, least($1,
        (SELECT stored_at FROM message WHERE seq > 0 ORDER BY seq LIMIT 1)))
    WHERE seq = 0";
// Services may have used an id twice.
const FIND_IMPORTED: &str = "SELECT seq, body, layout FROM message
    WHERE message_id = $1 AND app = $2 AND sender = $3 AND recipient = $4 AND seq < 0";
const SET_BODY: &str = "UPDATE message SET body = $1, layout = '' WHERE seq = $2";
const NEIGHBOURS: &str = "SELECT
    (SELECT stored_at FROM message WHERE seq < $1 ORDER BY seq DESC LIMIT 1),
    (SELECT stored_at FROM message WHERE seq > $1 ORDER BY seq LIMIT 1)";
const LAST_BETWEEN: &str = "SELECT max(seq) FROM message WHERE seq >= $1 AND seq < $2";
const IMPORT_MESSAGE: &str = "INSERT INTO message
    (seq, message_id, app, sender, recipient, layout, stored_at, body)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
// The conversation tells who has messages: it shows in no list for that.
const IMPORT_COPY: &str = "WITH left_out AS (INSERT INTO conversation
        (app, inbox_of, convers_with, seq, is_new, archived) VALUES ($1, $2, $4, 0, false, false)
        ON CONFLICT DO NOTHING)
    INSERT INTO timeline (app, inbox_of, seq, convers_with, status)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
// A status only rises.
const RAISE_COPY: &str = "UPDATE timeline SET status = $5
    WHERE app = $1 AND inbox_of = $2 AND seq = $3 AND convers_with = $4 AND status < $5";
const HAS_COPY: &str = "SELECT 1 FROM timeline
    WHERE app = $1 AND inbox_of = $2 AND seq = $3 AND convers_with = $4";
// A row that shows a message of the observer's own is newer. One that shows the same message may
// have been opened or archived here since. A patch behind a number of the observer's own was made
// here: it stays, and is older than a message that comes from the source.
const IMPORT_CONVERSATION: &str = "INSERT INTO conversation AS c
    (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $4)
    ON CONFLICT (app, inbox_of, convers_with) DO UPDATE SET
        is_new = CASE WHEN c.seq = $4 OR (c.seq = 0 AND c.patch_seq IS NOT NULL)
            THEN c.is_new AND $5 ELSE $5 END,
        archived = CASE WHEN c.seq = $4 OR (c.seq = 0 AND c.patch_seq IS NOT NULL)
            THEN c.archived OR $6 ELSE $6 END,
        patch = CASE WHEN c.patch_seq >= 0 THEN c.patch ELSE $7 END,
        patch_seq = CASE WHEN c.patch_seq IS NULL OR c.patch_seq < 0 THEN $4
            WHEN c.seq = 0 OR c.seq = $4 THEN c.patch_seq ELSE $4 - 1 END,
        seq = $4
    WHERE c.seq = 0 OR c.seq < $4 OR (c.seq = $4 AND ((c.is_new AND NOT $5)
        OR ($6 AND NOT c.archived) OR (c.patch_seq < 0 AND c.patch IS DISTINCT FROM $7)))";

impl PostgresStore {
    pub(super) fn import_all(
        &mut self,
        batch: &[Imported],
        now: UnixMillis,
    ) -> Result<Vec<Landing>, StoreError> {
        if let Some(youngest) = youngest(batch, now) {
            self.execute(BEGIN_OWN_NUMBERS, params![youngest])?;
            self.execute(MOVE_OWN_NUMBERS, params![youngest])?;
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
        &self,
        message: &ImportedMessage,
        now: UnixMillis,
    ) -> Result<Landing, StoreError> {
        let read = |row: &Row| {
            let is_from_a_row = row.get::<_, &str>(2) == FROM_A_ROW;
            (
                row.get(0),
                is_from_a_row.then(|| row.get::<_, &str>(1).len()),
            )
        };
        let seq = match self.find_imported(message, read)? {
            Some((seq, None)) => seq,
            Some((seq, Some(had))) => {
                let body = text(&message.body);
                let bytes = |len| i64::try_from(len).unwrap_or(0);
                let grown = bytes(body.len()) - bytes(had);
                self.execute(SET_BODY, params![body, seq])?;
                self.batch.borrow_mut().count_bytes(grown);
                seq
            }
            None => self.number_message(message, "", now)?,
        };
        self.import_copy(message, seq)
    }

    fn import_copy(&self, message: &ImportedMessage, seq: i64) -> Result<Landing, StoreError> {
        let params = || {
            let [app, inbox_of, peer] = message.timeline.clone();
            params![app, inbox_of, seq, peer, message.status.code()]
        };
        if self.execute(IMPORT_COPY, params())? == 0 {
            return Ok(landing(self.execute(RAISE_COPY, params())? > 0));
        }
        self.batch.borrow_mut().count_bytes(COPY_BYTES);
        Ok(Landing::New)
    }

    /// Reads the row of a message that was imported before.
    fn find_imported<T>(
        &self,
        message: &ImportedMessage,
        read: impl FnMut(&Row) -> T,
    ) -> Result<Option<T>, StoreError> {
        let key: Vec<Param> = params![
            text(&message.id),
            message.timeline[0].clone(),
            text(&message.sender),
            text(&message.recipient)
        ];
        self.find(FIND_IMPORTED, key, read)
    }

    fn number_message(
        &self,
        message: &ImportedMessage,
        layout: &str,
        now: UnixMillis,
    ) -> Result<i64, StoreError> {
        let time = time(message, now);
        let seq = number_for(time, |first, end| {
            self.row(LAST_BETWEEN, params![first, end], |row| row.get(0))
        })?;
        let (before, behind): (Option<i64>, Option<i64>) =
            self.row(NEIGHBOURS, params![seq], |row| (row.get(0), row.get(1)))?;
        let body = text(&message.body);
        let bytes = MESSAGE_BYTES + i64::try_from(body.len()).unwrap_or(0);
        let params = params![
            seq,
            text(&message.id),
            message.timeline[0].clone(),
            text(&message.sender),
            text(&message.recipient),
            layout.to_owned(),
            time_between(time, before, behind),
            body
        ];
        self.execute(IMPORT_MESSAGE, params)?;
        self.batch.borrow_mut().count_bytes(bytes);
        Ok(seq)
    }

    fn import_conversation(
        &self,
        row: &ImportedConversation,
        now: UnixMillis,
    ) -> Result<Landing, StoreError> {
        let last = &row.last;
        let found = self.find_imported(last, |row| (row.get(0), row.get(1)))?;
        let (seq, body): (i64, String) = match found {
            Some(found) => found,
            None => {
                let seq = self.number_message(last, FROM_A_ROW, now)?;
                (seq, last.body.clone())
            }
        };
        let [app, inbox_of, peer] = last.timeline.clone();
        // The row is all there is of a message that the source has no copy of.
        let key = params![app.clone(), inbox_of.clone(), seq, peer.clone()];
        if !self.exists(HAS_COPY, key)? {
            self.import_copy(last, seq)?;
        }
        let patch = row.patch_over(&body).map(|patch| text(&patch));
        let params = params![app, inbox_of, peer, seq, row.is_new, row.archived, patch];
        Ok(landing(self.execute(IMPORT_CONVERSATION, params)? > 0))
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
