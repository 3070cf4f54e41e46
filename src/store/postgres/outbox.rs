//! The outbox in tables: `webhook` has a row for each event and endpoint, `webhook_data` what
//! several events share, `webhook_count` the sums for each endpoint.
//!
//! The events of a batch are queued together, at its end.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Row;

use super::connection::{Command, params, text};
use super::{PostgresStore, StoreError, millis};
use crate::protocol::time::UnixMillis;
use crate::rules::webhook_event::{self, Event};
use crate::store::outbox::{
    BYTES_PER_REPLY, EXPIRED_PER_REQUEST, FORGIVEN_FAILURES, FREE_FAILURES, GIVEN_UP_KEPT,
    GIVEN_UP_SLACK,
};
use crate::store::{
    Delivery, DeliveryResult, Demand, Disposition, Endpoints, FailureScope, Outbox, OutboxReply,
    OutboxRequest, Waiting,
};

/// Events dropped at a time to make room for new ones: messages wait meanwhile. More than are new,
/// so that an outbox does not grow for ever.
const DROPPED_PER_BATCH: usize = 64;
const DROPPED_PER_EVENT: usize = 2;

const QUEUED: &str = "SELECT delivery_id, endpoint FROM webhook
    WHERE delivery_id = ANY ($1::text[])";
const SHARED_DATA: &str = "SELECT shared, endpoint, id FROM webhook_data
    WHERE shared = ANY ($1::text[])";
const INSERT_DATA: &str = "INSERT INTO webhook_data (id, endpoint, shared, data)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])";
const INSERT_EVENTS: &str = "INSERT INTO webhook
    (seq, endpoint, delivery_id, event_type, created_at, since, due, attempts, whole, head, data)
    SELECT seq, endpoint, id, kind, now, now, now, 0, false, head, data
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[],
        $7::bigint[]) AS u (seq, endpoint, id, kind, now, head, data)";
const COUNT: &str = "INSERT INTO webhook_count (endpoint, waiting, given_up, bytes)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[])
    ON CONFLICT (endpoint) DO UPDATE SET waiting = webhook_count.waiting + excluded.waiting,
        given_up = webhook_count.given_up + excluded.given_up,
        bytes = webhook_count.bytes + excluded.bytes";
const WAITING: &str = "SELECT endpoint, waiting, given_up, bytes FROM webhook_count
    WHERE endpoint = ANY ($1::text[])";
// What was given up is dropped first. The newest event stays, however large. Data go with the last
// event that shares them.
const SURPLUS: &str = "SELECT seq, due IS NULL FROM (
        SELECT seq, due, size, sum(size) OVER
            (ORDER BY due NULLS FIRST, seq ROWS UNBOUNDED PRECEDING) AS total
        FROM (SELECT w.seq, w.due, octet_length(w.head)::bigint + CASE
                WHEN row_number() OVER (PARTITION BY w.data ORDER BY w.due NULLS FIRST, w.seq)
                    = (SELECT count(*) FROM webhook x WHERE x.data = w.data)
                THEN coalesce(octet_length(d.data), 0) ELSE 0 END AS size
            FROM (
                (SELECT seq, due, head, data FROM webhook
                    WHERE endpoint = $1 AND due IS NULL AND (seq & 15) % ($5::bigint / 16) = $5 & 15
                    ORDER BY seq LIMIT $4)
                UNION ALL (SELECT seq, due, head, data FROM webhook
                    WHERE endpoint = $1 AND due IS NOT NULL AND seq <> $2
                        AND (seq & 15) % ($5::bigint / 16) = $5 & 15
                    ORDER BY due, seq LIMIT $4)
            ) w LEFT JOIN webhook_data d ON d.id = w.data) p
    ) p WHERE total - size < $3::bigint ORDER BY due NULLS FIRST, seq LIMIT $4";
const ORPHANED: &str = "SELECT coalesce(sum(waiting), 0)::bigint FROM webhook_count
    WHERE endpoint <> ALL ($1::text[])";
const RECOVER: &str = "UPDATE webhook SET due = since
    WHERE endpoint = $1 AND due > $2 AND whole AND attempts <= $3
        AND (seq & 15) % ($4::bigint / 16) = $4 & 15";
