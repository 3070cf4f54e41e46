//! What another server has stored, brought into a store.
//!
//! What is imported stands before all that the observer takes in itself, in the order of the
//! source's times: whenever it is imported, and in however many parts.
//!
//! The observer's own messages are numbered from 1. Imported ones have negative numbers, made of
//! their times: so each has its place among the others, whatever order they come in, and all are
//! before the observer's own.

use super::StoreError;
use super::columns::millis;
use crate::protocol::json::parse_object;
use crate::protocol::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};
use crate::protocol::time::UnixMillis;

/// Numbers for the messages of one millisecond. What has no room goes to the next one.
const PER_MILLI: i64 = 1 << 11;
/// The first number. JavaScript's numbers hold them all: clients get them as cursors.
const FIRST: i64 = -(1 << 53);
/// The last time that has a number: in the year 2109.
const LAST_TIME: i64 = (1 << 42) - 1_000_000;
/// Where a message came from that is only known from the row of a list: in place of a layout.
pub(super) const FROM_A_ROW: &str = "row";

/// A document of the source. Import messages before conversations: a row of a list refers to its
/// last message.
#[derive(Clone, Debug)]
pub enum Imported {
    /// A copy of a message in one timeline.
    Message(ImportedMessage),
    /// A row of a user's list.
    Conversation(ImportedConversation),
    /// A group.
    Group(ImportedGroup),
}

/// What became of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// It is stored now, or it has changed what was.
    New,
    /// It, or something newer, was there.
    Known,
}

/// When a message was written. Some clients' clocks are ahead: nothing is stored in the future.
pub(super) fn time(message: &ImportedMessage, now: UnixMillis) -> i64 {
    millis(message.time.min(now)).min(LAST_TIME)
}

/// When the youngest message was written that a batch holds.
pub(super) fn youngest(batch: &[Imported], now: UnixMillis) -> Option<i64> {
    let times = batch.iter().filter_map(|document| match document {
        Imported::Message(message) => Some(time(message, now)),
        Imported::Conversation(row) => Some(time(&row.last, now)),
        Imported::Group(_) => None,
    });
    times.max()
}

/// A number that is free for a message of this time. `last_between` finds the last number that is
/// taken, from one to before another.
pub(super) fn number_for(
    time: i64,
    mut last_between: impl FnMut(i64, i64) -> Result<Option<i64>, StoreError>,
) -> Result<i64, StoreError> {
    let mut first = FIRST + time * PER_MILLI;
    loop {
        let end = first + PER_MILLI;
        match last_between(first, end)?.map_or(first, |last| last + 1) {
            next if next < end => return Ok(next),
            _ => first = end,
        }
    }
}

/// The time that a message of this time is stored under, between those before and behind it. Times
/// never fall in the log, and both servers may have been in use for a time, or a message may have
/// a number of the next millisecond.
pub(super) fn time_between(time: i64, before: Option<i64>, behind: Option<i64>) -> i64 {
    let time = before.map_or(time, |before| before.max(time));
    behind.map_or(time, |behind| behind.min(time))
}

/// Whether a group was changed later than what is stored of it.
pub(super) fn is_newer(group: &ImportedGroup, stored: &str) -> bool {
    // One that does not say when it was changed was made here, by a service or by hand.
    let ours = updated_on(stored).unwrap_or(i64::MAX);
    updated_on(&group.body).is_some_and(|theirs| theirs > ours)
}

/// When a group was changed last, in milliseconds since 1970, if its object says so.
fn updated_on(body: &str) -> Option<i64> {
    let members = parse_object(body.as_bytes()).ok()?;
    members.get("updatedOn")?.get().parse().ok()
}

pub(super) fn landing(is_changed: bool) -> Landing {
    match is_changed {
        true => Landing::New,
        false => Landing::Known,
    }
}
