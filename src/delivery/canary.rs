//! Publishes of the observer's own that show which of its connections the broker serves.
//!
//! Owns when they are wanted, and what follows from those that are confirmed. They wait for nothing
//! and count for nothing. One is over when the broker has answered anything on its connection, or
//! that is gone.
//!
//! A broker under a resource alarm serves none of them. RabbitMQ 4.0.5 stops serving a single one,
//! for 65 seconds, on a publish to a quorum queue without a majority (seen): then a canary on that
//! connection is not confirmed, and others are.

use std::time::{Duration, Instant};

use crate::delivery::publish_queue::{Completed, QueuedPublish};
use crate::protocol::publish::Publish;

/// The sequence numbers of canaries count down from here: no queue gets so far.
const FIRST: u64 = u64::MAX;

/// One connection.
#[derive(Debug, Default)]
struct Connection {
    is_up: bool,
    /// Whether the broker takes a canary there beside another publish.
    has_room: bool,
    /// Whether the broker has answered a publish on it since the last tick.
    has_answered: bool,
    /// When it did so last, to the tick.
    answered: Option<Instant>,
    /// The one that is to go out, or is in flight.
    canary: Option<Canary>,
}

#[derive(Debug)]
struct Canary {
    sequence: u64,
    queued: QueuedPublish,
    /// When it was sent.
    sent: Option<Instant>,
}

/// At most one canary on each connection.
#[derive(Debug)]
pub(super) struct Canaries {
    connections: Vec<Connection>,
    next: u64,
    /// Those that are over and were not confirmed, until the next tick.
    over: Vec<Completed>,
}

impl Canaries {
    pub(super) fn new(connections: usize) -> Self {
        Self {
            connections: (0..connections).map(|_| Connection::default()).collect(),
            next: FIRST,
            over: vec![],
        }
    }

    /// A connection is up. If no more than one publish may be in flight there (`limit`), the broker
    /// may take no canary beside it.
    pub(super) fn handle_up(&mut self, publisher: usize, limit: usize) {
        self.connections[publisher] = Connection {
            is_up: true,
            has_room: limit > 1,
            ..Connection::default()
        };
    }

    /// A connection is gone.
    pub(super) fn handle_down(&mut self, publisher: usize) {
        let connection = std::mem::take(&mut self.connections[publisher]);
        let canary = connection.canary.map(|canary| canary.queued.completed());
        self.over.extend(canary);
    }

    /// The broker has answered something on a connection.
    pub(super) fn note_answer(&mut self, publisher: usize) {
        self.connections[publisher].has_answered = true;
    }

