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
#[allow(
    dead_code,
    reason = "shared with other benchmarks, which use more of it"
)]
mod observed;
#[path = "../it/wire.rs"]
#[allow(dead_code, reason = "shared with the tests, which use more of it")]
mod wire;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use observed::{WARM_UP, connect, cpu, each_broker, ordinary, percentile, start};
use wire::Wire;

const ABUSIVE: u64 = 5_000;
const TURN: Duration = Duration::from_secs(7);
/// One a second from each of a hundred.
const RATE: u64 = 100;
/// Where the flood goes: to a persistent session that only acknowledges, which shows the broker's
/// own cost, and to the observer.
const OTHERS: &str = "apps/bench/flood";
const READ: &str = "apps/bench/outgoing/users/mallory/messages/p0/outgoing";

fn main() {
    each_broker(|_, port| {
        let state = tempfile::TempDir::new().unwrap();
        let observer = start(
            port,
            state.path(),
            &["--rate-per-minute", "600", "--rate-burst", "100"],
        );
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
                turns[turn % 3].extend(ordinary(port, RATE, TURN));
                over.store(true, Ordering::Relaxed);
                sent += abuser.map_or(0, |abuser| abuser.join().unwrap());
            });
            spent[turn % 3] += cpu(observer.0.id()) - before;
        }
        drop(observer);
        let count: usize = turns.iter().map(Vec::len).sum();
        let rate = sent as f64 / (6.0 * (WARM_UP + TURN).as_secs_f64());
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
