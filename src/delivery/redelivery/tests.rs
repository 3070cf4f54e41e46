//! Driven through the ledger, which asks for every message that comes in.

use crate::delivery::ledger::tests::{TIMEOUT, ack, handed_out, id, insert, ledger, message, take};
use crate::delivery::ledger::{Ack, Admission, Ledger};
use crate::rules::plan::Purpose;

#[test]
fn a_lost_session_voids_its_acks_and_a_redelivery_takes_up_the_entry() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "done", 1);
    insert(&mut ledger, 2, "under way", 1);
    let out = handed_out(&mut ledger);
    ledger.handle_session_lost();
    ledger.handle_confirmed(out[0].0);
    assert_eq!(ledger.poll_ack(), None, "that connection is gone");
    ledger.handle_session_up(true);
    let again = |packet_id| Ack {
        connection: 2,
        packet_id,
    };
    assert_eq!(ledger.admit(again(1), 1, true), Admission::Resumed);
    assert_eq!(
        ledger.poll_ack(),
        Some(again(1)),
        "everything was confirmed before"
    );
    assert_eq!(ledger.admit(again(2), 2, true), Admission::Resumed);
    assert_eq!(ledger.poll_ack(), None);
    ledger.handle_confirmed(out[1].0);
    assert_eq!(ledger.poll_ack(), Some(again(2)));
    assert!(
        handed_out(&mut ledger).is_empty(),
        "nothing is forwarded twice"
    );
}

#[test]
fn an_acknowledged_message_that_comes_again_keeps_its_id() {
    let mut ledger = ledger(10);
    let known = id();
    take(
        &mut ledger,
        message("a", known, 7),
        vec![],
        Purpose::Copy,
        Some(ack(1)),
    );
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    assert_eq!(
        ledger.admit(ack(1), 7, false),
        Admission::New,
        "without DUP an equal text may be a new message"
    );
    assert_eq!(ledger.admit(ack(2), 7, true), Admission::Repeated(known));
    assert_eq!(
        ledger.admit(ack(3), 7, true),
        Admission::New,
        "once is once"
    );
}

#[test]
fn the_first_message_that_is_no_redelivery_ends_them() {
    let mut ledger = ledger(10);
    let old = id();
    take(
        &mut ledger,
        message("acknowledged", old, 7),
        vec![],
        Purpose::Copy,
        Some(ack(1)),
    );
    insert(&mut ledger, 2, "a", 1);
    insert(&mut ledger, 3, "b", 1);
    let out = handed_out(&mut ledger);
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    assert_eq!(
        ledger.admit(ack(1), 2, false),
        Admission::Resumed,
        "a broker that sets no DUP"
    );
    assert_eq!(ledger.admit(ack(2), 99, false), Admission::New);
    assert_eq!(ledger.admit(ack(3), 3, true), Admission::New);
    assert_eq!(
        ledger.admit(ack(4), 7, true),
        Admission::New,
        "a publisher's own DUP, long after"
    );
    out.iter().for_each(|(id, _)| ledger.handle_confirmed(*id));
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
    assert!(ledger.is_empty() && ledger.has_forgotten_all());
}

#[test]
fn a_session_the_broker_forgot_leaves_nothing_to_expect() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "done", 1);
    insert(&mut ledger, 2, "under way", 1);
    let out = handed_out(&mut ledger);
    ledger.handle_confirmed(out[0].0);
    ledger.handle_session_lost();
    ledger.handle_session_up(false);
    assert_eq!(ledger.admit(ack(1), 2, true), Admission::New);
    ledger.handle_confirmed(out[1].0);
    assert!(ledger.is_empty() && ledger.poll_ack().is_none());
}

#[test]
fn once_nothing_comes_again_an_equal_text_with_dup_is_new() {
    let mut ledger = ledger(10);
    let message = message("a", id(), 7);
    take(&mut ledger, message, vec![], Purpose::Copy, Some(ack(1)));
    assert!(ledger.poll_ack().is_some() && !ledger.expects_redeliveries());
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    assert!(ledger.expects_redeliveries());
    ledger.end_redeliveries();
    assert!(!ledger.expects_redeliveries());
    assert_eq!(ledger.admit(ack(2), 7, true), Admission::New);
}

