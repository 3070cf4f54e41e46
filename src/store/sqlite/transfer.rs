//! The store in SQLite as rows that every store has: numbers become names, and names numbers.

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Row, ToSql, params, params_from_iter};

use super::connection::{Statement, statements};
use super::conversations::Pair;
use super::delivery_log::END;
use super::encoding::{IdText, StoredId, Told, body_accounts, body_columns, read_body};
use super::{SqliteStore, StoreError};
use crate::store::transfer::{self, Counters, Part, Transfer, Value};

statements! {
    PROGRESS = "SELECT value FROM state WHERE name = 'copying'";
    SET_PROGRESS = "INSERT INTO state VALUES ('copying', ?1)
        ON CONFLICT DO UPDATE SET value = ?1";
    FORGET_PROGRESS = "DELETE FROM state WHERE name = 'copying'";
    COUNTERS = "SELECT (SELECT value FROM state WHERE name = 'acknowledged'),
        (SELECT coalesce(max(seq), 0) FROM message_data)";
    LAST_EVENT = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence";
    SET_ACKNOWLEDGED = "UPDATE state SET value = ? WHERE name = 'acknowledged'";
    // No message: it keeps its number from being given again.
    KEEP_NUMBER may scan "stops at the first row" =
        "INSERT INTO message_data (seq, id, sender, recipient, layout, stored_at, body)
        SELECT ?1, '', 0, 0, 0, coalesce((SELECT stored_at FROM message_data
            ORDER BY seq DESC LIMIT 1), 0), '{}'
        WHERE ?1 > coalesce((SELECT max(seq) FROM message_data), 0)";
    // Names in their order, which numbers are not in.
    NEXT_ACCOUNT = "SELECT name FROM account WHERE app = ? AND name > ? ORDER BY name LIMIT 1";
    NEXT_APP = "SELECT min(app) FROM account WHERE app > ?";

    MESSAGES = concat!("SELECT ", body_columns!(), ", m.seq, coalesce(l.name, ''), m.fingerprint
        FROM message_data m ", body_accounts!(), " LEFT JOIN layout l ON l.id = m.layout
        WHERE m.seq > ? ORDER BY m.seq LIMIT ?");
    COPIES_OF_ONE = "SELECT i.app, i.name, t.seq, p.name, t.status
        FROM account i JOIN copy t ON t.inbox = i.id JOIN account p ON p.id = t.peer
        WHERE i.app = ?1 AND i.name = ?2 AND t.seq >= ?3 AND (t.seq > ?3 OR p.name > ?4)
        ORDER BY t.seq, p.name LIMIT ?5";
    CONVERSATIONS_OF_ONE may scan "a list, by its names" =
        "SELECT i.app, i.name, p.name, iif(c.newest > c.since, c.newest, c.seq),
            iif(c.newest > c.since, 1, c.is_new), iif(c.newest > c.since, 0, c.archived),
            c.patch, c.patch_seq
        FROM account i CROSS JOIN (SELECT *, (SELECT max(t.seq) FROM copy t
            WHERE t.inbox = s.inbox AND t.peer = s.peer) AS newest FROM conversation_state s) c
            ON c.inbox = i.id
        CROSS JOIN account p ON p.id = c.peer
        WHERE i.app = ?1 AND i.name = ?2 AND p.name > ?3
        ORDER BY p.name LIMIT ?4";
    GROUPS = "SELECT app, group_id, body FROM chat_group
        WHERE (app, group_id) > (?, ?) ORDER BY app, group_id LIMIT ?";
    BLOCKS = "SELECT app, other, inbox_of FROM block
        WHERE (app, other, inbox_of) > (?, ?, ?) ORDER BY app, other, inbox_of LIMIT ?";
    BANS = "SELECT app, user, since FROM ban
        WHERE (app, user) > (?, ?) ORDER BY app, user LIMIT ?";
    CLIENTS = "SELECT app, user, client_id, since FROM presence
        WHERE (app, user, client_id) > (?, ?, ?) ORDER BY app, user, client_id LIMIT ?";
    ABSENCES = "SELECT app, user, seq, redelivered_by FROM absence
        WHERE (app, user) > (?, ?) ORDER BY app, user LIMIT ?";
    INSTANCES = "SELECT app, instance_id, user, body, since FROM instance
        WHERE (app, instance_id) > (?, ?) ORDER BY app, instance_id LIMIT ?";
    PUBLISHES = "SELECT id, number, came_on, purpose, topics, payload, properties FROM delivery
        WHERE (id, number) > (?, ?) ORDER BY id, number LIMIT ?";
    FAN_OUTS = "SELECT f.id, f.came_on, f.work, coalesce(p.position, 0) FROM fan_out f
        LEFT JOIN fan_out_position p ON p.id = f.id WHERE f.id > ? ORDER BY f.id LIMIT ?";
    WEBHOOK_DATA = "SELECT id, endpoint, shared, data FROM webhook_data
        WHERE id > ? ORDER BY id LIMIT ?";
    WEBHOOK_EVENTS = "SELECT seq, endpoint, delivery_id, event_type, created_at, since, due,
            attempts, whole, error, head, data
        FROM webhook WHERE seq > ? ORDER BY seq LIMIT ?";

    PUT_MESSAGE = "INSERT INTO message_data
        (seq, id, sender, recipient, layout, stored_at, fingerprint, written, body)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
    PUT_COPY = "INSERT INTO copy (inbox, peer, seq, status) VALUES (?, ?, ?, ?)";
    // It shows what it says, whatever copies there are.
    PUT_CONVERSATION = "INSERT INTO conversation_state
        (inbox, peer, since, seq, is_new, archived, patch, patch_seq)
        VALUES (?1, ?2, max(0, coalesce(
            (SELECT max(seq) FROM copy WHERE inbox = ?1 AND peer = ?2), 0)), ?3, ?4, ?5, ?6, ?7)";
    PUT_GROUP = "INSERT INTO chat_group (app, group_id, body) VALUES (?, ?, ?)";
    PUT_BLOCK = "INSERT INTO block (app, other, inbox_of) VALUES (?, ?, ?)";
    PUT_BAN = "INSERT INTO ban (app, user, since) VALUES (?, ?, ?)";
    PUT_CLIENT = "INSERT INTO presence (app, user, client_id, since) VALUES (?, ?, ?, ?)";
    PUT_ABSENCE = "INSERT INTO absence (app, user, seq, redelivered_by) VALUES (?, ?, ?, ?)";
    PUT_INSTANCE = "INSERT INTO instance (app, instance_id, user, body, since)
        VALUES (?, ?, ?, ?, ?)";
    PUT_PUBLISH = "INSERT INTO delivery
        (id, number, count, came_on, purpose, topics, payload, properties)
        VALUES (?, ?, 1, ?, ?, ?, ?, ?)";
    PUT_FAN_OUT = "INSERT INTO fan_out (id, came_on, work) VALUES (?, ?, ?)";
    PUT_POSITION = "INSERT INTO fan_out_position (id, position) VALUES (?, ?)";
    PUT_WEBHOOK_DATA = "INSERT INTO webhook_data (id, endpoint, shared, data) VALUES (?, ?, ?, ?)";
    PUT_WEBHOOK_EVENT = "INSERT INTO webhook (seq, endpoint, delivery_id, event_type, created_at,
            since, due, attempts, whole, error, head, data)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
}

