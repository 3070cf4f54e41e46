//! Settings: one table of them, read from flags, environment and file, into one [`Config`] in which every value is valid.
//!
//! Every value is checked before the first error is reported, so that one start shows all mistakes.

mod compatible;
mod endpoint;
mod login;
mod policy_file;
mod settings;
mod webhooks;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde::Deserialize;

use self::endpoint::{BareTransport, parse_broker_url, parse_proxy, read_tls};
use self::login::{read_credentials, read_minter};
pub use self::policy_file::PolicyFile;
use self::settings::ALSO;
pub use self::settings::{SETTINGS, Setting, Takes, variable};
use self::webhooks::read_webhooks;
use crate::auth::credentials::{Credentials, Derivation, Minter};
use crate::auth::secret::{Secret, hex, random_id};
use crate::connections::link::LinkSettings;
use crate::http::decision_service;
use crate::http::webhook;
use crate::mqtt::{Protocol, Session, Transport};
use crate::protocol::layout::{Controls, Layout, LayoutSpec, PayloadMode, SenderCopy, TopicMap};
use crate::protocol::topic::{BrokerKind, TopicName};
use crate::rules::policy::Policy;
use crate::rules::router::Router;
use crate::rules::webhook_event::{EventKind, EventKinds};
use crate::store::{OfflineDelivery, Retention, StoreLocation, StoreSettings};
use crate::telemetry;
use crate::telemetry::LogFormat;

/// A mistake in the settings: where, what, and the rule it breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value stands: `--window`, `OBSERVER_WINDOW`, `window in observer.toml`.
    pub place: String,
    /// What is wrong with it.
    pub fault: String,
}

impl Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

/// Every mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// What is given on the command line, by setting; what is not given is not there.
pub type Flags = BTreeMap<&'static str, Vec<String>>;

/// A layout of the operator's own, in the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CustomLayout {
    name: String,
    outgoing: String,
    inbox: String,
    payload: CustomPayload,
    #[serde(default)]
    sender_copy: bool,
    app: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CustomPayload {
    Verbatim,
    Envelope,
}

/// Everything `run` goes by.
#[derive(Clone, Debug)]
pub struct Config {
    /// The public name.
    pub name: String,
    /// The broker as an operator may see it: no user, no password.
    pub broker: String,
    /// Layouts, checks, dead letters.
    pub router: Router,
    /// Where the checks come from, to be read again.
    pub policy_file: PolicyFile,
    /// Messages under way at a time.
    pub window: u16,
    /// Connections to publish over.
    pub publishers: usize,
    /// Limit for the confirmation of a publish.
    pub ack_timeout: Duration,
    /// Limit for finishing what is under way on a stop.
    pub drain_timeout: Duration,
    /// Whether to discard what the broker holds.
    pub reset_session: bool,
    /// Which control topics are served.
    pub controls: Controls,
    /// How messages are kept; `None`: not at all.
    pub store: Option<StoreSettings>,
    /// The service that is asked about each message, if there is one.
    pub consult: Option<decision_service::Settings>,
    /// Who is told of what happens, if anybody.
    pub webhooks: Option<webhook::Settings>,
    /// Whether the broker keeps the observer's status.
    pub status: bool,
    /// Whether each message leaves a line of trace.
    pub trace: bool,
    /// How often stats are published; `None`: not at all.
    pub stats_interval: Option<Duration>,
    /// Where health and metrics are served.
    pub http_listen: Option<SocketAddr>,
    /// How logs look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// What an operator should know and is no error.
    pub warnings: Vec<String>,
    links: LinkSettings,
    minter: Option<Minter>,
    client_id: Option<String>,
    state_dir: Option<PathBuf>,
    state_dir_given: bool,
}

/// Warned of where the client identifier is derived from a token.
const IDENTITY_CHANGES: &str = "no state directory can be written to, so the session's identity is \
    made of the token: with another token it is another session, and what waits in the old one is \
    never forwarded (give --state-dir or --client-id)";
/// Warned of where there is nothing to derive the client identifier from.
const IDENTITY_GUESSABLE: &str = "no state directory can be written to and there is no password, \
    so the session's client identifier can be guessed (give --state-dir or --client-id)";

