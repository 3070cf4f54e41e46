//! What goes to many: the copies of a group message, what a group's members are told, stored messages published again.
//!
//! A group of ten thousand is not made at once, but in steps, each when there is room for it: the payload is held once, and what waits
//! behind a step hardly notices it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::protocol::control::Fetch;
use crate::protocol::group::{GroupUpdate, Users};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::{Notification, Timeline, TopicMap};
use crate::protocol::message::{Body, Status};
use crate::protocol::publish::Publish;
use crate::protocol::template::{Names, Template};
use crate::protocol::time::UnixMillis;
use crate::rules::plan::{Copy, Write};
use crate::rules::webhook_event::{Copied, Event, EventKind};

/// Members, or stored messages, that one step of a fan-out takes: enough to share the cost of a transaction, few enough that what
/// waits behind it does not notice.
pub const STEP: usize = 32;

/// Something that goes to many, or much that goes to one: carried out in steps of [`STEP`], of which each is written down and
/// published before the next is made.
#[derive(Clone, Debug)]
pub struct FanOut {
    app: Box<str>,
    what: Many,
}

#[derive(Clone, Debug)]
enum Many {
    Copies(Copies),
    Notify {
        group: Box<str>,
        users: Users,
        next: usize,
        payload: Bytes,
    },
    History(History),
}

/// The copies of a group message that its members get.
#[derive(Clone, Debug)]
struct Copies {
    group: Box<str>,
    message_id: Box<str>,
    inbox: Arc<Template>,
    users: Users,
    next: usize,
    /// Who is left out: `hiddenFor`, and who blocks the sender.
    without: Users,
    payload: Bytes,
    listed: bool,
    written_at: UnixMillis,
    told_of: bool,
}

/// Stored messages of one user, published again.
#[derive(Clone, Debug)]
struct History {
    user: Box<str>,
    query: PageQuery,
    /// How many more, and what the user is told at the end, if it is a fetch.
    fetch: Option<Fetched>,
}

#[derive(Clone, Copy, Debug)]
struct Fetched {
    left: usize,
    done: usize,
    newest: UnixMillis,
}

/// Which stored messages of a user come next.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// Behind this place in the store.
    pub after: i64,
    /// Up to this one.
    pub last: i64,
    /// Only one conversation's.
    pub convers_with: Option<Box<str>>,
    /// How many, give or take those of the last millisecond.
    pub limit: usize,
}

/// Stored messages of a user, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Stored>,
    /// Where the next page begins.
    pub next: i64,
    /// Whether there is one.
    pub more: bool,
}

/// A stored message, as one of its timelines has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The other side of that timeline.
    pub convers_with: Box<str>,
    /// The layout it came in.
    pub layout: Box<str>,
    /// All but its status.
    pub body: Body,
    /// How far this copy got.
    pub status: Status,
    /// When the observer stored it.
    pub stored_at: UnixMillis,
}

/// One step of a fan-out.
#[derive(Clone, Debug, Default)]
pub struct Step<'a> {
    /// What is published.
    pub publishes: Vec<Publish>,
    /// What is written down before.
    pub writes: Vec<Write<'a>>,
    /// What webhooks are told of.
    pub events: Vec<Event>,
    /// What is left to do; nothing at the end.
    pub rest: Option<FanOut>,
}

/// What all copies of a group message have in common.
#[derive(Clone, Debug)]
pub struct GroupMessage<'a> {
    /// The group.
    pub group: UserId<'a>,
    /// The message.
    pub message_id: &'a str,
    /// Where the copies go.
    pub inbox: &'a Template,
    /// What goes there.
    pub payload: Bytes,
    /// Whether it shows in lists of conversations.
    pub listed: bool,
    /// When the message was written.
    pub written_at: UnixMillis,
    /// Whether webhooks are told of each copy.
    pub told_of: bool,
}

