//! A model of a broker, and steps in any order: no ack comes early, twice, out of order or for
//! another connection.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use proptest::prelude::*;

use super::*;
use crate::delivery::publish_queue::PublisherEnd;

/// Two direct ones, one for bulk copies, one for what is in quarantine.
const PUBLISHERS: usize = 4;

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
    Decide(Purpose, bool),
    /// The last of it, in the transaction that logs it.
    Log(Purpose),
    HandOut(usize),
    Confirm(usize),
    /// Messages are read from the log, if some are left there.
    ReadLeft,
    Refuse(usize),
    PublisherLost(usize, PublisherEnd),
    PublisherUp(usize),
    /// So many seconds pass, and unconfirmed publishes are looked for.
    Tick(u64),
    SessionLost {
        broker_keeps: bool,
        acks_arrive: usize,
    },
}

fn purpose() -> impl Strategy<Value = Purpose> {
    prop::sample::select(vec![Purpose::Copy, Purpose::BulkCopy])
}

fn end() -> impl Strategy<Value = PublisherEnd> {
    prop::sample::select(vec![PublisherEnd::Closed, PublisherEnd::Unrelated])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4_u8, 0..4_usize).prop_map(|(text, copies)| Step::Deliver { text, copies }),
        1 => (1..3_usize).prop_map(|copies| Step::DeliverQos0 { copies }),
        6 => (purpose(), any::<bool>()).prop_map(|(purpose, whole)| Step::Decide(purpose, whole)),
        3 => purpose().prop_map(Step::Log),
        6 => (0..PUBLISHERS).prop_map(Step::HandOut),
        8 => (0..50_usize).prop_map(Step::Confirm),
        2 => Just(Step::ReadLeft),
        1 => (0..50_usize).prop_map(Step::Refuse),
        1 => (0..PUBLISHERS, end()).prop_map(|(lost, end)| Step::PublisherLost(lost, end)),
        2 => (0..PUBLISHERS).prop_map(Step::PublisherUp),
        2 => (1..40_u64).prop_map(Step::Tick),
        1 => (any::<bool>(), 0..5_usize).prop_map(|(broker_keeps, acks_arrive)| {
            Step::SessionLost { broker_keeps, acks_arrive }
        }),
    ]
}

#[derive(Debug)]
struct Forward {
    id: MessageId,
    fingerprint: u64,
    /// How many publishes it needs.
    needed: usize,
    confirmed: usize,
    /// Whether the delivery log holds it.
    logged: bool,
}

impl Forward {
    fn is_complete(&self) -> bool {
        self.confirmed >= self.needed
    }
}

/// The number of a forward is the text of its message.
fn forward_of(received: &Received) -> usize {
    str::from_utf8(&received.payload).unwrap().parse().unwrap()
}

