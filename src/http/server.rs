//! Health and metrics over HTTP: `/livez` says that the process runs, `/readyz` whether messages pass, and if not, why; `/metrics` is
//! for Prometheus.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::telemetry::Metrics;
use crate::telemetry::health::Health;

/// Connections served at a time; more wait.
const MAX_CONNECTIONS: usize = 16;
/// Limit for one connection: a probe asks once and leaves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves health and metrics until dropped.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = slots
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, say: that passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (health, metrics) = (health.clone(), metrics.clone());
        tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let response = answer(&request, &health, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer);
            // What goes wrong here is the client's matter.
            let _ = timeout(PATIENCE, connection).await;
            drop(slot);
        });
    }
}

fn answer(
    request: &Request<Incoming>,
    health: &Health,
    metrics: &Metrics,
) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/livez") => (StatusCode::OK, "ok\n".to_owned()),
        (&Method::GET | &Method::HEAD, "/readyz") => match health.faults() {
            faults if faults.is_empty() => (StatusCode::OK, "ready\n".to_owned()),
            faults => (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready\n{}\n", faults.join("\n")),
            ),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => {
            metrics.ready(health.faults().is_empty());
            (StatusCode::OK, metrics.text())
        }
        (&Method::GET | &Method::HEAD, _) => (
            StatusCode::NOT_FOUND,
            "there is /livez, /readyz and /metrics\n".to_owned(),
        ),
        _ => (
            StatusCode::METHOD_NOT_ALLOWED,
            "GET or HEAD only\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    // The version of Prometheus' text format; the rest is text, too.
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
    response
}

/// What asks an operator's own services: it follows no redirects, uses no proxy, and each answer has to come within `limit`. Connects to nothing yet.
///
/// # Errors
/// TLS that cannot be set up.
pub fn client(limit: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // There may be one already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(limit)
        .redirect(reqwest::redirect::Policy::none())
        // They are near, and a proxy that answers for them would be taken at its word.
        .no_proxy()
        // Node closes after five: one that is closed as it is used would look like a failure.
        .pool_idle_timeout(Duration::from_secs(4))
        .user_agent(concat!("chat21-observer/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// Asks a running observer for its readiness.
///
/// # Errors
/// Its answer, if it is not ready, or why there is none.
pub async fn probe(address: SocketAddr) -> Result<(), String> {
    let ask = async {
        let stream = TcpStream::connect(address)
            .await
            .map_err(|error| format!("no observer answers on {address}: {error}"))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let request = Request::get("/readyz")
            .header("host", address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| error.to_string())?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| error.to_string())?;
        let ready = response.status() == StatusCode::OK;
        let body = response
            .into_body()
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        if ready {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&body).trim().to_owned())
        }
    };
    timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err(format!("{address} does not answer")))
}
