//! The settings that every link of one observer shares.
//!
//! Owns their meaning. Leaves reading them to `config`.

use std::time::Duration;

use crate::auth::credentials::Credentials;
use crate::auth::secret::Secret;
use crate::mqtt::{Protocol, Proxy, Session, Transport};
use crate::protocol::publish::Publish;

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
    /// The largest packet that the broker takes, as far as the operator knows.
    pub max_packet_bytes: Option<u32>,
    /// A payload over this is cut, because its message will be refused.
    pub max_payload_bytes: usize,
    /// What the broker publishes if the session's connection ends without our DISCONNECT.
    pub will: Option<Publish>,
}
