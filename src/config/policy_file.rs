//! The policy file: checks for all apps and for single apps, read again while the observer runs.
//!
//! Owns laying the file over the settings, and the tables `[app.NAME]` over the rest of the file.
//! Reading one set of checks is the business of `checks.rs`; when to read the file again is decided
//! by its user.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::checks::read_rules;
use super::error::{ConfigError, ConfigErrors};
use super::file::{Document, flattened, no_scalars, scalars, unknown_key};
use super::reader::{Given, Reader, Values};
use super::settings::{RULES, find};
use crate::protocol::amqp::BrokerKind;
use crate::protocol::id::AppId;
use crate::rules::policy::{Policy, Rules};

/// Lists to which a policy file adds. Any other value replaces the one that was given before.
const ADDED: [&str; 2] = ["banned", "privileged-senders"];

/// Where the checks come from: the settings, and the file of `--policy-file` over them.
#[derive(Clone, Debug)]
pub struct PolicyFile {
    path: Option<PathBuf>,
    /// The values of the settings that a policy file may hold, too.
    settings: Values,
    broker_kind: BrokerKind,
    max_payload_bytes: usize,
    /// The version of the file that was read at the start.
    first: Option<Stamp>,
}

/// Identifies a version of a file: if any part differs, it is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    bytes: u64,
    inode: u64,
}

impl PolicyFile {
    /// The checks at the start. Mistakes are reported to `reader`.
    pub(super) fn first_read(reader: &mut Reader<'_>, broker_kind: BrokerKind) -> (Self, Policy) {
        let settings = reader.values.iter();
        let settings = settings
            .filter(|(name, _)| RULES.contains(name))
            .map(|(name, given)| (*name, given.clone()))
            .collect();
        let rules = read_rules(reader);
        let mut source = Self {
            path: reader.text("policy-file").map(PathBuf::from),
            settings,
            broker_kind,
            max_payload_bytes: rules.max_payload_bytes,
            first: None,
        };
        // Taken before the file is read: a change in between is then noticed later.
        source.first = source.stamp();
        match source.read() {
            Ok(policy) => (source, policy),
            Err(ConfigErrors(errors)) => {
                // A mistake in the settings is found twice: above, and by reading the file.
                add_new(&mut reader.errors, errors);
                (source, Policy::new(broker_kind, rules))
            }
        }
    }

    /// The largest payload that any check may let pass, in bytes. It bounds the memory of the
    /// observer, so a policy file cannot raise it.
    pub fn max_payload_bytes(&self) -> usize {
        self.max_payload_bytes
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The version of the file that is there now; `None` if there is no file.
    pub fn stamp(&self) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(self.path.as_ref()?).ok()?;
        Some(Stamp {
            modified: found.modified().ok()?,
            bytes: found.len(),
            inode: found.ino(),
        })
    }

    /// The version of the file that was there just before it was first read.
    pub fn first_stamp(&self) -> Option<Stamp> {
        self.first.clone()
    }

