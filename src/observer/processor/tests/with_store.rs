//! Messages through the processor into a store: what is stored, refused, and given again.

use std::collections::BTreeMap;
use std::hash::RandomState;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use crate::protocol::address::Timeline;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::control_topic::Controls;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::Layout;
use crate::protocol::message_id::MessageIds;
use crate::protocol::topic_map::TopicMap;
use crate::rules::block::MAX_BLOCKED;
use crate::rules::policy::Rules;
use crate::rules::presence;
use crate::rules::webhook_event::EventKind;
use crate::store::{self, Access, BanChange, OfflineDelivery, Store, StoreLocation};

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
    fn in_memory(offline: OfflineDelivery) -> Self {
        Self::new(&StoreLocation::Memory, offline)
    }

    fn new(location: &StoreLocation, offline: OfflineDelivery) -> Self {
        let store = store::open(location, Access::Exclusive, offline).unwrap();
        Self {
            processor: Processor::new(router(), Persistence::store(store), Metrics::new(&[])),
            ids: MessageIds::new(RandomState::new()),
            now: NOW,
            qos_0: false,
        }
    }

    fn store(&mut self) -> &mut dyn Store {
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
        let batch = self.batch(topic, payload, id, repeated, refused);
        self.processor.process(&batch).unwrap().decided
    }

    fn batch(
        &self,
        topic: &str,
        payload: &str,
        id: MessageId,
        repeated: bool,
        refused: Option<Refused>,
    ) -> Batch {
        let topic = format!("apps/{topic}");
        let received = Received::new(topic.into(), payload.to_owned().into(), false);
        Batch {
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
        }
    }

    /// Every copy and conversation of these users, as text.
    fn contents(&mut self, names: &[&str]) -> Vec<String> {
        let mut lines = vec![];
        for (of, with) in names
            .iter()
            .flat_map(|of| names.iter().map(move |with| (*of, *with)))
        {
            let mut copy = |line: &[u8]| {
                let copy: Value = serde_json::from_slice(line).unwrap();
                let id = copy["message_id"].as_str().unwrap();
                lines.push(format!("copy a {of} {with} {id} {}", copy["status"]));
                Ok(())
            };
            let store = self.store();
            store.export("a", of, Some(with), &mut copy).unwrap();
            let timeline = Timeline {
                app: AppId::parse("a").unwrap(),
                inbox_of: user(of),
                convers_with: user(with),
            };
            if let Some(row) = store.conversation(&timeline).unwrap() {
                let id = row.last.map_or("-".to_owned(), |(body, _)| {
                    let body: Value = serde_json::from_str(&body).unwrap();
                    body["message_id"].as_str().unwrap().to_owned()
                });
                let (new, archived) = (i32::from(row.is_new), i32::from(row.archived));
                lines.push(format!(
                    "row a {of} {with} {id} new={new} archived={archived} 0"
                ));
            }
        }
        lines
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

#[test]
fn what_was_missed_is_given_until_it_has_been_given() {
    let mut bench = Bench::in_memory(OfflineDelivery::Redeliver);
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
    // At QoS 1 the acknowledgement says that they have it.
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
    /// The broker delivers everything since the `nth` event again: the observer was killed before
    /// it acknowledged that.
    Redelivery {
        nth: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let user = 0..3_u8;
    prop_oneof![
        4 => (user.clone(), 0..4_u8, prop::bool::weighted(0.8))
            .prop_map(|(from, to, listed)| Event::Forward { from, to, listed }),
        4 => (user.clone(), 0..50_usize, any::<bool>())
            .prop_map(|(by, nth, seen)| Event::Receipt { by, nth, seen }),
        2 => (user.clone(), 0..4_u8).prop_map(|(of, with)| Event::Archive { of, with }),
        2 => (user, 0..4_u8, any::<bool>())
            .prop_map(|(of, with, is_new)| Event::Patch { of, with, is_new }),
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
    fn the_store_equals_a_simple_model_whatever_comes_in_whatever_order(
        events in prop::collection::vec(event(), 0..40)
    ) {
        let mut bench = Bench::in_memory(OfflineDelivery::Broker);
        let group = r#"{"group":{"uid":"group-1","members":{"u0":1,"u1":1,"u2":1}}}"#;
        bench.take("observer/a/groups/update", group);
        let mut model = Model::default();
        // What came, as the broker would deliver it again: topic, payload, id, and what the model
        // makes of it.
        let mut log: Vec<(String, String, MessageId, Event)> = vec![];
        for event in events {
            match event.clone() {
                Event::Forward { from, to, listed } => {
                    let (from, to) = (NAMES[usize::from(from)], NAMES[usize::from(to)]);
                    let topic = format!("a/users/{from}/messages/{to}/outgoing");
                    let payload = match listed {
                        true => "{}",
                        false => r#"{"attributes":{"updateconversation":false}}"#,
                    };
                    let payload = payload.to_owned();
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
                    let row = model.rows.entry((of, with));
                    row.or_insert_with(|| ("-".to_owned(), false, false)).2 = true;
                    log.push((topic, String::new(), id, event));
                }
                Event::Patch { of, with, is_new } => {
                    let (of, with) = (NAMES[usize::from(of)], NAMES[usize::from(with)]);
                    let topic = format!("a/users/{of}/conversations/{with}/update");
                    let payload = json!({ "is_new": is_new }).to_string();
                    let id = bench.take(&topic, &payload);
                    let row = model.rows.entry((of, with));
                    row.or_insert_with(|| ("-".to_owned(), false, false)).1 = is_new;
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
        let (mut stored, mut wanted) = (bench.contents(&NAMES), model.dump());
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
    let mut bench = Bench::new(&StoreLocation::File(path.clone()), OfflineDelivery::Broker);
    let mut outside = store::administer(&path).unwrap();
    let write = "a/users/alice/messages/bob/outgoing";
    assert_eq!(bench.refusal(write, "{}"), None);
    assert!(
        outside
            .set_ban("a", "alice", BanChange::Ban, UnixMillis::new(NOW))
            .unwrap()
    );
    assert!(
        !outside
            .set_ban("a", "alice", BanChange::Ban, UnixMillis::new(NOW))
            .unwrap()
    );
    assert_eq!(bench.refusal(write, "{}"), Some(Refusal::Banned));
    let other_app = "b/users/alice/messages/bob/outgoing";
    assert_eq!(bench.refusal(other_app, "{}"), None);
    let gone = r#"{"disconnected":true}"#;
    assert_eq!(bench.refusal("a/users/alice/presence/c", gone), None);
    assert!(
        outside
            .set_ban("a", "alice", BanChange::Unban, UnixMillis::new(NOW))
            .unwrap()
    );
    assert_eq!(bench.refusal(write, "{}"), None);
    assert!(
        outside
            .set_block("a", "bob", "alice", BlockChange::Block)
            .unwrap()
    );
    assert_eq!(bench.refusal(write, "{}"), Some(Refusal::Blocked));
    let blocked = outside.blocked(Some("a"), Some("alice")).unwrap();
    assert_eq!(blocked.len(), 1, "{blocked:?}");
    assert!(
        outside
            .set_block("a", "bob", "alice", BlockChange::Unblock)
            .unwrap()
    );
    assert_eq!(bench.refusal(write, "{}"), None);
}

/// What has passed once passes again, with the words it passed with: whatever the decision service,
/// or the sender's rate, says now.
#[test]
fn what_comes_again_is_what_was_stored() {
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
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
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
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
fn a_failed_commit_leaves_nothing_behind_and_can_be_tried_again() {
    let dir = tempfile::TempDir::new().unwrap();
    let location = StoreLocation::File(dir.path().join("observer.db"));
    let mut bench = Bench::new(&location, OfflineDelivery::Broker);
    let mut other = store::open(&location, Access::Shared, OfflineDelivery::Broker).unwrap();
    other.begin().unwrap();
    let id = bench.ids.next(UnixMillis::new(NOW));
    let topic = "a/users/x/messages/group-1/outgoing";
    let batch = bench.batch(topic, "{}", id, false, None);
    assert!(bench.processor.process(&batch).is_err(), "locked");
    other.rollback();
    let names = ["x", "group-1"];
    assert_eq!(bench.contents(&names), Vec::<String>::new());
    let decided = bench.processor.process(&batch).unwrap().decided;
    assert_eq!(
        (decided.len(), decided[0].bulk.len(), decided[0].done),
        (1, 1, true)
    );
    assert_eq!(bench.contents(&names).len(), 4);
}
