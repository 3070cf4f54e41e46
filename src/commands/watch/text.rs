//! What `watch` prints, as text for a terminal.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use crate::commands::text::{clock, shown};
use crate::telemetry::status::Status;
use crate::telemetry::trace::Line;

/// The observer's own word on how it is.
pub(super) fn status_text(name: &str, broker: &str, status: &Status) -> String {
    let word = match (status.online, status.ready) {
        (true, true) => "online, ready".to_owned(),
        (true, false) => format!("online, not ready: {}", shown(&status.faults.join("; "))),
        (false, _) => "offline: what users write waits at the broker".to_owned(),
    };
    let version = match &status.version {
        Some(version) => format!(" {}", shown(version)),
        None => String::new(),
    };
    format!("{name}{version} on {broker}: {word}")
}

/// A line of trace on one line, with colours.
pub(super) fn line_text(line: &Line) -> String {
    let colour = match line.outcome.as_str() {
        "forwarded" => AnsiColor::Green,
        "refused" => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    let outcome = Style::new().fg_color(Some(colour.into()));
    let dim = Style::new().dimmed();
    let what = line.layout.as_deref().unwrap_or(&line.kind);
    let mut text = format!(
        "{dim}{}{dim:#} {outcome}{:<9}{outcome:#} {:<12} {}  {} us",
        clock(line.at),
        shown(&line.outcome),
        shown(what),
        route(line),
        line.micros,
    );
    if let Some(reason) = &line.reason {
        let _ = write!(text, "  {outcome}{}{outcome:#}", shown(reason));
    } else if line.publishes > 0 {
        let plural = if line.publishes == 1 { "" } else { "es" };
        let _ = write!(text, "  {} publish{plural}", line.publishes);
    }
    if let Some(id) = &line.message_id {
        let _ = write!(text, "  {dim}{}{dim:#}", shown(id));
    }
    text
}

/// Who wrote to whom, or the topic where it does not tell.
fn route(line: &Line) -> String {
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    let Some(app) = &line.app else {
        return shown(&line.topic);
    };
    let sender = match &line.sender {
        Some(sender) => shown(sender),
        None => "(service)".to_owned(),
    };
    let recipient = match &line.recipient {
        Some(recipient) => format!(" -> {}", shown(recipient)),
        None => String::new(),
    };
    format!(
        "{dim}{}{dim:#} {bold}{sender}{recipient}{bold:#}",
        shown(app)
    )
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::commands::watch) fn line(text: &str) -> Line {
        serde_json::from_str(text).unwrap()
    }

    fn plain(line: &Line) -> String {
        anstream::adapter::strip_str(&line_text(line)).to_string()
    }

    /// As the observer publishes it.
    pub(in crate::commands::watch) const FORWARDED: &str = r#"{
        "at":1700000000123,"outcome":"forwarded","kind":"message","layout":"chat21",
        "app":"tilechat","sender":"alice","recipient":"bob",
        "topic":"apps/tilechat/outgoing/users/alice/messages/bob/outgoing",
        "message_id":"m1","to":["x"],"publishes":2,"payload_bytes":12,"micros":1830
    }"#;

    #[test]
    fn a_line_says_who_wrote_to_whom_and_what_became_of_it() {
        assert_eq!(
            plain(&line(FORWARDED)),
            "22:13:20.123 forwarded chat21       tilechat alice -> bob  1830 us  2 publishes  m1"
        );
        let refused = r#"{
            "at":0,"outcome":"refused","reason":"malformed-topic","kind":"unknown",
            "topic":"a/\u001b[2Jb","publishes":0,"payload_bytes":1,"micros":9,
            "more":"of a later version"
        }"#;
        assert_eq!(
            plain(&line(refused)),
            "00:00:00.000 refused   unknown      a/\\u001b[2Jb  9 us  malformed-topic"
        );
    }
}
