//! Links: what keeps a connection to the broker up, one task each.
//!
//! A link opens a connection, pumps its events to the daemon, and opens the next one when it ends: after a back-off with jitter,
//! slowly where somebody has to change something first. The session's link subscribes and receives; a lane publishes. Which
//! messages are under way is the ledger's business: a link remembers nothing from one connection to the next.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::auth::credentials::Credentials;
use crate::auth::secret::Secret;
use crate::auth::token;
use crate::connections::publisher::PublisherEvent;
use crate::connections::session::{SHED_QOS_0_AT, SessionEvent};
use crate::delivery::backoff::Backoff;
use crate::mqtt::{
    self, Cause, Client, ConnectOptions, Connected, Connection, Delivery, Event, LinkError,
    Protocol, Proxy, Session, Transport,
};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::{Subscription, TopicFilter};
use crate::telemetry::clock::Clock;
use crate::telemetry::health::Health;
use crate::telemetry::{LinkRole, Metrics};

/// The first wait after a connection is lost, and the longest while the broker cannot be reached.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// The same, where trying again soon is pointless: a refused login, a client identifier somebody else uses.
const SLOW_RETRY: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// A connection that lasted this long has proved good.
const PROVED_GOOD: Duration = Duration::from_secs(10);
/// A connection the broker closes without a word this soon, twice in a row, looks like a fight over the client identifier.
const SUSPICIOUSLY_SHORT: Duration = Duration::from_secs(3);
/// Connections of a publishing link that may end soon, one after another, before it waits longer each time: a publish that
/// costs the connection is found by trying, and the others should not wait for that.
const QUICK_RETRIES: u32 = 10;
/// Kibibytes of payload read and not yet taken by the daemon, from which on nothing more is read.
const KIB_READ_AHEAD: usize = 64 << 10;
/// Connections spent on getting past packets that one version of MQTT cannot read, before it is tried slowly.
const UNDECODABLE_TRIES: u32 = 10;
/// Keep alives without any event, pings included, after which a connection counts as dead: rumqttc can hang in a write.
const SILENT_KEEP_ALIVES: u32 = 3;

/// Why a connection was given up, and nothing is wrong.
const RENEWED: &str = "connecting again with a new token, before the old one ends";

/// What every link of one observer has in common.
#[derive(Clone, Debug)]
pub struct LinkSettings {
    /// How the broker is reached.
    pub transport: Transport,
    /// A proxy on the way, if any.
    pub proxy: Option<Proxy>,
    /// The only version to speak; `None`: the newest the broker speaks.
    pub protocol: Option<Protocol>,
    /// Where user, password or token come from; read anew for each connection.
    pub credentials: Credentials,
    /// The client identifier of the session; publishing connections add `-pub-N`.
    pub client_id: Secret,
    /// Ping interval.
    pub keep_alive: Duration,
    /// Limit for getting connected.
    pub connect_timeout: Duration,
    /// How long the broker is asked to keep the session.
    pub session: Session,
    /// Messages under way at a time.
    pub window: u16,
    /// Payloads over this are not kept: they will be refused.
    pub max_payload_bytes: usize,
    /// What the broker publishes, should the session's connection end without our DISCONNECT.
    pub will: Option<Publish>,
}

/// Which version of MQTT to speak (`--protocol auto`): found out by trying, and kept for the life of the process.
#[derive(Debug)]
struct Chooser {
    fixed: Option<Protocol>,
    found: Mutex<VersionState>,
}

#[derive(Debug)]
struct VersionState {
    protocol: Protocol,
    /// The broker has answered a CONNECT of this version.
    settled: bool,
    /// The broker has answered a CONNECT of version 5.
    speaks_5: bool,
}

