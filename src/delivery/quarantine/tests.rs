//! Driven through the ledger, which owns the queues: publisher 0 is direct, 1 for bulk copies, 2
//! for what is in quarantine.

mod connection;
mod flood;
mod turned_down;

use std::hash::RandomState;

use super::*;
use crate::delivery::ledger::tests::{TIMEOUT, ack, message, publish, start, take};
use crate::delivery::ledger::{Failed, Ledger};
use crate::delivery::publish_queue::PublishId;
use crate::delivery::publish_queues::STEADY;
use crate::protocol::message_id::MessageIds;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;

const DIRECT: usize = 0;
const APART: usize = 2;
const SECOND: Duration = Duration::from_secs(1);

/// A ledger, what was handed out, and the time.
struct Bench {
    ledger: Ledger,
    ids: MessageIds,
    sent: u16,
    now: Instant,
    /// Whether the broker takes canaries.
    takes_canaries: bool,
    /// Connections that it does not serve.
    stopped: Vec<usize>,
    /// Connections that were replaced.
    replaced: Vec<usize>,
}

impl Bench {
    fn new(limit: usize) -> Self {
        Self::with_window(limit, 5_000)
    }

    fn with_window(limit: usize, window: usize) -> Self {
        let mut ledger = Ledger::new(1, window, TIMEOUT);
        ledger.handle_session_up(false);
        for publisher in [DIRECT, 1, APART] {
            ledger.handle_publisher_up(publisher, limit);
        }
        Self {
            ledger,
            ids: MessageIds::new(RandomState::new()),
            sent: 0,
            now: start(),
            takes_canaries: false,
            stopped: vec![],
            replaced: vec![],
        }
    }

    /// A message with one copy, to a topic.
    fn send(&mut self, topic: &str, text: &str) {
        self.send_as(topic, text, Purpose::Copy);
    }

    fn send_as(&mut self, topic: &str, text: &str, purpose: Purpose) {
        self.sent += 1;
        let publish = Publish {
            topic: TopicName::parse(topic).unwrap(),
            ..publish(text)
        };
        let id = self.ids.next(UnixMillis::new(1));
        let message = message(text, id, u64::from(self.sent));
        take(
            &mut self.ledger,
            message,
            vec![publish],
            purpose,
            Some(ack(self.sent)),
        );
    }

    /// Hands out whatever may go out.
    fn out(&mut self, publisher: usize) -> Vec<(PublishId, String)> {
        let mut out = vec![];
        while let Some((id, publish)) = self.ledger.poll_publish(publisher, self.now) {
            out.push((id, String::from_utf8(publish.payload.to_vec()).unwrap()));
        }
        out
    }

    fn texts(&mut self, publisher: usize) -> Vec<String> {
        self.out(publisher)
            .into_iter()
            .map(|(_, text)| text)
            .collect()
    }

    /// Half a second passes at a time, in which another publish is confirmed or not.
    fn wait(&mut self, time: Duration, broker_confirms: bool) {
        let until = self.now + time;
        while self.now < until {
            self.now += SECOND / 2;
            if broker_confirms {
                self.send("other", "other");
                for (id, text) in self.out(DIRECT) {
                    if text == "other" || (text == "canary" && self.takes_canaries) {
                        self.ledger.handle_confirmed(id);
                    }
                }
            }
            self.tick();
        }
    }

    fn tick(&mut self) {
        let set_apart = self.ledger.set_apart(self.now);
        for publisher in set_apart.replace {
            self.lose(publisher, PublisherEnd::Unrelated);
            self.replaced.push(publisher);
        }
        if set_apart.wants_canaries {
            self.send_canaries();
        }
    }

    /// On each connection that has none.
    fn send_canaries(&mut self) {
        let id = self.ids.next(UnixMillis::new(1));
        let entry = self.ledger.insert(message("canary", id, 0), None);
        self.ledger.add_canaries(entry, publish("canary"));
        self.ledger.decided(entry);
        for publisher in [DIRECT, 1, APART] {
            if self.stopped.contains(&publisher) {
                self.ledger.poll_publish(publisher, self.now);
            } else if self.takes_canaries
                && let Some((id, canary)) = self.ledger.poll_publish(publisher, self.now)
            {
                assert_eq!(canary.payload, "canary", "it comes first");
                self.ledger.handle_confirmed(id);
            }
        }
    }

