//! The process, the store and the broker as a whole; and how a run comes to rest.

use super::{REST, TICK, World, tell};
use crate::http::decision_service::Verdict;
use crate::mqtt::Cause;
use crate::observer::processor::Processed;
use crate::observer::simulation::account::Account;
use crate::observer::simulation::broker::{Down, Line};
use crate::observer::simulation::process::{PUBLISHERS, Process, WINDOW};

impl World {
    pub(super) fn store_commits(&mut self) {
        if let Some(processed) = self.commit() {
            self.process().committed(processed);
        }
    }

    /// Those that wait longest wait on, often.
    pub(super) fn service_answers(&mut self) {
        let asked = self.process().asked();
        if asked > 0 {
            let at = self.rng.usize(0..asked).max(self.rng.usize(0..asked));
            self.process().answer(at, Verdict::Pass);
        }
    }

    pub(super) fn commit(&mut self) -> Option<Processed> {
        let (batch, processed) = self.process().commit()?;
        tell(
            self.tells,
            self.passed,
            format_args!(
                "commit acknowledged {:?} published {:?}, {} messages",
                batch.acknowledged,
                batch.published.len(),
                batch.messages.len()
            ),
        );
        for message in &batch.messages {
            tell(
                self.tells,
                self.passed,
                format_args!(
                    "  {} {} {:.40}",
                    message.id,
                    message.repeated,
                    String::from_utf8_lossy(&message.received.payload)
                ),
            );
            self.session.mark_stored(&message.received);
        }
        Some(processed)
    }

    /// In the middle of what it does: some of it is done, some is on the way, and some of that
    /// arrives.
    pub(super) fn kill(&mut self) {
        let most = self.rng.usize(0..20);
        self.act(most);
        if self.rng.bool() {
            self.commit();
        }
        for _ in 0..self.rng.usize(0..8) {
            self.broker_reads_session();
        }
        for publisher in 0..PUBLISHERS {
            for _ in 0..self.rng.usize(0..8) {
                self.broker_reads_of(publisher);
            }
        }
        let process = self.process.take().expect("it runs");
        let store = process.kill();
        self.lines = std::array::from_fn(|_| None);
        self.session_line = None;
        self.connections = 0;
        self.session.handle_kill();
        self.session.handle_lost(self.rng.u16(0..1_000));
        let (router, metrics) = (self.router.clone(), self.metrics.clone());
        let process = Process::start(store, (&router, &metrics), self.faults.decisions);
        self.account.reached.asked_again |= process.observer.inbound.asked() > 0;
        self.process = Some(process);
        self.act(usize::MAX);
    }

    pub(super) fn broker_crashes(&mut self) {
        self.session_lost(false);
        for publisher in 0..PUBLISHERS {
            self.publisher_lost(publisher, Cause::Unreachable);
        }
    }

    /// From now on nothing fails. Returns what became of everything, once that is known.
    pub(in crate::observer::simulation) fn rest(mut self) -> Result<Account, String> {
        (self.alarm, self.bad) = (false, false);
        if let Some(session) = &self.session_line
            && session.line.is_dead
        {
            self.session_lost(false);
        }
        for _ in 0..REST {
            self.session_up();
            for publisher in 0..PUBLISHERS {
                self.publisher_comes_up(publisher);
            }
            self.act(usize::MAX);
            self.move_everything();
            self.pass(TICK);
            self.act(usize::MAX);
            if self.is_at_rest() {
                return Ok(self.account);
            }
        }
        Err(format!("no rest: {:?}", self.process().observer.ledger))
    }

    pub(super) fn move_everything(&mut self) {
        for _ in 0..WINDOW {
            self.broker_delivers();
            self.observer_reads();
            self.act(usize::MAX);
            self.store_commits();
            self.service_answers();
            self.act(usize::MAX);
            self.broker_reads_session();
        }
        for publisher in 0..PUBLISHERS {
            while self.broker_reads_of(publisher) {}
            if let Some((line, _)) = &mut self.lines[publisher] {
                let taken = std::mem::take(&mut line.taken);
                line.down.extend(taken.into_iter().map(Down::Confirmed));
            }
            while self.observer_hears_of(publisher) {}
            self.act(usize::MAX);
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let is_idle =
            |line: &Line| line.up.is_empty() && line.down.is_empty() && line.taken.is_empty();
        let lines = self.lines.iter().flatten();
        let process = self.process.as_ref();
        self.session.is_empty()
            && lines.map(|(line, _)| line).all(is_idle)
            && process.is_some_and(Process::rests)
    }
}
