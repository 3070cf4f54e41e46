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
    /// The line of the file; the last of all for what stands in none.
    pub(super) fn line(&self) -> usize {
        let line = self.place.rsplit_once(", line ").map(|(_, line)| line);
        line.and_then(|line| line.parse().ok())
            .unwrap_or(usize::MAX)
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
