//! The commands, as a user types them, and what they print.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use chat21_observer::guide::CHAPTERS;
use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};
use serde_json::Value;

use crate::bed::{Broker, Observer, binary, fresh_app, root, service_token, signal, var, wait_for};

pub(crate) fn run(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = binary()
        .args(args)
        .envs(env.iter().copied())
        .output()
        .unwrap();
    (
        status.code().unwrap(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[test]
fn explain_says_what_would_be_done_and_why() {
    let topic = "apps/tilechat/outgoing/users/alice/messages/bob/outgoing";
    let (code, out, err) = run(&["explain", topic], &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    for line in [
        "AMQP key   apps.tilechat.outgoing.users.alice.messages.bob.outgoing",
        "layout     chat21 (envelope)",
        "sender     alice   may write here with scope \
        rabbitmq.write:*/*/apps.tilechat.outgoing.users.alice.*",
        "recipient  bob   reads their inbox with scope \
        rabbitmq.read:*/*/apps.tilechat.users.bob.*",
        "verdict    forwarded",
        "publishes  apps/tilechat/users/bob/messages/alice/clientadded",
    ] {
        assert!(out.contains(line), "{line:?} is not in:\n{out}");
    }
    let (code, out, _) = run(&["explain", "--json", topic], &[]);
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &json["verdict"], &json["message"]["filter"]),
        (
            0,
            &"forwarded".into(),
            &"apps/+/outgoing/users/+/messages/+/outgoing".into()
        )
    );

    for (topic, payload, words) in [
        (
            "apps/a/users/bob/messages/alice/clientadded",
            "{}",
            "this is an inbox path of layout chat21: the observer writes there and never reads it",
        ),
        (
            "apps/a/outgoing/users/a*b/messages/bob/outgoing",
            "{}",
            "refused: malformed-topic, because the topic's sender \"a*b\" holds '*'",
        ),
        (
            "apps/a/outgoing/users/john.doe/messages/bob/outgoing",
            "{}",
            "on RabbitMQ: \"john.doe\" holds '.', which RabbitMQ turns into '/'",
        ),
        (
            "apps/a/outgoing/users/john/doe/messages/bob/outgoing",
            "{}",
            "refused: unroutable",
        ),
        (
            "apps/a/outgoing/users/alice/messages/bob/outgoing",
            "no json",
            "refused: not-json",
        ),
        (
            "apps/a/outgoing/users/alice/messages/group-1/outgoing",
            "{}",
            "no stored group: it goes to those written into the message, else to the sender alone",
        ),
    ] {
        let (_, out, _) = run(&["explain", topic, "--payload", payload], &[]);
        assert!(out.contains(words), "{words:?} is not in:\n{out}");
    }
}

#[test]
fn explain_knows_every_topic_and_looks_into_the_store() {
    let dir = tempfile::TempDir::new().unwrap();
    let state = dir.path().to_str().unwrap();
    let explain = |topic: &str, more: &[&str]| {
        let args = [&["explain", "--state-dir", state, topic], more].concat();
        run(&args, &[]).1
    };
    for (topic, lines) in [
        (
            "apps/a/users/bob/conversations/alice/update",
            &[
                "kind       conversation patch",
                "verdict    forwarded",
                "stores     the conversation of bob with alice is patched",
                "publishes  apps/a/users/bob/conversations/alice/clientupdated",
            ][..],
        ),
        (
            "apps/a/users/bob/conversations/alice/archive",
            &[
                "kind       archive",
                "publishes  apps/a/users/bob/archived_conversations/alice/clientadded",
            ],
        ),
        (
            "apps/a/users/bob/presence/phone",
            &[
                "kind       presence",
                "verdict    stored",
                "stores     a client of bob is there",
            ],
        ),
        (
            "apps/a/users/bob/blocked/alice/update",
            &[
                "kind       block",
                "stores     bob blocks alice",
                "publishes  apps/a/users/bob/blocked/alice/clientupdated",
            ],
        ),
        (
            "apps/a/users/bob/inbox/fetch",
            &[
                "kind       inbox fetch",
                "publishes  apps/a/users/bob/inbox/clientupdated",
                r#"{"fetched":0,"more":false,"next":0}"#,
            ],
        ),
        (
            "apps/observer/a/users/bob/messages/alice/delivered",
            &[
                "kind       delivered (inject)",
                "sender     a service",
                "publishes  apps/a/users/bob/messages/alice/clientadded",
            ],
        ),
        (
            "apps/observer/a/groups/update",
            &[
                "kind       group update",
                "stores     group group-1",
                "publishes  apps/a/users/alice/groups/group-1/clientupdated",
            ],
        ),
        (
            "apps/a/users/bob/messages/alice/m1/update",
            &[
                "kind       receipt",
                "refused: bad-status, because that message is not in this timeline",
            ],
        ),
        (
            "apps/a/outgoing/users/alice/messages/group-1/outgoing",
            &[
                "stores     copy in the timeline of group-1 with group-1, status 100",
                "stores     copies in 1 timelines, status 150",
                "observer.db yet: as if it were empty",
            ],
        ),
    ] {
        let out = explain(topic, &[]);
        for line in lines {
            assert!(out.contains(line), "{line:?} is not in:\n{out}");
        }
        let off = explain(topic, &["--store", "none"]);
        if !topic.ends_with("outgoing") {
            assert!(
                off.contains("without a store (--store none) only outgoing paths are read"),
                "{off}"
            );
        }
    }
    // With a store, `explain` reads the group from it.
    let location = StoreLocation::File(dir.path().join("observer.db"));
    let mut store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker).unwrap();
    let members: Vec<String> = (0..9).map(|n| format!("\"u{n}\":1")).collect();
    store
        .set_group(
            "a",
            "team",
            &format!("{{\"members\":{{{}}}}}", members.join(",")),
        )
        .unwrap();
    let out = explain("apps/a/outgoing/users/u1/messages/team/outgoing", &[]);
    for line in [
        "note       a stored group of 9",
        "publishes  apps/a/users/team/messages/team/clientadded",
        "publishes  apps/a/users/u4/messages/team/clientadded",
        "           and 4 more",
    ] {
        assert!(out.contains(line), "{line:?} is not in:\n{out}");
    }
    let out = explain("apps/a/outgoing/users/eve/messages/team/outgoing", &[]);
    assert!(
        out.contains("refused: not-a-member, because the sender is no member of the stored group"),
        "{out}"
    );
}

#[test]
fn mistakes_in_the_settings_are_printed_together_and_end_with_code_2() {
    let (code, out, err) = run(
        &["run", "--window", "many", "--broker", "amqp://x"],
        &[("OBSERVER_KEEP_ALIVE", "1s")],
    );
    assert_eq!((code, out.as_str()), (2, ""));
    assert!(
        err.starts_with("error: 3 mistakes in the settings\n--broker: AMQP isn't spoken here"),
        "{err}"
    );
    let rest = "\n--window: \"many\" is not a whole number from 1 to 10000\n\
        OBSERVER_KEEP_ALIVE: \"1s\" is not between 5s and";
    assert!(err.contains(rest), "{err}");
    assert_eq!(run(&["run", "--nonsense"], &[]).0, 2);
    assert_eq!(run(&[], &[]).0, 2);
}

#[test]
fn check_proves_a_set_up_on_every_broker() {
    for broker in [Broker::Rabbit3, Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        for websocket in [false, true] {
            let login = [
                ("OBSERVER_USERNAME", "observer"),
                ("OBSERVER_PASSWORD", "observerpw"),
            ];
            let (code, out, err) = run(
                &["check", "--json", "--broker", &broker.url(websocket)],
                &login,
            );
            assert_eq!(code, 0, "{out}{err}");
            let steps: Vec<Value> = serde_json::from_str(&out).unwrap();
            assert!(
                steps.iter().all(|step| step["outcome"] != "failed"),
                "{out}"
            );
            assert_eq!(
                steps
                    .iter()
                    .filter(|step| step["step"].as_str().unwrap().starts_with("round trip"))
                    .count(),
                7
            );
            let store = steps.iter().find(|step| step["step"] == "store").unwrap();
            assert_eq!(store["outcome"], "ok", "{store}");
            let dots = steps
                .iter()
                .find(|step| step["step"] == "identifiers")
                .unwrap();
            assert_eq!(
                dots["outcome"],
                if broker == Broker::Mosquitto {
                    "ok"
                } else {
                    "note"
                }
            );
        }
    }
}

#[test]
fn check_works_over_tls_and_with_a_client_certificate() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let tls = var("BED_TLS");
    let file = |name: &str| format!("{tls}/{name}");
    let login = [
        ("OBSERVER_USERNAME", "observer"),
        ("OBSERVER_PASSWORD", "observerpw"),
    ];
    let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let url =
        |scheme: &str, listener: &str| format!("{scheme}://localhost:{}", broker.port(listener));
    for (url, more, code, words) in [
        (
            url("mqtts", "MQTTS"),
            vec!["--ca-file", &ca],
            0,
            "messages pass",
        ),
        (
            url("wss", "WSS"),
            vec!["--ca-file", &ca],
            0,
            "messages pass",
        ),
        (
            url("mqtts", "MTLS"),
            vec![
                "--ca-file",
                &ca,
                "--client-cert",
                &cert,
                "--client-key",
                &key,
            ],
            0,
            "messages pass",
        ),
        (
            url("mqtts", "MTLS"),
            vec!["--ca-file", &ca],
            1,
            "the broker wants a certificate of the client: give --client-cert and --client-key",
        ),
        (
            url("mqtts", "MQTTS"),
            vec![],
            1,
            "signed by an unknown CA: give it with --ca-file",
        ),
        (
            url("mqtts", "MQTTS"),
            vec!["--tls-insecure"],
            0,
            "whoever is on the way can read and change everything",
        ),
    ] {
        let args: Vec<&str> = ["check", "--broker", &url]
            .into_iter()
            .chain(more)
            .collect();
        let (got, out, err) = run(&args, &login);
        assert!(
            got == code && out.contains(words),
            "{args:?}: {got}\n{out}{err}"
        );
    }
}

