//! One sender at 5,000 messages a second, over the rate allowed, beside a hundred who write one a
//! second each: what those lose, and how long their messages take, with the first and without.
//! Run by `scripts/bench`.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: what goes wrong ends it, it has its own clock, and prints"
)]

#[path = "observed.rs"]
mod observed;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod wire;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use observed::{connect, cpu, each_broker, percentile, start};
use wire::Wire;

const NORMAL: u64 = 100;
const ABUSIVE: u64 = 5_000;
const TURN: Duration = Duration::from_secs(7);
/// Where the flood goes: to a persistent session that only acknowledges, which shows the broker's
/// own cost, and to the observer.
const OTHERS: &str = "apps/bench/flood";
const READ: &str = "apps/bench/outgoing/users/mallory/messages/p0/outgoing";

fn main() {
    each_broker(|port| {
        let state = tempfile::TempDir::new().unwrap();
        let observer = start(
            port,
            state.path(),
            &["--rate-per-minute", "600", "--rate-burst", "100"],
        );
        // Turn and turn about, so that what else the machine does meets both.
        // Turn and turn about, so that what else the machine does meets all alike.
        let mut turns = [vec![], vec![], vec![]];
        let (mut sent, mut spent) = (0, [0.0; 3]);
        for turn in 0..9 {
            let over = &AtomicBool::new(false);
            let before = cpu(observer.0.id());
            let flood = [None, Some(OTHERS), Some(READ)][turn % 3];
            std::thread::scope(|scope| {
                if flood == Some(OTHERS) {
                    scope.spawn(move || drain(port, over));
                }
                let abuser = flood.map(|topic| scope.spawn(move || abuse(port, topic, over)));
                turns[turn % 3].extend(normal(port));
                over.store(true, Ordering::Relaxed);
                sent += abuser.map_or(0, |abuser| abuser.join().unwrap());
            });
            spent[turn % 3] += cpu(observer.0.id()) - before;
        }
        drop(observer);
        let count: usize = turns.iter().map(Vec::len).sum();
        let rate = sent as f64 / (6.0 * TURN.as_secs_f64());
        let cost = (spent[2] - spent[0]) * 1e6 / (sent as f64 / 2.0);
        println!(
            "  {count} normal messages, none lost; {rate:.0}/s abusive, {cost:.1} us of the \
            observer's CPU each"
        );
        let idle = [50, 99].map(|percent| percentile(&mut turns[0], percent));
        for (what, times) in [
            "alone",
            "beside a flood for another session",
            "beside a sender over the rate",
        ]
        .iter()
        .zip(&mut turns)
        {
            let [p50, p99] = [50, 99].map(|percent| percentile(times, percent));
            println!(
                "    {what:<36} p50 {p50:>6.2} ms ({:.1}x), p99 {p99:>6.2} ms ({:.1}x)",
                p50 / idle[0],
                p99 / idle[1]
            );
        }
    });
}

/// Milliseconds each message of the normal senders takes to its recipient; one that does not arrive
/// ends the measurement.
fn normal(port: u16) -> Vec<f64> {
    let count = NORMAL * TURN.as_secs();
    let begin = Instant::now();
    let published: Vec<AtomicU64> = (0..count).map(|_| AtomicU64::new(0)).collect();
    let published = &published;
    let mut peers = connect(port, "bench-peers");
    peers
        .subscribe(&["apps/bench/users/+/messages/+/clientadded"])
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut senders = connect(port, "bench-senders");
            for n in 0..count {
                let due = begin + TURN * u32::try_from(n).unwrap() / u32::try_from(count).unwrap();
                while Instant::now() < due {
                    let left = due.saturating_duration_since(Instant::now());
                    senders
                        .step(
                            left.min(Duration::from_millis(1))
                                .max(Duration::from_micros(100)),
                        )
                        .unwrap();
                }
                let user = n % NORMAL;
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
                let n = usize::try_from(n).unwrap();
                times.push((now - published[n].load(Ordering::Relaxed) as f64) / 1e3);
            }
        }
        times
    })
}

/// Acknowledges whatever comes until it is over.
fn drain(port: u16, over: &AtomicBool) {
    let login = ("observer".to_owned(), "observerpw".to_owned());
    let mut wire = Wire::connect(port, "bench-drain", &login, false).unwrap();
    wire.subscribe(&[OTHERS]).unwrap();
    while !over.load(Ordering::Relaxed) {
        wire.step(Duration::from_millis(10)).unwrap();
        wire.messages.clear();
    }
    wire.disconnect();
    // Deletes the session at the broker.
    drop(Wire::connect(port, "bench-drain", &login, true));
}

/// Publishes as fast as the sender can until it is over. Returns how many that was.
fn abuse(port: u16, topic: &str, over: &AtomicBool) -> u64 {
    let mut wire = connect(port, "bench-abuser");
    let (begin, mut sent) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let due = begin.elapsed().as_micros() * u128::from(ABUSIVE) / 1_000_000;
        while u128::from(sent) < due {
            wire.publish(topic, r#"{"text":"spam"}"#).unwrap();
            sent += 1;
        }
        wire.step(Duration::from_millis(1)).unwrap();
        wire.confirmed.clear();
    }
    sent
}
