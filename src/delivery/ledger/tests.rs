//! Acknowledgements, and what they wait for. The helpers here also serve the tests of the queues
//! and of redelivery.

mod model;

use std::hash::RandomState;

use bytes::Bytes;

use super::*;
use crate::protocol::message_id::MessageIds;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;

/// Some instant: the ledger only compares.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make one"
)]
pub(in crate::delivery) fn start() -> Instant {
    Instant::now()
}

pub(in crate::delivery) const TIMEOUT: Duration = Duration::from_secs(30);

pub(in crate::delivery) fn received(text: &str) -> Received {
    Received::new(
        Bytes::from_static(b"t"),
        Bytes::copy_from_slice(text.as_bytes()),
        false,
    )
}

pub(in crate::delivery) fn message(text: &str, id: MessageId, fingerprint: u64) -> Message {
    Message {
        received: received(text),
        id,
        fingerprint,
        since: start(),
    }
}

pub(in crate::delivery) fn publish(text: &str) -> Publish {
    Publish {
        topic: TopicName::parse("to").unwrap(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        user_properties: vec![],
        retain: false,
        copy_status: None,
    }
}

pub(in crate::delivery) fn id() -> MessageId {
    MessageIds::new(RandomState::new()).next(UnixMillis::new(1))
}

pub(in crate::delivery) fn ack(packet_id: u16) -> Ack {
    Ack {
        connection: 1,
        packet_id,
    }
}

/// A ledger with one direct publisher and a session, both up.
pub(in crate::delivery) fn ledger(window: usize) -> Ledger {
    let mut ledger = Ledger::new(1, window, TIMEOUT);
    ledger.handle_publisher_up(0, 100);
    ledger.handle_session_up(false);
    ledger
}

pub(in crate::delivery) fn insert(ledger: &mut Ledger, packet_id: u16, text: &str, copies: usize) {
    let publishes = (0..copies).map(|_| publish(text)).collect();
    let message = message(text, id(), u64::from(packet_id));
    take(
        ledger,
        message,
        publishes,
        Purpose::Copy,
        Some(ack(packet_id)),
    );
}

/// A message that is decided on at once.
pub(in crate::delivery) fn take(
    ledger: &mut Ledger,
    message: Message,
    publishes: Vec<Publish>,
    purpose: Purpose,
    ack: Option<Ack>,
) {
    let entry = ledger.insert(message, ack);
    ledger.add(entry, publishes, purpose);
    ledger.decided(entry);
}

pub(in crate::delivery) fn handed_out(ledger: &mut Ledger) -> Vec<(PublishId, String)> {
    let mut out = vec![];
    while let Some((id, publish)) = ledger.poll_publish(0, start()) {
        out.push((id, String::from_utf8(publish.payload.to_vec()).unwrap()));
    }
    out
}

pub(in crate::delivery) fn texts(handed_out: &[(PublishId, String)]) -> Vec<&str> {
    handed_out.iter().map(|(_, text)| text.as_str()).collect()
}

#[test]
fn acks_only_after_every_publish_is_confirmed_and_in_arrival_order() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 2);
    insert(&mut ledger, 2, "b", 1);
    let out = handed_out(&mut ledger);
    assert_eq!(texts(&out), ["a", "a", "b"]);
    ledger.handle_confirmed(out[2].0);
    ledger.handle_confirmed(out[0].0);
    assert_eq!(ledger.poll_ack(), None);
    ledger.handle_confirmed(out[0].0);
    assert_eq!(
        ledger.poll_ack(),
        None,
        "the same confirmation twice counts once"
    );
    ledger.handle_confirmed(out[1].0);
    assert_eq!(
        (ledger.poll_ack(), ledger.poll_ack(), ledger.poll_ack()),
        (Some(ack(1)), Some(ack(2)), None)
    );
    assert!(ledger.is_empty());
}

#[test]
fn a_message_that_waits_for_nothing_is_acknowledged_at_once() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "refused", 0);
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
}

#[test]
fn a_qos_0_message_leaves_nothing_behind() {
    let mut ledger = ledger(10);
    take(
        &mut ledger,
        message("a", id(), 0),
        vec![publish("a")],
        Purpose::Copy,
        None,
    );
    let out = handed_out(&mut ledger);
    ledger.handle_confirmed(out[0].0);
    assert!(ledger.is_empty() && ledger.entries.is_empty() && ledger.poll_ack().is_none());
}

#[test]
fn the_window_closes_and_opens() {
    let mut ledger = ledger(2);
    insert(&mut ledger, 1, "a", 1);
    assert!(ledger.has_room());
    insert(&mut ledger, 2, "b", 1);
    assert!(!ledger.has_room());
    let out = handed_out(&mut ledger);
    ledger.handle_confirmed(out[0].0);
    assert!(ledger.has_room());
}

/// However many of them an earlier process has left.
#[test]
fn what_waits_for_the_decision_service_in_the_log_takes_no_room() {
    let mut ledger = ledger(2);
    let text = "x".repeat(BYTES_UNDER_WAY / 50);
    let mut entries = vec![];
    for _ in 0..100 {
        let entry = ledger.insert(message(&text, id(), 1), None);
        ledger.question_logged(entry);
        entries.push(entry);
    }
    assert!(ledger.has_room() && ledger.room_for_read() > 0);
    assert!(ledger.is_empty(), "a stop does not wait for them");
    for entry in &entries {
        ledger.question_answered(*entry);
    }
    assert!(!ledger.has_room() && !ledger.is_empty());
    for entry in entries {
        ledger.decided(entry);
    }
    assert!(ledger.has_room() && ledger.has_forgotten_all());
    assert_eq!(ledger.take_published().len(), 100);
}

