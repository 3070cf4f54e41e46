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
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::auth::secret::Secret;
use crate::delivery::backoff::Backoff;
use crate::protocol::time::UnixMillis;
use crate::rules::webhook_event::EventKinds;
use crate::store::{
    Delivery, DeliveryResult, Demand, Disposition, FailureScope, OutboxReply, OutboxRequest,
    Waiting,
};
use crate::telemetry::{Metrics, WebhookOutcome};

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
/// From one event that an endpoint is tried with to the next: a prime, so that all have their turn.
const PROBE_STEP: usize = 13;
/// Bytes of deliveries in hand, from which on no more are taken.
const BYTES_IN_HAND: usize = 4 << 20;
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
    /// No, for good: any other status below 500 but 429.
    Refused(String),
    /// 429 or 503, with how long to wait (`Retry-After`).
    Busy { wish: String, error: String },
    /// 5xx, or none at all. Of the endpoint as a whole, or perhaps of this event alone.
    Failed { error: String, whole: bool },
}

/// One endpoint.
#[derive(Debug)]
struct EndpointQueue {
    endpoint: Endpoint,
    /// Due, and not under way yet; the oldest first.
    ready: VecDeque<Delivery>,
    /// Their places in the outbox, and those of what is under way.
    in_hand: Vec<i64>,
    /// Bytes of their bodies.
    bytes: usize,
    in_flight: usize,
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
    /// Says which event it is tried with.
    probes: usize,
    given_up: u64,
}

impl EndpointQueue {
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

    /// What is to be posted next: the oldest. An endpoint that fails is tried with any, and another each time: it may be the oldest that
    /// bring it down.
    fn next(&mut self) -> Option<Delivery> {
        if !self.fails() || self.ready.is_empty() {
            return self.ready.pop_front();
        }
        self.probes = self.probes.wrapping_add(PROBE_STEP);
        self.ready.remove(self.probes % self.ready.len())
    }

    /// It has answered. Returns whether it had failed before.
    fn answered(&mut self) -> bool {
        let failed = self.fails();
        if failed {
            info!(
                endpoint = self.endpoint.name,
                "a webhook endpoint answers again"
            );
        }
        self.failures = 0;
        self.backoff.reset();
        failed
    }

    /// It does not want an event.
    fn refused(&mut self, error: &str) {
        self.given_up += 1;
        if self.given_up.is_power_of_two() {
            warn!(
                endpoint = self.endpoint.name,
                error,
                given_up = self.given_up,
                "events that a webhook endpoint does not want are not told again (webhook list)"
            );
        }
    }

    /// It has failed, as a `whole` or with one event, which says nothing of the others, however often.
    fn failed(&mut self, event: i64, error: &str, whole: bool, now: Instant, jitter: u64) {
        let failed_before = self.fails();
        if whole {
            self.failures = self.failures.max(FAILURES);
        } else if self.last_failed != event || self.failures == 0 {
            self.failures = self.failures.saturating_add(1);
        }
        self.last_failed = event;
        if !self.fails() {
            return;
        }
        // Those that were under way with it fail for the same reason.
        if !self.rests(now) {
            // One that answers is there: no need to rest for longer each time.
            let rest = if whole {
                self.backoff.next(jitter)
            } else {
                REST.0
            };
            self.rest(now + rest);
        }
        if !failed_before {
            warn!(
                endpoint = self.endpoint.name,
                error,
                waiting = self.waiting.events,
                "a webhook endpoint fails: what it is to be told waits"
            );
        }
    }
}

/// Posts deliveries, and keeps what became of them until the daemon takes it.
#[derive(Debug)]
pub struct WebhookDispatcher {
    client: reqwest::Client,
    settings: Settings,
    key: Option<Arc<hmac::Key>>,
    lines: Vec<EndpointQueue>,
    in_flight: JoinSet<(Delivery, Answer, Duration)>,
    settled: Vec<DeliveryResult>,
    recovered: Vec<usize>,
    /// Nothing more is posted: what waits stays in the outbox.
    stopping: bool,
    metrics: Metrics,
}

