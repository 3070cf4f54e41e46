//! MQTT 3.1.1, by the crate's version 4 half.
//!
//! Owns the crate's types and errors of this version. Leaves everything both versions share to the
//! files beside it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's long lists of codes and errors are sorted into a few kinds"
)]

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Disconnect, LastWill, Login, PingReq, PubAck,
    Publish as CratePublish, SubAck, Subscribe, SubscribeFilter, SubscribeReasonCode, UnsubAck,
    Unsubscribe,
};
use rumqttc::mqttbytes::{self, FixedHeader, PacketType, QoS};

use super::by_hand;
use super::codec::{Decoded, Incoming};
use super::error::{self, Cause, LinkError, Phase};
use super::event::{Connected, Delivery, ReasonCode};
use super::options::{ConnectOptions, MAX_PACKET_BYTES, Protocol, Session};
use super::outbox::{Message, Outgoing};
use crate::protocol::message::Received;

/// Writes CONNECT.
pub(super) fn connect(
    options: &ConnectOptions,
    buffer: &mut BytesMut,
) -> Result<(), mqttbytes::Error> {
    let mut connect = Connect::new(options.client_id.expose_secret());
    connect.keep_alive = options.keep_alive_secs();
    connect.clean_session = options.session == Session::Clean;
    connect.login = options
        .exposed_login()
        .map(|(name, secret)| Login::new(name, secret));
    connect.last_will = options.will.as_ref().map(|will| {
        let (topic, payload) = (will.topic.as_str(), &will.payload[..]);
        LastWill::new(topic, payload, QoS::AtLeastOnce, will.retain)
    });
    connect.write(buffer)?;
    Ok(())
}

/// Writes a packet.
pub(super) fn encode(packet: Outgoing, buffer: &mut BytesMut) -> Result<(), mqttbytes::Error> {
    match packet {
        Outgoing::Publish { packet_id, message } => publish(packet_id, message).write(buffer),
        Outgoing::Ack(packet_id) => PubAck::new(packet_id).write(buffer),
        Outgoing::Subscribe { packet_id, filters } => {
            let filters = filters.into_iter().map(|asked| {
                SubscribeFilter::new(asked.filter.as_str().to_owned(), QoS::AtLeastOnce)
            });
            let mut subscribe = Subscribe::new_many(filters);
            subscribe.pkid = packet_id;
            subscribe.write(buffer)
        }
        Outgoing::Unsubscribe { packet_id, filter } => {
            let mut unsubscribe = Unsubscribe::new(filter.as_str());
            unsubscribe.pkid = packet_id;
            unsubscribe.write(buffer)
        }
        Outgoing::Ping => PingReq.write(buffer),
        Outgoing::Disconnect => Disconnect.write(buffer),
    }?;
    Ok(())
}

/// MQTT 3.1.1 has no user properties.
fn publish(packet_id: u16, message: Message) -> CratePublish {
    let qos = match packet_id {
        0 => QoS::AtMostOnce,
        _ => QoS::AtLeastOnce,
    };
    CratePublish {
        pkid: packet_id,
        retain: message.retain,
        ..CratePublish::from_bytes(message.topic, qos, message.payload)
    }
}

/// Takes the first packet off `input`, if it is there as a whole.
pub(super) fn decode(input: &mut BytesMut, phase: Phase) -> Result<Decoded, LinkError> {
    let header = match mqttbytes::check(input.iter(), MAX_PACKET_BYTES as usize) {
        Ok(header) => header,
        Err(mqttbytes::Error::InsufficientBytes(missing)) => return Ok(Decoded::Missing(missing)),
        Err(error) => return Err(link_error(&error, phase)),
    };
    let packet = input.split_to(header.frame_length()).freeze();
    let incoming = read(header, packet).map_err(|error| link_error(&error, phase))?;
    Ok(Decoded::Packet(incoming))
}

fn read(header: FixedHeader, packet: Bytes) -> Result<Incoming, mqttbytes::Error> {
    Ok(match header.packet_type()? {
        PacketType::Publish => match CratePublish::read(header, packet.clone()) {
            Ok(publish) => Incoming::Message(delivery(publish)),
            Err(error) => {
                Incoming::Message(by_hand::publish(&packet, Protocol::V311).ok_or(error)?)
            }
        },
        PacketType::PubAck => Incoming::Confirmed(PubAck::read(header, packet)?.pkid, Ok(())),
        PacketType::SubAck => {
            let suback = SubAck::read(header, packet)?;
            Incoming::Subscribed(suback.pkid, granted(&suback))
        }
        PacketType::UnsubAck => Incoming::Unsubscribed(UnsubAck::read(header, packet)?.pkid),
        PacketType::ConnAck => Incoming::ConnAck(connected(ConnAck::read(header, packet)?)),
        PacketType::Disconnect => Incoming::Disconnect(error::closed(Phase::Connected)),
        PacketType::PingResp => Incoming::PingResp,
        PacketType::Connect
        | PacketType::PubRec
        | PacketType::PubRel
        | PacketType::PubComp
        | PacketType::Subscribe
        | PacketType::Unsubscribe
        | PacketType::PingReq => Incoming::Other,
    })
}

fn delivery(publish: CratePublish) -> Delivery {
    Delivery {
        packet_id: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
        dup: publish.dup,
        received: Received::new(Bytes::from(publish.topic), publish.payload, publish.retain),
    }
}

fn connected(connack: ConnAck) -> Result<Connected, LinkError> {
    match connack.code {
        ConnectReturnCode::Success => Ok(Connected {
            protocol: Protocol::V311,
            session_present: connack.session_present,
            receive_maximum: usize::from(u16::MAX),
            max_packet_bytes: None,
            session_expiry: None,
            server_keep_alive: None,
        }),
        code => Err(error::refused(
            refusal_cause(code),
            &format!("code {}", code as u8),
        )),
    }
}

fn granted(suback: &SubAck) -> Vec<Result<u8, ReasonCode>> {
    let code = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
        SubscribeReasonCode::Failure => Err(ReasonCode::new("refused (0x80)")),
    };
    suback.return_codes.iter().map(code).collect()
}

fn link_error(error: &mqttbytes::Error, phase: Phase) -> LinkError {
    match error {
        mqttbytes::Error::InvalidSubscribeReasonCode(code) => error::filter_refused(*code),
        other => error::undecodable(other.to_string(), phase),
    }
}

fn refusal_cause(code: ConnectReturnCode) -> Cause {
    match code {
        ConnectReturnCode::RefusedProtocolVersion => Cause::ProtocolVersion,
        ConnectReturnCode::BadUserNamePassword => Cause::BadCredentials,
        ConnectReturnCode::NotAuthorized => Cause::NotAuthorized,
        ConnectReturnCode::BadClientId => Cause::BadClientId,
        ConnectReturnCode::ServiceUnavailable => Cause::Unavailable,
        ConnectReturnCode::Success => Cause::Other,
    }
}
