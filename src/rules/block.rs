//! A user blocks another user, or stops blocking them.
//!
//! Owns how many users one may block, and who is told (`protocol.md`, section 4, *Block*). Leaves
//! what a block keeps back to `direct.rs` and `group_message.rs`.

use crate::protocol::address::Timeline;
use crate::protocol::control_payload::BlockChange;
use crate::protocol::control_topic::Notification;
use crate::protocol::refusal::Refusal;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::facts::in_memory::InMemory;
    use crate::rules::test_support::{body, plan_with, received, router, timeline};

    fn by_alice(payload: &[u8], more_blocked: usize) -> Plan<'static> {
        let topic = b"apps/a/users/alice/blocked/bob/update";
        let source = InMemory {
            more_blocked,
            ..InMemory::default()
        };
        plan_with(router(), &received(topic, payload), source)
    }

    #[test]
    fn a_block_is_stored_and_the_one_who_blocks_is_told() {
        for (payload, change) in [
            (&br#"{"blocked":true}"#[..], BlockChange::Block),
            (br#"{"blocked":false}"#, BlockChange::Unblock),
        ] {
            let plan = by_alice(payload, 0);
            assert_eq!(
                plan.writes,
                [Write::Block(timeline("alice", "bob"), change)]
            );
            let [told] = &plan.publishes[..] else {
                panic!("{plan:?}")
            };
            assert_eq!(
                told.topic.as_str(),
                "apps/a/users/alice/blocked/bob/clientupdated"
            );
            let blocked = change == BlockChange::Block;
            assert_eq!(body(told), serde_json::json!({ "blocked": blocked }));
        }
    }

    #[test]
    fn so_many_users_can_be_blocked_and_no_more() {
        let on = br#"{"blocked":true}"#;
        assert_eq!(by_alice(on, MAX_BLOCKED - 1).refusal, None);
        assert_eq!(by_alice(on, MAX_BLOCKED).refusal, Some(Refusal::TooLarge));
        let off = br#"{"blocked":false}"#;
        assert_eq!(by_alice(off, MAX_BLOCKED).refusal, None);
    }
}
