//! `explain`: says what the observer would do with a publish, and why.
//!
//! It looks into the store and connects to nothing. This file runs the observer's own rules and
//! collects what they lead to; `report` is what is printed, `words` puts reasons and writes into
//! words, `topic` what the topic says.

mod report;
mod topic;
mod words;

use std::hash::RandomState;
use std::process::ExitCode;

use serde_json::value::RawValue;

use self::report::{Explanation, Published};
use self::topic::Arrives;
use super::cli::ExplainArgs;
use super::output::Output;
use crate::config::Config;
use crate::protocol::address::ParseError;
use crate::protocol::message::Received;
use crate::protocol::message_id::MessageIds;
use crate::protocol::refusal::Refusal;
use crate::protocol::request::Request;
use crate::protocol::topic_map::TopicMap;
use crate::rules::facts::{FactSource, NoStore};
use crate::rules::fan_out::Found;
use crate::rules::group_request::submission;
use crate::rules::plan::{Arrival, Plan};
use crate::rules::router::Router;
use crate::rules::submission::{Authority, Submitted, Task};
use crate::rules::webhook_event::{self, Event};
use crate::store::{self, Access, Store, StoreError, StoreLocation};
use crate::telemetry::clock::Clock;

/// Copies for many, and webhook events, that are shown; further copies are counted.
const SHOWN: usize = 5;
const OWN: &str = "this is a topic of the observer's own, not of users (chapter operations)";
const CHANGE: &str = "if the change is made, what system says of it goes to the group, and whoever \
    joins gets the group's history";
const STORE_NONE: &str = "without a store (--store none) only outgoing paths are read";

pub(super) fn run(args: &ExplainArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    let explanation = explain(&config, &args.topic, args.payload.as_deref())?;
    let text = match args.format.json {
        true => format!("{}\n", serde_json::to_string_pretty(&explanation)?),
        false => explanation.text(),
    };
    let code = match explanation.because {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
    };
    Ok(out.verdict(&text, code)?)
}

/// Explains a publish of `payload` to `topic`; without a payload, of what is usual there.
fn explain(config: &Config, topic: &str, payload: Option<&str>) -> Result<Explanation, StoreError> {
    match topic::arrives(&config.rules.router.layouts, &config.name, topic) {
        Arrives::Yes => explain_read(config, topic, payload),
        Arrives::AsOwn => Ok(Explanation {
            verdict: "own topic",
            notes: vec![OWN.to_owned()],
            ..Explanation::of(topic, payload.unwrap_or_default())
        }),
        Arrives::Never => Ok(explain_unread(config, topic, payload.unwrap_or_default())),
    }
}

/// Explains a publish to a topic that the observer does not read.
fn explain_unread(config: &Config, topic: &str, payload: &str) -> Explanation {
    let layouts = &config.rules.router.layouts;
    let because = match layouts.parse(topic) {
        Err(error @ ParseError::OtherApp(_)) => error.to_string(),
        Err(_) | Ok(_) if config.store.is_none() => format!("no filter fits; {STORE_NONE}"),
        Err(_) | Ok(_) => "no filter fits".to_owned(),
    };
    // Whoever writes into an inbox means no other topic.
    let nearest = match layouts.is_published(topic) {
        true => None,
        false => layouts.nearest(topic).map(|nearest| nearest.to_string()),
    };
    Explanation {
        verdict: "never arrives",
        because: Some(because),
        nearest,
        notes: topic::notes(layouts, topic),
        ..Explanation::of(topic, payload)
    }
}

