//! How a request that writes is handed to the observer's task, and how its outcome comes back.
//!
//! Owns that nothing is done for a client that was turned away meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::Refused;
use crate::rules::group_change::GroupOutcome;
use crate::rules::submission::Submission;

/// How long a submission may wait to be taken: none is while the broker takes nothing and the store
/// is full. Three such waits fit into the time limit of a request.
const WAIT: Duration = Duration::from_secs(8);

const WAITS: u8 = 0;
const TAKEN: u8 = 1;
const LEFT: u8 = 2;

/// A submission on its way to the observer's task.
#[derive(Debug)]
pub struct Handover {
    submission: Submission,
    /// Who waits for the outcome.
    pub answer: oneshot::Sender<Result<Outcome, Unserved>>,
    state: Arc<AtomicU8>,
}

/// What became of a submission. It is committed.
#[derive(Debug)]
pub struct Outcome {
    /// The id of its first message.
    pub id: MessageId,
    /// Why that one is refused, if it is.
    pub refusal: Option<Refused>,
    /// What became of a change of a group.
    pub group: Option<GroupOutcome>,
}

/// Why there is no outcome. Unless that is not known, nothing of the submission has happened.
#[derive(Debug)]
pub enum Unserved {
    /// It is refused before it is looked at.
    Refused(Refused),
    /// Nothing can be stored now.
    Unavailable,
    /// It was taken, and its outcome is not known yet: it may happen.
    Unknown,
}

impl Handover {
    /// Takes it, unless its client has left: whether it is to be done.
    pub fn take(&self) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        let state = &self.state;
        state
            .compare_exchange(WAITS, TAKEN, success, failure)
            .is_ok()
    }

    /// What is to be done. The second time there is nothing left.
    pub fn take_submission(&mut self) -> Submission {
        Submission {
            authority: self.submission.authority,
            recipients: self.submission.recipients,
            messages: std::mem::take(&mut self.submission.messages),
        }
    }

    /// The topic that it stands for.
    pub fn topic(&self) -> &[u8] {
        let first = self.submission.messages.first();
        first.map_or(&[], |first| &first.received.topic)
    }

    /// Does nothing of it, for this reason.
    pub fn turn_away(self, why: Unserved) {
        // The client may have left.
        let _ = self.answer.send(Err(why));
    }
}

/// Whoever waits for an outcome. When it is dropped, because the client has left or time is up, a
/// submission that nobody has taken is not done any more.
struct Waiting(Arc<AtomicU8>);

impl Waiting {
    /// Gives up. Returns why there is no outcome.
    fn leave(&self) -> Unserved {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match self.0.compare_exchange(WAITS, LEFT, success, failure) {
            Ok(_) | Err(LEFT) => Unserved::Unavailable,
            Err(_) => Unserved::Unknown,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Hands a submission in, and waits for its outcome. Safe to cancel: then either nothing of it
/// happens, or all.
///
/// # Errors
/// [`Unserved`].
pub async fn hand_in(
    queue: &mpsc::Sender<Handover>,
    submission: Submission,
) -> Result<Outcome, Unserved> {
    let waiting = Waiting(Arc::new(AtomicU8::new(WAITS)));
    let (answer, mut outcome) = oneshot::channel();
    let handover = Handover {
        submission,
        answer,
        state: waiting.0.clone(),
    };
    let sent = tokio::time::timeout(WAIT, queue.send(handover)).await;
    if !matches!(sent, Ok(Ok(()))) {
        return Err(waiting.leave());
    }
    for _ in 0..2 {
        match tokio::time::timeout(WAIT, &mut outcome).await {
            Ok(Ok(outcome)) => return outcome,
            // The observer ends.
            Ok(Err(_)) => return Err(waiting.leave()),
            Err(_) => {
                let why = waiting.leave();
                // If it is taken, it is stored any moment.
                if !matches!(why, Unserved::Unknown) {
                    return Err(why);
                }
            }
        }
    }
    Err(waiting.leave())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::submission::Authority;

    fn nothing() -> Submission {
        Submission {
            authority: Authority::Sender,
            recipients: 0,
            messages: vec![],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_done_for_a_client_that_was_turned_away() {
        let (queue, mut taken) = mpsc::channel(1);
        let outcome = hand_in(&queue, nothing()).await;
        assert!(matches!(outcome, Err(Unserved::Unavailable)));
        assert!(!taken.recv().await.unwrap().take());
        // A client that leaves.
        let left = tokio::time::timeout(Duration::from_millis(1), hand_in(&queue, nothing()));
        assert!(left.await.is_err());
        assert!(!taken.recv().await.unwrap().take());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_may_happen() {
        for ends in [false, true] {
            let (queue, mut taken) = mpsc::channel(1);
            let handing_in = tokio::spawn(async move { hand_in(&queue, nothing()).await });
            let handover = taken.recv().await.unwrap();
            assert!(handover.take());
            if ends {
                drop(handover);
            }
            let outcome = handing_in.await.unwrap();
            assert!(matches!(outcome, Err(Unserved::Unknown)), "{outcome:?}");
        }
    }
}
