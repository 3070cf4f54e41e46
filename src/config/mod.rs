//! Settings: one table of them, read from flags, environment and file into one [`Config`] in which
//! every value is valid.
//!
//! Owns names, defaults, help texts and checks of the settings: one file and one struct a section.
//! Leaves acting on them to `commands` and `observer`, which this folder does not know.

mod aliases;
mod api;
mod broker;
mod checks;
mod compatible;
mod custom_layout;
mod decision_service;
mod endpoint;
mod error;
mod file;
mod http;
mod identity;
mod in_force;
mod layouts;
mod links;
mod login;
mod origin;
mod policy_file;
mod reader;
mod reporting;
mod rules;
mod settings;
mod store;
mod suggestion;
mod template;
#[cfg(test)]
mod testing;
mod tls;
mod unknown;
mod values;
mod webhooks;

use std::path::Path;

pub use self::broker::BrokerSection;
pub use self::error::{ConfigError, ConfigErrors};
pub use self::http::HttpSection;
pub use self::identity::{probe_client_id, write_private};
pub use self::in_force::InForce;
pub use self::origin::Origin;
pub use self::policy_file::PolicyFile;
use self::reader::{Environment, Reader};
pub use self::reader::{Flags, Uses};
pub use self::reporting::ReportingSection;
pub use self::rules::RulesSection;
pub use self::settings::{GROUPS, Group, Setting, Takes, settings, variable};
pub use self::store::parse_location;
pub(crate) use self::suggestion::nearest;
pub use self::template::{Pick, template};
pub use self::unknown::unknown_variables;
use crate::http::{api::Settings as ApiSettings, webhook};
use crate::rules::webhook_event::EventKinds;
use crate::store::StoreSettings;

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The observer's public name (`--name`): part of its topics, of its client identifier and of
    /// the store's file name.
    pub name: String,
    /// How the broker is reached, and as whom.
    pub broker: BrokerSection,
    /// Where messages are kept; `None` forwards only (`--store none`).
    pub store: Option<StoreSettings>,
    /// What is served, and what is refused.
    pub rules: RulesSection,
    /// The endpoint for health and metrics.
    pub http: HttpSection,
    /// The HTTP API for chat clients; `None` if it is not served.
    pub api: Option<ApiSettings>,
    /// The operator's directory of users, for the names in messages about the members of groups.
    pub contacts: Option<reqwest::Url>,
    /// The services that are told of events; `None` if there are none, or webhooks are off.
    pub webhooks: Option<webhook::Settings>,
    /// What the observer says about itself: status, statistics, trace, log.
    pub reporting: ReportingSection,
    /// Every setting with its value, without secrets, and where that was given.
    pub in_force: Vec<InForce>,
    /// What an operator should know although it is not a mistake.
    pub warnings: Vec<String>,
}

impl Config {
    /// Reads the settings. Flags win over the environment, that over `file`, that over defaults.
    ///
    /// # Errors
    /// Every mistake in the settings, not only the first one.
    pub fn load(
        flags: &Flags,
        env: Environment<'_>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigErrors> {
        Self::load_only(&|_| true, flags, env, file)
    }

