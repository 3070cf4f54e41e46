//! The bytes of a connection, whatever carries them.
//!
//! Owns reading what is there and writing what waits, with as few calls as it takes. Leaves packets
//! to `connection.rs`.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's long list of errors is sorted into a few kinds"
)]

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use async_tungstenite::WebSocketStream;
use async_tungstenite::tokio::TokioAdapter;
use async_tungstenite::tungstenite::error::{Error as WebSocketError, ProtocolError};
use async_tungstenite::tungstenite::protocol::Message;
use bytes::{Buf, BytesMut};
use futures_util::{Sink, Stream as _};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Room for one read: several messages of usual size. Payloads keep the memory that they were read
/// into, so it is not larger.
const READ_BYTES: usize = 32 << 10;
/// The most that is made room for at once, however large the packet says that it is.
const MOST_READ_BYTES: usize = 1 << 20;
/// Room below which more is made.
const LITTLE_ROOM: usize = 8 << 10;

const NO_MQTT: &str = "text came over the WebSocket, which is not MQTT";

/// A stream of bytes.
pub(super) struct Stream {
    carrier: Carrier,
    /// Bytes have come, of a whole WebSocket message or not.
    received: bool,
}

enum Carrier {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn tcp(tcp: TcpStream) -> Self {
        let carrier = Carrier::Tcp(tcp);
        Self {
            carrier,
            received: false,
        }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>) -> Self {
        let carrier = Carrier::Tls(Box::new(tls));
        Self {
            carrier,
            received: false,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.carrier {
            Carrier::Tcp(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Carrier::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        };
        this.received |= buf.filled().len() > before;
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().carrier {
            Carrier::Tcp(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Carrier::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().carrier {
            Carrier::Tcp(tcp) => Pin::new(tcp).poll_flush(cx),
            Carrier::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().carrier {
            Carrier::Tcp(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Carrier::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

type WebSocket = WebSocketStream<TokioAdapter<Stream>>;

enum Kind {
    Bytes(Stream),
    WebSocket(Box<WebSocket>),
}

/// A connection's socket.
pub(super) struct Socket {
    kind: Kind,
    /// Something was handed to a layer that may keep it until it is flushed.
    needs_flush: bool,
}

/// What a read came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// Something was added.
    Some,
    /// The other side has closed.
    End,
}

impl Socket {
    pub(super) fn bytes(stream: Stream) -> Self {
        Self {
            kind: Kind::Bytes(stream),
            needs_flush: false,
        }
    }

    pub(super) fn websocket(stream: WebSocket) -> Self {
        Self {
            kind: Kind::WebSocket(Box::new(stream)),
            needs_flush: false,
        }
    }

    /// Adds what there is to `input`. `missing`: how much the packet that has begun needs.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        input: &mut BytesMut,
        missing: usize,
    ) -> Poll<io::Result<Read>> {
        let read = match &mut self.kind {
            Kind::Bytes(stream) => {
                if input.capacity() - input.len() < LITTLE_ROOM {
                    input.reserve(missing.clamp(READ_BYTES, MOST_READ_BYTES));
                }
                // Nothing is lost with this future: it reads only when it is ready.
                match ready!(pin!(stream.read_buf(input)).poll(cx)) {
                    Ok(0) => Ok(Read::End),
                    Ok(_) => Ok(Read::Some),
                    Err(error) => Err(error),
                }
            }
            Kind::WebSocket(socket) => ready!(poll_message(socket, cx, input)),
        };
        Poll::Ready(read)
    }

    /// Writes all of `output`, and sees to it that it leaves. Returns how much of it the socket has
    /// taken, also if not all.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> (usize, Poll<io::Result<()>>) {
        let before = output.len();
        let polled = self.poll_write_all(cx, output);
        (before - output.len(), polled)
    }

    fn poll_write_all(
        &mut self,
        cx: &mut Context<'_>,
        output: &mut BytesMut,
    ) -> Poll<io::Result<()>> {
        match &mut self.kind {
            Kind::Bytes(stream) => {
                while !output.is_empty() {
                    let written = ready!(Pin::new(&mut *stream).poll_write(cx, output))?;
                    if written == 0 {
                        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                    }
                    output.advance(written);
                    self.needs_flush = true;
                }
                if self.needs_flush {
                    ready!(Pin::new(stream).poll_flush(cx))?;
                    self.needs_flush = false;
                }
            }
            Kind::WebSocket(socket) => {
                // The library takes another message only when the last one has left.
                if self.needs_flush {
                    ready!(Pin::new(&mut **socket).poll_flush(cx)).map_err(io_error)?;
                    self.needs_flush = false;
                }
                if !output.is_empty() {
                    let message = Message::Binary(output.split().freeze());
                    Pin::new(&mut **socket)
                        .start_send(message)
                        .map_err(io_error)?;
                    self.needs_flush = true;
                    ready!(Pin::new(&mut **socket).poll_flush(cx)).map_err(io_error)?;
                    self.needs_flush = false;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Whether bytes have come since the last call, if only of a part of a WebSocket message.
    pub(super) fn take_received(&mut self) -> bool {
        let stream = match &mut self.kind {
            Kind::Bytes(stream) => stream,
            Kind::WebSocket(socket) => socket.get_mut().get_mut(),
        };
        std::mem::take(&mut stream.received)
    }

    /// Whether something that was taken may not have left.
    pub(super) fn needs_flush(&self) -> bool {
        self.needs_flush
    }
}

/// Adds the next message to `input`. The library answers pings.
fn poll_message(
    socket: &mut WebSocket,
    cx: &mut Context<'_>,
    input: &mut BytesMut,
) -> Poll<io::Result<Read>> {
    loop {
        return Poll::Ready(match ready!(Pin::new(&mut *socket).poll_next(cx)) {
            Some(Ok(Message::Binary(bytes))) => {
                input.extend_from_slice(&bytes);
                Ok(Read::Some)
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_))) | None => Ok(Read::End),
            Some(Ok(Message::Text(_))) => Err(io::Error::other(NO_MQTT)),
            Some(Err(error)) => websocket_end(error),
        });
    }
}

fn websocket_end(error: WebSocketError) -> io::Result<Read> {
    match error {
        WebSocketError::ConnectionClosed | WebSocketError::AlreadyClosed => Ok(Read::End),
        error => Err(io_error(error)),
    }
}

fn io_error(error: WebSocketError) -> io::Error {
    match error {
        WebSocketError::Io(error) => error,
        WebSocketError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            io::ErrorKind::ConnectionReset.into()
        }
        error => io::Error::other(error),
    }
}
