//! The envelope: a JSON object in which the observer owns some fields and passes the rest on.
//!
//! Owns reading a client's message and writing its copies (`protocol.md`, section 3). Nothing is
//! serialised again: the client's members are copied as the bytes that were sent, in their order,
//! and the observer's own fields are written behind them.

use std::fmt;
use std::io::{self, Write};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::id::{AppId, UserId};
use crate::protocol::json::ObjectError;
use crate::protocol::message_id::MessageId;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;

/// What the observer does with a member of an envelope.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// The observer writes it, or uses it internally. What a client sends in it is dropped.
    Owned,
    /// The observer writes it, but keeps the client's value if that makes sense.
    Timestamp,
    /// Read, and passed on.
    ChannelType,
    /// Read, and passed on.
    Attributes,
    /// Read, and passed on.
    Group,
    /// The observer does not look into it, and passes it on.
    Other,
}

impl Field {
    fn of(key: &str) -> Self {
        match key {
            "message_id" | "sender" | "recipient" | "app_id" | "status" | "timelineOf"
            | "conversWith" | "__history" => Self::Owned,
            "timestamp" => Self::Timestamp,
            "channel_type" => Self::ChannelType,
            "attributes" => Self::Attributes,
            "group" => Self::Group,
            _ => Self::Other,
        }
    }

    fn is_passed_on(self) -> bool {
        !matches!(self, Self::Owned | Self::Timestamp)
    }
}

impl<'de> Deserialize<'de> for Field {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Key;
        impl Visitor<'_> for Key {
            type Value = Field;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E: de::Error>(self, key: &str) -> Result<Field, E> {
                Ok(Field::of(key))
            }
        }
        deserializer.deserialize_str(Key)
    }
}

/// A client's message, read as far as the observer needs it.
#[derive(Clone, Debug)]
pub struct Envelope<'p> {
    /// The members to pass on, as runs of the client's own bytes.
    kept: Vec<&'p str>,
    /// The client's `timestamp`, if it is a whole number.
    pub timestamp: Option<UnixMillis>,
    /// Whether the client says that this is for a group (`"channel_type":"group"`).
    pub says_group: bool,
    /// What the client asks of the observer (`attributes`).
    pub options: SendOptions,
    /// The group that the message brings along (`group`), as the client wrote it.
    pub group: Option<&'p RawValue>,
}

/// What a client may ask of the observer in the `attributes` of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// `hiddenFor`: the group member who does not get the message.
    pub hidden_for: Option<Box<str>>,
    /// `updateconversation` is `false`: the message does not change the list of conversations.
    pub unlisted: bool,
}

impl SendOptions {
    /// Reads `attributes`. A member of the wrong type asks for nothing.
    pub fn read(attributes: &RawValue) -> Self {
        #[derive(Deserialize)]
        struct Attributes<'a> {
            #[serde(borrow, rename = "hiddenFor")]
            hidden_for: Option<&'a RawValue>,
            updateconversation: Option<&'a RawValue>,
        }
        // Most messages have neither member, and need no second reading. An escape may hide one.
        let text = attributes.get();
        let worth_reading = ["hiddenFor", "updateconversation", "\\"]
            .iter()
            .any(|word| text.contains(word));
        if !worth_reading {
            return Self::default();
        }
        let Ok(read) = serde_json::from_str::<Attributes<'_>>(text) else {
            return Self::default();
        };
        let hidden_for = read.hidden_for.map(RawValue::get);
        Self {
            hidden_for: hidden_for.and_then(|value| serde_json::from_str(value).ok()),
            unlisted: read.updateconversation.map(RawValue::get) == Some("false"),
        }
    }
}

/// What the observer writes into a copy of a message, besides the status.
#[derive(Clone, Copy, Debug)]
pub struct Owned<'a> {
    /// The id of this message.
    pub message_id: MessageId,
    /// The sender, by the topic.
    pub sender: UserId<'a>,
    /// The recipient, by the topic.
    pub recipient: UserId<'a>,
    /// The tenant, by the topic.
    pub app: AppId<'a>,
    /// When the message was written.
    pub timestamp: UnixMillis,
}