impl Chooser {
    fn new(fixed: Option<Protocol>) -> Self {
        Self {
            fixed,
            found: Mutex::new(VersionState {
                protocol: Protocol::V5,
                settled: false,
                speaks_5: false,
            }),
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, VersionState> {
        self.found.lock().expect("nobody panics holding it")
    }

    fn protocol(&self) -> Protocol {
        self.fixed.unwrap_or(self.found().protocol)
    }

    /// An answer to CONNECT, even a refusal, settles the matter.
    fn answered(&self, protocol: Protocol) {
        let mut found = self.found();
        found.settled = true;
        found.speaks_5 |= protocol == Protocol::V5;
    }

    /// A failure before the broker accepted. Returns whether the other version is worth trying at once: RabbitMQ before 3.13
    /// closes the socket on a version 5 CONNECT, others answer in a form version 5 does not know. No answer at all says nothing:
    /// a broker under an alarm gives none.
    fn failed(&self, protocol: Protocol, error: &LinkError) -> bool {
        match error.cause {
            Cause::BadCredentials
            | Cause::NotAuthorized
            | Cause::BadClientId
            | Cause::Unavailable => {
                self.answered(protocol);
                false
            }
            Cause::ProtocolVersion | Cause::Closed | Cause::Other => {
                let mut found = self.found();
                if found.settled || self.fixed.is_some() {
                    return false;
                }
                found.protocol = other(protocol);
                protocol == Protocol::V5
            }
            Cause::Unreachable
            | Cause::Tls
            | Cause::TimedOut
            | Cause::TakenOver
            | Cause::Expired
            | Cause::Renewed
            | Cause::ClosedOnSubscribe
            | Cause::Undecodable => false,
        }
    }

    /// A packet was delivered that this version's half of the client cannot read. Returns whether the next connection is made in
    /// the other version, which can.
    fn undecodable(&self, protocol: Protocol) -> bool {
        let mut found = self.found();
        if self.fixed.is_some() || !found.speaks_5 {
            return false;
        }
        found.protocol = other(protocol);
        true
    }
}

fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::V5 => Protocol::V311,
        Protocol::V311 => Protocol::V5,
    }
}

/// A connection that the broker has accepted.
struct LiveConnection {
    client: Client,
    connection: Connection,
    connected: Connected,
    /// When the token it was made with ends.
    token_ends: Option<UnixMillis>,
}

