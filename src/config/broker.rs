//! The section of the broker: address, login, session, and limits of the connections.
//!
//! Owns reading these settings. What a connection is opened with is put together in `links.rs`,
//! because it also depends on other sections.

use std::time::Duration;

use super::endpoint::{BrokerUrl, parse_broker_url, parse_proxy};
use super::identity::Identity;
use super::login;
use super::reader::Reader;
use super::tls::read_tls;
use super::values::{ValueError, parse_size};
use crate::auth::credentials::{Credentials, Minter};
use crate::mqtt::{Protocol, Proxy, Transport};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
/// The longest keep-alive interval that MQTT can express.
const MAX_KEEP_ALIVE: Duration = Duration::from_secs(65_535);
/// The longest session expiry interval that MQTT 5 can express.
const MAX_SESSION_EXPIRY: Duration = Duration::from_secs(u32::MAX as u64);

/// A smaller packet would have no room for a topic.
const MIN_PACKET_BYTES: u32 = 1 << 10;

/// How the broker is reached, and as whom.
#[derive(Clone, Debug)]
pub struct BrokerSection {
    /// The address as it may be shown: without user and password.
    pub address: String,
    /// User name, and password or token.
    pub credentials: Credentials,
    /// The key that makes tokens, if there is one (`--jwt-key-file`).
    pub minter: Option<Minter>,
    /// The most messages received and not acknowledged at a time.
    pub window: u16,
    /// The largest packet that the broker takes, if the operator says it.
    pub max_packet_bytes: Option<u32>,
    /// How many connections publish, beside the one that receives.
    pub publishers: usize,
    /// A publish that is not confirmed within this time is sent again on a new connection.
    pub ack_timeout: Duration,
    /// How long a stop waits for messages in progress.
    pub drain_timeout: Duration,
    /// How long the broker is asked to keep the session while the observer is away.
    pub session_expiry: Duration,
    /// Whether to discard the messages that the broker holds for the observer.
    pub reset_session: bool,
    pub(super) transport: Transport,
    pub(super) proxy: Option<Proxy>,
    /// The version of MQTT; `None` takes the newest that the broker speaks.
    pub(super) protocol: Option<Protocol>,
    pub(super) identity: Identity,
    pub(super) keep_alive: Duration,
    pub(super) connect_timeout: Duration,
}

impl BrokerSection {
    pub(super) fn read(reader: &mut Reader<'_>, name: &str) -> Option<Self> {
        let url = reader.parse("broker", parse_broker_url);
        let tls = read_tls(reader);
        warn_of_plain_text(reader, url.as_ref());
        let proxy = reader.parse("proxy", parse_proxy);
        let protocol = reader.choice(
            "protocol",
            &[
                ("auto", None),
                ("5", Some(Protocol::V5)),
                ("3.1.1", Some(Protocol::V311)),
            ],
        );
        let minter = login::read_minter(reader, name);
        let credentials = login::read_credentials(reader, url.as_ref(), minter.clone());
        let identity = Identity::read(reader, name);
        let window = reader.number("window", 1..=10_000);
        let max_packet_bytes = reader.parse("broker-max-packet", parse_packet_size);
        let publishers = usize::from(reader.number("publishers", 1..=32));
        let keep_alive = reader.duration("keep-alive", 5 * SECOND..=MAX_KEEP_ALIVE);
        let connect_timeout = reader.duration("connect-timeout", SECOND..=600 * SECOND);
        let ack_timeout = reader.duration("ack-timeout", SECOND..=HOUR);
        let drain_timeout = reader.duration("drain-timeout", Duration::ZERO..=HOUR);
        let session_expiry = reader.duration("session-expiry", SECOND..=MAX_SESSION_EXPIRY);
        let reset_session = reader.switch("reset-session");
        let (url, tls) = (url?, tls?);
        Some(Self {
            address: url.shown(),
            credentials,
            minter,
            window,
            max_packet_bytes,
            publishers,
            ack_timeout,
            drain_timeout,
            session_expiry,
            reset_session,
            transport: url.transport(tls),
            proxy,
            protocol,
            identity,
            keep_alive,
            connect_timeout,
        })
    }
}

/// Warns of certificates that nothing is checked with.
fn warn_of_plain_text(reader: &mut Reader<'_>, url: Option<&BrokerUrl>) {
    if url.is_none_or(BrokerUrl::is_encrypted) {
        return;
    }
    for name in ["ca-file", "client-cert", "client-key"] {
        if reader.is_given(name) {
            reader.warn(format!(
                "--{name} is not used: the connection to the broker is not encrypted (mqtts:// or \
                 wss:// in --broker)"
            ));
        }
    }
}

/// A size below 256 MiB, which is all that MQTT can express.
fn parse_packet_size(text: &str) -> Result<u32, ValueError> {
    match u32::try_from(parse_size(text)?) {
        Ok(bytes) if bytes >= MIN_PACKET_BYTES => Ok(bytes),
        Ok(_) => Err(ValueError::TooSmall {
            text: text.to_owned(),
            least: "1KiB",
        }),
        Err(_) => Ok(u32::MAX),
    }
}
