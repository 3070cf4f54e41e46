//! Webhooks: tells HTTP endpoints of what has happened (`protocol.md`, section 6).
//!
//! Owns posting events and judging the answers. Events wait in the outbox of the store; the
//! observer fetches those that are due, has them posted here, and writes the results back. No
//! message waits for an endpoint, and no endpoint waits for another.

mod endpoint;
mod endpoint_queue;
mod post;

use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use tokio::task::JoinSet;
use tracing::debug;

pub use self::endpoint::{Endpoint, EndpointError, Settings, SigningKeyError, signing_key};
use self::endpoint_queue::{EndpointQueue, REST};
use self::post::{Answer, Failure, headers, seconds_or_date};
use crate::delivery::backoff::Backoff;
use crate::http::client::service_client;
use crate::protocol::time::UnixMillis;
use crate::store::{
    Delivery, DeliveryResult, Demand, Disposition, FailureScope, OutboxReply, OutboxRequest,
};
use crate::telemetry::{Metrics, WebhookOutcome};

/// The wait before an event is tried again: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// The longest rest that an endpoint can ask for (`Retry-After`).
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(3600);
/// Deliveries in hand for each one that may be under way, so that the store is not asked for each.
const AHEAD: usize = 4;
/// Bytes of deliveries in hand from which on no more are taken.
const BYTES_IN_HAND: usize = 4 << 20;
/// How often the store is asked whether an event that was put off is due.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Posts deliveries, and keeps their results until the observer takes them.
#[derive(Debug)]
pub struct WebhookDispatcher {
    client: reqwest::Client,
    settings: Settings,
    key: Option<Arc<hmac::Key>>,
    /// One for each endpoint, in the order of the settings.
    queues: Vec<EndpointQueue>,
    in_flight: JoinSet<(Delivery, Answer, Duration)>,
    /// Results that the outbox does not have yet.
    settled: Vec<DeliveryResult>,
    /// Endpoints that answer again, as the outbox is to know.
    recovered: Vec<usize>,
    /// Nothing more is posted: what waits stays in the outbox.
    stopping: bool,
    metrics: Metrics,
}

/// An answer, and the delivery it belongs to.
#[derive(Debug)]
pub struct Answered {
    delivery: Delivery,
    answer: Answer,
    took: Duration,
}

