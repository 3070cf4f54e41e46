//! What goes to many, or much that goes to one: made and published in steps.
//!
//! Owns the steps: copies of a group message, notices about a group, pages of stored messages. A
//! group of ten thousand is not handled at once but step by step, each when there is room for it:
//! the payload is held once, and what waits behind a step hardly notices it. Leaves when the next
//! step is taken to `observer`.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::Fetch;
use crate::protocol::control_topic::Notification;
use crate::protocol::group::{GroupUpdate, Users};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::template::{Names, Template};
use crate::protocol::time::UnixMillis;
use crate::protocol::topic_map::TopicMap;
use crate::rules::conversation_list::ConversationList;
use crate::rules::group_history::GroupHistory;
use crate::rules::history::{History, Next, Page, PageQuery, Range};
use crate::rules::listing::{ListedConversation, Slice, Window};
use crate::rules::webhook_event::{Copied, Event, EventKind};
use crate::rules::write::{Listing, TimelineCopy, Write};

/// How many members or stored messages one step takes: enough to share the cost of a transaction,
/// few enough that what waits behind it does not notice.
pub const STEP: usize = 32;

/// What is left of something that goes out in steps of [`STEP`]. Each step is written down and
/// published before the next one is made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FanOut {
    app: Box<str>,
    /// Boxed: every plan has room for a fan-out, and few have one.
    work: Box<Work>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Work {
    Copies(Copies),
    Notices(Notices),
    History(History),
    GroupHistory(GroupHistory),
    Conversations(ConversationList),
}

/// What fan-outs that must go out one after another have in common: an app, and an identifier in
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKey<'a> {
    /// Messages to a group.
    Group(&'a str, &'a str),
    /// Stored messages for a user.
    User(&'a str, &'a str),
}

/// The copies of a group message that members get.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Copies {
    group: Box<str>,
    message_id: Box<str>,
    #[serde(with = "as_text")]
    inbox: Arc<Template>,
    users: Users,
    #[serde(skip)]
    next: usize,
    /// Who gets no copy.
    left_out: Users,
    #[serde(with = "as_text")]
    payload: Bytes,
    listing: Listing,
    written_at: UnixMillis,
    raises_events: bool,
}

/// What users are told about a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Notices {
    group: Box<str>,
    users: Users,
    #[serde(skip)]
    next: usize,
    #[serde(with = "as_text")]
    payload: Bytes,
}

/// One step of a fan-out.
#[derive(Clone, Debug, Default)]
pub struct Step<'a> {
    /// What is published.
    pub publishes: Vec<Publish>,
    /// What is written down before.
    pub writes: Vec<Write<'a>>,
    /// What webhooks are told.
    pub events: Vec<Event>,
    /// What is left to do; `None` at the end.
    pub rest: Option<FanOut>,
}

/// What all copies of a group message have in common.
#[derive(Clone, Debug)]
pub(super) struct GroupMessage<'a> {
    pub(super) group: UserId<'a>,
    pub(super) message_id: &'a str,
    /// The topics that the copies are published on.
    pub(super) inbox: &'a Template,
    pub(super) payload: Bytes,
    pub(super) listing: Listing,
    pub(super) written_at: UnixMillis,
    /// Whether any webhook wants an event for each copy.
    pub(super) raises_events: bool,
}

impl FanOut {
    /// The copies of a group message for `users`, except those `left_out`.
    pub(super) fn copies(
        app: AppId<'_>,
        message: GroupMessage<'_>,
        users: Users,
        left_out: Users,
    ) -> Self {
        let work = Work::Copies(Copies {
            group: message.group.as_str().into(),
            message_id: message.message_id.into(),
            inbox: Arc::new(message.inbox.clone()),
            users,
            next: 0,
            left_out,
            payload: message.payload,
            listing: message.listing,
            written_at: message.written_at,
            raises_events: message.raises_events,
        });
        Self::new(app, work)
    }

    /// Tells users about a group that a service has stored.
    pub(super) fn notify(app: AppId<'_>, update: &GroupUpdate) -> Self {
        let work = Work::Notices(Notices {
            group: update.id.clone(),
            users: update.notify.clone(),
            next: 0,
            payload: Bytes::copy_from_slice(update.body.as_bytes()),
        });
        Self::new(app, work)
    }

