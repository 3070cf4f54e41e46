//! HTTP clients: for operators' services, and for the health endpoint of a running observer.
//!
//! Owns their common settings and the words for what went wrong, which never hold a URL.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::StatusCode;

/// Limit for the answer of a running observer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Idle connections are closed after this time. Node closes them after five seconds: a connection
/// that is closed just as it is used would look like a failure.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// A client for operators' own services. It follows no redirects and uses no proxy; every answer
/// must come within `limit`. It connects to nothing yet.
///
/// # Errors
/// TLS cannot be set up.
pub fn service_client(limit: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // It fails where a provider is installed already: then that one is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let builder = || {
        reqwest::Client::builder()
            .timeout(limit)
            .redirect(reqwest::redirect::Policy::none())
            // The services are near, and the answer of a proxy would be taken for theirs.
            .no_proxy()
            .pool_idle_timeout(IDLE_TIMEOUT)
            .user_agent(concat!("chat21-observer/", env!("CARGO_PKG_VERSION")))
    };
    // It fails on a machine without CA certificates. Plain HTTP needs none: then TLS trusts nobody.
    builder()
        .build()
        .or_else(|_| builder().tls_certs_only([]).build())
}

/// Asks a service with HEAD, which changes nothing there. Returns its answer: also one that it does
/// not take that method, or that it has failed, tells that it is there.
///
/// # Errors
/// Why it is not, without the URL, which may hold a secret: there is no answer, or one that sends
/// us elsewhere (3xx), or that of a proxy in front of a service that is down (502 to 504).
pub async fn is_there(url: &reqwest::Url, limit: Duration) -> Result<StatusCode, String> {
    let client = service_client(limit).map_err(root_cause)?;
    let answer = client.head(url.clone()).send().await.map_err(root_cause)?;
    match answer.status() {
        status if status.is_redirection() || (502..=504).contains(&status.as_u16()) => {
            Err(format!("HEAD: {}", status.as_u16()))
        }
        status => Ok(status),
    }
}

/// The innermost cause of an error. The outer texts name the URL, which may hold a secret.
pub(super) fn root_cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

/// Why a running observer is not ready, as far as can be told from outside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Its own answer: what keeps messages from passing.
    #[error("{0}")]
    NotReady(String),
    /// Nothing answers at the address.
    #[error("no observer answers on {address}: {cause}")]
    Unreachable {
        /// The address that was asked.
        address: SocketAddr,
        /// The system's reason.
        cause: String,
    },
    /// What answers is not an observer.
    #[error("another program answers on {address}, not an observer ({answer})")]
    Another {
        /// The address that was asked.
        address: SocketAddr,
        /// What it answers, in a few words.
        answer: String,
    },
    /// There is a connection, but no answer within ten seconds.
    #[error("{0} does not answer")]
    Silent(SocketAddr),
}

/// Asks a running observer whether it is ready.
///
/// # Errors
/// [`ProbeError`], if it is not, or gives no answer.
pub async fn probe(address: SocketAddr) -> Result<(), ProbeError> {
    let failed = |error: reqwest::Error| match error {
        error if error.is_timeout() => ProbeError::Silent(address),
        error if is_not_http(&error) => ProbeError::Another {
            address,
            answer: "it does not speak HTTP".to_owned(),
        },
        error => ProbeError::Unreachable {
            address,
            cause: root_cause(error),
        },
    };
    let client = service_client(PROBE_TIMEOUT).map_err(failed)?;
    let request = client.get(format!("http://{address}/readyz"));
    let response = request.send().await.map_err(failed)?;
    let status = response.status();
    let text = response.text().await.map_err(failed)?;
    match (status, text.trim()) {
        (StatusCode::OK, "ready") => Ok(()),
        (StatusCode::SERVICE_UNAVAILABLE, text) if text.starts_with("not ready") => {
            Err(ProbeError::NotReady(text.to_owned()))
        }
        _ => Err(ProbeError::Another {
            address,
            answer: format!("GET /readyz: {status}"),
        }),
    }
}

/// Whether something was answered that cannot be read as HTTP.
fn is_not_http(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref().is_some_and(hyper::Error::is_parse) {
            return true;
        }
        cause = error.source();
    }
    false
}
