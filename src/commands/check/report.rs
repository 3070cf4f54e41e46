//! What `check` has tried: its steps in order, and the table that is printed of them.

use std::fmt::Write as _;

use serde::Serialize;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// As it should.
    Ok,
    /// Messages pass, but the operator should know.
    Note,
    /// Messages would not pass.
    Failed,
}

/// One thing that was tried.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Step {
    /// What was tried.
    step: String,
    outcome: Outcome,
    /// What was seen.
    detail: String,
}

/// The steps so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Report {
    steps: Vec<Step>,
}

impl Report {
    pub(super) fn ok(&mut self, step: impl Into<String>, detail: impl Into<String>) {
        self.push(step.into(), Outcome::Ok, detail.into());
    }

    pub(super) fn note(&mut self, step: impl Into<String>, detail: impl Into<String>) {
        self.push(step.into(), Outcome::Note, detail.into());
    }

    pub(super) fn failed(&mut self, step: impl Into<String>, detail: impl Into<String>) {
        self.push(step.into(), Outcome::Failed, detail.into());
    }

    fn push(&mut self, step: String, outcome: Outcome, detail: String) {
        self.steps.push(Step {
            step,
            outcome,
            detail,
        });
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// How many steps failed.
    pub(super) fn failures(&self) -> usize {
        let failed = |step: &&Step| step.outcome == Outcome::Failed;
        self.steps.iter().filter(failed).count()
    }

    /// The steps as a table for people, below the broker's address.
    pub(super) fn table(&self, broker: &str) -> String {
        let widths = self.steps.iter().map(|step| step.step.chars().count());
        let width = widths.max().unwrap_or(0);
        let mut table = format!("{broker}\n");
        for step in &self.steps {
            let mark = match step.outcome {
                Outcome::Ok => "ok    ",
                Outcome::Note => "note  ",
                Outcome::Failed => "FAILED",
            };
            let _ = writeln!(table, "{mark} {:width$}  {}", step.step, step.detail);
        }
        let _ = match self.failures() {
            0 => writeln!(table, "messages pass"),
            failures => writeln!(
                table,
                "{failures} of {} failed: messages would not pass",
                self.steps.len()
            ),
        };
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_the_verdict() {
        let mut report = Report::default();
        report.ok("login", "MQTT 5");
        report.note("probe", "not tried");
        let table = "mqtt://b\nok     login  MQTT 5\nnote   probe  not tried\nmessages pass\n";
        assert_eq!(report.table("mqtt://b"), table);
        report.failed("session", "not kept");
        assert!(
            report
                .table("mqtt://b")
                .ends_with("1 of 3 failed: messages would not pass\n")
        );
    }
}