    /// The stored messages that a user asks for. `settled`: the last millisecond that is complete.
    pub(super) fn fetch(
        app: AppId<'_>,
        user: UserId<'_>,
        range: Range,
        settled: UnixMillis,
        fetch: &Fetch,
    ) -> Self {
        let history = History::fetch(user, range, settled, fetch);
        Self::new(app, Work::History(history))
    }

    /// The messages that a user missed.
    pub(super) fn missed(app: AppId<'_>, user: UserId<'_>, range: Range) -> Self {
        Self::new(app, Work::History(History::missed(user, range)))
    }

    /// What a group said before, for new members.
    pub(super) fn group_history(app: AppId<'_>, history: GroupHistory) -> Self {
        Self::new(app, Work::GroupHistory(history))
    }

    /// The conversations that a user asks for.
    pub(super) fn conversations(app: AppId<'_>, list: ConversationList) -> Self {
        Self::new(app, Work::Conversations(list))
    }

    fn new(app: AppId<'_>, work: Work) -> Self {
        Self {
            app: app.as_str().into(),
            work: Box::new(work),
        }
    }

    fn app(&self) -> AppId<'_> {
        AppId::parse(&self.app).expect("it came from an identifier")
    }

    /// Whether it is what a user missed: that is due as long as the delivery log holds it.
    pub fn is_missed(&self) -> bool {
        matches!(&*self.work, Work::History(history) if history.is_missed())
    }

    /// How many members of a group it goes to.
    pub fn members(&self) -> usize {
        match &*self.work {
            Work::Copies(copies) => copies.users.len(),
            Work::Notices(notices) => notices.users.len(),
            Work::History(_) | Work::GroupHistory(_) | Work::Conversations(_) => 0,
        }
    }

    /// What must go out one after another. A later message to the same group waits, so that each
    /// member gets the messages in order; and a user who fetches much gets it in turn, beside
    /// others.
    pub fn queue(&self) -> Option<QueueKey<'_>> {
        let app = &*self.app;
        match &*self.work {
            Work::Copies(copies) => Some(QueueKey::Group(app, &copies.group)),
            Work::History(history) => Some(QueueKey::User(app, history.user().as_str())),
            Work::GroupHistory(history) => Some(QueueKey::Group(app, history.group().as_str())),
            Work::Conversations(list) => Some(QueueKey::User(app, list.user().as_str())),
            Work::Notices(_) => None,
        }
    }

    /// The whole fan-out as text, for the delivery log: another process can go on with it.
    pub fn to_log(&self) -> String {
        serde_json::to_string(self).expect("plain fields serialise")
    }

    /// The fan-out of a text that [`FanOut::to_log`] made, from a position on.
    ///
    /// # Errors
    /// The text is none that this version makes.
    pub fn from_log(text: &str, position: usize) -> Result<Self, serde_json::Error> {
        let mut fan_out: Self = serde_json::from_str(text)?;
        match &mut *fan_out.work {
            Work::Copies(Copies { next, .. }) | Work::Notices(Notices { next, .. }) => {
                *next = position;
            }
            // They begin anew.
            Work::History(_) | Work::GroupHistory(_) | Work::Conversations(_) => {}
        }
        Ok(fan_out)
    }

    /// Takes a user out who gets no copy.
    pub fn leave_out(&mut self, user: &str) {
        match &mut *self.work {
            Work::Copies(copies) => copies.left_out = copies.left_out.and(user),
            Work::GroupHistory(history) => history.leave_out(user),
            Work::Notices(_) | Work::History(_) | Work::Conversations(_) => {}
        }
    }

    /// How many of its users are done; 0 for stored messages.
    pub fn position(&self) -> usize {
        match &*self.work {
            Work::Copies(Copies { next, .. }) | Work::Notices(Notices { next, .. }) => *next,
            Work::History(_) | Work::GroupHistory(_) | Work::Conversations(_) => 0,
        }
    }

    /// What the next step needs of the store, if it needs anything.
    pub fn query(&self) -> Option<Query<'_>> {
        let messages = |user, page| Query::Messages(self.app(), user, page);
        match &*self.work {
            Work::Copies(_) | Work::Notices(_) => None,
            Work::History(history) => Some(messages(history.user(), history.query(STEP))),
            Work::GroupHistory(history) => Some(messages(history.group(), history.query())),
            Work::Conversations(list) => {
                let (archived, window) = list.query();
                Some(Query::Conversations(
                    self.app(),
                    list.user(),
                    archived,
                    window,
                ))
            }
        }
    }

    /// The next step. `found` is what the store has given for [`FanOut::query`].
    pub fn step(&self, layouts: &TopicMap, found: Found) -> Step<'_> {
        let app = self.app();
        match (&*self.work, found) {
            (Work::Copies(copies), _) => copies.step(app),
            (Work::Notices(notices), _) => notices.step(app, layouts),
            (Work::History(history), found) => history_step(history, app, layouts, &found.page()),
            (Work::GroupHistory(history), found) => {
                let (step, rest) = history.step(app, layouts, &found.page());
                let rest = rest.map(|rest| Self::new(app, Work::GroupHistory(rest)));
                Step { rest, ..step }
            }
            (Work::Conversations(list), found) => {
                let (publishes, rest) = list.step(app, layouts, &found.slice());
                Step {
                    publishes,
                    rest: rest.map(|rest| Self::new(app, Work::Conversations(rest))),
                    ..Step::default()
                }
            }
        }
    }
}

