//! Webhooks: which events HTTP services get, and that they get them despite failures.

use std::collections::{BTreeMap, HashMap};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::bed::{Broker, Observer, fresh_app, wait_for};
use crate::http::{Answer, Request, Server, free_port, get};
use crate::protocol::Scene;

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// A delivery that came: its id, its body and when.
#[derive(Clone)]
struct Told {
    id: String,
    body: Value,
    at: Instant,
}

/// A service that records its deliveries.
#[derive(Clone, Default)]
struct Service(Arc<Mutex<Vec<Told>>>);

impl Service {
    /// Listens on a given port (0: any free one). `answer` gets how often that delivery has come
    /// before.
    fn start(
        port: u16,
        answer: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static,
    ) -> (Self, String) {
        let service = Self::default();
        let told = service.0.clone();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let server = Server::on(listener, move |request| {
            let id = request.headers["webhook-id"].clone();
            let before = {
                let mut told = told.lock().unwrap();
                let before = told.iter().filter(|told| told.id == id).count();
                told.push(Told {
                    id,
                    body: request.body.clone(),
                    at: Instant::now(),
                });
                before
            };
            answer(request, before)
        });
        (service, server.url)
    }

    fn told(&self) -> Vec<Told> {
        self.0.lock().unwrap().clone()
    }

    /// Waits until this many different deliveries have come. Returns all that came, repetitions
    /// too.
    fn wait(&self, deliveries: usize) -> Vec<Told> {
        wait_for(&format!("{deliveries} deliveries"), || {
            let told = self.told();
            let ids: std::collections::HashSet<_> = told.iter().map(|told| &told.id).collect();
            (ids.len() >= deliveries).then(|| told.clone())
        })
    }
}

/// Lets as many answers out as it is opened for; the others wait.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    fn open(&self, count: usize) {
        *self.0.0.lock().unwrap() += count;
        self.0.1.notify_all();
    }

    fn pass(&self) {
        let free = self.0.0.lock().unwrap();
        let mut free = self.0.1.wait_while(free, |free| *free == 0).unwrap();
        *free -= 1;
    }
}

fn ok(_: &Request, _: usize) -> Answer {
    Answer::Says(200, "thanks".to_owned())
}

/// The event type, the message id and the recipient of a message event.
fn about(body: &Value) -> [String; 3] {
    ["event_type", "message_id", "delivered_to"].map(|name| body[name].as_str().unwrap().to_owned())
}

