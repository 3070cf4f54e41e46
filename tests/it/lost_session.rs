//! The session of a slot is lost while another slot is away, whose own session gathers on.

use crate::bed::{Broker, fresh_app, wait_for};
use crate::load::{Load, Path, Plan, users};
use crate::postgres::{Database, shared, start};
use crate::slots::{By, Process, settle, wait_all};
use crate::wire::Wire;

/// What the lost session held waits in the other's as well, and nowhere else.
#[test]
fn what_has_waited_for_a_session_that_is_lost_is_served_by_whoever_has_it() {
    let broker = Broker::Mosquitto;
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut process = Process::start_by(By::All, &database, broker, &app, "2");
    wait_all(&database, 2, &[&process]);
    process.observer.stop();
    let load = Load::start(Plan {
        broker,
        app: app.clone(),
        senders: users(0..8),
        recipients: users(10..12),
        paths: vec![Path::Chat21],
        per_pair: 1,
        allowed: None,
    });
    load.wait_under_way(load.expected());
    // Whoever connects without a session under its name ends it.
    let secret = database.sql("SELECT secret FROM observer WHERE n = 0");
    let id = format!("{app}-{secret}-slot-1");
    let login = ("observer".to_owned(), "observerpw".to_owned());
    let wire = Wire::connect(broker.port("MQTT"), &id, &login, true);
    wire.unwrap().disconnect();
    // Slot 1 comes back first, to a new session.
    let since = || database.sql("SELECT session_since FROM observer WHERE n = 1");
    let before = since();
    database.sql(
        "UPDATE observer SET token = token + 1, holder = 'somebody else',
            expires = clock_timestamp() + interval '1 hour' WHERE n = 0",
    );
    start(&mut process.observer);
    process.observer.wait_log("serves slot 1 of 2");
    wait_for("a new session", || (since() != before).then_some(()));
    database.sql("UPDATE observer SET expires = clock_timestamp() WHERE n = 0");
    wait_all(&database, 2, &[&process]);
    settle(load, &database, "a session lost");
}
