//! RabbitMQ with JSON Web Tokens: what the broker enforces for users, and the observer's own token.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::bed::{
    ATTEMPTS, Broker, Observer, PATIENCE, fresh_app, service_token, user_token, wait_for,
};
use crate::load::Path;
use crate::wire::Wire;

const GLIMPSE: Duration = Duration::from_millis(1500);
/// The shortest wait before another attempt where somebody has to change something first.
const SLOW: Duration = Duration::from_secs(5);

/// The main job: a user publishes with a real token on their outgoing path, and the recipient gets
/// it in their inbox; neither can do more.
fn users_stay_in_their_own_prefix(broker: Broker) {
    let _shared = broker.shared();
    let app = fresh_app();
    let mut observer = Observer::prepare(&["--broker", &broker.url(false), "--app", &app]);
    observer.spawn(&[("OBSERVER_TOKEN", &service_token(3600))]);
    observer.wait_ready();
    let port = broker.port("MQTT");
    let enter = |user: &str, n: u32| {
        Wire::connect(
            port,
            &format!("{app}-{user}-{n}"),
            &broker.login(&app, user),
            true,
        )
        .unwrap()
    };

    let mut alice = enter("alice", 0);
    let mut bob = enter("bob", 0);
    let own = |user: &str| format!("apps/{app}/users/{user}/#");
    assert_eq!(
        bob.subscribe(&[&own("bob"), &format!("/{}", own("bob"))])
            .unwrap(),
        [1, 1]
    );
    for path in [
        Path::Inbox,
        Path::InboxNoSlash,
        Path::Chat21,
        Path::Chat21V1,
    ] {
        alice
            .publish_confirmed(path.outgoing(&app, "alice", "bob"), br#"{"text":"hi"}"#)
            .unwrap();
        let got = bob
            .message(PATIENCE)
            .unwrap_or_else(|| panic!("{path:?}: nothing arrived"));
        assert_eq!(got.topic(), path.inbox(&app, "bob", "alice"));
        assert_eq!(got.json()["text"], "hi");
    }

    // Another user's inbox is refused, by SUBACK 0x80 or by closing the connection, depending on
    // the version.
    for filter in [
        own("alice"),
        format!("/{}", own("alice")),
        format!("apps/{app}/users/+/messages/+/clientadded"),
        "#".to_owned(),
        format!("apps/{app}/outgoing/users/+/messages/+/outgoing"),
    ] {
        let mut mallory = enter("mallory", 1);
        match mallory.subscribe(&[&filter]) {
            Ok(codes) => assert_eq!(codes, [0x80], "{filter}"),
            Err(error) => assert_ne!(error.kind(), std::io::ErrorKind::TimedOut, "{filter}"),
        }
    }
    // Nor may they publish on another's outgoing path or into another's inbox.
    let forged = [
        Path::Chat21.outgoing(&app, "alice", "bob"),
        Path::Chat21V1.outgoing(&app, "alice", "bob"),
        Path::Inbox.outgoing(&app, "alice", "bob"),
        Path::Chat21.inbox(&app, "bob", "alice"),
        Path::Inbox.inbox(&app, "bob", "alice"),
    ];
    for topic in &forged {
        let mut mallory = enter("mallory", 2);
        mallory.publish(topic, br#"{"text":"forged"}"#).unwrap();
        assert!(
            mallory.is_closed(PATIENCE),
            "the broker took a publish to {topic}"
        );
    }
    assert_eq!(bob.message(GLIMPSE), None, "something forged has arrived");
    let (_, log) = observer.stop();
    assert!(log.contains("forwarded=4 refused=0"), "{log}");
}

#[test]
fn users_stay_in_their_own_prefix_on_rabbitmq3() {
    users_stay_in_their_own_prefix(Broker::Rabbit3);
}

#[test]
fn users_stay_in_their_own_prefix_on_rabbitmq4() {
    users_stay_in_their_own_prefix(Broker::Rabbit4);
}

fn an_expired_token_is_named_and_tried_slowly(broker: Broker) {
    let _shared = broker.shared();
    let url = broker.url(false);
    let args = [
        "--broker",
        &url,
        "--app",
        &fresh_app(),
        "--log-level",
        ATTEMPTS,
    ];
    let mut observer = Observer::prepare(&args);
    observer.spawn(&[("OBSERVER_TOKEN", &service_token(-120))]);
    observer.wait_log("the token expired 2m");
    observer.wait_log("retry_in=");
    let retries = observer.retries();
    assert!(retries.iter().all(|wait| *wait >= SLOW), "{retries:?}");
    let (status, log) = observer.stop();
    assert!(status.success(), "{log}");
}

#[test]
fn an_expired_token_is_named_and_tried_slowly_on_rabbitmq3() {
    an_expired_token_is_named_and_tried_slowly(Broker::Rabbit3);
}

#[test]
fn an_expired_token_is_named_and_tried_slowly_on_rabbitmq4() {
    an_expired_token_is_named_and_tried_slowly(Broker::Rabbit4);
}

/// RabbitMQ 4 closes the connection when the token expires. The observer reads the renewed token
/// file for the next connection.
#[test]
fn a_renewed_token_file_is_read_for_the_next_connection() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let app = fresh_app();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{}\n", service_token(30))).unwrap();
    let mut observer = Observer::prepare(&[
        "--broker",
        &broker.url(false),
        "--app",
        &app,
        "--token-file",
        file.to_str().unwrap(),
    ]);
    observer.spawn(&[]);
    observer.wait_ready();
    assert!(
        observer.log().contains("the token ends soon"),
        "{}",
        observer.log()
    );
    std::fs::write(&file, service_token(3600)).unwrap();
    observer.wait_log("connecting again as planned");
    let mut alice = Wire::connect(
        broker.port("MQTT"),
        &format!("{app}-alice"),
        &("JWT".to_owned(), user_token(&app, "alice", 3600)),
        true,
    )
    .unwrap();
    alice
        .subscribe(&[&format!("apps/{app}/users/alice/#")])
        .unwrap();
    alice
        .publish_confirmed(Path::Chat21.outgoing(&app, "alice", "alice"), b"{}")
        .unwrap();
    assert!(
        alice.message(PATIENCE).is_some(),
        "it does not come back:\n{}",
        observer.log()
    );
}

/// RabbitMQ 3.10 closes the connection on a forbidden SUBSCRIBE without a reason: the log explains
/// it, and retries are slow.
#[test]
fn a_user_who_may_not_read_the_outgoing_paths_is_named() {
    let broker = Broker::Rabbit3;
    let _shared = broker.shared();
    let app = fresh_app();
    let url = broker.url(false);
    let args = ["--broker", &url, "--app", &app, "--log-level", ATTEMPTS];
    let mut observer = Observer::prepare(&args);
    observer.spawn(&[("OBSERVER_TOKEN", &user_token(&app, "alice", 3600))]);
    observer.wait_log("may this user read the outgoing paths of all users?");
    let retries = wait_for("a long wait", || {
        let retries = observer.retries();
        retries.iter().any(|wait| *wait >= SLOW).then_some(retries)
    });
    assert!(retries.len() <= 3, "{retries:?}:\n{}", observer.log());
}

/// Writes a key file.
fn key_file(dir: &std::path::Path, text: &str) -> String {
    let path = dir.join("key");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn command(args: &[&str]) -> std::process::Output {
    let nowhere = ["--store", "none"];
    crate::bed::binary()
        .args(args)
        .args(nowhere)
        .output()
        .unwrap()
}

fn mint(key: &str, args: &[&str]) -> String {
    let output = command(&[&["token", "mint"], args, &["--jwt-key-file", key]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// RabbitMQ accepts what `token mint` makes: an observer works with the service token, and users
/// reach their own paths and no others.
fn minted_tokens_are_accepted(broker: Broker) {
    let _shared = broker.shared();
    let app = fresh_app();
    let dir = tempfile::TempDir::new().unwrap();
    let key = key_file(dir.path(), &crate::bed::var("BED_JWT_SECRET"));
    let service = dir.path().join("service");
    std::fs::write(&service, mint(&key, &["service"])).unwrap();
    let mut observer = Observer::prepare(&[
        "--broker",
        &broker.url(false),
        "--app",
        &app,
        "--token-file",
        service.to_str().unwrap(),
    ]);
    observer.spawn(&[]);
    observer.wait_ready();
    // With a store: `--store none` leaves the control topics out of the scopes.
    let minted = |more: &[&str]| {
        let state = dir.path().to_str().unwrap();
        let output = crate::bed::binary()
            .args([
                "token",
                "mint",
                "user",
                &app,
                "alice",
                "--jwt-key-file",
                &key,
            ])
            .args(["--state-dir", state])
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        (
            "JWT".to_owned(),
            String::from_utf8(output.stdout).unwrap().trim().to_owned(),
        )
    };
    let port = broker.port("MQTT");
    let own = [
        format!("apps/{app}/users/alice/#"),
        format!("/apps/{app}/users/alice/#"),
    ];
    let own = own.each_ref().map(String::as_str);
    let tries = |login: &(String, String), client_id: &str, clean: bool| {
        let mut alice = Wire::connect(port, client_id, login, clean).unwrap();
        assert_eq!(alice.subscribe(&own).unwrap(), [1, 1]);
        for path in [Path::Chat21, Path::Chat21V1, Path::Inbox] {
            alice
                .publish_confirmed(path.outgoing(&app, "alice", "alice"), r#"{"text":"hi"}"#)
                .unwrap();
            while !alice
                .message(PATIENCE)
                .unwrap()
                .topic()
                .ends_with("/clientadded")
            {}
        }
        let patch = format!("apps/{app}/users/alice/conversations/alice/update");
        alice.publish_confirmed(patch, "{}").unwrap();
        while !alice
            .message(PATIENCE)
            .unwrap()
            .topic()
            .ends_with("/clientupdated")
        {}
        alice.disconnect();
    };
    let narrow = minted(&[]);
    // Client identifiers are unique at the broker, not in the app.
    tries(&narrow, &format!("alice.{app}"), true);
    tries(&narrow, &format!("alice.{app}-kept"), false);
    let own_name = format!("{app}-phone");
    tries(&minted(&["--session", &own_name]), &own_name, true);
    tries(
        &minted(&["--any-session"]),
        &format!("{app}-f81d4fae"),
        true,
    );
    tries(
        &minted(&["--deployed-scopes"]),
        &format!("{app}-f81d4faf"),
        true,
    );
    // They may use neither a session nor paths of another user.
    let foreign = format!("alice2.{app}");
    let mut alice = Wire::connect(port, &foreign, &narrow, true).unwrap();
    assert!(
        !matches!(alice.subscribe(&own).as_deref(), Ok([1, 1])),
        "{foreign}"
    );
    for topic in [
        Path::Chat21.outgoing(&app, "bob", "alice"),
        format!("apps/{app}/users/bob/messages/alice/clientadded"),
        format!("apps/{app}/users/alice/messages/bob/clientadded"),
        format!("apps/observer/{app}/groups/update"),
    ] {
        let mut alice = Wire::connect(port, &format!("alice.{app}"), &narrow, true).unwrap();
        alice.publish(&topic, "{}").unwrap();
        assert!(alice.is_closed(PATIENCE), "{topic}");
    }
    let (_, log) = observer.stop();
    assert!(!log.contains("not connected"), "{log}");
}

#[test]
fn minted_tokens_are_accepted_by_rabbitmq3() {
    minted_tokens_are_accepted(Broker::Rabbit3);
}

#[test]
fn minted_tokens_are_accepted_by_rabbitmq4() {
    minted_tokens_are_accepted(Broker::Rabbit4);
}

/// RabbitMQ 4 closes the connection when a token expires. The observer makes a new token before
/// that: nothing is lost and nothing comes twice, and equal texts are as many messages.
#[test]
fn an_observer_with_a_key_renews_its_token_and_loses_nothing() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let app = fresh_app();
    let dir = tempfile::TempDir::new().unwrap();
    let key = key_file(dir.path(), &crate::bed::var("BED_JWT_SECRET"));
    let url = broker.url(false);
    let mut observer = Observer::prepare(&[
        "--broker",
        &url,
        "--app",
        &app,
        "--jwt-key-file",
        &key,
        "--jwt-ttl",
        "20s",
    ]);
    observer.spawn(&[]);
    observer.wait_ready();
    let login = ("JWT".to_owned(), user_token(&app, "alice", 3600));
    let mut alice =
        Wire::connect(broker.port("MQTT"), &format!("{app}-alice"), &login, true).unwrap();
    alice
        .subscribe(&[&format!("apps/{app}/users/alice/#")])
        .unwrap();
    // Two renewals of each of three connections: by then the first token has expired.
    let renewals = || {
        let log = observer.log();
        log.matches("connecting again as planned").count()
    };
    let mut sent = 0;
    while renewals() < 6 {
        let topic = Path::Chat21.outgoing(&app, "alice", "alice");
        alice.publish_confirmed(topic, r#"{"text":"ok"}"#).unwrap();
        sent += 1;
    }
    let mut arrived = vec![];
    while let Some(message) = alice.message(if arrived.len() < sent {
        PATIENCE
    } else {
        Duration::from_secs(1)
    }) {
        if message.topic().ends_with("/clientadded") {
            arrived.push(message.json()["message_id"].to_string());
        }
    }
    let ids: BTreeSet<&String> = arrived.iter().collect();
    assert_eq!((arrived.len(), ids.len()), (sent, sent));
    assert!(arrived.is_sorted(), "ids rise");
    let (_, log) = observer.stop();
    assert!(!log.contains("not connected"), "{log}");
}

/// PyJWT verifies our tokens for keys of every kind, in PEM and as JWK. `token inspect` recognises
/// the key.
#[test]
fn pyjwt_verifies_tokens_of_every_algorithm() {
    const MAKE: &str = r#"
import base64, json, sys
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import rsa, ec, ed25519
b = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
u = lambda n, size=None: b(n.to_bytes(size or (n.bit_length() + 7) // 8, "big"))
pem = lambda k: k.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()
public = lambda k, e, f: k.public_key().public_bytes(e, f)
pub = lambda k: public(k, s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo).decode()
out = []
secret = "a secret of more than sixty-four bytes, which is enough for any of the hashes"
jwk = {"kty": "oct", "k": b(secret.encode())}
algs = ["HS256", "HS384", "HS512"]
out.append({"algs": algs, "public": secret, "keys": [secret, json.dumps(jwk)]})
k = rsa.generate_private_key(65537, 2048); n = k.private_numbers()
jwk = {"kty": "RSA", "n": u(n.public_numbers.n), "e": u(n.public_numbers.e), "d": u(n.d)}
jwk |= {"p": u(n.p), "q": u(n.q), "dp": u(n.dmp1), "dq": u(n.dmq1), "qi": u(n.iqmp)}
old = s.PrivateFormat.TraditionalOpenSSL
old = k.private_bytes(s.Encoding.PEM, old, s.NoEncryption()).decode()
algs = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
out.append({"algs": algs, "public": pub(k), "keys": [pem(k), old, json.dumps(jwk)]})
for crv, curve, alg, size in [
    ("P-256", ec.SECP256R1(), "ES256", 32), ("P-384", ec.SECP384R1(), "ES384", 48)
]:
    k = ec.generate_private_key(curve); n = k.private_numbers(); p = n.public_numbers
    jwk = {"kty": "EC", "crv": crv, "x": u(p.x, size), "y": u(p.y, size)}
    jwk["d"] = u(n.private_value, size)
    out.append({"algs": [alg], "public": pub(k), "keys": [pem(k), json.dumps(jwk)]})
k = ed25519.Ed25519PrivateKey.generate()
raw = (s.Encoding.Raw, s.PrivateFormat.Raw, s.NoEncryption())
jwk = {"kty": "OKP", "crv": "Ed25519", "d": b(k.private_bytes(*raw))}
jwk["x"] = b(public(k, s.Encoding.Raw, s.PublicFormat.Raw))
out.append({"algs": ["EdDSA"], "public": pub(k), "keys": [pem(k), json.dumps(jwk)]})
json.dump(out, sys.stdout)
"#;
    const READ: &str = r#"
import json, sys, jwt
for item in json.load(sys.stdin):
    read = dict(key=item["public"], algorithms=[item["alg"]], audience="rabbitmq")
    required = {"require": ["exp", "iat", "sub", "jti", "aud"]}
    claims = jwt.decode(item["token"], options=required, **read)
    assert claims["sub"] == "alice" and claims["app_id"] == "tilechat", claims
    assert claims["exp"] - claims["iat"] == 30 * 86400, claims
    assert jwt.get_unverified_header(item["token"]).get("kid") is None
    try:
        jwt.decode(item["token"][:-8] + "AAAAAAAA", **read)
    except jwt.InvalidSignatureError:
        pass
    else:
        raise SystemExit("a forged token passes")
    print(item["alg"])
"#;
    let python = |script: &str, input: &str| {
        let (done, said) = crate::bed::in_the_bed(&["python3", "-c", script], input);
        assert!(done, "{said}");
        said
    };
    let kinds: serde_json::Value = serde_json::from_str(&python(MAKE, "")).unwrap();
    let dir = tempfile::TempDir::new().unwrap();
    let mut minted = vec![];
    for kind in kinds.as_array().unwrap() {
        for key in kind["keys"].as_array().unwrap() {
            let key = key_file(dir.path(), key.as_str().unwrap());
            for alg in kind["algs"].as_array().unwrap() {
                let alg = alg.as_str().unwrap();
                let token = mint(&key, &["user", "tilechat", "alice", "--jwt-algorithm", alg]);
                let file = dir.path().join("token");
                std::fs::write(&file, &token).unwrap();
                let args = [
                    "token",
                    "inspect",
                    file.to_str().unwrap(),
                    "--jwt-key-file",
                    &key,
                    "--jwt-algorithm",
                    alg,
                ];
                let said = String::from_utf8(command(&args).stdout).unwrap();
                assert!(
                    said.contains(" made with this key") && said.contains("good for another "),
                    "{said}"
                );
                minted.push(
                    serde_json::json!({"alg": alg, "token": token, "public": kind["public"]}),
                );
            }
        }
    }
    let verified = python(READ, &serde_json::Value::from(minted.clone()).to_string());
    assert_eq!(verified.lines().count(), minted.len());
    assert_eq!(minted.len(), 3 * 2 + 6 * 3 + 2 + 2 + 2);
}

#[test]
fn what_would_reach_too_far_is_not_minted_unless_forced() {
    let dir = tempfile::TempDir::new().unwrap();
    let good = key_file(
        dir.path(),
        "a secret of this test, and long enough for its hash",
    );
    for (args, said) in [
        (
            &["user", "tilechat", "john.doe"][..],
            "holds a \".\": RabbitMQ takes it for a level break",
        ),
        (&["user", "tilechat", "*"], "holds '*'"),
        (&["user", "tile*chat", "john"], "holds '*'"),
        (&["user", "observer", "john"], "reserved word"),
        (
            &["user", "tilechat", "john", "--session", "a*"],
            "--session",
        ),
        (&["user", "tilechat", "john", "--ttl", "soon"], "--ttl"),
        (
            &["user", "tilechat", "john", "--jwt-algorithm", "RS256"],
            "which is for HS256",
        ),
    ] {
        let output = command(&[&["token", "mint"], args, &["--jwt-key-file", &good]].concat());
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && error.contains(said),
            "{args:?}: {error}"
        );
        assert!(output.stdout.is_empty());
        if error.contains("--force") {
            let forced = [
                &["token", "mint"],
                args,
                &["--jwt-key-file", &good, "--force"],
            ]
            .concat();
            let output = command(&forced);
            assert!(
                output.status.success()
                    && String::from_utf8_lossy(&output.stderr).contains("warning"),
                "{output:?}"
            );
        }
    }
    let published = key_file(dir.path(), "tokenKey");
    let output = command(&["token", "mint", "service", "--jwt-key-file", &published]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("public sources") && !error.contains("tokenKey"),
        "{error}"
    );
    let args = [
        "token",
        "mint",
        "service",
        "--jwt-key-file",
        &published,
        "--force",
    ];
    assert!(command(&args).status.success());
    let output = command(&["token", "mint", "service"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("give --jwt-key-file"));
}
