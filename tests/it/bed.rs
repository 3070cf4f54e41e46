//! The brokers of the test bed, and an observer that runs as a separate process.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::time::{Duration, Instant};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;
use tempfile::TempDir;

use crate::postgres::Database;
use crate::turns::Turn;
pub(crate) use crate::wire::PATIENCE;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Broker {
    /// RabbitMQ 3.10.
    Rabbit3,
    /// RabbitMQ 4.0.
    Rabbit4,
    Mosquitto,
    /// MQTT 3.1.1 alone.
    Nats,
    /// Its window is a message.
    Ejabberd,
    /// MQTT 3.1.1 alone. It always says that it has no session, and has one.
    ActiveMq,
    /// MQTT 3.1.1 alone. It never sets DUP.
    Aedes,
    /// MQTT 5 has a port of its own. It never sets DUP.
    Rumqttd,
}

/// Tests that restart a broker hold its lock for writing, all others for reading.
static LOCKS: [RwLock<()>; 8] = [const { RwLock::new(()) }; 8];

pub(crate) fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "{name} is not set: run scripts/test, or `eval \"$(scripts/brokers env)\"` while the \
            brokers are up"
        )
    })
}

impl Broker {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rabbit3 => "rabbitmq3",
            Self::Rabbit4 => "rabbitmq4",
            Self::Mosquitto => "mosquitto",
            Self::Nats => "nats",
            Self::Ejabberd => "ejabberd",
            Self::ActiveMq => "activemq",
            Self::Aedes => "aedes",
            Self::Rumqttd => "rumqttd",
        }
    }

    pub(crate) fn port(self, listener: &str) -> u16 {
        var(&format!("BED_{}_{listener}", self.name().to_uppercase()))
            .parse()
            .unwrap()
    }

    /// The address for an observer.
    pub(crate) fn url(self, websocket: bool) -> String {
        if websocket {
            format!(
                "ws://localhost:{}{}",
                self.port("WS"),
                self.websocket_path()
            )
        } else {
            format!("mqtt://localhost:{}", self.port("MQTT"))
        }
    }

    fn websocket_path(self) -> &'static str {
        match self {
            Self::Rabbit3 | Self::Rabbit4 | Self::Mosquitto => "/ws",
            Self::Nats | Self::Ejabberd => "/mqtt",
            Self::ActiveMq | Self::Aedes | Self::Rumqttd => "/",
        }
    }

    /// Whether it is a RabbitMQ.
    pub(crate) fn is_rabbitmq(self) -> bool {
        matches!(self, Self::Rabbit3 | Self::Rabbit4)
    }

    pub(crate) fn shared(self) -> Turn<RwLockReadGuard<'static, ()>> {
        let lock = &LOCKS[self as usize];
        Turn::take(|| lock.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn exclusive(self) -> Turn<RwLockWriteGuard<'static, ()>> {
        let lock = &LOCKS[self as usize];
        Turn::take(|| lock.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// What an ordinary user of `app` logs in with.
    pub(crate) fn login(self, app: &str, user: &str) -> (String, String) {
        match self.is_rabbitmq() {
            false => (user.to_owned(), format!("{user}pw")),
            true => ("JWT".to_owned(), user_token(app, user, 3600)),
        }
    }

    /// RabbitMQ's memory alarm, as long as the value lives.
    pub(crate) fn alarm(self) -> Alarm {
        self.set_alarm("1MB");
        Alarm(self)
    }

    fn set_alarm(self, mark: &str) {
        self.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", mark]);
    }

    /// `scripts/brokers ctl NAME ARGS…`.
    pub(crate) fn rabbitmqctl(self, args: &[&str]) {
        let status = Command::new(root().join("scripts/brokers"))
            .args(["ctl", self.name()])
            .args(args)
            .status()
            .unwrap();
        assert!(status.success(), "rabbitmqctl {args:?}: {status}");
    }

    /// Whether a RabbitMQ has a queue.
    pub(crate) fn has_queue(self, queue: &str) -> bool {
        self.messages(queue).is_some()
    }

    /// How many messages wait in a queue of a RabbitMQ; `None` if there is no such queue.
    pub(crate) fn messages(self, queue: &str) -> Option<usize> {
        let mut queues = self.queues().into_iter();
        queues
            .find(|(name, _)| *name == queue)
            .map(|(_, messages)| messages)
    }

    /// The queues of a RabbitMQ, and how many messages wait in each.
    pub(crate) fn queues(self) -> Vec<(String, usize)> {
        let output = Command::new(root().join("scripts/brokers"))
            .args(["ctl", self.name(), "list_queues", "--no-table-headers"])
            .args(["name", "messages"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let queues = String::from_utf8(output.stdout).unwrap();
        let queues = queues.lines().filter_map(|line| line.split_once('\t'));
        // Of a queue that is just being deleted there is no count.
        let queues = queues.map(|(name, messages)| (name, messages.trim().parse()));
        queues
            .map(|(name, messages)| (name.to_owned(), messages.unwrap_or_default()))
            .collect()
    }

    /// Imports definitions: `scripts/brokers import NAME FILE`.
    pub(crate) fn import(self, definitions: &str) {
        import(self.name(), definitions);
    }

    /// `scripts/brokers COMMAND NAME`.
    pub(crate) fn control(self, command: &str) {
        let status = Command::new(root().join("scripts/brokers"))
            .args([command, self.name()])
            .status()
            .unwrap();
        assert!(
            status.success(),
            "scripts/brokers {command} {}",
            self.name()
        );
    }
}

/// An alarm that does not outlast the test, which may fail.
pub(crate) struct Alarm(Broker);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.set_alarm("2GB");
    }
}

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .try_into()
        .unwrap()
}

