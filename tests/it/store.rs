//! The store under a running observer: reading a session back, kills, a locked file, a full disk,
//! commands.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Barrier, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app, wait_for};
use crate::protocol::Scene;
use crate::relay::Relay;
use crate::wire::Wire;

/// Two users and a group of five chat, read and archive. After a restart the store has every
/// message in order, with the right status.
#[test]
fn a_recorded_session_is_read_back_after_a_restart() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let mut scene = Scene::new(broker, &[]);
    let names = ["u00", "u01", "u02", "u03", "u04"];
    scene.store_group("group-five", &names);
    let mut users: Vec<_> = names.iter().map(|name| scene.user(name)).collect();
    let mut ids: HashMap<String, String> = HashMap::new();
    let direct = [
        (0, 1, "hello"),
        (1, 0, "hi, how are you?"),
        (0, 1, "fine"),
        (0, 1, "and you?"),
        (1, 0, "fine, too"),
    ];
    let in_group = [
        (0, "welcome"),
        (3, "thanks"),
        (1, "me, too"),
        (4, "what is this?"),
        (0, "a group"),
    ];
    for (n, (from, to, text)) in direct.into_iter().enumerate() {
        users[from].writes(names[to], &json!({ "text": text }));
        let copy = users[from].hears_on(&format!("messages/{}/clientadded", names[to]));
        users[to].hears_on(&format!("messages/{}/clientadded", names[from]));
        ids.insert(
            text.to_owned(),
            copy["message_id"].as_str().unwrap().to_owned(),
        );
        // A message to the group in between.
        let (from, text) = in_group[n];
        users[from].writes("group-five", &json!({ "text": text }));
        for user in &mut users {
            let copy = user.hears_on("messages/group-five/clientadded");
            ids.insert(
                text.to_owned(),
                copy["message_id"].as_str().unwrap().to_owned(),
            );
        }
    }
    // u01 has received the first and read the third; u02 has read the first one to the group; u00
    // archives u01, who writes again.
    for (user, with, text, status) in [
        (1, "u00", "hello", 200),
        (1, "u00", "fine", 300),
        (2, "group-five", "welcome", 300),
    ] {
        users[user].says(
            &format!("messages/{with}/{}/update", ids[text]),
            json!({ "status": status }).to_string(),
        );
    }
    for text in ["hello", "fine"] {
        users[0].hears_on(&format!("messages/u01/{}/clientupdated", ids[text]));
    }
    users[1].says("conversations/u00/update", r#"{"is_new":false}"#);
    users[1].hears_on("conversations/u00/clientupdated");
    for peer in ["u01", "group-five"] {
        users[0].says(&format!("conversations/{peer}/archive"), "");
        users[0].hears();
        users[0].hears();
    }
    users[1].writes("u00", &json!({"text": "one more"}));
    users[0].hears_on("messages/u01/clientadded");

    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
    scene.observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    scene.observer.wait_ready();
    let said = |of: &str, with: &str| -> Vec<(String, String, i64)> {
        let lines = scene.command(&["store", "export", &scene.app, of, with]);
        let line = |line: &str| {
            let message: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| message[name].as_str().unwrap().to_owned();
            assert_eq!(
                (
                    text("app_id"),
                    text("recipient") == with || text("sender") == with
                ),
                (scene.app.clone(), true)
            );
            if text("text") != "one more" {
                assert_eq!(text("message_id"), ids[&text("text")]);
            }
            (
                text("sender"),
                text("text"),
                message["status"].as_i64().unwrap(),
            )
        };
        lines.lines().map(line).collect()
    };
    let rows = |rows: &[(&str, &str, i64)]| -> Vec<(String, String, i64)> {
        rows.iter()
            .map(|(from, text, status)| ((*from).to_owned(), (*text).to_owned(), *status))
            .collect()
    };
    assert_eq!(
        said("u00", "u01"),
        rows(&[
            ("u00", "hello", 250),
            ("u01", "hi, how are you?", 150),
            ("u00", "fine", 300),
            ("u00", "and you?", 100),
            ("u01", "fine, too", 150),
            ("u01", "one more", 150)
        ])
    );
    assert_eq!(
        said("u01", "u00"),
        rows(&[
            ("u00", "hello", 200),
            ("u01", "hi, how are you?", 100),
            ("u00", "fine", 300),
            ("u00", "and you?", 150),
            ("u01", "fine, too", 100),
            ("u01", "one more", 100)
        ])
    );
    for name in names.iter().chain(&["group-five"]) {
        let status = |text: &str| match (*name, text) {
            ("group-five" | "u02", "welcome") => 300,
            ("group-five", _) => 100,
            _ => 150,
        };
        let expected: Vec<_> = in_group
            .iter()
            .map(|(from, text)| (names[*from], *text, status(text)))
            .collect();
        assert_eq!(said(name, "group-five"), rows(&expected), "{name}");
    }
    assert_eq!(
        scene.observer.row("u00", "u01"),
        (true, false),
        "archived, and come back with a message"
    );
    assert_eq!(scene.observer.row("u00", "group-five"), (true, true));
    assert_eq!(
        scene.observer.row("u01", "u00"),
        (true, false),
        "read, and written to since"
    );
    assert!(scene.command(&["store", "check"]).contains("is sound"));
}

