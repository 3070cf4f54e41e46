//! `store`: counts, exports, prunes and checks what is stored, also while the observer runs.
//!
//! Also finds the store for the other commands that work on it (`group`, `block`, `webhook`).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;

use super::cli::{Format, StoreCommand, TimelineArgs};
use super::output::{Output, OutputError};
use super::scope::StorePlace;
use super::settings::SettingsArgs;
use super::{copy, import};
use crate::config::Config;
use crate::store::{self, Administration, ExportError, Stats, StoreError, StoreLocation};
use crate::telemetry::clock::Clock;

pub(super) fn run(command: &StoreCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        StoreCommand::Stats { format, settings } => stats(format, settings, out),
        StoreCommand::Export { timeline, settings } => export(timeline, settings, out),
        StoreCommand::Backup { file, settings } => back_up(file, settings, out),
        StoreCommand::Import { files, settings } => import::run(files, settings, out),
        StoreCommand::Copy(args) => copy::run(args, out),
        StoreCommand::Prune { age, settings } => prune(age, settings, out),
        StoreCommand::Check(settings) => check(settings, out),
    }
}

/// Where an observer with these settings stores.
pub(super) fn location(config: &Config) -> anyhow::Result<&StoreLocation> {
    match config.store.as_ref().map(|settings| &settings.location) {
        Some(location) if *location != StoreLocation::Memory => Ok(location),
        Some(_) | None => anyhow::bail!("there is no store (--store none)"),
    }
}

/// Opens the store of an observer with these settings, which may be running.
pub(super) fn open_store(config: &Config) -> anyhow::Result<Box<dyn Administration>> {
    let place = location(config)?;
    store::administer(place).map_err(|error| named(place, error))
}

/// An error with the file it is of: SQLite names none.
fn named(place: &StoreLocation, error: StoreError) -> anyhow::Error {
    let is_bare = matches!(place, StoreLocation::File(_))
        && matches!(error, StoreError::Permanent(_) | StoreError::Transient(_));
    let error = anyhow::Error::from(error);
    match is_bare {
        true => error.context(place.to_string()),
        false => error,
    }
}

fn stats(
    format: &Format,
    settings: &SettingsArgs<StorePlace>,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let config = settings.load()?;
    let place = location(&config)?;
    let stats = open_store(&config)?.stats()?;
    if format.json {
        out.json(&stats)?;
    } else {
        out.text(&stats_text(place, &stats))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn export(
    timeline: &TimelineArgs,
    settings: &SettingsArgs<StorePlace>,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let store = open_store(&settings.load()?)?;
    let TimelineArgs { app, user, other } = timeline;
    let mut lines = out.buffered();
    let written = store.export(app, user, other.as_deref(), &mut |line| {
        lines.write_all(line)?;
        lines.write_all(b"\n")
    });
    match written {
        Ok(()) => lines.flush().map_err(OutputError::from)?,
        Err(ExportError::Output(error)) => return Err(OutputError::from(error).into()),
        Err(ExportError::Store(error)) => return Err(error.into()),
    }
    Ok(ExitCode::SUCCESS)
}

fn back_up(
    file: &Path,
    settings: &SettingsArgs<StorePlace>,
    out: Output,
) -> anyhow::Result<ExitCode> {
    let config = settings.load()?;
    let place = location(&config)?;
    store::back_up(place, file).map_err(|error| {
        let names_the_copy = matches!(error, StoreError::Make { .. });
        let error = named(place, error);
        match names_the_copy {
            true => error,
            // It may be of either: the disk of the copy is full, say.
            false => error.context(format!("cannot copy into {}", file.display())),
        }
    })?;
    let copy = StoreLocation::File(file.to_owned());
    let messages = store::administer(&copy)?.stats()?.messages;
    let file = file.display();
    out.line(format_args!("{file} holds {messages} messages of {place}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Says so if nobody knows of a change that the operator has made.
pub(super) fn note_if_unserved(config: &Config, out: Output) -> anyhow::Result<()> {
    let place = location(config)?;
    if !store::is_served(place) {
        out.message(format_args!(
            "no observer runs on {place}: is another store meant (--store, --config)?"
        ));
    }
    Ok(())
}

fn prune(age: &str, settings: &SettingsArgs<StorePlace>, out: Output) -> anyhow::Result<ExitCode> {
    let parsed = humantime::parse_duration(age)
        .with_context(|| format!("{age:?} is not a time such as 90d"))?;
    // The library takes a bare 0. It would delete everything.
    let has_unit = age.contains(char::is_alphabetic);
    anyhow::ensure!(has_unit, "{age:?} has no unit: 90d is a time");
    let mut store = open_store(&settings.load()?)?;
    let pruned = store.prune_before(Clock.now().wall.before(parsed))?;
    out.line(format_args!(
        "{pruned} messages deleted that were older than {age}"
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn check(settings: &SettingsArgs<StorePlace>, out: Output) -> anyhow::Result<ExitCode> {
    let config = settings.load()?;
    let place = location(&config)?;
    let faults = open_store(&config)?.check()?;
    if faults.is_empty() {
        out.line(format_args!("{place} is sound"))?;
        return Ok(ExitCode::SUCCESS);
    }
    out.message(format_args!(
        "{place} has faults (chapter store, \"Back up\")"
    ));
    let text = format!("{}\n", faults.join("\n"));
    Ok(out.verdict(&text, ExitCode::FAILURE)?)
}

fn stats_text(place: &StoreLocation, stats: &Stats) -> String {
    let mut text = format!("{place}\n");
    for (name, value) in [
        ("messages", stats.messages.to_string()),
        ("copies", stats.copies.to_string()),
        ("conversations", stats.conversations.to_string()),
        ("inboxes", stats.inboxes.to_string()),
        ("groups", stats.groups.to_string()),
        ("blocks", stats.blocks.to_string()),
        ("bans", stats.bans.to_string()),
        ("clients", stats.clients.to_string()),
        ("oldest", date(stats.oldest)),
        ("newest", date(stats.newest)),
        ("used bytes", stats.used_bytes.to_string()),
        ("file bytes", stats.file_bytes.to_string()),
    ] {
        let _ = writeln!(text, "{name:<14}{value}");
    }
    text
}

/// A stored time, to the second; `-` where there is none.
fn date(millis: Option<i64>) -> String {
    match millis.and_then(|millis| u64::try_from(millis).ok()) {
        Some(millis) => {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            humantime::format_rfc3339_seconds(time).to_string()
        }
        None => "-".to_owned(),
    }
}
