//! A conversation as it stands in its owner's list, and what a patch makes of it.
//!
//! A row is made of the last listed message of a timeline, the status of the owner's copy, two
//! flags, and the fields the owner has patched. The store keeps these apart; this file puts them
//! together (`protocol.md`, sections 3 and 4). Who is told about a change is decided in
//! `conversation.rs`.

use bytes::Bytes;

use crate::protocol::json::{Members, parse_object, raw};
use crate::protocol::patch::Patch;
use crate::protocol::status::Status;

/// Fields that every new message sets, besides those it brings: a patch made before it no longer
/// counts.
const SET_BY_A_MESSAGE: [&str; 4] = ["archived", "is_new", "last_message_text", "status"];

/// A conversation, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Row {
    /// The last listed message (a JSON object without its status), and the status of the owner's
    /// copy.
    pub last: Option<(Box<str>, Status)>,
    /// Whether it holds something that its owner has not opened.
    pub is_new: bool,
    /// Whether its owner has archived it.
    pub archived: bool,
    /// The fields its owner has patched: a JSON object.
    pub patch: Option<Box<str>>,
    /// Whether a message came after the last patch.
    pub patch_is_older: bool,
}

/// What a patch makes of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patched {
    /// The new value of the flag, if the patch sets it.
    pub is_new: Option<bool>,
    /// The new value of the flag, if the patch sets it.
    pub archived: Option<bool>,
    /// All fields patched so far, these included: a JSON object.
    pub patch: String,
    /// What the owner's clients are told: the fields of this patch, and which conversation they
    /// belong to.
    pub told: Bytes,
}

impl Row {
    /// The patched fields that still count: a message that came later has set its own fields again.
    fn standing_patch(&self) -> Members {
        let mut patch = self.patch.as_deref().map(object).unwrap_or_default();
        if self.patch_is_older {
            let message = self
                .last
                .as_ref()
                .map(|(body, _)| object(body))
                .unwrap_or_default();
            patch.retain(|name, _| {
                !message.contains_key(name) && !SET_BY_A_MESSAGE.contains(&&**name)
            });
        }
        patch
    }

    /// What `patch` makes of this row, the row of `inbox_of` with `convers_with`.
    pub fn patched(&self, patch: &Patch, inbox_of: &str, convers_with: &str) -> Patched {
        let flag = |name: &str| match patch.fields().get(name).map(|value| value.get()) {
            Some("true") => Some(true),
            Some("false") => Some(false),
            _ => None,
        };
        let mut standing = self.standing_patch();
        let mut told = patch.fields().clone();
        standing.extend(patch.fields().clone());
        told.insert("timelineOf".to_owned(), raw(inbox_of));
        told.insert("conversWith".to_owned(), raw(convers_with));
        Patched {
            is_new: flag("is_new"),
            archived: flag("archived"),
            patch: serde_json::to_string(&standing).expect("raw members serialise"),
            told: serde_json::to_vec(&told)
                .expect("raw members serialise")
                .into(),
        }
    }

    /// Whether nothing but the flags has been patched.
    pub(crate) fn is_only_flagged(&self) -> bool {
        let patch = self.patch.as_deref().map(object).unwrap_or_default();
        patch
            .keys()
            .all(|name| matches!(&**name, "is_new" | "archived"))
    }

    /// The row as deployed clients expect it.
    pub fn to_json(&self, inbox_of: &str, convers_with: &str) -> Bytes {
        let fields = self.fields(inbox_of, convers_with);
        serde_json::to_vec(&fields)
            .expect("raw members serialise")
            .into()
    }

    /// The same, member by member.
    pub(crate) fn fields(&self, inbox_of: &str, convers_with: &str) -> Members {
        let mut fields = Members::new();
        if let Some((body, status)) = &self.last {
            fields = object(body);
            if let Some(text) = fields.get("text").cloned() {
                fields.insert("last_message_text".to_owned(), text);
            }
            fields.insert("status".to_owned(), raw(&status.code()));
        }
        // The flags come last: they hold what was patched into them, too.
        fields.extend(self.standing_patch());
        fields.insert("is_new".to_owned(), raw(&self.is_new));
        fields.insert("archived".to_owned(), raw(&self.archived));
        fields.insert("conversWith".to_owned(), raw(convers_with));
        fields.insert("key".to_owned(), raw(convers_with));
        fields.insert("timelineOf".to_owned(), raw(inbox_of));
        fields
    }
}

/// An object that was checked when it was stored.
fn object(text: &str) -> Members {
    parse_object(text.as_bytes()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn row() -> Row {
        Row {
            last: Some((
                r#"{"text":"hi","sender":"a","attributes":{"k":1}}"#.into(),
                Status::Delivered,
            )),
            is_new: true,
            ..Row::default()
        }
    }

    fn value(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn a_row_is_its_last_message_and_what_the_clients_expect() {
        assert_eq!(
            value(&row().to_json("b", "a")),
            json!({
                "text": "hi", "last_message_text": "hi", "sender": "a", "attributes": {"k": 1},
                "status": 150, "is_new": true, "archived": false,
                "conversWith": "a", "key": "a", "timelineOf": "b"
            })
        );
    }

    #[test]
    fn a_patch_lies_over_the_row_until_a_message_sets_its_fields_anew() {
        let patch = Patch::parse(
            br#"{"is_new":false,"text":"mine","colour":"red","sender":"eve","timelineOf":"x"}"#,
        )
        .unwrap();
        let patched = row().patched(&patch, "b", "a");
        assert_eq!((patched.is_new, patched.archived), (Some(false), None));
        assert_eq!(
            value(&patched.told),
            json!({
                "is_new": false, "text": "mine", "colour": "red",
                "timelineOf": "b", "conversWith": "a"
            })
        );
        let mut after = Row {
            is_new: false,
            patch: Some(patched.patch.into()),
            ..row()
        };
        let seen = value(&after.to_json("b", "a"));
        assert_eq!(
            (
                &seen["text"],
                &seen["colour"],
                &seen["is_new"],
                &seen["sender"]
            ),
            (&json!("mine"), &json!("red"), &json!(false), &json!("a"))
        );
        after.patch_is_older = true;
        after.is_new = true;
        let seen = value(&after.to_json("b", "a"));
        assert_eq!(
            (&seen["text"], &seen["colour"], &seen["is_new"]),
            (&json!("hi"), &json!("red"), &json!(true))
        );
        let again = after.patched(&Patch::parse(b"{\"k\":1}").unwrap(), "b", "a");
        assert_eq!(
            serde_json::from_str::<Value>(&again.patch).unwrap(),
            json!({"colour": "red", "k": 1})
        );
    }
}
