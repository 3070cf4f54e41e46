//! A scripted broker, for what real ones cannot be made to do on demand.

use std::io;
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::bed::{ATTEMPTS, Observer, PATIENCE};
use crate::load::Path;
use crate::wire::{
    CONNACK, DISCONNECT, Message, PINGREQ, PINGRESP, PUBACK, Packet, SUBACK, Wire, packet,
    parse_publish, publish_packet,
};

/// How long to wait for something that should not come.
pub(crate) const GLIMPSE: Duration = Duration::from_millis(600);
/// The packet identifier of what the observer published to itself.
pub(crate) const ECHO: u16 = 60_000;

/// A broker whose every packet the test decides on.
pub(crate) struct Script {
    pub(crate) port: u16,
    pub(crate) sessions: Receiver<Peer>,
    pub(crate) lanes: Receiver<Peer>,
    dot_probes: Receiver<Peer>,
    bulk: Receiver<Peer>,
    quarantine: Receiver<Peer>,
}

/// One connection of the observer, after its CONNECT.
pub(crate) struct Peer {
    pub(crate) wire: Wire,
    pub(crate) client_id: String,
    pub(crate) clean: bool,
}

impl Script {
    pub(crate) fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (session_tx, sessions) = channel();
        let (lane_tx, lanes) = channel();
        let (dot_probe_tx, dot_probes) = channel();
        let (bulk_tx, bulk) = channel();
        let (quarantine_tx, quarantine) = channel();
        let peers = Peers {
            sessions: session_tx,
            lanes: lane_tx,
            dot_probes: dot_probe_tx,
            bulk: bulk_tx,
            quarantine: quarantine_tx,
        };
        std::thread::spawn(move || accept(&listener, &peers));
        Self {
            port,
            sessions,
            lanes,
            dot_probes,
            bulk,
            quarantine,
        }
    }

    pub(crate) fn observer(&self, more: &[&str]) -> Observer {
        let url = format!("mqtt://127.0.0.1:{}", self.port);
        let mut args = vec!["--broker", &url];
        if !more.contains(&"--broker-kind") {
            // With a known kind no connection is made to find out what becomes of a ".".
            args.extend(["--broker-kind", "rabbitmq"]);
        }
        if !more.contains(&"--protocol") {
            args.extend(["--protocol", "3.1.1"]);
        }
        args.extend(["--log-level", ATTEMPTS]);
        args.extend(more);
        let mut observer = Observer::prepare(&args);
        observer.spawn(&[]);
        observer
    }

    pub(crate) fn session(&self) -> Peer {
        self.sessions
            .recv_timeout(PATIENCE)
            .expect("the session does not connect")
    }

    /// Accepts an observer that finds its session: it leaves the session, and takes it up again.
    pub(crate) fn session_kept(&self) -> Peer {
        let mut first = self.session();
        first.connack(true);
        assert_eq!(first.next().0, DISCONNECT);
        drop(first);
        let mut session = self.session();
        session.connack(true);
        session
    }

    pub(crate) fn lane(&self) -> Peer {
        self.lanes
            .recv_timeout(PATIENCE)
            .expect("no publisher connects")
    }

    /// The connection for copies in bulk, which is accepted already.
    pub(crate) fn bulk(&self) -> Peer {
        self.bulk
            .recv_timeout(PATIENCE)
            .expect("no publisher for copies in bulk connects")
    }

    /// The connection for what is never confirmed, which is accepted already.
    pub(crate) fn quarantine(&self) -> Peer {
        self.quarantine
            .recv_timeout(PATIENCE)
            .expect("no publisher for what is in quarantine connects")
    }

    /// The connection that finds out what becomes of a `.`.
    pub(crate) fn dot_probe(&self) -> Peer {
        self.dot_probes
            .recv_timeout(PATIENCE)
            .expect("nobody asks what becomes of a \".\"")
    }

    /// Accepts a session and a publishing connection.
    pub(crate) fn connected(&self) -> (Peer, Peer) {
        let mut session = self.session();
        session.connack(false);
        session.suback();
        let mut lane = self.lane();
        lane.connack(false);
        (session, lane)
    }

    /// The same, and returns the observer's first message to itself.
    pub(crate) fn up(&self) -> (Peer, Peer) {
        let (mut session, mut lane) = self.connected();
        let (first, body) = lane.next();
        let probe = parse_publish(first, &body);
        assert!(
            probe.topic().starts_with("observer/observer/probe/"),
            "{probe:?}"
        );
        lane.confirm(&probe);
        session.echo(&probe.topic, &probe.payload);
        assert_eq!(session.ack(), ECHO);
        (session, lane)
    }
}

/// Where new connections go.
struct Peers {
    sessions: Sender<Peer>,
    lanes: Sender<Peer>,
    dot_probes: Sender<Peer>,
    bulk: Sender<Peer>,
    quarantine: Sender<Peer>,
}