/// A setting that is true or false, and has a value all the same: other programs' variables do.
const BOOL: &[(&str, bool)] = &[
    ("true", true),
    ("TRUE", true),
    ("True", true),
    ("1", true),
    ("false", false),
    ("FALSE", false),
    ("False", false),
    ("0", false),
];

/// The raw values, the errors found so far.
struct Reader<'a> {
    values: BTreeMap<&'static str, (Vec<String>, String)>,
    env: &'a dyn Fn(&str) -> Option<String>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn fail(&mut self, name: &str, fault: impl Display) {
        let place = self
            .values
            .get(name)
            .map_or_else(|| format!("--{name}"), |(_, place)| place.clone());
        self.errors.push(ConfigError {
            place,
            fault: fault.to_string(),
        });
    }

    /// One value, if the setting is given or has a default.
    fn text(&self, name: &str) -> Option<String> {
        let setting = SETTINGS
            .iter()
            .find(|setting| setting.name == name)
            .expect("every setting stands in the table");
        match self.values.get(name) {
            Some((texts, _)) if texts.last().is_some_and(|text| !text.is_empty()) => {
                texts.last().cloned()
            }
            // An empty value is as good as none.
            Some(_) | None => (!setting.default.is_empty()).then(|| setting.default.to_owned()),
        }
    }

    fn is_given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The values given on the command line: none if the setting comes from elsewhere.
    fn flag_texts(&self, name: &str) -> &[String] {
        match self.values.get(name) {
            Some((texts, place)) if place.starts_with("--") => texts,
            Some(_) | None => &[],
        }
    }

    fn texts(&self, name: &str) -> Vec<String> {
        let split = |text: &str| {
            text.split(',')
                .map(|part| part.trim().to_owned())
                .filter(|part| !part.is_empty())
                .collect::<Vec<_>>()
        };
        match self.values.get(name) {
            Some((texts, _)) => texts.iter().flat_map(|text| split(text)).collect(),
            None => self.text(name).map(|text| split(&text)).unwrap_or_default(),
        }
    }

    fn parse<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|fault| self.fail(name, fault)).ok()
    }

    fn switch(&mut self, name: &str) -> bool {
        let parse = |text: &str| match text {
            "true" | "1" | "yes" => Ok(true),
            "false" | "0" | "no" => Ok(false),
            _ => Err(format!("{text:?} is neither true nor false")),
        };
        self.parse(name, parse).unwrap_or(false)
    }

    fn number(&mut self, name: &str, range: std::ops::RangeInclusive<u16>) -> u16 {
        let parse = |text: &str| match text.parse() {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!(
                "{text:?} is not a whole number from {} to {}",
                range.start(),
                range.end()
            )),
        };
        self.parse(name, parse).unwrap_or(*range.start())
    }

    fn duration(&mut self, name: &str, range: std::ops::RangeInclusive<Duration>) -> Duration {
        let parse = |text: &str| match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => Ok(duration),
            Ok(_) => {
                let (least, most) = (
                    humantime::format_duration(*range.start()),
                    humantime::format_duration(*range.end()),
                );
                Err(format!("{text:?} is not between {least} and {most}"))
            }
            Err(error) => Err(format!("{text:?} is not a time such as 30s or 5m: {error}")),
        };
        self.parse(name, parse).unwrap_or(*range.start())
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        let parse = |text: &str| match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => Ok(*value),
            None => {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                Err(format!("{text:?} is none of {}", words.join(", ")))
            }
        };
        self.parse(name, parse).unwrap_or(choices[0].1)
    }
}

/// A size in bytes: `1MiB`, `256KiB`, `64kB`, `1000`.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        _ => return Err(format!("{text:?} is not a size such as 64KiB or 1MiB")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(factor))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is not a size of at least 1 byte"))
}

/// The size of a payload: MQTT has its limits.
fn parse_payload_size(text: &str) -> Result<usize, String> {
    match usize::try_from(parse_size(text)?) {
        Ok(bytes @ 1..=0x0f00_0000) => Ok(bytes),
        _ => Err(format!(
            "{text:?} is not a size between 1 byte and 240MiB, which is what MQTT can carry"
        )),
    }
}