/// What the recipients have received.
#[derive(Default)]
struct Seen {
    /// The ids each message came under.
    ids: BTreeMap<usize, HashSet<String>>,
    /// How many copies came in all.
    copies: usize,
}

const RECIPIENTS: [&str; 3] = ["u01", "u02", "u03"];

/// What the threads of the test share.
#[derive(Default)]
struct Traffic {
    seen: Mutex<Seen>,
    /// How many messages have been sent.
    sent: AtomicUsize,
    /// Tells the sender to stop.
    sent_all: AtomicBool,
    /// Tells the recipients to stop.
    over: AtomicBool,
}

impl Traffic {
    fn arrived(&self) -> usize {
        self.seen.lock().unwrap().ids.len()
    }

    /// Waits until `more` messages have arrived that are not sent yet.
    fn flows(&self, more: usize) {
        let next = self.sent.load(Ordering::SeqCst);
        wait_for("messages sent from now on", || {
            let seen = self.seen.lock().unwrap();
            (seen.ids.range(next..).count() >= more).then_some(())
        });
    }
}

fn receive(broker: Broker, app: &str, user: &str, traffic: &Traffic, listening: &Barrier) {
    let login = broker.login(app, user);
    let name = format!("{app}-{user}");
    let mut wire = Wire::connect(broker.port("MQTT"), &name, &login, true).unwrap();
    wire.subscribe(&[&format!("apps/{app}/users/{user}/messages/+/clientadded")])
        .unwrap();
    listening.wait();
    while !traffic.over.load(Ordering::SeqCst) {
        wire.step(Duration::from_millis(50)).unwrap();
        let mut seen = traffic.seen.lock().unwrap();
        for message in wire.messages.drain(..) {
            seen.copies += 1;
            let body = message.json();
            let n = usize::try_from(body["n"].as_u64().unwrap()).unwrap();
            seen.ids
                .entry(n)
                .or_default()
                .insert(body["message_id"].as_str().unwrap().to_owned());
        }
    }
}

/// Ends the traffic, so that a failed test does not wait for its threads.
struct Ends<'a>(&'a Traffic);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.sent_all.store(true, Ordering::SeqCst);
        self.0.over.store(true, Ordering::SeqCst);
    }
}

/// Messages that no recipient has received, with the id they are stored under.
fn missing(traffic: &Traffic, observer: &Observer) -> Vec<(usize, Option<String>)> {
    let seen = traffic.seen.lock().unwrap();
    let sent = traffic.sent.load(Ordering::SeqCst);
    let missing = (0..sent).filter(|n| !seen.ids.contains_key(n));
    let text = "SELECT message_id FROM message WHERE json_extract(body, '$.n') = ?";
    let stored = |n: usize| {
        let store = observer.store();
        let id = store.query_row(text, [n as i64], |row| row.get::<_, String>(0));
        (n, id.ok())
    };
    missing.map(stored).collect()
}

