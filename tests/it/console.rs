//! The console over plain HTTP: who is answered, with which headers, and what is never told.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app, service, wait_for};
use crate::http::{Answer, Reply, Server, call_host, free_port};
use crate::wire::Wire;

const LISTENERS: usize = 16;
const TEXT: &str = "words-that-nobody-else-reads";

/// An observer whose console listens, and alice.
struct Scene {
    observer: Observer,
    app: String,
    port: u16,
    alice: Wire,
}

impl Scene {
    fn start(broker: Broker, more: &[&str]) -> Self {
        let (app, port) = (fresh_app(), free_port());
        let listen = format!("127.0.0.1:{port}");
        let args = [&["--http-listen", &listen, "--name", &app], more].concat();
        let observer = Observer::start(broker, &app, &args);
        let login = broker.login(&app, "u01");
        let id = format!("{app}-alice");
        let alice = Wire::connect(broker.port("MQTT"), &id, &login, true).unwrap();
        Self {
            observer,
            app,
            port,
            alice,
        }
    }

    fn writes(&mut self, recipient: &str, payload: &str) {
        let app = &self.app;
        let topic = format!("apps/{app}/outgoing/users/u01/messages/{recipient}/outgoing");
        self.alice.publish_confirmed(topic, payload).unwrap();
    }

    fn get(&self, path: &str) -> Reply {
        call_host(self.port, "127.0.0.1", "GET", path, &[], "")
    }
}

/// A live list that is open.
struct Events(BufReader<TcpStream>);

impl Events {
    /// Asks for a live list. Returns the status, too.
    fn open(port: u16) -> (u16, Self) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        let mut events = Self(BufReader::new(stream));
        let status = events.line().unwrap();
        let status = status.split(' ').nth(1).unwrap().parse().unwrap();
        while !events.line().unwrap().is_empty() {}
        (status, events)
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// The next entry.
    fn entry(&mut self) -> Value {
        loop {
            let line = self.line().expect("it goes on");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap();
            }
        }
    }
}

#[test]
fn pages_have_strict_headers_and_only_reading_is_answered() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = Scene::start(broker, &[]);
    for (path, kind, cache) in [
        ("/", "text/html; charset=utf-8", "no-cache"),
        ("/console.css", "text/css; charset=utf-8", "no-cache"),
        ("/console.js", "text/javascript; charset=utf-8", "no-cache"),
        ("/figures.js", "text/javascript; charset=utf-8", "no-cache"),
        ("/icon.svg", "image/svg+xml", "no-cache"),
        ("/status", "application/json", "no-store"),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = call_host(scene.port, "localhost:1", method, path, &[], "");
            let header = |name: &str| reply.headers.get(name).map_or("", String::as_str);
            assert_eq!(reply.status, 200, "{path}");
            assert_eq!(
                (header("content-type"), header("cache-control")),
                (kind, cache)
            );
            let policy = header("content-security-policy");
            let (no_default, no_frame) = ("default-src 'none'", "frame-ancestors 'none'");
            assert!(
                policy.contains(no_default) && policy.contains(no_frame),
                "{policy}"
            );
            assert!(
                !policy.contains("unsafe") && !policy.contains('*'),
                "{policy}"
            );
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("cross-origin-resource-policy"), "same-origin");
            assert_eq!(header("access-control-allow-origin"), "");
            let length: usize = header("content-length").parse().unwrap();
            assert!(length > 100, "{path}: {length}");
            assert_eq!(reply.text.is_empty(), method == "HEAD", "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
            let reply = call_host(scene.port, "localhost", method, path, &[], "");
            assert_eq!((reply.status, &reply.text[..]), (405, "GET or HEAD only\n"));
        }
        // A page of another site whose name leads here.
        let rebound = call_host(scene.port, "evil.example", "GET", path, &[], "");
        assert_eq!(rebound.status, 421, "{path}");
        assert!(!rebound.text.contains("observer"), "{}", rebound.text);
    }
    let rebound = call_host(scene.port, "evil.example", "GET", "/events", &[], "");
    assert_eq!(rebound.status, 421);
    // Probes may come by any name.
    for path in ["/livez", "/readyz", "/metrics"] {
        let reply = call_host(scene.port, "pod-17", "GET", path, &[], "");
        assert_eq!(reply.status, 200, "{path}");
    }
    // The chat is the demo's.
    for path in [
        "/nothing",
        "/chat",
        "/chat21-client.js",
        "/mqtt",
        "//",
        "/../secret",
    ] {
        assert_eq!(scene.get(path).status, 404, "{path}");
    }
}

