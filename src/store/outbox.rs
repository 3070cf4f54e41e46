//! The outbox: webhook events that wait for their endpoints.
//!
//! An event is stored together with what it reports, and stays until its endpoint has taken it, has
//! refused it, or its time is over. Posting is the work of `http`.
//!
//! An endpoint is named by its index in the list that the store was given.

use std::fmt::Debug;

use bytes::Bytes;

use super::{StoreError, WebhookQueue};
use crate::protocol::time::UnixMillis;
use crate::rules::webhook_event::Event;

/// Events that were given up and are kept for `webhook list` and `webhook retry`, for each
/// endpoint.
pub(super) const GIVEN_UP_KEPT: i64 = 1_000;
/// How many more may gather before the oldest are deleted.
pub(super) const GIVEN_UP_SLACK: i64 = 100;
/// Bytes of bodies handed out at a time.
pub(super) const BYTES_PER_REPLY: usize = 4 << 20;
/// Events that are given up at a time because they are too old.
pub(super) const EXPIRED_PER_REQUEST: i64 = 500;
/// Attempts that may fail because the endpoint is down before one event is delayed on its own:
/// after that the event itself may be the cause.
pub(super) const FREE_FAILURES: i64 = 3;
/// Failures up to which an event is due at once when its endpoint answers again.
pub(super) const FORGIVEN_FAILURES: i64 = 5;

/// The endpoints of an outbox.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// Their URLs, without user, password and query.
    pub names: Vec<String>,
    /// Bytes that may wait for each. Beyond that the oldest events are dropped.
    pub max_bytes: u64,
}

/// Keeps webhook events, and hands them out when they are due.
pub trait Outbox: WebhookQueue + Debug + Send {
    /// Sets the endpoints that events are queued for.
    fn set_endpoints(&mut self, endpoints: Endpoints);

    /// Counts the events that wait for endpoints that are not configured any more.
    ///
    /// # Errors
    /// [`StoreError`].
    fn orphaned(&self) -> Result<i64, StoreError>;

    /// Queues an event for every endpoint. Returns for each how many older events were dropped for
    /// want of room. Queueing an event again changes nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    fn enqueue(&mut self, event: &Event, now: UnixMillis) -> Result<Vec<u64>, StoreError>;

    /// Records the results of deliveries, and hands out those that are due.
    ///
    /// # Errors
    /// [`StoreError`].
    fn serve_outbox(
        &mut self,
        request: &OutboxRequest,
        now: UnixMillis,
    ) -> Result<OutboxReply, StoreError>;
}

/// How much waits for an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Events that are still to be delivered.
    pub events: i64,
    /// Events that were given up, and are kept for the operator.
    pub given_up: i64,
    /// Bytes of both.
    pub bytes: i64,
}

/// An event on its way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The endpoint.
    pub endpoint: usize,
    /// Its number in the outbox, never given twice.
    pub seq: i64,
    /// Its id: the same at each attempt.
    pub id: String,
    /// The type of the event.
    pub event_type: String,
    /// The JSON to post.
    pub body: Bytes,
    /// Attempts so far.
    pub attempts: u32,
}

/// The result of an attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryResult {
    /// The endpoint.
    pub endpoint: usize,
    /// The delivery's number in the outbox.
    pub seq: i64,
    /// What becomes of the delivery.
    pub disposition: Disposition,
}

/// What becomes of a delivery after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The endpoint has taken it.
    Delivered,
    /// It is tried again, unless its time is over.
    Later {
        /// When it is tried again, at the earliest.
        due: UnixMillis,
        /// Why the attempt failed.
        error: String,
        /// What failed.
        scope: FailureScope,
    },
    /// It is not tried again.
    GivenUp {
        /// Why.
        error: String,
    },
}

/// What an attempt that failed says about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureScope {
    /// The endpoint fails as a whole: any other event would have failed, too.
    Endpoint,
    /// This event failed: others may pass.
    Event,
}

/// What the dispatcher of webhooks wants of the outbox.
#[derive(Clone, Debug, Default)]
pub struct OutboxRequest {
    /// Results to record.
    pub results: Vec<DeliveryResult>,
    /// Endpoints that answer again: deliveries that were delayed because of them are due at once.
    pub recovered: Vec<usize>,
    /// The endpoints that can take deliveries.
    pub demands: Vec<Demand>,
    /// Events queued before this time are given up.
    pub expire_before: UnixMillis,
}

/// Demand for deliveries to one endpoint.
#[derive(Clone, Debug)]
pub struct Demand {
    /// The endpoint.
    pub endpoint: usize,
    /// Deliveries it can take.
    pub deliveries: usize,
    /// Numbers of the deliveries that the dispatcher holds already.
    pub in_flight: Vec<i64>,
}

/// What the outbox hands out.
#[derive(Debug, Default)]
pub struct OutboxReply {
    /// Deliveries that are due, the oldest first for each endpoint.
    pub deliveries: Vec<Delivery>,
    /// Deliveries in flight that do not wait any more: dropped for want of room, too old, or
    /// dropped by an operator.
    pub gone: Vec<i64>,
    /// How much waits for each endpoint, the deliveries in flight included.
    pub waiting: Vec<Waiting>,
    /// Events given up because they are too old, for each endpoint.
    pub expired: Vec<u64>,
}
