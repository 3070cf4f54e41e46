//! Driven through the ledger, which owns the queues.

use std::collections::HashSet;

use bytes::Bytes;

use super::*;
use crate::delivery::ledger::tests::{
    ack, handed_out, id, insert, ledger, message, publish, start, take, texts,
};
use crate::delivery::publish_queues::PublishQueues;
use crate::protocol::refusal::Refusal;
use crate::protocol::topic::TopicName;

#[test]
fn unconfirmed_publishes_go_out_again_oldest_first_on_the_next_connection() {
    let mut ledger = ledger(10);
    for (packet_id, text) in [(1, "a"), (2, "b"), (3, "c")] {
        insert(&mut ledger, packet_id, text, 1);
    }
    let out = handed_out(&mut ledger);
    ledger.handle_confirmed(out[1].0);
    ledger.handle_publisher_down(0, PublisherEnd::Closed);
    assert!(
        handed_out(&mut ledger).is_empty(),
        "no connection, nothing to hand out"
    );
    ledger.handle_publisher_up(0, 100);
    assert_eq!(texts(&handed_out(&mut ledger)), ["a", "c"]);
}

#[test]
fn an_outage_of_the_broker_is_held_against_no_publish() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 1);
    for _ in 0..50 {
        assert_eq!(handed_out(&mut ledger).len(), 1);
        ledger.handle_publisher_down(0, PublisherEnd::Unrelated);
        ledger.handle_publisher_up(0, 100);
    }
    assert!(ledger.poll_failed().is_none());
}

#[test]
fn bytes_bound_what_is_taken_and_what_is_sent_ahead() {
    let mut ledger = ledger(1_000);
    let large = "x".repeat(1 << 20);
    for n in 0..32 {
        assert!(ledger.has_room());
        insert(&mut ledger, n, &large, 1);
    }
    assert!(!ledger.has_room(), "64 MiB are under way, with the copies");
    assert_eq!(handed_out(&mut ledger).len(), 4, "4 MiB are sent ahead");
}

#[test]
fn a_publish_that_costs_the_connection_is_set_aside_and_its_neighbours_pass() {
    let mut ledger = ledger(100);
    for n in 0..40 {
        insert(&mut ledger, n, if n == 20 { "poison" } else { "good" }, 1);
    }
    ledger.handle_publisher_up(2, 100);
    let mut closed = [0, 0, 0];
    let failed = loop {
        for publisher in [0, 2] {
            let mut out = vec![];
            while let Some((id, publish)) = ledger.poll_publish(publisher, start()) {
                out.push((id, publish.payload.clone()));
            }
            // Like RabbitMQ: the refused publish closes the connection, and confirmations that were
            // on their way are lost with it.
            if out.iter().any(|(_, payload)| *payload == "poison") {
                ledger.handle_publisher_down(publisher, PublisherEnd::Closed);
                closed[publisher] += 1;
                ledger.handle_publisher_up(publisher, 100);
            } else {
                out.iter().for_each(|(id, _)| ledger.handle_confirmed(*id));
            }
        }
        if let Some(failed) = ledger.poll_failed() {
            break failed;
        }
        assert!(closed[2] < 10, "it goes on for ever");
    };
    assert_eq!(closed, [2, 0, 3]);
    assert_eq!(
        (&failed.received.payload[..], failed.refusal, failed.purpose),
        (&b"poison"[..], Refusal::Unauthorized, Purpose::Copy)
    );
    ledger.resolve(failed, vec![publish("dead letter")]);
    let mut acks = std::iter::from_fn(|| ledger.poll_ack()).count();
    assert_eq!(acks, 20, "the poison's own ack waits for its dead letter");
    for publisher in [0, 2] {
        while let Some((id, _)) = ledger.poll_publish(publisher, start()) {
            ledger.handle_confirmed(id);
        }
    }
    acks += std::iter::from_fn(|| ledger.poll_ack()).count();
    assert_eq!(acks, 40);
}

#[test]
fn bulk_copies_have_their_own_queue_and_leave_room_for_the_rest() {
    let mut ledger = ledger(1_000);
    ledger.handle_publisher_up(1, 100);
    let room = ledger.room_for_bulk();
    let large: Bytes = vec![b'x'; 1 << 20].into();
    let copies = (0..room).map(|_| Publish {
        payload: large.clone(),
        ..publish("")
    });
    take(
        &mut ledger,
        message("to all", id(), 1),
        copies.collect(),
        Purpose::BulkCopy,
        Some(ack(1)),
    );
    assert_eq!(ledger.room_for_bulk(), 0);
    assert!(ledger.has_room(), "a payload that copies share counts once");
    insert(&mut ledger, 2, "direct", 1);
    assert_eq!(texts(&handed_out(&mut ledger)), ["direct"]);
    assert!(ledger.poll_publish(1, start()).is_some());
}

#[test]
fn one_timeline_stays_with_one_publisher() {
    let queues = PublishQueues::new(4);
    let publishers: HashSet<usize> = (0..100)
        .map(|n| queues.publisher_of(&format!("apps/a/users/u{n}/messages/x/clientadded")))
        .collect();
    assert_eq!(publishers.len(), 4);
    assert_eq!(queues.publisher_of("a/b"), queues.publisher_of("a/b"));
}

#[test]
fn what_is_taken_out_leaves_no_payload_behind() {
    let mut queue = PublishQueue::new(10);
    let queued = |topic: &str| QueuedPublish {
        entry: 0,
        publish: Publish {
            topic: TopicName::parse(topic).unwrap(),
            ..publish("payload")
        },
        purpose: Purpose::Copy,
        bytes: 0,
        logged_as: Some(id()),
        is_newest: true,
    };
    for topic in ["stays", "in flight", "stays", "waits"] {
        queue.push(queued(topic));
    }
    queue.handle_up(3);
    while queue.poll(start()).is_some() {}
    let mut taken = queue.take_waiting("waits");
    let out = queue.take_out(&HashSet::from(["in flight".to_owned()]));
    taken.extend(out.into_iter().map(|(_, queued)| queued));
    assert!(taken.iter().all(|one| one.publish.payload == "payload"));
    let kept = queue.slots.iter();
    let kept: Vec<_> = kept.map(|slot| slot.queued.publish.payload.len()).collect();
    assert_eq!((taken.len(), kept), (2, vec![7, 0, 7, 0]));
}
