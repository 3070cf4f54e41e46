//! A short-lived ordinary client: what `check`, `demo` and `watch` use to
//! see messages pass, and the observer to find out what becomes of a `.`.
//!
//! Owns waiting for one answer at a time. Leaves what is asked, and what the answer means, to
//! [`commands`](crate::commands).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::connector::Connector;
use super::settings::LinkSettings;
use super::version::VersionChooser;
use crate::mqtt::{
    Cause, Client, Connected, Connection, Delivery, Event, LinkError, Opened, ReasonCode, Session,
    SubmitError,
};
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};

/// How long the broker may take for each answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Publishes under way at a time. No broker takes fewer by default.
const BATCH: usize = 10;
/// Events read before the client takes them.
const EVENTS: usize = 64;

/// Whether a client acknowledges the messages it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Acks {
    Sent,
    Withheld,
}

/// A connected client. It keeps the messages that come while it waits for an answer.
#[derive(Debug)]
pub struct ProbeClient {
    client: Client,
    events: mpsc::Receiver<Result<Event, LinkError>>,
    kept: VecDeque<Delivery>,
    acks: Acks,
    pump: JoinHandle<()>,
    /// How many publishes were made: the token of the last one.
    published: u64,
    /// What the broker said when it accepted the connection.
    pub connected: Connected,
}

impl ProbeClient {
    /// Connects, under the client identifier of `settings`.
    ///
    /// # Errors
    /// [`LinkError`], if that does not succeed.
    pub async fn connect(settings: LinkSettings, session: Session) -> Result<Self, LinkError> {
        let version = Arc::new(VersionChooser::new(settings.protocol));
        let connector = Connector::once(Arc::new(settings), version, session);
        let Opened {
            client,
            connection,
            connected,
        } = connector.connect().await?.opened;
        let (events_tx, events) = mpsc::channel(EVENTS);
        Ok(Self {
            client,
            events,
            kept: VecDeque::new(),
            acks: Acks::Sent,
            pump: tokio::spawn(pump(connection, events_tx)),
            published: 0,
            connected,
        })
    }

    /// Takes messages, and never acknowledges one.
    #[must_use]
    pub fn without_acks(mut self) -> Self {
        self.acks = Acks::Withheld;
        self
    }

    /// Waits for the next event, and acknowledges it if it is a message.
    async fn next(&mut self, limit: Duration) -> Result<Event, LinkError> {
        match timeout(limit, self.events.recv()).await {
            Ok(Some(event)) => {
                let event = event?;
                self.acknowledge(&event)?;
                Ok(event)
            }
            Ok(None) => Err(closed()),
            Err(_) => Err(no_answer(limit)),
        }
    }

    fn acknowledge(&self, event: &Event) -> Result<(), LinkError> {
        if let Event::Message(delivery) = event
            && let Some(packet_id) = delivery.packet_id
            && self.acks == Acks::Sent
        {
            self.client.acknowledge(packet_id).map_err(not_sent)?;
        }
        Ok(())
    }

    /// Subscribes at QoS 1, without retained messages. Returns the answer for each filter: the QoS
    /// granted, or why it was refused.
    ///
    /// # Errors
    /// [`LinkError`], if there is no answer. RabbitMQ closes the connection on a filter that is not
    /// permitted.
    pub async fn subscribe(
        &mut self,
        filters: &[TopicFilter],
    ) -> Result<Vec<Result<u8, ReasonCode>>, LinkError> {
        let without_retained = |filter: &TopicFilter| Subscription {
            filter: filter.clone(),
            retained: false,
            is_optional: false,
        };
        let filters: Vec<_> = filters.iter().map(without_retained).collect();
        self.subscribe_to(&filters).await
    }