/// Reads the members of `source` one by one.
struct EnvelopeVisitor<'p> {
    source: &'p str,
}

impl<'p> Visitor<'p> for EnvelopeVisitor<'p> {
    type Value = Envelope<'p>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'p>>(self, mut map: A) -> Result<Envelope<'p>, A::Error> {
        let mut envelope = Envelope {
            kept: Vec::with_capacity(4),
            timestamp: None,
            says_group: false,
            options: SendOptions::default(),
            group: None,
        };
        // Where the previous member ends in the source.
        let mut last_end = 0;
        // Where the run of kept members begins that ends at `last_end`, if there is one.
        let mut run: Option<usize> = None;
        while let Some(field) = map.next_key::<Field>()? {
            let value: &'p RawValue = map.next_value()?;
            envelope.read_member(field, value);
            let start = value.get().as_ptr().addr() - self.source.as_ptr().addr();
            if !field.is_passed_on() {
                if let Some(begin) = run.take() {
                    envelope.kept.push(&self.source[begin..last_end]);
                }
            } else if run.is_none() {
                // Between two members stand white space, a comma and the key, so the first quote
                // opens the key.
                let quote = self.source[last_end..start].find('"');
                run = quote.map(|quote| last_end + quote);
            }
            last_end = start + value.get().len();
        }
        if let Some(begin) = run {
            envelope.kept.push(&self.source[begin..last_end]);
        }
        Ok(envelope)
    }
}

impl<'p> Envelope<'p> {
    /// Reads a payload. Every byte is checked to be JSON; nesting costs no stack.
    ///
    /// # Errors
    /// [`ObjectError`] tells JSON that is not an object from what is not JSON.
    pub fn parse(payload: &'p [u8]) -> Result<Self, ObjectError> {
        let source = std::str::from_utf8(payload).map_err(|_| ObjectError::NotJson)?;
        let mut json = serde_json::Deserializer::from_str(source);
        let envelope = json
            .deserialize_map(EnvelopeVisitor { source })
            .and_then(|envelope| json.end().map(|()| envelope));
        envelope.map_err(|_| ObjectError::of(payload))
    }

    /// Takes what the observer needs from one member. Of two members with the same name the last
    /// counts, as clients have it; only a group stays a group.
    fn read_member(&mut self, field: Field, value: &'p RawValue) {
        let text = value.get();
        match field {
            Field::Timestamp => self.timestamp = text.parse().ok().map(UnixMillis::new),
            // Decoded, because a client would read "gr\u006fup" as a group too.
            Field::ChannelType => {
                let kind: Option<String> = serde_json::from_str(text).ok();
                self.says_group |= kind.is_some_and(|kind| kind == "group");
            }
            Field::Attributes => self.options = SendOptions::read(value),
            Field::Group => self.group = Some(value).filter(|_| text != "null"),
            Field::Owned | Field::Other => {}
        }
    }

    /// Writes the message: the client's members, then the observer's. The status is left out,
    /// because it differs from copy to copy.
    pub fn write(&self, owned: &Owned<'_>) -> Body {
        let kept: usize = self.kept.iter().map(|run| run.len() + 1).sum();
        let ids =
            owned.sender.as_str().len() + owned.recipient.as_str().len() + owned.app.as_str().len();
        let mut out = Vec::with_capacity(kept + ids + 160);
        out.push(b'{');
        for run in &self.kept {
            out.extend_from_slice(run.as_bytes());
            out.push(b',');
        }
        write_owned(&mut out, owned).expect("writing to memory does not fail");
        Body(String::from_utf8(out).expect("JSON is UTF-8"))
    }
}

