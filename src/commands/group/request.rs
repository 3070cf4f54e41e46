//! A change of a group that a running observer makes, as for an administrator over HTTP.
//!
//! Owns asking for it, and waiting until the store shows it. What is stored, and who is told, is
//! decided by the rules, in the observer.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use super::missing;
use crate::commands::cli::GroupArgs;
use crate::commands::output::Output;
use crate::commands::user::not_allowed;
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::http::api::contacts::Contacts;
use crate::mqtt::Session;
use crate::protocol::group::Users;
use crate::protocol::group_change::GroupChange;
use crate::protocol::id::RESERVED_APP;
use crate::protocol::topic::TopicName;
use crate::rules::group_change::is_made;
use crate::rules::group_request::GroupRequest;
use crate::rules::group_telling::{Telling, joining, members_of, name_of};
use crate::store::Administration;
use crate::telemetry::clock::Clock;

/// How long the observer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// Exit code 0: the store shows the change. 1: it does not, and what is known of it is said.
pub(super) async fn run(
    config: &Config,
    store: &dyn Administration,
    group: &GroupArgs,
    change: GroupChange,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let GroupArgs { app, group: id } = group;
    let stored = store.group_body(app, id)?;
    if let Some(told) = nothing_to_do(group, &change, stored.as_deref())? {
        out.line(told)?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = request(config, id, &change, stored.as_deref()).await?;
    let topic = TopicName::parse(&format!("apps/{RESERVED_APP}/{app}/groups/update"))?;
    let links = config.visitor_links("group");
    let mut client = ProbeClient::connect(links.clone(), Session::Clean).await?;
    let published = client.publish(topic.clone(), request.to_payload()).await;
    published.map_err(|error| not_allowed(&links, error, topic.as_str()))?;
    client.leave().await;
    let Some(body) = made(store, group, &change).await? else {
        anyhow::bail!("{}", not_made(config, group));
    };
    let members = members_of(&body).len();
    let what = if let GroupChange::Add(user) = &change {
        format!("{user} is added, and the members are told")
    } else if let GroupChange::Remove(user) = &change {
        format!("{user} is removed; they and the members are told")
    } else {
        let told = told(stored.as_deref(), &body).len();
        format!("stored by the observer, which tells {told} users")
    };
    out.line(format_args!("{app} {id} {members} members: {what}"))?;
    Ok(ExitCode::SUCCESS)
}

/// What is said if the group is as it should be already. A member who is to come and is there, or
/// to go and is not, is a mistake.
fn nothing_to_do(
    group: &GroupArgs,
    change: &GroupChange,
    stored: Option<&str>,
) -> anyhow::Result<Option<String>> {
    let GroupArgs { app, group: id } = group;
    let (GroupChange::Add(user) | GroupChange::Remove(user)) = change else {
        let told = || format!("{app} {id} is this already: nobody is told of anything");
        return Ok(is_made(change, stored).then(told));
    };
    if stored.is_none() {
        return Err(missing(group));
    }
    let is = match matches!(change, GroupChange::Remove(_)) {
        true => "is not a member",
        false => "is a member already",
    };
    anyhow::ensure!(
        !is_made(change, stored),
        "{user:?} {is} of group {id:?} in app {app:?}"
    );
    Ok(None)
}

/// The change, with the messages that tell of it.
async fn request(
    config: &Config,
    id: &str,
    change: &GroupChange,
    stored: Option<&str>,
) -> anyhow::Result<GroupRequest> {
    let name = if let GroupChange::Replace(body) = change {
        name_of(body.get())
    } else {
        stored.map(name_of).unwrap_or_default()
    };
    let members = stored.map(members_of).unwrap_or_default();
    let joining = joining(change, &members);
    let contacts = Contacts::new(config.contacts.clone())?;
    let ids = joining.iter().map(|id| &**id);
    let names = contacts.names(ids, Clock.now().instant).await;
    let telling = Telling {
        name: &name,
        is_new: stored.is_none(),
        joining: &joining,
        names: &names,
    };
    Ok(GroupRequest {
        change: change.clone(),
        group: id.into(),
        told: telling.announcements(change),
    })
}

/// The group's object, when the store shows the change.
async fn made(
    store: &dyn Administration,
    group: &GroupArgs,
    change: &GroupChange,
) -> anyhow::Result<Option<String>> {
    let began = Instant::now();
    loop {
        let body = store.group_body(&group.app, &group.group)?;
        match body {
            Some(body) if is_made(change, Some(&body)) => return Ok(Some(body)),
            Some(_) | None if began.elapsed() > PATIENCE => return Ok(None),
            Some(_) | None => tokio::time::sleep(LOOK).await,
        }
    }
}

fn not_made(config: &Config, GroupArgs { app, group: id }: &GroupArgs) -> String {
    format!(
        "the broker at {} has taken the change, but within {} no observer has made it in this \
         store. If one has run there before, the broker keeps the change until it runs again, \
         and it is made then; an observer that refuses it says so in its log. To see whether it is \
         made: chat21-observer group show {app} {id}",
        config.broker.address,
        humantime::format_duration(PATIENCE),
    )
}

/// Who is told if one object takes the place of another.
fn told(stored: Option<&str>, body: &str) -> Users {
    let before = stored.map(members_of).unwrap_or_default();
    let now = members_of(body);
    let all = before.as_slice().iter().chain(now.as_slice());
    all.cloned().collect()
}
