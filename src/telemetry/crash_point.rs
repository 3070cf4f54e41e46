//! Places at which a test has the process end, as a crash would end it.
//!
//! Owns their names and what they do. In a release build they do nothing: [`CrashPoint::pass`] is
//! empty there.

/// A place on the way of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashPoint {
    /// All of a batch is written, and not committed.
    Written,
    /// A batch is committed, and nobody knows.
    Committed,
    /// A commit is known, and nothing is acknowledged or published.
    Decided,
    /// A publish is handed to its connection.
    Published,
    /// An acknowledgement is handed to its connection.
    Acknowledged,
    /// A turn of the observer is over: what it led to is on its way.
    Turned,
    /// The broker has confirmed a publish, and the delivery log does not know.
    Confirmed,
    /// The delivery log has forgotten messages, and they are committed.
    Forgotten,
}

/// See [`panic_on`].
#[cfg(debug_assertions)]
pub const PANIC_WORD: &str = "PANIC-ON-THIS";

/// Panics if a payload or a topic holds the word that stands in `PANIC_ON`, or in unit tests
/// [`PANIC_WORD`]; does nothing in a release build.
#[cfg(debug_assertions)]
pub fn panic_on(text: &[u8]) {
    use std::sync::OnceLock;

    static ON: OnceLock<Option<String>> = OnceLock::new();
    let word = || match cfg!(test) {
        true => Some(PANIC_WORD.to_owned()),
        false => std::env::var("PANIC_ON").ok(),
    };
    if let Some(word) = ON.get_or_init(word) {
        assert!(
            !String::from_utf8_lossy(text).contains(word),
            "a test wants a panic"
        );
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn panic_on(_: &[u8]) {}

impl CrashPoint {
    /// Ends the process with SIGABRT, if `CRASH_AT` names this point and it is passed for the time
    /// that stands there: `CRASH_AT=committed:3`.
    #[cfg(debug_assertions)]
    pub fn pass(self) {
        use std::sync::OnceLock;
        use std::sync::atomic::{AtomicU64, Ordering};

        static AT: OnceLock<Option<(String, u64)>> = OnceLock::new();
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let at = AT.get_or_init(|| {
            let text = std::env::var("CRASH_AT").ok()?;
            let (name, times) = text.split_once(':')?;
            Some((name.to_owned(), times.parse().ok()?))
        });
        let Some((name, times)) = at else { return };
        let is_it = format!("{self:?}").eq_ignore_ascii_case(name);
        if is_it && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *times {
            std::process::abort();
        }
    }

    /// Nothing.
    #[cfg(not(debug_assertions))]
    #[inline(always)]
    pub fn pass(self) {}
}
