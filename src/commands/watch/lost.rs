//! `watch --lost`: shows what is published that the observer never reads, and which topic was
//! probably meant.
//!
//! Owns which topics are lost, and its connection. It reads with the operator's own rights, and
//! asks the observer for nothing.

use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::WatchError;
use crate::commands::cli::Format;
use crate::commands::output::Output;
use crate::commands::text::{clock, shown};
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::delivery::backoff::Backoff;
use crate::mqtt::{Cause, LinkError, Session};
use crate::protocol::address::ParseError;
use crate::protocol::message::Received;
use crate::protocol::topic::{Subscription, TopicFilter};
use crate::protocol::topic_map::TopicMap;
use crate::rules::router::Router;
use crate::telemetry::clock::Clock;

/// How long to wait for a message before waiting again.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A message that the observer never reads.
#[derive(Debug, Serialize)]
struct Lost {
    /// When it was seen, in milliseconds since 1970.
    at: u64,
    topic: String,
    payload_bytes: usize,
    /// Why it is not read, or which topic was probably meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nearest: Option<String>,
}

impl Lost {
    fn text(&self) -> String {
        let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
        let dim = Style::new().dimmed();
        let why = match (&self.because, &self.nearest) {
            (Some(because), _) => because.clone(),
            (None, Some(nearest)) => format!("nearest: {nearest}"),
            (None, None) => "no filter fits".to_owned(),
        };
        let (time, topic) = (clock(self.at), shown(&self.topic));
        format!(
            "{dim}{time}{dim:#} {red}lost{red:#}  {topic}  {}",
            shown(&why)
        )
    }
}

/// Tells lost topics from those that are read, and from those that the observer writes to.
struct Finder<'a> {
    router: &'a Router,
    read: Vec<Subscription>,
}

impl<'a> Finder<'a> {
    fn new(router: &'a Router) -> Self {
        Self {
            router,
            read: router.layouts.filters(),
        }
    }

    fn layouts(&self) -> &'a TopicMap {
        &self.router.layouts
    }

    fn find(&self, received: &Received, at: u64) -> Option<Lost> {
        let topic = String::from_utf8_lossy(&received.topic);
        let is_read = self.read.iter().any(|read| read.filter.matches(&topic));
        let dead_letters = self.router.dead_letter_topic.as_ref();
        let is_dead_letter = dead_letters.is_some_and(|letters| letters.as_str() == topic);
        if is_read || is_dead_letter || self.layouts().is_published(&topic) {
            return None;
        }
        let because = match self.layouts().parse(&topic) {
            Err(error @ ParseError::OtherApp(_)) => Some(error.to_string()),
            Err(_) | Ok(_) => None,
        };
        let nearest = self.layouts().nearest(&topic);
        Some(Lost {
            at,
            payload_bytes: received.payload_bytes,
            because,
            nearest: nearest.map(|nearest| nearest.to_string()),
            topic: topic.into_owned(),
        })
    }
}

/// Shows lost messages until that fails.
pub(super) async fn watch(
    config: &Config,
    format: &Format,
    out: Output,
    backoff: &mut Backoff,
) -> Result<(), WatchError> {
    let router = &config.rules.router;
    let mut client = ProbeClient::connect(config.visitor_links("watch"), Session::Clean).await?;
    let filters = router.layouts.roots();
    subscribe(&mut client, &filters).await?;
    backoff.reset();
    let filters: Vec<&str> = filters.iter().map(TopicFilter::as_str).collect();
    out.message(format_args!(
        "watching {} for what the observer never reads",
        filters.join(" ")
    ));
    let finder = Finder::new(router);
    loop {
        let received = match client.message(PATIENCE).await {
            Ok(received) => received,
            Err(error) if error.cause == Cause::TimedOut => continue,
            Err(error) => return Err(error.into()),
        };
        let Some(lost) = finder.find(&received, Clock.now().wall.as_millis()) else {
            continue;
        };
        let printed = match format.json {
            true => out.line(
                serde_json::to_string(&lost).map_or_else(|_| String::new(), |json| shown(&json)),
            ),
            false => out.coloured_line(&lost.text()),
        };
        if let Err(error) = printed {
            client.leave().await;
            return Err(error.into());
        }
    }
}

async fn subscribe(client: &mut ProbeClient, filters: &[TopicFilter]) -> Result<(), LinkError> {
    let granted = client.subscribe(filters).await.map_err(|error| {
        let text = format!("{error} (may this user read everything below apps?)");
        LinkError::new(error.cause, text)
    })?;
    for (filter, granted) in filters.iter().zip(granted) {
        if let Err(reason) = granted {
            let text = format!(
                "subscription to {:?} was refused: {reason}",
                filter.as_str()
            );
            return Err(LinkError::new(Cause::NotAuthorized, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;

    #[test]
    fn only_what_the_observer_neither_reads_nor_writes_is_lost() {
        let flags = Flags::from([
            ("state-dir", vec!["/nowhere".to_owned()]),
            ("app", vec!["a".to_owned()]),
            ("dead-letter-topic", vec!["apps/dead".to_owned()]),
        ]);
        let config = Config::load(&flags, &|_| None, None).unwrap();
        let finder = Finder::new(&config.rules.router);
        let lost = |topic: &str| {
            let received = Received::new(topic.to_owned().into(), "{}".into(), false);
            let lost = finder.find(&received, 0)?;
            let text = anstream::adapter::strip_str(&lost.text()).to_string();
            Some(text.split_once("  ").unwrap().1.to_owned())
        };
        for topic in [
            "apps/a/outgoing/users/alice/messages/bob/outgoing",
            "apps/a/outgoing/users/al/ice/messages/bob/outgoing",
            "apps/a/users/alice/messages/bob/clientadded",
            "apps/a/users/alice/messages/bob/clientrejected",
            "apps/a/users/alice/clientrejected",
            "apps/a/users/alice/messages/bob/m1/update",
            "apps/a/users/alice/messages/bob/m1/clientupdated",
            "apps/dead",
        ] {
            assert_eq!(lost(topic), None, "{topic}");
        }
        let typo = "apps/a/outgoing/users/alice/message/bob/outgoing";
        assert_eq!(
            lost(typo).unwrap(),
            format!(
                "{typo}  nearest: apps/{{app}}/outgoing/users/{{sender}}/messages/{{recipient}}\
                 /outgoing: level 6 is \"message\", should be \"messages\""
            )
        );
        let other = "apps/b/outgoing/users/alice/messages/bob/outgoing";
        assert_eq!(
            lost(other).unwrap(),
            format!("{other}  app \"b\" is not one of those served (--app)")
        );
        assert_eq!(
            lost("apps/\u{1b}[2J").unwrap(),
            "apps/\\u001b[2J  no filter fits"
        );
    }
}
