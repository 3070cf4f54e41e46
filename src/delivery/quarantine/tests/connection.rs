//! Publishes on which the broker closes the connection, or serves nothing behind them there.

use super::*;

/// Something that the observer says to others.
fn say_hello(bench: &mut Bench) {
    let id = bench.ids.next(UnixMillis::new(1));
    let entry = bench.ledger.insert(message("hello", id, 0), None);
    bench.ledger.add_apart(entry, publish("hello"));
    bench.ledger.decided(entry);
}

/// The broker has restarted twice while it was in flight.
#[test]
fn what_may_close_a_connection_waits_for_no_publish_that_is_never_confirmed() {
    let mut bench = Bench::new(100);
    for n in 0..50 {
        bench.send(&format!("full/{n}"), "stuck");
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 4, true);
    assert_eq!(bench.ledger.quarantined(), 50);
    bench.send("healthy", "healthy");
    for _ in 0..2 {
        bench.out(DIRECT);
        bench.lose(DIRECT, PublisherEnd::Closed);
    }
    assert_eq!(bench.ledger.quarantined(), 51);
    bench.lose(APART, PublisherEnd::Unrelated);
    assert_eq!(bench.texts(APART), ["healthy"]);
}

#[test]
fn a_publish_that_closes_the_connection_there_is_found_among_others() {
    let mut bench = Bench::new(100);
    for topic in ["a", "poison", "b"] {
        bench.send(topic, topic);
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    let mut closed = 0;
    let failed = loop {
        let out = bench.out(APART);
        if out.iter().any(|(_, text)| text == "poison") {
            closed += 1;
            bench.lose(APART, PublisherEnd::Closed);
        } else {
            out.iter()
                .for_each(|(id, _)| bench.ledger.handle_confirmed(*id));
        }
        if let Some(failed) = bench.ledger.poll_failed() {
            break failed;
        }
        assert!(closed < 10);
    };
    assert_eq!(&failed.received.payload[..], b"poison");
    bench.ledger.resolve(failed, vec![]);
    for (id, _) in bench.out(APART) {
        bench.ledger.handle_confirmed(id);
    }
    assert_eq!(bench.ledger.quarantined(), 0);
}

/// Otherwise its close could not be held against it.
#[test]
fn what_may_close_a_connection_does_not_go_beside_a_canary() {
    let mut bench = Bench::new(100);
    bench.send("poison", "poison");
    for _ in 0..2 {
        bench.out(DIRECT);
        bench.lose(DIRECT, PublisherEnd::Closed);
    }
    bench.send_canaries();
    let out = bench.out(APART);
    assert_eq!(out.len(), 1, "{out:?}");
    assert_eq!(out[0].1, "canary");
    bench.ledger.handle_confirmed(out[0].0);
    assert_eq!(bench.texts(APART), ["poison"]);
}

#[test]
fn what_is_known_to_close_connections_waits_until_nothing_else_is_left() {
    let mut bench = Bench::new(100);
    for text in ["healthy 1", "healthy 2", "healthy 3"] {
        bench.send("healthy", text);
    }
    for text in ["poison 1", "poison 2"] {
        bench.send("poison", text);
    }
    for _ in 0..2 {
        bench.out(DIRECT);
        bench.lose(DIRECT, PublisherEnd::Closed);
    }
    let mut went = vec![];
    while went.last().is_none_or(|last| last != "poison 2") {
        let out = bench.out(APART);
        assert_eq!(out.len(), 1, "{went:?}, {out:?}");
        let (id, text) = out[0].clone();
        match text.starts_with("poison") {
            true => bench.lose(APART, PublisherEnd::Closed),
            false => bench.ledger.handle_confirmed(id),
        }
        went.push(text);
        for failed in bench.failed() {
            bench.ledger.resolve(failed, vec![]);
        }
    }
    assert_eq!(
        went[..4],
        ["poison 1", "healthy 1", "healthy 2", "healthy 3"]
    );
}

/// The step after them may be logged before they are confirmed: they are known only here.
#[test]
fn bulk_copies_are_not_released_while_any_waits() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    for n in 0..40 {
        bench.send_as("user", &n.to_string(), Purpose::BulkCopy);
    }
    bench.send_as("fine", "fine", Purpose::BulkCopy);
    let out = bench.out(1);
    bench.wait(SECOND * 3, true);
    assert!(!out.is_empty() && bench.ledger.quarantined() > 33);
    for _ in 0..35 {
        let (id, _) = bench.out(APART).remove(0);
        bench.ledger.handle_confirmed(id);
    }
    let waiting = bench.ledger.quarantined();
    assert!(waiting > 0);
    assert_eq!(bench.ledger.quarantined_bulk().len(), waiting);
}