const LATER: &str = "UPDATE webhook SET attempts = attempts + 1, whole = $4,
    error = CASE WHEN since < $5 THEN 'too old; ' ELSE '' END || $3::text,
    due = CASE WHEN since < $5 THEN NULL WHEN $4 AND attempts < $6 THEN since ELSE $2 END
    WHERE seq = $1 AND due IS NOT NULL RETURNING due IS NULL, endpoint";
const GIVE_UP: &str = "UPDATE webhook SET attempts = attempts + 1, due = NULL, error = $1
    WHERE seq = $2 AND due IS NOT NULL RETURNING endpoint";
const SURPLUS_GIVEN_UP: &str = "SELECT seq FROM webhook WHERE endpoint = $1 AND due IS NULL
    AND (seq & 15) % ($3::bigint / 16) = $3 & 15 ORDER BY seq DESC OFFSET $2";
// An event whose last attempt failed is due later: it is given up when it fails again.
const TOO_OLD: &str = "SELECT seq FROM webhook WHERE endpoint = $1 AND due < $2 AND since < $2
    AND (seq & 15) % ($4::bigint / 16) = $4 & 15 ORDER BY due LIMIT $3";
const EXPIRE: &str = "UPDATE webhook SET due = NULL,
    error = coalesce('too old; ' || error, 'too old') WHERE seq = ANY ($1::bigint[])";
const STILL_WAIT: &str = "SELECT seq FROM webhook
    WHERE seq = ANY ($1::bigint[]) AND due IS NOT NULL";
// LEFT JOIN: an operator may have dropped the last event that shared it, just before.
const DUE: &str = "SELECT w.seq, w.delivery_id, w.event_type, w.attempts, w.head,
        coalesce(d.data, 'null')
    FROM webhook w LEFT JOIN webhook_data d ON d.id = w.data
    WHERE w.endpoint = $1 AND w.due <= $2 AND (w.seq & 15) % ($4::bigint / 16) = $4 & 15
    ORDER BY w.due, w.seq LIMIT $3";
const DELETE_EVENTS: &str = "DELETE FROM webhook WHERE seq = ANY ($1::bigint[])
    RETURNING endpoint, due IS NULL, octet_length(head)::bigint, data";
const DELETE_DATA: &str = "DELETE FROM webhook_data d WHERE id = ANY ($1::bigint[])
    AND NOT EXISTS (SELECT 1 FROM webhook w WHERE w.data = d.id)
    RETURNING endpoint, octet_length(data)::bigint";

/// What changes in the sums, by endpoint.
#[derive(Debug, Default)]
pub(super) struct Changes(BTreeMap<String, Waiting>);

impl Changes {
    pub(super) fn of(&mut self, endpoint: &str) -> &mut Waiting {
        self.0.entry(endpoint.to_owned()).or_default()
    }
}

impl Outbox for PostgresStore {
    fn set_endpoints(&mut self, endpoints: Endpoints) {
        self.endpoints = endpoints;
    }

    fn orphaned(&self) -> Result<i64, StoreError> {
        self.row(ORPHANED, params![self.endpoints.names.clone()], |row| {
            row.get(0)
        })
    }

    fn enqueue(&mut self, event: &Event, now: UnixMillis) -> Result<Vec<u64>, StoreError> {
        if self.endpoints.names.is_empty() {
            return Ok(vec![]);
        }
        let queued = (event.clone(), millis(now));
        if self.batch.borrow().is_open() {
            self.batch.borrow_mut().events.push(queued);
        } else {
            self.atomically(|store| {
                store.batch.borrow_mut().events.push(queued.clone());
                Ok(())
            })?;
        }
        let mut dropped = self.dropped.take();
        dropped.resize(self.endpoints.names.len(), 0);
        Ok(dropped)
    }

    fn serve_outbox(
        &mut self,
        request: &OutboxRequest,
        now: UnixMillis,
    ) -> Result<OutboxReply, StoreError> {
        if self.endpoints.names.is_empty() {
            return Ok(OutboxReply::default());
        }
        self.atomically(|store| store.serve(request, now))
    }
}

