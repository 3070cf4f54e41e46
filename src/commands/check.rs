//! `check`: connects, and proves step by step that messages would pass.
//!
//! It leaves a running observer alone: it logs in under an identifier of its own, and serves an app of its own.

mod probe;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

pub use self::probe::Probe;
use crate::config::Config;
use crate::connections::link::LinkSettings;
use crate::connections::probe_client::ProbeClient;
use crate::mqtt::{Cause, Connected, LinkError, Session};
use crate::observer::{self, Reporting, Setup};
use crate::protocol::layout::{Address, Controls, Layout, TopicMap};
use crate::protocol::topic::{TopicFilter, TopicName};
use crate::rules::router::Router;
use crate::store::{Store, StoreLocation, StoreSettings};

/// How long a message may take there and back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for something that may not come.
const GLIMPSE: Duration = Duration::from_millis(700);

/// Messages sent to see how many the broker sends ahead.
const AHEAD: usize = 64;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Works, but should be known.
    Note,
    /// Messages would not pass.
    Failed,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was tried.
    pub step: String,
    /// How it went.
    pub outcome: Outcome,
    /// What was seen.
    pub detail: String,
}

fn step(name: impl Into<String>, outcome: Outcome, detail: impl Into<String>) -> Step {
    Step {
        step: name.into(),
        outcome,
        detail: detail.into(),
    }
}

/// Tries everything, in order; stops where going on makes no sense.
///
/// With a `probe`, also what an ordinary user can reach.
pub async fn run(config: &Config, probe: Option<&Probe>) -> Vec<Step> {
    let mut steps: Vec<Step> = config
        .warnings
        .iter()
        .map(|warning| step("settings", Outcome::Note, warning))
        .collect();
    steps.push(clock(config));
    steps.push(store(config));
    if let Err(error) = Box::pin(try_all(config, probe, &mut steps)).await {
        steps.push(step("stopped here", Outcome::Failed, error.to_string()));
    }
    steps
}

/// The steps as a table for people.
pub fn table(config: &Config, steps: &[Step]) -> String {
    let width = steps
        .iter()
        .map(|step| step.step.chars().count())
        .max()
        .unwrap_or(0);
    let mut out = format!("{}\n", config.broker);
    for step in steps {
        let mark = match step.outcome {
            Outcome::Ok => "ok    ",
            Outcome::Note => "note  ",
            Outcome::Failed => "FAILED",
        };
        let _ = writeln!(out, "{mark} {:width$}  {}", step.step, step.detail);
    }
    let failed = steps
        .iter()
        .filter(|step| step.outcome == Outcome::Failed)
        .count();
    let _ = write!(
        out,
        "{}",
        if failed == 0 {
            "messages pass".to_owned()
        } else {
            format!(
                "{failed} of {} failed: messages would not pass",
                steps.len()
            )
        }
    );
    out
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: the clock is what is checked"
)]
fn clock(config: &Config) -> Step {
    let now = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
    match (
        config.credentials().token_expired(),
        config.credentials().token_remaining(),
    ) {
        (Some(expired), _) => step("clock", Outcome::Failed, format!("{now}: {expired}")),
        (None, Some(left)) => step(
            "clock",
            Outcome::Ok,
            format!(
                "{now}, the token ends in {}",
                humantime::format_duration(left)
            ),
        ),
        (None, None) => step("clock", Outcome::Ok, now.to_string()),
    }
}

/// Whether the store can be written to: the one there is, or its place.
fn store(config: &Config) -> Step {
    let Some(StoreLocation::File(path)) = config.store.as_ref().map(|settings| &settings.place)
    else {
        return step(
            "store",
            Outcome::Note,
            "none: direct messages pass, and little else",
        );
    };
    if !path.exists() {
        let dir = path.ancestors().skip(1).find(|dir| dir.is_dir());
        let said = format!("{} is not there yet: the observer makes it", path.display());
        let writable = dir.is_some_and(|dir| tempfile_in(dir).is_ok());
        return match dir {
            Some(_) if writable => step("store", Outcome::Ok, said),
            _ => step(
                "store",
                Outcome::Failed,
                format!("{} cannot be made there", path.display()),
            ),
        };
    }
    let tried = Store::open_shared(path).and_then(|mut store| {
        store.try_write()?;
        store.stats(path)
    });
    match tried {
        Ok(stats) => step(
            "store",
            Outcome::Ok,
            format!(
                "{} can be written to, and holds {} messages",
                path.display(),
                stats.messages
            ),
        ),
        Err(error) => {
            let cause = std::error::Error::source(&error);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            step(
                "store",
                Outcome::Failed,
                format!("{}: {error}{cause}", path.display()),
            )
        }
    }
}

