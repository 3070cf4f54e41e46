//! A client of a user connects or disconnects.
//!
//! Owns when a user is present, how many clients count, since when a user has missed messages, and
//! when they are given them (`protocol.md`, section 4, *Presence* and *Offline recipients*). Leaves
//! publishing the missed messages to [`history`](crate::rules::history).

use crate::protocol::control_payload::PresenceChange;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::time::UnixMillis;
use crate::rules::facts::{Absence, ConnectedClient, FactSource, OfflineDelivery, Redelivery};
use crate::rules::fan_out::FanOut;
use crate::rules::history::Range;
use crate::rules::plan::{Context, Plan};
use crate::rules::webhook_event::{Event, EventKind};
use crate::rules::write::{UserClient, Write};

/// How many clients of one user count as connected: a bound on what a user can make us keep. When
/// one more connects, the client that connected first gives way.
const MAX_CLIENTS: usize = 64;

/// What the plan of a presence event depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The user's clients before the event.
    pub(super) clients: Vec<ConnectedClient>,
    /// What is noted of the user's absence.
    pub(super) absence: Option<Absence>,
    /// Whether the redelivery that it names is still under way.
    pub(super) is_redelivering: bool,
    /// The last position of the log.
    pub(super) last_position: i64,
    /// What users get who come back.
    pub(super) offline_delivery: OfflineDelivery,
}

impl Facts {
    pub(crate) fn look_up<S: FactSource + ?Sized>(
        app: AppId<'_>,
        user: UserId<'_>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let absence = source.absence(app, user)?;
        let redelivery = absence.map(|absence| absence.redelivery);
        Ok(Self {
            clients: source.clients(app, user)?,
            absence,
            is_redelivering: match redelivery {
                Some(Redelivery::With(event)) => source.is_under_way(event)?,
                Some(Redelivery::Due | Redelivery::Done) | None => false,
            },
            last_position: source.last_position()?,
            offline_delivery: source.offline_delivery(),
        })
    }

    fn is_connected(&self, client: &str) -> bool {
        self.clients.iter().any(|known| *known.id == *client)
    }

    /// Whether a client has said that it is there since that time.
    fn is_seen_after(&self, client: &str, then: UnixMillis) -> bool {
        let mut clients = self.clients.iter();
        clients.any(|known| *known.id == *client && known.since > then)
    }

    /// Whether the user has clients besides this one. With others there, it makes no difference to
    /// the user's presence.
    fn has_others(&self, client: &str) -> bool {
        self.clients.iter().any(|known| *known.id != *client)
    }

    /// The clients that no longer count once `client` is connected.
    fn surplus(&self, client: &str) -> impl Iterator<Item = &ConnectedClient> {
        let mut others: Vec<_> = self.clients.iter().collect();
        others.retain(|known| *known.id != *client);
        let surplus = (others.len() + 1).saturating_sub(MAX_CLIENTS);
        if surplus > 0 {
            others.sort_unstable_by_key(|known| (known.since, &known.id));
        }
        others.into_iter().take(surplus)
    }

    /// The note of an absence whose messages the user has not been given yet.
    fn open_absence(&self) -> Option<Absence> {
        self.absence.filter(|absence| match absence.redelivery {
            Redelivery::Due => true,
            Redelivery::With(_) => self.is_redelivering,
            Redelivery::Done => false,
        })
    }

    /// The position of the log behind which the user has missed messages, and has not been given
    /// them before this `event`.
    pub(crate) fn missed_since(&self, event: MessageId) -> Option<i64> {
        match self.absence {
            // Never present before: everything.
            None => Some(0),
            Some(absence) if absence.redelivery == Redelivery::With(event) => Some(absence.since),
            Some(_) => self.open_absence().map(|absence| absence.since),
        }
    }
}

/// Notes the client, and tells webhooks if it makes the user present or absent. Nothing, if the
/// client has said later than it was last seen that it is there.
pub(super) fn plan<'a>(
    client: UserClient<'a>,
    change: PresenceChange,
    last_seen: Option<UnixMillis>,
    facts: &Facts,
    context: &Context<'_>,
) -> Plan<'a> {
    if last_seen.is_some_and(|then| facts.is_seen_after(&client.client, then)) {
        return Plan::default();
    }
    let is_news = facts.is_connected(&client.client) != (change == PresenceChange::Connected);
    let changes_presence = is_news && !facts.has_others(&client.client);
    let (app, user) = (client.app, client.user);
    let mut plan = match change {
        PresenceChange::Connected => connected(client, facts, context),
        PresenceChange::Disconnected => disconnected(client, facts),
    };
    if changes_presence {
        plan.events = context
            .event(EventKind::PresenceChange, || {
                let basis = context.id.to_string();
                Event::of_presence(app, user.as_str(), change, &basis, context.now())
            })
            .into_iter()
            .collect();
    }
    plan
}

