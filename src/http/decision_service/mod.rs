//! The decision service: an operator's HTTP service that may refuse or change messages
//! (`--policy-url`).
//!
//! Owns asking about one conversation at a time, so that the order of its messages holds, and about
//! several conversations at once. Messages are asked about after every check that needs no store.
//! What waits is bounded by the window of messages under way.

mod answer;
#[cfg(fuzzing)]
pub mod fuzzing;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use self::answer::AnswerError;
use crate::delivery::pending::PendingMessage;
use crate::http::client::{root_cause, service_client};
use crate::protocol::address::Outgoing;
use crate::protocol::layout::PayloadMode;
use crate::protocol::message::Received;
use crate::protocol::refusal::{Refusal, Refused};

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Failures in a row after which a time-out makes the service rest. One slow message must not keep
/// the service from being asked about others.
const FAILURES_BEFORE_REST: u64 = 10;
/// One conversation may take a quarter of the window.
const CONVERSATION_SHARE: usize = 4;

/// How the service is asked.
#[derive(Clone)]
pub struct Settings {
    /// Its address, `http` or `https`.
    pub url: reqwest::Url,
    /// Limit for one answer.
    pub timeout: Duration,
    /// Questions under way at a time.
    pub concurrency: usize,
    /// What holds when there is no answer.
    pub on_failure: OnFailure,
}

/// What becomes of a message if the service gives no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It passes.
    Pass,
    /// It is refused as [`Refusal::Unauthorized`].
    Refuse,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password, or a key in its query.
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "Settings({host}, {:?})", self.on_failure)
    }
}

/// What the service says of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes unchanged.
    Pass,
    /// It passes with this payload in place of its own.
    Replace(Bytes),
    /// It is refused.
    Refuse(Refused),
}

/// The body of a question.
#[derive(Serialize)]
struct Question<'a> {
    app_id: &'a str,
    sender: &'a str,
    recipient: &'a str,
    layout: &'a str,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// A message in the queue of its conversation.
#[derive(Debug)]
struct Queued {
    message: PendingMessage,
    /// The body of the question, until it is sent.
    question: Option<Bytes>,
}

/// Asks the service, and holds the messages that wait for its answers.
#[derive(Debug)]
pub struct DecisionService {
    service: Arc<Service>,
    concurrency: usize,
    /// Messages of one conversation that may wait.
    max_per_conversation: usize,
    /// By conversation. The first message of each is being asked about, or is about to be.
    conversations: HashMap<Arc<str>, VecDeque<Queued>>,
    /// Conversations whose first message waits to be asked about.
    ready: VecDeque<Arc<str>>,
    asking: JoinSet<(Arc<str>, Verdict)>,
}

/// The service as one question sees it.
#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    settings: Settings,
    /// Questions without an answer, in a row.
    failures: AtomicU64,
    /// The service is not asked before this time. Otherwise everything that waits would wait for
    /// one time-out after another.
    rests_until: Mutex<Option<Instant>>,
}

impl DecisionService {
    /// Connects to nothing yet. `window` is the number of messages that may be under way.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(settings: Settings, window: usize) -> Result<Self, reqwest::Error> {
        let client = service_client(settings.timeout)?;
        Ok(Self {
            concurrency: settings.concurrency,
            max_per_conversation: (window / CONVERSATION_SHARE).max(1),
            service: Arc::new(Service {
                client,
                settings,
                failures: AtomicU64::new(0),
                rests_until: Mutex::new(None),
            }),
            conversations: HashMap::new(),
            ready: VecDeque::new(),
            asking: JoinSet::new(),
        })
    }

    /// Asks about a message, once those before it in its conversation are decided. Returns the
    /// message if too many of its conversation wait already.
    #[must_use]
    pub fn ask(
        &mut self,
        outgoing: &Outgoing<'_>,
        message: PendingMessage,
    ) -> Option<PendingMessage> {
        let key = conversation_key(outgoing);
        let conversation = self.conversations.entry(key.clone()).or_default();
        if conversation.len() >= self.max_per_conversation {
            return Some(message);
        }
        let question = Some(question(outgoing, &message.received));
        conversation.push_back(Queued { message, question });
        if conversation.len() == 1 {
            self.ready.push_back(key);
        }
        self.send();
        None
    }

    /// Messages that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.conversations.values().map(VecDeque::len).sum()
    }

    fn send(&mut self) {
        while self.asking.len() < self.concurrency {
            let Some(key) = self.ready.pop_front() else {
                return;
            };
            let first = self
                .conversations
                .get_mut(&key)
                .and_then(VecDeque::front_mut);
            let Some(first) = first else { continue };
            if let Some(question) = first.question.take() {
                let payload = first.message.received.payload.clone();
                let service = self.service.clone();
                self.asking.spawn(async move {
                    let verdict = service.decide(question, &payload).await;
                    (key, verdict)
                });
            }
        }
    }

    /// The next message that is decided. Waits for ever while nothing is being asked. Safe to
    /// cancel: the task keeps its answer.
    ///
    /// # Panics
    /// If an asking task has panicked.
    pub async fn next(&mut self) -> (PendingMessage, Verdict) {
        let (key, verdict) = match self.asking.join_next().await {
            Some(asked) => asked.expect("asking does not panic"),
            None => std::future::pending().await,
        };
        let conversation = self.conversations.get_mut(&key);
        let waiting = conversation.expect("a message that is asked about is in its queue");
        let asked = waiting
            .pop_front()
            .expect("a message that is asked about is the first of its queue");
        if waiting.is_empty() {
            self.conversations.remove(&key);
        } else {
            self.ready.push_back(key);
        }
        self.send();
        (asked.message, verdict)
    }
}

