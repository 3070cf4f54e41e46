//! The command `group` beside a running observer: what it changes, and who is told.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::api::{hears, pair};
use crate::bed::{Broker, binary};
use crate::http::{Answer, Server};
use crate::mistakes::closed_port;
use crate::pipes::unread;
use crate::protocol::{Scene, User};

const ADDED: &str = "MEMBER_JOINED_GROUP";
const MESSAGES: &str = "messages/group-1/clientadded";
const UPDATED: &str = "groups/group-1/clientupdated";

/// `group` with the observer's login and its store.
fn command(scene: &Scene, broker: Broker, name: &str, more: &[&str]) -> Command {
    let mut command = binary();
    command
        .args(["group", name, &scene.app, "group-1"])
        .args(more)
        .args(["--state-dir", &scene.observer.state_dir()])
        .args(["--broker", &broker.url(false), "--username", "observer"])
        .env("OBSERVER_PASSWORD", "observerpw");
    command
}

/// What it prints, if it succeeds.
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it says if it fails.
fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stored(scene: &Scene) -> Value {
    serde_json::from_str(&scene.command(&["group", "show", &scene.app, "group-1"])).unwrap()
}

/// A file that holds a group.
fn file(scene: &Scene, group: &Value) -> String {
    let path = scene.observer.state.path().join("group.json");
    std::fs::write(&path, group.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn nobody_hears_more<'a>(users: impl IntoIterator<Item = &'a mut User>) {
    for user in users {
        user.hears_nothing();
    }
}

#[test]
fn members_come_and_go_as_over_http() {
    for broker in [Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        let scene = Scene::new(broker, &[]);
        let run = |name: &str, user: &str| {
            let more = [user];
            command(&scene, broker, name, &more).output().unwrap()
        };
        scene.store_group("group-1", &["u01", "u02"]);
        let [mut alice, mut bob, mut carol] = ["u01", "u02", "u03"].map(|id| scene.user(id));
        bob.writes("group-1", &json!({"text": "before"}));
        for user in [&mut alice, &mut bob] {
            assert_eq!(hears(user, 1), [pair(MESSAGES, "before")]);
        }

        let said = done(&run("add-member", "u03"));
        let want = format!(
            "{} group-1 3 members: u03 is added, and the members are told\n",
            scene.app
        );
        assert_eq!(said, want);
        let told = [pair(UPDATED, ADDED), pair(MESSAGES, "u03 added to group")];
        for user in [&mut alice, &mut bob] {
            assert_eq!(hears(user, 2), told);
        }
        let [notice, added] = told;
        assert_eq!(
            hears(&mut carol, 3),
            [notice, pair(MESSAGES, "before"), added]
        );
        nobody_hears_more([&mut alice, &mut bob, &mut carol]);
        let said = failed(&run("add-member", "u03"));
        assert!(
            said.contains("\"u03\" is a member already of group \"group-1\""),
            "{said}"
        );

        let said = done(&run("remove-member", "u02"));
        assert!(
            said.contains("2 members: u02 is removed; they and"),
            "{said}"
        );
        let left = pair(UPDATED, "MEMBER_LEFT_GROUP");
        for user in [&mut alice, &mut carol] {
            let told = [left.clone(), pair(MESSAGES, "u02 removed from group")];
            assert_eq!(hears(user, 2), told);
        }
        assert_eq!(hears(&mut bob, 1), [left]);
        nobody_hears_more([&mut alice, &mut bob, &mut carol]);
        let said = failed(&run("remove-member", "u02"));
        assert!(
            said.contains("\"u02\" is not a member of group \"group-1\""),
            "{said}"
        );
        assert_eq!(stored(&scene)["members"], json!({"u01": 1, "u03": 1}));
    }
}

/// Those who are in it, and those who were, are told once.
#[test]
fn a_group_that_is_set_is_told_to_its_members() {
    for broker in [Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        let scene = Scene::new(broker, &[]);
        let set = |group: &Value| {
            let file = file(&scene, group);
            done(
                &command(&scene, broker, "set", &[&file, "--tell"])
                    .output()
                    .unwrap(),
            )
        };
        let [mut alice, mut bob, mut carol] = ["u01", "u02", "u03"].map(|id| scene.inbox_of(id));
        let said = set(&json!({"name": "old", "owner": "u01", "members": {"u01": 1, "u02": 1}}));
        assert!(
            said.contains("2 members: stored by the observer, which tells 2 users"),
            "{said}"
        );
        let texts = [
            "Group created",
            "u01 joined group on creation",
            "u02 joined group on creation",
        ];
        let mut told = vec![pair(UPDATED, "")];
        told.extend(texts.map(|text| pair(MESSAGES, text)));
        for user in [&mut alice, &mut bob] {
            assert_eq!(hears(user, 4), told);
        }

        let new = json!({"name": "new", "owner": "u01", "members": {"u01": 1, "u03": 1}});
        let said = set(&new);
        assert!(
            said.contains("2 members: stored by the observer, which tells 3 users"),
            "{said}"
        );
        let update = alice.hears_on(UPDATED);
        assert_eq!(
            (&update["name"], &update["uid"]),
            (&json!("new"), &json!("group-1"))
        );
        assert_eq!(hears(&mut alice, 1), [pair(MESSAGES, "u03 added to group")]);
        assert_eq!(bob.hears_on(UPDATED)["name"], "new");
        let mut all = told;
        all.push(pair(MESSAGES, "u03 added to group"));
        assert_eq!(hears(&mut carol, 5), all);
        nobody_hears_more([&mut alice, &mut bob, &mut carol]);

        // The same once more.
        let said = set(&new);
        assert!(said.contains("is this already: nobody is told"), "{said}");
        nobody_hears_more([&mut alice, &mut bob, &mut carol]);
        let group = stored(&scene);
        assert_eq!(
            (&group["members"], &group["appId"], &group["owner"]),
            (&new["members"], &json!(scene.app), &json!("u01"))
        );
    }
}

#[test]
fn two_who_are_added_at_once_both_come_in_under_their_names() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = Scene::new(broker, &[]);
    let contact = r#"{"firstname":"Carol","lastname":"C"}"#;
    let names = Server::start(move |_, _| Answer::Says(200, contact.to_owned()));
    scene.store_group("group-1", &["u01"]);
    let mut alice = scene.user("u01");
    let running = ["u02", "u03"].map(|id| {
        let mut command = command(
            &scene,
            broker,
            "add-member",
            &[id, "--contacts-url", &names.url],
        );
        command
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    });
    for child in running {
        done(&child.wait_with_output().unwrap());
    }
    let (notice, added) = (pair(UPDATED, ADDED), pair(MESSAGES, "Carol added to group"));
    let told = [notice.clone(), notice, added.clone(), added];
    assert_eq!(hears(&mut alice, 4), told);
    let all = json!({"u01": 1, "u02": 1, "u03": 1});
    assert_eq!(stored(&scene)["members"], all);
    nobody_hears_more([&mut alice]);
    // What is printed need not be read.
    for name in ["remove-member", "add-member"] {
        let ended = unread(&mut command(&scene, broker, name, &["u02"]));
        assert_eq!(ended, (0, String::new()));
    }
}

