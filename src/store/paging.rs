//! Where the parts of lists and pages begin and end, the same in every store.
//!
//! Owns the bounds. Leaves reading the rows to each store, which hands them over one by one.

use crate::protocol::time::UnixMillis;
use crate::rules::history::{Page, PageQuery, Stored};
use crate::rules::listing::{From, Place, Slice, Window};
use crate::store::StoreError;
use crate::store::reader::SLICE_BYTES;

/// Bytes of bodies in a page of history, give or take one message.
const PAGE_BYTES: usize = 2 << 20;
/// Rows of an inbox read for such a page: the messages of one conversation may stand far apart.
const ROWS_PER_PAGE: usize = 2_000;

/// Where a part of a list begins, and how many rows are read for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// Whether it goes from newer entries to older ones.
    pub(super) newest_first: bool,
    /// The position next to its first entry.
    pub(super) edge: i64,
    /// One more than asked for: it tells whether there is more.
    pub(super) limit: i64,
}

impl Start {
    /// The start of a window. `position_by` finds the last position up to a time.
    pub(super) fn of(
        window: Window,
        position_by: impl FnOnce(UnixMillis) -> Result<i64, StoreError>,
    ) -> Result<Self, StoreError> {
        let edge = match window.from {
            From::Newest => i64::MAX,
            From::Before(Place::Position(position)) | From::Since(Place::Position(position)) => {
                position
            }
            From::Before(Place::Time(time)) => {
                let earlier = UnixMillis::new(time.as_millis().saturating_sub(1));
                position_by(earlier)? + 1
            }
            From::Since(Place::Time(time)) => position_by(time)?,
        };
        let limit = i64::try_from(window.limit).unwrap_or(i64::MAX);
        Ok(Self {
            newest_first: !matches!(window.from, From::Since(_)),
            edge,
            limit: limit.saturating_add(1),
        })
    }
}

/// A row of a list, as it was read.
pub(super) struct SliceRow<T> {
    pub(super) position: i64,
    /// How many bytes it holds.
    pub(super) bytes: usize,
    /// What the list shows of it: nothing of a message that is pruned.
    pub(super) entry: Option<T>,
}

/// Makes a part of a list of at most `limit` of these rows.
pub(super) fn slice<T>(
    rows: impl IntoIterator<Item = Result<SliceRow<T>, StoreError>>,
    limit: usize,
) -> Result<Slice<T>, StoreError> {
    let mut slice = Slice {
        entries: vec![],
        next: None,
    };
    let (mut rows_read, mut bytes, mut last) = (0, 0, None);
    for row in rows {
        let row = row?;
        if rows_read == limit || (rows_read > 0 && bytes + row.bytes > SLICE_BYTES) {
            slice.next = last;
            break;
        }
        slice.entries.extend(row.entry);
        (rows_read, bytes, last) = (rows_read + 1, bytes + row.bytes, Some(row.position));
    }
    Ok(slice)
}

/// A page of history that is being read.
pub(super) struct PageReading<'q> {
    query: &'q PageQuery,
    page: Page,
    rows: usize,
    bytes: usize,
}

impl<'q> PageReading<'q> {
    pub(super) fn new(query: &'q PageQuery) -> Self {
        Self {
            query,
            page: Page {
                next: query.after,
                ..Page::default()
            },
            rows: 0,
            bytes: 0,
        }
    }

    /// Bytes of bodies that it still has room for.
    pub(super) fn room(&self) -> usize {
        PAGE_BYTES.saturating_sub(self.bytes)
    }

    /// Whether a copy belongs to the conversation asked for.
    pub(super) fn wants(&self, convers_with: &str) -> bool {
        let peer = self.query.convers_with.as_deref();
        peer.is_none_or(|peer| peer == convers_with)
    }