/// The types in place of the values, and the first of a list for all.
fn shape(value: &Value) -> Value {
    match value {
        Value::Null => json!("null"),
        Value::Bool(_) => json!("boolean"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("text"),
        Value::Array(all) => all.first().map_or(json!([]), |first| json!([shape(first)])),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| (name.clone(), shape(value)));
            Value::Object(members.collect())
        }
    }
}

#[test]
fn status_has_a_stable_form() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let server = Server::start(|_, _| Answer::Says(200, String::new()));
    let mut scene = Scene::start(broker, &["--webhook-endpoints", &server.url]);
    scene.writes("u02", r#"{"text":"hello"}"#);
    scene.writes("u02", "no JSON");
    let status = wait_for("figures", || {
        let status = scene.get("/status").json();
        let figures = &status["figures"];
        let all = [&figures["forwarded"], &figures["refused"]["not-json"]];
        let delivered = &figures["webhooks"][0]["delivered"];
        (all.iter().all(|count| **count == 1) && *delivered != 0).then_some(status)
    });
    assert_eq!(status["ready"], true);
    assert_eq!(status["broker"]["address"], broker.url(false));
    assert_eq!(status["broker"]["session"], "new");
    let shape = serde_json::to_string_pretty(&shape(&status)).unwrap();
    insta::assert_snapshot!("status", shape);
    let settings = status["settings"].as_array().unwrap();
    let of = |name: &str| {
        settings
            .iter()
            .find(|one| one["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("password")["value"], "***");
    assert_eq!(of("password")["place"], "OBSERVER_PASSWORD");
    assert_eq!(of("app")["value"], scene.app.as_str());
    assert_eq!(of("window")["origin"], "default");
}

#[test]
fn the_live_list_shows_what_becomes_of_messages_to_few_and_ends_with_the_observer() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let mut scene = Scene::start(broker, &[]);
    let (status, mut events) = Events::open(scene.port);
    assert_eq!(status, 200);
    let mut operator = {
        let id = format!("op-{}", fresh_app());
        Wire::connect(broker.port("MQTT"), &id, &service(), true).unwrap()
    };
    let traces = format!("observer/{}/trace", scene.app);
    operator.subscribe(&[&format!("{traces}/+")]).unwrap();
    scene.writes("u02", &json!({"text": TEXT}).to_string());
    scene.writes("u02", TEXT);
    let (one, other) = (events.entry(), events.entry());
    let pick = |outcome| {
        [&one, &other]
            .into_iter()
            .find(|told| told["outcome"] == outcome)
    };
    let forwarded = pick("forwarded").unwrap();
    assert_eq!(forwarded["sender"], "u01", "{forwarded}");
    assert_eq!(
        (&forwarded["recipient"], &forwarded["app"]),
        (&json!("u02"), &json!(scene.app))
    );
    let refused = pick("refused").unwrap();
    assert_eq!(refused["reason"], "not-json");
    assert!(
        refused["hint"].as_str().unwrap().contains("JSON object"),
        "{refused}"
    );
    assert!(!format!("{one}{other}").contains(TEXT));

    let mut more: Vec<Events> = vec![];
    for _ in 1..LISTENERS {
        let (status, events) = Events::open(scene.port);
        assert_eq!(status, 200);
        more.push(events);
    }
    assert_eq!(Events::open(scene.port).0, 503);
    drop(more.pop());
    wait_for("room for another", || {
        let (status, events) = Events::open(scene.port);
        (status == 200).then(|| more.push(events))
    });
    // Nobody but one reads. The others hold nothing up.
    for n in 0..2_000 {
        scene.writes("u02", &json!({"text": n}).to_string());
    }
    wait_for("all of them", || {
        let figures = scene.get("/status").json()["figures"].clone();
        (figures["forwarded"] == 2_001).then_some(())
    });
    assert_eq!(scene.get("/livez").status, 200);
    assert!(scene.alice.message(std::time::Duration::ZERO).is_none());
    // What is shown here is not published.
    let end = format!("{traces}/end");
    operator.publish_confirmed(&end, "").unwrap();
    assert_eq!(operator.message(PATIENCE).unwrap().topic(), end);

    let (ended, _) = scene.observer.stop();
    assert!(ended.success());
    for mut events in more.into_iter().chain([events]) {
        while events.line().is_some() {}
    }
}

#[test]
fn settings_and_messages_are_shown_elsewhere_only_if_asked_for() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    for (more, page, events) in [
        (&[][..], 200, 403),
        (&["--console", "on"], 200, 200),
        (&["--console", "off"], 404, 404),
    ] {
        let (app, port) = (fresh_app(), free_port());
        let listen = format!("0.0.0.0:{port}");
        let _observer =
            Observer::start(broker, &app, &[&["--http-listen", &listen], more].concat());
        // The name of a service, as a proxy or a browser of the operator's network has it.
        let get = |path| call_host(port, "observer.example", "GET", path, &[], "");
        assert_eq!(get("/").status, page, "{more:?}");
        let status = get("/status");
        assert_eq!(status.status, page, "{more:?}");
        if page == 200 {
            assert_eq!(
                status.json()["settings"].is_array(),
                events == 200,
                "{more:?}"
            );
            assert_eq!(status.json()["figures"]["forwarded"], 0);
        }
        assert_eq!(Events::open(port).0, events, "{more:?}");
        assert_eq!(get("/readyz").status, 200);
    }
}

#[test]
fn nothing_of_it_tells_a_secret() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (key, hook) = (
        "key-51d0b8ea-of-more-than-thirty-two-bytes",
        "hook-secret-77aa01-long",
    );
    let (key_file, hook_file) = (file("key", key), file("hook", hook));
    let in_url = "urlpw-0c9d22";
    let server = Server::start(|_, _| Answer::Says(200, String::new()));
    let secret = |url: &str| {
        format!(
            "{}?key={in_url}",
            url.replace("//", &format!("//u:{in_url}@"))
        )
    };
    let (hook_url, policy) = (secret(&server.url), secret(&server.url));
    for broker in [Broker::Mosquitto, Broker::Rabbit4] {
        let _shared = broker.shared();
        let mut scene = Scene::start(
            broker,
            &[
                "--api-listen",
                "127.0.0.1:0",
                "--api-jwt-key-file",
                &key_file,
                "--webhook-secret-file",
                &hook_file,
                "--webhook-endpoints",
                &hook_url,
                "--policy-url",
                &policy,
                "--policy-failure",
                "open",
            ],
        );
        let (_, mut events) = Events::open(scene.port);
        scene.writes("u02", &json!({"text": TEXT}).to_string());
        let mut told = events.entry().to_string();
        for path in ["/", "/status", "/metrics", "/console.js", "/readyz"] {
            let reply = scene.get(path);
            assert_eq!(reply.status, 200, "{path}");
            told += &reply.text;
        }
        assert!(
            told.contains("webhook-secret-file") && told.contains(&server.url[7..]),
            "{told}"
        );
        let client_id = format!("{}/{}.client-id", scene.observer.state_dir(), scene.app);
        let client_id = std::fs::read_to_string(Path::new(&client_id)).unwrap();
        for secret in ["observerpw", key, hook, in_url, client_id.trim(), TEXT] {
            assert!(!told.contains(secret), "{secret}: {told}");
        }
    }
}