/// The first client of a user brings what the user has missed. They have been given it once all
/// that this very event leads to is confirmed.
fn connected<'a>(client: UserClient<'a>, facts: &Facts, context: &Context<'_>) -> Plan<'a> {
    let (app, user) = (client.app, client.user);
    let mut plan = Plan::default();
    let missed_since = facts.missed_since(context.id);
    let redelivery = match facts.offline_delivery {
        OfflineDelivery::Broker => Some(Redelivery::Done),
        OfflineDelivery::Redeliver if facts.has_others(&client.client) => None,
        OfflineDelivery::Redeliver => {
            plan.fan_out = missed_since.map(|after| {
                let missed = Range {
                    after,
                    last: facts.last_position,
                };
                FanOut::missed(app, user, missed)
            });
            Some(Redelivery::With(context.id))
        }
    };
    let surplus = facts
        .surplus(&client.client)
        .map(|gives_way| Write::ClientGone(UserClient::new(app, user, gives_way.id.to_string())));
    let surplus: Vec<_> = surplus.collect();
    plan.writes.push(Write::ClientConnected(client));
    plan.writes.extend(surplus);
    if let (Some(since), Some(redelivery)) = (missed_since, redelivery) {
        let absence = Absence { since, redelivery };
        plan.writes.push(Write::Absence { app, user, absence });
    }
    plan
}

