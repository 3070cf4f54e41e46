//! A recipient to whom the broker confirms nothing holds up nobody else.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app};
use crate::load::Path;
use crate::script::{Peer, Script};
use crate::wire::Wire;

const APART: &str = "the broker does not take some publishes";
/// Has a queue reject what it has no room for.
const POLICY: &str = r#"{"max-length":1,"overflow":"reject-publish"}"#;

/// Takes the policy away when the test ends.
struct Full(Broker, String);

impl Full {
    fn set(broker: Broker, client_id: &str) -> Self {
        let name = format!("full-{client_id}");
        let queues = format!("^mqtt-subscription-{client_id}");
        let apply_to = ["--apply-to", "queues"];
        broker.rabbitmqctl(&[&["set_policy"], &apply_to[..], &[&name, &queues, POLICY]].concat());
        Self(broker, name)
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        self.0.rabbitmqctl(&["clear_policy", &self.1]);
    }
}

/// Others' messages arrive once each, over several of the times that a confirmation may take. Then
/// the recipient has all of theirs, in order.
fn a_full_queue_holds_up_nobody_else(broker: Broker, protocol: &str) {
    let _shared = broker.shared();
    let app = fresh_app();
    let more = ["--protocol", protocol, "--ack-timeout", "3s"];
    let mut observer = Observer::start(broker, &app, &more);
    let connect = |user: &str, clean: bool| {
        let (id, login) = (format!("{app}-{user}"), broker.login(&app, user));
        Wire::connect(broker.port("MQTT"), &id, &login, clean).unwrap()
    };
    let subscribe = |wire: &mut Wire, user: &str| {
        let filter = format!("apps/{app}/users/{user}/messages/+/clientadded");
        wire.subscribe(&[&filter]).unwrap();
    };
    let mut away = connect("u01", false);
    subscribe(&mut away, "u01");
    away.disconnect();
    let full = Full::set(broker, &format!("{app}-u01"));
    let mut sender = connect("u00", true);
    let mut send_to_full = |numbers: RangeInclusive<u32>| {
        for n in numbers {
            let topic = Path::Chat21.outgoing(&app, "u00", "u01");
            let text = format!(r#"{{"text":"{n}"}}"#);
            sender.publish_confirmed(&topic, text.as_bytes()).unwrap();
        }
    };
    // Others are confirmed all the while; up to here they may have to come twice on 3.10.8, which
    // closes the connection that they share.
    let mut dora = connect("u04", true);
    send_to_full(1..=2);
    while !observer.log().contains(APART) {
        let topic = Path::Chat21.outgoing(&app, "u04", "u05");
        dora.publish_confirmed(&topic, b"{}").unwrap();
        std::thread::sleep(Duration::from_millis(20));
    }
    send_to_full(3..=5);
    let (mut bob, mut carol) = (connect("u02", true), connect("u03", true));
    subscribe(&mut carol, "u03");
    let mut arrived = BTreeMap::new();
    let mut note = |carol: &mut Wire, limit| {
        let message = carol.message(limit)?;
        let text = message.json()["text"].as_str().unwrap().to_owned();
        *arrived.entry(text.clone()).or_insert(0) += 1;
        Some(text)
    };
    let until = Instant::now() + Duration::from_secs(12);
    let mut sent = 0;
    while Instant::now() < until {
        let topic = Path::Chat21.outgoing(&app, "u02", "u03");
        let text = format!(r#"{{"text":"{sent}"}}"#);
        bob.publish_confirmed(&topic, text.as_bytes()).unwrap();
        assert_eq!(note(&mut carol, PATIENCE), Some(sent.to_string()));
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    while note(&mut carol, Duration::from_secs(1)).is_some() {}
    assert_eq!(arrived.len(), sent);
    assert!(arrived.values().all(|times| *times == 1), "some came twice");
    // 4.0 confirms nothing: they are tried ten times. 3.10 closes the connection: three times are
    // enough, and then each one is given up after one more.
    let expected: &[&str] = match broker == Broker::Rabbit3 {
        true => &["1", "6"],
        false => &["1", "2", "3", "4", "5", "6"],
    };
    if broker == Broker::Rabbit3 {
        observer.wait_log_times("does not take a message that was forwarded", 4);
    }
    drop(full);
    let mut back = connect("u01", false);
    send_to_full(6..=6);
    let mut ids: Vec<(String, String)> = vec![];
    while ids.len() < expected.len() {
        let message = back.message(PATIENCE).expect("the next one").json();
        let text = message["text"].as_str().unwrap().to_owned();
        let id = message["message_id"].as_str().unwrap().to_owned();
        match ids.iter().find(|(known, _)| *known == text) {
            Some((_, first)) => assert_eq!(*first, id, "another id for {text}"),
            None => ids.push((text, id)),
        }
    }
    assert!(
        ids.iter()
            .map(|(text, _)| text.as_str())
            .eq(expected.iter().copied())
    );
    let (status, log) = observer.stop();
    // The closed connection may have taken the first one's confirmation with it, and then a second
    // copy of it is not taken either.
    let refused = 6 - expected.len();
    let is_so_many = |refused| log.contains(&format!("refused={refused} "));
    let first_again = broker == Broker::Rabbit3 && is_so_many(refused + 1);
    assert!(
        status.success() && (is_so_many(refused) || first_again),
        "{log}"
    );
}

#[test]
fn a_full_queue_holds_up_nobody_else_on_rabbitmq3() {
    a_full_queue_holds_up_nobody_else(Broker::Rabbit3, "3.1.1");
}

#[test]
fn a_full_queue_holds_up_nobody_else_on_rabbitmq4() {
    a_full_queue_holds_up_nobody_else(Broker::Rabbit4, "3.1.1");
}

/// There it is refused with a reason, which is one that passes.
#[test]
fn a_full_queue_holds_up_nobody_else_on_rabbitmq4_over_mqtt5() {
    a_full_queue_holds_up_nobody_else(Broker::Rabbit4, "5");
}

/// The order of one recipient, and a stop and a start in the middle of it.
#[test]
fn what_is_set_apart_goes_out_in_order_and_survives_a_kill() {
    let script = Script::listen();
    let mut observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    let mut apart = script.quarantine();
    session.deliver(1, "one", false);
    assert_eq!(session.ack(), 1);
    let one = lane.publish();
    // Others are confirmed all the while.
    let mut packet_id = 1;
    let mut others = |session: &mut Peer| {
        packet_id += 1;
        let topic = Path::Inbox.outgoing("a", "dora", "emil");
        session.send(packet_id, &topic, b"other");
        assert_eq!(session.ack(), packet_id);
    };
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        others(&mut session);
        let other = lane.publish();
        assert_ne!(other.topic, one.topic);
        lane.confirm(&other);
        std::thread::sleep(Duration::from_millis(100));
    }
    let again = apart.publish();
    assert_eq!((&again.topic, &again.payload), (&one.topic, &one.payload));
    session.deliver(60, "two", false);
    assert_eq!(session.ack(), 60);
    apart.says_nothing();
    apart.confirm(&again);
    let two = apart.publish();
    assert_eq!((&two.topic, &two.payload[..]), (&one.topic, &b"two"[..]));
    // The commit of the next message takes note of what is confirmed.
    others(&mut session);
    observer.kill();
    observer.spawn(&[]);
    let mut session = script.session();
    session.connack(false);
    session.suback();
    let mut lane = script.lane();
    lane.connack(false);
    let rest = [lane.publish(), lane.publish()].map(|publish| publish.payload);
    assert_eq!(rest, [two.payload, b"other".to_vec()]);
}
