//! What a client calls its own message, so that it recognises an answer about it.
//!
//! Owns reading that from a payload, as far as the payload can be read.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// A longer text is left out: it would come back to the client as it is.
const MAX_BYTES: usize = 128;

/// The names that a client gave to its message. Serialized, they stand where they stood there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClientReference {
    /// `message_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// `attributes`.
    #[serde(skip_serializing_if = "ReferredAttributes::is_empty")]
    pub attributes: ReferredAttributes,
}

/// What comes back of `attributes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ReferredAttributes {
    /// `tempUID`.
    #[serde(rename = "tempUID", skip_serializing_if = "Option::is_none")]
    pub temp_uid: Option<String>,
}

impl ReferredAttributes {
    fn is_empty(&self) -> bool {
        self.temp_uid.is_none()
    }
}

impl ClientReference {
    /// Reads a payload up to its end, or to where it is no JSON any more.
    pub fn read(payload: &[u8]) -> Self {
        let mut found = Self::default();
        let mut json = serde_json::Deserializer::from_slice(payload);
        // What was found before a fault counts.
        let _ = Members(&mut found).deserialize(&mut json);
        found
    }
}

/// Reads the members of a message.
struct Members<'f>(&'f mut ClientReference);

/// Reads the members of `attributes`.
struct AttributeMembers<'f>(&'f mut ReferredAttributes);

/// Reads a text that is not too long; anything else is nothing.
struct Text<'f>(&'f mut Option<String>);

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "message_id" => map.next_value_seed(Text(&mut self.0.message_id))?,
                "attributes" => map.next_value_seed(AttributeMembers(&mut self.0.attributes))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for AttributeMembers<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AttributeMembers<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    // What is no object holds no reference, and what follows it may.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "tempUID" => map.next_value_seed(Text(&mut self.0.temp_uid))?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        let value = <&RawValue>::deserialize(json)?.get();
        // A character takes six bytes at most, and the quotes two.
        let may_be_short = value.len() <= MAX_BYTES * 6 + 2;
        let text = may_be_short.then(|| serde_json::from_str::<String>(value));
        let text = text.and_then(Result::ok);
        *self.0 = text.filter(|text| text.len() <= MAX_BYTES);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &str) -> String {
        serde_json::to_string(&ClientReference::read(payload.as_bytes())).unwrap()
    }

    #[test]
    fn a_clients_names_come_back_where_they_stood() {
        for (payload, found) in [
            (
                r#"{"text":"hi","message_id":"m1","attributes":{"a":[1],"tempUID":"t1","b":2}}"#,
                r#"{"message_id":"m1","attributes":{"tempUID":"t1"}}"#,
            ),
            // Up to where it is JSON.
            (
                r#"{"attributes":{"tempUID":"t1"},"text":"hi" "#,
                r#"{"attributes":{"tempUID":"t1"}}"#,
            ),
            (
                r#"{"attributes":{"tempUID":"t1""#,
                r#"{"attributes":{"tempUID":"t1"}}"#,
            ),
            (r#"{"text":"hi" "message_id":"m1"}"#, "{}"),
            (
                r#"{"message_id":"m1","message_id":"m2"}"#,
                r#"{"message_id":"m2"}"#,
            ),
            // Of another type they are nothing.
            (
                r#"{"message_id":7,"attributes":{"tempUID":"t1"}}"#,
                r#"{"attributes":{"tempUID":"t1"}}"#,
            ),
            (
                r#"{"attributes":"tempUID","message_id":"m1"}"#,
                r#"{"message_id":"m1"}"#,
            ),
            (
                r#"{"attributes":null,"message_id":"m1"}"#,
                r#"{"message_id":"m1"}"#,
            ),
            (
                r#"{"attributes":[7,{}],"message_id":"m1"}"#,
                r#"{"message_id":"m1"}"#,
            ),
            (r#"["message_id"]"#, "{}"),
            ("no JSON", "{}"),
            ("", "{}"),
        ] {
            assert_eq!(read(payload), found, "{payload}");
        }
    }

    #[test]
    fn a_long_name_does_not_come_back() {
        let of = |bytes: usize| read(&format!(r#"{{"message_id":"{}"}}"#, "x".repeat(bytes)));
        assert!(of(MAX_BYTES).contains("xxx"));
        assert_eq!(of(MAX_BYTES + 1), "{}");
    }
}
