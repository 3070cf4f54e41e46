//! Latency against offered load, drawn as an SVG. Pure.
//!
//! Some lines and texts on two axes need no library.

use std::fmt::Write as _;

use super::figures::{Figure, Loaded, Spread};
use super::plan::{Pace, Subject};

const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 480.0;
/// The area of the curves: left, right, top, bottom.
const AREA: (f64, f64, f64, f64) = (70.0, 780.0, 88.0, 420.0);
/// What is drawn of each subject, and how.
const CURVES: [(Figure, &str, &str); 2] =
    [(Figure::P50, "p50", "none"), (Figure::P99, "p99", "6 4")];
const STYLE: &str = "text{font:13px sans-serif;fill:#333}.grid{stroke:#ddd}.axis{stroke:#333}";

/// A point: rate offered, and milliseconds.
type Point = (f64, f64);

struct Curve {
    name: String,
    colour: &'static str,
    dashes: &'static str,
    points: Vec<Point>,
}

/// The drawing. Latency has a logarithmic scale.
pub(super) fn svg(title: &str, loads: &[Loaded]) -> String {
    let curves = curves(loads);
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let widest = points().map(|(rate, _)| *rate).fold(1.0, f64::max);
    let low = points().map(|(_, ms)| *ms).fold(f64::MAX, f64::min);
    let high = points().map(|(_, ms)| *ms).fold(0.01, f64::max);
    let (low, high) = (
        low.min(high).max(0.001).log10().floor(),
        high.log10().ceil(),
    );
    let high = high.max(low + 1.0);
    let (left, right, top, bottom) = AREA;
    let x = |rate: f64| left + rate / widest * (right - left);
    let y = |ms: f64| bottom - (ms.max(0.001).log10() - low) / (high - low) * (bottom - top);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n\
         <style>{STYLE}</style>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    label(&mut text, (left, 24.0), "start", title);
    let decades = (0..12)
        .map(|n| low + f64::from(n))
        .take_while(|at| *at <= high);
    for ms in decades.map(|decade| 10_f64.powf(decade)) {
        line(&mut text, (left, y(ms)), (right, y(ms)), "grid");
        label(
            &mut text,
            (left - 8.0, y(ms) + 4.0),
            "end",
            &format!("{ms} ms"),
        );
    }
    for rate in rates(loads) {
        line(&mut text, (x(rate), top), (x(rate), bottom), "grid");
        label(
            &mut text,
            (x(rate), bottom + 20.0),
            "middle",
            &rate.to_string(),
        );
    }
    line(&mut text, (left, top), (left, bottom), "axis");
    line(&mut text, (left, bottom), (right, bottom), "axis");
    let middle = f64::midpoint(left, right);
    label(
        &mut text,
        (middle, HEIGHT - 12.0),
        "middle",
        "messages/s offered",
    );
    for (at, curve) in (0_u32..).zip(&curves) {
        let points = curve.points.iter();
        let path: Vec<String> = points
            .map(|(rate, ms)| format!("{:.1},{:.1}", x(*rate), y(*ms)))
            .collect();
        // Above the area: a column for each subject.
        let (column, row) = (f64::from(at / 2), f64::from(at % 2));
        let key = (left + 220.0 * column, 48.0 + 18.0 * row);
        polyline(&mut text, curve, &path.join(" "));
        let sample = format!("{},{} {},{}", key.0, key.1 - 4.0, key.0 + 26.0, key.1 - 4.0);
        polyline(&mut text, curve, &sample);
        label(&mut text, (key.0 + 34.0, key.1), "start", &curve.name);
    }
    text.push_str("</svg>\n");
    text
}

fn rates(loads: &[Loaded]) -> impl Iterator<Item = f64> {
    loads.iter().filter_map(|loaded| match loaded.pace {
        Pace::Rate(rate) => Some(f64::from(rate)),
        Pace::UnderWay(_) => None,
    })
}

fn curves(loads: &[Loaded]) -> Vec<Curve> {
    let mut curves: Vec<Curve> = vec![];
    for (loaded, rate) in loads.iter().zip(rates(loads)) {
        for measured in &loaded.subjects {
            let median = Spread::of(&measured.rounds).median;
            for (figure, what, dashes) in CURVES {
                let Some(ms) = median.get(figure) else {
                    continue;
                };
                let name = format!("{} {what}", measured.subject);
                match curves.iter_mut().find(|curve| curve.name == name) {
                    Some(curve) => curve.points.push((rate, ms)),
                    None => curves.push(Curve {
                        name,
                        colour: colour(measured.subject),
                        dashes,
                        points: vec![(rate, ms)],
                    }),
                }
            }
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    curves
}

/// Colours that people tell apart who do not see all of them.
fn colour(subject: Subject) -> &'static str {
    match subject {
        Subject::Observer => "#0072b2",
        Subject::NullForwarder => "#d55e00",
        Subject::BrokerAlone => "#777777",
    }
}

fn line(text: &mut String, from: Point, to: Point, class: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = writeln!(
        text,
        "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
    );
}

fn polyline(text: &mut String, curve: &Curve, points: &str) {
    let Curve { colour, dashes, .. } = curve;
    let _ = writeln!(
        text,
        "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
         stroke-dasharray=\"{dashes}\"/>"
    );
}

fn label(text: &mut String, (x, y): Point, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(
        text,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}
