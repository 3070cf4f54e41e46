//! What is answered to a request that fails: status and body, as stock clients know them.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::protocol::refusal::{Refusal, Refused};
use crate::store::StoreError;

/// When to come back while the store cannot be read or written.
const STORE_RETRY: Duration = Duration::from_secs(5);
/// When to come back after too many messages, if it is not known better.
const RATE_RETRY: Duration = Duration::from_secs(1);

/// Why a request is not served.
#[derive(Debug)]
pub(super) enum Failure {
    /// No token, or none that is accepted.
    Unauthorized,
    /// The token is another user's, or of another app. Stock clients expect an empty body.
    OtherCaller,
    /// There is no such route.
    NoRoute,
    /// A part of the body that must be there is not. Stock clients expect a text.
    Missing(&'static str),
    /// The request cannot be understood, for this reason.
    Malformed(String),
    /// The body is no JSON, for this reason.
    NotJson(Option<String>),
    /// The body is not sent as JSON.
    NotSentAsJson,
    /// The body is larger than a message may be.
    TooLarge,
    /// The group is not there.
    NoGroup,
    /// The caller is not in the group.
    NotInGroup,
    /// A rule speaks against it.
    Refused(Refused),
    /// The store cannot be used now. Nothing has happened.
    Unavailable,
    /// It was accepted, and is not stored yet: it may happen.
    Unknown,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "the store cannot be read for a request");
        Self::Unavailable
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let failed = |status, err: &str| {
            (status, Json(json!({"success": false, "err": err}))).into_response()
        };
        match self {
            Self::Unauthorized => {
                let body = json!({"success": false, "msg": "Unauthorized."});
                (StatusCode::FORBIDDEN, Json(body)).into_response()
            }
            Self::OtherCaller => StatusCode::UNAUTHORIZED.into_response(),
            Self::NoRoute => failed(StatusCode::NOT_FOUND, "Not found"),
            Self::Missing(text) => (StatusCode::METHOD_NOT_ALLOWED, text).into_response(),
            Self::Malformed(fault) => failed(StatusCode::BAD_REQUEST, &fault),
            Self::NotJson(detail) => {
                explained(StatusCode::BAD_REQUEST, "not-json", detail.as_deref())
            }
            Self::NotSentAsJson => failed(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "Content-Type must be application/json",
            ),
            Self::TooLarge => {
                let detail = "the body is larger than a message may be (--max-payload)";
                explained(StatusCode::PAYLOAD_TOO_LARGE, "too-large", Some(detail))
            }
            Self::NoGroup => failed(StatusCode::NOT_FOUND, "Group doesn't exist"),
            Self::NotInGroup => failed(StatusCode::UNAUTHORIZED, "Permission denied"),
            Self::Refused(refused) => refusal(&refused),
            Self::Unknown => failed(StatusCode::GATEWAY_TIMEOUT, "not known yet: it may happen"),
            Self::Unavailable => with_retry(
                failed(StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
                Some(STORE_RETRY),
            ),
        }
    }
}

fn refusal(refused: &Refused) -> Response {
    let is_rate = refused.reason == Refusal::RateLimited;
    let status = if is_rate {
        StatusCode::TOO_MANY_REQUESTS
    } else if refused.reason == Refusal::TooLarge {
        StatusCode::PAYLOAD_TOO_LARGE
    } else if refused.reason == Refusal::Internal {
        StatusCode::INTERNAL_SERVER_ERROR
    } else {
        StatusCode::FORBIDDEN
    };
    // Of a block, the words are for operators.
    let hint = (refused.reason != Refusal::Blocked).then(|| refused.reason.hint());
    let detail = refused.detail.as_deref().or(hint);
    let response = explained(status, refused.reason.as_str(), detail);
    let retry_after = refused.retry_after.or(is_rate.then_some(RATE_RETRY));
    with_retry(response, retry_after)
}

/// `err` is for programs, `detail` for whoever wrote them.
fn explained(status: StatusCode, err: &str, detail: Option<&str>) -> Response {
    let mut body = json!({"success": false, "err": err});
    if let Some(detail) = detail {
        body["detail"] = detail.into();
    }
    (status, Json(body)).into_response()
}

/// Adds `Retry-After`, in whole seconds.
fn with_retry(mut response: Response, after: Option<Duration>) -> Response {
    if let Some(after) = after {
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        let value = HeaderValue::from(seconds.max(1));
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}