/// A publish to a quorum queue without a majority: RabbitMQ does not serve its connection for a
/// minute. The others that were in flight there arrive within seconds, it is tried from time to
/// time, and in the end it alone is given up.
#[test]
fn a_publish_that_stops_its_connection_is_found_and_holds_up_nobody() {
    for (in_flight, others_write) in [(1, false), (10, false), (10, true), (100, true)] {
        let mut bench = Bench::new(200);
        bench.takes_canaries = true;
        bench.wait(SECOND * 5, true);
        bench.stopped = vec![DIRECT];
        bench.send("dead", "dead");
        for n in 1..in_flight {
            bench.send(&format!("user/{n}"), &n.to_string());
        }
        assert_eq!(bench.out(DIRECT).len(), in_flight);
        bench.wait(SECOND * 5, false);
        bench.stopped.clear();
        assert_eq!(bench.ledger.quarantined(), in_flight, "they are set apart");
        assert_eq!(bench.ledger.in_flight(DIRECT), 0, "on another connection");
        // One at a time.
        for _ in 1..in_flight {
            let out = bench.out(APART);
            assert_eq!(out.len(), 1);
            assert_ne!(out[0].1, "dead", "it was there first, so it is tried last");
            bench.ledger.handle_confirmed(out[0].0);
        }
        let (mut tries, begun) = (0, bench.now);
        let given_up = loop {
            for (id, text) in bench.out(APART) {
                if text == "canary" {
                    bench.ledger.handle_confirmed(id);
                    continue;
                }
                assert_eq!(text, "dead");
                tries += 1;
                bench.stopped = vec![APART];
            }
            // What else is in quarantine waits for a few seconds.
            bench.wait(SECOND * 5, others_write);
            bench.stopped.clear();
            if let Some(failed) = bench.ledger.poll_failed() {
                break failed;
            }
        };
        assert_eq!(given_up.received.payload, "dead");
        assert_eq!(tries, 10);
        assert!(bench.now >= begun + TIMEOUT * 9, "each after a rest");
    }
}

/// What goes to others' sessions is not among what goes to users.
#[test]
fn what_may_stop_a_connection_begins_apart() {
    let mut bench = Bench::new(100);
    say_hello(&mut bench);
    bench.send("user", "1");
    assert_eq!(bench.texts(DIRECT), ["1"]);
    let out = bench.out(APART);
    assert_eq!(out[0].1, "hello");
    bench.ledger.handle_confirmed(out[0].0);
    assert_eq!(bench.ledger.quarantined(), 0);
}

/// A recipient whose queue takes nothing, alone on its connection: a canary behind it is confirmed.
#[test]
fn a_connection_that_is_served_is_left_alone() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    bench.wait(SECOND * 5, true);
    bench.send("full", "full");
    let out = bench.out(DIRECT);
    bench.wait(TIMEOUT - SECOND, false);
    assert_eq!(bench.ledger.quarantined(), 0);
    assert_eq!(bench.ledger.in_flight(DIRECT), 1);
    bench.ledger.handle_confirmed(out[0].0);
    assert_eq!(bench.ledger.unconfirmed(), 0);
}

