//! When messages are decided on, and where.
//!
//! Owns the processor, or the thread it runs in, and what is known of its batches. Leaves the
//! decisions to `processor.rs`.

use std::collections::HashSet;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::delivery::backlog::{Backlog, Change, Pulse};
use crate::delivery::ledger::{Ledger, Message};
use crate::delivery::left::LeftRead;
use crate::delivery::watermark::{AcknowledgedWatermark, Ask};
use crate::observer::inbound::Inbound;
use crate::observer::processor::{BacklogRead, Batch, Decided, Processed, Processor, Resumed};
use crate::observer::session::Session;
use crate::observer::webhooks::Webhooks;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageId;
use crate::rules::fan_out::{FanOut, STEP};
use crate::store::{LogPage, thread};
use crate::telemetry::clock::Now;

/// Messages read from the delivery log in one batch: what comes in waits for no more than that.
const READ: usize = 64;

const STALLED: &str = "the broker takes no publishes: messages are accepted all the same, and kept \
    in the store until it does";
const FULL: &str = "the store holds as much as it may of what could not be published yet \
    (--max-backlog): no more messages are accepted, the broker keeps them";
const CAUGHT_UP: &str = "everything that was kept in the store is on its way";
const NOT_RESUMED: &str = "a fan-out cannot be resumed: its copies are lost";

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
    backlog: Backlog,
    /// Fan-outs read from the delivery log, for the next batch.
    resumed: Vec<Resumed>,
    /// Whether the last batch read from the delivery log.
    reading: bool,
    /// Whether it read what goes to one topic.
    reads_left: bool,
    /// Messages that may be taken until more is read from the delivery log.
    credit: usize,
    /// Whether nothing more is read from the delivery log: the next process does.
    stopping: bool,
    /// Messages of which something that was left to the log cannot be read: each is told of once.
    damaged: HashSet<MessageId>,
}

impl Processing {
    /// `backlog`: what an earlier process has not published.
    pub(super) fn new(processor: ProcessorHandle, backlog: Backlog) -> Self {
        Self {
            processor,
            unfinished: 0,
            stepped: false,
            acknowledged: AcknowledgedWatermark::default(),
            published_due: false,
            backlog,
            resumed: vec![],
            reading: false,
            reads_left: false,
            credit: READ / 2,
            stopping: false,
            damaged: HashSet::new(),
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

    /// Whether another message may be taken while so many wait for a batch.
    pub(super) fn has_room(&self, ledger: &Ledger, waiting: usize) -> bool {
        if self.backlog.after().is_none() {
            return ledger.has_room();
        }
        if self.backlog.is_full() {
            return false;
        }
        if self.backlog.is_stalled() {
            return ledger.has_room_for_logged();
        }
        // Less is added to what waits than is read of it, so that it comes to an end.
        waiting < self.credit
    }

    /// What waits in the delivery log alone.
    pub(super) fn backlog(&self) -> &Backlog {
        &self.backlog
    }

    /// Has messages left to the delivery log while the broker takes no publishes; called at each
    /// tick.
    pub(super) fn tick_backlog(&mut self, ledger: &Ledger, now: Now) {
        if let ProcessorHandle::Inline(_) = self.processor {
            return;
        }
        let pulse = Pulse {
            confirmed: ledger.confirmed(),
            unconfirmed: ledger.direct_len(),
            has_room: ledger.has_room(),
            newest: ledger.newest(),
            now: now.instant,
        };
        match self.backlog.tick(&pulse) {
            Some(Change::Begun) => warn!("{STALLED}"),
            Some(Change::Full) => warn!("{FULL}"),
            None => {}
        }
    }

    /// Whether the broker takes no publishes at the moment.
    pub(super) fn is_stalled(&self) -> bool {
        self.backlog.is_stalled()
    }

    /// Nothing more is to be read from the delivery log.
    pub(super) fn handle_stop(&mut self) {
        self.stopping = true;
    }

    /// Moves the acknowledged watermark; called at each tick while there is a session, when all
    /// acks that are due have been sent.
    pub(super) fn tick(&mut self, ledger: &Ledger, session: &Session) {
        self.published_due = ledger.has_published();
        if let ProcessorHandle::Inline(_) = self.processor {
            return;
        }
        let answered = session.ack_pings_answered();
        if self.acknowledged.tick(ledger.settled_up_to(), answered) == Ask::Ping {
            session.ping_behind_acks();
        }
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
                let room_for_read = ledger.room_for_read().min(READ);
                let can_read = self.backlog.after().is_some()
                    && !self.stopping
                    && (room_for_read > READ / 2
                        || (room_for_read > 0 && ledger.direct_len() == 0));
                let left = match self.stopping {
                    true => None,
                    false => match self.backlog.after() {
                        // What is above that is read with everything else.
                        Some(None) => None,
                        Some(up_to) => ledger.next_left(up_to),
                        None => ledger.next_left(None),
                    },
                };
                let can_read_any = can_read || left.is_some();
                let wanted = wanted || can_read_any || !self.resumed.is_empty();
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
                // Messages and pages of the log take turns.
                self.reading = can_read_any && (inbound.waiting() == 0 || !self.reading);
                // So do the two of the log.
                self.reads_left = self.reading && left.is_some() && !(can_read && self.reads_left);
                let reads_all = self.reading && !self.reads_left;
                let backlog = self.backlog.after().map(|after| BacklogRead {
                    after,
                    most: if reads_all { room_for_read } else { 0 },
                });
                let batch = match self.reading {
                    true => Batch {
                        room_for_bulk: room,
                        ..inbound.empty_batch(now.wall)
                    },
                    false => inbound.next_batch(room, now.wall),
                };
                self.credit = self.credit.saturating_sub(batch.messages.len());
                handle.process(Batch {
                    acknowledged,
                    published: ledger.take_published(),
                    backlog,
                    left: left.filter(|_| self.reads_left).map(|left| (left, READ)),
                    resumed: std::mem::take(&mut self.resumed),
                    held: ledger.quarantined_bulk(),
                    outbox_request: webhooks.take_outbox_request(now),
                    ..batch
                });
                None
            }
        }
    }

