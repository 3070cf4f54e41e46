//! From a message that came in to one that waits for a batch, or is refused.
//!
//! Owns ids and senders' limits. Leaves the questions to the decision service to `consultation.rs`,
//! and decisions that need facts to the processor.

use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;

use crate::delivery::ledger::{Ack, Admission, EntryId, Failed, Ledger, Message};
use crate::delivery::pending::{ApiPart, PendingMessage, PendingRefusal, Question, Via};
use crate::http::decision_service::DecisionService;
use crate::mqtt::Delivery;
use crate::observer::journal::Journal;
use crate::observer::processor::Batch;
use crate::protocol::address::Address;
use crate::protocol::message::Received;
use crate::protocol::message_id::{MessageId, MessageIds};
use crate::protocol::publish::Publish;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::time::UnixMillis;
use crate::rules::group_request::submission;
use crate::rules::plan::Purpose;
use crate::rules::policy::Policy;
use crate::rules::rate_limit::SenderLimits;
use crate::rules::router::Router;
use crate::rules::submission::{Authority, Submission, Submitted, Task};
use crate::store::OutboxRequest;
use crate::telemetry::Metrics;
use crate::telemetry::clock::Now;

/// Messages decided on together: they share a commit, and the first waits for the last.
const BATCH_MESSAGES: usize = 256;

/// A message as it came in.
pub(super) struct Arrival {
    pub received: Received,
    /// `None` at QoS 0.
    ack: Option<Ack>,
    /// Stands for topic and payload; 0 at QoS 0, where nothing comes again.
    fingerprint: u64,
    /// Whether it may be a redelivery: its DUP flag, a hint.
    dup: bool,
    now: Now,
}

impl Arrival {
    /// `connection`: the session's connection it came on.
    ///
    /// `is_aside`: it is one that observers send each other. Such messages come at any time, so
    /// they must not end the redeliveries.
    pub(super) fn new(delivery: Delivery, connection: u64, is_aside: bool, now: Now) -> Self {
        let Delivery {
            received,
            packet_id,
            dup,
        } = delivery;
        let ack = packet_id.map(|packet_id| Ack {
            connection,
            packet_id,
        });
        Self {
            fingerprint: ack.map_or(0, |_| fingerprint(&received)),
            // Retained messages come in answer to SUBSCRIBE, among those that are redelivered, so
            // they must not end the redeliveries.
            dup: dup || received.retain || is_aside,
            received,
            ack,
            now,
        }
    }

    pub(super) fn admission(&self, ledger: &mut Ledger) -> Admission {
        match self.ack {
            Some(ack) => ledger.admit(ack, self.fingerprint, self.dup),
            None => Admission::New,
        }
    }

    /// Whether the broker waits for an acknowledgement.
    pub(super) fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Enters the message into the ledger.
    fn insert(&self, id: MessageId, ledger: &mut Ledger) -> EntryId {
        let message = Message {
            received: self.received.clone(),
            id,
            fingerprint: self.fingerprint,
            since: self.now.instant,
        };
        ledger.insert(message, self.ack)
    }

    /// Enters it, to be decided on.
    fn into_pending(self, id: MessageId, repeated: bool, ledger: &mut Ledger) -> PendingMessage {
        PendingMessage {
            entry: self.insert(id, ledger),
            id,
            fingerprint: self.ack.map(|_| self.fingerprint),
            received: self.received,
            repeated,
            via: Via::Broker,
            question: Question::None,
            refused: None,
        }
    }

    /// Whether the broker says that it has delivered it before.
    pub(super) fn comes_again(&self) -> bool {
        self.dup && !self.received.retain
    }
}

/// Admits messages.
pub(crate) struct Inbound {
    pub(super) router: Router,
    limits: SenderLimits,
    pub(super) decision_service: Option<DecisionService>,
    /// Whether messages are logged before the decision service is asked about them.
    pub(super) logs_questions: bool,
    /// Whether questions of an earlier process wait until the session is proved.
    pub(super) holds_questions: bool,
    ids: MessageIds,
    /// Admitted messages that no batch has taken yet.
    pub(super) waiting: Vec<PendingMessage>,
    metrics: Metrics,
}

impl Inbound {
    pub(super) fn new(
        router: Router,
        decision_service: Option<DecisionService>,
        ids: MessageIds,
        metrics: Metrics,
    ) -> Self {
        Self {
            router,
            limits: SenderLimits::default(),
            decision_service,
            logs_questions: false,
            holds_questions: false,
            ids,
            waiting: vec![],
            metrics,
        }
    }

