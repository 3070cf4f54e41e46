//! What the users of a bench log in with: the login of the settings, or a token each.

use std::time::Duration;

use crate::auth::credentials::{Credentials, Minter, SecretSource, TOKEN_USERNAME};
use crate::auth::signing::SigningKey;
use crate::auth::token::{Grant, Scopes, Sessions};
use crate::config::Config;
use crate::connections::settings::LinkSettings;
use crate::protocol::topic_map::TopicMap;
use crate::telemetry::clock::Clock;

/// How long the token of a user is valid.
const VALID: Duration = Duration::from_secs(24 * 3_600);
/// RabbitMQ's virtual host for MQTT, unless its settings say otherwise.
const VHOST: &str = "/";

/// Logins for connections of users.
pub(super) struct Logins {
    links: LinkSettings,
    app: String,
    layouts: TopicMap,
    tokens: Option<(Minter, SigningKey)>,
}

impl Logins {
    /// Tokens, if there is a key to sign them with and each user has a connection of their own.
    pub(super) fn new(config: &Config, app: &str, is_one_each: bool) -> anyhow::Result<Self> {
        let minter = config.broker.minter.as_ref().filter(|_| is_one_each);
        let tokens = match minter {
            Some(minter) => Some((minter.clone(), minter.key()?)),
            None => None,
        };
        Ok(Self {
            links: config.visitor_links("bench"),
            app: app.to_owned(),
            layouts: config.rules.router.layouts.clone(),
            tokens,
        })
    }

    /// How everybody else connects.
    pub(super) fn links(&self) -> &LinkSettings {
        &self.links
    }

    /// The login of a user, if they have one of their own.
    pub(super) fn of_user(&self, user: &str) -> anyhow::Result<Option<Credentials>> {
        let Some((minter, key)) = &self.tokens else {
            return Ok(None);
        };
        let paths = self.layouts.user_paths_of(&self.app);
        let scopes = Scopes::Narrow {
            paths: &paths,
            vhost: VHOST,
            sessions: Sessions::Of(user),
        };
        let now = Clock.now().wall;
        let token = minter.mint(key, now, VALID, |stamp| {
            Grant::user(&self.app, user, scopes, stamp)
        });
        let username = Some(TOKEN_USERNAME.to_owned());
        Ok(Some(Credentials::new(
            username,
            Some(SecretSource::Token(token)),
        )))
    }

    /// Who logs in, in words.
    pub(super) fn summary(&self) -> String {
        match (&self.tokens, self.links.credentials.username()) {
            (Some(_), _) => "each user with a token of their own".to_owned(),
            (None, Some(name)) => format!("all as {name:?}"),
            (None, None) => "all without a user name".to_owned(),
        }
    }
}
