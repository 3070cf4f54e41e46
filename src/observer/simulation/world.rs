//! Everything that can happen, in an order that a number decides.

mod publishers;
mod whole;

use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::account::{Account, BAD};
use super::broker::{Down, Line, Marks, Session};
use super::process::{PUBLISHERS, Process, WINDOW, topics};
use crate::connections::session::SessionEvent;
use crate::mqtt::far_end::{FarEnd, Packet};
use crate::mqtt::{Cause, Connected, LinkError, Protocol};
use crate::protocol::time::UnixMillis;
use crate::rules::router::Router;
use crate::store::Store;
use crate::telemetry::Metrics;
use crate::telemetry::clock::{Now, virtual_time};

/// Ticks between two pings.
const PING_EVERY: u64 = 4;
const TICK: Duration = Duration::from_millis(500);
/// Ticks after which a connection that is dead is given up.
const DEAD_FOR: u64 = 8;
/// Ticks in which everything has to come to rest once nothing fails any more.
const REST: usize = 4_000;
/// Other texts for the same two users, before one comes again.
const TEXTS: u32 = 4;

/// What happens in a step.
#[derive(Clone, Copy, Debug)]
enum Event {
    UserWrites,
    BrokerDelivers,
    ObserverReads,
    BrokerReadsSession,
    BrokerReads,
    BrokerConfirms,
    ObserverHears,
    StoreCommits,
    ServiceAnswers,
    Tick,
    SessionUp,
    PublisherUp,
    Fault,
}

/// How often each event happens, in proportion. Each run has more of some and less of others.
const WEIGHTS: [(Event, u32); 12] = [
    (Event::UserWrites, 130),
    (Event::BrokerDelivers, 160),
    (Event::ObserverReads, 150),
    (Event::BrokerReadsSession, 100),
    (Event::BrokerReads, 300),
    (Event::BrokerConfirms, 200),
    (Event::ObserverHears, 200),
    (Event::StoreCommits, 80),
    (Event::Tick, 6),
    (Event::SessionUp, 12),
    (Event::PublisherUp, 16),
    (Event::Fault, 10),
];

/// How often the decision service answers, if there is one: late.
const ANSWERS: u32 = 120;

/// What may fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Faults {
    /// The session's connection may carry nothing for seconds before its end.
    pub(super) dead_lines: bool,
    /// A decision service takes its time.
    pub(super) decisions: bool,
}

/// The session's connection.
struct SessionLine {
    line: Line,
    number: u64,
    dead_since: Option<u64>,
}

pub(super) struct World {
    rng: fastrand::Rng,
    weights: [(Event, u32); WEIGHTS.len()],
    faults: Faults,
    began: Instant,
    passed: Duration,
    since_tick: Duration,
    wall_ahead: u64,
    ticks: u64,
    router: Router,
    metrics: Metrics,
    /// `None` only while it is killed.
    process: Option<Process>,
    connections: u64,
    session_line: Option<SessionLine>,
    lines: [Option<(Line, CancellationToken)>; PUBLISHERS],
    session: Session,
    account: Account,
    marks: Marks,
    /// The broker takes no publishes.
    alarm: bool,
    /// The broker does not take what goes to some users.
    bad: bool,
    /// Connections that the broker may yet close for no reason.
    closes: u8,
    /// How much texts differ: a session that is lost begins others.
    epoch: u32,
    texts: u32,
    probe: String,
    permits: Arc<Semaphore>,
    /// Whether to tell what happens (`SIMULATION_TELLS`).
    tells: bool,
}

