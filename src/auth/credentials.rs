//! What the observer logs in to the broker with, and the key it makes tokens with.
//!
//! Owns reading a secret anew for each connection, so that a changed file takes effect. Which
//! setting gives the secret is decided in `config/login.rs`. Reads files, but no clock: callers
//! pass the time.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auth::secret::{Secret, random_id};
use crate::auth::signing::{KeyError, SigningKey};
use crate::auth::token::{self, Grant, Stamp, Validity};
use crate::protocol::time::UnixMillis;

/// The user name for a login with a token alone. RabbitMQ refuses a login without a user name, and
/// accepts any name beside a token (tested on 3.10.8 and 4.0.5).
pub const TOKEN_USERNAME: &str = "JWT";

/// Why a secret cannot be had. The text never repeats the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file is missing, or access to it is denied.
    #[error("cannot read {}: {error}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file holds nothing but line ends.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
    /// The file does not hold a key that can sign tokens.
    #[error("{} {error}", .path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with the key.
        error: KeyError,
    },
}

/// Where the password or token comes from.
#[derive(Clone, Debug)]
pub enum SecretSource {
    /// A password from the settings.
    Password(Secret),
    /// A file with a password, read for each connection.
    PasswordFile(PathBuf),
    /// A token from the settings.
    Token(Secret),
    /// A file with a token, read for each connection.
    TokenFile(PathBuf),
    /// The observer signs a new token for each connection.
    Key(Minter),
}

impl SecretSource {
    /// The secret for a connection that begins at `now`.
    fn read(&self, now: UnixMillis) -> Result<Secret, SecretError> {
        match self {
            Self::Key(minter) => minter.own_token(now),
            Self::Password(_) | Self::PasswordFile(_) | Self::Token(_) | Self::TokenFile(_) => {
                self.stored()
            }
        }
    }

    /// The secret as it is given or stands in its file. For a key this is the key, not a token.
    ///
    /// # Errors
    /// A file that cannot be read or is empty.
    pub fn stored(&self) -> Result<Secret, SecretError> {
        match self {
            Self::Password(secret) | Self::Token(secret) => Ok(secret.clone()),
            Self::PasswordFile(path) | Self::TokenFile(path) => read_secret(path),
            Self::Key(minter) => read_secret(&minter.file),
        }
    }

    /// Whether the broker is shown a token rather than a password.
    pub fn is_token(&self) -> bool {
        match self {
            Self::Token(_) | Self::TokenFile(_) | Self::Key(_) => true,
            Self::Password(_) | Self::PasswordFile(_) => false,
        }
    }
}

fn read_secret(path: &Path) -> Result<Secret, SecretError> {
    let text = std::fs::read_to_string(path).map_err(|error| SecretError::Unreadable {
        path: path.to_owned(),
        error,
    })?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(SecretError::Empty(path.to_owned()));
    }
    Ok(Secret::new(secret.to_owned()))
}

/// Makes tokens with the key in a file (`--jwt-key-file`).
#[derive(Clone, Debug)]
pub struct Minter {
    /// The file with the key, read for each token.
    pub file: PathBuf,
    /// The algorithm to sign with; `None` takes the usual one for the kind of key.
    pub algorithm: Option<String>,
    /// `kid` in the token's header. Without it RabbitMQ takes its default key.
    pub key_id: Option<String>,
    /// Whom tokens are for: RabbitMQ's `resource_server_id`.
    pub audience: String,
    /// How long the observer's own tokens are valid.
    pub ttl: Duration,
    /// The observer's name, the subject of its own tokens.
    pub name: String,
}

impl Minter {
    /// Reads the key from its file.
    ///
    /// # Errors
    /// A file that cannot be read or does not hold a key.
    pub fn key(&self) -> Result<SigningKey, SecretError> {
        let text = read_secret(&self.file)?;
        SigningKey::parse(&text, self.algorithm.as_deref()).map_err(|error| SecretError::Key {
            path: self.file.clone(),
            error,
        })
    }

    /// Signs the token that `grant` describes, valid from `now` for `ttl`.
    pub fn mint(
        &self,
        key: &SigningKey,
        now: UnixMillis,
        ttl: Duration,
        grant: impl FnOnce(&Stamp<'_>) -> Grant,
    ) -> Secret {
        let stamp = Stamp {
            now,
            ttl,
            id: &random_id(),
            audience: &self.audience,
        };
        key.sign(&grant(&stamp), self.key_id.as_deref())
    }

    /// A token for the observer itself.
    fn own_token(&self, now: UnixMillis) -> Result<Secret, SecretError> {
        let key = self.key()?;
        Ok(self.mint(&key, now, self.ttl, |stamp| {
            Grant::service(&self.name, stamp)
        }))
    }
}

/// User name, and password or token.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    username: Option<String>,
    source: Option<SecretSource>,
    /// The setting that gives the secret, as the operator knows it: `OBSERVER_PASSWORD`.
    setting: Option<String>,
}

