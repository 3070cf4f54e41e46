//! Templates: topics with named levels, from which filters are made, topics formatted, and topics read back.

use std::fmt;

use crate::protocol::id::{self, AppId, ClientId, IdError, MessageKey, UserId};
use crate::protocol::topic::{TopicFilter, TopicName};

/// The level a refused message is answered on, in place of the inbox template's last (`protocol.md`, section 5).
pub const CLIENT_REJECTED: &str = "clientrejected";

/// A named level of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    App,
    /// `{sender}` on the way in.
    Sender,
    /// `{recipient}` on the way in.
    Recipient,
    /// `{inbox_of}`, or `{recipient}` on the way out; `{user}` where it is his own topic.
    InboxOf,
    /// `{convers_with}`, or `{sender}` on the way out.
    ConversWith,
    /// `{message_id}` of a receipt.
    Message,
    /// `{client_id}` of a presence.
    Client,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Literal(Box<str>),
    Named(Name),
}

/// Which of a layout's two templates is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Outgoing,
    Inbox,
    /// A topic of `protocol.md`, sections 2 and 4.
    Control,
}

/// A topic with named levels, such as `apps/{app}/users/{sender}/{recipient}/messages/outgoing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub(crate) text: String,
    pub(crate) levels: Vec<Level>,
    pattern: Pattern,
}

/// The levels once more, as a topic is compared with them: each name with the text before it, slashes and all, and the text behind
/// the last name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    names: Vec<(Box<str>, Name)>,
    tail: Box<str>,
}

impl From<&[Level]> for Pattern {
    fn from(levels: &[Level]) -> Self {
        let (mut names, mut text) = (vec![], String::new());
        for (at, level) in levels.iter().enumerate() {
            if at > 0 {
                text.push('/');
            }
            match level {
                Level::Literal(literal) => text.push_str(literal),
                Level::Named(name) => names.push((std::mem::take(&mut text).into(), *name)),
            }
        }
        Self {
            names,
            tail: text.into(),
        }
    }
}

/// Why a set of layouts cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// A level in braces that is not one of the names this side knows.
    #[error("template {template:?}: {{{name}}} is not a level it can have ({allowed})")]
    UnknownName {
        /// The template as written.
        template: String,
        /// The name in braces.
        name: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// A level that is neither a name in braces nor plain text.
    #[error(
        "template {template:?}: level {level:?} may not hold wildcards, braces or control characters"
    )]
    BadLevel {
        /// The template as written.
        template: String,
        /// The level at fault.
        level: String,
    },
    /// A name that must be there exactly once (`{app}`: at most once).
    #[error("template {template:?}: {{{name}}} stands {times} times in it, not once")]
    Times {
        /// The template as written.
        template: String,
        /// The name.
        name: &'static str,
        /// How often it was found.
        times: usize,
    },
    /// The last level of an inbox template is replaced in refusals, so it must be plain text.
    #[error(
        "template {template:?}: its last level must be plain text, because refusals are sent with {CLIENT_REJECTED:?} in its place"
    )]
    LastLevel {
        /// The template as written.
        template: String,
    },
    /// No `{app}` in the outgoing template, and no app named beside it.
    #[error(
        "layout {layout:?}: template {template:?} has no {{app}}, so the layout must name its app (`app = \"…\"`)"
    )]
    NoApp {
        /// The layout's name.
        layout: String,
        /// The outgoing template.
        template: String,
    },
    /// The app named for a layout or by `--app` is no identifier.
    #[error("app {app:?} {error}")]
    BadApp {
        /// The app as written.
        app: String,
        /// The rule it breaks.
        error: IdError,
    },
    /// What is published there would be received again, for ever.
    #[error(
        "loop: what is published to {published:?} would be received again through {subscribed:?}"
    )]
    Loop {
        /// The template or topic published to.
        published: String,
        /// The outgoing template whose filter matches it.
        subscribed: String,
    },
    /// A broker may deliver such a topic twice, and which layout is meant is unclear.
    #[error("overlap: one topic can match both {first:?} and {second:?}")]
    Overlap {
        /// One outgoing template.
        first: String,
        /// The other.
        second: String,
    },
    /// Nothing to subscribe to.
    #[error("no layout is enabled")]
    None,
}

