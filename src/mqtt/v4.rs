//! MQTT 3.1.1, by the crate's version 4 half.
//!
//! Owns the crate's types and errors of this version. Leaves everything both versions share to the
//! files beside it.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the crate's long lists of packets and errors are sorted into a few kinds"
)]

use bytes::Bytes;
use futures_util::FutureExt;
use rumqttc::{
    AsyncClient, ClientError, ConnectReturnCode, ConnectionError, EventLoop, LastWill, MqttOptions,
    Outgoing, Packet, Publish as CratePublish, QoS, StateError, SubAck, SubscribeFilter,
    SubscribeReasonCode,
};

use super::error::{self, Cause, LinkError, Phase, SubmitError};
use super::event::{Connected, Delivery, Event, NetworkEvent, ReasonCode};
use super::options::QUEUE_CAPACITY;
use super::options::{ConnectOptions, MAX_PACKET_BYTES, Protocol, Session};
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::topic::{Subscription, TopicFilter};

const TOPIC_NOT_UTF8: &str = "the broker delivers a message with a topic that is not UTF-8, \
    which can be acknowledged over MQTT 5, but not over MQTT 3.1.1";

/// Opens a connection. Nothing is sent before [`Network::poll`] is awaited.
pub(super) fn open(options: &ConnectOptions) -> (Sender, Network) {
    let (host, port) = options.address();
    let mut mqtt = MqttOptions::new(options.exposed_client_id(), host, port);
    mqtt.set_transport(options.crate_transport())
        .set_keep_alive(options.keep_alive)
        .set_clean_session(options.session == Session::Clean)
        .set_max_packet_size(MAX_PACKET_BYTES as usize, MAX_PACKET_BYTES as usize)
        .set_inflight(options.packet_ids())
        .set_manual_acks(true);
    if let Some((username, password)) = options.exposed_login() {
        mqtt.set_credentials(username, password);
    }
    if let Some(proxy) = options.crate_proxy() {
        mqtt.set_proxy(proxy);
    }
    if let Some(will) = &options.will {
        let (topic, payload) = (will.topic.as_str(), &will.payload[..]);
        mqtt.set_last_will(LastWill::new(topic, payload, QoS::AtLeastOnce, will.retain));
    }
    let (client, mut events) = AsyncClient::new(mqtt, QUEUE_CAPACITY);
    events.set_network_options(options.network_options());
    let network = Network {
        events: Box::new(events),
        phase: Phase::Connecting,
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
        let filters = filters
            .iter()
            .map(|asked| SubscribeFilter::new(asked.filter.as_str().to_owned(), QoS::AtLeastOnce));
        Ok(self.0.try_subscribe_many(filters)?)
    }

    pub(super) fn unsubscribe(&self, filter: &TopicFilter) -> Result<(), SubmitError> {
        Ok(self.0.try_unsubscribe(filter.as_str())?)
    }

    pub(super) fn publish_unconfirmed(&self, publish: &Publish) -> Result<(), SubmitError> {
        let (topic, payload) = (publish.topic.as_str(), &publish.payload[..]);
        Ok(self
            .0
            .try_publish(topic, QoS::AtMostOnce, publish.retain, payload)?)
    }

    pub(super) fn publish(&self, publish: &Publish) -> Result<(), SubmitError> {
        // The only call that takes the payload without a copy waits while the queue is full, which
        // it never is.
        let topic = publish.topic.as_str();
        let payload = publish.payload.clone();
        self.0
            .publish_bytes(topic, QoS::AtLeastOnce, publish.retain, payload)
            .now_or_never()
            .ok_or(SubmitError::Gone)?
            .map_err(SubmitError::from)
    }

    pub(super) fn acknowledge(&self, packet_id: u16) -> Result<(), SubmitError> {
        // The crate reads nothing but the QoS and the packet identifier of it.
        let acknowledged = CratePublish {
            pkid: packet_id,
            ..CratePublish::from_bytes("", QoS::AtLeastOnce, Bytes::new())
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
}

impl Network {
    /// The next thing the crate reports. Not cancel-safe.
    pub(super) async fn poll(&mut self) -> Result<NetworkEvent, LinkError> {
        let polled = self.events.poll().await;
        let event = polled.map_err(|error| link_error(error, self.phase))?;
        let event = network_event(event);
        if let NetworkEvent::Event(Event::Connected(_)) = &event {
            self.phase = Phase::Connected;
        }
        Ok(event)
    }

    /// What was read before an error, and not reported yet.
    pub(super) fn drain(&mut self) -> Vec<NetworkEvent> {
        let buffered = self.events.state.events.drain(..);
        buffered.map(network_event).collect()
    }
}

fn network_event(event: rumqttc::Event) -> NetworkEvent {
    let event = match event {
        rumqttc::Event::Incoming(Packet::ConnAck(connack)) => Event::Connected(Connected {
            protocol: Protocol::V311,
            session_present: connack.session_present,
            receive_maximum: usize::from(u16::MAX),
            max_packet_bytes: None,
            session_expiry: None,
            server_keep_alive: None,
        }),
        rumqttc::Event::Incoming(Packet::Publish(publish)) => Event::Message(Delivery {
            packet_id: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            dup: publish.dup,
            received: Received::new(Bytes::from(publish.topic), publish.payload, publish.retain),
        }),
        rumqttc::Event::Incoming(Packet::PubAck(puback)) => {
            return NetworkEvent::Confirmed(puback.pkid, Ok(()));
        }
        rumqttc::Event::Incoming(Packet::SubAck(suback)) => Event::Subscribed(granted(&suback)),
        rumqttc::Event::Incoming(_) => Event::Other,
        rumqttc::Event::Outgoing(outgoing) => return outgoing_event(&outgoing),
    };
    NetworkEvent::Event(event)
}

/// What the crate has written. Both of its halves share this type.
pub(super) fn outgoing_event(outgoing: &Outgoing) -> NetworkEvent {
    match outgoing {
        Outgoing::Publish(0) => NetworkEvent::WrittenUnconfirmed,
        Outgoing::Publish(packet_id) => NetworkEvent::Written(*packet_id),
        Outgoing::AwaitAck(packet_id) => NetworkEvent::Parked(*packet_id),
        Outgoing::Disconnect => NetworkEvent::Event(Event::Disconnected),
        Outgoing::Subscribe(_)
        | Outgoing::Unsubscribe(_)
        | Outgoing::PubAck(_)
        | Outgoing::PubRec(_)
        | Outgoing::PubRel(_)
        | Outgoing::PubComp(_)
        | Outgoing::PingReq
        | Outgoing::PingResp => NetworkEvent::Event(Event::Other),
    }
}

fn granted(suback: &SubAck) -> Vec<Result<u8, ReasonCode>> {
    let code = |code: &SubscribeReasonCode| match code {
        SubscribeReasonCode::Success(qos) => Ok(*qos as u8),
        SubscribeReasonCode::Failure => Err(ReasonCode::new("refused (0x80)")),
    };
    suback.return_codes.iter().map(code).collect()
}

fn link_error(error: ConnectionError, phase: Phase) -> LinkError {
    use rumqttc::mqttbytes::Error as PacketError;
    match error {
        ConnectionError::ConnectionRefused(code) => {
            error::refused(refusal_cause(code), &format!("code {}", code as u8))
        }
        ConnectionError::NetworkTimeout => error::timed_out(),
        ConnectionError::FlushTimeout => LinkError::new(
            Cause::TimedOut,
            "the broker does not read what is sent to it",
        ),
        ConnectionError::Io(error)
        | ConnectionError::MqttState(
            StateError::Io(error) | StateError::Deserialization(PacketError::Io(error)),
        ) => error::io_error(&error, phase),
        ConnectionError::Tls(error) => error::tls_error(&error),
        ConnectionError::Proxy(error) => error::proxy_error(&error),
        ConnectionError::Websocket(error) => error::websocket_error(&error),
        ConnectionError::MqttState(StateError::ConnectionAborted) => error::closed(phase),
        ConnectionError::MqttState(StateError::AwaitPingResp) => error::no_ping(),
        ConnectionError::MqttState(StateError::Deserialization(PacketError::TopicNotUtf8)) => {
            LinkError::new(Cause::Undecodable, TOPIC_NOT_UTF8)
        }
        ConnectionError::MqttState(StateError::Deserialization(
            PacketError::InvalidSubscribeReasonCode(code),
        )) => error::filter_refused(code),
        ConnectionError::NotConnAck(_) => error::not_connack(),
        ConnectionError::ResponseValidation(_) => error::other_websocket(),
        ConnectionError::MqttState(StateError::Deserialization(error)) => {
            error::undecodable(error.to_string(), phase)
        }
        other => LinkError::new(Cause::Other, other.to_string()),
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

#[cfg(test)]
mod tests {
    use rumqttc::{Packet, Publish, QoS};

    use super::*;

    #[test]
    fn what_comes_before_connack_is_not_printed() {
        let early = Publish::new("apps/a/users/bob/x", QoS::AtLeastOnce, "hi");
        let error = ConnectionError::NotConnAck(Packet::Publish(early));
        let error = link_error(error, Phase::Connecting);
        assert_eq!(error.text, "the broker sent another packet before CONNACK");
    }
}
