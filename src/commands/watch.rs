//! `watch`: the messages that a running observer handles, as they pass, from anywhere the broker can be reached. It reads the observer's
//! lines of trace, and has it make them for as long as somebody looks on.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use bytes::Bytes;

use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::delivery::backoff::Backoff;
use crate::mqtt::{LinkError, Session};
use crate::protocol::topic::{Subscription, TopicFilter, TopicName};
use crate::telemetry::status::{Line, ServiceTopics, Status};

/// For how long the observer is asked to make lines of trace, and how often it is asked again.
const ASKED_FOR: (&str, Duration) = ("60s", Duration::from_secs(20));
/// How long to wait for the observer's status.
const STATUS: Duration = Duration::from_secs(3);
/// Waits between two attempts to connect.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Which messages are shown.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// From or to one of these users or groups; all, if there are none.
    pub users: Vec<String>,
    /// With one of these outcomes; all, if there are none.
    pub outcomes: Vec<String>,
}

impl Filters {
    fn shows(&self, line: &Line) -> bool {
        let is = |user: &String| [&line.sender, &line.recipient].contains(&&Some(user.clone()));
        let user = self.users.is_empty() || self.users.iter().any(is);
        let outcome = self.outcomes.is_empty() || self.outcomes.contains(&line.outcome);
        user && outcome
    }
}

/// Why watching has ended.
enum End {
    /// Whoever reads the lines has seen enough.
    Closed,
    /// The connection is gone.
    Lost(LinkError),
}

impl From<LinkError> for End {
    fn from(error: LinkError) -> Self {
        Self::Lost(error)
    }
}

/// Shows messages until nobody reads them any more; `json`: as they are. Connects again when the connection is lost.
///
/// # Errors
/// A login that is refused, and the like: what does not pass by itself.
pub async fn run(config: &Config, filters: &Filters, json: bool) -> Result<(), LinkError> {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match watch(config, filters, json, &mut backoff).await {
            End::Closed => return Ok(()),
            End::Lost(error) if error.is_permanent() => return Err(error),
            End::Lost(error) => {
                let wait = backoff.next(fastrand::u64(..));
                let wait = Duration::from_millis(u64::try_from(wait.as_millis()).unwrap_or(1_000));
                let wait_text = humantime::format_duration(wait);
                eprintln!(
                    "not connected to {}: {error}; again in {wait_text}",
                    config.broker
                );
                tokio::time::sleep(wait).await;
            }
        }
    }
}

async fn watch(config: &Config, filters: &Filters, json: bool, backoff: &mut Backoff) -> End {
    match connected(config, filters, json, backoff).await {
        Ok(end) | Err(end) => end,
    }
}