impl Config {
    /// Reads the settings: flags before environment before `file` before defaults.
    ///
    /// # Errors
    /// Every mistake found.
    pub fn load(
        flags: &Flags,
        env: &dyn Fn(&str) -> Option<String>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader {
            values: BTreeMap::new(),
            env,
            errors: vec![],
        };
        let custom = file
            .map(|path| read_file(&mut reader, path))
            .unwrap_or_default();
        for setting in SETTINGS {
            let aliases = ALSO
                .iter()
                .filter(|(name, _)| *name == setting.name)
                .map(|(_, variable)| (*variable).to_owned());
            let found = std::iter::once(variable(setting.name))
                .chain(aliases)
                .find_map(|name| {
                    env(&name)
                        .filter(|text| !text.is_empty())
                        .map(|text| (text, name))
                });
            if let Some((text, name)) = found {
                reader.values.insert(setting.name, (vec![text], name));
            }
            if let Some(texts) = flags.get(setting.name) {
                reader
                    .values
                    .insert(setting.name, (texts.clone(), format!("--{}", setting.name)));
            }
        }
        let mut warnings = compatible::ignored(env);
        compatible::read_rabbitmq_uri(&mut reader, &mut warnings);
        let config = build(&mut reader, custom, warnings);
        match config {
            Some(config) if reader.errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors(reader.errors)),
        }
    }

    /// What the links go by. Finds or makes the secret client identifier.
    ///
    /// # Errors
    /// A state directory that was asked for and cannot be written to, in words.
    pub fn links(&self) -> Result<LinkSettings, ConfigErrors> {
        let client_id = self.find_client_id().map_err(|fault| {
            ConfigErrors(vec![ConfigError {
                place: "--state-dir".to_owned(),
                fault,
            }])
        })?;
        Ok(LinkSettings {
            client_id: Secret::new(client_id),
            ..self.links.clone()
        })
    }

    /// What is wrong with making the client identifier of the credential, if that is what [`Config::links`] will do.
    pub fn identity_warning(&self) -> Option<&'static str> {
        let kept = || {
            self.state_dir
                .as_deref()
                .is_some_and(|dir| kept_suffix(dir, &self.name).is_ok())
        };
        if self.client_id.is_some() || kept() {
            return None;
        }
        match self.links.credentials.derivation() {
            Derivation::Stable => None,
            Derivation::ChangesWithToken => Some(IDENTITY_CHANGES),
            Derivation::Guessable => Some(IDENTITY_GUESSABLE),
        }
    }

    /// The same settings for a short visit that must not disturb the running observer: with an identifier of its own.
    pub fn visitor_links(&self, purpose: &str) -> LinkSettings {
        LinkSettings {
            client_id: Secret::new(format!("{}-{purpose}-{}", self.name, random_id())),
            ..self.links.clone()
        }
    }

    /// A client identifier for an ordinary user who is only tried: behind his own, so that narrow permissions allow it.
    pub fn probe_client_id(&self, user: &str) -> Secret {
        Secret::new(format!("{user}.check-{}", random_id()))
    }

    /// What makes tokens, if there is a key.
    pub fn minter(&self) -> Option<&Minter> {
        self.minter.as_ref()
    }

    /// How long the broker is asked to keep the session.
    pub fn session_expiry(&self) -> Duration {
        match self.links.session {
            Session::Persistent(expiry) => expiry,
            Session::Clean => Duration::ZERO,
        }
    }

    /// The credentials in use.
    pub fn credentials(&self) -> &Credentials {
        &self.links.credentials
    }

    fn find_client_id(&self) -> Result<String, String> {
        if let Some(given) = &self.client_id {
            return Ok(given.clone());
        }
        match self
            .state_dir
            .as_deref()
            .map(|dir| kept_suffix(dir, &self.name))
        {
            Some(Ok(suffix)) => return Ok(format!("{}-{suffix}", self.name)),
            Some(Err(fault)) if self.state_dir_given => return Err(fault),
            Some(Err(_)) | None => {}
        }
        // No place to keep a secret: one is made of a secret that is there already, and comes out the same at the next start.
        let secret = self.links.credentials.stored_secret();
        let key = hmac::Key::new(
            hmac::HMAC_SHA256,
            secret
                .as_ref()
                .map_or(&b""[..], |secret| secret.expose_secret().as_bytes()),
        );
        let tag = hmac::sign(
            &key,
            format!("chat21-observer client id\n{}", self.name).as_bytes(),
        );
        Ok(format!("{}-{}", self.name, hex(&tag.as_ref()[..16])))
    }
}

