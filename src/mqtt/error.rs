//! Why a connection ended, did not come up, or did not take a packet.
//!
//! Owns the kinds of failure and their words for operators. Leaves reading the crate's errors to
//! `v4.rs` and `v5.rs`, and what to do about a failure to [`connections`](crate::connections).

use std::io;

use strum::{IntoStaticStr, VariantArray};

const TIMED_OUT: &str = "no answer to CONNECT in time \
    (a broker with a memory or disk alarm answers nobody)";
const NO_PING: &str = "the broker does not answer pings \
    (a broker with a memory or disk alarm does not)";
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
    /// A packet was delivered that the crate cannot decode in this version of MQTT: over 3.1.1 a
    /// topic that is not UTF-8, over 5 a property that is not. The broker delivers it again, and
    /// the other version can decode it.
    Undecodable,
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

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct LinkError {
    /// What kind of failure it is.
    pub cause: Cause,
    /// The failure in words, for an operator.
    pub text: String,
}

impl LinkError {
    /// A failure of this kind, described by `text`.
    pub fn new(cause: Cause, text: impl Into<String>) -> Self {
        Self {
            cause,
            text: text.into(),
        }
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
            | Cause::Undecodable
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
        | Cause::Undecodable
        | Cause::TimedOut
        | Cause::Closed
        | Cause::Unreachable
        | Cause::Tls
        | Cause::Other => "the broker refused the connection",
    };
    LinkError::new(cause, format!("{words} ({code})"))
}

pub(super) fn timed_out() -> LinkError {
    LinkError::new(Cause::TimedOut, TIMED_OUT)
}

/// The crate's own text holds the packet, topic and all: nobody's identifiers belong in the log.
pub(super) fn not_connack() -> LinkError {
    LinkError::new(
        Cause::Other,
        "the broker sent another packet before CONNACK",
    )
}

/// SUBACK refuses a filter with a code that only MQTT 5 knows (seen on ejabberd).
pub(super) fn filter_refused(code: u8) -> LinkError {
    let text = format!("the broker refused a filter in SUBACK (code {code})");
    LinkError::new(Cause::NotAuthorized, text)
}

pub(super) fn no_ping() -> LinkError {
    LinkError::new(Cause::TimedOut, NO_PING)
}

pub(super) fn closed(phase: Phase) -> LinkError {
    let text = match phase {
        Phase::Connecting => CLOSED_BEFORE_CONNACK,
        Phase::Connected => CLOSED,
    };
    LinkError::new(Cause::Closed, text)
}

/// The proxy refused to connect, or cannot be reached. The crate exports no type for this error.
pub(super) fn proxy_error(error: &dyn std::error::Error) -> LinkError {
    LinkError::new(Cause::Unreachable, format!("proxy: {error}"))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most kinds of I/O error mean that the broker cannot be reached"
)]
pub(super) fn io_error(error: &io::Error, phase: Phase) -> LinkError {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof,
    };
    match error.kind() {
        ConnectionReset | BrokenPipe | ConnectionAborted | UnexpectedEof => closed(phase),
        InvalidData if is_from_rustls(error) => tls(error),
        _ => LinkError::new(Cause::Unreachable, error.to_string()),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's other TLS errors are all about certificates or the handshake"
)]
pub(super) fn tls_error(error: &rumqttc::TlsError) -> LinkError {
    match error {
        rumqttc::TlsError::Io(error) if !is_from_rustls(error) => {
            io_error(error, Phase::Connecting)
        }
        rumqttc::TlsError::Io(error) => tls(error),
        other => tls(other),
    }
}

fn tls(error: &dyn std::error::Error) -> LinkError {
    LinkError::new(Cause::Tls, format!("TLS: {error}"))
}

/// Whether the TLS library reported this through an I/O error.
fn is_from_rustls(error: &io::Error) -> bool {
    error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
}

pub(super) fn websocket_error(error: &dyn std::error::Error) -> LinkError {
    let text = error.to_string();
    let hint = if text.contains("404") {
        " (RabbitMQ serves MQTT on the path /ws)"
    } else {
        ""
    };
    LinkError::new(Cause::Other, format!("WebSocket: {text}{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_have_the_names_that_metrics_show() {
        assert_eq!(Cause::ALL.len(), 15);
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
