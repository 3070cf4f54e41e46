//! The line between an observer and its broker, with the faults that lines have.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::bed::PATIENCE;

/// How it carries what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    All,
    /// Each piece so much later.
    Late(Duration),
    /// So many bytes each millisecond.
    Slowly(usize),
    /// Nothing, in either direction, until it carries something again.
    Nothing,
}

struct State {
    carries: Carries,
    /// Both sockets of each connection so far: the observer's and the broker's.
    connections: Vec<(TcpStream, TcpStream)>,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

pub(crate) struct FaultyLine {
    port: u16,
    shared: Shared,
}

impl FaultyLine {
    /// Listens on a port of its own and connects to `broker_port`, until the process ends.
    pub(crate) fn to(broker_port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            carries: Carries::All,
            connections: vec![],
        };
        let shared: Shared = Arc::new((Mutex::new(state), Condvar::new()));
        let accepted = shared.clone();
        std::thread::spawn(move || {
            for observer in listener.incoming().flatten() {
                // The broker may be down: then the observer is told by the end of its connection.
                if let Ok(broker) = TcpStream::connect(("127.0.0.1", broker_port)) {
                    connect(observer, broker, &accepted);
                }
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("mqtt://localhost:{}", self.port)
    }

    pub(crate) fn carry(&self, carries: Carries) {
        self.shared.0.lock().unwrap().carries = carries;
        self.shared.1.notify_all();
    }

    /// Ends all connections, on both sides.
    pub(crate) fn cut(&self) {
        for (observer, broker) in self.shared.0.lock().unwrap().connections.drain(..) {
            let _ = observer.shutdown(Shutdown::Both);
            let _ = broker.shutdown(Shutdown::Both);
        }
    }

    /// Ends one direction of all connections: what goes to the broker, or what comes from it.
    pub(crate) fn half_close(&self, to_broker: bool) {
        for (observer, broker) in &self.shared.0.lock().unwrap().connections {
            let end = if to_broker { broker } else { observer };
            let _ = end.shutdown(Shutdown::Write);
        }
    }
}

fn connect(observer: TcpStream, broker: TcpStream, shared: &Shared) {
    for (from, to) in [(&observer, &broker), (&broker, &observer)] {
        let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let shared = shared.clone();
        std::thread::spawn(move || copy(from, to, &shared));
    }
    let mut state = shared.0.lock().unwrap();
    state.connections.push((observer, broker));
}

/// Carries one direction until either end closes.
fn copy(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut chunk = vec![0; 16_384];
    while let Ok(length) = from.read(&mut chunk)
        && length > 0
    {
        let state = shared.0.lock().unwrap();
        let is_dead = |state: &mut State| state.carries == Carries::Nothing;
        let waited = shared.1.wait_timeout_while(state, PATIENCE, is_dead);
        let carries = waited.unwrap().0.carries;
        let written = match carries {
            Carries::All | Carries::Nothing => to.write_all(&chunk[..length]),
            Carries::Late(time) => {
                // The line is slow: that is what is wanted.
                std::thread::sleep(time);
                to.write_all(&chunk[..length])
            }
            Carries::Slowly(bytes) => chunk[..length].chunks(bytes).try_for_each(|piece| {
                // The same.
                std::thread::sleep(Duration::from_millis(1));
                to.write_all(piece)
            }),
        };
        if written.is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
