//! The client crate's errors, sorted into the few kinds that make a difference, and said in words an operator can use.

use rumqttc::{self as v4, v5};

use super::{Cause, LinkError};

/// Of the MQTT 3.1.1 half. `connected`: the broker had accepted the connection.
pub(super) fn v4_error(error: v4::ConnectionError, connected: bool) -> LinkError {
    use v4::ConnectionError as E;
    use v4::{ConnectReturnCode as Code, StateError};
    match error {
        E::ConnectionRefused(code) => {
            let cause = match code {
                Code::RefusedProtocolVersion => Cause::ProtocolVersion,
                Code::BadUserNamePassword => Cause::BadCredentials,
                Code::NotAuthorized => Cause::NotAuthorized,
                Code::BadClientId => Cause::BadClientId,
                Code::ServiceUnavailable => Cause::Unavailable,
                Code::Success => Cause::Other,
            };
            refused(cause, &format!("code {}", code as u8))
        }
        E::NetworkTimeout => timed_out(),
        E::FlushTimeout => LinkError::new(
            Cause::TimedOut,
            "the broker does not read what is sent to it",
        ),
        E::Io(error) => io_error(&error, connected),
        E::Tls(error) => tls_error(&error),
        E::Proxy(error) => LinkError::new(Cause::Unreachable, format!("proxy: {error}")),
        E::Websocket(error) => websocket_error(&error),
        E::MqttState(StateError::ConnectionAborted) => closed(connected),
        E::MqttState(StateError::AwaitPingResp) => no_ping(),
        E::MqttState(StateError::Deserialization(v4::mqttbytes::Error::TopicNotUtf8)) => {
            LinkError::new(
                Cause::Undecodable,
                "a topic that is not UTF-8 was delivered, which cannot be acknowledged over MQTT 3.1.1 and will come again: MQTT 5 can",
            )
        }
        E::MqttState(StateError::Io(error)) => io_error(&error, connected),
        E::MqttState(StateError::Deserialization(v4::mqttbytes::Error::Io(error))) => {
            io_error(&error, connected)
        }
        other => LinkError::new(Cause::Other, other.to_string()),
    }
}

/// Of the MQTT 5 half. `connected`: the broker had accepted the connection.
pub(super) fn v5_error(error: v5::ConnectionError, connected: bool) -> LinkError {
    use v5::ConnectionError as E;
    use v5::StateError;
    use v5::mqttbytes::v5::{ConnectReturnCode as Code, DisconnectReasonCode as Reason};
    match error {
        E::ConnectionRefused(code) => {
            let cause = match code {
                Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => {
                    Cause::ProtocolVersion
                }
                Code::BadUserNamePassword | Code::BadAuthenticationMethod => Cause::BadCredentials,
                Code::NotAuthorized | Code::Banned => Cause::NotAuthorized,
                Code::BadClientId | Code::ClientIdentifierNotValid => Cause::BadClientId,
                Code::ServiceUnavailable
                | Code::ServerUnavailable
                | Code::ServerBusy
                | Code::QuotaExceeded
                | Code::ConnectionRateExceeded => Cause::Unavailable,
                Code::Success
                | Code::UnspecifiedError
                | Code::MalformedPacket
                | Code::ProtocolError
                | Code::ImplementationSpecificError
                | Code::TopicNameInvalid
                | Code::PacketTooLarge
                | Code::PayloadFormatInvalid
                | Code::RetainNotSupported
                | Code::QoSNotSupported
                | Code::UseAnotherServer
                | Code::ServerMoved => Cause::Other,
            };
            refused(cause, &format!("{code:?}"))
        }
        E::Timeout(_) => timed_out(),
        E::Io(error) => io_error(&error, connected),
        E::Tls(error) => tls_error(&error),
        E::Proxy(error) => LinkError::new(Cause::Unreachable, format!("proxy: {error}")),
        E::Websocket(error) => websocket_error(&error),
        E::MqttState(StateError::ConnectionAborted) => closed(connected),
        E::MqttState(StateError::AwaitPingResp) => no_ping(),
        E::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => {
            let cause = match reason_code {
                Reason::SessionTakenOver => Cause::TakenOver,
                Reason::MaximumConnectTime => Cause::Expired,
                Reason::NotAuthorized => Cause::NotAuthorized,
                Reason::ServerBusy
                | Reason::ServerShuttingDown
                | Reason::QuotaExceeded
                | Reason::MessageRateTooHigh
                | Reason::ConnectionRateExceeded => Cause::Unavailable,
                _ => Cause::Other,
            };
            let said = reason_string.map_or_else(String::new, |said| format!(": {said}"));
            LinkError::new(
                cause,
                format!(
                    "the broker disconnected us: {reason_code:?} (0x{:02x}){said}",
                    reason_code as u8
                ),
            )
        }
        E::MqttState(StateError::Deserialization(v5::mqttbytes::Error::TopicNotUtf8)) => {
            LinkError::new(
                Cause::Undecodable,
                "a message with a property that is not UTF-8 was delivered, which cannot be acknowledged over MQTT 5 and will come again: MQTT 3.1.1 can",
            )
        }
        E::MqttState(StateError::Deserialization(v5::mqttbytes::Error::Io(error))) => {
            io_error(&error, connected)
        }
        E::MqttState(StateError::Io(error)) => io_error(&error, connected),
        other => LinkError::new(Cause::Other, other.to_string()),
    }
}