impl PostgresStore {
    fn serve(
        &mut self,
        request: &OutboxRequest,
        now: UnixMillis,
    ) -> Result<OutboxReply, StoreError> {
        self.queue_events()?;
        let names = self.endpoints.names.clone();
        let mut reply = OutboxReply {
            expired: vec![0; names.len()],
            ..OutboxReply::default()
        };
        let delivered = request.results.iter();
        let delivered = delivered.filter(|result| result.disposition == Disposition::Delivered);
        self.delete_events(delivered.map(|result| result.seq).collect())?;
        for result in &request.results {
            let expired = self.record(result, request.expire_before)?;
            reply.expired[result.endpoint] += u64::from(expired);
        }
        for at in &request.recovered {
            let part = self.slot.part();
            let params = params![names[*at].clone(), millis(now), FORGIVEN_FAILURES, part];
            self.execute(RECOVER, params)?;
        }
        for demand in &request.demands {
            let endpoint = &names[demand.endpoint];
            reply.expired[demand.endpoint] += self.expire(endpoint, request.expire_before)?;
            self.cut_given_up(endpoint)?;
            self.find_gone(demand, &mut reply.gone)?;
            self.find_due(demand, now, &mut reply.deliveries)?;
        }
        let waiting = self.waiting()?;
        let of = |name: &String| waiting.get(name).copied().unwrap_or_default();
        reply.waiting = names.iter().map(of).collect();
        Ok(reply)
    }

    /// Writes the events of the batch, each for every endpoint.
    pub(super) fn queue_events(&mut self) -> Result<(), StoreError> {
        let events = std::mem::take(&mut self.batch.borrow_mut().events);
        if events.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = events.iter().map(|(event, _)| text(&event.id)).collect();
        let shared = events
            .iter()
            .filter_map(|(event, _)| event.shared.as_deref());
        let shared: Vec<String> = shared.map(text).collect();
        self.flush()?;
        let commands = [
            Command {
                sql: QUEUED,
                params: params![ids],
            },
            Command {
                sql: SHARED_DATA,
                params: params![shared],
            },
        ];
        let found = self.connection.pipeline("", &commands, "")?;
        let pairs = |row: &Row| (row.get::<_, String>(0), row.get::<_, String>(1));
        let mut queued: std::collections::HashSet<(String, String)> =
            found[0].iter().map(pairs).collect();
        let mut shared: HashMap<(String, String), i64> = found[1]
            .iter()
            .map(|row| (pairs(row), row.get(2)))
            .collect();
        let mut changes = Changes::default();
        let (mut rows, mut data) = (EventRows::default(), DataRows::default());
        for (event, now) in &events {
            for endpoint in &self.endpoints.names {
                if !queued.insert((text(&event.id), endpoint.clone())) {
                    continue;
                }
                self.counters.last_event = self.slot.next_event(self.counters.last_event);
                let seq = self.counters.last_event;
                let key = event
                    .shared
                    .as_deref()
                    .map(|name| (text(name), endpoint.clone()));
                let known = key.as_ref().and_then(|key| shared.get(key).copied());
                let id = known.unwrap_or(seq);
                let change = changes.of(endpoint);
                if known.is_none() {
                    change.bytes += data.add(id, endpoint, event);
                    shared.extend(key.map(|key| (key, id)));
                }
                change.events += 1;
                change.bytes += rows.add((seq, id), endpoint, event, *now);
            }
        }
        data.write(self);
        rows.write(self);
        self.count(changes);
        self.make_room(events.len())
    }

    /// Drops the oldest events of the endpoints that have more than they may.
    fn make_room(&mut self, events: usize) -> Result<(), StoreError> {
        let max_bytes = i64::try_from(self.endpoints.max_bytes).unwrap_or(i64::MAX);
        let limit = DROPPED_PER_BATCH.saturating_add(DROPPED_PER_EVENT * events);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let newest = self.counters.last_event;
        let waiting = self.waiting()?;
        for (at, name) in self.endpoints.names.iter().enumerate() {
            let excess = waiting.get(name).map_or(0, |waiting| waiting.bytes) - max_bytes;
            if excess <= 0 {
                continue;
            }
            let part = self.slot.part();
            let params = params![name.clone(), newest, excess, limit, part];
            let surplus: Vec<(i64, bool)> =
                self.rows(SURPLUS, params, |row| (row.get(0), row.get(1)))?;
            let lost = surplus.iter().filter(|(_, is_given_up)| !is_given_up);
            let lost = lost.count() as u64;
            self.delete_events(surplus.into_iter().map(|(seq, _)| seq).collect())?;
            let mut dropped = self.dropped.borrow_mut();
            dropped.resize(self.endpoints.names.len(), 0);
            dropped[at] += lost;
        }
        Ok(())
    }

