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

use crate::http::api::handover::{Handover, Unserved, hand_in};
use crate::protocol::address::Address;
use crate::protocol::message::Received;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic_map::TopicMap;
use crate::rules::submission::{Authority, Submission, Submitted, Task};
use crate::store::reader::KnownClient;
use crate::store::{self, StoreError, StoreLocation, StoreSettings};
use crate::telemetry::clock::Clock;

/// Clients that are read at a time.
const PAGE: usize = 100;
/// The shortest and the longest time between two rounds.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));

/// Ends the presence of clients from time to time, until the future is dropped. There is none if
/// presence is not kept, does not end, or is kept where nobody else can read it.
pub(super) fn look_out(
    settings: Option<&StoreSettings>,
    layouts: &TopicMap,
    handovers: mpsc::Sender<Handover>,
) -> Option<impl Future<Output = Infallible> + use<>> {
    let settings = settings.filter(|settings| settings.location != StoreLocation::Memory)?;
    let (ttl, location) = (settings.presence_ttl?, settings.location.clone());
    let layouts = layouts.reads_presence().then(|| layouts.clone())?;
    Some(async move {
        loop {
            tokio::time::sleep((ttl / 10).clamp(EVERY.0, EVERY.1)).await;
            if let Err(error) = round(&location, ttl, &layouts, &handovers).await {
                debug!(%error, "clients that are gone are looked for later");
            }
        }
    })
}

async fn round(
    location: &StoreLocation,
    ttl: Duration,
    layouts: &TopicMap,
    handovers: &mpsc::Sender<Handover>,
) -> Result<(), StoreError> {
    let before = Clock.now().wall.before(ttl);
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
            let topic = topic_of(&client);
            // That of an app which is served no more would be refused each time.
            if !matches!(layouts.parse(&topic), Ok(Address::Presence { .. })) {
                continue;
            }
            match end(topic, client.since, handovers).await {
                Ok(is_gone) => gone += usize::from(is_gone),
                // It would be the same with the others.
                Err(why) => {
                    warn!(?why, "clients that are gone stay present for now");
                    return Ok(());
                }
            }
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

fn topic_of(client: &KnownClient) -> String {
    let KnownClient {
        app, user, client, ..
    } = client;
    format!("apps/{app}/users/{user}/presence/{client}")
}

/// Says for a client that it is gone, unless it has said since `last_seen` that it is there.
/// Returns whether that is written down.
async fn end(
    topic: String,
    last_seen: UnixMillis,
    handovers: &mpsc::Sender<Handover>,
) -> Result<bool, Unserved> {
    let gone = Submitted {
        received: Received::new(topic.into(), r#"{"disconnected":true}"#.into(), false),
        task: Task::Gone { last_seen },
    };
    let submission = Submission {
        authority: Authority::Admin,
        recipients: 0,
        messages: vec![gone],
    };
    let outcome = hand_in(handovers, submission).await?;
    Ok(outcome.refusal.is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::control_topic::Controls;
    use crate::protocol::id::{AppId, UserId};
    use crate::protocol::layout::Layout;
    use crate::protocol::message_id::MessageIds;
    use crate::rules::write::{UserClient, Write};
    use crate::store::{Access, OfflineDelivery, Origin, Retention};

    fn layouts(controls: Controls) -> TopicMap {
        let layouts = Layout::built_in("chat21").unwrap();
        TopicMap::new(layouts, vec!["a".to_owned()], &[], controls).unwrap()
    }

    /// A store in which clients of some apps have said long ago that they are there.
    fn with_clients(apps: &[&str], path: &std::path::Path) -> StoreLocation {
        let location = StoreLocation::File(path.to_owned());
        let mut store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker).unwrap();
        let mut ids = MessageIds::new(std::hash::RandomState::new());
        store.begin().unwrap();
        for (n, app) in apps.iter().enumerate() {
            let now = UnixMillis::new(1_000 + n as u64);
            let origin = Origin {
                id: ids.next(now),
                fingerprint: None,
                promised: false,
                repeated: false,
                now,
            };
            let (app, user) = (AppId::parse(app).unwrap(), UserId::parse("bob").unwrap());
            let client = UserClient::new(app, user, format!("c{n}"));
            store
                .apply(&Write::ClientConnected(client), &origin)
                .unwrap();
        }
        store.commit().unwrap();
        location
    }

    #[tokio::test]
    async fn only_apps_that_are_served_are_looked_at_and_the_first_failure_ends_a_round() {
        let dir = tempfile::tempdir().unwrap();
        let location = with_clients(&["b", "a", "a"], &dir.path().join("observer.db"));
        let (handovers, mut queue) = mpsc::channel::<Handover>(4);
        let layouts = layouts(Controls::Served);
        let all = async {
            round(&location, Duration::from_secs(1), &layouts, &handovers)
                .await
                .unwrap();
            drop(handovers);
        };
        let asked = async {
            let mut asked = vec![];
            while let Some(mut handover) = queue.recv().await {
                let submission = handover.take_submission();
                let Submitted { received, task } = &submission.messages[0];
                let Task::Gone { last_seen } = task else {
                    panic!("{task:?}")
                };
                let topic = String::from_utf8_lossy(&received.topic).into_owned();
                asked.push((topic, last_seen.as_millis()));
                // It gets no answer: the store fails.
            }
            asked
        };
        let ((), asked) = tokio::join!(all, asked);
        assert_eq!(asked, [("apps/a/users/bob/presence/c1".to_owned(), 1_001)]);
    }

    #[test]
    fn nobody_is_looked_for_where_presence_is_not_kept() {
        let settings = StoreSettings {
            location: StoreLocation::File("observer.db".into()),
            retention: Retention::default(),
            offline: OfflineDelivery::Broker,
            presence_ttl: Some(Duration::from_secs(1)),
            max_backlog: 1 << 20,
        };
        for (controls, looks) in [(Controls::Served, true), (Controls::Off, false)] {
            let (handovers, _queue) = mpsc::channel(1);
            let looking = look_out(Some(&settings), &layouts(controls), handovers);
            assert_eq!(looking.is_some(), looks);
        }
    }
}
