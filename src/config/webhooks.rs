//! The settings of the webhooks.

use std::time::Duration;

use super::{BOOL, Reader, parse_size};
use crate::auth::secret::Secret;
use crate::http::webhook;
use crate::rules::webhook_event::{EventKind, EventKinds};

/// An event that chat21-server lists and never raises.
const NEVER_RAISED: &str = "conversation-unarchived";

/// Who is told of what; `None`, if nobody is.
pub(super) fn read_webhooks(
    reader: &mut Reader<'_>,
    warnings: &mut Vec<String>,
) -> Option<webhook::Settings> {
    let enabled = reader.choice("webhook-enabled", BOOL);
    let timeout = reader.duration(
        "webhook-timeout",
        Duration::from_millis(100)..=Duration::from_secs(300),
    );
    let concurrency = usize::from(reader.number("webhook-concurrency", 1..=1_000));
    let max_age = reader.duration(
        "webhook-max-age",
        Duration::from_secs(1)..=Duration::from_secs(365 * 24 * 3600),
    );
    let max_bytes = reader.parse("webhook-queue", parse_size);
    let secret = reader.parse("webhook-secret-file", |path| {
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("cannot read {path}: {error}"))?;
        let text = text.trim();
        match webhook::signing_key(text) {
            Ok(_) => Ok(Secret::new(text.to_owned())),
            Err(fault) => Err(format!("the secret in {path} {fault}")),
        }
    });
    let mut words = reader.texts("webhook-events");
    if words.iter().any(|word| word == NEVER_RAISED) {
        words.retain(|word| word != NEVER_RAISED);
        warnings.push(format!(
            "--webhook-events: nothing raises {NEVER_RAISED:?}, it is passed over"
        ));
    }
    let kinds: Vec<_> = words
        .into_iter()
        .map(|word| {
            let known = EventKind::ALL.into_iter();
            let mut known = known.filter(|kind| kind.as_str() == word);
            known.next().ok_or_else(|| {
                let words: Vec<&str> = EventKind::ALL.map(EventKind::as_str).into();
                format!("{word:?} is none of {}", words.join(", "))
            })
        })
        .collect();
    let mut events = vec![];
    for kind in kinds {
        match kind {
            Ok(kind) => events.push(kind),
            Err(fault) => reader.fail("webhook-events", fault),
        }
    }
    let mut endpoints: Vec<webhook::Endpoint> = vec![];
    for text in reader.texts("webhook-endpoints") {
        match webhook::Endpoint::parse(&text) {
            Ok(endpoint) if endpoints.iter().any(|other| other.name == endpoint.name) => {
                let fault = format!(
                    "{} is there twice: what is told to each is kept by that name (user, password and query do not count)",
                    endpoint.name
                );
                reader.fail("webhook-endpoints", fault);
            }
            Ok(endpoint) => endpoints.push(endpoint),
            // Not the text, which may hold a secret.
            Err(fault) => reader.fail("webhook-endpoints", fault),
        }
    }
    if !enabled || endpoints.is_empty() {
        return None;
    }
    Some(webhook::Settings {
        endpoints,
        events: events.into_iter().collect::<EventKinds>(),
        timeout,
        concurrency,
        max_age,
        max_bytes: max_bytes.unwrap_or_default(),
        secret,
    })
}
