use std::collections::BTreeMap;
use std::hash::RandomState;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::delivery::ledger::EntryId;
use crate::delivery::pending::PendingMessage;
use crate::observer::processor::{Batch, Decided, Persistence, Processor};
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Controls;
use crate::protocol::id::UserId;
use crate::protocol::layout::Layout;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageIds;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::topic_map::TopicMap;
use crate::rules::block::MAX_BLOCKED;
use crate::rules::facts::FactSource;
use crate::rules::history::Page;
use crate::rules::history::PageQuery;
use crate::rules::policy::{Policy, Rules};
use crate::rules::presence;
use crate::rules::router::Router;
use crate::rules::webhook_event::EventKind;

const NOW: u64 = 1_800_000_000_000;

fn policy() -> Arc<Policy> {
    Arc::new(Policy::new(BrokerKind::Any, Rules::default()))
}

fn router() -> Router {
    let layouts = Layout::built_in("chat21-v1").unwrap();
    Router {
        layouts: TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap(),
        policy: policy(),
        dead_letter_topic: None,
        events: EventKind::ALL.into_iter().collect(),
    }
}

/// A store behind a processor, fed message by message.
struct Bench {
    processor: Processor,
    ids: MessageIds,
    now: u64,
    /// Whether what comes is not to be acknowledged.
    qos_0: bool,
}

impl Bench {
    fn new(place: &StoreLocation) -> Self {
        let store = Store::open(place, false).unwrap();
        Self {
            processor: Processor::new(
                router(),
                Persistence::store(store),
                crate::telemetry::Metrics::new(&[]),
            ),
            ids: MessageIds::new(RandomState::new()),
            now: NOW,
            qos_0: false,
        }
    }

    /// Everything is acknowledged.
    fn settle(&mut self) {
        let last = self.ids.next(UnixMillis::new(NOW + 10_000_000));
        let store = self.store();
        store.begin().unwrap();
        store.acknowledge(last).unwrap();
        store.commit().unwrap();
    }

    fn store(&mut self) -> &mut Store {
        self.processor.store_mut().unwrap()
    }

    /// A message comes; its id.
    fn take(&mut self, topic: &str, payload: &str) -> MessageId {
        self.now += 1;
        let id = self.ids.next(UnixMillis::new(self.now));
        self.take_as(topic, payload, id, false);
        id
    }

    fn take_as(&mut self, topic: &str, payload: &str, id: MessageId, repeated: bool) {
        for decided in self.decide(topic, payload, id, repeated, None) {
            assert_eq!(decided.refusal, None, "{topic} {payload}");
        }
    }

    /// What comes of a message on a topic under `apps/`.
    fn decide(
        &mut self,
        topic: &str,
        payload: &str,
        id: MessageId,
        repeated: bool,
        refused: Option<Refused>,
    ) -> Vec<Decided> {
        let topic = format!("apps/{topic}");
        let received = Received::new(topic.into(), payload.to_owned().into(), false);
        let batch = Batch {
            messages: vec![PendingMessage {
                entry: EntryId::for_tests(0),
                received,
                id,
                fingerprint: (!self.qos_0).then_some(7),
                repeated,
                refused,
            }],
            room_for_bulk: 10_000,
            acknowledged: None,
            finished: None,
            policy: policy(),
            outbox_request: OutboxRequest::default(),
            now: UnixMillis::new(self.now),
        };
        self.processor.process(&batch).unwrap().decided
    }

    /// Why a message is refused, if it is.
    fn refusal(&mut self, topic: &str, payload: &str) -> Option<Refusal> {
        let id = self.ids.next(UnixMillis::new(self.now));
        self.decide(topic, payload, id, false, None)
            .remove(0)
            .refusal
    }
}

fn user(id: &str) -> UserId<'_> {
    UserId::parse(id).unwrap()
}

fn page(store: &Store, of: &str, after: i64, limit: usize, convers_with: Option<&str>) -> Page {
    let query = PageQuery {
        after,
        last: i64::MAX,
        convers_with: convers_with.map(Into::into),
        limit,
    };
    store
        .page(AppId::parse("a").unwrap(), user(of), &query)
        .unwrap()
}

