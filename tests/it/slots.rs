//! Processes that share the messages in slots: each slot is taken by one of them, whatever becomes
//! of the others.

use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::bed::{Broker, Observer, fresh_app, service, wait_for};
use crate::http::{free_port, get};
use crate::load::{Load, Path, Plan, users};
use crate::postgres::{Database, control, exclusive, shared, start};
use crate::wire::Wire;

/// Messages under way at each fault.
const UNDER_WAY: usize = 100;
const LEASE: &str = "2s";

/// How slots share messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// Each gets all.
    All,
    /// By RabbitMQ's exchange.
    Hash,
    /// The same, with sessions that a cluster replicates.
    HashInQuorums,
}

impl By {
    fn flags(self) -> [&'static str; 2] {
        match self {
            Self::All => ["--sharing", "all"],
            Self::Hash | Self::HashInQuorums => ["--sharing", "hash"],
        }
    }

    /// What `slots rabbitmq` prints.
    pub(crate) fn definitions(self, database: &Database, app: &str, slots: &str) -> String {
        let queues = match self {
            Self::All | Self::Hash => "classic",
            Self::HashInQuorums => "quorum",
        };
        // The brokers of the bed keep a session for a day.
        let more = ["--session-expiry", "1day", "--queues", queues];
        let of = ["--app", app, "--name", app, "--slots", slots];
        database.printed(&[&["slots", "rabbitmq"], &of[..], &self.flags(), &more].concat())
    }

    /// Sets the broker up.
    pub(crate) fn import(self, database: &Database, broker: Broker, app: &str, slots: &str) {
        if self != Self::All {
            broker.import(&self.definitions(database, app, slots));
        }
    }
}

/// A process that shares the messages of an app in so many slots.
pub(crate) struct Process {
    pub(crate) observer: Observer,
    http: u16,
}

impl Process {
    fn start(database: &Database, broker: Broker, app: &str, slots: &str) -> Self {
        Self::start_by(By::All, database, broker, app, slots)
    }

    /// A process that is running.
    pub(crate) fn of(observer: Observer, http: u16) -> Self {
        Self { observer, http }
    }

    pub(crate) fn start_by(
        by: By,
        database: &Database,
        broker: Broker,
        app: &str,
        slots: &str,
    ) -> Self {
        let more = [&["--slots", slots], &by.flags()[..]].concat();
        Self::start_with(database, broker, app, &more)
    }

    fn start_with(database: &Database, broker: Broker, app: &str, more: &[&str]) -> Self {
        let http = free_port();
        let more = [&["--store-lease", LEASE], more].concat();
        let observer = database.observer_of(broker, app, http, &more);
        let mut process = Self { observer, http };
        start(&mut process.observer);
        process
    }

    /// The same behind a way to the broker of its own, which is opened.
    fn start_behind(gate: &Gate, by: By, database: &Database, app: &str, slots: &str) -> Self {
        gate.open();
        let http = free_port();
        let url = format!("mqtt://localhost:{}", gate.port);
        let more = ["--store-lease", LEASE, "--connect-timeout", "1s"];
        let more = [&more[..], &["--slots", slots], &by.flags()].concat();
        let observer = database.observer_at(&url, app, http, &more);
        let mut process = Self { observer, http };
        start(&mut process.observer);
        process
    }

