//! What clients of the HTTP API have handed in, and who waits for the outcome.
//!
//! Owns the way back: an outcome is told when it is committed. Leaves the way there to `inbound`.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use crate::delivery::ledger::EntryId;
use crate::http::api::handover::{Handover, Outcome, Unserved};
use crate::observer::processor::Decided;
use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::Refused;

/// The submissions that are not decided, and those that wait to be taken.
#[derive(Debug)]
pub(crate) struct Submissions {
    queue: mpsc::Receiver<Handover>,
    waiting: HashMap<EntryId, oneshot::Sender<Result<Outcome, Unserved>>>,
    /// Whether the store fails: then nothing is taken.
    store_fails: bool,
}

impl Submissions {
    pub(super) fn new(queue: mpsc::Receiver<Handover>) -> Self {
        Self {
            queue,
            waiting: HashMap::new(),
            store_fails: false,
        }
    }

    /// The next one whose client still waits; never, if there is no API. Safe to cancel.
    pub(super) async fn next(&mut self) -> Handover {
        loop {
            match self.queue.recv().await {
                None => std::future::pending().await,
                Some(handover) if self.store_fails => handover.turn_away(Unserved::Unavailable),
                Some(handover) if handover.take() => return handover,
                Some(_) => {}
            }
        }
    }

    /// A submission's first part is this entry: whoever waits is told what becomes of it.
    pub(super) fn wait(&mut self, entry: EntryId, handover: Handover) {
        self.waiting.insert(entry, handover.answer);
    }

    /// Tells whoever waits for a decision.
    pub(super) fn handle_decided(&mut self, decided: &Decided, id: MessageId) {
        if let Some(waiting) = self.waiting.remove(&decided.entry) {
            // The client may have left.
            let _ = waiting.send(Ok(Outcome {
                id,
                refusal: decided.refusal.map(|reason| Refused {
                    detail: decided.detail.clone(),
                    ..reason.into()
                }),
                group: decided.group.clone(),
            }));
        }
    }

    /// Whether the store fails now.
    pub(super) fn set_store_fails(&mut self, fails: bool) {
        self.store_fails = fails;
    }
}
