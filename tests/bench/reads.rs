//! What a page of the HTTP API costs the store: `cargo bench --bench reads`. The budget: 5 ms at
//! the 99th percentile, in a store of ten million messages.
//!
//! One user has a tenth of all messages in their inbox, and ten thousand conversations; one
//! conversation has a tenth of that inbox. BENCH_MESSAGES makes the store smaller.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement: what goes wrong ends it, it has its own clock, and prints"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use chat21_observer::protocol::address::Timeline;
use chat21_observer::protocol::id::{AppId, UserId};
use chat21_observer::rules::listing::{From, Place, Window};
use chat21_observer::store::reader::Reader;
use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};

const CONVERSATIONS: usize = 10_000;
const RUNS: usize = 500;
const PER_COMMIT: usize = 100_000;

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
    let mut reader = store::read_only(&path).expect("a store to read");
    measure(reader.as_mut());
}

/// Writes the rows themselves: through the store it would take an hour.
fn fill(path: &Path, messages: usize) {
    let connection = rusqlite::Connection::open(path).expect("the store");
    connection
        .execute_batch("PRAGMA synchronous = OFF; PRAGMA cache_size = -200000; BEGIN")
        .expect("a transaction");
    {
        let sql = "INSERT INTO message VALUES (?1, ?2, 'tilechat', ?3, ?4, 'chat21', ?5, NULL, ?6)";
        let mut message = connection.prepare(sql).expect("a statement");
        let sql = "INSERT INTO timeline VALUES ('tilechat', ?1, ?2, ?3, ?4)";
        let mut copy = connection.prepare(sql).expect("a statement");
        for n in 1..=messages {
            let (sender, recipient) = people(n);
            if n.is_multiple_of(PER_COMMIT) {
                connection
                    .execute_batch("COMMIT; BEGIN")
                    .expect("a transaction");
            }
            let n = i64::try_from(n).expect("not so many");
            let id = format!("{n:032}");
            let body = format!(
                "{{\"text\":\"message number {n} of many\",\"type\":\"text\",\"sender_fullname\":\
                 \"Somebody\",\"recipient_fullname\":\"Somebody else\",\"message_id\":\"{id}\",\
                 \"sender\":\"{sender}\",\"recipient\":\"{recipient}\",\"app_id\":\"tilechat\",\
                 \"timestamp\":{n},\"channel_type\":\"direct\"}}"
            );
            message
                .execute(rusqlite::params![n, id, sender, recipient, n, body])
                .expect("a message");
            for (of, with, status) in [(&sender, &recipient, 100), (&recipient, &sender, 150)] {
                copy.execute(rusqlite::params![of, n, with, status])
                    .expect("a copy");
            }
        }
    }
    connection
        .execute_batch(
            "INSERT INTO conversation SELECT app, inbox_of, convers_with, max(seq), 1, 0, NULL, NULL
             FROM timeline GROUP BY app, inbox_of, convers_with; COMMIT",
        )
        .expect("conversations");
}

/// Every tenth message is for the one user, and every tenth of those from one sender.
fn people(n: usize) -> (String, String) {
    let other = |n: usize| format!("user-{:05}", n % CONVERSATIONS);
    match n.is_multiple_of(10) {
        true if n.is_multiple_of(100) => (other(0), "many".to_owned()),
        true => (other(n / 10), "many".to_owned()),
        false => (other(n), other(n * 7 + 1)),
    }
}

fn measure(reader: &mut dyn Reader) {
    let app = AppId::parse("tilechat").expect("an app");
    let many = UserId::parse("many").expect("a user");
    let page = |from| Window { from, limit: 200 };
    fn timeline(with: &str) -> Timeline<'_> {
        let user = |id| UserId::parse(id).expect("a user");
        Timeline {
            app: AppId::parse("tilechat").expect("an app"),
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
