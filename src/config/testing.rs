//! What the tests of the sections share: loading a `Config` without a real environment.

use std::collections::HashMap;

use super::{Config, Flags};

/// Loads settings. Errors come as printed, without the directory of the file.
pub(super) fn load(
    flags: &[(&'static str, &str)],
    env: &[(&str, &str)],
    file: Option<&str>,
) -> Result<Config, Vec<String>> {
    let flags: Flags = flags
        .iter()
        .map(|(name, text)| (*name, vec![(*text).to_owned()]))
        .collect();
    // A home that nothing can be kept in, unless the test gives another.
    let env: HashMap<String, String> = [("HOME", "/proc/nowhere")]
        .iter()
        .chain(env)
        .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
        .collect();
    let dir = tempfile::TempDir::new().unwrap();
    let path = file.map(|text| {
        let path = dir.path().join("observer.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let place = dir.path().display().to_string();
    let loaded = Config::load(&flags, &|name| env.get(name).cloned(), path.as_deref());
    loaded.map_err(|errors| {
        errors
            .0
            .iter()
            .map(|error| error.to_string().replace(&format!("{place}/"), ""))
            .collect()
    })
}
