//! Keys that sign tokens: a secret text, a private key in PEM, or either one as a JWK.
//!
//! Owns reading a key, and finding the algorithms it can sign with. What a token says is the
//! business of `token.rs`. No error repeats any part of a key.

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
use strum::VariantNames;

use crate::auth::secret::Secret;

/// Secrets from public sources and examples of Chat21 programs: anybody can make tokens with them.
const PUBLISHED: &[&str] = &["tokenKey", "THE SECRET", "THE-SECRET", "secret", "changeme"];
const KEY_IS_PUBLISHED: &str = "this secret stands in public sources: whoever can read can make \
    tokens for everybody";

/// The algorithms, named as in a token's header (RFC 7518, section 3.1; RFC 8037).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantNames,
)]
enum SigningAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    #[strum(serialize = "EdDSA")]
    EdDsa,
}

impl SigningAlgorithm {
    /// The least length of a secret in bytes: that of the hash (RFC 7518, section 3.2). 0 for
    /// algorithms that take a key pair.
    fn least_secret_bytes(self) -> usize {
        match self {
            Self::HS256 => 32,
            Self::HS384 => 48,
            Self::HS512 => 64,
            Self::RS256
            | Self::RS384
            | Self::RS512
            | Self::PS256
            | Self::PS384
            | Self::PS512
            | Self::ES256
            | Self::ES384
            | Self::EdDsa => 0,
        }
    }
}

impl From<SigningAlgorithm> for Algorithm {
    fn from(algorithm: SigningAlgorithm) -> Self {
        match algorithm {
            SigningAlgorithm::HS256 => Self::HS256,
            SigningAlgorithm::HS384 => Self::HS384,
            SigningAlgorithm::HS512 => Self::HS512,
            SigningAlgorithm::RS256 => Self::RS256,
            SigningAlgorithm::RS384 => Self::RS384,
            SigningAlgorithm::RS512 => Self::RS512,
            SigningAlgorithm::PS256 => Self::PS256,
            SigningAlgorithm::PS384 => Self::PS384,
            SigningAlgorithm::PS512 => Self::PS512,
            SigningAlgorithm::ES256 => Self::ES256,
            SigningAlgorithm::ES384 => Self::ES384,
            SigningAlgorithm::EdDsa => Self::EdDSA,
        }
    }
}

/// Why a text is not a key to sign with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// A public key or a certificate.
    #[error("is a public key: a token is signed with the private one")]
    Public,
    /// Encrypted, or in an older form of OpenSSL.
    #[error(
        "is an encrypted key, or one in a form that is not read: make it plain PKCS #8 with \
         `openssl pkcs8 -topk8 -nocrypt`"
    )]
    Form,
    /// The text looks like a key of this kind and cannot be read as one.
    #[error("is no {0} that can be read")]
    Broken(&'static str),
    /// A JWK of another type or curve.
    #[error(
        "is a JWK of a kind that is not known: kty oct, RSA, EC (P-256, P-384) and OKP (Ed25519) \
         are"
    )]
    UnknownKind,
    /// There is no algorithm of that name.
    #[error("{0:?} is no algorithm: {known} are", known = SigningAlgorithm::VARIANTS.join(", "))]
    UnknownAlgorithm(String),
    /// The algorithm is for another kind of key.
    #[error("{algorithm} does not go with this key, which is for {fits}")]
    Mismatch {
        /// The algorithm asked for.
        algorithm: String,
        /// The algorithms that this key can sign with.
        fits: String,
    },
}

/// Why a key may be misused by others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// Everybody can know it.
    #[error("{KEY_IS_PUBLISHED}")]
    Published,
    /// It is shorter than the output of the hash.
    #[error(
        "a secret of {bytes} bytes is short for {algorithm}, which wants {least}: it may be guessed"
    )]
    Short {
        /// Its length.
        bytes: usize,
        /// What it is used for.
        algorithm: &'static str,
        /// The least length, in bytes.
        least: usize,
    },
}

