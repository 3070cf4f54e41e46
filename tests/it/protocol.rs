//! Sections 2, 3 and 4 of protocol.md, row by row, on every broker. Users log in as themselves,
//! services as the service user.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bed::{Broker, Observer, PATIENCE, fresh_app, service};
use crate::wire::{Message, Wire};

/// How long a test listens before it concludes that nothing comes.
const QUIET: Duration = Duration::from_millis(400);

/// An observer with a store, and the users of an app of its own.
pub(crate) struct Scene {
    pub(crate) broker: Broker,
    pub(crate) app: String,
    pub(crate) observer: Observer,
}

/// One user, who sees what arrives for them.
pub(crate) struct User {
    pub(crate) id: String,
    app: String,
    pub(crate) wire: Wire,
}

impl Scene {
    pub(crate) fn new(broker: Broker, more: &[&str]) -> Self {
        let app = fresh_app();
        let observer = Observer::start(broker, &app, more);
        Self {
            broker,
            app,
            observer,
        }
    }

    /// A user who sees what arrives in their inboxes, not what they write.
    pub(crate) fn user(&self, id: &str) -> User {
        self.connect(id, &self.broker.login(&self.app, id))
    }

    /// The service user, who may see and write everything; here they look into `id`'s inboxes.
    pub(crate) fn inbox_of(&self, id: &str) -> User {
        self.connect(id, &service())
    }

    fn connect(&self, id: &str, login: &(String, String)) -> User {
        let app = self.app.clone();
        let name = format!("{app}-{id}-{}", crate::bed::fresh_app());
        let mut wire = Wire::connect(self.broker.port("MQTT"), &name, login, true).unwrap();
        let own = format!("apps/{app}/users/{id}");
        let filters = [
            format!("{own}/messages/+/clientadded"),
            format!("{own}/messages/+/clientrejected"),
            format!("{own}/messages/+/+/clientupdated"),
            format!("{own}/messages/+/+/clientrejected"),
            format!("{own}/conversations/+/clientupdated"),
            format!("{own}/conversations/+/clientdeleted"),
            format!("{own}/conversations/+/clientrejected"),
            format!("{own}/archived_conversations/+/clientadded"),
            format!("{own}/archived_conversations/+/clientdeleted"),
            format!("{own}/conversations/+/clientadded"),
            format!("{own}/conversations/clientupdated"),
            format!("{own}/conversations/clientrejected"),
            format!("{own}/blocked/+/clientupdated"),
            format!("{own}/blocked/+/clientrejected"),
            format!("{own}/groups/+/clientupdated"),
            format!("{own}/inbox/clientupdated"),
            format!("{own}/inbox/clientrejected"),
        ];
        let codes = wire
            .subscribe(&filters.each_ref().map(String::as_str))
            .unwrap();
        assert!(codes.iter().all(|code| *code == 1), "{codes:?}");
        User {
            id: id.to_owned(),
            app,
            wire,
        }
    }

    /// A service publishes on a topic under `apps/observer/{app}`.
    pub(crate) fn service_says(&self, topic: &str, payload: &Value) {
        let name = format!("{}-service-{}", self.app, crate::bed::fresh_app());
        let mut wire = Wire::connect(self.broker.port("MQTT"), &name, &service(), true).unwrap();
        let topic = format!("apps/observer/{}/{topic}", self.app);
        wire.publish_confirmed(topic, payload.to_string()).unwrap();
        wire.disconnect();
    }

    /// Stores a group with these members, and waits until the first has been told.
    pub(crate) fn store_group(&self, id: &str, members: &[&str]) {
        let mut first = self.inbox_of(members[0]);
        let keys: serde_json::Map<_, _> = members
            .iter()
            .map(|id| ((*id).to_owned(), json!(1)))
            .collect();
        self.service_says(
            "groups/update",
            &json!({
                "group": {"uid": id, "name": "five", "members": keys},
                "notify_to": {members[0]: 1},
            }),
        );
        let (topic, _) = first.hears();
        assert_eq!(topic, format!("groups/{id}/clientupdated"));
    }

