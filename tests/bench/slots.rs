//! What it costs to share messages in slots, and what it brings.
//!
//! First the broker alone: its CPU for a message that goes to 1, 2, 4 and 8 sessions, as when slots
//! share by sender, and for one that RabbitMQ's exchange hands to one of so many. Then the whole:
//! one observer on SQLite, on PostgreSQL and on a PostgreSQL that is 5 ms away, and two and four
//! observers in as many slots, turn and turn about: their rate, their latency, and the CPU that a
//! direct message takes of the broker, of the observers and of the database. All of it on one
//! machine: more observers cannot be faster than its processors. Run by `scripts/bench-slots`.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: what goes wrong ends it, it has its own clock, and prints"
)]

#[path = "observed.rs"]
#[allow(
    dead_code,
    reason = "shared with other benchmarks, which use more of it"
)]
mod observed;
#[path = "../it/slow_way.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod slow_way;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod wire;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use observed::{LOGIN, Observer, connect, cpu, cpu_of_all, each_broker, percentile};
use serde_json::{Value, json};
use slow_way::SlowWay;

/// Messages of a round, of 300 bytes.
const COUNT: usize = 10_000;
/// Messages of a load that is so short that little else than its beginning counts.
const FEW: usize = 2_000;
/// Messages that a sender has on their way to the broker.
const WINDOW: usize = 100;
const ROUNDS: usize = 3;
const SESSIONS: [usize; 4] = [1, 2, 4, 8];
/// There and back it is twice that.
const FAR: Duration = Duration::from_micros(2_500);
/// Direct messages under way: more, where each takes some ways of 5 ms.
const UNDER_WAY: usize = 100;
const FAR_UNDER_WAY: usize = 500;

fn main() {
    each_broker(|name, port| {
        let broker = Broker {
            name,
            port,
            pid: variable(&format!("BED_{name}_PID")).parse().unwrap(),
        };
        broker.alone();
        broker.with_observers();
    });
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run scripts/bench-slots"))
}

struct Broker<'a> {
    name: &'a str,
    port: u16,
    pid: u32,
}

