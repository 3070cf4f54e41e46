//! The address of a message that came in: what its topic name says.
//!
//! Owns one variant for each row of `protocol.md`, section 2, and the reasons why a topic name has
//! no address. Topic names are read in `topic_map`; payloads are read elsewhere.

use strum::{IntoStaticStr, VariantArray};

use crate::protocol::id::{AppId, ClientId, IdError, MessageKey, UserId};
use crate::protocol::layout::Layout;
use crate::protocol::template::Names;

/// What a topic on an outgoing path says: `sender` writes to `recipient`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The layout the message came in. The message is answered in the same layout.
    pub layout: &'a Layout,
    /// The tenant.
    pub app: AppId<'a>,
    /// Who wrote the message. The broker's permissions vouch for it.
    pub sender: UserId<'a>,
    /// Who the message is for, a user or a group.
    pub recipient: UserId<'a>,
}

/// A conversation as one of its two sides has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline<'a> {
    /// The tenant.
    pub app: AppId<'a>,
    /// Whose timeline it is.
    pub inbox_of: UserId<'a>,
    /// The other side, a user or a group.
    pub convers_with: UserId<'a>,
}

impl<'a> Timeline<'a> {
    /// What stands at the names of a template for this timeline.
    pub(crate) fn names(&self) -> Names<'a> {
        Names::of(self.app, self.inbox_of, self.convers_with)
    }
}

/// What the topic name of a message that came in says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A user writes to a user or a group.
    Outgoing(Outgoing<'a>),
    /// The owner of a timeline says how far a message in it got.
    Receipt(Timeline<'a>, MessageKey<'a>),
    /// The owner of a timeline changes fields of its conversation row.
    Conversation(Timeline<'a>),
    /// The owner of a timeline archives its conversation.
    Archive(Timeline<'a>),
    /// A client of a user connects or disconnects.
    Presence {
        /// The tenant.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// The user's client.
        client: ClientId<'a>,
    },
    /// A user (`inbox_of`) blocks or unblocks another (`convers_with`).
    Block(Timeline<'a>),
    /// A user asks for stored messages.
    Fetch {
        /// The tenant.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
    },
    /// A user asks for their conversations.
    ConversationsFetch {
        /// The tenant.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
    },
    /// A service puts a message into one timeline.
    Inject(Timeline<'a>),
    /// A service stores a group.
    Groups {
        /// The tenant.
        app: AppId<'a>,
    },
}

/// The kind of a message that came in, as metrics and traces name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Kind {
    /// A message from a user to a user or a group, in any layout.
    Message,
    /// A receipt for a message.
    Receipt,
    /// A patch of a conversation.
    Conversation,
    /// A conversation to archive.
    Archive,
    /// A client that connects or disconnects.
    Presence,
    /// A block, or its end.
    Block,
    /// A request for stored messages.
    Fetch,
    /// A message that a service puts into a timeline.
    Inject,
    /// A group that a service stores.
    Group,
    /// A message whose topic has no address.
    Unknown,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The word for the kind in metrics and traces.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

impl<'a> Address<'a> {
    /// The kind of the message.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Outgoing(_) => Kind::Message,
            Self::Receipt(..) => Kind::Receipt,
            Self::Conversation(_) => Kind::Conversation,
            Self::Archive(_) => Kind::Archive,
            Self::Presence { .. } => Kind::Presence,
            Self::Block(_) => Kind::Block,
            Self::Fetch { .. } | Self::ConversationsFetch { .. } => Kind::Fetch,
            Self::Inject(_) => Kind::Inject,
            Self::Groups { .. } => Kind::Group,
        }
    }

    /// The user or group it concerns besides its sender, or an empty text.
    pub fn other_side(&self) -> &'a str {
        match self {
            Self::Outgoing(outgoing) => outgoing.recipient.as_str(),
            Self::Receipt(timeline, _)
            | Self::Conversation(timeline)
            | Self::Archive(timeline)
            | Self::Block(timeline)
            | Self::Inject(timeline) => timeline.convers_with.as_str(),
            Self::Presence { .. }
            | Self::Fetch { .. }
            | Self::ConversationsFetch { .. }
            | Self::Groups { .. } => "",
        }
    }

    /// The tenant.
    pub fn app(&self) -> AppId<'a> {
        match self {
            Self::Outgoing(outgoing) => outgoing.app,
            Self::Receipt(timeline, _)
            | Self::Conversation(timeline)
            | Self::Archive(timeline)
            | Self::Block(timeline)
            | Self::Inject(timeline) => timeline.app,
            Self::Presence { app, .. }
            | Self::Fetch { app, .. }
            | Self::ConversationsFetch { app, .. }
            | Self::Groups { app } => *app,
        }
    }

    /// The user who sent it, by the broker's permissions, or `None` if a service did.
    pub fn sender(&self) -> Option<UserId<'a>> {
        match self {
            Self::Outgoing(outgoing) => Some(outgoing.sender),
            Self::Receipt(timeline, _)
            | Self::Conversation(timeline)
            | Self::Archive(timeline)
            | Self::Block(timeline) => Some(timeline.inbox_of),
            Self::Presence { user, .. }
            | Self::Fetch { user, .. }
            | Self::ConversationsFetch { user, .. } => Some(*user),
            Self::Inject(_) | Self::Groups { .. } => None,
        }
    }

    /// The outgoing path, if the message came on one.
    pub fn outgoing(&self) -> Option<&Outgoing<'a>> {
        match self {
            Self::Outgoing(outgoing) => Some(outgoing),
            Self::Receipt(..)
            | Self::Conversation(_)
            | Self::Archive(_)
            | Self::Presence { .. }
            | Self::Block(_)
            | Self::Fetch { .. }
            | Self::ConversationsFetch { .. }
            | Self::Inject(_)
            | Self::Groups { .. } => None,
        }
    }
}

/// Why a topic name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError<'t> {
    /// It fits no template in use.
    #[error("the topic fits no enabled layout")]
    NoLayout,
    /// It fits a template, but one of its levels is not an identifier.
    #[error("the topic's {which} {level:?} {error}")]
    BadId {
        /// `app`, `sender`, `user` and so on.
        which: &'static str,
        /// The level as it stands in the topic.
        level: &'t str,
        /// The rule it breaks.
        error: IdError,
    },
    /// It has one level more than a template: RabbitMQ turns a `.` in an identifier into a slash.
    #[error(
        "the topic has one level too many: \
         on RabbitMQ a \".\" in an identifier becomes a level break"
    )]
    SplitId,
    /// It belongs to a tenant that this observer does not serve.
    #[error("app {0:?} is not one of those served (--app)")]
    OtherApp(&'t str),
}
