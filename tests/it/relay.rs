//! A relay between an observer and a broker that can hold back what the broker confirms.
//!
//! While it holds, copies still reach their recipients and messages still reach the observer, but
//! no confirmation of a publish does. It can also let the observer's host vanish: the broker keeps
//! connections of which nothing is heard any more.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use crate::bed::{PATIENCE, wait_for};

/// What its connections share.
#[derive(Default)]
struct State {
    holds: bool,
    /// Connections that are open.
    open: usize,
    /// Connections so far.
    opened: usize,
    /// Of these connections, in order, nothing is heard any more.
    vanished: usize,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

pub(crate) struct Relay {
    port: u16,
    shared: Shared,
}

impl Relay {
    /// Listens on a port of its own and connects to `broker_port`, until the process ends.
    pub(crate) fn to(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared::default();
        let accepted = shared.clone();
        std::thread::spawn(move || {
            for observer in listener.incoming().flatten() {
                let shared = accepted.clone();
                std::thread::spawn(move || carry(observer, broker_port, &shared));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://localhost:{}", self.port)
    }

    /// From now on nothing that the broker says reaches a publishing connection.
    pub(crate) fn hold(&self) {
        self.shared.0.lock().unwrap().holds = true;
    }

    /// What is held back goes on, or is dropped with its connection.
    pub(crate) fn release(&self) {
        self.shared.0.lock().unwrap().holds = false;
        self.shared.1.notify_all();
    }

    /// Neither side hears any more of the connections so far, and neither is told.
    pub(crate) fn vanish(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.vanished = state.opened;
    }

    /// Waits until the observer's connections are closed on the broker's side, too.
    pub(crate) fn wait_closed(&self) {
        wait_for("the end of all connections", || {
            (self.shared.0.lock().unwrap().open == 0).then_some(())
        });
    }
}

/// One connection of the observer, until either side closes it.
fn carry(mut observer: TcpStream, broker_port: u16, shared: &Shared) {
    let mut broker = TcpStream::connect(("127.0.0.1", broker_port)).unwrap();
    observer.set_nodelay(true).unwrap();
    broker.set_nodelay(true).unwrap();
    let number = {
        let mut state = shared.0.lock().unwrap();
        state.open += 1;
        state.opened += 1;
        state.opened
    };
    let has_vanished = || shared.0.lock().unwrap().vanished >= number;
    // The CONNECT comes first, and is short: its client identifier says what it is for.
    let mut chunk = vec![0; 65_536];
    let length = observer.read(&mut chunk).unwrap_or(0);
    let publishes = chunk[..length].windows(5).any(|part| part == b"-pub-");
    if broker.write_all(&chunk[..length]).is_ok() {
        let (from, to) = (broker.try_clone().unwrap(), observer.try_clone().unwrap());
        let back = shared.clone();
        let answers = std::thread::spawn(move || answer(from, to, (number, publishes), &back));
        while let Ok(length) = observer.read(&mut chunk)
            && length > 0
            && !has_vanished()
            && broker.write_all(&chunk[..length]).is_ok()
        {}
        shared.0.lock().unwrap().open -= 1;
        if has_vanished() {
            // Open on the broker's side until it closes, or the test ends.
            let _ = answers.join();
            return;
        }
        let _ = broker.shutdown(Shutdown::Both);
        let _ = observer.shutdown(Shutdown::Both);
        // It may wait for its release.
        let _ = answers.join();
    } else {
        shared.0.lock().unwrap().open -= 1;
    }
}

/// What the broker says, held back if that is asked for and the connection publishes.
fn answer(
    mut from: TcpStream,
    mut to: TcpStream,
    (number, publishes): (usize, bool),
    shared: &Shared,
) {
    let mut chunk = vec![0; 65_536];
    while let Ok(length) = from.read(&mut chunk)
        && length > 0
    {
        let mut state = shared.0.lock().unwrap();
        if publishes && state.holds {
            let limit = PATIENCE * 2;
            let wait = shared
                .1
                .wait_timeout_while(state, limit, |state| state.holds);
            state = wait.unwrap().0;
        }
        // Written under the lock: once `hold` returns, nothing is on its way any more.
        let written = match state.vanished >= number {
            true => Ok(()),
            false => to.write_all(&chunk[..length]),
        };
        drop(state);
        if written.is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
