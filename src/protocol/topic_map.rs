//! The topic map: all topics that the observer reads and writes, proven to never meet.
//!
//! Owns reading a topic name, the filters to subscribe to, and the topics of refusals and
//! notifications. Reading a topic name borrows from it and allocates nothing. What a message at an
//! address leads to is decided in `rules`.

use std::collections::HashSet;

use crate::protocol::address::{Address, Outgoing, ParseError, Timeline};
use crate::protocol::control_topic::{
    ControlTemplates, ControlTopic, Controls, Notification, NotificationTemplates,
};
use crate::protocol::id::{AppId, ClientId, IdError, MessageKey, RawLevel, UserId};
use crate::protocol::layout::{BadApp, Layout, PayloadMode};
use crate::protocol::proof::{self, ProofError};
use crate::protocol::template::{Captures, Names, Template};
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};

/// The layouts, control topics and notification topics in use, proven to neither loop nor overlap.
#[derive(Clone, Debug)]
pub struct TopicMap {
    layouts: Vec<Layout>,
    /// The control topics that are served.
    controls: Vec<ControlTemplates>,
    notifications: NotificationTemplates,
    /// The topics in which RabbitMQ has split an identifier at its `.`: see [`proof`].
    splits: Vec<Template>,
    /// The tenants served; all of them if empty.
    apps: Vec<String>,
}

/// A recipient that is no identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecipient<'a> {
    /// The tenant.
    pub app: AppId<'a>,
    /// Who writes to it.
    pub sender: UserId<'a>,
    /// Where its sender is told.
    pub told_on: TopicName,
    /// The level as it stands in the topic.
    pub recipient: &'a str,
    /// The rule it breaks.
    pub error: IdError,
}