    /// What waits for each endpoint.
    fn waiting(&self) -> Result<HashMap<String, Waiting>, StoreError> {
        let rows = self.rows(WAITING, params![self.endpoints.names.clone()], |row| {
            let waiting = Waiting {
                events: row.get(1),
                given_up: row.get(2),
                bytes: row.get(3),
            };
            (row.get(0), waiting)
        })?;
        Ok(rows.into_iter().collect())
    }

    /// Adds to the sums, with the batch.
    pub(super) fn count(&self, changes: Changes) {
        let changed = changes.0.into_iter();
        let changed: Vec<_> = changed
            .filter(|(_, change)| *change != Waiting::default())
            .collect();
        if changed.is_empty() {
            return;
        }
        let column = |of: fn(&Waiting) -> i64| -> Vec<i64> {
            changed.iter().map(|(_, change)| of(change)).collect()
        };
        let waiting = column(|change| change.events);
        let given_up = column(|change| change.given_up);
        let bytes = column(|change| change.bytes);
        let names: Vec<String> = changed.into_iter().map(|(name, _)| name).collect();
        self.later(COUNT, params![names, waiting, given_up, bytes]);
    }

    /// Deletes events, and what no other event shares with them. Returns how many there were.
    pub(super) fn delete_events(&self, seqs: Vec<i64>) -> Result<usize, StoreError> {
        if seqs.is_empty() {
            return Ok(0);
        }
        self.open_transaction()?;
        let mut changes = Changes::default();
        let deleted = self.rows(DELETE_EVENTS, params![seqs], |row| {
            let change = changes.of(row.get(0));
            let is_given_up: bool = row.get(1);
            change.given_up -= i64::from(is_given_up);
            change.events -= i64::from(!is_given_up);
            change.bytes -= row.get::<_, i64>(2);
            row.get::<_, i64>(3)
        })?;
        let count = deleted.len();
        self.rows(DELETE_DATA, params![deleted], |row| {
            changes.of(row.get(0)).bytes -= row.get::<_, i64>(1);
        })?;
        self.batch.borrow_mut().note_change(count > 0);
        self.count(changes);
        Ok(count)
    }

    /// Records the result of an attempt that failed. Returns whether the event is given up because
    /// it is too old. The event may be gone: dropped for want of room, or by an operator.
    fn record(
        &self,
        result: &DeliveryResult,
        expire_before: UnixMillis,
    ) -> Result<bool, StoreError> {
        let (given_up, expired) = match &result.disposition {
            Disposition::Delivered => return Ok(false),
            Disposition::Later { due, error, scope } => {
                let params = params![
                    result.seq,
                    millis(*due),
                    text(error),
                    *scope == FailureScope::Endpoint,
                    millis(expire_before),
                    FREE_FAILURES
                ];
                self.open_transaction()?;
                let found = self.find(LATER, params, |row| (row.get(0), row.get(1)))?;
                let found: Option<(bool, String)> = found;
                let expired = found.as_ref().is_some_and(|(expired, _)| *expired);
                let endpoint = found.filter(|(expired, _)| *expired);
                (endpoint.map(|(_, endpoint)| endpoint), expired)
            }
            Disposition::GivenUp { error } => {
                self.open_transaction()?;
                let params = params![text(error), result.seq];
                (self.find(GIVE_UP, params, |row| row.get(0))?, false)
            }
        };
        self.batch.borrow_mut().note_change(true);
        let mut changes = Changes::default();
        if let Some(endpoint) = given_up {
            let change = changes.of(&endpoint);
            (change.events, change.given_up) = (-1, 1);
        }
        self.count(changes);
        Ok(expired)
    }

    /// Deletes the oldest of the events that were given up, if there are too many.
    fn cut_given_up(&self, endpoint: &str) -> Result<(), StoreError> {
        let given_up = self
            .waiting()?
            .get(endpoint)
            .map_or(0, |waiting| waiting.given_up);
        if given_up < GIVEN_UP_KEPT + GIVEN_UP_SLACK {
            return Ok(());
        }
        let surplus = self.numbers(
            SURPLUS_GIVEN_UP,
            params![endpoint.to_owned(), GIVEN_UP_KEPT, self.slot.part()],
        )?;
        self.delete_events(surplus).map(drop)
    }

