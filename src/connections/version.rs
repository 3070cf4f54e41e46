//! Which version of MQTT to speak (`--protocol auto`).
//!
//! Owns the choice: it is made by trying, and kept for the life of the process. Leaves the attempts
//! to `connector.rs`.

use std::sync::{Mutex, MutexGuard};

use crate::mqtt::{Cause, LinkError, Protocol};

/// The version of MQTT that all connections of one observer speak.
#[derive(Debug)]
pub(super) struct VersionChooser {
    /// The version the operator demands, if any.
    fixed: Option<Protocol>,
    state: Mutex<VersionState>,
}

#[derive(Debug)]
struct VersionState {
    /// The version of the next connection.
    protocol: Protocol,
    /// The broker has answered a CONNECT, so it speaks that version.
    is_settled: bool,
    /// CONNECTs in a row that the broker has not answered at all.
    unanswered: u32,
}

/// CONNECTs without an answer, after which the versions take turns: some brokers do not answer a
/// version 5 CONNECT (seen on amqtt).
const UNANSWERED: u32 = 2;

impl VersionChooser {
    /// Begins with version 5, unless `fixed` demands another.
    pub(super) fn new(fixed: Option<Protocol>) -> Self {
        Self {
            fixed,
            state: Mutex::new(VersionState {
                protocol: Protocol::V5,
                is_settled: false,
                unanswered: 0,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, VersionState> {
        self.state.lock().expect("nobody panics holding it")
    }

    /// The version of the next connection.
    pub(super) fn protocol(&self) -> Protocol {
        self.fixed.unwrap_or(self.state().protocol)
    }

    /// Whether the operator demands version 5.
    pub(super) fn is_fixed_to_5(&self) -> bool {
        self.fixed == Some(Protocol::V5)
    }

    /// Whether the broker has answered a CONNECT.
    pub(super) fn is_settled(&self) -> bool {
        self.state().is_settled
    }

    /// The broker has answered a CONNECT of the present version. Even a refusal settles the choice.
    pub(super) fn handle_answer(&self) {
        self.state().is_settled = true;
    }

    /// A connection failed before the broker accepted it. Returns the version to try at once, if
    /// that may help.
    ///
    /// RabbitMQ before 3.13 closes the socket on a version 5 CONNECT, and other brokers answer in a
    /// form that version 5 does not know. No answer at all tells little: a broker under a memory
    /// alarm gives none. So the versions take turns then, after pauses.
    pub(super) fn handle_failure(&self, protocol: Protocol, error: &LinkError) -> Option<Protocol> {
        match error.cause {
            Cause::BadCredentials
            | Cause::NotAuthorized
            | Cause::BadClientId
            | Cause::Unavailable => {
                self.handle_answer();
                None
            }
            Cause::ProtocolVersion | Cause::Closed | Cause::Other => {
                let mut state = self.state();
                state.unanswered = 0;
                if state.is_settled || self.fixed.is_some() {
                    return None;
                }
                state.protocol = other(protocol);
                // After 3.1.1 has failed, too, version 5 is tried again, but not at once.
                (protocol == Protocol::V5).then_some(state.protocol)
            }
            Cause::TimedOut => {
                let mut state = self.state();
                state.unanswered += 1;
                if state.unanswered >= UNANSWERED && !state.is_settled && self.fixed.is_none() {
                    state.protocol = other(protocol);
                }
                None
            }
            Cause::Unreachable
            | Cause::Tls
            | Cause::TakenOver
            | Cause::Expired
            | Cause::Renewed
            | Cause::ClosedOnSubscribe => None,
        }
    }
}

fn other(protocol: Protocol) -> Protocol {
    match protocol {
        Protocol::V5 => Protocol::V311,
        Protocol::V311 => Protocol::V5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(cause: Cause) -> LinkError {
        LinkError::new(cause, "a failure")
    }

    #[test]
    fn a_broker_that_closes_on_version_5_is_tried_with_3_1_1_at_once() {
        let version = VersionChooser::new(None);
        let closed = failure(Cause::Closed);
        let next = version.handle_failure(Protocol::V5, &closed);
        assert_eq!(next, Some(Protocol::V311));
        assert_eq!(version.protocol(), Protocol::V311);
        // Both fail: the broker may be starting, so version 5 gets its turn again, after a pause.
        assert_eq!(version.handle_failure(Protocol::V311, &closed), None);
        assert_eq!(version.protocol(), Protocol::V5);
    }

    #[test]
    fn where_nobody_answers_the_versions_take_turns() {
        let version = VersionChooser::new(None);
        let silent = failure(Cause::TimedOut);
        let mut tried = vec![];
        for _ in 0..5 {
            tried.push(version.protocol());
            assert_eq!(version.handle_failure(version.protocol(), &silent), None);
        }
        let (v5, v3) = (Protocol::V5, Protocol::V311);
        assert_eq!(tried, [v5, v5, v3, v5, v3]);
        let settled = VersionChooser::new(None);
        settled.handle_answer();
        for version in [settled, VersionChooser::new(Some(v5))] {
            for _ in 0..5 {
                version.handle_failure(v5, &silent);
            }
            assert_eq!(version.protocol(), v5);
        }
    }

    #[test]
    fn an_answer_settles_the_version() {
        let version = VersionChooser::new(None);
        let refused = failure(Cause::BadCredentials);
        assert_eq!(version.handle_failure(Protocol::V5, &refused), None);
        assert_eq!(
            version.handle_failure(Protocol::V5, &failure(Cause::Closed)),
            None
        );
        assert_eq!(version.protocol(), Protocol::V5);
    }

    #[test]
    fn a_demanded_version_is_never_changed() {
        let version = VersionChooser::new(Some(Protocol::V5));
        assert_eq!(
            version.handle_failure(Protocol::V5, &failure(Cause::Closed)),
            None
        );
        assert_eq!(version.protocol(), Protocol::V5);
    }
}
