//! The outbox: events that webhooks are to be told of. They are written down together with what they are about, and stay until the
//! endpoint has taken them, has said no, or their time is over.

use rusqlite::{OptionalExtension, Row, ToSql, params, params_from_iter};
use serde::Serialize;

use super::{Store, StoreError, millis, unix};
use crate::event::Event;
use crate::time::UnixMillis;

/// Events that were given up and are kept for `webhook list` and `webhook retry`, for each endpoint; older ones go.
const GIVEN_UP_KEPT: i64 = 1_000;
/// So many more of them may gather before the oldest are deleted.
const GIVEN_UP_SLACK: i64 = 100;
/// Bytes of bodies handed out at a time.
const BYTES_AT_A_TIME: usize = 4 << 20;
/// Events whose time is over that are given up at a time.
const EXPIRED_AT_A_TIME: i64 = 500;

/// What waits for an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Events.
    pub events: i64,
    /// Bytes of their bodies.
    pub bytes: i64,
}

/// What the store knows of the endpoints of webhooks.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    endpoints: Vec<Endpoint>,
    max_bytes: i64,
}

#[derive(Debug)]
struct Endpoint {
    name: String,
    /// Not known after something was taken back, or another process has written.
    waiting: Option<Waiting>,
    /// Given up since the oldest of those were deleted last.
    given_up: i64,
}

/// An event on its way to an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which endpoint, in the order of [`Store::tells`].
    pub endpoint: usize,
    /// Its place in the outbox.
    pub seq: i64,
    /// The same each time it is told.
    pub id: String,
    /// What kind of event it is.
    pub event_type: String,
    /// When it happened.
    pub created_at: UnixMillis,
    /// What is posted.
    pub body: String,
    /// Attempts so far.
    pub attempts: u32,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled {
    /// Which endpoint.
    pub endpoint: usize,
    /// Its place in the outbox.
    pub seq: i64,
    /// What.
    pub how: How,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// The endpoint has it.
    Delivered,
    /// It is tried again.
    Later {
        /// Not before.
        due: UnixMillis,
        /// Why it failed.
        error: String,
    },
    /// It is not.
    GivenUp {
        /// Why.
        error: String,
    },
}

/// What is wanted of the outbox.
#[derive(Clone, Debug, Default)]
pub struct Errand {
    /// What is settled.
    pub settled: Vec<Settled>,
    /// Endpoints that answer again: what was put off is due.
    pub recovered: Vec<usize>,
    /// How many deliveries may be taken for each endpoint.
    pub room: Vec<Room>,
    /// Events from before this time are given up.
    pub not_before: UnixMillis,
}

/// Room for deliveries to one endpoint.
#[derive(Clone, Debug)]
pub struct Room {
    /// Which endpoint.
    pub endpoint: usize,
    /// How many.
    pub deliveries: usize,
    /// Those that are under way already.
    pub in_hand: Vec<i64>,
}

/// What the outbox gave.
#[derive(Debug, Default)]
pub struct Given {
    /// Deliveries that are due, for each endpoint the oldest first.
    pub deliveries: Vec<Delivery>,
    /// What waits for each endpoint, those deliveries among it.
    pub waiting: Vec<Waiting>,
    /// Events given up because they are too old, for each endpoint.
    pub expired: Vec<usize>,
}

/// One row of `webhook list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// The delivery's id.
    pub id: String,
    /// The endpoint, without user, password and query.
    pub endpoint: String,
    /// What kind of event it is.
    pub event_type: String,
    /// When it happened, in milliseconds since 1970.
    pub created_at: i64,
    /// Attempts so far.
    pub attempts: u32,
    /// Not before, in milliseconds since 1970; nothing, if it was given up.
    pub due: Option<i64>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// Bytes of its body.
    pub bytes: i64,
}

/// Which deliveries an operator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// Those with these ids.
    Ids(Vec<String>),
    /// All that were given up.
    GivenUp,
    /// All.
    All,
}

impl Chosen {
    fn condition(&self) -> (String, &[String]) {
        match self {
            Self::Ids(ids) => {
                let marks = vec!["?"; ids.len()].join(", ");
                (format!("delivery_id IN ({marks})"), ids)
            }
            Self::GivenUp => ("due IS NULL".to_owned(), &[]),
            Self::All => ("1".to_owned(), &[]),
        }
    }
}

