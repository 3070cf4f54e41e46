//! Variables that look like a setting of the observer and are none.

use super::error::ConfigError;
use super::settings::{names, variable};
use super::suggestion::nearest;

const PREFIX: &str = "OBSERVER_";
/// Variables that are no settings: the one that names the file, and one of `demo`.
const OTHERS: [&str; 2] = ["OBSERVER_CONFIG", "OBSERVER_DEMO_LISTEN"];
/// Parts of the variables that Kubernetes and Docker make for a service called `observer`, or
/// `observer-` and more.
const OF_SERVICES: [&str; 3] = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"];

/// The mistakes among variables of these names: each that is no setting, with the one that is
/// probably meant.
pub fn unknown_variables(found: impl Iterator<Item = String>) -> Vec<ConfigError> {
    let is_setting = |name: &str| names().any(|setting| variable(setting) == name);
    let known = |name: &str| OTHERS.contains(&name) || is_setting(name);
    let mut unknown: Vec<ConfigError> = found
        .filter(|name| name.starts_with(PREFIX) && !known(name) && !is_of_service(name))
        .map(|name| {
            let meant = nearest(&name[PREFIX.len()..], names());
            let meant = meant.map(|near| format!(" (is {} meant?)", variable(near)));
            ConfigError {
                fault: format!("is not a setting{}", meant.unwrap_or_default()),
                place: name,
            }
        })
        .collect();
    unknown.sort_by(|one, other| one.place.cmp(&other.place));
    unknown
}

fn is_of_service(name: &str) -> bool {
    name == "OBSERVER_PORT" || OF_SERVICES.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_variable_is_named_with_the_nearest() {
        let names = [
            "OBSERVER_PASSWROD",
            "OBSERVER_BROKER",
            "OBSERVER_CONFIG",
            "OBSERVER_FLAVOUR",
            "PATH",
            "JWT_KEY",
            "METRICS_PORT",
            "OBSERVER_PORT",
            "OBSERVER_SERVICE_HOST",
            "OBSERVER_PORT_9180_TCP_ADDR",
        ];
        let found = unknown_variables(names.iter().map(|name| (*name).to_owned()));
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "OBSERVER_FLAVOUR: is not a setting",
                "OBSERVER_PASSWROD: is not a setting (is OBSERVER_PASSWORD meant?)",
            ]
        );
    }
}
