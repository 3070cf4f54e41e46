//! What values in columns stand for, the same in every store: so a row can be copied from one to
//! another.

use crate::protocol::json::parse_object;
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::rules::facts::Redelivery;
use crate::rules::plan::Purpose;

/// Stands for a message id in `absence.redelivered_by` where no message tells.
pub(super) const REDELIVERED: &str = "done";

/// A time from its column.
pub(super) fn unix(millis: i64) -> UnixMillis {
    UnixMillis::new(u64::try_from(millis).unwrap_or(0))
}

/// The column of a time: milliseconds since 1970.
pub(super) fn millis(time: UnixMillis) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The status of a copy from its column.
pub(super) fn status(code: i64) -> Status {
    Status::from_code(code).unwrap_or(Status::Delivered)
}

/// What the column `absence.redelivered_by` says.
pub(super) fn redelivery(redelivered_by: Option<&str>) -> Redelivery {
    match redelivered_by {
        None => Redelivery::Due,
        Some(REDELIVERED) => Redelivery::Done,
        // Somebody may have edited it.
        Some(id) => MessageId::parse(id).map_or(Redelivery::Due, Redelivery::With),
    }
}

/// The column `absence.redelivered_by`.
pub(super) fn redelivered_by(redelivery: Redelivery) -> Option<String> {
    match redelivery {
        Redelivery::Due => None,
        Redelivery::With(event) => Some(event.to_string()),
        Redelivery::Done => Some(REDELIVERED.to_owned()),
    }
}

/// The column `delivery.purpose`.
pub(super) fn purpose_code(purpose: Purpose) -> i64 {
    match purpose {
        Purpose::Copy => 0,
        Purpose::BulkCopy => 1,
        Purpose::Notice => 2,
    }
}

/// What the column `delivery.purpose` says.
pub(super) fn purpose(code: i64) -> Purpose {
    match code {
        1 => Purpose::BulkCopy,
        2 => Purpose::Notice,
        _ => Purpose::Copy,
    }
}

/// The column `delivery.properties`.
pub(super) fn properties(publish: &Publish) -> Option<String> {
    let properties = &publish.user_properties;
    let text = || serde_json::to_string(properties).expect("texts serialise");
    (!properties.is_empty()).then(text)
}

/// Whether two JSON objects have the same members.
pub(super) fn is_same_object(one: &str, other: &str) -> bool {
    let (Ok(one), Ok(other)) = (parse_object(one.as_bytes()), parse_object(other.as_bytes()))
    else {
        return false;
    };
    one.len() == other.len()
        && one
            .iter()
            .zip(&other)
            .all(|((a, x), (b, y))| a == b && x.get() == y.get())
}

/// What the sender of a message calls it, by its body: `attributes.tempUID`.
pub(super) fn temp_uid(body: &str) -> Option<String> {
    let members = parse_object(body.as_bytes()).ok()?;
    let attributes = parse_object(members.get("attributes")?.get().as_bytes()).ok()?;
    serde_json::from_str(attributes.get("tempUID")?.get()).ok()
}
