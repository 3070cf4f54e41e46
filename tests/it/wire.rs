//! A bare MQTT 3.1.1 client on a socket. It can send what no client library would, and shares no
//! code with the observer.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long anything may take before a test fails: generous, for a machine that is busy with
/// others.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A packet: its first byte, and what follows the length.
pub(crate) type Packet = (u8, Vec<u8>);

pub(crate) const CONNACK: u8 = 0x20;
pub(crate) const PUBACK: u8 = 0x40;
pub(crate) const SUBACK: u8 = 0x90;
pub(crate) const PINGREQ: u8 = 0xc0;
pub(crate) const PINGRESP: u8 = 0xd0;
pub(crate) const DISCONNECT: u8 = 0xe0;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) topic: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<u16>,
}

impl Message {
    pub(crate) fn topic(&self) -> &str {
        std::str::from_utf8(&self.topic).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.payload)))
    }
}

pub(crate) struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    pub(crate) messages: VecDeque<Message>,
    /// PUBACKs read, by packet identifier.
    pub(crate) confirmed: Vec<u16>,
    /// CONNACK's session present.
    pub(crate) session_present: bool,
    next_id: u16,
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap().to_be_bytes());
    out.extend_from_slice(bytes);
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let byte = u8::try_from(length % 128).unwrap();
        length /= 128;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

/// A PUBLISH; QoS 0 without packet identifier.
pub(crate) fn publish_packet(
    topic: &[u8],
    payload: &[u8],
    packet_id: Option<u16>,
    retain: bool,
) -> Vec<u8> {
    let mut body = vec![];
    text(&mut body, topic);
    if let Some(packet_id) = packet_id {
        body.extend_from_slice(&packet_id.to_be_bytes());
    }
    body.extend_from_slice(payload);
    packet(
        0x30 | u8::from(packet_id.is_some()) << 1 | u8::from(retain),
        &body,
    )
}

pub(crate) fn parse_publish(first: u8, body: &[u8]) -> Message {
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let (topic, mut rest) = body[2..].split_at(length);
    let packet_id = (first & 0x06 != 0).then(|| {
        let id = u16::from_be_bytes([rest[0], rest[1]]);
        rest = &rest[2..];
        id
    });
    Message {
        topic: topic.to_vec(),
        payload: rest.to_vec(),
        dup: first & 0x08 != 0,
        packet_id,
    }
}

