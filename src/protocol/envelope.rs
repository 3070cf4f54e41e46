//! A message as it came, and the envelope: a JSON object in which the observer owns some fields and passes the rest on untouched.
//!
//! Nothing is re-serialised: what a client sent is copied as the bytes it sent, in their order, and the observer's own fields
//! are written behind it (`protocol.md`, section 3).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::protocol::id::{AppId, MessageId, UserId};
use crate::protocol::time::UnixMillis;

/// A message as the broker delivered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic, as bytes: RabbitMQ delivers topics that are not UTF-8.
    pub topic: Bytes,
    /// The payload; empty if it is over the limit.
    pub payload: Bytes,
    /// How long the payload was, in bytes.
    pub payload_bytes: usize,
    /// Whether the broker had stored it (RETAIN flag).
    pub retain: bool,
}

impl Received {
    /// A message with its whole payload.
    pub fn new(topic: Bytes, payload: Bytes, retain: bool) -> Self {
        Self {
            topic,
            payload_bytes: payload.len(),
            payload,
            retain,
        }
    }

    /// Lets go of a payload over the limit: it will be refused, and must not fill the memory meanwhile.
    pub fn cut_to(&mut self, max_payload_bytes: usize) {
        if self.payload_bytes > max_payload_bytes {
            self.payload = Bytes::new();
        }
    }
}

/// How far a copy of a message got (`protocol.md`, section 3). A stored status only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It did not get anywhere.
    Failed = -100,
    /// The client is about to send it.
    Sending = 0,
    /// The sender's own copy: the observer has it.
    Sent = 100,
    /// A recipient's copy: it is in his inbox.
    Delivered = 150,
    /// A recipient's client has it.
    Received = 200,
    /// The sender's copy: the recipient's client has it.
    ReturnReceipt = 250,
    /// The recipient has seen it.
    Seen = 300,
}

impl Status {
    /// Every status, lowest first.
    pub const ALL: [Self; 7] = [
        Self::Failed,
        Self::Sending,
        Self::Sent,
        Self::Delivered,
        Self::Received,
        Self::ReturnReceipt,
        Self::Seen,
    ];

    /// The number on the wire.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// The status of that number, if there is one.
    pub fn from_code(code: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }
}

/// Why a payload is no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Not JSON, not UTF-8, or something behind the JSON text.
    #[error("the payload is not JSON")]
    NotJson,
    /// JSON, but not an object.
    #[error("the payload is JSON, but not an object")]
    NotAnObject,
}

/// The fields that are the observer's: what a client sends in them is dropped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    /// Written by the observer, or internal to it.
    Owned,
    /// Owned too, but the client's value is kept if it makes sense.
    Timestamp,
    /// Read, and passed on.
    ChannelType,
    /// Read, and passed on.
    Attributes,
    /// Read, and passed on.
    Group,
    /// Everything else.
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
}

impl<'de> de::Deserialize<'de> for Field {
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
    /// What the client gave as `timestamp`, if it was a whole number.
    pub timestamp: Option<UnixMillis>,
    /// Whether the client says that this is for a group (`"channel_type":"group"`).
    pub says_group: bool,
    /// What the client asks of the observer (`attributes`).
    pub wishes: SendOptions,
    /// The group written into the message itself (`group`), as the client wrote it.
    pub group: Option<&'p RawValue>,
}

/// What a client may ask of the observer in a message's `attributes` (`protocol.md`, section 3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// `hiddenFor`: the member of the group who is not to get the message.
    pub hidden_for: Option<Box<str>>,
    /// `updateconversation` is `false`: the message is not to show in the list of conversations.
    pub unlisted: bool,
}

