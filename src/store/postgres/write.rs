//! Applies the writes of a plan.

use std::time::Duration;

use super::batch::Key;
use super::connection::{Command, Param, params, text};
use super::{MAX_RECENT, Origin, PostgresStore, Slot, StoreError, Written, millis};
use crate::protocol::address::Timeline;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::json::parse_object;
use crate::protocol::message_id::MessageId;
use crate::protocol::request::Erased;
use crate::rules::conversation_row::Patched;
use crate::rules::facts::{Absence, Redelivery};
use crate::rules::write::{Listing, NewMessage, TimelineCopy, UserClient, Write};
use crate::store::columns::{is_same_object, redelivered_by};

/// For how long before the end of the log slots may still store something.
pub(super) const UNSURE: Duration = Duration::from_secs(10);

const FIND_MESSAGES: &str = "SELECT seq, body FROM message WHERE message_id = $1 AND app = $2
    ORDER BY seq DESC";
const LAST_SEQ_OF_MESSAGE: &str = "SELECT max(seq) FROM message WHERE message_id = $1 AND app = $2";
const INSERT_COPY: &str = "INSERT INTO timeline (app, inbox_of, seq, convers_with, status)
    VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING";
const ARCHIVED: &str = "SELECT archived, seq FROM conversation
    WHERE app = $1 AND inbox_of = $2 AND convers_with = $3";
const PATCH: &str = "INSERT INTO conversation
    (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)
    VALUES ($1, $2, $3, 0, coalesce($4::boolean, false), coalesce($5::boolean, false), $6,
        (SELECT coalesce(max(seq), 0) FROM message))
    ON CONFLICT (app, inbox_of, convers_with) DO UPDATE
    SET is_new = coalesce($4::boolean, conversation.is_new),
        archived = coalesce($5::boolean, conversation.archived),
        patch = excluded.patch, patch_seq = excluded.patch_seq";
const ARCHIVE: &str = "INSERT INTO conversation
    (app, inbox_of, convers_with, seq, is_new, archived, patch_seq)
    VALUES ($1, $2, $3, 0, false, true, (SELECT coalesce(max(seq), 0) FROM message))
    ON CONFLICT (app, inbox_of, convers_with) DO UPDATE SET archived = true";
const BLOCK: &str = "INSERT INTO block (app, other, inbox_of) VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING";
const UNBLOCK: &str = "DELETE FROM block WHERE app = $1 AND other = $2 AND inbox_of = $3";
const REGISTER: &str = "INSERT INTO instance (app, instance_id, user_id, body, since)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (app, instance_id) DO UPDATE
    SET user_id = excluded.user_id, body = excluded.body, since = excluded.since";
const FORGET_OLDEST: &str = "DELETE FROM instance WHERE app = $1 AND instance_id IN
    (SELECT instance_id FROM instance WHERE app = $1 AND user_id = $2
        ORDER BY since DESC OFFSET $3)";
const OWNERS: &str = "SELECT inbox_of FROM conversation WHERE app = $1 AND convers_with = $2";
// What is left of it shows in no list, and tells who may have messages.
const ERASE_CONVERSATIONS: &str = "UPDATE conversation
    SET seq = 0, is_new = false, archived = false, patch = NULL, patch_seq = NULL
    WHERE app = $1 AND inbox_of = ANY ($2::text[]) AND convers_with = $3";
const ERASE_MESSAGES: &str = "DELETE FROM timeline
    WHERE app = $1 AND inbox_of = ANY ($2::text[]) AND convers_with = $3";
const MAKE_GROUP: &str = "INSERT INTO chat_group (app, group_id, body, owner)
    VALUES ($1, $2, $3, $4)";
const SET_GROUP: &str = "INSERT INTO chat_group (app, group_id, body, owner)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (app, group_id) DO UPDATE SET body = excluded.body, owner = excluded.owner";
const SET_CLIENT: &str = "INSERT INTO presence (app, user_id, client_id, since)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (app, user_id, client_id) DO UPDATE SET since = excluded.since";
const DELETE_CLIENT: &str =
    "DELETE FROM presence WHERE app = $1 AND user_id = $2 AND client_id = $3";