#[test]
fn a_store_is_private_marked_and_used_by_one_observer_at_a_time() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("deep/observer.db");
    let place = StoreLocation::File(path.clone());
    let store = Store::open(&place, false).unwrap();
    use std::os::unix::fs::PermissionsExt;
    for file in ["observer.db", "observer.db-wal"] {
        let mode = std::fs::metadata(path.with_file_name(file))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let error = Store::open(&place, false).unwrap_err();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert!(
        Store::open_shared(&path).is_ok(),
        "commands may look at it meanwhile"
    );
    drop(store);
    assert!(Store::open(&place, false).is_ok());
    assert!(matches!(
        Store::open_shared(&dir.path().join("none")).unwrap_err(),
        StoreError::Missing(_)
    ));

    let other = dir.path().join("other.db");
    let connection = Connection::open(&other).unwrap();
    connection.execute_batch("CREATE TABLE x (y)").unwrap();
    let error = Store::open(&StoreLocation::File(other), false).unwrap_err();
    assert!(matches!(error, StoreError::Foreign(_)), "{error}");

    let newer = dir.path().join("newer.db");
    drop(Store::open(&StoreLocation::File(newer.clone()), false).unwrap());
    Connection::open(&newer)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = Store::open(&StoreLocation::File(newer.clone()), false)
        .unwrap_err()
        .to_string();
    assert!(
        error
            .ends_with("newer.db has schema 99, made by a later version: this one knows 3 at most"),
        "{error}"
    );
    let noise = dir.path().join("noise.db");
    std::fs::write(
        &noise,
        "this is no database, and long enough to be sure of it".repeat(20),
    )
    .unwrap();
    assert!(Store::open(&StoreLocation::File(noise), false).is_err());
}

#[test]
fn what_was_not_acknowledged_is_known_after_a_restart_in_the_order_it_came() {
    let dir = tempfile::TempDir::new().unwrap();
    let place = StoreLocation::File(dir.path().join("observer.db"));
    let mut bench = Bench::new(&place);
    let ids: Vec<_> = (0..4)
        .map(|n| bench.take("a/users/x/messages/y/outgoing", &format!("{{\"n\":{n}}}")))
        .collect();
    let store = bench.store();
    store.begin().unwrap();
    store.acknowledge(ids[1]).unwrap();
    store.acknowledge(ids[0]).unwrap();
    store.commit().unwrap();
    drop(bench);
    let store = Store::open(&place, false).unwrap();
    assert_eq!(store.unacknowledged().unwrap(), [(7, ids[2]), (7, ids[3])]);
    assert_eq!(store.last_id().unwrap(), Some(ids[3]));
}

#[test]
fn a_failed_commit_leaves_nothing_behind_and_can_be_tried_again() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut bench = Bench::new(&StoreLocation::File(path.clone()));
    bench
        .store()
        .wait_for_others(Duration::from_millis(10))
        .unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let id = bench.ids.next(UnixMillis::new(NOW));
    let batch = Batch {
        messages: vec![PendingMessage {
            entry: crate::delivery::ledger::EntryId::for_tests(0),
            received: Received::new(
                Bytes::from_static(b"apps/a/users/x/messages/group-1/outgoing"),
                Bytes::from_static(b"{}"),
                false,
            ),
            id,
            fingerprint: Some(7),
            repeated: false,
            refused: None,
        }],
        room_for_bulk: 100,
        acknowledged: None,
        finished: None,
        policy: policy(),
        outbox_request: OutboxRequest::default(),
        now: UnixMillis::new(NOW),
    };
    assert!(bench.processor.process(&batch).is_err(), "locked");
    other.execute_batch("ROLLBACK").unwrap();
    // A disk that is full while the transaction is written.
    bench
        .store()
        .connection
        .execute_batch("PRAGMA max_page_count = 1")
        .unwrap();
    let large = PendingMessage {
        received: Received::new(
            Bytes::from_static(b"apps/a/users/x/messages/y/outgoing"),
            format!("{{\"x\":\"{}\"}}", "y".repeat(100_000)).into(),
            false,
        ),
        ..batch.messages[0].clone()
    };
    let error = bench
        .processor
        .process(&Batch {
            messages: vec![batch.messages[0].clone(), large],
            ..batch.clone()
        })
        .unwrap_err();
    assert_eq!(error.to_string(), "database or disk is full");
    assert_eq!(bench.store().dump().unwrap(), Vec::<String>::new());
    bench
        .store()
        .connection
        .execute_batch("PRAGMA max_page_count = 1073741823")
        .unwrap();
    let decided = bench.processor.process(&batch).unwrap().decided;
    assert_eq!(
        (decided.len(), decided[0].bulk.len(), decided[0].done),
        (1, 1, true)
    );
    assert_eq!(bench.store().dump().unwrap().len(), 4);
}

