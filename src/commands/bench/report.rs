//! The result of a bench as a table and as JSON. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};
use strum::IntoEnumIterator;

use super::figures::{Figure, Figures, Loaded, Measured, Spread};
use super::plan::{Pace, Plan, Subject};
use crate::commands::text::shown;
use crate::protocol::refusal::Refusal;

/// Width of the first column, and of the others. Together they are 80.
const NAME: usize = 17;
const COLUMN: usize = 9;

/// The table of one load, and what became of its messages.
pub(super) fn table(plan: &Plan, loaded: &Loaded) -> String {
    let mut text = format!("\n{}\n", plan.summary(loaded.pace));
    let is_known = |figure| {
        let mut rounds = loaded.subjects.iter().flat_map(|measured| &measured.rounds);
        rounds.any(|round| round.get(figure).is_some())
    };
    let heading = |figure: Figure| is_known(figure).then(|| figure.heading().to_owned());
    row(&mut text, "", heading);
    for measured in &loaded.subjects {
        let name = measured.subject.to_string();
        spread(&mut text, &name, &Spread::of(&measured.rounds), in_units);
    }
    if let [observer, others @ ..] = &loaded.subjects[..] {
        for other in others {
            let name = format!("to {}", other.subject);
            spread(&mut text, &name, &observer.ratio(other), |_, ratio| {
                format!("{ratio:.2}")
            });
        }
    }
    for measured in &loaded.subjects {
        let _ = writeln!(text, "{}", verdict(measured, plan.patience));
    }
    text
}

/// A row, and with several rounds two more with their range.
fn spread(text: &mut String, name: &str, spread: &Spread, show: impl Fn(Figure, f64) -> String) {
    let rows = [
        (name, spread.median),
        ("  lowest", spread.lowest),
        ("  highest", spread.highest),
    ];
    let count = if spread.lowest == spread.highest {
        1
    } else {
        3
    };
    for (name, figures) in &rows[..count] {
        let value = |figure| figures.get(figure).map(|value| show(figure, value));
        row(text, name, value);
    }
}

fn row(text: &mut String, name: &str, value: impl Fn(Figure) -> Option<String>) {
    let mut line = format!("{name:<NAME$}");
    for figure in Figure::iter() {
        let _ = write!(line, "{:>COLUMN$}", value(figure).unwrap_or_default());
    }
    let _ = writeln!(text, "{}", line.trim_end());
}

fn in_units(figure: Figure, value: f64) -> String {
    match figure {
        Figure::Rate if value < 100.0 => format!("{value:.1}/s"),
        Figure::Rate => format!("{}/s", grouped(&format!("{value:.0}"))),
        Figure::P50 | Figure::P95 | Figure::P99 | Figure::P999 | Figure::Max => millis(value),
        Figure::Cpu if value < 1_000.0 => format!("{value:.1} us"),
        // Of a message to a large group.
        Figure::Cpu => millis(value / 1e3),
    }
}

fn millis(value: f64) -> String {
    match value {
        ..10.0 => format!("{value:.2} ms"),
        ..100.0 => format!("{value:.1} ms"),
        ..1_000.0 => format!("{value:.0} ms"),
        _ => format!("{:.2} s", value / 1e3),
    }
}

/// Digits with a comma before each three.
fn grouped(digits: &str) -> String {
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn number(count: usize) -> String {
    grouped(&count.to_string())
}

/// What became of the messages, in a line or a few.
fn verdict(measured: &Measured, patience: Duration) -> String {
    let verdict = measured.verdict;
    let patience = humantime::format_duration(patience);
    let mut faults = vec![];
    for (count, what) in [
        (
            verdict.lost,
            format!("copies lost (not there within {patience})"),
        ),
        (verdict.doubled, "copies twice, under another id".to_owned()),
        (verdict.out_of_order, "copies out of order".to_owned()),
        (
            verdict.refused_and_delivered,
            "messages refused, and delivered all the same".to_owned(),
        ),
        (
            verdict.strays,
            "copies at somebody they were not for".to_owned(),
        ),
        (
            verdict.repeated,
            "copies twice, under the same id".to_owned(),
        ),
        (
            verdict.unconfirmed,
            "messages not confirmed by the broker".to_owned(),
        ),
    ] {
        if count > 0 {
            faults.push(format!("{} {what}", number(count)));
        }
    }
    if faults.is_empty() {
        faults.push("none lost, none twice, all in order".to_owned());
    }
    let mut text = format!(
        "{}: {} messages, {} copies: {}",
        measured.subject,
        number(verdict.messages),
        number(verdict.arrived),
        faults.join(", ")
    );
    for (reason, (count, said)) in &measured.refusals {
        let _ = write!(text, "\n{count} refused: {}", shown(said));
        if reason == Refusal::RateLimited.as_str() {
            text.push_str(
                "\nThe measurement ended there. The observer limits each sender: raise its \
                 --rate-per-minute\nor --rate-burst, or take more --senders or a shorter --for",
            );
        }
    }
    if let Some(memory) = measured.memory {
        let mebibytes = |bytes: u64| bytes >> 20;
        let _ = write!(
            text,
            "\nmemory {} MiB, at most {} MiB",
            mebibytes(memory.resident_bytes),
            mebibytes(memory.peak_bytes)
        );
    }
    text
}

/// Everything, for programs.
pub(super) fn json(plan: &Plan, broker: &str, loads: &[Loaded]) -> Value {
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "broker": broker,
        "app": plan.app,
        "senders": plan.senders,
        "group_size": plan.group_size,
        "payload_bytes": plan.payload_bytes,
        "connections": plan.connections,
        "rounds": plan.rounds,
        "sound": is_sound(loads),
        "loads": loads.iter().map(load).collect::<Vec<_>>(),
    })
}

