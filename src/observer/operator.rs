//! What operators tell the observer while it runs.
//!
//! Carries out the commands of [`telemetry::operator_command`](crate::telemetry::operator_command).

use tracing::{info, warn};

use crate::observer::event_loop::Observer;
use crate::protocol::message::Received;
use crate::telemetry::operator_command::{OperatorCommand, Switch};

impl Observer {
    /// Takes what an operator published on `observer/{name}/control/{last_level}`.
    pub(super) fn handle_command(&mut self, last_level: &str, received: &Received) {
        let done = match OperatorCommand::parse(last_level, &received.payload) {
            Ok(OperatorCommand::Trace(switch)) => {
                self.switch_trace(switch);
                Ok(())
            }
            Ok(OperatorCommand::LogLevel(level)) => self.reporter.set_log_level(level),
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            let topic = format!("control/{last_level}");
            warn!(%error, %topic, "an operator's command is not carried out");
        }
    }

    fn switch_trace(&mut self, switch: Switch) {
        let before = self.journal.traces();
        self.journal.switch_trace(switch, self.clock.now().instant);
        if before != self.journal.traces() {
            info!(on = !before, "tracing (control/trace)");
        }
    }
}
