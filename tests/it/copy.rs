//! `store copy`: an observer whose store moves into PostgreSQL, and back, while users write.

use tempfile::TempDir;

use crate::bed::{Broker, Observer, binary, fresh_app};
use crate::load::{Load, Path, Plan, users};
use crate::postgres::{Database, shared};

fn store_copy(from: &str, to: &str, password: &str) -> (bool, String) {
    let mut command = binary();
    command.args(["store", "copy", from, to, "--store-password-file", password]);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// What users write meanwhile waits in the session at the broker, which the observer finds again.
#[test]
fn a_store_moves_into_postgresql_and_back_and_nothing_is_lost() {
    let (_server, broker) = (shared(), Broker::Mosquitto);
    let _broker = broker.shared();
    let (app, database) = (fresh_app(), Database::make());
    let (address, password) = (database.address(), database.password_file());
    let load = Load::start(Plan {
        broker,
        app: app.clone(),
        senders: users(0..10),
        recipients: users(10..20),
        paths: vec![Path::Chat21],
        per_pair: 20,
        allowed: Some(0),
    });
    let mut in_a_file = Observer::start(broker, &app, &[]);
    let file = format!("{}/observer.db", in_a_file.state_dir());
    load.allow(500);
    load.wait_arrived(400);
    let (moved, text) = store_copy(&file, &address, &password);
    assert!(
        !moved && text.contains("is used by another observer that runs"),
        "{text}"
    );
    in_a_file.stop();
    let other_way = file.replace("/observer.db", "/./observer.db");
    let (copied, text) = store_copy(&file, &other_way, &password);
    assert!(!copied && text.contains("is named twice"), "{text}");
    load.wait_under_way(100);
    let (moved, text) = store_copy(&file, &address, &password);
    assert!(
        moved && text.contains("Both stores hold the same."),
        "{text}"
    );
    let (again, text) = store_copy(&file, &address, &password);
    assert!(
        !again && text.contains("it holds messages already"),
        "{text}"
    );

    let settings = ["--store", &address, "--store-password-file", &password];
    let mut in_a_database = Observer::start(broker, &app, &settings);
    assert!(
        in_a_database.ready.contains("session resumed"),
        "{}",
        in_a_database.ready
    );
    load.wait_arrived(600);
    in_a_database.stop();
    load.wait_under_way(100);
    let back = TempDir::new().unwrap();
    let file = back.path().join("observer.db");
    let (moved, text) = store_copy(&address, file.to_str().unwrap(), &password);
    assert!(moved, "{text}");
    let settings = ["--state-dir", back.path().to_str().unwrap()];
    let in_a_file = Observer::start(broker, &app, &settings);
    assert!(
        in_a_file.ready.contains("session resumed"),
        "{}",
        in_a_file.ready
    );
    let expected = load.expected();
    load.allow(expected);
    load.finish();
    let (told, text) = {
        let mut command = binary();
        command.args(["store", "stats"]).args(settings);
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let stored = format!("{:<14}{expected}\n", "messages");
    assert!(told && text.contains(&stored), "{text}");
}

/// The observer keeps it in its state directory, and the store may be anywhere.
#[test]
fn a_client_identifier_that_is_not_beside_the_store_is_asked_for() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (from, to) = (path("chat.db"), path("copy.db"));
    let mut make = binary();
    make.args(["store", "import", "--groups", "/dev/null", "--store", &from]);
    assert!(make.output().unwrap().status.success());
    let copy = |named: &[&str]| {
        let mut copy = binary();
        let output = copy
            .args(["store", "copy", &from, &to])
            .args(named)
            .output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.success(), said)
    };
    let (copied, said) = copy(&[]);
    let wanted = format!("error: cannot read {}, with which", path("chat.client-id"));
    assert!(
        !copied && said.starts_with(&wanted) && said.contains("--client-id-file"),
        "{said}"
    );
    std::fs::write(path("observer.client-id"), "secret").unwrap();
    let (copied, said) = copy(&["--client-id-file", &path("observer.client-id")]);
    assert!(copied, "{said}");
    assert_eq!(
        std::fs::read_to_string(path("copy.client-id")).unwrap(),
        "secret"
    );
}