impl Wire {
    /// Wraps a connected socket.
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: vec![],
            start: 0,
            messages: VecDeque::new(),
            confirmed: vec![],
            session_present: false,
            next_id: 0,
        }
    }

    /// Connects and logs in. The error is the CONNACK code, or 255 if the broker closed instead.
    pub(crate) fn connect(
        port: u16,
        client_id: &str,
        login: &(String, String),
        clean: bool,
    ) -> Result<Self, u8> {
        Self::log_in(port, client_id, login, clean, None)
    }

    /// The same, with a will that the broker keeps (topic, payload; QoS 1).
    pub(crate) fn connect_with_will(
        port: u16,
        client_id: &str,
        login: &(String, String),
        will: &(String, String),
    ) -> Self {
        Self::log_in(port, client_id, login, true, Some(will)).unwrap()
    }

    fn log_in(
        port: u16,
        client_id: &str,
        login: &(String, String),
        clean: bool,
        will: Option<&(String, String)>,
    ) -> Result<Self, u8> {
        let mut wire = Self::new(TcpStream::connect(("127.0.0.1", port)).map_err(|_| 255_u8)?);
        let with_will = if will.is_some() { 0x2c } else { 0 };
        let flags = 0xc0 | with_will | u8::from(clean) << 1;
        // A keep alive as long as can be: rumqttd refuses to do without one.
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0xff, 0xff];
        text(&mut body, client_id.as_bytes());
        if let Some((topic, payload)) = will {
            text(&mut body, topic.as_bytes());
            text(&mut body, payload.as_bytes());
        }
        text(&mut body, login.0.as_bytes());
        text(&mut body, login.1.as_bytes());
        wire.send(&packet(0x10, &body)).map_err(|_| 255_u8)?;
        match wire.read_packet(PATIENCE) {
            Ok(Some((CONNACK, body))) if body[1] == 0 => {
                wire.session_present = body[0] & 1 == 1;
                Ok(wire)
            }
            Ok(Some((_, body))) => Err(body[1]),
            _ => Err(255),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// The next packet; `None` if none comes within `limit`; an error if the connection is closed.
    pub(crate) fn read_packet(&mut self, limit: Duration) -> io::Result<Option<Packet>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(packet) = self.take_packet() {
                return Ok(Some(packet));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut chunk = [0; 65_536];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.buffer.extend_from_slice(&chunk[..n]),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) =>
                {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    fn take_packet(&mut self) -> Option<Packet> {
        let bytes = &self.buffer[self.start..];
        let first = *bytes.first()?;
        let (mut length, mut at) = (0, 1);
        loop {
            let byte = *bytes.get(at)?;
            length |= usize::from(byte & 0x7f) << (7 * (at - 1));
            at += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let body = bytes.get(at..at + length)?.to_vec();
        self.start += at + length;
        if self.start > 1 << 20 || self.start == self.buffer.len() {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        Some((first, body))
    }

    /// Reads one packet and sorts it: a message (acknowledged at once), a PUBACK, or something
    /// else, which is returned.
    pub(crate) fn step(&mut self, limit: Duration) -> io::Result<Option<Packet>> {
        match self.read_packet(limit)? {
            Some((first, body)) if first & 0xf0 == 0x30 => {
                let message = parse_publish(first, &body);
                if let Some(id) = message.packet_id {
                    self.send(&packet(PUBACK, &id.to_be_bytes()))?;
                }
                self.messages.push_back(message);
                Ok(None)
            }
            Some((PUBACK, body)) => {
                self.confirmed.push(u16::from_be_bytes([body[0], body[1]]));
                Ok(None)
            }
            other => Ok(other),
        }
    }

    fn next_id(&mut self) -> u16 {
        self.next_id = self.next_id % 60_000 + 1;
        self.next_id
    }

    /// SUBSCRIBE at QoS 1. The codes, or an error if the broker closed instead.
    pub(crate) fn subscribe(&mut self, filters: &[&str]) -> io::Result<Vec<u8>> {
        let mut body = self.next_id().to_be_bytes().to_vec();
        for filter in filters {
            text(&mut body, filter.as_bytes());
            body.push(1);
        }
        self.send(&packet(0x82, &body))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some((SUBACK, body)) = self.step(Duration::from_secs(1))? {
                return Ok(body[2..].to_vec());
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// PUBLISH at QoS 1, without waiting. Returns the packet identifier.
    pub(crate) fn publish(
        &mut self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> io::Result<u16> {
        let id = self.next_id();
        self.send(&publish_packet(
            topic.as_ref(),
            payload.as_ref(),
            Some(id),
            false,
        ))?;
        Ok(id)
    }

    /// PUBLISH at QoS 1, and wait for the PUBACK.
    pub(crate) fn publish_confirmed(
        &mut self,
        topic: impl AsRef<[u8]>,
        payload: impl AsRef<[u8]>,
    ) -> io::Result<()> {
        let id = self.publish(topic, payload)?;
        let deadline = Instant::now() + PATIENCE;
        while !self.confirmed.contains(&id) {
            if Instant::now() > deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.step(Duration::from_secs(1))?;
        }
        self.confirmed.retain(|confirmed| *confirmed != id);
        Ok(())
    }

    /// Reads until the broker has confirmed `count` publishes in all, or has closed the connection.
    pub(crate) fn dealt_with(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.confirmed.len() < count && self.step(Duration::from_secs(1)).is_ok() {
            let confirmed = self.confirmed.len();
            assert!(
                Instant::now() < deadline,
                "{confirmed} of {count} publishes are confirmed"
            );
        }
    }

    /// The next message, if one comes within `limit`.
    pub(crate) fn message(&mut self, limit: Duration) -> Option<Message> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(message) = self.messages.pop_front() {
                return Some(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.step(left).ok()?;
        }
    }

    /// Whether the broker has closed the connection, or does within `limit`.
    pub(crate) fn is_closed(&mut self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if self.step(Duration::from_millis(50)).is_err() {
                return true;
            }
        }
        false
    }

    pub(crate) fn disconnect(mut self) {
        let _ = self.send(&packet(0xe0, &[]));
    }
}

/// One PUBLISH at QoS 1 over MQTT 5 with these properties, confirmed.
pub(crate) fn publish_v5(
    port: u16,
    login: &(String, String),
    topic: &[u8],
    properties: &[u8],
    payload: &[u8],
) {
    let mut wire = Wire::new(TcpStream::connect(("127.0.0.1", port)).unwrap());
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0xc2, 0, 0, 0];
    text(&mut body, b"");
    text(&mut body, login.0.as_bytes());
    text(&mut body, login.1.as_bytes());
    wire.send(&packet(0x10, &body)).unwrap();
    let (first, connack) = wire.read_packet(PATIENCE).unwrap().unwrap();
    assert_eq!((first, connack[1]), (CONNACK, 0));
    let mut body = vec![];
    text(&mut body, topic);
    body.extend_from_slice(&[0, 1, u8::try_from(properties.len()).unwrap()]);
    body.extend_from_slice(properties);
    body.extend_from_slice(payload);
    wire.send(&packet(0x32, &body)).unwrap();
    assert_eq!(wire.read_packet(PATIENCE).unwrap().unwrap().0, PUBACK);
}
