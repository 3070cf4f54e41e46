//! A hundred ordinary pairs beside somebody who takes more than their share: how long the pairs'
//! messages take, beside how long they take without. And the floor: how long they take beside a
//! plain client that hands the broker the same publishes as the observer would, with no observer in
//! the way of them. And the same pairs alone, at a thousand messages a second. Run by
//! `scripts/bench`, at the brokers' own windows first. BENCH_SCENE=flood for one of the scenes,
//! BENCH_TURNS for more turns of each.

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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use observed::{WARM_UP, connect, each_broker, ordinary, percentile, print_disk, start};
use wire::Wire;

const TURN: Duration = Duration::from_secs(5);
/// One a second from each of a hundred.
const RATE: u64 = 100;
/// As many, ten times a second.
const FAST: u64 = 1_000;
const TURNS: usize = 2;
const MEMBERS: usize = 10_000;
const FETCHES: usize = 500;
const FLOOD: u128 = 2_000;
/// Bulk copies that the observer has in flight.
const BULK_IN_FLIGHT: usize = 8;
/// Whoever takes more than their share writes this, and others do not.
const SPAM: &str = r#"{"text":"spam"}"#;
const AWAY: &str = "apps/bench/users/away/messages/mallory/clientadded";
/// The floor of a flood goes here, to a session that only acknowledges.
const ELSEWHERE: &str = "apps/bench/elsewhere";

/// What happens beside the ordinary pairs, until it is over.
type Disturbance = fn(u16, &AtomicBool);

/// Copies that came of the last disturbance.
static COPIES: AtomicUsize = AtomicUsize::new(0);

struct Scene {
    what: &'static str,
    /// What the observer needs for it.
    args: &'static [&'static str],
    disturbance: Disturbance,
    floor: Option<Disturbance>,
}

const SCENES: [Scene; 6] = [
    Scene {
        what: "a message to a group of 10,000",
        args: &[],
        disturbance: crowd,
        floor: Some(copies),
    },
    Scene {
        what: "500 fetches by one user",
        args: &[],
        disturbance: fetches,
        floor: Some(copies),
    },
    Scene {
        what: "a recipient whose queue rejects",
        args: &["--protocol", "3.1.1"],
        disturbance: full_queue,
        floor: Some(full_queue_floor),
    },
    Scene {
        what: "2,000/s to a queue that rejects",
        args: &["--protocol", "3.1.1"],
        disturbance: full_queue_flooded,
        floor: Some(flood_floor),
    },
    Scene {
        what: "a flood of 2,000/s",
        args: &["--rate-per-minute", "600"],
        disturbance: flood,
        floor: Some(flood_floor),
    },
    Scene {
        what: "a decision that takes 2 s",
        args: &["--policy-timeout", "5s"],
        disturbance: undecided,
        floor: None,
    },
];

fn main() {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", service.local_addr().unwrap());
    std::thread::spawn(move || decide(&service));
    print_disk();
    each_broker(|_, port| {
        let state = tempfile::TempDir::new().unwrap();
        let observer = start(port, state.path(), &[]);
        let mut times = ordinary(port, FAST, TURN * 3);
        drop(observer);
        println!("  {:<36} {}", "alone, 1,000/s", summary(&mut times));
        let only = std::env::var("BENCH_SCENE").unwrap_or_default();
        for scene in SCENES.iter().filter(|scene| scene.what.contains(&only)) {
            let state = tempfile::TempDir::new().unwrap();
            let asks = scene.args.contains(&"--policy-timeout");
            let policy: &[&str] = if asks { &["--policy-url", &url] } else { &[] };
            let observer = start(port, state.path(), &[scene.args, policy].concat());
            make_group(state.path());
            fill_inbox(port);
            // Its commands take a while, so they come before and after.
            let is_full = scene.args.contains(&"--protocol");
            if is_full {
                fill_queue(port);
            }
            let times = measure(port, scene);
            if is_full {
                free_queue(port);
            }
            drop(observer);
            report(scene.what, times);
        }
    });
}

/// How long the pairs' messages take without the disturbance, beside it, and beside its floor.
fn measure(port: u16, scene: &Scene) -> [Vec<f64>; 3] {
    let turns = std::env::var("BENCH_TURNS").map_or(TURNS, |turns| turns.parse().unwrap());
    let beside = [None, Some(scene.disturbance), scene.floor];
    let kinds = if scene.floor.is_some() { 3 } else { 2 };
    let mut times = [vec![], vec![], vec![]];
    // Turn and turn about, so that what else the machine does meets all alike.
    for turn in 0..turns * kinds {
        let over = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            if let Some(disturbance) = beside[turn % kinds] {
                scope.spawn(move || {
                    std::thread::sleep(WARM_UP);
                    disturbance(port, over);
                });
            }
            times[turn % kinds].extend(ordinary(port, RATE, TURN));
            over.store(true, Ordering::Relaxed);
        });
    }
    times
}

