//! A way to a server that takes a while, and counts how often somebody waits for an answer.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

pub(crate) struct SlowWay {
    port: u16,
    /// Of each connection: what it has asked and waited for.
    ways: Arc<Mutex<Vec<Arc<AtomicUsize>>>>,
}

impl SlowWay {
    /// Listens on a port of its own until the process ends. Whatever comes takes `delay`, in each
    /// direction.
    pub(crate) fn to(server: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ways: Arc<Mutex<Vec<Arc<AtomicUsize>>>> = Arc::default();
        let all = ways.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                let count = Arc::new(AtomicUsize::new(0));
                all.lock().unwrap().push(count.clone());
                let asks = Arc::new(AtomicBool::new(false));
                let (question, answer) = (clone(&client), clone(&server));
                for (from, to, is_question) in [(question, answer, true), (server, client, false)] {
                    let (count, asks) = (count.clone(), asks.clone());
                    std::thread::spawn(move || {
                        carry(from, to, delay, || {
                            if asks.swap(is_question, Ordering::SeqCst) != is_question
                                && is_question
                            {
                                count.fetch_add(1, Ordering::SeqCst);
                            }
                        });
                    });
                }
            }
        });
        Self { port, ways }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How often the busiest connection has waited for an answer.
    pub(crate) fn most(&self) -> usize {
        let ways = self.ways.lock().unwrap();
        let counts = ways.iter().map(|count| count.load(Ordering::SeqCst));
        counts.max().unwrap_or(0)
    }
}

fn clone(stream: &TcpStream) -> TcpStream {
    stream.try_clone().unwrap()
}

fn carry(mut from: TcpStream, mut to: TcpStream, delay: Duration, seen: impl Fn()) {
    to.set_nodelay(true).unwrap();
    let (under_way, arrives) = mpsc::channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, bytes) in arrives {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut chunk = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from.read(&mut chunk) {
        seen();
        let bytes = chunk[..length].to_vec();
        if under_way.send((Instant::now() + delay, bytes)).is_err() {
            break;
        }
    }
}
