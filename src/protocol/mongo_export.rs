//! Documents of chat21-server, as `mongoexport` writes them: one JSON object a line.
//!
//! Owns what is read of a line (`rest-api.md`, section 4, has the documents): its form, the fields
//! that every document must have, and MongoDB's Extended JSON (relaxed and canonical, version 2).
//! What is stored of it is decided in `store`.

use serde_json::Value;
use serde_json::value::RawValue;

use crate::protocol::group::Group;
use crate::protocol::id::{AppId, IdError, UserId};
use crate::protocol::json::{Members, ObjectError, parse_object, raw};
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;

/// The first whole number that a double may not hold: what is below was one before it was a double.
const UNSAFE: f64 = 9_007_199_254_740_992.0;

/// The fields of a message, as clients write them and chat21-server completes them.
const OF_A_MESSAGE: [&str; 16] = [
    "app_id",
    "attributes",
    "channel_type",
    "conversWith",
    "group",
    "message_id",
    "metadata",
    "recipient",
    "recipient_fullname",
    "sender",
    "sender_fullname",
    "status",
    "text",
    "timelineOf",
    "timestamp",
    "type",
];

/// Why a line cannot be imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is no JSON object.
    #[error("{}", match .0 {
        ObjectError::NotJson => "it is not JSON",
        ObjectError::NotAnObject => "it is JSON, but not an object",
    })]
    Form(#[from] ObjectError),
    /// chat21-server makes such a document of a receipt or a patch for what it does not know.
    #[error("it has no app_id: the leftover of a receipt or a patch, which no client sees")]
    Leftover,
    /// A field that every document has is not there.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A field has the wrong type.
    #[error("{0} is not {1}")]
    Type(&'static str, &'static str),
    /// A field is no identifier.
    #[error("{0} {1}")]
    Id(&'static str, IdError),
    /// A message of no name: it could not be told from others.
    #[error("message_id is empty")]
    Nameless,
    /// A status that no copy of a message has.
    #[error("status {0} is none that a stored message has: 100, 150, 200, 250, 300")]
    Status(i64),
    /// The members of a group are not sound.
    #[error("members hold what is no identifier")]
    Members,
}

/// A copy of a message in one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedMessage {
    /// The app, the owner of the timeline, and the other side.
    pub timeline: [String; 3],
    /// The message's own id, of any form.
    pub id: String,
    /// Who wrote it.
    pub sender: String,
    /// A user or a group.
    pub recipient: String,
    /// When, by the source.
    pub time: UnixMillis,
    /// The status of this copy.
    pub status: Status,
    /// The message without its status: a JSON object.
    pub body: String,
}

/// A row of a user's list of conversations.
#[derive(Clone, Debug)]
pub struct ImportedConversation {
    /// The last listed message, as the row holds it.
    pub last: ImportedMessage,
    /// Whether it holds something that its owner has not opened.
    pub is_new: bool,
    /// Whether its owner has archived it.
    pub archived: bool,
    fields: Members,
}

/// A group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedGroup {
    /// The app.
    pub app: String,
    /// The group's identifier.
    pub id: String,
    /// The group object.
    pub body: String,
}

impl ImportedMessage {
    /// Reads a document of the collection `messages`.
    ///
    /// # Errors
    /// [`LineError`]
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        Self::of(document(line)?)
    }

    fn of(mut fields: Members) -> Result<Self, LineError> {
        let timeline = [
            app(&fields, "app_id")?,
            user(&fields, "timelineOf")?,
            user(&fields, "conversWith")?,
        ];
        let [sender, recipient] = [user(&fields, "sender")?, user(&fields, "recipient")?];
        let status = match fields.get("status") {
            Some(_) => status(&fields)?,
            None if sender == timeline[1] => Status::Sent,
            None => Status::Delivered,
        };
        let (id, time) = (text(&fields, "message_id")?, time(&fields)?);
        if id.is_empty() {
            return Err(LineError::Nameless);
        }
        for internal in ["_id", "status", "timelineOf", "conversWith", "__history"] {
            fields.remove(internal);
        }
        Ok(Self {
            timeline,
            id,
            sender,
            recipient,
            time,
            status,
            body: written(&fields),
        })
    }
}

