//! What `scripts/fuzz` needs to have requests of the HTTP API served from a store.

use std::hash::RandomState;

use crate::delivery::ledger::EntryId;
use crate::delivery::pending::{ApiPart, PendingMessage, Question, Via};
use crate::http::api::handover::{Handover, Outcome};
use crate::observer::processor::{Batch, Persistence, Processor};
use crate::protocol::message_id::MessageIds;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::rules::router::Router;
use crate::rules::submission::{Authority, Task};
use crate::store::{OutboxRequest, Store};
use crate::telemetry::Metrics;

/// Room for the copies of a group's message in one step.
const ROOM: usize = 1_000;

/// An observer without a broker.
pub struct Served {
    processor: Processor,
    router: Router,
    ids: MessageIds,
    now: u64,
}

impl Served {
    /// One with an empty store.
    pub fn new(router: Router, store: Box<dyn Store>) -> Self {
        let persistence = Persistence::store(store);
        Self {
            processor: Processor::new(router.clone(), persistence, Metrics::new(&[])),
            router,
            ids: MessageIds::new(RandomState::new()),
            now: 1_800_000_000_000,
        }
    }

    /// Does what is handed in.
    ///
    /// # Panics
    /// It cannot be stored, or leads to a publish without a valid topic.
    pub fn serve(&mut self, mut handover: Handover) {
        if !handover.take() {
            return;
        }
        let submission = handover.take_submission();
        self.now += 1;
        let now = UnixMillis::new(self.now);
        let parts = submission.messages.len();
        let messages = submission.messages.into_iter().enumerate();
        let messages = messages.map(|(n, submitted)| PendingMessage {
            entry: EntryId::for_tests(n),
            received: submitted.received,
            id: self.ids.next(now),
            fingerprint: None,
            repeated: false,
            via: Via::Api(Box::new(ApiPart {
                authority: match submitted.task {
                    Task::Announcement(_) => Authority::Admin,
                    _ => submission.authority,
                },
                task: submitted.task,
                following: parts - n - 1,
            })),
            refused: None,
            question: Question::None,
        });
        let messages: Vec<PendingMessage> = messages.collect();
        let id = messages.first().expect("at least one").id;
        let batch = Batch {
            messages,
            room_for_bulk: ROOM,
            acknowledged: None,
            published: vec![],
            held: vec![],
            backlog: None,
            left: None,
            resumed: vec![],
            policy: self.router.policy.clone(),
            outbox_request: OutboxRequest::default(),
            now,
        };
        let processed = self.processor.process(&batch).expect("stored");
        for decided in &processed.decided {
            let publishes = decided.publishes.iter().chain(&decided.bulk);
            for publish in publishes.chain(&decided.answers) {
                assert!(TopicName::parse(publish.topic.as_str()).is_ok());
            }
        }
        let first = processed.decided.into_iter().next().expect("decided");
        let _ = handover.answer.send(Ok(Outcome {
            id,
            refusal: first.refusal,
            group: first.group,
        }));
    }
}
