//! What is to be written, in order: the client puts it in, the connection takes it out.
//!
//! Owns the packet identifiers, and how many publishes the broker takes at a time. Leaves encoding
//! to `v4.rs` and `v5.rs`. Nothing here is larger than what was handed over: payloads are shared
//! with whoever did.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Waker};

use bytes::Bytes;

use super::error::SubmitError;
use super::packet_ids::{PacketIds, Purpose};
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter};

/// QoS 0 publishes that may wait to be written. More are dropped.
const MAX_UNCONFIRMED: usize = 1_000;
/// Packet identifiers that are kept for SUBSCRIBE and UNSUBSCRIBE, however many the broker takes.
const NOT_FOR_PUBLISHES: usize = 500;

/// A packet to be written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outgoing {
    Publish {
        /// 0 at QoS 0.
        packet_id: u16,
        message: Message,
    },
    Ack(u16),
    Subscribe {
        packet_id: u16,
        filters: Vec<Subscription>,
    },
    Unsubscribe {
        packet_id: u16,
        filter: TopicFilter,
    },
    Ping,
    Disconnect,
}

/// Why a PINGREQ goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PingFor {
    /// It is due in each keep alive.
    KeepAlive,
    /// The client wants to know whether the broker has read the acks before it.
    Acks,
}

/// Pings of one connection and for one purpose. An answer proves that the broker has read
/// everything that was handed over before its ping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pings {
    /// How many were handed over to be written.
    pub asked: u64,
    /// How many of them the broker has answered: the first ones.
    pub answered: u64,
}

/// What of a publish goes over the wire.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    pub(super) user_properties: Vec<(String, String)>,
    pub(super) retain: bool,
}

impl From<&Publish> for Message {
    fn from(publish: &Publish) -> Self {
        Self {
            topic: publish.topic.as_str().to_owned(),
            payload: publish.payload.clone(),
            user_properties: publish.user_properties.clone(),
            retain: publish.retain,
        }
    }
}

/// How far the connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// It takes packets.
    Open,
    /// DISCONNECT was asked for. Nothing more is taken.
    Leaving,
    /// There is no connection any more.
    Gone,
}

/// What waits to be written.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: VecDeque<Outgoing>,
    /// Publishes that wait until the broker has confirmed others, with their tokens.
    held: VecDeque<(u64, Message)>,
    ids: PacketIds,
    /// Publishes that are queued or written, and not confirmed.
    in_flight: usize,
    /// Publishes that the broker takes before it confirms one.
    receive_maximum: usize,
    /// QoS 0 publishes in the queue.
    unconfirmed: usize,
    keep_alive_pings: Pings,
    ack_pings: Pings,
    /// Pings without an answer, in order: answers do not say what they answer.
    unanswered: VecDeque<PingFor>,
    ending: Ending,
    /// Wakes the connection.
    waker: Option<Waker>,
}

/// An outbox that both halves of a connection hold.
#[derive(Clone, Debug)]
pub(super) struct SharedOutbox(Arc<Mutex<Outbox>>);

impl SharedOutbox {
    pub(super) fn new(receive_maximum: usize) -> Self {
        Self(Arc::new(Mutex::new(Outbox::new(receive_maximum))))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Outbox> {
        self.0.lock().expect("nobody panics holding it")
    }
}

impl Outbox {
    fn new(receive_maximum: usize) -> Self {
        let most = usize::from(u16::MAX) - NOT_FOR_PUBLISHES;
        Self {
            queue: VecDeque::new(),
            held: VecDeque::new(),
            ids: PacketIds::new(),
            in_flight: 0,
            receive_maximum: receive_maximum.clamp(1, most),
            unconfirmed: 0,
            keep_alive_pings: Pings::default(),
            ack_pings: Pings::default(),
            unanswered: VecDeque::new(),
            ending: Ending::Open,
            waker: None,
        }
    }

    fn check_open(&self) -> Result<(), SubmitError> {
        match self.ending {
            Ending::Open => Ok(()),
            Ending::Leaving | Ending::Gone => Err(SubmitError::Gone),
        }
    }

