//! The webhook dispatcher, if there are endpoints.
//!
//! Owns the dispatcher and what a stop does with its events. Leaves the posting to
//! [`http::webhook`](crate::http::webhook) and the outbox to the store.

use tracing::warn;

use crate::http::webhook::{Answered, WebhookDispatcher};
use crate::store::{OutboxReply, OutboxRequest};
use crate::telemetry::clock::Now;

/// Where the dispatcher's events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventsKept {
    /// In the store: the next run goes on with them.
    InStore,
    /// In memory: they are gone with the process.
    InMemory,
}

/// Tells webhook endpoints of events; without endpoints it does nothing.
pub(super) struct Webhooks {
    dispatcher: Option<WebhookDispatcher>,
    kept: EventsKept,
}

impl Webhooks {
    pub(super) fn new(dispatcher: Option<WebhookDispatcher>, kept: EventsKept) -> Self {
        Self { dispatcher, kept }
    }

    /// The next answer of an endpoint; never, if there are no endpoints. Safe to cancel.
    pub(super) async fn next(&mut self) -> Answered {
        match &mut self.dispatcher {
            Some(dispatcher) => dispatcher.next().await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn handle_answer(&mut self, answered: Answered, now: Now) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.handle_answer(answered, now.instant, now.wall, fastrand::u64(..));
        }
    }

    /// Posts what may be posted now: an endpoint's rest ends without an event.
    pub(super) fn tick(&mut self, now: Now) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.post(now.instant, now.wall);
        }
    }

    /// Whether there is something to tell the outbox or to ask it for.
    pub(super) fn has_outbox_request(&self, now: Now) -> bool {
        let dispatcher = self.dispatcher.as_ref();
        dispatcher.is_some_and(|dispatcher| dispatcher.has_outbox_request(now.instant))
    }

    /// What the outbox is to do with the next batch.
    pub(super) fn take_outbox_request(&mut self, now: Now) -> OutboxRequest {
        match &mut self.dispatcher {
            Some(dispatcher) => dispatcher.take_outbox_request(now.instant, now.wall),
            None => OutboxRequest::default(),
        }
    }

    pub(super) fn handle_outbox_reply(&mut self, reply: OutboxReply, dropped: &[u64], now: Now) {
        if let Some(dispatcher) = &mut self.dispatcher {
            dispatcher.handle_given(reply, dropped, now.instant, now.wall);
        }
    }

    /// Events that wait, for all endpoints together.
    pub(super) fn waiting(&self) -> i64 {
        self.dispatcher
            .as_ref()
            .map_or(0, WebhookDispatcher::waiting)
    }

    /// The observer stops: events that the store keeps are left to the next run. Those in memory
    /// are still posted.
    pub(super) fn handle_stop(&mut self) {
        if let (Some(dispatcher), EventsKept::InStore) = (&mut self.dispatcher, self.kept) {
            dispatcher.stop();
        }
    }

    /// Whether a stop has to wait: for answers, for the outbox to learn of them, and for events
    /// that would be lost.
    pub(super) fn holds_up_stop(&self, store_is_busy: bool) -> bool {
        self.dispatcher.as_ref().is_some_and(|dispatcher| {
            dispatcher.under_way() > 0
                || dispatcher.has_settled()
                || store_is_busy
                || (self.kept == EventsKept::InMemory && dispatcher.waiting() > 0)
        })
    }

    /// Logs how many events are lost with the process.
    pub(super) fn log_lost(&self) {
        let lost = match self.kept {
            EventsKept::InStore => 0,
            EventsKept::InMemory => self.waiting(),
        };
        if lost > 0 {
            warn!(
                lost,
                "events that webhooks have not been told of are gone: without a store they are \
                 kept in memory"
            );
        }
    }
}
