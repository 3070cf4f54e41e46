//! The writes of a batch, kept until they go out together.
//!
//! Owns their order: rows of the kinds that messages bring are gathered and written with one
//! statement a table; any other write ends what was gathered before it. Keys are folded and sorted,
//! so that two writers never wait for each other in a circle.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::connection::{Command, params};
use super::{PostgresStore, StoreError};
use crate::rules::webhook_event::Event;
use crate::rules::write::{NewMessage, TimelineCopy};

const INSERT_MESSAGES: &str = "INSERT INTO message
    (seq, message_id, app, sender, recipient, layout, stored_at, fingerprint, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::bigint[], $8::bigint[], $9::text[])";
const INSERT_COPIES: &str = "INSERT INTO timeline (app, inbox_of, seq, convers_with, status)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[])
    ON CONFLICT DO NOTHING";
// A redelivered message is followed by all that was said of it since. So it must not take the place
// of a later one.
const SET_LAST_MESSAGES: &str = "INSERT INTO conversation
    (app, inbox_of, convers_with, seq, is_new, archived)
    SELECT app, inbox_of, convers_with, seq, true, false
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])
        AS u (app, inbox_of, convers_with, seq)
    ON CONFLICT (app, inbox_of, convers_with) DO UPDATE
    SET seq = excluded.seq, is_new = true, archived = false
    WHERE excluded.seq >= conversation.seq OR conversation.seq = 0";
// It shows in no list, and tells who has messages.
const LEAVE_OUT: &str = "INSERT INTO conversation
    (app, inbox_of, convers_with, seq, is_new, archived)
    SELECT app, inbox_of, convers_with, 0, false, false
    FROM unnest($1::text[], $2::text[], $3::text[]) AS u (app, inbox_of, convers_with)
    ON CONFLICT DO NOTHING";
const RAISE_STATUS: &str = "UPDATE timeline t SET status = u.status
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
        AS u (app, inbox_of, convers_with, message_id, status)
    JOIN message m ON m.message_id = u.message_id AND m.app = u.app
    WHERE t.app = u.app AND t.inbox_of = u.inbox_of AND t.convers_with = u.convers_with
        AND t.seq = m.seq AND t.status < u.status";
const LOG: &str = "INSERT INTO delivery
    (message_id, number, came_on, purpose, topic, status, payload, properties, slot)
    SELECT u.*, $9::bigint FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[],
        $5::text[], $6::bigint[], $7::bytea[], $8::text[]) AS u
    ON CONFLICT DO NOTHING";
const FORGET: &str = "DELETE FROM delivery WHERE message_id = ANY ($1::text[])";
const FORGET_FAN_OUTS: &str = "DELETE FROM fan_out WHERE message_id = ANY ($1::text[])";
const FORGET_POSITIONS: &str = "DELETE FROM fan_out_position WHERE message_id = ANY ($1::text[])";

/// About how many bytes a message takes beside its body.
pub(super) const MESSAGE_BYTES: i64 = 300;
/// About how many bytes a copy takes.
pub(super) const COPY_BYTES: i64 = 250;

/// App, owner, other side.
pub(super) type Key = [String; 3];

/// What the batch knows and has not written yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    is_open: bool,
    is_in_transaction: bool,
    is_changed: bool,
    commands: Vec<Command>,
    gathered: Gathered,
    /// Conversations that what is kept changes.
    unwritten: HashSet<Key>,
    /// Copies that this batch has written: position and key.
    copies: HashSet<(i64, Key)>,
    /// By how much the store has grown.
    bytes: i64,
    /// Webhook events to queue.
    pub(super) events: Vec<(Event, i64)>,
    pub(super) known: Known,
}

