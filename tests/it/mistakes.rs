//! What a person is told who has made a mistake about the broker: target, cause and remedy, each
//! against a real server of that kind.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};
use serde_json::Value;

use crate::bed::{Broker, Observer, binary, fresh_app, service_token, var};
use crate::http::{Answer, Server};
use crate::load::Path;
use crate::wire::{PATIENCE, Wire};

const BROKERS: [Broker; 3] = [Broker::Rabbit3, Broker::Rabbit4, Broker::Mosquitto];
const LOGIN: &[(&str, &str)] = &[("OBSERVER_PASSWORD", "observerpw")];

/// What `check` says of why it goes no further.
fn told(args: &[&str], env: &[(&str, &str)]) -> String {
    let output = binary()
        .args(["check", "--json", "--store", "none"])
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let steps: Vec<Value> = serde_json::from_str(&text)
        .unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
    let last = steps.last().unwrap();
    assert_eq!(
        (output.status.code(), &last["step"], &last["outcome"]),
        (Some(1), &"login".into(), &"failed".into()),
        "{text}"
    );
    last["detail"].as_str().unwrap().to_owned()
}

/// The same in both versions of MQTT.
fn told_by_both(args: &[&str], env: &[(&str, &str)]) -> String {
    let [five, three] = ["5", "3.1.1"].map(|version| {
        let args = [args, &["--protocol", version]].concat();
        told(&args, env)
    });
    assert_eq!(five, three, "{args:?}");
    five
}

/// A port on which nobody listens.
pub(crate) fn closed_port() -> u16 {
    crate::http::free_port()
}

#[test]
fn nobody_listens() {
    let url = format!("mqtt://localhost:{}", closed_port());
    let want = format!("{url}: connection refused; is a broker listening there?");
    assert_eq!(told_by_both(&["--broker", &url], &[]), want);
    // The same words, wherever they are needed.
    let mut observer = Observer::prepare(&["--broker", &url]);
    observer.spawn(&[]);
    observer.wait_log(&want);
    drop(observer);
    let mut watch = binary();
    watch.args(["watch", "--broker", &url]);
    assert_first_line(watch, &format!("not connected: {want} (again in "));
}

/// Starts a command that goes on trying, and looks at its first line.
fn assert_first_line(mut command: std::process::Command, want: &str) {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let read = BufReader::new(child.stderr.take().unwrap()).read_line(&mut line);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(read.is_ok() && line.starts_with(want), "{line:?}");
}

#[test]
fn a_host_that_is_not_there() {
    let said = told(&["--broker", "mqtt://broker.invalid"], &[]);
    // The reason is the system's.
    let (begin, end) = (
        "mqtt://broker.invalid:1883: the name broker.invalid cannot be looked up (",
        "); is it spelt right?",
    );
    assert!(said.starts_with(begin) && said.ends_with(end), "{said}");
}

#[test]
fn a_login_that_the_broker_refuses() {
    for broker in BROKERS {
        let _shared = broker.shared();
        let url = broker.url(false);
        let (plain, named) = (
            ["--broker", &url],
            ["--broker", &url, "--username", "observer"],
        );
        assert_eq!(
            told(&plain, &[]),
            format!(
                "{url} refuses a client without a login: \
                 give --username and OBSERVER_PASSWORD, or OBSERVER_TOKEN"
            )
        );
        assert_eq!(
            told(&named, &[]),
            format!(
                "{url} refuses user \"observer\": \
                 no password was given (OBSERVER_PASSWORD or --password-file)"
            )
        );
        assert_eq!(
            told(&named, &[("OBSERVER_PASSWORD", "wrong")]),
            format!("{url} refuses user \"observer\": wrong password? (from OBSERVER_PASSWORD)")
        );
        let dir = tempfile::TempDir::new().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "wrong\n").unwrap();
        let file = file.to_str().unwrap();
        let named = [&named[..], &["--password-file", file]].concat();
        assert_eq!(
            told(&named, &[]),
            format!("{url} refuses user \"observer\": wrong password? (from the file {file})")
        );
    }
}

