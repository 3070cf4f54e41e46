//! `explain`: what the observer would do with a publish, and why. It looks into the store, and connects to nothing.

use std::fmt::Write as _;

use serde::Serialize;

use serde_json::value::RawValue;

use crate::config::Config;
use crate::protocol::id::{AppId, MessageIds, UserId};
use crate::protocol::layout::{Address, PayloadMode, TopicMap};
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::request::{BlockChange, Request};
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::{BrokerKind, amqp_key};
use crate::rules::facts::{FactSource, GroupLookup, NoStore};
use crate::rules::group_message;
use crate::rules::plan::{Acknowledgement, Arrival, Plan};
use crate::rules::webhook_event::{self, Event};
use crate::rules::write::{Listing, Write};
use crate::store::{Store, StoreError, StoreLocation};

/// Copies for many that are shown; the others are counted.
const SHOWN: usize = 5;

/// What would become of a message.
#[derive(Debug, Serialize)]
pub struct Explanation {
    topic: String,
    amqp_routing_key: String,
    payload: String,
    verdict: &'static str,
    /// Why it is refused, if it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    writes: Vec<String>,
    publishes: Vec<Copy>,
    /// More publishes of the same kind.
    more_publishes: usize,
    /// What webhooks are told, if there are any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    webhooks: Vec<Box<RawValue>>,
    notes: Vec<String>,
}

/// What the topic says.
#[derive(Debug, Serialize)]
struct Message {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    layout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'static str>,
    filter: String,
    amqp_binding_key: String,
    app: String,
    sender: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    recipient: String,
    sender_scope: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    recipient_scope: String,
}

#[derive(Debug, Serialize)]
struct Copy {
    topic: String,
    amqp_routing_key: String,
    payload: String,
}

impl From<&Publish> for Copy {
    fn from(publish: &Publish) -> Self {
        Self {
            topic: publish.topic.to_string(),
            amqp_routing_key: amqp_key(publish.topic.as_str()),
            payload: String::from_utf8_lossy(&publish.payload).into_owned(),
        }
    }
}