    /// The same, and if there is a store, what waits for the decision service is logged and
    /// acknowledged.
    #[must_use]
    pub(super) fn with_log(self, has_store: bool) -> Self {
        Self {
            logs_questions: has_store,
            ..self
        }
    }

    pub(super) fn set_policy(&mut self, policy: Arc<Policy>) {
        self.router.policy = policy;
    }

    pub(super) fn address<'a>(&'a self, received: &'a Received) -> Option<Address<'a>> {
        self.router.address(received)
    }

    /// How many messages no batch has taken yet.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The next batch: the messages that wait, up to a bound, and nothing else to do.
    pub(super) fn next_batch(&mut self, room_for_bulk: usize, now: UnixMillis) -> Batch {
        let most = self.waiting.len().min(BATCH_MESSAGES);
        // The parts of a submission are not parted.
        let last = most.checked_sub(1).and_then(|last| self.waiting.get(last));
        let part = last.and_then(|last| last.via.part());
        let most = most + part.map_or(0, |part| part.following);
        Batch {
            messages: self.waiting.drain(..most).collect(),
            room_for_bulk,
            ..self.empty_batch(now)
        }
    }

    /// A batch without messages.
    pub(super) fn empty_batch(&self, now: UnixMillis) -> Batch {
        Batch {
            messages: vec![],
            room_for_bulk: 0,
            acknowledged: None,
            published: vec![],
            held: vec![],
            backlog: None,
            left: None,
            resumed: vec![],
            policy: self.router.policy.clone(),
            outbox_request: OutboxRequest::default(),
            now,
        }
    }

    /// Takes a message on one of the observer's own topics: acknowledged in its turn, it ends here.
    pub(super) fn admit_own(&mut self, arrival: &Arrival, ledger: &mut Ledger) {
        let entry = arrival.insert(self.ids.next(arrival.now.wall), ledger);
        ledger.decided(entry);
    }

    /// Enters a message that leads to nothing yet.
    pub(super) fn enter(&mut self, arrival: Arrival, ledger: &mut Ledger) -> PendingMessage {
        let id = self.ids.next(arrival.now.wall);
        arrival.into_pending(id, false, ledger)
    }

    /// Takes a message from a user or a service: it waits for the decision service or for a batch,
    /// or is refused at once.
    pub(super) fn admit(
        &mut self,
        arrival: Arrival,
        admission: Admission,
        ledger: &mut Ledger,
        journal: &mut Journal,
    ) {
        let (received, now) = (&arrival.received, arrival.now);
        let address = self.router.address(received);
        journal.received(address.as_ref(), arrival.ack.is_some());
        let (id, repeated) = match admission {
            Admission::Resumed => return journal.resumed(received, address.as_ref(), now),
            Admission::Repeated(id) => {
                journal.repeated(received, id);
                (id, true)
            }
            Admission::New => {
                let id = self.ids.next(now.wall);
                journal.admitted(id);
                (id, false)
            }
        };
        let pending = arrival.into_pending(id, repeated, ledger);
        self.decide_on(pending, ledger, journal, now);
    }

    /// Takes a message of another slot after all, in its place.
    pub(super) fn admit_of_slot(
        &mut self,
        pending: PendingMessage,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) {
        journal.received(self.router.address(&pending.received).as_ref(), true);
        journal.admitted(pending.id);
        self.decide_on(pending, ledger, journal, now);
    }

    /// A message waits for the decision service or for a batch, or is refused at once.
    fn decide_on(
        &mut self,
        pending: PendingMessage,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) {
        let (received, repeated) = (&pending.received, pending.repeated);
        let address = self.router.address(received);
        let policy = &self.router.policy;
        let charged = match address {
            Some(address) => {
                let share = self.limits.begin_fetch(&address);
                // What comes again was charged when it came first.
                let rate = match policy.limits_rates() && !repeated {
                    true => self.limits.charge(&address, policy, now.instant),
                    false => Ok(()),
                };
                if rate.is_ok() && !repeated {
                    let bytes = received.payload_bytes;
                    let limits = &mut self.limits;
                    limits.charge_bytes(&address, bytes, policy, now.instant);
                }
                rate.and(share)
            }
            None => match self.router.sender(received) {
                Some(sender) if policy.limits_rates() && !repeated => {
                    let (limits, bytes) = (&mut self.limits, received.payload_bytes);
                    limits.charge_bad_recipient(sender, bytes, policy, now.instant)
                }
                Some(_) | None => Ok(()),
            },
        };
        let request = submission(&self.router.layouts, address.as_ref(), received);
        match (charged, request) {
            (Ok(()), Some(request)) => {
                self.push_parts(request, Some(pending), ledger, journal, now);
            }
            (Ok(()), None) => self.consult(pending, ledger, journal, now),
            (Err(refused), _) => self.refuse(pending, refused, ledger, journal, now),
        }
    }