    /// Reads the settings that `uses` names. The others have their defaults: mistakes in them, and
    /// files that cannot be read, are no concern of a command that does not use them.
    ///
    /// # Errors
    /// Every mistake in the settings that are used, and keys of the file that do not exist.
    pub fn load_only(
        uses: Uses<'_>,
        flags: &Flags,
        env: Environment<'_>,
        file: Option<&Path>,
    ) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::new(env, uses);
        if let Some(path) = file {
            file::read(&mut reader, path);
        }
        reader.take_environment();
        reader.take_flags(flags);
        reader.refuse_empty();
        if reader.uses("broker") {
            compatible::read(&mut reader);
        }
        match Self::read(&mut reader) {
            Some(config) if reader.errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors::in_line_order(reader.errors)),
        }
    }

    /// Reads each section before the first `?`, so that all mistakes are found. `None` if a section
    /// is missing a value that it cannot do without; the reader has the reason.
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let name = identity::read_name(reader);
        let broker = BrokerSection::read(reader, &name);
        let http = HttpSection::read(reader);
        let reporting = ReportingSection::read(reader);
        let store = store::read(reader, &name);
        let controls = rules::read_controls(reader, store.as_ref());
        let webhooks = webhooks::read(reader, controls);
        let events = webhooks
            .as_ref()
            .map_or_else(EventKinds::default, |webhooks| webhooks.events);
        let rules = RulesSection::read(reader, controls, events);
        let contacts = api::read_contacts(reader);
        let api = api::read(reader, store.as_ref(), rules.as_ref(), contacts.clone());
        Some(Self {
            name,
            broker: broker?,
            store,
            rules: rules?,
            http: http?,
            api,
            contacts,
            webhooks,
            reporting: reporting?,
            in_force: in_force::in_force(&reader.values, &reader.instead),
            warnings: std::mem::take(&mut reader.warnings),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::testing::load;

    #[test]
    fn what_is_given_and_empty_is_a_mistake() {
        let empty = |flag, text: &'static str| load(&[(flag, text)], &[], None).unwrap_err();
        let says = "is empty: leave it out for its default";
        assert_eq!(empty("app", ""), [format!("--app: {says}")]);
        assert_eq!(empty("app", " ,"), [format!("--app: {says}")]);
        assert_eq!(empty("name", " "), [format!("--name: {says}")]);
        assert!(load(&[], &[("OBSERVER_APP", "")], None).is_ok());
        let bad = load(&[("app", "a/b")], &[], None).unwrap_err();
        assert!(
            bad[0].starts_with("--app: app \"a/b\" holds '/'"),
            "{bad:?}"
        );
    }

    #[test]
    fn flags_go_over_environment_over_file_over_defaults() {
        let file = Some("window = 30\nname = \"file\"\nkeep-alive = \"20s\"");
        let config = load(
            &[("window", "10")],
            &[("OBSERVER_WINDOW", "20"), ("OBSERVER_NAME", "env")],
            file,
        )
        .unwrap();
        assert_eq!(
            (
                config.broker.window,
                config.name.as_str(),
                config.broker.keep_alive
            ),
            (10, "env", Duration::from_secs(20))
        );
        assert_eq!(config.broker.ack_timeout, Duration::from_secs(30));
        assert_eq!(
            load(&[], &[("LOG_LEVEL", "debug")], None)
                .unwrap()
                .reporting
                .log_level,
            "debug",
            "a name of chat21-server"
        );
        let apps = load(&[], &[("APP_ID", "tilechat")], None)
            .unwrap()
            .rules
            .router
            .layouts
            .filters();
        assert!(
            apps.iter()
                .all(|filter| filter.filter.as_str().contains("/tilechat/"))
        );
    }

    #[test]
    fn all_mistakes_are_reported_together_each_with_its_place() {
        let file = Some(
            "windw = 5\nack-timeout = 7\nlayouts = \"inbox,nonsense\"\nca-file = \"/nowhere\"",
        );
        let errors = load(
            &[("window", "0"), ("protocol", "4")],
            &[("OBSERVER_MAX_PAYLOAD", "1TB")],
            file,
        )
        .unwrap_err();
        assert_eq!(
            errors,
            [
                "observer.toml, line 1: \"windw\" is not a setting (is window meant?)",
                "ack-timeout in observer.toml, line 2: \"7\" is not a time such as 30s or 5m: time \
                 unit needed, for example 7sec or 7ms",
                "--protocol: \"4\" is none of auto, 5, 3.1.1",
                "--window: \"0\" is not a whole number from 1 to 10000",
                "layouts in observer.toml, line 3: \"nonsense\" is none of inbox, chat21, \
                 chat21-v1, none",
                "OBSERVER_MAX_PAYLOAD: \"1TB\" is not a size such as 64KiB or 1MiB",
                "ca-file in observer.toml, line 4: cannot read /nowhere: I/O error: No such file \
                 or directory (os error 2)",
            ]
        );
    }
}
