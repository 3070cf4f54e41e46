//! `watch`: shows the messages that a running observer handles, from anywhere that reaches the
//! broker.
//!
//! It reads the observer's trace lines, and asks the observer to publish them for as long as
//! somebody watches. Leaves the look of a line to `text`, and what no observer reads to `lost`.

mod lost;
mod text;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::text::{Passed, line_text, payload_text, status_text};
use super::cli::{Format, WatchArgs};
use super::output::{Output, OutputError};
use super::text::{shown, terminal_width};
use super::{init_quiet_log, rest};
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::delivery::backoff::Backoff;
use crate::mqtt::{Cause, LinkError, Session};
use crate::protocol::message::Received;
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};
use crate::store::postgres::MAX_SLOTS;
use crate::telemetry::operator_command::CommandTopic;
use crate::telemetry::service_topics::ServiceTopics;
use crate::telemetry::status::Status;
use crate::telemetry::trace::Line;

/// For how long the observer is asked to trace, as it reads it.
const TRACE_FOR: &str = "60s";
/// How often it is asked again: well before the time is over.
const ASK_EVERY: Duration = Duration::from_secs(20);
/// How long to wait for the observer's status before saying that there is none.
const STATUS: Duration = Duration::from_secs(3);
/// Shortest and longest wait between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Shows messages until it is interrupted or nobody reads them any more. Connects again when the
/// connection is lost.
pub(super) async fn run(args: &WatchArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    init_quiet_log(&config);
    let filters = Filters {
        users: &args.users,
        outcomes: &args.outcomes,
        payloads: args.payload,
    };
    let what = match args.lost {
        true => What::Lost,
        false => What::Handled(filters),
    };
    tokio::select! {
        ended = watch(&config, what, &args.format, out) => ended?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is watched.
#[derive(Clone, Copy, Debug)]
enum What<'a> {
    /// The messages that the observer handles.
    Handled(Filters<'a>),
    /// The messages that it never reads.
    Lost,
}

/// Which messages are shown.
#[derive(Clone, Copy, Debug)]
struct Filters<'a> {
    /// From or to one of these users or groups; all, if there are none.
    users: &'a [String],
    /// With one of these outcomes; all, if there are none.
    outcomes: &'a [String],
    /// Whether what users publish is shown, too.
    payloads: bool,
}

impl Filters<'_> {
    /// Whether the payload of a message on this topic is shown.
    fn show_payload(self, topic: &[u8]) -> bool {
        let names = |user: &String| {
            topic
                .split(|b| *b == b'/')
                .any(|level| level == user.as_bytes())
        };
        self.users.is_empty() || self.users.iter().any(names)
    }

    fn show(self, line: &Line) -> bool {
        let is = |user: &String| {
            let user = Some(user);
            line.sender.as_ref() == user || line.recipient.as_ref() == user
        };
        let user = self.users.is_empty() || self.users.iter().any(is);
        let outcome = self.outcomes.is_empty() || self.outcomes.contains(&line.outcome);
        user && outcome
    }
}

/// Why a visit to the broker ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

async fn watch(
    config: &Config,
    what: What<'_>,
    format: &Format,
    out: Output,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        let ended = async {
            let filters = match what {
                What::Lost => return lost::watch(config, format, out, &mut backoff).await,
                What::Handled(filters) => filters,
            };
            let watcher = Watcher::connect(config, filters, format, out).await?;
            watcher.run(&mut backoff).await
        };
        let error = match ended.await {
            Ok(()) => return Ok(()),
            Err(WatchError::Output(error)) => return Err(error.into()),
            Err(WatchError::Link(error)) if error.is_permanent() => return Err(error.into()),
            Err(WatchError::Link(error)) => error,
        };
        rest(&mut backoff, &error, out).await;
    }
}

/// Whether the observer has been heard of during this visit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Heard {
    /// Its status may still come.
    Waiting,
    /// Its status has come, or the operator knows that it has not.
    Settled,
}

/// An observer, or one slot of it.
struct Watched {
    name: String,
    topics: ServiceTopics,
    is_online: bool,
    /// The status line printed last, to print changes only.
    printed: String,
}