/// Who comes before everybody else.
const NOBODY: (&str, &str) = ("", "");

impl Transfer for SqliteStore {
    fn progress(&self) -> Result<Option<String>, StoreError> {
        Ok(self.connection.find(&PROGRESS, [], |row| row.get(0))?)
    }

    fn check_is_ours(&self) -> Result<(), StoreError> {
        // The file is locked as long as it is open.
        Ok(())
    }

    fn counters(&self) -> Result<Counters, StoreError> {
        let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        let (acknowledged, last_seq) = self.connection.row(&COUNTERS, [], read)?;
        Ok(Counters {
            acknowledged,
            last_seq,
            last_event: self.connection.row(&LAST_EVENT, [], |row| row.get(0))?,
            // It is in a file of its own.
            secret: None,
        })
    }

    fn rows(
        &self,
        part: Part,
        after: &[Value],
        most: usize,
    ) -> Result<Vec<transfer::Row>, StoreError> {
        let statement = match part {
            Part::Messages => return self.messages(after, most),
            Part::Copies => return self.inboxes(&COPIES_OF_ONE, part, after, most),
            Part::Conversations => {
                return self.inboxes(&CONVERSATIONS_OF_ONE, part, after, most);
            }
            Part::Publishes => return self.publishes(after, most),
            Part::Groups => &GROUPS,
            Part::Blocks => &BLOCKS,
            Part::Bans => &BANS,
            Part::Clients => &CLIENTS,
            Part::Absences => &ABSENCES,
            Part::Instances => &INSTANCES,
            Part::FanOuts => &FAN_OUTS,
            Part::WebhookData => &WEBHOOK_DATA,
            Part::WebhookEvents => &WEBHOOK_EVENTS,
        };
        self.plain_rows(statement, part, after, most)
    }

