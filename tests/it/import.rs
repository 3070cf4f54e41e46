//! `store import`: what chat21-server has stored, for users of the observer.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::Api;
use crate::bed::{Broker, binary, wait_for};
use crate::protocol::Scene;

/// 2023-11-14.
const THEN: u64 = 1_700_000_000_000;

/// A copy of a message as `mongoexport` writes it.
fn copy(app: &str, n: u64, of: &str, with: &str, status: u16) -> Value {
    json!({
        "_id": {"$oid": format!("{n:024x}")}, "timelineOf": of, "conversWith": with,
        "message_id": format!("old-{n}"), "app_id": app, "sender": "u01", "recipient": "u02",
        "sender_fullname": "Alice", "recipient_fullname": "Bob", "text": format!("text {n}"),
        "type": "text", "channel_type": "direct", "attributes": {"tempUID": format!("bubble-{n}")},
        "metadata": "", "timestamp": THEN + n, "status": status,
    })
}

/// The row of a list that shows a message.
fn row(app: &str, n: u64, of: &str, with: &str, more: &Value) -> Value {
    let mut row = copy(app, n, of, with, 150);
    let fields = row.as_object_mut().unwrap();
    fields.insert("key".to_owned(), with.into());
    fields.insert("last_message_text".to_owned(), fields["text"].clone());
    fields.extend(more.as_object().unwrap().clone());
    row
}

/// Node stores milliseconds as doubles, and `mongoexport` writes those as 1.700000000123E+12.
fn as_exported(line: &str) -> String {
    let mut line = line.to_owned();
    for name in ["timestamp", "createdOn", "updatedOn"] {
        let key = format!("\"{name}\":1");
        if let Some(at) = line.find(&key) {
            let digits = at + key.len();
            line.insert_str(digits + 12, "E+12");
            line.insert(digits, '.');
        }
    }
    line
}

fn file(dir: &Path, name: &str, documents: &[Value]) -> String {
    let mut lines = String::new();
    for document in documents {
        let _ = writeln!(lines, "{}", as_exported(&document.to_string()));
    }
    let path = dir.join(name);
    fs::write(&path, lines).unwrap();
    path.to_str().unwrap().to_owned()
}

