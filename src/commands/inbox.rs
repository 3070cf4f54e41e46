//! `inbox`: follows a user's inbox, as their own client would.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use bytes::Bytes;
use serde_json::{Value, json};

use super::cli::InboxArgs;
use super::output::Output;
use super::send::refusal_text;
use super::text::{clock, shown, status_word};
use super::user::User;
use super::{init_quiet_log, rest};
use crate::connections::probe_client::ProbeClient;
use crate::delivery::backoff::Backoff;
use crate::mqtt::{Cause, LinkError};
use crate::protocol::message::Received;
use crate::telemetry::clock::Clock;

/// How long the observer may take for a page of history.
const PATIENCE: Duration = Duration::from_secs(10);
/// How far history goes back before it begins at the very first message: some seven years.
const FURTHEST_HOURS: u64 = 1 << 16;
/// Messages asked for at a time.
const PAGE: usize = 500;
/// How long to wait for the next message when nothing has to come.
const IDLE: Duration = Duration::from_secs(3_600);
/// Times between attempts to connect again: the first, and the longest.
const REST: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Prints what arrives, until it is interrupted or nobody reads it any more. Only the first
/// connection has to succeed: a broker that restarts does not end it.
pub(super) async fn run(args: &InboxArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    init_quiet_log(&config);
    let user = User::of(args.user.as_deref(), &config)?;
    let printer = Printer {
        user: &user,
        as_json: args.format.json,
        out,
    };
    let follow = async {
        let mut client = user.connect().await?;
        out.message(format_args!(
            "inbox of {} in app {} at {}; Ctrl-C ends it",
            user.name, user.app, config.broker.address
        ));
        if let Some(wanted) = args.history {
            for received in history(&mut client, &user, wanted).await? {
                printer.print(&received)?;
            }
        }
        loop {
            match client.message(IDLE).await {
                Ok(received) => printer.print(&received)?,
                Err(LinkError {
                    cause: Cause::TimedOut,
                    ..
                }) => {}
                Err(error) => client = again(&user, error, out).await?,
            }
        }
    };
    tokio::select! {
        ended = follow => ended,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted.map(|()| ExitCode::SUCCESS)?),
    }
}

/// Connects again after an error, however long it takes.
///
/// # Errors
/// What no further attempt would mend, such as a login that the broker refuses.
async fn again(user: &User, mut error: LinkError, out: Output) -> Result<ProbeClient, LinkError> {
    let mut backoff = Backoff::new(REST.0, REST.1);
    while !error.is_permanent() {
        rest(&mut backoff, &error, out).await;
        match user.connect().await {
            Ok(client) => {
                let advice = "what came meanwhile is in the history (--history N)";
                out.message(format_args!("connected again; {advice}"));
                return Ok(client);
            }
            Err(new) => error = new,
        }
    }
    Err(error)
}

/// The last `wanted` stored messages, oldest first, and what came live meanwhile.
///
/// A fetch begins at a time and goes forward: so it begins shortly before now, and further back as
/// long as there are too few.
async fn history(
    client: &mut ProbeClient,
    user: &User,
    wanted: usize,
) -> anyhow::Result<VecDeque<Received>> {
    let now = Clock.now().wall.as_millis();
    let mut live = VecDeque::new();
    let mut hours = Some(1);
    loop {
        let since = hours.map_or(0, |hours: u64| now.saturating_sub(hours * 3_600_000));
        let mut newest = pages(client, user, (since, wanted), &mut live).await?;
        if newest.len() >= wanted || since == 0 {
            newest.append(&mut live);
            return Ok(newest);
        }
        hours = hours
            .filter(|hours| *hours < FURTHEST_HOURS)
            .map(|hours| hours * 8);
    }
}

