//! Whether messages come through the exchange by which the broker shares them out.
//!
//! With `--sharing hash` the session of a slot subscribes to nothing but the observer's own topics:
//! what users write comes because the broker's operator has bound its queue. Owns the proof that it
//! does: messages that the slots send through the exchange. Leaves the names of its topics and
//! bindings to `protocol`.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::observer::event_loop::Observer;
use crate::protocol::publish::Publish;
use crate::protocol::topic::TopicName;
use crate::telemetry::clock::Now;

/// How many messages are sent at a time, on topics that differ: each slot should get one of them.
const PROBES: usize = 16;
/// The pause before more are sent, as long as none has come.
const PAUSE: Duration = Duration::from_secs(2);
/// The same once one has come.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// After so long without any, nothing comes.
const PATIENCE: Duration = Duration::from_secs(30);

const NOTHING: &str = "nothing comes from the exchange at the broker: import what `slots rabbitmq` \
                       prints with these settings";

/// What is known of the way through the exchange.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// When a message that proves it has come last, on any connection. What users write does not:
    /// it may have waited in the session.
    came: Option<Instant>,
    asked: Option<Instant>,
    /// How many messages were sent: each has a topic of its own.
    sent: u64,
}

impl Exchange {
    /// A message has come that was sent to prove it.
    pub(super) fn note(&mut self, now: Instant) {
        self.came = Some(now);
    }

    /// The session was made anew: nothing is bound to its queue.
    pub(super) fn forget(&mut self) {
        (self.came, self.asked) = (None, None);
    }

    fn is_proved(&self, now: Instant) -> bool {
        self.came.is_some_and(|came| now < came + PATIENCE)
    }

    /// Whether messages are to be sent through it.
    fn poll(&mut self, now: Instant) -> bool {
        let pause = if self.is_proved(now) {
            LOOK_AGAIN
        } else {
            PAUSE
        };
        let is_due = self.asked.is_none_or(|asked| now >= asked + pause);
        if is_due {
            self.asked = Some(now);
        }
        is_due
    }

    /// What is wrong, as far as it is known.
    fn fault(&self, now: Instant) -> Option<String> {
        (!self.is_proved(now)).then(|| NOTHING.to_owned())
    }
}

impl Observer {
    /// What keeps this slot from serving its share.
    pub(super) fn sharing_fault(&self, now: Instant) -> Option<String> {
        let sharing = self.sharing.as_ref()?;
        match sharing.is_by_hash() {
            true => self.exchange.fault(now),
            false => sharing.fault(),
        }
    }

    /// Sends messages through the exchange from time to time.
    pub(super) fn tick_exchange(&mut self, now: Now) {
        let Some(sharing) = self.sharing.as_ref().filter(|sharing| sharing.is_by_hash()) else {
            return;
        };
        let can = self.session.is_subscribed() && self.publishers.all_up();
        if !can || !self.exchange.poll(now.instant) {
            return;
        }
        for _ in 0..PROBES {
            self.exchange.sent += 1;
            let (since, sent) = (now.wall.as_millis(), self.exchange.sent);
            if let Some(topic) = sharing.share_topic(&format!("{since}-{sent}")) {
                let probe = Publish::new(topic, Bytes::from_static(b"probe"));
                self.publishers.publish_unconfirmed(&probe);
            }
        }
    }

    /// Says that this slot has got a message that was sent to find out whom the exchange gives it.
    pub(super) fn answer_share(&self, level: &str) {
        let topic = format!("observer/{}/share/{level}", self.reporter.topics.name());
        if let Ok(topic) = TopicName::parse(&topic) {
            let answer = Publish::new(topic, Bytes::from_static(b"here"));
            self.publishers.publish_unconfirmed(&answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::clock::Clock;

    #[test]
    fn it_is_asked_until_something_comes_and_again_later() {
        let mut exchange = Exchange::default();
        let began = Clock.now().instant;
        assert!(exchange.fault(began).is_some() && exchange.poll(began));
        assert!(!exchange.poll(began + PAUSE / 2) && exchange.poll(began + PAUSE));
        exchange.note(began + PAUSE);
        assert_eq!(exchange.fault(began + PATIENCE), None);
        assert!(!exchange.poll(began + LOOK_AGAIN));
        assert!(exchange.poll(began + PAUSE + LOOK_AGAIN));
        assert!(exchange.fault(began + PAUSE + PATIENCE).is_some());
        exchange.note(began + PATIENCE * 2);
        exchange.forget();
        assert!(exchange.fault(began + PATIENCE * 2).is_some());
    }
}