/// A broker's view of one session, and the check of every promise at every step.
struct World {
    ledger: Ledger,
    publisher_up: [bool; PUBLISHERS],
    connection: u64,
    next_message: u64,
    /// What the broker holds unacknowledged, in order: message and fingerprint.
    queue: VecDeque<(u64, u64)>,
    /// What it has delivered on this connection: message and packet identifier.
    delivered: VecDeque<(u64, u16)>,
    /// Acks the broker has been sent on this connection but may lose.
    in_doubt: usize,
    /// Every forward ever begun.
    forwards: Vec<Forward>,
    /// The messages acknowledged, by fingerprint.
    settled: HashMap<u64, HashSet<u64>>,
    under_way: Vec<(PublishId, usize)>,
    /// What waits for the store.
    undecided: VecDeque<(EntryId, Vec<Publish>)>,
    /// What the delivery log holds, with the publishes that may be left to it.
    log: BTreeMap<MessageId, Vec<Publish>>,
    ids: MessageIds,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let mut ledger = Ledger::new(2, 8, TIMEOUT);
        ledger.limit_quarantine(2);
        ledger.handle_session_up(false);
        Self {
            ledger,
            publisher_up: [false; PUBLISHERS],
            undecided: VecDeque::new(),
            connection: 1,
            next_message: 0,
            queue: VecDeque::new(),
            delivered: VecDeque::new(),
            in_doubt: 0,
            forwards: vec![],
            settled: HashMap::new(),
            under_way: vec![],
            log: BTreeMap::new(),
            ids: MessageIds::new(RandomState::new()),
            now: start(),
        }
    }

    fn publishes(forward: usize, copies: usize) -> Vec<Publish> {
        let one = |n| Publish {
            topic: TopicName::parse(&format!("to/{n}")).unwrap(),
            payload: Bytes::copy_from_slice(&forward.to_be_bytes()),
            user_properties: vec![],
            retain: false,
            copy_status: None,
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
        self.forwards.push(Forward {
            id,
            fingerprint,
            needed: copies,
            confirmed: 0,
            logged: false,
        });
        let message = message(&forward.to_string(), id, fingerprint);
        let entry = self.ledger.insert(message, ack);
        self.undecided
            .push_back((entry, Self::publishes(forward, copies)));
    }

    /// The store has written something down: some of what a message leads to, or the last of it.
    fn decide(&mut self, purpose: Purpose, whole: bool) {
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
        self.ledger.add(entry, some, purpose);
        if whole {
            self.undecided.pop_front();
            self.ledger.decided(entry);
        }
    }

    /// The store has written down all of what a message leads to, and logged it.
    fn log(&mut self, purpose: Purpose) {
        if let Some((entry, publishes)) = self.undecided.pop_front() {
            let (received, _) = self.ledger.message(entry);
            let forward = &mut self.forwards[forward_of(received)];
            forward.logged = true;
            let logged = match purpose {
                Purpose::Copy | Purpose::Notice => publishes.clone(),
                Purpose::BulkCopy => vec![],
            };
            self.log.insert(forward.id, logged);
            self.ledger.logged(entry);
            self.ledger.add(entry, publishes, purpose);
            self.ledger.decided(entry);
        }
    }

    /// The log may forget a message only when everything made of it is confirmed.
    fn check_log(&mut self) {
        for id in self.ledger.take_published() {
            let mut forwards = self.forwards.iter();
            assert!(
                forwards.all(|forward| forward.id != id || forward.is_complete()),
                "forgotten too early: {id}"
            );
            self.log.remove(&id);
        }
    }

    /// The store has read two messages of the log.
    fn read_left(&mut self) {
        let Some(read) = self.ledger.next_left(None) else {
            return;
        };
        let above = (Bound::Excluded(read.after), Bound::Unbounded);
        let page: Vec<_> = self.log.range(above).take(2).collect();
        let up_to = page.last().map(|(id, _)| **id);
        let is_last = page.len() < 2;
        for (id, publishes) in page {
            let publishes = publishes.iter();
            let publishes = publishes.filter(|publish| publish.topic.as_str() == read.topic);
            let publishes: Vec<_> = publishes
                .map(|publish| (Purpose::Copy, publish.clone()))
                .collect();
            if let Some((_, publish)) = publishes.first() {
                let forward = usize::from_be_bytes(publish.payload[..].try_into().unwrap());
                let message = message(&forward.to_string(), *id, 0);
                self.ledger.handle_read(message, publishes);
            }
        }
        self.ledger.handle_read_up_to(&read.topic, up_to, is_last);
    }

    fn take_acks(&mut self) {
        while let Some(ack) = self.ledger.poll_ack() {
            assert_eq!(
                ack.connection, self.connection,
                "an ack of a connection that is gone"
            );
            let (message, packet_id) = self.delivered.pop_front().expect("an ack for nothing");
            assert_eq!(packet_id, ack.packet_id, "acks out of order");
            // Equal texts cannot be told apart, so they are counted: each message acknowledged has
            // a forward of its own that is complete or logged.
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
                .filter(|forward| forward.fingerprint == fingerprint)
                .filter(|forward| forward.logged || forward.is_complete())
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
            Step::Log(purpose) => self.log(purpose),
            Step::HandOut(publisher) => {
                if let Some((id, publish)) = self.ledger.poll_publish(publisher, self.now) {
                    self.under_way.push((
                        id,
                        usize::from_be_bytes(publish.payload[..].try_into().unwrap()),
                    ));
                }
            }
            Step::Confirm(n) => {
                if !self.under_way.is_empty() {
                    let (id, forward) = self.under_way.swap_remove(n % self.under_way.len());
                    self.forwards[forward].confirmed += 1;
                    self.ledger.handle_confirmed(id);
                }
            }
            Step::ReadLeft => self.read_left(),
            Step::Refuse(n) => {
                if !self.under_way.is_empty() {
                    let (id, _) = self.under_way.swap_remove(n % self.under_way.len());
                    self.ledger.handle_refused(id, Refusal::Unauthorized);
                }
            }
            Step::PublisherLost(publisher, end) => {
                if self.publisher_up[publisher] {
                    self.publisher_up[publisher] = false;
                    self.under_way.retain(|(id, _)| id.publisher != publisher);
                    self.ledger.handle_publisher_down(publisher, end);
                }
            }
            Step::PublisherUp(publisher) => {
                if !self.publisher_up[publisher] {
                    self.publisher_up[publisher] = true;
                    self.ledger.handle_publisher_up(publisher, 5);
                }
            }
            Step::Tick(seconds) => self.tick(seconds),
            Step::SessionLost {
                broker_keeps,
                acks_arrive,
            } => self.lose_session(broker_keeps, acks_arrive),
        }
        while let Some(failed) = self.ledger.poll_failed() {
            // What was refused counts as answered.
            self.forwards[forward_of(&failed.received)].confirmed += 1;
            self.ledger.resolve(failed, vec![]);
        }
        self.take_acks();
        self.check_log();
    }

    fn tick(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        let replace = self.ledger.set_apart(self.now).replace;
        for publisher in 0..PUBLISHERS {
            let is_worn = self.ledger.is_worn(publisher) && self.ledger.in_flight(publisher) == 0;
            if self.publisher_up[publisher] && (is_worn || replace.contains(&publisher)) {
                self.run(&Step::PublisherLost(publisher, PublisherEnd::Unrelated));
                self.run(&Step::PublisherUp(publisher));
            }
        }
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
    fn no_ack_comes_early_twice_out_of_order_or_for_another_connection(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        // Then nothing fails any more: everything is confirmed, so everything is acknowledged and
        // nothing is left.
        for publisher in 0..PUBLISHERS {
            world.run(&Step::PublisherUp(publisher));
        }
        for _ in 0..2_000 {
            world.run(&Step::Decide(Purpose::Copy, true));
            for publisher in 0..PUBLISHERS {
                world.run(&Step::HandOut(publisher));
            }
            world.run(&Step::Confirm(0));
            world.run(&Step::ReadLeft);
        }
        prop_assert!(world.delivered.is_empty(), "not acknowledged: {:?}", world.delivered);
        prop_assert!(world.ledger.is_empty());
        prop_assert!(world.log.is_empty(), "not forgotten: {:?}", world.log);
    }
}
