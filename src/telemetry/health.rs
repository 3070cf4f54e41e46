//! Whether messages pass, and if not, why: what `/readyz`, the service manager and the status say.
//!
//! Owns the state; the observer keeps it up to date.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::mqtt::Connected;

/// Something that keeps messages from passing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it is.
    pub part: Part,
    /// Why: in words that may name the broker, its user, and files.
    pub why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.why)
    }
}

/// What messages need to pass. Its text names it, and tells nothing more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The connection that receives.
    Session,
    /// A connection that publishes, by name.
    Publisher(String),
    /// Where messages are kept.
    Store,
    /// The share of the messages that this slot, or this process, has to serve.
    Sharing,
    /// Something of one of the slots that the process serves.
    OfSlot(u16, Box<Part>),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Session => f.write_str("session"),
            Self::Publisher(name) => write!(f, "publisher {name}"),
            Self::Store => f.write_str("store"),
            Self::Sharing => f.write_str("slots"),
            Self::OfSlot(slot, part) => write!(f, "slot {slot}: {part}"),
        }
    }
}

/// Whether messages pass. Clones share the state.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    connected: Option<Connected>,
    session: Option<String>,
    /// Whether the session's connection is up.
    is_reached: bool,
    store: Option<String>,
    publishers: Vec<Publisher>,
    /// Why the share of the messages is not served.
    sharing: Option<String>,
    /// The slots that the process serves, by number.
    slots: BTreeMap<u16, Health>,
}

/// A publishing connection.
#[derive(Debug)]
struct Publisher {
    name: String,
    /// Why it is not up.
    fault: Option<String>,
}

impl Health {
    /// Nothing is connected yet. `publishers` are the names of the publishing connections.
    pub fn new(publishers: Vec<String>) -> Self {
        let waiting = || Some("not connected yet".to_owned());
        let publisher = |name| Publisher {
            name,
            fault: waiting(),
        };
        Self(Arc::new(Mutex::new(State {
            session: waiting(),
            publishers: publishers.into_iter().map(publisher).collect(),
            ..State::default()
        })))
    }

    /// The session receives messages (`None`), or why it does not.
    pub fn set_session(&self, fault: Option<String>) {
        self.0.lock().expect("nobody panics holding it").session = fault;
    }

    /// The session's connection to the broker is up, whether messages come on it or not; or it is
    /// not.
    pub fn set_reached(&self, is_reached: bool) {
        self.0.lock().expect("nobody panics holding it").is_reached = is_reached;
    }

    /// Whether the session's connection to the broker is up.
    pub fn is_reached(&self) -> bool {
        self.0.lock().expect("nobody panics holding it").is_reached
    }

    /// The store works (`None`), or why it does not.
    pub fn set_store(&self, fault: Option<String>) {
        self.0.lock().expect("nobody panics holding it").store = fault;
    }

    /// The share of the messages is served (`None`), or why it is not.
    pub fn set_sharing(&self, fault: Option<String>) {
        self.0.lock().expect("nobody panics holding it").sharing = fault;
    }

    /// The process serves a slot, which is as well as `health` says; or no longer.
    pub fn set_slot(&self, slot: u16, health: Option<Self>) {
        let slots = &mut self.0.lock().expect("nobody panics holding it").slots;
        match health {
            Some(health) => slots.insert(slot, health),
            None => slots.remove(&slot),
        };
    }

    /// A publishing connection is up (`None`), or why it is not.
    ///
    /// # Panics
    /// If there is no such connection.
    pub fn set_publisher(&self, publisher: usize, fault: Option<String>) {
        let publishers = &mut self.0.lock().expect("nobody panics holding it").publishers;
        publishers[publisher].fault = fault;
    }

    /// The broker has accepted the session's connection.
    pub fn set_connected(&self, connected: Connected) {
        self.0.lock().expect("nobody panics holding it").connected = Some(connected);
    }

    /// What the broker granted to the session when it connected last; `None` before it has.
    pub fn connected(&self) -> Option<Connected> {
        let state = self.0.lock().expect("nobody panics holding it");
        let mut slots = state.slots.values();
        state
            .connected
            .or_else(|| slots.find_map(Health::connected))
    }

    /// Everything that keeps messages from passing; empty if they pass.
    pub fn faults(&self) -> Vec<Fault> {
        let state = self.0.lock().expect("nobody panics holding it");
        let fault = |part: Part, why: &Option<String>| {
            let why = why.clone()?;
            Some(Fault { part, why })
        };
        let publishers = state
            .publishers
            .iter()
            .filter_map(|one| fault(Part::Publisher(one.name.clone()), &one.fault));
        let slots = state.slots.iter().flat_map(|(slot, health)| {
            let of_slot = |fault: Fault| Fault {
                part: Part::OfSlot(*slot, Box::new(fault.part)),
                why: fault.why,
            };
            health.faults().into_iter().map(of_slot)
        });
        let session = fault(Part::Session, &state.session).into_iter();
        let own = session
            .chain(fault(Part::Store, &state.store))
            .chain(publishers);
        own.chain(fault(Part::Sharing, &state.sharing))
            .chain(slots)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_the_connection_that_it_is_of() {
        let health = Health::new(["0", "quarantine"].map(str::to_owned).to_vec());
        health.set_session(None);
        health.set_publisher(0, None);
        let texts = || {
            health
                .faults()
                .iter()
                .map(Fault::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(texts(), ["publisher quarantine: not connected yet"]);
        health.set_publisher(1, Some("refused".to_owned()));
        assert_eq!(texts(), ["publisher quarantine: refused"]);
        let process = Health::default();
        process.set_sharing(Some("some are served by nobody".to_owned()));
        process.set_slot(3, Some(health.clone()));
        let texts = process
            .faults()
            .iter()
            .map(Fault::to_string)
            .collect::<Vec<_>>();
        let of_slot = "slot 3: publisher quarantine: refused";
        assert_eq!(texts, ["slots: some are served by nobody", of_slot]);
    }
}
