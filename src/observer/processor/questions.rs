//! Messages that wait for the decision service, in the delivery log.
//!
//! Owns when a batch writes such a message, and when it removes it. Leaves asking to the observer's
//! task.

use super::{Batch, Decided, Processor};
use crate::delivery::pending::{PendingMessage, Question};
use crate::store::{LoggedQuestion, StoreError};

impl Processor {
    /// Whether the delivery log holds a message that came before. Then it is published from there,
    /// or decided on.
    pub(super) fn is_known(
        &self,
        message: &PendingMessage,
        batch: &Batch,
    ) -> Result<bool, StoreError> {
        if message.question == Question::Logged {
            return Ok(false);
        }
        // The log held it until this batch.
        let is_it = |one: &PendingMessage| one.question == Question::Logged && one.id == message.id;
        if batch.messages.iter().any(is_it) {
            return Ok(true);
        }
        let store = self.persistence.as_store();
        store.map_or(Ok(false), |store| store.log_holds(message.id))
    }

    /// Whether a message is only to be logged. One that panics is refused instead.
    pub(super) fn is_to_be_asked(&self, message: &PendingMessage) -> bool {
        message.question == Question::Due
            && self.persistence.as_store().is_some()
            && !self.panics.has(message.id)
    }

    pub(super) fn log_question(&mut self, message: &PendingMessage) -> Result<Decided, StoreError> {
        if let Some(store) = self.persistence.as_store_mut() {
            store.log_question(&LoggedQuestion {
                id: message.id,
                topic: message.received.topic.clone(),
                payload: message.received.payload.clone(),
                is_damaged: false,
            })?;
        }
        Ok(Decided::question(message.entry))
    }

    /// The log forgets the messages that are decided on now, in the same transaction.
    pub(super) fn forget_questions(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let Some(store) = self.persistence.as_store_mut() else {
            return Ok(());
        };
        for message in &batch.messages {
            if message.question == Question::Logged {
                store.published(message.id)?;
            }
        }
        Ok(())
    }
}
