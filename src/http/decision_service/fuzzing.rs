//! What `scripts/fuzz` needs to reach the answers of the service.

use bytes::Bytes;

use super::{Asking, Bounds, DecisionService, Settings, Verdict};

/// Asks the service about a message with this payload.
///
/// # Panics
/// There is no client.
pub async fn decide(settings: Settings, payload: &Bytes) -> Verdict {
    let asked = DecisionService::new(settings, Bounds::of_window(1)).expect("a client");
    let Asking::Service(service, _) = &asked.asking;
    service
        .decide(Bytes::from_static(b"{}"), payload, false)
        .await
}
