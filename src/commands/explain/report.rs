//! The explanation as it is printed: JSON for programs, text for people.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::protocol::amqp::amqp_key;
use crate::protocol::publish::Publish;

/// What would become of a publish. Serialized, it is the command's JSON.
#[derive(Debug, Default, Serialize)]
pub(super) struct Explanation {
    pub(super) topic: String,
    pub(super) amqp_routing_key: String,
    pub(super) payload: String,
    pub(super) verdict: &'static str,
    /// The name of the refusal, if it is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) because: Option<String>,
    /// The template that the topic probably means, and where it differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) nearest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<Message>,
    pub(super) writes: Vec<String>,
    pub(super) publishes: Vec<Published>,
    /// Further publishes of the same kind, which are not listed.
    pub(super) more_publishes: usize,
    /// Bodies that webhooks would be sent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) webhooks: Vec<Box<RawValue>>,
    pub(super) notes: Vec<String>,
}

/// What the topic says.
#[derive(Debug, Serialize)]
pub(super) struct Message {
    pub(super) kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) layout: Option<String>,
    /// Whether the layout forwards payloads verbatim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payload: Option<&'static str>,
    /// The filter the observer reads the topic with.
    pub(super) filter: String,
    pub(super) amqp_binding_key: String,
    pub(super) app: String,
    pub(super) sender: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) recipient: String,
    pub(super) sender_scope: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) recipient_scope: String,
}

/// A publish of the observer.
#[derive(Debug, Serialize)]
pub(super) struct Published {
    topic: String,
    amqp_routing_key: String,
    payload: String,
}

impl From<&Publish> for Published {
    fn from(publish: &Publish) -> Self {
        Self {
            topic: publish.topic.to_string(),
            amqp_routing_key: amqp_key(publish.topic.as_str()),
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
        }
    }
}

/// Rows of a name and a text.
#[derive(Default)]
struct Rows(String);

impl Rows {
    fn add(&mut self, name: &str, text: &str) {
        let _ = writeln!(self.0, "{name:<11}{text}");
    }
}

impl Explanation {
    /// Of a publish about which nothing is known yet.
    pub(super) fn of(topic: &str, payload: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            amqp_routing_key: amqp_key(topic),
            payload: payload.to_owned(),
            ..Self::default()
        }
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut rows = Rows::default();
        rows.add("topic", &self.topic);
        rows.add("AMQP key", &self.amqp_routing_key);
        if let Some(message) = &self.message {
            message.add_to(&mut rows);
        }
        if !self.payload.is_empty() {
            rows.add("payload", &self.payload);
        }
        match (&self.reason, &self.because) {
            (Some(reason), Some(because)) => rows.add(
                "verdict",
                &format!("{}: {reason}, because {because}", self.verdict),
            ),
            (None, Some(because)) => rows.add("verdict", &format!("{}: {because}", self.verdict)),
            (_, None) => rows.add("verdict", self.verdict),
        }
        if let Some(nearest) = &self.nearest {
            rows.add("nearest", nearest);
        }
        for write in &self.writes {
            rows.add("stores", write);
        }
        for publish in &self.publishes {
            rows.add("publishes", &publish.topic);
            rows.add("", &publish.payload);
        }
        if self.more_publishes > 0 {
            rows.add("", &format!("and {} more", self.more_publishes));
        }
        for event in &self.webhooks {
            rows.add("notifies", event.get());
        }
        for note in &self.notes {
            rows.add("note", note);
        }
        rows.0
    }
}

impl Message {
    fn add_to(&self, rows: &mut Rows) {
        match (&self.layout, self.payload) {
            (Some(layout), Some(payload)) => rows.add("layout", &format!("{layout} ({payload})")),
            _ => rows.add("kind", self.kind),
        }
        let (filter, key) = (&self.filter, &self.amqp_binding_key);
        rows.add("filter", &format!("{filter}   AMQP binding {key}"));
        rows.add("app", &self.app);
        let (sender, scope) = (&self.sender, &self.sender_scope);
        rows.add(
            "sender",
            &format!("{sender}   may write here with scope {scope}"),
        );
        match (self.recipient.as_str(), self.recipient_scope.as_str()) {
            ("", _) => {}
            (other, "") => rows.add("concerns", other),
            (recipient, scope) => rows.add(
                "recipient",
                &format!("{recipient}   reads their inbox with scope {scope}"),
            ),
        }
    }
}