#[test]
fn every_event_has_the_fields_of_the_protocol() {
    let _shared = Broker::Mosquitto.shared();
    let (service, url) = Service::start(0, ok);
    let scene = Scene::new(Broker::Mosquitto, &["--webhook-endpoints", &url]);
    let app = scene.app.clone();
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    alice.writes("u01", &json!({"text": "hello", "attributes": {"n": 1}}));
    let (_, copy) = bob.hears();
    let id = copy["message_id"].as_str().unwrap().to_owned();
    service.wait(2);
    bob.says(&format!("messages/u00/{id}/update"), r#"{"status":200}"#);
    service.wait(4);
    // A repeated receipt raises no event, and "seen" raises one for the sender only.
    bob.says(&format!("messages/u00/{id}/update"), r#"{"status":200}"#);
    bob.says(&format!("messages/u00/{id}/update"), r#"{"status":300}"#);
    service.wait(5);
    bob.says("conversations/u00/archive", "");
    service.wait(6);
    bob.says("conversations/u00/archive", "");
    bob.says("presence/phone", r#"{"connected":true}"#);
    service.wait(7);
    bob.says("presence/laptop", r#"{"connected":true}"#);
    bob.says("presence/phone", r#"{"disconnected":true}"#);
    bob.says("presence/laptop", r#"{"disconnected":true}"#);
    service.wait(8);
    let injected = json!({
        "message_id": "m-injected", "sender": "system", "recipient": "group-7", "text": "note",
        "status": 150,
    });
    scene.service_says("users/u01/messages/group-7/delivered", &injected);
    let told = service.wait(9);
    let body = |kind: &str, n: usize| {
        let of_kind = told.iter().filter(|told| told.body["event_type"] == kind);
        let mut body = of_kind.map(|told| told.body.clone()).nth(n).unwrap();
        // The time differs between runs.
        let at = body.as_object_mut().unwrap().remove("createdAt").unwrap();
        assert!(at.as_u64().unwrap() > 1_700_000_000_000);
        body
    };
    let data = |status: u64| {
        let mut data = copy.clone();
        data["status"] = json!(status);
        data
    };
    for (kind, status, inbox_of, with) in [
        ("message-sent", 100, "u00", "u01"),
        ("message-delivered", 150, "u01", "u00"),
    ] {
        assert_eq!(
            body(kind, 0),
            json!({
                "event_type": kind, "recipient_id": "u01", "app_id": app, "message_id": id,
                "data": data(status), "delivered_to": inbox_of,
                "extras": {
                    "topic": format!("apps.{app}.users.{inbox_of}.messages.{with}.clientadded"),
                },
            })
        );
    }
    assert_eq!(
        body("message-delivered", 1),
        json!({
            "event_type": "message-delivered", "recipient_id": "group-7", "app_id": app,
            "message_id": "m-injected", "data": injected, "delivered_to": "u01",
            "extras": {"topic": format!("apps.{app}.users.u01.messages.group-7.clientadded")},
        })
    );
    let patch =
        |of: &str, status: u64| json!({"timelineOf": of, "message_id": id, "status": status});
    for (kind, n, data) in [
        ("message-received", 0, patch("u01", 200)),
        ("message-return-receipt", 0, patch("u00", 250)),
        ("message-return-receipt", 1, patch("u00", 300)),
    ] {
        assert_eq!(
            body(kind, n),
            json!({
                "event_type": kind, "recipient_id": "u01", "app_id": app, "message_id": id,
                "data": data,
            })
        );
    }
    let archived = body("conversation-archived", 0);
    assert_eq!(archived["data"]["archived"], json!(true));
    assert_eq!(
        archived,
        json!({
            "event_type": "conversation-archived", "app_id": app, "user_id": "u01",
            "recipient_id": "u00", "convers_with": "u00", "data": archived["data"],
            "extras": {"topic": format!("apps.{app}.users.u01.conversations.u00.archive")},
        })
    );
    for (n, presence) in ["online", "offline"].into_iter().enumerate() {
        assert_eq!(
            body("presence-change", n),
            json!({
                "event_type": "presence-change", "presence": presence, "app_id": app,
                "user_id": "u01", "data": true,
            })
        );
    }
    assert_eq!(told.len(), 9, "nothing was told twice, and nothing else");
}

/// A broker that crashes publishes no will.
#[test]
fn a_client_goes_offline_that_has_not_said_for_long_that_it_is_there() {
    let _shared = Broker::Mosquitto.shared();
    let (service, url) = Service::start(0, ok);
    let scene = Scene::new(
        Broker::Mosquitto,
        &["--webhook-endpoints", &url, "--presence-ttl", "5s"],
    );
    let mut bob = scene.user("u01");
    for round in 1..=2 {
        bob.says("presence/phone", r#"{"connected":true}"#);
        let told = service.wait(2 * round);
        let told = told
            .iter()
            .map(|told| told.body["presence"].as_str().unwrap());
        assert_eq!(
            told.collect::<Vec<_>>(),
            ["online", "offline"].repeat(round)
        );
        scene.wait_for_clients(0);
    }
}

#[test]
fn a_group_message_is_sent_once_and_delivered_to_each_member() {
    let _shared = Broker::Mosquitto.shared();
    let (service, url) = Service::start(0, ok);
    let endpoint = ["--webhook-endpoints", &url];
    let scene = Scene::new(Broker::Mosquitto, &endpoint);
    let members: Vec<String> = (0..40).map(|n| format!("m{n}")).collect();
    let keys: serde_json::Map<_, _> = members.iter().map(|id| (id.clone(), json!(1))).collect();
    let mut alice = scene.user("u00");
    alice.writes(
        "group-1",
        &json!({"text": "hi", "group": {"members": keys}}),
    );
    let told = service.wait(42);
    assert_eq!(told.len(), 42);
    let mut count: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for told in &told {
        let [kind, _, to] = about(&told.body);
        assert_eq!(told.body["recipient_id"], "group-1");
        count.entry(kind).or_default().push(to);
    }
    assert_eq!(count["message-sent"], ["group-1"]);
    let mut delivered = count["message-delivered"].clone();
    delivered.sort();
    let mut wanted = members;
    wanted.push("u00".to_owned());
    wanted.sort();
    assert_eq!(delivered, wanted);
}

#[test]
fn each_answer_has_its_own_consequence_and_none_delays_another_service() {
    let _shared = Broker::Mosquitto.shared();
    let first = |other: Answer, before: usize, request: &Request| match before {
        0 => other,
        _ => ok(request, before),
    };
    let (good, good_url) = Service::start(0, ok);
    let (failing, failing_url) = Service::start(0, |request, before| match before {
        0 | 1 => Answer::Says(500, "sorry".to_owned()),
        _ => ok(request, before),
    });
    let (refusing, refusing_url) = Service::start(0, |_, _| Answer::Says(400, "no".to_owned()));
    let (busy, busy_url) = Service::start(0, move |request, before| {
        first(
            Answer::With(429, "retry-after", "3".to_owned()),
            before,
            request,
        )
    });
    let (hanging, hanging_url) = Service::start(0, move |request, before| {
        first(Answer::Hangs(NEVER), before, request)
    });
    let (closing, closing_url) = Service::start(0, move |request, before| {
        first(Answer::Closes, before, request)
    });
    let (elsewhere, elsewhere_url) = Service::start(0, ok);
    let (redirecting, redirecting_url) =
        Service::start(0, move |_, _| Answer::Redirects(elsewhere_url.clone()));
    let dead = format!("http://127.0.0.1:{}/", free_port());
    let endpoints = [
        &good_url,
        &failing_url,
        &refusing_url,
        &busy_url,
        &hanging_url,
        &closing_url,
        &redirecting_url,
        &dead,
    ]
    .map(String::as_str)
    .join(",");
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = [
        "--webhook-endpoints",
        &endpoints,
        "--webhook-events",
        "message-sent",
        "--webhook-timeout",
        "10s",
        "--http-listen",
        &listen,
    ];
    let scene = Scene::new(Broker::Mosquitto, &args);
    let mut alice = scene.user("u00");
    let began = Instant::now();
    alice.writes("u01", &json!({"text": "one"}));
    // The message itself does not wait for webhooks.
    alice.hears();
    let at = |service: &Service, n: usize| {
        let told = wait_for("another attempt", || service.told().get(n).cloned());
        told.at.duration_since(began)
    };
    at(&good, 0);
    let again = at(&busy, 1) - at(&busy, 0);
    assert!(again >= Duration::from_secs(3), "{again:?}");
    at(&failing, 2);
    at(&hanging, 1);
    at(&closing, 1);
    // Events that wait for the dead service do not hold up the others.
    alice.writes("u01", &json!({"text": "two"}));
    at(&good, 1);
    let attempts = |service: &Service| {
        let told = service.told();
        let mut attempts: HashMap<String, usize> = HashMap::new();
        for told in &told {
            *attempts.entry(told.id.clone()).or_default() += 1;
        }
        let mut attempts: Vec<usize> = attempts.into_values().collect();
        attempts.sort_unstable();
        attempts
    };
    for (service, wanted) in [
        (&good, [1, 1]),
        (&failing, [3, 3]),
        (&refusing, [1, 1]),
        (&busy, [2, 2]),
        (&hanging, [2, 2]),
        (&closing, [2, 2]),
        (&redirecting, [1, 1]),
    ] {
        wait_for("every attempt", || {
            (attempts(service) == wanted).then_some(())
        });
    }
    // Every service gets the two events under the same ids.
    let ids = |service: &Service| {
        let mut ids: Vec<String> = service.told().into_iter().map(|told| told.id).collect();
        ids.sort();
        ids.dedup();
        ids
    };
    assert_eq!(ids(&good), ids(&failing));
    assert_eq!(ids(&good), ids(&hanging));
    assert_eq!(elsewhere.told().len(), 0, "redirects are not followed");

    let listed = wait_for("what is left", || {
        let listed = scene.command(&["webhook", "list", "--json"]);
        let listed: Vec<Value> = serde_json::from_str(&listed).unwrap();
        (listed.len() == 6).then_some(listed)
    });
    let of = |url: &str| {
        let of_url = listed.iter().filter(|row| row["endpoint"] == url);
        of_url.cloned().collect::<Vec<_>>()
    };
    for row in of(&refusing_url) {
        assert_eq!(
            (&row["due"], &row["error"], &row["attempts"]),
            (&Value::Null, &json!("answers 400"), &json!(1))
        );
    }
    for row in of(&redirecting_url) {
        let error = row["error"].as_str().unwrap();
        assert_eq!(error, "answers 307: redirects are not followed");
    }
    assert_eq!(of(&dead).len(), 2);
    assert!(of(&dead)[0]["due"].is_u64());
    let (_, metrics) = get(port, "/metrics").unwrap();
    for (url, outcome, count) in [
        (&good_url, "delivered", 2),
        (&refusing_url, "refused", 2),
        (&failing_url, "retried", 4),
        (&failing_url, "delivered", 2),
    ] {
        let line = format!(
            "observer_webhook_deliveries_total\
            {{endpoint=\"{url}\",outcome=\"{outcome}\"}} {count}\n"
        );
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    assert!(metrics.contains(&format!(
        "observer_webhook_queue_events{{endpoint=\"{dead}\"}} 2\n"
    )));

    // An operator drops deliveries, and retries one that was given up.
    let id = of(&refusing_url)[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(
        scene.command(&["webhook", "drop", "--all", "--name", "observer"]),
        "6 deliveries are forgotten\n"
    );
    let missing = scene.try_command(&["webhook", "retry", &id]);
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains(&format!("no delivery has the id {id}"))
    );
    alice.writes("u01", &json!({"text": "three"}));
    wait_for("a third refusal", || {
        (refusing.told().len() == 3).then_some(())
    });
    let given_up = wait_for("a given-up row", || {
        let listed = scene.command(&["webhook", "list", "--given-up"]);
        listed.contains(&refusing_url).then_some(listed)
    });
    assert!(
        given_up.contains("given up, 1 attempts: answers 400"),
        "{given_up}"
    );
    // A mistake among them: nothing is changed.
    let id = given_up.split(' ').next().unwrap();
    let missing = scene.try_command(&["webhook", "retry", id, "nobody's"]);
    let said = String::from_utf8_lossy(&missing.stderr);
    assert!(!missing.status.success(), "{said}");
    assert!(
        said.contains("has the id nobody's: nothing is changed"),
        "{said}"
    );
    assert!(
        scene
            .command(&["webhook", "retry"])
            .ends_with(" are tried again\n")
    );
    wait_for("another try", || (refusing.told().len() == 4).then_some(()));
    let told = refusing.told();
    assert_eq!(told[2].id, told[3].id);
}

#[test]
fn a_service_that_is_down_for_a_minute_is_told_everything_afterwards_though_the_observer_is_killed()
{
    let _shared = Broker::Mosquitto.shared();
    let down_for = Duration::from_secs(61);
    let (good, good_url) = Service::start(0, ok);
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/hook");
    let endpoints = format!("{url},{good_url}");
    let app = fresh_app();
    let args = ["--webhook-endpoints", &endpoints];
    let mut observer = Observer::start(Broker::Mosquitto, &app, &args);
    let login = Broker::Mosquitto.login(&app, "u00");
    let name = format!("{app}-u00");
    let port_of_broker = Broker::Mosquitto.port("MQTT");
    let began = Instant::now();
    let messages = 60;
    for n in 0..messages {
        let mut alice = crate::wire::Wire::connect(port_of_broker, &name, &login, true).unwrap();
        let topic = format!("apps/{app}/outgoing/users/u00/messages/u01/outgoing");
        alice
            .publish_confirmed(topic, json!({"n": n}).to_string())
            .unwrap();
        alice.disconnect();
        // The service that is up gets both copies' events.
        good.wait(2 * (n + 1));
        if n % 20 == 10 {
            observer.kill_and_restart();
        }
        // The service has to be down for a minute.
        let part = u32::try_from(n + 1).unwrap();
        let next = began + down_for * part / u32::try_from(messages).unwrap();
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert!(began.elapsed() >= down_for);
    let (service, _) = Service::start(port, ok);
    let told = service.wait(2 * messages);
    let events = by_event(&told);
    assert_eq!(events.len(), 2 * messages);
    assert!(
        events.values().all(|(ids, _)| ids.len() == 1),
        "one id an event"
    );
    let ids = |told: &[Told]| -> Vec<Vec<String>> {
        by_event(told).into_values().map(|(ids, _)| ids).collect()
    };
    assert_eq!(ids(&told), ids(&good.told()));
    // The oldest come first, except for those under way at the same time and those tried meanwhile.
    let order: Vec<u64> = told
        .iter()
        .map(|told| told.body["data"]["n"].as_u64().unwrap())
        .collect();
    let late = order
        .windows(9)
        .filter(|some| some[8] + 9 < some[0])
        .count();
    assert!(late <= 16, "{order:?}");
    println!("told {} times for {} events", told.len(), events.len());
}

/// The ids of each event, and how often it came.
fn by_event(told: &[Told]) -> BTreeMap<[String; 3], (Vec<String>, usize)> {
    let mut events: BTreeMap<[String; 3], (Vec<String>, usize)> = BTreeMap::new();
    for told in told {
        let (ids, times) = events.entry(about(&told.body)).or_default();
        if !ids.contains(&told.id) {
            ids.push(told.id.clone());
        }
        *times += 1;
    }
    events
}

/// Alice's connection, and the topic of her messages to u01.
fn alice(app: &str) -> (crate::wire::Wire, String) {
    let login = Broker::Mosquitto.login(app, "u00");
    let (name, port) = (format!("{app}-u00"), Broker::Mosquitto.port("MQTT"));
    let wire = crate::wire::Wire::connect(port, &name, &login, true).unwrap();
    let topic = format!("apps/{app}/outgoing/users/u00/messages/u01/outgoing");
    (wire, topic)
}

#[test]
fn what_was_not_told_before_a_kill_is_told_after_it_with_the_same_id() {
    let _shared = Broker::Mosquitto.shared();
    // Slow, so that a kill finds deliveries under way; and some fail the first time, in different
    // ways.
    let (service, url) = Service::start(0, |request, before| {
        let n = request.body["data"]["n"].as_u64().unwrap();
        match (before, n % 40) {
            (0, 3) => Answer::Says(500, String::new()),
            (0, 9) => Answer::With(429, "retry-after", "1".to_owned()),
            (0, 17) => Answer::With(503, "retry-after", "1".to_owned()),
            (0, 25) => Answer::Hangs(Duration::from_secs(2)),
            (0, 33) => Answer::Closes,
            _ => Answer::Later(Duration::from_millis(15), 200, String::new()),
        }
    });
    let app = fresh_app();
    let args = [
        "--webhook-endpoints",
        &url,
        "--webhook-concurrency",
        "4",
        "--webhook-timeout",
        "500ms",
    ];
    let mut observer = Observer::start(Broker::Mosquitto, &app, &args);
    let (mut alice, topic) = alice(&app);
    let messages = 300;
    for n in 0..messages {
        alice
            .publish_confirmed(&topic, json!({"n": n}).to_string())
            .unwrap();
        if n % 60 == 59 {
            observer.kill_and_restart();
        }
    }
    service.wait(2 * messages);
    // Deliveries that failed the first time have to come again.
    let events = wait_for("each event, taken once", || {
        let events = by_event(&service.told());
        let bad = [3, 9, 17, 25, 33];
        let taken = |told: &Told| {
            let n = told.body["data"]["n"].as_u64().unwrap();
            let times = events[&about(&told.body)].1;
            !bad.contains(&(n % 40)) || times > 1
        };
        service.told().iter().all(taken).then_some(events.clone())
    });
    assert_eq!(events.len(), 2 * messages, "every event");
    assert!(
        events.values().all(|(ids, _)| ids.len() == 1),
        "under one id"
    );
    println!(
        "told {} times for {} events, after 5 kills",
        service.told().len(),
        events.len()
    );
}

#[test]
fn an_orderly_stop_tells_nothing_twice_and_starts_nothing_new() {
    let _shared = Broker::Mosquitto.shared();
    let gate = Gate::default();
    let keeper = gate.clone();
    let (service, url) = Service::start(0, move |_, _| {
        keeper.pass();
        Answer::Says(200, String::new())
    });
    let app = fresh_app();
    let args = [
        "--webhook-endpoints",
        &url,
        "--webhook-concurrency",
        "3",
        "--webhook-timeout",
        "300s",
        "--drain-timeout",
        "300s",
    ];
    let mut observer = Observer::start(Broker::Mosquitto, &app, &args);
    let (mut alice, topic) = alice(&app);
    for n in 0..100 {
        alice
            .publish_confirmed(&topic, json!({"n": n}).to_string())
            .unwrap();
    }
    for round in 1..=3 {
        // Five are answered, and three are under way when the observer stops: it waits for these.
        gate.open(5);
        service.wait(8 * round);
        crate::bed::signal(observer.pid(), "TERM");
        observer.wait_log_times("stopping: no new messages", round);
        gate.open(3);
        assert!(observer.ended().0.success());
        assert_eq!(service.told().len(), 8 * round, "it starts nothing new");
        observer.restart();
    }
    gate.open(200);
    let told = service.wait(200);
    let events = by_event(&told);
    assert!(
        events.len() == 200 && told.len() == 200,
        "{} events, told {} times",
        events.len(),
        told.len()
    );
}

#[test]
fn events_that_a_service_cannot_stomach_do_not_hold_up_the_others() {
    let _shared = Broker::Mosquitto.shared();
    let (service, url) = Service::start(0, |request, _| {
        match request.body["data"]["text"].as_str() {
            Some("boom") => Answer::Says(500, String::new()),
            Some("crash") => Answer::Closes,
            _ => Answer::Says(200, String::new()),
        }
    });
    let app = fresh_app();
    let _observer = Observer::start(Broker::Mosquitto, &app, &["--webhook-endpoints", &url]);
    let (mut alice, topic) = alice(&app);
    let mut say = |text: &str| {
        let message = json!({"text": text}).to_string();
        alice.publish_confirmed(&topic, message).unwrap();
    };
    for _ in 0..4 {
        say("boom");
        say("crash");
    }
    for n in 0..200 {
        say(&format!("good {n}"));
    }
    wait_for("every good one", || {
        let told = service.told();
        let good = told.iter().filter(|told| {
            let text = told.body["data"]["text"].as_str().unwrap();
            text.starts_with("good")
        });
        (good.count() == 400).then_some(())
    });
}

#[test]
fn what_an_operator_drops_is_not_told_and_what_comes_later_is() {
    let _shared = Broker::Mosquitto.shared();
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/");
    let args = [
        "--webhook-endpoints",
        &url,
        "--webhook-events",
        "message-sent",
    ];
    let scene = Scene::new(Broker::Mosquitto, &args);
    let mut alice = scene.user("u00");
    for n in 0..30 {
        alice.writes("u01", &json!({"text": format!("dropped {n}")}));
        alice.hears();
    }
    scene.command(&["webhook", "drop", "--all"]);
    alice.writes("u01", &json!({"text": "later"}));
    alice.hears();
    let (service, _) = Service::start(port, ok);
    let told = wait_for("the last", || {
        let told = service.told();
        let last = told.iter().any(|told| told.body["data"]["text"] == "later");
        last.then_some(told)
    });
    // One may be under way when it is dropped.
    assert!(told.len() <= 2, "{}", told.len());
}

#[test]
fn of_too_much_the_oldest_gives_way_and_what_is_too_old_is_given_up() {
    let _shared = Broker::Mosquitto.shared();
    let dead = format!("http://127.0.0.1:{}/", free_port());
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let args = [
        "--webhook-endpoints",
        &dead,
        "--webhook-events",
        "message-sent",
        "--webhook-queue",
        "10KiB",
        "--http-listen",
        &listen,
        "--webhook-max-age",
        "15s",
    ];
    let scene = Scene::new(Broker::Mosquitto, &args);
    let mut alice = scene.user("u00");
    for n in 0..20 {
        alice.writes("u01", &json!({"n": n, "text": "x".repeat(1_000)}));
        alice.hears();
    }
    let listed: Vec<Value> =
        serde_json::from_str(&scene.command(&["webhook", "list", "--json"])).unwrap();
    let bytes: u64 = listed
        .iter()
        .map(|row| row["bytes"].as_u64().unwrap())
        .sum();
    assert!(bytes <= 10 << 10 && listed.len() >= 6, "{listed:?}");
    let dropped = 20 - listed.len();
    let counted = |outcome: &str, count: usize| {
        let line = format!(
            "observer_webhook_deliveries_total\
            {{endpoint=\"{dead}\",outcome=\"{outcome}\"}} {count}\n"
        );
        wait_for(&line, || {
            get(port, "/metrics")
                .unwrap()
                .1
                .contains(&line)
                .then_some(())
        });
    };
    counted("dropped", dropped);
    counted("expired", listed.len());
    let given_up = scene.command(&["webhook", "list", "--given-up"]);
    assert_eq!(given_up.lines().count(), listed.len());
    assert!(given_up.contains("too old"), "{given_up}");
}

#[test]
fn without_a_store_events_wait_in_memory_and_that_is_said() {
    let _shared = Broker::Mosquitto.shared();
    let (service, url) = Service::start(0, ok);
    let dead = format!("http://127.0.0.1:{}/", free_port());
    let endpoints = format!("{url},{dead}");
    let args = [
        "--webhook-endpoints",
        &endpoints,
        "--store",
        "none",
        "--drain-timeout",
        "1s",
    ];
    let mut scene = Scene::new(Broker::Mosquitto, &args);
    assert!(scene.observer.log().contains("webhooks are kept in memory"));
    let mut alice = scene.user("u00");
    alice.writes("u01", &json!({"text": "hi"}));
    let told = service.wait(2);
    assert_eq!(told.len(), 2);
    let (_, log) = scene.observer.stop();
    assert!(
        log.contains("events that webhooks have not been told of are gone")
            && log.contains("lost=2"),
        "{log}"
    );
}

#[test]
fn deliveries_are_signed_and_say_who_sends_them() {
    let _shared = Broker::Mosquitto.shared();
    let seen = Arc::new(Mutex::new(None));
    let keep = seen.clone();
    let (service, url) = Service::start(0, move |request, before| {
        let mut headers: BTreeMap<_, _> = request.headers.clone().into_iter().collect();
        headers.insert("text".to_owned(), request.text.clone());
        *keep.lock().unwrap() = Some(headers);
        ok(request, before)
    });
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("secret");
    std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let url = url.replace("http://", "http://me:pass@");
    let args = [
        "--webhook-endpoints",
        &url,
        "--webhook-secret-file",
        file.to_str().unwrap(),
        "--webhook-events",
        "message-sent",
    ];
    let scene = Scene::new(Broker::Mosquitto, &args);
    let mut alice = scene.user("u00");
    alice.writes("u01", &json!({"text": "hi"}));
    service.wait(1);
    let headers = seen.lock().unwrap().clone().unwrap();
    assert_eq!(headers["content-type"], "application/json");
    assert!(headers["user-agent"].starts_with("chat21-observer/"));
    assert_eq!(headers["authorization"], "Basic bWU6cGFzcw==");
    // Checked as a receiver would, in another language.
    let script = r#"
import base64, hashlib, hmac, sys
id, at, text, tag = sys.argv[1:]
key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
want = hmac.new(key, f"{id}.{at}.{text}".encode(), hashlib.sha256).digest()
want = "v1," + base64.b64encode(want).decode()
sys.exit(0 if hmac.compare_digest(tag, want) else 1)
"#;
    let status = std::process::Command::new(crate::bed::root().join("scripts/brokers"))
        .args(["client", "python3", "-c", script])
        .args(
            [
                "webhook-id",
                "webhook-timestamp",
                "text",
                "webhook-signature",
            ]
            .map(|name| &headers[name]),
        )
        .status()
        .unwrap();
    assert!(status.success(), "{headers:?}");
    assert!(!scene.observer.log().contains("me:pass"));
}
