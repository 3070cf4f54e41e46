//! The endpoints of webhooks and their settings.
//!
//! Owns their names, which hold no secret, and the key that signs deliveries.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::auth::secret::Secret;
use crate::rules::webhook_event::EventKinds;

/// An endpoint that is told of events.
#[derive(Clone)]
pub struct Endpoint {
    /// The URL that events are posted to. It may hold a secret.
    pub url: reqwest::Url,
    /// The URL without user, password and query: the name in the store, logs and metrics.
    pub name: String,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

impl Endpoint {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`EndpointError`], which does not repeat the text: it may hold a secret.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        match reqwest::Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Self {
                name: Self::shown(&url),
                url,
            }),
            _ => Err(EndpointError),
        }
    }

    /// A URL without what may be secret: user, password and query.
    pub fn shown(url: &reqwest::Url) -> String {
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        // These can fail only where there is no host.
        let _ = shown.set_password(None);
        let _ = shown.set_username("");
        shown.to_string()
    }
}

/// A text that is no URL of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("one of them is not a URL such as http://tiledesk-server:3000/chat21/requests")]
pub struct EndpointError;

/// Which endpoints are told of which events, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The endpoints. Their names differ.
    pub endpoints: Vec<Endpoint>,
    /// The kinds of events they are told of.
    pub events: EventKinds,
    /// Limit for the answer of an endpoint.
    pub timeout: Duration,
    /// Deliveries under way at a time, for each endpoint.
    pub concurrency: usize,
    /// Age at which an event is given up.
    pub max_age: Duration,
    /// Bytes of events that may wait for one endpoint. Beyond that the oldest are dropped.
    pub max_bytes: u64,
    /// The secret that signs deliveries.
    pub secret: Option<Secret>,
}

impl Settings {
    /// The names of the endpoints, in order.
    pub fn names(&self) -> Vec<String> {
        let names = self.endpoints.iter();
        names.map(|endpoint| endpoint.name.clone()).collect()
    }
}

/// Why a text cannot sign deliveries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// It has the prefix of Standard Webhooks, but the rest is not Base64.
    #[error("begins with whsec_, and what follows is not Base64")]
    NotBase64,
    /// It has fewer than 16 bytes.
    #[error("is shorter than 16 bytes: it could be guessed")]
    TooShort,
}

/// The bytes of a signing secret: `whsec_` and Base64, as in Standard Webhooks, or the bytes of any
/// other text.
///
/// # Errors
/// [`SigningKeyError`], which does not repeat the secret.
pub fn signing_key(secret: &str) -> Result<Vec<u8>, SigningKeyError> {
    let bytes = match secret.strip_prefix("whsec_") {
        Some(encoded) => BASE64_STANDARD
            .decode(encoded)
            .map_err(|_| SigningKeyError::NotBase64)?,
        None => secret.as_bytes().to_vec(),
    };
    if bytes.len() < 16 {
        return Err(SigningKeyError::TooShort);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_hold_no_secrets() {
        let endpoint = Endpoint::parse("https://user:pw@hooks.example:8443/a/b?token=s#x").unwrap();
        assert_eq!(endpoint.name, "https://hooks.example:8443/a/b");
        assert_eq!(format!("{endpoint:?}"), endpoint.name);
        for text in ["hooks.example", "ftp://x/", "http://", ""] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }
}