/// Explains a publish of `payload` to `topic`; without one, of what is usual there.
///
/// # Errors
/// [`StoreError`], if there is a store that cannot be read.
#[expect(
    clippy::disallowed_methods,
    reason = "the edge: an explanation is of now"
)]
pub fn explain(
    config: &Config,
    topic: &str,
    payload: Option<&str>,
) -> Result<Explanation, StoreError> {
    let now = UnixMillis::from(std::time::SystemTime::now());
    let router = &config.router;
    let mut notes = vec![];
    let redeliver = config
        .store
        .as_ref()
        .is_some_and(|settings| settings.redeliver);
    let mut store = match config.store.as_ref().map(|settings| &settings.place) {
        Some(StoreLocation::File(path)) if path.exists() => {
            Some(Store::open_shared(path)?.redelivering(redeliver))
        }
        Some(place) => {
            if let StoreLocation::File(path) = place {
                notes.push(format!(
                    "there is no store at {} yet: as if it were empty",
                    path.display()
                ));
            }
            Some(Store::open(&StoreLocation::Memory, redeliver)?)
        }
        None => None,
    };
    let parsed = router.layouts.parse(topic);
    let payload = payload.unwrap_or_else(|| parsed.as_ref().map_or("", usual_payload));
    let mut received = Received::new(topic.to_owned().into(), payload.to_owned().into(), false);
    received.cut_to(config.policy_file.max_payload_bytes());
    let id = MessageIds::new(std::hash::RandomState::new()).next(now);
    let request = router.read(&received);
    let arrival = Arrival {
        received: &received,
        id,
        acknowledgement: Acknowledgement::Expected,
    };
    let plan = match (&request, &mut store) {
        (Ok(request), Some(store)) => router.plan(request, &arrival, store)?,
        (Ok(request), None) => {
            let Ok(plan) = router.plan(request, &arrival, &mut NoStore);
            plan
        }
        (Err(refusal), _) => router.refuse(&received, &(*refusal).into(), now),
    };
    let request = request.as_ref().ok();
    if let Err(error) = BrokerKind::RabbitMq.carries(topic) {
        notes.push(format!("on RabbitMQ: {error}"));
    }
    if parsed.is_err()
        && let Some(layout) = router.layouts.inbox_layout(topic)
    {
        notes.push(format!(
            "this is an inbox path of layout {}: the observer writes there and never reads it",
            layout.name()
        ));
    }
    let because = match (&parsed, plan.refusal) {
        (_, None) => None,
        (Err(error), _) if config.store.is_none() => Some(format!(
            "{error}; without a store (--store none) only outgoing paths are read"
        )),
        (Err(error), _) => Some(error.to_string()),
        (Ok(_), Some(reason)) => Some(because(reason, request, config)),
    };
    if let Some(request) = request {
        notes.extend(match &mut store {
            Some(store) => group_note(request, &plan, store)?,
            None => {
                let Ok(note) = group_note(request, &plan, &mut NoStore);
                note
            }
        });
    }
    let (mut publishes, mut writes, mut more) = (
        plan.publishes
            .iter()
            .chain(&plan.answers)
            .map(Copy::from)
            .collect::<Vec<_>>(),
        plan.writes.iter().filter_map(described).collect::<Vec<_>>(),
        0,
    );
    let told = |events: &[Event]| -> Vec<Box<RawValue>> {
        let body = |event: &Event| {
            let data = String::from_utf8_lossy(&event.data);
            serde_json::from_slice(&webhook_event::body(&event.head, &data)).ok()
        };
        events.iter().filter_map(body).collect()
    };
    let mut webhooks = told(&plan.events);
    let mut rest = plan.fan_out.clone();
    let own = publishes.len();
    while let Some(fan_out) = rest.take() {
        let page = match (fan_out.query(), &store) {
            (Some((app, user, query)), Some(store)) => Some(store.page(app, user, &query)?),
            _ => None,
        };
        let step = fan_out.step(&router.layouts, page);
        for publish in &step.publishes {
            if publishes.len() < own + SHOWN {
                publishes.push(publish.into());
            } else {
                more += 1;
            }
        }
        if !step.writes.is_empty() {
            writes.push(format!(
                "{} copies in timelines, status 150",
                step.writes.len()
            ));
        }
        if webhooks.len() < SHOWN {
            webhooks.extend(told(&step.events));
        }
        rest = step.rest;
    }
    webhooks.truncate(SHOWN);
    Ok(Explanation {
        topic: topic.to_owned(),
        amqp_routing_key: amqp_key(topic),
        payload: payload.to_owned(),
        verdict: match (&plan.refusal, publishes.is_empty(), writes.is_empty()) {
            (Some(_), ..) => "refused",
            (None, true, true) => "nothing to do",
            (None, true, false) => "stored",
            (None, false, _) => "forwarded",
        },
        reason: plan.refusal.map(Refusal::as_str),
        because,
        message: parsed
            .ok()
            .map(|address| message(&router.layouts, topic, &address)),
        writes,
        publishes,
        more_publishes: more,
        webhooks,
        notes,
    })
}

