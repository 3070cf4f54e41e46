//! What a plan asks the store to write down.
//!
//! Owns the list of writes: each states a result, and none asks the store to decide anything.
//! Leaves how they are stored to the store.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::request::Erased;
use crate::protocol::status::Status;
use crate::rules::conversation_row::Patched;
use crate::rules::facts::Absence;

/// One thing to write down. Writing the same again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// A message, once for all its copies. It comes before them.
    Message(NewMessage<'a>),
    /// A copy of a message in a timeline.
    Copy(TimelineCopy<'a>),
    /// The status of a copy is at least this.
    Raise {
        /// The timeline that holds the copy.
        timeline: Timeline<'a>,
        /// The message's id.
        message_id: Cow<'a, str>,
        /// The status.
        status: Status,
    },
    /// A user has patched a conversation.
    Patch(Timeline<'a>, Patched),
    /// A user has archived a conversation.
    Archive(Timeline<'a>),
    /// A client of a user is connected.
    ClientConnected(UserClient<'a>),
    /// A client of a user is not connected any more, or no longer counts.
    ClientGone(UserClient<'a>),
    /// What is noted of a user's absence.
    Absence {
        /// The app.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// The note.
        absence: Absence,
    },
    /// A user (`inbox_of`) blocks another (`convers_with`), or stops blocking them.
    Block(Timeline<'a>, BlockChange),
    /// A device or browser that a user wants to be notified on.
    Instance {
        /// The app.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// What the client calls itself.
        instance: &'a str,
        /// What it says of itself: JSON.
        body: &'a str,
        /// How many the user keeps, the newest.
        keep: usize,
    },
    /// What everybody has with a user or group is gone.
    Erase {
        /// The app.
        app: AppId<'a>,
        /// The user or group.
        convers_with: UserId<'a>,
        /// What of it.
        what: Erased,
    },
    /// A group, as a service made it.
    Group {
        /// The app.
        app: AppId<'a>,
        /// The group's identifier.
        id: &'a str,
        /// The group object: JSON.
        body: Cow<'a, str>,
    },
}

/// A message to store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage<'a> {
    /// The app.
    pub app: AppId<'a>,
    /// The message's id.
    pub id: Cow<'a, str>,
    /// Who wrote it; empty if a service did not say.
    pub sender: Cow<'a, str>,
    /// The user or group it is for.
    pub recipient: &'a str,
    /// The layout it came in; empty for none.
    pub layout: &'a str,
    /// The message without its status, which differs from copy to copy.
    pub body: Body,
}

/// The copy of a message that one timeline holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineCopy<'a> {
    /// The timeline.
    pub timeline: Timeline<'a>,
    /// The message's id.
    pub message_id: Cow<'a, str>,
    /// How far the copy got.
    pub status: Status,
    /// Whether it shows in the list of conversations.
    pub listing: Listing,
}

/// Whether a message shows in the list of conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listing {
    /// It does: it becomes the last message of its conversation.
    Listed,
    /// It does not: its sender asked for that (`attributes.updateconversation`).
    Unlisted,
}

/// One client of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserClient<'a> {
    /// The app.
    pub app: AppId<'a>,
    /// The user.
    pub user: UserId<'a>,
    /// The client identifier.
    pub client: Cow<'a, str>,
}

impl<'a> UserClient<'a> {
    /// The client of that identifier.
    pub fn new(app: AppId<'a>, user: UserId<'a>, client: impl Into<Cow<'a, str>>) -> Self {
        let client = client.into();
        Self { app, user, client }
    }
}
