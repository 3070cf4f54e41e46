//! Why a connection ended, did not come up, or did not take a packet.
//!
//! Owns the kinds of failure, and what was seen of one ([`Symptom`]). Leaves reading the crate's
//! errors to `v4.rs` and `v5.rs`, the words for an operator to `connections/words.rs`, and what to
//! do about a failure to [`connections`](crate::connections).

use std::io;

use strum::{IntoStaticStr, VariantArray};

const TIMED_OUT: &str = "no answer to CONNECT in time \
    (a broker with a memory or disk alarm answers nobody)";
const NO_PING: &str = "the broker does not answer pings \
    (a broker with a memory or disk alarm does not)";
/// How the standard library begins the text of a failed look-up. There is no kind of error for it.
const LOOKUP_FAILED: &str = "failed to lookup address information: ";
const NOT_READ: &str = "the broker does not read what is sent to it";
const CUT_SHORT: &str = "the broker closed the connection in the middle of a packet";
/// What the WebSocket library says of a connection that is closed during its handshake.
const HANDSHAKE_NOT_FINISHED: &str = "Handshake not finished";
const CLOSED: &str = "the broker closed the connection";
const CLOSED_BEFORE_CONNACK: &str = "the broker closed the connection instead of answering CONNECT";

/// What kind of failure ended a connection, or kept it from coming up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoStaticStr, VariantArray)]
#[strum(serialize_all = "kebab-case")]
pub enum Cause {
    /// The broker does not speak this version of MQTT.
    ProtocolVersion,
    /// The user name, password or token is wrong.
    BadCredentials,
    /// The login is right, but this user may not connect or subscribe.
    NotAuthorized,
    /// The broker closed the connection between SUBSCRIBE and SUBACK. RabbitMQ 3.10 does so on a
    /// filter that is not permitted.
    ClosedOnSubscribe,
    /// The broker refused the client identifier.
    BadClientId,
    /// The broker is busy, shutting down, or out of quota. This may pass.
    Unavailable,
    /// Another client connected with our client identifier.
    TakenOver,
    /// The token has expired.
    Expired,
    /// We disconnected, to connect again with a new token.
    Renewed,
    /// The broker did not answer in time.
    TimedOut,
    /// The broker closed the connection and gave no reason.
    Closed,
    /// The operating system reports it: no route, refused, unknown host.
    Unreachable,
    /// The TLS handshake failed, for a certificate or otherwise.
    Tls,
    /// Anything else.
    Other,
}

impl Cause {
    /// Every cause.
    pub const ALL: &'static [Self] = Self::VARIANTS;

    /// The label value in metrics.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// What was seen while a connection was opened. It decides about the words for an operator, where
/// [`Cause`] decides about the next attempt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Symptom {
    /// Nothing that the error's own text does not say.
    #[default]
    Unnamed,
    /// The system refused to connect: nobody listens there.
    NobodyListens,
    /// The host's name cannot be looked up, for this reason.
    NoSuchHost(String),
    /// The broker answered CONNECT with a refusal of the login.
    LoginRefused,
    /// The other side closed the connection instead of answering CONNECT.
    ClosedOnConnect,
    /// Nothing answered in time.
    Silence,
    /// What was answered to CONNECT is not MQTT.
    NotMqtt,
    /// The other side closed the connection instead of taking part in the TLS handshake.
    ClosedOnTls,
    /// What was answered to the TLS handshake is not TLS.
    NotTls,
    /// The certificate is signed by a CA that is not trusted.
    UnknownCa,
    /// The certificate is for these hosts, and not for the one that was connected to.
    OtherHost(Vec<String>),
    /// The certificate is not valid at this time.
    OutOfDate,
    /// The broker wants to see a certificate of the client.
    WantsCertificate,
    /// The other side closed the connection instead of answering the WebSocket handshake.
    NoWebSocket,
    /// The WebSocket handshake was answered with this HTTP status.
    HttpStatus(String),
    /// There is a WebSocket, which does not carry MQTT.
    OtherWebSocket,
    /// A connection that was up was reset: the broker may not have read all that was sent to it.
    Reset,
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LinkError {
    /// What kind of failure it is.
    pub cause: Cause,
    /// The failure in words, for an operator.
    pub text: String,
    /// What was seen of it.
    pub symptom: Symptom,
}

impl LinkError {
    /// A failure of this kind, described by `text`.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
            symptom: Symptom::Unnamed,
        }
    }

    /// The same with what was seen of it.
    pub(super) fn seen(self, symptom: Symptom) -> Self {
        Self { symptom, ..self }
    }

    /// Whether trying again soon is pointless, because an operator has to change something first.
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
            | Cause::TimedOut
            | Cause::Closed
            | Cause::Renewed
            | Cause::Unreachable
            | Cause::Other => false,
        }
    }
}

