//! The endpoint for health and metrics.
//!
//! `/livez` says that the process runs, `/readyz` whether messages pass and if not why, `/metrics`
//! is for Prometheus. Owns serving them; the answers come from [`telemetry`](crate::telemetry).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::telemetry::Metrics;
use crate::telemetry::health::Health;

/// Connections served at a time; more wait.
const MAX_CONNECTIONS: usize = 16;
/// Limit for one connection: a probe asks once and leaves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves health and metrics until it is dropped.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = slots
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Ok((stream, _)) = listener.accept().await else {
            // For example out of file descriptors. That passes.
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
            // A broken connection concerns only its client.
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
    // The version belongs to Prometheus' text format. The other answers are plain text, too.
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
    response
}
