//! Templates: topics with named levels, such as `apps/{app}/users/{sender}/{recipient}/messages`.
//!
//! Owns their syntax, and what is made of them: filters, topic names, the levels found in a topic
//! name, and whether two templates can meet. Which templates there are is decided elsewhere.

use std::fmt;
use std::mem;

use crate::protocol::id::{AppId, ClientId, MessageKey, RawLevel, UserId};
use crate::protocol::topic::{TopicFilter, TopicName};

/// The last level of a topic on which a sender is told of a refusal (`protocol.md`, section 5).
pub const CLIENT_REJECTED: &str = "clientrejected";

/// What stands at a named level. A message on an outgoing path belongs to the timeline of its
/// sender with its recipient, so these are the names of a timeline on every side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// `{app}`.
    App,
    /// `{inbox_of}` or `{user}`; `{sender}` of an outgoing path, `{recipient}` of an inbox.
    InboxOf,
    /// `{convers_with}`, `{other}` or `{group}`; `{recipient}` of an outgoing path, `{sender}` of
    /// an inbox.
    ConversWith,
    /// `{message_id}` of a receipt.
    MessageId,
    /// `{client_id}` of a presence.
    ClientId,
}

impl Name {
    /// Whether a literal level could be an identifier that stands at this name.
    fn permits(self, text: &str) -> bool {
        match self {
            Self::App => AppId::parse(text).is_ok(),
            Self::InboxOf | Self::ConversWith => UserId::parse(text).is_ok(),
            Self::MessageId => MessageKey::parse(text).is_ok(),
            Self::ClientId => ClientId::parse(text).is_ok(),
        }
    }
}

/// One level of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TemplateLevel {
    /// Text that stands in the topic as it is.
    Literal(Box<str>),
    /// An identifier.
    Named(Name),
}

/// What a template is for. It decides which names it may have, and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The topics of a layout that users write to.
    Outgoing,
    /// The topics of a layout that the observer writes to.
    Inbox,
    /// A topic of `protocol.md`, sections 2 and 4.
    Control,
}

impl Side {
    /// What the name in braces means, or `None` if there is no such name on this side.
    fn name(self, spelled: &str) -> Option<Name> {
        Some(match (self, spelled) {
            (_, "app") => Name::App,
            (Self::Outgoing, "sender") => Name::InboxOf,
            (Self::Outgoing, "recipient") => Name::ConversWith,
            (Self::Inbox, "inbox_of" | "recipient") => Name::InboxOf,
            (Self::Inbox, "convers_with" | "sender") => Name::ConversWith,
            (Self::Control, "user" | "inbox_of") => Name::InboxOf,
            (Self::Control, "convers_with" | "other" | "group") => Name::ConversWith,
            (Self::Control, "message_id") => Name::MessageId,
            (Self::Control, "client_id") => Name::ClientId,
            (Self::Outgoing | Self::Inbox | Self::Control, _) => return None,
        })
    }

    /// The names a template of this side may have, for an error text.
    fn allowed(self) -> &'static str {
        match self {
            Self::Outgoing | Self::Control => "{app}, {sender}, {recipient}",
            Self::Inbox => "{app}, {inbox_of} or {recipient}, {convers_with} or {sender}",
        }
    }

    /// The names that a template of this side has exactly once, and how an error text spells them.
    fn needed(self) -> &'static [(Name, &'static str)] {
        match self {
            Self::Outgoing => &[(Name::InboxOf, "sender"), (Name::ConversWith, "recipient")],
            Self::Inbox => &[
                (Name::InboxOf, "inbox_of"),
                (Name::ConversWith, "convers_with"),
            ],
            Self::Control => &[],
        }
    }
}

/// Why a text is not a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A level in braces is not one of the names this side knows.
    #[error("template {template:?}: {{{name}}} is not a level it can have ({allowed})")]
    UnknownName {
        /// The template as written.
        template: String,
        /// The name in braces.
        name: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// A level is neither a name in braces nor plain text.
    #[error(
        "template {template:?}: \
         level {level:?} may not hold wildcards, braces or control characters"
    )]
    BadLevel {
        /// The template as written.
        template: String,
        /// The level at fault.
        level: String,
    },
    /// A name does not stand there exactly once (`{app}`: at most once).
    #[error("template {template:?}: {{{name}}} stands {times} times in it, not once")]
    Times {
        /// The template as written.
        template: String,
        /// The name.
        name: &'static str,
        /// How often it was found.
        times: usize,
    },
    /// The last level of an inbox template is a name. Refusals replace this level, so it must be
    /// plain text.
    #[error(
        "template {template:?}: its last level must be plain text, \
         because refusals are sent with {CLIENT_REJECTED:?} in its place"
    )]
    LastLevel {
        /// The template as written.
        template: String,
    },
}