/// What was looked up in this batch. Whatever may have changed since is not in it.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) bans: HashMap<[String; 2], bool>,
    /// Whether the last blocks the second: app, blocked, blocker.
    pub(super) blocks: HashMap<Key, bool>,
    /// Who blocks the user: app, blocked.
    pub(super) blocked_by: HashMap<[String; 2], Vec<Box<str>>>,
    pub(super) groups: HashMap<[String; 2], Option<std::sync::Arc<crate::protocol::group::Group>>>,
    /// Of each conversation whether it is archived, and the position of its last message.
    pub(super) conversations: HashMap<Key, Option<(bool, i64)>>,
    pub(super) copies: HashMap<(Key, String), Option<crate::rules::facts::StoredCopy>>,
    /// Groups that were looked for, to be changed, and are not there.
    pub(super) no_groups: HashSet<[String; 2]>,
}

/// Rows to write, by table.
#[derive(Debug, Default)]
struct Gathered {
    forgotten: Vec<String>,
    messages: Messages,
    copies: BTreeMap<(String, String, i64, String), i64>,
    conversations: BTreeMap<Key, i64>,
    left_out: BTreeSet<Key>,
    raised: BTreeMap<(Key, String), i64>,
    logged: Vec<Logged>,
    /// The slot that logs.
    slot: i64,
}

#[derive(Debug, Default)]
struct Messages {
    seq: Vec<i64>,
    message_id: Vec<String>,
    app: Vec<String>,
    sender: Vec<String>,
    recipient: Vec<String>,
    layout: Vec<String>,
    stored_at: Vec<i64>,
    fingerprint: Vec<Option<i64>>,
    body: Vec<String>,
}

/// A row of the delivery log.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) message_id: String,
    pub(super) number: i64,
    pub(super) came_on: Option<Vec<u8>>,
    pub(super) purpose: i64,
    pub(super) topic: String,
    pub(super) status: Option<i64>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) properties: Option<String>,
}

impl Batch {
    pub(super) fn begin(&mut self) {
        *self = Self {
            is_open: true,
            ..Self::default()
        };
    }

    pub(super) fn end(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// Whether there is something to commit.
    pub(super) fn has_work(&self) -> bool {
        self.is_in_transaction || self.is_changed || self.has_writes() || !self.events.is_empty()
    }

    fn has_writes(&self) -> bool {
        !self.commands.is_empty() || !self.gathered.is_empty()
    }

    /// Whether what is kept may change any of these conversations.
    pub(super) fn changes_any(&self, conversations: &BTreeSet<Key>) -> bool {
        conversations.iter().any(|key| self.unwritten.contains(key))
    }

    /// A write that is kept changes a conversation.
    pub(super) fn note_unwritten(&mut self, key: &Key) {
        self.unwritten.insert(key.clone());
    }

    pub(super) fn note_change(&mut self, is_changed: bool) {
        self.is_changed |= is_changed && self.is_open;
    }

    /// The store has grown by so many bytes.
    pub(super) fn count_bytes(&mut self, bytes: i64) {
        self.bytes += bytes;
    }

    /// A write that is no row of those that are gathered.
    pub(super) fn push(&mut self, command: Command) {
        self.gathered.take_into(&mut self.commands);
        self.commands.push(command);
    }

    /// By how many bytes the store has grown in this batch.
    pub(super) fn grown_by(&self) -> i64 {
        self.bytes
    }

    pub(super) fn add_message(
        &mut self,
        message: &NewMessage<'_>,
        (seq, stored_at): (i64, i64),
        fingerprint: Option<i64>,
    ) {
        use super::connection::text;
        let rows = &mut self.gathered.messages;
        let body = text(message.body.as_str());
        self.bytes += MESSAGE_BYTES + i64::try_from(body.len()).unwrap_or(0);
        rows.seq.push(seq);
        rows.message_id.push(text(&message.id));
        rows.app.push(message.app.as_str().to_owned());
        rows.sender.push(text(&message.sender));
        rows.recipient.push(text(message.recipient));
        rows.layout.push(text(message.layout));
        rows.stored_at.push(stored_at);
        rows.fingerprint.push(fingerprint);
        rows.body.push(body);
    }

    /// Whether this batch has written the copy before.
    pub(super) fn note_copy(&mut self, seq: i64, key: &Key) -> bool {
        !self.copies.insert((seq, key.clone()))
    }

    pub(super) fn add_copy(&mut self, seq: i64, [app, inbox_of, peer]: Key, status: i64) {
        self.bytes += COPY_BYTES;
        let key = (app, inbox_of, seq, peer);
        self.gathered.copies.entry(key).or_insert(status);
    }

    /// The message becomes the last one of a conversation, unless that has a later one.
    pub(super) fn list_copy(&mut self, seq: i64, copy: &TimelineCopy<'_>) {
        let key = super::write::key(&copy.timeline);
        self.note_unwritten(&key);
        let last = self.gathered.conversations.entry(key).or_insert(seq);
        *last = seq.max(*last);
    }

    /// There is a message in a conversation, which does not show in a list for that.
    pub(super) fn leave_out(&mut self, key: Key) {
        self.note_unwritten(&key);
        self.gathered.left_out.insert(key);
    }

    pub(super) fn raise(&mut self, key: Key, message_id: String, status: i64) {
        let raised = self
            .gathered
            .raised
            .entry((key, message_id))
            .or_insert(status);
        *raised = status.max(*raised);
    }

    pub(super) fn log(&mut self, row: Logged, slot: i64) {
        self.gathered.slot = slot;
        self.gathered.logged.push(row);
    }

    pub(super) fn forget(&mut self, message_id: String) {
        if !self.gathered.logged.is_empty() {
            self.gathered.take_into(&mut self.commands);
        }
        self.gathered.forgotten.push(message_id);
    }

    fn take_commands(&mut self) -> Vec<Command> {
        self.unwritten.clear();
        self.gathered.take_into(&mut self.commands);
        std::mem::take(&mut self.commands)
    }
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.forgotten.is_empty()
            && self.messages.seq.is_empty()
            && self.copies.is_empty()
            && self.conversations.is_empty()
            && self.left_out.is_empty()
            && self.raised.is_empty()
            && self.logged.is_empty()
    }

