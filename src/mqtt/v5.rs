//! MQTT 5, by the crate's version 5 half.
//!
//! Owns the crate's types and errors of this version. Leaves everything both versions share to the
//! files beside it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's long lists of codes and errors are sorted into a few kinds"
)]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode,
    Filter, FixedHeader, LastWill, Login, PacketType, PingReq, PubAck, PubAckReason,
    Publish as CratePublish, PublishProperties, RetainForwardRule, SubAck, Subscribe,
    SubscribeReasonCode, UnsubAck, Unsubscribe, check,
};
use rumqttc::v5::mqttbytes::{self, QoS};

use super::by_hand;
use super::codec::{Decoded, Incoming};
use super::error::{self, Cause, LinkError, Phase};
use super::event::{Connected, Delivery, ReasonCode};
use super::options::{ConnectOptions, MAX_PACKET_BYTES, Protocol, Session};
use super::outbox::{Message, Outgoing};
use crate::protocol::message::Received;
use crate::protocol::topic::Subscription;

/// The return code of MQTT 3.1.1 for a version that the broker does not speak.
const OLDER_BAD_VERSION: u8 = 1;

/// Writes CONNECT.
pub(super) fn connect(
    options: &ConnectOptions,
    buffer: &mut BytesMut,
) -> Result<(), mqttbytes::Error> {
    let session_expiry_interval = match options.session {
        // Without it the session ends with the connection, whatever clean start says (MQTT 5,
        // 3.1.2.11.2).
        Session::Persistent(expiry) => Some(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX)),
        Session::Clean => None,
    };
    let connect = Connect {
        keep_alive: options.keep_alive_secs(),
        client_id: options.client_id.expose_secret().to_owned(),
        clean_start: options.session == Session::Clean,
        properties: Some(ConnectProperties {
            session_expiry_interval,
            receive_maximum: Some(options.receive_maximum.max(1)),
            // This says to the broker, which discards larger packets without a word. Topic aliases
            // are never offered: a message must name its topic.
            max_packet_size: Some(MAX_PACKET_BYTES),
            ..ConnectProperties::new()
        }),
    };
    let login = options
        .exposed_login()
        .map(|(name, secret)| Login::new(name, secret));
    let will = options.will.as_ref().map(|will| {
        let (topic, payload) = (will.topic.as_str(), &will.payload[..]);
        LastWill::new(topic, payload, QoS::AtLeastOnce, will.retain, None)
    });
    connect.write(&will, &login, buffer)?;
    Ok(())
}

/// Writes a packet.
pub(super) fn encode(packet: Outgoing, buffer: &mut BytesMut) -> Result<(), mqttbytes::Error> {
    match packet {
        Outgoing::Publish { packet_id, message } => publish(packet_id, message).write(buffer),
        Outgoing::Ack(packet_id) => PubAck::new(packet_id, None).write(buffer),
        Outgoing::Subscribe { packet_id, filters } => {
            let filters = filters.into_iter().map(filter);
            let mut subscribe = Subscribe::new_many(filters, None);
            subscribe.pkid = packet_id;
            subscribe.write(buffer)
        }
        Outgoing::Unsubscribe { packet_id, filter } => {
            let mut unsubscribe = Unsubscribe::new(filter.as_str(), None);
            unsubscribe.pkid = packet_id;
            unsubscribe.write(buffer)
        }
        Outgoing::Ping => PingReq::write(buffer),
        Outgoing::Disconnect => {
            Disconnect::new(DisconnectReasonCode::NormalDisconnection).write(buffer)
        }
    }?;
    Ok(())
}

/// Retained messages on an outgoing path are refused anyway: without them each connection gets
/// fewer deliveries.
fn filter(asked: Subscription) -> Filter {
    Filter {
        retain_forward_rule: match asked.retained {
            true => RetainForwardRule::OnEverySubscribe,
            false => RetainForwardRule::Never,
        },
        ..Filter::new(asked.filter.as_str(), QoS::AtLeastOnce)
    }
}

fn publish(packet_id: u16, message: Message) -> CratePublish {
    let properties = (!message.user_properties.is_empty()).then(|| PublishProperties {
        user_properties: message.user_properties,
        ..PublishProperties::default()
    });
    CratePublish {
        dup: false,
        qos: match packet_id {
            0 => QoS::AtMostOnce,
            _ => QoS::AtLeastOnce,
        },
        retain: message.retain,
        topic: Bytes::from(message.topic),
        pkid: packet_id,
        payload: message.payload,
        properties,
    }
}

/// Takes the first packet off `input`, if it is there as a whole.
pub(super) fn decode(input: &mut BytesMut, phase: Phase) -> Result<Decoded, LinkError> {
    let header = match check(input.iter(), Some(MAX_PACKET_BYTES)) {
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
            Err(error) => Incoming::Message(by_hand::publish(&packet, Protocol::V5).ok_or(error)?),
        },
        PacketType::PubAck => confirmed(header, packet)?,
        PacketType::SubAck => {
            let suback = SubAck::read(header, packet)?;
            Incoming::Subscribed(suback.pkid, granted(&suback))
        }
        PacketType::UnsubAck => match UnsubAck::read(header, packet.clone()) {
            Ok(unsuback) => Incoming::Unsubscribed(unsuback.pkid),
            Err(error) => Incoming::Unsubscribed(by_hand::answer(&packet).ok_or(error)?.0),
        },
        PacketType::ConnAck => match ConnAck::read(header, packet.clone()) {
            Ok(connack) => Incoming::ConnAck(connected(&connack)),
            Err(error) => Incoming::ConnAck(Err(older_refusal(&packet).ok_or(error)?)),
        },
        PacketType::Disconnect => disconnected(header, &packet)?,
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
        received: Received::new(publish.topic, publish.payload, publish.retain),
    }
}

