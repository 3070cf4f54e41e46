//! Layouts: one way in for a message, and the way out that belongs to it.
//!
//! Owns the built-in layouts and the rules for a custom one (`protocol.md`, section 1). How a
//! template is written is `template`'s part; whether several layouts fit together is decided in
//! `topic_map`.

use strum::{EnumString, VariantNames};

use crate::protocol::id::{AppId, IdError, UserId};
use crate::protocol::proof::check_loops;
use crate::protocol::template::{Names, Side};
use crate::protocol::topic::TopicName;

pub use crate::protocol::template::{CLIENT_REJECTED, Template, TemplateError};

/// What the observer does with a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadMode {
    /// Forwards the same bytes, whatever they are.
    Verbatim,
    /// Reads a JSON object and writes its own fields into it (`protocol.md`, section 3).
    Envelope,
}

/// Whether the sender's own timeline gets a copy of each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SenderCopy {
    /// A copy is published to the sender's own timeline.
    Publish,
    /// Only the recipient gets the message.
    Skip,
}

/// A layout as it is configured, before its templates are checked.
#[derive(Clone, Copy, Debug)]
pub struct LayoutSpec<'a> {
    /// The layout's name, unique by convention only.
    pub name: &'a str,
    /// The template of the topics users write to.
    pub outgoing: &'a str,
    /// The template of the topics the observer writes to.
    pub inbox: &'a str,
    /// What is done with a payload.
    pub payload: PayloadMode,
    /// Whether the sender gets a copy.
    pub sender_copy: SenderCopy,
    /// The tenant, for a layout whose outgoing template has no `{app}`.
    pub app: Option<&'a str>,
}

/// One way in and out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    name: String,
    outgoing: Template,
    inbox: Template,
    /// The inbox template with [`CLIENT_REJECTED`] as its last level.
    rejected: Template,
    /// Where senders are told whose recipient is no identifier, so that it can stand in no topic.
    malformed: Option<Template>,
    payload: PayloadMode,
    sender_copy: SenderCopy,
    app: Option<String>,
}

/// Why a layout cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// One of the two templates breaks a rule.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The outgoing template has no `{app}`, and the layout names no app.
    #[error(
        "layout {layout:?}: template {template:?} has no {{app}}, \
         so the layout must name its app (`app = \"…\"`)"
    )]
    NoApp {
        /// The layout's name.
        layout: String,
        /// The outgoing template.
        template: String,
    },
    /// The app that the layout names is not an identifier.
    #[error(transparent)]
    BadApp(#[from] BadApp),
}

/// A configured app name that is not an identifier.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("app {app:?} {error}")]
pub struct BadApp {
    /// The app as written.
    pub app: String,
    /// The rule it breaks.
    pub error: IdError,
}

impl BadApp {
    /// Checks an app name from the configuration.
    pub(super) fn check(app: &str) -> Result<AppId<'_>, Self> {
        AppId::parse(app).map_err(|error| Self {
            app: app.to_owned(),
            error,
        })
    }
}

/// The layouts that need no configuration.
#[derive(Clone, Copy, EnumString, VariantNames)]
#[strum(serialize_all = "kebab-case")]
enum BuiltIn {
    Inbox,
    Chat21,
    Chat21V1,
}

impl BuiltIn {
    /// The outgoing and the inbox template of each layout of this name.
    fn templates(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // A leading slash is an empty first level: to MQTT these are different topics.
            Self::Inbox => &[
                (
                    "/apps/{app}/users/{sender}/{recipient}/messages/outgoing",
                    "/apps/{app}/users/{recipient}/{sender}/messages/clientadded",
                ),
                (
                    "apps/{app}/users/{sender}/{recipient}/messages/outgoing",
                    "apps/{app}/users/{recipient}/{sender}/messages/clientadded",
                ),
            ],
            Self::Chat21 => &[(
                "apps/{app}/outgoing/users/{sender}/messages/{recipient}/outgoing",
                "apps/{app}/users/{inbox_of}/messages/{convers_with}/clientadded",
            )],
            Self::Chat21V1 => &[(
                "apps/{app}/users/{sender}/messages/{recipient}/outgoing",
                "apps/{app}/users/{inbox_of}/messages/{convers_with}/clientadded",
            )],
        }
    }

    fn handling(self) -> (PayloadMode, SenderCopy) {
        match self {
            Self::Inbox => (PayloadMode::Verbatim, SenderCopy::Skip),
            Self::Chat21 | Self::Chat21V1 => (PayloadMode::Envelope, SenderCopy::Publish),
        }
    }
}

