//! The rules: from the settings, and from a file beside them that is read again while the observer runs.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::settings::{RULES, SETTINGS};
use super::{ConfigError, ConfigErrors, Reader, flattened, no_scalars, parse_payload_size};
use super::{read_toml, scalars, unknown};
use crate::protocol::id::AppId;
use crate::protocol::topic::BrokerKind;
use crate::rules::policy::{GroupSenders, Policy, Rules};
use crate::rules::token_bucket::Rate;

type Values = BTreeMap<&'static str, (Vec<String>, String)>;

/// Where the rules come from: `--policy-file` over the other settings, the tables `[app.NAME]` in it over the rest of it.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: Option<PathBuf>,
    settings: Values,
    broker_kind: BrokerKind,
    max_payload_bytes: usize,
    /// The version that was read at the start.
    first: Option<Stamp>,
}

/// Which version of a file is there: another one, if any of it differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl PolicyFile {
    /// The rules at the start; mistakes go to `reader`.
    pub(super) fn first_read(reader: &mut Reader<'_>, broker_kind: BrokerKind) -> (Self, Policy) {
        let is_rule = |name: &&'static str| RULES.contains(name);
        let settings = reader.values.iter().filter(|(name, _)| is_rule(name));
        let settings = settings
            .map(|(name, value)| (*name, value.clone()))
            .collect();
        let rules = read_rules(reader);
        let mut source = Self {
            path: reader.text("policy-file").map(PathBuf::from),
            settings,
            broker_kind,
            max_payload_bytes: rules.max_payload_bytes,
            first: None,
        };
        source.first = source.stamp();
        match source.read() {
            Ok(policy) => (source, policy),
            Err(ConfigErrors(errors)) => {
                // A mistake in the settings has been found already.
                for error in errors {
                    if !reader.errors.contains(&error) {
                        reader.errors.push(error);
                    }
                }
                (source, Policy::new(broker_kind, rules))
            }
        }
    }

    /// The largest payload that any rule may allow, in bytes: what comes in is cut to it.
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// Which version of the file is there; `None` for none that can be seen.
    pub fn stamp(&self) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some(Stamp {
            modified: found.modified().ok()?,
            bytes: found.len(),
            inode: found.ino(),
        })
    }

    /// Which version of the file was there at the start, before it was read.
    pub fn first_stamp(&self) -> Option<Stamp> {
        self.first.clone()
    }

    /// Reads the rules.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn read(&self) -> Result<Policy, ConfigErrors> {
        let mut errors = vec![];
        let mut values = self.settings.clone();
        let mut apps = toml::Table::new();
        if let Some(path) = &self.path {
            let mut table = read_toml(path).map_err(|error| ConfigErrors(vec![error]))?;
            match table.remove("app") {
                None => {}
                Some(toml::Value::Table(tables)) => apps = tables,
                Some(_) => errors.push(ConfigError {
                    place: path.display().to_string(),
                    fault: "app is not a table such as [app.tilechat]".to_owned(),
                }),
            }
            overlay(&mut values, table, path, "", &mut errors);
        }
        let mut policy = Policy::new(self.broker_kind, self.rules(&values, &mut errors));
        for (app, table) in apps {
            let path = self.path.as_deref().unwrap_or(Path::new(""));
            let place = format!("app.{app} in {}", path.display());
            let mut fail = |fault: String| {
                let place = place.clone();
                errors.push(ConfigError { place, fault });
            };
            if let Err(error) = AppId::parse(&app) {
                fail(format!("app {app:?} {error}"));
                continue;
            }
            let toml::Value::Table(table) = table else {
                fail("is not a table of rules".to_owned());
                continue;
            };
            let mut values = values.clone();
            let before = errors.len();
            overlay(
                &mut values,
                table,
                path,
                &format!("app.{app}."),
                &mut errors,
            );
            // A mistake that holds for all apps is said once.
            if errors.len() == before {
                let rules = self.rules(&values, &mut errors);
                policy.apps.insert(app.into(), rules);
            }
        }
        errors.dedup();
        if errors.is_empty() {
            Ok(policy)
        } else {
            Err(ConfigErrors(errors))
        }
    }

    fn rules(&self, values: &Values, errors: &mut Vec<ConfigError>) -> Rules {
        let mut reader = Reader {
            values: values.clone(),
            env: &|_| None,
            errors: vec![],
        };
        let rules = read_rules(&mut reader);
        if rules.max_payload_bytes > self.max_payload_bytes {
            reader.fail(
                "max-payload",
                format!(
                    "is more than the {} bytes of --max-payload, which bounds the memory of the whole observer",
                    self.max_payload_bytes
                ),
            );
        }
        for error in reader.errors {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        rules
    }
}

