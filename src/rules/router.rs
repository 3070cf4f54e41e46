//! From a request to its plan: which file decides on which kind of request.
//!
//! Owns the way of a request: read, refused or planned. Leaves the checks to
//! [`checks`], and each kind's facts and plan to the file of that kind. How a
//! plan is carried out is the business of `observer`.

use std::sync::Arc;

use crate::protocol::address::{Address, Outgoing};
use crate::protocol::envelope::Envelope;
use crate::protocol::id::AppId;
use crate::protocol::message::Received;
use crate::protocol::refusal::{Refusal, Refused};
use crate::protocol::request::{Erased, Request};
use crate::protocol::time::UnixMillis;
use crate::protocol::topic::TopicName;
use crate::protocol::topic_map::TopicMap;
use crate::rules::facts::FactSource;
use crate::rules::plan::{Arrival, Context, Plan};
use crate::rules::policy::Policy;
use crate::rules::rate_limit::Sender;
use crate::rules::submission::Authority;
use crate::rules::webhook_event::EventKinds;
use crate::rules::write::{UserClient, Write};
use crate::rules::{
    block, checks, conversation, conversation_list, direct, fetch, group_change, group_history,
    group_message, group_update, inject, presence, receipt, refusal_notice,
};

/// Decides what becomes of requests.
#[derive(Clone, Debug)]
pub struct Router {
    /// Where messages come in and go.
    pub layouts: TopicMap,
    /// What the checks go by.
    pub policy: Arc<Policy>,
    /// Where refused messages are kept, if anywhere.
    pub dead_letter_topic: Option<TopicName>,
    /// The kinds of event that any webhook wants.
    pub events: EventKinds,
}

impl Router {
    /// What topic and payload say, if every check passes that needs no fact.
    ///
    /// # Errors
    /// The reason for which the message is refused.
    pub fn read<'a>(&'a self, received: &'a Received) -> Result<Request<'a>, Refusal> {
        checks::read_request(&self.layouts, &self.policy, received)
    }

    /// What topic and payload say of a message that has passed before, and is as it was stored.
    ///
    /// # Errors
    /// The reason for which the message is refused.
    pub fn read_stored<'a>(&'a self, received: &'a Received) -> Result<Request<'a>, Refusal> {
        checks::read_stored(&self.layouts, received)
    }

    /// What the topic alone says, if it says something.
    pub fn address<'a>(&'a self, received: &'a Received) -> Option<Address<'a>> {
        checks::parse_topic(&self.layouts, received).ok()
    }

    /// Who is charged and told for a message; `None` if its topic names nobody.
    pub fn sender<'a>(&'a self, received: &'a Received) -> Option<Sender<'a>> {
        if let Some(address) = self.address(received) {
            return Some(Sender::from(&address));
        }
        let topic = str::from_utf8(&received.topic).ok()?;
        let bad = self.layouts.bad_recipient(topic)?;
        Some(Sender::from(&bad))
    }

