//! The delivery log in SQLite.

use bytes::Bytes;
use rusqlite::{Row, params};
use tracing::error;

use super::connection::statements;
use super::{SqliteStore, StoreError, status};
use crate::protocol::envelope::Body;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::topic::TopicName;
use crate::rules::plan::Purpose;
use crate::store::{DeliveryLog, History, LoggedMessage, LoggedPublishes};

statements! {
    LOG = "INSERT OR REPLACE INTO delivery
        (message_id, number, came_on, purpose, topic, status, payload, properties)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
    FORGET = "DELETE FROM delivery WHERE message_id <= ?";
    UNPUBLISHED may scan "reads the whole log, at start" = "SELECT
        message_id, came_on, purpose, topic, status, payload, properties
        FROM delivery ORDER BY message_id, number";
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

    fn published(&mut self, up_to: MessageId) -> Result<(), StoreError> {
        let progress = &mut self.progress;
        progress.finished = progress.finished.max(Some(up_to));
        if progress.forgotten < Some(up_to) {
            self.connection.execute(&FORGET, [up_to.to_string()])?;
            progress.forgotten = Some(up_to);
        }
        Ok(())
    }

    fn unpublished(&self) -> Result<Vec<LoggedMessage>, StoreError> {
        let mut statement = self.connection.prepare(&UNPUBLISHED)?;
        let mut rows = statement.query([])?;
        let mut messages: Vec<LoggedMessage> = vec![];
        while let Some(row) = rows.next()? {
            let text: String = row.get(0)?;
            let Some(id) = MessageId::parse(&text) else {
                error!(id = %text, "the delivery log holds an id that is none: it is left out");
                continue;
            };
            if messages.last().is_none_or(|last| last.id != id) {
                messages.push(LoggedMessage {
                    id,
                    came_on: Bytes::from(row.get::<_, Option<Vec<u8>>>(1)?.unwrap_or_default()),
                    publishes: vec![],
                });
            }
            let publish = self.read_publish(id, row)?;
            let message = messages.last_mut().expect("one was just pushed");
            message.publishes.extend(publish);
        }
        Ok(messages)
    }
}

impl SqliteStore {
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
