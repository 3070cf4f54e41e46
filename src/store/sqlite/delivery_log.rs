//! The delivery log in SQLite.

use bytes::Bytes;
use rusqlite::{Row, ToSql, params};
use tracing::error;

use super::connection::statements;
use super::encoding::OwnId;
use super::{SqliteStore, StoreError, status};
use crate::protocol::envelope::Body;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::{LOG_ROW_BYTES, Publish};
use crate::protocol::topic::TopicName;
use crate::rules::plan::Purpose;
use crate::store::columns::{properties, purpose, purpose_code};
use crate::store::delivery_log::{PAGE_BYTES, QUESTION};
use crate::store::{
    DeliveryLog, History, LogPage, LogSize, LoggedFanOut, LoggedMessage, LoggedPublishes,
    LoggedQuestion,
};

statements! {
    LOG = "INSERT INTO delivery
        (id, number, count, came_on, purpose, topics, payload, properties)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    QUESTIONS may scan "reads the whole log, at start" =
        "SELECT id, came_on, payload FROM delivery WHERE purpose = ? ORDER BY id";
    FORGET = "DELETE FROM delivery WHERE id = ?";
    LOG_FAN_OUT = "INSERT INTO fan_out (id, came_on, work) VALUES (?, ?, ?)";
    LOG_POSITION = "INSERT INTO fan_out_position (id, position) VALUES (?1, ?2)
        ON CONFLICT DO UPDATE SET position = ?2";
    FORGET_FAN_OUT = "DELETE FROM fan_out WHERE id = ?";
    FORGET_POSITION = "DELETE FROM fan_out_position WHERE id = ?";
    ANY_FAN_OUT may scan "stops at the first row" = "SELECT 1 FROM fan_out LIMIT 1";
    HOLDS = "SELECT 1 FROM delivery WHERE id = ?1 UNION ALL SELECT 1 FROM fan_out WHERE id = ?1";
    NEXT = "SELECT id FROM delivery WHERE id > ?1 AND purpose <> ?3
        UNION SELECT id FROM fan_out WHERE id > ?1 ORDER BY 1 LIMIT ?2";
    FAN_OUTS = "SELECT f.id, f.came_on, f.work, p.position FROM fan_out f
        LEFT JOIN fan_out_position p ON p.id = f.id
        WHERE f.id > ?1 AND f.id <= ?2 ORDER BY f.id";
    UNPUBLISHED = "SELECT id, came_on, purpose, topics, payload, properties
        FROM delivery WHERE id > ?1 AND id <= ?2 AND purpose <> ?3 ORDER BY id, number";
    LAST = "SELECT max(id) FROM (
        SELECT max(id) AS id FROM delivery WHERE purpose <> ?
        UNION ALL SELECT max(id) FROM fan_out)";
    SIZE may scan "reads the whole log, at start" = "SELECT sum(messages), sum(bytes) FROM (
        SELECT count(*) FILTER (WHERE number = 0) AS messages,
            total(?1 * count + octet_length(topics) + coalesce(length(payload), 0)) AS bytes
            FROM delivery WHERE purpose <> ?2
        UNION ALL SELECT count(*) FILTER (WHERE NOT EXISTS (
                SELECT 1 FROM delivery d WHERE d.id = f.id)),
            total(?1 + octet_length(work)) FROM fan_out f)";
}

const OF_ROW: &str = "a row of the delivery log, or of its message, cannot be read (store check): \
    who should get it from there does not";

/// Ends a publish in the column `topics`. No topic holds this byte.
pub(super) const END: u8 = 0;

impl DeliveryLog for SqliteStore {
    fn log(&mut self, logged: &LoggedPublishes<'_>) -> Result<(), StoreError> {
        if logged.publishes.is_empty() {
            return Ok(());
        }
        let mut statement = self.connection.prepare(&LOG)?;
        let mut rest = logged.publishes;
        let mut number = logged.first;
        while let Some(first) = rest.first() {
            // The copies of a message that follow each other share a row.
            let count = rest.iter().take_while(|publish| is_copy(publish)).count();
            let (row, others) = rest.split_at(count.max(1));
            rest = others;
            let mut topics = Vec::with_capacity(128 * count);
            for publish in &row[..count] {
                let status = publish.copy_status.map_or(0, |status| status.code());
                topics.extend_from_slice(status.to_string().as_bytes());
                topics.push(b' ');
                topics.extend_from_slice(publish.topic.as_str().as_bytes());
                topics.push(END);
            }
            if count == 0 {
                topics.extend_from_slice(first.topic.as_str().as_bytes());
            }
            statement.execute(params![
                logged.id.as_bytes(),
                i64::try_from(number).unwrap_or(i64::MAX),
                i64::try_from(row.len()).unwrap_or(i64::MAX),
                (number == 0).then_some(logged.came_on),
                purpose_code(logged.purpose),
                topics,
                (count == 0).then_some(&first.payload[..]),
                properties(first),
            ])?;
            number += row.len();
        }
        Ok(())
    }

