//! The store in PostgreSQL as rows that every store has.

use tokio_postgres::Row;

use super::batch::{COPY_BYTES, MESSAGE_BYTES};
use super::connection::{Command, Param, params, text};
use super::write::owner;
use super::{
    Access, Candidate, OfflineDelivery, PostgresStore, SharedBy, StoreError, Taken, Target,
};
use crate::store::transfer::{self, Counters, Kind, Part, Transfer, Value};

const HAS_PROGRESS: &str = "SELECT to_regclass('copying') IS NOT NULL";
const PROGRESS: &str = "SELECT progress FROM copying";
const KEEP_PROGRESS: &str = "CREATE TABLE IF NOT EXISTS copying
    (n BIGINT PRIMARY KEY, progress TEXT COLLATE \"C\" NOT NULL)";
const SET_PROGRESS: &str = "INSERT INTO copying VALUES (0, $1)
    ON CONFLICT (n) DO UPDATE SET progress = excluded.progress";
const FORGET_PROGRESS: &str = "DROP TABLE copying";
const SLOTS: &str = "SELECT count(*), bool_or(sharing = 'hash') FROM observer";
// Of several slots, as far as the last one got: what is behind that may come again.
const COUNTERS: &str = "SELECT min(acknowledged), max(last_seq), max(last_event), max(secret)
    FROM observer";
// Divides by zero if somebody else has the lease: the transaction ends.
const FENCE: &str = "WITH held AS (UPDATE observer SET batch = batch
    WHERE n = 0 AND token = $1 RETURNING 1) SELECT 1 / count(*) FROM held";
// As before its first holder: whoever serves it first says in how many slots.
const SET_COUNTERS: &str = "UPDATE observer SET acknowledged = $1, last_seq = $2, last_event = $3,
    served = false, expires = to_timestamp(0), secret = coalesce($4, secret),
    bytes = (SELECT coalesce(
            sum($5::bigint + octet_length(body)), 0)::bigint FROM message)
        + (SELECT $6::bigint * count(*) FROM timeline) WHERE n = 0";
const COUNT_WEBHOOKS: &str = "INSERT INTO webhook_count
    SELECT endpoint, sum(waiting)::bigint, sum(given_up)::bigint, sum(bytes)::bigint FROM (
        SELECT endpoint, (due IS NOT NULL)::int AS waiting, (due IS NULL)::int AS given_up,
            octet_length(head) AS bytes FROM webhook
        UNION ALL SELECT endpoint, 0, 0, octet_length(data) FROM webhook_data) counted
    GROUP BY endpoint";

const MESSAGES: &str = "SELECT seq, message_id, app, sender, recipient, layout, stored_at,
        fingerprint, body
    FROM message WHERE seq > $1 ORDER BY seq LIMIT $2";
const COPIES: &str = "SELECT app, inbox_of, seq, convers_with, status FROM timeline
    WHERE (app, inbox_of, seq, convers_with) > ($1, $2, $3, $4)
    ORDER BY app, inbox_of, seq, convers_with LIMIT $5";
const CONVERSATIONS: &str = "SELECT app, inbox_of, convers_with, seq, is_new::int::bigint,
        archived::int::bigint, patch, patch_seq
    FROM conversation WHERE (app, inbox_of, convers_with) > ($1, $2, $3)
    ORDER BY app, inbox_of, convers_with LIMIT $4";
const GROUPS: &str = "SELECT app, group_id, body FROM chat_group
    WHERE (app, group_id) > ($1, $2) ORDER BY app, group_id LIMIT $3";
const BLOCKS: &str = "SELECT app, other, inbox_of FROM block
    WHERE (app, other, inbox_of) > ($1, $2, $3) ORDER BY app, other, inbox_of LIMIT $4";
const BANS: &str = "SELECT app, user_id, since FROM ban
    WHERE (app, user_id) > ($1, $2) ORDER BY app, user_id LIMIT $3";
