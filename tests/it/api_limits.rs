//! The HTTP API under clients who are slow, large, rude, or gone: nobody else waits for them, the
//! process holds little for them, and each ends.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::api::{Api, posted};
use crate::bed::{Broker, PATIENCE, wait_for};
use crate::http::{call, free_port, get};

/// Short, so that the end of each is seen.
const LIMITS: [&str; 6] = [
    "--api-head-timeout",
    "3s",
    "--api-idle-timeout",
    "5s",
    "--api-request-timeout",
    "10s",
];

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Mebibytes that a process holds now, or has held at most.
fn mebibytes(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes / 1_024
}

/// Waits for the end of a connection, reading nothing before `PATIENCE` must be used up.
fn ends(mut stream: &TcpStream) {
    let mut rest = vec![0; 1 << 16];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                // Reset, because something was not read.
                assert_ne!(error.kind(), ErrorKind::WouldBlock, "it stays open");
                return;
            }
        }
    }
}

/// alice writes to bob what fills pages.
fn fill(api: &Api, messages: usize, text: &str) {
    let alice = api.user("u01");
    for n in 0..messages {
        let reply = api.send(
            &alice,
            "POST",
            "messages",
            &posted("u02", &format!("{n} {text}")),
        );
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

/// A thousand at a time, of every kind. Messages pass, health answers, others read, and the process
/// holds little.
#[test]
fn a_thousand_hostile_connections_disturb_nobody() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let health = free_port();
    let listen = format!("127.0.0.1:{health}");
    let api = Api::new(broker, &[&LIMITS[..], &["--http-listen", &listen]].concat());
    fill(&api, 200, &"x".repeat(4_000));
    let before = mebibytes(api.scene.observer.pid(), "VmRSS");
    let bob = api.user("u02");
    let page = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: {bob}\r\n\r\n",
        api.path("u02/conversations/u01/messages")
    );
    let body = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: {bob}\r\ncontent-type: application/json\r\n\
         content-length: 1000000\r\n\r\n{{\"text\":\"{}",
        api.path("messages"),
        "y".repeat(60_000)
    );
    let huge = format!("GET / HTTP/1.1\r\nx: {}", "z".repeat(40_000));
    let hostile: Vec<_> = (0..1_000)
        .map(|n| {
            let mut stream = connect(api.port);
            let part: &[u8] = match n % 6 {
                // Half open.
                0 => b"",
                // Slow.
                1 => b"GET /api/x HTTP/1.1\r\nhost:",
                2 => b"\x00\xff garbage\r\n\r\nGET / HTTP/1.1\r\n\r\n\r\n",
                3 => huge.as_bytes(),
                // Pages that they do not read, one behind the other.
                4 => &page.repeat(60).into_bytes(),
                // A body that does not end.
                _ => body.as_bytes(),
            };
            let _ = stream.write_all(part);
            stream
        })
        .collect();
    // All the while.
    let (mut alice, mut carol) = (api.scene.user("u01"), api.scene.user("u03"));
    for n in 0..20 {
        alice.writes("u03", &json!({"text": format!("{n}")}));
        alice.hears_on("messages/u03/clientadded");
        let told = carol.hears_on("messages/u01/clientadded");
        assert_eq!(told["text"], format!("{n}"));
        assert_eq!(get(health, "/livez").unwrap().0, 200);
        let rows = api.list(&api.user("u03"), "u03/conversations/u01/messages");
        assert_eq!(rows.len(), n + 1);
    }
    for stream in &hostile {
        ends(stream);
    }
    let most = mebibytes(api.scene.observer.pid(), "VmHWM");
    println!("memory: {before} MiB before, {most} MiB at most");
    // Sixteen for requests and answers. For each, sixteen kibibytes for its head, and eight for the
    // rest of it.
    assert!(most - before < 40, "{most} MiB, {before} before");
    // Bob himself is served again.
    assert!(!api.list(&bob, "u02/conversations/u01/messages").is_empty());
}

/// One user who reads nothing of what they ask for holds up themselves and nobody else.
#[test]
fn who_takes_answers_slowly_waits_for_themselves() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let more = ["--api-idle-timeout", "60s", "--api-request-timeout", "10s"];
    let api = Api::new(broker, &more);
    fill(&api, 200, &"x".repeat(4_000));
    let bob = api.user("u02");
    let path = "u02/conversations/u01/messages";
    let page = format!(
        "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: {bob}\r\n\r\n",
        api.path(path)
    );
    // Until the buffers of the system are full, too.
    let slow: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = connect(api.port);
            let _ = stream.write_all(page.repeat(60).as_bytes());
            stream
        })
        .collect();
    wait_for("no room for one more of theirs", || {
        let reply = api.get(&bob, path);
        (reply.status == 408).then_some(())
    });
    let alice = api.user("u01");
    assert!(
        !api.list(&alice, "u01/conversations/u02/messages")
            .is_empty()
    );
    drop(slow);
    wait_for("room for them", || {
        (api.get(&bob, path).status == 200).then_some(())
    });
}

