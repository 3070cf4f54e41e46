//! `block`: lists and changes who blocks whom and who is banned, also while the observer runs.

use std::process::ExitCode;

use super::cli::{BanArgs, BlockArgs, BlockCommand, Format};
use super::input::{app_id, user_id};
use super::output::Output;
use super::store::{note_if_unserved, open_store};
use crate::protocol::control_payload::BlockChange;
use crate::store::{Administration, BanChange};
use crate::telemetry::clock::Clock;

pub(super) fn run(command: &BlockCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        BlockCommand::List {
            app,
            user,
            format,
            settings,
        } => {
            let store = open_store(&settings.load()?)?;
            list(store.as_ref(), app.as_deref(), user.as_deref(), format, out)?;
        }
        BlockCommand::Set(args) => block(args, BlockChange::Block, out)?,
        BlockCommand::Clear(args) => block(args, BlockChange::Unblock, out)?,
        BlockCommand::Ban(args) => ban(args, BanChange::Ban, out)?,
        BlockCommand::Unban(args) => ban(args, BanChange::Unban, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn list(
    store: &dyn Administration,
    app: Option<&str>,
    user: Option<&str>,
    format: &Format,
    out: Output,
) -> anyhow::Result<()> {
    let blocked = store.blocked(app, user)?;
    if format.json {
        out.json(&blocked)?;
        return Ok(());
    }
    for blocked in &blocked {
        let (app, user) = (&blocked.app, &blocked.user);
        match &blocked.by {
            Some(by) => out.line(format_args!("{app} {by} blocks {user}"))?,
            None => out.line(format_args!("{app} {user} is banned"))?,
        }
    }
    Ok(())
}

fn block(args: &BlockArgs, change: BlockChange, out: Output) -> anyhow::Result<()> {
    let config = args.settings.load()?;
    let mut store = open_store(&config)?;
    let BlockArgs {
        app, user, other, ..
    } = args;
    app_id(app)?;
    user_id("user", user)?;
    user_id("user", other)?;
    let changed = store.set_block(app, user, other, change)?;
    let word = match change {
        BlockChange::Block => "blocks",
        BlockChange::Unblock => "does not block",
    };
    out.line(format_args!("{app} {user} {word} {other}"))?;
    note_unchanged(changed, out);
    note_if_unserved(&config, out)
}

fn ban(args: &BanArgs, change: BanChange, out: Output) -> anyhow::Result<()> {
    let config = args.settings.load()?;
    let mut store = open_store(&config)?;
    let BanArgs { app, user, .. } = args;
    app_id(app)?;
    user_id("user", user)?;
    let changed = store.set_ban(app, user, change, Clock.now().wall)?;
    let word = match change {
        BanChange::Ban => "banned",
        BanChange::Unban => "not banned",
    };
    out.line(format_args!("{app} {user} is {word}"))?;
    note_unchanged(changed, out);
    note_if_unserved(&config, out)
}

fn note_unchanged(changed: bool, out: Output) {
    if !changed {
        out.message("nothing has changed: that was so before");
    }
}
