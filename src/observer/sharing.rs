//! Which slot a message belongs to, where several observers share one broker.
//!
//! Each slot's session gets every message. A slot acknowledges the messages of other slots at once,
//! but only while the session of the slot that a message belongs to is known to be at the broker,
//! where the message waits too. What came before that session was made is not in it: a slot that
//! has held such a message serves it in the other's place.
//! Owns that rule, and the messages that are held meanwhile. Leaves to the lease what is known of
//! sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::delivery::ledger::{Admission, Ledger};
use crate::delivery::pending::PendingMessage;
use crate::observer::event_loop::Observer;
use crate::observer::inbound::Arrival;
use crate::protocol::address::Address;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::store::postgres::{Came, Lease, SharedBy};
use crate::telemetry::clock::Now;

/// So many messages without an ack may fill the broker's window: what comes next has waited behind
/// it. No broker's own window is smaller (RabbitMQ's is 10).
const LEAST_WINDOW: usize = 10;
const UNSETTLED: &str = "another slot's session was made just now: the store is to say so first";
/// For how long a share is not served before the log says so.
const LASTS: Duration = Duration::from_secs(5);

/// The share of one slot.
#[derive(Clone, Debug)]
pub struct Sharing {
    lease: Arc<Lease>,
    /// Stands for all slots of the store: they don't take each other for strangers.
    group: String,
    by: SharedBy,
    /// Of messages that the slots send through the broker's exchange, all but the last level.
    share: String,
}

impl Sharing {
    /// The share of the slot of this lease. `secret` is what the slots have in common, `share` the
    /// beginning of the topics of messages that go through the broker's exchange.
    pub fn new(lease: Arc<Lease>, secret: &str, (by, share): (SharedBy, String)) -> Self {
        let group = format!("{:016x}", mix(secret.bytes().fold(BASIS, step)));
        Self {
            lease,
            group,
            by,
            share,
        }
    }

    /// Whether the broker shares the messages out.
    pub(super) fn is_by_hash(&self) -> bool {
        self.by == SharedBy::Hash
    }

    /// The topic of a message that goes through the broker's exchange, to whom it will.
    pub(super) fn share_topic(&self, level: &str) -> Option<TopicName> {
        TopicName::parse(&format!("{}{level}", self.share)).ok()
    }

    /// The last level of such a topic.
    pub(super) fn share_level<'t>(&self, topic: &'t [u8]) -> Option<&'t str> {
        str::from_utf8(topic).ok()?.strip_prefix(&self.share)
    }

    /// What the slots are known by to each other. It does not tell their secret.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// The slot of a message, unless it is our own.
    pub(super) fn other_slot(&self, address: Option<&Address<'_>>, topic: &[u8]) -> Option<u16> {
        if self.is_by_hash() {
            // It has come to nobody else.
            return None;
        }
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

    /// What becomes of a message for another slot.
    fn turn(&self, owner: u16, came: Came) -> Turn {
        match self.lease.has(owner, came) {
            None => Turn::Held,
            Some(false) => Turn::Ours,
            Some(true) => Turn::Theirs,
        }
    }

    /// What keeps this slot from serving: sessions of others that are not known to be there.
    pub(super) fn fault(&self) -> Option<String> {
        let missing = self.lease.without_session();
        if missing.is_empty() {
            return (!self.lease.is_settled()).then(|| UNSETTLED.to_owned());
        }
        let missing: Vec<String> = missing.iter().map(u16::to_string).collect();
        Some(format!(
            "no session is known of slot {}: what is for it waits",
            missing.join(", ")
        ))
    }
}

/// Who has a message that is for another slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nobody knows yet.
    Held,
    /// Its session has it.
    Theirs,
    /// Its session was made later and has not got it: it is served here, in its place.
    Ours,
}

/// The messages of other slots that may not be acknowledged yet.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: Vec<HeldMessage>,
    blocked: Option<Blocked>,
    /// When our own session was lost last.
    lost: Option<Instant>,
    /// Whether the broker has made our session anew, and the others are not told yet.
    is_made_anew: bool,
    /// Since when the share is not served, and whether the log says so.
    faulty: Option<(Instant, bool)>,
}

/// What is held has filled the broker's window, or may have: what comes now may have waited there,
/// and be older than it seems.
#[derive(Debug)]
struct Blocked {
    since: Instant,
    /// When a message to ourselves was sent, after all that was held had been released. When that
    /// is back, nothing waits at the broker any more.
    probed: Option<UnixMillis>,
}

#[derive(Debug)]
struct HeldMessage {
    pending: PendingMessage,
    owner: u16,
    came: Came,
}

impl Held {
    /// Whether nothing is held, and nothing waits at the broker behind what was.
    fn is_clear(&self) -> bool {
        self.messages.is_empty() && self.blocked.is_none()
    }

    /// Tells the log of what lasts: at a start it takes a moment.
    fn say_fault(&mut self, fault: Option<&str>, now: Instant) {
        match (fault, self.faulty) {
            (Some(_), None) => self.faulty = Some((now, false)),
            (Some(fault), Some((since, false))) if now >= since + LASTS => {
                warn!("{fault}");
                self.faulty = Some((since, true));
            }
            (None, Some((_, said))) => {
                if said {
                    info!("serves its share of the messages");
                }
                self.faulty = None;
            }
            (Some(_) | None, _) => {}
        }
    }

    /// The moment from which on a message that is delivered `now` for the first time may have been
    /// at the broker.
    fn came(&self, now: Instant) -> Instant {
        self.blocked.as_ref().map_or(now, |blocked| blocked.since)
    }

