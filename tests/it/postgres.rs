//! The observer on PostgreSQL: the store itself, and processes that share it, of whom one serves.

use std::hash::RandomState;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use chat21_observer::auth::secret::Secret;
use chat21_observer::protocol::address::{Address, Outgoing, Timeline};
use chat21_observer::protocol::envelope::Body;
use chat21_observer::protocol::id::{AppId, UserId};
use chat21_observer::protocol::layout::Layout;
use chat21_observer::protocol::message_id::MessageIds;
use chat21_observer::protocol::publish::Publish;
use chat21_observer::protocol::status::Status;
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::protocol::topic::TopicName;
use chat21_observer::rules::facts::GroupLookup;
use chat21_observer::rules::plan::Purpose;
use chat21_observer::rules::write::{Listing, NewMessage, TimelineCopy, Write};
use chat21_observer::store::postgres::Target;
use chat21_observer::store::{
    self, Access, LoggedPublishes, OfflineDelivery, Origin, StoreLocation,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::bed::{Broker, Observer, PATIENCE, binary, fresh_app, in_the_bed, root, var};
use crate::http::{free_port, get};
use crate::load::{Load, Path, Plan, users};
use crate::slow_way::SlowWay;
use crate::turns::Turn;
use crate::wire::Wire;

/// Tests that restart the database hold it for writing.
static SERVER: RwLock<()> = RwLock::new(());

pub(crate) fn shared() -> Turn<RwLockReadGuard<'static, ()>> {
    Turn::take(|| SERVER.read().unwrap_or_else(PoisonError::into_inner))
}

pub(crate) fn exclusive() -> Turn<RwLockWriteGuard<'static, ()>> {
    Turn::take(|| SERVER.write().unwrap_or_else(PoisonError::into_inner))
}

/// A database of its own, and the password for it.
pub(crate) struct Database {
    name: String,
    dir: TempDir,
}

fn psql(database: &str, sql: &str) -> String {
    let port = var("BED_POSTGRESQL_PORT");
    let address = format!("postgres://observer:observerpw@127.0.0.1:{port}/{database}");
    let (done, text) = in_the_bed(&["psql", "-qAtX", &address, "-c", sql], "");
    assert!(done, "{sql}: {text}");
    text
}

impl Database {
    pub(crate) fn make() -> Self {
        let name = fresh_app();
        psql("postgres", &format!("CREATE DATABASE {name}"));
        let dir = TempDir::new().unwrap();
        std::fs::write(dir.path().join("password"), "observerpw\n").unwrap();
        Self { name, dir }
    }

    pub(crate) fn address(&self) -> String {
        let port = var("BED_POSTGRESQL_PORT");
        format!("postgres://observer@127.0.0.1:{port}/{}", self.name)
    }

    pub(crate) fn password_file(&self) -> String {
        self.dir
            .path()
            .join("password")
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// An observer on this database, with the port for its health.
    fn observer(&self, app: &str, http: u16, lease: &str) -> Observer {
        self.observer_of(Broker::Mosquitto, app, http, &["--store-lease", lease])
    }

    /// The same on this broker, with more flags.
    pub(crate) fn observer_of(
        &self,
        broker: Broker,
        app: &str,
        http: u16,
        more: &[&str],
    ) -> Observer {
        self.observer_at(&broker.url(false), app, http, more)
    }

    /// The same, with this address of the broker.
    pub(crate) fn observer_at(&self, url: &str, app: &str, http: u16, more: &[&str]) -> Observer {
        let store = self.address();
        let (password, http) = (self.password_file(), format!("127.0.0.1:{http}"));
        let flags = [
            "--broker",
            url,
            "--username",
            "observer",
            "--app",
            app,
            "--name",
            app,
            "--store",
            &store,
            "--store-password-file",
            &password,
            "--http-listen",
            &http,
        ];
        Observer::prepare(&[&flags[..], more].concat())
    }

    /// Runs SQL in it. Returns the rows.
    pub(crate) fn sql(&self, sql: &str) -> String {
        psql(&self.name, sql).trim().to_owned()
    }

    fn command(&self, args: &[&str]) -> (bool, String) {
        let mut command = binary();
        command.args(args).args(["--store", &self.address()]);
        command.args(["--store-password-file", &self.password_file()]);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(text).unwrap())
    }