/// Nothing was handed in, so nothing can have happened: 504 would say that it may have.
#[test]
fn an_upload_that_stalls_is_told_that_time_is_up() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &["--api-request-timeout", "1s"]);
    let mut stream = connect(api.port);
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: {}\r\ncontent-type: application/json\r\n\
         content-length: 100\r\n\r\n{{\"text\":",
        api.path("messages"),
        api.user("u01")
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
}

/// Whoever leaves in the middle leaves nothing behind, and what they have written happens or not.
#[test]
fn a_client_that_leaves_in_the_middle_holds_up_nobody() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    fill(&api, 50, &"x".repeat(4_000));
    let bob = api.user("u02");
    let path = api.path("u02/conversations/u01/messages");
    let page = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {bob}\r\n\r\n");
    let text = posted("u03", "gone").to_string();
    let message = format!(
        "POST {} HTTP/1.1\r\nhost: x\r\nauthorization: {bob}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{text}",
        api.path("messages"),
        text.len()
    );
    for n in 0..300 {
        let mut stream = connect(api.port);
        let request = if n % 2 == 0 { &page } else { &message };
        let _ = stream.write_all(request.as_bytes());
        drop(stream);
    }
    let rows = api.list(&bob, "u02/conversations/u01/messages");
    assert_eq!(rows.len(), 50);
    let mut carol = api.scene.user("u03");
    let reply = api.send(&bob, "POST", "messages", &posted("u03", "here"));
    assert_eq!(reply.status, 200, "{reply:?}");
    let told = std::iter::repeat_with(|| carol.hears_on("messages/u02/clientadded"));
    assert!(told.take(200).any(|told| told["text"] == "here"));
}

/// A store that cannot be used is said to be so, with a time to come back, for reads and writes;
/// afterwards all goes on.
#[test]
fn a_store_that_fails_is_unavailable_and_comes_back() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    fill(&api, 3, "x");
    let bob = api.user("u02");
    let file = api.scene.observer.state.path().join("observer.db");
    let lock = rusqlite::Connection::open(file).unwrap();
    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
    let reply: (u16, Value) = {
        let reply = api.send(&bob, "POST", "messages", &posted("u03", "later"));
        (
            reply.status,
            reply.headers.get("retry-after").cloned().into(),
        )
    };
    // Not known, or refused at once: never a success.
    assert!(matches!(reply.0, 503 | 504), "{reply:?}");
    let rows = api.list(&bob, "u02/conversations/u01/messages");
    assert_eq!(rows.len(), 3, "reads go on beside a store that is locked");
    lock.execute_batch("ROLLBACK").unwrap();
    wait_for("a write again", || {
        let reply = api.send(&bob, "POST", "messages", &posted("u03", "again"));
        (reply.status == 200).then_some(())
    });
}

/// Large heads are refused, and do not reach a route.
#[test]
fn a_large_head_is_refused() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let header = format!("x-large: {}", "y".repeat(20_000));
    let reply = call(api.port, "GET", "/", &[header], "");
    assert_eq!(reply.status, 431, "{reply:?}");
    let many: Vec<_> = (0..200).map(|n| format!("x-{n}: y")).collect();
    let reply = call(api.port, "GET", "/", &many, "");
    assert_eq!(reply.status, 431, "{reply:?}");
    let path = format!("/{}", "z".repeat(20_000));
    let reply = call(api.port, "GET", &path, &[], "");
    assert!(matches!(reply.status, 414 | 431), "{reply:?}");
}
