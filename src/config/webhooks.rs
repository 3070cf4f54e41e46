//! The section of the webhooks: who is told of which events.
//!
//! Owns reading these settings. Delivering events is the business of `http/webhook.rs`.

use std::time::Duration;

use super::reader::Reader;
use super::values::parse_size;
use crate::auth::secret::Secret;
use crate::http::webhook::{self, Endpoint};
use crate::protocol::control_topic::Controls;
use crate::rules::webhook_event::{EventKind, EventKinds};

/// An event that chat21-server lists and never raises.
const NEVER_RAISED: &str = "conversation-unarchived";

const IN_MEMORY: &str = "webhooks are kept in memory, for there is no store (--store none): what \
    they have not been told of is gone with the process, and they are told of messages only, not \
    of receipts, archiving and presence";
const NO_PRESENCE: &str = "webhooks are not told of presence-change: --presence-enabled is false";

/// Why a file does not hold a secret to sign deliveries with.
#[derive(Debug, thiserror::Error)]
enum SecretFileError {
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: std::io::Error },
    #[error("the secret in {path} {fault}")]
    NotASecret { path: String, fault: String },
}

/// Who is told of what; `None` if nobody is.
pub(super) fn read(reader: &mut Reader<'_>, controls: Controls) -> Option<webhook::Settings> {
    let enabled = reader.boolean("webhook-enabled");
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
    let secret = reader.parse("webhook-secret-file", read_signing_secret);
    let events = read_events(reader);
    let endpoints = read_endpoints(reader);
    if !enabled || endpoints.is_empty() {
        return None;
    }
    match controls {
        Controls::Off => reader.warn(IN_MEMORY),
        Controls::WithoutPresence if events.contains(EventKind::PresenceChange) => {
            reader.warn(NO_PRESENCE);
        }
        Controls::WithoutPresence | Controls::Served => {}
    }
    Some(webhook::Settings {
        endpoints,
        events,
        timeout,
        concurrency,
        max_age,
        max_bytes: max_bytes.unwrap_or_default(),
        secret,
    })
}

fn read_signing_secret(path: &str) -> Result<Secret, SecretFileError> {
    let text = std::fs::read_to_string(path).map_err(|error| SecretFileError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let secret = text.trim();
    webhook::signing_key(secret).map_err(|fault| SecretFileError::NotASecret {
        path: path.to_owned(),
        fault: fault.to_string(),
    })?;
    Ok(Secret::new(secret.to_owned()))
}

fn read_events(reader: &mut Reader<'_>) -> EventKinds {
    let mut events = vec![];
    for word in reader.texts("webhook-events") {
        let mut known = EventKind::ALL.iter();
        match known.find(|kind| kind.as_str() == word) {
            Some(kind) => events.push(*kind),
            None if word == NEVER_RAISED => reader.warn(format!(
                "--webhook-events: nothing raises {NEVER_RAISED:?}, it is passed over"
            )),
            None => {
                let words = EventKind::ALL.iter().map(|kind| kind.as_str());
                let words = words.collect::<Vec<_>>().join(", ");
                reader.fail("webhook-events", format!("{word:?} is none of {words}"));
            }
        }
    }
    events.into_iter().collect()
}

fn read_endpoints(reader: &mut Reader<'_>) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = vec![];
    for text in reader.texts("webhook-endpoints") {
        match Endpoint::parse(&text) {
            Ok(endpoint) if endpoints.iter().any(|other| other.name == endpoint.name) => {
                let fault = format!(
                    "{} is there twice: what is told to each is kept by that name (user, password \
                     and query do not count)",
                    endpoint.name
                );
                reader.fail("webhook-endpoints", fault);
            }
            Ok(endpoint) => endpoints.push(endpoint),
            // The fault does not repeat the text, which may hold a secret.
            Err(fault) => reader.fail("webhook-endpoints", fault),
        }
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;

    #[test]
    fn mistakes_in_the_webhooks_are_named_without_their_secrets() {
        let dir = tempfile::TempDir::new().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "kurz").unwrap();
        let errors = load(
            &[
                (
                    "webhook-endpoints",
                    "http://a:geheim@x/,http://x/?b,ftp://geheim/",
                ),
                ("webhook-events", "message-sent,new-message"),
                ("webhook-secret-file", secret.to_str().unwrap()),
                ("webhook-max-age", "0s"),
                ("webhook-queue", "many"),
                ("stats-interval", "0s"),
                ("http-listen", "nowhere"),
            ],
            &[],
            None,
        )
        .unwrap_err()
        .join("\n");
        for said in [
            "--webhook-endpoints: http://x/ is there twice",
            "--webhook-endpoints: one of them is not a URL such as",
            "--webhook-events: \"new-message\" is none of message-sent,",
            "is shorter than 16 bytes",
            "--webhook-max-age: ",
            "--webhook-queue: ",
            "--stats-interval: ",
            "neither an address such as 127.0.0.1:9180, nor a port, nor none",
        ] {
            assert!(errors.contains(said), "{said}\n{errors}");
        }
        assert!(
            !errors.contains("geheim") && !errors.contains("kurz"),
            "{errors}"
        );
    }
}