    fn put(
        &mut self,
        part: Part,
        rows: &[transfer::Row],
        progress: &str,
    ) -> Result<(), StoreError> {
        self.in_transaction(|store| {
            store.put_all(part, rows)?;
            store.connection.execute(&SET_PROGRESS, [progress])?;
            Ok(())
        })
    }

    fn finish(&mut self, counters: &Counters) -> Result<(), StoreError> {
        self.in_transaction(|store| store.set_counters(counters))
    }
}

impl SqliteStore {
    fn plain_rows(
        &self,
        statement: &Statement,
        part: Part,
        after: &[Value],
        most: usize,
    ) -> Result<Vec<transfer::Row>, StoreError> {
        let mut params = after.to_vec();
        // The keys of the delivery log are ids.
        if part == Part::FanOuts {
            params[0] = id_column(&params[0]);
        }
        params.push(Value::Integer(limit(most)));
        let columns = part.columns().len();
        let read = |row: &Row<'_>| (0..columns).map(|at| value(row, at)).collect();
        let mut rows: Vec<transfer::Row> =
            self.connection
                .rows(statement, params_from_iter(params), read)?;
        if part == Part::FanOuts {
            for row in &mut rows {
                id_text(&mut row[0])?;
            }
        }
        Ok(rows)
    }

    fn messages(&self, after: &[Value], most: usize) -> Result<Vec<transfer::Row>, StoreError> {
        let params = params![after[0], limit(most)];
        let rows = self.connection.rows(&MESSAGES, params, |row| {
            let IdText(id) = row.get(3)?;
            // The row that is no message is from nobody to nobody.
            let name = |at| {
                row.get::<_, Option<String>>(at)
                    .map(Option::unwrap_or_default)
            };
            Ok(vec![
                value(row, 7)?,
                Value::Text(id),
                Value::Text(name(6)?),
                Value::Text(name(4)?),
                Value::Text(name(5)?),
                value(row, 8)?,
                value(row, 2)?,
                value(row, 9)?,
                Value::Text(read_body(row)?.unwrap_or_default()),
            ])
        });
        Ok(rows?)
    }

    /// Rows by the names of those they belong to, an account at a time.
    fn inboxes(
        &self,
        statement: &Statement,
        part: Part,
        after: &[Value],
        most: usize,
    ) -> Result<Vec<transfer::Row>, StoreError> {
        let mut rows = self.plain_rows(statement, part, after, most)?;
        let (app, name) = match &after[..2] {
            [Value::Text(app), Value::Text(name)] => (&**app, &**name),
            _ => NOBODY,
        };
        let (mut app, mut name) = (app.to_owned(), name.to_owned());
        while rows.len() < most {
            let next = self
                .connection
                .find(&NEXT_ACCOUNT, [&app, &name], |row| row.get(0))?;
            match next {
                Some(next) => name = next,
                None => {
                    let next: Option<String> =
                        self.connection.row(&NEXT_APP, [&app], |row| row.get(0))?;
                    let Some(next) = next else {
                        break;
                    };
                    (app, name) = (next, String::new());
                    continue;
                }
            }
            let mut first = part.before_all();
            first[0] = Value::Text(app.clone());
            first[1] = Value::Text(name.clone());
            rows.extend(self.plain_rows(statement, part, &first, most - rows.len())?);
        }
        Ok(rows)
    }

