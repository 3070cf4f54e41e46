//! Processes that share the messages in slots: each is taken by one of them, whatever becomes of the
//! others.

use crate::bed::{Broker, Observer, fresh_app, wait_for};
use crate::http::{free_port, get};
use crate::load::{Load, Path, Plan, users};
use crate::postgres::{Database, shared, start};

/// Messages under way at each fault.
const UNDER_WAY: usize = 100;
const LEASE: &str = "2s";

/// A process that shares the messages of an app in so many slots.
struct Process {
    observer: Observer,
    http: u16,
}

impl Process {
    fn prepare(database: &Database, broker: Broker, app: &str, slots: &str) -> Self {
        let http = free_port();
        let more = ["--store-lease", LEASE, "--slots", slots];
        let observer = database.observer_of(broker, app, http, &more);
        Self { observer, http }
    }

    fn start(database: &Database, broker: Broker, app: &str, slots: &str) -> Self {
        let mut process = Self::prepare(database, broker, app, slots);
        start(&mut process.observer);
        process
    }

    fn readiness(&self) -> (u16, String) {
        get(self.http, "/readyz").unwrap_or((0, String::new()))
    }

    /// The value of a metric.
    fn metric(&self, name: &str) -> f64 {
        let (_, text) = get(self.http, "/metrics").unwrap();
        let line = text.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// How many slots somebody holds.
fn held(database: &Database) -> usize {
    let sql = "SELECT count(*) FROM observer WHERE expires > clock_timestamp()";
    database.sql(sql).parse().unwrap()
}

/// Waits until every slot is held and has its session, and every process is ready.
fn wait_all(database: &Database, slots: usize, processes: &[&Process]) {
    wait_for("all slots", || {
        let is_ready = |process: &&Process| process.readiness().0 == 200;
        // Before that there may be no table.
        (processes.iter().all(is_ready) && held(database) == slots).then_some(())
    });
}

fn load(broker: Broker, app: &str, per_pair: usize) -> Load {
    Load::start(Plan {
        broker,
        app: app.to_owned(),
        senders: users(0..10),
        recipients: users(10..20),
        paths: vec![Path::Chat21],
        per_pair,
        allowed: Some(300),
    })
}

fn settle(load: Load, database: &Database, what: &str) {
    load.allow(load.expected());
    let expected = load.expected();
    let account = load.finish();
    println!(
        "{what}: {} arrived, {} of them twice",
        account.verdict.arrived, account.verdict.repeated
    );
    assert_eq!(database.messages(), expected, "each is stored once");
    let ids = "SELECT count(DISTINCT message_id) FROM message";
    assert_eq!(database.sql(ids), expected.to_string());
    wait_for("an empty delivery log", || {
        (database.sql("SELECT count(*) FROM delivery") == "0").then_some(())
    });
}

/// How many messages each slot has stored.
fn by_slot(database: &Database) -> Vec<usize> {
    let counts = database.sql("SELECT count(*) FROM message GROUP BY seq % 16 ORDER BY seq % 16");
    counts.lines().map(|count| count.parse().unwrap()).collect()
}

#[test]
fn one_process_serves_four_slots() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let process = Process::start(&database, Broker::Mosquitto, &app, "4");
    process.observer.wait_log_times(" INFO ready: slot ", 4);
    wait_all(&database, 4, &[&process]);
    let load = load(Broker::Mosquitto, &app, 10);
    settle(load, &database, "one process, four slots");
    let counts = by_slot(&database);
    assert!(
        counts.len() >= 3,
        "few slots had something to do: {counts:?}"
    );
    assert!(process.metric("observer_broker_connected{link=\"session\"}") == 4.0);
    let mut process = process;
    let (status, log) = process.observer.stop();
    assert!(status.success() && !log.contains("ERROR"), "{log}");
    assert_eq!(held(&database), 0, "the leases are given back");
}

/// Of two processes, each is killed in turn while the other serves; then it comes again.
fn killed_by_turns(broker: Broker, rounds: usize) {
    let (_server, _broker) = (shared(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut first = Process::start(&database, broker, &app, "2");
    let mut second = Process::start(&database, broker, &app, "2");
    wait_all(&database, 2, &[&first, &second]);
    let load = load(broker, &app, 10 * (rounds + 1));
    for round in 1..=rounds {
        let share = load.expected() * round / (rounds + 1);
        load.allow(share);
        load.wait_arrived(share - UNDER_WAY);
        first.observer.freeze();
        load.allow(share + UNDER_WAY);
        first.observer.kill();
        start(&mut first.observer);
        std::mem::swap(&mut first, &mut second);
        wait_all(&database, 2, &[&first, &second]);
    }
    settle(load, &database, "killed by turns");
    assert_eq!(by_slot(&database).len(), 2);
}

#[test]
fn two_processes_are_killed_by_turns_on_mosquitto() {
    killed_by_turns(Broker::Mosquitto, 4);
}

#[test]
fn two_processes_are_killed_by_turns_on_rabbitmq4() {
    killed_by_turns(Broker::Rabbit4, 2);
}

/// It is stopped until its leases are over, and goes on when the other has taken its slot.
#[test]
fn a_process_that_was_stopped_past_its_lease_writes_nothing_more() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut first = Process::start(&database, Broker::Mosquitto, &app, "2");
    let mut second = Process::start(&database, Broker::Mosquitto, &app, "2");
    wait_all(&database, 2, &[&first, &second]);
    let load = load(Broker::Mosquitto, &app, 30);
    for round in 1..=2 {
        let share = load.expected() * round / 3;
        load.allow(share);
        load.wait_arrived(share - UNDER_WAY);
        let before = second.observer.log().matches(" INFO ready: slot ").count();
        first.observer.freeze();
        load.allow(share + UNDER_WAY);
        second
            .observer
            .wait_log_times(" INFO ready: slot ", before + 1);
        first.observer.thaw();
        first
            .observer
            .wait_log_times("this process serves it no longer", round.div_ceil(2));
        wait_all(&database, 2, &[&first, &second]);
        std::mem::swap(&mut first, &mut second);
    }
    settle(load, &database, "stopped past the lease");
    for process in [&first, &second] {
        let log = process.observer.log();
        assert!(!log.contains("ERROR"), "a hand-over is no error: {log}");
    }
}

/// The lease is far longer than a test may wait.
#[test]
fn a_process_that_is_told_to_stop_hands_its_slots_over() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let process = || {
        let http = free_port();
        let more = ["--store-lease", "10m", "--slots", "3"];
        let observer = database.observer_of(Broker::Mosquitto, &app, http, &more);
        let mut process = Process { observer, http };
        start(&mut process.observer);
        process
    };
    let mut first = process();
    wait_all(&database, 3, &[&first]);
    let load = load(Broker::Mosquitto, &app, 20);
    load.wait_arrived(UNDER_WAY);
    // It takes its share from the first.
    let second = process();
    first
        .observer
        .wait_log("gives slot 2 up: 2 processes share the slots");
    second.observer.wait_log("serves slot 2 of 3, which ");
    wait_all(&database, 3, &[&first, &second]);
    load.allow(load.expected() / 2);
    load.wait_arrived(load.expected() / 4);
    let (status, log) = first.observer.stop();
    assert!(status.success(), "{log}");
    wait_all(&database, 3, &[&second]);
    settle(load, &database, "handed over");
}

/// Nobody acknowledges what no session keeps for its slot.
#[test]
fn what_is_for_a_slot_without_a_session_is_held() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let process = Process::start(&database, Broker::Mosquitto, &app, "2");
    wait_all(&database, 2, &[&process]);
    let mut process = process;
    process.observer.stop();
    // Somebody else has slot 1, and has not been at the broker for a long time.
    database.sql(
        "UPDATE observer SET token = token + 1, holder = 'somebody else',
            session_at = clock_timestamp() - interval '13 hours',
            expires = clock_timestamp() + interval '1 hour' WHERE n = 1",
    );
    let mut process = Process::start(&database, Broker::Mosquitto, &app, "2");
    process.observer.wait_log("serves slot 0 of 2");
    wait_for("that it is not ready", || {
        let (status, text) = process.readiness();
        let says = "no session is known of slot 1: what is for it waits";
        (status == 503 && text.contains(says)).then_some(())
    });
    let load = Load::start(Plan {
        broker: Broker::Mosquitto,
        app: app.clone(),
        senders: users(0..8),
        recipients: users(10..12),
        paths: vec![Path::Chat21],
        per_pair: 1,
        allowed: None,
    });
    // What is for slot 0 passes meanwhile; the rest is held.
    let expected = load.expected();
    wait_for("held messages", || {
        let held = process.metric("observer_inflight_messages");
        (held > 0.0 && load.arrived() > 0 && load.arrived() < expected).then_some(())
    });
    let log = process.observer.log();
    assert!(!log.contains("ready: slot 0"), "it is not ready: {log}");
    database.sql("UPDATE observer SET expires = clock_timestamp() WHERE n = 1");
    wait_all(&database, 2, &[&process]);
    settle(load, &database, "held for a slot");
    let (status, log) = process.observer.stop();
    assert!(status.success(), "{log}");
}

#[test]
fn the_number_of_slots_is_fixed_with_the_first_start() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut process = Process::start(&database, Broker::Mosquitto, &app, "2");
    wait_all(&database, 2, &[&process]);
    process.observer.stop();
    for slots in ["1", "3"] {
        let mut other = Process::start(&database, Broker::Mosquitto, &app, slots);
        let (status, log) = other.observer.ended();
        let says = "was made for 2 slots, which stays: start every observer on it with --slots 2";
        assert!(!status.success() && log.contains(says), "{log}");
    }
}