impl FanOut {
    /// The group whose copies these are: a later message to it must wait, so that each member gets them in order.
    pub fn group(&self) -> Option<(&str, &str)> {
        match &self.what {
            Many::Copies(copies) => Some((&self.app, &copies.group)),
            Many::Notify { .. } | Many::History(_) => None,
        }
    }

    /// The stored messages that the next step publishes, if it is one that does.
    pub fn query(&self) -> Option<(AppId<'_>, UserId<'_>, PageQuery)> {
        match &self.what {
            Many::Copies(_) | Many::Notify { .. } => None,
            Many::History(history) => {
                let left = history.fetch.map_or(STEP, |fetch| fetch.left);
                let query = PageQuery {
                    limit: left.min(STEP),
                    ..history.query.clone()
                };
                Some((self.app(), user(&history.user), query))
            }
        }
    }

    fn app(&self) -> AppId<'_> {
        AppId::parse(&self.app).expect("it came from an identifier")
    }

    /// The copies that `users` get, but for those in `without`.
    pub fn copies(app: AppId<'_>, message: GroupMessage<'_>, users: Users, without: Users) -> Self {
        Self {
            app: app.as_str().into(),
            what: Many::Copies(Copies {
                group: message.group.as_str().into(),
                message_id: message.message_id.into(),
                inbox: Arc::new(message.inbox.clone()),
                users,
                next: 0,
                without,
                payload: message.payload,
                listed: message.listed,
                written_at: message.written_at,
                told_of: message.told_of,
            }),
        }
    }

    /// Those whom a service wants to know of a group.
    pub fn notify(app: AppId<'_>, update: &GroupUpdate) -> Self {
        Self {
            app: app.as_str().into(),
            what: Many::Notify {
                group: update.id.clone(),
                users: update.notify.clone(),
                next: 0,
                payload: Bytes::copy_from_slice(update.body.as_bytes()),
            },
        }
    }

    fn with(&self, what: Many) -> Self {
        Self {
            app: self.app.clone(),
            what,
        }
    }

    /// Stored messages of `user` between two places, published again: at his wish, or because he missed them.
    pub fn history(
        app: AppId<'_>,
        user: UserId<'_>,
        (after, last): (i64, i64),
        fetch: Option<&Fetch>,
    ) -> Self {
        let history = History {
            user: user.as_str().into(),
            query: PageQuery {
                after,
                last,
                convers_with: fetch.and_then(|fetch| fetch.convers_with.clone()),
                limit: STEP,
            },
            fetch: fetch.map(|fetch| Fetched {
                left: fetch.limit,
                done: 0,
                newest: fetch.since,
            }),
        };
        Self {
            app: app.as_str().into(),
            what: Many::History(history),
        }
    }

    /// The next step; `page` is what the store gave for [`FanOut::query`].
    pub fn step(&self, layouts: &TopicMap, page: Option<Page>) -> Step<'_> {
        let app = self.app();
        match (&self.what, page) {
            (Many::Copies(copies), _) => {
                let (users, rest) = slice(&copies.users, copies.next);
                let convers_with = user(&copies.group);
                let wanted = |id: &&str| **id != *copies.group && !copies.without.contains(id);
                let mut step = Step {
                    rest: rest.map(|next| {
                        self.with(Many::Copies(Copies {
                            next,
                            ..copies.clone()
                        }))
                    }),
                    ..Step::default()
                };
                for id in users.iter().map(|id| &**id).filter(wanted) {
                    let timeline = Timeline {
                        app,
                        inbox_of: user(id),
                        convers_with,
                    };
                    step.writes.push(Write::Copy(Copy {
                        timeline,
                        message_id: Cow::Borrowed(&copies.message_id),
                        status: Status::Delivered,
                        listed: copies.listed,
                    }));
                    let topic = copies.inbox.format(&Names {
                        app,
                        inbox_of: id,
                        convers_with: &copies.group,
                        message_id: "",
                    });
                    if copies.told_of {
                        let copied = Copied {
                            timeline,
                            message_id: &copies.message_id,
                            recipient: &copies.group,
                            topic: topic.as_str(),
                            payload: &copies.payload,
                            one_of_many: true,
                        };
                        let kind = EventKind::MessageDelivered;
                        step.events
                            .push(Event::of_copy(kind, copied, copies.written_at));
                    }
                    step.publishes
                        .push(Publish::new(topic, copies.payload.clone()));
                }
                step
            }
            (
                Many::Notify {
                    group,
                    users,
                    next,
                    payload,
                },
                _,
            ) => {
                let (some, rest) = slice(users, *next);
                let told = |id: &str| {
                    let timeline = Timeline {
                        app,
                        inbox_of: user(id),
                        convers_with: user(group),
                    };
                    Publish::new(
                        layouts.told(Notification::Group, &timeline, ""),
                        payload.clone(),
                    )
                };
                Step {
                    publishes: some.iter().map(|id| told(id)).collect(),
                    writes: vec![],
                    events: vec![],
                    rest: rest.map(|next| {
                        self.with(Many::Notify {
                            next,
                            group: group.clone(),
                            users: users.clone(),
                            payload: payload.clone(),
                        })
                    }),
                }
            }
            (Many::History(history), page) => {
                self.history_step(layouts, history, page.unwrap_or_default())
            }
        }
    }

    fn history_step<'s>(
        &'s self,
        layouts: &TopicMap,
        history: &'s History,
        page: Page,
    ) -> Step<'s> {
        let app = self.app();
        let inbox_of = user(&history.user);
        let mut step = Step::default();
        let mut fetch = history.fetch;
        for stored in &page.messages {
            // Somebody may have edited it.
            let Ok(convers_with) = UserId::parse(&stored.convers_with) else {
                continue;
            };
            let timeline = Timeline {
                app,
                inbox_of,
                convers_with,
            };
            let topic = match layouts.named(&stored.layout) {
                Some(layout) => layout.inbox_topic(app, inbox_of, timeline.convers_with),
                None => layouts.told(Notification::Message, &timeline, ""),
            };
            let payload = match &mut fetch {
                Some(fetch) => {
                    fetch.left = fetch.left.saturating_sub(1);
                    fetch.done += 1;
                    fetch.newest = fetch.newest.max(stored.stored_at);
                    stored.body.as_history(stored.status)
                }
                // He has not had it yet: it looks as it did when he was away.
                None => stored.body.with_status(stored.status),
            };
            step.publishes.push(Publish::new(topic, payload));
        }
        let full = fetch.is_some_and(|fetch| fetch.left == 0);
        if page.more && !full {
            step.rest = Some(self.with(Many::History(History {
                user: history.user.clone(),
                query: PageQuery {
                    after: page.next,
                    ..history.query.clone()
                },
                fetch,
            })));
        } else if let Some(fetch) = fetch {
            let told = serde_json::json!({
                "fetched": fetch.done,
                "more": page.more,
                "next": fetch.newest.as_millis(),
            });
            let told = told.to_string().into();
            let timeline = Timeline {
                app,
                inbox_of,
                convers_with: inbox_of,
            };
            step.publishes.push(Publish::new(
                layouts.told(Notification::Inbox, &timeline, ""),
                told,
            ));
        } else {
            step.writes.push(Write::Redelivered {
                app,
                user: inbox_of,
            });
        }
        step
    }
}

/// An identifier that was checked when it came in.
fn user(id: &str) -> UserId<'_> {
    UserId::parse(id).expect("it was checked when it came in")
}

/// The users of one step, and where the next begins, if there is one.
fn slice(users: &Users, from: usize) -> (&[Box<str>], Option<usize>) {
    let all = users.as_slice();
    let to = (from + STEP).min(all.len());
    (&all[from.min(to)..to], (to < all.len()).then_some(to))
}