/// The kind of a key decides which algorithms it can sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Hmac,
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    /// The usual algorithm, and the others.
    fn algorithms(self) -> (SigningAlgorithm, &'static [SigningAlgorithm]) {
        use SigningAlgorithm::{
            ES256, ES384, EdDsa, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512,
        };
        match self {
            Self::Hmac => (HS256, &[HS384, HS512]),
            Self::Rsa => (RS256, &[RS384, RS512, PS256, PS384, PS512]),
            Self::P256 => (ES256, &[]),
            Self::P384 => (ES384, &[]),
            Self::Ed25519 => (EdDsa, &[]),
        }
    }

    /// The names of all algorithms, the usual one first.
    fn names(self) -> Vec<&'static str> {
        let (usual, others) = self.algorithms();
        let all = std::iter::once(&usual).chain(others);
        all.map(<&'static str>::from).collect()
    }

    /// The algorithm of that name, or the usual one.
    fn choose(self, wanted: Option<&str>) -> Result<SigningAlgorithm, KeyError> {
        let (usual, others) = self.algorithms();
        let Some(wanted) = wanted else {
            return Ok(usual);
        };
        let algorithm = SigningAlgorithm::from_str(wanted)
            .map_err(|_| KeyError::UnknownAlgorithm(wanted.to_owned()))?;
        if algorithm != usual && !others.contains(&algorithm) {
            return Err(KeyError::Mismatch {
                algorithm: wanted.to_owned(),
                fits: self.names().join(", "),
            });
        }
        Ok(algorithm)
    }
}

/// A key to sign tokens with.
#[derive(Clone)]
pub struct SigningKey {
    key: EncodingKey,
    kind: Kind,
    algorithm: SigningAlgorithm,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.algorithm())
    }
}

/// A private JWK (RFC 7517; RFC 7518, section 6; RFC 8037). Its numbers are in base64url.
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
        // The decoder's own error repeats a part of the secret.
        bytes
            .map(Self)
            .map_err(|_| serde::de::Error::custom("not base64url"))
    }
}

impl SigningKey {
    /// Reads a key. Without `algorithm` it signs with the one that a JWK names, or else with the
    /// usual one for its kind.
    ///
    /// # Errors
    /// [`KeyError`], which repeats nothing of the key.
    pub fn parse(text: &Secret, algorithm: Option<&str>) -> Result<Self, KeyError> {
        let text = text.expose_secret().trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        let (kind, key, named) = if text.starts_with("-----BEGIN") {
            let (kind, key) = from_pem(text)?;
            (kind, key, None)
        } else if text.starts_with('{') {
            let jwk: PrivateJwk =
                serde_json::from_str(text).map_err(|_| KeyError::Broken("JWK"))?;
            let named = jwk.alg.clone();
            let (kind, key) = from_jwk(jwk)?;
            (kind, key, named)
        } else {
            (Kind::Hmac, EncodingKey::from_secret(text.as_bytes()), None)
        };
        let algorithm = kind.choose(algorithm.or(named.as_deref()))?;
        Ok(Self {
            key,
            kind,
            algorithm,
        })
    }