#[test]
fn a_refused_notice_is_known_for_one_even_if_nothing_was_forwarded() {
    let mut ledger = ledger(10);
    let bad = message("bad", id(), 1);
    take(
        &mut ledger,
        bad,
        vec![publish("notice")],
        Purpose::Notice,
        Some(ack(1)),
    );
    let out = handed_out(&mut ledger);
    ledger.handle_refused(out[0].0, Refusal::Unauthorized);
    assert_eq!(ledger.poll_failed().unwrap().purpose, Purpose::Notice);
}

#[test]
fn two_copies_refused_are_one_refusal() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 2);
    for (id, _) in handed_out(&mut ledger) {
        ledger.handle_refused(id, Refusal::Unauthorized);
    }
    let failed = [ledger.poll_failed(), ledger.poll_failed()].map(Option::unwrap);
    let whats = failed.map(|failed| (failed.purpose, failed.told_before));
    assert_eq!(whats, [(Purpose::Copy, false), (Purpose::Copy, true)]);
}

#[test]
fn a_refused_notice_is_not_answered_again() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 1);
    let out = handed_out(&mut ledger);
    ledger.handle_refused(out[0].0, Refusal::Unauthorized);
    let failed = ledger.poll_failed().unwrap();
    assert_eq!((failed.purpose, failed.told_before), (Purpose::Copy, false));
    ledger.resolve(failed, vec![publish("notice")]);
    let out = handed_out(&mut ledger);
    ledger.handle_refused(out[0].0, Refusal::Unauthorized);
    let failed = ledger.poll_failed().unwrap();
    assert_eq!(failed.purpose, Purpose::Notice);
    ledger.resolve(failed, vec![]);
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
}

#[test]
fn what_is_made_in_steps_is_acknowledged_after_the_last() {
    let mut ledger = ledger(10);
    let entry = ledger.insert(message("a", id(), 1), Some(ack(1)));
    assert!(!ledger.is_empty());
    for _ in 0..2 {
        ledger.add(entry, vec![publish("step")], Purpose::Copy);
        for (id, _) in handed_out(&mut ledger) {
            ledger.handle_confirmed(id);
        }
        assert_eq!(ledger.poll_ack(), None);
    }
    ledger.decided(entry);
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
    assert!(ledger.settled_up_to().is_some());
}

#[test]
fn nothing_counts_as_settled_while_something_before_it_is_open() {
    let mut ledger = ledger(10);
    let mut ids = MessageIds::new(RandomState::new());
    let (first, second, third) = (
        ids.next(UnixMillis::new(1)),
        ids.next(UnixMillis::new(1)),
        ids.next(UnixMillis::new(1)),
    );
    // After a restart: a receipt is stored nowhere, so it has a new id. It came between two
    // messages that keep theirs.
    take(
        &mut ledger,
        message("receipt", third, 1),
        vec![],
        Purpose::Copy,
        Some(ack(1)),
    );
    assert_eq!(ledger.settled_up_to(), Some(third));
    let entry = ledger.insert(message("again", second, 2), Some(ack(2)));
    assert_eq!(ledger.settled_up_to(), None, "the store would forget it");
    ledger.decided(entry);
    assert_eq!(ledger.settled_up_to(), Some(third));
    ledger.expect(&[(3, first)]);
    assert_eq!(ledger.settled_up_to(), None, "it may still come again");
}

/// The delivery log holds what the message leads to.
fn insert_logged(ledger: &mut Ledger, id: MessageId, packet_id: u16, copies: usize) {
    let publishes = (0..copies).map(|_| publish("logged")).collect();
    let message = message("logged", id, u64::from(packet_id));
    let entry = ledger.insert(message, Some(ack(packet_id)));
    ledger.add(entry, publishes, Purpose::Copy);
    ledger.logged(entry);
    ledger.decided(entry);
}

#[test]
fn what_is_logged_is_acknowledged_at_once_but_in_turn() {
    let mut ledger = ledger(10);
    let mut ids = MessageIds::new(RandomState::new());
    let [first, second, third] = [(); 3].map(|()| ids.next(UnixMillis::new(1)));
    insert_logged(&mut ledger, first, 1, 2);
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
    assert_eq!((ledger.unacknowledged(), ledger.unconfirmed()), (0, 2));
    // One that is not logged holds up those behind it.
    take(
        &mut ledger,
        message("not logged", second, 2),
        vec![publish("page")],
        Purpose::Copy,
        Some(ack(2)),
    );
    insert_logged(&mut ledger, third, 3, 1);
    assert_eq!(ledger.poll_ack(), None);
    let out = handed_out(&mut ledger);
    assert_eq!(texts(&out), ["logged", "logged", "page", "logged"]);
    ledger.handle_confirmed(out[2].0);
    assert_eq!(ledger.poll_ack(), Some(ack(2)));
    assert_eq!(ledger.poll_ack(), Some(ack(3)));
    assert_eq!(ledger.take_published(), []);
    for (id, _) in [&out[0], &out[1]] {
        ledger.handle_confirmed(*id);
    }
    assert_eq!(ledger.take_published(), [first]);
    assert!(!ledger.is_empty());
    ledger.handle_confirmed(out[3].0);
    assert_eq!(ledger.take_published(), [third]);
    assert!(ledger.is_empty() && ledger.has_forgotten_all());
}
