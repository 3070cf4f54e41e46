//! When messages do not pass, and what the log says of it: one line when it begins, one a minute,
//! one when it is over.
//!
//! Owns the decision, without clock or I/O. How a line is written stands in `telemetry/outage.rs`,
//! and who looks whether messages pass in the event loop.

use std::time::{Duration, Instant};

use crate::protocol::time::UnixMillis;
use crate::telemetry::clock::Now;
use crate::telemetry::outage::Line;

/// How often an outage is told of while it lasts.
const AGAIN: Duration = Duration::from_secs(60);
/// How long a fault may last that is no loss of the session, before it is told of: a publishing
/// connection comes back within this time, and a user can cost the observer one.
const BRIEF: Duration = Duration::from_secs(2);
/// The same for an observer that has never been ready: it takes a while to start.
const STARTING: Duration = Duration::from_secs(10);
/// How long to wait for the observer's own message, which comes behind those that have waited.
const CATCHING_UP: Duration = Duration::from_secs(10);

/// Whether messages pass, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// They pass.
    Passing,
    /// Something is wrong, which is not told of yet.
    Faulty { since: Instant },
    /// They do not pass.
    Out(Outage),
    /// They pass again. The observer has sent itself a message, to count those before it.
    CatchingUp { outage: Outage, since: Now },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outage {
    since: Instant,
    told_at: Instant,
    /// Whether it was told that an operator has to change something.
    told_operator: bool,
}

/// Watches over outages.
#[derive(Debug)]
pub(super) struct Outages {
    state: State,
    /// Whether messages have passed before.
    was_ready: bool,
    /// Users' messages that came since the outage began.
    came: u64,
}

impl Outages {
    /// For an observer that has just started.
    pub(super) fn new() -> Self {
        Self {
            state: State::Passing,
            was_ready: false,
            came: 0,
        }
    }

    /// Whether there is nothing to be told when messages pass.
    pub(super) fn is_well(&self) -> bool {
        self.was_ready && !matches!(self.state, State::Out(_))
    }

    /// The session is lost, or could not be made.
    pub(super) fn handle_lost(&mut self, needs_operator: bool, now: Instant) -> Option<Line> {
        let outage = match self.state {
            State::Out(outage) | State::CatchingUp { outage, .. } => outage,
            State::Passing | State::Faulty { .. } => {
                self.begin(needs_operator, now);
                return Some(Line::Lost { needs_operator });
            }
        };
        let tells = needs_operator && !outage.told_operator;
        self.state = State::Out(Outage {
            told_at: if tells { now } else { outage.told_at },
            told_operator: outage.told_operator || needs_operator,
            ..outage
        });
        tells.then_some(Line::Lost { needs_operator })
    }

    fn begin(&mut self, needs_operator: bool, now: Instant) {
        let since = match self.state {
            State::Faulty { since } => since,
            State::Passing | State::Out(_) | State::CatchingUp { .. } => now,
        };
        self.came = 0;
        self.state = State::Out(Outage {
            since,
            told_at: now,
            told_operator: needs_operator,
        });
    }

    /// Time passes. `is_faulty`: whether something keeps messages from passing.
    pub(super) fn tick(&mut self, is_faulty: bool, now: Instant) -> Option<Line> {
        let brief = if self.was_ready { BRIEF } else { STARTING };
        match self.state {
            State::Passing if is_faulty => {
                self.state = State::Faulty { since: now };
                None
            }
            State::Faulty { .. } if !is_faulty => {
                self.state = State::Passing;
                None
            }
            State::Faulty { since } if now >= since + brief => {
                self.begin(false, now);
                Some(Line::Faulty)
            }
            State::Out(outage) if now >= outage.told_at + AGAIN => {
                self.state = State::Out(Outage {
                    told_at: now,
                    ..outage
                });
                let lasted = now.saturating_duration_since(outage.since);
                Some(Line::Lasting { lasted })
            }
            State::CatchingUp { outage, since } if now >= since.instant + CATCHING_UP => {
                if is_faulty {
                    self.state = State::Out(outage);
                    return None;
                }
                self.over(false)
            }
            State::Passing | State::Faulty { .. } | State::Out(_) | State::CatchingUp { .. } => {
                None
            }
        }
    }

    /// Messages pass. Returns whether the observer is to send itself a message, to find out how
    /// many have waited: not after its start, which has a line of its own.
    pub(super) fn handle_passing(&mut self, now: Now) -> bool {
        let was_ready = std::mem::replace(&mut self.was_ready, true);
        match self.state {
            State::Out(outage) if was_ready => {
                self.state = State::CatchingUp { outage, since: now };
                true
            }
            State::Out(_) => {
                self.state = State::Passing;
                false
            }
            State::Passing | State::Faulty { .. } | State::CatchingUp { .. } => false,
        }
    }

    /// A user's message came.
    pub(super) fn handle_message(&mut self) {
        if matches!(self.state, State::Out(_) | State::CatchingUp { .. }) {
            self.came += 1;
        }
    }

    /// A message of the observer to itself came, which it `sent` at this time. If it was sent since
    /// messages pass again, then it comes behind those that have waited.
    pub(super) fn handle_own_message(&mut self, sent: UnixMillis) -> Option<Line> {
        match self.state {
            State::CatchingUp { since, .. } if sent >= since.wall => self.over(true),
            State::Passing | State::Faulty { .. } | State::Out(_) | State::CatchingUp { .. } => {
                None
            }
        }
    }

