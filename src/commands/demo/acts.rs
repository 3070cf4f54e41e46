//! The four acts of the demo, and what passes after them.
//!
//! Owns what alice and bob do. Everything that is printed was heard from the broker.

use std::io::IsTerminal;
use std::time::Duration;

use anstyle::Style;
use anyhow::Context;
use bytes::Bytes;
use serde_json::Value;

use super::passing::line_text;
use crate::commands::output::Output;
use crate::config::Config;
use crate::connections::probe_client::ProbeClient;
use crate::mqtt::{Cause, Session};
use crate::protocol::message::Received;
use crate::protocol::topic::{TopicFilter, TopicName};

/// How long a message may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses before an act and after a line: a reader on a terminal follows, a pipe does not wait.
const ACT_PAUSE: Duration = Duration::from_millis(700);
const LINE_PAUSE: Duration = Duration::from_millis(120);
/// How long to wait for the next message when nothing has to come.
const IDLE: Duration = Duration::from_secs(3600);

/// The path that `sender` writes to `recipient` on, in the layout of today's clients.
pub(super) fn outgoing(sender: &str, recipient: &str) -> String {
    format!("apps/tilechat/outgoing/users/{sender}/messages/{recipient}/outgoing")
}

/// Alice, bob, and somebody who sees all that passes and prints it.
pub(super) struct Stage {
    alice: ProbeClient,
    bob: ProbeClient,
    onlooker: ProbeClient,
    out: Output,
    is_slow: bool,
}

/// What the onlooker waits for: a topic's last levels.
type Ends = &'static str;

impl Stage {
    /// Connects all three.
    pub(super) async fn enter(config: &Config, out: Output) -> anyhow::Result<Self> {
        let connect = |name| ProbeClient::connect(config.visitor_links(name), Session::Clean);
        let mut onlooker = connect("onlooker").await?;
        let filters = ["apps/#", "/apps/#"];
        let filters = filters.map(|filter| TopicFilter::parse(filter).expect("a filter"));
        onlooker.subscribe(&filters).await?;
        Ok(Self {
            alice: connect("alice").await?,
            bob: connect("bob").await?,
            onlooker,
            out,
            is_slow: std::io::stdout().is_terminal(),
        })
    }

    /// The whole play.
    pub(super) async fn play(&mut self) -> anyhow::Result<()> {
        let question = self.writes().await?;
        self.reads(&question).await?;
        self.talks_in_a_group().await?;
        self.is_refused().await
    }

    /// Returns the identifier of the message that alice wrote.
    async fn writes(&mut self) -> anyhow::Result<String> {
        self.announce("1", "alice writes to bob").await?;
        let question = r#"{"text":"Hi, are you there?"}"#;
        publish(&mut self.alice, &outgoing("alice", "bob"), question).await?;
        let heard = self
            .until(&[
                "outgoing",
                "alice/messages/bob/clientadded",
                "bob/messages/alice/clientadded",
            ])
            .await?;
        let answer = r#"{"text":"Loud and clear."}"#;
        publish(&mut self.bob, &outgoing("bob", "alice"), answer).await?;
        self.until(&[
            "outgoing",
            "bob/messages/alice/clientadded",
            "alice/messages/bob/clientadded",
        ])
        .await?;
        let message: Value = serde_json::from_slice(&heard)?;
        let id = message["message_id"].as_str();
        Ok(id.context("a message without an identifier")?.to_owned())
    }

    async fn reads(&mut self, message: &str) -> anyhow::Result<()> {
        self.announce("2", "bob has seen it").await?;
        let receipt = format!("apps/tilechat/users/bob/messages/alice/{message}/update");
        publish(&mut self.bob, &receipt, r#"{"status":300}"#).await?;
        self.until(&["update", "clientupdated"]).await?;
        Ok(())
    }

    async fn talks_in_a_group(&mut self) -> anyhow::Result<()> {
        self.announce("3", "a group").await?;
        let hello = r#"{"text":"All of you!","group":{"members":{"bob":1,"carol":1}}}"#;
        publish(&mut self.alice, &outgoing("alice", "group-1"), hello).await?;
        self.until(&[
            "outgoing",
            "alice/messages/group-1/clientadded",
            "bob/messages/group-1/clientadded",
            "carol/messages/group-1/clientadded",
        ])
        .await?;
        Ok(())
    }

    async fn is_refused(&mut self) -> anyhow::Result<()> {
        self.announce("4", "what is refused, and why").await?;
        publish(
            &mut self.alice,
            &outgoing("alice", "bob"),
            "this is no JSON",
        )
        .await?;
        self.until(&["outgoing", "clientrejected"]).await?;
        let to_many = r#"{"text":"Hello!","channel_type":"group"}"#;
        publish(&mut self.alice, &outgoing("alice", "all"), to_many).await?;
        self.until(&["outgoing", "clientrejected"]).await?;
        Ok(())
    }

    /// Prints what passes, until the future is dropped or the connection ends.
    pub(super) async fn look_on(&mut self) -> anyhow::Result<()> {
        loop {
            match self.onlooker.message(IDLE).await {
                Ok(received) => self.show(&received)?,
                Err(error) if error.cause == Cause::TimedOut => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    pub(super) async fn leave(self) {
        self.alice.leave().await;
        self.bob.leave().await;
        self.onlooker.leave().await;
    }

    async fn announce(&self, number: &str, title: &str) -> anyhow::Result<()> {
        if self.is_slow {
            tokio::time::sleep(ACT_PAUSE).await;
        }
        let bold = Style::new().bold();
        let title = format!("\n{bold}{number}  {title}{bold:#}");
        self.out.coloured_line(&title)?;
        Ok(())
    }

    /// Prints what passes until each of `wanted` has. Returns the payload of the last of them.
    async fn until(&mut self, wanted: &[Ends]) -> anyhow::Result<Bytes> {
        let mut missing = wanted.to_vec();
        let mut last = Bytes::new();
        while !missing.is_empty() {
            let received = self.onlooker.message(PATIENCE).await;
            let received = received.with_context(|| format!("nothing passed: {missing:?}"))?;
            self.show(&received)?;
            let topic = String::from_utf8_lossy(&received.topic);
            if let Some(at) = missing.iter().position(|ends| topic.ends_with(ends)) {
                missing.swap_remove(at);
                last = received.payload;
            }
            if self.is_slow {
                tokio::time::sleep(LINE_PAUSE).await;
            }
        }
        Ok(last)
    }

    fn show(&self, received: &Received) -> anyhow::Result<()> {
        let topic = String::from_utf8_lossy(&received.topic);
        if let Some(line) = line_text(&topic, &received.payload) {
            self.out.coloured_line(&line)?;
        }
        Ok(())
    }
}

async fn publish(client: &mut ProbeClient, topic: &str, text: &str) -> anyhow::Result<()> {
    let payload = Bytes::copy_from_slice(text.as_bytes());
    client.publish(TopicName::parse(topic)?, payload).await?;
    Ok(())
}
