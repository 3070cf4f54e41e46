//! Which slot a message belongs to, where several observers share one broker.
//!
//! Each slot's session gets every message. Whose it is not acknowledges it at once: but only while
//! the session of the slot whose it is is known to be at the broker, where it waits too. Owns that
//! rule, and the messages that are held meanwhile. Leaves to the lease what is known of sessions.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::ledger::{Admission, EntryId, Ledger};
use crate::observer::event_loop::Observer;
use crate::observer::inbound::Arrival;
use crate::protocol::address::Address;
use crate::store::postgres::Lease;

/// The share of one slot.
#[derive(Clone, Debug)]
pub struct Sharing {
    lease: Arc<Lease>,
    /// Stands for all slots of the store: they don't take each other for strangers.
    group: String,
}

impl Sharing {
    /// The share of the slot of this lease. `secret` is what the slots have in common.
    pub fn new(lease: Arc<Lease>, secret: &str) -> Self {
        let group = format!("{:016x}", mix(secret.bytes().fold(BASIS, step)));
        Self { lease, group }
    }

    /// What the slots are known by to each other. It does not tell their secret.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// The slot of a message, unless it is our own.
    pub(super) fn stranger(&self, address: Option<&Address<'_>>, topic: &[u8]) -> Option<u16> {
        let slot = self.lease.slot();
        let owner = owner(address, topic, slot.of());
        (owner != slot.number()).then_some(owner)
    }

    /// Tells the others whether our session is at the broker, and notes for how long it keeps one.
    fn set_session(&self, is_up: bool, kept: Option<Duration>) {
        if let Some(kept) = kept {
            self.lease.note_kept(kept);
        }
        self.lease.set_session(is_up);
    }

    /// What keeps this slot from serving: sessions of others that are not known to be there.
    pub(super) fn fault(&self) -> Option<String> {
        let missing = self.lease.without_session();
        if missing.is_empty() {
            return None;
        }
        let missing: Vec<String> = missing.iter().map(u16::to_string).collect();
        Some(format!(
            "no session is known of slot {}: what is for it waits",
            missing.join(", ")
        ))
    }
}

/// The messages of other slots that may not be acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<(EntryId, u16)>);

impl Held {
    /// Acknowledges the message of another slot in its turn, now or when that slot's session is
    /// known to be there.
    pub(super) fn take(
        &mut self,
        entry: EntryId,
        owner: u16,
        sharing: &Sharing,
        ledger: &mut Ledger,
    ) {
        match sharing.lease.has_session(owner) {
            true => ledger.decided(entry),
            false => self.0.push((entry, owner)),
        }
    }

    /// Lets go of those whose slots have their sessions.
    pub(super) fn release(&mut self, sharing: &Sharing, ledger: &mut Ledger) {
        self.0.retain(|(entry, owner)| {
            let is_there = sharing.lease.has_session(*owner);
            if is_there {
                ledger.decided(*entry);
            }
            !is_there
        });
    }
}

impl Observer {
    /// Tells the other slots whether our session is at the broker, and looks for theirs.
    pub(super) fn tick_sharing(&mut self) {
        if let Some(sharing) = &self.sharing {
            let kept = self
                .health
                .connected()
                .and_then(|granted| granted.session_expiry);
            sharing.set_session(self.session.is_subscribed(), kept);
            self.held.release(sharing, &mut self.ledger);
            self.health.set_sharing(sharing.fault());
        }
    }

    /// Whether a message belongs to another slot.
    pub(super) fn is_strange(&self, arrival: &Arrival) -> bool {
        self.stranger(arrival).is_some()
    }

    fn stranger(&self, arrival: &Arrival) -> Option<u16> {
        let sharing = self.sharing.as_ref()?;
        let received = &arrival.received;
        sharing.stranger(self.inbound.address(received).as_ref(), &received.topic)
    }

