//! What an ordinary user can reach: tried from outside, with his own credentials, while the service user looks on.

use std::time::Duration;

use bytes::Bytes;

use super::{GLIMPSE, Outcome, PATIENCE, Step, enter, step};
use crate::config::{Config, Credentials};
use crate::connections::link::LinkSettings;
use crate::connections::probe_client::ProbeClient;
use crate::mqtt::{Cause, LinkError, Session};
use crate::protocol::id::{AppId, UserId};
use crate::protocol::layout::{PathLevel, UserPaths};
use crate::protocol::topic::{TopicFilter, TopicName};

/// Somebody else, whom the probe must not reach.
const OTHER: &str = "check-other";

/// An ordinary user.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Who he is: the level that stands for him in topics.
    pub user: String,
    /// His tenant.
    pub app: String,
    /// What he logs in with.
    pub credentials: Credentials,
}

struct Scene<'a> {
    probe: &'a Probe,
    links: LinkSettings,
    service: ProbeClient,
}

fn formed(path: &[PathLevel<'_>], user: &str, any: &str) -> String {
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

/// Tries what the probe must be able to do, and what it must not.
///
/// # Errors
/// A failure of the service user's own connection.
pub(super) async fn run(
    config: &Config,
    probe: &Probe,
    steps: &mut Vec<Step>,
) -> Result<(), LinkError> {
    for (what, fault) in [
        ("app", AppId::parse(&probe.app).err()),
        ("user", UserId::parse(&probe.user).err()),
    ] {
        if let Some(fault) = fault {
            let said = format!("its {what} {fault}");
            steps.push(step("probe", Outcome::Failed, said));
            return Ok(());
        }
    }
    let service = config.visitor_links("check");
    // Behind its own name, which is what narrow permissions ask for.
    let links = LinkSettings {
        credentials: probe.credentials.clone(),
        client_id: config.probe_client_id(&probe.user),
        ..service.clone()
    };
    match enter(links.clone(), Session::Clean).await {
        Ok(visitor) => visitor.leave().await,
        Err(error) => {
            steps.push(step("probe login", Outcome::Failed, error.to_string()));
            return Ok(());
        }
    }
    let said = format!("{} of app {}", probe.user, probe.app);
    steps.push(step("probe login", Outcome::Ok, said));
    let mut scene = Scene {
        probe,
        links,
        service: enter(service, Session::Clean).await?,
    };
    let paths = config.router.layouts.user_paths_of(&probe.app);
    scene.own(&paths, steps).await?;
    scene.others(&paths, steps).await?;
    scene.service.leave().await;
    Ok(())
}

impl Scene<'_> {
    /// What is his.
    async fn own(&mut self, paths: &UserPaths<'_>, steps: &mut Vec<Step>) -> Result<(), LinkError> {
        let user = &self.probe.user.clone();
        for path in &paths.reads {
            let own = formed(path, user, "check");
            let arrived = self
                .reads(&format!("{own}/#"), &format!("{own}/check"))
                .await?;
            steps.push(match arrived {
                true => step(format!("probe reads {own}/#"), Outcome::Ok, "his own inbox"),
                false => step(
                    format!("probe reads {own}/#"),
                    Outcome::Failed,
                    "he cannot read his own inbox",
                ),
            });
        }
        for path in &paths.writes {
            let own = formed(path, user, "check");
            let arrived = self.writes(&own).await?;
            steps.push(match arrived {
                true => step(format!("probe writes {own}"), Outcome::Ok, "his own path"),
                false => step(
                    format!("probe writes {own}"),
                    Outcome::Failed,
                    "he cannot write on his own path",
                ),
            });
        }
        Ok(())
    }

    /// What is not.
    async fn others(
        &mut self,
        paths: &UserPaths<'_>,
        steps: &mut Vec<Step>,
    ) -> Result<(), LinkError> {
        let app = self.probe.app.clone();
        let inbox = format!("apps/{app}/users/{OTHER}/messages/check/clientadded");
        let mut reads: Vec<(String, String)> = paths
            .reads
            .iter()
            .flat_map(|path| {
                let other = formed(path, OTHER, "check");
                let topic = format!("{other}/check");
                [
                    (format!("{other}/#"), topic.clone()),
                    (format!("{}/#", formed(path, "+", "+")), topic),
                ]
            })
            .collect();
        reads.extend(["#", "apps/#", "+/+/+/+/#"].map(|all| (all.to_owned(), inbox.clone())));
        for (filter, topic) in reads {
            let name = format!("probe reads {filter}");
            steps.push(match self.reads(&filter, &topic).await? {
                false => step(name, Outcome::Ok, "nothing of another's arrives"),
                true => step(
                    name,
                    Outcome::Failed,
                    format!("HE READS ANOTHER'S INBOX ({topic}): see `acl`"),
                ),
            });
        }
        let mut writes: Vec<String> = paths
            .writes
            .iter()
            .map(|path| formed(path, OTHER, "check"))
            .collect();
        writes.push(inbox);
        writes.push(format!(
            "apps/observer/{app}/users/{OTHER}/messages/check/delivered"
        ));
        writes.push(format!("apps/observer/{app}/groups/update"));
        for topic in writes {
            let name = format!("probe writes {topic}");
            steps.push(match self.writes(&topic).await? {
                false => step(name, Outcome::Ok, "nothing arrives there"),
                true => step(
                    name,
                    Outcome::Failed,
                    "HE WRITES WHERE ONLY OTHERS MAY: see `acl`",
                ),
            });
        }
        let own = format!(
            "apps/{app}/users/{}/messages/check/clientadded",
            self.probe.user
        );
        if self.writes(&own).await? {
            steps.push(step(
                format!("probe writes {own}"),
                Outcome::Note,
                "he can write into his own inbox, and so fool himself alone",
            ));
        }
        Ok(())
    }

    async fn enter(&self) -> Result<ProbeClient, LinkError> {
        enter(self.links.clone(), Session::Clean).await
    }

    /// Whether the probe gets what is published to `topic` by subscribing to `wanted`.
    async fn reads(&mut self, wanted: &str, topic: &str) -> Result<bool, LinkError> {
        let mut probe = self.enter().await?;
        // A refusal, or the end of the connection, is an answer; a grant is none.
        if !matches!(
            probe.subscribe(&[filter(wanted)]).await.as_deref(),
            Ok([Ok(_)])
        ) {
            return Ok(false);
        }
        let name = TopicName::parse(topic).expect("made of levels");
        self.service.publish(name, payload()).await?;
        let arrived = arrives(&mut probe, topic).await;
        probe.leave().await;
        Ok(arrived)
    }

    /// Whether what the probe publishes to `topic` arrives there.
    async fn writes(&mut self, topic: &str) -> Result<bool, LinkError> {
        let granted = self.service.subscribe(&[filter(topic)]).await?;
        if !matches!(granted[..], [Ok(_)]) {
            let text = format!(
                "the observer's own user may not read {topic}: nothing can be said of who writes there"
            );
            return Err(LinkError::new(Cause::NotAuthorized, text));
        }
        let mut probe = self.enter().await?;
        let name = TopicName::parse(topic).expect("made of levels");
        // RabbitMQ closes on what is not permitted, Mosquitto confirms and drops it: what arrives is what counts.
        let published = probe.publish(name, payload()).await;
        let arrived = arrives(&mut self.service, topic).await;
        if published.is_ok() {
            probe.leave().await;
        }
        Ok(arrived)
    }
}

/// Not JSON: where an observer that runs reads it, it leads to a refusal, nearly everywhere. (Layouts that carry any bytes bring it to a user
/// called `check`, and the probe's conversation with him is archived.)
fn payload() -> Bytes {
    Bytes::from_static(b"check")
}

async fn arrives(visitor: &mut ProbeClient, topic: &str) -> bool {
    let limit = tokio::time::Instant::now() + GLIMPSE.min(PATIENCE);
    loop {
        let left = limit.saturating_duration_since(tokio::time::Instant::now());
        match visitor.message(left.max(Duration::from_millis(1))).await {
            // An observer that runs may say something about it.
            Ok(received) if received.topic == topic => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}
