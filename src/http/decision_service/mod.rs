//! The decision service: an operator's HTTP service that may refuse or change messages
//! (`--policy-url`).
//!
//! Owns asking about one conversation at a time, so that the order of its messages holds, and about
//! several conversations at once. Messages are asked about after every check that needs no store.
//! What waits is bounded: see [`Bounds`].

mod answer;
#[cfg(fuzzing)]
pub mod fuzzing;
mod queue;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::FutureExt;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::answer::AnswerError;
use self::queue::{Asked, Queue};
pub use self::queue::{Bounds, TurnedAway};
use crate::delivery::ledger::EntryId;
use crate::delivery::pending::PendingMessage;
use crate::http::client::{root_cause, service_client};
use crate::protocol::address::Outgoing;
use crate::protocol::layout::PayloadMode;
use crate::protocol::message::Received;
use crate::protocol::refusal::{Refusal, Refused};
use crate::telemetry::crash_point::panic_on;
use crate::telemetry::labels::Decision;
use crate::telemetry::metrics::Metrics;

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Failures in a row after which a time-out makes the service rest. One slow message must not keep
/// the service from being asked about others.
const FAILURES_BEFORE_REST: u64 = 10;

/// At least this long after the service was last there, it is asked again about what is stored. It
/// may start just after the observer, or be replaced.
const LEAST_PATIENCE: Duration = Duration::from_secs(10);
/// The first pause before it is asked again. Each is twice as long as the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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

/// Asks the service, and holds the messages that wait for its answers.
#[derive(Debug)]
pub struct DecisionService {
    queue: Queue,
    concurrency: usize,
    asking: Asking,
}

/// The questions under way.
#[derive(Debug)]
enum Asking {
    Service(Arc<Service>, JoinSet<(Arc<str>, Verdict)>),
    /// The answers are in the hands of a test.
    #[cfg(test)]
    ByHand(Vec<Arc<str>>),
}

/// The service as one question sees it.
#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    settings: Settings,
    metrics: Metrics,
    /// Questions without an answer, in a row.
    failures: AtomicU64,
    /// The service is not asked before this time. Otherwise everything that waits would wait for
    /// one time-out after another.
    rests_until: Mutex<Option<Instant>>,
    /// While the service is not there: since when, and when that was seen last.
    absent: Mutex<Option<(Instant, Instant)>>,
}

impl DecisionService {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn new(
        settings: Settings,
        bounds: Bounds,
        metrics: Metrics,
    ) -> Result<Self, reqwest::Error> {
        let client = service_client(settings.timeout)?;
        let concurrency = settings.concurrency;
        let service = Service {
            client,
            settings,
            metrics,
            failures: AtomicU64::new(0),
            rests_until: Mutex::new(None),
            absent: Mutex::new(None),
        };
        Ok(Self {
            queue: Queue::new(bounds, concurrency),
            concurrency,
            asking: Asking::Service(Arc::new(service), JoinSet::new()),
        })
    }

    /// Asks about a message, once those before it in its conversation are decided, and once the
    /// delivery log holds it, if that is due. Returns the message if too many wait already.
    #[must_use]
    pub fn ask(&mut self, outgoing: &Outgoing<'_>, message: PendingMessage) -> Option<TurnedAway> {
        let question = question(outgoing, &message.received);
        let turned_away = self.queue.push(outgoing, message, question);
        self.send();
        turned_away
    }

    /// The delivery log holds a message.
    pub fn handle_logged(&mut self, entry: EntryId) {
        self.queue.handle_logged(entry);
        self.send();
    }

    /// A message is decided on without the service, if it was still to be logged.
    pub fn withdraw(&mut self, entry: EntryId) {
        self.queue.withdraw(entry);
        self.send();
    }

    /// Nothing more is asked, for now, about what the delivery log holds: its messages can wait.
    pub fn hold_logged(&mut self) {
        self.queue.hold_logged(true);
    }

    /// They are asked about in their turn.
    pub fn release_logged(&mut self) {
        self.queue.hold_logged(false);
        self.send();
    }

