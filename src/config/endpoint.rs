//! Addresses: of the broker, and of an HTTP proxy before it.
//!
//! Owns taking these URLs apart. No error repeats the URL, which may hold a password.

use std::str::FromStr;
use std::sync::Arc;

use crate::auth::secret::Secret;
use crate::mqtt::{Proxy, Transport, without_query};

/// Why a URL is not the address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BrokerUrlError {
    #[error("not a URL ({0}); {BROKER_RULE}")]
    NotAUrl(url::ParseError),
    #[error("scheme {0:?} is none of mqtt, mqtts, ws, wss; {BROKER_RULE}")]
    Scheme(String),
    /// A host and a port, which may be repeated.
    #[error("is mqtt://{0} meant? {BROKER_RULE}")]
    NoScheme(String),
    #[error("AMQP isn't spoken here; RabbitMQ's MQTT port is 1883")]
    Amqp,
    #[error(
        "HTTP isn't spoken here; MQTT over WebSocket is given as {0}://HOST[:PORT][/PATH] \
         (RabbitMQ: port 15675, path /ws)"
    )]
    Http(&'static str),
    #[error("no host; {BROKER_RULE}")]
    NoHost,
    #[error("{0}:// has no path; {BROKER_RULE}")]
    Path(String),
    #[error("an IPv6 address works with mqtt:// only: give {0} a name")]
    Ipv6(String),
    #[error(transparent)]
    Encoding(#[from] EncodingError),
}

/// Why a URL is not the address of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ProxyError {
    #[error("not a URL ({0}); {PROXY_RULE}")]
    NotAUrl(url::ParseError),
    #[error("scheme {0:?}: {PROXY_RULE}")]
    Scheme(String),
    #[error("{PROXY_RULE}")]
    NoHost,
    #[error(transparent)]
    Encoding(#[from] EncodingError),
}

/// User or password of a URL cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user or password is not percent-encoded UTF-8")]
pub(super) struct EncodingError;

const BROKER_RULE: &str =
    "a broker is given as mqtt://, mqtts://, ws:// or wss://HOST[:PORT][/PATH]";
const PROXY_RULE: &str = "a proxy is given as http://[USER:PASSWORD@]HOST:PORT";

/// How MQTT is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumString)]
#[strum(serialize_all = "lowercase")]
enum Scheme {
    #[strum(serialize = "mqtt", serialize = "tcp")]
    Mqtt,
    #[strum(serialize = "mqtts", serialize = "ssl")]
    Mqtts,
    Ws,
    Wss,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Mqtt => 1883,
            Self::Mqtts => 8883,
            Self::Ws => 80,
            Self::Wss => 443,
        }
    }

    fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// The address of a broker, taken apart.
pub(super) struct BrokerUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Without user and password.
    url: url::Url,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
}

impl BrokerUrl {
    /// The address as it may be shown: without user, password and the values in its query.
    pub(super) fn shown(&self) -> String {
        if self.scheme.is_websocket() {
            without_query(self.url.as_str())
        } else {
            format!("{}://{}:{}", self.url.scheme(), self.host, self.port)
        }
    }

    /// Whether connections are encrypted.
    pub(super) fn is_encrypted(&self) -> bool {
        match self.scheme {
            Scheme::Mqtts | Scheme::Wss => true,
            Scheme::Mqtt | Scheme::Ws => false,
        }
    }

    /// How a connection is opened. `tls` is used if the scheme asks for it.
    pub(super) fn transport(self, tls: Arc<rustls::ClientConfig>) -> Transport {
        let Self {
            host, port, url, ..
        } = self;
        match self.scheme {
            Scheme::Mqtt => Transport::Tcp { host, port },
            Scheme::Mqtts => Transport::Tls { host, port, tls },
            Scheme::Ws => Transport::Ws { url: url.into() },
            Scheme::Wss => Transport::Wss {
                url: url.into(),
                tls,
            },
        }
    }
}

/// User or password of a URL, decoded.
fn decode(text: &str) -> Result<String, EncodingError> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| EncodingError)
}

/// Whether the text is a host and a port and nothing else, so no secret.
fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let is_of_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    !host.is_empty() && host.chars().all(is_of_host) && port.parse::<u16>().is_ok()
}

fn parse_scheme(scheme: &str) -> Result<Scheme, BrokerUrlError> {
    match (Scheme::from_str(scheme), scheme) {
        (Ok(scheme), _) => Ok(scheme),
        (Err(_), "amqp" | "amqps") => Err(BrokerUrlError::Amqp),
        (Err(_), "http") => Err(BrokerUrlError::Http("ws")),
        (Err(_), "https") => Err(BrokerUrlError::Http("wss")),
        (Err(_), other) => Err(BrokerUrlError::Scheme(other.to_owned())),
    }
}

