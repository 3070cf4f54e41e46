//! The decision service: an HTTP endpoint of the operator's that may refuse a message, or put other words in its place
//! (`--policy-url`). It is asked after every check that needs no store, and before the message is decided on.
//!
//! Messages of one conversation are asked about one after another, so that their order holds; those of different conversations at the
//! same time, up to a limit. What waits is bounded by the messages under way.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::delivery::pending::PendingMessage;
use crate::protocol::layout::{Outgoing, PayloadMode};
use crate::protocol::message::{Received, parse_object, raw};
use crate::protocol::refusal::{Refusal, Refused};

/// The longest answer read, in bytes: what can be put in a message's place is bounded by what a message may be.
const MAX_ANSWER_BYTES: usize = 4 << 20;

/// Questions without an answer, one after another, after which it is left alone for a while when it does not answer in time: one that is
/// slow about somebody's message must not keep the others from being asked about.
const SILENT: u64 = 10;
/// The part of the window that one conversation may wait in: a fourth.
const SHARE: usize = 4;

/// How the service is asked.
#[derive(Clone)]
pub struct Settings {
    /// Where it is; `http` or `https`.
    pub url: reqwest::Url,
    /// How long it may take.
    pub timeout: Duration,
    /// Questions at a time.
    pub concurrency: usize,
    /// What holds when it gives no answer: whether messages pass.
    pub open: bool,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its URL may hold a password, or a key in its query.
        let host = self.url.host_str().unwrap_or_default();
        write!(f, "Settings({host}, open: {})", self.open)
    }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It passes as it is.
    Pass,
    /// It passes with this payload.
    Replace(Bytes),
    /// It does not pass.
    Refuse(Refused),
}

/// What the service is sent.
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

/// What it answers.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    decision: Decision,
    reason: Option<String>,
    detail: Option<Box<str>>,
    text: Option<Box<RawValue>>,
    attributes: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Decision {
    Allow,
    Refuse,
    Replace,
}

/// A message, and what is to be asked about it; nothing, once it has been.
#[derive(Debug)]
struct Queued {
    job: PendingMessage,
    question: Option<Bytes>,
}

/// Asks, and keeps what waits for an answer.
#[derive(Debug)]
pub struct DecisionService {
    service: Arc<Service>,
    concurrency: usize,
    /// So many of one conversation may wait.
    most: usize,
    /// By conversation; the first of each is being asked about, or about to be.
    conversations: HashMap<Arc<str>, VecDeque<Queued>>,
    /// Conversations whose first nobody has asked about yet.
    ready: VecDeque<Arc<str>>,
    asking: JoinSet<(Arc<str>, Verdict)>,
}

#[derive(Debug)]
struct Service {
    client: reqwest::Client,
    settings: Settings,
    /// Questions without an answer, one after another.
    failures: AtomicU64,
    /// It does not answer in time, and is not asked again before then: what waits must not wait for each question anew.
    resting: Mutex<Option<Instant>>,
}

