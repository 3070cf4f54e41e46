//! The quick starts of the guide, each from nothing to a message received: their lines are run one
//! after the other as they stand there, and what they show is compared with what the chapter shows.
//!
//! The broker is one of the test bed's, started with the settings that the lines write. Small
//! scripts, first on the path, stand in for the programs on a reader's machine.

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

use crate::bed::{Broker, PATIENCE, fresh_app, in_the_bed, lines_of, root, signal, var, wait_for};
use crate::guarded::brokers;
use crate::http::free_port;

/// The chapters whose commands are run here, and nowhere else.
pub(crate) const QUICK_STARTS: [&str; 2] = ["mosquitto", "rabbitmq"];

/// What the quick starts of the README begin with, and what follows them.
pub(crate) const FROM_NOTHING: &str = "## From nothing to a message";
pub(crate) const DOCKER: &str = "**Docker**";

pub(crate) fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).unwrap()
}

/// A reader's machine.
pub(crate) struct Machine {
    broker: Broker,
    /// The name of the private broker.
    run: String,
    /// The home directory, with the stand-ins in `bin` and RabbitMQ's settings in `setup`.
    home: TempDir,
    /// What stands for `/etc/mosquitto`, in the root of the test bed.
    place: PathBuf,
    pub(crate) port: u16,
    variables: Vec<(String, String)>,
    /// What runs until the end.
    running: Vec<Child>,
    /// A subscriber that is to be started with the next publish.
    subscriber: Option<String>,
    /// What the last command has printed.
    output: String,
    /// The lines of bob's inbox.
    inbox: Option<mpsc::Receiver<String>>,
}

impl Machine {
    pub(crate) fn new(broker: Broker) -> Self {
        let run = format!("quick-{}", fresh_app());
        let place = bed_root().join("srv").join(&run);
        std::fs::create_dir_all(place.join("mosquitto/conf.d")).unwrap();
        std::fs::create_dir_all(place.join("data")).unwrap();
        let home = TempDir::new().unwrap();
        for dir in ["bin", "setup"] {
            std::fs::create_dir(home.path().join(dir)).unwrap();
        }
        let machine = Self {
            broker,
            run,
            home,
            place,
            port: free_port(),
            variables: vec![],
            running: vec![],
            subscriber: None,
            output: String::new(),
            inbox: None,
        };
        let inside = machine.inside();
        let (sound, said) = in_the_bed(&["chown", "mosquitto:", &format!("{inside}/data")], "");
        assert!(sound, "{said}");
        machine.stand_in();
        machine
    }

    /// What the last command has printed.
    pub(crate) fn output(&self) -> &str {
        &self.output
    }

    /// The place as programs of the bed see it.
    pub(crate) fn inside(&self) -> String {
        format!("/srv/{}", self.run)
    }