#[test]
fn the_observer_says_the_same_of_its_login_as_check() {
    for broker in BROKERS {
        let _shared = broker.shared();
        let url = broker.url(false);
        let mut observer = Observer::prepare(&["--broker", &url, "--username", "observer"]);
        observer.spawn(&[("OBSERVER_PASSWORD", "wrong")]);
        observer.wait_log(&format!(
            "{url} refuses user \"observer\": wrong password? (from OBSERVER_PASSWORD)"
        ));
    }
}

#[test]
fn a_token_that_the_broker_refuses() {
    for broker in [Broker::Rabbit3, Broker::Rabbit4] {
        let _shared = broker.shared();
        let url = broker.url(false);
        let (expired, good) = (service_token(-3600), service_token(3600));
        let said = told(&["--broker", &url], &[("OBSERVER_TOKEN", &expired)]);
        let begin = format!("{url} refuses the token (from OBSERVER_TOKEN): the token expired 1h");
        assert!(said.starts_with(&begin), "{said}");
        // Signed with another key.
        let (unsigned, _) = good.rsplit_once('.').unwrap();
        let foreign = format!("{unsigned}.c2lnbmF0dXJl");
        assert_eq!(
            told(&["--broker", &url], &[("OBSERVER_TOKEN", &foreign)]),
            format!(
                "{url} refuses the token (from OBSERVER_TOKEN): \
                 is it signed with a key that the broker knows, and made for this broker?"
            )
        );
    }
}

#[test]
fn tls_on_a_plain_port_and_the_reverse() {
    for broker in BROKERS {
        let _shared = broker.shared();
        let plain = broker.url(false);
        let url = plain.replace("mqtt://", "mqtts://");
        assert_eq!(
            told_by_both(&["--broker", &url], LOGIN),
            format!("{url}: no TLS handshake; does this port speak plain MQTT? try {plain}")
        );
    }
    let port = Broker::Mosquitto.port("MQTTS");
    let (plain, tls) = (
        format!("mqtt://localhost:{port}"),
        format!("mqtts://localhost:{port}"),
    );
    let want = format!(
        "{plain} closes the connection instead of answering; \
         does this port speak TLS? try {tls}"
    );
    assert_eq!(told(&["--broker", &plain], LOGIN), want);
    let five = ["--broker", &plain, "--protocol", "5"];
    let more = "; or does the broker not speak MQTT 5? try --protocol auto";
    assert_eq!(told(&five, LOGIN), format!("{want}{more}"));
}

#[test]
fn http_and_amqp_ports() {
    let server = Server::start(|_, _| Answer::Says(200, "hello".to_owned()));
    let address = server.url.split('/').nth(2).unwrap();
    let rabbit = Broker::Rabbit4;
    let _shared = (rabbit.shared(), Broker::Mosquitto.shared());
    let web_mqtt = [rabbit, Broker::Mosquitto].map(|broker| broker.port("WS"));
    let [rabbit_web, mosquitto_web] = web_mqtt.map(|port| format!("localhost:{port}"));
    for address in [address, &rabbit_web, &mosquitto_web] {
        for scheme in ["mqtt", "mqtts"] {
            let url = format!("{scheme}://{address}");
            assert_eq!(
                told_by_both(&["--broker", &url], LOGIN),
                format!("{url} answers, but not in MQTT (it looks like HTTP)")
            );
        }
    }
    let url = format!("ws://{address}/ws");
    let host = address.split(':').next().unwrap();
    assert_eq!(
        told_by_both(&["--broker", &url], LOGIN),
        format!("{url}: no WebSocket on this path (HTTP 200 OK); RabbitMQ: ws://{host}:15675/ws")
    );
    let url = format!("mqtt://localhost:{}", rabbit.port("AMQP"));
    assert_eq!(
        told_by_both(&["--broker", &url], LOGIN),
        format!("{url} answers in AMQP, which is not spoken here; RabbitMQ's MQTT port is 1883")
    );
}

