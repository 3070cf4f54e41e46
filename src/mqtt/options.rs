//! What a connection is opened with.
//!
//! Owns the choices and their translation into the parts that both versions of the crate share.
//! Leaves each version's own settings to `v4.rs` and `v5.rs`, and reading them to
//! [`config`](crate::config).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::secret::Secret;
use crate::protocol::publish::Publish;

/// QoS 0 publishes that may wait to be written. More are dropped.
pub(super) const MAX_UNCONFIRMED: usize = 1_000;

/// Packets that may wait to be written: a publish or an ack for each packet identifier, the QoS 0
/// publishes, and a few SUBSCRIBE, UNSUBSCRIBE and DISCONNECT. So this queue is never full. It
/// takes memory only as it fills.
pub(super) const QUEUE_CAPACITY: usize = u16::MAX as usize + MAX_UNCONFIRMED + 64;

/// The largest packet that MQTT can encode, in bytes: the fixed header, 4 length bytes and 256 MiB
/// less one (MQTT 3.1.1, 2.2.3).
///
/// The crate ends the connection on a larger packet than its limit, and the broker delivers that
/// packet again on the next one. So the limit is as high as it can be, and the settings of the
/// observer limit payloads.
pub(super) const MAX_PACKET_BYTES: u32 = 268_435_455 + 5;

/// Packet identifiers for each publish under way. RabbitMQ confirms out of order, and the crate
/// stops sending when it comes to an identifier that is still in use: a wide range avoids that.
const PACKET_IDS_PER_PUBLISH: usize = 16;
/// The fewest packet identifiers to draw from.
const MIN_PACKET_IDS: usize = 64;

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

/// An address without what stands in its query, which may be a key.
pub fn without_query(url: &str) -> String {
    match url.split_once('?') {
        Some((address, _)) => format!("{address}?…"),
        None => url.to_owned(),
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
        /// Host name, which the broker's certificate must bear.
        host: String,
        /// TCP port.
        port: u16,
        /// The certificates to trust, and the client's own.
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
        /// The certificates to trust, and the client's own.
        tls: Arc<rustls::ClientConfig>,
    },
}

/// An HTTP proxy that is asked to CONNECT to the broker.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Host name or address of the proxy.
    pub host: String,
    /// TCP port of the proxy.
    pub port: u16,
    /// User name and password, if the proxy asks for them.
    pub credentials: Option<(String, Secret)>,
}

/// Whether the broker keeps messages while the client is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// It keeps them for this long (MQTT 5). Over MQTT 3.1.1 the broker decides how long.
    Persistent(Duration),
    /// It keeps none, and discards those it had.
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
    /// User name and password; `None` logs in as nobody.
    pub credentials: Option<(String, Secret)>,
    /// Whether the broker keeps a session.
    pub session: Session,
    /// Time between pings, at least 5 s.
    pub keep_alive: Duration,
    /// Limit for name look-up, TCP, TLS, WebSocket and CONNACK together.
    pub connect_timeout: Duration,
    /// Messages that the broker may send before it has our acknowledgements (MQTT 5).
    pub receive_maximum: u16,
    /// Publishes that may be under way at a time; 0 for a connection that does not publish.
    pub publish_window: usize,
    /// What the broker publishes if the connection ends without our DISCONNECT.
    pub will: Option<Publish>,
}

impl ConnectOptions {
    /// How many packet identifiers the publishes of this connection are numbered with.
    pub(super) fn packet_ids(&self) -> u16 {
        let wanted = self.publish_window.saturating_mul(PACKET_IDS_PER_PUBLISH);
        u16::try_from(wanted.max(MIN_PACKET_IDS)).unwrap_or(u16::MAX)
    }

    /// Host and port as the crate takes them. For WebSocket it takes the whole URL as the host, and
    /// ignores the port.
    pub(super) fn address(&self) -> (&str, u16) {
        match &self.transport {
            Transport::Tcp { host, port } | Transport::Tls { host, port, .. } => (host, *port),
            Transport::Ws { url } | Transport::Wss { url, .. } => (url, 0),
        }
    }

    pub(super) fn crate_transport(&self) -> rumqttc::Transport {
        let rustls =
            |tls: &Arc<rustls::ClientConfig>| rumqttc::TlsConfiguration::Rustls(tls.clone());
        match &self.transport {
            Transport::Tcp { .. } => rumqttc::Transport::Tcp,
            Transport::Tls { tls, .. } => rumqttc::Transport::Tls(rustls(tls)),
            Transport::Ws { .. } => rumqttc::Transport::Ws,
            Transport::Wss { tls, .. } => rumqttc::Transport::Wss(rustls(tls)),
        }
    }

    pub(super) fn crate_proxy(&self) -> Option<rumqttc::Proxy> {
        let proxy = self.proxy.as_ref()?;
        let auth = match &proxy.credentials {
            Some((username, password)) => rumqttc::ProxyAuth::Basic {
                username: username.clone(),
                password: password.expose_secret().to_owned(),
            },
            None => rumqttc::ProxyAuth::None,
        };
        Some(rumqttc::Proxy {
            ty: rumqttc::ProxyType::Http,
            auth,
            addr: proxy.host.clone(),
            port: proxy.port,
        })
    }

    /// The client identifier as the crate takes it.
    pub(super) fn exposed_client_id(&self) -> &str {
        self.client_id.expose_secret()
    }

    /// User name and password as the crate takes them.
    pub(super) fn exposed_login(&self) -> Option<(&str, &str)> {
        let (username, password) = self.credentials.as_ref()?;
        Some((username, password.expose_secret()))
    }

    pub(super) fn network_options(&self) -> rumqttc::NetworkOptions {
        let mut network = rumqttc::NetworkOptions::new();
        network.set_tcp_nodelay(true);
        network.set_connection_timeout(self.connect_timeout_secs());
        network
    }

    /// The connect timeout in whole seconds, at least one: what the crate takes.
    pub(super) fn connect_timeout_secs(&self) -> u64 {
        self.connect_timeout.as_secs().max(1)
    }
}
