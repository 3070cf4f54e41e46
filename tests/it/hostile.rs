//! Harmful input from an ordinary user: it is refused with a reason or served, and other traffic
//! goes on.

use std::time::Duration;

use serde_json::Value;

use crate::bed::{Broker, Observer, PATIENCE, fresh_app};
use crate::load::Path;
use crate::wire::{Wire, publish_packet};

const GLIMPSE: Duration = Duration::from_millis(800);

/// A broker, an observer that keeps dead letters, the service user who reads them, and two users.
struct Scene {
    broker: Broker,
    app: String,
    observer: Observer,
    letters: Wire,
    bob: Wire,
    next: u32,
}

impl Scene {
    fn set(broker: Broker, more: &[&str]) -> Self {
        let app = fresh_app();
        let dead = format!("dead/{app}");
        let mut args = vec!["--dead-letter-topic", &dead];
        args.extend(more);
        let observer = Observer::start(broker, &app, &args);
        let service = crate::bed::service();
        let mut letters = Wire::connect(
            broker.port("MQTT"),
            &format!("{app}-letters"),
            &service,
            true,
        )
        .unwrap();
        assert_eq!(letters.subscribe(&[&dead]).unwrap(), [1]);
        let mut bob = Wire::connect(
            broker.port("MQTT"),
            &format!("{app}-bob"),
            &broker.login(&app, "u01"),
            true,
        )
        .unwrap();
        assert_eq!(
            bob.subscribe(&[
                &format!("apps/{app}/users/u01/#"),
                &format!("/apps/{app}/users/u01/#")
            ])
            .unwrap(),
            [1, 1]
        );
        Self {
            broker,
            app,
            observer,
            letters,
            bob,
            next: 0,
        }
    }

    /// The hostile user, on a new connection: brokers close it after some attempts.
    fn mallory(&mut self) -> Wire {
        self.next += 1;
        let client_id = format!("{}-mallory-{}", self.app, self.next);
        let mut wire = Wire::connect(
            self.broker.port("MQTT"),
            &client_id,
            &self.broker.login(&self.app, "u00"),
            true,
        )
        .unwrap();
        wire.subscribe(&[
            &format!("apps/{}/users/u00/#", self.app),
            &format!("/apps/{}/users/u00/#", self.app),
        ])
        .unwrap();
        wire
    }

    fn to_bob(&self) -> String {
        Path::Chat21.outgoing(&self.app, "u00", "u01")
    }

    /// The reason in the next dead letter.
    fn refused(&mut self) -> Value {
        let letter = self
            .letters
            .message(PATIENCE)
            .unwrap_or_else(|| panic!("no dead letter; the log:\n{}", self.observer.log()));
        letter.json()
    }

    fn nothing_refused(&mut self) {
        assert_eq!(self.letters.message(GLIMPSE), None);
    }

    /// An honest message passes.
    fn traffic_goes_on(&mut self) {
        let topic = self.to_bob();
        self.mallory()
            .publish_confirmed(&topic, br#"{"text":"still there?"}"#)
            .unwrap();
        let got = self.bob.message(PATIENCE).unwrap_or_else(|| {
            panic!("nothing passes any more; the log:\n{}", self.observer.log())
        });
        assert_eq!(got.json()["text"], "still there?");
    }

    /// Stops the observer, which must never have lost its connection.
    fn end(mut self) {
        self.traffic_goes_on();
        let (status, log) = self.observer.stop();
        assert!(
            status.success() && log.contains("left_unacknowledged=0"),
            "{log}"
        );
        assert!(!log.contains("not connected"), "{log}");
    }
}

fn payloads(broker: Broker) {
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &[]);
    let chat21 = scene.to_bob();
    let inbox = Path::Inbox.outgoing(&scene.app, "u00", "u01");
    let text = |bytes: usize| format!("{{\"text\":\"{}\"}}", "x".repeat(bytes - 11)).into_bytes();

    // 20 KiB and 1 MiB pass, both as an envelope and as bytes.
    for bytes in [20 << 10, 1 << 20] {
        let sent = text(bytes);
        assert_eq!(sent.len(), bytes);
        scene.mallory().publish_confirmed(&chat21, &sent).unwrap();
        let got = scene.bob.message(PATIENCE).unwrap();
        assert!(
            got.payload.starts_with(&sent[..bytes - 1]) && got.json()["status"] == 150,
            "{bytes} bytes"
        );
        scene.mallory().publish_confirmed(&inbox, &sent).unwrap();
        assert_eq!(scene.bob.message(PATIENCE).unwrap().payload, sent);
    }

