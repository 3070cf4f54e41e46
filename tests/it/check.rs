//! `check` on a broker as it comes: what it says of settings that lose messages or let anybody in.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use crate::bed::{Broker, binary, fresh_app, root, signal, wait_for};
use crate::http::free_port;

/// A Mosquitto of the bed with few settings, which stores nothing.
struct Plain {
    child: Child,
    port: u16,
}

impl Plain {
    fn start() -> Self {
        let port = free_port();
        let settings = format!("listener {port} 127.0.0.1\nallow_anonymous true\n");
        let script = r#"f=$(mktemp) && printf %s "$0" >"$f" && exec mosquitto -c "$f""#;
        let child = Command::new(root().join("scripts/brokers"))
            .args(["client", "sh", "-c", script, &settings])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("Mosquitto", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port }
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_broker_that_is_not_set_up_passes_with_notes() {
    let broker = Plain::start();
    let dir = tempfile::TempDir::new().unwrap();
    let check = |more: &[&str]| {
        let output = binary()
            .args([
                "check",
                "--broker",
                &format!("mqtt://localhost:{}", broker.port),
            ])
            .args(["--username", "observer", "--state-dir"])
            .arg(dir.path())
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let said = check(&[]);
    for wanted in [
        "✓ subscribe      33 subscriptions granted at QoS 1\n",
        "! anonymous      the broker lets clients in without a login: anybody may act as any user \
         (Mosquitto: allow_anonymous false; RabbitMQ: mqtt.allow_anonymous = false)\n",
        "✓ round trip     7 kinds of message, each answered\n",
        "the broker waits for TCP's delayed acknowledgements (Mosquitto: set_tcp_nodelay true)\n",
        "! waiting        1000 of 1200 messages arrive that were sent to a client while away: the \
         broker drops what exceeds its limit for a client that is away \
         (Mosquitto: max_queued_messages 0; EMQX: max_mqueue_len 0)\n",
        "\nmessages pass\n",
    ] {
        assert!(said.contains(wanted), "{wanted:?} is not in:\n{said}");
    }
    let verbose = check(&["-v"]);
    assert!(
        verbose.contains(
            "✓ subscribe      apps/+/outgoing/users/+/messages/+/outgoing: granted at QoS 1\n"
        ),
        "{verbose}"
    );
    let lines = |text: &str| text.matches("✓ subscribe").count();
    assert_eq!((lines(&said), lines(&verbose)), (1, 33));
}

/// Answers each request with this status. Returns its port.
fn answering(status: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4_096];
            let read = stream.read(&mut head).unwrap();
            assert!(head[..read].starts_with(b"HEAD /"));
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[test]
fn operators_services_are_asked_whether_they_are_there() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    // A service that takes POST alone, a proxy whose service is down, and a port that nobody has.
    let (there, down, dead) = (answering("405 Not Allowed"), answering("503 Gone"), 1);
    let app = fresh_app();
    let check = |policy: u16, more: &[&str]| {
        let mut command = binary();
        command.args(["check", "-v", "--broker", &broker.url(false)]);
        command.args(["--app", &app]);
        command.args(["--username", "observer", "--store", "none", "--policy-url"]);
        command.arg(format!(
            "http://user:pass@127.0.0.1:{policy}/decide?key=hush"
        ));
        let output = command.args(more).env("OBSERVER_PASSWORD", "observerpw");
        let Output { status, stdout, .. } = output.output().unwrap();
        let said = String::from_utf8(stdout).unwrap();
        assert!(!said.contains("hush") && !said.contains("pass@"), "{said}");
        (status.success(), said)
    };
    let [hook, other] = [down, there].map(|port| format!("http://127.0.0.1:{port}/hook"));
    let names = format!("http://127.0.0.1:{dead}/users");
    let hooks = format!("{hook},{other}");
    let more = ["--contacts-url", &names, "--webhook-endpoints", &hooks];
    let (passes, said) = check(there, &more);
    assert!(passes, "{said}");
    for wanted in [
        format!("✓ policy         http://127.0.0.1:{there}/decide: it is there (HEAD: 405)\n"),
        format!("! contacts       {names}: it is not there ("),
        format!("! webhooks       {hook}: it is not there (HEAD: 503): events wait\n"),
        format!("✓ webhooks       {other}: it is there (HEAD: 405)\n"),
    ] {
        assert!(said.contains(&wanted), "{wanted:?} is not in:\n{said}");
    }
    let (passes, said) = check(dead, &[]);
    assert!(!passes && said.contains("✗ policy"), "{said}");
    assert!(said.contains("no message passes without it"), "{said}");
    let (passes, said) = check(dead, &["--policy-failure", "open"]);
    assert!(passes && said.contains("! policy"), "{said}");
}

/// Over MQTT 3.1.1 RabbitMQ would keep it for a day, or for ever.
#[test]
fn an_interrupted_check_leaves_no_session_behind() {
    let broker = Broker::Rabbit3;
    let _shared = broker.shared();
    let name = fresh_app();
    for step in 0..8 {
        let mut child = binary()
            .args(["check", "--verbose", "--protocol", "3.1.1", "--name", &name])
            .args(["--broker", &broker.url(false), "--username", "observer"])
            .args(["--app", &fresh_app(), "--store", "none"])
            .env("OBSERVER_PASSWORD", "observerpw")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let logged_in = lines.any(|line| line.unwrap().contains("login"));
        assert!(logged_in);
        // The sessions are made in what follows.
        std::thread::sleep(Duration::from_millis(70 * step));
        signal(child.id(), if step % 2 == 0 { "INT" } else { "TERM" });
        // It may still print meanwhile.
        let output = child.wait_with_output().unwrap();
        drop(lines);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), told.as_str()),
            (Some(1), "error: interrupted\n")
        );
    }
    let begin = format!("{name}-check");
    let has_session = || {
        broker
            .queues()
            .iter()
            .any(|(name, _)| name.contains(&begin))
    };
    wait_for("the sessions' end", || (!has_session()).then_some(()));
}
