//! The session: the connection that subscribes, receives and acknowledges.
//!
//! Owns the session's link: SUBSCRIBE and its answer, and how far it reads ahead. Leaves the pauses
//! between connections to `link.rs`, and what a message means to [`observer`](crate::observer).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::sleep;
use tracing::{debug, warn};

use super::connector::LiveConnection;
use super::link::{Link, observer_ended, renewed};
use crate::mqtt::{
    Cause, Client, Connected, Connection, Delivery, Event, LinkError, Opened, ReasonCode, Session,
};
use crate::protocol::message::Received;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::{Subscription, TopicFilter};
use crate::telemetry::clock::Clock;

/// Room for what the session's link reports before the observer takes it: a message for each packet
/// identifier there is, and a few other events.
pub const SESSION_EVENTS: usize = 65_535 + 64 + SHED_QOS_0_AT;
/// Events that wait for the observer, from which on QoS 0 messages are dropped. Reading has to go
/// on for the sake of acks and pings.
const SHED_QOS_0_AT: usize = 2_000;
/// Kibibytes of topics and payloads that wait for the observer, from which on nothing more is read.
const KIB_READ_AHEAD: usize = 64 << 10;

/// How long the broker may take to put messages back that it had handed to a connection that is
/// gone. Without this pause RabbitMQ 4.0.5 had not always done so.
const GIVE_BACK_TIME: Duration = Duration::from_millis(500);

const CLOSED_BEFORE_SUBSCRIBE: &str = "the connection closed before SUBSCRIBE";
const CLOSED_ON_SUBSCRIBE: &str = "the broker closed the connection on SUBSCRIBE: \
    may this user read the outgoing paths of all users? (RabbitMQ closes on what is not permitted)";

/// What the session's link reports.
#[derive(Debug)]
pub enum SessionEvent {
    /// Connected; messages may come from now on.
    Up {
        /// The number of this connection: 1 for the first of the session's link.
        connection: u64,
        /// Acknowledges on this connection.
        client: Client,
        /// What the broker said.
        connected: Connected,
    },
    /// The broker has granted every filter.
    Subscribed {
        /// The number of the connection.
        connection: u64,
    },
    /// The token of the connection ends soon, and there is a new one: disconnect. An ack handed
    /// over after the DISCONNECT does not arrive.
    Renewing {
        /// The number of the connection.
        connection: u64,
    },
    /// The broker has closed after our DISCONNECT: it has every ack that was sent before.
    AcksArrived,
    /// A message.
    Message {
        /// It.
        delivery: Delivery,
        /// When it was read from the socket.
        read_at: Instant,
        /// Its share of what may be read ahead.
        share: OwnedSemaphorePermit,
    },
    /// Disconnected, or not connected yet.
    Down(LinkError),
}

/// The link of the session.
pub(super) struct SessionLink {
    link: Link,
    filters: Vec<Subscription>,
    /// Filters that an earlier run may have left in the session.
    retired: Vec<TopicFilter>,
    events: mpsc::Sender<SessionEvent>,
    publishers_may_start: watch::Sender<bool>,
    /// One permit for each kibibyte that may still be read ahead.
    read_ahead: Arc<Semaphore>,
    /// The number of the present connection, or of the last one.
    connection: u64,
    /// Whether the last connection ended by our DISCONNECT.
    left_in_order: bool,
    /// Whether a SUBSCRIBE was answered: what was sent before it was done, too.
    has_subscribed: AtomicBool,
    /// Messages that came without DUP while the session was taken up, and have not been passed on
    /// since, by their hash: how many of each.
    new_there: Mutex<HashMap<u64, usize>>,
    hasher: RandomState,
}

