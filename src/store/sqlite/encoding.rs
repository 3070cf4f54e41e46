//! How ids and bodies are stored: ids in 16 bytes, bodies without what the row tells anyway.

use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use rusqlite::{Row, ToSql};
use uuid::Uuid;

use crate::protocol::message_id::MessageId;

/// The id of a message in a column: the 16 bytes of a UUID, or the text of any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredId<'a> {
    Uuid([u8; 16]),
    Text(&'a str),
}

impl<'a> StoredId<'a> {
    /// The form in which the id of that text is stored.
    pub(super) fn of(text: &'a str) -> Self {
        match Uuid::try_parse(text) {
            // A UUID in other spelling is another id.
            Ok(id) if id.hyphenated().encode_lower(&mut [0; 36]) == text => {
                Self::Uuid(id.into_bytes())
            }
            Ok(_) | Err(_) => Self::Text(text),
        }
    }
}

impl From<MessageId> for StoredId<'_> {
    fn from(id: MessageId) -> Self {
        Self::Uuid(*id.as_bytes())
    }
}

impl ToSql for StoredId<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Self::Uuid(bytes) => ToSqlOutput::Borrowed(ValueRef::Blob(bytes)),
            Self::Text(text) => ToSqlOutput::from(*text),
        })
    }
}

/// The text of a stored id.
#[derive(Debug)]
pub(super) struct IdText(pub(super) String);

impl FromSql for IdText {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let Ok(bytes) = value.as_blob() else {
            return Ok(Self(value.as_str()?.to_owned()));
        };
        Uuid::from_slice(bytes)
            .map(|id| Self(id.hyphenated().to_string()))
            .map_err(|error| FromSqlError::Other(error.into()))
    }
}

/// Any other than an id of an observer in a column that holds those alone is nothing: somebody may
/// have edited it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnId(pub(super) Option<MessageId>);

impl FromSql for OwnId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(Self(value.as_blob().ok().and_then(MessageId::from_bytes)))
    }
}

/// What the row of a message tells of it besides the body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) id: &'a str,
    pub(super) sender: &'a str,
    pub(super) recipient: &'a str,
    pub(super) app: &'a str,
    pub(super) stored_at: i64,
}

impl Told<'_> {
    /// The beginning of a body that ends with the observer's own members, as
    /// [`Envelope::write`](crate::protocol::envelope::Envelope::write) writes them, and its
    /// timestamp less the time of storing. `None` for any other body: that is stored whole.
    pub(super) fn shorten<'b>(&self, body: &'b str) -> Option<(&'b str, i64)> {
        let (rest, timestamp) = body.strip_suffix('}')?.rsplit_once(",\"timestamp\":")?;
        let digits = timestamp.len() <= 15 && timestamp.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || (timestamp.starts_with('0') && timestamp != "0") {
            return None;
        }
        let rest = strip_member(rest, ",\"app_id\":\"", self.app)?;
        let rest = strip_member(rest, ",\"recipient\":\"", self.recipient)?;
        let rest = strip_member(rest, ",\"sender\":\"", self.sender)?;
        let rest = strip_member(rest, "\"message_id\":\"", self.id)?;
        let timestamp: i64 = timestamp.parse().ok()?;
        Some((rest, timestamp - self.stored_at))
    }

    /// The whole body again.
    fn complete(&self, beginning: &str, written: i64) -> String {
        let timestamp = (self.stored_at + written).to_string();
        [
            beginning,
            "\"message_id\":\"",
            self.id,
            "\",\"sender\":\"",
            self.sender,
            "\",\"recipient\":\"",
            self.recipient,
            "\",\"app_id\":\"",
            self.app,
            "\",\"timestamp\":",
            &timestamp,
            "}",
        ]
        .concat()
    }
}

/// What is before a member with this value, which needs no escapes.
fn strip_member<'b>(text: &'b str, name: &str, value: &str) -> Option<&'b str> {
    let is_plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
    let text = text.strip_suffix('"')?.strip_suffix(value)?;
    text.strip_suffix(name)
        .filter(|_| value.bytes().all(is_plain))
}

/// The columns that a body is read from: of the message `m`, its sender `s`, its recipient `r`.
macro_rules! body_columns {
    () => {
        "m.body, m.written, m.stored_at, m.id, s.name, r.name, r.app"
    };
}
pub(super) use body_columns;

/// Joins the accounts of [`body_columns!`].
macro_rules! body_accounts {
    () => {
        "LEFT JOIN account s ON s.id = m.sender LEFT JOIN account r ON r.id = m.recipient"
    };
}
pub(super) use body_accounts;

/// The account of an app and a name, as a number.
macro_rules! account {
    ($app:literal, $name:literal) => {
        concat!(
            "(SELECT id FROM account WHERE app = ",
            $app,
            " AND name = ",
            $name,
            ")"
        )
    };
}
pub(super) use account;

/// The body from the first seven columns of a row: [`body_columns!`]. `None` where the message is
/// pruned.
pub(super) fn read_body(row: &Row<'_>) -> rusqlite::Result<Option<String>> {
    let beginning = row.get_ref(0)?;
    let Some(written) = row.get::<_, Option<i64>>(1)? else {
        return row.get(0);
    };
    let id: IdText = row.get(3)?;
    let text = |at| -> rusqlite::Result<&str> {
        Ok(row.get_ref(at)?.as_str_or_null()?.unwrap_or_default())
    };
    let told = Told {
        id: &id.0,
        sender: text(4)?,
        recipient: text(5)?,
        app: text(6)?,
        stored_at: row.get(2)?,
    };
    Ok(Some(told.complete(beginning.as_str()?, written)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::envelope::{Envelope, Owned};
    use crate::protocol::id::{AppId, UserId};
    use crate::protocol::message_id::MessageIds;
    use crate::protocol::time::UnixMillis;

    #[test]
    fn an_id_is_stored_in_16_bytes_unless_its_spelling_would_be_lost() {
        let canonical = "0197a3b0-0000-7000-8000-0000000000ab";
        assert!(matches!(StoredId::of(canonical), StoredId::Uuid(_)));
        for text in [
            &canonical.to_uppercase(),
            "m-1",
            "",
            &canonical.replace('-', ""),
        ] {
            assert_eq!(StoredId::of(text), StoredId::Text(text));
        }
    }

    #[test]
    fn the_observers_own_members_are_left_out_and_read_back() {
        for (payload, sender) in [
            (r#"{"text":"hi","message_id":"x"}"#, "alice"),
            ("{}", "alice"),
            (r#"{"a":{"timestamp":7}}"#, r#"a"lice"#),
        ] {
            let id = MessageIds::new(std::hash::RandomState::new()).next(UnixMillis::new(9));
            let owned = Owned {
                message_id: id,
                sender: UserId::parse(sender).unwrap(),
                recipient: UserId::parse("bob").unwrap(),
                app: AppId::parse("tilechat").unwrap(),
                timestamp: UnixMillis::new(7),
            };
            let body = Envelope::parse(payload.as_bytes()).unwrap().write(&owned);
            let id = id.to_string();
            let told = Told {
                id: &id,
                sender,
                recipient: "bob",
                app: "tilechat",
                stored_at: 9,
            };
            match told.shorten(body.as_str()) {
                Some((beginning, written)) => {
                    assert!(beginning.len() < 15 && written == -2, "{beginning}");
                    assert_eq!(told.complete(beginning, written), body.as_str());
                }
                None => assert_eq!(sender, r#"a"lice"#),
            }
            let other = Told {
                app: "other",
                ..told
            };
            assert_eq!(other.shorten(body.as_str()), None);
        }
    }
}
