//! Layouts: where a message comes in, where it goes, and the proof that the two never meet.
//!
//! A layout is a pair of topic templates with the same named levels (`protocol.md`, section 1). Beside the outgoing paths stand
//! the control topics of section 2, and what is told in answer (section 4). Parsing a topic borrows from it and allocates nothing.

use crate::protocol::id::{AppId, ClientId, IdError, MessageKey, UserId};
pub use crate::protocol::template::{CLIENT_REJECTED, LayoutError, Template};
use crate::protocol::template::{Captures, Level, Name, Names, Side};
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};

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
    rejected: Template,
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
        let inbox = Template::parse(inbox, Side::Inbox)?;
        let layout = Self {
            name: name.to_owned(),
            outgoing: Template::parse(outgoing, Side::Outgoing)?,
            rejected: inbox.with_last(CLIENT_REJECTED),
            inbox,
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
        if app.is_none() && !layout.outgoing.has(Name::App) {
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
        self.inbox.format(&names(app, inbox_of, convers_with))
    }

    /// The topic on which `sender` is told that his message to `recipient` was refused.
    pub fn rejected_topic(
        &self,
        app: AppId<'_>,
        sender: UserId<'_>,
        recipient: UserId<'_>,
    ) -> TopicName {
        self.rejected.format(&names(app, sender, recipient))
    }
}

fn user_path<'a>(template: &'a Template, app: PathLevel<'a>) -> Vec<PathLevel<'a>> {
    let levels = template.levels.iter();
    let path = levels.map(|level| match level {
        Level::Literal(text) => PathLevel::Text(text),
        Level::Named(Name::App) => app,
        Level::Named(Name::Sender | Name::InboxOf) => PathLevel::User,
        Level::Named(Name::Recipient | Name::ConversWith | Name::Message | Name::Client) => {
            PathLevel::Any
        }
    });
    path.collect()
}

fn names<'a>(app: AppId<'a>, inbox_of: UserId<'a>, convers_with: UserId<'a>) -> Names<'a> {
    Names {
        app,
        inbox_of: inbox_of.as_str(),
        convers_with: convers_with.as_str(),
        message: "",
    }
}

/// A topic read besides the outgoing paths (`protocol.md`, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Receipt,
    Conversation,
    Archive,
    Presence,
    Block,
    Fetch,
    Inject,
    Groups,
}

/// What is read, and where its sender is told of a refusal: a service has no inbox, and `presence/clientrejected` would be a presence.
const CONTROLS: [(Control, &str, Option<&str>); 8] = [
    (
        Control::Receipt,
        "apps/{app}/users/{user}/messages/{convers_with}/{message_id}/update",
        Some("apps/{app}/users/{user}/messages/{convers_with}/{message_id}/clientrejected"),
    ),
    (
        Control::Conversation,
        "apps/{app}/users/{user}/conversations/{convers_with}/update",
        Some("apps/{app}/users/{user}/conversations/{convers_with}/clientrejected"),
    ),
    (
        Control::Archive,
        "apps/{app}/users/{user}/conversations/{convers_with}/archive",
        Some("apps/{app}/users/{user}/conversations/{convers_with}/clientrejected"),
    ),
    (
        Control::Presence,
        "apps/{app}/users/{user}/presence/{client_id}",
        None,
    ),
    (
        Control::Block,
        "apps/{app}/users/{user}/blocked/{other}/update",
        Some("apps/{app}/users/{user}/blocked/{other}/clientrejected"),
    ),
    (
        Control::Fetch,
        "apps/{app}/users/{user}/inbox/fetch",
        Some("apps/{app}/users/{user}/inbox/clientrejected"),
    ),
    (
        Control::Inject,
        "apps/observer/{app}/users/{inbox_of}/messages/{convers_with}/delivered",
        None,
    ),
    (Control::Groups, "apps/observer/{app}/groups/update", None),
];

/// What the observer tells a user besides messages (`protocol.md`, section 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// A message that came in no layout, or in one that is no longer in use.
    Message,
    /// A message of his got further.
    Receipt,
    /// A conversation of his has changed.
    Conversation,
    /// A conversation of his has left the list.
    ConversationDeleted,
    /// And stands in the archive now.
    ConversationArchived,
    /// Whom he blocks has changed.
    Block,
    /// The end of a fetch.
    Inbox,
    /// A group of his has changed.
    Group,
}

