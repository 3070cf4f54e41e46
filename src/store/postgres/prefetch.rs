//! Looks up what the requests of a batch ask, in one way to the database and back.
//!
//! What is found is kept until something may have changed it. A question that was not foreseen is
//! asked by itself.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::Row;

use super::batch::{Key, columns};
use super::connection::{Command, params, text};
use super::facts::{pair, parse_group};
use super::write::key;
use super::{PostgresStore, StoreError, status};
use crate::protocol::address::{Address, Timeline};
use crate::rules::facts::StoredCopy;
use crate::rules::write::{Listing, Write};

const BANS: &str = "SELECT b.app, b.user_id FROM unnest($1::text[], $2::text[]) AS u (app, user_id)
    JOIN ban b ON b.app = u.app AND b.user_id = u.user_id";
const BLOCKS: &str = "SELECT b.app, b.other, b.inbox_of
    FROM unnest($1::text[], $2::text[], $3::text[]) AS u (app, other, inbox_of)
    JOIN block b ON b.app = u.app AND b.other = u.other AND b.inbox_of = u.inbox_of";
const BLOCKED_BY: &str = "SELECT b.app, b.other, b.inbox_of
    FROM (SELECT DISTINCT app, other
        FROM unnest($1::text[], $2::text[], $3::text[], $4::boolean[])
            AS u (app, other, recipient, is_group)
        WHERE is_group OR EXISTS (SELECT 1 FROM chat_group g
            WHERE g.app = u.app AND g.group_id = u.recipient)) w
    JOIN block b ON b.app = w.app AND b.other = w.other ORDER BY b.inbox_of";
const GROUPS: &str = "SELECT g.app, g.group_id, g.body
    FROM unnest($1::text[], $2::text[]) AS u (app, group_id)
    JOIN chat_group g ON g.app = u.app AND g.group_id = u.group_id";
const CONVERSATIONS: &str = "SELECT c.app, c.inbox_of, c.convers_with, c.archived, c.seq
    FROM unnest($1::text[], $2::text[], $3::text[]) AS u (app, inbox_of, convers_with)
    JOIN conversation c ON c.app = u.app AND c.inbox_of = u.inbox_of
        AND c.convers_with = u.convers_with";
const NEWEST: &str = "SELECT coalesce(max(seq), 0) FROM message";
const COPIES: &str = "SELECT u.app, u.inbox_of, u.convers_with, u.message_id, m.sender, t.status
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
        AS u (app, inbox_of, convers_with, message_id)
    JOIN message m ON m.message_id = u.message_id AND m.app = u.app
    JOIN timeline t ON t.app = u.app AND t.inbox_of = u.inbox_of AND t.seq = m.seq
        AND t.convers_with = u.convers_with";

/// What requests will ask.
#[derive(Debug, Default)]
struct Questions {
    bans: BTreeSet<[String; 2]>,
    blocks: BTreeSet<Key>,
    /// Who writes to whom, and whether that is a group by its identifier: who blocks the writer is
    /// asked of groups.
    writers: BTreeMap<Key, bool>,
    groups: BTreeSet<[String; 2]>,
    conversations: BTreeSet<Key>,
    copies: BTreeSet<(Key, String)>,
}

impl Questions {
    fn add(&mut self, address: &Address<'_>) {
        match address {
            Address::Outgoing(outgoing) => {
                let (app, sender) = (outgoing.app.as_str(), outgoing.sender.as_str());
                let recipient = outgoing.recipient.as_str();
                self.bans.insert(pair(app, sender));
                self.groups.insert(pair(app, recipient));
                self.blocks
                    .insert([app, sender, recipient].map(str::to_owned));
                self.conversations
                    .insert([app, sender, recipient].map(str::to_owned));
                self.conversations
                    .insert([app, recipient, sender].map(str::to_owned));
                let is_group = outgoing.recipient.is_group();
                let writer = [app, sender, recipient].map(str::to_owned);
                self.writers.insert(writer, is_group);
                if is_group {
                    self.conversations
                        .insert([app, recipient, recipient].map(str::to_owned));
                }
            }
            Address::Receipt(timeline, message) => {
                self.add_owner(timeline);
                self.copies.insert((key(timeline), text(message.as_str())));
                self.groups
                    .insert(pair(timeline.app.as_str(), timeline.convers_with.as_str()));
            }
            Address::Conversation(timeline)
            | Address::Archive(timeline)
            | Address::Block(timeline)
            | Address::Inject(timeline) => {
                self.add_owner(timeline);
                self.conversations.insert(key(timeline));
            }
            Address::Fetch { app, user } | Address::ConversationsFetch { app, user } => {
                self.bans.insert(pair(app.as_str(), user.as_str()));
            }
            Address::Presence { .. } | Address::Groups { .. } => {}
        }
    }

    fn add_owner(&mut self, timeline: &Timeline<'_>) {
        self.bans
            .insert(pair(timeline.app.as_str(), timeline.inbox_of.as_str()));
    }
}

impl PostgresStore {
    pub(super) fn look_up_together(
        &mut self,
        addresses: &mut dyn Iterator<Item = Address<'_>>,
    ) -> Result<(), StoreError> {
        let mut questions = Questions::default();
        for address in addresses {
            questions.add(&address);
        }
        self.look_up(questions)
    }

