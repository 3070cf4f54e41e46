//! What the log says while the broker is away or takes no publishes, and each interval, at the
//! default level.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use crate::bed::{Broker, Observer, binary, fresh_app, wait_for};
use crate::http::{free_port, get};
use crate::load::{Load, Path, Plan, users};
use crate::wire::{PATIENCE, Wire};

/// The lines of the log, without their times. A line is its level and its text.
fn lines(observer: &Observer) -> Vec<String> {
    let log = observer.log();
    let lines = log.lines().map(|line| {
        let (time, rest) = line.split_once(' ').unwrap();
        let form = "0000-00-00T00:00:00Z";
        let digits: String = time
            .chars()
            .map(|c| if c.is_ascii_digit() { '0' } else { c })
            .collect();
        assert_eq!(digits, form, "{line}");
        rest.trim_start().to_owned()
    });
    lines.collect()
}

fn start(url: &str, app: &str, more: &[&str]) -> Observer {
    let args = [
        &["--broker", url, "--username", "observer", "--app", app],
        more,
    ]
    .concat();
    let mut observer = Observer::prepare(&args);
    observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    observer.wait_ready();
    observer
}

fn user(broker: Broker, app: &str) -> Wire {
    let login = broker.login(app, "u01");
    let mut user =
        Wire::connect(broker.port("MQTT"), &format!("outage-{app}"), &login, true).unwrap();
    user.subscribe(&[&format!("apps/{app}/users/u01/#")])
        .unwrap();
    user
}

fn a_restart_of_the_broker_leaves_few_lines(broker: Broker) {
    let _exclusive = broker.exclusive();
    let (url, app) = (broker.url(false), fresh_app());
    let observer = start(&url, &app, &[]);
    let before = lines(&observer);
    let store = observer.state.path().join("observer.db");
    assert_eq!(
        before[0],
        format!(
            "INFO chat21-observer {} (observer): {url} as \"observer\", app {app}, \
             layouts inbox chat21 chat21-v1, store {}, no configuration file",
            env!("CARGO_PKG_VERSION"),
            store.display()
        )
    );
    // What is to be known of the broker comes in between.
    let ready = before.last().unwrap();
    assert!(ready.starts_with("INFO ready: "), "{before:#?}");
    broker.control("stop");
    observer.wait_log("not connected: ");
    broker.control("start");
    observer.wait_log("ready again after ");
    let mut user = user(broker, &app);
    user.publish_confirmed(Path::Chat21.outgoing(&app, "u01", "u01"), "{}")
        .unwrap();
    assert!(user.message(PATIENCE).is_some());
    let after: Vec<String> = lines(&observer).split_off(before.len());
    // What becomes of a "." is asked anew only where the session is gone.
    assert!((2..=4).contains(&after.len()), "{after:#?}");
    // How a broker ends connections when it stops is its own.
    let begun = format!("WARN not connected: {url}: ");
    assert!(after[0].starts_with(&begun), "{after:#?}");
    let last = after.last().unwrap();
    let seconds = last.strip_prefix("INFO ready again after ").unwrap();
    let (seconds, rest) = seconds.split_once(" s").unwrap();
    let seconds: f64 = seconds.parse().unwrap();
    assert!(seconds > 0.0, "{last}");
    assert_eq!(rest, ", no message had waited");
}

#[test]
fn a_restart_of_rabbitmq3_leaves_few_lines() {
    a_restart_of_the_broker_leaves_few_lines(Broker::Rabbit3);
}

#[test]
fn a_restart_of_rabbitmq4_leaves_few_lines() {
    a_restart_of_the_broker_leaves_few_lines(Broker::Rabbit4);
}

#[test]
fn a_restart_of_mosquitto_leaves_few_lines() {
    a_restart_of_the_broker_leaves_few_lines(Broker::Mosquitto);
}

/// The way to a broker, which can be closed and opened again.
struct Gate {
    url: String,
    /// The connections there are; `None` while it is closed.
    open: Arc<Mutex<Option<Vec<TcpStream>>>>,
}