    fn push(&mut self, packet: Outgoing) {
        self.queue.push_back(packet);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn publish(&mut self, token: u64, publish: &Publish) -> Result<(), SubmitError> {
        self.check_open()?;
        let message = Message::from(publish);
        if self.in_flight < self.receive_maximum && self.held.is_empty() {
            self.number(token, message)
        } else {
            self.held.push_back((token, message));
            Ok(())
        }
    }

    /// Gives a publish its packet identifier.
    fn number(&mut self, token: u64, message: Message) -> Result<(), SubmitError> {
        let packet_id = self.ids.take(Purpose::Publish(token));
        let packet_id = packet_id.ok_or(SubmitError::Gone)?;
        self.in_flight += 1;
        self.push(Outgoing::Publish { packet_id, message });
        Ok(())
    }

    /// Returns whether there was room.
    pub(super) fn publish_unconfirmed(&mut self, publish: &Publish) -> bool {
        if self.check_open().is_err() || self.unconfirmed >= MAX_UNCONFIRMED {
            return false;
        }
        self.unconfirmed += 1;
        self.push(Outgoing::Publish {
            packet_id: 0,
            message: publish.into(),
        });
        true
    }

    pub(super) fn acknowledge(&mut self, packet_id: u16) -> Result<(), SubmitError> {
        self.check_open()?;
        self.push(Outgoing::Ack(packet_id));
        Ok(())
    }

    pub(super) fn subscribe(&mut self, filters: &[Subscription]) -> Result<(), SubmitError> {
        self.check_open()?;
        let packet_id = self.ids.take(Purpose::Subscribe).ok_or(SubmitError::Gone)?;
        let filters = filters.to_vec();
        self.push(Outgoing::Subscribe { packet_id, filters });
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, filter: &TopicFilter) -> Result<(), SubmitError> {
        self.check_open()?;
        let packet_id = self.ids.take(Purpose::Unsubscribe);
        let packet_id = packet_id.ok_or(SubmitError::Gone)?;
        let filter = filter.clone();
        self.push(Outgoing::Unsubscribe { packet_id, filter });
        Ok(())
    }

    pub(super) fn disconnect(&mut self) -> Result<(), SubmitError> {
        match self.ending {
            Ending::Gone => return Err(SubmitError::Gone),
            Ending::Leaving => return Ok(()),
            Ending::Open => self.ending = Ending::Leaving,
        }
        if self.held.is_empty() {
            self.push(Outgoing::Disconnect);
        }
        Ok(())
    }

    /// Has a PINGREQ follow what was put in before. Nothing follows DISCONNECT.
    pub(super) fn ping(&mut self, purpose: PingFor) {
        let is_open = match self.ending {
            Ending::Open => true,
            Ending::Leaving => !self.held.is_empty(),
            Ending::Gone => false,
        };
        if is_open {
            self.pings_mut(purpose).asked += 1;
            self.unanswered.push_back(purpose);
            self.push(Outgoing::Ping);
        }
    }

    /// The broker has answered a PINGREQ. Returns whether none waits for its answer any more.
    pub(super) fn ping_answered(&mut self) -> bool {
        if let Some(purpose) = self.unanswered.pop_front() {
            self.pings_mut(purpose).answered += 1;
        }
        self.unanswered.is_empty()
    }

    pub(super) fn pings(&self, purpose: PingFor) -> Pings {
        match purpose {
            PingFor::KeepAlive => self.keep_alive_pings,
            PingFor::Acks => self.ack_pings,
        }
    }

    fn pings_mut(&mut self, purpose: PingFor) -> &mut Pings {
        match purpose {
            PingFor::KeepAlive => &mut self.keep_alive_pings,
            PingFor::Acks => &mut self.ack_pings,
        }
    }

    /// The next packet to be written.
    pub(super) fn pop(&mut self) -> Option<Outgoing> {
        let packet = self.queue.pop_front()?;
        if matches!(packet, Outgoing::Publish { packet_id: 0, .. }) {
            self.unconfirmed -= 1;
        }
        Some(packet)
    }

    /// Has the next packet that is put in wake the connection.
    pub(super) fn wake_on_next(&mut self, context: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            waker => *waker = Some(context.waker().clone()),
        }
    }

    /// The broker has answered a publish. Returns its token, if there is such a publish.
    pub(super) fn confirmed(&mut self, packet_id: u16) -> Option<u64> {
        let is_publish = |purpose| matches!(purpose, Purpose::Publish(_));
        let Purpose::Publish(token) = self.ids.release(packet_id, is_publish)? else {
            return None;
        };
        self.in_flight -= 1;
        if let Some((token, message)) = self.held.pop_front() {
            // There is an identifier: one has just come back.
            let _ = self.number(token, message);
            if self.held.is_empty() && self.ending == Ending::Leaving {
                self.push(Outgoing::Disconnect);
            }
        }
        Some(token)
    }

    /// The broker has answered a SUBSCRIBE or UNSUBSCRIBE. Returns whether there is such a one.
    pub(super) fn answered(&mut self, packet_id: u16, asked: Purpose) -> bool {
        let answered = self.ids.release(packet_id, |purpose| purpose == asked);
        answered.is_some()
    }