pub(crate) fn token(claims: &serde_json::Value) -> String {
    let header = Header {
        kid: Some("tiledesk-key".to_owned()),
        ..Header::default()
    };
    encode(
        &header,
        claims,
        &EncodingKey::from_secret(var("BED_JWT_SECRET").as_bytes()),
    )
    .unwrap()
}

/// The deployed scopes (protocol.md, section 7), for paths with and without a leading slash.
pub(crate) fn user_token(app: &str, user: &str, lifetime: i64) -> String {
    let own = ["", "."].map(|dot| format!("{dot}apps.{app}.users.{user}.*"));
    let mut scope = vec![
        "rabbitmq.configure:*/*/*".to_owned(),
        format!("rabbitmq.write:*/*/apps.{app}.outgoing.users.{user}.*"),
    ];
    scope.extend(own.iter().flat_map(|own| {
        [
            format!("rabbitmq.read:*/*/{own}"),
            format!("rabbitmq.write:*/*/{own}"),
        ]
    }));
    token(&json!({
        "sub": user, "user_id": user, "app_id": app, "aud": ["rabbitmq", user], "jti": "x",
        "iat": now(), "exp": now() + lifetime, "scope": scope,
    }))
}

fn observer_token(lifetime: i64, scope: &[&str]) -> String {
    token(&json!({
        "sub": "observer", "aud": ["rabbitmq"], "jti": "x",
        "iat": now(), "exp": now() + lifetime, "scope": scope,
    }))
}

/// A service token that may configure and read everything, and write what `write` says.
pub(crate) fn scoped_token(write: &[String]) -> String {
    let scope: Vec<&str> = ["rabbitmq.configure:*/*/*", "rabbitmq.read:*/*/*"]
        .into_iter()
        .chain(write.iter().map(String::as_str))
        .collect();
    observer_token(3600, &scope)
}

/// A service token that may write everything, and read nothing.
pub(crate) fn deaf_token() -> String {
    let scope = ["rabbitmq.configure:*/*/*", "rabbitmq.write:*/*/*"];
    observer_token(3600, &scope)
}

pub(crate) fn service_token(lifetime: i64) -> String {
    let scope = [
        "rabbitmq.configure:*/*/*",
        "rabbitmq.read:*/*/*",
        "rabbitmq.write:*/*/*",
    ];
    observer_token(lifetime, &scope)
}

/// The service user.
pub(crate) fn service() -> (String, String) {
    ("observer".to_owned(), "observerpw".to_owned())
}

/// The lines that a program prints, as they come.
pub(crate) fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (lines_tx, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = lines_tx.send(line);
        }
    });
    lines
}