/// The random suffix kept in `dir`, made at the first start.
fn kept_suffix(dir: &Path, name: &str) -> Result<String, String> {
    let path = dir.join(format!("{name}.client-id"));
    let fault =
        |what: &str, error: std::io::Error| format!("cannot {what} {}: {error}", path.display());
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(fault("read", error)),
    }
    std::fs::create_dir_all(dir).map_err(|error| fault("make the directory of", error))?;
    let suffix = random_id();
    write_private(&path, &suffix).map_err(|error| fault("write", error))?;
    Ok(suffix)
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
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

/// Reads a TOML file.
fn read_toml(path: &Path) -> Result<toml::Table, ConfigError> {
    let fault = |fault: String| ConfigError {
        place: path.display().to_string(),
        fault,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    toml::from_str(&text).map_err(|error| {
        // Its own text would repeat the line, which may hold a password.
        let line = error.span().map_or(1, |span| {
            text[..span.start.min(text.len())].matches('\n').count() + 1
        });
        fault(format!("line {line}: {}", error.message()))
    })
}

/// The values of a TOML file, and its custom layouts.
fn read_file(reader: &mut Reader<'_>, path: &Path) -> Vec<CustomLayout> {
    let fault = |fault: String| ConfigError {
        place: path.display().to_string(),
        fault,
    };
    let table = match read_toml(path) {
        Ok(table) => table,
        Err(error) => {
            reader.errors.push(error);
            return vec![];
        }
    };
    let mut custom = vec![];
    for (key, value) in flattened(table) {
        if key == "custom-layout" {
            match value.try_into() {
                Ok(layouts) => custom = layouts,
                Err(error) => reader
                    .errors
                    .push(fault(format!("custom-layout: {}", error.message()))),
            }
            continue;
        }
        let known = SETTINGS.iter().map(|setting| setting.name);
        let Some(name) = known.clone().find(|name| *name == key) else {
            reader.errors.push(fault(unknown(&key, known)));
            continue;
        };
        match scalars(&value) {
            Some(texts) => {
                let place = format!("{key} in {}", path.display());
                reader.values.insert(name, (texts, place));
            }
            None => reader.errors.push(fault(no_scalars(&key))),
        }
    }
    custom
}

fn unknown(key: &str, mut known: impl Iterator<Item = &'static str>) -> String {
    let near = known.find(|name| name.contains(&key.replace('_', "-")) || key.contains(name));
    let hint = near
        .map(|name| format!(" (is {name} meant?)"))
        .unwrap_or_default();
    format!("{key:?} is not a setting{hint}")
}

fn no_scalars(key: &str) -> String {
    format!("{key} is neither a text, a number, true, false, nor a list of those")
}

/// `[groups] membership = …` says the same as `groups-membership = …`.
fn flattened(table: toml::Table) -> Vec<(String, toml::Value)> {
    let inner = |(key, value): (String, toml::Value)| match value.as_table() {
        Some(table) => table
            .iter()
            .map(|(inner, value)| (format!("{key}-{inner}"), value.clone()))
            .collect(),
        None => vec![(key, value)],
    };
    table.into_iter().flat_map(inner).collect()
}

fn scalars(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(switch) => Some(vec![switch.to_string()]),
        toml::Value::Array(values) => values
            .iter()
            .map(scalars)
            .collect::<Option<Vec<_>>>()
            .map(|texts| texts.concat()),
        toml::Value::Float(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

/// Everything from the raw values. `None`, if something it cannot do without is faulty; the errors are in the reader.
fn build(
    reader: &mut Reader<'_>,
    custom: Vec<CustomLayout>,
    mut warnings: Vec<String>,
) -> Option<Config> {
    let broker = reader.parse("broker", parse_broker_url);
    let tls = read_tls(reader, &mut warnings);
    let proxy = reader.parse("proxy", parse_proxy);
    let protocol = reader.choice(
        "protocol",
        &[
            ("auto", None),
            ("5", Some(Protocol::V5)),
            ("3.1.1", Some(Protocol::V311)),
        ],
    );
    let url_login = broker
        .as_ref()
        .map(|broker| (broker.username.clone(), broker.password.clone()))
        .unwrap_or_default();
    let name = reader
        .parse("name", |text| match TopicName::parse(text) {
            Ok(_) if !text.contains(['/', '.', '*']) => Ok(text.to_owned()),
            Ok(_) => Err(format!(
                "{text:?} is not one topic level without \".\" and \"*\""
            )),
            Err(error) => Err(error.to_string()),
        })
        .unwrap_or_default();
    let minter = read_minter(reader, &name, &mut warnings);
    let credentials = read_credentials(reader, url_login, minter.clone(), &mut warnings);
    let client_id = reader.text("client-id");
    if client_id.as_ref().is_some_and(|id| id.len() < 16) {
        warnings.push("--client-id is short enough to guess: whoever may log in to the broker and knows it can take the session over".to_owned());
    }
    let window = reader.number("window", 1..=10_000);
    let publishers = usize::from(reader.number("publishers", 1..=32));
    let keep_alive = reader.duration(
        "keep-alive",
        Duration::from_secs(5)..=Duration::from_secs(65_535),
    );
    let connect_timeout = reader.duration(
        "connect-timeout",
        Duration::from_secs(1)..=Duration::from_secs(600),
    );
    let ack_timeout = reader.duration(
        "ack-timeout",
        Duration::from_secs(1)..=Duration::from_secs(3600),
    );
    let drain_timeout =
        reader.duration("drain-timeout", Duration::ZERO..=Duration::from_secs(3600));
    let session_expiry = reader.duration(
        "session-expiry",
        Duration::from_secs(1)..=Duration::from_secs(u64::from(u32::MAX)),
    );
    let reset_session = reader.switch("reset-session");
    let http_listen = reader.parse("http-listen", |text| match text {
        "none" => Ok(None),
        address => match (address.parse(), address.parse()) {
            (Ok(address), _) => Ok(Some(address)),
            (_, Ok(port)) => Ok(Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))),
            (Err(_), Err(_)) => Err(format!(
                "{address:?} is neither an address such as 127.0.0.1:9090, nor a port, nor none"
            )),
        },
    });
    let status = reader.choice("status", BOOL);
    let trace = reader.switch("trace");
    let stats_interval = reader.parse("stats-interval", |text| match text {
        "none" => Ok(None),
        text => match humantime::parse_duration(text) {
            Ok(interval) if interval >= Duration::from_secs(1) => Ok(Some(interval)),
            Ok(_) => Err(format!("{text:?} is less than 1s")),
            Err(_) => Err(format!("{text:?} is neither a time such as 1m nor none")),
        },
    });
    let consult = read_consult(reader);
    let log_format = reader.choice(
        "log-format",
        &[
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ],
    );
    let log_level = reader
        .parse("log-level", |text| {
            telemetry::filter(text)
                .map(|_| text.to_owned())
                .map_err(|error| error.to_string())
        })
        .unwrap_or_default();
    let state_dir_given = reader.is_given("state-dir");
    let state_dir = reader
        .text("state-dir")
        .map(PathBuf::from)
        .or_else(|| default_state_dir(reader.env));
    let store = read_store(reader, state_dir.as_deref(), &name, &mut warnings);
    let broker_kind = reader.choice(
        "broker-kind",
        &[("any", BrokerKind::Any), ("rabbitmq", BrokerKind::RabbitMq)],
    );
    let (policy_file, policy) = PolicyFile::first_read(reader, broker_kind);
    let max_payload_bytes = policy_file.max_payload_bytes();
    let presence = reader.choice("presence-enabled", BOOL);
    let controls = match (&store, presence) {
        (Some(_), true) => Controls::Served,
        (Some(_), false) => Controls::WithoutPresence,
        (None, _) => Controls::Off,
    };
    let webhooks = read_webhooks(reader, &mut warnings);
    if let Some(webhooks) = &webhooks {
        if store.is_none() {
            warnings.push("webhooks are kept in memory, for there is no store (--store none): what they have not been told of is gone with the process, and they are told of messages only, not of receipts, archiving and presence".to_owned());
        } else if !presence && webhooks.events.contains(EventKind::PresenceChange) {
            warnings.push(
                "webhooks are not told of presence-change: --presence-enabled is false".to_owned(),
            );
        }
    }
    if !presence
        && store
            .as_ref()
            .is_some_and(|store| store.offline == OfflineDelivery::Redeliver)
    {
        reader.fail(
            "offline",
            "redeliver needs presence, and --presence-enabled is false",
        );
    }
    let events = webhooks.as_ref().map(|webhooks| webhooks.events);
    let router = read_router(reader, custom, controls, policy, events.unwrap_or_default());
    let broker = broker?;
    let transport = match (broker.transport, tls?) {
        (BareTransport::Tcp { host, port }, _) => Transport::Tcp { host, port },
        (BareTransport::Tls { host, port }, tls) => Transport::Tls { host, port, tls },
        (BareTransport::Ws { url }, _) => Transport::Ws { url },
        (BareTransport::Wss { url }, tls) => Transport::Wss { url, tls },
    };
    let links = LinkSettings {
        transport,
        proxy,
        protocol,
        credentials,
        client_id: Secret::new(String::new()),
        keep_alive,
        connect_timeout,
        session: Session::Persistent(session_expiry),
        window,
        max_payload_bytes,
        will: None,
    };
    Some(Config {
        name,
        broker: broker.shown,
        router: router?,
        policy_file,
        window,
        publishers,
        ack_timeout,
        drain_timeout,
        reset_session,
        controls,
        store,
        consult,
        webhooks,
        status,
        trace,
        stats_interval: stats_interval?,
        http_listen: http_listen?,
        log_format,
        log_level,
        warnings,
        links,
        minter,
        client_id,
        state_dir,
        state_dir_given,
    })
}

fn read_consult(reader: &mut Reader<'_>) -> Option<decision_service::Settings> {
    let timeout = reader.duration(
        "policy-timeout",
        Duration::from_millis(10)..=Duration::from_secs(60),
    );
    let concurrency = usize::from(reader.number("policy-concurrency", 1..=1_000));
    let open = reader.choice("policy-failure", &[("closed", false), ("open", true)]);
    let url = reader.parse("policy-url", |text| match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        // Not the text, which may hold a secret.
        _ => Err("is not a URL such as http://localhost:8080/decide".to_owned()),
    })?;
    Some(decision_service::Settings {
        url,
        timeout,
        concurrency,
        open,
    })
}