    /// Makes statements of what was gathered.
    fn take_into(&mut self, commands: &mut Vec<Command>) {
        if self.is_empty() {
            return;
        }
        let gathered = std::mem::take(self);
        if !gathered.forgotten.is_empty() {
            for sql in [FORGET, FORGET_FAN_OUTS, FORGET_POSITIONS] {
                let params = params![gathered.forgotten.clone()];
                commands.push(Command { sql, params });
            }
        }
        let messages = gathered.messages;
        if !messages.seq.is_empty() {
            commands.push(Command {
                sql: INSERT_MESSAGES,
                params: params![
                    messages.seq,
                    messages.message_id,
                    messages.app,
                    messages.sender,
                    messages.recipient,
                    messages.layout,
                    messages.stored_at,
                    messages.fingerprint,
                    messages.body
                ],
            });
        }
        commands.extend(copies(gathered.copies));
        commands.extend(conversations(gathered.conversations));
        commands.extend(left_out(gathered.left_out));
        commands.extend(raised(gathered.raised));
        commands.extend(logged(gathered.logged, gathered.slot));
    }
}

fn copies(rows: BTreeMap<(String, String, i64, String), i64>) -> Option<Command> {
    let (mut apps, mut inboxes, mut seqs) = (vec![], vec![], vec![]);
    let (mut peers, mut statuses) = (vec![], vec![]);
    for ((app, inbox_of, seq, peer), status) in rows {
        apps.push(app);
        inboxes.push(inbox_of);
        seqs.push(seq);
        peers.push(peer);
        statuses.push(status);
    }
    (!seqs.is_empty()).then(|| Command {
        sql: INSERT_COPIES,
        params: params![apps, inboxes, seqs, peers, statuses],
    })
}

/// The columns of keys.
pub(super) fn columns(keys: impl IntoIterator<Item = Key>) -> [Vec<String>; 3] {
    let mut columns: [Vec<String>; 3] = Default::default();
    for key in keys {
        for (column, value) in columns.iter_mut().zip(key) {
            column.push(value);
        }
    }
    columns
}