    /// Takes what a client of the HTTP API hands in. Returns the entry of its first part.
    ///
    /// # Errors
    /// The reason for a refusal. Nothing has happened then.
    pub(super) fn submit(
        &mut self,
        submission: Submission,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) -> Result<EntryId, Refused> {
        let first = submission.messages.first();
        let first = first.ok_or(Refusal::MalformedTopic)?;
        let policy = &self.router.policy;
        if submission.authority == Authority::Sender
            && policy.limits_rates()
            && let Some(address) = self.router.address(&first.received)
        {
            self.limits.charge(&address, policy, now.instant)?;
            let (limits, recipients) = (&mut self.limits, submission.recipients);
            limits.charge_members(&address, recipients, policy, now.instant);
            let bytes = first.received.payload_bytes;
            limits.charge_bytes(&address, bytes, policy, now.instant);
        }
        self.push_parts(submission, None, ledger, journal, now)
            .ok_or(Refusal::MalformedTopic.into())
    }

    /// Has the parts of a submission decided on together. The first is decided on in place of the
    /// message `asked_by` that the broker has brought, if it has. Returns its entry.
    fn push_parts(
        &mut self,
        submission: Submission,
        mut asked_by: Option<PendingMessage>,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) -> Option<EntryId> {
        let Submission {
            authority,
            messages,
            ..
        } = submission;
        let parts = messages.len();
        let mut first = None;
        for (n, Submitted { received, task }) in messages.into_iter().enumerate() {
            // The decision service is asked about messages. What belongs together is none: the
            // answers would part it.
            let is_message = parts == 1 && task.is_message();
            let via = Via::Api(Box::new(ApiPart {
                // The system tells of changes, not the one who makes them.
                authority: match task {
                    Task::Announcement(_) => Authority::Admin,
                    Task::Message
                    | Task::Change(_)
                    | Task::Register { .. }
                    | Task::Erase(_)
                    | Task::Gone { .. }
                    | Task::History => authority,
                },
                task,
                following: parts - n - 1,
            }));
            let pending = match asked_by.take() {
                Some(asked_by) => PendingMessage {
                    received,
                    via,
                    ..asked_by
                },
                None => self.pending_part(received, via, ledger, journal, now),
            };
            first.get_or_insert(pending.entry);
            match is_message {
                true => self.consult(pending, ledger, journal, now),
                false => self.waiting.push(pending),
            }
        }
        first
    }

    /// Enters a part of a submission into the ledger.
    fn pending_part(
        &mut self,
        received: Received,
        via: Via,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) -> PendingMessage {
        let id = self.ids.next(now.wall);
        journal.received(self.router.address(&received).as_ref(), true);
        journal.admitted(id);
        let message = Message {
            received: received.clone(),
            id,
            fingerprint: 0,
            since: now.instant,
        };
        PendingMessage {
            entry: ledger.insert(message, None),
            id,
            fingerprint: None,
            received,
            repeated: false,
            via,
            question: Question::None,
            refused: None,
        }
    }

    /// A message has passed that goes to so many members of a group.
    pub(super) fn charge_members(&mut self, received: &Received, members: usize, now: Now) {
        let policy = &self.router.policy;
        if members > 0
            && policy.limits_rates()
            && let Some(address) = self.router.address(received)
        {
            let limits = &mut self.limits;
            limits.charge_members(&address, members, policy, now.instant);
        }
    }

    /// Everything of a message is done.
    pub(super) fn handle_finished(&mut self, received: &Received) {
        if self.limits.counts_fetches()
            && let Some(address) = self.router.address(received)
        {
            self.limits.end_fetch(&address);
        }
    }