const TOLD: [(Notification, &str); 8] = [
    (
        Notification::Message,
        "apps/{app}/users/{user}/messages/{convers_with}/clientadded",
    ),
    (
        Notification::Receipt,
        "apps/{app}/users/{user}/messages/{convers_with}/{message_id}/clientupdated",
    ),
    (
        Notification::Conversation,
        "apps/{app}/users/{user}/conversations/{convers_with}/clientupdated",
    ),
    (
        Notification::ConversationDeleted,
        "apps/{app}/users/{user}/conversations/{convers_with}/clientdeleted",
    ),
    (
        Notification::ConversationArchived,
        "apps/{app}/users/{user}/archived_conversations/{convers_with}/clientadded",
    ),
    (
        Notification::Block,
        "apps/{app}/users/{user}/blocked/{other}/clientupdated",
    ),
    (
        Notification::Inbox,
        "apps/{app}/users/{user}/inbox/clientupdated",
    ),
    (
        Notification::Group,
        "apps/{app}/users/{user}/groups/{group}/clientupdated",
    ),
];

fn control(text: &str) -> Template {
    Template::parse(text, Side::Control).expect("the control topics are sound")
}

/// What a topic on an outgoing path says: `sender` writes to `recipient`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// The layout the message came in, in which it is answered.
    pub layout: &'a Layout,
    /// The tenant.
    pub app: AppId<'a>,
    /// Who wrote it; the broker's permissions vouch for that.
    pub sender: UserId<'a>,
    /// Whom it is for.
    pub recipient: UserId<'a>,
}

/// A conversation as one of its two sides has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeline<'a> {
    /// The tenant.
    pub app: AppId<'a>,
    /// Whose it is.
    pub inbox_of: UserId<'a>,
    /// The other side, a user or a group.
    pub convers_with: UserId<'a>,
}

/// What a topic that came in says: one variant for each row of `protocol.md`, section 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address<'a> {
    /// A message.
    Outgoing(Outgoing<'a>),
    /// The owner of a timeline says how far a message in it got.
    Receipt(Timeline<'a>, MessageKey<'a>),
    /// He changes what he keeps of the conversation.
    Conversation(Timeline<'a>),
    /// He archives it.
    Archive(Timeline<'a>),
    /// A user's client comes or goes.
    Presence {
        /// The tenant.
        app: AppId<'a>,
        /// The user.
        user: UserId<'a>,
        /// His client.
        client: ClientId<'a>,
    },
    /// A user blocks another (`convers_with`), or no longer.
    Block(Timeline<'a>),
    /// A user asks for stored messages.
    Fetch {
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

/// What kind of message something that came in is, whatever its layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// From a user to a user or a group.
    Message,
    /// A receipt.
    Receipt,
    /// A change to a conversation.
    Conversation,
    /// A conversation to be archived.
    Archive,
    /// A client comes or goes.
    Presence,
    /// A block.
    Block,
    /// A fetch.
    Fetch,
    /// A message that a service puts into a timeline.
    Inject,
    /// A group that a service stores.
    Group,
    /// Its topic says nothing.
    Unknown,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::Message,
        Self::Receipt,
        Self::Conversation,
        Self::Archive,
        Self::Presence,
        Self::Block,
        Self::Fetch,
        Self::Inject,
        Self::Group,
        Self::Unknown,
    ];

    /// The word for it in metrics and traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Message => "message",
            Self::Receipt => "receipt",
            Self::Conversation => "conversation",
            Self::Archive => "archive",
            Self::Presence => "presence",
            Self::Block => "block",
            Self::Fetch => "fetch",
            Self::Inject => "inject",
            Self::Group => "group",
            Self::Unknown => "unknown",
        }
    }
}

impl<'a> Address<'a> {
    /// What kind of message it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Outgoing(_) => Kind::Message,
            Self::Receipt(..) => Kind::Receipt,
            Self::Conversation(_) => Kind::Conversation,
            Self::Archive(_) => Kind::Archive,
            Self::Presence { .. } => Kind::Presence,
            Self::Block(_) => Kind::Block,
            Self::Fetch { .. } => Kind::Fetch,
            Self::Inject(_) => Kind::Inject,
            Self::Groups { .. } => Kind::Group,
        }
    }

    /// Whom it concerns besides its sender, a user or a group; empty if nobody.
    pub fn other_side(&self) -> &'a str {
        match self {
            Self::Outgoing(outgoing) => outgoing.recipient.as_str(),
            Self::Receipt(timeline, _)
            | Self::Conversation(timeline)
            | Self::Archive(timeline)
            | Self::Block(timeline)
            | Self::Inject(timeline) => timeline.convers_with.as_str(),
            Self::Presence { .. } | Self::Fetch { .. } | Self::Groups { .. } => "",
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
            Self::Presence { app, .. } | Self::Fetch { app, .. } | Self::Groups { app } => *app,
        }
    }

    /// The user who says it, by the broker's permissions; `None`, if it is a service.
    pub fn sender(&self) -> Option<UserId<'a>> {
        match self {
            Self::Outgoing(outgoing) => Some(outgoing.sender),
            Self::Receipt(timeline, _)
            | Self::Conversation(timeline)
            | Self::Archive(timeline)
            | Self::Block(timeline) => Some(timeline.inbox_of),
            Self::Presence { user, .. } | Self::Fetch { user, .. } => Some(*user),
            Self::Inject(_) | Self::Groups { .. } => None,
        }
    }

    /// The outgoing path, if it is one.
    pub fn outgoing(&self) -> Option<&Outgoing<'a>> {
        match self {
            Self::Outgoing(outgoing) => Some(outgoing),
            Self::Receipt(..)
            | Self::Conversation(_)
            | Self::Archive(_)
            | Self::Presence { .. }
            | Self::Block(_)
            | Self::Fetch { .. }
            | Self::Inject(_)
            | Self::Groups { .. } => None,
        }
    }
}

