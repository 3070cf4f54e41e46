//! The HTTP API: what each route answers, and to whom.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Broker, fresh_app, token, var};
use crate::http::{Reply, call};
use crate::protocol::{Scene, User};

/// Far away, and without fractions.
const LATE: u64 = 4_000_000_000;

/// An observer that serves the API, and users of its app.
struct Api {
    scene: Scene,
    port: u16,
    _key: tempfile::NamedTempFile,
}

impl Api {
    fn new(broker: Broker, more: &[&str]) -> Self {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), var("BED_JWT_SECRET")).unwrap();
        let mut args = vec!["--api-listen", "127.0.0.1:0", "--api-jwt-key-file"];
        args.push(key.path().to_str().unwrap());
        args.extend(more);
        let scene = Scene::new(broker, &args);
        let ready = &scene.observer.ready;
        let address = ready.split("API on http://127.0.0.1:").nth(1).unwrap();
        let port = address.split('/').next().unwrap().parse().unwrap();
        Self {
            scene,
            port,
            _key: key,
        }
    }

    /// A token of a user of the app.
    fn user(&self, user: &str) -> String {
        token(&json!({"sub": user, "app_id": self.scene.app, "exp": LATE}))
    }

    fn admin(&self) -> String {
        token(&json!({
            "sub": "service", "app_id": self.scene.app, "exp": LATE, "tiledesk_api_roles": "admin",
        }))
    }

    /// A path of the app.
    fn path(&self, rest: &str) -> String {
        format!("/api/{}/{rest}", self.scene.app)
    }

    fn get(&self, token: &str, rest: &str) -> Reply {
        let headers = [format!("authorization: {token}")];
        call(self.port, "GET", &self.path(rest), &headers, "")
    }

    /// The rows of a list.
    fn list(&self, token: &str, rest: &str) -> Vec<Value> {
        let reply = self.get(token, rest);
        assert_eq!(reply.status, 200, "{rest} {reply:?}");
        let answer = reply.json();
        assert_eq!(answer["success"], true);
        answer["result"].as_array().unwrap().clone()
    }
}

fn texts(rows: &[Value]) -> Vec<&str> {
    rows.iter()
        .map(|row| row["text"].as_str().unwrap())
        .collect()
}

/// alice writes to bob, and waits until he has it.
fn chat(alice: &mut User, bob: &mut User, messages: &[Value]) {
    for message in messages {
        alice.writes("u02", message);
        alice.hears_on("messages/u02/clientadded");
        bob.hears_on("messages/u01/clientadded");
    }
}

#[test]
fn a_stock_client_reads_its_conversations_and_their_messages() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let (mut alice, mut bob) = (api.scene.user("u01"), api.scene.user("u02"));
    let message = |text: &str| {
        json!({
            "text": text, "type": "text", "sender_fullname": "Alice", "recipient_fullname": "Bob",
            "channel_type": "direct",
        })
    };
    chat(
        &mut alice,
        &mut bob,
        &[message("one"), message("two"), message("three")],
    );
    let token = api.user("u02");

    let rows = api.list(&token, "u02/conversations");
    let [row] = &rows[..] else { panic!("{rows:?}") };
    for (name, value) in [
        ("sender", json!("u01")),
        ("recipient", json!("u02")),
        ("sender_fullname", json!("Alice")),
        ("recipient_fullname", json!("Bob")),
        ("channel_type", json!("direct")),
        ("last_message_text", json!("three")),
        ("conversWith", json!("u01")),
        ("key", json!("u01")),
        ("timelineOf", json!("u02")),
        ("is_new", json!(true)),
        ("archived", json!(false)),
        ("attributes", json!({})),
        ("app_id", json!(api.scene.app)),
    ] {
        assert_eq!(row[name], value, "{name} of {row}");
    }
    assert!(row["timestamp"].is_u64());

    let messages = api.list(&token, "u02/conversations/u01/messages");
    assert_eq!(texts(&messages), ["three", "two", "one"]);
    let newest = &messages[0];
    assert_eq!(
        (
            &newest["status"],
            &newest["attributes"],
            &newest["timelineOf"]
        ),
        (&json!(150), &json!({}), &json!("u02"))
    );
    assert!(newest["message_id"].is_string());
    let own = api.list(&api.user("u01"), "u01/conversations/u02/messages");
    assert_eq!(own[0]["status"], 100);

    // One conversation, in the list or in the archive.
    assert_eq!(api.list(&token, "u02/conversations/u01").len(), 1);
    assert!(
        api.list(&token, "u02/archived_conversations/u01")
            .is_empty()
    );
    bob.says("conversations/u01/archive", "");
    bob.hears_on("conversations/u01/clientdeleted");
    bob.hears_on("archived_conversations/u01/clientadded");
    assert!(api.list(&token, "u02/conversations").is_empty());
    assert!(api.list(&token, "u02/conversations/u01").is_empty());
    for path in [
        "u02/conversations/archived",
        "u02/archived_conversations",
        "u02/archived_conversations/u01",
        "u02/archived_conversations/u01/",
    ] {
        let rows = api.list(&token, path);
        assert_eq!(texts(&rows), ["three"], "{path}");
        assert_eq!(rows[0]["archived"], true);
    }
    for path in [
        "u02/conversations/nobody",
        "u02/conversations/nobody/messages",
    ] {
        assert!(api.list(&token, path).is_empty(), "{path}");
    }
}

