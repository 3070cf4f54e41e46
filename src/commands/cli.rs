//! The command line: what each command takes, and its body.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 usage or configuration.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::auth::acl;
use crate::commands::watch::Filters;
use crate::commands::{check, explain, stored, token, webhooks};
use crate::config::PolicyFile;
use crate::config::{Config, ConfigErrors, Credentials, Flags, SETTINGS, Setting, Takes, variable};
use crate::http::server;
use crate::observer;
use crate::rules::policy::Policy;
use crate::store::StoreLocation;
use crate::telemetry;
use crate::telemetry::status::Outcome;

/// A token that ends within this time is warned of at the start.
const ENDS_SOON: Duration = Duration::from_secs(24 * 3600);

/// How often to look whether the policy file has changed.
const REREAD: Duration = Duration::from_secs(1);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand().expect("clap asks for a command") {
        ("run", given) => in_runtime(run(given)),
        ("explain", given) => explain(given),
        ("store", given) => stored::store(given),
        ("group", given) => stored::group(given),
        ("block", given) => stored::block(given),
        ("webhook", given) => webhooks::webhook(given),
        ("watch", given) => in_runtime(watch(given)),
        ("token", given) => token::token(given),
        ("acl", given) => acl(given),
        ("check", given) => in_runtime(run_check(given)),
        ("health", given) => in_runtime(health(given)),
        #[cfg(feature = "demo")]
        ("demo", given) => in_runtime(crate::commands::demo::run(
            given.get_flag("once"),
            given.get_one("port").copied(),
        )),
        ("man", given) => man(given),
        ("completions", given) => {
            let shell = *given
                .get_one::<clap_complete::Shell>("shell")
                .expect("clap asks for it");
            clap_complete::generate(
                shell,
                &mut command(),
                "chat21-observer",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
        (other, _) => unreachable!("clap knows no command {other:?}"),
    };
    done.unwrap_or_else(|error| {
        if let Some(errors) = error.downcast_ref::<ConfigErrors>() {
            let count = errors.0.len();
            eprintln!(
                "error: {count} mistake{} in the settings\n{errors}",
                if count == 1 { "" } else { "s" }
            );
            return ExitCode::from(2);
        }
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The whole command line, also for completions.
pub fn command() -> Command {
    let settings: Vec<Arg> = std::iter::once(config_arg())
        .chain(SETTINGS.iter().map(setting_arg))
        .collect();
    let json = || {
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("print JSON, for programs")
    };
    let of_group = || {
        [
            Arg::new("APP").required(true).help("the app"),
            Arg::new("GROUP").required(true).help("the group"),
        ]
    };
    let of_users = |names: &'static [&'static str]| {
        names.iter().map(|name| {
            let help = match *name {
                "APP" => "the app",
                "USER" => "the user",
                _ => "whom he does not want to hear",
            };
            Arg::new(*name).required(true).help(help)
        })
    };
    let command = Command::new("chat21-observer")
        .version(concat!(env!("CARGO_PKG_VERSION"), env!("OBSERVER_BUILT_OF")))
        .about("Turns an MQTT broker into a Chat21 messaging backend: what users write to their outgoing paths, it publishes into inboxes")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("run").about("Run the observer").args(&settings))
        .subcommand(
            Command::new("explain")
                .about("Say what the observer would do with a publish to TOPIC, and why; connects to nothing")
                .arg(Arg::new("TOPIC").required(true).help("a topic name"))
                .arg(Arg::new("payload").long("payload").value_name("TEXT").help("the payload; a small JSON object if not given"))
                .arg(json())
                .args(&settings),
        )
        .subcommand(
            Command::new("check")
                .about("Connect, and prove that messages would pass: login, session, subscriptions, a round trip; with a probe user, that he reaches nothing of others'")
                .arg(Arg::new("probe-token-file").long("probe-token-file").value_name("FILE").conflicts_with("probe-password-file").help("an ordinary user's token"))
                .arg(Arg::new("probe-user").long("probe-user").value_name("USER").help("an ordinary user; with a token, whom it is for if not given"))
                .arg(Arg::new("probe-password-file").long("probe-password-file").value_name("FILE").requires("probe-user").help("file with his password"))
                .arg(Arg::new("probe-app").long("probe-app").value_name("APP").help("his app; the token's, or the first of --app, if not given"))
                .arg(json())
                .args(&settings),
        )
        .subcommand(
            Command::new("store")
                .about("Look at what is stored, or delete what is old; safe while the observer runs")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(Command::new("stats").about("Count what there is").arg(json()).args(&settings))
                .subcommand(
                    Command::new("export")
                        .about("Print a timeline, oldest message first, one JSON object a line; all of an inbox without OTHER")
                        .arg(Arg::new("APP").required(true).help("the app"))
                        .arg(Arg::new("USER").required(true).help("whose timeline, a user or a group"))
                        .arg(Arg::new("OTHER").help("with whom, a user or a group (a group's own timeline is with itself)"))
                        .args(&settings),
                )
                .subcommand(
                    Command::new("prune")
                        .about("Delete messages older than AGE")
                        .arg(Arg::new("AGE").required(true).help("such as 90d"))
                        .args(&settings),
                )
                .subcommand(Command::new("check").about("Check that the database is sound").args(&settings)),
        )
        .subcommand(
            Command::new("group")
                .about("Look at and change stored groups; the running observer goes by it at once, and tells nobody")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    Command::new("list")
                        .about("List them, with how many members they have")
                        .arg(Arg::new("APP").help("of this app only"))
                        .arg(json())
                        .args(&settings),
                )
                .subcommand(Command::new("show").about("Print a group object").args(of_group()).args(&settings))
                .subcommand(
                    Command::new("set")
                        .about("Store a group object, in place of the one there may be")
                        .args(of_group())
                        .arg(Arg::new("FILE").required(true).help("the group object in JSON; - for standard input"))
                        .args(&settings),
                )
                .subcommand(Command::new("remove").about("Forget a group").args(of_group()).args(&settings)),
        )
        .subcommand(
            Command::new("block")
                .about("Look at and change who may not write to whom; the running observer goes by it at once, and tells nobody")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(
                    Command::new("list")
                        .about("List bans and blocks")
                        .arg(Arg::new("APP").help("of this app only"))
                        .arg(Arg::new("USER").help("that concern this user only, on either side"))
                        .arg(json())
                        .args(&settings),
                )
                .subcommand(Command::new("set").about("Have USER block OTHER, as if he had said so").args(of_users(&["APP", "USER", "OTHER"])).args(&settings))
                .subcommand(Command::new("clear").about("Have him block OTHER no longer").args(of_users(&["APP", "USER", "OTHER"])).args(&settings))
                .subcommand(Command::new("ban").about("Refuse whatever USER says").args(of_users(&["APP", "USER"])).args(&settings))
                .subcommand(Command::new("unban").about("Refuse it no longer").args(of_users(&["APP", "USER"])).args(&settings)),
        )
        .subcommand(webhooks::command(&settings))
        .subcommand(
            Command::new("watch")
                .about("Show the messages that a running observer handles, as they pass: from anywhere, over MQTT")
                .arg(Arg::new("user").long("user").value_name("USER").action(ArgAction::Append).help("only messages from or to this user or group"))
                .arg(
                    Arg::new("outcome")
                        .long("outcome")
                        .value_name("OUTCOME")
                        .action(ArgAction::Append)
                        .value_parser(Outcome::ALL.map(Outcome::as_str))
                        .help("only messages with this outcome"),
                )
                .arg(json())
                .args(&settings),
        )
        .subcommand(token::command(&settings))
        .subcommand(
            Command::new("acl")
                .about("Print the broker's configuration that lets each user write on his own outgoing paths and read his own inbox, and nothing else")
                .arg(Arg::new("BROKER").required(true).value_parser(["rabbitmq", "mosquitto", "emqx"]))
                .arg(Arg::new("part").long("part").value_name("NAME").help("print this file alone, as it is: conf, users, tokens, advanced, acl"))
                .arg(Arg::new("before-3.13").long("before-3.13").action(ArgAction::SetTrue).help("for RabbitMQ 3.8 to 3.12, whose settings have other names"))
                .args(&settings),
        )
        .subcommand(Command::new("health").about("Ask the running observer whether it is ready (exit code 0 or 1)").args(&settings))
        .subcommand(
            Command::new("man")
                .about("Print a manual page, of the program or of one command")
                .arg(Arg::new("COMMAND").num_args(0..).help("such as run, or token mint user")),
        )
        .subcommand(Command::new("completions").about("Print a completion script").arg(
            Arg::new("shell").required(true).value_parser(clap::builder::EnumValueParser::<clap_complete::Shell>::new()),
        ));
    #[cfg(feature = "demo")]
    let command = command.subcommand(
        Command::new("demo")
            .about("Everything in one process, nothing to install: a broker, the observer, and two users who talk")
            .arg(Arg::new("once").long("once").action(ArgAction::SetTrue).help("stop after the conversation"))
            .arg(Arg::new("port").long("port").value_name("PORT").value_parser(clap::value_parser!(u16)).help("the broker's port; 1883 or a free one if not given")),
    );
    command
}

fn config_arg() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("settings in TOML, keys named like the flags [env: OBSERVER_CONFIG]")
}