const SET_ABSENCE: &str = "INSERT INTO absence (app, user_id, seq, redelivered_by, slot)
    VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (app, user_id) DO UPDATE
    SET seq = excluded.seq, redelivered_by = excluded.redelivered_by, slot = excluded.slot";

impl PostgresStore {
    pub(super) fn write(
        &mut self,
        write: &Write<'_>,
        origin: &Origin,
    ) -> Result<Written, StoreError> {
        match write {
            Write::Message(message) => self.write_message(message, origin)?,
            Write::Copy(copy) => return self.write_copy(copy, origin),
            Write::Raise {
                timeline,
                message_id,
                status,
            } => self.raise(timeline, message_id, status.code()),
            Write::Patch(timeline, patched) => self.write_patch(timeline, patched),
            Write::Archive(timeline) => {
                self.forget_conversation(timeline);
                let [app, inbox_of, peer] = key(timeline);
                self.later(ARCHIVE, params![app, inbox_of, peer]);
            }
            Write::ClientConnected(client) => self.write_client(client, Some(millis(origin.now))),
            Write::ClientGone(client) => self.write_client(client, None),
            Write::Absence { app, user, absence } => self.write_absence(*app, *user, *absence),
            Write::Block(timeline, change) => {
                let (sql, params) = self.block(&key(timeline), *change);
                self.later(sql, params);
            }
            Write::Instance {
                app,
                user,
                instance,
                body,
                keep,
            } => {
                let [app, user] = [app.as_str(), user.as_str()].map(str::to_owned);
                let params = params![
                    app.clone(),
                    text(instance),
                    user.clone(),
                    text(body),
                    millis(origin.now)
                ];
                self.later(REGISTER, params);
                let keep = i64::try_from(*keep).unwrap_or(i64::MAX);
                self.later(FORGET_OLDEST, params![app, user, keep]);
            }
            Write::Erase {
                app,
                convers_with,
                what,
            } => self.erase(*app, convers_with.as_str(), *what)?,
            Write::Group { app, id, body } => {
                let key = [app.as_str().to_owned(), text(id)];
                // Another slot may be about to make the same.
                let sql = match self.batch.borrow_mut().known.no_groups.remove(&key) {
                    true => MAKE_GROUP,
                    false => SET_GROUP,
                };
                let params = self.group(app.as_str(), id, body);
                self.later(sql, params);
            }
        }
        Ok(Written::New)
    }

