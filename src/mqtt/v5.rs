//! MQTT 5, by the crate's version 5 half.
//!
//! Owns the crate's types and errors of this version. Leaves everything both versions share to the
//! files beside it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's long lists of packets, codes and errors are sorted into a few kinds"
)]

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, DisconnectReasonCode, Filter, LastWill, Packet, PubAck,
    PubAckReason, Publish as CratePublish, PublishProperties, RetainForwardRule, SubAck,
    SubscribeReasonCode,
};
use rumqttc::v5::{
    AsyncClient, ClientError, ConnectionError, Event as CrateEvent, EventLoop, MqttOptions,
    StateError,
};

use super::error::{self, Cause, LinkError, Phase, SubmitError};
use super::event::{Connected, Delivery, Event, NetworkEvent, ReasonCode};
use super::options::QUEUE_CAPACITY;
use super::options::{ConnectOptions, MAX_PACKET_BYTES, Protocol, Session};
use super::v4::outgoing_event;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter};

const PROPERTY_NOT_UTF8: &str = "the broker delivers a message with a property that is not \
    UTF-8, which can be acknowledged over MQTT 3.1.1, but not over MQTT 5";

/// Opens a connection. Nothing is sent before [`Network::poll`] is awaited.
pub(super) fn open(options: &ConnectOptions) -> (Sender, Network) {
    let (host, port) = options.address();
    let mut mqtt = MqttOptions::new(options.exposed_client_id(), host, port);
    // Topic aliases are never offered: the crate reports aliased publishes without their topic.
    mqtt.set_transport(options.crate_transport())
        .set_keep_alive(options.keep_alive)
        .set_clean_start(options.session == Session::Clean)
        .set_connection_timeout(options.connect_timeout_secs())
        // CONNECT says this to the broker, which discards larger packets without a word.
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_receive_maximum(Some(options.receive_maximum.max(1)))
        .set_outgoing_inflight_upper_limit(options.packet_ids())
        .set_manual_acks(true);
    if let Session::Persistent(expiry) = options.session {
        // Without it the session ends with the connection, whatever clean start says (MQTT 5,
        // 3.1.2.11.2).
        let seconds = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
        mqtt.set_session_expiry_interval(Some(seconds));
    }
    mqtt.set_network_options(options.network_options());
    if let Some((username, password)) = options.exposed_login() {
        mqtt.set_credentials(username, password);
    }
    if let Some(proxy) = options.crate_proxy() {
        mqtt.set_proxy(proxy);
    }
    if let Some(will) = &options.will {
        let (topic, payload) = (will.topic.as_str(), &will.payload[..]);
        let qos = QoS::AtLeastOnce;
        mqtt.set_last_will(LastWill::new(topic, payload, qos, will.retain, None));
    }
    let (client, events) = AsyncClient::new(mqtt, QUEUE_CAPACITY);
    let network = Network {
        events: Box::new(events),
        phase: Phase::Connecting,
        keep_alive: options.keep_alive,
    };
    (Sender(client), network)
}

/// Hands packets over to be written.
pub(super) struct Sender(AsyncClient);

impl From<ClientError> for SubmitError {
    fn from(_: ClientError) -> Self {
        // The queue is never full, and topics were checked when they were parsed.
        Self::Gone
    }
}

impl Sender {
    pub(super) fn subscribe(&self, filters: &[Subscription]) -> Result<(), SubmitError> {
        // Retained messages on an outgoing path are refused anyway: without them each connection
        // gets fewer deliveries.
        let filters = filters.iter().map(|asked| Filter {
            retain_forward_rule: if asked.retained {
                RetainForwardRule::OnEverySubscribe
            } else {
                RetainForwardRule::Never
            },
            ..Filter::new(asked.filter.as_str().to_owned(), QoS::AtLeastOnce)
        });
        Ok(self.0.try_subscribe_many(filters)?)
    }

    pub(super) fn unsubscribe(&self, filter: &TopicFilter) -> Result<(), SubmitError> {
        Ok(self.0.try_unsubscribe(filter.as_str())?)
    }

    pub(super) fn publish_unconfirmed(&self, publish: &Publish) -> Result<(), SubmitError> {
        let (topic, payload) = (publish.topic.as_str(), publish.payload.clone());
        Ok(self
            .0
            .try_publish(topic, QoS::AtMostOnce, publish.retain, payload)?)
    }

    pub(super) fn publish(&self, publish: &Publish) -> Result<(), SubmitError> {
        let (topic, qos) = (publish.topic.as_str(), QoS::AtLeastOnce);
        let (retain, payload) = (publish.retain, publish.payload.clone());
        if publish.user_properties.is_empty() {
            return Ok(self.0.try_publish(topic, qos, retain, payload)?);
        }
        let properties = PublishProperties {
            user_properties: publish.user_properties.clone(),
            ..PublishProperties::default()
        };
        Ok(self
            .0
            .try_publish_with_properties(topic, qos, retain, payload, properties)?)
    }

    pub(super) fn acknowledge(&self, packet_id: u16) -> Result<(), SubmitError> {
        // The crate reads nothing but the QoS and the packet identifier of it.
        let acknowledged = CratePublish {
            pkid: packet_id,
            qos: QoS::AtLeastOnce,
            ..CratePublish::default()
        };
        Ok(self.0.try_ack(&acknowledged)?)
    }

    pub(super) fn disconnect(&self) -> Result<(), SubmitError> {
        Ok(self.0.try_disconnect()?)
    }
}

