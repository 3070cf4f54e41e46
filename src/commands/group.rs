//! `group`: lists, shows, sets and removes stored groups, also while the observer runs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::cli::{Format, GroupArgs, GroupCommand};
use super::in_runtime;
use super::input::{app_id, read_input, user_id};
use super::output::Output;
use super::store::open_store;
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::mqtt::Session;
use crate::protocol::group::{Group, Users};
use crate::protocol::id::{AppId, RESERVED_APP};
use crate::protocol::json::{Members, parse_object, raw};
use crate::protocol::refusal::Refusal;
use crate::protocol::topic::TopicName;
use crate::rules::checks::check_recipients;
use crate::store::Administration;

/// What a file for `group set` holds.
const GROUP_FORM: &str =
    r#"not an object with "members" whose keys are users, such as {"members":{"alice":1}}"#;

pub(super) fn run(command: &GroupCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        GroupCommand::List {
            app,
            format,
            settings,
        } => {
            let store = open_store(&settings.load()?)?;
            list(store.as_ref(), app.as_deref(), format, out)?;
        }
        GroupCommand::Show { group, settings } => {
            let store = open_store(&settings.load()?)?;
            check_ids(group)?;
            show(store.as_ref(), group, out)?;
        }
        GroupCommand::Set {
            group,
            file,
            tell,
            settings,
        } => {
            let config = settings.load()?;
            let mut store = open_store(&config)?;
            let app = check_ids(group)?;
            let (body, members) = read_group(&config, app, file)?;
            let GroupArgs { app, group: id } = group;
            if *tell {
                let old = store.group_body(app, id)?;
                let told = members_of(&[old.as_deref().unwrap_or("{}"), &body]);
                in_runtime(hand_over(&config, group, &body, &told))?;
                let told = told.len();
                out.line(format_args!(
                    "{app} {id} {members} members: handed to the observer, which tells {told} users"
                ))?;
            } else {
                store.set_group(app, id, &body)?;
                out.line(format_args!("{app} {id} {members} members"))?;
            }
        }
        GroupCommand::Remove { group, settings } => {
            let mut store = open_store(&settings.load()?)?;
            check_ids(group)?;
            if !store.remove_group(&group.app, &group.group)? {
                return Err(missing(group));
            }
            out.line(format_args!("{} {} removed", group.app, group.group))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(
    store: &dyn Administration,
    app: Option<&str>,
    format: &Format,
    out: Output,
) -> anyhow::Result<()> {
    let groups = store.groups(app)?;
    if format.json {
        out.json(&groups)?;
        return Ok(());
    }
    if groups.is_empty() {
        out.message("no groups");
    }
    for group in &groups {
        out.line(format_args!(
            "{} {} {} members",
            group.app, group.id, group.members
        ))?;
    }
    Ok(())
}

fn show(store: &dyn Administration, group: &GroupArgs, out: Output) -> anyhow::Result<()> {
    let body = store
        .group_body(&group.app, &group.group)?
        .ok_or_else(|| missing(group))?;
    out.line(body)?;
    Ok(())
}

/// Reads a group object from a file, and checks it. Returns it with the number of its members.
fn read_group(config: &Config, app: AppId<'_>, file: &str) -> anyhow::Result<(String, usize)> {
    let body = read_input(file)?;
    let check = || -> Result<usize, Refusal> {
        let group = Group::parse(&body)?;
        let policy = &config.rules.router.policy;
        let most = policy.rules(app).max_recipients;
        check_recipients(policy.broker_kind, &group.members, most)?;
        Ok(group.members.len())
    };
    let members = check().map_err(|reason| anyhow::anyhow!("{file}: {GROUP_FORM}: {reason}"))?;
    Ok((body.trim().to_owned(), members))
}

/// The members of these group objects, each once.
fn members_of(bodies: &[&str]) -> Vec<Box<str>> {
    let groups = bodies.iter().filter_map(|body| Group::parse(body).ok());
    let all = groups.flat_map(|group| group.members.as_slice().to_vec());
    Users::from_iter(all).as_slice().to_vec()
}

/// Publishes the group as a service does. The broker keeps it for an observer that is away.
async fn hand_over(
    config: &Config,
    group: &GroupArgs,
    body: &str,
    told: &[Box<str>],
) -> anyhow::Result<ExitCode> {
    let mut object = parse_object(body.as_bytes())?;
    object.insert("uid".to_owned(), raw(&group.group));
    let notify: BTreeMap<&str, u8> = told.iter().map(|user| (&**user, 1)).collect();
    let update = Members::from([
        ("group".to_owned(), raw(&object)),
        ("notify_to".to_owned(), raw(&notify)),
    ]);
    let topic = TopicName::parse(&format!("apps/{RESERVED_APP}/{}/groups/update", group.app))?;
    let mut client = ProbeClient::connect(config.visitor_links("group"), Session::Clean).await?;
    client
        .publish(topic, serde_json::to_vec(&update)?.into())
        .await?;
    client.leave().await;
    Ok(ExitCode::SUCCESS)
}

fn missing(group: &GroupArgs) -> anyhow::Error {
    let GroupArgs { app, group } = group;
    anyhow::anyhow!("app {app:?} has no stored group {group:?}")
}

fn check_ids(group: &GroupArgs) -> anyhow::Result<AppId<'_>> {
    let app = app_id(&group.app)?;
    user_id("group", &group.group)?;
    Ok(app)
}
