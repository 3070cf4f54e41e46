//! The publishing connections.
//!
//! Owns which of them are up and which are about to be replaced. Leaves to the
//! [`ledger`](crate::delivery::ledger) what is published and in which order.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::connections::publisher::PublisherEvent;
use crate::delivery::ledger::{Ledger, Quarantined};
use crate::delivery::publish_queue::{PublishId, PublisherEnd};
use crate::mqtt::{Cause, Client, Connected, LinkError, SubmitError};
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::telemetry::clock::Clock;
use crate::telemetry::health::Health;
use crate::telemetry::{CrashPoint, LinkRole, Metrics};

/// Publishes under way for each message under way: a direct message has two copies.
pub(super) const PUBLISHES_PER_MESSAGE: usize = 2;
/// How long a connection that is to be replaced waits for what it has in flight: others wait for
/// it.
const DRAIN_TIME: Duration = Duration::from_secs(3);
const UNCONFIRMED: &str = "the broker does not take some publishes, and takes others: they wait \
    apart, each topic in its order (RabbitMQ does that where this user may not publish, where a \
    recipient's quorum queue has no majority, or their queue is full and rejects, or its node is \
    away)";
/// The names of the connections beside the direct ones. They are part of the client identifier,
/// which brokers know: they stay as they are.
const NAMES_BESIDE: [&str; 2] = ["many", "quarantine"];

/// The names of the publishing connections, where there are so many direct ones.
pub(super) fn names(direct: usize) -> Vec<String> {
    let direct = (0..direct).map(|publisher| publisher.to_string());
    direct.chain(NAMES_BESIDE.map(str::to_owned)).collect()
}

struct Publisher {
    client: Client,
    /// Ends the connection, to be replaced by a new one.
    recycle: CancellationToken,
    renewal: Renewal,
}

impl Publisher {
    /// Gives it nothing more to publish, and has it replaced.
    fn drain(&mut self) {
        if self.renewal == Renewal::NotDue {
            self.renewal = Renewal::Draining { since: None };
        }
    }

    /// Whether it is to be disconnected now. What is not confirmed by then goes out again.
    fn is_drained(&mut self, in_flight: usize, now: Instant) -> bool {
        let Renewal::Draining { since } = &mut self.renewal else {
            return false;
        };
        let since = *since.get_or_insert(now);
        in_flight == 0 || now >= since + DRAIN_TIME
    }
}

/// How far a connection is from being replaced, because there is a new token or because too much of
/// what it carries is in quarantine.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Renewal {
    /// It is not to be replaced.
    NotDue,
    /// It gets nothing more to publish, and is disconnected when everything it has is confirmed.
    Draining { since: Option<Instant> },
    /// It is about to end, by our DISCONNECT or without.
    Disconnecting,
}

/// The publishing connections; the last two are for bulk copies and for publishes in quarantine.
pub(crate) struct Publishers {
    publishers: Vec<Option<Publisher>>,
    /// Publishes one connection has in flight at a time, if the broker takes as many.
    window: usize,
    health: Health,
    metrics: Metrics,
}