    /// Gives up events that are too old. Returns how many.
    fn expire(&self, endpoint: &str, before: UnixMillis) -> Result<u64, StoreError> {
        let part = self.slot.part();
        let params = params![
            endpoint.to_owned(),
            millis(before),
            EXPIRED_PER_REQUEST,
            part
        ];
        let too_old = self.numbers(TOO_OLD, params)?;
        let count = too_old.len();
        if count > 0 {
            self.execute(EXPIRE, params![too_old])?;
            let mut changes = Changes::default();
            let change = changes.of(endpoint);
            let expired = i64::try_from(count).unwrap_or(0);
            (change.events, change.given_up) = (-expired, expired);
            self.count(changes);
        }
        Ok(count as u64)
    }

    /// The numbers of events that a query selects.
    pub(super) fn numbers(
        &self,
        sql: &'static str,
        params: Vec<super::connection::Param>,
    ) -> Result<Vec<i64>, StoreError> {
        self.rows(sql, params, |row| row.get(0))
    }

    fn find_gone(&self, demand: &Demand, gone: &mut Vec<i64>) -> Result<(), StoreError> {
        if demand.in_flight.is_empty() {
            return Ok(());
        }
        let waits = self.numbers(STILL_WAIT, params![demand.in_flight.clone()])?;
        let in_flight = demand.in_flight.iter().copied();
        gone.extend(in_flight.filter(|seq| !waits.contains(seq)));
        Ok(())
    }

    fn find_due(
        &self,
        demand: &Demand,
        now: UnixMillis,
        found: &mut Vec<Delivery>,
    ) -> Result<(), StoreError> {
        if demand.deliveries == 0 {
            return Ok(());
        }
        let endpoint = self.endpoints.names[demand.endpoint].clone();
        let limit = demand.deliveries + demand.in_flight.len();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let part = self.slot.part();
        let due = self.rows(DUE, params![endpoint, millis(now), limit, part], |row| {
            Delivery {
                endpoint: demand.endpoint,
                seq: row.get(0),
                id: row.get(1),
                event_type: row.get(2),
                attempts: u32::try_from(row.get::<_, i64>(3)).unwrap_or(u32::MAX),
                body: webhook_event::body(row.get(4), row.get(5)),
            }
        })?;
        let mut bytes = 0;
        let new = due
            .into_iter()
            .filter(|due| !demand.in_flight.contains(&due.seq));
        for delivery in new.take(demand.deliveries) {
            if bytes >= BYTES_PER_REPLY {
                break;
            }
            bytes += delivery.body.len();
            found.push(delivery);
        }
        Ok(())
    }
}

/// Rows of `webhook` to insert.
#[derive(Default)]
struct EventRows {
    seqs: Vec<i64>,
    endpoints: Vec<String>,
    ids: Vec<String>,
    kinds: Vec<String>,
    times: Vec<i64>,
    heads: Vec<String>,
    data: Vec<i64>,
}

impl EventRows {
    /// Returns the bytes that count.
    fn add(&mut self, (seq, data): (i64, i64), endpoint: &str, event: &Event, now: i64) -> i64 {
        let head = text(&event.head);
        let bytes = i64::try_from(head.len()).unwrap_or(0);
        self.seqs.push(seq);
        self.endpoints.push(endpoint.to_owned());
        self.ids.push(text(&event.id));
        self.kinds.push(event.kind.as_str().to_owned());
        self.times.push(now);
        self.heads.push(head);
        self.data.push(data);
        bytes
    }

    fn write(self, store: &PostgresStore) {
        if !self.seqs.is_empty() {
            let params = params![
                self.seqs,
                self.endpoints,
                self.ids,
                self.kinds,
                self.times,
                self.heads,
                self.data
            ];
            store.later(INSERT_EVENTS, params);
        }
    }
}

/// Rows of `webhook_data` to insert.
#[derive(Default)]
struct DataRows {
    ids: Vec<i64>,
    endpoints: Vec<String>,
    shared: Vec<Option<String>>,
    data: Vec<String>,
}

impl DataRows {
    /// Returns the bytes that count.
    fn add(&mut self, id: i64, endpoint: &str, event: &Event) -> i64 {
        let data = text(&String::from_utf8_lossy(&event.data));
        let bytes = i64::try_from(data.len()).unwrap_or(0);
        self.ids.push(id);
        self.endpoints.push(endpoint.to_owned());
        self.shared.push(event.shared.as_deref().map(text));
        self.data.push(data);
        bytes
    }

    fn write(self, store: &PostgresStore) {
        if !self.ids.is_empty() {
            let params = params![self.ids, self.endpoints, self.shared, self.data];
            store.later(INSERT_DATA, params);
        }
    }
}
