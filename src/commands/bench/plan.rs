//! What is to be measured: who writes to whom, how much, how fast, how often.
//!
//! Owns the defaults and what goes together. Leaves doing it to `load`.

use std::time::Duration;

use crate::commands::cli::BenchArgs;
use crate::commands::input::app_id;
use crate::config::Config;

/// The app of benches, and what the names of others begin with.
const APP: &str = "bench";
const APP_PREFIX: &str = "bench-";
const SENDERS: u32 = 100;
const UNDER_WAY: u32 = 100;
/// Copies under way at a time, of messages to groups.
const COPIES_UNDER_WAY: u32 = 1_000;
/// Connections, unless more are asked for: one process may open a thousand files by default.
const CONNECTIONS: u32 = 200;
const TIME: Duration = Duration::from_secs(5);
const ROUNDS_BESIDE_OTHERS: u32 = 3;

/// What carries messages from their senders to their recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub(super) enum Subject {
    /// The observer that runs.
    Observer,
    /// A forwarder that reads, checks and stores nothing.
    #[strum(serialize = "null forwarder")]
    NullForwarder,
    /// Nobody: senders and a publisher of copies give the broker the same work.
    #[strum(serialize = "broker alone")]
    BrokerAlone,
}

impl Subject {
    /// The first level of its topics. The observer must not read what is not for it.
    pub(super) fn root(self) -> &'static str {
        match self {
            Self::Observer => "apps",
            Self::NullForwarder | Self::BrokerAlone => "bench-apps",
        }
    }
}

/// When messages are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// So many a second, whatever becomes of them.
    Rate(u32),
    /// One as soon as another has arrived, with so many under way.
    UnderWay(u32),
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Time(Duration),
    Messages(u32),
}

/// All that one call of the command does.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) app: String,
    pub(super) senders: u32,
    /// The members of the group they write to; without one, each writes to one recipient.
    pub(super) group_size: Option<u32>,
    pub(super) connections: u32,
    pub(super) payload_bytes: usize,
    pub(super) paces: Vec<Pace>,
    pub(super) extent: Extent,
    pub(super) warm_up: Duration,
    pub(super) patience: Duration,
    pub(super) rounds: u32,
    pub(super) subjects: &'static [Subject],
}

impl Plan {
    /// # Errors
    /// What does not go together, and an app that is none for benches.
    pub(super) fn new(args: &BenchArgs, config: &Config) -> anyhow::Result<Self> {
        let apps = config.rules.router.layouts.apps();
        let app = apps.first().map_or(APP, String::as_str).to_owned();
        app_id(&app)?;
        anyhow::ensure!(
            args.force || app == APP || app.starts_with(APP_PREFIX),
            "app {app:?} is not one for benches (bench, or bench-…): the observer's store, \
             webhooks and limits would see the load. Measure with --app bench, or with --force \
             in {app:?}: only users called bench-… get messages"
        );
        let senders = match (args.senders, args.group_size) {
            (Some(senders), Some(size)) => {
                anyhow::ensure!(
                    senders <= size,
                    "--senders {senders} are members of the group: --group-size {size} is too small"
                );
                senders
            }
            (Some(senders), None) => senders,
            (None, size) => size.map_or(SENDERS, |size| size.min(SENDERS)),
        };
        anyhow::ensure!(
            args.plot.is_none() || args.rates.len() > 1,
            "--plot needs several rates: --rate 500,1000,2000"
        );
        let under_way = args.under_way.unwrap_or(match args.group_size {
            Some(size) => (COPIES_UNDER_WAY / size).clamp(1, UNDER_WAY),
            None => UNDER_WAY,
        });
        let mut plan = Self {
            app,
            senders,
            group_size: args.group_size,
            connections: 0,
            payload_bytes: args.payload as usize,
            paces: match args.rates.is_empty() {
                true => vec![Pace::UnderWay(under_way)],
                false => args.rates.iter().copied().map(Pace::Rate).collect(),
            },
            extent: match args.messages {
                Some(messages) => Extent::Messages(messages),
                None => Extent::Time(args.time.unwrap_or(TIME)),
            },
            warm_up: args.warm_up,
            patience: args.patience,
            rounds: args.rounds.unwrap_or(match args.ceiling {
                true => ROUNDS_BESIDE_OTHERS,
                false => 1,
            }),
            subjects: match args.ceiling {
                true => &[
                    Subject::Observer,
                    Subject::NullForwarder,
                    Subject::BrokerAlone,
                ],
                false => &[Subject::Observer],
            },
        };
        plan.connections = match args.connections {
            Some(connections) => connections.min(plan.users()),
            None => plan.users().min(CONNECTIONS),
        };
        Ok(plan)
    }

    /// How many users there are. The first of them write.
    pub(super) fn users(&self) -> u32 {
        self.group_size.unwrap_or(2 * self.senders)
    }

    /// Whether each user has a connection of their own.
    pub(super) fn is_one_each(&self) -> bool {
        self.connections == self.users()
    }

    /// How long one measurement takes at least, if that is known.
    pub(super) fn length(&self, pace: Pace) -> Option<Duration> {
        match (self.extent, pace) {
            (Extent::Time(time), _) => Some(self.warm_up + time),
            (Extent::Messages(count), Pace::Rate(rate)) => {
                Some(self.warm_up + Duration::from_secs_f64(f64::from(count) / f64::from(rate)))
            }
            (Extent::Messages(_), Pace::UnderWay(_)) => None,
        }
    }

    /// What is measured, in a line.
    pub(super) fn summary(&self, pace: Pace) -> String {
        let whom = match self.group_size {
            Some(size) => format!("to a group of {size}"),
            None => "to one user each".to_owned(),
        };
        let pace = match pace {
            Pace::Rate(rate) => format!("{rate} messages/s offered"),
            Pace::UnderWay(1) => "1 message under way".to_owned(),
            Pace::UnderWay(count) => format!("{count} messages under way"),
        };
        let plural = if self.senders == 1 { "" } else { "s" };
        format!(
            "{pace}: {} sender{plural} {whom}, {} bytes, {} connections",
            self.senders, self.payload_bytes, self.connections
        )
    }
}
