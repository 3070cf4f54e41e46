//! A user at the command line: what `send` and `inbox` connect as.
//!
//! Owns who the user is, their paths and their connection. The broker decides what they may do:
//! with the credentials of the user themselves, or with the observer's, which may do everything.

use anyhow::Context;

use super::input::{app_id, user_id};
use crate::config::{Config, probe_client_id};
use crate::connections::probe_client::ProbeClient;
use crate::connections::settings::LinkSettings;
use crate::mqtt::{Cause, LinkError, Session};
use crate::protocol::topic::{TopicFilter, TopicName};

/// The app of stock clients.
const STOCK_APP: &str = "tilechat";
const NOBODY: &str = "no user is named: name one, or log in as them (--username)";

/// A user of an app.
pub(super) struct User {
    pub(super) app: String,
    pub(super) name: String,
    links: LinkSettings,
}

/// An error about a topic, with what it may mean: RabbitMQ closes the connection on what a user
/// may not do, and does so on topics that its permissions do not name.
pub(super) fn not_allowed(links: &LinkSettings, error: LinkError, topic: &str) -> LinkError {
    if !matches!(
        error.cause,
        Cause::Closed | Cause::ClosedOnSubscribe | Cause::NotAuthorized
    ) {
        return error;
    }
    let login = match links.credentials.username() {
        Some(login) => format!("{login:?}"),
        None => "who logs in".to_owned(),
    };
    let text = format!("{error}: may {login} use {topic}? (chat21-observer acl)");
    LinkError::new(error.cause, text)
}

impl User {
    /// `user`, or else the one that the settings log in as. The app is the
    /// first of the settings, or that of stock clients.
    ///
    /// # Errors
    /// If nobody is named, or one of the names is not an identifier.
    pub(super) fn of(user: Option<&str>, config: &Config) -> anyhow::Result<Self> {
        let credentials = &config.broker.credentials;
        let claims = credentials.claims();
        let login = claims.as_ref().and_then(|claims| claims.sub.as_deref());
        let login = login.or_else(|| credentials.username());
        let name = user.or(login).context(NOBODY)?.to_owned();
        user_id("user", &name)?;
        let of_token = claims.filter(|claims| claims.sub.as_ref() == Some(&name));
        let of_token = of_token.and_then(|claims| claims.app_id);
        let first_app = || config.rules.router.layouts.apps().first().cloned();
        let app = of_token.or_else(first_app);
        let app = app.unwrap_or_else(|| STOCK_APP.to_owned());
        app_id(&app)?;
        let links = LinkSettings {
            // Tokens bind a user's sessions to identifiers that begin like this.
            client_id: probe_client_id(&name),
            ..config.visitor_links("user")
        };
        Ok(Self { app, name, links })
    }

    /// Connects, and subscribes to everything the user may read, as the guide tells clients to.
    ///
    /// # Errors
    /// [`LinkError`], if one of the two does not succeed.
    pub(super) async fn connect(&self) -> Result<ProbeClient, LinkError> {
        let mut client = ProbeClient::connect(self.links.clone(), Session::Clean).await?;
        let filter = format!("apps/{}/users/{}/#", self.app, self.name);
        let granted = client
            .subscribe(&[TopicFilter::parse(&filter).expect("made of identifiers")])
            .await
            .map_err(|error| self.not_allowed(error, &filter))?;
        match granted.first() {
            Some(Err(reason)) => {
                let text = format!("the broker refuses the subscription to {filter}: {reason}");
                Err(LinkError::new(Cause::NotAuthorized, text))
            }
            Some(Ok(_)) | None => Ok(client),
        }
    }

    /// See [`not_allowed`].
    pub(super) fn not_allowed(&self, error: LinkError, topic: &str) -> LinkError {
        not_allowed(&self.links, error, topic)
    }

    /// The topic of a message to a user or a group.
    pub(super) fn outgoing(&self, recipient: &str) -> TopicName {
        let Self { app, name, .. } = self;
        let topic = format!("apps/{app}/outgoing/users/{name}/messages/{recipient}/outgoing");
        TopicName::parse(&topic).expect("made of identifiers")
    }

    /// The topic that asks for stored messages.
    pub(super) fn fetch(&self) -> TopicName {
        let topic = self.own("inbox/fetch");
        TopicName::parse(&topic).expect("made of identifiers")
    }

    /// A topic under the user's own path.
    pub(super) fn own(&self, rest: &str) -> String {
        format!("apps/{}/users/{}/{rest}", self.app, self.name)
    }
}