    /// The same for filters that each say whether retained messages are wanted.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub async fn subscribe_to(
        &mut self,
        filters: &[Subscription],
    ) -> Result<Vec<Result<u8, ReasonCode>>, LinkError> {
        self.client.subscribe(filters).map_err(not_sent)?;
        loop {
            match self.next(ANSWER_TIMEOUT).await? {
                Event::Subscribed(granted) => return Ok(granted),
                Event::Message(delivery) => self.kept.push_back(delivery),
                Event::Confirmed { .. } | Event::Disconnected => {}
            }
        }
    }

    /// Publishes at QoS 1, and waits for the confirmation.
    ///
    /// # Errors
    /// [`LinkError`], if there is none, or the broker refuses.
    pub async fn publish(&mut self, topic: TopicName, payload: Bytes) -> Result<(), LinkError> {
        let publish = Publish::new(topic, payload);
        self.published += 1;
        self.client
            .publish(self.published, &publish)
            .map_err(not_sent)?;
        self.confirmed().await
    }

    /// Publishes an empty message so many times, a few at a time, and waits for all confirmations.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_times(
        &mut self,
        topic: &TopicName,
        times: usize,
    ) -> Result<(), LinkError> {
        let publish = Publish::new(topic.clone(), Bytes::new());
        let mut left = times;
        while left > 0 {
            let batch = left.min(BATCH);
            for _ in 0..batch {
                self.published += 1;
                let sent = self.client.publish(self.published, &publish);
                sent.map_err(not_sent)?;
            }
            for _ in 0..batch {
                self.confirmed().await?;
            }
            left -= batch;
        }
        Ok(())
    }

    /// Waits for the confirmation of a publish, of any of those under way.
    async fn confirmed(&mut self) -> Result<(), LinkError> {
        loop {
            match self.next(ANSWER_TIMEOUT).await? {
                Event::Confirmed { outcome, .. } => {
                    return outcome.map_err(|reason| {
                        let text = format!("the broker refused the publish: {reason}");
                        LinkError::new(Cause::NotAuthorized, text)
                    });
                }
                Event::Message(delivery) => self.kept.push_back(delivery),
                Event::Subscribed(_) | Event::Disconnected => {}
            }
        }
    }

    /// The next message, if one comes within `limit`.
    ///
    /// # Errors
    /// [`LinkError`], if none does.
    pub async fn message(&mut self, limit: Duration) -> Result<Received, LinkError> {
        Ok(self.delivery(limit).await?.received)
    }

    /// The same, with its packet identifier and DUP flag.
    ///
    /// # Errors
    /// [`LinkError`], if none comes.
    pub async fn delivery(&mut self, limit: Duration) -> Result<Delivery, LinkError> {
        if let Some(kept) = self.kept.pop_front() {
            return Ok(kept);
        }
        // Safe to cut short: an event is either still in the channel, or has been handled.
        let delivery = async {
            loop {
                if let Event::Message(delivery) = self.next(limit).await? {
                    return Ok(delivery);
                }
            }
        };
        match timeout(limit, delivery).await {
            Ok(delivery) => delivery,
            Err(_) => Err(no_answer(limit)),
        }
    }

    /// Disconnects in order.
    pub async fn leave(mut self) {
        if self.client.disconnect().is_ok() {
            while !matches!(
                self.next(ANSWER_TIMEOUT).await,
                Err(_) | Ok(Event::Disconnected)
            ) {}
        }
    }
}

impl Drop for ProbeClient {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

/// Reads and writes all the time, whether the client waits for something or not.
async fn pump(mut connection: Connection, events: mpsc::Sender<Result<Event, LinkError>>) {
    loop {
        let event = connection.next().await;
        let is_last = matches!(event, Err(_) | Ok(Event::Disconnected));
        if events.send(event).await.is_err() || is_last {
            return;
        }
    }
}

fn closed() -> LinkError {
    LinkError::new(Cause::Closed, "the connection is closed")
}

fn not_sent(error: SubmitError) -> LinkError {
    match error {
        SubmitError::Gone => closed(),
        SubmitError::TooLarge => LinkError::new(Cause::Other, error.to_string()),
    }
}

fn no_answer(limit: Duration) -> LinkError {
    let limit = humantime::format_duration(limit);
    LinkError::new(Cause::TimedOut, format!("no answer within {limit}"))
}