    fn lose(&mut self, publisher: usize, end: PublisherEnd) {
        self.ledger.handle_publisher_down(publisher, end);
        self.ledger.handle_publisher_up(publisher, 100);
    }

    fn failed(&mut self) -> Vec<Failed> {
        std::iter::from_fn(|| self.ledger.poll_failed()).collect()
    }
}

#[test]
fn what_others_overtake_goes_apart_with_all_behind_it_and_in_order() {
    let mut bench = Bench::new(100);
    for text in ["1", "2"] {
        bench.send("stuck", text);
    }
    bench.send("fine", "fine");
    let out = bench.out(DIRECT);
    assert_eq!(out.len(), 3);
    bench.ledger.handle_confirmed(out[2].0);
    bench.wait(SECOND, true);
    assert_eq!(bench.ledger.quarantined(), 0, "a second is no long time");
    bench.wait(SECOND * 2, true);
    assert_eq!(bench.ledger.quarantined(), 2);
    assert_eq!(bench.ledger.in_flight(DIRECT), 0);
    bench.send("stuck", "3");
    bench.send("fine", "fine");
    assert_eq!(bench.texts(DIRECT), ["fine"]);
    // One at a time, each when the one before is confirmed.
    for text in ["1", "2", "3"] {
        let out = bench.out(APART);
        assert_eq!(out.len(), 1);
        assert_eq!(out[0].1, text);
        bench.ledger.handle_confirmed(out[0].0);
    }
    // Nothing is left, so the topic is like any other.
    bench.send("stuck", "4");
    assert_eq!(bench.texts(DIRECT), ["4"]);
}

/// The broker takes a second and a half for each: then three more are no long time.
#[test]
fn a_slow_broker_may_be_slower_with_some() {
    let mut bench = Bench::new(100);
    bench.send("slow", "1");
    bench.out(DIRECT);
    for _ in 0..4 {
        bench.send("other", "other");
        let out = bench.out(DIRECT);
        bench.now += SECOND * 3 / 2;
        bench.ledger.handle_confirmed(out[0].0);
        assert_eq!(bench.ledger.quarantined(), 0);
        bench.tick();
    }
    assert_eq!(bench.ledger.quarantined(), 1, "after six seconds");
    // Half a minute later the broker is fast again.
    bench.wait(SECOND * 30, true);
    bench.send("stuck", "2");
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.ledger.quarantined(), 2);
}

/// What is moved too early arrives twice.
#[test]
fn what_very_many_overtake_in_a_moment_stays_and_holds_up_nobody() {
    let mut bench = Bench::new(10);
    bench.wait(SECOND * 5, true);
    bench.send("late", "1");
    bench.out(DIRECT);
    for n in 0..1_000 {
        bench.send("other", "other");
        let out = bench.out(DIRECT);
        assert_eq!(out.len(), 1, "{n}");
        bench.ledger.handle_confirmed(out[0].0);
        bench.tick();
        assert_eq!(bench.ledger.quarantined(), 0, "{n}");
    }
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.ledger.quarantined(), 1);
}

#[test]
fn what_is_confirmed_behind_one_that_is_not_takes_no_room() {
    let mut ledger = Ledger::new(1, 10, TIMEOUT);
    ledger.handle_session_up(false);
    ledger.handle_publisher_up(DIRECT, 100);
    let mut ids = MessageIds::new(RandomState::new());
    for n in 0..100 {
        assert!(ledger.has_room(), "{n}");
        let text = "x".repeat(1 << 20);
        let message = message(&text, ids.next(UnixMillis::new(1)), n);
        let publishes = vec![publish(&text)];
        take(&mut ledger, message, publishes, Purpose::Copy, None);
        let (id, _) = ledger.poll_publish(DIRECT, start()).unwrap();
        if n > 0 {
            ledger.handle_confirmed(id);
        }
        while ledger.poll_finished().is_some() {}
    }
}

