//! What `scripts/fuzz` needs to reach the answers of the service.

use bytes::Bytes;

use super::{Asking, Bounds, DecisionService, Settings, Verdict};
use crate::telemetry::metrics::Metrics;

/// Asks the service about a message with this payload.
///
/// # Panics
/// There is no client.
pub async fn decide(settings: Settings, payload: &Bytes) -> Verdict {
    let asked = DecisionService::new(settings, Bounds::of_window(1), Metrics::new(&[]));
    let asked = asked.expect("a client");
    let Asking::Service(service, _) = &asked.asking;
    let answer = service.decide(Bytes::from_static(b"{}"), payload, false);
    service.verdict(answer.await)
}