fn setting_arg(setting: &Setting) -> Arg {
    let mut help = setting.help.to_owned();
    if !setting.default.is_empty() && setting.takes != Takes::Switch {
        let _ = write!(help, " [default: {}]", setting.default);
    }
    let _ = write!(help, " [env: {}]", variable(setting.name));
    let arg = Arg::new(setting.name).long(setting.name).help(help);
    match setting.takes {
        Takes::Value(name) => arg.value_name(name).action(ArgAction::Set),
        Takes::List(name) => arg.value_name(name).action(ArgAction::Append),
        Takes::Switch => arg.action(ArgAction::SetTrue),
    }
}

pub(super) fn text<'a>(given: &'a ArgMatches, name: &str) -> &'a str {
    given.get_one::<String>(name).expect("clap asks for it")
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) fn load(given: &ArgMatches) -> Result<Config, ConfigErrors> {
    let mut flags = Flags::new();
    for setting in SETTINGS {
        match setting.takes {
            Takes::Switch if given.get_flag(setting.name) => {
                drop(flags.insert(setting.name, vec!["true".to_owned()]))
            }
            Takes::Switch => {}
            Takes::Value(_) | Takes::List(_) => {
                if let Some(texts) = given.get_many::<String>(setting.name) {
                    flags.insert(setting.name, texts.cloned().collect());
                }
            }
        }
    }
    let file = given.get_one::<PathBuf>("config").cloned().or_else(|| {
        environment("OBSERVER_CONFIG")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    });
    Config::load(&flags, &environment, file.as_deref())
}

