//! The settings of the login to the broker, and of the key that makes tokens.
//!
//! Owns which setting gives the user name and the secret, and the warnings about secrets on the
//! command line. How a secret is read and used is the business of `auth/credentials.rs`.

use std::path::PathBuf;
use std::time::Duration;

use super::Reader;
use super::settings::variable;
use crate::auth::credentials::{Credentials, Minter, SecretSource};
use crate::auth::secret::Secret;
use crate::auth::token;

/// Settings that may hold a secret somewhere in a URL.
const URLS: [&str; 4] = ["broker", "proxy", "policy-url", "webhook-endpoints"];

/// The key that makes tokens, if one is given.
pub(super) fn read_minter(
    reader: &mut Reader<'_>,
    name: &str,
    warnings: &mut Vec<String>,
) -> Option<Minter> {
    let ttl = reader.duration(
        "jwt-ttl",
        Duration::from_secs(10)..=Duration::from_secs(10 * 365 * 24 * 3600),
    );
    let minter = Minter {
        file: PathBuf::from(reader.text("jwt-key-file")?),
        algorithm: reader.text("jwt-algorithm"),
        key_id: reader.text("jwt-key-id"),
        audience: reader.text("jwt-audience").unwrap_or_default(),
        ttl,
        name: name.to_owned(),
    };
    match minter.key() {
        Ok(key) => warnings.extend(key.weakness().map(|weak| format!("--jwt-key-file: {weak}"))),
        Err(fault) => reader.fail("jwt-key-file", fault),
    }
    Some(minter)
}

/// The login: user name and secret from their settings, or else from the broker's URL.
pub(super) fn read_credentials(
    reader: &mut Reader<'_>,
    (url_username, url_password): (Option<String>, Option<Secret>),
    minter: Option<Minter>,
    warnings: &mut Vec<String>,
) -> Credentials {
    warnings.extend(warnings_of_visible_secrets(reader));
    let username = reader.text("username").or(url_username);
    let mut given = given_sources(reader, url_password).into_iter();
    let (first, second) = (given.next(), given.next());
    if let (Some((first, _)), Some((second, _))) = (&first, &second) {
        let fault =
            format!("a password or token is given here and by {first}: one of them is enough");
        reader.fail(second, fault);
    }
    let Some((name, source)) = first else {
        return Credentials::new(username, minter.map(SecretSource::Key));
    };
    // A key beside a password or token makes tokens for others only.
    match source.stored() {
        Ok(secret) if source.is_token() && token::peek(secret.expose_secret()).is_none() => {
            reader.fail(name, "is not a JSON Web Token");
        }
        Ok(_) => {}
        Err(fault) => reader.fail(name, fault),
    }
    Credentials::new(username, Some(source))
}

/// Every password and token that is given, with the setting it is given by.
fn given_sources(
    reader: &Reader<'_>,
    url_password: Option<Secret>,
) -> Vec<(&'static str, SecretSource)> {
    let secret = |name| reader.text(name).map(Secret::new);
    let path = |name| reader.text(name).map(PathBuf::from);
    let all = [
        ("password", secret("password").map(SecretSource::Password)),
        (
            "password-file",
            path("password-file").map(SecretSource::PasswordFile),
        ),
        ("token", secret("token").map(SecretSource::Token)),
        (
            "token-file",
            path("token-file").map(SecretSource::TokenFile),
        ),
        ("broker", url_password.map(SecretSource::Password)),
    ];
    all.into_iter()
        .filter_map(|(name, source)| Some((name, source?)))
        .collect()
}

/// Warns of each secret that stands on the command line, where other users of the machine see it.
fn warnings_of_visible_secrets(reader: &Reader<'_>) -> Vec<String> {
    let mut warnings = vec![];
    for name in ["password", "token"] {
        if !reader.flag_texts(name).is_empty() {
            warnings.push(format!(
                "--{name} can be read in the process list: use {} or --{name}-file",
                variable(name)
            ));
        }
    }
    for name in URLS {
        if reader
            .flag_texts(name)
            .iter()
            .any(|url| holds_secret(name, url))
        {
            warnings.push(format!(
                "what is secret in --{name} can be read in the process list: use {}",
                variable(name)
            ));
        }
    }
    warnings
}

/// Whether a URL holds a password, or a query that may be one.
fn holds_secret(name: &str, url: &str) -> bool {
    let behind_scheme = url.split_once("://").map_or("", |(_, rest)| rest);
    let login = behind_scheme
        .rsplit_once('@')
        .map_or("", |(login, _)| login);
    let has_query = url.contains('?') && !matches!(name, "broker" | "proxy");
    login.contains(':') || has_query
}