    fn log_fan_out(&mut self, id: MessageId, came_on: &[u8], text: &str) -> Result<(), StoreError> {
        let params = params![id.as_bytes(), came_on, text];
        self.connection.execute(&LOG_FAN_OUT, params)?;
        self.cache.any_fan_out = Some(true);
        Ok(())
    }

    fn log_question(&mut self, question: &LoggedQuestion) -> Result<(), StoreError> {
        self.connection.prepare(&LOG)?.execute(params![
            question.id.as_bytes(),
            0,
            1,
            &question.topic[..],
            QUESTION,
            &question.topic[..],
            &question.payload[..],
            None::<String>,
        ])?;
        Ok(())
    }

    fn questions(&self) -> Result<Vec<LoggedQuestion>, StoreError> {
        let rows = self.connection.rows(&QUESTIONS, [QUESTION], |row| {
            let is_damaged = row.get_ref(2)?.as_bytes().is_err();
            Ok((
                own_id(row)?,
                bytes_of(row, 1)?,
                bytes_of(row, 2)?,
                is_damaged,
            ))
        })?;
        let question = |(id, topic, payload, is_damaged)| {
            let id: Option<MessageId> = id;
            id.map(|id| LoggedQuestion {
                id,
                topic,
                payload,
                is_damaged,
            })
        };
        Ok(rows.into_iter().filter_map(question).collect())
    }

    fn log_position(&mut self, id: MessageId, position: usize) -> Result<(), StoreError> {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let params = params![id.as_bytes(), position];
        self.connection.execute(&LOG_POSITION, params)?;
        Ok(())
    }

    fn published(&mut self, id: MessageId) -> Result<(), StoreError> {
        let key = params![id.as_bytes()];
        self.connection.execute(&FORGET, key)?;
        if self.any(&ANY_FAN_OUT, |cache| &mut cache.any_fan_out)? {
            if self.connection.execute(&FORGET_FAN_OUT, key)? > 0 {
                self.cache.any_fan_out = None;
            }
            self.connection.execute(&FORGET_POSITION, key)?;
        }
        Ok(())
    }

    fn log_holds(&self, id: MessageId) -> Result<bool, StoreError> {
        Ok(self.connection.exists(&HOLDS, [id.as_bytes()])?)
    }

    fn unpublished(&self, after: Option<MessageId>, most: usize) -> Result<LogPage, StoreError> {
        // Nothing comes before every id.
        let after = after.map(|id| id.as_bytes().to_vec()).unwrap_or_default();
        let limit = i64::try_from(most).unwrap_or(i64::MAX);
        let next: Vec<Vec<u8>> =
            self.connection
                .rows(&NEXT, params![after, limit, QUESTION], |row| row.get(0))?;
        let mut is_last = next.len() < most;
        let Some(mut last) = next.last().cloned() else {
            return Ok(LogPage {
                messages: vec![],
                is_last,
            });
        };
        let mut statement = self.connection.prepare(&UNPUBLISHED)?;
        let mut rows = statement.query(params![after, last, QUESTION])?;
        let mut messages: Vec<LoggedMessage> = vec![];
        let mut bytes = 0;
        while let Some(row) = rows.next()? {
            let Some(id) = own_id(row)? else {
                continue;
            };
            if messages.last().is_none_or(|last| last.id != id) {
                if let Some(before) = messages.last()
                    && bytes >= PAGE_BYTES
                {
                    last = before.id.as_bytes().to_vec();
                    is_last = false;
                    break;
                }
                messages.push(LoggedMessage {
                    id,
                    came_on: bytes_of(row, 1)?,
                    publishes: vec![],
                    fan_out: None,
                    is_damaged: false,
                });
            }
            let message = messages.last_mut().expect("one was just pushed");
            let before = message.publishes.len();
            let is_whole = match self.read_publishes(id, row, &mut message.publishes) {
                // The same row would hold up all messages for ever.
                Err(StoreError::Row(error)) => {
                    error!(message_id = %id, %error, "{OF_ROW}");
                    false
                }
                read => read?,
            };
            message.is_damaged |= !is_whole;
            let read = message.publishes[before..].iter();
            bytes += read
                .map(|(_, publish)| publish.payload.len())
                .sum::<usize>();
        }
        self.add_fan_outs(&mut messages, params![after, last])?;
        Ok(LogPage { messages, is_last })
    }

