//! Webhooks: tells HTTP endpoints of what has happened (`protocol.md`, section 6). Events wait in the outbox of the store; the daemon
//! fetches those that are due, has them posted here, and takes back what became of them. Nothing here makes a message wait.
//!
//! Each endpoint is told the oldest first, several at a time, and has its own troubles: one that fails rests, for longer each time, and
//! is then tried with one event, while what waits for the others goes on.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::backoff::Backoff;
use crate::broker::Secret;
use crate::event::EventKinds;
use crate::store::{Delivery, Errand, How, Room, Settled, Waiting};
use crate::telemetry::{Metrics, WebhookOutcome};
use crate::time::UnixMillis;

/// The first wait before an event is told again, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The same for an endpoint that fails: how long it is left alone.
const REST: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The longest rest an endpoint can ask for (`Retry-After`).
const LONGEST_WISH: Duration = Duration::from_secs(3600);
/// Events that fail one after another, each with an answer, before their endpoint counts as failing.
const FAILURES: u32 = 3;
/// Deliveries in hand for each that can be under way: the store is not asked for each of them.
const AHEAD: usize = 4;
/// Bytes of an answer that are read, so that the connection can be used again; nobody looks at them.
const ANSWER_BYTES: usize = 64 << 10;
/// How often the store is asked whether something that was put off is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Where an endpoint is.
#[derive(Clone)]
pub struct Endpoint {
    /// What is posted to. It may hold a secret.
    pub url: reqwest::Url,
    /// The same without user, password and query: its name in the store, in logs and metrics.
    pub name: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    /// The rule it breaks, in words that do not repeat it.
    pub fn parse(text: &str) -> Result<Self, String> {
        match reqwest::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => {
                let mut shown = url.clone();
                shown.set_query(None);
                shown.set_fragment(None);
                // They can only fail where there is no host.
                let _ = shown.set_password(None);
                let _ = shown.set_username("");
                Ok(Self {
                    name: shown.to_string(),
                    url,
                })
            }
            _ => Err(
                "one of them is not a URL such as http://tiledesk-server:3000/chat21/requests"
                    .to_owned(),
            ),
        }
    }
}

/// Who is told of what, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whom; their names differ.
    pub endpoints: Vec<Endpoint>,
    /// Of what.
    pub events: EventKinds,
    /// How long an endpoint may take to answer.
    pub timeout: Duration,
    /// Deliveries under way at a time, for each endpoint.
    pub concurrency: usize,
    /// An event that is older is given up.
    pub max_age: Duration,
    /// Bytes of events that may wait for one endpoint, before the oldest give way.
    pub max_bytes: u64,
    /// What deliveries are signed with.
    pub secret: Option<Secret>,
}

impl Settings {
    /// The endpoints' names.
    pub fn names(&self) -> Vec<String> {
        let names = self.endpoints.iter();
        names.map(|endpoint| endpoint.name.clone()).collect()
    }
}

/// The bytes of a signing secret: as Standard Webhooks has it (`whsec_` and Base64), or any text.
///
/// # Errors
/// What is wrong with it, in words that do not repeat it.
pub fn signing_key(secret: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = match secret.strip_prefix("whsec_") {
        Some(encoded) => BASE64_STANDARD
            .decode(encoded)
            .map_err(|_| "begins with whsec_, and what follows is not Base64")?,
        None => secret.as_bytes().to_vec(),
    };
    if bytes.len() < 16 {
        return Err("is shorter than 16 bytes: it could be guessed");
    }
    Ok(bytes)
}

/// What an attempt came to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Answer {
    /// 2xx.
    Taken,
    /// Another status that is final.
    Refused(StatusCode),
    /// 429, or 503, with how long to wait if it says so.
    Busy(StatusCode, Option<Duration>),
    /// 5xx.
    Failed(StatusCode),
    /// None at all, and why.
    None(String),
}

