//! Reads stored messages back.

use rusqlite::{Row, params};
use tracing::error;

use super::connection::statements;
use super::encoding::{OwnId, StoredId, account, body_accounts, body_columns, read_body};
use super::{SqliteStore, StoreError, status, unix};
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::history::{Page, PageQuery, Stored};
use crate::rules::listing::{ListedConversation, Slice, Window};
use crate::store::History;
use crate::store::paging::PageReading;

const LEFT_OUT: &str = "a stored message cannot be read (store check): a page goes without it";

statements! {
    COPIES_BETWEEN = concat!("SELECT t.seq, p.name, t.status
        FROM copy t INDEXED BY copy_in_order LEFT JOIN account p ON p.id = t.peer
        WHERE t.inbox = ", account!("?", "?"), " AND t.seq > ? AND t.seq <= ? ORDER BY t.seq");
    MESSAGE = concat!("SELECT ", body_columns!(), ", l.name FROM message_data m ",
        body_accounts!(), " LEFT JOIN layout l ON l.id = m.layout WHERE m.seq = ?");
    STORED_AT = "SELECT stored_at FROM message_data WHERE seq = ?";
    BODY = concat!("SELECT ", body_columns!(), " FROM message_data m ", body_accounts!(),
        " WHERE m.id = ?");
    // INDEXED BY: few messages are not acknowledged, and only the index finds them. The ids of
    // chat21-server are random: nearly all of them are above those of this century's first three
    // quarters, which begin with less.
    UNACKNOWLEDGED = "SELECT fingerprint, id FROM message_data INDEXED BY message_data_by_id
        WHERE id > ? AND id < x'03' AND seq > 0 AND fingerprint IS NOT NULL ORDER BY seq";
    // Only ids of the observer's own have a fingerprint. At QoS 0 they have none, so the last one
    // may be far back: the search ends somewhere.
    LAST_OWN_ID may scan "stops after 1000 rows" = "SELECT id FROM
        (SELECT id, fingerprint FROM message_data ORDER BY seq DESC LIMIT 1000)
        WHERE fingerprint IS NOT NULL LIMIT 1";
}

impl History for SqliteStore {
    fn page(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        query: &PageQuery,
    ) -> Result<Page, StoreError> {
        let mut statement = self.connection.prepare(&COPIES_BETWEEN)?;
        let (app, user) = (app.as_str(), user.as_str());
        let mut rows = statement.query(params![app, user, query.after, query.last])?;
        let mut reading = PageReading::new(query);
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            // Whoever reads the page wants the others.
            let (convers_with, status) = match read_copy(row) {
                Ok(copy) => copy,
                Err(StoreError::Row(error)) => {
                    error!(seq, %error, "{LEFT_OUT}");
                    reading.leave_out(seq);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let is_wanted = reading.wants(&convers_with);
            if reading.ends_before(seq, is_wanted, || self.stored_at(seq))? {
                break;
            }
            if !is_wanted {
                continue;
            }
            // None: the message is pruned, and its copies are about to be.
            match self.stored(seq, convers_with, status) {
                Ok(Some(stored)) => reading.add(stored),
                Ok(None) => {}
                Err(StoreError::Row(error)) => error!(seq, %error, "{LEFT_OUT}"),
                Err(error) => return Err(error),
            }
        }
        Ok(reading.page())
    }

    fn listed(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        archived: bool,
        window: Window,
    ) -> Result<Slice<ListedConversation>, StoreError> {
        self.list(app, user, archived, window)
    }

    fn body(&self, id: MessageId) -> Result<Option<String>, StoreError> {
        let params = [StoredId::from(id)];
        Ok(self.connection.find(&BODY, params, read_body)?.flatten())
    }

    fn unacknowledged(&self) -> Result<Vec<(u64, MessageId)>, StoreError> {
        // Nothing comes before every id.
        let acknowledged = self.progress.acknowledged.map(|id| *id.as_bytes());
        let after = acknowledged.as_ref().map_or(&[][..], |id| id);
        let rows = self.connection.rows(&UNACKNOWLEDGED, [after], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, OwnId>(1)?))
        })?;
        let own = rows
            .into_iter()
            .filter_map(|(fingerprint, id)| Some((fingerprint.cast_unsigned(), id.0?)));
        Ok(own.collect())
    }

    fn acknowledged_up_to(&self) -> Option<MessageId> {
        self.progress.acknowledged
    }

    fn last_id(&self) -> Result<Option<MessageId>, StoreError> {
        let found: Option<OwnId> = self.connection.find(&LAST_OWN_ID, [], |row| row.get(0))?;
        let found = found.and_then(|id| id.0);
        Ok(found.max(self.progress.acknowledged))
    }
}

/// The other side of a copy's timeline, and how far the copy got.
fn read_copy(row: &Row<'_>) -> Result<(Box<str>, Status), StoreError> {
    let convers_with: Option<_> = row.get(1)?;
    Ok((convers_with.unwrap_or_default(), status(row.get(2)?)))
}

impl SqliteStore {
    fn stored(
        &self,
        seq: i64,
        convers_with: Box<str>,
        status: Status,
    ) -> Result<Option<Stored>, StoreError> {
        let stored = self.connection.find(&MESSAGE, [seq], |row| {
            Ok(Stored {
                convers_with,
                layout: row.get::<_, Option<_>>(7)?.unwrap_or_default(),
                stored_at: unix(row.get(2)?),
                body: Body::from_stored(read_body(row)?.unwrap_or_default()),
                status,
            })
        });
        Ok(stored?)
    }

    fn stored_at(&self, seq: i64) -> Result<Option<UnixMillis>, StoreError> {
        let at = self.connection.find(&STORED_AT, [seq], |row| row.get(0));
        match at.map_err(StoreError::from) {
            // The next page leaves it out.
            Err(StoreError::Row(_)) => Ok(None),
            at => Ok(at?.map(unix)),
        }
    }
}
