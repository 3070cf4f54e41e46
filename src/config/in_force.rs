//! The settings in force, for a person to read: each with its value, without secrets, and where
//! that value was given.
//!
//! Owns the masking of secrets. A policy file is not part of the list: it may change at any time.

use std::collections::BTreeMap;

use super::origin::Origin;
use super::reader::{Given, Values};
use super::settings::{Setting, Takes, settings};

/// What stands in place of a secret.
const MASK: &str = "***";
/// Settings whose whole value is a secret.
const SECRETS: [&str; 3] = ["password", "token", "client-id"];
/// Settings with URLs, which may hold a password, or a secret in the query.
pub(super) const URLS: [&str; 5] = [
    "broker",
    "proxy",
    "policy-url",
    "webhook-endpoints",
    "contacts-url",
];

/// A setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The name of the setting: flag and key of the file.
    pub name: &'static str,
    /// Its value with secrets masked, the items of a list separated by commas; `None` if nothing
    /// is set.
    pub value: Option<String>,
    /// Where the value was given.
    pub origin: Origin,
}

/// Every setting, in the order of the table. `instead` holds what is in force where nothing was
/// given and the default depends on other settings.
pub(super) fn in_force(values: &Values, instead: &BTreeMap<&'static str, Given>) -> Vec<InForce> {
    let row = |setting: &'static Setting| {
        let given = values.get(setting.name).filter(|given| is_set(given));
        let (texts, origin) = match given.or_else(|| instead.get(setting.name)) {
            Some(given) => (given.texts.clone(), given.origin.clone()),
            None => (vec![setting.default.to_owned()], Origin::Default),
        };
        InForce {
            name: setting.name,
            value: shown(setting, &texts),
            origin,
        }
    };
    settings().map(row).collect()
}

/// An empty value counts as not given.
fn is_set(given: &Given) -> bool {
    given.texts.iter().any(|text| !text.is_empty())
}

fn shown(setting: &Setting, texts: &[String]) -> Option<String> {
    let text = match setting.takes {
        Takes::List(_) => texts.join(","),
        // Of a flag that is repeated, the last counts.
        Takes::Value(_) | Takes::Switch => texts.last()?.clone(),
    };
    if text.is_empty() {
        return None;
    }
    Some(match setting.name {
        name if SECRETS.contains(&name) => MASK.to_owned(),
        name if URLS.contains(&name) && matches!(setting.takes, Takes::List(_)) => {
            let urls = text.split(',').map(|url| masked_url(name, url.trim()));
            urls.collect::<Vec<String>>().join(",")
        }
        name if URLS.contains(&name) => masked_url(name, &text),
        _ => text,
    })
}

/// The URL without its password and the values in its query. What is no URL is masked altogether.
fn masked_url(name: &str, text: &str) -> String {
    if text.is_empty() || text == "none" {
        return text.to_owned();
    }
    // Without a host, what stands before a `:` may be a user, and what is behind it a password.
    let parsed = url::Url::parse(text).ok().filter(url::Url::has_host);
    let Some(mut url) = parsed else {
        return MASK.to_owned();
    };
    // To other services than the broker and the proxy, the user may be a key.
    let hides_user = !matches!(name, "broker" | "proxy") && !url.username().is_empty();
    if hides_user && (url.set_username(MASK).is_err() || url.set_password(None).is_err()) {
        return MASK.to_owned();
    }
    if url.password().is_some() && url.set_password(Some(MASK)).is_err() {
        return MASK.to_owned();
    }
    // Scheme, host and path as they were written: a parsed URL has a slash at its end.
    if !hides_user && url.password().is_none() && url.query().is_none() && url.fragment().is_none()
    {
        return text.to_owned();
    }
    if url.query().is_some() {
        url.set_query(Some(MASK));
    }
    if url.fragment().is_some() {
        url.set_fragment(Some(MASK));
    }
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::load;

    fn row(config: &crate::config::Config, name: &str) -> (Option<String>, String) {
        let mut rows = config.in_force.iter();
        let row = rows.find(|row| row.name == name).unwrap();
        (row.value.clone(), row.origin.to_string())
    }

    #[test]
    fn no_part_of_a_password_is_shown() {
        for (url, wanted) in [
            ("mqtt://observer:12,b:cd@host", "mqtt://observer:***@host"),
            ("wss://host/mqtt?key=secret", "wss://host/mqtt?***"),
            ("observer:secret", MASK),
        ] {
            assert_eq!(masked_url("broker", url), wanted.replace("***", MASK));
        }
        let broker = crate::config::settings().find(|setting| setting.name == "broker");
        let text = shown(
            broker.unwrap(),
            &["mqtt://observer:12,b:cd@host".to_owned()],
        );
        assert!(!text.unwrap().contains("12"));
    }

    #[test]
    fn each_setting_is_listed_with_where_it_comes_from() {
        let file = "name = \"mine\"\n\n[groups]\nmembership = \"open\"\n";
        let config = load(
            &[("window", "10"), ("app", "a,b")],
            &[
                ("OBSERVER_PUBLISHERS", "2"),
                ("LOG_LEVEL", "debug"),
                ("STATE_DIRECTORY", "/s"),
                ("OBSERVER_CA_FILE", ""),
            ],
            Some(file),
        )
        .unwrap();
        let line = |name: &str| {
            let (value, origin) = row(&config, name);
            let file = origin.rsplit('/').next().unwrap().to_owned();
            (value.unwrap_or_default(), file)
        };
        for (name, value, origin) in [
            ("window", "10", "flag"),
            ("app", "a,b", "flag"),
            ("publishers", "2", "OBSERVER_PUBLISHERS"),
            ("log-level", "debug", "LOG_LEVEL"),
            ("name", "mine", "observer.toml, line 1"),
            ("groups-membership", "open", "observer.toml, line 4"),
            ("max-payload", "1MiB", "default"),
            ("ca-file", "", "default"),
            ("state-dir", "/s", "STATE_DIRECTORY"),
            ("store", "/s/mine.db", "default"),
        ] {
            assert_eq!(line(name), (value.to_owned(), origin.to_owned()), "{name}");
        }
        assert_eq!(config.in_force.len(), settings().count());
    }

    #[test]
    fn no_secret_is_shown() {
        let config = load(
            &[(
                "webhook-endpoints",
                "https://u:geheim@one/hook?key=geheim,http://two/x#geheim",
            )],
            &[
                ("RABBITMQ_URI", "amqp://user:geheim@rabbit"),
                ("OBSERVER_CLIENT_ID", "geheim-and-long-enough"),
                ("OBSERVER_POLICY_URL", "http://localhost:8080/decide"),
                ("OBSERVER_PROXY", "http://p:geheim@proxy:3128"),
            ],
            None,
        )
        .unwrap();
        let value = |name: &str| row(&config, name).0.unwrap_or_default();
        assert_eq!(
            value("webhook-endpoints"),
            "https://***@one/hook?***,http://two/x#***"
        );
        assert_eq!(value("proxy"), "http://p:***@proxy:3128/");
        assert_eq!(value("policy-url"), "http://localhost:8080/decide");
        let hidden = (Some("***".to_owned()), "RABBITMQ_URI".to_owned());
        assert_eq!(row(&config, "password"), hidden);
        assert_eq!(row(&config, "username").0.as_deref(), Some("user"));
        assert_eq!(value("client-id"), MASK);
        let all = format!("{:?}", config.in_force);
        assert!(!all.contains("geheim"), "{all}");
        assert_eq!(masked_url("proxy", "geheim"), MASK);
    }
}
