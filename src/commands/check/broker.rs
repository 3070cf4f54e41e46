//! What `check` tries of the broker itself: login, subscriptions, sessions, the window, redelivery
//! and identifiers.

use std::fmt::Write as _;
use std::time::Duration;

use super::report::{Report, Trial};
use super::{GLIMPSE, PATIENCE, connect};
use crate::auth::credentials::Credentials;
use crate::auth::secret::random_id;
use crate::config::{Config, InForce};
use crate::connections::dot_probe::{Dots, ask_dots};
use crate::connections::probe_client::ProbeClient;
use crate::connections::settings::LinkSettings;
use crate::mqtt::{Cause, Connected, LinkError, Session};
use crate::protocol::topic::{TopicFilter, TopicName};

/// Messages sent to see how many the broker sends ahead of their acknowledgements.
const AHEAD: usize = 64;
/// Messages sent to a client that is away: more than Mosquitto and EMQX keep by default (1,000).
const WAITING: usize = 1_200;
/// How brokers refuse a client without a login.
const REFUSALS: [Cause; 3] = [Cause::BadCredentials, Cause::NotAuthorized, Cause::Closed];
/// A session that the broker keeps for the next step, and not much longer.
const KEPT: Session = Session::Persistent(Duration::from_secs(60));

const NOT_KEPT: &str =
    "not kept while away: what is sent while the observer restarts would be lost";
const LIMITS_THROUGHPUT: &str =
    "which limits the throughput (RabbitMQ: mqtt.prefetch; Mosquitto: max_inflight_messages)";
const MAY_DROP: &str = "the broker drops what exceeds its limit for a client that is away \
    (Mosquitto: max_queued_messages 0; EMQX: max_mqueue_len 0)";
const OPEN: &str = "the broker lets clients in without a login: anybody may act as any user \
    (Mosquitto: allow_anonymous false; RabbitMQ: mqtt.allow_anonymous = false)";
const NO_DOTS: &str = "a \".\" in a topic becomes a level break: users with a \".\" in their \
    identifier cannot be addressed on this broker (RabbitMQ)";

pub(super) async fn login_and_subscribe(
    config: &Config,
    links: &LinkSettings,
    report: &mut Report,
) -> Result<(), LinkError> {
    let mut client = connect(links.clone(), Session::Clean).await?;
    report.ok("login", limits(&client.connected));
    let subscriptions = config.rules.router.layouts.filters().into_iter();
    let filters: Vec<TopicFilter> = subscriptions.map(|wanted| wanted.filter).collect();
    for (filter, granted) in filters.iter().zip(client.subscribe(&filters).await?) {
        let name = Trial::one_of("subscribe", filter, "subscriptions granted at QoS 1");
        match granted {
            Ok(1..) => report.ok(name, "granted at QoS 1"),
            Ok(0) => report.failed(name, "granted at QoS 0 only: messages could be lost"),
            Err(reason) => report.failed(name, reason.to_string()),
        }
    }
    client.leave().await;
    Ok(())
}

/// Whether the broker lets in a client without a login.
pub(super) async fn anonymous(config: &Config, report: &mut Report) {
    // The certificate would be shown again: who connects with one is not unknown.
    let certificate = |row: &InForce| row.name == "client-cert" && row.value.is_some();
    if config.in_force.iter().any(certificate) {
        return;
    }
    let links = LinkSettings {
        credentials: Credentials::new(None, None),
        ..config.visitor_links("check-anonymous")
    };
    match ProbeClient::connect(links, Session::Clean).await {
        Ok(client) => {
            client.leave().await;
            report.note("anonymous", OPEN);
        }
        // Brokers refuse it each in their own way.
        Err(error) if REFUSALS.contains(&error.cause) => {
            report.ok("anonymous", "clients without a login are refused");
        }
        Err(error) => report.note("anonymous", format!("not known: {error}")),
    }
}

/// The version of MQTT, and the limits the broker has named.
fn limits(connected: &Connected) -> String {
    let mut text = connected.protocol.to_string();
    if connected.receive_maximum < usize::from(u16::MAX) {
        let count = connected.receive_maximum;
        let _ = write!(text, ", takes {count} publishes at a time");
    }
    if let Some(bytes) = connected.max_packet_bytes {
        let _ = write!(text, ", packets up to {bytes} bytes");
    }
    text
}