impl Broker<'_> {
    fn has_exchange(&self) -> bool {
        self.name.starts_with("RABBITMQ")
    }

    /// What one message costs it, by how many sessions there are.
    fn alone(&self) {
        println!("  its CPU for a message of 300 bytes, by the number of sessions");
        let heads = columns(SESSIONS.map(|sessions| sessions.to_string()));
        println!("    {:<24}{heads}", "sessions");
        // The first does what is done once.
        self.fan_out(1, "all", "bench/all", COUNT);
        let all = |sessions| self.fan_out(sessions, "all", "bench/all", COUNT * sessions);
        println!("    {:<24}{}", "to each of them", medians(all));
        if self.has_exchange() {
            let one = |sessions| {
                self.hash(sessions);
                self.fan_out(sessions, "hash", &format!("bench/hash{sessions}"), COUNT)
            };
            println!("    {:<24}{}", "to one, by its exchange", medians(one));
        }
    }

    /// The broker's CPU for a message to `topic`, in microseconds, while so many sessions get
    /// `expected` in all.
    fn fan_out(&self, sessions: usize, kind: &str, topic: &str, expected: usize) -> f64 {
        let (ready, arrived, over) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicBool::new(false),
        );
        let mut spent = 0.0;
        std::thread::scope(|scope| {
            let _end = SetAtEnd(&over);
            for session in 0..sessions {
                let (ready, arrived, over) = (&ready, &arrived, &over);
                scope.spawn(move || {
                    let mut wire = self.session(kind, session);
                    // To the exchange's queues nothing else leads than its bindings.
                    let filter = match kind {
                        "all" => "bench/all/#",
                        _ => "bench/nothing",
                    };
                    wire.subscribe(&[filter]).unwrap();
                    ready.fetch_add(1, Ordering::SeqCst);
                    while !over.load(Ordering::Relaxed) {
                        wire.step(Duration::from_millis(10)).unwrap();
                        arrived.fetch_add(wire.messages.drain(..).count(), Ordering::SeqCst);
                    }
                    wire.disconnect();
                });
            }
            wait("sessions", || ready.load(Ordering::SeqCst) == sessions);
            let before = cpu(self.pid);
            let mut sender = connect(self.port, "bench-sender");
            let payload = "x".repeat(300);
            for n in 0..COUNT {
                sender.publish(format!("{topic}/{n}"), &payload).unwrap();
                while sender.confirmed.len() + WINDOW <= n {
                    sender.step(Duration::from_secs(5)).unwrap();
                }
            }
            sender.dealt_with(COUNT);
            wait("messages", || arrived.load(Ordering::SeqCst) >= expected);
            spent = cpu(self.pid) - before;
        });
        for session in 0..sessions {
            // The session goes with a client that wants none.
            connect(self.port, &client(kind, session)).disconnect();
        }
        spent * 1e6 / COUNT as f64
    }

    fn session(&self, kind: &str, session: usize) -> wire::Wire {
        let login = (LOGIN.0.to_owned(), LOGIN.1.to_owned());
        let id = client(kind, session);
        let connect = || wire::Wire::connect(self.port, &id, &login, false);
        // RabbitMQ 3.10 closes while it still clears up the last connection of that identifier.
        connect().unwrap_or_else(|_| {
            std::thread::sleep(Duration::from_secs(1));
            connect().unwrap()
        })
    }

    /// Has RabbitMQ share out what is published under `bench/hashN` to so many sessions.
    fn hash(&self, sessions: usize) {
        for session in 0..sessions {
            // The session has a queue once something is subscribed.
            let mut wire = self.session("hash", session);
            wire.subscribe(&["bench/nothing"]).unwrap();
            wire.disconnect();
        }
        let exchange = format!("bench-hash-{sessions}");
        let mut bindings = vec![json!({
            "source": "amq.topic", "vhost": "/", "destination": exchange,
            "destination_type": "exchange", "routing_key": format!("bench.hash{sessions}.#"),
            "arguments": {},
        })];
        bindings.extend((0..sessions).map(|session| {
            json!({
                "source": exchange, "vhost": "/",
                "destination": format!("mqtt-subscription-{}qos1", client("hash", session)),
                "destination_type": "queue", "routing_key": "1", "arguments": {},
            })
        }));
        let definitions = json!({
            "exchanges": [{
                "name": exchange, "vhost": "/", "type": "x-consistent-hash", "durable": true,
                "auto_delete": false, "internal": false, "arguments": {},
            }],
            "bindings": bindings,
        });
        self.import(&definitions.to_string());
    }

    fn import(&self, definitions: &str) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, definitions.as_bytes()).unwrap();
        let name = self.name.to_lowercase();
        brokers(&["import", &name, file.path().to_str().unwrap()]);
    }

    /// What observers make of it.
    fn with_observers(&self) {
        let settings = [
            Setting::one("one, SQLite", Kept::InFile),
            Setting::one("one, PostgreSQL", Kept::InDatabase),
            Setting::slots("two, by sender", 2, "all"),
            Setting::slots("four, by sender", 4, "all"),
            Setting::slots("two, by the exchange", 2, "hash"),
            Setting::slots("four, by the exchange", 4, "hash"),
            Setting::one("one, 5 ms away (500)", Kept::FarAway),
        ];
        let settings = settings
            .into_iter()
            .filter(|setting| setting.sharing != "hash" || self.has_exchange());
        let settings: Vec<_> = settings.collect();
        let places: Vec<_> = settings
            .iter()
            .enumerate()
            .map(|(n, setting)| Place::make(self, setting, &format!("bench-{}-{n}", self.port)))
            .collect();
        let mut rounds: Vec<Vec<Round>> = settings.iter().map(|_| vec![]).collect();
        for _ in 0..ROUNDS {
            for ((setting, place), rounds) in settings.iter().zip(&places).zip(&mut rounds) {
                rounds.push(self.round(setting, place));
            }
        }
        println!("  observers: deliveries a second with 100 messages under way (or 500)");
        let heads = ["rate", "p50", "p99", "broker", "observers", "database"];
        println!("    {:<24}{}", "", columns(heads.map(str::to_owned)));
        for (setting, rounds) in settings.iter().zip(&rounds) {
            let median = |of: fn(&Round) -> f64| {
                let mut values: Vec<f64> = rounds.iter().map(of).collect();
                percentile(&mut values, 50)
            };
            let row = [
                format!("{:.0}/s", median(|round| round.rate)),
                format!("{:.1} ms", median(|round| round.p50)),
                format!("{:.1} ms", median(|round| round.p99)),
                format!("{:.0} us", median(|round| round.broker)),
                format!("{:.0} us", median(|round| round.observers)),
                format!("{:.0} us", median(|round| round.database)),
            ];
            println!("    {:<24}{}", setting.what, columns(row));
            let half = median(|round| round.half);
            if half > 0.0 {
                println!("    {:<24}p99 at half of that rate: {half:.1} ms", "");
            }
        }
    }

    fn round(&self, setting: &Setting, place: &Place) -> Round {
        let observers: Vec<_> = (0..setting.slots)
            .map(|nth| place.start(self.port, nth))
            .collect();
        place.wait_ready(setting.slots);
        let is_far = matches!(setting.kept, Kept::FarAway);
        let under_way = if is_far { FAR_UNDER_WAY } else { UNDER_WAY };
        let database: Option<u32> = match setting.kept {
            Kept::InFile => None,
            Kept::InDatabase | Kept::FarAway => {
                Some(variable("BED_POSTGRESQL_PID").parse().unwrap())
            }
        };
        let spent = || {
            [
                cpu(self.pid),
                observers.iter().map(|one| cpu(one.0.id())).sum(),
                database.map_or(0.0, cpu_of_all),
            ]
        };
        let under_way = under_way.to_string();
        let load = |count: usize| {
            let more = ["--under-way", &under_way, "--messages", &count.to_string()];
            self.load(place, &more)
        };
        // What is opened once is opened here.
        load(FEW);
        // Logins and subscriptions cost as much in a short load as in a long one.
        let first = spent();
        load(FEW);
        let second = spent();
        let figures = load(FEW + COUNT);
        let third = spent();
        let [broker, of_observers, database] = [0, 1, 2].map(|n| {
            let more = (third[n] - second[n]) - (second[n] - first[n]);
            more * 1e6 / COUNT as f64
        });
        let rate = figures["deliveries_per_second"].as_f64().unwrap();
        let half = match is_far {
            true => {
                let half = (rate / 2.0).max(1.0).round().to_string();
                let figures = self.load(place, &["--rate", &half, "--for", "3s"]);
                figures["p99_ms"].as_f64().unwrap()
            }
            false => 0.0,
        };
        for mut observer in observers {
            assert!(observer.0.try_wait().unwrap().is_none(), "it has ended");
            stop(&mut observer);
        }
        Round {
            rate,
            p50: figures["p50_ms"].as_f64().unwrap(),
            p99: figures["p99_ms"].as_f64().unwrap(),
            broker,
            observers: of_observers,
            database,
            half,
        }
    }

    /// Has users write to each other. Ends the measurement if a message is lost.
    fn load(&self, place: &Place, more: &[&str]) -> Value {
        let broker = format!("mqtt://127.0.0.1:{}", self.port);
        let output = binary()
            .args([
                "bench",
                "--broker",
                &broker,
                "--username",
                LOGIN.0,
                "--json",
            ])
            .args(["--app", &place.app, "--warm-up", "0s"])
            .args(more)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{told}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["loads"][0]["subjects"][0]["figures"]["median"].clone()
    }
}

