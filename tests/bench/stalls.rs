//! A hundred ordinary pairs beside somebody who takes more than their share: how long the pairs'
//! messages take, beside how long they take without. And the same pairs alone, at a thousand
//! messages a second. Run by `scripts/bench`, at the brokers' own windows first. BENCH_SCENE=flood
//! for one of the scenes.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: what goes wrong ends it, it has its own clock, and prints"
)]

#[path = "observed.rs"]
#[allow(
    dead_code,
    reason = "shared with other benchmarks, which use more of it"
)]
mod observed;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod wire;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use observed::{connect, each_broker, ordinary, percentile, start};
use wire::Wire;

const TURN: Duration = Duration::from_secs(8);
/// One a second from each of a hundred.
const RATE: u64 = 100;
/// As many, ten times a second.
const FAST: u64 = 1_000;
const TURNS: usize = 6;
const MEMBERS: usize = 10_000;
const FETCHES: usize = 500;
const FLOOD: u128 = 2_000;
/// Whoever takes more than their share writes this, and others do not.
const SPAM: &str = r#"{"text":"spam"}"#;

/// What happens beside the ordinary pairs, until it is over.
type Disturbance = fn(u16, &AtomicBool);

/// What it is called, what the observer needs for it, and what happens.
const SCENES: [(&str, &[&str], Disturbance); 6] = [
    ("a message to a group of 10,000", &[], crowd),
    ("500 fetches by one user", &[], fetches),
    (
        "a recipient whose queue rejects",
        &["--protocol", "3.1.1"],
        full_queue,
    ),
    (
        "2,000/s to a queue that rejects",
        &["--protocol", "3.1.1"],
        full_queue_flooded,
    ),
    ("a flood of 2,000/s", &["--rate-per-minute", "600"], flood),
    (
        "a decision that takes 2 s",
        &["--policy-timeout", "5s"],
        undecided,
    ),
];

fn main() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", service.local_addr().unwrap());
    std::thread::spawn(move || decide(&service));
    each_broker(|port| {
        let state = tempfile::TempDir::new().unwrap();
        let observer = start(port, state.path(), &[]);
        let mut times = ordinary(port, FAST, TURN * 3);
        drop(observer);
        println!("  {:<36} {}", "alone, 1,000/s", summary(&mut times));
        let only = std::env::var("BENCH_SCENE").unwrap_or_default();
        let wanted = SCENES.iter().filter(|(what, ..)| what.contains(&only));
        for &(what, args, disturbance) in wanted {
            let state = tempfile::TempDir::new().unwrap();
            let asks = args.contains(&"--policy-timeout");
            let policy: &[&str] = if asks { &["--policy-url", &url] } else { &[] };
            let observer = start(port, state.path(), &[args, policy].concat());
            make_group(state.path());
            fill_inbox(port);
            // Turn and turn about, so that what else the machine does meets both alike.
            let mut times = [vec![], vec![]];
            for turn in 0..TURNS {
                let over = &AtomicBool::new(false);
                std::thread::scope(|scope| {
                    if turn % 2 == 1 {
                        scope.spawn(move || disturbance(port, over));
                    }
                    times[turn % 2].extend(ordinary(port, RATE, TURN));
                    over.store(true, Ordering::Relaxed);
                });
            }
            drop(observer);
            let [mut idle, mut beside] = times;
            println!("  {what:<36} {}", summary(&mut beside));
            println!("  {:<36} {}", "  without", summary(&mut idle));
            let [p50, p99] = [50, 99]
                .map(|percent| percentile(&mut beside, percent) / percentile(&mut idle, percent));
            println!("  {:<36} p50 {p50:>8.1}x   p99 {p99:>8.1}x", "  ratio");
        }
    });
}

fn summary(times: &mut [f64]) -> String {
    let [p50, p99, worst] = [50, 99, 100].map(|percent| percentile(times, percent));
    format!("p50 {p50:>8.2} ms, p99 {p99:>8.2} ms, worst {worst:>8.2} ms")
}

