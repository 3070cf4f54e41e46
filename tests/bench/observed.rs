//! What the benchmarks share: an observer, its clients, and the processes' CPU time.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::wire::Wire;

/// Pairs of users who write to each other.
const PAIRS: u64 = 100;
/// What is not counted at the beginning of a turn: everybody connects then, and the broker makes
/// what it has for them while messages wait.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
pub(crate) const LOGIN: (&str, &str) = ("observer", "observerpw");

/// Measures on each broker of the bed (`BENCH_BROKERS`). Without a bed it does nothing: `cargo
/// test` only builds the benchmarks.
pub(crate) fn each_broker(measure: impl Fn(&str, u16)) {
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
        measure(broker, port.parse().unwrap());
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

/// An observer that is ready. The session of the previous run is deleted: it would fill up and slow
/// the broker down.
pub(crate) fn start(port: u16, state: &Path, more: &[&str]) -> Observer {
    start_again(port, state, &[more, &["--reset-session"]].concat())
}

/// An observer that is ready, and goes on where the one before it was.
pub(crate) fn start_again(port: u16, state: &Path, more: &[&str]) -> Observer {
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
            "--client-id",
            "bench-observer-of-one",
        ])
        .args(["--state-dir", state.to_str().unwrap()])
        // A few senders stand for many, unless their rate is what is measured.
        .args(match more.contains(&"--rate-per-minute") {
            true => &[][..],
            false => &["--rate-per-minute", "none"],
        })
        .args(more)
        .env("OBSERVER_PASSWORD", LOGIN.1)
        .args(["--log-format", "text"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let ready = lines.find(|line| line.as_ref().unwrap().contains(" INFO ready: "));
    assert!(ready.is_some(), "it has ended");
    // Somebody has to read on: the pipe would fill up.
    std::thread::spawn(move || lines.for_each(drop));
    Observer(child)
}

pub(crate) fn connect(port: u16, name: &str) -> Wire {
    Wire::connect(port, name, &(LOGIN.0.to_owned(), LOGIN.1.to_owned()), true).unwrap()
}

/// A hundred pairs that send `rate` messages a second together, for [`WARM_UP`] and `turn`: the
/// milliseconds that each of the turn takes to its recipient. One that does not arrive ends the
/// measurement.
pub(crate) fn ordinary(port: u16, rate: u64, turn: Duration) -> Vec<f64> {
    let turn = WARM_UP + turn;
    let count = rate * turn.as_secs();
    let warm_up = rate * WARM_UP.as_secs();
    let begin = Instant::now();
    let published: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
    let published = &published;
    let mut peers = connect(port, "bench-peers");
    // Nothing else: what others get would wait in the same session.
    let filters: Vec<String> = (0..PAIRS)
        .map(|user| format!("apps/bench/users/p{user}/messages/+/clientadded"))
        .collect();
    let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
    peers.subscribe(&filters).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut senders = connect(port, "bench-senders");
            for n in 0..count {
                let due = begin + turn * u32::try_from(n).unwrap() / u32::try_from(count).unwrap();
                while Instant::now() < due {
                    let left = due.saturating_duration_since(Instant::now());
                    senders
                        .step(
                            left.min(Duration::from_millis(1))
                                .max(Duration::from_micros(100)),
                        )
                        .unwrap();
                }
                let user = n % PAIRS;
                let at = u64::try_from(begin.elapsed().as_micros()).unwrap();
                published[usize::try_from(n).unwrap()].store(at.max(1), Ordering::Relaxed);
                let topic = format!("apps/bench/outgoing/users/n{user}/messages/p{user}/outgoing");
                senders.publish(topic, format!("{{\"n\":{n}}}")).unwrap();
            }
            while senders.confirmed.len() < usize::try_from(count).unwrap() {
                senders.step(Duration::from_secs(5)).unwrap();
            }
        });
        let mut times = vec![];
        while times.len() < usize::try_from(count).unwrap() {
            let message = peers
                .message(Duration::from_secs(20))
                .expect("a normal message is lost");
            let now = begin.elapsed().as_micros() as f64;
            // The abuser's messages have no number.
            if message.topic().starts_with("apps/bench/users/p")
                && let Some(n) = message.json()["n"].as_u64()
            {
                let sent = published[usize::try_from(n).unwrap()].load(Ordering::Relaxed);
                times.push((n, (now - sent as f64) / 1e3));
            }
        }
        let turn = times.into_iter().filter(|(n, _)| *n >= warm_up);
        turn.map(|(_, took)| took).collect()
    })
}

/// Prints how long the disk takes to keep a page, with nothing else to do: no message that is
/// stored can be quicker.
pub(crate) fn print_disk() {
    let file = tempfile::tempfile().unwrap();
    let mut times: Vec<f64> = (0..5_000)
        .map(|n| {
            std::thread::sleep(Duration::from_millis(1));
            let began = Instant::now();
            file.write_at(&[1; 4_096], n % 1_024 * 4_096).unwrap();
            file.sync_data().unwrap();
            began.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    let [p50, p99, worst] = [50, 99, 100].map(|percent| percentile(&mut times, percent));
    println!("the disk alone: p50 {p50:.2} ms, p99 {p99:.2} ms, worst {worst:.2} ms");
}

pub(crate) fn percentile(times: &mut [f64], percent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// User and system time of a process, in seconds.
pub(crate) fn cpu(pid: u32) -> f64 {
    seconds(&stat(pid).unwrap()[11..13])
}

/// The same of a process and of those that it has started, ended or not.
pub(crate) fn cpu_of_all(pid: u32) -> f64 {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children = pids.filter_map(|child| {
        // One may end while it is looked at.
        let fields = stat(child).ok()?;
        (fields[1] == pid.to_string()).then(|| seconds(&fields[11..13]))
    });
    seconds(&stat(pid).unwrap()[11..15]) + children.sum::<f64>()
}

/// What the kernel tells of a process, from its state on.
fn stat(pid: u32) -> std::io::Result<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    Ok(fields.map(str::to_owned).collect())
}

fn seconds(ticks: &[String]) -> f64 {
    let ticks = ticks.iter().map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / 100.0
}