#[test]
fn a_broker_that_confirms_nothing_is_waited_for() {
    let mut bench = Bench::new(100);
    bench.send("a", "1");
    bench.send("b", "2");
    assert_eq!(bench.out(DIRECT).len(), 2);
    bench.wait(TIMEOUT * 100, false);
    assert_eq!(bench.ledger.quarantined(), 0);
    assert!(!bench.ledger.is_worn(DIRECT));
    // One canary is under way, soon also on the next connection, and its confirmation tells who is
    // at fault.
    for publisher in [DIRECT, 1, APART] {
        assert_eq!(bench.texts(publisher), ["canary"]);
    }
    bench.wait(TIMEOUT, false);
    bench.lose(APART, PublisherEnd::Unrelated);
    bench.wait(SECOND, false);
    let canary = bench.out(APART);
    bench.ledger.handle_confirmed(canary[0].0);
    bench.wait(SECOND * 3, false);
    assert_eq!(bench.ledger.quarantined(), 2);
    assert_eq!(bench.texts(APART), ["canary"], "it goes alone");
    for publisher in [1, APART] {
        bench.lose(publisher, PublisherEnd::Unrelated);
    }
    assert_eq!(bench.texts(APART), ["2"]);
    assert!(bench.failed().is_empty());
}

/// A resource alarm comes in the middle of a burst: some of it is confirmed, and what was sent
/// before is not. Meanwhile more comes for the same topics than quarantine holds.
#[test]
fn a_broker_that_falls_silent_costs_nothing() {
    let mut bench = Bench::new(100);
    for n in 0..50 {
        bench.send(&format!("user/{n}"), "1");
    }
    let out = bench.out(DIRECT);
    out[25..]
        .iter()
        .for_each(|(id, _)| bench.ledger.handle_confirmed(*id));
    bench.tick();
    bench.wait(TIMEOUT * 2, false);
    assert_eq!(bench.ledger.quarantined(), 0, "overtaken before the alarm");
    // One of them is in quarantine, for another reason.
    bench.send("user/0", "2");
    bench.takes_canaries = true;
    bench.wait(SECOND * 3, true);
    assert!(bench.ledger.quarantined() > 0);
    assert!(!bench.out(APART).is_empty());
    bench.takes_canaries = false;
    bench.wait(SECOND * 2, false);
    for _ in 0..2_000 {
        bench.send("user/0", "more");
    }
    bench.wait(TIMEOUT * 2, false);
    bench.send("other", "other");
    let other = bench.out(DIRECT);
    bench.ledger.handle_confirmed(other[0].0);
    bench.tick();
    assert!(bench.failed().is_empty(), "the broker has just begun again");
}

/// Eight are all that may be in flight of them: nothing can overtake them.
#[test]
fn members_with_full_queues_hold_up_the_other_members_for_seconds_only() {
    for others_write in [true, false] {
        let mut bench = Bench::new(100);
        bench.takes_canaries = true;
        bench.wait(SECOND * 5, others_write);
        for n in 0..16 {
            bench.send_as(&format!("full/{n}"), "stuck", Purpose::BulkCopy);
        }
        bench.send_as("member", "member", Purpose::BulkCopy);
        let mut waited = Duration::ZERO;
        while !bench.texts(1).contains(&"member".to_owned()) {
            bench.wait(SECOND / 2, others_write);
            if bench.ledger.is_worn(1) {
                bench.lose(1, PublisherEnd::Unrelated);
            }
            waited += SECOND / 2;
            assert!(waited <= SECOND * 12, "others write: {others_write}");
        }
    }
}

