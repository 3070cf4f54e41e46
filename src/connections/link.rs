//! Links: each keeps one connection to the broker up, in a task of its own.
//!
//! Owns what every link has in common: settings, the pause between connections, token renewal.
//! Leaves what travels on a connection to `session.rs` and `publisher.rs`, and which messages are
//! under way to the ledger. A link remembers nothing about messages from one connection to the
//! next.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span, warn};

use super::connector::{Connector, LiveConnection};
use super::publisher::{PublisherEvent, PublisherLink};
use super::retry::{Outlook, Retry};
use super::session::{SessionEvent, SessionLink};
use super::version::VersionChooser;
use super::watchdog::Watchdog;
use crate::auth::credentials::Credentials;
use crate::auth::secret::Secret;
use crate::mqtt::{Cause, Connected, Event, LinkError, Protocol, Proxy, Session, Transport};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::{Subscription, TopicFilter};
use crate::telemetry::clock::Clock;
use crate::telemetry::health::Health;
use crate::telemetry::{LinkRole, Metrics};

/// Keep alives without any event, pings included, after which a connection counts as dead. The
/// MQTT client can hang in a write without noticing.
const SILENT_KEEP_ALIVES: u32 = 3;

/// Why a connection was given up for another, although nothing is wrong.
const RENEWED: &str = "connecting again with a new token, before the old one ends";
const TAKEN_OVER: &str = "the session is taken over again and again, \
    or the broker closes it at once: is another observer running with this client identifier?";

/// What every link of one observer has in common.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// How the broker is reached.
    pub transport: Transport,
    /// A proxy on the way, if any.
    pub proxy: Option<Proxy>,
    /// The only version of MQTT to speak; `None` for the newest that the broker speaks.
    pub protocol: Option<Protocol>,
    /// Where user name, password or token come from; read anew for each connection.
    pub credentials: Credentials,
    /// The client identifier of the session; publishers add `-pub-` and their name.
    pub client_id: Secret,
    /// Time between pings.
    pub keep_alive: Duration,
    /// Limit for getting connected.
    pub connect_timeout: Duration,
    /// How long the broker is asked to keep the session.
    pub session: Session,
    /// Messages under way at a time.
    pub window: u16,
    /// A payload over this is cut, because its message will be refused.
    pub max_payload_bytes: usize,
    /// What the broker publishes if the session's connection ends without our DISCONNECT.
    pub will: Option<Publish>,
}

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
            publish_window: 0,
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
        publish_window: usize,
        events: mpsc::Sender<PublisherEvent>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let base = self.settings.client_id.expose_secret();
        let connector = Connector {
            settings: self.settings.clone(),
            version: self.version.clone(),
            client_id: Secret::new(format!("{base}-pub-{name}")),
            session: Session::Clean,
            publish_window,
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
            watchdog: Watchdog::default(),
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
        let mut live = connector.connect(self.settings.window).await?;
        live.client
            .disconnect()
            .map_err(|_| LinkError::new(Cause::Closed, "the connection closed at once"))?;
        while live.connection.next().await? != Event::Disconnected {}
        Ok(())
    }
}

/// What one link consists of, whatever its role.
pub(super) struct Link {
    pub(super) connector: Connector,
    role: LinkRole,
    pub(super) retry: Retry,
    pub(super) watchdog: Watchdog,
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) stop: CancellationToken,
}

impl Link {
    /// Connects. There is no result if the link is to stop.
    pub(super) async fn attempt(&self) -> Option<Result<LiveConnection, LinkError>> {
        let receive_maximum = if self.retry.expects_undecodable() {
            // One message at a time, so that those before the undecodable one are acknowledged.
            1
        } else {
            self.connector.settings.window
        };
        tokio::select! {
            attempt = self.connector.connect(receive_maximum) => Some(attempt),
            () = self.stop.cancelled() => None,
        }
    }

    /// Waits before the next attempt; `lived` is how long the connection lasted, if there was one.
    /// Breaks if the link is to stop instead.
    pub(super) async fn pause(
        &mut self,
        error: &LinkError,
        lived: Option<Duration>,
    ) -> ControlFlow<()> {
        if self.stop.is_cancelled() {
            return ControlFlow::Break(());
        }
        self.metrics.reconnects(self.role, error.cause);
        if error.cause == Cause::Renewed {
            info!("{RENEWED}");
            return ControlFlow::Continue(());
        }
        let outlook = self.outlook(error);
        let pause = self.retry.next(error, outlook, lived, fastrand::u64(..));
        if pause.is_contested {
            error!(%error, "{TAKEN_OVER}");
        }
        let retry_in = humantime::format_duration(whole_millis(pause.delay));
        if pause.outlook == Outlook::NeedsOperator || error.cause == Cause::Undecodable {
            error!(%error, %retry_in, "not connected");
        } else {
            warn!(%error, %retry_in, "not connected");
        }
        tokio::select! {
            () = tokio::time::sleep(pause.delay) => ControlFlow::Continue(()),
            () = self.stop.cancelled() => ControlFlow::Break(()),
        }
    }

    fn outlook(&self, error: &LinkError) -> Outlook {
        let credentials = &self.connector.settings.credentials;
        // A refused token that was replaced meanwhile is worth trying at once.
        let is_replaced =
            error.cause == Cause::Expired && credentials.token_expired(Clock.now().wall).is_none();
        if error.is_permanent() && !is_replaced {
            Outlook::NeedsOperator
        } else {
            Outlook::Transient
        }
    }

    /// Waits until the token in use nears its end, and one that is good for longer can be had: for
    /// ever, if that will never be. Safe to cancel.
    pub(super) async fn wait_for_new_token(&self, token_ends: Option<UnixMillis>) {
        let credentials = &self.connector.settings.credentials;
        let Some(ends) = token_ends.filter(|_| credentials.can_renew()) else {
            return std::future::pending().await;
        };
        let now = Clock.now().wall.as_millis();
        let left = Duration::from_millis(ends.as_millis().saturating_sub(now));
        tokio::time::sleep(left / 5 * 4).await;
        while !credentials.is_renewed(ends) {
            tokio::time::sleep((left / 50).max(Duration::from_secs(1))).await;
        }
    }

    /// A connection that reports nothing for this long, not even a ping, is dead.
    pub(super) fn max_silence(&self, connected: &Connected) -> Duration {
        let servers = connected.server_keep_alive.unwrap_or_default();
        servers.max(self.connector.settings.keep_alive) * SILENT_KEEP_ALIVES
    }
}

/// Our DISCONNECT ended the connection, to connect again with a new token.
pub(super) fn renewed() -> LinkError {
    LinkError::new(Cause::Renewed, RENEWED)
}

/// Whoever takes the events is gone.
pub(super) fn observer_ended() -> LinkError {
    LinkError::new(Cause::Other, "the observer has ended")
}

fn whole_millis(delay: Duration) -> Duration {
    Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}
