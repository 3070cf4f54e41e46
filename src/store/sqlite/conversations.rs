//! The rows of the lists of conversations.
//!
//! A message writes none: its copy is enough to show that the conversation has something new. A row
//! says from which copy on that is so, and what stands in the list until one comes.

use rusqlite::{Row as SqlRow, params};

use super::connection::statements;
use super::encoding::read_body;
use super::recent::Recent;
use super::{SqliteStore, StoreError, status};
use crate::protocol::address::Timeline;
use crate::protocol::id::AppId;
use crate::protocol::request::Erased;
use crate::rules::conversation_row::{Patched, Row};

/// Rows remembered: about 8 MB.
const MOST: usize = 1 << 17;

/// Picks of the copies `t` of a conversation `c` the one that shows in the list.
macro_rules! is_last_copy {
    () => {
        "t.inbox = c.inbox AND t.peer = c.peer AND t.seq = coalesce(
            (SELECT max(seq) FROM copy WHERE inbox = c.inbox AND peer = c.peer AND seq > c.since),
            c.seq)"
    };
}
pub(super) use is_last_copy;

/// The columns of [`conversation_row`]: of the row `c`, its last copy `t`, and its message.
macro_rules! conversation_columns {
    () => {
        concat!(
            $crate::store::sqlite::encoding::body_columns!(),
            ", t.status, c.is_new OR t.seq > c.since, c.archived, c.patch, c.patch_seq < t.seq"
        )
    };
}
pub(super) use conversation_columns;

/// A conversation from the first twelve columns of a row: [`conversation_columns!`].
pub(super) fn conversation_row(row: &SqlRow<'_>) -> rusqlite::Result<Row> {
    let last = read_body(row)?.map(String::into_boxed_str);
    Ok(Row {
        last: last.zip(row.get::<_, Option<i64>>(7)?.map(status)),
        is_new: row.get::<_, Option<bool>>(8)?.unwrap_or(false),
        archived: row.get(9)?,
        patch: row.get(10)?,
        patch_is_older: row.get::<_, Option<bool>>(11)?.unwrap_or(false),
    })
}

statements! {
    FIND_STATE = "SELECT since, archived FROM conversation_state WHERE inbox = ? AND peer = ?";
    INSERT_STATE = "INSERT INTO conversation_state (inbox, peer, since, seq, is_new, archived)
        VALUES (?1, ?2, ?3, ?4, ?4 <> 0, 0)";
    // Writes down what the copies show.
    SETTLE = "UPDATE conversation_state SET (since, seq, is_new, archived) =
            (SELECT max(seq), max(seq), 1, 0 FROM copy WHERE inbox = ?1 AND peer = ?2)
        WHERE inbox = ?1 AND peer = ?2 AND EXISTS
            (SELECT 1 FROM copy WHERE inbox = ?1 AND peer = ?2 AND seq > since)";
    LEAVE_OUT = "UPDATE conversation_state SET since = ?3
        WHERE inbox = ?1 AND peer = ?2 AND since < ?3";
    // A redelivered message is followed by all that was said of it since. So it must not take the
    // place of a later one.
    IS_ARCHIVED = "SELECT 1 FROM conversation_state
        WHERE inbox = ? AND peer = ? AND archived AND (seq <= ? OR seq = 0)";
    SHOW = "UPDATE conversation_state SET seq = ?3, is_new = 1, archived = 0,
        since = max(since, ?3) WHERE inbox = ?1 AND peer = ?2 AND (?3 >= seq OR seq = 0)";
    PATCH = "INSERT INTO conversation_state
        (inbox, peer, since, seq, is_new, archived, patch, patch_seq)
        VALUES (?1, ?2, 0, 0, coalesce(?3, 0), coalesce(?4, 0), ?5,
            (SELECT coalesce(max(seq), 0) FROM message_data))
        ON CONFLICT DO UPDATE SET is_new = coalesce(?3, is_new),
            archived = coalesce(?4, archived), patch = ?5, patch_seq = excluded.patch_seq";
    ARCHIVE = "INSERT INTO conversation_state
        (inbox, peer, since, seq, is_new, archived, patch_seq)
        VALUES (?, ?, 0, 0, 0, 1, (SELECT coalesce(max(seq), 0) FROM message_data))
        ON CONFLICT DO UPDATE SET archived = 1";
    HAVE_WITH = "SELECT inbox FROM conversation_state INDEXED BY conversation_state_by_peer
        WHERE peer = ?";
    // What is left of it shows in no list, and tells who may have messages.
    ERASE_CONVERSATION = "UPDATE conversation_state
        SET seq = 0, is_new = 0, archived = 0, patch = NULL, patch_seq = NULL
        WHERE inbox = ? AND peer = ?";
    ERASE_MESSAGES = "DELETE FROM copy WHERE inbox = ? AND peer = ?";
}

/// Owner and other side of a conversation: accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair {
    pub(super) inbox: i64,
    pub(super) peer: i64,
}

