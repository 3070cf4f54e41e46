//! What a group said before, for users who have just become members.
//!
//! Owns which messages they get, and in which form. Leaves reading a page to the store.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::protocol::address::{Outgoing, Timeline};
use crate::protocol::control_topic::Notification;
use crate::protocol::envelope::SendOptions;
use crate::protocol::group::Users;
use crate::protocol::id::{AppId, UserId};
use crate::protocol::json::{Members, parse_object, raw};
use crate::protocol::publish::Publish;
use crate::protocol::status::Status;
use crate::protocol::time::UnixMillis;
use crate::protocol::topic_map::TopicMap;
use crate::rules::copies;
use crate::rules::facts::FactSource;
use crate::rules::fan_out::{FanOut, STEP, Step};
use crate::rules::history::{Page, PageQuery, Range, Stored};
use crate::rules::plan::{Context, Plan};
use crate::rules::webhook_event::{Copied, Event, EventKind};
use crate::rules::write::{Listing, TimelineCopy, Write};

/// How many of the newest messages a new member gets.
pub(crate) const MESSAGES: usize = 200;

/// What the plan depends on.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// The messages: the newest of the group.
    range: Range,
    /// The new members, each with the users they block.
    members: Vec<Member>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Member {
    id: Box<str>,
    blocks: Users,
}

/// What is left to give to new members.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct GroupHistory {
    group: Box<str>,
    members: Vec<Member>,
    /// The member whose turn it is: they and some behind them get a page together.
    turn: usize,
    /// All of it.
    whole: Range,
    /// What is left for those whose turn it is.
    range: Range,
    written_at: UnixMillis,
    raises_events: bool,
    /// New members who get nothing more.
    #[serde(default)]
    left_out: Users,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        outgoing: &Outgoing<'_>,
        members: &Users,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let (app, group) = (outgoing.app, outgoing.recipient);
        let timeline = Timeline {
            app,
            inbox_of: group,
            convers_with: group,
        };
        let range = Range {
            after: source.position_before_newest(&timeline, MESSAGES)?,
            last: source.last_position()?,
        };
        let mut member = |id: &str| {
            let user = UserId::parse(id).expect("checked with the change");
            Ok(Member {
                id: id.into(),
                blocks: source.blocked_users(app, user)?.into(),
            })
        };
        let members: Result<_, S::Error> = members.as_slice().iter().map(|id| member(id)).collect();
        Ok(Self {
            range,
            members: members?,
        })
    }
}

/// The messages are published and stored for the new members, in steps.
pub(super) fn plan(outgoing: &Outgoing<'_>, facts: Facts, context: &Context<'_>) -> Plan<'static> {
    if facts.members.is_empty() || facts.range.after >= facts.range.last {
        return Plan::default();
    }
    let history = GroupHistory {
        group: outgoing.recipient.as_str().into(),
        members: facts.members,
        turn: 0,
        whole: facts.range,
        range: facts.range,
        written_at: context.now(),
        raises_events: context.events.contains(EventKind::MessageDelivered),
        left_out: Users::default(),
    };
    Plan {
        fan_out: Some(FanOut::group_history(outgoing.app, history)),
        ..Plan::default()
    }
}

