//! What a page of the HTTP API costs in a store of ten million messages. First in the store alone,
//! without a broker; then over HTTP, 200 a second beside 1,000 messages a second, with what these
//! notice of it. The budget: 5 ms at the 99th percentile, and a tenth more for the messages. At the
//! end, how long an observer takes from its start until it is ready after one was killed with
//! messages under way: at most 2 s. Run by `scripts/bench-api`. BENCH_MESSAGES makes the store
//! smaller.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: what goes wrong ends it, it has its own clock, and prints"
)]

mod large_store;
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
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chat21_observer::protocol::address::Timeline;
use chat21_observer::protocol::id::{AppId, UserId};
use chat21_observer::rules::listing::{From, Place, Window};
use chat21_observer::store::reader::Reader;
use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};

use large_store::{CONVERSATIONS, fill};
use observed::{Observer, each_broker, ordinary, percentile, print_disk, start, start_again};

const RUNS: usize = 500;
/// Messages a second, and reads beside them.
const RATE: u64 = 1_000;
const READS: u32 = 200;
/// Connections that share them.
const CLIENTS: usize = 8;
const TURN: Duration = Duration::from_secs(10);
const TURNS: usize = 9;
/// Starts after a kill, and for how long messages come around each.
const KILLS: usize = 5;
const AROUND: Duration = Duration::from_secs(6);
const KEY: &str = "a key of this measurement";

fn main() {
    if std::env::args().any(|arg| arg == "--test") {
        return; // `cargo test --benches` only asks whether it builds.
    }
    let messages = std::env::var("BENCH_MESSAGES").map_or(10_000_000, |text| {
        text.parse().expect("BENCH_MESSAGES is a number")
    });
    let dir = tempfile::TempDir::new().expect("a directory");
    let path = dir.path().join("observer.db");
    let location = StoreLocation::File(path.clone());
    drop(
        store::open(&location, Access::Exclusive, OfflineDelivery::Broker).expect("an empty store"),
    );
    let began = Instant::now();
    fill(&path, messages);
    let size = path.metadata().expect("a store").len() >> 20;
    println!(
        "{messages} messages, {size} MiB, made in {:?}",
        began.elapsed()
    );
    for when in ["opened first", "opened again"] {
        let began = Instant::now();
        let store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker);
        drop(store.expect("the store"));
        println!("{when:<44} {:>9.2?}", began.elapsed());
    }
    let mut reader = store::read_only(&location).expect("a store to read");
    measure(reader.as_mut());
    drop(reader);
    print_disk();
    each_broker(|_, port| over_http(port, dir.path()));
}

/// Reads beside messages, turn and turn about.
fn over_http(port: u16, state: &Path) {
    let key = state.join("key");
    std::fs::write(&key, KEY).unwrap();
    let api = free_port();
    let listen = format!("127.0.0.1:{api}");
    let more = [
        "--api-listen",
        &listen,
        "--api-jwt-key-file",
        key.to_str().unwrap(),
    ];
    let observer = start(port, state, &more);
    let pid = observer.0.id();
    println!(
        "  {:<44} {} MiB",
        "memory after the start",
        mebibytes(pid, "VmRSS")
    );
    ordinary(port, RATE, Duration::from_secs(3));
    let canned = canned(api);
    let [real, floor] = [(); 2].map(|()| PATHS.map(|_| Mutex::new(vec![])));
    let mut messages = [vec![], vec![], vec![]];
    for turn in 0..TURNS {
        let (over, next) = (&AtomicBool::new(false), &AtomicUsize::new(0));
        let began = Instant::now();
        std::thread::scope(|scope| {
            let read = match turn % 3 {
                0 => None,
                1 => Some((api, &real)),
                _ => Some((canned, &floor)),
            };
            if let Some((server, reads)) = read {
                for _ in 0..CLIENTS {
                    scope.spawn(move || read_on(server, began, next, over, reads));
                }
            }
            messages[turn % 3].extend(ordinary(port, RATE, TURN));
            over.store(true, Ordering::Relaxed);
        });
    }
    let [mut alone, mut beside, mut beside_canned] = messages;
    for (reads, (what, _)) in real.iter().zip(PATHS) {
        let mut took = reads.lock().unwrap();
        let count = took.len();
        println!("  {what:<44} {} ({count} reads)", summary(&mut took));
    }
    let mut canned: Vec<f64> = floor
        .into_iter()
        .flat_map(|times| times.into_inner().unwrap())
        .collect();
    println!("  {:<44} {}", "canned answers", summary(&mut canned));
    for (what, times) in [
        ("messages alone", &mut alone),
        ("messages beside reads", &mut beside),
        ("messages beside canned answers", &mut beside_canned),
    ] {
        println!("  {what:<44} {}", summary(times));
    }
    for (what, base) in [("alone", &mut alone), ("canned", &mut beside_canned)] {
        let [p50, p99] = [50, 99].map(|at| percentile(&mut beside, at) / percentile(base, at));
        let what = format!("beside reads to {what}");
        println!("  {what:<44} p50 {p50:.2}x, p99 {p99:.2}x");
    }
    println!("  {:<44} {} MiB", "memory at most", mebibytes(pid, "VmHWM"));
    kill(port, state, observer);
}