    /// There is no connection any more.
    pub(super) fn end(&mut self) {
        self.ending = Ending::Gone;
        self.queue.clear();
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::topic::TopicName;

    fn publish() -> Publish {
        Publish::new(TopicName::parse("a/b").unwrap(), Bytes::new())
    }

    fn packet_ids(outbox: &mut Outbox) -> Vec<u16> {
        let ids = std::iter::from_fn(|| outbox.pop()).map(|packet| {
            let Outgoing::Publish { packet_id, .. } = packet else {
                panic!("{packet:?}");
            };
            packet_id
        });
        ids.collect()
    }

    #[test]
    fn no_more_publishes_are_under_way_than_the_broker_takes_and_disconnect_is_the_last() {
        let mut outbox = Outbox::new(2);
        for token in 0..4 {
            outbox.publish(token, &publish()).unwrap();
        }
        outbox.disconnect().unwrap();
        assert_eq!(outbox.publish(9, &publish()), Err(SubmitError::Gone));
        assert_eq!(outbox.acknowledge(1), Err(SubmitError::Gone));
        assert_eq!(packet_ids(&mut outbox), [1, 2]);
        // Out of order, one that is unknown, and one twice.
        assert_eq!(outbox.confirmed(2), Some(1));
        assert_eq!(outbox.confirmed(2), None);
        assert_eq!(outbox.confirmed(700), None);
        assert_eq!(packet_ids(&mut outbox), [3]);
        assert_eq!(outbox.confirmed(3), Some(2));
        assert_eq!(
            outbox.pop(),
            Some(Outgoing::Publish {
                packet_id: 4,
                message: Message::from(&publish())
            })
        );
        assert_eq!(outbox.pop(), Some(Outgoing::Disconnect));
        assert_eq!(outbox.confirmed(1), Some(0));
        assert_eq!(outbox.pop(), None);
    }

    #[test]
    fn a_ping_goes_out_behind_the_acks_before_it_and_not_behind_disconnect() {
        let mut outbox = Outbox::new(1);
        outbox.ping_answered();
        let none = outbox.pings(PingFor::KeepAlive);
        assert_eq!(none, Pings::default(), "none was asked");
        outbox.acknowledge(7).unwrap();
        outbox.ping(PingFor::KeepAlive);
        outbox.disconnect().unwrap();
        outbox.ping(PingFor::KeepAlive);
        let packets: Vec<_> = std::iter::from_fn(|| outbox.pop()).collect();
        let expected = [Outgoing::Ack(7), Outgoing::Ping, Outgoing::Disconnect];
        assert_eq!(packets, expected);
        outbox.ping_answered();
        let pings = outbox.pings(PingFor::KeepAlive);
        assert_eq!((pings.asked, pings.answered), (1, 1));
    }

    #[test]
    fn an_answer_belongs_to_the_first_ping_without_one() {
        let mut outbox = Outbox::new(1);
        for purpose in [PingFor::Acks, PingFor::KeepAlive, PingFor::Acks] {
            outbox.ping(purpose);
        }
        let answered = |outbox: &Outbox| {
            let pings = [PingFor::KeepAlive, PingFor::Acks].map(|purpose| outbox.pings(purpose));
            pings.map(|pings| pings.answered)
        };
        for (is_last, expected) in [(false, [0, 1]), (false, [1, 1]), (true, [1, 2])] {
            assert_eq!(outbox.ping_answered(), is_last);
            assert_eq!(answered(&outbox), expected);
        }
        assert!(outbox.ping_answered(), "one too many");
        assert_eq!(answered(&outbox), [1, 2]);
    }

    #[test]
    fn an_answer_counts_for_what_it_answers() {
        let mut outbox = Outbox::new(10);
        outbox.subscribe(&[]).unwrap();
        outbox.publish(7, &publish()).unwrap();
        assert_eq!(outbox.confirmed(1), None);
        assert!(!outbox.answered(2, Purpose::Subscribe));
        assert!(!outbox.answered(1, Purpose::Unsubscribe));
        assert!(outbox.answered(1, Purpose::Subscribe));
        assert!(!outbox.answered(1, Purpose::Subscribe));
        assert_eq!(outbox.confirmed(2), Some(7));
    }

    #[test]
    fn qos_0_publishes_over_the_limit_are_not_taken_until_some_are_written() {
        let mut outbox = Outbox::new(1);
        for _ in 0..MAX_UNCONFIRMED {
            assert!(outbox.publish_unconfirmed(&publish()));
        }
        assert!(!outbox.publish_unconfirmed(&publish()));
        assert!(outbox.pop().is_some());
        assert!(outbox.publish_unconfirmed(&publish()));
        outbox.end();
        assert!(!outbox.publish_unconfirmed(&publish()));
        assert_eq!(outbox.disconnect(), Err(SubmitError::Gone));
    }
}