#[test]
fn pages_neither_skip_nor_repeat() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let (mut alice, mut bob) = (api.scene.user("u01"), api.scene.user("u02"));
    let all: Vec<_> = (0..7).map(|n| json!({"text": n.to_string()})).collect();
    chat(&mut alice, &mut bob, &all);
    let token = api.user("u02");
    let path = "u02/conversations/u01/messages";
    let pages = |name: &str, first: &str| {
        let mut query = format!("?limit=3{first}");
        let mut pages = vec![];
        loop {
            let page = api.get(&token, &format!("{path}{query}")).json();
            pages.push(texts(page["result"].as_array().unwrap()).concat());
            let Some(next) = page["next"].as_str() else {
                return pages;
            };
            query = format!("?limit=3&{name}={next}");
        }
    };
    assert_eq!(pages("before", ""), ["654", "321", "0"]);
    assert_eq!(pages("since", "&since=0"), ["012", "345", "6"]);
    assert_eq!(api.list(&token, path).len(), 7);
    let later = format!("{path}?before=4000000000000");
    assert_eq!(api.list(&token, &later).len(), 7);
    for (query, fault) in [
        ("limit=0", "limit must be a number from 1 to 200"),
        ("before=x", "before must be a cursor or a time"),
        ("before=1&since=1", "together with before"),
    ] {
        let reply = api.get(&token, &format!("{path}?{query}"));
        let err = reply.json()["err"].as_str().unwrap().to_owned();
        assert!(reply.status == 400 && err.contains(fault), "{reply:?}");
    }
}

/// Every row of the access rules for what is read.
#[test]
fn nobody_reads_what_is_another_users() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    api.scene.store_group("group-x", &["u02", "carol"]);
    let (mut alice, mut bob) = (api.scene.user("u01"), api.scene.user("u02"));
    chat(&mut alice, &mut bob, &[json!({"text": "secret"})]);
    let of = |claims: Value| token(&claims);
    let app = &api.scene.app;
    let forged = {
        let key = jsonwebtoken::EncodingKey::from_secret(b"another key");
        let claims = json!({"sub": "u02", "app_id": app, "exp": LATE});
        jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
    };
    let unsigned = {
        let [_, claims, _]: [String; 3] = api
            .user("u02")
            .split('.')
            .map(str::to_owned)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
    };
    let no_token = [
        String::new(),
        "nonsense".to_owned(),
        forged,
        unsigned,
        of(json!({"sub": "u02", "app_id": app, "exp": 1})),
        of(json!({"sub": "u02", "app_id": app})),
        of(json!({"app_id": app, "exp": LATE})),
        of(json!({"sub": "u02", "exp": LATE})),
        of(json!({"sub": "a/b", "app_id": app, "exp": LATE})),
    ];
    let reads = [
        "u02/conversations",
        "u02/conversations/archived",
        "u02/archived_conversations",
        "u02/conversations/u01",
        "u02/archived_conversations/u01",
        "u02/conversations/u01/messages",
        "groups/group-x",
    ];
    let strangers = [
        api.user("u01"),
        of(json!({"sub": "u02", "app_id": fresh_app(), "exp": LATE})),
        of(
            json!({"sub": "u02", "app_id": fresh_app(), "exp": LATE, "tiledesk_api_roles": "admin"}),
        ),
        of(json!({"sub": "u01", "app_id": app, "exp": LATE, "tiledesk_api_roles": "adminx"})),
    ];
    for path in reads {
        for token in &no_token {
            let reply = api.get(token, path);
            assert_eq!(reply.status, 403, "{path} {token}");
            assert_eq!(
                reply.json(),
                json!({"success": false, "msg": "Unauthorized."})
            );
            assert_eq!(reply.headers["access-control-allow-origin"], "*");
        }
        for token in &strangers {
            let reply = api.get(token, path);
            assert_eq!(reply.status, 401, "{path} {token}");
            assert!(!reply.text.contains("secret") && !reply.text.contains("carol"));
        }
        assert_eq!(api.get(&api.user("u02"), path).status, 200, "{path}");
        assert_eq!(api.get(&api.admin(), path).status, 200, "{path}");
    }
    let denied = api.get(&api.user("u01"), "groups/group-x").json();
    assert_eq!(
        denied,
        json!({"success": false, "err": "Permission denied"})
    );
    let missing = api.get(&api.user("u01"), "groups/group-y");
    assert_eq!(missing.status, 404);
    assert_eq!(missing.json()["err"], "Group doesn't exist");
    // Identifiers that are none.
    for odd in [
        "a%2Fb",
        "%00",
        "a%20",
        "messages",
        &"x".repeat(300),
        "%2B",
        "..%2F",
    ] {
        let reply = api.get(&api.user("u02"), &format!("{odd}/conversations"));
        assert_eq!((reply.status, &*reply.text), (401, ""), "{odd}");
        let path = format!("u02/conversations/{odd}/messages");
        assert!(api.list(&api.user("u02"), &path).is_empty(), "{odd}");
        let reply = api.get(&api.admin(), &format!("groups/{odd}"));
        assert_eq!(reply.status, 404, "{odd}");
    }
    // What is nowhere, and who may know that.
    assert_eq!(
        api.get(&api.user("u02"), "nothing/at/all/there").status,
        404
    );
    assert_eq!(api.get("", "nothing/at/all/there").status, 403);
}