impl Publishers {
    pub(super) fn new(count: usize, window: usize, health: Health, metrics: Metrics) -> Self {
        Self {
            publishers: (0..count).map(|_| None).collect(),
            window,
            health,
            metrics,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.publishers.len()
    }

    pub(super) fn all_up(&self) -> bool {
        self.publishers.iter().all(Option::is_some)
    }

    /// Takes what a connection reports.
    pub(super) fn handle(&mut self, event: PublisherEvent, ledger: &mut Ledger) {
        match event {
            PublisherEvent::Confirmed {
                publisher,
                token: sequence,
                outcome,
            } => {
                let id = PublishId {
                    publisher,
                    sequence,
                };
                match outcome {
                    Ok(()) => {
                        self.metrics.confirmed();
                        CrashPoint::Confirmed.pass();
                        ledger.handle_confirmed(id);
                    }
                    Err(reason) => {
                        self.metrics.not_confirmed(reason.as_str());
                        if reason.passes() {
                            ledger.handle_turned_down(id, Clock.now().instant);
                        } else {
                            ledger.note_answer(publisher);
                            ledger.handle_refused(id, Refusal::Unauthorized);
                        }
                    }
                }
            }
            PublisherEvent::Up {
                publisher,
                client,
                connected,
                recycle,
            } => {
                debug!(publisher, "publisher connected");
                self.metrics.connected(LinkRole::Publisher);
                ledger.handle_publisher_up(publisher, self.limit(&connected));
                self.publishers[publisher] = Some(Publisher {
                    client,
                    recycle,
                    renewal: Renewal::NotDue,
                });
                self.health.set_publisher(publisher, None);
            }
            PublisherEvent::Renewing { publisher } => {
                if let Some(publisher) = &mut self.publishers[publisher] {
                    publisher.drain();
                }
            }
            // The link has told the health, and tries again.
            PublisherEvent::Refused { .. } => {}
            PublisherEvent::Down { publisher, error } => {
                ledger.handle_publisher_down(publisher, end(&error));
                if self.publishers[publisher].take().is_some() {
                    self.metrics.disconnected(LinkRole::Publisher);
                }
                self.health
                    .set_publisher(publisher, Some(error.to_string()));
            }
        }
    }

    /// How many publishes may be in flight: one less than the broker takes at a time, so that there
    /// is room for a canary.
    fn limit(&self, connected: &Connected) -> usize {
        let room = connected.receive_maximum.saturating_sub(1).max(1);
        room.min(self.window)
    }

    /// Hands every publish that may go out to its connection.
    pub(super) fn publish(&mut self, ledger: &mut Ledger, now: Instant) {
        for (number, publisher) in self.publishers.iter_mut().enumerate() {
            let Some(publisher) = publisher else { continue };
            let in_flight = ledger.in_flight(number);
            if publisher.is_drained(in_flight, now) {
                publisher.renewal = Renewal::Disconnecting;
                // If the connection is gone, its task knows.
                let _ = publisher.client.disconnect();
            }
            if publisher.renewal != Renewal::NotDue {
                continue;
            }
            while let Some((id, publish)) = ledger.poll_publish(number, now) {
                match publisher.client.publish(id.sequence, publish) {
                    Ok(()) => CrashPoint::Published.pass(),
                    Err(SubmitError::TooLarge) => ledger.handle_refused(id, Refusal::TooLarge),
                    // The connection's task will report that it is gone; the ledger keeps the
                    // publish.
                    Err(SubmitError::Gone) => break,
                }
            }
        }
    }

    /// Publishes at QoS 0: what nobody receives is lost. Returns whether there was room for it.
    pub(super) fn publish_unconfirmed(&self, publish: &Publish) -> bool {
        // The bulk connection is the one whose delays matter least.
        let bulk = self.publishers.iter().rev().nth(1).and_then(Option::as_ref);
        bulk.filter(|bulk| bulk.renewal == Renewal::NotDue)
            .is_some_and(|bulk| bulk.client.publish_unconfirmed(publish))
    }

    /// Sets apart what the broker seems never to confirm, so that it holds up nobody else. Returns
    /// whether to find out which connections the broker serves.
    pub(super) fn set_apart(&mut self, ledger: &mut Ledger, now: Instant) -> bool {
        let Quarantined {
            moved,
            replace,
            wants_canaries,
        } = ledger.set_apart(now);
        if moved > 0 {
            let quarantined = ledger.quarantined();
            warn!(moved, quarantined, "{UNCONFIRMED}");
        }
        for number in replace {
            if let Some(publisher) = &mut self.publishers[number] {
                publisher.renewal = Renewal::Disconnecting;
                publisher.recycle.cancel();
            }
        }
        for (number, publisher) in self.publishers.iter_mut().enumerate() {
            if let Some(publisher) = publisher
                && ledger.is_worn(number)
            {
                publisher.drain();
            }
        }
        wants_canaries
    }

    pub(super) fn disconnect_all(&self) {
        for publisher in self.publishers.iter().flatten() {
            // A connection that is gone needs no DISCONNECT.
            let _ = publisher.client.disconnect();
        }
    }
}

/// Whether what was published may have ended a connection.
fn end(error: &LinkError) -> PublisherEnd {
    match error.cause {
        Cause::Closed | Cause::NotAuthorized | Cause::Other => PublisherEnd::Closed,
        Cause::TimedOut
        | Cause::ProtocolVersion
        | Cause::BadCredentials
        | Cause::BadClientId
        | Cause::Unavailable
        | Cause::TakenOver
        | Cause::Expired
        | Cause::Renewed
        | Cause::ClosedOnSubscribe
        | Cause::Unreachable
        | Cause::Tls => PublisherEnd::Unrelated,
    }
}
