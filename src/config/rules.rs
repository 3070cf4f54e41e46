//! The section of what is served and what is refused: layouts, checks, the decision service.
//!
//! Owns putting these settings together. Applying them is the business of `rules`.

use super::policy_file::PolicyFile;
use super::reader::Reader;
use super::{decision_service, layouts};
use crate::http::decision_service::Settings as DecisionServiceSettings;
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Controls;
use crate::rules::router::Router;
use crate::rules::webhook_event::EventKinds;
use crate::store::{OfflineDelivery, StoreSettings};

const REDELIVER_NEEDS_PRESENCE: &str = "redeliver needs presence, and --presence-enabled is false";

/// What is served, and what is refused.
#[derive(Clone, Debug)]
pub struct RulesSection {
    /// Layouts, checks, dead letters.
    pub router: Router,
    /// Where the checks come from; it is read again while the observer runs.
    pub policy_file: PolicyFile,
    /// The service that is asked about each message, if there is one.
    pub decision_service: Option<DecisionServiceSettings>,
    /// Which control topics are served.
    pub controls: Controls,
}

impl RulesSection {
    /// `events` are those that webhooks are told of.
    pub(super) fn read(
        reader: &mut Reader<'_>,
        controls: Controls,
        events: EventKinds,
    ) -> Option<Self> {
        let decision_service = decision_service::read(reader);
        let broker_kind = reader.choice(
            "broker-kind",
            &[("any", BrokerKind::Any), ("rabbitmq", BrokerKind::RabbitMq)],
        );
        let (policy_file, policy) = PolicyFile::first_read(reader, broker_kind);
        let router = layouts::read_router(reader, controls, policy, events)?;
        Some(Self {
            router,
            policy_file,
            decision_service,
            controls,
        })
    }
}

impl RulesSection {
    /// The largest payload of a message, where no app has a limit of its own.
    pub(super) fn max_payload_bytes(&self) -> usize {
        self.router.policy.rules.max_payload_bytes
    }
}

/// Which control topics are served: they depend on the store, and on the wish for presence.
pub(super) fn read_controls(reader: &mut Reader<'_>, store: Option<&StoreSettings>) -> Controls {
    match (reader.boolean("presence-enabled"), store) {
        (_, None) => Controls::Off,
        (true, Some(_)) => Controls::Served,
        (false, Some(store)) => {
            if store.offline == OfflineDelivery::Redeliver {
                reader.fail("offline", REDELIVER_NEEDS_PRESENCE);
            }
            Controls::WithoutPresence
        }
    }
}
