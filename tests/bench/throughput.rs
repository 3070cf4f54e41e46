//! Messages a second through the observer, without and with its store, beside those of a null
//! forwarder on the same broker in the same run: `scripts/bench`.
//!
//! BENCH_BESIDE=PROGRAM measures that program, too, in the same rounds: another build of the
//! observer.
//!
//! The null forwarder has the same connections, a persistent session among them (RabbitMQ writes to
//! the disk what waits in one), and the same order of things (two copies, acknowledged when both
//! are confirmed), but parses nothing and checks nothing. Rounds alternate,
//! so that a noisy machine is noisy for both; the ratio of medians counts.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: what goes wrong ends it, it has its own clock, and prints"
)]

#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod wire;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rumqttc::{
    AsyncClient, Event, MqttOptions, NetworkOptions, Packet, Publish, QoS, SubscribeFilter,
};
use wire::Wire;

const MESSAGES: usize = 20_000;
const WARM_UP: usize = 1_000;
const UNDER_WAY: usize = 100;
const ROUNDS: usize = 3;
const LOGIN: (&str, &str) = ("observer", "observerpw");

fn main() {
    if let Ok(port) = std::env::var("NULL_FORWARDER") {
        return null_forwarder(port.parse().unwrap());
    }
    if std::env::args().any(|arg| arg == "--test") {
        return; // `cargo test --benches` only asks whether it builds.
    }
    if std::env::var_os("BED_MOSQUITTO_MQTT").is_none() {
        println!("the rate is measured by scripts/bench, which starts the brokers");
        return;
    }
    println!("rate and CPU a message; in parentheses as a ratio to the null forwarder");
    let beside = std::env::var("BENCH_BESIDE").ok();
    let ours = env!("CARGO_BIN_EXE_chat21-observer");
    let mut programs = vec![("this build", ours)];
    programs.extend(beside.as_deref().map(|other| ("beside", other)));
    let rounds = std::env::var("BENCH_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let only = std::env::var("BENCH_BROKERS")
        .unwrap_or_else(|_| "RABBITMQ3 RABBITMQ4 MOSQUITTO".to_owned());
    for broker in only.split_whitespace() {
        measure_on(broker, &programs, rounds);
    }
}

/// Prints one line for each program.
fn measure_on(broker: &str, programs: &[(&str, &str)], rounds: usize) {
    let port: u16 = std::env::var(format!("BED_{broker}_MQTT"))
        .expect("run scripts/bench")
        .parse()
        .unwrap();
    let mut null = vec![];
    let mut runs = vec![[vec![], vec![]]; programs.len()];
    for _ in 0..rounds {
        null.push(measure(port, start_null(port)));
        for (runs, (_, program)) in runs.iter_mut().zip(programs) {
            for (runs, with_store) in runs.iter_mut().zip([false, true]) {
                let state = tempfile::TempDir::new().unwrap();
                let observer = start_observer(program, port, state.path(), with_store);
                runs.push(measure(port, observer));
            }
        }
    }
    let medians = |runs: &[(f64, f64)]| {
        let rate = median(runs.iter().map(|run| run.0));
        (rate, median(runs.iter().map(|run| run.1)))
    };
    let null = medians(&null);
    let broker = broker.to_lowercase();
    println!("{broker}: null forwarder {:.0}/s {:.1} us", null.0, null.1);
    for (runs, (name, _)) in runs.iter().zip(programs) {
        let [bare, stored] = [medians(&runs[0]), medians(&runs[1])];
        let beside_null = |run: (f64, f64)| {
            let (rate, cpu) = (run.0 / null.0, run.1 / null.1);
            format!("{:>6.0}/s ({rate:.2}) {:>5.1} us ({cpu:.2})", run.0, run.1)
        };
        println!(
            "  {name:<10} --store none {:>32}   with a store {:>32}   CPU with / without {:.2}",
            beside_null(bare),
            beside_null(stored),
            stored.1 / bare.1
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Waits for the line of the log that says that it is ready.
fn start(command: &mut Command) -> Child {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.find(|line| line.as_ref().unwrap().contains("ready"));
    assert!(ready.is_some(), "it has ended");
    // Somebody has to read on: the pipe would fill up.
    std::thread::spawn(move || lines.for_each(drop));
    child
}

fn start_null(port: u16) -> Child {
    start(Command::new(std::env::current_exe().unwrap()).env("NULL_FORWARDER", port.to_string()))
}

fn start_observer(program: &str, port: u16, state: &std::path::Path, with_store: bool) -> Child {
    let broker = format!("mqtt://127.0.0.1:{port}");
    let args = [
        "run",
        "--broker",
        &broker,
        "--username",
        LOGIN.0,
        "--protocol",
        "3.1.1",
        "--http-listen",
        "none",
        "--app",
        "bench",
        "--layouts",
        "chat21",
        // Deletes the session of the previous run: it would fill up and slow the broker down.
        "--client-id",
        "bench-observer-throughput",
        "--reset-session",
        // One sender, who is not limited.
        "--rate-per-minute",
        "none",
        "--state-dir",
        state.to_str().unwrap(),
    ];
    let store: &[&str] = if with_store {
        &[]
    } else {
        &["--store", "none"]
    };
    start(
        Command::new(program)
            .args(args)
            .args(store)
            .env("OBSERVER_PASSWORD", LOGIN.1),
    )
}

/// User and system time of a process, in seconds.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum();
    ticks / 100.0
}

/// Messages a second, and microseconds of CPU the forwarder spends on one.
fn measure(port: u16, mut forwarder: Child) -> (f64, f64) {
    let login = (LOGIN.0.to_owned(), LOGIN.1.to_owned());
    let mut recipient = Wire::connect(port, "bench-recipient", &login, true).unwrap();
    recipient
        .subscribe(&["apps/bench/users/+/messages/alice/clientadded"])
        .unwrap();
    let mut sender = Wire::connect(port, "bench-sender", &login, true).unwrap();
    let payload = format!(
        r#"{{"text":"{}","type":"text","channel_type":"direct"}}"#,
        "x".repeat(240)
    );
    let arrived = AtomicUsize::new(0);
    let total = WARM_UP + MESSAGES;
    let (mut begin, mut begin_cpu) = (Instant::now(), 0.0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while arrived.load(Ordering::Relaxed) < total {
                recipient.step(Duration::from_secs(20)).unwrap();
                arrived.fetch_add(recipient.messages.drain(..).count(), Ordering::Relaxed);
            }
        });
        for n in 0..total {
            if n == WARM_UP {
                (begin, begin_cpu) = (Instant::now(), cpu(forwarder.id()));
            }
            while n - arrived.load(Ordering::Relaxed).min(n) >= UNDER_WAY {
                let _ = sender.step(Duration::from_micros(200));
            }
            let topic = format!(
                "apps/bench/outgoing/users/alice/messages/u{:02}/outgoing",
                n % 20
            );
            sender.publish(topic, &payload).unwrap();
        }
    });
    let (took, spent) = (
        begin.elapsed().as_secs_f64(),
        cpu(forwarder.id()) - begin_cpu,
    );
    forwarder.kill().unwrap();
    forwarder.wait().unwrap();
    (MESSAGES as f64 / took, spent * 1e6 / MESSAGES as f64)
}

