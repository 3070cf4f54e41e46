//! What a connection is opened with.
//!
//! Owns the choices. Leaves their place in CONNECT to `v4.rs` and `v5.rs`, and reading them to
//! [`config`](crate::config).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::secret::Secret;
use crate::protocol::publish::Publish;

/// The largest packet that MQTT can encode, in bytes: the fixed header, 4 length bytes and 256 MiB
/// less one (MQTT 3.1.1, 2.2.3).
///
/// A limit on what is read would end the connection, and the broker would deliver that packet again
/// on the next one. So there is none but this, and the settings of the observer limit payloads.
pub(super) const MAX_PACKET_BYTES: u32 = 268_435_455 + 5;

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
    /// The largest packet that the broker takes, where it may not say so; `None` if nobody knows.
    pub max_packet_bytes: Option<u32>,
    /// What the broker publishes if the connection ends without our DISCONNECT.
    pub will: Option<Publish>,
}

impl ConnectOptions {
    /// User name and password as a packet takes them.
    pub(super) fn exposed_login(&self) -> Option<(&str, &str)> {
        let (username, password) = self.credentials.as_ref()?;
        Some((username, password.expose_secret()))
    }

    /// The keep alive that CONNECT names.
    pub(super) fn keep_alive_secs(&self) -> u16 {
        u16::try_from(self.keep_alive.as_secs()).unwrap_or(u16::MAX)
    }
}
