//! `send` and `inbox`: a user at the command line, on real brokers.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;

use crate::bed::{Broker, Observer, PATIENCE, binary, fresh_app, lines_of};
use crate::faulty_line::FaultyLine;

/// `send` or `inbox` with a login of the bed.
fn command(broker: Broker, app: &str, name: &str, login: (String, String)) -> Command {
    command_at(&broker.url(false), app, name, login)
}

fn command_at(url: &str, app: &str, name: &str, login: (String, String)) -> Command {
    let mut command = binary();
    command
        .args([name, "--broker", url, "--app", app])
        .args(["--username", &login.0])
        .env("OBSERVER_PASSWORD", login.1);
    command
}

/// `inbox`, once it says that it follows.
struct Inbox {
    child: Child,
    lines: mpsc::Receiver<String>,
    errors: mpsc::Receiver<String>,
}

impl Inbox {
    fn follow(mut command: Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = lines_of(child.stderr.take().unwrap());
        let lines = lines_of(child.stdout.take().unwrap());
        let inbox = Self {
            child,
            lines,
            errors,
        };
        inbox.says("inbox of ");
        inbox
    }

    /// Waits for what it says beside the messages.
    fn says(&self, beginning: &str) {
        let said = self.errors.recv_timeout(PATIENCE).unwrap();
        assert!(said.starts_with(beginning), "{said}");
    }

    /// The next line without its time.
    fn line(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).unwrap();
        line.get(10..).unwrap_or(&line).to_owned()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn both(test: fn(Broker)) {
    for broker in [Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        println!("{}", broker.name());
        test(broker);
    }
}

#[test]
fn users_write_and_read_with_their_own_logins() {
    both(|broker| {
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let of = |name, user| command(broker, &app, name, broker.login(&app, user));
        let sent = |text: &str, more: &[&str]| {
            let output = of("send", "u00")
                .args(["--as", "u00", "u01", text])
                .args(more)
                .output()
                .unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            (
                output.status.code(),
                text(output.stdout),
                text(output.stderr),
            )
        };
        let (code, said, errors) = sent("before", &["--json"]);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["message_id"].as_str().unwrap().len(), 36);

        let inbox = Inbox::follow({
            let mut inbox = of("inbox", "u01");
            inbox.args(["u01", "--history", "10"]);
            inbox
        });
        assert_eq!(inbox.line(), "u00: before");
        let (code, said, errors) = sent("hello", &[]);
        assert_eq!((code, errors.as_str()), (Some(0), ""));
        assert!(said.starts_with("sent  "), "{said}");
        assert_eq!(inbox.line(), "u00: hello");

        let (code, said, errors) = sent("no JSON", &["--raw"]);
        assert_eq!((code, said.as_str()), (Some(1), ""));
        assert!(errors.starts_with("error: refused: not-json: "), "{errors}");
        assert!(errors.contains("must be a JSON object"), "{errors}");
    });
}

#[test]
fn an_inbox_is_followed_over_a_broken_connection() {
    both(|broker| {
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let line = FaultyLine::to(broker.port("MQTT"));
        let inbox = Inbox::follow({
            let login = broker.login(&app, "u01");
            let mut inbox = command_at(&line.url(), &app, "inbox", login);
            inbox.arg("u01");
            inbox
        });
        line.cut();
        inbox.says("not connected: ");
        inbox.says("connected again; ");
        let sent = command(broker, &app, "send", broker.login(&app, "u00"))
            .args(["--as", "u00", "u01", "after it"])
            .status()
            .unwrap();
        assert!(sent.success());
        assert_eq!(inbox.line(), "u00: after it");
    });
}

#[test]
fn the_observers_login_may_write_as_anybody() {
    both(|broker| {
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let of = |name| command(broker, &app, name, crate::bed::service());
        let inbox = Inbox::follow({
            let mut inbox = of("inbox");
            inbox.args(["alice", "--json"]);
            inbox
        });
        let mut send = of("send")
            .args(["--as", "bob", "alice", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut text = send.stdin.take().unwrap();
        text.write_all(b"of a pipe\n").unwrap();
        drop(text);
        assert!(send.wait().unwrap().success());
        let line = inbox.lines.recv_timeout(PATIENCE).unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            line["topic"],
            format!("apps/{app}/users/alice/messages/bob/clientadded")
        );
        assert_eq!(line["payload"]["text"], "of a pipe");
        assert_eq!(line["payload"]["sender_fullname"], "bob");
    });
}

#[test]
fn nobody_answers_where_no_observer_runs() {
    both(|broker| {
        let app = fresh_app();
        let output = command(broker, &app, "send", crate::bed::service())
            .args(["--as", "alice", "bob", "hello"])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            errors,
            format!(
                "error: the broker at {} has taken the message, but no observer answers within \
                 10s. Does one run, for app \"{app}\"? Ask it with: chat21-observer health\n",
                broker.url(false)
            )
        );
    });
}

#[test]
fn a_name_that_no_topic_can_hold_is_refused_before_connecting() {
    for (args, wanted) in [
        (
            &["send", "--as", "alice", "b/b", "hi"][..],
            "error: recipient \"b/b\" holds '/', which no identifier may hold\n",
        ),
        (
            &["send", "bob", "hi"],
            "error: no user is named: name one, or log in as them (--username)\n",
        ),
        (
            &["inbox", "messages"],
            "error: user \"messages\" is a reserved word\n",
        ),
    ] {
        let output = binary().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), wanted);
    }
}
