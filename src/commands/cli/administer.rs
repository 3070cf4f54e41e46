//! The arguments of the commands that administer what is stored: `store`, `group`, `block`,
//! `webhook`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Format;
use crate::commands::scope::{GroupChange, NewStore, StorePlace};
use crate::commands::settings::SettingsArgs;

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum StoreCommand {
    /// Count messages, conversations, groups and the like
    Stats {
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Print a timeline, oldest message first
    ///
    /// One JSON object a line. Without OTHER, the whole inbox of USER.
    Export {
        #[command(flatten)]
        timeline: TimelineArgs,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Copy the store into a new file, also while the observer runs
    ///
    /// For a back-up of a store in a file. The new file is readable to its owner alone.
    Backup {
        /// The file to make
        #[arg(id = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Import what chat21-server has stored
    ///
    /// Reads files of mongoexport, and makes the store if there is none. If it is killed, the same
    /// command goes on where it stopped.
    #[command(
        override_usage = "chat21-observer store import --messages|--conversations|--groups <FILE>"
    )]
    Import {
        #[command(flatten)]
        files: ImportArgs,
        #[command(flatten)]
        settings: SettingsArgs<NewStore>,
    },
    /// Copy a store into another: from a file into PostgreSQL, or back
    ///
    /// No observer may be running on either. The other store is made if there is none, and must be
    /// empty. If it is killed, the same command goes on where it stopped. At the end both are
    /// compared.
    Copy(CopyArgs),
    /// Delete messages older than AGE
    Prune {
        /// An age such as 90d
        #[arg(id = "AGE")]
        age: String,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Check that the database is sound
    Check(SettingsArgs<StorePlace>),
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(in crate::commands) struct ImportArgs {
    /// The collection messages, a JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) messages: Option<String>,
    /// The collection conversations; without it, users' lists are empty
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) conversations: Option<String>,
    /// The collection groups
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) groups: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct CopyArgs {
    /// The store to copy: the path of its file, or postgres://USER@HOST:PORT/DATABASE
    #[arg(id = "FROM")]
    pub(in crate::commands) from: String,
    /// The store to fill: the same
    #[arg(id = "TO")]
    pub(in crate::commands) to: String,
    /// The observer.client-id of a store in a file; beside it, unless said; none for none
    #[arg(long, value_name = "FILE")]
    pub(in crate::commands) client_id_file: Option<String>,
    /// The password of the database
    #[arg(long, value_name = "FILE", env = "OBSERVER_STORE_PASSWORD_FILE")]
    pub(in crate::commands) store_password_file: Option<String>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct TimelineArgs {
    /// The app
    #[arg(id = "APP")]
    pub(in crate::commands) app: String,
    /// The owner of the timeline, a user or a group
    #[arg(id = "USER")]
    pub(in crate::commands) user: String,
    /// The other side of the conversation, a user or a group
    ///
    /// A group's own timeline is with itself.
    #[arg(id = "OTHER")]
    pub(in crate::commands) other: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum GroupCommand {
    /// List groups, with how many members they have
    List {
        /// Only those of this app
        #[arg(id = "APP")]
        app: Option<String>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Print a group object
    Show {
        #[command(flatten)]
        group: GroupArgs,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Store a group object, in place of a group of that name
    Set {
        #[command(flatten)]
        group: GroupArgs,
        /// The group object in JSON; - for standard input
        #[arg(id = "FILE")]
        file: String,
        /// Have a running observer do it, and tell the members
        ///
        /// The observer stores the group and tells its members, also those that it had before. Who
        /// is new gets what the group said before. Messages of `system` tell who has joined. It is
        /// asked over MQTT, and the command waits until it is done.
        #[arg(long)]
        tell: bool,
        #[command(flatten)]
        settings: SettingsArgs<GroupChange>,
    },
    /// Have a running observer add a member, who gets the group's history
    ///
    /// The members are told, as if it were done over the HTTP API. The observer is asked over MQTT,
    /// and the command waits until it is done.
    AddMember {
        #[command(flatten)]
        group: GroupArgs,
        /// The user
        #[arg(id = "USER")]
        user: String,
        #[command(flatten)]
        settings: SettingsArgs<GroupChange>,
    },
    /// Have a running observer remove a member
    ///
    /// The members are told, and so is the one who is removed. The observer is asked over MQTT, and
    /// the command waits until it is done.
    RemoveMember {
        #[command(flatten)]
        group: GroupArgs,
        /// The user
        #[arg(id = "USER")]
        user: String,
        #[command(flatten)]
        settings: SettingsArgs<GroupChange>,
    },
    /// Delete a group from the store; nobody is told
    Remove {
        #[command(flatten)]
        group: GroupArgs,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
}

#[derive(Debug, Args)]
pub(in crate::commands) struct GroupArgs {
    /// The app
    #[arg(id = "APP")]
    pub(in crate::commands) app: String,
    /// The group
    #[arg(id = "GROUP")]
    pub(in crate::commands) group: String,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum BlockCommand {
    /// List bans and blocks
    List {
        /// Only those of this app
        #[arg(id = "APP")]
        app: Option<String>,
        /// Only those that concern this user, on either side
        #[arg(id = "USER")]
        user: Option<String>,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
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
pub(in crate::commands) struct BlockArgs {
    /// The app
    #[arg(id = "APP")]
    pub(in crate::commands) app: String,
    /// The user
    #[arg(id = "USER")]
    pub(in crate::commands) user: String,
    /// The user whose messages USER does not get
    #[arg(id = "OTHER")]
    pub(in crate::commands) other: String,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<StorePlace>,
}

#[derive(Debug, Args)]
pub(in crate::commands) struct BanArgs {
    /// The app
    #[arg(id = "APP")]
    pub(in crate::commands) app: String,
    /// The user
    #[arg(id = "USER")]
    pub(in crate::commands) user: String,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<StorePlace>,
}

#[derive(Debug, Subcommand)]
pub(in crate::commands) enum WebhookCommand {
    /// List deliveries that wait or were given up, oldest first
    List {
        /// Only those that were given up
        #[arg(long)]
        given_up: bool,
        #[command(flatten)]
        format: Format,
        #[command(flatten)]
        settings: SettingsArgs<StorePlace>,
    },
    /// Try deliveries again; without ID those that were given up
    ///
    /// A service that fails is first left alone for up to half a minute, or for as long as it
    /// asked.
    Retry(DeliveryArgs),
    /// Delete deliveries; without ID those that were given up
    Drop(DeliveryArgs),
}

#[derive(Debug, Args)]
pub(in crate::commands) struct DeliveryArgs {
    /// Deliveries, as list prints them and services see them (webhook-id)
    #[arg(id = "ID", num_args = 0..)]
    pub(in crate::commands) ids: Vec<String>,
    /// Also those that still wait
    #[arg(long, conflicts_with = "ID")]
    pub(in crate::commands) all: bool,
    #[command(flatten)]
    pub(in crate::commands) settings: SettingsArgs<StorePlace>,
}
