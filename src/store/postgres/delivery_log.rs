//! The delivery log in PostgreSQL.

use bytes::Bytes;
use tokio_postgres::Row;
use tracing::error;

use super::batch::Logged;
use super::connection::{params, text};
use super::{PostgresStore, StoreError, id_text, status};
use crate::protocol::envelope::Body;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::{LOG_ROW_BYTES, Publish};
use crate::protocol::topic::TopicName;
use crate::rules::plan::Purpose;
use crate::store::columns::{properties, purpose, purpose_code};
use crate::store::delivery_log::{PAGE_BYTES, QUESTION};
use crate::store::{
    DeliveryLog, LogPage, LogSize, LoggedFanOut, LoggedMessage, LoggedPublishes, LoggedQuestion,
};

const LOG_FAN_OUT: &str =
    "INSERT INTO fan_out (message_id, came_on, work, slot) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING";
const QUESTIONS: &str = "SELECT message_id, came_on, payload FROM delivery
    WHERE slot = $1 AND purpose = $2 ORDER BY message_id";
const LOG_POSITION: &str = "INSERT INTO fan_out_position (message_id, position) VALUES ($1, $2)
    ON CONFLICT (message_id) DO UPDATE SET position = excluded.position";
const HOLDS: &str = "SELECT 1 FROM delivery WHERE message_id = $1
    UNION ALL SELECT 1 FROM fan_out WHERE message_id = $1";
// How large the payloads are tells where the page ends, before any of them is read.
const NEXT: &str = "SELECT message_id, sum(bytes)::bigint FROM (
        SELECT d.message_id, coalesce(octet_length(d.payload), octet_length(m.body), 0) AS bytes
        FROM (SELECT DISTINCT message_id FROM delivery
            WHERE message_id > $1 AND slot = $3 AND purpose <> $4
            ORDER BY message_id LIMIT $2) ids
        JOIN delivery d ON d.message_id = ids.message_id
        LEFT JOIN message m ON d.payload IS NULL AND m.message_id = d.message_id
        UNION ALL SELECT message_id, 0 FROM (SELECT message_id FROM fan_out
            WHERE message_id > $1 AND slot = $3 ORDER BY message_id LIMIT $2) ids
    ) found GROUP BY message_id ORDER BY message_id LIMIT $2";
const FAN_OUTS: &str = "SELECT f.message_id, f.came_on, f.work, p.position FROM fan_out f
    LEFT JOIN fan_out_position p ON p.message_id = f.message_id
    WHERE f.message_id > $1 AND f.message_id <= $2 AND f.slot = $3 ORDER BY f.message_id";
const UNPUBLISHED: &str = "SELECT d.message_id, d.came_on, d.purpose, d.topic, d.status, d.payload,
        d.properties, CASE WHEN d.payload IS NULL THEN
            (SELECT m.body FROM message m WHERE m.message_id = d.message_id LIMIT 1) END
    FROM delivery d
    WHERE d.message_id > $1 AND d.message_id <= $2 AND d.slot = $3 AND d.purpose <> $4
    ORDER BY d.message_id, d.number";
const LAST: &str = "SELECT max(message_id) FROM (
    SELECT max(message_id) AS message_id FROM delivery WHERE slot = $1 AND purpose <> $2
    UNION ALL SELECT max(message_id) FROM fan_out WHERE slot = $1) found";
const SIZE: &str = "SELECT sum(messages)::bigint, sum(bytes)::bigint FROM (
    SELECT count(*) FILTER (WHERE number = 0) AS messages, coalesce(
        sum($1::bigint + octet_length(topic) + coalesce(octet_length(payload), 0)), 0) AS bytes
        FROM delivery WHERE slot = $2 AND purpose <> $3
    UNION ALL SELECT count(*) FILTER (WHERE NOT EXISTS (
            SELECT 1 FROM delivery d WHERE d.message_id = f.message_id)),
        coalesce(sum($1::bigint + octet_length(work)), 0) FROM fan_out f
        WHERE slot = $2) found";