/// A level of the paths that belong to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathLevel<'a> {
    /// This text.
    Text(&'a str),
    /// His identifier.
    User,
    /// Any one level.
    Any,
}

/// What a broker has to permit a user, and nothing else (`protocol.md`, section 7).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPaths<'a> {
    /// Topics he may write to.
    pub writes: Vec<Vec<PathLevel<'a>>>,
    /// Paths below which he may read everything.
    pub reads: Vec<Vec<PathLevel<'a>>>,
}

/// Why a topic that came in says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError<'t> {
    /// It has the form of no enabled layout.
    #[error("the topic fits no enabled layout")]
    NoLayout,
    /// One of its identifiers is none.
    #[error("the topic's {which} {level:?} {error}")]
    BadId {
        /// `app`, `sender`, `user` and so on.
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

/// Whether the control topics of `protocol.md`, section 2, are served beside the layouts: they need a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Controls {
    /// They are.
    Served,
    /// They are, but that clients come and go is nothing to the observer.
    WithoutPresence,
    /// Nothing is read but outgoing paths.
    Off,
}

/// The layouts in use, proven to neither loop nor overlap.
#[derive(Clone, Debug)]
pub struct TopicMap {
    layouts: Vec<Layout>,
    /// The control topics, each with where its refusal is told; empty if they are off.
    controls: Vec<(Control, Template, Option<Template>)>,
    /// In the order of [`TOLD`].
    told: Vec<Template>,
    /// What RabbitMQ makes of a `.` in an identifier of those layouts: subscribed to, so that it can be refused and counted.
    splits: Vec<Template>,
    /// The tenants served; all if empty.
    apps: Vec<String>,
}