/// What one link is for.
struct Link {
    settings: Arc<LinkSettings>,
    chooser: Arc<Chooser>,
    client_id: Secret,
    session: Session,
    publish_window: usize,
    backoff: Backoff,
    slow: Backoff,
    short_lives: u32,
    /// Connections that ended on a packet that could not be read, with no long one since.
    undecodable: u32,
    /// The same for a SUBSCRIBE that was answered by closing.
    closed_on_subscribe: u32,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Link {
    /// Opens a connection and waits until the broker accepts it.
    async fn connect(
        &self,
        credentials: Option<(String, Secret)>,
    ) -> Result<(Client, Connection, Connected), LinkError> {
        let protocol = self.chooser.protocol();
        let options = ConnectOptions {
            transport: self.settings.transport.clone(),
            proxy: self.settings.proxy.clone(),
            protocol,
            client_id: self.client_id.clone(),
            credentials,
            session: self.session,
            keep_alive: self.settings.keep_alive,
            connect_timeout: self.settings.connect_timeout,
            // What cannot be read is looked for one message at a time, so that those before it are acknowledged.
            receive_maximum: if self.undecodable > 0 {
                1
            } else {
                self.settings.window
            },
            publish_window: self.publish_window,
            will: self
                .settings
                .will
                .clone()
                .filter(|_| self.role() == LinkRole::Session),
        };
        let (mut client, mut connection) = mqtt::open(&options);
        // rumqttc limits the look-up and the handshake by itself; this is for whatever it forgets.
        let first = timeout(
            self.settings.connect_timeout + Duration::from_secs(5),
            connection.next(),
        );
        match first.await.unwrap_or_else(|_| {
            Err(LinkError::new(
                Cause::TimedOut,
                "no answer to CONNECT in time",
            ))
        }) {
            Ok(Event::Connected(connected)) => {
                self.chooser.answered(protocol);
                client.set_limits(&connected);
                Ok((client, connection, connected))
            }
            Ok(_) => Err(LinkError::new(
                Cause::Other,
                "the broker's first packet was no CONNACK",
            )),
            Err(error) => Err(error),
        }
    }

    /// Connects, trying the other version of MQTT at once where that may help. With it comes the end of the token that was used.
    async fn connect_in_some_version(&self) -> Result<LiveConnection, LinkError> {
        let credentials = self
            .settings
            .credentials
            .read(Clock.now().wall)
            .map_err(|error| LinkError::new(Cause::BadCredentials, error.to_string()))?;
        let token = credentials
            .as_ref()
            .and_then(|(_, secret)| token::peek(secret.expose_secret()));
        let token_ends = token.and_then(|claims| claims.ends());
        let protocol = self.chooser.protocol();
        let mut attempt = self.connect(credentials.clone()).await;
        if let Err(error) = &attempt
            && self.chooser.failed(protocol, error)
        {
            debug!(%protocol, %error, "trying the other version of MQTT");
            let protocol = self.chooser.protocol();
            attempt = self.connect(credentials).await;
            if let Err(error) = &attempt {
                self.chooser.failed(protocol, error);
            }
        }
        let (client, connection, connected) = attempt.map_err(|error| self.explain(error))?;
        Ok(LiveConnection {
            client,
            connection,
            connected,
            token_ends,
        })
    }

    /// Waits until the token in use is nearly at its end, and there is one that is good for longer: for ever, if that will never be.
    async fn renewal(&self, token_ends: Option<UnixMillis>) {
        let credentials = &self.settings.credentials;
        let (Some(ends), true) = (token_ends, credentials.can_renew()) else {
            return std::future::pending().await;
        };
        let now = Clock.now().wall.as_millis();
        let left = Duration::from_millis(ends.as_millis().saturating_sub(now));
        tokio::time::sleep(left / 5 * 4).await;
        while !credentials.is_renewed(ends) {
            tokio::time::sleep((left / 50).max(Duration::from_secs(1))).await;
        }
    }

    /// Connects, unless the link is to stop: then there is no result.
    async fn attempt(&self) -> Option<Result<LiveConnection, LinkError>> {
        tokio::select! {
            attempt = self.connect_in_some_version() => Some(attempt),
            () = self.stop.cancelled() => None,
        }
    }

    /// Adds what we know and the broker does not say: a refused token that has expired, for one.
    fn explain(&self, mut error: LinkError) -> LinkError {
        let over_websocket = matches!(
            self.settings.transport,
            Transport::Ws { .. } | Transport::Wss { .. }
        );
        if over_websocket
            && self.is_session()
            && matches!(error.cause, Cause::Closed | Cause::ClosedOnSubscribe)
        {
            // The WebSocket library ends such a connection without a word.
            error.text.push_str("; over WebSocket a waiting message of more than 16 MiB looks the same: limit packets in the broker, and discard it with --reset-session or read it over mqtt://");
        }
        let may_be_age = matches!(
            error.cause,
            Cause::BadCredentials
                | Cause::NotAuthorized
                | Cause::ClosedOnSubscribe
                | Cause::Expired
        );
        match self
            .settings
            .credentials
            .token_expired(Clock.now().wall)
            .filter(|_| may_be_age)
        {
            Some(expired) => LinkError::new(Cause::Expired, format!("{}: {expired}", error.text)),
            None => error,
        }
    }

    /// Whether this is the session's link.
    fn is_session(&self) -> bool {
        self.publish_window == 0
    }

    fn role(&self) -> LinkRole {
        if self.is_session() {
            LinkRole::Session
        } else {
            LinkRole::Publisher
        }
    }

    /// Waits before the next attempt. Returns false, if the link is to stop instead.
    async fn pause(&mut self, error: &LinkError, lived: Duration) -> bool {
        self.metrics.reconnects(self.role(), error.cause);
        if error.cause == Cause::Renewed {
            info!("{RENEWED}");
            return true;
        }
        if lived >= PROVED_GOOD {
            self.backoff.reset();
            self.slow.reset();
            self.undecodable = 0;
            self.closed_on_subscribe = 0;
        }
        self.undecodable += u32::from(error.cause == Cause::Undecodable);
        let short = !lived.is_zero() && lived < SUSPICIOUSLY_SHORT;
        self.short_lives = if short && error.cause == Cause::Closed {
            self.short_lives + 1
        } else {
            0
        };
        // Publishing links are closed for what they publish; only the session's link has something to be taken over.
        let fight = self.is_session() && (error.cause == Cause::TakenOver || self.short_lives >= 2);
        if fight {
            error!(
                %error,
                "the session is taken over again and again, or the broker closes it at once: is another observer running with this client identifier?"
            );
        }
        // A token that was refused for its age, and has been renewed since, is worth trying at once.
        let renewed = error.cause == Cause::Expired
            && self
                .settings
                .credentials
                .token_expired(Clock.now().wall)
                .is_none();
        let permanent = (error.is_permanent() && !renewed) || self.undecodable > UNDECODABLE_TRIES;
        let delay = if fight || permanent {
            self.slow.next(fastrand::u64(..))
        } else if !self.is_session() && (1..=QUICK_RETRIES).contains(&self.short_lives) {
            Backoff::new(RETRY.0, RETRY.0).next(fastrand::u64(..))
        } else {
            self.backoff.next(fastrand::u64(..))
        };
        let retry_in = humantime::format_duration(round(delay));
        if permanent || error.cause == Cause::Undecodable {
            error!(%error, %retry_in, "not connected");
        } else {
            warn!(%error, %retry_in, "not connected");
        }
        tokio::select! {
            () = tokio::time::sleep(delay) => true,
            () = self.stop.cancelled() => false,
        }
    }

    /// A connection that reports nothing for this long, not even a ping, is dead.
    fn silence(&self, connected: &Connected) -> Duration {
        connected
            .server_keep_alive
            .unwrap_or_default()
            .max(self.settings.keep_alive)
            * SILENT_KEEP_ALIVES
    }
}

fn round(delay: Duration) -> Duration {
    Duration::from_millis(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX))
}

