//! Messages that the decision service is asked about.
//!
//! Owns which those are, and what becomes of the answers. With a store, a message goes into a batch
//! twice: first the delivery log takes it as it came, and it is acknowledged; with the answer it
//! goes into another batch, which decides on it. Leaves order and bounds to the
//! [`DecisionService`](crate::http::decision_service::DecisionService).

use tracing::{error, warn};

use crate::delivery::ledger::{Ledger, Message};
use crate::delivery::pending::{PendingMessage, Question, Via};
use crate::http::decision_service::Verdict;
use crate::observer::inbound::{Inbound, fingerprint};
use crate::observer::journal::Journal;
use crate::observer::processor::Decided;
use crate::protocol::message::Received;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::request::Request;
use crate::store::LoggedQuestion;
use crate::telemetry::clock::Now;

const UNJUDGED: &str = "messages that waited for a decision pass without one: there is no decision \
    service any more (--policy-url)";
const DAMAGED: &str = "a message that waited for a decision cannot be read from the store (store \
    check): it is refused";

impl Inbound {
    /// How many messages wait for the decision service.
    pub(super) fn asked(&self) -> usize {
        self.decision_service
            .as_ref()
            .map_or(0, |service| service.waiting())
    }

    /// Asks the decision service about a message that nothing else speaks against. Any other
    /// message goes to the next batch.
    pub(super) fn consult(
        &mut self,
        mut pending: PendingMessage,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) {
        let Some(service) = &mut self.decision_service else {
            return self.decide_unasked(pending, ledger);
        };
        // A cheap clone: it shares the payload's memory.
        let received = pending.received.clone();
        let request = self.router.read(&received);
        let (Ok(Request::Verbatim { outgoing, .. }) | Ok(Request::Message { outgoing, .. })) =
            request
        else {
            return self.decide_unasked(pending, ledger);
        };
        let is_from_broker = pending.via.part().is_none() && pending.fingerprint.is_some();
        if self.logs_questions && is_from_broker && pending.question == Question::None {
            pending.question = Question::Due;
        }
        let due = (pending.question == Question::Due).then(|| pending.clone());
        let Some(turned_away) = service.ask(&outgoing, pending) else {
            self.waiting.extend(due);
            return;
        };
        let refused = Refused {
            detail: Some(turned_away.why.into()),
            ..Refusal::RateLimited.into()
        };
        let pending = PendingMessage {
            question: Question::None,
            ..turned_away.message
        };
        self.refuse(pending, refused, ledger, journal, now);
    }

    /// A message goes to the next batch without a question.
    fn decide_unasked(&mut self, pending: PendingMessage, ledger: &mut Ledger) {
        if pending.question == Question::Logged {
            ledger.question_answered(pending.entry);
        }
        self.waiting.push(pending);
    }

    /// Takes what an earlier process has acknowledged, and left without a decision. It is asked
    /// about when the session is proved.
    pub(super) fn resume(
        &mut self,
        questions: Vec<LoggedQuestion>,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) {
        if let Some(service) = &mut self.decision_service {
            // What runs on the same host may start just after the observer.
            service.hold_logged();
            self.holds_questions = true;
        } else if !questions.is_empty() {
            let messages = questions.len();
            warn!(messages, "{UNJUDGED}");
        }
        for question in questions {
            let received = Received::new(question.topic, question.payload, false);
            let message = Message {
                received: received.clone(),
                id: question.id,
                fingerprint: fingerprint(&received),
                since: now.instant,
            };
            journal.received(self.router.address(&received).as_ref(), true);
            journal.admitted(question.id);
            let fingerprint = Some(message.fingerprint);
            let entry = ledger.insert(message, None);
            ledger.question_logged(entry);
            let pending = PendingMessage {
                entry,
                received,
                id: question.id,
                fingerprint,
                repeated: true,
                via: Via::Broker,
                question: Question::Logged,
                refused: None,
            };
            if question.is_damaged {
                let id = pending.id;
                error!(message_id = %id, "{DAMAGED}");
                ledger.question_answered(entry);
                self.refuse(pending, Refusal::Internal.into(), ledger, journal, now);
            } else {
                self.consult(pending, ledger, journal, now);
            }
        }
    }

    /// The session has proved that it delivers: what an earlier process has left is asked about.
    pub(super) fn handle_session_proved(&mut self) {
        if std::mem::take(&mut self.holds_questions)
            && let Some(service) = &mut self.decision_service
        {
            service.release_logged();
        }
    }

    /// Nothing more is asked about what the delivery log holds: the next process does.
    pub(super) fn handle_stop(&mut self) {
        self.holds_questions = false;
        if let Some(service) = &mut self.decision_service {
            service.hold_logged();
        }
    }

    /// A batch has logged a message, or has decided on it.
    pub(super) fn handle_batched(&mut self, decided: &Decided) {
        if let Some(service) = &mut self.decision_service {
            match decided.is_question {
                true => service.handle_logged(decided.entry),
                false => service.withdraw(decided.entry),
            }
        }
    }

    /// The next answer of the decision service; never, if there is none. Safe to cancel.
    pub(super) async fn next_verdict(&mut self) -> (PendingMessage, Verdict) {
        match &mut self.decision_service {
            Some(service) => service.next().await,
            None => std::future::pending().await,
        }
    }

    /// Takes an answer of the decision service.
    pub(super) fn handle_verdict(
        &mut self,
        mut pending: PendingMessage,
        verdict: Verdict,
        ledger: &mut Ledger,
        journal: &mut Journal,
        now: Now,
    ) {
        if pending.question == Question::Logged {
            ledger.question_answered(pending.entry);
        }
        match verdict {
            Verdict::Pass => self.waiting.push(pending),
            Verdict::Replace(payload) => {
                pending.received.payload_bytes = payload.len();
                pending.received.payload = payload;
                self.waiting.push(pending);
            }
            Verdict::Refuse(refused) => self.refuse(pending, refused, ledger, journal, now),
        }
    }
}