impl GroupHistory {
    /// The group whose history it is.
    pub(super) fn group(&self) -> UserId<'_> {
        UserId::parse(&self.group).expect("it came from an identifier")
    }

    /// Takes a new member out, who gets nothing more.
    pub(super) fn leave_out(&mut self, member: &str) {
        self.left_out = self.left_out.and(member);
    }

    /// The next page: so small that its copies are about a step's.
    pub(super) fn query(&self) -> PageQuery {
        PageQuery {
            after: self.range.after,
            last: self.range.last,
            convers_with: Some(self.group.clone()),
            limit: (STEP / self.turn().len().max(1)).max(1),
        }
    }

    /// The members whose turn it is: no more than a step takes.
    fn turn(&self) -> &[Member] {
        let end = (self.turn + STEP).min(self.members.len());
        &self.members[self.turn.min(end)..end]
    }

    /// Gives a page to all new members.
    pub(super) fn step<'a>(
        &'a self,
        app: AppId<'a>,
        layouts: &TopicMap,
        page: &Page,
    ) -> (Step<'a>, Option<Self>) {
        let mut step = Step::default();
        for stored in &page.messages {
            let Some(message) = Message::of(stored) else {
                continue;
            };
            for member in self.turn() {
                let is_hidden = message.hidden_for.as_deref() == Some(&*member.id);
                let gets_none = is_hidden || self.left_out.contains(&member.id);
                if !gets_none && !member.blocks.contains(&message.sender) {
                    self.add(&mut step, app, layouts, member, (stored, &message));
                }
            }
        }
        let next = self.turn + self.turn().len();
        let rest = if page.more {
            Some((self.turn, page.next))
        } else {
            (next < self.members.len()).then_some((next, self.whole.after))
        };
        let rest = rest.map(|(turn, after)| Self {
            turn,
            range: Range {
                after,
                ..self.whole
            },
            ..self.clone()
        });
        (step, rest)
    }

    fn add<'a>(
        &'a self,
        step: &mut Step<'a>,
        app: AppId<'a>,
        layouts: &TopicMap,
        member: &'a Member,
        (stored, message): (&Stored, &Message),
    ) {
        let timeline = Timeline {
            app,
            inbox_of: UserId::parse(&member.id).expect("checked with the change"),
            convers_with: self.group(),
        };
        let topic = match layouts.named(&stored.layout) {
            Some(layout) => layout.inbox_topic(app, timeline.inbox_of, timeline.convers_with),
            None => layouts.notification_topic(Notification::Message, &timeline, ""),
        };
        if self.raises_events {
            let copied = Copied {
                timeline,
                message_id: &message.id,
                recipient: &self.group,
                topic: topic.as_str(),
                payload: &message.payload,
                one_of_many: false,
            };
            let kind = EventKind::MessageDelivered;
            step.events
                .push(Event::of_copy(kind, copied, self.written_at));
        }
        step.writes.push(Write::Copy(TimelineCopy {
            timeline,
            message_id: Cow::Owned(message.id.clone()),
            status: Status::Delivered,
            listing: message.listing,
        }));
        step.publishes
            .push(Publish::new(topic, message.payload.clone()));
    }
}

/// A stored message as a new member gets it.
struct Message {
    id: String,
    sender: String,
    hidden_for: Option<Box<str>>,
    listing: Listing,
    payload: Bytes,
}

impl Message {
    /// `None` for a body that somebody has edited by hand.
    fn of(stored: &Stored) -> Option<Self> {
        let mut members = parse_object(stored.body.as_str().as_bytes()).ok()?;
        let id = string(members.get("message_id")?)?;
        let sender = members.get("sender").and_then(|sender| string(sender));
        let attributes = members.get("attributes");
        let options = attributes.map(|text| SendOptions::read(text));
        let options = options.unwrap_or_default();
        let attributes = attributes.and_then(|text| parse_object(text.get().as_bytes()).ok());
        let mut attributes = attributes.unwrap_or_default();
        // A phone must not ring for each of them.
        let rings = attributes.get("forcenotification");
        if rings.is_none_or(|value| value.get() != "true") {
            attributes.insert("sendnotification".to_owned(), raw(&false));
        }
        members.insert("attributes".to_owned(), raw(&attributes));
        members.insert("status".to_owned(), raw(&Status::Delivered.code()));
        members.insert("__history".to_owned(), raw("true"));
        Some(Self {
            id,
            sender: sender.unwrap_or_default(),
            listing: copies::listing(&options),
            hidden_for: options.hidden_for,
            payload: text(&members),
        })
    }
}

fn string(value: &serde_json::value::RawValue) -> Option<String> {
    serde_json::from_str(value.get()).ok()
}

