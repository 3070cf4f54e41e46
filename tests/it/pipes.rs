//! Every command that prints, with a reader that has gone (`| head -1`): it ends quietly.
//!
//! The broker for `run`, `check` and `watch` is the one of `demo`, so that this needs no test bed.

use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::bed::{PATIENCE, binary, signal, wait_for};
use crate::http::{Answer, Server};
use crate::wire::{Wire, packet};

const TOPIC: &str = "apps/a/outgoing/users/alice/messages/bob/outgoing";
const RECEIPT: &str = "apps/a/users/bob/messages/alice/m1/update";

/// Command lines, with the exit code that stands although nobody reads.
///
/// `DIR` is a directory with a store, a key, a token and a group. Commands that need a broker are
/// in tests of their own.
const COMMANDS: &[(&str, i32)] = &[
    ("--help", 0),
    ("--version", 0),
    ("help", 0),
    ("run --help", 0),
    ("explain TOPIC --state-dir DIR", 0),
    ("explain TOPIC --state-dir DIR --json", 0),
    ("explain RECEIPT --state-dir DIR", 1),
    ("store stats --state-dir DIR", 0),
    ("store stats --state-dir DIR --json", 0),
    ("store export a alice --state-dir DIR", 0),
    ("store import --groups /dev/null --state-dir DIR", 0),
    (
        "store copy DIR/observer.db DIR/copy.db --client-id-file none",
        0,
    ),
    ("store prune 90d --state-dir DIR", 0),
    ("store check --state-dir DIR", 0),
    ("store backup DIR/backup.db --state-dir DIR", 0),
    ("group set a group-1 DIR/group.json --state-dir DIR", 0),
    ("group list --state-dir DIR", 0),
    ("group list --json --state-dir DIR", 0),
    ("group show a group-1 --state-dir DIR", 0),
    ("group remove a group-1 --state-dir DIR", 0),
    ("block set a alice bob --state-dir DIR", 0),
    ("block set a alice bob --state-dir DIR", 0),
    ("block ban a eve --state-dir DIR", 0),
    ("block list --state-dir DIR", 0),
    ("block list --json --state-dir DIR", 0),
    ("block clear a alice bob --state-dir DIR", 0),
    ("block unban a eve --state-dir DIR", 0),
    ("webhook list --state-dir DIR", 0),
    ("webhook list --json --state-dir DIR", 0),
    ("webhook retry --state-dir DIR", 0),
    ("webhook drop --state-dir DIR", 0),
    ("token mint user a alice --jwt-key-file DIR/key", 0),
    ("token mint service --jwt-key-file DIR/key", 0),
    ("token inspect DIR/token", 0),
    ("token inspect DIR/token --json", 0),
    // The key is another: the verdict is no.
    ("token inspect DIR/token --jwt-key-file DIR/key", 1),
    ("config init", 0),
    ("config init --all", 0),
    ("config check --state-dir DIR", 0),
    ("config show --state-dir DIR", 0),
    ("config show --origin --json --state-dir DIR", 0),
    ("acl rabbitmq", 0),
    ("acl mosquitto", 0),
    ("acl emqx --part acl", 0),
    ("check --broker mqtt://127.0.0.1:1", 1),
    ("check --json --broker mqtt://127.0.0.1:1", 1),
    ("bench --broker mqtt://127.0.0.1:1", 0),
    ("guide", 0),
    ("guide protocol", 0),
    ("man", 0),
    ("man token mint user", 0),
    ("completions bash", 0),
    ("completions zsh", 0),
    ("completions fish", 0),
    ("completions elvish", 0),
    ("completions powershell", 0),
    ("demo --once --port 0", 0),
];

/// Commands of the other tests here.
const ELSEWHERE: &[&str] = &[
    "group add-member",
    "group remove-member",
    "run",
    "health",
    "watch",
    "send",
    "inbox",
    "slots rabbitmq",
];

/// A claim of 2100, signed with another key than the tests'.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjQxMDI0NDQ4MDB9.c2lnbmF0dXJl";

