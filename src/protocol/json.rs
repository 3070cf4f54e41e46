//! JSON objects whose members stay raw text.
//!
//! Owns reading and writing an object one level deep. A value that nobody looks into keeps its
//! bytes, and its nesting costs no stack. What the members mean is decided by the callers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::{RawValue, to_raw_value};

/// Why a payload is not a JSON object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObjectError {
    /// It is not JSON, not UTF-8, or has something behind the JSON text.
    #[error("the payload is not JSON")]
    NotJson,
    /// It is JSON, but not an object.
    #[error("the payload is JSON, but not an object")]
    NotAnObject,
}

impl ObjectError {
    /// Why `payload`, which could not be read as an object, is none.
    pub(super) fn of(payload: &[u8]) -> Self {
        if serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
            Self::NotAnObject
        } else {
            Self::NotJson
        }
    }
}

/// What keeps `payload` from being a JSON object, for whoever wrote it: the place and the kind of
/// the fault, and nothing of the payload itself. `None` if nothing does.
pub fn fault(payload: &[u8]) -> Option<String> {
    let text = match str::from_utf8(payload) {
        Ok(text) => text,
        Err(error) => return Some(format!("byte {} is not UTF-8", error.valid_up_to() + 1)),
    };
    if let Err(error) = serde_json::from_str::<IgnoredAny>(text) {
        // The library puts the place behind its text, which is one of a fixed list here.
        let place = format!(" at line {} column {}", error.line(), error.column());
        let said = error.to_string();
        let what = match said.strip_suffix(&place).unwrap_or("not JSON") {
            // The library's word for the rest of these.
            "expected ident" => "expected true, false or null".to_owned(),
            what => what.replace('`', ""),
        };
        let (line, column) = (error.line(), error.column());
        return Some(format!("line {line}, column {column}: {what}"));
    }
    let is = match text.trim_start().as_bytes().first() {
        Some(b'{') | None => return None,
        Some(b'[') => "an array",
        Some(b'"') => "a text",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(_) => "a number",
    };
    Some(format!("the payload is {is}, should be an object"))
}

/// The members of a JSON object. Of two members with the same name the last counts.
pub(crate) type Members = BTreeMap<String, Box<RawValue>>;

/// Reads an object without looking into its members.
pub(crate) fn parse_object(payload: &[u8]) -> Result<Members, ObjectError> {
    serde_json::from_slice(payload).map_err(|_| ObjectError::of(payload))
}

/// A value as a member of an object.
pub(crate) fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw_value(value).expect("plain values serialise")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_named_by_place_and_kind_and_without_the_text() {
        for (payload, want) in [
            (br#"{"text":"hi"}"#.as_slice(), None),
            (
                br#"{"text":"secret" "a":1}"#,
                Some("line 1, column 18: expected , or }"),
            ),
            (
                b"{\"a\":1,\n \"b\" 2}",
                Some("line 2, column 6: expected :"),
            ),
            (b"secret", Some("line 1, column 1: expected value")),
            (
                b"{\"a\":nothing}",
                Some("line 1, column 7: expected true, false or null"),
            ),
            (
                b"{\"a\":\"secret",
                Some("line 1, column 12: EOF while parsing a string"),
            ),
            (b"{} secret", Some("line 1, column 4: trailing characters")),
            (b"", Some("line 1, column 0: EOF while parsing a value")),
            (b"{\"a\":\"\xff\"}", Some("byte 7 is not UTF-8")),
            (
                b" [1]",
                Some("the payload is an array, should be an object"),
            ),
            (
                b"\"secret\"",
                Some("the payload is a text, should be an object"),
            ),
            (
                b"-1.5",
                Some("the payload is a number, should be an object"),
            ),
            (b"null", Some("the payload is null, should be an object")),
        ] {
            let text = String::from_utf8_lossy(payload);
            assert_eq!(fault(payload).as_deref(), want, "{text}");
        }
        // However deep and long it is, the answer is short.
        for payload in ["[".repeat(200_000), "\"\u{1}".repeat(1_000)] {
            assert!(fault(payload.as_bytes()).unwrap().len() < 100);
        }
    }
}