fn accept(listener: &TcpListener, peers: &Peers) {
    for stream in listener.incoming() {
        let mut wire = Wire::new(stream.unwrap());
        let Ok(Some((0x10, body))) = wire.read_packet(PATIENCE) else {
            continue;
        };
        let properties = if body[6] == 5 {
            usize::from(body[10]) + 1
        } else {
            0
        };
        let at = 12 + properties;
        let length = usize::from(u16::from_be_bytes([body[at - 2], body[at - 1]]));
        let client_id = String::from_utf8(body[at..at + length].to_vec()).unwrap();
        let clean = body[7] & 2 != 0;
        let beside = if client_id.ends_with("-pub-many") {
            Some(&peers.bulk)
        } else if client_id.ends_with("-pub-quarantine") {
            Some(&peers.quarantine)
        } else {
            None
        };
        if let Some(beside) = beside {
            // Most tests publish nothing there: these connections are accepted and kept.
            let connack: &[u8] = if body[6] == 5 { &[0, 0, 0] } else { &[0, 0] };
            let _ = wire.send(&packet(CONNACK, connack));
            let _ = beside.send(Peer {
                wire,
                client_id,
                clean,
            });
            continue;
        }
        let to = if client_id.contains("-pub-") {
            &peers.lanes
        } else if client_id.ends_with("-dots") {
            &peers.dot_probes
        } else {
            &peers.sessions
        };
        // The test may be over.
        let _ = to.send(Peer {
            wire,
            client_id,
            clean,
        });
    }
}

impl Peer {
    pub(crate) fn connack(&mut self, session_present: bool) {
        self.wire
            .send(&packet(CONNACK, &[u8::from(session_present), 0]))
            .unwrap();
    }

    pub(crate) fn next(&mut self) -> (u8, Vec<u8>) {
        self.read(PATIENCE)
            .expect("the observer has closed")
            .expect("the observer says nothing")
    }

    /// The next packet within `limit` that is no ping. Pings are answered: once a second the
    /// observer asks whether the broker has its acks.
    pub(crate) fn read(&mut self, limit: Duration) -> io::Result<Option<Packet>> {
        loop {
            match self.wire.read_packet(limit)? {
                // The observer may have closed.
                Some((PINGREQ, _)) => drop(self.wire.send(&packet(PINGRESP, &[]))),
                other => return Ok(other),
            }
        }
    }

    /// Grants what is asked for.
    pub(crate) fn suback(&mut self) {
        let (first, body) = self.next();
        assert_eq!(first, 0x82, "SUBSCRIBE");
        let filters = count_filters(&body[2..]);
        self.wire
            .send(&packet(SUBACK, &[&body[..2], &vec![1; filters]].concat()))
            .unwrap();
    }

    /// Delivers a message.
    pub(crate) fn deliver(&mut self, packet_id: u16, text: &str, dup: bool) {
        self.wire.send(&delivery(packet_id, text, dup)).unwrap();
    }

    /// Delivers a message on any topic.
    pub(crate) fn send(&mut self, packet_id: u16, topic: &str, payload: &[u8]) {
        let packet = publish_packet(topic.as_bytes(), payload, Some(packet_id), false);
        self.wire.send(&packet).unwrap();
    }

    /// Delivers what the observer has published to itself.
    pub(crate) fn echo(&mut self, topic: &[u8], payload: &[u8]) {
        let packet = publish_packet(topic, payload, Some(ECHO), false);
        self.wire.send(&packet).unwrap();
    }

    /// The observer's next publish.
    pub(crate) fn publish(&mut self) -> Message {
        loop {
            let (first, body) = self.next();
            assert_eq!(first & 0xf6, 0x32, "PUBLISH at QoS 1");
            let message = parse_publish(first, &body);
            // The observer probes each new session: the tests look at other messages.
            if !message.topic.starts_with(b"observer/") {
                return message;
            }
            self.confirm(&message);
        }
    }

    pub(crate) fn confirm(&mut self, message: &Message) {
        self.wire
            .send(&packet(PUBACK, &message.packet_id.unwrap().to_be_bytes()))
            .unwrap();
    }

    /// The observer's next ack.
    pub(crate) fn ack(&mut self) -> u16 {
        let (first, body) = self.next();
        assert_eq!(first, PUBACK);
        u16::from_be_bytes([body[0], body[1]])
    }

    pub(crate) fn says_nothing(&mut self) {
        while let Some((first, body)) = self.read(GLIMPSE).unwrap() {
            let is_publish = first & 0xf0 == 0x30;
            let message = is_publish.then(|| parse_publish(first, &body));
            // The observer's own status messages are not looked at.
            let message = message.filter(|message| message.topic.starts_with(b"observer/"));
            let message = message.unwrap_or_else(|| panic!("it says {first:#x} {body:?}"));
            self.confirm(&message);
        }
    }
}

pub(crate) fn count_filters(mut rest: &[u8]) -> usize {
    let mut filters = 0;
    while rest.len() > 2 {
        rest = &rest[2 + usize::from(u16::from_be_bytes([rest[0], rest[1]])) + 1..];
        filters += 1;
    }
    filters
}

/// A message from alice to bob in the inbox layout: one publish for each.
pub(crate) fn delivery(packet_id: u16, text: &str, dup: bool) -> Vec<u8> {
    let mut bytes = publish_packet(
        Path::Inbox.outgoing("a", "alice", "bob").as_bytes(),
        text.as_bytes(),
        Some(packet_id),
        false,
    );
    bytes[0] |= u8::from(dup) << 3;
    bytes
}

pub(crate) fn text(message: &Message) -> &str {
    std::str::from_utf8(&message.payload).unwrap()
}
