//! A small HTTP server that answers as the test tells it to, and a small client.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

/// What the server does with a request.
pub(crate) enum Answer {
    /// A status, and a body.
    Says(u16, String),
    /// The same, after this time.
    Later(Duration, u16, String),
    /// A status with one more header.
    With(u16, &'static str, String),
    /// A redirect to this URL.
    Redirects(String),
    /// No answer; the connection stays open for this time.
    Hangs(Duration),
    /// Closes the connection.
    Closes,
}

/// One request.
pub(crate) struct Request {
    pub(crate) path: String,
    /// By name, in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) text: String,
    pub(crate) body: Value,
}

/// A running server, and counts of what it has seen.
pub(crate) struct Server {
    pub(crate) url: String,
    pub(crate) requests: Arc<AtomicUsize>,
    /// The most requests there were at a time.
    pub(crate) most: Arc<AtomicUsize>,
}

impl Server {
    /// Answers until the process ends: `answer` is given the path and the JSON body.
    pub(crate) fn start(answer: impl Fn(&str, &Value) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self::on(listener, move |request| {
            answer(&request.path, &request.body)
        })
    }

    /// The same on a listener of the caller's.
    pub(crate) fn on(
        listener: TcpListener,
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let url = format!("http://{}/decide", listener.local_addr().unwrap());
        let (requests, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let server = Self {
            url,
            requests: requests.clone(),
            most: most.clone(),
        };
        let (answer, now) = (Arc::new(answer), Arc::new(AtomicUsize::new(0)));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, requests) = (answer.clone(), requests.clone());
                let (now, most) = (now.clone(), most.clone());
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    while let Some(request) = read(&mut reader) {
                        requests.fetch_add(1, Ordering::Relaxed);
                        let at_once = now.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(at_once, Ordering::SeqCst);
                        let goes_on = write(&stream, answer(&request));
                        now.fetch_sub(1, Ordering::SeqCst);
                        if !goes_on {
                            return;
                        }
                    }
                });
            }
        });
        server
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok()?;
        if header.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").map_or(Ok(0), |n| n.parse());
    let mut text = vec![0; length.ok()?];
    reader.read_exact(&mut text).ok()?;
    Some(Request {
        path,
        headers,
        body: serde_json::from_slice(&text).unwrap_or(Value::Null),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// Returns whether the connection goes on.
fn write(mut stream: &TcpStream, answer: Answer) -> bool {
    let (status, headers, body) = match answer {
        Answer::Says(status, body) => (status, String::new(), body),
        Answer::Later(wait, status, body) => {
            std::thread::sleep(wait);
            (status, String::new(), body)
        }
        Answer::With(status, name, value) => {
            (status, format!("{name}: {value}\r\n"), String::new())
        }
        Answer::Redirects(place) => (307, format!("location: {place}\r\n"), String::new()),
        Answer::Hangs(wait) => {
            std::thread::sleep(wait);
            return false;
        }
        Answer::Closes => return false,
    };
    let length = if status == 204 {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!("HTTP/1.1 {status} X\r\n{headers}{length}\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).is_ok()
}

/// Sends a GET request. Returns the status and the body.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

/// A port that nobody listens on, nor gets from the system: it hands out ports from 32768 on, and
/// the bed's servers have those from 20000 on.
pub(crate) fn free_port() -> u16 {
    const PORTS: std::ops::Range<u16> = 10_000..20_000;
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(97);
    loop {
        let n = first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = PORTS.start + u16::try_from(n % u32::from(PORTS.end - PORTS.start)).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// What came back from [`call`].
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// By name, in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Sends a request with headers, each a line, and a body. The connection ends with it.
pub(crate) fn call(port: u16, method: &str, path: &str, headers: &[String], body: &str) -> Reply {
    call_host(port, "x", method, path, headers, body)
}

/// The same, for a server of that name.
pub(crate) fn call_host(
    port: u16,
    host: &str,
    method: &str,
    path: &str,
    headers: &[String],
    body: &str,
) -> Reply {
    let address = format!("127.0.0.1:{port}");
    call_at(&address, host, method, path, headers, body)
}

/// The same, at that address.
pub(crate) fn call_at(
    address: &str,
    host: &str,
    method: &str,
    path: &str,
    headers: &[String],
    body: &str,
) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let length = match body {
        "" => String::new(),
        body => format!("content-length: {}\r\n", body.len()),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\
         {headers}{length}\r\n{body}"
    );
    // The server may answer before it has read everything.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, text) = answer.split_once("\r\n\r\n").unwrap_or_else(|| {
        panic!("{method} {path} was answered by {answer:?}");
    });
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let headers = lines.filter_map(|line| line.split_once(':'));
    Reply {
        status: status.unwrap().parse().unwrap(),
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect(),
        text: text.to_owned(),
    }
}
