//! Answers of operators' services, as bytes of HTTP: of a webhook's endpoint and of the decision
//! service. Whatever they say, an event is done with or waits no longer than it may, and a message
//! passes, is refused, or is replaced by one.

#![no_main]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};

use chat21_observer::http::decision_service::fuzzing::decide;
use chat21_observer::http::decision_service::{OnFailure, Settings as Decisions, Verdict};
use chat21_observer::http::webhook::{Endpoint, Settings, WebhookDispatcher};
use chat21_observer::protocol::time::UnixMillis;
use chat21_observer::rules::webhook_event::EventKinds;
use chat21_observer::store::{Delivery, Disposition, OutboxReply, Waiting};
use chat21_observer::telemetry::Metrics;
use libfuzzer_sys::fuzz_target;

const NOW: UnixMillis = UnixMillis::new(1_800_000_000_000);
/// An hour, and the longest pause between two attempts with its jitter.
const LONGEST: u64 = 3_600_000 + 600_000;

/// A service that answers each request with what it was given last.
struct Service {
    address: SocketAddr,
    answers: mpsc::Sender<Vec<u8>>,
    runtime: tokio::runtime::Runtime,
}

impl Service {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (answers, given) = mpsc::channel::<Vec<u8>>();
        std::thread::spawn(move || {
            for answer in given {
                let Ok((mut stream, _)) = listener.accept() else {
                    return;
                };
                // The end of the head is enough: the bodies are short.
                let mut asked: Vec<u8> = vec![];
                let mut part = [0; 4096];
                while !asked.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                    match stream.read(&mut part) {
                        Ok(read @ 1..) => asked.extend(&part[..read]),
                        _ => break,
                    }
                }
                let _ = stream.write_all(&answer);
                let _ = stream.shutdown(Shutdown::Write);
            }
        });
        Self {
            address,
            answers,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        }
    }

    fn webhook(&self, answer: &[u8]) {
        self.answers.send(answer.to_vec()).expect("it runs");
        let settings = Settings {
            endpoints: vec![Endpoint::parse(&format!("http://{}/", self.address)).expect("a URL")],
            events: EventKinds::default(),
            timeout: Duration::from_secs(5),
            concurrency: 1,
            max_age: Duration::from_secs(3_600),
            max_bytes: 1 << 20,
            secret: None,
        };
        let metrics = Metrics::new(&settings.names());
        let now = Instant::now();
        let outbox_request = self.runtime.block_on(async {
            let dispatcher = WebhookDispatcher::new(settings, metrics, now);
            let mut dispatcher = dispatcher.expect("a client");
            let delivery = Delivery {
                endpoint: 0,
                seq: 1,
                id: "evt-1".to_owned(),
                event_type: "message-sent".to_owned(),
                body: "{}".into(),
                attempts: 3,
            };
            let reply = OutboxReply {
                deliveries: vec![delivery],
                waiting: vec![Waiting::default()],
                ..OutboxReply::default()
            };
            dispatcher.handle_reply(reply, &[], now, NOW);
            let answered = dispatcher.next().await;
            dispatcher.handle_answer(answered, now, NOW, u64::MAX);
            dispatcher.take_outbox_request(now, NOW)
        });
        let [result] = &outbox_request.results[..] else {
            panic!("{outbox_request:?}");
        };
        if let Disposition::Later { due, .. } = &result.disposition {
            let wait = due.as_millis() - NOW.as_millis();
            assert!((1..=LONGEST).contains(&wait), "{result:?}");
        }
    }

    fn decision(&self, answer: &[u8]) {
        self.answers.send(answer.to_vec()).expect("it runs");
        let settings = Decisions {
            url: format!("http://{}/", self.address).parse().expect("a URL"),
            timeout: Duration::from_secs(5),
            concurrency: 1,
            on_failure: OnFailure::Refuse,
        };
        let payload = r#"{"text":"bad words","n":1}"#.into();
        if let Verdict::Replace(payload) = self.runtime.block_on(decide(settings, &payload)) {
            assert!(payload.starts_with(b"{") && payload.ends_with(b"}"));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    static SERVICE: OnceLock<Mutex<Service>> = OnceLock::new();
    let service = SERVICE.get_or_init(|| Mutex::new(Service::start()));
    let service = service.lock().expect("a panic ends it all");
    service.webhook(data);
    service.decision(data);
    // The same as the body of an answer that is taken as one.
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", data.len());
    service.decision(&[head.as_bytes(), data].concat());
});