#[test]
fn what_an_earlier_process_has_not_acknowledged_keeps_its_id() {
    let mut ledger = Ledger::new(1, 10, TIMEOUT);
    let (first, second) = (id(), id());
    ledger.expect(&[(7, first), (8, second)]);
    ledger.handle_session_up(true);
    assert_eq!(ledger.admit(ack(1), 7, true), Admission::Repeated(first));
    assert_eq!(
        ledger.admit(ack(2), 99, true),
        Admission::New,
        "a receipt, say: it is stored nowhere"
    );
    assert_eq!(ledger.admit(ack(3), 8, true), Admission::Repeated(second));
    ledger.expect(&[(7, first)]);
    assert_eq!(
        ledger.admit(ack(4), 7, false),
        Admission::New,
        "an equal text that is meant to be a second message"
    );
}

/// Takes a message that leads to nothing, and acknowledges it.
fn acknowledge(ledger: &mut Ledger, packet_id: u16, fingerprint: u64) {
    take(
        ledger,
        message("a", id(), fingerprint),
        vec![],
        Purpose::Copy,
        Some(ack(packet_id)),
    );
    assert_eq!(ledger.poll_ack(), Some(ack(packet_id)));
}

#[test]
fn an_equal_text_is_a_new_message_once_a_later_ping_is_answered() {
    let mut ledger = ledger(10);
    acknowledge(&mut ledger, 1, 7);
    ledger.age_acknowledged();
    acknowledge(&mut ledger, 2, 8);
    ledger.age_acknowledged();
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    // RabbitMQ sets DUP on messages that it never delivered before.
    assert_eq!(ledger.admit(ack(1), 7, true), Admission::New);
    let recent = ledger.admit(ack(2), 8, true);
    assert!(matches!(recent, Admission::Repeated(_)), "{recent:?}");
}

#[test]
fn nothing_that_was_acknowledged_is_expected_after_a_connection_that_ended_in_order() {
    let mut ledger = ledger(10);
    acknowledge(&mut ledger, 1, 7);
    insert(&mut ledger, 2, "under way", 1);
    ledger.handle_session_lost();
    ledger.handle_acks_arrived();
    ledger.handle_session_up(true);
    assert_eq!(ledger.admit(ack(1), 7, true), Admission::New);
    assert_eq!(ledger.admit(ack(2), 2, true), Admission::Resumed);
}

#[test]
fn no_more_is_remembered_than_a_broker_can_have_unacknowledged() {
    let mut ledger = ledger(10);
    let others: u16 = 1_024;
    for fingerprint in 0..=others {
        acknowledge(&mut ledger, fingerprint, u64::from(fingerprint));
    }
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    assert_eq!(ledger.admit(ack(1), 0, true), Admission::New);
    let second = ledger.admit(ack(2), 1, true);
    assert!(matches!(second, Admission::Repeated(_)), "{second:?}");
}

#[test]
fn what_surely_comes_again_is_expected_however_much_was_acknowledged() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 9_999, "under way", 1);
    let out = handed_out(&mut ledger);
    for packet_id in 0..2_000 {
        // Acknowledged in its turn, behind the first.
        take(
            &mut ledger,
            message("a", id(), u64::from(packet_id)),
            vec![],
            Purpose::Copy,
            Some(ack(packet_id)),
        );
    }
    ledger.handle_confirmed(out[0].0);
    while ledger.poll_ack().is_some() {}
    insert(&mut ledger, 10_000, "still under way", 1);
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    assert_eq!(ledger.admit(ack(1), 10_000, true), Admission::Resumed);
}

#[test]
fn acks_that_a_broken_connection_may_have_lost_are_not_made_up_for_by_one_that_ended_in_order() {
    let mut ledger = ledger(10);
    acknowledge(&mut ledger, 1, 7);
    ledger.handle_session_lost();
    ledger.handle_session_up(true);
    acknowledge(&mut ledger, 2, 8);
    ledger.handle_session_lost();
    ledger.handle_acks_arrived();
    ledger.handle_session_up(true);
    let lost = ledger.admit(ack(1), 7, true);
    assert!(matches!(lost, Admission::Repeated(_)), "{lost:?}");
    assert_eq!(ledger.admit(ack(2), 8, true), Admission::New);
}