#[test]
fn pages_keep_what_came_in_one_millisecond_together() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    for n in 0..10 {
        // Three messages a millisecond.
        bench.now = NOW + n / 3 - 1;
        let to = if n % 2 == 0 { "y" } else { "z" };
        bench.take(
            &format!("a/users/x/messages/{to}/outgoing"),
            &format!("{{\"n\":{n}}}"),
        );
    }
    let store = bench.store();
    let sizes = |limit| {
        let (mut sizes, mut after) = (vec![], 0);
        loop {
            let page = page(store, "x", after, limit, None);
            sizes.push(page.messages.len());
            after = page.next;
            if !page.more {
                return sizes;
            }
        }
    };
    assert_eq!(sizes(100), [10]);
    assert_eq!(sizes(10), [10]);
    assert_eq!(sizes(1), [3, 3, 3, 1]);
    assert_eq!(sizes(4), [6, 4]);
    let with_z = page(store, "x", 0, 100, Some("z"));
    assert_eq!((with_z.messages.len(), with_z.more), (5, false));
    assert_eq!(store.position_at(UnixMillis::new(NOW)).unwrap(), 3);
    assert_eq!(store.position_at(UnixMillis::new(0)).unwrap(), 0);
    assert_eq!(store.position_at(UnixMillis::new(u64::MAX)).unwrap(), 10);
}

#[test]
fn what_a_service_injects_shares_the_body_if_it_is_the_same() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    let message = |text: &str| json!({"message_id": "m", "text": text, "status": 150}).to_string();
    for (inbox_of, text) in [("x", "hi"), ("y", "hi"), ("x", "hi"), ("z", "ho")] {
        bench.take(
            &format!("observer/a/users/{inbox_of}/messages/g/delivered"),
            &message(text),
        );
    }
    let store = bench.store();
    let stats = store.stats(Path::new("")).unwrap();
    assert_eq!((stats.messages, stats.copies), (2, 3));
    assert!(store.check().unwrap().is_empty());
    assert!(
        page(store, "z", 0, 9, None).messages[0]
            .body
            .as_str()
            .contains("ho")
    );
}

#[test]
fn retention_deletes_the_oldest_in_steps_with_all_that_refers_to_it() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    for n in 0..1_000_u64 {
        bench.now = NOW + n * 1_000;
        let to = format!("y{}", n % 50);
        bench.take(
            &format!("a/users/x/messages/{to}/outgoing"),
            &format!("{{\"n\":{n}}}"),
        );
    }
    let last = bench.ids.next(UnixMillis::new(NOW + 10_000_000));
    let limits = Retention {
        age: Some(Duration::from_secs(100)),
        bytes: None,
    };
    let now = UnixMillis::new(NOW + 1_000_000);
    let store = bench.store();
    store.prune_step(&limits, now).unwrap();
    assert_eq!(
        store.stats(Path::new("")).unwrap().messages,
        1_000,
        "what may come again must be known then"
    );
    store.begin().unwrap();
    store.acknowledge(last).unwrap();
    store.commit().unwrap();
    let mut steps = 0;
    while store.prune_step(&limits, now).unwrap() {
        steps += 1;
        assert!(steps < 100);
    }
    let stats = store.stats(Path::new("")).unwrap();
    assert_eq!(
        (stats.messages, stats.copies, stats.conversations),
        (100, 200, 100),
        "{steps} steps"
    );
    assert!(steps >= 5, "in {steps} steps");
    assert!(store.check().unwrap().is_empty());
    assert!(
        !store.prune_step(&limits, now).unwrap(),
        "nothing is left to do"
    );

    let limits = Retention {
        age: None,
        bytes: Some(1),
    };
    while store.prune_step(&limits, now).unwrap() {}
    let stats = store.stats(Path::new("")).unwrap();
    assert_eq!(
        stats.messages, 1,
        "the oldest go until it is small enough; the last stays, for its place is never given twice"
    );
}