/// Lists that are added to what holds already; anything else takes its place.
const ADDED: [&str; 2] = ["banned", "privileged-senders"];

/// What a list holds already: what was given, or its default.
fn given(values: &Values, name: &str) -> Vec<String> {
    let default = SETTINGS.iter().find(|setting| setting.name == name);
    match values.get(name) {
        Some((texts, _)) => texts.clone(),
        None => default
            .map(|setting| setting.default.to_owned())
            .into_iter()
            .collect(),
    }
}

fn overlay(
    values: &mut Values,
    table: toml::Table,
    path: &Path,
    prefix: &str,
    errors: &mut Vec<ConfigError>,
) {
    for (key, value) in flattened(table) {
        let place = format!("{prefix}{key} in {}", path.display());
        let name = RULES.iter().find(|name| **name == key);
        match (name, scalars(&value)) {
            (Some(name), Some(mut texts)) => {
                if ADDED.contains(name) {
                    // Who is banned everywhere is banned here, too.
                    texts.extend(given(values, name));
                }
                values.insert(name, (texts, place));
            }
            (Some(_), None) => errors.push(ConfigError {
                place,
                fault: no_scalars(&key),
            }),
            (None, _) => errors.push(ConfigError {
                place,
                fault: format!(
                    "{}; a policy file holds {}",
                    unknown(&key, RULES.iter().copied()),
                    RULES.join(", ")
                ),
            }),
        }
    }
}

fn read_rules(reader: &mut Reader<'_>) -> Rules {
    let most = |reader: &mut Reader<'_>, name: &str| {
        let parse = |text: &str| match text.parse() {
            Ok(number @ 1..=1_000_000) => Ok(number),
            _ => Err(format!("{text:?} is not a whole number from 1 to 1000000")),
        };
        reader.parse(name, parse).unwrap_or(1)
    };
    let set = |reader: &Reader<'_>, name: &str| {
        let texts = reader.texts(name).into_iter();
        texts.map(String::into_boxed_str).collect()
    };
    let longest = Duration::from_secs(100 * 365 * 24 * 3600);
    Rules {
        max_payload_bytes: reader.parse("max-payload", parse_payload_size).unwrap_or(1),
        max_depth: most(reader, "max-depth"),
        max_values: most(reader, "max-values"),
        max_recipients: most(reader, "max-recipients"),
        group_senders: reader.choice(
            "groups-membership",
            &[
                ("members", GroupSenders::Members),
                ("open", GroupSenders::Anybody),
            ],
        ),
        privileged_senders: set(reader, "privileged-senders"),
        banned: set(reader, "banned"),
        rate: read_rate(reader),
        believed: (
            reader.duration("timestamp-past", Duration::ZERO..=longest),
            reader.duration("timestamp-future", Duration::ZERO..=longest),
        ),
    }
}

fn read_rate(reader: &mut Reader<'_>) -> Option<Rate> {
    let mut number = |name: &str| {
        let parse = |text: &str| match (text, text.parse::<NonZeroU32>()) {
            ("none", _) => Ok(None),
            (_, Ok(number)) if number.get() <= 60_000_000 => Ok(Some(number)),
            _ => Err(format!(
                "{text:?} is neither a whole number from 1 to 60000000 nor none"
            )),
        };
        reader.parse(name, parse)
    };
    let (per_minute, burst) = (number("rate-per-minute")?, number("rate-burst"));
    let given = reader.is_given("rate-per-minute");
    match (per_minute, burst.flatten()) {
        (Some(per_minute), burst) => Some(Rate {
            burst: burst.unwrap_or(per_minute),
            per_minute,
        }),
        // Half a rate is one: as much a minute as at once.
        (None, Some(burst)) if !given => Some(Rate {
            burst,
            per_minute: burst,
        }),
        (None, _) => None,
    }
}
