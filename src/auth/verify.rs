//! Verifies tokens that clients show to the HTTP API.
//!
//! Owns the keys that tokens are verified with, and which algorithms each of them allows. Leaves
//! what a caller may do to the API. No error repeats any part of a key or token.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use crate::auth::secret::Secret;
use crate::auth::signing::{KeyError, SigningKey, Weakness};

/// Algorithms of a shared secret. Chat21's own servers take all three.
const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
/// By how much the clocks of whoever made a token and of this machine may differ, in seconds.
const LEEWAY: u64 = 5;

/// Keys that tokens are verified with.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<VerifyingKey>,
    needs_end: bool,
    weakness: Option<Weakness>,
}

#[derive(Clone)]
struct VerifyingKey {
    id: Option<String>,
    key: DecodingKey,
    algorithms: Vec<Algorithm>,
}

/// Whether a token must say when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// It must.
    Limited,
    /// It need not: such a token is valid for ever.
    Any,
}

/// What a token says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The tenant.
    pub app: String,
    /// The user.
    pub user: String,
    /// Whether the token's roles have `admin` among them.
    pub is_admin: bool,
    /// All claims, as the token has them.
    pub claims: Value,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token, or no key here has signed it with an algorithm of that key.
    #[error("no key that is known has signed the token")]
    Unverified,
    /// It has ended, is not valid yet, or does not say when it ends.
    #[error("the token has ended, is not valid yet, or does not say when it ends")]
    Untimely,
    /// It names no user or no app.
    #[error("the token has no sub or no app_id")]
    Nobody,
}

#[derive(Deserialize)]
struct Claims {
    sub: Option<Value>,
    app_id: Option<Value>,
    tiledesk_api_roles: Option<Value>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Verifier({} keys)", self.keys.len())
    }
}

impl Verifier {
    /// Reads a key: a secret text, a key in PEM, a JWK, or a JWKS with several.
    ///
    /// # Errors
    /// [`KeyError`], which repeats nothing of the key.
    pub fn parse(text: &Secret, lifetime: Lifetime) -> Result<Self, KeyError> {
        let exposed = text.expose_secret().trim();
        let mut weakness = None;
        let keys = if let Ok(set) = serde_json::from_str::<JwkSet>(exposed) {
            let keys: Result<Vec<_>, _> = set.keys.iter().map(VerifyingKey::from_jwk).collect();
            keys?
        } else if exposed.starts_with('{') {
            let jwk = serde_json::from_str(exposed).map_err(|_| KeyError::Broken("JWK"))?;
            vec![VerifyingKey::from_jwk(&jwk)?]
        } else if exposed.starts_with("-----BEGIN PUBLIC")
            || exposed.starts_with("-----BEGIN RSA PUBLIC")
        {
            vec![VerifyingKey::from_public_pem(exposed)?]
        } else {
            let key = SigningKey::parse(text, None)?;
            weakness = key.weakness();
            vec![VerifyingKey::from_signing_key(&key)?]
        };
        match keys.is_empty() {
            true => Err(KeyError::Empty),
            false => Ok(Self {
                keys,
                needs_end: lifetime == Lifetime::Limited,
                weakness,
            }),
        }
    }

    /// Why others may be able to make tokens that are accepted, too: the key is a secret that
    /// everybody can know or guess.
    pub fn weakness(&self) -> Option<&Weakness> {
        self.weakness.as_ref()
    }

    /// Who holds a token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str) -> Result<Identity, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Unverified)?;
        let mut fault = TokenError::Unverified;
        for key in &self.keys {
            // A key identifier chooses among several keys. Stock tokens name none.
            let is_other = match (&key.id, &header.kid) {
                (Some(id), Some(wanted)) => id != wanted,
                (Some(_) | None, _) => false,
            };
            if is_other || !key.algorithms.contains(&header.alg) {
                continue;
            }
            match jsonwebtoken::decode::<Value>(token, &key.key, &self.validation(header.alg)) {
                Ok(decoded) => return identity(decoded.claims),
                Err(error) => {
                    use jsonwebtoken::errors::ErrorKind;
                    if matches!(
                        error.kind(),
                        ErrorKind::ExpiredSignature
                            | ErrorKind::ImmatureSignature
                            | ErrorKind::MissingRequiredClaim(_)
                    ) {
                        fault = TokenError::Untimely;
                    }
                }
            }
        }
        Err(fault)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        // Tokens of Chat21 name the broker and the user as their audience.
        validation.validate_aud = false;
        if !self.needs_end {
            validation.required_spec_claims.clear();
        }
        validation
    }
}

