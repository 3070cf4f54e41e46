//! The demo's broker.
//!
//! It is rumqttd: a library, small without its default features, by the authors of the client
//! crate. It keeps nothing on disk, and loses messages that are acknowledged out of order (the
//! observer acknowledges in order). Good enough to try things out, and for no more.

use std::collections::HashMap;
use std::net::SocketAddr;

use anyhow::Context;

/// Starts the broker on a thread of its own, where it runs to the end of the process. Everybody may
/// connect, without a login.
///
/// # Errors
/// If the thread cannot be started. An address that is taken shows as an error in the log.
pub(super) fn start(listen: SocketAddr) -> anyhow::Result<()> {
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 60_000,
        max_payload_size: 8 << 20,
        max_inflight_count: 500,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "demo".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    let router = rumqttd::RouterConfig {
        max_connections: 1_000,
        max_outgoing_packet_count: 500,
        max_segment_size: 16 << 20,
        max_segment_count: 4,
        ..rumqttd::RouterConfig::default()
    };
    let mut broker = rumqttd::Broker::new(rumqttd::Config {
        router,
        v4: Some(HashMap::from([("demo".to_owned(), server)])),
        ..rumqttd::Config::default()
    });
    let serve = move || {
        if let Err(error) = broker.start() {
            tracing::error!(%error, "the embedded broker has ended");
        }
    };
    std::thread::Builder::new()
        .name("broker".to_owned())
        .spawn(serve)
        .context("the embedded broker does not start")?;
    Ok(())
}
