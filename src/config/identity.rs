//! The observer's name and its client identifier.
//!
//! Owns finding or making the client identifier. The broker keeps the session under it, so it must
//! stay the same over restarts; whoever knows it can take the session over, so it is a secret.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;

use super::origin::Origin;
use super::reader::Reader;
use crate::auth::credentials::{Credentials, Derivation};
use crate::auth::secret::{Secret, hex, random_id};
use crate::protocol::topic::TopicName;

/// Client identifiers with fewer bytes are warned of.
const SHORT_CLIENT_ID: usize = 16;
const CLIENT_ID_IS_SHORT: &str = "--client-id is short enough to guess: whoever may log in to the \
    broker and knows it can take the session over";
const IDENTITY_CHANGES: &str = "no state directory can be written to, so the session's identity is \
    made of the token: with another token it is another session, and what waits in the old one is \
    never forwarded (give --state-dir or --client-id)";
const IDENTITY_GUESSABLE: &str = "no state directory can be written to and there is no password, \
    so the session's client identifier can be guessed (give --state-dir or --client-id)";

/// The variable in which the service manager names the directory that it has made.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// Why a name cannot be part of the observer's topics.
#[derive(Debug, thiserror::Error)]
enum NameError {
    #[error("{0:?} is not one topic level without \".\" and \"*\"")]
    NotOneLevel(String),
    #[error("{0}")]
    NotATopic(String),
}

/// The public name of the observer.
pub(super) fn read_name(reader: &mut Reader<'_>) -> String {
    let parse = |text: &str| match TopicName::parse(text) {
        Ok(_) if !text.contains(['/', '.', '*']) => Ok(text.to_owned()),
        Ok(_) => Err(NameError::NotOneLevel(text.to_owned())),
        Err(error) => Err(NameError::NotATopic(error.to_string())),
    };
    reader.parse("name", parse).unwrap_or_default()
}

/// Where the observer keeps its state.
#[derive(Clone, Debug)]
pub(super) enum StateDir {
    /// `--state-dir`: an error if it cannot be written to.
    Given(PathBuf),
    /// The usual place. Without access to it the client identifier is derived instead.
    Usual(PathBuf),
    /// There is none: `$HOME` is not set.
    Missing,
}

impl StateDir {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        if let Some(dir) = reader.text("state-dir") {
            return Self::Given(dir.into());
        }
        let dir = |name: &str| reader.variable(name).map(PathBuf::from);
        let usual = dir(STATE_DIRECTORY)
            .or_else(|| dir("XDG_STATE_HOME").map(|dir| dir.join("chat21-observer")))
            .or_else(|| dir("HOME").map(|home| home.join(".local/state/chat21-observer")));
        usual.map_or(Self::Missing, Self::Usual)
    }

    /// Notes the usual place, for the list of settings in force.
    pub(super) fn note(&self, reader: &mut Reader<'_>) {
        let Self::Usual(dir) = self else { return };
        let origin = match reader.variable(STATE_DIRECTORY) {
            Some(_) => Origin::Variable(STATE_DIRECTORY.to_owned()),
            None => Origin::Default,
        };
        reader.note("state-dir", dir.display().to_string(), origin);
    }

    pub(super) fn path(&self) -> Option<&Path> {
        match self {
            Self::Given(dir) | Self::Usual(dir) => Some(dir),
            Self::Missing => None,
        }
    }
}

/// The file with the random part of the client identifier is of no use.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {}: {error}", .path.display())]
pub(super) struct IdentityError {
    doing: &'static str,
    path: PathBuf,
    error: io::Error,
}

/// What the client identifier is made of.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    name: String,
    /// `--client-id`.
    client_id: Option<Secret>,
    state_dir: StateDir,
}

impl Identity {
    pub(super) fn read(reader: &mut Reader<'_>, name: &str) -> Self {
        let client_id = reader.text("client-id");
        if client_id
            .as_ref()
            .is_some_and(|id| id.len() < SHORT_CLIENT_ID)
        {
            reader.warn(CLIENT_ID_IS_SHORT);
        }
        Self {
            name: name.to_owned(),
            client_id: client_id.map(Secret::new),
            state_dir: StateDir::read(reader),
        }
    }