    /// The name of the algorithm, as in a token's header.
    pub fn algorithm(&self) -> &'static str {
        self.algorithm.into()
    }

    /// Whether this is a secret that everybody can know.
    fn is_published(&self) -> bool {
        let is_key = |known: &&str| self.key.as_bytes() == known.as_bytes();
        self.kind == Kind::Hmac && PUBLISHED.iter().any(is_key)
    }

    /// Why others may be able to make tokens with this key, too; `None` for a good key.
    pub fn weakness(&self) -> Option<Weakness> {
        if self.is_published() {
            return Some(Weakness::Published);
        }
        let (bytes, least) = (
            self.key.as_bytes().len(),
            self.algorithm.least_secret_bytes(),
        );
        (bytes < least).then(|| Weakness::Short {
            bytes,
            algorithm: self.algorithm(),
            least,
        })
    }

    /// Signs a token. `key_id` goes into its header as `kid`.
    pub fn sign<T: Serialize>(&self, claims: &T, key_id: Option<&str>) -> Secret {
        let header = Header {
            kid: key_id.map(str::to_owned),
            ..Header::new(self.algorithm.into())
        };
        let token = jsonwebtoken::encode(&header, claims, &self.key);
        Secret::new(token.expect("the key was read for this algorithm, and claims serialise"))
    }

    /// The key that verifies what this one signs.
    pub(super) fn decoding_key(&self) -> Option<DecodingKey> {
        match self.kind {
            Kind::Hmac => Some(DecodingKey::from_secret(self.key.as_bytes())),
            Kind::Rsa | Kind::P256 | Kind::P384 | Kind::Ed25519 => {
                Jwk::from_encoding_key(&self.key, self.algorithm.into())
                    .and_then(|jwk| DecodingKey::from_jwk(&jwk))
                    .ok()
            }
        }
    }

    /// Every algorithm that this key can sign with.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        let (usual, others) = self.kind.algorithms();
        let all = std::iter::once(&usual).chain(others);
        all.map(|algorithm| Algorithm::from(*algorithm)).collect()
    }

    /// Whether this key has signed a token, valid or not.
    pub fn has_signed(&self, token: &str) -> bool {
        let algorithm = self.algorithm.into();
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        self.decoding_key().is_some_and(|verifier| {
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
        return match Ed25519KeyPair::from_pkcs8_maybe_unchecked(key.as_bytes()) {
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
    if jwk.d.is_none() && jwk.k.is_none() {
        return Err(KeyError::Public);
    }
    match (&*jwk.kty, jwk.crv.as_deref()) {
        ("oct", _) => {
            let secret = part(jwk.k)?;
            if secret.is_empty() {
                return Err(KeyError::Empty);
            }
            Ok((Kind::Hmac, EncodingKey::from_secret(&secret)))
        }
        ("RSA", _) => from_rsa_jwk(jwk),
        ("EC", Some("P-256")) => from_ec_jwk(jwk, &ECDSA_P256_SHA256_FIXED_SIGNING, 32),
        ("EC", Some("P-384")) => from_ec_jwk(jwk, &ECDSA_P384_SHA384_FIXED_SIGNING, 48),
        ("OKP", Some("Ed25519")) => {
            let (seed, point) = (part(jwk.d)?, part(jwk.x)?);
            let pair = Ed25519KeyPair::from_seed_and_public_key(&seed, &point);
            let der = pair.map_err(|_| PARTS_DIFFER)?.to_pkcs8v1();
            from_pkcs8(der.map_err(|_| PARTS_DIFFER)?.as_ref())
        }
        _ => Err(KeyError::UnknownKind),
    }
}

const PART_MISSING: KeyError = KeyError::Broken("JWK: a part of it is missing");
const PARTS_DIFFER: KeyError = KeyError::Broken("JWK: its parts do not belong together");

/// A number that the key cannot do without.
fn part(number: Option<Number>) -> Result<Vec<u8>, KeyError> {
    number.map(|number| number.0).ok_or(PART_MISSING)
}

fn from_rsa_jwk(jwk: PrivateJwk) -> Result<(Kind, EncodingKey), KeyError> {
    let components = KeyPairComponents {
        public_key: PublicKeyComponents {
            n: part(jwk.n)?,
            e: part(jwk.e)?,
        },
        d: part(jwk.d)?,
        p: part(jwk.p)?,
        q: part(jwk.q)?,
        dP: part(jwk.dp)?,
        dQ: part(jwk.dq)?,
        qInv: part(jwk.qi)?,
    };
    let pair = RsaKeyPair::from_components(&components).map_err(|_| PARTS_DIFFER)?;
    let der = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| PARTS_DIFFER)?;
    from_pkcs8(der.as_ref())
}

/// A key on a curve whose numbers have `size` bytes.
fn from_ec_jwk(
    jwk: PrivateJwk,
    algorithm: &'static EcdsaSigningAlgorithm,
    size: usize,
) -> Result<(Kind, EncodingKey), KeyError> {
    // Some programs write numbers without their leading zeros.
    let sized = |number: Option<Number>| {
        let bytes = part(number)?;
        let zeros = vec![0; size.saturating_sub(bytes.len())];
        Ok::<_, KeyError>([zeros, bytes].concat())
    };
    let point = [vec![4], sized(jwk.x)?, sized(jwk.y)?].concat();
    let secret = sized(jwk.d)?;
    let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &secret, &point);
    let der = pair.map_err(|_| PARTS_DIFFER)?.to_pkcs8v1();
    from_pkcs8(der.map_err(|_| PARTS_DIFFER)?.as_ref())
}

/// A key in PKCS #8. It takes the way over PEM, the only form that the library takes apart.
fn from_pkcs8(der: &[u8]) -> Result<(Kind, EncodingKey), KeyError> {
    let body = BASE64_STANDARD.encode(der);
    from_pem(&format!(
        "-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n"
    ))
}

#[cfg(test)]
mod tests;