/// Messages on their way from the sender to a recipient at a time: fewer than the broker gives the
/// observer ahead of its acknowledgements, so that a new one always gets through.
const ON_THE_WAY: usize = 100;

/// One message after another to each in turn, and now and then to a group.
fn send(broker: Broker, app: &str, traffic: &Traffic) {
    let login = broker.login(app, "u00");
    let mut wire = Wire::connect(broker.port("MQTT"), &format!("{app}-u00"), &login, true).unwrap();
    let mut sent = 0;
    let mut confirmed = 0;
    while !traffic.sent_all.load(Ordering::SeqCst) || confirmed < sent {
        let free = sent - confirmed < 20 && sent - traffic.arrived() < ON_THE_WAY;
        if free && !traffic.sent_all.load(Ordering::SeqCst) {
            let (to, group) = match sent % 10 {
                9 => (
                    "group-all",
                    r#","group":{"members":{"u01":1,"u02":1,"u03":1}}"#,
                ),
                other => (RECIPIENTS[other % 3], ""),
            };
            let topic = format!("apps/{app}/outgoing/users/u00/messages/{to}/outgoing");
            // The payloads differ only in this number.
            wire.publish(topic, format!(r#"{{"n":{sent}{group}}}"#))
                .unwrap();
            sent += 1;
            traffic.sent.store(sent, Ordering::SeqCst);
        } else {
            wire.step(Duration::from_millis(5)).unwrap();
        }
        while wire.step(Duration::from_millis(1)).is_ok() && !wire.confirmed.is_empty() {
            confirmed += wire.confirmed.drain(..).count();
        }
    }
}

/// Half of the kills come while copies have arrived and the observer cannot know it yet: those
/// copies come twice. The other half come after some number of messages, wherever the observer is.
/// `scripts/campaign` asks for more than fifty (KILL_ROUNDS).
fn fifty_kills_lose_nothing_and_store_nothing_twice(broker: Broker) {
    let rounds = std::env::var("KILL_ROUNDS").map_or(50, |rounds| rounds.parse().unwrap());
    let _shared = broker.shared();
    let app = fresh_app();
    let relay = Relay::to(broker.port("MQTT"));
    let url = relay.url();
    let args = ["--broker", &url, "--username", "observer", "--app", &app];
    let mut observer = Observer::prepare(&args);
    observer.restart();
    let traffic = Traffic::default();
    let listening = Barrier::new(RECIPIENTS.len() + 1);
    let mut seed = u64::from(std::process::id());
    println!("seed {seed}");
    std::thread::scope(|scope| {
        for user in RECIPIENTS {
            let (app, traffic, listening) = (&app, &traffic, &listening);
            scope.spawn(move || receive(broker, app, user, traffic, listening));
        }
        let _ends = Ends(&traffic);
        listening.wait();
        let sender = scope.spawn(|| send(broker, &app, &traffic));
        for round in 0..rounds {
            traffic.flows(1);
            if round % 2 == 0 {
                relay.hold();
                traffic.flows(1);
            } else {
                // Xorshift: a cheap random number.
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                traffic.flows(usize::try_from(seed % 30).unwrap());
            }
            observer.kill();
            relay.wait_closed();
            relay.release();
            observer.restart();
        }
        traffic.sent_all.store(true, Ordering::SeqCst);
        sender.join().unwrap();
        let sent = traffic.sent.load(Ordering::SeqCst);
        let mut last = (traffic.arrived(), Instant::now());
        while last.0 < sent {
            if last.1.elapsed() > PATIENCE {
                panic!(
                    "of {sent} messages have not arrived: {:?}",
                    missing(&traffic, &observer)
                );
            }
            // Polling threads that have work to do.
            std::thread::sleep(Duration::from_millis(20));
            if traffic.arrived() > last.0 {
                last = (traffic.arrived(), Instant::now());
            }
        }
        // Nothing signals that no duplicate will come.
        std::thread::sleep(Duration::from_millis(500));
    });
    let sent = traffic.sent.into_inner();
    let (status, log) = observer.stop();
    assert!(status.success());
    assert!(log.contains("left_unacknowledged=0"), "{log}");
    let Seen { ids: seen, copies } = traffic.seen.into_inner().unwrap();
    let twice = copies - (sent + sent / 10 * 2);
    println!("{broker:?}: {sent} messages over {rounds} kills, {twice} copies came twice");
    assert!(
        twice >= rounds / 2,
        "{twice} copies came twice: a kill with a copy under way has lost it"
    );
    let several: Vec<_> = seen.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(
        several.is_empty(),
        "messages that came under two ids: {several:?}"
    );
    let store = observer.store();
    let integrity: String = store
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap();
    assert_eq!(integrity, "ok");
    let mut statement = store
        .prepare("SELECT json_extract(body, '$.n'), message_id FROM message")
        .unwrap();
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, u32>(0)? as usize, row.get::<_, String>(1)?))
        })
        .unwrap();
    let mut stored: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for row in rows {
        let (n, id) = row.unwrap();
        stored.entry(n).or_default().push(id);
    }
    assert_eq!(stored.len(), sent, "every message is stored");
    for (n, ids) in &stored {
        assert_eq!(ids.len(), 1, "rows of message {n}: {ids:?}");
        assert!(
            seen[n].contains(&ids[0]),
            "{n} is stored under another id than it was forwarded under"
        );
    }
    let copies: i64 = store
        .query_row("SELECT count(*) FROM timeline", [], |row| row.get(0))
        .unwrap();
    let groups = i64::try_from(sent / 10).unwrap();
    assert_eq!(
        copies,
        (i64::try_from(sent).unwrap() - groups) * 2 + groups * 5,
        "a copy for each side; for a group its own and four members'"
    );
}

