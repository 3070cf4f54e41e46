//! The settings of the decision service.
//!
//! Owns reading them. Asking the service is the business of `http/decision_service.rs`.

use std::time::Duration;

use super::reader::Reader;
use crate::http::decision_service::{OnFailure, Settings};

/// The text does not repeat the URL, which may hold a secret.
#[derive(Debug, thiserror::Error)]
#[error("is not a URL such as http://localhost:8080/decide")]
struct UrlError;

/// The service to ask about each message; `None` if none is given.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<Settings> {
    let timeout = reader.duration(
        "policy-timeout",
        Duration::from_millis(10)..=Duration::from_secs(60),
    );
    let concurrency = usize::from(reader.number("policy-concurrency", 1..=1_000));
    let on_failure = reader.choice(
        "policy-failure",
        &[("closed", OnFailure::Refuse), ("open", OnFailure::Pass)],
    );
    let url = reader.parse("policy-url", |text| match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => Err(UrlError),
    })?;
    Some(Settings {
        url,
        timeout,
        concurrency,
        on_failure,
    })
}
