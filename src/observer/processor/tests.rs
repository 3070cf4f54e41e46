use std::collections::HashMap;
use std::hash::RandomState;
use std::sync::Arc;

use super::*;
use crate::delivery::pending::{PendingMessage, Question, Via};
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Controls;
use crate::protocol::layout::Layout;
use crate::protocol::message_id::MessageIds;
use crate::protocol::topic_map::TopicMap;
use crate::rules::policy::{GroupSenders, Policy, Rules};
use crate::rules::webhook_event::EventKind;
use crate::store::{
    self, Access, Endpoints, OfflineDelivery, OutboxRequest, Selection, Store, StoreLocation,
};

mod model;
#[cfg(debug_assertions)]
mod panics;
mod with_store;

const NOW: UnixMillis = UnixMillis::new(1_800_000_000_000);

fn policy() -> Arc<Policy> {
    let rules = Rules {
        group_senders: GroupSenders::Anybody,
        max_inline_recipients: 10_000,
        ..Rules::default()
    };
    Arc::new(Policy::new(BrokerKind::Any, rules))
}

fn router(controls: Controls) -> Router {
    let layouts = Layout::built_in("chat21-v1").unwrap();
    Router {
        layouts: TopicMap::new(layouts, vec![], &[], controls).unwrap(),
        policy: policy(),
        dead_letter_topic: None,
        events: EventKind::ALL.iter().copied().collect(),
    }
}

fn message(number: usize, ids: &mut MessageIds, group: &str, members: usize) -> PendingMessage {
    let members: Vec<_> = (0..members).map(|n| format!("\"m{n:03}\":1")).collect();
    let payload = format!(
        r#"{{"n":{number},"group":{{"members":{{{}}}}}}}"#,
        members.join(",")
    );
    let topic = format!("apps/a/users/m000/messages/{group}/outgoing");
    PendingMessage {
        via: Via::Broker,
        entry: EntryId::for_tests(number),
        received: Received::new(topic.into(), payload.into(), false),
        id: ids.next(NOW),
        fingerprint: Some(number as u64),
        repeated: false,
        question: Question::None,
        refused: None,
    }
}

fn memory() -> Box<dyn Store> {
    open(&StoreLocation::Memory, Access::Exclusive)
}

fn open(location: &StoreLocation, access: Access) -> Box<dyn Store> {
    store::open(location, access, OfflineDelivery::Broker).unwrap()
}

/// A store with an outbox for one endpoint.
fn with_webhook() -> Box<dyn Store> {
    let mut store = memory();
    store.set_endpoints(Endpoints {
        names: vec!["http://localhost/".to_owned()],
        max_bytes: 1 << 20,
    });
    store
}

fn batch(messages: Vec<PendingMessage>, room_for_bulk: usize) -> Batch {
    Batch {
        messages,
        room_for_bulk,
        acknowledged: None,
        published: vec![],
        held: vec![],
        backlog: None,
        left: None,
        resumed: vec![],
        policy: policy(),
        outbox_request: OutboxRequest::default(),
        now: NOW,
    }
}

fn processor(controls: Controls, persistence: Option<Persistence>) -> Processor {
    let persistence = persistence.unwrap_or_default();
    Processor::new(router(controls), persistence, Metrics::new(&[]))
}

/// Runs until nothing is left, with so much room each time. Returns the bulk copies in order: of
/// which message, to which topic.
fn run(
    processor: &mut Processor,
    messages: Vec<PendingMessage>,
    room: usize,
) -> Vec<(EntryId, String)> {
    let mut copies = vec![];
    let mut open = messages.len();
    let mut waiting = messages;
    while open > 0 {
        let decided = processor
            .process(&batch(std::mem::take(&mut waiting), room))
            .unwrap()
            .decided;
        let made: usize = decided.iter().map(|decided| decided.bulk.len()).sum();
        assert!(
            made < room + STEP,
            "{made} copies where there was room for {room}"
        );
        for decided in decided {
            open -= usize::from(decided.done);
            let topics = decided
                .bulk
                .into_iter()
                .map(|publish| publish.topic.to_string());
            copies.extend(topics.map(|topic| (decided.entry, topic)));
        }
    }
    copies
}

