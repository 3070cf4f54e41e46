//! The delivery log in SQLite.

use bytes::Bytes;
use rusqlite::{Row, ToSql, params};
use tracing::error;

use super::connection::statements;
use super::{SqliteStore, StoreError, status};
use crate::protocol::envelope::Body;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::topic::TopicName;
use crate::rules::plan::Purpose;
use crate::store::delivery_log::{PAGE_BYTES, ROW_BYTES};
use crate::store::{
    DeliveryLog, History, LogPage, LogSize, LoggedFanOut, LoggedMessage, LoggedPublishes,
};

statements! {
    LOG = "INSERT INTO delivery
        (message_id, number, came_on, purpose, topic, status, payload, properties)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    FORGET = "DELETE FROM delivery WHERE message_id = ?";
    LOG_FAN_OUT = "INSERT INTO fan_out (message_id, came_on, work) VALUES (?, ?, ?)";
    LOG_POSITION = "INSERT INTO fan_out_position (message_id, position) VALUES (?1, ?2)
        ON CONFLICT DO UPDATE SET position = ?2";
    FORGET_FAN_OUT = "DELETE FROM fan_out WHERE message_id = ?";
    FORGET_POSITION = "DELETE FROM fan_out_position WHERE message_id = ?";
    HOLDS = "SELECT 1 FROM delivery WHERE message_id = ?1
        UNION ALL SELECT 1 FROM fan_out WHERE message_id = ?1";
    NEXT = "SELECT message_id FROM delivery WHERE message_id > ?1
        UNION SELECT message_id FROM fan_out WHERE message_id > ?1 ORDER BY 1 LIMIT ?2";
    FAN_OUTS = "SELECT
        f.message_id, f.came_on, f.work, p.position FROM fan_out f
        LEFT JOIN fan_out_position p ON p.message_id = f.message_id
        WHERE f.message_id > ?1 AND f.message_id <= ?2 ORDER BY f.message_id";
    UNPUBLISHED = "SELECT
        message_id, came_on, purpose, topic, status, payload, properties
        FROM delivery WHERE message_id > ?1 AND message_id <= ?2 ORDER BY message_id, number";
    LAST = "SELECT max(message_id) FROM (
        SELECT max(message_id) AS message_id FROM delivery
        UNION ALL SELECT max(message_id) FROM fan_out)";
    SIZE may scan "reads the whole log, at start" = "SELECT sum(messages), sum(bytes) FROM (
        SELECT count(*) FILTER (WHERE number = 0) AS messages,
            total(?1 + octet_length(topic) + coalesce(length(payload), 0)) AS bytes FROM delivery
        UNION ALL SELECT count(*) FILTER (WHERE NOT EXISTS (
                SELECT 1 FROM delivery d WHERE d.message_id = f.message_id)),
            total(?1 + octet_length(work)) FROM fan_out f)";
}

impl DeliveryLog for SqliteStore {
    fn log(&mut self, logged: &LoggedPublishes<'_>) -> Result<(), StoreError> {
        if logged.publishes.is_empty() {
            return Ok(());
        }
        let id = logged.id.to_string();
        let mut statement = self.connection.prepare(&LOG)?;
        for (number, publish) in (logged.first..).zip(logged.publishes) {
            let payload = match publish.copy_status {
                Some(_) => None,
                None => Some(&publish.payload[..]),
            };
            statement.execute(params![
                id,
                i64::try_from(number).unwrap_or(i64::MAX),
                (number == 0).then_some(logged.came_on),
                purpose_code(logged.purpose),
                publish.topic.as_str(),
                publish.copy_status.map(|status| status.code()),
                payload,
                write_properties(publish),
            ])?;
        }
        Ok(())
    }

    fn log_fan_out(&mut self, id: MessageId, came_on: &[u8], text: &str) -> Result<(), StoreError> {
        let id = id.to_string();
        self.connection
            .execute(&LOG_FAN_OUT, params![id, came_on, text])?;
        Ok(())
    }

    fn log_position(&mut self, id: MessageId, position: usize) -> Result<(), StoreError> {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let params = params![id.to_string(), position];
        self.connection.execute(&LOG_POSITION, params)?;
        Ok(())
    }

    fn published(&mut self, id: MessageId) -> Result<(), StoreError> {
        let id = id.to_string();
        for statement in [&FORGET, &FORGET_FAN_OUT, &FORGET_POSITION] {
            self.connection.execute(statement, [&id])?;
        }
        Ok(())
    }

    fn log_holds(&self, id: MessageId) -> Result<bool, StoreError> {
        Ok(self.connection.exists(&HOLDS, [id.to_string()])?)
    }

