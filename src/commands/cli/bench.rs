//! The arguments of `bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Format;
use crate::commands::scope::LoadConnection;
use crate::commands::settings::SettingsArgs;

#[derive(Debug, Args)]
pub(in crate::commands) struct BenchArgs {
    /// Messages a second to offer; several for a curve
    ///
    /// Latency counts from when a message was due, so one that could not be sent in time is not
    /// flattered.
    #[arg(
        long = "rate",
        value_name = "N",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
    )]
    pub(in crate::commands) rates: Vec<u32>,
    /// Or as fast as it goes: N under way [default: 100]
    ///
    /// Of messages to a group, as many as make a thousand copies.
    #[arg(
        long,
        value_name = "N",
        conflicts_with = "rates",
        value_parser = clap::value_parser!(u32).range(1..=10_000),
    )]
    pub(in crate::commands) under_way: Option<u32>,
    /// Users who write, each to one other [default: 100]
    ///
    /// The observer limits how much each may write (--rate-per-minute there).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(in crate::commands) senders: Option<u32>,
    /// Write to one group of N members instead
    ///
    /// The senders are among its members. It is stored by the observer as the group group-bench-….
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=100_000))]
    pub(in crate::commands) group_size: Option<u32>,
    /// Size of a message, in bytes
    #[arg(
        long,
        value_name = "BYTES",
        default_value = "300",
        hide_short_help = true,
        value_parser = clap::value_parser!(u32).range(128..=16_777_216),
    )]
    pub(in crate::commands) payload: u32,
    /// How long to measure [default: 5s]
    #[arg(
        long = "for",
        value_name = "TIME",
        conflicts_with = "messages",
        value_parser = humantime::parse_duration,
    )]
    pub(in crate::commands) time: Option<Duration>,
    /// Or how many messages to measure
    #[arg(
        long,
        value_name = "N",
        hide_short_help = true,
        value_parser = clap::value_parser!(u32).range(1..=100_000_000),
    )]
    pub(in crate::commands) messages: Option<u32>,
    /// Time before that, which is not measured
    #[arg(
        long,
        value_name = "TIME",
        default_value = "1s",
        hide_short_help = true,
        value_parser = humantime::parse_duration,
    )]
    pub(in crate::commands) warm_up: Duration,
    /// How long to wait for what has not arrived
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        hide_short_help = true,
        value_parser = humantime::parse_duration,
    )]
    pub(in crate::commands) patience: Duration,
    /// Connections that the users share [default: one each, at most 200]
    #[arg(
        long,
        value_name = "N",
        hide_short_help = true,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
    )]
    pub(in crate::commands) connections: Option<u32>,
    /// Also measure the broker alone and a null forwarder
    ///
    /// In the same run, turn about. The broker alone gets the same publishes and makes the same
    /// copies. The null forwarder publishes each copy when a message comes and acknowledges the
    /// message when all are confirmed; it reads nothing, checks nothing and stores nothing. This
    /// login must be allowed to use bench-apps/#.
    #[arg(long)]
    pub(in crate::commands) ceiling: bool,
    /// How often to measure; the median counts [default: 1, with --ceiling 3]
    #[arg(
        long,
        value_name = "N",
        hide_short_help = true,
        value_parser = clap::value_parser!(u32).range(1..=100),
    )]
    pub(in crate::commands) rounds: Option<u32>,
    /// Process of the observer: show its CPU and memory
    #[arg(long, value_name = "PID")]
    pub(in crate::commands) pid: Option<u32>,
    /// Draw latency against the rates offered, as an SVG
    #[arg(long, value_name = "FILE", requires = "rates", hide_short_help = true)]
    pub(in crate::commands) plot: Option<PathBuf>,
    /// Measure in this app, although it is not one for benches
    ///
    /// Those are called bench or begin with bench-. Only the bench's own users get messages, but
    /// the observer's store, webhooks and limits see the load.
    #[arg(long, hide_short_help = true)]
    pub(in crate::commands) force: bool,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<LoadConnection>,
}
