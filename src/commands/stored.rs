//! The commands that look at the store and change it while the observer runs: `store`, `group`, `block`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::ArgMatches;

use super::cli::{load, text};
use crate::config::Config;
use crate::protocol::group::Group;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::checks::check_recipients;
use crate::store::{self, Store, StoreLocation};

/// The store that an observer with these settings has.
pub(super) fn store_path(config: &Config) -> anyhow::Result<&Path> {
    match config.store.as_ref().map(|settings| &settings.place) {
        Some(StoreLocation::File(path)) => Ok(path),
        Some(StoreLocation::Memory) | None => anyhow::bail!("there is no store (--store none)"),
    }
}

pub(super) fn store(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let path = store_path(&config)?;
    let mut store = Store::open_shared(path)?;
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

fn app_id(text: &str) -> anyhow::Result<AppId<'_>> {
    AppId::parse(text).map_err(|error| anyhow::anyhow!("app {text:?} {error}"))
}

fn user_id<'a>(what: &str, text: &'a str) -> anyhow::Result<UserId<'a>> {
    UserId::parse(text).map_err(|error| anyhow::anyhow!("{what} {text:?} {error}"))
}

#[expect(clippy::disallowed_methods, reason = "the edge: an age is one of now")]
pub(super) fn before(age: Duration) -> UnixMillis {
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
        ("bans", stats.bans.to_string()),
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

pub(super) fn group(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let mut store = Store::open_shared(store_path(&config)?)?;
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
    let checked = app_id(app)?;
    user_id("group", id)?;
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
                    let policy = &config.router.policy;
                    check_recipients(policy.rules(checked), policy.broker_kind, &group.members)?;
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

pub(super) fn block(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let mut store = Store::open_shared(store_path(&config)?)?;
    if what == "list" {
        let wanted = |name| given.get_one::<String>(name).map(String::as_str);
        let blocked = store.blocked(wanted("APP"), wanted("USER"))?;
        if given.get_flag("json") {
            println!("{}", serde_json::to_string_pretty(&blocked)?);
        }
        for blocked in blocked.iter().filter(|_| !given.get_flag("json")) {
            match &blocked.by {
                Some(by) => println!("{} {by} blocks {}", blocked.app, blocked.user),
                None => println!("{} {} is banned", blocked.app, blocked.user),
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let [app, user] = ["APP", "USER"].map(|name| text(given, name));
    app_id(app)?;
    user_id("user", user)?;
    let unchanged = match what {
        "set" | "clear" => {
            let other = text(given, "OTHER");
            user_id("user", other)?;
            let blocks = what == "set";
            let changed = store.set_block(app, user, other, blocks)?;
            let word = if blocks { "blocks" } else { "does not block" };
            println!("{app} {user} {word} {other}");
            !changed
        }
        "ban" | "unban" => {
            let bans = what == "ban";
            let changed = store.set_ban(app, user, bans, before(Duration::ZERO))?;
            let word = if bans { "banned" } else { "not banned" };
            println!("{app} {user} is {word}");
            !changed
        }
        other => unreachable!("clap knows no command {other:?}"),
    };
    if unchanged {
        eprintln!("that was so before");
    }
    Ok(ExitCode::SUCCESS)
}
