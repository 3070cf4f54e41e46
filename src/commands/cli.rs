//! The command line as clap sees it: every command, its arguments and their help texts.
//!
//! Owns the definition only. The settings flags come from `settings`; each command's body is in the
//! file of its name. The doc comments here are the help texts, and so follow clap's style: short,
//! without a full stop, arguments in lower case.

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::settings::SettingsArgs;
use crate::telemetry::trace::Outcome;

/// Turns an MQTT broker into a Chat21 messaging backend: what users write to their outgoing paths,
/// it publishes into inboxes
#[derive(Debug, Parser)]
#[command(
    name = "chat21-observer",
    version = concat!(env!("CARGO_PKG_VERSION"), env!("OBSERVER_BUILT_OF")),
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the observer
    Run(SettingsArgs),
    /// Say what the observer would do with a publish to TOPIC, and why; connects to nothing
    Explain(ExplainArgs),
    /// Connect, and prove that messages would pass: login, session, subscriptions, a round trip;
    /// with a probe user, that they reach no other user's messages
    Check(CheckArgs),
    /// Count, export, import, prune or check what is stored; safe while the observer runs
    #[command(subcommand)]
    Store(StoreCommand),
    /// Show and change stored groups; a running observer applies a change at once; users are told
    /// with --tell
    #[command(subcommand)]
    Group(GroupCommand),
    /// Show and change blocks and bans; a running observer applies a change at once; users are not
    /// notified
    #[command(subcommand)]
    Block(BlockCommand),
    /// List, retry or drop webhook deliveries that wait or were given up; safe while the observer
    /// runs
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Show the messages that a running observer handles, as they pass: from anywhere, over MQTT
    Watch(WatchArgs),
    /// Write a message as a user, and say what became of it
    Send(SendArgs),
    /// Follow a user's inbox: messages, receipts and refusals, as their own client would see them
    Inbox(InboxArgs),
    /// Mint tokens for RabbitMQ, or inspect one
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the broker configuration that lets each user write to their own outgoing paths and
    /// read their own inbox, and nothing else
    Acl(AclArgs),
    /// Ask the running observer whether it is ready (exit code 0 or 1)
    Health(SettingsArgs),
    /// Print a chapter of the operator's guide; without CHAPTER, list the chapters
    Guide(GuideArgs),
    /// Print a manual page, of the program or of one command
    Man(ManArgs),
    /// Print a completion script
    Completions(CompletionsArgs),
    /// Run a broker, the observer and two users who talk, all in one process: nothing to install
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
}

