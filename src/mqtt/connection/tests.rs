//! A connection against the other end of a socket.

use bytes::Bytes;
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{advance, sleep};

use super::*;
use crate::auth::secret::Secret;
use crate::mqtt::{Protocol, Session, Transport};
use crate::protocol::publish::Publish;
use crate::protocol::topic::TopicName;

const PATIENCE: Duration = Duration::from_secs(20);

fn options(port: u16, protocol: Protocol) -> ConnectOptions {
    ConnectOptions {
        transport: Transport::Tcp {
            host: "127.0.0.1".to_owned(),
            port,
        },
        proxy: None,
        protocol,
        client_id: Secret::new("tester".to_owned()),
        credentials: None,
        session: Session::Clean,
        keep_alive: Duration::from_secs(60),
        connect_timeout: PATIENCE,
        receive_maximum: 100,
        max_packet_bytes: None,
        will: None,
    }
}

/// A connection, and the broker's end of it.
async fn connected(protocol: Protocol, connack: &[u8]) -> (Result<Opened, LinkError>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = options(listener.local_addr().unwrap().port(), protocol);
    let broker = async {
        let (mut broker, _) = listener.accept().await.unwrap();
        let mut connect = [0; 256];
        assert!(broker.read(&mut connect).await.unwrap() > 12);
        broker.write_all(connack).await.unwrap();
        broker
    };
    tokio::join!(open(&options), broker)
}

fn connack(protocol: Protocol) -> &'static [u8] {
    match protocol {
        Protocol::V311 => b"\x20\x02\x00\x00",
        Protocol::V5 => b"\x20\x03\x00\x00\x00",
    }
}

fn publish(payload: Bytes) -> Publish {
    Publish::new(TopicName::parse("a/b").unwrap(), payload)
}

/// What the connection reports until it ends, and how it ends.
async fn all_events(connection: &mut Connection) -> (Vec<Event>, LinkError) {
    let mut events = vec![];
    loop {
        match timeout(PATIENCE, connection.next()).await.unwrap() {
            Ok(event) => events.push(event),
            Err(error) => return (events, error),
        }
    }
}