    /// Reads the file, and lays it over the settings.
    ///
    /// # Errors
    /// Every mistake in the file.
    pub fn read(&self) -> Result<Policy, ConfigErrors> {
        let mut errors = vec![];
        let mut values = self.settings.clone();
        let (mut apps, mut document) = (toml::Table::new(), None);
        if let Some(path) = &self.path {
            let mut file = Document::read(path).map_err(|error| ConfigErrors(vec![error]))?;
            let mut table = std::mem::take(&mut file.table);
            match table.remove("app") {
                None => {}
                Some(toml::Value::Table(tables)) => apps = tables,
                Some(_) => errors.push(ConfigError {
                    place: file.place("app"),
                    fault: "app is not a table such as [app.tilechat]".to_owned(),
                }),
            }
            errors.extend(lay_over(&mut values, &file, "", table));
            document = Some(file);
        }
        let mut policy = Policy::new(self.broker_kind, self.rules(&values, &mut errors));
        for (app, table) in apps {
            let Some(file) = &document else { continue };
            if let Some(rules) = self.app_rules(&app, file, table, values.clone(), &mut errors) {
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

    /// The checks of one app, from its table over `values`; `None` after a mistake in the table.
    fn app_rules(
        &self,
        app: &str,
        file: &Document,
        table: toml::Value,
        mut values: Values,
        errors: &mut Vec<ConfigError>,
    ) -> Option<Rules> {
        let fail = |fault: String| ConfigError {
            place: format!("app.{app} in {}", file.place(&format!("app.{app}"))),
            fault,
        };
        if let Err(error) = AppId::parse(app) {
            errors.push(fail(format!("app {app:?} {error}")));
            return None;
        }
        let toml::Value::Table(table) = table else {
            errors.push(fail("is not a table of rules".to_owned()));
            return None;
        };
        let found = lay_over(&mut values, file, &format!("app.{app}."), table);
        if !found.is_empty() {
            errors.extend(found);
            return None;
        }
        Some(self.rules(&values, errors))
    }

    fn rules(&self, values: &Values, errors: &mut Vec<ConfigError>) -> Rules {
        let mut reader = Reader::new(&|_| None, &|_| true);
        reader.values = values.clone();
        let rules = read_rules(&mut reader);
        if rules.max_payload_bytes > self.max_payload_bytes {
            reader.fail(
                "max-payload",
                format!(
                    "is more than the {} bytes of --max-payload, which bounds the memory of the \
                     whole observer",
                    self.max_payload_bytes
                ),
            );
        }
        // A mistake in what holds for all apps is found again for each app.
        add_new(errors, reader.errors);
        rules
    }
}

/// Adds the mistakes that are not there yet.
fn add_new(errors: &mut Vec<ConfigError>, found: Vec<ConfigError>) {
    for error in found {
        if !errors.contains(&error) {
            errors.push(error);
        }
    }
}

/// Lays a table of the file over `values`. `prefix` names the tables around it: `app.NAME.`.
/// Returns the mistakes in it.
fn lay_over(
    values: &mut Values,
    file: &Document,
    prefix: &str,
    table: toml::Table,
) -> Vec<ConfigError> {
    let mut errors = vec![];
    for entry in flattened(table, prefix) {
        let origin = file.origin(&entry.key);
        let Some(name) = RULES.iter().find(|name| **name == entry.name) else {
            let unknown = unknown_key(&entry.name, RULES.iter().copied());
            errors.push(ConfigError {
                place: origin.place(&entry.name),
                fault: format!("{unknown}; a policy file holds {}", RULES.join(", ")),
            });
            continue;
        };
        let Some(mut texts) = scalars(&entry.value) else {
            errors.push(ConfigError {
                place: origin.place(name),
                fault: no_scalars(&entry.key),
            });
            continue;
        };
        if ADDED.contains(name) {
            texts.extend(texts_before(values, name));
        }
        values.insert(name, Given { texts, origin });
    }
    errors
}

/// The items of a list before the policy file adds to it: as given, or the default.
fn texts_before(values: &Values, name: &str) -> Vec<String> {
    match values.get(name) {
        Some(given) => given.texts.clone(),
        None => vec![find(name).default.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;
    use crate::protocol::id::AppId;
    use crate::rules::policy::GroupSenders;

    #[test]
    fn a_policy_file_goes_over_the_settings_and_an_apps_table_over_the_rest_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let text = r#"
            max-payload = "64KiB"
            banned = ["mallory"]
            rate-per-minute = 600
            [groups]
            membership = "open"
            [app.shop]
            max-payload = "1KiB"
            banned = ["troll"]
            rate-per-minute = "none"
            privileged-senders = ["bot"]
        "#;
        std::fs::write(&path, text).unwrap();
        let flag = path.to_str().unwrap();
        let flags = [
            ("policy-file", flag),
            ("max-depth", "9"),
            ("max-payload", "100KiB"),
        ];
        let config = load(&flags, &[("BUCKET_MSG_CAPACITY", "30")], None).unwrap();
        let policy = &config.rules.router.policy;
        let shop = policy.rules(AppId::parse("shop").unwrap());
        let other = policy.rules(AppId::parse("tilechat").unwrap());
        let rate = other.rate.unwrap();
        assert_eq!((rate.burst.get(), rate.per_minute.get()), (30, 600));
        assert_eq!(
            (
                shop.max_payload_bytes,
                shop.max_depth,
                shop.rate,
                shop.banned.len()
            ),
            (1 << 10, 9, None, 2)
        );
        assert_eq!(
            (other.max_payload_bytes, other.privileged_senders.len()),
            (64 << 10, 1)
        );
        assert!(shop.privileged_senders.contains("bot"));
        assert_eq!(shop.group_senders, GroupSenders::Anybody);

        // Read again, faulty: every mistake, with its place.
        let stamp = config.rules.policy_file.stamp();
        let text =
            "max-payload = \"1MiB\"\nbaned = [\"x\"]\n[app.shop]\nmax-depth = 0\n[app.\"a/b\"]\n";
        std::fs::write(&path, text).unwrap();
        assert_ne!(config.rules.policy_file.stamp(), stamp);
        let errors = config.rules.policy_file.read().unwrap_err().to_string();
        for said in [
            "max-payload in ",
            "is more than the 102400 bytes of --max-payload",
            "\"baned\" is not a setting",
            "app.shop.max-depth in ",
            "\"0\" is not a whole number from 1",
            "app \"a/b\" holds",
        ] {
            assert!(errors.contains(said), "{said} in {errors}");
        }
        assert_eq!(errors.lines().count(), 4, "{errors}");
        std::fs::write(&path, "max-depth = ").unwrap();
        assert!(
            config
                .rules
                .policy_file
                .read()
                .unwrap_err()
                .to_string()
                .contains("line 1")
        );
        // At the start it is a mistake in the settings, among the others.
        let more = [&flags[..], &[("rate-burst", "0")]].concat();
        let errors = load(&more, &[], None).unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(
            load(&flags, &[], None)
                .unwrap_err()
                .iter()
                .any(|error| error.contains("line 1"))
        );
    }
}
