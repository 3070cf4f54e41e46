//! A model of a broker: one session with its messages, and connections that lose what is on the
//! way.

use std::collections::VecDeque;

use crate::delivery::audit::MessageNumber;
use crate::mqtt::Delivery;
use crate::mqtt::far_end::{FarEnd, Packet};
use crate::protocol::message::Received;

/// A message that a user has published, or the observer to itself.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) received: Received,
    /// `None`: it is the observer's own.
    pub(super) number: Option<MessageNumber>,
    /// Whether it was put on a connection.
    is_delivered: bool,
    /// Whether the observer has read it, and has not been killed since, or has stored it.
    is_known: bool,
    is_stored: bool,
}

/// Which messages are marked DUP when they come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// What was put on a connection, as brokers do. The observer cannot tell then an equal text
    /// that it never saw from one that it has acknowledged.
    Delivered,
    /// What the observer knows. Then equal texts can be told apart.
    Known,
}

/// The session of the observer, as the broker keeps it.
#[derive(Debug)]
pub(super) struct Session {
    marks: Marks,
    waiting: VecDeque<Queued>,
    /// Delivered on this connection and not acknowledged.
    delivered: VecDeque<(u16, Queued)>,
    last_packet_id: u16,
}

impl Session {
    pub(super) fn new(marks: Marks) -> Self {
        Self {
            marks,
            waiting: VecDeque::new(),
            delivered: VecDeque::new(),
            last_packet_id: 0,
        }
    }

    pub(super) fn publish(&mut self, received: Received, number: Option<MessageNumber>) {
        self.waiting.push_back(Queued {
            received,
            number,
            is_delivered: false,
            is_known: false,
            is_stored: false,
        });
    }

    /// The next message for the connection, if it may have another one.
    pub(super) fn deliver(&mut self, window: usize) -> Option<Delivery> {
        if self.delivered.len() >= window {
            return None;
        }
        let mut queued = self.waiting.pop_front()?;
        self.last_packet_id = self.last_packet_id % 1_000 + 1;
        let delivery = Delivery {
            received: queued.received.clone(),
            packet_id: Some(self.last_packet_id),
            dup: match self.marks {
                Marks::Delivered => queued.is_delivered,
                Marks::Known => queued.is_known,
            },
        };
        queued.is_delivered = true;
        self.delivered.push_back((self.last_packet_id, queued));
        Some(delivery)
    }

    /// PUBACK. The message is the observer's now.
    pub(super) fn acknowledge(&mut self, packet_id: u16) -> Queued {
        let is_it = |(id, _): &(u16, Queued)| *id == packet_id;
        let at = self.delivered.iter().position(is_it);
        assert_eq!(at, Some(0), "acknowledged out of order, or twice");
        let (_, queued) = self.delivered.pop_front().unwrap();
        queued
    }

    /// The connection is gone: what was not acknowledged comes again, before anything else, and
    /// under other packet identifiers.
    pub(super) fn handle_lost(&mut self, first_packet_id: u16) {
        while let Some((_, queued)) = self.delivered.pop_back() {
            self.waiting.push_front(queued);
        }
        self.last_packet_id = first_packet_id;
    }

    /// The observer has read a message.
    pub(super) fn mark_known(&mut self, packet_id: u16) {
        let mut delivered = self.delivered.iter_mut();
        if let Some((_, queued)) = delivered.find(|(id, _)| *id == packet_id) {
            queued.is_known = true;
        }
    }

    /// The observer has stored a message. It still has the broker's bytes.
    pub(super) fn mark_stored(&mut self, stored: &Received) {
        let delivered = self.delivered.iter_mut().map(|(_, queued)| queued);
        for queued in delivered.chain(&mut self.waiting) {
            queued.is_stored |= queued.received.payload.as_ptr() == stored.payload.as_ptr();
        }
    }

    /// The observer is killed: what it has not stored, it does not know.
    pub(super) fn handle_kill(&mut self) {
        let delivered = self.delivered.iter_mut().map(|(_, queued)| queued);
        for queued in delivered.chain(&mut self.waiting) {
            queued.is_known &= queued.is_stored;
        }
    }

    /// The session is lost, with all that waits in it.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
        self.delivered.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.delivered.is_empty()
    }
}

/// What the broker sends.
#[derive(Clone, Debug)]
pub(super) enum Down {
    Message(Delivery),
    Confirmed(u16),
    Pong,
}

/// One connection, and what is on the way on it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) far_end: FarEnd,
    /// From the observer to the broker.
    pub(super) up: VecDeque<Packet>,
    /// From the broker to the observer.
    pub(super) down: VecDeque<Down>,
    /// Publishes that the broker has taken and not confirmed.
    pub(super) taken: Vec<u16>,
    /// Nothing arrives any more, in either direction.
    pub(super) is_dead: bool,
}

impl Line {
    pub(super) fn new(far_end: FarEnd) -> Self {
        Self {
            far_end,
            up: VecDeque::new(),
            down: VecDeque::new(),
            taken: vec![],
            is_dead: false,
        }
    }

    /// Puts on the way what the observer wants written; of it, the first `most` packets.
    pub(super) fn send(&mut self, most: &mut usize) {
        while let Some(packet) = self.far_end.next() {
            if *most > 0 {
                *most -= 1;
                self.up.push_back(packet);
            }
        }
    }
}
