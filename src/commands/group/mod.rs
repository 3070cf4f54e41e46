//! `group`: lists, shows, sets and removes stored groups, also while the observer runs.

mod request;

use std::process::ExitCode;

use serde_json::value::RawValue;

use super::cli::{Format, GroupArgs, GroupCommand};
use super::in_runtime;
use super::input::{app_id, read_input, user_id};
use super::output::Output;
use super::scope::GroupChange as Scope;
use super::settings::SettingsArgs;
use super::store::{note_if_unserved, open_store};
use crate::config::Config;
use crate::protocol::group::Group;
use crate::protocol::group_change::GroupChange;
use crate::protocol::id::AppId;
use crate::protocol::json::parse_object;
use crate::protocol::refusal::Refusal;
use crate::rules::checks::check_recipients;
use crate::store::Administration;

/// What a file for `group set` holds.
const GROUP_FORM: &str =
    r#"not an object with "members" whose keys are users, such as {"members":{"alice":1}}"#;
const NO_MEMBERS: &str = r#"it has no "members"; {"members":{}} is a group of nobody"#;

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
            if *tell {
                let body = RawValue::from_string(body)?;
                let change = GroupChange::Replace(body);
                return in_runtime(request::run(&config, store.as_ref(), group, change, out));
            }
            let GroupArgs { app, group: id } = group;
            store.set_group(app, id, &body)?;
            out.line(format_args!("{app} {id} {members} members"))?;
            note_if_unserved(&config, out)?;
        }
        GroupCommand::AddMember {
            group,
            user,
            settings,
        } => {
            let change = GroupChange::Add(user.as_str().into());
            return change_member(group, user, settings, change, out);
        }
        GroupCommand::RemoveMember {
            group,
            user,
            settings,
        } => {
            let change = GroupChange::Remove(user.as_str().into());
            return change_member(group, user, settings, change, out);
        }
        GroupCommand::Remove { group, settings } => {
            let config = settings.load()?;
            let mut store = open_store(&config)?;
            check_ids(group)?;
            if !store.remove_group(&group.app, &group.group)? {
                return Err(missing(group));
            }
            out.line(format_args!("{} {} removed", group.app, group.group))?;
            note_if_unserved(&config, out)?;
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
    // Without it the observer takes a group as empty: a slip of the pen must not do that.
    let names_members =
        parse_object(body.as_bytes()).is_ok_and(|object| object.contains_key("members"));
    anyhow::ensure!(names_members, "{file}: {GROUP_FORM}: {NO_MEMBERS}");
    Ok((body.trim().to_owned(), members))
}

fn change_member(
    group: &GroupArgs,
    user: &str,
    settings: &SettingsArgs<Scope>,
    change: GroupChange,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let config = settings.load()?;
    let store = open_store(&config)?;
    check_ids(group)?;
    user_id("user", user)?;
    in_runtime(request::run(&config, store.as_ref(), group, change, out))
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
