//! The arguments of the commands that set things up or print something: `config`, `acl`, `slots`,
//! `token`, `guide`, `man`, `completions`, `demo`.

use clap::{Args, Subcommand, ValueEnum};
use clap_complete::Shell;

use super::Format;
use crate::commands::scope::{Access, Sessions, Tokens};
use crate::commands::settings::SettingsArgs;

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum ConfigCommand {
    /// Print a file to begin with, or write it to FILE
    Init(InitArgs),
    /// Check the settings without connecting to anything
    ///
    /// Reads the file, the variables and the flags, and names every mistake with its place. The
    /// exit code is 2 if there is one.
    Check(SettingsArgs),
    /// Show the settings in force, without secrets
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(in crate::commands) struct InitArgs {
    /// The file to write; one that is there is not overwritten
    #[arg(id = "FILE")]
    pub(in crate::commands) file: Option<std::path::PathBuf>,
    /// All settings, not only those that most set-ups need
    #[arg(long)]
    pub(in crate::commands) all: bool,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct ShowArgs {
    /// Say where each value comes from
    ///
    /// A flag, a variable, a line of the file, or the default.
    #[arg(long)]
    pub(in crate::commands) origin: bool,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum SlotsCommand {
    /// Print definitions for `rabbitmqctl import_definitions`
    ///
    /// The queues of the observers' sessions, and with --sharing hash the exchange that shares
    /// messages out among them. Give it the settings of the observers. It makes the tables in the
    /// database if there are none, because the names of the queues are made of a secret in there.
    Rabbitmq(SlotsRabbitMqArgs),
}

#[derive(Debug, Args)]
pub(in crate::commands) struct SlotsRabbitMqArgs {
    /// What the sessions are kept in
    ///
    /// classic: in a queue on one node. quorum: in one that several nodes of a cluster hold, from
    /// RabbitMQ 4 on.
    #[arg(long, value_name = "KIND", value_enum, default_value_t = QueueArg::Classic)]
    pub(in crate::commands) queues: QueueArg,
    /// RabbitMQ's virtual host for MQTT (mqtt.vhost)
    #[arg(long, value_name = "NAME", default_value = "/", hide_short_help = true)]
    pub(in crate::commands) vhost: String,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<Sessions>,
}

/// A kind of queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(in crate::commands) enum QueueArg {
    Classic,
    Quorum,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum TokenCommand {
    /// Print a token, signed with --jwt-key-file
    #[command(subcommand)]
    Mint(MintCommand),
    /// Show what a token holds and until when it is valid
    ///
    /// With --jwt-key-file, also whether that key signed it.
    Inspect {
        /// File with the token; - for standard input
        #[arg(id = "FILE", default_value = "-")]
        file: String,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs<Tokens>,
    },
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum MintCommand {
    /// For a user, who may read and write under their own paths
    User(MintUserArgs),
    /// For a service such as the observer, which may do everything
    Service {
        /// Its name
        #[arg(id = "NAME", default_value = "observer")]
        name: String,
        #[command(flatten)]
        mint: MintArgs,
        #[command(flatten)]
        settings: SettingsArgs<Tokens>,
    },
}

#[derive(Debug, Args)]
pub(in crate::commands) struct MintUserArgs {
    /// The app
    #[arg(id = "APP")]
    pub(in crate::commands) app: String,
    /// The user
    #[arg(id = "USER")]
    pub(in crate::commands) user: String,
    /// The client identifier that the user may connect with; USER if not given
    ///
    /// It may be followed by "." and more.
    #[arg(long, value_name = "ID")]
    pub(in crate::commands) session: Option<String>,
    /// Allow any client identifier, for clients that generate theirs
    ///
    /// Chat21's clients do. Another user's session is then safe only while its client identifier is
    /// not known.
    #[arg(long, conflicts_with = "session")]
    pub(in crate::commands) any_session: bool,
    /// RabbitMQ's virtual host for MQTT (mqtt.vhost)
    #[arg(long, value_name = "NAME", default_value = "/", hide_short_help = true)]
    pub(in crate::commands) vhost: String,
    /// Use the scopes that Chat21 has always given
    ///
    /// They allow any session, and over AMQP every queue.
    #[arg(long, hide_short_help = true)]
    pub(in crate::commands) deployed_scopes: bool,
    #[command(flatten)]
    pub(in crate::commands) mint: MintArgs,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<Tokens>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct MintArgs {
    /// How long the token is valid
    #[arg(long, value_name = "TIME", default_value = "30d")]
    pub(in crate::commands) ttl: String,
    /// Mint the token in spite of a warning
    ///
    /// The secret is published, or the identifier may reach other users' paths.
    #[arg(long, hide_short_help = true)]
    pub(in crate::commands) force: bool,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct AclArgs {
    /// The broker that the rules are for
    #[arg(id = "BROKER")]
    pub(in crate::commands) broker: AclBroker,
    /// Print only this part: conf, users, tokens, advanced, acl
    #[arg(long, value_name = "NAME")]
    pub(in crate::commands) part: Option<String>,
    /// For RabbitMQ 3.8 to 3.12, whose settings have other names
    #[arg(long = "before-3.13")]
    pub(in crate::commands) before_3_13: bool,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<Access>,
}

// Not doc comments: clap would print them beside the values.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(in crate::commands) enum AclBroker {
    #[value(name = "rabbitmq")]
    RabbitMq,
    Mosquitto,
    Emqx,
    Nats,
    Ejabberd,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct GuideArgs {
    /// A name from the list, such as install
    #[arg(id = "CHAPTER")]
    pub(in crate::commands) chapter: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct ManArgs {
    /// A command such as run, or token mint user
    #[arg(id = "COMMAND", num_args = 0..)]
    pub(in crate::commands) command: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub(in crate::commands) shell: Shell,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(in crate::commands) struct DemoArgs {
    /// Stop after the conversation
    #[arg(long)]
    pub(in crate::commands) once: bool,
    /// The broker's port; 1883 or a free one if not given, 0 for free ports only
    #[arg(long, value_name = "PORT")]
    pub(in crate::commands) port: Option<u16>,
    /// The address to listen on; 0.0.0.0 lets in whoever reaches this machine
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1",
        env = "OBSERVER_DEMO_LISTEN"
    )]
    pub(in crate::commands) listen: std::net::IpAddr,
}