/// The links of one observer, to be spawned.
#[derive(Debug)]
pub struct Links {
    settings: Arc<LinkSettings>,
    chooser: Arc<Chooser>,
    /// Set once the session has connected for the first time: then the publishing links begin, knowing that login and version
    /// are right, so that a faulty set-up is tried once at a time.
    pioneered: watch::Sender<bool>,
    health: Health,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Links {
    /// Links that end when `stop` is cancelled: at once where they are not connected, after their DISCONNECT where they are. A
    /// connection that is lost is told to `health` at once, however busy the daemon is.
    pub fn new(
        settings: LinkSettings,
        health: Health,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let chooser = Arc::new(Chooser::new(settings.protocol));
        Self {
            settings: Arc::new(settings),
            chooser,
            pioneered: watch::Sender::new(false),
            health,
            metrics,
            stop,
        }
    }

    fn link(&self, client_id: Secret, session: Session, publish_window: usize) -> Link {
        Link {
            settings: self.settings.clone(),
            chooser: self.chooser.clone(),
            client_id,
            session,
            publish_window,
            backoff: Backoff::new(RETRY.0, RETRY.1),
            slow: Backoff::new(SLOW_RETRY.0, SLOW_RETRY.1),
            short_lives: 0,
            undecodable: 0,
            closed_on_subscribe: 0,
            health: self.health.clone(),
            metrics: self.metrics.clone(),
            stop: self.stop.clone(),
        }
    }

    /// The session's link: runs until the observer stops. It subscribes to `filters`; `retired` are filters that an earlier run
    /// with other settings may have left in the session.
    pub fn session(
        &self,
        filters: Vec<Subscription>,
        retired: Vec<TopicFilter>,
        events: mpsc::Sender<SessionEvent>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let link = self.link(self.settings.client_id.clone(), self.settings.session, 0);
        let pioneered = self.pioneered.clone();
        run_session(link, filters, retired, events, pioneered).instrument(info_span!("session"))
    }

    /// A publishing link, whose client identifier ends in `name`: runs until the observer stops.
    pub fn publisher(
        &self,
        lane: usize,
        name: &str,
        publish_window: usize,
        events: mpsc::Sender<PublisherEvent>,
    ) -> impl Future<Output = ()> + Send + use<> {
        let client_id = Secret::new(format!(
            "{}-pub-{name}",
            self.settings.client_id.expose_secret()
        ));
        let link = self.link(client_id, Session::Clean, publish_window);
        let pioneered = self.pioneered.subscribe();
        run_lane(link, lane, events, pioneered).instrument(info_span!("publisher", lane))
    }

    /// Connects once with an empty session, so that the broker forgets what it kept.
    ///
    /// # Errors
    /// [`LinkError`], if that does not succeed.
    pub async fn reset_session(&self) -> Result<(), LinkError> {
        let (client, mut connection, _) = self.visit(Session::Clean).await?;
        client
            .disconnect()
            .map_err(|_| LinkError::new(Cause::Closed, "the connection closed at once"))?;
        while connection.next().await? != Event::Disconnected {}
        Ok(())
    }

    /// Connects once, under the session's client identifier, and leaves the connection to the caller.
    ///
    /// # Errors
    /// [`LinkError`], if that does not succeed.
    pub async fn visit(
        &self,
        session: Session,
    ) -> Result<(Client, Connection, Connected), LinkError> {
        let link = self.link(
            self.settings.client_id.clone(),
            session,
            usize::from(self.settings.window),
        );
        let opened = link.connect_in_some_version().await?;
        Ok((opened.client, opened.connection, opened.connected))
    }
}

async fn run_session(
    mut link: Link,
    filters: Vec<Subscription>,
    retired: Vec<TopicFilter>,
    events: mpsc::Sender<SessionEvent>,
    pioneered: watch::Sender<bool>,
) {
    let mut number = 0;
    let read_ahead = Arc::new(Semaphore::new(KIB_READ_AHEAD));
    loop {
        let Some(attempt) = link.attempt().await else {
            return;
        };
        let mut lived = Duration::ZERO;
        let error = match attempt {
            Err(error) => error,
            Ok(LiveConnection {
                client,
                mut connection,
                connected,
                token_ends,
            }) => {
                number += 1;
                let since = Instant::now();
                pioneered.send_replace(true);
                let protocol = connected.protocol;
                let silence = link.silence(&connected);
                let progress = Progress::default();
                let mut pump = SessionPump {
                    link: &link,
                    progress: &progress,
                    events: &events,
                    filters: &filters,
                    retired: &retired,
                    read_ahead: &read_ahead,
                    number,
                };
                let renew = async {
                    link.renewal(token_ends).await;
                    let renewing = SessionEvent::Renewing { connection: number };
                    // Whoever took the events is gone: then this ends, too.
                    let _ = events.send(renewing).await;
                    std::future::pending().await
                };
                let ended = tokio::select! {
                    ended = pump.run(&mut connection, client, connected) => ended,
                    error = progress.stalled(silence) => Err(error),
                    ended = renew => ended,
                };
                lived = since.elapsed();
                match ended {
                    Ok(()) if link.stop.is_cancelled() => return connection.close().await,
                    Ok(()) => {
                        connection.close().await;
                        LinkError::new(Cause::Renewed, RENEWED)
                    }
                    Err(error) if error.cause == Cause::Undecodable => {
                        let remedy = match link.chooser.undecodable(protocol) {
                            _ if link.undecodable > UNDECODABLE_TRIES => {
                                "neither version gets past it: start once with --reset-session, which discards what waits"
                            }
                            true => "switching to the other version",
                            false => {
                                "use --protocol auto, or start once with --reset-session, which discards what waits"
                            }
                        };
                        LinkError::new(error.cause, format!("{}: {remedy}", error.text))
                    }
                    Err(error) if error.cause == Cause::ClosedOnSubscribe => {
                        link.closed_on_subscribe += 1;
                        let mut error = link.explain(error);
                        // Once can be a broker that is just going down.
                        if error.cause == Cause::ClosedOnSubscribe && link.closed_on_subscribe > 1 {
                            error.cause = Cause::NotAuthorized;
                        }
                        error
                    }
                    Err(error) => link.explain(error),
                }
            }
        };
        link.health.set_session(Some(error.to_string()));
        if events
            .send(SessionEvent::Down(error.clone()))
            .await
            .is_err()
            || link.stop.is_cancelled()
            || !link.pause(&error, lived).await
        {
            return;
        }
    }
}

/// Counts events, so that a connection on which nothing happens any more is noticed without a timer for each of them.
#[derive(Default)]
struct Progress(AtomicU64);

impl Progress {
    fn made(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until there has been no event for `silence` (at most twice that). Safe to cancel.
    async fn stalled(&self, silence: Duration) -> LinkError {
        loop {
            let before = self.0.load(Ordering::Relaxed);
            tokio::time::sleep(silence).await;
            if self.0.load(Ordering::Relaxed) == before {
                return LinkError::new(
                    Cause::TimedOut,
                    "nothing came from the broker for three keep alives",
                );
            }
        }
    }
}

/// One connection of the session.
struct SessionPump<'a> {
    link: &'a Link,
    progress: &'a Progress,
    events: &'a mpsc::Sender<SessionEvent>,
    filters: &'a [Subscription],
    /// Filters an earlier run may have left in the session.
    retired: &'a [TopicFilter],
    read_ahead: &'a Arc<Semaphore>,
    number: u64,
}

impl SessionPump<'_> {
    /// Until it fails, or our DISCONNECT is out.
    async fn run(
        &mut self,
        connection: &mut Connection,
        client: Client,
        connected: Connected,
    ) -> Result<(), LinkError> {
        if self.number == 1 && connected.session_present {
            // A session outlives the settings it was made with.
            for filter in self.retired {
                client.unsubscribe(filter).map_err(|_| {
                    LinkError::new(Cause::Closed, "the connection closed before SUBSCRIBE")
                })?;
            }
        }
        client
            .subscribe(self.filters)
            .map_err(|_| LinkError::new(Cause::Closed, "the connection closed before SUBSCRIBE"))?;
        self.report(SessionEvent::Up {
            connection: self.number,
            client,
            connected,
        })
        .await?;
        let mut subscribed = false;
        loop {
            let event = match connection.next().await {
                Ok(event) => event,
                Err(error) if error.cause == Cause::Closed && !subscribed => {
                    // RabbitMQ 3.10 answers a forbidden SUBSCRIBE by closing, with no SUBACK.
                    return Err(LinkError::new(
                        Cause::ClosedOnSubscribe,
                        "the broker closed the connection on SUBSCRIBE: may this user read the outgoing paths of all users? (RabbitMQ closes on what is not permitted)",
                    ));
                }
                Err(error) => return Err(error),
            };
            self.progress.made();
            match event {
                Event::Message(delivery) => self.pass_on(delivery).await?,
                Event::Subscribed(granted) => {
                    check_granted(self.filters, &granted)?;
                    subscribed = true;
                    self.report(SessionEvent::Subscribed {
                        connection: self.number,
                    })
                    .await?;
                }
                Event::Disconnected => return Ok(()),
                Event::Connected(_) | Event::Confirmed { .. } | Event::Other => {}
            }
        }
    }