#[test]
fn websocket_on_a_plain_port_and_on_a_wrong_path() {
    for broker in BROKERS {
        let _shared = broker.shared();
        for scheme in ["ws", "wss"] {
            let url = format!("{scheme}://localhost:{}/ws", broker.port("MQTT"));
            assert_eq!(
                told_by_both(&["--broker", &url], LOGIN),
                format!(
                    "{url}: no WebSocket answers there; RabbitMQ: {scheme}://localhost:15675/ws"
                )
            );
        }
    }
    // Mosquitto takes any path.
    for broker in [Broker::Rabbit3, Broker::Rabbit4] {
        let _shared = broker.shared();
        let url = format!("ws://localhost:{}/mqtt", broker.port("WS"));
        assert_eq!(
            told_by_both(&["--broker", &url], LOGIN),
            format!(
                "{url}: no WebSocket on this path (HTTP 404 Not Found); \
                 RabbitMQ: ws://localhost:15675/ws"
            )
        );
    }
}

/// Listens on an address that the broker's certificate does not bear.
fn under_another_name(port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let broker = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let ways = [
                (client.try_clone().unwrap(), broker.try_clone().unwrap()),
                (broker, client),
            ];
            for (mut from, mut to) in ways {
                std::thread::spawn(move || {
                    let mut bytes = [0; 4_096];
                    while let Ok(length @ 1..) = from.read(&mut bytes)
                        && to.write_all(&bytes[..length]).is_ok()
                    {}
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        }
    });
    address.to_string()
}

#[test]
fn certificates() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let ca = format!("{}/ca.pem", var("BED_TLS"));
    for (scheme, listener, path) in [("mqtts", "MQTTS", ""), ("wss", "WSS", "/ws")] {
        let url = format!("{scheme}://localhost:{}{path}", broker.port(listener));
        assert_eq!(
            told_by_both(&["--broker", &url], LOGIN),
            format!("{url}: its certificate is signed by an unknown CA: give it with --ca-file")
        );
        let address = under_another_name(broker.port(listener));
        let url = format!("{scheme}://{address}{path}");
        assert_eq!(
            told_by_both(&["--broker", &url, "--ca-file", &ca], LOGIN),
            format!("{url}: its certificate is for localhost, 127.0.0.1, not for 127.0.0.2")
        );
    }
    let url = format!("mqtts://localhost:{}", broker.port("MTLS"));
    assert_eq!(
        told_by_both(&["--broker", &url, "--ca-file", &ca], LOGIN),
        format!(
            "{url}: the broker wants a certificate of the client: \
             give --client-cert and --client-key"
        )
    );
}

#[test]
fn addresses_that_are_none() {
    let rule = "a broker is given as mqtt://, mqtts://, ws:// or wss://HOST[:PORT][/PATH]";
    let http = |scheme: &str| {
        format!(
            "HTTP isn't spoken here; MQTT over WebSocket is given as \
             {scheme}://HOST[:PORT][/PATH] (RabbitMQ: port 15675, path /ws)"
        )
    };
    let amqp = "AMQP isn't spoken here; RabbitMQ's MQTT port is 1883".to_owned();
    for (url, want) in [
        (
            "localhost:1883",
            format!("is mqtt://localhost:1883 meant? {rule}"),
        ),
        ("amqp://guest:secret@localhost", amqp.clone()),
        ("amqps://localhost:5671", amqp),
        ("http://localhost:15675/ws", http("ws")),
        ("https://broker.example", http("wss")),
        (
            "mqt://localhost",
            format!("scheme \"mqt\" is none of mqtt, mqtts, ws, wss; {rule}"),
        ),
    ] {
        for (args, env, place) in [
            (vec!["check", "--broker", url], vec![], "--broker"),
            (
                vec!["run"],
                vec![("OBSERVER_BROKER", url)],
                "OBSERVER_BROKER",
            ),
        ] {
            let output = binary().args(args).envs(env).output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                said,
                format!("error: 1 mistake in the settings\n{place}: {want}\n")
            );
            assert_eq!(output.status.code(), Some(2));
        }
    }
}

