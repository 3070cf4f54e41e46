//! Reads stored messages back, a page at a time.

use rusqlite::{OptionalExtension, params};

use super::{PAGE_BYTES, ROWS_PER_PAGE, Store, StoreError, status, unix};
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::time::UnixMillis;
use crate::rules::history::{Page, PageQuery, Stored};

impl Store {
    /// The next stored messages of a user, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn page(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        query: &PageQuery,
    ) -> Result<Page, StoreError> {
        let mut rows = self.connection.prepare_cached(
            "SELECT seq, convers_with, status FROM timeline
             WHERE app = ? AND inbox_of = ? AND seq > ? AND seq <= ? ORDER BY seq",
        )?;
        let mut bodies = self
            .connection
            .prepare_cached("SELECT layout, stored_at, body FROM message WHERE seq = ?")?;
        let mut rows = rows.query(params![
            app.as_str(),
            user.as_str(),
            query.after,
            query.last
        ])?;
        let mut page = Page {
            next: query.after,
            ..Page::default()
        };
        let (mut looked_at, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            let (seq, convers_with): (i64, Box<str>) = (row.get(0)?, row.get(1)?);
            let wanted = query
                .convers_with
                .as_ref()
                .is_none_or(|peer| *peer == convers_with);
            let full = page.messages.len() >= query.limit;
            let newest = page.messages.last().map(|last| last.stored_at);
            // The next page begins behind this time: those of one millisecond stay together.
            if looked_at >= ROWS_PER_PAGE
                || bytes >= PAGE_BYTES
                || (full && wanted && self.stored_at(seq)? != newest)
            {
                page.more = true;
                return Ok(page);
            }
            looked_at += 1;
            page.next = seq;
            if !wanted {
                continue;
            }
            let status = status(row.get(2)?);
            // A copy whose message has been pruned is about to be.
            let stored = bodies
                .query_row([seq], |body| {
                    Ok(Stored {
                        convers_with,
                        layout: body.get(0)?,
                        stored_at: unix(body.get(1)?),
                        body: Body::from_stored(body.get(2)?),
                        status,
                    })
                })
                .optional()?;
            bytes += stored
                .as_ref()
                .map_or(0, |stored| stored.body.as_str().len());
            page.messages.extend(stored);
        }
        Ok(page)
    }

    pub(super) fn stored_at(&self, seq: i64) -> Result<Option<UnixMillis>, StoreError> {
        let at: Option<i64> = self
            .connection
            .prepare_cached("SELECT stored_at FROM message WHERE seq = ?")?
            .query_row([seq], |row| row.get(0))
            .optional()?;
        Ok(at.map(unix))
    }
}
