//! `bench`: measures a deployment end to end, from a sender's publish to the recipient's copy.
//!
//! Owns the order of the measurements and what is printed. `plan` says what is measured, `load`
//! does it once, `figures`, `report` and `plot` show it. It uses nothing but MQTT, so whatever
//! serves the protocol can be measured.

mod figures;
mod load;
mod logins;
mod plan;
mod plot;
mod process;
mod report;
mod stand_in;
mod traffic;
mod wire;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use tokio::task::LocalSet;

use self::figures::{Loaded, Measured};
use self::load::Load;
use self::logins::Logins;
use self::plan::{Pace, Plan};
use self::process::Process;
use super::cli::BenchArgs;
use super::init_quiet_log;
use super::output::Output;
use super::signals::Signals;

/// Measures, and prints the result. Exit code 1: a message was lost, doubled, out of order or
/// refused.
pub(super) async fn run(args: &BenchArgs, out: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    init_quiet_log(&config);
    let plan = Plan::new(args, &config)?;
    let logins = Logins::new(&config, &plan.app, plan.is_one_each())?;
    let observer = args.pid.map(Process::of_pid).transpose()?;
    let broker = &config.broker.address;
    let heading = format!(
        "{broker}, app {}, {}{}",
        plan.app,
        logins.summary(),
        match observer.as_ref().and_then(Process::name) {
            Some(name) => format!("; process {name}"),
            None => String::new(),
        }
    );
    if let Some(path) = &args.plot {
        // Before an hour of measuring, not after it.
        let mut file = std::fs::OpenOptions::new();
        let tried = file.create(true).append(true).open(path);
        tried.with_context(|| format!("cannot write {}", path.display()))?;
    }
    // From here on nothing blocks.
    let mut signals = Signals::listen()?;
    if !args.format.json {
        out.line(&heading)?;
    }
    let bench = Bench {
        plan: &plan,
        logins: &logins,
        observer,
        out,
    };
    let mut loads = vec![];
    for pace in &plan.paces {
        let loaded = LocalSet::new()
            .run_until(Box::pin(bench.load(*pace, &mut signals)))
            .await?;
        if !args.format.json {
            out.text(&report::table(&plan, &loaded))?;
        }
        loads.push(loaded);
    }
    if args.format.json {
        out.json(&report::json(&plan, broker, &loads))?;
    }
    if let Some(path) = &args.plot {
        let title = format!("Latency, {heading}");
        std::fs::write(path, plot::svg(&title, &loads))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(match report::is_sound(&loads) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

struct Bench<'a> {
    plan: &'a Plan,
    logins: &'a Logins,
    observer: Option<Process>,
    out: Output,
}

impl Bench<'_> {
    /// All rounds under one load. The subjects take turns, so that what else the machine does
    /// meets all of them.
    async fn load(&self, pace: Pace, signals: &mut Signals) -> anyhow::Result<Loaded> {
        let subjects = self.plan.subjects;
        let mut measured: Vec<Measured> = subjects.iter().copied().map(Measured::new).collect();
        for round in 1..=self.plan.rounds {
            for measured in &mut measured {
                let progress = Progress {
                    out: self.out,
                    prefix: format!(
                        "round {round} of {}, {}",
                        self.plan.rounds, measured.subject
                    ),
                };
                let load = Load {
                    plan: self.plan,
                    pace,
                    subject: measured.subject,
                    logins: self.logins,
                    process: self.observer.clone(),
                };
                measured.add(&load.run(&progress, signals).await?);
            }
        }
        Ok(Loaded {
            pace,
            subjects: measured,
        })
    }
}

/// A line of standard error that is written over and over, if it is a terminal.
struct Progress {
    out: Output,
    prefix: String,
}

impl Progress {
    fn show(&self, text: impl AsRef<str>) {
        self.write(&format!("\r{}: {}\u{1b}[K", self.prefix, text.as_ref()));
    }

    fn write(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            self.out.over(text);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write("\r\u{1b}[K");
    }
}