/// Whether the broker keeps a session while its client is away.
pub(super) async fn session(links: &LinkSettings, report: &mut Report) -> Result<(), LinkError> {
    let filter = TopicFilter::parse("observer/check/session").expect("a filter");
    let mut first = connect(links.clone(), KEPT).await?;
    first.subscribe(&[filter]).await?;
    first.leave().await;
    let second = connect(links.clone(), links.session).await?;
    let (present, expiry) = (
        second.connected.session_present,
        second.connected.session_expiry,
    );
    second.leave().await;
    discard_session(links).await?;
    match (present, expiry) {
        (true, Some(expiry)) => {
            let expiry = humantime::format_duration(expiry);
            report.ok("session", format!("kept while away, for {expiry} at most"));
        }
        (true, None) => report.ok("session", "kept while away"),
        (false, _) => report.failed("session", NOT_KEPT),
    }
    Ok(())
}

async fn discard_session(links: &LinkSettings) -> Result<(), LinkError> {
    connect(links.clone(), Session::Clean).await?.leave().await;
    Ok(())
}

/// How many messages the broker sends ahead of the acknowledgements, and whether those that were
/// never acknowledged come again.
pub(super) async fn window_and_redelivery(
    config: &Config,
    links: &LinkSettings,
    report: &mut Report,
) -> Result<(), LinkError> {
    // Somebody else may check the same broker at the same time.
    let topic = format!("observer/{}/check/ahead/{}", config.name, random_id());
    let filter = TopicFilter::parse(&topic).expect("a topic name is a filter");
    let name = TopicName::parse(&topic).expect("a name is a topic level");
    let mut reader = connect(links.clone(), KEPT).await?.without_acks();
    reader.subscribe(&[filter]).await?;
    let mut writer = connect(config.visitor_links("check-ahead"), Session::Clean).await?;
    writer.publish_times(&name, AHEAD).await?;
    writer.leave().await;
    let mut sent = 0;
    while sent < AHEAD && reader.delivery(GLIMPSE).await.is_ok() {
        sent += 1;
    }
    // Gone without a disconnect, as after a crash.
    drop(reader);
    if sent == AHEAD {
        report.ok(
            "window",
            format!("sends {AHEAD} messages or more ahead of their acknowledgements"),
        );
    } else {
        report.note(
            "window",
            format!("sends {sent} messages ahead of their acknowledgements, {LIMITS_THROUGHPUT}"),
        );
    }
    redelivery(links, report).await
}

async fn redelivery(links: &LinkSettings, report: &mut Report) -> Result<(), LinkError> {
    let mut reader = connect(links.clone(), KEPT).await?;
    let (mut came, mut marked) = (0, 0);
    // Only a broker that loses messages makes this wait for long.
    while came < AHEAD
        && let Ok(delivery) = reader.delivery(PATIENCE).await
    {
        came += 1;
        marked += usize::from(delivery.dup);
    }
    reader.leave().await;
    discard_session(links).await?;
    let text = format!(
        "{came} of {AHEAD} messages that were not acknowledged come again, \
         {marked} of them marked DUP"
    );
    if came == AHEAD {
        report.ok("redelivery", text);
    } else {
        report.failed("redelivery", format!("{text}: messages can be lost"));
    }
    Ok(())
}

/// Whether the broker keeps many messages for a client that is away.
pub(super) async fn waiting(
    config: &Config,
    links: &LinkSettings,
    report: &mut Report,
) -> Result<(), LinkError> {
    let topic = format!("observer/{}/check/waiting/{}", config.name, random_id());
    let filter = TopicFilter::parse(&topic).expect("a topic name is a filter");
    let name = TopicName::parse(&topic).expect("a name is a topic level");
    let mut reader = connect(links.clone(), KEPT).await?;
    reader.subscribe(&[filter]).await?;
    reader.leave().await;
    let mut writer = connect(config.visitor_links("check-waiting"), Session::Clean).await?;
    writer.publish_times(&name, WAITING).await?;
    writer.leave().await;
    let mut reader = connect(links.clone(), KEPT).await?;
    let mut came = 0;
    while came < WAITING && reader.delivery(GLIMPSE).await.is_ok() {
        came += 1;
    }
    reader.leave().await;
    discard_session(links).await?;
    let text = format!("{came} of {WAITING} messages arrive that were sent to a client while away");
    if came == WAITING {
        report.ok("waiting", text);
    } else {
        report.note("waiting", format!("{text}: {MAY_DROP}"));
    }
    Ok(())
}

/// Whether a `.` in a topic arrives as it was sent.
pub(super) async fn identifiers(config: &Config, links: &LinkSettings, report: &mut Report) {
    const STEP: &str = "identifiers";
    let topic = format!("observer/{}/check", config.name);
    let topic = TopicName::parse(&topic).expect("a name is a topic level");
    match ask_dots(links.clone(), topic, PATIENCE).await {
        Ok(Dots::Survive) => report.ok(STEP, "a \".\" in an identifier arrives as it was sent"),
        Ok(Dots::Split) => report.note(STEP, NO_DOTS),
        Err(error) => {
            report.failed(
                STEP,
                format!("what becomes of a \".\" is not known: {error}"),
            );
        }
    }
}
