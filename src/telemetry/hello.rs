//! How observers on one broker find each other (`protocol.md`, section 8).
//!
//! Owns what they say, and when two of them would deliver every message twice. Each asks on its
//! own topic `observer/{name}/hello` when it has connected, and all that run answer on theirs. The
//! answers are not retained: only an observer that runs can give one, and RabbitMQ hands retained
//! messages to no wildcard filter.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::status::json;
use crate::protocol::publish::Publish;
use crate::protocol::topic::TopicName;
use crate::protocol::topic_map::TopicMap;

/// What an observer says of itself to others on the same broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its public name.
    pub name: String,
    /// Tells it from others of that name: a hash of its client identifier.
    pub instance: String,
    /// The version of the program.
    pub version: String,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// The apps that it serves; all of them if empty.
    pub apps: Vec<String>,
    /// The topics that it reads messages from, as templates.
    pub outgoing: Vec<String>,
    /// What the question is known by. An answer repeats it.
    pub question: String,
    /// For how long the one who asked had run then; `None` in a question.
    pub answers: Option<u64>,
    /// Whether this is a question in return to somebody else's.
    pub in_return: bool,
    /// Observers of the same group share messages among them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl Hello {
    /// What an observer says that has just started.
    pub fn new(name: &str, instance: &str, layouts: &TopicMap, question: String) -> Self {
        let outgoing = layouts.iter().map(|layout| layout.outgoing().to_string());
        Self {
            name: name.to_owned(),
            instance: instance.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: 0,
            apps: layouts.apps().to_vec(),
            outgoing: outgoing.collect(),
            question,
            answers: None,
            in_return: false,
            group: None,
        }
    }

    /// The same of one of a group.
    #[must_use]
    pub fn of_group(self, group: Option<&str>) -> Self {
        let group = group.map(str::to_owned);
        Self { group, ..self }
    }

    /// Whether both would take the same messages.
    pub fn meets(&self, other: &Self) -> bool {
        let meet = |these: &[String], those: &[String]| these.iter().any(|one| those.contains(one));
        let any_app = self.apps.is_empty() || other.apps.is_empty();
        let share = self.group.is_some() && self.group == other.group;
        !share
            && (any_app || meet(&self.apps, &other.apps))
            && meet(&self.outgoing, &other.outgoing)
    }

    /// Whether it takes every message that `other` would.
    pub fn covers(&self, other: &Self) -> bool {
        let all = |these: &[String], those: &[String]| those.iter().all(|one| these.contains(one));
        let apps = match (&self.apps[..], &other.apps[..]) {
            ([], _) => true,
            (_, []) => false,
            (these, those) => all(these, those),
        };
        apps && all(&self.outgoing, &other.outgoing)
    }

    /// It as a message on `topic`.
    pub fn publish(&self, topic: &TopicName) -> Publish {
        Publish::new(topic.clone(), json(self))
    }

    /// Reads what an observer said; `None` for anything else.
    pub fn parse(payload: &Bytes) -> Option<Self> {
        serde_json::from_slice(payload).ok()
    }

    /// The observer, for people.
    pub fn describe(&self) -> String {
        let uptime = Duration::from_secs(self.uptime_ms / 1_000);
        let apps = match &self.apps[..] {
            [] => "every app".to_owned(),
            apps => apps.join(", "),
        };
        format!(
            "{:?} (instance {}, version {}, up for {}, serves {apps})",
            self.name,
            self.instance,
            self.version,
            humantime::format_duration(uptime)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(instance: &str, uptime_ms: u64, apps: &[&str], outgoing: &[&str]) -> Hello {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        Hello {
            name: "observer".to_owned(),
            instance: instance.to_owned(),
            version: "1".to_owned(),
            uptime_ms,
            apps: texts(apps),
            outgoing: texts(outgoing),
            question: "1".to_owned(),
            answers: None,
            in_return: false,
            group: None,
        }
    }

    #[test]
    fn they_meet_if_they_read_the_same_topics_of_the_same_app() {
        let of = |apps: &[&str], outgoing: &[&str]| hello("a", 0, apps, outgoing);
        assert!(of(&[], &["x", "y"]).meets(&of(&["one"], &["y", "z"])));
        assert!(of(&["one", "two"], &["x"]).meets(&of(&["two"], &["x"])));
        assert!(!of(&["one"], &["x"]).meets(&of(&["two"], &["x"])));
        assert!(!of(&[], &["x"]).meets(&of(&[], &["y"])));
        let slot = |group| of(&[], &["x"]).of_group(group);
        assert!(!slot(Some("one")).meets(&slot(Some("one"))), "they share");
        assert!(slot(Some("one")).meets(&slot(Some("two"))));
        assert!(slot(Some("one")).meets(&slot(None)) && slot(None).meets(&slot(None)));
    }

    #[test]
    fn one_covers_another_if_it_takes_all_of_it() {
        let of = |apps: &[&str], outgoing: &[&str]| hello("a", 0, apps, outgoing);
        assert!(of(&[], &["x", "y"]).covers(&of(&["one"], &["x"])));
        assert!(of(&["one", "two"], &["x"]).covers(&of(&["two"], &["x"])));
        assert!(!of(&["one"], &["x"]).covers(&of(&["one", "two"], &["x"])));
        assert!(!of(&["one"], &["x"]).covers(&of(&[], &["x"])));
        assert!(!of(&[], &["x"]).covers(&of(&[], &["x", "y"])));
    }

    #[test]
    fn what_one_says_the_other_reads() {
        let said = hello("a", 61_000, &["one"], &["x"]);
        let topic = TopicName::parse("observer/observer/hello").unwrap();
        assert_eq!(Hello::parse(&said.publish(&topic).payload), Some(said));
        assert_eq!(Hello::parse(&Bytes::from_static(b"hello?")), None);
        let text = hello("a", 61_000, &[], &["x"]).describe();
        let expected = r#""observer" (instance a, version 1, up for 1m 1s, serves every app)"#;
        assert_eq!(text, expected);
    }
}