/// A pipe that nobody reads any more.
fn broken_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// What is asked for once there is nobody to read it: exit code and standard error.
pub(crate) fn unread(command: &mut Command) -> (i32, String) {
    let output = command
        .stdin(Stdio::null())
        .stdout(broken_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
        .wait_with_output()
        .unwrap();
    let code = output.status.code();
    let code = code.unwrap_or_else(|| panic!("ended by a signal: {:?}", output.status));
    (code, String::from_utf8(output.stderr).unwrap())
}

fn words(line: &str, dir: &Path) -> Vec<String> {
    let dir = dir.to_str().unwrap();
    line.split(' ')
        .map(|word| {
            word.replace("DIR", dir)
                .replace("TOPIC", TOPIC)
                .replace("RECEIPT", RECEIPT)
        })
        .collect()
}

#[test]
fn every_command_ends_quietly_when_its_reader_has_gone() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file("key", "a secret of the tests, long enough for HS256");
    file("token", TOKEN);
    file("group.json", r#"{"members":{"alice":1}}"#);
    let place = StoreLocation::File(dir.path().join("observer.db"));
    drop(store::open(&place, Access::Exclusive, OfflineDelivery::Broker).unwrap());
    let mut faults = vec![];
    for (line, wanted) in COMMANDS {
        let (code, err) = unread(binary().args(words(line, dir.path())));
        if code != *wanted || err.contains("panicked") || err.contains("error") {
            faults.push(format!(
                "{line}: exit code {code} instead of {wanted}\n{err}"
            ));
        }
        // Nor is the reader of standard error missed: `2>&1 | head -1`.
        let both = binary()
            .args(words(line, dir.path()))
            .stdin(Stdio::null())
            .stdout(broken_pipe())
            .stderr(broken_pipe())
            .status()
            .unwrap();
        // What was there the first time may not be there the second.
        if !matches!(both.code(), Some(0 | 1)) {
            faults.push(format!("{line} 2>&1: {both}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The leaves of the tree of commands, as `--help` shows it.
fn leaves(path: &[&str]) -> Vec<String> {
    let output = binary().args(path).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let names = commands_in(&help);
    if names.is_empty() {
        return vec![path.join(" ")];
    }
    names
        .iter()
        .flat_map(|name| leaves(&[path, &[name]].concat()))
        .collect()
}

/// The commands that a help text lists, under whatever headings.
pub(crate) fn commands_in(help: &str) -> Vec<&str> {
    let (list, _) = help.split_once("\nOptions:\n").unwrap();
    let is_command = |line: &&str| {
        let name = line.strip_prefix("  ");
        name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
    };
    let names = list.lines().filter(is_command);
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect()
}

#[test]
fn no_command_is_left_out() {
    let is_tried = |leaf: &str| {
        let mut lines = COMMANDS.iter().map(|(line, _)| *line);
        let begins = |line: &str| {
            let rest = line.strip_prefix(leaf);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        ELSEWHERE.contains(&leaf) || lines.any(begins)
    };
    let all: BTreeSet<String> = leaves(&[]).into_iter().collect();
    assert!(all.len() > 20, "{all:?}");
    let missing: Vec<_> = all.iter().filter(|leaf| !is_tried(leaf)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn health_ends_quietly() {
    let server = Server::start(|_, _| Answer::Says(200, "ready".to_owned()));
    let address = server.url.split('/').nth(2).unwrap().to_owned();
    let health = unread(binary().args(["health", "--http-listen", &address]));
    assert_eq!(health, (0, String::new()));
}

/// The broker and the observer of `demo`, which stay up until this is dropped.
pub(crate) struct Demo {
    child: Child,
    pub(crate) port: u16,
}

impl Demo {
    pub(crate) fn start() -> Self {
        let mut child = binary()
            .args(["demo", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let broker = lines.find(|line| line.as_ref().unwrap().starts_with("broker "));
        let broker = broker.unwrap().unwrap();
        let port = broker.split("mqtt://127.0.0.1:").nth(1).unwrap();
        let port = port.split(' ').next().unwrap().parse().unwrap();
        let ready = lines.find(|line| line.as_ref().unwrap().contains("alice writes to bob"));
        assert!(ready.is_some());
        // Somebody has to read on: it would end quietly.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }

    fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// A client of MQTT 3.1.1 without a login. This broker insists on a keep-alive.
    fn user(&self) -> Wire {
        let mut wire = Wire::new(TcpStream::connect(("127.0.0.1", self.port)).unwrap());
        let clean_session = 2;
        let keep_alive = [0, 60];
        let head = [b"\0\x04MQTT\x04".as_slice(), &[clean_session], &keep_alive];
        let body = [&head.concat(), b"\0\x05pipes".as_slice()].concat();
        wire.send(&packet(0x10, &body)).unwrap();
        let (_, answer) = wire.read_packet(PATIENCE).unwrap().unwrap();
        assert_eq!(answer, [0, 0], "the connection is accepted");
        wire
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a child that should end by itself; returns its exit code and standard error.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let mut err = String::new();
    let mut stderr = child.stderr.take().unwrap();
    let status = wait_for("the end of the command", || child.try_wait().unwrap());
    stderr.read_to_string(&mut err).unwrap();
    (status.code(), err)
}

/// `watch` with these flags, and a message on a topic that it shows a line for.
fn watch_ends_at_its_first_line(flags: &[&str], topic: &str) {
    let demo = Demo::start();
    let child = binary()
        .args(["watch", "--protocol", "3.1.1", "--broker", &demo.url()])
        .args(flags)
        .stdout(broken_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut user = demo.user();
    let mut child = Some(child);
    let child = wait_for("the first line", || {
        // There is no telling from outside when it has subscribed.
        user.publish_confirmed(topic, "{}").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let has_ended = child.as_mut().unwrap().try_wait().unwrap().is_some();
        has_ended.then(|| child.take().unwrap())
    });
    let (code, err) = ended(child);
    assert!(
        code == Some(0) && !err.contains("panicked"),
        "{code:?} {err}"
    );
}

#[test]
fn watch_ends_quietly_at_the_first_message() {
    watch_ends_at_its_first_line(&[], TOPIC);
}

#[test]
fn watch_for_lost_messages_ends_quietly_at_the_first() {
    watch_ends_at_its_first_line(&["--lost"], &TOPIC.replace("/messages/", "/message/"));
}

#[test]
fn send_and_inbox_end_quietly_when_their_reader_has_gone() {
    let demo = Demo::start();
    let mut inbox = binary()
        .args(["inbox", "bob", "--broker", &demo.url()])
        .stdout(broken_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let inbox = wait_for("the first line", || {
        let mut send = binary();
        send.args(["send", "--as", "alice", "bob", "hello"]);
        let (code, err) = unread(send.args(["--broker", &demo.url()]));
        assert_eq!((code, err.as_str()), (0, ""));
        inbox.try_wait().unwrap()
    });
    assert_eq!(inbox.code(), Some(0));
}

/// An observer that nobody listens to goes on working.
#[test]
fn run_works_on_and_check_keeps_its_verdict() {
    let demo = Demo::start();
    let url = demo.url();
    let dir = tempfile::TempDir::new().unwrap();
    let settings = [
        ["--broker", &url],
        ["--protocol", "3.1.1"],
        ["--name", "pipes"],
        ["--app", "pipes"],
        ["--state-dir", dir.path().to_str().unwrap()],
    ]
    .concat();
    let mut child = binary()
        .arg("run")
        .args(&settings)
        .args(["--http-listen", "none", "--log-format", "text"])
        .stdout(broken_pipe())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    a_message_passes(&demo, dir.path());
    assert!(child.try_wait().unwrap().is_none());
    // The broker of `demo` does not bring up again all that `check` asks for.
    let (code, err) = unread(binary().arg("check").args(&settings));
    assert!(code < 2 && err.is_empty(), "{code}: {err}");
    signal(child.id(), "TERM");
    let (code, err) = ended(child);
    assert!(
        code == Some(0) && !err.contains("panicked"),
        "{code:?} {err}"
    );
}

/// Its log is where it says that it is ready: `run 2>&1 | head -1`.
#[test]
fn run_works_on_when_nobody_reads_its_log() {
    let demo = Demo::start();
    let dir = tempfile::TempDir::new().unwrap();
    let mut child = binary()
        .args(["run", "--broker", &demo.url(), "--protocol", "3.1.1"])
        .args(["--name", "pipes", "--app", "pipes", "--http-listen", "none"])
        .args(["--state-dir", dir.path().to_str().unwrap()])
        .stdout(broken_pipe())
        .stderr(broken_pipe())
        .spawn()
        .unwrap();
    a_message_passes(&demo, dir.path());
    signal(child.id(), "TERM");
    let status = wait_for("the end of the command", || child.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

/// Sends messages until the observer with this state directory has stored one: that of `demo` takes
/// them, too.
fn a_message_passes(demo: &Demo, state: &Path) {
    let mut user = demo.user();
    wait_for("a message in the observer's store", || {
        let topic = "apps/pipes/outgoing/users/alice/messages/bob/outgoing";
        user.publish_confirmed(topic, "{}").unwrap();
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let store = rusqlite::Connection::open_with_flags(state.join("pipes.db"), flags).ok()?;
        let count = "SELECT count(*) FROM message";
        let stored: i64 = store.query_row(count, [], |row| row.get(0)).ok()?;
        (stored > 0).then_some(())
    });
}
