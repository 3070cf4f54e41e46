//! Other observers on the same broker.
//!
//! Owns when this one asks for them, and what follows from an answer. Leaves what they say to
//! [`telemetry::hello`](crate::telemetry::hello).

use std::cmp::Ordering;
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reaction {
    /// What to publish: an answer, a question in return.
    pub says: Vec<Publish>,
    /// The observer to give way to.
    pub gives_way_to: Option<GiveWay>,
}

/// The observer to give way to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GiveWay {
    /// It, for people.
    pub other: String,
    /// Whether it takes every message that this one would.
    pub takes_all: bool,
}

/// How this observer stands to others.
///
/// Of two, the one that has run for less time gives way. Both must come to the same verdict, so
/// both judge by the two times of the same exchange: the one in which the observer with the lower
/// instance has asked. It is judged by that one when the answer comes, and by the other when the
/// question does.
pub(super) struct Neighbours {
    me: Hello,
    topic: TopicName,
    since: Instant,
    /// Whether others may take the same messages.
    allowed: bool,
    /// Whether the question is out on the present connection.
    is_asked: bool,
    /// Whether it has come back. What has waited in the session comes before it: words of observers
    /// that may be gone.
    is_heard: bool,
}

impl Neighbours {
    pub(super) fn new(me: Hello, topic: TopicName, allowed: bool, since: Instant) -> Self {
        Self {
            me,
            topic,
            since,
            allowed,
            is_asked: false,
            is_heard: false,
        }
    }

    /// The session has a new connection: the broker may be another one.
    pub(super) fn handle_session_up(&mut self) {
        self.is_asked = false;
        self.is_heard = false;
    }

    /// The question, once on each connection.
    pub(super) fn poll_question(&mut self, now: Instant) -> Option<Publish> {
        if std::mem::replace(&mut self.is_asked, true) {
            return None;
        }
        Some(self.me(now).publish(&self.topic))
    }

    /// Takes what an observer said.
    pub(super) fn handle(&mut self, payload: &Bytes, now: Instant) -> Reaction {
        let Some(other) = Hello::parse(payload) else {
            return Reaction::default();
        };
        let me = self.me(now);
        if other.instance == me.instance {
            self.is_heard |= self.is_asked && other.answers.is_none();
            return Reaction::default();
        }
        if !self.is_heard || !me.meets(&other) {
            return Reaction::default();
        }
        match other.answers {
            None => self.handle_question(me, other),
            // An answer to an earlier process may have waited in the session.
            Some(_) if other.question != me.question => Reaction::default(),
            Some(asked_at) if me.instance < other.instance => Reaction {
                gives_way_to: self.judge(asked_at, other.uptime_ms, &other),
                ..Reaction::default()
            },
            Some(_) => Reaction::default(),
        }
    }

    fn handle_question(&self, me: Hello, other: Hello) -> Reaction {
        let answer = Hello {
            question: other.question.clone(),
            answers: Some(other.uptime_ms),
            ..me.clone()
        };
        let mut says = vec![answer.publish(&self.topic)];
        let mut gives_way_to = None;
        if other.instance < me.instance {
            gives_way_to = self.judge(me.uptime_ms, other.uptime_ms, &other);
        } else if !other.in_return {
            let question = Hello {
                in_return: true,
                ..me
            };
            says.push(question.publish(&self.topic));
        }
        Reaction { says, gives_way_to }
    }

