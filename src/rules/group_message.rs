//! A message to a group: who may write, who gets a copy, and the plan.
//!
//! Owns when a message is for a group, and who its members are (`protocol.md`, section 3, *Group*).
//! Leaves making thousands of copies to [`fan_out`](crate::rules::fan_out).

use crate::protocol::address::{Outgoing, Timeline};
use crate::protocol::envelope::Envelope;
use crate::protocol::group::{Group, Users};
use crate::protocol::id::UserId;
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::protocol::status::Status;
use crate::rules::checks::check_recipients;
use crate::rules::copies::{self, PlannedCopy};
use crate::rules::facts::{FactSource, GroupLookup};
use crate::rules::fan_out::{FanOut, GroupMessage};
use crate::rules::plan::{Context, Plan};
use crate::rules::policy::{GroupSenders, Rules};
use crate::rules::submission::Authority;
use crate::rules::webhook_event::EventKind;

/// What the plan of a message to a group depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The group.
    pub(crate) group: GroupLookup,
    /// The users who block the sender.
    pub(crate) blocked_by: Vec<Box<str>>,
}

impl Facts {
    /// The facts of a message to a group. `None` for a message to a user: the recipient is neither
    /// stored as a group nor called like one.
    pub(crate) fn look_up<S: FactSource + ?Sized>(
        outgoing: &Outgoing<'_>,
        source: &mut S,
    ) -> Result<Option<Self>, S::Error> {
        let group = source.group(outgoing.app, outgoing.recipient)?;
        if !matches!(group, GroupLookup::Stored(_)) && !outgoing.recipient.is_group() {
            return Ok(None);
        }
        let blocked_by = source.blocked_by(outgoing.app, outgoing.sender)?;
        Ok(Some(Self { group, blocked_by }))
    }
}

/// The group's own timeline gets the message as sent, and each member's as delivered.
pub(super) fn plan<'a>(
    outgoing: &Outgoing<'a>,
    envelope: &Envelope<'_>,
    facts: Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    let users = recipients(outgoing, envelope, &facts.group, context)?;
    let body = copies::body(outgoing, envelope, context);
    let message_id = context.id.to_string();
    let listing = copies::listing(&envelope.options);
    let left_out = left_out(outgoing.sender, envelope, facts.blocked_by, &users);
    let (layout, app, group) = (outgoing.layout, outgoing.app, outgoing.recipient);
    let mut plan = Plan {
        fan_out: Some(FanOut::copies(
            app,
            GroupMessage {
                group,
                message_id: &message_id,
                inbox: layout.inbox(),
                payload: body.with_status(Status::Delivered),
                listing,
                written_at: context.now(),
                raises_events: context.events.contains(EventKind::MessageDelivered),
            },
            users,
            left_out,
        )),
        ..Plan::default()
    };
    let topic = layout.inbox_topic(app, group, group);
    let copy = PlannedCopy {
        timeline: Timeline {
            app,
            inbox_of: group,
            convers_with: group,
        },
        status: Status::Sent,
        listing,
        message_id: &message_id,
        recipient: group.as_str(),
        publish: Publish::copy(topic, &body, Status::Sent),
    };
    copies::add(&mut plan, copy, context);
    let message = copies::message(outgoing, &message_id, body);
    plan.writes.insert(0, message);
    Ok(plan)
}

/// Who gets the message: the members that it names itself, else those of the stored group, else the
/// sender alone.
fn recipients(
    outgoing: &Outgoing<'_>,
    envelope: &Envelope<'_>,
    group: &GroupLookup,
    context: &Context<'_>,
) -> Result<Users, Refusal> {
    let sender = outgoing.sender;
    if let GroupLookup::Stored(stored) = group {
        // By the stored members: naming oneself in the message makes nobody a member.
        if context.authority == Authority::Sender {
            context.rules.check_group_sender(sender, &stored.members)?;
        }
    }
    let rules = context.rules;
    let (users, includes_sender, most) = match (envelope.group, group) {
        (Some(inline), _) => {
            let users = Group::parse(inline.get())?.members;
            let most = match context.authority {
                Authority::Sender => rules.most_inline_recipients(sender),
                Authority::Admin => rules.max_recipients,
            };
            (users, true, most)
        }
        (None, GroupLookup::Stored(stored)) => {
            (stored.members.clone(), false, rules.max_recipients)
        }
        (None, GroupLookup::NotStored) => (Users::default(), true, rules.max_recipients),
        (None, GroupLookup::NoStore) => return Err(Refusal::NotAGroup),
    };
    check_recipients(context.broker_kind, &users, most)?;
    Ok(if includes_sender {
        users.and(sender.as_str())
    } else {
        users
    })
}

