//! Panics in the middle of a batch.

use super::*;
use crate::telemetry::crash_point::PANIC_WORD;

fn stored() -> Processor {
    processor(Controls::Served, Some(Persistence::store(memory())))
}

/// To a group of three.
fn with_text(number: usize, ids: &mut MessageIds, text: &str) -> PendingMessage {
    let message = message(number, ids, "group-1", 3);
    let payload = String::from_utf8(message.received.payload.to_vec()).unwrap();
    let payload = payload.replacen('{', &format!(r#"{{"text":"{text}","#), 1);
    let received = Received::new(message.received.topic.clone(), payload.into(), false);
    PendingMessage {
        received,
        ..message
    }
}

#[test]
fn of_a_batch_those_messages_are_refused_on_which_it_panics() {
    let mut ids = MessageIds::new(RandomState::new());
    let texts = [PANIC_WORD, "a", PANIC_WORD, PANIC_WORD, "b"];
    let messages = texts.iter().enumerate();
    let messages: Vec<_> = messages
        .map(|(number, text)| with_text(number, &mut ids, text))
        .collect();
    for mut processor in [stored(), processor(Controls::Off, None)] {
        let processed = processor.process(&batch(messages.clone(), STEP)).unwrap();
        let refusals = processed.decided.iter().filter(|decided| decided.first);
        let refused: Vec<_> = refusals.map(|decided| decided.refusal).collect();
        let internal = Some(Refusal::Internal);
        assert_eq!(refused, [internal, None, internal, internal, None]);
        // The next batch is like any other.
        let next = with_text(5, &mut ids, "c");
        assert_eq!(run(&mut processor, vec![next], STEP).len(), 3);
    }
}

#[test]
fn a_fan_out_is_dropped_if_a_step_of_it_panics() {
    let mut ids = MessageIds::new(RandomState::new());
    let group = format!("group-{PANIC_WORD}");
    let first = message(0, &mut ids, &group, 3);
    let mut processor = stored();
    // There is no room for a step.
    let decided = processor.process(&batch(vec![first.clone()], 0)).unwrap();
    assert!(!decided.decided[0].done && decided.decided[0].refusal.is_none());
    let store = processor.store_mut().unwrap();
    let logged = store.unpublished(None, 1).unwrap().messages;
    let logged = logged[0].fan_out.as_ref().unwrap();
    let resumed = Resumed {
        entry: first.entry,
        id: first.id,
        fan_out: FanOut::from_log(&logged.text, logged.position).unwrap(),
    };
    // The next step is taken by this process, or by the next.
    for is_next in [false, true] {
        let mut batch = batch(vec![message(1, &mut ids, "group-1", 3)], 2 * STEP);
        if is_next {
            batch.resumed.push(resumed.clone());
        }
        let decided = processor.process(&batch).unwrap().decided;
        let of_first: Vec<_> = decided
            .iter()
            .filter(|decided| decided.entry == first.entry)
            .map(|decided| (decided.refusal, decided.bulk.len(), decided.done))
            .collect();
        assert_eq!(of_first, [(Some(Refusal::Internal), 0, true)]);
        let others: usize = decided.iter().map(|decided| decided.bulk.len()).sum();
        assert_eq!((others, processor.fan_outs.len()), (3, 0));
    }
}

#[test]
fn a_batch_is_decided_on_without_looking_up_ahead_if_that_panics() {
    let mut ids = MessageIds::new(RandomState::new());
    let to_one = message(0, &mut ids, PANIC_WORD, 0);
    let received = Received::new(to_one.received.topic.clone(), "{}".into(), false);
    let to_one = PendingMessage { received, ..to_one };
    let decided = stored()
        .process(&batch(vec![to_one], STEP))
        .unwrap()
        .decided;
    assert_eq!((decided[0].refusal, decided[0].publishes.len()), (None, 2));
}

/// The broker delivers such a message again after each restart: it must not hold up the others.
#[test]
fn a_message_is_refused_that_needs_a_row_which_cannot_be_read() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let store = open(&StoreLocation::File(path.clone()), Access::Exclusive);
    let mut processor = processor(Controls::Served, Some(Persistence::store(store)));
    store::faults::spoil_group("group-bad", &path);
    let mut ids = MessageIds::new(RandomState::new());
    let groups = ["group-1", "group-bad", "group-bad", "group-2"];
    for _ in 0..2 {
        let messages = groups.iter().enumerate();
        let messages = messages.map(|(number, group)| message(number, &mut ids, group, 3));
        let messages = messages.collect();
        let processed = processor.process(&batch(messages, STEP)).unwrap();
        let decided = processed.decided.iter().filter(|decided| decided.first);
        let refused: Vec<_> = decided.map(|decided| decided.refusal).collect();
        let internal = Some(Refusal::Internal);
        assert_eq!(refused, [None, internal, internal, None]);
    }
}

/// Thousands of others must not go without it.
#[test]
fn a_member_gets_no_copy_whose_row_cannot_be_read_and_the_others_do() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let stored = || {
        let store = open(&StoreLocation::File(path.clone()), Access::Exclusive);
        processor(Controls::Served, Some(Persistence::store(store)))
    };
    let mut ids = MessageIds::new(RandomState::new());
    let first = message(0, &mut ids, "group-1", 100);
    assert_eq!(run(&mut stored(), vec![first], STEP).len(), 100);
    for spoilt in ["m001", "m070", "m071"] {
        store::faults::spoil_conversations(spoilt, &path);
    }
    let mut processor = stored();
    let messages = vec![
        message(1, &mut ids, "group-1", 100),
        message(2, &mut ids, "group-1", 3),
    ];
    let copies = run(&mut processor, messages, STEP);
    assert_eq!(copies.len(), 97 + 2);
    for (_, topic) in &copies {
        let left_out = ["/m001/", "/m070/", "/m071/"];
        assert!(!left_out.iter().any(|member| topic.contains(member)));
    }
}

