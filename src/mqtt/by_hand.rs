//! Packets that the crate does not decode, read as far as we need them.
//!
//! A client may publish a topic or a property that is not UTF-8, and a broker passes it on. Who
//! does not acknowledge such a message gets it again and again. Pure: no I/O.

use bytes::{Buf, Bytes};

use super::event::Delivery;
use super::options::Protocol;
use crate::protocol::message::Received;

/// A packet without its fixed header; `None`, if it is not even that.
fn body(packet: &Bytes) -> Option<Bytes> {
    let mut body = packet.clone();
    body.try_get_u8().ok()?;
    variable_byte_integer(&mut body)?;
    Some(body)
}

fn variable_byte_integer(bytes: &mut Bytes) -> Option<usize> {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = bytes.try_get_u8().ok()?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// A PUBLISH whose topic or properties need not be text. `None`, if it cannot be acknowledged
/// either.
pub(super) fn publish(packet: &Bytes, protocol: Protocol) -> Option<Delivery> {
    let flags = *packet.first()?;
    let mut rest = body(packet)?;
    let topic_bytes = usize::from(rest.try_get_u16().ok()?);
    if topic_bytes > rest.len() {
        return None;
    }
    let topic = rest.split_to(topic_bytes);
    let packet_id = match flags >> 1 & 3 {
        0 => None,
        1 | 2 => Some(rest.try_get_u16().ok().filter(|id| *id != 0)?),
        _ => return None,
    };
    if protocol == Protocol::V5 {
        let property_bytes = variable_byte_integer(&mut rest)?;
        if property_bytes > rest.len() {
            return None;
        }
        rest.advance(property_bytes);
    }
    Some(Delivery {
        received: Received::new(topic, rest, flags & 1 != 0),
        packet_id,
        dup: flags & 8 != 0,
    })
}

/// The packet identifier of an answer, and the reason code after it, if there is one.
pub(super) fn answer(packet: &Bytes) -> Option<(u16, Option<u8>)> {
    let mut rest = body(packet)?;
    let packet_id = rest.try_get_u16().ok()?;
    Some((packet_id, rest.first().copied()))
}

/// The reason code of a DISCONNECT of MQTT 5: that of a normal end, if there is none.
pub(super) fn disconnect_reason(packet: &Bytes) -> Option<u8> {
    Some(body(packet)?.first().copied().unwrap_or_default())
}

/// The return code of a CONNACK in the form of MQTT 3.1.1, with which an older broker answers.
pub(super) fn older_connack(packet: &Bytes) -> Option<u8> {
    let body = body(packet)?;
    (body.len() == 2).then(|| body[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_publish_is_read_whatever_its_texts_hold() {
        let packet = Bytes::from_static(b"\x3b\x08\x00\x02\xff/\x01\x02hi");
        let delivery = publish(&packet, Protocol::V311).unwrap();
        assert_eq!(&delivery.received.topic[..], b"\xff/");
        assert_eq!(&delivery.received.payload[..], b"hi");
        assert_eq!((delivery.packet_id, delivery.dup), (Some(0x102), true));
        assert!(delivery.received.retain);
        // A user property that is not UTF-8.
        let packet =
            Bytes::from_static(b"\x32\x11\x00\x01a\x00\x07\x09\x26\x00\x01\xff\x00\x03\xfe\xfdxhi");
        let delivery = publish(&packet, Protocol::V5).unwrap();
        assert_eq!(&delivery.received.topic[..], b"a");
        assert_eq!(&delivery.received.payload[..], b"hi");
        assert_eq!(delivery.packet_id, Some(7));
    }

    #[test]
    fn what_cannot_be_acknowledged_is_no_publish() {
        for packet in [
            &b"\x32\x03\x00\x09a"[..],
            b"\x32\x05\x00\x01a\x00\x00",
            b"\x36\x05\x00\x01a\x00\x07",
            b"\x32\x04\x00\x01a\x00",
            b"\x32\x01\x00",
        ] {
            assert_eq!(publish(&Bytes::from_static(packet), Protocol::V311), None);
        }
        let beyond = Bytes::from_static(b"\x32\x06\x00\x01a\x00\x07\x09");
        assert_eq!(publish(&beyond, Protocol::V5), None);
    }

    #[test]
    fn answers_are_read_in_each_of_their_forms() {
        let read = |packet: &'static [u8]| answer(&Bytes::from_static(packet));
        assert_eq!(read(b"\x40\x02\x01\x02"), Some((0x102, None)));
        assert_eq!(read(b"\x40\x03\x01\x02\x97"), Some((0x102, Some(0x97))));
        assert_eq!(read(b"\x40\x01\x01"), None);
        let reason = |packet: &'static [u8]| disconnect_reason(&Bytes::from_static(packet));
        assert_eq!(reason(b"\xe0\x00"), Some(0));
        assert_eq!(reason(b"\xe0\x01\x8e"), Some(0x8e));
        let connack = |packet: &'static [u8]| older_connack(&Bytes::from_static(packet));
        assert_eq!(connack(b"\x20\x02\x00\x01"), Some(1));
        assert_eq!(connack(b"\x20\x03\x00\x00\x00"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let packet = Bytes::from(bytes);
            for protocol in [Protocol::V311, Protocol::V5] {
                publish(&packet, protocol);
            }
            answer(&packet);
            disconnect_reason(&packet);
            older_connack(&packet);
        }
    }
}
