//! What an ordinary user can reach: tried from outside, with that user's own credentials, while the
//! service user looks on.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::report::{Report, Trial};
use super::{GLIMPSE, WAIT, connect};
use crate::auth::credentials::Credentials;
use crate::config::{Config, probe_client_id};
use crate::connections::probe_client::ProbeClient;
use crate::connections::settings::LinkSettings;
use crate::mqtt::{Cause, LinkError, Session};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::permissions::{PathLevel, UserPaths};
use crate::protocol::topic::{TopicFilter, TopicName};

/// Another user, whom the probe must not reach.
const OTHER: &str = "check-other";
/// Not JSON. An observer that runs refuses it nearly everywhere; layouts that carry any bytes
/// deliver it to a user called `check`, and the probe's conversation with that user is archived.
const PAYLOAD: &[u8] = b"check";

/// What several trials that succeed are together.
const OWN: &str = "of the user's own paths";
const NO_OTHER_READS: &str = "filters over other users' paths: nothing arrives";
const NO_OTHER_WRITES: &str = "topics of other users and services: nothing arrives";

/// An ordinary user.
#[derive(Clone, Debug)]
pub(super) struct Probe {
    /// The level that stands for the user in topics.
    pub(super) user: String,
    /// The user's tenant.
    pub(super) app: String,
    /// What the user logs in with.
    pub(super) credentials: Credentials,
}

/// Tries what the probe must be able to do, and what it must not.
///
/// # Errors
/// A failure of the service user's own connection.
pub(super) async fn run(
    config: &Config,
    probe: &Probe,
    report: &mut Report,
) -> Result<(), LinkError> {
    for (what, fault) in [
        ("app", AppId::parse(&probe.app).err()),
        ("user", UserId::parse(&probe.user).err()),
    ] {
        if let Some(fault) = fault {
            report.failed("probe", format!("its {what} {fault}"));
            return Ok(());
        }
    }
    let service = config.visitor_links("check");
    // A client identifier that begins with the user's: narrow permissions ask for it.
    let links = LinkSettings {
        credentials: probe.credentials.clone(),
        client_id: probe_client_id(&probe.user),
        ..service.clone()
    };
    match connect(links.clone(), Session::Clean).await {
        Ok(client) => client.leave().await,
        Err(error) => {
            report.failed("probe login", error.to_string());
            return Ok(());
        }
    }
    report.ok(
        "probe login",
        format!("{} of app {}", probe.user, probe.app),
    );
    let mut scene = Scene {
        probe,
        links,
        service: connect(service, Session::Clean).await?,
    };
    let paths = config.rules.router.layouts.user_paths_of(&probe.app);
    scene.own(&paths, report).await?;
    scene.others(&paths, report).await?;
    scene.service.leave().await;
    Ok(())
}

/// The probe, and the service user who looks on.
struct Scene<'a> {
    probe: &'a Probe,
    /// The probe's.
    links: LinkSettings,
    service: ProbeClient,
}

