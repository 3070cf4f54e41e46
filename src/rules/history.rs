//! Stored messages of a user, published again: because the user asks for them, or because they
//! missed them.
//!
//! Owns which messages come, in which form, and what the user is told at the end (`protocol.md`,
//! section 4, *Inbox fetch* and *Offline recipients*). Leaves reading a page to the store.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::Fetch;
use crate::protocol::control_topic::Notification;
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic_map::TopicMap;

/// A part of the log, by positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Range {
    /// The messages behind this position.
    pub(crate) after: i64,
    /// Up to this one.
    pub(crate) last: i64,
}

/// The time at which a message counts as stored, `newest` being that of the message before it.
///
/// Times in the log never go back, even if the clock does: positions are found by time. They do not
/// stand still for long either, because pages end where a millisecond ends.
pub fn stored_at(newest: UnixMillis, now: UnixMillis) -> UnixMillis {
    if now < newest {
        UnixMillis::new(newest.as_millis() + 1)
    } else {
        now
    }
}

/// The last millisecond of the log that will not grow: what is stored from `now` on gets a later
/// time, if the clock does not go back. `newest` is the time of the last message there is; one that
/// others store may come `unsettled` later than its time.
pub(super) fn settled(newest: UnixMillis, now: UnixMillis, unsettled: Duration) -> UnixMillis {
    newest.max(now).before(unsettled + Duration::from_millis(1))
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
    /// Whether that goes on with the same millisecond, perhaps: this page became too large.
    pub is_cut: bool,
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct History {
    user: Box<str>,
    range: Range,
    convers_with: Option<Box<str>>,
    purpose: Purpose,
}

/// Why messages are published again.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Purpose {
    /// The user asks for them: the copies are marked as history, and the user is told the end.
    Fetch(Progress),
    /// The user missed them: the copies look as they did when the user was away.
    Redelivery,
}

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Progress {
    /// How many more messages the user wants.
    left: usize,
    /// How many have been published.
    fetched: usize,
    /// When the newest of them was stored.
    newest: UnixMillis,
    /// The last millisecond that was [`settled`] when the user asked. Observers before this one
    /// have not written it into the delivery log.
    #[serde(default = "never")]
    settled: UnixMillis,
}

fn never() -> UnixMillis {
    UnixMillis::new(u64::MAX)
}

/// What follows when a page is published.
#[derive(Debug)]
pub(super) enum Next {
    /// Another page.
    Page(History),
    /// Nothing: all of it is published.
    Nothing,
}

impl History {
    /// The messages that a fetch asks for. `settled`: the last millisecond that is complete.
    pub(super) fn fetch(
        user: UserId<'_>,
        range: Range,
        settled: UnixMillis,
        fetch: &Fetch,
    ) -> Self {
        Self {
            user: user.as_str().into(),
            range,
            convers_with: fetch.convers_with.clone(),
            purpose: Purpose::Fetch(Progress {
                left: fetch.limit,
                fetched: 0,
                newest: fetch.since,
                settled,
            }),
        }
    }