impl SessionLink {
    pub(super) fn new(
        link: Link,
        filters: Vec<Subscription>,
        retired: Vec<TopicFilter>,
        events: mpsc::Sender<SessionEvent>,
        publishers_may_start: watch::Sender<bool>,
    ) -> Self {
        Self {
            link,
            filters,
            retired,
            events,
            publishers_may_start,
            read_ahead: Arc::new(Semaphore::new(KIB_READ_AHEAD)),
            connection: 0,
            left_in_order: false,
            has_subscribed: AtomicBool::new(false),
            new_there: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Connects again and again, until the observer stops.
    pub(super) async fn run(mut self) {
        while let Some(attempt) = self.take_up().await {
            let (error, lived) = match attempt {
                Err(error) => (error, None),
                Ok(live) => {
                    let since = Clock.now().instant;
                    let Some(error) = self.serve(live).await else {
                        return;
                    };
                    (error, Some(Clock.now().instant - since))
                }
            };
            self.link.health.set_session(Some(error.to_string()));
            let reported = self.report(SessionEvent::Down(error.clone())).await;
            if reported.is_err() || self.link.pause(&error, lived).await.is_break() {
                return;
            }
        }
    }

    /// Connects. There is no result if the link is to stop.
    ///
    /// Where the broker still holds the connection before, it hands over newer messages first, and
    /// only then what was not acknowledged there: seen on RabbitMQ 3.10.8 and 4.0.5, after a host
    /// had vanished. So a session that may still be held is taken, which ends the connection
    /// before, and left in order. That gives the broker time to put everything back into its place,
    /// and the session is taken up again.
    ///
    /// Whatever came on the connection that is left comes again with DUP. What had none there is
    /// new, and its DUP does not count: not either if it takes several attempts until it has come.
    async fn take_up(&mut self) -> Option<Result<LiveConnection, LinkError>> {
        // The broker may read the CONNECT of a failed attempt only later, and hold the session for
        // it: only the first attempt after an orderly end is safe.
        let left_in_order = std::mem::take(&mut self.left_in_order);
        let attempt = match self.link.attempt().await {
            Some(Ok(live)) if live.opened.connected.session_present && !left_in_order => {
                debug!("the session is left and taken up again, so that messages keep their order");
                // If that fails, the next attempt says so.
                let _ = live.opened.client.disconnect();
                let note = |delivery: Delivery| {
                    // What came at QoS 0 does not come again.
                    if !delivery.dup && delivery.packet_id.is_some() {
                        let hash = hash(&self.hasher, &delivery);
                        *self.new_there().entry(hash).or_default() += 1;
                    }
                };
                live.opened.connection.close_reading(note).await;
                tokio::select! {
                    () = sleep(GIVE_BACK_TIME) => {}
                    () = self.link.stop.cancelled() => return None,
                }
                self.link.attempt().await
            }
            attempt => attempt,
        };
        if let Some(Ok(live)) = &attempt
            && (left_in_order || !live.opened.connected.session_present)
        {
            self.new_there().clear();
        }
        attempt
    }

    fn new_there(&self) -> MutexGuard<'_, HashMap<u64, usize>> {
        self.new_there
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The hash of a message that is noted as new.
    fn noted(&self, delivery: &Delivery) -> Option<u64> {
        let new_there = self.new_there();
        if new_there.is_empty() || delivery.packet_id.is_none() {
            return None;
        }
        let hash = hash(&self.hasher, delivery);
        new_there.contains_key(&hash).then_some(hash)
    }

    /// One that is noted as new has been passed on. From here on its DUP counts.
    fn forget_noted(&self, hash: u64) {
        if let Entry::Occupied(mut noted) = self.new_there().entry(hash) {
            *noted.get_mut() -= 1;
            if *noted.get() == 0 {
                noted.remove();
            }
        }
    }

    /// Uses one connection until it ends. Returns why it ended; nothing, if the observer stops.
    async fn serve(&mut self, live: LiveConnection) -> Option<LinkError> {
        let Opened {
            client,
            mut connection,
            connected,
        } = live.opened;
        self.connection += 1;
        self.publishers_may_start.send_replace(true);
        self.link.health.set_reached(true);
        let ended = tokio::select! {
            ended = self.pump(&mut connection, client, connected) => ended,
            never = self.announce_renewal(live.token_ends) => match never {},
        };
        self.link.health.set_reached(false);
        match ended {
            Ok(()) => {
                let is_stopping = self.link.stop.is_cancelled();
                self.left_in_order = connection.close().await;
                if self.left_in_order
                    && let Err(error) = self.report(SessionEvent::AcksArrived).await
                {
                    return Some(error);
                }
                (!is_stopping).then(renewed)
            }
            Err(error) => {
                self.left_in_order = false;
                Some(self.explain(error))
            }
        }
    }

    /// Subscribes, and reports what happens until the connection fails, or our DISCONNECT is out.
    async fn pump(
        &self,
        connection: &mut Connection,
        client: Client,
        connected: Connected,
    ) -> Result<(), LinkError> {
        self.subscribe(&client, &connected)?;
        self.report(SessionEvent::Up {
            connection: self.connection,
            client,
            connected,
        })
        .await?;
        let mut is_subscribed = false;
        loop {
            let event = match connection.next().await {
                Ok(event) => event,
                // RabbitMQ 3.10 answers a forbidden SUBSCRIBE by closing, with no SUBACK.
                Err(error) if error.cause == Cause::Closed && !is_subscribed => {
                    let cause = Cause::ClosedOnSubscribe;
                    return Err(LinkError::new(cause, CLOSED_ON_SUBSCRIBE));
                }
                Err(error) => return Err(error),
            };
            match event {
                Event::Message(delivery) => {
                    self.pass_on(connection, delivery).await?;
                }
                Event::Subscribed(granted) => {
                    let left_out = check_granted(&self.filters, &granted)?;
                    let is_first = !self.has_subscribed.swap(true, Ordering::Relaxed);
                    if left_out > 0 && is_first {
                        warn!(
                            "the broker refuses {left_out} subscriptions of nine levels. Only \
                             RabbitMQ needs them: on another broker nothing is lost"
                        );
                    }
                    is_subscribed = true;
                    let connection = self.connection;
                    self.report(SessionEvent::Subscribed { connection }).await?;
                }
                Event::Disconnected => return Ok(()),
                Event::Confirmed { .. } => {}
            }
        }
    }

    fn subscribe(&self, client: &Client, connected: &Connected) -> Result<(), LinkError> {
        let closed = |_| LinkError::new(Cause::Closed, CLOSED_BEFORE_SUBSCRIBE);
        if !self.has_subscribed.load(Ordering::Relaxed) && connected.session_present {
            // A session outlives the settings that its filters were made from.
            for filter in &self.retired {
                client.unsubscribe(filter).map_err(closed)?;
            }
        }
        client.subscribe(&self.filters).map_err(closed)
    }

    /// Says that there is a new token, once there is one. Then the observer disconnects.
    async fn announce_renewal(&self, token_ends: Option<UnixMillis>) -> Infallible {
        self.link.wait_for_new_token(token_ends).await;
        let connection = self.connection;
        // If the observer has ended, the next report finds out.
        let _ = self.report(SessionEvent::Renewing { connection }).await;
        std::future::pending().await
    }

    /// Passes a message to the observer.
    ///
    /// The channel has room for every message that waits for an ack, so that reading goes on
    /// however busy the observer is. Only too many bytes stop it; acks and pings go out even then.
    async fn pass_on(
        &self,
        connection: &mut Connection,
        mut delivery: Delivery,
    ) -> Result<(), LinkError> {
        let read_at = Clock.now().instant;
        let noted = self.noted(&delivery);
        delivery.dup &= noted.is_none();
        let settings = &self.link.connector.settings;
        delivery.received.cut_to(settings.max_payload_bytes);
        let waiting = self.events.max_capacity() - self.events.capacity();
        if delivery.packet_id.is_none() && waiting >= SHED_QOS_0_AT {
            self.link.metrics.qos_0_dropped();
            return Ok(());
        }
        let share = tokio::select! {
            biased;
            share = self.share_of(&delivery.received) => share,
            error = connection.write_only() => return Err(error),
        };
        let message = SessionEvent::Message {
            delivery,
            read_at,
            share,
        };
        self.report(message).await?;
        if let Some(hash) = noted {
            self.forget_noted(hash);
        }
        Ok(())
    }

    /// Waits until a message of this size may be read ahead.
    async fn share_of(&self, received: &Received) -> OwnedSemaphorePermit {
        let kib = ((received.topic.len() + received.payload.len()) >> 10) + 1;
        let kib = u32::try_from(kib.min(KIB_READ_AHEAD)).expect("less than the bound");
        let share = self.read_ahead.clone().acquire_many_owned(kib).await;
        share.expect("the semaphore is never closed")
    }

    async fn report(&self, event: SessionEvent) -> Result<(), LinkError> {
        let sent = self.events.send(event).await;
        sent.map_err(|_| observer_ended())
    }

    /// Adds what the broker does not say, and what to do about it.
    fn explain(&mut self, error: LinkError) -> LinkError {
        let is_closed_on_subscribe = error.cause == Cause::ClosedOnSubscribe;
        let mut error = self.link.connector.explain(error);
        // Once, the broker may just be going down.
        if is_closed_on_subscribe
            && self.link.retry.handle_closed_on_subscribe() > 1
            && error.cause == Cause::ClosedOnSubscribe
        {
            error.cause = Cause::NotAuthorized;
        }
        error
    }
}

/// Stands for a message's topic and payload.
fn hash(hasher: &RandomState, delivery: &Delivery) -> u64 {
    hasher.hash_one((&delivery.received.topic, &delivery.received.payload))
}

/// Every filter must be granted at QoS 1. Otherwise messages would be lost, or never come. Returns
/// how many are left out that may be.
fn check_granted(
    filters: &[Subscription],
    granted: &[Result<u8, ReasonCode>],
) -> Result<usize, LinkError> {
    if granted.len() != filters.len() {
        let (answers, asked) = (granted.len(), filters.len());
        let text = format!("SUBACK answers {answers} filters of {asked}");
        return Err(LinkError::new(Cause::Other, text));
    }
    let mut left_out = 0;
    for (asked, granted) in filters.iter().zip(granted) {
        let filter = asked.filter.as_str();
        let text = match granted {
            Ok(1..) => continue,
            Ok(_) | Err(_) if asked.is_optional => {
                left_out += 1;
                continue;
            }
            Ok(qos) => format!("subscription to {filter:?} was granted QoS {qos} only"),
            Err(reason) => format!("subscription to {filter:?} was refused: {reason}"),
        };
        return Err(LinkError::new(Cause::NotAuthorized, text));
    }
    Ok(left_out)
}

/// Says that the session is connected; on its first `connection` also if the broker will keep the
/// session for a shorter time than `asked`.
pub fn log_connected(connected: &Connected, asked: Session, connection: u64) {
    debug!(
        protocol = %connected.protocol,
        session_present = connected.session_present,
        "connected"
    );
    if let (Some(kept), Session::Persistent(asked)) = (connected.session_expiry, asked)
        && kept < asked
        && connection == 1
    {
        let kept = humantime::format_duration(kept).to_string();
        let asked = humantime::format_duration(asked).to_string();
        warn!(
            kept,
            asked,
            "the broker keeps the session for a shorter time: \
             what arrives while the observer is away for longer is lost"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Vec<Subscription> {
        let filter = |text: &&str| Subscription {
            filter: TopicFilter::parse(text).unwrap(),
            retained: false,
            is_optional: false,
        };
        texts.iter().map(filter).collect()
    }

    #[test]
    fn every_filter_must_be_granted_at_qos_1() {
        let filters = filters(&["a/#", "b/#"]);
        assert_eq!(check_granted(&filters, &[Ok(1), Ok(2)]), Ok(0));
        let error = check_granted(&filters, &[Ok(1), Ok(0)]).unwrap_err();
        assert_eq!(error.cause, Cause::NotAuthorized);
        assert!(error.text.contains("\"b/#\" was granted QoS 0"), "{error}");
        let error = check_granted(&filters, &[Ok(1)]).unwrap_err();
        assert_eq!(error.cause, Cause::Other);
    }

    #[test]
    fn a_filter_may_be_refused_whose_messages_are_refused_anyway() {
        let mut filters = filters(&["a/#", "b/#"]);
        filters[1].is_optional = true;
        assert_eq!(check_granted(&filters, &[Ok(1), Ok(0)]), Ok(1));
        assert!(check_granted(&filters, &[Ok(0), Ok(1)]).is_err());
    }
}
