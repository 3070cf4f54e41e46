//! Texts that must not be printed.
//!
//! Owns hiding them; whoever needs the text itself asks for it by name.

use std::fmt;

/// A text that is never shown: its `Debug` prints stars, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret over.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The secret itself, for whoever must have it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
