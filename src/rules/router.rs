//! One message in, one plan out: what is to be published where and written down, or for which reason nothing is.
//!
//! Three steps: [`Router::decode`] reads topic and payload, the store looks up the [`Facts`] that takes, [`Router::plan`] decides: a
//! pure function of the two and the id given. What goes to many is a [`FanOut`], carried out in steps ([`FanOut::step`]). How a
//! plan is carried out, and when the message is acknowledged, is `processor.rs`'s and `forward.rs`'s business.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::protocol::control::Receipt;
use crate::protocol::group::{Group, GroupUpdate, Users};
use crate::protocol::id::{AppId, MessageId, UserId};
use crate::protocol::layout::{Address, Notification, Outgoing, Timeline, TopicMap};
use crate::protocol::message::{Body, Envelope, Injected, Owned, Received, Status};
use crate::protocol::publish::Publish;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::rules::checks::{Content, Policy};
use crate::rules::conversation::{Patch, Row};
use crate::rules::fan_out::{FanOut, GroupMessage};
use crate::rules::plan::{Copy, NewMessage, Write};
use crate::rules::webhook_event::{Copied, Event, EventKind, EventKinds};

/// The longest user property of a dead letter, in bytes. MQTT has two bytes for its length; nobody reads that far.
const MAX_PROPERTY_BYTES: usize = 1_024;

/// What becomes of a message.
#[derive(Clone, Debug, Default)]
pub struct Plan<'a> {
    /// What is published; the message is acknowledged when all of it is confirmed.
    pub publishes: Vec<Publish>,
    /// What is said of a refusal, to the sender and to the dead letters, unless too much has been said already.
    pub answers: Vec<Publish>,
    /// What is written down before anything is published.
    pub writes: Vec<Write<'a>>,
    /// What goes to many, in steps.
    pub fan_out: Option<FanOut>,
    /// What webhooks are told of.
    pub events: Vec<Event>,
    /// The reason, if it is refused.
    pub refusal: Option<Refusal>,
}

/// A message whose topic and payload are understood.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    /// What the topic says.
    pub address: Address<'a>,
    /// What the payload says.
    pub content: Content<'a>,
}

/// What is known that a plan depends on, beside the message itself.
#[derive(Clone, Debug)]
pub enum Facts {
    /// The message says it all.
    Nothing,
    /// The sender has been banned by an operator (`block ban`).
    Banned,
    /// Of a direct message.
    Direct {
        /// The recipient blocks the sender.
        blocked: bool,
    },
    /// Of a message to a group.
    Group {
        /// The group, if it is stored.
        group: Option<Arc<Group>>,
        /// Who does not want to hear the sender.
        blocked_by: Vec<Box<str>>,
        /// There is a store, and it would know the group: one it does not know has nobody in it but who writes.
        transient: bool,
    },
    /// Of the message that a receipt is about, if it is in the timeline.
    Receipt(Option<ReceiptTarget>),
    /// Of a conversation, if there is one.
    Conversation(Option<Row>),
    /// Of those a user blocks.
    Blocks {
        /// They are as many as he may.
        full: bool,
    },
    /// Of a user's presence.
    Presence {
        /// Whether the client concerned is there.
        known: bool,
        /// His clients that are there besides.
        others: usize,
        /// What he has missed begins behind this place in the store, if he is to get it again.
        missed_since: Option<i64>,
        /// The last place in the store.
        last: i64,
    },
    /// Of a fetch: it concerns what stands behind `after`, up to `last`.
    Fetch {
        /// A place in the store.
        after: i64,
        /// The last place in the store.
        last: i64,
    },
}

/// A message that a receipt is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptTarget {
    /// Who wrote it.
    pub sender: Box<str>,
    /// How far the copy of the receipt's user got.
    pub mine: Status,
    /// Whether it was written to a group.
    pub in_group: bool,
}

