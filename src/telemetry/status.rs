//! What the observer says of itself over MQTT, for those who have nothing else (`protocol.md`, section 8), and what it is told there:
//! status, stats, trace, control. It does no I/O and reads no clock; `daemon.rs` publishes.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::delivery::ledger::Finished;
use crate::protocol::id::MessageId;
use crate::protocol::layout::{Address, Kind};
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};
use crate::telemetry::{Load, Stats};

/// Topics named in one line of trace; a group message has thousands.
const TRACED_TOPICS: usize = 8;
/// Characters of a topic in a line of trace: one that is refused may have 65,535.
const TRACED_CHARACTERS: usize = 300;
/// The longest time for which tracing can be asked for: somebody who looks on asks again.
const LONGEST_TRACE: Duration = Duration::from_secs(24 * 3600);

/// The topics below `observer/{name}/`.
#[derive(Clone, Debug)]
pub struct ServiceTopics {
    prefix: String,
    /// Where the observer sends messages to itself: it does not give its client identifier away.
    pub probe: TopicName,
    /// Where its status is kept.
    pub status: TopicName,
    /// Where it says now and then what it has done.
    pub stats: TopicName,
}

/// A message on one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceTopic<'t> {
    /// From the observer to itself.
    Probe,
    /// From an operator: what he wants changed.
    Control(&'t str),
    /// What it has said itself, for a layout whose filter matches it.
    Echo,
}

impl ServiceTopics {
    /// `name` is the observer's public name, a topic level.
    ///
    /// # Panics
    /// Where the name is none.
    pub fn new(name: &str, client_id: &str) -> Self {
        let prefix = format!("observer/{name}/");
        let topic = |last: &str| TopicName::parse(&format!("{prefix}{last}")).expect("a level");
        let mut hasher = DefaultHasher::new();
        client_id.hash(&mut hasher);
        Self {
            probe: topic(&format!("probe/{:016x}", hasher.finish())),
            status: topic("status"),
            stats: topic("stats"),
            prefix,
        }
    }

    /// What the session subscribes to besides the layouts' filters.
    pub fn subscriptions(&self) -> [Subscription; 2] {
        let probe = self.probe.as_str().to_owned();
        [probe, format!("{}control/+", self.prefix)].map(|filter| Subscription {
            filter: TopicFilter::parse(&filter).expect("a filter"),
            retained: false,
        })
    }

    /// The line of trace of an outcome, or of all.
    pub fn trace(&self, outcome: &str) -> String {
        format!("{}trace/{outcome}", self.prefix)
    }

    /// Where tracing is switched on and off.
    pub fn control_trace(&self) -> String {
        format!("{}control/trace", self.prefix)
    }

    /// What a topic is, if it is one of these.
    pub fn own<'t>(&self, topic: &'t [u8]) -> Option<ServiceTopic<'t>> {
        let rest = topic.strip_prefix(self.prefix.as_bytes())?;
        if topic == self.probe.as_str().as_bytes() {
            return Some(ServiceTopic::Probe);
        }
        let control = rest.strip_prefix(b"control/");
        Some(match control.and_then(|what| str::from_utf8(what).ok()) {
            Some(what) => ServiceTopic::Control(what),
            None => ServiceTopic::Echo,
        })
    }
}

/// Something an operator wants of a running observer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// `control/trace`.
    Trace(Switch),
    /// `control/log-level`: a level, or a filter.
    LogLevel(String),
}

/// Whether something is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// From now on.
    On,
    /// No more.
    Off,
    /// For so long.
    For(Duration),
}

impl Command {
    /// `what` is the last level of the topic.
    ///
    /// # Errors
    /// What is wrong with it, and what it could be.
    pub fn parse(what: &str, payload: &[u8]) -> Result<Self, String> {
        let text = str::from_utf8(payload).map_err(|_| "is not UTF-8".to_owned())?;
        let text = text.trim();
        match what {
            "trace" => Ok(Self::Trace(match text {
                "on" => Switch::On,
                "off" => Switch::Off,
                time => match humantime::parse_duration(time) {
                    Ok(time) => Switch::For(time.min(LONGEST_TRACE)),
                    Err(_) => return Err("is neither on, off nor a time such as 10m".to_owned()),
                },
            })),
            "log-level" => Ok(Self::LogLevel(text.to_owned())),
            _ => Err("is neither control/trace nor control/log-level".to_owned()),
        }
    }
}

/// The retained status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Whether the observer runs and is connected.
    pub online: bool,
    /// Whether messages pass.
    pub ready: bool,
    /// Why they do not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
    /// Of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Since when it has run, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// Whether each message leaves a line of trace.
    #[serde(default)]
    pub trace: bool,
    /// What is logged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
}