/// Why a packet was not handed to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The publish is larger than the broker accepts, or than MQTT can encode.
    #[error("larger than the broker accepts")]
    TooLarge,
    /// The connection has ended.
    #[error("the connection has ended")]
    Gone,
}

/// How far a connection had come when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The broker has not answered CONNECT.
    Connecting,
    /// The broker has accepted the connection.
    Connected,
}

/// The broker answered CONNECT with a refusal; `code` is its reason.
pub(super) fn refused(cause: Cause, code: &str) -> LinkError {
    let words = match cause {
        Cause::ProtocolVersion => "the broker does not speak this version of MQTT",
        Cause::BadCredentials => "the broker refused the user name, password or token",
        Cause::NotAuthorized => "the broker does not allow this user to connect",
        Cause::BadClientId => "the broker refused the client identifier",
        Cause::Unavailable => "the broker is unavailable",
        Cause::ClosedOnSubscribe
        | Cause::TakenOver
        | Cause::Expired
        | Cause::Renewed
        | Cause::TimedOut
        | Cause::Closed
        | Cause::Unreachable
        | Cause::Tls
        | Cause::Other => "the broker refused the connection",
    };
    let error = LinkError::new(cause, format!("{words} ({code})"));
    match matches!(cause, Cause::BadCredentials | Cause::NotAuthorized) {
        true => error.seen(Symptom::LoginRefused),
        false => error,
    }
}

/// Nothing answers CONNECT.
pub(super) fn timed_out() -> LinkError {
    LinkError::new(Cause::TimedOut, TIMED_OUT).seen(Symptom::Silence)
}

/// Something came that is no packet of this version of MQTT. `text` is the crate's.
pub(super) fn undecodable(text: String, phase: Phase) -> LinkError {
    let error = LinkError::new(Cause::Other, text);
    match phase {
        Phase::Connecting => error.seen(Symptom::NotMqtt),
        Phase::Connected => error,
    }
}

/// The packet itself is not shown: nobody's identifiers belong in the log.
pub(super) fn not_connack() -> LinkError {
    LinkError::new(
        Cause::Other,
        "the broker sent another packet before CONNACK",
    )
    .seen(Symptom::NotMqtt)
}

/// SUBACK refuses a filter with a code that only MQTT 5 knows (seen on ejabberd).
pub(super) fn filter_refused(code: u8) -> LinkError {
    let text = format!("the broker refused a filter in SUBACK (code {code})");
    LinkError::new(Cause::NotAuthorized, text)
}

pub(super) fn no_ping() -> LinkError {
    LinkError::new(Cause::TimedOut, NO_PING)
}

/// What is to be written waits for too long.
pub(super) fn not_read() -> LinkError {
    LinkError::new(Cause::TimedOut, NOT_READ)
}

/// The other side closed in the middle of a packet.
pub(super) fn cut_short(phase: Phase) -> LinkError {
    match phase {
        Phase::Connecting => LinkError::new(Cause::Unreachable, CUT_SHORT).seen(Symptom::NotMqtt),
        Phase::Connected => closed(phase),
    }
}

pub(super) fn closed(phase: Phase) -> LinkError {
    let error = |text| LinkError::new(Cause::Closed, text);
    match phase {
        Phase::Connecting => error(CLOSED_BEFORE_CONNACK).seen(Symptom::ClosedOnConnect),
        Phase::Connected => error(CLOSED),
    }
}

/// The proxy refused to connect, or cannot be reached.
pub(super) fn proxy_error(text: &str) -> LinkError {
    LinkError::new(Cause::Unreachable, format!("proxy: {text}"))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most kinds of I/O error mean that the broker cannot be reached"
)]
pub(super) fn io_error(error: &io::Error, phase: Phase) -> LinkError {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, TimedOut, UnexpectedEof,
    };
    if let Some(inner) = rustls_error(error) {
        return tls(inner);
    }
    let text = error.to_string();
    let unreachable = LinkError::new(Cause::Unreachable, text.clone());
    match error.kind() {
        UnexpectedEof => closed(phase),
        ConnectionReset | BrokenPipe | ConnectionAborted => match phase {
            Phase::Connecting => closed(phase),
            Phase::Connected => closed(phase).seen(Symptom::Reset),
        },
        ConnectionRefused => unreachable.seen(Symptom::NobodyListens),
        TimedOut => unreachable.seen(Symptom::Silence),
        _ => match text.strip_prefix(LOOKUP_FAILED) {
            Some(reason) => unreachable.seen(Symptom::NoSuchHost(reason.to_owned())),
            None => unreachable,
        },
    }
}

