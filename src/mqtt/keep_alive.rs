//! Whether the broker is still there: pings, and what to conclude from silence.
//!
//! Owns the decision, as a machine that is told what happens. Leaves the clock to `connection.rs`,
//! which calls [`KeepAlive::tick`] twice in each keep alive: so the machine needs no time of any
//! packet.
//!
//! A PINGREQ goes out once in each keep alive, on a busy connection too: PINGRESP is the one proof
//! that the broker has read the acks before it. Whoever keeps what was acknowledged for the case
//! that it comes again relies on that.

/// Ticks in one keep alive.
pub(super) const TICKS: u32 = 2;

/// What to do at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Send a PINGREQ.
    Ping,
    /// No PINGRESP came for a keep alive: the broker is dead.
    Silent,
    /// The broker has read nothing for a keep alive of what waits to be written.
    Deaf,
}

/// Whether what the broker sends is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// It is.
    On,
    /// It waits until there is room: silence means nothing.
    Paused,
}

/// What happened since the last ticks.
#[derive(Debug, Default)]
pub(super) struct KeepAlive {
    sent: bool,
    /// Ticks since the PINGREQ that waits for its answer.
    pinged: Option<u32>,
    /// Ticks since a PINGREQ that was answered, or since the beginning.
    quiet: u32,
    /// Ticks in which nothing was written of what waits.
    stuck: u32,
}

impl KeepAlive {
    /// The socket has taken something.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// PINGRESP came.
    pub(super) fn answered(&mut self) {
        self.pinged = None;
    }

    /// Half a keep alive has passed. `waits`: something is still to be written.
    pub(super) fn tick(&mut self, waits: bool, reading: Reading) -> Verdict {
        let sent = std::mem::take(&mut self.sent);
        self.stuck = if waits && !sent { self.stuck + 1 } else { 0 };
        if self.stuck >= TICKS {
            return Verdict::Deaf;
        }
        self.quiet += 1;
        match &mut self.pinged {
            Some(_) if reading == Reading::Paused => {}
            Some(ticks) => {
                *ticks += 1;
                if *ticks >= TICKS {
                    return Verdict::Silent;
                }
            }
            None if self.quiet >= TICKS => {
                self.quiet = 0;
                self.pinged = Some(0);
                return Verdict::Ping;
            }
            None => {}
        }
        Verdict::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_ping_in_each_keep_alive() {
        let mut machine = KeepAlive::default();
        for _ in 0..10 {
            assert_eq!(machine.tick(false, Reading::On), Verdict::Fine);
            assert_eq!(machine.tick(false, Reading::On), Verdict::Ping);
            machine.sent();
            machine.answered();
        }
    }

    #[test]
    fn a_ping_without_answer_for_a_keep_alive_means_that_the_broker_is_dead() {
        let mut machine = KeepAlive::default();
        for verdict in [Verdict::Fine, Verdict::Ping, Verdict::Fine, Verdict::Silent] {
            assert_eq!(machine.tick(false, Reading::On), verdict);
            machine.sent();
        }
    }

    #[test]
    fn silence_counts_only_while_something_is_read() {
        let mut machine = KeepAlive::default();
        machine.tick(false, Reading::On);
        assert_eq!(machine.tick(false, Reading::On), Verdict::Ping);
        for _ in 0..10 {
            assert_eq!(machine.tick(false, Reading::Paused), Verdict::Fine);
        }
        assert_eq!(machine.tick(false, Reading::On), Verdict::Fine);
        assert_eq!(machine.tick(false, Reading::On), Verdict::Silent);
    }

    #[test]
    fn a_broker_that_delivers_and_reads_nothing_is_dead_too() {
        let mut machine = KeepAlive::default();
        assert_eq!(machine.tick(true, Reading::On), Verdict::Fine);
        assert_eq!(machine.tick(true, Reading::On), Verdict::Deaf);
        let mut machine = KeepAlive::default();
        for _ in 0..10 {
            machine.sent();
            machine.answered();
            assert_ne!(machine.tick(true, Reading::On), Verdict::Deaf);
        }
    }
}
