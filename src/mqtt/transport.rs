//! The way to the broker: TCP, TLS, WebSocket, and a proxy in between.
//!
//! Owns opening it. Leaves what travels on it to `socket.rs` and `connection.rs`, and the time it
//! may take to `connection.rs`.

use std::io;
use std::sync::Arc;

use async_http_proxy::{http_connect_tokio, http_connect_tokio_with_basic_auth};
use async_tungstenite::tokio::client_async_with_config;
use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::error::{Error as WebSocketError, ProtocolError};
use async_tungstenite::tungstenite::http::HeaderValue;
use async_tungstenite::tungstenite::protocol::WebSocketConfig;
use rumqttc::tokio_rustls::TlsConnector;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use url::Url;

use super::error::{self, Cause, LinkError, Phase};
use super::options::{ConnectOptions, Proxy, Transport};
use super::socket::{Socket, Stream};

const SUBPROTOCOL: &str = "Sec-WebSocket-Protocol";
const NO_URL: &str = "the address is no URL";

/// Opens the way that `options` describe.
pub(super) async fn open(options: &ConnectOptions) -> Result<Socket, LinkError> {
    let (host, port) = address(&options.transport)?;
    let tcp = match &options.proxy {
        None => connect(&host, port).await,
        Some(proxy) => through(proxy, &host, port).await,
    }?;
    match &options.transport {
        Transport::Tcp { .. } => Ok(Socket::bytes(Stream::Tcp(tcp))),
        Transport::Tls { tls, .. } => {
            let stream = handshake(&host, tls, tcp).await;
            Ok(Socket::bytes(
                stream.map_err(|error| error::tls_error(&error))?,
            ))
        }
        Transport::Ws { url } => websocket(url, Stream::Tcp(tcp)).await,
        Transport::Wss { url, tls } => {
            let stream = handshake(&host, tls, tcp).await.map_err(WebSocketError::Io);
            websocket(url, stream.map_err(|error| websocket_error(&error))?).await
        }
    }
}

/// Host and port to connect to, an IPv6 address without its brackets.
fn address(transport: &Transport) -> Result<(String, u16), LinkError> {
    let (host, port) = match transport {
        Transport::Tcp { host, port } | Transport::Tls { host, port, .. } => (host.clone(), *port),
        Transport::Ws { url } | Transport::Wss { url, .. } => {
            let no_url = || LinkError::new(Cause::Other, NO_URL);
            let url = Url::parse(url).map_err(|_| no_url())?;
            let host = url.host_str().ok_or_else(no_url)?;
            (
                host.to_owned(),
                url.port_or_known_default().ok_or_else(no_url)?,
            )
        }
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    Ok((bare.map_or_else(|| host.clone(), str::to_owned), port))
}

async fn connect(host: &str, port: u16) -> Result<TcpStream, LinkError> {
    let tcp = open_tcp(host, port).await;
    tcp.map_err(|error| error::io_error(&error, Phase::Connecting))
}

async fn open_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect((host, port)).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Has a proxy connect to the broker.
async fn through(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, LinkError> {
    let bare = proxy.host.trim_matches(['[', ']']);
    let mut tcp = open_tcp(bare, proxy.port)
        .await
        .map_err(|error| error::proxy_error(&format!("Socket connect: {error}.")))?;
    // In a request an IPv6 address needs its brackets.
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    };
    let connected = match &proxy.credentials {
        None => http_connect_tokio(&mut tcp, &host, port).await,
        Some((username, password)) => {
            let password = password.expose_secret();
            http_connect_tokio_with_basic_auth(&mut tcp, &host, port, username, password).await
        }
    };
    connected.map_err(|error| error::proxy_error(&format!("Proxy connect: {error}.")))?;
    Ok(tcp)
}

async fn handshake(
    host: &str,
    settings: &Arc<rustls::ClientConfig>,
    tcp: TcpStream,
) -> io::Result<Stream> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| {
        let error = rustls::Error::General(error.to_string());
        io::Error::new(io::ErrorKind::InvalidInput, error)
    })?;
    let connector = TlsConnector::from(settings.clone());
    Ok(Stream::Tls(Box::new(connector.connect(name, tcp).await?)))
}

async fn websocket(url: &str, stream: Stream) -> Result<Socket, LinkError> {
    let request = url.into_client_request();
    let mut request = request.map_err(|error| websocket_error(&error))?;
    let header = HeaderValue::from_static("mqtt");
    request.headers_mut().insert(SUBPROTOCOL, header);
    // A message that waits and is over a limit would end every connection.
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    let opened = client_async_with_config(request, stream, Some(config)).await;
    let (stream, _) = opened.map_err(|error| websocket_error(&error))?;
    Ok(Socket::websocket(stream))
}

fn websocket_error(error: &WebSocketError) -> LinkError {
    match error {
        WebSocketError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            error::other_websocket()
        }
        error => error::websocket_error(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_looked_up_without_brackets() {
        let tcp = |host: &str| Transport::Tcp {
            host: host.to_owned(),
            port: 1883,
        };
        let ws = |url: &str| Transport::Ws {
            url: url.to_owned(),
        };
        for (transport, host, port) in [
            (tcp("broker"), "broker", 1883),
            (tcp("[::1]"), "::1", 1883),
            (ws("ws://[::1]:15675/ws?key=1"), "::1", 15675),
            (ws("ws://broker/ws"), "broker", 80),
        ] {
            assert_eq!(address(&transport), Ok((host.to_owned(), port)));
        }
    }
}
