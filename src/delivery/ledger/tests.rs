use std::collections::{HashMap, HashSet};
use std::hash::RandomState;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::protocol::id::MessageIds;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;

/// Some instant: the ledger only compares.
#[expect(
    clippy::disallowed_methods,
    reason = "there is no other way to make one"
)]
fn start() -> Instant {
    Instant::now()
}

const TIMEOUT: Duration = Duration::from_secs(30);

fn received(text: &str) -> Received {
    Received::new(
        Bytes::from_static(b"t"),
        Bytes::copy_from_slice(text.as_bytes()),
        false,
    )
}

fn message(text: &str, id: MessageId, fingerprint: u64) -> Message {
    Message {
        received: received(text),
        id,
        fingerprint,
        since: start(),
    }
}

fn publish(text: &str) -> Publish {
    Publish {
        topic: TopicName::parse("to").unwrap(),
        payload: Bytes::copy_from_slice(text.as_bytes()),
        user_properties: vec![],
        retain: false,
    }
}

fn id() -> MessageId {
    MessageIds::new(RandomState::new()).next(UnixMillis::new(1))
}

fn ack(packet_id: u16) -> Ack {
    Ack {
        connection: 1,
        packet_id,
    }
}

/// A ledger with one lane and a session, both up.
fn ledger(window: usize) -> Ledger {
    let mut ledger = Ledger::new(1, window, TIMEOUT);
    ledger.handle_lane_up(0, 100);
    ledger.handle_session_up(false);
    ledger
}

fn insert(ledger: &mut Ledger, packet_id: u16, text: &str, copies: usize) {
    let publishes = (0..copies).map(|_| publish(text)).collect();
    let message = message(text, id(), u64::from(packet_id));
    take(
        ledger,
        message,
        publishes,
        Made::Copies,
        Some(ack(packet_id)),
    );
}

/// A message that is decided on at once.
fn take(
    ledger: &mut Ledger,
    message: Message,
    publishes: Vec<Publish>,
    made: Made,
    ack: Option<Ack>,
) {
    let entry = ledger.insert(message, ack);
    ledger.add(entry, publishes, made);
    ledger.decided(entry);
}

fn handed_out(ledger: &mut Ledger) -> Vec<(PublishId, String)> {
    let mut out = vec![];
    while let Some((id, publish)) = ledger.poll_publish(0, start()) {
        out.push((id, String::from_utf8(publish.payload.to_vec()).unwrap()));
    }
    out
}

fn texts(handed_out: &[(PublishId, String)]) -> Vec<&str> {
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
fn unconfirmed_publishes_go_out_again_oldest_first_on_the_next_connection() {
    let mut ledger = ledger(10);
    for (packet_id, text) in [(1, "a"), (2, "b"), (3, "c")] {
        insert(&mut ledger, packet_id, text, 1);
    }
    let out = handed_out(&mut ledger);
    ledger.handle_confirmed(out[1].0);
    ledger.handle_lane_down(0, LaneEnd::Closed);
    assert!(
        handed_out(&mut ledger).is_empty(),
        "no connection, nothing to hand out"
    );
    ledger.handle_lane_up(0, 100);
    assert_eq!(texts(&handed_out(&mut ledger)), ["a", "c"]);
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
        Made::Copies,
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
        Made::Copies,
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
        Made::Copies,
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
    assert!(ledger.is_empty() && ledger.entries.is_empty());
}

#[test]
fn an_outage_of_the_broker_is_held_against_no_publish() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 1);
    for _ in 0..50 {
        assert_eq!(handed_out(&mut ledger).len(), 1);
        ledger.handle_lane_down(0, LaneEnd::Unrelated);
        ledger.handle_lane_up(0, 100);
    }
    for _ in 0..9 {
        assert_eq!(handed_out(&mut ledger).len(), 1);
        ledger.handle_lane_down(0, LaneEnd::TimedOut);
        ledger.handle_lane_up(0, 100);
    }
    assert!(ledger.poll_failed().is_none());
}

