//! `token`: makes tokens, and says what is in one.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use jsonwebtoken::dangerous::insecure_decode;
use serde_json::Value;

use super::cli::{load, text};
use crate::auth::token::{self, Grant, Scopes, Sessions};
use crate::config::Config;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;

/// The command line of `token`.
pub(super) fn command(settings: &[Arg]) -> Command {
    let ttl = || {
        Arg::new("ttl")
            .long("ttl")
            .value_name("TIME")
            .default_value("30d")
            .help("how long it is good")
    };
    let force = || {
        Arg::new("force")
            .long("force")
            .action(ArgAction::SetTrue)
            .help("make it even so: with a secret that everybody knows, or for an identifier that may reach others' paths")
    };
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("print JSON, for programs");
    let mint = Command::new("mint")
        .about("Print a token, signed with --jwt-key-file")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("user")
                .about("For a user: he may read and write under his own paths")
                .arg(Arg::new("APP").required(true).help("the app"))
                .arg(Arg::new("USER").required(true).help("the user"))
                .arg(
                    Arg::new("session")
                        .long("session")
                        .value_name("ID")
                        .help("the MQTT client identifier he may use, also with a \".\" and more behind it; his own identifier if not given"),
                )
                .arg(
                    Arg::new("any-session")
                        .long("any-session")
                        .action(ArgAction::SetTrue)
                        .conflicts_with("session")
                        .help("any client identifier, for clients that make theirs up, as the stock ones do: others' sessions are safe as long as their identifiers are not known"),
                )
                .arg(
                    Arg::new("vhost")
                        .long("vhost")
                        .value_name("NAME")
                        .default_value("/")
                        .help("RabbitMQ's virtual host for MQTT (mqtt.vhost)"),
                )
                .arg(
                    Arg::new("deployed-scopes")
                        .long("deployed-scopes")
                        .action(ArgAction::SetTrue)
                        .help("the scopes that Chat21 has always given: any session, and over AMQP every queue"),
                )
                .arg(ttl())
                .arg(force())
                .args(settings),
        )
        .subcommand(
            Command::new("service")
                .about("For a service, such as the observer: it may do everything")
                .arg(Arg::new("NAME").default_value("observer").help("its name"))
                .arg(ttl())
                .arg(force())
                .args(settings),
        );
    Command::new("token")
        .about("Make tokens for RabbitMQ, or look into one")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(mint)
        .subcommand(
            Command::new("inspect")
                .about("Say what a token holds, until when it is good, and with --jwt-key-file whether that key has signed it")
                .arg(Arg::new("FILE").default_value("-").help("file with the token; - for standard input"))
                .arg(json)
                .args(settings),
        )
}

/// Runs it.
pub(super) fn token(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    match given.subcommand().expect("clap asks for one") {
        ("mint", given) => mint(given),
        ("inspect", given) => inspect(given),
        (other, _) => unreachable!("clap knows no command {other:?}"),
    }
}

fn mint(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let minter = config.minter().context(
        "there is no key to sign with: give --jwt-key-file (the secret, or a private key in PEM or as a JWK)",
    )?;
    let key = minter.key().map_err(anyhow::Error::msg)?;
    let forced = given.get_flag("force");
    if key.is_published() && !forced {
        anyhow::bail!(
            "{} (--force makes the token even so)",
            key.weakness().unwrap_or_default()
        );
    }
    if let Some(weakness) = key.weakness() {
        eprintln!("warning: {weakness}");
    }
    let ttl = text(given, "ttl");
    let ttl = humantime::parse_duration(ttl)
        .ok()
        .filter(|ttl| ttl.as_secs() > 0)
        .with_context(|| format!("--ttl {ttl:?} is not a time such as 30d"))?;
    let token = match what {
        "user" => {
            let [app, user] = ["APP", "USER"].map(|name| text(given, name));
            let session = given.get_one::<String>("session").map_or(user, |id| id);
            for (what, id) in [("app", app), ("user", user), ("--session", session)] {
                check(what, id, forced)?;
            }
            let paths = config.router.layouts.user_paths_of(app);
            let scopes = if given.get_flag("deployed-scopes") {
                Scopes::Deployed
            } else {
                Scopes::Narrow {
                    paths: &paths,
                    vhost: text(given, "vhost"),
                    sessions: match given.get_flag("any-session") {
                        true => Sessions::Any,
                        false => Sessions::Of(session),
                    },
                }
            };
            minter.mint(&key, ttl, |stamp| Grant::user(app, user, scopes, stamp))
        }
        "service" => {
            let name = text(given, "NAME");
            minter.mint(&key, ttl, |stamp| Grant::service(name, stamp))
        }
        other => unreachable!("clap knows no command {other:?}"),
    };
    println!("{}", token.reveal());
    Ok(ExitCode::SUCCESS)
}