/// Kills the observer while messages come, and starts another: how long that takes until it is
/// ready. No message is lost.
fn kill(port: u16, state: &Path, mut observer: Observer) {
    let mut took = vec![];
    for _ in 0..KILLS {
        std::thread::scope(|scope| {
            scope.spawn(|| ordinary(port, RATE, AROUND));
            std::thread::sleep(AROUND / 3);
            observer.0.kill().unwrap();
            observer.0.wait().unwrap();
            let began = Instant::now();
            observer = start_again(port, state, &[]);
            took.push(began.elapsed().as_secs_f64() * 1e3);
        });
    }
    println!("  {:<44} {}", "ready after a kill", summary(&mut took));
    let pid = observer.0.id();
    println!(
        "  {:<44} {} MiB",
        "memory then, at most",
        mebibytes(pid, "VmHWM")
    );
}

/// A server that only sends what the API has answered: what the clients of this measurement cost on
/// the same processor, and the copying of so many bytes.
fn canned(api: u16) -> u16 {
    let answers: Vec<_> = PATHS
        .map(|(_, path)| {
            let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", api)).unwrap());
            ask(&mut stream, path, &token())
        })
        .into();
    let answers = std::sync::Arc::new(answers);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = answers.clone();
            std::thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let mut lines = BufReader::new(stream);
                let mut line = String::new();
                let mut wanted = 0;
                while lines.read_line(&mut line).is_ok_and(|read| read > 0) {
                    let asked = PATHS
                        .iter()
                        .position(|(_, path)| line.contains(&format!("/{path} ")));
                    wanted = asked.unwrap_or(wanted);
                    if line == "\r\n" {
                        let body: &Vec<u8> = &answers[wanted];
                        let head =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        let answer = [head.as_bytes(), body].concat();
                        if lines.get_mut().write_all(&answer).is_err() {
                            return;
                        }
                    }
                    line.clear();
                }
            });
        }
    });
    port
}

/// What is read, and where under the app.
const PATHS: [(&str, &str); 5] = [
    ("10,000 conversations", "many/conversations"),
    (
        "messages of the largest conversation",
        "many/conversations/user-00000/messages",
    ),
    (
        "the same, in the middle",
        "many/conversations/user-00000/messages?before=p1000000",
    ),
    (
        "messages of a small conversation",
        "many/conversations/user-00171/messages",
    ),
    ("one conversation", "many/conversations/user-00171"),
];

