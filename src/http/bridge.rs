//! The demo's WebSocket: a connection of a page becomes one to the embedded broker, which speaks
//! MQTT over TCP alone.
//!
//! Owns the upgrade and the copying of bytes. Who may open one is decided by the console.

use std::net::SocketAddr;

use async_tungstenite::WebSocketStream;
use async_tungstenite::tokio::TokioAdapter;
use async_tungstenite::tungstenite::handshake::derive_accept_key;
use async_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    UPGRADE,
};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing::debug;
use ws_stream_tungstenite::WsStream;

use super::console::{Body, full};

/// WebSockets at a time. A page has two.
static FREE: Semaphore = Semaphore::const_new(64);
/// The longest message of a WebSocket, in bytes: as long as the embedded broker takes a payload.
const MAX_MESSAGE: usize = 8 << 20;
/// The only subprotocol that MQTT has.
const MQTT: &str = "mqtt";

/// Upgrades a request to a WebSocket, and connects that with the broker.
pub fn open(request: &mut Request<Incoming>, broker: SocketAddr) -> Response<Body> {
    let headers = request.headers();
    let speaks_mqtt = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().any(|given| {
        let mut offered = given.to_str().unwrap_or_default().split(',');
        offered.any(|name| name.trim() == MQTT)
    });
    let accepted = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|_| speaks_mqtt && request.method() == Method::GET)
        .and_then(|key| {
            derive_accept_key(key.as_bytes())
                .parse::<HeaderValue>()
                .ok()
        });
    let Some(accepted) = accepted else {
        let text = "this is a WebSocket of the subprotocol mqtt\n";
        let mut response = Response::new(full(text.into()));
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return response;
    };
    let Ok(place) = FREE.try_acquire() else {
        let mut response = Response::new(full("too many WebSockets\n".into()));
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return response;
    };
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let _place = place;
        let copied = async {
            let upgraded = upgrade.await.map_err(std::io::Error::other)?;
            let mut broker = TcpStream::connect(broker).await?;
            let socket = TokioAdapter::new(TokioIo::new(upgraded));
            let limits = WebSocketConfig::default()
                .max_message_size(Some(MAX_MESSAGE))
                .max_frame_size(Some(MAX_MESSAGE));
            let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(limits)).await;
            copy_bidirectional(&mut WsStream::new(socket), &mut broker).await
        };
        if let Err(error) = copied.await {
            debug!(%error, "a WebSocket to the embedded broker has ended");
        }
    });
    let mut response = Response::new(full(hyper::body::Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    for (name, value) in [
        (CONNECTION, HeaderValue::from_static("upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(MQTT)),
        (SEC_WEBSOCKET_ACCEPT, accepted),
    ] {
        response.headers_mut().insert(name, value);
    }
    response
}