#[test]
fn fifty_kills_on_rabbitmq3() {
    fifty_kills_lose_nothing_and_store_nothing_twice(Broker::Rabbit3);
}

#[test]
fn fifty_kills_on_rabbitmq4() {
    fifty_kills_lose_nothing_and_store_nothing_twice(Broker::Rabbit4);
}

#[test]
fn fifty_kills_on_mosquitto() {
    fifty_kills_lose_nothing_and_store_nothing_twice(Broker::Mosquitto);
}

/// While the store fails, messages wait at the broker and readiness says why. All arrive when it
/// works again.
fn a_fault_holds_everything_back(
    scene: &Scene,
    http: &str,
    fault: impl FnOnce(),
    says: &str,
    mend: impl FnOnce(),
) {
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    alice.writes("u01", &json!({"n": -1}));
    bob.hears_on("messages/u00/clientadded");
    alice.hears_on("messages/u01/clientadded");
    fault();
    for n in 0..30 {
        alice.writes("u01", &json!({"n": n, "text": "x".repeat(2_000)}));
    }
    let ready = |wanted: bool, words: &str| {
        let start = Instant::now();
        loop {
            let output = crate::bed::binary()
                .args(["health", "--http-listen", http])
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() == wanted && said.contains(words) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "not {words:?} but {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    ready(false, says);
    bob.hears_nothing();
    assert!(!scene.observer.log().contains("the store works again"));
    mend();
    for n in 0..30 {
        assert_eq!(bob.hears_on("messages/u00/clientadded")["n"], json!(n));
    }
    ready(true, "");
    scene.observer.wait_log("the store works again");
}

fn free_address() -> String {
    format!("127.0.0.1:{}", crate::http::free_port())
}

#[test]
fn a_locked_store_holds_everything_back_and_recovers() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let http = free_address();
    let scene = Scene::new(broker, &["--http-listen", &http]);
    let other = rusqlite::Connection::open(scene.observer.state_dir() + "/observer.db").unwrap();
    a_fault_holds_everything_back(
        &scene,
        &http,
        || other.execute_batch("BEGIN IMMEDIATE").unwrap(),
        "store: database is locked",
        || other.execute_batch("ROLLBACK").unwrap(),
    );
}

/// The file may not grow, as on a full disk. (The observer is started with that limit's signal
/// ignored.)
#[test]
fn a_store_that_cannot_grow_holds_everything_back_and_recovers() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let http = free_address();
    let scene = Scene::new(broker, &["--http-listen", &http]);
    let limit = |bytes: &str| {
        let pid = scene.observer.pid().to_string();
        let status = Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={bytes}:")])
            .status()
            .unwrap();
        assert!(status.success());
    };
    a_fault_holds_everything_back(
        &scene,
        &http,
        || limit("4096"),
        "store: ",
        || limit("unlimited"),
    );
}