    /// There is room for every message that waits for an ack, so that reading goes on however busy the daemon is: acks and pings
    /// go out between the reads. Only too many bytes stop it.
    async fn pass_on(&mut self, mut delivery: Delivery) -> Result<(), LinkError> {
        delivery
            .received
            .cut_to(self.link.settings.max_payload_bytes);
        let waiting = self.events.max_capacity() - self.events.capacity();
        if delivery.packet_id.is_none() && waiting >= SHED_QOS_0_AT {
            self.link.metrics.qos_0_dropped();
            return Ok(());
        }
        let kib = (delivery.received.payload.len() >> 10) + 1;
        let kib = u32::try_from(kib.min(KIB_READ_AHEAD)).expect("less than the bound");
        let share = loop {
            let share = self.read_ahead.clone().acquire_many_owned(kib);
            match timeout(Duration::from_secs(1), share).await {
                Ok(share) => break share.expect("the semaphore is never closed"),
                // It is the daemon that is slow, not the broker.
                Err(_) => self.progress.made(),
            }
        };
        self.report(SessionEvent::Message(delivery, share)).await
    }

    async fn report(&self, event: SessionEvent) -> Result<(), LinkError> {
        self.events
            .send(event)
            .await
            .map_err(|_| LinkError::new(Cause::Other, "the daemon has ended"))
    }
}

