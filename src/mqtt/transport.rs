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
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
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
        Transport::Tcp { .. } => Ok(Socket::bytes(Stream::tcp(tcp))),
        Transport::Tls { tls, .. } => {
            let stream = handshake(&host, tls, tcp).await;
            Ok(Socket::bytes(
                stream.map_err(|error| error::tls_error(&error))?,
            ))
        }
        Transport::Ws { url } => websocket(url, Stream::tcp(tcp)).await,
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
    Ok(Stream::tls(connector.connect(name, tcp).await?))
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
    let is_other = matches!(
        error,
        WebSocketError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_))
    );
    match is_other {
        true => error::other_websocket(),
        false => error::websocket_error(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_tungstenite::tokio::accept_hdr_async;
    use async_tungstenite::tungstenite::handshake::server::{Request, Response};
    use async_tungstenite::tungstenite::protocol::Message;
    use futures_util::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::auth::secret::Secret;
    use crate::mqtt::{Event, Protocol, Session};

    const CONNACK: &[u8] = b"\x20\x02\x00\x00";

    fn options(transport: Transport, proxy: Option<Proxy>) -> ConnectOptions {
        ConnectOptions {
            transport,
            proxy,
            protocol: Protocol::V311,
            client_id: Secret::new("tester".to_owned()),
            credentials: None,
            session: Session::Clean,
            keep_alive: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(20),
            receive_maximum: 100,
            max_packet_bytes: None,
            will: None,
        }
    }

    fn tcp_to(host: &str, port: u16) -> Transport {
        Transport::Tcp {
            host: host.to_owned(),
            port,
        }
    }

    async fn listen(address: &str) -> (TcpListener, u16) {
        let listener = TcpListener::bind(address).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    /// Takes CONNECT, and accepts it.
    async fn accept(mut stream: TcpStream) -> TcpStream {
        let mut connect = [0; 256];
        assert!(stream.read(&mut connect).await.unwrap() > 12);
        stream.write_all(CONNACK).await.unwrap();
        stream
    }

    /// What a proxy is asked, and its end of the connection after this answer.
    async fn asked(listener: &TcpListener, answer: &str) -> (TcpStream, String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 1_024];
        let length = stream.read(&mut request).await.unwrap();
        stream.write_all(answer.as_bytes()).await.unwrap();
        let request = String::from_utf8(request[..length].to_vec()).unwrap();
        (stream, request)
    }

    #[tokio::test]
    async fn a_proxy_is_told_the_broker_and_the_login() {
        let (listener, port) = listen("127.0.0.1:0").await;
        let proxy = Proxy {
            host: "127.0.0.1".to_owned(),
            port,
            credentials: Some(("me".to_owned(), Secret::new("pw".to_owned()))),
        };
        let proxied = async {
            let answer = "HTTP/1.1 200 Connection established\r\n\r\n";
            let (stream, request) = asked(&listener, answer).await;
            (accept(stream).await, request)
        };
        let options = options(tcp_to("[2001:db8::1]", 1883), Some(proxy));
        let (opened, (_stream, request)) = tokio::join!(crate::mqtt::open(&options), proxied);
        opened.unwrap();
        let first = "CONNECT [2001:db8::1]:1883 HTTP/1.1\r\n";
        assert!(request.starts_with(first), "{request}");
        let login = "Proxy-Authorization: Basic bWU6cHc=\r\n";
        assert!(request.contains(login), "{request}");
    }

    #[tokio::test]
    async fn a_proxy_that_refuses_is_named() {
        let (listener, port) = listen("127.0.0.1:0").await;
        let proxy = Proxy {
            host: "127.0.0.1".to_owned(),
            port,
            credentials: None,
        };
        let options = options(tcp_to("broker", 1883), Some(proxy));
        let refusing = asked(&listener, "HTTP/1.1 403 Forbidden\r\n\r\n");
        let (opened, _stream) = tokio::join!(crate::mqtt::open(&options), refusing);
        let error = opened.unwrap_err();
        assert_eq!(error.cause, Cause::Unreachable);
        assert!(error.text.starts_with("proxy: Proxy connect: "), "{error}");
    }

    /// The library's own limit is 16 MiB for a frame.
    #[tokio::test]
    async fn a_websocket_carries_messages_of_any_size() {
        let (listener, port) = listen("127.0.0.1:0").await;
        let mut packet = b"\x32\x85\x80\x80\x0a\x00\x01a\x00\x07".to_vec();
        packet.resize(5 + 5 + (20 << 20), b'x');
        #[expect(clippy::result_large_err, reason = "the library's type")]
        let with_subprotocol = |request: &Request, mut response: Response| {
            let asked = request.headers()[SUBPROTOCOL].clone();
            response.headers_mut().insert(SUBPROTOCOL, asked);
            Ok(response)
        };
        let serving = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut socket = accept_hdr_async(stream, with_subprotocol).await.unwrap();
            let connect = socket.next().await.unwrap().unwrap();
            assert!(connect.is_binary());
            socket.send(Message::binary(CONNACK)).await.unwrap();
            socket
        };
        let url = format!("ws://127.0.0.1:{port}/ws?key=1");
        let options = options(Transport::Ws { url }, None);
        let (opened, mut socket) = tokio::join!(crate::mqtt::open(&options), serving);
        let mut opened = opened.unwrap();
        let sending = socket.send(Message::binary(packet));
        let (event, sent) = tokio::join!(opened.connection.next(), sending);
        sent.unwrap();
        let Ok(Event::Message(delivery)) = event else {
            panic!("{event:?}");
        };
        assert_eq!(delivery.received.payload.len(), 20 << 20);
        opened.client.acknowledge(7).unwrap();
        opened.client.disconnect().unwrap();
        assert_eq!(opened.connection.next().await, Ok(Event::Disconnected));
        let acks = socket.next().await.unwrap().unwrap().into_data();
        assert_eq!(&acks[..], b"\x40\x02\x00\x07\xe0\x00");
    }

    #[tokio::test]
    async fn a_literal_address_of_ipv6_is_reached() {
        let (listener, port) = listen("[::1]:0").await;
        let serving = async { accept(listener.accept().await.unwrap().0).await };
        let options = options(tcp_to("[::1]", port), None);
        let (opened, _stream) = tokio::join!(crate::mqtt::open(&options), serving);
        opened.unwrap();
    }

    #[test]
    fn addresses_are_looked_up_without_brackets() {
        let ws = |url: &str| Transport::Ws {
            url: url.to_owned(),
        };
        for (transport, host, port) in [
            (tcp_to("broker", 1883), "broker", 1883),
            (tcp_to("[::1]", 1883), "::1", 1883),
            (ws("ws://[::1]:15675/ws?key=1"), "::1", 15675),
            (ws("ws://broker/ws"), "broker", 80),
        ] {
            assert_eq!(address(&transport), Ok((host.to_owned(), port)));
        }
    }
}