/// Makes a file there, and removes it.
fn tempfile_in(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(format!(".chat21-observer-check-{}", std::process::id()));
    std::fs::write(&path, "")?;
    std::fs::remove_file(&path)
}

async fn try_all(
    config: &Config,
    probe: Option<&Probe>,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let links = config.visitor_links("check");
    let mut visitor = enter(links.clone(), Session::Clean).await?;
    steps.push(step("login", Outcome::Ok, said(&visitor.connected)));
    subscribe(config, &mut visitor, steps).await?;
    visitor.leave().await;
    persist(&links, steps).await?;
    Box::pin(round_trip(config, &links, steps)).await?;
    carries(config, &links, steps).await?;
    Box::pin(ahead(config, &links, steps)).await?;
    match probe {
        Some(probe) => Box::pin(probe::run(config, probe, steps)).await,
        None => {
            steps.push(step(
                "probe",
                Outcome::Note,
                "what ordinary users can reach was not tried: give one's credentials (--probe-token-file, or --probe-user and --probe-password-file)",
            ));
            Ok(())
        }
    }
}

fn said(connected: &Connected) -> String {
    let mut said = connected.protocol.to_string();
    if connected.receive_maximum < usize::from(u16::MAX) {
        let _ = write!(
            said,
            ", takes {} publishes at a time",
            connected.receive_maximum
        );
    }
    if let Some(bytes) = connected.max_packet_bytes {
        let _ = write!(said, ", packets up to {bytes} bytes");
    }
    said
}

async fn subscribe(
    config: &Config,
    visitor: &mut ProbeClient,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let filters: Vec<TopicFilter> = config
        .router
        .layouts
        .filters()
        .into_iter()
        .map(|subscription| subscription.filter)
        .collect();
    for (filter, granted) in filters.iter().zip(visitor.subscribe(&filters).await?) {
        steps.push(match granted {
            Ok(1..) => step(
                format!("subscribe {filter}"),
                Outcome::Ok,
                "granted at QoS 1",
            ),
            Ok(0) => step(
                format!("subscribe {filter}"),
                Outcome::Failed,
                "granted at QoS 0 only: messages could be lost",
            ),
            Err(reason) => step(format!("subscribe {filter}"), Outcome::Failed, reason),
        });
    }
    Ok(())
}

/// Connects; tries again once where the broker closes at first, as RabbitMQ 3.10 does while it still clears up the last visit.
async fn enter(links: LinkSettings, session: Session) -> Result<ProbeClient, LinkError> {
    match ProbeClient::connect(links.clone(), session).await {
        Err(error) if error.cause == Cause::Closed => {
            tokio::time::sleep(GLIMPSE).await;
            ProbeClient::connect(links, session).await
        }
        visitor => visitor,
    }
}

/// Whether the broker keeps a session while its client is away.
async fn persist(links: &LinkSettings, steps: &mut Vec<Step>) -> Result<(), LinkError> {
    let filter = TopicFilter::parse("observer/check/session").expect("a filter");
    let mut first = enter(links.clone(), Session::Persistent(Duration::from_secs(60))).await?;
    first.subscribe(&[filter]).await?;
    first.leave().await;
    let second = enter(links.clone(), links.session).await?;
    let (present, expiry) = (
        second.connected.session_present,
        second.connected.session_expiry,
    );
    second.leave().await;
    // And it is not to keep this one.
    enter(links.clone(), Session::Clean).await?.leave().await;
    steps.push(if present {
        let kept = expiry
            .map(|expiry| format!(", for {} at most", humantime::format_duration(expiry)))
            .unwrap_or_default();
        step("session", Outcome::Ok, format!("kept while away{kept}"))
    } else {
        step(
            "session",
            Outcome::Failed,
            "not kept while away: what is sent while the observer restarts would be lost",
        )
    });
    Ok(())
}

