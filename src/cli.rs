//! The command line: what each command takes, and its body.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 usage or configuration.

#![expect(clippy::print_stdout, reason = "this is where results are printed")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{Config, ConfigErrors, Flags, SETTINGS, Setting, Takes, variable};
use crate::group::Group;
use crate::id::{AppId, UserId};
use crate::store::{self, Place, Store};
use crate::telemetry;
use crate::time::UnixMillis;
use crate::{check, daemon, explain, http};

/// A token that ends within this time is warned of at the start.
const ENDS_SOON: Duration = Duration::from_secs(24 * 3600);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand().expect("clap asks for a command") {
        ("run", given) => in_runtime(run(given)),
        ("explain", given) => explain(given),
        ("store", given) => store(given),
        ("group", given) => group(given),
        ("check", given) => in_runtime(run_check(given)),
        ("health", given) => in_runtime(health(given)),
        #[cfg(feature = "demo")]
        ("demo", given) => in_runtime(crate::demo::run(
            given.get_flag("once"),
            given.get_one("port").copied(),
        )),
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
    let command = Command::new("chat21-observer")
        .version(env!("CARGO_PKG_VERSION"))
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
        .subcommand(Command::new("check").about("Connect, and prove that messages would pass: login, session, subscriptions, a round trip").arg(json()).args(&settings))
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
        .subcommand(Command::new("health").about("Ask the running observer whether it is ready (exit code 0 or 1)").args(&settings))
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

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn load(given: &ArgMatches) -> Result<Config, ConfigErrors> {
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
    telemetry::init(config.log_format, &config.log_level);
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
    let setup = daemon::Setup {
        name: config.name.clone(),
        links: config.links()?,
        router: config.router.clone(),
        store: config.store.clone(),
        publishers: config.publishers,
        ack_timeout: config.ack_timeout,
        drain_timeout: config.drain_timeout,
        reset_session: config.reset_session,
        http_listen: config.http_listen,
    };
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
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
    let (ready_tx, ready_rx) = oneshot::channel::<daemon::Ready>();
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
                .map(crate::layout::Layout::name)
                .collect();
            let http = ready
                .http
                .map(|http| format!(", health on http://{http}/readyz"))
                .unwrap_or_default();
            let store = match config.store.as_ref().map(|settings| &settings.place) {
                Some(Place::File(path)) => format!(", store {}", path.display()),
                Some(Place::Memory) | None => ", no store".to_owned(),
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
        stopped = daemon::run(setup, stop, ready_tx) => {
            stopped?;
            Ok(ExitCode::SUCCESS)
        }
        () = announce => unreachable!("announcing never ends"),
        () = on_signal => unreachable!("a second signal ends the process"),
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

async fn health(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let Some(mut address) = config.http_listen else {
        anyhow::bail!("health is switched off (--http-listen none)")
    };
    if address.ip().is_unspecified() {
        address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    http::probe(address).await.map_err(anyhow::Error::msg)?;
    println!("ready");
    Ok(ExitCode::SUCCESS)
}

async fn run_check(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    // Only what goes wrong; the result is the table.
    let level = if config.log_level == "info" {
        "error"
    } else {
        &config.log_level
    };
    telemetry::init(config.log_format, level);
    let steps = check::run(&config).await;
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

/// The store that an observer with these settings has.
fn store_path(config: &Config) -> anyhow::Result<&Path> {
    match config.store.as_ref().map(|settings| &settings.place) {
        Some(Place::File(path)) => Ok(path),
        Some(Place::Memory) | None => anyhow::bail!("there is no store (--store none)"),
    }
}

fn store(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let path = store_path(&config)?;
    let mut store = Store::visit(path)?;
    match what {
        "stats" => {
            let stats = store.stats(path)?;
            if given.get_flag("json") {
                println!("{}", serde_json::to_string_pretty(&stats)?);
            } else {
                print!("{}", stats_text(path, &stats));
            }
        }
        "export" => {
            let [app, user] = ["APP", "USER"].map(|name| text(given, name));
            let other = given.get_one::<String>("OTHER").map(String::as_str);
            let mut out = std::io::BufWriter::new(std::io::stdout().lock());
            let written = store.export(app, user, other, |line| {
                out.write_all(line).and_then(|()| out.write_all(b"\n"))
            })?;
            match written.and_then(|()| out.flush()) {
                // Whoever reads has seen enough.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                written => written.context("cannot write")?,
            }
        }
        "prune" => {
            let age = text(given, "AGE");
            let parsed = humantime::parse_duration(age)
                .with_context(|| format!("{age:?} is not a time such as 90d"))?;
            let pruned = store.prune_before(before(parsed))?;
            println!("{pruned} messages deleted that were older than {age}");
        }
        "check" => {
            let found = store.check()?;
            for fault in &found {
                println!("{fault}");
            }
            if !found.is_empty() {
                return Ok(ExitCode::FAILURE);
            }
            println!("{} is sound", path.display());
        }
        other => unreachable!("clap knows no command {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn text<'a>(given: &'a ArgMatches, name: &str) -> &'a str {
    given.get_one::<String>(name).expect("clap asks for it")
}

#[expect(clippy::disallowed_methods, reason = "the edge: an age is one of now")]
fn before(age: Duration) -> UnixMillis {
    let now = std::time::SystemTime::now();
    UnixMillis::from(now.checked_sub(age).unwrap_or(std::time::UNIX_EPOCH))
}

fn stats_text(path: &Path, stats: &store::Stats) -> String {
    let when = |time: Option<i64>| {
        let time = time.and_then(|millis| u64::try_from(millis).ok());
        time.map_or("-".to_owned(), |millis| {
            let time = std::time::UNIX_EPOCH + Duration::from_millis(millis);
            humantime::format_rfc3339_seconds(time).to_string()
        })
    };
    let mut out = format!("{}\n", path.display());
    for (name, value) in [
        ("messages", stats.messages.to_string()),
        ("copies", stats.copies.to_string()),
        ("conversations", stats.conversations.to_string()),
        ("inboxes", stats.inboxes.to_string()),
        ("groups", stats.groups.to_string()),
        ("blocks", stats.blocks.to_string()),
        ("clients", stats.clients.to_string()),
        ("oldest", when(stats.oldest)),
        ("newest", when(stats.newest)),
        ("used bytes", stats.used_bytes.to_string()),
        ("file bytes", stats.file_bytes.to_string()),
    ] {
        let _ = writeln!(out, "{name:<14}{value}");
    }
    out
}

fn group(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let mut store = Store::visit(store_path(&config)?)?;
    if what == "list" {
        let groups = store.groups(given.get_one::<String>("APP").map(String::as_str))?;
        if given.get_flag("json") {
            println!("{}", serde_json::to_string_pretty(&groups)?);
        }
        for group in groups.iter().filter(|_| !given.get_flag("json")) {
            println!("{} {} {} members", group.app, group.id, group.members);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let [app, id] = ["APP", "GROUP"].map(|name| text(given, name));
    AppId::parse(app).map_err(|error| anyhow::anyhow!("app {app:?} {error}"))?;
    UserId::parse(id).map_err(|error| anyhow::anyhow!("group {id:?} {error}"))?;
    match what {
        "show" => match store.group_body(app, id)? {
            Some(body) => println!("{body}"),
            None => anyhow::bail!("app {app:?} has no stored group {id:?}"),
        },
        "set" => {
            let file = text(given, "FILE");
            let body = match file {
                "-" => std::io::read_to_string(std::io::stdin()),
                file => std::fs::read_to_string(file),
            };
            let body = body.with_context(|| format!("cannot read {file}"))?;
            let group = Group::parse(&body)
                .and_then(|group| {
                    config.router.policy.check_recipients(&group.members)?;
                    Ok(group)
                })
                .map_err(|reason| {
                    anyhow::anyhow!(
                        r#"{file}: not an object with "members" whose keys are users, such as {{"members":{{"alice":1}}}}: {reason}"#
                    )
                })?;
            store.set_group(app, id, body.trim())?;
            println!("{app} {id} {} members", group.members.len());
        }
        "remove" => {
            if !store.remove_group(app, id)? {
                anyhow::bail!("app {app:?} has no stored group {id:?}");
            }
            println!("{app} {id} removed");
        }
        other => unreachable!("clap knows no command {other:?}"),
    }
    Ok(ExitCode::SUCCESS)
}
