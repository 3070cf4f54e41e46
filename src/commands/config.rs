//! `config`: a file to begin with, a check of the settings without connecting, and the settings in
//! force.
//!
//! Leaves what settings there are, and reading them, to `config`.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;
use serde::Serialize;

use super::cli::{ConfigCommand, InitArgs, ShowArgs};
use super::output::Output;
use super::settings::{SettingsArgs, variable_names};
use crate::config::{ConfigErrors, GROUPS, InForce, Origin, Pick, template, unknown_variables};

pub(super) fn run(command: &ConfigCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Init(args) => init(args, out),
        ConfigCommand::Check(settings) => check(settings, out),
        ConfigCommand::Show(args) => show(args, out),
    }
}

fn init(args: &InitArgs, out: Output) -> anyhow::Result<ExitCode> {
    let text = template(match args.all {
        true => Pick::All,
        false => Pick::Common,
    });
    match &args.file {
        None => out.text(&text)?,
        Some(path) => {
            write_new(path, &text)?;
            let path = path.display();
            out.line(format_args!("{path} is written: edit it, then run"))?;
            out.line(format_args!("  chat21-observer config check -c {path}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that only its owner may read: it may come to hold a password.
fn write_new(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already: it is not overwritten", path.display())
        }
        Err(error) => bail!("cannot write {}: {error}", path.display()),
    };
    file.write_all(text.as_bytes()).map_err(|error| {
        // Or the next one would not write over it.
        let _ = std::fs::remove_file(path);
        anyhow::Error::from(error).context(format!("cannot write {}", path.display()))
    })
}

fn check(settings: &SettingsArgs, out: Output) -> anyhow::Result<ExitCode> {
    let unknown = unknown_variables(variable_names());
    let config = match settings.load_given() {
        Ok(config) if unknown.is_empty() => config,
        Ok(_) => return Err(ConfigErrors(unknown).into()),
        Err(ConfigErrors(errors)) => {
            return Err(ConfigErrors([errors, unknown].concat()).into());
        }
    };
    for warning in &config.warnings {
        out.message(format_args!("warning: {warning}"));
    }
    let file = match settings.file() {
        Some(path) => path.display().to_string(),
        None => "no file".to_owned(),
    };
    let given = |wanted: fn(&Origin) -> bool| {
        let rows = config.in_force.iter();
        rows.filter(|row| wanted(&row.origin)).count()
    };
    let in_file = given(|origin| matches!(origin, Origin::File { .. }));
    let plural = if in_file == 1 { "" } else { "s" };
    out.line(format_args!(
        "no mistakes: {file} ({in_file} setting{plural}), {} from variables, {} from flags",
        given(|origin| matches!(origin, Origin::Variable(_))),
        given(|origin| *origin == Origin::Flag),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// A setting in force, as `--json` prints it.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    value: Option<&'a str>,
    origin: String,
}

fn show(args: &ShowArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    if args.format.json {
        let rows: Vec<Row<'_>> = config
            .in_force
            .iter()
            .map(|row| Row {
                name: row.name,
                value: row.value.as_deref(),
                origin: row.origin.to_string(),
            })
            .collect();
        out.json(&rows)?;
    } else {
        out.text(&listing(&config.in_force, args.origin))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The settings in force under their headings; those without a value are left out.
fn listing(rows: &[InForce], with_origin: bool) -> String {
    let rows: Vec<(&InForce, &str, String)> = rows
        .iter()
        .filter_map(|row| Some((row, row.value.as_deref()?, row.origin.to_string())))
        .collect();
    let width = rows.iter().map(|(_, _, origin)| origin.len()).max();
    let width = width.unwrap_or_default();
    let mut text = String::new();
    for group in GROUPS {
        let is_of_group = |row: &InForce| {
            let mut settings = group.settings.iter();
            settings.any(|setting| setting.name == row.name)
        };
        let mut rows = rows.iter().filter(|(row, ..)| is_of_group(row)).peekable();
        if rows.peek().is_some() {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}# {}", group.heading);
        }
        for (row, value, origin) in rows {
            let name = row.name;
            let _ = match with_origin {
                true => writeln!(text, "{name:<22} {origin:<width$}  {value}"),
                false => writeln!(text, "{name:<22} {value}"),
            };
        }
    }
    text
}
