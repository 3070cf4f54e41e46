//! What a person sees in a terminal of 80 and of 120 columns: the demo, `check`, `explain`,
//! `watch`, and the log while the broker is away.

use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use crate::bed::{Broker, PATIENCE, binary, fresh_app, lines_of, service, signal};
use crate::load::Path;
use crate::wire::Wire;

/// A program in a terminal of its own, and the lines that it shows.
struct Terminal {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Terminal {
    fn start(columns: usize, args: &[&str]) -> Self {
        Self::with(columns, args, &[])
    }

    fn with(columns: usize, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let program = binary();
        let program = program.get_program().to_str().unwrap();
        let args = args.join(" ");
        let line = format!("stty cols {columns} rows 24; exec {program} {args}");
        let mut script = Command::new("script");
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OBSERVER_")) {
            script.env_remove(name);
        }
        let mut child = script
            .args(["-qefc", &line, "/dev/null"])
            .env("NO_COLOR", "1")
            .env("OBSERVER_PASSWORD", "observerpw")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// Everything up to the line that begins or ends with these words.
    fn until(&self, words: &str) -> Vec<String> {
        let mut shown: Vec<String> = vec![];
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => shown.push(line.trim_end_matches('\r').to_owned()),
                Err(_) => panic!("{words:?} is not in {shown:#?}"),
            }
            if shown.last().is_some_and(|line| line.contains(words)) {
                return shown;
            }
        }
    }

    /// Everything up to the end of the program.
    fn all(&self) -> Vec<String> {
        let lines = self.lines.iter();
        lines
            .map(|line| line.trim_end_matches('\r').to_owned())
            .collect()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // `script` ends the program, if it is told to end: for the observer the end of its terminal
        // is a reason to read its policy again.
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal(self.child.id(), "TERM");
        }
        let _ = self.child.wait();
    }
}

/// What differs between runs, in as many characters where its length is fixed.
fn filters(app: &str) -> Vec<(String, &'static str)> {
    vec![
        (r"\d\d:\d\d:\d\d\.\d\d\d".to_owned(), "hh:mm:ss.mmm"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ".to_owned(), "TIME"),
        (r"[0-9a-f]{8}-[0-9a-f-]{27}".to_owned(), "MESSAGE-ID"),
        (r"…[0-9a-f]{4}\b".to_owned(), "…ID"),
        (r"(localhost|127\.0\.0\.1):\d+".to_owned(), "HOST:PORT"),
        (r"/tmp/\.tmp\w{6}".to_owned(), "STATE"),
        (r"takes \d+ publishes".to_owned(), "takes N publishes"),
        (r"(?m)^. latency .*$".to_owned(), "? latency        N"),
        (r"after [0-9.]+ s".to_owned(), "after N s"),
        (r" +[0-9.]+ m?s\b".to_owned(), " N ms"),
        (r" +\(os error \d+\)".to_owned(), ""),
        (regex_of(app), "APP"),
    ]
}

/// An app's name is made of letters, digits and `-`.
fn regex_of(app: &str) -> String {
    app.to_owned()
}

fn snapshot(name: &str, columns: usize, app: &str, lines: &[String]) {
    let long: Vec<&String> = lines
        .iter()
        .filter(|line| line.chars().count() > columns)
        .collect();
    // A log is not wrapped, and a topic is as long as it is.
    assert!(
        long.is_empty() || matches!(name, "outage" | "explain"),
        "{long:#?}"
    );
    let filters = filters(app);
    let filters: Vec<(&str, &str)> = filters
        .iter()
        .map(|(pattern, with)| (pattern.as_str(), *with))
        .collect();
    insta::with_settings!({filters => filters}, {
        insta::assert_snapshot!(format!("{name}-{columns}"), lines.join("\n"));
    });
}

fn in_both(test: impl Fn(usize)) {
    [80, 120].into_iter().for_each(test);
}

#[test]
fn the_demo() {
    in_both(|columns| {
        let terminal = Terminal::start(columns, &["demo", "--once", "--port", "0"]);
        let mut lines = terminal.all();
        // The copies of one message may pass in any order.
        for act in lines.split_mut(|line| !line.starts_with("  ")) {
            act.sort();
        }
        snapshot("demo", columns, "no app", &lines);
    });
}

#[test]
fn check_and_explain() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    in_both(|columns| {
        let state = tempfile::TempDir::new().unwrap();
        let state = ["--state-dir", state.path().to_str().unwrap()];
        let (url, app) = (broker.url(false), fresh_app());
        let settings = [
            "-b", &url, "-u", "observer", "--app", &app, state[0], state[1],
        ];
        let check = Terminal::start(columns, &[&["check"], &settings[..]].concat());
        snapshot("check", columns, &app, &check.until("messages pass"));
        let topic = "apps/tilechat/outgoing/users/alice/message/bob/outgoing";
        let explain = Terminal::start(columns, &["explain", topic, state[0], state[1]]);
        snapshot("explain", columns, &app, &explain.all());
    });
}

#[test]
fn watch() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    in_both(|columns| {
        let (url, app) = (broker.url(false), fresh_app());
        let name = format!("n{app}");
        let state = tempfile::TempDir::new().unwrap();
        let settings = ["-b", &url, "-u", "observer", "--name", &name];
        let more = ["--app", &app, "--http-listen", "none", "--state-dir"];
        let run = [
            &["run"],
            &settings[..],
            &more,
            &[state.path().to_str().unwrap()],
        ]
        .concat();
        let observer = Terminal::start(columns, &run);
        observer.until(" ready: ");
        let terminal = Terminal::start(columns, &[&["watch"], &settings[..]].concat());
        terminal.until("online, ready");
        let mut user = Wire::connect(broker.port("MQTT"), &name, &service(), true).unwrap();
        let mut lines = vec![];
        for payload in [r#"{"text":"hi"}"#, "no JSON"] {
            // The trace begins a moment after it was asked for: the first message may be too early.
            user.publish_confirmed(Path::Chat21.outgoing(&app, "alice", "bob"), payload)
                .unwrap();
            lines.extend(terminal.until("alice → bob"));
        }
        snapshot("watch", columns, &app, &lines);
    });
}

#[test]
fn the_log_of_an_outage() {
    let broker = Broker::Mosquitto;
    let _exclusive = broker.exclusive();
    in_both(|columns| {
        let (url, app) = (broker.url(false), fresh_app());
        let state = tempfile::TempDir::new().unwrap();
        let run = ["run", "-b", &url, "-u", "observer", "--app", &app];
        let more = [
            "--http-listen",
            "none",
            "--state-dir",
            state.path().to_str().unwrap(),
        ];
        let terminal = Terminal::start(columns, &[&run[..], &more].concat());
        let mut lines = terminal.until(" ready: ");
        broker.control("stop");
        lines.extend(terminal.until("not connected: "));
        broker.control("start");
        lines.extend(terminal.until("ready again after "));
        snapshot("outage", columns, &app, &lines);
    });
}

#[test]
fn a_chapter_of_the_guide_goes_through_the_pager() {
    // `tr` stands for a pager that can be seen.
    let terminal = Terminal::with(80, &["guide", "faq"], &[("PAGER", "tr a-z A-Z")]);
    let lines = terminal.all();
    assert_eq!(lines[0], "# QUESTIONS");
    assert!(lines.len() > 50, "{lines:#?}");
}
