//! RabbitMQ with JSON Web Tokens: what the broker enforces for users, and the observer's own token.

use std::time::{Duration, Instant};

use crate::bed::{Broker, Observer, fresh_app, service_token, user_token};
use crate::load::Path;
use crate::wire::Wire;

const GLIMPSE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(20);

/// The main job: a user publishes with a real token on his outgoing path, the recipient gets it in his inbox; neither can do more.
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

    // Not another's inbox: refused with SUBACK 0x80, or by closing the connection, as the version does it.
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
    // Not on another's outgoing path, nor into another's inbox.
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
    let mut observer = Observer::prepare(&["--broker", &broker.url(false), "--app", &fresh_app()]);
    observer.spawn(&[("OBSERVER_TOKEN", &service_token(-120))]);
    observer.wait_log("the token expired 2m");
    // What is counted is attempts within a time: it has to pass.
    std::thread::sleep(Duration::from_secs(4));
    let log = observer.log();
    let attempts = log.matches("not connected").count();
    assert!(attempts <= 2, "{attempts} attempts within seconds:\n{log}");
    assert!(log.contains("retry_in"), "{log}");
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

/// RabbitMQ 4 closes the connection when the token's time is over; a renewed token file is read for the next one.
#[test]
fn a_renewed_token_file_is_read_for_the_next_connection() {
    let broker = Broker::Rabbit4;
    let _shared = broker.shared();
    let app = fresh_app();
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, format!("{}\n", service_token(20))).unwrap();
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
    observer.wait_log("not connected");
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
    let start = Instant::now();
    assert!(
        alice.message(Duration::from_secs(60)).is_some(),
        "it does not come back after {:?}:\n{}",
        start.elapsed(),
        observer.log()
    );
}

/// RabbitMQ 3.10 closes on a SUBSCRIBE that is not permitted and says nothing: the log does, and it is tried slowly.
#[test]
fn a_user_who_may_not_read_the_outgoing_paths_is_named() {
    let broker = Broker::Rabbit3;
    let _shared = broker.shared();
    let app = fresh_app();
    let mut observer = Observer::prepare(&["--broker", &broker.url(false), "--app", &app]);
    observer.spawn(&[("OBSERVER_TOKEN", &user_token(&app, "alice", 3600))]);
    observer.wait_log("may this user read the outgoing paths of all users?");
    // What is counted is attempts within a time: it has to pass.
    std::thread::sleep(Duration::from_secs(3));
    let attempts = observer.log().matches("not connected").count();
    assert!(attempts <= 3, "{attempts} attempts:\n{}", observer.log());
}
