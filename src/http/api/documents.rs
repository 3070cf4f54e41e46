//! Messages and conversations as clients of the API get them (chapter *http-api*).

use serde_json::value::RawValue;

use crate::protocol::address::Timeline;
use crate::protocol::json::{Members, parse_object, raw};
use crate::rules::listing::{ListedConversation, ListedMessage};

/// A message in one timeline.
pub(super) fn message(timeline: &Timeline<'_>, message: &ListedMessage) -> Members {
    let mut members = parse_object(message.body.as_bytes()).unwrap_or_default();
    members.insert("status".to_owned(), raw(&message.status.code()));
    members.insert("timelineOf".to_owned(), raw(timeline.inbox_of.as_str()));
    members.insert(
        "conversWith".to_owned(),
        raw(timeline.convers_with.as_str()),
    );
    with_attributes(members)
}

/// A conversation in a user's list.
pub(super) fn conversation(user: &str, listed: &ListedConversation) -> Members {
    let row = listed.row.to_json(user, &listed.convers_with);
    with_attributes(parse_object(&row).unwrap_or_default())
}

/// The same with an object in `attributes`: the stock widget looks into it without asking.
fn with_attributes(mut members: Members) -> Members {
    let is_object = |value: &RawValue| value.get().starts_with('{');
    let attributes = members.get("attributes");
    if !attributes.is_some_and(|value| is_object(value)) {
        members.insert("attributes".to_owned(), raw(&Empty {}));
    }
    members
}

#[derive(serde::Serialize)]
struct Empty {}

/// Newest first, by the time that the messages bear; those of one time as they were stored.
pub(super) fn sort_newest_first(documents: &mut [Members]) {
    let time = |members: &Members| {
        let time = members.get("timestamp")?;
        time.get().parse::<f64>().ok()
    };
    documents.sort_by(|one, other| {
        let (one, other) = (time(one), time(other));
        other.partial_cmp(&one).unwrap_or(std::cmp::Ordering::Equal)
    });
}
