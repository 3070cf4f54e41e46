//! The outbox in tables: `webhook` has a row for each event and endpoint, `webhook_data` what
//! several events share, `webhook_count` the sums for each endpoint, kept by triggers.

use rusqlite::{Params, params};

use super::connection::{Statement, statements};
use super::{SqliteStore, StoreError, millis};
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

/// Events dropped at a time to make room for a new one: messages wait meanwhile.
const DROPPED_PER_EVENT: usize = 64;

statements! {
    FIND_EVENT = "SELECT 1 FROM webhook WHERE delivery_id = ? AND endpoint = ?";
    FIND_SHARED_DATA = "SELECT id FROM webhook_data WHERE shared = ? AND endpoint = ?";
    INSERT_DATA = "INSERT INTO webhook_data (endpoint, shared, data) VALUES (?, ?, ?)";
    INSERT_EVENT = "INSERT INTO webhook
        (endpoint, delivery_id, event_type, created_at, since, due, attempts, whole, head, data)
        VALUES (?1, ?2, ?3, ?4, ?4, ?4, 0, 0, ?5, ?6)";
    // What was given up is dropped first. The event numbered ?2, the new one, stays, however large.
    DROP_OLDEST = "DELETE FROM webhook WHERE seq = coalesce(
        (SELECT seq FROM webhook WHERE endpoint = ?1 AND due IS NULL ORDER BY seq LIMIT 1),
        (SELECT seq FROM webhook WHERE endpoint = ?1 AND due IS NOT NULL AND seq <> ?2
         ORDER BY due, seq LIMIT 1))
        RETURNING due IS NOT NULL";
    WAITING = "SELECT waiting, given_up, bytes FROM webhook_count WHERE endpoint = ?";
    ORPHANED may scan "one row for each endpoint" =
        "SELECT coalesce(sum(waiting), 0) FROM webhook_count
         WHERE endpoint NOT IN (SELECT value FROM json_each(?))";
    BYTES may scan "one row for each endpoint" =
        "SELECT coalesce(sum(bytes), 0) FROM webhook_count";
    RECOVER = "UPDATE webhook SET due = since
        WHERE endpoint = ? AND due > ? AND whole AND attempts <= ?";
    DELETE_EVENT = "DELETE FROM webhook WHERE seq = ?";
    LATER = "UPDATE webhook SET attempts = attempts + 1, whole = ?4,
        error = iif(since < ?5, 'too old; ', '') || ?3,
        due = CASE WHEN since < ?5 THEN NULL WHEN ?4 AND attempts < ?6 THEN since ELSE ?2 END
        WHERE seq = ?1 AND due IS NOT NULL RETURNING due IS NULL";
    GIVE_UP = "UPDATE webhook SET attempts = attempts + 1, due = NULL, error = ?
        WHERE seq = ? AND due IS NOT NULL";
    // The rows are changed one by one: where a statement does both, the planner may prefer to scan
    // the table, because it was small when the statistics were gathered.
    SURPLUS_GIVEN_UP = "SELECT seq FROM webhook WHERE endpoint = ? AND due IS NULL
        ORDER BY seq DESC LIMIT -1 OFFSET ?";
    // An event whose last attempt failed is due later: it is given up when it fails again.
    TOO_OLD = "SELECT seq FROM webhook WHERE endpoint = ?1 AND due < ?2 AND since < ?2
        ORDER BY due LIMIT ?3";
    EXPIRE = "UPDATE webhook SET due = NULL, error = coalesce('too old; ' || error, 'too old')
        WHERE seq = ?";
    STILL_WAITS = "SELECT 1 FROM webhook WHERE seq = ? AND due IS NOT NULL";
    DUE = "SELECT w.seq, w.delivery_id, w.event_type, w.attempts, w.head, d.data
        FROM webhook w CROSS JOIN webhook_data d ON d.id = w.data
        WHERE w.endpoint = ? AND w.due <= ? ORDER BY w.due, w.seq LIMIT ?";
}