/// What a step needs of the store.
#[derive(Clone, Debug)]
pub enum Query<'a> {
    /// A page of a user's stored messages.
    Messages(AppId<'a>, UserId<'a>, PageQuery),
    /// A part of a user's conversations: those in the archive, or those that are not.
    Conversations(AppId<'a>, UserId<'a>, bool, Window),
}

/// What the store has given.
#[derive(Clone, Debug, Default)]
pub enum Found {
    /// Nothing was asked for.
    #[default]
    Nothing,
    /// The answer to [`Query::Messages`].
    Messages(Page),
    /// The answer to [`Query::Conversations`].
    Conversations(Slice<ListedConversation>),
}

impl Found {
    fn page(self) -> Page {
        match self {
            Self::Messages(page) => page,
            Self::Nothing | Self::Conversations(_) => Page::default(),
        }
    }

    fn slice(self) -> Slice<ListedConversation> {
        match self {
            Self::Conversations(slice) => slice,
            Self::Nothing | Self::Messages(_) => Slice::default(),
        }
    }
}

impl Copies {
    fn step<'a>(&'a self, app: AppId<'a>) -> Step<'a> {
        let (users, next) = slice(&self.users, self.next);
        let mut step = Step {
            rest: next.map(|next| {
                let rest = Self {
                    next,
                    ..self.clone()
                };
                FanOut::new(app, Work::Copies(rest))
            }),
            ..Step::default()
        };
        for id in users {
            // The group may be listed among its members: its own copy is there already.
            if **id != *self.group && !self.left_out.contains(id) {
                self.add_copy(&mut step, app, id);
            }
        }
        step
    }

    fn add_copy<'a>(&'a self, step: &mut Step<'a>, app: AppId<'a>, id: &'a str) {
        let timeline = Timeline {
            app,
            inbox_of: user(id),
            convers_with: user(&self.group),
        };
        step.writes.push(Write::Copy(TimelineCopy {
            timeline,
            message_id: Cow::Borrowed(&self.message_id),
            status: Status::Delivered,
            listing: self.listing,
        }));
        let topic = self.inbox.format(&Names {
            app,
            inbox_of: id,
            convers_with: &self.group,
            message_id: "",
        });
        if self.raises_events {
            let copied = Copied {
                timeline,
                message_id: &self.message_id,
                recipient: &self.group,
                topic: topic.as_str(),
                payload: &self.payload,
                one_of_many: true,
            };
            let kind = EventKind::MessageDelivered;
            step.events
                .push(Event::of_copy(kind, copied, self.written_at));
        }
        step.publishes
            .push(Publish::new(topic, self.payload.clone()));
    }
}

impl Notices {
    fn step<'a>(&'a self, app: AppId<'a>, layouts: &TopicMap) -> Step<'a> {
        let (users, next) = slice(&self.users, self.next);
        let notice = |id: &str| {
            let timeline = Timeline {
                app,
                inbox_of: user(id),
                convers_with: user(&self.group),
            };
            let topic = layouts.notification_topic(Notification::Group, &timeline, "");
            Publish::new(topic, self.payload.clone())
        };
        Step {
            publishes: users.iter().map(|id| notice(id)).collect(),
            rest: next.map(|next| {
                let rest = Self {
                    next,
                    ..self.clone()
                };
                FanOut::new(app, Work::Notices(rest))
            }),
            ..Step::default()
        }
    }
}

