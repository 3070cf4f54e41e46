//! What `check` tries of the broker itself: login, subscriptions, sessions, the window, redelivery
//! and identifiers.

use std::fmt::Write as _;
use std::time::Duration;

use tokio::time::Instant;

use super::report::{Report, Trial};
use super::{GLIMPSE, PATIENCE, WAIT, connect};
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
/// How long a broker may wait before it delivers again what was not acknowledged: NATS 30 s.
const LATE: Duration = Duration::from_secs(35);
/// After that long newer messages have come before.
const GIVEN_OUT_LATE: Duration = Duration::from_secs(3);
/// How brokers refuse a client without a login.
const REFUSALS: [Cause; 3] = [Cause::BadCredentials, Cause::NotAuthorized, Cause::Closed];
/// A session that the broker keeps for the next step, and not much longer.
const KEPT: Session = Session::Persistent(Duration::from_secs(60));

const NOT_KEPT: &str =
    "not kept while away: what is sent while the observer restarts would be lost";
const NOTHING_KEPT: &str = "the broker says that it keeps the session while away, and what was \
    sent meanwhile does not arrive: it would be lost";
const UNSAID: &str = "kept while away, although the broker says that it is not (ActiveMQ does so): \
    the observer warns of a lost session at each start";
const LIMITS_THROUGHPUT: &str =
    "which limits the throughput (RabbitMQ: mqtt.prefetch; Mosquitto: max_inflight_messages)";
const BEHIND: &str = "behind newer ones, so order is not kept after a crash (NATS: ack_wait)";
const NO_DUP: &str = "after a kill of the observer they are forwarded under another message_id";
const MAY_DROP: &str = "the broker drops what exceeds its limit for a client that is away \
    (Mosquitto: max_queued_messages 0; EMQX: max_mqueue_len 0)";
const OPEN: &str = "the broker lets clients in without a login: anybody may act as any user \
    (Mosquitto: allow_anonymous false; RabbitMQ: mqtt.allow_anonymous = false)";
const SPLIT_REFUSED: &str = "it catches identifiers split at a \".\", which RabbitMQ alone does";
const NO_DOTS: &str = "a \".\" in a topic becomes a level break: users with a \".\" in their \
    identifier cannot be addressed on this broker (RabbitMQ)";

/// Returns whether every subscription was granted at QoS 1.
pub(super) async fn login_and_subscribe(
    config: &Config,
    links: &LinkSettings,
    report: &mut Report,
) -> Result<bool, LinkError> {
    let mut all_granted = true;
    let mut client = connect(links.clone(), Session::Clean).await?;
    report.ok("login", limits(&client.connected));
    let wanted = config.rules.router.layouts.filters();
    let filters: Vec<TopicFilter> = wanted.iter().map(|one| one.filter.clone()).collect();
    for (wanted, granted) in wanted.iter().zip(client.subscribe(&filters).await?) {
        let is_granted = matches!(granted, Ok(1..));
        all_granted &= is_granted || wanted.is_optional;
        let filter = &wanted.filter;
        let name = Trial::one_of("subscribe", filter, "subscriptions granted at QoS 1");
        match granted {
            Ok(1..) => report.ok(name, "granted at QoS 1"),
            Ok(_) | Err(_) if wanted.is_optional => {
                report.note("subscribe", format!("{filter} is refused: {SPLIT_REFUSED}"));
            }
            Ok(0) => report.failed(name, "granted at QoS 0 only: messages could be lost"),
            Err(reason) => report.failed(name, reason.to_string()),
        }
    }
    client.leave().await;
    Ok(all_granted)
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

/// Whether the broker keeps a session, and what is sent to it, while its client is away: what it
/// says of that is not always what it does.
pub(super) async fn session(
    config: &Config,
    links: &LinkSettings,
    report: &mut Report,
) -> Result<(), LinkError> {
    let topic = format!("observer/{}/check/session/{}", config.name, random_id());
    let filter = TopicFilter::parse(&topic).expect("a topic name is a filter");
    let name = TopicName::parse(&topic).expect("a name is a topic level");
    let mut first = connect(links.clone(), KEPT).await?;
    first.subscribe(&[filter]).await?;
    first.leave().await;
    let mut writer = connect(config.visitor_links("check-session"), Session::Clean).await?;
    // The round trip says of a user who may not write here what is missing.
    let written = writer.publish_times(&name, 1).await.is_ok();
    writer.leave().await;
    let mut second = connect(links.clone(), links.session).await?;
    let (present, expiry) = (
        second.connected.session_present,
        second.connected.session_expiry,
    );
    let came = match written {
        true => second.delivery(PATIENCE).await.is_ok(),
        false => present,
    };
    second.leave().await;
    discard_session(links).await?;
    let (verdict, text) = session_verdict(present, came);
    match expiry {
        Some(expiry) if verdict == Verdict::Ok => {
            let expiry = humantime::format_duration(expiry);
            report.ok("session", format!("{text}, for {expiry} at most"));
        }
        Some(_) | None => verdict.report(report, "session", text),
    }
    Ok(())
}

/// How a trial went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Note,
    Failed,
}