/// Why layouts cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicMapError {
    /// The list of layouts is empty.
    #[error("no layout is enabled")]
    NoLayout,
    /// A tenant to serve (`--app`) is not an identifier.
    #[error(transparent)]
    BadApp(#[from] BadApp),
    /// Two templates meet that must not.
    #[error(transparent)]
    Unsound(#[from] ProofError),
}

impl TopicMap {
    /// Proves the layouts sound together with the control topics.
    ///
    /// `apps` are the tenants served, all of them if empty. `also_published` are topics the
    /// observer publishes to besides those of the layouts, such as the dead-letter topic.
    ///
    /// # Errors
    /// [`TopicMapError::Unsound`] if a topic the observer publishes to matches a filter it
    /// subscribes to, or a topic with permitted identifiers matches two of its filters. The other
    /// variants are about the arguments alone.
    pub fn new(
        layouts: Vec<Layout>,
        apps: Vec<String>,
        also_published: &[TopicName],
        controls: Controls,
    ) -> Result<Self, TopicMapError> {
        if layouts.is_empty() {
            return Err(TopicMapError::NoLayout);
        }
        for app in &apps {
            BadApp::check(app)?;
        }
        let mut map = Self {
            layouts,
            controls: controls.templates(),
            notifications: NotificationTemplates::new(),
            splits: vec![],
            apps,
        };
        let all_read: Vec<Template> = map.templates_read().into_iter().cloned().collect();
        let read: Vec<&Template> = all_read.iter().collect();
        for layout in &mut map.layouts {
            layout.prove_malformed(&read);
        }
        let published = map.templates_published(also_published);
        proof::check_overlaps(&read)?;
        proof::check_loops(&read, &published)?;
        map.splits = proof::split_templates(&read, &published);
        Ok(map)
    }

    pub(super) fn templates_read(&self) -> Vec<&Template> {
        let outgoing = self.layouts.iter().map(Layout::outgoing);
        let controls = self.controls.iter().map(|control| &control.read);
        outgoing.chain(controls).collect()
    }

    fn templates_published(&self, also_published: &[TopicName]) -> Vec<Template> {
        let mut published = vec![];
        for layout in &self.layouts {
            published.extend([layout.inbox().clone(), layout.rejected().clone()]);
            published.extend(layout.malformed().cloned());
        }
        let rejected = self.controls.iter().map(|control| &control.rejected);
        published.extend(rejected.flatten().cloned());
        published.extend_from_slice(self.notifications_in_use());
        published.extend(also_published.iter().map(Template::literal));
        published
    }

    /// The notification templates. Nobody is notified while the control topics are off.
    pub(super) fn notifications_in_use(&self) -> &[Template] {
        if self.controls.is_empty() {
            &[]
        } else {
            self.notifications.as_slice()
        }
    }

    /// The layouts, in the order in which they are tried.
    pub fn iter(&self) -> impl Iterator<Item = &Layout> {
        self.layouts.iter()
    }

    /// Whether presence is read.
    pub fn reads_presence(&self) -> bool {
        let mut controls = self.controls.iter();
        controls.any(|control| control.topic == ControlTopic::Presence)
    }

    /// The control topics that are served.
    pub(super) fn controls(&self) -> &[ControlTemplates] {
        &self.controls
    }

    /// The layout of that name, if it is in use.
    pub fn named(&self, name: &str) -> Option<&Layout> {
        self.layouts.iter().find(|layout| layout.name() == name)
    }

    /// The layout into whose inboxes a topic leads, if the observer writes to such a topic.
    pub fn inbox_layout(&self, topic: &str) -> Option<&Layout> {
        let mut layouts = self.layouts.iter();
        layouts.find(|layout| layout.inbox().captures(topic).is_some())
    }

    /// A topic on which `sender` writes to `recipient`, in a layout whose payloads are JSON objects
    /// and that gives the sender a copy. `None` if no such layout serves the app.
    pub fn outgoing_topic(
        &self,
        app: AppId<'_>,
        sender: UserId<'_>,
        recipient: UserId<'_>,
    ) -> Option<TopicName> {
        let names = Names::of(app, sender, recipient);
        let mut layouts = self
            .layouts
            .iter()
            .filter(|layout| layout.payload() == PayloadMode::Envelope && layout.sender_copy());
        layouts.find_map(|layout| {
            let topic = layout.outgoing().format(&names);
            let address = self.parse(topic.as_str()).ok()?;
            let outgoing = address.outgoing()?;
            let is_same =
                (outgoing.app, outgoing.sender, outgoing.recipient) == (app, sender, recipient);
            is_same.then(|| topic.clone())
        })
    }

    /// The tenants served; all of them if empty.
    pub fn apps(&self) -> &[String] {
        &self.apps
    }

    /// The topic on which the owner of `timeline` is notified of `what`.
    ///
    /// `message_id` is the id of the message concerned, or empty if there is none.
    pub fn notification_topic(
        &self,
        what: Notification,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> TopicName {
        let names = timeline.names();
        self.notifications.format(
            what,
            &Names {
                message_id,
                ..names
            },
        )
    }

    /// The topic on which the sender of `address` is told of a refusal, if there is one.
    pub fn rejected_topic(&self, address: &Address<'_>) -> Option<TopicName> {
        match address {
            Address::Outgoing(outgoing) => Some(outgoing.layout.rejected_topic(
                outgoing.app,
                outgoing.sender,
                outgoing.recipient,
            )),
            Address::Receipt(timeline, message) => {
                self.rejected_control(ControlTopic::Receipt, timeline, message.as_str())
            }
            Address::Conversation(timeline) => {
                self.rejected_control(ControlTopic::Conversation, timeline, "")
            }
            Address::Archive(timeline) => {
                self.rejected_control(ControlTopic::Archive, timeline, "")
            }
            Address::Block(timeline) => self.rejected_control(ControlTopic::Block, timeline, ""),
            Address::Fetch { app, user } => {
                // The template has no level for the other side.
                let timeline = Timeline {
                    app: *app,
                    inbox_of: *user,
                    convers_with: *user,
                };
                self.rejected_control(ControlTopic::Fetch, &timeline, "")
            }
            Address::ConversationsFetch { app, user } => {
                let timeline = Timeline {
                    app: *app,
                    inbox_of: *user,
                    convers_with: *user,
                };
                self.rejected_control(ControlTopic::ConversationsFetch, &timeline, "")
            }
            Address::Presence { .. } | Address::Inject(_) | Address::Groups { .. } => None,
        }
    }

    fn rejected_control(
        &self,
        topic: ControlTopic,
        timeline: &Timeline<'_>,
        message_id: &str,
    ) -> Option<TopicName> {
        let mut controls = self.controls.iter();
        let control = controls.find(|control| control.topic == topic)?;
        let names = timeline.names();
        let template = control.rejected.as_ref()?;
        Some(template.format(&Names {
            message_id,
            ..names
        }))
    }

    /// Whether a topic is one that the observer writes to: for users, or on a refusal.
    pub fn is_published(&self, topic: &str) -> bool {
        let layouts = self.layouts.iter();
        let inboxes = layouts.flat_map(|layout| [layout.inbox(), layout.rejected()]);
        let rejected = self
            .controls
            .iter()
            .filter_map(|control| control.rejected.as_ref());
        let malformed = self.layouts.iter().filter_map(Layout::malformed);
        let published = inboxes.chain(rejected).chain(malformed);
        let mut published = published.chain(self.notifications_in_use());
        published.any(|template| template.captures(topic).is_some())
    }

    /// A filter for everything below each first level of the topics that are read, with and without
    /// a slash before it.
    pub fn roots(&self) -> Vec<TopicFilter> {
        let mut roots = vec![];
        for template in self.templates_read() {
            let text = template.as_str();
            let first = text.trim_start_matches('/').split('/').next();
            let Some(first) = first.filter(|first| !first.starts_with('{')) else {
                continue;
            };
            for root in [format!("{first}/#"), format!("/{first}/#")] {
                let root = TopicFilter::parse(&root).expect("a literal level makes a filter");
                if !roots.contains(&root) {
                    roots.push(root);
                }
            }
        }
        roots
    }

    /// The template with which a topic is read.
    pub(super) fn template_of(&self, topic: &str) -> Option<&Template> {
        let mut read = self.templates_read().into_iter();
        read.find(|template| template.captures(topic).is_some())
    }

    /// Every filter to subscribe to, each once.
    pub fn filters(&self) -> Vec<Subscription> {
        let outgoing = self.layouts.iter().map(|layout| (layout.outgoing(), false));
        // Presence is the one topic whose messages the broker may have stored; on every other
        // topic a retained message is refused.
        let controls = self.controls.iter().map(|control| {
            let retained = control.topic == ControlTopic::Presence;
            (&control.read, retained)
        });
        let apps: Vec<Option<&str>> = match &self.apps[..] {
            [] => vec![None],
            apps => apps.iter().map(|app| Some(app.as_str())).collect(),
        };
        let mut seen = HashSet::new();
        let mut filters = vec![];
        let read = outgoing.chain(controls);
        let read = read.map(|(template, retained)| (template, retained, false));
        let splits = self.splits.iter().map(|split| (split, false, true));
        for (template, retained, is_optional) in read.chain(splits) {
            for app in &apps {
                let filter = template.filter(*app);
                if seen.insert(filter.clone()) {
                    filters.push(Subscription {
                        filter,
                        retained,
                        is_optional,
                    });
                }
            }
        }
        filters
    }

    /// The topics of all these.
    pub fn topics_read(&self) -> Vec<TopicFilter> {
        self.filters().into_iter().map(|read| read.filter).collect()
    }

    /// The filters that an earlier run with other settings may have left in the session.
    ///
    /// These are the filters of all built-in layouts and control topics, for every app, without
    /// those of this map.
    pub fn retired_filters(&self) -> Vec<TopicFilter> {
        let built_in = Layout::BUILT_IN
            .iter()
            .filter_map(|name| Layout::built_in(name))
            .flatten()
            .collect();
        let all = Self::new(built_in, vec![], &[], Controls::Served)
            .expect("the built-in layouts are sound");
        let subscribed = self.filters().into_iter();
        let current: HashSet<TopicFilter> = subscribed.map(|asked| asked.filter).collect();
        let all = all.filters().into_iter().map(|asked| asked.filter);
        all.filter(|filter| !current.contains(filter)).collect()
    }

    /// What a topic name says.
    ///
    /// # Errors
    /// [`ParseError`] says why a message on this topic is refused. If several templates fit, it is
    /// the error of the first.
    pub fn parse<'a>(&'a self, topic: &'a str) -> Result<Address<'a>, ParseError<'a>> {
        let mut first_error = None;
        // The number of levels tells most templates apart, and is cheaper than a comparison.
        let levels = topic.bytes().filter(|byte| *byte == b'/').count() + 1;
        for layout in &self.layouts {
            let Some(found) = layout.outgoing().captures_of(topic, levels) else {
                continue;
            };
            match self.check_outgoing(layout, &found) {
                Ok(outgoing) => return Ok(Address::Outgoing(outgoing)),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        for control in &self.controls {
            let Some(found) = control.read.captures_of(topic, levels) else {
                continue;
            };
            match self.check_control(control.topic, &found) {
                Ok(address) => return Ok(address),
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.unwrap_or_else(|| self.why_unknown(topic, levels)))
    }

    /// What a topic says whose recipient is no identifier, and nothing else is wrong with it. A
    /// refusal of it can be told to its sender.
    pub fn bad_recipient<'a>(&'a self, topic: &'a str) -> Option<BadRecipient<'a>> {
        self.layouts.iter().find_map(|layout| {
            let found = layout.outgoing().captures(topic)?;
            let app = match layout.fixed_app() {
                Some(fixed) => AppId::parse(fixed).ok()?,
                None => app(&found).ok()?,
            };
            if layout.fixed_app().is_none() {
                self.check_served(app).ok()?;
            }
            let sender = UserId::from_level(found.inbox_of).ok()?;
            let error = UserId::from_level(found.convers_with).err()?;
            Some(BadRecipient {
                app,
                sender,
                told_on: layout.malformed()?.format(&Names::of(app, sender, sender)),
                recipient: found.convers_with.as_str(),
                error,
            })
        })
    }

    /// Why no template that is read fits a topic of that many levels.
    fn why_unknown(&self, topic: &str, levels: usize) -> ParseError<'static> {
        let mut splits = self.splits.iter();
        if splits.any(|split| split.captures_of(topic, levels).is_some()) {
            ParseError::SplitId
        } else {
            ParseError::NoLayout
        }
    }

    fn check_outgoing<'a>(
        &self,
        layout: &'a Layout,
        found: &Captures<'a>,
    ) -> Result<Outgoing<'a>, ParseError<'a>> {
        let app = match layout.fixed_app() {
            Some(fixed) => AppId::parse(fixed).map_err(bad("app", fixed))?,
            None => app(found)?,
        };
        let outgoing = Outgoing {
            layout,
            app,
            sender: user("sender", found.inbox_of)?,
            recipient: user("recipient", found.convers_with)?,
        };
        // A layout that names its app serves it, whatever `--app` says.
        if layout.fixed_app().is_none() {
            self.check_served(app)?;
        }
        Ok(outgoing)
    }

    fn check_control<'a>(
        &self,
        topic: ControlTopic,
        found: &Captures<'a>,
    ) -> Result<Address<'a>, ParseError<'a>> {
        let app = app(found)?;
        self.check_served(app)?;
        let owner = || user("user", found.inbox_of);
        let timeline = || {
            Ok(Timeline {
                app,
                inbox_of: owner()?,
                convers_with: user("other user or group", found.convers_with)?,
            })
        };
        Ok(match topic {
            ControlTopic::Receipt => {
                let timeline = timeline()?;
                let id = MessageKey::from_level(found.message_id);
                let id = id.map_err(bad("message id", found.message_id.as_str()))?;
                Address::Receipt(timeline, id)
            }
            ControlTopic::Conversation => Address::Conversation(timeline()?),
            ControlTopic::Archive => Address::Archive(timeline()?),
            ControlTopic::Presence => {
                let user = owner()?;
                let client = ClientId::from_level(found.client_id)
                    .map_err(bad("client id", found.client_id.as_str()))?;
                Address::Presence { app, user, client }
            }
            ControlTopic::Block => Address::Block(timeline()?),
            ControlTopic::Fetch => {
                let user = owner()?;
                Address::Fetch { app, user }
            }
            ControlTopic::ConversationsFetch => {
                let user = owner()?;
                Address::ConversationsFetch { app, user }
            }
            ControlTopic::Inject => Address::Inject(timeline()?),
            ControlTopic::Groups => Address::Groups { app },
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

/// The tenant that a topic names.
fn app<'a>(found: &Captures<'a>) -> Result<AppId<'a>, ParseError<'a>> {
    AppId::from_level(found.app).map_err(bad("app", found.app.as_str()))
}

/// The user or group at one level of a topic. `which` names the level in the error.
fn user<'a>(which: &'static str, level: RawLevel<'a>) -> Result<UserId<'a>, ParseError<'a>> {
    UserId::from_level(level).map_err(bad(which, level.as_str()))
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
