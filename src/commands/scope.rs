//! Which settings each command uses: those are its flags, and it ignores all others.
//!
//! Owns the lists, and where a command looks when nobody says which observer is meant. Names and
//! meaning of the settings are the business of `config`.

use crate::config::{Setting, settings};

/// The settings of a command.
pub(super) trait Scope {
    /// Headings whose settings are all used.
    const GROUPS: &'static [&'static str] = &[];
    /// Further settings that are used.
    const NAMES: &'static [&'static str] = &[];
    /// Settings that are used if a file or a variable gives them, and have no flag here.
    const WITHOUT_FLAG: &'static [&'static str] = &[];
    /// The flags that `-h` shows.
    const COMMON: &'static [&'static str];
    /// Whether `-v` asks for more of the log.
    const VERBOSE_LOG: bool = true;
    /// Whether to warn of variables that are no settings.
    const WARNS_OF_VARIABLES: bool = false;
    /// What happens if nobody says which observer is meant.
    const SERVICE: Service = Service::Ignored;
}

/// Where a command looks for the observer that runs as a service of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    /// Nowhere: it has the settings that it is given.
    Ignored,
    /// In the service's settings, unless one of these is given.
    SettingsUnless(&'static [&'static str]),
    /// In the usual place of the store, and then in the service's settings and directory.
    Store(Missing),
}

/// What it means that there is no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    IsAnError,
    /// The command makes it.
    IsMade,
}

/// What a log needs.
const LOG: &[&str] = &["log-format", "log-level"];

/// All settings: `run`, `config`.
#[derive(Debug)]
pub(super) struct Everything;

impl Scope for Everything {
    const GROUPS: &'static [&'static str] = &[
        "Broker",
        "Login and TLS",
        "Messages",
        "Groups",
        "Policy",
        "Webhooks",
        "Store",
        "API",
        "Observability",
        "Tuning",
    ];
    const COMMON: &'static [&'static str] = &[
        "broker",
        "username",
        "password-file",
        "ca-file",
        "app",
        "store",
        "http-listen",
        "api-listen",
        "log-level",
    ];
    const WARNS_OF_VARIABLES: bool = true;
}

/// All settings, where `-v` asks for more of the result: `check`.
#[derive(Debug)]
pub(super) struct Verdict;

impl Scope for Verdict {
    const GROUPS: &'static [&'static str] = Everything::GROUPS;
    const COMMON: &'static [&'static str] = Everything::COMMON;
    const VERBOSE_LOG: bool = false;
    const WARNS_OF_VARIABLES: bool = true;
}

/// A connection beside the observer's: `watch`.
#[derive(Debug)]
pub(super) struct Connection;

impl Scope for Connection {
    const GROUPS: &'static [&'static str] = &["Login and TLS"];
    const NAMES: &'static [&'static str] = &[
        "broker",
        "protocol",
        "proxy",
        "name",
        "connect-timeout",
        "app",
        "layouts",
        LOG[0],
        LOG[1],
    ];
    const WARNS_OF_VARIABLES: bool = true;
    const COMMON: &'static [&'static str] =
        &["broker", "username", "password-file", "ca-file", "name"];
    const SERVICE: Service = Service::SettingsUnless(&["broker"]);
}

/// A connection as a user of an app: `send`, `inbox`.
#[derive(Debug)]
pub(super) struct UserConnection;

impl Scope for UserConnection {
    const GROUPS: &'static [&'static str] = Connection::GROUPS;
    const NAMES: &'static [&'static str] = &[
        "broker",
        "protocol",
        "proxy",
        "connect-timeout",
        "app",
        LOG[0],
        LOG[1],
    ];
    const WARNS_OF_VARIABLES: bool = true;
    const COMMON: &'static [&'static str] = &["broker", "username", "password-file", "app"];
}

/// Connections as many users of an app: `bench`.
#[derive(Debug)]
pub(super) struct LoadConnection;

impl Scope for LoadConnection {
    const GROUPS: &'static [&'static str] = UserConnection::GROUPS;
    const NAMES: &'static [&'static str] = UserConnection::NAMES;
    const WARNS_OF_VARIABLES: bool = true;
    const COMMON: &'static [&'static str] = &["broker", "username", "password-file"];
}

/// What decides what becomes of a message: `explain`.
#[derive(Debug)]
pub(super) struct Decisions;

impl Scope for Decisions {
    const GROUPS: &'static [&'static str] = &["Messages", "Groups", "Policy", "Webhooks"];
    const NAMES: &'static [&'static str] = &[
        "broker-kind",
        "name",
        "store",
        "store-password-file",
        "state-dir",
    ];
    const COMMON: &'static [&'static str] = &["app", "layouts", "policy-file", "store"];
}

/// The place of the store: `store`, `block`, `webhook` and most of `group`.
#[derive(Debug)]
pub(super) struct StorePlace;

impl Scope for StorePlace {
    const NAMES: &'static [&'static str] = &["store", "store-password-file", "state-dir", "name"];
    const COMMON: &'static [&'static str] = &["store", "state-dir"];
    const SERVICE: Service = Service::Store(Missing::IsAnError);
}

/// The place of a store that may have to be made: `store import`.
#[derive(Debug)]
pub(super) struct NewStore;