/// How many messages the broker sends ahead of the acknowledgements, and what it does with those that were never acknowledged.
async fn ahead(
    config: &Config,
    links: &LinkSettings,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let topic = format!("observer/{}/check/ahead", config.name);
    let filter = TopicFilter::parse(&topic).expect("a topic name is a filter");
    let name = TopicName::parse(&topic).expect("a name is a topic level");
    let kept = Session::Persistent(Duration::from_secs(60));
    let mut reader = enter(links.clone(), kept).await?.without_acks();
    reader.subscribe(&[filter]).await?;
    let mut writer = enter(config.visitor_links("check-ahead"), Session::Clean).await?;
    for _ in 0..AHEAD {
        writer.publish(name.clone(), Bytes::new()).await?;
    }
    writer.leave().await;
    let mut sent = 0;
    while sent < AHEAD && reader.delivery(GLIMPSE).await.is_ok() {
        sent += 1;
    }
    steps.push(if sent == AHEAD {
        step(
            "window",
            Outcome::Ok,
            format!("sends {AHEAD} messages or more ahead of their acknowledgements"),
        )
    } else {
        step(
            "window",
            Outcome::Note,
            format!("sends {sent} messages ahead of their acknowledgements, which limits the throughput (RabbitMQ: mqtt.prefetch; Mosquitto: max_inflight_messages)"),
        )
    });
    // Gone without a word, as after a crash.
    drop(reader);
    let mut again = enter(links.clone(), kept).await?;
    let (mut came, mut marked) = (0, 0);
    while came < AHEAD
        && let Ok(delivery) = again.delivery(GLIMPSE).await
    {
        came += 1;
        marked += usize::from(delivery.dup);
    }
    again.leave().await;
    enter(links.clone(), Session::Clean).await?.leave().await;
    let said = format!(
        "{came} of {AHEAD} messages that were not acknowledged come again, {marked} of them marked DUP"
    );
    steps.push(if came == AHEAD {
        step("redelivery", Outcome::Ok, said)
    } else {
        step(
            "redelivery",
            Outcome::Failed,
            format!("{said}: messages can be lost"),
        )
    });
    Ok(())
}

/// An observer of our own, for an app of our own, and a user who writes to another.
async fn round_trip(
    config: &Config,
    links: &LinkSettings,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let app = format!(
        "check-{}",
        links
            .client_id
            .reveal()
            .rsplit('-')
            .next()
            .unwrap_or_default()
            .get(..8)
            .unwrap_or_default()
    );
    // One that serves a single app cannot be tried without its users' messages.
    let (fixed, layouts): (Vec<Layout>, Vec<Layout>) = config
        .router
        .layouts
        .iter()
        .cloned()
        .partition(|layout| layout.fixed_app().is_some());
    for layout in fixed {
        steps.push(step(
            format!("round trip {}", layout.outgoing()),
            Outcome::Note,
            "not tried: its paths belong to one app, and its users may be writing",
        ));
    }
    if layouts.is_empty() {
        return Ok(());
    }
    let controls = config.controls;
    let router = Router {
        layouts: TopicMap::new(layouts.clone(), vec![app.clone()], &[], controls)
            .expect("proven before, for every app"),
        dead_letter_topic: None,
        ..config.router.clone()
    };
    let setup = Setup {
        name: config.name.clone(),
        links: LinkSettings {
            session: Session::Clean,
            ..config.visitor_links("check-observer")
        },
        router: router.clone(),
        policy: watch::channel(router.policy.clone()).1,
        consult: None,
        // What is tried leaves nothing behind.
        store: config.store.clone().map(|settings| StoreSettings {
            place: StoreLocation::Memory,
            ..settings
        }),
        publishers: 1,
        ack_timeout: PATIENCE,
        drain_timeout: Duration::from_secs(1),
        reset_session: false,
        http_listen: None,
        webhooks: None,
        reporting: Reporting::default(),
    };
    let stop = CancellationToken::new();
    let (ready_tx, ready_rx) = oneshot::channel();
    let visit = async {
        // Without it the observer would try for ever.
        if !matches!(tokio::time::timeout(PATIENCE, ready_rx).await, Ok(Ok(_))) {
            return Err(LinkError::new(
                Cause::TimedOut,
                "what an observer sends to itself does not come back (a broker may grant a subscription and deliver nothing): may this user read and write everything, observer/# too?",
            ));
        }
        let mut user = enter(links.clone(), Session::Clean).await?;
        for layout in &layouts {
            one_round_trip(&router, layout, &app, &mut user, steps).await?;
        }
        if controls != Controls::Off {
            receipt_and_fetch(&app, &mut user, steps).await?;
        }
        user.leave().await;
        Ok(())
    };
    let observing = observer::run(setup, stop.clone(), ready_tx);
    let (_, visited) = tokio::join!(observing, async {
        let visited = visit.await;
        stop.cancel();
        visited
    });
    visited
}

