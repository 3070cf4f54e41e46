//! The decision service: its answer is applied, its failures are handled as configured, and
//! messages keep their order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api::{Api, posted};
use crate::bed::{Broker, PATIENCE, wait_for};
use crate::http::{Answer, Server, free_port, get};
use crate::protocol::{Scene, User};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_secs(3600);

/// A service that does what the message's text says.
fn obedient(_: &str, question: &Value) -> Answer {
    let says = |answer: Value| Answer::Says(200, answer.to_string());
    match question["message"]["text"].as_str().unwrap_or_default() {
        "refuse" => says(json!({"decision": "refuse", "reason": "banned", "detail": "not here"})),
        "no reason" => says(json!({"decision": "refuse"})),
        "replace" => {
            says(json!({"decision": "replace", "text": "***", "attributes": {"seen": true}}))
        }
        "replace too much" => says(json!({"decision": "replace", "text": "x".repeat(2 << 20)})),
        "nothing" => Answer::Says(204, String::new()),
        "garbage" => Answer::Says(200, "<html>".to_owned()),
        "other reason" => says(json!({"decision": "refuse", "reason": "blocked"})),
        "error" => Answer::Says(500, "oops".to_owned()),
        "hang" => Answer::Hangs(NEVER),
        "close" => Answer::Closes,
        "redirect" => Answer::Redirects("http://127.0.0.1:1/elsewhere".to_owned()),
        "endless" => Answer::Says(200, "x".repeat(8 << 20)),
        _ => says(json!({"decision": "allow"})),
    }
}

#[test]
fn a_client_of_the_api_is_told_what_the_service_says() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let says = |answer: Value| Answer::Says(200, answer.to_string());
    let server = Server::start(move |_, question| {
        says(match question["message"]["text"].as_str().unwrap() {
            "slower" => json!({"decision": "refuse", "reason": "rate-limited"}),
            _ => json!({"decision": "refuse", "reason": "banned", "detail": "not here"}),
        })
    });
    let api = Api::new(broker, &["--policy-url", &server.url]);
    let token = api.user("u01");
    let refused = api.send(&token, "POST", "messages", &posted("u02", "x"));
    let told = json!({"success": false, "err": "banned", "detail": "not here"});
    assert_eq!((refused.status, refused.json()), (403, told));
    let slower = api.send(&token, "POST", "messages", &posted("u02", "slower"));
    assert_eq!(slower.status, 429);
    assert_eq!(slower.headers["retry-after"], "1");
}