/// What the observer knows that every plan needs.
#[derive(Clone, Debug)]
pub struct Router {
    /// Where messages come in and go.
    pub layouts: TopicMap,
    /// The checks.
    pub policy: Arc<Policy>,
    /// Where refused messages are kept, if anywhere.
    pub dead_letter_topic: Option<TopicName>,
    /// What webhooks want to be told of.
    pub events: EventKinds,
}

#[derive(Serialize)]
struct Notice<'a> {
    reason: &'a str,
    recipient: &'a str,
    received_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

#[derive(Serialize)]
struct DeadLetter<'a> {
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    topic: &'a str,
    received_at: u64,
    payload_bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

impl Router {
    /// What topic and payload say.
    ///
    /// # Errors
    /// The reason for which the message is refused.
    pub fn decode<'a>(&'a self, received: &'a Received) -> Result<Decoded<'a>, Refusal> {
        let topic = std::str::from_utf8(&received.topic).map_err(|_| Refusal::MalformedTopic)?;
        let address = self
            .layouts
            .parse(topic)
            .map_err(|error| Refusal::from(&error))?;
        let content = self.policy.check(&address, received)?;
        Ok(Decoded { address, content })
    }

    /// What a topic says, if it says something.
    pub fn address<'a>(&'a self, received: &'a Received) -> Option<Address<'a>> {
        let topic = std::str::from_utf8(&received.topic).ok()?;
        self.layouts.parse(topic).ok()
    }