    /// Writes it with the batch.
    pub(super) fn later(&self, sql: &'static str, params: Vec<Param>) {
        self.batch.borrow_mut().push(Command { sql, params });
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
            None => self.insert_message(message, own, origin),
        };
        self.remember(message.app, &message.id, seq);
        Ok(())
    }

    fn insert_message(&mut self, message: &NewMessage<'_>, own: bool, origin: &Origin) -> i64 {
        let counters = &mut self.counters;
        (counters.last_seq, counters.newest) =
            self.slot
                .next_position(counters.last_seq, counters.newest, origin.now);
        let place = (counters.last_seq, millis(counters.newest));
        let fingerprint = origin.fingerprint.filter(|_| own).map(u64::cast_signed);
        self.batch
            .borrow_mut()
            .add_message(message, place, fingerprint);
        place.0
    }

    /// Finds a message that is stored under the same id. One that has not our id must have the
    /// same body, too: services may use an id twice.
    fn find_message(&self, message: &NewMessage<'_>, own: bool) -> Result<Option<i64>, StoreError> {
        let params = params![text(&message.id), message.app.as_str().to_owned()];
        let read = |row: &tokio_postgres::Row| (row.get::<_, i64>(0), row.get::<_, String>(1));
        let found = self.rows(FIND_MESSAGES, params, read)?;
        let mut same = found
            .into_iter()
            .filter(|(_, body)| own || is_same_object(body, message.body.as_str()));
        Ok(same.next().map(|(seq, _)| seq))
    }

    fn remember(&self, app: AppId<'_>, id: &str, seq: i64) {
        let mut recent = self.recent.borrow_mut();
        if recent.len() >= MAX_RECENT {
            recent.clear();
        }
        recent.insert(recent_key(app, id), seq);
    }

    fn seq_of_message(&self, app: AppId<'_>, id: &str) -> Result<Option<i64>, StoreError> {
        if let Some(seq) = self.recent.borrow().get(&recent_key(app, id)) {
            return Ok(Some(*seq));
        }
        let params = params![text(id), app.as_str().to_owned()];
        let found: Option<i64> = self.row(LAST_SEQ_OF_MESSAGE, params, |row| row.get(0))?;
        if let Some(seq) = found {
            self.remember(app, id, seq);
        }
        Ok(found)
    }

    fn write_copy(
        &mut self,
        copy: &TimelineCopy<'_>,
        origin: &Origin,
    ) -> Result<Written, StoreError> {
        let timeline = &copy.timeline;
        let Some(seq) = self.seq_of_message(timeline.app, &copy.message_id)? else {
            // The message was pruned while copies of it were still being made.
            return Ok(Written::New);
        };
        let key = key(timeline);
        let is_archived = match copy.listing {
            Listing::Listed => self.is_archived(&key, seq)?,
            Listing::Unlisted => false,
        };
        let is_own = MessageId::parse(&copy.message_id) == Some(origin.id);
        let has_come = self.batch.borrow_mut().note_copy(seq, &key);
        let is_known = if has_come {
            true
        } else if is_own && !origin.repeated {
            // It comes for the first time: so do its copies.
            let mut batch = self.batch.borrow_mut();
            batch.add_copy(seq, key.clone(), copy.status.code());
            false
        } else {
            let [app, inbox_of, peer] = key.clone();
            let params = params![app, inbox_of, seq, peer, copy.status.code()];
            let is_new = self.execute(INSERT_COPY, params)? > 0;
            if is_new {
                self.batch
                    .borrow_mut()
                    .count_bytes(super::batch::COPY_BYTES);
            }
            !is_new
        };
        let mut batch = self.batch.borrow_mut();
        let copy_key = (key.clone(), text(&copy.message_id));
        batch.known.copies.remove(&copy_key);
        match copy.listing {
            Listing::Listed => {
                batch.list_copy(seq, copy);
                let known = batch.known.conversations.entry(key).or_insert(None);
                if known.is_none_or(|(_, last)| seq >= last || last == 0) {
                    *known = Some((false, seq));
                }
            }
            Listing::Unlisted => batch.leave_out(key),
        }
        Ok(match (is_known, is_archived) {
            (false, true) => Written::Unarchived,
            (false, false) => Written::New,
            (true, _) => Written::Known,
        })
    }

    /// Whether the message would bring the conversation back from the archive.
    fn is_archived(&self, key: &Key, seq: i64) -> Result<bool, StoreError> {
        let known = self.batch.borrow().known.conversations.get(key).copied();
        let state = match known {
            Some(state) => state,
            None => {
                let [app, inbox_of, peer] = key.clone();
                let params = params![app, inbox_of, peer];
                let state = self.find(ARCHIVED, params, |row| (row.get(0), row.get(1)))?;
                let mut batch = self.batch.borrow_mut();
                batch.known.conversations.insert(key.clone(), state);
                state
            }
        };
        Ok(state.is_some_and(|(archived, last)| archived && (last <= seq || last == 0)))
    }

    fn raise(&self, timeline: &Timeline<'_>, message_id: &str, status: i64) {
        let (key, id) = (key(timeline), text(message_id));
        let mut batch = self.batch.borrow_mut();
        batch.known.copies.remove(&(key.clone(), id.clone()));
        batch.raise(key, id, status);
    }

    /// What is kept changes it.
    fn forget_conversation(&self, timeline: &Timeline<'_>) {
        let (mut batch, key) = (self.batch.borrow_mut(), key(timeline));
        batch.known.conversations.remove(&key);
        batch.note_unwritten(&key);
    }

    fn write_patch(&self, timeline: &Timeline<'_>, patched: &Patched) {
        self.forget_conversation(timeline);
        let [app, inbox_of, peer] = key(timeline);
        let patch = text(&patched.patch);
        let params = params![app, inbox_of, peer, patched.is_new, patched.archived, patch];
        self.later(PATCH, params);
    }

    /// The statement of a change of a block.
    pub(super) fn block(
        &self,
        [app, inbox_of, other]: &Key,
        change: BlockChange,
    ) -> (&'static str, Vec<Param>) {
        let sql = match change {
            BlockChange::Block => BLOCK,
            BlockChange::Unblock => UNBLOCK,
        };
        let key = [app, other, inbox_of].map(Clone::clone);
        let known = &mut self.batch.borrow_mut().known;
        known.blocks.remove(&key);
        let [app, other, inbox_of] = key;
        known.blocked_by.remove(&[app.clone(), other.clone()]);
        (sql, params![app, other, inbox_of])
    }

    fn write_client(&self, client: &UserClient<'_>, since: Option<i64>) {
        let [app, user] = [client.app.as_str(), client.user.as_str()].map(str::to_owned);
        let client = text(&client.client);
        match since {
            Some(since) => self.later(SET_CLIENT, params![app, user, client, since]),
            None => self.later(DELETE_CLIENT, params![app, user, client]),
        }
    }

    fn write_absence(&self, app: AppId<'_>, user: UserId<'_>, absence: Absence) {
        // What another slot was about to store then may have an earlier position than what was
        // there: the user rather has it twice, under one id, than not at all.
        let since = match absence.redelivery {
            Redelivery::Due if self.slot.is_one_of_several() => {
                let earlier = absence.since - Slot::positions_in(UNSURE);
                // A position of a store that was copied is not made of the time.
                if earlier > 0 { earlier } else { absence.since }
            }
            Redelivery::Due | Redelivery::With(_) | Redelivery::Done => absence.since,
        };
        let redelivered_by = redelivered_by(absence.redelivery);
        let [app, user] = [app.as_str(), user.as_str()].map(str::to_owned);
        let slot = self.slot.row();
        self.later(SET_ABSENCE, params![app, user, since, redelivered_by, slot]);
    }

    /// Erases what everybody has with somebody who is in a list of theirs.
    fn erase(&self, app: AppId<'_>, peer: &str, what: Erased) -> Result<(), StoreError> {
        let [app, peer] = [app.as_str(), peer].map(str::to_owned);
        let params = params![app.clone(), peer.clone()];
        let mut owners: Vec<String> = self.rows(OWNERS, params, |row| row.get(0))?;
        // A group has a timeline of its own, with itself.
        owners.push(peer.clone());
        let sql = match what {
            Erased::Conversations => ERASE_CONVERSATIONS,
            Erased::Messages => ERASE_MESSAGES,
        };
        let erased = self.execute(sql, params![app, owners, peer])?;
        let mut batch = self.batch.borrow_mut();
        if what == Erased::Messages {
            batch.count_bytes(-super::batch::COPY_BYTES * i64::try_from(erased).unwrap_or(0));
        }
        batch.known = super::batch::Known::default();
        Ok(())
    }

    /// The parameters of a statement that writes a group.
    fn group(&self, app: &str, id: &str, body: &str) -> Vec<Param> {
        let key = [app.to_owned(), text(id)];
        self.batch.borrow_mut().known.groups.remove(&key);
        let [app, id] = key;
        params![app, id, text(body), owner(body)]
    }

    /// Writes a group now.
    pub(super) fn write_group(&self, app: &str, id: &str, body: &str) -> Result<(), StoreError> {
        let params = self.group(app, id, body);
        self.execute(SET_GROUP, params)?;
        Ok(())
    }
}

/// The owner of a group, as its object says.
pub(super) fn owner(body: &str) -> Option<String> {
    parse_object(body.as_bytes())
        .ok()
        .and_then(|members| serde_json::from_str(members.get("owner")?.get()).ok())
        // A service may write any text: an index has no room for a long one.
        .filter(|owner: &String| UserId::parse(owner).is_ok())
}

fn recent_key(app: AppId<'_>, id: &str) -> Box<str> {
    // No identifier holds a slash.
    [app.as_str(), "/", id].concat().into()
}

/// The key of a timeline: app, owner, other side.
pub(super) fn key(timeline: &Timeline<'_>) -> Key {
    [
        timeline.app.as_str(),
        timeline.inbox_of.as_str(),
        timeline.convers_with.as_str(),
    ]
    .map(str::to_owned)
}