impl WebhookDispatcher {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// TLS cannot be set up.
    ///
    /// # Panics
    /// If the secret of `settings` is none that [`signing_key`] accepts.
    pub fn new(settings: Settings, metrics: Metrics, now: Instant) -> Result<Self, reqwest::Error> {
        let client = service_client(settings.timeout)?;
        let key = settings.secret.as_ref().map(|secret| {
            let key = signing_key(secret.expose_secret()).expect("checked with the settings");
            Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &key))
        });
        let queue = |endpoint: &Endpoint| EndpointQueue::new(endpoint.clone(), now);
        Ok(Self {
            client,
            key,
            queues: settings.endpoints.iter().map(queue).collect(),
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
        let wants = |queue: &EndpointQueue| {
            let waits = queue.waiting.events > 0 || !queue.in_hand.is_empty();
            // Only a look tells what has become due, or was dropped.
            (queue.more && !queue.rests(now) && self.room(queue) > 0)
                || (waits && now >= queue.look_at)
        };
        self.has_settled() || (!self.stopping && self.queues.iter().any(wants))
    }

    /// Whether there are results that the outbox does not have yet.
    pub fn has_settled(&self) -> bool {
        !self.settled.is_empty() || !self.recovered.is_empty()
    }

    /// Posts nothing more from now on.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    fn room(&self, queue: &EndpointQueue) -> usize {
        if self.stopping || queue.bytes >= BYTES_IN_HAND {
            return 0;
        }
        (self.settings.concurrency * AHEAD).saturating_sub(queue.in_hand.len())
    }

    /// Takes the request to the outbox. It must be carried out once.
    pub fn take_outbox_request(&mut self, now: Instant, wall: UnixMillis) -> OutboxRequest {
        let mut room = vec![];
        for (endpoint, queue) in self.queues.iter().enumerate() {
            let deliveries = match queue.rests(now) {
                true => 0,
                false => self.room(queue),
            };
            room.push(Demand {
                endpoint,
                deliveries,
                in_flight: queue.in_hand.clone(),
            });
        }
        for (queue, demand) in self.queues.iter_mut().zip(&room) {
            // The reply tells whether there is more.
            queue.more &= demand.deliveries == 0;
            queue.look_at = now + LOOK_EVERY;
        }
        OutboxRequest {
            results: std::mem::take(&mut self.settled),
            recovered: std::mem::take(&mut self.recovered),
            demands: room,
            expire_before: wall.before(self.settings.max_age),
        }
    }

    /// The outbox has replied. `dropped` counts, for each endpoint, events that were dropped
    /// because too many wait.
    pub fn handle_reply(
        &mut self,
        reply: OutboxReply,
        dropped: &[u64],
        now: Instant,
        wall: UnixMillis,
    ) {
        for (at, (queue, waiting)) in self.queues.iter_mut().zip(&reply.waiting).enumerate() {
            queue.waiting = *waiting;
            let metrics = &self.metrics;
            metrics.webhook_queue(at, waiting.events, waiting.bytes);
            let name = &queue.endpoint.name;
            let lost = |counts: &[u64]| counts.get(at).copied().unwrap_or(0);
            metrics.webhooks_lost(at, name, WebhookOutcome::Expired, lost(&reply.expired));
            metrics.webhooks_lost(at, name, WebhookOutcome::Dropped, lost(dropped));
            queue.drop_gone(&reply.gone);
        }
        for delivery in reply.deliveries {
            self.queues[delivery.endpoint].add(delivery);
        }
        for queue in &mut self.queues {
            queue.sort();
        }
        self.post(now, wall);
    }

    /// Posts everything that may be posted now. Call it from time to time: a rest ends by itself.
    pub fn post(&mut self, now: Instant, wall: UnixMillis) {
        if self.stopping {
            return;
        }
        for queue in &mut self.queues {
            let at_a_time = match queue.fails() {
                true => 1,
                false => self.settings.concurrency,
            };
            while queue.in_flight < at_a_time && !queue.rests(now) {
                let Some(delivery) = queue.next() else {
                    break;
                };
                queue.in_flight += 1;
                let request = self
                    .client
                    .post(queue.endpoint.url.clone())
                    .headers(headers(&delivery, self.key.as_deref(), wall))
                    .body(delivery.body.clone());
                self.in_flight.spawn(async move {
                    let answer = post::post(request).await;
                    (delivery, answer, now.elapsed())
                });
            }
        }
    }

    /// The next answer. Waits for ever while nothing is under way. Safe to cancel: the task keeps
    /// its answer.
    ///
    /// # Panics
    /// If a posting task has panicked.
    pub async fn next(&mut self) -> Answered {
        match self.in_flight.join_next().await {
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
        self.in_flight.len()
    }

    /// Events that wait, for all endpoints together.
    pub fn waiting(&self) -> i64 {
        self.queues.iter().map(|queue| queue.waiting.events).sum()
    }

    /// Judges an answer, and posts what may be posted next. `jitter` is a fresh random number.
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
        let endpoint = delivery.endpoint;
        let queue = &mut self.queues[endpoint];
        queue.settle(&delivery);
        debug!(
            endpoint = queue.endpoint.name,
            delivery = delivery.id,
            event = delivery.event_type,
            attempt = delivery.attempts + 1,
            ?answer,
            "webhook"
        );
        if matches!(answer, Answer::Taken | Answer::Refused(_)) {
            self.metrics.webhook_answered(endpoint, took);
            self.recovered.extend(queue.answered().then_some(endpoint));
        }
        let pause = pause(&delivery, jitter);
        let later = |wait: Duration, failure: Failure| Disposition::Later {
            due: UnixMillis::new(wall.as_millis() + millis(wait)),
            error: failure.error,
            scope: failure.scope,
        };
        let (outcome, how) = match answer {
            Answer::Taken => (WebhookOutcome::Delivered, Disposition::Delivered),
            Answer::Refused(error) => {
                queue.refused(&error);
                (WebhookOutcome::Refused, Disposition::GivenUp { error })
            }
            Answer::Busy { retry_after, error } => {
                let rest = seconds_or_date(&retry_after, wall).unwrap_or_default();
                // A Retry-After of zero must not cause a busy loop.
                let rest = rest.clamp(REST.0, LONGEST_RETRY_AFTER);
                queue.rest(now + rest);
                let scope = FailureScope::Endpoint;
                let how = later(rest.max(pause), Failure { error, scope });
                (WebhookOutcome::Retried, how)
            }
            Answer::Failed(mut failure) => {
                queue.failed(delivery.seq, &failure, now, jitter);
                // If several events fail one after another, the endpoint is to blame, not each
                // event.
                if queue.fails() {
                    failure.scope = FailureScope::Endpoint;
                }
                (WebhookOutcome::Retried, later(pause, failure))
            }
        };
        self.metrics.webhook(endpoint, outcome);
        self.settled.push(DeliveryResult {
            endpoint,
            seq: delivery.seq,
            disposition: how,
        });
        self.post(now, wall);
    }
}

