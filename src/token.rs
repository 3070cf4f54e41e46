//! JSON Web Tokens, as far as the observer looks into its own: who it is for, and until when.
//!
//! The broker verifies tokens; nothing here trusts one.

use std::time::Duration;

use serde::Deserialize;

use crate::time::UnixMillis;

/// What of a token matters to whoever logs in with it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Claims {
    /// When it ends, in seconds since 1970; fractions are allowed (RFC 7519, NumericDate).
    pub exp: Option<f64>,
    /// Whom it is for.
    pub sub: Option<String>,
}

/// Reads a token's claims without verifying them. `None`, if it is no token.
pub fn peek(token: &str) -> Option<Claims> {
    jsonwebtoken::dangerous::insecure_decode::<Claims>(token.trim())
        .ok()
        .map(|data| data.claims)
}

impl Claims {
    /// How long the token is still good at `now`, or how long ago it ended. `None`, if it never ends.
    pub fn remaining(&self, now: UnixMillis) -> Option<Result<Duration, Duration>> {
        let now = Duration::from_secs(now.as_millis() / 1000);
        let end = Duration::try_from_secs_f64(self.exp?.trunc()).unwrap_or(Duration::ZERO);
        Some(
            end.checked_sub(now)
                .filter(|left| !left.is_zero())
                .ok_or_else(|| now.saturating_sub(end)),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{EncodingKey, Header, encode};

    #[test]
    fn a_token_says_until_when_it_is_good() {
        let token =
            |claims| encode(&Header::default(), &claims, &EncodingKey::from_secret(b"x")).unwrap();
        let claims = peek(&token(
            serde_json::json!({"exp": 1_000.5, "sub": "observer", "scope": ["a"]}),
        ))
        .unwrap();
        assert_eq!(claims.sub.as_deref(), Some("observer"));
        assert_eq!(
            claims.remaining(UnixMillis::new(900_000)),
            Some(Ok(Duration::from_secs(100)))
        );
        assert_eq!(
            claims.remaining(UnixMillis::new(1_060_000)),
            Some(Err(Duration::from_secs(60)))
        );
        assert_eq!(
            peek(&token(serde_json::json!({})))
                .unwrap()
                .remaining(UnixMillis::new(0)),
            None
        );
        assert_eq!(peek("no token"), None);
        assert_eq!(peek(""), None);
    }
}
