//! Opens one connection, in the version of MQTT that the broker speaks.
//!
//! Owns the login, the limit on the time to connect, and the explanation of a failure. Leaves doing
//! it again to `link.rs`.

use std::sync::Arc;

use tracing::debug;

use super::other_protocol;
use super::settings::LinkSettings;
use super::version::VersionChooser;
use super::words::{self, Target};
use crate::auth::secret::Secret;
use crate::auth::token;
use crate::mqtt::{self, Cause, ConnectOptions, LinkError, Opened, Protocol, Session};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::telemetry::clock::Clock;

/// A connection that the broker has accepted.
pub(super) struct LiveConnection {
    pub(super) opened: Opened,
    /// When the token it was opened with expires, if it was a token that does.
    pub(super) token_ends: Option<UnixMillis>,
}

/// Everything that the connections of one link have in common.
pub(super) struct Connector {
    pub(super) settings: Arc<LinkSettings>,
    pub(super) version: Arc<VersionChooser>,
    pub(super) client_id: Secret,
    pub(super) session: Session,
    pub(super) will: Option<Publish>,
}

impl Connector {
    /// For one connection under the client identifier of `settings`, without a will.
    pub(super) fn once(
        settings: Arc<LinkSettings>,
        version: Arc<VersionChooser>,
        session: Session,
    ) -> Self {
        Self {
            client_id: settings.client_id.clone(),
            settings,
            version,
            session,
            will: None,
        }
    }

    /// Connects, and tries the other version of MQTT at once where that may help.
    pub(super) async fn connect(&self) -> Result<LiveConnection, LinkError> {
        let credentials = self.settings.credentials.read(Clock.wall_as_set());
        let credentials = credentials
            .map_err(|error| LinkError::new(Cause::BadCredentials, error.to_string()))?;
        let protocol = self.version.protocol();
        let options = self.options(protocol, credentials);
        let live = match self.open(&options).await {
            Ok(live) => Ok(live),
            Err(error) => match self.version.handle_failure(protocol, &error) {
                Some(other) => self.open_in_other_version(options, other, &error).await,
                None => Err(error),
            },
        };
        match live {
            Ok(live) => Ok(live),
            Err(error) => Err(self.explain_failure(error).await),
        }
    }

    /// Names target, cause and remedy of a connection that did not come up. A port that has never
    /// answered in MQTT is asked whether it speaks something else.
    async fn explain_failure(&self, error: LinkError) -> LinkError {
        let target = Target {
            transport: &self.settings.transport,
            credentials: &self.settings.credentials,
            has_proxy: self.settings.proxy.is_some(),
            only_version_5: self.version.is_fixed_to_5(),
            expired: self.settings.credentials.token_expired(Clock.wall_as_set()),
        };
        let spoken = match target.address() {
            Some((host, port))
                if words::may_be_other_protocol(&error)
                    && !target.has_proxy
                    && !self.version.is_settled() =>
            {
                other_protocol::ask(host, port).await
            }
            Some(_) | None => None,
        };
        words::explain(error, &target, spoken)
    }

    async fn open_in_other_version(
        &self,
        options: ConnectOptions,
        protocol: Protocol,
        error: &LinkError,
    ) -> Result<LiveConnection, LinkError> {
        debug!(protocol = %options.protocol, %error, "trying the other version of MQTT");
        let opened = self
            .open(&ConnectOptions {
                protocol,
                ..options
            })
            .await;
        if let Err(error) = &opened {
            self.version.handle_failure(protocol, error);
        }
        opened
    }

    fn options(&self, protocol: Protocol, credentials: Option<(String, Secret)>) -> ConnectOptions {
        ConnectOptions {
            transport: self.settings.transport.clone(),
            proxy: self.settings.proxy.clone(),
            protocol,
            client_id: self.client_id.clone(),
            credentials,
            session: self.session,
            keep_alive: self.settings.keep_alive,
            connect_timeout: self.settings.connect_timeout,
            receive_maximum: self.settings.window,
            max_packet_bytes: self.settings.max_packet_bytes,
            will: self.will.clone(),
        }
    }

    /// Opens a connection, and waits until the broker accepts it.
    async fn open(&self, options: &ConnectOptions) -> Result<LiveConnection, LinkError> {
        let opened = mqtt::open(options).await?;
        self.version.handle_answer();
        let secret = options.credentials.as_ref().map(|(_, secret)| secret);
        let claims = secret.and_then(|secret| token::peek(secret.expose_secret()));
        Ok(LiveConnection {
            opened,
            token_ends: claims.and_then(|claims| claims.ends()),
        })
    }

    /// Says of a connection that was up where it led to, and adds what the broker does not say:
    /// that a refused token has expired.
    pub(super) fn explain(&self, error: LinkError) -> LinkError {
        let error = words::lost(error, &self.settings.transport);
        let may_be_age = match error.cause {
            Cause::BadCredentials
            | Cause::NotAuthorized
            | Cause::ClosedOnSubscribe
            | Cause::Expired => true,
            Cause::ProtocolVersion
            | Cause::BadClientId
            | Cause::Unavailable
            | Cause::TakenOver
            | Cause::Renewed
            | Cause::TimedOut
            | Cause::Closed
            | Cause::Unreachable
            | Cause::Tls
            | Cause::Other => false,
        };
        if !may_be_age {
            return error;
        }
        match self.settings.credentials.token_expired(Clock.wall_as_set()) {
            Some(expired) => LinkError::new(Cause::Expired, format!("{}: {expired}", error.text)),
            None => error,
        }
    }
}
