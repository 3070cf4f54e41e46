//! The receiving half of a connection, which also does all the writing.
//!
//! Owns the order of things: it reads what the socket has, takes all whole packets off it, and
//! writes all that waits at once. Reading and writing do not wait for each other. Leaves packets
//! and bytes to `pump.rs`, and what an event means to whoever awaits it.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};
use tracing::debug;

use super::client::Client;
use super::codec::{self, Incoming};
use super::error::{self, Cause, LinkError, Phase, Symptom};
use super::event::{Connected, Delivery, Event};
use super::keep_alive::{Reading, TICKS, Verdict};
use super::options::ConnectOptions;
use super::outbox::{Outgoing, PingFor, SharedOutbox};
use super::packet_ids::Purpose;
use super::pump::Pump;
use super::transport;

/// How long the broker may take to close after our DISCONNECT.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Encoded bytes that wait for the socket, from which on packets stay in the outbox.
const MOST_OUTPUT: usize = 64 << 10;

/// A connection that the broker has accepted.
#[derive(Debug)]
pub struct Opened {
    /// Sends.
    pub client: Client,
    /// Receives.
    pub connection: Connection,
    /// What the broker said.
    pub connected: Connected,
}

/// Opens a connection, and waits until the broker accepts it.
///
/// # Errors
/// [`LinkError`], if that does not succeed within the limit of `options`.
pub async fn open(options: &ConnectOptions) -> Result<Opened, LinkError> {
    match timeout(options.connect_timeout, connect(options)).await {
        Ok(opened) => opened,
        Err(_) => Err(error::timed_out()),
    }
}

async fn connect(options: &ConnectOptions) -> Result<Opened, LinkError> {
    let mut pump = Pump::new(transport::open(options).await?, options.protocol);
    codec::connect(options, &mut pump.output)?;
    let first = poll_fn(|cx| pump.poll_packet(cx)).await?;
    let Incoming::ConnAck(connack) = first else {
        return Err(error::not_connack());
    };
    let mut connected = connack?;
    let limits = [connected.max_packet_bytes, options.max_packet_bytes];
    connected.max_packet_bytes = limits.into_iter().flatten().min();
    pump.phase = Phase::Connected;
    let outbox = SharedOutbox::new(connected.receive_maximum);
    let client = Client::new(outbox.clone(), &connected);
    let servers = connected.server_keep_alive.filter(|time| !time.is_zero());
    let keep_alive = servers.map_or(options.keep_alive, |time| time.min(options.keep_alive));
    let mut connection = Connection::new(pump, outbox, keep_alive);
    // Messages may have come together with CONNACK, and nothing may follow until they are
    // acknowledged.
    connection.failure = connection.take_packets().err();
    Ok(Opened {
        client,
        connection,
        connected,
    })
}

/// How far our DISCONNECT has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disconnect {
    NotAsked,
    /// It is among the encoded bytes.
    Encoded,
    /// It has left.
    Sent,
}

/// The receiving half of a connection.
pub struct Connection {
    pump: Pump,
    outbox: SharedOutbox,
    disconnect: Disconnect,
    /// What was read, and is not reported yet.
    events: VecDeque<Event>,
    ticks: Interval,
    failure: Option<LinkError>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.outbox.lock().end();
    }
}

