//! The settings of the login to the broker, and of the key that makes tokens.
//!
//! Owns which setting gives the user name and the secret, and the warnings about secrets on the
//! command line. How a secret is read and used is the business of `auth/credentials.rs`.

use std::path::PathBuf;
use std::time::Duration;

use super::endpoint::BrokerUrl;
use super::in_force::URLS;
use super::reader::Reader;
use super::settings::variable;
use crate::auth::credentials::{Credentials, Minter, SecretError, SecretSource};
use crate::auth::secret::Secret;
use crate::auth::signing::KeyError;
use crate::auth::token;

/// The key that makes tokens, if one is given.
pub(super) fn read_minter(reader: &mut Reader<'_>, name: &str) -> Option<Minter> {
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
        Ok(key) => {
            if let Some(weakness) = key.weakness() {
                reader.warn(format!("--jwt-key-file: {weakness}"));
            }
        }
        Err(SecretError::Key {
            error: error @ (KeyError::UnknownAlgorithm(_) | KeyError::Mismatch { .. }),
            ..
        }) => reader.fail("jwt-algorithm", error),
        Err(fault) => reader.fail("jwt-key-file", fault),
    }
    Some(minter)
}

/// The login: user name and secret from their settings, or else from the broker's URL.
pub(super) fn read_credentials(
    reader: &mut Reader<'_>,
    url: Option<&BrokerUrl>,
    minter: Option<Minter>,
) -> Credentials {
    warn_of_visible_secrets(reader);
    let url_username = url.and_then(|url| url.username.clone());
    let username = match nearness(reader, "broker") > nearness(reader, "username") {
        true => url_username.or_else(|| reader.text("username")),
        false => reader.text("username").or(url_username),
    };
    let url_password = url.and_then(|url| url.password.clone());
    let mut given = nearest(given_sources(reader, url_password), reader).into_iter();
    let (first, second) = (given.next(), given.next());
    if let (Some((first, _)), Some((second, _))) = (&first, &second) {
        let origin = reader.values.get(*first).map(|given| &given.origin);
        let place = origin.map_or_else(|| format!("--{first}"), |origin| origin.place(first));
        let fault = format!("a password or token is given here and in {place}: one is enough");
        reader.fail(second, fault);
    }
    let Some((name, source)) = first else {
        return Credentials::new(username, minter.map(SecretSource::Key));
    };
    // A key beside a password or token makes tokens for others only.
    match source.stored() {
        Ok(secret) if source.is_token() && token::peek(secret.expose_secret()).is_none() => {
            reader.fail(
                name,
                match &source {
                    SecretSource::TokenFile(file) => {
                        format!("{} is not a JSON Web Token", file.display())
                    }
                    SecretSource::Password(_)
                    | SecretSource::PasswordFile(_)
                    | SecretSource::Token(_)
                    | SecretSource::Key(_) => "is not a JSON Web Token".to_owned(),
                },
            );
        }
        Ok(_) => {}
        Err(fault) => reader.fail(name, fault),
    }
    let given = reader.values.get(name);
    let place = given.map(|given| given.origin.place(name));
    Credentials::new(username, Some(source)).given_by(place.unwrap_or_else(|| format!("--{name}")))
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

/// Those that stand in the place that overrides the others.
fn nearest(
    mut given: Vec<(&'static str, SecretSource)>,
    reader: &Reader<'_>,
) -> Vec<(&'static str, SecretSource)> {
    let most = given.iter().map(|(name, _)| nearness(reader, name)).max();
    given.retain(|(name, _)| Some(nearness(reader, name)) == most);
    given
}

fn nearness(reader: &Reader<'_>, name: &str) -> u8 {
    let given = reader.values.get(name);
    given.map_or(0, |given| given.origin.nearness())
}

/// Warns of each secret that stands on the command line, where other users of the machine see it.
fn warn_of_visible_secrets(reader: &mut Reader<'_>) {
    for name in ["password", "token"] {
        if !reader.flag_texts(name).is_empty() {
            reader.warn(format!(
                "--{name} can be read in the process list: use {} or --{name}-file",
                variable(name)
            ));
        }
    }
    for name in URLS {
        let mut urls = reader.flag_texts(name).iter();
        if urls.any(|url| holds_secret(name, url)) {
            reader.warn(format!(
                "what is secret in --{name} can be read in the process list: use {}",
                variable(name)
            ));
        }
    }
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

#[cfg(test)]
mod tests {
    use crate::config::testing::load;
    use crate::protocol::time::UnixMillis;

    #[test]
    fn credentials_come_from_one_place() {
        let login = |flags: &[(&'static str, &str)], env: &[(&str, &str)]| {
            load(flags, env, None).map(|config| {
                config
                    .broker
                    .credentials
                    .read(UnixMillis::new(0))
                    .unwrap()
                    .map(|(user, secret)| (user, secret.expose_secret().to_owned()))
            })
        };
        let pair = |user: &str, password: &str| Ok(Some((user.to_owned(), password.to_owned())));
        assert_eq!(login(&[], &[]), Ok(None));
        assert_eq!(
            login(&[("broker", "mqtt://u:p&w%3D@h")], &[]),
            pair("u", "p&w=")
        );
        assert_eq!(
            login(&[("username", "observer")], &[("OBSERVER_PASSWORD", "pw")]),
            pair("observer", "pw")
        );
        assert_eq!(
            login(
                &[],
                &[
                    ("OBSERVER_PASSWORD", "pw"),
                    ("OBSERVER_TOKEN_FILE", "/nowhere")
                ]
            ),
            Err(vec![
                "OBSERVER_TOKEN_FILE: a password or token is given here and in \
             OBSERVER_PASSWORD: one is enough"
                    .to_owned()
            ])
        );
        assert_eq!(
            login(
                &[("broker", "mqtt://u:nearer@h")],
                &[("OBSERVER_PASSWORD", "pw")]
            ),
            pair("u", "nearer"),
            "flags override variables"
        );
        let far = [("OBSERVER_USERNAME", "far"), ("OBSERVER_PASSWORD", "pw")];
        assert_eq!(
            login(&[("broker", "mqtt://u:nearer@h")], &far),
            pair("u", "nearer"),
            "the user goes with the password"
        );
        assert_eq!(
            login(&[("token", "no token")], &[]),
            Err(vec!["--token: is not a JSON Web Token".to_owned()])
        );
        assert_eq!(
            login(&[("password-file", "/nowhere")], &[]),
            Err(vec![
                "--password-file: cannot read /nowhere: No such file or directory (os error 2)"
                    .to_owned()
            ])
        );
        let config = load(&[("password", "visible")], &[], None).unwrap();
        assert!(
            config.warnings[0].contains("process list"),
            "{:?}",
            config.warnings
        );
        assert!(
            !format!("{config:?}").contains("visible"),
            "Debug shows a password"
        );
    }
}