fn import(state: &Path, args: &[&str]) -> Output {
    binary()
        .args(["store", "import", "--state-dir"])
        .arg(state)
        .args(args)
        .output()
        .unwrap()
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// The numbers of a file in the table: lines, new, known, leftovers, bad.
fn counts(output: &Output, file: &str) -> Vec<u64> {
    let table = text(&output.stdout);
    let line = table.lines().find(|line| line.ends_with(file)).unwrap();
    let numbers = line[..line.len() - file.len()].split_whitespace();
    numbers.map(|number| number.parse().unwrap()).collect()
}

/// Users go on where they were, beside an observer that runs: lists, history, statuses, receipts.
#[test]
fn users_find_here_what_they_had_there() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let app = &api.scene.app;
    let dir = tempfile::tempdir().unwrap();
    let mut messages = vec![];
    for n in 0..300 {
        messages.push(copy(app, n, "u01", "u02", 250));
        messages.push(copy(app, n, "u02", "u01", 200));
    }
    messages.push(copy(app, 300, "u02", "u03", 150));
    let rows = [
        row(
            app,
            299,
            "u01",
            "u02",
            &json!({"is_new": false, "archived": false}),
        ),
        row(
            app,
            299,
            "u02",
            "u01",
            &json!({"is_new": true, "archived": false, "colour": "red"}),
        ),
        row(
            app,
            300,
            "u02",
            "u03",
            &json!({"is_new": false, "archived": true}),
        ),
    ];
    let group = json!({
        "uid": "group-old", "appId": app, "name": "old", "owner": "u01",
        "members": {"u01": 1, "u02": 1}, "createdOn": THEN, "updatedOn": THEN,
    });
    let [messages, rows, groups] = [
        file(dir.path(), "messages.json", &messages),
        file(dir.path(), "conversations.json", &rows),
        file(dir.path(), "groups.json", &[group]),
    ];
    let args = [
        "--messages",
        &messages,
        "--conversations",
        &rows,
        "--groups",
        &groups,
    ];
    let state = api.scene.observer.state_dir();
    let done = import(Path::new(&state), &args);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(counts(&done, &messages), [601, 601, 0, 0, 0]);
    let again = import(Path::new(&state), &args);
    assert_eq!(counts(&again, &messages), [601, 0, 601, 0, 0]);
    assert_eq!(counts(&again, &rows), [3, 0, 3, 0, 0]);

    let bob = api.user("u02");
    let list = api.list(&bob, "u02/conversations");
    let [row] = &list[..] else { panic!("{list:?}") };
    assert_eq!(
        (
            &row["conversWith"],
            &row["is_new"],
            &row["text"],
            &row["colour"]
        ),
        (
            &json!("u01"),
            &json!(true),
            &json!("text 299"),
            &json!("red")
        )
    );
    assert_eq!(api.list(&bob, "u02/conversations/archived").len(), 1);
    let history = "u02/conversations/u01/messages";
    let page = api.list(&bob, history);
    assert_eq!(
        (page.len(), &page[0]["text"], &page[199]["text"]),
        (200, &json!("text 299"), &json!("text 100"))
    );
    assert_eq!(
        (
            &page[0]["message_id"],
            &page[0]["status"],
            &page[0]["timestamp"]
        ),
        (&json!("old-299"), &json!(200), &json!(THEN + 299))
    );
    let next = api.get(&bob, history).json()["next"].clone();
    let rest = api.list(
        &bob,
        &format!("{history}?before={}", next.as_str().unwrap()),
    );
    assert_eq!((rest.len(), &rest[99]["text"]), (100, &json!("text 0")));
    let since = api.list(&bob, &format!("{history}?since={}", THEN + 297));
    assert_eq!((since.len(), &since[0]["text"]), (2, &json!("text 298")));

    // They go on.
    let [mut alice, mut bob_client] = ["u01", "u02"].map(|name| api.scene.user(name));
    alice.writes("u02", &json!({"text": "new"}));
    alice.hears_on("messages/u02/clientadded");
    bob_client.hears_on("messages/u01/clientadded");
    let page = api.list(&bob, &format!("{history}?limit=2"));
    assert_eq!(
        (&page[0]["text"], &page[1]["text"]),
        (&json!("new"), &json!("text 299"))
    );
    let row = &api.list(&bob, "u02/conversations")[0];
    assert_eq!(
        (&row["text"], &row["colour"]),
        (&json!("new"), &json!("red"))
    );
    bob_client.says("messages/u01/old-299/update", r#"{"status":200}"#);
    alice.hears_on("messages/u02/old-299/clientupdated");
    alice.writes(
        "group-old",
        &json!({"text": "all", "channel_type": "group"}),
    );
    alice.hears_on("messages/group-old/clientadded");
    bob_client.hears_on("messages/group-old/clientadded");
    // What came to the old server after the first export stands before what is new.
    let late = file(
        dir.path(),
        "late.json",
        &[copy(app, 400, "u02", "u01", 150)],
    );
    let done = import(Path::new(&state), &["--messages", &late]);
    assert!(done.status.success(), "{done:?}");
    let page = api.list(&bob, &format!("{history}?limit=3"));
    let texts: Vec<_> = page
        .iter()
        .map(|message| message["text"].as_str().unwrap())
        .collect();
    assert_eq!(texts, ["new", "text 400", "text 299"]);
    // Over MQTT, too.
    let wish = json!({"since": THEN + 298, "convers_with": "u01"});
    bob_client.says("inbox/fetch", wish.to_string());
    for wanted in ["text 299", "text 400", "new"] {
        let told = bob_client.hears_on("messages/u01/clientadded");
        assert_eq!(told["text"], wanted);
    }
}

/// Says that something is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// An import is long. An observer that runs gets its turn: it takes messages in all the while, and
/// its store does not fail.
#[test]
fn messages_pass_beside_an_import() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = Scene::new(broker, &[]);
    let mut import = binary()
        .args(["store", "import", "--messages", "/dev/stdin", "--state-dir"])
        .arg(scene.observer.state_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // It goes on until enough messages have passed.
    let mut lines = import.stdin.take().unwrap();
    let over = AtomicBool::new(false);
    let [mut alice, mut bob] = ["u01", "u02"].map(|name| scene.user(name));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in (0..).take_while(|_| !over.load(Ordering::Relaxed)) {
                let copy = copy(&scene.app, n, &format!("u{}", n % 97), "u01", 150);
                writeln!(lines, "{copy}").unwrap();
            }
            drop(lines);
        });
        // Also if a message does not pass.
        let _over = Over(&over);
        for n in 0..100 {
            alice.writes("u02", &json!({"text": n.to_string()}));
            alice.hears_on("messages/u02/clientadded");
            bob.hears_on("messages/u01/clientadded");
            let ended = import.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?} after {n} messages");
        }
    });
    let status = import.wait().unwrap();
    assert!(status.success());
    let log = scene.observer.log();
    // The machine may stop for a second while the import has the store.
    let waited = log.matches("the store works again").count();
    assert!(waited <= 2, "{log}");
}

