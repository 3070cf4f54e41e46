//! `block`: lists and changes who blocks whom and who is banned, also while the observer runs.

use std::process::ExitCode;

use super::cli::{BanArgs, BlockArgs, BlockCommand, Format};
use super::input::{app_id, user_id};
use super::output::Output;
use super::store::open_store;
use crate::store::Store;
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
            list(&store, app.as_deref(), user.as_deref(), format, out)?;
        }
        BlockCommand::Set(args) => block(args, Change::Begin, out)?,
        BlockCommand::Clear(args) => block(args, Change::End, out)?,
        BlockCommand::Ban(args) => ban(args, Change::Begin, out)?,
        BlockCommand::Unban(args) => ban(args, Change::End, out)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether a block or a ban begins or ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Begin,
    End,
}

fn list(
    store: &Store,
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

fn block(args: &BlockArgs, change: Change, out: Output) -> anyhow::Result<()> {
    let mut store = open_store(&args.settings.load()?)?;
    let BlockArgs {
        app, user, other, ..
    } = args;
    app_id(app)?;
    user_id("user", user)?;
    user_id("user", other)?;
    let changed = store.set_block(app, user, other, change == Change::Begin)?;
    let word = match change {
        Change::Begin => "blocks",
        Change::End => "does not block",
    };
    out.line(format_args!("{app} {user} {word} {other}"))?;
    note_unchanged(changed, out);
    Ok(())
}

fn ban(args: &BanArgs, change: Change, out: Output) -> anyhow::Result<()> {
    let mut store = open_store(&args.settings.load()?)?;
    let BanArgs { app, user, .. } = args;
    app_id(app)?;
    user_id("user", user)?;
    let changed = store.set_ban(app, user, change == Change::Begin, Clock.now().wall)?;
    let word = match change {
        Change::Begin => "banned",
        Change::End => "not banned",
    };
    out.line(format_args!("{app} {user} is {word}"))?;
    note_unchanged(changed, out);
    Ok(())
}

fn note_unchanged(changed: bool, out: Output) {
    if !changed {
        out.message("nothing has changed: that was so before");
    }
}
