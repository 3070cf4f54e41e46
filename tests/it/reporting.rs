//! What the observer reports about itself: metrics, health, status, stats, trace, `watch`, the log
//! level, the service manager.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{
    Broker, Observer, PATIENCE, binary, fresh_app, in_the_bed, lines_of, root, service, wait_for,
};
use crate::http::{free_port, get};
use crate::wire::Wire;

/// An observer with a unique name, and so with its own status and control topics.
struct Named {
    broker: Broker,
    name: String,
    app: String,
    port: u16,
    observer: Observer,
}

impl Named {
    fn start(broker: Broker, more: &[&str]) -> Self {
        let (app, name, port) = (fresh_app(), format!("n{}", fresh_app()), free_port());
        let listen = format!("127.0.0.1:{port}");
        let mut args = vec!["--name", &name, "--http-listen", &listen];
        args.extend(more);
        let observer = Observer::start(broker, &app, &args);
        Self {
            broker,
            name,
            app,
            port,
            observer,
        }
    }

    /// The service user, subscribed to the observer's own topics.
    fn operator(&self) -> Wire {
        let id = format!("op-{}", fresh_app());
        let mut wire = Wire::connect(self.broker.port("MQTT"), &id, &service(), true).unwrap();
        let topics = format!("observer/{}/", self.name);
        // Exact topics: RabbitMQ delivers retained messages for no wildcard filter.
        let filters = ["status", "stats", "trace/+"].map(|last| format!("{topics}{last}"));
        let codes = wire
            .subscribe(&filters.each_ref().map(String::as_str))
            .unwrap();
        assert!(codes.iter().all(|code| *code == 1), "{codes:?}");
        wire
    }

    fn control(&self, operator: &mut Wire, what: &str, payload: &str) {
        let topic = format!("observer/{}/control/{what}", self.name);
        operator.publish_confirmed(topic, payload).unwrap();
    }

    fn writes(&self, wire: &mut Wire, sender: &str, recipient: &str, payload: &str) {
        let topic = format!(
            "apps/{}/outgoing/users/{sender}/messages/{recipient}/outgoing",
            self.app
        );
        wire.publish_confirmed(topic, payload).unwrap();
    }

    fn metrics(&self) -> String {
        let (status, text) = get(self.port, "/metrics").unwrap();
        assert_eq!(status, 200);
        text
    }

    /// Waits for a line of `/metrics`.
    fn counts(&self, line: &str) {
        let line = format!("{line}\n");
        wait_for(&line, || self.metrics().contains(&line).then_some(()));
    }

    fn ready(&self) -> Option<bool> {
        get(self.port, "/readyz").map(|(status, _)| status == 200)
    }
}

/// The next message on a topic with this ending, as JSON.
fn said(wire: &mut Wire, topic: &str) -> Value {
    loop {
        let message = wire.message(PATIENCE).unwrap_or_else(|| panic!("{topic}"));
        if message.topic().ends_with(topic) {
            return message.json();
        }
    }
}

/// Reads statuses until one has this value: the observer publishes its status again a few seconds
/// after it has connected, so one without news may come at any time.
fn await_status(operator: &mut Wire, member: &str, value: Value) -> Value {
    loop {
        let status = said(operator, "/status");
        if status[member] == value {
            return status;
        }
    }
}

/// The names and labels of all series.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap().0.to_owned())
        .collect()
}