/// Polls until `have` returns a value; fails after [`PATIENCE`].
pub(crate) fn wait_for<T>(what: &str, mut have: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(have) = have() {
            return have;
        }
        assert!(start.elapsed() < PATIENCE, "{what}: not in time");
        // Another process brings it about: there is nothing to wait on.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Has the RabbitMQ of this name import definitions.
pub(crate) fn import(name: &str, definitions: &str) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("definitions");
    std::fs::write(&file, definitions).unwrap();
    let mut script = Command::new(root().join("scripts/brokers"));
    let status = script.args(["import", name]).arg(&file).status().unwrap();
    assert!(status.success(), "scripts/brokers import {name}: {status}");
}

/// Runs `scripts/brokers client …` with this standard input. Returns whether it succeeded, and its
/// output.
pub(crate) fn in_the_bed(args: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(root().join("scripts/brokers"))
        .arg("client")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program may exit before it has read everything.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// An app id that no other test uses, so that tests on one broker do not disturb each other.
pub(crate) fn fresh_app() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "t{}x{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// An observer that can be stopped, killed and started again under the same identity.
pub(crate) struct Observer {
    pub(crate) args: Vec<String>,
    pub(crate) state: TempDir,
    child: Option<Child>,
    /// The database it stores in, unless that is a file.
    database: Option<Database>,
    log: PathBuf,
    /// How long the log was when the process started.
    log_before: usize,
    /// The line of the log that says it is ready.
    pub(crate) ready: String,
}

pub(crate) fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chat21-observer"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OBSERVER_")) {
        command.env_remove(name);
    }
    command
}

/// Sends a signal by the shell's own `kill`: the program of that name need not be installed.
pub(crate) fn signal(pid: u32, name: &str) {
    let line = format!("kill -{name} {pid}");
    let status = Command::new("sh").args(["-c", &line]).status().unwrap();
    assert!(status.success(), "{line}");
}

/// The text from `ready: ` on, if this line of a log says that the observer is ready.
fn ready_line(line: &str) -> Option<String> {
    let line = line.trim_end_matches('\n');
    let begins = [" INFO ready: ", "\"message\":\"ready: "];
    let at = begins
        .iter()
        .find_map(|begin| Some(line.find(begin)? + begin.len()))?;
    Some(format!("ready: {}", &line[at..]))
}

/// The log of the connections, attempt by attempt.
pub(crate) const ATTEMPTS: &str = "info,chat21_observer::connections=debug,\
     chat21_observer::observer::session=debug";

impl Observer {
    /// Starts an observer that logs in as the service user and serves only `app`. Waits until it is
    /// ready.
    pub(crate) fn start(broker: Broker, app: &str, more: &[&str]) -> Self {
        let url = match broker == Broker::Rumqttd && more.contains(&"5") {
            true => format!("mqtt://localhost:{}", broker.port("MQTT5")),
            false => broker.url(more.contains(&"websocket")),
        };
        let more: Vec<&str> = more
            .iter()
            .copied()
            .filter(|arg| *arg != "websocket")
            .collect();
        let mut args = vec!["--broker", &url, "--username", "observer", "--app", app];
        args.extend(more);
        let mut observer = Self::prepare(&args);
        observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
        observer.wait_ready();
        observer
    }

    /// Only collects the settings: `spawn` starts the process.
    pub(crate) fn prepare(args: &[&str]) -> Self {
        let state = TempDir::new().unwrap();
        let log = state.path().join("log");
        let mut all: Vec<String> = vec!["run".into(), "--log-format".into(), "text".into()];
        if !args.contains(&"--http-listen") {
            all.extend(["--http-listen".into(), "none".into()]);
        }
        if !args.contains(&"--state-dir") {
            all.extend(["--state-dir".into(), state.path().to_str().unwrap().into()]);
        }
        // A load of many messages has few senders. The default rate is tested by itself.
        if !args.contains(&"--rate-per-minute") && !args.contains(&"--policy-file") {
            all.extend(["--rate-per-minute".into(), "none".into()]);
        }
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        // The suites run on PostgreSQL with BED_STORE=postgresql.
        let is_there = std::env::var("BED_STORE").is_ok_and(|store| store == "postgresql");
        let database = (is_there && !args.contains(&"--store")).then(Database::make);
        if let Some(database) = &database {
            all.extend(["--store".to_owned(), database.address()]);
            all.extend(["--store-password-file".to_owned(), database.password_file()]);
            // In slots with BED_SLOTS=N.
            if let Ok(slots) = std::env::var("BED_SLOTS") {
                all.extend(["--slots".to_owned(), slots]);
            }
        }
        Self {
            args: all,
            database,
            state,
            child: None,
            log,
            log_before: 0,
            ready: String::new(),
        }
    }

