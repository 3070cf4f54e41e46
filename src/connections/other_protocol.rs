//! Finds out what is spoken on a port that does not answer in MQTT.
//!
//! Owns one question, which many servers answer in their own protocol. Leaves the words for an
//! operator to `words.rs`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// A request that every HTTP server answers: Mosquitto's WebSocket listener does not answer a GET.
/// RabbitMQ answers it with the header of AMQP, and a TLS server with an alert, or in plain HTTP.
const QUESTION: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: broker\r\nConnection: close\r\n\r\n";
/// What some servers say, in plain HTTP, to a plain request on a TLS port.
const TLS_WORDS: [&[u8]; 3] = [b"HTTPS", b"SSL", b"TLS"];

/// A protocol other than MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OtherProtocol {
    Http,
    Tls,
    Amqp,
}

/// Asks once. `None` if there is no answer, or none that tells.
pub(super) async fn ask(host: &str, port: u16) -> Option<OtherProtocol> {
    let answer = timeout(PATIENCE, answer(host, port)).await;
    recognise(&answer.ok()?.ok()?)
}

async fn answer(host: &str, port: u16) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(format!("{host}:{port}")).await?;
    stream.write_all(QUESTION).await?;
    let mut answer = vec![0; 512];
    let mut length = 0;
    // Small answers come in one piece; the first bytes tell enough.
    while length < 8 {
        match stream.read(&mut answer[length..]).await {
            Ok(0) => break,
            Ok(read) => length += read,
            // A server that closes with our question unread resets the connection.
            Err(_) if length > 0 => break,
            Err(error) => return Err(error),
        }
    }
    answer.truncate(length);
    Ok(answer)
}

fn recognise(answer: &[u8]) -> Option<OtherProtocol> {
    let has = |words: &[u8]| answer.windows(words.len()).any(|part| part == words);
    match answer {
        // An alert or a handshake record, of any version.
        [0x15 | 0x16, 0x03, ..] => Some(OtherProtocol::Tls),
        [b'A', b'M', b'Q', b'P', ..] => Some(OtherProtocol::Amqp),
        _ if answer.starts_with(b"HTTP/") => match TLS_WORDS.into_iter().any(has) {
            true => Some(OtherProtocol::Tls),
            false => Some(OtherProtocol::Http),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (answer, protocol) in [
            (
                b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(),
                Some(OtherProtocol::Http),
            ),
            (
                b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.",
                Some(OtherProtocol::Tls),
            ),
            (b"\x15\x03\x01\0\x02\x02\x46", Some(OtherProtocol::Tls)),
            (b"AMQP\0\0\x09\x01", Some(OtherProtocol::Amqp)),
            (b"\x20\x02\0\x04", None),
            (b"", None),
        ] {
            assert_eq!(recognise(answer), protocol, "{answer:?}");
        }
    }
}