/// The last messages of those stored since a time, at most so many. What comes live is put aside.
async fn pages(
    client: &mut ProbeClient,
    user: &User,
    (mut since, wanted): (u64, usize),
    live: &mut VecDeque<Received>,
) -> anyhow::Result<VecDeque<Received>> {
    let done = user.own("inbox/clientupdated");
    let rejected = user.own("inbox/clientrejected");
    let mut newest = VecDeque::new();
    loop {
        let page = json!({"since": since, "limit": PAGE}).to_string();
        client.publish(user.fetch(), Bytes::from(page)).await?;
        loop {
            let received = client.message(PATIENCE).await.map_err(|error| {
                anyhow::anyhow!("no stored messages: {error}. Does an observer with a store run?")
            })?;
            let body: Value = serde_json::from_slice(&received.payload).unwrap_or_default();
            if received.topic == rejected.as_str() {
                let why = refusal_text(&body).unwrap_or_default();
                anyhow::bail!("stored messages are refused: {why}");
            }
            if received.topic != done.as_str() {
                if body["__history"] == true {
                    newest.push_back(received);
                } else {
                    live.push_back(received);
                }
                if newest.len() > wanted {
                    newest.pop_front();
                }
                continue;
            }
            match (body["more"].as_bool(), body["next"].as_u64()) {
                (Some(true), Some(next)) if next > since => since = next,
                _ => return Ok(newest),
            }
            break;
        }
    }
}

/// How messages are shown.
struct Printer<'a> {
    user: &'a User,
    as_json: bool,
    out: Output,
}

impl Printer<'_> {
    fn print(&self, received: &Received) -> anyhow::Result<()> {
        let topic = String::from_utf8_lossy(&received.topic);
        let path = topic.strip_prefix(&self.user.own("")).unwrap_or(&topic);
        let payload = serde_json::from_slice::<Value>(&received.payload);
        let Some(line) = line_text(&self.user.name, path, payload.as_ref().ok()) else {
            return Ok(());
        };
        if self.as_json {
            let payload = payload.unwrap_or_else(|_| {
                Value::String(String::from_utf8_lossy(&received.payload).into_owned())
            });
            let line = json!({"topic": topic, "payload": payload});
            // JSON may hold control characters above ASCII unescaped.
            self.out.line(shown(&line.to_string()))?;
        } else {
            self.out.coloured_line(&line)?;
        }
        Ok(())
    }
}

/// What a message under a user's own path says, as a line. `None` for what the user's own clients
/// publish there.
fn line_text(user: &str, path: &str, payload: Option<&Value>) -> Option<String> {
    let levels: Vec<&str> = path.split('/').collect();
    let last = *levels.last()?;
    if !last.starts_with("client") {
        return None;
    }
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    let red = Style::new().fg_color(Some(AnsiColor::Red.into()));
    let text = |key: &str| payload.and_then(|payload| payload[key].as_str()).map(shown);
    let number = |key: &str| payload.and_then(|payload| payload[key].as_i64());
    let status = number("status").map(status_word).unwrap_or_default();
    let time = number("timestamp").and_then(|time| u64::try_from(time).ok());
    let time = time.map_or_else(|| " ".repeat(8), |time| clock(time)[..8].to_owned());
    let line = match levels[..] {
        ["messages", peer, "clientadded"] => {
            let sender = text("sender").unwrap_or_else(|| shown(peer));
            let text = text("text").unwrap_or_else(|| "(no text)".to_owned());
            let (peer, is_own) = (shown(peer), sender == shown(user));
            match (is_own, peer == sender) {
                (true, _) => format!("{bold}to {peer}{bold:#}: {text}  {dim}{status}{dim:#}"),
                (false, true) => format!("{bold}{sender}{bold:#}: {text}"),
                (false, false) => format!("{bold}{sender}{bold:#} in {peer}: {text}"),
            }
        }
        ["messages", peer, id, "clientupdated"] => {
            let cut = id.chars().count().saturating_sub(4);
            let id: String = id.chars().skip(cut).collect();
            format!("{dim}{} has {status} …{}{dim:#}", shown(peer), shown(&id))
        }
        ["messages", peer, "clientrejected"] => {
            let why = payload.and_then(refusal_text).unwrap_or_default();
            format!("{red}to {}: refused: {why}{red:#}", shown(peer))
        }
        ["clientrejected"] => {
            let to = text("recipient").unwrap_or_default();
            let why = payload.and_then(refusal_text).unwrap_or_default();
            format!("{red}to {to:?}: refused: {why}{red:#}")
        }
        ["groups", group, "clientupdated"] => {
            let change = payload.map(group_change_text).unwrap_or_default();
            format!("{dim}group {}: {change}{dim:#}", shown(group))
        }
        ["inbox", _] => return None,
        _ => format!("{dim}{}{dim:#}", shown(path)),
    };
    Some(format!("{dim}{time}{dim:#}  {line}"))
}

