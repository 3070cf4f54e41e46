use super::*;
use aws_lc_rs::encoding::Pkcs8V1Der;
use aws_lc_rs::rsa::KeySize;
use serde_json::{Value, json};

fn secret(text: &str) -> Secret {
    Secret::new(text.to_owned())
}

fn pem(der: &[u8]) -> Secret {
    secret(&format!(
        "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
        BASE64_STANDARD.encode(der)
    ))
}

/// A key of each kind, as PEM or secret, with the algorithms it is for.
fn keys() -> Vec<(Secret, Vec<&'static str>)> {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let rsa = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa).unwrap();
    let ec = |algorithm| {
        let pair = EcdsaKeyPair::generate(algorithm).unwrap();
        pem(pair.to_pkcs8v1().unwrap().as_ref())
    };
    let ed = Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap();
    vec![
        (
            secret("a secret of more than sixty-four bytes, which is enough for any of the hashes"),
            Kind::Hmac.names(),
        ),
        (pem(rsa.as_ref()), Kind::Rsa.names()),
        (ec(&ECDSA_P256_SHA256_FIXED_SIGNING), Kind::P256.names()),
        (ec(&ECDSA_P384_SHA384_FIXED_SIGNING), Kind::P384.names()),
        (pem(ed.as_ref()), Kind::Ed25519.names()),
    ]
}

#[test]
fn every_algorithm_signs_and_is_recognised_and_no_other_key_is() {
    let mut tried = vec![];
    let mut before: Option<SigningKey> = None;
    for (text, fits) in keys() {
        for algorithm in fits.clone() {
            let key = SigningKey::parse(&text, Some(algorithm)).unwrap();
            assert_eq!(key.weakness(), None);
            let token = key.sign(&json!({"sub": "alice"}), Some("key-1"));
            let header = jsonwebtoken::decode_header(token.expose_secret()).unwrap();
            assert_eq!(
                (format!("{:?}", header.alg), header.kid.as_deref()),
                (algorithm.to_owned(), Some("key-1"))
            );
            assert!(key.has_signed(token.expose_secret()), "{algorithm}");
            let (body, signature) = token.expose_secret().rsplit_once('.').unwrap();
            let first = if signature.starts_with('A') { 'Q' } else { 'A' };
            let forged = format!("{body}.{first}{}", &signature[1..]);
            assert!(!key.has_signed(&forged), "{algorithm}");
            if let Some(other) = before.replace(key) {
                assert!(!other.has_signed(token.expose_secret()) || other.algorithm() == algorithm);
            }
            tried.push(algorithm);
        }
        assert_eq!(SigningKey::parse(&text, None).unwrap().algorithm(), fits[0]);
    }
    for algorithm in SigningAlgorithm::VARIANTS {
        assert!(tried.contains(algorithm), "{algorithm}");
    }
}

#[test]
fn a_jwk_says_what_it_is_for() {
    let jwk = json!({"kty": "oct", "k": BASE64_URL_SAFE_NO_PAD.encode([7; 64]), "alg": "HS512"});
    let key = SigningKey::parse(&secret(&jwk.to_string()), None).unwrap();
    assert_eq!((key.algorithm(), key.weakness()), ("HS512", None));
    // RFC 8037, appendix A.1.
    let ed = json!({
        "kty": "OKP", "crv": "Ed25519",
        "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    });
    let key = SigningKey::parse(&secret(&ed.to_string()), None).unwrap();
    assert!(key.has_signed(key.sign(&json!({}), None).expose_secret()));
    // RFC 7515, appendix A.3.
    let ec = json!({
        "kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI"
    });
    let key = SigningKey::parse(&secret(&ec.to_string()), None).unwrap();
    assert_eq!(key.algorithm(), "ES256");
    assert!(key.has_signed(key.sign(&json!({}), None).expose_secret()));
}

#[test]
fn what_is_no_key_is_refused_with_a_reason_and_without_a_word_of_it() {
    let ec_private = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----";
    let other: Value = json!({"kty": "EC", "crv": "secp256k1", "d": "c2VjcmV0LXBhcnQ"});
    let parted = json!({"kty": "RSA", "d": "c2VjcmV0LXBhcnQ", "n": "AQAB"});
    for (text, want) in [
        ("", "is empty"),
        (
            "-----BEGIN PUBLIC KEY-----\nc2VjcmV0LXBhcnQ=\n-----END PUBLIC KEY-----",
            "public key",
        ),
        ("-----BEGIN CERTIFICATE-----\n", "public key"),
        (ec_private, "openssl pkcs8 -topk8"),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nc2VjcmV0LXBhcnQ=\n\
             -----END ENCRYPTED PRIVATE KEY-----",
            "openssl pkcs8",
        ),
        ("{\"kty\": \"secret-part", "no JWK"),
        (r#"{"kty": "oct", "k": "secret part!"}"#, "no JWK"),
        (r#"{"kty": "RSA", "n": "AQAB"}"#, "public key"),
        (&other.to_string(), "kind that is not known"),
        (&parted.to_string(), "a part of it is missing"),
    ] {
        let error = SigningKey::parse(&secret(text), None)
            .unwrap_err()
            .to_string();
        assert!(error.contains(want), "{want}: {error}");
        assert!(
            !error.contains("secret-part") && !error.contains("c2VjcmV0"),
            "{error}"
        );
    }
    let key = |algorithm| SigningKey::parse(&secret("tokenKey"), Some(algorithm));
    assert!(
        key("HS257")
            .unwrap_err()
            .to_string()
            .contains("HS256, HS384")
    );
    assert!(key("none").is_err());
    assert!(
        key("RS256")
            .unwrap_err()
            .to_string()
            .contains("which is for HS256")
    );
    let published = key("HS256").unwrap();
    assert_eq!(published.weakness(), Some(Weakness::Published));
    let short = SigningKey::parse(&secret("short"), None).unwrap();
    let weakness = short.weakness().unwrap();
    assert_ne!(weakness, Weakness::Published);
    assert!(weakness.to_string().contains("5 bytes"));
    assert!(!format!("{short:?} {published:?}").contains("tokenKey"));
}