/// The least a forwarder can do: one session, one publishing connection, two copies of each message
/// under other topics.
fn null_forwarder(port: u16) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let connect = |id: &str, clean| {
            let mut options = MqttOptions::new(id, "127.0.0.1", port);
            options
                .set_credentials(LOGIN.0, LOGIN.1)
                .set_clean_session(clean)
                .set_manual_acks(true)
                .set_inflight(16_000)
                .set_max_packet_size(1 << 20, 1 << 20);
            let (client, mut events) = AsyncClient::new(options, 4_000);
            let mut network = NetworkOptions::new();
            network.set_tcp_nodelay(true);
            events.set_network_options(network);
            (client, events)
        };
        // Deletes the session of the previous run.
        let login = (LOGIN.0.to_owned(), LOGIN.1.to_owned());
        drop(Wire::connect(port, "null-forwarder", &login, true).unwrap());
        let (acks, mut session) = connect("null-forwarder", false);
        let (publishes, mut publisher) = connect("null-forwarder-pub", true);
        let (confirmed_tx, mut confirmed_rx) = tokio::sync::mpsc::unbounded_channel::<()>();
        let (delivered_tx, mut delivered_rx) = tokio::sync::mpsc::unbounded_channel::<Publish>();
        tokio::task::spawn_local(async move {
            loop {
                if let Event::Incoming(Packet::PubAck(_)) = publisher.poll().await.unwrap() {
                    confirmed_tx.send(()).unwrap();
                }
            }
        });
        let filter = "apps/bench/outgoing/users/+/messages/+/outgoing".to_owned();
        let filter = SubscribeFilter::new(filter, QoS::AtLeastOnce);
        acks.subscribe_many([filter]).await.unwrap();
        tokio::task::spawn_local(async move {
            loop {
                match session.poll().await.unwrap() {
                    Event::Incoming(Packet::Publish(publish)) => {
                        delivered_tx.send(publish).unwrap();
                    }
                    Event::Incoming(Packet::SubAck(_)) => eprintln!("ready"),
                    Event::Incoming(_) | Event::Outgoing(_) => {}
                }
            }
        });
        // Counting confirmations is enough: the broker loses nothing here.
        let (mut waiting, mut confirmations): (VecDeque<Publish>, usize) = (VecDeque::new(), 0);
        loop {
            tokio::select! {
                Some(publish) = delivered_rx.recv() => {
                    let levels: Vec<&str> = publish.topic.split('/').collect();
                    for (of, with) in [(levels[4], levels[6]), (levels[6], levels[4])] {
                        let app = levels[1];
                        let topic = format!("apps/{app}/users/{of}/messages/{with}/clientadded");
                        let payload = publish.payload.clone();
                        publishes
                            .publish_bytes(topic, QoS::AtLeastOnce, false, payload)
                            .await
                            .unwrap();
                    }
                    waiting.push_back(publish);
                }
                Some(()) = confirmed_rx.recv() => confirmations += 1,
            }
            while confirmations >= 2 {
                confirmations -= 2;
                acks.ack(&waiting.pop_front().unwrap()).await.unwrap();
            }
        }
    });
}