    fn log_size(&self) -> Result<Option<LogSize>, StoreError> {
        let last: Option<OwnId> = self.connection.row(&LAST, [QUESTION], |row| row.get(0))?;
        let Some(last) = last.and_then(|last| last.0) else {
            return Ok(None);
        };
        let row_bytes = i64::try_from(LOG_ROW_BYTES).unwrap_or(i64::MAX);
        let size = self.connection.row(&SIZE, [row_bytes, QUESTION], |row| {
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

/// The bytes in a column; none, if it holds something else.
fn bytes_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Bytes> {
    let bytes = row.get_ref(column)?.as_bytes().unwrap_or_default();
    Ok(Bytes::copy_from_slice(bytes))
}

/// The id of a row. One that is none is reported, and what it belongs to is left out.
fn own_id(row: &Row<'_>) -> rusqlite::Result<Option<MessageId>> {
    let OwnId(id) = row.get(0)?;
    if id.is_none() {
        error!("the delivery log holds an invalid id: it is left out");
    }
    Ok(id)
}

/// Whether a publish can be made of the stored message and its topic.
fn is_copy(publish: &Publish) -> bool {
    publish.copy_status.is_some() && publish.user_properties.is_empty()
}

impl SqliteStore {
    /// Adds the fan-outs to the messages that have publishes, and messages that have none.
    fn add_fan_outs(
        &self,
        messages: &mut Vec<LoggedMessage>,
        range: &[&dyn ToSql],
    ) -> Result<(), StoreError> {
        let fan_outs = self.connection.rows(&FAN_OUTS, range, |row| {
            let position = row.get_ref(3)?.as_i64().unwrap_or(0);
            let text = row.get_ref(2)?.as_str().map(str::to_owned);
            let fan_out = text.map(|text| LoggedFanOut {
                text,
                position: usize::try_from(position).unwrap_or(0),
            });
            Ok((own_id(row)?, bytes_of(row, 1)?, fan_out))
        })?;
        for (id, came_on, fan_out) in fan_outs {
            let Some(id) = id else {
                continue;
            };
            let fan_out = fan_out
                .inspect_err(|error| error!(message_id = %id, %error, "{OF_ROW}"))
                .ok();
            let at = match messages.binary_search_by_key(&id, |message| message.id) {
                Ok(at) => at,
                Err(at) => {
                    messages.insert(
                        at,
                        LoggedMessage {
                            id,
                            came_on,
                            publishes: vec![],
                            fan_out: None,
                            is_damaged: false,
                        },
                    );
                    at
                }
            };
            messages[at].is_damaged |= fan_out.is_none();
            messages[at].fan_out = fan_out;
        }
        Ok(())
    }

    /// Adds the publishes of a row as they were logged. Returns whether that is all of them: some
    /// may be such that they cannot be made any more.
    fn read_publishes(
        &self,
        id: MessageId,
        row: &Row<'_>,
        publishes: &mut Vec<(Purpose, Publish)>,
    ) -> Result<bool, StoreError> {
        let purpose = purpose(row.get(2)?);
        let topics = row.get_ref(3)?.as_bytes().unwrap_or_default();
        let topic_of = |topic: &[u8]| {
            let topic = str::from_utf8(topic).ok().map(TopicName::parse);
            let topic = topic.and_then(Result::ok);
            if topic.is_none() {
                error!(message_id = %id, "a topic in the delivery log is none: it is left out");
            }
            topic
        };
        if let Some(payload) = row.get::<_, Option<Vec<u8>>>(4)? {
            let Some(topic) = topic_of(topics) else {
                return Ok(false);
            };
            let mut publish = Publish::new(topic, payload.into());
            if let Some(properties) = row.get::<_, Option<String>>(5)? {
                publish.user_properties = serde_json::from_str(&properties).unwrap_or_default();
            }
            publishes.push((purpose, publish));
            return Ok(true);
        }
        let Some(body) = self.body(id)?.map(Body::from_stored) else {
            error!(message_id = %id, "a message was deleted before it was published");
            return Ok(false);
        };
        let mut is_whole = true;
        for publish in topics
            .split(|byte| *byte == END)
            .filter(|one| !one.is_empty())
        {
            let mut parts = publish.splitn(2, |byte| *byte == b' ');
            let code = parts.next().and_then(|code| str::from_utf8(code).ok());
            let code = code.and_then(|code| code.parse().ok());
            match (code, parts.next().and_then(topic_of)) {
                (Some(code), Some(topic)) => {
                    publishes.push((purpose, Publish::copy(topic, &body, status(code))));
                }
                (_, None) | (None, _) => is_whole = false,
            }
        }
        Ok(is_whole)
    }
}