#[test]
fn a_refused_notice_is_known_for_one_even_if_nothing_was_forwarded() {
    let mut ledger = ledger(10);
    let bad = message("bad", id(), 1);
    take(
        &mut ledger,
        bad,
        vec![publish("notice")],
        Made::Answer,
        Some(ack(1)),
    );
    let out = handed_out(&mut ledger);
    ledger.handle_refused(out[0].0, Refusal::Unauthorized);
    assert_eq!(ledger.poll_failed().unwrap().what, FailedWhat::Answer);
}

#[test]
fn two_copies_refused_are_one_refusal() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 2);
    for (id, _) in handed_out(&mut ledger) {
        ledger.handle_refused(id, Refusal::Unauthorized);
    }
    let whats = [ledger.poll_failed(), ledger.poll_failed()].map(|failed| failed.unwrap().what);
    assert_eq!(whats, [FailedWhat::Copy, FailedWhat::FurtherCopy]);
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
fn a_publish_that_costs_the_connection_is_set_aside_and_its_neighbours_pass() {
    let mut ledger = ledger(100);
    for n in 0..40 {
        insert(&mut ledger, n, if n == 20 { "poison" } else { "good" }, 1);
    }
    let mut connections = 0;
    let failed = loop {
        let out = handed_out(&mut ledger);
        // Like RabbitMQ: the refused publish closes the connection, and the confirmations under way are lost with it.
        if out.iter().any(|(_, text)| text == "poison") {
            ledger.handle_lane_down(0, LaneEnd::Closed);
            connections += 1;
            ledger.handle_lane_up(0, 100);
        } else {
            out.iter().for_each(|(id, _)| ledger.handle_confirmed(*id));
        }
        if let Some(failed) = ledger.poll_failed() {
            break failed;
        }
        assert!(connections < 10, "it goes on for ever");
    };
    assert_eq!(
        (
            &failed.received.payload[..],
            failed.refusal,
            failed.what == FailedWhat::Answer
        ),
        (&b"poison"[..], Refusal::Unauthorized, false)
    );
    ledger.resolve(failed, vec![publish("dead letter")]);
    let mut acks = std::iter::from_fn(|| ledger.poll_ack()).count();
    assert_eq!(acks, 20, "the poison's own ack waits for its dead letter");
    loop {
        let out = handed_out(&mut ledger);
        if out.is_empty() {
            break;
        }
        out.iter().for_each(|(id, _)| ledger.handle_confirmed(*id));
    }
    acks += std::iter::from_fn(|| ledger.poll_ack()).count();
    assert_eq!(acks, 40);
}

#[test]
fn a_refused_answer_is_not_answered_again() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 1);
    let out = handed_out(&mut ledger);
    ledger.handle_refused(out[0].0, Refusal::Unauthorized);
    let failed = ledger.poll_failed().unwrap();
    assert_eq!(failed.what, FailedWhat::Copy);
    ledger.resolve(failed, vec![publish("notice")]);
    let out = handed_out(&mut ledger);
    ledger.handle_refused(out[0].0, Refusal::Unauthorized);
    let failed = ledger.poll_failed().unwrap();
    assert_eq!(failed.what, FailedWhat::Answer);
    ledger.resolve(failed, vec![]);
    assert_eq!(ledger.poll_ack(), Some(ack(1)));
}

#[test]
fn an_overdue_confirmation_names_its_lane() {
    let mut ledger = ledger(10);
    insert(&mut ledger, 1, "a", 1);
    let start = start();
    assert_eq!(
        ledger.poll_overdue(start + TIMEOUT),
        None,
        "nothing is sent yet"
    );
    ledger.poll_publish(0, start).unwrap();
    assert_eq!(
        ledger.poll_overdue(start + TIMEOUT - Duration::from_millis(1)),
        None
    );
    assert_eq!(ledger.poll_overdue(start + TIMEOUT), Some(0));
    ledger.handle_lane_down(0, LaneEnd::Closed);
    assert_eq!(ledger.poll_overdue(start + TIMEOUT), None);
}

