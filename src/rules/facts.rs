//! The facts that plans depend on, as questions to a store.
//!
//! Owns the questions and the form of the answers. Each kind of request asks its own, in its own
//! file. Leaves the answers to an implementation of [`FactSource`]: the store's, or [`NoStore`].

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::address::Timeline;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::conversation_row::Row;

#[cfg(test)]
pub(crate) mod in_memory;

/// Answers questions about what is stored. Answers include everything written before the question.
///
/// The *log* is the list of stored messages in the order they were stored; a *position* in it is a
/// number above 0 that is never given twice.
pub trait FactSource {
    /// Why a question cannot be answered now. The request is decided later then.
    type Error;

    /// Whether an operator has banned this user from the app.
    ///
    /// # Errors
    /// The source's own.
    fn is_banned(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, Self::Error>;

    /// The group of that identifier.
    ///
    /// # Errors
    /// The source's own.
    fn group(&mut self, app: AppId<'_>, id: UserId<'_>) -> Result<GroupLookup, Self::Error>;

    /// The object of a group as it is stored: JSON.
    ///
    /// # Errors
    /// The source's own.
    fn group_object(
        &mut self,
        app: AppId<'_>,
        id: UserId<'_>,
    ) -> Result<Option<String>, Self::Error>;

    /// Whether a user or group has any message in a timeline.
    ///
    /// # Errors
    /// The source's own.
    fn has_timeline(&mut self, app: AppId<'_>, user: UserId<'_>) -> Result<bool, Self::Error>;

    /// The users whom `user` blocks.
    ///
    /// # Errors
    /// The source's own.
    fn blocked_users(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<Box<str>>, Self::Error>;

    /// The position behind which a timeline has at most so many messages.
    ///
    /// # Errors
    /// The source's own.
    fn position_before_newest(
        &mut self,
        timeline: &Timeline<'_>,
        count: usize,
    ) -> Result<i64, Self::Error>;

    /// Whether `user` blocks `other`.
    ///
    /// # Errors
    /// The source's own.
    fn blocks(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        other: UserId<'_>,
    ) -> Result<bool, Self::Error>;

    /// The users who block `sender`.
    ///
    /// # Errors
    /// The source's own.
    fn blocked_by(
        &mut self,
        app: AppId<'_>,
        sender: UserId<'_>,
    ) -> Result<Vec<Box<str>>, Self::Error>;

    /// How many users `user` blocks. Counting may stop at `limit`.
    ///
    /// # Errors
    /// The source's own.
    fn count_blocked(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, Self::Error>;

    /// How many groups `user` owns. Counting may stop at `limit`.
    ///
    /// # Errors
    /// The source's own.
    fn count_groups(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, Self::Error>;

    /// How many conversations `user` has in their lists. Counting may stop at `limit`.
    ///
    /// # Errors
    /// The source's own.
    fn count_conversations(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
        limit: usize,
    ) -> Result<usize, Self::Error>;

    /// A timeline's copy of a message.
    ///
    /// # Errors
    /// The source's own.
    fn copy(
        &mut self,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Result<Option<StoredCopy>, Self::Error>;

    /// Of a timeline's newest messages, the one whose sender calls it `temp_uid`
    /// (`attributes.tempUID`): its id and the timeline's copy.
    ///
    /// # Errors
    /// The source's own.
    fn copy_by_temp_uid(
        &mut self,
        timeline: &Timeline<'_>,
        temp_uid: &str,
    ) -> Result<Option<(String, StoredCopy)>, Self::Error>;

    /// A conversation.
    ///
    /// # Errors
    /// The source's own.
    fn conversation(&mut self, timeline: &Timeline<'_>) -> Result<Option<Row>, Self::Error>;

    /// The connected clients of a user, in any order.
    ///
    /// # Errors
    /// The source's own.
    fn clients(
        &mut self,
        app: AppId<'_>,
        user: UserId<'_>,
    ) -> Result<Vec<ConnectedClient>, Self::Error>;

    /// What is noted of a user's absence; `None` for a user who has never been present.
    ///
    /// # Errors
    /// The source's own.
    fn absence(&mut self, app: AppId<'_>, user: UserId<'_>)
    -> Result<Option<Absence>, Self::Error>;

    /// Whether something that a message led to may not be confirmed by the broker yet.
    ///
    /// # Errors
    /// The source's own.
    fn is_under_way(&mut self, id: MessageId) -> Result<bool, Self::Error>;

    /// The last position of the log that is taken; 0 for an empty log.
    ///
    /// # Errors
    /// The source's own.
    fn last_position(&mut self) -> Result<i64, Self::Error>;

    /// The time at which the message there was stored; 0 for an empty log.
    ///
    /// # Errors
    /// The source's own.
    fn newest_time(&mut self) -> Result<UnixMillis, Self::Error>;

    /// For how long after its time a message may still come into the log: others may be about to
    /// commit it.
    fn unsettled(&self) -> Duration {
        Duration::ZERO
    }

    /// The last position of the log that was taken at `time` or before; 0 if none was.
    ///
    /// # Errors
    /// The source's own.
    fn position_at(&mut self, time: UnixMillis) -> Result<i64, Self::Error>;

    /// What users get who come back after they were away.
    fn offline_delivery(&self) -> OfflineDelivery;
}

/// What is known of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupLookup {
    /// A service has stored it.
    Stored(Arc<Group>),
    /// There is a store, and no such group is in it.
    NotStored,
    /// There is no store that would know the group.
    NoStore,
}

/// A copy of a message in one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCopy {
    /// Who wrote the message.
    pub sender: Box<str>,
    /// How far this copy got.
    pub status: Status,
}

/// A client that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectedClient {
    /// Its client identifier.
    pub id: Box<str>,
    /// When it connected.
    pub since: UnixMillis,
}

/// What is noted of the time a user is away, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Absence {
    /// The user has missed the messages behind this position of the log.
    pub since: i64,
    /// Whether the user has been given those messages.
    pub redelivery: Redelivery,
}

/// Whether a user has been given the messages they missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redelivery {
    /// They have not.
    Due,
    /// They have, once the delivery log has forgotten this presence event: it brings the messages
    /// with it.
    With(MessageId),
    /// They have.
    Done,
}

/// What users get who come back after they were away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OfflineDelivery {
    /// What the broker kept for them.
    Broker,
    /// What the observer forwarded meanwhile, published again.
    Redeliver,
}