impl SendOptions {
    /// Reads `attributes`; what is not as it should be asks for nothing.
    pub fn read(attributes: &RawValue) -> Self {
        #[derive(Deserialize)]
        struct Attributes<'a> {
            #[serde(borrow, rename = "hiddenFor")]
            hidden_for: Option<&'a RawValue>,
            updateconversation: Option<&'a RawValue>,
        }
        // Most have neither, and are not worth reading twice; an escape may hide either.
        let text = attributes.get();
        if !text.contains("hiddenFor")
            && !text.contains("updateconversation")
            && !text.contains('\\')
        {
            return Self::default();
        }
        let Ok(read) = serde_json::from_str::<Attributes<'_>>(text) else {
            return Self::default();
        };
        Self {
            hidden_for: read
                .hidden_for
                .and_then(|value| serde_json::from_str(value.get()).ok()),
            unlisted: read
                .updateconversation
                .is_some_and(|value| value.get() == "false"),
        }
    }
}

/// What the observer writes into a copy of a message.
#[derive(Clone, Copy, Debug)]
pub struct Owned<'a> {
    /// The id of this message.
    pub message_id: MessageId,
    /// Who wrote it, by its topic.
    pub sender: UserId<'a>,
    /// Whom it is for, by its topic.
    pub recipient: UserId<'a>,
    /// The tenant, by its topic.
    pub app: AppId<'a>,
    /// When it was written.
    pub timestamp: UnixMillis,
}

struct Reading<'p> {
    source: &'p str,
}