#[test]
fn what_goes_to_many_has_its_own_lane_and_leaves_room_for_the_rest() {
    let mut ledger = ledger(1_000);
    ledger.handle_lane_up(1, 100);
    let room = ledger.room_for_many();
    let large: Bytes = vec![b'x'; 1 << 20].into();
    let copies = (0..room).map(|_| Publish {
        payload: large.clone(),
        ..publish("")
    });
    take(
        &mut ledger,
        message("to all", id(), 1),
        copies.collect(),
        Made::ForMany,
        Some(ack(1)),
    );
    assert_eq!(ledger.room_for_many(), 0);
    assert!(ledger.has_room(), "a payload that copies share counts once");
    insert(&mut ledger, 2, "direct", 1);
    assert_eq!(texts(&handed_out(&mut ledger)), ["direct"]);
    assert!(ledger.poll_publish(1, start()).is_some());
}

#[test]
fn what_is_made_in_steps_is_acknowledged_after_the_last() {
    let mut ledger = ledger(10);
    let entry = ledger.insert(message("a", id(), 1), Some(ack(1)));
    assert!(!ledger.is_empty());
    for _ in 0..2 {
        ledger.add(entry, vec![publish("step")], Made::Copies);
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
fn what_an_earlier_process_has_not_acknowledged_keeps_its_id() {
    let mut ledger = Ledger::new(1, 10, TIMEOUT);
    let (first, second) = (id(), id());
    ledger.expect(vec![(7, first), (8, second)]);
    ledger.handle_session_up(true);
    assert_eq!(ledger.admit(ack(1), 7, true), Admission::Repeated(first));
    assert_eq!(
        ledger.admit(ack(2), 99, true),
        Admission::New,
        "a receipt, say: it is stored nowhere"
    );
    assert_eq!(ledger.admit(ack(3), 8, true), Admission::Repeated(second));
    ledger.expect(vec![(7, first)]);
    assert_eq!(
        ledger.admit(ack(4), 7, false),
        Admission::New,
        "an equal text that is meant to be a second message"
    );
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
    // After a restart: a receipt, stored nowhere and so with a new id, came between two that keep theirs.
    take(
        &mut ledger,
        message("receipt", third, 1),
        vec![],
        Made::Copies,
        Some(ack(1)),
    );
    assert_eq!(ledger.settled_up_to(), Some(third));
    let entry = ledger.insert(message("again", second, 2), Some(ack(2)));
    assert_eq!(ledger.settled_up_to(), None, "the store would forget it");
    ledger.decided(entry);
    assert_eq!(ledger.settled_up_to(), Some(third));
    ledger.expect(vec![(3, first)]);
    assert_eq!(ledger.settled_up_to(), None, "it may still come again");
}

#[test]
fn one_timeline_stays_in_one_lane() {
    let mut ledger = Ledger::new(4, 10, TIMEOUT);
    let lanes: HashSet<usize> = (0..100)
        .map(|n| ledger.lane_of(&format!("apps/a/users/u{n}/messages/x/clientadded")))
        .collect();
    assert_eq!(lanes.len(), 4);
    assert_eq!(ledger.lane_of("a/b"), ledger.lane_of("a/b"));
    ledger.handle_session_up(false);
}

/// What may happen to a ledger.
#[derive(Clone, Debug)]
enum Step {
    Deliver {
        text: u8,
        copies: usize,
    },
    DeliverQos0 {
        copies: usize,
    },
    Decide(Made, bool),
    HandOut(usize),
    Confirm(usize),
    Refuse(usize),
    LaneLost(usize, LaneEnd),
    LaneUp(usize),
    SessionLost {
        broker_keeps: bool,
        acks_arrive: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..4_usize).prop_map(|(text, copies)| Step::Deliver { text, copies }),
        1 => (1..3_usize).prop_map(|copies| Step::DeliverQos0 { copies }),
        6 => (prop::sample::select(vec![Made::Copies, Made::ForMany]), any::<bool>()).prop_map(|(made, whole)| Step::Decide(made, whole)),
        6 => (0..3_usize).prop_map(Step::HandOut),
        8 => (0..50_usize).prop_map(Step::Confirm),
        1 => (0..50_usize).prop_map(Step::Refuse),
        1 => (0..3_usize, prop::sample::select(vec![LaneEnd::Closed, LaneEnd::TimedOut, LaneEnd::Unrelated])).prop_map(|(lane, end)| Step::LaneLost(lane, end)),
        2 => (0..3_usize).prop_map(Step::LaneUp),
        1 => (any::<bool>(), 0..5_usize).prop_map(|(broker_keeps, acks_arrive)| Step::SessionLost { broker_keeps, acks_arrive }),
    ]
}

/// A broker's view of one session, and the check of every promise at every step.
struct World {
    ledger: Ledger,
    lane_up: [bool; 3],
    connection: u64,
    next_message: u64,
    /// What the broker holds unacknowledged, in order: message, fingerprint, packet id on this connection if delivered.
    queue: VecDeque<(u64, u64)>,
    delivered: VecDeque<(u64, u16)>,
    /// Acks the broker has been sent on this connection but may lose.
    in_doubt: usize,
    /// Every forward ever begun: its fingerprint, the publishes it needs, and how many are confirmed.
    forwards: Vec<(u64, usize, usize)>,
    /// The messages acknowledged, by fingerprint.
    settled: HashMap<u64, HashSet<u64>>,
    under_way: Vec<(PublishId, usize)>,
    /// What waits for the store.
    undecided: VecDeque<(EntryId, Vec<Publish>)>,
    ids: MessageIds,
}

impl World {
    fn new() -> Self {
        let mut ledger = Ledger::new(2, 8, TIMEOUT);
        ledger.handle_session_up(false);
        Self {
            ledger,
            lane_up: [false; 3],
            undecided: VecDeque::new(),
            connection: 1,
            next_message: 0,
            queue: VecDeque::new(),
            delivered: VecDeque::new(),
            in_doubt: 0,
            forwards: vec![],
            settled: HashMap::new(),
            under_way: vec![],
            ids: MessageIds::new(RandomState::new()),
        }
    }

    fn publishes(forward: usize, copies: usize) -> Vec<Publish> {
        let one = |n| Publish {
            topic: TopicName::parse(&format!("to/{n}")).unwrap(),
            payload: Bytes::copy_from_slice(&forward.to_be_bytes()),
            user_properties: vec![],
            retain: false,
        };
        (0..copies).map(one).collect()
    }

    fn deliver(&mut self, message: u64, fingerprint: u64, copies: usize, dup: bool) {
        let packet_id = u16::try_from(self.delivered.len() + self.in_doubt + 1).unwrap();
        let ack = Ack {
            connection: self.connection,
            packet_id,
        };
        self.delivered.push_back((message, packet_id));
        let admission = self.ledger.admit(ack, fingerprint, dup);
        if admission != Admission::Resumed {
            let id = if let Admission::Repeated(id) = admission {
                id
            } else {
                self.ids.next(UnixMillis::new(1))
            };
            self.begin(id, fingerprint, copies, Some(ack));
        }
        self.take_acks();
    }

    fn begin(&mut self, id: MessageId, fingerprint: u64, copies: usize, ack: Option<Ack>) {
        let forward = self.forwards.len();
        self.forwards.push((fingerprint, copies, 0));
        let message = message(&forward.to_string(), id, fingerprint);
        let entry = self.ledger.insert(message, ack);
        self.undecided
            .push_back((entry, Self::publishes(forward, copies)));
    }

    /// The store has written something down: some of what a message leads to, or the last of it.
    fn decide(&mut self, made: Made, whole: bool) {
        let Some((entry, publishes)) = self.undecided.front_mut() else {
            return;
        };
        let all = if whole {
            publishes.len()
        } else {
            publishes.len() / 2
        };
        let some = publishes.drain(..all).collect();
        let entry = *entry;
        self.ledger.add(entry, some, made);
        if whole {
            self.undecided.pop_front();
            self.ledger.decided(entry);
        }
    }

    fn take_acks(&mut self) {
        while let Some(ack) = self.ledger.poll_ack() {
            assert_eq!(
                ack.connection, self.connection,
                "an ack of a connection that is gone"
            );
            let (message, packet_id) = self.delivered.pop_front().expect("an ack for nothing");
            assert_eq!(packet_id, ack.packet_id, "acks out of order");
            // Equal texts cannot be told apart, so they are counted: each message acknowledged has a complete forward of its own.
            let fingerprint = self
                .queue
                .iter()
                .find(|(queued, _)| *queued == message)
                .expect("the broker holds it")
                .1;
            let settled = self.settled.entry(fingerprint).or_default();
            settled.insert(message);
            let complete = self
                .forwards
                .iter()
                .filter(|(of, needed, confirmed)| *of == fingerprint && confirmed >= needed)
                .count();
            assert!(
                complete >= settled.len(),
                "{} acknowledged, {complete} forwarded",
                settled.len()
            );
            self.in_doubt += 1;
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Deliver { text, copies } => {
                if self.ledger.has_room() {
                    let message = self.next_message;
                    self.next_message += 1;
                    // Few texts, so that equal ones stand side by side.
                    self.queue
                        .push_back((message, u64::from(text) * 10 + copies as u64));
                    self.deliver(message, u64::from(text) * 10 + copies as u64, copies, false);
                }
            }
            Step::DeliverQos0 { copies } => {
                if self.ledger.has_room() {
                    let id = self.ids.next(UnixMillis::new(1));
                    self.begin(id, u64::MAX, copies, None);
                }
            }
            Step::Decide(made, whole) => self.decide(made, whole),
            Step::HandOut(lane) => {
                if let Some((id, publish)) = self.ledger.poll_publish(lane, start()) {
                    self.under_way.push((
                        id,
                        usize::from_be_bytes(publish.payload[..].try_into().unwrap()),
                    ));
                }
            }
            Step::Confirm(n) => {
                if !self.under_way.is_empty() {
                    let (id, forward) = self.under_way.swap_remove(n % self.under_way.len());
                    self.forwards[forward].2 += 1;
                    self.ledger.handle_confirmed(id);
                }
            }
            Step::Refuse(n) => {
                if !self.under_way.is_empty() {
                    let (id, _) = self.under_way.swap_remove(n % self.under_way.len());
                    self.ledger.handle_refused(id, Refusal::Unauthorized);
                }
            }
            Step::LaneLost(lane, end) => {
                if self.lane_up[lane] {
                    self.lane_up[lane] = false;
                    self.under_way.retain(|(id, _)| id.lane != lane);
                    self.ledger.handle_lane_down(lane, end);
                }
            }
            Step::LaneUp(lane) => {
                if !self.lane_up[lane] {
                    self.lane_up[lane] = true;
                    self.ledger.handle_lane_up(lane, 5);
                }
            }
            Step::SessionLost {
                broker_keeps,
                acks_arrive,
            } => self.lose_session(broker_keeps, acks_arrive),
        }
        while let Some(failed) = self.ledger.poll_failed() {
            // What was refused counts as answered.
            let forward: usize = std::str::from_utf8(&failed.received.payload)
                .unwrap()
                .parse()
                .unwrap();
            self.forwards[forward].2 += 1;
            self.ledger.resolve(failed, vec![]);
        }
        self.take_acks();
    }

    fn lose_session(&mut self, broker_keeps: bool, acks_arrive: usize) {
        let arrived = self.in_doubt.min(acks_arrive);
        self.queue.drain(..arrived);
        self.in_doubt = 0;
        self.delivered.clear();
        self.ledger.handle_session_lost();
        self.connection += 1;
        self.ledger.handle_session_up(broker_keeps);
        if !broker_keeps {
            self.queue.clear();
        }
        for (message, fingerprint) in self.queue.clone() {
            let copies = usize::try_from(fingerprint % 10).unwrap();
            self.deliver(message, fingerprint, copies, true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn no_ack_comes_early_twice_out_of_order_or_for_another_connection(steps in prop::collection::vec(step(), 0..120)) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        // Then the weather clears: everything is confirmed, so everything is acknowledged and nothing is left.
        for lane in 0..3 {
            world.run(&Step::LaneUp(lane));
        }
        for _ in 0..2_000 {
            world.run(&Step::Decide(Made::Copies, true));
            for lane in 0..3 {
                world.run(&Step::HandOut(lane));
            }
            world.run(&Step::Confirm(0));
        }
        prop_assert!(world.delivered.is_empty(), "not acknowledged: {:?}", world.delivered);
        prop_assert!(world.ledger.is_empty());
    }
}
