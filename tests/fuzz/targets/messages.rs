//! A message from anybody: topic and payload, in every layout that is built in, presence and the
//! other control topics, up to what becomes of it. Whatever it is, it is answered or refused, and
//! what goes out is a valid topic. Also what is read of the observer's own topics: an operator's
//! commands, and what other observers say of themselves.

#![no_main]

use std::hash::RandomState;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chat21_observer::protocol::amqp::BrokerKind;
use chat21_observer::protocol::control_topic::Controls;
use chat21_observer::protocol::layout::Layout;
use chat21_observer::protocol::message::Received;
use chat21_observer::protocol::message_id::MessageIds;
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::protocol::topic::TopicName;
use chat21_observer::protocol::topic_map::TopicMap;
use chat21_observer::rules::facts::NoStore;
use chat21_observer::rules::fan_out::{FanOut, Found};
use chat21_observer::rules::plan::Arrival;
use chat21_observer::rules::policy::{GroupSenders, Policy, Rules};
use chat21_observer::rules::router::Router;
use chat21_observer::rules::submission::Authority;
use chat21_observer::rules::webhook_event::EventKinds;
use chat21_observer::telemetry::hello::Hello;
use chat21_observer::telemetry::operator_command::OperatorCommand;
use libfuzzer_sys::fuzz_target;

fn router() -> &'static Router {
    static ROUTER: OnceLock<Router> = OnceLock::new();
    ROUTER.get_or_init(|| {
        let layouts = Layout::BUILT_IN.iter();
        let layouts = layouts.flat_map(|name| Layout::built_in(name).expect("built in"));
        let rules = Rules {
            group_senders: GroupSenders::Anybody,
            ..Rules::default()
        };
        Router {
            layouts: TopicMap::new(layouts.collect(), vec![], &[], Controls::Served)
                .expect("sound"),
            policy: Arc::new(Policy::new(BrokerKind::Any, rules)),
            dead_letter_topic: None,
            events: EventKinds::default(),
        }
    })
}

fuzz_target!(|data: &[u8]| {
    // The topic is the first line.
    let end = data
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(data.len());
    let topic = Bytes::copy_from_slice(&data[..end]);
    let payload = Bytes::copy_from_slice(data.get(end + 1..).unwrap_or_default());
    let last_level = topic
        .rsplit(|byte| *byte == b'/')
        .next()
        .unwrap_or_default();
    if let Err(error) = OperatorCommand::parse(&String::from_utf8_lossy(last_level), &payload) {
        assert!(!error.to_string().is_empty());
    }
    if let Some(hello) = Hello::parse(&payload) {
        assert!(!hello.describe().is_empty());
        let _ = (hello.meets(&hello), hello.covers(&hello));
    }
    let received = Received::new(topic, payload, false);
    let router = router();
    let id = MessageIds::new(RandomState::new()).next(UnixMillis::new(1_800_000_000_000));
    let request = router.read(&received);
    let arrival = Arrival {
        received: &received,
        id,
        time: id.time(),
        authority: Authority::default(),
    };
    let plan = match &request {
        Err(refusal) => router.refuse(&received, &(*refusal).into(), id.time()),
        Ok(request) => {
            let Ok(plan) = router.plan(request, &arrival, &mut NoStore);
            plan
        }
    };
    for publish in plan.publishes.iter().chain(&plan.answers) {
        assert!(TopicName::parse(publish.topic.as_str()).is_ok());
    }
    if let Some(fan_out) = plan.fan_out {
        let text = fan_out.to_log();
        FanOut::from_log(&text, 0).expect("what is logged can be read");
        let step = fan_out.step(&router.layouts, Found::Nothing);
        for publish in step.publishes {
            assert!(TopicName::parse(publish.topic.as_str()).is_ok());
        }
    }
});