/// Reads and writes packets.
pub(super) struct Network {
    events: Box<EventLoop>,
    phase: Phase,
    keep_alive: Duration,
}

impl Network {
    /// The next thing the crate reports. Not cancel-safe.
    pub(super) async fn poll(&mut self) -> Result<NetworkEvent, LinkError> {
        let polled = self.events.poll().await;
        let event = polled.map_err(|error| link_error(error, self.phase))?;
        let event = network_event(event);
        if let NetworkEvent::Event(Event::Connected(_)) = &event {
            self.phase = Phase::Connected;
            self.ignore_keep_alive_of_zero();
        }
        Ok(event)
    }

    /// What was read before an error, and not reported yet.
    pub(super) fn drain(&mut self) -> Vec<NetworkEvent> {
        let buffered = self.events.state.events.drain(..);
        buffered.map(network_event).collect()
    }

    /// The crate takes over the broker's keep alive, and pings without pause if that is 0.
    fn ignore_keep_alive_of_zero(&mut self) {
        if self.events.options.keep_alive().is_zero() {
            self.events.options.set_keep_alive(self.keep_alive);
        }
    }
}

fn network_event(event: CrateEvent) -> NetworkEvent {
    let event = match event {
        CrateEvent::Incoming(Packet::ConnAck(connack)) => Event::Connected(connected(&connack)),
        CrateEvent::Incoming(Packet::Publish(publish)) => Event::Message(Delivery {
            packet_id: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            dup: publish.dup,
            received: Received::new(publish.topic, publish.payload, publish.retain),
        }),
        CrateEvent::Incoming(Packet::PubAck(puback)) => {
            return NetworkEvent::Confirmed(puback.pkid, outcome(&puback));
        }
        CrateEvent::Incoming(Packet::SubAck(suback)) => Event::Subscribed(granted(&suback)),
        CrateEvent::Incoming(_) => Event::Other,
        CrateEvent::Outgoing(outgoing) => return outgoing_event(&outgoing),
    };
    NetworkEvent::Event(event)
}

fn connected(connack: &ConnAck) -> Connected {
    let properties = connack.properties.as_ref();
    let receive_maximum = properties.and_then(|properties| properties.receive_max);
    let expiry = properties.and_then(|properties| properties.session_expiry_interval);
    let keep_alive = properties.and_then(|properties| properties.server_keep_alive);
    Connected {
        protocol: Protocol::V5,
        session_present: connack.session_present,
        receive_maximum: receive_maximum.unwrap_or(u16::MAX).into(),
        max_packet_bytes: properties.and_then(|properties| properties.max_packet_size),
        session_expiry: expiry.map(|seconds| Duration::from_secs(seconds.into())),
        server_keep_alive: keep_alive.map(|seconds| Duration::from_secs(seconds.into())),
    }
}

fn outcome(puback: &PubAck) -> Result<(), ReasonCode> {
    match puback.reason {
        // Nobody subscribes: normal for the inbox of a user who has never connected.
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Ok(()),
        refused @ (PubAckReason::UnspecifiedError
        | PubAckReason::ImplementationSpecificError
        | PubAckReason::NotAuthorized
        | PubAckReason::TopicNameInvalid
        | PubAckReason::PacketIdentifierInUse
        | PubAckReason::QuotaExceeded
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

fn link_error(error: ConnectionError, phase: Phase) -> LinkError {
    use rumqttc::v5::mqttbytes::Error as PacketError;
    match error {
        ConnectionError::ConnectionRefused(code) => {
            error::refused(refusal_cause(code), &format!("{code:?}"))
        }
        ConnectionError::Timeout(_) => error::timed_out(),
        ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
        ) => error::io_error(&error, phase),
        ConnectionError::Tls(error) => error::tls_error(&error),
        ConnectionError::Proxy(error) => error::proxy_error(&error),
        ConnectionError::Websocket(error) => error::websocket_error(&error),
        ConnectionError::MqttState(StateError::ConnectionAborted) => error::closed(phase),
        ConnectionError::MqttState(StateError::AwaitPingResp) => error::no_ping(),
        ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code,
            reason_string,
        }) => disconnected_by_server(reason_code, reason_string),
        ConnectionError::MqttState(StateError::Deserialization(PacketError::TopicNotUtf8)) => {
            LinkError::new(Cause::Undecodable, PROPERTY_NOT_UTF8)
        }
        ConnectionError::NotConnAck(_) => error::not_connack(),
        ConnectionError::ResponseValidation(_) => error::other_websocket(),
        ConnectionError::MqttState(StateError::Deserialization(error)) => {
            error::undecodable(error.to_string(), phase)
        }
        other => LinkError::new(Cause::Other, other.to_string()),
    }
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

fn disconnected_by_server(code: DisconnectReasonCode, reason: Option<String>) -> LinkError {
    use DisconnectReasonCode as Code;
    let cause = match code {
        Code::SessionTakenOver => Cause::TakenOver,
        Code::MaximumConnectTime => Cause::Expired,
        Code::NotAuthorized => Cause::NotAuthorized,
        Code::ServerBusy
        | Code::ServerShuttingDown
        | Code::QuotaExceeded
        | Code::MessageRateTooHigh
        | Code::ConnectionRateExceeded => Cause::Unavailable,
        _ => Cause::Other,
    };
    let reason = reason.map_or_else(String::new, |reason| format!(": {reason}"));
    let number = code as u8;
    let text = format!("the broker disconnected us: {code:?} (0x{number:02x}){reason}");
    LinkError::new(cause, text)
}
