//! Packets and their bytes, in one form for both versions of MQTT.
//!
//! Owns the choice between `v4.rs` and `v5.rs`. Pure: no I/O.

use bytes::BytesMut;

use super::error::{Cause, LinkError, Phase};
use super::event::{Connected, Delivery, ReasonCode};
use super::options::{ConnectOptions, Protocol};
use super::outbox::Outgoing;
use super::{v4, v5};

/// A packet from the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    ConnAck(Result<Connected, LinkError>),
    Message(Delivery),
    /// The publish with this packet identifier is answered.
    Confirmed(u16, Result<(), ReasonCode>),
    /// The SUBSCRIBE with this packet identifier is answered.
    Subscribed(u16, Vec<Result<u8, ReasonCode>>),
    /// The UNSUBSCRIBE with this packet identifier is answered.
    Unsubscribed(u16),
    /// The broker ends the connection, for this reason.
    Disconnect(LinkError),
    PingResp,
    /// One that we do not use.
    Other,
}

/// What could be taken off the bytes that are there.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    Packet(Incoming),
    /// At least so many bytes are missing.
    Missing(usize),
}

/// Writes CONNECT.
pub(super) fn connect(options: &ConnectOptions, buffer: &mut BytesMut) -> Result<(), LinkError> {
    match options.protocol {
        Protocol::V311 => v4::connect(options, buffer).map_err(|error| not_encodable(&error)),
        Protocol::V5 => v5::connect(options, buffer).map_err(|error| not_encodable(&error)),
    }
}

/// Writes a packet.
pub(super) fn encode(
    protocol: Protocol,
    packet: Outgoing,
    buffer: &mut BytesMut,
) -> Result<(), LinkError> {
    match protocol {
        Protocol::V311 => v4::encode(packet, buffer).map_err(|error| not_encodable(&error)),
        Protocol::V5 => v5::encode(packet, buffer).map_err(|error| not_encodable(&error)),
    }
}

/// Takes the first packet off `input`, if it is there as a whole.
pub(super) fn decode(
    protocol: Protocol,
    input: &mut BytesMut,
    phase: Phase,
) -> Result<Decoded, LinkError> {
    match protocol {
        Protocol::V311 => v4::decode(input, phase),
        Protocol::V5 => v5::decode(input, phase),
    }
}

/// The client checks before, so this is for SUBSCRIBE with more filters than a packet can hold.
fn not_encodable(error: &dyn std::error::Error) -> LinkError {
    LinkError::new(Cause::Other, format!("a packet cannot be written: {error}"))
}