/// One thread carries the whole way of a message: with two connections and a few microseconds of work, passing messages between
/// threads would cost more than it gains.
fn in_runtime<F: Future<Output = anyhow::Result<ExitCode>>>(body: F) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(body)
}

async fn run(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let log = telemetry::init(config.log_format, &config.log_level);
    for warning in &config.warnings {
        warn!("{warning}");
    }
    if let Some(warning) = config.identity_warning() {
        warn!("{warning}");
    }
    if let Some(left) = config
        .credentials()
        .token_remaining()
        .filter(|left| *left < ENDS_SOON)
    {
        warn!(left = %humantime::format_duration(left), "the token ends soon: the broker will close the connection then");
    }
    let (policy_tx, policy) = watch::channel(config.router.policy.clone());
    let setup = observer::Setup {
        name: config.name.clone(),
        links: config.links()?,
        router: config.router.clone(),
        policy,
        consult: config.consult.clone(),
        store: config.store.clone(),
        publishers: config.publishers,
        ack_timeout: config.ack_timeout,
        drain_timeout: config.drain_timeout,
        reset_session: config.reset_session,
        http_listen: config.http_listen,
        webhooks: config.webhooks.clone(),
        reporting: observer::Reporting {
            status: config.status,
            supervised: true,
            trace: config.trace,
            stats_interval: config.stats_interval,
            log_level: log.map(|log| (config.log_level.clone(), log)),
        },
    };
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let hangup = signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?;
    let on_signal = {
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
            // A second signal means: now.
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(1);
        }
    };
    let (ready_tx, ready_rx) = oneshot::channel::<observer::Ready>();
    let announce = async {
        if let Ok(ready) = ready_rx.await {
            let session = if ready.connected.session_present {
                "resumed"
            } else {
                "new"
            };
            let layouts: Vec<&str> = config
                .router
                .layouts
                .iter()
                .map(crate::protocol::layout::Layout::name)
                .collect();
            let http = ready
                .http
                .map(|http| format!(", health on http://{http}/readyz"))
                .unwrap_or_default();
            let store = match config.store.as_ref().map(|settings| &settings.place) {
                Some(StoreLocation::File(path)) => format!(", store {}", path.display()),
                Some(StoreLocation::Memory) | None => ", no store".to_owned(),
            };
            let mut out = std::io::stdout();
            let line = format!(
                "ready: {} ({}), session {session}, layouts {}{store}{http}",
                config.broker,
                ready.connected.protocol,
                unique(&layouts).join(" ")
            );
            // Whoever closed our standard output does not want the line.
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        stopped = observer::run(setup, stop, ready_tx) => {
            stopped?;
            Ok(ExitCode::SUCCESS)
        }
        () = announce => unreachable!("announcing never ends"),
        () = reread(&config.policy_file, &policy_tx, hangup) => unreachable!("rereading never ends"),
        () = on_signal => unreachable!("a second signal ends the process"),
    }
}

