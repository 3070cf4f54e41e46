//! Every reason for a refusal, on every broker: the message that causes it, the notice to its
//! sender, the dead letter, the counter.

use serde_json::{Value, json};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app, scoped_token, wait_for};
use crate::script::GLIMPSE;
use crate::wire::{Wire, publish_packet};

/// A message that causes a refusal, and where its sender is notified.
struct Row {
    reason: &'static str,
    sender: &'static str,
    /// Under `apps/{app}/users/{sender}/`, or from the root if it begins with a slash.
    topic: String,
    payload: String,
    retain: bool,
    times: usize,
    /// Where the sender is notified, under `apps/{app}/users/{sender}/`; `None`: not at all.
    notice: Option<&'static str>,
}

fn row(reason: &'static str, sender: &'static str, recipient: &str, payload: &str) -> Row {
    Row {
        reason,
        sender,
        topic: format!("messages/{recipient}/outgoing"),
        payload: payload.to_owned(),
        retain: false,
        times: 1,
        notice: Some("messages/u01/clientrejected"),
    }
}

fn rows() -> Vec<Row> {
    let long = "x".repeat(3_000);
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(20), "]".repeat(20));
    let many = r#"{"group":{"members":{"u01":1,"u02":1,"u03":1,"u04":1}}}"#;
    let to = |notice, row: Row| Row { notice, ..row };
    vec![
        to(
            Some("clientrejected"),
            row("malformed-topic", "u02", "u01 ", "{}"),
        ),
        to(
            Some("clientrejected"),
            row("malformed-topic", "u19", &"x".repeat(300), "{}"),
        ),
        to(
            Some("clientrejected"),
            row("reserved-identifier", "u03", "groups", "{}"),
        ),
        Row {
            retain: true,
            ..row("retained", "u04", "u01", "{}")
        },
        row(
            "too-large",
            "u05",
            "u01",
            &format!("{{\"text\":\"{long}\"}}"),
        ),
        row("too-large", "u06", "u01", &deep),
        Row {
            times: 31,
            ..row("rate-limited", "u07", "u01", "{}")
        },
        row("banned", "u08", "u01", "{}"),
        row("banned", "u09", "u01", "{}"),
        to(None, row("blocked", "u10", "u01", "{}")),
        row("not-json", "u11", "u01", "hello"),
        row("not-an-object", "u12", "u01", "[]"),
        row("not-a-group", "u13", "u01", r#"{"channel_type":"group"}"#),
        to(
            Some("messages/group-closed/clientrejected"),
            row("not-a-member", "u14", "group-closed", "{}"),
        ),
        to(
            Some("messages/group-x/clientrejected"),
            row("too-many-recipients", "u15", "group-x", many),
        ),
        Row {
            topic: "messages/u01/no-such-message/update".to_owned(),
            notice: Some("messages/u01/no-such-message/clientrejected"),
            ..row("bad-status", "u16", "u01", r#"{"status":200}"#)
        },
        to(None, row("unroutable", "u17", "u01/doe", "{}")),
        to(
            Some("messages/u39/clientrejected"),
            row("unauthorized", "u18", "u39", "{}"),
        ),
    ]
}

/// A user's connection, without subscriptions.
fn enter(broker: Broker, app: &str, user: &str) -> Wire {
    let login = broker.login(app, user);
    Wire::connect(broker.port("MQTT"), &format!("{app}-{user}"), &login, true).unwrap()
}

/// The service user, to read the dead letters.
fn service(broker: Broker, app: &str) -> Wire {
    let login = crate::bed::service();
    Wire::connect(broker.port("MQTT"), &format!("{app}-letters"), &login, true).unwrap()
}

/// An observer that may do everything but publish to u39.
fn observer(broker: Broker, app: &str, policy: &str, protocol: &str) -> Observer {
    let dead = format!("dead/{app}");
    let mut observer = Observer::prepare(&[
        "--broker",
        &broker.url(false),
        "--app",
        app,
        "--dead-letter-topic",
        &dead,
        "--policy-file",
        policy,
        "--protocol",
        protocol,
    ]);
    match broker.is_rabbitmq() {
        false => observer.spawn(&[
            ("OBSERVER_USERNAME", "almost"),
            ("OBSERVER_PASSWORD", "almostpw"),
        ]),
        true => {
            let mut write: Vec<String> = (0..39)
                .map(|n| format!("rabbitmq.write:*/*/apps.{app}.users.u{n:02}.*"))
                .collect();
            write.push(format!("rabbitmq.write:*/*/apps.{app}.users.group-*"));
            write.extend(["dead.*", "observer.*"].map(|key| format!("rabbitmq.write:*/*/{key}")));
            write.push("rabbitmq.write:*/mqtt-*".to_owned());
            observer.spawn(&[("OBSERVER_TOKEN", &scoped_token(&write))]);
        }
    }
    observer.wait_ready();
    observer
}

fn every_reason(broker: Broker) {
    let _shared = broker.shared();
    let app = fresh_app();
    let dir = tempfile::TempDir::new().unwrap();
    let policy = dir.path().join("policy.toml");
    let rules = "max-payload = 2000\nmax-depth = 16\nmax-recipients = 3\n\
        rate-per-minute = 1\nrate-burst = 30\nbanned = [\"u08\"]\n";
    std::fs::write(&policy, rules).unwrap();
    let mut observer = observer(broker, &app, policy.to_str().unwrap(), "auto");
    let port = broker.port("MQTT");
    let service = crate::bed::service();
    let enter = |user: &str, login: &(String, String), filters: &[&str]| {
        let mut wire = Wire::connect(port, &format!("{app}-{user}"), login, true).unwrap();
        wire.subscribe(filters).unwrap();
        wire
    };
    let mut letters = enter("letters", &service, &[&format!("dead/{app}")]);
    // u01 blocks u10, an operator bans u09, and u14 is not in the group.
    let mut u01 = enter(
        "u01",
        &broker.login(&app, "u01"),
        &[&format!("apps/{app}/users/u01/blocked/#")],
    );
    let block = format!("apps/{app}/users/u01/blocked/u10/update");
    u01.publish_confirmed(block, r#"{"blocked":true}"#).unwrap();
    assert!(u01.message(PATIENCE).is_some());
    let command = |args: &[&str]| {
        let output = crate::bed::binary()
            .args(args)
            .args(["--state-dir", &observer.state_dir()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    command(&["block", "ban", &app, "u09"]);
    let group = dir.path().join("group.json");
    std::fs::write(&group, r#"{"members":{"u01":1}}"#).unwrap();
    command(&[
        "group",
        "set",
        &app,
        "group-closed",
        group.to_str().unwrap(),
    ]);

    let mut expected = std::collections::BTreeMap::new();
    for row in rows() {
        let own = format!("apps/{app}/users/{}", row.sender);
        let rejected = format!("{own}/#");
        let mut sender = enter(row.sender, &broker.login(&app, row.sender), &[&rejected]);
        let topic = format!("{own}/{}", row.topic);
        for _ in 0..row.times {
            if row.retain {
                let packet =
                    publish_packet(topic.as_bytes(), row.payload.as_bytes(), Some(1), true);
                sender.send(&packet).unwrap();
            } else {
                sender.publish_confirmed(&topic, &row.payload).unwrap();
            }
        }
        if row.retain && broker.is_rabbitmq() {
            // RabbitMQ delivers no retained message to a wildcard subscription; live, it looks like
            // any other.
            sender.publish_confirmed(&topic, "").unwrap();
            assert_eq!(
                letters.message(PATIENCE).unwrap().json()["reason"],
                "not-json"
            );
            expected.insert("not-json", 1);
            continue;
        }
        if row.retain {
            // The broker delivers it with the next subscription: another test covers that.
            continue;
        }
        *expected.entry(row.reason).or_insert(0) += 1;
        let letter = letters
            .message(PATIENCE)
            .unwrap_or_else(|| panic!("no dead letter for {}:\n{}", row.reason, observer.log()))
            .json();
        assert_eq!(
            (&letter["reason"], &letter["topic"]),
            (&json!(row.reason), &json!(topic))
        );
        let mut heard: Vec<(String, Value)> = vec![];
        while let Some(message) = sender.message(
            if row.notice.is_some()
                && !heard
                    .iter()
                    .any(|(place, _)| place.ends_with("clientrejected"))
            {
                PATIENCE
            } else {
                std::time::Duration::from_millis(300)
            },
        ) {
            let place = message
                .topic()
                .strip_prefix(&format!("{own}/"))
                .unwrap()
                .to_owned();
            if place.ends_with("clientrejected") {
                heard.push((place, message.json()));
            }
        }
        let places: Vec<&str> = heard.iter().map(|(place, _)| place.as_str()).collect();
        assert_eq!(places, row.notice.as_slice(), "{}", row.reason);
        for (_, notice) in &heard {
            assert_eq!(notice["reason"], row.reason);
            assert!(notice["received_at"].as_u64().is_some());
            assert_eq!(
                notice.get("retry_after_ms").is_some(),
                row.reason == "rate-limited"
            );
        }
    }
    let (_, log) = observer.stop();
    for (reason, count) in &expected {
        assert!(
            log.contains(&format!("{reason}={count}")),
            "{reason}={count}: {log}"
        );
    }
    assert!(log.contains("left_unacknowledged=0"), "{log}");
    for reason in chat21_observer::protocol::refusal::Refusal::ALL {
        // Only a fault of the observer causes this one: `crashes` has it.
        if *reason == chat21_observer::protocol::refusal::Refusal::Internal {
            continue;
        }
        let tried = rows().iter().any(|row| row.reason == reason.as_str());
        assert!(tried, "{reason} has no row");
    }
}

#[test]
fn every_reason_is_told_counted_and_kept_on_rabbitmq3() {
    every_reason(Broker::Rabbit3);
}

#[test]
fn every_reason_is_told_counted_and_kept_on_rabbitmq4() {
    every_reason(Broker::Rabbit4);
}

#[test]
fn every_reason_is_told_counted_and_kept_on_mosquitto() {
    every_reason(Broker::Mosquitto);
}

/// A retained message reaches later subscribers with the flag set: here an observer that starts
/// afterwards.
#[test]
fn what_the_broker_has_kept_is_refused_as_retained() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let mut letters = service(broker, &app);
    letters.subscribe(&[&format!("dead/{app}")]).unwrap();
    let mut u04 = enter(broker, &app, "u04");
    u04.subscribe(&[&format!("apps/{app}/users/u04/#")])
        .unwrap();
    let topic = format!("apps/{app}/users/u04/messages/u01/outgoing");
    u04.send(&publish_packet(topic.as_bytes(), b"{}", Some(9), true))
        .unwrap();
    assert!(
        u04.message(PATIENCE).is_some(),
        "it is there, for they see it themselves"
    );
    let dir = tempfile::TempDir::new().unwrap();
    let policy = dir.path().join("policy.toml");
    std::fs::write(&policy, "").unwrap();
    // Over MQTT 5 the observer asks for no retained messages.
    let mut observer = observer(broker, &app, policy.to_str().unwrap(), "3.1.1");
    assert_eq!(
        letters.message(PATIENCE).unwrap().json()["reason"],
        "retained"
    );
    let notice = u04.message(PATIENCE).unwrap();
    assert!(
        notice.topic().ends_with("/messages/u01/clientrejected"),
        "{}",
        notice.topic()
    );
    assert_eq!(notice.json()["reason"], "retained");
    let (_, log) = observer.stop();
    assert!(log.contains("retained=1"), "{log}");
}

/// A flood beyond the rate: notices and dead letters are limited, too.
#[test]
fn refusals_are_not_answered_without_end() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let dead = format!("dead/{app}");
    let port = crate::http::free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = [
        "--dead-letter-topic",
        dead.as_str(),
        "--rate-per-minute",
        "1",
        "--http-listen",
        &listen,
    ];
    let mut observer = Observer::start(broker, &app, &args);
    let mut letters = service(broker, &app);
    letters.subscribe(&[&dead]).unwrap();
    let mut u00 = enter(broker, &app, "u00");
    u00.subscribe(&[&format!("apps/{app}/users/u00/messages/u01/clientrejected")])
        .unwrap();
    let topic = format!("apps/{app}/users/u00/messages/u01/outgoing");
    let begin = std::time::Instant::now();
    for _ in 0..500 {
        u00.publish(&topic, b"{}").unwrap();
    }
    let limited = "observer_messages_refused_total{reason=\"rate-limited\"} 499\n";
    let unanswered = wait_for("499 refusals", || {
        let (_, metrics) = crate::http::get(port, "/metrics")?;
        let counted = metrics
            .split("\nobserver_refusals_unanswered_total ")
            .nth(1)?;
        let counted: usize = counted.lines().next()?.parse().ok()?;
        metrics.contains(limited).then_some(counted)
    });
    // A hundred at once, and one a second since it began.
    let most = 100 + usize::try_from(begin.elapsed().as_secs() + 1).unwrap();
    let answered = 499 - unanswered;
    assert!((100..=most).contains(&answered), "{answered} are answered");
    let first = u00.message(PATIENCE).unwrap().json();
    let wait = first["retry_after_ms"].as_u64().unwrap();
    assert!((50_000..=60_001).contains(&wait), "{first}");
    for _ in 1..answered {
        assert!(u00.message(PATIENCE).is_some(), "a notice is missing");
    }
    for _ in 0..answered {
        assert!(
            letters.message(PATIENCE).is_some(),
            "a dead letter is missing"
        );
    }
    let (_, log) = observer.stop();
    assert!(log.contains("forwarded=1 refused=499"), "{log}");
    assert!(log.contains(&format!("unanswered={unanswered}")), "{log}");
    // Everything is out now.
    assert_eq!(u00.message(GLIMPSE), None);
    assert_eq!(letters.message(GLIMPSE), None);
}

/// A policy file takes effect when it is written, or on SIGHUP. A faulty file is reported and
/// changes nothing.
#[test]
fn rules_change_while_the_observer_runs() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("policy.toml");
    std::fs::write(&file, "").unwrap();
    let mut observer = Observer::start(broker, &app, &["--policy-file", file.to_str().unwrap()]);
    let mut u00 = enter(broker, &app, "u00");
    u00.subscribe(&[&format!("apps/{app}/users/u00/messages/u01/+")])
        .unwrap();
    let topic = format!("apps/{app}/outgoing/users/u00/messages/u01/outgoing");
    let outcome = |u00: &mut Wire| {
        u00.publish_confirmed(&topic, "{}").unwrap();
        let said = u00.message(PATIENCE).unwrap();
        said.topic().rsplit('/').next().unwrap().to_owned()
    };
    assert_eq!(outcome(&mut u00), "clientadded");
    std::fs::write(&file, format!("[app.{app}]\nbanned = [\"u00\"]\n")).unwrap();
    observer.wait_log("new rules are in force");
    assert_eq!(outcome(&mut u00), "clientrejected");
    std::fs::write(&file, "banned = \n").unwrap();
    observer.wait_log("the policy file is faulty");
    assert!(observer.log().contains("line 1"), "{}", observer.log());
    assert_eq!(outcome(&mut u00), "clientrejected", "the old rules hold");
    std::fs::write(&file, "\n\n").unwrap();
    observer.hang_up();
    observer.wait_log_times("new rules are in force", 2);
    assert_eq!(outcome(&mut u00), "clientadded");
    // A raised limit lets a message pass in the inbox layout, which parses nothing.
    let inbox = format!("/apps/{app}/users/u01/u00/messages/outgoing");
    let mut u01 = enter(broker, &app, "u01");
    let own = [
        format!("/apps/{app}/users/u01/u00/messages/clientrejected"),
        format!("/apps/{app}/users/u00/u01/messages/clientadded"),
    ];
    u01.subscribe(&[&own[0]]).unwrap();
    u00.subscribe(&[&own[1]]).unwrap();
    let long = "x".repeat(150);
    std::fs::write(&file, "max-payload = 100\n").unwrap();
    observer.hang_up();
    observer.wait_log_times("new rules are in force", 3);
    u01.publish_confirmed(&inbox, &long).unwrap();
    assert_eq!(u01.message(PATIENCE).unwrap().json()["reason"], "too-large");
    std::fs::write(&file, "max-payload = 200\n").unwrap();
    observer.hang_up();
    observer.wait_log_times("new rules are in force", 4);
    u01.publish_confirmed(&inbox, &long).unwrap();
    assert_eq!(u00.message(PATIENCE).unwrap().payload, long.as_bytes());
    let (status, log) = observer.stop();
    assert!(status.success(), "{log}");
}

/// `block` takes effect with the next message, and the blocked sender sees no difference.
#[test]
fn an_operators_word_holds_at_once() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = crate::protocol::Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    let app = scene.app.as_str();
    let echo = |alice: &mut crate::protocol::User| {
        alice.writes("u01", &json!({"text": "hi"}));
        let (place, mut said) = alice.hears();
        // These differ between any two messages.
        for own in ["message_id", "timestamp"] {
            said.as_object_mut().unwrap().remove(own);
        }
        (place, said)
    };
    let free = echo(&mut alice);
    bob.hears();
    assert_eq!(
        scene.command(&["block", "set", app, "u01", "u00"]),
        format!("{app} u01 blocks u00\n")
    );
    assert_eq!(echo(&mut alice), free);
    bob.hears_nothing();
    alice.hears_nothing();
    scene.command(&["block", "ban", app, "u02"]);
    assert_eq!(
        scene.command(&["block", "list", app]),
        format!("{app} u02 is banned\n{app} u01 blocks u00\n")
    );
    let listed: Value =
        serde_json::from_str(&scene.command(&["block", "list", app, "u00", "--json"])).unwrap();
    assert_eq!(listed, json!([{"app": app, "by": "u01", "user": "u00"}]));
    scene.command(&["block", "clear", app, "u01", "u00"]);
    assert_eq!(echo(&mut alice), free);
    bob.hears();
    let mut banned = scene.user("u02");
    banned.writes("u01", &json!({}));
    assert_eq!(banned.hears().1["reason"], "banned");
    scene.command(&["block", "unban", app, "u02"]);
    banned.writes("u01", &json!({"text": "again"}));
    assert_eq!(bob.hears().1["text"], "again");
    let faulty = scene.try_command(&["block", "ban", app, "a+b"]);
    assert!(!faulty.status.success());
    assert_eq!(
        String::from_utf8_lossy(&faulty.stderr),
        "error: user \"a+b\" holds '+', which no identifier may hold\n"
    );
}

/// Over MQTT 5 notices and dead letters have the reason as a user property, too.
#[test]
fn the_reason_is_a_user_property() {
    use std::io::{BufRead, BufReader};
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let dead = format!("dead/{app}");
    let _observer = Observer::start(broker, &app, &["--dead-letter-topic", &dead]);
    let port = broker.port("MQTT").to_string();
    let mut child = std::process::Command::new(crate::bed::root().join("scripts/brokers"))
        .args([
            "client",
            "stdbuf",
            "-oL",
            "mosquitto_sub",
            "-d",
            "-V",
            "5",
            "-h",
            "127.0.0.1",
            "-p",
            &port,
        ])
        .args([
            "-u",
            "observer",
            "-P",
            "observerpw",
            "-C",
            "2",
            "-W",
            "180",
            "-F",
            "%t %P",
        ])
        .args([
            "-t",
            &dead,
            "-t",
            &format!("apps/{app}/users/u00/messages/u01/clientrejected"),
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    // This debug line says that the subscription is active.
    assert!(lines.any(|line| line.starts_with("Subscribed")));
    let mut u00 = enter(broker, &app, "u00");
    let topic = format!("apps/{app}/users/u00/messages/u01/outgoing");
    u00.publish_confirmed(&topic, "no json").unwrap();
    let said: Vec<String> = lines.filter(|line| line.contains(" reason:")).collect();
    let letter = format!("{dead} reason:not-json topic:{topic}");
    let notice = format!("apps/{app}/users/u00/messages/u01/clientrejected reason:not-json");
    assert!(said.contains(&letter) && said.contains(&notice), "{said:?}");
    child.wait().unwrap();
}