    /// Whether these are messages that the user missed.
    pub(super) fn is_missed(&self) -> bool {
        matches!(self.purpose, Purpose::Redelivery)
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
            // None are left if the last page was cut: the rest of its millisecond is.
            Purpose::Fetch(progress) => progress.left.max(1),
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
                None => layouts.notification_topic(Notification::Message, &timeline, ""),
            };
            publishes.push(Publish::new(topic, purpose.payload(stored)));
        }
        let is_complete = match purpose {
            Purpose::Fetch(progress) => progress.left == 0 && !page.is_cut,
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
                let topic = layouts.notification_topic(Notification::Inbox, &inbox, "");
                publishes.push(Publish::new(topic, progress.summary(page.more)));
                (publishes, Next::Nothing)
            }
            Purpose::Redelivery => (publishes, Next::Nothing),
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
    /// last one. Then its millisecond is complete; else it may still grow, and is asked for again.
    fn summary(&self, more: bool) -> bytes::Bytes {
        let next = match more {
            true => self.newest,
            false => self.newest.min(self.settled),
        };
        let summary = serde_json::json!({
            "fetched": self.fetched,
            "more": more,
            "next": next.as_millis(),
        });
        summary.to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{body, router};
    use serde_json::json;

    fn stored(text: &str, layout: &str, stored_at: u64) -> Stored {
        Stored {
            convers_with: "alice".into(),
            layout: layout.into(),
            body: Body::from_stored(json!({ "text": text }).to_string()),
            status: Status::Delivered,
            stored_at: UnixMillis::new(stored_at),
        }
    }

    #[test]
    fn times_in_the_log_never_go_back() {
        for (newest, now, wanted) in [(0, 5, 5), (5, 5, 5), (5, 4, 6), (5, 0, 6)] {
            let stored = stored_at(UnixMillis::new(newest), UnixMillis::new(now));
            assert_eq!(stored, UnixMillis::new(wanted), "{newest} {now}");
        }
    }

    #[test]
    fn what_is_stored_later_is_behind_what_is_settled() {
        for (newest, now) in [(0, 0), (5, 5), (5, 7), (7, 5)] {
            let (newest, now) = (UnixMillis::new(newest), UnixMillis::new(now));
            let settled = settled(newest, now, Duration::ZERO);
            for later in now.as_millis()..10 {
                let later = stored_at(newest, UnixMillis::new(later));
                assert!(
                    later > settled || later.as_millis() == 0,
                    "{newest:?} {now:?}"
                );
            }
        }
    }

    fn page(messages: Vec<Stored>, more: bool) -> Page {
        Page {
            messages,
            next: 7,
            more,
            is_cut: false,
        }
    }

    fn bob() -> (AppId<'static>, UserId<'static>, Range) {
        let range = Range { after: 2, last: 9 };
        let (app, user) = (AppId::parse("a").unwrap(), UserId::parse("bob").unwrap());
        (app, user, range)
    }

    fn fetch(limit: usize) -> History {
        let fetch = Fetch {
            since: UnixMillis::new(5),
            convers_with: None,
            limit,
        };
        let (_, user, range) = bob();
        History::fetch(user, range, UnixMillis::new(25), &fetch)
    }

    #[test]
    fn fetched_messages_are_marked_as_history_and_their_end_is_told() {
        let (app, ..) = bob();
        let layouts = router().layouts;
        let messages = vec![stored("one", "chat21", 10), stored("two", "", 20)];
        let (publishes, next) = fetch(100).step(app, &layouts, &page(messages, true));
        assert_eq!(publishes.len(), 2);
        for publish in &publishes {
            assert_eq!(
                publish.topic.as_str(),
                "apps/a/users/bob/messages/alice/clientadded"
            );
            assert_eq!(body(publish)["__history"], json!(true));
        }
        let Next::Page(rest) = next else {
            panic!("{next:?}")
        };
        let query = rest.query(32);
        assert_eq!((query.after, query.last, query.limit), (7, 9, 32));
        let last = page(vec![stored("three", "chat21", 30)], false);
        let (publishes, next) = rest.step(app, &layouts, &last);
        assert!(matches!(next, Next::Nothing));
        let told = publishes.last().unwrap();
        assert_eq!(told.topic.as_str(), "apps/a/users/bob/inbox/clientupdated");
        // The millisecond of the last one may still grow.
        assert_eq!(body(told), json!({"fetched": 3, "more": false, "next": 25}));
    }

    #[test]
    fn a_fetch_of_an_older_observer_goes_on() {
        let mut log = serde_json::to_value(fetch(1)).unwrap();
        let progress = log["purpose"]["Fetch"].as_object_mut().unwrap();
        assert!(progress.remove("settled").is_some());
        let history: History = serde_json::from_value(log).unwrap();
        let messages = page(vec![stored("one", "chat21", 30)], false);
        let (publishes, _) = history.step(bob().0, &router().layouts, &messages);
        assert_eq!(body(&publishes[1])["next"], json!(30));
    }

    #[test]
    fn a_fetch_does_not_end_inside_a_millisecond() {
        let (app, ..) = bob();
        let layouts = router().layouts;
        let mut messages = page(vec![stored("one", "chat21", 10)], true);
        messages.is_cut = true;
        let (publishes, next) = fetch(1).step(app, &layouts, &messages);
        assert_eq!(publishes.len(), 1);
        let Next::Page(rest) = next else {
            panic!("{next:?}")
        };
        assert_eq!((rest.query(32).after, rest.query(32).limit), (7, 1));
        let messages = page(vec![stored("two", "chat21", 10)], true);
        let (publishes, next) = rest.step(app, &layouts, &messages);
        assert!(matches!(next, Next::Nothing));
        assert_eq!(
            body(&publishes[1]),
            json!({"fetched": 2, "more": true, "next": 10})
        );
    }

    #[test]
    fn a_fetch_ends_when_it_has_as_many_as_were_asked_for() {
        let (app, ..) = bob();
        let history = fetch(1);
        assert_eq!(history.query(32).limit, 1);
        let messages = page(vec![stored("one", "chat21", 10)], true);
        let (publishes, next) = history.step(app, &router().layouts, &messages);
        assert!(matches!(next, Next::Nothing));
        assert_eq!(
            body(&publishes[1]),
            json!({"fetched": 1, "more": true, "next": 10})
        );
    }

    #[test]
    fn missed_messages_look_as_they_did_and_nobody_is_told_their_end() {
        let (app, user, range) = bob();
        let missed = page(vec![stored("one", "chat21", 10)], false);
        let history = History::missed(user, range);
        let (publishes, next) = history.step(app, &router().layouts, &missed);
        assert!(matches!(next, Next::Nothing));
        let [publish] = &publishes[..] else {
            panic!("{publishes:?}")
        };
        assert_eq!(body(publish), json!({"text": "one", "status": 150}));
    }
}