async fn one_round_trip(
    router: &Router,
    layout: &Layout,
    app: &str,
    user: &mut ProbeClient,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let outgoing = layout
        .outgoing()
        .as_str()
        .replace("{app}", app)
        .replace("{sender}", "check-a")
        .replace("{recipient}", "check-b");
    let name = format!("round trip {outgoing}");
    let address = match router.layouts.parse(&outgoing) {
        Ok(Address::Outgoing(outgoing)) => outgoing,
        other => {
            steps.push(step(name, Outcome::Failed, format!("read as {other:?}")));
            return Ok(());
        }
    };
    let inbox = layout.inbox_topic(address.app, address.recipient, address.sender);
    let filter = TopicFilter::parse(inbox.as_str()).expect("a topic name is a filter");
    user.subscribe(&[filter]).await?;
    let sent = tokio::time::Instant::now();
    let topic = TopicName::parse(&outgoing).expect("it was parsed as a topic");
    user.publish(topic, Bytes::from_static(br#"{"text":"check"}"#))
        .await?;
    steps.push(match user.message(PATIENCE).await {
        Ok(received) if received.topic == inbox.as_str() => {
            let took = sent.elapsed();
            match user.message(GLIMPSE).await {
                Err(_) => step(name, Outcome::Ok, format!("arrived in {inbox} after {took:.1?}")),
                Ok(_) => step(name, Outcome::Note, format!("arrived in {inbox} after {took:.1?}, and again: another observer serves this broker")),
            }
        }
        Ok(received) => step(name, Outcome::Failed, format!("arrived on {:?} instead of {inbox}", String::from_utf8_lossy(&received.topic))),
        Err(error) => step(name, Outcome::Failed, format!("did not arrive in {inbox}: {error}")),
    });
    Ok(())
}

/// A receipt for a message that a service has put into an inbox, and a fetch of it: what the store is for.
async fn receipt_and_fetch(
    app: &str,
    user: &mut ProbeClient,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let own = |path: &str| format!("apps/{app}/users/{path}");
    let delivered = format!("apps/observer/{app}/users/check-c/messages/check-d/delivered");
    let message = r#"{"message_id":"check","sender":"check-d","text":"check","status":150}"#;
    for (publish, payload, answer) in [
        (
            delivered,
            message,
            own("check-c/messages/check-d/clientadded"),
        ),
        (
            own("check-c/messages/check-d/check/update"),
            r#"{"status":200}"#,
            own("check-d/messages/check-c/check/clientupdated"),
        ),
        (
            own("check-c/inbox/fetch"),
            "{}",
            own("check-c/inbox/clientupdated"),
        ),
    ] {
        let name = format!("round trip {publish}");
        user.subscribe(&[TopicFilter::parse(&answer).expect("a topic name is a filter")])
            .await?;
        let topic = TopicName::parse(&publish).expect("made of levels");
        user.publish(topic, Bytes::from_static(payload.as_bytes()))
            .await?;
        // A fetch brings the message itself first.
        let arrived = loop {
            match user.message(PATIENCE).await {
                Ok(received) if received.topic == answer.as_str() => break Ok(()),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        steps.push(match arrived {
            Ok(()) => step(name, Outcome::Ok, format!("answered on {answer}")),
            Err(error) => step(
                name,
                Outcome::Failed,
                format!("not answered on {answer}: {error}"),
            ),
        });
    }
    Ok(())
}

/// What becomes of topics with `.` in them.
async fn carries(
    config: &Config,
    links: &LinkSettings,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    let mut visitor = enter(links.clone(), Session::Clean).await?;
    let root = format!("observer/{}/check", config.name);
    visitor
        .subscribe(&[TopicFilter::parse(&format!("{root}/#")).expect("a filter")])
        .await?;
    let sent = format!("{root}/john.doe");
    visitor
        .publish(TopicName::parse(&sent).expect("a topic"), Bytes::new())
        .await?;
    let arrived = visitor
        .message(PATIENCE)
        .await
        .map(|received| String::from_utf8_lossy(&received.topic).into_owned());
    visitor.leave().await;
    steps.push(match arrived {
        Ok(topic) if topic == sent => step("identifiers", Outcome::Ok, "a \".\" in an identifier arrives as it was sent"),
        Ok(topic) => step(
            "identifiers",
            Outcome::Note,
            format!("{sent:?} arrives as {topic:?}: users with a \".\" in their identifier cannot be addressed on this broker (RabbitMQ)"),
        ),
        Err(error) => step("identifiers", Outcome::Failed, format!("{sent:?} did not come back: {error}")),
    });
    Ok(())
}