/// What is usually sent there.
fn usual_payload(address: &Address<'_>) -> &'static str {
    match address {
        Address::Outgoing(_) => r#"{"text":"hello"}"#,
        Address::Receipt(..) => r#"{"status":200}"#,
        Address::Conversation(_) => r#"{"is_new":false}"#,
        Address::Archive(_) | Address::Fetch { .. } => "{}",
        Address::Presence { .. } => r#"{"connected":true}"#,
        Address::Block(_) => r#"{"blocked":true}"#,
        Address::Inject(_) => {
            r#"{"message_id":"01","sender":"system","text":"hello","status":150}"#
        }
        Address::Groups { .. } => {
            r#"{"group":{"uid":"group-1","members":{"alice":1}},"notify_to":{"alice":1}}"#
        }
    }
}

fn because(reason: Refusal, request: Option<&Request<'_>>, config: &Config) -> String {
    let policy = &config.router.policy;
    let app = request.map(|request| request.address().app());
    let rules = app.map_or(&policy.rules, |app| policy.rules(app));
    match (reason, request) {
        (Refusal::Banned, _) => "the sender is banned (--banned, or block ban)".to_owned(),
        (Refusal::Blocked, _) => "the recipient blocks the sender, who is not told".to_owned(),
        (Refusal::NotAGroup, Some(_)) if config.store.is_none() => {
            "it is for a group that is not written into the message, and without a store (--store none) no other is known".to_owned()
        }
        (Refusal::NotAGroup, _) => "the recipient is no group: its name does not contain \"group-\", and none is stored under it".to_owned(),
        (Refusal::NotAMember, _) => "the sender is no member of the stored group (--groups-membership, --privileged-senders)".to_owned(),
        (Refusal::TooManyRecipients, _) => format!("it would go to more than {} members (--max-recipients)", rules.max_recipients),
        (Refusal::BadStatus, Some(Request::Receipt { .. })) => {
            "that message is not in this timeline, or its receipt would come from who wrote it".to_owned()
        }
        (Refusal::BadStatus, _) => "the payload does not say what this topic is for".to_owned(),
        (Refusal::TooLarge, Some(Request::Block { .. })) => {
            "he blocks as many as he may".to_owned()
        }
        (Refusal::TooLarge, _) => format!("it is over {} bytes (--max-payload), nested deeper than {} (--max-depth), or of more than {} values (--max-values)", rules.max_payload_bytes, rules.max_depth, rules.max_values),
        (Refusal::Unroutable, _) => "the broker cannot carry a topic it leads to (--broker-kind)".to_owned(),
        (
            Refusal::MalformedTopic
            | Refusal::ReservedIdentifier
            | Refusal::Retained
            | Refusal::NotJson
            | Refusal::NotAnObject
            | Refusal::RateLimited
            | Refusal::Unauthorized,
            _,
        ) => format!("the payload or an identifier in it is refused as {reason}"),
    }
}

fn group_note<S: FactSource>(
    request: &Request<'_>,
    plan: &Plan<'_>,
    source: &mut S,
) -> Result<Option<String>, S::Error> {
    let Request::Message { outgoing, .. } = request else {
        return Ok(None);
    };
    if plan.refusal == Some(Refusal::Banned) {
        return Ok(None);
    }
    let Some(facts) = group_message::Facts::look_up(outgoing, source)? else {
        return Ok(None);
    };
    Ok(match facts.group {
        GroupLookup::Stored(group) => Some(format!("a stored group of {}", group.members.len())),
        GroupLookup::NotStored | GroupLookup::NoStore if plan.refusal.is_none() => Some(
            "no stored group: it goes to those written into the message, else to the sender alone"
                .to_owned(),
        ),
        GroupLookup::NotStored | GroupLookup::NoStore => None,
    })
}

/// `None` for what is noted beside, and follows from the rest.
fn described(write: &Write<'_>) -> Option<String> {
    Some(match write {
        Write::Message(message) => format!("message {}, once", message.id),
        Write::Copy(copy) => format!(
            "copy in the timeline of {} with {}, status {}{}",
            copy.timeline.inbox_of,
            copy.timeline.convers_with,
            copy.status.code(),
            match copy.listing {
                Listing::Listed => "",
                Listing::Unlisted => ", not listed",
            }
        ),
        Write::Raise {
            timeline, status, ..
        } => format!(
            "the copy of {} is at least at status {}",
            timeline.inbox_of,
            status.code()
        ),
        Write::Patch(timeline, _) => {
            format!(
                "the conversation of {} with {} is patched",
                timeline.inbox_of, timeline.convers_with
            )
        }
        Write::Archive(timeline) => {
            format!(
                "the conversation of {} with {} is archived",
                timeline.inbox_of, timeline.convers_with
            )
        }
        Write::ClientConnected(client) => format!("a client of {} is there", client.user),
        Write::ClientGone(client) => format!("a client of {} is gone", client.user),
        Write::Absence { .. } => return None,
        Write::Redelivered { user, .. } => format!("{user} has been given what he missed"),
        Write::Block(timeline, change) => format!(
            "{} {} {}",
            timeline.inbox_of,
            match change {
                BlockChange::Block => "blocks",
                BlockChange::Unblock => "no longer blocks",
            },
            timeline.convers_with
        ),
        Write::Group { id, .. } => format!("group {id}"),
    })
}

fn message(layouts: &TopicMap, topic: &str, address: &Address<'_>) -> Message {
    let filter = layouts
        .filters()
        .into_iter()
        .find(|subscription| subscription.filter.matches(topic))
        .map(|subscription| subscription.filter.as_str().to_owned())
        .unwrap_or_default();
    let dot = if topic.starts_with('/') { "." } else { "" };
    let own = |app: AppId<'_>, user: UserId<'_>| format!("{dot}apps.{app}.users.{user}.*");
    let (app, user) = (address.app(), address.sender());
    let kind = match address {
        Address::Outgoing(_) => "message",
        Address::Receipt(..) => "receipt",
        Address::Conversation(_) => "conversation patch",
        Address::Archive(_) => "archive",
        Address::Presence { .. } => "presence",
        Address::Block(_) => "block",
        Address::Fetch { .. } => "inbox fetch",
        Address::Inject(_) => "delivered (inject)",
        Address::Groups { .. } => "group update",
    };
    let outgoing = address.outgoing();
    let sender_scope = match user {
        Some(user) if topic.starts_with(&format!("apps/{app}/outgoing/")) => {
            format!("apps.{app}.outgoing.users.{user}.*")
        }
        Some(user) => own(app, user),
        None => "*".to_owned(),
    };
    Message {
        kind,
        layout: outgoing.map(|outgoing| outgoing.layout.name().to_owned()),
        payload: outgoing.map(|outgoing| match outgoing.layout.payload() {
            PayloadMode::Verbatim => "verbatim",
            PayloadMode::Envelope => "envelope",
        }),
        amqp_binding_key: amqp_key(&filter),
        filter,
        app: app.to_string(),
        sender: user.map_or("a service".to_owned(), |user| user.to_string()),
        recipient: address.other_side().to_owned(),
        sender_scope: format!("rabbitmq.write:*/*/{sender_scope}"),
        recipient_scope: outgoing.map_or(String::new(), |outgoing| {
            format!("rabbitmq.read:*/*/{}", own(app, outgoing.recipient))
        }),
    }
}

impl Explanation {
    /// For people.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, text: &str| {
            let _ = writeln!(out, "{name:<11}{text}");
        };
        line("topic", &self.topic);
        line("AMQP key", &self.amqp_routing_key);
        if let Some(message) = &self.message {
            match (&message.layout, message.payload) {
                (Some(layout), Some(payload)) => line("layout", &format!("{layout} ({payload})")),
                _ => line("kind", message.kind),
            }
            line(
                "filter",
                &format!(
                    "{}   AMQP binding {}",
                    message.filter, message.amqp_binding_key
                ),
            );
            line("app", &message.app);
            line(
                "sender",
                &format!(
                    "{}   may write here with scope {}",
                    message.sender, message.sender_scope
                ),
            );
            match (&*message.recipient, &*message.recipient_scope) {
                ("", _) => {}
                (other, "") => line("concerns", other),
                (recipient, scope) => line(
                    "recipient",
                    &format!("{recipient}   reads his inbox with scope {scope}"),
                ),
            }
        }
        line("payload", &self.payload);
        match (&self.reason, &self.because) {
            (Some(reason), Some(because)) => line(
                "verdict",
                &format!("{}: {reason}, because {because}", self.verdict),
            ),
            _ => line("verdict", self.verdict),
        }
        for write in &self.writes {
            line("stores", write);
        }
        for publish in &self.publishes {
            line("publishes", &publish.topic);
            line("", &publish.payload);
        }
        if self.more_publishes > 0 {
            line("", &format!("and {} more", self.more_publishes));
        }
        for event in &self.webhooks {
            line("tells", event.get());
        }
        for note in &self.notes {
            line("note", note);
        }
        out
    }
}