    /// The client identifier: given, or kept in the state directory, or derived from the login.
    pub(super) fn client_id(&self, credentials: &Credentials) -> Result<Secret, IdentityError> {
        if let Some(given) = &self.client_id {
            return Ok(given.clone());
        }
        let suffix = match &self.state_dir {
            StateDir::Given(dir) => kept_suffix(dir, &self.name)?,
            StateDir::Usual(dir) => {
                kept_suffix(dir, &self.name).unwrap_or_else(|_| self.derived_suffix(credentials))
            }
            StateDir::Missing => self.derived_suffix(credentials),
        };
        Ok(Secret::new(format!("{}-{suffix}", self.name)))
    }

    /// The client identifier of observers that share a store: given, or with what that has kept.
    pub(super) fn shared_client_id(&self, suffix: &str) -> Secret {
        let shared = || Secret::new(format!("{}-{suffix}", self.name));
        self.client_id.clone().unwrap_or_else(shared)
    }

    /// What an operator should know about an identifier that has to be derived.
    pub(super) fn warning(&self, credentials: &Credentials) -> Option<&'static str> {
        let is_kept = |dir| kept_suffix(dir, &self.name).is_ok();
        if self.client_id.is_some() || self.state_dir.path().is_some_and(is_kept) {
            return None;
        }
        match credentials.derivation() {
            Derivation::Stable => None,
            Derivation::ChangesWithToken => Some(IDENTITY_CHANGES),
            Derivation::Guessable => Some(IDENTITY_GUESSABLE),
        }
    }

    /// A suffix that is the same at each start and secret if the login is, without a file.
    fn derived_suffix(&self, credentials: &Credentials) -> String {
        let secret = credentials.stored_secret();
        let secret = secret.as_ref().map_or("", Secret::expose_secret);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let text = format!("chat21-observer client id\n{}", self.name);
        let tag = hmac::sign(&key, text.as_bytes());
        hex(&tag.as_ref()[..16])
    }
}

/// A client identifier for a trial as an ordinary user. It begins with the user's own identifier,
/// so that narrow permissions allow it.
pub fn probe_client_id(user: &str) -> Secret {
    Secret::new(format!("{user}.check-{}", random_id()))
}

/// The random suffix kept in `dir`; made at the first start.
fn kept_suffix(dir: &Path, name: &str) -> Result<String, IdentityError> {
    let path = dir.join(format!("{name}.client-id"));
    let failed = |doing: &'static str| {
        let path = path.clone();
        move |error| IdentityError { doing, path, error }
    };
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("read")(error)),
    }
    std::fs::create_dir_all(dir).map_err(failed("make the directory of"))?;
    let suffix = random_id();
    write_private(&path, &suffix).map_err(failed("write"))?;
    Ok(suffix)
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// What the system says.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use crate::config::Config;
    use crate::config::testing::load;

    #[test]
    fn the_client_identifier_is_kept_or_derived_and_warned_of() {
        let dir = tempfile::TempDir::new().unwrap();
        let state = dir.path().join("deep/state").display().to_string();
        let id = |config: &Config| {
            let links = config.links().unwrap();
            links.client_id.expose_secret().to_owned()
        };
        let kept = load(&[("state-dir", &state)], &[], None).unwrap();
        assert_eq!(
            (id(&kept).len(), id(&kept)),
            ("observer-".len() + 32, id(&kept))
        );
        assert_eq!(kept.identity_warning(), None);
        let mode = std::fs::metadata(format!("{state}/observer.client-id"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);

        // No place to keep it: made of the password, the same each time, another for another.
        let derived = |password: &str| load(&[], &[("OBSERVER_PASSWORD", password)], None).unwrap();
        assert_eq!(id(&derived("a")), id(&derived("a")));
        assert_ne!(id(&derived("a")), id(&derived("b")));
        assert_eq!(derived("a").identity_warning(), None);
        assert!(
            load(&[], &[], None)
                .unwrap()
                .identity_warning()
                .unwrap()
                .contains("can be guessed")
        );

        assert_eq!(
            id(&load(&[("client-id", "a-long-enough-identifier")], &[], None).unwrap()),
            "a-long-enough-identifier"
        );
        assert!(
            load(&[("client-id", "short")], &[], None).unwrap().warnings[0]
                .contains("short enough to guess")
        );
        let missing = load(&[("state-dir", "/proc/nowhere")], &[], None)
            .unwrap()
            .links()
            .unwrap_err()
            .to_string();
        assert!(
            missing.starts_with(
                "--state-dir: cannot make the directory of /proc/nowhere/observer.client-id"
            ),
            "{missing}"
        );
    }
}
