//! Where a value comes from.
//!
//! Owns how such a place is named, in mistakes and in the list of the settings in force.

use std::fmt;
use std::path::PathBuf;

/// Where the value of a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in default.
    Default,
    /// The setting's own flag on the command line.
    Flag,
    /// An environment variable, by its name.
    Variable(String),
    /// A key of a file.
    File {
        /// The file, as it was asked for.
        path: PathBuf,
        /// The line of the key, from 1.
        line: usize,
        /// The key as it is written there, with the table it stands in: `groups.membership`.
        key: String,
    },
}

impl Origin {
    /// How near the place is to who calls the program: what stands nearer overrides the rest.
    pub(super) fn nearness(&self) -> u8 {
        match self {
            Self::Default => 0,
            Self::File { .. } => 1,
            Self::Variable(_) => 2,
            Self::Flag => 3,
        }
    }

    /// The place as an operator knows it: `--window`, `OBSERVER_WINDOW`, `window in
    /// observer.toml, line 3`.
    pub(super) fn place(&self, name: &str) -> String {
        match self {
            Self::Default | Self::Flag => format!("--{name}"),
            Self::Variable(variable) => variable.clone(),
            Self::File { path, line, key } => {
                format!("{key} in {}, line {line}", path.display())
            }
        }
    }
}

/// What stands beside a value: `default`, `flag`, `OBSERVER_WINDOW`, `observer.toml, line 3`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag => f.write_str("flag"),
            Self::Variable(variable) => f.write_str(variable),
            Self::File { path, line, .. } => write!(f, "{}, line {line}", path.display()),
        }
    }
}
