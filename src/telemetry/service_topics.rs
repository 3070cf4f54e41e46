//! The observer's own topics, below `observer/{name}/` (`protocol.md`, section 8).
//!
//! Owns their names, and tells them from everybody else's.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::protocol::topic::{Subscription, TopicFilter, TopicName};
use crate::telemetry::operator_command::CommandTopic;

/// Where every observer on the broker says hello.
const EVERY_HELLO: &str = "observer/+/hello";

/// The topics below `observer/{name}/`.
#[derive(Clone, Debug)]
pub struct ServiceTopics {
    prefix: String,
    /// The observer sends messages to itself here. The last level is a hash of the client
    /// identifier, which stays secret.
    pub probe: TopicName,
    /// The retained status.
    pub status: TopicName,
    /// Counters, from time to time.
    pub stats: TopicName,
    /// Observers ask here who else runs, and answer.
    pub hello: TopicName,
    /// Tells this observer from others of the same name: a hash of the client identifier.
    pub instance: String,
}

/// A message on one of the observer's own topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceTopic {
    /// From the observer to itself.
    Probe,
    /// An operator's command. Holds the topic's last level.
    Command(Box<str>),
    /// From any observer on the broker, to all.
    Hello,
    /// The retained status of this observer, whoever published it.
    Status,
    /// What the observer published itself; it comes back where a layout's filter matches it.
    Echo,
}

impl ServiceTopics {
    /// The topics of the observer called `name`.
    ///
    /// # Panics
    /// If `name` is not a topic level.
    pub fn new(name: &str, client_id: &str) -> Self {
        let prefix = format!("observer/{name}/");
        let topic = |last: &str| TopicName::parse(&format!("{prefix}{last}")).expect("a level");
        let mut hasher = DefaultHasher::new();
        client_id.hash(&mut hasher);
        let instance = format!("{:016x}", hasher.finish());
        Self {
            probe: topic(&format!("probe/{instance}")),
            hello: topic("hello"),
            instance,
            status: topic("status"),
            stats: topic("stats"),
            prefix,
        }
    }

    /// The filters the session subscribes to besides those of the layouts.
    pub fn subscriptions(&self) -> [Subscription; 4] {
        let probe = self.probe.as_str().to_owned();
        let status = self.status.as_str().to_owned();
        let control = format!("{}control/+", self.prefix);
        [probe, control, status, EVERY_HELLO.to_owned()].map(|filter| Subscription {
            filter: TopicFilter::parse(&filter).expect("a filter"),
            retained: false,
            is_optional: false,
        })
    }

    /// The name of the observer.
    pub fn name(&self) -> &str {
        let name = self.prefix.strip_prefix("observer/");
        name.map_or("", |name| name.trim_end_matches('/'))
    }

    /// The topic of the trace of one outcome; `+` for all.
    pub fn trace(&self, outcome: &str) -> String {
        format!("{}trace/{outcome}", self.prefix)
    }

    /// The topic on which an operator gives a command.
    pub fn command(&self, topic: CommandTopic) -> String {
        format!("{}control/{}", self.prefix, topic.as_str())
    }

    /// What a topic means, if it is one of the observer's own.
    pub fn own(&self, topic: &[u8]) -> Option<ServiceTopic> {
        let of_any = topic.strip_prefix(b"observer/");
        let name = of_any.and_then(|rest| rest.strip_suffix(b"/hello"));
        if name.is_some_and(|name| !name.contains(&b'/')) {
            return Some(ServiceTopic::Hello);
        }
        if topic == self.status.as_str().as_bytes() {
            return Some(ServiceTopic::Status);
        }
        let rest = topic.strip_prefix(self.prefix.as_bytes())?;
        if topic == self.probe.as_str().as_bytes() {
            return Some(ServiceTopic::Probe);
        }
        let command = rest.strip_prefix(b"control/");
        Some(match command.and_then(|last| str::from_utf8(last).ok()) {
            Some(last) => ServiceTopic::Command(last.into()),
            None => ServiceTopic::Echo,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_topics_are_told_from_others() {
        let topics = ServiceTopics::new("observer", "secret");
        assert_eq!(
            topics.own(topics.probe.as_str().as_bytes()),
            Some(ServiceTopic::Probe)
        );
        assert_eq!(
            topics.own(b"observer/observer/control/trace"),
            Some(ServiceTopic::Command("trace".into()))
        );
        assert_eq!(
            topics.own(b"observer/observer/status"),
            Some(ServiceTopic::Status)
        );
        assert_eq!(
            topics.own(b"observer/observer/stats"),
            Some(ServiceTopic::Echo)
        );
        assert_eq!(
            topics.own(b"observer/other/hello"),
            Some(ServiceTopic::Hello)
        );
        assert_eq!(topics.own(b"observer/other/a/hello"), None);
        assert_eq!(
            topics.own(b"observer/observer/control/\xff"),
            Some(ServiceTopic::Echo)
        );
        assert_eq!(topics.own(b"observer/other/control/trace"), None);
        assert_eq!(topics.own(b"apps/observer/x"), None);
        assert!(!topics.probe.as_str().contains("secret"));
    }
}
