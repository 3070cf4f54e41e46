//! Finds out whether a `.` in a topic survives at this broker.
//!
//! RabbitMQ turns it into a level break. An identifier with a `.` would then lead into another
//! user's inbox. Owns asking, over one short connection under the session's client identifier with
//! `-dots` behind it: the answer must not wait behind the messages of the session. Leaves what
//! follows from the answer to [`observer`](crate::observer) and `check`.

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
/// How long a broker may be out of reach before no further attempt is made. The session did reach
/// it, so it is restarting, or something in between refuses further connections. A message that
/// waits through a longer restart is refused if it names an identifier with a `.`.
const OUT_OF_REACH: Duration = Duration::from_secs(60);

/// What becomes of a `.` in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dots {
    /// It arrives as it was sent.
    Survive,
    /// It becomes a level break.
    Split,
}

/// Asks the broker, more than once if it gives no answer. `topic` is one that the observer may
/// publish and subscribe below. Begins no attempt later than about a minute after the first. Safe
/// to cancel.
///
/// # Errors
/// [`LinkError`] of the last attempt, if the broker gives no answer.
pub async fn probe_dots(links: LinkSettings, topic: TopicName) -> Result<Dots, LinkError> {
    ask_until_answered(|| ask_dots(links.clone(), topic.clone(), ECHO_TIMEOUT)).await
}

async fn ask_until_answered<A: Future<Output = Result<Dots, LinkError>>>(
    mut ask: impl FnMut() -> A,
) -> Result<Dots, LinkError> {
    let give_up_at = Instant::now() + OUT_OF_REACH;
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut failures = 0;
    loop {
        let error = match ask().await {
            Ok(dots) => return Ok(dots),
            Err(error) => error,
        };
        debug!(%error, "it is not known yet whether a \".\" in a topic survives");
        // A broker that is busy, or lets this user have no further connection, can be reached.
        failures += u32::from(error.cause != Cause::Unreachable);
        if failures >= ATTEMPTS || error.is_permanent() || Instant::now() >= give_up_at {
            return Err(error);
        }
        sleep(backoff.next(fastrand::u64(..))).await;
    }
}

/// Asks the broker once. `patience`: how long the message may take to come back. Safe to cancel.
///
/// # Errors
/// [`LinkError`], if the broker gives no answer.
pub async fn ask_dots(
    links: LinkSettings,
    topic: TopicName,
    patience: Duration,
) -> Result<Dots, LinkError> {
    let links = LinkSettings {
        client_id: Secret::new(format!("{}-dots", links.client_id.expose_secret())),
        will: None,
        ..links
    };
    let [dotted, split] = ["a.b", "a/b"].map(|last| format!("{topic}/{last}"));
    let filters = [&dotted, &split].map(|text| TopicFilter::parse(text).expect("a topic name"));
    let publish = TopicName::parse(&dotted).expect("a topic name");
    let mut client = ProbeClient::connect(links, Session::Clean).await?;
    client.subscribe(&filters).await?;
    // Nobody else's message may pass for the echo.
    let nonce = Bytes::from(random_id());
    client.publish(publish, nonce.clone()).await?;
    let deadline = Instant::now() + patience;
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

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    /// What a broker that fails with this says in the end, the attempts it takes, and how long.
    async fn ask_against(cause: Cause) -> (Cause, u32, Duration) {
        let (mut attempts, start) = (0, Instant::now());
        let answer = ask_until_answered(|| {
            attempts += 1;
            ready(Err(LinkError::new(cause, "no")))
        })
        .await;
        (answer.unwrap_err().cause, attempts, start.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_refuses_further_connections_is_asked_twice() {
        for cause in [Cause::Unavailable, Cause::Closed, Cause::TimedOut] {
            let (reported, attempts, _) = ask_against(cause).await;
            assert_eq!((reported, attempts), (cause, 2));
        }
        let (_, attempts, _) = ask_against(Cause::NotAuthorized).await;
        assert_eq!(attempts, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_do_not_wait_for_ever_for_a_broker_out_of_reach() {
        let (_, attempts, took) = ask_against(Cause::Unreachable).await;
        assert!(attempts > 2, "{attempts}");
        assert!(
            took >= OUT_OF_REACH && took <= OUT_OF_REACH + RETRY.1,
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_answer_of_a_broker_that_comes_back_counts() {
        let mut answers = [
            Err(LinkError::new(Cause::Unreachable, "no")),
            Err(LinkError::new(Cause::TimedOut, "no")),
            Ok(Dots::Survive),
        ]
        .into_iter();
        let answer =
            ask_until_answered(|| ready(answers.next().expect("no attempt after the answer")))
                .await;
        assert_eq!(answer.unwrap(), Dots::Survive);
    }
}