    /// Refuses a message before a batch takes it. A repeated message may have passed before; the
    /// store knows that, so it is left to the processor whether that one is refused.
    pub(super) fn refuse(
        &mut self,
        mut pending: PendingMessage,
        refused: Refused,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) {
        let sender = self.router.sender(&pending.received);
        let may_answer = match pending.repeated {
            true => None,
            false => Some(self.limits.may_answer(sender, refused.reason, now.instant)),
        };
        if may_answer == Some(false) && pending.via.part().is_none() {
            // Nothing follows from it, so it need not wait for a batch.
            self.metrics.unanswered();
            let message = (&pending.received, pending.id);
            journal.decided(message, Some(refused.reason), &[]);
            return ledger.decided(pending.entry);
        }
        pending.refused = Some(PendingRefusal {
            refused,
            may_answer,
        });
        self.waiting.push(pending);
    }

    /// Publishes the notice and the dead letter of a refusal, unless that sender has caused too
    /// many already: that may be known.
    pub(super) fn answer(
        &mut self,
        entry: EntryId,
        reason: Refusal,
        (answers, may_answer): (Vec<Publish>, Option<bool>),
        ledger: &mut Ledger,
        now: Now,
    ) {
        if answers.is_empty() {
            return;
        }
        if self.may_answer(entry, reason, may_answer, ledger, now) {
            ledger.add(entry, answers, Purpose::Notice);
        }
    }

    /// Whether a message's sender may be told of its refusal. That may be known.
    pub(super) fn may_answer(
        &mut self,
        entry: EntryId,
        reason: Refusal,
        known: Option<bool>,
        ledger: &Ledger,
        now: Now,
    ) -> bool {
        let (received, _) = ledger.message(entry);
        let sender = self.router.sender(received);
        let limits = &mut self.limits;
        let may_answer = known.unwrap_or_else(|| limits.may_answer(sender, reason, now.instant));
        if !may_answer {
            self.metrics.unanswered();
        }
        may_answer
    }

    /// The notice and the dead letter of a message with a copy that the broker does not take.
    pub(super) fn answers_to(&mut self, failed: &Failed, now: Now) -> Vec<Publish> {
        if failed.told_before || failed.purpose == Purpose::Notice {
            return vec![];
        }
        let sender = self.router.sender(&failed.received);
        if !self.limits.may_answer(sender, failed.refusal, now.instant) {
            self.metrics.unanswered();
            return vec![];
        }
        let refused = failed.refusal.into();
        let plan = self.router.refuse(&failed.received, &refused, now.wall);
        plan.answers
    }

    /// Publishes something of the observer's own, until it is confirmed. If it is refused, only the
    /// log is told.
    pub(super) fn publish_own(&mut self, publish: Publish, ledger: &mut Ledger, now: Now) {
        let entry = self.insert_own(&publish, ledger, now);
        ledger.add(entry, vec![publish], Purpose::Notice);
        ledger.decided(entry);
    }

    /// Publishes something that shows which connections the broker serves.
    pub(super) fn publish_canaries(&mut self, publish: Publish, ledger: &mut Ledger, now: Now) {
        let entry = self.insert_own(&publish, ledger, now);
        ledger.add_canaries(entry, publish);
        ledger.decided(entry);
    }

    /// Publishes something of the observer's own to sessions of others, of which the broker may be
    /// unable to write to some: it holds up nobody.
    pub(super) fn publish_apart(&mut self, publish: Publish, ledger: &mut Ledger, now: Now) {
        let entry = self.insert_own(&publish, ledger, now);
        ledger.add_apart(entry, publish);
        ledger.decided(entry);
    }

    fn insert_own(&mut self, publish: &Publish, ledger: &mut Ledger, now: Now) -> EntryId {
        let topic = Bytes::copy_from_slice(publish.topic.as_str().as_bytes());
        let message = Message {
            received: Received::new(topic, Bytes::new(), false),
            id: self.ids.next(now.wall),
            fingerprint: 0,
            since: now.instant,
        };
        ledger.insert(message, None)
    }
}

/// A hash that stands for a message's topic and payload, the same in every process: a redelivery
/// after a kill is recognised by it. It is the head of a SHA-256, so that nobody can make a message
/// that passes for somebody else's.
pub(super) fn fingerprint(received: &Received) -> u64 {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(&received.topic.len().to_be_bytes());
    digest.update(&received.topic);
    digest.update(&received.payload_bytes.to_be_bytes());
    digest.update(&received.payload);
    let mut head = [0; 8];
    head.copy_from_slice(&digest.finish().as_ref()[..8]);
    u64::from_be_bytes(head)
}