impl Gate {
    fn to(broker: Broker) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("mqtt://{}", listener.local_addr().unwrap());
        let open = Arc::new(Mutex::new(Some(vec![])));
        let (port, gate) = (broker.port("MQTT"), open.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut gate = gate.lock().unwrap();
                let Some(connections) = gate.as_mut() else {
                    continue;
                };
                let broker = TcpStream::connect(("127.0.0.1", port)).unwrap();
                connections.push(client.try_clone().unwrap());
                for (mut from, mut to) in [
                    (client.try_clone().unwrap(), broker.try_clone().unwrap()),
                    (broker, client),
                ] {
                    std::thread::spawn(move || {
                        let mut bytes = [0; 4_096];
                        while let Ok(length @ 1..) = from.read(&mut bytes)
                            && to.write_all(&bytes[..length]).is_ok()
                        {}
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        Self { url, open }
    }

    fn close(&self) {
        for connection in self.open.lock().unwrap().take().into_iter().flatten() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    fn open(&self) {
        *self.open.lock().unwrap() = Some(vec![]);
    }
}

#[test]
fn messages_that_waited_at_the_broker_are_counted() {
    for broker in [Broker::Rabbit3, Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        let (gate, app) = (Gate::to(broker), fresh_app());
        let observer = start(&gate.url, &app, &[]);
        let mut user = user(broker, &app);
        let before = lines(&observer).len();
        gate.close();
        observer.wait_log("not connected: ");
        for _ in 0..1_204 {
            user.publish_confirmed(Path::Chat21.outgoing(&app, "u01", "u01"), "{}")
                .unwrap();
        }
        gate.open();
        observer.wait_log(" s, 1,204 messages had waited");
        let said = lines(&observer).split_off(before);
        assert_eq!(said.len(), 2, "{said:#?}");
    }
}

#[test]
fn a_log_for_programs_has_the_figures_of_an_outage_as_fields() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let (gate, app) = (Gate::to(broker), fresh_app());
    let dir = tempfile::TempDir::new().unwrap();
    let log = dir.path().join("log");
    let mut child = binary()
        .args([
            "run",
            "--broker",
            &gate.url,
            "--username",
            "observer",
            "--app",
            &app,
        ])
        .args([
            "--http-listen",
            "none",
            "--state-dir",
            dir.path().to_str().unwrap(),
        ])
        .env("OBSERVER_PASSWORD", "observerpw")
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let said = |text: &str| {
        wait_for(text, || {
            let log = std::fs::read_to_string(&log).unwrap();
            let found = log.lines().find(|line| line.contains(text));
            found.and_then(|line| serde_json::from_str::<Value>(line).ok())
        })
    };
    let start = said("chat21-observer ");
    assert_eq!(
        (
            &start["broker"],
            &start["user"],
            &start["version"],
            &start["level"]
        ),
        (
            &gate.url.as_str().into(),
            &"observer".into(),
            &env!("CARGO_PKG_VERSION").into(),
            &"INFO".into()
        )
    );
    assert_eq!(said("ready: ")["session_present"], false);
    gate.close();
    let begun = said("not connected: ");
    assert!(
        begun["fault"].is_string() && begun["level"] == "WARN",
        "{begun}"
    );
    gate.open();
    let over = said("ready again after ");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        over["seconds"].as_f64().unwrap() > 0.0 && over["waited"] == 0 && over["all"] == true,
        "{over}"
    );
}

/// RabbitMQ 4.0 blocks publishers for `ALARM_SECONDS` (a minute in `scripts/campaign`), with more
/// messages queued than the store may keep. They are taken in and acknowledged up to that bound,
/// the broker keeps the others, and all are delivered afterwards, in order.
#[test]
fn while_publishers_are_blocked_messages_are_taken_in_up_to_a_bound() {
    const QUEUED: usize = 3_000;
    let seconds = std::env::var("ALARM_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    let broker = Broker::Rabbit4;
    let _exclusive = broker.exclusive();
    let (app, port) = (fresh_app(), free_port());
    let listen = port.to_string();
    let flags = ["--window", "50", "--http-listen", &listen];
    let observer = Observer::start(
        broker,
        &app,
        &[&flags[..], &["--max-backlog", "1MiB"]].concat(),
    );
    let load = Load::start(Plan {
        broker,
        app,
        senders: users(0..10),
        recipients: users(10..20),
        paths: vec![Path::Inbox, Path::Chat21],
        per_pair: 20,
        allowed: Some(100),
    });
    load.wait_arrived(100);
    observer.freeze();
    load.allow(load.expected());
    load.wait_under_way(QUEUED);
    let alarm = broker.alarm();
    let arrived = load.arrived();
    observer.thaw();
    observer.wait_log("takes no publishes: ");
    observer.wait_log("(--max-backlog): ");
    let metric = |name: &str| {
        let (_, metrics) = get(port, "/metrics").unwrap();
        let line = metrics.lines().find(|line| line.starts_with(name)).unwrap();
        let value = line.rsplit(' ').next().unwrap();
        value.parse::<usize>().unwrap()
    };
    let received = || metric("observer_messages_received_total{kind=\"message\",qos=\"1\"}");
    // What was on its way when the bound was reached is still taken in, on a busy machine with
    // seconds in between.
    let mut taken = received();
    wait_for("the bound to hold", || {
        std::thread::sleep(Duration::from_secs(5));
        let before = std::mem::replace(&mut taken, received());
        (taken == before).then_some(())
    });
    assert!(taken > arrived, "some are taken in");
    assert!(taken < arrived + QUEUED, "and the broker keeps the others");
    assert!(metric("observer_backlog_bytes ") >= 1 << 20);
    // The alarm has to last.
    std::thread::sleep(Duration::from_secs(seconds));
    assert_eq!(received(), taken, "the bound holds");
    drop(alarm);
    let verdict = load.finish().verdict;
    println!(
        "{taken} of {} taken in before or while publishers were blocked for {seconds} s; \
         {} arrived, {} of them twice",
        QUEUED + arrived,
        verdict.arrived,
        verdict.repeated
    );
    observer.wait_log("is on its way");
}

#[test]
fn an_interval_in_which_something_happened_has_a_line() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let app = fresh_app();
    let observer = start(&broker.url(false), &app, &["--stats-interval", "1s"]);
    let mut user = user(broker, &app);
    let topic = Path::Chat21.outgoing(&app, "u01", "u01");
    for payload in ["{}", "{}", "no JSON", "[]", "no JSON"] {
        user.publish_confirmed(topic.clone(), payload).unwrap();
    }
    // All of them may fall into one interval, or into two.
    let counts = |what: &str| {
        let said = lines(&observer);
        let found = said.iter().filter_map(|line| {
            let line = line.strip_prefix("INFO ")?;
            let words = line.split([',', '(', ')']).map(str::trim);
            let mut counts = words.filter_map(|words| {
                let (one, other) = words.split_once(' ')?;
                match (one == what, other == what) {
                    (true, _) => other.parse::<u64>().ok(),
                    (_, true) => one.parse().ok(),
                    _ => None,
                }
            });
            counts.next()
        });
        found.sum::<u64>()
    };
    let wanted = [
        ("forwarded", 2),
        ("refused", 3),
        ("not-json", 2),
        ("not-an-object", 1),
    ];
    wait_for("a line about the interval", || {
        wanted
            .iter()
            .all(|(what, count)| counts(what) == *count)
            .then_some(())
    });
    let said = lines(&observer);
    let of_interval = said.iter().filter(|line| line.contains(" forwarded"));
    assert!(
        of_interval.clone().any(|line| line.contains(", p99 ")),
        "{said:#?}"
    );
    assert!(
        of_interval.count() <= 5,
        "an interval without messages has none: {said:#?}"
    );
}

#[test]
fn in_the_journal_a_line_has_no_time() {
    use std::os::unix::fs::MetadataExt;
    let url = "mqtt://127.0.0.1:1";
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("journal");
    let file = std::fs::File::create(&path).unwrap();
    let metadata = file.metadata().unwrap();
    let name = |inode: u64| format!("{}:{inode}", metadata.dev());
    // The second is another file: a command that writes elsewhere inherits the variable.
    for (stream, is_text) in [
        (name(metadata.ino()), true),
        (name(metadata.ino() + 1), false),
    ] {
        file.set_len(0).unwrap();
        let mut child = binary()
            .args([
                "run",
                "--broker",
                url,
                "--state-dir",
                dir.path().to_str().unwrap(),
            ])
            .args(["--http-listen", "none"])
            .env("JOURNAL_STREAM", stream)
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().append(true).open(&path).unwrap())
            .spawn()
            .unwrap();
        let log = wait_for("the first fault", || {
            let log = std::fs::read_to_string(&path).unwrap();
            log.contains("not connected: ").then_some(log)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        let first = log.lines().next().unwrap();
        assert_eq!(
            first.starts_with(" INFO chat21-observer "),
            is_text,
            "{log}"
        );
        assert_eq!(
            serde_json::from_str::<Value>(first).is_ok(),
            !is_text,
            "{log}"
        );
    }
}
