//! A message to a group: who may write, who gets a copy, and the plan.
//!
//! Owns when a message is for a group, and who its members are (`protocol.md`, section 3, *Group*).
//! Leaves making thousands of copies to [`fan_out`](crate::rules::fan_out).

use crate::protocol::group::{Group, Users};
use crate::protocol::id::UserId;
use crate::protocol::layout::{Outgoing, Timeline};
use crate::protocol::message::{Envelope, Status};
use crate::protocol::publish::Publish;
use crate::protocol::refusal::Refusal;
use crate::rules::checks::check_recipients;
use crate::rules::copies::{self, PlannedCopy};
use crate::rules::facts::{FactSource, GroupLookup};
use crate::rules::fan_out::{FanOut, GroupMessage};
use crate::rules::plan::{Context, Plan};
use crate::rules::policy::{GroupSenders, Rules};
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
    pub(crate) fn look_up<S: FactSource>(
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
    let listing = copies::listing(&envelope.wishes);
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
            left_out(outgoing.sender, envelope, facts.blocked_by),
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
        publish: Publish::new(topic, body.with_status(Status::Sent)),
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
        context.rules.check_group_sender(sender, &stored.members)?;
    }
    let (users, includes_sender) = match (envelope.group, group) {
        (Some(inline), _) => (Group::parse(inline.get())?.members, true),
        (None, GroupLookup::Stored(stored)) => (stored.members.clone(), false),
        (None, GroupLookup::NotStored) => (Users::default(), true),
        (None, GroupLookup::NoStore) => return Err(Refusal::NotAGroup),
    };
    check_recipients(context.rules, context.broker_kind, &users)?;
    Ok(if includes_sender {
        users.and(sender.as_str())
    } else {
        users
    })
}

/// Who gets no copy: members who block the sender, and the one that the sender hides the message from.
fn left_out(sender: UserId<'_>, envelope: &Envelope<'_>, blocked_by: Vec<Box<str>>) -> Users {
    // Senders who block themselves still get their own messages.
    let blocked_by = blocked_by
        .into_iter()
        .filter(|user| **user != *sender.as_str());
    blocked_by
        .chain(envelope.wishes.hidden_for.clone())
        .collect()
}

impl Rules {
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