/// The wait before a delivery is tried again, after the attempts it has had.
fn pause(delivery: &Delivery, jitter: u64) -> Duration {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    for _ in 0..delivery.attempts.min(16) {
        backoff.next(0);
    }
    backoff.next(jitter)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
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
            events: EventKind::ALL.iter().copied().collect(),
            timeout: Duration::from_secs(1),
            concurrency: 2,
            max_age: Duration::from_secs(60),
            max_bytes: 1 << 20,
            secret: None,
        };
        WebhookDispatcher::new(settings, Metrics::new(&[]), now).unwrap()
    }

    pub(super) fn delivery(seq: i64, attempts: u32) -> Delivery {
        Delivery {
            endpoint: 0,
            seq,
            id: "7e7".to_owned(),
            event_type: "message-sent".to_owned(),
            body: Bytes::from_static(b"{\"test\": 2432232314}"),
            attempts,
        }
    }

    /// What is written back for deliveries with these answers, one after another.
    fn settle(
        dispatcher: &mut WebhookDispatcher,
        now: Instant,
        answers: &[(i64, Answer)],
    ) -> Vec<Disposition> {
        for (seq, answer) in answers {
            let body = delivery(*seq, 0).body.len();
            dispatcher.queues[0].in_flight += 1;
            dispatcher.queues[0].bytes += body;
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

    fn failed(scope: FailureScope) -> Answer {
        Answer::Failed(Failure {
            error: "answers 500".to_owned(),
            scope,
        })
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
        // One failing event does not make its endpoint fail; three do.
        let four = vec![(3, failed(FailureScope::Event)); 4];
        for how in settle(dispatcher, now, &four) {
            let Disposition::Later { due, .. } = how else {
                panic!("{how:?}")
            };
            assert!(
                (1_000_500..=1_001_000).contains(&due.as_millis()),
                "{due:?}"
            );
        }
        assert!(!dispatcher.queues[0].fails());
        settle(
            dispatcher,
            now,
            &[
                (4, failed(FailureScope::Event)),
                (5, failed(FailureScope::Event)),
            ],
        );
        assert!(dispatcher.queues[0].fails() && dispatcher.queues[0].rests(now));
        let outbox_request = dispatcher.take_outbox_request(now, UnixMillis::new(0));
        assert_eq!(outbox_request.demands[0].deliveries, 0);
        let later = now + REST.0;
        assert!(!dispatcher.queues[0].rests(later));
        settle(dispatcher, later, &[]);
        dispatcher.queues[0].in_flight += 1;
        dispatcher.queues[0].bytes += delivery(4, 1).body.len();
        let answered = Answered {
            delivery: delivery(4, 1),
            answer: Answer::Taken,
            took: Duration::ZERO,
        };
        dispatcher.handle_answer(answered, later, UnixMillis::new(0), 0);
        let outbox_request = dispatcher.take_outbox_request(later, UnixMillis::new(0));
        assert_eq!(
            (outbox_request.recovered, dispatcher.queues[0].failures),
            (vec![0], 0)
        );
        // No answer at all makes the endpoint fail at once.
        settle(dispatcher, later, &[(6, failed(FailureScope::Endpoint))]);
        assert!(dispatcher.queues[0].rests(later));
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    async fn an_endpoint_may_say_when_it_wants_to_be_asked_again() {
        let now = Instant::now();
        let dispatcher = &mut dispatcher(&["http://localhost/a"], now);
        let busy = |wish: &str| Answer::Busy {
            retry_after: wish.to_owned(),
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
        assert!(dispatcher.queues[0].rests(now + Duration::from_secs(3599)));
        assert!(!dispatcher.queues[0].fails(), "it answers");
    }
}