/// One endpoint.
#[derive(Debug)]
struct Line {
    endpoint: Endpoint,
    /// Due, and not under way yet; the oldest first.
    ready: VecDeque<Delivery>,
    /// Their places in the outbox, and those of what is under way.
    in_hand: Vec<i64>,
    posting: usize,
    /// What waits in the outbox, those among it.
    waiting: Waiting,
    /// There may be more that is due.
    more: bool,
    /// Not asked about before then, unless something has changed.
    look_at: Instant,
    /// Events that failed one after another.
    failures: u32,
    last_failed: i64,
    /// It is left alone until then.
    rests_until: Option<Instant>,
    backoff: Backoff,
    given_up: u64,
}

impl Line {
    /// Whether it fails: then one event at a time is tried.
    fn fails(&self) -> bool {
        self.failures >= FAILURES
    }

    fn rests(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }

    fn rest(&mut self, until: Instant) {
        self.rests_until = self.rests_until.max(Some(until));
    }
}

/// Posts deliveries, and keeps what became of them until the daemon takes it.
#[derive(Debug)]
pub struct Courier {
    client: reqwest::Client,
    settings: Settings,
    key: Option<Arc<hmac::Key>>,
    lines: Vec<Line>,
    posting: JoinSet<(Delivery, Answer, Duration)>,
    settled: Vec<Settled>,
    recovered: Vec<usize>,
    metrics: Metrics,
}