    /// Messages that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn send(&mut self) {
        while self.asking.len() < self.concurrency
            && let Some(asked) = self.queue.next()
        {
            self.asking.begin(asked);
        }
    }

    /// The next message that is decided. Waits for ever while nothing is being asked. Safe to
    /// cancel: the task keeps its answer.
    pub async fn next(&mut self) -> (PendingMessage, Verdict) {
        let (conversation, verdict) = self.asking.next().await;
        let message = self.queue.handle_answer(&conversation);
        self.send();
        (message, verdict)
    }
}

impl Asking {
    fn len(&self) -> usize {
        match self {
            Self::Service(_, asking) => asking.len(),
            #[cfg(test)]
            Self::ByHand(asking) => asking.len(),
        }
    }

    fn begin(&mut self, asked: Asked) {
        let Asked {
            conversation,
            question,
            payload,
            is_logged,
        } = asked;
        match self {
            Self::Service(service, asking) => {
                let service = service.clone();
                let began = Instant::now();
                asking.spawn(async move {
                    let decided = service.decide(question, &payload, is_logged);
                    // A panic must not end the observer: a message that is stored would end the
                    // next one, too.
                    let answer = AssertUnwindSafe(decided).catch_unwind().await;
                    let answer = answer.unwrap_or(Err(NoAnswer::Panicked));
                    let was_asked = !matches!(answer, Err(NoAnswer::Resting));
                    let took = was_asked.then(|| began.elapsed());
                    service.metrics.decided(decision(&answer), took);
                    (conversation, service.verdict(answer))
                });
            }
            #[cfg(test)]
            Self::ByHand(asking) => asking.push(conversation),
        }
    }

