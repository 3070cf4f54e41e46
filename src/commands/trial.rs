//! An observer that runs for a moment and leaves nothing behind: what `check` and `demo` start.

use std::time::Duration;

use crate::config::Config;
use crate::observer::{Reporting, Setup};
use crate::store::{StoreLocation, StoreSettings};

/// How long a trial waits for what is under way when it stops.
const DRAIN: Duration = Duration::from_secs(1);

/// An observer of `config` that stores in memory, asks and notifies no services, serves no health
/// endpoint and says nothing of itself.
pub(super) fn setup(config: &Config) -> Setup {
    Setup {
        consult: None,
        store: config.store.clone().map(|settings| StoreSettings {
            location: StoreLocation::Memory,
            ..settings
        }),
        publishers: 1,
        drain_timeout: DRAIN,
        reset_session: false,
        http_listen: None,
        api: None,
        webhooks: None,
        reporting: Reporting::default(),
        ..Setup::from(config)
    }
}