    /// The other observer, if this one has to give way to it.
    fn judge(&self, my_uptime: u64, its_uptime: u64, other: &Hello) -> Option<GiveWay> {
        if self.allowed {
            return None;
        }
        let is_younger = match my_uptime.cmp(&its_uptime) {
            Ordering::Less => true,
            Ordering::Equal => self.me.instance < other.instance,
            Ordering::Greater => false,
        };
        if is_younger && Duration::from_millis(my_uptime) < GIVES_WAY {
            return Some(GiveWay {
                other: other.describe(),
                takes_all: other.covers(&self.me),
            });
        }
        warn!(other = other.describe(), "{TWICE}");
        None
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

    fn neighbours(instance: &str, since: Instant, allowed: bool) -> Neighbours {
        let me = Hello {
            name: "observer".to_owned(),
            instance: instance.to_owned(),
            version: "1".to_owned(),
            uptime_ms: 0,
            apps: vec![],
            outgoing: vec!["x".to_owned()],
            question: format!("of {instance}"),
            answers: None,
            in_return: false,
            group: None,
        };
        let topic = TopicName::parse("observer/observer/hello").unwrap();
        Neighbours::new(me, topic, allowed, since)
    }

    /// Whatever one of them says reaches both after `delay`, until nobody says anything. Returns
    /// which of them give way.
    fn talk(pair: &mut [Neighbours; 2], asks: &[usize], at: Instant, delay: Duration) -> [bool; 2] {
        // Who does not ask now has asked before.
        for one in pair
            .iter_mut()
            .enumerate()
            .filter(|(n, _)| !asks.contains(n))
        {
            one.1.is_heard = true;
        }
        let mut said: Vec<_> = asks
            .iter()
            .map(|n| pair[*n].poll_question(at).unwrap())
            .collect();
        let (mut now, mut gives_way) = (at, [false; 2]);
        for _ in 0..10 {
            now += delay;
            let mut says = vec![];
            for publish in said.drain(..) {
                for (one, gives_way) in pair.iter_mut().zip(&mut gives_way) {
                    let reaction = one.handle(&publish.payload, now);
                    says.extend(reaction.says);
                    *gives_way |= reaction.gives_way_to.is_some();
                }
            }
            said = says;
        }
        assert!(said.is_empty(), "they talk for ever");
        gives_way
    }

    #[test]
    fn a_newcomer_gives_way_whatever_its_instance() {
        let start = Instant::now();
        let later = start + Duration::from_secs(3);
        for (old, new) in [("a", "b"), ("b", "a")] {
            for delay in [1, 100, 2_000] {
                let mut pair = [neighbours(old, start, false), neighbours(new, later, false)];
                let at = later + Duration::from_millis(200);
                let gives_way = talk(&mut pair, &[1], at, Duration::from_millis(delay));
                assert_eq!(gives_way, [false, true], "{old} {new} {delay}");
                assert!(pair[1].poll_question(at).is_none(), "once a connection");
                pair[1].handle_session_up();
                assert!(pair[1].poll_question(at).is_some());
            }
        }
    }

    #[test]
    fn of_two_that_start_at_once_exactly_one_gives_way() {
        let start = Instant::now();
        for (first, second) in [("a", "b"), ("b", "a")] {
            for apart in [0, 1, 50, 1_999, 2_000] {
                for delay in [1, 20, 500, 3_000] {
                    let since = start + Duration::from_millis(apart);
                    let mut pair = [
                        neighbours(first, start, false),
                        neighbours(second, since, false),
                    ];
                    let at = since + Duration::from_millis(100);
                    let delay = Duration::from_millis(delay);
                    let [one, other] = talk(&mut pair, &[0, 1], at, delay);
                    assert_ne!(one, other, "{first} {apart} {delay:?}");
                }
            }
        }
    }

    #[test]
    fn nobody_gives_way_who_has_run_for_a_while_or_may_have_neighbours() {
        let start = Instant::now();
        let later = start + Duration::from_secs(60);
        for (asks, since, allowed) in [(0, start, false), (1, later, true)] {
            let mut pair = [
                neighbours("a", start, allowed),
                neighbours("b", since, allowed),
            ];
            let at = later + Duration::from_secs(1);
            let gives_way = talk(&mut pair, &[asks], at, Duration::from_millis(1));
            assert_eq!(gives_way, [false, false]);
        }
    }

    /// Whoever asked may be gone, or may have waited for longer than it said.
    #[test]
    fn a_question_that_has_waited_in_the_session_is_ignored() {
        let start = Instant::now();
        let question = neighbours("a", start, false).poll_question(start).unwrap();
        let mut late = neighbours("b", start + Duration::from_secs(60), false);
        let now = start + Duration::from_secs(61);
        let own = late.poll_question(now).unwrap();
        assert_eq!(late.handle(&question.payload, now), Reaction::default());
        late.handle(&own.payload, now);
        assert_ne!(late.handle(&question.payload, now), Reaction::default());
    }

    /// It has waited in a session that was kept.
    #[test]
    fn an_answer_to_an_earlier_process_is_ignored() {
        let start = Instant::now();
        let mut other = neighbours("b", start, false);
        other.is_heard = true;
        let mut before = neighbours("a", start, false);
        before.me.question = "of an earlier process".to_owned();
        let question = before.poll_question(start).unwrap();
        let late = start + Duration::from_secs(60);
        let reaction = other.handle(&question.payload, late);
        let mut now = neighbours("a", late, false);
        now.is_heard = true;
        for said in reaction.says {
            assert_eq!(now.handle(&said.payload, late).gives_way_to, None);
        }
    }
}
