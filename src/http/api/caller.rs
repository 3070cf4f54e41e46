//! Who sends a request: the token it brings.
//!
//! Owns the forms in which stock clients and servers send a token. Leaves verifying it to
//! [`auth`](crate::auth::verify).

use axum::RequestPartsExt;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use url::form_urlencoded;

use super::Api;
use super::failure::Failure;
use crate::auth::verify::Identity;
use crate::protocol::id::{AppId, UserId};

/// The query parameters that may hold a token, the first one first.
const QUERY: [&str; 3] = ["jwt", "JWT", "token"];
/// What may stand before a token in the header.
const SCHEMES: [&str; 2] = ["Bearer", "JWT"];

/// The holder of the token that a request brings. Its identifiers are sound.
#[derive(Clone, Debug)]
pub(super) struct Caller(pub(super) Identity);

impl Caller {
    pub(super) fn user(&self) -> UserId<'_> {
        UserId::parse(&self.0.user).expect("checked with the token")
    }

    pub(super) fn is_admin(&self) -> bool {
        self.0.is_admin
    }

    /// The app in a path, if it is the caller's.
    pub(super) fn app<'a>(&self, app: &'a str) -> Result<AppId<'a>, Failure> {
        match AppId::parse(app) {
            Ok(id) if app == self.0.app => Ok(id),
            Ok(_) | Err(_) => Err(Failure::OtherCaller),
        }
    }

    /// App and user in a path, if the caller may see what is theirs.
    pub(super) fn owner<'a>(
        &self,
        app: &'a str,
        user: &'a str,
    ) -> Result<(AppId<'a>, UserId<'a>), Failure> {
        let app = self.app(app)?;
        match UserId::parse(user) {
            Ok(id) if self.is_admin() || user == self.0.user => Ok((app, id)),
            Ok(_) | Err(_) => Err(Failure::OtherCaller),
        }
    }
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Failure> {
        let token = token(parts).ok_or(Failure::Unauthorized)?;
        let identity = api.verifier.verify(&token).map_err(|error| {
            tracing::debug!(%error, "a request is not authorized");
            Failure::Unauthorized
        })?;
        let is_sound = AppId::parse(&identity.app).is_ok() && UserId::parse(&identity.user).is_ok();
        if !is_sound {
            return Err(Failure::Unauthorized);
        }
        let caller = Self(identity);
        // Before the body is read: what is wrong with that is no stranger's business.
        if !is_in_own_app(parts, &caller).await? {
            return Err(Failure::OtherCaller);
        }
        // For the body, which is read on the caller's account.
        parts.extensions.insert(caller.clone());
        Ok(caller)
    }
}

/// Whether the path of a request is in the caller's app, if it is in any.
async fn is_in_own_app(parts: &mut Parts, caller: &Caller) -> Result<bool, Failure> {
    match parts.extract::<RawPathParams>().await {
        Ok(params) => Ok(params
            .iter()
            .all(|(name, value)| name != "app" || value == caller.0.app)),
        Err(RawPathParamsRejection::InvalidUtf8InPathParam(error)) => {
            Err(Failure::Malformed(error.body_text()))
        }
        // A route without parameters.
        Err(_) => Ok(true),
    }
}

/// The token of a request: the header wins, then the query. An empty one is none.
fn token(parts: &Parts) -> Option<String> {
    if let Some(header) = parts.headers.get(AUTHORIZATION) {
        let token = bare(header.to_str().ok()?);
        if !token.is_empty() {
            return Some(token.to_owned());
        }
    }
    let query = parts.uri.query()?;
    QUERY.iter().find_map(|name| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        let (_, value) = pairs.find(|(key, _)| key == name)?;
        let token = bare(&value);
        (!token.is_empty()).then(|| token.to_owned())
    })
}

/// A token without its scheme.
fn bare(text: &str) -> &str {
    let text = text.trim();
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    let is_scheme = SCHEMES
        .iter()
        .any(|scheme| first.eq_ignore_ascii_case(scheme));
    if is_scheme { rest.trim_start() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(header: Option<&str>, query: &str) -> Option<String> {
        let mut request = axum::http::Request::builder().uri(format!("/x{query}"));
        if let Some(header) = header {
            request = request.header(AUTHORIZATION, header);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        token(&parts)
    }

    #[test]
    fn a_token_comes_bare_with_a_scheme_or_in_the_query() {
        for header in ["a.b.c", "Bearer a.b.c", "bearer  a.b.c", "JWT a.b.c"] {
            assert_eq!(of(Some(header), "?jwt=no").as_deref(), Some("a.b.c"));
        }
        for query in ["?jwt=a.b.c", "?JWT=a.b.c", "?x=1&token=a%2Eb.c"] {
            assert_eq!(of(None, query).as_deref(), Some("a.b.c"), "{query}");
        }
        assert_eq!(of(None, "?token=later&jwt=first").as_deref(), Some("first"));
        for (header, query) in [
            (None, "?jwt=&token=a.b.c"),
            (Some(""), "?token=JWT%20a.b.c"),
            (Some("Bearer "), "?token=Bearer+a.b.c"),
        ] {
            assert_eq!(of(header, query).as_deref(), Some("a.b.c"), "{query}");
        }
        assert_eq!(of(Some(" "), "?jwt="), None);
        assert_eq!(of(None, ""), None);
    }
}
