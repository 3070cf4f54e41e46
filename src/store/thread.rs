//! Drives work on the store in a thread of its own: one batch at a time, and upkeep in between.
//!
//! Owns the pace: retries, probes, retention, and the thread for upkeep. Each batch is committed at
//! once: the broker sends no more than its window until it has acks, and what comes during a commit
//! shares the next one. Leaves to its [`Work`] what a batch is and what is done with it.

use std::io;
use std::sync::mpsc as thread_mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::store::{Probe, Pruned, StoreError, UPKEEP_DUE, Upkeep};

/// The wait before a store that failed is tried again.
const RETRY: Duration = Duration::from_millis(250);
/// How often a batch is tried again at once that was in the way of another transaction.
const CONFLICTS: u32 = 20;
/// The pause before the first of these attempts; it grows.
const CONFLICT_PAUSE: Duration = Duration::from_millis(2);
/// How often an idle store is probed: readiness must not wait for a message to find a fault.
const PROBE_EVERY: Duration = Duration::from_millis(400);
/// One probe in so many writes something. A lock that somebody else holds shows without a write.
const PROBES_PER_WRITE: u64 = 3;
/// How often to look whether retention has something to do.
const RETENTION_IDLE: Duration = Duration::from_secs(60);
/// The pause between two steps of retention: batches pass in it.
const RETENTION_PAUSE: Duration = Duration::from_millis(20);

/// What the thread does. Every method may block.
pub trait Work: Send + 'static {
    /// What is processed in one transaction.
    type Batch: Send + 'static;
    /// What becomes of a batch.
    type Done: Send + 'static;

    /// Processes a batch.
    ///
    /// # Errors
    /// [`StoreError`]: nothing of the batch has happened, and it can be tried again.
    fn process(&mut self, batch: &Self::Batch) -> Result<Self::Done, StoreError>;

    /// Tries whether the store would take something.
    ///
    /// # Errors
    /// [`StoreError`]: it would not.
    fn probe(&mut self, probe: Probe) -> Result<(), StoreError>;

    /// Takes one step of retention.
    ///
    /// # Errors
    /// [`StoreError`]: the step was not taken.
    fn prune(&mut self) -> Result<Pruned, StoreError>;

    /// How many rows were written since the last call.
    fn take_written(&mut self) -> usize;

    /// The present moment.
    fn now(&self) -> Instant;
}

/// What the thread reports.
#[derive(Debug)]
pub enum Event<Done> {
    /// A batch is processed and committed.
    Processed(Done),
    /// The store fails, for this reason. It is tried until it works again.
    Failing(String),
    /// The store works again.
    Recovered,
}

/// The thread, and the channels to it.
#[derive(Debug)]
pub struct Handle<Batch, Done> {
    batches: thread_mpsc::SyncSender<Batch>,
    events: mpsc::Receiver<Event<Done>>,
    is_busy: bool,
    thread: JoinHandle<()>,
}

impl<Batch, Done> Handle<Batch, Done> {
    /// Hands a batch over. The next may follow when this one is reported as processed.
    pub fn process(&mut self, batch: Batch) {
        debug_assert!(!self.is_busy, "one batch at a time");
        self.is_busy = true;
        // The thread ends early only if it panics. Then `next` returns `None`.
        let _ = self.batches.try_send(batch);
    }

    /// Whether a batch is being processed.
    pub fn is_busy(&self) -> bool {
        self.is_busy
    }

    /// The next report; `None` if the thread has ended. Safe to cancel: the channel keeps what was
    /// not received.
    pub async fn next(&mut self) -> Option<Event<Done>> {
        let event = self.events.recv().await;
        if matches!(event, Some(Event::Processed(_))) {
            self.is_busy = false;
        }
        event
    }

    /// Ends the thread: the batch it has is finished or rolled back. Blocks until then.
    pub fn join(self) {
        drop((self.batches, self.events));
        let _ = self.thread.join();
    }
}