impl ImportedConversation {
    /// Reads a document of the collection `conversations`.
    ///
    /// # Errors
    /// [`LineError`]
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        let mut fields = document(line)?;
        let flag = |name: &'static str| match fields.get(name).map(|value| value.get()) {
            Some("true") => Ok(true),
            Some("false") | None => Ok(false),
            Some(_) => Err(LineError::Type(name, "true or false")),
        };
        let [is_new, archived] = [flag("is_new")?, flag("archived")?];
        for own in ["is_new", "archived", "key"] {
            fields.remove(own);
        }
        let shown = fields.remove("last_message_text");
        // What an owner has patched is not for others, who have the same message.
        let mut message = fields.clone();
        message.retain(|name, _| OF_A_MESSAGE.contains(&&**name));
        let last = ImportedMessage::of(message)?;
        for internal in ["_id", "status", "timelineOf", "conversWith", "__history"] {
            fields.remove(internal);
        }
        // Older rows have it alone.
        fields.extend(shown.map(|text| ("last_message_text".to_owned(), text)));
        Ok(Self {
            last,
            is_new,
            archived,
            fields,
        })
    }

    /// The fields of the row that its last message, as it is stored, has not: an object, or
    /// nothing. chat21-server lays a message over the row that is there, so that what an earlier
    /// message or a patch has set stays.
    pub fn patch_over(&self, body: &str) -> Option<String> {
        let message = parse_object(body.as_bytes()).unwrap_or_default();
        let same = |name: &str, value: &RawValue| {
            let name = if name == "last_message_text" {
                "text"
            } else {
                name
            };
            message
                .get(name)
                .is_some_and(|set| set.get() == value.get())
        };
        let mut patch = self.fields.clone();
        patch.retain(|name, value| !same(name, value));
        (!patch.is_empty()).then(|| written(&patch))
    }
}

impl ImportedGroup {
    /// Reads a document of the collection `groups`.
    ///
    /// # Errors
    /// [`LineError`]
    pub fn parse(line: &[u8]) -> Result<Self, LineError> {
        let mut fields = document(line)?;
        let (app, id) = (app(&fields, "appId")?, user(&fields, "uid")?);
        fields.remove("_id");
        let body = written(&fields);
        Group::parse(&body).map_err(|_| LineError::Members)?;
        Ok(Self { app, id, body })
    }
}

/// Reads a line, and makes plain JSON of MongoDB's.
fn document(line: &[u8]) -> Result<Members, LineError> {
    let mut fields = parse_object(line)?;
    for value in fields.values_mut() {
        let text = value.get();
        // Node stores milliseconds as a double, of which `mongoexport` writes 1.7E+12.
        let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let is_double = is_number && text.contains(['.', 'e', 'E']);
        if is_double || text.contains("\"$") || text.contains("E+") {
            let extended = serde_json::from_str(value.get()).map_err(|_| ObjectError::NotJson)?;
            *value = raw(&plain(extended));
        }
    }
    Ok(fields)
}

/// Extended JSON as ordinary JSON, as chat21-http-server would write it: numbers as numbers, ids
/// and times as text.
fn plain(value: Value) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(plain).collect(),
        Value::Object(members) => {
            let mut only = members.iter();
            if let (Some((name, value)), None) = (only.next(), only.next())
                && let Some(value) = wrapped(name, value)
            {
                return value;
            }
            let members = members.into_iter();
            Value::Object(members.map(|(name, value)| (name, plain(value))).collect())
        }
        Value::Number(number) => whole(&number).map_or(Value::Number(number), Value::from),
        Value::Null | Value::Bool(_) | Value::String(_) => value,
    }
}

/// A whole number that is held as a double.
fn whole(number: &serde_json::Number) -> Option<i64> {
    let double = number.as_f64().filter(|_| number.is_f64())?;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it is whole, and small enough"
    )]
    (double.fract() == 0.0 && double.abs() < UNSAFE).then_some(double as i64)
}

/// What a value stands for that MongoDB wraps in an object with one member.
fn wrapped(name: &str, value: &Value) -> Option<Value> {
    let text = value.as_str();
    match name {
        "$oid" | "$numberDecimal" => Some(value.clone()),
        "$numberInt" | "$numberLong" => text?.parse::<i64>().ok().map(Value::from),
        // Infinity and NaN have no form in JSON.
        "$numberDouble" => {
            let double = text?.parse::<f64>().map_or(Value::Null, Value::from);
            Some(plain(double))
        }
        "$undefined" => Some(Value::Null),
        "$date" => match (text, plain(value.clone()).as_u64()) {
            (Some(_), _) => Some(value.clone()),
            (None, millis) => {
                let time = std::time::Duration::from_millis(millis?);
                let time = std::time::UNIX_EPOCH.checked_add(time)?;
                Some(humantime::format_rfc3339_millis(time).to_string().into())
            }
        },
        _ => None,
    }
}

