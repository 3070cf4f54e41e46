//! One connection to a broker, over MQTT 5 or 3.1.1: connect, subscribe, publish with tracking, acknowledge, disconnect.
//!
//! The only file that names the MQTT client crate. That crate's reconnecting, replaying and id reuse lose and mix up messages
//! (rumqttc 0.25.1), so a [`Connection`] is good for one connection: after its first error it is dropped, `link.rs` opens a new
//! one, and what was under way is known to the ledger alone.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's long lists of codes and errors are sorted into few kinds"
)]

mod error;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{self as v4, v5};

use self::error::{v4_error, v5_error};
use crate::auth::secret::Secret;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter};

/// How long the broker may take to close after our DISCONNECT.
const LINGER: Duration = Duration::from_secs(1);
/// The largest packet MQTT can encode, in bytes: header, 4 length bytes and 256 MiB less one (MQTT 3.1.1, 2.2.3). The limit is
/// set this high because a larger packet than the client allows would end the connection and come again for ever; the limit on
/// payloads is the policy's.
const MAX_PACKET_BYTES: u32 = 268_435_455 + 5;

/// QoS 0 publishes that wait to be written, before more are dropped.
const UNCONFIRMED: usize = 1_000;

/// What packet identifiers are drawn from, as a multiple of the publishes under way: RabbitMQ confirms out of order, and an id
/// that comes round before its turn is confirmed stops the connection until it is.
const PACKET_IDS_PER_PUBLISH: usize = 16;

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT 5.
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5 => "MQTT 5",
            Self::V311 => "MQTT 3.1.1",
        })
    }
}

/// How the broker is reached.
#[derive(Clone, Debug)]
pub enum Transport {
    /// `mqtt://`: plain TCP.
    Tcp {
        /// Host name or address; an IPv6 address in brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `mqtts://`: TLS.
    Tls {
        /// Host name, which the certificate must bear.
        host: String,
        /// TCP port.
        port: u16,
        /// Trust and client certificate.
        tls: Arc<rustls::ClientConfig>,
    },
    /// `ws://`: WebSocket.
    Ws {
        /// The whole URL, without credentials.
        url: String,
    },
    /// `wss://`: WebSocket over TLS.
    Wss {
        /// The whole URL, without credentials.
        url: String,
        /// Trust and client certificate.
        tls: Arc<rustls::ClientConfig>,
    },
}

/// An HTTP proxy to CONNECT through.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// User and password, if it asks for them.
    pub credentials: Option<(String, Secret)>,
}

/// Whether the broker keeps what arrives while we are away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It does, for this long (MQTT 5; MQTT 3.1.1 leaves it to the broker).
    Persistent(Duration),
    /// It does not, and forgets what it had.
    Clean,
}

/// What a connection is opened with.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// How the broker is reached.
    pub transport: Transport,
    /// A proxy on the way, if any.
    pub proxy: Option<Proxy>,
    /// The version of MQTT to speak.
    pub protocol: Protocol,
    /// The client identifier; not empty.
    pub client_id: Secret,
    /// User name and password.
    pub credentials: Option<(String, Secret)>,
    /// Whether the broker keeps a session.
    pub session: Session,
    /// Ping interval, at least 5 s.
    pub keep_alive: Duration,
    /// Limit for name look-up, TCP, TLS, WebSocket and CONNACK together.
    pub connect_timeout: Duration,
    /// Messages the broker may send ahead of our acknowledgements (MQTT 5).
    pub receive_maximum: u16,
    /// Publishes we may have under way; 0 for a connection that does not publish.
    pub publish_window: usize,
    /// What the broker publishes, should the connection end without our DISCONNECT.
    pub will: Option<Publish>,
}

