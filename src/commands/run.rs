//! `run`: the observer itself, until a signal stops it.
//!
//! Owns the step from settings to an observer's [`Setup`], the lines of the log about its start,
//! the signals, and the rereading of the policy file. Leaves the work to `observer`.

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::settings::SettingsArgs;
use super::signals::Signals;
use crate::config::{Config, InForce, Origin, PolicyFile};
use crate::http::console;
use crate::observer::slots::{self, SlotReady};
use crate::observer::standby::{self, Attempt, Served};
use crate::observer::{Neighbourhood, ObserverError, Ready, Reporting, Setup};
use crate::protocol::layout::Layout;
use crate::rules::policy::Policy;
use crate::store::StoreLocation;
use crate::telemetry;
use crate::telemetry::clock::Clock;
use crate::telemetry::log::SENTENCE;

/// Remaining lifetime of a token below which the start warns of it.
const ENDS_SOON: Duration = Duration::from_secs(24 * 3600);
/// The pause before a process whose store fails stands by: others may take its place.
const PAUSE: Duration = Duration::from_millis(500);
/// How often to look whether the policy file has changed.
const REREAD: Duration = Duration::from_secs(1);

impl From<&Config> for Setup {
    /// What `run`, `check` and `demo` have in common. The links have a client identifier of their
    /// own, so that no running observer is disturbed. `run` then replaces the links, the policy
    /// channel and the reporting.
    fn from(config: &Config) -> Self {
        Self {
            name: config.name.clone(),
            links: config.visitor_links("observer"),
            router: config.rules.router.clone(),
            policy: watch::channel(config.rules.router.policy.clone()).1,
            consult: config.rules.decision_service.clone(),
            store: config.store.clone(),
            publishers: config.broker.publishers,
            ack_timeout: config.broker.ack_timeout,
            drain_timeout: config.broker.drain_timeout,
            reset_session: config.broker.reset_session,
            http_listen: config.http.listen,
            console: console::Settings {
                access: config.http.console,
                in_force: config.in_force.iter().map(shown).collect(),
                broker: config.broker.address.clone(),
                #[cfg(feature = "demo")]
                chat: None,
            },
            api: config.api.clone(),
            webhooks: config.webhooks.clone(),
            reporting: Reporting {
                status: config.reporting.status,
                neighbours: match config.reporting.allow_other_observers {
                    true => Neighbourhood::Allowed,
                    false => Neighbourhood::Refused,
                },
                supervised: false,
                trace: config.reporting.trace,
                stats_interval: config.reporting.stats_interval,
                log_level: None,
            },
            sharing: None,
        }
    }
}

/// A setting as the console shows it.
fn shown(setting: &InForce) -> console::ShownSetting {
    let (origin, place) = match &setting.origin {
        Origin::Default => ("default", None),
        Origin::Flag => ("flag", None),
        Origin::Variable(_) => ("environment", Some(setting.origin.to_string())),
        Origin::File { .. } => ("file", Some(setting.origin.to_string())),
    };
    console::ShownSetting {
        name: setting.name,
        value: setting.value.clone(),
        origin,
        place,
    }
}

pub(super) async fn run(settings: &SettingsArgs) -> anyhow::Result<ExitCode> {
    let config = settings.load()?;
    let log = telemetry::init(config.reporting.log_format, &config.reporting.log_level);
    log_start(&config, settings.file().as_deref());
    log_warnings(&config);
    let (policy_tx, policy) = watch::channel(config.rules.router.policy.clone());
    let mut setup = Setup::from(&config);
    setup.policy = policy;
    setup.reporting.supervised = true;
    setup.reporting.log_level = log.map(|log| (config.reporting.log_level.clone(), log));

    let signals = Signals::listen()?;
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let stop = CancellationToken::new();
    tokio::select! {
        stopped = serve(&config, &setup, &stop) => {
            stopped?;
            Ok(ExitCode::SUCCESS)
        }
        never = reread(&config.rules.policy_file, &policy_tx, hangup) => match never {},
        () = signals.stop(&stop) => Ok(ExitCode::FAILURE),
    }
}

/// Serves this process's share of the slots, until it is stopped.
async fn serve_slots(
    config: &Config,
    setup: &Setup,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let links = |slot: u16, suffix: &str| config.slot_links(slot, suffix);
    let (ready_tx, mut ready_rx) = mpsc::channel(1);
    let log_ready = async {
        while let Some(SlotReady { slot, ready }) = ready_rx.recv().await {
            let (number, of) = (slot.number(), slot.of());
            let session_present = ready.connected.session_present;
            let text = ready_text(config, &ready);
            let text = text.trim_start_matches("ready: ");
            let text = format!("ready: slot {number} of {of}, {text}");
            info!(target: SENTENCE, number, session_present, "{text}");
        }
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        served = slots::run(setup.clone(), &links, stop.clone(), ready_tx) => Ok(served?),
        never = log_ready => match never {},
    }
}

