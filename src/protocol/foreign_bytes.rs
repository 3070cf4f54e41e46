//! Properties of everything in this folder that reads foreign bytes: it ends, with a value or a
//! reason, and what it lets through is sound.

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::client_reference::ClientReference;
use super::group::{Group, GroupUpdate};
use super::layout::Layout;
use super::mangled::{mangled, mangled_text};
use super::message::Received;
use super::mongo_export::{ImportedConversation, ImportedGroup, ImportedMessage};
use super::request::Request;
use super::testing::{built_in, custom};
use super::topic::{TopicFilter, TopicName};

const TOPICS: &[&str] = &[
    "apps/tilechat/outgoing/users/alice/messages/bob/outgoing",
    "/apps/tilechat/users/alice/bob/messages/outgoing",
    "apps/tilechat/users/alice/messages/group-1/outgoing",
    "apps/tilechat/users/alice/messages/bob/0190-4c/update",
    "apps/tilechat/users/alice/conversations/bob/update",
    "apps/tilechat/users/alice/conversations/bob/archive",
    "apps/tilechat/users/alice/presence/phone",
    "apps/tilechat/users/alice/blocked/bob/update",
    "apps/tilechat/users/alice/inbox/fetch",
    "apps/observer/tilechat/groups/update",
];

const PAYLOADS: &[&str] = &[
    r#"{"text":"hi","sender_fullname":"A","recipient_fullname":"B","type":"text",
        "channel_type":"direct","attributes":{"tempUID":"t-1","projectId":"p"},
        "metadata":{"width":1}}"#,
    r#"{"text":"hi","group":{"name":"g","members":{"alice":1,"bob":1}},"channel_type":"group"}"#,
    r#"{"status":200}"#,
    r#"{"is_new":false,"archived":true}"#,
    r#"{"connected":true}"#,
    r#"{"blocked":true}"#,
    r#"{"since":1700000000000,"limit":100,"after":"0190"}"#,
    r#"{"uid":"group-1","owner":"alice","members":{"alice":1},"appId":"tilechat","name":"g"}"#,
];

const DOCUMENTS: &[&str] = &[
    r#"{"_id":{"$oid":"65a0"},"message_id":"m","sender":"a","recipient":"b","text":"hi",
        "timestamp":1.7E+12,"timelineOf":"a","conversWith":"b","app_id":"tilechat","status":150}"#,
    r#"{"_id":{"$oid":"65a0"},"key":"b","timelineOf":"a","conversWith":"b","app_id":"tilechat",
        "is_new":true,"archived":false,"timestamp":{"$numberLong":"1700000000000"}}"#,
    r#"{"uid":"group-1","owner":"a","members":{"a":1,"b":1},"app_id":"tilechat",
        "createdOn":{"$date":"2024-01-11T00:00:00Z"}}"#,
];

proptest! {
    /// A topic that is read names levels of the topic, and refusals go where nobody's path is read.
    #[test]
    fn topics_and_payloads(topic in mangled(TOPICS), payload in mangled(PAYLOADS)) {
        let map = built_in(Layout::BUILT_IN);
        let received = Received::new(Bytes::from(topic), Bytes::from(payload), false);
        let Ok(topic) = std::str::from_utf8(&received.topic) else { return Ok(()) };
        match map.parse(topic) {
            Ok(address) => {
                prop_assert!(topic.contains(address.app().as_str()));
                prop_assert!(topic.contains(address.other_side()));
                if let Some(answer) = map.rejected_topic(&address) {
                    prop_assert!(TopicName::parse(answer.as_str()).is_ok(), "{answer:?}");
                    prop_assert!(map.parse(answer.as_str()).is_err(), "{answer:?} is read");
                }
                drop(Request::parse(address, &received));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn names_and_filters(text in mangled_text(TOPICS)) {
        if let Ok(name) = TopicName::parse(&text) {
            prop_assert!(!text.contains(['+', '#', '\0']) && name.as_str() == text);
        }
        if let Ok(filter) = TopicFilter::parse(&text) {
            prop_assert!(filter.as_str() == text);
        }
    }

    /// What of a refused payload is told to its sender is JSON, and short.
    #[test]
    fn references_of_clients(payload in mangled(PAYLOADS)) {
        let reference = ClientReference::read(&payload);
        prop_assert!(serde_json::to_string(&reference).unwrap().len() <= 4096);
    }

    #[test]
    fn groups(payload in mangled(PAYLOADS)) {
        if let Ok(update) = GroupUpdate::parse(&payload) {
            let body: Value = serde_json::from_str(&update.body).unwrap();
            prop_assert!(body.is_object());
            prop_assert!(Group::parse(&update.body).is_ok());
        }
    }

    #[test]
    fn exports_of_mongodb(line in mangled(DOCUMENTS)) {
        if let Ok(message) = ImportedMessage::parse(&line) {
            prop_assert!(serde_json::from_str::<Value>(&message.body).unwrap().is_object());
        }
        drop(ImportedConversation::parse(&line));
        if let Ok(group) = ImportedGroup::parse(&line) {
            prop_assert!(serde_json::from_str::<Value>(&group.body).unwrap().is_object());
        }
    }

    /// A layout of an operator: an error, or one whose topics are sound.
    #[test]
    fn templates(
        outgoing in mangled_text(&["/apps/{app}/users/{sender}/{recipient}/messages/outgoing"]),
        inbox in mangled_text(&["/apps/{app}/users/{recipient}/{sender}/messages/clientadded"]),
    ) {
        match custom(&outgoing, &inbox) {
            Ok(layout) => prop_assert!(!layout.name().is_empty()),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
