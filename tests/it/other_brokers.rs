//! Faults on brokers that fewer people run, and what these brokers cannot do: the chapter
//! *other-brokers* says the same, and what is not tested.

use crate::bed::{Broker, Observer, fresh_app};
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
        load.wait_arrived(share - UNDER_WAY);
        observer.freeze();
        load.wait_under_way(UNDER_WAY);
        observer.kill_and_restart();
        assert!(
            observer.ready.contains("session resumed"),
            "{}",
            observer.ready
        );
    }
    load.allow(load.expected());
    let expected = load.expected();
    let verdict = match broker {
        // It sends new messages first, and after `ack_wait` what was not acknowledged.
        Broker::Nats => load.finish_in_any_order().verdict,
        Broker::Rabbit3 | Broker::Rabbit4 | Broker::Mosquitto | Broker::Ejabberd => {
            load.finish().verdict
        }
    };
    println!(
        "{broker:?}: {expected} arrived after two kills, {} of them twice, {} out of order",
        verdict.repeated, verdict.out_of_order
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

/// ejabberd keeps sessions in memory: what waited for the observer is gone, and it says so.
#[test]
fn a_restart_of_ejabberd_loses_what_waits_and_the_observer_says_so() {
    let broker = Broker::Ejabberd;
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
    load.allow(load.expected());
    load.finish();
}
