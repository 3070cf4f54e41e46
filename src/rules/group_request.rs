//! A service asks for a change of a group, over the broker.
//!
//! Owns its payload, on the topic of group updates, and what is done of it: the same, in the same
//! order, as for an administrator who asks over HTTP.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::address::Address;
use crate::protocol::group_change::GroupChange;
use crate::protocol::id::UserId;
use crate::protocol::message::Received;
use crate::protocol::topic::TopicName;
use crate::protocol::topic_map::TopicMap;
use crate::rules::group_telling::{Announcement, SYSTEM};
use crate::rules::plan::json;
use crate::rules::submission::{Authority, Submission, Submitted, Task};

/// The payload.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupRequest {
    /// What is to become of the group. Comes first, so that people see it.
    pub change: GroupChange,
    /// The group's identifier.
    pub group: Box<str>,
    /// The messages that tell of the change, in order.
    #[serde(default)]
    pub told: Vec<Announcement>,
}

impl GroupRequest {
    /// As it travels.
    pub fn to_payload(&self) -> Bytes {
        json(self)
    }

    /// What is to be done for it. `outgoing`: where [`SYSTEM`] writes to the group.
    fn submission(self, outgoing: &TopicName) -> Submission {
        let part = |payload: Bytes, task| Submitted {
            received: Received::new(
                Bytes::copy_from_slice(outgoing.as_str().as_bytes()),
                payload,
                false,
            ),
            task,
        };
        let mut messages = group_parts(self.change)
            .into_iter()
            .map(|(payload, task)| part(payload.into(), task))
            .collect::<Vec<_>>();
        messages.extend(self.told.into_iter().map(|told| {
            let payload = told.message.get().to_owned().into();
            part(payload, Task::Announcement(told.only_if))
        }));
        Submission {
            authority: Authority::Admin,
            recipients: 0,
            messages,
        }
    }
}

/// The change itself, and the history for those who join by it, each with its payload: the checks
/// of size and depth go by that.
pub fn group_parts(change: GroupChange) -> Vec<(String, Task)> {
    let checked = match &change {
        GroupChange::SetAttributes(attributes) => Some(attributes),
        GroupChange::Create { attributes, .. } => attributes.as_ref(),
        GroupChange::Replace(body) => Some(body),
        GroupChange::Rename(_)
        | GroupChange::Add(_)
        | GroupChange::SetMembers(_)
        | GroupChange::Remove(_) => None,
    };
    let payload = checked.map_or("{}".to_owned(), |checked| {
        format!("{{\"attributes\":{checked}}}")
    });
    let has_history = match change {
        GroupChange::Add(_) | GroupChange::SetMembers(_) | GroupChange::Replace(_) => true,
        GroupChange::Create { .. }
        | GroupChange::Rename(_)
        | GroupChange::SetAttributes(_)
        | GroupChange::Remove(_) => false,
    };
    let mut parts = vec![(payload, Task::Change(change))];
    if has_history {
        parts.push(("{}".to_owned(), Task::History));
    }
    parts
}

/// Whether a change can be asked for over the broker, which may deliver it again after others.
fn is_repeatable(change: &GroupChange) -> bool {
    match change {
        GroupChange::Add(_) | GroupChange::Remove(_) | GroupChange::Replace(_) => true,
        GroupChange::Create { .. }
        | GroupChange::Rename(_)
        | GroupChange::SetAttributes(_)
        | GroupChange::SetMembers(_) => false,
    }
}

/// What is to be done for a message on the topic of group updates, if it asks for a change. Any
/// other message, and one that cannot be read, is taken for what its topic says.
pub fn submission(
    layouts: &TopicMap,
    address: Option<&Address<'_>>,
    received: &Received,
) -> Option<Submission> {
    let Some(Address::Groups { app }) = address else {
        return None;
    };
    // A payload that was cut, and a retained message, are refused.
    if received.retain || received.payload.len() < received.payload_bytes {
        return None;
    }
    let request: GroupRequest = serde_json::from_slice(&received.payload).ok()?;
    if !is_repeatable(&request.change) {
        return None;
    }
    let system = UserId::parse(SYSTEM).ok()?;
    let outgoing = layouts.outgoing_topic(*app, system, UserId::parse(&request.group).ok()?)?;
    Some(request.submission(&outgoing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::json::raw;
    use crate::rules::test_support::router;

    fn asked(payload: Bytes) -> Option<Submission> {
        let router = router();
        let received = Received::new("apps/observer/a/groups/update".into(), payload, false);
        submission(
            &router.layouts,
            router.address(&received).as_ref(),
            &received,
        )
    }

    #[test]
    fn a_request_becomes_what_an_administrator_hands_in() {
        let told = Announcement {
            message: raw("x"),
            only_if: Some("carol".into()),
        };
        let request = |change| GroupRequest {
            change,
            group: "group-1".into(),
            told: vec![told.clone()],
        };
        let submission = asked(request(GroupChange::Add("carol".into())).to_payload()).unwrap();
        assert_eq!(submission.authority, Authority::Admin);
        let tasks: Vec<_> = submission.messages.iter().map(|part| &part.task).collect();
        assert!(
            matches!(
                &tasks[..],
                [Task::Change(GroupChange::Add(member)), Task::History, Task::Announcement(Some(_))]
                    if **member == *"carol"
            ),
            "{tasks:?}"
        );
        for part in &submission.messages {
            let topic = "apps/a/outgoing/users/system/messages/group-1/outgoing";
            assert_eq!(&part.received.topic[..], topic.as_bytes());
        }
        let body = raw(&serde_json::json!({"members": {"a": 1}}));
        let whole = asked(request(GroupChange::Replace(body)).to_payload()).unwrap();
        assert_eq!(
            &whole.messages[0].received.payload[..],
            br#"{"attributes":{"members":{"a":1}}}"#
        );
    }

    #[test]
    fn any_other_message_is_what_its_topic_says() {
        for payload in [
            r#"{"group":{"uid":"group-1","members":{}},"notify_to":{}}"#,
            r#"{"change":{"add":"carol"},"group":"a/b"}"#,
            r#"{"change":{"nothing":1},"group":"group-1"}"#,
            r#"{"change":{"create":{"name":"n","owner":"a","members":["a"]}},"group":"group-1"}"#,
            r#"{"change":{"rename":"n"},"group":"group-1"}"#,
            r#"{"change":{"set-attributes":{}},"group":"group-1"}"#,
            r#"{"change":{"set-members":["a"]},"group":"group-1"}"#,
            "x",
        ] {
            assert!(asked(payload.into()).is_none(), "{payload}");
        }
    }
}
