//! Where a store on PostgreSQL is: what `--store postgres://…` says.
//!
//! Owns reading the address, as libpq understands it, and the text that people are shown of it. It
//! never holds a password.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::SslMode;

use super::lease::Lease;
use crate::auth::secret::Secret;

/// The lease of an observer, unless the settings say otherwise.
const DEFAULT_LEASE: Duration = Duration::from_secs(5);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The least time for that, and for what is sent to be taken by the network of the database.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
/// Attempts to renew a lease that fit into it.
const ATTEMPTS: u32 = 3;
/// The pause between two questions whether an idle connection is still there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// Why an address of a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// It is no address.
    #[error("it is not an address of the form postgres://USER@HOST:PORT/DATABASE ({0})")]
    Form(String),
    /// It names no database, or no host.
    #[error("it names no {0}: postgres://USER@HOST:PORT/DATABASE")]
    Missing(&'static str),
    /// It holds a password.
    #[error("it holds a password, which others on this machine can read: --store-password-file")]
    Password,
    /// `sslmode` is none of libpq's.
    #[error("sslmode={0} is not one of disable, prefer, require, verify-ca and verify-full")]
    SslMode(String),
}

/// How much of the server's certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verify {
    /// Nothing.
    Nothing,
    /// That a trusted authority has signed it.
    Authority,
    /// The same, and that it is for this host.
    Host,
}

/// How slots share the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SharedBy {
    /// Each slot gets all, and serves those of its senders.
    #[default]
    All,
    /// The broker gives each message to one of them, by a hash of its topic.
    Hash,
}

impl SharedBy {
    /// Its name in the settings, and in the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Hash => "hash",
        }
    }
}

/// A database, and how to log in to it.
#[derive(Clone)]
pub struct Target {
    /// For people.
    shown: String,
    pub(super) config: Config,
    pub(super) verify: Verify,
    /// The certificates to trust in place of the system's.
    pub(super) roots: Option<PathBuf>,
    /// How long an observer that is gone keeps others from taking its place.
    pub(super) lease: Duration,
    /// The name of this process, for people.
    pub(super) holder: String,
    /// The name of the observer: of all that serve the store. Empty for a command.
    pub(super) name: String,
    /// How many slots the store has.
    pub(super) slots: u16,
    /// How these share the messages.
    pub(super) sharing: SharedBy,
    /// How long a session is taken to be at the broker that nobody has connected to.
    pub(super) session_lasts: Duration,
    /// The lease that this process has already.
    pub(super) held: Option<Arc<Lease>>,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let form = |error: &dyn fmt::Display| TargetError::Form(error.to_string());
        let mut url = url::Url::parse(text).map_err(|error| form(&error))?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(form(&format_args!("{}:// is none", url.scheme())));
        }
        if url.password().is_some() {
            return Err(TargetError::Password);
        }
        let (mut mode, mut roots, mut rest) = (None, None, vec![]);
        for (name, value) in url.query_pairs() {
            match &*name {
                "password" => return Err(TargetError::Password),
                "sslmode" => mode = Some(value.into_owned()),
                "sslrootcert" => roots = Some(value.into_owned()),
                _ => rest.push((name.into_owned(), value.into_owned())),
            }
        }
        url.set_query(None);
        if !rest.is_empty() {
            url.query_pairs_mut().extend_pairs(&rest);
        }
        let mut config: Config = url
            .as_str()
            .parse()
            .map_err(|error: tokio_postgres::Error| {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                TargetError::Form(source.unwrap_or_else(|| error.to_string()))
            })?;
        if config.get_hosts().is_empty() {
            return Err(TargetError::Missing("host"));
        }
        let Some(database) = config.get_dbname() else {
            return Err(TargetError::Missing("database"));
        };
        let host = url.host_str().unwrap_or_default();
        let user = match url.username() {
            "" => String::new(),
            user => format!("{user}@"),
        };
        let port = url.port().unwrap_or(5432);
        let shown = format!("postgres://{user}{host}:{port}/{database}");
        let roots = roots.filter(|roots| roots != "system").map(PathBuf::from);
        let (ssl, verify) = match mode.as_deref().unwrap_or("prefer") {
            "disable" => (SslMode::Disable, Verify::Nothing),
            "prefer" => (SslMode::Prefer, Verify::Nothing),
            // As libpq: certificates to trust are not given for nothing.
            "require" if roots.is_some() => (SslMode::Require, Verify::Authority),
            "require" => (SslMode::Require, Verify::Nothing),
            "verify-ca" => (SslMode::Require, Verify::Authority),
            "verify-full" => (SslMode::Require, Verify::Host),
            other => return Err(TargetError::SslMode(other.to_owned())),
        };
        config
            .ssl_mode(ssl)
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_interval(KEEPALIVE_INTERVAL);
        set_patience(&mut config, DEFAULT_LEASE);
        if config.get_application_name().is_none() {
            config.application_name("chat21-observer");
        }
        Ok(Self {
            shown,
            config,
            verify,
            roots,
            lease: DEFAULT_LEASE,
            holder: format!("process {}", std::process::id()),
            name: String::new(),
            slots: 1,
            sharing: SharedBy::All,
            session_lasts: Duration::ZERO,
            held: None,
        })
    }
}

