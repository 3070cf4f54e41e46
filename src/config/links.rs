//! From the settings to what connections are opened with.
//!
//! Owns the client identifiers of the observer and of its short visits. What a link does with the
//! settings is the business of `connections`.

use super::Config;
use super::error::{ConfigError, ConfigErrors};
use crate::auth::secret::{Secret, random_id};
use crate::connections::settings::LinkSettings;
use crate::mqtt::Session;
use crate::store::StoreLocation;
use crate::store::postgres::SharedBy;

impl Config {
    /// The settings of the observer's connections. Finds the client identifier, or makes it.
    ///
    /// # Errors
    /// `--state-dir` cannot be read or written.
    pub fn links(&self) -> Result<LinkSettings, ConfigErrors> {
        let broker = &self.broker;
        match broker.identity.client_id(&broker.credentials) {
            Ok(client_id) => Ok(self.links_with(client_id)),
            Err(error) => Err(ConfigErrors(vec![ConfigError {
                place: "--state-dir".to_owned(),
                fault: error.to_string(),
            }])),
        }
    }

    /// The same where observers share a store, which has kept this part of the client identifier.
    pub fn shared_links(&self, suffix: &str) -> LinkSettings {
        self.links_with(self.broker.identity.shared_client_id(suffix))
    }

    /// The same for one slot of several. By the broker's exchange they are named after their
    /// number, too: no session is taken up that gets all messages, or another share of them.
    pub fn slot_links(&self, slot: u16, suffix: &str) -> LinkSettings {
        let shared = self.broker.identity.shared_client_id(suffix);
        let store = self.store.as_ref().map(|settings| &settings.location);
        let of = match store {
            Some(StoreLocation::Postgres(target)) if target.sharing() == SharedBy::Hash => {
                format!("-of-{}", target.slots())
            }
            Some(_) | None => String::new(),
        };
        let client_id = format!("{}-slot-{slot}{of}", shared.expose_secret());
        self.links_with(Secret::new(client_id))
    }

    /// The settings of a short visit beside the running observer, whose session it must not take.
    pub fn visitor_links(&self, purpose: &str) -> LinkSettings {
        let client_id = format!("{}-{purpose}-{}", self.name, random_id());
        self.links_with(Secret::new(client_id))
    }

    /// A warning if [`Config::links`] has to derive the client identifier, and that is risky.
    pub fn identity_warning(&self) -> Option<&'static str> {
        let store = self.store.as_ref().map(|settings| &settings.location);
        if matches!(store, Some(StoreLocation::Postgres(_))) {
            return None;
        }
        self.broker.identity.warning(&self.broker.credentials)
    }

    fn links_with(&self, client_id: Secret) -> LinkSettings {
        let broker = &self.broker;
        LinkSettings {
            transport: broker.transport.clone(),
            proxy: broker.proxy.clone(),
            protocol: broker.protocol,
            credentials: broker.credentials.clone(),
            client_id,
            keep_alive: broker.keep_alive,
            connect_timeout: broker.connect_timeout,
            session: Session::Persistent(broker.session_expiry),
            window: broker.window,
            max_packet_bytes: broker.max_packet_bytes,
            max_payload_bytes: self.rules.policy_file.max_payload_bytes(),
            will: None,
        }
    }
}
