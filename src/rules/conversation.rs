//! What a user changes in their list of conversations: a patch, and archiving.
//!
//! Owns who is told (`protocol.md`, section 4, *Conversation patch* and *Archive*). Leaves what a
//! row looks like to [`conversation_row`](crate::rules::conversation_row).

use crate::protocol::address::Timeline;
use crate::protocol::control_topic::Notification;
use crate::protocol::patch::Patch;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::topic_map::TopicMap;
use crate::rules::conversation_row::Row;
use crate::rules::facts::FactSource;
use crate::rules::plan::{Context, Plan};
use crate::rules::webhook_event::{Event, EventKind};
use crate::rules::write::Write;

/// What the plan of a patch or of archiving depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The conversation. An empty row if none is stored: it may be older than the store, and its
    /// owner still wants to change it.
    pub(super) row: Row,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        timeline: &Timeline<'_>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let row = source.conversation(timeline)?.unwrap_or_default();
        Ok(Self { row })
    }
}

/// The fields are stored, and the owner's clients are told.
pub(super) fn plan_patch<'a>(
    timeline: &Timeline<'a>,
    patch: &Patch,
    facts: &Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    let (inbox_of, convers_with) = (timeline.inbox_of.as_str(), timeline.convers_with.as_str());
    let patched = facts.row.patched(patch, inbox_of, convers_with);
    // Patches add up: a conversation must not grow without a bound.
    if patched.patch.len() > context.rules.max_payload_bytes {
        return Err(Refusal::TooLarge);
    }
    let told = patched.told.clone();
    Ok(Plan {
        publishes: vec![context.notify(Notification::Conversation, timeline, told)],
        writes: vec![Write::Patch(*timeline, patched)],
        ..Plan::default()
    })
}

/// The conversation leaves the list and comes into the archive. `topic` is the request's topic
/// name.
pub(super) fn plan_archive<'a>(
    timeline: &Timeline<'a>,
    topic: &str,
    facts: Facts,
    context: &Context<'_>,
) -> Plan<'a> {
    let was_archived = facts.row.archived;
    let row = Row {
        archived: true,
        ..facts.row
    };
    let row = row.to_json(timeline.inbox_of.as_str(), timeline.convers_with.as_str());
    let mut plan = Plan {
        publishes: [
            Notification::ConversationDeleted,
            Notification::ConversationArchived,
        ]
        .map(|what| context.notify(what, timeline, row.clone()))
        .into(),
        writes: vec![Write::Archive(*timeline)],
        ..Plan::default()
    };
    if !was_archived {
        plan.events = context
            .event(EventKind::ConversationArchived, || {
                let basis = context.id.to_string();
                Event::of_archive(*timeline, row, topic, &basis, context.now())
            })
            .into_iter()
            .collect();
    }
    plan
}

/// A conversation has left the archive, because of a new message. `row` is what it is now.
pub(crate) fn unarchived(layouts: &TopicMap, timeline: &Timeline<'_>, row: &Row) -> Publish {
    let what = Notification::ArchiveDeleted;
    let row = row.to_json(timeline.inbox_of.as_str(), timeline.convers_with.as_str());
    Publish::new(layouts.notification_topic(what, timeline, ""), row)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::status::Status;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::test_support::{body, plan_with, received, router};
    use serde_json::json;

    /// A conversation of bob with alice.
    fn stored(row: Row) -> InMemory {
        InMemory {
            conversations: [(("bob", "alice"), row)].into(),
            ..InMemory::default()
        }
    }

    #[test]
    fn a_conversation_is_patched_and_archived_for_its_owner_alone() {
        let row = Row {
            last: Some((r#"{"text":"hi"}"#.into(), Status::Delivered)),
            is_new: true,
            ..Row::default()
        };
        let patch = received(
            b"apps/a/users/bob/conversations/alice/update",
            br#"{"is_new":false}"#,
        );
        let patched = plan_with(router(), &patch, stored(row.clone()));
        assert_eq!(
            patched.publishes[0].topic.as_str(),
            "apps/a/users/bob/conversations/alice/clientupdated"
        );
        assert_eq!(
            body(&patched.publishes[0]),
            json!({"is_new": false, "timelineOf": "bob", "conversWith": "alice"})
        );
        let archive = received(b"apps/a/users/bob/conversations/alice/archive", b"whatever");
        let archived = plan_with(router(), &archive, stored(row));
        let topics: Vec<_> = archived
            .publishes
            .iter()
            .map(|publish| publish.topic.as_str())
            .collect();
        assert_eq!(
            topics,
            [
                "apps/a/users/bob/conversations/alice/clientdeleted",
                "apps/a/users/bob/archived_conversations/alice/clientadded"
            ]
        );
        for whole in &archived.publishes {
            assert_eq!(
                (&body(whole)["archived"], &body(whole)["last_message_text"]),
                (&json!(true), &json!("hi"))
            );
        }
        let unknown = plan_with(router(), &archive, InMemory::default());
        assert_eq!(
            body(&unknown.publishes[0]),
            json!({
                "archived": true, "is_new": false,
                "conversWith": "alice", "key": "alice", "timelineOf": "bob"
            })
        );
        let growing = Row {
            patch: Some(json!({ "k": "x".repeat(100) }).to_string().into()),
            ..Row::default()
        };
        let refused = plan_with(router(), &patch, stored(growing));
        assert_eq!(
            refused.refusal,
            Some(Refusal::TooLarge),
            "a row does not grow without bound"
        );
    }
}