/// One key for both directions of a direct conversation, and one for a group.
fn conversation_key(outgoing: &Outgoing<'_>) -> Arc<str> {
    let Outgoing {
        app,
        sender,
        recipient,
        ..
    } = outgoing;
    // No identifier holds a slash.
    if recipient.is_group() {
        return format!("{app}/{recipient}").into();
    }
    let (one, other) = (sender.as_str(), recipient.as_str());
    format!("{app}/{}/{}", one.min(other), one.max(other)).into()
}

fn question(outgoing: &Outgoing<'_>, received: &Received) -> Bytes {
    let message = match outgoing.layout.payload() {
        PayloadMode::Envelope => serde_json::from_slice(&received.payload).ok(),
        PayloadMode::Verbatim => None,
    };
    let question = Question {
        app_id: outgoing.app.as_str(),
        sender: outgoing.sender.as_str(),
        recipient: outgoing.recipient.as_str(),
        layout: outgoing.layout.name(),
        topic: &String::from_utf8_lossy(&received.topic),
        payload_base64: message
            .is_none()
            .then(|| BASE64_STANDARD.encode(&received.payload)),
        message,
    };
    serde_json::to_vec(&question)
        .expect("plain fields serialise")
        .into()
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("it did not answer in time just now")]
    Resting,
    /// The root cause, without the URL.
    #[error("{0}")]
    Transport(String),
    #[error("it answers {0} instead of 200 or 204")]
    Status(u16),
    #[error("its answer is over {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Unreadable(#[from] AnswerError),
}

impl Service {
    async fn decide(&self, question: Bytes, payload: &Bytes) -> Verdict {
        match self.ask(question, payload).await {
            Ok(verdict) => {
                if self.failures.swap(0, Ordering::Relaxed) > 0 {
                    info!("the decision service answers again");
                }
                verdict
            }
            Err(fault) => self.without_answer(&fault),
        }
    }

    fn without_answer(&self, fault: &NoAnswer) -> Verdict {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let on_failure = self.settings.on_failure;
        let open = on_failure == OnFailure::Pass;
        if failures.is_power_of_two() {
            warn!(%fault, failures, open, "{NO_ANSWER}");
        }
        match on_failure {
            OnFailure::Pass => Verdict::Pass,
            OnFailure::Refuse => Verdict::Refuse(Refused {
                detail: Some("no decision could be had".into()),
                ..Refusal::Unauthorized.into()
            }),
        }
    }

    fn rests(&self) -> bool {
        let until = *self.rests_until.lock().expect("nobody panics holding it");
        until.is_some_and(|until| Instant::now() < until)
    }

    async fn ask(&self, question: Bytes, payload: &Bytes) -> Result<Verdict, NoAnswer> {
        if self.rests() {
            return Err(NoAnswer::Resting);
        }
        let request = self
            .client
            .post(self.settings.url.clone())
            .header("content-type", "application/json")
            .body(question);
        let failed = |error| self.transport_failed(error);
        let mut response = request.send().await.map_err(failed)?;
        match response.status().as_u16() {
            200 => {}
            204 => return Ok(Verdict::Pass),
            status => return Err(NoAnswer::Status(status)),
        }
        let mut answer = vec![];
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(NoAnswer::TooLong);
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(answer::read(&answer, payload)?)
    }

    fn transport_failed(&self, error: reqwest::Error) -> NoAnswer {
        if error.is_timeout() && self.failures.load(Ordering::Relaxed) >= FAILURES_BEFORE_REST {
            let until = Instant::now() + self.settings.timeout;
            *self.rests_until.lock().expect("nobody panics holding it") = Some(until);
        }
        NoAnswer::Transport(root_cause(error))
    }
}

const NO_ANSWER: &str = "the decision service gives no answer (--policy-url, --policy-failure)";
