//! Keys that sign tokens: a secret text, a private key in PEM, or either as a JWK.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeyPairComponents, PublicKeyComponents};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING};
use aws_lc_rs::signature::{EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use crate::auth::secret::Secret;

/// Secrets that stand in the public sources and examples of Chat21 programs: whoever can read can make tokens with them.
const PUBLISHED: &[&str] = &["tokenKey", "THE SECRET", "THE-SECRET", "secret", "changeme"];
/// The algorithms there are, as their names stand in a token's header (RFC 7518, section 3.1; RFC 8037).
const ALGORITHMS: &[&str] = &[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

/// Why a text is no key to sign with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// There is nothing.
    #[error("is empty")]
    Empty,
    /// A public key or a certificate.
    #[error("is a public key: a token is signed with the private one")]
    Public,
    /// OpenSSL's older forms.
    #[error(
        "is an encrypted key, or one in a form that is not read: make it plain PKCS #8 with `openssl pkcs8 -topk8 -nocrypt`"
    )]
    Form,
    /// Not what it says it is.
    #[error("is no {0} that can be read")]
    Broken(&'static str),
    /// A JWK of another kind.
    #[error(
        "is a JWK of a kind that is not known: kty oct, RSA, EC (P-256, P-384) and OKP (Ed25519) are"
    )]
    UnknownKind,
    /// No algorithm of that name.
    #[error("{0:?} is no algorithm: {known} are", known = ALGORITHMS.join(", "))]
    UnknownAlgorithm(String),
    /// An algorithm for other keys.
    #[error("{algorithm} does not go with this key, which is for {fits}")]
    Mismatch {
        /// What was asked for.
        algorithm: String,
        /// What would do.
        fits: &'static str,
    },
}

/// Which algorithms a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hmac,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn fits(self) -> &'static str {
        match self {
            Self::Hmac => "HS256, HS384, HS512",
            Self::Rsa => "RS256, RS384, RS512, PS256, PS384, PS512",
            Self::P256 => "ES256",
            Self::P384 => "ES384",
            Self::Ed25519 => "EdDSA",
        }
    }
}

/// A key to sign tokens with.
#[derive(Clone)]
pub struct SigningKey {
    key: EncodingKey,
    algorithm: Algorithm,
    name: &'static str,
    published: bool,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.name)
    }
}

/// A private JWK (RFC 7517, RFC 7518 section 6, RFC 8037): its numbers in base64url.
#[derive(Deserialize)]
struct PrivateJwk {
    kty: String,
    alg: Option<String>,
    crv: Option<String>,
    k: Option<Number>,
    n: Option<Number>,
    e: Option<Number>,
    d: Option<Number>,
    p: Option<Number>,
    q: Option<Number>,
    dp: Option<Number>,
    dq: Option<Number>,
    qi: Option<Number>,
    x: Option<Number>,
    y: Option<Number>,
}

struct Number(Vec<u8>);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text.trim_end_matches('='));
        // Its own words would repeat what is secret.
        bytes
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64url"))
    }
}

impl SigningKey {
    /// Reads a key. `algorithm` is what to sign with; not given, it is what a JWK says, or what is usual for such a key.
    ///
    /// # Errors
    /// [`KeyError`], which repeats nothing of the key.
    pub fn parse(text: &Secret, algorithm: Option<&str>) -> Result<Self, KeyError> {
        let text = text.expose_secret().trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let (kind, key, said) = if text.starts_with("-----BEGIN") {
            let (kind, key) = from_pem(text)?;
            (kind, key, None)
        } else if text.starts_with('{') {
            let jwk: PrivateJwk =
                serde_json::from_str(text).map_err(|_| KeyError::Broken("JWK"))?;
            let said = jwk.alg.clone();
            let (kind, key) = from_jwk(jwk)?;
            (kind, key, said)
        } else {
            (Kind::Hmac, EncodingKey::from_secret(text.as_bytes()), None)
        };
        let usual = match kind {
            Kind::Hmac => "HS256",
            Kind::Rsa => "RS256",
            Kind::P256 => "ES256",
            Kind::P384 => "ES384",
            Kind::Ed25519 => "EdDSA",
        };
        let wanted = algorithm.or(said.as_deref()).unwrap_or(usual);
        let name = ALGORITHMS.iter().find(|name| **name == wanted).copied();
        let name = name.ok_or_else(|| KeyError::UnknownAlgorithm(wanted.to_owned()))?;
        if !kind.fits().split(", ").any(|fits| fits == name) {
            return Err(KeyError::Mismatch {
                algorithm: name.to_owned(),
                fits: kind.fits(),
            });
        }
        let published = kind == Kind::Hmac
            && PUBLISHED
                .iter()
                .any(|known| key.as_bytes() == known.as_bytes());
        Ok(Self {
            key,
            algorithm: Algorithm::from_str(name).map_err(|_| KeyError::Broken("algorithm"))?,
            name,
            published,
        })
    }