const CLIENTS: &str = "SELECT app, user_id, client_id, since FROM presence
    WHERE (app, user_id, client_id) > ($1, $2, $3) ORDER BY app, user_id, client_id LIMIT $4";
const ABSENCES: &str = "SELECT app, user_id, seq, redelivered_by FROM absence
    WHERE (app, user_id) > ($1, $2) ORDER BY app, user_id LIMIT $3";
const INSTANCES: &str = "SELECT app, instance_id, user_id, body, since FROM instance
    WHERE (app, instance_id) > ($1, $2) ORDER BY app, instance_id LIMIT $3";
const PUBLISHES: &str = "SELECT message_id, number, came_on, purpose, topic, status, payload,
        properties
    FROM delivery WHERE (message_id, number) > ($1, $2) ORDER BY message_id, number LIMIT $3";
const FAN_OUTS: &str = "SELECT f.message_id, f.came_on, f.work, coalesce(p.position, 0)
    FROM fan_out f LEFT JOIN fan_out_position p ON p.message_id = f.message_id
    WHERE f.message_id > $1 ORDER BY f.message_id LIMIT $2";
const WEBHOOK_DATA: &str = "SELECT id, endpoint, shared, data FROM webhook_data
    WHERE id > $1 ORDER BY id LIMIT $2";
const WEBHOOK_EVENTS: &str =
    "SELECT seq, endpoint, delivery_id, event_type, created_at, since, due,
        attempts, whole::int::bigint, error, head, data
    FROM webhook WHERE seq > $1 ORDER BY seq LIMIT $2";

const PUT_MESSAGES: &str = "INSERT INTO message
    (seq, message_id, app, sender, recipient, layout, stored_at, fingerprint, body)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::bigint[], $8::bigint[], $9::text[])";
const PUT_COPIES: &str = "INSERT INTO timeline (app, inbox_of, seq, convers_with, status)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::bigint[])";
const PUT_CONVERSATIONS: &str = "INSERT INTO conversation
    (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)
    SELECT app, inbox_of, convers_with, seq, is_new <> 0, archived <> 0, patch, patch_seq
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[],
        $7::text[], $8::bigint[])
        AS u (app, inbox_of, convers_with, seq, is_new, archived, patch, patch_seq)";
const PUT_GROUPS: &str = "INSERT INTO chat_group (app, group_id, body, owner)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])";
const PUT_BLOCKS: &str = "INSERT INTO block (app, other, inbox_of)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[])";
const PUT_BANS: &str = "INSERT INTO ban (app, user_id, since)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[])";
const PUT_CLIENTS: &str = "INSERT INTO presence (app, user_id, client_id, since)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])";
const PUT_ABSENCES: &str = "INSERT INTO absence (app, user_id, seq, redelivered_by)
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::text[])";
const PUT_INSTANCES: &str = "INSERT INTO instance (app, instance_id, user_id, body, since)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])";
const PUT_PUBLISHES: &str = "INSERT INTO delivery
    (message_id, number, came_on, purpose, topic, status, payload, properties, slot)
    SELECT *, 0 FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bigint[], $5::text[],
        $6::bigint[], $7::bytea[], $8::text[])";
const PUT_FAN_OUTS: &str = "WITH u AS (SELECT * FROM unnest($1::text[], $2::bytea[], $3::text[],
            $4::bigint[]) AS u (message_id, came_on, work, position)),
        positions AS (INSERT INTO fan_out_position (message_id, position)
            SELECT message_id, position FROM u WHERE position <> 0)
    INSERT INTO fan_out (message_id, came_on, work, slot)
    SELECT message_id, came_on, work, 0 FROM u";
const PUT_WEBHOOK_DATA: &str = "INSERT INTO webhook_data (id, endpoint, shared, data)
    SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[])";
