//! What an observer is made of, and how a run ends.
//!
//! Owns the values that go into a run and come out of it. Leaves to `commands` how they are made
//! from settings.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::connections::settings::LinkSettings;
use crate::http::{api, console, decision_service, webhook};
use crate::mqtt::{Connected, LinkError};
use crate::observer::sharing::Sharing;
use crate::rules::policy::Policy;
use crate::rules::router::Router;
use crate::store::{StoreError, StoreSettings};
use crate::telemetry::{LogLevel, Stats};

/// What an observer is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its public name: the level after `observer/` in its own topics.
    pub name: String,
    /// How its connections are made.
    pub links: LinkSettings,
    /// How it reads topics and plans what becomes of messages.
    pub router: Router,
    /// The checks that apply, and each change of them.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// The service that is asked about each message, if there is one.
    pub consult: Option<decision_service::Settings>,
    /// Where messages are kept; `None` makes a pure forwarder.
    pub store: Option<StoreSettings>,
    /// Connections that publish. Two more are made: for bulk copies, and for what is in quarantine.
    pub publishers: usize,
    /// How long the broker may take to confirm a publish.
    pub ack_timeout: Duration,
    /// How long a stop may wait for what is under way.
    pub drain_timeout: Duration,
    /// Whether to discard the session that the broker has kept.
    pub reset_session: bool,
    /// Where health, metrics and the console are served.
    pub http_listen: Option<SocketAddr>,
    /// What the console shows there.
    pub console: console::Settings,
    /// How the HTTP API for chat clients is served, if it is.
    pub api: Option<api::Settings>,
    /// The endpoints that are told of events, if there are any.
    pub webhooks: Option<webhook::Settings>,
    /// What the observer reports of itself.
    pub reporting: Reporting,
    /// Its share of the messages, where it serves one slot of several.
    pub sharing: Option<Sharing>,
}

/// Whether other observers on the broker may take the same messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Neighbourhood {
    /// Nobody asks. This is a trial run, which others need not know of.
    #[default]
    Ignored,
    /// They may: both answer, and neither stops.
    Allowed,
    /// They may not: whoever starts later stops.
    Refused,
}

/// What an observer reports of itself.
#[derive(Clone, Debug, Default)]
pub struct Reporting {
    /// Whether its status is retained at the broker. A trial run leaves none.
    pub status: bool,
    /// Whether to look for other observers on the broker that take the same messages.
    pub neighbours: Neighbourhood,
    /// Whether a service manager may want to know how it is.
    pub supervised: bool,
    /// Whether each message leaves a line of trace.
    pub trace: bool,
    /// How often stats are published; `None` means never.
    pub stats_interval: Option<Duration>,
    /// The filter in force and what changes it; `None` where the log is not the observer's own.
    pub log_level: Option<(String, LogLevel)>,
}

/// The observer has connected and subscribed for the first time.
#[derive(Clone, Debug)]
pub struct Ready {
    /// What the broker granted to the session's connection.
    pub connected: Connected,
    /// How many filters it subscribed to.
    pub filters: usize,
    /// The address at which health is served.
    pub http: Option<SocketAddr>,
    /// The address at which the HTTP API is served.
    pub api: Option<SocketAddr>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// What it did.
    pub stats: Stats,
    /// Messages it had received and not acknowledged: the broker keeps them.
    pub left_unacknowledged: usize,
}

/// Why an observer cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// The address for health and metrics cannot be listened on.
    #[error("cannot serve the console, health and metrics on {address} (--http-listen)")]
    Listen {
        /// The address, as configured.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// The address of the HTTP API cannot be listened on.
    #[error("cannot serve the HTTP API on {address} (--api-listen)")]
    ListenApi {
        /// The address, as configured.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        error: std::io::Error,
    },
    /// The HTTP API cannot be served.
    #[error("cannot serve the HTTP API (--api-listen)")]
    Api(#[source] api::ApiError),
    /// `--reset-session` did not succeed.
    #[error("cannot reset the session")]
    Reset(#[source] LinkError),
    /// The store cannot be opened or read.
    #[error("cannot use the store (--store; none runs without)")]
    Store(#[source] StoreError),
    /// The HTTP client for webhooks cannot be set up.
    #[error("cannot tell webhooks (--webhook-endpoints)")]
    Webhook(#[source] reqwest::Error),
    /// The HTTP client for the decision service cannot be set up.
    #[error("cannot ask the decision service (--policy-url)")]
    Consult(#[source] reqwest::Error),
    /// The system gives no thread.
    #[error("cannot start the store's thread")]
    Thread(#[source] std::io::Error),
    /// Another observer takes the same messages.
    #[error(
        "the observer {other} is on this broker already and takes the same messages, so each would \
         be delivered twice: stop one of them, give them different --app, or start this one with \
         --allow-other-observers"
    )]
    OtherObserver {
        /// That observer, for people.
        other: String,
        /// Whether this one had no session at the broker before, and the other takes whatever is in
        /// it now: then it leaves none.
        discards_session: bool,
    },
    /// A task that should run as long as the observer has ended: a bug.
    #[error("the {0} task has ended unexpectedly")]
    TaskEnded(String),
}