impl Layout {
    /// The names of the built-in layouts.
    pub const BUILT_IN: &'static [&'static str] = BuiltIn::VARIANTS;

    /// Checks a layout.
    ///
    /// # Errors
    /// [`LayoutError`] names the template and the rule it breaks.
    pub fn new(spec: LayoutSpec<'_>) -> Result<Self, LayoutError> {
        let inbox = Template::parse(spec.inbox, Side::Inbox)?;
        let outgoing = Template::parse(spec.outgoing, Side::Outgoing)?;
        match spec.app {
            Some(app) => {
                BadApp::check(app)?;
            }
            None if outgoing.has_app() => {}
            None => {
                return Err(LayoutError::NoApp {
                    layout: spec.name.to_owned(),
                    template: spec.outgoing.to_owned(),
                });
            }
        }
        Ok(Self {
            name: spec.name.to_owned(),
            outgoing,
            rejected: inbox.with_last(CLIENT_REJECTED),
            malformed: inbox.below_inbox(CLIENT_REJECTED),
            inbox,
            payload: spec.payload,
            sender_copy: spec.sender_copy,
            app: spec.app.map(str::to_owned),
        })
    }

    /// The built-in layouts of a name in [`Layout::BUILT_IN`], or `None` for any other name.
    ///
    /// The name `inbox` stands for two layouts, with and without the leading slash.
    pub fn built_in(name: &str) -> Option<Vec<Self>> {
        let built_in: BuiltIn = name.parse().ok()?;
        let (payload, sender_copy) = built_in.handling();
        let layouts = built_in.templates().iter().map(|&(outgoing, inbox)| {
            let spec = LayoutSpec {
                name,
                outgoing,
                inbox,
                payload,
                sender_copy,
                app: None,
            };
            Self::new(spec).expect("the built-in layouts are sound")
        });
        Some(layouts.collect())
    }

    /// The layout's name, as in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is done with a payload.
    pub fn payload(&self) -> PayloadMode {
        self.payload
    }

    /// Whether the sender's own timeline gets a copy.
    pub fn sender_copy(&self) -> bool {
        self.sender_copy == SenderCopy::Publish
    }

    /// The tenant of a layout that serves a single one.
    pub fn fixed_app(&self) -> Option<&str> {
        self.app.as_deref()
    }

    /// The template of the topics users write to.
    pub fn outgoing(&self) -> &Template {
        &self.outgoing
    }

    /// The template of the topics the observer writes to.
    pub fn inbox(&self) -> &Template {
        &self.inbox
    }

    /// The template of the topics on which senders are told of refusals.
    pub(super) fn rejected(&self) -> &Template {
        &self.rejected
    }

    /// The template of the topics on which senders are told that a recipient is no identifier.
    pub(super) fn malformed(&self) -> Option<&Template> {
        self.malformed.as_ref()
    }

    /// Does without that template where what is published there would be read again.
    pub(super) fn prove_malformed(&mut self, read: &[&Template]) {
        self.malformed = self
            .malformed
            .take()
            .filter(|malformed| check_loops(read, std::slice::from_ref(malformed)).is_ok());
    }

    /// The topic on which `inbox_of` receives the messages of their timeline with `convers_with`.
    pub fn inbox_topic(
        &self,
        app: AppId<'_>,
        inbox_of: UserId<'_>,
        convers_with: UserId<'_>,
    ) -> TopicName {
        self.inbox.format(&Names::of(app, inbox_of, convers_with))
    }

    /// The topic on which `sender` is told that their message to `recipient` was refused.
    pub fn rejected_topic(
        &self,
        app: AppId<'_>,
        sender: UserId<'_>,
        recipient: UserId<'_>,
    ) -> TopicName {
        self.rejected.format(&Names::of(app, sender, recipient))
    }
}

