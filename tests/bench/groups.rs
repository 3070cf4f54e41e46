//! A message to a group of a hundred and of ten thousand: time, CPU and memory for each member, and
//! how long a direct message takes meanwhile and otherwise. Run by `scripts/bench`.

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

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use observed::{Observer, connect, cpu, each_broker, percentile, start};
use wire::Wire;

const PAYLOAD_BYTES: usize = 4_096;
const SIZES: [usize; 2] = [100, 10_000];

fn main() {
    each_broker(|port| {
        for size in SIZES {
            let state = tempfile::TempDir::new().unwrap();
            let observer = start(port, state.path(), &[]);
            measure(port, &observer, state.path(), size);
            drop(observer);
        }
    });
}

/// A line of `/proc/PID/status`, in KiB.
fn memory(pid: u32, what: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Milliseconds a direct message takes from alice to bob, one at a time, until `over` says so.
fn direct(alice: &mut Wire, bob: &mut Wire, mut over: impl FnMut(usize) -> bool) -> Vec<f64> {
    let mut times = vec![];
    while !over(times.len()) {
        let begin = Instant::now();
        alice
            .publish(
                "apps/bench/outgoing/users/alice/messages/bob/outgoing",
                r#"{"text":"x"}"#,
            )
            .unwrap();
        bob.message(Duration::from_secs(20))
            .expect("a direct message does not arrive");
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        while alice.confirmed.is_empty() {
            alice.step(Duration::from_secs(1)).unwrap();
        }
        alice.confirmed.clear();
        std::thread::sleep(Duration::from_millis(2));
    }
    times
}

fn measure(port: u16, observer: &Observer, state: &Path, size: usize) {
    let members: Vec<String> = (1..size).map(|n| format!(r#""m{n:05}":1"#)).collect();
    let file = state.join("group.json");
    std::fs::write(
        &file,
        format!(r#"{{"members":{{"alice":1,{}}}}}"#, members.join(",")),
    )
    .unwrap();
    let set = Command::new(env!("CARGO_BIN_EXE_chat21-observer"))
        .args(["group", "set", "bench", "crowd", file.to_str().unwrap()])
        .args(["--state-dir", state.to_str().unwrap()])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(set.success());
    let (mut alice, mut bob) = (connect(port, "bench-alice"), connect(port, "bench-bob"));
    bob.subscribe(&["apps/bench/users/bob/messages/+/clientadded"])
        .unwrap();
    // Some members listen, among them the last one, who gets the last copy.
    let mut last = connect(port, "bench-last");
    let end = format!(
        "apps/bench/users/m{:05}/messages/crowd/clientadded",
        size - 1
    );
    last.subscribe(&[&end]).unwrap();
    let text = format!(r#"{{"text":"{}"}}"#, "x".repeat(PAYLOAD_BYTES));
    let to_all = |wire: &mut Wire| {
        wire.publish_confirmed(
            "apps/bench/outgoing/users/alice/messages/crowd/outgoing",
            &text,
        )
        .unwrap();
    };
    let mut crier = connect(port, "bench-crier");
    let mut idle = direct(&mut alice, &mut bob, |n| n == 1_000);
    let (idle_p50, idle_p99) = (percentile(&mut idle, 50), percentile(&mut idle, 99));

    // Without other traffic: one message to warm up, then as many as make ten thousand copies.
    let rounds = 10_000 / size;
    to_all(&mut crier);
    last.message(Duration::from_secs(60)).unwrap();
    let before = memory(observer.0.id(), "VmRSS");
    let (begin, begin_cpu) = (Instant::now(), cpu(observer.0.id()));
    for _ in 0..rounds {
        to_all(&mut crier);
        last.message(Duration::from_secs(60))
            .expect("the last member gets nothing");
    }
    let (took, spent) = (
        begin.elapsed().as_secs_f64(),
        cpu(observer.0.id()) - begin_cpu,
    );
    let grown = memory(observer.0.id(), "VmHWM") - before;
    let copies = (rounds * size) as f64;

    // Then with direct messages all the time.
    let times = std::thread::scope(|scope| {
        let (over_tx, over_rx) = std::sync::mpsc::channel();
        scope.spawn(move || {
            for _ in 0..rounds * 15 {
                to_all(&mut crier);
                last.message(Duration::from_secs(60))
                    .expect("the last member gets nothing");
            }
            over_tx.send(()).unwrap();
        });
        direct(&mut alice, &mut bob, |_| over_rx.try_recv().is_ok())
    });
    let mut times = times;
    let (busy_p50, busy_p99) = (percentile(&mut times, 50), percentile(&mut times, 99));
    println!(
        "  {size:>6} members: {:>6.1} us and {:>5.1} us CPU a copy, {:>5.0} copies/s, memory grew \
        {grown:>5.0} KiB; direct message p50 {idle_p50:.2} -> {busy_p50:.2} ms, p99 \
        {idle_p99:.2} -> {busy_p99:.2} ms ({:.1}x, {} tried)",
        took * 1e6 / copies,
        spent * 1e6 / copies,
        copies / took,
        busy_p99 / idle_p99,
        times.len(),
    );
}
