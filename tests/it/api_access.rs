//! The HTTP API: who may do what, row by row of the access rules (`rest-api.md`, section 2.3), on
//! every route that the description names.

use serde_json::{Value, json};

use crate::api::{Api, posted};
use crate::bed::{Broker, fresh_app, token};
use crate::http::{Reply, call};

const LATE: u64 = 4_000_000_000;

/// Tokens that are none, each for another reason.
fn no_tokens(app: &str) -> Vec<(&'static str, String)> {
    let claims = json!({"sub": "u02", "app_id": app, "exp": LATE, "tiledesk_api_roles": "admin"});
    let sign = |header: &jsonwebtoken::Header, secret: &[u8]| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret);
        jsonwebtoken::encode(header, &claims, &key).unwrap()
    };
    let good = token(&claims);
    let parts: Vec<&str> = good.split('.').collect();
    let header = jsonwebtoken::Header::default();
    let of = |claims: Value| token(&claims);
    vec![
        ("none at all", String::new()),
        ("no token", "nonsense".to_owned()),
        ("another key", sign(&header, b"another key")),
        ("the public default key", sign(&header, b"tokenKey")),
        (
            "alg none",
            format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.", parts[1]),
        ),
        (
            "alg none, with a signature",
            format!(
                "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{}.{}",
                parts[1], parts[2]
            ),
        ),
        (
            "expired",
            of(json!({"sub": "u02", "app_id": app, "exp": 1, "tiledesk_api_roles": "admin"})),
        ),
        ("no end", of(json!({"sub": "u02", "app_id": app}))),
        (
            "not yet",
            of(json!({"sub": "u02", "app_id": app, "exp": LATE, "nbf": LATE - 1})),
        ),
        ("nobody's", of(json!({"app_id": app, "exp": LATE}))),
        ("no app's", of(json!({"sub": "u02", "exp": LATE}))),
    ]
}

/// A body that each route understands.
fn body(path: &str) -> Value {
    let mut body = posted("u01", "x");
    let more = json!({
        "group_name": "x", "group_members": {"u01": 1}, "group_id": "group-new",
        "member_id": "u01", "members": {"u01": 1}, "device_model": "x",
    });
    // A message's attributes are a group's, too.
    if !path.ends_with("messages") {
        body = json!({"attributes": {"k": 1}});
    }
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

fn ask(api: &Api, token: &str, method: &str, path: &str, body: &Value) -> Reply {
    let headers = [
        format!("authorization: {token}"),
        "content-type: application/json".to_owned(),
    ];
    let body = match method {
        "GET" => String::new(),
        _ => body.to_string(),
    };
    call(api.port, method, path, &headers, &body)
}

/// The state that a caller who is turned away must leave as it is.
fn state(api: &Api) -> Vec<Value> {
    [
        "u02/conversations",
        "u02/archived_conversations",
        "u02/conversations/u01/messages",
        "u02/instances",
        "groups/group-x",
    ]
    .map(|path| api.get(&api.admin(), path).json())
    .to_vec()
}

#[test]
fn every_route_turns_away_whoever_has_no_token_or_is_of_another_app() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let owner = api.user("u02");
    let group = json!({
        "group_name": "x", "group_members": {"u03": 1}, "group_id": "group-x",
    });
    assert_eq!(api.send(&owner, "POST", "groups", &group).status, 201);
    let message = posted("u01", "secret");
    assert_eq!(api.send(&owner, "POST", "messages", &message).status, 200);
    let before = state(&api);
    let elsewhere = fresh_app();
    let of_others = [
        json!({"sub": "u02", "app_id": elsewhere, "exp": LATE}),
        json!({"sub": "u02", "app_id": elsewhere, "exp": LATE, "tiledesk_api_roles": "admin"}),
    ]
    .map(|claims| token(&claims));
    let description = call(api.port, "GET", "/api/openapi.json", &[], "").json();
    let paths = description["paths"].as_object().unwrap();
    let mut routes = 0;
    for (template, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let method = method.to_uppercase();
            let path = [
                ("{app}", &*api.scene.app),
                ("{user}", "u02"),
                ("{peer}", "u01"),
                ("{recipient}", "u01"),
                ("{group}", "group-x"),
                ("{member}", "u03"),
                ("{instance}", "phone"),
            ]
            .into_iter()
            .fold(format!("/api{template}"), |path, (name, value)| {
                path.replace(name, value)
            });
            assert!(!path.contains('{'), "{path}");
            let body = body(template);
            for (why, token) in no_tokens(&api.scene.app) {
                let reply = ask(&api, &token, &method, &path, &body);
                let unauthorized = json!({"success": false, "msg": "Unauthorized."});
                assert_eq!(reply.status, 403, "{method} {path}: {why}");
                assert_eq!(reply.json(), unauthorized, "{method} {path}: {why}");
                assert_eq!(reply.headers["access-control-allow-origin"], "*");
            }
            routes += 1;
            for token in &of_others {
                let reply = ask(&api, token, &method, &path, &body);
                let (status, text) = (reply.status, &*reply.text);
                assert_eq!((status, text), (401, ""), "{method} {path}: another app");
                assert_eq!(reply.headers["access-control-allow-origin"], "*");
            }
        }
    }
    assert!(routes >= 20, "{routes} routes");
    assert_eq!(state(&api), before, "nothing has changed");
}

