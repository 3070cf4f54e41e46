//! The observer against real brokers (`scripts/brokers`), and against a scripted one for what real
//! ones cannot be made to do.
//!
//! Run by `scripts/test`. A broker that is missing is an error.

#![expect(
    clippy::too_many_lines,
    reason = "tests: a scenario is easier to follow in one piece"
)]
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests: a failure is a panic, they have their own clock, and say what they measured"
)]

mod api;
mod api_access;
mod api_limits;
mod bed;
mod bench_command;
mod browser;
mod check;
mod cli;
mod clock;
mod cluster;
mod console;
mod copy;
mod crashes;
mod decision;
mod delivery_log;
mod deploy;
mod dots;
mod exchange;
mod faults;
mod faulty_line;
mod groups;
mod guarded;
mod help;
mod hostile;
mod http;
mod import;
mod layers;
mod link;
mod load;
mod matrix;
mod mistakes;
mod mixed;
mod neighbours;
mod other_brokers;
mod outage;
mod pipes;
mod postgres;
mod protocol;
mod quarantine;
mod quickstart;
mod readme;
mod redteam;
mod refusals;
mod relay;
mod reporting;
mod screens;
mod script;
mod scripts;
mod secrets;
mod settings;
mod slot_reports;
mod slots;
mod slow_way;
mod snippets;
mod soak;
mod store;
mod style;
mod supply_chain;
mod token;
mod turns;
mod users;
mod webhook;
mod wire;
