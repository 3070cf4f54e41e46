//! What is acknowledged is stored first, and is published whatever happens: against a scripted
//! broker that confirms publishes late or never.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};

use crate::bed::{Observer, PATIENCE, signal, wait_for};
use crate::http::{free_port, get};
use crate::load::Path;
use crate::script::{ECHO, GLIMPSE, Peer, Script, text};
use crate::wire::{DISCONNECT, Message, PUBACK, parse_publish, publish_packet};

impl Script {
    /// Accepts the connections of an observer that has been here before.
    fn connected_again(&self) -> (Peer, Peer) {
        let mut session = self.session_kept();
        session.suback();
        let mut lane = self.lane();
        lane.connack(false);
        (session, lane)
    }
}

/// Alice writes to Bob. The layout has a copy for each of them.
fn write(session: &mut Peer, packet_id: u16, payload: &str) {
    let topic = Path::Chat21.outgoing("a", "alice", "bob");
    let packet = publish_packet(topic.as_bytes(), payload.as_bytes(), Some(packet_id), false);
    session.wire.send(&packet).unwrap();
}

fn await_empty_log(observer: &Observer) {
    let path = observer.state.path().join("observer.db");
    let start = Instant::now();
    loop {
        let location = StoreLocation::File(path.clone());
        let store = store::open(&location, Access::Shared, OfflineDelivery::Broker).unwrap();
        let left = store.unpublished(None, 10).unwrap().messages;
        if left.is_empty() {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "the log still holds {left:?}");
        sleep(Duration::from_millis(50));
    }
}

fn topics_and_payloads(messages: &[Message]) -> BTreeSet<(String, String)> {
    let pair = |message: &Message| (message.topic().to_owned(), text(message).to_owned());
    messages.iter().map(pair).collect()
}

