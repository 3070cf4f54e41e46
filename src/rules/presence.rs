//! A client of a user connects or disconnects.
//!
//! Owns when a user is present, how many clients count, since when a user has missed messages, and
//! when they are given them (`protocol.md`, section 4, *Presence* and *Offline recipients*). Leaves
//! publishing the missed messages to [`history`](crate::rules::history).

use std::borrow::Cow;

use crate::protocol::id::{AppId, MessageId, UserId};
use crate::protocol::request::PresenceChange;
use crate::rules::facts::{Absence, ConnectedClient, FactSource, OfflineDelivery, Redelivery};
use crate::rules::fan_out::FanOut;
use crate::rules::history::Range;
use crate::rules::plan::{Acknowledgement, Context, Plan};
use crate::rules::webhook_event::{Event, EventKind};
use crate::rules::write::{UserClient, Write};

/// How many clients of one user count as connected: a bound on what a user can make us keep. When one
/// more connects, the client that connected first gives way.
const MAX_CLIENTS: usize = 64;

/// What the plan of a presence event depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The user's clients before the event.
    pub(super) clients: Vec<ConnectedClient>,
    /// What is noted of the user's absence.
    pub(super) absence: Option<Absence>,
    /// The message up to which everything is done.
    pub(super) finished_up_to: Option<MessageId>,
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
        Ok(Self {
            clients: source.clients(app, user)?,
            absence: source.absence(app, user)?,
            finished_up_to: source.finished_up_to()?,
            last_position: source.last_position()?,
            offline_delivery: source.offline_delivery(),
        })
    }

    fn is_connected(&self, client: &str) -> bool {
        self.clients.iter().any(|known| *known.id == *client)
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
            Redelivery::With(event) => Some(event) > self.finished_up_to,
            Redelivery::Done => false,
        })
    }

    /// The position of the log behind which the user has missed messages and not been given them.
    fn missed_since(&self) -> Option<i64> {
        match self.absence {
            // Never present before: everything.
            None => Some(0),
            Some(_) => self.open_absence().map(|absence| absence.since),
        }
    }

    /// The same, if the observer is the one who gives users what they missed.
    pub(crate) fn to_redeliver_since(&self) -> Option<i64> {
        match self.offline_delivery {
            OfflineDelivery::Redeliver => self.missed_since(),
            OfflineDelivery::Broker => None,
        }
    }
}

/// Notes the client, and tells webhooks if it makes the user present or absent.
pub(super) fn plan<'a>(
    client: UserClient<'a>,
    change: PresenceChange,
    facts: &Facts,
    context: &Context<'_>,
) -> Plan<'a> {
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

/// The first client of a user brings what the user has missed.
fn connected<'a>(client: UserClient<'a>, facts: &Facts, context: &Context<'_>) -> Plan<'a> {
    let (app, user) = (client.app, client.user);
    let mut plan = Plan::default();
    if !facts.has_others(&client.client) {
        plan.fan_out = facts.to_redeliver_since().map(|after| {
            let missed = Range {
                after,
                last: facts.last_position,
            };
            FanOut::missed(app, user, missed)
        });
    }
    let surplus = facts.surplus(&client.client).map(|gives_way| {
        Write::ClientGone(UserClient {
            app,
            user,
            client: Cow::Owned(gives_way.id.to_string()),
        })
    });
    let surplus: Vec<_> = surplus.collect();
    plan.writes.push(Write::ClientConnected(client));
    plan.writes.extend(surplus);
    plan.writes.extend(facts.missed_since().map(|since| {
        let redelivery = match (facts.offline_delivery, context.acknowledgement) {
            (OfflineDelivery::Broker, _) => Redelivery::Done,
            // The user is given what they missed with this very event: once it is acknowledged, they
            // have it.
            (OfflineDelivery::Redeliver, Acknowledgement::Expected) => Redelivery::With(context.id),
            // No acknowledgement will tell: the last step of the redelivery does.
            (OfflineDelivery::Redeliver, Acknowledgement::None) => Redelivery::Due,
        };
        Write::Absence {
            app,
            user,
            absence: Absence { since, redelivery },
        }
    }));
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