fn refused(cause: Cause, code: &str) -> LinkError {
    let words = match cause {
        Cause::ProtocolVersion => "the broker does not speak this version of MQTT",
        Cause::BadCredentials => "the broker refused the user name, password or token",
        Cause::NotAuthorized => "the broker does not allow this user to connect",
        Cause::BadClientId => "the broker refused the client identifier",
        Cause::Unavailable => "the broker is unavailable",
        _ => "the broker refused the connection",
    };
    LinkError::new(cause, format!("{words} ({code})"))
}

fn timed_out() -> LinkError {
    LinkError::new(
        Cause::TimedOut,
        "no answer to CONNECT in time (a broker with a memory or disk alarm answers nobody)",
    )
}

fn no_ping() -> LinkError {
    LinkError::new(
        Cause::TimedOut,
        "the broker does not answer pings (a broker with a memory or disk alarm does not)",
    )
}

fn closed(connected: bool) -> LinkError {
    let when = if connected {
        "the broker closed the connection"
    } else {
        "the broker closed the connection instead of answering CONNECT"
    };
    LinkError::new(Cause::Closed, when)
}

fn io_error(error: &std::io::Error, connected: bool) -> LinkError {
    use std::io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, InvalidData, UnexpectedEof,
    };
    match error.kind() {
        ConnectionReset | BrokenPipe | ConnectionAborted | UnexpectedEof => closed(connected),
        InvalidData
            if error
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            LinkError::new(Cause::Tls, format!("TLS: {error}"))
        }
        _ => LinkError::new(Cause::Unreachable, error.to_string()),
    }
}

fn tls_error(error: &v4::TlsError) -> LinkError {
    match error {
        v4::TlsError::Io(error)
            if !error
                .get_ref()
                .is_some_and(|inner| inner.is::<rustls::Error>()) =>
        {
            io_error(error, false)
        }
        v4::TlsError::Io(error) => LinkError::new(Cause::Tls, format!("TLS: {error}")),
        other => LinkError::new(Cause::Tls, format!("TLS: {other}")),
    }
}

fn websocket_error(error: &dyn std::error::Error) -> LinkError {
    let text = error.to_string();
    let hint = if text.contains("404") {
        " (RabbitMQ serves MQTT on the path /ws)"
    } else {
        ""
    };
    LinkError::new(Cause::Other, format!("WebSocket: {text}{hint}"))
}