    // One byte more is refused, and so is much more.
    for bytes in [(1 << 20) + 1, 20 << 20] {
        let mut mallory = scene.mallory();
        mallory.publish_confirmed(&chat21, text(bytes)).unwrap();
        let letter = scene.refused();
        assert_eq!(
            (
                &letter["reason"],
                &letter["payload_bytes"],
                letter.get("payload")
            ),
            (&"too-large".into(), &bytes.into(), None)
        );
        let notice = mallory.message(PATIENCE).unwrap();
        assert_eq!(
            notice.topic(),
            format!("apps/{}/users/u00/messages/u01/clientrejected", scene.app)
        );
        assert_eq!(
            (&notice.json()["reason"], &notice.json()["recipient"]),
            (&"too-large".into(), &"u01".into())
        );
    }

    // Payloads that are no envelope. The inbox layout takes any bytes.
    for (payload, reason) in [
        (&b"hello"[..], "not-json"),
        (b"", "not-json"),
        (b"{\"text\":\"\xff\xfe\"}", "not-json"),
        (b"{\"text\":1}{}", "not-json"),
        (b"[1,2]", "not-an-object"),
        (b"17", "not-an-object"),
        (br#"{"channel_type":"group"}"#, "not-a-group"),
    ] {
        let mut mallory = scene.mallory();
        mallory.publish_confirmed(&chat21, payload).unwrap();
        assert_eq!(scene.refused()["reason"], reason, "{payload:?}");
        assert_eq!(mallory.message(PATIENCE).unwrap().json()["reason"], reason);
    }
    for payload in [&b"\xff\x00\xfe"[..], b"", b"[1]"] {
        scene.mallory().publish_confirmed(&inbox, payload).unwrap();
        assert_eq!(scene.bob.message(PATIENCE).unwrap().payload, payload);
    }
    scene.nothing_refused();
    scene.end();
}

#[test]
fn payloads_on_rabbitmq3() {
    payloads(Broker::Rabbit3);
}

#[test]
fn payloads_on_rabbitmq4() {
    payloads(Broker::Rabbit4);
}

#[test]
fn payloads_on_mosquitto() {
    payloads(Broker::Mosquitto);
}

/// Hostile topics, each with the reason it is refused for; `None` if the broker blocks it or the
/// message is served.
fn topics(broker: Broker) {
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &[]);
    let app = scene.app.clone();
    let rabbit = broker.is_rabbitmq();
    let to = |recipient: &[u8]| {
        [
            format!("apps/{app}/outgoing/users/u00/messages/").as_bytes(),
            recipient,
            b"/outgoing",
        ]
        .concat()
    };
    let on_rabbit = |reason| if rabbit { Some(reason) } else { None };
    let cases: Vec<(Vec<u8>, Option<&str>)> = vec![
        // RabbitMQ turns `*` into `+`, Mosquitto keeps it: neither is allowed in an identifier.
        (to(b"*"), Some("malformed-topic")),
        (to(b"a*b"), Some("malformed-topic")),
        // RabbitMQ turns `.` into a level separator; on Mosquitto this is an ordinary recipient.
        (to(b"john.doe"), on_rabbit("unroutable")),
        // Mosquitto closes the connection on these.
        (to(b"+"), on_rabbit("malformed-topic")),
        (to(b"u01\0"), on_rabbit("malformed-topic")),
        (to(b"a\x01b"), on_rabbit("malformed-topic")),
        (to(b""), Some("malformed-topic")),
        (to(b" u01"), Some("malformed-topic")),
        (to(b"messages"), Some("reserved-identifier")),
        (to(&b"x".repeat(300)), Some("malformed-topic")),
        (to("ünal".as_bytes()), None),
        (to(&"é".repeat(100).into_bytes()), None),
        ("Ŭ/not/ours".as_bytes().to_vec(), None),
    ];
    for (topic, reason) in cases {
        let mut mallory = scene.mallory();
        // The broker may close the connection instead of confirming.
        let confirmed = mallory.publish_confirmed(&topic, b"{}").is_ok();
        let shown = String::from_utf8_lossy(&topic).into_owned();
        match reason {
            Some(reason) => {
                assert!(confirmed, "{shown}");
                let letter = scene.refused();
                assert_eq!(letter["reason"], reason, "{shown}: {letter}");
            }
            None => scene.nothing_refused(),
        }
    }
    // A topic of more than 255 bytes is served if its identifiers are valid.
    let long = "y".repeat(230);
    let mut mallory = scene.mallory();
    mallory
        .publish_confirmed(to(long.as_bytes()), b"{}")
        .unwrap();
    let echo = mallory.message(PATIENCE).unwrap();
    assert_eq!(
        echo.topic(),
        format!("apps/{app}/users/u00/messages/{long}/clientadded")
    );
    assert!(to(long.as_bytes()).len() > 255);
    scene.end();
}

