//! Very much to one topic of which nothing is confirmed, or to very many.

use super::*;
use crate::protocol::message_id::MessageId;

/// As [`Bench::send`], acknowledged by the delivery log.
fn log(bench: &mut Bench, topic: &str, text: &str) -> (MessageId, Publish) {
    bench.sent += 1;
    let publish = Publish {
        topic: TopicName::parse(topic).unwrap(),
        ..publish(text)
    };
    let id = bench.ids.next(UnixMillis::new(1));
    let message = message(text, id, u64::from(bench.sent));
    let entry = bench.ledger.insert(message, Some(ack(bench.sent)));
    bench.ledger.logged(entry);
    bench
        .ledger
        .add(entry, vec![publish.clone()], Purpose::Copy);
    bench.ledger.decided(entry);
    (id, publish)
}

/// Somebody writes very much to one whose queue takes nothing: it neither fills the memory nor what
/// may be in flight, and all goes out in order when the queue takes it.
#[test]
fn a_flood_to_a_topic_that_is_never_confirmed_waits_in_the_log() {
    let mut bench = Bench::new(800);
    let mut stored = vec![];
    let (mut most_open, mut most_in_flight) = (0, 0);
    // Two thousand a second for five seconds, and others beside it.
    for n in 0..10_000 {
        stored.push(log(&mut bench, "stuck", &n.to_string()));
        if n % 20 == 0 {
            bench.send("other", "other");
            bench.now += Duration::from_millis(10);
        }
        for (id, text) in bench.out(DIRECT) {
            if text == "other" {
                bench.ledger.handle_confirmed(id);
            }
        }
        if n % 1_000 == 0 {
            bench.tick();
        }
        most_open = most_open.max(bench.ledger.unconfirmed());
        most_in_flight = most_in_flight.max(bench.ledger.in_flight(DIRECT));
    }
    assert!(most_open < 400, "{most_open}");
    assert!(most_in_flight < 400, "{most_in_flight}");
    assert!(bench.ledger.quarantined() > 0);
    assert!(bench.ledger.left_bytes() > 0);
    // The queue takes them.
    let mut arrived = vec![];
    loop {
        let mut out = bench.out(APART);
        out.extend(bench.out(DIRECT));
        for (id, text) in &out {
            bench.ledger.handle_confirmed(*id);
            arrived.push(text.parse::<usize>().unwrap());
        }
        let Some(read) = bench.ledger.next_left(None) else {
            if out.is_empty() {
                break;
            }
            continue;
        };
        let from = stored.partition_point(|(id, _)| *id <= read.after);
        let page = &stored[from..stored.len().min(from + 64)];
        for (id, publish) in page {
            let of = message("left", *id, 0);
            bench
                .ledger
                .handle_read(of, vec![(Purpose::Copy, publish.clone())]);
        }
        let up_to = page.last().map(|(id, _)| *id);
        bench
            .ledger
            .handle_read_up_to(&read.topic, up_to, page.len() < 64);
    }
    assert!(arrived.iter().copied().eq(0..10_000), "{arrived:?}");
    assert_eq!(bench.ledger.left_bytes(), 0);
    assert_eq!(bench.ledger.take_published().len(), 10_000);
    assert!(bench.ledger.is_empty());
}

#[test]
fn of_however_many_topics_nothing_is_given_up_that_was_not_tried() {
    let mut bench = Bench::new(3_000);
    for n in 0..1_500 {
        bench.send(&format!("slow/{n}"), &n.to_string());
    }
    bench.out(DIRECT);
    bench.wait(STEADY * 3, true);
    assert_eq!(bench.failed().len(), 0);
    assert_eq!(bench.ledger.quarantined(), 1_500);
    assert!(bench.ledger.has_room());
    // The broker was slow with them, and no more.
    let mut arrived = vec![];
    loop {
        let out = bench.out(APART);
        if out.is_empty() {
            break;
        }
        for (id, text) in out {
            bench.ledger.handle_confirmed(id);
            arrived.push(text.parse::<usize>().unwrap());
        }
    }
    arrived.sort_unstable();
    assert!(arrived.iter().copied().eq(0..1_500), "{arrived:?}");
    assert!(bench.ledger.is_empty());
}

/// Very many topics of which nothing is confirmed: what else goes to them waits in the log.
#[test]
fn a_full_quarantine_leaves_to_the_log_what_it_can() {
    let mut bench = Bench::new(3_000);
    let topics: Vec<String> = (0..MOST_WAITING).map(|n| format!("stuck/{n}")).collect();
    for topic in &topics {
        log(&mut bench, topic, "first");
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.ledger.quarantined(), MOST_WAITING);
    for topic in &topics {
        log(&mut bench, topic, "second");
    }
    assert_eq!(
        bench.ledger.quarantined(),
        MOST_WAITING,
        "they take no memory"
    );
    assert!(bench.ledger.left_bytes() > 0);
    assert_eq!(
        bench.ledger.next_left(None),
        None,
        "the first ones still wait"
    );
    let out = bench.out(APART);
    bench.ledger.handle_confirmed(out[0].0);
    assert!(bench.ledger.next_left(None).is_some());
}

#[test]
fn the_broker_takes_a_canary_besides_all_that_is_under_way() {
    let mut bench = Bench::new(100);
    bench.ledger.handle_publisher_up(APART, 5);
    for n in 0..10 {
        bench.send(&format!("stuck/{n}"), "stuck");
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.ledger.quarantined(), 10);
    assert_eq!(bench.out(APART).len(), 4);
}