impl Outbox for SqliteStore {
    fn set_endpoints(&mut self, endpoints: Endpoints) {
        self.endpoints = endpoints;
    }

    fn orphaned(&self) -> Result<i64, StoreError> {
        let names = json_array(&self.endpoints.names);
        Ok(self.connection.row(&ORPHANED, [names], |row| row.get(0))?)
    }

    fn enqueue(&mut self, event: &Event, now: UnixMillis) -> Result<Vec<u64>, StoreError> {
        let endpoints = self.endpoints.names.iter();
        endpoints
            .map(|endpoint| self.enqueue_for(endpoint, event, now))
            .collect()
    }

    fn serve_outbox(
        &mut self,
        request: &OutboxRequest,
        now: UnixMillis,
    ) -> Result<OutboxReply, StoreError> {
        let mut reply = OutboxReply {
            expired: vec![0; self.endpoints.names.len()],
            ..OutboxReply::default()
        };
        for result in &request.results {
            let expired = self.record(result, request.expire_before)?;
            reply.expired[result.endpoint] += u64::from(expired);
        }
        for at in &request.recovered {
            let endpoint = &self.endpoints.names[*at];
            let params = params![endpoint, millis(now), FORGIVEN_FAILURES];
            self.connection.execute(&RECOVER, params)?;
        }
        for demand in &request.demands {
            let endpoint = &self.endpoints.names[demand.endpoint];
            reply.expired[demand.endpoint] += self.expire(endpoint, request.expire_before)?;
            self.cut_given_up(endpoint)?;
            self.find_gone(demand, &mut reply.gone)?;
            self.find_due(demand, now, &mut reply.deliveries)?;
        }
        for endpoint in &self.endpoints.names {
            reply.waiting.push(self.waiting(endpoint)?);
        }
        Ok(reply)
    }
}

impl SqliteStore {
    /// Bytes of all events, the given up included.
    pub(super) fn outbox_bytes(&self) -> Result<u64, StoreError> {
        let bytes: i64 = self.connection.row(&BYTES, [], |row| row.get(0))?;
        Ok(u64::try_from(bytes).unwrap_or(0))
    }

    fn enqueue_for(
        &self,
        endpoint: &str,
        event: &Event,
        now: UnixMillis,
    ) -> Result<u64, StoreError> {
        let key = [event.id.as_str(), endpoint];
        if self.connection.exists(&FIND_EVENT, key)? {
            return Ok(0);
        }
        let data = self.data_for(endpoint, event)?;
        let kind = event.kind.as_str();
        let params = params![endpoint, event.id, kind, millis(now), event.head, data];
        let seq = self.connection.insert(&INSERT_EVENT, params)?;
        self.make_room(endpoint, seq)
    }

    /// The row with the data of an event; made, unless another copy of the message has made it.
    fn data_for(&self, endpoint: &str, event: &Event) -> Result<i64, StoreError> {
        if let Some(name) = &event.shared {
            let key = [name.as_str(), endpoint];
            let found = self
                .connection
                .find(&FIND_SHARED_DATA, key, |row| row.get(0))?;
            if let Some(id) = found {
                return Ok(id);
            }
        }
        let text = String::from_utf8_lossy(&event.data);
        let params = params![endpoint, event.shared, text];
        Ok(self.connection.insert(&INSERT_DATA, params)?)
    }

    /// Drops the oldest events while an endpoint has more than it may. Returns how many of them
    /// waited still.
    fn make_room(&self, endpoint: &str, new: i64) -> Result<u64, StoreError> {
        let max_bytes = i64::try_from(self.endpoints.max_bytes).unwrap_or(i64::MAX);
        let mut lost = 0;
        for _ in 0..DROPPED_PER_EVENT {
            if self.waiting(endpoint)?.bytes <= max_bytes {
                break;
            }
            let dropped: Option<bool> =
                self.connection
                    .find(&DROP_OLDEST, params![endpoint, new], |row| row.get(0))?;
            match dropped {
                Some(waited) => lost += u64::from(waited),
                None => break,
            }
        }
        Ok(lost)
    }