    /// What becomes of a request. Planned again with the same id, and before anything else is
    /// written down, it comes out the same.
    ///
    /// # Errors
    /// The source's own: nothing is decided then.
    pub fn plan<'a, S: FactSource + ?Sized>(
        &self,
        request: &'a Request<'a>,
        arrival: &Arrival<'_>,
        source: &mut S,
    ) -> Result<Plan<'a>, S::Error> {
        let context = self.context(request.address().app(), arrival);
        let reason = match self.decide(request, &context, source)? {
            Ok(mut plan) => match self.check_topics(&plan) {
                Ok(()) => {
                    self.add_dead_letter(&mut plan, arrival);
                    return Ok(plan);
                }
                Err(reason) => reason,
            },
            Err(reason) => reason,
        };
        Ok(self.refuse(arrival.received, &reason.into(), context.now()))
    }

    fn context<'c>(&'c self, app: AppId<'_>, arrival: &Arrival<'_>) -> Context<'c> {
        Context {
            layouts: &self.layouts,
            rules: self.policy.rules(app),
            broker_kind: self.policy.broker_kind,
            events: self.events,
            id: arrival.id,
            time: arrival.time,
            authority: arrival.authority,
        }
    }

    /// Looks up the facts of a request and makes its plan.
    fn decide<'a, S: FactSource + ?Sized>(
        &self,
        request: &'a Request<'a>,
        context: &Context<'_>,
        source: &mut S,
    ) -> Result<Result<Plan<'a>, Refusal>, S::Error> {
        if checks::is_banned(request, source)? {
            return Ok(Err(Refusal::Banned));
        }
        Ok(match request {
            Request::Verbatim { outgoing, payload } => {
                let facts = direct::Facts::look_up(outgoing, source)?;
                Ok(direct::plan_verbatim(outgoing, payload, facts))
            }
            Request::Message { outgoing, envelope } => {
                decide_message(outgoing, envelope, context, source)?
            }
            Request::Receipt {
                timeline,
                message,
                receipt,
            } => {
                let facts = receipt::Facts::look_up(timeline, *message, source)?;
                receipt::plan(timeline, *message, *receipt, facts, context)
            }
            Request::Patch { timeline, patch } => {
                let facts = conversation::Facts::look_up(timeline, source)?;
                conversation::plan_patch(timeline, patch, &facts, context)
            }
            Request::Archive { timeline, topic } => {
                let facts = conversation::Facts::look_up(timeline, source)?;
                conversation::plan_archive(timeline, topic, facts, context)
            }
            Request::Presence {
                app,
                user,
                client,
                change,
                last_seen,
            } => {
                let facts = presence::Facts::look_up(*app, *user, source)?;
                let client = UserClient::new(*app, *user, client.as_str());
                Ok(presence::plan(client, *change, *last_seen, &facts, context))
            }
            Request::Block { timeline, change } => {
                let facts = block::Facts::look_up(timeline, *change, source)?;
                block::plan(timeline, *change, facts, context)
            }
            Request::Fetch { app, user, fetch } => {
                let facts = fetch::Facts::look_up(fetch, source)?;
                Ok(fetch::plan(*app, *user, fetch, facts, context))
            }
            Request::ConversationsFetch { app, user, fetch } => {
                Ok(conversation_list::plan(*app, *user, fetch))
            }
            Request::Inject {
                timeline,
                message,
                payload,
            } => Ok(inject::plan(timeline, message, payload, context)),
            Request::GroupUpdate { app, update } => Ok(group_update::plan(*app, update)),
            Request::GroupChange { outgoing, change } => {
                let most = context.rules.max_groups;
                let facts = group_change::Facts::look_up(outgoing, change, most, source)?;
                group_change::plan(outgoing, change, &facts, context)
            }
            Request::Register {
                outgoing,
                instance,
                body,
            } => Ok(register(outgoing, instance, body, context)),
            Request::Erase { outgoing, what } => erase(outgoing, *what, context),
            Request::GroupHistory { outgoing, members } => {
                let facts = group_history::Facts::look_up(outgoing, members, source)?;
                Ok(group_history::plan(outgoing, facts, context))
            }
        })
    }

    /// The last check: whether the broker can carry every topic that the plan publishes to.
    fn check_topics(&self, plan: &Plan<'_>) -> Result<(), Refusal> {
        let kind = self.policy.broker_kind;
        let mut topics = plan.publishes.iter().map(|publish| &publish.topic);
        if topics.all(|topic| kind.carries(topic.as_str()).is_ok()) {
            Ok(())
        } else {
            Err(Refusal::Unroutable)
        }
    }

    /// Adds what the operator is told about a blocked sender. The plan is carried out although the
    /// request is refused, and the sender is not told.
    fn add_dead_letter(&self, plan: &mut Plan<'_>, arrival: &Arrival<'_>) {
        if let (Some(reason), Some(topic)) = (plan.refusal, &self.dead_letter_topic) {
            let (received, now) = (arrival.received, arrival.time);
            let letter = refusal_notice::dead_letter(topic, received, &reason.into(), now);
            plan.answers.push(letter);
        }
    }

    /// What becomes of a message that is refused: its sender is told where that is possible, and a
    /// dead letter is kept where that is wanted (`protocol.md`, section 5).
    pub fn refuse(&self, received: &Received, refused: &Refused, now: UnixMillis) -> Plan<'static> {
        let refused = &refusal_notice::with_detail(refused, received);
        // A topic whose identifiers are not sound names nobody who could be told.
        let notice = match self.address(received) {
            Some(address) => {
                refusal_notice::notice(&self.layouts, (&address, received), refused, now)
            }
            None => refusal_notice::of_bad_recipient(&self.layouts, received, refused, now),
        };
        let letter = self
            .dead_letter_topic
            .as_ref()
            .map(|topic| refusal_notice::dead_letter(topic, received, refused, now));
        Plan {
            answers: notice.into_iter().chain(letter).collect(),
            refusal: Some(refused.reason),
            detail: refused.detail.clone(),
            ..Plan::default()
        }
    }
}

/// A device or browser is known from now on.
fn register<'a>(
    outgoing: &Outgoing<'a>,
    instance: &'a str,
    body: &'a str,
    context: &Context<'_>,
) -> Plan<'a> {
    Plan {
        writes: vec![Write::Instance {
            app: outgoing.app,
            user: outgoing.sender,
            instance,
            body,
            keep: context.rules.max_instances,
        }],
        ..Plan::default()
    }
}

/// Only an administrator erases what others have. Nobody is told.
fn erase<'a>(
    outgoing: &Outgoing<'a>,
    what: Erased,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    if context.authority != Authority::Admin {
        return Err(Refusal::Unauthorized);
    }
    Ok(Plan {
        writes: vec![Write::Erase {
            app: outgoing.app,
            convers_with: outgoing.recipient,
            what,
        }],
        ..Plan::default()
    })
}

/// A message goes to a group or to a user.
fn decide_message<'a, S: FactSource + ?Sized>(
    outgoing: &Outgoing<'a>,
    envelope: &Envelope<'_>,
    context: &Context<'_>,
    source: &mut S,
) -> Result<Result<Plan<'a>, Refusal>, S::Error> {
    if let Some(facts) = group_message::Facts::look_up(outgoing, source)? {
        return Ok(group_message::plan(outgoing, envelope, facts, context));
    }
    let facts = direct::Facts::look_up(outgoing, source)?;
    Ok(direct::plan_message(outgoing, envelope, facts, context))
}

#[cfg(test)]
mod tests;