impl Verdict {
    fn report(self, report: &mut Report, step: &'static str, text: impl Into<String>) {
        match self {
            Self::Ok => report.ok(step, text),
            Self::Note => report.note(step, text),
            Self::Failed => report.failed(step, text),
        }
    }
}

/// `present`: what the broker says; `came`: whether what was sent meanwhile has arrived.
fn session_verdict(present: bool, came: bool) -> (Verdict, &'static str) {
    match (present, came) {
        (true, true) => (Verdict::Ok, "kept while away"),
        (false, true) => (Verdict::Note, UNSAID),
        (true, false) => (Verdict::Failed, NOTHING_KEPT),
        (false, false) => (Verdict::Failed, NOT_KEPT),
    }
}

/// Has the broker delete the session of these links.
pub(super) async fn discard_session(links: &LinkSettings) -> Result<(), LinkError> {
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
    let mut again = Again::default();
    let begin = Instant::now();
    // Only a broker that loses messages, or gives them out again late, makes this wait for long.
    while again.came < AHEAD {
        let limit = if again.came == 0 { LATE } else { PATIENCE };
        let Ok(delivery) = reader.delivery(limit).await else {
            break;
        };
        if again.came == 0 {
            again.after = begin.elapsed();
        }
        again.came += 1;
        again.marked += usize::from(delivery.dup);
    }
    reader.leave().await;
    discard_session(links).await?;
    let (verdict, text) = again.verdict();
    verdict.report(report, "redelivery", text);
    Ok(())
}

/// What came again of [`AHEAD`] messages that were not acknowledged.
#[derive(Clone, Copy, Debug, Default)]
struct Again {
    came: usize,
    /// Those with the DUP flag.
    marked: usize,
    /// How long the first was waited for.
    after: Duration,
}

impl Again {
    fn verdict(self) -> (Verdict, String) {
        let Self {
            came,
            marked,
            after,
        } = self;
        let text = format!(
            "{came} of {AHEAD} messages that were not acknowledged come again, \
             {marked} of them marked DUP"
        );
        if came < AHEAD {
            return (Verdict::Failed, format!("{text}: messages can be lost"));
        }
        if after >= GIVEN_OUT_LATE {
            let seconds = after.as_secs();
            return (
                Verdict::Note,
                format!("{text}, after {seconds} s: {BEHIND}"),
            );
        }
        match marked {
            0 => (Verdict::Note, format!("{text}: {NO_DUP}")),
            1.. => (Verdict::Ok, text),
        }
    }
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
    while came < WAITING && reader.delivery(WAIT).await.is_ok() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_again_late_or_without_dup_is_noted() {
        let again = |came, marked, seconds| Again {
            came,
            marked,
            after: Duration::from_secs(seconds),
        };
        for (again, verdict, says) in [
            (again(AHEAD, AHEAD, 0), Verdict::Ok, "64 of them marked DUP"),
            (
                again(AHEAD, 0, 0),
                Verdict::Note,
                "under another message_id",
            ),
            (
                again(AHEAD, AHEAD, 30),
                Verdict::Note,
                "after 30 s: behind newer ones",
            ),
            (again(63, 63, 0), Verdict::Failed, "messages can be lost"),
        ] {
            let (found, text) = again.verdict();
            assert!(found == verdict && text.contains(says), "{text}");
        }
    }

    #[test]
    fn what_arrives_counts_and_not_what_the_broker_says_of_it() {
        let verdicts = [(true, true), (false, true), (true, false), (false, false)];
        let verdicts = verdicts.map(|(present, came)| session_verdict(present, came).0);
        let failed = Verdict::Failed;
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Note, failed, failed]);
    }
}
