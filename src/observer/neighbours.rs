//! Other observers on the same broker.
//!
//! Owns when this one asks for them, and what follows from an answer. Leaves what they say to
//! [`telemetry::hello`](crate::telemetry::hello).

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::warn;

use crate::protocol::publish::Publish;
use crate::protocol::topic::TopicName;
use crate::telemetry::hello::Hello;

/// How long after its start an observer gives way to another one. Later it is the other's turn.
const GIVES_WAY: Duration = Duration::from_secs(30);

const TWICE: &str = "another observer on this broker takes the same messages, so each would be \
    delivered twice: stop one of them, give them different --app, or start both with \
    --allow-other-observers";

/// What is to be done about what another observer said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    /// Nothing.
    None,
    /// Publish this answer.
    Answer(Publish),
    /// Give way to that observer.
    GiveWay(String),
}

/// How this observer stands to others.
pub(super) struct Neighbours {
    me: Hello,
    topic: TopicName,
    since: Instant,
    /// Whether others may take the same messages.
    allowed: bool,
    /// Whether the question is out on the present connection.
    is_asked: bool,
    /// Those who asked, by their instances: they were asked in return, so that of two that start at
    /// once each knows of the other.
    asked_in_return: HashSet<String>,
}

impl Neighbours {
    pub(super) fn new(me: Hello, topic: TopicName, allowed: bool, since: Instant) -> Self {
        Self {
            me,
            topic,
            since,
            allowed,
            is_asked: false,
            asked_in_return: HashSet::new(),
        }
    }

    /// The session has a new connection: the broker may be another one.
    pub(super) fn handle_session_up(&mut self) {
        self.is_asked = false;
    }

    /// The question, once on each connection, and once for each new observer that asks.
    pub(super) fn poll_question(&mut self, now: Instant) -> Option<Publish> {
        if std::mem::replace(&mut self.is_asked, true) {
            return None;
        }
        Some(self.me(now).publish(&self.topic))
    }

    /// Takes what an observer said.
    pub(super) fn handle(&mut self, payload: &Bytes, now: Instant) -> Reaction {
        let Some(other) = Hello::parse(payload) else {
            return Reaction::None;
        };
        let me = self.me(now);
        if other.instance == me.instance || !me.meets(&other) {
            return Reaction::None;
        }
        let is_new = now < self.since + GIVES_WAY;
        if !other.answer {
            if is_new && self.asked_in_return.insert(other.instance) {
                self.is_asked = false;
            }
            return Reaction::Answer(
                Hello {
                    question: other.question,
                    answer: true,
                    ..me
                }
                .publish(&self.topic),
            );
        }
        // An answer to an earlier process may have waited in the session.
        if other.question != me.question || self.allowed {
            return Reaction::None;
        }
        if is_new && me.gives_way_to(&other) {
            return Reaction::GiveWay(other.describe());
        }
        warn!(other = other.describe(), "{TWICE}");
        Reaction::None
    }

    fn me(&self, now: Instant) -> Hello {
        let uptime = now.saturating_duration_since(self.since).as_millis();
        Hello {
            uptime_ms: u64::try_from(uptime).unwrap_or(u64::MAX),
            ..self.me.clone()
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some time to start from"
)]
mod tests {
    use super::*;

    fn hello(instance: &str) -> Hello {
        Hello {
            name: "observer".to_owned(),
            instance: instance.to_owned(),
            version: "1".to_owned(),
            uptime_ms: 0,
            apps: vec![],
            outgoing: vec!["x".to_owned()],
            question: format!("of {instance}"),
            answer: false,
        }
    }

    fn neighbours(instance: &str, since: Instant, allowed: bool) -> Neighbours {
        let topic = TopicName::parse("observer/observer/hello").unwrap();
        Neighbours::new(hello(instance), topic, allowed, since)
    }

    fn answer(reaction: Reaction) -> Bytes {
        match reaction {
            Reaction::Answer(publish) => publish.payload,
            other @ (Reaction::None | Reaction::GiveWay(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_newcomer_asks_is_answered_and_gives_way() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let mut old = neighbours("old", start, false);
        for (allowed, gives_way) in [(false, true), (true, false)] {
            let mut new = neighbours("new", later, allowed);
            let question = new.poll_question(later).unwrap();
            assert!(new.poll_question(later).is_none(), "once a connection");
            assert_eq!(
                new.handle(&question.payload, later),
                Reaction::None,
                "its own"
            );
            let answer = answer(old.handle(&question.payload, later));
            assert_eq!(
                old.handle(&answer, later),
                Reaction::None,
                "not its question"
            );
            match new.handle(&answer, later) {
                Reaction::GiveWay(other) => assert!(gives_way && other.contains("old"), "{other}"),
                other @ (Reaction::None | Reaction::Answer(_)) => {
                    assert!(!gives_way && other == Reaction::None, "{other:?}");
                }
            }
            new.handle_session_up();
            assert!(new.poll_question(later).is_some());
        }
    }

    /// The first asked before the second could hear it.
    #[test]
    fn of_two_that_start_at_once_one_gives_way() {
        let start = Instant::now();
        for (first, second) in [("a", "b"), ("b", "a")] {
            let mut first = neighbours(first, start, false);
            let mut second = neighbours(second, start + Duration::from_millis(100), false);
            let now = start + Duration::from_millis(300);
            first.poll_question(now);
            let question = second.poll_question(now).unwrap();
            let answer_of_first = answer(first.handle(&question.payload, now));
            let question = first.poll_question(now).expect("asked in return");
            let answer_of_second = answer(second.handle(&question.payload, now));
            let gives_way = [
                first.handle(&answer_of_second, now),
                second.handle(&answer_of_first, now),
            ]
            .map(|reaction| matches!(reaction, Reaction::GiveWay(_)));
            assert_ne!(gives_way[0], gives_way[1]);
            assert!(second.poll_question(now).is_some(), "in return, too");
            let question = second.me(now).publish(&second.topic);
            answer(first.handle(&question.payload, now));
            assert!(first.poll_question(now).is_none(), "but once");
        }
    }

    /// They see each other when a broken connection is back: neither stops.
    #[test]
    fn who_has_run_for_a_while_stays() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        let mut one = neighbours("one", start, false);
        let mut other = neighbours("other", start, false);
        let question = other.poll_question(later).unwrap();
        let answer = answer(one.handle(&question.payload, later));
        assert_eq!(other.handle(&answer, later), Reaction::None);
    }
}
