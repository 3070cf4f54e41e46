//! The HTTP API that stock Chat21 clients know, served from the observer's own store.
//!
//! Owns the listener with its limits, and what all requests share. Leaves what a route answers to
//! its file, and what becomes of a write to the way that every message takes.

mod body;
mod caller;
pub mod contacts;
mod documents;
mod failure;
#[cfg(fuzzing)]
pub mod fuzzing;
mod groups;
pub mod handover;
mod pages;
mod readers;
mod reads;
mod room;
mod routes;
mod writes;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tower_http::normalize_path::NormalizePath;

use self::contacts::Contacts;
use self::handover::Handover;
use self::readers::Readers;
use self::room::Rooms;
use crate::auth::verify::Verifier;
use crate::protocol::topic_map::TopicMap;
use crate::store::reader::SLICE_BYTES;
use crate::store::{self, StoreError, StoreLocation};
use crate::telemetry::Metrics;

/// The largest head of a request, and how much of a body is read at a time, in bytes.
const HEAD_BYTES: usize = 16 << 10;
/// The priority of requests, by the system's measure: the least is 19, and what messages have is 0.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;
/// How long a connection may last. It bounds how long an answer is held for a slow client.
const LIFETIME: Duration = Duration::from_secs(120);

/// How the API is served.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The path before all routes, such as `/api`; empty for none.
    pub base: String,
    /// What tokens are verified with.
    pub verifier: Verifier,
    /// The origins whose pages may call the API; `None`: all.
    pub origins: Option<Vec<String>>,
    /// The largest body of a request, in bytes.
    pub max_body: usize,
    /// What bounds connections, requests and answers.
    pub limits: Limits,
    /// The store to read from.
    pub store: StoreLocation,
    /// The topics that writes are made for.
    pub layouts: TopicMap,
    /// The operator's directory of users, for names; followed by a slash and the identifier.
    pub contacts: Option<reqwest::Url>,
}

/// What bounds connections, requests and answers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time. Others wait until one ends.
    pub connections: usize,
    /// What bodies of requests and answers may hold at a time, in bytes.
    pub memory: usize,
    /// How long the head of a request may take, counted from the answer before it.
    pub head: Duration,
    /// How long a request may take in all.
    pub whole: Duration,
    /// How long a connection may be silent, and how long its client may take no byte of an answer.
    pub idle: Duration,
}

/// What all requests share.
type Api = Arc<Shared>;

struct Shared {
    verifier: Verifier,
    readers: Arc<Readers>,
    rooms: Rooms,
    /// Where what is to be written goes.
    handovers: mpsc::Sender<Handover>,
    /// The topics that writes are made for.
    layouts: TopicMap,
    metrics: Metrics,
    contacts: Contacts,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The store cannot be read.
    #[error("cannot read the store")]
    Store(#[from] StoreError),
    /// There is no thread for it.
    #[error("cannot start a thread for the API")]
    Thread(#[source] std::io::Error),
    /// The client for the directory of users cannot be set up.
    #[error("cannot ask for names (--contacts-url)")]
    Contacts(#[from] reqwest::Error),
}

/// Serves the API on a listener that does not block, until the future is dropped. It has a thread
/// of its own: requests and answers are large beside messages, and are to cost these nothing but
/// processor time.
///
/// # Errors
/// [`ApiError`].
pub fn serve(
    listener: std::net::TcpListener,
    settings: Settings,
    handovers: mpsc::Sender<Handover>,
    metrics: Metrics,
) -> Result<impl Future<Output = ()>, ApiError> {
    let readers = Readers::open(|| store::read_only(&settings.store))?;
    let api = Arc::new(Shared {
        verifier: settings.verifier.clone(),
        readers: Arc::new(readers),
        // A row has a message, what its owner has patched over it, and the text once more.
        rooms: Rooms::new(
            settings.limits.memory,
            settings.max_body,
            SLICE_BYTES.max(3 * settings.max_body),
        ),
        handovers,
        metrics,
        contacts: Contacts::new(settings.contacts.clone())?,
        layouts: settings.layouts.clone(),
    });
    let limits = settings.limits;
    let service = routes::service(api, &settings);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ApiError::Thread)?;
    // Each side knows by its end that the other is gone.
    let (keep, dropped) = oneshot::channel::<Infallible>();
    let (running, ended) = oneshot::channel::<Infallible>();
    let work = move || {
        stand_back();
        runtime.block_on(async {
            tokio::select! {
                () = accept(listener, service, limits) => {}
                _ = dropped => {}
            }
        });
        // What is being read would hold up the end.
        runtime.shutdown_background();
        drop(running);
    };
    let thread = std::thread::Builder::new().name("api".to_owned());
    thread.spawn(work).map_err(ApiError::Thread)?;
    Ok(async move {
        let _ = ended.await;
        drop(keep);
    })
}

/// Where the processor is short, messages come before requests: the threads that read from the
/// store have the priority of the one that starts them, this one. A thread may always lower its
/// own.
fn stand_back() {
    #[cfg(target_os = "linux")]
    let _ = rustix::process::setpriority_process(None, NICE);
}

/// Accepts connections, and spawns a task for each.
async fn accept(listener: std::net::TcpListener, service: NormalizePath<Router>, limits: Limits) {
    let Ok(listener) = TcpListener::from_std(listener) else {
        return;
    };
    let connections = Arc::new(Semaphore::new(limits.connections));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // For example out of file descriptors. That passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        // An answer is written in pieces: none is to wait for the client to confirm the one
        // before.
        let _ = stream.set_nodelay(true);
        let mut stream = TimeoutStream::new(stream);
        // While a request is answered its client says nothing.
        stream.set_read_timeout(Some(limits.idle.max(limits.whole)));
        stream.set_write_timeout(Some(limits.idle));
        let service = TowerToHyperService::new(service.clone());
        tokio::spawn(async move {
            let io = TokioIo::new(Box::pin(stream));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.head)
                .max_buf_size(HEAD_BYTES)
                .serve_connection(io, service);
            let mut connection = std::pin::pin!(connection);
            // A broken connection concerns only its client.
            if timeout(LIFETIME, connection.as_mut()).await.is_err() {
                // Clients make another one.
                connection.as_mut().graceful_shutdown();
                let _ = timeout(limits.whole, connection).await;
            }
            drop(permit);
        });
    }
}