/// How good a client identifier is that is derived from the credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Derivation {
    /// It stays the same, and nobody can guess it.
    Stable,
    /// It changes with the next token.
    ChangesWithToken,
    /// There is no secret to derive it from.
    Guessable,
}

/// The token in use is no longer valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenExpired {
    /// How long ago it expired.
    pub ago: Duration,
}

impl fmt::Display for TokenExpired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ago = humantime::format_duration(self.ago);
        write!(f, "the token expired {ago} ago")
    }
}

impl Credentials {
    /// A user name, and where the secret comes from. Neither is required.
    pub fn new(username: Option<String>, source: Option<SecretSource>) -> Self {
        Self {
            username,
            source,
            setting: None,
        }
    }

    /// The same with the setting that gives the secret: `OBSERVER_PASSWORD`.
    #[must_use]
    pub fn given_by(self, setting: impl Into<String>) -> Self {
        Self {
            setting: Some(setting.into()),
            ..self
        }
    }

    /// Where the secret comes from, in words. `None` if there is no secret.
    pub fn origin(&self) -> Option<String> {
        Some(match self.source.as_ref()? {
            SecretSource::Password(_) | SecretSource::Token(_) => match &self.setting {
                Some(setting) => format!("from {setting}"),
                None => "from the settings".to_owned(),
            },
            SecretSource::PasswordFile(path) | SecretSource::TokenFile(path) => {
                format!("from the file {}", path.display())
            }
            SecretSource::Key(minter) => {
                format!("made with the key in {}", minter.file.display())
            }
        })
    }

    /// Whether the broker is shown a token. One may stand in the place of a password.
    pub fn shows_token(&self) -> bool {
        let is_token = self.source.as_ref().is_some_and(SecretSource::is_token);
        is_token || self.claims().is_some()
    }

    /// Credentials from a file: of a named user the password, of nobody in particular a token.
    ///
    /// # Errors
    /// A file that cannot be read or is empty.
    pub fn of_file(username: Option<&str>, path: &Path) -> Result<Self, SecretError> {
        let source = match username {
            Some(_) => SecretSource::PasswordFile(path.to_owned()),
            None => SecretSource::TokenFile(path.to_owned()),
        };
        source.stored()?;
        Ok(Self::new(username.map(str::to_owned), Some(source)))
    }

    /// User name and password for a connection that begins at `now`; `None` for an anonymous login.
    /// Reads files anew, and makes a new token if there is a key.
    ///
    /// # Errors
    /// A file that cannot be read or is empty.
    pub fn read(&self, now: UnixMillis) -> Result<Option<(String, Secret)>, SecretError> {
        match (&self.username, &self.source) {
            (None, None) => Ok(None),
            (Some(username), None) => Ok(Some((username.clone(), Secret::new(String::new())))),
            (username, Some(source)) => {
                let username = username.as_deref().unwrap_or(TOKEN_USERNAME);
                Ok(Some((username.to_owned(), source.read(now)?)))
            }
        }
    }

    /// A secret that is the same for each connection, if there is one: never a token made here.
    pub fn stored_secret(&self) -> Option<Secret> {
        self.source.as_ref()?.stored().ok()
    }

    /// How good a client identifier derived from [`Credentials::stored_secret`] is.
    pub fn derivation(&self) -> Derivation {
        match &self.source {
            Some(SecretSource::Token(_) | SecretSource::TokenFile(_)) => {
                Derivation::ChangesWithToken
            }
            Some(
                SecretSource::Password(_) | SecretSource::PasswordFile(_) | SecretSource::Key(_),
            ) => Derivation::Stable,
            None => Derivation::Guessable,
        }
    }

    /// The user to log in as, if one is given.
    pub fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    /// The claims of the given token. `None` for a password, and for tokens made with a key: those
    /// never expire while in use.
    pub fn claims(&self) -> Option<token::Claims> {
        let source = self.source.as_ref()?;
        if matches!(source, SecretSource::Key(_)) {
            return None;
        }
        // A password may be a token, too.
        token::peek(source.stored().ok()?.expose_secret())
    }

    /// Whether the given token has expired at `now`.
    pub fn token_expired(&self, now: UnixMillis) -> Option<TokenExpired> {
        match self.claims()?.validity(now) {
            Validity::Expired(ago) => Some(TokenExpired { ago }),
            Validity::Unlimited | Validity::Remaining(_) => None,
        }
    }

    /// How long the given token is still valid. `None` if it never ends, has ended, or is renewed.
    pub fn token_remaining(&self, now: UnixMillis) -> Option<Duration> {
        match self.claims()?.validity(now) {
            Validity::Remaining(left) => Some(left),
            Validity::Unlimited | Validity::Expired(_) => None,
        }
    }

    /// Whether another token may follow the one in use.
    pub fn can_renew(&self) -> bool {
        matches!(
            self.source,
            Some(SecretSource::Key(_) | SecretSource::TokenFile(_))
        )
    }

    /// Whether a token is at hand that outlives one that ends at `ends`.
    pub fn is_renewed(&self, ends: UnixMillis) -> bool {
        match &self.source {
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
}
