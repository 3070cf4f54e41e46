//! The fixed topics beside the layouts: those the observer reads, and those it notifies users on.
//!
//! Owns the table of control topics (`protocol.md`, section 2) and the table of notification topics
//! (section 4). Which of them are in use is decided in `topic_map`.

use strum::VariantArray;

use crate::protocol::template::{Names, Side, Template};
use crate::protocol::topic::TopicName;

/// A topic that is read besides the outgoing paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub(super) enum ControlTopic {
    Receipt,
    Conversation,
    Archive,
    Presence,
    Block,
    Fetch,
    ConversationsFetch,
    Inject,
    Groups,
}

impl ControlTopic {
    /// The template that is read, and the template on which its sender is told of a refusal.
    ///
    /// A service has no inbox, so it is told nothing. The rejection topic of presence would itself
    /// match the presence filter, so it has none either.
    fn texts(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Receipt => (
                "apps/{app}/users/{user}/messages/{convers_with}/{message_id}/update",
                Some("apps/{app}/users/{user}/messages/{convers_with}/{message_id}/clientrejected"),
            ),
            Self::Conversation => (
                "apps/{app}/users/{user}/conversations/{convers_with}/update",
                Some("apps/{app}/users/{user}/conversations/{convers_with}/clientrejected"),
            ),
            Self::Archive => (
                "apps/{app}/users/{user}/conversations/{convers_with}/archive",
                Some("apps/{app}/users/{user}/conversations/{convers_with}/clientrejected"),
            ),
            Self::Presence => ("apps/{app}/users/{user}/presence/{client_id}", None),
            Self::Block => (
                "apps/{app}/users/{user}/blocked/{other}/update",
                Some("apps/{app}/users/{user}/blocked/{other}/clientrejected"),
            ),
            Self::Fetch => (
                "apps/{app}/users/{user}/inbox/fetch",
                Some("apps/{app}/users/{user}/inbox/clientrejected"),
            ),
            Self::ConversationsFetch => (
                "apps/{app}/users/{user}/conversations/fetch",
                Some("apps/{app}/users/{user}/conversations/clientrejected"),
            ),
            Self::Inject => (
                "apps/observer/{app}/users/{inbox_of}/messages/{convers_with}/delivered",
                None,
            ),
            Self::Groups => ("apps/observer/{app}/groups/update", None),
        }
    }

    /// Whether users write to it. The others are for services.
    pub(super) fn is_for_users(self) -> bool {
        !matches!(self, Self::Inject | Self::Groups)
    }
}

/// A control topic in use, with its templates.
#[derive(Clone, Debug)]
pub(super) struct ControlTemplates {
    pub(super) topic: ControlTopic,
    /// The template of the topics that are read.
    pub(super) read: Template,
    /// The template of the topics on which a sender is told of a refusal.
    pub(super) rejected: Option<Template>,
}

/// Whether the control topics of `protocol.md`, section 2, are served. They need a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// All control topics are read.
    Served,
    /// All control topics but presence are read.
    WithoutPresence,
    /// No control topic is read, only outgoing paths.
    Off,
}

impl Controls {
    /// The templates of the control topics that are served.
    pub(super) fn templates(self) -> Vec<ControlTemplates> {
        let served = ControlTopic::VARIANTS.iter().filter(|topic| match self {
            Self::Served => true,
            Self::WithoutPresence => **topic != ControlTopic::Presence,
            Self::Off => false,
        });
        let templates = served.map(|&topic| {
            let (read, rejected) = topic.texts();
            ControlTemplates {
                topic,
                read: fixed(read),
                rejected: rejected.map(fixed),
            }
        });
        templates.collect()
    }
}

/// What a user is notified of besides messages (`protocol.md`, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, VariantArray)]
pub enum Notification {
    /// A stored message that came in no layout, or in one that is no longer in use.
    Message,
    /// The status of a message changed.
    Receipt,
    /// A conversation of the user changed.
    Conversation,
    /// A conversation of the user's list or archive, which the user has asked for.
    ConversationAdded,
    /// A fetch of conversations ended.
    Conversations,
    /// A conversation left the user's list.
    ConversationDeleted,
    /// A conversation was put into the user's archive.
    ConversationArchived,
    /// A conversation left the user's archive, because of a new message.
    ArchiveDeleted,
    /// The user blocked or unblocked somebody.
    Block,
    /// A fetch ended.
    Inbox,
    /// A group of the user changed.
    Group,
}

impl Notification {
    fn text(self) -> &'static str {
        match self {
            Self::Message => "apps/{app}/users/{user}/messages/{convers_with}/clientadded",
            Self::Receipt => {
                "apps/{app}/users/{user}/messages/{convers_with}/{message_id}/clientupdated"
            }
            Self::Conversation => {
                "apps/{app}/users/{user}/conversations/{convers_with}/clientupdated"
            }
            Self::ConversationAdded => {
                "apps/{app}/users/{user}/conversations/{convers_with}/clientadded"
            }
            Self::Conversations => "apps/{app}/users/{user}/conversations/clientupdated",
            Self::ConversationDeleted => {
                "apps/{app}/users/{user}/conversations/{convers_with}/clientdeleted"
            }
            Self::ConversationArchived => {
                "apps/{app}/users/{user}/archived_conversations/{convers_with}/clientadded"
            }
            Self::ArchiveDeleted => {
                "apps/{app}/users/{user}/archived_conversations/{convers_with}/clientdeleted"
            }
            Self::Block => "apps/{app}/users/{user}/blocked/{other}/clientupdated",
            Self::Inbox => "apps/{app}/users/{user}/inbox/clientupdated",
            Self::Group => "apps/{app}/users/{user}/groups/{group}/clientupdated",
        }
    }
}

/// The templates of all notification topics.
#[derive(Clone, Debug)]
pub(super) struct NotificationTemplates {
    /// In the order of [`Notification::VARIANTS`].
    templates: Vec<Template>,
}

impl NotificationTemplates {
    pub(super) fn new() -> Self {
        let texts = Notification::VARIANTS.iter().map(|what| what.text());
        Self {
            templates: texts.map(fixed).collect(),
        }
    }

    pub(super) fn as_slice(&self) -> &[Template] {
        &self.templates
    }

    pub(super) fn format(&self, what: Notification, names: &Names<'_>) -> TopicName {
        self.templates[what as usize].format(names)
    }
}

/// A template of the tables above.
fn fixed(text: &str) -> Template {
    Template::parse(text, Side::Control).expect("the templates of the tables are sound")
}

#[cfg(test)]
mod tests;
