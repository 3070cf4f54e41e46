//! The raw values of the settings, and the mistakes found in them.
//!
//! Owns the order of the sources, and reporting a mistake with the place where the value stands.
//! Which values are valid is the business of `values.rs` and of each section.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::aliases::ALIASES;
use super::custom_layout::CustomLayout;
use super::error::ConfigError;
use super::origin::Origin;
use super::settings::{find, settings, variable};
use super::values::{self, BOOL};

/// What is given on the command line, by name of the setting.
pub type Flags = BTreeMap<&'static str, Vec<String>>;

/// Looks up an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Whether a setting of that name matters to the command that reads the settings.
pub type Uses<'a> = &'a dyn Fn(&str) -> bool;

/// A value that was given, not checked yet.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// One text, or several for a list or a repeated flag.
    pub(super) texts: Vec<String>,
    pub(super) origin: Origin,
}

/// Given values by name of the setting. What is not given is missing.
pub(super) type Values = BTreeMap<&'static str, Given>;

/// Hands out values, and collects mistakes and warnings.
pub(super) struct Reader<'a> {
    pub(super) values: Values,
    /// What is in force where nothing was given and the default is not a text of the table.
    pub(super) instead: Values,
    /// The `[[custom-layout]]` tables of the file.
    pub(super) custom_layouts: Vec<CustomLayout>,
    pub(super) errors: Vec<ConfigError>,
    pub(super) warnings: Vec<String>,
    env: Environment<'a>,
    uses: Uses<'a>,
}

impl<'a> Reader<'a> {
    /// `uses` says which settings matter; the others have their defaults, whatever is given.
    pub(super) fn new(env: Environment<'a>, uses: Uses<'a>) -> Self {
        Self {
            values: Values::new(),
            instead: Values::new(),
            custom_layouts: vec![],
            errors: vec![],
            warnings: vec![],
            env,
            uses,
        }
    }

    /// Whether this setting matters.
    pub(super) fn uses(&self, name: &str) -> bool {
        (self.uses)(name)
    }

    /// The variables of the environment, in place of what was given before.
    pub(super) fn take_environment(&mut self) {
        for setting in settings() {
            let aliases = ALIASES
                .iter()
                .filter(|(name, _)| *name == setting.name)
                .map(|(_, variable)| (*variable).to_owned());
            let mut names = std::iter::once(variable(setting.name)).chain(aliases);
            let found = names.find_map(|name| Some((self.variable(&name)?, name)));
            if let Some((text, name)) = found {
                self.set_variable(setting.name, text, &name);
            }
        }
    }

    /// The flags, in place of what was given before.
    pub(super) fn take_flags(&mut self, flags: &Flags) {
        for (name, texts) in flags {
            let given = Given {
                texts: texts.clone(),
                origin: Origin::Flag,
            };
            self.values.insert(name, given);
        }
    }

    /// Refuses empty flags: what was meant for one did not get there, and `--app "$APP"` must not
    /// mean every app. In the file, and in variables, an empty value counts as none.
    pub(super) fn refuse_empty(&mut self) {
        let is_empty = |given: &Given| {
            let mut items = given.texts.iter().flat_map(|text| text.split(','));
            let is_blank = |text: &str| text.trim().is_empty();
            given.origin == Origin::Flag
                && (given.texts.iter().any(|text| is_blank(text)) || items.all(is_blank))
        };
        let given = self.values.iter().filter(|(_, given)| is_empty(given));
        let names: Vec<_> = given.map(|(name, _)| *name).collect();
        for name in names {
            self.fail(name, "is empty: leave it out for its default");
        }
    }

    /// An environment variable. An empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.env)(name).filter(|text| !text.trim().is_empty())
    }

    /// Takes `text` for the value of a setting, as given by the environment variable `place`.
    pub(super) fn set_variable(&mut self, name: &'static str, text: String, place: &str) {
        if !self.uses(name) {
            return;
        }
        let given = Given {
            texts: vec![text],
            origin: Origin::Variable(place.to_owned()),
        };
        self.values.insert(name, given);
    }

    /// Reports a mistake in a setting, with the place where its value stands.
    pub(super) fn fail(&mut self, name: &str, fault: impl Display) {
        let place = self
            .values
            .get(name)
            .map_or_else(|| format!("--{name}"), |given| given.origin.place(name));
        self.fail_at(place, fault);
    }

    /// Reports a mistake that does not stand in the value of one setting.
    pub(super) fn fail_at(&mut self, place: String, fault: impl Display) {
        self.errors.push(ConfigError {
            place,
            fault: fault.to_string(),
        });
    }

    /// Notes what is in force for a setting that was not given, and where that comes from.
    pub(super) fn note(&mut self, name: &'static str, text: String, origin: Origin) {
        let texts = vec![text];
        self.instead.insert(name, Given { texts, origin });
    }

    pub(super) fn warn(&mut self, warning: impl Into<String>) {
        self.warnings.push(warning.into());
    }

    /// Whether a setting has a value other than its default.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The texts given on the command line; none if the value comes from elsewhere.
    pub(super) fn flag_texts(&self, name: &str) -> &[String] {
        match self.values.get(name) {
            Some(given) if given.origin == Origin::Flag => &given.texts,
            Some(_) | None => &[],
        }
    }

    /// The value of a setting, or its default; `None` if there is neither. An empty value counts
    /// as not given.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let given = self.values.get(name).and_then(|given| given.texts.last());
        match given {
            Some(text) if !text.is_empty() => Some(text.clone()),
            Some(_) | None => {
                let default = find(name).default;
                (!default.is_empty()).then(|| default.to_owned())
            }
        }
    }

    /// The items of a list: separated by commas, given repeatedly, or both.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let texts = match self.values.get(name) {
            Some(given) => given.texts.clone(),
            None => self.text(name).into_iter().collect(),
        };
        let items = texts.iter().flat_map(|text| text.split(','));
        items
            .map(|item| item.trim().to_owned())
            .filter(|item| !item.is_empty())
            .collect()
    }

    /// The value as `parse` has it; `None` if it is not given or not valid.
    pub(super) fn parse<T, E: Display>(
        &mut self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|fault| self.fail(name, fault)).ok()
    }

    /// A flag without a value.
    pub(super) fn switch(&mut self, name: &str) -> bool {
        self.parse(name, values::parse_switch).unwrap_or(false)
    }

    /// `true` or `false`, as a value.
    pub(super) fn boolean(&mut self, name: &str) -> bool {
        self.choice(name, BOOL)
    }

    /// A number with a default. A value that is not valid is reported and replaced by the least.
    pub(super) fn number(&mut self, name: &str, range: RangeInclusive<u16>) -> u16 {
        let least = *range.start();
        self.parse(name, |text| values::parse_number(text, &range))
            .unwrap_or(least)
    }

    /// A duration with a default. A value that is not valid is reported and replaced by the least.
    pub(super) fn duration(&mut self, name: &str, range: RangeInclusive<Duration>) -> Duration {
        let least = *range.start();
        self.parse(name, |text| values::parse_duration(text, &range))
            .unwrap_or(least)
    }

    /// One of a few words. A value that is not valid is reported and replaced by the first.
    pub(super) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        self.parse(name, |text| values::parse_choice(text, choices))
            .unwrap_or(choices[0].1)
    }
}