impl Template {
    pub(crate) fn of(text: String, levels: Vec<Level>) -> Self {
        let pattern = Pattern::from(&*levels);
        Self {
            text,
            levels,
            pattern,
        }
    }

    pub(crate) fn parse(text: &str, side: Side) -> Result<Self, LayoutError> {
        let levels = text
            .split('/')
            .map(|level| Self::parse_level(text, level, side))
            .collect::<Result<Vec<_>, _>>()?;
        let template = Self::of(text.to_owned(), levels);
        let needed: &[(Name, &'static str)] = match side {
            Side::Outgoing => &[(Name::Sender, "sender"), (Name::Recipient, "recipient")],
            Side::Inbox => &[
                (Name::InboxOf, "inbox_of"),
                (Name::ConversWith, "convers_with"),
            ],
            Side::Control => &[],
        };
        for &(name, spelled) in needed {
            let times = template.count(name);
            if times != 1 {
                return Err(LayoutError::Times {
                    template: text.to_owned(),
                    name: spelled,
                    times,
                });
            }
        }
        let times = template.count(Name::App);
        if times > 1 {
            return Err(LayoutError::Times {
                template: text.to_owned(),
                name: "app",
                times,
            });
        }
        if side == Side::Inbox && !matches!(template.levels.last(), Some(Level::Literal(_))) {
            return Err(LayoutError::LastLevel {
                template: text.to_owned(),
            });
        }
        Ok(template)
    }

    fn parse_level(template: &str, level: &str, side: Side) -> Result<Level, LayoutError> {
        if let Some(name) = level
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            return Ok(Level::Named(match (side, name) {
                (_, "app") => Name::App,
                (Side::Outgoing, "sender") => Name::Sender,
                (Side::Outgoing, "recipient") => Name::Recipient,
                (Side::Inbox, "inbox_of" | "recipient") => Name::InboxOf,
                (Side::Inbox, "convers_with" | "sender") => Name::ConversWith,
                (Side::Control, "user" | "inbox_of") => Name::InboxOf,
                (Side::Control, "convers_with" | "other" | "group") => Name::ConversWith,
                (Side::Control, "message_id") => Name::Message,
                (Side::Control, "client_id") => Name::Client,
                (Side::Outgoing | Side::Inbox | Side::Control, _) => {
                    return Err(LayoutError::UnknownName {
                        template: template.to_owned(),
                        name: name.to_owned(),
                        allowed: match side {
                            Side::Outgoing | Side::Control => "{app}, {sender}, {recipient}",
                            Side::Inbox => {
                                "{app}, {inbox_of} or {recipient}, {convers_with} or {sender}"
                            }
                        },
                    });
                }
            }));
        }
        if level.contains(['+', '#', '{', '}']) || level.chars().any(char::is_control) {
            return Err(LayoutError::BadLevel {
                template: template.to_owned(),
                level: level.to_owned(),
            });
        }
        Ok(Level::Literal(level.into()))
    }

