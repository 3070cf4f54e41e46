//! The session's connection, and whether it delivers.
//!
//! Owns the present connection, its acks and the loopback test. Leaves the messages that come on it
//! to `inbound.rs`.

use std::time::{Duration, Instant};

use tracing::{debug, error, warn};

use crate::connections::session::log_connected;
use crate::delivery::ledger::Ledger;
use crate::mqtt::{self, Client, Connected, Pings};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::telemetry::clock::Now;
use crate::telemetry::health::Health;
use crate::telemetry::{CrashPoint, LinkRole, Metrics};

/// How long the session may be silent before the observer sends itself a message.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How long that message may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answered pings that make a step of [`Session::poll_pinged`]. One would do; what was acknowledged
/// is kept for longer, in case the broker restarts from what it has saved last.
const PINGS: u64 = 3;

/// How long after a connection was made the broker may begin to deliver again what was not
/// acknowledged before. NATS waits for 30 s (`ack_wait`, its default).
const REDELIVERED_WITHIN: Duration = Duration::from_secs(60);

const LOOPBACK_FAILED: &str =
    "the session is subscribed, but what the observer sends to itself does not come back";

/// Whether the session delivers. A granted SUBACK does not prove it: Mosquitto grants filters that
/// the user may not read, and on RabbitMQ 3.10 topics that are not UTF-8 take up the session's
/// window for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loopback {
    /// Nothing has come on this connection yet.
    Untested,
    /// A message to ourselves is on its way, since this moment.
    Probing(Instant),
    /// A message came, last at this moment.
    Ok(Instant),
    /// A message to ourselves did not come back; the last try was at this moment.
    Failed(Instant),
}

/// Whether the loopback test is to send its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProbeSession {
    Due,
    NotDue,
}

struct Connection {
    number: u64,
    client: Client,
    connected: Connected,
    subscribed: bool,
    loopback: Loopback,
    /// How many pings had been asked at the last step of [`Session::poll_pinged`].
    pinged: u64,
    since: Instant,
    /// What the message to ourselves says that comes behind all that comes again, once it is sent.
    behind_redelivered: Option<UnixMillis>,
}

/// The session, connected or not.
pub(crate) struct Session {
    connection: Option<Connection>,
    /// What the broker is asked to keep.
    asked: mqtt::Session,
    /// Whether the broker should have kept a session from before the first connection.
    had_session: bool,
    /// Whether the broker had no session when the observer connected first.
    is_new: bool,
    /// Whether the broker had not kept the session at the last connection, and should have.
    was_lost: bool,
    health: Health,
    metrics: Metrics,
}

impl Session {
    pub(super) fn new(asked: mqtt::Session, health: Health, metrics: Metrics) -> Self {
        Self {
            connection: None,
            had_session: false,
            is_new: false,
            was_lost: false,
            asked,
            health,
            metrics,
        }
    }

    /// The same where an earlier process had a session.
    #[must_use]
    pub(super) fn expecting_session(self, had_session: bool) -> Self {
        Self {
            had_session,
            ..self
        }
    }

