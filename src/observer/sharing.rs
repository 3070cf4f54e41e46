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
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::store::postgres::{Came, Lease, SharedBy};
use crate::telemetry::clock::Now;

/// A message that was read longer ago than this when it is taken has waited here.
const LATE: Duration = Duration::from_millis(50);
/// When a message to ourselves is sent once more that has not come back.
const PROBE_AGAIN: Duration = Duration::from_secs(10);
const UNSETTLED: &str = "a session of another slot is new, and the store does not yet say that \
    nothing is held here from before";
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
    /// The last message that is served here and may not be acknowledged yet.
    served: Option<MessageId>,
    /// Whether the last message was taken late.
    is_late: bool,
    /// How many had been read and not been taken at the last tick.
    waiting: usize,
    /// The last tick at which there was room for more.
    had_room: Option<Instant>,
    /// Whether nothing is taken any more.
    is_stopping: bool,
    /// Whether the broker has made our session anew, and the others are not told yet.
    is_made_anew: bool,
    /// Since when the share is not served, and whether the log says so.
    faulty: Option<(Instant, bool)>,
}

/// What comes now may have waited at the broker, and be older than it seems: behind what is held,
/// which may have filled the window, or for the connection.
#[derive(Debug)]
struct Blocked {
    since: Came,
    /// When a message to ourselves was sent, after all that was held had been released. When that
    /// is back, nothing waits at the broker any more.
    probed: Option<Probed>,
}

/// When a message to ourselves was sent, for the first time and the last.
#[derive(Clone, Copy, Debug)]
struct Probed {
    first: UnixMillis,
    last: UnixMillis,
}

#[derive(Debug)]
struct HeldMessage {
    pending: PendingMessage,
    owner: u16,
    came: Came,
}

impl Held {
    /// Whether nothing is held, nor has been read or waits at the broker that would have to be.
    fn is_clear(&mut self, ledger: &Ledger) -> bool {
        if !self.messages.is_empty() || self.blocked.is_some() || self.is_stopping {
            return false;
        }
        let is_acknowledged = |served: &mut MessageId| ledger.is_acknowledged_up_to(*served);
        self.served.take_if(is_acknowledged);
        let is_prompt = self.waiting == 0 || !self.is_late;
        self.served.is_none() && is_prompt
    }

    /// At a tick: so many messages have been read and not been taken. Without room, more may wait
    /// at the broker, since the last tick at which there was some.
    fn note_waiting(&mut self, waiting: usize, has_room: bool, now: Instant) {
        self.waiting = waiting;
        if has_room {
            self.had_room = Some(now);
        } else if self.blocked.is_none() {
            self.block(Came::At(self.had_room.unwrap_or(now)));
        }
    }