/// Serves whenever it is this process's turn, until it is stopped.
async fn serve(config: &Config, setup: &Setup, stop: &CancellationToken) -> anyhow::Result<()> {
    let location = setup.store.as_ref().map(|settings| &settings.location);
    if let Some(StoreLocation::Postgres(target)) = location
        && target.slots() > 1
    {
        return serve_slots(config, setup, stop).await;
    }
    let mut attempt = Attempt::First;
    loop {
        let Some(turn) = standby::wait(setup, attempt, stop).await? else {
            return Ok(());
        };
        let links = match turn.suffix() {
            Some(suffix) => config.shared_links(suffix),
            None => config.links()?,
        };
        let (ready_tx, ready_rx) = oneshot::channel();
        let served = tokio::select! {
            served = turn.serve(setup, links, stop, ready_tx) => served,
            never = log_ready(config, ready_rx) => match never {},
        };
        match served {
            Served::Stopped(Err(ObserverError::Store(fault))) if turn.may_come_again(&fault) => {
                error!(
                    error = %fault,
                    "the store fails: this process does not serve, and stands by"
                );
                // It passes, if it passes, not at once.
                drop(turn);
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    () = stop.cancelled() => return Ok(()),
                }
            }
            Served::Stopped(stopped) => return Ok(stopped?),
            Served::Lost => warn!(
                "the lease on the store has ended: this process serves no longer, and stands by"
            ),
            Served::OutOfReach => warn!(
                "it cannot reach the broker, and another process can: this process serves no \
                 longer, and stands by"
            ),
        }
        attempt = Attempt::Again;
    }
}

fn log_warnings(config: &Config) {
    for warning in &config.warnings {
        warn!("{warning}");
    }
    if let Some(warning) = config.identity_warning() {
        warn!("{warning}");
    }
    let left = config.broker.credentials.token_remaining(Clock.now().wall);
    if let Some(left) = left.filter(|left| *left < ENDS_SOON) {
        let left = humantime::format_duration(left);
        warn!(%left, "the token ends soon: the broker will close the connection then");
    }
}

/// Logs what starts here, with which settings.
fn log_start(config: &Config, file: Option<&Path>) {
    let version = env!("CARGO_PKG_VERSION");
    let (broker, name) = (&config.broker.address, &config.name);
    let user = config.broker.credentials.username();
    let login = match user {
        Some(user) => format!("as {user:?}"),
        None if config.broker.credentials.shows_token() => "with a token".to_owned(),
        None => "without a login".to_owned(),
    };
    let apps = match config.rules.router.layouts.apps() {
        [] => "every app".to_owned(),
        apps => format!("app {}", apps.join(" ")),
    };
    let (layouts, store) = (layouts(config), store(config));
    let file = file.map(|file| file.display().to_string());
    let settings = match &file {
        Some(file) => format!("settings from {file}"),
        None => "no configuration file".to_owned(),
    };
    info!(
        target: SENTENCE,
        version,
        name,
        broker,
        user,
        apps,
        layouts,
        store,
        file,
        "chat21-observer {version} ({name}): {broker} {login}, {apps}, layouts {layouts}, {store}, \
         {settings}"
    );
}

/// Names of the layouts. Those of one name, one for each app, are one to the operator.
fn layouts(config: &Config) -> String {
    let mut layouts: Vec<&str> = vec![];
    for name in config.rules.router.layouts.iter().map(Layout::name) {
        if !layouts.contains(&name) {
            layouts.push(name);
        }
    }
    layouts.join(" ")
}

fn store(config: &Config) -> String {
    match config.store.as_ref().map(|settings| &settings.location) {
        Some(StoreLocation::Memory) | None => "no store".to_owned(),
        Some(location) => format!("store {location}"),
    }
}

/// Logs that the observer is ready, once it is.
async fn log_ready(config: &Config, ready: oneshot::Receiver<Ready>) -> Infallible {
    if let Ok(ready) = ready.await {
        let broker = &config.broker.address;
        let protocol = ready.connected.protocol.to_string();
        let session_present = ready.connected.session_present;
        let text = ready_text(config, &ready);
        info!(target: SENTENCE, broker, protocol, session_present, "{text}");
    }
    std::future::pending().await
}

fn ready_text(config: &Config, ready: &Ready) -> String {
    let session = match ready.connected.session_present {
        true => "resumed",
        false => "new",
    };
    let (layouts, store) = (layouts(config), store(config));
    let http = match ready.http {
        Some(http) => format!(", health on http://{http}/readyz"),
        None => String::new(),
    };
    let api = match (ready.api, &config.api) {
        (Some(address), Some(api)) => format!(", API on http://{address}{}", api.base),
        (Some(_) | None, _) => String::new(),
    };
    format!(
        "ready: {} ({}), session {session}, layouts {layouts}, {store}{http}{api}",
        config.broker.address, ready.connected.protocol,
    )
}

/// Rereads the policy file when it has changed, and on SIGHUP. A faulty file is logged, and the
/// rules in force stay.
async fn reread(
    file: &PolicyFile,
    policy: &watch::Sender<Arc<Policy>>,
    mut hangup: Signal,
) -> Infallible {
    let (mut applied, mut seen) = (file.first_stamp(), None);
    let mut ticks = tokio::time::interval(REREAD);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => true,
            _ = ticks.tick(), if file.path().is_some() => false,
        };
        let Some(path) = file.path() else {
            info!("SIGHUP: there is no policy file to read again (--policy-file)");
            continue;
        };
        let now = file.stamp();
        // A file that is still being written may look complete and hold fewer rules: wait until it
        // has not changed between two looks.
        let settled = seen.replace(now.clone()).as_ref() == Some(&now);
        if !asked && (now == applied || !settled) {
            continue;
        }
        applied = now;
        match file.read() {
            Ok(read) => {
                info!(file = %path.display(), apps = read.apps.len(), "new rules are in force");
                policy.send_replace(Arc::new(read));
            }
            Err(errors) => {
                for fault in errors.0 {
                    error!(%fault, "the policy file is faulty: the previous rules stay in force");
                }
            }
        }
    }
}
