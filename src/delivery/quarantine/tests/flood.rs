//! Very much to one topic of which nothing is confirmed, or to very many.

use std::collections::HashSet;

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

/// Reads a page of the log, if that is wanted. Returns whether it is.
fn read(bench: &mut Bench, stored: &[(MessageId, Publish)]) -> bool {
    let Some(read) = bench.ledger.next_left(None) else {
        return false;
    };
    assert!(bench.ledger.is_to_be_read(&read));
    let from = stored.partition_point(|(id, _)| *id <= read.after);
    let page = &stored[from..stored.len().min(from + 64)];
    let of_topic = page
        .iter()
        .filter(|(_, publish)| publish.topic.as_str() == read.topic);
    for (id, publish) in of_topic {
        let of = message("left", *id, 0);
        bench
            .ledger
            .handle_read(of, vec![(Purpose::Copy, publish.clone())]);
    }
    let up_to = page.last().map(|(id, _)| *id);
    bench
        .ledger
        .handle_read_up_to(&read.topic, up_to, page.len() < 64);
    true
}

/// Everything goes out and is confirmed. Returns what, in order.
fn all_out(bench: &mut Bench, stored: &[(MessageId, Publish)]) -> Vec<String> {
    let mut arrived = vec![];
    for publisher in [DIRECT, APART] {
        bench.lose(publisher, PublisherEnd::Unrelated);
    }
    loop {
        let mut out = bench.out(APART);
        out.extend(bench.out(DIRECT));
        for (id, text) in &out {
            bench.ledger.handle_confirmed(*id);
            arrived.push(text.clone());
        }
        if !read(bench, stored) && out.is_empty() {
            return arrived;
        }
    }
}

/// Half a second passes, in which the broker confirms what goes to others and takes canaries; the
/// log is read.
/// Returns what is tried now.
fn pass(bench: &mut Bench, stored: &[(MessageId, Publish)]) -> Vec<String> {
    bench.takes_canaries = true;
    bench.wait(SECOND / 2, true);
    if bench.ledger.is_worn(DIRECT) {
        bench
            .ledger
            .handle_publisher_down(DIRECT, PublisherEnd::Unrelated);
        bench.ledger.handle_publisher_up(DIRECT, 500);
    }
    while read(bench, stored) {}
    bench.texts(APART)
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
    let arrived = all_out(&mut bench, &stored);
    let mut arrived = arrived.iter().map(|text| text.parse::<usize>().unwrap());
    assert!(arrived.by_ref().eq(0..10_000), "{arrived:?}");
    assert_eq!(bench.ledger.left_bytes(), 0);
    assert_eq!(bench.ledger.take_published().len(), 10_000);
    assert!(bench.ledger.is_empty());
}

#[test]
fn however_many_topics_are_not_confirmed_others_are_taken_in_and_nothing_is_given_up() {
    let mut bench = Bench::with_window(500, 500);
    let mut stored = vec![];
    // Fifty a second.
    for n in 0..10_000 {
        assert!(bench.ledger.has_room(), "{n}");
        stored.push(log(&mut bench, &format!("stuck/{n}"), &n.to_string()));
        if n % 25 == 0 {
            pass(&mut bench, &stored);
            assert!(bench.ledger.quarantined() <= MOST_WAITING, "{n}");
        }
    }
    for _ in 0..240 {
        pass(&mut bench, &stored);
        assert!(bench.ledger.has_room());
    }
    assert!(bench.ledger.unconfirmed() <= MOST_WAITING);
    assert_eq!(bench.failed().len(), 0);
    // The broker was slow with them, and no more.
    let mut arrived: Vec<usize> = all_out(&mut bench, &stored)
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
    arrived.sort_unstable();
    assert!(arrived.iter().copied().eq(0..10_000), "{arrived:?}");
    assert_eq!(bench.ledger.left_bytes(), 0);
    assert_eq!(bench.ledger.take_published().len(), 10_000);
    assert!(bench.ledger.is_empty());
}

/// Their copies take four times as much memory as there is for all.
#[test]
fn however_large_what_is_not_confirmed_is_others_are_taken_in() {
    let mut bench = Bench::with_window(500, 500);
    let large = "x".repeat((1 << 20) - 1);
    let mut stored = vec![];
    for n in 0..256 {
        assert!(bench.ledger.has_room(), "{n}");
        stored.push(log(&mut bench, &format!("stuck/{n}"), &large));
        // One a second.
        for _ in 0..2 {
            pass(&mut bench, &stored);
        }
    }
    assert_eq!(bench.failed().len(), 0);
    assert_eq!(all_out(&mut bench, &stored).len(), 256);
    assert!(bench.ledger.is_empty());
}

/// What goes to each of them is tried, not only what came first.
#[test]
fn those_in_the_log_take_turns_with_those_that_were_tried() {
    let mut bench = Bench::with_window(500, 5_000);
    let topics = MOST_WAITING + 100;
    let mut stored = vec![];
    for n in 0..topics {
        stored.push(log(&mut bench, &format!("stuck/{n}"), &n.to_string()));
    }
    // Thirty-two at a time.
    let mut tried = HashSet::new();
    let until = bench.now + TIMEOUT * 40;
    while bench.now < until {
        tried.extend(pass(&mut bench, &stored));
    }
    assert_eq!(tried.len(), topics);
    assert_eq!(bench.failed().len(), 0, "none of them ten times");
    let last = bench.now;
    // In the end each is given up: a dead letter for each.
    let mut failed = 0;
    while failed < topics {
        pass(&mut bench, &stored);
        for given_up in bench.failed() {
            bench.ledger.resolve(given_up, vec![]);
            failed += 1;
        }
        assert!(bench.now < last + TIMEOUT * 600, "{failed}");
    }
    assert_eq!(bench.ledger.left_bytes(), 0);
    assert!(bench.ledger.is_empty());
}

/// Nothing but memory holds it.
#[test]
fn without_a_log_too_many_are_given_up() {
    let mut bench = Bench::new(3_000);
    for n in 0..1_500 {
        bench.send(&format!("stuck/{n}"), "1");
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.failed().len(), 0, "the broker may have been silent");
    bench.wait(STEADY, true);
    assert_eq!(bench.failed().len(), 500);
    assert_eq!(bench.ledger.quarantined(), MOST_WAITING);
}

/// More is left to the log while a page of it is read: that page is not the next any more.
#[test]
fn a_page_that_is_not_the_next_of_its_topic_any_more_is_not_taken() {
    let mut bench = Bench::new(3_000);
    let mut stored = vec![];
    for n in 0..=MOST_WAITING {
        stored.push(log(&mut bench, &format!("stuck/{n}"), "1"));
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    let of_last = format!("stuck/{MOST_WAITING}");
    assert_eq!(bench.ledger.quarantined(), MOST_WAITING);
    assert_eq!(bench.ledger.next_left(None), None, "there is no room");
    let first = bench.out(APART).remove(0);
    bench.ledger.handle_confirmed(first.0);
    let next = bench.ledger.next_left(None).unwrap();
    assert_eq!(next.topic, of_last);
    assert!(bench.ledger.is_to_be_read(&next));
    assert!(read(&mut bench, &stored));
    assert!(!bench.ledger.is_to_be_read(&next), "it was read");
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
    assert_eq!(bench.out(APART).len(), 5);
    bench.send_canaries();
    assert_eq!(bench.texts(APART), ["canary"]);
}
