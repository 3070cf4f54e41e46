//! The endpoint for health, metrics and the console.
//!
//! `/livez` says that the process runs, `/readyz` whether messages pass and if not why, `/metrics`
//! is for Prometheus. Owns serving them, and the limits of connections. What the console answers is
//! the business of [`console`](crate::http::console).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;

use crate::http::console::{Answer, Body, Console, full};

/// Connections served at a time. The next one ends the oldest: whoever reaches the port and keeps
/// connections open must not starve the probe for which the observer is restarted.
const MAX_CONNECTIONS: usize = 64;
/// Limit for one connection: a probe asks once and leaves. Live lists, whose number is bounded, may
/// stay.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the reader of a live list may take no byte.
const STALLED: Duration = Duration::from_secs(60);

/// A connection that is served.
struct Connection {
    task: AbortHandle,
    is_live: Arc<AtomicBool>,
}

/// Serves health, metrics and the console until it is dropped.
pub async fn serve(listener: TcpListener, console: Console) {
    let console = Arc::new(console);
    let mut connections: VecDeque<Connection> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // For example out of file descriptors. That passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        connections.retain(|connection| !connection.task.is_finished());
        if connections.len() >= MAX_CONNECTIONS {
            let mut passing = connections.iter();
            let oldest = passing.position(|connection| !connection.is_live.load(Ordering::Relaxed));
            if let Some(oldest) = oldest.and_then(|oldest| connections.remove(oldest)) {
                oldest.task.abort();
            }
        }
        let is_live = Arc::new(AtomicBool::new(false));
        let connection = tokio::spawn(serve_one(stream, console.clone(), is_live.clone()));
        connections.push_back(Connection {
            task: connection.abort_handle(),
            is_live,
        });
    }
}

/// Serves one connection. `is_live` is set when it shows a live list.
async fn serve_one(stream: TcpStream, console: Arc<Console>, is_live: Arc<AtomicBool>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED));
    let answer = hyper::service::service_fn(|mut request| {
        let response = answer(&mut request, &console, &is_live);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut connection = pin!(
        hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(Box::pin(stream)), answer)
            .with_upgrades()
    );
    // A broken connection concerns only its client.
    let ended = timeout(PATIENCE, connection.as_mut()).await;
    if ended.is_err() && is_live.load(Ordering::Relaxed) {
        let _ = connection.await;
    }
}

fn answer(
    request: &mut Request<Incoming>,
    console: &Console,
    is_live: &AtomicBool,
) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD only\n".into());
    }
    match request.uri().path() {
        "/livez" => plain(StatusCode::OK, "ok\n".into()),
        "/readyz" => match console.faults() {
            faults if faults.is_empty() => plain(StatusCode::OK, "ready\n".into()),
            faults => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("not ready\n{}\n", faults.join("\n")),
            ),
        },
        "/metrics" => plain(StatusCode::OK, console.metrics_text()),
        path => match console.answer(path, request.headers()) {
            Some(Answer::Response(response)) => response,
            // The answer to HEAD has no body, and ends at once.
            Some(Answer::Live(response)) => {
                is_live.store(request.method() == Method::GET, Ordering::Relaxed);
                response
            }
            #[cfg(feature = "demo")]
            Some(Answer::Bridge(broker)) => crate::http::bridge::open(request, broker),
            None => plain(
                StatusCode::NOT_FOUND,
                "there is /, /status, /livez, /readyz and /metrics\n".into(),
            ),
        },
    }
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from(text)));
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
        let serving = tokio::spawn(serve(listener, Console::for_tests()));
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