/// Reads the policy file again when it has changed, and on SIGHUP. What is faulty is reported, and the rules there were stay.
async fn reread(file: &PolicyFile, policy: &watch::Sender<Arc<Policy>>, mut hangup: Signal) {
    let (mut stamp, mut before) = (file.first_stamp(), None);
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
        // One that is still being written may look like one with fewer rules: it has to stand as it is for a while.
        let settled = before.replace(now.clone()).as_ref() == Some(&now);
        if !asked && (now == stamp || !settled) {
            continue;
        }
        stamp = now;
        match file.read() {
            Ok(read) => {
                info!(file = %path.display(), apps = read.apps.len(), "new rules are in force");
                policy.send_replace(Arc::new(read));
            }
            Err(errors) => {
                for fault in errors.0 {
                    error!(%fault, "the policy file is faulty: the rules there were stay in force");
                }
            }
        }
    }
}

fn unique<'a>(names: &[&'a str]) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(name) {
            seen.push(*name);
        }
    }
    seen
}

/// Only what goes wrong, unless more is asked for: the result is what is printed.
fn init_quiet_log(config: &Config) {
    let level = if config.log_level == "info" {
        "error"
    } else {
        &config.log_level
    };
    telemetry::init(config.log_format, level);
}

async fn watch(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    init_quiet_log(&config);
    let texts = |name| {
        given
            .get_many(name)
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    };
    let filters = Filters {
        users: texts("user"),
        outcomes: texts("outcome"),
    };
    tokio::select! {
        ended = crate::commands::watch::run(&config, &filters, given.get_flag("json")) => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn health(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let Some(mut address) = config.http_listen else {
        anyhow::bail!("health is switched off (--http-listen none)")
    };
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    server::probe(address).await.map_err(anyhow::Error::msg)?;
    println!("ready");
    Ok(ExitCode::SUCCESS)
}

/// The ordinary user whose reach `check` is to try.
fn probe(given: &ArgMatches, config: &Config) -> anyhow::Result<Option<check::Probe>> {
    let value = |name| given.get_one::<String>(name).cloned();
    let user = value("probe-user");
    let (credentials, claims) = match (value("probe-token-file"), value("probe-password-file")) {
        (Some(file), _) => {
            let credentials = Credentials::of_file(None, file.as_ref());
            let credentials = credentials.map_err(anyhow::Error::msg)?;
            let claims = credentials.claims();
            (credentials, claims)
        }
        (None, Some(file)) => {
            let credentials = Credentials::of_file(user.as_deref(), file.as_ref());
            (credentials.map_err(anyhow::Error::msg)?, None)
        }
        (None, None) => return Ok(None),
    };
    let (sub, app_id) = claims.map_or((None, None), |claims| (claims.sub, claims.app_id));
    let user = user.or(sub);
    let app = value("probe-app").or(app_id);
    let app = app.or_else(|| config.router.layouts.apps().first().cloned());
    Ok(Some(check::Probe {
        user: user.context("the token does not say whom it is for: give --probe-user")?,
        app: app.context("the probe's app is not known: give --probe-app")?,
        credentials,
    }))
}

async fn run_check(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    init_quiet_log(&config);
    let probe = probe(given, &config)?;
    let steps = check::run(&config, probe.as_ref()).await;
    if given.get_flag("json") {
        println!("{}", serde_json::to_string_pretty(&steps)?);
    } else {
        println!("{}", check::table(&config, &steps));
    }
    Ok(
        if steps
            .iter()
            .any(|step| step.outcome == check::Outcome::Failed)
        {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        },
    )
}

fn man(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let mut command = command();
    // Names every command by its whole path.
    command.build();
    for name in given.get_many::<String>("COMMAND").into_iter().flatten() {
        let found = command.find_subcommand(name).cloned();
        command = found.with_context(|| format!("there is no command {name:?}"))?;
    }
    clap_mangen::Man::new(command)
        .render(&mut std::io::stdout())
        .context("cannot write")?;
    Ok(ExitCode::SUCCESS)
}

fn acl(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let layouts = &config.router.layouts;
    let observer = config.credentials().username().unwrap_or("observer");
    let minter = config.minter();
    let broker = text(given, "BROKER");
    let parts = match broker {
        "rabbitmq" => {
            let about = acl::RabbitMq {
                observer,
                audience: minter.map_or("rabbitmq", |minter| &minter.audience),
                key_id: minter
                    .and_then(|minter| minter.key_id.as_deref())
                    .unwrap_or("tiledesk-key"),
                window: config.window,
                session_expiry: config.session_expiry().as_secs(),
                before_3_13: given.get_flag("before-3.13"),
            };
            acl::rabbitmq(layouts, &about)
        }
        "mosquitto" => acl::mosquitto(layouts, observer),
        _ => acl::emqx(layouts, observer),
    };
    if layouts.apps().is_empty() {
        eprintln!(
            "warning: without --app a user may write in any app, and each has its own rates, bans and groups: name those there are"
        );
    }
    match given.get_one::<String>("part") {
        Some(name) => {
            let part = parts.iter().find(|part| part.name == name);
            let names: Vec<&str> = parts.iter().map(|part| part.name).collect();
            let part =
                part.with_context(|| format!("--part {name:?} is none of {}", names.join(", ")))?;
            print!("{}", part.text);
        }
        None => {
            for (at, part) in parts.iter().enumerate() {
                let gap = if at > 0 { "\n" } else { "" };
                println!("{gap}===== {} (--part {})\n", part.place, part.name);
                print!("{}", part.text);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn explain(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let topic = given.get_one::<String>("TOPIC").expect("clap asks for it");
    let payload = given.get_one::<String>("payload").map(String::as_str);
    let explanation = explain::explain(&config, topic, payload)?;
    if given.get_flag("json") {
        println!("{}", serde_json::to_string_pretty(&explanation)?);
    } else {
        print!("{}", explanation.text());
    }
    Ok(if explanation.reason.is_none() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