impl Courier {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(settings: Settings, metrics: Metrics, now: Instant) -> Result<Self, reqwest::Error> {
        // There may be one already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(settings.timeout)
            .redirect(redirect::Policy::none())
            .user_agent(concat!("chat21-observer/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let line = |endpoint: &Endpoint| Line {
            endpoint: endpoint.clone(),
            ready: VecDeque::new(),
            in_hand: vec![],
            posting: 0,
            waiting: Waiting::default(),
            // What an earlier process has left.
            more: true,
            look_at: now,
            failures: 0,
            last_failed: 0,
            rests_until: None,
            backoff: Backoff::new(REST.0, REST.1),
            given_up: 0,
        };
        let key = settings.secret.as_ref().map(|secret| {
            let key = signing_key(secret.reveal()).expect("checked with the settings");
            Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key))
        });
        Ok(Self {
            client,
            key,
            lines: settings.endpoints.iter().map(line).collect(),
            settings,
            posting: JoinSet::new(),
            settled: vec![],
            recovered: vec![],
            metrics,
        })
    }

    /// Whether there is something to tell the outbox, or to ask it for.
    pub fn has_errand(&self, now: Instant) -> bool {
        let wants = |line: &Line| {
            let behind = i64::try_from(line.in_hand.len()).is_ok_and(|n| n < line.waiting.events);
            let due = line.more || (behind && now >= line.look_at);
            due && !line.rests(now) && self.room(line) > 0
        };
        !self.settled.is_empty() || !self.recovered.is_empty() || self.lines.iter().any(wants)
    }

    fn room(&self, line: &Line) -> usize {
        (self.settings.concurrency * AHEAD).saturating_sub(line.in_hand.len())
    }

    /// What is wanted of the outbox; to be done once.
    pub fn take_errand(&mut self, now: Instant, wall: UnixMillis) -> Errand {
        let mut room = vec![];
        for (endpoint, line) in self.lines.iter().enumerate() {
            let deliveries = self.room(line);
            if deliveries > 0 && !line.rests(now) {
                room.push(Room {
                    endpoint,
                    deliveries,
                    in_hand: line.in_hand.clone(),
                });
            }
        }
        for wanted in &room {
            let line = &mut self.lines[wanted.endpoint];
            // The answer says whether there is.
            line.more = false;
            line.look_at = now + LOOK_EVERY;
        }
        let age = u64::try_from(self.settings.max_age.as_millis()).unwrap_or(u64::MAX);
        Errand {
            settled: std::mem::take(&mut self.settled),
            recovered: std::mem::take(&mut self.recovered),
            room,
            not_before: UnixMillis::new(wall.as_millis().saturating_sub(age)),
        }
    }

    /// What the outbox gave.
    pub fn handle_given(
        &mut self,
        deliveries: Vec<Delivery>,
        waiting: &[Waiting],
        now: Instant,
        wall: UnixMillis,
    ) {
        for (at, (line, waiting)) in self.lines.iter_mut().zip(waiting).enumerate() {
            line.waiting = *waiting;
            self.metrics
                .webhook_queue(at, waiting.events, waiting.bytes);
        }
        for delivery in deliveries {
            let line = &mut self.lines[delivery.endpoint];
            line.in_hand.push(delivery.seq);
            line.ready.push_back(delivery);
            line.more = true;
        }
        self.post(now, wall);
    }

    /// Posts what may be posted now: to be called now and then, for a rest ends by itself.
    pub fn post(&mut self, now: Instant, wall: UnixMillis) {
        for line in &mut self.lines {
            let at_a_time = if line.fails() {
                1
            } else {
                self.settings.concurrency
            };
            while line.posting < at_a_time && !line.rests(now) {
                let Some(delivery) = line.ready.pop_front() else {
                    break;
                };
                line.posting += 1;
                let request = self
                    .client
                    .post(line.endpoint.url.clone())
                    .headers(headers(&delivery, self.key.as_deref(), wall))
                    .body(delivery.body.clone());
                self.posting.spawn(async move {
                    let since = now;
                    let answer = ask(request).await;
                    (delivery, answer, since.elapsed())
                });
            }
        }
    }

    /// The next answer; never, while nothing is under way. Safe to cancel.
    ///
    /// # Panics
    /// Where posting has panicked.
    pub async fn next(&mut self) -> Answered {
        match self.posting.join_next().await {
            Some(posted) => {
                let (delivery, answer, took) = posted.expect("posting does not panic");
                Answered {
                    delivery,
                    answer,
                    took,
                }
            }
            None => std::future::pending().await,
        }
    }

    /// Deliveries under way.
    pub fn under_way(&self) -> usize {
        self.posting.len()
    }

    /// Events that wait, for all endpoints together.
    pub fn waiting(&self) -> i64 {
        self.lines.iter().map(|line| line.waiting.events).sum()
    }

    /// Takes note of an answer, and goes on. `jitter` is a fresh random number.
    pub fn handle_answer(
        &mut self,
        answered: Answered,
        now: Instant,
        wall: UnixMillis,
        jitter: u64,
    ) {
        let Answered {
            delivery,
            answer,
            took,
        } = answered;
        let at = delivery.endpoint;
        let line = &mut self.lines[at];
        line.posting -= 1;
        line.in_hand.retain(|seq| *seq != delivery.seq);
        let endpoint = line.endpoint.name.clone();
        debug!(%endpoint, delivery = delivery.id, event = delivery.event_type, attempt = delivery.attempts + 1, ?answer, "webhook");
        let again = |wait: Duration| UnixMillis::new(wall.as_millis() + millis(wait));
        let mut outcome = WebhookOutcome::Retried;
        let how = match answer {
            Answer::Taken | Answer::Refused(_) => {
                self.metrics.webhook_answered(at, took);
                if line.failures > 0 {
                    if line.fails() {
                        info!(%endpoint, "the webhook endpoint answers again");
                        self.recovered.push(at);
                    }
                    line.failures = 0;
                    line.backoff.reset();
                }
                line.rests_until = line.rests_until.filter(|until| now < *until);
                match answer {
                    Answer::Refused(status) => {
                        outcome = WebhookOutcome::Refused;
                        line.given_up += 1;
                        let redirects = if status.is_redirection() {
                            ": redirects are not followed"
                        } else {
                            ""
                        };
                        let error = format!("answers {}{redirects}", status.as_u16());
                        if line.given_up.is_power_of_two() {
                            let given_up = line.given_up;
                            warn!(%endpoint, %error, given_up, "events that a webhook endpoint does not want are not told again (webhook list)");
                        }
                        How::GivenUp { error }
                    }
                    _ => {
                        outcome = WebhookOutcome::Delivered;
                        How::Delivered
                    }
                }
            }
            Answer::Busy(status, Some(wish)) => {
                let wish = wish.min(LONGEST_WISH);
                line.rest(now + wish);
                How::Later {
                    due: again(wish),
                    error: format!("answers {}", status.as_u16()),
                }
            }
            Answer::Busy(..) | Answer::Failed(_) | Answer::None(_) => {
                let (error, at_once) = match answer {
                    Answer::Busy(status, _) => (format!("answers {}", status.as_u16()), true),
                    Answer::Failed(status) => (format!("answers {}", status.as_u16()), false),
                    Answer::None(error) => (error, true),
                    Answer::Taken | Answer::Refused(_) => unreachable!("handled above"),
                };
                let failed_before = line.fails();
                // One event that fails again and again says nothing of the others.
                if line.last_failed != delivery.seq || line.failures == 0 || at_once {
                    line.failures = line.failures.saturating_add(1);
                }
                line.last_failed = delivery.seq;
                if at_once {
                    line.failures = line.failures.max(FAILURES);
                }
                // Those that were under way with it fail for the same reason.
                if line.fails() && !line.rests(now) {
                    let rest = line.backoff.next(jitter);
                    line.rest(now + rest);
                }
                if line.fails() && !failed_before {
                    warn!(%endpoint, %error, waiting = line.waiting.events, "a webhook endpoint fails: what it is to be told waits");
                }
                let mut backoff = Backoff::new(RETRY.0, RETRY.1);
                for _ in 0..delivery.attempts.min(16) {
                    backoff.next(0);
                }
                How::Later {
                    due: again(backoff.next(jitter)),
                    error,
                }
            }
        };
        self.metrics.webhook(at, outcome);
        self.settled.push(Settled {
            endpoint: at,
            seq: delivery.seq,
            how,
        });
        self.post(now, wall);
    }
}