/// Says that it is over, also where a measurement goes wrong: others wait for that.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn client(kind: &str, session: usize) -> String {
    format!("bench-{kind}-{session}")
}

/// For each number of sessions the median of some rounds.
fn medians(measure: impl Fn(usize) -> f64) -> String {
    columns(SESSIONS.map(|sessions| {
        let mut rounds: Vec<f64> = (0..ROUNDS).map(|_| measure(sessions)).collect();
        format!("{:.0} us", percentile(&mut rounds, 50))
    }))
}

/// Stops an observer in order: the next one finds no lease of it.
fn stop(observer: &mut Observer) {
    let pid = observer.0.id().to_string();
    let sent = Command::new("kill").arg(&pid).status().unwrap();
    assert!(sent.success() && observer.0.wait().unwrap().success());
}

fn columns<const N: usize>(values: [String; N]) -> String {
    values.map(|value| format!("{value:>11}")).concat()
}

fn wait(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < end, "no {what} in a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn brokers(args: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/brokers");
    let output = Command::new(script).args(args).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "scripts/brokers {args:?}: {told}");
    String::from_utf8(output.stdout).unwrap()
}

/// The observer's program. The bed's own variables would be taken for misspelt settings.
fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat21-observer"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OBSERVER_") {
            command.env_remove(name);
        }
    }
    command.env("OBSERVER_PASSWORD", LOGIN.1);
    command
}

enum Kept {
    InFile,
    InDatabase,
    /// In a database that is 5 ms away.
    FarAway,
}