    pub(crate) fn readiness(&self) -> (u16, String) {
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

/// Waits until others have the slots that a process has had.
fn wait_without(database: &Database, process: &Process) {
    let pid = process.observer.pid();
    let had = format!("SELECT count(*) FROM observer WHERE holder LIKE '% (process {pid})'");
    wait_for("others who serve", || {
        (database.sql(&had) == "0").then_some(())
    });
}

/// Waits until every slot is held and has its session, and every process is ready.
pub(crate) fn wait_all(database: &Database, slots: usize, processes: &[&Process]) {
    wait_for("all slots", || {
        let is_ready = |process: &&Process| process.readiness().0 == 200;
        // Before that there may be no table.
        (processes.iter().all(is_ready) && held(database) == slots).then_some(())
    });
}

pub(crate) fn load(broker: Broker, app: &str, per_pair: usize) -> Load {
    Load::start(Plan {
        broker,
        app: app.to_owned(),
        // So many that some belong to each slot, whatever the app is called.
        senders: users(20..40),
        recipients: users(10..15),
        paths: vec![Path::Chat21],
        per_pair,
        allowed: Some(300),
    })
}

pub(crate) fn settle(load: Load, database: &Database, what: &str) {
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
pub(crate) fn by_slot(database: &Database) -> Vec<usize> {
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
        first.observer.freeze();
        load.allow(share + UNDER_WAY);
        wait_without(&database, &first);
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

/// The sessions have just been made: what is in the one of the process that fails is in the other
/// one, too, and whoever takes its slot has to know.
#[test]
fn what_a_process_leaves_that_has_just_become_ready_is_delivered_once() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let load = Load::start(Plan {
        broker: Broker::Mosquitto,
        app: app.clone(),
        senders: users(20..40),
        recipients: users(10..15),
        paths: vec![Path::Chat21],
        per_pair: 1,
        allowed: Some(0),
    });
    let process = || Process::start(&database, Broker::Mosquitto, &app, "2");
    let (first, second) = (process(), process());
    wait_all(&database, 2, &[&first, &second]);
    first.observer.freeze();
    let known = "SELECT bool_and(o.session_cleared >= s.session_since + interval '100 ms')
        FROM observer o JOIN observer s ON s.n <> o.n";
    assert_eq!(database.sql(known), "t");
    load.allow(load.expected());
    load.wait_sent();
    wait_without(&database, &first);
    wait_all(&database, 2, &[&second]);
    settle(load, &database, "failed as soon as it was ready");
    first.observer.thaw();
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

/// What has become of the session of a slot that nobody has connected to for long.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    Kept,
    Gone,
}

/// Nobody acknowledges what no session keeps for its slot.
#[test]
fn what_is_for_a_slot_without_a_session_is_held() {
    held_for_a_slot(Old::Kept, 1, "100");
}

/// The session that comes in its place never gets it: whoever has held it serves it.
#[test]
fn what_was_held_for_a_session_that_is_gone_is_served_by_its_holder() {
    held_for_a_slot(Old::Gone, 1, "100");
}

/// More than the broker's window: the rest waits behind them, and comes when they are served.
#[test]
fn what_waited_behind_what_was_held_is_served_too() {
    held_for_a_slot(Old::Gone, 40, "100");
}

/// A broker's window may be one message.
#[test]
fn what_waited_behind_one_message_that_was_held_is_served_too() {
    held_for_a_slot(Old::Gone, 5, "1");
}

fn held_for_a_slot(session: Old, per_pair: usize, window: &str) {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let start = || {
        let more = ["--slots", "2", "--window", window];
        Process::start_with(&database, Broker::Mosquitto, &app, &more)
    };
    let mut process = start();
    wait_all(&database, 2, &[&process]);
    process.observer.stop();
    // Somebody else has slot 1, and has not been at the broker for a long time.
    database.sql(
        "UPDATE observer SET token = token + 1, holder = 'somebody else',
            session_at = clock_timestamp() - interval '13 hours',
            expires = clock_timestamp() + interval '1 hour' WHERE n = 1",
    );
    if session == Old::Gone {
        // The client identifiers are made of it.
        database.sql("UPDATE observer SET secret = md5(secret)");
    }
    let mut process = start();
    process.observer.wait_log("serves slot 0 of 2");
    wait_for("that it is not ready", || {
        let (status, text) = process.readiness();
        let says = "no session is known of slot 1: what is for it waits";
        (status == 503 && text.contains(says)).then_some(())
    });
    let load = Load::start(Plan {
        broker: Broker::Mosquitto,
        app: app.clone(),
        // So many that some belong to each slot, whatever the app is called.
        senders: users(20..40),
        recipients: users(10..12),
        paths: vec![Path::Chat21],
        per_pair,
        // Fewer than the window of a hundred takes: not all of them may be slot 1's.
        allowed: Some(80),
    });
    // What is for slot 0 passes meanwhile, unless it waits behind; the rest is held.
    wait_for("held messages", || {
        let held = process.metric("observer_inflight_messages");
        let passes = load.arrived() > 0 || window == "1";
        (held > 0.0 && passes).then_some(())
    });
    let expected = load.expected();
    load.allow(expected);
    load.wait_sent();
    assert!(load.arrived() < expected);
    let log = process.observer.log();
    assert!(!log.contains("ready: slot 0"), "it is not ready: {log}");
    database.sql("UPDATE observer SET expires = clock_timestamp() WHERE n = 1");
    wait_all(&database, 2, &[&process]);
    settle(load, &database, "held for a slot");
    let (status, log) = process.observer.stop();
    assert!(status.success(), "{log}");
}

/// The slot whose session is gone comes back first, with a new one. What waits in the session of
/// the other slot came before that.
#[test]
fn what_came_while_nobody_was_there_is_served_although_a_session_is_lost() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut process = Process::start(&database, Broker::Mosquitto, &app, "2");
    wait_all(&database, 2, &[&process]);
    process.observer.stop();
    let load = load(Broker::Mosquitto, &app, 1);
    load.allow(load.expected());
    load.wait_sent();
    let secret = database.sql("SELECT secret FROM observer WHERE n = 1");
    let client_id = format!("{app}-{secret}-slot-1");
    let wire = Wire::connect(Broker::Mosquitto.port("MQTT"), &client_id, &service(), true);
    wire.unwrap().disconnect();
    let lease = "UPDATE observer SET token = token + 1, holder = 'somebody else',
        expires = clock_timestamp() + interval";
    database.sql(&format!("{lease} '1 hour' WHERE n = 0"));
    let mut process = Process::start(&database, Broker::Mosquitto, &app, "2");
    process
        .observer
        .wait_log("slot 1: the broker has not kept the session");
    let since = "SELECT session_since > (SELECT session_at FROM observer WHERE n = 0)
        FROM observer WHERE n = 1";
    wait_for("a note of the new session", || {
        (database.sql(since) == "t").then_some(())
    });
    database.sql(&format!("{lease} '0 hours' WHERE n = 0"));
    wait_all(&database, 2, &[&process]);
    settle(load, &database, "came while nobody was there");
    let (status, log) = process.observer.stop();
    assert!(status.success(), "{log}");
}

/// The way of one process to the broker, which can be closed.
struct Gate {
    port: u16,
    is_open: Arc<AtomicBool>,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn closed(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let gate = Self {
            port,
            is_open: Arc::default(),
            streams: Arc::default(),
        };
        let (is_open, streams) = (gate.is_open.clone(), gate.streams.clone());
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if is_open.load(Ordering::SeqCst) {
                    let far = TcpStream::connect(("127.0.0.1", broker_port)).unwrap();
                    let ways = [(&near, &far), (&far, &near)];
                    for (from, to) in ways.map(|(from, to)| (from.try_clone(), to.try_clone())) {
                        let (mut from, mut to) = (from.unwrap(), to.unwrap());
                        std::thread::spawn(move || {
                            let _ = std::io::copy(&mut from, &mut to);
                            let _ = to.shutdown(Shutdown::Both);
                        });
                    }
                    streams.lock().unwrap().push(near);
                }
            }
        });
        gate
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }

    fn close(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_process_that_cannot_reach_the_broker_takes_no_slots_and_keeps_none() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let first = Process::start(&database, Broker::Mosquitto, &app, "2");
    wait_all(&database, 2, &[&first]);
    let (gate, http) = (Gate::closed(Broker::Mosquitto.port("MQTT")), free_port());
    let url = format!("mqtt://localhost:{}", gate.port);
    let more = [
        "--store-lease",
        LEASE,
        "--slots",
        "2",
        "--connect-timeout",
        "1s",
    ];
    let observer = database.observer_at(&url, &app, http, &more);
    let mut second = Process { observer, http };
    start(&mut second.observer);
    second
        .observer
        .wait_log("takes over from nobody before the broker can be reached");
    assert_eq!(database.sql("SELECT count(*) FROM observer_process"), "1");
    gate.open();
    second.observer.wait_log(" of 2, which ");
    wait_all(&database, 2, &[&first, &second]);
    let load = load(Broker::Mosquitto, &app, 10);
    load.wait_arrived(UNDER_WAY);
    gate.close();
    second
        .observer
        .wait_log("gives its slots up: it cannot reach the broker");
    wait_without(&database, &second);
    wait_all(&database, 2, &[&first]);
    settle(load, &database, "out of reach of the broker");
}