/// Starts the thread, and another one for upkeep. They end when the handle is joined, or soon
/// after `stop` is cancelled while the store fails.
///
/// # Errors
/// The system's reason not to start a thread.
pub fn spawn<W: Work>(
    work: W,
    upkeep: Option<Box<dyn Upkeep>>,
    stop: CancellationToken,
) -> io::Result<Handle<W::Batch, W::Done>> {
    // One batch at a time.
    let (batches_tx, batches_rx) = thread_mpsc::sync_channel(1);
    // For one batch: that the store fails, that it has recovered, and the result.
    let (events_tx, events_rx) = mpsc::channel(4);
    let worker = Worker {
        written: 0,
        events: events_tx,
        upkeep_due: spawn_upkeep(upkeep)?,
        stop,
        work,
    };
    // The log says which of several slots it is about.
    let span = tracing::Span::current();
    let thread = std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || span.in_scope(|| worker.run(&batches_rx)))?;
    Ok(Handle {
        batches: batches_tx,
        events: events_rx,
        is_busy: false,
        thread,
    })
}

/// The other ends of a handle, for whoever plays the thread.
#[cfg(test)]
pub(crate) struct FarEnds<Batch, Done> {
    pub(crate) batches: thread_mpsc::Receiver<Batch>,
    pub(crate) events: mpsc::Sender<Event<Done>>,
}

/// A handle without a thread behind it.
#[cfg(test)]
pub(crate) fn by_hand<Batch, Done>() -> (Handle<Batch, Done>, FarEnds<Batch, Done>) {
    let (batches_tx, batches) = thread_mpsc::sync_channel(1);
    let (events, events_rx) = mpsc::channel(4);
    let handle = Handle {
        batches: batches_tx,
        events: events_rx,
        is_busy: false,
        thread: std::thread::spawn(|| {}),
    };
    (handle, FarEnds { batches, events })
}

/// Starts the thread that does the store's upkeep each time it is asked to.
fn spawn_upkeep(upkeep: Option<Box<dyn Upkeep>>) -> io::Result<thread_mpsc::SyncSender<()>> {
    // If it is asked while it runs, it runs once more.
    let (due_tx, due_rx) = thread_mpsc::sync_channel(1);
    if let Some(mut upkeep) = upkeep {
        let run = move || {
            while due_rx.recv().is_ok() {
                // What could not be done now is left to the next run or, in the end, to the store's
                // thread.
                if let Err(fault) = upkeep.run() {
                    debug!(error = %fault, "checkpoint");
                }
            }
        };
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(run)?;
    }
    Ok(due_tx)
}

/// The thread is to end: nobody takes its reports, or it was told to stop.
struct Ended;

struct Worker<W: Work> {
    work: W,
    /// Rows written since upkeep was asked for last.
    written: usize,
    events: mpsc::Sender<Event<W::Done>>,
    upkeep_due: thread_mpsc::SyncSender<()>,
    stop: CancellationToken,
}

impl<W: Work> Worker<W> {
    fn run(mut self, batches: &thread_mpsc::Receiver<W::Batch>) {
        // Ends with the handle, or on a stop while the store fails: nothing remains to be reported.
        let _: Result<(), Ended> = self.serve(batches);
    }

