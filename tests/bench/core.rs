//! What the decisions cost: `cargo bench --bench core`. The budget: a topic refused within 100 ns,
//! a message of 300 bytes decoded and planned within 3 µs.

#![allow(
    missing_docs,
    reason = "criterion's macro makes a public function without"
)]

use std::hash::RandomState;
use std::hint::black_box;
use std::sync::Arc;

use chat21_observer::protocol::amqp::BrokerKind;
use chat21_observer::protocol::control_topic::Controls;
use chat21_observer::protocol::layout::Layout;
use chat21_observer::protocol::message::Received;
use chat21_observer::protocol::message_id::MessageIds;
use chat21_observer::protocol::refusal::Refusal;
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::protocol::topic_map::TopicMap;
use chat21_observer::rules::facts::NoStore;
use chat21_observer::rules::plan::Arrival;
use chat21_observer::rules::policy::{Policy, Rules};
use chat21_observer::rules::router::Router;
use chat21_observer::rules::submission::Authority;
use chat21_observer::rules::webhook_event::EventKinds;
use criterion::{Criterion, criterion_group, criterion_main};

fn router() -> Router {
    let layouts = Layout::BUILT_IN
        .iter()
        .flat_map(|name| Layout::built_in(name).expect("built in"))
        .collect();
    Router {
        layouts: TopicMap::new(layouts, vec![], &[], Controls::Served).expect("sound"),
        policy: Arc::new(Policy::new(BrokerKind::Any, Rules::default())),
        dead_letter_topic: None,
        events: EventKinds::default(),
    }
}

fn topics(c: &mut Criterion) {
    let router = router();
    for (name, topic) in [
        (
            "served",
            "apps/tilechat/outgoing/users/5f1b2c3d4e/messages/6a7b8c9d0e/outgoing",
        ),
        (
            "no layout",
            "apps/tilechat/users/5f1b2c3d4e/messages/6a7b8c9d0e/clientadded",
        ),
        (
            "bad identifier",
            "apps/tilechat/outgoing/users/5f1b2c3d4e/messages/6a7b+8c9d/outgoing",
        ),
        (
            "receipt",
            "apps/tilechat/users/5f1b2c3d4e/messages/6a7b8c9d0e/0197a3/update",
        ),
        (
            "reserved identifier",
            "apps/tilechat/users/5f1b2c3d4e/messages/messages/outgoing",
        ),
        (
            "split identifier",
            "apps/tilechat/outgoing/users/5f1b2c3d4e/messages/john/doe/outgoing",
        ),
    ] {
        c.bench_function(&format!("topic and verdict, {name}"), |b| {
            b.iter(|| {
                let verdict = router
                    .layouts
                    .parse(black_box(topic))
                    .map_err(|error| Refusal::from(&error));
                black_box(verdict.map(|inbound| inbound.other_side().len()))
            });
        });
    }
}

fn messages(c: &mut Criterion) {
    let router = router();
    let payload = format!(
        concat!(
            r#"{{"text":"{}","type":"text","recipient_fullname":"Bob Builder","#,
            r#""sender_fullname":"Alice Liddell","attributes":{{"userAgent":"Mozilla/5.0","#,
            r#""lang":"en"}},"metadata":"","channel_type":"direct"}}"#
        ),
        "x".repeat(300 - 185)
    );
    assert_eq!(payload.len(), 300);
    let mut ids = MessageIds::new(RandomState::new());
    let now = UnixMillis::new(1_800_000_000_000);
    for (name, topic) in [
        (
            "envelope, two copies",
            "apps/tilechat/outgoing/users/5f1b2c3d4e/messages/6a7b8c9d0e/outgoing",
        ),
        (
            "verbatim",
            "/apps/tilechat/users/5f1b2c3d4e/6a7b8c9d0e/messages/outgoing",
        ),
    ] {
        let received = Received::new(topic.into(), payload.clone().into(), false);
        c.bench_function(&format!("decode and plan 300 bytes, {name}"), |b| {
            b.iter(|| {
                let request = router.read(black_box(&received)).expect("served");
                let arrival = Arrival {
                    authority: Authority::default(),
                    received: &received,
                    id: ids.next(now),
                    time: now,
                };
                let Ok(plan) = router.plan(&request, &arrival, &mut NoStore);
                black_box(plan.publishes.len())
            });
        });
    }
}

criterion_group!(benches, topics, messages);
criterion_main!(benches);