/// With one slot: who serves and cannot reach the broker gives way to a standby that can, and takes
/// nothing over before it can itself.
#[test]
fn a_process_that_cannot_reach_the_broker_gives_way_to_a_standby_that_can() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let gate = Gate::closed(Broker::Mosquitto.port("MQTT"));
    let first = Process::start_behind(&gate, By::All, &database, &app, "1");
    wait_all(&database, 1, &[&first]);
    let mut second = Process::start(&database, Broker::Mosquitto, &app, "1");
    second.observer.wait_log("stands by: ");
    let load = load(Broker::Mosquitto, &app, 10);
    load.wait_arrived(UNDER_WAY);
    gate.close();
    let says = "cannot reach the broker, and another process can";
    first.observer.wait_log(says);
    wait_all(&database, 1, &[&second]);
    wait_without(&database, &first);
    settle(load, &database, "out of reach of the broker");
    // It does not take over from nobody, either, while others could. Nobody else is there in the
    // end: then it serves as well as it can.
    second.observer.freeze();
    wait_for("a lease", || (held(&database) == 1).then_some(()));
    wait_without(&database, &second);
    gate.open();
    wait_all(&database, 1, &[&first]);
    second.observer.kill();
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
        assert!(!log.contains("INFO the store"), "nobody knows of it: {log}");
    }
}