#[test]
fn check_names_what_is_wrong() {
    let (rabbit, mosquitto) = (Broker::Rabbit3, Broker::Mosquitto);
    let (_a, _b) = (rabbit.shared(), mosquitto.shared());
    let expired = service_token(-3600);
    let nowhere = "mqtt://127.0.0.1:1".to_owned();
    let no_path = format!("ws://localhost:{}", rabbit.port("WS"));
    for (url, env, words) in [
        (
            nowhere,
            ("OBSERVER_NAME", "x"),
            "connection refused; is a broker listening there?",
        ),
        (
            rabbit.url(false),
            ("OBSERVER_PASSWORD", "wrong"),
            "a password is given (from OBSERVER_PASSWORD), and no user",
        ),
        (
            rabbit.url(false),
            ("OBSERVER_TOKEN", expired.as_str()),
            "the token expired 1h",
        ),
        (
            no_path,
            ("OBSERVER_PASSWORD", "wrong"),
            "RabbitMQ: ws://localhost:15675/ws",
        ),
        // Mosquitto grants subscriptions that it never delivers on: only the round trip shows it.
        (
            mosquitto
                .url(false)
                .replace("mqtt://", "mqtt://deaf:deafpw@"),
            ("OBSERVER_NAME", "x"),
            "what an observer sends to itself does not come back",
        ),
        (
            mosquitto.url(false).replace("mqtt://", "mqtt://u00:u00pw@"),
            ("OBSERVER_NAME", "x"),
            "what an observer sends to itself does not come back",
        ),
    ] {
        let (code, out, err) = run(&["check", "--broker", &url], &[env]);
        assert!(
            code == 1 && out.contains(words) && out.contains("messages would not pass"),
            "{words:?}: {code}\n{out}{err}"
        );
    }
}