impl VerifyingKey {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the library may come to know more kinds: they are refused"
    )]
    fn from_jwk(jwk: &Jwk) -> Result<Self, KeyError> {
        let key = DecodingKey::from_jwk(jwk).map_err(|_| KeyError::Broken("JWK"))?;
        let algorithms = match &jwk.algorithm {
            AlgorithmParameters::OctetKey(_) => HMAC,
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(curve) => match curve.curve {
                EllipticCurve::P256 => &[Algorithm::ES256][..],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return Err(KeyError::UnknownKind),
            },
            AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
            _ => return Err(KeyError::UnknownKind),
        };
        Ok(Self {
            id: jwk.common.key_id.clone(),
            key,
            algorithms: algorithms.to_vec(),
        })
    }

    fn from_public_pem(pem: &str) -> Result<Self, KeyError> {
        let pem = pem.as_bytes();
        let (key, algorithms) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            (key, &[Algorithm::EdDSA][..])
        } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            (key, &[Algorithm::ES256, Algorithm::ES384][..])
        } else {
            let key = DecodingKey::from_rsa_pem(pem);
            (key.map_err(|_| KeyError::Broken("public key"))?, RSA)
        };
        Ok(Self {
            id: None,
            key,
            algorithms: algorithms.to_vec(),
        })
    }

    fn from_signing_key(key: &SigningKey) -> Result<Self, KeyError> {
        Ok(Self {
            id: None,
            key: key.decoding_key().ok_or(KeyError::Broken("key"))?,
            algorithms: key.algorithms(),
        })
    }
}