/// Sends each text and compares the outcome: a refusal's reason and detail, or the text that
/// arrives. Compares how many messages were allowed, replaced, refused and not decided on.
fn outcomes(failure: &str, expected: &[(&str, &str)], counts: [usize; 4]) {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let server = Server::start(obedient);
    let http = free_port();
    let listen = format!("127.0.0.1:{http}");
    let args = [
        "--policy-url",
        &server.url,
        "--policy-timeout",
        "10s",
        "--policy-failure",
        failure,
        "--http-listen",
        &listen,
    ];
    let mut scene = Scene::new(broker, &args);
    let mut alice = scene.user("u00");
    for (text, want) in expected {
        alice.writes("u01", &json!({"text": text, "kept": 1}));
        let (place, said) = alice.hears();
        let got = if place.ends_with("/clientrejected") {
            format!(
                "{} {}",
                said["reason"].as_str().unwrap(),
                said["detail"].as_str().unwrap_or_default()
            )
        } else {
            assert_eq!((&said["kept"], &said["sender"]), (&json!(1), &json!("u00")));
            said["text"].as_str().unwrap().to_owned()
        };
        assert_eq!(got.trim(), *want, "{text}: {said}");
        if *text == "replace" {
            assert_eq!(said["attributes"], json!({"seen": true}));
        }
    }
    let (_, metrics) = get(http, "/metrics").unwrap();
    for (decision, count) in ["allowed", "replaced", "refused", "no-answer"]
        .iter()
        .zip(counts)
    {
        let line = format!("observer_decisions_total{{decision=\"{decision}\"}} {count}\n");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    let line = format!("observer_decision_seconds_count {}\n", expected.len());
    assert!(metrics.contains(&line), "no {line} in {metrics}");
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
    assert!(
        log.contains("the decision service gives no answer"),
        "{log}"
    );
    assert!(
        !log.contains("127.0.0.1:1/elsewhere") || log.contains("307"),
        "{log}"
    );
}

const NONE: &str = "unauthorized no decision could be had";

#[test]
fn its_word_holds_and_without_one_nothing_passes() {
    outcomes(
        "closed",
        &[
            ("hello", "hello"),
            ("nothing", "nothing"),
            ("refuse", "banned not here"),
            ("no reason", "unauthorized"),
            ("replace", "***"),
            ("replace too much", "too-large"),
            ("garbage", NONE),
            ("other reason", NONE),
            ("error", NONE),
            ("hang", NONE),
            ("close", NONE),
            ("redirect", NONE),
            ("endless", NONE),
            ("hello", "hello"),
        ],
        [3, 2, 2, 7],
    );
}

#[test]
fn its_word_holds_and_without_one_everything_passes() {
    outcomes(
        "open",
        &[
            ("refuse", "banned not here"),
            ("garbage", "garbage"),
            ("error", "error"),
            ("hang", "hang"),
            ("close", "close"),
            ("redirect", "redirect"),
        ],
        [0, 0, 1, 5],
    );
}

/// Messages of one conversation arrive in the order they were sent, however long each decision
/// takes. Several conversations are decided at once, but never more than the limit.
#[test]
fn order_holds_in_each_conversation_and_questions_are_bounded() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let random = Mutex::new(1_u64);
    let server = Server::start(move |_, question| {
        let mut state = random.lock().unwrap();
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let wait = Duration::from_millis((*state >> 40) % 30);
        drop(state);
        let text = question["message"]["text"].as_str().unwrap();
        let answer = json!({"decision": "replace", "text": format!("{text}!")});
        Answer::Later(wait, 200, answer.to_string())
    });
    let args = [
        "--policy-url",
        server.url.as_str(),
        "--policy-concurrency",
        "5",
        "--policy-timeout",
        "60s",
    ];
    let scene = Scene::new(broker, &args);
    let mut alice = scene.user("u00");
    let mut peers: Vec<_> = (1..11).map(|n| scene.user(&format!("u{n:02}"))).collect();
    for n in 0..20 {
        for peer in 1..11 {
            let topic = format!(
                "apps/{}/outgoing/users/u00/messages/u{peer:02}/outgoing",
                scene.app
            );
            alice
                .wire
                .publish(topic, json!({"text": n.to_string()}).to_string())
                .unwrap();
        }
    }
    for peer in &mut peers {
        for n in 0..20 {
            let (_, said) = peer.hears();
            assert_eq!(said["text"], format!("{n}!"), "{}", peer.id);
        }
    }
    let most = server.most.load(Ordering::SeqCst);
    assert!((2..=5).contains(&most), "{most} at a time");
    assert_eq!(server.requests.load(Ordering::SeqCst), 200);
}

/// After several timeouts the observer stops asking for a while, so that not every message waits
/// for a timeout of its own.
#[test]
fn a_service_that_hangs_is_left_alone() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let server = Server::start(|_, _| Answer::Hangs(NEVER));
    let args = [
        "--policy-url",
        server.url.as_str(),
        "--policy-timeout",
        "100ms",
    ];
    let scene = Scene::new(broker, &args);
    let mut alice = scene.user("u00");
    for _ in 0..60 {
        alice.writes("u01", &json!({}));
    }
    for _ in 0..60 {
        assert_eq!(alice.hears().1["reason"], "unauthorized");
    }
    let asked = server.requests.load(Ordering::SeqCst);
    assert!((10..40).contains(&asked), "asked {asked} times");
}

/// A conversation that floods the service does not hold up others: its excess messages are refused.
#[test]
fn one_conversation_may_not_fill_the_window() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let answer = || Answer::Later(Duration::from_millis(20), 204, String::new());
    let server = Server::start(move |_, _| answer());
    let scene = Scene::new(
        broker,
        &[
            "--policy-url",
            &server.url,
            "--policy-timeout",
            "60s",
            "--window",
            "40",
        ],
    );
    let mut alice = scene.user("u00");
    let topic = format!(
        "apps/{}/outgoing/users/u00/messages/u01/outgoing",
        scene.app
    );
    for n in 0..300 {
        alice
            .wire
            .publish(&topic, format!("{{\"n\":{n}}}"))
            .unwrap();
    }
    let (mut passed, mut refused) = (vec![], 0);
    while passed.len() + refused < 300 {
        let (place, said) = alice.hears();
        if place.ends_with("/clientadded") {
            passed.push(said["n"].as_u64().unwrap());
        } else {
            assert_eq!(said["reason"], "rate-limited");
            refused += 1;
        }
        if refused >= 100 && passed.len() >= 10 {
            break; // Nobody is told more than a hundred times at once.
        }
    }
    assert!(passed.len() >= 10 && refused > 0, "{passed:?} {refused}");
    assert!(passed.is_sorted(), "{passed:?}");
}