struct Setting {
    what: &'static str,
    /// As many as observers.
    slots: usize,
    sharing: &'static str,
    kept: Kept,
}

impl Setting {
    fn one(what: &'static str, kept: Kept) -> Self {
        Self {
            what,
            slots: 1,
            sharing: "all",
            kept,
        }
    }

    fn slots(what: &'static str, slots: usize, sharing: &'static str) -> Self {
        Self {
            what,
            slots,
            sharing,
            kept: Kept::InDatabase,
        }
    }
}

/// Medians of these are reported. CPU in microseconds a message.
struct Round {
    rate: f64,
    p50: f64,
    p99: f64,
    broker: f64,
    observers: f64,
    database: f64,
    /// The latency at half of the rate, if it was measured.
    half: f64,
}

/// An app of its own for each setting, so that no session gets what another setting is measured
/// with; and a store.
struct Place {
    app: String,
    dir: tempfile::TempDir,
    flags: Vec<String>,
    database: Option<String>,
}

impl Place {
    fn make(broker: &Broker<'_>, setting: &Setting, app: &str) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let password = dir.path().join("password");
        std::fs::write(&password, "observerpw\n").unwrap();
        let mut place = Self {
            app: app.to_owned(),
            dir,
            flags: vec![],
            database: None,
        };
        let mut port: u16 = match setting.kept {
            Kept::InFile => {
                let state = path(place.dir.path());
                place.flags = ["--state-dir".to_owned(), state].into();
                return place;
            }
            Kept::InDatabase | Kept::FarAway => variable("BED_POSTGRESQL_PORT").parse().unwrap(),
        };
        let database = app.replace('-', "_");
        sql("postgres", &format!("CREATE DATABASE {database}"));
        if matches!(setting.kept, Kept::FarAway) {
            port = SlowWay::to(port, FAR).port();
        }
        let store = format!("postgres://observer@127.0.0.1:{port}/{database}");
        place.flags = ["--store", &store, "--store-password-file", &path(&password)]
            .map(str::to_owned)
            .into();
        place.database = Some(database);
        if setting.slots > 1 {
            let slots = setting.slots.to_string();
            let more = ["--slots", &slots, "--sharing", setting.sharing].map(str::to_owned);
            place.flags.extend(more);
        }
        if setting.sharing == "hash" {
            let output = binary()
                .args(["slots", "rabbitmq", "--session-expiry", "1day"])
                .args(["--app", app, "--name", app])
                .args(&place.flags)
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            broker.import(&String::from_utf8(output.stdout).unwrap());
        }
        place
    }

    /// The log of the one before it in its place goes.
    fn start(&self, port: u16, nth: usize) -> Observer {
        let broker = format!("mqtt://127.0.0.1:{port}");
        let mut child = binary()
            .args(["run", "--broker", &broker, "--username", LOGIN.0])
            .args(["--http-listen", "none", "--rate-per-minute", "none"])
            .args(["--app", &self.app, "--name", &self.app])
            .args(["--log-format", "text"])
            .args(&self.flags)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Somebody has to read them: the pipe would fill up.
        let mut file = std::fs::File::create(self.log(nth)).unwrap();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                std::io::Write::write_all(&mut file, format!("{line}\n").as_bytes()).unwrap();
            }
        });
        Observer(child)
    }

    /// Waits until each of the slots is served by one of as many observers.
    fn wait_ready(&self, slots: usize) {
        wait("observers that serve all slots", || {
            let logs = (0..slots).map(|nth| std::fs::read_to_string(self.log(nth)));
            let logs = logs.map(Result::unwrap_or_default);
            let served = logs
                .map(|log| log.matches(": ready: ").count() + log.matches(" INFO ready: ").count());
            served.sum::<usize>() >= slots
        });
    }

    fn log(&self, nth: usize) -> PathBuf {
        self.dir.path().join(format!("log-{nth}"))
    }
}

impl Drop for Place {
    /// The sessions and exchanges stay until the broker is forgotten: they get nothing of others.
    fn drop(&mut self) {
        if let Some(database) = &self.database {
            sql(
                "postgres",
                &format!("DROP DATABASE {database} WITH (FORCE)"),
            );
        }
    }
}

fn path(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn sql(database: &str, sql: &str) -> String {
    let port = variable("BED_POSTGRESQL_PORT");
    let address = format!("postgres://observer:observerpw@127.0.0.1:{port}/{database}");
    brokers(&["client", "psql", "-qAtX", &address, "-c", sql])
}
