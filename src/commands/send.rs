//! `send`: writes a message as a user, and waits for what becomes of it.

use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cli::SendArgs;
use super::init_quiet_log;
use super::input::user_id;
use super::output::Output;
use super::text::shown;
use super::user::User;
use crate::auth::secret::random_id;
use crate::mqtt::{Cause, LinkError};
use crate::protocol::message::Received;
use crate::protocol::refusal::Refusal;

/// How long the observer may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Publishes the message. Exit code 0: the observer has it, and it is on its way. 1: it is refused,
/// or nobody answers.
pub(super) async fn run(args: &SendArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    init_quiet_log(&config);
    let user = User::of(args.user.as_deref(), &config)?;
    user_id("recipient", &args.recipient)?;
    let text = match &args.text[..] {
        [only] if only == "-" => std::io::read_to_string(std::io::stdin())?,
        words => words.join(" "),
    };
    anyhow::ensure!(
        args.raw || !text.trim().is_empty(),
        "the message has no text"
    );
    let mark = random_id();
    let payload = match args.raw {
        true => text,
        false => message(
            &user.name,
            &args.recipient,
            text.trim_end_matches('\n'),
            &mark,
        ),
    };
    let sent = Sent {
        added: user.own(&format!("messages/{}/clientadded", args.recipient)),
        rejected: user.own(&format!("messages/{}/clientrejected", args.recipient)),
        user: &user.name,
        mark: (!args.raw).then_some(&mark),
    };
    let mut client = user.connect().await?;
    let began = Instant::now();
    let topic = user.outgoing(&args.recipient);
    let published = client.publish(topic.clone(), Bytes::from(payload)).await;
    published.map_err(|error| user.not_allowed(error, topic.as_str()))?;
    let answer = loop {
        match client
            .message(PATIENCE.saturating_sub(began.elapsed()))
            .await
        {
            Ok(received) => {
                if let Some(answer) = sent.answer(&received) {
                    break Some(answer);
                }
            }
            Err(LinkError {
                cause: Cause::TimedOut,
                ..
            }) => break None,
            Err(error) => return Err(error.into()),
        }
    };
    let took = began.elapsed();
    client.leave().await;
    match answer {
        Some(Answer::Forwarded(id)) => {
            if args.format.json {
                out.json(&json!({"message_id": id, "micros": took.as_micros()}))?;
            } else {
                out.line(format_args!("sent  {}  after {took:.1?}", shown(&id)))?;
                if is_group(&args.recipient) {
                    out.message(group_note(&user, &args.recipient));
                }
            }
            Ok(ExitCode::SUCCESS)
        }
        Some(Answer::Refused(text)) => anyhow::bail!("refused: {text}"),
        None => anyhow::bail!(
            "the broker at {} has taken the message, but no observer answers within {}. \
             Does one run, for app {:?}? Ask it with: chat21-observer health",
            config.broker.address,
            humantime::format_duration(PATIENCE),
            user.app,
        ),
    }
}

/// A message as stock clients write it. `mark` comes back with it.
fn message(sender: &str, recipient: &str, text: &str, mark: &str) -> String {
    let channel = match is_group(recipient) {
        true => "group",
        false => "direct",
    };
    let message = json!({
        "text": text,
        "type": "text",
        "channel_type": channel,
        "sender_fullname": sender,
        "recipient_fullname": recipient,
        "attributes": {"tempUID": mark},
    });
    message.to_string()
}

/// Who gets a message to a group. The sender's copy does not tell whether the group is stored.
fn group_note(User { app, name, .. }: &User, group: &str) -> String {
    format!(
        "note: it goes to the members of {group:?} that are stored; if there is no such group, to \
         {name} alone. To see: chat21-observer group show {app} {group}"
    )
}

/// Whether a message to them is one to a group, by their name.
fn is_group(recipient: &str) -> bool {
    recipient.contains("group-")
}

