//! Between a message's admission and its publishes: decode, look up, plan, write.
//!
//! Owns decisions. They are made a batch at a time: what came while the store was busy shares one
//! transaction, and nothing of a batch is published before its commit. Leaves the thread it runs
//! in, if there is a store, to [`store::thread`](crate::store::thread).

mod batch;
mod fan_outs;
mod panics;
mod persistence;
mod questions;
mod request;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Instant;

pub use self::batch::{BacklogRead, Batch, Decided, Processed, Resumed};
use self::fan_outs::{Confirmed, FanOuts, Unfinished};
use self::panics::Panics;
pub use self::persistence::Persistence;
use self::request::read;
use crate::delivery::ledger::EntryId;
use crate::delivery::pending::PendingMessage;
use crate::protocol::address::Address;
use crate::protocol::group::Users;
use crate::protocol::layout::PayloadMode;
use crate::protocol::message::Received;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::time::UnixMillis;
use crate::rules::facts::NoStore;
use crate::rules::fan_out::{FanOut, Found, STEP, Step};
use crate::rules::group_change::GroupOutcome;
use crate::rules::plan::{Arrival, Plan, Purpose, request_time};
use crate::rules::router::Router;
use crate::rules::submission::{Authority, Task};
use crate::store::{
    Committed, LoggedPublishes, Origin, Probe, Pruned, Retention, Store, StoreError, Upkeep, thread,
};
use crate::telemetry::clock::Clock;
use crate::telemetry::crash_point::panic_on;
use crate::telemetry::{CrashPoint, Metrics};

/// Decides on messages, and writes what their plans say.
#[derive(Debug)]
pub struct Processor {
    router: Router,
    persistence: Persistence,
    retention: Retention,
    metrics: Metrics,
    clock: Clock,
    fan_outs: FanOuts,
    /// Rows written since the thread asked last.
    written: usize,
    panics: Panics,
    /// Who has become a member by the change of a group that was asked for last;
    /// `None` if it was not made.
    added: Option<Users>,
}

impl Processor {
    /// With no retention: nothing is ever deleted.
    pub fn new(router: Router, persistence: Persistence, metrics: Metrics) -> Self {
        Self {
            router,
            persistence,
            retention: Retention::default(),
            metrics,
            clock: Clock,
            fan_outs: FanOuts::default(),
            written: 0,
            panics: Panics::default(),
            added: None,
        }
    }