    /// What a command prints, with these flags and this database.
    pub(crate) fn printed(&self, args: &[&str]) -> String {
        let mut command = binary();
        command.args(args).args(["--store", &self.address()]);
        command.args(["--store-password-file", &self.password_file()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `store copy` to another.
    pub(crate) fn copy_to(&self, other: &Self) {
        let mut command = binary();
        command.args(["store", "copy", &self.address(), &other.address()]);
        command.args(["--store-password-file", &self.password_file()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    /// A conversation's flags: is it new, is it archived.
    pub(crate) fn row(&self, inbox_of: &str, convers_with: &str) -> (bool, bool) {
        let sql = format!(
            "SELECT is_new, archived FROM conversation
             WHERE inbox_of = '{inbox_of}' AND convers_with = '{convers_with}'"
        );
        let row = psql(&self.name, &sql);
        let (is_new, archived) = row.trim().split_once('|').unwrap();
        (is_new == "t", archived == "t")
    }

    pub(crate) fn messages(&self) -> usize {
        psql(&self.name, "SELECT count(*) FROM message")
            .trim()
            .parse()
            .unwrap()
    }
}

pub(crate) fn start(observer: &mut Observer) {
    observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
}

/// Two processes on one database: the first serves, the second stands by.
fn two(database: &Database, app: &str, lease: &str) -> (Observer, Observer, u16) {
    let ports = [free_port(), free_port()];
    let mut first = database.observer(app, ports[0], lease);
    start(&mut first);
    first.wait_ready();
    let mut second = database.observer(app, ports[1], lease);
    start(&mut second);
    second.wait_log("stands by: ");
    (first, second, ports[1])
}

fn load(app: &str) -> Load {
    Load::start(Plan {
        broker: Broker::Mosquitto,
        app: app.to_owned(),
        senders: users(0..10),
        recipients: users(10..20),
        paths: vec![Path::Chat21],
        per_pair: 20,
        allowed: Some(500),
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
    assert_eq!(
        database.messages(),
        expected,
        "each is stored once, under one id"
    );
}

/// Messages under way at each fault.
const UNDER_WAY: usize = 100;

#[test]
fn a_standby_takes_over_from_a_process_that_is_killed() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let (mut first, mut second, port) = two(&database, &app, "4s");
    let (status, text) = get(port, "/readyz").unwrap();
    let says = format!("stands by: {app} on ");
    assert!(
        status == 503 && text.contains(&says) && text.contains("serves"),
        "{text}"
    );
    assert_eq!(get(port, "/livez").unwrap().0, 200);
    let load = load(&app);
    for round in 1..=2 {
        load.allow(load.expected() * round / 3);
        load.wait_arrived(load.expected() * round / 3 - UNDER_WAY);
        first.freeze();
        load.wait_under_way(UNDER_WAY / 2);
        first.kill();
        second.wait_ready();
        assert!(second.ready.contains("session resumed"), "{}", second.ready);
        std::mem::swap(&mut first, &mut second);
        start(&mut second);
        second.wait_log("stands by: ");
    }
    settle(load, &database, "killed twice");
}

/// It is stopped until its lease is over, and goes on when the other has begun.
#[test]
fn a_process_that_was_stopped_past_its_lease_writes_nothing_more_and_stands_by() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let (mut first, mut second, _) = two(&database, &app, "4s");
    let load = load(&app);
    for round in 1..=2 {
        load.allow(load.expected() * round / 3);
        load.wait_arrived(load.expected() * round / 3 - UNDER_WAY);
        first.freeze();
        load.wait_under_way(UNDER_WAY / 2);
        second.wait_log_times(" INFO ready: ", round);
        first.thaw();
        first.wait_log("this process serves no longer, and stands by");
        first.wait_log("serves; this process takes over when it ends");
        std::mem::swap(&mut first, &mut second);
    }
    settle(load, &database, "stopped past the lease twice");
}

/// The lease is far longer than a test may wait.
#[test]
fn a_process_that_is_told_to_stop_gives_its_lease_back() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let (mut first, mut second, _) = two(&database, &app, "10m");
    let load = load(&app);
    load.wait_arrived(UNDER_WAY);
    load.allow(load.expected());
    let (status, log) = first.stop();
    assert!(status.success(), "{log}");
    second.wait_ready();
    settle(load, &database, "stopped in order");
    let (status, log) = second.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

/// Its session at the broker would be another.
#[test]
fn an_observer_of_another_name_is_refused() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut first = database.observer(&app, free_port(), "10m");
    start(&mut first);
    first.wait_ready();
    let url = Broker::Mosquitto.url(false);
    let (store, password) = (database.address(), database.password_file());
    let mut other = Observer::prepare(&[
        "--broker",
        &url,
        "--app",
        &app,
        "--name",
        "other",
        "--store",
        &store,
        "--store-password-file",
        &password,
    ]);
    start(&mut other);
    let (status, log) = other.ended();
    let wanted = format!("is the store of the observer \"{app}\": start every observer on it");
    assert!(!status.success() && log.contains(&wanted), "{log}");
}

#[test]
fn a_process_that_stands_by_stops_when_told_to() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let (_first, mut second, _) = two(&database, &app, "10m");
    let (status, log) = second.stop();
    assert!(status.success(), "{log}");
}

#[test]
fn a_process_whose_database_says_nothing_stops_when_told_to() {
    let _broker = Broker::Mosquitto.shared();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("postgres://observer@{}/x", silent.local_addr().unwrap());
    let (app, url) = (fresh_app(), Broker::Mosquitto.url(false));
    let mut observer = Observer::prepare(&["--broker", &url, "--app", &app, "--store", &store]);
    observer.spawn(&[]);
    let _asked = silent.accept().unwrap();
    let (status, log) = observer.stop();
    assert!(status.success(), "{log}");
}

/// The lease is there, and a table is locked for longer than the database waits.
#[test]
fn a_holder_whose_store_fails_while_it_is_opened_stands_by_and_serves_later() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut first = database.observer(&app, free_port(), "10m");
    start(&mut first);
    first.wait_ready();
    first.stop();
    let name = &database.name;
    psql(
        name,
        &format!("ALTER DATABASE {name} SET lock_timeout = '100ms'"),
    );
    let port = var("BED_POSTGRESQL_PORT");
    let address = format!("postgres://observer:observerpw@127.0.0.1:{port}/{name}");
    let lock = std::thread::spawn(move || {
        let sql = "LOCK TABLE message; SELECT pg_sleep(600)";
        in_the_bed(&["psql", "-qAtX", &address, "-c", sql], "")
    });
    let sleepers =
        format!("FROM pg_stat_activity WHERE datname = '{name}' AND wait_event = 'PgSleep'");
    while psql(name, &format!("SELECT count(*) {sleepers}")).trim() == "0" {}
    let mut second = database.observer(&app, free_port(), "10m");
    start(&mut second);
    second.wait_log("this process does not serve, and stands by");
    psql(
        name,
        &format!("SELECT pg_terminate_backend(pid) {sleepers}"),
    );
    let (done, _) = lock.join().unwrap();
    assert!(!done, "the lock was held until now");
    second.wait_ready();
}

pub(crate) fn control(command: &str) {
    let mut script = Command::new(root().join("scripts/brokers"));
    let status = script.args([command, "postgresql"]).status().unwrap();
    assert!(status.success(), "scripts/brokers {command} postgresql");
}

/// Stopped in order, then killed, with messages under way; the second time for longer than the
/// lease lasts.
#[test]
fn a_restart_of_the_database_loses_nothing() {
    let (_server, _broker) = (exclusive(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut observer = database.observer(&app, free_port(), "2s");
    start(&mut observer);
    observer.wait_ready();
    let load = load(&app);
    for (round, (stop, lease_ends)) in [("stop", false), ("kill", false), ("kill", true)]
        .into_iter()
        .enumerate()
    {
        load.wait_arrived(load.expected() / 8 * (round + 1));
        load.allow(load.expected() / 4 * (round + 2));
        control(stop);
        if lease_ends {
            observer.wait_log("this process serves no longer, and stands by");
        }
        control("start");
    }
    settle(load, &database, "the database restarted three times");
}

#[test]
fn the_observer_is_killed_and_goes_on_where_it_was() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut observer = database.observer(&app, free_port(), "1s");
    start(&mut observer);
    observer.wait_ready();
    let load = load(&app);
    load.wait_arrived(load.expected() / 8);
    observer.freeze();
    load.wait_under_way(UNDER_WAY);
    observer.kill_and_restart();
    settle(load, &database, "killed and started again");
}

#[test]
fn what_is_wrong_with_the_database_is_said_with_its_cause_and_remedy() {
    let _server = shared();
    let database = Database::make();
    let port = var("BED_POSTGRESQL_PORT");
    let at = |user: &str, name: &str| format!("postgres://{user}@127.0.0.1:{port}/{name}");
    let nobody = free_port();
    let wrong = database.dir.path().join("wrong");
    std::fs::write(&wrong, "wrong").unwrap();
    let right = PathBuf::from(database.password_file());
    for (address, query, password, says) in [
        (
            at("observer", &database.name),
            "",
            Some(&wrong),
            "password authentication failed",
        ),
        (
            at("observer", &database.name),
            "",
            None,
            "give the password of this user",
        ),
        (
            at("observer", "nowhere"),
            "",
            Some(&right),
            "createdb --owner USER DATABASE",
        ),
        (
            at("tlsonly", &database.name),
            "?sslmode=disable",
            Some(&right),
            "sslmode=require",
        ),
        (
            at("observer", &database.name),
            "?sslmode=verify-full",
            Some(&right),
            "see the certificates of the database",
        ),
        (
            format!("postgres://observer@127.0.0.1:{nobody}/x"),
            "",
            Some(&right),
            "see that the database runs",
        ),
    ] {
        let store = format!("{address}{query}");
        let mut args = vec!["--broker", "mqtt://127.0.0.1:1", "--store", &store];
        if let Some(password) = password {
            args.extend(["--store-password-file", password.to_str().unwrap()]);
        }
        let mut observer = Observer::prepare(&args);
        start(&mut observer);
        let (status, log) = observer.ended();
        let target = format!("cannot connect to {address}: ");
        assert!(
            !status.success() && log.contains(&target) && log.contains(says),
            "{says}: {log}"
        );
    }
    let few = fresh_app();
    psql(
        "postgres",
        &format!("CREATE ROLE {few} LOGIN PASSWORD 'observerpw' CONNECTION LIMIT 0"),
    );
    let mut command = binary();
    command.args(["store", "stats", "--store", &at(&few, &database.name)]);
    command.args(["--store-password-file", right.to_str().unwrap()]);
    let text = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(
        text.contains("let it take more connections: max_connections"),
        "{text}"
    );
    // The same with the certificate of the server's own authority.
    let ca = PathBuf::from(var("BED_TLS")).join("../../postgresql/tls/ca.pem");
    let store = format!(
        "{}?sslmode=verify-full&sslrootcert={}",
        database.address(),
        ca.display()
    );
    let mut command = binary();
    command.args(["store", "stats", "--store", &store]);
    command.args(["--store-password-file", &database.password_file()]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("there is no store at postgres://"), "{text}");
}

#[test]
fn commands_work_beside_the_observer_and_show_no_password() {
    let (_server, _broker) = (shared(), Broker::Mosquitto.shared());
    let (app, database) = (fresh_app(), Database::make());
    let mut observer = database.observer(&app, free_port(), "5s");
    start(&mut observer);
    observer.wait_ready();
    let login = Broker::Mosquitto.login(&app, "u01");
    let port = Broker::Mosquitto.port("MQTT");
    let mut alice = Wire::connect(port, &format!("{app}-alice"), &login, true).unwrap();
    alice
        .subscribe(&[&format!("apps/{app}/users/u01/#")])
        .unwrap();
    let topic = Path::Chat21.outgoing(&app, "u01", "u02");
    alice.publish(&topic, r#"{"text":"hi"}"#).unwrap();
    alice.message(PATIENCE).unwrap();
    let (done, stats) = database.command(&["store", "stats", "--json"]);
    let stats: Value = serde_json::from_str(&stats).unwrap_or_else(|_| panic!("{done} {stats}"));
    assert_eq!(
        (&stats["messages"], &stats["copies"]),
        (&1.into(), &2.into())
    );
    let (done, text) = database.command(&["store", "check"]);
    assert!(done && text.contains("is sound"), "{text}");
    let (done, text) = database.command(&["store", "export", &app, "u01"]);
    assert!(done && text.contains("\"text\":\"hi\""), "{text}");
    let (done, text) = database.command(&["block", "ban", &app, "u01"]);
    assert!(done, "{text}");
    alice.publish(&topic, r#"{"text":"no"}"#).unwrap();
    let notice = alice.message(PATIENCE).unwrap();
    assert!(notice.topic().contains("rejected"), "{}", notice.topic());
    let (done, text) = database.command(&["config", "show"]);
    assert!(
        done && text.contains(&database.address()) && !text.contains("observerpw"),
        "{text}"
    );
}

/// 5 ms of latency, there and back, and direct messages of 400 bytes.
#[test]
fn a_batch_of_messages_costs_two_ways_to_the_database() {
    const BATCHES: usize = 20;
    const PER_BATCH: usize = 200;
    let _server = shared();
    let (database, slow) = (
        Database::make(),
        SlowWay::to(
            var("BED_POSTGRESQL_PORT").parse().unwrap(),
            Duration::from_micros(2_500),
        ),
    );
    let address = format!(
        "postgres://observer@127.0.0.1:{}/{}",
        slow.port(),
        database.name
    );
    let target: Target = address.parse().unwrap();
    let location = target.with_password(&Secret::new("observerpw".to_owned()));
    let location = StoreLocation::Postgres(Box::new(location));
    let mut store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker).unwrap();
    let layouts = Layout::built_in("chat21").unwrap();
    let app = AppId::parse("a").unwrap();
    let mut ids = MessageIds::new(RandomState::new());
    let names: Vec<String> = (0..2_000).map(|n| format!("user{n}")).collect();
    let (mut began, mut before, mut last) = (Instant::now(), 0, vec![]);
    // The first batch has its statements prepared.
    for batch in 0..=BATCHES {
        if batch == 1 {
            (began, before) = (Instant::now(), slow.most());
        }
        let now = UnixMillis::new(1_800_000_000_000 + batch as u64);
        let messages: Vec<_> = (0..PER_BATCH)
            .map(|n| {
                let n = batch * PER_BATCH + n;
                let user = |n: usize| UserId::parse(&names[n % names.len()]).unwrap();
                (ids.next(now), user(n), user(n * 7 + 1))
            })
            .collect();
        store.begin().unwrap();
        for id in std::mem::take(&mut last) {
            store.published(id).unwrap();
        }
        let mut addresses = messages.iter().map(|(_, sender, recipient)| {
            Address::Outgoing(Outgoing {
                layout: &layouts[0],
                app,
                sender: *sender,
                recipient: *recipient,
            })
        });
        store.prefetch(&mut addresses).unwrap();
        for (id, sender, recipient) in &messages {
            let origin = Origin {
                id: *id,
                fingerprint: Some(1),
                promised: true,
                repeated: false,
                now,
            };
            assert!(!store.is_banned(app, *sender).unwrap());
            assert!(!store.blocks(app, *recipient, *sender).unwrap());
            assert_eq!(
                store.group(app, *recipient).unwrap(),
                GroupLookup::NotStored
            );
            let text = id.to_string();
            let body = format!(r#"{{"message_id":"{text}","text":"{}"}}"#, "x".repeat(330));
            let message = Write::Message(NewMessage {
                app,
                id: text.as_str().into(),
                sender: sender.as_str().into(),
                recipient: recipient.as_str(),
                layout: "chat21",
                body: Body::from_stored(body),
            });
            store.apply(&message, &origin).unwrap();
            let body = Body::from_stored("{}".to_owned());
            for (inbox_of, convers_with) in [(*sender, *recipient), (*recipient, *sender)] {
                let copy = Write::Copy(TimelineCopy {
                    timeline: Timeline {
                        app,
                        inbox_of,
                        convers_with,
                    },
                    message_id: text.as_str().into(),
                    status: Status::Delivered,
                    listing: Listing::Listed,
                });
                store.apply(&copy, &origin).unwrap();
            }
            let topic = |of: &str| TopicName::parse(&format!("apps/a/users/{of}/x")).unwrap();
            let publishes = [sender, recipient]
                .map(|of| Publish::copy(topic(of.as_str()), &body, Status::Delivered));
            store
                .log(&LoggedPublishes {
                    id: *id,
                    came_on: b"apps/a",
                    first: 0,
                    purpose: Purpose::Copy,
                    publishes: &publishes,
                })
                .unwrap();
            last.push(*id);
        }
        store.commit().unwrap();
    }
    let (ways, took) = (slow.most() - before, began.elapsed());
    let rate = (BATCHES * PER_BATCH) as f64 / took.as_secs_f64();
    println!("behind 5 ms: {rate:.0} messages/s in batches of {PER_BATCH}");
    // Two, and now and then one more: the database may answer the first part of a long question
    // before it has the last.
    assert!(ways < 4 * BATCHES, "{ways} ways for {BATCHES} batches");
    assert_eq!(database.messages(), (BATCHES + 1) * PER_BATCH);
}