/// A proxy that takes one CONNECT after another, and asks for a password.
fn proxy() -> u16 {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let (mut head, mut byte) = (vec![], [0]);
            while !head.ends_with(b"\r\n\r\n") && client.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            // user:pw
            if !head.contains("dXNlcjpwdw==") {
                let _ = client.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
                continue;
            }
            let Ok(server) = std::net::TcpStream::connect(head.split(' ').nth(1).unwrap()) else {
                continue;
            };
            client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            for (mut from, mut to) in [
                (client.try_clone().unwrap(), server.try_clone().unwrap()),
                (server, client),
            ] {
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
            }
        }
    });
    port
}

#[test]
fn check_goes_through_an_http_proxy() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let port = proxy();
    let login = [
        ("OBSERVER_USERNAME", "observer"),
        ("OBSERVER_PASSWORD", "observerpw"),
    ];
    let (code, out, err) = run(
        &[
            "check",
            "--broker",
            &broker.url(false),
            "--proxy",
            &format!("http://user:pw@127.0.0.1:{port}"),
        ],
        &login,
    );
    assert!(code == 0 && out.contains("messages pass"), "{out}{err}");
    let (code, out, _) = run(
        &[
            "check",
            "--broker",
            &broker.url(false),
            "--proxy",
            &format!("http://127.0.0.1:{port}"),
        ],
        &login,
    );
    assert!(code == 1 && out.contains("proxy: "), "{out}");
}