impl DeliveryLog for PostgresStore {
    fn log(&mut self, logged: &LoggedPublishes<'_>) -> Result<(), StoreError> {
        let id = logged.id.to_string();
        let mut batch = self.batch.borrow_mut();
        for (number, publish) in (logged.first..).zip(logged.publishes) {
            let row = Logged {
                message_id: id.clone(),
                number: i64::try_from(number).unwrap_or(i64::MAX),
                came_on: (number == 0).then(|| logged.came_on.to_vec()),
                purpose: purpose_code(logged.purpose),
                topic: text(publish.topic.as_str()),
                status: publish.copy_status.map(|status| status.code()),
                payload: match publish.copy_status {
                    Some(_) => None,
                    None => Some(publish.payload.to_vec()),
                },
                properties: properties(publish),
            };
            batch.log(row, self.slot.row());
        }
        Ok(())
    }

    fn log_fan_out(&mut self, id: MessageId, came_on: &[u8], work: &str) -> Result<(), StoreError> {
        self.later(
            LOG_FAN_OUT,
            params![
                id.to_string(),
                came_on.to_vec(),
                text(work),
                self.slot.row()
            ],
        );
        Ok(())
    }

    fn log_question(&mut self, question: &LoggedQuestion) -> Result<(), StoreError> {
        let row = Logged {
            message_id: question.id.to_string(),
            number: 0,
            came_on: Some(question.topic.to_vec()),
            purpose: QUESTION,
            topic: text(&String::from_utf8_lossy(&question.topic)),
            status: None,
            payload: Some(question.payload.to_vec()),
            properties: None,
        };
        self.batch.borrow_mut().log(row, self.slot.row());
        Ok(())
    }

    fn questions(&self) -> Result<Vec<LoggedQuestion>, StoreError> {
        let params = params![self.slot.row(), QUESTION];
        let rows = self.rows(QUESTIONS, params, |row| {
            let id: String = row.get(0);
            let [topic, payload] = [1, 2].map(|n| row.get::<_, Option<Vec<u8>>>(n));
            Some(LoggedQuestion {
                id: parse_id(&id)?,
                topic: topic.unwrap_or_default().into(),
                is_damaged: payload.is_none(),
                payload: payload.unwrap_or_default().into(),
            })
        })?;
        Ok(rows.into_iter().flatten().collect())
    }

    fn log_position(&mut self, id: MessageId, position: usize) -> Result<(), StoreError> {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        self.later(LOG_POSITION, params![id.to_string(), position]);
        Ok(())
    }

    fn published(&mut self, id: MessageId) -> Result<(), StoreError> {
        self.batch.borrow_mut().forget(id.to_string());
        Ok(())
    }

    fn log_holds(&self, id: MessageId) -> Result<bool, StoreError> {
        self.exists(HOLDS, params![id.to_string()])
    }

    fn unpublished(&self, after: Option<MessageId>, most: usize) -> Result<LogPage, StoreError> {
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let after = id_text(after);
        let next: Vec<(String, i64)> = self.rows(
            NEXT,
            params![after.clone(), limit, self.slot.row(), QUESTION],
            |row| (row.get(0), row.get(1)),
        )?;
        let mut is_last = next.len() < most;
        let mut bytes = 0;
        let end = next.iter().position(|(_, size)| {
            bytes += usize::try_from(*size).unwrap_or(0);
            bytes >= PAGE_BYTES
        });
        let end = end.unwrap_or(next.len().saturating_sub(1));
        is_last &= end + 1 >= next.len();
        let Some((last, _)) = next.get(end) else {
            return Ok(LogPage {
                messages: vec![],
                is_last,
            });
        };
        let range = || params![after.clone(), last.clone(), self.slot.row()];
        let params = params![after.clone(), last.clone(), self.slot.row(), QUESTION];
        let rows = self.rows(UNPUBLISHED, params, |row| {
            let id: String = row.get(0);
            (id, row.get::<_, Option<Vec<u8>>>(1), read_publish(row))
        })?;
        let mut messages: Vec<LoggedMessage> = vec![];
        for (id, came_on, publish) in rows {
            let Some(id) = parse_id(&id) else {
                continue;
            };
            if messages.last().is_none_or(|last| last.id != id) {
                messages.push(LoggedMessage {
                    id,
                    came_on: Bytes::from(came_on.unwrap_or_default()),
                    publishes: vec![],
                    fan_out: None,
                    is_damaged: false,
                });
            }
            if let Some(message) = messages.last_mut() {
                message.is_damaged |= publish.is_none();
                message.publishes.extend(publish);
            }
        }
        let fan_outs = self.rows(FAN_OUTS, range(), |row| {
            let position = row.get::<_, Option<i64>>(3).unwrap_or(0);
            let fan_out = LoggedFanOut {
                text: row.get(2),
                position: usize::try_from(position).unwrap_or(0),
            };
            (row.get::<_, String>(0), row.get::<_, Vec<u8>>(1), fan_out)
        })?;
        add_fan_outs(&mut messages, fan_outs);
        Ok(LogPage { messages, is_last })
    }