/// What an identifier may not be, because scopes would reach further than meant.
fn check(what: &str, id: &str, forced: bool) -> anyhow::Result<()> {
    let checked = match what {
        "app" => AppId::parse(id).map(drop),
        _ => UserId::parse(id).map(drop),
    };
    let fault = match checked {
        Err(error) => format!("{what} {id:?} {error}"),
        Ok(()) if id.contains('.') => format!(
            "{what} {id:?} holds a \".\": RabbitMQ takes it for a level break, and the token of \"{}\" reaches its paths",
            id.split('.').next().unwrap_or_default()
        ),
        Ok(()) => return Ok(()),
    };
    if !forced {
        anyhow::bail!("{fault} (--force makes the token even so)");
    }
    eprintln!("warning: {fault}");
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "the edge: whether a token is good now"
)]
fn now() -> UnixMillis {
    UnixMillis::from(std::time::SystemTime::now())
}

fn inspect(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = load(given)?;
    let file = text(given, "FILE");
    let token = match file {
        "-" => std::io::read_to_string(std::io::stdin()),
        file => std::fs::read_to_string(Path::new(file)),
    };
    let token = token.with_context(|| format!("cannot read {file}"))?;
    let decoded = insecure_decode::<Value>(token.trim())
        .map_err(|_| anyhow::anyhow!("{file}: not a JSON Web Token"))?;
    let signed = signed(&config, &token)?;
    let left = token::peek(&token).and_then(|claims| claims.remaining(now()));
    let validity = match left {
        None => "it never ends".to_owned(),
        Some(Ok(left)) => format!("good for another {}", humantime::format_duration(left)),
        Some(Err(ago)) => format!("ended {} ago", humantime::format_duration(ago)),
    };
    if given.get_flag("json") {
        let said = serde_json::json!({
            "header": decoded.header,
            "claims": decoded.claims,
            "validity": validity,
            "signed_with_this_key": signed,
        });
        println!("{}", serde_json::to_string_pretty(&said)?);
    } else {
        let claims = decoded.claims.as_object();
        let names = claims.into_iter().flatten().map(|(name, _)| name.len());
        let width = names.chain([9]).max().unwrap_or_default() + 1;
        println!(
            "{:<width$}{}",
            "header",
            serde_json::to_string(&decoded.header)?
        );
        for (name, value) in claims.into_iter().flatten() {
            let lines: Vec<String> = match value {
                Value::Array(values) => values.iter().map(plain).collect(),
                value @ (Value::Null
                | Value::Bool(_)
                | Value::Number(_)
                | Value::String(_)
                | Value::Object(_)) => vec![plain(value)],
            };
            for (at, line) in lines.iter().enumerate() {
                let time = match (&**name, value.as_u64()) {
                    ("iat" | "exp" | "nbf", Some(secs)) => humantime::format_rfc3339_seconds(
                        std::time::UNIX_EPOCH + std::time::Duration::from_secs(secs.min(1 << 37)),
                    )
                    .to_string(),
                    _ => String::new(),
                };
                let name = if at == 0 { name } else { "" };
                println!("{}", format!("{name:<width$}{line} {time}").trim_end());
            }
        }
        println!("{:<width$}{validity}", "validity");
        let signed = match signed {
            Some(true) => "made with this key (--jwt-key-file)",
            Some(false) => "NOT made with this key (--jwt-key-file)",
            None => "not checked (give --jwt-key-file)",
        };
        println!("{:<width$}{signed}", "signature");
    }
    let good = signed != Some(false) && !matches!(left, Some(Err(_)));
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether the key there is has signed it.
fn signed(config: &Config, token: &str) -> anyhow::Result<Option<bool>> {
    match config.minter() {
        Some(minter) => {
            let key = minter.key().map_err(anyhow::Error::msg)?;
            Ok(Some(key.has_signed(token)))
        }
        None => Ok(None),
    }
}