/// What has become of a group, as its members are told: the change if it is named, then the group.
fn group_change_text(payload: &Value) -> String {
    let label = &payload["notification"]["messagelabel"];
    let parameter = |name: &str| label["parameters"][name].as_str().map(shown);
    let change = match (label["key"].as_str(), parameter("member_id")) {
        (Some("MEMBER_JOINED_GROUP"), Some(member)) => format!("{member} is a member now, "),
        (Some("MEMBER_LEFT_GROUP"), Some(member)) => format!("{member} is no member any more, "),
        (Some("DATA_UPDATED_GROUP"), _) => "renamed, ".to_owned(),
        (Some("ATTRIBUTES_UPDATED_GROUP"), _) => "other attributes, ".to_owned(),
        _ => String::new(),
    };
    let name = payload["name"].as_str().map(shown).unwrap_or_default();
    let members = payload["members"]
        .as_object()
        .map_or(0, serde_json::Map::len);
    let plural = if members == 1 { "" } else { "s" };
    format!("{change}{name:?} with {members} member{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(path: &str, payload: &Value) -> Option<String> {
        let line = line_text("alice", path, Some(payload))?;
        Some(anstream::adapter::strip_str(&line).to_string())
    }

    #[test]
    fn a_line_says_who_wrote_what_and_how_far_it_got() {
        let message = |sender: &str, status: i64| {
            json!({"text": "hi\u{1b}", "sender": sender, "status": status,
                   "timestamp": 1_700_000_000_123_u64})
        };
        for (path, payload, wanted) in [
            (
                "messages/bob/clientadded",
                message("bob", 150),
                "22:13:20  bob: hi\\u001b",
            ),
            (
                "messages/bob/clientadded",
                message("alice", 100),
                "22:13:20  to bob: hi\\u001b  sent",
            ),
            (
                "messages/group-1/clientadded",
                message("bob", 150),
                "22:13:20  bob in group-1: hi\\u001b",
            ),
            (
                "messages/bob/01a21d04-de4f/clientupdated",
                json!({"status": 300}),
                "          bob has seen …de4f",
            ),
            (
                "messages/bob/clientrejected",
                json!({"reason": "banned"}),
                "          to bob: refused: banned: the operator has banned the sender",
            ),
            (
                "groups/group-1/clientupdated",
                json!({
                    "name": "Friends", "members": {"alice": 1, "bob": 1},
                    "notification": {"messagelabel": {
                        "key": "MEMBER_JOINED_GROUP", "parameters": {"member_id": "bob"},
                    }},
                }),
                "          group group-1: bob is a member now, \"Friends\" with 2 members",
            ),
            (
                "groups/group-1/clientupdated",
                json!({"name": "Friends", "members": {"alice": 1}}),
                "          group group-1: \"Friends\" with 1 member",
            ),
            (
                "clientrejected",
                json!({"reason": "reserved-identifier", "recipient": "groups"}),
                "          to \"groups\": refused: reserved-identifier: an identifier is a word of \
                 the topic tree, such as \"messages\" or \"groups\"",
            ),
        ] {
            assert_eq!(plain(path, &payload).as_deref(), Some(wanted), "{path}");
        }
        assert_eq!(
            plain("messages/bob/x/update", &json!({"status": 300})),
            None
        );
        assert_eq!(plain("inbox/clientupdated", &json!({"fetched": 2})), None);
    }
}
