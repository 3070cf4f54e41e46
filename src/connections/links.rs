//! The links of one observer: one session, and the publishers.
//!
//! Owns what they share, and that a faulty set-up is tried by one connection only. Leaves keeping a
//! connection up to `link.rs`.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info_span};

use super::connector::Connector;
use super::link::Link;
use super::publisher::{PublisherEvent, PublisherLink};
use super::retry::Retry;
use super::session::{SessionEvent, SessionLink};
use super::settings::LinkSettings;
use super::version::VersionChooser;
use crate::auth::secret::Secret;
use crate::mqtt::{Cause, Event, LinkError, Session};
use crate::protocol::topic::{Subscription, TopicFilter};
use crate::telemetry::health::Health;
use crate::telemetry::{LinkRole, Metrics};

/// The links of one observer, to be spawned.
#[derive(Debug)]
pub struct Links {
    settings: Arc<LinkSettings>,
    version: Arc<VersionChooser>,
    /// Set once the session has connected for the first time. Publishers start then: login and
    /// version are known to be right, so that a faulty set-up is tried by one connection only.
    publishers_may_start: watch::Sender<bool>,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Links {
    /// Links that end when `stop` is cancelled: at once where they are not connected, after their
    /// DISCONNECT where they are. `health` hears of a lost connection at once, however busy the
    /// observer is.
    pub fn new(
        settings: LinkSettings,
        health: Health,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        Self {
            version: Arc::new(VersionChooser::new(settings.protocol)),
            settings: Arc::new(settings),
            publishers_may_start: watch::Sender::new(false),
            health,
            metrics,
            stop,
        }
    }

    /// The session's link: runs until the observer stops. It subscribes to `filters`. An earlier
    /// run with other settings may have left `retired` filters in the session: it unsubscribes from
    /// them.
    pub fn session(
        &self,
        filters: Vec<Subscription>,
        retired: Vec<TopicFilter>,
        events: mpsc::Sender<SessionEvent>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let connector = Connector {
            settings: self.settings.clone(),
            version: self.version.clone(),
            client_id: self.settings.client_id.clone(),
            session: self.settings.session,
            will: self.settings.will.clone(),
        };
        let link = self.link(connector, LinkRole::Session);
        let publishers_may_start = self.publishers_may_start.clone();
        SessionLink::new(link, filters, retired, events, publishers_may_start)
            .run()
            .instrument(info_span!("session"))
    }

    /// A publisher's link, whose client identifier ends in `name`: runs until the observer stops.
    pub fn publisher(
        &self,
        publisher: usize,
        name: &str,
        events: mpsc::Sender<PublisherEvent>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let base = self.settings.client_id.expose_secret();
        let connector = Connector {
            settings: self.settings.clone(),
            version: self.version.clone(),
            client_id: Secret::new(format!("{base}-pub-{name}")),
            session: Session::Clean,
            will: None,
        };
        let link = self.link(connector, LinkRole::Publisher);
        PublisherLink::new(
            link,
            publisher,
            events,
            self.publishers_may_start.subscribe(),
        )
        .run()
        .instrument(info_span!("publisher", number = publisher))
    }

    fn link(&self, connector: Connector, role: LinkRole) -> Link {
        Link {
            connector,
            role,
            retry: Retry::new(role),
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Connects once with an empty session, so that the broker discards what it has kept.
    ///
    /// # Errors
    /// [`LinkError`], if that does not succeed.
    pub async fn reset_session(&self) -> Result<(), LinkError> {
        let (settings, version) = (self.settings.clone(), self.version.clone());
        let connector = Connector::once(settings, version, Session::Clean);
        let mut opened = connector.connect().await?.opened;
        opened
            .client
            .disconnect()
            .map_err(|_| LinkError::new(Cause::Closed, "the connection closed at once"))?;
        while opened.connection.next().await? != Event::Disconnected {}
        Ok(())
    }
}