/// For how long the network of the database may leave what was sent to it without a sign: its host
/// may be gone, and another may have its address.
fn set_patience(config: &mut Config, patience: Duration) {
    let patience = patience.max(LEAST_TIMEOUT);
    config.tcp_user_timeout(patience).keepalives_idle(patience);
}

impl Target {
    /// The same for connections that take and renew a lease: where one comes to nothing, there is
    /// time for others before the lease ends, if that is longer than a few seconds.
    pub(super) fn for_lease(&self) -> Self {
        let mut target = self.clone();
        let patience = self.lease / ATTEMPTS;
        set_patience(&mut target.config, patience);
        target.config.connect_timeout(patience.max(LEAST_TIMEOUT));
        target
    }

    /// Logs in with this password.
    #[must_use]
    pub fn with_password(mut self, password: &Secret) -> Self {
        self.config.password(password.expose_secret());
        self
    }

    /// Takes leases of this length, under a name of this process for people.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration, holder: String) -> Self {
        set_patience(&mut self.config, lease);
        Self {
            lease,
            holder,
            ..self
        }
    }

    /// Serves observers of this name. A store that observers of another name serve is refused.
    #[must_use]
    pub fn with_name(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// Has so many slots. A session is taken to be at the broker for `session_lasts` after
    /// its last connection.
    #[must_use]
    pub fn with_slots(self, slots: u16, session_lasts: Duration) -> Self {
        Self {
            slots,
            session_lasts,
            ..self
        }
    }

    /// Shares the messages among the slots in this way.
    #[must_use]
    pub fn shared_by(self, sharing: SharedBy) -> Self {
        Self { sharing, ..self }
    }

    /// Has so many slots, none of which is served.
    pub(super) fn in_slots(self, slots: u16) -> Self {
        Self { slots, ..self }
    }

    /// How many slots the store has.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// How the slots share the messages.
    pub fn sharing(&self) -> SharedBy {
        self.sharing
    }

    /// Names this process for people.
    #[must_use]
    pub fn named(self, holder: String) -> Self {
        Self { holder, ..self }
    }

    /// Uses a lease that this process has already.
    #[must_use]
    pub fn holding(self, lease: Arc<Lease>) -> Self {
        Self {
            held: Some(lease),
            ..self
        }
    }

    /// Where the address stands in the place of a path.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(&self.shown)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl PartialEq for Target {
    fn eq(&self, other: &Self) -> bool {
        (&self.config, self.verify, &self.roots) == (&other.config, other.verify, &other.roots)
    }
}

impl Eq for Target {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_libpq_reads_it_and_shown_without_secrets() {
        let read = |text: &str| Target::from_str(text).map_err(|error| error.to_string());
        let target = read("postgres://o@db.example:5433/chat?sslmode=verify-full").unwrap();
        assert_eq!(target.to_string(), "postgres://o@db.example:5433/chat");
        assert_eq!(target.verify, Verify::Host);
        assert_eq!(target.config.get_ssl_mode(), SslMode::Require);
        let target = read("postgresql://db/chat?options=-csearch_path%3Dx").unwrap();
        assert_eq!(target.to_string(), "postgres://db:5432/chat");
        assert_eq!(target.config.get_options(), Some("-csearch_path=x"));
        assert_eq!(target.config.get_ssl_mode(), SslMode::Prefer);
        let target = read("postgres://db/chat?sslmode=require&sslrootcert=/ca.pem").unwrap();
        assert_eq!(target.verify, Verify::Authority);
        let secret = Secret::new("geheim".to_owned());
        let shown = format!("{target} {:?}", target.clone().with_password(&secret));
        assert!(!shown.contains("geheim"), "{shown}");
        for (text, says) in [
            ("postgres://o:geheim@db/chat", "holds a password"),
            ("postgres://db/chat?password=geheim", "holds a password"),
            ("postgres://db", "names no database"),
            (
                "postgres://db/chat?sslmode=yes",
                "sslmode=yes is not one of",
            ),
            ("postgres://db/chat?colour=red", "colour"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says) && !error.contains("geheim"), "{error}");
        }
    }
}