    /// Takes a message of another slot: nothing follows from it here.
    pub(super) fn take_strange(&mut self, arrival: &Arrival, admission: Admission) {
        // One that comes again while it is held has kept its entry.
        if admission == Admission::Resumed || !arrival.wants_ack() {
            return;
        }
        let entry = self.inbound.enter(arrival, &mut self.ledger);
        if let (Some(sharing), Some(owner)) = (&self.sharing, self.stranger(arrival)) {
            self.held.take(entry, owner, sharing, &mut self.ledger);
        }
    }
}

/// The slot of `slots` that a message belongs to: all of one user's to one, so that their rate is
/// counted in one place, and what they write keeps its order.
pub(super) fn owner(address: Option<&Address<'_>>, topic: &[u8], slots: u16) -> u16 {
    let hash = match address.map(sender) {
        Some((app, user)) => {
            let hash = app.bytes().fold(BASIS, step);
            // No identifier holds a slash.
            user.bytes().fold(step(hash, b'/'), step)
        }
        None => topic.iter().copied().fold(BASIS, step),
    };
    u16::try_from(mix(hash) % u64::from(slots)).expect("less than a u16")
}

/// Whose it is: the user under whose name it comes; of what a service writes, whom it is for.
fn sender<'a>(address: &Address<'a>) -> (&'a str, &'a str) {
    match address {
        Address::Outgoing(outgoing) => (outgoing.app.as_str(), outgoing.sender.as_str()),
        Address::Receipt(timeline, _)
        | Address::Conversation(timeline)
        | Address::Archive(timeline)
        | Address::Block(timeline)
        | Address::Inject(timeline) => (timeline.app.as_str(), timeline.inbox_of.as_str()),
        Address::Presence { app, user, .. }
        | Address::Fetch { app, user }
        | Address::ConversationsFetch { app, user } => (app.as_str(), user.as_str()),
        Address::Groups { app } => (app.as_str(), ""),
    }
}

/// FNV-1a (draft-eastlake-fnv): the same in every process and version.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;

fn step(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// The low bits of FNV depend on the low bits of the text alone: this has every bit of the hash
/// depend on all of them (the end of `MurmurHash3`).
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::test_support::{received, router};

    fn owner_of(topic: &str, slots: u16) -> u16 {
        let received = received(topic.as_bytes(), b"{}");
        let router = router();
        owner(router.address(&received).as_ref(), &received.topic, slots)
    }

    #[test]
    fn all_that_comes_under_a_users_name_belongs_to_one_slot() {
        for user in ["alice", "bob", "group-1", "x"] {
            let topics = [
                format!("apps/a/outgoing/users/{user}/messages/carol/outgoing"),
                format!("apps/a/outgoing/users/{user}/messages/group-7/outgoing"),
                format!("apps/a/users/{user}/presence/phone"),
                format!("apps/a/users/{user}/inbox/fetch"),
            ];
            let slots: Vec<u16> = topics.iter().map(|topic| owner_of(topic, 4)).collect();
            assert!(
                slots.iter().all(|slot| *slot == slots[0]),
                "{user} {slots:?}"
            );
        }
    }

    #[test]
    fn users_spread_over_the_slots_and_stay_where_they_are() {
        for slots in [2, 3, 4] {
            let mut users = vec![0_usize; usize::from(slots)];
            for n in 0..1_200 {
                let topic = format!("apps/a/outgoing/users/u{n}/messages/carol/outgoing");
                users[usize::from(owner_of(&topic, slots))] += 1;
            }
            let fair = 1_200 / usize::from(slots);
            assert!(
                users.iter().all(|count| count.abs_diff(fair) < fair / 5),
                "{users:?}"
            );
        }
        // A version that said otherwise would give a user's messages to nobody, or to two.
        let topic = "apps/a/outgoing/users/alice/messages/carol/outgoing";
        assert_eq!([2, 3, 4].map(|slots| owner_of(topic, slots)), [1, 2, 1]);
    }
}
