//! A receipt: a user has received or seen a message.
//!
//! Owns which copies it raises and who is told (`protocol.md`, section 4, *Receipt*). In a direct
//! conversation the peer is told; in a group nobody is. A receipt that says "received" raises a
//! webhook event in both.

use std::borrow::Cow;

use bytes::Bytes;

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::Receipt;
use crate::protocol::control_topic::Notification;
use crate::protocol::id::{MessageKey, UserId};
use crate::protocol::message_id::MessageId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::status::Status;
use crate::rules::facts::{FactSource, GroupLookup, StoredCopy};
use crate::rules::plan::{Context, Plan, json};
use crate::rules::webhook_event::{Event, EventKind};
use crate::rules::write::Write;

/// What the plan of a receipt depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The user's copy of the message, if their timeline holds it.
    pub(super) copy: Option<StoredCopy>,
    /// The message's id, where the receipt names the message by what its sender calls it.
    pub(super) message_id: Option<String>,
    /// Who the conversation is with.
    pub(super) peer: Peer,
}

/// The other side of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    User,
    Group,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        timeline: &Timeline<'_>,
        message: MessageKey<'_>,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let mut copy = source.copy(timeline, message.as_str())?;
        let mut message_id = None;
        // The stock web widget knows no other name for a message that it has just shown.
        if copy.is_none()
            && MessageId::parse(message.as_str()).is_none()
            && let Some((id, found)) = source.copy_by_temp_uid(timeline, message.as_str())?
        {
            (copy, message_id) = (Some(found), Some(id));
        }
        let (app, peer) = (timeline.app, timeline.convers_with);
        // Without a copy the receipt is refused, whoever the peer is.
        let is_group = copy.is_some()
            && (peer.is_group() || matches!(source.group(app, peer)?, GroupLookup::Stored(_)));
        Ok(Self {
            copy,
            message_id,
            peer: if is_group { Peer::Group } else { Peer::User },
        })
    }
}

/// Raises the user's own copy and that of the peer, and tells the peer; in a group nobody is told.
pub(super) fn plan<'a>(
    timeline: &Timeline<'a>,
    message: MessageKey<'a>,
    receipt: Receipt,
    facts: Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    let copy = facts
        .copy
        .filter(|copy| may_send_receipt(timeline, copy))
        .ok_or(Refusal::BadStatus)?;
    if copy.status > receipt.own_status() {
        // A later receipt was here first.
        return Ok(Plan::default());
    }
    let planned = PlannedReceipt {
        timeline: *timeline,
        message_id: match facts.message_id {
            Some(id) => Cow::Owned(id),
            None => Cow::Borrowed(message.as_str()),
        },
        receipt,
        raises_events: copy.status < receipt.own_status(),
        context,
    };
    Ok(match facts.peer {
        Peer::Group => planned.in_group(),
        Peer::User => planned.in_conversation(),
    })
}

/// Who wrote a message cannot say how far it got with others.
fn may_send_receipt(timeline: &Timeline<'_>, copy: &StoredCopy) -> bool {
    let with_oneself = timeline.inbox_of == timeline.convers_with;
    with_oneself || *copy.sender != *timeline.inbox_of.as_str()
}

struct PlannedReceipt<'a, 'c> {
    timeline: Timeline<'a>,
    message_id: Cow<'a, str>,
    receipt: Receipt,
    /// Whether the receipt is new. One that comes again raises no event a second time.
    raises_events: bool,
    context: &'c Context<'c>,
}