/// Every row for what is written. Those who may not come first, so that they would be noticed.
#[test]
fn what_is_written_is_written_by_whoever_may() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let api = Api::new(broker, &[]);
    let [owner, member, stranger] = ["u02", "u03", "u09"].map(|user| api.user(user));
    let admin = api.admin();
    let made = json!({
        "group_name": "x", "group_members": {"u03": 1, "u04": 1, "u05": 1, "u06": 1},
        "group_id": "group-x",
    });
    assert_eq!(api.send(&owner, "POST", "groups", &made).status, 201);
    let own = |id: &str| json!({"group_name": "x", "group_members": {}, "group_id": id});
    let renamed = json!({"group_name": "y"});
    let attributes = json!({"attributes": {"k": 2}});
    let add = |user: &str| json!({"member_id": user});
    let set = |user: &str| {
        let mut members = made["group_members"].clone();
        members[user] = json!(1);
        members["u02"] = json!(1);
        json!({"members": members})
    };
    let none = json!({});
    let archive = json!({"user_id": "u02"});
    let phone = json!({"platform": "android"});
    let group = "groups/group-x";
    let members = "groups/group-x/members";
    for (who, token, method, path, body, status) in [
        // A message is its sender's, whatever the body says.
        (
            "a user",
            &stranger,
            "POST",
            "messages",
            &posted("u02", "x"),
            200,
        ),
        (
            "admin",
            &admin,
            "POST",
            "messages",
            &posted("u02", "x"),
            200,
        ),
        // Archiving.
        (
            "other user",
            &stranger,
            "DELETE",
            "conversations/u09",
            &archive,
            401,
        ),
        (
            "owner",
            &owner,
            "DELETE",
            "conversations/u09",
            &archive,
            201,
        ),
        (
            "admin",
            &admin,
            "DELETE",
            "conversations/u09",
            &archive,
            201,
        ),
        // Making a group: of a new id; an administrator may replace one.
        ("other user", &stranger, "POST", "groups", &made, 409),
        ("owner again", &owner, "POST", "groups", &made, 409),
        (
            "a user",
            &stranger,
            "POST",
            "groups",
            &own("group-new"),
            201,
        ),
        ("admin", &admin, "POST", "groups", &own("group-new"), 201),
        // Its name, its attributes, its members.
        ("stranger", &stranger, "PUT", group, &renamed, 405),
        ("member", &member, "PUT", group, &renamed, 405),
        ("owner", &owner, "PUT", group, &renamed, 200),
        ("admin", &admin, "PUT", group, &renamed, 200),
        (
            "stranger",
            &stranger,
            "PUT",
            "groups/group-x/attributes",
            &attributes,
            405,
        ),
        (
            "member",
            &member,
            "PUT",
            "groups/group-x/attributes",
            &attributes,
            405,
        ),
        (
            "owner",
            &owner,
            "PUT",
            "groups/group-x/attributes",
            &attributes,
            200,
        ),
        (
            "admin",
            &admin,
            "PUT",
            "groups/group-x/attributes",
            &attributes,
            200,
        ),
        ("stranger", &stranger, "POST", members, &add("u09"), 405),
        ("member", &member, "POST", members, &add("u09"), 405),
        ("owner", &owner, "POST", members, &add("u07"), 200),
        ("admin", &admin, "POST", members, &add("u08"), 200),
        ("stranger", &stranger, "PUT", members, &set("u09"), 405),
        ("member", &member, "PUT", members, &set("u09"), 405),
        ("owner", &owner, "PUT", members, &set("u10"), 200),
        ("admin", &admin, "PUT", members, &set("u11"), 200),
        // Who leaves, and who is removed.
        (
            "stranger",
            &stranger,
            "DELETE",
            "groups/group-x/members/u04",
            &none,
            405,
        ),
        (
            "member",
            &member,
            "DELETE",
            "groups/group-x/members/u04",
            &none,
            405,
        ),
        (
            "member",
            &member,
            "DELETE",
            "groups/group-x/members/u02",
            &none,
            405,
        ),
        (
            "owner",
            &owner,
            "DELETE",
            "groups/group-x/members/u04",
            &none,
            200,
        ),
        (
            "admin",
            &admin,
            "DELETE",
            "groups/group-x/members/u05",
            &none,
            200,
        ),
        (
            "themselves",
            &member,
            "DELETE",
            "groups/group-x/members/u03",
            &none,
            200,
        ),
        // Who has left reads it no more.
        ("who left", &member, "GET", group, &none, 401),
        // Devices.
        (
            "other user",
            &stranger,
            "POST",
            "u02/instances/a",
            &phone,
            401,
        ),
        ("owner", &owner, "POST", "u02/instances/a", &phone, 200),
        ("admin", &admin, "POST", "u02/instances/b", &phone, 200),
        ("other user", &stranger, "GET", "u02/instances", &none, 401),
        // What everybody has.
        (
            "a user",
            &owner,
            "DELETE",
            "u02/conversations/timelines",
            &none,
            403,
        ),
        (
            "a user",
            &owner,
            "DELETE",
            "group-x/messages/timelines",
            &none,
            403,
        ),
        (
            "admin",
            &admin,
            "DELETE",
            "u02/conversations/timelines",
            &none,
            200,
        ),
        (
            "admin",
            &admin,
            "DELETE",
            "group-x/messages/timelines",
            &none,
            200,
        ),
    ] {
        let reply = ask(&api, token, method, &api.path(path), body);
        assert_eq!(reply.status, status, "{who}: {method} {path}: {reply:?}");
    }
    let group = &api.get(&owner, group).json()["result"];
    let left: Vec<_> = group["members"].as_object().unwrap().keys().collect();
    assert_eq!(left, ["u02", "u06", "u11"], "{group}");
    let others = api.list(&owner, "u02/instances");
    assert_eq!(others.len(), 2, "{others:?}");
}