fn report(what: &str, [mut idle, beside, floor]: [Vec<f64>; 3]) {
    println!(
        "  {:<36} {}",
        format!("{what}: without"),
        summary(&mut idle)
    );
    for (name, mut times) in [("  beside it", beside), ("  beside a plain client", floor)] {
        if times.is_empty() {
            continue;
        }
        let [p50, p99] = [50, 99]
            .map(|percent| percentile(&mut times, percent) / percentile(&mut idle, percent));
        let summary = summary(&mut times);
        println!("  {name:<36} {summary} (p50 {p50:.1}x, p99 {p99:.1}x)");
    }
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

/// Takes what comes, and counts it.
fn wait(wire: &mut Wire, over: &AtomicBool) {
    COPIES.store(0, Ordering::Relaxed);
    while !over.load(Ordering::Relaxed) {
        wire.step(Duration::from_millis(10)).unwrap();
        COPIES.fetch_add(wire.messages.drain(..).count(), Ordering::Relaxed);
    }
}

fn crowd(port: u16, over: &AtomicBool) {
    let mut wire = connect(port, "bench-mallory");
    wire.subscribe(&["apps/bench/users/+/messages/crowd/clientadded"])
        .unwrap();
    write(&mut wire, "crowd");
    wait(&mut wire, over);
}

/// As many copies as the last disturbance led to, as many in flight at a time, and somebody who
/// takes them.
fn copies(port: u16, over: &AtomicBool) {
    let count = COPIES.load(Ordering::Relaxed);
    let (mut sender, mut sent) = (connect(port, "bench-floor"), 0);
    std::thread::scope(|scope| {
        scope.spawn(|| drain(port, "apps/bench/users/+/messages/crowd/clientadded", over));
        while !over.load(Ordering::Relaxed) && sent < count {
            while sent < count && sent < sender.confirmed.len() + BULK_IN_FLIGHT {
                let topic = format!("apps/bench/users/m{sent:05}/messages/crowd/clientadded");
                sender.publish(topic, SPAM).unwrap();
                sent += 1;
            }
            sender.step(Duration::from_millis(10)).unwrap();
        }
    });
}

/// Acknowledges whatever comes until it is over.
fn drain(port: u16, filter: &str, over: &AtomicBool) {
    let mut wire = connect(port, "bench-drain");
    wire.subscribe(&[filter]).unwrap();
    while !over.load(Ordering::Relaxed) {
        wire.step(Duration::from_millis(10)).unwrap();
        wire.messages.clear();
    }
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
    flood_with(port, over, |wire| write(wire, to));
}

fn flood_with(port: u16, over: &AtomicBool, publish: impl Fn(&mut Wire)) {
    let mut wire = connect(port, "bench-mallory");
    let (begin, mut sent) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        while sent < begin.elapsed().as_micros() * FLOOD / 1_000_000 {
            publish(&mut wire);
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
    let mut wire = connect(port, "bench-mallory");
    while !over.load(Ordering::Relaxed) {
        write(&mut wire, "away");
        let next = Instant::now() + Duration::from_millis(500);
        while Instant::now() < next {
            wire.step(Duration::from_millis(10)).unwrap();
        }
    }
}

/// As many copies for that user. RabbitMQ 3.10 closes the connection on each.
fn full_queue_floor(port: u16, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut wire = connect(port, "bench-floor");
        let next = Instant::now() + Duration::from_millis(500);
        let mut is_open = wire.publish(AWAY, SPAM).is_ok();
        while Instant::now() < next {
            match is_open {
                true => is_open = wire.step(Duration::from_millis(10)).is_ok(),
                false => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }
}

fn full_queue_flooded(port: u16, over: &AtomicBool) {
    flood_to(port, "away", over);
}

/// As much for a session of somebody else.
fn flood_floor(port: u16, over: &AtomicBool) {
    std::thread::scope(|scope| {
        scope.spawn(|| drain(port, ELSEWHERE, over));
        flood_with(port, over, |wire| {
            wire.publish(ELSEWHERE, SPAM).unwrap();
        });
    });
}

/// Other brokers than RabbitMQ have no such queues: there it is a user who is away.
fn fill_queue(port: u16) {
    let login = ("observer".to_owned(), "observerpw".to_owned());
    let mut away = Wire::connect(port, "bench-away", &login, false).unwrap();
    away.subscribe(&["apps/bench/users/away/messages/+/clientadded"])
        .unwrap();
    away.disconnect();
    let policy = r#"{"max-length":1,"overflow":"reject-publish"}"#;
    let set = [
        "set_policy",
        "bench",
        "^mqtt-subscription-bench-away",
        policy,
    ];
    rabbitmqctl(port, &[&set[..], &["--apply-to", "queues"]].concat());
}

fn free_queue(port: u16) {
    rabbitmqctl(port, &["clear_policy", "bench"]);
    // Deletes the session at the broker.
    drop(connect(port, "bench-away"));
}

fn rabbitmqctl(port: u16, args: &[&str]) {
    let rabbit = ["rabbitmq3", "rabbitmq4"].into_iter().find(|broker| {
        let name = format!("BED_{}_MQTT", broker.to_uppercase());
        std::env::var(name).is_ok_and(|of| of == port.to_string())
    });
    let Some(broker) = rabbit else { return };
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