#[test]
fn commands_look_at_the_store_beside_the_running_observer() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    for n in 0..3 {
        alice.writes("u01", &json!({ "n": n }));
        alice.hears_on("messages/u01/clientadded");
        bob.hears_on("messages/u00/clientadded");
    }
    let stats: Value = serde_json::from_str(&scene.command(&["store", "stats", "--json"])).unwrap();
    assert_eq!(
        (
            &stats["messages"],
            &stats["copies"],
            &stats["conversations"]
        ),
        (&json!(3), &json!(6), &json!(2))
    );
    assert!(
        scene
            .command(&["store", "stats"])
            .contains("messages      3\n")
    );
    assert!(
        scene
            .command(&["store", "check"])
            .ends_with("observer.db is sound\n")
    );
    assert_eq!(
        scene.command(&["store", "prune", "1h"]),
        "0 messages deleted that were older than 1h\n"
    );

    let file = scene.observer.state_dir() + "/group.json";
    std::fs::write(&file, r#"{"name":"ours","members":{"u00":1,"u01":1}}"#).unwrap();
    assert_eq!(
        scene.command(&["group", "set", &scene.app, "group-1", &file]),
        format!("{} group-1 2 members\n", scene.app)
    );
    assert_eq!(
        scene.command(&["group", "list"]),
        format!("{} group-1 2 members\n", scene.app)
    );
    assert_eq!(
        scene.command(&["group", "show", &scene.app, "group-1"]),
        "{\"name\":\"ours\",\"members\":{\"u00\":1,\"u01\":1}}\n"
    );
    alice.writes("group-1", &json!({"text": "both"}));
    bob.hears_on("messages/group-1/clientadded");
    assert_eq!(
        scene.command(&["group", "remove", &scene.app, "group-1"]),
        format!("{} group-1 removed\n", scene.app)
    );
    let fails = |args: &[&str], words: &str| {
        let output = scene.try_command(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(words), "{said}");
    };
    fails(
        &["group", "show", &scene.app, "group-1"],
        "has no stored group \"group-1\"",
    );
    fails(
        &["group", "remove", &scene.app, "group-1"],
        "has no stored group \"group-1\"",
    );
    std::fs::write(&file, r#"{"members":{"a/b":1}}"#).unwrap();
    fails(
        &["group", "set", &scene.app, "group-1", &file],
        "malformed-topic",
    );
    fails(
        &["group", "set", "a/b", "group-1", &file],
        "app \"a/b\" holds '/'",
    );
    std::fs::write(&file, r#"{"member":{"alice":1}}"#).unwrap();
    fails(
        &["group", "set", &scene.app, "group-1", &file],
        "it has no \"members\"; {\"members\":{}} is a group of nobody",
    );
    fails(
        &["store", "prune", "soon"],
        "\"soon\" is not a time such as 90d",
    );
    fails(&["store", "prune", "0"], "\"0\" has no unit: 90d is a time");
    fails(
        &["store", "stats", "--store", "/nowhere/at-all.db"],
        "there is no store at /nowhere/at-all.db",
    );
    fails(
        &["store", "stats", "--store", "none"],
        "there is no store (--store none)",
    );
    // A message that may be redelivered is kept until its acknowledgement is certain. The last one
    // is kept for good, so that its number is not used twice.
    let start = Instant::now();
    let mut pruned = 0;
    while pruned < 3 {
        assert!(start.elapsed() < PATIENCE, "{pruned} messages pruned");
        let said = scene.command(&["store", "prune", "0s"]);
        pruned += said.split(' ').next().unwrap().parse::<u32>().unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Beside the observer, and after a stop by copying the file alone.
#[test]
fn a_copy_of_the_store_has_everything() {
    let mut scene = Scene::new(Broker::Mosquitto, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    for n in 0..3 {
        alice.writes("u01", &json!({ "n": n }));
        bob.hears_on("messages/u00/clientadded");
    }
    let state = scene.observer.state_dir();
    let at = |name: &str| format!("{state}/{name}");
    let holds = |file: &str| {
        let output = crate::bed::binary()
            .args(["store", "stats", "--json", "--store", file])
            .output()
            .unwrap();
        let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
        stats["messages"].clone()
    };
    let copy = at("copy.db");
    let said = scene.command(&["store", "backup", &copy]);
    assert!(
        said.starts_with(&format!("{copy} holds 3 messages of ")),
        "{said}"
    );
    assert_eq!(holds(&copy), json!(3));
    let mode = std::fs::metadata(&copy).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = scene.try_command(&["store", "backup", &copy]);
    let said = String::from_utf8(again.stderr).unwrap();
    assert!(!again.status.success() && said.contains(&copy), "{said}");
    assert!(scene.observer.stop().0.success());
    let alone = at("alone.db");
    std::fs::copy(at("observer.db"), &alone).unwrap();
    assert_eq!(holds(&alone), json!(3));
    // Nobody has the copy, so nobody would know.
    let ban = crate::bed::binary()
        .args(["block", "ban", "a", "mallory", "--store", &alone])
        .output()
        .unwrap();
    let said = String::from_utf8(ban.stderr).unwrap();
    assert!(
        ban.status.success() && said.contains("no observer runs on"),
        "{said}"
    );
}

#[test]
fn a_store_that_another_observer_uses_is_refused() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let first = Observer::start(broker, &fresh_app(), &[]);
    let state = first.state_dir();
    let output = crate::bed::binary()
        .args([
            "run",
            "--broker",
            &broker.url(false),
            "--username",
            "observer",
            "--http-listen",
            "none",
            "--state-dir",
            &state,
        ])
        .env("OBSERVER_PASSWORD", "observerpw")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("observer.db is used by another observer that runs"),
        "{said}"
    );
}

#[test]
fn without_a_store_messages_pass_and_the_rest_is_said_to_be_off() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let scene = Scene::new(broker, &["--store", "none"]);
    scene
        .observer
        .wait_log("there is no store (--store none): stored groups, receipts");
    assert!(
        scene.observer.ready.contains(", no store"),
        "{}",
        scene.observer.ready
    );
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    alice.writes("u01", &json!({"text": "hi"}));
    let id = alice.hears_on("messages/u01/clientadded")["message_id"]
        .as_str()
        .unwrap()
        .to_owned();
    bob.hears_on("messages/u00/clientadded");
    alice.writes(
        "group-1",
        &json!({"text": "hi", "group": {"members": {"u01": 1}}}),
    );
    alice.hears_on("messages/group-1/clientadded");
    bob.hears_on("messages/group-1/clientadded");
    alice.writes("group-1", &json!({"text": "hi"}));
    assert_eq!(
        alice.hears_on("messages/group-1/clientrejected")["reason"],
        json!("not-a-group")
    );
    bob.says(&format!("messages/u00/{id}/update"), r#"{"status":300}"#);
    bob.says("inbox/fetch", "{}");
    alice.hears_nothing();
    bob.hears_nothing();
    assert!(!std::path::Path::new(&(scene.observer.state_dir() + "/observer.db")).exists());
}