fn conversations(rows: BTreeMap<Key, i64>) -> Option<Command> {
    let seqs: Vec<i64> = rows.values().copied().collect();
    let [apps, inboxes, peers] = columns(rows.into_keys());
    (!seqs.is_empty()).then(|| Command {
        sql: SET_LAST_MESSAGES,
        params: params![apps, inboxes, peers, seqs],
    })
}

fn left_out(rows: BTreeSet<Key>) -> Option<Command> {
    (!rows.is_empty()).then(|| {
        let [apps, inboxes, peers] = columns(rows);
        Command {
            sql: LEAVE_OUT,
            params: params![apps, inboxes, peers],
        }
    })
}

fn raised(rows: BTreeMap<(Key, String), i64>) -> Option<Command> {
    let (mut keys, mut ids, mut statuses) = (vec![], vec![], vec![]);
    for ((key, id), status) in rows {
        keys.push(key);
        ids.push(id);
        statuses.push(status);
    }
    let [apps, inboxes, peers] = columns(keys);
    (!ids.is_empty()).then(|| Command {
        sql: RAISE_STATUS,
        params: params![apps, inboxes, peers, ids, statuses],
    })
}

fn logged(rows: Vec<Logged>, slot: i64) -> Option<Command> {
    let (mut ids, mut numbers, mut came_on, mut purposes) = (vec![], vec![], vec![], vec![]);
    let (mut topics, mut statuses, mut payloads) = (vec![], vec![], vec![]);
    let mut properties = vec![];
    for row in rows {
        ids.push(row.message_id);
        numbers.push(row.number);
        came_on.push(row.came_on);
        purposes.push(row.purpose);
        topics.push(row.topic);
        statuses.push(row.status);
        payloads.push(row.payload);
        properties.push(row.properties);
    }
    (!ids.is_empty()).then(|| Command {
        sql: LOG,
        params: params![
            ids, numbers, came_on, purposes, topics, statuses, payloads, properties, slot
        ],
    })
}

impl PostgresStore {
    /// Has the database begin a transaction, and makes sure that we may write.
    pub(super) fn open_transaction(&self) -> Result<(), StoreError> {
        if self.batch.borrow().is_in_transaction {
            return Ok(());
        }
        self.batch.borrow_mut().is_in_transaction = true;
        let fence: Vec<Command> = self.fence(0).into_iter().collect();
        let begun = self.connection.pipeline("BEGIN", &fence, "");
        begun.map(drop).map_err(|fault| self.note_fault(fault))
    }

    /// Writes what was kept, so that what is read next includes it.
    pub(super) fn flush(&self) -> Result<(), StoreError> {
        if !self.batch.borrow().has_writes() {
            return Ok(());
        }
        let mut commands: Vec<Command> = vec![];
        let begin = match self.batch.borrow().is_in_transaction {
            true => "",
            false => "BEGIN",
        };
        if !begin.is_empty() {
            commands.extend(self.fence(0));
        }
        {
            let mut batch = self.batch.borrow_mut();
            batch.is_in_transaction = true;
            batch.is_changed = true;
            commands.extend(batch.take_commands());
        }
        let written = self.connection.pipeline(begin, &commands, "");
        written.map(drop).map_err(|fault| self.note_fault(fault))
    }

    /// Writes what was kept, and commits.
    pub(super) fn send_commit(&self) -> Result<(), StoreError> {
        let mut commands: Vec<Command> = vec![];
        let (begin, bytes) = {
            let batch = self.batch.borrow();
            (
                if batch.is_in_transaction { "" } else { "BEGIN" },
                batch.bytes,
            )
        };
        commands.extend(self.fence(bytes));
        {
            let mut batch = self.batch.borrow_mut();
            batch.is_in_transaction = true;
            commands.extend(batch.take_commands());
        }
        self.connection
            .pipeline(begin, &commands, "COMMIT")
            .map(drop)
    }
}
