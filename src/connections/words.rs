//! The words for a connection that does not come up: target, cause and remedy.
//!
//! Owns these texts, for every command that connects. What was seen is told by [`Symptom`]. Where
//! the cause is not certain the text asks.

use super::other_protocol::OtherProtocol;
use crate::auth::credentials::{Credentials, TokenExpired};
use crate::mqtt::{Cause, LinkError, Symptom, Transport, without_query};

/// The path on which RabbitMQ serves MQTT over WebSocket, and the usual port.
const RABBITMQ_WEBSOCKET: &str = "15675/ws";
const AMQP: &str = " answers in AMQP, which is not spoken here; RabbitMQ's MQTT port is 1883";

/// What a connection was to reach, and with which login.
pub(super) struct Target<'a> {
    pub(super) transport: &'a Transport,
    pub(super) credentials: &'a Credentials,
    /// The connection goes through a proxy.
    pub(super) has_proxy: bool,
    /// The version of MQTT is given by the operator, and is 5.
    pub(super) only_version_5: bool,
    /// The token of the login has expired.
    pub(super) expired: Option<TokenExpired>,
}

/// The address as a URL, without a login.
fn url_of(transport: &Transport) -> String {
    match transport {
        Transport::Tcp { host, port } => format!("mqtt://{host}:{port}"),
        Transport::Tls { host, port, .. } => format!("mqtts://{host}:{port}"),
        Transport::Ws { url } | Transport::Wss { url, .. } => without_query(url),
    }
}

/// Names the target of a connection that was up.
pub(super) fn lost(mut error: LinkError, transport: &Transport) -> LinkError {
    error.text = format!("{}: {}", url_of(transport), error.text);
    error
}

impl Target<'_> {
    /// Host and port, if the connection begins with MQTT or TLS.
    pub(super) fn address(&self) -> Option<(&str, u16)> {
        match self.transport {
            Transport::Tcp { host, port } | Transport::Tls { host, port, .. } => {
                Some((host, *port))
            }
            Transport::Ws { .. } | Transport::Wss { .. } => None,
        }
    }

    /// The address as a URL, without a login.
    fn url(&self) -> String {
        url_of(self.transport)
    }

    /// The same address with TLS in place of plain TCP, or the reverse.
    fn other_url(&self) -> String {
        match self.transport {
            Transport::Tcp { host, port } => format!("mqtts://{host}:{port}"),
            Transport::Tls { host, port, .. } => format!("mqtt://{host}:{port}"),
            Transport::Ws { url } => without_query(url).replacen("ws://", "wss://", 1),
            Transport::Wss { url, .. } => without_query(url).replacen("wss://", "ws://", 1),
        }
    }

    fn host(&self) -> String {
        match self.transport {
            Transport::Tcp { host, .. } | Transport::Tls { host, .. } => host.clone(),
            Transport::Ws { url } | Transport::Wss { url, .. } => {
                let host = url::Url::parse(url).ok();
                let host = host.as_ref().and_then(url::Url::host_str);
                host.unwrap_or("HOST").to_owned()
            }
        }
    }

    fn has_tls(&self) -> bool {
        match self.transport {
            Transport::Tls { .. } | Transport::Wss { .. } => true,
            Transport::Tcp { .. } | Transport::Ws { .. } => false,
        }
    }

    fn is_websocket(&self) -> bool {
        match self.transport {
            Transport::Ws { .. } | Transport::Wss { .. } => true,
            Transport::Tcp { .. } | Transport::Tls { .. } => false,
        }
    }

    fn rabbitmq_websocket(&self) -> String {
        let scheme = if self.has_tls() { "wss" } else { "ws" };
        format!("{scheme}://{}:{RABBITMQ_WEBSOCKET}", self.host())
    }
}

/// Whether another protocol than the expected one may be spoken there, so that asking may tell.
pub(super) fn may_be_other_protocol(error: &LinkError) -> bool {
    match error.symptom {
        Symptom::ClosedOnConnect
        | Symptom::Silence
        | Symptom::NotMqtt
        | Symptom::ClosedOnTls
        | Symptom::NotTls => true,
        Symptom::Unnamed
        | Symptom::NobodyListens
        | Symptom::NoSuchHost(_)
        | Symptom::LoginRefused
        | Symptom::UnknownCa
        | Symptom::OtherHost(_)
        | Symptom::OutOfDate
        | Symptom::WantsCertificate
        | Symptom::NoWebSocket
        | Symptom::HttpStatus(_)
        | Symptom::OtherWebSocket
        | Symptom::Reset => false,
    }
}

