//! The observer that runs as a service of this machine: where its settings and its store are.
//!
//! Commands that administer an observer look there if nobody says which one is meant, and say which
//! they use. Leaves reading the settings to `config`.

use std::fmt::Write as _;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use super::output::Output;
use super::scope::Missing;
use crate::config::{Config, ConfigErrors, Origin};
use crate::store::StoreLocation;

/// The settings of the service, as packages install them.
const SETTINGS: &str = "/etc/chat21-observer/observer.toml";
/// The directory that the service manager gives it (`StateDirectory=chat21-observer`).
const STATE: &str = "/var/lib/chat21-observer";
const HINT: &str = "say where it is with --store, --state-dir or --config";

/// The settings of the service, if there are any that can be read.
pub(super) fn settings_file() -> Option<&'static Path> {
    let path = Path::new(SETTINGS);
    File::open(path).is_ok().then_some(path)
}

/// Says which settings are used although nobody has named them.
pub(super) fn tell(path: &Path, out: Output) {
    out.message(format_args!("settings of {}", path.display()));
}

/// The settings with a store that is there: the usual one, or else the service's, unless `config`
/// names one. `load` reads the settings again, with a file.
pub(super) fn find_store(
    config: Config,
    missing: Missing,
    load: impl Fn(&Path) -> Result<Config, ConfigErrors>,
    out: Output,
) -> anyhow::Result<Config> {
    if is_named(&config) {
        return Ok(config);
    }
    let mut looked = String::new();
    let usual = find(&config, &mut looked);
    let service = of_service(&config, load, &mut looked);
    if let Some(usual) = usual {
        let service = service.ok();
        let other = service
            .as_ref()
            .and_then(|config| find(config, &mut looked));
        match other {
            Some(other) => out.message(format_args!("store {usual}; the service's is {other}")),
            None => out.message(format_args!("store {usual}")),
        }
        return Ok(config);
    }
    let service = service?;
    match (find(&service, &mut looked), missing) {
        (Some(place), _) => {
            out.message(format_args!("store {place}"));
            Ok(service)
        }
        // Made by another user than the service's, it would be none that the service can open.
        (None, Missing::IsMade) if settings_file().is_some() => {
            anyhow::bail!(
                "the service has no store yet: start it once, or {HINT}; looked at:{looked}"
            )
        }
        (None, Missing::IsMade) => Ok(config),
        (None, Missing::IsAnError) => {
            anyhow::bail!("there is no store, {HINT}; looked at:{looked}")
        }
    }
}

/// Whether a flag, a variable, a file or the service manager says where the store is.
fn is_named(config: &Config) -> bool {
    let mut rows = config.in_force.iter();
    rows.any(|row| matches!(row.name, "store" | "state-dir") && row.origin != Origin::Default)
}

/// The service's settings: of its file, or else `own`, with the store in its directory.
fn of_service(
    own: &Config,
    load: impl Fn(&Path) -> Result<Config, ConfigErrors>,
    looked: &mut String,
) -> Result<Config, ConfigErrors> {
    let mut config = match File::open(SETTINGS) {
        Ok(_) => load(Path::new(SETTINGS))?,
        Err(error) => {
            let _ = write!(looked, "\n  {SETTINGS}: {}", why(&error));
            own.clone()
        }
    };
    if !is_named(&config)
        && let Some(store) = &mut config.store
    {
        let path = Path::new(STATE).join(format!("{}.db", config.name));
        store.location = StoreLocation::File(path);
    }
    Ok(config)
}

/// The store of these settings, if it is there; else notes the place.
fn find<'a>(config: &'a Config, looked: &mut String) -> Option<&'a StoreLocation> {
    let location = &config.store.as_ref()?.location;
    let path = match location {
        StoreLocation::File(path) => path,
        StoreLocation::Postgres(_) => return Some(location),
        StoreLocation::Memory => return None,
    };
    match std::fs::metadata(path) {
        Ok(_) => Some(location),
        Err(error) => {
            let _ = write!(looked, "\n  {}: {}", path.display(), why(&error));
            None
        }
    }
}

fn why(error: &std::io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        return "not there".to_owned();
    }
    if error.kind() == ErrorKind::PermissionDenied {
        return "this user may not read it".to_owned();
    }
    error.to_string()
}