#[test]
fn each_member_gets_a_groups_messages_in_order_and_small_groups_do_not_wait_for_large_ones() {
    for (store, room) in [(false, 1), (false, STEP), (true, STEP), (true, 1_000)] {
        let store = store.then(memory);
        let controls = if store.is_some() {
            Controls::Served
        } else {
            Controls::Off
        };
        let mut processor = processor(controls, store.map(Persistence::store));
        let mut ids = MessageIds::new(RandomState::new());
        // The second message to the large group has other members, so that the two are cut into
        // steps differently.
        let messages = vec![
            message(0, &mut ids, "group-large", 1_000),
            message(1, &mut ids, "group-large", 700),
            message(2, &mut ids, "group-small", 5),
            message(3, &mut ids, "group-large", 1_000),
        ];
        let copies = run(&mut processor, messages, room);
        assert_eq!(copies.len(), 2_705);
        let mut last: HashMap<&str, usize> = HashMap::new();
        for (entry, topic) in &copies {
            let number = (0..4).find(|n| EntryId::for_tests(*n) == *entry).unwrap();
            let before = last.insert(topic, number);
            assert!(
                before.is_none_or(|before| before < number),
                "{topic}: {before:?} then {number}"
            );
        }
        let end_of = |n| {
            copies
                .iter()
                .rposition(|(entry, _)| *entry == EntryId::for_tests(n))
                .unwrap()
        };
        assert!(
            end_of(2) < end_of(0),
            "the small group has waited for the large one"
        );
        assert!(processor.fan_outs.len() == 0);
    }
}

#[test]
fn a_batch_that_fails_is_as_if_it_had_not_been() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let location = StoreLocation::File(path);
    let store = open(&location, Access::Exclusive);
    let mut processor = processor(Controls::Served, Some(Persistence::store(store)));
    let mut ids = MessageIds::new(RandomState::new());
    let first = processor
        .process(&batch(vec![message(0, &mut ids, "group-1", 200)], STEP))
        .unwrap();
    assert_eq!(first.decided[0].bulk.len(), STEP);
    let mut other = open(&location, Access::Shared);
    other.begin().unwrap();
    let next = batch(vec![message(1, &mut ids, "group-1", 1)], STEP);
    assert!(processor.process(&next).is_err());
    assert_eq!(processor.fan_outs.len(), 1, "nothing has moved");
    other.rollback();
    let again = processor.process(&next).unwrap();
    assert_eq!(
        again
            .decided
            .iter()
            .map(|decided| decided.bulk.len())
            .sum::<usize>(),
        STEP
    );
    assert_eq!(run(&mut processor, vec![], STEP).len(), 0);
}

/// The second step of a fan-out fails in the middle, after other messages of its batch.
#[test]
fn a_batch_that_fails_in_the_middle_leaves_a_fan_out_where_it_was() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let store = open(&StoreLocation::File(path.clone()), Access::Exclusive);
    let mut processor = processor(Controls::Served, Some(Persistence::store(store)));
    let mut ids = MessageIds::new(RandomState::new());
    let users = 2 * STEP + 50;
    let large = message(0, &mut ids, "group-1", users);
    let first = processor.process(&batch(vec![large], STEP)).unwrap();
    let fails_at = format!("m{:03}", STEP + 10);
    store::faults::fail_at_a_copy_for(&fails_at, &path);
    // The batch writes a message to another group first; the fault comes after it.
    let next = batch(vec![message(1, &mut ids, "group-2", 3)], STEP);
    for _ in 0..2 {
        let error = processor.process(&next).unwrap_err();
        assert!(error.to_string().contains("no more"), "{error}");
    }
    store::faults::mend(&path);
    let mut decided = first.decided;
    decided.extend(processor.process(&next).unwrap().decided);
    while processor.fan_outs.len() > 0 {
        decided.extend(processor.process(&batch(vec![], STEP)).unwrap().decided);
    }
    let copies_of = |number| {
        let entry = EntryId::for_tests(number);
        let steps = decided.iter().filter(move |decided| decided.entry == entry);
        steps
            .flat_map(|decided| &decided.bulk)
            .map(|publish| publish.topic.to_string())
    };
    let inbox =
        |n: usize, group: &str| format!("apps/a/users/m{n:03}/messages/{group}/clientadded");
    let expected = (0..users).map(|n| inbox(n, "group-1"));
    let copies: Vec<String> = copies_of(0).collect();
    assert_eq!(copies, expected.collect::<Vec<_>>());
    assert_eq!(copies_of(1).count(), 3);
    let store = processor.store_mut().expect("a store");
    let stats = store.stats().unwrap();
    // One for the group itself, and one for each member.
    assert_eq!(
        (stats.messages, stats.copies),
        (2, i64::try_from(users).unwrap() + 1 + 4)
    );
}