fn written(fields: &Members) -> String {
    serde_json::to_string(fields).expect("raw members serialise")
}

fn text(fields: &Members, name: &'static str) -> Result<String, LineError> {
    let value = fields.get(name).ok_or(LineError::Missing(name))?;
    serde_json::from_str(value.get()).map_err(|_| LineError::Type(name, "a text"))
}

fn app(fields: &Members, name: &'static str) -> Result<String, LineError> {
    let app = match text(fields, name) {
        Err(LineError::Missing("app_id")) => return Err(LineError::Leftover),
        app => app?,
    };
    AppId::parse(&app).map_err(|error| LineError::Id(name, error))?;
    Ok(app)
}

fn user(fields: &Members, name: &'static str) -> Result<String, LineError> {
    let user = text(fields, name)?;
    UserId::parse(&user).map_err(|error| LineError::Id(name, error))?;
    Ok(user)
}

fn status(fields: &Members) -> Result<Status, LineError> {
    let code = fields.get("status");
    let code = code.and_then(|value| value.get().parse().ok());
    let code = code.ok_or(LineError::Type("status", "a number"))?;
    let status = Status::from_code(code).filter(|status| *status >= Status::Sent);
    status.ok_or(LineError::Status(code))
}

/// A client's own timestamp may be a text.
fn time(fields: &Members) -> Result<UnixMillis, LineError> {
    let value = fields
        .get("timestamp")
        .ok_or(LineError::Missing("timestamp"))?;
    let in_text = || {
        serde_json::from_str::<String>(value.get())
            .ok()?
            .parse()
            .ok()
    };
    let millis = value.get().parse().ok().or_else(in_text);
    millis
        .map(UnixMillis::new)
        .ok_or(LineError::Type("timestamp", "in milliseconds since 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message() -> Value {
        json!({
            "_id": {"$oid": "64b5f0c2a1b2c3d4e5f60718"},
            "timelineOf": "bob", "conversWith": "alice", "message_id": "3f9a",
            "app_id": "tilechat", "sender": "alice", "recipient": "bob", "text": "hi",
            "type": "text", "attributes": null, "timestamp": 1_700_000_000_000_u64, "status": 200,
        })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut document = message();
        document[name] = value;
        document
    }

    fn parse(document: &Value) -> Result<ImportedMessage, LineError> {
        ImportedMessage::parse(document.to_string().as_bytes())
    }

    #[test]
    fn a_message_keeps_all_but_what_belongs_to_its_copy() {
        let read = parse(&message()).unwrap();
        assert_eq!(read.timeline, ["tilechat", "bob", "alice"]);
        assert_eq!(
            (&*read.id, &*read.sender, &*read.recipient),
            ("3f9a", "alice", "bob")
        );
        assert_eq!(
            (read.time.as_millis(), read.status),
            (1_700_000_000_000, Status::Received)
        );
        assert_eq!(
            serde_json::from_str::<Value>(&read.body).unwrap(),
            json!({
                "message_id": "3f9a", "app_id": "tilechat", "sender": "alice", "recipient": "bob",
                "text": "hi", "type": "text", "attributes": null,
                "timestamp": 1_700_000_000_000_u64,
            })
        );
    }

    #[test]
    fn both_forms_of_extended_json_are_read() {
        let canonical = json!({
            "timestamp": {"$numberLong": "1700000000000"}, "status": {"$numberInt": "150"},
            "attributes": {
                "n": [{"$numberDouble": "1.5"}, {"$numberDouble": "NaN"}], "id": {"$oid": "ab"},
                "at": {"$date": {"$numberLong": "1700000000000"}},
                "then": {"$date": "2023-11-14T22:13:20Z"}, "price": {"$cost": 1},
            },
        });
        let mut document = message();
        let members = canonical.as_object().unwrap().clone();
        document.as_object_mut().unwrap().extend(members);
        let read = parse(&document).unwrap();
        assert_eq!(
            (read.time.as_millis(), read.status),
            (1_700_000_000_000, Status::Delivered)
        );
        let body: Value = serde_json::from_str(&read.body).unwrap();
        assert_eq!(body["timestamp"], 1_700_000_000_000_u64);
        assert_eq!(
            body["attributes"],
            json!({
                "n": [1.5, null], "id": "ab", "at": "2023-11-14T22:13:20.000Z",
                "then": "2023-11-14T22:13:20Z", "price": {"$cost": 1},
            })
        );
    }

    #[test]
    fn what_a_client_or_a_driver_made_of_numbers_is_understood() {
        for timestamp in [
            r#""1700000000000""#,
            "1700000000000.0",
            "1.7E+12",
            "1.7e12",
            r#"{"$numberDouble":"1.7E+12"}"#,
            r#"{"$numberDouble":"1700000000000.0"}"#,
        ] {
            let line = message().to_string().replace("1700000000000", timestamp);
            let read = ImportedMessage::parse(line.as_bytes()).unwrap();
            assert_eq!(read.time.as_millis(), 1_700_000_000_000, "{line}");
            let plain = timestamp.starts_with('"') || read.body.contains(":1700000000000}");
            assert!(
                plain || read.body.contains(":1700000000000,"),
                "{}",
                read.body
            );
        }
        let nested = with("attributes", json!({"at": 0.0}));
        let line = nested.to_string().replace("0.0", "1.700000000123E+12");
        let body = ImportedMessage::parse(line.as_bytes()).unwrap().body;
        assert!(body.contains(r#"{"at":1700000000123}"#), "{body}");
        let mut bare = message();
        bare.as_object_mut().unwrap().remove("status");
        assert_eq!(parse(&bare).unwrap().status, Status::Delivered);
        bare["timelineOf"] = "alice".into();
        assert_eq!(parse(&bare).unwrap().status, Status::Sent);
    }

    #[test]
    fn a_line_that_cannot_be_imported_says_why() {
        let why = |document: Value| parse(&document).unwrap_err().to_string();
        assert_eq!(
            ImportedMessage::parse(b"{").unwrap_err().to_string(),
            "it is not JSON"
        );
        assert_eq!(why(json!([])), "it is JSON, but not an object");
        assert_eq!(
            why(with("conversWith", json!("a/b"))),
            "conversWith holds '/', which no identifier may hold"
        );
        assert_eq!(why(with("sender", json!(5))), "sender is not a text");
        assert_eq!(
            why(with("status", json!(7))),
            "status 7 is none that a stored message has: 100, 150, 200, 250, 300"
        );
        assert_eq!(why(with("status", json!("x"))), "status is not a number");
        for timestamp in [json!(-1), json!("soon"), json!(null), json!(1.5)] {
            assert_eq!(
                why(with("timestamp", timestamp)),
                "timestamp is not in milliseconds since 1970"
            );
        }
        let stub = json!({"timelineOf": "bob", "conversWith": "alice", "status": 200});
        assert!(why(stub).starts_with("it has no app_id"));
        let mut nameless = message();
        nameless.as_object_mut().unwrap().remove("message_id");
        assert_eq!(why(nameless), "it has no message_id");
        assert_eq!(why(with("message_id", json!(""))), "message_id is empty");
    }

    #[test]
    fn a_conversation_keeps_what_earlier_messages_left_in_it() {
        let mut row = message();
        let more = json!({
            "key": "alice", "is_new": true, "archived": false, "last_message_text": "hi",
            "colour": "red", "status": 150, "__history": "true",
        });
        row.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let read = ImportedConversation::parse(row.to_string().as_bytes()).unwrap();
        assert_eq!(
            (read.is_new, read.archived, &*read.last.id),
            (true, false, "3f9a")
        );
        let stored = parse(&message()).unwrap();
        let patch = read.patch_over(&stored.body).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&patch).unwrap(),
            json!({"colour": "red"})
        );
        let patch = read.patch_over(&read.last.body).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&patch).unwrap(),
            json!({"colour": "red"}),
            "it is the owner's alone"
        );
        row["is_new"] = json!(1);
        let error = ImportedConversation::parse(row.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "is_new is not true or false");
    }

    #[test]
    fn a_group_is_kept_as_it_is() {
        let group = json!({
            "_id": {"$oid": "ab"}, "uid": "group-1", "appId": "tilechat", "name": "one",
            "owner": "alice", "members": {"alice": 1},
            "createdOn": 1, "updatedOn": {"$numberLong": "2"},
        });
        let read = ImportedGroup::parse(group.to_string().as_bytes()).unwrap();
        assert_eq!((&*read.app, &*read.id), ("tilechat", "group-1"));
        let body: Value = serde_json::from_str(&read.body).unwrap();
        assert_eq!((&body["updatedOn"], body.get("_id")), (&json!(2), None));
        let mut bad = group.clone();
        bad["members"] = json!({"a/b": 1});
        assert_eq!(
            ImportedGroup::parse(bad.to_string().as_bytes()),
            Err(LineError::Members)
        );
    }
}
