//! What a topic says by itself: kind, app, users, and the scopes that permit writing and reading
//! it.

use super::report::Message;
use crate::protocol::address::Address;
use crate::protocol::amqp::{BrokerKind, amqp_key};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::PayloadMode;
use crate::protocol::topic_map::TopicMap;

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
    let recipient_scope = match outgoing {
        Some(outgoing) => {
            let own = own_scope(topic, address.app(), outgoing.recipient);
            format!("rabbitmq.read:*/*/{own}")
        }
        None => String::new(),
    };
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
        sender_scope: format!("rabbitmq.write:*/*/{}", write_scope(topic, address)),
        recipient_scope,
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

/// The routing keys that a sender's token has to permit.
fn write_scope(topic: &str, address: &Address<'_>) -> String {
    let app = address.app();
    match address.sender() {
        Some(user) if topic.starts_with(&format!("apps/{app}/outgoing/")) => {
            format!("apps.{app}.outgoing.users.{user}.*")
        }
        Some(user) => own_scope(topic, app, user),
        None => "*".to_owned(),
    }
}

/// The routing keys of a user's own paths: they begin with `.` where the topic begins with `/`.
fn own_scope(topic: &str, app: AppId<'_>, user: UserId<'_>) -> String {
    let dot = if topic.starts_with('/') { "." } else { "" };
    format!("{dot}apps.{app}.users.{user}.*")
}
