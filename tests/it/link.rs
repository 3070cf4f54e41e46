//! The links against a scripted broker: behaviour that a real broker cannot be made to show on
//! demand.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app};
use crate::load::Path;
use crate::script::{GLIMPSE, Script, count_filters, delivery, text};
use crate::wire::{
    CONNACK, DISCONNECT, Message, PUBACK, SUBACK, Wire, packet, parse_publish, publish_packet,
};

/// The shortest wait before another attempt where somebody has to change something first.
const SLOW: Duration = Duration::from_secs(5);

#[test]
fn an_ack_never_goes_out_on_another_connection_than_its_message_came_on() {
    let script = Script::listen();
    let _observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    // Four messages and the end of the connection, in one segment.
    let four: Vec<u8> = (1..=4)
        .flat_map(|n| delivery(n, &format!("m{n}"), false))
        .collect();
    session.wire.send(&four).unwrap();
    drop(session);
    let mut session = script.session_kept();
    session.suback();
    // Messages read from the first connection are forwarded. Nothing has been delivered on this one
    // yet, so nothing is acknowledged.
    let mut forwarded = vec![];
    while let Ok(Some((first, body))) = lane.wire.read_packet(GLIMPSE) {
        let message = parse_publish(first, &body);
        lane.confirm(&message);
        if !message.topic.starts_with(b"observer/") {
            forwarded.push(text(&message).to_owned());
        }
    }
    session.says_nothing();
    // The broker delivers again, under other packet identifiers.
    for n in 1..=4 {
        session.deliver(n + 10, &format!("m{n}"), true);
    }
    while forwarded.len() < 4 {
        let message = lane.publish();
        lane.confirm(&message);
        forwarded.push(text(&message).to_owned());
    }
    assert_eq!([(); 4].map(|()| session.ack()), [11, 12, 13, 14]);
    assert_eq!(
        forwarded,
        ["m1", "m2", "m3", "m4"],
        "what was read before is not forwarded twice"
    );
    session.says_nothing();
}

