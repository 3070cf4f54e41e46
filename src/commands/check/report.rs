//! What `check` has tried: its steps in order, each printed as soon as it is known.

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::commands::output::{Output, OutputError};
use crate::commands::text::wrapped;

/// Where the text of a step begins, behind its mark and name.
const NAME_WIDTH: usize = 15;

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

/// What is tried.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    name: &'static str,
    /// Of several trials with one name: what this one is about, such as a topic.
    subject: Option<String>,
    /// What several that succeed are together, behind their number.
    many: &'static str,
}

impl From<&'static str> for Trial {
    fn from(name: &'static str) -> Self {
        Self {
            name,
            subject: None,
            many: "",
        }
    }
}

impl Trial {
    /// One of several: those that succeed are printed as one line.
    pub(super) fn one_of(name: &'static str, subject: impl ToString, many: &'static str) -> Self {
        Self {
            name,
            subject: Some(subject.to_string()),
            many,
        }
    }
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

/// How steps are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people, with one line for several of a kind that succeed.
    Folded,
    /// For people, each step.
    Verbose,
    /// For programs, all at the end.
    Json,
}

/// The steps so far.
#[derive(Debug)]
pub(super) struct Report {
    steps: Vec<Step>,
    form: Form,
    out: Output,
    /// The width of the terminal, if it is one.
    width: Option<usize>,
    /// Steps of a kind that have succeeded and are not printed yet.
    folded: Option<(Trial, usize)>,
    /// Whether all could be printed.
    printed: Result<(), OutputError>,
}

impl Report {
    pub(super) fn new(form: Form, out: Output, width: Option<usize>) -> Self {
        Self {
            steps: vec![],
            form,
            out,
            width,
            folded: None,
            printed: Ok(()),
        }
    }

    /// Whether there is a step of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.steps.iter().any(|step| step.step == name)
    }

    pub(super) fn ok(&mut self, trial: impl Into<Trial>, detail: impl Into<String>) {
        self.push(trial.into(), Outcome::Ok, detail.into());
    }

    pub(super) fn note(&mut self, trial: impl Into<Trial>, detail: impl Into<String>) {
        self.push(trial.into(), Outcome::Note, detail.into());
    }

    pub(super) fn failed(&mut self, trial: impl Into<Trial>, detail: impl Into<String>) {
        self.push(trial.into(), Outcome::Failed, detail.into());
    }

    fn push(&mut self, trial: Trial, outcome: Outcome, detail: String) {
        match &mut self.folded {
            Some((folded, count))
                if folded.name == trial.name
                    && folded.many == trial.many
                    && outcome == Outcome::Ok =>
            {
                *count += 1;
            }
            _ => {
                self.unfold();
                let folds = self.form == Form::Folded && trial.subject.is_some();
                if folds && outcome == Outcome::Ok {
                    self.folded = Some((trial.clone(), 1));
                } else {
                    let text = match &trial.subject {
                        Some(subject) => format!("{subject}: {detail}"),
                        None => detail.clone(),
                    };
                    self.line(trial.name, outcome, &text);
                }
            }
        }
        let step = match trial.subject {
            Some(subject) => format!("{} {subject}", trial.name),
            None => trial.name.to_owned(),
        };
        self.steps.push(Step {
            step,
            outcome,
            detail,
        });
    }

    /// Prints what was held back.
    fn unfold(&mut self) {
        if let Some((trial, count)) = self.folded.take() {
            self.line(trial.name, Outcome::Ok, &format!("{count} {}", trial.many));
        }
    }

    fn line(&mut self, name: &str, outcome: Outcome, text: &str) {
        let (mark, colour) = match outcome {
            Outcome::Ok => ("✓", AnsiColor::Green),
            Outcome::Note => ("!", AnsiColor::Yellow),
            Outcome::Failed => ("✗", AnsiColor::Red),
        };
        let colour = Style::new().fg_color(Some(colour.into()));
        let indent = NAME_WIDTH + 2;
        let width = self.width.map(|width| width.saturating_sub(indent));
        let text = wrapped(text, width, &" ".repeat(indent));
        self.print(&format!(
            "{colour}{mark}{colour:#} {name:<NAME_WIDTH$}{text}"
        ));
    }

    /// Prints a line of its own, for people.
    pub(super) fn print(&mut self, line: &str) {
        if self.form != Form::Json && self.printed.is_ok() {
            self.printed = self.out.coloured_line(line);
        }
    }

    /// Prints the verdict, or all of it for programs. Returns how many steps failed.
    ///
    /// # Errors
    /// If something could not be printed. That nobody reads it is no error: the verdict holds.
    pub(super) fn finish(mut self) -> Result<usize, OutputError> {
        self.unfold();
        let failed = |step: &&Step| step.outcome == Outcome::Failed;
        let failures = self.steps.iter().filter(failed).count();
        let bold = Style::new().bold();
        self.print(&match failures {
            0 => format!("{bold}messages pass{bold:#}"),
            failures => format!(
                "{bold}{failures} of {} failed: messages would not pass{bold:#}",
                self.steps.len()
            ),
        });
        let printed = match self.form {
            Form::Json => self.out.json(&self.steps),
            Form::Folded | Form::Verbose => self.printed,
        };
        match printed {
            Ok(()) | Err(OutputError::Closed) => Ok(failures),
            Err(error) => Err(error),
        }
    }
}
