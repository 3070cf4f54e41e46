//! User u00, Mallory, is malicious. With their own credentials only, on brokers set up by what
//! `acl` prints, they try to reach, read, impersonate, replay, flood, crash and confuse. u01 and
//! u02 are honest; the service user watches what arrives in their inboxes.

use std::time::{Duration, Instant};

use chat21_observer::telemetry::operator_command::CommandTopic;
use chat21_observer::telemetry::service_topics::ServiceTopics;
use serde_json::{Value, json};

use crate::bed::{Broker, PATIENCE};
use crate::guarded::{APP, Guarded, Login};
use crate::wire::{Wire, packet, publish_packet};

/// The expected outcome of an attempt.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// Nothing arrives in anybody's inbox.
    Nothing,
    /// Nothing arrives anywhere, not even at the observer: the broker blocks it.
    Unseen,
    /// The observer refuses it, for this reason.
    Refused(&'static str),
    /// It arrives, but as a message from Mallory.
    AsTheirOwn,
}
use Outcome::{AsTheirOwn, Nothing, Refused, Unseen};

struct Arena {
    guarded: Guarded,
    /// Sees the inboxes of the others, and the dead letters.
    watch: Wire,
    /// What the watch has seen and nobody has judged yet.
    early: Vec<Seen>,
    honest: Wire,
    service: Wire,
    fences: u64,
    tried: usize,
}

/// A message that arrived: topic and payload.
type Seen = (String, Vec<u8>);

fn body(seen: &Seen) -> Value {
    serde_json::from_slice(&seen.1).unwrap_or(Value::Null)
}

impl Arena {
    fn set(broker: Broker, login: Login) -> Self {
        let guarded = Guarded::set(
            broker,
            login,
            &[
                "--rate-per-minute",
                "600",
                "--rate-burst",
                "200",
                "--max-recipients",
                "1000",
                "--max-values",
                "200000",
            ],
        );
        let mut watch = guarded.service();
        let watched = [
            format!("apps/{APP}/users/u01/#"),
            format!("apps/{APP}/users/u02/#"),
            format!("apps/{APP}/users/group-closed/#"),
            format!("/apps/{APP}/users/u01/#"),
            format!("/apps/{APP}/users/u02/#"),
            format!("apps/{APP}/users/u00/messages/u01/clientadded"),
            "apps/othershop/#".to_owned(),
            "apps/observer/#".to_owned(),
            "observer/observer/#".to_owned(),
        ];
        let mut filters: Vec<&str> = watched.iter().map(String::as_str).collect();
        filters.push("dead/letters");
        watch.subscribe(&filters).unwrap();
        let honest = guarded.enter("u02");
        let service = guarded.service();
        let mut arena = Self {
            early: vec![],
            guarded,
            watch,
            honest,
            service,
            fences: 0,
            tried: 0,
        };
        let members = json!({
            "group": {"uid": "group-closed", "members": {"u01": 1, "u02": 1}},
            "notify_to": {"u01": 1},
        });
        let topic = format!("apps/observer/{APP}/groups/update");
        arena
            .service
            .publish_confirmed(topic, members.to_string())
            .unwrap();
        let told = format!("apps/{APP}/users/u01/groups/group-closed/clientupdated");
        while arena.watch.message(PATIENCE).unwrap().topic() != told {}
        arena.seen();
        arena
    }

    fn mallory(&self) -> Wire {
        self.guarded.enter("u00")
    }

    /// Everything that arrives before an honest message does.
    fn seen(&mut self) -> Vec<Seen> {
        self.fences += 1;
        let fence = format!("{{\"fence\":{}}}", self.fences);
        let topic = format!("apps/{APP}/outgoing/users/u02/messages/u01/outgoing");
        self.honest.publish_confirmed(topic, &fence).unwrap();
        let mut seen = std::mem::take(&mut self.early);
        loop {
            let message = self.next_seen();
            match body(&message)["fence"].as_u64() {
                None => seen.push(message),
                Some(n) if n == self.fences && message.0.contains("/users/u01/messages/u02/") => {
                    return seen;
                }
                Some(_) => {}
            }
        }
    }