/// Packets of every kind that a broker sends, each with what is reported of it. Among them are
/// some that the crate cannot decode.
fn packets(protocol: Protocol) -> Vec<(Vec<u8>, Option<Event>)> {
    let delivered = |topic: &'static [u8], payload: &'static [u8], packet_id| {
        Some(Event::Message(Delivery {
            received: crate::protocol::message::Received::new(
                Bytes::from_static(topic),
                Bytes::from_static(payload),
                false,
            ),
            packet_id,
            dup: false,
        }))
    };
    let confirmed = |token| {
        Some(Event::Confirmed {
            token,
            outcome: Ok(()),
        })
    };
    match protocol {
        Protocol::V311 => vec![
            (
                b"\x32\x09\x00\x03a/b\x00\x07hi".to_vec(),
                delivered(b"a/b", b"hi", Some(7)),
            ),
            (
                b"\x32\x07\x00\x01\xff\x00\x08hi".to_vec(),
                delivered(b"\xff", b"hi", Some(8)),
            ),
            (
                b"\x30\x05\x00\x01ahi".to_vec(),
                delivered(b"a", b"hi", None),
            ),
            (b"\x40\x02\x00\x01".to_vec(), confirmed(10)),
            // Nothing has this packet identifier.
            (b"\x40\x02\x70\x01".to_vec(), None),
            (b"\xd0\x00".to_vec(), None),
        ],
        Protocol::V5 => vec![
            (
                b"\x32\x0a\x00\x03a/b\x00\x07\x00hi".to_vec(),
                delivered(b"a/b", b"hi", Some(7)),
            ),
            (
                b"\x32\x0f\x00\x01\xff\x00\x08\x07\x26\x00\x01\xff\x00\x01vhi".to_vec(),
                delivered(b"\xff", b"hi", Some(8)),
            ),
            // Confirmations: a property that is cut short, and an unknown property.
            (b"\x40\x05\x00\x01\x00\x04\x1f".to_vec(), confirmed(10)),
            (b"\x40\x05\x00\x02\x10\x01\x7f".to_vec(), confirmed(11)),
            (b"\x40\x02\x70\x01".to_vec(), None),
            (b"\xd0\x00".to_vec(), None),
        ],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// However the stream of bytes is cut into pieces, the same packets come out.
    #[test]
    fn pieces_make_no_difference(
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        cuts in prop::collection::vec(1_usize..40, 1..40),
        is_v5 in any::<bool>(),
    ) {
        let protocol = if is_v5 { Protocol::V5 } else { Protocol::V311 };
        let packets = packets(protocol);
        let chosen: Vec<_> = order.iter().map(|at| at.get(&packets).clone()).collect();
        let mut seen = std::collections::HashSet::new();
        // Only the first answer to a publish counts.
        let expected: Vec<_> = chosen
            .iter()
            .filter_map(|(_, event)| event.clone())
            .filter(|event| match event {
                Event::Confirmed { token, .. } => seen.insert(*token),
                Event::Subscribed(_) | Event::Message(_) | Event::Disconnected => true,
            })
            .collect();
        let bytes: Vec<u8> = chosen.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build().unwrap();
        let (events, error) = runtime.block_on(async {
            let (opened, mut broker) = connected(protocol, connack(protocol)).await;
            let Opened { client, mut connection, .. } = opened.unwrap();
            for token in 10..20 {
                client.publish(token, &publish(Bytes::new())).unwrap();
            }
            broker.set_nodelay(true).unwrap();
            let sending = async {
                let mut rest = &bytes[..];
                for cut in cuts.iter().cycle() {
                    let (piece, after) = rest.split_at((*cut).min(rest.len()));
                    broker.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                    rest = after;
                    if rest.is_empty() {
                        break;
                    }
                }
                broker.shutdown().await.unwrap();
            };
            tokio::join!(all_events(&mut connection), sending).0
        });
        prop_assert_eq!(events, expected);
        prop_assert_eq!(error.cause, Cause::Closed);
    }
}

#[tokio::test]
async fn everything_that_waits_leaves_in_one_piece() {
    let protocol = Protocol::V311;
    let (opened, mut broker) = connected(protocol, connack(protocol)).await;
    let opened = opened.unwrap();
    let (client, mut connection) = (opened.client, opened.connection);
    for token in 0..20 {
        client.acknowledge(7).unwrap();
        client.publish(token, &publish(Bytes::new())).unwrap();
    }
    client.disconnect().unwrap();
    assert_eq!(client.acknowledge(8), Err(super::super::SubmitError::Gone));
    assert_eq!(connection.next().await, Ok(Event::Disconnected));
    let mut bytes = vec![0; 4_096];
    let length = broker.read(&mut bytes).await.unwrap();
    assert_eq!(length, 20 * (4 + 9) + 2);
    assert_eq!(bytes[length - 2..length], *b"\xe0\x00");
    drop(broker);
    assert!(connection.close().await);
    assert_eq!(client.disconnect(), Err(super::super::SubmitError::Gone));
}

#[tokio::test]
async fn a_broker_that_does_not_read_stops_no_reading_and_holds_few_bytes() {
    let protocol = Protocol::V311;
    let (opened, mut broker) = connected(protocol, connack(protocol)).await;
    let opened = opened.unwrap();
    let (client, mut connection) = (opened.client, opened.connection);
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    for token in 0..32 {
        client.publish(token, &publish(payload.clone())).unwrap();
    }
    for packet_id in 1..=50_u8 {
        let packet = [0x32, 5, 0, 1, b'a', 0, packet_id];
        broker.write_all(&packet).await.unwrap();
        let event = timeout(PATIENCE, connection.next()).await.unwrap().unwrap();
        assert!(matches!(event, Event::Message(_)), "{event:?}");
    }
    let waits = connection.pump.output.len();
    assert!(
        (1..=MOST_OUTPUT + payload.len() + 16).contains(&waits),
        "{waits}"
    );
    // It reads in the end, and everything is there.
    let mut left = 32 * (1 + 3 + 2 + 3 + 2 + payload.len());
    let mut bytes = vec![0; 1 << 16];
    let reading = async {
        while left > 0 {
            left = left.saturating_sub(broker.read(&mut bytes).await.unwrap());
        }
    };
    tokio::select! {
        event = connection.next() => panic!("{event:?}"),
        () = reading => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_answers_no_ping_is_dead_and_a_slow_reader_is_not_blamed_for_it() {
    let protocol = Protocol::V311;
    let (opened, mut broker) = connected(protocol, connack(protocol)).await;
    let mut connection = opened.unwrap().connection;
    // Nobody reads: the pings go out, and silence says nothing.
    let unread = timeout(Duration::from_secs(600), connection.write_only()).await;
    assert!(unread.is_err());
    let error = connection.next().await.unwrap_err();
    assert_eq!(error, error::no_ping());
    expect_pings(&mut broker, 10).await;
}

/// Reads so many pings.
async fn expect_pings(broker: &mut (impl AsyncRead + Unpin), pings: usize) {
    let mut bytes = vec![0; 2 * pings];
    broker.read_exact(&mut bytes).await.unwrap();
    assert_eq!(bytes, b"\xc0\x00".repeat(pings));
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_is_delivering_is_alive_and_is_pinged_all_the_time() {
    let protocol = Protocol::V311;
    let (opened, mut broker) = connected(protocol, connack(protocol)).await;
    let opened = opened.unwrap();
    let (client, mut connection) = (opened.client, opened.connection);
    let (mut reading, mut writing) = broker.split();
    let delivering = async {
        writing
            .write_all(b"\x30\x83\x80\x08\x00\x01a")
            .await
            .unwrap();
        for _ in 0..61 {
            sleep(Duration::from_secs(10)).await;
            writing.write_all(b"x").await.unwrap();
        }
    };
    tokio::select! {
        event = connection.next() => panic!("{event:?}"),
        () = delivering => {}
    }
    expect_pings(&mut reading, 10).await;
    let pings = client.pings();
    assert_eq!((pings.asked, pings.answered), (10, 0));
    // The rest never comes.
    assert_eq!(connection.next().await, Err(error::no_ping()));
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_always_has_something_does_not_keep_pings_and_acks_from_going_out() {
    let protocol = Protocol::V311;
    let (opened, mut broker) = connected(protocol, connack(protocol)).await;
    let opened = opened.unwrap();
    let (client, mut connection) = (opened.client, opened.connection);
    // More than one read takes, several times.
    let messages = 16;
    let packet = [b"\x30\x83\x80\x01\x00\x01a", &vec![b'x'; 16 << 10][..]].concat();
    broker.write_all(&packet.repeat(messages)).await.unwrap();
    for _ in 0..messages / 2 {
        advance(Duration::from_secs(30)).await;
        client.acknowledge(7).unwrap();
        assert!(matches!(connection.next().await, Ok(Event::Message(_))));
    }
    let mut bytes = vec![0; 4_096];
    let length = broker.try_read(&mut bytes).unwrap();
    let is_ping = |packet: &[u8]| packet == b"\xc0\x00";
    assert!(
        bytes[..length].chunks(2).any(is_ping),
        "{:?}",
        &bytes[..length]
    );
    assert!(bytes[..length].starts_with(b"\x40\x02\x00\x07"));
}

#[tokio::test]
async fn messages_that_come_together_with_connack_are_delivered() {
    let both = b"\x20\x02\x01\x00\x32\x05\x00\x01a\x00\x07";
    let (opened, _broker) = connected(Protocol::V311, both).await;
    let mut connection = opened.unwrap().connection;
    let event = timeout(PATIENCE, connection.next()).await.unwrap();
    assert!(matches!(event, Ok(Event::Message(_))), "{event:?}");
}

#[tokio::test]
async fn a_short_message_behind_a_long_one_does_not_hold_its_memory() {
    for (protocol, properties) in [(Protocol::V311, &b""[..]), (Protocol::V5, b"\0")] {
        let (opened, mut broker) = connected(protocol, connack(protocol)).await;
        let mut connection = opened.unwrap().connection;
        let head = [b"\x30\x83\x80\x08\x00\x01a", properties].concat();
        let long = [&head[..], &vec![b'x'; (128 << 10) - properties.len()]].concat();
        let short = [
            b"\x30",
            &[3 + u8::try_from(properties.len()).unwrap()][..],
            b"\x00\x01b",
            properties,
        ]
        .concat();
        broker.write_all(&[long, short].concat()).await.unwrap();
        let mut messages = vec![];
        for _ in 0..2 {
            let event = timeout(PATIENCE, connection.next()).await.unwrap();
            let Ok(Event::Message(delivery)) = event else {
                panic!("{event:?}");
            };
            messages.push(delivery.received);
        }
        messages[0].topic = Bytes::new();
        assert_eq!(&messages[1].topic[..], b"b");
        assert!(messages[0].payload.is_unique(), "{protocol}");
    }
}

#[tokio::test]
async fn answers_to_connect_are_told_apart() {
    for (protocol, connack, cause) in [
        (
            Protocol::V311,
            &b"\x20\x02\x00\x05"[..],
            Cause::NotAuthorized,
        ),
        // A broker that speaks 3.1.1 alone, in its own form and in that of version 5.
        (Protocol::V5, b"\x20\x02\x00\x01", Cause::ProtocolVersion),
        (
            Protocol::V5,
            b"\x20\x03\x00\x84\x00",
            Cause::ProtocolVersion,
        ),
        (Protocol::V5, b"\x20\x02\x00\x00", Cause::Other),
        (Protocol::V311, b"\x32\x05\x00\x01a\x00\x07", Cause::Other),
    ] {
        let (opened, _broker) = connected(protocol, connack).await;
        assert_eq!(opened.unwrap_err().cause, cause, "{connack:?}");
    }
}

#[tokio::test]
async fn the_reason_of_a_disconnect_counts_in_each_of_its_forms() {
    let protocol = Protocol::V5;
    for (packet, cause) in [
        (&b"\xe0\x01\x8e"[..], Cause::TakenOver),
        (b"\xe0\x02\x8e\x00", Cause::TakenOver),
        (b"\xe0\x02\xfe\x00", Cause::Other),
        (b"\xe0\x00", Cause::Other),
    ] {
        let (opened, mut broker) = connected(protocol, connack(protocol)).await;
        let mut connection = opened.unwrap().connection;
        broker.write_all(packet).await.unwrap();
        let error = connection.next().await.unwrap_err();
        assert_eq!(error.cause, cause, "{error}");
    }
}
