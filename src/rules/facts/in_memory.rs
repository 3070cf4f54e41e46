//! Facts held in memory, for tests.

use std::cell::Cell;
use std::collections::HashMap;

use super::*;

/// Answers every question from its fields. Apps are not told apart.
#[derive(Debug, Default)]
pub(crate) struct InMemory {
    pub(crate) banned: Vec<&'static str>,
    pub(crate) groups: HashMap<&'static str, Arc<Group>>,
    /// The objects of groups.
    pub(crate) objects: HashMap<&'static str, String>,
    /// Users and groups with any message.
    pub(crate) timelines: Vec<&'static str>,
    /// Who blocks whom.
    pub(crate) blocks: Vec<(&'static str, &'static str)>,
    /// Users blocked by anybody, besides those in `blocks`.
    pub(crate) more_blocked: usize,
    /// Groups made by anybody.
    pub(crate) groups_made: usize,
    /// Conversations of anybody, besides those in `conversations`.
    pub(crate) conversations_made: usize,
    /// Copies, by owner, peer and message.
    pub(crate) copies: HashMap<(&'static str, &'static str, &'static str), StoredCopy>,
    /// Conversations, by owner and peer.
    pub(crate) conversations: HashMap<(&'static str, &'static str), Row>,
    /// Connected clients, by user.
    pub(crate) clients: HashMap<&'static str, Vec<ConnectedClient>>,
    /// Absences, by user.
    pub(crate) absences: HashMap<&'static str, Absence>,
    pub(crate) under_way: Option<MessageId>,
    /// When each message of the log was stored; the first is at position 1.
    pub(crate) log: Vec<UnixMillis>,
    pub(crate) redelivers: bool,
    /// How many questions have been asked.
    pub(crate) asked: Cell<usize>,
}

impl InMemory {
    /// With one group.
    pub(crate) fn with_group(mut self, id: &'static str, members: &[&str]) -> Self {
        let members: serde_json::Map<_, _> = members
            .iter()
            .map(|id| ((*id).to_owned(), serde_json::json!(1)))
            .collect();
        let body = serde_json::json!({ "members": members }).to_string();
        self.groups
            .insert(id, Arc::new(Group::parse(&body).unwrap()));
        self
    }

    /// With one user who blocks another.
    pub(crate) fn with_block(mut self, by: &'static str, other: &'static str) -> Self {
        self.blocks.push((by, other));
        self
    }

    /// With a copy of message `m1`.
    pub(crate) fn with_copy(
        mut self,
        (of, with): (&'static str, &'static str),
        sender: &str,
        status: Status,
    ) -> Self {
        let sender = sender.into();
        self.copies
            .insert((of, with, "m1"), StoredCopy { sender, status });
        self
    }

    fn answer<T>(&self, answer: T) -> Result<T, Infallible> {
        self.asked.set(self.asked.get() + 1);
        Ok(answer)
    }
}

impl FactSource for InMemory {
    type Error = Infallible;

    fn is_banned(&mut self, _: AppId<'_>, user: UserId<'_>) -> Result<bool, Infallible> {
        self.answer(self.banned.contains(&user.as_str()))
    }

    fn group(&mut self, _: AppId<'_>, id: UserId<'_>) -> Result<GroupLookup, Infallible> {
        self.answer(match self.groups.get(id.as_str()) {
            Some(group) => GroupLookup::Stored(group.clone()),
            None => GroupLookup::NotStored,
        })
    }

    fn group_object(&mut self, _: AppId<'_>, id: UserId<'_>) -> Result<Option<String>, Infallible> {
        self.answer(self.objects.get(id.as_str()).cloned())
    }

    fn has_timeline(&mut self, _: AppId<'_>, user: UserId<'_>) -> Result<bool, Infallible> {
        self.answer(self.timelines.contains(&user.as_str()))
    }

    fn blocked_users(
        &mut self,
        _: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<Box<str>>, Infallible> {
        let blocked = self.blocks.iter().filter(|(by, _)| *by == user.as_str());
        self.answer(blocked.map(|(_, other)| (*other).into()).collect())
    }

    fn position_before_newest(
        &mut self,
        _: &Timeline<'_>,
        count: usize,
    ) -> Result<i64, Infallible> {
        let before = self.log.len().saturating_sub(count);
        self.answer(i64::try_from(before).unwrap())
    }

    fn blocks(
        &mut self,
        _: AppId<'_>,
        user: UserId<'_>,
        other: UserId<'_>,
    ) -> Result<bool, Infallible> {
        self.answer(self.blocks.contains(&(user.as_str(), other.as_str())))
    }

    fn blocked_by(
        &mut self,
        _: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, Infallible> {
        let by = self
            .blocks
            .iter()
            .filter(|(_, other)| *other == sender.as_str());
        self.answer(by.map(|(by, _)| (*by).into()).collect())
    }

    fn count_blocked(
        &mut self,
        _: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, Infallible> {
        let listed = self.blocks.iter().filter(|(by, _)| *by == user.as_str());
        self.answer((listed.count() + self.more_blocked).min(limit))
    }

    fn count_groups(
        &mut self,
        _: AppId<'_>,
        _: UserId<'_>,
        limit: usize,
    ) -> Result<usize, Infallible> {
        self.answer(self.groups_made.min(limit))
    }

    fn count_conversations(
        &mut self,
        _: AppId<'_>,
        _: UserId<'_>,
        limit: usize,
    ) -> Result<usize, Infallible> {
        self.answer(self.conversations_made.min(limit))
    }

    fn copy(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<StoredCopy>, Infallible> {
        let (of, with) = (timeline.inbox_of.as_str(), timeline.convers_with.as_str());
        self.answer(self.copies.get(&(of, with, message_id)).cloned())
    }

    fn copy_by_temp_uid(
        &mut self,
        timeline: &Timeline<'_>,
        temp_uid: &str,
    ) -> Result<Option<(String, StoredCopy)>, Infallible> {
        // Every message `m1` is called `temp-m1` by its sender.
        let Some(id) = temp_uid.strip_prefix("temp-") else {
            return self.answer(None);
        };
        let copy = self.copy(timeline, id)?;
        Ok(copy.map(|copy| (id.to_owned(), copy)))
    }

    fn conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, Infallible> {
        let (of, with) = (timeline.inbox_of.as_str(), timeline.convers_with.as_str());
        self.answer(self.conversations.get(&(of, with)).cloned())
    }

    fn clients(
        &mut self,
        _: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<ConnectedClient>, Infallible> {
        self.answer(self.clients.get(user.as_str()).cloned().unwrap_or_default())
    }

    fn absence(&mut self, _: AppId<'_>, user: UserId<'_>) -> Result<Option<Absence>, Infallible> {
        self.answer(self.absences.get(user.as_str()).copied())
    }

    fn is_under_way(&mut self, id: MessageId) -> Result<bool, Infallible> {
        self.answer(self.under_way == Some(id))
    }

    fn last_position(&mut self) -> Result<i64, Infallible> {
        self.answer(i64::try_from(self.log.len()).unwrap())
    }

    fn newest_time(&mut self) -> Result<UnixMillis, Infallible> {
        self.answer(self.log.last().copied().unwrap_or_default())
    }

    fn position_at(&mut self, time: UnixMillis) -> Result<i64, Infallible> {
        let stored = self.log.iter().filter(|stored_at| **stored_at <= time);
        self.answer(i64::try_from(stored.count()).unwrap())
    }

    fn offline_delivery(&self) -> OfflineDelivery {
        if self.redelivers {
            OfflineDelivery::Redeliver
        } else {
            OfflineDelivery::Broker
        }
    }
}
