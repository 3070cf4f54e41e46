//! What the observer logs in with: a password, a token, or a key with which it makes its own; and what makes others' tokens.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::settings::variable;
use super::{Reader, random_text};
use crate::auth::secret::Secret;
use crate::auth::signing::SigningKey;
use crate::auth::token::{self, Grant, Stamp};
use crate::protocol::time::UnixMillis;

/// User, password or token, and where they come from.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    username: Option<String>,
    secret: Option<SecretSource>,
}

#[derive(Clone, Debug)]
enum SecretSource {
    Password(Secret),
    PasswordFile(PathBuf),
    Token(Secret),
    TokenFile(PathBuf),
    /// It makes its own.
    Key(Minter),
}

/// What makes tokens: `--jwt-key-file` and how it is used.
#[derive(Clone, Debug)]
pub struct Minter {
    file: PathBuf,
    algorithm: Option<String>,
    /// The header's `kid`.
    pub key_id: Option<String>,
    /// RabbitMQ's `resource_server_id`.
    pub audience: String,
    ttl: Duration,
    name: String,
}

impl Minter {
    /// The key, read anew.
    ///
    /// # Errors
    /// Why it cannot be read, or is none, in words.
    pub fn key(&self) -> Result<SigningKey, String> {
        let text = read_secret(&self.file)?;
        SigningKey::parse(&text, self.algorithm.as_deref())
            .map_err(|error| format!("{} {error}", self.file.display()))
    }

    /// What of a token stands for the moment it is made in.
    pub fn mint(
        &self,
        key: &SigningKey,
        ttl: Duration,
        grant: impl FnOnce(&Stamp<'_>) -> Grant,
    ) -> Secret {
        let stamp = Stamp {
            now: now(),
            ttl,
            id: &random_text(),
            audience: &self.audience,
        };
        key.sign(&grant(&stamp), self.key_id.as_deref())
    }
}

fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        Err(format!("{} is empty", path.display()))
    } else {
        Ok(Secret::new(secret.to_owned()))
    }
}

impl SecretSource {
    fn read(&self) -> Result<Secret, String> {
        match self {
            Self::Password(secret) | Self::Token(secret) => Ok(secret.clone()),
            Self::PasswordFile(path) | Self::TokenFile(path) => read_secret(path),
            Self::Key(minter) => {
                let key = minter.key()?;
                Ok(minter.mint(&key, minter.ttl, |stamp| {
                    Grant::service(&minter.name, stamp)
                }))
            }
        }
    }

    /// What stays the same from one connection to the next.
    fn lasting(&self) -> Result<Secret, String> {
        match self {
            Self::Key(minter) => read_secret(&minter.file),
            Self::Password(_) | Self::PasswordFile(_) | Self::Token(_) | Self::TokenFile(_) => {
                self.read()
            }
        }
    }

    fn is_token(&self) -> bool {
        matches!(self, Self::Token(_) | Self::TokenFile(_) | Self::Key(_))
    }
}

impl Credentials {
    /// A user's, from a file that holds his password, or without a name his token.
    ///
    /// # Errors
    /// A file that cannot be read, in words.
    pub fn of_file(username: Option<&str>, path: &Path) -> Result<Self, String> {
        let source = match username {
            Some(_) => SecretSource::PasswordFile(path.to_owned()),
            None => SecretSource::TokenFile(path.to_owned()),
        };
        source.read()?;
        Ok(Self {
            username: username.map(str::to_owned),
            secret: Some(source),
        })
    }

    /// User name and password for the next connection; `None` to log in as nobody. Files are read anew each time.
    ///
    /// # Errors
    /// A file that cannot be read or is empty, in words.
    pub fn read(&self) -> Result<Option<(String, Secret)>, String> {
        let Some(source) = &self.secret else {
            return Ok(self
                .username
                .clone()
                .map(|username| (username, Secret::new(String::new()))));
        };
        // RabbitMQ refuses a login without a user name, and takes any with a token (seen on 3.10.8 and 4.0.5).
        let username = self.username.clone().unwrap_or_else(|| "JWT".to_owned());
        Ok(Some((username, source.read()?)))
    }

    /// A secret that stays the same from one connection to the next, if there is one.
    pub(super) fn lasting(&self) -> Option<Secret> {
        self.secret.as_ref()?.lasting().ok()
    }

