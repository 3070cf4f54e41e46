//! What `check` tries of the operator's HTTP services: the decision service, the directory of
//! names, the endpoints of webhooks.
//!
//! Asks each with HEAD, which changes nothing there. It tells whether somebody is there: a service
//! that does not take that method says so.

use std::time::Duration;

use futures_util::future::join_all;

use super::report::{Report, Trial};
use crate::config::Config;
use crate::http::client::is_there;
use crate::http::decision_service::OnFailure;
use crate::http::webhook::Endpoint;

/// How long a service may take. That is about being there, not about being quick.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks those that there are in the settings.
pub(super) async fn run(config: &Config, report: &mut Report) {
    if let Some(service) = &config.rules.decision_service {
        let name = Endpoint::shown(&service.url);
        match (seen(&service.url).await, service.on_failure) {
            (Ok(text), _) => report.ok("policy", format!("{name}: {text}")),
            (Err(text), OnFailure::Refuse) => report.failed(
                "policy",
                format!("{name}: {text}: no message passes without it (--policy-failure closed)"),
            ),
            (Err(text), OnFailure::Pass) => report.note(
                "policy",
                format!("{name}: {text}: messages pass without it (--policy-failure open)"),
            ),
        }
    }
    if let Some(url) = &config.contacts {
        let name = Endpoint::shown(url);
        match seen(url).await {
            Ok(text) => report.ok("contacts", format!("{name}: {text}")),
            Err(text) => report.note(
                "contacts",
                format!("{name}: {text}: members of groups are called by their identifiers"),
            ),
        }
    }
    let hooks = config.webhooks.iter().flat_map(|hooks| &hooks.endpoints);
    let hooks = join_all(hooks.map(|hook| async { (&hook.name, seen(&hook.url).await) })).await;
    for (name, seen) in hooks {
        let trial = Trial::one_of("webhooks", name, "endpoints are there");
        match seen {
            Ok(text) => report.ok(trial, text),
            Err(text) => report.note(trial, format!("{text}: events wait")),
        }
    }
}

/// What was seen of a service, or why it is not there.
async fn seen(url: &reqwest::Url) -> Result<String, String> {
    match is_there(url, PATIENCE).await {
        Ok(status) => Ok(format!("it is there (HEAD: {})", status.as_u16())),
        Err(cause) => Err(format!("it is not there ({cause})")),
    }
}
