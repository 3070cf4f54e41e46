//! What the tests of the rules have in common.

use std::hash::RandomState;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use crate::protocol::address::Timeline;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Controls;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::Layout;
use crate::protocol::message::Received;
use crate::protocol::message_id::{MessageId, MessageIds};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::protocol::topic_map::TopicMap;
use crate::rules::facts::FactSource;
use crate::rules::facts::in_memory::InMemory;
use crate::rules::fan_out::Found;
use crate::rules::plan::{Arrival, Plan};
use crate::rules::policy::{Policy, Rules};
use crate::rules::router::Router;
use crate::rules::submission::Authority;
use crate::rules::webhook_event::EventKind;

pub(crate) const NOW: UnixMillis = UnixMillis::new(1_800_000_000_000);

pub(crate) fn rules() -> Rules {
    Rules {
        max_payload_bytes: 100,
        max_depth: 3,
        max_recipients: 3,
        max_inline_recipients: 3,
        privileged_senders: ["system".into()].into(),
        banned: ["mallory".into()].into(),
        ..Rules::default()
    }
}

/// Serves every built-in layout, keeps dead letters, and tells webhooks everything.
pub(crate) fn router() -> Router {
    let layouts = Layout::BUILT_IN
        .iter()
        .flat_map(|name| Layout::built_in(name).unwrap())
        .collect();
    let dead = TopicName::parse("observer/dead").unwrap();
    let also_published = std::slice::from_ref(&dead);
    Router {
        layouts: TopicMap::new(layouts, vec![], also_published, Controls::Served).unwrap(),
        policy: Arc::new(Policy::new(BrokerKind::Any, rules())),
        dead_letter_topic: Some(dead),
        events: EventKind::ALL.iter().copied().collect(),
    }
}

pub(crate) fn received(topic: &[u8], payload: &[u8]) -> Received {
    let mut received = Received::new(
        Bytes::copy_from_slice(topic),
        Bytes::copy_from_slice(payload),
        false,
    );
    received.cut_to(100);
    received
}

pub(crate) fn id() -> MessageId {
    id_at(NOW)
}

pub(crate) fn id_at(time: UnixMillis) -> MessageId {
    MessageIds::new(RandomState::new()).next(time)
}

/// What becomes of a message where nothing is stored.
pub(crate) fn plan(received: &Received) -> Plan<'static> {
    plan_with(router(), received, InMemory::default())
}

/// What becomes of a message; leaked, so that a plan can borrow from it.
pub(crate) fn plan_with<S: FactSource>(
    router: Router,
    received: &Received,
    source: S,
) -> Plan<'static>
where
    S::Error: std::fmt::Debug,
{
    plan_as(router, received, id(), source)
}

pub(crate) fn plan_as<S: FactSource>(
    router: Router,
    received: &Received,
    id: MessageId,
    mut source: S,
) -> Plan<'static>
where
    S::Error: std::fmt::Debug,
{
    let router: &'static Router = Box::leak(Box::new(router));
    let received: &'static Received = Box::leak(Box::new(received.clone()));
    let arrival = Arrival {
        received,
        id,
        time: id.time(),
        authority: Authority::default(),
    };
    match router.read(received) {
        Ok(request) => {
            let request = Box::leak(Box::new(request));
            router.plan(request, &arrival, &mut source).unwrap()
        }
        Err(refusal) => router.refuse(received, &refusal.into(), id.time()),
    }
}

/// Everything that goes to many: topics and payloads.
pub(crate) fn for_many(plan: &Plan<'_>) -> Vec<(String, Value)> {
    let (mut all, mut rest) = (vec![], plan.fan_out.clone());
    while let Some(fan_out) = rest {
        let step = fan_out.step(&router().layouts, Found::default());
        let publishes = step.publishes.iter();
        all.extend(publishes.map(|publish| (publish.topic.to_string(), body(publish))));
        rest = step.rest;
    }
    all
}

pub(crate) fn body(publish: &Publish) -> Value {
    serde_json::from_slice(&publish.payload).unwrap()
}

pub(crate) fn timeline(inbox_of: &'static str, convers_with: &'static str) -> Timeline<'static> {
    Timeline {
        app: AppId::parse("a").unwrap(),
        inbox_of: UserId::parse(inbox_of).unwrap(),
        convers_with: UserId::parse(convers_with).unwrap(),
    }
}
