//! Whose name a request is for, and which page it comes from.
//!
//! Owns reading `Host` and `Origin`. A page of another site whose name leads to a loopback address
//! could read what is served there (DNS rebinding): its requests bear that site's name.

use hyper::HeaderMap;
use hyper::header::HOST;
#[cfg(feature = "demo")]
use hyper::header::ORIGIN;
use url::Host;

/// Whether a request is for a loopback address. One without `Host` comes from no browser.
pub(super) fn is_loopback(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST) else {
        return true;
    };
    let url = host.to_str().map(|host| format!("http://{host}/"));
    let Some(url) = url.ok().and_then(|url| url::Url::parse(&url).ok()) else {
        return false;
    };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Whether a request comes from a page of this server, or from no page at all.
#[cfg(feature = "demo")]
pub(super) fn is_own_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let (origin, host) = (origin.to_str().ok(), headers.get(HOST));
    let host = host.and_then(|host| host.to_str().ok());
    origin
        .and_then(|origin| origin.split_once("://"))
        .is_some_and(|(_, origin)| Some(origin) == host)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn headers(host: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(HOST, HeaderValue::from_static(host))])
    }

    #[test]
    fn only_names_of_this_machine_pass() {
        assert!(is_loopback(&HeaderMap::new()));
        for host in [
            "localhost",
            "localhost:9180",
            "127.0.0.1:9180",
            "127.9.9.9",
            "[::1]:80",
            "LOCALHOST",
        ] {
            assert!(is_loopback(&headers(host)), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example:9180",
            "192.168.0.1",
            "localhost@evil.example",
            "evil.example#localhost",
        ] {
            assert!(!is_loopback(&headers(host)), "{host}");
        }
    }

    #[cfg(feature = "demo")]
    #[test]
    fn only_pages_of_this_server_pass() {
        let mut own = headers("127.0.0.1:8080");
        assert!(is_own_origin(&own));
        own.insert(ORIGIN, HeaderValue::from_static("http://127.0.0.1:8080"));
        assert!(is_own_origin(&own));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8081"] {
            own.insert(ORIGIN, HeaderValue::from_static(origin));
            assert!(!is_own_origin(&own), "{origin}");
        }
    }
}