/// What the answer to a message is known by.
struct Sent<'a> {
    added: String,
    rejected: String,
    user: &'a str,
    mark: Option<&'a String>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    /// The message is stored under this identifier.
    Forwarded(String),
    /// It is not forwarded, for this reason.
    Refused(String),
}

impl Sent<'_> {
    /// What a message in the sender's own inbox says of the one that was sent, if anything.
    fn answer(&self, received: &Received) -> Option<Answer> {
        let body: Value = serde_json::from_slice(&received.payload).ok()?;
        let mark = body.pointer("/attributes/tempUID").and_then(Value::as_str);
        let is_own = match self.mark {
            Some(own) => mark == Some(own.as_str()),
            None => body["sender"] == self.user,
        };
        let text = |key: &str| body[key].as_str().map(shown);
        if received.topic == self.added.as_str() && is_own {
            return Some(Answer::Forwarded(text("message_id")?));
        }
        // A refusal may have been made without reading the mark. A message that has one is JSON: it
        // is another client of the same user whose message is none.
        let may_be_own = match self.mark {
            Some(_) => mark.is_none() && body["reason"] != Refusal::NotJson.as_str(),
            None => true,
        };
        if received.topic == self.rejected.as_str() && (is_own || may_be_own) {
            return Some(Answer::Refused(refusal_text(&body)?));
        }
        None
    }
}

/// A refusal in words: its reason, what is wrong in this case, and what helps.
pub(super) fn refusal_text(notice: &Value) -> Option<String> {
    let reason = notice["reason"].as_str()?;
    let hint = reason.parse().ok().map(Refusal::hint);
    let detail = notice["detail"].as_str();
    let words = [Some(reason), detail, hint].into_iter().flatten();
    Some(words.map(shown).collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_message_is_its_own_copy_or_its_refusal() {
        let mark = "m1".to_owned();
        let sent = Sent {
            added: "apps/a/users/alice/messages/bob/clientadded".to_owned(),
            rejected: "apps/a/users/alice/messages/bob/clientrejected".to_owned(),
            user: "alice",
            mark: Some(&mark),
        };
        let answer = |topic: &str, payload: &str| {
            sent.answer(&Received {
                topic: Bytes::copy_from_slice(topic.as_bytes()),
                payload: Bytes::copy_from_slice(payload.as_bytes()),
                payload_bytes: payload.len(),
                retain: false,
            })
        };
        let own = r#"{"message_id":"1","sender":"alice","attributes":{"tempUID":"m1"}}"#;
        let others = r#"{"message_id":"1","sender":"alice","attributes":{"tempUID":"m2"}}"#;
        assert_eq!(
            answer(&sent.added, own),
            Some(Answer::Forwarded("1".to_owned()))
        );
        assert_eq!(answer(&sent.added, others), None);
        assert_eq!(
            answer("apps/a/users/alice/messages/carol/clientadded", own),
            None
        );
        assert_eq!(
            answer(
                &sent.rejected,
                r#"{"reason":"banned","detail":"until noon"}"#
            ),
            Some(Answer::Refused(
                "banned: until noon: the operator has banned the sender".to_owned()
            ))
        );
        // Another client of the same user has sent that.
        assert_eq!(answer(&sent.rejected, r#"{"reason":"not-json"}"#), None);
    }

    #[test]
    fn a_raw_payload_has_a_mark_of_its_own() {
        let sent = Sent {
            added: "apps/a/users/alice/messages/bob/clientadded".to_owned(),
            rejected: "apps/a/users/alice/messages/bob/clientrejected".to_owned(),
            user: "alice",
            mark: None,
        };
        let refused = r#"{"reason":"not-json","attributes":{"tempUID":"x"}}"#;
        let topic = sent.rejected.clone();
        let received = Received::new(topic.into(), refused.into(), false);
        let answer = sent.answer(&received).unwrap();
        assert!(matches!(answer, Answer::Refused(_)), "{answer:?}");
    }
}
