//! `store copy`: moves a store from a file into PostgreSQL, or back.
//!
//! Owns what the operator is told, and the client identifier, which a store in a file has in a file
//! beside it. Killed in between, the same command goes on.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::cli::CopyArgs;
use super::output::Output;
use crate::auth::secret::Secret;
use crate::config::{parse_location, write_private};
use crate::store::StoreLocation;
use crate::store::transfer::{self, Copy, Part, Step};
use crate::telemetry::clock::Clock;

/// Between two lines about how far it is.
const REPORT: Duration = Duration::from_secs(5);

pub(super) fn run(args: &CopyArgs, out: Output) -> anyhow::Result<ExitCode> {
    let password = match &args.store_password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("cannot read {file}"))?;
            Some(Secret::new(text.trim_end().to_owned()))
        }
        None => None,
    };
    let place = |name: &'static str, text: &str| {
        // It may hold a password, by mistake.
        parse_location(text, password.as_ref(), "store copy").context(name)
    };
    let (from, to) = (place("FROM", &args.from)?, place("TO", &args.to)?);
    if is_one(&from, &to) {
        bail!("{from} is named twice: a store is copied into another");
    }
    let source = transfer::open(&from)?;
    let kept = kept_secret(&from, args.client_id_file.as_deref())?;
    let mut copy = transfer::open_or_make(&to)?;
    let begun = Copy::begin(&*source, &mut *copy, &from.to_string());
    let mut running = begun.with_context(|| to.to_string())?;
    let mut progress = Progress::new(out);
    while let Some(step) = running.step()? {
        progress.note("copied", step);
    }
    let mut compared = Progress::new(out);
    let copied = running.compare(&mut |step| compared.note("compared", step));
    copied.with_context(|| to.to_string())?;
    if let Some(secret) = running.secret()?.or_else(|| kept.clone()) {
        keep_secret(&to, &secret, out)?;
    }
    running.finish(kept).with_context(|| to.to_string())?;
    out.text(&summary(&compared, &to))?;
    Ok(ExitCode::SUCCESS)
}

/// Whether both are one store, by whatever paths its file is reached.
fn is_one(from: &StoreLocation, to: &StoreLocation) -> bool {
    if let (StoreLocation::File(from), StoreLocation::File(to)) = (from, to)
        && let (Ok(from), Ok(to)) = (from.canonicalize(), to.canonicalize())
    {
        return from == to;
    }
    from.to_string() == to.to_string()
}

/// The file beside a store with the random part of the MQTT client identifiers.
fn secret_file(location: &StoreLocation) -> Option<PathBuf> {
    match location {
        StoreLocation::File(path) => Some(path.with_extension("client-id")),
        StoreLocation::Memory | StoreLocation::Postgres(_) => None,
    }
}

/// What the observer of the source is known by at the broker; `None` if the source keeps that
/// itself, or nobody wants it.
fn kept_secret(from: &StoreLocation, named: Option<&str>) -> anyhow::Result<Option<String>> {
    let path = match (named, secret_file(from)) {
        (Some("none"), _) | (None, None) => return Ok(None),
        (Some(named), _) => PathBuf::from(named),
        (None, Some(beside)) => beside,
    };
    let text = std::fs::read_to_string(&path).with_context(|| {
        let path = path.display();
        format!(
            "cannot read {path}, with which the observer finds its session at the broker again \
             (--client-id-file FILE if it is elsewhere, in the state directory; none if nothing \
             waits in the session, or the observer has --client-id)"
        )
    })?;
    Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty()))
}

fn keep_secret(to: &StoreLocation, secret: &str, out: Output) -> anyhow::Result<()> {
    let Some(path) = secret_file(to) else {
        return Ok(());
    };
    let is_other = |path: &Path| std::fs::read_to_string(path).is_ok_and(|kept| kept != secret);
    if is_other(&path) {
        out.message(format_args!(
            "{} is of another session at the broker, and stays as it is: delete it, and run the \
             same command with an empty store, if messages wait in the session of the source",
            path.display()
        ));
        return Ok(());
    }
    write_private(&path, secret).with_context(|| format!("cannot write {}", path.display()))
}

/// Rows of each part, and when something was said of them.
struct Progress {
    out: Output,
    rows: Vec<(Part, usize)>,
    reported: Instant,
    rows_reported: usize,
}

impl Progress {
    fn new(out: Output) -> Self {
        Self {
            out,
            rows: vec![],
            reported: Clock.now().instant,
            rows_reported: 0,
        }
    }

    fn note(&mut self, what: &str, Step { part, rows }: Step) {
        match self.rows.last_mut() {
            Some((last, count)) if *last == part => *count += rows,
            Some(_) | None => {
                self.rows.push((part, rows));
                self.rows_reported = 0;
            }
        }
        let now = Clock.now().instant;
        let passed = now.duration_since(self.reported);
        if passed < REPORT {
            return;
        }
        let count = self.rows.last().map_or(0, |(_, count)| *count);
        let rate = (count - self.rows_reported) as u128 * 1_000 / passed.as_millis().max(1);
        let name = part.name();
        self.out
            .message(format_args!("{count} {name} {what}, {rate} a second"));
        (self.reported, self.rows_reported) = (now, count);
    }
}

fn summary(compared: &Progress, to: &StoreLocation) -> String {
    let mut text = String::new();
    for (part, rows) in &compared.rows {
        let _ = writeln!(text, "{rows:>10}  {}", part.name());
    }
    let _ = writeln!(
        text,
        "Both stores hold the same. Start the observer with --store {to}"
    );
    if let Some(path) = secret_file(to).filter(|path| path.exists()) {
        let path = path.display();
        let _ = writeln!(text, "and with {path} as NAME.client-id in its --state-dir");
    }
    text
}