impl Scene<'_> {
    /// What the probe must be able to do.
    async fn own(&mut self, paths: &UserPaths<'_>, report: &mut Report) -> Result<(), LinkError> {
        let user = &self.probe.user;
        for path in &paths.reads {
            let own = topic(path, user, "check");
            let (filter, sent) = (format!("{own}/#"), format!("{own}/check"));
            let name = Trial::one_of("probe reads", &filter, OWN);
            match self.reads(&filter, &sent, WAIT).await? {
                true => report.ok(name, "the user's own inbox"),
                false => report.failed(name, "the user cannot read their own inbox"),
            }
        }
        for path in &paths.writes {
            let own = topic(path, user, "check");
            let name = Trial::one_of("probe writes", &own, OWN);
            match self.writes(&own, WAIT).await? {
                true => report.ok(name, "the user's own path"),
                false => report.failed(name, "the user cannot write on their own path"),
            }
        }
        Ok(())
    }

    /// What the probe must not be able to do.
    async fn others(
        &mut self,
        paths: &UserPaths<'_>,
        report: &mut Report,
    ) -> Result<(), LinkError> {
        let app = &self.probe.app;
        for (filter, sent) in foreign_reads(paths, app) {
            let name = Trial::one_of("probe reads", &filter, NO_OTHER_READS);
            match self.reads(&filter, &sent, GLIMPSE).await? {
                false => report.ok(name, "nothing of another user arrives"),
                true => report.failed(
                    name,
                    format!("THE USER READS ANOTHER USER'S INBOX ({sent}): see `acl`"),
                ),
            }
        }
        for topic in foreign_writes(paths, app) {
            let name = Trial::one_of("probe writes", &topic, NO_OTHER_WRITES);
            match self.writes(&topic, GLIMPSE).await? {
                false => report.ok(name, "nothing arrives there"),
                true => report.failed(name, "THE USER WRITES WHERE ONLY OTHERS MAY: see `acl`"),
            }
        }
        let user = &self.probe.user;
        let own = format!("apps/{app}/users/{user}/messages/check/clientadded");
        if self.writes(&own, GLIMPSE).await? {
            report.note(
                Trial::one_of("probe writes", &own, OWN),
                "the user can write into their own inbox, and so deceive only themselves",
            );
        }
        Ok(())
    }

    /// Whether the probe gets what is published to `topic` by subscribing to `wanted`, in so long a
    /// time.
    async fn reads(
        &mut self,
        wanted: &str,
        topic: &str,
        time: Duration,
    ) -> Result<bool, LinkError> {
        let mut probe = connect(self.links.clone(), Session::Clean).await?;
        let granted = probe.subscribe(&[filter(wanted)]).await;
        // A refusal or the end of the connection is an answer. A grant is none: a broker may grant
        // a subscription and deliver nothing.
        if !matches!(granted.as_deref(), Ok([Ok(_)])) {
            return Ok(false);
        }
        self.service.publish(name(topic), payload()).await?;
        let arrived = arrives(&mut probe, topic, time).await;
        probe.leave().await;
        Ok(arrived)
    }

    /// Whether what the probe publishes to `topic` arrives there in so long a time.
    async fn writes(&mut self, topic: &str, time: Duration) -> Result<bool, LinkError> {
        let granted = self.service.subscribe(&[filter(topic)]).await?;
        if !matches!(granted[..], [Ok(_)]) {
            let text = format!(
                "the observer's own user may not read {topic}: \
                 nothing can be said of who writes there"
            );
            return Err(LinkError::new(Cause::NotAuthorized, text));
        }
        let mut probe = connect(self.links.clone(), Session::Clean).await?;
        // RabbitMQ closes the connection on what is not permitted, Mosquitto confirms it and drops
        // it: only what arrives counts.
        let published = probe.publish(name(topic), payload()).await;
        let arrived = arrives(&mut self.service, topic, time).await;
        if published.is_ok() {
            probe.leave().await;
        }
        Ok(arrived)
    }
}

/// Filters over another user's inbox, each with a topic it covers.
fn foreign_reads(paths: &UserPaths<'_>, app: &str) -> Vec<(String, String)> {
    let mut reads = vec![];
    for path in &paths.reads {
        let other = topic(path, OTHER, "check");
        let sent = format!("{other}/check");
        reads.push((format!("{other}/#"), sent.clone()));
        reads.push((format!("{}/#", topic(path, "+", "+")), sent));
    }
    let inbox = foreign_inbox(app);
    for all in ["#", "apps/#", "+/+/+/+/#"] {
        reads.push((all.to_owned(), inbox.clone()));
    }
    reads
}

/// Topics that only other users, the observer or a service may write to.
fn foreign_writes(paths: &UserPaths<'_>, app: &str) -> Vec<String> {
    let others = paths.writes.iter().map(|path| topic(path, OTHER, "check"));
    others
        .chain([
            foreign_inbox(app),
            format!("apps/observer/{app}/users/{OTHER}/messages/check/delivered"),
            format!("apps/observer/{app}/groups/update"),
        ])
        .collect()
}

fn foreign_inbox(app: &str) -> String {
    format!("apps/{app}/users/{OTHER}/messages/check/clientadded")
}

/// The path as a topic or filter of `user`, with `any` at its variable levels.
fn topic(path: &[PathLevel<'_>], user: &str, any: &str) -> String {
    let level = |level: &PathLevel<'_>| match level {
        PathLevel::Text(text) => (*text).to_owned(),
        PathLevel::User => user.to_owned(),
        PathLevel::Any => any.to_owned(),
    };
    path.iter().map(level).collect::<Vec<_>>().join("/")
}

fn filter(text: &str) -> TopicFilter {
    TopicFilter::parse(text).expect("made of levels and wildcards")
}

fn name(text: &str) -> TopicName {
    TopicName::parse(text).expect("made of levels")
}

fn payload() -> Bytes {
    Bytes::from_static(PAYLOAD)
}

/// Whether a message arrives on `topic` in so long a time. A running observer may send others
/// meanwhile.
async fn arrives(client: &mut ProbeClient, topic: &str, time: Duration) -> bool {
    let limit = Instant::now() + time;
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        match client.message(left.max(Duration::from_millis(1))).await {
            Ok(received) if received.topic == topic => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}