#[test]
fn a_place_is_never_given_twice_even_when_everything_has_gone() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    bench.take(
        "observer/a/groups/update",
        r#"{"group":{"uid":"g","members":{"c":1,"d":1}}}"#,
    );
    bench.take("a/users/c/messages/g/outgoing", r#"{"text":"old"}"#);
    bench.settle();
    let now = UnixMillis::new(NOW + 1_000_000);
    let limits = Retention {
        age: Some(Duration::from_secs(1)),
        bytes: None,
    };
    // Deleted, but not swept yet.
    bench.store().prune_step(&limits, now).unwrap();
    bench.take(
        "a/users/alice/messages/bob/outgoing",
        r#"{"text":"secret"}"#,
    );
    for user in ["c", "d", "g"] {
        let page = page(bench.store(), user, 0, 9, None);
        let texts: Vec<_> = page
            .messages
            .iter()
            .map(|stored| stored.body.as_str())
            .collect();
        assert!(!texts.concat().contains("secret"), "{user}: {texts:?}");
    }
}

#[test]
fn the_copies_of_what_has_gone_go_before_more_messages_do() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    let members: Vec<String> = (0..300)
        .map(|n| format!("\"member-with-a-long-name-{n}\":1"))
        .collect();
    bench.take(
        "observer/a/groups/update",
        &format!(
            "{{\"group\":{{\"uid\":\"g\",\"members\":{{{}}}}}}}",
            members.join(",")
        ),
    );
    for _ in 0..1_000 {
        bench.take(
            "a/users/member-with-a-long-name-7/messages/g/outgoing",
            "{}",
        );
    }
    bench.settle();
    let store = bench.store();
    let used = store.used_bytes().unwrap();
    let limits = Retention {
        age: None,
        bytes: Some(used * 3 / 4),
    };
    while store.prune_step(&limits, UnixMillis::new(NOW)).unwrap() {}
    let stats = store.stats(Path::new("")).unwrap();
    assert!(stats.used_bytes <= used * 3 / 4, "{stats:?} of {used}");
    assert!(
        stats.messages >= 400,
        "more has gone than had to: {stats:?}"
    );
}

#[test]
fn pages_that_are_free_are_given_back() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let mut bench = Bench::new(&StoreLocation::File(path.clone()));
    let large = json!({ "text": "x".repeat(100_000) }).to_string();
    for _ in 0..200 {
        bench.take("a/users/x/messages/y/outgoing", &large);
    }
    bench.settle();
    let store = bench.store();
    let before = store.pragma("page_count").unwrap();
    store
        .prune_before(UnixMillis::new(NOW + 1_000_000))
        .unwrap();
    let after = store.pragma("page_count").unwrap();
    assert!(
        before > 4_000 && after < 1_200,
        "{before} pages, then {after}"
    );
}

#[test]
fn what_a_failed_commit_took_back_is_acknowledged_again() {
    let dir = tempfile::TempDir::new().unwrap();
    let place = StoreLocation::File(dir.path().join("observer.db"));
    let mut bench = Bench::new(&place);
    let id = bench.take("a/users/x/messages/y/outgoing", "{}");
    let store = bench.store();
    store.begin().unwrap();
    store.acknowledge(id).unwrap();
    store.rollback();
    assert_eq!(store.unacknowledged().unwrap().len(), 1);
    store.begin().unwrap();
    store.acknowledge(id).unwrap();
    store.commit().unwrap();
    drop(bench);
    assert_eq!(
        Store::open(&place, false)
            .unwrap()
            .unacknowledged()
            .unwrap(),
        []
    );
}

