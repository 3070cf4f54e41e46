//! What a topic says by itself: whether it is read, kind, app, users, and the scopes that permit
//! writing and reading it.

use super::report::Message;
use crate::protocol::address::Address;
use crate::protocol::amqp::{BrokerKind, amqp_key};
use crate::protocol::id::UserId;
use crate::protocol::layout::PayloadMode;
use crate::protocol::permissions::PathLevel;
use crate::protocol::topic_map::TopicMap;
use crate::telemetry::service_topics::ServiceTopics;

/// Whether a message on a topic comes to the observer.
pub(super) enum Arrives {
    /// It does, and is one of users or services.
    Yes,
    /// It does, and is for the observer itself: an operator's command, for instance.
    AsOwn,
    /// The observer reads no such topic.
    Never,
}

/// Whether a message on `topic` comes to the observer called `name`.
pub(super) fn arrives(layouts: &TopicMap, name: &str, topic: &str) -> Arrives {
    let own = ServiceTopics::new(name, "").subscriptions();
    if layouts
        .filters()
        .iter()
        .any(|read| read.filter.matches(topic))
    {
        Arrives::Yes
    } else if own.iter().any(|read| read.filter.matches(topic)) {
        Arrives::AsOwn
    } else {
        Arrives::Never
    }
}

/// What the operator should know of a topic, whatever its payload is.
pub(super) fn notes(layouts: &TopicMap, topic: &str) -> Vec<String> {
    let mut notes = vec![];
    if let Err(error) = BrokerKind::RabbitMq.carries(topic) {
        notes.push(format!("on RabbitMQ: {error}"));
    }
    if layouts.parse(topic).is_err()
        && let Some(layout) = layouts.inbox_layout(topic)
    {
        notes.push(format!(
            "this is an inbox path of layout {}: the observer writes there and never reads it",
            layout.name()
        ));
    }
    notes
}

/// What the topic says.
pub(super) fn describe(layouts: &TopicMap, topic: &str, address: &Address<'_>) -> Message {
    let filter = layouts
        .filters()
        .into_iter()
        .find(|subscription| subscription.filter.matches(topic))
        .map(|subscription| subscription.filter.as_str().to_owned())
        .unwrap_or_default();
    let outgoing = address.outgoing();
    let app = address.app().as_str();
    let recipient_scope = outgoing.and_then(|outgoing| {
        let path = outgoing.layout.read_path(app)?;
        Some(scope("read", &path, outgoing.recipient))
    });
    let sender_scope = address.sender().and_then(|user| {
        let path = layouts.write_path(topic, app)?;
        Some(scope("write", &path, user))
    });
    Message {
        kind: kind(address),
        layout: outgoing.map(|outgoing| outgoing.layout.name().to_owned()),
        payload: outgoing.map(|outgoing| match outgoing.layout.payload() {
            PayloadMode::Verbatim => "verbatim",
            PayloadMode::Envelope => "envelope",
        }),
        amqp_binding_key: amqp_key(&filter),
        filter,
        app: address.app().to_string(),
        sender: match address.sender() {
            Some(user) => user.to_string(),
            None => "a service".to_owned(),
        },
        recipient: address.other_side().to_owned(),
        sender_scope: sender_scope.unwrap_or_else(|| "rabbitmq.write:*/*/*".to_owned()),
        recipient_scope: recipient_scope.unwrap_or_default(),
    }
}

fn kind(address: &Address<'_>) -> &'static str {
    match address {
        Address::Outgoing(_) => "message",
        Address::Receipt(..) => "receipt",
        Address::Conversation(_) => "conversation patch",
        Address::Archive(_) => "archive",
        Address::Presence { .. } => "presence",
        Address::Block(_) => "block",
        Address::Fetch { .. } => "inbox fetch",
        Address::ConversationsFetch { .. } => "conversations fetch",
        Address::Inject(_) => "delivered (inject)",
        Address::Groups { .. } => "group update",
    }
}

/// The scope for everything below a path of this user's. Other identifiers in it are any.
fn scope(right: &str, path: &[PathLevel<'_>], user: UserId<'_>) -> String {
    let levels: Vec<&str> = path
        .iter()
        .map(|level| match level {
            PathLevel::Text(text) => text,
            PathLevel::User => user.as_str(),
            PathLevel::Any => "*",
        })
        .collect();
    format!("rabbitmq.{right}:*/*/{}.*", levels.join("."))
}
