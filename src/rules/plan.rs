//! What a plan asks for: publishes to be made, and what is to be written down before.

use std::borrow::Cow;

use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::Timeline;
use crate::protocol::message::{Body, Status};
use crate::rules::conversation::Patched;

/// Something to write down. Writing the same again changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write<'a> {
    /// A message, once for all its copies.
    Message(NewMessage<'a>),
    /// A copy in a timeline.
    Copy(Copy<'a>),
    /// A copy got at least so far.
    Raise {
        /// Whose copy.
        timeline: Timeline<'a>,
        /// Of which message.
        message_id: &'a str,
        /// How far.
        status: Status,
    },
    /// A user has patched a conversation.
    Patch(Timeline<'a>, Patched),
    /// A user has archived a conversation.
    Archive(Timeline<'a>),
    /// A user's client has come or gone.
    Presence {
        /// The tenant.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// His client.
        client: &'a str,
        /// Whether it is there.
        connected: bool,
    },
    /// A user has been given what he missed: unless the acknowledgement of what brought it about says so.
    Redelivered {
        /// The tenant.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
    },
    /// A user blocks another, or no longer.
    Block(Timeline<'a>, bool),
    /// A group, as a service made it.
    Group {
        /// The tenant.
        app: AppId<'a>,
        /// The group.
        id: &'a str,
        /// The group object.
        body: &'a str,
    },
}

/// A message to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage<'a> {
    /// The tenant.
    pub app: AppId<'a>,
    /// Its id.
    pub id: Cow<'a, str>,
    /// Who wrote it; empty if a service did not say.
    pub sender: Cow<'a, str>,
    /// Whom it is for.
    pub recipient: &'a str,
    /// The layout it came in; empty for none.
    pub layout: &'a str,
    /// All but its status.
    pub body: Body,
}

/// One timeline's copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy<'a> {
    /// Which timeline.
    pub timeline: Timeline<'a>,
    /// Of which message.
    pub message_id: Cow<'a, str>,
    /// How far it got.
    pub status: Status,
    /// Whether it shows in the list of conversations.
    pub listed: bool,
}