    /// A row for each publish, where one of this store may hold several.
    fn publishes(&self, after: &[Value], most: usize) -> Result<Vec<transfer::Row>, StoreError> {
        let params = params![id_column(&after[0]), after[1], limit(most)];
        let mut statement = self.connection.prepare(&PUBLISHES)?;
        let mut found = statement.query(params)?;
        let mut rows = vec![];
        while let Some(row) = found.next()? {
            let mut id = value(row, 0)?;
            id_text(&mut id)?;
            let first: i64 = row.get(1)?;
            let topics: Vec<u8> = row.get(4)?;
            let payload = value(row, 5)?;
            let texts: Vec<(Value, &[u8])> = match payload {
                Value::Null => topics
                    .split(|byte| *byte == END)
                    .filter(|publish| !publish.is_empty())
                    .map(status_and_topic)
                    .collect(),
                Value::Integer(_) | Value::Text(_) | Value::Bytes(_) => {
                    vec![(Value::Null, &topics)]
                }
            };
            for (number, (status, topic)) in (first..).zip(texts) {
                rows.push(vec![
                    id.clone(),
                    Value::Integer(number),
                    if number == first {
                        value(row, 2)?
                    } else {
                        Value::Null
                    },
                    value(row, 3)?,
                    Value::Text(String::from_utf8_lossy(topic).into_owned()),
                    status,
                    payload.clone(),
                    value(row, 6)?,
                ]);
            }
        }
        Ok(rows)
    }

    fn put_all(&mut self, part: Part, rows: &[transfer::Row]) -> Result<(), StoreError> {
        for row in rows {
            match part {
                Part::Messages => self.put_message(row)?,
                Part::Copies => {
                    let Pair { inbox, peer } = self.pair_of([&row[0], &row[1], &row[3]])?;
                    let params = params![inbox, peer, row[2], row[4]];
                    self.connection.execute(&PUT_COPY, params)?;
                }
                Part::Conversations => {
                    let Pair { inbox, peer } = self.pair_of([&row[0], &row[1], &row[2]])?;
                    let params = params![inbox, peer, row[3], row[4], row[5], row[6], row[7]];
                    self.connection.execute(&PUT_CONVERSATION, params)?;
                }
                Part::Publishes => self.put_publish(row)?,
                Part::FanOuts => {
                    let id = id_column(&row[0]);
                    let params = params![id, row[1], row[2]];
                    self.connection.execute(&PUT_FAN_OUT, params)?;
                    if row[3] != Value::Integer(0) {
                        let params = params![id, row[3]];
                        self.connection.execute(&PUT_POSITION, params)?;
                    }
                }
                Part::Groups => self.put_plain(&PUT_GROUP, row)?,
                Part::Blocks => self.put_plain(&PUT_BLOCK, row)?,
                Part::Bans => self.put_plain(&PUT_BAN, row)?,
                Part::Clients => self.put_plain(&PUT_CLIENT, row)?,
                Part::Absences => self.put_plain(&PUT_ABSENCE, row)?,
                Part::Instances => self.put_plain(&PUT_INSTANCE, row)?,
                Part::WebhookData => self.put_plain(&PUT_WEBHOOK_DATA, row)?,
                Part::WebhookEvents => self.put_plain(&PUT_WEBHOOK_EVENT, row)?,
            }
        }
        Ok(())
    }

    fn put_plain(&self, statement: &Statement, row: &[Value]) -> Result<(), StoreError> {
        self.connection.execute(statement, params_from_iter(row))?;
        Ok(())
    }