#[test]
fn explain_knows_what_the_command_asks_for() {
    let topic = "apps/observer/tilechat/groups/update";
    let state = tempfile::TempDir::new().unwrap();
    let explained = |payload: &Value| {
        let output = binary()
            .args(["explain", topic, "--payload", &payload.to_string()])
            .args(["--state-dir", state.path().to_str().unwrap()])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let group = json!({"name": "Team", "members": {"u01": 1}});
    let said = explained(&json!({"change": {"replace": group}, "group": "group-1"}));
    for wanted in [
        "verdict    forwarded",
        "users/u01/groups/group-1/clientupdated",
        "history",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
    let said = explained(&json!({"change": {"add": "u02"}, "group": "group-1"}));
    assert!(said.contains("verdict    nothing to do"), "{said}");
}

/// The broker keeps the change for an observer that has run before.
#[test]
fn a_change_without_an_observer_is_made_when_it_runs_again() {
    for broker in [Broker::Rabbit4, Broker::Mosquitto] {
        let _shared = broker.shared();
        let mut scene = Scene::new(broker, &[]);
        scene.store_group("group-1", &["u01"]);
        let mut alice = scene.user("u01");
        scene.observer.stop();
        let output = command(&scene, broker, "add-member", &["u02"])
            .output()
            .unwrap();
        let said = failed(&output);
        for wanted in ["no observer has made it", "keeps the change", "group show"] {
            assert!(said.contains(wanted), "{said}");
        }
        assert_eq!(stored(&scene)["members"], json!({"u01": 1}));
        nobody_hears_more([&mut alice]);
        scene.observer.restart();
        let told = [pair(UPDATED, ADDED), pair(MESSAGES, "u02 added to group")];
        assert_eq!(hears(&mut alice, 2), told);
        nobody_hears_more([&mut alice]);
        assert_eq!(stored(&scene)["members"], json!({"u01": 1, "u02": 1}));
    }
}

#[test]
fn nothing_is_changed_while_the_broker_is_away() {
    let broker = Broker::Mosquitto;
    let _shared = broker.shared();
    let scene = Scene::new(broker, &[]);
    scene.store_group("group-1", &["u01"]);
    let before = stored(&scene);
    let away = format!("mqtt://localhost:{}", closed_port());
    let group = file(&scene, &json!({"members": {}}));
    for args in [
        &["add-member", "G", "u02"][..],
        &["remove-member", "G", "u01"],
        &["set", "G", &group, "--tell"],
    ] {
        let output = binary()
            .args(["group", args[0], &scene.app, "group-1"])
            .args(&args[2..])
            .args([
                "--state-dir",
                &scene.observer.state_dir(),
                "--broker",
                &away,
            ])
            .output()
            .unwrap();
        let said = failed(&output);
        assert!(said.contains("connection refused"), "{said}");
        assert_eq!(stored(&scene), before);
    }
}