impl Watched {
    fn new(name: String) -> Self {
        Self {
            topics: ServiceTopics::new(&name, ""),
            name,
            is_online: false,
            printed: String::new(),
        }
    }

    /// The observer called `name`, and the slots that it may have.
    fn all(name: &str) -> Vec<Self> {
        let slots = (0..MAX_SLOTS).map(|slot| format!("{name}-{slot}"));
        let names = std::iter::once(name.to_owned()).chain(slots);
        names.map(Self::new).collect()
    }
}

/// One connection to the broker.
struct Watcher<'a> {
    config: &'a Config,
    filters: Filters<'a>,
    format: &'a Format,
    out: Output,
    client: ProbeClient,
    /// Of the observer of this name, and of its slots if it has any.
    observers: Vec<Watched>,
    began: Instant,
    ask_at: Instant,
    heard: Heard,
    /// It has left word that it is offline, and a slot may still say that it is there.
    gone: Option<Status>,
    /// What has passed since it was summed up last.
    passed: Passed,
    counts_since: Instant,
    /// The width of the terminal, if it is one.
    width: Option<usize>,
}

impl<'a> Watcher<'a> {
    async fn connect(
        config: &'a Config,
        filters: Filters<'a>,
        format: &'a Format,
        out: Output,
    ) -> Result<Self, LinkError> {
        let mut client =
            ProbeClient::connect(config.visitor_links("watch"), Session::Clean).await?;
        let observers = Watched::all(&config.name);
        subscribe(&mut client, &observers).await?;
        if filters.payloads {
            subscribe_to(&mut client, &config.rules.router.layouts.filters()).await?;
        }
        let began = Instant::now();
        Ok(Self {
            config,
            filters,
            format,
            out,
            client,
            observers,
            began,
            ask_at: began,
            heard: Heard::Waiting,
            gone: None,
            passed: Passed::default(),
            counts_since: began,
            width: terminal_width(),
        })
    }

