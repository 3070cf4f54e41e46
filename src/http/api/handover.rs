//! How a request that writes is handed to the observer's task, and how its outcome comes back.
//!
//! Owns that nothing is done for a client that was turned away meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::protocol::message_id::MessageId;
use crate::protocol::refusal::{Refusal, Refused};
use crate::rules::group_change::GroupOutcome;
use crate::rules::submission::Submission;

/// How long a submission may wait to be taken: as long as the broker takes nothing and the store
/// is full, none is.
const WAIT: Duration = Duration::from_secs(10);

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
    pub refusal: Option<Refusal>,
    /// What became of a change of a group.
    pub group: Option<GroupOutcome>,
}

/// Why a submission is not taken. Nothing of it has happened.
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

    /// Does nothing of it, for this reason.
    pub fn turn_away(self, why: Unserved) {
        // The client may have left.
        let _ = self.answer.send(Err(why));
    }
}

/// Hands a submission in, and waits for its outcome.
pub(super) async fn hand_in(
    queue: &mpsc::Sender<Handover>,
    submission: Submission,
) -> Result<Outcome, Unserved> {
    let state = Arc::new(AtomicU8::new(WAITS));
    let (answer, mut outcome) = oneshot::channel();
    let handover = Handover {
        submission,
        answer,
        state: state.clone(),
    };
    let sent = tokio::time::timeout(WAIT, queue.send(handover)).await;
    if !matches!(sent, Ok(Ok(()))) {
        return Err(Unserved::Unavailable);
    }
    match tokio::time::timeout(WAIT, &mut outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Unserved::Unavailable),
        Err(_) => {
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match state.compare_exchange(WAITS, LEFT, success, failure) {
                Ok(_) => Err(Unserved::Unavailable),
                Err(_) => match tokio::time::timeout(WAIT, outcome).await {
                    Ok(Ok(outcome)) => outcome,
                    Ok(Err(_)) | Err(_) => Err(Unserved::Unknown),
                },
            }
        }
    }
}