/// The TLS handshake failed, on a connection that begins with one.
pub(super) fn tls_error(error: &io::Error) -> LinkError {
    match io_error(error, Phase::Connecting) {
        closed if closed.cause == Cause::Closed => closed.seen(Symptom::ClosedOnTls),
        error => error,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's other errors have no remedy that a word could name"
)]
fn tls(error: &rustls::Error) -> LinkError {
    use rustls::{AlertDescription, CertificateError as Bad, Error};
    let symptom = match error {
        Error::InvalidMessage(_) => Symptom::NotTls,
        Error::InvalidCertificate(Bad::UnknownIssuer) => Symptom::UnknownCa,
        Error::InvalidCertificate(Bad::NotValidForNameContext { presented, .. }) => {
            Symptom::OtherHost(presented.iter().map(|name| host_name(name)).collect())
        }
        Error::InvalidCertificate(
            Bad::Expired
            | Bad::ExpiredContext { .. }
            | Bad::NotValidYet
            | Bad::NotValidYetContext { .. },
        ) => Symptom::OutOfDate,
        Error::AlertReceived(AlertDescription::CertificateRequired) => Symptom::WantsCertificate,
        _ => Symptom::Unnamed,
    };
    LinkError::new(Cause::Tls, format!("TLS: {error}")).seen(symptom)
}

/// A name of a certificate as a person writes it: the library has `DnsName("localhost")`, and
/// `IpAddress(127.0.0.1)`.
fn host_name(presented: &str) -> String {
    let inner = presented
        .split_once('(')
        .map_or(presented, |(_, inner)| inner);
    inner.trim_matches(['"', ')']).to_owned()
}

/// What the TLS library reported through an I/O error, if it did.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

pub(super) fn websocket_error(error: &(dyn std::error::Error + 'static)) -> LinkError {
    let text = error.to_string();
    let other = |symptom| LinkError::new(Cause::Other, format!("WebSocket: {text}")).seen(symptom);
    if let Some(status) = text.strip_prefix("HTTP error: ") {
        return other(Symptom::HttpStatus(status.to_owned()));
    }
    let io = error
        .source()
        .and_then(|inner| inner.downcast_ref::<io::Error>());
    match io.map(|io| io_error(io, Phase::Connecting)) {
        Some(error) if error.cause == Cause::Closed => other(Symptom::NoWebSocket),
        Some(error) => error,
        None if text.contains(HANDSHAKE_NOT_FINISHED) => other(Symptom::NoWebSocket),
        None => other(Symptom::Unnamed),
    }
}

/// The WebSocket handshake was accepted for another protocol than MQTT.
pub(super) fn other_websocket() -> LinkError {
    LinkError::new(Cause::Other, "WebSocket: it does not carry MQTT").seen(Symptom::OtherWebSocket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_the_names_that_metrics_show() {
        assert_eq!(Cause::ALL.len(), 14);
        assert_eq!(Cause::ProtocolVersion.as_str(), "protocol-version");
        assert_eq!(Cause::BadClientId.as_str(), "bad-client-id");
        assert_eq!(Cause::Tls.as_str(), "tls");
    }

    #[test]
    fn an_end_of_file_before_connack_says_so() {
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        assert_eq!(
            io_error(&eof, Phase::Connecting).text,
            CLOSED_BEFORE_CONNACK
        );
        assert_eq!(io_error(&eof, Phase::Connected).text, CLOSED);
    }

    #[test]
    fn a_certificate_error_inside_an_io_error_is_about_tls() {
        let inner = rustls::Error::General("bad certificate".to_owned());
        let error = io::Error::new(io::ErrorKind::InvalidData, inner);
        assert_eq!(io_error(&error, Phase::Connecting).cause, Cause::Tls);
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert_eq!(
            io_error(&error, Phase::Connecting).cause,
            Cause::Unreachable
        );
    }
}
