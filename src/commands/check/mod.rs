//! `check`: connects, and proves step by step that messages would pass.
//!
//! It leaves a running observer alone: it logs in under client identifiers of its own, and serves
//! an app of its own. This file owns the order of the steps and their report; `broker` tries what
//! the broker does, `round_trip` an observer, `sharing` the exchange of slots, `services` the
//! operator's HTTP services, `probe` what an ordinary user can reach.

mod broker;
mod probe;
mod report;
mod round_trip;
mod services;
mod sharing;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;

use self::probe::Probe;
use self::report::{Form, Report};
use super::cli::{CheckArgs, ProbeArgs};
use super::init_quiet_log;
use super::output::Output;
use super::signals::Signals;
use super::text::terminal_width;
use crate::auth::credentials::Credentials;
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::connections::settings::LinkSettings;
use crate::mqtt::{Cause, LinkError, Session};
use crate::store::{self, Stats, StoreError, StoreLocation};
use crate::telemetry::clock::Clock;

/// How long a message may take there and back.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait for something that should come.
const WAIT: Duration = Duration::from_secs(3);
/// How long to wait for something that should not come, or may well not.
const GLIMPSE: Duration = Duration::from_millis(700);

/// What was sent just before an interruption may still make a session at the broker, for so long.
const SETTLES: Duration = Duration::from_secs(1);
/// The step before which there is no session.
const LOGIN: &str = "login";

const NO_PROBE: &str = "what ordinary users can reach was not tried: give one's credentials \
                        (--probe-token-file, or --probe-user and --probe-password-file)";