impl<'a> PlannedReceipt<'a, '_> {
    /// The group's own copy is raised. Its members are not told: each message would be followed by
    /// as many receipts as the group has members.
    fn in_group(&self) -> Plan<'a> {
        let mut plan = self.own_copy();
        let of_group = self.timeline_of(self.timeline.convers_with, self.timeline.convers_with);
        plan.writes
            .push(self.raise(of_group, self.receipt.peer_status()));
        plan
    }

    /// The peer's copy is raised, and the peer is told. In a conversation with oneself both copies
    /// are the same one.
    fn in_conversation(&self) -> Plan<'a> {
        let mut plan = self.own_copy();
        let (user, peer) = (self.timeline.inbox_of, self.timeline.convers_with);
        let with_oneself = user == peer;
        let status = if with_oneself {
            self.receipt.own_status()
        } else {
            self.receipt.peer_status()
        };
        let of_peer = self.timeline_of(peer, user);
        let payload = self.payload(peer, status);
        plan.writes.push(self.raise(of_peer, status));
        if !with_oneself {
            plan.events
                .extend(self.event(EventKind::MessageReturnReceipt, &payload));
        }
        // Also for a receipt that comes again: the observer may have crashed before it told the
        // peer.
        let topic = self.context.layouts.notification_topic(
            Notification::Receipt,
            &of_peer,
            &self.message_id,
        );
        plan.publishes.push(Publish::new(topic, payload));
        plan
    }

    /// The user's own copy is raised.
    fn own_copy(&self) -> Plan<'a> {
        let mut plan = Plan::default();
        plan.writes
            .push(self.raise(self.timeline, self.receipt.own_status()));
        if self.receipt == Receipt::Received {
            let payload = self.payload(self.timeline.inbox_of, self.receipt.own_status());
            plan.events
                .extend(self.event(EventKind::MessageReceived, &payload));
        }
        plan
    }

    fn timeline_of(&self, inbox_of: UserId<'a>, convers_with: UserId<'a>) -> Timeline<'a> {
        Timeline {
            app: self.timeline.app,
            inbox_of,
            convers_with,
        }
    }

    fn raise(&self, timeline: Timeline<'a>, status: Status) -> Write<'a> {
        Write::Raise {
            timeline,
            message_id: self.message_id.clone(),
            status,
        }
    }

    fn payload(&self, timeline_of: UserId<'_>, status: Status) -> Bytes {
        json(&serde_json::json!({
            "timelineOf": timeline_of.as_str(),
            "message_id": &*self.message_id,
            "status": status.code(),
        }))
    }

    fn event(&self, kind: EventKind, payload: &Bytes) -> Option<Event> {
        if !self.raises_events {
            return None;
        }
        self.context.event(kind, || {
            Event::of_receipt(
                kind,
                self.timeline,
                &self.message_id,
                payload.clone(),
                self.context.now(),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::test_support::{body, plan_with, received, router, timeline};
    use serde_json::json;

    #[test]
    fn a_message_is_also_known_by_what_its_sender_calls_it() {
        let topic = b"apps/a/users/bob/messages/alice/temp-m1/update";
        let source = InMemory::default().with_copy(("bob", "alice"), "alice", Status::Delivered);
        let plan = plan_with(router(), &received(topic, br#"{"status":200}"#), source);
        assert_eq!(
            plan.publishes[0].topic.as_str(),
            "apps/a/users/alice/messages/bob/m1/clientupdated"
        );
        assert_eq!(body(&plan.publishes[0])["message_id"], "m1");
    }

    #[test]
    fn a_receipt_raises_both_copies_and_tells_the_sender_alone() {
        let by_bob = |payload: &[u8], source| {
            let message = received(b"apps/a/users/bob/messages/alice/m1/update", payload);
            plan_with(router(), &message, source)
        };
        let copy_of = |sender: &str, status, is_group: bool| {
            let source = InMemory::default().with_copy(("bob", "alice"), sender, status);
            if is_group {
                source.with_group("alice", &["bob"])
            } else {
                source
            }
        };
        let raise = |inbox_of, convers_with, status| Write::Raise {
            timeline: timeline(inbox_of, convers_with),
            message_id: "m1".into(),
            status,
        };
        for (payload, own, peers) in [
            (
                &br#"{"status":200}"#[..],
                Status::Received,
                Status::ReturnReceipt,
            ),
            (br#"{"status":300}"#, Status::Seen, Status::Seen),
        ] {
            let plan = by_bob(payload, copy_of("alice", Status::Delivered, false));
            assert_eq!(
                plan.writes,
                [raise("bob", "alice", own), raise("alice", "bob", peers)]
            );
            let [told] = &plan.publishes[..] else {
                panic!("{plan:?}")
            };
            assert_eq!(
                told.topic.as_str(),
                "apps/a/users/alice/messages/bob/m1/clientupdated"
            );
            assert_eq!(
                body(told),
                json!({"timelineOf": "alice", "message_id": "m1", "status": peers.code()})
            );
        }
        let late = by_bob(br#"{"status":200}"#, copy_of("alice", Status::Seen, false));
        assert_eq!(
            (late.publishes.len(), late.writes.len(), late.refusal),
            (0, 0, None)
        );
        let again = by_bob(
            br#"{"status":200}"#,
            copy_of("alice", Status::Received, false),
        );
        assert_eq!(
            again.publishes.len(),
            1,
            "after a crash it may not have been told"
        );
        let forged = by_bob(br#"{"status":300}"#, copy_of("bob", Status::Sent, false));
        assert_eq!(
            forged.refusal,
            Some(Refusal::BadStatus),
            "the one who wrote it"
        );
        let in_group = by_bob(
            br#"{"status":300}"#,
            copy_of("carol", Status::Delivered, true),
        );
        assert_eq!(
            in_group.writes,
            [
                raise("bob", "alice", Status::Seen),
                raise("alice", "alice", Status::Seen)
            ]
        );
        assert_eq!(in_group.publishes, []);
    }

    #[test]
    fn a_receipt_about_an_unknown_message_asks_by_both_names_and_nothing_further() {
        let source = InMemory::default();
        let mut source = source.with_copy(("bob", "alice"), "alice", Status::Delivered);
        let facts = |message: &str, source: &mut InMemory| {
            let message = MessageKey::parse(message).unwrap();
            source.asked.set(0);
            Facts::look_up(&timeline("bob", "alice"), message, source).unwrap()
        };
        let known = facts("m1", &mut source);
        assert_eq!((known.copy.is_some(), known.peer), (true, Peer::User));
        assert_eq!(
            source.asked.get(),
            2,
            "the copy, and whether the peer is a group"
        );
        let unknown = facts("m2", &mut source);
        assert_eq!((unknown.copy, source.asked.get()), (None, 2));
    }

    #[test]
    fn a_receipt_to_oneself_raises_one_copy() {
        let message = received(
            b"apps/a/users/bob/messages/bob/m1/update",
            br#"{"status":200}"#,
        );
        let source = InMemory::default().with_copy(("bob", "bob"), "bob", Status::Delivered);
        let plan = plan_with(router(), &message, source);
        let raise = Write::Raise {
            timeline: timeline("bob", "bob"),
            message_id: "m1".into(),
            status: Status::Received,
        };
        assert_eq!(plan.writes, [raise.clone(), raise]);
    }
}