impl Store {
    /// The same store, which keeps what the endpoints of these names are to be told: of events that come together `max_bytes` for each,
    /// and the oldest give way.
    #[must_use]
    pub fn tells(mut self, endpoints: Vec<String>, max_bytes: u64) -> Self {
        let endpoint = |name| Endpoint {
            name,
            waiting: None,
            // What an earlier process has left is cut down at once.
            given_up: GIVEN_UP_SLACK,
        };
        self.outbox = Outbox {
            endpoints: endpoints.into_iter().map(endpoint).collect(),
            max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        };
        self
    }

    /// What is remembered of the outbox may no longer be so.
    pub(super) fn forget_waiting(&mut self) {
        for endpoint in &mut self.outbox.endpoints {
            endpoint.waiting = None;
        }
    }

    /// Events that wait for endpoints that are not told any more.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn left_over(&self) -> Result<i64, StoreError> {
        let names = self.outbox.endpoints.iter().map(|endpoint| &endpoint.name);
        let marks = vec!["?"; self.outbox.endpoints.len()].join(", ");
        let text = format!(
            "SELECT count(*) FROM webhook WHERE due IS NOT NULL AND endpoint NOT IN ({marks})"
        );
        let mut statement = self.connection.prepare(&text)?;
        Ok(statement.query_row(params_from_iter(names), |row| row.get(0))?)
    }

    /// Has every endpoint told of an event. Returns for each how many older ones gave way. The same event again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn enqueue(&mut self, event: &Event, now: UnixMillis) -> Result<Vec<usize>, StoreError> {
        let bytes = i64::try_from(event.body.len()).unwrap_or(i64::MAX);
        let mut dropped = vec![];
        for at in 0..self.outbox.endpoints.len() {
            let mut waiting = self.waiting(at)?;
            let name = &self.outbox.endpoints[at].name;
            let (id, kind) = (event.id.as_str(), event.kind.as_str());
            let added = self
                .connection
                .prepare_cached(
                    "INSERT OR IGNORE INTO webhook (endpoint, delivery_id, event_type, created_at, body, attempts, due)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?4)",
                )?
                .execute(params![name, id, kind, millis(now), event.body])?;
            if added > 0 {
                waiting.events += 1;
                waiting.bytes += bytes;
            }
            let mut gave_way = 0;
            // The new one stays, however large.
            while waiting.bytes > self.outbox.max_bytes && waiting.events > 1 {
                let deleted: i64 = self
                    .connection
                    .prepare_cached(
                        "DELETE FROM webhook WHERE seq = (SELECT min(seq) FROM webhook WHERE endpoint = ? AND due IS NOT NULL)
                         RETURNING length(CAST(body AS BLOB))",
                    )?
                    .query_row([name], |row| row.get(0))?;
                waiting.events -= 1;
                waiting.bytes -= deleted;
                gave_way += 1;
            }
            dropped.push(gave_way);
            self.outbox.endpoints[at].waiting = Some(waiting);
        }
        Ok(dropped)
    }

    fn waiting(&self, at: usize) -> Result<Waiting, StoreError> {
        let endpoint = &self.outbox.endpoints[at];
        if let Some(waiting) = endpoint.waiting {
            return Ok(waiting);
        }
        let row = |row: &Row<'_>| {
            Ok(Waiting {
                events: row.get(0)?,
                bytes: row.get(1)?,
            })
        };
        let mut statement = self.connection.prepare_cached(
            "SELECT count(*), coalesce(sum(length(CAST(body AS BLOB))), 0) FROM webhook WHERE endpoint = ? AND due IS NOT NULL",
        )?;
        Ok(statement.query_row([&endpoint.name], row)?)
    }

    /// Writes down what became of deliveries, and hands out those that are due.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn run_errand(&mut self, errand: &Errand, now: UnixMillis) -> Result<Given, StoreError> {
        for at in 0..self.outbox.endpoints.len() {
            self.outbox.endpoints[at].waiting = Some(self.waiting(at)?);
        }
        for settled in &errand.settled {
            self.settle(settled)?;
        }
        for at in &errand.recovered {
            self.connection
                .prepare_cached("UPDATE webhook SET due = ?1 WHERE endpoint = ?2 AND due > ?1")?
                .execute(params![millis(now), self.outbox.endpoints[*at].name])?;
        }
        let mut given = Given {
            expired: vec![0; self.outbox.endpoints.len()],
            ..Given::default()
        };
        for room in &errand.room {
            given.expired[room.endpoint] = self.expire(room, errand.not_before)?;
            given.deliveries.extend(self.due(room, now)?);
        }
        let waiting = |endpoint: &Endpoint| endpoint.waiting.unwrap_or_default();
        given.waiting = self.outbox.endpoints.iter().map(waiting).collect();
        Ok(given)
    }

    fn settle(&mut self, settled: &Settled) -> Result<(), StoreError> {
        let (text, due, error): (&str, Option<i64>, Option<&str>) = match &settled.how {
            How::Delivered => (
                "DELETE FROM webhook WHERE seq = ?1 RETURNING CASE WHEN due IS NULL THEN ?2 ELSE length(CAST(body AS BLOB)) END, ?3",
                None,
                None,
            ),
            How::Later { due, error } => (
                "UPDATE webhook SET attempts = attempts + 1, due = ?2, error = ?3 WHERE seq = ?1 AND due IS NOT NULL RETURNING NULL",
                Some(millis(*due)),
                Some(error),
            ),
            How::GivenUp { error } => (
                "UPDATE webhook SET attempts = attempts + 1, due = ?2, error = ?3 WHERE seq = ?1 AND due IS NOT NULL
                 RETURNING length(CAST(body AS BLOB))",
                None,
                Some(error),
            ),
        };
        // It may have given way to others meanwhile, or an operator has dropped it.
        let gone: Option<Option<i64>> = self
            .connection
            .prepare_cached(text)?
            .query_row(params![settled.seq, due, error], |row| row.get(0))
            .optional()?;
        let endpoint = &mut self.outbox.endpoints[settled.endpoint];
        if let (Some(bytes), Some(waiting)) = (gone.flatten(), &mut endpoint.waiting) {
            waiting.events -= 1;
            waiting.bytes -= bytes;
        }
        if matches!(settled.how, How::GivenUp { .. }) {
            endpoint.given_up += 1;
            self.cut_given_up(settled.endpoint)?;
        }
        Ok(())
    }

    fn cut_given_up(&mut self, at: usize) -> Result<(), StoreError> {
        let endpoint = &mut self.outbox.endpoints[at];
        if endpoint.given_up < GIVEN_UP_SLACK {
            return Ok(());
        }
        endpoint.given_up = 0;
        self.connection
            .prepare_cached(
                "DELETE FROM webhook WHERE seq IN
                 (SELECT seq FROM webhook WHERE endpoint = ? AND due IS NULL ORDER BY seq DESC LIMIT -1 OFFSET ?)",
            )?
            .execute(params![endpoint.name, GIVEN_UP_KEPT])?;
        Ok(())
    }

    /// Gives up what is from before `not_before`. Returns how many.
    fn expire(&mut self, room: &Room, not_before: UnixMillis) -> Result<usize, StoreError> {
        let endpoint = &mut self.outbox.endpoints[room.endpoint];
        let mut bytes = 0;
        let mut expired = 0;
        {
            let mut statement = self.connection.prepare_cached(
                "UPDATE webhook SET due = NULL, error = coalesce('too old; ' || error, 'too old') WHERE seq IN
                 (SELECT seq FROM (SELECT seq, created_at FROM webhook WHERE endpoint = ?1 AND due IS NOT NULL ORDER BY seq LIMIT ?3)
                  WHERE created_at < ?2) RETURNING length(CAST(body AS BLOB))",
            )?;
            // The oldest alone says whether there is one.
            for limit in [1, EXPIRED_AT_A_TIME] {
                let mut rows =
                    statement.query(params![endpoint.name, millis(not_before), limit])?;
                let before = expired;
                while let Some(row) = rows.next()? {
                    bytes += row.get::<_, i64>(0)?;
                    expired += 1;
                }
                if expired == before {
                    break;
                }
            }
        }
        if let Some(waiting) = &mut endpoint.waiting {
            waiting.events -= i64::try_from(expired).expect("a small number");
            waiting.bytes -= bytes;
        }
        endpoint.given_up += i64::try_from(expired).expect("a small number");
        self.cut_given_up(room.endpoint)?;
        Ok(expired)
    }

    fn due(&self, room: &Room, now: UnixMillis) -> Result<Vec<Delivery>, StoreError> {
        let name = &self.outbox.endpoints[room.endpoint].name;
        let mut statement = self.connection.prepare_cached(
            "SELECT seq, delivery_id, event_type, created_at, body, attempts FROM webhook
             WHERE endpoint = ? AND due IS NOT NULL AND due <= ? ORDER BY seq LIMIT ?",
        )?;
        let limit = i64::try_from(room.deliveries + room.in_hand.len()).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![name, millis(now), limit])?;
        let (mut found, mut bytes) = (vec![], 0);
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            if room.in_hand.contains(&seq) {
                continue;
            }
            if found.len() == room.deliveries || bytes >= BYTES_AT_A_TIME {
                break;
            }
            let delivery = Delivery {
                endpoint: room.endpoint,
                seq,
                id: row.get(1)?,
                event_type: row.get(2)?,
                created_at: unix(row.get(3)?),
                body: row.get(4)?,
                attempts: row.get(5)?,
            };
            bytes += delivery.body.len();
            found.push(delivery);
        }
        Ok(found)
    }

    /// What waits or was given up, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn webhooks(&self, chosen: &Chosen) -> Result<Vec<Listed>, StoreError> {
        let (condition, ids) = chosen.condition();
        let mut statement = self.connection.prepare(&format!(
            "SELECT delivery_id, endpoint, event_type, created_at, attempts, due, error, length(CAST(body AS BLOB))
             FROM webhook WHERE {condition} ORDER BY seq"
        ))?;
        let listed = statement.query_map(params_from_iter(ids), |row| {
            Ok(Listed {
                id: row.get(0)?,
                endpoint: row.get(1)?,
                event_type: row.get(2)?,
                created_at: row.get(3)?,
                attempts: row.get(4)?,
                due: row.get(5)?,
                error: row.get(6)?,
                bytes: row.get(7)?,
            })
        })?;
        Ok(listed.collect::<Result<_, _>>()?)
    }

    /// Has deliveries tried again now, with as much time before them as new ones have. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn retry_webhooks(
        &mut self,
        chosen: &Chosen,
        now: UnixMillis,
    ) -> Result<usize, StoreError> {
        let (condition, ids) = chosen.condition();
        let now = millis(now);
        // Two marks before those of the condition.
        let given = [&now as &dyn ToSql, &now].into_iter();
        let values = given.chain(ids.iter().map(|id| id as &dyn ToSql));
        let text =
            format!("UPDATE webhook SET due = ?, created_at = ?, attempts = 0 WHERE {condition}");
        Ok(self.connection.execute(&text, params_from_iter(values))?)
    }

    /// Forgets deliveries. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn drop_webhooks(&mut self, chosen: &Chosen) -> Result<usize, StoreError> {
        let (condition, ids) = chosen.condition();
        let text = format!("DELETE FROM webhook WHERE {condition}");
        Ok(self.connection.execute(&text, params_from_iter(ids))?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Place;
    use super::*;
    use crate::event::EventKind;

    const NOW: u64 = 1_800_000_000_000;

    fn event(n: usize) -> Event {
        let text = format!("{{\"n\":{n}}}");
        Event {
            kind: EventKind::MessageSent,
            id: format!("id-{n}"),
            copy_of: None,
            body: text,
        }
    }

    fn room(endpoint: usize, deliveries: usize, in_hand: &[i64]) -> Errand {
        Errand {
            room: vec![Room {
                endpoint,
                deliveries,
                in_hand: in_hand.to_vec(),
            }],
            ..Errand::default()
        }
    }

    fn settled(seq: i64, how: How) -> Errand {
        Errand {
            settled: vec![Settled {
                endpoint: 0,
                seq,
                how,
            }],
            ..Errand::default()
        }
    }

    #[test]
    fn the_outbox_hands_out_what_is_due_oldest_first_and_forgets_what_is_settled() {
        let mut store = Store::open(&Place::Memory, false)
            .unwrap()
            .tells(vec!["a".to_owned(), "b".to_owned()], 1_000_000);
        let at = |n| UnixMillis::new(NOW + n);
        for n in 0..5 {
            assert_eq!(store.enqueue(&event(n), at(0)).unwrap(), [0, 0]);
        }
        // The same again is no news.
        store.enqueue(&event(3), at(1)).unwrap();
        let given = store.run_errand(&room(1, 3, &[]), at(1)).unwrap();
        let ids: Vec<&str> = given.deliveries.iter().map(|d| d.id.as_str()).collect();
        assert_eq!(ids, ["id-0", "id-1", "id-2"]);
        let five = Waiting {
            events: 5,
            bytes: 35,
        };
        assert_eq!(given.waiting, [five, five]);
        let first = store.run_errand(&room(0, 1, &[]), at(1)).unwrap();
        let seq = first.deliveries[0].seq;
        let next = store.run_errand(&room(0, 1, &[seq]), at(1)).unwrap();
        assert_eq!(next.deliveries[0].id, "id-1");
        // Put off, it is not handed out until it is due, or its endpoint answers again.
        let later = How::Later {
            due: at(100),
            error: "answers 500".to_owned(),
        };
        store.run_errand(&settled(seq, later), at(2)).unwrap();
        let ids = |store: &mut Store, now| {
            let given = store.run_errand(&room(0, 9, &[]), at(now)).unwrap();
            let ids = given.deliveries.into_iter().map(|delivery| delivery.id);
            ids.collect::<Vec<_>>()
        };
        assert_eq!(ids(&mut store, 99), ["id-1", "id-2", "id-3", "id-4"]);
        assert_eq!(ids(&mut store, 100).len(), 5);
        let again = How::Later {
            due: at(1_000),
            error: String::new(),
        };
        store.run_errand(&settled(seq, again), at(100)).unwrap();
        let recovered = Errand {
            recovered: vec![0],
            ..Errand::default()
        };
        store.run_errand(&recovered, at(101)).unwrap();
        assert_eq!(ids(&mut store, 101)[0], "id-0");
        let given = store.run_errand(&settled(seq, How::Delivered), at(102));
        assert_eq!(given.unwrap().waiting[0].events, 4);
        let error = "answers 400".to_owned();
        let given = store.run_errand(
            &settled(next.deliveries[0].seq, How::GivenUp { error }),
            at(102),
        );
        assert_eq!(
            given.unwrap().waiting[0],
            Waiting {
                events: 3,
                bytes: 21
            }
        );
        let listed = store.webhooks(&Chosen::GivenUp).unwrap();
        assert_eq!(
            (listed[0].id.as_str(), listed[0].attempts, listed[0].due),
            ("id-1", 1, None)
        );
        assert_eq!(store.retry_webhooks(&Chosen::GivenUp, at(200)).unwrap(), 1);
        store.forget_waiting();
        assert_eq!(ids(&mut store, 200), ["id-1", "id-2", "id-3", "id-4"]);
    }

    #[test]
    fn of_what_is_given_up_the_last_thousand_are_kept_and_the_old_expire() {
        let mut store = Store::open(&Place::Memory, false)
            .unwrap()
            .tells(vec!["a".to_owned()], 10_000);
        // What waits is bounded, and the oldest gives way.
        let dropped: usize = (0..2_000)
            .map(|n| store.enqueue(&event(n), UnixMillis::new(NOW)).unwrap()[0])
            .sum();
        let given = store
            .run_errand(&room(0, 1, &[]), UnixMillis::new(NOW))
            .unwrap();
        let waiting = given.waiting[0];
        assert!(
            waiting.bytes <= 10_000 && waiting.bytes > 9_900,
            "{waiting:?}"
        );
        assert_eq!(usize::try_from(waiting.events).unwrap() + dropped, 2_000);
        let expire = Errand {
            not_before: UnixMillis::new(NOW + 1),
            ..room(0, 1, &[])
        };
        let mut expired = 0;
        while let now @ 1.. = store
            .run_errand(&expire, UnixMillis::new(NOW + 2))
            .unwrap()
            .expired[0]
        {
            expired += now;
        }
        assert_eq!(i64::try_from(expired).unwrap(), waiting.events);
        let kept = store.webhooks(&Chosen::All).unwrap();
        assert!((1_000..1_100).contains(&kept.len()), "{}", kept.len());
        assert_eq!(kept.last().unwrap().id, "id-1999");
        let recount = store.run_errand(&Errand::default(), UnixMillis::new(NOW));
        assert_eq!(recount.unwrap().waiting[0], Waiting::default());
        assert_eq!(store.drop_webhooks(&Chosen::All).unwrap(), kept.len());
    }
}