    fn serve(&mut self, batches: &thread_mpsc::Receiver<W::Batch>) -> Result<(), Ended> {
        let mut prune_at = self.work.now();
        let (mut tried, mut probes) = (self.work.now(), 0_u64);
        loop {
            let next = prune_at.min(tried + PROBE_EVERY);
            let wait = next.saturating_duration_since(self.work.now());
            match batches.recv_timeout(wait) {
                Ok(batch) => {
                    self.process(&batch)?;
                    tried = self.work.now();
                }
                Err(thread_mpsc::RecvTimeoutError::Timeout) => {}
                Err(thread_mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.ask_for_upkeep();
            if self.work.now() >= prune_at {
                let pause = self.prune();
                prune_at = self.work.now() + pause;
            }
            if self.work.now() >= tried + PROBE_EVERY {
                probes += 1;
                let probe = match probes.is_multiple_of(PROBES_PER_WRITE) {
                    true => Probe::Write,
                    false => Probe::Lock,
                };
                self.until_it_works(|work| work.probe(probe))?;
                tried = self.work.now();
            }
        }
    }

    /// Processes one batch, and reports it.
    fn process(&mut self, batch: &W::Batch) -> Result<(), Ended> {
        let done = self.until_it_works(|work| work.process(batch))?;
        self.report(Event::Processed(done))
    }

    /// Tries until it succeeds: nothing is published or acknowledged meanwhile, so nothing is lost.
    fn until_it_works<T>(
        &mut self,
        attempt: impl Fn(&mut W) -> Result<T, StoreError>,
    ) -> Result<T, Ended> {
        let (mut failing, mut conflicts) = (false, 0);
        loop {
            match attempt(&mut self.work) {
                Ok(done) => {
                    if failing {
                        info!("the store works again");
                        self.report(Event::Recovered)?;
                    }
                    return Ok(done);
                }
                Err(StoreError::Conflict(_)) if conflicts < CONFLICTS => {
                    conflicts += 1;
                    std::thread::sleep(conflicts * CONFLICT_PAUSE);
                }
                Err(fault) => {
                    if !failing {
                        failing = true;
                        if matches!(fault, StoreError::Fenced) {
                            // Whoever serves now goes on with it.
                            debug!(error = %fault, "the store is not ours");
                        } else {
                            error!(
                                error = %fault,
                                "the store fails: nothing is forwarded until it works again, and \
                                 the broker keeps what comes"
                            );
                        }
                        self.report(Event::Failing(fault.to_string()))?;
                    }
                    std::thread::sleep(RETRY);
                    // Whoever has dropped the handle waits for nothing.
                    if self.stop.is_cancelled() || self.events.is_closed() {
                        return Err(Ended);
                    }
                }
            }
        }
    }

    fn report(&self, event: Event<W::Done>) -> Result<(), Ended> {
        self.events.blocking_send(event).map_err(|_| Ended)
    }

    fn ask_for_upkeep(&mut self) {
        self.written += self.work.take_written();
        if self.written >= UPKEEP_DUE {
            self.written = 0;
            // If one is asked for already, that will do.
            let _ = self.upkeep_due.try_send(());
        }
    }

    /// Takes one step of retention. Returns how long to wait for the next one.
    fn prune(&mut self) -> Duration {
        match self.work.prune() {
            Ok(Pruned::More) => RETENTION_PAUSE,
            Ok(Pruned::All) => RETENTION_IDLE,
            Err(fault) => {
                error!(error = %fault, "retention: old messages could not be deleted");
                RETENTION_IDLE
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    /// Fails so many times, then doubles numbers.
    struct Doubler {
        failures: usize,
    }

    impl Work for Doubler {
        type Batch = u32;
        type Done = u32;

        fn process(&mut self, batch: &u32) -> Result<u32, StoreError> {
            if self.failures > 0 {
                self.failures -= 1;
                return Err(StoreError::Missing(PathBuf::from("/nowhere")));
            }
            Ok(batch * 2)
        }

        fn probe(&mut self, _: Probe) -> Result<(), StoreError> {
            Ok(())
        }

        fn prune(&mut self) -> Result<Pruned, StoreError> {
            Ok(Pruned::All)
        }

        fn take_written(&mut self) -> usize {
            1
        }

        #[expect(
            clippy::disallowed_methods,
            reason = "the thread's real pace is tested"
        )]
        fn now(&self) -> Instant {
            Instant::now()
        }
    }

    fn start(failures: usize, stop: &CancellationToken) -> Handle<u32, u32> {
        spawn(Doubler { failures }, None, stop.clone()).unwrap()
    }

    #[tokio::test]
    async fn a_batch_that_fails_is_tried_until_it_succeeds() {
        let mut handle = start(2, &CancellationToken::new());
        handle.process(21);
        assert!(handle.is_busy());
        assert!(matches!(handle.next().await, Some(Event::Failing(_))));
        assert!(matches!(handle.next().await, Some(Event::Recovered)));
        assert!(handle.is_busy());
        let done = handle.next().await;
        assert!(matches!(done, Some(Event::Processed(42))), "{done:?}");
        assert!(!handle.is_busy());
        handle.process(1);
        assert!(matches!(handle.next().await, Some(Event::Processed(2))));
        handle.join();
    }

    #[tokio::test]
    async fn a_stop_ends_a_thread_whose_store_fails() {
        let stop = CancellationToken::new();
        let mut handle = start(usize::MAX, &stop);
        handle.process(21);
        assert!(matches!(handle.next().await, Some(Event::Failing(_))));
        stop.cancel();
        assert!(handle.next().await.is_none());
        handle.join();
    }
}
