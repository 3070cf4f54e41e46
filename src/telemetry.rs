//! What the observer says while it runs: the log, and one function for each thing that happens to a message.

use std::io::IsTerminal;

use tracing::{debug, error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;
use crate::forward::FailedWhat;
use crate::id::MessageId;
use crate::message::Received;
use crate::refusal::Refusal;

/// Sets the log up, on standard error. `level` is a level or a tracing filter; a second call changes nothing.
///
/// The embedded broker and the client crate are silenced, unless the filter names them: they write whole packets, payloads too.
pub fn init(format: LogFormat, level: &str) {
    let quiet = ["rumqttc", "rumqttd", "hyper", "tungstenite"]
        .into_iter()
        .filter(|name| !level.contains(name));
    let filter: String = std::iter::once(level.to_owned())
        .chain(quiet.map(|name| format!(",{name}=off")))
        .collect();
    let filter = EnvFilter::try_new(filter).unwrap_or_default();
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // An error means that a log is there already, in a test say.
    let _ = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder
            .with_ansi(std::io::stderr().is_terminal())
            .try_init()
    };
}

/// What happened to the messages of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages for which forwards were begun, repetitions included.
    pub forwarded: u64,
    /// Messages refused, by reason, in the order of [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Redeliveries of messages that were still under way, or done but not acknowledged.
    pub resumed: u64,
    /// Messages forwarded again under the id they had.
    pub repeated: u64,
    /// Refusals of which nobody was told, because their sender had been told too much already.
    pub unanswered: u64,
}

impl Stats {
    /// How many messages were refused for `reason`.
    pub fn refused_for(&self, reason: Refusal) -> u64 {
        self.refused[index(reason)]
    }

    /// A message was given to the ledger to be forwarded.
    pub fn forwarded(&mut self, received: &Received, id: MessageId, publishes: usize) {
        self.forwarded += 1;
        debug!(topic = %lossy(received), message_id = %id, publishes, outcome = "forwarded");
    }

    /// A message was refused.
    pub fn refused(&mut self, received: &Received, reason: Refusal) {
        self.refused[index(reason)] += 1;
        debug!(topic = %lossy(received), %reason, payload_bytes = received.payload_bytes, outcome = "refused");
    }

    /// A message came again, and was recognised as one that is still in the ledger.
    pub fn resumed(&mut self, received: &Received) {
        self.resumed += 1;
        debug!(topic = %lossy(received), outcome = "resumed");
    }

    /// A message came again, and is forwarded again under its id.
    pub fn repeated(&mut self, received: &Received, id: MessageId) {
        self.repeated += 1;
        debug!(topic = %lossy(received), message_id = %id, outcome = "repeated");
    }

    /// The broker will not take a publish made of a message.
    pub fn publish_refused(&mut self, received: &Received, reason: Refusal, what: FailedWhat) {
        match (what, reason) {
            (FailedWhat::FurtherCopy, _) => {}
            // What is too large any user can cause; what is not permitted the operator has to mend.
            (FailedWhat::Answer, Refusal::TooLarge) => {
                debug!("a dead letter is larger than the broker takes: it is lost")
            }
            (FailedWhat::Answer, _) => {
                error!(%reason, "the broker does not take a notice, a dead letter or a message to ourselves: may this user publish everywhere?");
            }
            (FailedWhat::Copy, _) => {
                if reason == Refusal::Unauthorized {
                    error!(
                        "the broker does not take a message that was forwarded: may this user publish into every inbox?"
                    );
                }
                self.refused(received, reason);
            }
        }
    }

    /// The reasons there were, and how often: `banned=2 too-large=1`.
    fn reasons(&self) -> String {
        let counted = Refusal::ALL.iter().zip(self.refused);
        let some = counted.filter(|(_, count)| *count > 0);
        let words: Vec<String> = some
            .map(|(reason, count)| format!("{reason}={count}"))
            .collect();
        words.join(" ")
    }

    /// The end of a run.
    pub fn log(&self, left_unacknowledged: usize, left_unconfirmed: usize) {
        let refused: u64 = self.refused.iter().sum();
        let reasons = self.reasons();
        info!(
            forwarded = self.forwarded,
            refused,
            reasons,
            unanswered = self.unanswered,
            resumed = self.resumed,
            repeated = self.repeated,
            left_unacknowledged,
            left_unconfirmed,
            "stopped"
        );
        if left_unacknowledged > 0 {
            warn!(
                left_unacknowledged,
                "messages not finished in time: the broker keeps them and delivers them again"
            );
        }
    }
}

fn index(reason: Refusal) -> usize {
    Refusal::ALL
        .iter()
        .position(|listed| *listed == reason)
        .expect("the list is complete")
}

fn lossy(received: &Received) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(&received.topic)
}