/// Every filter must be granted, at QoS 1: else messages would be lost, or never come.
fn check_granted(
    filters: &[Subscription],
    granted: &[Result<u8, crate::mqtt::ReasonCode>],
) -> Result<(), LinkError> {
    if granted.len() != filters.len() {
        let text = format!(
            "SUBACK answers {} filters of {}",
            granted.len(),
            filters.len()
        );
        return Err(LinkError::new(Cause::Other, text));
    }
    match filters
        .iter()
        .zip(granted)
        .find(|(_, granted)| !matches!(granted, Ok(1..)))
    {
        None => Ok(()),
        Some((asked, Ok(qos))) => Err(LinkError::new(
            Cause::NotAuthorized,
            format!(
                "subscription to {filter:?} was granted QoS {qos} only",
                filter = asked.filter.as_str()
            ),
        )),
        Some((asked, Err(reason))) => Err(LinkError::new(
            Cause::NotAuthorized,
            format!(
                "subscription to {filter:?} was refused: {reason}",
                filter = asked.filter.as_str()
            ),
        )),
    }
}

async fn run_lane(
    mut link: Link,
    lane: usize,
    events: mpsc::Sender<PublisherEvent>,
    mut pioneered: watch::Receiver<bool>,
) {
    tokio::select! {
        waited = pioneered.wait_for(|ready| *ready) => if waited.is_err() { return },
        () = link.stop.cancelled() => return,
    }
    loop {
        let Some(attempt) = link.attempt().await else {
            return;
        };
        let mut lived = Duration::ZERO;
        let error = match attempt {
            Err(error) => error,
            Ok(LiveConnection {
                client,
                mut connection,
                connected,
                token_ends,
            }) => {
                let since = Instant::now();
                let recycle = CancellationToken::new();
                let silence = link.silence(&connected);
                let progress = Progress::default();
                let up = PublisherEvent::Up {
                    publisher: lane,
                    client,
                    connected,
                    recycle: recycle.clone(),
                };
                if events.send(up).await.is_err() {
                    return;
                }
                let renew = async {
                    link.renewal(token_ends).await;
                    // Whoever took the events is gone: then this ends, too.
                    let _ = events
                        .send(PublisherEvent::Renewing { publisher: lane })
                        .await;
                    std::future::pending().await
                };
                let ended = tokio::select! {
                    ended = pump_lane(&progress, &mut connection, lane, &events) => ended,
                    ended = renew => ended,
                    error = progress.stalled(silence) => Err(error),
                    () = recycle.cancelled() => Err(LinkError::new(Cause::TimedOut, "a publish was not confirmed in time")),
                };
                lived = since.elapsed();
                let error = match ended {
                    Ok(()) if link.stop.is_cancelled() => return,
                    Ok(()) => LinkError::new(Cause::Renewed, RENEWED),
                    Err(error) => link.explain(error),
                };
                let down = PublisherEvent::Down {
                    publisher: lane,
                    error: error.clone(),
                };
                if events.send(down).await.is_err() {
                    return;
                }
                error
            }
        };
        if link.stop.is_cancelled() || !link.pause(&error, lived).await {
            return;
        }
    }
}

/// One publishing connection, until it fails, or our DISCONNECT is out.
async fn pump_lane(
    progress: &Progress,
    connection: &mut Connection,
    lane: usize,
    events: &mpsc::Sender<PublisherEvent>,
) -> Result<(), LinkError> {
    loop {
        let event = connection.next().await?;
        progress.made();
        match event {
            Event::Confirmed { token, outcome } => {
                let confirmed = PublisherEvent::Confirmed {
                    publisher: lane,
                    token,
                    outcome,
                };
                events
                    .send(confirmed)
                    .await
                    .map_err(|_| LinkError::new(Cause::Other, "the daemon has ended"))?;
            }
            Event::Disconnected => return Ok(()),
            Event::Connected(_) | Event::Subscribed(_) | Event::Message(_) | Event::Other => {}
        }
    }
}
