//! The live list of messages, as server-sent events.
//!
//! Owns their form and their pace. An event is a line of trace, with the hint of its refusal; the
//! event `lost` says how many lines a reader was too slow for.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::time::Duration;

use futures_util::stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Body;
use crate::protocol::refusal::Refusal;
use crate::telemetry::feed::{Heard, Listener};
use crate::telemetry::trace::Line;

/// The pause after each piece. What comes meanwhile goes out together: a page need not be drawn
/// anew for each of ten thousand messages in a second.
const PAUSE: Duration = Duration::from_millis(100);
/// How often something is said when nothing happens, so that the end of a connection is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// The lines of one piece.
const LINES_OF_A_PIECE: usize = 256;
/// Says when the browser is to come back after the connection has ended, in milliseconds.
const GREETING: &str = "retry: 2000\n\n";

/// What a page is told of a message.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    line: &'a Line,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'static str>,
}

/// A body that goes on until `stop` is cancelled or the reader leaves.
pub(super) fn body(listener: Listener, stop: CancellationToken) -> Body {
    let greeting = Some(Bytes::from_static(GREETING.as_bytes()));
    let pieces = stream::unfold(
        (listener, stop, greeting),
        |(mut listener, stop, greeting)| async move {
            let piece = match greeting {
                Some(greeting) => greeting,
                None => tokio::select! {
                    biased;
                    () = stop.cancelled() => return None,
                    piece = next_piece(&mut listener) => piece?,
                },
            };
            let piece = Ok::<_, Infallible>(Frame::data(piece));
            Some((piece, (listener, stop, None)))
        },
    );
    StreamBody::new(pieces).boxed_unsync()
}

/// What has happened since, or a comment if nothing has for a while.
async fn next_piece(listener: &mut Listener) -> Option<Bytes> {
    let Ok(first) = timeout(HEARTBEAT, listener.next()).await else {
        return Some(Bytes::from_static(b":\n\n"));
    };
    let mut piece = String::new();
    write(&mut piece, &first?);
    sleep(PAUSE).await;
    for _ in 1..LINES_OF_A_PIECE {
        let Some(heard) = listener.try_next() else {
            break;
        };
        write(&mut piece, &heard);
    }
    Some(piece.into())
}

fn write(piece: &mut String, heard: &Heard) {
    // Writing into a text does not fail.
    let _ = match heard {
        Heard::Lost(count) => write!(piece, "event: lost\ndata: {count}\n\n"),
        Heard::Line(line) => {
            let reason = line.reason.as_deref().map(str::parse::<Refusal>);
            let hint = reason.and_then(Result::ok).map(Refusal::hint);
            let text = serde_json::to_string(&Entry { line, hint });
            let text = text.expect("plain fields serialise");
            write!(piece, "data: {text}\n\n")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::feed::Feed;

    async fn text(body: &mut Body) -> Option<String> {
        let frame = body.frame().await?.unwrap();
        let data = frame.into_data().unwrap();
        Some(String::from_utf8(data.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_is_told_what_they_have_lost() {
        let (feed, stop) = (Feed::default(), CancellationToken::new());
        let mut body = body(feed.listen().unwrap(), stop.clone());
        assert_eq!(text(&mut body).await.unwrap(), GREETING);
        assert_eq!(text(&mut body).await.unwrap(), ":\n\n", "a heartbeat");
        let refused = r#"{"at":1,"outcome":"refused","reason":"not-json","kind":"message",
            "topic":"a\nb","publishes":1,"payload_bytes":1,"micros":9}"#;
        let line: Line = serde_json::from_str(refused).unwrap();
        for _ in 0..1_000 {
            feed.send(line.clone());
        }
        let piece = text(&mut body).await.unwrap();
        assert!(
            piece.starts_with("event: lost\ndata: 744\n\ndata: {"),
            "{piece}"
        );
        assert!(
            piece.contains("\"hint\":\"the payload must be a JSON object"),
            "{piece}"
        );
        assert_eq!(piece.matches("data: {").count(), LINES_OF_A_PIECE - 1);
        assert_eq!(text(&mut body).await.unwrap().matches("data: {").count(), 1);
        stop.cancel();
        assert_eq!(text(&mut body).await, None);
        drop(body);
        assert!(!feed.is_watched());
    }
}
