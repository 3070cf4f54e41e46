//! One HTTP request to an endpoint, and what its answer means.
//!
//! Owns the headers of Standard Webhooks and the meaning of each status.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use reqwest::header::{HeaderMap, RETRY_AFTER};

use crate::http::client::root_cause;
use crate::protocol::time::UnixMillis;
use crate::store::Delivery;
use crate::store::FailureScope;

/// Bytes of an answer that are read, so that the connection can be used again. Nobody looks at
/// them.
const ANSWER_BYTES: usize = 64 << 10;

/// The answer to one attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx.
    Taken,
    /// A final refusal: any status below 500 other than 2xx and 429.
    Refused(String),
    /// 429 or 503 with `Retry-After`, which is kept as text.
    Busy { retry_after: String, error: String },
    /// 5xx, or no answer at all.
    Failed(Failure),
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// What went wrong, for people.
    pub(super) error: String,
    pub(super) scope: FailureScope,
}

/// The headers of Standard Webhooks: `webhook-id` is the same for each attempt, and receivers have
/// libraries that check the signature.
pub(super) fn headers(delivery: &Delivery, key: Option<&hmac::Key>, now: UnixMillis) -> HeaderMap {
    let seconds = (now.as_millis() / 1000).to_string();
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, text: &str| {
        headers.insert(name, text.parse().expect("visible ASCII"));
    };
    set("content-type", "application/json");
    set("webhook-id", &delivery.id);
    set("webhook-timestamp", &seconds);
    if let Some(key) = key {
        let mut context = hmac::Context::with_key(key);
        for part in [&delivery.id, ".", &seconds, "."] {
            context.update(part.as_bytes());
        }
        context.update(&delivery.body);
        let tag = BASE64_STANDARD.encode(context.sign());
        set("webhook-signature", &format!("v1,{tag}"));
    }
    headers
}

/// Sends one request and sorts its answer. Cancelling it leaves open whether the endpoint got it.
pub(super) async fn post(request: reqwest::RequestBuilder) -> Answer {
    let mut response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            return Answer::Failed(Failure {
                error: describe(error),
                scope: FailureScope::Endpoint,
            });
        }
    };
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after.and_then(|text| text.to_str().ok().map(str::to_owned));
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > ANSWER_BYTES {
            break;
        }
    }
    let error = format!("answers {}", status.as_u16());
    match (status.as_u16(), retry_after) {
        (200..=299, _) => Answer::Taken,
        (429 | 503, Some(retry_after)) => Answer::Busy { retry_after, error },
        // The last three are what a proxy says of a service that is down.
        (429 | 502 | 503 | 504, _) => Answer::Failed(Failure {
            error,
            scope: FailureScope::Endpoint,
        }),
        (500.., _) => Answer::Failed(Failure {
            error,
            scope: FailureScope::Event,
        }),
        (300..=399, _) => Answer::Refused(format!("{error}: redirects are not followed")),
        _ => Answer::Refused(error),
    }
}

/// What went wrong, for people.
fn describe(error: reqwest::Error) -> String {
    match error.is_timeout() {
        true => "no answer in time".to_owned(),
        false => format!("no answer: {}", root_cause(error)),
    }
}

/// Reads `Retry-After`, which is a number of seconds or a date (RFC 9110, 10.2.3).
pub(super) fn seconds_or_date(text: &str, now: UnixMillis) -> Option<Duration> {
    match text.trim().parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            let left = UnixMillis::from(date).as_millis();
            Some(Duration::from_millis(left.saturating_sub(now.as_millis())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::endpoint::signing_key;
    use super::super::tests::delivery;
    use super::*;

    /// The example of the Standard Webhooks specification.
    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        let key = signing_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        let signed = Delivery {
            id: "msg_p5jXN8AQM9LWM0D4loKWxJek".to_owned(),
            ..delivery(1, 0)
        };
        let now = UnixMillis::new(1_614_265_330_000);
        let headers = headers(&signed, Some(&key), now);
        assert_eq!(headers["webhook-id"], "msg_p5jXN8AQM9LWM0D4loKWxJek");
        assert_eq!(headers["webhook-timestamp"], "1614265330");
        assert_eq!(
            headers["webhook-signature"],
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        assert!(signing_key("whsec_%").is_err() && signing_key("short").is_err());
        assert_eq!(signing_key("sixteen bytes or more").unwrap().len(), 21);
    }
}