/// What the broker said when it accepted the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connected {
    /// The version of MQTT spoken.
    pub protocol: Protocol,
    /// Whether it had kept a session for us.
    pub session_present: bool,
    /// Publishes it accepts at a time.
    pub receive_maximum: usize,
    /// The largest packet it accepts, in bytes, if it said (MQTT 5).
    pub max_packet_bytes: Option<u32>,
    /// How long it keeps the session, if it said otherwise than asked (MQTT 5).
    pub session_expiry: Option<Duration>,
    /// The keep alive it wants instead of ours, if any; zero for none at all (MQTT 5).
    pub server_keep_alive: Option<Duration>,
}

/// A message as it was delivered on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The message.
    pub received: Received,
    /// What to acknowledge; `None` at QoS 0.
    pub packet_id: Option<u16>,
    /// The DUP flag: a hint that it may have been delivered before.
    pub dup: bool,
}

/// What happened on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker accepted us; always the first event.
    Connected(Connected),
    /// The answer to [`Client::subscribe`]: for each filter the QoS granted, or the reason it was refused.
    Subscribed(Vec<Result<u8, String>>),
    /// A message.
    Message(Delivery),
    /// The broker has taken, or refused, the publish of that token.
    Confirmed {
        /// As given to [`Client::publish`].
        token: u64,
        /// The reason, if it was refused (MQTT 5 only).
        outcome: Result<(), String>,
    },
    /// Our DISCONNECT is on the wire: nothing more will come.
    Disconnected,
    /// Something without consequence, a ping for instance.
    Other,
}

/// What kind of failure ended a connection, or kept it from coming up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The broker does not speak this version of MQTT.
    ProtocolVersion,
    /// Wrong user, password or token.
    BadCredentials,
    /// Right user, but not allowed.
    NotAuthorized,
    /// The broker closed the connection between SUBSCRIBE and SUBACK: what RabbitMQ 3.10 does on a filter that is not permitted.
    ClosedOnSubscribe,
    /// The client identifier was refused.
    BadClientId,
    /// Busy, shutting down, out of quota: may pass.
    Unavailable,
    /// Another client connected with our client identifier.
    TakenOver,
    /// The token's time is over.
    Expired,
    /// We have disconnected, to connect again with a new token.
    Renewed,
    /// A packet was delivered that this version's half of the client cannot read: over MQTT 3.1.1 a topic that is not UTF-8, over
    /// MQTT 5 a property that is not. It will come again; the other version can read it.
    Undecodable,
    /// No answer in time.
    TimedOut,
    /// The broker closed the connection and said nothing.
    Closed,
    /// The operating system's word: unreachable, refused, unknown host.
    Unreachable,
    /// A certificate or the handshake.
    Tls,
    /// Anything else.
    Other,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 15] = [
        Self::ProtocolVersion,
        Self::BadCredentials,
        Self::NotAuthorized,
        Self::ClosedOnSubscribe,
        Self::BadClientId,
        Self::Unavailable,
        Self::TakenOver,
        Self::Expired,
        Self::Renewed,
        Self::Undecodable,
        Self::TimedOut,
        Self::Closed,
        Self::Unreachable,
        Self::Tls,
        Self::Other,
    ];

    /// The word for it in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ProtocolVersion => "protocol-version",
            Self::BadCredentials => "bad-credentials",
            Self::NotAuthorized => "not-authorized",
            Self::ClosedOnSubscribe => "closed-on-subscribe",
            Self::BadClientId => "bad-client-id",
            Self::Unavailable => "unavailable",
            Self::TakenOver => "taken-over",
            Self::Expired => "expired",
            Self::Renewed => "renewed",
            Self::Undecodable => "undecodable",
            Self::TimedOut => "timed-out",
            Self::Closed => "closed",
            Self::Unreachable => "unreachable",
            Self::Tls => "tls",
            Self::Other => "other",
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LinkError {
    /// What kind of failure it is.
    pub cause: Cause,
    /// In words.
    pub text: String,
}