    pub(crate) fn count(&self, name: Name) -> usize {
        self.levels
            .iter()
            .filter(|level| **level == Level::Named(name))
            .count()
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The filter of this template: `{app}` as `app` if that is given, every other name as `+`.
    pub(crate) fn filter(&self, app: Option<&str>) -> TopicFilter {
        let levels: Vec<&str> = self
            .levels
            .iter()
            .map(|level| match level {
                Level::Literal(text) => text,
                Level::Named(Name::App) => app.unwrap_or("+"),
                Level::Named(_) => "+",
            })
            .collect();
        TopicFilter::parse(&levels.join("/")).expect("a checked template makes a filter")
    }

    /// This template with one more level after `name`: what RabbitMQ makes of a `.` in that identifier.
    pub(crate) fn split_at(&self, name: Name) -> Self {
        let at = self
            .levels
            .iter()
            .position(|level| *level == Level::Named(name))
            .expect("checked when parsed")
            + 1;
        let mut levels = self.levels.clone();
        levels.insert(at, Level::Named(name));
        Self::of(
            format!("{} with a \".\" in an identifier", self.text),
            levels,
        )
    }

    /// Whether some topic with permitted identifiers fits both templates.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        self.levels.len() == other.levels.len()
            && self
                .levels
                .iter()
                .zip(&other.levels)
                .all(|pair| match pair {
                    (Level::Literal(a), Level::Literal(b)) => a == b,
                    (Level::Named(name), Level::Literal(text))
                    | (Level::Literal(text), Level::Named(name)) => name.permits(text),
                    (Level::Named(_), Level::Named(_)) => true,
                })
    }

    /// The topic with these names, which are checked identifiers.
    pub(crate) fn format(&self, names: &Names<'_>) -> TopicName {
        let mut topic = String::with_capacity(
            self.text.len()
                + names.app.as_str().len()
                + names.inbox_of.len()
                + names.convers_with.len()
                + names.message.len(),
        );
        for (before, name) in &self.pattern.names {
            topic.push_str(before);
            topic.push_str(match name {
                Name::App => names.app.as_str(),
                Name::InboxOf | Name::Recipient => names.inbox_of,
                Name::ConversWith | Name::Sender => names.convers_with,
                Name::Message | Name::Client => names.message,
            });
        }
        topic.push_str(&self.pattern.tail);
        TopicName::from_checked(topic)
    }

    /// This template with another last level.
    pub(crate) fn with_last(&self, last: &str) -> Self {
        let mut levels = self.levels.clone();
        *levels.last_mut().expect("a template has a level") = Level::Literal(last.into());
        let cut = self.text.rfind('/').map_or(0, |at| at + 1);
        Self::of(format!("{}{last}", &self.text[..cut]), levels)
    }

    /// Whether it names a level so.
    pub(crate) fn has(&self, name: Name) -> bool {
        self.count(name) > 0
    }

    /// The levels of `topic` that stand at this template's names, if the rest is equal. The end is compared first: it differs most.
    pub(crate) fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        let mut found = Captures::default();
        let mut rest = topic.strip_suffix(&*self.pattern.tail)?;
        for (before, name) in &self.pattern.names {
            rest = rest.strip_prefix(&**before)?;
            let (level, behind) = id::Level::head(rest);
            rest = behind;
            match name {
                Name::App => found.app = level,
                Name::Sender | Name::ConversWith => found.sender = level,
                Name::Recipient | Name::InboxOf => found.recipient = level,
                Name::Message | Name::Client => found.other = level,
            }
        }
        rest.is_empty().then_some(found)
    }
}

impl Name {
    /// Whether a literal level could be this name's identifier.
    fn permits(self, text: &str) -> bool {
        match self {
            Self::App => AppId::parse(text).is_ok(),
            Self::Sender | Self::Recipient | Self::InboxOf | Self::ConversWith => {
                UserId::parse(text).is_ok()
            }
            Self::Message => MessageKey::parse(text).is_ok(),
            Self::Client => ClientId::parse(text).is_ok(),
        }
    }
}

/// The levels of a topic that stand at a template's names.
#[derive(Default)]
pub(crate) struct Captures<'t> {
    pub(crate) app: id::Level<'t>,
    /// At `{sender}` or `{convers_with}`.
    pub(crate) sender: id::Level<'t>,
    /// At `{recipient}` or `{inbox_of}`.
    pub(crate) recipient: id::Level<'t>,
    /// At `{message_id}` or `{client_id}`.
    pub(crate) other: id::Level<'t>,
}

/// What stands at a template's names when a topic is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) app: AppId<'a>,
    pub(crate) inbox_of: &'a str,
    pub(crate) convers_with: &'a str,
    /// At `{message_id}`.
    pub(crate) message: &'a str,
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
