//! What `check` tries of the operator's HTTP services: the decision service, the directory of
//! names, the endpoints of webhooks.
//!
//! Asks each with HEAD, which changes nothing there. Any answer will do, also one that the method is
//! not allowed: it tells that somebody is there.

use std::time::Duration;

use super::report::Report;
use crate::config::Config;
use crate::http::client::is_there;
use crate::http::decision_service::OnFailure;
use crate::http::webhook::Endpoint;

/// How long a service may take to answer, if no setting says so.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks those that there are in the settings.
pub(super) async fn run(config: &Config, report: &mut Report) {
    if let Some(service) = &config.rules.decision_service {
        let step = "policy";
        let seen = try_service(&service.url, service.timeout).await;
        match (seen, service.on_failure) {
            (Ok(text), _) => report.ok(step, text),
            (Err(text), OnFailure::Refuse) => report.failed(
                step,
                format!("{text}: no message passes until it is there (--policy-failure closed)"),
            ),
            (Err(text), OnFailure::Pass) => report.note(
                step,
                format!("{text}: messages pass without it (--policy-failure open)"),
            ),
        }
    }
    if let Some(url) = &config.contacts {
        match try_service(url, PATIENCE).await {
            Ok(text) => report.ok("contacts", text),
            Err(text) => report.note(
                "contacts",
                format!("{text}: members of groups are called by their identifiers"),
            ),
        }
    }
    let Some(webhooks) = &config.webhooks else {
        return;
    };
    for endpoint in &webhooks.endpoints {
        match try_service(&endpoint.url, webhooks.timeout).await {
            Ok(text) => report.ok("webhook", text),
            Err(text) => report.note("webhook", format!("{text}: events wait until it is there")),
        }
    }
}

/// What was seen, or why there is no answer. Names the service without what may be secret.
async fn try_service(url: &reqwest::Url, limit: Duration) -> Result<String, String> {
    let name = Endpoint::shown(url);
    match is_there(url, limit).await {
        Ok(status) => Ok(format!("{name} is there (HEAD: {})", status.as_u16())),
        Err(cause) => Err(format!("{name} gives no answer ({cause})")),
    }
}
