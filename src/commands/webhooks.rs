//! `webhook`: what services are still to be told, and what they were told in vain.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::cli::load;
use super::stored::{before, store_path};
use crate::store::{Selection, Store, WebhookRow};

/// The command and its parts.
pub(super) fn command(settings: &[Arg]) -> Command {
    let ids = || {
        Arg::new("ID")
            .num_args(0..)
            .help("a delivery's id, as list prints it and services see it (webhook-id)")
    };
    let switch = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    let all = |help| switch("all", help).conflicts_with("ID");
    Command::new("webhook")
        .about("Look at what services are still to be told, tell them again, or forget it; safe while the observer runs")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("list")
                .about("List deliveries that wait or were given up, oldest first")
                .arg(switch("given-up", "only those that were given up"))
                .arg(switch("json", "print JSON, for programs"))
                .args(settings),
        )
        .subcommand(
            Command::new("retry")
                .about("Have deliveries tried again, as soon as their service is asked next (one that fails rests for up to half a minute, or for as long as it wished): those that were given up, if no ID is given")
                .arg(ids())
                .arg(all("those that wait, too"))
                .args(settings),
        )
        .subcommand(
            Command::new("drop")
                .about("Forget deliveries: those that were given up, if no ID is given")
                .arg(ids())
                .arg(all("those that wait, too"))
                .args(settings),
        )
}

fn chosen(given: &ArgMatches) -> Selection {
    let ids: Vec<String> = given
        .get_many("ID")
        .into_iter()
        .flatten()
        .cloned()
        .collect();
    match ids {
        _ if given.get_flag("all") => Selection::All,
        ids if ids.is_empty() => Selection::GivenUp,
        ids => Selection::Ids(ids),
    }
}

pub(super) fn webhook(given: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (what, given) = given.subcommand().expect("clap asks for one");
    let config = load(given)?;
    let mut store = Store::open_shared(store_path(&config)?)?;
    let done = match what {
        "list" => {
            let only = given.get_flag("given-up");
            let listed = store.webhooks(if only {
                &Selection::GivenUp
            } else {
                &Selection::All
            })?;
            if given.get_flag("json") {
                println!("{}", serde_json::to_string_pretty(&listed)?);
                return Ok(ExitCode::SUCCESS);
            }
            let now = before(Duration::ZERO).as_millis();
            for delivery in &listed {
                println!("{}", line(delivery, now));
            }
            return Ok(ExitCode::SUCCESS);
        }
        "retry" => store.retry_webhooks(&chosen(given), before(Duration::ZERO))?,
        "drop" => store.drop_webhooks(&chosen(given))?,
        other => unreachable!("clap knows no command {other:?}"),
    };
    if let Selection::Ids(ids) = chosen(given)
        && done == 0
    {
        anyhow::bail!("no delivery has the id {}", ids.join(" or "));
    }
    let word = if what == "retry" {
        "are tried again"
    } else {
        "are forgotten"
    };
    println!("{done} deliveries {word}");
    Ok(ExitCode::SUCCESS)
}

fn line(delivery: &WebhookRow, now: u64) -> String {
    let at = u64::try_from(delivery.created_at).unwrap_or(0);
    let created = SystemTime::UNIX_EPOCH + Duration::from_millis(at);
    let created = humantime::format_rfc3339_seconds(created);
    let state = match delivery.due.map(|due| u64::try_from(due).unwrap_or(0)) {
        None => "given up".to_owned(),
        Some(due) if due > now => {
            let left = Duration::from_secs((due - now).div_ceil(1000));
            format!("again in {}", humantime::format_duration(left))
        }
        Some(_) => "waits".to_owned(),
    };
    let error = delivery.error.as_deref().map(|error| format!(": {error}"));
    format!(
        "{} {created} {} {} {state}, {} attempts{}",
        delivery.id,
        delivery.event_type,
        delivery.endpoint,
        delivery.attempts,
        error.unwrap_or_default()
    )
}