#[test]
fn what_was_missed_is_given_until_it_has_been_given() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    bench.store().redeliver = true;
    let missed = |bench: &mut Bench| {
        let (app, user) = (AppId::parse("a").unwrap(), user("y"));
        let facts = presence::Facts::look_up(app, user, bench.store()).unwrap();
        facts.to_redeliver_since()
    };
    for n in 0..3 {
        bench.take(
            "a/users/x/messages/y/outgoing",
            &json!({ "n": n }).to_string(),
        );
    }
    assert_eq!(missed(&mut bench), Some(0), "never seen: everything");
    // At QoS 1 the acknowledgement says that he has it.
    let id = bench.take("a/users/y/presence/phone", r#"{"connected":true}"#);
    assert_eq!(missed(&mut bench), Some(0), "a crash now would repeat it");
    bench.store().note_finished(Some(id));
    assert_eq!(missed(&mut bench), None);
    bench.take("a/users/y/presence/phone", r#"{"disconnected":true}"#);
    assert_eq!(missed(&mut bench), Some(3), "from here on");
    // At QoS 0 the last step says so.
    bench.qos_0 = true;
    bench.take("a/users/y/presence/phone", r#"{"connected":true}"#);
    assert_eq!(missed(&mut bench), None);
    bench.take("a/users/x/messages/y/outgoing", "{}");
    bench.take("a/users/y/presence/phone", r#"{"disconnected":true}"#);
    assert_eq!(missed(&mut bench), Some(4));
}

// The property: whatever comes in whatever order, the store is what a simple model says.

#[derive(Clone, Debug)]
enum Event {
    Forward {
        from: u8,
        to: u8,
        listed: bool,
    },
    Receipt {
        by: u8,
        nth: usize,
        seen: bool,
    },
    Archive {
        of: u8,
        with: u8,
    },
    Patch {
        of: u8,
        with: u8,
        is_new: bool,
    },
    /// The broker delivers everything since the `nth` event again: the observer was killed before it acknowledged that.
    Redelivery {
        nth: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let user = 0..3_u8;
    prop_oneof![
        4 => (user.clone(), 0..4_u8, prop::bool::weighted(0.8)).prop_map(|(from, to, listed)| Event::Forward { from, to, listed }),
        4 => (user.clone(), 0..50_usize, any::<bool>()).prop_map(|(by, nth, seen)| Event::Receipt { by, nth, seen }),
        2 => (user.clone(), 0..4_u8).prop_map(|(of, with)| Event::Archive { of, with }),
        2 => (user, 0..4_u8, any::<bool>()).prop_map(|(of, with, is_new)| Event::Patch { of, with, is_new }),
        1 => (0..50_usize).prop_map(|nth| Event::Redelivery { nth }),
    ]
}

/// Three users, of whom all are in a group: the fourth name.
const NAMES: [&str; 4] = ["u0", "u1", "u2", "group-1"];

/// A list of copies for each timeline, and a row for each conversation: the obvious way.
#[derive(Default)]
struct Model {
    copies: BTreeMap<(&'static str, &'static str), Vec<(String, i64)>>,
    rows: BTreeMap<(&'static str, &'static str), (String, bool, bool)>,
    messages: Vec<(String, &'static str, &'static str)>,
}

impl Model {
    fn forward(&mut self, id: &str, from: &'static str, to: &'static str, listed: bool) {
        let mut copies = vec![];
        if to == "group-1" {
            copies.extend(
                ["group-1", "u0", "u1", "u2"].map(|of| (of, to, if of == to { 100 } else { 150 })),
            );
        } else {
            if from != to {
                copies.push((from, to, 100));
            }
            copies.push((to, from, 150));
        }
        if !self.messages.iter().any(|(known, ..)| known == id) {
            self.messages.push((id.to_owned(), from, to));
        }
        for (of, with, status) in copies {
            let timeline = self.copies.entry((of, with)).or_default();
            if !timeline.iter().any(|(known, _)| known == id) {
                timeline.push((id.to_owned(), status));
            }
            let newest = |row: &(String, bool, bool)| row.0 == "-" || *row.0 <= *id;
            if listed && self.rows.get(&(of, with)).is_none_or(newest) {
                self.rows.insert((of, with), (id.to_owned(), true, false));
            }
        }
    }

    fn raise(&mut self, of: &'static str, with: &'static str, id: &str, to: i64) {
        for (known, status) in self.copies.entry((of, with)).or_default() {
            if known == id {
                *status = to.max(*status);
            }
        }
    }

    fn receipt(
        &mut self,
        by: &'static str,
        nth: usize,
        seen: bool,
    ) -> Option<(String, &'static str)> {
        let readable: Vec<_> = self
            .messages
            .iter()
            .filter(|(_, from, to)| *from != by && (*to == by || *to == "group-1"))
            .cloned()
            .collect();
        let (id, from, to) = readable.get(nth % readable.len().max(1))?.clone();
        let with = if to == "group-1" { to } else { from };
        let (own, peers) = if seen { (300, 300) } else { (200, 250) };
        let mine = self.copies[&(by, with)]
            .iter()
            .find(|(known, _)| *known == id)?
            .1;
        if mine <= own {
            self.raise(by, with, &id, own);
            let (of, with) = if to == "group-1" {
                (to, to)
            } else {
                (from, by)
            };
            self.raise(of, with, &id, peers);
        }
        Some((id, with))
    }

    fn dump(&self) -> Vec<String> {
        let copies = self.copies.iter().flat_map(|((of, with), copies)| {
            copies
                .iter()
                .map(move |(id, status)| format!("copy a {of} {with} {id} {status}"))
        });
        let mut rows: Vec<_> = self
            .rows
            .iter()
            .map(|((of, with), (id, new, archived))| {
                format!(
                    "row a {of} {with} {id} new={} archived={} 0",
                    i32::from(*new),
                    i32::from(*archived)
                )
            })
            .collect();
        rows.sort();
        copies.chain(rows).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn the_store_equals_a_simple_model_whatever_comes_in_whatever_order(events in prop::collection::vec(event(), 0..40)) {
        let mut bench = Bench::new(&StoreLocation::Memory);
        bench.take("observer/a/groups/update", r#"{"group":{"uid":"group-1","members":{"u0":1,"u1":1,"u2":1}}}"#);
        let mut model = Model::default();
        // What came, as the broker would deliver it again: topic, payload, id, and what the model makes of it.
        let mut log: Vec<(String, String, MessageId, Event)> = vec![];
        for event in events {
            match event.clone() {
                Event::Forward { from, to, listed } => {
                    let (from, to) = (NAMES[usize::from(from)], NAMES[usize::from(to)]);
                    let topic = format!("a/users/{from}/messages/{to}/outgoing");
                    let payload = if listed { "{}".to_owned() } else { r#"{"attributes":{"updateconversation":false}}"#.to_owned() };
                    let id = bench.take(&topic, &payload);
                    model.forward(&id.to_string(), from, to, listed);
                    log.push((topic, payload, id, event));
                }
                Event::Receipt { by, nth, seen } => {
                    let by = NAMES[usize::from(by)];
                    if let Some((id, with)) = model.receipt(by, nth, seen) {
                        let topic = format!("a/users/{by}/messages/{with}/{id}/update");
                        let payload = json!({ "status": if seen { 300 } else { 200 } }).to_string();
                        let id = bench.take(&topic, &payload);
                        log.push((topic, payload, id, event));
                    }
                }
                Event::Archive { of, with } => {
                    let (of, with) = (NAMES[usize::from(of)], NAMES[usize::from(with)]);
                    let topic = format!("a/users/{of}/conversations/{with}/archive");
                    let id = bench.take(&topic, "");
                    model.rows.entry((of, with)).or_insert_with(|| ("-".to_owned(), false, false)).2 = true;
                    log.push((topic, String::new(), id, event));
                }
                Event::Patch { of, with, is_new } => {
                    let (of, with) = (NAMES[usize::from(of)], NAMES[usize::from(with)]);
                    let topic = format!("a/users/{of}/conversations/{with}/update");
                    let payload = json!({ "is_new": is_new }).to_string();
                    let id = bench.take(&topic, &payload);
                    model.rows.entry((of, with)).or_insert_with(|| ("-".to_owned(), false, false)).1 = is_new;
                    log.push((topic, payload, id, event));
                }
                Event::Redelivery { nth } => {
                    // In the order it came before, each under its id: and nothing has changed.
                    let from = nth % (log.len() + 1);
                    for (topic, payload, id, _) in &log[from..] {
                        bench.take_as(topic, payload, *id, true);
                    }
                }
            }
        }
        let (mut stored, mut wanted) = (bench.store().dump().unwrap(), model.dump());
        stored.sort();
        wanted.sort();
        prop_assert_eq!(stored, wanted);
        prop_assert!(bench.store().check().unwrap().is_empty());
    }
}

#[test]
fn what_an_operator_changes_from_outside_holds_for_the_next_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("observer.db");
    let mut bench = Bench::new(&StoreLocation::File(path.clone()));
    let mut outside = Store::open_shared(&path).unwrap();
    let write = "a/users/alice/messages/bob/outgoing";
    assert_eq!(bench.refusal(write, "{}"), None);
    assert!(
        outside
            .set_ban("a", "alice", true, UnixMillis::new(NOW))
            .unwrap()
    );
    assert!(
        !outside
            .set_ban("a", "alice", true, UnixMillis::new(NOW))
            .unwrap()
    );
    assert_eq!(bench.refusal(write, "{}"), Some(Refusal::Banned));
    let other_app = "b/users/alice/messages/bob/outgoing";
    assert_eq!(bench.refusal(other_app, "{}"), None);
    let gone = r#"{"disconnected":true}"#;
    assert_eq!(bench.refusal("a/users/alice/presence/c", gone), None);
    assert!(
        outside
            .set_ban("a", "alice", false, UnixMillis::new(NOW))
            .unwrap()
    );
    assert_eq!(bench.refusal(write, "{}"), None);
    assert!(outside.set_block("a", "bob", "alice", true).unwrap());
    assert_eq!(bench.refusal(write, "{}"), Some(Refusal::Blocked));
    let blocked = outside.blocked(Some("a"), Some("alice")).unwrap();
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert!(outside.set_block("a", "bob", "alice", false).unwrap());
    assert_eq!(bench.refusal(write, "{}"), None);
}

/// What has passed once passes again, with the words it passed with: whatever the decision service, or the sender's rate, says now.
#[test]
fn what_comes_again_is_what_was_stored() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    let id = bench.ids.next(UnixMillis::new(bench.now));
    let topic = "a/users/alice/messages/bob/outgoing";
    let refused: Refused = Refusal::RateLimited.into();
    let mut process = |payload: &str, id, repeated, refused| {
        bench
            .decide(topic, payload, id, repeated, refused)
            .remove(0)
    };
    let first = process(r#"{"text":"replaced"}"#, id, false, None);
    let again = process(
        r#"{"text":"as it was written"}"#,
        id,
        true,
        Some(refused.clone()),
    );
    assert_eq!((again.refusal, again.publishes), (None, first.publishes));
    let other = MessageIds::new(RandomState::new()).next(UnixMillis::new(NOW));
    let unknown = process("{}", other, true, Some(refused));
    assert_eq!(
        unknown.refusal,
        Some(Refusal::RateLimited),
        "it was refused before"
    );
}

#[test]
fn a_user_can_block_so_many_and_no_more() {
    let mut bench = Bench::new(&StoreLocation::Memory);
    let mut block = |other: &str, payload: &str| {
        bench.refusal(&format!("a/users/alice/blocked/{other}/update"), payload)
    };
    let (on, off) = (r#"{"blocked":true}"#, r#"{"blocked":false}"#);
    for n in 0..MAX_BLOCKED {
        assert_eq!(block(&n.to_string(), on), None);
    }
    assert_eq!(block("one-more", on), Some(Refusal::TooLarge));
    assert_eq!(block("7", off), None);
    assert_eq!(block("one-more", on), None);
}

#[test]
fn a_store_of_an_earlier_version_is_brought_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("observer.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "application_id", APPLICATION_ID)
        .unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute("INSERT INTO block VALUES ('a', 'bob', 'alice')", [])
        .unwrap();
    drop(old);
    drop(Store::open(&StoreLocation::File(path.clone()), false).unwrap());
    let mut store = Store::open_shared(&path).unwrap();
    assert!(
        store
            .set_ban("a", "mallory", true, UnixMillis::new(NOW))
            .unwrap()
    );
    let blocked = store.blocked(None, None).unwrap();
    assert_eq!(
        blocked
            .iter()
            .map(|one| one.user.as_str())
            .collect::<Vec<_>>(),
        ["mallory", "bob"]
    );
}
