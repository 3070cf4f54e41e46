//! Plain connections, many at a time, that nothing opens again: what `bench` makes its load with.
//!
//! Owns that they all speak the same version of MQTT. Leaves what happens on a connection to its
//! owner, who has both halves of it.

use std::sync::Arc;

use super::connector::Connector;
use super::settings::LinkSettings;
use super::version::VersionChooser;
use crate::auth::credentials::Credentials;
use crate::auth::secret::Secret;
use crate::mqtt::{LinkError, Opened, Session};

/// Opens connections to one broker.
#[derive(Debug)]
pub struct Opener {
    settings: LinkSettings,
    version: Arc<VersionChooser>,
}

impl Opener {
    /// For connections with these settings, but for the client identifier.
    pub fn new(settings: LinkSettings) -> Self {
        let version = Arc::new(VersionChooser::new(settings.protocol));
        Self { settings, version }
    }

    /// Opens a connection with the login of the settings, or with another, that has `window`
    /// messages and publishes under way.
    ///
    /// # Errors
    /// [`LinkError`], if that does not succeed.
    pub async fn open(
        &self,
        client_id: String,
        login: Option<Credentials>,
        session: Session,
        window: u16,
    ) -> Result<Opened, LinkError> {
        let mut settings = self.settings.clone();
        settings.client_id = Secret::new(client_id);
        settings.window = window;
        if let Some(login) = login {
            settings.credentials = login;
        }
        let connector = Connector::once(Arc::new(settings), self.version.clone(), session);
        Ok(connector.connect().await?.opened)
    }
}