impl WebhookDispatcher {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// TLS that cannot be set up.
    pub fn new(settings: Settings, metrics: Metrics, now: Instant) -> Result<Self, reqwest::Error> {
        let client = crate::http::server::client(settings.timeout)?;
        let line = |endpoint: &Endpoint| EndpointQueue {
            endpoint: endpoint.clone(),
            ready: VecDeque::new(),
            in_hand: vec![],
            bytes: 0,
            in_flight: 0,
            waiting: Waiting::default(),
            // What an earlier process has left.
            more: true,
            look_at: now,
            failures: 0,
            last_failed: 0,
            rests_until: None,
            backoff: Backoff::new(REST.0, REST.1),
            probes: 0,
            given_up: 0,
        };
        let key = settings.secret.as_ref().map(|secret| {
            let key = signing_key(secret.expose_secret()).expect("checked with the settings");
            Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key))
        });
        Ok(Self {
            client,
            key,
            lines: settings.endpoints.iter().map(line).collect(),
            settings,
            in_flight: JoinSet::new(),
            settled: vec![],
            recovered: vec![],
            stopping: false,
            metrics,
        })
    }

    /// Whether there is something to tell the outbox, or to ask it for.
    pub fn has_outbox_request(&self, now: Instant) -> bool {
        let wants = |line: &EndpointQueue| {
            let waits = line.waiting.events > 0 || !line.in_hand.is_empty();
            // What is due by now, or waits no more, only a look can tell.
            (line.more && !line.rests(now) && self.room(line) > 0) || (waits && now >= line.look_at)
        };
        self.has_settled() || (!self.stopping && self.lines.iter().any(wants))
    }

    /// Whether there is something that the outbox does not know yet.
    pub fn has_settled(&self) -> bool {
        !self.settled.is_empty() || !self.recovered.is_empty()
    }

    /// From now on nothing more is posted.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn room(&self, line: &EndpointQueue) -> usize {
        if self.stopping || line.bytes >= BYTES_IN_HAND {
            return 0;
        }
        (self.settings.concurrency * AHEAD).saturating_sub(line.in_hand.len())
    }

    /// What is wanted of the outbox; to be done once.
    pub fn take_outbox_request(&mut self, now: Instant, wall: UnixMillis) -> OutboxRequest {
        let mut room = vec![];
        for (endpoint, line) in self.lines.iter().enumerate() {
            let deliveries = if line.rests(now) { 0 } else { self.room(line) };
            room.push(Demand {
                endpoint,
                deliveries,
                in_flight: line.in_hand.clone(),
            });
        }
        for (line, room) in self.lines.iter_mut().zip(&room) {
            // The answer says whether there is.
            line.more &= room.deliveries == 0;
            line.look_at = now + LOOK_EVERY;
        }
        let age = u64::try_from(self.settings.max_age.as_millis()).unwrap_or(u64::MAX);
        OutboxRequest {
            results: std::mem::take(&mut self.settled),
            recovered: std::mem::take(&mut self.recovered),
            demands: room,
            expire_before: UnixMillis::new(wall.as_millis().saturating_sub(age)),
        }
    }

    /// What the outbox gave; `dropped`: what has given way to others.
    pub fn handle_given(
        &mut self,
        given: OutboxReply,
        dropped: &[u64],
        now: Instant,
        wall: UnixMillis,
    ) {
        for (at, (line, waiting)) in self.lines.iter_mut().zip(&given.waiting).enumerate() {
            line.waiting = *waiting;
            self.metrics
                .webhook_queue(at, waiting.events, waiting.bytes);
            let lost = |counts: &[u64]| counts.get(at).copied().unwrap_or(0);
            let name = &line.endpoint.name;
            let (expired, dropped) = (lost(&given.expired), lost(dropped));
            self.metrics
                .webhooks_lost(at, name, WebhookOutcome::Expired, expired);
            self.metrics
                .webhooks_lost(at, name, WebhookOutcome::Dropped, dropped);
            let gone = |delivery: &Delivery| given.gone.contains(&delivery.seq);
            // What is under way goes on.
            for delivery in line.ready.iter().filter(|delivery| gone(delivery)) {
                line.in_hand.retain(|seq| *seq != delivery.seq);
                line.bytes -= delivery.body.len();
            }
            line.ready.retain(|delivery| !gone(delivery));
        }
        for delivery in given.deliveries {
            let line = &mut self.lines[delivery.endpoint];
            line.in_hand.push(delivery.seq);
            line.bytes += delivery.body.len();
            line.ready.push_back(delivery);
            line.more = true;
        }
        for line in &mut self.lines {
            // What has failed and has its place back comes first.
            let ready = line.ready.make_contiguous();
            ready.sort_unstable_by_key(|delivery| delivery.seq);
        }
        self.post(now, wall);
    }

    /// Posts what may be posted now: to be called now and then, for a rest ends by itself.
    pub fn post(&mut self, now: Instant, wall: UnixMillis) {
        if self.stopping {
            return;
        }
        for line in &mut self.lines {
            let at_a_time = if line.fails() {
                1
            } else {
                self.settings.concurrency
            };
            while line.in_flight < at_a_time && !line.rests(now) {
                let Some(delivery) = line.next() else {
                    break;
                };
                line.in_flight += 1;
                let request = self
                    .client
                    .post(line.endpoint.url.clone())
                    .headers(headers(&delivery, self.key.as_deref(), wall))
                    .body(delivery.body.clone());
                self.in_flight.spawn(async move {
                    let answer = ask(request).await;
                    (delivery, answer, now.elapsed())
                });
            }
        }
    }

    /// The next answer; never, while nothing is under way. Safe to cancel.
    ///
    /// # Panics
    /// Where in_flight has panicked.
    pub async fn next(&mut self) -> Answered {
        match self.in_flight.join_next().await {
            Some(posted) => {
                let (delivery, answer, took) = posted.expect("in_flight does not panic");
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
        self.in_flight.len()
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
        line.in_flight -= 1;
        line.in_hand.retain(|seq| *seq != delivery.seq);
        line.bytes -= delivery.body.len();
        debug!(
            endpoint = line.endpoint.name,
            delivery = delivery.id,
            event = delivery.event_type,
            attempt = delivery.attempts + 1,
            ?answer,
            "webhook"
        );
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        for _ in 0..delivery.attempts.min(16) {
            backoff.next(0);
        }
        let pause = backoff.next(jitter);
        let later = |wait: Duration, error, whole| Disposition::Later {
            due: UnixMillis::new(wall.as_millis() + millis(wait)),
            error,
            scope: if whole {
                FailureScope::Endpoint
            } else {
                FailureScope::Event
            },
        };
        let (outcome, how) = match answer {
            Answer::Taken => {
                self.metrics.webhook_answered(at, took);
                self.recovered.extend(line.answered().then_some(at));
                (WebhookOutcome::Delivered, Disposition::Delivered)
            }
            Answer::Refused(error) => {
                self.metrics.webhook_answered(at, took);
                self.recovered.extend(line.answered().then_some(at));
                line.refused(&error);
                (WebhookOutcome::Refused, Disposition::GivenUp { error })
            }
            Answer::Busy { wish, error } => {
                let wish = seconds_or_date(&wish, wall).unwrap_or_default();
                // Who wishes to be asked at once would be, for ever.
                let wish = wish.clamp(REST.0, LONGEST_WISH);
                line.rest(now + wish);
                let wait = wish.max(pause);
                (WebhookOutcome::Retried, later(wait, error, true))
            }
            Answer::Failed { error, whole } => {
                line.failed(delivery.seq, &error, whole, now, jitter);
                // Three that fail one after another are not to blame, each for itself.
                let whole = whole || line.fails();
                (WebhookOutcome::Retried, later(pause, error, whole))
            }
        };
        self.metrics.webhook(at, outcome);
        self.settled.push(DeliveryResult {
            endpoint: at,
            seq: delivery.seq,
            disposition: how,
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
        for part in [&delivery.id, ".", &seconds, "."] {
            context.update(part.as_bytes());
        }
        context.update(&delivery.body);
        let tag = BASE64_STANDARD.encode(context.sign());
        set("webhook-signature", &format!("v1,{tag}"));
    }
    headers
}

async fn ask(request: reqwest::RequestBuilder) -> Answer {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            return Answer::Failed {
                error: why(error),
                whole: true,
            };
        }
    };
    let status = response.status();
    let wish = response.headers().get(RETRY_AFTER);
    let wish = wish.and_then(|wish| wish.to_str().ok().map(str::to_owned));
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES {
            break;
        }
    }
    let error = format!("answers {}", status.as_u16());
    match (status.as_u16(), wish) {
        (200..=299, _) => Answer::Taken,
        (429 | 503, Some(wish)) => Answer::Busy { wish, error },
        // What a proxy says of what stands behind it.
        (429 | 502 | 503 | 504, _) => Answer::Failed { error, whole: true },
        (500.., _) => Answer::Failed {
            error,
            whole: false,
        },
        (300..=399, _) => Answer::Refused(format!("{error}: redirects are not followed")),
        _ => Answer::Refused(error),
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
fn seconds_or_date(text: &str, now: UnixMillis) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            let left = UnixMillis::from(date).as_millis();
            Some(Duration::from_millis(left.saturating_sub(now.as_millis())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::webhook_event::EventKind;
    use bytes::Bytes;

    fn dispatcher(endpoints: &[&str], now: Instant) -> WebhookDispatcher {
        let endpoints = endpoints.iter();
        let settings = Settings {
            endpoints: endpoints.map(|url| Endpoint::parse(url).unwrap()).collect(),
            events: EventKind::ALL.into_iter().collect(),
            timeout: Duration::from_secs(1),
            concurrency: 2,
            max_age: Duration::from_secs(60),
            max_bytes: 1 << 20,
            secret: None,
        };
        WebhookDispatcher::new(settings, Metrics::new(&[]), now).unwrap()
    }

    fn delivery(seq: i64, attempts: u32) -> Delivery {
        Delivery {
            endpoint: 0,
            seq,
            id: "7e7".to_owned(),
            event_type: "message-sent".to_owned(),
            body: Bytes::from_static(b"{\"test\": 2432232314}"),
            attempts,
        }
    }

    /// What becomes of deliveries with these answers, one after another.
    fn settle(
        dispatcher: &mut WebhookDispatcher,
        now: Instant,
        answers: &[(i64, Answer)],
    ) -> Vec<Disposition> {
        for (seq, answer) in answers {
            let body = delivery(*seq, 0).body.len();
            dispatcher.lines[0].in_flight += 1;
            dispatcher.lines[0].bytes += body;
            let answered = Answered {
                delivery: delivery(*seq, 0),
                answer: answer.clone(),
                took: Duration::ZERO,
            };
            dispatcher.handle_answer(answered, now, UnixMillis::new(1_000_000), 0);
        }
        let outbox_request = dispatcher.take_outbox_request(now, UnixMillis::new(0));
        outbox_request
            .results
            .into_iter()
            .map(|result| result.disposition)
            .collect()
    }

    fn failed(whole: bool) -> Answer {
        Answer::Failed {
            error: "answers 500".to_owned(),
            whole,
        }
    }

    #[test]
    fn names_hold_no_secrets() {
        let endpoint = Endpoint::parse("https://user:pw@hooks.example:8443/a/b?token=s#x").unwrap();
        assert_eq!(endpoint.name, "https://hooks.example:8443/a/b");
        assert_eq!(format!("{endpoint:?}"), endpoint.name);
        for text in ["hooks.example", "ftp://x/", "http://", ""] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = Delivery {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned(),
            ..delivery(1, 0)
        };
        let now = UnixMillis::new(1_614_265_330_000);
        let headers = headers(&signed, Some(&key), now);
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(
            headers["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert!(signing_key("whsec_%").is_err() && signing_key("short").is_err());
        assert_eq!(signing_key("sixteen bytes or more").unwrap().len(), 21);
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    async fn answers_settle_rest_or_end_a_delivery() {
        let now = Instant::now();
        let dispatcher = &mut dispatcher(&["http://localhost/a"], now);
        let refused = Answer::Refused("answers 400".to_owned());
        assert_eq!(
            settle(dispatcher, now, &[(1, Answer::Taken), (2, refused)]),
            [
                Disposition::Delivered,
                Disposition::GivenUp {
                    error: "answers 400".to_owned()
                }
            ]
        );
        // One event that fails says nothing of the others; three do.
        let four = vec![(3, failed(false)); 4];
        for how in settle(dispatcher, now, &four) {
            let Disposition::Later { due, .. } = how else {
                panic!("{how:?}")
            };
            assert!(
                (1_000_500..=1_001_000).contains(&due.as_millis()),
                "{due:?}"
            );
        }
        assert!(!dispatcher.lines[0].fails());
        settle(dispatcher, now, &[(4, failed(false)), (5, failed(false))]);
        assert!(dispatcher.lines[0].fails() && dispatcher.lines[0].rests(now));
        let outbox_request = dispatcher.take_outbox_request(now, UnixMillis::new(0));
        assert_eq!(outbox_request.demands[0].deliveries, 0);
        let later = now + REST.0;
        assert!(!dispatcher.lines[0].rests(later));
        settle(dispatcher, later, &[]);
        dispatcher.lines[0].in_flight += 1;
        dispatcher.lines[0].bytes += delivery(4, 1).body.len();
        let answered = Answered {
            delivery: delivery(4, 1),
            answer: Answer::Taken,
            took: Duration::ZERO,
        };
        dispatcher.handle_answer(answered, later, UnixMillis::new(0), 0);
        let outbox_request = dispatcher.take_outbox_request(later, UnixMillis::new(0));
        assert_eq!(
            (outbox_request.recovered, dispatcher.lines[0].failures),
            (vec![0], 0)
        );
        // No answer at all is the endpoint's fault at once.
        settle(dispatcher, later, &[(6, failed(true))]);
        assert!(dispatcher.lines[0].rests(later));
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    async fn an_endpoint_may_say_when_it_wants_to_be_asked_again() {
        let now = Instant::now();
        let dispatcher = &mut dispatcher(&["http://localhost/a"], now);
        let busy = |wish: &str| Answer::Busy {
            wish: wish.to_owned(),
            error: "answers 429".to_owned(),
        };
        // The clock of the test stands at 1970-01-01T00:16:40Z.
        for (wish, due) in [
            ("7", 1_007_000),
            ("Thu, 01 Jan 1970 00:17:00 GMT", 1_020_000),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 1_001_000),
            ("0", 1_001_000),
            ("soon", 1_001_000),
            ("999999", 1_000_000 + 3_600_000),
        ] {
            let how = settle(dispatcher, now, &[(1, busy(wish))]);
            let [Disposition::Later { due: at, .. }] = &how[..] else {
                panic!("{how:?}")
            };
            assert_eq!(*at, UnixMillis::new(due), "{wish}");
        }
        assert!(dispatcher.lines[0].rests(now + Duration::from_secs(3599)));
        assert!(!dispatcher.lines[0].fails(), "it answers");
    }
}
