//! The outbox: events that webhooks are to be told of. They are written down together with what they are about, and stay until the
//! endpoint has taken them, has said no, or their time is over.

use bytes::Bytes;
use rusqlite::{OptionalExtension, Row, ToSql, params, params_from_iter};
use serde::Serialize;

use super::{Store, StoreError, millis};
use crate::protocol::time::UnixMillis;
use crate::rules::webhook_event::{self, Event};

/// Events that were given up and are kept for `webhook list` and `webhook retry`, for each endpoint; older ones go.
const GIVEN_UP_KEPT: i64 = 1_000;
/// So many more of them may gather before the oldest are deleted.
const GIVEN_UP_SLACK: i64 = 100;
/// Bytes of bodies handed out at a time.
const BYTES_AT_A_TIME: usize = 4 << 20;
/// Events whose time is over that are given up at a time.
const EXPIRED_AT_A_TIME: i64 = 500;
/// Events that give way to one that is new: many small ones go little by little, for messages wait meanwhile.
const GIVE_WAY_AT_A_TIME: usize = 64;
/// Failures with its endpoint that do not cost an event its place: later it waits for longer each time, for it may be what brings the
/// endpoint down.
const INNOCENT: u32 = 3;
/// Failures up to which it has its place back when the endpoint answers again.
const FORGIVEN: u32 = 5;

/// What waits for an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Events.
    pub events: i64,
    /// Events that were given up.
    pub given_up: i64,
    /// Bytes of both.
    pub bytes: i64,
}

/// What the store knows of the endpoints of webhooks.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    endpoints: Vec<String>,
    max_bytes: i64,
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
    /// What is posted.
    pub body: Bytes,
    /// Attempts so far.
    pub attempts: u32,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryResult {
    /// Which endpoint.
    pub endpoint: usize,
    /// Its place in the outbox.
    pub seq: i64,
    /// What.
    pub how: Disposition,
}

/// How a delivery ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The endpoint has it.
    Delivered,
    /// It is tried again, unless its time is over.
    Later {
        /// Not before.
        due: UnixMillis,
        /// Why it failed.
        error: String,
        /// Whether that was the endpoint's fault as a whole.
        whole: bool,
    },
    /// It is not.
    GivenUp {
        /// Why.
        error: String,
    },
}

/// What is wanted of the outbox.
#[derive(Clone, Debug, Default)]
pub struct OutboxRequest {
    /// What is settled.
    pub settled: Vec<DeliveryResult>,
    /// Endpoints that answer again: what was put off because of them is due.
    pub recovered: Vec<usize>,
    /// How many deliveries may be taken for each endpoint.
    pub room: Vec<Demand>,
    /// Events whose time began before this are given up.
    pub not_before: UnixMillis,
}

/// Demand for deliveries to one endpoint.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Which endpoint.
    pub endpoint: usize,
    /// How many.
    pub deliveries: usize,
    /// Those that are in hand already.
    pub in_hand: Vec<i64>,
}

/// What the outbox gave.
#[derive(Debug, Default)]
pub struct OutboxReply {
    /// Deliveries that are due, for each endpoint the oldest first.
    pub deliveries: Vec<Delivery>,
    /// Those in hand that wait no more: they have given way, were too old, or an operator has dropped them.
    pub gone: Vec<i64>,
    /// What waits for each endpoint, those deliveries among it.
    pub waiting: Vec<Waiting>,
    /// Events given up because they are too old, for each endpoint.
    pub expired: Vec<u64>,
}

/// One row of `webhook list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WebhookRow {
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
    /// Bytes of its body, give or take a few.
    pub bytes: i64,
}

/// Which deliveries an operator means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those with these ids.
    Ids(Vec<String>),
    /// All that were given up.
    GivenUp,
    /// All.
    All,
}

impl Selection {
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
    /// The same store, which keeps what the endpoints of these names are to be told: `max_bytes` for each, and the oldest give way.
    #[must_use]
    pub fn with_webhooks(mut self, endpoints: Vec<String>, max_bytes: u64) -> Self {
        self.outbox = Outbox {
            endpoints,
            max_bytes: i64::try_from(max_bytes).unwrap_or(i64::MAX),
        };
        self
    }