    /// What becomes of a message, if it is given `id`. It counts as written when the id was given, unless it says something sane
    /// itself: planned again after a crash, it comes out the same.
    pub fn plan<'a>(
        &self,
        decoded: &'a Decoded<'a>,
        received: &Received,
        facts: Facts,
        id: MessageId,
    ) -> Plan<'a> {
        let plan = self
            .decide(decoded, received, facts, id)
            .and_then(|plan| self.carried(plan));
        plan.unwrap_or_else(|refusal| self.refuse(received, &refusal.into(), id.time()))
    }

    fn carried<'a>(&self, plan: Plan<'a>) -> Result<Plan<'a>, Refusal> {
        let kind = self.policy.broker_kind;
        let mut topics = plan.publishes.iter().map(|publish| &publish.topic);
        if topics.all(|topic| kind.carries(topic.as_str()).is_ok()) {
            Ok(plan)
        } else {
            Err(Refusal::Unroutable)
        }
    }

    fn decide<'a>(
        &self,
        decoded: &'a Decoded<'a>,
        received: &Received,
        facts: Facts,
        id: MessageId,
    ) -> Result<Plan<'a>, Refusal> {
        match (&decoded.address, &decoded.content, facts) {
            (_, _, Facts::Banned) => Err(Refusal::Banned),
            (Address::Outgoing(outgoing), Content::Verbatim, facts) => {
                let blocked = matches!(facts, Facts::Direct { blocked: true });
                let plan = verbatim(outgoing, &received.payload, blocked);
                Ok(self.unless_blocked(plan, blocked, received, id))
            }
            (
                Address::Outgoing(outgoing),
                Content::Envelope(envelope),
                Facts::Group {
                    group,
                    blocked_by,
                    transient,
                },
            ) => {
                let users = self.members(outgoing, envelope, group.as_deref(), transient)?;
                let body = self.body(outgoing, envelope, id);
                Ok(self.to_group(outgoing, envelope, body, id, users, blocked_by))
            }
            (Address::Outgoing(outgoing), Content::Envelope(envelope), facts) => {
                if envelope.says_group {
                    return Err(Refusal::NotAGroup);
                }
                let blocked = matches!(facts, Facts::Direct { blocked: true });
                let body = self.body(outgoing, envelope, id);
                let plan = self.direct(outgoing, envelope, body, id, blocked);
                Ok(self.unless_blocked(plan, blocked, received, id))
            }
            (
                Address::Receipt(timeline, message),
                Content::Receipt(receipt),
                Facts::Receipt(receipted),
            ) => self.receipt(*timeline, message.as_str(), *receipt, receipted, id.time()),
            (Address::Conversation(timeline), Content::Patch(patch), Facts::Conversation(row)) => {
                self.patch(*timeline, patch, &row.unwrap_or_default())
            }
            (Address::Archive(timeline), _, Facts::Conversation(row)) => {
                // Unknown, it may be from before there was a store: its owner wants it out of his sight.
                Ok(self.archive(*timeline, row.unwrap_or_default(), received, id))
            }
            (
                Address::Presence { app, user, client },
                Content::Presence(connected),
                Facts::Presence {
                    known,
                    others,
                    missed_since,
                    last,
                },
            ) => Ok(Plan {
                events: self
                    .wanted(EventKind::PresenceChange)
                    .filter(|_| others == 0 && known != *connected)
                    .map(|_| {
                        let (user, basis) = (user.as_str(), id.to_string());
                        Event::of_presence(*app, user, *connected, &basis, id.time())
                    })
                    .into_iter()
                    .collect(),
                writes: vec![Write::Presence {
                    app: *app,
                    user: *user,
                    client: client.as_str(),
                    connected: *connected,
                }],
                fan_out: missed_since
                    .filter(|_| *connected && others == 0)
                    .map(|after| FanOut::history(*app, *user, (after, last), None)),
                ..Plan::default()
            }),
            (Address::Block(_), Content::Block(true), Facts::Blocks { full: true }) => {
                Err(Refusal::TooLarge)
            }
            (Address::Block(timeline), Content::Block(blocked), _) => {
                let told = json(&serde_json::json!({ "blocked": blocked }));
                Ok(Plan {
                    publishes: vec![self.notify(Notification::Block, timeline, "", told)],
                    writes: vec![Write::Block(*timeline, *blocked)],
                    ..Plan::default()
                })
            }
            (Address::Fetch { app, user }, Content::Fetch(fetch), Facts::Fetch { after, last }) => {
                Ok(Plan {
                    fan_out: Some(FanOut::history(*app, *user, (after, last), Some(fetch))),
                    ..Plan::default()
                })
            }
            (Address::Inject(timeline), Content::Injected(injected), _) => {
                Ok(self.inject(*timeline, injected, received, id))
            }
            (Address::Groups { app }, Content::Group(update), _) => Ok(group_update(*app, update)),
            (address, content, facts) => {
                unreachable!("{address:?} with {content:?} was looked up as {facts:?}")
            }
        }
    }

    /// The client's members and the observer's.
    fn body(
        &self,
        outgoing: &Outgoing<'_>,
        envelope: &Envelope<'_>,
        message_id: MessageId,
    ) -> Body {
        let (now, rules) = (message_id.time(), self.policy.rules(outgoing.app));
        envelope.write(&Owned {
            message_id,
            sender: outgoing.sender,
            recipient: outgoing.recipient,
            app: outgoing.app,
            timestamp: envelope
                .timestamp
                .filter(|given| rules.believes(*given, now))
                .unwrap_or(now),
        })
    }

    /// A blocked sender gets what every sender gets, and is told nothing; the operator can see it.
    fn unless_blocked<'a>(
        &self,
        plan: Plan<'a>,
        blocked: bool,
        received: &Received,
        id: MessageId,
    ) -> Plan<'a> {
        if !blocked {
            return plan;
        }
        let reason = Refusal::Blocked;
        let letter = self.dead_letter(received, &reason.into(), id.time());
        Plan {
            answers: letter.into_iter().collect(),
            refusal: Some(reason),
            ..plan
        }
    }

    /// The kind, if webhooks want to be told of it.
    fn wanted(&self, kind: EventKind) -> Option<EventKind> {
        Some(kind).filter(|kind| self.events.contains(*kind))
    }

    fn notify(
        &self,
        what: Notification,
        timeline: &Timeline<'_>,
        message: &str,
        payload: Bytes,
    ) -> Publish {
        Publish::new(self.layouts.told(what, timeline, message), payload)
    }

    /// Who gets a message to a group (`protocol.md`, section 3).
    fn members(
        &self,
        outgoing: &Outgoing<'_>,
        envelope: &Envelope<'_>,
        stored: Option<&Group>,
        transient: bool,
    ) -> Result<Users, Refusal> {
        let sender = outgoing.sender;
        if let Some(stored) = stored {
            // What the message brings along does not make its sender a member.
            let rules = self.policy.rules(outgoing.app);
            rules.check_group(sender, &stored.members)?;
        }
        let users = match (envelope.group, stored) {
            (Some(inline), _) => Group::parse(inline.get())?.members,
            (None, Some(stored)) => stored.members.clone(),
            (None, None) if transient => Users::default(),
            (None, None) => return Err(Refusal::NotAGroup),
        };
        self.policy.check_recipients(outgoing.app, &users)?;
        if envelope.group.is_some() || stored.is_none() {
            return Ok(users.and(sender.as_str()));
        }
        Ok(users)
    }

    fn receipt<'a>(
        &self,
        timeline: Timeline<'a>,
        message_id: &'a str,
        receipt: Receipt,
        receipted: Option<ReceiptTarget>,
        now: UnixMillis,
    ) -> Result<Plan<'a>, Refusal> {
        let Timeline {
            app,
            inbox_of,
            convers_with,
        } = timeline;
        let to_himself = inbox_of == convers_with;
        // Who wrote a message does not say how far it got with the others.
        let receipted = receipted
            .filter(|receipted| to_himself || *receipted.sender != *inbox_of.as_str())
            .ok_or(Refusal::BadStatus)?;
        let mut plan = Plan::default();
        if receipted.mine > receipt.own() {
            // He has said more already.
            return Ok(plan);
        }
        let raise = |timeline, status| Write::Raise {
            timeline,
            message_id,
            status,
        };
        plan.writes.push(raise(timeline, receipt.own()));
        let patch = |timeline_of: UserId<'_>, status: Status| {
            json(&serde_json::json!({
                "timelineOf": timeline_of.as_str(),
                "message_id": message_id,
                "status": status.code(),
            }))
        };
        let is_news = receipted.mine < receipt.own();
        let event = |kind, patch: &Bytes| {
            self.wanted(kind).filter(|_| is_news).map(|kind| {
                let recipient = inbox_of.as_str();
                Event::of_receipt(kind, timeline, recipient, message_id, patch.clone(), now)
            })
        };
        if receipt == Receipt::Received {
            let patch = patch(inbox_of, receipt.own());
            plan.events
                .extend(event(EventKind::MessageReceived, &patch));
        }
        let other_side = |inbox_of, convers_with| Timeline {
            app,
            inbox_of,
            convers_with,
        };
        if receipted.in_group {
            // The group's own copy; nobody is told, or each message would be followed by as many receipts as there are members.
            plan.writes.push(raise(
                other_side(convers_with, convers_with),
                receipt.peers(),
            ));
            return Ok(plan);
        }
        let status = if to_himself {
            receipt.own()
        } else {
            receipt.peers()
        };
        let peers = other_side(convers_with, inbox_of);
        let told = patch(convers_with, status);
        plan.writes.push(raise(peers, status));
        if !to_himself {
            plan.events
                .extend(event(EventKind::MessageReturnReceipt, &told));
        }
        // Also when it was known: after a crash it may not have been told.
        plan.publishes
            .push(self.notify(Notification::Receipt, &peers, message_id, told));
        Ok(plan)
    }

    fn patch<'a>(
        &self,
        timeline: Timeline<'a>,
        patch: &Patch,
        row: &Row,
    ) -> Result<Plan<'a>, Refusal> {
        let patched = row.patched(
            patch,
            timeline.inbox_of.as_str(),
            timeline.convers_with.as_str(),
        );
        if patched.patch.len() > self.policy.rules(timeline.app).max_payload_bytes {
            return Err(Refusal::TooLarge);
        }
        Ok(Plan {
            publishes: vec![self.notify(
                Notification::Conversation,
                &timeline,
                "",
                patched.told.clone(),
            )],
            writes: vec![Write::Patch(timeline, patched)],
            ..Plan::default()
        })
    }

    fn archive<'a>(
        &self,
        timeline: Timeline<'a>,
        row: Row,
        received: &Received,
        id: MessageId,
    ) -> Plan<'a> {
        let is_news = !row.archived;
        let row = Row {
            archived: true,
            ..row
        };
        let whole = row.to_json(timeline.inbox_of.as_str(), timeline.convers_with.as_str());
        let topics = [
            Notification::ConversationDeleted,
            Notification::ConversationArchived,
        ];
        let wanted = self
            .wanted(EventKind::ConversationArchived)
            .filter(|_| is_news);
        let event = wanted.map(|_| {
            let topic = String::from_utf8_lossy(&received.topic);
            Event::of_archive(timeline, whole.clone(), &topic, &id.to_string(), id.time())
        });
        Plan {
            events: event.into_iter().collect(),
            publishes: topics
                .map(|what| self.notify(what, &timeline, "", whole.clone()))
                .into(),
            writes: vec![Write::Archive(timeline)],
            ..Plan::default()
        }
    }

    /// What webhooks are told of a copy.
    fn copied(
        &self,
        timeline: Timeline<'_>,
        publish: &Publish,
        message_id: &str,
        recipient: &str,
        status: Status,
        id: MessageId,
    ) -> Option<Event> {
        let kind = if status == Status::Sent {
            EventKind::MessageSent
        } else {
            EventKind::MessageDelivered
        };
        let copied = Copied {
            timeline,
            message_id,
            recipient,
            topic: publish.topic.as_str(),
            payload: &publish.payload,
            one_of_many: false,
        };
        Some(Event::of_copy(self.wanted(kind)?, copied, id.time()))
    }

    /// A direct message: the sender's own timeline as sent, the recipient's as delivered, unless he blocks the sender; to oneself once.
    fn direct<'a>(
        &self,
        outgoing: &Outgoing<'a>,
        envelope: &Envelope<'_>,
        body: Body,
        id: MessageId,
        blocked: bool,
    ) -> Plan<'a> {
        let Outgoing {
            layout,
            app,
            sender,
            recipient,
        } = *outgoing;
        let message_id = id.to_string();
        let own = (layout.sender_copy() && sender != recipient).then_some((
            sender,
            recipient,
            Status::Sent,
        ));
        let others = (!blocked).then_some((recipient, sender, Status::Delivered));
        let (mut publishes, mut copies) = (Vec::with_capacity(2), Vec::with_capacity(2));
        let mut events = vec![];
        for (inbox_of, convers_with, status) in own.into_iter().chain(others) {
            let timeline = Timeline {
                app,
                inbox_of,
                convers_with,
            };
            let publish = Publish::new(
                layout.inbox_topic(app, inbox_of, convers_with),
                body.with_status(status),
            );
            events.extend(self.copied(
                timeline,
                &publish,
                &message_id,
                recipient.as_str(),
                status,
                id,
            ));
            publishes.push(publish);
            copies.push(Write::Copy(Copy {
                timeline,
                message_id: message_id.clone().into(),
                status,
                listed: !envelope.wishes.unlisted,
            }));
        }
        // The message before the copies that refer to it.
        let message = Write::Message(new_message(outgoing, &message_id, body));
        Plan {
            publishes,
            events,
            writes: std::iter::once(message).chain(copies).collect(),
            ..Plan::default()
        }
    }

    /// A message to a group: the group's own timeline as sent, and each member's as delivered.
    fn to_group<'a>(
        &self,
        outgoing: &Outgoing<'a>,
        envelope: &Envelope<'_>,
        body: Body,
        id: MessageId,
        users: Users,
        mut without: Vec<Box<str>>,
    ) -> Plan<'a> {
        let Outgoing {
            layout,
            app,
            sender,
            recipient: group,
        } = *outgoing;
        // Nobody hides his own words from himself by blocking himself.
        without.retain(|user| **user != *sender.as_str());
        without.extend(envelope.wishes.hidden_for.clone());
        let message_id = id.to_string();
        let listed = !envelope.wishes.unlisted;
        let of_group = Timeline {
            app,
            inbox_of: group,
            convers_with: group,
        };
        let publish = Publish::new(
            layout.inbox_topic(app, group, group),
            body.with_status(Status::Sent),
        );
        let sent = Status::Sent;
        let event = self.copied(of_group, &publish, &message_id, group.as_str(), sent, id);
        Plan {
            publishes: vec![publish],
            events: event.into_iter().collect(),
            fan_out: Some(FanOut::copies(
                app,
                GroupMessage {
                    group,
                    message_id: &message_id,
                    inbox: layout.inbox(),
                    payload: body.with_status(Status::Delivered),
                    listed,
                    written_at: id.time(),
                    told_of: self.events.contains(EventKind::MessageDelivered),
                },
                users,
                without.into_iter().collect(),
            )),
            writes: vec![
                Write::Message(new_message(outgoing, &message_id, body)),
                Write::Copy(Copy {
                    timeline: of_group,
                    message_id: message_id.into(),
                    status: Status::Sent,
                    listed,
                }),
            ],
            ..Plan::default()
        }
    }

    /// A message that a service puts into one timeline: published as it came.
    fn inject<'a>(
        &self,
        timeline: Timeline<'a>,
        injected: &'a Injected,
        received: &Received,
        id: MessageId,
    ) -> Plan<'a> {
        let (injected, payload) = match &injected.message_id {
            Some(_) => (Cow::Borrowed(injected), received.payload.clone()),
            None => {
                let injected = injected.clone().with_id(&id.to_string());
                let payload = injected.body.with_status(Status::Delivered);
                (Cow::Owned(injected), payload)
            }
        };
        let message_id = injected
            .message_id
            .as_deref()
            .unwrap_or_default()
            .to_owned();
        let sender = injected.sender.as_deref().unwrap_or_default().to_owned();
        let copy = Copy {
            timeline,
            message_id: message_id.clone().into(),
            status: Status::Delivered,
            listed: !injected.wishes.unlisted,
        };
        let publish = self.notify(Notification::Message, &timeline, "", payload);
        let recipient = injected.recipient.clone();
        let recipient = recipient.as_deref().unwrap_or(timeline.inbox_of.as_str());
        let events = self.copied(
            timeline,
            &publish,
            &message_id,
            recipient,
            Status::Delivered,
            id,
        );
        let events = events.into_iter().collect();
        let message = NewMessage {
            app: timeline.app,
            id: message_id.into(),
            sender: sender.into(),
            recipient: timeline.inbox_of.as_str(),
            layout: "",
            body: injected.body.clone(),
        };
        Plan {
            publishes: vec![publish],
            events,
            writes: vec![Write::Message(message), Write::Copy(copy)],
            ..Plan::default()
        }
    }

    /// What becomes of a message that is refused: its sender is told, where that is possible, and a dead letter kept, where
    /// that is wanted (`protocol.md`, section 5).
    pub fn refuse(&self, received: &Received, refused: &Refused, now: UnixMillis) -> Plan<'static> {
        let notice = self.notice(received, refused, now);
        let letter = self.dead_letter(received, refused, now);
        Plan {
            answers: notice.into_iter().chain(letter).collect(),
            refusal: Some(refused.reason),
            ..Plan::default()
        }
    }

    fn notice(&self, received: &Received, refused: &Refused, now: UnixMillis) -> Option<Publish> {
        // A topic whose identifiers are not sound names nobody who could be told.
        let address = self.address(received)?;
        let reason = refused.reason.as_str();
        let millis = |wait: Duration| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let notice = Notice {
            reason,
            recipient: address.other_side(),
            received_at: now.as_millis(),
            // Rounded up: who comes back then is not to be told to wait again.
            retry_after_ms: refused
                .retry_after
                .map(|wait| millis(wait).saturating_add(1)),
            detail: refused.detail.as_deref(),
        };
        Some(Publish {
            topic: self.layouts.rejected(&address)?,
            payload: json(&notice),
            user_properties: vec![("reason".to_owned(), reason.to_owned())],
            retain: false,
        })
    }

    /// A payload over the limit is not repeated: a dead letter must not be what breaks the broker's limits.
    fn dead_letter(
        &self,
        received: &Received,
        refused: &Refused,
        now: UnixMillis,
    ) -> Option<Publish> {
        let to = self.dead_letter_topic.as_ref()?;
        let reason = refused.reason.as_str();
        let text = std::str::from_utf8(&received.payload);
        let kept = received.payload.len() == received.payload_bytes;
        let topic = String::from_utf8_lossy(&received.topic);
        let letter = DeadLetter {
            reason,
            detail: refused.detail.as_deref(),
            topic: &topic,
            received_at: now.as_millis(),
            payload_bytes: received.payload_bytes,
            payload: text.ok().filter(|_| kept),
            payload_base64: (kept && text.is_err())
                .then(|| BASE64_STANDARD.encode(&received.payload)),
        };
        // MQTT has no control characters in its strings (MQTT 5, 1.5.4): a user property that held one would cost the connection.
        let mut readable: String = topic
            .chars()
            .take(MAX_PROPERTY_BYTES)
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        readable.truncate(readable.floor_char_boundary(MAX_PROPERTY_BYTES));
        Some(Publish {
            topic: to.clone(),
            payload: json(&letter),
            user_properties: vec![
                ("reason".to_owned(), reason.to_owned()),
                ("topic".to_owned(), readable),
            ],
            retain: false,
        })
    }
}

