//! Finds out whether a `.` in a topic survives at this broker.
//!
//! RabbitMQ turns it into a level break. An identifier with a `.` would then lead into another
//! user's inbox. Owns one short connection of its own, under the session's client identifier with
//! `-dots` behind it: the answer must not wait behind the messages of the session. Leaves what
//! follows from the answer to [`observer`](crate::observer).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tracing::debug;

use super::probe_client::ProbeClient;
use super::settings::LinkSettings;
use crate::auth::secret::{Secret, random_id};
use crate::delivery::backoff::Backoff;
use crate::mqtt::{Cause, LinkError, Session};
use crate::protocol::topic::{TopicFilter, TopicName};

/// How long the probe may take to come back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause before the next attempt: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Attempts that may fail at a broker that can be reached, before there is no answer.
const ATTEMPTS: u32 = 2;

/// What becomes of a `.` in a topic.
#[derive(Clone, Debug)]
pub enum Dots {
    /// It arrives as it was sent.
    Survive,
    /// It becomes a level break.
    Split,
    /// The broker gives no answer, for this reason.
    Unknown(LinkError),
}

/// Asks the broker. `topic` is one that the observer may publish and subscribe below. Tries for as
/// long as the broker cannot be reached: no message can come from it either. Safe to cancel.
pub async fn probe_dots(links: LinkSettings, topic: TopicName) -> Dots {
    let links = LinkSettings {
        client_id: Secret::new(format!("{}-dots", links.client_id.expose_secret())),
        will: None,
        ..links
    };
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut failures = 0;
    loop {
        let error = match ask(links.clone(), &topic).await {
            Ok(dots) => return dots,
            Err(error) => error,
        };
        debug!(%error, "it is not known yet whether a \".\" in a topic survives");
        // A broker that is busy, or lets this user have no further connection, can be reached.
        failures += u32::from(error.cause != Cause::Unreachable);
        if failures >= ATTEMPTS || error.is_permanent() {
            return Dots::Unknown(error);
        }
        sleep(backoff.next(fastrand::u64(..))).await;
    }
}

async fn ask(links: LinkSettings, topic: &TopicName) -> Result<Dots, LinkError> {
    let [dotted, split] = ["a.b", "a/b"].map(|last| format!("{topic}/{last}"));
    let filters = [&dotted, &split].map(|text| TopicFilter::parse(text).expect("a topic name"));
    let publish = TopicName::parse(&dotted).expect("a topic name");
    let mut client = ProbeClient::connect(links, Session::Clean).await?;
    client.subscribe(&filters).await?;
    // Nobody else's message may pass for the echo.
    let nonce = Bytes::from(random_id());
    client.publish(publish, nonce.clone()).await?;
    let deadline = Instant::now() + ECHO_TIMEOUT;
    let dots = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let echo = client.message(left).await?;
        match &*echo.topic {
            _ if echo.payload != nonce => {}
            topic if topic == dotted.as_bytes() => break Dots::Survive,
            topic if topic == split.as_bytes() => break Dots::Split,
            _ => {}
        }
    };
    // The answer does not wait for the goodbye.
    tokio::spawn(client.leave());
    Ok(dots)
}