/// The connections are gone with the broker, and more has come than quarantine holds when it is
/// back.
#[test]
fn an_outage_costs_nothing_of_what_is_in_quarantine() {
    let mut bench = Bench::new(100);
    bench.send("user", "1");
    bench.out(DIRECT);
    bench.wait(STEADY * 2, true);
    assert_eq!(bench.ledger.quarantined(), 1);
    for publisher in [DIRECT, APART] {
        bench
            .ledger
            .handle_publisher_down(publisher, PublisherEnd::Unrelated);
    }
    for _ in 0..2_000 {
        bench.send("user", "more");
    }
    for _ in 0..60 {
        bench.now += SECOND / 2;
        bench.tick();
    }
    for publisher in [DIRECT, APART] {
        bench.ledger.handle_publisher_up(publisher, 100);
    }
    bench.wait(SECOND * 5, true);
    assert!(bench.failed().is_empty());
}

/// SIGSTOP, and the first tick comes before the confirmations in the socket are read.
#[test]
fn a_process_that_was_stopped_holds_its_own_pause_against_no_publish() {
    let mut bench = Bench::new(100);
    bench.wait(SECOND * 5, true);
    for n in 0..50 {
        bench.send(&format!("user/{n}"), "1");
    }
    let out = bench.out(DIRECT);
    out[25..]
        .iter()
        .for_each(|(id, _)| bench.ledger.handle_confirmed(*id));
    bench.now += TIMEOUT * 2;
    bench.tick();
    assert_eq!(bench.ledger.quarantined(), 0);
    out[..25]
        .iter()
        .for_each(|(id, _)| bench.ledger.handle_confirmed(*id));
    bench.wait(SECOND * 5, true);
    assert_eq!(bench.ledger.quarantined(), 0);
}

#[test]
fn what_has_been_moved_takes_no_place_of_others() {
    let mut bench = Bench::new(100);
    // The broker has closed the connection once: few publishes go out at a time.
    for topic in ["a", "b"] {
        bench.send(topic, &"x".repeat(2 << 20));
    }
    bench.out(DIRECT);
    bench.lose(DIRECT, PublisherEnd::Closed);
    bench
        .ledger
        .handle_publisher_down(DIRECT, PublisherEnd::Unrelated);
    bench.ledger.handle_publisher_up(DIRECT, 10);
    let first = bench.out(DIRECT);
    assert_eq!(first.len(), 1);
    bench.takes_canaries = true;
    bench.wait(TIMEOUT, false);
    assert_eq!(bench.ledger.quarantined(), 1);
    assert_eq!(bench.out(DIRECT).len(), 1, "the next one");
}

#[test]
fn one_topic_moves_from_both_queues() {
    let mut bench = Bench::new(1);
    bench.send("fine", "fine");
    bench.send("stuck", "direct");
    bench.send_as("stuck", "bulk", Purpose::BulkCopy);
    bench.out(DIRECT);
    bench.out(1);
    bench.takes_canaries = true;
    bench.wait(TIMEOUT, false);
    bench.send("stuck", "later");
    let mut texts = vec![];
    for _ in 0..4 {
        for (id, text) in bench.out(APART) {
            bench.ledger.handle_confirmed(id);
            texts.push(text);
        }
    }
    let of_topic: Vec<&str> = texts.iter().map(String::as_str).collect();
    let direct = of_topic.iter().position(|text| *text == "direct").unwrap();
    let later = of_topic.iter().position(|text| *text == "later").unwrap();
    assert!(direct < later && of_topic.contains(&"bulk"), "{of_topic:?}");
}

#[test]
fn a_late_confirmation_of_what_has_been_moved_counts() {
    let mut bench = Bench::new(100);
    for text in ["1", "2"] {
        bench.send("late", text);
    }
    let out = bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.ledger.quarantined(), 2);
    assert_eq!(bench.texts(APART), ["1"]);
    bench.ledger.handle_confirmed(out[0].0);
    assert_eq!(bench.texts(APART), ["2"]);
    bench.ledger.handle_confirmed(out[1].0);
    assert_eq!(bench.ledger.quarantined(), 0);
    assert!(bench.texts(APART).is_empty());
}

