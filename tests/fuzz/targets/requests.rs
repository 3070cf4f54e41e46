//! Requests of the HTTP API: method, target, headers and body, from a user (`!` before them: from
//! an administrator; `?`: without a token), served from a store. None is answered as a failure of
//! the server, and what says that it is JSON is.

#![no_main]

use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use chat21_observer::auth::secret::Secret;
use chat21_observer::auth::verify::{Lifetime, Verifier};
use chat21_observer::http::api::fuzzing::Requests;
use chat21_observer::http::api::{Limits, Settings};
use chat21_observer::observer::fuzzing::Served;
use chat21_observer::protocol::amqp::BrokerKind;
use chat21_observer::protocol::control_topic::Controls;
use chat21_observer::protocol::layout::Layout;
use chat21_observer::protocol::topic_map::TopicMap;
use chat21_observer::rules::policy::{Policy, Rules};
use chat21_observer::rules::router::Router;
use chat21_observer::rules::webhook_event::EventKinds;
use chat21_observer::store::{self, Access, OfflineDelivery, StoreLocation};
use libfuzzer_sys::fuzz_target;

const SECRET: &str = "a secret of at least thirty-two bytes";
/// Of u1, by that secret, in app a.
const USER: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1MSIsImFwcF9pZCI6ImEifQ.\
    n5Ldr273tOSOTJRGLCRFgzPpSidkEBjYOrPcixg7cvQ";
/// Of u9, who is an administrator.
const ADMIN: &str = "eyJhbGciOiJIUzI1NiJ9.\
    eyJzdWIiOiJ1OSIsImFwcF9pZCI6ImEiLCJ0aWxlZGVza19hcGlfcm9sZXMiOiJhZG1pbiJ9.\
    hK5hfhd2z7qr3NJkZQ1E7HNDuVAVqDRe1BK3ly_UPdQ";
/// A store that has taken so many requests is left for an empty one: it would only grow.
const REQUESTS: usize = 20_000;

struct Bench {
    requests: Requests,
    served: Served,
    asked: usize,
    place: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let unique = RandomState::new().hash_one(std::process::id());
        let place = std::env::temp_dir().join(format!("fuzz-requests-{unique}"));
        std::fs::create_dir_all(&place).expect("a directory");
        let location = StoreLocation::File(place.join("observer.db"));
        let store = store::open(&location, Access::Exclusive, OfflineDelivery::Broker);
        let layouts = Layout::built_in("chat21").expect("built in");
        let layouts = layouts.into_iter().collect();
        let layouts = TopicMap::new(layouts, vec![], &[], Controls::Served).expect("sound");
        let router = Router {
            layouts: layouts.clone(),
            policy: Arc::new(Policy::new(BrokerKind::Any, Rules::default())),
            dead_letter_topic: None,
            events: EventKinds::default(),
        };
        let secret = Secret::new(SECRET.to_owned());
        let settings = Settings {
            listen: ([127, 0, 0, 1], 0).into(),
            base: "/api".to_owned(),
            verifier: Verifier::parse(&secret, Lifetime::Any).expect("a key"),
            origins: None,
            max_body: 64 << 10,
            limits: Limits {
                connections: 1,
                memory: 64 << 20,
                head: Duration::from_secs(60),
                whole: Duration::from_secs(60),
                idle: Duration::from_secs(60),
            },
            store: location,
            layouts,
            contacts: None,
        };
        Self {
            served: Served::new(router, store.expect("a store")),
            requests: Requests::new(&settings),
            asked: 0,
            place,
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.place);
    }
}

fn bench() -> &'static Mutex<Bench> {
    static BENCH: OnceLock<Mutex<Bench>> = OnceLock::new();
    BENCH.get_or_init(|| Mutex::new(Bench::new()))
}

fuzz_target!(|data: &[u8]| {
    let (token, rest) = match data.first() {
        Some(b'!') => (Some(ADMIN), &data[1..]),
        Some(b'?') => (None, &data[1..]),
        _ => (Some(USER), data),
    };
    let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let mut request = rest[..=end].to_vec();
    if let Some(token) = token {
        request.extend(format!("authorization: {token}\n").into_bytes());
    }
    request.extend(b"content-type: application/json\n");
    request.extend(&rest[end + 1..]);
    let mut bench = bench().lock().expect("a panic ends it all");
    if bench.asked == REQUESTS {
        *bench = Bench::new();
    }
    let bench = &mut *bench;
    bench.asked += 1;
    let served = &mut bench.served;
    let answer = bench
        .requests
        .ask(&request, |handover| served.serve(handover));
    let Some(answer) = answer else { return };
    assert!(answer.status < 500, "{answer:?}");
    if answer.is_json && !answer.body.is_empty() {
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(&answer.body);
        assert!(json.is_ok(), "{answer:?}");
    }
});