    /// One more is held, and so many messages have no ack now.
    fn note_window(&mut self, unacknowledged: usize, now: Instant) {
        if unacknowledged >= LEAST_WINDOW {
            let blocked = self.blocked.get_or_insert(Blocked {
                since: now,
                probed: None,
            });
            blocked.probed = None;
        }
    }

    /// Whether to send a message to ourselves: nothing is held any more.
    fn poll_probe(&mut self, now: UnixMillis) -> bool {
        let blocked = self.blocked.as_mut();
        let Some(blocked) = blocked.filter(|blocked| blocked.probed.is_none()) else {
            return false;
        };
        if self.messages.is_empty() {
            blocked.probed = Some(now);
        }
        self.messages.is_empty()
    }

    /// A message to ourselves is back that was sent at this time.
    fn handle_probe(&mut self, sent: UnixMillis) {
        let is_behind = |blocked: &mut Blocked| blocked.probed.is_some_and(|since| sent >= since);
        self.blocked.take_if(is_behind);
    }

    /// Acknowledges messages of other slots whose sessions have them. Returns those that are ours
    /// to serve.
    fn release(&mut self, sharing: &Sharing, ledger: &mut Ledger) -> Vec<PendingMessage> {
        let mut ours = vec![];
        for held in std::mem::take(&mut self.messages) {
            match sharing.turn(held.owner, held.came) {
                Turn::Held => self.messages.push(held),
                Turn::Theirs => ledger.decided(held.pending.entry),
                Turn::Ours => ours.push(held.pending),
            }
        }
        ours
    }
}

impl Observer {
    /// Tells the other slots whether our session is at the broker, and looks for theirs.
    pub(super) fn tick_sharing(&mut self, now: Now) {
        self.tell_session();
        if self.sharing.is_some() {
            let fault = self.sharing_fault(now.instant);
            self.held.say_fault(fault.as_deref(), now.instant);
            self.health.set_sharing(fault);
        }
        self.tick_exchange(now);
        self.release_held();
    }

    /// The broker has our session, and may have had none.
    pub(super) fn note_subscribed(&mut self) {
        if !self.session.is_subscribed() {
            return;
        }
        if std::mem::take(&mut self.held.is_made_anew) {
            self.exchange.forget();
            // Nothing waits in it.
            self.held.blocked = None;
            if let Some(sharing) = &self.sharing {
                sharing.lease.note_new_session();
            }
        }
        self.tell_session();
    }

    /// Tells the other slots whether our session is at the broker.
    fn tell_session(&self) {
        if let Some(sharing) = &self.sharing {
            let granted = self.health.connected();
            let kept = granted.and_then(|granted| granted.session_expiry);
            sharing.set_session(self.session.is_subscribed(), kept);
        }
    }

    /// The session is connected.
    pub(super) fn note_session_up(&mut self) {
        // The connection on which it was made may end before it has subscribed: what came until
        // then is in it just as little.
        self.held.is_made_anew |= self.session.began_anew();
        if let Some(sharing) = &self.sharing
            && self.session.was_lost()
        {
            sharing.lease.distrust_sessions();
        }
    }

    /// The session's connection is lost: what was delivered on it comes again.
    pub(super) fn note_session_lost(&mut self) {
        self.held.lost = Some(self.clock.now().instant);
    }

    fn release_held(&mut self) {
        let Some(sharing) = &self.sharing else {
            return;
        };
        let (ledger, journal) = (&mut self.ledger, &mut self.journal);
        for pending in self.held.release(sharing, ledger) {
            let now = self.clock.now();
            self.inbound.admit_of_slot(pending, ledger, journal, now);
        }
        sharing.lease.set_clear(self.held.is_clear());
        let now = self.clock.now();
        if self.held.poll_probe(now.wall) {
            self.publish_own(self.probe(now), now);
        }
    }

    /// The observer's message to itself is back.
    pub(super) fn note_probe(&mut self, sent: UnixMillis) {
        self.held.handle_probe(sent);
    }

    /// Takes a message of another slot. Nothing follows from it here, unless it turns out that the
    /// other's session has not got it.
    pub(super) fn take_of_slot(&mut self, owner: u16, arrival: Arrival, admission: Admission) {
        // One that comes again while it is held has kept its entry.
        if admission == Admission::Resumed || !arrival.wants_ack() {
            return;
        }
        let Some(sharing) = &self.sharing else {
            return;
        };
        // One that was served here, or acknowledged.
        if matches!(admission, Admission::Repeated(_)) {
            return self.inbound.admit_own(&arrival, &mut self.ledger);
        }
        let now = self.clock.now().instant;
        let came = match (arrival.comes_again(), self.held.lost) {
            (false, _) => Came::At(self.held.came(now)),
            // It came first before the connection was lost, by which it came.
            (true, Some(lost)) => Came::At(lost),
            (true, None) => Came::Before,
        };
        let pending = self.inbound.enter(arrival, &mut self.ledger);
        let held = |pending| HeldMessage {
            pending,
            owner,
            came,
        };
        match sharing.turn(owner, came) {
            Turn::Theirs => self.ledger.decided(pending.entry),
            Turn::Ours => {
                self.held.messages.push(held(pending));
                // Behind those that came before it.
                self.release_held();
            }
            Turn::Held => {
                sharing.lease.set_clear(false);
                self.held.messages.push(held(pending));
                let unacknowledged = self.ledger.unacknowledged();
                self.held.note_window(unacknowledged, now);
            }
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
