//! Opens one connection, in the version of MQTT that the broker speaks.
//!
//! Owns the login, the limit on the time to connect, and the explanation of a failure. Leaves doing
//! it again to `link.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::other_protocol;
use super::settings::LinkSettings;
use super::version::VersionChooser;
use super::words::{self, Target};
use crate::auth::secret::Secret;
use crate::auth::token;
use crate::mqtt::{
    self, Cause, Client, ConnectOptions, Connected, Connection, Event, LinkError, Protocol, Session,
};
use crate::protocol::publish::Publish;
use crate::protocol::time::UnixMillis;
use crate::telemetry::clock::Clock;

/// Added to the connect timeout. The client keeps that timeout itself, for the look-up and the
/// handshake; this is for whatever it does not cover.
const CONNECT_GRACE: Duration = Duration::from_secs(5);

/// A connection that the broker has accepted.
pub(super) struct LiveConnection {
    pub(super) client: Client,
    pub(super) connection: Connection,
    pub(super) connected: Connected,
    /// When the token it was opened with expires, if it was a token that does.
    pub(super) token_ends: Option<UnixMillis>,
}

/// Everything that the connections of one link have in common.
pub(super) struct Connector {
    pub(super) settings: Arc<LinkSettings>,
    pub(super) version: Arc<VersionChooser>,
    pub(super) client_id: Secret,
    pub(super) session: Session,
    /// Publishes under way at a time; 0 for a connection that does not publish.
    pub(super) publish_window: usize,
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
            publish_window: usize::from(settings.window),
            settings,
            version,
            session,
            will: None,
        }
    }

    /// Connects, and tries the other version of MQTT at once where that may help.
    pub(super) async fn connect(&self, receive_maximum: u16) -> Result<LiveConnection, LinkError> {
        let credentials = self.settings.credentials.read(Clock.wall_as_set());
        let credentials = credentials
            .map_err(|error| LinkError::new(Cause::BadCredentials, error.to_string()))?;
        let protocol = self.version.protocol();
        let options = self.options(protocol, credentials, receive_maximum);
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

    fn options(
        &self,
        protocol: Protocol,
        credentials: Option<(String, Secret)>,
        receive_maximum: u16,
    ) -> ConnectOptions {
        ConnectOptions {
            transport: self.settings.transport.clone(),
            proxy: self.settings.proxy.clone(),
            protocol,
            client_id: self.client_id.clone(),
            credentials,
            session: self.session,
            keep_alive: self.settings.keep_alive,
            connect_timeout: self.settings.connect_timeout,
            receive_maximum,
            publish_window: self.publish_window,
            will: self.will.clone(),
        }
    }

    /// Opens a connection, and waits until the broker accepts it.
    async fn open(&self, options: &ConnectOptions) -> Result<LiveConnection, LinkError> {
        let (mut client, mut connection) = mqtt::open(options);
        let limit = options.connect_timeout + CONNECT_GRACE;
        let first = match timeout(limit, connection.next()).await {
            Ok(first) => first?,
            Err(_) => return Err(mqtt::no_answer()),
        };
        let Event::Connected(connected) = first else {
            let text = "the first packet from the broker is not a CONNACK";
            return Err(LinkError::new(Cause::Other, text));
        };
        self.version.handle_answer(options.protocol);
        client.set_limits(&connected);
        let secret = options.credentials.as_ref().map(|(_, secret)| secret);
        let claims = secret.and_then(|secret| token::peek(secret.expose_secret()));
        Ok(LiveConnection {
            client,
            connection,
            connected,
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
            | Cause::Undecodable
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