    /// Puts what was read from the delivery log into the ledger.
    pub(super) fn handle_read(&mut self, page: LogPage, ledger: &mut Ledger, now: Now) {
        self.credit = (self.credit + page.messages.len() / 2).min(READ);
        for logged in page.messages {
            self.backlog.handle_read(logged.id, logged.log_bytes());
            let id = logged.id;
            let message = Message {
                received: Received::new(logged.came_on, Bytes::new(), false),
                id,
                fingerprint: 0,
                since: now.instant,
            };
            let entry = ledger.insert(message, None);
            ledger.logged(entry);
            for (purpose, publish) in logged.publishes {
                ledger.add(entry, vec![publish], purpose);
            }
            if let Some(fan_out) = &logged.fan_out {
                ledger.charge(entry, fan_out.text.len());
            }
            if logged.is_damaged {
                ledger.lose(entry);
            }
            let fan_out = logged
                .fan_out
                .map(|logged| FanOut::from_log(&logged.text, logged.position));
            match fan_out {
                Some(Ok(fan_out)) => {
                    self.unfinished += 1;
                    self.resumed.push(Resumed { entry, id, fan_out });
                }
                Some(Err(error)) => {
                    error!(message_id = %id, %error, "{NOT_RESUMED}");
                    ledger.lose(entry);
                    ledger.decided(entry);
                }
                None => ledger.decided(entry),
            }
        }
        if page.is_last {
            self.credit = READ / 2;
            self.backlog.handle_all_read();
            info!("{CAUGHT_UP}");
        }
    }

    /// Puts what goes to one topic and was read from the delivery log into the ledger.
    pub(super) fn handle_left_read(
        &mut self,
        (read, page): (LeftRead, LogPage),
        ledger: &mut Ledger,
        now: Now,
    ) {
        if !ledger.is_to_be_read(&read) {
            return;
        }
        // What is above that is read with everything else.
        let end = self.backlog.after().flatten();
        let is_below = |id| end.is_none_or(|end| id <= end);
        let up_to = page.messages.last().map(|logged| logged.id);
        let is_last = page.is_last || up_to.is_some_and(|id| !is_below(id));
        for logged in page.messages {
            if !is_below(logged.id) {
                break;
            }
            let message = Message {
                received: Received::new(logged.came_on, Bytes::new(), false),
                id: logged.id,
                fingerprint: 0,
                since: now.instant,
            };
            if logged.is_damaged && ledger.is_left(logged.id) && self.damaged.insert(logged.id) {
                let entry = ledger.insert(message.clone(), None);
                ledger.lose(entry);
                ledger.decided(entry);
            }
            let publishes = logged.publishes.into_iter();
            let publishes: Vec<_> = publishes
                .filter(|(_, publish)| publish.topic.as_str() == read.topic)
                .collect();
            if publishes.is_empty() {
                continue;
            }
            ledger.handle_read(message, publishes);
        }
        ledger.handle_read_up_to(&read.topic, up_to.filter(|id| is_below(*id)), is_last);
    }

    /// What a message leads to stays in the delivery log for now.
    pub(super) fn handle_left(&mut self, bytes: u64) {
        self.backlog.handle_left(bytes);
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
