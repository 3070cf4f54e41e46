//! What `scripts/fuzz` needs to reach the codecs.

use bytes::BytesMut;

use super::codec::{self, Decoded};
use super::error::Phase;
use super::options::Protocol;

/// Takes packets off these bytes, until they are no packets any more. It makes no difference
/// whether they come at once or one by one.
///
/// # Panics
/// It makes a difference, or a packet is missing without an end.
pub fn decode_all(bytes: &[u8]) {
    for protocol in [Protocol::V311, Protocol::V5] {
        let mut all = BytesMut::from(bytes);
        let whole = decode(protocol, &mut all);
        let mut input = BytesMut::new();
        let mut pieces = vec![];
        for byte in bytes {
            input.extend_from_slice(&[*byte]);
            let before = pieces.len();
            pieces.extend(decode(protocol, &mut input));
            if pieces[before..].iter().any(|packet| packet == ENDED) {
                break;
            }
        }
        assert_eq!(whole, pieces, "{protocol:?}");
    }
}

/// The last packet of a connection was none.
const ENDED: &str = "ended";

fn decode(protocol: Protocol, input: &mut BytesMut) -> Vec<String> {
    let mut packets = vec![];
    loop {
        let before = input.len();
        match codec::decode(protocol, input, Phase::Connected) {
            Ok(Decoded::Packet(packet)) => {
                assert!(input.len() < before, "a packet of no bytes");
                packets.push(format!("{packet:?}"));
            }
            Ok(Decoded::Missing(missing)) => {
                assert!(missing > 0 && input.len() == before);
                return packets;
            }
            Err(_) => {
                packets.push(ENDED.to_owned());
                return packets;
            }
        }
    }
}