    /// A message is taken that was read then.
    pub(super) fn note_taken(&mut self, read_at: Instant, now: Instant) {
        self.is_late = now.saturating_duration_since(read_at) > LATE;
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

    /// When a message came that was read then and is delivered for the first time.
    fn came(&self, read_at: Instant) -> Came {
        let blocked = self.blocked.as_ref();
        blocked.map_or(Came::At(read_at), |blocked| blocked.since)
    }

    /// What comes from here on may have come since then.
    fn block(&mut self, since: Came) {
        let blocked = self.blocked.get_or_insert(Blocked {
            since,
            probed: None,
        });
        if since == Came::SinceLeft {
            blocked.since = since;
        }
        blocked.probed = None;
    }

    /// Whether to send a message to ourselves: nothing is held any more.
    fn poll_probe(&mut self, now: UnixMillis) -> bool {
        let Some(blocked) = self.blocked.as_mut().filter(|_| self.messages.is_empty()) else {
            return false;
        };
        let probed = blocked.probed;
        if probed.is_some_and(|probed| now.before(PROBE_AGAIN) < probed.last) {
            return false;
        }
        blocked.probed = Some(Probed {
            first: probed.map_or(now, |probed| probed.first),
            last: now,
        });
        true
    }

    /// A message to ourselves is back that was sent at this time.
    fn handle_probe(&mut self, sent: UnixMillis) {
        let is_ours = |probed: Probed| sent == probed.first || sent == probed.last;
        self.blocked
            .take_if(|blocked| blocked.probed.is_some_and(is_ours));
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

    /// At a tick: so many messages have been read and not been taken.
    pub(super) fn note_waiting(&mut self, waiting: usize) {
        if self.sharing.is_some() {
            let now = self.clock.now().instant;
            self.held.note_waiting(waiting, self.has_room(), now);
        }
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
        self.release_held();
    }

    /// Tells the other slots whether our session is at the broker.
    pub(super) fn tell_session(&self) {
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
        if !self.session.began_anew() {
            // Whatever came while nobody was connected, or was not acknowledged before.
            self.held.block(Came::SinceLeft);
            if let Some(sharing) = &self.sharing {
                sharing.lease.look_again();
            }
        }
        if let Some(sharing) = &self.sharing
            && self.session.was_lost()
        {
            sharing.lease.distrust_sessions();
        }
    }

    /// From here on what comes is left to the broker.
    pub(super) fn note_stopping(&mut self) {
        self.held.is_stopping = true;
        if let Some(sharing) = &self.sharing {
            sharing.lease.set_clear(false);
        }
    }

    fn release_held(&mut self) {
        let Some(sharing) = &self.sharing else {
            return;
        };
        let (ledger, journal) = (&mut self.ledger, &mut self.journal);
        for pending in self.held.release(sharing, ledger) {
            let now = self.clock.now();
            self.held.served = self.held.served.max(Some(pending.id));
            self.inbound.admit_of_slot(pending, ledger, journal, now);
        }
        let is_subscribed = self.session.is_subscribed();
        let is_clear = is_subscribed && self.held.is_clear(ledger);
        sharing.lease.set_clear(is_clear);
        let now = self.clock.now();
        // Where the broker takes nothing now, it would only be one more that waits.
        let may_publish = self.publishers.all_up() && !self.processing.is_stalled();
        let may_probe = is_subscribed && may_publish && !self.held.is_stopping;
        if may_probe && self.held.poll_probe(now.wall) {
            self.publish_own(self.probe(now), now);
        }
    }

    /// The observer's message to itself is back.
    pub(super) fn note_probe(&mut self, sent: UnixMillis) {
        self.held.handle_probe(sent);
        self.release_held();
    }

    /// Takes a message of another slot. Nothing follows from it here, unless it turns out that the
    /// other's session has not got it.
    pub(super) fn take_of_slot(
        &mut self,
        owner: u16,
        arrival: Arrival,
        admission: Admission,
        read_at: Instant,
    ) {
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
        let came = match arrival.comes_again() {
            true => Came::SinceLeft,
            false => self.held.came(read_at),
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
                self.held.block(came);
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
    use std::hash::RandomState;

    use super::*;
    use crate::delivery::ledger::{Ack, Message};
    use crate::protocol::message_id::MessageIds;
    use crate::rules::test_support::{received, router};
    use crate::telemetry::clock::Clock;

    #[test]
    fn what_waits_at_the_broker_is_as_old_as_may_be_until_a_message_to_ourselves_is_back() {
        let at = |millis: u64| UnixMillis::new(1_000 + millis);
        let ledger = Ledger::new(1, 10, Duration::from_secs(5));
        let now = Clock.now().instant;
        let (mut held, later) = (Held::default(), now + Duration::from_millis(1));
        assert!(held.is_clear(&ledger) && !held.poll_probe(at(0)));
        held.block(Came::At(now));
        held.block(Came::At(later));
        assert_eq!(held.came(later), Came::At(now), "behind the first");
        held.block(Came::SinceLeft);
        held.block(Came::At(later));
        assert_eq!(held.came(later), Came::SinceLeft);
        assert!(!held.is_clear(&ledger));
        assert!(held.poll_probe(at(0)));
        assert!(!held.poll_probe(at(9_999)), "it is on its way");
        assert!(held.poll_probe(at(10_000)), "it may be lost");
        held.handle_probe(at(9_998));
        assert_eq!(held.came(later), Came::SinceLeft, "it is somebody else's");
        held.handle_probe(at(0));
        assert_eq!(held.came(later), Came::At(later));
        assert!(held.is_clear(&ledger));
    }

    #[test]
    fn nothing_is_clear_while_messages_wait_here_or_are_left_to_the_broker() {
        let ledger = Ledger::new(1, 10, Duration::from_secs(5));
        let (mut held, now) = (Held::default(), Clock.now().instant);
        held.note_waiting(3, true, now);
        held.note_taken(now, now + LATE);
        assert!(held.is_clear(&ledger), "those that wait were read just now");
        held.note_taken(now, now + 2 * LATE);
        assert!(!held.is_clear(&ledger));
        held.note_waiting(0, true, now);
        assert!(held.is_clear(&ledger));
        let later = now + Duration::from_millis(500);
        held.note_waiting(0, false, later);
        assert!(!held.is_clear(&ledger), "more may wait at the broker");
        assert_eq!(held.came(later), Came::At(now));
        held.blocked = None;
        held.note_waiting(0, true, later);
        held.is_stopping = true;
        assert!(!held.is_clear(&ledger));
    }

    #[test]
    fn what_is_served_for_another_slot_is_held_until_it_is_acknowledged() {
        let mut ledger = Ledger::new(1, 10, Duration::from_secs(5));
        let mut held = Held::default();
        let id = MessageIds::new(RandomState::new()).next(UnixMillis::new(1));
        let message = Message {
            received: received(b"a/b", b"{}"),
            id,
            fingerprint: 7,
            since: Clock.now().instant,
        };
        let ack = Ack {
            connection: 1,
            packet_id: 1,
        };
        let entry = ledger.insert(message, Some(ack));
        held.served = Some(id);
        assert!(!held.is_clear(&ledger));
        ledger.logged(entry);
        assert!(held.is_clear(&ledger));
    }

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