#[test]
fn what_is_acknowledged_and_not_confirmed_is_published_after_a_kill_under_the_same_ids() {
    let script = Script::listen();
    let mut observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    // In one layout the payload is an object and stored, in the other any bytes and not stored.
    write(&mut session, 1, r#"{"text":"hi"}"#);
    session.deliver(2, "as it came", false);
    // A refusal's notice is published and logged like everything else.
    write(&mut session, 3, "not an object");
    assert_eq!([session.ack(), session.ack(), session.ack()], [1, 2, 3]);
    let before: Vec<Message> = (0..4).map(|_| lane.publish()).collect();
    lane.says_nothing();
    observer.kill();
    observer.spawn(&[]);
    let (mut session, mut lane) = script.connected_again();
    let after: Vec<Message> = (0..4).map(|_| lane.publish()).collect();
    assert_eq!(topics_and_payloads(&after), topics_and_payloads(&before));
    lane.says_nothing();
    for message in &after {
        lane.confirm(message);
    }
    // The log forgets with the commit of a later message.
    session.deliver(1, "later", false);
    assert_eq!(session.ack(), 1);
    let later = lane.publish();
    lane.confirm(&later);
    await_empty_log(&observer);
    observer.kill();
    observer.spawn(&[]);
    let (_session, mut lane) = script.connected_again();
    lane.says_nothing();
}

/// A broker that has read our DISCONNECT has the acks before it, so what comes with DUP afterwards
/// is another message. One that resets the connection may not have read them: the message that it
/// delivers again is the same.
#[test]
fn acks_count_as_arrived_only_if_the_session_ends_in_order() {
    for in_order in [true, false] {
        let script = Script::listen();
        let mut observer = script.observer(&[]);
        let (mut session, mut lane) = script.up();
        write(&mut session, 1, r#"{"text":"hi"}"#);
        let before = [lane.publish(), lane.publish()];
        before.iter().for_each(|message| lane.confirm(message));
        signal(observer.pid(), "TERM");
        end_of(&mut lane);
        if in_order {
            assert_eq!(session.ack(), 1);
            end_of(&mut session);
        } else {
            // A socket that is closed with unread bytes is reset: here they are ack and DISCONNECT.
            sleep(GLIMPSE);
        }
        drop(session);
        let (status, log) = observer.ended();
        assert!(
            status.success() && log.contains("left_unacknowledged=0"),
            "{log}"
        );
        observer.spawn(&[]);
        let (mut session, mut lane) = script.connected_again();
        let topic = Path::Chat21.outgoing("a", "alice", "bob");
        let mut again = publish_packet(topic.as_bytes(), br#"{"text":"hi"}"#, Some(1), false);
        again[0] |= 8;
        session.wire.send(&again).unwrap();
        assert_eq!(session.ack(), 1);
        let after = [lane.publish(), lane.publish()];
        let is_same = topics_and_payloads(&after) == topics_and_payloads(&before);
        assert_eq!(is_same, !in_order, "{before:?}, then {after:?}");
    }
}

/// No ack goes out behind the DISCONNECT: what is committed only then comes again, as itself.
#[test]
fn what_is_committed_behind_the_goodbye_counts_as_unacknowledged() {
    let script = Script::listen();
    let http = free_port();
    let listen = format!("127.0.0.1:{http}");
    let mut observer = script.observer(&["--drain-timeout", "1s", "--http-listen", &listen]);
    let (mut session, lane) = script.up();
    let path = observer.state.path().join("observer.db");
    let raw = rusqlite::Connection::open(path).unwrap();
    raw.execute_batch("BEGIN IMMEDIATE").unwrap();
    write(&mut session, 1, r#"{"text":"hi"}"#);
    // A stop takes nothing more: the message is to be read before.
    wait_for("that the message is read", || {
        let (_, text) = get(http, "/metrics")?;
        let read = "observer_messages_received_total{kind=\"message\",qos=\"1\"} 1";
        text.contains(read).then_some(())
    });
    signal(observer.pid(), "TERM");
    while session.next().0 != DISCONNECT {}
    raw.execute_batch("ROLLBACK").unwrap();
    let ids = "SELECT group_concat(hex(id)) FROM message_data";
    let ids = || -> Option<String> { raw.query_row(ids, [], |row| row.get(0)).unwrap() };
    wait_for("it is committed", ids);
    drop((session, lane));
    let (status, log) = observer.ended();
    assert!(
        status.success() && log.contains("left_unacknowledged=1"),
        "{log}"
    );
    let stored = ids();
    observer.spawn(&[]);
    let (mut session, _lane) = script.connected_again();
    let topic = Path::Chat21.outgoing("a", "alice", "bob");
    let mut again = publish_packet(topic.as_bytes(), br#"{"text":"hi"}"#, Some(1), false);
    again[0] |= 8;
    session.wire.send(&again).unwrap();
    assert_eq!(session.ack(), 1);
    assert_eq!(ids(), stored);
}

/// The sender has been told that it is delivered.
#[test]
fn what_the_log_cannot_give_back_is_a_dead_letter_and_the_others_go_out() {
    let script = Script::listen();
    let mut observer = script.observer(&["--dead-letter-topic", "dead/letters"]);
    let (mut session, mut lane) = script.up();
    write(&mut session, 1, r#"{"text":"lost"}"#);
    write(&mut session, 2, r#"{"text":"kept"}"#);
    assert_eq!([session.ack(), session.ack()], [1, 2]);
    let before: Vec<Message> = (0..4).map(|_| lane.publish()).collect();
    observer.kill();
    let spoil = "UPDATE message_data SET body = x'ff'
        WHERE seq = (SELECT min(seq) FROM message_data)";
    let path = observer.state.path().join("observer.db");
    let raw = rusqlite::Connection::open(path).unwrap();
    assert_eq!(raw.execute(spoil, []).unwrap(), 1);
    drop(raw);
    observer.spawn(&[]);
    let (mut session, mut lane) = script.connected_again();
    let after: Vec<Message> = (0..4).map(|_| lane.publish()).collect();
    let all = topics_and_payloads(&after);
    let kept = topics_and_payloads(&before[2..]);
    assert!(kept.is_subset(&all), "{kept:?}, and then {all:?}");
    let told = all
        .iter()
        .filter(|(topic, _)| topic.ends_with("/clientrejected"));
    assert_eq!(told.count(), 1, "{all:?}");
    let letter = after
        .iter()
        .find(|message| message.topic() == "dead/letters");
    let letter = letter.unwrap().json();
    let outgoing = Path::Chat21.outgoing("a", "alice", "bob");
    assert_eq!(letter["reason"], "internal");
    assert_eq!(letter["topic"], outgoing);
    after.iter().for_each(|message| lane.confirm(message));
    lane.says_nothing();
    // The log forgets with the commit of a later message.
    session.deliver(1, "later", false);
    assert_eq!(session.ack(), 1);
    let later = lane.publish();
    lane.confirm(&later);
    await_empty_log(&observer);
}

/// Reads until the observer's DISCONNECT. What the observer publishes of its own is confirmed.
fn end_of(peer: &mut Peer) {
    loop {
        let (first, body) = peer.next();
        if first == DISCONNECT {
            return;
        }
        assert_eq!(first & 0xf0, 0x30, "PUBLISH");
        let message = parse_publish(first, &body);
        if message.packet_id.is_some() {
            peer.confirm(&message);
        }
    }
}

/// Where confirmations counted, the window would fill.
#[test]
fn messages_are_taken_in_though_the_broker_confirms_nothing() {
    let script = Script::listen();
    let _observer = script.observer(&["--window", "10"]);
    let (mut session, mut lane) = script.up();
    for n in 1..=30 {
        session.deliver(n, &n.to_string(), false);
        assert_eq!(session.ack(), n);
    }
    let out: Vec<Message> = (0..20).map(|_| lane.publish()).collect();
    let expected = (1..=20).map(|n| n.to_string());
    assert!(out.iter().map(text).eq(expected), "in order: {out:?}");
}

/// Far more than memory has room for: with a window of ten, forty. All of it is published in order,
/// by the next process if this one is killed.
#[test]
fn what_memory_has_no_room_for_is_kept_in_the_log_and_published_in_order() {
    const MESSAGES: u16 = 300;
    let script = Script::listen();
    let mut observer = script.observer(&["--window", "10"]);
    let (mut session, mut lane) = script.up();
    for n in 1..=MESSAGES {
        session.deliver(n, &n.to_string(), false);
        assert_eq!(session.ack(), n);
    }
    assert!(observer.log().contains("the broker takes no publishes"));
    for n in 1..=150 {
        let message = lane.publish();
        assert_eq!(text(&message), n.to_string());
        lane.confirm(&message);
        if n == 100 {
            // The log forgets with a commit.
            session.deliver(1, "last", false);
            assert_eq!(session.ack(), 1);
        }
    }
    observer.kill();
    observer.spawn(&[]);
    let (mut session, mut lane) = script.connected_again();
    let first = lane.publish();
    let again: u16 = text(&first).parse().unwrap();
    assert!((2..=151).contains(&again), "{again}");
    lane.confirm(&first);
    for n in again + 1..=MESSAGES {
        let message = lane.publish();
        assert_eq!(text(&message), n.to_string());
        lane.confirm(&message);
    }
    for expected in ["last", "new"] {
        if expected == "new" {
            session.deliver(1, "new", false);
            assert_eq!(session.ack(), 1);
        }
        let message = lane.publish();
        assert_eq!(text(&message), expected);
        lane.confirm(&message);
    }
    lane.says_nothing();
    await_empty_log(&observer);
}

/// The broker lost the acks of the last two, which are only in the log. Neither overtakes what came
/// before it, and their acks wait for nothing.
#[test]
fn what_comes_again_while_it_waits_in_the_log_overtakes_nothing() {
    const MESSAGES: u16 = 100;
    let payload = |n: u16| format!(r#"{{"n":{n}}}"#);
    let script = Script::listen();
    let mut observer = script.observer(&["--window", "10"]);
    let (mut session, _silent) = script.up();
    for n in 1..=MESSAGES {
        write(&mut session, n, &payload(n));
        assert_eq!(session.ack(), n);
    }
    observer.kill();
    observer.spawn(&[]);
    let (mut session, mut lane) = script.connected_again();
    // Another observer asks who is there: that ends no redeliveries.
    session.send(9, "observer/other/hello", b"{}");
    assert_eq!(session.ack(), 9);
    for (packet_id, n) in [(1, MESSAGES - 1), (2, MESSAGES)] {
        let topic = Path::Chat21.outgoing("a", "alice", "bob");
        let again = publish_packet(
            topic.as_bytes(),
            payload(n).as_bytes(),
            Some(packet_id),
            true,
        );
        session.wire.send(&again).unwrap();
        assert_eq!(session.ack(), packet_id);
    }
    // Each has a copy for Alice and one for Bob.
    for n in (1..=MESSAGES).flat_map(|n| [n, n]) {
        let message = lane.publish();
        assert_eq!(message.json()["n"], n);
        lane.confirm(&message);
    }
    lane.says_nothing();
}

/// Forty messages are in memory, and twenty more of this size make a mebibyte.
#[test]
fn beyond_the_largest_backlog_the_broker_keeps_what_comes() {
    const MESSAGES: u16 = 100;
    let script = Script::listen();
    let observer = script.observer(&["--window", "10", "--max-backlog", "1MiB"]);
    let (mut session, mut lane) = script.up();
    let filler = "x".repeat(50_000);
    for n in 1..=MESSAGES {
        session.deliver(n, &format!("{n} {filler}"), false);
    }
    observer.wait_log("no more messages are accepted, the broker keeps them");
    let mut taken = 60;
    for n in 1..=taken {
        assert_eq!(session.ack(), n);
    }
    while let Some((first, _)) = session.read(GLIMPSE).unwrap() {
        assert_eq!(first, PUBACK);
        taken += 1;
    }
    assert!((60..80).contains(&taken), "{taken}");
    for n in 1..=MESSAGES {
        let message = lane.publish();
        assert!(text(&message).starts_with(&format!("{n} ")), "{n}");
        lane.confirm(&message);
    }
    for n in taken + 1..=MESSAGES {
        assert_eq!(session.ack(), n);
    }
    lane.says_nothing();
}

/// The group is named in the message; its members are m000 and so on, and Alice.
fn write_to_group(session: &mut Peer, packet_id: u16, members: usize) {
    let members = (0..members).map(|n| format!(r#""m{n:03}":1"#));
    let members: Vec<_> = members.chain([r#""alice":1"#.to_owned()]).collect();
    let payload = format!(
        r#"{{"text":"hi","group":{{"members":{{{}}}}}}}"#,
        members.join(",")
    );
    let topic = Path::Chat21.outgoing("a", "alice", "group-1");
    let packet = publish_packet(topic.as_bytes(), payload.as_bytes(), Some(packet_id), false);
    session.wire.send(&packet).unwrap();
}

#[test]
fn a_group_message_is_acknowledged_at_once_and_goes_on_after_a_kill_where_it_was() {
    const MEMBERS: usize = 300;
    let script = Script::listen();
    let mut observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    let mut bulk = script.bulk();
    write_to_group(&mut session, 1, MEMBERS);
    assert_eq!(session.ack(), 1);
    let own = lane.publish();
    assert_eq!(own.topic(), Path::Chat21.inbox("a", "group-1", "group-1"));
    let mut reached = BTreeSet::new();
    let mut ids = BTreeSet::from([own.json()["message_id"].to_string()]);
    for _ in 0..200 {
        let copy = bulk.publish();
        bulk.confirm(&copy);
        ids.insert(copy.json()["message_id"].to_string());
        assert!(reached.insert(copy.topic().to_owned()), "{copy:?}");
    }
    observer.kill();
    observer.spawn(&[]);
    let (_session, mut lane) = script.connected_again();
    let mut bulk = script.bulk();
    assert_eq!(lane.publish().topic(), own.topic());
    let mut again = 0;
    while reached.len() < MEMBERS + 1 {
        let copy = bulk.publish();
        bulk.confirm(&copy);
        ids.insert(copy.json()["message_id"].to_string());
        again += usize::from(!reached.insert(copy.topic().to_owned()));
    }
    bulk.says_nothing();
    assert_eq!(ids.len(), 1, "{ids:?}");
    // The first step at least is known to be confirmed.
    assert!(again <= 200 - 32, "{again} copies came twice");
}

fn fetch(session: &mut Peer, packet_id: u16) {
    let packet = publish_packet(
        b"apps/a/users/bob/inbox/fetch",
        br#"{"limit":100}"#,
        Some(packet_id),
        false,
    );
    session.wire.send(&packet).unwrap();
}

/// Fetches go out one after another for each user; more than a few are refused, and nobody waits
/// for them.
#[test]
fn a_user_who_fetches_again_and_again_stops_nobody() {
    let script = Script::listen();
    let _observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    let mut bulk = script.bulk();
    for n in 1..=40 {
        write(&mut session, n, r#"{"text":"hi"}"#);
        assert_eq!(session.ack(), n);
        for _ in 0..2 {
            let copy = lane.publish();
            lane.confirm(&copy);
        }
    }
    for n in 41..=60 {
        fetch(&mut session, n);
    }
    for n in 41..=60 {
        assert_eq!(session.ack(), n);
    }
    for _ in 0..10 {
        let notice = lane.publish();
        assert_eq!(notice.json()["reason"], "rate-limited", "{notice:?}");
        lane.confirm(&notice);
    }
    // The broker has confirmed no page, and yet Alice's message passes.
    write(&mut session, 61, r#"{"text":"hi"}"#);
    assert_eq!(session.ack(), 61);
    assert!(lane.publish().topic().ends_with("/clientadded"));
    assert!(lane.publish().topic().ends_with("/clientadded"));
    // Each of ten fetches brings forty messages, and a word at the end.
    for _ in 0..10 {
        for _ in 0..40 {
            let copy = bulk.publish();
            bulk.confirm(&copy);
            assert_eq!(copy.json()["__history"], true, "{copy:?}");
        }
        let end = bulk.publish();
        bulk.confirm(&end);
        assert!(end.json().get("__history").is_none(), "{end:?}");
    }
    bulk.says_nothing();
    // Then there is room for another.
    fetch(&mut session, 62);
    assert_eq!(session.ack(), 62);
    assert_eq!(bulk.publish().json()["__history"], true);
}

/// The broker marks everything DUP that it has handed to the connection that is left at once,
/// though the observer never took it: an equal text is a message of its own all the same.
#[test]
fn an_equal_text_that_comes_while_the_session_is_taken_up_is_another_message() {
    an_equal_text_is_another_message(false);
}

/// The line breaks once more before it has come on a connection that stays.
#[test]
fn an_equal_text_is_another_message_however_long_the_session_is_taken_up() {
    an_equal_text_is_another_message(true);
}

fn an_equal_text_is_another_message(breaks_again: bool) {
    let text = br#"{"text":"ok"}"#;
    let topic = Path::Chat21.outgoing("a", "alice", "bob");
    let deliver = |session: &mut Peer, packet_id, dup| {
        let mut packet = publish_packet(topic.as_bytes(), text, Some(packet_id), false);
        packet[0] |= u8::from(dup) << 3;
        session.wire.send(&packet).unwrap();
    };
    let script = Script::listen();
    let _observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    let mut id_of_copies = || confirmed_id(&mut lane);
    deliver(&mut session, 1, false);
    assert_eq!(session.ack(), 1);
    let first = id_of_copies();
    drop(session);
    let mut left = script.session();
    left.connack(true);
    assert_eq!(left.next().0, DISCONNECT);
    // The broker had sent it already, and its end of the connection comes right behind.
    deliver(&mut left, 1, false);
    drop(left);
    if breaks_again {
        let mut lost = script.session();
        lost.connack(true);
        drop(lost);
        let mut left = script.session();
        left.connack(true);
        assert_eq!(left.next().0, DISCONNECT);
        deliver(&mut left, 1, true);
        drop(left);
    }
    let mut session = script.session();
    session.connack(true);
    session.suback();
    deliver(&mut session, 1, true);
    let second = id_of_copies();
    assert_eq!(session.ack(), 1);
    assert_ne!(first, second);
    // One that came before is not new.
    deliver(&mut session, 2, true);
    assert_eq!(id_of_copies(), first);
    assert_eq!(session.ack(), 2);
}

/// They are in the log, as a fetch is: nobody's message waits until the broker has taken them all.
#[test]
fn what_a_returning_user_missed_holds_up_no_acknowledgement() {
    let script = Script::listen();
    let _observer = script.observer(&["--offline", "redeliver"]);
    let (mut session, mut lane) = script.up();
    let mut bulk = script.bulk();
    for packet_id in 1..=3 {
        write(&mut session, packet_id, r#"{"text":"missed"}"#);
        assert_eq!(session.ack(), packet_id);
        confirmed_id(&mut lane);
    }
    session.send(
        4,
        "apps/a/users/bob/presence/phone",
        br#"{"connected":true}"#,
    );
    assert_eq!(session.ack(), 4);
    write(&mut session, 5, r#"{"text":"new"}"#);
    assert_eq!(session.ack(), 5);
    for _ in 0..3 {
        assert_eq!(bulk.publish().json()["text"], "missed");
    }
}

/// A minute after the line broke nothing comes again any more: a message of the observer to itself,
/// behind all that had waited, has shown it. So an equal text that the broker marks DUP then is a
/// message of its own. It would be swallowed under the id of the first.
#[test]
fn an_equal_text_is_another_message_long_after_the_line_broke() {
    let script = Script::listen();
    let _observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    write(&mut session, 1, r#"{"text":"ok"}"#);
    assert_eq!(session.ack(), 1);
    let first = confirmed_id(&mut lane);
    drop(session);
    let mut session = script.session_kept();
    session.suback();
    // Among them is what shows that nothing comes again.
    echo_probes(&mut session, &mut lane, Duration::from_secs(65));
    let topic = Path::Chat21.outgoing("a", "alice", "bob");
    let text = br#"{"text":"ok"}"#;
    let mut packet = publish_packet(topic.as_bytes(), text, Some(2), false);
    packet[0] |= 1 << 3;
    session.wire.send(&packet).unwrap();
    assert_eq!(session.ack(), 2);
    assert_ne!(confirmed_id(&mut lane), first);
}

/// Confirms both copies of a message. Returns its id.
fn confirmed_id(lane: &mut Peer) -> String {
    let [one, other] = [lane.publish(), lane.publish()];
    lane.confirm(&one);
    lane.confirm(&other);
    assert_eq!(one.json()["message_id"], other.json()["message_id"]);
    one.json()["message_id"].to_string()
}

/// Sends the observer's messages to itself back for a while, and answers pings.
fn echo_probes(session: &mut Peer, lane: &mut Peer, time: Duration) {
    let turn = Duration::from_millis(100);
    let until = Instant::now() + time;
    while Instant::now() < until {
        assert!(session.read(turn).unwrap().is_none());
        let Some((packet, body)) = lane.read(turn).unwrap() else {
            continue;
        };
        let message = parse_publish(packet, &body);
        lane.confirm(&message);
        if message.topic().starts_with("observer/observer/probe/") {
            session.echo(&message.topic, &message.payload);
            assert_eq!(session.ack(), ECHO);
        }
    }
}