    /// What is wrong with making the session's identity of it, if something is.
    pub(super) fn as_identity(&self) -> Option<&'static str> {
        match &self.secret {
            Some(SecretSource::Token(_) | SecretSource::TokenFile(_)) => Some(
                "no state directory can be written to, so the session's identity is made of the token: with another token it is another session, and what waits in the old one is never forwarded (give --state-dir or --client-id)",
            ),
            Some(
                SecretSource::Password(_) | SecretSource::PasswordFile(_) | SecretSource::Key(_),
            ) => None,
            None => Some(
                "no state directory can be written to and there is no password, so the session's client identifier can be guessed (give --state-dir or --client-id)",
            ),
        }
    }

    /// The user to log in as, if one is given.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The claims of the token in use, if it is one.
    pub fn claims(&self) -> Option<token::Claims> {
        token::peek(self.secret.as_ref()?.read().ok()?.reveal())
    }

    /// Says so, if the token in use has expired.
    pub fn token_expired(&self) -> Option<String> {
        match self.claims()?.remaining(now())? {
            Err(ago) => Some(format!(
                "the token expired {} ago",
                humantime::format_duration(ago)
            )),
            Ok(_) => None,
        }
    }

    /// Whether a token may be followed by another.
    pub fn can_renew(&self) -> bool {
        matches!(
            self.secret,
            Some(SecretSource::Key(_) | SecretSource::TokenFile(_))
        )
    }

    /// How long it is until `time`; nothing, if that has passed.
    pub fn time_until(&self, time: UnixMillis) -> Duration {
        Duration::from_millis(time.as_millis().saturating_sub(now().as_millis()))
    }

    /// Whether there is, or can be made, a token that is good for longer than one that ends then.
    pub fn is_renewed(&self, ends: UnixMillis) -> bool {
        match &self.secret {
            Some(SecretSource::Key(_)) => true,
            Some(SecretSource::TokenFile(_)) => {
                self.claims().and_then(|claims| claims.ends()) > Some(ends)
            }
            Some(
                SecretSource::Password(_) | SecretSource::PasswordFile(_) | SecretSource::Token(_),
            )
            | None => false,
        }
    }

    /// How long the token in use is still good, if it ends and nothing renews it.
    pub fn token_remaining(&self) -> Option<Duration> {
        match self.secret {
            Some(SecretSource::Key(_)) => None,
            _ => self.claims()?.remaining(now())?.ok(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "whether a token has expired is asked where it is used, at the edge"
)]
fn now() -> UnixMillis {
    UnixMillis::from(SystemTime::now())
}

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

pub(super) fn read_credentials(
    reader: &mut Reader<'_>,
    url: (Option<String>, Option<Secret>),
    minter: Option<Minter>,
    warnings: &mut Vec<String>,
) -> Credentials {
    for name in ["password", "token"] {
        if reader
            .values
            .get(name)
            .is_some_and(|(_, place)| place.starts_with("--"))
        {
            warnings.push(format!(
                "--{name} can be read in the process list: use {} or --{name}-file",
                variable(name)
            ));
        }
    }
    for name in ["broker", "proxy", "policy-url", "webhook-endpoints"] {
        let given = reader.values.get(name);
        let given = given.filter(|(_, place)| place.starts_with("--"));
        let texts = given.map(|(texts, _)| &texts[..]).unwrap_or_default();
        let is_secret = |text: &String| {
            let behind_scheme = text.split_once("://").map_or("", |(_, rest)| rest);
            let login = behind_scheme
                .rsplit_once('@')
                .map_or("", |(login, _)| login);
            let has_query = text.contains('?') && !matches!(name, "broker" | "proxy");
            login.contains(':') || has_query
        };
        if texts.iter().any(is_secret) {
            warnings.push(format!(
                "what is secret in --{name} can be read in the process list: use {}",
                variable(name)
            ));
        }
    }
    let path = |reader: &Reader<'_>, name| reader.text(name).map(PathBuf::from);
    let sources: Vec<(&str, SecretSource)> = [
        (
            "password",
            reader
                .text("password")
                .map(|text| SecretSource::Password(Secret::new(text))),
        ),
        (
            "password-file",
            path(reader, "password-file").map(SecretSource::PasswordFile),
        ),
        (
            "token",
            reader
                .text("token")
                .map(|text| SecretSource::Token(Secret::new(text))),
        ),
        (
            "token-file",
            path(reader, "token-file").map(SecretSource::TokenFile),
        ),
        ("broker", url.1.map(SecretSource::Password)),
    ]
    .into_iter()
    .filter_map(|(name, source)| source.map(|source| (name, source)))
    .collect();
    if let [(first, _), (second, _), ..] = &sources[..] {
        let fault =
            format!("a password or token is given here and by {first}: one of them is enough");
        reader.fail(second, fault);
    }
    let source = sources.into_iter().next();
    if let Some((name, source)) = &source {
        match source.read() {
            Ok(secret) if source.is_token() && token::peek(secret.reveal()).is_none() => {
                reader.fail(name, "is not a JSON Web Token")
            }
            Ok(_) => {}
            Err(fault) => reader.fail(name, fault),
        }
    }
    Credentials {
        username: reader.text("username").or(url.0),
        // With a password beside it, the key is there to make others' tokens.
        secret: source
            .map(|(_, source)| source)
            .or(minter.map(SecretSource::Key)),
    }
}
