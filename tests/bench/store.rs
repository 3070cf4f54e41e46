//! What a receipt costs the store: `cargo bench --bench store`. The budget: 100 µs, however many
//! messages its owner has.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "criterion's macro makes an undocumented function; benchmarks read the clock and print"
)]

use std::hash::RandomState;
use std::hint::black_box;
use std::time::Instant;

use chat21_observer::protocol::address::Timeline;
use chat21_observer::protocol::envelope::Body;
use chat21_observer::protocol::id::{AppId, UserId};
use chat21_observer::protocol::message_id::MessageIds;
use chat21_observer::protocol::status::Status;
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::rules::write::{Listing, NewMessage, TimelineCopy, Write};
use chat21_observer::store::{self, Access, OfflineDelivery, Origin, Store, StoreLocation};
use criterion::{Criterion, criterion_group, criterion_main};

/// Messages in the inbox.
const MESSAGES: usize = 1_000_000;
/// Messages that share a transaction while the inbox is filled.
const PER_COMMIT: usize = 10_000;
/// Every how manyth message a receipt is for.
const STRIDE: usize = 997;
/// Users who write to the inbox's owner.
const SENDERS: usize = 100;
const NOW: u64 = 1_800_000_000_000;

fn user(id: &str) -> UserId<'_> {
    UserId::parse(id).expect("an identifier")
}

fn app() -> AppId<'static> {
    AppId::parse("tilechat").expect("an identifier")
}

fn timeline(sender: &str) -> Timeline<'_> {
    Timeline {
        app: app(),
        inbox_of: user("support-bot"),
        convers_with: user(sender),
    }
}

/// Fills the inbox of one user. Returns some of the messages: sender and id.
fn fill(store: &mut dyn Store) -> Vec<(String, String)> {
    let mut ids = MessageIds::new(RandomState::new());
    let mut kept = vec![];
    for n in 0..MESSAGES {
        if n % PER_COMMIT == 0 {
            store.begin().expect("a transaction");
        }
        let now = UnixMillis::new(NOW + n as u64);
        let origin = Origin {
            promised: true,
            id: ids.next(now),
            fingerprint: Some(n as u64),
            repeated: false,
            now,
        };
        let (sender, id) = (format!("user-{}", n % SENDERS), origin.id.to_string());
        let message = NewMessage {
            app: app(),
            id: id.as_str().into(),
            sender: sender.as_str().into(),
            recipient: "support-bot",
            layout: "chat21-v1",
            body: Body::from_stored(format!("{{\"message_id\":\"{id}\",\"text\":\"help\"}}")),
        };
        let copy = TimelineCopy {
            timeline: timeline(&sender),
            message_id: id.as_str().into(),
            status: Status::Delivered,
            listing: Listing::Listed,
        };
        for write in [Write::Message(message), Write::Copy(copy)] {
            store.apply(&write, &origin).expect("a write");
        }
        if (n + 1) % PER_COMMIT == 0 {
            store.commit().expect("a commit");
        }
        if n % STRIDE == 0 {
            kept.push((sender, id));
        }
    }
    kept
}

fn receipts(c: &mut Criterion) {
    let dir = tempfile::TempDir::new().expect("a directory");
    let location = StoreLocation::File(dir.path().join("observer.db"));
    let began = Instant::now();
    let mut store =
        store::open(&location, Access::Exclusive, OfflineDelivery::Broker).expect("a store");
    let kept = fill(store.as_mut());
    println!("filled {MESSAGES} messages in {:.1?}", began.elapsed());
    // Twice: as a store that has grown, and opened again with statistics.
    for state in ["grown", "opened again"] {
        let mut each = kept.iter().cycle();
        c.bench_function(&format!("a receipt among {MESSAGES}, {state}"), |b| {
            b.iter(|| {
                let (sender, id) = each.next().expect("a cycle");
                let timeline = timeline(sender);
                let copy = store.copy(&timeline, id).expect("a lookup");
                black_box(copy.expect("it is stored").status)
            });
        });
        drop(store);
        store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker)
            .expect("the store again");
    }
    let began = Instant::now();
    store.begin().expect("a transaction");
    for (sender, id) in &kept {
        let timeline = timeline(sender);
        let copy = store.copy(&timeline, id).expect("a lookup");
        assert_eq!(copy.expect("it is stored").status, Status::Delivered);
        let raise = Write::Raise {
            timeline,
            message_id: id.into(),
            status: Status::Received,
        };
        let origin = Origin {
            promised: true,
            id: MessageIds::new(RandomState::new()).next(UnixMillis::new(NOW)),
            fingerprint: None,
            repeated: false,
            now: UnixMillis::new(NOW),
        };
        store.apply(&raise, &origin).expect("a write");
    }
    store.commit().expect("a commit");
    let each = began.elapsed() / u32::try_from(kept.len()).expect("a thousand");
    println!("looked up, raised and committed in one batch: {each:.1?} a receipt");
}

criterion_group!(benches, receipts);
criterion_main!(benches);
