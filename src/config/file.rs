//! The configuration file, in TOML.
//!
//! Owns reading TOML and the errors about keys. The policy file has the same form and uses the same
//! functions; which keys each file may hold is decided by its reader.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::origin::Origin;
use super::reader::{Given, Reader};
use super::settings::names;
use super::suggestion::nearest;

/// The key of the tables that define layouts.
const CUSTOM_LAYOUT: &str = "custom-layout";

/// A TOML file that has been read.
pub(super) struct Document {
    pub(super) path: PathBuf,
    pub(super) table: toml::Table,
    /// The line of each key, by the key with the tables around it: `groups.membership`.
    lines: BTreeMap<String, usize>,
}

/// A key and its value.
pub(super) struct Entry {
    /// The name of the setting: `[groups] membership = …` is the same as `groups-membership = …`.
    pub(super) name: String,
    /// The key as it is written, with the tables around it: `groups.membership`.
    pub(super) key: String,
    pub(super) value: toml::Value,
}

impl Document {
    /// Parses a file. The error names the line and does not repeat it: it may hold a password.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let error = |place: String, fault: String| ConfigError { place, fault };
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|found| error(shown.clone(), format!("cannot read it: {found}")))?;
        let faulty = |found: toml::de::Error| {
            let start = found.span().map_or(0, |span| span.start);
            let place = format!("{shown}, line {}", line_of(&text, start));
            error(place, found.message().to_owned())
        };
        let table = toml::from_str(&text).map_err(faulty)?;
        let mut lines = BTreeMap::new();
        let parsed = DeTable::parse(&text).map_err(faulty)?;
        note_lines(&text, "", parsed.get_ref(), &mut lines);
        Ok(Self {
            path: path.to_owned(),
            table,
            lines,
        })
    }

    /// Where a key stands, by the key with the tables around it.
    pub(super) fn origin(&self, key: &str) -> Origin {
        Origin::File {
            path: self.path.clone(),
            line: self.lines.get(key).copied().unwrap_or(1),
            key: key.to_owned(),
        }
    }

    /// The file and the line of a key.
    pub(super) fn place(&self, key: &str) -> String {
        self.origin(key).to_string()
    }
}

/// Notes the line of each key of a table, and of the tables in it.
fn note_lines(text: &str, prefix: &str, table: &DeTable<'_>, lines: &mut BTreeMap<String, usize>) {
    for (key, value) in table {
        let path = format!("{prefix}{}", key.get_ref());
        lines.insert(path.clone(), line_of(text, key.span().start));
        if let DeValue::Table(inner) = value.get_ref() {
            note_lines(text, &format!("{path}."), inner, lines);
        }
    }
}

/// The line, from 1, of a place in a text.
fn line_of(text: &str, start: usize) -> usize {
    let before = &text.as_bytes()[..start.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// Takes the values of a file, and its custom layouts.
pub(super) fn read(reader: &mut Reader<'_>, path: &Path) {
    let mut file = match Document::read(path) {
        Ok(file) => file,
        Err(error) => return reader.errors.push(error),
    };
    for entry in flattened(std::mem::take(&mut file.table), "") {
        if entry.key == CUSTOM_LAYOUT {
            if !reader.uses("layouts") {
                continue;
            }
            match entry.value.try_into() {
                Ok(layouts) => reader.custom_layouts = layouts,
                Err(error) => {
                    let fault = format!("{CUSTOM_LAYOUT}: {}", error.message());
                    reader.fail_at(file.place(&entry.key), fault);
                }
            }
            continue;
        }
        let Some(name) = names().find(|name| *name == entry.name) else {
            reader.fail_at(file.place(&entry.key), unknown_key(&entry.name, names()));
            continue;
        };
        if !reader.uses(name) {
            continue;
        }
        match scalars(&entry.value) {
            Some(texts) => {
                let origin = file.origin(&entry.key);
                reader.values.insert(name, Given { texts, origin });
            }
            None => reader.fail_at(file.place(&entry.key), no_scalars(&entry.key)),
        }
    }
}

/// The keys of a table, with one level of tables resolved. `prefix` names the tables around it.
pub(super) fn flattened(table: toml::Table, prefix: &str) -> Vec<Entry> {
    let mut entries = vec![];
    for (name, value) in table {
        let key = format!("{prefix}{name}");
        let Some(table) = value.as_table() else {
            entries.push(Entry { name, key, value });
            continue;
        };
        entries.extend(table.iter().map(|(inner, value)| Entry {
            name: format!("{name}-{inner}"),
            key: format!("{key}.{inner}"),
            value: value.clone(),
        }));
    }
    entries
}

/// The texts of a value or a list of values; `None` for anything else.
pub(super) fn scalars(value: &toml::Value) -> Option<Vec<String>> {
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

/// The text for a key that does not exist, with the name that is probably meant.
pub(super) fn unknown_key(key: &str, known: impl Iterator<Item = &'static str>) -> String {
    let hint = nearest(key, known).map(|name| format!(" (is {name} meant?)"));
    format!("{key:?} is not a setting{}", hint.unwrap_or_default())
}

/// The text for a value of the wrong kind.
pub(super) fn no_scalars(key: &str) -> String {
    format!("{key} is neither a text, a number, true, false, nor a list of those")
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;

    #[test]
    fn a_broken_file_is_named_by_line_and_its_secrets_are_not_repeated() {
        let errors = load(&[], &[], Some("name = \"x\"\npassword = s3cret")).unwrap_err();
        assert_eq!(errors.len(), 1);
        assert!(
            errors[0].starts_with("observer.toml, line 2: ") && !errors[0].contains("s3cret"),
            "{errors:?}"
        );
        let errors = load(&[], &[], Some("max_payload = 5")).unwrap_err();
        assert_eq!(
            errors,
            ["observer.toml, line 1: \"max_payload\" is not a setting (is max-payload meant?)"]
        );
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// A settings file: every mistake is named with its place, and no secret is repeated.
        #[test]
        fn mangled_files(text in crate::protocol::mangled::mangled_text(&[SETTINGS])) {
            if let Err(errors) = load(&[], &[], Some(&text)) {
                proptest::prop_assert!(!errors.is_empty());
                for error in errors {
                    let is_sound = !error.is_empty() && !error.contains("s3cret");
                    proptest::prop_assert!(is_sound, "{error}");
                }
            }
        }
    }

    const SETTINGS: &str = r#"
broker = "mqtts://localhost"
username = "observer"
password = "s3cret"
app = ["a", "b"]
window = 100
retain = "90d"
max-payload-bytes = "64KiB"
[app.a]
rate-per-minute = 60
[layout.mine]
outgoing = "/x/{app}/{sender}/{recipient}/out"
inbox = "/x/{app}/{recipient}/{sender}/in"
"#;
}