#[derive(Debug, Args)]
pub(super) struct ExplainArgs {
    /// a topic name
    #[arg(id = "TOPIC")]
    pub(super) topic: String,
    /// the payload; a small JSON object if not given
    #[arg(long, value_name = "TEXT")]
    pub(super) payload: Option<String>,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// print each subscription and each round trip
    #[arg(long, short)]
    pub(super) verbose: bool,
    #[command(flatten)]
    pub(super) probe: ProbeArgs,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct ProbeArgs {
    /// an ordinary user's token
    #[arg(long, value_name = "FILE", conflicts_with = "probe_password_file")]
    pub(super) probe_token_file: Option<String>,
    /// an ordinary user; the one the token is for if not given
    #[arg(long, value_name = "USER")]
    pub(super) probe_user: Option<String>,
    /// file with that user's password
    #[arg(long, value_name = "FILE", requires = "probe_user")]
    pub(super) probe_password_file: Option<String>,
    /// that user's app; the token's, or the first of --app, if not given
    #[arg(long, value_name = "APP")]
    pub(super) probe_app: Option<String>,
}

/// How a command prints its result.
#[derive(Debug, Args)]
pub(super) struct Format {
    /// print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Count messages, conversations, groups and the like
    Stats {
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Print a timeline, oldest message first, one JSON object a line; without OTHER the whole
    /// inbox
    Export {
        #[command(flatten)]
        timeline: TimelineArgs,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Import what chat21-server has stored, from files of mongoexport; killed in between, the same
    /// command goes on
    Import {
        #[command(flatten)]
        files: ImportArgs,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Delete messages older than AGE
    Prune {
        /// an age such as 90d
        #[arg(id = "AGE")]
        age: String,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Check that the database is sound
    Check(SettingsArgs),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct ImportArgs {
    /// the collection messages, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(super) messages: Option<String>,
    /// the collection conversations: without it users' lists are empty
    #[arg(long, value_name = "FILE")]
    pub(super) conversations: Option<String>,
    /// the collection groups
    #[arg(long, value_name = "FILE")]
    pub(super) groups: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct TimelineArgs {
    /// the app
    #[arg(id = "APP")]
    pub(super) app: String,
    /// the owner of the timeline, a user or a group
    #[arg(id = "USER")]
    pub(super) user: String,
    /// the other side of the conversation, a user or a group (a group's own timeline is with
    /// itself)
    #[arg(id = "OTHER")]
    pub(super) other: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List groups, with how many members they have
    List {
        /// only those of this app
        #[arg(id = "APP")]
        app: Option<String>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Print a group object
    Show {
        #[command(flatten)]
        group: GroupArgs,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Store a group object; it replaces a group of that name
    Set {
        #[command(flatten)]
        group: GroupArgs,
        /// the group object in JSON; - for standard input
        #[arg(id = "FILE")]
        file: String,
        /// hand it to the observer over MQTT, which stores it and tells its members, those it had
        /// before among them
        #[arg(long)]
        tell: bool,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Delete a group
    Remove {
        #[command(flatten)]
        group: GroupArgs,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct GroupArgs {
    /// the app
    #[arg(id = "APP")]
    pub(super) app: String,
    /// the group
    #[arg(id = "GROUP")]
    pub(super) group: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum BlockCommand {
    /// List bans and blocks
    List {
        /// only those of this app
        #[arg(id = "APP")]
        app: Option<String>,
        /// only those that concern this user, on either side
        #[arg(id = "USER")]
        user: Option<String>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Make USER block OTHER, as if USER had asked for it
    Set(BlockArgs),
    /// End USER's block of OTHER
    Clear(BlockArgs),
    /// Refuse what USER writes
    Ban(BanArgs),
    /// Lift the ban of USER
    Unban(BanArgs),
}

#[derive(Debug, Args)]
pub(super) struct BlockArgs {
    /// the app
    #[arg(id = "APP")]
    pub(super) app: String,
    /// the user
    #[arg(id = "USER")]
    pub(super) user: String,
    /// the user whose messages USER does not get
    #[arg(id = "OTHER")]
    pub(super) other: String,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct BanArgs {
    /// the app
    #[arg(id = "APP")]
    pub(super) app: String,
    /// the user
    #[arg(id = "USER")]
    pub(super) user: String,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum WebhookCommand {
    /// List deliveries that wait or were given up, oldest first
    List {
        /// only those that were given up
        #[arg(long)]
        given_up: bool,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs,
    },
    /// Try deliveries again; without ID those that were given up. A service that fails is first
    /// left alone for up to half a minute, or for as long as it asked
    Retry(DeliveryArgs),
    /// Delete deliveries; without ID those that were given up
    Drop(DeliveryArgs),
}

#[derive(Debug, Args)]
pub(super) struct DeliveryArgs {
    /// a delivery's id, as list prints it and services see it (webhook-id)
    #[arg(id = "ID", num_args = 0..)]
    pub(super) ids: Vec<String>,
    /// also those that still wait
    #[arg(long, conflicts_with = "ID")]
    pub(super) all: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// only messages from or to this user or group
    #[arg(long = "user", value_name = "USER")]
    pub(super) users: Vec<String>,
    /// only messages with this outcome
    #[arg(
        long = "outcome",
        value_name = "OUTCOME",
        value_parser = PossibleValuesParser::new(Outcome::words()),
    )]
    pub(super) outcomes: Vec<String>,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct SendArgs {
    /// the user who writes; the one who logs in if not given
    #[arg(long = "as", value_name = "USER")]
    pub(super) user: Option<String>,
    /// a user or a group
    #[arg(id = "TO")]
    pub(super) recipient: String,
    /// what they write; - for standard input
    #[arg(id = "TEXT")]
    pub(super) text: String,
    /// publish TEXT as the payload, as it is, instead of a message that holds it
    #[arg(long)]
    pub(super) raw: bool,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct InboxArgs {
    /// whose inbox; that of the user who logs in if not given
    #[arg(id = "USER")]
    pub(super) user: Option<String>,
    /// first show the last N stored messages
    #[arg(long, value_name = "N")]
    pub(super) history: Option<usize>,
    #[command(flatten)]
    pub(super) format: Format,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Print a token, signed with --jwt-key-file
    #[command(subcommand)]
    Mint(MintCommand),
    /// Show what a token holds, until when it is valid, and with --jwt-key-file whether that key
    /// signed it
    Inspect {
        /// file with the token; - for standard input
        #[arg(id = "FILE", default_value = "-")]
        file: String,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum MintCommand {
    /// For a user, who may read and write under their own paths
    User(MintUserArgs),
    /// For a service such as the observer, which may do everything
    Service {
        /// its name
        #[arg(id = "NAME", default_value = "observer")]
        name: String,
        #[command(flatten)]
        mint: MintArgs,
        #[command(flatten)]
        settings: SettingsArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct MintUserArgs {
    /// the app
    #[arg(id = "APP")]
    pub(super) app: String,
    /// the user
    #[arg(id = "USER")]
    pub(super) user: String,
    /// the MQTT client identifier the user may connect with, alone or followed by "." and more;
    /// the user's own identifier if not given
    #[arg(long, value_name = "ID")]
    pub(super) session: Option<String>,
    /// allow any client identifier, for clients that generate theirs, as Chat21's do: another
    /// user's session is safe only while its client identifier is not known
    #[arg(long, conflicts_with = "session")]
    pub(super) any_session: bool,
    /// RabbitMQ's virtual host for MQTT (mqtt.vhost)
    #[arg(long, value_name = "NAME", default_value = "/")]
    pub(super) vhost: String,
    /// use the scopes that Chat21 has always given: any session, and over AMQP every queue
    #[arg(long)]
    pub(super) deployed_scopes: bool,
    #[command(flatten)]
    pub(super) mint: MintArgs,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

#[derive(Debug, Args)]
pub(super) struct MintArgs {
    /// how long the token is valid
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub(super) ttl: String,
    /// mint the token even with a secret that is published, or for an identifier that may reach
    /// other users' paths
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Args)]
pub(super) struct AclArgs {
    #[arg(id = "BROKER")]
    pub(super) broker: AclBroker,
    /// print only this part: conf, users, tokens, advanced, acl
    #[arg(long, value_name = "NAME")]
    pub(super) part: Option<String>,
    /// for RabbitMQ 3.8 to 3.12, whose settings have other names
    #[arg(long = "before-3.13")]
    pub(super) before_3_13: bool,
    #[command(flatten)]
    pub(super) settings: SettingsArgs,
}

// Not doc comments: clap would print them beside the values.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum AclBroker {
    #[value(name = "rabbitmq")]
    RabbitMq,
    Mosquitto,
    Emqx,
}

#[derive(Debug, Args)]
pub(super) struct GuideArgs {
    /// a name from the list, such as install
    #[arg(id = "CHAPTER")]
    pub(super) chapter: Option<String>,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// a command such as run, or token mint user
    #[arg(id = "COMMAND", num_args = 0..)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    #[arg(value_name = "shell")]
    pub(super) shell: Shell,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// stop after the conversation
    #[arg(long)]
    pub(super) once: bool,
    /// the broker's port; 1883 or a free one if not given, 0 for free ports only
    #[arg(long, value_name = "PORT")]
    pub(super) port: Option<u16>,
    /// the address to listen on; 0.0.0.0 lets everybody in who reaches this machine
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        env = "OBSERVER_DEMO_LISTEN"
    )]
    pub(super) listen: std::net::IpAddr,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