#[test]
fn another_command_says_the_same() {
    let app = fresh_app();
    let url = format!("mqtt://localhost:{}", closed_port());
    let dir = tempfile::TempDir::new().unwrap();
    let place = StoreLocation::File(dir.path().join("observer.db"));
    drop(store::open(&place, Access::Exclusive, OfflineDelivery::Broker).unwrap());
    let group = dir.path().join("group.json");
    std::fs::write(&group, r#"{"members":{"alice":1}}"#).unwrap();
    let output = binary()
        .args([
            "group",
            "set",
            &app,
            "group-1",
            group.to_str().unwrap(),
            "--tell",
        ])
        .args([
            "--broker",
            &url,
            "--state-dir",
            dir.path().to_str().unwrap(),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let want = format!("{url}: connection refused; is a broker listening there?");
    assert!(said.contains(&want), "{said}");
}

/// What `explain` prints, and its exit code.
fn explained(topic: &str, more: &[&str]) -> (Option<i32>, String) {
    let state = tempfile::TempDir::new().unwrap();
    let output = binary()
        .args([
            "explain",
            topic,
            "--state-dir",
            state.path().to_str().unwrap(),
        ])
        .args(more)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn explain_names_the_nearest_topic_of_one_that_nobody_reads() {
    const CHAT21: &str = "apps/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing";
    for (topic, difference) in [
        (
            "apps/a/outgoing/users/alice/message/bob/outgoing",
            "level 6 is \"message\", should be \"messages\"",
        ),
        (
            "/apps/a/outgoing/users/alice/messages/bob/outgoing",
            "it begins with a slash, which the layout does not have",
        ),
        (
            "apps/a/outgoing/users/alice/messages/bob",
            "level 8 is missing, should be \"outgoing\"",
        ),
    ] {
        let key = topic.replace('/', ".");
        assert_eq!(
            explained(topic, &["--payload", "{}"]),
            (
                Some(1),
                format!(
                    "topic      {topic}\nAMQP key   {key}\npayload    {{}}\n\
                     verdict    never arrives: no filter fits\nnearest    {CHAT21}: {difference}\n"
                )
            )
        );
    }
    let (_, json) = explained(
        "apps/a/outgoing/users/alice/message/bob/outgoing",
        &["--json"],
    );
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["verdict"], &json["because"], json.get("reason")),
        (&"never arrives".into(), &"no filter fits".into(), None)
    );
    assert!(
        json["nearest"].as_str().unwrap().starts_with(CHAT21),
        "{json}"
    );
    // What resembles nothing, another app, a path into an inbox, the observer's own.
    let other = ["--app", "shop"];
    for (topic, more, verdict) in [
        (
            "sensors/kitchen",
            &[][..],
            "verdict    never arrives: no filter fits\n",
        ),
        (
            "apps/a/outgoing/users/alice/messages/bob/outgoing",
            &other,
            "verdict    never arrives: app \"a\" is not one of those served (--app)\n",
        ),
        (
            "apps/a/users/bob/messages/alice/clientadded",
            &[],
            "verdict    never arrives: no filter fits\nnote       this is an inbox path of layout",
        ),
        (
            "apps/a/users/bob/presence/phone",
            &["--store", "none"],
            "never arrives: no filter fits; without a store (--store none) only outgoing paths",
        ),
        (
            "observer/observer/control/trace",
            &[],
            "verdict    own topic\n",
        ),
    ] {
        let (_, out) = explained(topic, more);
        assert!(out.contains(verdict), "{out}");
    }
    // A level too many may be what RabbitMQ makes of a ".", and is a slip more often.
    let (_, out) = explained("apps/a/outgoing/users/alice/x/messages/bob/outgoing", &[]);
    let slip = format!("nearest    {CHAT21}: level 6 is \"x\", and one too many\n");
    assert!(out.contains(&slip), "{out}");
}

#[test]
fn explain_names_the_scopes_of_a_custom_layout() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("observer.toml");
    let layout = r#"
        layouts = "none"
        [[custom-layout]]
        name = "mine"
        outgoing = "out/{app}/to/{recipient}/from/{sender}/new"
        inbox = "in/{app}/{inbox_of}/with/{convers_with}/new"
        payload = "envelope"
        sender-copy = true
    "#;
    std::fs::write(&file, layout).unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let (code, out) = explained("out/a/to/bob/from/alice/new", &config);
    assert_eq!(code, Some(0), "{out}");
    for line in [
        "sender     alice   may write here with scope rabbitmq.write:*/*/out.a.to.*.from.alice.*\n",
        "recipient  bob   reads their inbox with scope rabbitmq.read:*/*/in.a.bob.*\n",
    ] {
        assert!(out.contains(line), "{line}\n{out}");
    }
}

#[test]
fn a_refused_payload_is_told_where_it_is_wrong_and_of_which_message() {
    for broker in BROKERS {
        let _shared = broker.shared();
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let login = broker.login(&app, "u01");
        let port = broker.port("MQTT");
        let mut alice = Wire::connect(port, &format!("mistakes-{app}"), &login, true).unwrap();
        alice
            .subscribe(&[&format!("apps/{app}/users/u01/#")])
            .unwrap();
        let payload = r#"{"attributes":{"tempUID":"t1"},"message_id":"m1","text":"secret" "x":1}"#;
        let topic = Path::Chat21.outgoing(&app, "u01", "u02");
        alice.publish_confirmed(topic, payload).unwrap();
        let told = alice.message(PATIENCE).unwrap();
        let (topic, mut notice) = (told.topic().to_owned(), told.json());
        assert_eq!(
            topic,
            format!("apps/{app}/users/u01/messages/u02/clientrejected")
        );
        assert!(
            notice
                .as_object_mut()
                .unwrap()
                .remove("received_at")
                .is_some()
        );
        assert_eq!(
            notice,
            serde_json::json!({
                "reason": "not-json", "recipient": "u02",
                "detail": "line 1, column 66: expected , or }",
                "message_id": "m1", "attributes": {"tempUID": "t1"},
            })
        );
    }
}

#[test]
fn watch_shows_what_is_published_and_never_read() {
    use std::io::{BufRead, BufReader};
    for broker in BROKERS {
        let _shared = broker.shared();
        let app = fresh_app();
        let _observer = Observer::start(broker, &app, &[]);
        let mut watch = binary()
            .args([
                "watch",
                "--lost",
                "--json",
                "--username",
                "observer",
                "--app",
                &app,
            ])
            .args(["--broker", &broker.url(false)])
            .env("OBSERVER_PASSWORD", "observerpw")
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(watch.stderr.take().unwrap()).lines();
        assert_eq!(
            said.next().unwrap().unwrap(),
            "watching apps/# /apps/# for what the observer never reads"
        );
        // The observer's own user: others may not write there.
        let login = crate::bed::service();
        let port = broker.port("MQTT");
        let mut user = Wire::connect(port, &format!("lost-{app}"), &login, true).unwrap();
        let good = Path::Chat21.outgoing(&app, "u01", "u02");
        user.publish_confirmed(good.clone(), "{}").unwrap();
        let typo = good.replace("/messages/", "/message/");
        let slash = format!("/{good}");
        for topic in [&typo, &slash] {
            user.publish_confirmed(topic.clone(), "{}").unwrap();
        }
        // Others test on this broker, too: with other apps.
        let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
        let lost: Vec<Value> = lines
            .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
            .filter(|lost: &Value| lost["topic"].as_str().unwrap().contains(&app))
            .take(2)
            .collect();
        watch.kill().unwrap();
        watch.wait().unwrap();
        let template = "apps/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing";
        for (lost, topic, difference) in [
            (
                &lost[0],
                typo,
                "level 6 is \"message\", should be \"messages\"",
            ),
            (
                &lost[1],
                slash,
                "it begins with a slash, which the layout does not have",
            ),
        ] {
            assert_eq!(
                (&lost["topic"], &lost["nearest"], &lost["payload_bytes"]),
                (
                    &topic.into(),
                    &format!("{template}: {difference}").into(),
                    &2.into()
                )
            );
        }
    }
}
