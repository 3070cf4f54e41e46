//! Reads stored messages back.

use rusqlite::params;

use super::connection::statements;
use super::{SqliteStore, StoreError, status, unix};
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::history::{Page, PageQuery, Stored};
use crate::rules::listing::{ListedConversation, Slice, Window};
use crate::store::History;

/// Bytes of bodies in a page, give or take one message.
const PAGE_BYTES: usize = 2 << 20;
/// Rows of an inbox read for a page: the messages of one conversation may stand far apart.
const ROWS_PER_PAGE: usize = 2_000;

statements! {
    COPIES_BETWEEN = "SELECT seq, convers_with, status FROM timeline
        WHERE app = ? AND inbox_of = ? AND seq > ? AND seq <= ? ORDER BY seq";
    MESSAGE = "SELECT layout, stored_at, body FROM message WHERE seq = ?";
    STORED_AT = "SELECT stored_at FROM message WHERE seq = ?";
    BODY = "SELECT body FROM message WHERE message_id = ?";
    // INDEXED BY: few messages are not acknowledged, and only the index finds them.
    UNACKNOWLEDGED = "SELECT fingerprint, message_id FROM message INDEXED BY message_by_id
        WHERE message_id > ? AND seq > 0 AND fingerprint IS NOT NULL ORDER BY seq";
    // Only ids of the observer's own have a fingerprint. At QoS 0 they have none, so the last one
    // may be far back: the search ends somewhere.
    LAST_OWN_ID may scan "stops after 1000 rows" = "SELECT message_id FROM
        (SELECT message_id, fingerprint FROM message ORDER BY seq DESC LIMIT 1000)
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
        let mut page = Page {
            next: query.after,
            ..Page::default()
        };
        let (mut rows_read, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let (seq, convers_with): (i64, Box<str>) = (row.get(0)?, row.get(1)?);
            let wanted = query
                .convers_with
                .as_ref()
                .is_none_or(|peer| *peer == convers_with);
            let full = page.messages.len() >= query.limit;
            let newest = page.messages.last().map(|last| last.stored_at);
            // A client asks for the next page by the time of the last message it has: so the
            // messages of one millisecond stay together.
            if rows_read >= ROWS_PER_PAGE
                || bytes >= PAGE_BYTES
                || (full && wanted && self.stored_at(seq)? != newest)
            {
                page.more = true;
                return Ok(page);
            }
            rows_read += 1;
            page.next = seq;
            if !wanted {
                continue;
            }
            // None: the message is pruned, and its copies are about to be.
            if let Some(stored) = self.stored(seq, convers_with, status(row.get(2)?))? {
                bytes += stored.body.as_str().len();
                page.messages.push(stored);
            }
        }
        Ok(page)
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
        let params = [id.to_string()];
        Ok(self.connection.find(&BODY, params, |row| row.get(0))?)
    }

    fn unacknowledged(&self) -> Result<Vec<(u64, MessageId)>, StoreError> {
        let acknowledged = self.progress.acknowledged.map(|id| id.to_string());
        let rows =
            self.connection
                .rows(&UNACKNOWLEDGED, [acknowledged.unwrap_or_default()], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))
                })?;
        let own = rows.into_iter().filter_map(|(fingerprint, id)| {
            let id = MessageId::parse(&id)?;
            Some((fingerprint.cast_unsigned(), id))
        });
        Ok(own.collect())
    }

    fn last_id(&self) -> Result<Option<MessageId>, StoreError> {
        let found: Option<String> = self.connection.find(&LAST_OWN_ID, [], |row| row.get(0))?;
        let found = found.and_then(|id| MessageId::parse(&id));
        Ok(found.max(self.progress.acknowledged))
    }
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
                layout: row.get(0)?,
                stored_at: unix(row.get(1)?),
                body: Body::from_stored(row.get(2)?),
                status,
            })
        });
        Ok(stored?)
    }

    fn stored_at(&self, seq: i64) -> Result<Option<UnixMillis>, StoreError> {
        let at: Option<i64> = self.connection.find(&STORED_AT, [seq], |row| row.get(0))?;
        Ok(at.map(unix))
    }
}