fn history_step<'a>(
    history: &'a History,
    app: AppId<'a>,
    layouts: &TopicMap,
    page: &Page,
) -> Step<'a> {
    let (publishes, next) = history.step(app, layouts, page);
    let mut step = Step {
        publishes,
        ..Step::default()
    };
    if let Next::Page(rest) = next {
        step.rest = Some(FanOut::new(app, Work::History(rest)));
    }
    step
}

/// A field as its text.
mod as_text {
    use std::sync::Arc;

    use bytes::Bytes;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::protocol::template::{Side, Template};

    pub(super) trait Text: Sized {
        fn text(&self) -> String;
        fn from_text(text: String) -> Result<Self, String>;
    }

    impl Text for Arc<Template> {
        fn text(&self) -> String {
            self.to_string()
        }

        fn from_text(text: String) -> Result<Self, String> {
            let template =
                Template::parse(&text, Side::Inbox).map_err(|error| error.to_string())?;
            Ok(Self::new(template))
        }
    }

    /// A JSON object.
    impl Text for Bytes {
        fn text(&self) -> String {
            String::from_utf8_lossy(self).into_owned()
        }

        fn from_text(text: String) -> Result<Self, String> {
            Ok(text.into())
        }
    }

    pub(super) fn serialize<T: Text, S: Serializer>(field: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&field.text())
    }

    pub(super) fn deserialize<'de, T: Text, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        T::from_text(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

fn user(id: &str) -> UserId<'_> {
    UserId::parse(id).expect("it was checked when it came in")
}

/// The users of one step, and the index at which the next one begins, if there is one.
fn slice(users: &Users, from: usize) -> (&[Box<str>], Option<usize>) {
    let all = users.as_slice();
    let to = (from + STEP).min(all.len());
    (&all[from.min(to)..to], (to < all.len()).then_some(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::address::Address;
    use crate::rules::test_support::router;

    fn topics(fan_out: &FanOut) -> Vec<String> {
        let step = fan_out.step(&router().layouts, Found::Nothing);
        let topics = step.publishes.iter();
        topics.map(|publish| publish.topic.to_string()).collect()
    }

    #[test]
    fn a_group_message_goes_on_from_the_log_where_it_was() {
        let app = AppId::parse("a").unwrap();
        let layouts = router().layouts;
        let topic = "apps/a/users/alice/messages/group-1/outgoing";
        let Ok(Address::Outgoing(outgoing)) = layouts.parse(topic) else {
            panic!("a message")
        };
        let message = GroupMessage {
            group: outgoing.recipient,
            message_id: "m1",
            inbox: outgoing.layout.inbox(),
            payload: Bytes::from_static("{\"text\":\"h\u{e4}\"}".as_bytes()),
            listing: Listing::Unlisted,
            written_at: UnixMillis::new(7),
            raises_events: true,
        };
        let members: Users = (0..40)
            .map(|n| format!("m{n:02}").into_boxed_str())
            .collect();
        let left_out = [Box::from("m33")].into_iter().collect();
        let whole = FanOut::copies(app, message, members, left_out);
        let text = whole.to_log();
        assert_eq!(whole.position(), 0);
        let again = FanOut::from_log(&text, 0).unwrap();
        assert_eq!(
            (again.to_log(), again.queue()),
            (text.clone(), whole.queue())
        );
        assert_eq!(topics(&again), topics(&whole));
        let rest = whole
            .step(&router().layouts, Found::Nothing)
            .rest
            .expect("two steps");
        let resumed = FanOut::from_log(&text, rest.position()).unwrap();
        assert_eq!(topics(&resumed), topics(&rest));
        let payloads = |fan_out: &FanOut| {
            let step = fan_out.step(&router().layouts, Found::Nothing);
            step.publishes[0].payload.clone()
        };
        assert_eq!(payloads(&resumed), payloads(&rest));
        assert!(FanOut::from_log("{}", 0).is_err());
    }

    #[test]
    fn stored_messages_begin_anew() {
        let (app, user) = (AppId::parse("a").unwrap(), UserId::parse("bob").unwrap());
        let range = Range { after: 3, last: 9 };
        let fetch = Fetch::parse(br#"{"limit":5}"#).unwrap();
        let fetched = FanOut::fetch(app, user, range, UnixMillis::new(7), &fetch);
        for whole in [fetched, FanOut::missed(app, user, range)] {
            let again = FanOut::from_log(&whole.to_log(), 7).unwrap();
            let Some(Query::Messages(_, of, query)) = again.query() else {
                panic!("a page is needed")
            };
            assert_eq!((of, query.after, query.last), (user, 3, 9));
        }
    }
}