    async fn next(&mut self) -> (Arc<str>, Verdict) {
        let asked = match self {
            Self::Service(_, asking) => asking.join_next().await,
            #[cfg(test)]
            Self::ByHand(_) => None,
        };
        match asked {
            Some(asked) => asked.expect("asking is not cancelled, and catches panics"),
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
impl DecisionService {
    /// One that answers when [`DecisionService::answer`] says so.
    pub(crate) fn by_hand(bounds: Bounds, concurrency: usize) -> Self {
        Self {
            queue: Queue::new(bounds, concurrency),
            concurrency,
            asking: Asking::ByHand(vec![]),
        }
    }

    /// How many questions are under way.
    pub(crate) fn asked(&self) -> usize {
        self.asking.len()
    }

    /// The question at this place is answered.
    pub(crate) fn answer(&mut self, at: usize) -> PendingMessage {
        let Asking::ByHand(asking) = &mut self.asking else {
            panic!("the service answers by itself");
        };
        let conversation = asking.remove(at);
        let message = self.queue.handle_answer(&conversation);
        self.send();
        message
    }
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

fn decision(answer: &Result<Verdict, NoAnswer>) -> Decision {
    match answer {
        Ok(Verdict::Pass) => Decision::Allowed,
        Ok(Verdict::Replace(_)) => Decision::Replaced,
        Ok(Verdict::Refuse(_)) => Decision::Refused,
        Err(_) => Decision::NoAnswer,
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("it did not answer in time just now")]
    Resting,
    #[error("asking about the message panicked")]
    Panicked,
    /// The root cause, without the URL.
    #[error("{0}")]
    TimedOut(String),
    /// The root cause of any other failure of the connection.
    #[error("{0}")]
    Absent(String),
    #[error("it answers {0} instead of 200 or 204")]
    Status(u16),
    #[error("its answer is over {MAX_ANSWER_BYTES} bytes")]
    TooLong,
    #[error(transparent)]
    Unreadable(#[from] AnswerError),
}

impl Service {
    /// The log keeps a message that `is_logged`, so it may wait for a service that is not there.
    async fn decide(
        &self,
        question: Bytes,
        payload: &Bytes,
        is_logged: bool,
    ) -> Result<Verdict, NoAnswer> {
        let mut pause = FIRST_PAUSE;
        loop {
            let answer = self.ask(question.clone(), payload).await;
            let may_return = self.may_return(&answer);
            if !(is_logged && may_return) {
                return answer;
            }
            sleep(pause).await;
            pause = (2 * pause).min(LONGEST_PAUSE);
        }
    }

    /// What holds, with an answer or without one.
    fn verdict(&self, answer: Result<Verdict, NoAnswer>) -> Verdict {
        match answer {
            Ok(verdict) => {
                if self.failures.swap(0, Ordering::Relaxed) > 0 {
                    info!("the decision service answers again");
                }
                verdict
            }
            Err(fault) => self.without_answer(&fault),
        }
    }

    /// Whether there is no service, and has not been for long.
    fn may_return(&self, answer: &Result<Verdict, NoAnswer>) -> bool {
        let patience = self.settings.timeout.max(LEAST_PATIENCE);
        let now = Instant::now();
        let mut absent = self.absent.lock().expect("nobody panics holding it");
        match answer {
            Err(NoAnswer::Absent(_) | NoAnswer::Status(502..=504)) => {}
            Err(NoAnswer::Resting | NoAnswer::Panicked | NoAnswer::TimedOut(_)) => return false,
            Ok(_) | Err(NoAnswer::Status(_) | NoAnswer::TooLong | NoAnswer::Unreadable(_)) => {
                *absent = None;
                return false;
            }
        }
        // Nobody may have asked for long.
        let known = absent.filter(|(_, seen)| now < *seen + patience);
        let since = known.map_or(now, |(since, _)| since);
        *absent = Some((since, now));
        if let (None, Err(fault)) = (known, answer) {
            warn!(%fault, ?patience, "{ABSENT}");
        }
        now < since + patience
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
        panic_on(payload);
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
        match error.is_timeout() {
            true => NoAnswer::TimedOut(root_cause(error)),
            false => NoAnswer::Absent(root_cause(error)),
        }
    }
}

const ABSENT: &str = "the decision service is not there (--policy-url): it is asked again about \
    messages that are stored";
const NO_ANSWER: &str = "the decision service gives no answer (--policy-url, --policy-failure)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::pending::{Question, Via};
    use crate::protocol::id::{AppId, UserId};
    use crate::protocol::layout::Layout;
    use crate::protocol::message_id::MessageIds;
    use crate::protocol::time::UnixMillis;
    use crate::telemetry::crash_point::PANIC_WORD;

    /// A service that nobody can reach, asked about a message that is not stored.
    async fn verdict_on(payload: &'static str, on_failure: OnFailure) -> Verdict {
        let settings = Settings {
            url: "http://127.0.0.1:1/".parse().unwrap(),
            timeout: Duration::from_secs(5),
            concurrency: 2,
            on_failure,
        };
        let service = DecisionService::new(settings, Bounds::none(), Metrics::new(&[]));
        let mut service = service.unwrap();
        let layouts = Layout::built_in("chat21").unwrap();
        let outgoing = Outgoing {
            layout: &layouts[0],
            app: AppId::parse("a").unwrap(),
            sender: UserId::parse("x").unwrap(),
            recipient: UserId::parse("y").unwrap(),
        };
        let message = PendingMessage {
            entry: EntryId::for_tests(1),
            received: Received::new(Bytes::new(), payload.into(), false),
            id: MessageIds::new(std::hash::RandomState::new()).next(UnixMillis::new(1)),
            fingerprint: None,
            repeated: false,
            via: Via::Broker,
            question: Question::None,
            refused: None,
        };
        assert!(service.ask(&outgoing, message).is_none());
        service.next().await.1
    }

    #[tokio::test]
    async fn a_panic_is_no_answer() {
        for payload in ["plain", PANIC_WORD] {
            assert_eq!(verdict_on(payload, OnFailure::Pass).await, Verdict::Pass);
            let refused = verdict_on(payload, OnFailure::Refuse).await;
            assert!(matches!(refused, Verdict::Refuse(_)), "{refused:?}");
        }
    }
}