/// The seed's layout: the same bytes into the recipient's inbox, and into the sender's own if the layout has him have a copy.
fn verbatim(outgoing: &Outgoing<'_>, payload: &Bytes, blocked: bool) -> Plan<'static> {
    let Outgoing {
        layout,
        app,
        sender,
        recipient,
    } = *outgoing;
    let copy = |inbox_of, convers_with| {
        Publish::new(
            layout.inbox_topic(app, inbox_of, convers_with),
            payload.clone(),
        )
    };
    let own = (layout.sender_copy() && sender != recipient).then(|| copy(sender, recipient));
    let others = (!blocked).then(|| copy(recipient, sender));
    Plan {
        publishes: own.into_iter().chain(others).collect(),
        ..Plan::default()
    }
}

fn new_message<'a>(outgoing: &Outgoing<'a>, message_id: &str, body: Body) -> NewMessage<'a> {
    NewMessage {
        app: outgoing.app,
        id: message_id.to_owned().into(),
        sender: outgoing.sender.as_str().into(),
        recipient: outgoing.recipient.as_str(),
        layout: outgoing.layout.name(),
        body,
    }
}

/// A group is stored, and those concerned are told.
fn group_update<'a>(app: AppId<'a>, update: &'a GroupUpdate) -> Plan<'a> {
    Plan {
        writes: vec![Write::Group {
            app,
            id: &update.id,
            body: &update.body,
        }],
        fan_out: Some(FanOut::notify(app, update)),
        ..Plan::default()
    }
}

fn json<T: Serialize>(value: &T) -> Bytes {
    serde_json::to_vec(value)
        .expect("plain fields serialise")
        .into()
}

#[cfg(test)]
mod tests;