/// A topic with named levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    levels: Vec<TemplateLevel>,
    pattern: Pattern,
}

/// The levels of a template in the form in which a topic is compared with them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    /// Each name with the text before it, slashes included.
    names: Vec<(Box<str>, Name)>,
    /// The text behind the last name.
    tail: Box<str>,
}

impl Pattern {
    fn new(levels: &[TemplateLevel]) -> Self {
        let (mut names, mut text) = (vec![], String::new());
        for (at, level) in levels.iter().enumerate() {
            if at > 0 {
                text.push('/');
            }
            match level {
                TemplateLevel::Literal(literal) => text.push_str(literal),
                TemplateLevel::Named(name) => names.push((mem::take(&mut text).into(), *name)),
            }
        }
        Self {
            names,
            tail: text.into(),
        }
    }
}

impl Template {
    fn new(text: String, levels: Vec<TemplateLevel>) -> Self {
        Self {
            pattern: Pattern::new(&levels),
            text,
            levels,
        }
    }

    /// The template of a single topic, without names.
    pub(crate) fn literal(topic: &TopicName) -> Self {
        let levels = topic.as_str().split('/');
        let levels = levels.map(|level| TemplateLevel::Literal(level.into()));
        Self::new(topic.as_str().to_owned(), levels.collect())
    }

    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] names the template and the rule it breaks.
    pub(crate) fn parse(text: &str, side: Side) -> Result<Self, TemplateError> {
        let levels = text
            .split('/')
            .map(|level| parse_level(text, level, side))
            .collect::<Result<Vec<_>, _>>()?;
        let template = Self::new(text.to_owned(), levels);
        let wrong_times = |name, times| TemplateError::Times {
            template: text.to_owned(),
            name,
            times,
        };
        for &(name, spelled) in side.needed() {
            match template.count(name) {
                1 => {}
                times => return Err(wrong_times(spelled, times)),
            }
        }
        match template.count(Name::App) {
            0 | 1 => {}
            times => return Err(wrong_times("app", times)),
        }
        let last = template.levels.last();
        if side == Side::Inbox && !matches!(last, Some(TemplateLevel::Literal(_))) {
            return Err(TemplateError::LastLevel {
                template: text.to_owned(),
            });
        }
        Ok(template)
    }

    /// The template as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn levels(&self) -> &[TemplateLevel] {
        &self.levels
    }

    fn count(&self, name: Name) -> usize {
        let levels = self.levels.iter();
        let named = levels.filter(|level| **level == TemplateLevel::Named(name));
        named.count()
    }

    /// Whether `{app}` stands in it.
    pub(crate) fn has_app(&self) -> bool {
        self.count(Name::App) > 0
    }

    /// Whether any name stands in it.
    pub(crate) fn has_names(&self) -> bool {
        !self.pattern.names.is_empty()
    }

    /// The filter of this template: `app` at `{app}` if it is given, `+` at every other name.
    pub(crate) fn filter(&self, app: Option<&str>) -> TopicFilter {
        let levels = self.levels.iter().map(|level| match level {
            TemplateLevel::Literal(text) => text,
            TemplateLevel::Named(Name::App) => app.unwrap_or("+"),
            TemplateLevel::Named(_) => "+",
        });
        let levels: Vec<&str> = levels.collect();
        TopicFilter::parse(&levels.join("/")).expect("a checked template makes a filter")
    }

    /// This template with one more level after `name`, or `None` if it has no such name.
    ///
    /// RabbitMQ turns a `.` in an identifier into such a level.
    pub(crate) fn split_at(&self, name: Name) -> Option<Self> {
        let named = TemplateLevel::Named(name);
        let at = self.levels.iter().position(|level| *level == named)?;
        let mut levels = self.levels.clone();
        levels.insert(at, named);
        let text = format!("{} with a \".\" in an identifier", self.text);
        Some(Self::new(text, levels))
    }

    /// This template with another last level.
    pub(crate) fn with_last(&self, last: &str) -> Self {
        let mut levels = self.levels.clone();
        *levels.last_mut().expect("a template has a level") = TemplateLevel::Literal(last.into());
        let cut = self.text.rfind('/').map_or(0, |at| at + 1);
        Self::new(format!("{}{last}", &self.text[..cut]), levels)
    }

    /// The topic `last` right below the level that says whose inbox it is; `None` if the other side
    /// stands before that level.
    pub(crate) fn below_inbox(&self, last: &str) -> Option<Self> {
        let owner = TemplateLevel::Named(Name::InboxOf);
        let at = self.levels.iter().position(|level| *level == owner)?;
        let mut levels = self.levels[..=at].to_vec();
        if levels.contains(&TemplateLevel::Named(Name::ConversWith)) {
            return None;
        }
        levels.push(TemplateLevel::Literal(last.into()));
        let path: Vec<&str> = self.text.split('/').take(at + 1).collect();
        Some(Self::new(format!("{}/{last}", path.join("/")), levels))
    }

    /// Whether some topic with permitted identifiers fits both templates.
    pub(crate) fn meets(&self, other: &Self) -> bool {
        use TemplateLevel::{Literal, Named};
        let mut pairs = self.levels.iter().zip(&other.levels);
        self.levels.len() == other.levels.len()
            && pairs.all(|pair| match pair {
                (Literal(one), Literal(other)) => one == other,
                (Named(name), Literal(text)) | (Literal(text), Named(name)) => name.permits(text),
                (Named(_), Named(_)) => true,
            })
    }

    /// The topic name with these identifiers at the template's names.
    pub(crate) fn format(&self, names: &Names<'_>) -> TopicName {
        let mut topic = String::with_capacity(
            self.text.len()
                + names.app.as_str().len()
                + names.inbox_of.len()
                + names.convers_with.len()
                + names.message_id.len(),
        );
        for (before, name) in &self.pattern.names {
            topic.push_str(before);
            topic.push_str(match name {
                Name::App => names.app.as_str(),
                Name::InboxOf => names.inbox_of,
                Name::ConversWith => names.convers_with,
                Name::MessageId => names.message_id,
                // The observer writes to no topic with a client identifier.
                Name::ClientId => "",
            });
        }
        topic.push_str(&self.pattern.tail);
        TopicName::from_checked(topic)
    }

    /// The levels of `topic` that stand at this template's names, if the other levels are equal.
    pub(crate) fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
        let mut found = Captures::default();
        // The end is compared first, because templates differ there most.
        let mut rest = topic.strip_suffix(&*self.pattern.tail)?;
        for (before, name) in &self.pattern.names {
            let (level, behind) = RawLevel::head(rest.strip_prefix(&**before)?);
            rest = behind;
            match name {
                Name::App => found.app = level,
                Name::InboxOf => found.inbox_of = level,
                Name::ConversWith => found.convers_with = level,
                Name::MessageId => found.message_id = level,
                Name::ClientId => found.client_id = level,
            }
        }
        rest.is_empty().then_some(found)
    }

    /// [`captures`](Self::captures) for a caller who has counted the levels of `topic`.
    pub(crate) fn captures_of<'t>(&self, topic: &'t str, levels: usize) -> Option<Captures<'t>> {
        if self.levels.len() == levels {
            self.captures(topic)
        } else {
            None
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads one level of `template`.
fn parse_level(template: &str, level: &str, side: Side) -> Result<TemplateLevel, TemplateError> {
    let braced = level.strip_prefix('{');
    if let Some(name) = braced.and_then(|rest| rest.strip_suffix('}')) {
        return match side.name(name) {
            Some(name) => Ok(TemplateLevel::Named(name)),
            None => Err(TemplateError::UnknownName {
                template: template.to_owned(),
                name: name.to_owned(),
                allowed: side.allowed(),
            }),
        };
    }
    if level.contains(['+', '#', '{', '}']) || level.chars().any(char::is_control) {
        return Err(TemplateError::BadLevel {
            template: template.to_owned(),
            level: level.to_owned(),
        });
    }
    Ok(TemplateLevel::Literal(level.into()))
}

/// The levels of a topic name that stand at a template's names, not checked yet. A name that the
/// template does not have is empty.
#[derive(Default)]
pub(crate) struct Captures<'t> {
    pub(crate) app: RawLevel<'t>,
    pub(crate) inbox_of: RawLevel<'t>,
    pub(crate) convers_with: RawLevel<'t>,
    pub(crate) message_id: RawLevel<'t>,
    pub(crate) client_id: RawLevel<'t>,
}

/// The identifiers that stand at a template's names in a topic that is written. All of them have
/// been checked; a name that the template does not have is ignored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    pub(crate) app: AppId<'a>,
    pub(crate) inbox_of: &'a str,
    pub(crate) convers_with: &'a str,
    pub(crate) message_id: &'a str,
}

impl<'a> Names<'a> {
    /// The names of a topic without a message id.
    pub(crate) fn of(app: AppId<'a>, inbox_of: UserId<'a>, convers_with: UserId<'a>) -> Self {
        Self {
            app,
            inbox_of: inbox_of.as_str(),
            convers_with: convers_with.as_str(),
            message_id: "",
        }
    }
}
