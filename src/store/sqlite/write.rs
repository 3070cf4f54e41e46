//! Applies the writes of a plan.

use rusqlite::params;

use super::connection::statements;
use super::encoding::{StoredId, Told, account, body_accounts, body_columns, read_body};
use super::{LastWritten, Origin, SqliteStore, StoreError, Written, millis};
use crate::protocol::address::Timeline;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::id::AppId;
use crate::protocol::message_id::MessageId;
use crate::rules::history::stored_at;
use crate::rules::write::{Listing, NewMessage, TimelineCopy, Write};
use crate::store::columns::is_same_object;

statements! {
    INSERT_MESSAGE = "INSERT INTO message_data
        (id, sender, recipient, layout, stored_at, fingerprint, written, body)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    FIND_MESSAGES = concat!("SELECT ", body_columns!(), ", m.seq FROM message_data m ",
        body_accounts!(), " WHERE m.id = ? AND r.app = ? ORDER BY m.seq DESC");
    LAST_SEQ_OF_MESSAGE = "SELECT max(m.seq) FROM message_data m
        JOIN account r ON r.id = m.recipient WHERE m.id = ? AND r.app = ?";
    INSERT_COPY = "INSERT OR IGNORE INTO copy (inbox, peer, seq, status) VALUES (?, ?, ?, ?)";
    RAISE_STATUS = concat!("UPDATE copy SET status = ?5 WHERE inbox = ", account!("?1", "?2"),
        " AND peer = ", account!("?1", "?3"), " AND status < ?5
        AND seq IN (SELECT seq FROM message_data WHERE id = ?4)");
    BLOCK = "INSERT OR IGNORE INTO block (app, other, inbox_of) VALUES (?, ?, ?)";
    UNBLOCK = "DELETE FROM block WHERE app = ? AND other = ? AND inbox_of = ?";
    REGISTER = "INSERT OR REPLACE INTO instance (app, instance_id, user, body, since)
        VALUES (?, ?, ?, ?, ?)";
    FORGET_OLDEST = "DELETE FROM instance WHERE app = ?1 AND instance_id IN
        (SELECT instance_id FROM instance WHERE app = ?1 AND user = ?2
            ORDER BY since DESC LIMIT -1 OFFSET ?3)";
    SET_GROUP = "INSERT OR REPLACE INTO chat_group (app, group_id, body) VALUES (?, ?, ?)";
}

impl SqliteStore {
    pub(super) fn write(
        &mut self,
        write: &Write<'_>,
        origin: &Origin,
    ) -> Result<Written, StoreError> {
        match write {
            Write::Message(message) => self.write_message(message, origin)?,
            Write::Copy(copy) => return self.write_copy(copy),
            Write::Raise {
                timeline,
                message_id,
                status,
            } => {
                let [app, inbox_of, convers_with] = names(timeline);
                let id = StoredId::of(message_id);
                let params = params![app, inbox_of, convers_with, id, status.code()];
                self.connection.execute(&RAISE_STATUS, params)?;
            }
            Write::Patch(timeline, patched) => self.write_patch(timeline, patched)?,
            Write::Archive(timeline) => self.archive(timeline)?,
            Write::ClientConnected(client) => self.write_client_connected(client, origin.now)?,
            Write::ClientGone(client) => self.write_client_gone(client)?,
            Write::Absence { app, user, absence } => self.write_absence(*app, *user, *absence)?,
            Write::Block(timeline, change) => {
                self.write_block(names(timeline), *change)?;
            }
            Write::Instance {
                app,
                user,
                instance,
                body,
                keep,
            } => {
                let [app, user] = [app.as_str(), user.as_str()];
                let params = params![app, instance, user, body, millis(origin.now)];
                self.connection.execute(&REGISTER, params)?;
                let keep = i64::try_from(*keep).unwrap_or(i64::MAX);
                self.connection
                    .execute(&FORGET_OLDEST, params![app, user, keep])?;
            }
            Write::Erase {
                app,
                convers_with,
                what,
            } => self.erase(*app, convers_with.as_str(), *what)?,
            Write::Group { app, id, body } => self.write_group(app.as_str(), id, body)?,
        }
        Ok(Written::New)
    }

    fn write_message(
        &mut self,
        message: &NewMessage<'_>,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let own = MessageId::parse(&message.id) == Some(origin.id);
        // Only two kinds of message may be stored already: one that is redelivered, and one that a
        // service injects again under the id it chose.
        let known = if origin.repeated || !own {
            self.find_message(message, own)?
        } else {
            None
        };
        let seq = match known {
            Some(seq) => seq,
            None => self.insert_message(message, own, origin)?,
        };
        self.cache.last_written = Some(LastWritten {
            message_id: message.id.as_ref().into(),
            seq,
        });
        Ok(())
    }

    fn insert_message(
        &mut self,
        message: &NewMessage<'_>,
        own: bool,
        origin: &Origin,
    ) -> Result<i64, StoreError> {
        self.newest = stored_at(self.newest, origin.now);
        let app = message.app.as_str();
        let told = Told {
            id: &message.id,
            sender: &message.sender,
            recipient: message.recipient,
            app,
            stored_at: millis(self.newest),
        };
        let shortened = told.shorten(message.body.as_str());
        let (body, written) = match shortened {
            Some((beginning, written)) => (beginning, Some(written)),
            None => (message.body.as_str(), None),
        };
        let id = if own {
            StoredId::from(origin.id)
        } else {
            StoredId::of(&message.id)
        };
        let params = params![
            id,
            self.account_of_message(app, &message.sender)?,
            self.account_of_message(app, message.recipient)?,
            self.layout(message.layout)?,
            millis(self.newest),
            origin.fingerprint.filter(|_| own).map(bits),
            written,
            body
        ];
        self.position = self.connection.insert(&INSERT_MESSAGE, params)?;
        Ok(self.position)
    }

    /// Finds a message that is stored under the same id. One that has not our id must have the
    /// same body, too: services may use an id twice.
    fn find_message(&self, message: &NewMessage<'_>, own: bool) -> Result<Option<i64>, StoreError> {
        let mut statement = self.connection.prepare(&FIND_MESSAGES)?;
        let id = StoredId::of(&message.id);
        let mut rows = statement.query(params![id, message.app.as_str()])?;
        while let Some(row) = rows.next()? {
            let is_same = |body: String| is_same_object(&body, message.body.as_str());
            if own || read_body(row)?.is_some_and(is_same) {
                return Ok(Some(row.get(7)?));
            }
        }
        Ok(None)
    }

    fn seq_of_message(&mut self, app: AppId<'_>, id: &str) -> Result<Option<i64>, StoreError> {
        if let Some(last) = &self.cache.last_written
            && *last.message_id == *id
        {
            return Ok(Some(last.seq));
        }
        let params = params![StoredId::of(id), app.as_str()];
        let found: Option<i64> = self
            .connection
            .row(&LAST_SEQ_OF_MESSAGE, params, |row| row.get(0))?;
        if let Some(seq) = found {
            self.cache.last_written = Some(LastWritten {
                message_id: id.into(),
                seq,
            });
        }
        Ok(found)
    }

    fn write_copy(&mut self, copy: &TimelineCopy<'_>) -> Result<Written, StoreError> {
        let timeline = &copy.timeline;
        let Some(seq) = self.seq_of_message(timeline.app, &copy.message_id)? else {
            // The message was pruned while copies of it were still being made.
            return Ok(Written::New);
        };
        let pair = self.pair(timeline)?;
        if copy.listing == Listing::Unlisted {
            self.leave_out(pair, seq)?;
        }
        let params = params![pair.inbox, pair.peer, seq, copy.status.code()];
        let added = self.connection.execute(&INSERT_COPY, params)?;
        let unarchived = match copy.listing {
            Listing::Listed => self.show(pair, seq)?,
            Listing::Unlisted => false,
        };
        Ok(match (added > 0, unarchived) {
            (true, true) => Written::Unarchived,
            (true, false) => Written::New,
            (false, _) => Written::Known,
        })
    }

    /// Returns whether it changed something.
    pub(super) fn write_block(
        &mut self,
        [app, inbox_of, other]: [&str; 3],
        change: BlockChange,
    ) -> Result<bool, StoreError> {
        let statement = match change {
            BlockChange::Block => &BLOCK,
            BlockChange::Unblock => &UNBLOCK,
        };
        self.cache.any_block = None;
        let changed = self.connection.execute(statement, [app, other, inbox_of])?;
        Ok(changed > 0)
    }

    pub(super) fn write_group(
        &mut self,
        app: &str,
        id: &str,
        body: &str,
    ) -> Result<(), StoreError> {
        self.connection.execute(&SET_GROUP, [app, id, body])?;
        self.cache.any_group = None;
        self.cache.groups.remove(app, id);
        Ok(())
    }
}

/// The key of a timeline: app, owner, other side.
pub(super) fn names<'a>(timeline: &Timeline<'a>) -> [&'a str; 3] {
    [
        timeline.app.as_str(),
        timeline.inbox_of.as_str(),
        timeline.convers_with.as_str(),
    ]
}

/// SQLite's integers are signed: the bits are kept, not the value.
fn bits(fingerprint: u64) -> i64 {
    fingerprint.cast_signed()
}
