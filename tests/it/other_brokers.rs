//! Faults on brokers that fewer people run, and what these brokers cannot do: the chapter
//! *other-brokers* says the same, and what is not tested.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::bed::{Broker, Observer, binary, fresh_app};
use crate::load::{Load, Path, Plan, users};

/// 500 messages, of which a fifth may be sent at first.
fn load(broker: Broker, app: &str) -> Load {
    Load::start(Plan {
        broker,
        app: app.to_owned(),
        senders: users(0..5),
        recipients: users(5..10),
        paths: vec![Path::Chat21],
        per_pair: 20,
        allowed: Some(100),
    })
}

const UNDER_WAY: usize = 30;

/// The observer is killed twice with messages under way.
fn kill_9_loses_nothing(broker: Broker) {
    let _shared = broker.shared();
    let app = fresh_app();
    let mut observer = Observer::start(broker, &app, &[]);
    let load = load(broker, &app);
    for share in [100, 250] {
        load.allow(share);
        if broker == Broker::Nats {
            // It loses what it delivers in the moment in which a connection ends: nothing may be on
            // its way from it then. Nothing signals that all of it is with the observer.
            load.wait_arrived(share);
            observer.freeze();
            load.wait_under_way(UNDER_WAY);
            std::thread::sleep(Duration::from_secs(2));
        } else {
            load.wait_arrived(share - UNDER_WAY);
            observer.freeze();
            load.wait_under_way(UNDER_WAY);
        }
        observer.kill_and_restart();
        // ActiveMQ never says that it has the session.
        let resumed = observer.ready.contains("session resumed");
        assert_eq!(resumed, broker != Broker::ActiveMq, "{}", observer.ready);
    }
    load.allow(load.expected());
    let expected = load.expected();
    let verdict = match broker {
        // It sends new messages first, and after `ack_wait` what was not acknowledged.
        Broker::Nats => load.finish_in_any_order().verdict,
        // Without DUP nobody can tell what comes again from a new message.
        Broker::Aedes | Broker::Rumqttd => {
            load.finish_but_for(|verdict| verdict.doubled = 0).verdict
        }
        Broker::Rabbit3
        | Broker::Rabbit4
        | Broker::Mosquitto
        | Broker::Ejabberd
        | Broker::ActiveMq => load.finish().verdict,
    };
    println!(
        "{broker:?}: {expected} arrived after two kills, {} of them twice, {} under another \
         identifier, {} out of order",
        verdict.repeated, verdict.doubled, verdict.out_of_order
    );
}

#[test]
fn kill_9_loses_nothing_on_nats() {
    kill_9_loses_nothing(Broker::Nats);
}

#[test]
fn kill_9_loses_nothing_on_ejabberd() {
    kill_9_loses_nothing(Broker::Ejabberd);
}

#[test]
fn kill_9_loses_nothing_on_activemq() {
    kill_9_loses_nothing(Broker::ActiveMq);
}

#[test]
fn kill_9_loses_nothing_on_aedes() {
    kill_9_loses_nothing(Broker::Aedes);
}

#[test]
fn kill_9_loses_nothing_on_rumqttd() {
    kill_9_loses_nothing(Broker::Rumqttd);
}

/// These keep sessions in memory: what waited for the observer is gone, and it says so.
fn a_restart_loses_what_waits_and_the_observer_says_so(broker: Broker) {
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let mut observer = Observer::start(broker, &app, &[]);
    let load = load(broker, &app);
    load.wait_arrived(100);
    assert!(!observer.log().contains("has not kept the session"));
    observer.kill();
    broker.control("stop");
    broker.control("start");
    observer.restart();
    observer.wait_log("the broker has not kept the session");
    // Nor those of the recipients: what comes before they are back is lost, too.
    load.wait_recipients();
    load.allow(load.expected());
    load.finish();
}

#[test]
fn a_restart_of_ejabberd_loses_what_waits_and_the_observer_says_so() {
    a_restart_loses_what_waits_and_the_observer_says_so(Broker::Ejabberd);
}

#[test]
fn a_restart_of_aedes_loses_what_waits_and_the_observer_says_so() {
    a_restart_loses_what_waits_and_the_observer_says_so(Broker::Aedes);
}

#[test]
fn a_restart_of_rumqttd_loses_what_waits_and_the_observer_says_so() {
    a_restart_loses_what_waits_and_the_observer_says_so(Broker::Rumqttd);
}

/// Its sessions are on the disk. It does not remember what it has delivered: that comes again
/// without DUP.
#[test]
fn a_restart_of_activemq_loses_nothing() {
    let broker = Broker::ActiveMq;
    let _exclusive = broker.exclusive();
    let app = fresh_app();
    let _observer = Observer::start(broker, &app, &[]);
    let load = load(broker, &app);
    load.wait_arrived(100);
    load.allow(load.expected());
    load.wait_arrived(150);
    broker.control("stop");
    broker.control("start");
    load.finish_but_for(|verdict| verdict.doubled = 0);
}

/// What `check` says of a broker as the guide sets it up, that is not as it should be: each step,
/// and a part of the text.
fn check_says(broker: Broker, wanted: &[(&str, &str)]) {
    let _shared = broker.shared();
    let dir = TempDir::new().unwrap();
    let output = binary()
        .args(["check", "--json", "--broker", &broker.url(false)])
        .args(["--username", "observer", "--app", &fresh_app()])
        .args(["--state-dir", dir.path().to_str().unwrap()])
        .env("OBSERVER_PASSWORD", "observerpw")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let steps: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    // Nobody's credentials were given.
    let odd = steps
        .iter()
        .filter(|step| step["outcome"] != "ok" && step["step"] != "probe")
        // It depends on what else the machine does.
        .filter(|step| step["step"] != "latency");
    let odd: Vec<&Value> = odd.collect();
    assert_eq!(odd.len(), wanted.len(), "{odd:#?}");
    for (odd, (step, part)) in odd.iter().zip(wanted) {
        assert_eq!(
            (&odd["step"], &odd["outcome"]),
            (&json!(step), &json!("note"))
        );
        assert!(odd["detail"].as_str().unwrap().contains(part), "{odd}");
    }
}

const NO_DUP: (&str, &str) = ("redelivery", "0 of them marked DUP");

#[test]
fn check_says_what_activemq_cannot_do() {
    let unsaid = (
        "session",
        "kept while away, although the broker says that it is not",
    );
    check_says(Broker::ActiveMq, &[unsaid]);
}

#[test]
fn check_says_what_aedes_cannot_do() {
    check_says(Broker::Aedes, &[NO_DUP]);
}

#[test]
fn check_says_what_rumqttd_cannot_do() {
    check_says(Broker::Rumqttd, &[NO_DUP]);
}

/// MQTT 5 where there is none.
#[test]
fn brokers_without_mqtt_5_say_so() {
    let refused = "the broker does not speak this version of MQTT (code 1)";
    for (broker, said) in [
        (Broker::Nats, refused),
        (
            Broker::ActiveMq,
            "does the broker not speak MQTT 5? try --protocol auto",
        ),
        (Broker::Aedes, refused),
    ] {
        let _shared = broker.shared();
        let output = binary()
            .args(["check", "--protocol", "5", "--broker", &broker.url(false)])
            .args(["--username", "observer", "--app", &fresh_app()])
            .args([
                "--state-dir",
                TempDir::new().unwrap().path().to_str().unwrap(),
            ])
            .env("OBSERVER_PASSWORD", "observerpw")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains(said), "{broker:?}: {text}");
    }
}