fn identity(claims: Value) -> Result<Identity, TokenError> {
    let known = Claims::deserialize(&claims).map_err(|_| TokenError::Nobody)?;
    let text = |claim: Option<Value>| match claim {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(_) | None => Err(TokenError::Nobody),
    };
    let is_admin = match known.tiledesk_api_roles {
        Some(Value::String(roles)) => roles.split(',').any(|role| role.trim() == "admin"),
        Some(Value::Array(roles)) => roles.iter().any(|role| role == "admin"),
        Some(_) | None => false,
    };
    Ok(Identity {
        user: text(known.sub)?,
        app: text(known.app_id)?,
        is_admin,
        claims,
    })
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::json;

    use super::*;
    use crate::protocol::mangled::mangled_text;

    /// Of alice, by [`SECRET`], good until long after any test.
    const TOKEN: &str = concat!(
        "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.",
        "eyJzdWIiOiJhbGljZSIsImFwcF9pZCI6ImEiLCJleHAiOjQwMDAwMDAwMDB9.",
        "7vHNtknHGFTViXwXKR-rBgXC-KkYJPhUtAB2bmxxIuU"
    );
    const SECRET: &str = "a secret of at least thirty-two bytes";
    /// Long after any test runs.
    const LATE: u64 = 4_000_000_000;

    fn verifier(text: &str) -> Verifier {
        Verifier::parse(&Secret::new(text.to_owned()), Lifetime::Limited).unwrap()
    }

    fn signed(algorithm: Algorithm, secret: &str, claims: &Value) -> String {
        let key = EncodingKey::from_secret(secret.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    fn of(user: &str) -> Value {
        json!({"sub": user, "app_id": "a", "exp": LATE})
    }

    #[test]
    fn a_token_says_who_its_holder_is() {
        let verify = |claims: &Value| {
            let token = signed(Algorithm::HS256, SECRET, claims);
            verifier(SECRET).verify(&token)
        };
        let alice = verify(&of("alice")).unwrap();
        assert_eq!(
            (&*alice.user, &*alice.app, alice.is_admin),
            ("alice", "a", false)
        );
        for (roles, is_admin) in [
            (json!("admin"), true),
            (json!("user, admin"), true),
            (json!(["user", "admin"]), true),
            (json!("administrator"), false),
            (json!({"admin": 1}), false),
        ] {
            let mut claims = of("alice");
            claims["tiledesk_api_roles"] = roles.clone();
            assert_eq!(verify(&claims).unwrap().is_admin, is_admin, "{roles}");
        }
        for claims in [
            json!({"app_id": "a", "exp": LATE}),
            json!({"sub": "alice", "exp": LATE}),
            json!({"sub": "", "app_id": "a", "exp": LATE}),
            json!({"sub": 7, "app_id": "a", "exp": LATE}),
        ] {
            assert_eq!(verify(&claims), Err(TokenError::Nobody), "{claims}");
        }
    }

    #[test]
    fn a_token_must_be_signed_by_the_key_and_be_valid_now() {
        let good = signed(Algorithm::HS512, SECRET, &of("alice"));
        assert!(verifier(SECRET).verify(&good).is_ok());
        let other = signed(Algorithm::HS256, "another secret", &of("alice"));
        let none =
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSIsImFwcF9pZCI6ImEiLCJleHAiOjQwMDAwMDAwMDB9.";
        for token in [&*other, none, "", "x.y.z", "Bearer x"] {
            assert_eq!(
                verifier(SECRET).verify(token),
                Err(TokenError::Unverified),
                "{token}"
            );
        }
        for claims in [
            json!({"sub": "alice", "app_id": "a", "exp": 1000}),
            json!({"sub": "alice", "app_id": "a"}),
            json!({"sub": "alice", "app_id": "a", "exp": LATE, "nbf": LATE - 1}),
        ] {
            let token = signed(Algorithm::HS256, SECRET, &claims);
            assert_eq!(
                verifier(SECRET).verify(&token),
                Err(TokenError::Untimely),
                "{claims}"
            );
        }
        let endless = signed(
            Algorithm::HS256,
            SECRET,
            &json!({"sub": "alice", "app_id": "a"}),
        );
        let any = Verifier::parse(&Secret::new(SECRET.to_owned()), Lifetime::Any).unwrap();
        assert!(any.verify(&endless).is_ok());
    }

    /// A pair of keys in PEM: the private and the public one.
    fn pair() -> (String, String) {
        use aws_lc_rs::encoding::AsDer;
        use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
        use base64::Engine;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let pem = |label: &str, der: &[u8]| {
            let body = base64::prelude::BASE64_STANDARD.encode(der);
            format!("-----BEGIN {label} KEY-----\n{body}\n-----END {label} KEY-----\n")
        };
        let private = pair.to_pkcs8v1().unwrap();
        let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        (
            pem("PRIVATE", private.as_ref()),
            pem("PUBLIC", public.as_ref()),
        )
    }

    #[test]
    fn a_public_key_verifies_and_is_no_secret_to_sign_with() {
        let (private, public) = pair();
        let key = SigningKey::parse(&Secret::new(private.clone()), None).unwrap();
        let token = key.sign(&of("alice"), None);
        for text in [&private, &public] {
            assert!(verifier(text).verify(token.expose_secret()).is_ok());
        }
        // The attack of RFC 8725, section 2.1: HS256 with the text of the public key.
        let forged = signed(Algorithm::HS256, &public, &of("alice"));
        assert_eq!(
            verifier(&public).verify(&forged),
            Err(TokenError::Unverified)
        );
    }

    #[test]
    fn one_of_several_keys_is_enough() {
        let jwk = |id: &str, secret: &str| {
            use base64::Engine;
            let k = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(secret);
            json!({"kty": "oct", "k": k, "kid": id})
        };
        let set = json!({"keys": [jwk("old", "the old secret"), jwk("new", SECRET)]});
        let verifier = verifier(&set.to_string());
        let old = signed(Algorithm::HS256, "the old secret", &of("alice"));
        let new = signed(Algorithm::HS256, SECRET, &of("alice"));
        assert!(verifier.verify(&old).is_ok() && verifier.verify(&new).is_ok());
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some("old".to_owned());
        let misnamed = jsonwebtoken::encode(&header, &of("alice"), &key).unwrap();
        assert_eq!(verifier.verify(&misnamed), Err(TokenError::Unverified));
    }

    proptest::proptest! {
        /// Nothing but what the key has signed names a user.
        #[test]
        fn no_mangled_token_is_somebody(token in mangled_text(&[TOKEN])) {
            let verified = verifier(SECRET).verify(&token);
            if token.trim_end_matches('=') != TOKEN {
                proptest::prop_assert!(verified.is_err(), "{token:?}");
            }
        }

        /// A key file: an error that repeats nothing of it, or keys.
        #[test]
        fn mangled_keys(text in mangled_text(&[
            r#"{"keys":[{"kty":"oct","k":"YS1zZWNyZXQtb2YtdGhpcnR5LXR3by1i","alg":"HS256"}]}"#,
            r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
            "-----BEGIN PUBLIC KEY-----\n\
             MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
             -----END PUBLIC KEY-----",
        ])) {
            if let Err(error) = Verifier::parse(&Secret::new(text), Lifetime::Any) {
                let said = error.to_string();
                proptest::prop_assert!(!said.is_empty() && !said.contains("11qYAY"), "{said}");
            }
        }
    }
}