#[test]
fn every_form_of_a_token_is_understood_and_every_answer_bears_cors_headers() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let token = api.user("u02");
    let path = api.path("u02/conversations");
    for header in [
        token.clone(),
        format!("Bearer {token}"),
        format!("jwt {token}"),
    ] {
        let headers = [
            format!("authorization: {header}"),
            "origin: http://a.example".into(),
        ];
        let reply = call(api.port, "GET", &path, &headers, "");
        assert_eq!(reply.status, 200, "{header}");
        assert_eq!(reply.headers["access-control-allow-origin"], "*");
        assert_eq!(reply.headers["cache-control"], "no-store");
    }
    for name in ["jwt", "JWT", "token"] {
        let path = format!("{path}?{name}={}", token.replace('.', "%2E"));
        assert_eq!(call(api.port, "GET", &path, &[], "").status, 200, "{name}");
    }
    let asked = [
        "origin: http://a.example".to_owned(),
        "access-control-request-method: DELETE".to_owned(),
        "access-control-request-headers: authorization,content-type".to_owned(),
    ];
    let preflight = call(api.port, "OPTIONS", &path, &asked, "");
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.headers["access-control-allow-origin"], "*");
    assert_eq!(
        preflight.headers["access-control-allow-headers"],
        "authorization,content-type"
    );
    let methods = &preflight.headers["access-control-allow-methods"];
    assert!(
        methods.contains("DELETE") && methods.contains("PUT"),
        "{methods}"
    );
    let claims = call(
        api.port,
        "GET",
        "/verify",
        &[format!("authorization: {token}")],
        "",
    );
    assert_eq!(claims.json()["sub"], "u02");
    let root = call(api.port, "GET", "/", &[], "");
    assert!(root.status == 200 && root.text.contains("chat21-observer"));
    let log = api.scene.observer.log();
    assert!(!log.contains(&token), "a token in the log");
}

#[test]
fn a_page_of_another_origin_may_not_call_unless_it_is_named() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &["--api-cors-origin", "https://chat.example.com"]);
    let headers = |origin: &str| {
        [
            format!("authorization: {}", api.user("u02")),
            format!("origin: {origin}"),
        ]
    };
    let path = api.path("u02/conversations");
    let allowed = call(
        api.port,
        "GET",
        &path,
        &headers("https://chat.example.com"),
        "",
    );
    assert_eq!(
        allowed.headers["access-control-allow-origin"],
        "https://chat.example.com"
    );
    let other = call(api.port, "GET", &path, &headers("https://evil.example"), "");
    assert!(!other.headers.contains_key("access-control-allow-origin"));
}

/// Connections that send nothing, or never end, hold up nobody, and end.
#[test]
fn a_slow_client_ends_by_a_limit() {
    use std::io::{Read, Write};
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let mut slow: Vec<_> = (0..1_000)
        .map(|n| {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", api.port)).unwrap();
            let part: &[u8] = match n % 3 {
                0 => b"",
                1 => b"GET /api/x HTTP/1.1\r\nhost:",
                _ => b"\x00\xff garbage\r\n\r\n",
            };
            let _ = stream.write_all(part);
            stream
        })
        .collect();
    assert!(api.list(&api.user("u02"), "u02/conversations").is_empty());
    for stream in &mut slow {
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        let read = stream.read_to_end(&mut vec![]);
        // Closed, or reset because something was not read.
        let kind = read.as_ref().err().map(std::io::Error::kind);
        assert_ne!(kind, Some(std::io::ErrorKind::WouldBlock), "it stays open");
    }
}