/// What one of them cannot have, the others get all the same.
#[test]
fn new_members_get_a_groups_history_but_for_rows_that_cannot_be_read() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let location = StoreLocation::File(path.clone());
    let stored = || {
        let store = open(&location, Access::Exclusive);
        processor(Controls::Served, Some(Persistence::store(store)))
    };
    let mut ids = MessageIds::new(RandomState::new());
    let messages = (0..40).map(|number| message(number, &mut ids, "group-1", 3));
    let messages = messages.collect();
    run(&mut stored(), messages, STEP);
    store::faults::spoil_conversations("m001", &path);
    store::faults::spoil_first_copy("group-1", &path);
    let range = r#"{"after":0,"last":1000}"#;
    let members = ["m000", "m001", "m002"].map(|id| format!(r#"{{"id":"{id}","blocks":[]}}"#));
    let text = format!(
        r#"{{"app":"a","work":{{"GroupHistory":{{"group":"group-1","members":[{}],"turn":0,
            "whole":{range},"range":{range},"written_at":1,"raises_events":false}}}}}}"#,
        members.join(",")
    );
    let resumed = Resumed {
        entry: EntryId::for_tests(0),
        id: ids.next(NOW),
        fan_out: FanOut::from_log(&text, 0).unwrap(),
    };
    let mut processor = stored();
    let mut first = batch(vec![], STEP);
    first.resumed.push(resumed);
    let (mut copies, mut next, mut is_done) = (vec![], first, false);
    while !is_done {
        let decided = processor.process(&next).unwrap().decided;
        assert!(decided.iter().all(|decided| decided.refusal.is_none()));
        is_done = decided[0].done;
        let bulk = decided.into_iter().flat_map(|decided| decided.bulk);
        copies.extend(bulk.map(|publish| publish.topic.to_string()));
        next = batch(vec![], STEP);
    }
    let of = |member: &str| {
        let member = format!("/{member}/");
        copies
            .iter()
            .filter(|topic| topic.contains(&member))
            .count()
    };
    assert_eq!([of("m000"), of("m001"), of("m002")], [39, 0, 39]);
}

#[test]
fn a_fetch_goes_without_a_message_that_cannot_be_read() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let store = open(&StoreLocation::File(path.clone()), Access::Exclusive);
    let mut processor = processor(Controls::Served, Some(Persistence::store(store)));
    let mut ids = MessageIds::new(RandomState::new());
    let to_bob = |number, ids: &mut MessageIds| message(number, ids, "bob", 0);
    run(&mut processor, vec![to_bob(0, &mut ids)], STEP);
    store::faults::spoil_messages(&path);
    run(&mut processor, vec![to_bob(1, &mut ids)], STEP);
    let topic = "apps/a/users/bob/inbox/fetch";
    let fetch = PendingMessage {
        received: Received::new(topic.into(), r#"{"since":0}"#.into(), false),
        ..to_bob(2, &mut ids)
    };
    let topics: Vec<_> = run(&mut processor, vec![fetch], STEP)
        .into_iter()
        .map(|(_, topic)| topic)
        .collect();
    assert_eq!(
        topics,
        [
            "apps/a/users/bob/messages/m000/clientadded",
            "apps/a/users/bob/inbox/clientupdated"
        ]
    );
}

/// Everything else waits behind the log.
#[test]
fn the_log_is_read_on_where_a_row_of_it_cannot_be_read() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("observer.db");
    let location = StoreLocation::File(path.clone());
    let mut ids = MessageIds::new(RandomState::new());
    let messages = vec![
        message(0, &mut ids, "bob", 0),
        message(1, &mut ids, "group-1", 3),
    ];
    let wanted: Vec<_> = messages.iter().map(|message| message.id).collect();
    let store = Persistence::store(open(&location, Access::Exclusive));
    let mut first = processor(Controls::Served, Some(store));
    first.process(&batch(messages, 0)).unwrap();
    drop(first);
    store::faults::spoil_messages(&path);
    store::faults::spoil_fan_outs(&path);
    let store = Persistence::store(open(&location, Access::Exclusive));
    let mut next = processor(Controls::Served, Some(store));
    let batch = Batch {
        backlog: Some(BacklogRead {
            after: None,
            most: 10,
        }),
        ..batch(vec![], 0)
    };
    let read = next.process(&batch).unwrap().read.messages;
    let ids: Vec<_> = read.iter().map(|message| message.id).collect();
    assert_eq!(ids, wanted);
    for message in read {
        assert_eq!((message.publishes, message.fan_out), (vec![], None));
        assert!(message.is_damaged);
    }
}