/// The facts of an observer without a store: it knows what a message brings along, nothing else.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl FactSource for NoStore {
    type Error = Infallible;

    fn is_banned(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn group(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<GroupLookup, Infallible> {
        Ok(GroupLookup::NoStore)
    }

    fn group_object(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<Option<String>, Infallible> {
        Ok(None)
    }

    fn has_timeline(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn blocked_users(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<Vec<Box<str>>, Infallible> {
        Ok(vec![])
    }

    fn position_before_newest(&mut self, _: &Timeline<'_>, _: usize) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn blocks(&mut self, _: AppId<'_>, _: UserId<'_>, _: UserId<'_>) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn blocked_by(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<Vec<Box<str>>, Infallible> {
        Ok(vec![])
    }

    fn count_blocked(
        &mut self,
        _: AppId<'_>,
        _: UserId<'_>,
        _: usize,
    ) -> Result<usize, Infallible> {
        Ok(0)
    }

    fn count_groups(&mut self, _: AppId<'_>, _: UserId<'_>, _: usize) -> Result<usize, Infallible> {
        Ok(0)
    }

    fn count_conversations(
        &mut self,
        _: AppId<'_>,
        _: UserId<'_>,
        _: usize,
    ) -> Result<usize, Infallible> {
        Ok(0)
    }

    fn copy(&mut self, _: &Timeline<'_>, _: &str) -> Result<Option<StoredCopy>, Infallible> {
        Ok(None)
    }

    fn copy_by_temp_uid(
        &mut self,
        _: &Timeline<'_>,
        _: &str,
    ) -> Result<Option<(String, StoredCopy)>, Infallible> {
        Ok(None)
    }

    fn conversation(&mut self, _: &Timeline<'_>) -> Result<Option<Row>, Infallible> {
        Ok(None)
    }

    fn clients(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<Vec<ConnectedClient>, Infallible> {
        Ok(vec![])
    }

    fn absence(&mut self, _: AppId<'_>, _: UserId<'_>) -> Result<Option<Absence>, Infallible> {
        Ok(None)
    }

    fn is_under_way(&mut self, _: MessageId) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn last_position(&mut self) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn newest_time(&mut self) -> Result<UnixMillis, Infallible> {
        Ok(UnixMillis::new(0))
    }

    fn position_at(&mut self, _: UnixMillis) -> Result<i64, Infallible> {
        Ok(0)
    }

    fn offline_delivery(&self) -> OfflineDelivery {
        OfflineDelivery::Broker
    }
}
