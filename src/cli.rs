//! The command line: what each command takes, and its body.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 usage or configuration.

#![expect(clippy::print_stdout, reason = "this is where results are printed")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::{Config, ConfigErrors, Flags, SETTINGS, Setting, Takes, variable};
use crate::layout::PayloadMode;
use crate::message::Received;
use crate::policy::Refusal;
use crate::routing::Router;
use crate::telemetry;
use crate::time::UnixMillis;
use crate::topic::{BrokerKind, amqp_key};
use crate::{check, daemon, http, id};

/// A token that ends within this time is warned of at the start.
const ENDS_SOON: Duration = Duration::from_secs(24 * 3600);

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let matches = command().get_matches();
    let done = match matches.subcommand().expect("clap asks for a command") {
        ("run", given) => in_runtime(run(given)),
        ("explain", given) => explain(given),
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
            let mut out = std::io::stdout();
            let line = format!(
                "ready: {} ({}), session {session}, layouts {}{http}",
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

/// What would become of a message.
#[derive(Debug, Serialize)]
struct Explanation {
    topic: String,
    amqp_routing_key: String,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message>,
    publishes: Vec<Copy>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Message {
    layout: String,
    payload: &'static str,
    filter: String,
    amqp_binding_key: String,
    app: String,
    sender: String,
    recipient: String,
    sender_scope: String,
    recipient_scope: String,
}

#[derive(Debug, Serialize)]
struct Copy {
    topic: String,
    amqp_routing_key: String,
    payload: String,
}

fn explain(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let topic = given.get_one::<String>("TOPIC").expect("clap asks for it");
    let payload = given
        .get_one::<String>("payload")
        .map_or(r#"{"text":"hello"}"#, String::as_str);
    let explanation = explain_topic(&config.router, topic, payload);
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

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: an explanation is of now"
)]
fn explain_topic(router: &Router, topic: &str, payload: &str) -> Explanation {
    let now = UnixMillis::from(std::time::SystemTime::now());
    let mut received = Received::new(topic.to_owned().into(), payload.to_owned().into(), false);
    received.cut_to(router.policy.max_payload_bytes);
    let id = id::MessageIds::new(std::hash::RandomState::new()).next(now);
    let plan = router.plan(&received, id, now);
    let parsed = router.layouts.parse(topic);
    let mut notes = vec![];
    if let Err(error) = BrokerKind::RabbitMq.carries(topic) {
        notes.push(format!("on RabbitMQ: {error}"));
    }
    if parsed.is_err()
        && let Some(layout) = router.layouts.inbox_layout(topic)
    {
        notes.push(format!(
            "this is an inbox path of layout {}: the observer writes there and never reads it",
            layout.name()
        ));
    }
    let because = match (&parsed, plan.refusal) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(_), Some(Refusal::NotAGroup)) => {
            Some("it is for a group, and without a store no group is known".to_owned())
        }
        (Ok(_), Some(reason)) => Some(format!(
            "the payload or an identifier is refused as {reason}"
        )),
        (Ok(_), None) => None,
    };
    let message = parsed.ok().map(|inbound| {
        let filter = router
            .layouts
            .filters()
            .into_iter()
            .find(|filter| filter.matches(topic))
            .map(|filter| filter.as_str().to_owned())
            .unwrap_or_default();
        let dot = if topic.starts_with('/') { "." } else { "" };
        let own = |user: id::UserId<'_>| format!("{dot}apps.{}.users.{user}.*", inbound.app);
        let outgoing = if topic.starts_with(&format!("apps/{}/outgoing/", inbound.app)) {
            format!("apps.{}.outgoing.users.{}.*", inbound.app, inbound.sender)
        } else {
            own(inbound.sender)
        };
        Message {
            layout: inbound.layout.name().to_owned(),
            payload: match inbound.layout.payload() {
                PayloadMode::Verbatim => "verbatim",
                PayloadMode::Envelope => "envelope",
            },
            amqp_binding_key: amqp_key(&filter),
            filter,
            app: inbound.app.to_string(),
            sender: inbound.sender.to_string(),
            recipient: inbound.recipient.to_string(),
            sender_scope: format!("rabbitmq.write:*/*/{outgoing}"),
            recipient_scope: format!("rabbitmq.read:*/*/{}", own(inbound.recipient)),
        }
    });
    let copy = |publish: &crate::routing::Publish| Copy {
        topic: publish.topic.to_string(),
        amqp_routing_key: amqp_key(publish.topic.as_str()),
        payload: String::from_utf8_lossy(&publish.payload).into_owned(),
    };
    Explanation {
        topic: topic.to_owned(),
        amqp_routing_key: amqp_key(topic),
        verdict: if plan.refusal.is_some() {
            "refused"
        } else {
            "forwarded"
        },
        reason: plan.refusal.map(Refusal::as_str),
        because,
        message,
        publishes: plan.publishes.iter().map(copy).collect(),
        notes,
    }
}

impl Explanation {
    fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |name: &str, text: &str| {
            let _ = writeln!(out, "{name:<11}{text}");
        };
        line("topic", &self.topic);
        line("AMQP key", &self.amqp_routing_key);
        if let Some(message) = &self.message {
            line(
                "layout",
                &format!("{} ({})", message.layout, message.payload),
            );
            line(
                "filter",
                &format!(
                    "{}   AMQP binding {}",
                    message.filter, message.amqp_binding_key
                ),
            );
            line("app", &message.app);
            line(
                "sender",
                &format!(
                    "{}   may write here with scope {}",
                    message.sender, message.sender_scope
                ),
            );
            line(
                "recipient",
                &format!(
                    "{}   reads his inbox with scope {}",
                    message.recipient, message.recipient_scope
                ),
            );
        }
        match (&self.reason, &self.because) {
            (Some(reason), Some(because)) => line(
                "verdict",
                &format!("{}: {reason}, because {because}", self.verdict),
            ),
            _ => line("verdict", self.verdict),
        }
        for publish in &self.publishes {
            line("publishes", &publish.topic);
            line("", &publish.payload);
        }
        for note in &self.notes {
            line("note", note);
        }
        out
    }
}
