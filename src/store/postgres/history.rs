//! Reads stored messages back.

use super::connection::params;
use super::facts::pair;
use super::{PostgresStore, StoreError, id_text, status, unix};
use crate::protocol::envelope::Body;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::message_id::MessageId;
use crate::rules::history::{Page, PageQuery, Stored};
use crate::rules::listing::{ListedConversation, Slice, Window};
use crate::store::History;
use crate::store::paging::PageReading;

/// Rows asked for at a time.
const ROWS_AT_A_TIME: usize = 200;

// LEFT JOIN, because a message may be pruned, and its copies are about to be. Bodies that the page
// has no room for are not read.
const COPIES_BETWEEN: &str = "SELECT seq, convers_with, status, layout, stored_at,
        CASE WHEN total - size < $8::bigint THEN body END
    FROM (SELECT p.*, sum(size) OVER (ORDER BY seq, convers_with ROWS UNBOUNDED PRECEDING) AS total
        FROM (SELECT t.seq, t.convers_with, t.status, m.layout, m.stored_at,
                CASE WHEN $5::text IS NULL OR t.convers_with = $5 THEN m.body END AS body,
                CASE WHEN $5::text IS NULL OR t.convers_with = $5
                    THEN coalesce(octet_length(m.body), 0) ELSE 0 END::bigint AS size
            FROM timeline t LEFT JOIN message m ON m.seq = t.seq
            WHERE t.app = $1 AND t.inbox_of = $2 AND (t.seq, t.convers_with) > ($3, $6)
                AND t.seq <= $4
            ORDER BY t.seq, t.convers_with LIMIT $7) p) p
    ORDER BY seq, convers_with";
const BODY: &str = "SELECT body FROM message WHERE message_id = $1";
// The ids of chat21-server are random: nearly all of them are above those of this century's first
// three quarters, which begin with less.
const UNACKNOWLEDGED: &str = "SELECT fingerprint, message_id FROM message
    WHERE message_id > $1 AND message_id < '03' AND seq > 0 AND fingerprint IS NOT NULL
        AND (seq & 15) % ($2::bigint / 16) = $2 & 15 ORDER BY seq";
// Only ids of the observer's own have a fingerprint. At QoS 0 they have none, so the last one may
// be far back: the search ends somewhere.
const LAST_OWN_ID: &str = "SELECT message_id FROM
    (SELECT seq, message_id, fingerprint FROM message ORDER BY seq DESC LIMIT 1000) newest
    WHERE fingerprint IS NOT NULL AND (seq & 15) % ($1::bigint / 16) = $1 & 15
    ORDER BY seq DESC LIMIT 1";

/// A copy, and what is left of its message.
struct CopyRow {
    seq: i64,
    convers_with: String,
    status: i64,
    /// Layout, time, and the body of a message that is wanted.
    message: Option<(String, i64, Option<String>)>,
}

impl History for PostgresStore {
    fn page(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        query: &PageQuery,
    ) -> Result<Page, StoreError> {
        let mut reading = PageReading::new(query);
        let mut after = (query.after, "\u{10ffff}".to_owned());
        loop {
            let rows = self.copies(app, user, query, &after, reading.room())?;
            let is_end = rows.len() < ROWS_AT_A_TIME;
            for row in rows {
                after = (row.seq, row.convers_with.clone());
                let is_wanted = reading.wants(&row.convers_with);
                let stored_at = row.message.as_ref().map(|(_, at, _)| unix(*at));
                if reading.ends_before(row.seq, is_wanted, || Ok(stored_at))? {
                    return Ok(reading.page());
                }
                if let (true, Some((layout, at, Some(body)))) = (is_wanted, row.message) {
                    reading.add(Stored {
                        convers_with: row.convers_with.into(),
                        layout: layout.into(),
                        body: Body::from_stored(body),
                        status: status(row.status),
                        stored_at: unix(at),
                    });
                }
            }
            if is_end {
                return Ok(reading.page());
            }
        }
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
        self.find(BODY, params![id.to_string()], |row| row.get(0))
    }

    fn unacknowledged(&self) -> Result<Vec<(u64, MessageId)>, StoreError> {
        let params = params![id_text(self.counters.acknowledged), self.slot.part()];
        let rows: Vec<(i64, String)> =
            self.rows(UNACKNOWLEDGED, params, |row| (row.get(0), row.get(1)))?;
        let own = rows.into_iter().filter_map(|(fingerprint, id)| {
            let id = MessageId::parse(&id)?;
            Some((fingerprint.cast_unsigned(), id))
        });
        Ok(own.collect())
    }

    fn acknowledged_up_to(&self) -> Option<MessageId> {
        self.counters.acknowledged
    }

    fn last_id(&self) -> Result<Option<MessageId>, StoreError> {
        let params = params![self.slot.part()];
        let found: Option<String> = self.find(LAST_OWN_ID, params, |row| row.get(0))?;
        let found = found.and_then(|id| MessageId::parse(&id));
        Ok(found.max(self.counters.acknowledged))
    }
}

impl PostgresStore {
    /// The next copies in an inbox behind a position and a peer, with bodies as long as there is
    /// room.
    fn copies(
        &self,
        app: AppId<'_>,
        user: UserId<'_>,
        query: &PageQuery,
        (after, after_peer): &(i64, String),
        room: usize,
    ) -> Result<Vec<CopyRow>, StoreError> {
        let [app, user] = pair(app.as_str(), user.as_str());
        let peer = query.convers_with.as_deref().map(str::to_owned);
        let limit = i64::try_from(ROWS_AT_A_TIME).expect("a small number");
        let params = params![
            app,
            user,
            *after,
            query.last,
            peer,
            after_peer.clone(),
            limit,
            i64::try_from(room).unwrap_or(i64::MAX)
        ];
        self.rows(COPIES_BETWEEN, params, |row| CopyRow {
            seq: row.get(0),
            convers_with: row.get(1),
            status: row.get(2),
            message: row
                .get::<_, Option<String>>(3)
                .zip(row.get::<_, Option<i64>>(4))
                .map(|(layout, at)| (layout, at, row.get(5))),
        })
    }
}