/// Explains a publish to a topic that the observer reads.
fn explain_read(
    config: &Config,
    topic: &str,
    payload: Option<&str>,
) -> Result<Explanation, StoreError> {
    let now = Clock.now().wall;
    let router = &config.rules.router;
    let mut notes = vec![];
    let mut store = open_store(config, &mut notes)?;
    let parsed = router.layouts.parse(topic);
    let payload = payload.unwrap_or_else(|| parsed.as_ref().map_or("", words::usual_payload));
    let mut received = Received::new(topic.to_owned().into(), payload.to_owned().into(), false);
    received.cut_to(config.rules.policy_file.max_payload_bytes());
    let id = MessageIds::new(RandomState::new()).next(now);
    let asked = submission(&router.layouts, parsed.as_ref().ok(), &received);
    let asked = asked.and_then(|submission| submission.messages.into_iter().next());
    let (received, change) = match &asked {
        Some(Submitted {
            received,
            task: Task::Change(change),
        }) => (received, Some(change)),
        Some(_) | None => (&received, None),
    };
    let request = match (router.read(received), change) {
        (Ok(Request::Message { outgoing, .. }), Some(change)) => {
            notes.push(CHANGE.to_owned());
            Ok(Request::GroupChange { outgoing, change })
        }
        (request, _) => request,
    };
    notes.extend(topic::notes(&router.layouts, topic));
    let arrival = Arrival {
        received,
        id,
        time: id.time(),
        authority: match change {
            Some(_) => Authority::Admin,
            None => Authority::Sender,
        },
    };
    let plan = match (&request, &mut store) {
        (Ok(request), Some(store)) => plan(router, request, &arrival, store.as_mut(), &mut notes)?,
        (Ok(request), None) => {
            let Ok(plan) = plan(router, request, &arrival, &mut NoStore, &mut notes);
            plan
        }
        (Err(refusal), _) => router.refuse(received, &(*refusal).into(), now),
    };
    let because = plan.refusal.map(|reason| match &parsed {
        Err(error) if config.store.is_none() => format!("{error}; {STORE_NONE}"),
        Err(error) => error.to_string(),
        Ok(_) => words::because(reason, request.as_ref().ok(), config),
    });
    // A level too many is a slip more often than what RabbitMQ makes of a ".".
    let nearest = match &parsed {
        Err(ParseError::SplitId) => router.layouts.nearest(topic),
        Err(_) | Ok(_) => None,
    };
    let nearest = nearest.map(|nearest| nearest.to_string());
    let mut effects = Effects::of(&plan);
    effects.fan_out(&plan, &router.layouts, store.as_deref())?;
    Ok(Explanation {
        verdict: effects.verdict(&plan),
        reason: plan.refusal.map(Refusal::as_str),
        because,
        nearest,
        message: parsed
            .ok()
            .map(|address| topic::describe(&router.layouts, topic, &address)),
        writes: effects.writes,
        publishes: effects.publishes,
        more_publishes: effects.more_publishes,
        webhooks: effects.webhooks,
        notes,
        ..Explanation::of(topic, payload)
    })
}

/// The plan for a request, and a note about the group it goes to.
fn plan<'a, S: FactSource + ?Sized>(
    router: &Router,
    request: &'a Request<'a>,
    arrival: &Arrival<'_>,
    source: &mut S,
    notes: &mut Vec<String>,
) -> Result<Plan<'a>, S::Error> {
    let plan = router.plan(request, arrival, source)?;
    notes.extend(words::group_note(request, &plan, source)?);
    Ok(plan)
}

/// The store there is, or an empty one in its place; `None` where the settings ask for none.
fn open_store(
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<Option<Box<dyn Store>>, StoreError> {
    let Some(settings) = &config.store else {
        return Ok(None);
    };
    let location = &settings.location;
    if *location != StoreLocation::Memory {
        match store::open(location, Access::Shared, settings.offline) {
            Err(StoreError::Missing(_) | StoreError::Empty(_)) => notes.push(format!(
                "there is no store at {location} yet: as if it were empty"
            )),
            opened => return opened.map(Some),
        }
    }
    store::open(&StoreLocation::Memory, Access::Shared, settings.offline).map(Some)
}

/// What a plan leads to.
#[derive(Default)]
struct Effects {
    writes: Vec<String>,
    publishes: Vec<Published>,
    /// Publishes beyond those that are shown.
    more_publishes: usize,
    webhooks: Vec<Box<RawValue>>,
}

impl Effects {
    /// What is done at once.
    fn of(plan: &Plan<'_>) -> Self {
        let publishes = plan.publishes.iter().chain(&plan.answers);
        Self {
            writes: plan.writes.iter().filter_map(words::write).collect(),
            publishes: publishes.map(Published::from).collect(),
            more_publishes: 0,
            webhooks: bodies(&plan.events),
        }
    }

    /// Adds what is done in steps.
    fn fan_out(
        &mut self,
        plan: &Plan<'_>,
        layouts: &TopicMap,
        store: Option<&dyn Store>,
    ) -> Result<(), StoreError> {
        let limit = self.publishes.len() + SHOWN;
        let mut rest = plan.fan_out.clone();
        while let Some(fan_out) = rest.take() {
            let found = match store {
                Some(store) => store.find(fan_out.query())?,
                None => Found::Nothing,
            };
            let step = fan_out.step(layouts, found);
            for publish in &step.publishes {
                if self.publishes.len() < limit {
                    self.publishes.push(publish.into());
                } else {
                    self.more_publishes += 1;
                }
            }
            if !step.writes.is_empty() {
                let count = step.writes.len();
                self.writes
                    .push(format!("copies in {count} timelines, status 150"));
            }
            if self.webhooks.len() < SHOWN {
                self.webhooks.extend(bodies(&step.events));
            }
            rest = step.rest;
        }
        self.webhooks.truncate(SHOWN);
        Ok(())
    }

    fn verdict(&self, plan: &Plan<'_>) -> &'static str {
        if plan.refusal.is_some() {
            "refused"
        } else if !self.publishes.is_empty() {
            "forwarded"
        } else if !self.writes.is_empty() {
            "stored"
        } else {
            "nothing to do"
        }
    }
}

/// Events as webhooks would be sent them.
fn bodies(events: &[Event]) -> Vec<Box<RawValue>> {
    let body = |event: &Event| {
        let data = String::from_utf8_lossy(&event.data);
        serde_json::from_slice(&webhook_event::body(&event.head, &data)).ok()
    };
    events.iter().filter_map(body).collect()
}