/// The service is not asked about other requests, nor about messages that are refused anyway.
#[test]
fn it_is_asked_about_messages_alone() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let questions = std::sync::Arc::new(Mutex::new(vec![]));
    let asked = questions.clone();
    let server = Server::start(move |_, question| {
        asked.lock().unwrap().push(question.clone());
        Answer::Says(200, r#"{"decision":"allow"}"#.to_owned())
    });
    let scene = Scene::new(
        broker,
        &[
            "--policy-url",
            &server.url,
            "--policy-timeout",
            "60s",
            "--banned",
            "u02",
        ],
    );
    let mut alice = scene.user("u00");
    alice.says("conversations/u01/update", r#"{"is_new":false}"#);
    alice.hears();
    alice.writes("u01", &json!([]));
    assert_eq!(alice.hears().1["reason"], "not-an-object");
    let mut banned = scene.user("u02");
    banned.writes("u01", &json!({}));
    assert_eq!(banned.hears().1["reason"], "banned");
    alice.writes("u01", &json!({"text": "hi"}));
    alice.hears();
    let inbox = format!("/apps/{}/users/u00/u01/messages/outgoing", scene.app);
    let mut bob = scene.inbox_of("u01");
    bob.wire
        .subscribe(&[&format!("/apps/{}/users/u01/#", scene.app)])
        .unwrap();
    alice.wire.publish_confirmed(inbox, b"\xff").unwrap();
    let arrived = loop {
        // The copy of the previous message may arrive first.
        let message = bob.wire.message(PATIENCE).unwrap();
        if message.topic().starts_with('/') {
            break message;
        }
    };
    assert_eq!(arrived.payload, b"\xff");
    let questions = questions.lock().unwrap();
    let app = &scene.app;
    assert_eq!(
        *questions,
        [
            json!({
                "app_id": app, "sender": "u00", "recipient": "u01", "layout": "chat21",
                "topic": format!("apps/{app}/outgoing/users/u00/messages/u01/outgoing"),
                "message": {"text": "hi"},
            }),
            json!({
                "app_id": app, "sender": "u00", "recipient": "u01", "layout": "inbox",
                "topic": format!("/apps/{app}/users/u00/u01/messages/outgoing"),
                "payload_base64": "/w==",
            }),
        ]
    );
}

/// A kill during a decision loses nothing: the service is asked again.
#[test]
fn a_kill_while_it_thinks_loses_nothing() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |_, question| {
        let slow = question["message"]["text"] == "slow";
        // Only the first time: the observer is killed while it waits for this answer.
        if slow && asked.fetch_add(1, Ordering::SeqCst) == 0 {
            return Answer::Hangs(NEVER);
        }
        Answer::Says(204, String::new())
    });
    let mut scene = Scene::new(
        broker,
        &["--policy-url", &server.url, "--policy-timeout", "60s"],
    );
    let (mut alice, mut bob) = (scene.user("alice"), scene.user("bob"));
    for text in ["first", "slow", "last"] {
        alice.writes("bob", &json!({"text": text}));
    }
    assert_eq!(bob.hears().1["text"], "first");
    wait_for("the second question", || {
        (server.requests.load(Ordering::SeqCst) >= 2).then_some(())
    });
    scene.observer.kill_and_restart();
    let mut texts = vec![];
    while texts.last().is_none_or(|last| last != "last") {
        texts.push(bob.hears().1["text"].as_str().unwrap().to_owned());
    }
    texts.retain(|text| text != "first");
    assert_eq!(texts, ["slow", "last"]);
}

/// A service that answers messages to `u1…` only when the test says so.
struct Hesitant {
    server: Server,
    answers: Arc<(Mutex<bool>, Condvar)>,
}

impl Hesitant {
    fn start() -> Self {
        let answers = Arc::new((Mutex::new(false), Condvar::new()));
        let hesitates = answers.clone();
        let server = Server::start(move |path, question| {
            if question["recipient"].as_str().unwrap().starts_with("u1") {
                let (answers, changed) = &*hesitates;
                let answers = answers.lock().unwrap();
                drop(changed.wait_while(answers, |answers| !*answers).unwrap());
            }
            obedient(path, question)
        });
        Self { server, answers }
    }

    fn answer(&self) {
        *self.answers.0.lock().unwrap() = true;
        self.answers.1.notify_all();
    }
}

/// Conversations whose decisions take long, and what is written in each of them.
const SLOW: usize = 5;
const OF_EACH: usize = 24;