    /// To be called at each tick. Returns the canaries that are over.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Completed> {
        for connection in &mut self.connections {
            if std::mem::take(&mut connection.has_answered) {
                connection.answered = Some(now);
                let in_flight = |canary: &mut Canary| canary.sent.is_some();
                let canary = connection.canary.take_if(in_flight);
                self.over
                    .extend(canary.map(|canary| canary.queued.completed()));
            }
        }
        std::mem::take(&mut self.over)
    }

    /// Whether canaries are to be published: the broker has answered nothing on a connection for so
    /// long (`silent`), although the oldest publish there (`oldest`) was sent so long ago (`late`).
    /// Once more if a canary is not confirmed for as long, and nothing else was lately (`progress`:
    /// when it was last).
    pub(super) fn are_wanted(
        &self,
        oldest: impl Fn(usize) -> Option<Instant>,
        progress: Option<Instant>,
        (late, silent): (Duration, Duration),
        now: Instant,
    ) -> bool {
        let is_late = |sent| now >= sent + late;
        let is_silent = |answered: Option<Instant>| answered.is_none_or(|at| now >= at + silent);
        let connections = self.connections.iter().enumerate();
        let mut connections = connections.filter(|(_, connection)| connection.is_up);
        self.have_room()
            && connections.any(|(number, connection)| match &connection.canary {
                None => oldest(number).is_some_and(is_late) && is_silent(connection.answered),
                Some(canary) => canary.sent.is_some_and(is_late) && is_silent(progress),
            })
    }

    /// Takes out all.
    pub(super) fn take(&mut self) -> Vec<Completed> {
        for connection in &mut self.connections {
            let canary = connection.canary.take();
            self.over
                .extend(canary.map(|canary| canary.queued.completed()));
        }
        std::mem::take(&mut self.over)
    }

    /// Whether any connection is without one.
    pub(super) fn have_room(&self) -> bool {
        let mut up = self.connections.iter().filter(|one| one.is_up);
        up.any(|one| one.canary.is_none())
    }

    /// Publishes a canary on each connection that has none, and room for one (`is_idle`: whether
    /// nothing is in flight there): only beside others one shows something. Returns how many that
    /// are.
    pub(super) fn push(
        &mut self,
        queued: &QueuedPublish,
        is_idle: impl Fn(usize) -> bool,
    ) -> usize {
        let mut pushed = 0;
        for (number, connection) in self.connections.iter_mut().enumerate() {
            let has_room = connection.has_room || is_idle(number);
            if !connection.is_up || !has_room || connection.canary.is_some() {
                continue;
            }
            connection.canary = Some(Canary {
                sequence: self.next,
                queued: queued.clone(),
                sent: None,
            });
            self.next -= 1;
            pushed += 1;
        }
        pushed
    }

    /// Whether a canary is in flight on a connection.
    pub(super) fn is_in_flight(&self, publisher: usize) -> bool {
        self.sent(publisher).is_some()
    }

    /// When the canary was sent that is in flight on a connection.
    pub(super) fn sent(&self, publisher: usize) -> Option<Instant> {
        let canary = self.connections[publisher].canary.as_ref();
        canary.and_then(|canary| canary.sent)
    }

    /// Whether a canary is to go out on a connection.
    pub(super) fn waits(&self, publisher: usize) -> bool {
        let canary = self.connections[publisher].canary.as_ref();
        canary.is_some_and(|canary| canary.sent.is_none())
    }

    /// The canary of a connection, and its sequence number. It is in flight from here on.
    pub(super) fn poll(&mut self, publisher: usize, now: Instant) -> Option<(u64, &Publish)> {
        let connection = &mut self.connections[publisher];
        // What is answered from here on counts.
        connection.has_answered = false;
        let canary = connection.canary.as_mut()?;
        canary.sent = Some(now);
        Some((canary.sequence, &canary.queued.publish))
    }

    /// Takes out a canary that is confirmed or refused, and says when it was sent. `None` if it is
    /// none.
    pub(super) fn complete(
        &mut self,
        publisher: usize,
        sequence: u64,
    ) -> Option<(Completed, Instant)> {
        let is_it = |canary: &mut Canary| canary.sequence == sequence && canary.sent.is_some();
        let canary = self.connections[publisher].canary.take_if(is_it)?;
        Some((canary.queued.completed(), canary.sent?))
    }

    /// The connections that the broker does not serve, although it serves others: nothing has been
    /// answered there since the canary was sent, `patience` of that connection ago, and something
    /// was elsewhere in the second half of that time (`progress`: when it was last).
    pub(super) fn stopped(
        &self,
        patience: impl Fn(usize) -> Duration,
        progress: Option<Instant>,
        now: Instant,
    ) -> Vec<usize> {
        let is_stopped = |number: usize, connection: &Connection| {
            let (canary, patience) = (connection.canary.as_ref(), patience(number));
            canary.and_then(|canary| canary.sent).is_some_and(|sent| {
                now >= sent + patience && progress.is_some_and(|at| at >= sent + patience / 2)
            })
        };
        let connections = self.connections.iter().enumerate();
        let stopped = connections.filter(|(number, one)| is_stopped(*number, one));
        stopped.map(|(number, _)| number).collect()
    }
}