fn default_state_dir(env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| env(name).filter(|text| !text.is_empty()).map(PathBuf::from);
    set("STATE_DIRECTORY")
        .or_else(|| set("XDG_STATE_HOME").map(|dir| dir.join("chat21-observer")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/chat21-observer")))
}

/// Where and how messages are kept.
fn read_store(
    reader: &mut Reader<'_>,
    state_dir: Option<&Path>,
    name: &str,
    warnings: &mut Vec<String>,
) -> Option<StoreSettings> {
    let choices = [
        ("broker", OfflineDelivery::Broker),
        ("redeliver", OfflineDelivery::Redeliver),
    ];
    let offline = reader.choice("offline", &choices);
    let age = reader.parse("retain", |text| match humantime::parse_duration(text) {
        // What is not acknowledged yet, and what a client has just asked for, must not go.
        Ok(age) if age >= Duration::from_secs(60) => Ok(age),
        Ok(_) => Err(format!("{text:?} is less than 1m")),
        Err(error) => Err(format!("{text:?} is not a time such as 90d: {error}")),
    });
    let bytes = reader.parse("retain-size", |text| match parse_size(text)? {
        bytes if bytes >= 1 << 20 => Ok(bytes),
        _ => Err(format!("{text:?} is less than 1MiB")),
    });
    let retention = Retention { age, bytes };
    let place = match (reader.text("store").as_deref(), state_dir) {
        (Some("none"), _) => {
            for needs_it in ["retain", "retain-size"] {
                if reader.text(needs_it).is_some() {
                    reader.fail(
                        needs_it,
                        "there is nothing to delete without a store (--store none)",
                    );
                }
            }
            if offline == OfflineDelivery::Redeliver {
                reader.fail(
                    "offline",
                    "redeliver needs a store, and there is none (--store none)",
                );
            }
            warnings.push(
                "there is no store (--store none): stored groups, receipts, changes to conversations, archiving, presence, blocking, fetching and what services inject are off; direct messages and groups written into the message pass"
                    .to_owned(),
            );
            return None;
        }
        (Some(path), _) => PathBuf::from(path),
        (None, Some(dir)) => dir.join(format!("{name}.db")),
        (None, None) => {
            reader.fail("store", "there is no state directory ($HOME is not set): give a path, or none to forward only");
            return None;
        }
    };
    Some(StoreSettings {
        location: StoreLocation::File(place),
        retention,
        offline,
    })
}

fn read_router(
    reader: &mut Reader<'_>,
    custom: Vec<CustomLayout>,
    controls: Controls,
    policy: Policy,
    events: EventKinds,
) -> Option<Router> {
    let broker_kind = policy.broker_kind;
    let dead_letter_topic = reader.parse("dead-letter-topic", |text| {
        TopicName::parse(text).map_err(|error| error.to_string())
    });
    let mut layouts = vec![];
    for name in reader.texts("layouts") {
        match Layout::built_in(&name) {
            Some(built_in) => layouts.extend(built_in),
            None if name == "none" => {}
            None => reader.fail(
                "layouts",
                format!("{name:?} is none of {}, none", Layout::BUILT_IN.join(", ")),
            ),
        }
    }
    for layout in custom {
        let payload = match layout.payload {
            CustomPayload::Verbatim => PayloadMode::Verbatim,
            CustomPayload::Envelope => PayloadMode::Envelope,
        };
        let sender_copy = match layout.sender_copy {
            true => SenderCopy::Publish,
            false => SenderCopy::Skip,
        };
        match Layout::new(LayoutSpec {
            name: &layout.name,
            outgoing: &layout.outgoing,
            inbox: &layout.inbox,
            payload,
            sender_copy,
            app: layout.app.as_deref(),
        }) {
            Ok(layout) => layouts.push(layout),
            Err(error) => reader.errors.push(ConfigError {
                place: format!("custom-layout {:?}", layout.name),
                fault: error.to_string(),
            }),
        }
    }
    for app in reader
        .texts("app")
        .iter()
        .map(String::as_str)
        .chain(layouts.iter().filter_map(Layout::fixed_app))
    {
        if let Err(error) = broker_kind.carries(app) {
            reader.errors.push(ConfigError {
                place: "app".to_owned(),
                fault: error.to_string(),
            });
        }
    }
    let texts = layouts
        .iter()
        .flat_map(|layout| [layout.outgoing().as_str(), layout.inbox().as_str()]);
    let faults: Vec<_> = texts
        .filter_map(|text| {
            broker_kind
                .carries(text)
                .err()
                .map(|error| format!("template {text:?}: {error}"))
        })
        .collect();
    for fault in faults {
        reader.fail("broker-kind", fault);
    }
    let published: Vec<TopicName> = dead_letter_topic.iter().cloned().collect();
    match TopicMap::new(layouts, reader.texts("app"), &published, controls) {
        Ok(layouts) => Some(Router {
            layouts,
            policy: Arc::new(policy),
            dead_letter_topic,
            events,
        }),
        Err(error) => {
            reader.fail("layouts", error);
            None
        }
    }
}

#[cfg(test)]
mod tests;