#[test]
fn metrics_count_what_happens_in_words_that_prometheus_reads() {
    let _shared = Broker::Mosquitto.shared();
    let observer = Named::start(
        Broker::Mosquitto,
        &["--webhook-endpoints", "http://localhost:9/hook"],
    );
    let mut operator = observer.operator();
    observer.writes(&mut operator, "u00", "u01", r#"{"text":"hi"}"#);
    observer.writes(&mut operator, "u00", "u01", "no json");
    for line in [
        r#"observer_messages_received_total{kind="message",qos="1"} 2"#,
        "observer_messages_forwarded_total 1",
        r#"observer_messages_refused_total{reason="not-json"} 1"#,
        "observer_forward_seconds_count 1",
        "observer_ready 1",
        "observer_inflight_messages 0",
        "observer_oldest_unacknowledged_seconds 0",
        r#"observer_broker_connected{link="session"} 1"#,
        r#"observer_broker_connected{link="publisher"} 3"#,
        "observer_session_present 0",
        r#"observer_webhook_queue_events{endpoint="http://localhost:9/hook"} 2"#,
    ] {
        observer.counts(line);
    }
    let text = observer.metrics();
    let (sound, faults) = in_the_bed(&["promtool", "check", "metrics"], &text);
    assert!(sound, "{faults}");
    // The names alone: the values differ between runs.
    let numbers = text.lines().map(|line| match line.rsplit_once(' ') {
        Some((series, _)) if !line.starts_with('#') => format!("{series} N"),
        _ => line.to_owned(),
    });
    let text: Vec<String> = numbers.collect();
    insta::with_settings!({filters => vec![
        (r#"commit="[^"]*",version="[^"]*""#, r#"commit="…",version="…""#),
    ]}, {
        insta::assert_snapshot!("metrics", text.join("\n"));
    });
}

#[test]
fn the_number_of_series_does_not_depend_on_the_number_of_users() {
    let _shared = Broker::Mosquitto.shared();
    let args = ["--store", "none", "--rate-per-minute", "1000"];
    let observer = Named::start(Broker::Mosquitto, &args);
    let mut operator = observer.operator();
    observer.writes(&mut operator, "u00", "u01", "{}");
    observer.counts("observer_messages_forwarded_total 1");
    let before = series(&observer.metrics());
    let users = 200_000;
    let name = format!("crowd-{}", observer.app);
    let mut crowd = Wire::connect(observer.broker.port("MQTT"), &name, &service(), true).unwrap();
    for user in 0..users {
        // Some of them are refused.
        let payload = if user % 10 == 0 { "no json" } else { "{}" };
        let topic = format!(
            "apps/{}/outgoing/users/user-{user}/messages/peer-{user}/outgoing",
            observer.app
        );
        crowd.publish(topic, payload).unwrap();
        // No more may be under way than there are packet identifiers.
        if user % 1_000 == 999 {
            let start = Instant::now();
            while crowd.confirmed.len() < 1_000 {
                assert!(start.elapsed() < PATIENCE);
                crowd.step(Duration::from_secs(1)).unwrap();
            }
            crowd.confirmed.clear();
        }
    }
    let done = || {
        let text = observer.metrics();
        let number = |name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        let forwarded = number("observer_messages_forwarded_total ");
        let refused = number(r#"observer_messages_refused_total{reason="not-json"}"#);
        forwarded + refused
    };
    // Slow is fine as long as the count rises.
    let (mut last, mut since) = (done(), Instant::now());
    while last < users + 1 {
        assert!(since.elapsed() < PATIENCE, "it stands at {last}");
        std::thread::sleep(Duration::from_millis(100));
        let now = done();
        if now > last {
            (last, since) = (now, Instant::now());
        }
    }
    let after = series(&observer.metrics());
    assert_eq!(before, after);
    println!("{} series after {users} users", after.len());
}

/// Waits until `/readyz` says this, and prints how long it took.
fn becomes(observer: &Named, ready: bool, what: &str) {
    let start = Instant::now();
    wait_for(what, || (observer.ready() == Some(ready)).then_some(()));
    println!("{what}: ready {ready} after {:?}", start.elapsed());
}

#[test]
fn readiness_follows_the_broker() {
    let broker = Broker::Mosquitto;
    let _exclusive = broker.exclusive();
    let observer = Named::start(broker, &[]);
    assert_eq!(observer.ready(), Some(true));
    broker.control("stop");
    becomes(&observer, false, "broker gone");
    // A publisher may notice first.
    wait_for("that the session is not there", || {
        let (_, why) = get(observer.port, "/readyz").unwrap();
        why.starts_with("not ready\nsession: ").then_some(())
    });
    broker.control("start");
    becomes(&observer, true, "broker back");
}

#[test]
fn readiness_follows_the_store_though_nothing_is_written() {
    let _shared = Broker::Mosquitto.shared();
    let observer = Named::start(Broker::Mosquitto, &[]);
    assert_eq!(observer.ready(), Some(true));
    let path = format!("{}/{}.db", observer.observer.state_dir(), observer.name);
    let other = rusqlite::Connection::open(path).unwrap();
    let mut operator = observer.operator();
    await_status(&mut operator, "ready", json!(true));
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    becomes(&observer, false, "store locked");
    let status = await_status(&mut operator, "ready", json!(false));
    assert_eq!(
        (&status["online"], &status["ready"], &status["faults"]),
        (
            &json!(true),
            &json!(false),
            &json!(["store: database is locked"])
        )
    );
    other.execute_batch("ROLLBACK").unwrap();
    becomes(&observer, true, "store free");
    await_status(&mut operator, "ready", json!(true));
    assert!(observer.metrics().contains("observer_store_failures_total"));
}

#[test]
fn readiness_follows_what_the_broker_grants() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let (app, port) = (fresh_app(), free_port());
    let state = tempfile::TempDir::new().unwrap();
    let token = state.path().join("token");
    // A token that may write everything and read nothing.
    std::fs::write(&token, crate::bed::deaf_token()).unwrap();
    let (url, listen) = (broker.url(false), format!("127.0.0.1:{port}"));
    let mut observer = Observer::prepare(&[
        "--broker",
        &url,
        "--token-file",
        token.to_str().unwrap(),
        "--app",
        &app,
        "--http-listen",
        &listen,
    ]);
    observer.spawn(&[]);
    wait_for("an answer", || get(port, "/readyz"));
    observer.wait_log("not connected");
    let (status, why) = get(port, "/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(why.contains("session: "), "{why}");
    std::fs::write(&token, crate::bed::service_token(3600)).unwrap();
    observer.wait_ready();
    assert_eq!(get(port, "/readyz").unwrap().0, 200);
}

fn status_is_kept(broker: Broker) {
    let _shared = broker.shared();
    let mut observer = Named::start(broker, &["--stats-interval", "1s"]);
    let mut operator = observer.operator();
    let mut status = await_status(&mut operator, "ready", json!(true));
    let started = status.as_object_mut().unwrap().remove("started_at");
    assert!(started.unwrap().as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(
        status,
        json!({
            "online": true, "ready": true, "version": env!("CARGO_PKG_VERSION"), "trace": false,
            "log_level": "info",
        })
    );
    let stats = said(&mut operator, "/stats");
    assert_eq!(
        (&stats["forwarded"], &stats["refused"]),
        (&json!(0), &json!({}))
    );
    // After a kill the broker publishes the will.
    observer.observer.kill();
    assert_eq!(
        await_status(&mut operator, "online", json!(false)),
        json!({"online": false, "ready": false, "trace": false})
    );
    observer.observer.restart();
    await_status(&mut operator, "online", json!(true));
    // On a stop the observer publishes it; later subscribers get it, too.
    observer.observer.stop();
    await_status(&mut operator, "online", json!(false));
    assert_eq!(
        said(&mut observer.operator(), "/status")["online"],
        json!(false)
    );
}

#[test]
fn status_is_kept_on_mosquitto() {
    status_is_kept(Broker::Mosquitto);
}

#[test]
fn status_is_kept_on_rabbitmq_3() {
    status_is_kept(Broker::Rabbit3);
}

#[test]
fn status_is_kept_on_rabbitmq_4() {
    status_is_kept(Broker::Rabbit4);
}

#[test]
fn tracing_and_the_log_level_change_while_it_runs() {
    let _shared = Broker::Rabbit4.shared();
    let observer = Named::start(Broker::Rabbit4, &["--stats-interval", "none"]);
    let mut operator = observer.operator();
    await_status(&mut operator, "trace", json!(false));
    observer.writes(&mut operator, "u00", "u01", r#"{"text":"unseen"}"#);
    observer.control(&mut operator, "trace", "on");
    await_status(&mut operator, "trace", json!(true));
    observer.writes(&mut operator, "u00", "u01", r#"{"text":"a secret"}"#);
    let mut line = said(&mut operator, "/trace/forwarded");
    assert!(!line.to_string().contains("secret"), "{line}");
    let app = &observer.app;
    let fields = line.as_object_mut().unwrap();
    for (name, least) in [("at", 1_700_000_000_000), ("micros", 1)] {
        assert!(fields.remove(name).unwrap().as_u64().unwrap() >= least);
    }
    assert!(fields.remove("message_id").unwrap().is_string());
    assert_eq!(
        line,
        json!({
            "outcome": "forwarded", "kind": "message", "layout": "chat21", "app": app,
            "sender": "u00", "recipient": "u01", "publishes": 2, "payload_bytes": 19,
            "topic": format!("apps/{app}/outgoing/users/u00/messages/u01/outgoing"),
            "to": [
                format!("apps/{app}/users/u00/messages/u01/clientadded"),
                format!("apps/{app}/users/u01/messages/u00/clientadded"),
            ],
        })
    );
    observer.writes(&mut operator, "u00", "u01", "no json");
    let line = said(&mut operator, "/trace/refused");
    assert_eq!(
        (&line["reason"], &line["publishes"]),
        (&json!("not-json"), &json!(0))
    );
    observer.control(&mut operator, "trace", "off");
    await_status(&mut operator, "trace", json!(false));

    assert!(!observer.observer.log().contains("DEBUG"));
    observer.control(&mut operator, "log-level", "VERBOSE");
    await_status(&mut operator, "log_level", json!("VERBOSE"));
    observer.writes(&mut operator, "u00", "u01", "{}");
    observer.observer.wait_log("outcome=\"forwarded\"");
    observer.control(&mut operator, "log-level", "loud");
    observer.observer.wait_log("\"loud\" is not a level");
    observer.control(&mut operator, "reboot", "now");
    observer
        .observer
        .wait_log("is not a command: the commands are trace, log-level");
}

/// `watch`, and the lines it prints.
struct Watch {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: mpsc::Receiver<String>,
}

impl Watch {
    fn start(observer: &Named, more: &[&str]) -> Self {
        let mut child = binary()
            .args([
                "watch",
                "--broker",
                &observer.broker.url(false),
                "--name",
                &observer.name,
            ])
            .args(["--username", "observer"])
            .args(more)
            .env("OBSERVER_PASSWORD", "observerpw")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, said) = (
            lines_of(child.stdout.take().unwrap()),
            lines_of(child.stderr.take().unwrap()),
        );
        Self { child, lines, said }
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn watch_shows_messages_as_they_pass_and_has_the_observer_trace_for_as_long() {
    let _shared = Broker::Mosquitto.shared();
    let mut observer = Named::start(Broker::Mosquitto, &[]);
    let mut operator = observer.operator();
    let status = await_status(&mut operator, "ready", json!(true));
    assert_eq!(status["trace"], json!(false));
    let all = Watch::start(&observer, &[]);
    let some = Watch::start(
        &observer,
        &["--user", "u02", "--outcome", "refused", "--json"],
    );
    let payloads = Watch::start(&observer, &["--user", "u01", "--payload"]);
    for watch in [&all, &some, &payloads] {
        assert_eq!(
            watch.said.recv_timeout(PATIENCE).unwrap(),
            format!(
                "{} {} on {}: online, ready",
                observer.name,
                env!("CARGO_PKG_VERSION"),
                observer.broker.url(false)
            )
        );
    }
    await_status(&mut operator, "trace", json!(true));
    let app = observer.app.clone();
    let own = format!("apps/{app}/users/u02");
    let outgoing =
        |recipient| format!("apps/{app}/outgoing/users/u00/messages/{recipient}/outgoing");
    let group = r#"{"text":"hi","group":{"members":{"u01":1,"u02":1}}}"#;
    let mut lines = vec![];
    for (topic, payload) in [
        (outgoing("u01"), r#"{"text":"hi"}"#),
        (outgoing("u02"), "no json"),
        (outgoing("group-1"), group),
        (format!("{own}/presence/phone"), r#"{"connected":true}"#),
        (outgoing("a*b"), "{}"),
    ] {
        operator.publish_confirmed(topic, payload).unwrap();
        lines.push(all.line());
    }
    insta::with_settings!({filters => vec![
        (r"\d\d:\d\d:\d\d\.\d\d\d", "hh:mm:ss.mmm"),
        // As wide as the app's name leaves it.
        (r" +[0-9.]+ m?s", " N ms"),
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "MESSAGE-ID"),
        (app.as_str(), "APP"),
    ]}, {
        insta::assert_snapshot!("watch", lines.join("\n"));
    });
    let payloads = [payloads.line(), payloads.line()].join("\n");
    assert!(
        payloads.contains(&format!("{}  {{\"text\":\"hi\"}}", outgoing("u01"))),
        "{payloads}"
    );
    let line: Value = serde_json::from_str(&some.line()).unwrap();
    assert_eq!(
        (&line["recipient"], &line["reason"]),
        (&json!("u02"), &json!("not-json"))
    );
    // `watch` asks a restarted observer for the trace again.
    observer.observer.kill_and_restart();
    await_status(&mut operator, "online", json!(false));
    await_status(&mut operator, "trace", json!(true));
    let again = format!("apps/{app}/outgoing/users/u00/messages/u01/outgoing");
    operator
        .publish_confirmed(again, r#"{"text":"again"}"#)
        .unwrap();
    assert!(all.line().contains("u00 → u01"));
    for watch in [&all, &some] {
        while let Ok(said) = watch.said.recv_timeout(PATIENCE) {
            if said.ends_with(": online, ready") {
                break;
            }
        }
    }
    observer.observer.stop();
    for watch in [&all, &some] {
        let said = watch.said.recv_timeout(PATIENCE).unwrap();
        assert!(
            said.ends_with(": offline: what users write waits at the broker"),
            "{said}"
        );
    }
    assert!(some.lines.try_recv().is_err(), "nothing else was for it");
}

#[test]
fn watch_says_when_there_is_nobody_to_watch() {
    let _shared = Broker::Mosquitto.shared();
    let output = binary()
        .args([
            "watch",
            "--broker",
            &Broker::Mosquitto.url(false),
            "--username",
            "observer",
        ])
        .env("OBSERVER_PASSWORD", "wrong")
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said.contains("refuses user \"observer\": wrong password? (from OBSERVER_PASSWORD)"),
        "{said}"
    );
    let mut child = binary()
        .args([
            "watch",
            "--broker",
            &Broker::Mosquitto.url(false),
            "--username",
            "observer",
            "--name",
            "nobody-has-this",
        ])
        .env("OBSERVER_PASSWORD", "observerpw")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = lines_of(child.stderr.take().unwrap());
    let said = said.recv_timeout(PATIENCE).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(
        said.starts_with(
            "no observer called \"nobody-has-this\" has published a status at mqtt://"
        ),
        "{said}"
    );
}

#[test]
fn the_service_manager_is_told_how_it_is() {
    let _shared = Broker::Mosquitto.shared();
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut text = [0; 1024];
        let length = socket.recv(&mut text).unwrap();
        String::from_utf8(text[..length].to_vec()).unwrap()
    };
    let until = |wanted: &str| {
        let mut all = vec![];
        while all
            .last()
            .is_none_or(|last: &String| !last.contains(wanted))
        {
            all.push(heard());
        }
        all
    };
    let (app, url) = (fresh_app(), Broker::Mosquitto.url(false));
    let mut observer =
        Observer::prepare(&["--broker", &url, "--username", "observer", "--app", &app]);
    let socket = path.to_str().unwrap();
    observer.spawn(&[
        ("OBSERVER_PASSWORD", "observerpw"),
        ("NOTIFY_SOCKET", socket),
        ("WATCHDOG_USEC", "1500000"),
    ]);
    let before = until("READY=1");
    assert!(
        before[0].starts_with("STATUS=") && before.iter().any(|text| text.contains("STATUS=ready")),
        "{before:?}"
    );
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    observer.stop();
    let last = until("STOPPING=1");
    assert!(last.last().unwrap().contains("STATUS=stopping"), "{last:?}");
}

#[test]
fn a_broker_that_is_away_does_not_keep_the_service_from_starting() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let url = format!("mqtt://127.0.0.1:{}", free_port());
    let mut observer = Observer::prepare(&["--broker", &url]);
    observer.spawn(&[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let mut heard = String::new();
    while !heard.contains("READY=1") {
        let mut text = [0; 1024];
        let length = socket.recv(&mut text).unwrap();
        heard.push_str(str::from_utf8(&text[..length]).unwrap());
    }
    assert!(heard.contains("STATUS=not ready: session: "), "{heard}");
    assert!(!heard.contains("STATUS=ready"), "{heard}");
}

/// Words that look like names of metrics.
fn named_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("observer_") || word.starts_with("process_"));
    names.map(str::to_owned).collect()
}

/// RabbitMQ turns the "." of a client identifier into a level break, so nobody would come online.
#[test]
fn presence_of_a_client_with_a_dot_is_refused_where_it_becomes_a_level_break() {
    for broker in [Broker::Rabbit3, Broker::Rabbit4] {
        let _shared = broker.shared();
        let observer = Named::start(broker, &[]);
        let mut operator = observer.operator();
        let topic = format!("apps/{}/users/u00/presence/u00.phone", observer.app);
        operator
            .publish_confirmed(topic, r#"{"connected":true}"#)
            .unwrap();
        observer.counts(r#"observer_messages_refused_total{reason="unroutable"} 1"#);
    }
}

#[test]
fn dashboard_and_alerts_name_metrics_that_there_are() {
    let _shared = Broker::Mosquitto.shared();
    let observer = Named::start(
        Broker::Mosquitto,
        &["--webhook-endpoints", "http://localhost:9/hook"],
    );
    let there = named_in(&observer.metrics());
    let file =
        |name: &str| std::fs::read_to_string(root().join("scripts/grafana").join(name)).unwrap();
    let (dashboard, alerts) = (file("dashboard.json"), file("alerts.yaml"));
    let parsed: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = parsed["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(ids.len(), panels.len());
    let mut rules = vec![];
    for panel in panels {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().unwrap();
            // With Grafana's variables filled in.
            let expression = expression
                .replace("$__rate_interval", "5m")
                .replace("$job", ".*")
                .replace("$instance", ".*");
            rules.push(json!({"record": format!("x:{}", rules.len()), "expr": expression}));
        }
    }
    assert!(rules.len() > 30);
    let mut named = named_in(&dashboard);
    named.extend(named_in(&alerts));
    named.remove("observer_");
    let missing: Vec<_> = named.difference(&there).collect();
    assert!(missing.is_empty(), "{missing:?} are no metrics");
    // Every metric is used by the dashboard or an alert.
    let families: BTreeSet<String> = observer
        .metrics()
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .filter(|name| name.starts_with("observer_"))
        .map(str::to_owned)
        .collect();
    let unused: Vec<_> = families
        .iter()
        .filter(|family| !named.iter().any(|name| name.starts_with(&***family)))
        .collect();
    assert!(unused.is_empty(), "{unused:?} are nowhere to be seen");
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]}).to_string();
    for rules in [&rules, &alerts] {
        let check = r#"cat >"$0" && promtool check rules "$0"; code=$?; rm "$0"; exit $code"#;
        let file = format!("/tmp/rules-{}.yaml", fresh_app());
        let (sound, said) = in_the_bed(&["sh", "-c", check, &file], rules);
        assert!(sound && said.contains("SUCCESS"), "{said}");
    }
}

/// Replaces what differs between runs.
fn filters() -> Vec<(&'static str, &'static str)> {
    vec![
        (r"[0-9a-f]{8}-[0-9a-f-]{27}", "MESSAGE-ID"),
        (r"17\d{11}", "TIME"),
        (r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"check-[0-9a-f]{8}\b", "check-APP"),
        (r"after [0-9.]+.s", "after N"),
        // The broker's window, which may be its own.
        (r"takes \d+ publishes", "takes N publishes"),
        // A machine that is busy may be slow enough for a note.
        (r"(?m)^. latency .*$", "? latency        N"),
        (r"localhost:\d+", "localhost:PORT"),
        (r"/tmp/[^ ]*/observer.db", "STATE/observer.db"),
    ]
}

#[test]
fn explain_answers_programs_and_people() {
    let state = tempfile::TempDir::new().unwrap();
    let explain = |args: &[&str]| {
        let output = binary()
            .arg("explain")
            .args(args)
            .args(["--state-dir", state.path().to_str().unwrap()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let outgoing = "apps/tilechat/outgoing/users/alice/messages/bob/outgoing";
    let hook = ["--webhook-endpoints", "http://localhost/hook"];
    insta::with_settings!({filters => filters()}, {
        let forwarded = explain(&["--json", outgoing, hook[0], hook[1]]);
        insta::assert_snapshot!("explain-forwarded", forwarded);
        let refused = explain(&["--json", outgoing, "--payload", "[]"]);
        insta::assert_snapshot!("explain-refused", refused);
        let archive = "apps/tilechat/users/bob/conversations/alice/archive";
        insta::assert_snapshot!("explain-text", explain(&[archive, hook[0], hook[1]]));
    });
}

#[test]
fn check_prints_a_table_of_what_it_has_tried() {
    let _shared = Broker::Mosquitto.shared();
    let state = tempfile::TempDir::new().unwrap();
    let output = binary()
        .args([
            "check",
            "--broker",
            &Broker::Mosquitto.url(false),
            "--username",
            "observer",
        ])
        .args(["--app", "shop", "--layouts", "chat21"])
        .args(["--state-dir", state.path().to_str().unwrap()])
        .env("OBSERVER_PASSWORD", "observerpw")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    insta::with_settings!({filters => filters()}, {
        insta::assert_snapshot!("check", String::from_utf8(output.stdout).unwrap());
    });
}