/// Those who write in them write what is more than the window.
fn write_to_the_slow(scene: &Scene) -> Vec<User> {
    let peers = (0..SLOW).map(|n| scene.user(&format!("u1{n}"))).collect();
    for sender in 0..SLOW {
        let mut slow = scene.user(&format!("u0{sender}"));
        for n in 0..OF_EACH {
            let text = match n {
                7 => "refuse".to_owned(),
                9 => "replace".to_owned(),
                _ => n.to_string(),
            };
            slow.writes(&format!("u1{sender}"), &json!({"text": text}));
        }
    }
    peers
}

/// What was asked about arrives once, and in order, as it was decided.
fn hear_the_slow(peers: &mut [User]) {
    for peer in peers {
        for n in (0..OF_EACH).filter(|n| *n != 7) {
            let (_, said) = peer.hears();
            let expected = if n == 9 {
                "***".to_owned()
            } else {
                n.to_string()
            };
            assert_eq!(said["text"], expected, "{}", peer.id);
        }
        peer.hears_nothing();
    }
}

/// More messages than the window wait for decisions. All that others write arrives before any of
/// these is answered. The observer is killed: it asks again.
fn a_decision_holds_up_its_own_conversation_only(broker: Broker) {
    let _shared = broker.shared();
    let service = Hesitant::start();
    let url = service.server.url.as_str();
    let args = [
        "--policy-url",
        url,
        "--policy-timeout",
        "60s",
        "--window",
        "100",
    ];
    let mut scene = Scene::new(broker, &args);
    let mut teller = scene.user("u00");
    let mut peers = write_to_the_slow(&scene);
    let (mut alice, mut bob) = (scene.user("u20"), scene.user("u21"));
    for n in 0..100 {
        alice.writes("u21", &json!({"text": n.to_string()}));
        assert_eq!(bob.hears().1["text"], n.to_string());
    }
    scene.observer.kill_and_restart();
    let waiting = SLOW * OF_EACH;
    let line = format!("not yet decided on messages={waiting}");
    assert!(scene.observer.log().contains(&line), "{line}");
    // What is written now comes after what was.
    let mut slow = scene.user("u00");
    slow.writes("u10", &json!({"text": "last"}));
    alice.writes("u21", &json!({"text": "again"}));
    let mut texts = vec![];
    while texts.last().is_none_or(|last| last != "again") {
        texts.push(bob.hears().1["text"].as_str().unwrap().to_owned());
    }
    service.answer();
    let mut first = peers.remove(0);
    hear_the_slow(&mut peers);
    for n in (0..OF_EACH).filter(|n| *n != 7) {
        let (_, said) = first.hears();
        let expected = if n == 9 {
            "***".to_owned()
        } else {
            n.to_string()
        };
        assert_eq!(said["text"], expected);
    }
    assert_eq!(first.hears().1["text"], "last");
    first.hears_nothing();
    let refusal = loop {
        let (place, said) = teller.hears();
        if place.ends_with("/clientrejected") {
            break said;
        }
    };
    assert_eq!(refusal["reason"], "banned");
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

#[test]
fn a_decision_holds_up_its_own_conversation_only_rabbitmq3() {
    a_decision_holds_up_its_own_conversation_only(Broker::Rabbit3);
}

#[test]
fn a_decision_holds_up_its_own_conversation_only_mosquitto() {
    a_decision_holds_up_its_own_conversation_only(Broker::Mosquitto);
}

/// The observer ends when the log holds a message that is to be decided on, and before it is
/// acknowledged. It comes again, and is known.
fn a_message_that_is_asked_about_and_comes_again_is_known(broker: Broker) {
    let _shared = broker.shared();
    let service = Hesitant::start();
    let url = service.server.url.as_str();
    let mut scene = Scene::new(broker, &["--policy-url", url, "--policy-timeout", "60s"]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u10"));
    scene.observer.kill();
    alice.writes("u10", &json!({"text": "slow"}));
    let stored = "not yet decided on messages=1";
    for commit in 1.. {
        assert!(commit < 30, "it is never stored");
        let at = format!("committed:{commit}");
        let env = [("OBSERVER_PASSWORD", "observerpw"), ("CRASH_AT", &at)];
        scene.observer.spawn(&env);
        wait_for("the crash", || {
            let is_known = scene.observer.log().contains(stored);
            (is_known || scene.observer.has_ended()).then_some(())
        });
        if scene.observer.log().contains(stored) {
            break;
        }
        scene.observer.ended();
    }
    scene.observer.kill_and_restart();
    alice.writes("u10", &json!({"text": "last"}));
    service.answer();
    for text in ["slow", "last"] {
        assert_eq!(bob.hears().1["text"], text);
    }
    bob.hears_nothing();
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

#[test]
fn a_message_that_is_asked_about_and_comes_again_is_known_rabbitmq3() {
    a_message_that_is_asked_about_and_comes_again_is_known(Broker::Rabbit3);
}

#[test]
fn a_message_that_is_asked_about_and_comes_again_is_known_mosquitto() {
    a_message_that_is_asked_about_and_comes_again_is_known(Broker::Mosquitto);
}

/// A few senders whose decisions take long, in many conversations, leave room for all others.
#[test]
fn a_few_senders_do_not_stop_everybody() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let service = Hesitant::start();
    let url = service.server.url.as_str();
    let args = ["--policy-url", url, "--policy-timeout", "60s"];
    let mut scene = Scene::new(broker, &[&args[..], &["--window", "20"]].concat());
    let mut peers: Vec<_> = (0..8).map(|n| scene.user(&format!("u1{n}"))).collect();
    for sender in 2..6 {
        let mut slow = scene.user(&format!("u0{sender}"));
        for n in 0..5 {
            for peer in 0..8 {
                slow.writes(&format!("u1{peer}"), &json!({"text": n.to_string()}));
            }
        }
    }
    let (mut alice, mut bob) = (scene.user("u20"), scene.user("u21"));
    for n in 0..40 {
        alice.writes("u21", &json!({"text": n.to_string()}));
        assert_eq!(bob.hears().1["text"], n.to_string());
    }
    service.answer();
    for peer in &mut peers {
        for _ in 0..20 {
            peer.hears();
        }
        peer.hears_nothing();
    }
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

/// A service that is away for a while, with the observer's host: what is stored is asked about
/// again when it is back.
fn a_service_that_comes_back_is_asked_again(away: fn() -> Answer) {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let is_there = Arc::new(AtomicBool::new(true));
    let (there, tries) = (is_there.clone(), Arc::new(AtomicUsize::new(0)));
    let tried = tries.clone();
    let server = Server::start(move |path, question| match there.load(Ordering::SeqCst) {
        true => obedient(path, question),
        false => {
            tried.fetch_add(1, Ordering::SeqCst);
            away()
        }
    });
    let args = ["--policy-url", &server.url, "--policy-timeout", "60s"];
    let mut scene = Scene::new(broker, &args);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    is_there.store(false, Ordering::SeqCst);
    for text in ["one", "two"] {
        alice.writes("u01", &json!({"text": text}));
    }
    let tried = |times| {
        let before = tries.load(Ordering::SeqCst);
        wait_for("another question", || {
            (tries.load(Ordering::SeqCst) >= before + times).then_some(())
        });
    };
    tried(2);
    scene.observer.kill_and_restart();
    tried(2);
    is_there.store(true, Ordering::SeqCst);
    for text in ["one", "two"] {
        assert_eq!(bob.hears().1["text"], text);
    }
    let log = scene.observer.log();
    assert!(log.contains("the decision service is not there"), "{log}");
    assert!(!log.contains("gives no answer"), "{log}");
}

#[test]
fn a_service_that_comes_back_is_asked_again_after_503() {
    a_service_that_comes_back_is_asked_again(|| Answer::Says(503, String::new()));
}

#[test]
fn a_service_that_comes_back_is_asked_again_after_a_connection_that_breaks() {
    a_service_that_comes_back_is_asked_again(|| Answer::Closes);
}

/// A stop does not wait for decisions on what is stored. The next start asks; without a service it
/// says what passes.
#[test]
fn a_stop_leaves_what_is_stored_to_the_next_start() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let server = Server::start(|_, _| Answer::Hangs(NEVER));
    let args = ["--policy-url", &server.url, "--policy-timeout", "60s"];
    let mut scene = Scene::new(broker, &args);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    for text in ["one", "two"] {
        alice.writes("u01", &json!({"text": text}));
    }
    wait_for("the question", || {
        (server.requests.load(Ordering::SeqCst) > 0).then_some(())
    });
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("asks about them undecided=2"),
        "{log}"
    );
    assert!(log.contains("left_unacknowledged=0"), "{log}");
    let all = &mut scene.observer.args;
    let service = all.iter().position(|arg| arg == "--policy-url").unwrap();
    all.drain(service..service + args.len());
    scene.observer.spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
    for text in ["one", "two"] {
        assert_eq!(bob.hears().1["text"], text);
    }
    let log = scene.observer.log();
    assert!(
        log.contains("no decision service any more (--policy-url) messages=2"),
        "{log}"
    );
    let (status, log) = scene.observer.stop();
    assert!(
        status.success() && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}