    fn log_size(&self) -> Result<Option<LogSize>, StoreError> {
        let last: Option<String> =
            self.row(LAST, params![self.slot.row(), QUESTION], |row| row.get(0))?;
        let Some(last) = last.as_deref().and_then(parse_id) else {
            return Ok(None);
        };
        let row_bytes = i64::try_from(LOG_ROW_BYTES).unwrap_or(i64::MAX);
        let (messages, bytes): (i64, i64) =
            self.row(SIZE, params![row_bytes, self.slot.row(), QUESTION], |row| {
                (row.get(0), row.get(1))
            })?;
        Ok(Some(LogSize {
            last,
            messages: messages.unsigned_abs(),
            bytes: bytes.unsigned_abs(),
        }))
    }
}

/// The id of a row. One that is none is reported, and what it belongs to is left out.
fn parse_id(text: &str) -> Option<MessageId> {
    let id = MessageId::parse(text);
    if id.is_none() {
        error!(id = %text, "the delivery log holds an invalid id: it is left out");
    }
    id
}

/// Adds the fan-outs to the messages that have publishes, and messages that have none.
fn add_fan_outs(messages: &mut Vec<LoggedMessage>, fan_outs: Vec<(String, Vec<u8>, LoggedFanOut)>) {
    for (id, came_on, fan_out) in fan_outs {
        let Some(id) = parse_id(&id) else {
            continue;
        };
        let fan_out = Some(fan_out);
        match messages.binary_search_by_key(&id, |message| message.id) {
            Ok(at) => messages[at].fan_out = fan_out,
            Err(at) => messages.insert(
                at,
                LoggedMessage {
                    id,
                    came_on: came_on.into(),
                    publishes: vec![],
                    fan_out,
                    is_damaged: false,
                },
            ),
        }
    }
}

/// A publish as it was logged; `None` if it cannot be made any more.
fn read_publish(row: &Row) -> Option<(Purpose, Publish)> {
    let (id, topic): (&str, &str) = (row.get(0), row.get(3));
    let Ok(topic) = TopicName::parse(topic) else {
        error!(
            message_id = id,
            "the delivery log holds a topic that is none: it is left out"
        );
        return None;
    };
    let copy_status = row.get::<_, Option<i64>>(4).map(status);
    let mut publish = match (copy_status, row.get::<_, Option<Vec<u8>>>(5)) {
        (_, Some(payload)) => Publish::new(topic, payload.into()),
        (Some(status), None) => match row.get::<_, Option<String>>(7) {
            Some(body) => Publish::copy(topic, &Body::from_stored(body), status),
            None => {
                error!(
                    message_id = id,
                    "a message was deleted before it was published"
                );
                return None;
            }
        },
        (None, None) => return None,
    };
    if let Some(properties) = row.get::<_, Option<&str>>(6) {
        publish.user_properties = serde_json::from_str(properties).unwrap_or_default();
    }
    Some((purpose(row.get(2)), publish))
}
