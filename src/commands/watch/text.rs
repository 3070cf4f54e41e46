//! What `watch` prints, as text for a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use crate::commands::text::{clock, shown};
use crate::protocol::message::Received;
use crate::protocol::refusal::Refusal;
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

/// Columns of a terminal from which a line has more than its first fields.
const MEDIUM: usize = 100;
const WIDE: usize = 140;
/// How wide who wrote to whom is, at least: on a terminal that is not wide, and elsewhere.
const ROUTE_WIDTHS: (usize, usize) = (28, 34);

/// A line of trace on one line, with colours. On a terminal that is not wide, what would not fit is
/// left out: the kind, the identifier, the number of publishes, what a reason means.
pub(super) fn line_text(line: &Line, width: Option<usize>) -> String {
    let colour = match line.outcome.as_str() {
        "forwarded" => AnsiColor::Green,
        "refused" => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    let outcome = Style::new().fg_color(Some(colour.into()));
    let dim = Style::new().dimmed();
    let what = line.layout.as_deref().unwrap_or(&line.kind);
    let fits = |columns| width.is_none_or(|width| width >= columns);
    let (what, route) = match fits(MEDIUM) {
        true => (format!("{:<12} ", shown(what)), route(line, ROUTE_WIDTHS.1)),
        false => (String::new(), route(line, ROUTE_WIDTHS.0)),
    };
    let mut text = format!(
        "{dim}{}{dim:#} {outcome}{:<9}{outcome:#} {what}{route} {:>8}",
        clock(line.at),
        shown(&line.outcome),
        took(line.micros),
    );
    if let Some(reason) = &line.reason {
        let _ = write!(text, "  {outcome}{}{outcome:#}", shown(reason));
        let hint = reason.parse().ok().map(Refusal::hint);
        if let Some(hint) = hint.filter(|_| fits(WIDE)) {
            let _ = write!(text, ": {hint}");
        }
    } else if line.publishes > 0 && fits(MEDIUM) {
        let plural = if line.publishes == 1 { "" } else { "es" };
        let _ = write!(text, "  {} publish{plural}", line.publishes);
    }
    if let Some(id) = line.message_id.as_ref().filter(|_| fits(WIDE)) {
        let _ = write!(text, "  {dim}{}{dim:#}", shown(id));
    }
    text
}

/// A payload as it was published, on one line.
pub(super) fn payload_text(received: &Received) -> String {
    let dim = Style::new().dimmed();
    format!(
        "{:12} {dim}{}{dim:#}  {}",
        "",
        shown(&String::from_utf8_lossy(&received.topic)),
        shown(&String::from_utf8_lossy(&received.payload)),
    )
}

/// How long it took, in the unit that people read: `0.3 ms`, `41 ms`, `2.5 s`.
fn took(micros: u64) -> String {
    let Ok(micros) = u32::try_from(micros) else {
        return "> 1 h".to_owned();
    };
    let millis = f64::from(micros) / 1_000.0;
    match millis {
        millis if millis < 10.0 => format!("{millis:.1} ms"),
        millis if millis < 1_000.0 => format!("{millis:.0} ms"),
        millis => format!("{:.1} s", millis / 1_000.0),
    }
}

/// What passed in an interval.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passed {
    messages: u32,
    refused: u32,
    slowest_micros: u64,
}

impl Passed {
    pub(super) fn count(&mut self, line: &Line) {
        self.messages += 1;
        self.refused += u32::from(line.outcome == "refused");
        self.slowest_micros = self.slowest_micros.max(line.micros);
    }

    /// One line about the interval. `None` if nothing passed.
    pub(super) fn text(self, interval: Duration) -> Option<String> {
        if self.messages == 0 {
            return None;
        }
        let rate = f64::from(self.messages) / interval.as_secs_f64();
        let slowest = took(self.slowest_micros);
        let refused = self.refused;
        Some(format!(
            "{rate:.1} msg/s · {refused} refused · slowest {slowest}"
        ))
    }
}

/// Who wrote to whom, or the topic where it does not tell.
fn route(line: &Line, width: usize) -> String {
    let (bold, dim) = (Style::new().bold(), Style::new().dimmed());
    let Some(app) = &line.app else {
        return format!("{:<width$}", shown(&line.topic));
    };
    let sender = match &line.sender {
        Some(sender) => shown(sender),
        None => "(service)".to_owned(),
    };
    let who = match &line.recipient {
        Some(recipient) => format!("{sender} → {}", shown(recipient)),
        None => sender,
    };
    let app = shown(app);
    // Behind the text: a colour has no width.
    let length = app.chars().count() + 1 + who.chars().count();
    let padding = " ".repeat(width.saturating_sub(length));
    format!("{dim}{app}{dim:#} {bold}{who}{bold:#}{padding}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::commands::watch) fn line(text: &str) -> Line {
        serde_json::from_str(text).unwrap()
    }

    fn plain(line: &Line) -> String {
        plain_at(line, None)
    }

    fn plain_at(line: &Line, width: Option<usize>) -> String {
        anstream::adapter::strip_str(&line_text(line, width)).to_string()
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
            "22:13:20.123 forwarded chat21       tilechat alice → bob                 1.8 ms  \
             2 publishes  m1"
        );
        let narrow = plain_at(&line(FORWARDED), Some(80));
        assert!(narrow.ends_with(" 1.8 ms"), "{narrow}");
        assert!(narrow.chars().count() <= 80, "{narrow}");
        let refused = r#"{
            "at":0,"outcome":"refused","reason":"malformed-topic","kind":"unknown",
            "topic":"a/\u001b[2Jb","publishes":0,"payload_bytes":1,"micros":9,
            "more":"of a later version"
        }"#;
        assert_eq!(
            plain(&line(refused)),
            "00:00:00.000 refused   unknown      a/\\u001b[2Jb                         0.0 ms  \
             malformed-topic: no layout has this topic, or a level is not an identifier"
        );
    }

    #[test]
    fn an_interval_is_summed_up() {
        let mut passed = Passed::default();
        assert_eq!(passed.text(Duration::from_secs(10)), None);
        for _ in 0..25 {
            passed.count(&line(FORWARDED));
        }
        let text = passed.text(Duration::from_secs(10)).unwrap();
        assert_eq!(text, "2.5 msg/s · 0 refused · slowest 1.8 ms");
        assert_eq!(took(41_300), "41 ms");
        assert_eq!(took(2_500_000), "2.5 s");
    }
}
