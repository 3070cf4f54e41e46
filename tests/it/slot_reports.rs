//! What slots tell people: `watch`, and the log.

use std::collections::HashSet;
use std::process::Stdio;

use crate::bed::{Broker, PATIENCE, binary, fresh_app, lines_of, wait_for};
use crate::postgres::{Database, shared};
use crate::slots::{By, Process, wait_all};
use crate::wire::{Wire, packet};

#[test]
fn watch_finds_the_slots_of_a_name_and_the_log_names_them() {
    let broker = Broker::Mosquitto;
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut process = Process::start_by(By::All, &database, broker, &app, "2");
    wait_all(&database, 2, &[&process]);
    // What an observer without slots has left behind.
    let login = ("observer".to_owned(), "observerpw".to_owned());
    let mut operator = Wire::connect(broker.port("MQTT"), &app, &login, true).unwrap();
    let status = format!("observer/{app}/status");
    let gone = br#"{"online":false,"ready":false}"#;
    operator.send(&retained(&status, gone)).unwrap();

    let mut watch = binary()
        .args(["watch", "--json", "--username", "observer"])
        .args(["--broker", &broker.url(false), "--name", &app])
        .env("OBSERVER_PASSWORD", "observerpw")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = lines_of(watch.stderr.take().unwrap());
    let lines = lines_of(watch.stdout.take().unwrap());
    let mut online = [0, 1].map(|_| said.recv_timeout(PATIENCE).unwrap());
    online.sort();
    for (slot, line) in online.iter().enumerate() {
        let begins = line.starts_with(&format!("{app}-{slot} "));
        assert!(begins && line.ends_with("online, ready"), "{online:?}");
    }
    // Both slots trace: each has some of these senders.
    let mut senders = HashSet::new();
    wait_for("lines of both slots", || {
        for user in 0..8 {
            let topic = format!("apps/{app}/outgoing/users/u{user:02}/messages/u10/outgoing");
            operator
                .publish_confirmed(topic.as_bytes(), br#"{"text":"x"}"#)
                .unwrap();
        }
        while let Ok(line) = lines.try_recv() {
            assert!(line.contains(r#""outcome":"forwarded""#), "{line}");
            let sender = line.split(r#""sender":""#).nth(1).unwrap();
            senders.insert(sender[..3].to_owned());
        }
        (senders.len() == 8).then_some(())
    });
    watch.kill().unwrap();
    watch.wait().unwrap();
    operator.send(&retained(&status, b"")).unwrap();
    operator.disconnect();
    let (_, log) = process.observer.stop();
    for slot in 0..2 {
        assert!(log.contains(&format!(" INFO slot {slot}: ")), "{log}");
    }
}

/// A retained PUBLISH at `QoS` 0.
fn retained(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(payload);
    packet(0x31, &body)
}