/// Reads in turn, each when it is due. What comes late counts from when it was due.
fn read_on(
    api: u16,
    began: Instant,
    next: &AtomicUsize,
    over: &AtomicBool,
    reads: &[Mutex<Vec<f64>>; PATHS.len()],
) {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", api)).unwrap());
    stream.get_ref().set_nodelay(true).unwrap();
    let token = token();
    while !over.load(Ordering::Relaxed) {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let due = began + Duration::from_secs(1) / READS * u32::try_from(n).unwrap();
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (_, path) = PATHS[n % PATHS.len()];
        let body = ask(&mut stream, path, &token);
        assert!(
            body.starts_with(br#"{"success":true,"result":[{"#),
            "{path}"
        );
        let took = due.elapsed().as_secs_f64() * 1e3;
        reads[n % PATHS.len()].lock().unwrap().push(took);
    }
}

/// The body of an answer.
fn ask(stream: &mut BufReader<TcpStream>, path: &str, token: &str) -> Vec<u8> {
    let request =
        format!("GET /api/bench/{path} HTTP/1.1\r\nhost: x\r\nauthorization: {token}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).unwrap();
    let mut length = 0;
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
        if let Some(bytes) = line.strip_prefix("content-length: ") {
            length = bytes.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    body
}

fn token() -> String {
    let claims = serde_json::json!({"sub": "many", "app_id": "bench", "exp": 4_000_000_000_u64});
    let key = jsonwebtoken::EncodingKey::from_secret(KEY.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn summary(times: &mut [f64]) -> String {
    let [p50, p99, worst] = [50, 99, 100].map(|percent| percentile(times, percent));
    format!("p50 {p50:>7.2} ms, p99 {p99:>7.2} ms, worst {worst:>7.2} ms")
}

fn mebibytes(pid: u32, which: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(which)).unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1_024
}

fn measure(reader: &mut dyn Reader) {
    let app = AppId::parse("bench").expect("an app");
    let many = UserId::parse("many").expect("a user");
    let page = |from| Window { from, limit: 200 };
    fn timeline(with: &str) -> Timeline<'_> {
        let user = |id| UserId::parse(id).expect("a user");
        Timeline {
            app: AppId::parse("bench").expect("an app"),
            inbox_of: user("many"),
            convers_with: user(with),
        }
    }
    println!("{:<44} {:>9} {:>9}", "a page of 200", "p50", "p99");
    let mut time = |what: &str, read: &mut dyn FnMut(&mut dyn Reader) -> usize| {
        let mut took: Vec<Duration> = (0..RUNS)
            .map(|_| {
                let began = Instant::now();
                let found = read(reader);
                assert!(found > 0, "{what}: nothing was read");
                began.elapsed()
            })
            .collect();
        took.sort_unstable();
        let at = |percent: usize| took[RUNS * percent / 100];
        println!("{what:<44} {:>9.2?} {:>9.2?}", at(50), at(99));
    };
    time("10,000 conversations", &mut |reader| {
        let slice = reader.conversations(app, many, false, page(From::Newest));
        slice.expect("a page").entries.len()
    });
    time("the same, from the oldest on", &mut |reader| {
        let from = From::Since(Place::Position(0));
        let slice = reader.conversations(app, many, false, page(from));
        slice.expect("a page").entries.len()
    });
    time("messages of the largest conversation", &mut |reader| {
        let slice = reader.messages(&timeline("user-00000"), page(From::Newest));
        slice.expect("a page").entries.len()
    });
    time("the same, in the middle", &mut |reader| {
        let from = From::Before(Place::Position(1_000_000));
        let slice = reader.messages(&timeline("user-00000"), page(from));
        slice.expect("a page").entries.len()
    });
    let mut n = 0;
    time(
        "messages of another conversation each time",
        &mut |reader| {
            n += 1;
            let with = format!("user-{:05}", (n * 170 + 1) % CONVERSATIONS);
            let slice = reader.messages(&timeline(&with), page(From::Newest));
            slice.expect("a page").entries.len()
        },
    );
    time("one conversation", &mut |reader| {
        let row = reader.listed_conversation(&timeline("user-00000"));
        usize::from(row.expect("a row").is_some())
    });
}