/// The kinds of events that wait, and for whom.
fn told_of(processor: &mut Processor) -> Vec<(String, String)> {
    let outbox = processor.persistence.outbox().unwrap();
    let listed = outbox.webhooks(&Selection::All).unwrap();
    listed
        .into_iter()
        .map(|row| (row.event_type, row.id))
        .collect()
}

#[test]
fn webhooks_are_told_once_of_what_comes_again() {
    for stored in [true, false] {
        let controls = if stored {
            Controls::Served
        } else {
            Controls::Off
        };
        let persistence = match stored {
            true => Persistence::store(with_webhook()),
            false => Persistence::outbox_in_memory(with_webhook()),
        };
        let mut processor = processor(controls, Some(persistence));
        let mut ids = MessageIds::new(RandomState::new());
        let first = message(0, &mut ids, "group-1", 50);
        run(&mut processor, vec![first.clone()], STEP);
        let told = told_of(&mut processor);
        assert_eq!(told.len(), 51, "the group's own copy, and one a member");
        assert_eq!(
            told.iter()
                .filter(|(kind, _)| kind == "message-sent")
                .count(),
            1
        );
        // All have been told, and then the message comes again.
        let outbox = processor.persistence.outbox().unwrap();
        outbox.drop_webhooks(&Selection::All).unwrap();
        let again = PendingMessage {
            repeated: true,
            ..first.clone()
        };
        run(&mut processor, vec![again], STEP);
        assert_eq!(told_of(&mut processor), [], "stored: {stored}");
        // Another is another.
        let second = message(1, &mut ids, "group-1", 3);
        run(&mut processor, vec![second], STEP);
        assert_eq!(told_of(&mut processor).len(), 4);
    }
}

#[test]
fn a_group_message_that_was_half_told_is_told_to_the_rest() {
    let persistence = Persistence::store(with_webhook());
    let mut processor = processor(Controls::Served, Some(persistence));
    let mut ids = MessageIds::new(RandomState::new());
    let first = message(0, &mut ids, "group-1", 3 * STEP);
    // The process ends after the first step.
    processor
        .process(&batch(vec![first.clone()], STEP))
        .unwrap();
    let before = told_of(&mut processor);
    assert_eq!(before.len(), 1 + STEP);
    processor.fan_outs.clear();
    let logged = processor.store_mut().unwrap().unpublished(None, 1).unwrap();
    let logged = logged.messages[0].fan_out.as_ref().unwrap();
    let resumed = Resumed {
        entry: first.entry,
        id: first.id,
        fan_out: FanOut::from_log(&logged.text, logged.position).unwrap(),
    };
    let again = PendingMessage {
        repeated: true,
        ..first
    };
    let mut next = batch(vec![again], STEP);
    next.resumed.push(resumed);
    let decided = processor.process(&next).unwrap().decided;
    assert_eq!(decided[0].left_to_log, Some(0), "the log has it already");
    while processor.fan_outs.len() > 0 {
        processor.process(&batch(vec![], STEP)).unwrap();
    }
    let after = told_of(&mut processor);
    assert_eq!(
        after[..before.len()],
        before,
        "what waits is not told twice"
    );
    assert_eq!(after.len(), 1 + 3 * STEP);
}