#[test]
fn a_message_whose_ack_was_lost_is_forwarded_again_under_its_message_id() {
    let script = Script::listen();
    let _observer = script.observer(&[]);
    let (mut session, mut lane) = script.up();
    let topic = Path::Chat21.outgoing("a", "alice", "alice");
    let mut bytes = publish_packet(topic.as_bytes(), br#"{"text":"hi"}"#, Some(1), false);
    session.wire.send(&bytes).unwrap();
    let first = lane.publish();
    lane.confirm(&first);
    assert_eq!(session.ack(), 1);
    // The broker never sees that ack.
    drop(session);
    let mut session = script.session_kept();
    session.suback();
    bytes[0] |= 0x08;
    session.wire.send(&bytes).unwrap();
    let second = lane.publish();
    assert_eq!(second.json()["message_id"], first.json()["message_id"]);
    lane.confirm(&second);
    assert_eq!(session.ack(), 1);
    // The same text without DUP is another message.
    bytes[0] &= !0x08;
    session.wire.send(&bytes).unwrap();
    let third = lane.publish();
    assert_ne!(third.json()["message_id"], first.json()["message_id"]);
}

#[test]
fn confirmations_out_of_order_stall_nothing_and_acks_keep_their_order() {
    let script = Script::listen();
    let _observer = script.observer(&["--store", "none"]);
    let (mut session, mut lane) = script.up();
    for n in 1..=300 {
        session.deliver(n, &n.to_string(), false);
    }
    let mut out: Vec<Message> = (0..300).map(|_| lane.publish()).collect();
    assert_eq!(
        out.iter().map(text).collect::<Vec<_>>(),
        (1..=300).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    // All but the first are confirmed, last one first.
    let first = out.remove(0);
    for message in out.iter().rev() {
        lane.confirm(message);
    }
    session.says_nothing();
    // Traffic goes on meanwhile.
    session.deliver(301, "301", false);
    let more = lane.publish();
    assert_eq!(text(&more), "301");
    lane.confirm(&more);
    lane.confirm(&first);
    assert_eq!(
        (0..301).map(|_| session.ack()).collect::<Vec<_>>(),
        (1..=301).collect::<Vec<_>>()
    );
}

#[test]
fn a_publish_not_confirmed_in_time_goes_out_again_and_the_session_stays() {
    let script = Script::listen();
    let observer = script.observer(&["--ack-timeout", "5s"]);
    let (mut session, mut lane) = script.up();
    session.deliver(1, "a", false);
    session.deliver(2, "b", false);
    let (a, b) = (lane.publish(), lane.publish());
    assert_eq!((text(&a), text(&b)), ("a", "b"));
    lane.confirm(&b);
    // It goes out again on a connection of its own; those that others share stay.
    let mut apart = script.quarantine();
    let again = apart.publish();
    assert_eq!(text(&again), "a", "only what was not confirmed");
    apart.confirm(&again);
    assert_eq!([session.ack(), session.ack()], [1, 2]);
    observer.wait_log("the broker does not take some publishes");
    for connections in [&script.sessions, &script.lanes] {
        assert!(connections.try_recv().is_err(), "one has reconnected");
    }
}

#[test]
fn a_full_window_holds_the_session_back_and_loses_nothing() {
    let script = Script::listen();
    let _observer = script.observer(&["--store", "none", "--window", "5"]);
    let (mut session, mut lane) = script.up();
    for n in 1..=400 {
        session.deliver(n, &n.to_string(), false);
    }
    let mut first = [(); 5].map(|()| lane.publish());
    lane.says_nothing();
    // Each ack lets one more message in.
    for n in 1..=400 {
        let message = if n <= 5 {
            std::mem::replace(&mut first[usize::from(n) - 1], blank())
        } else {
            lane.publish()
        };
        assert_eq!(text(&message), n.to_string());
        lane.confirm(&message);
        assert_eq!(session.ack(), n);
    }
}

fn blank() -> Message {
    Message {
        topic: vec![],
        payload: vec![],
        dup: false,
        packet_id: None,
    }
}

/// The observer accepts no more messages, yet the session's connection is still read and kept
/// alive.
#[test]
fn a_stalled_publisher_does_not_silence_the_session() {
    let script = Script::listen();
    let _observer = script.observer(&["--window", "5", "--keep-alive", "5s"]);
    let (mut session, _lane) = script.up();
    for n in 1..=20_000_u32 {
        let qos_0 = publish_packet(
            Path::Inbox.outgoing("a", "alice", "bob").as_bytes(),
            n.to_string().as_bytes(),
            None,
            false,
        );
        session.wire.send(&qos_0).unwrap();
    }
    // One asks for the acks of what went before, and has no answer. So another is the keep alive's.
    for _ in 0..2 {
        let (first, _) = session.wire.read_packet(PATIENCE).unwrap().unwrap();
        assert_eq!(first, 0xc0, "PINGREQ");
    }
}

/// The answer to a ping stands behind what the broker is delivering.
#[test]
fn a_message_that_takes_longer_than_a_keep_alive_costs_no_connection() {
    let script = Script::listen();
    let _observer = script.observer(&["--keep-alive", "10s"]);
    let (mut session, _lane) = script.up();
    let topic = Path::Chat21.outgoing("a", "alice", "bob");
    let message = publish_packet(topic.as_bytes(), &[b'x'; 100_000], Some(1), false);
    let mut bytes = message.chunks(10);
    let mut pings = 0;
    // One more than the keep alive's: it asks for the acks of what went before.
    while pings < 4 {
        session.wire.send(bytes.next().unwrap()).unwrap();
        match session.wire.read_packet(Duration::from_millis(50)).unwrap() {
            Some((0xc0, _)) => pings += 1,
            other => assert!(other.is_none(), "{other:?}"),
        }
    }
}

#[test]
fn a_publish_that_costs_the_connection_is_set_aside_after_few_attempts() {
    let script = Script::listen();
    let mut observer = script.observer(&["--dead-letter-topic", "dead"]);
    let (mut session, lane) = script.up();
    for n in 1..=20 {
        let text = if n == 10 {
            "poison".to_owned()
        } else {
            format!("good {n}")
        };
        session.deliver(n, &text, false);
    }
    let mut peers = [Some(lane), Some(script.quarantine())];
    let (mut closed, mut topics, mut good) = ([0, 0], vec![], std::collections::BTreeSet::new());
    while good.len() < 19 || topics.len() < 2 {
        for (at, place) in peers.iter_mut().enumerate() {
            let peer = place.as_mut().unwrap();
            let packet = peer.wire.read_packet(Duration::from_millis(20)).unwrap();
            let Some((first, body)) = packet.filter(|(first, _)| first & 0xf0 == 0x30) else {
                continue;
            };
            let message = parse_publish(first, &body);
            if message.payload == b"poison" {
                // RabbitMQ does the same with a refused publish: it closes the connection without a
                // reason.
                closed[at] += 1;
                *place = None;
                let again = if at == 0 {
                    let mut lane = script.lane();
                    lane.connack(false);
                    lane
                } else {
                    script.quarantine()
                };
                *place = Some(again);
                continue;
            }
            peer.confirm(&message);
            if message.payload.starts_with(b"good") {
                good.insert(message.payload);
            } else if !message.topic.starts_with(b"observer/") {
                topics.push(message);
            }
        }
    }
    // Twice on the connection that others share, and three times alone.
    assert_eq!(closed, [2, 3]);
    let rejected = topics
        .iter()
        .find(|message| message.topic().ends_with("/clientrejected"))
        .expect("the sender is told");
    assert_eq!(rejected.json()["reason"], "unauthorized");
    let letter = topics
        .iter()
        .find(|message| message.topic() == "dead")
        .expect("a dead letter is kept");
    assert_eq!(
        (&letter.json()["reason"], &letter.json()["payload"]),
        (&"unauthorized".into(), &"poison".into())
    );
    assert_eq!(
        (0..20).map(|_| session.ack()).collect::<Vec<_>>(),
        (1..=20).collect::<Vec<_>>()
    );
    let (status, log) = observer.stop();
    assert!(
        status.success() && log.contains("forwarded=20 refused=1"),
        "{log}"
    );
}

#[test]
fn sigterm_finishes_what_is_under_way_and_disconnects_last() {
    let script = Script::listen();
    let mut observer = script.observer(&["--store", "none", "--drain-timeout", "10s"]);
    let (mut session, mut lane) = script.up();
    observer.wait_ready();
    for n in 1..=100 {
        session.deliver(n, &n.to_string(), false);
    }
    let out: Vec<Message> = (0..100).map(|_| lane.publish()).collect();
    // The first sixty are confirmed while it drains, the rest never.
    crate::bed::signal(observer.pid(), "TERM");
    observer.wait_log("stopping: no new messages");
    for message in &out[..60] {
        lane.confirm(message);
    }
    session.deliver(101, "too late", false);
    assert_eq!(
        (0..60).map(|_| session.ack()).collect::<Vec<_>>(),
        (1..=60).collect::<Vec<_>>()
    );
    for peer in [&mut session, &mut lane] {
        let (mut first, mut body) = peer.next();
        // The last message is the offline status. Before it comes one that shows whether the broker
        // serves the connection.
        while first & 0xf0 == 0x30 {
            let status = parse_publish(first, &body);
            let probe = status.topic().starts_with("observer/observer/probe/");
            assert!(
                probe || status.topic() == "observer/observer/status",
                "{status:?}"
            );
            // The observer may have stopped waiting for this PUBACK.
            if let Some(id) = status.packet_id {
                let _ = peer.wire.send(&packet(PUBACK, &id.to_be_bytes()));
            }
            (first, body) = peer.next();
        }
        assert_eq!((first, &body[..]), (DISCONNECT, &[][..]));
        assert!(
            peer.wire.read_packet(PATIENCE).is_err(),
            "something comes behind the DISCONNECT"
        );
    }
    let (status, log) = observer.ended();
    assert!(status.success());
    assert!(log.contains("left_unacknowledged=41"), "{log}");
    assert!(
        script.sessions.try_recv().is_err() && script.lanes.try_recv().is_err(),
        "it has connected again"
    );
}

#[test]
fn a_refused_subscription_is_named_and_readiness_never_comes() {
    let script = Script::listen();
    let observer = script.observer(&["--layouts", "chat21", "--app", "a"]);
    let mut session = script.session();
    session.connack(false);
    let (_, body) = session.next();
    let filters = count_filters(&body[2..]);
    let mut codes = vec![1; filters];
    codes[0] = 0x80;
    session
        .wire
        .send(&packet(SUBACK, &[&body[..2], &codes].concat()))
        .unwrap();
    observer
        .wait_log("subscription to \"apps/a/outgoing/users/+/messages/+/outgoing\" was refused");
    observer.wait_log("retry_in=");
    assert!(observer.retries()[0] >= SLOW, "it tries again at once");
}

/// ejabberd by default and AWS IoT Core take filters of eight levels at most. Those of nine catch
/// what only RabbitMQ makes of a `.`.
#[test]
fn an_observer_does_without_the_filters_for_split_identifiers() {
    let script = Script::listen();
    let mut observer = script.observer(&["--layouts", "chat21", "--app", "a"]);
    let mut session = script.session();
    session.connack(false);
    let (_, body) = session.next();
    let (mut rest, mut codes) = (&body[2..], vec![]);
    while rest.len() > 2 {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
        let levels = rest[2..2 + length].split(|byte| *byte == b'/').count();
        codes.push(if levels > 8 { 0x80 } else { 1 });
        rest = &rest[2 + length + 1..];
    }
    assert!(codes.contains(&0x80) && codes.contains(&1), "{codes:?}");
    session
        .wire
        .send(&packet(SUBACK, &[&body[..2], &codes].concat()))
        .unwrap();
    let mut lane = script.lane();
    lane.connack(false);
    let (first, body) = lane.next();
    let probe = parse_publish(first, &body);
    lane.confirm(&probe);
    session.echo(&probe.topic, &probe.payload);
    session.ack();
    observer.wait_ready();
    let refused = codes.iter().filter(|code| **code == 0x80).count();
    observer.wait_log(&format!(
        "the broker refuses {refused} subscriptions of nine levels. Only RabbitMQ needs them"
    ));
}

/// A broker that speaks only 3.1.1 names no limit: the operator does.
#[test]
fn a_copy_over_the_limit_that_the_operator_names_is_refused_and_not_tried() {
    let script = Script::listen();
    let mut observer = script.observer(&["--broker-max-packet", "2KiB"]);
    let (mut session, mut lane) = script.up();
    observer.wait_ready();
    let (fits, large) = ("x".repeat(1_900), "x".repeat(2_000));
    for (n, text) in [(1, &large), (2, &fits), (3, &large), (4, &fits)] {
        session.deliver(n, text, false);
    }
    // Two copies, and two notices that the others are too large, over one connection.
    let mut places = vec![];
    for _ in 0..4 {
        let message = lane.publish();
        lane.confirm(&message);
        assert!(message.payload.len() <= 1_900);
        places.push(message.topic().rsplit('/').next().unwrap().to_owned());
    }
    places.sort();
    let expected = [
        "clientadded",
        "clientadded",
        "clientrejected",
        "clientrejected",
    ];
    assert_eq!(places, expected);
    assert!(script.lanes.try_recv().is_err(), "it has connected again");
    let (_, log) = observer.stop();
    assert!(log.contains("too-large=2"), "{log}");
}

#[test]
fn an_observer_that_was_ready_is_not_once_a_subscription_is_refused_and_is_again_when_it_is_not() {
    let script = Script::listen();
    let port = crate::http::free_port();
    let listen = format!("127.0.0.1:{port}");
    let _observer = script.observer(&["--http-listen", &listen]);
    let ready = |wanted: u16| {
        crate::bed::wait_for("readiness", || {
            let (status, why) = crate::http::get(port, "/readyz")?;
            (status == wanted).then_some(why)
        })
    };
    let (session, mut lane) = script.up();
    ready(200);
    drop(session);
    let mut session = script.session_kept();
    let (_, body) = session.next();
    let mut codes = vec![1; count_filters(&body[2..])];
    codes[0] = 0x80;
    session
        .wire
        .send(&packet(SUBACK, &[&body[..2], &codes].concat()))
        .unwrap();
    let why = crate::bed::wait_for("the reason", || {
        Some(ready(503)).filter(|why| why.contains("was refused"))
    });
    assert!(why.contains("\nsession: mqtt://127.0.0.1:"), "{why}");
    assert!(why.contains(": subscription to "), "{why}");
    // A refused subscription is retried slowly.
    let mut session = script.session_kept();
    session.suback();
    std::thread::spawn(move || {
        while let Ok(Some((first, body))) = lane.wire.read_packet(PATIENCE * 2) {
            if first & 0xf0 == 0x30 {
                let message = parse_publish(first, &body);
                lane.confirm(&message);
                if message.topic.starts_with(b"observer/observer/probe/") {
                    let back = publish_packet(&message.topic, &message.payload, Some(7), false);
                    session.wire.send(&back).unwrap();
                }
            }
        }
    });
    ready(200);
}

#[test]
fn a_subscription_granted_at_qos_0_only_is_refused() {
    let script = Script::listen();
    let observer = script.observer(&["--layouts", "chat21"]);
    let mut session = script.session();
    session.connack(false);
    let (_, body) = session.next();
    session
        .wire
        .send(&packet(
            SUBACK,
            &[&body[..2], &vec![0; count_filters(&body[2..])]].concat(),
        ))
        .unwrap();
    observer.wait_log("was granted QoS 0 only");
}

#[test]
fn a_refused_login_is_said_in_words() {
    for (code, words) in [
        (4, "refuses a client without a login"),
        (5, "refuses a client without a login"),
        (2, "refused the client identifier"),
        (3, "is unavailable"),
    ] {
        let script = Script::listen();
        let observer = script.observer(&[]);
        let mut session = script.session();
        session.wire.send(&packet(CONNACK, &[0, code])).unwrap();
        observer.wait_log(words);
    }
}

/// As bad as a session that may not log in: it does not pass by itself.
#[test]
fn a_refused_login_of_a_publisher_is_an_error() {
    let script = Script::listen();
    let observer = script.observer(&[]);
    let mut session = script.session();
    session.connack(false);
    session.suback();
    let mut lane = script.lane();
    lane.wire.send(&packet(CONNACK, &[0, 5])).unwrap();
    observer.wait_log("ERROR not connected: ");
    let log = observer.log();
    assert!(log.contains("refuses a client without a login"), "{log}");
}

#[test]
fn a_takeover_told_by_its_reason_is_reported_loudly_and_waited_out() {
    let script = Script::listen();
    let observer = script.observer(&["--protocol", "5"]);
    let mut session = script.session();
    session.wire.send(&packet(CONNACK, &[0, 0, 0])).unwrap();
    let (first, body) = session.next();
    assert_eq!(first, 0x82);
    let filters = count_filters(&body[3..]);
    session
        .wire
        .send(&packet(
            SUBACK,
            &[&body[..2], &[0], vec![1; filters].as_slice()].concat(),
        ))
        .unwrap();
    // The long form: the client crate ignores the short one (2 bytes) and reports a plain close.
    session.wire.send(&packet(DISCONNECT, &[0x8e, 0])).unwrap();
    observer.wait_log("is another observer running with this client identifier?");
    assert!(
        observer.log().contains("SessionTakenOver (0x8e)"),
        "{}",
        observer.log()
    );
    observer.wait_log("retry_in=");
    assert!(observer.retries()[0] >= SLOW, "it fights back at once");
}

#[test]
fn a_session_closed_again_and_again_without_a_word_looks_like_a_takeover() {
    let script = Script::listen();
    let observer = script.observer(&[]);
    let told = || {
        let log = observer.log();
        log.contains("is another observer running with this client identifier?")
    };
    // It takes two sessions in a row that last less than three seconds; a busy machine may need
    // more.
    let mut sessions = 0;
    while !told() {
        assert!(sessions < 20, "{}", observer.log());
        let mut session = script.session_kept();
        session.suback();
        sessions += 1;
        observer.wait_log_times("subscribed", sessions);
    }
    assert!(sessions >= 2, "{}", observer.log());
}

/// RabbitMQ delivers a topic or a property that is not UTF-8, and delivers it again until it is
/// acknowledged. It must not cost the connection, on either version of MQTT.
#[test]
fn what_is_not_utf8_is_acknowledged_on_the_connection_it_came_on() {
    for protocol in ["3.1.1", "5"] {
        let script = Script::listen();
        let _observer = script.observer(&["--protocol", protocol]);
        let mut session = script.session();
        let properties: &[u8] = match protocol {
            "5" => &[7, 0x26, 0, 1, 0xff, 0, 1, b'v'],
            _ => &[],
        };
        let connack: &[u8] = if protocol == "5" { &[0, 0, 0] } else { &[0, 0] };
        session.wire.send(&packet(CONNACK, connack)).unwrap();
        assert_eq!(session.next().0, 0x82, "SUBSCRIBE");
        let mut lane = script.lane();
        lane.wire.send(&packet(CONNACK, connack)).unwrap();
        for packet_id in 1..=2_u8 {
            let topic = b"a/outgoing/users/\xff/messages/bob/outgoing";
            let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
            let head = [&length[..], &topic[..], &[0, packet_id]].concat();
            let bytes = packet(0x32, &[&head, properties, b"{}"].concat());
            session.wire.send(&bytes).unwrap();
            // Whoever waits for the answer to SUBSCRIBE refuses all the same.
            assert_eq!(session.ack(), u16::from(packet_id));
        }
    }
}

#[test]
fn a_server_keep_alive_of_zero_is_no_ping_storm() {
    let script = Script::listen();
    let _observer = script.observer(&["--protocol", "5"]);
    let mut session = script.session();
    // CONNACK with Server Keep Alive (0x13) 0.
    session
        .wire
        .send(&packet(CONNACK, &[0, 0, 3, 0x13, 0, 0]))
        .unwrap();
    let start = Instant::now();
    let mut pings = 0;
    while start.elapsed() < Duration::from_secs(2) {
        if let Ok(Some((0xc0, _))) = session.wire.read_packet(Duration::from_millis(100)) {
            pings += 1;
            session.wire.send(&packet(0xd0, &[])).unwrap();
        }
    }
    assert!(pings <= 2, "{pings} pings in two seconds");
}

#[test]
fn auto_falls_back_to_mqtt_311_where_version_5_is_not_answered() {
    let script = Script::listen();
    let mut observer = script.observer(&["--protocol", "auto"]);
    // Version 5 is closed without an answer, as RabbitMQ before 3.13 does.
    drop(script.session());
    let (_session, _lane) = script.up();
    observer.wait_ready();
    assert!(observer.ready.contains("MQTT 3.1.1"), "{}", observer.ready);
    assert!(
        !observer.log().contains("not connected"),
        "{}",
        observer.log()
    );
}

#[test]
fn the_session_persists_and_its_identifier_is_secret_and_stays_the_same() {
    let script = Script::listen();
    let mut observer = script.observer(&[]);
    let first = script.session();
    assert!(
        !first.clean && first.client_id.starts_with("observer-") && first.client_id.len() > 40,
        "{}",
        first.client_id
    );
    observer.stop();
    observer.spawn(&[]);
    let second = script.session();
    assert_eq!(first.client_id, second.client_id);
    assert!(
        !observer.log().contains(&first.client_id),
        "the identifier is in the log"
    );
    // Another observer has another identifier.
    let _other = script.observer(&[]);
    assert_ne!(script.session().client_id, first.client_id);
}

#[test]
fn a_session_that_the_broker_lost_while_the_observer_was_away_is_warned_of() {
    const WARNING: &str = "the broker has not kept the session";
    let script = Script::listen();
    let mut observer = script.observer(&[]);
    let (mut session, _lane) = script.up();
    let topic = Path::Chat21.outgoing("a", "alice", "bob");
    let message = publish_packet(topic.as_bytes(), b"{}", Some(1), false);
    session.wire.send(&message).unwrap();
    assert_eq!(session.ack(), 1);
    observer.kill();
    assert!(!observer.log().contains(WARNING));
    observer.spawn(&[]);
    let mut session = script.session();
    session.connack(false);
    session.suback();
    observer.wait_log(WARNING);
    observer.wait_log_times("subscribed", 2);
    observer.kill();
    // Whoever empties the session knows it.
    observer.args.push("--reset-session".to_owned());
    observer.spawn(&[]);
    let mut clean = script.session();
    clean.connack(false);
    assert_eq!(clean.next().0, DISCONNECT);
    let mut session = script.session();
    session.connack(false);
    session.suback();
    observer.wait_log_times("subscribed", 3);
    assert_eq!(observer.log().matches(WARNING).count(), 1);
}

#[test]
fn a_reset_session_begins_empty() {
    let script = Script::listen();
    let _observer = script.observer(&["--reset-session"]);
    let mut clean = script.session();
    assert!(clean.clean);
    clean.connack(false);
    assert_eq!(clean.next().0, DISCONNECT);
    let kept = script.session();
    assert!(!kept.clean && kept.client_id == clean.client_id);
}

/// The same on real brokers: an observer that may not publish into one user's inbox.
fn a_forward_the_broker_refuses(broker: Broker, protocol: &str) {
    let _shared = broker.shared();
    let app = fresh_app();
    let dead = format!("dead/{app}");
    let mut observer = Observer::prepare(&[
        "--broker",
        &broker.url(false),
        "--app",
        &app,
        "--dead-letter-topic",
        &dead,
        "--protocol",
        protocol,
    ]);
    match broker.is_rabbitmq() {
        false => observer.spawn(&[
            ("OBSERVER_USERNAME", "narrow"),
            ("OBSERVER_PASSWORD", "narrowpw"),
        ]),
        true => {
            let write = [
                format!("rabbitmq.write:*/*/apps.{app}.users.u00.*"),
                format!("rabbitmq.write:*/*/apps.{app}.users.u01.*"),
                "rabbitmq.write:*/*/dead.*".to_owned(),
                "rabbitmq.write:*/mqtt-*".to_owned(),
                "rabbitmq.write:*/*/observer.*".to_owned(),
            ];
            observer.spawn(&[("OBSERVER_TOKEN", &crate::bed::scoped_token(&write))]);
        }
    }
    observer.wait_ready();
    let port = broker.port("MQTT");
    let service = crate::bed::service();
    let mut letters = Wire::connect(port, &format!("{app}-letters"), &service, true).unwrap();
    letters.subscribe(&[&dead]).unwrap();
    let mut alice = Wire::connect(
        port,
        &format!("{app}-alice"),
        &broker.login(&app, "u00"),
        true,
    )
    .unwrap();
    let own = format!("apps/{app}/users/u00/#");
    alice.subscribe(&[&own]).unwrap();
    for n in 0..30 {
        let recipient = if n == 15 { "u02" } else { "u01" };
        alice
            .publish(
                Path::Chat21.outgoing(&app, "u00", recipient),
                format!("{{\"n\":{n}}}"),
            )
            .unwrap();
    }
    let letter = letters
        .message(PATIENCE)
        .unwrap_or_else(|| panic!("no dead letter:\n{}", observer.log()));
    assert_eq!(
        (&letter.json()["reason"], &letter.json()["payload"]),
        (&"unauthorized".into(), &"{\"n\":15}".into())
    );
    let (mut echoes, mut told) = (std::collections::BTreeSet::new(), false);
    while echoes.len() < 30 || !told {
        let message = alice
            .message(PATIENCE)
            .unwrap_or_else(|| panic!("{} echoes, told: {told}\n{}", echoes.len(), observer.log()));
        if message.topic().ends_with("/clientrejected") {
            assert_eq!(message.json()["reason"], "unauthorized");
            told = true;
        } else if message.topic().ends_with("/clientadded") {
            echoes.insert(message.json()["n"].as_u64().unwrap());
        }
    }
    let (_, log) = observer.stop();
    assert!(log.contains("left_unacknowledged=0"), "{log}");
}

#[test]
fn a_forward_rabbitmq3_refuses_is_set_aside() {
    a_forward_the_broker_refuses(Broker::Rabbit3, "3.1.1");
}

#[test]
fn a_forward_rabbitmq4_refuses_is_set_aside() {
    a_forward_the_broker_refuses(Broker::Rabbit4, "5");
}

#[test]
fn a_forward_mosquitto_refuses_with_a_reason_is_set_aside() {
    a_forward_the_broker_refuses(Broker::Mosquitto, "5");
}

/// A session that grants subscriptions but delivers nothing, like RabbitMQ 3.10 with a window full
/// of undeliverable messages.
#[test]
fn a_session_that_delivers_nothing_is_noticed_and_named() {
    let script = Script::listen();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let health = free.local_addr().unwrap().to_string();
    drop(free);
    let observer = script.observer(&["--http-listen", &health]);
    let mut session = script.session();
    session.connack(false);
    session.suback();
    let mut lane = script.lane();
    lane.connack(false);
    std::thread::spawn(move || {
        while let Ok(Some((first, body))) = lane.wire.read_packet(PATIENCE * 2) {
            if first & 0xf0 == 0x30 {
                lane.confirm(&parse_publish(first, &body));
            }
        }
    });
    observer.wait_log("what the observer sends to itself does not come back");
    assert!(
        observer.log().contains("--reset-session"),
        "{}",
        observer.log()
    );
    let asked = crate::bed::binary()
        .args(["health", "--http-listen", &health])
        .output()
        .unwrap();
    let said = String::from_utf8(asked.stderr).unwrap();
    assert!(
        !asked.status.success() && said.contains("does not come back"),
        "{said}"
    );
}
