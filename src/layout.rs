//! Layouts: where a message comes in, where it goes, and the proof that the two never meet.
//!
//! A layout is a pair of topic templates with the same named levels (`protocol.md`, section 1). Parsing a topic borrows from
//! it and allocates nothing.

use std::fmt;

use crate::id::{self, AppId, IdError, UserId};
use crate::topic::{TopicFilter, TopicName};

/// The level a refused message is answered on, in place of the inbox template's last (`protocol.md`, section 5).
pub const CLIENT_REJECTED: &str = "clientrejected";

/// A named level of a template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    App,
    /// `{sender}` on the way in.
    Sender,
    /// `{recipient}` on the way in.
    Recipient,
    /// `{inbox_of}`, or `{recipient}` on the way out.
    InboxOf,
    /// `{convers_with}`, or `{sender}` on the way out.
    ConversWith,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Level {
    Literal(Box<str>),
    Named(Name),
}

/// Which of a layout's two templates is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Outgoing,
    Inbox,
}

/// A topic with named levels, such as `apps/{app}/users/{sender}/{recipient}/messages/outgoing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    levels: Vec<Level>,
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
    fn of(text: String, levels: Vec<Level>) -> Self {
        let pattern = Pattern::from(&*levels);
        Self {
            text,
            levels,
            pattern,
        }
    }

    fn parse(text: &str, side: Side) -> Result<Self, LayoutError> {
        let levels = text
            .split('/')
            .map(|level| Self::parse_level(text, level, side))
            .collect::<Result<Vec<_>, _>>()?;
        let template = Self::of(text.to_owned(), levels);
        let needed: [(Name, &'static str); 2] = match side {
            Side::Outgoing => [(Name::Sender, "sender"), (Name::Recipient, "recipient")],
            Side::Inbox => [
                (Name::InboxOf, "inbox_of"),
                (Name::ConversWith, "convers_with"),
            ],
        };
        for (name, spelled) in needed {
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
                (Side::Outgoing | Side::Inbox, _) => {
                    return Err(LayoutError::UnknownName {
                        template: template.to_owned(),
                        name: name.to_owned(),
                        allowed: match side {
                            Side::Outgoing => "{app}, {sender}, {recipient}",
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

    fn count(&self, name: Name) -> usize {
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
    fn filter(&self, app: Option<&str>) -> TopicFilter {
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
    fn split_at(&self, name: Name) -> Self {
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
    fn meets(&self, other: &Self) -> bool {
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

    /// The levels of `topic` that stand at this template's names, if the rest is equal. The end is compared first: it differs most.
    fn captures<'t>(&self, topic: &'t str) -> Option<Captures<'t>> {
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
        }
    }
}

#[derive(Default)]
struct Captures<'t> {
    app: id::Level<'t>,
    sender: id::Level<'t>,
    recipient: id::Level<'t>,
}

/// What the observer makes of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadMode {
    /// The same bytes, whatever they are.
    Verbatim,
    /// A JSON object, of which the observer owns some fields (`protocol.md`, section 3).
    Envelope,
}

/// One way in and out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    name: String,
    outgoing: Template,
    inbox: Template,
    payload: PayloadMode,
    sender_copy: bool,
    app: Option<String>,
}

impl Layout {
    /// A layout from its templates. `app` is the tenant of a layout whose outgoing template has no `{app}`.
    ///
    /// # Errors
    /// [`LayoutError`], naming the template and the rule it breaks.
    pub fn new(
        name: &str,
        outgoing: &str,
        inbox: &str,
        payload: PayloadMode,
        sender_copy: bool,
        app: Option<&str>,
    ) -> Result<Self, LayoutError> {
        let layout = Self {
            name: name.to_owned(),
            outgoing: Template::parse(outgoing, Side::Outgoing)?,
            inbox: Template::parse(inbox, Side::Inbox)?,
            payload,
            sender_copy,
            app: app.map(str::to_owned),
        };
        if let Some(app) = app {
            AppId::parse(app).map_err(|error| LayoutError::BadApp {
                app: app.to_owned(),
                error,
            })?;
        }
        if app.is_none() && layout.outgoing.count(Name::App) == 0 {
            return Err(LayoutError::NoApp {
                layout: layout.name,
                template: outgoing.to_owned(),
            });
        }
        Ok(layout)
    }

    /// The built-in layouts of that name (`protocol.md`, section 1); `inbox` is two, with and without the leading slash.
    pub fn built_in(name: &str) -> Option<Vec<Self>> {
        use PayloadMode::{Envelope, Verbatim};
        const INBOX_OUT: &str = "/apps/{app}/users/{sender}/{recipient}/messages/outgoing";
        const INBOX_IN: &str = "/apps/{app}/users/{recipient}/{sender}/messages/clientadded";
        const CHAT21_IN: &str = "apps/{app}/users/{inbox_of}/messages/{convers_with}/clientadded";
        let pairs: &[(&str, &str, PayloadMode, bool)] = match name {
            "inbox" => &[
                (INBOX_OUT, INBOX_IN, Verbatim, false),
                (
                    INBOX_OUT.split_at(1).1,
                    INBOX_IN.split_at(1).1,
                    Verbatim,
                    false,
                ),
            ],
            "chat21" => &[(
                "apps/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing",
                CHAT21_IN,
                Envelope,
                true,
            )],
            "chat21-v1" => &[(
                "apps/{app}/users/{sender}/messages/{recipient}/outgoing",
                CHAT21_IN,
                Envelope,
                true,
            )],
            _ => return None,
        };
        let layout = |&(outgoing, inbox, payload, copy): &(&str, &str, _, _)| {
            Self::new(name, outgoing, inbox, payload, copy, None)
        };
        Some(
            pairs
                .iter()
                .map(layout)
                .collect::<Result<_, _>>()
                .expect("the built-in layouts are sound"),
        )
    }

    /// The names of the built-in layouts.
    pub const BUILT_IN: [&str; 3] = ["inbox", "chat21", "chat21-v1"];

    /// The layout's name, as in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What becomes of a payload.
    pub fn payload(&self) -> PayloadMode {
        self.payload
    }

    /// Whether the sender's own timeline gets a copy.
    pub fn sender_copy(&self) -> bool {
        self.sender_copy
    }

    /// The tenant of a layout whose topics do not name one.
    pub fn fixed_app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// The template users write to.
    pub fn outgoing(&self) -> &Template {
        &self.outgoing
    }

    /// The template the observer writes to.
    pub fn inbox(&self) -> &Template {
        &self.inbox
    }

    /// The topic on which `inbox_of` receives what concerns `convers_with`.
    pub fn inbox_topic(
        &self,
        app: AppId<'_>,
        inbox_of: UserId<'_>,
        convers_with: UserId<'_>,
    ) -> TopicName {
        self.format_inbox(app, inbox_of, convers_with, None)
    }

    /// The topic on which `sender` is told that his message to `recipient` was refused.
    pub fn rejected_topic(
        &self,
        app: AppId<'_>,
        sender: UserId<'_>,
        recipient: UserId<'_>,
    ) -> TopicName {
        self.format_inbox(app, sender, recipient, Some(CLIENT_REJECTED))
    }

    fn format_inbox(
        &self,
        app: AppId<'_>,
        inbox_of: UserId<'_>,
        convers_with: UserId<'_>,
        last: Option<&str>,
    ) -> TopicName {
        let levels = &self.inbox.levels;
        let mut topic = String::with_capacity(
            self.inbox.text.len()
                + app.as_str().len()
                + inbox_of.as_str().len()
                + convers_with.as_str().len(),
        );
        for (at, level) in levels.iter().enumerate() {
            if at > 0 {
                topic.push('/');
            }
            topic.push_str(match level {
                Level::Literal(text) if at + 1 == levels.len() => last.unwrap_or(text),
                Level::Literal(text) => text,
                Level::Named(Name::App) => app.as_str(),
                Level::Named(Name::InboxOf | Name::Recipient) => inbox_of.as_str(),
                Level::Named(Name::ConversWith | Name::Sender) => convers_with.as_str(),
            });
        }
        TopicName::from_checked(topic)
    }

    /// The inbox template with its last level replaced, for the proof.
    fn rejected_template(&self) -> Template {
        let mut levels = self.inbox.levels.clone();
        *levels.last_mut().expect("a template has a level") =
            Level::Literal(CLIENT_REJECTED.into());
        let cut = self.inbox.text.rfind('/').map_or(0, |at| at + 1);
        Template::of(
            format!("{}{CLIENT_REJECTED}", &self.inbox.text[..cut]),
            levels,
        )
    }
}

/// What a topic on an outgoing path says: `sender` writes to `recipient`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inbound<'a> {
    /// The layout the message came in, in which it is answered.
    pub layout: &'a Layout,
    /// The tenant.
    pub app: AppId<'a>,
    /// Who wrote it; the broker's permissions vouch for that.
    pub sender: UserId<'a>,
    /// Whom it is for.
    pub recipient: UserId<'a>,
}

/// Why a topic that came in is no outgoing path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError<'t> {
    /// It has the form of no enabled layout.
    #[error("the topic fits no enabled layout")]
    NoLayout,
    /// One of its identifiers is none.
    #[error("the topic's {which} {level:?} {error}")]
    BadId {
        /// `app`, `sender` or `recipient`.
        which: &'static str,
        /// The level as it stands in the topic.
        level: &'t str,
        /// The rule it breaks.
        error: IdError,
    },
    /// It has one level more than a layout has: what RabbitMQ makes of a `.` in an identifier.
    #[error(
        "the topic has one level too many: on RabbitMQ a \".\" in an identifier becomes a level break"
    )]
    SplitId,
    /// A tenant this observer was told not to serve.
    #[error("app {0:?} is not one of those served (--app)")]
    OtherApp(&'t str),
}

/// The layouts in use, proven to neither loop nor overlap.
#[derive(Clone, Debug)]
pub struct Layouts {
    layouts: Vec<Layout>,
    /// What RabbitMQ makes of a `.` in an identifier of those layouts: subscribed to, so that it can be refused and counted.
    splits: Vec<Template>,
    /// The tenants served; all if empty.
    apps: Vec<String>,
}

impl Layouts {
    /// Proves the layouts sound together: no topic the observer publishes to (`also_published` among them) matches a filter it
    /// subscribes to, and no topic with permitted identifiers matches two of its filters.
    ///
    /// # Errors
    /// [`LayoutError::Loop`] or [`LayoutError::Overlap`] with the two templates; [`LayoutError::None`] for an empty list;
    /// [`LayoutError::BadApp`] for an app that is no identifier.
    pub fn new(
        layouts: Vec<Layout>,
        apps: Vec<String>,
        also_published: &[TopicName],
    ) -> Result<Self, LayoutError> {
        if layouts.is_empty() {
            return Err(LayoutError::None);
        }
        for app in &apps {
            AppId::parse(app).map_err(|error| LayoutError::BadApp {
                app: app.clone(),
                error,
            })?;
        }
        for (at, first) in layouts.iter().enumerate() {
            for second in &layouts[at + 1..] {
                if first.outgoing.meets(&second.outgoing) {
                    return Err(LayoutError::Overlap {
                        first: first.outgoing.text.clone(),
                        second: second.outgoing.text.clone(),
                    });
                }
            }
        }
        let fixed = also_published.iter().map(|topic| {
            let levels = topic
                .as_str()
                .split('/')
                .map(|level| Level::Literal(level.into()));
            Template::of(topic.as_str().to_owned(), levels.collect())
        });
        let published: Vec<Template> = layouts
            .iter()
            .flat_map(|layout| [layout.inbox.clone(), layout.rejected_template()])
            .chain(fixed)
            .collect();
        for layout in &layouts {
            // The broker goes by the filter, which knows nothing of reserved words: a fixed topic must not match it at all.
            let filter = layout.outgoing.filter(None);
            if let Some(looping) = published.iter().find(|t| {
                t.meets(&layout.outgoing) || (!t.text.contains('{') && filter.matches(&t.text))
            }) {
                return Err(LayoutError::Loop {
                    published: looping.text.clone(),
                    subscribed: layout.outgoing.text.clone(),
                });
            }
        }
        let mut splits: Vec<Template> = Vec::new();
        for layout in &layouts {
            for split in [
                layout.outgoing.split_at(Name::Sender),
                layout.outgoing.split_at(Name::Recipient),
            ] {
                let taken = layouts
                    .iter()
                    .map(|l| &l.outgoing)
                    .chain(&published)
                    .chain(&splits)
                    .any(|other| other.meets(&split));
                if !taken {
                    splits.push(split);
                }
            }
        }
        Ok(Self {
            layouts,
            splits,
            apps,
        })
    }

    /// The layouts, in the order they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Layout> {
        self.layouts.iter()
    }

    /// Every filter to subscribe to.
    pub fn filters(&self) -> Vec<TopicFilter> {
        let templates = self
            .layouts
            .iter()
            .map(|layout| &layout.outgoing)
            .chain(&self.splits);
        let mut filters: Vec<_> = templates
            .flat_map(|template| {
                let apps: Vec<Option<&str>> = if self.apps.is_empty() {
                    vec![None]
                } else {
                    self.apps.iter().map(|app| Some(app.as_str())).collect()
                };
                apps.into_iter().map(|app| template.filter(app))
            })
            .collect();
        let mut seen = std::collections::HashSet::new();
        filters.retain(|filter| seen.insert(filter.clone()));
        filters
    }

    /// The filters of all built-in layouts, for every app, that are not among these: an earlier run with other settings may have left
    /// them in the session.
    pub fn retired_filters(&self) -> Vec<TopicFilter> {
        let built_in = Layout::BUILT_IN
            .iter()
            .filter_map(|name| Layout::built_in(name))
            .flatten()
            .collect();
        let all = Self::new(built_in, vec![], &[])
            .expect("the built-in layouts are sound")
            .filters();
        let current = self.filters();
        all.into_iter()
            .filter(|filter| !current.contains(filter))
            .collect()
    }

    /// The layout into whose inboxes a topic leads, if it is one the observer writes to.
    pub fn inbox_layout(&self, topic: &str) -> Option<&Layout> {
        self.layouts
            .iter()
            .find(|layout| layout.inbox.captures(topic).is_some())
    }

    /// What a topic name says.
    ///
    /// # Errors
    /// [`ParseError`], for what is to be refused.
    pub fn parse<'a>(&'a self, topic: &'a str) -> Result<Inbound<'a>, ParseError<'a>> {
        let mut first_error = None;
        // How many levels it has tells most templates apart.
        let levels = topic.bytes().filter(|byte| *byte == b'/').count() + 1;
        for layout in self
            .layouts
            .iter()
            .filter(|layout| layout.outgoing.levels.len() == levels)
        {
            let Some(found) = layout.outgoing.captures(topic) else {
                continue;
            };
            match self.check(layout, &found) {
                Ok(inbound) => return Ok(inbound),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| {
            let mut splits = self
                .splits
                .iter()
                .filter(|split| split.levels.len() == levels);
            if splits.any(|split| split.captures(topic).is_some()) {
                ParseError::SplitId
            } else {
                ParseError::NoLayout
            }
        }))
    }

    fn check<'a>(
        &self,
        layout: &'a Layout,
        found: &Captures<'a>,
    ) -> Result<Inbound<'a>, ParseError<'a>> {
        let bad = |which, level| {
            move |error| ParseError::BadId {
                which,
                level,
                error,
            }
        };
        let app = match &layout.app {
            Some(fixed) => AppId::parse(fixed).map_err(bad("app", fixed))?,
            None => AppId::from_level(found.app).map_err(bad("app", found.app.as_str()))?,
        };
        let Captures {
            sender, recipient, ..
        } = *found;
        let inbound = Inbound {
            layout,
            app,
            sender: UserId::from_level(sender).map_err(bad("sender", sender.as_str()))?,
            recipient: UserId::from_level(recipient)
                .map_err(bad("recipient", recipient.as_str()))?,
        };
        let app = app.as_str();
        if !self.apps.is_empty()
            && layout.app.is_none()
            && !self.apps.iter().any(|served| served == app)
        {
            return Err(ParseError::OtherApp(app));
        }
        Ok(inbound)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests;