fn text(members: &Members) -> Bytes {
    serde_json::to_vec(members)
        .expect("raw members serialise")
        .into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::envelope::Body;
    use crate::rules::test_support::router;

    fn stored(id: &str, sender: &str, attributes: Value) -> Stored {
        let body = json!({
            "message_id": id, "sender": sender, "text": id, "attributes": attributes,
        });
        Stored {
            convers_with: "group-1".into(),
            layout: "chat21".into(),
            body: Body::from_stored(body.to_string()),
            status: Status::Sent,
            stored_at: UnixMillis::new(1),
        }
    }

    /// Everything that new members get, in steps of what the store finds.
    fn given(members: &[(&str, &[&str])], messages: &[Stored]) -> Vec<(String, Value)> {
        let members = members.iter().map(|(id, blocks)| Member {
            id: (*id).into(),
            blocks: blocks.iter().map(|other| (*other).into()).collect(),
        });
        let last = i64::try_from(messages.len()).unwrap();
        let range = Range { after: 0, last };
        let mut rest = Some(GroupHistory {
            group: "group-1".into(),
            members: members.collect(),
            turn: 0,
            whole: range,
            range,
            written_at: UnixMillis::new(2),
            raises_events: false,
            left_out: Users::default(),
        });
        let (app, layouts) = (AppId::parse("a").unwrap(), router().layouts);
        let mut all = vec![];
        while let Some(history) = rest {
            let query = history.query();
            let from = usize::try_from(query.after).unwrap();
            let to = (from + query.limit).min(messages.len());
            let page = Page {
                messages: messages[from..to].to_vec(),
                next: i64::try_from(to).unwrap(),
                more: to < messages.len(),
                is_cut: false,
            };
            let (step, next) = history.step(app, &layouts, &page);
            assert!(step.publishes.len() <= STEP, "{}", step.publishes.len());
            assert_eq!(step.publishes.len(), step.writes.len());
            all.extend(step.publishes.iter().map(|publish| {
                let body: Value = serde_json::from_slice(&publish.payload).unwrap();
                (publish.topic.to_string(), body)
            }));
            rest = next;
        }
        all
    }

    #[test]
    fn each_new_member_gets_every_message_once_and_in_order() {
        let messages: Vec<_> = (0..50)
            .map(|n| stored(&n.to_string(), "x", json!({})))
            .collect();
        let ids: Vec<_> = (0..70).map(|n| format!("m{n}")).collect();
        let members: Vec<_> = ids.iter().map(|id| (id.as_str(), &[][..])).collect();
        let all = given(&members, &messages);
        for id in &ids {
            let topic = format!("apps/a/users/{id}/messages/group-1/clientadded");
            let theirs = all.iter().filter(|(place, _)| *place == topic);
            let texts: Vec<_> = theirs.map(|(_, body)| body["text"].clone()).collect();
            let expected: Vec<_> = (0..50).map(|n| json!(n.to_string())).collect();
            assert_eq!(texts, expected, "{id}");
        }
    }

    #[test]
    fn what_is_hidden_or_by_somebody_blocked_is_left_out() {
        let messages = [
            stored("plain", "x", json!({"k": 1})),
            stored("hidden", "x", json!({"hiddenFor": "bob"})),
            stored("blocked", "eve", json!({})),
            stored("rings", "x", json!({"forcenotification": true})),
        ];
        let all = given(&[("bob", &["eve"][..])], &messages);
        let texts: Vec<_> = all.iter().map(|(_, body)| body["text"].as_str()).collect();
        assert_eq!(texts, [Some("plain"), Some("rings")]);
        let plain = &all[0].1;
        assert_eq!(
            (&plain["status"], &plain["__history"]),
            (&json!(150), &json!("true"))
        );
        assert_eq!(
            plain["attributes"],
            json!({"k": 1, "sendnotification": false})
        );
        assert_eq!(all[1].1["attributes"], json!({"forcenotification": true}));
    }
}
