//! The HTTP that a process serves: health, metrics and the console on one address, the API on
//! another.
//!
//! Owns binding both. Leaves to the caller in which task they are served.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::http::api;
use crate::http::api::handover::Handover;
use crate::http::console::{self, Console};
use crate::http::{server, webhook};
use crate::observer::publishers::names;
use crate::observer::setup::{ObserverError, Setup};
use crate::telemetry::Metrics;
use crate::telemetry::clock::Now;
use crate::telemetry::feed::Feed;
use crate::telemetry::health::Health;

/// The addresses in use; `None` where nothing is served.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Addresses {
    /// Of health, metrics and the console.
    pub(super) http: Option<SocketAddr>,
    /// Of the API.
    pub(super) api: Option<SocketAddr>,
}

/// What tells people and monitoring how an observer does. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Instruments {
    pub(super) health: Health,
    pub(super) metrics: Metrics,
    pub(super) feed: Feed,
}

impl Instruments {
    /// What an observer has to itself.
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            health: Health::new(names(setup.publishers)),
            metrics: Metrics::new(&endpoints(setup)),
            feed: Feed::default(),
        }
    }
}

/// The names of the webhooks' endpoints.
pub(super) fn endpoints(setup: &Setup) -> Vec<String> {
    let webhooks = setup.webhooks.as_ref();
    webhooks.map(webhook::Settings::names).unwrap_or_default()
}

/// Listens for requests to health, metrics and the console. Returns the address in use and the
/// server, which goes on until it is dropped.
///
/// # Errors
/// [`ObserverError::Listen`], e.g. where the port is taken.
pub(super) async fn bind_console(
    address: SocketAddr,
    setup: &Setup,
    instruments: &Instruments,
    began: Now,
    stop: &CancellationToken,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + use<>), ObserverError> {
    let listen = |error| ObserverError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;
    let parts = console::Parts {
        settings: setup.console.clone(),
        name: &setup.name,
        endpoints: endpoints(setup),
        began,
        health: instruments.health.clone(),
        metrics: instruments.metrics.clone(),
        feed: instruments.feed.clone(),
        stop: stop.clone(),
    };
    Ok((local, server::serve(listener, Console::new(parts, local))))
}

/// Listens for requests to the API, which hands on what clients write. Returns the address in use
/// and the server, which goes on until it is dropped.
///
/// # Errors
/// [`ObserverError::ListenApi`], e.g. where the port is taken; [`ObserverError::Api`].
pub(super) async fn bind_api(
    settings: api::Settings,
    handovers: mpsc::Sender<Handover>,
    metrics: &Metrics,
) -> Result<(SocketAddr, impl Future<Output = ()> + Send + use<>), ObserverError> {
    let address = settings.listen;
    let listen = |error| ObserverError::ListenApi { address, error };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let local = listener.local_addr().map_err(listen)?;
    let listener = listener.into_std().map_err(listen)?;
    let serving = api::serve(listener, settings, handovers, metrics.clone());
    Ok((local, serving.map_err(ObserverError::Api)?))
}