#[test]
fn what_is_never_confirmed_is_given_up_after_ten_tries_and_the_next_after_one() {
    let mut bench = Bench::new(100);
    for text in ["1", "2"] {
        bench.send("stuck", text);
    }
    bench.send("slow", "slow");
    bench.takes_canaries = true;
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    let mut tries = 0;
    let mut given_up = vec![];
    while given_up.len() < 2 {
        for (id, text) in bench.out(APART) {
            match text.as_str() {
                "slow" => bench.ledger.handle_confirmed(id),
                _ => tries += 1,
            }
        }
        bench.wait(TIMEOUT, true);
        for failed in bench.failed() {
            given_up.push((tries, failed.received.payload.clone()));
            bench.ledger.resolve(failed, vec![]);
        }
        assert!(tries < 20);
    }
    assert_eq!(given_up, [(10, "1".into()), (11, "2".into())]);
    assert_eq!(bench.ledger.quarantined(), 0);
}

#[test]
fn no_try_counts_while_the_broker_confirms_nothing_else() {
    let mut bench = Bench::new(100);
    bench.send("stuck", "1");
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    for _ in 0..30 {
        bench.out(APART);
        bench.wait(TIMEOUT * 2, false);
        // It answers no pings.
        bench.lose(APART, PublisherEnd::Unrelated);
    }
    assert!(bench.failed().is_empty());
    assert_eq!(bench.ledger.quarantined(), 1);
}
#[test]
fn a_connection_that_carries_too_much_of_it_is_to_be_replaced() {
    let mut bench = Bench::new(10);
    for n in 0..5 {
        bench.send(&format!("stuck/{n}"), "1");
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    assert!(bench.ledger.is_worn(DIRECT), "half of the window");
    assert_eq!(bench.ledger.in_flight(DIRECT), 0, "nothing to wait for");
    bench.lose(DIRECT, PublisherEnd::Unrelated);
    assert!(!bench.ledger.is_worn(DIRECT));
    assert_eq!(bench.texts(APART).len(), 5);
    // One takes one place, however many pass it.
    let mut bench = Bench::new(10);
    bench.send("stuck", "1");
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    for _ in 0..1_000 {
        bench.send("fine", "fine");
        let out = bench.out(DIRECT);
        assert_eq!(out.len(), 1);
        bench.ledger.handle_confirmed(out[0].0);
    }
    assert!(!bench.ledger.is_worn(DIRECT));
}

#[test]
fn it_holds_a_thousand_and_gives_up_the_oldest_to_the_same_topic() {
    let mut bench = Bench::new(100);
    bench.send("flood", "first");
    bench.send("quiet", "quiet");
    bench.out(DIRECT);
    bench.wait(STEADY + SECOND, true);
    for _ in 0..MOST_WAITING {
        bench.send("flood", "more");
    }
    assert!(bench.ledger.has_room(), "they fill no room of others");
    bench.wait(STEADY + SECOND, true);
    let failed = bench.failed();
    let texts = failed.iter().map(|failed| &failed.received.payload[..]);
    assert!(texts.eq([&b"first"[..], b"more"]));
    assert_eq!(bench.ledger.quarantined(), MOST_WAITING);
}

#[test]
fn it_holds_eight_mebibytes_so_that_nobody_fills_what_may_be_under_way() {
    let mut bench = Bench::new(100);
    bench.send("flood", "first");
    bench.out(DIRECT);
    bench.wait(STEADY + SECOND, true);
    let large = "x".repeat(1 << 20);
    for _ in 0..40 {
        bench.send("flood", &large);
        bench.tick();
        for failed in bench.failed() {
            bench.ledger.resolve(failed, vec![]);
        }
        assert!(bench.ledger.has_room());
    }
    assert_eq!(bench.ledger.quarantined(), 8);
}

#[test]
fn bulk_copies_go_apart_too_and_their_messages_are_known() {
    let mut bench = Bench::new(100);
    for topic in ["stuck", "fine"] {
        bench.send_as(topic, topic, Purpose::BulkCopy);
    }
    bench.takes_canaries = true;
    let out = bench.out(1);
    bench.ledger.handle_confirmed(out[1].0);
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.ledger.quarantined_bulk().len(), 1);
    assert_eq!(bench.texts(APART), ["stuck"]);
}
