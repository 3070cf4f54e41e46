//! A publisher: a connection that only publishes.
//!
//! Owns a publisher's link. Leaves the pauses between connections to `link.rs`, and which publish
//! goes out when to the ledger.

use std::convert::Infallible;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::connector::LiveConnection;
use super::link::{Link, observer_ended, renewed};
use crate::mqtt::{Cause, Client, Connected, Connection, Event, LinkError, Opened, ReasonCode};
use crate::protocol::time::UnixMillis;
use crate::telemetry::clock::Clock;

/// What a publisher's link reports.
#[derive(Debug)]
pub enum PublisherEvent {
    /// Connected.
    Up {
        /// The index of the publisher.
        publisher: usize,
        /// Publishes on this connection.
        client: Client,
        /// What the broker said.
        connected: Connected,
        /// Ends this connection when it is cancelled; the link opens another.
        recycle: CancellationToken,
    },
    /// The broker has answered a publish.
    Confirmed {
        /// The index of the publisher.
        publisher: usize,
        /// The token that the publish was handed over with.
        token: u64,
        /// Why the broker refused it, if it did.
        outcome: Result<(), ReasonCode>,
    },
    /// The token of the connection ends soon, and there is a new one: disconnect as soon as nothing
    /// is under way.
    Renewing {
        /// The index of the publisher.
        publisher: usize,
    },
    /// Not connected, and that does not pass by itself.
    Refused {
        /// Why.
        error: LinkError,
    },
    /// Disconnected, after having been connected.
    Down {
        /// The index of the publisher.
        publisher: usize,
        /// Why.
        error: LinkError,
    },
}

/// The link of one publisher.
pub(super) struct PublisherLink {
    link: Link,
    publisher: usize,
    events: mpsc::Sender<PublisherEvent>,
    may_start: watch::Receiver<bool>,
}

impl PublisherLink {
    pub(super) fn new(
        link: Link,
        publisher: usize,
        events: mpsc::Sender<PublisherEvent>,
        may_start: watch::Receiver<bool>,
    ) -> Self {
        Self {
            link,
            publisher,
            events,
            may_start,
        }
    }

    /// Waits for the session's first connection, then connects again and again until the observer
    /// stops.
    pub(super) async fn run(mut self) {
        tokio::select! {
            may_start = self.may_start.wait_for(|may| *may) => if may_start.is_err() { return },
            () = self.link.stop.cancelled() => return,
        }
        while let Some(attempt) = self.link.attempt().await {
            let (error, lived) = match attempt {
                Err(error) => {
                    let health = &self.link.health;
                    health.set_publisher(self.publisher, Some(error.to_string()));
                    if error.is_permanent() {
                        let refused = PublisherEvent::Refused {
                            error: error.clone(),
                        };
                        if self.report(refused).await.is_err() {
                            return;
                        }
                    }
                    (error, None)
                }
                Ok(live) => {
                    let since = Clock.now().instant;
                    let Some(error) = self.serve(live).await else {
                        return;
                    };
                    let lived = Clock.now().instant - since;
                    if self.report_down(&error).await.is_err() {
                        return;
                    }
                    (error, Some(lived))
                }
            };
            if self.link.pause(&error, lived).await.is_break() {
                return;
            }
        }
    }

    /// Uses one connection until it ends. Returns why it ended; nothing, if the observer stops.
    async fn serve(&self, live: LiveConnection) -> Option<LinkError> {
        let Opened {
            client,
            mut connection,
            connected,
        } = live.opened;
        let recycle = CancellationToken::new();
        let up = PublisherEvent::Up {
            publisher: self.publisher,
            client,
            connected,
            recycle: recycle.clone(),
        };
        self.report(up).await.ok()?;
        let ended = tokio::select! {
            ended = self.pump(&mut connection) => ended,
            never = self.announce_renewal(live.token_ends) => match never {},
            () = recycle.cancelled() => {
                Err(LinkError::new(Cause::TimedOut, "a publish was not confirmed in time"))
            }
        };
        match ended {
            Ok(()) if self.link.stop.is_cancelled() => None,
            Ok(()) => Some(renewed()),
            Err(error) => Some(self.link.connector.explain(error)),
        }
    }

    /// Reports confirmations until the connection fails, or our DISCONNECT is out.
    async fn pump(&self, connection: &mut Connection) -> Result<(), LinkError> {
        loop {
            let event = connection.next().await?;
            match event {
                Event::Confirmed { token, outcome } => {
                    self.report(PublisherEvent::Confirmed {
                        publisher: self.publisher,
                        token,
                        outcome,
                    })
                    .await?;
                }
                Event::Disconnected => return Ok(()),
                Event::Subscribed(_) | Event::Message(_) => {}
            }
        }
    }

    /// Says that there is a new token, once there is one. Then the observer disconnects.
    async fn announce_renewal(&self, token_ends: Option<UnixMillis>) -> Infallible {
        self.link.wait_for_new_token(token_ends).await;
        let publisher = self.publisher;
        // If the observer has ended, the next report finds out.
        let _ = self.report(PublisherEvent::Renewing { publisher }).await;
        std::future::pending().await
    }

    async fn report_down(&self, error: &LinkError) -> Result<(), LinkError> {
        let down = PublisherEvent::Down {
            publisher: self.publisher,
            error: error.clone(),
        };
        self.report(down).await
    }

    async fn report(&self, event: PublisherEvent) -> Result<(), LinkError> {
        let sent = self.events.send(event).await;
        sent.map_err(|_| observer_ended())
    }
}
