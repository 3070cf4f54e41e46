//! What `scripts/fuzz` needs to reach the routes.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderName, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use tokio::sync::mpsc;
use tower::Service;
use tower_http::normalize_path::NormalizePath;

use super::contacts::Contacts;
use super::handover::Handover;
use super::readers::Readers;
use super::room::Rooms;
use super::{Settings, Shared, routes};
use crate::store::reader::SLICE_BYTES;
use crate::store::{self};
use crate::telemetry::Metrics;

/// The API without a listener.
pub struct Requests {
    service: NormalizePath<Router>,
    handovers: mpsc::Receiver<Handover>,
    runtime: tokio::runtime::Runtime,
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Whether it says that it is JSON.
    pub is_json: bool,
    /// The body.
    pub body: Bytes,
}

impl Requests {
    /// Serves from the store of these settings, which exists.
    ///
    /// # Panics
    /// It cannot be read.
    pub fn new(settings: &Settings) -> Self {
        let (handed, handovers) = mpsc::channel(1);
        let readers = Readers::open(|| store::read_only(&settings.store)).expect("a store");
        let api = Arc::new(Shared {
            verifier: settings.verifier.clone(),
            readers: Arc::new(readers),
            rooms: Rooms::new(
                settings.limits.memory,
                settings.max_body,
                SLICE_BYTES.max(3 * settings.max_body),
            ),
            handovers: handed,
            metrics: Metrics::new(&[]),
            contacts: Contacts::new(settings.contacts.clone()).expect("a client"),
            layouts: settings.layouts.clone(),
        });
        Self {
            service: routes::service(api, settings),
            handovers,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    /// Asks: a line with method and target, lines with headers, an empty line, the body. `serve`
    /// does what is handed in. Returns the answer, or `None` if these bytes are no request.
    ///
    /// # Panics
    /// An answer cannot be read to its end.
    pub fn ask(&mut self, bytes: &[u8], mut serve: impl FnMut(Handover)) -> Option<Answer> {
        let request = read(bytes)?;
        let (service, handovers) = (&mut self.service, &mut self.handovers);
        Some(self.runtime.block_on(async {
            let answer = async {
                let Ok(response) = service.call(request).await;
                let (head, body) = response.into_parts();
                Answer {
                    status: head.status.as_u16(),
                    is_json: head.headers.get("content-type").is_some_and(|kind| {
                        kind.to_str().is_ok_and(|kind| kind == "application/json")
                    }),
                    body: to_bytes(body, usize::MAX).await.expect("an answer"),
                }
            };
            let mut answer = std::pin::pin!(answer);
            loop {
                tokio::select! {
                    answer = &mut answer => return answer,
                    Some(handover) = handovers.recv() => serve(handover),
                }
            }
        }))
    }
}

fn read(bytes: &[u8]) -> Option<Request<Body>> {
    let mut rest = bytes;
    let mut line = || {
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let (line, after) = rest.split_at(end);
        rest = &after[1..];
        Some(line)
    };
    let (method, target) = str::from_utf8(line()?).ok()?.split_once(' ')?;
    let mut request = Request::new(Body::empty());
    *request.method_mut() = Method::from_bytes(method.as_bytes()).ok()?;
    *request.uri_mut() = target.parse::<Uri>().ok()?;
    while let Some(header) = line().filter(|line| !line.is_empty()) {
        let (name, value) = str::from_utf8(header).ok()?.split_once(':')?;
        let value = HeaderValue::from_str(value.trim()).ok()?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        request.headers_mut().append(name, value);
    }
    // As a server's parser has it.
    let length = HeaderValue::from(rest.len());
    request.headers_mut().insert("content-length", length);
    *request.body_mut() = Body::from(rest.to_vec());
    Some(request)
}
