//! Whether messages pass, and if not, why: what `/readyz`, the service manager and the status say.
//!
//! Owns the state; the observer keeps it up to date.

use std::sync::{Arc, Mutex};

/// Whether messages pass, kept up to date by the daemon.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    session: Option<String>,
    store: Option<String>,
    lanes: Vec<Option<String>>,
}

impl Health {
    /// Nothing is connected yet.
    pub fn new(lanes: usize) -> Self {
        let waiting = || Some("not connected yet".to_owned());
        Self(Arc::new(Mutex::new(State {
            session: waiting(),
            store: None,
            lanes: (0..lanes).map(|_| waiting()).collect(),
        })))
    }

    /// The session receives, or why it does not.
    pub fn set_session(&self, fault: Option<String>) {
        self.0.lock().expect("nobody panics holding it").session = fault;
    }

    /// The store works, or why it does not.
    pub fn set_store(&self, fault: Option<String>) {
        self.0.lock().expect("nobody panics holding it").store = fault;
    }

    /// A publishing connection is up, or why it is not.
    pub fn set_lane(&self, lane: usize, fault: Option<String>) {
        self.0.lock().expect("nobody panics holding it").lanes[lane] = fault;
    }

    /// What keeps messages from passing; nothing, if they do.
    pub fn faults(&self) -> Vec<String> {
        let state = self.0.lock().expect("nobody panics holding it");
        let session = state
            .session
            .iter()
            .map(|fault| format!("session: {fault}"));
        let lanes = state.lanes.iter().enumerate().filter_map(|(lane, fault)| {
            fault
                .as_ref()
                .map(|fault| format!("publisher {lane}: {fault}"))
        });
        let store = state.store.iter().map(|fault| format!("store: {fault}"));
        session.chain(store).chain(lanes).collect()
    }
}