/// What befalls a process, or all of them.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    /// Stopped until others have what it had, then continued.
    Frozen,
    /// Told to stop.
    Stopped,
    /// Every connection to the database is cut.
    Cut,
    /// The database is killed, and started again.
    Database,
    /// Its way to the broker is cut until others have what it had.
    OutOfReach,
}

const FAULTS: [Fault; 7] = [
    Fault::Killed,
    Fault::Frozen,
    Fault::OutOfReach,
    Fault::Stopped,
    Fault::Killed,
    Fault::Cut,
    Fault::Database,
];

/// Three processes, to one of which something happens in each round. `scripts/campaign` asks for
/// more rounds (CHAOS_ROUNDS).
fn chaos(broker: Broker, slots: &str) {
    chaos_by(By::All, broker, slots);
}

pub(crate) fn chaos_by(by: By, broker: Broker, slots: &str) {
    let rounds = std::env::var("CHAOS_ROUNDS").map_or(FAULTS.len(), |n| n.parse().unwrap());
    let (_server, _broker) = (exclusive(), broker.shared());
    let (app, database) = (fresh_app(), Database::make());
    by.import(&database, broker, &app, slots);
    let gates = [0; 3].map(|_| Gate::closed(broker.port("MQTT")));
    let mut processes: Vec<Process> = gates
        .iter()
        .map(|gate| Process::start_behind(gate, by, &database, &app, slots))
        .collect();
    let count: usize = slots.parse().unwrap();
    let is_ready = |process: &Process| process.readiness().0 == 200;
    wait_for("somebody who serves", || {
        processes.iter().any(is_ready).then_some(())
    });
    if count > 1 {
        wait_all(&database, count, &processes.iter().collect::<Vec<_>>());
    }
    let load = load(broker, &app, 2 * (rounds + 1));
    for round in 0..rounds {
        let share = load.expected() * (round + 1) / (rounds + 1);
        load.allow(share);
        load.wait_arrived(share.saturating_sub(UNDER_WAY));
        load.allow(share + UNDER_WAY);
        // Each process has each fault in turn.
        let fault = FAULTS[round % FAULTS.len()];
        let victim = (round + round / FAULTS.len()) % 3;
        let (gate, victim) = (&gates[victim], &mut processes[victim]);
        match fault {
            Fault::Killed => {
                victim.observer.kill();
                start(&mut victim.observer);
            }
            Fault::Frozen => {
                victim.observer.freeze();
                wait_without(&database, victim);
                victim.observer.thaw();
            }
            Fault::Stopped => {
                let (status, log) = victim.observer.stop();
                assert!(status.success(), "{log}");
                start(&mut victim.observer);
            }
            Fault::Cut => {
                // One that is starting ends without its database: whoever starts it does it again.
                // One that stands by is not ready.
                let is_there = |process: &Process| {
                    let (status, text) = process.readiness();
                    status == 200 || text.contains("stands by")
                };
                wait_for("everybody to be there", || {
                    processes.iter().all(is_there).then_some(())
                });
                database.sql(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                        WHERE datname = current_database() AND pid <> pg_backend_pid()",
                );
            }
            Fault::Database => {
                control("kill");
                control("start");
            }
            Fault::OutOfReach => {
                gate.close();
                wait_without(&database, victim);
                gate.open();
            }
        }
        wait_for("every slot to be held", || {
            (held(&database) == count).then_some(())
        });
        println!(
            "{broker:?}, {slots} slots by {by:?}, round {round}: {fault:?}, {} arrived",
            load.arrived()
        );
    }
    settle(
        load,
        &database,
        &format!("{rounds} rounds with {slots} slots by {by:?} on {broker:?}"),
    );
    for process in &mut processes {
        let (status, log) = process.observer.stop();
        assert!(status.success(), "{log}");
    }
}

#[test]
fn chaos_with_one_slot_on_mosquitto() {
    chaos(Broker::Mosquitto, "1");
}

#[test]
fn chaos_with_two_slots_on_mosquitto() {
    chaos(Broker::Mosquitto, "2");
}

#[test]
fn chaos_with_four_slots_on_mosquitto() {
    chaos(Broker::Mosquitto, "4");
}

#[test]
fn chaos_with_two_slots_on_rabbitmq4() {
    chaos(Broker::Rabbit4, "2");
}

#[test]
fn chaos_with_two_slots_on_rabbitmq3() {
    chaos(Broker::Rabbit3, "2");
}