    /// What a command prints about this observer's store.
    pub(crate) fn command(&self, args: &[&str]) -> String {
        let output = self.try_command(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn try_command(&self, args: &[&str]) -> std::process::Output {
        crate::bed::binary()
            .args(args)
            .args(self.observer.store_flags())
            .output()
            .unwrap()
    }
}

impl User {
    /// Writes under `apps/{app}/users/{id}/`.
    pub(crate) fn says(&mut self, path: &str, payload: impl AsRef<[u8]>) {
        let topic = format!("apps/{}/users/{}/{path}", self.app, self.id);
        self.wire.publish_confirmed(topic, payload).unwrap();
    }

    /// Writes a message, as today's clients do.
    pub(crate) fn writes(&mut self, recipient: &str, message: &Value) {
        let topic = format!(
            "apps/{}/outgoing/users/{}/messages/{recipient}/outgoing",
            self.app, self.id
        );
        self.wire
            .publish_confirmed(topic, message.to_string())
            .unwrap();
    }

    /// The next thing they are told: where under `apps/{app}/users/{id}/`, and what.
    pub(crate) fn hears(&mut self) -> (String, Value) {
        let message = self.wire.message(PATIENCE);
        let message = message.unwrap_or_else(|| panic!("{} hears nothing", self.id));
        (self.place(&message), message.json())
    }

    /// The text of the next thing they are told.
    pub(crate) fn wire_text(&mut self) -> String {
        let message = self.wire.message(PATIENCE).expect("something is told");
        String::from_utf8_lossy(&message.payload).into_owned()
    }

    fn place(&self, message: &Message) -> String {
        let own = format!("apps/{}/users/{}/", self.app, self.id);
        message
            .topic()
            .strip_prefix(&own)
            .unwrap_or_else(|| panic!("{} is not theirs", message.topic()))
            .to_owned()
    }

    /// The next thing they are told is on `place`.
    pub(crate) fn hears_on(&mut self, place: &str) -> Value {
        let (topic, body) = self.hears();
        assert_eq!(topic, place, "{body}");
        body
    }

    /// Fetches a page: its messages, and what is told at its end.
    fn fetches(&mut self, wish: &Value) -> (Vec<Value>, Value) {
        self.says("inbox/fetch", wish.to_string());
        let mut messages = vec![];
        loop {
            let (place, body) = self.hears();
            if place == "inbox/clientupdated" {
                return (messages, body);
            }
            assert_eq!(body["__history"], json!(true), "{place}: {body}");
            messages.push(body);
        }
    }

    /// The next two messages, in either order: they come over two connections.
    pub(crate) fn hears_both(&mut self, one: &str, other: &str) -> [Value; 2] {
        let (first, second) = (self.hears(), self.hears());
        let mut both = [first, second];
        if both[0].0 != one {
            both.swap(0, 1);
        }
        assert_eq!((both[0].0.as_str(), both[1].0.as_str()), (one, other));
        both.map(|(_, body)| body)
    }

    pub(crate) fn hears_nothing(&mut self) {
        if let Some(message) = self.wire.message(QUIET) {
            panic!(
                "{} hears {}: {}",
                self.id,
                self.place(&message),
                message.json()
            );
        }
    }
}

fn id_of(message: &Value) -> String {
    message["message_id"].as_str().unwrap().to_owned()
}

/// Asserts that `value` has the members of `want`.
fn like(value: &Value, want: &Value) {
    for (name, want) in want.as_object().unwrap() {
        assert_eq!(&value[name], want, "{name} of {value}");
    }
}

// Section 3.

fn a_direct_message_is_sent_and_delivered(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    let written = json!({
        "text": "hi", "timelineOf": "x", "conversWith": "y", "status": 300, "sender": "eve",
        "mine": [1],
    });
    alice.writes("u01", &written);
    let sent = alice.hears_on("messages/u01/clientadded");
    let delivered = bob.hears_on("messages/u00/clientadded");
    let common = json!({
        "text": "hi", "sender": "u00", "recipient": "u01", "app_id": scene.app, "mine": [1],
        "message_id": sent["message_id"], "timestamp": sent["timestamp"],
    });
    for (copy, status) in [(&sent, 100), (&delivered, 150)] {
        like(copy, &common);
        like(copy, &json!({ "status": status }));
        assert_eq!(copy.as_object().unwrap().len(), 8, "nothing else: {copy}");
    }
    alice.writes("u00", &json!({"text": "to myself"}));
    like(
        &alice.hears_on("messages/u00/clientadded"),
        &json!({"status": 150, "text": "to myself"}),
    );
    alice.hears_nothing();
    bob.hears_nothing();
    alice.writes("u01", &json!({"text": "x", "channel_type": "group"}));
    like(
        &alice.hears_on("messages/u01/clientrejected"),
        &json!({"reason": "not-a-group", "recipient": "u01"}),
    );
    bob.hears_nothing();
}

fn a_group_message_reaches_the_members(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob, mut carol) = (scene.user("u00"), scene.user("u01"), scene.user("u02"));
    let mut group = scene.inbox_of("group-1");

    // An unknown group: the message goes to its sender and the group's own timeline.
    alice.writes("group-1", &json!({"text": "anybody?"}));
    like(
        &alice.hears_on("messages/group-1/clientadded"),
        &json!({"status": 150, "recipient": "group-1", "sender": "u00"}),
    );
    like(
        &group.hears_on("messages/group-1/clientadded"),
        &json!({"status": 100}),
    );

    // Inline members hold for this message alone; the sender is added.
    let inline = json!({"name": "ad hoc", "members": {"u01": 1}});
    alice.writes("group-1", &json!({"text": "you", "group": inline}));
    for user in [&mut alice, &mut bob] {
        like(
            &user.hears_on("messages/group-1/clientadded"),
            &json!({"status": 150, "text": "you"}),
        );
    }
    like(
        &group.hears_on("messages/group-1/clientadded"),
        &json!({"status": 100, "text": "you"}),
    );
    carol.hears_nothing();

    // A stored group, also one whose id does not begin with "group-".
    for id in ["group-1", "team"] {
        scene.store_group(id, &["u00", "u01", "u02"]);
        let place = format!("messages/{id}/clientadded");
        let mut own = scene.inbox_of(id);
        alice.hears_on(&format!("groups/{id}/clientupdated"));
        alice.writes(id, &json!({"text": "all", "channel_type": "group"}));
        let all: Vec<Value> = [&mut alice, &mut bob, &mut carol]
            .map(|user| user.hears_on(&place))
            .into();
        for copy in &all {
            like(
                copy,
                &json!({"status": 150, "text": "all", "message_id": all[0]["message_id"]}),
            );
        }
        like(
            &own.hears_on(&place),
            &json!({"status": 100, "text": "all", "message_id": all[0]["message_id"]}),
        );
        alice.writes(
            id,
            &json!({"text": "not for u01", "attributes": {"hiddenFor": "u01"}}),
        );
        like(&alice.hears_on(&place), &json!({"text": "not for u01"}));
        like(&carol.hears_on(&place), &json!({"text": "not for u01"}));
        like(&own.hears_on(&place), &json!({"text": "not for u01"}));
        bob.hears_nothing();
    }

    // Only members write to it.
    let mut dave = scene.user("u03");
    dave.writes(
        "team",
        &json!({"text": "let me in", "group": {"members": {"u03": 1}}}),
    );
    like(
        &dave.hears_on("messages/team/clientrejected"),
        &json!({"reason": "not-a-member"}),
    );
    bob.hears_nothing();
    let mut system = scene.inbox_of("system");
    system.writes("team", &json!({"text": "from the house"}));
    like(
        &bob.hears_on("messages/team/clientadded"),
        &json!({"sender": "system"}),
    );
}

fn what_is_said_is_stored_and_listed(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    alice.writes("u01", &json!({"text": "one", "attributes": {"k": "v"}}));
    bob.hears_on("messages/u00/clientadded");
    alice.hears_on("messages/u01/clientadded");
    alice.writes(
        "u01",
        &json!({"text": "two", "attributes": {"updateconversation": false}}),
    );
    bob.hears_on("messages/u00/clientadded");
    alice.hears_on("messages/u01/clientadded");
    let texts = |of: &str, with: &str| -> Vec<(String, i64)> {
        let lines = scene.command(&["store", "export", &scene.app, of, with]);
        let line = |line: &str| {
            let message: Value = serde_json::from_str(line).unwrap();
            (
                message["text"].as_str().unwrap().to_owned(),
                message["status"].as_i64().unwrap(),
            )
        };
        lines.lines().map(line).collect()
    };
    assert_eq!(
        texts("u00", "u01"),
        [("one".to_owned(), 100), ("two".to_owned(), 100)]
    );
    assert_eq!(
        texts("u01", "u00"),
        [("one".to_owned(), 150), ("two".to_owned(), 150)]
    );
    // The row shows the last message that may update the conversation.
    bob.says("conversations/u00/archive", "");
    let [row, _] = bob.hears_both(
        "conversations/u00/clientdeleted",
        "archived_conversations/u00/clientadded",
    );
    like(
        &row,
        &json!({
            "text": "one", "last_message_text": "one", "is_new": true, "archived": true,
            "conversWith": "u00", "key": "u00", "timelineOf": "u01", "sender": "u00",
            "recipient": "u01", "status": 150, "attributes": {"k": "v"}, "app_id": scene.app,
        }),
    );
    assert!(
        row["message_id"].is_string() && row["timestamp"].is_number(),
        "{row}"
    );
}

// Sections 2 and 4.

fn a_receipt_raises_the_status_and_is_told(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    alice.writes("u01", &json!({"text": "hi"}));
    let id = id_of(&alice.hears_on("messages/u01/clientadded"));
    bob.hears_on("messages/u00/clientadded");
    let statuses = || {
        let status = |of: &str, with: &str| {
            let line = scene.command(&["store", "export", &scene.app, of, with]);
            serde_json::from_str::<Value>(&line).unwrap()["status"]
                .as_i64()
                .unwrap()
        };
        (status("u00", "u01"), status("u01", "u00"))
    };
    let place = format!("messages/u01/{id}/clientupdated");
    for (said, told, stored) in [(200, 250, (250, 200)), (300, 300, (300, 300))] {
        bob.says(
            &format!("messages/u00/{id}/update"),
            json!({"status": said}).to_string(),
        );
        assert_eq!(
            alice.hears_on(&place),
            json!({"timelineOf": "u00", "message_id": id, "status": told})
        );
        assert_eq!(statuses(), stored);
    }
    // A status never falls.
    bob.says(&format!("messages/u00/{id}/update"), r#"{"status":200}"#);
    alice.hears_nothing();
    assert_eq!(statuses(), (300, 300));
    // Other statuses, others' messages, one's own.
    for (by_alice, path, payload) in [
        (
            false,
            format!("messages/u00/{id}/update"),
            r#"{"status":250}"#,
        ),
        (
            false,
            "messages/u00/nothing-like-it/update".to_owned(),
            r#"{"status":300}"#,
        ),
        (
            true,
            format!("messages/u01/{id}/update"),
            r#"{"status":300}"#,
        ),
    ] {
        let user = if by_alice { &mut alice } else { &mut bob };
        user.says(&path, payload);
        let refused = path.replace("/update", "/clientrejected");
        like(&user.hears_on(&refused), &json!({"reason": "bad-status"}));
    }
    // Nobody is notified of receipts in a group.
    scene.store_group("group-1", &["u02", "u00", "u01"]);
    alice.writes("group-1", &json!({"text": "all"}));
    let id = id_of(&alice.hears_on("messages/group-1/clientadded"));
    bob.hears_on("messages/group-1/clientadded");
    bob.says(
        &format!("messages/group-1/{id}/update"),
        r#"{"status":300}"#,
    );
    alice.hears_nothing();
    let status = |of: &str| {
        let line = scene.command(&["store", "export", &scene.app, of, "group-1"]);
        serde_json::from_str::<Value>(&line).unwrap()["status"]
            .as_i64()
            .unwrap()
    };
    assert_eq!(
        (status("u01"), status("group-1"), status("u00")),
        (300, 300, 150)
    );
}

fn a_conversation_is_patched(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    alice.writes("u01", &json!({"text": "hi"}));
    alice.hears_on("messages/u01/clientadded");
    bob.hears_on("messages/u00/clientadded");
    bob.says(
        "conversations/u00/update",
        r#"{"is_new":false,"note":"x","sender":"eve","timelineOf":"eve"}"#,
    );
    assert_eq!(
        bob.hears_on("conversations/u00/clientupdated"),
        json!({"is_new": false, "note": "x", "timelineOf": "u01", "conversWith": "u00"})
    );
    bob.says("conversations/u00/archive", "{}");
    let [row, _] = bob.hears_both(
        "conversations/u00/clientdeleted",
        "archived_conversations/u00/clientadded",
    );
    like(
        &row,
        &json!({
            "is_new": false, "note": "x", "sender": "u00", "timelineOf": "u01", "archived": true,
        }),
    );
    bob.says("conversations/u00/update", "[]");
    like(
        &bob.hears_on("conversations/u00/clientrejected"),
        &json!({"reason": "not-an-object"}),
    );
    alice.hears_nothing();
}

fn an_archived_conversation_comes_back_with_a_message(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    for text in ["one", "two"] {
        alice.writes("u01", &json!({ "text": text }));
        alice.hears_on("messages/u01/clientadded");
        if text == "one" {
            bob.hears_on("messages/u00/clientadded");
        } else {
            let [_, row] = bob.hears_both(
                "messages/u00/clientadded",
                "archived_conversations/u00/clientdeleted",
            );
            like(&row, &json!({"archived": false, "text": "two"}));
        }
        bob.says("conversations/u00/update", r#"{"is_new":false}"#);
        bob.hears_on("conversations/u00/clientupdated");
        if text == "one" {
            bob.says("conversations/u00/archive", "this is ignored");
            let rows = bob.hears_both(
                "conversations/u00/clientdeleted",
                "archived_conversations/u00/clientadded",
            );
            assert_eq!(rows[0], rows[1], "the whole row, on both");
            like(&rows[0], &json!({"archived": true, "text": "one"}));
        }
    }
    alice.writes("u01", &json!({"text": "three"}));
    bob.hears_on("messages/u00/clientadded");
    assert_eq!(
        scene.observer.row("u01", "u00"),
        (true, false),
        "new, and not archived"
    );
    // A conversation that the store does not know can be archived, too.
    bob.says("conversations/u09/archive", "");
    let [row, _] = bob.hears_both(
        "conversations/u09/clientdeleted",
        "archived_conversations/u09/clientadded",
    );
    like(&row, &json!({"archived": true, "key": "u09"}));
}

fn presence_is_kept_for_each_client(broker: Broker) {
    let mut scene = Scene::new(broker, &[]);
    let mut alice = scene.user("u00");
    alice.says("presence/phone", r#"{"connected":true}"#);
    alice.says("presence/tablet", r#"{"connected":true}"#);
    scene.wait_for_clients(2);
    // A client that crashes: the broker publishes its will and retains it.
    let will = (
        format!("apps/{}/users/u00/presence/laptop", scene.app),
        r#"{"disconnected":true}"#.to_owned(),
    );
    let mut laptop = Wire::connect_with_will(
        broker.port("MQTT"),
        &format!("{}-laptop", scene.app),
        &broker.login(&scene.app, "u00"),
        &will,
    );
    laptop
        .publish_confirmed(&will.0, r#"{"connected":true}"#)
        .unwrap();
    scene.wait_for_clients(3);
    drop(laptop);
    scene.wait_for_clients(2);
    alice.says("presence/phone", r#"{"disconnected":true}"#);
    scene.wait_for_clients(1);
    // Mosquitto delivers the retained will again with each connection: it changes nothing.
    scene.observer.kill_and_restart();
    scene.wait_for_clients(1);
    alice.says("presence/phone", r#"{"connected":"perhaps"}"#);
    let log = scene.stop();
    assert!(
        log.contains("refused=1") && log.contains("left_unacknowledged=0"),
        "{log}"
    );
}

fn a_blocked_sender_does_not_get_through_and_is_not_told(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob, mut carol) = (scene.user("u00"), scene.user("u01"), scene.user("u02"));
    scene.store_group("group-1", &["u09", "u00", "u01", "u02"]);
    alice.says("blocked/u01/update", r#"{"blocked":true}"#);
    like(
        &alice.hears_on("blocked/u01/clientupdated"),
        &json!({"blocked": true}),
    );
    bob.writes("u00", &json!({"text": "hey"}));
    like(
        &bob.hears_on("messages/u00/clientadded"),
        &json!({"status": 100, "text": "hey"}),
    );
    bob.writes("group-1", &json!({"text": "hey all"}));
    bob.hears_on("messages/group-1/clientadded");
    carol.hears_on("messages/group-1/clientadded");
    // The inbox layout has no copy for the sender.
    let topic = format!("/apps/{}/users/u01/u00/messages/outgoing", scene.app);
    bob.wire.publish_confirmed(topic, "x").unwrap();
    alice.hears_nothing();
    bob.hears_nothing();
    assert_eq!(scene.command(&["store", "export", &scene.app, "u00"]), "");
    alice.writes("u01", &json!({"text": "you I can tell"}));
    bob.hears_on("messages/u00/clientadded");
    alice.hears_on("messages/u01/clientadded");
    alice.says("blocked/u01/update", r#"{"blocked":false}"#);
    like(
        &alice.hears_on("blocked/u01/clientupdated"),
        &json!({"blocked": false}),
    );
    bob.writes("u00", &json!({"text": "again"}));
    like(
        &alice.hears_on("messages/u01/clientadded"),
        &json!({"status": 150, "text": "again"}),
    );
}

fn stored_messages_are_fetched_oldest_first(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    let mut sent = vec![];
    for n in 0..150 {
        let to = if n % 3 == 0 { "u02" } else { "u01" };
        alice.writes(to, &json!({ "n": n }));
        let copy = alice.hears_on(&format!("messages/{to}/clientadded"));
        sent.push((n, to, copy));
        if to == "u01" {
            bob.hears_on("messages/u00/clientadded");
        }
    }
    alice.says("inbox/fetch", r#"{"limit":1000}"#);
    for (_, to, copy) in &sent {
        let mut again = alice.hears_on(&format!("messages/{to}/clientadded"));
        assert_eq!(again["__history"].take(), json!(true));
        again.as_object_mut().unwrap().remove("__history");
        assert_eq!(&again, copy);
    }
    let done = alice.hears_on("inbox/clientupdated");
    like(&done, &json!({"fetched": 150, "more": false}));
    let until = done["next"].as_u64().unwrap();

    // One conversation in pages: each page begins where the previous one ends.
    let (mut since, mut got) = (0, vec![]);
    loop {
        alice.says(
            "inbox/fetch",
            json!({"since": since, "convers_with": "u02", "limit": 7}).to_string(),
        );
        let end = loop {
            let (place, body) = alice.hears();
            if place == "inbox/clientupdated" {
                break body;
            }
            assert_eq!(place, "messages/u02/clientadded");
            got.push(body["n"].as_i64().unwrap());
        };
        since = end["next"].as_u64().unwrap();
        if end["more"] == json!(false) {
            break;
        }
        assert!(end["fetched"].as_u64().unwrap() >= 7, "{end}");
    }
    assert_eq!(got, (0..150).step_by(3).collect::<Vec<_>>());

    // Only what is newer, and what came in the very millisecond of the fetch.
    alice.writes("u01", &json!({"n": 150}));
    alice.hears_on("messages/u01/clientadded");
    let (newer, end) = alice.fetches(&json!({ "since": until }));
    let numbers: Vec<_> = newer.iter().map(|message| &message["n"]).collect();
    assert!(numbers.ends_with(&[&json!(150)]), "{numbers:?}");
    assert!(numbers.len() <= 5, "{numbers:?}");
    like(&end, &json!({"fetched": numbers.len(), "more": false}));
    alice.says("inbox/fetch", "soon");
    like(
        &alice.hears_on("inbox/clientrejected"),
        &json!({"reason": "not-json"}),
    );
}

/// Messages and fetches come to the observer in one go, so that many are stored in a millisecond.
fn whoever_fetches_on_gets_what_was_stored_behind_a_fetch(broker: Broker) {
    const MESSAGES: i64 = 60;
    let scene = Scene::new(broker, &[]);
    let mut alice = scene.user("u00");
    let topic = |rest: &str| format!("apps/{}/{rest}", scene.app);
    let outgoing = topic("outgoing/users/u00/messages/u01/outgoing");
    for n in 0..MESSAGES {
        alice
            .wire
            .publish(&outgoing, json!({ "n": n }).to_string())
            .unwrap();
        if n == MESSAGES / 3 {
            let fetch = topic("users/u00/inbox/fetch");
            alice.wire.publish(&fetch, r#"{"limit":1000}"#).unwrap();
        }
    }
    let (mut sent, mut fetched, mut since) = (HashMap::new(), HashMap::new(), None);
    while sent.len() < usize::try_from(MESSAGES).unwrap() || since.is_none() {
        let (place, body) = alice.hears();
        if place == "inbox/clientupdated" {
            assert_eq!(body["more"], json!(false));
            since = body["next"].as_u64();
            continue;
        }
        let of = match body["__history"] == true {
            true => &mut fetched,
            false => &mut sent,
        };
        of.insert(body["n"].as_i64().unwrap(), id_of(&body));
    }
    loop {
        let wish = json!({"since": since, "limit": 7});
        let (page, end) = alice.fetches(&wish);
        fetched.extend(
            page.iter()
                .map(|body| (body["n"].as_i64().unwrap(), id_of(body))),
        );
        if end["more"] == json!(false) {
            break;
        }
        assert!(end["next"].as_u64() > since, "{end}");
        since = end["next"].as_u64();
    }
    assert_eq!(fetched, sent);
}

fn a_service_puts_a_message_into_one_inbox(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    let message = json!({
        "message_id": "note-1", "sender": "system", "recipient": "group-1",
        "text": "u09 has joined", "status": 150, "own": true,
    });
    scene.service_says("users/u00/messages/group-1/delivered", &message);
    assert_eq!(alice.hears_on("messages/group-1/clientadded"), message);
    bob.hears_nothing();
    let exported = scene.command(&["store", "export", &scene.app, "u00", "group-1"]);
    assert_eq!(serde_json::from_str::<Value>(&exported).unwrap(), message);
    // The same message again is stored once.
    scene.service_says("users/u00/messages/group-1/delivered", &message);
    alice.hears_on("messages/group-1/clientadded");
    assert_eq!(
        scene.command(&["store", "export", &scene.app, "u00", "group-1"]),
        exported
    );
    // Receipts for it work as usual.
    alice.says("messages/group-1/note-1/update", r#"{"status":300}"#);
    alice.says("conversations/group-1/archive", "");
    let [row, _] = alice.hears_both(
        "conversations/group-1/clientdeleted",
        "archived_conversations/group-1/clientadded",
    );
    like(
        &row,
        &json!({"status": 300, "last_message_text": "u09 has joined"}),
    );
    // Only the status "delivered" is accepted.
    scene.service_says(
        "users/u00/messages/group-1/delivered",
        &json!({"message_id": "note-2", "status": 100}),
    );
    alice.hears_nothing();
    // Users cannot inject: permissions or the layouts prevent it.
    bob.says("messages/u00/delivered", message.to_string());
    alice.hears_nothing();
}

fn a_group_update_is_stored_and_told(broker: Broker) {
    let scene = Scene::new(broker, &[]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    let group =
        json!({"uid": "group-1", "name": "ours", "owner": "u00", "members": {"u00": 1, "u01": 1}});
    scene.service_says(
        "groups/update",
        &json!({"group": group, "notify_to": {"u00": 1, "u01": 1}}),
    );
    for user in [&mut alice, &mut bob] {
        assert_eq!(user.hears_on("groups/group-1/clientupdated"), group);
    }
    assert_eq!(
        serde_json::from_str::<Value>(&scene.command(&["group", "show", &scene.app, "group-1"]))
            .unwrap(),
        group
    );
    // The new members count at once.
    alice.writes("group-1", &json!({"text": "both"}));
    alice.hears_on("messages/group-1/clientadded");
    bob.hears_on("messages/group-1/clientadded");
    let smaller = json!({"uid": "group-1", "members": {"u01": 1}});
    scene.service_says(
        "groups/update",
        &json!({"group": smaller, "notify_to": {"u01": 1}}),
    );
    bob.hears_on("groups/group-1/clientupdated");
    alice.writes("group-1", &json!({"text": "still there?"}));
    like(
        &alice.hears_on("messages/group-1/clientrejected"),
        &json!({"reason": "not-a-member"}),
    );
    // So does a change that an operator makes with a command.
    let file = scene.observer.state_dir() + "/group.json";
    std::fs::write(&file, r#"{"members":{"u00":1,"u01":1}}"#).unwrap();
    scene.command(&["group", "set", &scene.app, "group-1", &file]);
    alice.writes("group-1", &json!({"text": "back"}));
    alice.hears_on("messages/group-1/clientadded");
    like(
        &bob.hears_on("messages/group-1/clientadded"),
        &json!({"text": "back"}),
    );
}

fn who_was_away_gets_it_again_if_so_wished(broker: Broker) {
    let scene = Scene::new(broker, &["--offline", "redeliver"]);
    let (mut alice, mut bob) = (scene.user("u00"), scene.user("u01"));
    bob.says("presence/phone", r#"{"connected":true}"#);
    bob.says("presence/tablet", r#"{"connected":true}"#);
    scene.wait_for_clients(2);
    alice.writes("u01", &json!({"text": "you are here"}));
    bob.hears_on("messages/u00/clientadded");
    bob.says("presence/phone", r#"{"disconnected":true}"#);
    bob.says("presence/tablet", r#"{"disconnected":true}"#);
    scene.wait_for_clients(0);
    let mut missed = vec![];
    for n in 0..70 {
        alice.writes("u01", &json!({ "n": n }));
        missed.push(bob.hears_on("messages/u00/clientadded"));
    }
    bob.says("presence/phone", r#"{"connected":true}"#);
    for copy in &missed {
        assert_eq!(
            &bob.hears_on("messages/u00/clientadded"),
            copy,
            "again, as it was"
        );
    }
    bob.hears_nothing();
    // It is redelivered once: not for a second client, and not for the same one again.
    bob.says("presence/tablet", r#"{"connected":true}"#);
    bob.says("presence/phone", r#"{"connected":true}"#);
    bob.hears_nothing();
}

impl Scene {
    pub(crate) fn wait_for_clients(&self, wanted: i64) {
        let start = std::time::Instant::now();
        loop {
            let stats: Value =
                serde_json::from_str(&self.command(&["store", "stats", "--json"])).unwrap();
            if stats["clients"] == json!(wanted) {
                return;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{stats} instead of {wanted} clients"
            );
            // Presence has no answer to wait for.
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn stop(&mut self) -> String {
        let (status, log) = self.observer.stop();
        assert!(status.success());
        log
    }
}

/// One test for each row on that broker.
macro_rules! rows_on {
    ($module:ident $broker:ident $($row:ident)*) => {
        mod $module {
            use crate::bed::Broker::$broker;

            $(#[test]
            fn $row() {
                let _shared = $broker.shared();
                super::$row($broker);
            })*
        }
    };
}

macro_rules! rows {
    ($($row:ident)*) => {
        rows_on! { rabbitmq3 Rabbit3 $($row)* }
        rows_on! { rabbitmq4 Rabbit4 $($row)* }
        rows_on! { mosquitto Mosquitto $($row)* }
    };
}

rows! {
    a_direct_message_is_sent_and_delivered
    a_group_message_reaches_the_members
    what_is_said_is_stored_and_listed
    a_receipt_raises_the_status_and_is_told
    a_conversation_is_patched
    an_archived_conversation_comes_back_with_a_message
    presence_is_kept_for_each_client
    a_blocked_sender_does_not_get_through_and_is_not_told
    stored_messages_are_fetched_oldest_first
    whoever_fetches_on_gets_what_was_stored_behind_a_fetch
    a_service_puts_a_message_into_one_inbox
    a_group_update_is_stored_and_told
    who_was_away_gets_it_again_if_so_wished
}