/// An answer, with what it is about.
#[derive(Debug)]
pub struct Answered {
    delivery: Delivery,
    answer: Answer,
    took: Duration,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The headers of Standard Webhooks: receivers know a repetition by `webhook-id`, and have libraries that check the signature.
fn headers(delivery: &Delivery, key: Option<&hmac::Key>, now: UnixMillis) -> HeaderMap {
    let seconds = (now.as_millis() / 1000).to_string();
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, text: &str| {
        headers.insert(name, text.parse().expect("visible ASCII"));
    };
    set("content-type", "application/json");
    set("webhook-id", &delivery.id);
    set("webhook-timestamp", &seconds);
    if let Some(key) = key {
        let mut context = hmac::Context::with_key(key);
        for part in [&delivery.id, ".", &seconds, ".", &delivery.body] {
            context.update(part.as_bytes());
        }
        let tag = BASE64_STANDARD.encode(context.sign());
        set("webhook-signature", &format!("v1,{tag}"));
    }
    headers
}

async fn ask(request: reqwest::RequestBuilder) -> Answer {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::None(why(error)),
    };
    let status = response.status();
    let wish = response.headers().get(RETRY_AFTER).and_then(|wish| {
        let wish = wish.to_str().ok()?;
        seconds_or_date(wish, std::time::SystemTime::now)
    });
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES {
            break;
        }
    }
    match status.as_u16() {
        200..=299 => Answer::Taken,
        429 | 503 => Answer::Busy(status, wish),
        500.. => Answer::Failed(status),
        _ => Answer::Refused(status),
    }
}

/// Without the URL, which may hold a secret.
fn why(error: reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    format!("no answer: {text}")
}

/// `Retry-After` (RFC 9110, 10.2.3).
fn seconds_or_date(text: &str, now: impl FnOnce() -> std::time::SystemTime) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now()).unwrap_or_default())
        }
    }
}
