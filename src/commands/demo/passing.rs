//! A publish in one line: who, which way, the topic, and what matters of the payload.
//!
//! Owns the look of what passes through the demo's broker. Pure: topic and payload in, text out.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use serde::Deserialize;

use crate::commands::text::{shown, status_word};
use crate::protocol::refusal::Refusal;

/// What all topics of the demo begin with. It is left out, so that a line fits a terminal.
pub(super) const PREFIX: &str = "apps/tilechat/";
/// How many characters of a user's text are shown.
const MAX_TEXT: usize = 32;
/// The widest topic that what follows it is aligned to.
const TOPIC_WIDTH: usize = 47;
/// Message identifiers are longer than this, words of the topic tree are not.
const LONG_LEVEL: usize = 24;

/// Which way a publish goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A user wrote it.
    Out,
    /// The observer published it into a user's inbox.
    In,
}

/// The fields of a payload that are shown.
#[derive(Debug, Default, Deserialize)]
struct Fields {
    text: Option<String>,
    status: Option<i64>,
    reason: Option<String>,
}

/// A publish as a line for a terminal, with colours. `None` for what is neither a user's nor for a
/// user, such as the observer's own status.
pub(super) fn line_text(topic: &str, payload: &[u8]) -> Option<String> {
    let (who, way) = party(topic)?;
    let fields: Fields = serde_json::from_slice(payload).unwrap_or_default();
    let refusal = topic.ends_with("/clientrejected");
    let (arrow, colour) = match (way, refusal) {
        (Way::Out, _) => ("→", AnsiColor::Cyan),
        (Way::In, false) => ("←", AnsiColor::Green),
        (Way::In, true) => ("←", AnsiColor::Red),
    };
    let (bold, colour) = (
        Style::new().bold(),
        Style::new().fg_color(Some(colour.into())),
    );
    let gist = match way {
        Way::Out => said(&fields, payload),
        Way::In => heard(&fields),
    };
    let mut line = format!(
        "  {bold}{:<7}{bold:#} {colour}{arrow}{colour:#} {:<TOPIC_WIDTH$} {colour}{gist}{colour:#}",
        shown(who),
        short_topic(topic),
    );
    if let Some(hint) = fields.reason.as_deref().and_then(hint).filter(|_| refusal) {
        let dim = Style::new().dimmed();
        let _ = write!(line, "\n            {dim}{hint}{dim:#}");
    }
    Some(line)
}

/// Whose topic it is, and which way it goes.
fn party(topic: &str) -> Option<(&str, Way)> {
    let levels: Vec<&str> = topic.trim_start_matches('/').split('/').collect();
    let last = *levels.last()?;
    match levels[..] {
        ["apps", "observer", ..] => None,
        ["apps", _, "outgoing", "users", user, ..] => Some((user, Way::Out)),
        ["apps", _, "users", user, ..] if last.starts_with("client") => Some((user, Way::In)),
        ["apps", _, "users", user, ..] => Some((user, Way::Out)),
        ["apps", ..] => Some(("?", Way::Out)),
        _ => None,
    }
}

/// The topic without what is the same in all, and with message identifiers cut.
fn short_topic(topic: &str) -> String {
    let short = |level: &str| -> String {
        let skipped = level.chars().count().saturating_sub(4);
        if level.len() <= LONG_LEVEL {
            shown(level)
        } else {
            format!(
                "…{}",
                shown(&level.chars().skip(skipped).collect::<String>())
            )
        }
    };
    let rest = topic.strip_prefix(PREFIX).unwrap_or(topic);
    rest.split('/').map(short).collect::<Vec<_>>().join("/")
}

/// What a user published.
fn said(fields: &Fields, payload: &[u8]) -> String {
    match (&fields.text, fields.status) {
        (Some(text), _) => format!("\"{}\"", cut(text)),
        (None, Some(status)) => format!("{status} {}", status_word(status)),
        (None, None) => cut(&String::from_utf8_lossy(payload)),
    }
}

/// What a user received. A message's text is left out: its sender's line has it.
fn heard(fields: &Fields) -> String {
    match (&fields.reason, fields.status) {
        (Some(reason), _) => shown(reason),
        (None, Some(status)) => format!("{status} {}", status_word(status)),
        (None, None) => String::new(),
    }
}

fn hint(reason: &str) -> Option<&'static str> {
    reason.parse().ok().map(Refusal::hint)
}

fn cut(text: &str) -> String {
    let shown = shown(text);
    match shown.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(topic: &str, payload: &str) -> Option<String> {
        let line = line_text(topic, payload.as_bytes())?;
        Some(anstream::adapter::strip_str(&line).to_string())
    }

    #[test]
    fn a_line_says_who_which_way_where_and_what() {
        let lines = [
            plain(
                "apps/tilechat/outgoing/users/alice/messages/bob/outgoing",
                r#"{"text":"hello"}"#,
            ),
            plain(
                "apps/tilechat/users/bob/messages/alice/clientadded",
                r#"{"text":"hello","status":150}"#,
            ),
            plain(
                "apps/tilechat/users/bob/messages/alice/01a21d04-4117-7000-3c5e9fbcde4f/update",
                r#"{"status":300}"#,
            ),
            plain(
                "/apps/tilechat/users/alice/bob/messages/outgoing",
                "no JSON \u{1b}[2J",
            ),
            plain("apps/other/nonsense", "{}"),
        ];
        let lines: Vec<String> = lines.into_iter().map(Option::unwrap).collect();
        assert_eq!(
            lines,
            [
                "  alice   → outgoing/users/alice/messages/bob/outgoing      \"hello\"",
                "  bob     ← users/bob/messages/alice/clientadded            150 delivered",
                "  bob     → users/bob/messages/alice/…de4f/update           300 seen",
                "  alice   → /apps/tilechat/users/alice/bob/messages/outgoing no JSON \\u001b[2J",
                "  ?       → apps/other/nonsense                             {}",
            ]
        );
    }

    #[test]
    fn a_refusal_has_its_reason_and_a_hint() {
        let topic = "apps/tilechat/users/alice/messages/bob/clientrejected";
        let line = plain(
            topic,
            r#"{"reason":"not-json","detail":"line 1, column 2"}"#,
        )
        .unwrap();
        assert_eq!(
            line,
            "  alice   ← users/alice/messages/bob/clientrejected         not-json\n\
            \x20           the payload must be a JSON object, such as {\"text\":\"hello\"}"
        );
    }

    #[test]
    fn the_observers_own_topics_are_left_out() {
        assert_eq!(plain("observer/chat21/status", "{}"), None);
        assert_eq!(plain("apps/observer/tilechat/groups/update", "{}"), None);
    }
}
