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
