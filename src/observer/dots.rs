//! Whether identifiers with a `.` are safe at this broker, where the settings leave that open.
//!
//! Owns the wait for the answer and what follows from it. While nothing is known, no message is
//! taken; where a `.` does not survive, the checks refuse identifiers with a `.` as unroutable,
//! wherever they come from. Leaves asking to [`dot_probe`](crate::connections::dot_probe).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::connections::dot_probe::{Dots, probe_dots};
use crate::connections::link::LinkSettings;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::topic::TopicName;
use crate::rules::policy::Policy;

/// How long messages may wait for the answer. After that identifiers with a `.` are refused until
/// it comes.
const PATIENCE: Duration = Duration::from_secs(10);

const SPLIT: &str = "this broker turns a \".\" in a topic into a level break, as RabbitMQ does: \
    identifiers with a \".\" are refused as unroutable";
const UNKNOWN: &str = "it cannot be found out whether a \".\" in a topic survives at this broker: \
    identifiers with a \".\" are refused as unroutable (--broker-kind)";

/// What is known of dots, and the task that asks.
pub(super) struct DotCheck {
    /// Empty once there is an answer, or if the settings say what the broker does.
    asking: JoinSet<Dots>,
    /// The kind of broker that stands in for [`BrokerKind::Any`].
    kind: BrokerKind,
    /// Since when messages have waited for the answer.
    waiting_since: Option<Instant>,
    /// Whether messages wait no longer.
    gave_up: bool,
}

impl DotCheck {
    /// Asks the broker, if `policy` leaves open what it does to a `.`. `topic` is one that the
    /// observer may publish and subscribe below.
    pub(super) fn start(policy: &Policy, links: &LinkSettings, topic: &TopicName) -> Self {
        let mut asking = JoinSet::new();
        if policy.broker_kind == BrokerKind::Any {
            asking.spawn(probe_dots(links.clone(), topic.clone()));
        }
        Self {
            asking,
            kind: BrokerKind::SplitsDots,
            waiting_since: None,
            gave_up: false,
        }
    }

    /// Whether messages may be taken.
    pub(super) fn lets_pass(&self) -> bool {
        self.asking.is_empty() || self.gave_up
    }

    /// The checks to go by: `policy`, with what is known of the broker in place of "any".
    pub(super) fn apply(&self, policy: Arc<Policy>) -> Arc<Policy> {
        match policy.broker_kind {
            BrokerKind::Any if self.kind != BrokerKind::Any => Arc::new(Policy {
                broker_kind: self.kind,
                ..(*policy).clone()
            }),
            BrokerKind::Any | BrokerKind::SplitsDots | BrokerKind::RabbitMq => policy,
        }
    }

    /// Waits for the answer; for ever, if there is nothing to ask. Safe to cancel.
    pub(super) async fn next(&mut self) -> Dots {
        match self.asking.join_next().await {
            Some(Ok(dots)) => dots,
            // The task cannot fail but by a bug; then the safe side is to refuse.
            Some(Err(_)) => Dots::Split,
            None => std::future::pending().await,
        }
    }

    /// Takes the answer. The checks are to be applied anew.
    pub(super) fn handle(&mut self, dots: Dots) {
        match dots {
            Dots::Survive => self.kind = BrokerKind::Any,
            Dots::Split => info!("{SPLIT}"),
        }
    }

    /// Ends the wait, if messages have waited for too long. To be called at intervals.
    pub(super) fn tick(&mut self, messages_wait: bool, now: Instant) {
        if self.lets_pass() || !messages_wait {
            return;
        }
        let since = *self.waiting_since.get_or_insert(now);
        if now >= since + PATIENCE {
            self.gave_up = true;
            warn!("{UNKNOWN}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::policy::Rules;

    fn check(asking: JoinSet<Dots>) -> DotCheck {
        DotCheck {
            asking,
            kind: BrokerKind::SplitsDots,
            waiting_since: None,
            gave_up: false,
        }
    }

    fn kind(check: &DotCheck, configured: BrokerKind) -> BrokerKind {
        let policy = Arc::new(Policy::new(configured, Rules::default()));
        check.apply(policy).broker_kind
    }

    #[tokio::test]
    async fn dots_are_refused_until_they_are_known_to_survive() {
        for (dots, then) in [
            (Dots::Survive, BrokerKind::Any),
            (Dots::Split, BrokerKind::SplitsDots),
        ] {
            let mut asking = JoinSet::new();
            asking.spawn(async move { dots });
            let mut check = check(asking);
            assert!(!check.lets_pass());
            assert_eq!(kind(&check, BrokerKind::Any), BrokerKind::SplitsDots);
            let answer = check.next().await;
            check.handle(answer);
            assert!(check.lets_pass());
            assert_eq!(kind(&check, BrokerKind::Any), then);
            assert_eq!(kind(&check, BrokerKind::RabbitMq), BrokerKind::RabbitMq);
        }
    }

    #[tokio::test]
    #[expect(clippy::disallowed_methods, reason = "any instant will do")]
    async fn messages_wait_for_the_answer_but_not_for_ever() {
        let mut asking = JoinSet::new();
        asking.spawn(std::future::pending());
        let mut check = check(asking);
        let now = Instant::now();
        check.tick(false, now);
        check.tick(true, now + PATIENCE);
        assert!(!check.lets_pass(), "messages have only just come");
        check.tick(true, now + 2 * PATIENCE);
        assert!(check.lets_pass());
        assert_eq!(kind(&check, BrokerKind::Any), BrokerKind::SplitsDots);
    }
}
