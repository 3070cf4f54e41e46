//! Texts that must never be printed, and random texts that nobody can guess.
//!
//! Owns hiding a secret and wiping its memory. Where secrets come from is the business of
//! `credentials.rs`.

use std::fmt;

use aws_lc_rs::rand;
use secrecy::{ExposeSecret, SecretString};

/// A password, token, key or client identifier. `Debug` prints stars, there is no `Display`, and
/// the memory is wiped on drop.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes over a text. An empty text is allowed: it stands for a password that is not given.
    pub fn new(text: String) -> Self {
        Self(text.into())
    }

    /// The secret as plain text. Search for this name to find every place that handles one.
    pub fn expose_secret(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// 128 random bits from the system, in hexadecimal.
pub fn random_id() -> String {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).expect("the system has randomness");
    hex(&bytes)
}

/// Two lower-case hexadecimal digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_only_on_demand() {
        let secret = Secret::new("s3cret".to_owned());
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(secret.expose_secret(), "s3cret");
    }

    #[test]
    fn random_ids_differ() {
        assert_eq!((random_id().len(), hex(&[0, 255])), (32, "00ff".to_owned()));
        assert_ne!(random_id(), random_id());
    }
}
