//! Whether the broker is still there: pings, and what to conclude from silence.
//!
//! Owns the decision, as a machine that is told what happens. Leaves the clock to `connection.rs`,
//! which calls [`KeepAlive::tick`] twice in each keep alive: so the machine needs no time of any
//! packet.
//!
//! A PINGREQ goes out once in each keep alive, whatever else goes on: a broker may close a
//! connection on which none comes, and PINGRESP is the one proof that the broker has read the acks
//! before it. Whoever keeps what was acknowledged for the case that it comes again relies on that.
//! Pings for other purposes (see `outbox.rs`) do not count here, and replace none.
//!
//! PINGRESP stands behind what the broker is delivering, which can take longer than a keep alive.
//! So a broker is dead only if nothing at all comes from it.

/// Ticks in one keep alive.
pub(super) const TICKS: u32 = 2;

/// What to do at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Fine,
    /// Send a PINGREQ.
    Ping,
    /// Nothing came for a keep alive, although a PINGREQ waits for its answer: the broker is dead.
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
    received: bool,
    /// A PINGREQ waits for its answer.
    is_unanswered: bool,
    /// Ticks since the last PINGREQ, or since the beginning.
    quiet: u32,
    /// Ticks in which a PINGREQ waited for its answer, and nothing moved.
    silent: u32,
    /// Ticks in which nothing was written of what waits.
    stuck: u32,
}

impl KeepAlive {
    /// The socket has taken something.
    pub(super) fn sent(&mut self) {
        self.sent = true;
    }

    /// Something was read.
    pub(super) fn received(&mut self) {
        self.received = true;
    }

    /// PINGRESP came, and no ping waits for its answer any more.
    pub(super) fn answered(&mut self) {
        self.is_unanswered = false;
    }

    /// Half a keep alive has passed. `waits`: something is still to be written.
    pub(super) fn tick(&mut self, waits: bool, reading: Reading) -> Verdict {
        let sent = std::mem::take(&mut self.sent);
        let received = std::mem::take(&mut self.received);
        self.stuck = if waits && !sent { self.stuck + 1 } else { 0 };
        if self.stuck >= TICKS {
            return Verdict::Deaf;
        }
        // The PINGREQ itself may still stand behind what is being written.
        let moves = received || (waits && sent);
        let is_silent = self.is_unanswered && reading == Reading::On && !moves;
        self.silent = if is_silent { self.silent + 1 } else { 0 };
        if self.silent >= TICKS {
            return Verdict::Silent;
        }
        self.quiet += 1;
        if self.quiet < TICKS {
            return Verdict::Fine;
        }
        self.quiet = 0;
        self.is_unanswered = true;
        Verdict::Ping
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
            assert_eq!(machine.tick(false, Reading::Paused), Verdict::Ping);
        }
        assert_eq!(machine.tick(false, Reading::On), Verdict::Fine);
        assert_eq!(machine.tick(false, Reading::On), Verdict::Silent);
    }

    #[test]
    fn an_answer_may_stand_behind_much_else_in_either_direction() {
        type Moved = fn(&mut KeepAlive);
        for (waits, moved) in [
            (false, KeepAlive::received as Moved),
            (true, KeepAlive::sent as Moved),
        ] {
            let mut machine = KeepAlive::default();
            for _ in 0..10 {
                for verdict in [Verdict::Fine, Verdict::Ping] {
                    moved(&mut machine);
                    assert_eq!(machine.tick(waits, Reading::On), verdict);
                }
            }
            assert_eq!(machine.tick(false, Reading::On), Verdict::Fine);
            assert_eq!(machine.tick(false, Reading::On), Verdict::Silent);
        }
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