#[test]
fn topics_on_rabbitmq3() {
    topics(Broker::Rabbit3);
}

#[test]
fn topics_on_rabbitmq4() {
    topics(Broker::Rabbit4);
}

#[test]
fn topics_on_mosquitto() {
    topics(Broker::Mosquitto);
}

/// A user property that is not UTF-8. RabbitMQ passes it on, and delivers the message again and
/// again until it is acknowledged. The observer reads it on the connection that it has.
#[test]
fn a_property_that_is_not_utf8_stops_nothing() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &[]);
    assert!(
        scene.observer.ready.contains("MQTT 5"),
        "{}",
        scene.observer.ready
    );
    let login = broker.login(&scene.app, "u00");
    let topic = scene.to_bob();
    crate::wire::publish_v5(
        broker.port("MQTT"),
        &login,
        topic.as_bytes(),
        &[0x26, 0, 1, b'k', 0, 2, 0xff, 0xfe],
        br#"{"text":"poison"}"#,
    );
    let got = scene
        .bob
        .message(PATIENCE)
        .unwrap_or_else(|| panic!("it stops here:\n{}", scene.observer.log()));
    assert_eq!(got.json()["text"], "poison");
    scene.traffic_goes_on();
    // A topic that is not.
    let bad = [
        format!("apps/{}/outgoing/users/u00/messages/", scene.app).as_bytes(),
        b"\xff",
        b"/outgoing",
    ]
    .concat();
    scene.mallory().publish_confirmed(&bad, b"{}").unwrap();
    assert_eq!(scene.refused()["reason"], "malformed-topic");
    scene.traffic_goes_on();
    scene.end();
}

/// Both in a row, on one connection.
#[test]
fn a_topic_and_a_property_that_are_not_utf8_side_by_side_stop_nothing() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &[]);
    let login = broker.login(&scene.app, "u00");
    let good = scene.to_bob();
    let bad = [
        format!("apps/{}/outgoing/users/u00/messages/", scene.app).as_bytes(),
        b"\xff",
        b"/outgoing",
    ]
    .concat();
    let mut mallory = scene.mallory();
    let (status, _) = scene.observer.stop();
    assert!(status.success());
    mallory.publish_confirmed(&bad, b"{}").unwrap();
    crate::wire::publish_v5(
        broker.port("MQTT"),
        &login,
        good.as_bytes(),
        &[0x26, 0, 1, b'k', 0, 2, 0xff, 0xfe],
        br#"{"text":"poison"}"#,
    );
    scene.observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    assert_eq!(scene.refused()["reason"], "malformed-topic");
    assert_eq!(
        scene.bob.message(PATIENCE).unwrap().json()["text"],
        "poison"
    );
    scene.traffic_goes_on();
}

/// The longest topic a user can send; its dead letter repeats it.
#[test]
fn a_topic_of_sixty_thousand_control_characters_stops_nothing() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &[]);
    let topic = [
        format!("apps/{}/outgoing/users/u00/messages/", scene.app).as_bytes(),
        &[1; 60_000],
        b"/outgoing",
    ]
    .concat();
    scene.mallory().publish_confirmed(&topic, b"{}").unwrap();
    assert_eq!(scene.refused()["reason"], "malformed-topic");
    scene.end();
}

