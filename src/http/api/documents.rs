//! Messages and conversations as clients of the API get them (chapter *http-api*).
//!
//! Owns their form, and the order within a page. A page has some hundred of them: what is stored is
//! copied as it is where it can be, and not taken apart.

use std::cmp::Ordering;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use serde_json::value::RawValue;

use crate::protocol::address::Timeline;
use crate::protocol::json::{Members, parse_object, raw};
use crate::protocol::message_id::MessageId;
use crate::rules::listing::{ListedConversation, ListedMessage};

/// An object in JSON, and the time that it bears.
pub(super) struct Document {
    pub(super) json: String,
    time: Option<f64>,
}

impl From<Members> for Document {
    fn from(members: Members) -> Self {
        let time = members.get("timestamp");
        Self {
            time: time.and_then(|time| time.get().parse().ok()),
            json: serde_json::to_string(&members).expect("raw members serialise"),
        }
    }
}

/// Members that are looked at one by one. A message with more is taken apart.
const MOST: usize = 64;

/// Marks a copy that was fetched over MQTT. A service that writes down what it got may leave it in.
const HISTORY: &str = "__history";

/// What stock clients take for texts without asking: another value ends their list.
const NAMES: [&str; 2] = ["recipient_fullname", "sender_fullname"];

/// What a copy, or the row of a list, has for itself.
const OWN: [&str; 8] = [
    HISTORY,
    "archived",
    "conversWith",
    "is_new",
    "key",
    "last_message_text",
    "status",
    "timelineOf",
];

/// What is looked for in a stored message.
#[derive(Default)]
struct Seen<'a> {
    timestamp: Option<&'a RawValue>,
    attributes: Option<&'a RawValue>,
    text: Option<&'a RawValue>,
    sender: Option<&'a RawValue>,
    recipient: Option<&'a RawValue>,
    channel_type: Option<&'a RawValue>,
    /// Whether something that each copy has for itself is written into the message, as a service
    /// may do; or a member is there twice, or a name is no text, as a client may write it.
    is_odd: bool,
}

impl<'de> Deserialize<'de> for Seen<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Look;

        impl<'de> Visitor<'de> for Look {
            type Value = Seen<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Seen<'de>, A::Error> {
                let mut seen = Seen::default();
                let mut names: Vec<&str> = Vec::with_capacity(MOST);
                // A name with an escape cannot be borrowed: the message is taken apart.
                while let Some(name) = map.next_key::<&str>()? {
                    seen.is_odd |= names.len() == MOST || names.contains(&name);
                    names.truncate(MOST - 1);
                    names.push(name);
                    match name {
                        "timestamp" => seen.timestamp = Some(map.next_value()?),
                        "attributes" => seen.attributes = Some(map.next_value()?),
                        "text" => seen.text = Some(map.next_value()?),
                        "sender" => seen.sender = Some(map.next_value()?),
                        "recipient" => seen.recipient = Some(map.next_value()?),
                        "channel_type" => seen.channel_type = Some(map.next_value()?),
                        name if NAMES.contains(&name) => {
                            seen.is_odd |= !is_text(map.next_value()?);
                        }
                        name => {
                            seen.is_odd |= OWN.contains(&name);
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(seen)
            }
        }

        deserializer.deserialize_map(Look)
    }
}

/// A message in one timeline.
pub(super) fn message(timeline: &Timeline<'_>, message: &ListedMessage) -> Document {
    let (of, with) = (timeline.inbox_of.as_str(), timeline.convers_with.as_str());
    let status = message.status.code();
    if let Some(Plain { head, time, .. }) = plain(&message.body) {
        let [of, with] = [of, with].map(raw);
        let json = format!(
            r#"{head},"status":{status},"timelineOf":{},"conversWith":{}}}"#,
            of.get(),
            with.get()
        );
        return Document { json, time };
    }
    let mut members = parse_object(message.body.as_bytes()).unwrap_or_default();
    members.insert("status".to_owned(), raw(&status));
    members.insert("timelineOf".to_owned(), raw(of));
    members.insert("conversWith".to_owned(), raw(with));
    with_attributes(members).into()
}

/// A stored message, if all that it lacks can be written behind it.
struct Plain<'a> {
    /// Up to its closing brace.
    head: &'a str,
    time: Option<f64>,
    text: Option<&'a RawValue>,
    /// Whether it has what the row of a list must have.
    is_listable: bool,
}

fn plain(body: &str) -> Option<Plain<'_>> {
    let seen: Seen<'_> = serde_json::from_str(body).ok()?;
    let is_plain = seen.attributes.is_some_and(is_object) && !seen.is_odd;
    let must = [
        seen.sender,
        seen.recipient,
        seen.timestamp,
        seen.channel_type,
        seen.text.filter(|text| is_text(text)),
    ];
    Some(Plain {
        is_listable: must.into_iter().all(is_set),
        head: body.trim_end().strip_suffix('}').filter(|_| is_plain)?,
        time: seen.timestamp.and_then(|time| time.get().parse().ok()),
        text: seen.text,
    })
}