/// Killed in the middle and run again, it comes to the same store, to the byte.
#[test]
fn an_import_that_is_killed_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut messages, mut rows) = (vec![], vec![]);
    for n in 0..15_000 {
        let (one, other) = (format!("u{}", n % 97), format!("u{}", n % 89 + 100));
        messages.push(copy("a", n, &one, &other, 250));
        messages.push(copy("a", n, &other, &one, 200));
        rows.push(row(
            "a",
            n,
            &other,
            &one,
            &json!({"is_new": n % 2 == 0, "archived": false}),
        ));
    }
    let messages = file(dir.path(), "messages.json", &messages);
    let rows = file(dir.path(), "conversations.json", &rows);
    let args = ["--messages", &messages, "--conversations", &rows];
    let [whole, killed] = [dir.path().join("whole"), dir.path().join("killed")];
    assert!(import(&whole, &args).status.success());
    // Twice in the messages, once in the conversations.
    for (table, least) in [
        ("message", 2_000),
        ("message", 8_000),
        ("conversation", 3_000),
    ] {
        let mut running = binary()
            .args(["store", "import", "--state-dir"])
            .arg(&killed)
            .args(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("an import on its way", || {
            let store = rusqlite::Connection::open(killed.join("observer.db")).ok()?;
            store.busy_timeout(Duration::from_secs(5)).ok()?;
            let count = format!("SELECT count(*) FROM {table}");
            let count: i64 = store.query_row(&count, [], |row| row.get(0)).ok()?;
            (count >= least).then_some(())
        });
        running.kill().unwrap();
        running.wait().unwrap();
    }
    let last = import(&killed, &args);
    assert!(last.status.success(), "{last:?}");
    assert!(counts(&last, &messages)[2] >= 16_000, "{last:?}");
    for table in ["message", "timeline", "conversation"] {
        let all = |state: &Path| {
            let store = rusqlite::Connection::open(state.join("observer.db")).unwrap();
            let query = format!("SELECT * FROM {table} ORDER BY 1, 2, 3, 4");
            let mut statement = store.prepare(&query).unwrap();
            let columns = statement.column_count();
            let rows = statement.query_map([], |row| {
                (0..columns)
                    .map(|n| row.get::<_, rusqlite::types::Value>(n))
                    .collect()
            });
            rows.unwrap().collect::<Result<Vec<Vec<_>>, _>>().unwrap()
        };
        let [one, other] = [all(&whole), all(&killed)];
        assert!(one.len() > 8_000, "{table}: {}", one.len());
        assert!(one == other, "{table} differs");
    }
}

#[test]
fn a_line_that_cannot_be_imported_is_named_and_the_others_are_imported() {
    let dir = tempfile::tempdir().unwrap();
    let good = copy("a", 1, "u01", "u02", 100);
    let lines = format!(
        "{good}\n{{\"status\":200,\"timelineOf\":\"u01\"}}\n{good\
        }trailing\n\n{}\n{}\n",
        copy("a", 2, "u01", "u/2", 100),
        copy("a", 3, "u01", "u02", 7)
    );
    let messages = dir.path().join("messages.json");
    fs::write(&messages, lines).unwrap();
    let messages = messages.to_str().unwrap();
    let state = dir.path().join("state");
    let done = import(&state, &["--messages", messages]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let store = state.join("observer.db").display().to_string();
    let said = text(&done.stderr).replace(messages, "FILE");
    assert_eq!(
        said.replace(&store, "STORE"),
        "a new store is made: STORE\n\
         FILE, line 3: it is not JSON\n\
         FILE, line 5: conversWith holds '/', which no identifier may hold\n\
         FILE, line 6: status 7 is none that a stored message has: 100, 150, 200, 250, 300\n"
    );
    assert_eq!(counts(&done, messages), [6, 1, 0, 1, 3]);
    assert!(text(&done.stdout).contains("3 lines are not imported: see above."));
}

#[test]
fn a_file_of_another_form_is_refused_before_anything_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    for (bytes, wanted) in [
        (
            &b"[{\"a\":1}]"[..],
            "is one JSON array: export it again without --jsonArray",
        ),
        (&b"\x1f\x8b\x08"[..], "is compressed: gunzip it first"),
        (
            &b"\x16\x00\x00\x00\x07_id"[..],
            "is BSON, as mongodump writes it: use mongoexport",
        ),
    ] {
        let path = dir.path().join("messages.json");
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        let done = import(&state, &["--messages", path]);
        assert_eq!(done.status.code(), Some(1), "{done:?}");
        let said = text(&done.stderr);
        assert!(said.contains(&format!("{path} {wanted}")), "{said}");
    }
    let done = import(&state, &["--messages", "nowhere.json"]);
    assert!(
        text(&done.stderr).contains("cannot open nowhere.json"),
        "{done:?}"
    );
    assert!(
        text(&import(&state, &[]).stderr).contains("--messages"),
        "no file is named"
    );
    assert!(!state.exists(), "there is a store");
}