    /// `all`: whether everything that has waited has come.
    fn over(&mut self, all: bool) -> Option<Line> {
        let State::CatchingUp { outage, since } = self.state else {
            return None;
        };
        self.state = State::Passing;
        Some(Line::Over {
            lasted: since.instant.saturating_duration_since(outage.since),
            waited: self.came,
            all,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::clock::Clock;

    const SECOND: Duration = Duration::from_secs(1);
    const LOST: Option<Line> = Some(Line::Lost {
        needs_operator: false,
    });

    fn at(instant: Instant) -> Now {
        Now {
            instant,
            wall: UnixMillis::new(1_000),
        }
    }

    /// An observer that was ready before.
    fn ready(now: Instant) -> Outages {
        let mut outages = Outages::new();
        assert!(!outages.handle_passing(at(now)));
        outages
    }

    #[test]
    fn what_is_lost_again_while_catching_up_is_not_ready() {
        let start = Clock.now().instant;
        let mut outages = ready(start);
        assert_eq!(outages.handle_lost(false, start), LOST);
        assert!(outages.handle_passing(at(start + SECOND)));
        let late = start + SECOND + CATCHING_UP;
        assert_eq!(outages.tick(true, late), None);
        assert!(outages.handle_passing(at(late + SECOND)));
        let over = outages.tick(false, late + SECOND + CATCHING_UP);
        assert!(matches!(over, Some(Line::Over { .. })), "{over:?}");
    }

    #[test]
    fn an_outage_has_a_line_at_its_begin_one_a_minute_and_one_at_its_end() {
        let start = Clock.now().instant;
        let mut outages = ready(start);
        let mut lines = vec![];
        for second in 0..150 {
            lines.extend(outages.handle_lost(false, start + SECOND * second));
            lines.extend(outages.tick(true, start + SECOND * second));
        }
        assert!(!outages.is_well());
        let again = start + SECOND * 150;
        assert!(outages.handle_passing(at(again)) && !outages.handle_passing(at(again)));
        for _ in 0..3 {
            outages.handle_message();
        }
        // It was sent before the outage.
        lines.extend(outages.handle_own_message(UnixMillis::new(999)));
        lines.extend(outages.handle_own_message(UnixMillis::new(1_000)));
        outages.handle_message();
        lines.extend(outages.handle_own_message(UnixMillis::new(1_000)));
        assert_eq!(
            lines,
            [
                Line::Lost {
                    needs_operator: false
                },
                Line::Lasting {
                    lasted: SECOND * 60
                },
                Line::Lasting {
                    lasted: SECOND * 120
                },
                Line::Over {
                    lasted: SECOND * 150,
                    waited: 3,
                    all: true
                },
            ]
        );
    }

    #[test]
    fn what_an_operator_has_to_change_is_said_at_once_and_once() {
        let start = Clock.now().instant;
        let mut outages = ready(start);
        assert_eq!(outages.handle_lost(false, start), LOST);
        let permanent = Some(Line::Lost {
            needs_operator: true,
        });
        assert_eq!(outages.handle_lost(true, start + SECOND), permanent);
        assert_eq!(outages.handle_lost(true, start + SECOND * 2), None);
    }

    #[test]
    fn a_brief_fault_of_a_publisher_is_not_told_of_and_a_longer_one_is() {
        let start = Clock.now().instant;
        let mut outages = ready(start);
        assert_eq!(outages.tick(true, start), None);
        assert_eq!(outages.tick(false, start + SECOND), None);
        assert_eq!(outages.tick(true, start + SECOND * 2), None);
        assert_eq!(outages.tick(true, start + SECOND * 4), Some(Line::Faulty));
        assert!(outages.handle_passing(at(start + SECOND * 5)));
        let over = outages.tick(false, start + SECOND * 5 + CATCHING_UP);
        let want = Line::Over {
            lasted: SECOND * 3,
            waited: 0,
            all: false,
        };
        assert_eq!(over, Some(want));
    }

    #[test]
    fn a_session_lost_again_while_it_catches_up_is_still_the_same_outage() {
        let start = Clock.now().instant;
        let mut outages = ready(start);
        outages.handle_lost(false, start);
        assert!(outages.handle_passing(at(start + SECOND)));
        assert_eq!(outages.handle_lost(false, start + SECOND * 2), None);
        assert!(outages.handle_passing(at(start + SECOND * 3)));
        let want = Line::Over {
            lasted: SECOND * 3,
            waited: 0,
            all: true,
        };
        assert_eq!(
            outages.handle_own_message(UnixMillis::new(1_000)),
            Some(want)
        );
    }

    #[test]
    fn an_observer_that_does_not_get_ready_says_so_after_a_while() {
        let start = Clock.now().instant;
        let mut outages = Outages::new();
        assert_eq!(outages.tick(true, start), None);
        assert_eq!(outages.tick(true, start + SECOND * 9), None);
        assert_eq!(outages.tick(true, start + STARTING), Some(Line::Faulty));
    }

    #[test]
    fn an_observer_that_becomes_ready_for_the_first_time_has_had_no_outage() {
        let start = Clock.now().instant;
        let mut outages = Outages::new();
        assert_eq!(outages.tick(true, start), None);
        assert_eq!(outages.handle_lost(false, start), LOST);
        assert!(!outages.handle_passing(at(start + SECOND)));
        assert_eq!(outages.handle_own_message(UnixMillis::new(1_000)), None);
    }
}
