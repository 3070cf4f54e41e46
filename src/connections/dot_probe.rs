//! Finds out whether a `.` in a topic survives at this broker.
//!
//! RabbitMQ turns it into a level break. An identifier with a `.` would then lead into another
//! user's inbox. Owns one short connection of its own: the answer must not wait behind the messages
//! of the session. Leaves what follows from the answer to [`observer`](crate::observer).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;
use tracing::debug;

use super::link::LinkSettings;
use super::probe_client::ProbeClient;
use crate::auth::secret::Secret;
use crate::delivery::backoff::Backoff;
use crate::mqtt::{LinkError, Session};
use crate::protocol::topic::{TopicFilter, TopicName};

/// How long the probe may take to come back.
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before the next attempt: the first, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// The last level of the probe, with the dot in question.
const DOTTED: &str = "a.b";

/// What becomes of a `.` in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dots {
    /// It arrives as it was sent.
    Survive,
    /// It becomes a level break.
    Split,
}

/// Asks the broker until it answers. `topic` is one that the observer may publish and subscribe
/// below. Safe to cancel: nothing remains at the broker.
pub async fn probe_dots(links: LinkSettings, topic: TopicName) -> Dots {
    let links = LinkSettings {
        client_id: Secret::new(format!("{}-dots", links.client_id.expose_secret())),
        will: None,
        ..links
    };
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match ask(links.clone(), &topic).await {
            Ok(dots) => return dots,
            Err(error) => {
                debug!(%error, "it is not known yet whether a \".\" in a topic survives");
                sleep(backoff.next(fastrand::u64(..))).await;
            }
        }
    }
}

async fn ask(links: LinkSettings, topic: &TopicName) -> Result<Dots, LinkError> {
    let below = |last: &str| format!("{topic}/{last}");
    let filter = TopicFilter::parse(&below("#")).expect("a topic and a wildcard");
    let dotted = TopicName::parse(&below(DOTTED)).expect("a topic and a level");
    let mut client = ProbeClient::connect(links, Session::Clean).await?;
    client.subscribe(&[filter]).await?;
    client.publish(dotted.clone(), Bytes::new()).await?;
    let echo = client.message(ECHO_TIMEOUT).await?;
    client.leave().await;
    Ok(match &*echo.topic == dotted.as_str().as_bytes() {
        true => Dots::Survive,
        false => Dots::Split,
    })
}
