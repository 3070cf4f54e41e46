//! The paths that belong to a user: what a broker has to permit (`protocol.md`, section 7).
//!
//! Owns the list of those paths as [`PathLevel`]s. How a broker or a token spells them is `auth`'s
//! part.

use crate::protocol::layout::Layout;
use crate::protocol::template::{Name, Template, TemplateLevel};
use crate::protocol::topic_map::TopicMap;

/// A level of the paths that belong to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathLevel<'a> {
    /// This text as it stands.
    Text(&'a str),
    /// The user's own identifier.
    User,
    /// Any one level.
    Any,
}

/// What a broker has to permit a user, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserPaths<'a> {
    /// Topics the user may write to.
    pub writes: Vec<Vec<PathLevel<'a>>>,
    /// Paths below which the user may read everything.
    pub reads: Vec<Vec<PathLevel<'a>>>,
}

impl TopicMap {
    /// What belongs to each user, in every layout and every app served.
    pub fn user_paths(&self) -> UserPaths<'_> {
        if self.apps().is_empty() {
            return UserPaths::new(self, PathLevel::Any, self.iter());
        }
        let mut all = UserPaths::default();
        for app in self.apps() {
            let in_app = UserPaths::new(self, PathLevel::Text(app), self.iter());
            all.writes.extend(in_app.writes);
            all.writes.dedup();
            all.reads.extend(in_app.reads);
            all.reads.dedup();
        }
        all
    }

    /// What belongs to a user of one app, in every layout that serves this app.
    pub fn user_paths_of<'a>(&'a self, app: &'a str) -> UserPaths<'a> {
        let serves_app = |layout: &&Layout| layout.fixed_app().is_none_or(|fixed| fixed == app);
        UserPaths::new(self, PathLevel::Text(app), self.iter().filter(serves_app))
    }
}

impl TopicMap {
    /// The path up to the user's own level, in the template of a topic that is read. What a user of
    /// `app` may write lies below it.
    pub fn write_path<'a>(&'a self, topic: &str, app: &'a str) -> Option<Vec<PathLevel<'a>>> {
        let template = self.template_of(topic)?;
        own_path(template, PathLevel::Text(app))
    }
}

impl Layout {
    /// The path up to the user's own level in the inboxes of this layout: below it a user of `app`
    /// reads.
    pub fn read_path<'a>(&'a self, app: &'a str) -> Option<Vec<PathLevel<'a>>> {
        own_path(self.inbox(), PathLevel::Text(app))
    }
}

/// The path of a template up to the user's own level.
fn own_path<'a>(template: &'a Template, app: PathLevel<'a>) -> Option<Vec<PathLevel<'a>>> {
    let mut path = user_path(template, app);
    let user = path.iter().position(|level| *level == PathLevel::User)?;
    path.truncate(user + 1);
    Some(path)
}

impl<'a> UserPaths<'a> {
    /// The paths in these layouts of `map`, with `app` at each `{app}`.
    fn new(
        map: &'a TopicMap,
        app: PathLevel<'a>,
        layouts: impl Iterator<Item = &'a Layout>,
    ) -> Self {
        let layouts: Vec<&Layout> = layouts.collect();
        let controls = map.controls().iter();
        let controls = controls.filter(|control| control.topic.is_for_users());
        let outgoing = layouts.iter().map(|layout| layout.outgoing());
        let written = outgoing.chain(controls.map(|control| &control.read));
        let inboxes = layouts.iter().map(|layout| layout.inbox());
        let mut paths = Self {
            writes: written.map(|template| user_path(template, app)).collect(),
            reads: vec![],
        };
        for template in inboxes.chain(map.notifications_in_use()) {
            let mut path = user_path(template, app);
            let user = path.iter().position(|level| *level == PathLevel::User);
            path.truncate(user.map_or(0, |at| at + 1));
            if !paths.reads.contains(&path) {
                paths.reads.push(path);
            }
        }
        paths
    }
}

fn user_path<'a>(template: &'a Template, app: PathLevel<'a>) -> Vec<PathLevel<'a>> {
    let levels = template.levels().iter();
    let path = levels.map(|level| match level {
        TemplateLevel::Literal(text) => PathLevel::Text(text),
        TemplateLevel::Named(Name::App) => app,
        TemplateLevel::Named(Name::InboxOf) => PathLevel::User,
        TemplateLevel::Named(Name::ConversWith | Name::MessageId | Name::ClientId) => {
            PathLevel::Any
        }
    });
    path.collect()
}