    /// Goes on to the copy at a position. Returns whether the page ends before it.
    pub(super) fn ends_before(
        &mut self,
        position: i64,
        is_wanted: bool,
        stored_at: impl FnOnce() -> Result<Option<UnixMillis>, StoreError>,
    ) -> Result<bool, StoreError> {
        let is_full = self.page.messages.len() >= self.query.limit;
        let newest = self.page.messages.last().map(|last| last.stored_at);
        // A client asks for the next page by the time of the last message it has: so the messages
        // of one millisecond stay together.
        let is_complete = is_full && is_wanted && stored_at()? != newest;
        self.page.is_cut = !is_complete && (self.rows >= ROWS_PER_PAGE || self.bytes >= PAGE_BYTES);
        self.page.more = is_complete || self.page.is_cut;
        if !self.page.more {
            self.rows += 1;
            self.page.next = position;
        }
        Ok(self.page.more)
    }

    /// Goes on behind the copy at a position, which cannot be read.
    pub(super) fn leave_out(&mut self, position: i64) {
        self.page.next = position;
    }

    /// Adds the message of that copy.
    pub(super) fn add(&mut self, message: Stored) {
        self.bytes += message.body.as_str().len();
        self.page.messages.push(message);
    }

    pub(super) fn page(self) -> Page {
        self.page
    }
}

/// The last position whose message was stored at a time or before, found by halving the log
/// between the position `before` it and its `last`: times never fall. `up_to` finds the last
/// message up to a position, and its time.
pub(super) fn position_by(
    time: UnixMillis,
    (before, last): (i64, i64),
    mut up_to: impl FnMut(i64) -> Result<Option<(i64, UnixMillis)>, StoreError>,
) -> Result<i64, StoreError> {
    let (mut known, mut unknown) = (before, last);
    while known < unknown {
        let middle = known + (unknown - known + 1) / 2;
        match up_to(middle)? {
            Some((seq, at)) if at > time => unknown = seq - 1,
            Some(_) | None => known = middle,
        }
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_position_of_a_time_is_that_of_the_last_message_up_to_it(
            gaps in prop::collection::vec((1..4_i64, 0..3_u64), 1..40), time in 0..60_u64
        ) {
            let mut log = vec![];
            let (mut seq, mut at) = (-20, 10);
            for (positions, millis) in gaps {
                (seq, at) = (seq + positions, at + millis);
                log.push((seq, UnixMillis::new(at)));
            }
            let before = log[0].0 - 1;
            let time = UnixMillis::new(time);
            let up_to = |seq| Ok(log.iter().rev().find(|(found, _)| *found <= seq).copied());
            let found = position_by(time, (before, seq), up_to).unwrap();
            let behind = log.iter().find(|(_, at)| *at > time);
            let is_last = behind.is_none_or(|(seq, _)| found < *seq);
            let holds_all = log.iter().all(|(seq, at)| *at > time || *seq <= found);
            prop_assert!(is_last && holds_all, "{found} in {log:?}");
        }

        #[test]
        fn slices_that_follow_each_other_hold_every_row_once(
            sizes in prop::collection::vec(0..2 * SLICE_BYTES, 0..30), limit in 1..10_usize
        ) {
            let rows = |from: usize| {
                let sizes = sizes.iter().enumerate().skip(from);
                sizes.map(|(n, bytes)| Ok(SliceRow {
                    position: i64::try_from(n).unwrap(),
                    bytes: *bytes,
                    entry: Some(n),
                }))
            };
            let mut found = vec![];
            let mut from = 0;
            loop {
                // One row more than asked for is all that a store reads.
                let part = slice(rows(from).take(limit + 1), limit).unwrap();
                prop_assert!(part.entries.len() <= limit);
                let bytes: usize = part.entries.iter().map(|n| sizes[*n]).sum();
                prop_assert!(bytes <= SLICE_BYTES || part.entries.len() == 1);
                found.extend(part.entries);
                let Some(next) = part.next else {
                    break;
                };
                from = usize::try_from(next).unwrap() + 1;
            }
            prop_assert_eq!(found, (0..sizes.len()).collect::<Vec<_>>());
        }
    }
}
