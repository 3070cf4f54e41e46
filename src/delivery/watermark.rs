//! The acknowledged watermark: the id up to which the store may forget fingerprints.
//!
//! Owns the proof that acks have arrived, and when to ask the broker for it. Leaves to the
//! [`ledger`](crate::delivery::ledger) which messages are acknowledged, and pings to whoever has
//! the connection.

use crate::protocol::message_id::MessageId;

/// Ticks from one ping to the next, at least.
const TICKS: u32 = 2;

/// Whether the broker is to be asked for a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A ping is to follow the acks that were sent.
    Ping,
    /// Not now.
    Nothing,
}

/// Delays the acknowledged watermark until the broker has answered a ping behind the acks: an ack
/// handed to the socket may still be lost, however long ago that was. What the store takes for
/// acknowledged is not recognised if it comes again after a kill.
#[derive(Debug, Default)]
pub struct AcknowledgedWatermark {
    /// What the store has been told.
    stored: Option<MessageId>,
    /// What the broker has shown to have read, on this connection.
    proved: Option<MessageId>,
    /// The watermark when the last ping was sent, if that is not answered.
    asked: Option<MessageId>,
    /// Pings on this connection.
    pings: u64,
    /// Ticks that have to pass before the next ping.
    rest: u32,
}

impl AcknowledgedWatermark {
    /// Called at regular intervals while there is a session, with what is acknowledged by now, and
    /// how many of the pings on its connection are answered.
    pub fn tick(&mut self, acknowledged: Option<MessageId>, answered: u64) -> Ask {
        if answered >= self.pings {
            self.proved = self.proved.max(self.asked.take());
        }
        self.rest = self.rest.saturating_sub(1);
        let lags = acknowledged > self.proved.max(self.stored);
        if !lags || self.asked.is_some() || self.rest > 0 {
            return Ask::Nothing;
        }
        self.asked = acknowledged;
        self.pings += 1;
        self.rest = TICKS;
        Ask::Ping
    }

    /// The session's connection is gone, and with it acks that may not have arrived.
    pub fn handle_session_lost(&mut self) {
        *self = Self {
            stored: self.stored,
            ..Self::default()
        };
    }

    /// What the store is to be told, if it does not know it yet.
    pub fn news(&self) -> Option<MessageId> {
        self.proved.filter(|id| self.stored < Some(*id))
    }

    /// The store is told of [`AcknowledgedWatermark::news`].
    pub fn mark_stored(&mut self, id: Option<MessageId>) {
        self.stored = self.stored.max(id);
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use super::*;
    use crate::protocol::message_id::MessageIds;
    use crate::protocol::time::UnixMillis;

    fn ids() -> [Option<MessageId>; 2] {
        let mut ids = MessageIds::new(RandomState::new());
        [(); 2].map(|()| Some(ids.next(UnixMillis::new(1))))
    }

    #[test]
    fn it_moves_to_what_was_acknowledged_before_a_ping_that_is_answered() {
        let [first, second] = ids();
        let mut watermark = AcknowledgedWatermark::default();
        assert_eq!(watermark.tick(None, 0), Ask::Nothing, "nothing to prove");
        assert_eq!(watermark.tick(first, 0), Ask::Ping);
        for _ in 0..1_000 {
            assert_eq!(watermark.tick(second, 0), Ask::Nothing);
            assert_eq!(watermark.news(), None, "time proves nothing");
        }
        assert_eq!(watermark.tick(second, 1), Ask::Ping);
        assert_eq!(watermark.news(), first, "the second was behind the ping");
        watermark.mark_stored(first);
        assert_eq!(watermark.news(), None, "once is enough");
        assert_eq!(watermark.tick(second, 2), Ask::Nothing);
        assert_eq!(watermark.news(), second);
        watermark.mark_stored(second);
        for _ in 0..10 {
            assert_eq!(watermark.tick(second, 2), Ask::Nothing, "it does not lag");
        }
    }

    #[test]
    fn there_is_a_ping_at_every_second_tick_at_most() {
        let mut ids = MessageIds::new(RandomState::new());
        let mut watermark = AcknowledgedWatermark::default();
        let mut pings = 0;
        for _ in 0..100 {
            let id = Some(ids.next(UnixMillis::new(1)));
            pings += u64::from(watermark.tick(id, pings) == Ask::Ping);
        }
        assert_eq!(pings, 50);
    }

    #[test]
    fn an_answer_on_another_connection_proves_nothing() {
        let [first, second] = ids();
        let mut watermark = AcknowledgedWatermark::default();
        assert_eq!(watermark.tick(first, 0), Ask::Ping);
        watermark.handle_session_lost();
        assert_eq!(watermark.tick(second, 0), Ask::Ping);
        assert_eq!(watermark.tick(second, 0), Ask::Nothing);
        assert_eq!(watermark.news(), None);
        watermark.tick(second, 1);
        assert_eq!(watermark.news(), second);
    }
}