/// Whether every message of every load was delivered as it should.
pub(super) fn is_sound(loads: &[Loaded]) -> bool {
    let mut subjects = loads.iter().flat_map(|loaded| &loaded.subjects);
    subjects.all(Measured::is_sound)
}

fn load(loaded: &Loaded) -> Value {
    let (rate, under_way) = match loaded.pace {
        Pace::Rate(rate) => (Some(rate), None),
        Pace::UnderWay(count) => (None, Some(count)),
    };
    let observer = loaded.subjects.first();
    let subjects = loaded.subjects.iter().map(|measured| {
        let rounds: Vec<Value> = measured.rounds.iter().map(figures).collect();
        let refusals = measured.refusals.iter();
        let refused: Map<String, Value> = refusals
            .map(|(reason, (count, _))| (reason.clone(), json!(count)))
            .collect();
        let is_other = measured.subject != Subject::Observer;
        let ratio = observer.filter(|_| is_other);
        json!({
            "name": measured.subject.to_string(),
            "figures": of_spread(&Spread::of(&measured.rounds)),
            "rounds": rounds,
            "observer_to_this": ratio.map(|observer| of_spread(&observer.ratio(measured))),
            "verdict": measured.verdict,
            "refused": refused,
            "memory": measured.memory,
        })
    });
    json!({
        "rate": rate,
        "under_way": under_way,
        "subjects": subjects.collect::<Vec<_>>(),
    })
}

fn of_spread(spread: &Spread) -> Value {
    json!({
        "median": figures(&spread.median),
        "lowest": figures(&spread.lowest),
        "highest": figures(&spread.highest),
    })
}

fn figures(figures: &Figures) -> Value {
    let members = Figure::iter().map(|figure| {
        let rounded = figures.get(figure).map(|value| (value * 1e3).round() / 1e3);
        (figure.key().to_owned(), json!(rounded))
    });
    Value::Object(members.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_three_digits_or_so_and_their_units() {
        let show = |value| in_units(Figure::P99, value);
        assert_eq!(show(0.123), "0.12 ms");
        assert_eq!(show(12.34), "12.3 ms");
        assert_eq!(show(123.4), "123 ms");
        assert_eq!(show(12_345.0), "12.35 s");
        assert_eq!(in_units(Figure::Rate, 1_234_567.0), "1,234,567/s");
        assert_eq!(in_units(Figure::Rate, 999.6), "1,000/s");
        assert_eq!(in_units(Figure::Rate, 9.96), "10.0/s");
        assert_eq!(in_units(Figure::Cpu, 31.42), "31.4 us");
        assert_eq!(in_units(Figure::Cpu, 135_555.6), "136 ms");
    }

    #[test]
    fn a_limit_that_was_reached_is_named_with_the_remedy() {
        let mut measured = Measured::new(Subject::Observer);
        measured.refusals.insert(
            "rate-limited".to_owned(),
            (
                3,
                "rate-limited: the sender has written too much".to_owned(),
            ),
        );
        let text = verdict(&measured, Duration::from_secs(10));
        assert!(
            text.contains("\n3 refused: rate-limited: the sender"),
            "{text}"
        );
        assert!(text.contains("--rate-per-minute"), "{text}");
        assert!(!measured.is_sound());
    }
}