impl Scope for NewStore {
    const NAMES: &'static [&'static str] = StorePlace::NAMES;
    const COMMON: &'static [&'static str] = StorePlace::COMMON;
    const SERVICE: Service = Service::Store(Missing::IsMade);
}

/// The place of the store, the limits of a group, and a connection: the commands of `group` that
/// change one.
#[derive(Debug)]
pub(super) struct GroupChange;

impl Scope for GroupChange {
    const GROUPS: &'static [&'static str] = Connection::GROUPS;
    const NAMES: &'static [&'static str] = &[
        "store",
        "store-password-file",
        "state-dir",
        "max-recipients",
        "policy-file",
        "broker-kind",
        "contacts-url",
        "broker",
        "protocol",
        "proxy",
        "name",
        "connect-timeout",
    ];
    /// A policy file is read as a whole, and must fit what it is laid over.
    const WITHOUT_FLAG: &'static [&'static str] = &["max-payload"];
    const COMMON: &'static [&'static str] = &["store", "state-dir", "broker", "username"];
    const SERVICE: Service = Service::Store(Missing::IsAnError);
}

/// What an ACL is made of: `acl`.
#[derive(Debug)]
pub(super) struct Access;

impl Scope for Access {
    const NAMES: &'static [&'static str] = &[
        "app",
        "layouts",
        "presence-enabled",
        "store",
        "state-dir",
        "broker",
        "username",
        "jwt-key-file",
        "jwt-algorithm",
        "jwt-key-id",
        "jwt-audience",
        "window",
        "session-expiry",
    ];
    const WITHOUT_FLAG: &'static [&'static str] = &["name"];
    const COMMON: &'static [&'static str] = &["app", "layouts", "username"];
}

/// What the sessions of observers on one database are called, and what they get: `slots`.
#[derive(Debug)]
pub(super) struct Sessions;

impl Scope for Sessions {
    const NAMES: &'static [&'static str] = &[
        "store",
        "store-password-file",
        "slots",
        "sharing",
        "name",
        "client-id",
        "app",
        "layouts",
        "presence-enabled",
        "session-expiry",
    ];
    /// The layouts may be in a file only, and some topics are read only where there is a store.
    const WITHOUT_FLAG: &'static [&'static str] = &["state-dir", "reset-session", "store-lease"];
    const COMMON: &'static [&'static str] = &["store", "slots", "sharing"];
    const SERVICE: Service = Service::SettingsUnless(&["store"]);
}

/// The key that signs tokens, and the topics they are for: `token`.
#[derive(Debug)]
pub(super) struct Tokens;

impl Scope for Tokens {
    const NAMES: &'static [&'static str] = &[
        "jwt-key-file",
        "jwt-algorithm",
        "jwt-key-id",
        "jwt-audience",
        "layouts",
        "presence-enabled",
        "store",
        "state-dir",
    ];
    const WITHOUT_FLAG: &'static [&'static str] = &["app", "name"];
    const COMMON: &'static [&'static str] = &["jwt-key-file"];
}

/// Where a running observer answers: `health`.
#[derive(Debug)]
pub(super) struct Endpoint;

impl Scope for Endpoint {
    const NAMES: &'static [&'static str] = &["http-listen"];
    const COMMON: &'static [&'static str] = &["http-listen"];
    const SERVICE: Service = Service::SettingsUnless(&["http-listen"]);
}

/// The flags of a scope, with the headings they stand under.
pub(super) fn flags<S: Scope>() -> impl Iterator<Item = (&'static str, &'static Setting)> {
    crate::config::GROUPS.iter().flat_map(|group| {
        let all = S::GROUPS.contains(&group.heading);
        let wanted = move |setting: &&Setting| all || S::NAMES.contains(&setting.name);
        group
            .settings
            .iter()
            .filter(wanted)
            .map(|setting| (group.heading, setting))
    })
}

/// Whether a scope uses a setting, with or without a flag.
pub(super) fn uses<S: Scope>(name: &str) -> bool {
    S::WITHOUT_FLAG.contains(&name) || flags::<S>().any(|(_, setting)| setting.name == name)
}

/// Whether there is a setting of that name.
pub(super) fn is_setting(name: &str) -> bool {
    settings().any(|setting| setting.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<S: Scope>(count: usize) {
        let names: Vec<&str> = flags::<S>().map(|(_, setting)| setting.name).collect();
        assert_eq!(names.len(), count, "{names:?}");
        let headings: Vec<&str> = crate::config::GROUPS
            .iter()
            .map(|group| group.heading)
            .collect();
        assert!(S::GROUPS.iter().all(|group| headings.contains(group)));
        for name in S::NAMES.iter().chain(S::WITHOUT_FLAG) {
            assert!(is_setting(name), "{name}");
        }
        for name in S::COMMON {
            assert!(names.contains(name), "{name}");
        }
    }

    #[test]
    fn every_name_of_a_scope_is_a_setting() {
        check::<Everything>(settings().count());
        check::<Connection>(23);
        check::<UserConnection>(21);
        check::<LoadConnection>(21);
        check::<Decisions>(37);
        check::<StorePlace>(4);
        check::<NewStore>(4);
        check::<GroupChange>(26);
        check::<Access>(13);
        check::<Sessions>(10);
        check::<Tokens>(8);
        check::<Endpoint>(1);
    }
}