    /// Prints lines until that fails, or the connection does.
    async fn run(mut self, backoff: &mut Backoff) -> Result<(), WatchError> {
        loop {
            let now = Instant::now();
            if now >= self.ask_at {
                self.sum_up();
                self.ask_for_trace().await?;
                backoff.reset();
                self.ask_at = now + ASK_EVERY;
            }
            let until = match self.heard {
                Heard::Waiting => self.ask_at.min(self.began + STATUS),
                Heard::Settled => self.ask_at,
            };
            let limit = until.saturating_duration_since(now);
            match self.client.message(limit).await {
                Ok(received) => {
                    let status =
                        |watched: &Watched| received.topic == watched.topics.status.as_str();
                    if let Some(at) = self.observers.iter().position(status) {
                        self.handle_status(at, &received.payload);
                    } else if let Err(error) = self.print(&received) {
                        self.client.leave().await;
                        return Err(error.into());
                    }
                }
                Err(error) if error.cause == Cause::TimedOut => self.note_silence(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Asks the observer of this name, and each slot that is there.
    async fn ask_for_trace(&mut self) -> Result<(), LinkError> {
        for (at, watched) in self.observers.iter().enumerate() {
            if at > 0 && !watched.is_online {
                continue;
            }
            let control = watched.topics.command(CommandTopic::Trace);
            let control = TopicName::parse(&control).expect("a topic name");
            let payload = Bytes::from_static(TRACE_FOR.as_bytes());
            let asked = self.client.publish(control.clone(), payload).await;
            asked.map_err(|error| {
                let text = format!("{error} (may this user publish to {control}?)");
                LinkError::new(error.cause, text)
            })?;
        }
        Ok(())
    }

    fn handle_status(&mut self, at: usize, payload: &[u8]) {
        let Ok(status) = serde_json::from_slice::<Status>(payload) else {
            return;
        };
        let has_slots = self.observers.iter().skip(1).any(|slot| slot.is_online);
        self.observers[at].is_online = status.online;
        if at == 0 && !status.online {
            // It may be of a time before there were slots.
            if has_slots {
                return;
            }
            if self.heard == Heard::Waiting {
                self.gone = Some(status);
                return;
            }
        }
        self.heard = Heard::Settled;
        // An observer that has just started does not know that somebody watches.
        if status.online && !status.trace {
            self.ask_at = Instant::now();
        }
        self.say_status(at, &status);
    }

    fn say_status(&mut self, at: usize, status: &Status) {
        let watched = &mut self.observers[at];
        let text = status_text(&watched.name, &self.config.broker.address, status);
        // Not again where only something has changed that the line does not tell.
        if text != watched.printed {
            self.out.message(&text);
            watched.printed = text;
        }
    }

    /// Says once that no observer has left a status.
    fn note_silence(&mut self) {
        if self.heard == Heard::Waiting && Instant::now() >= self.began + STATUS {
            self.heard = Heard::Settled;
            if let Some(gone) = self.gone.take() {
                return self.say_status(0, &gone);
            }
            self.out.message(format_args!(
                "no observer called {:?} has published a status at {} (--name)",
                self.config.name, self.config.broker.address
            ));
        }
    }

    /// Says on a terminal what has passed.
    fn sum_up(&mut self) {
        let passed = std::mem::take(&mut self.passed);
        let began = std::mem::replace(&mut self.counts_since, Instant::now());
        if let Some(text) = passed.text(began.elapsed())
            && std::io::stderr().is_terminal()
        {
            self.out.message(text);
        }
    }

    /// Prints a line of trace or a payload, if it passes the filters.
    fn print(&mut self, received: &Received) -> Result<(), OutputError> {
        let is_trace = |watched: &Watched| {
            let trace = watched.topics.trace("");
            received.topic.starts_with(trace.as_bytes())
        };
        if !self.observers.iter().any(is_trace) {
            return self.print_payload(received);
        }
        // Another version of the observer may add fields. What does not parse is no line.
        let Ok(line) = serde_json::from_slice::<Line>(&received.payload) else {
            return Ok(());
        };
        if !self.filters.show(&line) {
            return Ok(());
        }
        self.passed.count(&line);
        if self.format.json {
            // JSON may hold control characters above ASCII unescaped.
            self.out
                .line(shown(&String::from_utf8_lossy(&received.payload)))
        } else {
            self.out.coloured_line(&line_text(&line, self.width))
        }
    }

    fn print_payload(&self, received: &Received) -> Result<(), OutputError> {
        if !self.filters.show_payload(&received.topic) {
            return Ok(());
        }
        self.out.coloured_line(&payload_text(received))
    }
}

/// Subscribes to the observer's status and to its lines of trace, and to those of its slots.
async fn subscribe(client: &mut ProbeClient, observers: &[Watched]) -> Result<(), LinkError> {
    let filter = |text: &str| Subscription {
        filter: TopicFilter::parse(text).expect("a filter"),
        retained: true,
        is_optional: false,
    };
    let filters = observers.iter().flat_map(|Watched { topics, .. }| {
        [filter(&topics.trace("+")), filter(topics.status.as_str())]
    });
    subscribe_to(client, &filters.collect::<Vec<_>>()).await
}

async fn subscribe_to(client: &mut ProbeClient, wanted: &[Subscription]) -> Result<(), LinkError> {
    let granted = client.subscribe_to(wanted).await?;
    for (wanted, granted) in wanted.iter().zip(granted) {
        if let Err(reason) = granted {
            let filter = wanted.filter.as_str();
            let text = format!("subscription to {filter:?} was refused: {reason}");
            return Err(LinkError::new(Cause::NotAuthorized, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::text::tests::{FORWARDED, line};
    use super::*;

    #[test]
    fn filters_are_by_either_side_and_by_outcome() {
        let line = line(FORWARDED);
        let shows = |users: &[&str], outcomes: &[&str]| {
            let texts = |texts: &[&str]| -> Vec<String> {
                texts.iter().map(|text| (*text).to_owned()).collect()
            };
            let (users, outcomes) = (texts(users), texts(outcomes));
            let filters = Filters {
                users: &users,
                outcomes: &outcomes,
                payloads: false,
            };
            filters.show(&line)
        };
        assert!(shows(&[], &[]));
        assert!(shows(&["bob"], &[]) && shows(&["x", "alice"], &["forwarded"]));
        assert!(!shows(&["carol"], &[]) && !shows(&["bob"], &["refused"]));
    }
}
