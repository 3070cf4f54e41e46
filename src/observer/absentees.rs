//! Clients that are gone and did not say so.
//!
//! A client's will says that it is gone. A broker that crashes publishes none, so its users would
//! be online for ever, and would not be given what they missed. Owns finding clients that have not
//! said for long that they are there. That they are gone takes the way of every message: webhooks
//! are told, and what is noted of an absence is the same.

use std::convert::Infallible;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tracing::{debug, info, warn};

use crate::http::api::handover::{Handover, hand_in};
use crate::protocol::message::Received;
use crate::protocol::time::UnixMillis;
use crate::rules::submission::{Authority, Submission, Submitted, Task};
use crate::store::reader::KnownClient;
use crate::store::{self, StoreError, StoreLocation, StoreSettings};
use crate::telemetry::clock::Clock;

/// Clients that are read at a time.
const PAGE: usize = 100;
/// The shortest and the longest time between two rounds.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Ends the presence of clients from time to time, until the future is dropped. There is none if
/// their presence does not end, or is kept where nobody else can read it.
pub(super) fn look_out(
    settings: Option<&StoreSettings>,
    handovers: mpsc::Sender<Handover>,
) -> Option<impl Future<Output = Infallible> + use<>> {
    let settings = settings.filter(|settings| settings.location != StoreLocation::Memory)?;
    let (ttl, location) = (settings.presence_ttl?, settings.location.clone());
    Some(async move {
        loop {
            tokio::time::sleep((ttl / 10).clamp(EVERY.0, EVERY.1)).await;
            if let Err(error) = round(&location, ttl, &handovers).await {
                debug!(%error, "clients that are gone are looked for later");
            }
        }
    })
}

async fn round(
    location: &StoreLocation,
    ttl: Duration,
    handovers: &mpsc::Sender<Handover>,
) -> Result<(), StoreError> {
    let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    let before = UnixMillis::new(Clock.now().wall.as_millis().saturating_sub(ttl));
    let (mut after, mut gone) = (UnixMillis::new(0), 0_usize);
    loop {
        let location = location.clone();
        // A connection for a look: rounds are rare.
        let read = move || store::read_only(&location)?.clients_since(after, before, PAGE);
        let clients = match spawn_blocking(read).await {
            Ok(clients) => clients?,
            Err(_) => return Ok(()),
        };
        let is_last = clients.len() < PAGE;
        for client in clients {
            after = client.since;
            gone += usize::from(end(&client, handovers).await);
        }
        if is_last {
            break;
        }
    }
    if gone > 0 {
        info!(
            gone,
            "clients count as gone that have not said for long that they are there"
        );
    }
    Ok(())
}

/// Says for a client that it is gone. Returns whether that is written down.
async fn end(client: &KnownClient, handovers: &mpsc::Sender<Handover>) -> bool {
    let KnownClient {
        app, user, client, ..
    } = client;
    let topic = format!("apps/{app}/users/{user}/presence/{client}");
    let gone = Submitted {
        received: Received::new(topic.into(), r#"{"disconnected":true}"#.into(), false),
        task: Task::Message,
    };
    let submission = Submission {
        authority: Authority::Admin,
        recipients: 0,
        messages: vec![gone],
    };
    match hand_in(handovers, submission).await {
        Ok(outcome) => outcome.refusal.is_none(),
        Err(why) => {
            warn!(?why, "a client that is gone stays present for now");
            false
        }
    }
}