/// A confirmation counts, whatever its reason code and properties are.
fn confirmed(header: FixedHeader, packet: Bytes) -> Result<Incoming, mqttbytes::Error> {
    match PubAck::read(header, packet.clone()) {
        Ok(puback) => Ok(Incoming::Confirmed(puback.pkid, outcome(&puback))),
        Err(error) => {
            let (packet_id, code) = by_hand::answer(&packet).ok_or(error)?;
            let outcome = match code {
                Some(code @ 0x80..) => Err(ReasonCode::new(format!("0x{code:02x}"))),
                _ => Ok(()),
            };
            Ok(Incoming::Confirmed(packet_id, outcome))
        }
    }
}

fn connected(connack: &ConnAck) -> Result<Connected, LinkError> {
    let code = connack.code;
    if code != ConnectReturnCode::Success {
        return Err(error::refused(refusal_cause(code), &format!("{code:?}")));
    }
    let properties = connack.properties.as_ref();
    let receive_maximum = properties.and_then(|properties| properties.receive_max);
    let expiry = properties.and_then(|properties| properties.session_expiry_interval);
    let keep_alive = properties.and_then(|properties| properties.server_keep_alive);
    Ok(Connected {
        protocol: Protocol::V5,
        session_present: connack.session_present,
        receive_maximum: receive_maximum.unwrap_or(u16::MAX).into(),
        max_packet_bytes: properties.and_then(|properties| properties.max_packet_size),
        session_expiry: expiry.map(|seconds| Duration::from_secs(seconds.into())),
        server_keep_alive: keep_alive.map(|seconds| Duration::from_secs(seconds.into())),
    })
}

/// A broker that speaks 3.1.1 alone refuses in its own form.
fn older_refusal(packet: &Bytes) -> Option<LinkError> {
    (by_hand::older_connack(packet)? == OLDER_BAD_VERSION)
        .then(|| error::refused(Cause::ProtocolVersion, "code 1"))
}

fn outcome(puback: &PubAck) -> Result<(), ReasonCode> {
    match puback.reason {
        // Nobody subscribes: normal for the inbox of a user who has never connected.
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
        // RabbitMQ 4 says so where a recipient's queue is full and rejects.
        passing @ (PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded) => Err(ReasonCode::passing(format!("{passing:?}"))),
        refused @ (PubAckReason::NotAuthorized
        | PubAckReason::TopicNameInvalid
        | PubAckReason::PayloadFormatInvalid) => Err(ReasonCode::new(format!("{refused:?}"))),
    }
}

fn granted(suback: &SubAck) -> Vec<Result<u8, ReasonCode>> {
    let code = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
        refused => Err(ReasonCode::new(format!("{refused:?}"))),
    };
    suback.return_codes.iter().map(code).collect()
}

fn link_error(error: &mqttbytes::Error, phase: Phase) -> LinkError {
    error::undecodable(error.to_string(), phase)
}

fn refusal_cause(code: ConnectReturnCode) -> Cause {
    use ConnectReturnCode as Code;
    match code {
        Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Cause::ProtocolVersion,
        Code::BadUserNamePassword | Code::BadAuthenticationMethod => Cause::BadCredentials,
        Code::NotAuthorized | Code::Banned => Cause::NotAuthorized,
        Code::BadClientId | Code::ClientIdentifierNotValid => Cause::BadClientId,
        Code::ServiceUnavailable
        | Code::ServerUnavailable
        | Code::ServerBusy
        | Code::QuotaExceeded
        | Code::ConnectionRateExceeded => Cause::Unavailable,
        Code::Success
        | Code::UnspecifiedError
        | Code::MalformedPacket
        | Code::ProtocolError
        | Code::ImplementationSpecificError
        | Code::TopicNameInvalid
        | Code::PacketTooLarge
        | Code::PayloadFormatInvalid
        | Code::RetainNotSupported
        | Code::QoSNotSupported
        | Code::UseAnotherServer
        | Code::ServerMoved => Cause::Other,
    }
}

/// The reason counts in every form that the packet may have.
fn disconnected(header: FixedHeader, packet: &Bytes) -> Result<Incoming, mqttbytes::Error> {
    let (code, reason) = match Disconnect::read(header, packet.clone()) {
        Ok(disconnect) => {
            let reason = disconnect
                .properties
                .and_then(|properties| properties.reason_string);
            (disconnect.reason_code as u8, reason)
        }
        Err(error) => (by_hand::disconnect_reason(packet).ok_or(error)?, None),
    };
    Ok(Incoming::Disconnect(disconnected_by_server(code, reason)))
}

fn disconnected_by_server(code: u8, reason: Option<String>) -> LinkError {
    use DisconnectReasonCode as Code;
    let known = Code::try_from(code).ok();
    let cause = match known {
        Some(Code::SessionTakenOver) => Cause::TakenOver,
        Some(Code::MaximumConnectTime) => Cause::Expired,
        Some(Code::NotAuthorized) => Cause::NotAuthorized,
        Some(
            Code::ServerBusy
            | Code::ServerShuttingDown
            | Code::QuotaExceeded
            | Code::MessageRateTooHigh
            | Code::ConnectionRateExceeded,
        ) => Cause::Unavailable,
        _ => Cause::Other,
    };
    let name = known.map_or_else(|| "unknown reason".to_owned(), |code| format!("{code:?}"));
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let text = format!("the broker disconnected us: {name} (0x{code:02x}){reason}");
    LinkError::new(cause, text)
}
