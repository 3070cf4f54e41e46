//! The table of settings: each is a flag, a variable and a key of the file, with one name, one
//! default and one explanation.
//!
//! Owns names, defaults and help texts: `--help`, the manual page, `config init` and the guide
//! print this table, under the same headings. Which values are valid is the business of the other
//! files of `config`.

mod connection;
mod messages;
mod operation;
mod services;

/// What a setting takes on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// One value, shown by this name.
    Value(&'static str),
    /// A list: the flag may be repeated, values are separated by commas.
    List(&'static str),
    /// Nothing: present or not (`true` or `false` elsewhere).
    Switch,
}

/// One setting: its flag is `--name`, its variable `OBSERVER_NAME`, its key in the file `name`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name, in kebab case.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// What holds without it; empty for nothing.
    pub default: &'static str,
    /// What it is for: a sentence or two.
    pub help: &'static str,
    /// The same in a few words, for `-h`, where the setting is one of those that matter.
    pub brief: &'static str,
    /// The short flag, if it has one.
    pub short: Option<char>,
}

/// Settings that belong together.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    /// The heading they stand under.
    pub heading: &'static str,
    /// What stands there, in this order.
    pub settings: &'static [Setting],
}

/// Every setting there is.
pub const GROUPS: &[Group] = &[
    connection::BROKER,
    connection::LOGIN,
    messages::MESSAGES,
    messages::GROUPS,
    messages::POLICY,
    services::WEBHOOKS,
    services::STORE,
    services::API,
    operation::OBSERVABILITY,
    operation::TUNING,
];

/// The settings that a policy file may hold, for all apps and for each.
pub(super) const RULES: &[&str] = &[
    "max-payload",
    "max-depth",
    "max-values",
    "max-recipients",
    "max-inline-recipients",
    "max-groups",
    "max-instances",
    "groups-membership",
    "privileged-senders",
    "banned",
    "rate-per-minute",
    "rate-burst",
    "timestamp-past",
    "timestamp-future",
];

const fn value(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        takes: Takes::Value(value),
        default,
        ..switch(name, help)
    }
}

const fn list(
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        takes: Takes::List(value),
        default,
        ..switch(name, help)
    }
}

const fn switch(name: &'static str, help: &'static str) -> Setting {
    Setting {
        name,
        takes: Takes::Switch,
        default: "false",
        help,
        brief: "",
        short: None,
    }
}

impl Setting {
    const fn brief(self, brief: &'static str) -> Self {
        Self { brief, ..self }
    }

    const fn short(self, short: char) -> Self {
        Self {
            short: Some(short),
            ..self
        }
    }
}

/// Every setting there is, in the order of the table.
pub fn settings() -> impl Iterator<Item = &'static Setting> + Clone {
    GROUPS.iter().flat_map(|group| group.settings)
}

/// The names of all settings.
pub(super) fn names() -> impl Iterator<Item = &'static str> + Clone {
    settings().map(|setting| setting.name)
}

/// The setting of that name.
pub(super) fn find(name: &str) -> &'static Setting {
    settings()
        .find(|setting| setting.name == name)
        .expect("every setting stands in the table")
}

/// The environment variable of a setting.
pub fn variable(name: &str) -> String {
    format!("OBSERVER_{}", name.to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_given_once_and_texts_are_sentences() {
        let all: BTreeSet<&str> = names().collect();
        assert_eq!(all.len(), names().count());
        let shorts: Vec<char> = settings().filter_map(|setting| setting.short).collect();
        assert_eq!(shorts, ['b', 'u']);
        for setting in settings() {
            let (help, brief) = (setting.help, setting.brief);
            assert!(
                help.ends_with('.') && help.starts_with(|c: char| !c.is_lowercase()),
                "{}: {help}",
                setting.name
            );
            assert!(!brief.ends_with('.'), "{}: {brief}", setting.name);
        }
        for name in RULES {
            assert!(all.contains(name), "{name}");
        }
    }
}