fn write_owned(out: &mut Vec<u8>, owned: &Owned<'_>) -> io::Result<()> {
    write!(out, r#""message_id":"{}""#, owned.message_id)?;
    for (key, text) in [
        (r#","sender":"#, owned.sender.as_str()),
        (r#","recipient":"#, owned.recipient.as_str()),
        (r#","app_id":"#, owned.app.as_str()),
    ] {
        out.extend_from_slice(key.as_bytes());
        serde_json::to_writer(&mut *out, text)?;
    }
    write!(out, r#","timestamp":{}}}"#, owned.timestamp.as_millis())
}

/// A message without its status: what all its copies have in common, and what is stored once.
///
/// It is a JSON object as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(String);

impl Body {
    /// A body that is known to be an object.
    pub(super) fn from_object(text: String) -> Self {
        debug_assert!(text.starts_with('{') && text.ends_with('}'), "{text}");
        Self(text)
    }

    /// The body of a text that [`Body::as_str`] gave to the store.
    pub fn from_stored(text: String) -> Self {
        // Somebody may have edited the store by hand.
        if text.len() >= 2 && text.starts_with('{') && text.ends_with('}') {
            Self(text)
        } else {
            Self("{}".to_owned())
        }
    }

    /// The JSON text of the object.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The payload of a copy with this status.
    pub fn with_status(&self, status: Status) -> Bytes {
        self.with(&format!(r#""status":{}"#, status.code()))
    }

    /// The payload of a stored copy that its owner has fetched (`protocol.md`, section 4).
    pub fn as_history(&self, status: Status) -> Bytes {
        self.with(&format!(r#""status":{},"__history":true"#, status.code()))
    }

    fn with(&self, members: &str) -> Bytes {
        let open = &self.0[..self.0.len() - 1];
        let comma = if open == "{" { "" } else { "," };
        [open, comma, members, "}"].concat().into()
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::protocol::message_id::MessageIds;

    fn owned() -> Owned<'static> {
        Owned {
            message_id: MessageIds::new(RandomState::new()).next(UnixMillis::new(1)),
            sender: UserId::parse("alice").unwrap(),
            recipient: UserId::parse(r#"b"ob"#).unwrap(),
            app: AppId::parse("tilechat").unwrap(),
            timestamp: UnixMillis::new(7),
        }
    }

    fn written(payload: &str) -> String {
        let body = Envelope::parse(payload.as_bytes()).unwrap().write(&owned());
        String::from_utf8(body.with_status(Status::Sent).to_vec()).unwrap()
    }

    #[test]
    fn unknown_fields_pass_byte_for_byte_and_in_order() {
        let text = written(concat!(
            "{ \"z\" : 1.0e2 ,\n\"a\":{\"b\" : [1, 2]}, \"sender\":\"eve\", ",
            "\"k\\u0065y\":\"\\u00e9\" , \"m\":-0 }",
        ));
        let kept = concat!(
            "{\"z\" : 1.0e2 ,\n\"a\":{\"b\" : [1, 2]},",
            "\"k\\u0065y\":\"\\u00e9\" , \"m\":-0,\"message_id\":\"",
        );
        assert!(text.starts_with(kept), "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (
                &value["sender"],
                &value["recipient"],
                &value["app_id"],
                &value["status"],
                &value["timestamp"]
            ),
            (
                &"alice".into(),
                &"b\"ob".into(),
                &"tilechat".into(),
                &100.into(),
                &7.into()
            )
        );
    }

    #[test]
    fn what_the_observer_owns_is_dropped_however_it_is_spelled() {
        let text = written(concat!(
            r#"{"s\u0065nder":"eve","sender":"eve","status":300,"timelineOf":"x","#,
            r#""conversWith":"y","message_id":"1","app_id":"z","recipient":"r","timestamp":5,"#,
            r#""__history":true,"text":"hi"}"#,
        ));
        assert_eq!(text.matches("eve").count(), 0, "{text}");
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value.as_object().unwrap().keys().collect::<Vec<_>>(),
            [
                "app_id",
                "message_id",
                "recipient",
                "sender",
                "status",
                "text",
                "timestamp"
            ]
        );
        assert_eq!(written("{}").matches(',').count(), 5);
    }

    #[test]
    fn a_group_is_recognised_however_it_is_spelled() {
        for (payload, group) in [
            (r#"{"channel_type":"group"}"#, true),
            (r#"{"channel_\u0074ype":"gr\u006fup"}"#, true),
            (r#"{"channel_type":"direct"}"#, false),
            (r#"{"channel_type":7}"#, false),
        ] {
            assert_eq!(
                Envelope::parse(payload.as_bytes()).unwrap().says_group,
                group,
                "{payload}"
            );
        }
    }

    #[test]
    fn what_attributes_ask_for_is_read_however_it_is_spelled() {
        let options = |hidden_for: Option<&str>, unlisted| SendOptions {
            hidden_for: hidden_for.map(Into::into),
            unlisted,
        };
        for (attributes, want) in [
            (r#"{"hiddenFor":"bob"}"#, options(Some("bob"), false)),
            (
                r#"{"hidden\u0046or":"b\u006fb","x":{"updateconversation":false}}"#,
                options(Some("bob"), false),
            ),
            (r#"{"updateconversation":false}"#, options(None, true)),
            (r#"{"updateconversation":true}"#, options(None, false)),
            (
                r#"{"updateconversation":"false","hiddenFor":7}"#,
                options(None, false),
            ),
            (r#"["hiddenFor"]"#, options(None, false)),
            ("null", options(None, false)),
        ] {
            let payload = format!(r#"{{"attributes":{attributes}}}"#);
            assert_eq!(
                Envelope::parse(payload.as_bytes()).unwrap().options,
                want,
                "{payload}"
            );
        }
    }

    #[test]
    fn a_timestamp_is_read_only_from_a_whole_number() {
        for (payload, want) in [
            (r#"{"timestamp":1700000000000}"#, Some(1_700_000_000_000)),
            (r#"{"timestamp":"1700000000000"}"#, None),
            (r#"{"timestamp":1.7e12}"#, None),
            (r#"{"timestamp":-1}"#, None),
            (r#"{"timestamp":99999999999999999999999}"#, None),
            ("{}", None),
        ] {
            assert_eq!(
                Envelope::parse(payload.as_bytes())
                    .unwrap()
                    .timestamp
                    .map(UnixMillis::as_millis),
                want,
                "{payload}"
            );
        }
    }

    #[test]
    fn what_is_no_object_is_told_from_what_is_no_json() {
        for (payload, want) in [
            (&b"[1]"[..], ObjectError::NotAnObject),
            (b"null", ObjectError::NotAnObject),
            (b"\"{}\"", ObjectError::NotAnObject),
            (b"", ObjectError::NotJson),
            (b"hello", ObjectError::NotJson),
            (b"{\"a\":}", ObjectError::NotJson),
            (b"{\"a\":1} x", ObjectError::NotJson),
            (b"{\"a\":\"\xff\"}", ObjectError::NotJson),
            (b"{'a':1}", ObjectError::NotJson),
        ] {
            assert_eq!(
                Envelope::parse(payload).err(),
                Some(want),
                "{}",
                String::from_utf8_lossy(payload)
            );
        }
    }

    #[test]
    fn a_deeply_nested_payload_costs_no_stack() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500_000), "]".repeat(500_000));
        assert!(Envelope::parse(deep.as_bytes()).is_ok());
        assert_eq!(
            Envelope::parse("[".repeat(500_000).as_bytes()).err(),
            Some(ObjectError::NotJson)
        );
    }

    proptest! {
        #[test]
        fn any_object_keeps_its_other_members(
            object in prop::collection::btree_map(
                "[a-zA-Z_\"\\\\\u{e9}]{1,12}",
                "[^\u{0}]{0,12}",
                0..8,
            ),
        ) {
            let payload = serde_json::to_string(&object).unwrap();
            let out: Value = serde_json::from_str(&written(&payload)).unwrap();
            for (key, value) in object {
                if Field::of(&key).is_passed_on() {
                    prop_assert_eq!(&out[&key], &Value::from(value));
                }
            }
        }

        #[test]
        fn no_payload_panics_the_parser(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Envelope::parse(&payload);
        }
    }
}