/// Its queue takes nothing, and that stops no connection: a canary behind it shows that at once.
#[test]
fn what_stops_nothing_does_not_stay_alone() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    bench.stopped = vec![DIRECT];
    for topic in ["healthy", "full", "dead"] {
        bench.send(topic, topic);
    }
    bench.out(DIRECT);
    bench.wait(SECOND * 5, false);
    bench.stopped.clear();
    assert_eq!(bench.texts(APART), ["dead"]);
    bench.wait(SECOND * 3, false);
    assert_eq!(bench.texts(APART), ["full"], "the other goes beside it");
    bench.wait(SECOND * 3, false);
    assert_eq!(bench.texts(APART), ["healthy"]);
}

/// The queue behind the canaries takes none, and what comes behind them is confirmed.
#[test]
fn a_canary_is_over_when_anything_is_answered_or_its_connection_is_gone() {
    let mut bench = Bench::new(100);
    bench.send_canaries();
    for publisher in [DIRECT, 1, APART] {
        assert_eq!(bench.texts(publisher), ["canary"]);
    }
    bench.wait(SECOND, true);
    bench.lose(1, PublisherEnd::Unrelated);
    bench.lose(APART, PublisherEnd::Unrelated);
    assert!(!bench.ledger.is_empty());
    bench.tick();
    assert!(bench.ledger.is_empty());
}

/// What is given up is no answer of the broker.
#[test]
fn a_flood_to_what_stops_its_connection_does_not_hide_that() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    bench.wait(STEADY * 2, true);
    bench.stopped = vec![DIRECT];
    bench.send("dead", "dead");
    bench.send("healthy", "healthy");
    bench.out(DIRECT);
    bench.wait(SECOND * 5, false);
    bench.stopped = vec![APART];
    let out = bench.out(APART);
    assert_eq!(out[0].1, "healthy");
    bench.ledger.handle_confirmed(out[0].0);
    assert_eq!(bench.texts(APART), ["dead"]);
    let mut waited = Duration::ZERO;
    // Until its connection is replaced, and it rests.
    while !bench.replaced.contains(&APART) {
        for _ in 0..MOST_WAITING {
            bench.send("dead", "more");
        }
        bench.wait(SECOND / 2, true);
        waited += SECOND / 2;
        assert!(waited < SECOND * 6);
    }
    bench.send("other user", "1");
    assert_eq!(bench.texts(DIRECT), ["1"]);
}

#[test]
fn what_stops_connections_has_its_own_for_less_than_half_of_the_time() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    for n in 0..8 {
        bench.stopped = vec![DIRECT];
        bench.send(&format!("dead/{n}"), "dead");
        bench.out(DIRECT);
        bench.wait(SECOND * 5, false);
    }
    let mut healthy = 0;
    for _ in 0..400 {
        say_hello(&mut bench);
        bench.stopped.clear();
        for (id, text) in bench.out(APART) {
            match text.as_str() {
                "dead" => bench.stopped = vec![APART],
                _ => bench.ledger.handle_confirmed(id),
            }
            healthy += usize::from(text == "hello");
        }
        bench.wait(SECOND / 2, false);
    }
    assert!(healthy > 120, "{healthy} in two hundred seconds");
}

/// A mebibyte at a hundred kilobytes a second: the canary waits behind it.
#[test]
fn a_slow_line_is_no_connection_that_is_not_served() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    bench.wait(SECOND * 5, true);
    bench.stopped = vec![DIRECT];
    bench.send("user", &"x".repeat(1 << 20));
    let out = bench.out(DIRECT);
    bench.wait(SECOND * 9, false);
    assert_eq!(bench.ledger.quarantined(), 0);
    bench.ledger.handle_confirmed(out[0].0);
    bench.stopped.clear();
    bench.wait(SECOND, true);
    assert_eq!(bench.ledger.unconfirmed(), 0);
}

