//! The console: a page that shows how the observer is and what becomes of messages, and `/status`,
//! which says the same in JSON.
//!
//! Owns who may see what, and the headers of its answers. Leaves connections to
//! [`server`](crate::http::server), and the figures and lines to [`telemetry`](crate::telemetry).

mod assets;
mod events;
mod host;
mod status;

use std::convert::Infallible;
use std::net::SocketAddr;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{HeaderMap, Response, StatusCode};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use crate::telemetry::clock::{Clock, Now};
use crate::telemetry::feed::Feed;
use crate::telemetry::health::{Fault, Health};

/// The body of an answer.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Nothing from elsewhere, nothing inline, and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The value of `--console`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Messages and settings are shown on a loopback address alone; elsewhere health and figures.
    #[default]
    Auto,
    /// Messages and settings are shown wherever it listens.
    On,
    /// There is no console.
    Off,
}

/// A setting as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownSetting {
    /// Its name.
    pub name: &'static str,
    /// Its value, secrets masked; `None` if it is not set and has no default.
    pub value: Option<String>,
    /// `flag`, `environment`, `file` or `default`.
    pub origin: &'static str,
    /// The variable, or the file and the line in it; `None` for a flag and a default.
    pub place: Option<String>,
}

/// What an operator decides about the console.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Who may see what.
    pub access: Access,
    /// Every setting, to be shown.
    pub in_force: Vec<ShownSetting>,
    /// The broker's address as it may be shown.
    pub broker: String,
    /// The TCP address of a broker for the page `/chat`, which reaches it over `/mqtt`.
    #[cfg(feature = "demo")]
    pub chat: Option<SocketAddr>,
}

/// What the console shows, and of whom.
#[derive(Clone, Debug)]
pub struct Console {
    settings: Settings,
    /// The observer's public name.
    name: String,
    /// The names of the webhooks' endpoints.
    endpoints: Vec<String>,
    is_loopback: bool,
    began: Now,
    clock: Clock,
    health: Health,
    metrics: Metrics,
    feed: Feed,
    stop: CancellationToken,
}

/// What the console is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What the operator decides.
    pub settings: Settings,
    /// The observer's public name.
    pub name: &'a str,
    /// The names of the webhooks' endpoints.
    pub endpoints: Vec<String>,
    /// When the observer started.
    pub began: Now,
    /// Whether messages pass.
    pub health: Health,
    /// What is counted.
    pub metrics: Metrics,
    /// The lines of trace.
    pub feed: Feed,
    /// Ends the live lists.
    pub stop: CancellationToken,
}

/// An answer to a request.
#[derive(Debug)]
pub enum Answer {
    /// A response as any other.
    Response(Response<Body>),
    /// A response that goes on until somebody ends it.
    Live(Response<Body>),
    /// The connection becomes one to the broker at this address.
    #[cfg(feature = "demo")]
    Bridge(SocketAddr),
}

impl Console {
    /// The console on a listener of that address.
    pub fn new(parts: Parts<'_>, listens_on: SocketAddr) -> Self {
        Self {
            settings: parts.settings,
            name: parts.name.to_owned(),
            endpoints: parts.endpoints,
            is_loopback: listens_on.ip().to_canonical().is_loopback(),
            began: parts.began,
            clock: Clock,
            health: parts.health,
            metrics: parts.metrics,
            feed: parts.feed,
            stop: parts.stop,
        }
    }

    /// Everything that keeps messages from passing. The words name the broker, its user and where
    /// the password stands: where others may listen, only what is at fault is named.
    pub fn faults(&self) -> Vec<String> {
        let faults = self.health.faults();
        let may_know = self.is_loopback || self.settings.access == Access::On;
        let told = |fault: Fault| match may_know {
            true => fault.to_string(),
            false => format!("{}: the log says why", fault.part),
        };
        faults.into_iter().map(told).collect()
    }

    /// All metrics, for Prometheus.
    pub fn metrics_text(&self) -> String {
        self.metrics.ready(self.health.faults().is_empty());
        self.metrics.text()
    }

