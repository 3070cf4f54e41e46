//! The lines of trace for whoever looks at the console, within this process.
//!
//! Owns how many may look, and what a slow reader loses. [`trace`](crate::telemetry::trace) makes
//! the lines, and `http::console` serves them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::broadcast::{self, error::RecvError, error::TryRecvError};

use crate::telemetry::trace::Line;

/// Listeners at a time: a handful of people with a page open.
const MAX_LISTENERS: usize = 16;
/// Lines that wait for the slowest listener. Whoever is further behind loses the oldest.
const WAITING_LINES: usize = 256;

/// Hands lines of trace to listeners. Clones share the listeners.
#[derive(Clone, Debug)]
pub struct Feed(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    listeners: AtomicUsize,
    lines: broadcast::Sender<Arc<Line>>,
}

/// What a listener hears next.
#[derive(Clone, Debug)]
pub enum Heard {
    /// What became of a message.
    Line(Arc<Line>),
    /// So many lines were lost, because the listener was too slow.
    Lost(u64),
}

/// One who is handed the lines from now on.
#[derive(Debug)]
pub struct Listener {
    feed: Feed,
    lines: broadcast::Receiver<Arc<Line>>,
}

impl Default for Feed {
    fn default() -> Self {
        Self(Arc::new(Shared {
            listeners: AtomicUsize::new(0),
            lines: broadcast::Sender::new(WAITING_LINES),
        }))
    }
}

impl Feed {
    /// Whether anybody listens: asked for each message, so it is one relaxed load.
    pub fn is_watched(&self) -> bool {
        self.0.listeners.load(Ordering::Relaxed) > 0
    }

    /// Hands a line to everybody who listens. It waits for nobody.
    pub fn send(&self, line: Line) {
        // An error says that the last listener has just left.
        let _ = self.0.lines.send(Arc::new(line));
    }

    /// Listens from now on; `None` if too many do already.
    pub fn listen(&self) -> Option<Listener> {
        let more = |count| (count < MAX_LISTENERS).then_some(count + 1);
        let counted = &self.0.listeners;
        counted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
            .ok()?;
        Some(Listener {
            feed: self.clone(),
            lines: self.0.lines.subscribe(),
        })
    }
}

impl Listener {
    /// The next line, or how many were lost. Safe to cancel.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.lines.recv().await {
            Ok(line) => Some(Heard::Line(line)),
            Err(RecvError::Lagged(count)) => Some(Heard::Lost(count)),
            Err(RecvError::Closed) => None,
        }
    }

    /// The next line, or how many were lost, if that is known already.
    pub fn try_next(&mut self) -> Option<Heard> {
        match self.lines.try_recv() {
            Ok(line) => Some(Heard::Line(line)),
            Err(TryRecvError::Lagged(count)) => Some(Heard::Lost(count)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.feed.0.listeners.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace::tests::line;

    #[test]
    fn listeners_are_counted_and_bounded() {
        let feed = Feed::default();
        assert!(!feed.is_watched());
        let listeners: Vec<Listener> = (0..MAX_LISTENERS).map(|_| feed.listen().unwrap()).collect();
        assert!(feed.is_watched() && feed.listen().is_none());
        drop(listeners);
        assert!(!feed.is_watched() && feed.listen().is_some());
    }

    #[test]
    fn a_slow_listener_loses_the_oldest_lines_and_is_told_how_many() {
        let feed = Feed::default();
        let (mut slow, mut quick) = (feed.listen().unwrap(), feed.listen().unwrap());
        let sent = 3 * WAITING_LINES + 7;
        for at in 0..sent {
            feed.send(line(at as u64));
            assert!(matches!(quick.try_next(), Some(Heard::Line(line)) if line.at == at as u64));
        }
        let lost = sent - WAITING_LINES;
        assert!(matches!(slow.try_next(), Some(Heard::Lost(count)) if count == lost as u64));
        assert!(matches!(slow.try_next(), Some(Heard::Line(line)) if line.at == lost as u64));
    }
}