fn make_group(state: &Path) {
    let members: Vec<String> = (1..MEMBERS).map(|n| format!(r#""m{n:05}":1"#)).collect();
    let file = state.join("group.json");
    let group = format!(r#"{{"members":{{"mallory":1,{}}}}}"#, members.join(","));
    std::fs::write(&file, group).unwrap();
    let set = Command::new(env!("CARGO_BIN_EXE_chat21-observer"))
        .args(["group", "set", "bench", "crowd", file.to_str().unwrap()])
        .args(["--state-dir", state.to_str().unwrap()])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(set.success());
}

/// A thousand messages for mallory to fetch.
fn fill_inbox(port: u16) {
    let mut bob = connect(port, "bench-bob");
    for n in 1..=1_000 {
        let topic = "apps/bench/outgoing/users/bob/messages/mallory/outgoing";
        bob.publish(topic, r#"{"text":"x"}"#).unwrap();
        while bob.confirmed.len() + 50 < n {
            bob.step(Duration::from_secs(5)).unwrap();
        }
    }
}

fn write(wire: &mut Wire, to: &str) {
    let topic = format!("apps/bench/outgoing/users/mallory/messages/{to}/outgoing");
    wire.publish(topic, SPAM).unwrap();
}

fn wait(wire: &mut Wire, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        wire.step(Duration::from_millis(10)).unwrap();
        wire.messages.clear();
    }
}

fn crowd(port: u16, over: &AtomicBool) {
    let mut wire = connect(port, "bench-mallory");
    write(&mut wire, "crowd");
    wait(&mut wire, over);
}

fn fetches(port: u16, over: &AtomicBool) {
    let mut wire = connect(port, "bench-mallory");
    wire.subscribe(&["apps/bench/users/mallory/#"]).unwrap();
    for _ in 0..FETCHES {
        let topic = "apps/bench/users/mallory/inbox/fetch";
        wire.publish(topic, r#"{"limit":1000}"#).unwrap();
    }
    wait(&mut wire, over);
}

fn flood(port: u16, over: &AtomicBool) {
    flood_to(port, "bob", over);
}

fn flood_to(port: u16, to: &str, over: &AtomicBool) {
    let mut wire = connect(port, "bench-mallory");
    let (begin, mut sent) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        while sent < begin.elapsed().as_micros() * FLOOD / 1_000_000 {
            write(&mut wire, to);
            sent += 1;
        }
        wire.step(Duration::from_millis(1)).unwrap();
        wire.confirmed.clear();
    }
}

fn undecided(port: u16, over: &AtomicBool) {
    let mut wire = connect(port, "bench-mallory");
    while !over.load(Ordering::Relaxed) {
        write(&mut wire, "bob");
        wire.step(Duration::from_millis(100)).unwrap();
    }
}

/// Two messages a second to a user who is away, and whose queue takes one message.
fn full_queue(port: u16, over: &AtomicBool) {
    with_full_queue(port, || {
        let mut wire = connect(port, "bench-mallory");
        while !over.load(Ordering::Relaxed) {
            write(&mut wire, "away");
            let next = Instant::now() + Duration::from_millis(500);
            while Instant::now() < next {
                wire.step(Duration::from_millis(10)).unwrap();
            }
        }
    });
}

fn full_queue_flooded(port: u16, over: &AtomicBool) {
    with_full_queue(port, || flood_to(port, "away", over));
}

/// Other brokers than RabbitMQ have no such queues: there it is a user who is away.
fn with_full_queue(port: u16, write: impl FnOnce()) {
    let login = ("observer".to_owned(), "observerpw".to_owned());
    let mut away = Wire::connect(port, "bench-away", &login, false).unwrap();
    away.subscribe(&["apps/bench/users/away/messages/+/clientadded"])
        .unwrap();
    away.disconnect();
    let rabbit = ["rabbitmq3", "rabbitmq4"].into_iter().find(|broker| {
        let name = format!("BED_{}_MQTT", broker.to_uppercase());
        std::env::var(name).is_ok_and(|of| of == port.to_string())
    });
    let policy = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    let set = [
        "set_policy",
        "bench",
        "^mqtt-subscription-bench-away",
        policy,
    ];
    rabbitmqctl(rabbit, &[&set[..], &["--apply-to", "queues"]].concat());
    write();
    rabbitmqctl(rabbit, &["clear_policy", "bench"]);
    // Deletes the session at the broker.
    drop(Wire::connect(port, "bench-away", &login, true));
}

fn rabbitmqctl(broker: Option<&str>, args: &[&str]) {
    let Some(broker) = broker else { return };
    let done = Command::new("scripts/brokers")
        .args(["ctl", broker])
        .args(args)
        .stdout(Stdio::null())
        .status();
    assert!(done.unwrap().success());
}

/// A decision service: mallory waits two seconds for an answer, everybody else has one at once.
fn decide(service: &TcpListener) {
    for asked in service.incoming() {
        std::thread::spawn(move || answer(asked.unwrap()));
    }
}

fn answer(stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    loop {
        let (mut line, mut length) = (String::new(), 0);
        loop {
            line.clear();
            if !matches!(reader.read_line(&mut line), Ok(1..)) {
                return;
            }
            let header = line.to_lowercase();
            if let Some(bytes) = header.strip_prefix("content-length:") {
                length = bytes.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        let mut question = vec![0; length];
        if reader.read_exact(&mut question).is_err() {
            return;
        }
        if String::from_utf8_lossy(&question).contains(r#""sender":"mallory""#) {
            std::thread::sleep(Duration::from_secs(2));
        }
        // The observer may have gone.
        if writer
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .is_err()
        {
            return;
        }
    }
}