const PUT_WEBHOOK_EVENTS: &str = "INSERT INTO webhook (seq, endpoint, delivery_id, event_type,
        created_at, since, due, attempts, whole, error, head, data)
    SELECT seq, endpoint, delivery_id, event_type, created_at, since, due, attempts, whole <> 0,
        error, head, data
    FROM unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
        $7::bigint[], $8::bigint[], $9::bigint[], $10::text[], $11::text[], $12::bigint[])
        AS u (seq, endpoint, delivery_id, event_type, created_at, since, due, attempts, whole,
            error, head, data)";

impl PostgresStore {
    /// Opens a store that may be a copy which is not finished, or is made. It needs the lease.
    pub(in crate::store) fn open_to_transfer(target: &Target) -> Result<Self, StoreError> {
        Self::open_whole(target, Access::Exclusive, OfflineDelivery::Broker)
    }

    /// Opens a store that exists, in however many slots. Nobody may hold any.
    pub(in crate::store) fn open_all_slots(target: &Target) -> Result<Self, StoreError> {
        let looking = Self::open_whole(target, Access::Shared, OfflineDelivery::Broker)?;
        let found = |row: &Row| (row.get(0), row.get(1));
        let (slots, is_by_hash): (i64, bool) = looking.row(SLOTS, vec![], found)?;
        let slots = u16::try_from(slots).unwrap_or(1);
        let sharing = if is_by_hash {
            SharedBy::Hash
        } else {
            SharedBy::All
        };
        let target = target.clone().in_slots(slots).shared_by(sharing);
        let candidate = Candidate::open(&target)?;
        let take = |slot| match candidate.try_take_slot(slot)? {
            Taken::Ours { lease, .. } => Ok(lease),
            Taken::Theirs { holder } => {
                let place = target.path();
                Err(StoreError::Held { place, holder })
            }
        };
        let first = take(0)?;
        let others = (1..slots).map(take).collect::<Result<_, _>>()?;
        let mut store = Self::open_to_transfer(&target.clone().holding(first))?;
        store.other_leases = others;
        Ok(store)
    }

    /// Does all of it in one transaction, as the holder of the lease.
    fn in_transaction(&self, commands: Vec<Command>) -> Result<(), StoreError> {
        let token = self.lease.as_ref().map(|lease| lease.token());
        let fence = Command {
            sql: FENCE,
            params: params![token.ok_or(StoreError::Fenced)?],
        };
        let commands: Vec<Command> = std::iter::once(fence).chain(commands).collect();
        self.connection.ensure()?;
        let done = self.connection.pipeline("BEGIN", &commands, "COMMIT");
        if done.is_err() && self.connection.batch("ROLLBACK").is_err() {
            self.connection.close();
        }
        done.map(drop)
    }
}

impl Transfer for PostgresStore {
    fn progress(&self) -> Result<Option<String>, StoreError> {
        match self.row(HAS_PROGRESS, vec![], |row| row.get(0))? {
            true => self.find(PROGRESS, vec![], |row| row.get(0)),
            false => Ok(None),
        }
    }

    fn check_is_ours(&self) -> Result<(), StoreError> {
        let mut leases = self.lease.iter().chain(&self.other_leases);
        match leases.all(|lease| lease.is_valid()) {
            true => Ok(()),
            false => Err(StoreError::Fenced),
        }
    }

    fn counters(&self) -> Result<Counters, StoreError> {
        self.row(COUNTERS, vec![], |row| Counters {
            acknowledged: row.get(0),
            last_seq: row.get(1),
            last_event: row.get(2),
            secret: row.get(3),
        })
    }

    fn rows(
        &self,
        part: Part,
        after: &[Value],
        most: usize,
    ) -> Result<Vec<transfer::Row>, StoreError> {
        let sql = match part {
            Part::Messages => MESSAGES,
            Part::Copies => COPIES,
            Part::Conversations => CONVERSATIONS,
            Part::Groups => GROUPS,
            Part::Blocks => BLOCKS,
            Part::Bans => BANS,
            Part::Clients => CLIENTS,
            Part::Absences => ABSENCES,
            Part::Instances => INSTANCES,
            Part::Publishes => PUBLISHES,
            Part::FanOuts => FAN_OUTS,
            Part::WebhookData => WEBHOOK_DATA,
            Part::WebhookEvents => WEBHOOK_EVENTS,
        };
        let mut params: Vec<Param> = after.iter().cloned().map(parameter).collect();
        params.push(Box::new(i64::try_from(most).unwrap_or(i64::MAX)));
        let kinds = part.columns();
        self.rows(sql, params, |row| {
            let columns = kinds.iter().enumerate();
            columns.map(|(at, kind)| value(row, at, *kind)).collect()
        })
    }

