//! What the observer does until it knows what becomes of a `.` in a topic, against a scripted
//! broker. What real brokers answer, the red team sees.

use crate::load::Path;
use crate::script::{Peer, Script};
use crate::wire::{CONNACK, Message, packet, parse_publish, publish_packet};

/// The broker is busy, or takes no more connections of this user.
const SERVER_UNAVAILABLE: u8 = 3;

impl Peer {
    /// Delivers a message from alice.
    fn deliver_to(&mut self, recipient: &str, packet_id: u16) {
        let topic = Path::Inbox.outgoing("a", "alice", recipient);
        let message = publish_packet(topic.as_bytes(), b"hi", Some(packet_id), false);
        self.wire.send(&message).unwrap();
    }

    /// Accepts the connection and its subscription, and takes the question: what becomes of `a.b`?
    /// The observer waits for the answer from its confirmation on.
    fn question(&mut self) -> Message {
        self.connack(false);
        self.suback();
        let (first, body) = self.next();
        let question = parse_publish(first, &body);
        assert!(question.topic().ends_with("/a.b"), "{question:?}");
        question
    }
}

/// Alice's first message went to john.doe, her second one to bob.
fn refuses_the_first_and_serves_the_second(session: &mut Peer, lane: &mut Peer) {
    let notice = lane.publish();
    assert!(notice.topic().contains("/alice/"), "{notice:?}");
    assert_eq!(notice.json()["reason"], "unroutable");
    let copy = lane.publish();
    assert_eq!(copy.topic(), Path::Inbox.inbox("a", "bob", "alice"));
    lane.confirm(&copy);
    lane.confirm(&notice);
    assert_eq!([session.ack(), session.ack()], [1, 2]);
}

#[test]
fn messages_wait_for_the_answer_and_an_identifier_with_a_dot_is_served_where_it_survives() {
    let script = Script::listen();
    let _observer = script.observer(&["--broker-kind", "any"]);
    let (mut session, mut lane) = script.connected();
    session.deliver_to("john.doe", 1);
    session.deliver_to("bob", 2);
    let mut dot_probe = script.dot_probe();
    let question = dot_probe.question();
    // Somebody else's message answers nothing.
    let split = question.topic().replace("a.b", "a/b");
    dot_probe.echo(split.as_bytes(), b"a guess");
    dot_probe.ack();
    lane.says_nothing();
    dot_probe.confirm(&question);
    dot_probe.echo(&question.topic, &question.payload);
    for (recipient, packet_id) in [("john.doe", 1), ("bob", 2)] {
        let copy = lane.publish();
        assert_eq!(copy.topic(), Path::Inbox.inbox("a", recipient, "alice"));
        lane.confirm(&copy);
        assert_eq!(session.ack(), packet_id);
    }
}

#[test]
fn an_identifier_with_a_dot_is_refused_where_it_becomes_a_level_break() {
    let script = Script::listen();
    let observer = script.observer(&["--broker-kind", "any"]);
    let (mut session, mut lane) = script.connected();
    session.deliver_to("john.doe", 1);
    session.deliver_to("bob", 2);
    let mut dot_probe = script.dot_probe();
    let question = dot_probe.question();
    let split = question.topic().replace("a.b", "a/b");
    dot_probe.confirm(&question);
    dot_probe.echo(split.as_bytes(), &question.payload);
    refuses_the_first_and_serves_the_second(&mut session, &mut lane);
    observer.wait_log("turns a \".\" in a topic into a level break");
}

#[test]
fn a_broker_that_takes_no_further_connection_holds_up_nobody() {
    let script = Script::listen();
    let observer = script.observer(&["--broker-kind", "any"]);
    let (mut session, mut lane) = script.connected();
    session.deliver_to("john.doe", 1);
    session.deliver_to("bob", 2);
    for _ in 0..2 {
        let refused = packet(CONNACK, &[0, SERVER_UNAVAILABLE]);
        script.dot_probe().wire.send(&refused).unwrap();
    }
    refuses_the_first_and_serves_the_second(&mut session, &mut lane);
    observer.wait_log("it cannot be found out");
}