pub(super) fn parse_broker_url(text: &str) -> Result<BrokerUrl, BrokerUrlError> {
    if is_host_and_port(text) {
        return Err(BrokerUrlError::NoScheme(text.to_owned()));
    }
    let mut url = url::Url::parse(text).map_err(BrokerUrlError::NotAUrl)?;
    let scheme = parse_scheme(url.scheme())?;
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or(BrokerUrlError::NoHost)?.to_owned();
    let port = url.port().unwrap_or(scheme.default_port());
    let username = Some(decode(url.username())?).filter(|name| !name.is_empty());
    let password = url.password().map(decode).transpose()?.map(Secret::new);
    url.set_username("")
        .and_then(|()| url.set_password(None))
        .map_err(|()| BrokerUrlError::NoHost)?;
    let has_path = !matches!(url.path(), "" | "/") || url.query().is_some();
    if has_path && !scheme.is_websocket() {
        return Err(BrokerUrlError::Path(url.scheme().to_owned()));
    }
    if host.starts_with('[') && scheme != Scheme::Mqtt {
        return Err(BrokerUrlError::Ipv6(host));
    }
    Ok(BrokerUrl {
        scheme,
        host,
        port,
        url,
        username,
        password,
    })
}

pub(super) fn parse_proxy(text: &str) -> Result<Proxy, ProxyError> {
    let url = url::Url::parse(text).map_err(ProxyError::NotAUrl)?;
    if url.scheme() != "http" {
        return Err(ProxyError::Scheme(url.scheme().to_owned()));
    }
    let host = url.host_str().ok_or(ProxyError::NoHost)?.to_owned();
    let port = url.port_or_known_default().ok_or(ProxyError::NoHost)?;
    let credentials = match (decode(url.username())?, url.password()) {
        (user, None) if user.is_empty() => None,
        (user, password) => Some((user, Secret::new(decode(password.unwrap_or_default())?))),
    };
    Ok(Proxy {
        host,
        port,
        credentials,
    })
}

#[cfg(test)]
mod tests {
    use super::BROKER_RULE as RULE;
    use crate::config::testing::load;

    #[test]
    fn broker_addresses_are_taken_apart() {
        let shown =
            |url: &str| load(&[("broker", url)], &[], None).map(|config| config.broker.address);
        assert_eq!(shown("mqtt://host"), Ok("mqtt://host:1883".to_owned()));
        assert_eq!(
            shown("mqtts://user:pa%40ss@host"),
            Ok("mqtts://host:8883".to_owned())
        );
        assert_eq!(
            shown("ws://user@host:15675/ws?x=1"),
            Ok("ws://host:15675/ws?…".to_owned())
        );
        assert_eq!(
            shown("mqtt://[::1]:1884"),
            Ok("mqtt://[::1]:1884".to_owned())
        );
        for (url, want) in [
            ("host:1883", format!("is mqtt://host:1883 meant? {RULE}")),
            (
                "127.0.0.1:1883",
                format!("is mqtt://127.0.0.1:1883 meant? {RULE}"),
            ),
            ("[::1]:1883", format!("is mqtt://[::1]:1883 meant? {RULE}")),
            (
                "user:secret@host",
                format!("scheme \"user\" is none of mqtt, mqtts, ws, wss; {RULE}"),
            ),
            (
                "amqp://host",
                "AMQP isn't spoken here; RabbitMQ's MQTT port is 1883".to_owned(),
            ),
            (
                "https://user:secret@host",
                "HTTP isn't spoken here; MQTT over WebSocket is given as \
                 wss://HOST[:PORT][/PATH] (RabbitMQ: port 15675, path /ws)"
                    .to_owned(),
            ),
            (
                "mqt://host",
                format!("scheme \"mqt\" is none of mqtt, mqtts, ws, wss; {RULE}"),
            ),
            (
                "secret-without-scheme",
                format!("not a URL (relative URL without a base); {RULE}"),
            ),
            ("mqtt://host/path", format!("mqtt:// has no path; {RULE}")),
            (
                "wss://[::1]/ws",
                "an IPv6 address works with mqtt:// only: give [::1] a name".to_owned(),
            ),
            ("mqtt://", format!("no host; {RULE}")),
        ] {
            assert_eq!(shown(url), Err(vec![format!("--broker: {want}")]), "{url}");
        }
        assert_eq!(
            RULE,
            "a broker is given as mqtt://, mqtts://, ws:// or wss://HOST[:PORT][/PATH]"
        );
    }

    #[test]
    fn mistakes_in_a_proxy_are_named_without_repeating_it() {
        for (url, want) in [
            (
                "socks5://h:1",
                "scheme \"socks5\": a proxy is given as http://",
            ),
            ("geheim", "not a URL (relative URL without a base); a proxy"),
            (
                "http://%ff@h:1",
                "user or password is not percent-encoded UTF-8",
            ),
        ] {
            let errors = load(&[("proxy", url)], &[], None).unwrap_err();
            assert!(
                errors[0].starts_with(&format!("--proxy: {want}")),
                "{errors:?}"
            );
            assert!(!errors[0].contains("geheim"));
        }
    }
}
