//! The observer crashes between one step of a message and the next: written, committed,
//! acknowledged, published, confirmed, forgotten.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app};
use crate::load::{Load, Path, Plan, users};
use crate::wire::Wire;

/// The points, as `src/telemetry/crash_point.rs` names them, and how often each may be passed
/// before: some come for each message, some for each commit.
const POINTS: [(&str, u64); 8] = [
    ("written", 4),
    ("committed", 4),
    ("decided", 4),
    ("published", 60),
    ("acknowledged", 30),
    ("turned", 40),
    ("confirmed", 60),
    ("forgotten", 4),
];
/// Rounds after one of which the broker is restarted, too: no divisor of the number of points, so
/// that each point has its turn.
const RESTART_EVERY: usize = 7;
const SIGABRT: i32 = 6;
/// Messages on their way at a time.
const UNDER_WAY: usize = 60;
/// Messages that each sender may send to each recipient in a round.
const PER_ROUND: usize = 20;
/// Messages on which the observer panics, one right after the other.
const BOOMS: usize = 8;

/// `scripts/campaign` asks for more than two rounds a point (CRASH_ROUNDS).
fn crashes_lose_nothing_and_repeat_nothing_under_another_id(broker: Broker) {
    let rounds = std::env::var("CRASH_ROUNDS").map_or(16, |rounds| rounds.parse().unwrap());
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let url = broker.url(false);
    let args = ["--broker", &url, "--username", "observer", "--app", &app];
    let mut observer = Observer::prepare(&args);
    observer.restart();
    let load = Load::start(Plan {
        broker,
        app,
        senders: users(0..3),
        recipients: users(3..6),
        paths: vec![Path::Chat21],
        per_pair: rounds * PER_ROUND,
        allowed: Some(0),
    });
    let mut seed = u64::from(std::process::id());
    println!("seed {seed}");
    observer.kill();
    for round in 0..rounds {
        let (point, most) = POINTS[round % POINTS.len()];
        // Xorshift: a cheap random number.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let at = format!("{point}:{}", 1 + seed % most);
        observer.spawn(&[("OBSERVER_PASSWORD", "observerpw"), ("CRASH_AT", &at)]);
        let begun = Instant::now();
        while !observer.has_ended() {
            load.allow(load.arrived() + UNDER_WAY);
            assert!(begun.elapsed() < PATIENCE, "{at} is never passed");
            // The process ends when enough has come: there is nothing to wait on.
            std::thread::sleep(Duration::from_millis(20));
        }
        let (status, log) = observer.ended();
        assert_eq!(status.signal(), Some(SIGABRT), "{at}: {status}\n{log}");
        if round % RESTART_EVERY == RESTART_EVERY - 1 {
            broker.control("stop");
            broker.control("start");
        }
    }
    observer.restart();
    load.allow(load.expected());
    let expected = load.expected();
    let account = load.finish();
    println!(
        "{broker:?}: {expected} messages over {rounds} crashes, {} came twice",
        account.verdict.repeated
    );
    let (status, log) = observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
    let store = observer.store();
    let one = |sql: &str| -> String { store.query_row(sql, [], |row| row.get(0)).unwrap() };
    assert_eq!(one("PRAGMA integrity_check"), "ok");
    let text = "SELECT count(*) || ' ' || count(DISTINCT json_extract(body, '$.n')
            || json_extract(body, '$.from') || json_extract(body, '$.to')) FROM message";
    assert_eq!(
        one(text),
        format!("{expected} {expected}"),
        "rows, messages"
    );
    assert_eq!(one("SELECT cast(count(*) AS TEXT) FROM delivery"), "0");
}

#[test]
fn crashes_lose_nothing_on_rabbitmq3() {
    crashes_lose_nothing_and_repeat_nothing_under_another_id(Broker::Rabbit3);
}

#[test]
fn crashes_lose_nothing_on_rabbitmq4() {
    crashes_lose_nothing_and_repeat_nothing_under_another_id(Broker::Rabbit4);
}

#[test]
fn crashes_lose_nothing_on_mosquitto() {
    crashes_lose_nothing_and_repeat_nothing_under_another_id(Broker::Mosquitto);
}

/// A panic on one message is that message's end, and nobody else's; also if several of one batch
/// cause one.
#[test]
fn messages_on_which_it_panics_are_refused() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let url = broker.url(false);
    for store in [&[][..], &["--store", "none"]] {
        let args = ["--broker", &url, "--username", "observer", "--app", &app];
        let mut observer = Observer::prepare(&[&args[..], store].concat());
        observer.spawn(&[("OBSERVER_PASSWORD", "observerpw"), ("PANIC_ON", "boom")]);
        observer.wait_ready();
        let login = broker.login(&app, "u01");
        let mut user = Wire::connect(broker.port("MQTT"), &app, &login, true).unwrap();
        user.subscribe(&[&format!("apps/{app}/users/u01/#")])
            .unwrap();
        let topic = Path::Chat21.outgoing(&app, "u01", "u01");
        let booms = std::iter::repeat_n("boom", BOOMS);
        for text in ["before"].into_iter().chain(booms).chain(["after"]) {
            user.publish(&topic, format!(r#"{{"text":"{text}"}}"#))
                .unwrap();
        }
        let mut texts: Vec<String> = vec![];
        let count = |texts: &[String], text| texts.iter().filter(|one| *one == text).count();
        while count(&texts, "after") == 0 || count(&texts, "internal") < BOOMS {
            let message = user.message(PATIENCE).expect("a copy or a notice").json();
            let said = message["text"].as_str().or(message["reason"].as_str());
            texts.push(said.unwrap_or_default().to_owned());
        }
        assert!(!texts.contains(&"boom".to_owned()), "{texts:?}");
        let (status, log) = observer.stop();
        assert!(
            status.success() && log.contains("refused as internal"),
            "{log}"
        );
    }
}