    /// The algorithm, as it stands in the header.
    pub fn algorithm(&self) -> &'static str {
        self.name
    }

    /// Whether everybody knows this secret.
    pub fn is_published(&self) -> bool {
        self.published
    }

    /// What is weak about it, if something is: it is known, or shorter than what its hash gives (RFC 7518, section 3.2).
    pub fn weakness(&self) -> Option<String> {
        if self.published {
            return Some("this secret stands in public sources: whoever can read can make tokens for everybody".to_owned());
        }
        let least = match self.name {
            "HS256" => 32,
            "HS384" => 48,
            "HS512" => 64,
            _ => 0,
        };
        let bytes = self.key.as_bytes().len();
        (bytes < least).then(|| {
            format!(
                "a secret of {bytes} bytes is short for {}, which wants {least}: it may be guessed",
                self.name
            )
        })
    }

    /// A token. `key_id` goes into its header as `kid`.
    pub fn sign<T: Serialize>(&self, claims: &T, key_id: Option<&str>) -> Secret {
        let header = Header {
            kid: key_id.map(str::to_owned),
            ..Header::new(self.algorithm)
        };
        let token = jsonwebtoken::encode(&header, claims, &self.key);
        Secret::new(token.expect("the key was read for this algorithm, and claims serialise"))
    }

    /// Whether a token was signed with this key, whatever it says.
    pub fn has_signed(&self, token: &str) -> bool {
        let mut validation = Validation::new(self.algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let verifier = match self.name.starts_with("HS") {
            true => Some(DecodingKey::from_secret(self.key.as_bytes())),
            false => Jwk::from_encoding_key(&self.key, self.algorithm)
                .and_then(|jwk| DecodingKey::from_jwk(&jwk))
                .ok(),
        };
        verifier.is_some_and(|verifier| {
            jsonwebtoken::decode::<serde_json::Value>(token.trim(), &verifier, &validation).is_ok()
        })
    }
}

fn from_pem(text: &str) -> Result<(Kind, EncodingKey), KeyError> {
    let label = text.lines().next().unwrap_or_default();
    if label.contains("PUBLIC") || label.contains("CERTIFICATE") {
        return Err(KeyError::Public);
    }
    let pem = text.as_bytes();
    if let Ok(key) = EncodingKey::from_ed_pem(pem) {
        let kind = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.as_bytes());
        return match kind {
            Ok(_) => Ok((Kind::Ed25519, key)),
            Err(_) => Err(KeyError::Broken("Ed25519 key")),
        };
    }
    if let Ok(key) = EncodingKey::from_ec_pem(pem) {
        let is = |algorithm: &'static EcdsaSigningAlgorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, key.as_bytes()).is_ok()
        };
        return if is(&ECDSA_P256_SHA256_FIXED_SIGNING) {
            Ok((Kind::P256, key))
        } else if is(&ECDSA_P384_SHA384_FIXED_SIGNING) {
            Ok((Kind::P384, key))
        } else {
            Err(KeyError::Broken("P-256 or P-384 key"))
        };
    }
    let key = EncodingKey::from_rsa_pem(pem).map_err(|_| KeyError::Form)?;
    match RsaKeyPair::from_der(key.as_bytes()) {
        Ok(_) => Ok((Kind::Rsa, key)),
        Err(_) => Err(KeyError::Broken("RSA key of 2048 bits or more")),
    }
}

fn from_jwk(jwk: PrivateJwk) -> Result<(Kind, EncodingKey), KeyError> {
    let private = jwk.d.is_some();
    if !private && jwk.k.is_none() {
        return Err(KeyError::Public);
    }
    let given = |number: Option<Number>| {
        number
            .map(|number| number.0)
            .ok_or(KeyError::Broken("JWK: a part of it is missing"))
    };
    let broken = KeyError::Broken("JWK: its parts do not belong together");
    match (&*jwk.kty, jwk.crv.as_deref()) {
        ("oct", _) => {
            let secret = given(jwk.k)?;
            match secret.is_empty() {
                true => Err(KeyError::Empty),
                false => Ok((Kind::Hmac, EncodingKey::from_secret(&secret))),
            }
        }
        ("RSA", _) => {
            let components = KeyPairComponents {
                public_key: PublicKeyComponents {
                    n: given(jwk.n)?,
                    e: given(jwk.e)?,
                },
                d: given(jwk.d)?,
                p: given(jwk.p)?,
                q: given(jwk.q)?,
                dP: given(jwk.dp)?,
                dQ: given(jwk.dq)?,
                qInv: given(jwk.qi)?,
            };
            let pair = RsaKeyPair::from_components(&components).map_err(|_| broken.clone())?;
            let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| broken)?;
            from_pkcs8(der.as_ref())
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (algorithm, size) = match curve {
                "P-256" => (&ECDSA_P256_SHA256_FIXED_SIGNING, 32),
                _ => (&ECDSA_P384_SHA384_FIXED_SIGNING, 48),
            };
            // Some write numbers without their leading zeros.
            let sized = |number: Option<Number>| {
                let bytes = given(number)?;
                let zeros = vec![0; size - bytes.len().min(size)];
                Ok::<_, KeyError>([zeros, bytes].concat())
            };
            let point = [vec![4], sized(jwk.x)?, sized(jwk.y)?].concat();
            let secret = sized(jwk.d)?;
            let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &secret, &point);
            let der = pair.map_err(|_| broken.clone())?.to_pkcs8v1();
            from_pkcs8(der.map_err(|_| broken)?.as_ref())
        }
        ("OKP", Some("Ed25519")) => {
            let (seed, point) = (given(jwk.d)?, given(jwk.x)?);
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &point);
            let der = pair.map_err(|_| broken.clone())?.to_pkcs8v1();
            from_pkcs8(der.map_err(|_| broken)?.as_ref())
        }
        _ => Err(KeyError::UnknownKind),
    }
}

/// By way of PEM, which is what the library takes keys apart from.
fn from_pkcs8(der: &[u8]) -> Result<(Kind, EncodingKey), KeyError> {
    let body = BASE64_STANDARD.encode(der);
    from_pem(&format!(
        "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    ))
}

#[cfg(test)]
mod tests;