impl TopicMap {
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
        controls: Controls,
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
        let controls: Vec<_> = match controls {
            Controls::Served | Controls::WithoutPresence => CONTROLS
                .iter()
                .filter(|(what, ..)| controls == Controls::Served || *what != Control::Presence)
                .map(|(what, read, rejected)| (*what, control(read), rejected.map(control)))
                .collect(),
            Controls::Off => vec![],
        };
        let told: Vec<_> = TOLD.iter().map(|(_, text)| control(text)).collect();
        let read: Vec<&Template> = layouts
            .iter()
            .map(|layout| &layout.outgoing)
            .chain(controls.iter().map(|(_, read, _)| read))
            .collect();
        for (at, first) in read.iter().enumerate() {
            for second in &read[at + 1..] {
                if first.meets(second) {
                    return Err(LayoutError::Overlap {
                        first: first.text.clone(),
                        second: second.text.clone(),
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
        let told_now = if controls.is_empty() { &[][..] } else { &told };
        let published: Vec<Template> = layouts
            .iter()
            .flat_map(|layout| [layout.inbox.clone(), layout.rejected.clone()])
            .chain(
                controls
                    .iter()
                    .filter_map(|(_, _, rejected)| rejected.clone()),
            )
            .chain(told_now.iter().cloned())
            .chain(fixed)
            .collect();
        for template in &read {
            // The broker goes by the filter, which knows nothing of reserved words: a fixed topic must not match it at all.
            let filter = template.filter(None);
            if let Some(looping) = published
                .iter()
                .find(|t| t.meets(template) || (!t.text.contains('{') && filter.matches(&t.text)))
            {
                return Err(LayoutError::Loop {
                    published: looping.text.clone(),
                    subscribed: template.text.clone(),
                });
            }
        }
        let mut splits: Vec<Template> = Vec::new();
        for template in &read {
            for name in [
                Name::Sender,
                Name::Recipient,
                Name::InboxOf,
                Name::ConversWith,
            ] {
                if !template.has(name) {
                    continue;
                }
                let split = template.split_at(name);
                let taken = read
                    .iter()
                    .copied()
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
            controls,
            told,
            splits,
            apps,
        })
    }

    /// The layouts, in the order they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Layout> {
        self.layouts.iter()
    }

    /// The layout of that name, if it is in use.
    pub fn named(&self, name: &str) -> Option<&Layout> {
        self.layouts.iter().find(|layout| layout.name == name)
    }

    /// Where a user is told `what`. `message` is the id of the message concerned, if one is.
    pub fn told(&self, what: Notification, timeline: &Timeline<'_>, message: &str) -> TopicName {
        let at = TOLD.iter().position(|(listed, _)| *listed == what);
        self.told[at.expect("the table is complete")].format(&Names {
            message,
            ..names(timeline.app, timeline.inbox_of, timeline.convers_with)
        })
    }

    /// Where the sender of `address` is told that it was refused, if he has an inbox.
    pub fn rejected(&self, address: &Address<'_>) -> Option<TopicName> {
        let on = |what, timeline: &Timeline<'_>, message| {
            let (_, _, rejected) = self.controls.iter().find(|(listed, ..)| *listed == what)?;
            Some(rejected.as_ref()?.format(&Names {
                message,
                ..names(timeline.app, timeline.inbox_of, timeline.convers_with)
            }))
        };
        match address {
            Address::Outgoing(outgoing) => Some(outgoing.layout.rejected_topic(
                outgoing.app,
                outgoing.sender,
                outgoing.recipient,
            )),
            Address::Receipt(timeline, message) => on(Control::Receipt, timeline, message.as_str()),
            Address::Conversation(timeline) | Address::Archive(timeline) => {
                on(Control::Conversation, timeline, "")
            }
            Address::Block(timeline) => on(Control::Block, timeline, ""),
            Address::Fetch { app, user } => {
                let timeline = Timeline {
                    app: *app,
                    inbox_of: *user,
                    convers_with: *user,
                };
                on(Control::Fetch, &timeline, "")
            }
            Address::Presence { .. } | Address::Inject(_) | Address::Groups { .. } => None,
        }
    }

    /// The tenants served; none for all.
    pub fn apps(&self) -> &[String] {
        &self.apps
    }

    /// What belongs to each user, in every layout and app served.
    pub fn user_paths(&self) -> UserPaths<'_> {
        if self.apps.is_empty() {
            return self.user_paths_in(PathLevel::Any, |_| true);
        }
        let mut all = UserPaths::default();
        for app in &self.apps {
            let in_app = self.user_paths_in(PathLevel::Text(app), |_| true);
            for (all, paths) in [
                (&mut all.writes, in_app.writes),
                (&mut all.reads, in_app.reads),
            ] {
                all.extend(paths);
                all.dedup();
            }
        }
        all
    }

    /// What belongs to a user of one app, in every layout.
    pub fn user_paths_of<'a>(&'a self, app: &'a str) -> UserPaths<'a> {
        self.user_paths_in(PathLevel::Text(app), |fixed| {
            fixed.is_none_or(|fixed| fixed == app)
        })
    }

    fn user_paths_in<'a>(
        &'a self,
        app: PathLevel<'a>,
        concerns: impl Fn(Option<&str>) -> bool,
    ) -> UserPaths<'a> {
        let of_users = |control: &&(Control, Template, Option<Template>)| {
            !matches!(control.0, Control::Inject | Control::Groups)
        };
        let layouts: Vec<&Layout> = self
            .layouts
            .iter()
            .filter(|layout| concerns(layout.fixed_app()))
            .collect();
        let mut paths = UserPaths::default();
        let outgoing = layouts.iter().map(|layout| &layout.outgoing);
        let controls = self.controls.iter().filter(of_users);
        let writes = outgoing.chain(controls.map(|(_, read, _)| read));
        paths
            .writes
            .extend(writes.map(|template| user_path(template, app)));
        let inboxes = layouts.iter().map(|layout| &layout.inbox);
        // What is told goes there, too.
        let told = self.told.iter().filter(|_| !self.controls.is_empty());
        for template in inboxes.chain(told) {
            let mut read = user_path(template, app);
            let user = read.iter().position(|level| *level == PathLevel::User);
            read.truncate(user.map_or(0, |at| at + 1));
            if !paths.reads.contains(&read) {
                paths.reads.push(read);
            }
        }
        paths
    }

    /// Every filter to subscribe to.
    pub fn filters(&self) -> Vec<Subscription> {
        let read = self.layouts.iter().map(|layout| (&layout.outgoing, false));
        // A client's presence may be kept by the broker; anything else that is, is refused.
        let controls = self
            .controls
            .iter()
            .map(|(what, read, _)| (read, *what == Control::Presence));
        let splits = self.splits.iter().map(|split| (split, false));
        let mut filters: Vec<_> = read
            .chain(controls)
            .chain(splits)
            .flat_map(|(template, retained)| {
                let apps: Vec<Option<&str>> = if self.apps.is_empty() {
                    vec![None]
                } else {
                    self.apps.iter().map(|app| Some(app.as_str())).collect()
                };
                apps.into_iter().map(move |app| Subscription {
                    filter: template.filter(app),
                    retained,
                })
            })
            .collect();
        let mut seen = std::collections::HashSet::new();
        filters.retain(|subscription| seen.insert(subscription.filter.clone()));
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
        let filters = |layouts: &Self| {
            let subscriptions = layouts.filters().into_iter();
            subscriptions
                .map(|subscription| subscription.filter)
                .collect::<Vec<_>>()
        };
        let all = Self::new(built_in, vec![], &[], Controls::Served)
            .expect("the built-in layouts are sound");
        let current = filters(self);
        let all = filters(&all).into_iter();
        all.filter(|filter| !current.contains(filter)).collect()
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
    pub fn parse<'a>(&'a self, topic: &'a str) -> Result<Address<'a>, ParseError<'a>> {
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
            match self.check_outgoing(layout, &found) {
                Ok(outgoing) => return Ok(Address::Outgoing(outgoing)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        for (what, read, _) in self
            .controls
            .iter()
            .filter(|(_, read, _)| read.levels.len() == levels)
        {
            let Some(found) = read.captures(topic) else {
                continue;
            };
            match self.check_control(*what, &found) {
                Ok(address) => return Ok(address),
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

    fn check_outgoing<'a>(
        &self,
        layout: &'a Layout,
        found: &Captures<'a>,
    ) -> Result<Outgoing<'a>, ParseError<'a>> {
        let app = match &layout.app {
            Some(fixed) => AppId::parse(fixed).map_err(bad("app", fixed))?,
            None => AppId::from_level(found.app).map_err(bad("app", found.app.as_str()))?,
        };
        let outgoing = Outgoing {
            layout,
            app,
            sender: UserId::from_level(found.sender)
                .map_err(bad("sender", found.sender.as_str()))?,
            recipient: UserId::from_level(found.recipient)
                .map_err(bad("recipient", found.recipient.as_str()))?,
        };
        if layout.app.is_none() {
            self.check_served(app)?;
        }
        Ok(outgoing)
    }

    fn check_control<'a>(
        &self,
        what: Control,
        found: &Captures<'a>,
    ) -> Result<Address<'a>, ParseError<'a>> {
        let app = AppId::from_level(found.app).map_err(bad("app", found.app.as_str()))?;
        self.check_served(app)?;
        let user =
            || UserId::from_level(found.recipient).map_err(bad("user", found.recipient.as_str()));
        let timeline = || {
            Ok(Timeline {
                app,
                inbox_of: user()?,
                convers_with: UserId::from_level(found.sender)
                    .map_err(bad("other user or group", found.sender.as_str()))?,
            })
        };
        Ok(match what {
            Control::Receipt => Address::Receipt(
                timeline()?,
                MessageKey::from_level(found.other)
                    .map_err(bad("message id", found.other.as_str()))?,
            ),
            Control::Conversation => Address::Conversation(timeline()?),
            Control::Archive => Address::Archive(timeline()?),
            Control::Presence => Address::Presence {
                app,
                user: user()?,
                client: ClientId::from_level(found.other)
                    .map_err(bad("client id", found.other.as_str()))?,
            },
            Control::Block => Address::Block(timeline()?),
            Control::Fetch => Address::Fetch { app, user: user()? },
            Control::Inject => Address::Inject(timeline()?),
            Control::Groups => Address::Groups { app },
        })
    }

    fn check_served<'a>(&self, app: AppId<'a>) -> Result<(), ParseError<'a>> {
        let app = app.as_str();
        if self.apps.is_empty() || self.apps.iter().any(|served| served == app) {
            Ok(())
        } else {
            Err(ParseError::OtherApp(app))
        }
    }
}

fn bad<'a>(which: &'static str, level: &'a str) -> impl FnOnce(IdError) -> ParseError<'a> {
    move |error| ParseError::BadId {
        which,
        level,
        error,
    }
}

#[cfg(test)]
mod tests;
