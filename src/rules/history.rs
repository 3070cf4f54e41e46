//! Stored messages of a user, published again: because the user asks for them, or because they missed
//! them.
//!
//! Owns which messages come, in which form, and what the user is told at the end (`protocol.md`,
//! section 4, *Inbox fetch* and *Offline recipients*). Leaves reading a page to the store.

use crate::protocol::control::Fetch;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::{Notification, Timeline, TopicMap};
use crate::protocol::message::{Body, Status};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;

/// A part of the log, by positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    /// The messages behind this position.
    pub(crate) after: i64,
    /// Up to this one.
    pub(crate) last: i64,
}

/// Which stored messages of a user come next.
#[derive(Clone, Debug)]
pub struct PageQuery {
    /// Those behind this position of the log.
    pub after: i64,
    /// Up to this one.
    pub last: i64,
    /// Only those of the conversation with this user or group.
    pub convers_with: Option<Box<str>>,
    /// How many at most. A page may be larger, so that it ends where a millisecond ends.
    pub limit: usize,
}

/// Stored messages of a user, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The messages.
    pub messages: Vec<Stored>,
    /// The position behind which the next page begins.
    pub next: i64,
    /// Whether there is a next page.
    pub more: bool,
}

/// A stored message, as one timeline has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The other side of that timeline.
    pub convers_with: Box<str>,
    /// The layout it came in.
    pub layout: Box<str>,
    /// The message without its status.
    pub body: Body,
    /// How far this copy got.
    pub status: Status,
    /// When the observer stored it.
    pub stored_at: UnixMillis,
}

/// What is left to publish of a user's history.
#[derive(Clone, Debug)]
pub(super) struct History {
    user: Box<str>,
    range: Range,
    convers_with: Option<Box<str>>,
    purpose: Purpose,
}

/// Why messages are published again.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// The user asks for them: the copies are marked as history, and the user is told the end.
    Fetch(Progress),
    /// The user missed them: the copies look as they did when the user was away.
    Redelivery,
}

/// How far a fetch has come.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// How many more messages the user wants.
    left: usize,
    /// How many have been published.
    fetched: usize,
    /// When the newest of them was stored.
    newest: UnixMillis,
}

/// What follows when a page is published.
#[derive(Debug)]
pub(super) enum Next {
    /// Another page.
    Page(History),
    /// Nothing: the fetch ends with what the user is told.
    Fetched,
    /// Nothing: the user has been given all that they missed.
    Redelivered,
}

impl History {
    /// The messages that a fetch asks for.
    pub(super) fn fetch(user: UserId<'_>, range: Range, fetch: &Fetch) -> Self {
        Self {
            user: user.as_str().into(),
            range,
            convers_with: fetch.convers_with.clone(),
            purpose: Purpose::Fetch(Progress {
                left: fetch.limit,
                fetched: 0,
                newest: fetch.since,
            }),
        }
    }

    /// The messages that a user missed.
    pub(super) fn missed(user: UserId<'_>, range: Range) -> Self {
        Self {
            user: user.as_str().into(),
            range,
            convers_with: None,
            purpose: Purpose::Redelivery,
        }
    }

    /// The user whose history it is.
    pub(super) fn user(&self) -> UserId<'_> {
        UserId::parse(&self.user).expect("it came from an identifier")
    }

    /// The next page, of at most `limit` messages.
    pub(super) fn query(&self, limit: usize) -> PageQuery {
        let left = match self.purpose {
            Purpose::Fetch(progress) => progress.left,
            Purpose::Redelivery => limit,
        };
        PageQuery {
            after: self.range.after,
            last: self.range.last,
            convers_with: self.convers_with.clone(),
            limit: left.min(limit),
        }
    }

    /// Publishes a page.
    pub(super) fn step(
        &self,
        app: AppId<'_>,
        layouts: &TopicMap,
        page: &Page,
    ) -> (Vec<Publish>, Next) {
        let mut purpose = self.purpose;
        let mut publishes = Vec::with_capacity(page.messages.len() + 1);
        for stored in &page.messages {
            // Somebody may have edited the store by hand.
            let Ok(convers_with) = UserId::parse(&stored.convers_with) else {
                continue;
            };
            let timeline = self.timeline(app, convers_with);
            let topic = match layouts.named(&stored.layout) {
                Some(layout) => layout.inbox_topic(app, timeline.inbox_of, convers_with),
                None => layouts.told(Notification::Message, &timeline, ""),
            };
            publishes.push(Publish::new(topic, purpose.payload(stored)));
        }
        let is_complete = match purpose {
            Purpose::Fetch(progress) => progress.left == 0,
            Purpose::Redelivery => false,
        };
        if page.more && !is_complete {
            let range = Range {
                after: page.next,
                ..self.range
            };
            let rest = Self {
                range,
                purpose,
                ..self.clone()
            };
            return (publishes, Next::Page(rest));
        }
        match purpose {
            Purpose::Fetch(progress) => {
                let inbox = self.timeline(app, self.user());
                let topic = layouts.told(Notification::Inbox, &inbox, "");
                publishes.push(Publish::new(topic, progress.summary(page.more)));
                (publishes, Next::Fetched)
            }
            Purpose::Redelivery => (publishes, Next::Redelivered),
        }
    }

    fn timeline<'a>(&'a self, app: AppId<'a>, convers_with: UserId<'a>) -> Timeline<'a> {
        Timeline {
            app,
            inbox_of: self.user(),
            convers_with,
        }
    }
}

impl Purpose {
    /// The copy to publish, which counts as fetched.
    fn payload(&mut self, stored: &Stored) -> bytes::Bytes {
        match self {
            Self::Fetch(progress) => {
                progress.left = progress.left.saturating_sub(1);
                progress.fetched += 1;
                progress.newest = progress.newest.max(stored.stored_at);
                stored.body.as_history(stored.status)
            }
            Self::Redelivery => stored.body.with_status(stored.status),
        }
    }
}

impl Progress {
    /// What the user is told at the end of a fetch. `more`: whether there are messages behind the
    /// last one.
    fn summary(&self, more: bool) -> bytes::Bytes {
        let summary = serde_json::json!({
            "fetched": self.fetched,
            "more": more,
            "next": self.newest.as_millis(),
        });
        summary.to_string().into()
    }
}
