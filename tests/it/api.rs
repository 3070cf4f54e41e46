//! The HTTP API: what each route answers, and to whom.

use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Broker, fresh_app, token, var};
use crate::http::{Answer, Reply, Server, call};
use crate::protocol::{Scene, User};

/// Far away, and without fractions.
const LATE: u64 = 4_000_000_000;

/// An observer that serves the API, and users of its app.
pub(crate) struct Api {
    pub(crate) scene: Scene,
    pub(crate) port: u16,
    _key: tempfile::NamedTempFile,
}

impl Api {
    pub(crate) fn new(broker: Broker, more: &[&str]) -> Self {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), var("BED_JWT_SECRET")).unwrap();
        let mut args = vec!["--api-listen", "127.0.0.1:0", "--api-jwt-key-file"];
        args.push(key.path().to_str().unwrap());
        args.extend(more);
        let scene = Scene::new(broker, &args);
        let mut api = Self {
            scene,
            port: 0,
            _key: key,
        };
        api.find_port();
        api
    }

    /// Reads the port from what the observer has printed.
    fn find_port(&mut self) {
        let ready = &self.scene.observer.ready;
        let address = ready.split("API on http://127.0.0.1:").nth(1).unwrap();
        self.port = address.split('/').next().unwrap().parse().unwrap();
    }

    /// A token of a user of the app.
    pub(crate) fn user(&self, user: &str) -> String {
        token(&json!({"sub": user, "app_id": self.scene.app, "exp": LATE}))
    }

    pub(crate) fn admin(&self) -> String {
        token(&json!({
            "sub": "service", "app_id": self.scene.app, "exp": LATE, "tiledesk_api_roles": "admin",
        }))
    }

    /// A path of the app.
    pub(crate) fn path(&self, rest: &str) -> String {
        format!("/api/{}/{rest}", self.scene.app)
    }

    pub(crate) fn get(&self, token: &str, rest: &str) -> Reply {
        let headers = [format!("authorization: {token}")];
        call(self.port, "GET", &self.path(rest), &headers, "")
    }

    /// A request with a body, or an empty one without.
    pub(crate) fn send(&self, token: &str, method: &str, rest: &str, body: &Value) -> Reply {
        let headers = [
            format!("authorization: {token}"),
            "content-type: application/json".to_owned(),
        ];
        call(
            self.port,
            method,
            &self.path(rest),
            &headers,
            &body.to_string(),
        )
    }

    /// The rows of a list.
    pub(crate) fn list(&self, token: &str, rest: &str) -> Vec<Value> {
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
    // Stock clients ask for no second page.
    let long = json!({"text": "x".repeat(4_000)});
    chat(&mut alice, &mut bob, &vec![long; 200]);
    let page = api.get(&token, path).json();
    assert_eq!(page["result"].as_array().unwrap().len(), 200);
    let list = api.list(&token, "u02/conversations");
    assert_eq!(
        (&list[0]["channel_type"], list.len()),
        (&json!("direct"), 1)
    );
    let later = format!("{path}?before=4000000000000&limit=7");
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
    let elsewhere = fresh_app();
    let admin_elsewhere = json!({
        "sub": "u02", "app_id": elsewhere, "exp": LATE, "tiledesk_api_roles": "admin",
    });
    let strangers = [
        api.user("u01"),
        of(json!({"sub": "u02", "app_id": fresh_app(), "exp": LATE})),
        of(admin_elsewhere),
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
    // No text at all.
    let reply = api.get(&api.user("u02"), "%FF/conversations");
    let err = reply.json()["err"].as_str().unwrap().to_owned();
    assert!(reply.status == 400 && err.contains("UTF-8"), "{reply:?}");
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

/// A message as tiledesk-server sends it.
pub(crate) fn posted(recipient: &str, text: &str) -> Value {
    json!({
        "sender_fullname": "Alice", "recipient_id": recipient, "recipient_fullname": "Bob",
        "text": text, "type": "text", "channel_type": "direct", "attributes": {"k": 1},
        "metadata": "",
    })
}

#[test]
fn a_message_over_http_takes_the_way_of_every_message() {
    for broker in [Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        let api = Api::new(broker, &[]);
        let (mut alice, mut bob) = (api.scene.user("u01"), api.scene.user("u02"));
        let token = api.user("u01");
        let reply = api.send(&token, "POST", "messages", &posted("u02", "over HTTP"));
        assert_eq!(reply.status, 200, "{reply:?}");
        let id = reply.json()["message_id"].clone();
        let sent = alice.hears_on("messages/u02/clientadded");
        let got = bob.hears_on("messages/u01/clientadded");
        assert_eq!(
            (&sent["status"], &got["status"]),
            (&json!(100), &json!(150))
        );
        for (name, value) in [
            ("message_id", id),
            ("sender", json!("u01")),
            ("recipient", json!("u02")),
            ("text", json!("over HTTP")),
            ("attributes", json!({"k": 1})),
            ("metadata", json!("")),
            ("app_id", json!(api.scene.app)),
        ] {
            assert_eq!(got[name], value, "{name}");
        }
        // An administrator writes as anybody; for others the field counts for nothing.
        let mut as_bob = posted("u01", "as bob");
        as_bob["sender_id"] = json!("u02");
        assert_eq!(
            api.send(&api.admin(), "POST", "messages", &as_bob).status,
            200
        );
        assert_eq!(alice.hears_on("messages/u02/clientadded")["sender"], "u02");
        bob.hears_on("messages/u01/clientadded");
        as_bob["recipient_id"] = json!("u02");
        assert_eq!(api.send(&token, "POST", "messages", &as_bob).status, 200);
        alice.hears_on("messages/u02/clientadded");
        assert_eq!(bob.hears_on("messages/u01/clientadded")["sender"], "u01");
        // Archived by its owner, and by an administrator.
        let reply = api.send(&api.user("u02"), "DELETE", "conversations/u01", &json!({}));
        assert_eq!(
            (reply.status, &reply.json()),
            (201, &json!({"success": true}))
        );
        bob.hears_on("conversations/u01/clientdeleted");
        bob.hears_on("archived_conversations/u01/clientadded");
        let of_alice = json!({"user_id": "u01"});
        let stranger = api.send(&api.user("u02"), "DELETE", "conversations/u02", &of_alice);
        assert_eq!(stranger.status, 401);
        let reply = api.send(&api.admin(), "DELETE", "conversations/u02", &of_alice);
        assert_eq!(reply.status, 201);
        assert_eq!(
            alice.hears_on("conversations/u02/clientdeleted")["archived"],
            true
        );
        let headers = [format!("authorization: {token}")];
        let path = api.path("conversations/nobody");
        let unknown = call(api.port, "DELETE", &path, &headers, "");
        assert_eq!(unknown.status, 201);
    }
}

#[test]
fn what_speaks_against_a_message_is_named() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let api = Api::new(broker, &["--rate-per-minute", "5", "--banned", "u09"]);
    let token = api.user("u01");
    for (field, text) in [
        ("sender_fullname", "Sender Fullname is mandatory"),
        ("recipient_id", "Recipient id is mandatory"),
        ("recipient_fullname", "Recipient Fullname is mandatory"),
    ] {
        let mut message = posted("u02", "x");
        message.as_object_mut().unwrap().remove(field);
        let reply = api.send(&token, "POST", "messages", &message);
        assert_eq!((reply.status, &*reply.text), (405, text));
    }
    let path = api.path("messages");
    let auth = format!("authorization: {token}");
    let sent = |kind: &str, body: &str| {
        call(
            api.port,
            "POST",
            &path,
            &[auth.clone(), kind.to_owned()],
            body,
        )
    };
    let json_type = "content-type: application/json; charset=utf-8";
    let reply = sent(json_type, "{\"a\":");
    let detail = "a: EOF while parsing a value at line 1 column 5";
    let fault = json!({"success": false, "err": "not-json", "detail": detail});
    assert_eq!((reply.status, reply.json()), (400, fault));
    let reply = sent(json_type, "{\"text\":7}");
    assert!(
        reply.status == 400 && reply.text.contains("text"),
        "{reply:?}"
    );
    assert_eq!(sent("content-type: text/plain", "{}").status, 415);
    let large = json!({"text": "x".repeat(2 << 20)}).to_string();
    let reply = sent(json_type, &large);
    assert_eq!(reply.status, 413);
    assert_eq!(reply.headers["access-control-allow-origin"], "*");
    let refused = |token: &str, message: &Value| {
        let reply = api.send(token, "POST", "messages", message);
        (
            reply.status,
            reply.json()["err"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let is = |status: u16, reason: &str| (status, reason.to_owned());
    assert_eq!(
        refused(&api.user("u09"), &posted("u02", "x")),
        is(403, "banned")
    );
    assert_eq!(
        refused(&token, &posted("a/b", "x")),
        is(403, "malformed-topic")
    );
    assert_eq!(
        refused(&token, &posted("messages", "x")),
        is(403, "reserved-identifier")
    );
    let reply = api.send(&token, "POST", "messages", &posted("a/b", "x"));
    assert_eq!(
        reply.json()["detail"],
        "recipient_id \"a/b\" holds '/', which no identifier may hold"
    );
    let group = json!({"group_name": "g", "group_members": {"u02": 1, "a#": 1}});
    let reply = api.send(&token, "POST", "groups", &group);
    assert_eq!(
        reply.json()["detail"],
        "group_members \"a#\" holds '#', which no identifier may hold"
    );
    // A "." is a level break at this broker.
    assert_eq!(
        refused(&token, &posted("u02.x", "x")),
        is(403, "unroutable")
    );
    let mut group = posted("u02", "x");
    group["channel_type"] = json!("group");
    assert_eq!(refused(&token, &group), is(403, "not-a-group"));
    // Whoever is blocked is not told.
    let mut bob = api.scene.user("u02");
    bob.says("blocked/u03/update", r#"{"blocked":true}"#);
    bob.hears_on("blocked/u03/clientupdated");
    let blocked = api.send(&api.user("u03"), "POST", "messages", &posted("u02", "x"));
    assert_eq!(blocked.status, 200, "{blocked:?}");
    bob.hears_nothing();
    let mut last = blocked;
    for _ in 0..6 {
        last = api.send(&api.user("u04"), "POST", "messages", &posted("u02", "x"));
    }
    assert_eq!(
        (last.status, &last.json()["err"]),
        (429, &json!("rate-limited"))
    );
    assert!(last.headers["retry-after"].parse::<u32>().unwrap() >= 1);
    // An administrator may.
    assert_eq!(
        api.send(&api.admin(), "POST", "messages", &posted("u05", "x"))
            .status,
        200
    );
    let typing = api.send(&token, "PUT", "typings/u02", &json!({}));
    assert_eq!(typing.json(), json!({"success": true}));
}

/// As chat21-http-server takes it: what is empty is not there, and half an emoji is a text.
#[test]
fn what_is_empty_or_odd_is_taken_as_stock_clients_mean_it() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let (token, admin) = (api.user("u01"), api.admin());
    let mut bob = api.scene.user("u02");
    let mut message = posted("u02", "x");
    for name in ["sender_id", "channel_type", "type"] {
        message[name] = json!("");
    }
    assert_eq!(api.send(&admin, "POST", "messages", &message).status, 200);
    assert_eq!(api.send(&token, "POST", "messages", &message).status, 200);
    bob.hears_on("messages/service/clientadded");
    let told = bob.hears_on("messages/u01/clientadded");
    assert_eq!(
        (&told["channel_type"], &told["type"]),
        (&json!("direct"), &json!("text"))
    );
    let of_members = |name: &str| {
        let mut message = posted("u02", "x");
        message[name] = json!("");
        let reply = api.send(&token, "POST", "messages", &message);
        (reply.status, reply.text)
    };
    let missing = (405, "Recipient id is mandatory".to_owned());
    assert_eq!(of_members("recipient_id"), missing);
    let group = json!({
        "group_name": "g", "group_members": {"u02": 1}, "group_id": "", "group_owner": "",
    });
    let made = api.send(&admin, "POST", "groups", &group);
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(made.json()["group"]["owner"], "service");
    let nameless = json!({"group_name": "", "group_members": {"u02": 1}});
    assert_eq!(api.send(&token, "POST", "groups", &nameless).status, 405);
    let archived = api.send(
        &token,
        "DELETE",
        "conversations/u02",
        &json!({"user_id": ""}),
    );
    assert_eq!(archived.status, 201, "{archived:?}");
    // Cut by JavaScript.
    let half = r#"{"recipient_id":"u02","recipient_fullname":"B","sender_fullname":"\ud83d",
        "text":"cut \ud83d"}"#;
    let headers = [
        format!("authorization: {token}"),
        "content-type: application/json".to_owned(),
    ];
    let reply = call(api.port, "POST", &api.path("messages"), &headers, half);
    assert_eq!(reply.status, 200, "{reply:?}");
    // An array is no body, though its values stand in the order of the fields.
    let array = json!(["A", "u02", "B", "x", null, null, null, null, null, null]);
    let reply = api.send(&token, "POST", "messages", &array);
    assert_eq!(reply.status, 400, "{reply:?}");
    assert!(reply.text.contains("expected an object"), "{reply:?}");
    // Each refusal says what rule it is.
    let mut deep = posted("u02", "x");
    deep["attributes"] = (0..70).fold(json!(1), |inner, _| json!({"a": inner}));
    let reply = api.send(&token, "POST", "messages", &deep);
    assert_eq!(
        (reply.status, &reply.json()["err"]),
        (413, &json!("too-large"))
    );
    assert!(reply.text.contains("levels"), "{reply:?}");
    let mut group = json!({"group_name": "g", "group_members": {"u02": 1}});
    group["group_id"] = json!("team");
    let reply = api.send(&token, "POST", "groups", &group);
    assert_eq!(
        reply.json()["detail"],
        "group_id \"team\" must contain \"group-\""
    );
}

/// What a user hears in a group from here on: places and texts, or keys of notifications.
pub(crate) fn hears(user: &mut User, count: usize) -> Vec<(String, String)> {
    let said = (0..count).map(|_| {
        let (place, payload) = user.hears();
        let label = &payload["notification"]["messagelabel"]["key"];
        let text = payload["text"].as_str().or(label.as_str());
        (place, text.unwrap_or_default().to_owned())
    });
    let mut said: Vec<_> = said.collect();
    // Notices and messages go different ways.
    said.sort_by(|one, other| one.0.cmp(&other.0));
    said
}

pub(crate) fn pair(place: &str, text: &str) -> (String, String) {
    (place.to_owned(), text.to_owned())
}

#[test]
fn a_user_makes_a_group_and_its_members_are_told_of_each_change() {
    for broker in [Broker::Rabbit4, Broker::Rabbit3, Broker::Mosquitto] {
        let _shared = broker.shared();
        let api = Api::new(broker, &[]);
        let names = ["u01", "u02", "u03"];
        let [mut alice, mut bob, mut carol] = names.map(|name| api.scene.user(name));
        let owner = api.user("u01");
        let body = json!({
            "group_name": "Friends", "group_members": {"u02": 1}, "group_id": "group-f",
            "attributes": {"color": "blue"},
        });
        let reply = api.send(&owner, "POST", "groups", &body);
        assert_eq!(reply.status, 201, "{reply:?}");
        let group = &reply.json()["group"];
        for (name, value) in [
            ("uid", json!("group-f")),
            ("name", json!("Friends")),
            ("appId", json!(api.scene.app)),
            ("owner", json!("u01")),
            ("members", json!({"u01": 1, "u02": 1})),
            ("attributes", json!({"color": "blue"})),
        ] {
            assert_eq!(group[name], value, "{name}");
        }
        assert!(group["createdOn"].is_u64() && group["updatedOn"].is_u64());
        let messages = "messages/group-f/clientadded";
        let created = [
            pair(messages, "Group created"),
            pair(messages, "u02 joined group on creation"),
            pair(messages, "u01 joined group on creation"),
        ];
        assert_eq!(hears(&mut alice, 3), created);
        assert_eq!(hears(&mut bob, 3), created);
        let again = api.send(&owner, "POST", "groups", &body);
        assert_eq!(
            (again.status, &again.json()["err"]),
            (409, &json!("exists"))
        );

        // A message, which the new member gets as history.
        bob.writes("group-f", &json!({"text": "before"}));
        assert_eq!(hears(&mut alice, 1), [pair(messages, "before")]);
        assert_eq!(hears(&mut bob, 1), [pair(messages, "before")]);
        let member = json!({"member_id": "u03"});
        let reply = api.send(&owner, "POST", "groups/group-f/members", &member);
        assert_eq!(
            (reply.status, &reply.json()),
            (200, &json!({"success": true}))
        );
        let notice = pair("groups/group-f/clientupdated", "MEMBER_JOINED_GROUP");
        let added = [notice.clone(), pair(messages, "u03 added to group")];
        assert_eq!(hears(&mut alice, 2), added);
        assert_eq!(hears(&mut bob, 2), added);
        let heard = hears(&mut carol, 6);
        let mut expected = vec![notice];
        expected.extend(created);
        expected.extend([
            pair(messages, "before"),
            pair(messages, "u03 added to group"),
        ]);
        assert_eq!(heard, expected);
        let history = api.list(&api.user("u03"), "u03/conversations/group-f/messages");
        assert_eq!(
            texts(&history),
            [
                "u03 added to group",
                "before",
                "u01 joined group on creation",
                "u02 joined group on creation",
                "Group created"
            ]
        );
        assert_eq!(history[1]["status"], 150);
        let row = &api.list(&api.user("u03"), "u03/conversations")[0];
        assert_eq!(row["last_message_text"], "u03 added to group");

        // Again, by somebody who may not, and for a group that is not there.
        let add = |token: &str, group: &str| {
            let path = format!("groups/{group}/members");
            let reply = api.send(token, "POST", &path, &member);
            (
                reply.status,
                reply.json()["err"]["err"].as_str().unwrap().to_owned(),
            )
        };
        assert_eq!(add(&owner, "group-f"), (405, "Already a member".to_owned()));
        assert_eq!(
            add(&api.user("u02"), "group-f"),
            (405, "Not allowed".to_owned())
        );
        assert_eq!(add(&owner, "group-g"), (405, "Not found".to_owned()));

        // Renamed, given attributes, left.
        let renamed = json!({"group_name": "Old friends"});
        assert_eq!(
            api.send(&owner, "PUT", "groups/group-f", &renamed).status,
            200
        );
        let notice = pair("groups/group-f/clientupdated", "DATA_UPDATED_GROUP");
        for user in [&mut alice, &mut bob, &mut carol] {
            assert_eq!(hears(user, 1), std::slice::from_ref(&notice));
        }
        let attributes = json!({"attributes": {"color": "red"}});
        let path = "groups/group-f/attributes";
        assert_eq!(api.send(&owner, "PUT", path, &attributes).status, 200);
        for user in [&mut alice, &mut bob, &mut carol] {
            let told = hears(user, 1);
            assert_eq!(told[0].1, "ATTRIBUTES_UPDATED_GROUP");
        }
        let stranger = api.send(&api.user("u02"), "PUT", "groups/group-f", &renamed);
        assert_eq!(stranger.json()["err"]["message"], "Unauthorized");
        let kicks = api.send(
            &api.user("u02"),
            "DELETE",
            "groups/group-f/members/u03",
            &json!({}),
        );
        assert_eq!(
            (kicks.status, &kicks.json()["http_status"]),
            (405, &json!(404))
        );
        let leaves = api.send(
            &api.user("u03"),
            "DELETE",
            "groups/group-f/members/u03",
            &json!({}),
        );
        assert_eq!(leaves.status, 200, "{leaves:?}");
        let left = pair("groups/group-f/clientupdated", "MEMBER_LEFT_GROUP");
        assert_eq!(
            hears(&mut alice, 2),
            [left.clone(), pair(messages, "u03 removed from group")]
        );
        assert_eq!(hears(&mut carol, 1), [left]);
        let group = &api.get(&owner, "groups/group-f").json()["result"];
        assert_eq!(
            (&group["name"], &group["attributes"], &group["members"]),
            (
                &json!("Old friends"),
                &json!({"color": "red"}),
                &json!({"u01": 1, "u02": 1})
            )
        );
        assert!(group.get("notification").is_none(), "{group}");
        for user in [&mut alice, &mut carol] {
            user.hears_nothing();
        }
    }
}

#[test]
fn an_administrator_sets_members_and_only_new_ones_are_announced() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let [mut alice, mut bob] = ["u01", "u02"].map(|name| api.scene.user(name));
    let admin = api.admin();
    let body = json!({
        "group_name": "Support", "group_members": {"system": 1, "u01": 1},
        "group_id": "support-group-1", "group_owner": "u01",
    });
    let reply = api.send(&admin, "POST", "groups", &body);
    let group = &reply.json()["group"];
    assert_eq!(
        (&group["owner"], &group["members"]),
        (&json!("u01"), &json!({"system": 1, "u01": 1})),
        "an administrator is not among them"
    );
    let messages = "messages/support-group-1/clientadded";
    let texts = |said: Vec<(String, String)>| said.into_iter().map(|(_, text)| text);
    hears(&mut alice, 3);
    let set = |token: &str, members: Value| {
        let body = json!({"members": members});
        api.send(token, "PUT", "groups/support-group-1/members", &body)
    };
    assert_eq!(set(&admin, json!({"u02": 1, "u01": 1})).status, 200);
    let told = [String::new(), "u02 added to group".to_owned()];
    assert_eq!(texts(hears(&mut alice, 2)).collect::<Vec<_>>(), told);
    let heard = hears(&mut bob, 4);
    assert_eq!(heard[3], pair(messages, "u02 added to group"), "{heard:?}");
    let same = set(&admin, json!({"u01": 1, "u02": 1}));
    assert_eq!(same.status, 405);
    assert_eq!(
        same.json()["err"]["message"],
        "Same members in group, skipping setGroupMembers()"
    );
    assert_eq!(set(&api.user("u02"), json!({"u02": 1})).status, 405);
    assert_eq!(set(&admin, json!(["u01"])).status, 400);
    // An administrator's creation replaces.
    let reply = api.send(&admin, "POST", "groups", &body);
    assert_eq!(
        (reply.status, &reply.json()["group"]["members"]),
        (201, &group["members"])
    );
    // The bot writes as a member would.
    hears(&mut alice, 3);
    let mut message = posted("support-group-1", "I am a bot");
    message["sender_id"] = json!("bot_1");
    message["channel_type"] = json!("group");
    assert_eq!(api.send(&admin, "POST", "messages", &message).status, 200);
    assert_eq!(hears(&mut alice, 1), [pair(messages, "I am a bot")]);
}

/// The holes of chat21-http-server that concern groups.
#[test]
fn nobody_takes_over_a_group_or_brings_in_who_blocks_them() {
    let broker = Broker::Rabbit3;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    api.scene.store_group("group-x", &["u02", "u03"]);
    let mut bob = api.scene.user("u02");
    bob.says("blocked/u09/update", r#"{"blocked":true}"#);
    bob.hears_on("blocked/u09/clientupdated");
    let evil = api.user("u09");
    let create = |id: &str, members: Value| {
        let body = json!({"group_name": "x", "group_members": members, "group_id": id});
        let reply = api.send(&evil, "POST", "groups", &body);
        (
            reply.status,
            reply.json()["err"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let none = || json!({});
    let is = |status: u16, err: &str| (status, err.to_owned());
    assert_eq!(create("group-x", none()), is(409, "exists"));
    assert_eq!(create("u02", none()), is(403, "not-a-group"));
    assert_eq!(create("messages", none()), is(403, "reserved-identifier"));
    assert_eq!(create("group-a/b", none()), is(403, "malformed-topic"));
    assert_eq!(create("group-u02.x", none()), is(403, "unroutable"));
    assert_eq!(
        create("group-y", json!({"u02.x": 1})),
        is(403, "unroutable")
    );
    assert_eq!(
        create("group-y", json!({"a/b": 1})),
        is(403, "malformed-topic")
    );
    assert_eq!(create("group-y", json!({"u02": 1})), is(403, "blocked"));
    let many: serde_json::Map<_, _> = (0..501).map(|n| (format!("m{n}"), json!(1))).collect();
    assert_eq!(
        create("group-y", Value::Object(many)),
        is(403, "too-many-recipients")
    );
    // Somebody has written to it already: it is theirs.
    api.scene
        .user("u05")
        .writes("group-z", &json!({"text": "hello"}));
    crate::bed::wait_for("the message", || {
        let rows = api.list(&api.user("u05"), "u05/conversations/group-z/messages");
        (!rows.is_empty()).then_some(())
    });
    assert_eq!(create("group-z", none()), is(409, "exists"));
    assert_eq!(create("group-y", none()).0, 201);
    let add = json!({"member_id": "u02"});
    let reply = api.send(&evil, "POST", "groups/group-y/members", &add);
    assert_eq!(
        (reply.status, &reply.json()["err"]),
        (403, &json!("blocked"))
    );
    bob.hears_nothing();
    // In another app there is no such group.
    let other = token(&json!({
        "sub": "u02", "app_id": fresh_app(), "exp": LATE, "tiledesk_api_roles": "admin",
    }));
    let headers = [format!("authorization: {other}")];
    let path = api.path("groups/group-x");
    assert_eq!(call(api.port, "GET", &path, &headers, "").status, 401);
    for missing in [json!({"group_name": "x"}), json!({"group_members": {}})] {
        assert_eq!(api.send(&evil, "POST", "groups", &missing).status, 405);
    }
}

/// What was answered is delivered, although the observer is killed at once.
#[test]
fn what_is_answered_survives_a_kill() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let mut api = Api::new(broker, &[]);
    let (mut bob, mut carol) = (api.scene.user("u02"), api.scene.user("u03"));
    for round in 0..10 {
        let token = api.user("u01");
        let body = json!({
            "group_name": "x", "group_members": {"u02": 1}, "group_id": format!("group-{round}"),
        });
        let text = format!("round {round}");
        let sent = api.send(&token, "POST", "messages", &posted("u02", &text));
        let made = api.send(&token, "POST", "groups", &body);
        let path = format!("groups/group-{round}/members");
        let added = api.send(&token, "POST", &path, &json!({"member_id": "u03"}));
        api.scene.observer.kill();
        assert_eq!((sent.status, made.status, added.status), (200, 201, 200));
        api.scene
            .observer
            .spawn(&[("OBSERVER_PASSWORD", "observerpw")]);
        api.scene.observer.wait_ready();
        api.find_port();
        // To the new member as history.
        let in_group = [
            "Group created",
            "u02 joined group on creation",
            "u01 joined group on creation",
            "u03 added to group",
        ];
        for (user, text) in [(&mut bob, Some(text)), (&mut carol, None)] {
            let mut missing = in_group.map(str::to_owned).to_vec();
            missing.extend(text);
            // A copy may come twice.
            while !missing.is_empty() {
                let (_, payload) = user.hears();
                missing.retain(|text| payload["text"] != **text);
            }
        }
    }
}

/// What only MQTT lets through: the list of conversations, a receipt by the name that the sender
/// gave, and the row that leaves the archive.
#[test]
fn a_stock_client_finds_the_same_over_mqtt() {
    for broker in [Broker::Rabbit4, Broker::Rabbit3, Broker::Mosquitto] {
        let _shared = broker.shared();
        let scene = Scene::new(broker, &[]);
        let [mut alice, mut bob] = ["u01", "u02"].map(|name| scene.user(name));
        let named = json!({"text": "hi", "attributes": {"tempUID": "a-name-of-its-own"}});
        alice.writes("u02", &named);
        let id = alice.hears_on("messages/u02/clientadded")["message_id"].clone();
        bob.hears_on("messages/u01/clientadded");
        bob.says("messages/u01/a-name-of-its-own/update", r#"{"status":200}"#);
        let told = alice.hears_on(&format!(
            "messages/u02/{}/clientupdated",
            id.as_str().unwrap()
        ));
        assert_eq!((&told["message_id"], &told["status"]), (&id, &json!(250)));

        bob.says("conversations/u01/archive", "{}");
        bob.hears_on("conversations/u01/clientdeleted");
        bob.hears_on("archived_conversations/u01/clientadded");
        let fetch = |bob: &mut User, payload: &str| {
            bob.says("conversations/fetch", payload);
            bob.hears()
        };
        let (place, end) = fetch(&mut bob, "");
        assert_eq!(place, "conversations/clientupdated");
        assert_eq!(end, json!({"fetched": 0, "more": false, "archived": false}));
        let (place, row) = fetch(&mut bob, r#"{"archived":true}"#);
        assert_eq!(place, "conversations/u01/clientadded");
        assert_eq!(
            (
                &row["__history"],
                &row["archived"],
                &row["last_message_text"]
            ),
            (&json!(true), &json!(true), &json!("hi"))
        );
        let end = bob.hears_on("conversations/clientupdated");
        assert_eq!(
            (&end["fetched"], &end["archived"]),
            (&json!(1), &json!(true))
        );

        alice.writes("u02", &json!({"text": "again"}));
        let [_, row] = bob.hears_both(
            "messages/u01/clientadded",
            "archived_conversations/u01/clientdeleted",
        );
        assert_eq!(
            (&row["archived"], &row["key"]),
            (&json!(false), &json!("u01"))
        );
        // In pages, newest first.
        bob.writes("u02", &json!({"text": "note to self"}));
        bob.hears_on("messages/u02/clientadded");
        let (first, _) = fetch(&mut bob, r#"{"limit":1}"#);
        assert_eq!(first, "conversations/u02/clientadded");
        let end = bob.hears_on("conversations/clientupdated");
        assert_eq!(end["more"], true);
        let next = json!({"limit": 1, "before": end["next"]}).to_string();
        let (second, _) = fetch(&mut bob, &next);
        assert_eq!(second, "conversations/u01/clientadded");
        assert_eq!(bob.hears_on("conversations/clientupdated")["more"], false);
        bob.says("conversations/fetch", r#"{"limit":"x"}"#);
        let refused = bob.hears_on("conversations/clientrejected");
        assert_eq!(refused["reason"], "bad-status");
    }
}

/// A group's message brings back what a member has archived, and only there.
#[test]
fn a_message_to_a_group_tells_those_who_had_archived_it() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = Scene::new(broker, &[]);
    scene.store_group("group-x", &["u01", "u02"]);
    let [mut alice, mut bob] = ["u01", "u02"].map(|name| scene.user(name));
    let writes = |alice: &mut User, text: &str| {
        alice.writes("group-x", &json!({"text": text}));
        alice.hears_on("messages/group-x/clientadded");
    };
    writes(&mut alice, "one");
    bob.hears_on("messages/group-x/clientadded");
    bob.says("conversations/group-x/archive", "{}");
    bob.hears_on("conversations/group-x/clientdeleted");
    bob.hears_on("archived_conversations/group-x/clientadded");
    writes(&mut alice, "two");
    let [_, row] = bob.hears_both(
        "messages/group-x/clientadded",
        "archived_conversations/group-x/clientdeleted",
    );
    assert_eq!(row["last_message_text"], "two");
    alice.hears_nothing();
}

#[test]
fn devices_are_registered_and_an_administrator_erases_what_others_have() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let [mut alice, mut bob] = ["u01", "u02"].map(|name| api.scene.user(name));
    let phone = json!({"platform": "android", "platform_version": "14", "language": "it"});
    let path = "u01/instances/token:1";
    let register = |token: &str| api.send(token, "POST", path, &phone);
    let mine = register(&api.user("u01"));
    assert_eq!((mine.status, mine.json()), (200, json!({"success": true})));
    assert_eq!(register(&api.user("u02")).status, 401);
    let listed = api.list(&api.admin(), "u01/instances");
    assert_eq!(
        listed,
        [json!({
            "instance_id": "token:1", "platform": "android", "platform_version": "14",
            "language": "it", "device_model": null,
        })]
    );
    // Whoever registers it last has it.
    let other = "u02/instances/token:1";
    assert_eq!(
        api.send(&api.user("u02"), "POST", other, &phone).status,
        200
    );
    assert!(api.list(&api.user("u01"), "u01/instances").is_empty());
    for n in 0..70 {
        let path = format!("u02/instances/{n}");
        assert_eq!(
            api.send(&api.user("u02"), "POST", &path, &phone).status,
            200
        );
    }
    assert_eq!(api.list(&api.user("u02"), "u02/instances").len(), 64);

    chat(&mut alice, &mut bob, &[json!({"text": "one"})]);
    let delete = |token: &str, path: &str| {
        let reply = api.send(token, "DELETE", path, &json!({}));
        (
            reply.status,
            reply.json()["err"].as_str().unwrap_or_default().to_owned(),
        )
    };
    for path in ["u01/conversations/timelines", "u01/messages/timelines"] {
        let refused = (403, "unauthorized".to_owned());
        assert_eq!(delete(&api.user("u02"), path), refused);
    }
    // In whichever order.
    assert_eq!(delete(&api.admin(), "u01/conversations/timelines").0, 200);
    assert_eq!(delete(&api.admin(), "u01/messages/timelines").0, 200);
    let messages = "u02/conversations/u01/messages";
    assert!(api.list(&api.user("u02"), messages).is_empty());
    let of_alice = api.list(&api.user("u01"), "u01/conversations/u02/messages");
    assert_eq!(texts(&of_alice), ["one"], "it is not with alice");
    assert_eq!(delete(&api.admin(), "u01/conversations/timelines").0, 200);
    assert!(api.list(&api.user("u02"), "u02/conversations").is_empty());
    assert_eq!(api.list(&api.user("u01"), "u01/conversations").len(), 1);
}

/// Names come from the operator's directory, which may be slow or not there.
#[test]
fn members_are_called_by_their_names_where_a_directory_knows_them() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let directory = Server::start(|path, _| match path {
        "/decide/u01?key=k" => {
            Answer::Says(200, r#"{"firstname":"Ann","lastname":"Lee"}"#.to_owned())
        }
        "/decide/u02?key=k" => Answer::Hangs(Duration::from_secs(5)),
        _ => Answer::Says(404, String::new()),
    });
    let url = format!("{}?key=k", directory.url);
    let api = Api::new(broker, &["--contacts-url", &url]);
    let mut alice = api.scene.user("u01");
    let body = json!({
        "group_name": "Friends", "group_members": {"u02": 1, "u03": 1}, "group_id": "group-f",
    });
    assert_eq!(
        api.send(&api.user("u01"), "POST", "groups", &body).status,
        201
    );
    let texts: Vec<_> = hears(&mut alice, 4)
        .into_iter()
        .map(|(_, text)| text)
        .collect();
    assert_eq!(
        texts,
        [
            "Group created",
            "u02 joined group on creation",
            "u03 joined group on creation",
            "Ann Lee joined group on creation"
        ]
    );
}

/// The description, the guide and what is served are the same.
#[test]
fn the_description_names_every_route_of_the_guide_and_no_other() {
    use std::collections::BTreeSet;
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let description = call(api.port, "GET", "/api/openapi.json", &[], "");
    assert_eq!(description.status, 200);
    let description = description.json();
    assert!(description["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(description["servers"][0]["url"], "/api");
    let paths = description["paths"].as_object().unwrap();
    let described: BTreeSet<_> = paths
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(move |method| format!("{} {path}", method.to_uppercase()))
        })
        .collect();
    let chapter = chat21_observer::guide::chapter("http-api").unwrap().text;
    let named = chapter.split('`').filter(|code| {
        let mut words = code.split(' ');
        let method = words.next().unwrap_or_default();
        let path = words.next().unwrap_or_default();
        ["GET", "POST", "PUT", "DELETE"].contains(&method) && path.starts_with("/{app}")
    });
    let named: BTreeSet<_> = named.map(str::to_owned).collect();
    assert_eq!(described, named);
    // Each is served: what is not says that there is no such route.
    for route in &described {
        let (method, path) = route.split_once(' ').unwrap();
        let path = path
            .replace("{app}", &api.scene.app)
            .replace(['{', '}'], "");
        let headers = [format!("authorization: {}", api.admin())];
        let reply = call(api.port, method, &format!("/api{path}"), &headers, "");
        assert!(!reply.text.contains("\"Not found\"}"), "{route}: {reply:?}");
    }
}

/// What a client writes into attributes goes on as it came, whatever it is.
#[test]
fn odd_attributes_and_names_hurt_nobody() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let mut alice = api.scene.user("u01");
    let headers = [
        format!("authorization: {}", api.user("u01")),
        "content-type: application/json".to_owned(),
    ];
    let send = |method: &str, rest: &str, body: &str| {
        call(api.port, method, &api.path(rest), &headers, body)
    };
    let odd = r#"{"a":1e999,"b":"\ud800","c":12345678901234567890123,"d":1.0}"#;
    let body = format!(
        r#"{{"group_name":"x","group_members":{{}},"group_id":"group-f","attributes":{odd}}}"#
    );
    let made = send("POST", "groups", &body);
    assert_eq!(made.status, 201);
    assert!(made.text.contains(odd), "{made:?}");
    hears(&mut alice, 2);
    let set = send(
        "PUT",
        "groups/group-f/attributes",
        &format!(r#"{{"attributes":{odd}}}"#),
    );
    assert_eq!(set.status, 200, "{set:?}");
    let told = alice.wire_text();
    assert!(told.contains(odd), "{told}");
    assert!(send("GET", "groups/group-f", "").text.contains(odd));
    let deep = format!(
        r#"{{"attributes":{{"a":{}{}}}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    let refused = send("PUT", "groups/group-f/attributes", &deep);
    assert_eq!(
        (refused.status, &refused.json()["err"]),
        (413, &json!("too-large"))
    );
    let long = json!({"group_name": "x".repeat(2_000)}).to_string();
    assert_eq!(send("PUT", "groups/group-f", &long).status, 400);
    // As many keys as a body can hold.
    let keys: Vec<_> = (0..80_000).map(|n| format!(r#""{n}":1"#)).collect();
    let many = format!(r#"{{"members":{{{}}}}}"#, keys.join(","));
    let refused = send("PUT", "groups/group-f/members", &many);
    assert_eq!(
        refused.json()["err"],
        "too-many-recipients",
        "{}",
        refused.status
    );
    // A body that is announced and not there is none.
    assert_eq!(send("DELETE", "conversations/nobody", "").status, 201);
}

/// With both listeners an observer still ends at once, and cleanly.
#[test]
fn a_stop_is_clean_while_http_is_served() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let mut api = Api::new(broker, &["--http-listen", "127.0.0.1:0"]);
    let (status, log) = api.scene.observer.stop();
    assert!(status.success(), "{log}");
    assert!(!log.contains("does not take our DISCONNECT"), "{log}");
}