#[cfg(test)]
mod tests {
    use crate::protocol::testing::{built_in, custom, outgoing, without_controls};

    use super::*;

    #[test]
    fn the_built_in_layouts_are_answered_where_the_contract_says() {
        let map = built_in(Layout::BUILT_IN);
        for (topic, name, inbox, rejected) in [
            (
                "/apps/tilechat/users/alice/bob/messages/outgoing",
                "inbox",
                "/apps/tilechat/users/bob/alice/messages/clientadded",
                "/apps/tilechat/users/alice/bob/messages/clientrejected",
            ),
            (
                "apps/tilechat/users/alice/bob/messages/outgoing",
                "inbox",
                "apps/tilechat/users/bob/alice/messages/clientadded",
                "apps/tilechat/users/alice/bob/messages/clientrejected",
            ),
            (
                "apps/tilechat/outgoing/users/alice/messages/bob/outgoing",
                "chat21",
                "apps/tilechat/users/bob/messages/alice/clientadded",
                "apps/tilechat/users/alice/messages/bob/clientrejected",
            ),
            (
                "apps/tilechat/users/alice/messages/bob/outgoing",
                "chat21-v1",
                "apps/tilechat/users/bob/messages/alice/clientadded",
                "apps/tilechat/users/alice/messages/bob/clientrejected",
            ),
        ] {
            let got = outgoing(&map, topic);
            assert_eq!(
                (
                    got.layout.name(),
                    got.app.as_str(),
                    got.sender.as_str(),
                    got.recipient.as_str()
                ),
                (name, "tilechat", "alice", "bob")
            );
            assert_eq!(
                got.layout
                    .inbox_topic(got.app, got.recipient, got.sender)
                    .as_str(),
                inbox
            );
            assert_eq!(
                got.layout
                    .rejected_topic(got.app, got.sender, got.recipient)
                    .as_str(),
                rejected
            );
        }
    }

    #[test]
    fn a_faulty_template_is_named_with_its_fault() {
        for (outgoing, inbox, want) in [
            (
                "a/{app}/{from}/{recipient}",
                "b/{app}/{recipient}/{sender}/in",
                "template \"a/{app}/{from}/{recipient}\": \
             {from} is not a level it can have ({app}, {sender}, {recipient})",
            ),
            (
                "a/{app}/{sender}/{recipient}/#",
                "b/{app}/{recipient}/{sender}/in",
                "template \"a/{app}/{sender}/{recipient}/#\": \
             level \"#\" may not hold wildcards, braces or control characters",
            ),
            (
                "a/{app}/{sender}",
                "b/{app}/{recipient}/{sender}/in",
                "template \"a/{app}/{sender}\": {recipient} stands 0 times in it, not once",
            ),
            (
                "a/{app}/{sender}/{recipient}",
                "b/{app}/{recipient}/{sender}",
                "template \"b/{app}/{recipient}/{sender}\": its last level must be plain text, \
             because refusals are sent with \"clientrejected\" in its place",
            ),
            (
                "a/{sender}/{recipient}",
                "b/{recipient}/{sender}/in",
                "layout \"mine\": template \"a/{sender}/{recipient}\" has no {app}, \
             so the layout must name its app (`app = \"…\"`)",
            ),
            (
                "a/x{sender}/{recipient}",
                "b/{recipient}/{sender}/in",
                "template \"a/x{sender}/{recipient}\": \
             level \"x{sender}\" may not hold wildcards, braces or control characters",
            ),
        ] {
            assert_eq!(custom(outgoing, inbox).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn a_layout_without_app_serves_the_one_it_names() {
        let layout = Layout::new(LayoutSpec {
            name: "plain",
            outgoing: "out/{sender}/{recipient}",
            inbox: "in/{recipient}/{sender}/new",
            payload: PayloadMode::Envelope,
            sender_copy: SenderCopy::Publish,
            app: Some("shop"),
        })
        .unwrap();
        let map = without_controls(vec![layout]).unwrap();
        let got = outgoing(&map, "out/alice/bob");
        assert_eq!(
            (
                got.app.as_str(),
                got.layout
                    .inbox_topic(got.app, got.recipient, got.sender)
                    .as_str()
            ),
            ("shop", "in/bob/alice/new")
        );
    }
}
