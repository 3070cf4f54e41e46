//! The acknowledged watermark: the id up to which the store may forget fingerprints.
//!
//! Owns the delay between an ack that is handed out and one that counts. Leaves to the
//! [`ledger`](crate::delivery::ledger) which messages are acknowledged.

use crate::protocol::message_id::MessageId;

/// Delays the acknowledged watermark by two ticks: an ack handed to the socket may still be lost.
/// What the store takes for acknowledged is not recognised if it comes again after a kill.
#[derive(Debug, Default)]
pub struct AcknowledgedWatermark {
    /// What the store has been told.
    stored: Option<MessageId>,
    /// The watermark at the last tick, and at the one before it.
    lagging: [Option<MessageId>; 2],
}

impl AcknowledgedWatermark {
    /// Called at regular intervals while there is a session, with what is acknowledged by now.
    pub fn tick(&mut self, acknowledged: Option<MessageId>) {
        self.lagging = [acknowledged, self.lagging[0]];
    }

    /// The session's connection is gone, and with it acks that may not have arrived.
    pub fn handle_session_lost(&mut self) {
        self.lagging = [None; 2];
    }

    /// What the store is to be told, if it does not know it yet.
    pub fn news(&self) -> Option<MessageId> {
        self.lagging[1].filter(|id| self.stored < Some(*id))
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

    #[test]
    fn it_lags_by_two_ticks_and_a_lost_session_starts_it_again() {
        let mut ids = MessageIds::new(RandomState::new());
        let [first, second] = [(); 2].map(|()| Some(ids.next(UnixMillis::new(1))));
        let mut watermark = AcknowledgedWatermark::default();
        watermark.tick(first);
        assert_eq!(watermark.news(), None);
        watermark.tick(second);
        assert_eq!(watermark.news(), first);
        watermark.mark_stored(first);
        assert_eq!(watermark.news(), None, "once is enough");
        watermark.handle_session_lost();
        watermark.tick(second);
        assert_eq!(watermark.news(), None);
        watermark.tick(second);
        assert_eq!(watermark.news(), second);
    }
}
