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

/// Conversations of a user from which on a patch makes none: only messages do, which have a rate.
pub(crate) const MAX_CONVERSATIONS: usize = 10_000;
/// What all patches of a conversation may come to, in bytes of JSON.
const MAX_PATCH_BYTES: usize = 64 << 10;

/// What the plan of a patch or of archiving depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// The conversation. An empty row if none is stored: it may be older than the store, and its
    /// owner still wants to change it.
    pub(super) row: Row,
    /// How many conversations the owner has, if none is stored; at most [`MAX_CONVERSATIONS`].
    others: usize,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        timeline: &Timeline<'_>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (app, owner) = (timeline.app, timeline.inbox_of);
        let (row, others) = match source.conversation(timeline)? {
            Some(row) => (row, 0),
            None => {
                let others = source.count_conversations(app, owner, MAX_CONVERSATIONS)?;
                (Row::default(), others)
            }
        };
        Ok(Self { row, others })
    }

    /// Whoever names ever new conversations must not fill the disk with them.
    fn check_room(&self) -> Result<(), Refusal> {
        match self.others {
            0..MAX_CONVERSATIONS => Ok(()),
            _ => Err(Refusal::TooLarge),
        }
    }
}

/// The fields are stored, and the owner's clients are told.
pub(super) fn plan_patch<'a>(
    timeline: &Timeline<'a>,
    patch: &Patch,
    facts: &Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    facts.check_room()?;
    let (inbox_of, convers_with) = (timeline.inbox_of.as_str(), timeline.convers_with.as_str());
    let patched = facts.row.patched(patch, inbox_of, convers_with);
    // Patches add up: a conversation must not grow without a bound. A row that is over the bound
    // already can be marked read and made smaller.
    let bytes = patched.patch.len();
    let is_over = bytes > context.rules.max_payload_bytes.min(MAX_PATCH_BYTES);
    let has_grown = bytes > facts.row.patch.as_deref().map_or(0, str::len);
    if is_over && has_grown && !patch.is_of_flags() {
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
) -> Result<Plan<'a>, Refusal> {
    facts.check_room()?;
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
    Ok(plan)
}

/// A conversation has left the archive, because of a new message. `row` is what it is now.
pub(crate) fn unarchived(layouts: &TopicMap, timeline: &Timeline<'_>, row: &Row) -> Publish {
    let what = Notification::ArchiveDeleted;
    let row = row.to_json(timeline.inbox_of.as_str(), timeline.convers_with.as_str());
    Publish::new(layouts.notification_topic(what, timeline, ""), row)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::protocol::amqp::BrokerKind;
    use crate::protocol::status::Status;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::policy::{Policy, Rules};
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
    }

    #[test]
    fn a_conversation_does_not_grow_without_bound() {
        let growing = Row {
            patch: Some(json!({ "k": "x".repeat(100) }).to_string().into()),
            ..Row::default()
        };
        let patch = received(
            b"apps/a/users/bob/conversations/alice/update",
            br#"{"a":""}"#,
        );
        let refused = plan_with(router(), &patch, stored(growing));
        assert_eq!(
            refused.refusal,
            Some(Refusal::TooLarge),
            "a row does not grow without bound"
        );
        let mut router = router();
        let rules = Rules {
            max_payload_bytes: 1 << 20,
            ..Rules::default()
        };
        router.policy = Arc::new(Policy::new(BrokerKind::Any, rules));
        let growing = Row {
            patch: Some(
                json!({ "k": "x".repeat(MAX_PATCH_BYTES) })
                    .to_string()
                    .into(),
            ),
            ..Row::default()
        };
        let topic = b"apps/a/users/bob/conversations/alice/update";
        for (patch, refusal) in [
            (r#"{"a":""}"#, Some(Refusal::TooLarge)),
            (r#"{"is_new":"x"}"#, Some(Refusal::TooLarge)),
            (r#"{"is_new":false}"#, None),
            (r#"{"k":""}"#, None),
        ] {
            let plan = plan_with(
                router.clone(),
                &received(topic, patch.as_bytes()),
                stored(growing.clone()),
            );
            assert_eq!(plan.refusal, refusal, "64 KiB at most: {patch}");
        }
    }

    #[test]
    fn no_user_makes_ever_more_conversations_by_naming_them() {
        for (what, payload) in [("update", r#"{"is_new":false}"#), ("archive", "")] {
            let topic = format!("apps/a/users/bob/conversations/alice/{what}");
            let request = received(topic.as_bytes(), payload.as_bytes());
            for (others, row, refusal) in [
                (MAX_CONVERSATIONS - 1, None, None),
                (MAX_CONVERSATIONS, None, Some(Refusal::TooLarge)),
                (MAX_CONVERSATIONS, Some(Row::default()), None),
            ] {
                let conversations = row.map(|row| (("bob", "alice"), row));
                let facts = InMemory {
                    conversations: conversations.into_iter().collect(),
                    conversations_made: others,
                    ..InMemory::default()
                };
                let plan = plan_with(router(), &request, facts);
                assert_eq!(plan.refusal, refusal, "{what} {others}");
            }
        }
    }
}
