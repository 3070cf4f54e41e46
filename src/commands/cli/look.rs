//! The arguments of the commands that look at an observer or talk to it: `check`, `watch`,
//! `explain`, `send`, `inbox`.

use clap::Args;
use clap::builder::PossibleValuesParser;

use super::Format;
use crate::commands::scope::{Connection, Decisions, UserConnection, Verdict};
use crate::commands::settings::SettingsArgs;
use crate::telemetry::trace::Outcome;

#[derive(Debug, Args)]
pub(in crate::commands) struct ExplainArgs {
    /// A topic name
    #[arg(id = "TOPIC")]
    pub(in crate::commands) topic: String,
    /// The payload; a small JSON object if not given
    #[arg(long, value_name = "TEXT")]
    pub(in crate::commands) payload: Option<String>,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<Decisions>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct CheckArgs {
    /// Print each subscription and each round trip
    #[arg(long, short)]
    pub(in crate::commands) verbose: bool,
    #[command(flatten)]
    pub(in crate::commands) probe: ProbeArgs,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<Verdict>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct ProbeArgs {
    /// Try it as an ordinary user: file with their token
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with = "probe_password_file",
        hide_short_help = true
    )]
    pub(in crate::commands) probe_token_file: Option<String>,
    /// An ordinary user; the one that the token is for if not given
    #[arg(long, value_name = "USER", hide_short_help = true)]
    pub(in crate::commands) probe_user: Option<String>,
    /// File with that user's password
    #[arg(
        long,
        value_name = "FILE",
        requires = "probe_user",
        hide_short_help = true
    )]
    pub(in crate::commands) probe_password_file: Option<String>,
    /// That user's app; the token's, or the first of --app, if not given
    #[arg(long, value_name = "APP", hide_short_help = true)]
    pub(in crate::commands) probe_app: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct WatchArgs {
    /// Only messages from or to this user or group
    #[arg(long = "user", value_name = "USER")]
    pub(in crate::commands) users: Vec<String>,
    /// Only messages with this outcome
    #[arg(
        long = "outcome",
        value_name = "OUTCOME",
        value_parser = PossibleValuesParser::new(Outcome::words()),
    )]
    pub(in crate::commands) outcomes: Vec<String>,
    /// Show what is published and never read
    ///
    /// Beside it stands the topic that was probably meant.
    #[arg(long, conflicts_with_all = ["users", "outcomes"])]
    pub(in crate::commands) lost: bool,
    /// Show what users publish, too
    ///
    /// With the rights of this login: it must be allowed to read what users write.
    #[arg(long, conflicts_with_all = ["lost", "json"])]
    pub(in crate::commands) payload: bool,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<Connection>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct SendArgs {
    /// Who writes; the one who logs in if not given
    #[arg(long = "as", value_name = "USER")]
    pub(in crate::commands) user: Option<String>,
    /// A user or a group
    #[arg(id = "TO")]
    pub(in crate::commands) recipient: String,
    /// What they write; - for standard input
    #[arg(id = "TEXT", num_args = 1.., required = true)]
    pub(in crate::commands) text: Vec<String>,
    /// Publish TEXT as the payload, as it is
    ///
    /// Otherwise it is put into a message.
    #[arg(long)]
    pub(in crate::commands) raw: bool,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<UserConnection>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct InboxArgs {
    /// Whose inbox; that of the user who logs in if not given
    #[arg(id = "USER")]
    pub(in crate::commands) user: Option<String>,
    /// First show the last N stored messages
    #[arg(long, value_name = "N")]
    pub(in crate::commands) history: Option<usize>,
    #[command(flatten)]
    pub(in crate::commands) format: Format,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<UserConnection>,
}