/// A topic that is not UTF-8, from an ordinary user. RabbitMQ 4 delivers it: it is refused,
/// acknowledged and not redelivered. RabbitMQ 3.10 never delivers it, and it occupies one
/// place of the session's window. Mosquitto closes the connection.
fn a_topic_that_is_not_utf8(broker: Broker, protocol: &str) {
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &["--protocol", protocol]);
    let topic = [
        format!("apps/{}/outgoing/users/u00/messages/", scene.app).as_bytes(),
        b"\xff\xfe",
        b"/outgoing",
    ]
    .concat();
    for _ in 0..3 {
        let mut mallory = scene.mallory();
        let confirmed = mallory.publish_confirmed(&topic, b"{}").is_ok();
        assert_eq!(confirmed, broker.is_rabbitmq());
        if broker == Broker::Rabbit4 {
            let letter = scene.refused();
            assert_eq!(
                (
                    &letter["reason"],
                    letter["topic"].as_str().unwrap().contains('\u{fffd}')
                ),
                (&"malformed-topic".into(), true)
            );
        }
        scene.traffic_goes_on();
    }
    scene.nothing_refused();
    scene.end();
}

#[test]
fn a_topic_that_is_not_utf8_on_rabbitmq3() {
    a_topic_that_is_not_utf8(Broker::Rabbit3, "auto");
}

#[test]
fn a_topic_that_is_not_utf8_on_rabbitmq4() {
    for protocol in ["3.1.1", "5"] {
        a_topic_that_is_not_utf8(Broker::Rabbit4, protocol);
    }
}

#[test]
fn a_topic_that_is_not_utf8_on_mosquitto() {
    a_topic_that_is_not_utf8(Broker::Mosquitto, "auto");
}

/// The broker stores a retained message on an outgoing path and delivers it to later subscribers:
/// it is refused each time. (RabbitMQ does not deliver retained messages to wildcard subscriptions,
/// and live copies come without the flag.) Over MQTT 5 the observer asks not to get them at all.
#[test]
fn a_retained_message_is_refused_when_it_comes_from_the_store() {
    retained("3.1.1");
}

#[test]
fn a_retained_message_does_not_come_from_the_store_over_mqtt_5() {
    retained("5");
}

fn retained(protocol: &str) {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &["--protocol", protocol]);
    let topic = scene.to_bob();
    let mut mallory = scene.mallory();
    mallory
        .send(&publish_packet(
            topic.as_bytes(),
            br#"{"text":"live"}"#,
            Some(9),
            true,
        ))
        .unwrap();
    assert_eq!(scene.bob.message(PATIENCE).unwrap().json()["text"], "live");
    let (status, _) = scene.observer.stop();
    assert!(status.success());
    scene.observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    scene.observer.wait_ready();
    if protocol == "3.1.1" {
        assert_eq!(scene.refused()["reason"], "retained");
    }
    assert_eq!(scene.bob.message(GLIMPSE), None);
    // An empty payload clears it.
    mallory
        .send(&publish_packet(topic.as_bytes(), b"", Some(10), true))
        .unwrap();
    assert_eq!(scene.refused()["reason"], "not-json");
    scene.end();
}

/// Topics that are not UTF-8 block a session of RabbitMQ 3.10: `run` notices and says so, and
/// `--reset-session` repairs it.
#[test]
fn a_wedged_session_of_rabbitmq3_is_healed_by_a_reset() {
    let broker = Broker::Rabbit3;
    let _shared = broker.shared();
    let mut scene = Scene::set(broker, &[]);
    let topic = [
        format!("apps/{}/outgoing/users/u00/messages/", scene.app).as_bytes(),
        b"\xff\xfe",
        b"/outgoing",
    ]
    .concat();
    let mut mallory = scene.mallory();
    // More than the test bed's window.
    for _ in 0..520 {
        mallory.publish_confirmed(&topic, b"{}").unwrap();
    }
    let honest = scene.to_bob();
    scene.mallory().publish_confirmed(&honest, b"{}").unwrap();
    assert_eq!(scene.bob.message(GLIMPSE), None, "wedged");
    // A new connection does not help, and the log says so.
    scene.observer.stop();
    scene.observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    scene
        .observer
        .wait_log("what the observer sends to itself does not come back");
    scene.observer.stop();
    scene.observer.args.push("--reset-session".to_owned());
    scene.observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    scene.observer.wait_ready();
    scene.traffic_goes_on();
}