    /// The same with a limit on what the store keeps.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// The upkeep of the store.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn upkeep(&self) -> Result<Option<Box<dyn Upkeep>>, StoreError> {
        self.persistence.as_store().map_or(Ok(None), Store::upkeep)
    }

    /// The store, as a process leaves it that ends now.
    #[cfg(test)]
    pub(crate) fn into_store(self) -> Option<Box<dyn Store>> {
        self.persistence.into_store()
    }

    #[cfg(test)]
    pub(crate) fn store_mut(&mut self) -> Option<&mut dyn crate::store::Store> {
        self.persistence.as_store_mut()
    }

    /// Decides on a batch. With a store, what is returned is committed.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the batch has happened, and it can be tried again.
    pub fn process(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        self.router.policy = batch.policy.clone();
        self.persistence.take_dropped();
        self.panics = Panics::default();
        loop {
            let before = self.fan_outs.clone();
            let tried = catch_unwind(AssertUnwindSafe(|| self.try_process(batch)));
            if !matches!(tried, Ok(Ok(_))) {
                self.fan_outs = before;
                if let Some(store) = self.persistence.as_store_mut() {
                    store.rollback();
                }
            }
            match tried {
                // The same row would hold up all messages for ever.
                Ok(Err(StoreError::Row(ref fault))) if self.panics.add_row(fault) => {}
                Ok(processed) => return processed,
                // No message is worth a restart, which it would survive.
                Err(panic) if !self.panics.add() => resume_unwind(panic),
                Err(_) => {}
            }
        }
    }

    fn try_process(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        if self.persistence.as_store().is_none() {
            return self.process_all(batch);
        }
        for resumed in &batch.resumed {
            self.resume(resumed, batch.now);
        }
        let processed = self.in_transaction(batch);
        if processed.is_err() {
            self.metrics.store_failed();
        }
        processed
    }

    /// Goes on with a fan-out that was read from the delivery log.
    fn resume(&mut self, resumed: &Resumed, now: UnixMillis) {
        let origin = Origin {
            id: resumed.id,
            fingerprint: None,
            promised: true,
            repeated: true,
            now,
        };
        self.fan_outs.push(Unfinished {
            entry: resumed.entry,
            origin,
            logged: Some(Confirmed::default()),
            fan_out: resumed.fan_out.clone(),
        });
    }

    fn in_transaction(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        if let Some(store) = self.persistence.as_store_mut() {
            store.begin()?;
            if let Some(id) = batch.acknowledged {
                store.acknowledge(id)?;
            }
            for id in &batch.published {
                store.published(*id)?;
            }
            if self.panics.begin_prefetch() {
                let router = &self.router;
                let received = batch.messages.iter().map(|message| &message.received);
                received.clone().for_each(|one| panic_on(&one.topic));
                let mut addresses = received.filter_map(|one| router.address(one));
                store.prefetch(&mut addresses)?;
            }
        }
        self.forget_questions(batch)?;
        let processed = self.process_all(batch)?;
        let began = self.clock.now().instant;
        CrashPoint::Written.pass();
        if let Some(store) = self.persistence.as_store_mut() {
            let committed = store.commit()?;
            CrashPoint::Committed.pass();
            if !batch.published.is_empty() {
                CrashPoint::Forgotten.pass();
            }
            let took = self.clock.now().instant.saturating_duration_since(began);
            if committed == Committed::Changed {
                self.metrics.committed(took, batch.messages.len());
            }
        }
        Ok(processed)
    }

    fn process_all(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        let mut room = batch.room_for_bulk;
        let mut decided = Vec::with_capacity(batch.messages.len() + 1);
        for message in &batch.messages {
            self.panics.begin_message(message.id);
            decided.push(self.decide(message, batch, &mut room)?);
        }
        self.continue_fan_outs(room, &batch.held, &mut decided)?;
        self.panics.begin_rest();
        let read = self.persistence.read_backlog(batch.backlog)?;
        let left = self.persistence.read_left(batch.left.as_ref())?;
        let Some(outbox) = self.persistence.outbox() else {
            return Ok(Processed {
                decided,
                ..Processed::default()
            });
        };
        // After the messages: the events they raised are handed out at once.
        let outbox_reply = outbox.serve_outbox(&batch.outbox_request, batch.now)?;
        Ok(Processed {
            decided,
            read,
            left,
            outbox_reply,
            dropped: self.persistence.take_dropped(),
        })
    }

    /// Decides on one message, and takes the first step of its fan-out if there is room for it.
    fn decide(
        &mut self,
        message: &PendingMessage,
        batch: &Batch,
        room: &mut usize,
    ) -> Result<Decided, StoreError> {
        let origin = Origin {
            id: message.id,
            fingerprint: message.fingerprint,
            promised: message.fingerprint.is_some() || message.via.part().is_some(),
            repeated: message.repeated,
            now: batch.now,
        };
        if message.repeated && self.is_known(message, batch)? {
            // What belongs to it was decided on with it, or will be.
            self.added = None;
            return Ok(Decided::known(message.entry));
        }
        if self.is_to_be_asked(message) {
            return self.log_question(message);
        }
        let leave = batch.backlog.is_some_and(|backlog| backlog.leaves(message));
        let (mut decided, fan_out) = self.plan_and_write(message, &origin, leave)?;
        let Some(fan_out) = fan_out else {
            if leave && decided.logged {
                decided.left_to_log = decided.log_bytes(None);
            }
            return Ok(decided);
        };
        // What a user missed is due as long as the log holds it, whatever has brought it.
        let text = match decided.logged || fan_out.is_missed() {
            true => self.log_fan_out(&fan_out, message)?,
            false => None,
        };
        decided.logged = text.is_some();
        if leave && text.is_some() {
            decided.left_to_log = decided.log_bytes(text.as_deref());
            return Ok(decided);
        }
        let mut unfinished = Unfinished {
            entry: message.entry,
            origin,
            logged: decided.logged.then(Confirmed::default),
            fan_out,
        };
        let rest = if *room == 0 || self.fan_outs.must_wait(&unfinished.fan_out) {
            Some(unfinished)
        } else {
            let (bulk, rest) = self.take_step(&mut unfinished, &batch.held)?;
            *room = room.saturating_sub(bulk.len().max(1));
            decided.bulk = bulk;
            rest.map(|fan_out| Unfinished {
                fan_out,
                ..unfinished
            })
        };
        decided.done = rest.is_none();
        if let Some(unfinished) = rest {
            self.fan_outs.push(unfinished);
        }
        Ok(decided)
    }

    /// Logs what a message leads to, if there is a log, and the broker waits for the ack or the log
    /// alone is to keep it. Returns whether the log holds it.
    fn log(
        &mut self,
        origin: &Origin,
        leave: bool,
        came_on: &[u8],
        first: usize,
        (purpose, publishes): (Purpose, &[Publish]),
    ) -> Result<bool, StoreError> {
        let Some(store) = self.persistence.as_store_mut() else {
            return Ok(false);
        };
        // At QoS 0 a message may be lost with the process.
        if !origin.promised && !leave {
            return Ok(false);
        }
        store.log(&LoggedPublishes {
            id: origin.id,
            came_on,
            first,
            purpose,
            publishes,
        })?;
        Ok(true)
    }

    /// Logs a fan-out. Returns what the log holds of it; `None` without a store.
    fn log_fan_out(
        &mut self,
        fan_out: &FanOut,
        message: &PendingMessage,
    ) -> Result<Option<String>, StoreError> {
        let Some(store) = self.persistence.as_store_mut() else {
            return Ok(None);
        };
        let text = fan_out.to_log();
        store.log_fan_out(message.id, &message.received.topic, &text)?;
        Ok(Some(text))
    }

    /// Plans one message, and writes what its plan says. Returns its fan-out, if it has one.
    fn plan_and_write(
        &mut self,
        message: &PendingMessage,
        origin: &Origin,
        leave: bool,
    ) -> Result<(Decided, Option<FanOut>), StoreError> {
        let stored = self.as_stored(message)?;
        let received = stored.as_ref().unwrap_or(&message.received);
        let added = self.added.clone();
        let request = match self.panics.has(message.id) {
            true => Some(Err(Refusal::Internal.into())),
            false => read(&self.router, added.as_ref(), message, stored.as_ref()),
        };
        let Some(request) = request else {
            return Ok((Decided::nothing(message.entry), None));
        };
        let part = message.via.part();
        let arrival = Arrival {
            received,
            id: message.id,
            time: request_time(message.id, origin.now),
            authority: part.map(|part| part.authority).unwrap_or_default(),
        };
        let plan = match (&request, self.persistence.as_store_mut()) {
            (Ok(request), Some(store)) => self.router.plan(request, &arrival, store)?,
            (Ok(request), None) => {
                let Ok(plan) = self.router.plan(request, &arrival, &mut NoStore);
                plan
            }
            (Err(refused), _) => self.router.refuse(received, refused, arrival.time),
        };
        let Plan {
            mut publishes,
            mut answers,
            writes,
            fan_out,
            events,
            refusal,
            detail,
            group,
        } = plan;
        if let Some(part) = part {
            // A client of the HTTP API is told over HTTP.
            let dead_letters = self.router.dead_letter_topic.as_ref();
            answers.retain(|answer| Some(&answer.topic) == dead_letters);
            if let Task::Change(_) = part.task {
                self.added = match &group {
                    Some(GroupOutcome::Changed { added, .. }) => Some(added.clone()),
                    Some(GroupOutcome::Unchanged(_)) | None => None,
                };
            }
        }
        self.written += writes.len();
        let unarchived = self.persistence.apply(&writes, events, origin)?;
        drop(writes);
        let layouts = &self.router.layouts;
        publishes.extend(self.persistence.told_unarchived(&unarchived, layouts)?);
        let came_on = &message.received.topic;
        let logged = self.log(origin, leave, came_on, 0, (Purpose::Copy, &publishes))?;
        let notices = (Purpose::Notice, &answers[..]);
        self.log(origin, leave, came_on, publishes.len(), notices)?;
        let is_admins = arrival.authority == Authority::Admin;
        let decided = Decided {
            publishes,
            members: match &fan_out {
                Some(fan_out) if !origin.repeated && !is_admins => fan_out.members(),
                Some(_) | None => 0,
            },
            answers,
            refusal,
            // Nobody else is told: who publishes gets a notice.
            detail: detail.filter(|_| part.is_some()),
            may_answer: message
                .refused
                .as_ref()
                .and_then(|pending| pending.may_answer),
            logged,
            group,
            ..Decided::nothing(message.entry)
        };
        Ok((decided, fan_out))
    }

    /// A repeated message as it was stored when it came first: a payload that the decision service
    /// has replaced stays replaced. `None` if it counts as it came.
    fn as_stored(&self, message: &PendingMessage) -> Result<Option<Received>, StoreError> {
        let received = &message.received;
        if self.panics.has(message.id) {
            return Ok(None);
        }
        panic_on(&received.payload);
        let store = self.persistence.as_store().filter(|_| message.repeated);
        let Some(store) = store.filter(|_| self.is_envelope(received)) else {
            return Ok(None);
        };
        let body = store.body(message.id)?;
        Ok(body.map(|body| Received::new(received.topic.clone(), body.into(), received.retain)))
    }

    fn is_envelope(&self, received: &Received) -> bool {
        let address = self.router.address(received);
        let outgoing = address.as_ref().and_then(Address::outgoing);
        outgoing.is_some_and(|outgoing| outgoing.layout.payload() == PayloadMode::Envelope)
    }

    /// Takes steps of fan-outs of this and earlier batches, until `room` is used up.
    fn continue_fan_outs(
        &mut self,
        mut room: usize,
        held: &[EntryId],
        decided: &mut Vec<Decided>,
    ) -> Result<(), StoreError> {
        while room > 0 {
            let Some((turn, mut unfinished)) = self.fan_outs.next() else {
                break;
            };
            let id = unfinished.origin.id;
            self.panics.begin_message(id);
            let is_dropped = self.panics.has(id);
            let (bulk, rest) = match is_dropped {
                true => (vec![], None),
                false => self.take_step(&mut unfinished, held)?,
            };
            room = room.saturating_sub(bulk.len().max(STEP));
            decided.push(Decided {
                first: false,
                bulk,
                refusal: is_dropped.then_some(Refusal::Internal),
                done: rest.is_none(),
                ..Decided::nothing(unfinished.entry)
            });
            let rest = rest.map(|fan_out| Unfinished {
                fan_out,
                ..unfinished
            });
            self.fan_outs.put_back(turn, rest);
        }
        Ok(())
    }

    /// Takes the next step of a fan-out. Returns its publishes, and what is left to do. The log's
    /// position of one that is `held` stays where it is.
    fn take_step(
        &mut self,
        unfinished: &mut Unfinished,
        held: &[EntryId],
    ) -> Result<(Vec<Publish>, Option<FanOut>), StoreError> {
        let id = unfinished.origin.id;
        self.panics.leave_out_of(id, &mut unfinished.fan_out);
        let (fan_out, origin) = (&unfinished.fan_out, &unfinished.origin);
        let found = match self.persistence.as_store() {
            Some(store) => store.find(fan_out.query())?,
            None => Found::Nothing,
        };
        let Step {
            mut publishes,
            writes,
            events,
            rest,
        } = fan_out.step(&self.router.layouts, found);
        self.written += writes.len();
        let layouts = &self.router.layouts;
        let unarchived = self.persistence.apply(&writes, events, origin);
        let told = unarchived.and_then(|them| self.persistence.told_unarchived(&them, layouts));
        if told.is_err() {
            self.panics.copy_failed(self.persistence.take_failed());
        }
        publishes.extend(told?);
        drop(writes);
        let topics = publishes.iter().map(|publish| publish.topic.as_str());
        topics.for_each(|topic| panic_on(topic.as_bytes()));
        let position = fan_out.position();
        let is_held = held.contains(&unfinished.entry);
        if let Some(logged) = &mut unfinished.logged
            && let Some(confirmed) = logged.step(position, publishes.len())
            && !is_held
            && let Some(store) = self.persistence.as_store_mut()
        {
            store.log_position(id, confirmed)?;
        }
        Ok((publishes, rest))
    }
}

impl thread::Work for Processor {
    type Batch = Batch;
    type Done = Processed;

    fn process(&mut self, batch: &Batch) -> Result<Processed, StoreError> {
        Processor::process(self, batch)
    }

    fn probe(&mut self, probe: Probe) -> Result<(), StoreError> {
        let Some(store) = self.persistence.as_store_mut() else {
            return Ok(());
        };
        let tried = store.probe(probe);
        self.written += usize::from(probe == Probe::Write);
        if tried.is_err() {
            self.metrics.store_failed();
            store.rollback();
        }
        tried
    }

    fn prune(&mut self) -> Result<Pruned, StoreError> {
        let now = self.clock.now().wall;
        let Some(store) = self.persistence.as_store_mut() else {
            return Ok(Pruned::All);
        };
        if self.retention == Retention::default() {
            return Ok(Pruned::All);
        }
        store.prune_step(&self.retention, now)
    }

    fn take_written(&mut self) -> usize {
        std::mem::take(&mut self.written)
    }

    fn now(&self) -> Instant {
        self.clock.now().instant
    }
}

#[cfg(test)]
mod tests;