impl Connection {
    fn new(pump: Pump, outbox: SharedOutbox, keep_alive: Duration) -> Self {
        let period = keep_alive / TICKS;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            pump,
            outbox,
            disconnect: Disconnect::NotAsked,
            events: VecDeque::new(),
            ticks,
            failure: None,
        }
    }

    /// The next thing that happens. Must be awaited all the time, because it does all the reading
    /// and writing. Safe to cancel.
    ///
    /// # Errors
    /// Why this connection has ended. Everything that arrived before is returned first.
    pub async fn next(&mut self) -> Result<Event, LinkError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Writes and pings, without reading, until the connection fails. For whoever cannot take
    /// another event yet. Safe to cancel.
    pub async fn write_only(&mut self) -> LinkError {
        poll_fn(|cx| {
            self.poll_write(cx);
            match self.pump.write_failure.clone() {
                Some(failure) => Poll::Ready(failure),
                None => self.poll_tick(cx, Reading::Paused),
            }
        })
        .await
    }

    /// Reads on after our DISCONNECT until the broker closes, for a few seconds at most. Returns
    /// whether it has, and not reset the connection: then it has read everything that was sent.
    ///
    /// The system resets a socket that is closed with unread bytes, and then the broker loses what
    /// it has not read yet, acks among it (seen on Mosquitto under load).
    pub async fn close(self) -> bool {
        self.close_reading(|_| {}).await
    }

    /// The same, and hands out the messages that still come.
    pub async fn close_reading(mut self, mut message: impl FnMut(Delivery)) -> bool {
        let closing = async {
            loop {
                match self.next().await {
                    Ok(Event::Message(delivery)) => message(delivery),
                    Ok(_) => {}
                    Err(error) => {
                        return error.cause == Cause::Closed && error.symptom != Symptom::Reset;
                    }
                }
            }
        };
        // A broker that does not close in time is left behind.
        timeout(CLOSE_TIMEOUT, closing).await.unwrap_or(false)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, LinkError>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(Ok(event));
            }
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.clone()));
            }
            self.poll_write(cx);
            if !self.events.is_empty() {
                continue;
            }
            let read = self.pump.poll_read(cx);
            // Also if there is always something to read. And after reading: silence counts only if
            // there was nothing.
            let dead = self.poll_tick(cx, Reading::On);
            let ended = match read {
                Poll::Ready(Ok(())) => self.take_packets(),
                Poll::Ready(Err(failure)) => Err(failure),
                Poll::Pending => match self.pump.poll_failure() {
                    Poll::Ready(ended) => ended,
                    Poll::Pending if dead.is_pending() => return Poll::Pending,
                    Poll::Pending => Ok(()),
                },
            };
            let ended = ended.and(match dead {
                Poll::Ready(failure) => Err(failure),
                Poll::Pending => Ok(()),
            });
            if let Err(failure) = ended {
                self.outbox.lock().end();
                self.failure = Some(failure);
            }
        }
    }

    /// Encodes what waits in the outbox, and writes, until one of them is empty.
    fn poll_write(&mut self, cx: &mut Context<'_>) {
        loop {
            let is_all = self.encode(cx);
            if self.pump.poll_write(cx).is_pending() || self.pump.write_failure.is_some() {
                return;
            }
            if is_all {
                break;
            }
        }
        if self.disconnect == Disconnect::Encoded {
            self.disconnect = Disconnect::Sent;
            self.events.push_back(Event::Disconnected);
        }
    }

    /// Takes packets from the outbox, as many as may wait in encoded form. Returns whether it is
    /// empty now. Then the next packet that is put in wakes the task.
    fn encode(&mut self, cx: &Context<'_>) -> bool {
        let mut outbox = self.outbox.lock();
        while self.pump.output.len() < MOST_OUTPUT {
            let Some(packet) = outbox.pop() else {
                outbox.wake_on_next(cx);
                return true;
            };
            if packet == Outgoing::Disconnect {
                self.disconnect = Disconnect::Encoded;
            }
            let output = &mut self.pump.output;
            if let Err(failure) = codec::encode(self.pump.protocol, packet, output) {
                self.pump.write_failure = Some(failure);
                return true;
            }
        }
        false
    }

    /// Takes every whole packet off what was read.
    fn take_packets(&mut self) -> Result<(), LinkError> {
        while let Some(packet) = self.pump.decode()? {
            let event = self.handle(packet)?;
            self.events.extend(event);
        }
        Ok(())
    }

    /// The event to report, if there is one.
    fn handle(&mut self, packet: Incoming) -> Result<Option<Event>, LinkError> {
        let known = match packet {
            Incoming::Message(delivery) => Some(Event::Message(delivery)),
            Incoming::Confirmed(packet_id, outcome) => {
                let token = self.outbox.lock().confirmed(packet_id);
                token.map(|token| Event::Confirmed { token, outcome })
            }
            Incoming::Subscribed(packet_id, granted) => {
                let answered = self.outbox.lock().answered(packet_id, Purpose::Subscribe);
                answered.then_some(Event::Subscribed(granted))
            }
            Incoming::Unsubscribed(packet_id) => {
                self.outbox.lock().answered(packet_id, Purpose::Unsubscribe);
                return Ok(None);
            }
            Incoming::Disconnect(reason) => return Err(reason),
            Incoming::PingResp => {
                // Before that, the keep alive's own may be without an answer.
                if self.outbox.lock().ping_answered() {
                    self.pump.keep_alive.answered();
                }
                return Ok(None);
            }
            Incoming::ConnAck(_) | Incoming::Other => return Ok(None),
        };
        if known.is_none() {
            debug!("the broker answered a packet that waits for no answer");
        }
        Ok(known)
    }

    /// Sees to the keep alive. Ready if the broker is dead.
    fn poll_tick(&mut self, cx: &mut Context<'_>, reading: Reading) -> Poll<LinkError> {
        while self.ticks.poll_tick(cx).is_ready() {
            if self.pump.socket.take_received() {
                self.pump.keep_alive.received();
            }
            let waits = !self.pump.output.is_empty() || self.pump.socket.needs_flush();
            match self.pump.keep_alive.tick(waits, reading) {
                Verdict::Fine => {}
                // It is written when the task is polled again.
                Verdict::Ping => self.outbox.lock().ping(PingFor::KeepAlive),
                Verdict::Silent => return Poll::Ready(error::no_ping()),
                Verdict::Deaf => return Poll::Ready(error::not_read()),
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