impl Status {
    /// Of an observer that is not there: its will.
    pub fn offline() -> Self {
        Self {
            online: false,
            ready: false,
            faults: vec![],
            version: None,
            started_at: None,
            trace: false,
            log_level: None,
        }
    }

    /// What is kept at `topic`.
    pub fn publish(&self, topic: &TopicName) -> Publish {
        Publish {
            retain: true,
            ..Publish::new(topic.clone(), json(self))
        }
    }
}

#[derive(Serialize)]
struct StatsMessage {
    at: u64,
    uptime_seconds: u64,
    forwarded: u64,
    refused: HashMap<&'static str, u64>,
    resumed: u64,
    repeated: u64,
    unanswered: u64,
    inflight_messages: usize,
    inflight_publishes: usize,
    oldest_unacknowledged_ms: u128,
    webhooks_waiting: i64,
}

/// What the observer says now and then: what it has done since it began, and what it has in hand.
pub fn stats(
    topic: &TopicName,
    stats: &Stats,
    load: &Load,
    webhooks_waiting: i64,
    uptime: Duration,
    now: UnixMillis,
) -> Publish {
    let reasons = stats.reasons();
    let message = StatsMessage {
        at: now.as_millis(),
        uptime_seconds: uptime.as_secs(),
        forwarded: stats.forwarded,
        refused: reasons
            .map(|(reason, count)| (reason.as_str(), count))
            .collect(),
        resumed: stats.resumed,
        repeated: stats.repeated,
        unanswered: stats.unanswered,
        inflight_messages: load.messages,
        inflight_publishes: load.publishes,
        oldest_unacknowledged_ms: load.oldest.as_millis(),
        webhooks_waiting,
    };
    Publish::new(topic.clone(), json(&message))
}

/// What became of a message, as `trace/{outcome}` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acted on.
    Forwarded,
    /// It was not.
    Refused,
    /// It came again, and was acted on again under its id.
    Repeated,
    /// It came again while it was still under way.
    Resumed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 4] = [
        Self::Forwarded,
        Self::Refused,
        Self::Repeated,
        Self::Resumed,
    ];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Refused => "refused",
            Self::Repeated => "repeated",
            Self::Resumed => "resumed",
        }
    }
}

/// One line of trace: everything but what was said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// When the message was done with, in milliseconds since 1970.
    pub at: u64,
    /// `forwarded`, `refused`, `repeated` or `resumed`.
    pub outcome: String,
    /// The reason, if it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What kind of message it is.
    pub kind: String,
    /// The layout, of a message to a user or a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// The app, if the topic says one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// Who wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Whom it concerns besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Where it came in.
    pub topic: String,
    /// The id it was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// Where it went: the first of those topics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// How many publishes were made of it.
    pub publishes: usize,
    /// Of its payload.
    pub payload_bytes: usize,
    /// From reading it to the last confirmation.
    pub micros: u64,
}

/// A message that is traced, and not done with.
#[derive(Debug, Default)]
struct Open {
    reason: Option<Refusal>,
    repeated: bool,
    to: Vec<String>,
    publishes: usize,
}

/// The lines of trace that are being made, and whether any are.
#[derive(Debug, Default)]
pub struct Tracer {
    always: bool,
    until: Option<Instant>,
    open: HashMap<MessageId, Open>,
}

impl Tracer {
    /// `always`: until it is switched off.
    pub fn new(always: bool) -> Self {
        Self {
            always,
            ..Self::default()
        }
    }

    /// Whether messages are traced.
    pub fn is_on(&self) -> bool {
        self.always || self.until.is_some()
    }

    /// Switches it on or off.
    pub fn switch(&mut self, switch: Switch, now: Instant) {
        match switch {
            Switch::On => self.always = true,
            Switch::Off => *self = Self::default(),
            // Two who look on do not cut each other's time.
            Switch::For(time) => self.until = self.until.max(now.checked_add(time)),
        }
    }

    /// Ends what has been asked for long enough ago.
    pub fn tick(&mut self, now: Instant) {
        self.until = self.until.filter(|until| now < *until);
        if !self.is_on() {
            self.open.clear();
        }
    }

    /// A message is being decided on.
    pub fn begin(&mut self, id: MessageId, repeated: bool) {
        if self.is_on() {
            let open = Open {
                repeated,
                ..Open::default()
            };
            self.open.insert(id, open);
        }
    }