/// A slow broker: it closes the connection when a canary is there already.
#[test]
fn a_close_behind_a_canary_counts_too() {
    let mut bench = Bench::new(100);
    bench.send("poison", "poison");
    for _ in 0..2 {
        bench.out(DIRECT);
        bench.lose(DIRECT, PublisherEnd::Closed);
    }
    bench.send_as("stuck", "stuck", Purpose::BulkCopy);
    bench.out(1);
    bench.wait(SECOND * 3, true);
    let mut closes = 0;
    let given_up = loop {
        bench.now += SECOND * 11;
        let out = bench.out(APART);
        assert_eq!(out.len(), 1, "{out:?}");
        if out[0].1 == "poison" {
            bench.send_canaries();
            assert_eq!(bench.texts(APART), ["canary"]);
            closes += 1;
            bench.lose(APART, PublisherEnd::Closed);
            bench.tick();
        } else {
            // Others have their turns.
            bench.lose(APART, PublisherEnd::Unrelated);
        }
        if let Some(failed) = bench.ledger.poll_failed() {
            break failed;
        }
        assert!(closes < 20);
    };
    assert_eq!(given_up.received.payload, "poison");
    assert_eq!(closes, 10);
}

/// Another observer's queue is full: what is said to it once more waits for nobody but itself.
#[test]
fn what_was_passed_stays_so_whatever_comes_behind_it() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    say_hello(&mut bench);
    assert_eq!(bench.texts(APART), ["hello"]);
    bench.wait(SECOND * 3, true);
    say_hello(&mut bench);
    bench.send("stuck", "stuck");
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    assert_eq!(bench.texts(APART), ["stuck"]);
}

/// The connection is replaced again and again for the sake of others.
#[test]
fn what_is_never_confirmed_is_given_up_beside_what_stops_connections() {
    let mut bench = Bench::new(100);
    bench.takes_canaries = true;
    for n in 0..2 {
        bench.stopped = vec![DIRECT];
        bench.send(&format!("dead/{n}"), "dead");
        bench.out(DIRECT);
        bench.wait(SECOND * 5, false);
    }
    bench.stopped.clear();
    bench.send("full", "full");
    bench.out(DIRECT);
    bench.wait(SECOND * 3, true);
    let begun = bench.now;
    let given_up = loop {
        if bench.texts(APART).contains(&"dead".to_owned()) {
            bench.stopped = vec![APART];
        }
        bench.wait(SECOND / 2, true);
        if bench.replaced.pop().is_some() {
            bench.stopped.clear();
        }
        if let Some(failed) = bench.ledger.poll_failed()
            && failed.received.payload == "full"
        {
            break failed;
        }
        assert!(bench.now < begun + TIMEOUT * 20);
    };
    bench.ledger.resolve(given_up, vec![]);
}

#[test]
fn a_stop_waits_neither_for_canaries_nor_for_what_was_said_to_others() {
    let mut bench = Bench::new(100);
    bench.send_canaries();
    for _ in 0..2 {
        say_hello(&mut bench);
    }
    let out: Vec<_> = [DIRECT, APART]
        .into_iter()
        .flat_map(|publisher| bench.out(publisher))
        .collect();
    assert!(bench.ledger.is_idle() && !bench.ledger.is_empty());
    bench.ledger.forget_own();
    assert!(bench.ledger.is_empty());
    // Their confirmations come after all.
    for (id, _) in out {
        bench.ledger.handle_confirmed(id);
    }
    assert!(bench.ledger.is_empty());
}

/// A slow broker: otherwise what it closes the direct connection on would go there for ever.
#[test]
fn a_close_beside_a_canary_is_held_against_what_was_in_flight() {
    let mut bench = Bench::new(100);
    bench.send("poison", "poison");
    for _ in 0..2 {
        assert_eq!(bench.texts(DIRECT), ["poison"]);
        bench.send_canaries();
        assert_eq!(bench.texts(DIRECT), ["canary"]);
        bench.lose(DIRECT, PublisherEnd::Closed);
        bench.tick();
    }
    assert_eq!(bench.ledger.quarantined(), 1);
}
