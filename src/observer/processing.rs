//! When messages are decided on, and where.
//!
//! Owns the processor, or the thread it runs in, and what is known of its batches. Leaves the
//! decisions to `processor.rs`.

use tokio_util::sync::CancellationToken;

use crate::delivery::ledger::Ledger;
use crate::delivery::watermark::AcknowledgedWatermark;
use crate::observer::inbound::Inbound;
use crate::observer::processor::{Batch, Decided, Processed, Processor};
use crate::observer::webhooks::Webhooks;
use crate::rules::fan_out::STEP;
use crate::store::thread;
use crate::telemetry::clock::Now;

/// What the store's thread reports.
pub(super) type ProcessorEvent = thread::Event<Processed>;

/// Where messages are decided on.
pub(super) enum ProcessorHandle {
    /// In the observer's task: without a store there is nothing to wait for.
    Inline(Box<Processor>),
    /// In the store's thread. The token has it give up a batch that fails.
    Threaded(thread::Handle<Batch, Processed>, CancellationToken),
}

/// Has messages decided on.
pub(crate) struct Processing {
    processor: ProcessorHandle,
    /// Messages whose fan-out is not finished.
    unfinished: usize,
    /// Whether the last batch took a step of them.
    stepped: bool,
    acknowledged: AcknowledgedWatermark,
    /// Whether the store is to be told although nothing else is to do.
    published_due: bool,
}

impl Processing {
    /// `unfinished`: fan-outs that an earlier process has not finished.
    pub(super) fn new(processor: ProcessorHandle, unfinished: usize) -> Self {
        Self {
            processor,
            unfinished,
            stepped: false,
            acknowledged: AcknowledgedWatermark::default(),
            published_due: false,
        }
    }

    /// Whether the store's thread has a batch.
    pub(super) fn is_busy(&self) -> bool {
        match &self.processor {
            ProcessorHandle::Inline(_) => false,
            ProcessorHandle::Threaded(handle, _) => handle.is_busy(),
        }
    }

    /// Messages whose fan-out is not finished.
    pub(super) fn fan_outs(&self) -> usize {
        self.unfinished
    }

    /// The next report of the store's thread; never, if there is no store. `None` if the thread has
    /// ended. Safe to cancel.
    pub(super) async fn next(&mut self) -> Option<ProcessorEvent> {
        match &mut self.processor {
            ProcessorHandle::Inline(_) => std::future::pending().await,
            ProcessorHandle::Threaded(handle, _) => handle.next().await,
        }
    }

    /// Moves the acknowledged watermark; called at each tick while there is a session.
    pub(super) fn tick(&mut self, ledger: &Ledger) {
        self.acknowledged.tick(ledger.settled_up_to());
        self.published_due = ledger.has_published();
    }

    pub(super) fn handle_session_lost(&mut self) {
        self.acknowledged.handle_session_lost();
    }

    /// Begins a batch, if there is something to do. Without a store it returns the result at once.
    /// With one, the result is an event, and the next batch begins only after that.
    pub(super) fn begin(
        &mut self,
        inbound: &mut Inbound,
        webhooks: &mut Webhooks,
        ledger: &mut Ledger,
        now: Now,
    ) -> Option<Processed> {
        let room = ledger.room_for_bulk();
        let can_step = self.unfinished > 0 && room >= STEP;
        let wanted = inbound.waiting() > 0 || can_step || webhooks.has_outbox_request(now);
        match &mut self.processor {
            ProcessorHandle::Inline(processor) => {
                if !wanted {
                    return None;
                }
                let batch = Batch {
                    outbox_request: webhooks.take_outbox_request(now),
                    ..inbound.next_batch(room.min(STEP), now.wall)
                };
                Some(processor.process(&batch).expect("memory does not fail"))
            }
            ProcessorHandle::Threaded(handle, _) => {
                let acknowledged = self.acknowledged.news();
                let has_news = acknowledged.is_some() || self.published_due;
                if handle.is_busy() || !(wanted || has_news) {
                    return None;
                }
                // Every second batch takes a step: no message waits for more than one step of a
                // fan-out.
                let may_step = self.unfinished == 0 || inbound.waiting() == 0 || !self.stepped;
                let room = if may_step { room.min(STEP) } else { 0 };
                self.stepped = may_step && self.unfinished > 0;
                self.acknowledged.mark_stored(acknowledged);
                self.published_due = false;
                handle.process(Batch {
                    acknowledged,
                    published: ledger.take_published(),
                    finished: ledger.published_up_to(),
                    held: ledger.quarantined_bulk(),
                    outbox_request: webhooks.take_outbox_request(now),
                    ..inbound.next_batch(room, now.wall)
                });
                None
            }
        }
    }

    /// Counts the fan-outs that are not finished.
    pub(super) fn handle_decided(&mut self, decided: &Decided) {
        if decided.first {
            self.unfinished += usize::from(!decided.done);
        } else {
            self.unfinished -= usize::from(decided.done);
        }
    }

    /// Writes a last batch, in which nothing is decided, and ends the store's thread.
    pub(super) async fn finish(self, batch: Batch) {
        let ProcessorHandle::Threaded(mut handle, stop) = self.processor else {
            return;
        };
        stop.cancel();
        // What the delivery log does not forget now goes out again after the next start.
        while handle.is_busy() && handle.next().await.is_some() {}
        if !handle.is_busy() {
            handle.process(batch);
        }
        // The thread finishes the batch it has, in milliseconds, or gives it up.
        let _ = tokio::task::spawn_blocking(|| handle.join()).await;
    }
}