#[test]
fn health_follows_the_broker() {
    let broker = Broker::Mosquitto;
    let _exclusive = broker.exclusive();
    let mut observer = Observer::start(broker, &fresh_app(), &["--http-listen", "127.0.0.1:0"]);
    let address = observer
        .ready
        .split("http://")
        .nth(1)
        .unwrap()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let health = || run(&["health", "--http-listen", &address], &[]);
    assert_eq!(health(), (0, "ready\n".to_owned(), String::new()));
    broker.control("stop");
    observer.wait_log("not connected");
    let (code, out, err) = health();
    assert!(
        code == 1 && out.is_empty() && err.starts_with("error: not ready\nsession: "),
        "{err}"
    );
    broker.control("start");
    wait_for("readiness", || (health().0 == 0).then_some(()));
    observer.stop();
    let (code, _, err) = health();
    assert!(code == 1 && err.contains("no observer answers"), "{err}");
}

/// The first command a newcomer types. It needs nothing installed, prints a conversation and stays
/// up.
#[test]
fn demo_prints_the_conversation_and_stays_up_for_mosquitto_sub() {
    let mut demo = KillOnDrop(
        binary()
            .args(["demo", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines();
    let mut seen = vec![];
    let subscribe = loop {
        let line = lines
            .next()
            .unwrap_or_else(|| panic!("it ended after {seen:#?}"))
            .unwrap();
        if line.contains("mosquitto_sub") {
            break line;
        }
        seen.push(line);
    };
    let publish = lines.next().unwrap().unwrap();
    let text = seen.join("\n");
    for words in [
        "alice   → outgoing/users/alice/messages/bob/outgoing      \"Hi, are you there?\"",
        "bob     ← users/bob/messages/alice/clientadded            150 delivered",
        "bob     → outgoing/users/bob/messages/alice/outgoing      \"Loud and clear.\"",
        "300 seen",
        "carol   ← users/carol/messages/group-1/clientadded        150 delivered",
        "alice   ← users/alice/messages/bob/clientrejected         not-json",
        "the payload must be a JSON object, such as {\"text\":\"hello\"}",
        "alice   ← users/alice/messages/all/clientrejected         not-a-group",
    ] {
        assert!(text.contains(words), "{words:?} is not in:\n{text}");
    }
    // The lines it prints work when they are pasted.
    let mut subscriber = shell(&subscribe.replace("mosquitto_sub", "mosquitto_sub -C 1 -W 180"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut heard = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    let heard = {
        // Nothing shows when the subscription is active, so the message is published until it
        // arrives.
        let (line_tx, line_rx) = std::sync::mpsc::channel();
        std::thread::spawn(move || line_tx.send(heard.next()));
        loop {
            assert!(shell(&publish).status().unwrap().success());
            if let Ok(line) = line_rx.recv_timeout(Duration::from_millis(500)) {
                break line.unwrap().unwrap();
            }
        }
    };
    assert!(
        heard.starts_with(
            "apps/tilechat/users/bob/messages/you/clientadded {\"text\":\"hello\",\"message_id\":"
        ),
        "{heard}"
    );
    subscriber.wait().unwrap();
    // What passes is shown, what the reader sends among it.
    let shown = lines.by_ref().map(Result::unwrap);
    let mut shown = shown.skip_while(|line| !line.starts_with("  you "));
    assert_eq!(
        shown.next().unwrap(),
        "  you     → outgoing/users/you/messages/bob/outgoing        \"hello\""
    );
    signal(demo.0.id(), "INT");
    let rest: Vec<String> = shown.collect();
    assert!(
        rest.iter().any(|line| line.contains("guide mosquitto")),
        "{rest:#?}"
    );
    assert!(demo.0.wait().unwrap().success());
}

/// A process that does not outlive a failed test.
struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line as a user pastes it, with the mosquitto clients of the test bed.
pub(crate) fn shell(line: &str) -> Command {
    let bed = root().join("scripts/brokers");
    let line = line
        .replace(
            "mosquitto_sub",
            &format!("{} client mosquitto_sub", bed.display()),
        )
        .replace(
            "mosquitto_pub",
            &format!("{} client mosquitto_pub", bed.display()),
        );
    let mut command = Command::new("bash");
    command.args(["-c", &line]);
    command
}

#[test]
fn completions_are_printed_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = run(&["completions", shell], &[]);
        assert!(
            code == 0 && out.contains("chat21-observer") && out.contains("explain"),
            "{shell}"
        );
    }
}

#[test]
fn manual_pages_are_printed_for_every_command() {
    for (args, name) in [
        (&["man"][..], "chat21-observer"),
        (&["man", "run"], "chat21-observer-run"),
        (
            &["man", "token", "mint", "user"],
            "chat21-observer-token-mint-user",
        ),
    ] {
        let (code, out, err) = run(args, &[]);
        assert_eq!((code, err.as_str()), (0, ""));
        assert!(
            out.contains(&format!(".TH {name} 1")),
            "{name}: {}",
            &out[..200]
        );
    }
    let (_, out, _) = run(&["man", "run"], &[]);
    for setting in chat21_observer::config::settings() {
        let flag = format!("\\-\\-{}", setting.name.replace('-', "\\-"));
        assert!(out.contains(&flag), "{flag}");
    }
    let (code, _, err) = run(&["man", "walk"], &[]);
    assert_eq!(
        (code, err.as_str()),
        (1, "error: there is no command \"walk\"\n")
    );
}

#[test]
fn guide_lists_its_chapters_and_prints_each() {
    let (code, list, err) = run(&["guide"], &[]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(list.lines().count(), CHAPTERS.len());
    for (chapter, line) in CHAPTERS.iter().zip(list.lines()) {
        let words: Vec<&str> = line.splitn(2, ' ').map(str::trim).collect();
        assert_eq!(words, [chapter.name, chapter.title]);
        let printed = run(&["guide", chapter.name], &[]);
        assert_eq!(printed, (0, chapter.text.to_owned(), String::new()));
    }
    let (code, out, err) = run(&["guide", "nonsense"], &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    let names: Vec<&str> = CHAPTERS.iter().map(|chapter| chapter.name).collect();
    assert_eq!(
        err,
        format!(
            "error: the guide has no chapter \"nonsense\"; its chapters are {}\n",
            names.join(", ")
        )
    );
}

/// `--version` names the commit if the sources are a git checkout.
#[test]
fn the_version_names_the_commit() {
    let (code, out, _) = run(&["--version"], &[]);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(code, 0);
    let git = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(root())
        .output();
    if !git.is_ok_and(|output| output.status.success()) {
        assert_eq!(out, format!("chat21-observer {version}\n"));
        return;
    }
    let begins = format!("chat21-observer {version} (");
    let commit = out
        .strip_prefix(&begins)
        .and_then(|rest| rest.strip_suffix(")\n"))
        .unwrap();
    assert!(
        commit.len() == 12 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "{out}"
    );
}