async fn connected(
    config: &Config,
    filters: &Filters,
    json: bool,
    backoff: &mut Backoff,
) -> Result<End, End> {
    let mut visitor = ProbeClient::connect(config.visitor_links("watch"), Session::Clean).await?;
    let topics = ServiceTopics::new(&config.name, "");
    let filter = |text: &str| Subscription {
        filter: TopicFilter::parse(text).expect("a filter"),
        retained: true,
    };
    let wanted = [filter(&topics.trace("+")), filter(topics.status.as_str())];
    let granted = visitor.subscribe_to(&wanted).await?;
    for (wanted, granted) in wanted.iter().zip(granted) {
        if let Err(reason) = granted {
            let text = format!(
                "subscription to {filter:?} was refused: {reason}",
                filter = wanted.filter.as_str()
            );
            let cause = crate::mqtt::Cause::NotAuthorized;
            return Err(LinkError::new(cause, text).into());
        }
    }
    let control = TopicName::parse(&topics.control_trace()).expect("a topic name");
    let mut heard = false;
    let mut said = String::new();
    let began = tokio::time::Instant::now();
    let mut ask_at = began;
    loop {
        let now = tokio::time::Instant::now();
        if now >= ask_at {
            let payload = Bytes::from_static(ASKED_FOR.0.as_bytes());
            visitor
                .publish(control.clone(), payload)
                .await
                .map_err(|error| {
                    let text = format!("{error} (may this user publish to {control}?)");
                    LinkError::new(error.cause, text)
                })?;
            backoff.reset();
            ask_at = now + ASKED_FOR.1;
        }
        let until = if heard {
            ask_at
        } else {
            ask_at.min(began + STATUS)
        };
        let received = match visitor.message(until.saturating_duration_since(now)).await {
            Ok(received) => received,
            Err(error) if error.cause == crate::mqtt::Cause::TimedOut => {
                if !heard && tokio::time::Instant::now() >= began + STATUS {
                    heard = true;
                    eprintln!(
                        "no observer called {:?} has left word of itself at {} (--name)",
                        config.name, config.broker
                    );
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        if received.topic == topics.status.as_str() {
            heard = true;
            if let Ok(status) = serde_json::from_slice::<Status>(&received.payload) {
                // It has just begun, and does not know that anybody looks on.
                if status.online && !status.trace {
                    ask_at = tokio::time::Instant::now();
                }
                let text = status_text(&config.name, &config.broker, &status);
                // It has changed in what nobody asked for, else.
                if text != said {
                    eprintln!("{text}");
                    said = text;
                }
            }
            continue;
        }
        // A line of another version may say more, but never less.
        let Ok(line) = serde_json::from_slice::<Line>(&received.payload) else {
            continue;
        };
        if !filters.shows(&line) {
            continue;
        }
        let written = if json {
            // JSON may hold control characters above ASCII as they are; a terminal would obey them.
            let text = shown(&String::from_utf8_lossy(&received.payload));
            let mut out = io::stdout().lock();
            writeln!(out, "{text}").and_then(|()| out.flush())
        } else {
            // It leaves the colours out where nobody sees them.
            let mut out = anstream::stdout().lock();
            writeln!(out, "{}", line_text(&line)).and_then(|()| out.flush())
        };
        if written.is_err() {
            visitor.leave().await;
            return Ok(End::Closed);
        }
    }
}

fn status_text(name: &str, broker: &str, status: &Status) -> String {
    let word = match (status.online, status.ready) {
        (true, true) => "online, ready".to_owned(),
        (true, false) => format!("online, not ready: {}", shown(&status.faults.join("; "))),
        (false, _) => "offline: what users write waits at the broker".to_owned(),
    };
    let version = status.version.as_deref().map(shown);
    let version = version.map(|version| format!(" {version}"));
    format!("{name}{} on {broker}: {word}", version.unwrap_or_default())
}

/// What a terminal would obey: control characters, and those that turn the direction of what follows.
fn commands(c: char) -> bool {
    let turns = ['\u{200e}', '\u{200f}', '\u{061c}'].contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c);
    c.is_control() || turns
}

/// Text that somebody else made, for a terminal. It stays JSON, if it is.
fn shown(text: &str) -> String {
    let visible = |c: char| match commands(c) {
        true => format!("\\u{:04x}", u32::from(c)),
        false => c.to_string(),
    };
    text.chars().map(visible).collect()
}

/// One line for a message, with colours.
fn line_text(line: &Line) -> String {
    let style = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
    let (outcome, bold, dim) = (
        style(match line.outcome.as_str() {
            "forwarded" => AnsiColor::Green,
            "refused" => AnsiColor::Red,
            _ => AnsiColor::Yellow,
        }),
        Style::new().bold(),
        Style::new().dimmed(),
    );
    let time = std::time::UNIX_EPOCH + Duration::from_millis(line.at);
    let time = humantime::format_rfc3339_millis(time).to_string();
    // The day is the reader's own.
    let clock = time.get(11..23).unwrap_or(&time);
    let what = line.layout.as_deref().unwrap_or(&line.kind);
    let mut out = format!(
        "{dim}{clock}{dim:#} {outcome}{:<9}{outcome:#} {:<12} ",
        shown(&line.outcome),
        shown(what)
    );
    let _ = match (&line.app, &line.sender, &line.recipient) {
        (Some(app), sender, recipient) => {
            let sender = sender.as_deref().map_or("(service)".to_owned(), shown);
            let to = recipient.as_deref().map(shown);
            let to = to.map_or(String::new(), |to| format!(" -> {to}"));
            write!(out, "{dim}{}{dim:#} {bold}{sender}{to}{bold:#}", shown(app))
        }
        (None, ..) => write!(out, "{}", shown(&line.topic)),
    };
    let _ = write!(out, "  {} us", line.micros);
    if let Some(reason) = &line.reason {
        let _ = write!(out, "  {outcome}{}{outcome:#}", shown(reason));
    } else if line.publishes > 0 {
        let copies = if line.publishes == 1 {
            "publish"
        } else {
            "publishes"
        };
        let _ = write!(out, "  {} {copies}", line.publishes);
    }
    if let Some(id) = &line.message_id {
        let _ = write!(out, "  {dim}{}{dim:#}", shown(id));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        serde_json::from_str(text).unwrap()
    }

    fn plain(line: &Line) -> String {
        anstream::adapter::strip_str(&line_text(line)).to_string()
    }

    const FORWARDED: &str = r#"{"at":1700000000123,"outcome":"forwarded","kind":"message","layout":"chat21","app":"tilechat","sender":"alice",
        "recipient":"bob","topic":"apps/tilechat/outgoing/users/alice/messages/bob/outgoing","message_id":"m1","to":["x"],"publishes":2,
        "payload_bytes":12,"micros":1830}"#;

    #[test]
    fn a_line_says_who_wrote_to_whom_and_what_became_of_it() {
        assert_eq!(
            plain(&line(FORWARDED)),
            "22:13:20.123 forwarded chat21       tilechat alice -> bob  1830 us  2 publishes  m1"
        );
        let refused = r#"{"at":0,"outcome":"refused","reason":"malformed-topic","kind":"unknown","topic":"a/\u001b[2Jb","publishes":0,
            "payload_bytes":1,"micros":9,"more":"of a later version"}"#;
        assert_eq!(
            plain(&line(refused)),
            "00:00:00.000 refused   unknown      a/\\u001b[2Jb  9 us  malformed-topic"
        );
    }

    #[test]
    fn filters_are_by_either_side_and_by_outcome() {
        let line = line(FORWARDED);
        let shows = |users: &[&str], outcomes: &[&str]| {
            let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
            let filters = Filters {
                users: texts(users),
                outcomes: texts(outcomes),
            };
            filters.shows(&line)
        };
        assert!(shows(&[], &[]));
        assert!(shows(&["bob"], &[]) && shows(&["x", "alice"], &["forwarded"]));
        assert!(!shows(&["carol"], &[]) && !shows(&["bob"], &["refused"]));
    }
}