    fn waiting(&self, endpoint: &str) -> Result<Waiting, StoreError> {
        let waiting = self.connection.find(&WAITING, [endpoint], |row| {
            Ok(Waiting {
                events: row.get(0)?,
                given_up: row.get(1)?,
                bytes: row.get(2)?,
            })
        })?;
        Ok(waiting.unwrap_or_default())
    }

    /// Records the result of an attempt. Returns whether the event is given up because it is too
    /// old. The event may be gone: dropped for want of room, or by an operator.
    fn record(
        &self,
        result: &DeliveryResult,
        expire_before: UnixMillis,
    ) -> Result<bool, StoreError> {
        match &result.disposition {
            Disposition::Delivered => {
                self.connection.execute(&DELETE_EVENT, [result.seq])?;
                Ok(false)
            }
            Disposition::Later { due, error, scope } => {
                let params = params![
                    result.seq,
                    millis(*due),
                    error,
                    *scope == FailureScope::Endpoint,
                    millis(expire_before),
                    FREE_FAILURES
                ];
                let expired = self.connection.find(&LATER, params, |row| row.get(0))?;
                Ok(expired.unwrap_or(false))
            }
            Disposition::GivenUp { error } => {
                let params = params![error, result.seq];
                self.connection.execute(&GIVE_UP, params)?;
                Ok(false)
            }
        }
    }

    /// Deletes the oldest of the events that were given up, if there are too many.
    fn cut_given_up(&self, endpoint: &str) -> Result<(), StoreError> {
        if self.waiting(endpoint)?.given_up < GIVEN_UP_KEPT + GIVEN_UP_SLACK {
            return Ok(());
        }
        let params = params![endpoint, GIVEN_UP_KEPT];
        for seq in self.numbers(&SURPLUS_GIVEN_UP, params)? {
            self.connection.execute(&DELETE_EVENT, [seq])?;
        }
        Ok(())
    }

    /// Gives up events that are too old. Returns how many.
    fn expire(&self, endpoint: &str, before: UnixMillis) -> Result<u64, StoreError> {
        let params = params![endpoint, millis(before), EXPIRED_PER_REQUEST];
        let too_old = self.numbers(&TOO_OLD, params)?;
        for seq in &too_old {
            self.connection.execute(&EXPIRE, [seq])?;
        }
        Ok(too_old.len() as u64)
    }

    /// The numbers of events that a query selects.
    fn numbers(&self, query: &Statement, params: impl Params) -> Result<Vec<i64>, StoreError> {
        Ok(self.connection.rows(query, params, |row| row.get(0))?)
    }

    fn find_gone(&self, demand: &Demand, gone: &mut Vec<i64>) -> Result<(), StoreError> {
        let mut waits = self.connection.prepare(&STILL_WAITS)?;
        for seq in &demand.in_flight {
            if !waits.exists([seq])? {
                gone.push(*seq);
            }
        }
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
        let endpoint = &self.endpoints.names[demand.endpoint];
        let limit = demand.deliveries + demand.in_flight.len();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare(&DUE)?;
        let mut rows = statement.query(params![endpoint, millis(now), limit])?;
        let (mut count, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            if demand.in_flight.contains(&seq) {
                continue;
            }
            if count == demand.deliveries || bytes >= BYTES_PER_REPLY {
                break;
            }
            // Somebody may have edited the row: then it is posted as far as it can be.
            let head = row.get_ref(4)?.as_str().unwrap_or("{}");
            let data = row.get_ref(5)?.as_str().unwrap_or("null");
            let body = webhook_event::body(head, data);
            count += 1;
            bytes += body.len();
            found.push(Delivery {
                endpoint: demand.endpoint,
                seq,
                id: row.get(1)?,
                event_type: row.get(2)?,
                attempts: row.get(3)?,
                body,
            });
        }
        Ok(())
    }
}

/// A list of texts as one parameter, for `json_each`.
fn json_array(texts: &[String]) -> String {
    serde_json::to_string(texts).expect("texts are JSON")
}
