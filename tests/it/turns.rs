//! How many tests work at a time: each runs an observer and dozens of users on brokers that share
//! the machine. Who waits for a broker does not count, so there are more threads than turns.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// Tests that work at a time.
const TURNS: usize = 3;

static FREE: Mutex<usize> = Mutex::new(TURNS);
static GIVEN_BACK: Condvar = Condvar::new();

thread_local! {
    /// Locks that the test of this thread holds. It has a turn as long as it holds any.
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// A lock that a test holds while it works.
pub(crate) struct Turn<G> {
    _lock: G,
}

impl<G> Turn<G> {
    /// Waits for the lock, then for a turn. Nobody waits for a lock while they have a turn: whoever
    /// holds that lock may be waiting for one.
    pub(crate) fn take(lock: impl FnOnce() -> G) -> Self {
        if HELD.get() > 0 {
            give_back();
        }
        let lock = lock();
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let free = GIVEN_BACK.wait_while(free, |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        HELD.set(HELD.get() + 1);
        Self { _lock: lock }
    }
}

impl<G> Drop for Turn<G> {
    fn drop(&mut self) {
        HELD.set(HELD.get() - 1);
        if HELD.get() == 0 {
            give_back();
        }
    }
}

fn give_back() {
    *FREE.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    GIVEN_BACK.notify_one();
}