    fn unpublished(&self, after: Option<MessageId>, most: usize) -> Result<LogPage, StoreError> {
        // An empty text comes before every id.
        let after = after.map(|id| id.to_string()).unwrap_or_default();
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let next: Vec<String> = self
            .connection
            .rows(&NEXT, params![after, limit], |row| row.get(0))?;
        let mut is_last = next.len() < most;
        let Some(mut last) = next.last().cloned() else {
            return Ok(LogPage {
                messages: vec![],
                is_last,
            });
        };
        let mut statement = self.connection.prepare(&UNPUBLISHED)?;
        let mut rows = statement.query(params![after, last])?;
        let mut messages: Vec<LoggedMessage> = vec![];
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let Some(id) = parse_id(&row.get::<_, String>(0)?) else {
                continue;
            };
            if messages.last().is_none_or(|last| last.id != id) {
                if let Some(before) = messages.last()
                    && bytes >= PAGE_BYTES
                {
                    last = before.id.to_string();
                    is_last = false;
                    break;
                }
                messages.push(LoggedMessage {
                    id,
                    came_on: Bytes::from(row.get::<_, Option<Vec<u8>>>(1)?.unwrap_or_default()),
                    publishes: vec![],
                    fan_out: None,
                });
            }
            let publish = self.read_publish(id, row)?;
            bytes += publish
                .as_ref()
                .map_or(0, |(_, publish)| publish.payload.len());
            let message = messages.last_mut().expect("one was just pushed");
            message.publishes.extend(publish);
        }
        self.add_fan_outs(&mut messages, params![after, last])?;
        Ok(LogPage { messages, is_last })
    }

    fn log_size(&self) -> Result<Option<LogSize>, StoreError> {
        let last: Option<String> = self.connection.row(&LAST, [], |row| row.get(0))?;
        let Some(last) = last.as_deref().and_then(parse_id) else {
            return Ok(None);
        };
        let row_bytes = i64::try_from(ROW_BYTES).unwrap_or(i64::MAX);
        let size = self.connection.row(&SIZE, [row_bytes], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?))
        });
        let (messages, bytes) = size?;
        Ok(Some(LogSize {
            last,
            messages: messages.unsigned_abs(),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a size on disk"
            )]
            bytes: bytes as u64,
        }))
    }
}

/// The id of a row. One that is none is reported, and what it belongs to is left out.
fn parse_id(text: &str) -> Option<MessageId> {
    let id = MessageId::parse(text);
    if id.is_none() {
        error!(id = %text, "the delivery log holds an id that is none: it is left out");
    }
    id
}

impl SqliteStore {
    /// Adds the fan-outs to the messages that have publishes, and messages that have none.
    fn add_fan_outs(
        &self,
        messages: &mut Vec<LoggedMessage>,
        range: &[&dyn ToSql],
    ) -> Result<(), StoreError> {
        let fan_outs = self.connection.rows(&FAN_OUTS, range, |row| {
            let position = row.get::<_, Option<i64>>(3)?.unwrap_or(0);
            let fan_out = LoggedFanOut {
                text: row.get(2)?,
                position: usize::try_from(position).unwrap_or(0),
            };
            Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?, fan_out))
        })?;
        for (text, came_on, fan_out) in fan_outs {
            let Some(id) = parse_id(&text) else {
                continue;
            };
            let at = match messages.binary_search_by_key(&id, |message| message.id) {
                Ok(at) => at,
                Err(at) => {
                    messages.insert(
                        at,
                        LoggedMessage {
                            id,
                            came_on: came_on.into(),
                            publishes: vec![],
                            fan_out: None,
                        },
                    );
                    at
                }
            };
            messages[at].fan_out = Some(fan_out);
        }
        Ok(())
    }

    /// A publish as it was logged; `None` if it cannot be made any more.
    fn read_publish(
        &self,
        id: MessageId,
        row: &Row<'_>,
    ) -> Result<Option<(Purpose, Publish)>, StoreError> {
        let topic: String = row.get(3)?;
        let Ok(topic) = TopicName::parse(&topic) else {
            error!(message_id = %id, "the delivery log holds a topic that is none: it is left out");
            return Ok(None);
        };
        let copy_status = row.get::<_, Option<i64>>(4)?.map(status);
        let mut publish = match (copy_status, row.get::<_, Option<Vec<u8>>>(5)?) {
            (_, Some(payload)) => Publish::new(topic, payload.into()),
            (Some(status), None) => match self.body(id)? {
                Some(body) => Publish::copy(topic, &Body::from_stored(body), status),
                None => {
                    error!(message_id = %id, "a message was deleted before it was published");
                    return Ok(None);
                }
            },
            (None, None) => return Ok(None),
        };
        if let Some(properties) = row.get::<_, Option<String>>(6)? {
            publish.user_properties = serde_json::from_str(&properties).unwrap_or_default();
        }
        Ok(Some((purpose(row.get(2)?), publish)))
    }
}

fn write_properties(publish: &Publish) -> Option<String> {
    let properties = &publish.user_properties;
    let text = || serde_json::to_string(properties).expect("texts serialise");
    (!properties.is_empty()).then(text)
}

fn purpose_code(purpose: Purpose) -> i64 {
    match purpose {
        Purpose::Copy => 0,
        Purpose::BulkCopy => 1,
        Purpose::Notice => 2,
    }
}

fn purpose(code: i64) -> Purpose {
    match code {
        1 => Purpose::BulkCopy,
        2 => Purpose::Notice,
        _ => Purpose::Copy,
    }
}
