//! The section of the HTTP API: where it is served, to whom, and what its tokens are signed with.
//!
//! Owns reading these settings, and the variables that chat21-http-server has for the same. What
//! the API answers is the business of `http/api`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::http::parse_listen;
use super::origin::Origin;
use super::reader::Reader;
use super::rules::RulesSection;
use super::values::{ValueError, parse_size};
use crate::auth::secret::Secret;
use crate::auth::verify::{Lifetime, Verifier};
use crate::http::api::{Limits, Settings};
use crate::store::{StoreLocation, StoreSettings};

const NO_STORE: &str = "the API reads from the store, and there is none (--store none)";
const NO_KEY: &str = "the API needs the key that clients' tokens are signed with: give \
    --api-jwt-key-file or --jwt-key-file";
const BASE: &str = "is no path such as /api: it begins with a slash, has no ?, # or {, and none of \
    its parts begins with : or *";
const ORIGIN: &str = "is no origin such as https://chat.example.com or capacitor://localhost, nor \
    null, nor *";

/// Variables of chat21-http-server.
const PORT: &str = "PORT";
const BASE_URL: &str = "BASEURL";
const JWT_KEY: &str = "JWT_KEY";

/// The least that requests and answers may hold.
const LEAST_MEMORY: u64 = 1 << 20;

#[derive(Debug, thiserror::Error)]
enum MemoryError {
    #[error(transparent)]
    Size(ValueError),
    #[error("{0:?} is less than 1MiB")]
    TooSmall(String),
}

/// The text does not repeat the URL, which may hold a secret.
#[derive(Debug, thiserror::Error)]
#[error("is not a URL such as http://localhost:3000/users_util")]
struct UrlError;

/// How the API is served; `None` if it is not, and after a mistake.
pub(super) fn read(
    reader: &mut Reader<'_>,
    store: Option<&StoreSettings>,
    rules: Option<&RulesSection>,
    contacts: Option<reqwest::Url>,
) -> Option<Settings> {
    let secret = take_variables(reader);
    let listen = reader.parse("api-listen", parse_listen)?;
    let base = reader.text("api-base").unwrap_or_default();
    let base = base.trim_end_matches('/').to_owned();
    if !is_base(&base) {
        reader.fail("api-base", format!("{base:?} {BASE}"));
    }
    let origins = read_origins(reader);
    let lifetime = match reader.switch("api-allow-no-exp") {
        true => Lifetime::Any,
        false => Lifetime::Limited,
    };
    let limits = read_limits(reader);
    let listen = listen?;
    let location = store.map(|store| &store.location);
    let Some(location) = location.filter(|location| **location != StoreLocation::Memory) else {
        reader.fail("api-listen", NO_STORE);
        return None;
    };
    let verifier = match secret {
        Some(secret) => match Verifier::parse(&secret, lifetime) {
            Ok(verifier) => Ok((JWT_KEY.to_owned(), verifier)),
            Err(fault) => {
                reader.fail_at(JWT_KEY.to_owned(), fault);
                Err(())
            }
        },
        None => read_key(reader, lifetime),
    };
    let (place, verifier) = verifier.ok()?;
    // Of the key that signs the observer's own tokens that is said anyway.
    if let Some(weakness) = verifier.weakness().filter(|_| place != "--jwt-key-file") {
        reader.warn(format!("{place}: {weakness}"));
    }
    Some(Settings {
        listen,
        base,
        verifier,
        origins,
        max_body: rules?.max_payload_bytes(),
        limits,
        store: location.clone(),
        layouts: rules?.router.layouts.clone(),
        contacts,
    })
}

/// The operator's directory of users, if there is one.
pub(super) fn read_contacts(reader: &mut Reader<'_>) -> Option<reqwest::Url> {
    reader.parse("contacts-url", |text| match reqwest::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(url),
        Ok(_) | Err(_) => Err(UrlError),
    })
}

