//! The observer's core and its delivery log under a virtual clock, against a model of a broker that
//! loses, repeats, reorders and renumbers, and is cut off, stopped and killed.
//!
//! Whatever can happen is decided by a number, the seed, so that what was found once happens again.
//! The observer is the real one, from the session's events to the packets that it wants written,
//! with its decisions and its store (SQLite, in memory); see `process.rs`. A run ends with nothing
//! failing any more, and is judged by [`audit`](crate::delivery::audit).
//!
//! `SIMULATION_STEPS=10000000 SEED=7 cargo test --release --lib simulation::` takes so many steps,
//! from that seed on. A run that is found faulty names its seed.

mod account;
mod broker;
mod process;
mod world;

use std::hash::Hasher;
use std::sync::Arc;
use std::time::Instant;

use self::account::{Account, Reached};
use self::world::{Faults, World};
use crate::protocol::amqp::BrokerKind;
use crate::protocol::control_topic::Controls;
use crate::protocol::layout::Layout;
use crate::protocol::topic_map::TopicMap;
use crate::rules::policy::{GroupSenders, Policy, Rules};
use crate::rules::router::Router;
use crate::rules::webhook_event::EventKinds;
use crate::store::{self, Access, OfflineDelivery, StoreLocation};
use crate::telemetry::Metrics;
use crate::telemetry::clock::virtual_time;

/// Steps of one run.
const STEPS: u64 = 4_000;
/// Steps in which everything is reached.
const MANY: u64 = 100_000;
/// Faulty runs after which no more are made.
const MOST_FAULTY: usize = 10;

const NONE_DEAD: Faults = Faults {
    dead_lines: false,
    decisions: false,
};

fn router() -> Router {
    let layouts = Layout::built_in("chat21-v1").unwrap();
    let rules = Rules {
        group_senders: GroupSenders::Anybody,
        max_inline_recipients: 10_000,
        ..Rules::default()
    };
    Router {
        layouts: TopicMap::new(layouts, vec![], &[], Controls::Served).unwrap(),
        policy: Arc::new(Policy::new(BrokerKind::Any, rules)),
        dead_letter_topic: None,
        events: EventKinds::default(),
    }
}

/// What runs have in common.
struct Bench {
    began: Instant,
    router: Router,
    metrics: Metrics,
}

impl Bench {
    #[expect(
        clippy::disallowed_methods,
        reason = "virtual time begins at some time"
    )]
    fn new() -> Self {
        Self {
            began: Instant::now(),
            router: router(),
            metrics: Metrics::new(&[]),
        }
    }

    /// One run. Returns what became of all messages, or what is wrong.
    fn run(&self, seed: u64, steps: u64, faults: Faults) -> Result<Account, String> {
        let location = StoreLocation::Memory;
        let store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker).unwrap();
        let parts = (store, &self.router, &self.metrics);
        let mut world = World::new((seed, self.began), faults, parts);
        for _ in 0..steps {
            world.step();
        }
        let account = world.rest()?;
        virtual_time::set(None);
        let verdict = account.verdict();
        match verdict.is_sound() && account.surplus.is_empty() {
            true => Ok(account),
            false => Err(format!(
                "{verdict:?}, without a message: {:?}",
                account.surplus
            )),
        }
    }

    #[expect(clippy::print_stdout, reason = "a long run says what it was")]
    fn runs(&self, first: u64, steps: u64, faults: Faults) {
        let mut acknowledged = 0;
        let mut reached = Reached::default();
        let mut faulty = vec![];
        for seed in first..first + steps.div_ceil(STEPS) {
            match self.run(seed, STEPS, faults) {
                Ok(account) => {
                    acknowledged += account.confirmed;
                    reached = reached.and(account.reached);
                }
                Err(wrong) => faulty.push(format!("SEED={seed}: {wrong:.1000}")),
            }
            assert!(faulty.len() < MOST_FAULTY, "{}", faulty.join("\n"));
        }
        assert!(faulty.is_empty(), "{}", faulty.join("\n"));
        let all = Reached {
            asked_again: faults.decisions,
            ..Reached::ALL
        };
        assert!(
            acknowledged > 0 && (steps < MANY || reached == all),
            "{reached:?}"
        );
        println!("{steps} steps from seed {first}: {acknowledged} messages acknowledged");
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// `SIMULATION_STEPS` asks for more of them, `SEED` for others.
#[test]
fn nothing_is_lost_swallowed_doubled_or_out_of_order() {
    let steps = number("SIMULATION_STEPS").unwrap_or(MANY);
    let first = number("SEED").unwrap_or(1);
    let faults = NONE_DEAD;
    Bench::new().runs(first, steps, faults);
}

/// A connection may carry nothing for seconds before anybody knows. See [`Faults::dead_lines`].
#[test]
fn connections_that_are_dead_for_a_while() {
    let steps = number("SIMULATION_STEPS").unwrap_or(MANY);
    let first = number("SEED").unwrap_or(1);
    let faults = Faults {
        dead_lines: true,
        ..NONE_DEAD
    };
    Bench::new().runs(first, steps, faults);
}

/// A decision service answers late, and not in the order it was asked.
#[test]
fn decisions_that_take_their_time() {
    let steps = number("SIMULATION_STEPS").unwrap_or(MANY);
    let first = number("SEED").unwrap_or(1);
    let faults = Faults {
        decisions: true,
        ..NONE_DEAD
    };
    Bench::new().runs(first, steps, faults);
}

/// What a seed has found happens again.
#[test]
fn a_seed_repeats_its_run() {
    let bench = Bench::new();
    let run = |seed| {
        let faults = NONE_DEAD;
        bench.run(seed, STEPS, faults).unwrap().trace.finish()
    };
    let traces = [1, 2, 3, 4].map(run);
    assert_eq!(traces, [1, 2, 3, 4].map(run));
    assert_ne!(traces[0], traces[1]);
}

/// What runs have found, and with which seed.
#[test]
fn what_was_found_stays_mended() {
    let bench = Bench::new();
    // A planned renewal after a connection that broke: what was acknowledged on that one must be
    // recognized when it comes again.
    let renewed = [(112, false), (2, true), (22, true), (54, true)];
    // A kill after acks on a connection that carries nothing: they have not arrived.
    let unproved = [7, 14, 27, 50, 72].map(|seed| (seed, true));
    for (seed, dead_lines) in renewed.into_iter().chain(unproved) {
        let run = bench.run(
            seed,
            STEPS,
            Faults {
                dead_lines,
                ..NONE_DEAD
            },
        );
        assert!(run.is_ok(), "SEED={seed}: {run:?}");
    }
}
