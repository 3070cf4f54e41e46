//! `webhook`: lists, retries and drops webhook deliveries, also while the observer runs.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use super::cli::{DeliveryArgs, Format, WebhookCommand};
use super::output::Output;
use super::store::{note_if_unserved, open_store};
use crate::protocol::time::UnixMillis;
use crate::store::{Selection, WebhookQueue, WebhookRow};
use crate::telemetry::clock::Clock;

pub(super) fn run(command: &WebhookCommand, out: Output) -> anyhow::Result<ExitCode> {
    match command {
        WebhookCommand::List {
            given_up,
            format,
            settings,
        } => {
            let store = open_store(&settings.load()?)?;
            let which = match given_up {
                true => Selection::GivenUp,
                false => Selection::All,
            };
            list(store.as_ref(), &which, format, out)?;
        }
        WebhookCommand::Retry(args) => {
            let config = args.settings.load()?;
            let mut store = open_store(&config)?;
            let which = selection(args);
            check_found(store.as_ref(), &which)?;
            let count = store.retry_webhooks(&which, Clock.now().wall)?;
            out.line(format_args!("{count} deliveries are tried again"))?;
            note_if_unserved(&config, out)?;
        }
        WebhookCommand::Drop(args) => {
            let mut store = open_store(&args.settings.load()?)?;
            let which = selection(args);
            check_found(store.as_ref(), &which)?;
            let count = store.drop_webhooks(&which)?;
            out.line(format_args!("{count} deliveries are forgotten"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The deliveries that the arguments mean: without any, those that were given up.
fn selection(args: &DeliveryArgs) -> Selection {
    if args.all {
        Selection::All
    } else if args.ids.is_empty() {
        Selection::GivenUp
    } else {
        Selection::Ids(args.ids.clone())
    }
}

/// An id that no delivery has is an error, and nothing is changed then; no delivery that was given
/// up is none.
fn check_found(store: &dyn WebhookQueue, which: &Selection) -> anyhow::Result<()> {
    let Selection::Ids(ids) = which else {
        return Ok(());
    };
    let found = store.webhooks(which)?;
    let is_missing = |id: &&String| found.iter().all(|delivery| delivery.id != **id);
    let missing: Vec<&str> = ids.iter().filter(is_missing).map(String::as_str).collect();
    anyhow::ensure!(
        missing.is_empty(),
        "no delivery has the id {}: nothing is changed",
        missing.join(" or ")
    );
    Ok(())
}

fn list(
    store: &dyn WebhookQueue,
    which: &Selection,
    format: &Format,
    out: Output,
) -> anyhow::Result<()> {
    let deliveries = store.webhooks(which)?;
    if format.json {
        out.json(&deliveries)?;
        return Ok(());
    }
    if deliveries.is_empty() {
        out.message("no deliveries");
    }
    let now = Clock.now().wall;
    for delivery in &deliveries {
        out.line(line(delivery, now))?;
    }
    Ok(())
}

fn line(delivery: &WebhookRow, now: UnixMillis) -> String {
    let millis = u64::try_from(delivery.created_at).unwrap_or(0);
    let created = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(millis));
    let error = match &delivery.error {
        Some(error) => format!(": {error}"),
        None => String::new(),
    };
    format!(
        "{} {created} {} {} {}, {} attempts{error}",
        delivery.id,
        delivery.event_type,
        delivery.endpoint,
        state(delivery.due, now),
        delivery.attempts,
    )
}

/// `due` is when the delivery is next attempted, in milliseconds since 1970; `None`: never.
fn state(due: Option<i64>, now: UnixMillis) -> String {
    let Some(due) = due else {
        return "given up".to_owned();
    };
    let left = u64::try_from(due)
        .unwrap_or(0)
        .saturating_sub(now.as_millis());
    if left == 0 {
        return "waits".to_owned();
    }
    let left = Duration::from_secs(left.div_ceil(1000));
    format!("again in {}", humantime::format_duration(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_waits_rests_or_is_given_up() {
        let now = UnixMillis::new(10_000);
        assert_eq!(state(None, now), "given up");
        assert_eq!(state(Some(10_000), now), "waits");
        assert_eq!(state(Some(-1), now), "waits");
        assert_eq!(state(Some(10_001), now), "again in 1s");
        assert_eq!(state(Some(100_000), now), "again in 1m 30s");
    }
}