fn read_limits(reader: &mut Reader<'_>) -> Limits {
    let second = Duration::from_secs(1);
    let hour = Duration::from_secs(3_600);
    let memory = reader.parse("api-max-memory", |text| match parse_size(text) {
        Ok(bytes) if bytes >= LEAST_MEMORY => Ok(bytes),
        Ok(_) => Err(MemoryError::TooSmall(text.to_owned())),
        Err(error) => Err(MemoryError::Size(error)),
    });
    let connections = reader.number("api-max-connections", 1..=u16::MAX);
    Limits {
        connections: connections.into(),
        memory: memory.map_or(0, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        head: reader.duration("api-head-timeout", second..=hour),
        whole: reader.duration("api-request-timeout", second..=hour),
        idle: reader.duration("api-idle-timeout", second..=hour),
    }
}

/// Reads the key file of the API, or else the one that signs the observer's own tokens. Says which.
fn read_key(reader: &mut Reader<'_>, lifetime: Lifetime) -> Result<(String, Verifier), ()> {
    let names = ["api-jwt-key-file", "jwt-key-file"];
    let found = names
        .into_iter()
        .find_map(|name| Some((name, reader.text(name)?)));
    let Some((name, file)) = found else {
        reader.fail("api-listen", NO_KEY);
        return Err(());
    };
    let text = match std::fs::read_to_string(Path::new(&file)) {
        Ok(text) => Secret::new(text),
        Err(error) => {
            reader.fail(name, format!("cannot read {file}: {error}"));
            return Err(());
        }
    };
    match Verifier::parse(&text, lifetime) {
        Ok(verifier) => Ok((format!("--{name}"), verifier)),
        Err(fault) => {
            reader.fail(name, format!("{file} {fault}"));
            Err(())
        }
    }
}

/// Takes the variables of chat21-http-server, and says so. `PORT` is a common name: it turns the
/// API on only together with `JWT_KEY`, whose text is returned.
fn take_variables(reader: &mut Reader<'_>) -> Option<Secret> {
    if !reader.uses("api-listen") {
        return None;
    }
    let secret = reader.variable(JWT_KEY);
    let port = reader
        .variable(PORT)
        .filter(|_| secret.is_some() && !reader.is_given("api-listen"));
    let by_port = port.is_some();
    if let Some(port) = port {
        let all = port
            .parse()
            .map(|port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let listen = all.map_or(port, |all| all.to_string());
        reader.warn(format!(
            "{PORT} and {JWT_KEY} of chat21-http-server are set: the HTTP API is served on \
             {listen} (--api-listen)"
        ));
        reader.set_variable("api-listen", listen, PORT);
    }
    if !reader.is_given("api-listen") {
        return None;
    }
    if let (Some(_), Some(base), false) = (
        &secret,
        reader.variable(BASE_URL),
        reader.is_given("api-base"),
    ) {
        reader.warn(format!(
            "{BASE_URL} of chat21-http-server is set: the HTTP API is served below {base} \
             (--api-base)"
        ));
        reader.set_variable("api-base", base, BASE_URL);
    }
    let secret = secret.filter(|_| !reader.is_given("api-jwt-key-file"))?;
    if !by_port {
        reader.warn(format!(
            "{JWT_KEY} of chat21-http-server is set: the HTTP API takes the tokens that are signed \
             with its text (--api-jwt-key-file gives another key)"
        ));
    }
    let shown = "(the text of the variable)".to_owned();
    reader.note(
        "api-jwt-key-file",
        shown,
        Origin::Variable(JWT_KEY.to_owned()),
    );
    Some(Secret::new(secret))
}

fn is_base(base: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '{' | '}' | '%');
    // The router takes these parts for parameters.
    let is_parameter = |part: &str| part.starts_with([':', '*']);
    base.is_empty()
        || (base.starts_with('/')
            && base.chars().all(is_plain)
            && !base.split('/').any(is_parameter))
}

fn read_origins(reader: &mut Reader<'_>) -> Option<Vec<String>> {
    let origins = reader.texts("api-cors-origin");
    if origins.iter().any(|origin| origin == "*") {
        return None;
    }
    for origin in &origins {
        if !is_origin(origin) {
            reader.fail("api-cors-origin", format!("{origin:?} {ORIGIN}"));
        }
    }
    Some(origins)
}

/// Whether a browser, a page in a file (`null`), or the web view of an app may send this.
fn is_origin(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else {
        return text == "null";
    };
    let origin = url.origin();
    if origin.is_tuple() {
        return origin.ascii_serialization() == text;
    }
    // Such as capacitor://localhost: the standard gives schemes of apps no form of their own.
    let host = url.host_str().filter(|host| !host.is_empty());
    host.is_some_and(|host| {
        let port = url.port().map(|port| format!(":{port}"));
        text == format!("{}://{host}{}", url.scheme(), port.unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use crate::config::testing::load;

    fn faults(flags: &[(&'static str, &str)]) -> Vec<String> {
        load(flags, &[("STATE_DIRECTORY", "/s")], None).unwrap_err()
    }

    #[test]
    fn the_api_is_off_unless_it_is_asked_for() {
        let state = ("STATE_DIRECTORY", "/s");
        let api = |env: &[(&str, &str)]| load(&[], env, None).unwrap().api;
        assert!(api(&[state]).is_none());
        assert!(api(&[state, ("PORT", "8004")]).is_none(), "a common name");
        assert!(api(&[state, ("JWT_KEY", "x")]).is_none());
        let on = api(&[state, ("PORT", "8004"), ("JWT_KEY", "a key of a stranger")]).unwrap();
        assert_eq!(on.listen.to_string(), "0.0.0.0:8004");
        assert_eq!((&*on.base, on.origins), ("/api", None));
    }

    #[test]
    fn what_the_api_cannot_do_without_is_named() {
        let on = ("api-listen", "8004");
        assert!(faults(&[on])[0].contains("--api-jwt-key-file"));
        assert!(faults(&[on, ("store", "none")])[0].contains("--store none"));
        let key = ("api-jwt-key-file", "/nowhere");
        assert!(faults(&[on, key])[0].contains("cannot read /nowhere"));
        assert!(faults(&[("api-base", "api")])[0].contains("no path such as /api"));
        assert!(faults(&[("api-base", "/a/:b")])[0].contains("begins with :"));
        let origins = "https://a.example/,https://b.example,capacitor://localhost/,a:b,null,\
                       capacitor://localhost,ionic://localhost:81";
        let faults = faults(&[("api-cors-origin", origins)]);
        let wrong = ["https://a.example/", "capacitor://localhost/", "a:b"];
        assert_eq!(faults.len(), wrong.len(), "{faults:?}");
        for (fault, wrong) in faults.iter().zip(wrong) {
            assert!(fault.contains(&format!("{wrong:?}")), "{fault}");
        }
    }

    #[test]
    fn what_the_environment_sets_is_said_and_so_is_a_key_that_everybody_knows() {
        let warnings = |env: &[(&str, &str)]| {
            let env: Vec<_> = [("STATE_DIRECTORY", "/s")]
                .iter()
                .chain(env)
                .copied()
                .collect();
            load(&[], &env, None).unwrap().warnings
        };
        let key = ("JWT_KEY", "a key of a stranger, and long enough");
        let port = ("PORT", "8004");
        let said = warnings(&[port, key, ("BASEURL", "/chat")]);
        assert!(
            said.len() == 2 && said[0].contains("PORT and JWT_KEY"),
            "{said:?}"
        );
        assert!(said[1].contains("below /chat (--api-base)"), "{said:?}");
        let said = warnings(&[("OBSERVER_API_LISTEN", "8004"), key]);
        assert!(
            said.len() == 1 && said[0].starts_with("JWT_KEY of"),
            "{said:?}"
        );
        let said = warnings(&[port, ("JWT_KEY", "tokenKey")]);
        assert!(said[1].starts_with("JWT_KEY: "), "{said:?}");
    }
}