pub(super) async fn run(args: &CheckArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    init_quiet_log(&config);
    let probe = read_probe(&args.probe, &config)?;
    let form = match (args.format.json, args.verbose) {
        (true, _) => Form::Json,
        (false, true) => Form::Verbose,
        (false, false) => Form::Folded,
    };
    let mut report = Report::new(form, out, terminal_width());
    report.print(&config.broker.address);
    check_here(&config, &mut report);
    // From here on nothing blocks.
    let mut signals = Signals::listen()?;
    let links = config.visitor_links("check");
    tokio::select! {
        () = check(&config, &links, probe.as_ref(), &mut report) => {}
        () = signals.next() => {
            if report.has(LOGIN) {
                let discarded = async {
                    tokio::time::sleep(SETTLES).await;
                    let _ = broker::discard_session(&links).await;
                };
                tokio::select! {
                    () = discarded => {}
                    () = signals.next() => {}
                }
            }
            anyhow::bail!("interrupted");
        }
    }
    Ok(match report.finish()? {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// The ordinary user whose reach is to be tried, if one is given.
fn read_probe(args: &ProbeArgs, config: &Config) -> anyhow::Result<Option<Probe>> {
    let (credentials, claims) = match (&args.probe_token_file, &args.probe_password_file) {
        (Some(file), _) => {
            let credentials = Credentials::of_file(None, file.as_ref())?;
            let claims = credentials.claims();
            (credentials, claims)
        }
        (None, Some(file)) => {
            let credentials = Credentials::of_file(args.probe_user.as_deref(), file.as_ref());
            (credentials?, None)
        }
        (None, None) if args.probe_user.is_some() || args.probe_app.is_some() => {
            anyhow::bail!(
                "nothing is tried as an ordinary user without their password or token: \
                           give --probe-password-file or --probe-token-file"
            )
        }
        (None, None) => return Ok(None),
    };
    let (sub, app_id) = claims.map_or((None, None), |claims| (claims.sub, claims.app_id));
    let user = args.probe_user.clone().or(sub);
    let first_app = || config.rules.router.layouts.apps().first().cloned();
    let app = args.probe_app.clone().or(app_id).or_else(first_app);
    Ok(Some(Probe {
        user: user.context("the token does not say whom it is for: give --probe-user")?,
        app: app.context("the probe's app is not known: give --probe-app")?,
        credentials,
    }))
}

/// Tries what is on this machine, and the database.
fn check_here(config: &Config, report: &mut Report) {
    for warning in &config.warnings {
        report.note("settings", warning);
    }
    check_clock(config, report);
    check_store(config, report);
}

/// Tries everything else in order, and stops where going on makes no sense.
async fn check(config: &Config, links: &LinkSettings, probe: Option<&Probe>, report: &mut Report) {
    services::run(config, report).await;
    let connected = Box::pin(check_connected(config, links, probe, report));
    if let Err((step, error)) = connected.await {
        report.failed(step, error.to_string());
        if step != LOGIN {
            // The step has not come to deleting it.
            let _ = broker::discard_session(links).await;
        }
    }
}

/// The error is of the step it stopped at.
async fn check_connected(
    config: &Config,
    links: &LinkSettings,
    probe: Option<&Probe>,
    report: &mut Report,
) -> Result<(), (&'static str, LinkError)> {
    let at = |step| move |error| (step, error);
    let all_granted = broker::login_and_subscribe(config, links, report)
        .await
        .map_err(at(LOGIN))?;
    broker::anonymous(config, report).await;
    broker::session(config, links, report)
        .await
        .map_err(at("session"))?;
    Box::pin(round_trip::run(config, links, all_granted, report))
        .await
        .map_err(at("round trip"))?;
    Box::pin(sharing::run(config, links, report))
        .await
        .map_err(at("slots"))?;
    broker::identifiers(config, links, report).await;
    Box::pin(broker::window_and_redelivery(config, links, report))
        .await
        .map_err(at("window"))?;
    broker::waiting(config, links, report)
        .await
        .map_err(at("waiting"))?;
    match probe {
        Some(probe) => Box::pin(probe::run(config, probe, report))
            .await
            .map_err(at("probe")),
        None => {
            report.note("probe", NO_PROBE);
            Ok(())
        }
    }
}

fn check_clock(config: &Config, report: &mut Report) {
    let wall = Clock.now().wall;
    let now = UNIX_EPOCH + Duration::from_millis(wall.as_millis());
    let now = humantime::format_rfc3339_seconds(now);
    let credentials = &config.broker.credentials;
    if let Some(expired) = credentials.token_expired(wall) {
        report.failed("clock", format!("{now}: {expired}"));
    } else if let Some(left) = credentials.token_remaining(wall) {
        let left = humantime::format_duration(left);
        report.ok("clock", format!("{now}, the token ends in {left}"));
    } else {
        report.ok("clock", now.to_string());
    }
}

/// Whether the store can be written to, or can be made where there is none yet.
fn check_store(config: &Config, report: &mut Report) {
    let place = config.store.as_ref().map(|settings| &settings.location);
    let Some(place) = place.filter(|place| **place != StoreLocation::Memory) else {
        report.note("store", "none: direct messages pass, and little else");
        return;
    };
    if let StoreLocation::File(path) = place
        && matches!(path.try_exists(), Ok(false))
    {
        let dir = path.ancestors().skip(1).find(|dir| dir.is_dir());
        match dir.map(try_file_in) {
            Some(Ok(())) => report.ok(
                "store",
                format!("{place} is not there yet: the observer makes it"),
            ),
            Some(Err(_)) | None => report.failed("store", format!("{place} cannot be made there")),
        }
        return;
    }
    match try_store(place) {
        Err(StoreError::Missing(_) | StoreError::Empty(_)) => report.ok(
            "store",
            format!("{place} has no tables yet: the observer makes them"),
        ),
        Ok(stats) => report.ok(
            "store",
            format!(
                "{place} can be written to, and holds {} messages",
                stats.messages
            ),
        ),
        Err(error) => {
            let cause = match error.source() {
                Some(cause) => format!(": {cause}"),
                None => String::new(),
            };
            report.failed("store", format!("{place}: {error}{cause}"));
        }
    }
}

fn try_store(place: &StoreLocation) -> Result<Stats, StoreError> {
    let mut store = store::administer(place)?;
    store.try_write()?;
    store::check_settings(place)?;
    store.stats()
}

/// Makes a file in the directory, and removes it.
fn try_file_in(dir: &Path) -> std::io::Result<()> {
    let path = dir.join(format!(".chat21-observer-check-{}", std::process::id()));
    std::fs::write(&path, "")?;
    std::fs::remove_file(&path)
}

/// Connects. Tries again once where the broker closes at first: RabbitMQ 3.10 does so while it
/// still clears up the last connection of that client identifier.
async fn connect(links: LinkSettings, session: Session) -> Result<ProbeClient, LinkError> {
    match ProbeClient::connect(links.clone(), session).await {
        Err(error) if error.cause == Cause::Closed => {
            tokio::time::sleep(GLIMPSE).await;
            ProbeClient::connect(links, session).await
        }
        client => client,
    }
}