/// A group, as it is stored, with what stock clients know it by, which an operator need not write;
/// and without the label of its last change, which is none of its fields. `None`: it is no object.
pub(super) fn group(app: &str, id: &str, body: String) -> Option<Box<RawValue>> {
    let mut members = parse_object(body.as_bytes()).ok()?;
    let label = members.remove("notification");
    let lacks = |name: &str| !members.contains_key(name);
    let lacking: Vec<_> = [
        ("uid", json!(id)),
        ("appId", json!(app)),
        ("members", json!({})),
    ]
    .into_iter()
    .filter(|(name, _)| lacks(name))
    .collect();
    if label.is_none() && lacking.is_empty() {
        return RawValue::from_string(body).ok();
    }
    let lacking = lacking.into_iter();
    members.extend(lacking.map(|(name, value)| (name.to_owned(), raw(&value))));
    serde_json::value::to_raw_value(&members).ok()
}

/// A conversation in a user's list.
pub(super) fn conversation(user: &str, listed: &ListedConversation) -> Document {
    let (row, with) = (&listed.row, &*listed.convers_with);
    if let Some((body, status)) = row.last.as_ref().filter(|_| row.is_only_flagged())
        && let Some(plain) = plain(body).filter(|plain| plain.is_listable)
    {
        let Plain {
            head, time, text, ..
        } = plain;
        let (is_new, archived) = (row.is_new, row.archived);
        let [of, with] = [user, with].map(raw);
        let last = text.map(|text| format!(r#","last_message_text":{}"#, text.get()));
        let json = format!(
            r#"{head}{},"status":{},"is_new":{is_new},"archived":{archived},"key":{},"#,
            last.unwrap_or_default(),
            status.code(),
            with.get()
        );
        let json = json
            + &format!(
                r#""timelineOf":{},"conversWith":{}}}"#,
                of.get(),
                with.get()
            );
        return Document { json, time };
    }
    listable(row.fields(user, with), user, with).into()
}

/// A row with all that it must have: stock clients drop one that lacks any of it, and some all that
/// follow it. A message need not have it: a client may leave the type out, and a service may store
/// what it likes.
fn listable(mut members: Members, user: &str, with: &str) -> Members {
    let text = |members: &Members, name: &str| {
        let value = members.get(name);
        value.and_then(|value| serde_json::from_str::<String>(value.get()).ok())
    };
    let is_group = with.contains("group-");
    let recipient = text(&members, "recipient").unwrap_or_else(|| match text(&members, "sender") {
        Some(sender) if sender == user || is_group => with.to_owned(),
        Some(_) | None => user.to_owned(),
    });
    let sender = text(&members, "sender").unwrap_or_else(|| match recipient == with {
        true => user.to_owned(),
        false => with.to_owned(),
    });
    // What somebody else wrote to the other side is in this inbox only if that is a group.
    let is_group = is_group || (recipient == with && sender != user);
    let id = text(&members, "message_id").and_then(|id| MessageId::parse(&id));
    let time = id.map_or(0, |id| id.time().as_millis());
    for (name, value) in [
        (
            "channel_type",
            raw(if is_group { "group" } else { "direct" }),
        ),
        ("recipient", raw(&*recipient)),
        ("sender", raw(&*sender)),
        ("timestamp", raw(&time)),
    ] {
        if !is_set(members.get(name).map(|value| &**value)) {
            members.insert(name.to_owned(), value);
        }
    }
    let shown = members.get("last_message_text");
    if !shown.is_some_and(|shown| is_text(shown)) {
        let text = text(&members, "text").unwrap_or_default();
        members.insert("last_message_text".to_owned(), raw(&*text));
    }
    with_attributes(members)
}

fn is_text(value: &RawValue) -> bool {
    value.get().starts_with('"')
}

fn is_set(value: Option<&RawValue>) -> bool {
    value.is_some_and(|value| value.get() != "null")
}

/// The same with an object in `attributes`, which the stock widget looks into without asking, and
/// with nothing that clients cannot take.
fn with_attributes(mut members: Members) -> Members {
    members.remove(HISTORY);
    for name in NAMES {
        if members.get(name).is_some_and(|value| !is_text(value)) {
            members.remove(name);
        }
    }
    let attributes = members.get("attributes");
    if !attributes.is_some_and(|value| is_object(value)) {
        members.insert("attributes".to_owned(), raw(&Empty {}));
    }
    members
}

fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

#[derive(serde::Serialize)]
struct Empty {}

/// Newest first, by the time that the messages bear; those of one time as they were stored.
pub(super) fn sort_newest_first(documents: &mut [Document]) {
    documents.sort_by(|one, other| {
        let order = other.time.partial_cmp(&one.time);
        order.unwrap_or(Ordering::Equal)
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::id::{AppId, UserId};
    use crate::protocol::status::Status;
    use crate::rules::conversation_row::Row;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NAMES: &str = "[a-z]{1,6}|attributes|timestamp";

    fn told(body: &str) -> Value {
        let user = |id| UserId::parse(id).unwrap();
        let timeline = Timeline {
            app: AppId::parse("a").unwrap(),
            inbox_of: user("bo\"b"),
            convers_with: user("alice"),
        };
        let listed = ListedMessage {
            body: body.into(),
            status: Status::Delivered,
        };
        let json = message(&timeline, &listed).json;
        let read: Value = serde_json::from_str(&json).unwrap();
        // As many names as members: none is there twice.
        let names = read.as_object().unwrap().keys();
        let count = |name: &str| json.matches(&format!("{}:", json!(name))).count();
        let nested = json.contains("k");
        assert!(
            nested || names.into_iter().all(|name| count(name) == 1),
            "{json}"
        );
        read
    }

    #[test]
    fn a_message_has_what_belongs_to_its_copy_once() {
        let own = json!({"status": 150, "timelineOf": "bo\"b", "conversWith": "alice"});
        for (body, attributes) in [
            (r#"{"text":"x","attributes":{"k":1}}"#, json!({"k": 1})),
            (r#"{"text":"x","attributes":{"k":1}} "#, json!({"k": 1})),
            (r#"{"text":"x"}"#, json!({})),
            (r#"{"text":"x","attributes":null}"#, json!({})),
            (r#"{"text":"x","attributes":"odd"}"#, json!({})),
            (r#"{"text":"x","attributes":{},"status":7}"#, json!({})),
            (
                r#"{"text":"x","attributes":{},"timelineOf":null}"#,
                json!({}),
            ),
            (
                r#"{"text":"x","attributes":{},"conversWith":"eve"}"#,
                json!({}),
            ),
            (r#"{"text":"x","text":"x","attributes":{}}"#, json!({})),
            (
                r#"{"text":"x","attributes":{"k":1},"attributes":{}}"#,
                json!({}),
            ),
        ] {
            let mut wanted = own.clone();
            wanted["text"] = "x".into();
            wanted["attributes"] = attributes;
            assert_eq!(told(body), wanted, "{body}");
        }
        // Somebody may have edited it by hand.
        assert_eq!(told("no json")["status"], 150);
        assert_eq!(told("{}")["attributes"], json!({}));
    }

    proptest! {
        #[test]
        fn both_ways_come_to_the_same(
            members in proptest::collection::btree_map(NAMES, ".{0,5}", 0..6),
            object in any::<bool>(),
        ) {
            let mut body = json!(members);
            if object {
                body["attributes"] = json!({"k": [1, {"}": "\u{7d}"}]});
            }
            let mut wanted = body.clone();
            wanted["status"] = 150.into();
            wanted["timelineOf"] = "bo\"b".into();
            wanted["conversWith"] = "alice".into();
            if !wanted["attributes"].is_object() {
                wanted["attributes"] = json!({});
            }
            prop_assert_eq!(told(&body.to_string()), wanted);
        }
    }

    proptest! {
        #[test]
        fn a_row_comes_to_the_same_as_taken_apart(
            members in proptest::collection::btree_map(
                "[a-z]{1,6}|attributes|timestamp|text|key|is_new|sender|recipient", ".{0,5}", 0..6
            ),
            is_whole in any::<bool>(),
            object in any::<bool>(),
            flags in any::<[bool; 3]>(),
            patch in proptest::option::of(proptest::collection::btree_map(
                "[a-z]{1,2}|is_new|archived|text", any::<bool>(), 0..3
            )),
        ) {
            let mut body = json!(members);
            if object {
                body["attributes"] = json!({"k": [1, {"}": "\u{7d}"}]});
            }
            if is_whole {
                for name in ["sender", "recipient", "timestamp", "channel_type", "text"] {
                    body[name] = "x".into();
                }
            }
            let [is_new, archived, patch_is_older] = flags;
            let row = Row {
                last: Some((body.to_string().into(), Status::Delivered)),
                is_new,
                archived,
                patch: patch.map(|patch| json!(patch).to_string().into()),
                patch_is_older,
            };
            let wanted = listable(row.fields("bo\"b", "alice"), "bo\"b", "alice");
            let wanted = serde_json::to_value(&wanted).unwrap();
            let listed = ListedConversation {
                convers_with: "alice".into(),
                row,
            };
            let json = conversation("bo\"b", &listed).json;
            let read: Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(&read, &wanted);
            // As many members as names: none is there twice.
            let Count(members) = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(members, read.as_object().unwrap().len());
        }
    }

    #[test]
    fn a_group_has_what_it_is_known_by_and_no_label() {
        let told = |body: &str| group("a", "g", body.to_owned()).map(|told| told.get().to_owned());
        let whole = r#"{"uid":"g","name":"n", "appId":"a","members":{"u":1}}"#;
        assert_eq!(told(whole), Some(whole.to_owned()));
        let wanted = Some(r#"{"appId":"a","members":{},"name":"n","uid":"g"}"#.to_owned());
        assert_eq!(told(r#"{"name":"n"}"#), wanted);
        assert_eq!(told(r#"{"name":"n","uid":"g","notification":{}}"#), wanted);
        assert_eq!(told("no json"), None);
    }

    #[test]
    fn a_row_has_a_text_and_names_that_are_texts() {
        for (body, text) in [
            (json!({"type": "image"}), json!("")),
            (json!({"text": null, "recipient_fullname": 7}), json!("")),
            (json!({"text": 7}), json!("")),
            (json!({"text": "hi", "sender_fullname": 5}), json!("hi")),
            (json!({"text": "hi", "__history": true}), json!("hi")),
        ] {
            let mut body = body;
            for name in ["sender", "recipient", "channel_type"] {
                body[name] = json!("x");
            }
            (body["timestamp"], body["attributes"]) = (json!(7), json!({}));
            let listed = ListedConversation {
                convers_with: "alice".into(),
                row: Row {
                    last: Some((body.to_string().into(), Status::Delivered)),
                    ..Row::default()
                },
            };
            let row: Value = serde_json::from_str(&conversation("bob", &listed).json).unwrap();
            assert_eq!(row["last_message_text"], text, "{row}");
            for name in ["recipient_fullname", "sender_fullname", "__history"] {
                assert!(row.get(name).is_none(), "{row}");
            }
        }
    }

    #[test]
    fn a_row_has_what_stock_clients_cannot_do_without() {
        let id = "01a2056d-7ec8-7000-902e-986e2c334079";
        let listed = |with: &str, body: Value| {
            let listed = ListedConversation {
                convers_with: with.into(),
                row: Row {
                    last: Some((body.to_string().into(), Status::Delivered)),
                    ..Row::default()
                },
            };
            let row: Value = serde_json::from_str(&conversation("bob", &listed).json).unwrap();
            let text = |name: &str| row[name].as_str().unwrap().to_owned();
            let names = ["sender", "recipient", "channel_type"].map(text);
            (names, row["timestamp"].as_u64().unwrap())
        };
        let names = |sender: &str, recipient: &str, kind: &str| {
            [sender, recipient, kind].map(str::to_owned)
        };
        let bare = |sender: &str, recipient: &str| {
            let (from, to) = (sender, recipient);
            json!({"sender": from, "recipient": to, "timestamp": 7})
        };
        for (with, body, wanted) in [
            (
                "alice",
                bare("alice", "bob"),
                names("alice", "bob", "direct"),
            ),
            (
                "alice",
                bare("bob", "alice"),
                names("bob", "alice", "direct"),
            ),
            (
                "crew",
                bare("alice", "crew"),
                names("alice", "crew", "group"),
            ),
            (
                "group-1",
                bare("bob", "group-1"),
                names("bob", "group-1", "group"),
            ),
        ] {
            assert_eq!(listed(with, body), (wanted, 7));
        }
        let injected = json!({"status": 150, "message_id": id, "sender": null});
        let wanted = names("alice", "bob", "direct");
        assert_eq!(listed("alice", injected), (wanted, 0x01a2_056d_7ec8));
        let injected = json!({"sender": "al", "timestamp": 7});
        assert_eq!(
            listed("group-1", injected).0,
            names("al", "group-1", "group")
        );
        // What is there stays.
        let mut odd = bare("alice", "bob");
        odd["channel_type"] = "odd".into();
        assert_eq!(listed("alice", odd).0, names("alice", "bob", "odd"));
    }

    /// How many members an object has, those of one name counted one by one.
    struct Count(usize);

    impl<'de> Deserialize<'de> for Count {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Counts;

            impl<'de> Visitor<'de> for Counts {
                type Value = Count;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Count, A::Error> {
                    let mut count = 0;
                    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
                        count += 1;
                    }
                    Ok(Count(count))
                }
            }

            deserializer.deserialize_map(Counts)
        }
    }

    #[test]
    fn a_page_is_sorted_by_the_times_of_its_messages() {
        let document = |time: &str| Document {
            json: time.to_owned(),
            time: time.parse().ok(),
        };
        let mut page = ["5", "none", "7", "1"].map(document);
        sort_newest_first(&mut page);
        let order: Vec<_> = page.iter().map(|document| &*document.json).collect();
        assert_eq!(order, ["7", "5", "1", "none"]);
    }
}