    pub(crate) fn spawn(&mut self, env: &[(&str, &str)]) {
        self.log_before = self.log().len();
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(&self.log)
            .unwrap();
        // A process over its file-size limit gets a signal. If it ignores the signal it gets an
        // error, as from a full disk.
        let mut command = Command::new("env");
        command
            .arg("--ignore-signal=XFSZ")
            .arg(env!("CARGO_BIN_EXE_chat21-observer"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OBSERVER_")) {
            command.env_remove(name);
        }
        let child = command
            .args(&self.args)
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn wait_ready(&mut self) {
        let start = Instant::now();
        self.ready = loop {
            let log = self.log();
            let mut lines = log.get(self.log_before..).unwrap_or_default().lines();
            if let Some(line) = lines.find_map(ready_line) {
                break line;
            }
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && start.elapsed() < PATIENCE,
                "the observer is not ready ({ended:?}); its log:\n{log}"
            );
            // Polling a file: there is nothing to wait on.
            std::thread::sleep(Duration::from_millis(10));
        };
    }

    /// The flags with which commands find its store.
    pub(crate) fn store_flags(&self) -> Vec<String> {
        match &self.database {
            Some(database) => vec![
                "--store".to_owned(),
                database.address(),
                "--store-password-file".to_owned(),
                database.password_file(),
            ],
            None => vec!["--state-dir".to_owned(), self.state_dir()],
        }
    }

    /// The state directory.
    pub(crate) fn state_dir(&self) -> String {
        self.state.path().to_str().unwrap().to_owned()
    }

    /// The store, opened read-only.
    pub(crate) fn store(&self) -> rusqlite::Connection {
        let path = self.state.path().join("observer.db");
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .unwrap()
    }

    /// A conversation's flags: is it new, is it archived.
    pub(crate) fn row(&self, inbox_of: &str, convers_with: &str) -> (bool, bool) {
        if let Some(database) = &self.database {
            return database.row(inbox_of, convers_with);
        }
        let text =
            "SELECT is_new, archived FROM conversation WHERE inbox_of = ? AND convers_with = ?";
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
        self.store()
            .query_row(text, [inbox_of, convers_with], row)
            .unwrap()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        // Without the escape characters of colours.
        text.chars().filter(|c| *c != '\u{1b}').collect()
    }

    pub(crate) fn wait_log(&self, wanted: &str) {
        self.wait_log_times(wanted, 1);
    }

    /// Waits until the log holds `wanted` this many times.
    pub(crate) fn wait_log_times(&self, wanted: &str, times: usize) {
        let start = Instant::now();
        while self.log().matches(wanted).count() < times {
            assert!(
                start.elapsed() < PATIENCE,
                "{wanted:?} is not in the log {times} times:\n{}",
                self.log()
            );
            // Polling a file: there is nothing to wait on.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The waits before each new attempt to connect, as logged.
    pub(crate) fn retries(&self) -> Vec<Duration> {
        let log = self.log();
        let fields = log.split("retry_in=").skip(1);
        let value = |field: &str| {
            let end = field.find(['\n', '"']).unwrap_or(field.len());
            humantime::parse_duration(field[..end].trim()).unwrap()
        };
        fields.map(value).collect()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal("HUP");
    }

    /// Sends SIGTERM. Returns the exit status and the whole log.
    pub(crate) fn stop(&mut self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.ended()
    }

    /// Whether the process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut().unwrap();
        child.try_wait().unwrap().is_some()
    }

    /// Waits until the process ends. Returns the exit status and the whole log.
    pub(crate) fn ended(&mut self) -> (ExitStatus, String) {
        let status = self.wait();
        (status, self.log())
    }

    fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("the observer does not stop; its log:\n{}", self.log());
            }
            // A child process has no blocking wait with a limit.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGSTOP: it does nothing until it is killed or thawed.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Kills the process with SIGKILL and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// Starts the process again after it was killed or stopped.
    pub(crate) fn restart(&mut self) {
        self.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
        self.wait_ready();
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("log of the observer:\n{}", self.log());
        }
    }
}