    /// Events that wait for endpoints that are not told any more.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn left_over(&self) -> Result<i64, StoreError> {
        let marks = vec!["?"; self.outbox.endpoints.len()].join(", ");
        let text = format!(
            "SELECT coalesce(sum(waiting), 0) FROM webhook_count WHERE endpoint NOT IN ({marks})"
        );
        let mut statement = self.connection.prepare(&text)?;
        let names = params_from_iter(&self.outbox.endpoints);
        Ok(statement.query_row(names, |row| row.get(0))?)
    }

    /// Bytes of all that waits or was given up.
    pub(super) fn outbox_bytes(&self) -> Result<u64, StoreError> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT coalesce(sum(bytes), 0) FROM webhook_count")?;
        let bytes: i64 = statement.query_row([], |row| row.get(0))?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    /// Has every endpoint told of an event. Returns for each how many others it will never be told of, because they gave way. The same
    /// event again changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn enqueue(&mut self, event: &Event, now: UnixMillis) -> Result<Vec<u64>, StoreError> {
        let endpoints = self.outbox.endpoints.iter();
        endpoints
            .map(|endpoint| self.enqueue_for(endpoint, event, now))
            .collect()
    }

    fn enqueue_for(
        &self,
        endpoint: &str,
        event: &Event,
        now: UnixMillis,
    ) -> Result<u64, StoreError> {
        let known = self
            .connection
            .prepare_cached("SELECT 1 FROM webhook WHERE delivery_id = ? AND endpoint = ?")?
            .exists([&*event.id, endpoint])?;
        if known {
            return Ok(0);
        }
        let shared: Option<i64> = match &event.shared {
            Some(name) => self
                .connection
                .prepare_cached("SELECT id FROM webhook_data WHERE shared = ? AND endpoint = ?")?
                .query_row([name, endpoint], |row| row.get(0))
                .optional()?,
            None => None,
        };
        let data = match shared {
            Some(id) => id,
            None => {
                let text = String::from_utf8_lossy(&event.data);
                self.connection
                    .prepare_cached(
                        "INSERT INTO webhook_data (endpoint, shared, data) VALUES (?, ?, ?)",
                    )?
                    .insert(params![endpoint, event.shared, text])?
            }
        };
        let seq = self
            .connection
            .prepare_cached(
                "INSERT INTO webhook (endpoint, delivery_id, event_type, created_at, since, due, attempts, whole, head, data)
                 VALUES (?1, ?2, ?3, ?4, ?4, ?4, 0, 0, ?5, ?6)",
            )?
            .insert(params![
                endpoint,
                event.id,
                event.kind.as_str(),
                millis(now),
                event.head,
                data
            ])?;
        let mut lost = 0;
        for _ in 0..GIVE_WAY_AT_A_TIME {
            if self.waiting(endpoint)?.bytes <= self.outbox.max_bytes {
                break;
            }
            // What was given up first.
            let mut statement = self.connection.prepare_cached(
                "DELETE FROM webhook WHERE seq = coalesce(
                   (SELECT seq FROM webhook WHERE endpoint = ?1 AND due IS NULL ORDER BY seq LIMIT 1),
                   (SELECT seq FROM webhook WHERE endpoint = ?1 AND due IS NOT NULL AND seq <> ?2 ORDER BY due, seq LIMIT 1))
                 RETURNING due IS NOT NULL",
            )?;
            let waited: Option<bool> = statement
                .query_row(params![endpoint, seq], |row| row.get(0))
                .optional()?;
            match waited {
                Some(waited) => lost += u64::from(waited),
                // The new one stays, however large.
                None => break,
            }
        }
        Ok(lost)
    }

    fn waiting(&self, endpoint: &str) -> Result<Waiting, StoreError> {
        let row = |row: &Row<'_>| {
            Ok(Waiting {
                events: row.get(0)?,
                given_up: row.get(1)?,
                bytes: row.get(2)?,
            })
        };
        let mut statement = self.connection.prepare_cached(
            "SELECT waiting, given_up, bytes FROM webhook_count WHERE endpoint = ?",
        )?;
        let waiting = statement.query_row([endpoint], row).optional()?;
        Ok(waiting.unwrap_or_default())
    }

    /// Writes down what became of deliveries, and hands out those that are due.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn serve_outbox(
        &mut self,
        outbox_request: &OutboxRequest,
        now: UnixMillis,
    ) -> Result<OutboxReply, StoreError> {
        let mut given = OutboxReply {
            expired: vec![0; self.outbox.endpoints.len()],
            ..OutboxReply::default()
        };
        for settled in &outbox_request.settled {
            let expired = self.settle(settled, outbox_request.not_before)?;
            given.expired[settled.endpoint] += u64::from(expired);
        }
        for at in &outbox_request.recovered {
            self.connection
                .prepare_cached(
                    "UPDATE webhook SET due = since WHERE endpoint = ? AND due > ? AND whole AND attempts <= ?",
                )?
                .execute(params![
                    self.outbox.endpoints[*at],
                    millis(now),
                    FORGIVEN
                ])?;
        }
        for room in &outbox_request.room {
            let endpoint = &self.outbox.endpoints[room.endpoint];
            given.expired[room.endpoint] += self.expire(endpoint, outbox_request.not_before)?;
            self.cut_given_up(endpoint)?;
            self.find_gone(room, &mut given.gone)?;
            self.find_due(room, now, &mut given.deliveries)?;
        }
        for endpoint in &self.outbox.endpoints {
            given.waiting.push(self.waiting(endpoint)?);
        }
        Ok(given)
    }

    /// Returns whether it is given up because its time is over.
    fn settle(&self, settled: &DeliveryResult, not_before: UnixMillis) -> Result<bool, StoreError> {
        // It may have given way to others meanwhile, or an operator has dropped it.
        match &settled.how {
            Disposition::Delivered => {
                self.connection
                    .prepare_cached("DELETE FROM webhook WHERE seq = ?")?
                    .execute([settled.seq])?;
                Ok(false)
            }
            Disposition::Later { due, error, whole } => {
                let expired = self
                    .connection
                    .prepare_cached(
                        "UPDATE webhook SET attempts = attempts + 1, whole = ?4, error = iif(since < ?5, 'too old; ', '') || ?3,
                         due = CASE WHEN since < ?5 THEN NULL WHEN ?4 AND attempts < ?6 THEN since ELSE ?2 END
                         WHERE seq = ?1 AND due IS NOT NULL RETURNING due IS NULL",
                    )?
                    .query_row(
                        params![
                            settled.seq,
                            millis(*due),
                            error,
                            whole,
                            millis(not_before),
                            INNOCENT
                        ],
                        |row| row.get(0),
                    )
                    .optional()?;
                Ok(expired.unwrap_or(false))
            }
            Disposition::GivenUp { error } => {
                self.connection
                    .prepare_cached(
                        "UPDATE webhook SET attempts = attempts + 1, due = NULL, error = ? WHERE seq = ? AND due IS NOT NULL",
                    )?
                    .execute(params![error, settled.seq])?;
                Ok(false)
            }
        }
    }

    fn cut_given_up(&self, endpoint: &str) -> Result<(), StoreError> {
        if self.waiting(endpoint)?.given_up < GIVEN_UP_KEPT + GIVEN_UP_SLACK {
            return Ok(());
        }
        self.connection
            .prepare_cached(
                "DELETE FROM webhook WHERE seq IN
                 (SELECT seq FROM webhook WHERE endpoint = ? AND due IS NULL ORDER BY seq DESC LIMIT -1 OFFSET ?)",
            )?
            .execute(params![endpoint, GIVEN_UP_KEPT])?;
        Ok(())
    }

    /// Gives up what has waited since before `not_before`; what has failed is given up when it fails again. Returns how many.
    fn expire(&self, endpoint: &str, not_before: UnixMillis) -> Result<u64, StoreError> {
        let expired = self
            .connection
            .prepare_cached(
                "UPDATE webhook SET due = NULL, error = coalesce('too old; ' || error, 'too old') WHERE seq IN
                 (SELECT seq FROM webhook WHERE endpoint = ?1 AND due < ?2 AND since < ?2 ORDER BY due LIMIT ?3)",
            )?
            .execute(params![endpoint, millis(not_before), EXPIRED_AT_A_TIME])?;
        Ok(expired as u64)
    }

    fn find_gone(&self, room: &Demand, gone: &mut Vec<i64>) -> Result<(), StoreError> {
        let mut waits = self
            .connection
            .prepare_cached("SELECT 1 FROM webhook WHERE seq = ? AND due IS NOT NULL")?;
        for seq in &room.in_hand {
            if !waits.exists([seq])? {
                gone.push(*seq);
            }
        }
        Ok(())
    }

    fn find_due(
        &self,
        room: &Demand,
        now: UnixMillis,
        found: &mut Vec<Delivery>,
    ) -> Result<(), StoreError> {
        if room.deliveries == 0 {
            return Ok(());
        }
        let endpoint = &self.outbox.endpoints[room.endpoint];
        let mut statement = self.connection.prepare_cached(
            "SELECT w.seq, delivery_id, event_type, attempts, head, d.data FROM webhook w JOIN webhook_data d ON d.id = w.data
             WHERE w.endpoint = ? AND due <= ? ORDER BY due, w.seq LIMIT ?",
        )?;
        let limit = i64::try_from(room.deliveries + room.in_hand.len()).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![endpoint, millis(now), limit])?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            if room.in_hand.contains(&seq) {
                continue;
            }
            if count == room.deliveries || bytes >= BYTES_AT_A_TIME {
                break;
            }
            let (head, data) = (row.get_ref(4)?.as_str(), row.get_ref(5)?.as_str());
            // Somebody may have edited it.
            let (head, data) = (head.unwrap_or("{}"), data.unwrap_or("null"));
            let body = webhook_event::body(head, data);
            count += 1;
            bytes += body.len();
            found.push(Delivery {
                endpoint: room.endpoint,
                seq,
                id: row.get(1)?,
                event_type: row.get(2)?,
                attempts: row.get(3)?,
                body,
            });
        }
        Ok(())
    }

    /// What waits or was given up, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn webhooks(&self, chosen: &Selection) -> Result<Vec<WebhookRow>, StoreError> {
        let (condition, ids) = chosen.condition();
        let mut statement = self.connection.prepare(&format!(
            "SELECT delivery_id, w.endpoint, event_type, created_at, attempts, due, error,
                    length(CAST(head AS BLOB)) + length(CAST(d.data AS BLOB))
             FROM webhook w JOIN webhook_data d ON d.id = w.data WHERE {condition} ORDER BY w.seq"
        ))?;
        let listed = statement.query_map(params_from_iter(ids), |row| {
            Ok(WebhookRow {
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

    /// Has deliveries tried again, with as much time before them as new ones have. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn retry_webhooks(
        &mut self,
        chosen: &Selection,
        now: UnixMillis,
    ) -> Result<usize, StoreError> {
        let (condition, ids) = chosen.condition();
        let now = millis(now);
        // Two marks before those of the condition.
        let given = [&now as &dyn ToSql, &now].into_iter();
        let values = given.chain(ids.iter().map(|id| id as &dyn ToSql));
        let text = format!("UPDATE webhook SET due = ?, since = ?, attempts = 0 WHERE {condition}");
        Ok(self.connection.execute(&text, params_from_iter(values))?)
    }

    /// Forgets deliveries. Returns how many.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn drop_webhooks(&mut self, chosen: &Selection) -> Result<usize, StoreError> {
        let (condition, ids) = chosen.condition();
        let text = format!("DELETE FROM webhook WHERE {condition}");
        Ok(self.connection.execute(&text, params_from_iter(ids))?)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreLocation;
    use super::*;
    use crate::rules::webhook_event::EventKind;

    const NOW: u64 = 1_800_000_000_000;

    fn event(n: usize) -> Event {
        let text = format!("{{\"n\":{n}}}");
        Event {
            kind: EventKind::MessageSent,
            id: format!("id-{n}"),
            copy_of: None,
            head: "{\"event_type\":\"x\"}".to_owned(),
            data: text.into(),
            shared: None,
        }
    }

    fn room(endpoint: usize, deliveries: usize, in_hand: &[i64]) -> OutboxRequest {
        OutboxRequest {
            room: vec![Demand {
                endpoint,
                deliveries,
                in_hand: in_hand.to_vec(),
            }],
            ..OutboxRequest::default()
        }
    }

    fn settled(seq: i64, how: Disposition) -> OutboxRequest {
        OutboxRequest {
            settled: vec![DeliveryResult {
                endpoint: 0,
                seq,
                how,
            }],
            ..OutboxRequest::default()
        }
    }

    #[test]
    fn the_outbox_hands_out_what_is_due_oldest_first_and_forgets_what_is_settled() {
        let mut store = Store::open(&StoreLocation::Memory, false)
            .unwrap()
            .with_webhooks(vec!["a".to_owned(), "b".to_owned()], 1_000_000);
        let at = |n| UnixMillis::new(NOW + n);
        for n in 0..5 {
            assert_eq!(store.enqueue(&event(n), at(0)).unwrap(), [0, 0]);
        }
        // The same again is no news.
        store.enqueue(&event(3), at(1)).unwrap();
        let given = store.serve_outbox(&room(1, 3, &[]), at(1)).unwrap();
        let ids: Vec<&str> = given.deliveries.iter().map(|d| d.id.as_str()).collect();
        assert_eq!(ids, ["id-0", "id-1", "id-2"]);
        let five = Waiting {
            events: 5,
            given_up: 0,
            bytes: 5 * 25,
        };
        assert_eq!(given.waiting, [five, five]);
        let first = store.serve_outbox(&room(0, 1, &[]), at(1)).unwrap();
        let seq = first.deliveries[0].seq;
        let next = store.serve_outbox(&room(0, 1, &[seq]), at(1)).unwrap();
        assert_eq!(next.deliveries[0].id, "id-1");
        // Put off, it is not handed out until it is due.
        let later = Disposition::Later {
            due: at(100),
            error: "answers 500".to_owned(),
            whole: false,
        };
        store.serve_outbox(&settled(seq, later), at(2)).unwrap();
        let ids = |store: &mut Store, now| {
            let given = store.serve_outbox(&room(0, 9, &[]), at(now)).unwrap();
            let ids = given.deliveries.into_iter().map(|delivery| delivery.id);
            ids.collect::<Vec<_>>()
        };
        assert_eq!(ids(&mut store, 99), ["id-1", "id-2", "id-3", "id-4"]);
        assert_eq!(ids(&mut store, 100).len(), 5);
        let again = Disposition::Later {
            due: at(1_000),
            error: String::new(),
            whole: true,
        };
        store.serve_outbox(&settled(seq, again), at(100)).unwrap();
        let recovered = OutboxRequest {
            recovered: vec![0],
            ..OutboxRequest::default()
        };
        store.serve_outbox(&recovered, at(101)).unwrap();
        assert_eq!(ids(&mut store, 101)[0], "id-0");
        let given = store.serve_outbox(&settled(seq, Disposition::Delivered), at(102));
        assert_eq!(given.unwrap().waiting[0].events, 4);
        let error = "answers 400".to_owned();
        let given = store.serve_outbox(
            &settled(next.deliveries[0].seq, Disposition::GivenUp { error }),
            at(102),
        );
        assert_eq!(
            given.unwrap().waiting[0],
            Waiting {
                events: 3,
                given_up: 1,
                bytes: 4 * 25
            }
        );
        let listed = store.webhooks(&Selection::GivenUp).unwrap();
        assert_eq!(
            (listed[0].id.as_str(), listed[0].attempts, listed[0].due),
            ("id-1", 1, None)
        );
        assert_eq!(
            store.retry_webhooks(&Selection::GivenUp, at(200)).unwrap(),
            1
        );
        assert_eq!(ids(&mut store, 200), ["id-2", "id-3", "id-4", "id-1"]);
    }

    #[test]
    fn the_oldest_give_way_what_was_given_up_first_and_the_old_expire() {
        let memory = || {
            let store = Store::open(&StoreLocation::Memory, false).unwrap();
            store.with_webhooks(vec!["a".to_owned()], 10_000)
        };
        let mut store = memory();
        let at = |n| UnixMillis::new(NOW + n);
        let lost: u64 = (0..2_000)
            .map(|n| store.enqueue(&event(n), at(n as u64)).unwrap()[0])
            .sum();
        let given = store.serve_outbox(&room(0, 1, &[1, 2_000]), at(0)).unwrap();
        let waiting = given.waiting[0];
        assert!(
            waiting.bytes <= 10_000 && waiting.bytes > 9_900,
            "{waiting:?}"
        );
        assert_eq!(u64::try_from(waiting.events).unwrap() + lost, 2_000);
        assert_eq!(given.gone, [1], "what is in hand and has given way");
        let kept = store.webhooks(&Selection::All).unwrap();
        let bytes: i64 = kept.iter().map(|row| row.bytes).sum();
        assert_eq!(bytes, waiting.bytes, "the triggers count right");
        // The old expire; they still count, and are the first to give way.
        let expire = OutboxRequest {
            not_before: at(2_000),
            ..room(0, 1, &[])
        };
        let expired = store.serve_outbox(&expire, at(2_001)).unwrap();
        assert_eq!(i64::try_from(expired.expired[0]).unwrap(), waiting.events);
        assert_eq!(
            (expired.waiting[0].events, expired.waiting[0].given_up),
            (0, waiting.events)
        );
        assert_eq!(store.enqueue(&event(2_000), at(2_002)).unwrap(), [0]);
        // What fails when its time is over is given up then.
        let seq = store
            .serve_outbox(&room(0, 1, &[]), at(2_002))
            .unwrap()
            .deliveries[0]
            .seq;
        let later = OutboxRequest {
            not_before: at(3_000),
            ..settled(
                seq,
                Disposition::Later {
                    due: at(5_000),
                    error: "answers 500".to_owned(),
                    whole: false,
                },
            )
        };
        assert_eq!(store.serve_outbox(&later, at(3_001)).unwrap().expired, [1]);
        let listed = store.webhooks(&Selection::GivenUp).unwrap();
        let last = listed.last().unwrap();
        assert_eq!(last.error.as_deref(), Some("too old; answers 500"));
        assert_eq!(store.drop_webhooks(&Selection::All).unwrap(), listed.len());
        assert_eq!(store.outbox_bytes().unwrap(), 0);
    }

    #[test]
    fn of_what_was_given_up_the_last_thousand_are_kept() {
        let mut store = Store::open(&StoreLocation::Memory, false).unwrap();
        store = store.with_webhooks(vec!["a".to_owned()], 10_000_000);
        for n in 0..1_500 {
            store.enqueue(&event(n), UnixMillis::new(NOW)).unwrap();
        }
        let expire = OutboxRequest {
            not_before: UnixMillis::new(NOW + 1),
            ..room(0, 1, &[])
        };
        for _ in 0..4 {
            store
                .serve_outbox(&expire, UnixMillis::new(NOW + 2))
                .unwrap();
        }
        let kept = store.webhooks(&Selection::All).unwrap();
        assert_eq!((kept.len(), &*kept[0].id), (1_000, "id-500"));
    }

    #[test]
    fn the_copies_of_one_message_share_what_they_say() {
        let mut store = Store::open(&StoreLocation::Memory, false).unwrap();
        store = store.with_webhooks(vec!["a".to_owned(), "b".to_owned()], 1_000_000);
        let large = format!("\"{}\"", "x".repeat(50_000));
        let copy = |n: usize| Event {
            data: large.clone().into(),
            shared: Some("app/m1/message-delivered".to_owned()),
            ..event(n)
        };
        // Far more than there would be room for, one by one: and nothing gives way.
        for n in 0..1_000 {
            assert_eq!(
                store.enqueue(&copy(n), UnixMillis::new(NOW)).unwrap(),
                [0, 0]
            );
        }
        let given = store
            .serve_outbox(&room(1, 2, &[]), UnixMillis::new(NOW))
            .unwrap();
        assert_eq!(given.waiting[1].bytes, 50_002 + 1_000 * 18);
        let body = format!("{{\"event_type\":\"x\",\"data\":{large}}}");
        assert!(
            given
                .deliveries
                .iter()
                .all(|delivery| delivery.body == body)
        );
        let all: Vec<i64> = (1..=2_000).collect();
        for seq in all {
            store
                .serve_outbox(&settled(seq, Disposition::Delivered), UnixMillis::new(NOW))
                .unwrap();
        }
        assert_eq!(store.outbox_bytes().unwrap(), 0, "the last takes it along");
    }

    #[test]
    fn when_an_endpoint_answers_again_only_what_failed_with_it_is_due() {
        let mut store = Store::open(&StoreLocation::Memory, false).unwrap();
        store = store.with_webhooks(vec!["a".to_owned()], 1_000_000);
        let at = |n| UnixMillis::new(NOW + n);
        for n in 0..3 {
            store.enqueue(&event(n), at(0)).unwrap();
        }
        // The first failed with the endpoint, the second by itself, the third with it again and again.
        for (seq, whole, times) in [(1, true, 5), (2, false, 1), (3, true, 6)] {
            for _ in 0..times {
                let error = "answers 500".to_owned();
                let due = at(9_000);
                let how = Disposition::Later { due, error, whole };
                store.serve_outbox(&settled(seq, how), at(1)).unwrap();
            }
        }
        let recovered = OutboxRequest {
            recovered: vec![0],
            ..room(0, 9, &[])
        };
        let given = store.serve_outbox(&recovered, at(2)).unwrap();
        let due: Vec<i64> = given.deliveries.iter().map(|d| d.seq).collect();
        assert_eq!(due, [1]);
    }
}