impl World {
    pub(super) fn new(
        (seed, began): (u64, Instant),
        faults: Faults,
        (store, router, metrics): (Box<dyn Store>, &Router, &Metrics),
    ) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let marks = match rng.bool() {
            true => Marks::Delivered,
            false => Marks::Known,
        };
        let weights = WEIGHTS.map(|(event, weight)| (event, weight << rng.u32(0..3)));
        let mut world = Self {
            weights,
            faults,
            began,
            passed: Duration::ZERO,
            since_tick: Duration::ZERO,
            wall_ahead: 0,
            ticks: 0,
            router: router.clone(),
            metrics: metrics.clone(),
            process: None,
            connections: 0,
            session_line: None,
            lines: std::array::from_fn(|_| None),
            session: Session::new(marks),
            account: Account::default(),
            marks,
            alarm: false,
            bad: false,
            closes: 1,
            epoch: 0,
            texts: 0,
            probe: topics().probe.as_str().to_owned(),
            permits: Arc::new(Semaphore::new(1)),
            tells: std::env::var_os("SIMULATION_TELLS").is_some(),
            rng,
        };
        world.set_time();
        world.process = Some(Process::start(store, (router, metrics), faults.decisions));
        world
    }

    fn process(&mut self) -> &mut Process {
        self.process
            .as_mut()
            .expect("it is killed for a moment only")
    }

    fn set_time(&self) {
        let wall = 1_800_000_000_000 + self.wall_ahead;
        let millis = u64::try_from(self.passed.as_millis()).unwrap();
        virtual_time::set(Some(Now {
            instant: self.began + self.passed,
            wall: UnixMillis::new(wall + millis),
        }));
    }

    /// Something happens.
    pub(super) fn step(&mut self) {
        let millis = self.rng.u64(0..3);
        self.pass(Duration::from_millis(millis));
        match self.next_event() {
            Event::UserWrites => self.user_writes(),
            Event::BrokerDelivers => self.broker_delivers(),
            Event::ObserverReads => self.observer_reads(),
            Event::BrokerReadsSession => {
                self.broker_reads_session();
            }
            Event::BrokerReads => self.broker_reads(),
            Event::BrokerConfirms => self.broker_confirms(),
            Event::ObserverHears => self.observer_hears(),
            Event::StoreCommits => self.store_commits(),
            Event::ServiceAnswers => self.service_answers(),
            Event::Tick => self.tick(),
            Event::SessionUp => self.session_up(),
            Event::PublisherUp => self.publisher_up(),
            Event::Fault => self.fault(),
        }
        self.act(usize::MAX);
        self.look();
    }

    fn next_event(&mut self) -> Event {
        let all: u32 = self.weights.iter().map(|(_, weight)| weight).sum();
        let answers = if self.faults.decisions { ANSWERS } else { 0 };
        let mut at = self.rng.u32(0..all + answers);
        for (event, weight) in self.weights {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return event,
            }
        }
        Event::ServiceAnswers
    }

    /// Notes what was reached.
    fn look(&mut self) {
        let observer = &self.process.as_ref().expect("it runs").observer;
        let reached = &mut self.account.reached;
        reached.backlog |= observer.processing.backlog().after().is_some();
        reached.quarantine |= observer.ledger.quarantined() > 0;
        reached.left |= observer.ledger.left_bytes() > 0;
        reached.crowd |= observer.ledger.has_left_crowd();
        reached.fan_out |= observer.processing.fan_outs() > 0;
        reached.no_room |= !observer.has_room();
        let ledger = &observer.ledger;
        let under_way = (ledger.unconfirmed(), ledger.unacknowledged());
        let apart = (ledger.quarantined(), ledger.left_bytes());
        (self.passed, under_way, apart, observer.has_room()).hash(&mut self.account.trace);
    }

    fn fault(&mut self) {
        let fault = self.rng.u32(0..20);
        tell(self.tells, self.passed, format_args!("fault {fault}"));
        match fault {
            0..4 => self.session_lost(false),
            4..8 => {
                let publisher = self.rng.usize(0..PUBLISHERS);
                self.publisher_lost(publisher, Cause::TimedOut);
            }
            8 => {
                let publisher = self.rng.usize(0..PUBLISHERS);
                if self.closes > 0 {
                    self.closes -= 1;
                    self.publisher_lost(publisher, Cause::Closed);
                }
            }
            9..12 => self.kill(),
            12 => self.broker_crashes(),
            13 => self.alarm ^= true,
            14 => self.bad ^= true,
            15 => {
                let forgets = self.rng.u8(0..4) == 0;
                self.session_lost(forgets);
            }
            16 => self.wall_ahead = self.rng.u64(0..30_000),
            17 => self.silence(),
            18 => self.renew(),
            _ if self.faults.dead_lines => {
                if let Some(session) = &mut self.session_line {
                    session.line.is_dead = true;
                    session.dead_since.get_or_insert(self.ticks);
                }
            }
            _ => {}
        }
    }

    fn act(&mut self, mut most: usize) {
        self.process().act();
        for (line, _) in self.lines.iter_mut().flatten() {
            line.send(&mut most);
        }
        if let Some(session) = &mut self.session_line {
            session.line.send(&mut most);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        self.since_tick += time;
        self.set_time();
        if self.since_tick >= TICK {
            self.tick();
        }
    }

    /// Time in which nobody writes, and nothing else happens.
    fn silence(&mut self) {
        for _ in 0..self.rng.usize(0..100) {
            self.pass(TICK);
            self.act(usize::MAX);
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.since_tick = Duration::ZERO;
        self.set_time();
        // Within a second an ack has arrived, unless its connection is dead.
        while self.broker_reads_session() {}
        self.process().observer.tick();
        self.act(usize::MAX);
        if let Some(session) = &mut self.session_line {
            let dead_for = session.dead_since.map(|since| self.ticks - since);
            if dead_for.is_some_and(|ticks| ticks > DEAD_FOR) {
                self.session_lost(false);
            } else if self.ticks.is_multiple_of(PING_EVERY) {
                session.line.far_end.ping();
            }
        }
        for publisher in 0..PUBLISHERS {
            let line = &self.lines[publisher];
            if line
                .as_ref()
                .is_some_and(|(_, recycle)| recycle.is_cancelled())
            {
                self.publisher_lost(publisher, Cause::TimedOut);
            }
        }
    }
}

/// Users and the session.
impl World {
    fn user_writes(&mut self) {
        let from = format!("u{}", self.rng.u8(0..3));
        let (to, members) = match self.rng.u8(0..40) {
            0 => (
                format!("group-{}", self.rng.u8(0..2)),
                self.rng.usize(33..80),
            ),
            1..4 => (BAD[self.rng.usize(0..2)].to_owned(), 0),
            _ => (format!("u{}", self.rng.u8(0..3)), 0),
        };
        self.texts += 1;
        let text = match self.marks {
            Marks::Known if members == 0 => self.rng.u32(0..TEXTS),
            Marks::Known | Marks::Delivered => TEXTS + self.texts,
        };
        let text = format!("{} {text}", self.epoch);
        let (received, number) = self.account.publish((&from, &to), &text, members);
        tell(
            self.tells,
            self.passed,
            format_args!("{from} writes {text:?} to {to}"),
        );
        self.session.publish(received, Some(number));
    }

    fn broker_delivers(&mut self) {
        if let Some(session) = &mut self.session_line
            && let Some(delivery) = self.session.deliver(WINDOW)
        {
            session.line.down.push_back(Down::Message(delivery));
        }
    }

    fn observer_reads(&mut self) {
        let Some(session) = &mut self.session_line else {
            return;
        };
        let process = self.process.as_mut().expect("it runs");
        let may_read = process.may_read() && !session.line.is_dead;
        match session.line.down.front() {
            Some(Down::Message(_)) if !may_read => {}
            None | Some(Down::Confirmed(_)) => {}
            Some(Down::Pong) => {
                if !session.line.is_dead {
                    session.line.far_end.ping_answered();
                    session.line.down.pop_front();
                }
            }
            Some(Down::Message(delivery)) => {
                let (id, dup) = (delivery.packet_id, delivery.dup);
                let text = String::from_utf8_lossy(&delivery.received.payload).into_owned();
                let read = format_args!("read {id:?} dup {dup} {text:.40}");
                tell(self.tells, self.passed, read);
                self.session.mark_known(delivery.packet_id.expect("QoS 1"));
                let permit = self.permits.clone().try_acquire_owned().unwrap();
                let event = SessionEvent::Message {
                    delivery: delivery.clone(),
                    read_at: process.observer.clock.now().instant,
                    share: permit,
                };
                session.line.down.pop_front();
                process.observer.handle_session(event);
            }
        }
    }

    /// Returns whether there was something to read.
    fn broker_reads_session(&mut self) -> bool {
        let Some(session) = &mut self.session_line else {
            return false;
        };
        if session.line.is_dead {
            return false;
        }
        match session.line.up.pop_front() {
            Some(Packet::Ack(packet_id)) => {
                tell(self.tells, self.passed, format_args!("acked {packet_id}"));
                if let Some(number) = self.session.acknowledge(packet_id).number {
                    self.account.acknowledged(number);
                }
            }
            Some(Packet::Ping) => session.line.down.push_back(Down::Pong),
            Some(Packet::Publish { .. }) => panic!("the session publishes"),
            Some(Packet::Disconnect) | None => return false,
        }
        true
    }

    fn session_up(&mut self) {
        if self.session_line.is_some() {
            return;
        }
        self.connections += 1;
        tell(self.tells, self.passed, format_args!("session up"));
        let connected = connected(true);
        let (client, far_end) = FarEnd::new(&connected);
        let number = self.connections;
        self.session_line = Some(SessionLine {
            line: Line::new(far_end),
            number,
            dead_since: None,
        });
        let observer = &mut self.process().observer;
        observer.handle_session(SessionEvent::Up {
            connection: number,
            client,
            connected,
        });
        observer.handle_session(SessionEvent::Subscribed { connection: number });
        // The message by which a session proves itself is not simulated.
        observer.inbound.handle_session_proved();
    }

    /// Some of what is on the way arrives before the connection ends.
    fn session_ends(&mut self) -> bool {
        if self.session_line.is_none() {
            return false;
        }
        for _ in 0..self.rng.usize(0..6) {
            self.broker_reads_session();
        }
        for _ in 0..self.rng.usize(0..6) {
            self.observer_reads();
        }
        if let Some(session) = self.session_line.take() {
            session.line.far_end.end();
        }
        let first = self.rng.u16(0..1_000);
        self.session.handle_lost(first);
        true
    }

    fn session_lost(&mut self, forgets: bool) {
        if !self.session_ends() {
            return;
        }
        let error = LinkError::new(Cause::TimedOut, "simulated");
        self.process()
            .observer
            .handle_session(SessionEvent::Down(error));
        if forgets {
            self.forget_session();
        }
    }

    /// The session is lost while the observer is away. It gets a new one.
    fn forget_session(&mut self) {
        self.session.forget();
        self.epoch += 1;
        self.connections += 1;
        let connected = connected(false);
        let (client, far_end) = FarEnd::new(&connected);
        let number = self.connections;
        self.session_line = Some(SessionLine {
            line: Line::new(far_end),
            number,
            dead_since: None,
        });
        self.process().observer.handle_session(SessionEvent::Up {
            connection: number,
            client,
            connected,
        });
    }

    /// The connection is replaced as planned: the broker reads everything before it closes.
    fn renew(&mut self) {
        let Some(session) = &self.session_line else {
            return;
        };
        if session.line.is_dead {
            return;
        }
        let connection = session.number;
        let renewing = SessionEvent::Renewing { connection };
        self.process().observer.handle_session(renewing);
        self.act(usize::MAX);
        while self.broker_reads_session() {}
        if let Some(session) = self.session_line.take() {
            session.line.far_end.end();
        }
        let first = self.rng.u16(0..1_000);
        self.session.handle_lost(first);
        let error = LinkError::new(Cause::Renewed, "simulated");
        let observer = &mut self.process().observer;
        observer.handle_session(SessionEvent::AcksArrived);
        observer.handle_session(SessionEvent::Down(error));
    }
}

#[expect(
    clippy::print_stdout,
    reason = "for whoever looks for what a seed has found"
)]
fn tell(tells: bool, passed: Duration, what: std::fmt::Arguments<'_>) {
    if tells {
        println!("{:>8.3} {what}", passed.as_secs_f64());
    }
}

fn connected(session_present: bool) -> Connected {
    Connected {
        protocol: Protocol::V311,
        session_present,
        receive_maximum: 2 * WINDOW,
        max_packet_bytes: None,
        session_expiry: None,
        server_keep_alive: None,
    }
}