    fn put(
        &mut self,
        part: Part,
        rows: &[transfer::Row],
        progress: &str,
    ) -> Result<(), StoreError> {
        if Transfer::progress(self)?.is_none() {
            self.connection.batch(KEEP_PROGRESS)?;
        }
        let sql = match part {
            Part::Messages => PUT_MESSAGES,
            Part::Copies => PUT_COPIES,
            Part::Conversations => PUT_CONVERSATIONS,
            Part::Groups => PUT_GROUPS,
            Part::Blocks => PUT_BLOCKS,
            Part::Bans => PUT_BANS,
            Part::Clients => PUT_CLIENTS,
            Part::Absences => PUT_ABSENCES,
            Part::Instances => PUT_INSTANCES,
            Part::Publishes => PUT_PUBLISHES,
            Part::FanOuts => PUT_FAN_OUTS,
            Part::WebhookData => PUT_WEBHOOK_DATA,
            Part::WebhookEvents => PUT_WEBHOOK_EVENTS,
        };
        let columns = part.columns().iter().enumerate();
        let mut params: Vec<Param> = columns.map(|(at, kind)| column(rows, at, *kind)).collect();
        if part == Part::Groups {
            let owners = rows.iter().map(|row| row[2].text().and_then(owner));
            params.push(Box::new(owners.collect::<Vec<Option<String>>>()));
        }
        let mut commands = vec![Command {
            sql: SET_PROGRESS,
            params: params![progress.to_owned()],
        }];
        if !rows.is_empty() {
            commands.push(Command { sql, params });
        }
        self.in_transaction(commands)
    }

    fn finish(&mut self, counters: &Counters) -> Result<(), StoreError> {
        let set = params![
            counters.acknowledged.clone(),
            counters.last_seq,
            counters.last_event,
            counters.secret.clone(),
            MESSAGE_BYTES,
            COPY_BYTES
        ];
        let commands = [
            (SET_COUNTERS, set),
            (COUNT_WEBHOOKS, vec![]),
            (FORGET_PROGRESS, vec![]),
        ];
        let commands = commands.map(|(sql, params)| Command { sql, params });
        self.in_transaction(commands.into())
    }
}

/// A value of a key.
fn parameter(value: Value) -> Param {
    match value {
        Value::Null => Box::new(None::<i64>),
        Value::Integer(number) => Box::new(number),
        Value::Text(part) => Box::new(text(&part)),
        Value::Bytes(bytes) => Box::new(bytes),
    }
}

/// A column of rows, as one parameter.
fn column(rows: &[transfer::Row], at: usize, kind: Kind) -> Param {
    let values = rows.iter().map(|row| &row[at]);
    match kind {
        Kind::Integer => Box::new(values.map(Value::integer).collect::<Vec<_>>()),
        Kind::Text => Box::new(
            values
                .map(|value| value.text().map(text))
                .collect::<Vec<_>>(),
        ),
        Kind::Bytes => Box::new(
            values
                .map(|value| value.blob().map(<[u8]>::to_vec))
                .collect::<Vec<_>>(),
        ),
    }
}

fn value(row: &Row, at: usize, kind: Kind) -> Value {
    let found = match kind {
        Kind::Integer => row.get::<_, Option<i64>>(at).map(Value::Integer),
        Kind::Text => row.get::<_, Option<String>>(at).map(Value::Text),
        Kind::Bytes => row.get::<_, Option<Vec<u8>>>(at).map(Value::Bytes),
    };
    found.unwrap_or(Value::Null)
}
