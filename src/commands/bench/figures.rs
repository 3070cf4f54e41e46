//! The figures of a measurement, and what several rounds make of them. Pure.

use std::collections::BTreeMap;

use strum::{EnumCount, IntoEnumIterator};

use super::load::Outcome;
use super::plan::{Pace, Subject};
use super::process::Memory;
use crate::delivery::audit::Verdict;

/// One thing that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumCount, strum::EnumIter)]
pub(super) enum Figure {
    /// Copies a second that arrive at others than their senders.
    Rate,
    /// Milliseconds that half of them take at most.
    P50,
    P95,
    P99,
    P999,
    Max,
    /// Microseconds of CPU time for a message.
    Cpu,
}

impl Figure {
    /// What it is called in JSON.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Rate => "deliveries_per_second",
            Self::P50 => "p50_ms",
            Self::P95 => "p95_ms",
            Self::P99 => "p99_ms",
            Self::P999 => "p999_ms",
            Self::Max => "max_ms",
            Self::Cpu => "cpu_us_per_message",
        }
    }

    /// What it is called in a table.
    pub(super) fn heading(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Max => "max",
            Self::Cpu => "CPU/msg",
        }
    }
}

/// All figures of a round, or what was made of several. One that was not measured is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Figures([Option<f64>; Figure::COUNT]);

impl Figures {
    pub(super) fn of(outcome: &Outcome) -> Self {
        let window = &outcome.window;
        let mut latencies = window.latencies.clone();
        latencies.sort_unstable();
        let percentile = |percent: f64| percentile(&latencies, percent).map(|us| us / 1e3);
        let seconds = window.length.as_secs_f64();
        Self::from_fn(|figure| match figure {
            Figure::Rate => (seconds > 0.0).then(|| count(window.delivered) / seconds),
            Figure::P50 => percentile(50.0),
            Figure::P95 => percentile(95.0),
            Figure::P99 => percentile(99.0),
            Figure::P999 => percentile(99.9),
            Figure::Max => percentile(100.0),
            Figure::Cpu => {
                let cpu = window.cpu.filter(|_| window.completed > 0)?;
                Some(cpu.as_secs_f64() * 1e6 / count(window.completed))
            }
        })
    }

    fn from_fn(figure: impl Fn(Figure) -> Option<f64>) -> Self {
        let mut figures = Self::default();
        for (at, which) in Figure::iter().enumerate() {
            figures.0[at] = figure(which);
        }
        figures
    }

    pub(super) fn get(&self, figure: Figure) -> Option<f64> {
        self.0[figure as usize]
    }

    /// Each as a part of the other's.
    pub(super) fn ratio(&self, to: &Self) -> Self {
        Self::from_fn(|figure| {
            let to = to.get(figure).filter(|to| *to > 0.0)?;
            Some(self.get(figure)? / to)
        })
    }
}

/// The value that so many percent of the sorted values are not above.
fn percentile(sorted: &[u32], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let rank = (count(sorted.len() as u64) * percent / 100.0).ceil();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is between zero and the number of values"
    )]
    let at = (rank as usize).saturating_sub(1);
    Some(f64::from(sorted[at.min(last)]))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nobody counts to ten to the fifteenth"
)]
fn count(count: u64) -> f64 {
    count as f64
}

/// What several rounds make: the median, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: Figures,
    pub(super) lowest: Figures,
    pub(super) highest: Figures,
}

impl Spread {
    pub(super) fn of(rounds: &[Figures]) -> Self {
        let sorted = |figure: Figure| {
            let values = rounds.iter().filter_map(|round| round.get(figure));
            let mut values: Vec<f64> = values.collect();
            values.sort_by(f64::total_cmp);
            values
        };
        Self {
            median: Figures::from_fn(|figure| {
                let values = sorted(figure);
                let last = values.len().checked_sub(1)?;
                Some(f64::midpoint(values[last / 2], values[last.div_ceil(2)]))
            }),
            lowest: Figures::from_fn(|figure| sorted(figure).first().copied()),
            highest: Figures::from_fn(|figure| sorted(figure).last().copied()),
        }
    }
}

/// All rounds of one subject under one load.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) subject: Subject,
    pub(super) rounds: Vec<Figures>,
    /// Of all rounds together.
    pub(super) verdict: Verdict,
    pub(super) refusals: BTreeMap<String, (u64, String)>,
    pub(super) memory: Option<Memory>,
}

impl Measured {
    pub(super) fn new(subject: Subject) -> Self {
        Self {
            subject,
            rounds: vec![],
            verdict: Verdict::default(),
            refusals: BTreeMap::new(),
            memory: None,
        }
    }

    /// Adds a round.
    pub(super) fn add(&mut self, outcome: &Outcome) {
        self.rounds.push(Figures::of(outcome));
        self.verdict = self.verdict.and(outcome.verdict);
        self.memory = outcome.memory.or(self.memory);
        for (reason, (count, text)) in &outcome.refusals {
            let all = self.refusals.entry(reason.clone());
            all.or_insert_with(|| (0, text.clone())).0 += count;
        }
    }

    /// Round by round as a part of the other's, which alternated with these.
    pub(super) fn ratio(&self, to: &Self) -> Spread {
        let rounds = self.rounds.iter().zip(&to.rounds);
        let ratios: Vec<Figures> = rounds.map(|(own, other)| own.ratio(other)).collect();
        Spread::of(&ratios)
    }

    /// Whether nothing was lost, doubled, out of order or refused.
    pub(super) fn is_sound(&self) -> bool {
        self.verdict.is_sound() && self.refusals.is_empty()
    }
}

/// What was measured under one load.
#[derive(Clone, Debug)]
pub(super) struct Loaded {
    pub(super) pace: Pace,
    /// The observer first.
    pub(super) subjects: Vec<Measured>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::traffic::Window;
    use super::*;

    fn outcome(latencies: Vec<u32>) -> Outcome {
        Outcome {
            window: Window {
                length: Duration::from_secs(2),
                delivered: 1_000,
                completed: 500,
                cpu: Some(Duration::from_millis(50)),
                latencies,
            },
            verdict: Verdict::default(),
            memory: None,
            refusals: BTreeMap::new(),
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let figures = Figures::of(&outcome((1..=1_000).rev().collect()));
        let get = |figure| figures.get(figure).unwrap();
        assert_eq!(get(Figure::Rate), 500.0);
        assert_eq!(get(Figure::P50), 0.5);
        assert_eq!(get(Figure::P99), 0.99);
        assert_eq!(get(Figure::P999), 0.999);
        assert_eq!(get(Figure::Max), 1.0);
        assert_eq!(get(Figure::Cpu), 100.0);
        let one = Figures::of(&outcome(vec![7_000]));
        assert_eq!(
            (one.get(Figure::P50), one.get(Figure::Max)),
            (Some(7.0), Some(7.0))
        );
        assert_eq!(Figures::of(&outcome(vec![])).get(Figure::P50), None);
    }

    #[test]
    fn rounds_give_a_median_and_their_range() {
        let rounds = [3_000, 1_000, 2_000].map(|us| Figures::of(&outcome(vec![us])));
        let spread = Spread::of(&rounds);
        let p50 = |figures: Figures| figures.get(Figure::P50);
        assert_eq!(p50(spread.lowest), Some(1.0));
        assert_eq!(p50(spread.median), Some(2.0));
        assert_eq!(p50(spread.highest), Some(3.0));
        assert_eq!(p50(Spread::of(&rounds[..2]).median), Some(2.0));
        assert_eq!(p50(rounds[0].ratio(&rounds[1])), Some(3.0));
    }
}
