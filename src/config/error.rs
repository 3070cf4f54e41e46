//! Mistakes in the settings, as they are printed.
//!
//! Owns the place and the text of a mistake. Why a single value is not valid is a typed error of
//! the file that reads the value.

use std::fmt;

/// One mistake in the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value stands: `--window`, `OBSERVER_WINDOW`, `window in observer.toml`.
    pub place: String,
    /// What is wrong with it. The text does not repeat secrets.
    pub fault: String,
}

impl ConfigError {
    /// The line of the file; `None` for what stands in none.
    fn line(&self) -> Option<usize> {
        let (_, line) = self.place.rsplit_once(", line ")?;
        line.parse().ok()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.fault)
    }
}

/// Every mistake in the settings; printed one a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Those of the file in the order of its lines, in the places that such have. The others stay.
    pub(super) fn in_line_order(mut errors: Vec<ConfigError>) -> Self {
        let in_file = errors.iter().filter(|error| error.line().is_some());
        let mut in_file: Vec<_> = in_file.cloned().collect();
        in_file.sort_by_key(ConfigError::line);
        let places = errors.iter_mut().filter(|error| error.line().is_some());
        for (place, error) in places.zip(in_file) {
            *place = error;
        }
        Self(errors)
    }
}

impl fmt::Display for ConfigErrors {
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