    /// The next message that arrives, except the observer's own status messages.
    fn next_seen(&mut self) -> Seen {
        loop {
            let message = self.watch.message(PATIENCE).unwrap_or_else(|| {
                panic!("nothing passes any more:\n{}", self.guarded.observer.log())
            });
            let message = (message.topic().to_owned(), message.payload);
            let by_itself = ["/status", "/stats", "/probe/"].map(|what| message.0.contains(what));
            if !message.0.starts_with("observer/observer/")
                || !by_itself.contains(&true)
                || body(&message)["text"] == json!("forged")
            {
                return message;
            }
        }
    }

    /// A client of Mallory's disconnects abruptly and leaves a will on that topic.
    fn dies_with_will(&self, topic: &str, login: &(String, String)) {
        let will = (topic.to_owned(), r#"{"text":"my will"}"#.to_owned());
        let client_id = self.guarded.client_id("u00");
        drop(Wire::connect_with_will(
            self.guarded.port(),
            &client_id,
            login,
            &will,
        ));
    }

    /// Waits until `count` wills of Mallory's have arrived. `judge` looks at everything later.
    fn await_wills(&mut self, mut count: usize) {
        let inbox = format!("apps/{APP}/users/u01/messages/u00/clientadded");
        while count > 0 {
            let seen = self.next_seen();
            count -= usize::from(seen.0 == inbox && body(&seen)["text"] == json!("my will"));
            if body(&seen)["fence"].is_null() {
                self.early.push(seen);
            }
        }
    }

    fn judge(&mut self, what: &str, outcome: Outcome) -> Vec<Seen> {
        self.tried += 1;
        let seen = self.seen();
        let (letters, arrived): (Vec<Seen>, Vec<Seen>) = seen
            .into_iter()
            .partition(|(topic, _)| topic == "dead/letters");
        let echo = format!("apps/{APP}/users/u00/");
        let reasons: Vec<Value> = letters
            .iter()
            .map(|letter| body(letter)["reason"].clone())
            .collect();
        match outcome {
            Nothing => assert!(arrived.is_empty(), "{what}: {arrived:?}"),
            Unseen => assert!(
                arrived.is_empty() && letters.is_empty(),
                "{what}: {arrived:?} {letters:?}"
            ),
            Refused(reason) => {
                assert!(arrived.is_empty(), "{what}: {arrived:?}");
                assert_eq!(reasons, [json!(reason)], "{what}");
            }
            AsTheirOwn => {
                assert!(
                    !arrived.is_empty() && reasons.is_empty(),
                    "{what}: {arrived:?} {reasons:?}"
                );
                for message in arrived
                    .iter()
                    .filter(|(topic, _)| !topic.starts_with(&echo))
                {
                    let (topic, text) = (&message.0, String::from_utf8_lossy(&message.1));
                    assert!(topic.ends_with("/clientadded"), "{what}: {topic}");
                    assert!(
                        topic.contains("/messages/u00/")
                            || topic.contains("/messages/group-")
                            || topic.contains("/u01/u00/messages/"),
                        "{what}: {topic}"
                    );
                    if topic.starts_with("apps/") && topic.contains("/messages/u00/") {
                        // Compared as text: the payload may be more than a strict JSON parser
                        // accepts.
                        for owned in [
                            "\"sender\":\"u00\"",
                            "\"status\":150",
                            "\"app_id\":\"tilechat\"",
                        ] {
                            assert!(text.contains(owned), "{what}: {text}");
                        }
                    }
                }
            }
        }
        arrived
            .into_iter()
            .filter(|(topic, _)| !topic.starts_with(&echo))
            .collect()
    }

    /// Mallory publishes it on a new connection: brokers close the connection after some attempts.
    fn publishes(
        &mut self,
        what: &str,
        topic: &[u8],
        payload: &[u8],
        outcome: Outcome,
    ) -> Vec<Seen> {
        let mut mallory = self.mallory();
        // Confirmed or closed; then the broker has dealt with it.
        if mallory.publish(topic, payload).is_ok() {
            mallory.dealt_with(1);
        }
        self.judge(what, outcome)
    }

    /// Mallory subscribes, and must not receive anybody else's messages.
    fn subscribes(&mut self, filter: &str) {
        let mut mallory = self.mallory();
        // Refused, closed, or granted and silent.
        let _ = mallory.subscribe(&[filter]);
        for topic in [
            "observer/canary",
            "dead/canary",
            "apps/canary",
            "apps/othershop/users/u00/canary",
            "apps/observer/canary",
            "apps/tilechat/users/u00x/canary",
            "apps/tilechat/users/u01/canary",
            "/apps/tilechat/users/u01/canary",
            "apps/tilechat/outgoing/canary",
        ] {
            self.service.publish_confirmed(topic, "canary").unwrap();
        }
        self.tried += 1;
        let seen = self.seen();
        assert!(
            seen.iter().all(|seen| seen.1 == b"canary"),
            "{filter}: {seen:?}"
        );
        let own = [
            format!("apps/{APP}/users/u00/"),
            format!("/apps/{APP}/users/u00/"),
        ];
        // If the connection is still open, a message to themselves comes after everything else.
        let last = format!("apps/{APP}/users/u00/messages/u00/clientadded");
        let to_themselves = format!("apps/{APP}/outgoing/users/u00/messages/u00/outgoing");
        if mallory.subscribe(&[&last]).is_err()
            || mallory.publish_confirmed(to_themselves, "{}").is_err()
        {
            return;
        }
        while let Some(message) = mallory.message(PATIENCE) {
            let is_own = own.iter().any(|own| message.topic().starts_with(own));
            assert!(is_own, "{filter}: they read {}", message.topic());
            if message.topic() == last {
                return;
            }
        }
        panic!("{filter}: the last message does not come");
    }

    fn reads(&mut self) {
        let filters = [
            "#",
            "+/#",
            "apps/#",
            "/apps/#",
            "apps/+/users/#",
            "apps/tilechat/users/+/#",
            "apps/tilechat/users/u01/#",
            "/apps/tilechat/users/u01/#",
            "+/+/+/u01/#",
            "apps/tilechat/users/u01/messages/+/clientadded",
            "apps/tilechat/outgoing/#",
            "apps/tilechat/outgoing/users/+/messages/+/outgoing",
            "apps/observer/#",
            "observer/#",
            "dead/letters",
            "$SYS/#",
            "$share/g/apps/tilechat/users/u01/#",
            "apps/othershop/users/u00/#",
            "apps/tilechat/users/u00x/#",
            "apps.tilechat.users.u01.#",
        ];
        for filter in filters {
            self.subscribes(filter);
        }
    }

    fn impersonates(&mut self) {
        let forged = br#"{"text":"forged","status":150}"#;
        for topic in [
            "apps/tilechat/outgoing/users/u02/messages/u01/outgoing",
            "apps/tilechat/users/u02/messages/u01/outgoing",
            "apps/tilechat/users/u02/u01/messages/outgoing",
            "/apps/tilechat/users/u02/u01/messages/outgoing",
            "apps.tilechat.outgoing.users.u02.messages.u01.outgoing",
            "apps/tilechat/users/u01/messages/u02/clientadded",
            "/apps/tilechat/users/u01/u02/messages/clientadded",
            "apps/tilechat/users/u00/messages/u01/clientadded",
            "apps/tilechat/users/u01/messages/u02/m1/update",
            "apps/tilechat/users/u01/messages/u02/m1/clientupdated",
            "apps/tilechat/users/u01/conversations/u02/update",
            "apps/tilechat/users/u01/conversations/u02/archive",
            "apps/tilechat/users/u01/presence/c1",
            "apps/tilechat/users/u01/blocked/u02/update",
            "apps/tilechat/users/u01/inbox/fetch",
            "apps/observer/tilechat/users/u01/messages/u02/delivered",
            "apps/observer/tilechat/groups/update",
            "apps/othershop/outgoing/users/u00/messages/u01/outgoing",
            "apps/tilechat/users/group-closed/messages/u01/outgoing",
            "observer/observer/status",
            "observer/observer/stats",
            "observer/observer/trace/forwarded",
            "dead/letters",
        ] {
            let payload: &[u8] = match topic.rsplit('/').nth(1) {
                Some("presence") => br#"{"connected":true}"#,
                Some("groups") => {
                    br#"{"group":{"uid":"group-closed","members":{"u00":1}},"notify_to":{"u01":1}}"#
                }
                Some("u02") => br#"{"blocked":true}"#,
                Some("m1") => br#"{"status":200}"#,
                _ => forged,
            };
            self.publishes(topic, topic.as_bytes(), payload, Unseen);
        }
        for command in CommandTopic::ALL {
            let topic = ServiceTopics::new("observer", "").command(*command);
            self.publishes(&topic, topic.as_bytes(), b"on", Unseen);
        }
        for (what, payload) in [
            (
                "spoofed fields",
                concat!(
                    r#"{"text":"x","sender":"u02","recipient":"u02","app_id":"shop","#,
                    r#""message_id":"m1","status":300,"timelineOf":"u02","conversWith":"u02","#,
                    r#""__history":true}"#
                ),
            ),
            (
                "duplicate keys",
                concat!(
                    r#"{"sender":"u02","text":"x","sender":"u02","status":1,"status":300,"#,
                    r#""message_id":"m1"}"#
                ),
            ),
            (
                "escaped keys",
                concat!(
                    r#"{"text":"x","s\u0065nder":"u02","\u0073tatus":300,"#,
                    r#""messa\u0067e_id":"m1","__hist\u006fry":true}"#
                ),
            ),
        ] {
            let arrived = self.publishes(what, to_u01().as_bytes(), payload.as_bytes(), AsTheirOwn);
            let [message] = &arrived[..] else {
                panic!("{what}: {arrived:?}")
            };
            let text = String::from_utf8(message.1.clone()).unwrap();
            for owned in ["\"sender\"", "\"status\"", "\"message_id\""] {
                assert_eq!(text.matches(owned).count(), 1, "{what}: {text}");
            }
            for gone in [
                "timelineOf",
                "conversWith",
                "__hist",
                "\\u00",
                "u02",
                "\"m1\"",
                "shop",
            ] {
                assert!(!text.contains(gone), "{what}: {gone} in {text}");
            }
        }
        let early = self.publishes(
            "a timestamp of their own making",
            to_u01().as_bytes(),
            br#"{"timestamp":99999999999999}"#,
            AsTheirOwn,
        );
        assert!(body(&early[0])["timestamp"].as_u64().unwrap() < 9_999_999_999_999);
    }

    /// Identifiers that some broker or program interprets.
    fn confuses(&mut self) {
        let rabbit = self.guarded.broker.is_rabbitmq();
        let to = |recipient: &[u8]| {
            [
                b"apps/tilechat/outgoing/users/u00/messages/",
                recipient,
                b"/outgoing",
            ]
            .concat()
        };
        let long = "x".repeat(300);
        for recipient in [
            &b"u01/x"[..],
            b"u01.x",
            b"*",
            b"+",
            b"#",
            b"u+1",
            b"u*1",
            b"",
            b" u01",
            b"u01 ",
            b"messages",
            b"outgoing",
            b"groups",
            b"u01\0",
            b"\x01",
            b"\xff\xfe",
            b"u01/messages/u02",
            b"../u01",
            long.as_bytes(),
        ] {
            let what = format!("recipient {:?}", String::from_utf8_lossy(recipient));
            self.publishes(&what, &to(recipient), b"{}", Nothing);
        }
        // Nobody has these names, but they are valid.
        for recipient in [&b"$SYS"[..], b"%2A", b"u01;drop", b"{{app}}", b"U01"] {
            let what = format!("recipient {:?}", String::from_utf8_lossy(recipient));
            self.publishes(&what, &to(recipient), b"{}", Nothing);
        }
        for topic in [
            &b""[..],
            b"/",
            b"apps",
            b"apps/tilechat/outgoing/users/u00",
            b"apps/tilechat/outgoing/users/u00/messages/u01/outgoing/x",
            b"$SYS/broker/x",
        ] {
            self.publishes(&format!("topic {topic:?}"), topic, b"{}", Nothing);
        }
        if rabbit {
            self.publishes(
                "a dotted topic",
                b"apps.tilechat.outgoing.users.u00.messages.u01.outgoing",
                b"{}",
                AsTheirOwn,
            );
        }
    }

    fn crashes(&mut self) {
        let to = to_u01();
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let nested = format!("{{\"a\":{}1{}}}", "{\"a\":".repeat(200), "}".repeat(200));
        let long = format!("{{\"text\":\"{}\"}}", "x".repeat(2 << 20));
        let values = format!("{{\"a\":[{}0]}}", "0,".repeat(250_000));
        for (what, payload, outcome) in [
            ("deep arrays", deep.as_bytes(), Refused("too-large")),
            ("deep objects", nested.as_bytes(), Refused("too-large")),
            ("two megabytes", long.as_bytes(), Refused("too-large")),
            (
                "a quarter of a million values",
                values.as_bytes(),
                Refused("too-large"),
            ),
            (
                "bytes that are not UTF-8",
                b"{\"text\":\"\xff\"}",
                Refused("not-json"),
            ),
            ("a surrogate", br#"{"text":"\ud800"}"#, AsTheirOwn),
            ("a byte order mark", b"\xef\xbb\xbf{}", Refused("not-json")),
            ("nothing", b"", Refused("not-json")),
            ("two objects", b"{}{}", Refused("not-json")),
            ("half an object", b"{\"text\":", Refused("not-json")),
            ("an array", b"[{}]", Refused("not-an-object")),
            (
                "a large number",
                br#"{"timestamp":1e999,"n":123456789012345678901234567890}"#,
                AsTheirOwn,
            ),
            ("NUL in a text", br#"{"text":"\u0000"}"#, AsTheirOwn),
        ] {
            self.publishes(what, to.as_bytes(), payload, outcome);
        }
        // Malformed packets.
        for bytes in [
            &b"\x32\x00"[..],
            b"\x32\x05\x00\xff\x00\x00\x00",
            b"\xff\xff\xff\xff\x7f",
            b"\x00\x00",
            b"\x32\x80\x80\x80\x80\x01",
        ] {
            let mut mallory = self.mallory();
            let _ = mallory.send(bytes);
            drop(mallory);
            self.judge("a broken packet", Nothing);
        }
    }

    fn abuses_groups(&mut self) {
        let group = format!("apps/{APP}/outgoing/users/u00/messages/group-closed/outgoing");
        let to = to_u01();
        let group = group.as_bytes();
        self.publishes(
            "a group they are not in",
            group,
            br#"{"text":"let me in"}"#,
            Refused("not-a-member"),
        );
        self.publishes(
            "making themselves a member",
            group,
            br#"{"group":{"members":{"u00":1,"u01":1}}}"#,
            Refused("not-a-member"),
        );
        self.publishes(
            "a user as a group",
            to.as_bytes(),
            br#"{"channel_type":"group"}"#,
            Refused("not-a-group"),
        );
        self.publishes(
            "a user as a group, escaped",
            to.as_bytes(),
            br#"{"channel_type":"gr\u006fup"}"#,
            Refused("not-a-group"),
        );
        let arrived = self.publishes(
            "members for a user",
            to.as_bytes(),
            br#"{"group":{"members":{"u02":1}}}"#,
            AsTheirOwn,
        );
        assert!(
            arrived
                .iter()
                .all(|(topic, _)| topic.contains("/users/u01/")),
            "{arrived:?}"
        );
        let own = format!("apps/{APP}/outgoing/users/u00/messages/group-own/outgoing");
        for member in ["u01/x", "+", "#", "*", "", "messages", "u\\u0000"] {
            let payload = format!("{{\"group\":{{\"members\":{{\"{member}\":1}}}}}}");
            self.publishes(
                &format!("member {member:?}"),
                own.as_bytes(),
                payload.as_bytes(),
                Nothing,
            );
        }
        // On RabbitMQ it would become three levels, and lead into u01's conversation "boss".
        let dotted = match self.guarded.broker.is_rabbitmq() {
            true => Refused("unroutable"),
            false => Nothing,
        };
        self.publishes(
            "a member with dots",
            own.as_bytes(),
            br#"{"group":{"members":{"u01.messages.boss":1}}}"#,
            dotted,
        );
        let members: Vec<String> = (0..100_000).map(|n| format!("\"{n}\":1")).collect();
        let payload = format!("{{\"group\":{{\"members\":{{{}}}}}}}", members.join(","));
        self.publishes(
            "100,000 recipients",
            own.as_bytes(),
            payload.as_bytes(),
            Refused("too-many-recipients"),
        );
    }

    fn forges_receipts(&mut self) {
        // A message between the others, and one of their own.
        let topic = format!("apps/{APP}/outgoing/users/u02/messages/u01/outgoing");
        self.honest
            .publish_confirmed(topic, r#"{"text":"private"}"#)
            .unwrap();
        let seen = self.seen();
        let private = seen
            .iter()
            .find(|seen| body(seen)["text"] == "private")
            .map(body)
            .unwrap();
        let own = self.publishes("their own", to_u01().as_bytes(), b"{}", AsTheirOwn);
        let own = body(&own[0])["message_id"].as_str().unwrap().to_owned();
        let private = private["message_id"].as_str().unwrap();
        let update =
            |peer: &str, id: &str| format!("apps/{APP}/users/u00/messages/{peer}/{id}/update");
        for (what, topic, payload) in [
            (
                "a receipt for others' message",
                update("u01", private),
                r#"{"status":300}"#,
            ),
            (
                "the same to the other side",
                update("u02", private),
                r#"{"status":200}"#,
            ),
            (
                "a receipt for their own message",
                update("u01", &own),
                r#"{"status":300}"#,
            ),
            ("another status", update("u01", &own), r#"{"status":250}"#),
            ("a status below", update("u01", &own), r#"{"status":-100}"#),
        ] {
            self.publishes(
                what,
                topic.as_bytes(),
                payload.as_bytes(),
                Refused("bad-status"),
            );
        }
        let fetch = format!("apps/{APP}/users/u00/inbox/fetch");
        let mut mallory = self.mallory();
        mallory
            .subscribe(&[&format!("apps/{APP}/users/u00/#")])
            .unwrap();
        mallory
            .publish_confirmed(
                &fetch,
                r#"{"since":0,"limit":1000000000,"convers_with":"u02"}"#,
            )
            .unwrap();
        self.judge("fetching a conversation of others", Nothing);
        while let Some(message) = mallory.message(Duration::from_millis(300)) {
            assert!(!String::from_utf8_lossy(&message.payload).contains("private"));
        }
        let patch = format!("apps/{APP}/users/u00/conversations/u01/update");
        let payload =
            br#"{"timelineOf":"u01","conversWith":"u02","app_id":"x","key":"u02","is_new":true}"#;
        self.publishes(
            "patching another's identity",
            patch.as_bytes(),
            payload,
            Nothing,
        );
    }

    fn replays_and_floods(&mut self) {
        // The same packet repeatedly, with DUP set.
        let mut mallory = self.mallory();
        for id in [7, 7, 8] {
            let mut again =
                publish_packet(to_u01().as_bytes(), br#"{"text":"again"}"#, Some(id), false);
            again[0] |= 8;
            mallory.send(&again).unwrap();
        }
        mallory.dealt_with(2);
        let arrived = self.judge("replayed packets", AsTheirOwn);
        let ids: std::collections::BTreeSet<String> = arrived
            .iter()
            .map(|seen| body(seen)["message_id"].to_string())
            .collect();
        assert_eq!(ids.len(), arrived.len());
        // A retained message is forwarded once, not with each connection of the observer.
        let mut mallory = self.mallory();
        let kept = publish_packet(to_u01().as_bytes(), br#"{"text":"kept"}"#, Some(1), true);
        mallory.send(&kept).unwrap();
        mallory.dealt_with(1);
        let arrived = self.judge("a retained message", AsTheirOwn);
        assert_eq!(arrived.len(), 1);
        // Wills: one on an own path is a message like any other, one on others' paths goes nowhere.
        let login = self.guarded.credentials("u00");
        for (topic, outcome) in [
            (to_u01(), AsTheirOwn),
            (
                format!("apps/{APP}/outgoing/users/u02/messages/u01/outgoing"),
                Nothing,
            ),
            (
                format!("apps/{APP}/users/u01/messages/u02/clientadded"),
                Nothing,
            ),
            (format!("apps/{APP}/users/u01/presence/c1"), Nothing),
        ] {
            self.dies_with_will(&topic, &login);
            // The broker publishes a will when it notices the lost connection. Once it has
            // published the will of a client that died later, it has noticed this one, too.
            self.dies_with_will(&to_u01(), &login);
            let wills = if matches!(outcome, AsTheirOwn) { 2 } else { 1 };
            self.await_wills(wills);
            let arrived = self.judge(&format!("a will on {topic}"), AsTheirOwn);
            assert_eq!(arrived.len(), wills, "{topic}: {arrived:?}");
        }
        // Guesses at the observer's client identifiers.
        for guess in [
            "observer",
            "observer-pub-0",
            "observer-pub-many",
            "observer-pub-quarantine",
            "chat21-observer",
        ] {
            let _ = Wire::connect(self.guarded.port(), guess, &login, true);
            self.judge(guess, Nothing);
        }
        // u01 is away and has a session. Whoever knows its name must not get the waiting messages.
        let known = "u01.phone";
        let u01 = self.guarded.credentials("u01");
        let mut phone = Wire::connect(self.guarded.port(), known, &u01, false).unwrap();
        phone
            .subscribe(&[&format!("apps/{APP}/users/u01/messages/+/clientadded")])
            .unwrap();
        phone.disconnect();
        self.judge("taking a session over", Nothing);
        let taken = Wire::connect(self.guarded.port(), known, &login, false);
        match (self.guarded.broker, taken) {
            (Broker::Mosquitto, Ok(mut taken)) => {
                assert_eq!(
                    taken.message(Duration::from_millis(500)),
                    None,
                    "they read what waited for u01"
                );
            }
            (Broker::Rabbit3 | Broker::Rabbit4, Err(_)) => {
                let mut phone = Wire::connect(self.guarded.port(), known, &u01, false).unwrap();
                assert!(
                    phone.session_present && phone.message(PATIENCE).is_some(),
                    "what waited for u01 is there"
                );
            }
            (broker, taken) => panic!("{broker:?}: {:?}", taken.is_ok()),
        }
        // A flood: what is over their rate is refused, and others' messages pass.
        let mut mallory = self.mallory();
        let begin = Instant::now();
        for _ in 0..1_500 {
            mallory.publish(to_u01(), br#"{"flood":1}"#).unwrap();
        }
        mallory.dealt_with(1_500);
        self.tried += 1;
        let seen = self.seen();
        let inbox = format!("apps/{APP}/users/u01/messages/u00/clientadded");
        let passed = seen
            .iter()
            .filter(|seen| body(seen)["flood"] == 1 && seen.0 == inbox);
        let passed = passed.count();
        // The bucket's size, and ten a second since it began.
        let most = 200 + 10 * usize::try_from(begin.elapsed().as_secs() + 1).unwrap();
        assert!(passed <= most, "{passed} of 1,500 passed");
        let reasons: std::collections::BTreeSet<String> = seen
            .iter()
            .filter(|seen| seen.0 == "dead/letters")
            .map(|seen| body(seen)["reason"].to_string())
            .collect();
        assert!(reasons.contains("\"rate-limited\""), "{reasons:?}");
        let _ = mallory.send(&packet(0xe0, &[]));
    }
}

fn to_u01() -> String {
    format!("apps/{APP}/outgoing/users/u00/messages/u01/outgoing")
}

fn one_bad_user(broker: Broker, login: Login) {
    let mut arena = Arena::set(broker, login);
    arena.reads();
    arena.impersonates();
    arena.confuses();
    arena.crashes();
    arena.abuses_groups();
    arena.forges_receipts();
    arena.replays_and_floods();
    assert!(arena.tried >= 100, "{} attempts", arena.tried);
    println!("{broker:?}: {} attempts", arena.tried);
    let (status, log) = arena.guarded.observer.stop();
    assert!(status.success() && !log.contains("not connected"), "{log}");
    assert!(log.contains("left_unacknowledged=0"), "{log}");
}

#[test]
fn one_bad_user_on_rabbitmq3() {
    one_bad_user(Broker::Rabbit3, Login::Tokens);
}

#[test]
fn one_bad_user_on_rabbitmq4() {
    one_bad_user(Broker::Rabbit4, Login::Tokens);
}

#[test]
fn one_bad_user_on_mosquitto() {
    one_bad_user(Broker::Mosquitto, Login::Passwords);
}