/// Who gets no copy: members who block the sender, and the one that the sender hides the message
/// from. Others who block the sender may be very many, and are not carried along.
fn left_out(
    sender: UserId<'_>,
    envelope: &Envelope<'_>,
    blocked_by: Vec<Box<str>>,
    members: &Users,
) -> Users {
    // Senders who block themselves still get their own messages.
    let blocked_by = blocked_by
        .into_iter()
        .filter(|user| **user != *sender.as_str() && members.contains(user));
    blocked_by
        .chain(envelope.options.hidden_for.clone())
        .collect()
}

impl Rules {
    /// How many members a message of `sender` may name itself.
    fn most_inline_recipients(&self, sender: UserId<'_>) -> usize {
        match self.privileged_senders.contains(sender.as_str()) {
            true => self.max_recipients,
            false => self.max_inline_recipients.min(self.max_recipients),
        }
    }

    /// Whether `sender` may write to a group with these `members`.
    fn check_group_sender(&self, sender: UserId<'_>, members: &Users) -> Result<(), Refusal> {
        let sender = sender.as_str();
        let may_write = match self.group_senders {
            GroupSenders::Anybody => true,
            GroupSenders::Members => {
                members.contains(sender) || self.privileged_senders.contains(sender)
            }
        };
        if may_write {
            Ok(())
        } else {
            Err(Refusal::NotAMember)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::protocol::amqp::BrokerKind;
    use crate::rules::facts::NoStore;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::policy::Policy;
    use crate::rules::router::Router;
    use crate::rules::test_support::{body, for_many, plan_with, received, router, rules};
    use serde_json::json;

    fn group_of(members: &[&str]) -> InMemory {
        InMemory::default().with_group("group-1", members)
    }

    #[test]
    fn a_group_message_goes_to_the_group_and_to_each_member() {
        let topic = b"apps/a/users/alice/messages/group-1/outgoing";
        let message = received(
            topic,
            br#"{"text":"hi","attributes":{"hiddenFor":"carol"}}"#,
        );
        let plan = plan_with(
            router(),
            &message,
            InMemory::default()
                .with_group("group-1", &["alice", "bob", "dave"])
                .with_block("dave", "alice")
                .with_block("eve", "alice")
                .with_block("alice", "alice"),
        );
        let logged = plan.fan_out.as_ref().unwrap().to_log();
        assert!(logged.contains(r#""dave""#), "{logged}");
        assert!(!logged.contains(r#""eve""#), "she is no member: {logged}");
        let [own] = &plan.publishes[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(
            (own.topic.as_str(), &body(own)["status"]),
            (
                "apps/a/users/group-1/messages/group-1/clientadded",
                &json!(100)
            )
        );
        let copies = for_many(&plan);
        let topics: Vec<_> = copies.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(
            topics,
            [
                "apps/a/users/alice/messages/group-1/clientadded",
                "apps/a/users/bob/messages/group-1/clientadded"
            ]
        );
        for (_, copy) in &copies {
            assert_eq!(
                (&copy["status"], &copy["recipient"], &copy["text"]),
                (&json!(150), &json!("group-1"), &json!("hi"))
            );
            assert_eq!(copy["message_id"], body(own)["message_id"]);
        }
    }

    #[test]
    fn members_come_from_the_message_then_from_the_store_else_there_is_only_the_sender() {
        let topic = b"apps/a/users/alice/messages/group-1/outgoing";
        let inboxes = |payload: &[u8], facts: InMemory| {
            let plan = plan_with(router(), &received(topic, payload), facts);
            assert_eq!(plan.refusal, None, "{}", String::from_utf8_lossy(payload));
            for_many(&plan)
                .into_iter()
                .map(|(topic, _)| topic.split('/').nth(3).unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let inline = br#"{"group":{"members":{"carol":1}}}"#;
        assert_eq!(inboxes(inline, InMemory::default()), ["alice", "carol"]);
        assert_eq!(
            inboxes(inline, group_of(&["alice", "bob"])),
            ["alice", "carol"]
        );
        assert_eq!(
            inboxes(b"{}", group_of(&["alice", "bob"])),
            ["alice", "bob"]
        );
        assert_eq!(inboxes(b"{}", InMemory::default()), ["alice"]);
        assert_eq!(
            inboxes(br#"{"group":null}"#, InMemory::default()),
            ["alice"]
        );
        assert_eq!(
            inboxes(
                br#"{"group":{"members":{"group-1":1}}}"#,
                InMemory::default()
            ),
            ["alice"],
            "the group has its copy already"
        );
        let nobodys = plan_with(router(), &received(topic, inline), group_of(&["bob"]));
        assert_eq!(
            nobodys.refusal,
            Some(Refusal::NotAMember),
            "what the message brings along makes nobody a member"
        );
        let odd = plan_with(
            router(),
            &received(topic, br#"{"group":{"members":{"a/b":1}}}"#),
            InMemory::default(),
        );
        assert_eq!(odd.refusal, Some(Refusal::MalformedTopic));
    }

    #[test]
    fn who_may_write_to_a_group_is_the_operators_choice() {
        let by = |sender: &str, router: Router| {
            let topic = format!("apps/a/users/{sender}/messages/group-1/outgoing");
            plan_with(
                router,
                &received(topic.as_bytes(), b"{}"),
                group_of(&["bob"]),
            )
            .refusal
        };
        assert_eq!((by("bob", router()), by("system", router())), (None, None));
        assert_eq!(by("alice", router()), Some(Refusal::NotAMember));
        let mut open = router();
        let anybody = Rules {
            group_senders: GroupSenders::Anybody,
            ..rules()
        };
        open.policy = Arc::new(Policy::new(BrokerKind::Any, anybody.clone()));
        assert_eq!(by("alice", open.clone()), None);
        let mut of_another = Policy::new(BrokerKind::Any, rules());
        of_another.apps.insert("b".into(), anybody);
        open.policy = Arc::new(of_another);
        assert_eq!(
            by("alice", open),
            Some(Refusal::NotAMember),
            "rules of app b"
        );
    }

    #[test]
    fn a_message_names_fewer_members_than_a_stored_group_has() {
        let members = ["alice", "bob", "carol"];
        let to_three = |sender: &str, payload: &[u8]| {
            let mut router = router();
            let rules = Rules {
                max_inline_recipients: 2,
                ..rules()
            };
            router.policy = Arc::new(Policy::new(BrokerKind::Any, rules));
            let topic = format!("apps/a/users/{sender}/messages/group-1/outgoing");
            let message = received(topic.as_bytes(), payload);
            plan_with(router, &message, group_of(&members)).refusal
        };
        let inline = br#"{"group":{"members":{"alice":1,"bob":1,"carol":1}}}"#;
        assert_eq!(to_three("alice", b"{}"), None);
        assert_eq!(to_three("system", inline), None);
        let refused = Some(Refusal::TooManyRecipients);
        assert_eq!(to_three("alice", inline), refused);
    }

    #[test]
    fn a_recipient_is_a_group_by_its_name_or_in_the_store() {
        let is_group = |recipient: &str, mut source: InMemory| {
            let topic = format!("apps/a/users/alice/messages/{recipient}/outgoing");
            let received = received(topic.as_bytes(), b"{}");
            let router = router();
            let address = router.address(&received).unwrap();
            let outgoing = address.outgoing().unwrap();
            let facts = Facts::look_up(outgoing, &mut source).unwrap();
            facts.is_some()
        };
        assert!(is_group("group-1", InMemory::default()));
        assert!(!is_group("team", InMemory::default()));
        assert!(is_group(
            "team",
            InMemory::default().with_group("team", &["alice"])
        ));
    }

    #[test]
    fn without_a_store_a_group_must_be_written_into_the_message() {
        let topic = b"apps/a/users/alice/messages/group-1/outgoing";
        let bare = plan_with(router(), &received(topic, b"{}"), NoStore);
        assert_eq!(bare.refusal, Some(Refusal::NotAGroup));
        let inline = received(topic, br#"{"group":{"members":{"carol":1}}}"#);
        let plan = plan_with(router(), &inline, NoStore);
        assert_eq!((plan.refusal, for_many(&plan).len()), (None, 2));
    }
}