impl Pair {
    fn key(self) -> [i64; 2] {
        [self.inbox, self.peer]
    }
}

/// What a row says that matters to the next message.
#[derive(Clone, Copy, Debug)]
struct State {
    since: i64,
    archived: bool,
}

/// The rows that were looked at lately.
#[derive(Debug)]
pub(super) struct States(Recent<Pair, State>);

impl Default for States {
    fn default() -> Self {
        Self(Recent::new(MOST))
    }
}

impl States {
    pub(super) fn forget(&mut self, pair: Pair) {
        self.0.remove(&pair);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl SqliteStore {
    /// The accounts of a timeline, made if there are none.
    pub(super) fn pair(&mut self, timeline: &Timeline<'_>) -> Result<Pair, StoreError> {
        let app = timeline.app.as_str();
        Ok(Pair {
            inbox: self.account(app, timeline.inbox_of.as_str())?,
            peer: self.account(app, timeline.convers_with.as_str())?,
        })
    }

    fn state(&mut self, pair: Pair) -> Result<Option<State>, StoreError> {
        if let Some(known) = self.cache.conversations.0.get(&pair) {
            return Ok(Some(known));
        }
        let found = self.connection.find(&FIND_STATE, pair.key(), |row| {
            Ok(State {
                since: row.get(0)?,
                archived: row.get(1)?,
            })
        })?;
        if let Some(state) = found {
            self.cache.conversations.0.insert(pair, state);
        }
        Ok(found)
    }

    /// Makes a row for a conversation that has none.
    fn insert_state(&mut self, pair: Pair, since: i64, seq: i64) -> Result<(), StoreError> {
        let params = params![pair.inbox, pair.peer, since, seq];
        self.connection.execute(&INSERT_STATE, params)?;
        let state = State {
            since,
            archived: false,
        };
        self.cache.conversations.0.insert(pair, state);
        Ok(())
    }

    /// Has the row say what the copies show now. What is remembered of it is forgotten.
    pub(super) fn settle(&mut self, pair: Pair) -> Result<(), StoreError> {
        self.cache.conversations.0.remove(&pair);
        self.connection.execute(&SETTLE, pair.key())?;
        Ok(())
    }

    /// A copy is about to be written that does not show in the list.
    pub(super) fn leave_out(&mut self, pair: Pair, seq: i64) -> Result<(), StoreError> {
        match self.state(pair)? {
            None => self.insert_state(pair, seq, 0),
            Some(state) if seq > state.since => {
                self.settle(pair)?;
                let params = params![pair.inbox, pair.peer, seq];
                self.connection.execute(&LEAVE_OUT, params)?;
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// A copy was written that shows in the list. Returns whether that brings the conversation back
    /// from the archive.
    pub(super) fn show(&mut self, pair: Pair, seq: i64) -> Result<bool, StoreError> {
        match self.state(pair)? {
            None => self.insert_state(pair, seq, seq)?,
            Some(state) if seq > state.since && !state.archived => {}
            Some(state) => {
                let params = [pair.inbox, pair.peer, seq];
                let archived = state.archived && self.connection.exists(&IS_ARCHIVED, params)?;
                // The copy is there: a settled row knows of it if nothing later hides it.
                self.settle(pair)?;
                self.connection.execute(&SHOW, params)?;
                return Ok(archived);
            }
        }
        Ok(false)
    }

    pub(super) fn write_patch(
        &mut self,
        timeline: &Timeline<'_>,
        patched: &Patched,
    ) -> Result<(), StoreError> {
        let pair = self.pair(timeline)?;
        self.settle(pair)?;
        let params = params![
            pair.inbox,
            pair.peer,
            patched.is_new,
            patched.archived,
            patched.patch
        ];
        self.connection.execute(&PATCH, params)?;
        Ok(())
    }

    pub(super) fn archive(&mut self, timeline: &Timeline<'_>) -> Result<(), StoreError> {
        let pair = self.pair(timeline)?;
        self.settle(pair)?;
        self.connection.execute(&ARCHIVE, pair.key())?;
        Ok(())
    }

    /// Erases what everybody has with somebody who is in a list of theirs.
    pub(super) fn erase(
        &mut self,
        app: AppId<'_>,
        peer: &str,
        what: Erased,
    ) -> Result<(), StoreError> {
        let Some(peer) = self.find_account(app.as_str(), peer)? else {
            return Ok(());
        };
        let owners: Vec<i64> = self.connection.rows(&HAVE_WITH, [peer], |row| row.get(0))?;
        let statement = match what {
            Erased::Conversations => &ERASE_CONVERSATION,
            Erased::Messages => &ERASE_MESSAGES,
        };
        // A group has a timeline of its own, with itself.
        for inbox in owners.into_iter().chain([peer]) {
            let pair = Pair { inbox, peer };
            self.settle(pair)?;
            self.connection.execute(statement, pair.key())?;
        }
        Ok(())
    }
}
