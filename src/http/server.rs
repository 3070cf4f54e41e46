//! The endpoint for health and metrics.
//!
//! `/livez` says that the process runs, `/readyz` whether messages pass and if not why, `/metrics`
//! is for Prometheus. Owns serving them; the answers come from [`telemetry`](crate::telemetry).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::telemetry::Metrics;
use crate::telemetry::health::Health;

/// Connections served at a time. The next one ends the oldest: whoever reaches the port and keeps
/// connections open must not starve the probe for which the observer is restarted.
const MAX_CONNECTIONS: usize = 64;
/// Limit for one connection: a probe asks once and leaves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves health and metrics until it is dropped.
pub async fn serve(listener: TcpListener, health: Health, metrics: Metrics) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // For example out of file descriptors. That passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (health, metrics) = (health.clone(), metrics.clone());
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let connection = tokio::spawn(async move {
            let answer = hyper::service::service_fn(move |request| {
                let response = answer(&request, &health, &metrics);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer);
            // A broken connection concerns only its client.
            let _ = timeout(PATIENCE, connection).await;
        });
        connections.push_back(connection.abort_handle());
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn open_connections_do_not_starve_a_probe() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::new(1);
        let serving = tokio::spawn(serve(listener, health, Metrics::new(&[])));
        let mut idle = vec![];
        for _ in 0..3 * MAX_CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let mut probe = TcpStream::connect(address).await.unwrap();
        let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        probe.write_all(request).await.unwrap();
        let mut answer = String::new();
        // Less than an idle connection may last.
        let read = timeout(PATIENCE / 2, probe.read_to_string(&mut answer));
        read.await.expect("an answer in time").unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        serving.abort();
    }
}