/// The error with target, cause and remedy as its text. `spoken`: what was found to be spoken
/// there, if anything was.
pub(super) fn explain(
    error: LinkError,
    target: &Target<'_>,
    spoken: Option<OtherProtocol>,
) -> LinkError {
    let cause = match (&error.symptom, target.expired) {
        (Symptom::LoginRefused, Some(_)) => Cause::Expired,
        (_, _) => error.cause,
    };
    let text = match spoken {
        Some(OtherProtocol::Http) => " answers, but not in MQTT (it looks like HTTP)".to_owned(),
        Some(OtherProtocol::Amqp) => AMQP.to_owned(),
        Some(OtherProtocol::Tls) if !target.has_tls() => {
            format!(" speaks TLS: try {}", target.other_url())
        }
        Some(OtherProtocol::Tls) | None => text(&error, target),
    };
    LinkError {
        cause,
        text: format!("{}{text}", target.url()),
        ..error
    }
}

fn text(error: &LinkError, target: &Target<'_>) -> String {
    let other = target.other_url();
    match &error.symptom {
        Symptom::NobodyListens if target.has_proxy => format!(": {}", error.text),
        Symptom::NobodyListens => ": connection refused; is a broker listening there?".to_owned(),
        Symptom::NoSuchHost(reason) => {
            let host = target.host();
            format!(": the name {host} cannot be looked up ({reason}); is it spelt right?")
        }
        Symptom::LoginRefused => login_refused(target),
        Symptom::ClosedOnConnect => closed_on_connect(target, &other),
        Symptom::Silence => silence(target),
        Symptom::NotMqtt => " answers, but not in MQTT".to_owned(),
        Symptom::ClosedOnTls => {
            format!(": no TLS handshake; does this port speak plain MQTT? try {other}")
        }
        Symptom::NotTls => format!(" answers, but not in TLS; try {other}"),
        Symptom::UnknownCa => {
            ": its certificate is signed by an unknown CA: give it with --ca-file".to_owned()
        }
        Symptom::OtherHost(names) => other_host(target, names),
        Symptom::OutOfDate => {
            ": its certificate is not valid at this time; is the clock right?".to_owned()
        }
        Symptom::WantsCertificate => ": the broker wants a certificate of the client: \
             give --client-cert and --client-key"
            .to_owned(),
        Symptom::NoWebSocket => {
            let rabbitmq = target.rabbitmq_websocket();
            format!(": no WebSocket answers there; RabbitMQ: {rabbitmq}")
        }
        Symptom::HttpStatus(status) => {
            let rabbitmq = target.rabbitmq_websocket();
            format!(": no WebSocket on this path (HTTP {status}); RabbitMQ: {rabbitmq}")
        }
        Symptom::OtherWebSocket => ": the WebSocket there does not carry MQTT".to_owned(),
        Symptom::Unnamed | Symptom::Reset => format!(": {}", error.text),
    }
}

fn login_refused(target: &Target<'_>) -> String {
    let credentials = target.credentials;
    match (credentials.username(), credentials.origin()) {
        (None, None) => " refuses a client without a login: \
             give --username and OBSERVER_PASSWORD, or OBSERVER_TOKEN"
            .to_owned(),
        (Some(user), None) => format!(
            " refuses user {user:?}: no password was given (OBSERVER_PASSWORD or --password-file)"
        ),
        (_, Some(origin)) if credentials.shows_token() => match target.expired {
            Some(expired) => format!(" refuses the token ({origin}): {expired}"),
            None => format!(
                " refuses the token ({origin}): is it signed with a key that the broker knows, \
                 and made for this broker?"
            ),
        },
        (None, Some(origin)) => format!(
            " refuses the login: a password is given ({origin}), and no user: \
             name them with --username or in --broker"
        ),
        (Some(user), Some(origin)) => {
            format!(" refuses user {user:?}: wrong password? ({origin})")
        }
    }
}

fn closed_on_connect(target: &Target<'_>, other: &str) -> String {
    if target.is_websocket() || target.has_tls() {
        return " closes the connection instead of answering CONNECT".to_owned();
    }
    let version = match target.only_version_5 {
        true => "; or does the broker not speak MQTT 5? try --protocol auto",
        false => "",
    };
    format!(
        " closes the connection instead of answering; \
         does this port speak TLS? try {other}{version}"
    )
}

fn silence(target: &Target<'_>) -> String {
    let what = match target.is_websocket() {
        true => "no WebSocket, or no MQTT on it",
        false => "no MQTT",
    };
    format!(
        ": no answer in time; {what} on this port, a firewall on the way, \
         or a memory or disk alarm in the broker?"
    )
}

fn other_host(target: &Target<'_>, names: &[String]) -> String {
    let host = target.host();
    match names {
        [] => format!(": its certificate is not for {host}"),
        names => format!(
            ": its certificate is for {}, not for {host}",
            names.join(", ")
        ),
    }
}