impl DecisionService {
    /// Connects to nothing yet. `window`: messages under way at a time.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(settings: Settings, window: usize) -> Result<Self, reqwest::Error> {
        let client = crate::http::server::client(settings.timeout)?;
        Ok(Self {
            concurrency: settings.concurrency,
            most: (window / SHARE).max(1),
            service: Arc::new(Service {
                client,
                settings,
                failures: AtomicU64::new(0),
                resting: Mutex::new(None),
            }),
            conversations: HashMap::new(),
            ready: VecDeque::new(),
            asking: JoinSet::new(),
        })
    }

    /// Asks about a message, when those before it in its conversation have been decided on. Returns it, if more of them wait than may.
    #[must_use]
    pub fn ask(&mut self, outgoing: &Outgoing<'_>, job: PendingMessage) -> Option<PendingMessage> {
        let Outgoing {
            app,
            sender,
            recipient,
            ..
        } = outgoing;
        // No identifier holds a slash.
        let key: Arc<str> = if recipient.is_group() {
            format!("{app}/{recipient}").into()
        } else {
            let (one, other) = (sender.as_str(), recipient.as_str());
            format!("{app}/{}/{}", one.min(other), one.max(other)).into()
        };
        let question = Some(question(outgoing, &job.received));
        let conversation = self.conversations.entry(key.clone()).or_default();
        if conversation.len() >= self.most {
            return Some(job);
        }
        conversation.push_back(Queued { job, question });
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
            if let Some(question) = first.and_then(|asked| asked.question.take()) {
                let payload = self.conversations[&key][0].job.received.payload.clone();
                let service = self.service.clone();
                self.asking.spawn(async move {
                    let verdict = service.decide(question, &payload).await;
                    (key, verdict)
                });
            }
        }
    }

    /// The next message that has been decided on; never, while nothing is being asked. Safe to cancel.
    ///
    /// # Panics
    /// Where asking has panicked.
    pub async fn next(&mut self) -> (PendingMessage, Verdict) {
        let (key, verdict) = match self.asking.join_next().await {
            Some(asked) => asked.expect("asking does not panic"),
            None => std::future::pending().await,
        };
        let conversation = self.conversations.get_mut(&key);
        let waiting = conversation.expect("what is asked about waits");
        let asked = waiting.pop_front().expect("what is asked about waits");
        if waiting.is_empty() {
            self.conversations.remove(&key);
        } else {
            self.ready.push_back(key);
        }
        self.send();
        (asked.job, verdict)
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

impl Service {
    async fn decide(&self, question: Bytes, payload: &Bytes) -> Verdict {
        let asked = match self.rests() {
            true => Err("it did not answer in time just now".to_owned()),
            false => self.ask(question).await,
        };
        let answer = match asked {
            Ok(Some(answer)) => read(&answer, payload),
            Ok(None) => Ok(Verdict::Pass),
            Err(fault) => Err(fault),
        };
        match answer {
            Ok(verdict) => {
                if self.failures.swap(0, Ordering::Relaxed) > 0 {
                    info!("the decision service answers again");
                }
                verdict
            }
            Err(fault) => {
                let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
                let open = self.settings.open;
                if failures.is_power_of_two() {
                    warn!(%fault, failures, open, "the decision service gives no answer (--policy-url, --policy-failure)");
                }
                if open {
                    return Verdict::Pass;
                }
                Verdict::Refuse(Refused {
                    detail: Some("no decision could be had".into()),
                    ..Refusal::Unauthorized.into()
                })
            }
        }
    }

    fn rests(&self) -> bool {
        let until = *self.resting.lock().expect("nobody panics holding it");
        until.is_some_and(|until| Instant::now() < until)
    }

    async fn ask(&self, question: Bytes) -> Result<Option<Vec<u8>>, String> {
        // Not its URL, which may hold a secret.
        let said = |error: reqwest::Error| {
            if error.is_timeout() && self.failures.load(Ordering::Relaxed) >= SILENT {
                let until = Instant::now() + self.settings.timeout;
                *self.resting.lock().expect("nobody panics holding it") = Some(until);
            }
            let error = error.without_url();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("{error}{}", cause.unwrap_or_default())
        };
        let request = self
            .client
            .post(self.settings.url.clone())
            .header("content-type", "application/json")
            .body(question);
        let mut response = request.send().await.map_err(said)?;
        match response.status().as_u16() {
            200 => {}
            204 => return Ok(None),
            status => return Err(format!("it answers {status} instead of 200 or 204")),
        }
        let mut answer = vec![];
        while let Some(chunk) = response.chunk().await.map_err(said)? {
            if answer.len() + chunk.len() > MAX_ANSWER_BYTES {
                return Err(format!("its answer is over {MAX_ANSWER_BYTES} bytes"));
            }
            answer.extend_from_slice(&chunk);
        }
        Ok(Some(answer))
    }
}

/// What an answer means for a message with this payload.
fn read(answer: &[u8], payload: &Bytes) -> Result<Verdict, String> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        format!(
            r#"its answer is not such as {{"decision":"allow"}}, "refuse" with "reason" and "detail", or "replace" with "text" and "attributes" (line {line}, column {column})"#
        )
    })?;
    match answer.decision {
        Decision::Allow => Ok(Verdict::Pass),
        Decision::Refuse => {
            let reason = match answer.reason {
                None => Refusal::Unauthorized,
                Some(word) => word
                    .parse::<Refusal>()
                    .ok()
                    // The sender would be told.
                    .filter(|reason| *reason != Refusal::Blocked)
                    .ok_or_else(|| format!("{word:?} is no reason for a refusal of its"))?,
            };
            Ok(Verdict::Refuse(Refused {
                detail: answer.detail,
                ..reason.into()
            }))
        }
        Decision::Replace => {
            let mut members = parse_object(payload)
                .map_err(|_| "it replaces words of a message that is no JSON object".to_owned())?;
            for (name, value) in [("text", answer.text), ("attributes", answer.attributes)] {
                if let Some(value) = value {
                    members.insert(name.to_owned(), value);
                }
            }
            Ok(Verdict::Replace(raw(&members).get().to_owned().into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(answer: &Value) -> Result<Verdict, String> {
        let payload = Bytes::from_static(br#"{"text":"bad words","n":1,"text":"twice"}"#);
        read(answer.to_string().as_bytes(), &payload)
    }

    #[test]
    fn answers_are_read_or_named() {
        assert_eq!(verdict(&json!({"decision": "allow"})), Ok(Verdict::Pass));
        let refused = |reason: Refusal, detail: Option<&str>| {
            Ok(Verdict::Refuse(Refused {
                detail: detail.map(Into::into),
                ..reason.into()
            }))
        };
        assert_eq!(
            verdict(&json!({"decision": "refuse"})),
            refused(Refusal::Unauthorized, None)
        );
        assert_eq!(
            verdict(&json!({"decision": "refuse", "reason": "banned", "detail": "spam"})),
            refused(Refusal::Banned, Some("spam"))
        );
        let replaced =
            verdict(&json!({"decision": "replace", "text": "***", "attributes": {"a": 1}}));
        let Ok(Verdict::Replace(payload)) = replaced else {
            panic!("{replaced:?}")
        };
        assert_eq!(
            serde_json::from_slice::<Value>(&payload).unwrap(),
            json!({"text": "***", "n": 1, "attributes": {"a": 1}})
        );
        assert!(!String::from_utf8_lossy(&payload).contains("twice"));
        for (faulty, said) in [
            (
                json!({"decision": "refuse", "reason": "blocked"}),
                "\"blocked\"",
            ),
            (json!({"decision": "refuse", "reason": "mood"}), "\"mood\""),
            (json!({"decision": "perhaps"}), "is not such as"),
            (json!({"allow": true}), "is not such as"),
            (json!([]), "is not such as"),
        ] {
            let error = verdict(&faulty).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let bytes = Bytes::from_static(b"\xff");
        assert!(read(br#"{"decision":"replace","text":"x"}"#, &bytes).is_err());
    }
}
