//! Packets in and bytes out.
//!
//! Owns what was read and is no whole packet yet, and what is encoded and not written yet. Leaves
//! bytes to `socket.rs` and `codec.rs`, and what a packet means to `connection.rs`.

use std::io;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::codec::{self, Decoded, Incoming};
use super::error::{self, LinkError, Phase};
use super::keep_alive::KeepAlive;
use super::options::Protocol;
use super::socket::{Read, Socket};

/// A larger buffer than this is given back once it is empty.
const KEPT_BUFFER: usize = 256 << 10;
/// What follows a larger packet than this is moved out of its memory: a short message would hold
/// all of that.
const LARGE_PACKET: usize = 64 << 10;

/// What is on its way between packets and the socket.
pub(super) struct Pump {
    pub(super) socket: Socket,
    pub(super) protocol: Protocol,
    pub(super) phase: Phase,
    /// What was read, and is not a whole packet yet.
    input: BytesMut,
    /// What `input` needs at least to become one.
    missing: usize,
    /// What is to be written.
    pub(super) output: BytesMut,
    /// Why nothing can be written any more. What was read before may say more.
    pub(super) write_failure: Option<LinkError>,
    pub(super) keep_alive: KeepAlive,
}

impl Pump {
    pub(super) fn new(socket: Socket, protocol: Protocol) -> Self {
        Self {
            socket,
            protocol,
            phase: Phase::Connecting,
            input: BytesMut::new(),
            missing: 0,
            output: BytesMut::new(),
            write_failure: None,
            keep_alive: KeepAlive::default(),
        }
    }

    fn io_error(&self, error: &io::Error) -> LinkError {
        error::io_error(error, self.phase)
    }

    /// Takes the next packet off what was read.
    pub(super) fn decode(&mut self) -> Result<Option<Incoming>, LinkError> {
        let before = self.input.len();
        match codec::decode(self.protocol, &mut self.input, self.phase)? {
            Decoded::Packet(packet) => {
                if before - self.input.len() > LARGE_PACKET {
                    self.input = BytesMut::from(&self.input[..]);
                }
                Ok(Some(packet))
            }
            Decoded::Missing(missing) => {
                self.missing = missing;
                Ok(None)
            }
        }
    }

    /// Reads once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), LinkError>> {
        let read = self.socket.poll_read(cx, &mut self.input, self.missing);
        read.map(|read| match read {
            Ok(Read::Some) => Ok(()),
            Ok(Read::End) if self.input.is_empty() => Err(error::closed(self.phase)),
            Ok(Read::End) => Err(error::cut_short(self.phase)),
            Err(error) => Err(self.io_error(&error)),
        })
    }

    /// Writes what was encoded. Ready if nothing is left.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.write_failure.is_some() || (self.output.is_empty() && !self.socket.needs_flush()) {
            return Poll::Ready(());
        }
        let (written, polled) = self.socket.poll_write(cx, &mut self.output);
        if written > 0 {
            self.keep_alive.sent();
        }
        if self.output.is_empty() && self.output.capacity() > KEPT_BUFFER {
            self.output = BytesMut::new();
        }
        polled.map(|written| {
            if let Err(error) = written {
                self.write_failure = Some(self.io_error(&error));
            }
        })
    }

    /// The next packet, while nothing waits in an outbox.
    pub(super) fn poll_packet(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Incoming, LinkError>> {
        loop {
            if let Some(packet) = self.decode()? {
                return Poll::Ready(Ok(packet));
            }
            let _ = self.poll_write(cx);
            match self.poll_read(cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => return self.poll_failure(),
            }
        }
    }

    /// A connection that cannot be written to has ended, once nothing is left to read.
    pub(super) fn poll_failure<T>(&mut self) -> Poll<Result<T, LinkError>> {
        match self.write_failure.take() {
            Some(failure) => Poll::Ready(Err(failure)),
            None => Poll::Pending,
        }
    }
}
