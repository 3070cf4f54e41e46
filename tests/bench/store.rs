//! What a message and a receipt cost the store: `cargo bench --bench store`. The budget: 450 bytes
//! a direct message with its two copies; 100 µs a receipt, however many messages its owner has.
//! What a group's message and a webhook's event cost, on both stores, is in `costs.rs`.
//! `-- direct`, `-- receipt`, `-- group` and `-- webhook` measure one of these.

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "criterion's macro makes an undocumented function; benchmarks read the clock and print"
)]

mod costs;

use std::hash::RandomState;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use chat21_observer::protocol::address::Timeline;
use chat21_observer::protocol::envelope::{Body, Envelope, Owned};
use chat21_observer::protocol::id::{AppId, UserId};
use chat21_observer::protocol::message_id::{MessageId, MessageIds};
use chat21_observer::protocol::publish::Publish;
use chat21_observer::protocol::status::Status;
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::protocol::topic::TopicName;
use chat21_observer::rules::plan::Purpose;
use chat21_observer::rules::write::{Listing, NewMessage, TimelineCopy, Write};
use chat21_observer::store::{
    self, Access, LoggedPublishes, OfflineDelivery, Origin, Store, StoreLocation, Upkeep,
};
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
    if !is_wanted("receipt") {
        return;
    }
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

/// Whether the command line asks for this part, or for none.
fn is_wanted(part: &str) -> bool {
    let mut asked = std::env::args().skip(1).filter(|arg| !arg.starts_with('-'));
    let first = asked.next();
    first.is_none_or(|first| first == part)
}

/// Users who write to each other, and how many others each has.
const USERS: usize = 10_000;
const PEERS: usize = 5;
/// Direct messages before the measurement, and in it.
const BEFORE: usize = 200_000;
const MEASURED: usize = 100_000;

/// What has been spent by now.
struct Spent {
    /// By this thread, in nanoseconds.
    cpu: u64,
    wall: Instant,
}

impl Spent {
    fn now() -> Self {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
        let cpu = text.split(' ').next().expect("a number").parse();
        Self {
            cpu: cpu.expect("a number"),
            wall: Instant::now(),
        }
    }
}

/// Writes direct messages as the observer does: a batch a transaction, each message logged, those
/// of the batch before published and acknowledged.
struct Writer {
    store: Box<dyn Store>,
    upkeep: Box<dyn Upkeep>,
    ids: MessageIds,
    next: usize,
    published: Vec<MessageId>,
    rows: usize,
    /// Nanoseconds of upkeep, which has a thread of its own in the observer.
    upkept: u64,
}