/// The last client of a user leaves an absence behind: from here on the user misses messages.
fn disconnected<'a>(client: UserClient<'a>, facts: &Facts) -> Plan<'a> {
    let (app, user) = (client.app, client.user);
    let was_last = facts.is_connected(&client.client) && !facts.has_others(&client.client);
    let mut plan = Plan::default();
    plan.writes.push(Write::ClientGone(client));
    if was_last {
        // Still open: the user left before they had been given everything.
        let since = facts
            .open_absence()
            .map_or(facts.last_position, |absence| absence.since);
        plan.writes.push(Write::Absence {
            app,
            user,
            absence: Absence {
                since,
                redelivery: Redelivery::Due,
            },
        });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::fan_out::Query;
    use crate::rules::test_support::{NOW, id_at, plan_as, received, router};

    const CONNECTED: PresenceChange = PresenceChange::Connected;
    const DISCONNECTED: PresenceChange = PresenceChange::Disconnected;

    fn client(id: &str, since: u64) -> ConnectedClient {
        ConnectedClient {
            id: id.into(),
            since: UnixMillis::new(since),
        }
    }

    /// Three messages are stored, and bob has these clients.
    fn store(clients: &[&str]) -> InMemory {
        let clients = clients.iter().map(|id| client(id, 1)).collect();
        InMemory {
            clients: [("bob", clients)].into(),
            log: vec![NOW; 3],
            redelivers: true,
            ..InMemory::default()
        }
    }

    fn with_absence(mut store: InMemory, since: i64, redelivery: Redelivery) -> InMemory {
        store.absences.insert("bob", Absence { since, redelivery });
        store
    }

    /// What becomes of an event of bob's phone.
    fn phone(change: PresenceChange, store: InMemory) -> Plan<'static> {
        let payload: &[u8] = match change {
            CONNECTED => br#"{"connected":true}"#,
            DISCONNECTED => br#"{"disconnected":true}"#,
        };
        let received = received(b"apps/a/users/bob/presence/phone", payload);
        plan_as(router(), &received, id_at(NOW), store)
    }

    /// The absence that a plan notes.
    fn noted(plan: &Plan<'_>) -> Option<Absence> {
        plan.writes.iter().find_map(|write| {
            let Write::Absence { absence, .. } = write else {
                return None;
            };
            Some(*absence)
        })
    }

    /// The clients that a plan says are gone.
    fn gone<'p>(plan: &'p Plan<'_>) -> Vec<&'p str> {
        let clients = plan.writes.iter().filter_map(|write| {
            let Write::ClientGone(client) = write else {
                return None;
            };
            Some(&*client.client)
        });
        clients.collect()
    }

    /// The part of the log that is published again.
    fn redelivered(plan: &Plan<'_>) -> Option<(i64, i64)> {
        match plan.fan_out.as_ref()?.query()? {
            Query::Messages(_, _, query) => Some((query.after, query.last)),
            Query::Conversations(..) => None,
        }
    }

    #[test]
    fn the_first_client_and_the_last_change_a_users_presence() {
        for (change, clients, raises_event) in [
            (CONNECTED, &[][..], true),
            (CONNECTED, &["phone"], false),
            (CONNECTED, &["laptop"], false),
            (DISCONNECTED, &["phone"], true),
            (DISCONNECTED, &["phone", "laptop"], false),
            (DISCONNECTED, &[], false),
            (DISCONNECTED, &["laptop"], false),
        ] {
            let plan = phone(change, store(clients));
            let events: Vec<_> = plan.events.iter().map(|event| event.kind).collect();
            let wanted = raises_event.then_some(EventKind::PresenceChange);
            assert_eq!(events, Vec::from_iter(wanted), "{change:?} {clients:?}");
        }
    }

    #[test]
    fn the_client_that_connected_first_gives_way_to_one_too_many() {
        let mut store = store(&[]);
        let clients = (1..=64).map(|n| client(&format!("c{n}"), 1_000 - n));
        store.clients.insert("bob", clients.collect());
        let plan = phone(CONNECTED, store);
        assert_eq!(gone(&plan), ["c64"]);
        let same_time = (1..=65).map(|n| client(&format!("c{n}"), 7));
        let mut all: Vec<_> = same_time.collect();
        all.push(client("phone", 1));
        let mut store = InMemory::default();
        store.clients.insert("bob", all);
        let plan = phone(CONNECTED, store);
        assert_eq!(gone(&plan), ["c1", "c10"], "never the one that connects");
        assert_eq!(noted(&plan).unwrap().redelivery, Redelivery::Done);
    }

    #[test]
    fn a_user_who_was_never_present_is_given_everything() {
        let plan = phone(CONNECTED, store(&[]));
        assert_eq!(redelivered(&plan), Some((0, 3)));
        let absence = noted(&plan).unwrap();
        assert_eq!(absence.since, 0);
        assert!(matches!(absence.redelivery, Redelivery::With(_)));
    }

    #[test]
    fn without_redelivery_a_user_is_given_nothing_and_it_counts_as_done() {
        let store = InMemory {
            redelivers: false,
            ..store(&[])
        };
        let plan = phone(CONNECTED, store);
        assert_eq!(redelivered(&plan), None);
        let done = Absence {
            since: 0,
            redelivery: Redelivery::Done,
        };
        assert_eq!(noted(&plan), Some(done));
    }

    #[test]
    fn another_client_neither_brings_what_was_missed_nor_ends_that_it_is_due() {
        let event = id_at(NOW);
        let mut under_way = with_absence(store(&["laptop"]), 1, Redelivery::With(event));
        under_way.under_way = Some(event);
        let plan = phone(CONNECTED, under_way);
        assert_eq!((redelivered(&plan), noted(&plan)), (None, None));
    }

    #[test]
    fn only_the_first_client_brings_what_was_missed() {
        let absent = |clients| with_absence(store(clients), 2, Redelivery::Due);
        assert_eq!(redelivered(&phone(CONNECTED, absent(&[]))), Some((2, 3)));
        let again = phone(CONNECTED, absent(&["phone"]));
        assert_eq!(
            redelivered(&again),
            Some((2, 3)),
            "a second will, or a crash"
        );
        assert_eq!(redelivered(&phone(CONNECTED, absent(&["laptop"]))), None);
    }

    #[test]
    fn missed_messages_are_given_again_until_the_event_that_brought_them_is_finished() {
        let (event, later) = (id_at(NOW), id_at(UnixMillis::new(NOW.as_millis() + 1)));
        for (redelivery, under_way, given) in [
            (Redelivery::Due, None, true),
            (Redelivery::With(event), Some(event), true),
            (Redelivery::With(event), Some(later), false),
            (Redelivery::With(event), None, false),
            (Redelivery::Done, None, false),
        ] {
            let mut store = with_absence(store(&[]), 1, redelivery);
            store.under_way = under_way;
            let plan = phone(CONNECTED, store);
            let wanted = given.then_some((1, 3));
            assert_eq!(redelivered(&plan), wanted, "{redelivery:?} {under_way:?}");
            assert_eq!(
                noted(&plan).is_some(),
                given,
                "a closed absence stays as it is"
            );
        }
    }

    #[test]
    fn the_last_client_leaves_an_absence_from_here_on() {
        let plan = phone(
            DISCONNECTED,
            with_absence(store(&["phone"]), 1, Redelivery::Done),
        );
        let from_here = Absence {
            since: 3,
            redelivery: Redelivery::Due,
        };
        assert_eq!(
            (noted(&plan), gone(&plan)),
            (Some(from_here), vec!["phone"])
        );
        let others = phone(DISCONNECTED, store(&["phone", "laptop"]));
        assert_eq!((noted(&others), gone(&others)), (None, vec!["phone"]));
        let unknown = phone(DISCONNECTED, store(&[]));
        assert_eq!(noted(&unknown), None, "not connected before");
    }

    #[test]
    fn a_user_who_leaves_too_soon_still_misses_the_same() {
        let event = id_at(NOW);
        let mut store = with_absence(store(&["phone"]), 1, Redelivery::With(event));
        store.under_way = Some(event);
        let plan = phone(DISCONNECTED, store);
        let still = Absence {
            since: 1,
            redelivery: Redelivery::Due,
        };
        assert_eq!(noted(&plan), Some(still));
    }
}
