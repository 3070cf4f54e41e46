//! What the benchmarks share: an observer, its clients, and the processes' CPU time.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::wire::Wire;

const LOGIN: (&str, &str) = ("observer", "observerpw");

/// Measures on each broker of the bed (`BENCH_BROKERS`). Without a bed it does nothing: `cargo
/// test` only builds the benchmarks.
pub(crate) fn each_broker(measure: impl Fn(u16)) {
    if std::env::args().any(|arg| arg == "--test") {
        return;
    }
    if std::env::var_os("BED_MOSQUITTO_MQTT").is_none() {
        println!("this is measured by scripts/bench, which starts the brokers");
        return;
    }
    let only = std::env::var("BENCH_BROKERS")
        .unwrap_or_else(|_| "RABBITMQ3 RABBITMQ4 MOSQUITTO".to_owned());
    for broker in only.split_whitespace() {
        let port = std::env::var(format!("BED_{broker}_MQTT")).expect("run scripts/bench");
        println!("{}", broker.to_lowercase());
        measure(port.parse().unwrap());
    }
}

/// An observer that does not outlive the measurement.
pub(crate) struct Observer(pub(crate) Child);

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn start(port: u16, state: &Path, more: &[&str]) -> Observer {
    let broker = format!("mqtt://127.0.0.1:{port}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_chat21-observer"))
        .args([
            "run",
            "--broker",
            &broker,
            "--username",
            LOGIN.0,
            "--http-listen",
            "none",
            "--app",
            "bench",
            // Deletes the session of the previous run: it would fill up and slow the broker down.
            "--client-id",
            "bench-observer-of-one",
            "--reset-session",
        ])
        .args(["--state-dir", state.to_str().unwrap()])
        .args(more)
        .env("OBSERVER_PASSWORD", LOGIN.1)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert!(line.starts_with("ready"), "{line:?}");
    Observer(child)
}

pub(crate) fn connect(port: u16, name: &str) -> Wire {
    Wire::connect(port, name, &(LOGIN.0.to_owned(), LOGIN.1.to_owned()), true).unwrap()
}

pub(crate) fn percentile(times: &mut [f64], percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// User and system time of a process, in seconds.
pub(crate) fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    fields[11..13]
        .iter()
        .map(|ticks| ticks.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}
