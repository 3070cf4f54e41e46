//! The command line as clap sees it: every command, its arguments and their help texts.
//!
//! Owns the definition only. The settings flags come from `settings`; each command's body is in the
//! file of its name. The doc comments here are the help texts, and so follow clap's style: short,
//! without a full stop. How help is laid out, and the examples in it, are in `help` and `examples`.

mod administer;
mod bench;
mod examples;
mod help;
mod look;
mod set_up;

use clap::{Args, Parser, Subcommand};

pub(super) use self::administer::{
    BanArgs, BlockArgs, BlockCommand, CopyArgs, DeliveryArgs, GroupArgs, GroupCommand, ImportArgs,
    StoreCommand, TimelineArgs, WebhookCommand,
};
pub(super) use self::bench::BenchArgs;
pub(super) use self::help::{command, parse};
pub(super) use self::look::{CheckArgs, ExplainArgs, InboxArgs, ProbeArgs, SendArgs, WatchArgs};
#[cfg(feature = "demo")]
pub(super) use self::set_up::DemoArgs;
pub(super) use self::set_up::{
    AclArgs, AclBroker, CompletionsArgs, ConfigCommand, GuideArgs, InitArgs, ManArgs, MintArgs,
    MintCommand, MintUserArgs, QueueArg, ShowArgs, SlotsCommand, SlotsRabbitMqArgs, TokenCommand,
};
use super::scope::Endpoint;
use super::settings::SettingsArgs;

/// Turns an MQTT broker into a Chat21 messaging backend
#[derive(Debug, Parser)]
#[command(
    name = "chat21-observer",
    version = concat!(env!("CARGO_PKG_VERSION"), env!("OBSERVER_BUILT_OF")),
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

// `help::SECTIONS` says where in the list of commands each one stands.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Try it: a broker, the observer and two users, in one process
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Connect to the broker and prove that messages would pass
    ///
    /// Proves login, session, subscriptions and a round trip; with a probe user, that they reach no
    /// other user's messages. It does not disturb a running observer.
    Check(CheckArgs),
    /// Run the observer
    Run(SettingsArgs),
    /// Ask a running observer whether it is ready (exit code 0 or 1)
    Health(SettingsArgs<Endpoint>),
    /// Show messages as a running observer handles them
    ///
    /// Works from anywhere: it talks to the observer over MQTT.
    Watch(WatchArgs),
    /// Write a message as a user, and say what became of it
    Send(SendArgs),
    /// Follow a user's inbox: messages, receipts and refusals
    ///
    /// As the user's own client would see them.
    Inbox(InboxArgs),
    /// Say what the observer would do with a message on TOPIC, and why
    ///
    /// Connects to nothing.
    Explain(ExplainArgs),
    /// Measure rate, latency, loss, duplicates and order
    ///
    /// Of a broker and the observer on it, whoever made that: it only speaks the wire protocol.
    /// Users of its own, bench-…, write to each other in the app bench. The observer has to serve
    /// that app.
    ///
    /// Each user has a connection of their own. All log in as the observer does, which may publish
    /// for everybody. With --jwt-key-file, each logs in with a token of their own instead.
    ///
    /// The messages stay in the observer's store, and webhooks are told of them.
    Bench(Box<BenchArgs>),
    /// Show and change stored groups
    ///
    /// A running observer applies a change at once. Users are told of it by `set --tell`,
    /// `add-member` and `remove-member`.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Show and change blocks and bans
    ///
    /// A running observer applies a change at once. Users are not notified.
    #[command(subcommand)]
    Block(BlockCommand),
    /// List, retry or drop webhook deliveries
    ///
    /// Those that wait and those that were given up. Safe while the observer runs.
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Count, export, import, copy, prune or check what is stored
    ///
    /// Safe while the observer runs, all but the copy.
    #[command(subcommand)]
    Store(StoreCommand),
    /// Write, check and show settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print access rules for the broker
    ///
    /// With them, each user writes to their own outgoing paths and reads their own inbox, and
    /// nothing else.
    Acl(AclArgs),
    /// Print what the broker needs for observers in slots
    #[command(subcommand)]
    Slots(SlotsCommand),
    /// Mint or inspect tokens for RabbitMQ
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print a chapter of the operator's guide, or list them
    Guide(GuideArgs),
    /// Print a manual page, of the program or of one command
    Man(ManArgs),
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// How a command prints its result.
#[derive(Debug, Args)]
pub(super) struct Format {
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}