    fn put_message(&mut self, row: &[Value]) -> Result<(), StoreError> {
        let (Value::Integer(seq), Value::Integer(stored_at)) = (&row[0], &row[6]) else {
            return Err(no_number());
        };
        let told = Told {
            id: text(&row[1]),
            app: text(&row[2]),
            sender: text(&row[3]),
            recipient: text(&row[4]),
            stored_at: *stored_at,
        };
        self.position = self.position.max(*seq);
        let body = text(&row[8]);
        // The row that is no message is from nobody to nobody, and has an id that is no text.
        let is_message = !told.app.is_empty();
        let (body, written) = match told.shorten(body).filter(|_| is_message) {
            Some((beginning, written)) => (beginning, Some(written)),
            None => (body, None),
        };
        let [sender, recipient, layout] = match is_message {
            false => [0; 3],
            true => [
                self.account_of_message(told.app, told.sender)?,
                self.account_of_message(told.app, told.recipient)?,
                self.layout(text(&row[5]))?,
            ],
        };
        let id = StoredId::of(told.id);
        let params = params![
            seq, id, sender, recipient, layout, stored_at, row[7], written, body
        ];
        self.connection.execute(&PUT_MESSAGE, params)?;
        Ok(())
    }

    fn put_publish(&self, row: &[Value]) -> Result<(), StoreError> {
        let mut topics = vec![];
        if let Value::Integer(status) = row[5] {
            topics.extend_from_slice(status.to_string().as_bytes());
            topics.push(b' ');
        }
        topics.extend_from_slice(text(&row[4]).as_bytes());
        if row[5] != Value::Null {
            topics.push(END);
        }
        let id = id_column(&row[0]);
        let params = params![id, row[1], row[2], row[3], topics, row[6], row[7]];
        self.connection.execute(&PUT_PUBLISH, params)?;
        Ok(())
    }

    fn pair_of(&mut self, [app, inbox, peer]: [&Value; 3]) -> Result<Pair, StoreError> {
        Ok(Pair {
            inbox: self.account(text(app), text(inbox))?,
            peer: self.account(text(app), text(peer))?,
        })
    }

    fn set_counters(&mut self, counters: &Counters) -> Result<(), StoreError> {
        let acknowledged = &counters.acknowledged;
        self.connection.execute(&SET_ACKNOWLEDGED, [acknowledged])?;
        self.connection.execute(&KEEP_NUMBER, [counters.last_seq])?;
        self.connection.execute(&FORGET_PROGRESS, [])?;
        Ok(())
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Integer(number) => ValueRef::Integer(*number),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn value(row: &Row<'_>, at: usize) -> rusqlite::Result<Value> {
    Ok(match row.get_ref(at)? {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(_) => return row.get::<_, i64>(at).map(Value::Integer),
        ValueRef::Text(_) => Value::Text(row.get(at)?),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
    })
}

fn text(value: &Value) -> &str {
    value.text().unwrap_or_default()
}

fn limit(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

/// The column for an id of the delivery log: its bytes.
fn id_column(id: &Value) -> Value {
    match StoredId::of(text(id)) {
        StoredId::Uuid(bytes) => Value::Bytes(bytes.to_vec()),
        // It comes before every id.
        StoredId::Text(_) => Value::Bytes(vec![]),
    }
}

/// The text of an id of the delivery log.
fn id_text(id: &mut Value) -> Result<(), StoreError> {
    let Value::Bytes(bytes) = id else {
        return Err(StoreError::Permanent(
            "the delivery log holds an invalid id: somebody has edited the store".into(),
        ));
    };
    let read = uuid::Uuid::from_slice(bytes);
    let read = read.map_err(|error| StoreError::Permanent(error.into()))?;
    *id = Value::Text(read.hyphenated().to_string());
    Ok(())
}

fn no_number() -> StoreError {
    StoreError::Permanent("a message has no position: somebody has edited the store".into())
}

/// The parts of a publish that is the stored message with a status.
fn status_and_topic(publish: &[u8]) -> (Value, &[u8]) {
    let space = publish.iter().position(|byte| *byte == b' ');
    let (code, topic) = publish.split_at(space.unwrap_or(0));
    let code = str::from_utf8(code).ok().and_then(|code| code.parse().ok());
    let status = code.map_or(Value::Null, Value::Integer);
    (status, topic.strip_prefix(b" ").unwrap_or(topic))
}
