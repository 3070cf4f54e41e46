//! A short visit to a broker as an ordinary client: what `check` and `demo` do to see messages pass.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::connections::link::{LinkSettings, Links};
use crate::mqtt::{Cause, Client, Connected, Delivery, Event, LinkError, ReasonCode, Session};
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};
use crate::telemetry::Metrics;
use crate::telemetry::health::Health;

/// How long a visitor waits for each answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connected client. Messages that come while it waits for an answer are kept.
#[derive(Debug)]
pub struct ProbeClient {
    client: Client,
    events: mpsc::Receiver<Result<Event, LinkError>>,
    kept: VecDeque<Delivery>,
    acknowledges: bool,
    pump: JoinHandle<()>,
    published: u64,
    /// What the broker said.
    pub connected: Connected,
}

impl ProbeClient {
    /// Connects, under the client identifier of `settings`.
    ///
    /// # Errors
    /// [`LinkError`], if that does not succeed.
    pub async fn connect(settings: LinkSettings, session: Session) -> Result<Self, LinkError> {
        let (client, mut connection, connected) = Links::new(
            settings,
            Health::new(0),
            Metrics::new(&[]),
            CancellationToken::new(),
        )
        .visit(session)
        .await?;
        let (events_tx, events) = mpsc::channel(64);
        let pump = tokio::spawn(async move {
            loop {
                let event = connection.next().await;
                let over = matches!(event, Err(_) | Ok(Event::Disconnected));
                if events_tx.send(event).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(Self {
            client,
            events,
            kept: VecDeque::new(),
            acknowledges: true,
            pump,
            published: 0,
            connected,
        })
    }

    /// Takes messages, and never acknowledges one.
    #[must_use]
    pub fn without_acks(mut self) -> Self {
        self.acknowledges = false;
        self
    }

    async fn next(&mut self, limit: Duration) -> Result<Event, LinkError> {
        let gone = || LinkError::new(Cause::Closed, "the connection is closed");
        match timeout(limit, self.events.recv()).await {
            Ok(event) => match event.unwrap_or_else(|| Err(gone()))? {
                Event::Message(delivery) => {
                    if let Some(packet_id) = delivery.packet_id.filter(|_| self.acknowledges) {
                        self.client.acknowledge(packet_id).map_err(|_| gone())?;
                    }
                    Ok(Event::Message(delivery))
                }
                event @ (Event::Connected(_)
                | Event::Subscribed(_)
                | Event::Confirmed { .. }
                | Event::Disconnected
                | Event::Other) => Ok(event),
            },
            Err(_) => Err(LinkError::new(
                Cause::TimedOut,
                format!("no answer within {}", humantime::format_duration(limit)),
            )),
        }
    }

    /// Subscribes at QoS 1. Returns the answer for each filter: the QoS granted, or the reason it was refused.
    ///
    /// # Errors
    /// [`LinkError`], if there is no answer: RabbitMQ closes on what is not permitted.
    pub async fn subscribe(
        &mut self,
        filters: &[TopicFilter],
    ) -> Result<Vec<Result<u8, ReasonCode>>, LinkError> {
        let asked = |filter: &TopicFilter| Subscription {
            filter: filter.clone(),
            retained: false,
        };
        self.subscribe_to(&filters.iter().map(asked).collect::<Vec<_>>())
            .await
    }

    /// The same; it says whether what the broker has kept is wanted, too.
    ///
    /// # Errors
    /// [`LinkError`], if there is no answer.
    pub async fn subscribe_to(
        &mut self,
        filters: &[Subscription],
    ) -> Result<Vec<Result<u8, ReasonCode>>, LinkError> {
        self.client
            .subscribe(filters)
            .map_err(|_| LinkError::new(Cause::Closed, "the connection is closed"))?;
        loop {
            match self.next(PATIENCE).await? {
                Event::Subscribed(granted) => return Ok(granted),
                Event::Message(delivery) => self.kept.push_back(delivery),
                Event::Connected(_)
                | Event::Confirmed { .. }
                | Event::Disconnected
                | Event::Other => {}
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
            .map_err(|_| LinkError::new(Cause::Closed, "the connection is closed"))?;
        loop {
            match self.next(PATIENCE).await? {
                Event::Confirmed { token, outcome } if token == self.published => {
                    return outcome.map_err(|reason| {
                        LinkError::new(
                            Cause::NotAuthorized,
                            format!("the broker refused the publish: {reason}"),
                        )
                    });
                }
                Event::Message(delivery) => self.kept.push_back(delivery),
                Event::Confirmed { .. }
                | Event::Connected(_)
                | Event::Subscribed(_)
                | Event::Disconnected
                | Event::Other => {}
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

    /// The same, with what MQTT says of it.
    ///
    /// # Errors
    /// [`LinkError`], if none comes.
    pub async fn delivery(&mut self, limit: Duration) -> Result<Delivery, LinkError> {
        if let Some(kept) = self.kept.pop_front() {
            return Ok(kept);
        }
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(tokio::time::Instant::now());
            if let Event::Message(delivery) = self.next(left).await? {
                return Ok(delivery);
            }
        }
    }

    /// Disconnects in order.
    pub async fn leave(mut self) {
        if self.client.disconnect().is_ok() {
            while !matches!(self.next(PATIENCE).await, Err(_) | Ok(Event::Disconnected)) {}
        }
    }
}

impl Drop for ProbeClient {
    fn drop(&mut self) {
        self.pump.abort();
    }
}