impl LinkError {
    /// A failure in words of our own.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
        }
    }

    /// Whether trying again soon is pointless: somebody has to change something.
    pub fn is_permanent(&self) -> bool {
        match self.cause {
            Cause::ProtocolVersion
            | Cause::BadCredentials
            | Cause::NotAuthorized
            | Cause::BadClientId
            | Cause::TakenOver
            | Cause::Expired
            | Cause::Tls => true,
            Cause::Unavailable
            | Cause::ClosedOnSubscribe
            | Cause::Undecodable
            | Cause::TimedOut
            | Cause::Closed
            | Cause::Renewed
            | Cause::Unreachable
            | Cause::Other => false,
        }
    }
}

/// Why a publish was not handed to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubmitError {
    /// Larger than the broker takes.
    TooLarge,
    /// The connection is gone.
    Gone,
}

enum ClientKind {
    V4(v4::AsyncClient),
    V5(v5::AsyncClient),
}

/// The sending half of a connection. Nothing here waits: what is handed over is written by [`Connection::next`].
pub struct Client {
    kind: ClientKind,
    /// Tokens of publishes handed over and not yet given a packet identifier, in order.
    submitted: Arc<Mutex<VecDeque<u64>>>,
    /// QoS 0 publishes handed over and not yet written.
    unconfirmed: Arc<AtomicUsize>,
    max_packet_bytes: u32,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Takes note of what the broker said: publishes over its limit are refused here, for rumqttc would retry them for ever.
    pub fn set_limits(&mut self, connected: &Connected) {
        self.max_packet_bytes = connected
            .max_packet_bytes
            .unwrap_or(MAX_PACKET_BYTES)
            .min(MAX_PACKET_BYTES);
    }

    /// Asks for all of `filters` at QoS 1; answered by [`Event::Subscribed`].
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if there is no connection any more.
    pub fn subscribe(&self, filters: &[Subscription]) -> Result<(), SubmitError> {
        use v5::mqttbytes::v5::RetainForwardRule;
        let name = |asked: &Subscription| asked.filter.as_str().to_owned();
        let sent = match &self.kind {
            ClientKind::V4(client) => {
                let filter = |asked| v4::SubscribeFilter::new(name(asked), v4::QoS::AtLeastOnce);
                client
                    .try_subscribe_many(filters.iter().map(filter))
                    .is_ok()
            }
            ClientKind::V5(client) => {
                // What is stored on an outgoing path is refused anyway: spare us the delivery at each connect.
                let filter = |asked: &Subscription| v5::mqttbytes::v5::Filter {
                    retain_forward_rule: if asked.retained {
                        RetainForwardRule::OnEverySubscribe
                    } else {
                        RetainForwardRule::Never
                    },
                    ..v5::mqttbytes::v5::Filter::new(name(asked), v5::mqttbytes::QoS::AtLeastOnce)
                };
                client
                    .try_subscribe_many(filters.iter().map(filter))
                    .is_ok()
            }
        };
        if sent { Ok(()) } else { Err(SubmitError::Gone) }
    }

    /// Gives a subscription up. Nothing answers; a filter that was not subscribed to does no harm.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if there is no connection any more.
    pub fn unsubscribe(&self, filter: &TopicFilter) -> Result<(), SubmitError> {
        let sent = match &self.kind {
            ClientKind::V4(client) => client.try_unsubscribe(filter.as_str()).is_ok(),
            ClientKind::V5(client) => client.try_unsubscribe(filter.as_str()).is_ok(),
        };
        if sent { Ok(()) } else { Err(SubmitError::Gone) }
    }

    /// Whether the broker takes something of this size, and the crate can write it.
    fn fits(&self, publish: &Publish) -> bool {
        let properties: usize = publish
            .user_properties
            .iter()
            .map(|(key, value)| key.len() + value.len() + 5)
            .sum();
        // A longer text would be written with a cut length field, which garbles the stream.
        let texts = publish
            .user_properties
            .iter()
            .flat_map(|(key, value)| [key, value])
            .map(String::len);
        if texts
            .chain([publish.topic.as_str().len()])
            .any(|bytes| bytes > usize::from(u16::MAX))
        {
            return false;
        }
        // Fixed header, topic length, packet identifier, property length: at most 5 + 2 + 2 + 4.
        publish.topic.as_str().len() + publish.payload.len() + properties + 13
            <= self.max_packet_bytes as usize
    }