    /// Writes the stand-ins.
    fn stand_in(&self) {
        let bed = root().join("scripts/brokers").display().to_string();
        let name = self.broker.name();
        let (root, run) = (bed_root().display().to_string(), &self.run);
        let setup = self.home.path().join("setup").display().to_string();
        let at = format!("-h 127.0.0.1 -p {}", self.port);
        let observer = env!("CARGO_BIN_EXE_chat21-observer");
        for (program, line) in [
            ("sudo", "exec \"$@\"".to_owned()),
            // Installed already; the packages must exist.
            (
                "apt-get",
                format!("shift 2; exec {bed} client dpkg -s \"$@\""),
            ),
            (
                "chat21-observer",
                format!(
                    "unset OBSERVER_RUN OBSERVER_SETUP OBSERVER_BROKERS OBSERVER_BED\n\
                     export OBSERVER_HTTP_LISTEN=none OBSERVER_LOG_FORMAT=text\n\
                     exec {observer} \"$@\""
                ),
            ),
            (
                "mosquitto_sub",
                format!("exec {bed} client mosquitto_sub {at} \"$@\""),
            ),
            (
                "mosquitto_pub",
                format!("exec {bed} client mosquitto_pub {at} \"$@\""),
            ),
            (
                "mosquitto_passwd",
                format!(
                    "exec {bed} client mosquitto_passwd \"${{@/#{}/}}\"",
                    escaped(&root)
                ),
            ),
            (
                "chown",
                format!("exec {bed} client chown \"${{@/#{}/}}\"", escaped(&root)),
            ),
            (
                "rabbitmqctl",
                format!(
                    "export OBSERVER_RUN={run} OBSERVER_SETUP={setup} OBSERVER_BROKERS={name}\n\
                     exec {bed} ctl {name} \"$@\""
                ),
            ),
            // It is on already.
            (
                "rabbitmq-plugins",
                "[ \"$*\" = 'enable rabbitmq_mqtt' ]".to_owned(),
            ),
        ] {
            let path = self.home.path().join("bin").join(program);
            std::fs::write(&path, format!("#!/bin/bash\n{line}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
    }

    /// Runs the blocks of commands in this text, and compares what they show with the blocks of
    /// text behind them. Returns how many there were. What is to be put into a file is JSON.
    fn play(&mut self, text: &str, adapt: impl Fn(&str) -> String) -> usize {
        let mut compared = 0;
        for (language, body) in fences(text) {
            if language == "sh" {
                body.lines().for_each(|line| self.enter(&adapt(line)));
            } else if language != "json" {
                let shown = self.output.trim();
                assert!(fits(shown, body.trim()), "{body}\nis in fact\n{shown}");
                compared += 1;
            }
        }
        compared
    }

    /// Types one line.
    pub(crate) fn enter(&mut self, line: &str) {
        println!("$ {line}");
        if let Some(variable) = line.strip_prefix("export ") {
            let (name, value) = variable.split_once('=').unwrap();
            self.variables.push((name.to_owned(), value.to_owned()));
        } else if line.starts_with("sudo systemctl restart ") {
            match self.broker {
                Broker::Mosquitto => self.start_debians_mosquitto(),
                Broker::Rabbit3 | Broker::Rabbit4 => self.start_rabbitmq(),
                Broker::Nats
                | Broker::Ejabberd
                | Broker::ActiveMq
                | Broker::Aedes
                | Broker::Rumqttd => unreachable!("they have no quick start"),
            }
        } else if line.starts_with("chat21-observer run ") {
            self.start_observer(line);
        } else if line.contains(" chat21-observer inbox ") {
            self.follow_inbox(line);
        } else if line.starts_with("mosquitto_sub ") {
            self.subscriber = Some(line.to_owned());
        } else if line.starts_with("mosquitto_pub ") {
            self.publish(line);
        } else {
            let output = self.bash(line).output().unwrap();
            assert!(output.status.success(), "{line}: {output:?}");
            self.output = String::from_utf8(output.stdout).unwrap();
        }
    }

    /// A line for bash, with this machine's paths in place of the reader's.
    fn bash(&self, line: &str) -> Command {
        let home = self.home.path().display().to_string();
        let place = self.place.display().to_string();
        let line = line
            .replace("/etc/mosquitto", &format!("{place}/mosquitto"))
            .replace("/etc/rabbitmq", &format!("{home}/setup"))
            .replace("localhost:1883", &format!("localhost:{}", self.port));
        let mut command = Command::new("bash");
        command
            .args(["-o", "pipefail", "-c", &line])
            .current_dir(&home)
            .env("HOME", &home)
            .env(
                "PATH",
                format!("{home}/bin:{}", std::env::var("PATH").unwrap()),
            )
            .envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Shows the log up to the line that says that the observer is ready.
    fn start_observer(&mut self, line: &str) {
        let mut child = self
            .bash(&format!("exec {line}"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        self.running.push(child);
        self.output.clear();
        while !self.output.contains("ready: ") {
            let line = lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("it is not ready: {}", self.output));
            self.output.push_str(&line);
            self.output.push('\n');
        }
    }

    /// Until it says that it follows.
    fn follow_inbox(&mut self, line: &str) {
        let mut child = self
            .bash(&line.replacen(" chat21-observer", " exec chat21-observer", 1))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = lines_of(child.stderr.take().unwrap());
        self.inbox = Some(lines_of(child.stdout.take().unwrap()));
        self.running.push(child);
        let said = said.recv_timeout(PATIENCE).unwrap();
        assert!(said.starts_with("inbox of bob "), "{said}");
    }

    /// Publishes until the subscriber has heard: nothing shows when its subscription is active.
    fn publish(&mut self, line: &str) {
        let subscriber = self.subscriber.take().unwrap();
        let subscriber = subscriber.replacen("mosquitto_sub", "mosquitto_sub -C 1 -W 180", 1);
        let child = self
            .bash(&subscriber)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (done_tx, done_rx) = mpsc::channel();
        std::thread::spawn(move || done_tx.send(child.wait_with_output().unwrap()));
        let output = loop {
            assert!(self.bash(line).status().unwrap().success());
            if let Ok(output) = done_rx.recv_timeout(Duration::from_millis(500)) {
                break output;
            }
        };
        self.output = String::from_utf8(output.stdout).unwrap();
    }

    /// Debian's Mosquitto with Debian's configuration, in which only the paths are others.
    fn start_debians_mosquitto(&mut self) {
        let inside = self.inside();
        let port = self.port.to_string();
        let there = |text: &str| {
            text.replace(
                "\nlistener 1883 localhost\n",
                &format!("\nlistener {port} localhost\n"),
            )
            .replace("/etc/mosquitto", &format!("{inside}/mosquitto"))
            .replace("/run/mosquitto/", &format!("{inside}/data/"))
            .replace("/var/lib/mosquitto/", &format!("{inside}/data/"))
            .replace("/var/log/mosquitto/", &format!("{inside}/data/"))
        };
        let packaged = bed_root().join("etc/mosquitto/mosquitto.conf");
        let ours = self.place.join("mosquitto/conf.d/chat21.conf");
        for (from, to) in [
            (&packaged, &self.place.join("mosquitto/mosquitto.conf")),
            (&ours, &ours),
        ] {
            let text = std::fs::read_to_string(from).unwrap();
            std::fs::write(to, there(&text)).unwrap();
        }
        let conf = format!("{inside}/mosquitto/mosquitto.conf");
        self.start_mosquitto(&["mosquitto", "-c", &conf]);
    }

    /// A program of the bed that listens on this machine's port.
    pub(crate) fn start_mosquitto(&mut self, command: &[&str]) {
        let child = Command::new(root().join("scripts/brokers"))
            .arg("client")
            .args(command)
            .stdin(Stdio::null())
            .stderr(std::fs::File::create(self.home.path().join("broker")).unwrap())
            .spawn()
            .unwrap();
        self.running.push(child);
        wait_for("Mosquitto", || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// A RabbitMQ with what the lines have written to `rabbitmq.conf`, and without users of ours.
    fn start_rabbitmq(&mut self) {
        let setup = self.home.path().join("setup");
        brokers(&self.run, &setup, self.broker, &["up"]);
        let name = self.broker.name();
        let args = ["ctl", name, "delete_user", "observer"];
        brokers(&self.run, &setup, self.broker, &args);
        let env = brokers(&self.run, &setup, self.broker, &["env"]);
        let wanted = format!("export BED_{}_MQTT=", name.to_uppercase());
        let port = env.lines().find_map(|line| line.strip_prefix(&wanted));
        self.port = port.unwrap().parse().unwrap();
        self.stand_in();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The observer before its broker.
        for child in self.running.iter_mut().rev() {
            signal(child.id(), "TERM");
            let _ = child.wait();
        }
        if self.broker.is_rabbitmq() {
            for command in ["down", "forget"] {
                brokers(&self.run, self.home.path(), self.broker, &[command]);
            }
        }
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

/// The root that Mosquitto of the bed lives in.
fn bed_root() -> PathBuf {
    let tls = var("BED_TLS");
    let (root, _) = tls.split_once("/srv/").unwrap();
    Path::new(root).to_owned()
}

/// A path as a pattern of bash's parameter expansion.
fn escaped(path: &str) -> String {
    path.replace('/', r"\/")
}

/// Every fenced block, with its language.
fn fences(text: &str) -> Vec<(&str, &str)> {
    let mut blocks = vec![];
    for block in text.split("\n```").skip(1).step_by(2) {
        let (language, body) = block.split_once('\n').unwrap();
        blocks.push((language, body));
    }
    blocks
}

/// Whether a text is as the pattern says, in which `…` stands for anything.
fn fits(text: &str, pattern: &str) -> bool {
    let mut pieces = pattern.split('…');
    let Some(mut rest) = text.strip_prefix(pieces.next().unwrap()) else {
        return false;
    };
    for piece in pieces {
        let Some(at) = rest.find(piece) else {
            return false;
        };
        rest = &rest[at + piece.len()..];
    }
    pattern.ends_with('…') || rest.is_empty()
}

fn plays(name: &str, broker: Broker, adapt: impl Fn(&str) -> String) {
    assert!(QUICK_STARTS.contains(&name));
    let chapter = chat21_observer::guide::chapter(name).unwrap();
    let compared = Machine::new(broker).play(chapter.text, adapt);
    assert!(compared >= 3, "the chapter shows what is to be expected");
}

/// The README's lines for one broker, and those for either.
fn plays_the_readme(name: &str, broker: Broker) {
    let readme = readme();
    let (_, quick_starts) = readme.split_once(FROM_NOTHING).unwrap();
    let (of_brokers, rest) = quick_starts.split_once("Then, with either").unwrap();
    let (either, _) = rest.split_once(DOCKER).unwrap();
    let (_, of_broker) = of_brokers.split_once(&format!("**{name}**")).unwrap();
    let of_broker = of_broker.split("\n**").next().unwrap();
    let mut machine = Machine::new(broker);
    machine.play(of_broker, str::to_owned);
    assert_eq!(machine.play(either, str::to_owned), 2);
    let line = machine.inbox.as_ref().unwrap().recv_timeout(PATIENCE);
    assert!(line.unwrap().ends_with("  alice: hello"));
}

#[test]
fn the_readme_on_mosquitto() {
    plays_the_readme("Mosquitto", Broker::Mosquitto);
}

#[test]
fn the_readme_on_rabbitmq() {
    plays_the_readme("RabbitMQ", Broker::Rabbit4);
}

#[test]
fn mosquitto_from_nothing_to_a_message() {
    plays("mosquitto", Broker::Mosquitto, str::to_owned);
}

#[test]
fn rabbitmq_from_nothing_to_a_message() {
    plays("rabbitmq", Broker::Rabbit4, str::to_owned);
}

/// With what the chapter says of older versions.
#[test]
fn an_older_rabbitmq_from_nothing_to_a_message() {
    plays("rabbitmq", Broker::Rabbit3, |line| {
        line.replace("acl rabbitmq", "acl rabbitmq --before-3.13")
    });
}

#[test]
fn three_dots_stand_for_anything() {
    assert!(fits("a\nb\nmessages pass", "…\nmessages pass"));
    assert!(fits("{\"a\":1,\"b\":2}", "{…\"b\":2}"));
    assert!(!fits("{\"a\":1,\"b\":2}", "{…\"b\":2"));
    assert!(!fits("a b", "b…"));
}
