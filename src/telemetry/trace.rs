//! Trace: one line of JSON for each message, on `observer/{name}/trace/{outcome}`.
//!
//! Owns collecting the lines. The observer publishes them for `watch`, and hands them to the
//! console's [`Feed`].

use std::collections::HashMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

use crate::delivery::ledger::Finished;
use crate::protocol::address::{Address, Kind};
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::telemetry::feed::Feed;
use crate::telemetry::operator_command::Switch;
use crate::telemetry::service_topics::ServiceTopics;
use crate::telemetry::status::json;

/// Topics named in one line of trace; a group message has thousands.
const TRACED_TOPICS: usize = 8;
/// Characters of a topic in a line of trace: a refused topic may have 65,535.
const TRACED_CHARACTERS: usize = 300;

/// Messages of which lines are kept until they are finished. Of more, as when they wait in the
/// delivery log for hours, there are no lines.
const MOST_OPEN: usize = 4_096;

/// What became of a message: the last level of its trace topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Outcome {
    /// Its publishes and writes were made.
    Forwarded,
    /// It was refused, for a reason.
    Refused,
    /// It came again, and was forwarded again under its id.
    Repeated,
    /// It came again while it was still under way.
    Resumed,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The words for all of them.
    pub fn words() -> impl Iterator<Item = &'static str> {
        Self::ALL.iter().map(|outcome| outcome.as_str())
    }

    /// The word in the topic and in the line.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// One line of trace: everything about a message but its text.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// When the message was finished, in milliseconds since 1970.
    pub at: u64,
    /// `forwarded`, `refused`, `repeated` or `resumed`.
    pub outcome: String,
    /// The reason of a refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The kind of message: see [`Kind`].
    pub kind: String,
    /// The layout of a message to a user or a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// The app, if the topic names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The sender, by the topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// The other user or group concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The topic it came on, cut to [`TRACED_CHARACTERS`].
    pub topic: String,
    /// The id the observer gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The first topics it was published to, at most [`TRACED_TOPICS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to: Vec<String>,
    /// The number of publishes made of it.
    pub publishes: usize,
    /// The size of its payload, in bytes.
    pub payload_bytes: usize,
    /// Microseconds from reading it to the last confirmation.
    pub micros: u64,
}

/// A traced message that is not finished.
#[derive(Debug)]
struct Open {
    /// What becomes of it if it is not refused.
    outcome: Outcome,
    reason: Option<Refusal>,
    to: Vec<String>,
    publishes: usize,
}

/// Collects the lines of trace, while tracing is on or somebody looks at the console.
#[derive(Debug, Default)]
pub struct Tracer {
    always: bool,
    until: Option<Instant>,
    feed: Feed,
    open: HashMap<MessageId, Open>,
}

impl Tracer {
    /// On until it is switched off (`always`), or off until it is asked for. Whoever listens to
    /// `feed` gets the lines in any case.
    pub fn new(always: bool, feed: Feed) -> Self {
        Self {
            always,
            until: None,
            feed,
            open: HashMap::new(),
        }
    }

    /// Whether lines of trace are published now.
    pub fn is_on(&self) -> bool {
        self.always || self.until.is_some()
    }

    /// Switches tracing on or off.
    pub fn switch(&mut self, switch: Switch, now: Instant) {
        match switch {
            Switch::On => self.always = true,
            Switch::Off => *self = Self::new(false, self.feed.clone()),
            // Two people who watch do not shorten each other's time.
            Switch::For(time) => self.until = self.until.max(now.checked_add(time)),
        }
    }

    /// Ends tracing when the time it was asked for is over.
    pub fn tick(&mut self, now: Instant) {
        self.until = self.until.filter(|until| now < *until);
        if !self.collects() {
            self.open.clear();
        }
    }

    /// Whether anybody wants lines: whoever reads the trace, or looks at the console.
    pub fn collects(&self) -> bool {
        self.is_on() || self.feed.is_watched()
    }

    /// Hands a line to whoever looks at the console. Returns it if it is to be published, too.
    pub fn hand_out(&self, line: Line) -> Option<Line> {
        if !self.feed.is_watched() {
            return self.is_on().then_some(line);
        }
        let published = self.is_on().then(|| line.clone());
        self.feed.send(line);
        published
    }

    /// A message is being decided on. `outcome` is what becomes of it if it is not refused.
    pub fn begin(&mut self, id: MessageId, outcome: Outcome) {
        if self.collects() && self.open.len() < MOST_OPEN {
            let open = Open {
                outcome,
                reason: None,
                to: vec![],
                publishes: 0,
            };
            self.open.insert(id, open);
        }
    }

    /// More publishes were made of a message, or it was refused.
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

    /// A message is finished. Returns its line, if it is traced.
    pub fn finished(
        &mut self,
        finished: &Finished,
        address: Option<&Address<'_>>,
        now: Instant,
        wall: UnixMillis,
    ) -> Option<Line> {
        let message = &finished.message;
        let open = self.open.remove(&message.id)?;
        let outcome = match open.reason {
            Some(_) => Outcome::Refused,
            None => open.outcome,
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
        self.collects()
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
    /// The message that publishes this line.
    pub fn publish(&self, topics: &ServiceTopics) -> Publish {
        let topic = TopicName::parse(&topics.trace(&self.outcome)).expect("a level each");
        Publish::new(topic, json(self))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::protocol::message_id::MessageIds;
    use std::time::Duration;

    /// A line of some message that was finished at this time.
    pub(in crate::telemetry) fn line(at: u64) -> Line {
        let text = format!(
            r#"{{"at":{at},"outcome":"forwarded","kind":"message","topic":"a/b","publishes":2,
                "payload_bytes":1,"micros":9}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_line_goes_to_the_trace_and_to_who_listens_and_to_nobody_else() {
        let feed = Feed::default();
        let (mut off, on) = (
            Tracer::new(false, feed.clone()),
            Tracer::new(true, feed.clone()),
        );
        assert!(!off.collects() && on.collects());
        let mut listener = feed.listen().unwrap();
        assert!(off.collects() && !off.is_on());
        let id = MessageId::parse("01a2056d-7ec8-7000-902e-986e2c334079").unwrap();
        off.begin(id, Outcome::Forwarded);
        assert_eq!(off.open.len(), 1);
        // Those that wait in the delivery log for hours do not fill the memory.
        let mut ids = MessageIds::new(std::hash::RandomState::new());
        for n in 0..5_000 {
            off.begin(ids.next(UnixMillis::new(n)), Outcome::Forwarded);
        }
        assert_eq!(off.open.len(), MOST_OPEN);
        assert!(off.hand_out(line(1)).is_none());
        assert!(on.hand_out(line(2)).is_some());
        assert!(listener.try_next().is_some() && listener.try_next().is_some());
        drop(listener);
        off.tick(now());
        assert!(off.open.is_empty() && !off.collects());
    }

    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn tracing_ends_when_its_time_is_over_and_not_before() {
        let now = now();
        let minute = Duration::from_secs(60);
        let mut tracer = Tracer::new(false, Feed::default());
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