    /// Publishes at QoS 0: nothing answers. Returns whether it was handed over, which it is not where many wait already.
    pub fn publish_unconfirmed(&self, publish: &Publish) -> bool {
        if !self.fits(publish) || self.unconfirmed.load(Ordering::Relaxed) >= UNCONFIRMED {
            return false;
        }
        let topic = publish.topic.as_str();
        let sent = match &self.kind {
            ClientKind::V4(client) => {
                let payload = &publish.payload[..];
                let sent = client.try_publish(topic, v4::QoS::AtMostOnce, publish.retain, payload);
                sent.is_ok()
            }
            ClientKind::V5(client) => {
                let (qos, payload) = (v5::mqttbytes::QoS::AtMostOnce, publish.payload.clone());
                let sent = client.try_publish(topic, qos, publish.retain, payload);
                sent.is_ok()
            }
        };
        if sent {
            self.unconfirmed.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Publishes at QoS 1; answered by [`Event::Confirmed`] with the same token.
    ///
    /// # Errors
    /// [`SubmitError`]; the publish was not sent then.
    pub fn publish(&self, token: u64, publish: &Publish) -> Result<(), SubmitError> {
        if !self.fits(publish) {
            return Err(SubmitError::TooLarge);
        }
        let topic = publish.topic.as_str().to_owned();
        // The lock is held while the publish is queued, so that tokens stand in the order of the queue.
        let mut submitted = self.submitted.lock().expect("nobody panics holding it");
        let sent = match &self.kind {
            // The one call of the MQTT 3.1.1 half that takes the payload without a copy waits when the queue is full: not here.
            ClientKind::V4(client) => at_once(client.publish_bytes(
                topic,
                v4::QoS::AtLeastOnce,
                publish.retain,
                publish.payload.clone(),
            ))
            .is_some_and(|sent| sent.is_ok()),
            ClientKind::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                let payload = publish.payload.clone();
                if publish.user_properties.is_empty() {
                    client
                        .try_publish(topic, qos, publish.retain, payload)
                        .is_ok()
                } else {
                    let user_properties = publish.user_properties.clone();
                    let properties = v5::mqttbytes::v5::PublishProperties {
                        user_properties,
                        ..Default::default()
                    };
                    client
                        .try_publish_with_properties(
                            topic,
                            qos,
                            publish.retain,
                            payload,
                            properties,
                        )
                        .is_ok()
                }
            }
        };
        if !sent {
            return Err(SubmitError::Gone);
        }
        submitted.push_back(token);
        Ok(())
    }

    /// Acknowledges the message that had that packet identifier on this connection.
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if there is no connection any more: the broker will deliver the message again.
    pub fn acknowledge(&self, packet_id: u16) -> Result<(), SubmitError> {
        let sent = match &self.kind {
            ClientKind::V4(client) => {
                let publish = v4::Publish {
                    pkid: packet_id,
                    ..v4::Publish::from_bytes("", v4::QoS::AtLeastOnce, Bytes::new())
                };
                client.try_ack(&publish).is_ok()
            }
            ClientKind::V5(client) => {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                client
                    .try_ack(&v5::mqttbytes::v5::Publish {
                        pkid: packet_id,
                        qos,
                        ..Default::default()
                    })
                    .is_ok()
            }
        };
        if sent { Ok(()) } else { Err(SubmitError::Gone) }
    }

    /// Ends the connection in order: DISCONNECT goes out behind everything handed over before; answered by
    /// [`Event::Disconnected`].
    ///
    /// # Errors
    /// [`SubmitError::Gone`], if there is no connection any more.
    pub fn disconnect(&self) -> Result<(), SubmitError> {
        let sent = match &self.kind {
            ClientKind::V4(client) => client.try_disconnect().is_ok(),
            ClientKind::V5(client) => client.try_disconnect().is_ok(),
        };
        if sent { Ok(()) } else { Err(SubmitError::Gone) }
    }
}

/// The result of a future that is ready at once; a future that is not is dropped.
fn at_once<F: Future>(future: F) -> Option<F::Output> {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

enum Loop {
    V4(Box<v4::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// The receiving half of a connection, and what makes the sending half's words go out.
pub struct Connection {
    network: Loop,
    submitted: Arc<Mutex<VecDeque<u64>>>,
    unconfirmed: Arc<AtomicUsize>,
    /// The token of the publish that has a packet identifier, by that identifier.
    tokens: Vec<Option<u64>>,
    /// A publish whose identifier is still taken by an older one: it goes out when that one is confirmed.
    parked: Option<(u16, u64)>,
    keep_alive: Duration,
    connected: bool,
    /// Confirmations that were read before the connection failed, and then the failure.
    last_words: VecDeque<Event>,
    failure: Option<LinkError>,
}

/// Opens a connection. Nothing is sent before [`Connection::next`] is awaited.
pub fn open(options: &ConnectOptions) -> (Client, Connection) {
    let range = options
        .publish_window
        .saturating_mul(PACKET_IDS_PER_PUBLISH)
        .clamp(64, usize::from(u16::MAX));
    let range = u16::try_from(range).expect("clamped to 16 bits");
    // The queue takes as many publishes or acks as there are packet identifiers, what has none, and a SUBSCRIBE and a DISCONNECT:
    // it is never full. It grows as needed.
    let capacity = usize::from(u16::MAX) + UNCONFIRMED + 64;
    let (kind, network) = match options.protocol {
        Protocol::V311 => {
            let (client, network) = open_v4(options, range, capacity);
            (ClientKind::V4(client), Loop::V4(Box::new(network)))
        }
        Protocol::V5 => {
            let (client, network) = open_v5(options, range, capacity);
            (ClientKind::V5(client), Loop::V5(Box::new(network)))
        }
    };
    let submitted = Arc::new(Mutex::new(VecDeque::new()));
    let unconfirmed = Arc::new(AtomicUsize::new(0));
    let client = Client {
        kind,
        submitted: submitted.clone(),
        unconfirmed: unconfirmed.clone(),
        max_packet_bytes: MAX_PACKET_BYTES,
    };
    let connection = Connection {
        network,
        submitted,
        unconfirmed,
        tokens: vec![None; usize::from(range) + 1],
        parked: None,
        keep_alive: options.keep_alive,
        connected: false,
        last_words: VecDeque::new(),
        failure: None,
    };
    (client, connection)
}

/// The address as the crate wants it: for WebSocket the host is the whole URL, and the port is ignored.
fn address(transport: &Transport) -> (&str, u16) {
    match transport {
        Transport::Tcp { host, port } | Transport::Tls { host, port, .. } => (host, *port),
        Transport::Ws { url } | Transport::Wss { url, .. } => (url, 0),
    }
}

fn crate_transport(transport: &Transport) -> v4::Transport {
    match transport {
        Transport::Tcp { .. } => v4::Transport::Tcp,
        Transport::Tls { tls, .. } => v4::Transport::Tls(v4::TlsConfiguration::Rustls(tls.clone())),
        Transport::Ws { .. } => v4::Transport::Ws,
        Transport::Wss { tls, .. } => v4::Transport::Wss(v4::TlsConfiguration::Rustls(tls.clone())),
    }
}

fn crate_proxy(proxy: &Proxy) -> v4::Proxy {
    let auth = match &proxy.credentials {
        Some((username, password)) => v4::ProxyAuth::Basic {
            username: username.clone(),
            password: password.reveal().to_owned(),
        },
        None => v4::ProxyAuth::None,
    };
    v4::Proxy {
        ty: v4::ProxyType::Http,
        auth,
        addr: proxy.host.clone(),
        port: proxy.port,
    }
}

fn network_options(options: &ConnectOptions) -> v4::NetworkOptions {
    let mut network = v4::NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(options.connect_timeout.as_secs().max(1));
    network
}

fn open_v4(
    options: &ConnectOptions,
    range: u16,
    capacity: usize,
) -> (v4::AsyncClient, v4::EventLoop) {
    let (host, port) = address(&options.transport);
    let mut mqtt = v4::MqttOptions::new(options.client_id.reveal(), host, port);
    mqtt.set_transport(crate_transport(&options.transport))
        .set_keep_alive(options.keep_alive)
        .set_clean_session(options.session == Session::Clean)
        .set_max_packet_size(MAX_PACKET_BYTES as usize, MAX_PACKET_BYTES as usize)
        .set_inflight(range)
        .set_manual_acks(true);
    if let Some((username, password)) = &options.credentials {
        mqtt.set_credentials(username, password.reveal());
    }
    if let Some(proxy) = &options.proxy {
        mqtt.set_proxy(crate_proxy(proxy));
    }
    if let Some(will) = &options.will {
        let (topic, payload) = (will.topic.as_str(), &will.payload[..]);
        mqtt.set_last_will(v4::LastWill::new(
            topic,
            payload,
            v4::QoS::AtLeastOnce,
            will.retain,
        ));
    }
    let (client, mut network) = v4::AsyncClient::new(mqtt, capacity);
    network.set_network_options(network_options(options));
    (client, network)
}

fn open_v5(
    options: &ConnectOptions,
    range: u16,
    capacity: usize,
) -> (v5::AsyncClient, v5::EventLoop) {
    let (host, port) = address(&options.transport);
    let mut mqtt = v5::MqttOptions::new(options.client_id.reveal(), host, port);
    mqtt.set_transport(crate_transport(&options.transport))
        .set_keep_alive(options.keep_alive)
        .set_clean_start(options.session == Session::Clean)
        .set_connection_timeout(options.connect_timeout.as_secs().max(1))
        // Announced, so that the broker does not discard in silence what it takes for too large; topic aliases never are.
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_receive_maximum(Some(options.receive_maximum.max(1)))
        .set_outgoing_inflight_upper_limit(range)
        .set_manual_acks(true);
    if let Session::Persistent(expiry) = options.session {
        // Without it the session ends with the connection, whatever clean start says (MQTT 5, 3.1.2.11.2).
        mqtt.set_session_expiry_interval(Some(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)));
    }
    mqtt.set_network_options(network_options(options));
    if let Some((username, password)) = &options.credentials {
        mqtt.set_credentials(username, password.reveal());
    }
    if let Some(proxy) = &options.proxy {
        mqtt.set_proxy(crate_proxy(proxy));
    }
    if let Some(will) = &options.will {
        let (topic, payload) = (will.topic.as_str(), &will.payload[..]);
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        mqtt.set_last_will(v5::mqttbytes::v5::LastWill::new(
            topic,
            payload,
            qos,
            will.retain,
            None,
        ));
    }
    v5::AsyncClient::new(mqtt, capacity)
}

impl Connection {
    /// Reads on after our DISCONNECT until the broker closes, for a second at most. A socket that is closed with something unread is
    /// reset, and what the broker has not read by then, acks among it, is lost (seen on Mosquitto under load).
    pub async fn close(mut self) {
        let closing = async { while self.next().await.is_ok() {} };
        // A broker that does not close is not waited for.
        let _ = tokio::time::timeout(LINGER, closing).await;
    }

    /// The next thing that happens. Must be awaited all the time, for it does all the reading and writing.
    ///
    /// Not cancel-safe: a future dropped before it is ready can lose a publish or an ack, so drop the connection with it.
    ///
    /// # Errors
    /// The end of this connection; every confirmation that arrived before has been returned by then.
    pub async fn next(&mut self) -> Result<Event, LinkError> {
        loop {
            if let Some(event) = self.last_words.pop_front() {
                return Ok(event);
            }
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
            let polled = match &mut self.network {
                Loop::V4(network) => network
                    .poll()
                    .await
                    .map(Step::from)
                    .map_err(|error| v4_error(error, self.connected)),
                Loop::V5(network) => network
                    .poll()
                    .await
                    .map(Step::from)
                    .map_err(|error| v5_error(error, self.connected)),
            };
            match polled {
                Ok(step) => {
                    if let Some(event) = self.take(step) {
                        return Ok(event);
                    }
                }
                Err(failure) => self.collect_last_words(failure),
            }
        }
    }

    /// What was read together with the failure. Confirmations count; messages do not, the broker delivers them again.
    fn collect_last_words(&mut self, failure: LinkError) {
        let buffered: Vec<Step> = match &mut self.network {
            Loop::V4(network) => network.state.events.drain(..).map(Step::from).collect(),
            Loop::V5(network) => network.state.events.drain(..).map(Step::from).collect(),
        };
        for step in buffered {
            if let Some(event @ Event::Confirmed { .. }) = self.take(step) {
                self.last_words.push_back(event);
            }
        }
        self.failure = Some(failure);
    }

    /// Keeps account of publishes, and turns a step into an event.
    fn take(&mut self, step: Step) -> Option<Event> {
        match step {
            Step::Event(event) => {
                if let Event::Connected(_) = event {
                    self.connected = true;
                    self.mend_keep_alive();
                }
                Some(event)
            }
            Step::Written(packet_id) => {
                let token = match self.parked.take_if(|(parked, _)| *parked == packet_id) {
                    Some((_, token)) => Some(token),
                    None => self
                        .submitted
                        .lock()
                        .expect("nobody panics holding it")
                        .pop_front(),
                };
                if let Some(slot) = self.tokens.get_mut(usize::from(packet_id)) {
                    *slot = token;
                }
                None
            }
            Step::Parked(packet_id) => {
                let token = self
                    .submitted
                    .lock()
                    .expect("nobody panics holding it")
                    .pop_front();
                self.parked = token.map(|token| (packet_id, token));
                None
            }
            Step::Confirmed(packet_id, outcome) => {
                let token = self
                    .tokens
                    .get_mut(usize::from(packet_id))
                    .and_then(Option::take)?;
                if outcome.is_err() && self.parked.is_some_and(|(parked, _)| parked == packet_id) {
                    // rumqttc's version 5 half forgets a publish parked behind one that is refused: start over.
                    self.failure = Some(LinkError::new(
                        Cause::Other,
                        "a publish is stuck behind a refused one",
                    ));
                }
                Some(Event::Confirmed { token, outcome })
            }
            Step::WrittenUnconfirmed => {
                self.unconfirmed.fetch_sub(1, Ordering::Relaxed);
                None
            }
            Step::Nothing => Some(Event::Other),
        }
    }

    /// A broker that answers with a keep alive of 0 makes rumqttc's version 5 half ping without pause: keep our own.
    fn mend_keep_alive(&mut self) {
        if let Loop::V5(network) = &mut self.network
            && network.options.keep_alive().is_zero()
        {
            network.options.set_keep_alive(self.keep_alive);
        }
    }
}

/// What both halves of the crate say, in one form.
enum Step {
    Event(Event),
    /// A publish went out with that packet identifier.
    Written(u16),
    /// A QoS 0 publish went out.
    WrittenUnconfirmed,
    /// A publish waits because its packet identifier is taken.
    Parked(u16),
    Confirmed(u16, Result<(), String>),
    Nothing,
}

impl From<v4::Event> for Step {
    fn from(event: v4::Event) -> Self {
        use v4::{Event as E, Packet};
        match event {
            E::Incoming(Packet::ConnAck(connack)) => Self::Event(Event::Connected(Connected {
                protocol: Protocol::V311,
                session_present: connack.session_present,
                receive_maximum: usize::from(u16::MAX),
                max_packet_bytes: None,
                session_expiry: None,
                server_keep_alive: None,
            })),
            E::Incoming(Packet::Publish(publish)) => Self::Event(Event::Message(Delivery {
                packet_id: (publish.qos != v4::QoS::AtMostOnce).then_some(publish.pkid),
                dup: publish.dup,
                received: Received::new(
                    Bytes::from(publish.topic),
                    publish.payload,
                    publish.retain,
                ),
            })),
            E::Incoming(Packet::PubAck(puback)) => Self::Confirmed(puback.pkid, Ok(())),
            E::Incoming(Packet::SubAck(suback)) => {
                let granted = |code: &v4::SubscribeReasonCode| match code {
                    v4::SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    v4::SubscribeReasonCode::Failure => Err("refused (0x80)".to_owned()),
                };
                Self::Event(Event::Subscribed(
                    suback.return_codes.iter().map(granted).collect(),
                ))
            }
            E::Incoming(_) => Self::Nothing,
            E::Outgoing(outgoing) => Self::from(outgoing),
        }
    }
}

impl From<v4::Outgoing> for Step {
    fn from(outgoing: v4::Outgoing) -> Self {
        use v4::Outgoing as O;
        match outgoing {
            O::Publish(0) => Self::WrittenUnconfirmed,
            O::Publish(packet_id) => Self::Written(packet_id),
            O::AwaitAck(packet_id) => Self::Parked(packet_id),
            O::Disconnect => Self::Event(Event::Disconnected),
            O::Subscribe(_)
            | O::Unsubscribe(_)
            | O::PubAck(_)
            | O::PubRec(_)
            | O::PubRel(_)
            | O::PubComp(_)
            | O::PingReq
            | O::PingResp => Self::Nothing,
        }
    }
}

impl From<v5::Event> for Step {
    fn from(event: v5::Event) -> Self {
        use v5::Event as E;
        use v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
        match event {
            E::Incoming(Packet::ConnAck(connack)) => {
                let properties = connack.properties.as_ref();
                Self::Event(Event::Connected(Connected {
                    protocol: Protocol::V5,
                    session_present: connack.session_present,
                    receive_maximum: usize::from(
                        properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
                    ),
                    max_packet_bytes: properties.and_then(|p| p.max_packet_size),
                    session_expiry: properties
                        .and_then(|p| p.session_expiry_interval)
                        .map(|s| Duration::from_secs(s.into())),
                    server_keep_alive: properties
                        .and_then(|p| p.server_keep_alive)
                        .map(|s| Duration::from_secs(s.into())),
                }))
            }
            E::Incoming(Packet::Publish(publish)) => Self::Event(Event::Message(Delivery {
                packet_id: (publish.qos != v5::mqttbytes::QoS::AtMostOnce).then_some(publish.pkid),
                dup: publish.dup,
                received: Received::new(publish.topic, publish.payload, publish.retain),
            })),
            E::Incoming(Packet::PubAck(puback)) => Self::Confirmed(
                puback.pkid,
                match puback.reason {
                    // Nobody subscribed: normal for an inbox whose owner has never connected.
                    PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
                    PubAckReason::UnspecifiedError
                    | PubAckReason::ImplementationSpecificError
                    | PubAckReason::NotAuthorized
                    | PubAckReason::TopicNameInvalid
                    | PubAckReason::PacketIdentifierInUse
                    | PubAckReason::QuotaExceeded
                    | PubAckReason::PayloadFormatInvalid => Err(format!("{:?}", puback.reason)),
                },
            ),
            E::Incoming(Packet::SubAck(suback)) => {
                let granted = |code: &SubscribeReasonCode| match code {
                    SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
                    refused => Err(format!("{refused:?}")),
                };
                Self::Event(Event::Subscribed(
                    suback.return_codes.iter().map(granted).collect(),
                ))
            }
            E::Incoming(_) => Self::Nothing,
            E::Outgoing(outgoing) => Self::from(outgoing),
        }
    }
}
