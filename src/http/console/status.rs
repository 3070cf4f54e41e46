//! `/status`: what the console shows, in JSON.
//!
//! Owns its form. Members are added, and none is renamed or removed.

use serde::Serialize;

use super::{Console, ShownSetting};
use crate::telemetry::figures::Figures;

#[derive(Serialize)]
struct Status<'a> {
    name: &'a str,
    version: &'static str,
    /// Whether messages pass.
    ready: bool,
    /// Why they do not.
    faults: Vec<String>,
    /// In milliseconds since 1970.
    started_at: u64,
    uptime_seconds: u64,
    broker: Broker<'a>,
    figures: Figures,
    /// Whether `/events` is served here.
    events: bool,
    /// Whether there is a page `/chat`.
    chat: bool,
    /// `None` where they are not to be seen.
    settings: Option<&'a [ShownSetting]>,
}

#[derive(Serialize)]
struct Broker<'a> {
    address: &'a str,
    /// The version of MQTT; `None` before the first connection.
    protocol: Option<String>,
    /// `new` or `resumed`; `None` before the first connection.
    session: Option<&'static str>,
}

impl Console {
    pub(super) fn status_text(&self) -> String {
        let faults = self.faults();
        let now = self.clock.now().instant;
        let connected = self.health.connected();
        let shows = self.shows_messages();
        let status = Status {
            name: &self.name,
            version: env!("CARGO_PKG_VERSION"),
            ready: faults.is_empty(),
            faults,
            started_at: self.began.wall.as_millis(),
            uptime_seconds: now.saturating_duration_since(self.began.instant).as_secs(),
            broker: Broker {
                address: &self.settings.broker,
                protocol: connected.map(|connected| connected.protocol.to_string()),
                session: connected.map(|connected| match connected.session_present {
                    true => "resumed",
                    false => "new",
                }),
            },
            figures: self.metrics.figures(&self.endpoints),
            events: shows,
            chat: self.has_chat(),
            settings: shows.then_some(&self.settings.in_force),
        };
        serde_json::to_string(&status).expect("plain fields serialise")
    }
}