    /// It leads to these publishes, or to some of them.
    pub fn decided(&mut self, id: MessageId, reason: Option<Refusal>, publishes: &[Publish]) {
        let Some(open) = self.open.get_mut(&id) else {
            return;
        };
        open.reason = open.reason.or(reason);
        open.publishes += publishes.len();
        let room = TRACED_TOPICS.saturating_sub(open.to.len());
        let topics = publishes.iter().take(room);
        open.to
            .extend(topics.map(|publish| publish.topic.as_str().to_owned()));
    }

    /// It is done with. Returns its line, if it is traced.
    pub fn finished(
        &mut self,
        finished: &Finished,
        address: Option<&Address<'_>>,
        now: Instant,
        wall: UnixMillis,
    ) -> Option<Line> {
        let message = &finished.message;
        let open = self.open.remove(&message.id)?;
        let outcome = match (open.reason, open.repeated) {
            (Some(_), _) => Outcome::Refused,
            (None, true) => Outcome::Repeated,
            (None, false) => Outcome::Forwarded,
        };
        let took = now.saturating_duration_since(message.since);
        Some(Line {
            reason: open.reason.map(|reason| reason.as_str().to_owned()),
            message_id: Some(message.id.to_string()),
            to: open.to,
            publishes: open.publishes,
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            ..line(outcome, &message.received, address, wall)
        })
    }

    /// A message came again while it was under way.
    pub fn resumed(
        &self,
        received: &Received,
        address: Option<&Address<'_>>,
        wall: UnixMillis,
    ) -> Option<Line> {
        self.is_on()
            .then(|| line(Outcome::Resumed, received, address, wall))
    }
}

fn line(
    outcome: Outcome,
    received: &Received,
    address: Option<&Address<'_>>,
    wall: UnixMillis,
) -> Line {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let outgoing = address.and_then(Address::outgoing);
    Line {
        at: wall.as_millis(),
        outcome: outcome.as_str().to_owned(),
        reason: None,
        kind: address
            .map_or(Kind::Unknown, Address::kind)
            .as_str()
            .to_owned(),
        layout: outgoing.map(|outgoing| outgoing.layout.name().to_owned()),
        app: address.map(|address| address.app().as_str().to_owned()),
        sender: address
            .and_then(Address::sender)
            .map(|sender| sender.as_str().to_owned()),
        recipient: address.and_then(|address| some(address.other_side())),
        topic: String::from_utf8_lossy(&received.topic)
            .chars()
            .take(TRACED_CHARACTERS)
            .collect(),
        message_id: None,
        to: vec![],
        publishes: 0,
        payload_bytes: received.payload_bytes,
        micros: 0,
    }
}

impl Line {
    /// Where and how it is published.
    pub fn publish(&self, topics: &ServiceTopics) -> Publish {
        let topic = TopicName::parse(&topics.trace(&self.outcome)).expect("a level each");
        Publish::new(topic, json(self))
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    let text = serde_json::to_vec(value);
    text.expect("plain fields serialise").into()
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
            Some(ServiceTopic::Control("trace"))
        );
        assert_eq!(
            topics.own(b"observer/observer/status"),
            Some(ServiceTopic::Echo)
        );
        assert_eq!(
            topics.own(b"observer/observer/control/\xff"),
            Some(ServiceTopic::Echo)
        );
        assert_eq!(topics.own(b"observer/other/control/trace"), None);
        assert_eq!(topics.own(b"apps/observer/x"), None);
        assert!(!topics.probe.as_str().contains("secret"));
    }

    #[test]
    fn commands_are_read_or_named() {
        let parse = |what, payload: &str| Command::parse(what, payload.as_bytes());
        assert_eq!(parse("trace", "on\n"), Ok(Command::Trace(Switch::On)));
        assert_eq!(
            parse("trace", "10m"),
            Ok(Command::Trace(Switch::For(Duration::from_secs(600))))
        );
        assert_eq!(
            parse("trace", "9years"),
            Ok(Command::Trace(Switch::For(LONGEST_TRACE)))
        );
        assert!(parse("trace", "perhaps").unwrap_err().contains("10m"));
        assert!(parse("reboot", "").unwrap_err().contains("log-level"));
        assert!(Command::parse("trace", b"\xff").is_err());
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn tracing_ends_when_its_time_is_over_and_not_before() {
        let now = Instant::now();
        let minute = Duration::from_secs(60);
        let mut tracer = Tracer::new(false);
        tracer.switch(Switch::For(minute), now);
        tracer.switch(Switch::For(minute / 2), now);
        tracer.tick(now + minute / 2);
        assert!(tracer.is_on());
        tracer.tick(now + minute);
        assert!(!tracer.is_on());
        tracer.switch(Switch::On, now);
        tracer.tick(now + minute);
        assert!(tracer.is_on());
        tracer.switch(Switch::Off, now);
        assert!(!tracer.is_on());
    }
}