impl<'p> Visitor<'p> for Reading<'p> {
    type Value = Envelope<'p>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'p>>(self, mut map: A) -> Result<Envelope<'p>, A::Error> {
        let mut envelope = Envelope {
            kept: Vec::with_capacity(4),
            timestamp: None,
            says_group: false,
            wishes: SendOptions::default(),
            group: None,
        };
        let mut last_end = 0; // where the previous member ends in the source
        let mut run: Option<usize> = None; // where the run of kept members begins that `last_end` ends
        while let Some(field) = map.next_key::<Field>()? {
            let value: &'p RawValue = map.next_value()?;
            let start = value.get().as_ptr().addr() - self.source.as_ptr().addr();
            match field {
                Field::Owned => {}
                Field::Timestamp => {
                    envelope.timestamp = value.get().parse().ok().map(UnixMillis::new)
                }
                // Decoded, for a client would read "gr\u006fup" as a group too.
                Field::ChannelType => {
                    envelope.says_group |= serde_json::from_str::<String>(value.get())
                        .is_ok_and(|kind| kind == "group")
                }
                // Of two with the same name the last counts, as clients have it.
                Field::Attributes => envelope.wishes = SendOptions::read(value),
                Field::Group => envelope.group = Some(value).filter(|value| value.get() != "null"),
                Field::Other => {}
            }
            if matches!(field, Field::Owned | Field::Timestamp) {
                if let Some(begin) = run.take() {
                    envelope.kept.push(&self.source[begin..last_end]);
                }
            } else if run.is_none() {
                // Between two members stand white space, a comma and the key: its first quote opens the key.
                run = self.source[last_end..start]
                    .find('"')
                    .map(|quote| last_end + quote);
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
    /// [`EnvelopeError`] tells JSON that is no object from what is not JSON.
    pub fn parse(payload: &'p [u8]) -> Result<Self, EnvelopeError> {
        let source = std::str::from_utf8(payload).map_err(|_| EnvelopeError::NotJson)?;
        let mut json = serde_json::Deserializer::from_str(source);
        let envelope = json
            .deserialize_map(Reading { source })
            .and_then(|envelope| json.end().map(|()| envelope));
        envelope.map_err(|_| not_an_object(payload))
    }

    /// Writes the message: the client's members, then the observer's, but for the status, which differs from copy to copy.
    pub fn write(&self, owned: &Owned<'_>) -> Body {
        use std::io::Write;
        let kept: usize = self.kept.iter().map(|run| run.len() + 1).sum();
        let ids =
            owned.sender.as_str().len() + owned.recipient.as_str().len() + owned.app.as_str().len();
        let mut out = Vec::with_capacity(kept + ids + 160);
        out.push(b'{');
        for run in &self.kept {
            out.extend_from_slice(run.as_bytes());
            out.push(b',');
        }
        let written = write!(out, r#""message_id":"{}""#, owned.message_id)
            .and_then(|()| write_text(&mut out, r#","sender":"#, owned.sender.as_str()))
            .and_then(|()| write_text(&mut out, r#","recipient":"#, owned.recipient.as_str()))
            .and_then(|()| write_text(&mut out, r#","app_id":"#, owned.app.as_str()))
            .and_then(|()| write!(out, r#","timestamp":{}}}"#, owned.timestamp.as_millis()));
        written.expect("writing to memory does not fail");
        Body(String::from_utf8(out).expect("JSON is UTF-8"))
    }
}

/// A message without its status: what all its copies have in common, and what is stored once. A JSON object with a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body(String);

impl Body {
    /// Takes over what [`Body::as_str`] gave to the store.
    pub fn from_stored(text: String) -> Self {
        // Somebody may have edited it.
        if text.len() >= 2 && text.starts_with('{') && text.ends_with('}') {
            Self(text)
        } else {
            Self("{}".to_owned())
        }
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A copy with its status.
    pub fn with_status(&self, status: Status) -> Bytes {
        self.with(&format!(r#""status":{}"#, status.code()))
    }

    /// A copy that is published again from the store, at its owner's wish (`protocol.md`, section 4).
    pub fn as_history(&self, status: Status) -> Bytes {
        self.with(&format!(r#""status":{},"__history":true"#, status.code()))
    }

    fn with(&self, members: &str) -> Bytes {
        let open = &self.0[..self.0.len() - 1];
        let comma = if open == "{" { "" } else { "," };
        [open, comma, members, "}"].concat().into()
    }
}

/// A whole message that a service puts into one timeline (`protocol.md`, section 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The message without its status.
    pub body: Body,
    /// The id it came with, if that is a text.
    pub message_id: Option<Box<str>>,
    /// Who wrote it, if it says so.
    pub sender: Option<Box<str>>,
    /// Whom it was written to, if it says so.
    pub recipient: Option<Box<str>>,
    /// What it says of its status.
    pub status: Option<Status>,
    /// What its `attributes` ask for.
    pub wishes: SendOptions,
}

impl Injected {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`EnvelopeError`] tells JSON that is no object from what is not JSON.
    pub fn parse(payload: &[u8]) -> Result<Self, EnvelopeError> {
        let mut members = parse_object(payload)?;
        let text = |value: &RawValue| serde_json::from_str::<Box<str>>(value.get()).ok();
        let status = members
            .remove("status")
            .and_then(|status| status.get().parse().ok());
        let injected = Self {
            message_id: members.get("message_id").and_then(|id| text(id)),
            sender: members.get("sender").and_then(|sender| text(sender)),
            recipient: members.get("recipient").and_then(|to| text(to)),
            status: status.and_then(Status::from_code),
            wishes: members
                .get("attributes")
                .map(|attributes| SendOptions::read(attributes))
                .unwrap_or_default(),
            body: Body(serde_json::to_string(&members).expect("raw members serialise")),
        };
        Ok(injected)
    }

    /// The same message under an id of ours.
    pub fn with_id(self, id: &str) -> Self {
        let mut members = parse_object(self.body.as_str().as_bytes()).expect("it has been parsed");
        members.insert("message_id".to_owned(), raw(&id));
        Self {
            message_id: Some(id.into()),
            body: Body(serde_json::to_string(&members).expect("raw members serialise")),
            ..self
        }
    }
}

/// The members of a JSON object; of two with the same name the last counts.
pub(crate) type Members = BTreeMap<String, Box<RawValue>>;

/// Reads an object without looking into its members: nesting costs no stack.
pub(crate) fn parse_object(payload: &[u8]) -> Result<Members, EnvelopeError> {
    serde_json::from_slice(payload).map_err(|_| not_an_object(payload))
}

/// A value as a member of an object.
pub(crate) fn raw<T: serde::Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("plain values serialise")
}

fn not_an_object(payload: &[u8]) -> EnvelopeError {
    if serde_json::from_slice::<IgnoredAny>(payload).is_ok() {
        EnvelopeError::NotAnObject
    } else {
        EnvelopeError::NotJson
    }
}

fn write_text(out: &mut Vec<u8>, key: &str, text: &str) -> std::io::Result<()> {
    out.extend_from_slice(key.as_bytes());
    serde_json::to_writer(out, text).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::MessageIds;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::hash::RandomState;

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
        let text = written(
            "{ \"z\" : 1.0e2 ,\n\"a\":{\"b\" : [1, 2]}, \"sender\":\"eve\", \"k\\u0065y\":\"\\u00e9\" , \"m\":-0 }",
        );
        assert!(text.starts_with("{\"z\" : 1.0e2 ,\n\"a\":{\"b\" : [1, 2]},\"k\\u0065y\":\"\\u00e9\" , \"m\":-0,\"message_id\":\""), "{text}");
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
        let text = written(
            r#"{"s\u0065nder":"eve","sender":"eve","status":300,"timelineOf":"x","conversWith":"y","message_id":"1","app_id":"z","recipient":"r","timestamp":5,"__history":true,"text":"hi"}"#,
        );
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
        let wishes = |hidden_for: Option<&str>, unlisted| SendOptions {
            hidden_for: hidden_for.map(Into::into),
            unlisted,
        };
        for (attributes, want) in [
            (r#"{"hiddenFor":"bob"}"#, wishes(Some("bob"), false)),
            (
                r#"{"hidden\u0046or":"b\u006fb","x":{"updateconversation":false}}"#,
                wishes(Some("bob"), false),
            ),
            (r#"{"updateconversation":false}"#, wishes(None, true)),
            (r#"{"updateconversation":true}"#, wishes(None, false)),
            (
                r#"{"updateconversation":"false","hiddenFor":7}"#,
                wishes(None, false),
            ),
            (r#"["hiddenFor"]"#, wishes(None, false)),
            ("null", wishes(None, false)),
        ] {
            let payload = format!(r#"{{"attributes":{attributes}}}"#);
            assert_eq!(
                Envelope::parse(payload.as_bytes()).unwrap().wishes,
                want,
                "{payload}"
            );
        }
    }

    #[test]
    fn an_injected_message_keeps_all_but_its_status() {
        let injected =
            Injected::parse(br#"{"message_id":"m","status":150,"text":"x","sender":"s"}"#).unwrap();
        assert_eq!(
            (injected.status, injected.message_id.as_deref()),
            (Some(Status::Delivered), Some("m"))
        );
        assert_eq!(
            injected.body.as_str(),
            r#"{"message_id":"m","sender":"s","text":"x"}"#
        );
        assert_eq!(
            &injected.body.as_history(Status::Seen)[..],
            br#"{"message_id":"m","sender":"s","text":"x","status":300,"__history":true}"#
        );
        let bare = Injected::parse(b"{\"status\":1}").unwrap();
        assert_eq!(
            (bare.status, &bare.body.with_status(Status::Sent)[..]),
            (None, &br#"{"status":100}"#[..])
        );
        assert_eq!(bare.with_id("i").body.as_str(), r#"{"message_id":"i"}"#);
        assert_eq!(Injected::parse(b"[]"), Err(EnvelopeError::NotAnObject));
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
            (&b"[1]"[..], EnvelopeError::NotAnObject),
            (b"null", EnvelopeError::NotAnObject),
            (b"\"{}\"", EnvelopeError::NotAnObject),
            (b"", EnvelopeError::NotJson),
            (b"hello", EnvelopeError::NotJson),
            (b"{\"a\":}", EnvelopeError::NotJson),
            (b"{\"a\":1} x", EnvelopeError::NotJson),
            (b"{\"a\":\"\xff\"}", EnvelopeError::NotJson),
            (b"{'a':1}", EnvelopeError::NotJson),
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
            Some(EnvelopeError::NotJson)
        );
    }

    proptest! {
        #[test]
        fn any_object_keeps_its_other_members(object in prop::collection::btree_map("[a-zA-Z_\"\\\\\u{e9}]{1,12}", "[^\u{0}]{0,12}", 0..8)) {
            let payload = serde_json::to_string(&object).unwrap();
            let out: Value = serde_json::from_str(&written(&payload)).unwrap();
            for (key, value) in object {
                if !matches!(Field::of(&key), Field::Owned | Field::Timestamp) {
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
