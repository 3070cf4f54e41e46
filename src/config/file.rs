//! The configuration file, in TOML.
//!
//! Owns reading TOML and the errors about keys. The policy file has the same form and uses the same
//! functions; which keys each file may hold is decided by its reader.

use std::path::Path;

use super::error::ConfigError;
use super::reader::{Given, Origin, Reader};
use super::settings::SETTINGS;

/// The key of the tables that define layouts.
const CUSTOM_LAYOUT: &str = "custom-layout";

/// Takes the values of a file, and its custom layouts.
pub(super) fn read(reader: &mut Reader<'_>, path: &Path) {
    let table = match read_toml(path) {
        Ok(table) => table,
        Err(error) => return reader.errors.push(error),
    };
    let file = || path.display().to_string();
    for (key, value) in flattened(table) {
        if key == CUSTOM_LAYOUT {
            match value.try_into() {
                Ok(layouts) => reader.custom_layouts = layouts,
                Err(error) => {
                    reader.fail_at(file(), format!("{CUSTOM_LAYOUT}: {}", error.message()));
                }
            }
            continue;
        }
        let known = SETTINGS.iter().map(|setting| setting.name);
        let Some(name) = known.clone().find(|name| *name == key) else {
            reader.fail_at(file(), unknown_key(&key, known));
            continue;
        };
        match scalars(&value) {
            Some(texts) => {
                let given = Given {
                    texts,
                    origin: Origin::File,
                    place: format!("{key} in {}", path.display()),
                };
                reader.values.insert(name, given);
            }
            None => reader.fail_at(file(), no_scalars(&key)),
        }
    }
}

/// Parses a TOML file. The error names the line and does not repeat it: it may hold a password.
pub(super) fn read_toml(path: &Path) -> Result<toml::Table, ConfigError> {
    let error = |fault: String| ConfigError {
        place: path.display().to_string(),
        fault,
    };
    let text = std::fs::read_to_string(path).map_err(|found| error(found.to_string()))?;
    toml::from_str(&text).map_err(|found| {
        let start = found.span().map_or(0, |span| span.start.min(text.len()));
        let line = text[..start].matches('\n').count() + 1;
        error(format!("line {line}: {}", found.message()))
    })
}

/// The keys of a table, with one level of tables resolved: `[groups] membership = …` is the same as
/// `groups-membership = …`.
pub(super) fn flattened(table: toml::Table) -> Vec<(String, toml::Value)> {
    let inner = |(key, value): (String, toml::Value)| match value.as_table() {
        Some(table) => table
            .iter()
            .map(|(inner, value)| (format!("{key}-{inner}"), value.clone()))
            .collect(),
        None => vec![(key, value)],
    };
    table.into_iter().flat_map(inner).collect()
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
pub(super) fn unknown_key(key: &str, mut known: impl Iterator<Item = &'static str>) -> String {
    let near = known.find(|name| name.contains(&key.replace('_', "-")) || key.contains(name));
    let hint = near
        .map(|name| format!(" (is {name} meant?)"))
        .unwrap_or_default();
    format!("{key:?} is not a setting{hint}")
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
            errors[0].starts_with("observer.toml: line 2: ") && !errors[0].contains("s3cret"),
            "{errors:?}"
        );
        let errors = load(&[], &[], Some("max_payload = 5")).unwrap_err();
        assert_eq!(
            errors,
            ["observer.toml: \"max_payload\" is not a setting (is max-payload meant?)"]
        );
    }
}
