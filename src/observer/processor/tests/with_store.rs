//! Messages through the processor into a store: what is stored, refused, and given again.

use crate::delivery::pending::{ApiPart, PendingRefusal, Question, Via};
use std::hash::RandomState;
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::*;
use crate::protocol::address::Timeline;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::control_topic::Controls;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::Layout;
use crate::protocol::message_id::{MessageId, MessageIds};
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::topic_map::TopicMap;
use crate::rules::block::MAX_BLOCKED;
use crate::rules::policy::{Policy, Rules};
use crate::rules::presence;
use crate::rules::webhook_event::EventKind;
use crate::store::{self, Access, BanChange, OfflineDelivery, OutboxRequest, Store, StoreLocation};

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
        events: EventKind::ALL.iter().copied().collect(),
    }
}

/// A processor with a store, which takes messages one by one.
pub(super) struct Bench {
    processor: Processor,
    ids: MessageIds,
    now: u64,
    /// Whether messages come at QoS 0, so that there is nothing to acknowledge.
    qos_0: bool,
}

impl Bench {
    pub(super) fn in_memory(offline: OfflineDelivery) -> Self {
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

    pub(super) fn store(&mut self) -> &mut dyn Store {
        self.processor.store_mut().unwrap()
    }

    /// Takes a message that is not refused. Returns its id.
    pub(super) fn take(&mut self, topic: &str, payload: &str) -> MessageId {
        self.now += 1;
        let id = self.ids.next(UnixMillis::new(self.now));
        self.take_as(topic, payload, id, false);
        id
    }

    /// Takes a message under an id it had before, or has now.
    pub(super) fn take_as(&mut self, topic: &str, payload: &str, id: MessageId, repeated: bool) {
        for decided in self.decide(topic, payload, id, repeated, None) {
            assert_eq!(decided.refusal, None, "{topic} {payload}");
        }
    }

    /// What is decided on a message on a topic under `apps/`.
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
                via: Via::Broker,
                entry: EntryId::for_tests(0),
                received,
                id,
                fingerprint: (!self.qos_0).then_some(7),
                repeated,
                question: Question::None,
                refused: refused.map(|refused| PendingRefusal {
                    refused,
                    may_answer: None,
                }),
            }],
            room_for_bulk: 10_000,
            acknowledged: None,
            published: vec![],
            held: vec![],
            backlog: None,
            left: None,
            resumed: vec![],
            policy: policy(),
            outbox_request: OutboxRequest::default(),
            now: UnixMillis::new(self.now),
        }
    }

    /// The publishes of a message are confirmed.
    fn forget(&mut self, id: MessageId) {
        let store = self.store();
        store.begin().unwrap();
        store.published(id).unwrap();
        store.commit().unwrap();
    }

    /// Every copy and conversation of these users, as text.
    pub(super) fn contents(&mut self, names: &[&str]) -> Vec<String> {
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
        facts.missed_since(MessageIds::new(RandomState::new()).next(UnixMillis::new(1)))
    };
    for n in 0..3 {
        bench.take(
            "a/users/x/messages/y/outgoing",
            &json!({ "n": n }).to_string(),
        );
    }
    assert_eq!(missed(&mut bench), Some(0), "never seen: everything");
    // At QoS 1 it is in the delivery log until the broker has confirmed it all.
    let id = bench.take("a/users/y/presence/phone", r#"{"connected":true}"#);
    let in_a_batch = |bench: &mut Bench, act: &dyn Fn(&mut dyn Store)| {
        bench.store().begin().unwrap();
        act(bench.store());
        bench.store().commit().unwrap();
    };
    in_a_batch(&mut bench, &|store| store.acknowledge(id).unwrap());
    assert_eq!(missed(&mut bench), Some(0), "they may be gone again");
    in_a_batch(&mut bench, &|store| store.published(id).unwrap());
    assert_eq!(missed(&mut bench), None);
    bench.take("a/users/y/presence/phone", r#"{"disconnected":true}"#);
    assert_eq!(missed(&mut bench), Some(3), "from here on");
    // So it is at QoS 0.
    bench.qos_0 = true;
    let id = bench.take("a/users/y/presence/phone", r#"{"connected":true}"#);
    assert_eq!(missed(&mut bench), Some(3));
    in_a_batch(&mut bench, &|store| store.published(id).unwrap());
    assert_eq!(missed(&mut bench), None);
    bench.take("a/users/x/messages/y/outgoing", "{}");
    bench.take("a/users/y/presence/phone", r#"{"disconnected":true}"#);
    assert_eq!(missed(&mut bench), Some(4));
}

#[test]
fn a_client_stays_that_has_said_meanwhile_that_it_is_there() {
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
    let seen = bench.now + 1;
    bench.take("a/users/y/presence/phone", r#"{"connected":true}"#);
    bench.take("a/users/y/presence/phone", r#"{"connected":true}"#);
    for (last_seen, clients) in [(seen, 1), (seen + 1, 0)] {
        let id = bench.ids.next(UnixMillis::new(bench.now));
        let topic = "a/users/y/presence/phone";
        let mut batch = bench.batch(topic, r#"{"disconnected":true}"#, id, false, None);
        batch.messages[0].via = Via::Api(Box::new(ApiPart {
            authority: Authority::Admin,
            task: Task::Gone {
                last_seen: UnixMillis::new(last_seen),
            },
            following: 0,
        }));
        let decided = bench.processor.process(&batch).unwrap().decided;
        assert_eq!(decided[0].refusal, None);
        let app = AppId::parse("a").unwrap();
        assert_eq!(
            bench.store().clients(app, user("y")).unwrap().len(),
            clients
        );
    }
}

#[test]
fn what_an_operator_changes_from_outside_holds_for_the_next_message() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("observer.db");
    let mut bench = Bench::new(&StoreLocation::File(path.clone()), OfflineDelivery::Broker);
    let mut outside = store::administer(&StoreLocation::File(path.clone())).unwrap();
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

/// A message that has passed once passes again with the payload it had then, whatever the decision
/// service or the sender's rate says now.
#[test]
fn a_redelivered_message_is_the_one_that_was_stored() {
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
    let id = bench.ids.next(UnixMillis::new(bench.now));
    let topic = "a/users/alice/messages/bob/outgoing";
    let refused: Refused = Refusal::RateLimited.into();
    let mut process = |payload: &str, id, repeated, refused| {
        let decided = bench.decide(topic, payload, id, repeated, refused);
        bench.forget(id);
        decided.into_iter().next().unwrap()
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

/// What is stored is larger than what came, by what was added to it.
#[test]
fn a_redelivered_message_of_the_size_that_is_allowed_passes_again() {
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
    let id = bench.ids.next(UnixMillis::new(bench.now));
    let topic = "a/users/alice/messages/bob/outgoing";
    let most = policy().rules(AppId::parse("a").unwrap()).max_payload_bytes;
    let payload = format!(
        r#"{{"text":"{}"}}"#,
        "x".repeat(most - r#"{"text":""}"#.len())
    );
    assert_eq!(payload.len(), most);
    let first = bench.decide(topic, &payload, id, false, None).remove(0);
    bench.forget(id);
    let again = bench.decide(topic, &payload, id, true, None).remove(0);
    assert_eq!((first.refusal, again.refusal), (None, None));
    assert_eq!(again.publishes, first.publishes);
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

#[test]
fn what_is_left_to_the_log_is_read_in_order_with_what_came_at_qos_0() {
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
    let in_memory = bench.ids.next(UnixMillis::new(NOW));
    let group = r#"{"text":"hi","group":{"members":{"alice":1,"carol":1}}}"#;
    let sent = [
        (
            "a/users/alice/messages/bob/outgoing",
            r#"{"text":"1"}"#,
            false,
        ),
        (
            "a/users/alice/messages/bob/outgoing",
            r#"{"text":"2"}"#,
            true,
        ),
        ("a/users/alice/messages/group-x/outgoing", group, false),
        (
            "a/users/alice/messages/bob/outgoing",
            "not an object",
            false,
        ),
    ];
    let mut expected = vec![];
    for (topic, payload, qos_0) in sent {
        bench.qos_0 = qos_0;
        let id = bench.ids.next(UnixMillis::new(NOW));
        let batch = Batch {
            backlog: Some(BacklogRead {
                after: Some(in_memory),
                most: 0,
            }),
            ..bench.batch(topic, payload, id, false, None)
        };
        let processed = bench.processor.process(&batch).unwrap();
        assert!(processed.read.messages.is_empty() && !processed.read.is_last);
        let [decided] = &processed.decided[..] else {
            panic!("{:?}", processed.decided);
        };
        assert!(decided.logged && decided.done && decided.bulk.is_empty());
        let publishes = decided.publishes.iter().chain(&decided.answers).cloned();
        expected.push((id, publishes.collect::<Vec<_>>(), decided.left_to_log));
    }
    assert_eq!(bench.processor.fan_outs.len(), 0, "it is left to the log");
    let mut read = |after, most| {
        let id = bench.ids.next(UnixMillis::new(NOW));
        let batch = Batch {
            messages: vec![],
            backlog: Some(BacklogRead { after, most }),
            ..bench.batch("", "", id, false, None)
        };
        let processed = bench.processor.process(&batch).unwrap();
        (processed.read.messages, processed.read.is_last)
    };
    let (first, all_read) = read(Some(in_memory), 2);
    assert!(!all_read);
    let (second, all_read) = read(Some(first[1].id), 3);
    assert!(all_read);
    let all: Vec<_> = first.into_iter().chain(second).collect();
    assert!(all[2].fan_out.is_some());
    let found = all.into_iter().map(|logged| {
        let bytes = Some(logged.log_bytes());
        let publishes = logged.publishes.into_iter().map(|(_, publish)| publish);
        (logged.id, publishes.collect::<Vec<_>>(), bytes)
    });
    assert_eq!(found.collect::<Vec<_>>(), expected);
}

#[test]
fn what_memory_holds_already_is_not_left_to_the_log() {
    let mut bench = Bench::in_memory(OfflineDelivery::Broker);
    let [decided_late, newest] = [(); 2].map(|()| bench.ids.next(UnixMillis::new(NOW)));
    let topic = "a/users/alice/messages/bob/outgoing";
    let backlog = Some(BacklogRead {
        after: Some(newest),
        most: 0,
    });
    for (id, repeated) in [(decided_late, false), (newest, true)] {
        let batch = Batch {
            backlog,
            ..bench.batch(topic, "{}", id, repeated, None)
        };
        let processed = bench.processor.process(&batch).unwrap();
        assert_eq!(processed.decided[0].left_to_log, None);
        assert!(!processed.decided[0].publishes.is_empty());
    }
}