    /// Whether the broker had no session when the observer connected first.
    pub(super) fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether the broker had no session when the present connection was made.
    pub(super) fn began_anew(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| !connection.connected.session_present)
    }

    /// Whether the broker had not kept the session at the last connection, and should have.
    pub(super) fn was_lost(&self) -> bool {
        self.was_lost
    }

    pub(super) fn is_up(&self) -> bool {
        self.connection.is_some()
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.connection.as_ref().is_some_and(|c| c.subscribed)
    }

    /// What the broker granted, once the session has proved that it delivers.
    pub(super) fn proved(&self) -> Option<Connected> {
        let connection = self.connection.as_ref();
        connection
            .filter(|connection| matches!(connection.loopback, Loopback::Ok(_)))
            .map(|connection| connection.connected)
    }

    /// A connection is up; connections are numbered from 1.
    pub(super) fn handle_up(
        &mut self,
        number: u64,
        client: Client,
        connected: Connected,
        ledger: &mut Ledger,
        now: Instant,
    ) {
        let is_first = number == 1;
        self.is_new |= is_first && !connected.session_present;
        log_connected(&connected, self.asked, number);
        self.was_lost = !connected.session_present && (self.had_session || !is_first);
        if self.was_lost {
            warn!(
                "the broker has not kept the session: messages that arrived while it was away, or \
                 were not acknowledged, may be lost"
            );
        }
        ledger.handle_session_up(connected.session_present);
        self.metrics.connected(LinkRole::Session);
        self.metrics.session_present(connected.session_present);
        self.health.set_connected(connected);
        self.connection = Some(Connection {
            number,
            client,
            connected,
            subscribed: false,
            loopback: Loopback::Untested,
            pinged: 0,
            since: now,
            behind_redelivered: None,
        });
        self.health
            .set_session(Some("waiting for SUBACK".to_owned()));
    }

    /// Every filter is granted on a connection.
    pub(super) fn handle_subscribed(&mut self, number: u64) {
        let connection = self.connection.as_mut();
        if let Some(connection) = connection.filter(|connection| connection.number == number) {
            connection.subscribed = true;
            self.health
                .set_session(Some("waiting for a message to ourselves".to_owned()));
            debug!("subscribed");
        }
    }

    /// A message came. Returns the number of the connection it came on; `None` if that has been
    /// left already.
    pub(super) fn handle_message(&mut self, now: Instant) -> Option<u64> {
        let connection = self.connection.as_mut()?;
        if connection.subscribed {
            if !matches!(connection.loopback, Loopback::Ok(_)) {
                self.health.set_session(None);
            }
            connection.loopback = Loopback::Ok(now);
        }
        Some(connection.number)
    }

    /// A connection is to be replaced, because there is a new token. Acks that are due go out
    /// before its DISCONNECT; what is not acknowledged by then comes again and is recognised.
    /// Returns whether that connection was still in use.
    pub(super) fn handle_renewing(&mut self, number: u64, ledger: &mut Ledger) -> bool {
        self.acknowledge(ledger);
        let connection = self.connection.as_ref();
        let Some(connection) = connection.filter(|connection| connection.number == number) else {
            return false;
        };
        let _ = connection.client.disconnect();
        self.handle_lost(ledger);
        true
    }

    /// Whether the broker has answered pings since the last time that were sent after it: so it has
    /// the acks that were sent until then.
    pub(super) fn poll_pinged(&mut self) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let pings = connection.client.pings();
        let is_pinged = is_pinged(connection.pinged, pings);
        if is_pinged {
            connection.pinged = pings.asked;
        }
        is_pinged
    }

    /// Whether a message to ourselves is to be sent, because messages are still expected again: it
    /// comes behind them. Once on each connection, when it is old enough.
    pub(super) fn poll_behind_redelivered(&mut self, now: Now) -> bool {
        let Some(connection) = &mut self.connection else {
            return false;
        };
        let is_due = connection.subscribed
            && connection.behind_redelivered.is_none()
            && now.instant >= connection.since + REDELIVERED_WITHIN;
        if is_due {
            connection.behind_redelivered = Some(now.wall);
        }
        is_due
    }

    /// Whether that message has come back: one that was `sent` at this time. So nothing that was
    /// expected comes again any more.
    pub(super) fn is_behind_redelivered(&self, sent: UnixMillis) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.behind_redelivered == Some(sent))
    }

    /// How many pings of [`Session::ping_behind_acks`] are answered on this connection.
    pub(super) fn ack_pings_answered(&self) -> u64 {
        let connection = self.connection.as_ref();
        connection.map_or(0, |connection| connection.client.ack_pings().answered)
    }

    /// Asks the broker whether it has the acks that were sent until now.
    pub(super) fn ping_behind_acks(&self) {
        if let Some(connection) = &self.connection {
            connection.client.ping_behind_acks();
        }
    }

    /// The connection is gone, or none could be made.
    pub(super) fn handle_lost(&mut self, ledger: &mut Ledger) {
        if self.connection.take().is_some() {
            self.metrics.disconnected(LinkRole::Session);
        }
        ledger.handle_session_lost();
    }

    /// Sends the acks that are due.
    pub(super) fn acknowledge(&self, ledger: &mut Ledger) {
        while let Some(ack) = ledger.poll_ack() {
            let connection = self.connection.as_ref();
            if let Some(connection) = connection.filter(|c| c.number == ack.connection) {
                // It fails only if the connection is gone: then the message is delivered again.
                let _ = connection.client.acknowledge(ack.packet_id);
                CrashPoint::Acknowledged.pass();
            }
        }
    }

    /// Advances the loopback test: sends a message to ourselves when nothing has come for a while,
    /// and judges whether it came back. `idle`: every publisher is up, and nothing is under way.
    /// Otherwise silence may be a slow publisher's fault.
    pub(super) fn poll_probe(&mut self, idle: bool, now: Instant) -> ProbeSession {
        let connection = self.connection.as_mut();
        let Some(connection) = connection.filter(|connection| connection.subscribed) else {
            return ProbeSession::NotDue;
        };
        let loopback = &mut connection.loopback;
        if !idle {
            if matches!(loopback, Loopback::Probing(_)) {
                // The time counts from when the broker has the message.
                *loopback = Loopback::Probing(now);
            }
            return ProbeSession::NotDue;
        }
        *loopback = match *loopback {
            Loopback::Untested => Loopback::Probing(now),
            Loopback::Ok(at) if now >= at + PROBE_EVERY => Loopback::Probing(now),
            Loopback::Failed(at) if now >= at + PROBE_EVERY => Loopback::Failed(now),
            Loopback::Probing(since) if now >= since + PROBE_TIMEOUT => {
                *loopback = Loopback::Failed(now);
                self.report_loopback_failed();
                return ProbeSession::NotDue;
            }
            Loopback::Probing(_) | Loopback::Ok(_) | Loopback::Failed(_) => {
                return ProbeSession::NotDue;
            }
        };
        ProbeSession::Due
    }

    fn report_loopback_failed(&self) {
        error!(
            "{LOOPBACK_FAILED}: may this user read and write everything, observer/# too? On NATS \
             what was not acknowledged before a crash fills the session's window until ack_wait \
             has passed: then it comes again, behind newer messages. On RabbitMQ 3.10 topics that \
             are not UTF-8 fill it for good: delete the session's queue, or start once with \
             --reset-session"
        );
        self.health.set_session(Some(LOOPBACK_FAILED.to_owned()));
    }

    pub(super) fn set_fault(&self, fault: String) {
        self.health.set_session(Some(fault));
    }

    /// Publishes at QoS 0 on the session's connection, ahead of its DISCONNECT.
    pub(super) fn publish_unconfirmed(&self, publish: &Publish) {
        if let Some(connection) = &self.connection {
            let _ = connection.client.publish_unconfirmed(publish);
        }
    }

    pub(super) fn disconnect(&self) {
        if let Some(connection) = &self.connection {
            // A connection that is gone needs no DISCONNECT.
            let _ = connection.client.disconnect();
        }
    }
}

/// Whether enough pings are answered that came after the first `before`.
fn is_pinged(before: u64, pings: Pings) -> bool {
    pings.answered >= before + PINGS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_only_for_pings_that_came_after_the_last_step() {
        let pings = |asked, answered| Pings { asked, answered };
        assert!(!is_pinged(0, pings(100, 2)), "time proves nothing");
        assert!(is_pinged(0, pings(100, 3)));
        assert!(!is_pinged(100, pings(103, 102)));
        assert!(is_pinged(100, pings(104, 103)));
    }
}