    /// Answers a GET or HEAD of this path; `None` if it is not the console's.
    pub fn answer(&self, path: &str, headers: &HeaderMap) -> Option<Answer> {
        if self.settings.access == Access::Off {
            return None;
        }
        let asset = assets::find(path).filter(|asset| !asset.is_chat || self.has_chat());
        let is_own = asset.is_some()
            || matches!(path, "/status" | "/events")
            || (path == "/mqtt" && self.has_chat());
        if !is_own {
            return None;
        }
        if self.is_loopback && !host::is_loopback(headers) {
            let text = "this address is for this machine alone: ask for localhost or 127.0.0.1\n";
            return Some(plain(StatusCode::MISDIRECTED_REQUEST, text));
        }
        if let Some(asset) = asset {
            return Some(Answer::Response(self.page(asset)));
        }
        Some(match path {
            "/status" => Answer::Response(self.json(self.status_text())),
            #[cfg(feature = "demo")]
            "/mqtt" => self.bridge(headers),
            _ if !self.shows_messages() => plain(StatusCode::FORBIDDEN, NOT_SHOWN),
            _ => match self.feed.listen() {
                Some(listener) => {
                    let body = events::body(listener, self.stop.clone());
                    Answer::Live(dressed(response(body), "text/event-stream", "no-store"))
                }
                None => plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many pages show messages already: close one\n",
                ),
            },
        })
    }

    /// Whether messages and settings may be shown here.
    fn shows_messages(&self) -> bool {
        match self.settings.access {
            Access::Auto => self.is_loopback,
            Access::On => true,
            Access::Off => false,
        }
    }

    #[cfg(feature = "demo")]
    fn has_chat(&self) -> bool {
        self.settings.chat.is_some()
    }

    #[cfg(not(feature = "demo"))]
    #[expect(clippy::unused_self, reason = "the same where there is a chat")]
    fn has_chat(&self) -> bool {
        false
    }

    /// Another site's page could open a WebSocket here: browsers forbid that only if the server
    /// does.
    #[cfg(feature = "demo")]
    fn bridge(&self, headers: &HeaderMap) -> Answer {
        match self.settings.chat {
            Some(broker) if host::is_own_origin(headers) => Answer::Bridge(broker),
            Some(_) | None => plain(StatusCode::FORBIDDEN, "this is for the page /chat alone\n"),
        }
    }

    fn page(&self, asset: &assets::Asset) -> Response<Body> {
        let text = Bytes::from_static(asset.text.as_bytes());
        dressed(response(full(text)), asset.content_type, "no-cache")
    }

    fn json(&self, text: String) -> Response<Body> {
        let body = full(Bytes::from(text));
        dressed(response(body), "application/json", "no-store")
    }
}

const NOT_SHOWN: &str = "messages are shown on a loopback address alone (--console on)\n";

/// A body that is there at once.
pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).boxed_unsync()
}

fn response(body: Body) -> Response<Body> {
    Response::new(body)
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let body = full(Bytes::from_static(text.as_bytes()));
    let mut response = dressed(response(body), "text/plain; charset=utf-8", "no-store");
    *response.status_mut() = status;
    Answer::Response(response)
}

/// An answer with the headers that all of the console have.
fn dressed(
    mut response: Response<Body>,
    content_type: &'static str,
    cache: &'static str,
) -> Response<Body> {
    let corp = HeaderName::from_static("cross-origin-resource-policy");
    for (name, value) in [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, cache),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (corp, "same-origin"),
    ] {
        let value = HeaderValue::from_static(value);
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Console {
        /// A console on 127.0.0.1 of an observer that is not connected.
        pub(in crate::http) fn for_tests() -> Self {
            let parts = Parts {
                settings: Settings::default(),
                name: "observer",
                endpoints: vec![],
                began: Clock.now(),
                health: Health::new(vec!["0".to_owned()]),
                metrics: Metrics::new(&[]),
                feed: Feed::default(),
                stop: CancellationToken::new(),
            };
            Self::new(parts, SocketAddr::from(([127, 0, 0, 1], 9180)))
        }
    }

    fn status(console: &Console, path: &str) -> Option<u16> {
        match console.answer(path, &HeaderMap::new())? {
            Answer::Response(response) | Answer::Live(response) => Some(response.status().into()),
            #[cfg(feature = "demo")]
            Answer::Bridge(_) => Some(101),
        }
    }

    #[test]
    fn where_others_may_listen_a_fault_names_no_user() {
        let mut console = Console::for_tests();
        let fault = "mqtt://b refuses user \"observer\": wrong password? (from a file)";
        console.health.set_session(Some(fault.to_owned()));
        assert!(console.faults().join(" ").contains("observer"));
        console.is_loopback = false;
        assert_eq!(console.faults()[0], "session: the log says why");
        assert!(!console.status_text().contains("refuses"));
        console.settings.access = Access::On;
        assert!(console.status_text().contains("refuses"));
    }

    #[test]
    fn messages_and_settings_are_shown_on_loopback_or_when_asked_for() {
        for (access, listens_on, page, events) in [
            (Access::Auto, [127, 0, 0, 1], Some(200), Some(200)),
            (Access::Auto, [0, 0, 0, 0], Some(200), Some(403)),
            (Access::Auto, [10, 0, 0, 1], Some(200), Some(403)),
            (Access::On, [0, 0, 0, 0], Some(200), Some(200)),
            (Access::Off, [127, 0, 0, 1], None, None),
        ] {
            let mut console = Console::for_tests();
            console.settings.access = access;
            console.is_loopback = std::net::Ipv4Addr::from(listens_on).is_loopback();
            let case = format!("{access:?} {listens_on:?}");
            assert_eq!(status(&console, "/"), page, "{case}");
            assert_eq!(status(&console, "/status"), page, "{case}");
            assert_eq!(status(&console, "/events"), events, "{case}");
            let settings = console.status_text().contains("\"settings\":[");
            assert_eq!(settings, events == Some(200), "{case}");
            assert_eq!(status(&console, "/nothing"), None, "{case}");
            assert_eq!(status(&console, "/chat"), None, "{case}");
            assert_eq!(status(&console, "/mqtt"), None, "{case}");
        }
    }

    #[test]
    fn listeners_are_bounded_and_end_with_the_observer() {
        let console = Console::for_tests();
        let open = || console.answer("/events", &HeaderMap::new());
        let mut live = vec![];
        while let Some(Answer::Live(response)) = open() {
            live.push(response);
        }
        assert_eq!((live.len(), status(&console, "/events")), (16, Some(503)));
        drop(live.pop());
        assert_eq!(status(&console, "/events"), Some(200));
    }
}