impl Writer {
    fn open(path: &Path) -> Self {
        let location = StoreLocation::File(path.to_owned());
        let store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker);
        let store = store.expect("a store");
        Self {
            upkeep: store.upkeep().expect("a connection").expect("a file"),
            store,
            ids: MessageIds::new(RandomState::new()),
            next: 0,
            published: vec![],
            rows: 0,
            upkept: 0,
        }
    }

    fn write(&mut self, messages: usize, per_batch: usize) {
        for _ in 0..messages / per_batch {
            self.batch(per_batch);
            self.rows += per_batch * 3;
            if self.rows >= store::UPKEEP_DUE {
                self.rows = 0;
                let before = Spent::now().cpu;
                self.upkeep.run().expect("upkeep");
                self.upkept += Spent::now().cpu - before;
            }
        }
    }

    fn batch(&mut self, messages: usize) {
        self.store.begin().expect("a transaction");
        let published = std::mem::take(&mut self.published);
        if let Some(last) = published.last() {
            self.store.acknowledge(*last).expect("a write");
        }
        for id in &published {
            self.store.published(*id).expect("a write");
        }
        for _ in 0..messages {
            self.message();
        }
        self.store.commit().expect("a commit");
    }

    fn message(&mut self) {
        // Pairs in no order, as people write.
        let random = self.next.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        let (from, peer) = (random % USERS, random / USERS % PEERS);
        let to = (from + USERS / 2 + peer * 7) % USERS;
        let [from, to] = [from, to].map(|n| format!("5f1b2c3d4e6f{n:012}"));
        let now = UnixMillis::new(NOW + self.next as u64);
        self.next += 1;
        let origin = Origin {
            promised: true,
            id: self.ids.next(now),
            fingerprint: Some(random as u64),
            repeated: false,
            now,
        };
        self.published.push(origin.id);
        let (store, from, to) = (self.store.as_mut(), from.as_str(), to.as_str());
        assert!(!store.is_banned(app(), user(from)).expect("a fact"));
        store.group(app(), user(to)).expect("a fact");
        assert!(!store.blocks(app(), user(to), user(from)).expect("a fact"));
        let id = origin.id.to_string();
        let body = body(&origin, from, to);
        let message = NewMessage {
            app: app(),
            id: id.as_str().into(),
            sender: from.into(),
            recipient: to,
            layout: "chat21-v1",
            body: body.clone(),
        };
        store
            .apply(&Write::Message(message), &origin)
            .expect("a write");
        let mut publishes = Vec::with_capacity(2);
        for (of, with, status) in [(from, to, Status::Sent), (to, from, Status::Delivered)] {
            let copy = TimelineCopy {
                timeline: Timeline {
                    app: app(),
                    inbox_of: user(of),
                    convers_with: user(with),
                },
                message_id: id.as_str().into(),
                status,
                listing: Listing::Listed,
            };
            store.apply(&Write::Copy(copy), &origin).expect("a write");
            let topic = format!("apps/tilechat/users/{of}/messages/{with}/clientadded");
            let topic = TopicName::parse(&topic).expect("a topic");
            publishes.push(Publish::copy(topic, &body, status));
        }
        let came_on = format!("apps/tilechat/outgoing/users/{from}/messages/{to}/outgoing");
        let logged = LoggedPublishes {
            id: origin.id,
            came_on: came_on.as_bytes(),
            first: 0,
            purpose: Purpose::Copy,
            publishes: &publishes,
        };
        store.log(&logged).expect("a write");
        let none = LoggedPublishes {
            first: 2,
            purpose: Purpose::Notice,
            publishes: &[],
            ..logged
        };
        store.log(&none).expect("a write");
    }
}

/// A body of about 400 bytes.
fn body(origin: &Origin, from: &str, to: &str) -> Body {
    let payload = format!(
        "{{\"text\":\"shall we meet at the station at half past six, as the last time?\",\
         \"type\":\"text\",\"sender_fullname\":\"Ada Lovelace\",\"recipient_fullname\":\
         \"Charles Babbage\",\"channel_type\":\"direct\",\
         \"attributes\":{{\"tempUID\":\"{:016x}\"}}}}",
        origin.now.as_millis()
    );
    let owned = Owned {
        message_id: origin.id,
        sender: user(from),
        recipient: user(to),
        app: app(),
        timestamp: origin.now,
    };
    let envelope = Envelope::parse(payload.as_bytes()).expect("an envelope");
    envelope.write(&owned)
}

fn direct(_: &mut Criterion) {
    if !is_wanted("direct") {
        return;
    }
    for per_batch in [100, 10] {
        let dir = tempfile::TempDir::new().expect("a directory");
        let path = dir.path().join("observer.db");
        let mut writer = Writer::open(&path);
        writer.write(BEFORE, 1_000);
        writer.upkept = 0;
        let used = |writer: &Writer| writer.store.stats().expect("figures").used_bytes;
        let (before, began) = (used(&writer), Spent::now());
        let written_before = written();
        writer.write(MEASURED, per_batch);
        let ended = Spent::now();
        let each = |sum: u64| sum as f64 / MEASURED as f64;
        println!(
            "a direct message, {per_batch} a batch: {:.2} us of CPU, {:.2} us of upkeep, {:.2} us \
             of wall clock, {:.0} bytes, {:.0} bytes written",
            each(ended.cpu - began.cpu - writer.upkept) / 1e3,
            each(writer.upkept) / 1e3,
            (ended.wall - began.wall).as_secs_f64() * 1e6 / MEASURED as f64,
            each(used(&writer) - before),
            each(written() - written_before),
        );
    }
}

fn group(_: &mut Criterion) {
    if is_wanted("group") {
        costs::group();
    }
}

fn webhook(_: &mut Criterion) {
    if is_wanted("webhook") {
        costs::webhook();
    }
}

/// Bytes that this process has handed to the disk.
fn written() -> u64 {
    let text = std::fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.expect("a line").parse().expect("a number")
}

criterion_group!(benches, direct, receipts, group, webhook);
criterion_main!(benches);
