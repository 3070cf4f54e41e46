//! A user blocks another user, or stops blocking them.
//!
//! Owns how many users one may block, and who is told (`protocol.md`, section 4, *Block*). Leaves what
//! a block keeps back to `direct.rs` and `group_message.rs`.

use crate::protocol::layout::{Notification, Timeline};
use crate::protocol::refusal::Refusal;
use crate::protocol::request::BlockChange;
use crate::rules::facts::FactSource;
use crate::rules::plan::{Context, Plan, json};
use crate::rules::write::Write;

/// How many users one user may block: a bound on what a user can make us keep.
pub(crate) const MAX_BLOCKED: usize = 10_000;

/// What the plan of a block depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// How many users are blocked already; at most [`MAX_BLOCKED`], and 0 where it does not matter.
    pub(super) blocked: usize,
}

impl Facts {
    pub(super) fn look_up<S: FactSource + ?Sized>(
        timeline: &Timeline<'_>,
        change: BlockChange,
        source: &mut S,
    ) -> Result<Self, S::Error> {
        let blocked = match change {
            BlockChange::Block => {
                source.count_blocked(timeline.app, timeline.inbox_of, MAX_BLOCKED)?
            }
            BlockChange::Unblock => 0,
        };
        Ok(Self { blocked })
    }
}

/// The block is stored, and the clients of the user who blocks are told. The other user is not.
pub(super) fn plan<'a>(
    timeline: &Timeline<'a>,
    change: BlockChange,
    facts: Facts,
    context: &Context<'_>,
) -> Result<Plan<'a>, Refusal> {
    if change == BlockChange::Block && facts.blocked >= MAX_BLOCKED {
        return Err(Refusal::TooLarge);
    }
    let told = json(&serde_json::json!({ "blocked": change == BlockChange::Block }));
    Ok(Plan {
        publishes: vec![context.notify(Notification::Block, timeline, told)],
        writes: vec![Write::Block(*timeline, change)],
        ..Plan::default()
    })
}
