//! The answer of the decision service, and what it means for a message.
//!
//! Owns reading it. It does no I/O.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Verdict;
use crate::protocol::json::{parse_object, raw};
use crate::protocol::refusal::{Refusal, Refused};

/// The answer on the wire.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    decision: Decision,
    reason: Option<String>,
    detail: Option<Box<str>>,
    text: Option<Box<RawValue>>,
    attributes: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Decision {
    Allow,
    Refuse,
    Replace,
}

/// An attribute that clients give each message.
const TEMPORARY_ID: &str = "tempUID";

const FORM: &str = "its answer is not such as {\"decision\":\"allow\"}, \"refuse\" with \
    \"reason\" and \"detail\", or \"replace\" with \"text\" and \"attributes\"";

/// Why an answer is not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// It has another form than an answer.
    #[error("{FORM} (line {line}, column {column})")]
    Form { line: usize, column: usize },
    /// The word is not a reason, or is `blocked`, which the sender must not be told.
    #[error("{0:?} is no reason for a refusal of its")]
    Reason(String),
    /// There are no fields to replace.
    #[error("it replaces words of a message that is no JSON object")]
    NothingToReplace,
}

/// Reads an answer about a message with this payload.
pub(super) fn read(answer: &[u8], payload: &Bytes) -> Result<Verdict, AnswerError> {
    let answer: Answer = serde_json::from_slice(answer).map_err(|error| AnswerError::Form {
        line: error.line(),
        column: error.column(),
    })?;
    match answer.decision {
        Decision::Allow => Ok(Verdict::Pass),
        Decision::Refuse => Ok(Verdict::Refuse(Refused {
            detail: answer.detail,
            ..reason(answer.reason)?.into()
        })),
        Decision::Replace => {
            let members = parse_object(payload);
            let mut members = members.map_err(|_| AnswerError::NothingToReplace)?;
            if let Some(text) = answer.text {
                members.insert("text".to_owned(), text);
            }
            if let Some(attributes) = answer.attributes {
                let kept = temporary_id(members.get("attributes").map(AsRef::as_ref));
                let attributes = with_temporary_id(attributes, kept);
                members.insert("attributes".to_owned(), attributes);
            }
            Ok(Verdict::Replace(raw(&members).get().to_owned().into()))
        }
    }
}

/// What the sender's client recognises its own message by.
fn temporary_id(attributes: Option<&RawValue>) -> Option<Box<RawValue>> {
    let mut members = parse_object(attributes?.get().as_bytes()).ok()?;
    members.remove(TEMPORARY_ID)
}

/// The same attributes with the id of the message that they are for, unless they name one. Without
/// it the client would show the message twice.
fn with_temporary_id(attributes: Box<RawValue>, id: Option<Box<RawValue>>) -> Box<RawValue> {
    let (Some(id), Ok(mut members)) = (id, parse_object(attributes.get().as_bytes())) else {
        return attributes;
    };
    members.entry(TEMPORARY_ID.to_owned()).or_insert(id);
    raw(&members)
}

fn reason(word: Option<String>) -> Result<Refusal, AnswerError> {
    let Some(word) = word else {
        return Ok(Refusal::Unauthorized);
    };
    match word.parse::<Refusal>() {
        Ok(Refusal::Blocked) | Err(_) => Err(AnswerError::Reason(word)),
        Ok(reason) => Ok(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn verdict(answer: &Value) -> Result<Verdict, AnswerError> {
        let payload = Bytes::from_static(br#"{"text":"bad words","n":1,"text":"twice"}"#);
        read(answer.to_string().as_bytes(), &payload)
    }

    #[test]
    fn new_attributes_leave_a_message_what_its_client_knows_it_by() {
        let payload = br#"{"text":"a","attributes":{"tempUID":"mine","old":1}}"#;
        for (attributes, wanted) in [
            (json!({}), json!({"tempUID": "mine"})),
            (json!({"new": 2}), json!({"new": 2, "tempUID": "mine"})),
            (json!({"tempUID": "other"}), json!({"tempUID": "other"})),
            (json!("no object"), json!("no object")),
        ] {
            let answer = json!({"decision": "replace", "attributes": attributes});
            let read = read(answer.to_string().as_bytes(), &Bytes::from_static(payload));
            let Ok(Verdict::Replace(payload)) = read else {
                panic!("{read:?}");
            };
            let members: Value = serde_json::from_slice(&payload).unwrap();
            assert_eq!(members, json!({"text": "a", "attributes": wanted}));
        }
    }

    #[test]
    fn answers_are_read_or_named() {
        assert_eq!(verdict(&json!({"decision": "allow"})), Ok(Verdict::Pass));
        let refused = |reason: Refusal, detail: Option<&str>| {
            Ok(Verdict::Refuse(Refused {
                detail: detail.map(Into::into),
                ..reason.into()
            }))
        };
        assert_eq!(
            verdict(&json!({"decision": "refuse"})),
            refused(Refusal::Unauthorized, None)
        );
        assert_eq!(
            verdict(&json!({"decision": "refuse", "reason": "banned", "detail": "spam"})),
            refused(Refusal::Banned, Some("spam"))
        );
        let replaced =
            verdict(&json!({"decision": "replace", "text": "***", "attributes": {"a": 1}}));
        let Ok(Verdict::Replace(payload)) = replaced else {
            panic!("{replaced:?}")
        };
        assert_eq!(
            serde_json::from_slice::<Value>(&payload).unwrap(),
            json!({"text": "***", "n": 1, "attributes": {"a": 1}})
        );
        assert!(!String::from_utf8_lossy(&payload).contains("twice"));
        for (faulty, said) in [
            (
                json!({"decision": "refuse", "reason": "blocked"}),
                "\"blocked\"",
            ),
            (json!({"decision": "refuse", "reason": "mood"}), "\"mood\""),
            (json!({"decision": "perhaps"}), "is not such as"),
            (json!({"allow": true}), "is not such as"),
            (json!([]), "is not such as"),
        ] {
            let error = verdict(&faulty).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let bytes = Bytes::from_static(b"\xff");
        assert!(read(br#"{"decision":"replace","text":"x"}"#, &bytes).is_err());
    }

    proptest::proptest! {
        /// What a service replaces is a message still.
        #[test]
        fn mangled_answers(answer in crate::protocol::mangled::mangled(&[
            r#"{"decision":"allow"}"#,
            r#"{"decision":"refuse","reason":"banned","detail":"spam"}"#,
            r#"{"decision":"replace","text":"***","attributes":{"a":[1,{"b":null}]}}"#,
        ])) {
            let payload = Bytes::from_static(br#"{"text":"bad words","n":1}"#);
            match read(&answer, &payload) {
                Ok(Verdict::Replace(payload)) => {
                    let members = parse_object(&payload).unwrap();
                    proptest::prop_assert_eq!(members["n"].get(), "1");
                }
                Ok(_) => {}
                Err(error) => proptest::prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
