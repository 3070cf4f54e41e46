//! `check` on a broker as it comes: what it says of settings that lose messages or let anybody in.

use std::process::{Child, Command, Stdio};

use crate::bed::{binary, root, wait_for};
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
