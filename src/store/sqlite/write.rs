//! Applies the writes of a plan.

use rusqlite::params;

use super::connection::statements;
use super::{LastWritten, Origin, SqliteStore, StoreError, Written, millis};
use crate::protocol::address::Timeline;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::id::AppId;
use crate::protocol::json::parse_object;
use crate::protocol::message_id::MessageId;
use crate::protocol::request::Erased;
use crate::rules::conversation_row::Patched;
use crate::rules::history::stored_at;
use crate::rules::write::{Listing, NewMessage, TimelineCopy, Write};

statements! {
    INSERT_MESSAGE = "INSERT INTO message
        (message_id, app, sender, recipient, layout, stored_at, fingerprint, body)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    FIND_MESSAGES = "SELECT seq, body FROM message WHERE message_id = ? AND app = ?
        ORDER BY seq DESC";
    LAST_SEQ_OF_MESSAGE = "SELECT max(seq) FROM message WHERE message_id = ? AND app = ?";
    INSERT_COPY = "INSERT OR IGNORE INTO timeline (app, inbox_of, seq, convers_with, status)
        VALUES (?, ?, ?, ?, ?)";
    // A redelivered message is followed by all that was said of it since,. So it
    // must not take the place of a later one.
    SET_LAST_MESSAGE = "INSERT INTO conversation
        (app, inbox_of, convers_with, seq, is_new, archived) VALUES (?, ?, ?, ?, 1, 0)
        ON CONFLICT DO UPDATE SET seq = excluded.seq, is_new = 1, archived = 0
        WHERE excluded.seq >= seq OR seq = 0";
    IS_ARCHIVED = "SELECT 1 FROM conversation
        WHERE app = ? AND inbox_of = ? AND convers_with = ? AND archived
        AND (seq <= ? OR seq = 0)";
    RAISE_STATUS = "UPDATE timeline SET status = ?5
        WHERE app = ?1 AND inbox_of = ?2 AND convers_with = ?3 AND status < ?5
        AND seq IN (SELECT seq FROM message WHERE message_id = ?4 AND app = ?1)";
    PATCH = "INSERT INTO conversation
        (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)
        VALUES (?1, ?2, ?3, 0, coalesce(?4, 0), coalesce(?5, 0), ?6,
            (SELECT coalesce(max(seq), 0) FROM message))
        ON CONFLICT DO UPDATE SET is_new = coalesce(?4, is_new),
            archived = coalesce(?5, archived), patch = ?6, patch_seq = excluded.patch_seq";
    ARCHIVE = "INSERT INTO conversation
        (app, inbox_of, convers_with, seq, is_new, archived, patch_seq)
        VALUES (?, ?, ?, 0, 0, 1, (SELECT coalesce(max(seq), 0) FROM message))
        ON CONFLICT DO UPDATE SET archived = 1";
    BLOCK = "INSERT OR IGNORE INTO block (app, other, inbox_of) VALUES (?, ?, ?)";
    UNBLOCK = "DELETE FROM block WHERE app = ? AND other = ? AND inbox_of = ?";
    REGISTER = "INSERT OR REPLACE INTO instance (app, instance_id, user, body, since)
        VALUES (?, ?, ?, ?, ?)";
    FORGET_OLDEST = "DELETE FROM instance WHERE app = ?1 AND instance_id IN
        (SELECT instance_id FROM instance WHERE app = ?1 AND user = ?2
            ORDER BY since DESC LIMIT -1 OFFSET ?3)";
    HAVE_WITH = "SELECT inbox_of FROM conversation INDEXED BY conversation_by_peer
        WHERE app = ? AND convers_with = ?";
    // What is left of it shows in no list, and tells who may have messages.
    ERASE_CONVERSATION = "UPDATE conversation
        SET seq = 0, is_new = 0, archived = 0, patch = NULL, patch_seq = NULL
        WHERE app = ? AND inbox_of = ? AND convers_with = ?";
    ERASE_MESSAGES = "DELETE FROM timeline WHERE app = ?1 AND inbox_of = ?2 AND convers_with = ?3
        AND seq IN (SELECT seq FROM timeline INDEXED BY timeline_by_peer
            WHERE app = ?1 AND inbox_of = ?2 AND convers_with = ?3)";
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
                let params = params![app, inbox_of, convers_with, message_id, status.code()];
                self.connection.execute(&RAISE_STATUS, params)?;
            }
            Write::Patch(timeline, patched) => self.write_patch(timeline, patched)?,
            Write::Archive(timeline) => {
                self.connection.execute(&ARCHIVE, names(timeline))?;
            }
            Write::ClientConnected(client) => self.write_client_connected(client, origin.now)?,
            Write::ClientGone(client) => self.write_client_gone(client)?,
            Write::Absence { app, user, absence } => self.write_absence(*app, *user, *absence)?,
            Write::Redelivered { app, user } => self.write_redelivered(*app, *user)?,
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
        let params = params![
            message.id,
            message.app.as_str(),
            message.sender,
            message.recipient,
            message.layout,
            millis(self.newest),
            origin.fingerprint.filter(|_| own).map(bits),
            message.body.as_str()
        ];
        Ok(self.connection.insert(&INSERT_MESSAGE, params)?)
    }

    /// Finds a message that is stored under the same id. One that has not our id must have the
    /// same body, too: services may use an id twice.
    fn find_message(&self, message: &NewMessage<'_>, own: bool) -> Result<Option<i64>, StoreError> {
        let mut statement = self.connection.prepare(&FIND_MESSAGES)?;
        let mut rows = statement.query([message.id.as_ref(), message.app.as_str()])?;
        while let Some(row) = rows.next()? {
            let body: String = row.get(1)?;
            if own || is_same_object(&body, message.body.as_str()) {
                return Ok(Some(row.get(0)?));
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
        let params = [id, app.as_str()];
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
        let [app, inbox_of, convers_with] = names(timeline);
        let params = params![app, inbox_of, seq, convers_with, copy.status.code()];
        let added = self.connection.execute(&INSERT_COPY, params)?;
        let mut is_archived = false;
        if copy.listing == Listing::Listed {
            let params = params![app, inbox_of, convers_with, seq];
            is_archived = self.connection.exists(&IS_ARCHIVED, params)?;
            self.connection.execute(&SET_LAST_MESSAGE, params)?;
        }
        Ok(match (added > 0, is_archived) {
            (true, true) => Written::Unarchived,
            (true, false) => Written::New,
            (false, _) => Written::Known,
        })
    }

    fn write_patch(&self, timeline: &Timeline<'_>, patched: &Patched) -> Result<(), StoreError> {
        let [app, inbox_of, convers_with] = names(timeline);
        let params = params![
            app,
            inbox_of,
            convers_with,
            patched.is_new,
            patched.archived,
            patched.patch
        ];
        self.connection.execute(&PATCH, params)?;
        Ok(())
    }

    /// Returns whether it changed something.
    pub(super) fn write_block(
        &self,
        [app, inbox_of, other]: [&str; 3],
        change: BlockChange,
    ) -> Result<bool, StoreError> {
        let statement = match change {
            BlockChange::Block => &BLOCK,
            BlockChange::Unblock => &UNBLOCK,
        };
        let changed = self.connection.execute(statement, [app, other, inbox_of])?;
        Ok(changed > 0)
    }

    /// Erases what everybody has with somebody who is in a list of theirs.
    fn erase(&self, app: AppId<'_>, peer: &str, what: Erased) -> Result<(), StoreError> {
        let app = app.as_str();
        let owners: Vec<Box<str>> = self
            .connection
            .rows(&HAVE_WITH, [app, peer], |row| row.get(0))?;
        let statement = match what {
            Erased::Conversations => &ERASE_CONVERSATION,
            Erased::Messages => &ERASE_MESSAGES,
        };
        // A group has a timeline of its own, with itself.
        for owner in owners.iter().map(|owner| &**owner).chain([peer]) {
            self.connection.execute(statement, [app, owner, peer])?;
        }
        Ok(())
    }

    pub(super) fn write_group(
        &mut self,
        app: &str,
        id: &str,
        body: &str,
    ) -> Result<(), StoreError> {
        self.connection.execute(&SET_GROUP, [app, id, body])?;
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

/// Whether two JSON objects have the same members.
fn is_same_object(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (parse_object(one.as_bytes()), parse_object(other.as_bytes()))
    else {
        return false;
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|((a, x), (b, y))| a == b && x.get() == y.get())
}