    /// Looks up the conversations that copies are for, in so far as they are not known.
    pub(super) fn look_up_conversations(&mut self, writes: &[Write<'_>]) -> Result<(), StoreError> {
        let mut questions = Questions::default();
        for write in writes {
            if let Write::Copy(copy) = write
                && copy.listing == Listing::Listed
            {
                let key = key(&copy.timeline);
                if !self.batch.borrow().known.conversations.contains_key(&key) {
                    questions.conversations.insert(key);
                }
            }
        }
        if questions.conversations.is_empty() {
            return Ok(());
        }
        // The rest of what is kept is written with the commit: the sooner rows are written, the
        // longer they are locked, and the rows of batches of several slots would be locked in any
        // order.
        if self.batch.borrow().changes_any(&questions.conversations) {
            self.flush()?;
        }
        self.look_up(questions)
    }

    /// What is stored now answers what others have stored, whatever our clock says.
    fn rise_above(&mut self, newest: Option<Vec<Row>>) {
        let newest = newest.as_deref().and_then(<[Row]>::first);
        let newest = newest.map_or(0, |row| row.get(0));
        self.counters.last_seq = self.counters.last_seq.max(newest);
    }

    fn look_up(&mut self, questions: Questions) -> Result<(), StoreError> {
        if questions.bans.is_empty() && questions.conversations.is_empty() {
            return Ok(());
        }
        let pairs = |keys: &BTreeSet<[String; 2]>| -> [Vec<String>; 2] {
            let column = |at: usize| keys.iter().map(|key| key[at].clone()).collect();
            [column(0), column(1)]
        };
        let [ban_apps, ban_users] = pairs(&questions.bans);
        let are_groups: Vec<bool> = questions.writers.values().copied().collect();
        let [writer_apps, writers, written_to] = columns(questions.writers.keys().cloned());
        let [group_apps, group_ids] = pairs(&questions.groups);
        let [block_apps, others, blockers] = columns(questions.blocks.iter().cloned());
        let [apps, inboxes, peers] = columns(questions.conversations.iter().cloned());
        let copies = questions.copies.iter();
        let [copy_apps, copy_inboxes, copy_peers] = columns(copies.map(|(key, _)| key.clone()));
        let ids: Vec<String> = questions.copies.iter().map(|(_, id)| id.clone()).collect();
        let command = |sql, params| Command { sql, params };
        let mut commands = vec![
            command(BANS, params![ban_apps, ban_users]),
            command(BLOCKS, params![block_apps, others, blockers]),
            command(GROUPS, params![group_apps, group_ids]),
            command(CONVERSATIONS, params![apps, inboxes, peers]),
            command(COPIES, params![copy_apps, copy_inboxes, copy_peers, ids]),
            command(
                BLOCKED_BY,
                params![writer_apps, writers, written_to, are_groups],
            ),
        ];
        if self.slot.is_one_of_several() {
            commands.push(command(NEWEST, vec![]));
        }
        let mut found = self.connection.pipeline("", &commands, "")?;
        if self.slot.is_one_of_several() {
            self.rise_above(found.pop());
        }
        self.note(questions, &found)
    }

    /// Notes what was found, and of the rest that it is not there.
    fn note(&self, questions: Questions, found: &[Vec<Row>]) -> Result<(), StoreError> {
        let [bans, blocks, groups, conversations, copies, blocked_by] = found else {
            return Err(StoreError::Permanent(
                "the database gave too few answers".into(),
            ));
        };
        let mut batch = self.batch.borrow_mut();
        let known = &mut batch.known;
        // What is not found is known not to be there.
        known
            .bans
            .extend(questions.bans.into_iter().map(|key| (key, false)));
        known
            .blocks
            .extend(questions.blocks.into_iter().map(|key| (key, false)));
        known
            .groups
            .extend(questions.groups.into_iter().map(|key| (key, None)));
        let not_there = questions.conversations.into_iter().map(|key| (key, None));
        known.conversations.extend(not_there);
        known
            .copies
            .extend(questions.copies.into_iter().map(|key| (key, None)));
        for row in bans {
            known.bans.insert([row.get(0), row.get(1)], true);
        }
        for row in blocks {
            known
                .blocks
                .insert([row.get(0), row.get(1), row.get(2)], true);
        }
        for row in groups {
            known
                .groups
                .insert([row.get(0), row.get(1)], parse_group(row.get(2)));
        }
        for ([app, writer, recipient], is_group) in questions.writers {
            let group = [app.clone(), recipient];
            let is_stored = known.groups.get(&group).is_some_and(Option::is_some);
            if is_group || is_stored {
                known.blocked_by.insert([app, writer], vec![]);
            }
        }
        for row in blocked_by {
            let key: [String; 2] = [row.get(0), row.get(1)];
            let by = known.blocked_by.entry(key).or_default();
            by.push(row.get::<_, String>(2).into());
        }
        for row in conversations {
            let key = [row.get(0), row.get(1), row.get(2)];
            known
                .conversations
                .insert(key, Some((row.get(3), row.get(4))));
        }
        for row in copies {
            let copy = StoredCopy {
                sender: row.get::<_, String>(4).into(),
                status: status(row.get(5)),
            };
            let key = ([row.get(0), row.get(1), row.get(2)], row.get(3));
            known.copies.insert(key, Some(copy));
        }
        Ok(())
    }
}
